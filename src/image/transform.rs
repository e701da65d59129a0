//! From an image to a model's input, and between the coordinates of the two.
//!
//! Follows `Sam3Processor`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_image_processor.py>,
//! of SAM 2 `SAM2Transforms`, and of SAM 1 `ResizeLongestSide`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/utils/transforms.py#L16>.

use rayon::prelude::*;

use super::{Image, resample, resize};
use crate::error::{Error, Result};
use crate::size::Size;

/// SAM 3's transform: the whole image is stretched to a square, whatever its aspect ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Square {
    /// Side of the model's input in pixels.
    pub size: usize,
}

impl Square {
    /// Resizes to `size` x `size` and scales the samples to [-1, 1], bit-equal to the reference on
    /// the CPU: (3, size, size), R, G and B planes.
    ///
    /// # Errors
    /// [`crate::Error::InvalidImage`] when `size` is zero.
    pub fn apply(&self, image: &Image) -> Result<Vec<f32>> {
        let resized = resize::resize_bilinear_antialias(image, self.size, self.size)?;
        Ok(normalize(&resized))
    }

    /// A point of the image in pixels as a fraction of its width and height.
    pub fn normalize_point(&self, [x, y]: [f32; 2], image: &Image) -> [f32; 2] {
        [x / image.width() as f32, y / image.height() as f32]
    }

    /// The inverse of [`Square::normalize_point`].
    pub fn denormalize_point(&self, [x, y]: [f32; 2], image: &Image) -> [f32; 2] {
        [x * image.width() as f32, y * image.height() as f32]
    }
}

/// Mean and deviation of ImageNet's channels, of samples in 0..1.
pub(crate) const IMAGENET: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

/// SAM 2's transform: the whole image is stretched to a square in floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloatSquare {
    /// Side of the model's input in pixels.
    pub size: usize,
}

impl FloatSquare {
    /// Resizes to `size` x `size` without rounding, subtracts the mean and divides by the deviation
    /// of each channel: (3, size, size), R, G and B planes.
    ///
    /// Follows `SAM2Transforms`,
    /// <https://github.com/facebookresearch/sam2/blob/2b90b9f/sam2/utils/transforms.py#L14>.
    ///
    /// # Errors
    /// [`crate::Error::InvalidImage`] when `size` is zero.
    pub fn apply(&self, image: &Image) -> Result<Vec<f32>> {
        let to = Size::square(self.size);
        if self.size == 0 {
            return Err(Error::InvalidImage("cannot resize to no pixels".into()));
        }
        let mut planes = Vec::with_capacity(3 * self.size * self.size);
        for (channel, (mean, std)) in IMAGENET.into_iter().enumerate() {
            let samples = image.pixels().iter().skip(channel).step_by(3);
            let samples: Vec<f32> = samples.map(|v| f32::from(*v) / 255.).collect();
            let resized = resample::resize_antialias(&samples, image.size(), to)?;
            planes.extend(resized.into_iter().map(|v| (v - mean) / std));
        }
        Ok(planes)
    }
}

/// Mean and deviation of the same, of samples in 0..255 as SAM 1 has them.
pub(crate) const LEVELS: [(f32, f32); 3] = [(123.675, 58.395), (116.28, 57.12), (103.53, 57.375)];

/// CLIP's transform, of pictures that need not be square: the longer side becomes `size`, and around the
/// picture in the middle is the mean color. Its own processor would cut the longer side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClipSquare {
    /// Side of the model's input in pixels.
    pub size: usize,
}

impl ClipSquare {
    /// Mean and deviation of the channels of CLIP's pictures, of samples in 0..1.
    const CHANNELS: [(f32, f32); 3] = [
        (0.48145466, 0.26862954),
        (0.4578275, 0.261_302_6),
        (0.40821073, 0.275_777_1),
    ];

    /// The mean color of CLIP's pictures.
    pub fn mean_color() -> [u8; 3] {
        Self::CHANNELS.map(|(mean, _)| (255. * mean).round() as u8)
    }

