//! `POST /api/v1/images/{id}/export`: objects as the files of other programs, in one zip.
//!
//! Made in memory: the server writes nothing to the disk.

use std::fmt::Write as _;
use std::io::{Cursor, Write as _};
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::segment::cutout_png;
use super::types::limit;
use crate::mask::polygon::{Convention, Polygons, Simplify};
use crate::output::masks::{mask_file_name, mask_png};
use crate::server::Service;
use crate::server::body;
use crate::server::error::ApiError;
use crate::server::images::Picture;
use crate::{BoxXyxy, Mask, Rle};

/// Objects in one zip.
const MAX_OBJECTS: usize = 2000;
/// Letters of a name.
const MAX_NAME: usize = 100;
/// Added to the index of a pixel, so that readers that round and those that cut find the same one.
const OFFSET: f64 = 0.49;
/// What objects without a label are called.
const UNNAMED: &str = "object";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportRequest {
    /// The picture's file name.
    name: String,
    formats: Vec<Format>,
    objects: Vec<ObjectIn>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Coco,
    Yolo,
    LabelMe,
    Masks,
    Cutouts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectIn {
    #[serde(default)]
    label: String,
    #[serde(default)]
    score: f32,
    mask: Rle,
}

struct Object {
    label: String,
    /// Index of the label among the distinct ones.
    class: usize,
    score: f32,
    mask: Mask,
}

/// The zip.
pub async fn export(
    State(service): State<Service>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let picture = service.images.get(id.parse()?)?;
    let limit = service.config.max_upload;
    let received = service.bodies.read(&parts.headers, body, limit).await?;
    let request: ExportRequest = body::json(&parts.headers, &received.bytes)?;
    drop(received);
    let packed = tokio::task::spawn_blocking(move || pack(&picture, request)).await;
    let bytes = packed.map_err(|_| ApiError::internal())??;
    Ok(([(header::CONTENT_TYPE, "application/zip")], bytes).into_response())
}

fn pack(picture: &Arc<Picture>, request: ExportRequest) -> Result<Vec<u8>, ApiError> {
    limit("objects", request.objects.len(), MAX_OBJECTS)?;
    let (objects, classes) = read(picture, request.objects)?;
    let file = file_name(&request.name);
    let stem = file
        .rsplit_once('.')
        .map_or(file.as_str(), |(stem, _)| stem);
    let has = |format| request.formats.contains(&format);
    let mut zip = Zip::new();
    if has(Format::Coco) {
        zip.add(
            "coco.json",
            coco(picture, &file, &objects, &classes)
                .to_string()
                .as_bytes(),
        )?;
    }
    if has(Format::Yolo) {
        let names: String =
            classes
                .iter()
                .enumerate()
                .fold(String::new(), |mut text, (i, name)| {
                    // Writing to memory does not fail; a JSON string is one of YAML.
                    let _ = writeln!(text, "  {i}: {}", json!(name));
                    text
                });
        let list = format!("train: images/train\nval: images/train\nnames:\n{names}");
        zip.add("yolo/data.yaml", list.as_bytes())?;
        zip.add(
            &format!("yolo/labels/train/{stem}.txt"),
            yolo(&objects).as_bytes(),
        )?;
    }
    if has(Format::LabelMe) {
        let document = labelme(picture, &file, &objects).to_string();
        zip.add(&format!("labelme/{stem}.json"), document.as_bytes())?;
    }
    for (index, object) in objects.iter().enumerate() {
        let name = mask_file_name(index, &object.label, object.score);
        if has(Format::Masks) {
            zip.add(&format!("masks/{name}"), &mask_png(&object.mask)?)?;
        }
        if has(Format::Cutouts) {
            zip.add(
                &format!("cutouts/{name}"),
                &cutout_png(&picture.image, &object.mask)?,
            )?;
        }
    }
    zip.finish()
}

fn read(picture: &Picture, objects: Vec<ObjectIn>) -> Result<(Vec<Object>, Vec<String>), ApiError> {
    let size = picture.size();
    let mut classes: Vec<String> = vec![];
    let mut read = vec![];
    for object in objects {
        if object.mask.size != [size.height, size.width] {
            return Err(ApiError::invalid(
                format!(
                    "a mask of [height, width] {:?} for a picture of {size}",
                    object.mask.size
                ),
                "give masks of the picture's size",
            ));
        }
        limit("bytes in a label", object.label.len(), MAX_NAME * 4)?;
        let label = match object.label.trim() {
            "" => UNNAMED.to_string(),
            label => label.to_string(),
        };
        let class = classes
            .iter()
            .position(|known| *known == label)
            .unwrap_or_else(|| {
                classes.push(label.clone());
                classes.len() - 1
            });
        read.push(Object {
            label,
            class,
            score: object.score,
            mask: object.mask.decode()?,
        });
    }
    Ok((read, classes))
}

/// A file name that is no path and has no signs that a system may not take.
fn file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_plain = |c: &char| c.is_alphanumeric() || "._-() ".contains(*c);
    let plain: String = last.chars().filter(is_plain).take(MAX_NAME).collect();
    match plain.trim_matches(['.', ' ']) {
        "" => "picture".to_string(),
        name => name.to_string(),
    }
}

