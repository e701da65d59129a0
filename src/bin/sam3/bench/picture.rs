//! The image that is measured on.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use candle_sam3::image::Image;
use image::{ImageFormat, RgbImage};
use serde::Serialize;

use super::report::file_name;

const WIDTH: u32 = 1800;
const HEIGHT: u32 = 1200;

/// An encoded image, decoded anew in each run.
#[derive(Serialize)]
pub struct Picture {
    pub name: String,
    pub width: usize,
    pub height: usize,
    #[serde(skip)]
    bytes: Vec<u8>,
}

impl Picture {
    /// The file, or a made-up JPEG of about the detail of a photograph.
    pub fn new(path: Option<&Path>) -> Result<Self> {
        let (name, bytes) = match path {
            Some(path) => {
                let bytes = std::fs::read(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                (file_name(path), bytes)
            }
            None => ("made up".to_string(), made_up()?),
        };
        let image = Image::decode(&bytes).with_context(|| name.clone())?;
        Ok(Self {
            name,
            width: image.width(),
            height: image.height(),
            bytes,
        })
    }

    pub fn decode(&self) -> Result<Image> {
        Ok(Image::decode(&self.bytes)?)
    }

    /// A point in the upper left quarter of the image.
    pub fn point(&self) -> [f32; 2] {
        [self.width as f32 * 0.3, self.height as f32 * 0.4]
    }

    /// 64 points all over the image.
    pub fn points(&self) -> Vec<[f32; 2]> {
        let at = |i: usize, side: usize| (i as f32 + 0.5) / 8. * side as f32;
        let point = |i: usize| [at(i % 8, self.width), at(i / 8, self.height)];
        (0..64).map(point).collect()
    }
}

/// Waves of several lengths and a little noise.
fn made_up() -> Result<Vec<u8>> {
    let pixels = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let noise = (x.wrapping_mul(0x9E37_79B9) ^ y.wrapping_mul(0x85EB_CA6B))
            .wrapping_mul(0xC2B2_AE35)
            >> 28;
        let (x, y) = (x as f32, y as f32);
        let channel = |shift: f32| {
            let slow = ((x * 0.004 + shift).sin() + (y * 0.006 - shift).cos()) * 45.;
            let fast = (x * 0.11 + y * 0.07 * shift).sin() * 25.;
            (128. + slow + fast + noise as f32) as u8
        };
        image::Rgb([channel(1.), channel(2.), channel(3.)])
    });
    let mut bytes = Cursor::new(vec![]);
    pixels.write_to(&mut bytes, ImageFormat::Jpeg)?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_made_up_image_decodes_and_its_points_lie_in_it() {
        let picture = Picture::new(None).unwrap();
        let image = picture.decode().unwrap();
        assert_eq!((image.width(), image.height()), (1800, 1200));
        // as detailed as a photograph: neither flat nor noise alone
        let bits = picture.bytes.len() * 8;
        assert!((1_000_000..8_000_000).contains(&bits), "{bits}");
        let points = picture.points();
        assert_eq!(points.len(), 64);
        assert!(points.iter().all(|[x, y]| *x < 1800. && *y < 1200.));
    }

    #[test]
    fn a_file_that_is_no_image_is_named() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let error = Picture::new(Some(Path::new(path))).err().unwrap();
        assert!(format!("{error:#}").contains("Cargo.toml"), "{error:#}");
    }
}