    /// Resizes with Pillow's bicubic filter, subtracts the mean and divides by the deviation of each channel:
    /// (3, size, size), R, G and B planes.
    ///
    /// A square picture becomes what `CLIPImageProcessor` makes of it,
    /// <https://github.com/huggingface/transformers/blob/v4.57.0/src/transformers/models/clip/image_processing_clip.py>.
    ///
    /// # Errors
    /// [`crate::Error::InvalidImage`] when `size` is zero.
    pub fn apply(&self, image: &Image) -> Result<Vec<f32>> {
        if self.size == 0 {
            return Err(Error::InvalidImage("cannot resize to no pixels".into()));
        }
        let (width, height) =
            LongestSide { size: self.size }.resized(image.width(), image.height());
        let (width, height) = (width.max(1), height.max(1));
        let resized = resize::resize_pillow_bicubic(image, width, height)?;
        let corner = ((self.size - width) / 2, (self.size - height) / 2);
        let normalize = |v, (mean, std)| (v / 255. - mean) / std;
        Ok(padded(
            &resized,
            self.size,
            corner,
            Self::CHANNELS,
            normalize,
        ))
    }
}

/// SAM 1's transform: the longer side becomes `size`, the rest of the square is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongestSide {
    /// Side of the model's input in pixels.
    pub size: usize,
}

impl LongestSide {
    /// Resizes, subtracts the mean and divides by the deviation of each channel, and pads with
    /// zeros on the right and at the bottom, bit-equal to the reference: (3, size, size), R, G and
    /// B planes.
    ///
    /// # Errors
    /// [`crate::Error::InvalidImage`] when a side would become zero.
    pub fn apply(&self, image: &Image) -> Result<Vec<f32>> {
        let (width, height) = self.resized(image.width(), image.height());
        let resized = resize::resize_pillow_bilinear(image, width, height)?;
        let normalize = |v, (mean, std)| (v - mean) / std;
        Ok(padded(&resized, self.size, (0, 0), LEVELS, normalize))
    }

    /// Width and height of an image in the model's input, without the padding.
    pub fn resized(&self, width: usize, height: usize) -> (usize, usize) {
        let scale = self.size as f64 / width.max(height) as f64;
        let round = |side: usize| (side as f64 * scale + 0.5) as usize;
        (round(width), round(height))
    }

    /// A point in pixels of an image of `width` x `height` in pixels of the model's input.
    ///
    /// Easy to get wrong: each axis has its own ratio, because each side was rounded.
    pub fn map_point(&self, [x, y]: [f32; 2], width: usize, height: usize) -> [f32; 2] {
        let (new_width, new_height) = self.resized(width, height);
        let scaled =
            |v: f32, new: usize, old: usize| (f64::from(v) * (new as f64 / old as f64)) as f32;
        [scaled(x, new_width, width), scaled(y, new_height, height)]
    }
}

/// An image from column `left` and row `top` of a square on, around which are zeros; `normalize` gets each
/// sample and what `scales` has for its channel: (height, width, 3) -> (3, size, size).
fn padded(
    image: &Image,
    size: usize,
    (left, top): (usize, usize),
    scales: [(f32, f32); 3],
    normalize: impl Fn(f32, (f32, f32)) -> f32,
) -> Vec<f32> {
    let mut planes = vec![0.0; 3 * size * size];
    let channels = planes.chunks_exact_mut(size * size).enumerate();
    for ((channel, plane), scale) in channels.zip(scales) {
        let rows = image.pixels().chunks_exact(image.width() * 3);
        for (to, from) in plane.chunks_exact_mut(size).skip(top).zip(rows) {
            for (value, pixel) in to[left..].iter_mut().zip(from.chunks_exact(3)) {
                *value = normalize(f32::from(pixel[channel]), scale);
            }
        }
    }
    planes
}

/// Samples of 0..255 to [-1, 1]: (height, width, 3) -> (3, height, width).
fn normalize(image: &Image) -> Vec<f32> {
    let levels = levels();
    let (width, height) = (image.width(), image.height());
    let mut planes = vec![0.0; 3 * width * height];
    planes
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(i, to)| {
            let (channel, y) = (i / height, i % height);
            let from = &image.pixels()[y * width * 3..][..width * 3];
            for (value, pixel) in to.iter_mut().zip(from.chunks_exact(3)) {
                *value = levels[usize::from(pixel[channel])];
            }
        });
    planes
}

