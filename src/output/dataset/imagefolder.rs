//! A folder that Hugging Face `load_dataset("imagefolder", …)` reads: pictures and `metadata.jsonl`, below
//! `train`. Without a folder of such a name, a picture called `test_1.jpg` would make the split `test`, and
//! the others would be left out.

use std::path::Path;

use serde_json::json;

use super::ascii::{self, score};
use super::files::{self, NewFile};
use super::{Layout, Object, Picture, Pictures};
use crate::error::Result;
use crate::output::coco::bbox;

pub(super) fn write_picture(layout: &Layout, picture: &Picture, source: &Path) -> Result<()> {
    files::link(
        layout,
        &format!("imagefolder/train/{}", picture.name),
        source,
    )
}

pub(super) fn write_document(layout: &Layout, pictures: &dyn Pictures) -> Result<()> {
    let mut file = NewFile::create(layout, "imagefolder/train/metadata.jsonl")?;
    pictures.for_each(&mut |picture| {
        let objects = &picture.objects;
        fn column<T>(objects: &[Object], value: impl Fn(&Object) -> T) -> Vec<T> {
            objects.iter().map(value).collect()
        }
        let line = json!({
            "file_name": picture.name,
            "width": picture.width,
            "height": picture.height,
            "objects": {
                "bbox": column(objects, |o| bbox(&o.mask)),
                "area": column(objects, |o| o.mask.area()),
                "score": column(objects, |o| score(o.score)),
                "category": column(objects, |o| o.class),
                "label": column(objects, |o| layout.class(o.class)),
                "rle": column(objects, |o| o.mask.to_compressed()),
            },
        });
        file.write(ascii::json(&line))?;
        file.write("\n")
    })?;
    file.finish()
}
