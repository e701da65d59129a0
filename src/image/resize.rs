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
    resize::<i16>(image, width, height, Kernel::Triangle)
}

/// Resizes as Pillow 13 does with `BILINEAR`, bit for bit.
///
/// # Errors
/// [`Error::InvalidImage`] when `width` or `height` is zero.
pub fn resize_pillow_bilinear(image: &Image, width: usize, height: usize) -> Result<Image> {
    resize::<i32>(image, width, height, Kernel::Triangle)
}

/// Resizes as Pillow 13 does with `BICUBIC`, bit for bit.
///
/// # Errors
/// [`Error::InvalidImage`] when `width` or `height` is zero.
pub fn resize_pillow_bicubic(image: &Image, width: usize, height: usize) -> Result<Image> {
    resize::<i32>(image, width, height, Kernel::Cubic)
}

/// What [`resize_bilinear_antialias`] sums, in the order of its passes.
///
/// # Errors
/// As of that function.
pub(crate) fn bilinear_antialias_passes(from: Size, to: Size) -> Result<Vec<IntegerPass<u32>>> {
    widened_passes::<i16>(from, to)
}

/// What [`resize_pillow_bilinear`] sums, in the order of its passes.
///
/// # Errors
/// As of that function.
pub(crate) fn pillow_bilinear_passes(from: Size, to: Size) -> Result<Vec<IntegerPass<u32>>> {
    widened_passes::<i32>(from, to)
}

fn widened_passes<W: Weight>(from: Size, to: Size) -> Result<Vec<IntegerPass<u32>>> {
    let passes = passes::<W>(from, to, Kernel::Triangle)?;
    Ok(passes.into_iter().map(IntegerPass::widened).collect())
}

/// The passes that are needed, in their order.
fn passes<W: Weight>(from: Size, to: Size, kernel: Kernel) -> Result<Vec<IntegerPass<W>>> {
    let Size { width, height } = to;
    if width == 0 || height == 0 {
        return Err(Error::InvalidImage(format!(
            "cannot resize to {width}x{height} pixels; both sides must be at least 1"
        )));
    }
    let pass = |is_horizontal, old: usize, new: usize| {
        (old != new).then(|| IntegerPass::new(is_horizontal, old, new, kernel))
    };
    let mut passes = [
        pass(true, from.width, width),
        pass(false, from.height, height),
    ];
    if W::columns_first(from, to) {
        passes.reverse();
    }
    Ok(passes.into_iter().flatten().collect())
}

/// An integer weight. How many of its bits are fractional, and which pass is the first, depends on
/// the reference.
pub(crate) trait Weight: Copy + Into<i32> + Send + Sync {
    /// Fractional bits when the largest weight of a pass is `largest`.
    fn bits(largest: f64) -> u32;
    fn from_i32(weight: i32) -> Self;
    /// Whether the vertical pass is the first.
    fn columns_first(from: Size, to: Size) -> bool;
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

    fn columns_first(_: Size, _: Size) -> bool {
        false
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

    fn columns_first(from: Size, to: Size) -> bool {
        let rows_lost = from.height as i64 - to.height as i64;
        let columns_lost = from.width as i64 - to.width as i64;
        rows_lost > 0 && rows_lost > 2 * columns_lost
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

fn resize<W: Weight>(image: &Image, width: usize, height: usize, kernel: Kernel) -> Result<Image> {
    let (old, old_width) = (image.pixels(), image.width());
    let passes = passes::<W>(image.size(), Size::new(width, height), kernel)?;
    let pixels = match &passes[..] {
        [first, second] if first.sums.is_horizontal => {
            in_bands(first, second, old, old_width, width)
        }
        [first, second] => second.along_rows(&first.along_columns(old, old_width), old_width),
        [only] if only.sums.is_horizontal => only.along_rows(old, old_width),
        [only] => only.along_columns(old, old_width),
        _ => old.to_vec(),
    };
    Image::from_rgb8(width, height, pixels)
}

/// The horizontal pass, then the vertical one, for as many rows of the result at a time as need a
/// bounded part of what is between: a tall picture would become much wider first.
fn in_bands<W: Weight>(
    horizontal: &IntegerPass<W>,
    vertical: &IntegerPass<W>,
    pixels: &[u8],
    old_width: usize,
    width: usize,
) -> Vec<u8> {
    /// Bytes between the passes; enough that photographs are one band.
    const BAND: usize = 32 << 20;
    let (old_stride, stride) = (old_width * CHANNELS, width * CHANNELS);
    let Pass { starts, taps, .. } = &vertical.sums;
    let height = starts.len();
    let mut resized = vec![0; height * stride];
    let mut first = 0;
    while first < height {
        let start = starts[first];
        let fits = |row: &usize| (starts[*row] + taps - start) * stride <= BAND;
        let last = (first + 1..height).take_while(fits).last().unwrap_or(first);
        let end = starts[last] + taps;
        let source = &pixels[start * old_stride..end * old_stride];
        let between = horizontal.along_rows(source, old_width);
        let rows = first..last + 1;
        let to = &mut resized[rows.start * stride..rows.end * stride];
        vertical.rows_along_columns(rows, &between, start, width, to);
        first = last + 1;
    }
    resized
}

impl<W: Weight> IntegerPass<W> {
    /// Its taps are those of the widest window; narrower ones have weights of zero.
    fn new(is_horizontal: bool, old: usize, new: usize, kernel: Kernel) -> Self {
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
        let sums = Pass {
            is_horizontal,
            starts,
            taps,
            weights: padded,
        };
        Self { sums, bits }
    }

    /// The same for a triangle, of whose weights none is negative.
    fn widened(self) -> IntegerPass<u32> {
        let weight = |weight: &W| Into::<i32>::into(*weight) as u32;
        let sums = Pass {
            weights: self.sums.weights.iter().map(weight).collect(),
            is_horizontal: self.sums.is_horizontal,
            starts: self.sums.starts,
            taps: self.sums.taps,
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
        let new_stride = self.sums.starts.len() * CHANNELS;
        let mut resized = vec![0; rows * new_stride];
        resized
            .par_chunks_mut(new_stride)
            .zip(pixels.par_chunks(width * CHANNELS))
            .for_each(|(to, from)| match self.sums.taps {
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
        let (weights, _) = self.sums.weights.as_chunks::<TAPS>();
        for ((pixel, &start), weights) in to.iter_mut().zip(&self.sums.starts).zip(weights) {
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
        let weights = self.sums.weights.chunks_exact(self.sums.taps);
        for ((pixel, &start), weights) in to.iter_mut().zip(&self.sums.starts).zip(weights) {
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
        let windows = self.sums.starts.len();
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
        let weights =
            &self.sums.weights[windows.start * self.sums.taps..windows.end * self.sums.taps];
        resized
            .par_chunks_mut(stride)
            .zip(&self.sums.starts[windows])
            .zip(weights.par_chunks(self.sums.taps))
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
            IntegerPass::<i16>::new(true, width, 400, Kernel::Triangle),
            IntegerPass::<i16>::new(false, height, 500, Kernel::Triangle),
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
