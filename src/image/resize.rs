//! Resizing of 8-bit RGB images, equal to the references to the last bit.
//!
//! All are separable convolutions in integer arithmetic with a filter that is stretched when shrinking
//! (antialiasing). Each of the two passes rounds to 8 bits; a pass whose
//! size does not change is skipped. They differ in the precision of the weights and in the order
//! of the passes:
//!
//! * [`resize_bilinear_antialias`]: torchvision's `v2.Resize(antialias=True)` on a uint8 CPU tensor,
//!   <https://github.com/pytorch/pytorch/blob/v2.5.0/aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h>,
//!   which is what SAM 3's image processor runs. Horizontal first; 16-bit weights, as many
//!   fractional bits as the largest of them leaves room for. On CUDA torchvision computes in
//!   floating point instead and differs from this by at most one level.
//! * [`resize_pillow_bilinear`]: `PIL.Image.resize(.., BILINEAR)`, which SAM 1 runs. 22 fractional bits.
//! * [`resize_pillow_bicubic`]: the same with `BICUBIC`, which CLIP runs.
//!
//! Easy to get wrong: Pillow 13 runs the vertical pass first when the height shrinks by more than
//! twice as many rows as the width loses columns (earlier versions never do). Found by comparison
//! with Pillow 13.0 on 1500 random sizes: no exception.

use rayon::prelude::*;

use super::Image;
use super::passes::{IntegerPass, Pass};
use crate::error::{Error, Result};
use crate::size::Size;

const CHANNELS: usize = 3;

/// Resizes as torchvision does on a uint8 CPU tensor (bilinear, antialias), bit for bit.
///
/// # Errors
/// [`Error::InvalidImage`] when `width` or `height` is zero.
pub fn resize_bilinear_antialias(image: &Image, width: usize, height: usize) -> Result<Image> {
    resize::<i16>(
        image,
        width,
        height,
        Order::HorizontalFirst,
        Kernel::Triangle,
    )
}

/// Resizes as Pillow 13 does with `BILINEAR`, bit for bit.
///
/// # Errors
/// [`Error::InvalidImage`] when `width` or `height` is zero.
pub fn resize_pillow_bilinear(image: &Image, width: usize, height: usize) -> Result<Image> {
    resize_pillow(image, width, height, Kernel::Triangle)
}

/// Resizes as Pillow 13 does with `BICUBIC`, bit for bit.
///
/// # Errors
/// [`Error::InvalidImage`] when `width` or `height` is zero.
pub fn resize_pillow_bicubic(image: &Image, width: usize, height: usize) -> Result<Image> {
    resize_pillow(image, width, height, Kernel::Cubic)
}

fn resize_pillow(image: &Image, width: usize, height: usize, kernel: Kernel) -> Result<Image> {
    let order = Order::of_pillow(image.size(), Size::new(width, height));
    resize::<i32>(image, width, height, order, kernel)
}

/// What [`resize_bilinear_antialias`] sums, in the order of its passes.
///
/// # Errors
/// As of that function.
pub(crate) fn bilinear_antialias_passes(from: Size, to: Size) -> Result<Vec<IntegerPass>> {
    passes::<i16>(from, to, Order::HorizontalFirst)
}

/// What [`resize_pillow_bilinear`] sums, in the order of its passes.
///
/// # Errors
/// As of that function.
pub(crate) fn pillow_bilinear_passes(from: Size, to: Size) -> Result<Vec<IntegerPass>> {
    passes::<i32>(from, to, Order::of_pillow(from, to))
}

fn passes<W: Weight>(from: Size, to: Size, order: Order) -> Result<Vec<IntegerPass>> {
    check_size(to)?;
    let pass = |is_horizontal, old: usize, new: usize| {
        (old != new).then(|| Filter::<W>::new(old, new, Kernel::Triangle).into_pass(is_horizontal))
    };
    let horizontal = pass(true, from.width, to.width);
    let vertical = pass(false, from.height, to.height);
    let in_order = match order {
        Order::HorizontalFirst => [horizontal, vertical],
        Order::VerticalFirst => [vertical, horizontal],
    };
    Ok(in_order.into_iter().flatten().collect())
}

