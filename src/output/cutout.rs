//! Objects on a transparent ground.

use rayon::prelude::*;

use super::{ImageResults, masks, png};
use crate::Size;
use crate::error::Result;
use crate::image::Image;
use crate::mask::Mask;

/// One PNG per object, named as [`masks::mask_file_name`] names its mask; objects without a pixel
/// are left out.
///
/// # Errors
/// As [`cutout_png`].
pub fn files(results: &ImageResults, full_size: bool) -> Result<Vec<(String, Vec<u8>)>> {
    let found = results.found();
    let found = found.par_iter().enumerate();
    let cut = found.filter_map(|(index, found)| {
        let png = encode(results.image, &found.mask, full_size, results.source).transpose()?;
        Some(png.map(|png| (masks::mask_file_name(index, &found.label, found.score), png)))
    });
    cut.collect()
}

/// The pixels of the mask as an RGBA PNG file, everything else transparent black: cropped to the
/// box around the mask, or of the size of the image. `None` when the mask is empty.
///
/// # Errors
/// [`crate::Error::InvalidImage`] when a side is over the limit of the PNG format (2^31).
pub fn cutout_png(image: &Image, mask: &Mask, full_size: bool) -> Result<Option<Vec<u8>>> {
    encode(image, mask, full_size, None)
}

fn encode(
    image: &Image,
    mask: &Mask,
    full_size: bool,
    source: Option<&str>,
) -> Result<Option<Vec<u8>>> {
    let Some(extent) = mask.extent() else {
        return Ok(None);
    };
    let (columns, rows) = match full_size {
        true => (0..image.width(), 0..image.height()),
        false => (extent.columns, extent.rows),
    };
    let mut samples = vec![0; columns.len() * rows.len() * 4];
    for (y, line) in rows
        .clone()
        .zip(samples.chunks_exact_mut(columns.len() * 4))
    {
        for x in mask.runs(y).flatten() {
            let pixel = &image.pixels()[(y * image.width() + x) * 3..][..3];
            let at = (x - columns.start) * 4;
            line[at..at + 3].copy_from_slice(pixel);
            line[at + 3] = u8::MAX;
        }
    }
    let size = Size::new(columns.len(), rows.len());
    png::encode(size, &samples, png::RGBA, source).map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::format::tests::{answer, found, image, results};
    use super::*;

    fn decoded(png: &[u8]) -> image::RgbaImage {
        image::load_from_memory(png).unwrap().into_rgba8()
    }

    #[test]
    fn a_cut_out_is_cropped_to_its_object() {
        let mask = Mask::from_fn(4, 3, |x, y| (x == 1 && y > 0) || (x, y) == (2, 2));
        let cut = decoded(&cutout_png(&image(), &mask, false).unwrap().unwrap());
        assert_eq!(cut.dimensions(), (2, 2));
        // The sample of pixel (x, y) and channel c is 12 y + 3 x + c.
        assert_eq!(cut.get_pixel(0, 0).0, [15, 16, 17, 255]);
        assert_eq!(cut.get_pixel(1, 1).0, [30, 31, 32, 255]);
        assert_eq!(cut.get_pixel(1, 0).0, [0; 4]);
    }

    #[test]
    fn a_cut_out_of_full_size_lies_where_the_object_is() {
        let mask = Mask::from_fn(4, 3, |x, y| (x, y) == (1, 2));
        let cut = decoded(&cutout_png(&image(), &mask, true).unwrap().unwrap());
        assert_eq!(cut.dimensions(), (4, 3));
        assert_eq!(cut.get_pixel(1, 2).0, [27, 28, 29, 255]);
        assert_eq!(cut.pixels().filter(|pixel| pixel.0[3] > 0).count(), 1);
    }

    #[test]
    fn an_object_without_pixels_is_left_out() {
        let (image, mut answers) = (image(), [answer()]);
        let empty = found("wheel", Mask::new(4, 3), 0.5);
        answers[0].instances.insert(0, empty);
        let files = files(&results(&image, &answers, Kind::Text), false).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["001_wheel_0.91.png"]);
    }
}
