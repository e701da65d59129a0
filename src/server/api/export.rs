//! `POST /api/v1/images/{id}/export`: objects as the files of other programs, in one zip.
//!
//! Made in memory: the server writes nothing to the disk.

use std::io::{Cursor, Write as _};

use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use zip::CompressionMethod;
use zip::result::ZipError;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::segment::cutout_png;
use super::types::{check_mask, limit};
use crate::output::coco;
use crate::output::dataset::{Layout, Object, Picture, labelme, yolo};
use crate::output::masks::{mask_file_name, mask_png};
use crate::server::error::{ApiError, Result};
use crate::server::{Service, blocking};
use crate::{Image, Rle, Size};

/// Objects in one zip.
const MAX_OBJECTS: usize = 2000;
/// Letters of a name.
const MAX_NAME: usize = 100;
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

/// The zip.
pub async fn export(
    State(service): State<Service>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let picture = service.images.get(id.parse()?)?;
    let limit = service.config.max_upload;
    let request: ExportRequest = service.bodies.read(request, limit).await?.json()?;
    let model = service.engine.model().name().to_string();
    let bytes = blocking(move || pack(&picture.image, &model, request)).await?;
    Ok(([(header::CONTENT_TYPE, "application/zip")], bytes).into_response())
}

fn pack(image: &Image, model: &str, request: ExportRequest) -> Result<Vec<u8>> {
    let (layout, picture) = read(image.size(), &request)?;
    let stem = layout.stem(&picture.name);
    let has = |format| request.formats.contains(&format);
    let mut zip = Zip(ZipWriter::new(Cursor::new(vec![])));
    if has(Format::Yolo) {
        zip.add("yolo/data.yaml", yolo::list(&layout, false))?;
        let rows = yolo::rows(&layout, &picture)?;
        zip.add(&format!("yolo/labels/train/{stem}.txt"), rows)?;
    }
    if has(Format::LabelMe) {
        let document = labelme::document(&layout, &picture, &picture.name)?;
        zip.add(&format!("labelme/{stem}.json"), document)?;
    }
    let mut coco = coco::Dataset::new(model);
    let image_id = coco.add_image(&picture.name, image.size());
    for (index, object) in picture.objects.iter().enumerate() {
        let (label, mask) = (layout.class(object.class), object.mask.decode()?);
        let name = mask_file_name(index, label, object.score);
        if has(Format::Coco) {
            coco.add_object(image_id, label, &mask, object.score);
        }
        if has(Format::Masks) {
            zip.add(&format!("masks/{name}"), mask_png(&mask)?)?;
        }
        if has(Format::Cutouts) {
            zip.add(&format!("cutouts/{name}"), cutout_png(image, &mask)?)?;
        }
    }
    if has(Format::Coco) {
        zip.add("coco.json", coco.to_bytes()?)?;
    }
    let written = zip.0.finish().map_err(unwritten)?;
    Ok(written.into_inner())
}

/// The objects as a picture of a dataset, with one class for each label.
fn read(size: Size, request: &ExportRequest) -> Result<(Layout, Picture)> {
    limit("objects", request.objects.len(), MAX_OBJECTS)?;
    let mut classes: Vec<String> = vec![];
    let mut objects = vec![];
    for ObjectIn { label, score, mask } in &request.objects {
        check_mask(mask, size)?;
        limit("bytes in a label", label.len(), MAX_NAME * 4)?;
        let label = match label.trim() {
            "" => UNNAMED,
            label => label,
        };
        let known = classes.iter().position(|known| known == label);
        let class = known.unwrap_or_else(|| {
            classes.push(label.to_string());
            classes.len() - 1
        });
        objects.push(Object {
            class,
            score: *score,
            mask: mask.clone(),
        });
    }
    let picture = Picture {
        name: file_name(&request.name),
        width: size.width,
        height: size.height,
        objects,
    };
    Ok((Layout::new("", vec![], classes), picture))
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

/// Files in memory. PNG files are packed already, so that nothing is compressed again.
struct Zip(ZipWriter<Cursor<Vec<u8>>>);

impl Zip {
    fn add(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let started = self.0.start_file(name, stored);
        let written = started.and_then(|()| Ok(self.0.write_all(bytes.as_ref())?));
        written.map_err(unwritten)
    }
}

fn unwritten(error: ZipError) -> ApiError {
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
}