fn check_size(Size { width, height }: Size) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::InvalidImage(format!(
            "cannot resize to {width}x{height} pixels; both sides must be at least 1"
        )));
    }
    Ok(())
}

/// An integer weight; how many of its bits are fractional depends on the reference.
trait Weight: Copy + Into<i32> + Send + Sync {
    /// Fractional bits when the largest weight of a pass is `largest`.
    fn bits(largest: f64) -> u32;
    fn from_i32(weight: i32) -> Self;
}

/// torchvision: as many bits as leave the largest weight below 2^15, at most 22.
impl Weight for i16 {
    fn bits(largest: f64) -> u32 {
        let fits = |bits: u32| 0.5 + largest * f64::from(1u32 << bits) < f64::from(1 << 15);
        (1..=22).take_while(|&bits| fits(bits)).last().unwrap_or(1)
    }

    fn from_i32(weight: i32) -> Self {
        weight as Self
    }
}

/// Pillow: always 22 bits.
impl Weight for i32 {
    fn bits(_: f64) -> u32 {
        22
    }

    fn from_i32(weight: i32) -> Self {
        weight
    }
}

enum Order {
    HorizontalFirst,
    VerticalFirst,
}

impl Order {
    fn of_pillow(from: Size, to: Size) -> Self {
        let rows_lost = from.height as i64 - to.height as i64;
        let columns_lost = from.width as i64 - to.width as i64;
        if rows_lost > 0 && rows_lost > 2 * columns_lost {
            Self::VerticalFirst
        } else {
            Self::HorizontalFirst
        }
    }
}

/// The weight of a source sample by its distance from the center of a window.
#[derive(Clone, Copy)]
enum Kernel {
    Triangle,
    /// Keys' cubic with the slope -1/2 at a distance of 1.
    Cubic,
}

impl Kernel {
    /// Beyond it there are zeros.
    fn radius(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::Cubic => 2.0,
        }
    }

    fn at(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Triangle => (1.0 - x).max(0.0),
            Self::Cubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Cubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Cubic => 0.0,
        }
    }
}

fn resize<W: Weight>(
    image: &Image,
    width: usize,
    height: usize,
    order: Order,
    kernel: Kernel,
) -> Result<Image> {
    check_size(Size::new(width, height))?;
    let (old_width, old_height) = (image.width(), image.height());
    let horizontal = (width != old_width).then(|| Filter::<W>::new(old_width, width, kernel));
    let vertical = (height != old_height).then(|| Filter::<W>::new(old_height, height, kernel));

    let pixels = match (horizontal, vertical) {
        (None, None) => image.pixels().to_vec(),
        (Some(horizontal), None) => horizontal.along_rows(image.pixels(), old_width),
        (None, Some(vertical)) => vertical.along_columns(image.pixels(), old_width),
        (Some(horizontal), Some(vertical)) => match order {
            Order::HorizontalFirst => {
                in_bands(&horizontal, &vertical, image.pixels(), old_width, width)
            }
            Order::VerticalFirst => horizontal.along_rows(
                &vertical.along_columns(image.pixels(), old_width),
                old_width,
            ),
        },
    };
    Image::from_rgb8(width, height, pixels)
}

/// The horizontal pass, then the vertical one, for as many rows of the result at a time as need a
/// bounded part of what is between: a tall picture would become much wider first.
fn in_bands<W: Weight>(
    horizontal: &Filter<W>,
    vertical: &Filter<W>,
    pixels: &[u8],
    old_width: usize,
    width: usize,
) -> Vec<u8> {
    /// Bytes between the passes; enough that photographs are one band.
    const BAND: usize = 32 << 20;
    let (old_stride, stride) = (old_width * CHANNELS, width * CHANNELS);
    let height = vertical.starts.len();
    let mut resized = vec![0; height * stride];
    let mut first = 0;
    while first < height {
        let start = vertical.starts[first];
        let fits = |row: &usize| (vertical.starts[*row] + vertical.taps - start) * stride <= BAND;
        let last = (first + 1..height).take_while(fits).last().unwrap_or(first);
        let end = vertical.starts[last] + vertical.taps;
        let source = &pixels[start * old_stride..end * old_stride];
        let between = horizontal.along_rows(source, old_width);
        let rows = first..last + 1;
        let to = &mut resized[rows.start * stride..rows.end * stride];
        vertical.rows_along_columns(rows, &between, start, width, to);
        first = last + 1;
    }
    resized
}

