//! LabelMe 5 and 6: one JSON file for each picture.

use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ascii::{self, score};
use super::yolo::at_least_three;
use super::{LabelMeShapes, Layout, Object, Picture, files};
use crate::error::{Error, Result};
use crate::mask::polygon::{CENTER_OFFSET, Convention, Polygons};
use crate::output::masks::mask_png;

pub(super) fn write_picture(layout: &Layout, picture: &Picture, source: &Path) -> Result<()> {
    let relative = format!("labelme/{}.json", layout.stem(&picture.name));
    let image_path = path_from(&layout.root.join(&relative), source)?;
    files::write(layout, &relative, document(layout, picture, &image_path)?)
}

/// The file of a picture, which lies at `image_path` as seen from the file.
pub(crate) fn document(layout: &Layout, picture: &Picture, image_path: &str) -> Result<Vec<u8>> {
    let mut shapes = Vec::new();
    for (group, object) in picture.objects.iter().enumerate() {
        shapes.extend(object_shapes(layout, object, group)?);
    }
    let document = json!({
        "version": "5.11.4",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": null,
        "imageHeight": picture.height,
        "imageWidth": picture.width,
    });
    Ok(ascii::json(&document))
}

/// One polygon for each part, held together by their group; or one mask.
fn object_shapes(layout: &Layout, object: &Object, group: usize) -> Result<Vec<Value>> {
    let mask = object.mask.decode()?;
    let label = layout.class(object.class);
    let description = format!("score {}", score(object.score));
    let shape = |points: Value, kind: &str, group: Option<usize>, mask: Option<String>| {
        json!({
            "label": label,
            "points": points,
            "group_id": group,
            "description": description,
            "shape_type": kind,
            "flags": {},
            "mask": mask,
        })
    };
    let outline = Polygons::outline(&mask, Convention::PixelCenters, &layout.simplify);
    let has_holes = outline.parts.iter().any(|part| !part.holes.is_empty());
    if layout.labelme == LabelMeShapes::Mask || has_holes {
        let Some(extent) = mask.extent() else {
            return Ok(Vec::new());
        };
        let (columns, rows) = (&extent.columns, &extent.rows);
        let corners = json!([[columns.start, rows.start], [columns.end - 1, rows.end - 1]]);
        let png = STANDARD.encode(mask_png(&mask.cropped(&extent))?);
        return Ok(vec![shape(corners, "mask", None, Some(png))]);
    }
    let group = (outline.parts.len() > 1).then_some(group);
    let parts = outline.cut().into_iter().map(|path| {
        let points = at_least_three(path);
        let points = points
            .into_iter()
            .map(|point| point.map(|v| v + CENTER_OFFSET));
        shape(json!(points.collect::<Vec<_>>()), "polygon", group, None)
    });
    Ok(parts.collect())
}

/// The way from a file to a picture, with forward slashes; absolute when they have no folder in common.
fn path_from(file: &Path, picture: &Path) -> Result<String> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|cause| Error::io(path, cause));
    let (file, picture) = (absolute(file)?, absolute(picture)?);
    let folder: Vec<Component> = file.components().collect();
    let target: Vec<Component> = picture.components().collect();
    let common = folder
        .iter()
        .zip(&target)
        .take_while(|(a, b)| a == b)
        .count();
    let way: PathBuf = if common == 0 {
        picture
    } else {
        // The last component of `folder` is the file itself.
        let up = std::iter::repeat_n(Component::ParentDir, folder.len() - 1 - common);
        up.chain(target[common..].iter().copied()).collect()
    };
    Ok(way.to_string_lossy().replace('\\', "/"))
}
