//! Resizing of 8-bit RGB images, equal to the references to the last bit.
//!
//! Both functions are separable convolutions in integer arithmetic with a triangle filter that is
//! stretched when shrinking (antialiasing). Each of the two passes rounds to 8 bits; a pass whose
//! size does not change is skipped. They differ in the precision of the weights and in the order
//! of the passes:
//!
//! * [`resize_bilinear_antialias`]: torchvision's `v2.Resize(antialias=True)` on a uint8 CPU tensor,
//!   <https://github.com/pytorch/pytorch/blob/v2.5.0/aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h>,
//!   which is what SAM 3's image processor runs. Horizontal first; 16-bit weights, as many
//!   fractional bits as the largest of them leaves room for. On CUDA torchvision computes in
//!   floating point instead and differs from this by at most one level.
//! * [`resize_pillow_bilinear`]: `PIL.Image.resize(.., BILINEAR)`, which SAM 1 runs. 22 fractional bits.
//!
//! Easy to get wrong: Pillow 13 runs the vertical pass first when the height shrinks by more than
//! twice as many rows as the width loses columns (earlier versions never do). Found by comparison
//! with Pillow 13.0 on 1500 random sizes: no exception.

use rayon::prelude::*;

use super::Image;
use crate::error::{Error, Result};

const CHANNELS: usize = 3;

/// Resizes as torchvision does on a uint8 CPU tensor (bilinear, antialias), bit for bit.
///
/// # Errors
/// [`Error::InvalidImage`] when `width` or `height` is zero.
pub fn resize_bilinear_antialias(image: &Image, width: usize, height: usize) -> Result<Image> {
    resize(
        image,
        width,
        height,
        Precision::Int16,
        Order::HorizontalFirst,
    )
}

/// Resizes as Pillow 13 does with `BILINEAR`, bit for bit.
///
/// # Errors
/// [`Error::InvalidImage`] when `width` or `height` is zero.
pub fn resize_pillow_bilinear(image: &Image, width: usize, height: usize) -> Result<Image> {
    let rows_lost = image.height() as i64 - height as i64;
    let columns_lost = image.width() as i64 - width as i64;
    let order = if rows_lost > 0 && rows_lost > 2 * columns_lost {
        Order::VerticalFirst
    } else {
        Order::HorizontalFirst
    };
    resize(image, width, height, Precision::Bits22, order)
}

/// How many fractional bits the integer weights have.
#[derive(Clone, Copy)]
enum Precision {
    /// As many as fit when the largest weight must stay below 2^15, at most 22.
    Int16,
    /// Always 22.
    Bits22,
}

enum Order {
    HorizontalFirst,
    VerticalFirst,
}

fn resize(
    image: &Image,
    width: usize,
    height: usize,
    precision: Precision,
    order: Order,
) -> Result<Image> {
    if width == 0 || height == 0 {
        return Err(Error::InvalidImage(format!(
            "cannot resize to {width}x{height} pixels; both sides must be at least 1"
        )));
    }
    let (old_width, old_height) = (image.width(), image.height());
    let horizontal = (width != old_width).then(|| Filter::new(old_width, width, precision));
    let vertical = (height != old_height).then(|| Filter::new(old_height, height, precision));

    let pixels = match (horizontal, vertical) {
        (None, None) => image.pixels().to_vec(),
        (Some(horizontal), None) => horizontal.along_rows(image.pixels(), old_width),
        (None, Some(vertical)) => vertical.along_columns(image.pixels(), old_width),
        (Some(horizontal), Some(vertical)) => match order {
            Order::HorizontalFirst => {
                vertical.along_columns(&horizontal.along_rows(image.pixels(), old_width), width)
            }
            Order::VerticalFirst => horizontal.along_rows(
                &vertical.along_columns(image.pixels(), old_width),
                old_width,
            ),
        },
    };
    Image::from_rgb8(width, height, pixels)
}

/// The weights of one pass: output sample i is the sum over its window of source samples.
struct Filter {
    windows: Vec<Window>,
    /// The weights of all windows, one after the other.
    weights: Vec<i32>,
    /// Fractional bits of the weights.
    bits: u32,
}

struct Window {
    /// First source sample.
    start: usize,
    /// Where its weights lie in [`Filter::weights`].
    weights: std::ops::Range<usize>,
}

impl Filter {
    fn new(old: usize, new: usize, precision: Precision) -> Self {
        let scale = old as f64 / new as f64;
        let support = scale.max(1.0);
        let inverse = 1.0 / support;

        let mut windows = Vec::with_capacity(new);
        let mut exact: Vec<f64> = Vec::new();
        for i in 0..new {
            let center = scale * (i as f64 + 0.5);
            // `as` truncates and saturates at zero, as the references do by hand.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let first = exact.len();
            exact.extend(
                (start..end).map(|x| (1.0 - ((x as f64 - center + 0.5) * inverse).abs()).max(0.0)),
            );
            let total: f64 = exact[first..].iter().sum();
            for weight in &mut exact[first..] {
                *weight /= total;
            }
            windows.push(Window {
                start,
                weights: first..exact.len(),
            });
        }

        let bits = match precision {
            Precision::Bits22 => 22,
            Precision::Int16 => {
                let largest = exact.iter().copied().fold(0.0, f64::max);
                let fits = |bits: u32| ((0.5 + largest * f64::from(1u32 << bits)) as u32) < 1 << 15;
                (1..=22).take_while(|&bits| fits(bits)).last().unwrap_or(0)
            }
        };
        let one = f64::from(1u32 << bits);
        let weights = exact.iter().map(|w| (0.5 + w * one) as i32).collect();
        Self {
            windows,
            weights,
            bits,
        }
    }

