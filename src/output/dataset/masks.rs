//! One PNG for each object: black and white, or cut out on a transparent ground.

use super::{Layout, Picture, files};
use crate::error::Result;
use crate::mask::Mask;
use crate::output::masks::mask_file_name;

/// Writes `FOLDER/PICTURE/INDEX_CLASS_SCORE.png` in place of what an earlier version of the picture left;
/// nothing for an object that has no PNG.
pub(super) fn write_picture(
    layout: &Layout,
    picture: &Picture,
    folder: &str,
    png_of: impl Fn(&Mask) -> Result<Option<Vec<u8>>>,
) -> Result<()> {
    let folder = format!("{folder}/{}", layout.stem(&picture.name));
    files::remove_files(layout, &folder)?;
    for (index, object) in picture.objects.iter().enumerate() {
        if let Some(png) = png_of(&object.mask.decode()?)? {
            let name = mask_file_name(index, layout.class(object.class), object.score);
            files::write(layout, &format!("{folder}/{name}"), png)?;
        }
    }
    Ok(())
}
