//! One black and white PNG for each object.

use super::{Layout, Object, Picture, files};
use crate::error::Result;
use crate::output::masks::{mask_file_name, mask_png};

pub(super) fn write_picture(layout: &Layout, picture: &Picture) -> Result<()> {
    clear(layout, "masks", picture)?;
    for (index, object) in picture.objects.iter().enumerate() {
        let mask = object.mask.decode()?;
        let path = object_path(layout, "masks", picture, index, object);
        files::write(layout, &path, mask_png(&mask)?)?;
    }
    Ok(())
}

/// Removes what an earlier version of the picture left.
pub(super) fn clear(layout: &Layout, folder: &str, picture: &Picture) -> Result<()> {
    files::remove_files(layout, &format!("{folder}/{}", layout.stem(&picture.name)))
}

/// `FOLDER/PICTURE/INDEX_CLASS_SCORE.png`.
pub(super) fn object_path(
    layout: &Layout,
    folder: &str,
    picture: &Picture,
    index: usize,
    object: &Object,
) -> String {
    let name = mask_file_name(index, layout.class(object.class), object.score);
    let stem = layout.stem(&picture.name);
    format!("{folder}/{stem}/{name}")
}