    /// Half a level, so that the final shift rounds.
    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    fn quantize(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }

    /// (rows, width, 3) -> (rows, windows, 3)
    fn along_rows(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let rows = pixels.len() / (width * CHANNELS);
        let new_stride = self.windows.len() * CHANNELS;
        let mut resized = vec![0; rows * new_stride];
        resized
            .par_chunks_mut(new_stride)
            .zip(pixels.par_chunks(width * CHANNELS))
            .for_each(|(to, from)| {
                for (pixel, window) in to.chunks_exact_mut(CHANNELS).zip(&self.windows) {
                    let weights = &self.weights[window.weights.clone()];
                    let mut sums = [self.half(); CHANNELS];
                    for (source, &weight) in from[window.start * CHANNELS..]
                        .chunks_exact(CHANNELS)
                        .zip(weights)
                    {
                        for c in 0..CHANNELS {
                            sums[c] += i32::from(source[c]) * weight;
                        }
                    }
                    for c in 0..CHANNELS {
                        pixel[c] = self.quantize(sums[c]);
                    }
                }
            });
        resized
    }

    /// (rows, width, 3) -> (windows, width, 3)
    fn along_columns(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        /// Samples whose sums are kept in registers while the rows of a window go by.
        const BLOCK: usize = 64;
        let stride = width * CHANNELS;
        let mut resized = vec![0; self.windows.len() * stride];
        resized
            .par_chunks_mut(stride)
            .zip(&self.windows)
            .for_each(|(to, window)| {
                let weights = &self.weights[window.weights.clone()];
                let rows = &pixels[window.start * stride..];
                for (block, to) in to.chunks_mut(BLOCK).enumerate() {
                    let mut sums = [self.half(); BLOCK];
                    for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
                        for (sum, &sample) in sums.iter_mut().zip(&row[block * BLOCK..][..to.len()])
                        {
                            *sum += i32::from(sample) * weight;
                        }
                    }
                    for (sample, &sum) in to.iter_mut().zip(&sums) {
                        *sample = self.quantize(sum);
                    }
                }
            });
        resized
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn golden_bytes() -> Vec<u8> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/resize.safetensors"
        );
        std::fs::read(path).unwrap()
    }

    /// The noise that the golden file was made from.
    fn noise(width: usize, height: usize) -> Image {
        let mut state = (width * 100_003 + height) as u32;
        let sample = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let pixels = std::iter::repeat_with(sample).take(width * height * 3);
        Image::from_rgb8(width, height, pixels.collect()).unwrap()
    }

    /// (width, height) before, (width, height) after
    const CASES: [[usize; 4]; 14] = [
        [53, 37, 24, 24],
        [30, 20, 48, 64],
        [17, 1, 8, 8],
        [1, 50, 16, 16],
        [3, 200, 11, 11],
        [500, 3, 12, 12],
        [32, 32, 32, 32],
        [40, 32, 20, 32],
        [32, 40, 32, 20],
        [64, 64, 63, 63],
        [5, 7, 40, 40],
        [100, 90, 5, 7],
        [1, 1, 9, 4],
        [31, 97, 15, 47],
    ];

    fn differing(got: &Image, want: &[u8]) -> usize {
        assert_eq!(got.pixels().len(), want.len());
        got.pixels()
            .iter()
            .zip(want)
            .filter(|(a, b)| a != b)
            .count()
    }

    #[test]
    fn it_equals_torchvision_to_the_last_bit() {
        let bytes = golden_bytes();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        for [w, h, width, height] in CASES {
            let name = format!("torchvision.{w}x{h}.{width}x{height}");
            let got = resize_bilinear_antialias(&noise(w, h), width, height).unwrap();
            let want = golden.tensor(&name).unwrap();
            assert_eq!(differing(&got, want.data()), 0, "{name}");
        }
    }

    #[test]
    fn it_equals_pillow_to_the_last_bit() {
        let bytes = golden_bytes();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        for [w, h, width, height] in CASES {
            let name = format!("pillow.{w}x{h}.{width}x{height}");
            let got = resize_pillow_bilinear(&noise(w, h), width, height).unwrap();
            let want = golden.tensor(&name).unwrap();
            assert_eq!(differing(&got, want.data()), 0, "{name}");
        }
    }

    #[test]
    fn large_images_equal_torchvision_by_their_checksums() {
        for (w, h, want) in [
            (1800, 1200, 0x527e_053f),
            (333, 517, 0xc32d_adff),
            (3000, 40, 0x513e_afe0),
        ] {
            let got = resize_bilinear_antialias(&noise(w, h), 1008, 1008).unwrap();
            assert_eq!(crc32(got.pixels()), want, "{w}x{h}");
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn a_size_of_zero_is_refused() {
        assert!(resize_bilinear_antialias(&noise(4, 4), 0, 3).is_err());
        assert!(resize_pillow_bilinear(&noise(4, 4), 3, 0).is_err());
    }
}
