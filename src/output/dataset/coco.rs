//! COCO instances, masks as run lengths or polygons.
//!
//! `iscrowd` is 0 in both, ids count from 1, and boxes are those of the masks as written: what readers
//! need to give back every pixel. Written entry by entry: a [`Dataset`] of all pictures may not fit
//! into memory.
//!
//! [`Dataset`]: crate::output::coco::Dataset

use serde_json::{Value, json};

use super::ascii::{self, score};
use super::files::NewFile;
use super::{Layout, Object, Pictures};
use crate::error::Result;
use crate::mask::Rle;
use crate::mask::polygon::{Convention, Polygons};
use crate::output::coco::{Annotation, Category, ImageEntry, bbox};

pub(super) fn write_document(
    layout: &Layout,
    pictures: &dyn Pictures,
    polygons: bool,
) -> Result<()> {
    let name = match polygons {
        true => "coco-polygon.json",
        false => "coco.json",
    };
    let mut file = NewFile::create(layout, name)?;
    file.write(
        r#"{"info":{"description":"made by sam3 label","version":"1"},"licenses":[],"images":["#,
    )?;
    let mut id = 0;
    pictures.for_each(&mut |picture| {
        id += 1;
        file.write(if id > 1 { "," } else { "" })?;
        let entry = ImageEntry::new(id, &picture.name, picture.size());
        file.write(ascii::json(&entry))
    })?;
    file.write(r#"],"annotations":["#)?;
    let (mut image_id, mut id) = (0, 0);
    pictures.for_each(&mut |picture| {
        image_id += 1;
        for object in &picture.objects {
            id += 1;
            file.write(if id > 1 { "," } else { "" })?;
            file.write(if polygons {
                let (lists, filled) = polygons_of(layout, &object.mask)?;
                ascii::json(&annotation(object, [id, image_id], lists, &filled))
            } else {
                let mask = &object.mask;
                ascii::json(&annotation(object, [id, image_id], mask, mask))
            })?;
        }
        Ok(())
    })?;
    let categories = (1..).zip(&layout.classes);
    let categories = categories.map(|(id, name)| Category::new(id, name));
    let categories: Vec<Category> = categories.collect();
    file.write(r#"],"categories":"#)?;
    file.write(ascii::json(&categories))?;
    file.write("}\n")?;
    file.finish()
}

/// `written` are the pixels that readers make of the segmentation.
fn annotation<S>(
    object: &Object,
    [id, image_id]: [usize; 2],
    segmentation: S,
    written: &Rle,
) -> Annotation<S> {
    Annotation {
        id,
        image_id,
        category_id: object.class + 1,
        segmentation,
        bbox: bbox(written),
        area: written.area(),
        iscrowd: 0,
        score: score(object.score) as f32,
    }
}

/// The outlines of a mask's parts as COCO has them, and the pixels that they enclose.
fn polygons_of(layout: &Layout, mask: &Rle) -> Result<(Vec<Vec<Value>>, Rle)> {
    let mask = mask.decode()?;
    let outline = Polygons::outline(&mask, Convention::PixelEdges, &layout.simplify);
    let flat = |path: Vec<[f64; 2]>| path.into_iter().flatten().map(number).collect();
    let lists = outline.cut().into_iter().map(flat).collect();
    let filled = outline.fill(mask.width(), mask.height())?;
    Ok((lists, Rle::encode(&filled)))
}

/// Whole numbers without a point, which saves a quarter of the file.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