/// The weights of one pass: sample i of the result is a weighted sum of `taps` source samples from
/// `starts[i]` on.
struct Filter<W> {
    starts: Vec<usize>,
    /// Source samples per window: the widest one's, narrower windows have weights of zero.
    taps: usize,
    /// `taps` weights for each window.
    weights: Vec<W>,
    /// Fractional bits of the weights.
    bits: u32,
}

impl<W: Weight> Filter<W> {
    fn new(old: usize, new: usize, kernel: Kernel) -> Self {
        let scale = old as f64 / new as f64;
        let stretch = scale.max(1.0);
        let (support, inverse) = (kernel.radius() * stretch, 1.0 / stretch);

        let windows: Vec<(usize, Vec<f64>)> = (0..new)
            .map(|i| {
                let center = scale * (i as f64 + 0.5);
                // `as` truncates and saturates at zero, as the references do by hand.
                let start = (center - support + 0.5) as usize;
                let end = ((center + support + 0.5) as usize).min(old);
                let weight = |x: usize| kernel.at((x as f64 - center + 0.5) * inverse);
                let mut weights: Vec<f64> = (start..end).map(weight).collect();
                let total: f64 = weights.iter().sum();
                weights.iter_mut().for_each(|weight| *weight /= total);
                (start, weights)
            })
            .collect();

        let largest = windows.iter().flat_map(|(_, weights)| weights);
        let bits = W::bits(largest.copied().fold(0.0, f64::max));
        let one = f64::from(1u32 << bits);
        let taps = windows.iter().map(|(_, w)| w.len()).max().unwrap_or(0);
        let mut starts = Vec::with_capacity(new);
        let mut padded = Vec::with_capacity(new * taps);
        for (start, weights) in windows {
            // Zeros after the weights, or before them where the source ends.
            let shifted = start.min(old - taps);
            let first = padded.len() + start - shifted;
            padded.resize(first, W::from_i32(0));
            // Halves away from zero, as the references do by hand.
            padded.extend(
                weights
                    .iter()
                    .map(|w| W::from_i32((w * one).round() as i32)),
            );
            starts.push(shifted);
            padded.resize(starts.len() * taps, W::from_i32(0));
        }
        Self {
            starts,
            taps,
            weights: padded,
            bits,
        }
    }

