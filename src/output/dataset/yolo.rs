//! Segmentation labels for Ultralytics YOLO.
//!
//! One row for each object, its holes cut open and its parts joined by lines, which readers draw; a part
//! that is worth less than its line is left out.

use std::fmt::Write;
use std::path::Path;

use super::{Layout, Picture, Pictures, files};
use crate::error::Result;
use crate::image::Image;
use crate::mask::polygon::{CENTER_OFFSET, Polygons};

/// What Ultralytics opens; other pictures are written as PNG.
const EXTENSIONS: [&str; 12] = [
    "avif", "bmp", "dng", "heic", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp",
];

pub(super) fn write_picture(
    layout: &Layout,
    picture: &Picture,
    source: &Path,
    image: &Image,
) -> Result<()> {
    let (stem, split) = (layout.stem(&picture.name), layout.split(&picture.name));
    match picture.extension() {
        Some(e) if EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()) => {
            files::link(layout, &format!("yolo/images/{split}/{stem}.{e}"), source)?;
        }
        _ => {
            let png = crate::output::encode_png(image)?;
            files::write(layout, &format!("yolo/images/{split}/{stem}.png"), png)?;
        }
    }
    let labels = format!("yolo/labels/{split}/{stem}.txt");
    files::write(layout, &labels, rows(layout, picture)?)
}

/// The class of each object and its polygon, in fractions of the picture.
pub(crate) fn rows(layout: &Layout, picture: &Picture) -> Result<String> {
    let mut rows = String::new();
    let (width, height) = (picture.width as f64, picture.height as f64);
    for object in &picture.objects {
        let mask = object.mask.decode()?;
        let outline = Polygons::joined_outline(&mask, &layout.simplify);
        // Writing to memory does not fail.
        let _ = write!(rows, "{}", object.class);
        for [x, y] in at_least_three(outline) {
            let (x, y) = ((x + CENTER_OFFSET) / width, (y + CENTER_OFFSET) / height);
            // As many digits as tell the offset from half a pixel in large pictures.
            let _ = write!(rows, " {x:.8} {y:.8}");
        }
        rows.push('\n');
    }
    Ok(rows)
}

/// Readers want three points; repeated ones give back single pixels and pairs.
pub(super) fn at_least_three(mut path: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    while let (1 | 2, Some(&last)) = (path.len(), path.last()) {
        path.push(last);
    }
    path
}

pub(super) fn write_document(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    let mut has_validation = false;
    pictures.for_each(&mut |picture| {
        has_validation |= layout.split(&picture.name) == "val";
        Ok(())
    })?;
    files::write(layout, "yolo/data.yaml", list(layout, has_validation))
}

/// `data.yaml`. Ultralytics insists on both lists, so that pictures for training are also for
/// validation where there are no others.
pub(crate) fn list(layout: &Layout, has_validation: bool) -> String {
    // No `path`: it would be looked for in the current folder.
    let validation = if has_validation { "val" } else { "train" };
    let mut text = format!("train: images/train\nval: images/{validation}\nnames:\n");
    for (i, name) in layout.classes.iter().enumerate() {
        // A JSON string is one of YAML.
        let _ = writeln!(text, "  {i}: {}", serde_json::json!(name));
    }
    text
}