fn coco(picture: &Picture, file: &str, objects: &[Object], classes: &[String]) -> Value {
    let size = picture.size();
    let annotation = |(index, object): (usize, &Object)| {
        let bbox = object.mask.bbox().map_or([0.; 4], BoxXyxy::to_xywh);
        json!({
            "id": index + 1, "image_id": 1, "category_id": object.class + 1,
            "bbox": bbox.map(|v| v as i64), "area": object.mask.area(), "iscrowd": 0,
            "segmentation": Rle::encode(&object.mask), "score": object.score,
        })
    };
    let category = |(index, name): (usize, &String)| json!({"id": index + 1, "name": name, "supercategory": ""});
    json!({
        "info": {"description": "made by sam3", "version": "1"},
        "licenses": [],
        "images": [{"id": 1, "file_name": file, "width": size.width, "height": size.height}],
        "annotations": objects.iter().enumerate().map(annotation).collect::<Vec<_>>(),
        "categories": classes.iter().enumerate().map(category).collect::<Vec<_>>(),
    })
}

/// One row for each object: its class and one polygon in fractions of the picture, holes cut open
/// and parts joined.
fn yolo(objects: &[Object]) -> String {
    let mut rows = String::new();
    for Object { class, mask, .. } in objects {
        let (width, height) = (mask.width() as f64, mask.height() as f64);
        let outline = Polygons::outline(mask, Convention::PixelCenters, &Simplify::default());
        // Writing to memory does not fail.
        let _ = write!(rows, "{class}");
        for [x, y] in at_least_three(outline.joined()) {
            let _ = write!(
                rows,
                " {:.6} {:.6}",
                (x + OFFSET) / width,
                (y + OFFSET) / height
            );
        }
        rows.push('\n');
    }
    rows
}

/// Readers want three points; repeated ones give back single pixels and pairs.
fn at_least_three(mut path: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    while let (1 | 2, Some(&last)) = (path.len(), path.last()) {
        path.push(last);
    }
    path
}

/// One polygon for each part, held together by their group.
fn labelme(picture: &Picture, file: &str, objects: &[Object]) -> Value {
    let size = picture.size();
    let mut shapes = vec![];
    for (index, Object { label, mask, .. }) in objects.iter().enumerate() {
        let outline = Polygons::outline(mask, Convention::PixelCenters, &Simplify::default());
        let group = (outline.parts.len() > 1).then_some(index);
        for path in outline.cut() {
            let points = at_least_three(path)
                .into_iter()
                .map(|xy| xy.map(|v| v + OFFSET));
            shapes.push(json!({
                "label": label, "points": points.collect::<Vec<_>>(), "group_id": group,
                "description": "", "shape_type": "polygon", "flags": {}, "mask": null,
            }));
        }
    }
    json!({
        "version": "5.11.4", "flags": {}, "shapes": shapes, "imagePath": file, "imageData": null,
        "imageHeight": size.height, "imageWidth": size.width,
    })
}

/// Files in memory. PNG files are packed already, so that nothing is compressed again.
struct Zip(ZipWriter<Cursor<Vec<u8>>>);

impl Zip {
    fn new() -> Self {
        Self(ZipWriter::new(Cursor::new(vec![])))
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), ApiError> {
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let started = self
            .0
            .start_file(name, stored)
            .map_err(std::io::Error::other);
        started
            .and_then(|()| self.0.write_all(bytes))
            .map_err(unwritten)
    }

    fn finish(self) -> Result<Vec<u8>, ApiError> {
        let finished = self
            .0
            .finish()
            .map_err(std::io::Error::other)
            .map_err(unwritten)?;
        Ok(finished.into_inner())
    }
}

fn unwritten(error: std::io::Error) -> ApiError {
    tracing::error!("a zip cannot be written: {error}");
    ApiError::internal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_no_paths() {
        for (name, want) in [
            ("cat.jpg", "cat.jpg"),
            ("../../etc/passwd", "passwd"),
            ("C:\\a\\b.png", "b.png"),
            ("猫 (1).jpg", "猫 (1).jpg"),
            ("..", "picture"),
            ("", "picture"),
            ("a\u{0}\n<b>.png", "ab.png"),
        ] {
            assert_eq!(file_name(name), want);
        }
        assert_eq!(file_name(&"x".repeat(500)).len(), MAX_NAME);
    }

    #[test]
    fn a_single_pixel_is_still_a_row_of_three_points() {
        let object = Object {
            label: "dot".into(),
            class: 2,
            score: 1.,
            mask: Mask::from_fn(10, 10, |x, y| x == 3 && y == 4),
        };
        assert_eq!(yolo(&[object]).split_whitespace().count(), 1 + 6);
    }
}
