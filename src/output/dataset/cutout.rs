//! Each object on a transparent ground, cut to its box.

use image::ExtendedColorType;

use super::masks::object_path;
use super::{Layout, Picture, files};
use crate::error::Result;
use crate::image::Image;
use crate::output::masks::encode_png;

pub(super) fn write_picture(layout: &Layout, picture: &Picture, image: &Image) -> Result<()> {
    for (index, object) in picture.objects.iter().enumerate() {
        let mask = object.mask.decode()?;
        let Some(extent) = mask.extent() else {
            continue;
        };
        let (width, height) = (extent.columns.len(), extent.rows.len());
        let mut rgba = vec![0; 4 * width * height];
        for (y, row) in extent.rows.clone().zip(rgba.chunks_exact_mut(4 * width)) {
            let pixels = &image.pixels()[3 * y * image.width()..][..3 * image.width()];
            for run in mask.runs(y) {
                for x in run {
                    let to = &mut row[4 * (x - extent.columns.start)..][..4];
                    to[..3].copy_from_slice(&pixels[3 * x..][..3]);
                    to[3] = u8::MAX;
                }
            }
        }
        let path = object_path(layout, "cutout", picture, index, object, &mask);
        let png = encode_png(width, height, &rgba, ExtendedColorType::Rgba8)?;
        files::write(layout, &path, png)?;
    }
    Ok(())
}