    fn into_pass(self, is_horizontal: bool) -> IntegerPass {
        let weights = self.weights.into_iter().map(Into::<i32>::into);
        let sums = Pass {
            is_horizontal,
            starts: self.starts,
            taps: self.taps,
            weights: weights.map(|weight| weight as u32).collect(), // none is negative
        };
        IntegerPass {
            sums,
            bits: self.bits,
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
        let new_stride = self.starts.len() * CHANNELS;
        let mut resized = vec![0; rows * new_stride];
        resized
            .par_chunks_mut(new_stride)
            .zip(pixels.par_chunks(width * CHANNELS))
            .for_each(|(to, from)| match self.taps {
                1 => self.along_row::<1>(from, to),
                2 => self.along_row::<2>(from, to),
                3 => self.along_row::<3>(from, to),
                4 => self.along_row::<4>(from, to),
                5 => self.along_row::<5>(from, to),
                6 => self.along_row::<6>(from, to),
                7 => self.along_row::<7>(from, to),
                8 => self.along_row::<8>(from, to),
                _ => self.along_row_of_any_taps(from, to),
            });
        resized
    }

    /// One row, for windows of a size known to the compiler: twice as fast.
    fn along_row<const TAPS: usize>(&self, from: &[u8], to: &mut [u8]) {
        let (from, _) = from.as_chunks::<CHANNELS>();
        let (to, _) = to.as_chunks_mut::<CHANNELS>();
        let (weights, _) = self.weights.as_chunks::<TAPS>();
        for ((pixel, &start), weights) in to.iter_mut().zip(&self.starts).zip(weights) {
            let Some(window) = from[start..].first_chunk::<TAPS>() else {
                return;
            };
            let mut sums = [self.half(); CHANNELS];
            for (source, &weight) in window.iter().zip(weights) {
                for c in 0..CHANNELS {
                    sums[c] += i32::from(source[c]) * weight.into();
                }
            }
            *pixel = sums.map(|sum| self.quantize(sum));
        }
    }

    fn along_row_of_any_taps(&self, from: &[u8], to: &mut [u8]) {
        let (from, _) = from.as_chunks::<CHANNELS>();
        let (to, _) = to.as_chunks_mut::<CHANNELS>();
        let weights = self.weights.chunks_exact(self.taps);
        for ((pixel, &start), weights) in to.iter_mut().zip(&self.starts).zip(weights) {
            let mut sums = [self.half(); CHANNELS];
            for (source, &weight) in from[start..].iter().zip(weights) {
                for c in 0..CHANNELS {
                    sums[c] += i32::from(source[c]) * weight.into();
                }
            }
            *pixel = sums.map(|sum| self.quantize(sum));
        }
    }

    /// (rows, width, 3) -> (windows, width, 3)
    fn along_columns(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let windows = self.starts.len();
        let mut resized = vec![0; windows * width * CHANNELS];
        self.rows_along_columns(0..windows, pixels, 0, width, &mut resized);
        resized
    }

    /// Some of the windows; `pixels` begin with row `first_row` of the source.
    fn rows_along_columns(
        &self,
        windows: std::ops::Range<usize>,
        pixels: &[u8],
        first_row: usize,
        width: usize,
        resized: &mut [u8],
    ) {
        /// Samples whose sums are kept in registers while the rows of a window go by.
        const BLOCK: usize = 32;
        let stride = width * CHANNELS;
        let weights = &self.weights[windows.start * self.taps..windows.end * self.taps];
        resized
            .par_chunks_mut(stride)
            .zip(&self.starts[windows])
            .zip(weights.par_chunks(self.taps))
            .for_each(|((to, &start), weights)| {
                let rows = &pixels[(start - first_row) * stride..];
                let (blocks, rest) = to.as_chunks_mut::<BLOCK>();
                let rest_start = blocks.len() * BLOCK;
                for (block, to) in blocks.iter_mut().enumerate() {
                    let mut sums = [self.half(); BLOCK];
                    for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
                        let Some(from) = row[block * BLOCK..].first_chunk::<BLOCK>() else {
                            return;
                        };
                        for i in 0..BLOCK {
                            sums[i] += i32::from(from[i]) * weight.into();
                        }
                    }
                    *to = sums.map(|sum| self.quantize(sum));
                }
                for (i, sample) in rest.iter_mut().enumerate() {
                    let column = rows[rest_start + i..].iter().step_by(stride);
                    let products = column.zip(weights).map(|(&s, &w)| i32::from(s) * w.into());
                    *sample = self.quantize(self.half() + products.sum::<i32>());
                }
            });
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
    fn bands_do_not_change_a_tall_picture() {
        // 36 MB between the passes, more than one band.
        let (width, height) = (3, 30_000);
        let source = noise(width, height);
        let (horizontal, vertical) = (
            Filter::<i16>::new(width, 400, Kernel::Triangle),
            Filter::<i16>::new(height, 500, Kernel::Triangle),
        );
        let between = horizontal.along_rows(source.pixels(), width);
        let want = vertical.along_columns(&between, 400);
        let got = resize_bilinear_antialias(&source, 400, 500).unwrap();
        assert!(got.pixels() == want);
    }

    #[test]
    fn a_size_of_zero_is_refused() {
        assert!(resize_bilinear_antialias(&noise(4, 4), 0, 3).is_err());
        assert!(resize_pillow_bilinear(&noise(4, 4), 3, 0).is_err());
    }
}
