//! One black and white PNG for each object.

use super::{Layout, Object, Picture, files};
use crate::error::Result;
use crate::mask::{BoxXyxy, Mask};
use crate::output::LabeledInstance;
use crate::output::masks::{mask_file_name, mask_png};

pub(super) fn write_picture(layout: &Layout, picture: &Picture) -> Result<()> {
    for (index, object) in picture.objects.iter().enumerate() {
        let mask = object.mask.decode()?;
        let path = object_path(layout, "masks", picture, index, object, &mask);
        files::write(layout, &path, mask_png(&mask)?)?;
    }
    Ok(())
}

/// `FOLDER/PICTURE/INDEX_CLASS_SCORE.png`.
pub(super) fn object_path(
    layout: &Layout,
    folder: &str,
    picture: &Picture,
    index: usize,
    object: &Object,
    mask: &Mask,
) -> String {
    let instance = LabeledInstance {
        label: layout.class(object.class),
        mask,
        bbox: mask.bbox().unwrap_or(BoxXyxy::from([0.0; 4])),
        score: object.score,
    };
    let stem = layout.stem(&picture.name);
    format!("{folder}/{stem}/{}", mask_file_name(index, &instance))
}
