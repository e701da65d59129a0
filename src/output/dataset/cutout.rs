//! Each object on a transparent ground, cut to its box.

use super::masks::{clear, object_path};
use super::{Layout, Picture, files};
use crate::error::Result;
use crate::image::Image;
use crate::output::cutout::cutout_png;

pub(super) fn write_picture(layout: &Layout, picture: &Picture, image: &Image) -> Result<()> {
    clear(layout, "cutout", picture)?;
    for (index, object) in picture.objects.iter().enumerate() {
        let mask = object.mask.decode()?;
        if let Some(png) = cutout_png(image, &mask, false)? {
            let path = object_path(layout, "cutout", picture, index, object);
            files::write(layout, &path, png)?;
        }
    }
    Ok(())
}