/// The value of each 8-bit sample, in the reference's order of operations.
///
/// Easy to get wrong: torchvision's `ToDtype(float32, scale=True)` multiplies by 1/255, it does not
/// divide by 255; for 111 of the 256 levels the last bit differs.
fn levels() -> [f32; 256] {
    const MEAN: f32 = 0.5;
    const STD: f32 = 0.5;
    std::array::from_fn(|sample| (sample as f32 * (1.0 / 255.0) - MEAN) / STD)
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn levels_equal_torchvision_to_the_last_bit() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/resize.safetensors"
        );
        let bytes = std::fs::read(path).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let want = golden.tensor("levels").unwrap();
        for (i, (got, want)) in levels().iter().zip(want.data().chunks_exact(4)).enumerate() {
            assert_eq!(got.to_le_bytes(), want, "level {i}");
        }
    }

    #[test]
    fn the_input_is_three_planes_between_minus_one_and_one() {
        let image = Image::from_rgb8(2, 1, vec![255, 0, 0, 255, 0, 255]).unwrap();
        let input = Square { size: 2 }.apply(&image).unwrap();
        let want = [
            1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 1.0, -1.0, 1.0,
        ];
        assert_eq!(input, want);
    }

    #[test]
    fn clip_sees_the_whole_of_a_long_picture_in_the_middle() {
        let size = 8;
        let white = Image::from_rgb8(100, 25, vec![255; 7500]).unwrap();
        let planes = ClipSquare { size }.apply(&white).unwrap();
        for (plane, (mean, std)) in planes.chunks_exact(size * size).zip(ClipSquare::CHANNELS) {
            let white = (1. - mean) / std;
            for (y, row) in plane.chunks_exact(size).enumerate() {
                let want = if (3..5).contains(&y) { white } else { 0. };
                assert!(row.iter().all(|v| (v - want).abs() < 1e-5), "{y}: {row:?}");
            }
        }
        // So thin that nothing would be left of it.
        let line = Image::from_rgb8(1000, 1, vec![255; 3000]).unwrap();
        let planes = ClipSquare { size }.apply(&line).unwrap();
        assert_eq!(planes.iter().filter(|v| **v > 1.).count(), 3 * size);
    }

    #[test]
    fn resizing_in_floating_point_rounds_nothing() {
        let image = Image::from_rgb8(2, 1, vec![0, 10, 20, 51, 12, 20]).unwrap();
        let input = FloatSquare { size: 4 }.apply(&image).unwrap();
        let value = |level: f32, (mean, std): (f32, f32)| (level / 255. - mean) / std;
        let rows = [[0., 12.75, 38.25, 51.], [10., 10.5, 11.5, 12.], [20.; 4]];
        for (channel, (row, scale)) in rows.iter().zip(IMAGENET).enumerate() {
            for (i, got) in input[channel * 16..][..16].iter().enumerate() {
                assert!(
                    (got - value(row[i % 4], scale)).abs() < 1e-5,
                    "{channel} {i}: {got}"
                );
            }
        }
        assert!(FloatSquare { size: 0 }.apply(&image).is_err());
    }

    #[test]
    fn points_go_to_fractions_of_the_image_and_back() {
        let image = Image::from_rgb8(200, 50, vec![0; 200 * 50 * 3]).unwrap();
        let square = Square { size: 1008 };
        assert_eq!(square.normalize_point([50.0, 25.0], &image), [0.25, 0.5]);
        assert_eq!(square.denormalize_point([0.25, 0.5], &image), [50.0, 25.0]);
    }

    #[test]
    fn the_longer_side_fills_the_input_and_the_rest_is_zero() {
        // Grey, which resizing leaves as it is.
        let image = Image::from_rgb8(8, 3, vec![128; 8 * 3 * 3]).unwrap();
        let transform = LongestSide { size: 16 };
        assert_eq!(transform.resized(8, 3), (16, 6));
        let input = transform.apply(&image).unwrap();
        for (channel, want) in [
            (128. - 123.675) / 58.395,
            (128. - 116.28) / 57.12,
            (128. - 103.53) / 57.375,
        ]
        .into_iter()
        .enumerate()
        {
            let plane = &input[channel * 256..][..256];
            assert!(plane[..6 * 16].iter().all(|v| *v == want));
            assert!(plane[6 * 16..].iter().all(|v| *v == 0.));
        }
    }

    #[test]
    fn sides_are_rounded_and_points_follow_each_side() {
        let transform = LongestSide { size: 1024 };
        // As the reference's get_preprocess_shape: 1200 * 1024 / 1800 = 682.67.
        assert_eq!(transform.resized(1800, 1200), (1024, 683));
        assert_eq!(transform.resized(2047, 3071), (683, 1024));
        let [x, y] = transform.map_point([900., 600.], 1800, 1200);
        assert_eq!((x, y), (512., 341.5));
    }
}
