//! COCO instances, masks as run lengths or polygons.
//!
//! `iscrowd` is 0 in both, ids count from 1, and boxes are those of the masks as written: what readers
//! need to give back every pixel.

use serde_json::{Value, json};

use super::ascii::{self, score};
use super::files::NewFile;
use super::{Layout, Object, Picture, Pictures};
use crate::error::Result;
use crate::mask::Rle;
use crate::mask::polygon::{Convention, Polygons};

pub(super) fn write_document(
    layout: &Layout,
    pictures: &dyn Pictures,
    polygons: bool,
) -> Result<()> {
    let name = if polygons {
        "coco-polygon.json"
    } else {
        "coco.json"
    };
    let mut file = NewFile::create(layout, name)?;
    file.write(
        r#"{"info":{"description":"made by sam3 label","version":"1"},"licenses":[],"images":["#,
    )?;
    let mut count = 0;
    pictures.for_each(&mut |picture| {
        count += 1;
        file.write(if count > 1 { "," } else { "" })?;
        let Picture {
            name,
            width,
            height,
            ..
        } = picture;
        let image = json!({"id": count, "file_name": name, "width": width, "height": height});
        file.write(ascii::json(&image))
    })?;
    file.write(r#"],"annotations":["#)?;
    let (mut image, mut id) = (0, 0);
    pictures.for_each(&mut |picture| {
        image += 1;
        for object in &picture.objects {
            id += 1;
            file.write(if id > 1 { "," } else { "" })?;
            file.write(ascii::json(&annotation(
                layout, object, image, id, polygons,
            )?))?;
        }
        Ok(())
    })?;
    let categories = layout.classes.iter().enumerate();
    let categories: Vec<Value> = categories
        .map(|(i, name)| json!({"id": i + 1, "name": name, "supercategory": ""}))
        .collect();
    file.write(r#"],"categories":"#)?;
    file.write(ascii::json(&categories))?;
    file.write("}\n")?;
    file.finish()
}

fn annotation(
    layout: &Layout,
    object: &Object,
    image: usize,
    id: usize,
    polygons: bool,
) -> Result<Value> {
    let (written, segmentation) = if polygons {
        let mask = object.mask.decode()?;
        let outline = Polygons::outline(&mask, Convention::PixelEdges, &layout.simplify);
        let flat = |path: Vec<[f64; 2]>| path.into_iter().flatten().map(number).collect();
        let lists: Vec<Vec<Value>> = outline.cut().into_iter().map(flat).collect();
        let filled = outline.fill(mask.width(), mask.height())?;
        (Rle::encode(&filled), json!(lists))
    } else {
        (object.mask.clone(), json!(object.mask))
    };
    Ok(json!({
        "id": id,
        "image_id": image,
        "category_id": object.class + 1,
        "bbox": bbox(&written),
        "area": written.area(),
        "iscrowd": 0,
        "segmentation": segmentation,
        "score": score(object.score),
    }))
}

/// Whole numbers without a point, which saves a quarter of the file.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// Left, top, width and height in whole pixels.
pub(super) fn bbox(mask: &Rle) -> [i64; 4] {
    mask.bbox()
        .map_or([0; 4], |b| b.to_xywh().map(|v| v as i64))
}
