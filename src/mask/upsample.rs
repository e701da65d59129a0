//! Bilinear upsampling of mask logits, and masks straight from them.
//!
//! Equal to `torch.nn.functional.interpolate(.., mode="bilinear", align_corners=False)` on a CPU with
//! fused multiply-add, to the last bit when height + width of the result is over 128 (PyTorch has a
//! second kernel for smaller results; it differs by one or two units in the last place).
//!
//! Maps are stored by rows.

use std::ops::Range;

use rayon::prelude::*;

use super::{BITS, Mask};
use crate::error::{Error, Result};
use crate::size::Size;

/// Rows of the result that one task computes; neighbours share interpolated source rows.
const BAND: usize = 32;

/// Resizes a map of `size` to `new_size`, bilinear without antialiasing, corners not aligned.
///
/// # Errors
/// [`Error::InvalidMask`] when `map` does not have `size` or a side is zero.
pub fn upsample_bilinear(map: &[f32], size: Size, new_size: Size) -> Result<Vec<f32>> {
    let sampling = Sampling::new(map, size, new_size)?;
    let Size { width, height } = new_size;
    let mut resized = vec![0.0; height * width];
    resized
        .par_chunks_mut(BAND * width)
        .enumerate()
        .for_each(|(band, to)| {
            let mut interpolated = sampling.interpolated_rows();
            for (i, to) in to.chunks_exact_mut(width).enumerate() {
                let row = sampling.rows[band * BAND + i];
                let (first, second) = interpolated.pair(row);
                for ((value, &a), &b) in to.iter_mut().zip(first).zip(second) {
                    *value = row.blend(a, b);
                }
            }
        });
    Ok(resized)
}

/// The mask of the pixels where the upsampled map is greater than `threshold`.
///
/// The same as [`upsample_bilinear`] and a comparison, without storing the large map, and without
/// computing it where no source value can bring it above the threshold.
///
/// # Errors
/// [`Error::InvalidMask`] when `logits` does not have `size` or a side is zero.
pub fn threshold_upsampled(
    logits: &[f32],
    size: Size,
    new_size: Size,
    threshold: f32,
) -> Result<Mask> {
    let sampling = Sampling::new(logits, size, new_size)?;
    let Size { width, height } = new_size;
    // Rounding can lift a blend above its inputs by a few units in the last place of the largest.
    let largest = logits.iter().fold(0f32, |max, value| max.max(value.abs()));
    let low = |value: f32| value + 1e-6 * largest <= threshold;
    let high_columns: Vec<Option<Range<usize>>> = logits
        .chunks_exact(size.width)
        .map(|row| {
            let first = row.iter().position(|&value| !low(value))?;
            let last = row.iter().rposition(|&value| !low(value))?;
            Some(first..last + 1)
        })
        .collect();

    let mut mask = Mask::new(width, height);
    let stride = mask.stride;
    mask.words
        .par_chunks_mut(BAND * stride)
        .enumerate()
        .for_each(|(band, words)| {
            let mut interpolated = sampling.interpolated_rows();
            for (i, words) in words.chunks_exact_mut(stride).enumerate() {
                let row = sampling.rows[band * BAND + i];
                let Some(high) = union(&high_columns[row.first], &high_columns[row.second]) else {
                    continue;
                };
                let columns = sampling.columns_touching(high);
                let (first, second) = interpolated.pair(row);
                let span = columns.start / BITS..columns.end.div_ceil(BITS);
                for (word, bits) in span.clone().zip(&mut words[span]) {
                    let pixels = word * BITS..width.min((word + 1) * BITS);
                    let mut above = [0; BITS];
                    for ((above, &a), &b) in above
                        .iter_mut()
                        .zip(&first[pixels.clone()])
                        .zip(&second[pixels])
                    {
                        *above = u8::from(row.blend(a, b) > threshold);
                    }
                    *bits = pack(&above);
                }
            }
        });
    Ok(mask)
}

/// The two source samples that one sample of the result lies between.
#[derive(Clone, Copy)]
pub(crate) struct Tap {
    pub first: usize,
    pub second: usize,
    pub first_weight: f32,
    pub second_weight: f32,
}

impl Tap {
    /// A product and a fused multiply-add, as PyTorch's kernel compiles to. The sum in 64 bits
    /// rounds once, like the fused instruction, which not every target has.
    fn blend(self, first: f32, second: f32) -> f32 {
        let product = f64::from(first) * f64::from(self.first_weight);
        (product + f64::from(second * self.second_weight)) as f32
    }
}

/// Those of all samples of a side.
pub(crate) fn taps(old: usize, new: usize) -> Vec<Tap> {
    let scale = old as f32 / new as f32;
    (0..new)
        .map(|i| {
            let position = (scale * (i as f32 + 0.5) - 0.5).max(0.0);
            let first = (position as usize).min(old - 1);
            let second_weight = (position - first as f32).clamp(0.0, 1.0);
            Tap {
                first,
                second: (first + 1).min(old - 1),
                first_weight: 1.0 - second_weight,
                second_weight,
            }
        })
        .collect()
}

/// Where the samples of the result lie in the source map.
struct Sampling<'a> {
    map: &'a [f32],
    map_width: usize,
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

impl<'a> Sampling<'a> {
    fn new(map: &'a [f32], size: Size, new_size: Size) -> Result<Self> {
        let sides = [size.width, size.height, new_size.width, new_size.height];
        if sides.contains(&0) || map.len() != size.area() {
            return Err(Error::InvalidMask(format!(
                "cannot resize a {size} map of {} values to {new_size}; no side may be zero and \
                 width * height values are needed",
                map.len()
            )));
        }
        Ok(Self {
            map,
            map_width: size.width,
            rows: taps(size.height, new_size.height),
            columns: taps(size.width, new_size.width),
        })
    }

    /// The columns of the result that depend on any of the source columns `high`.
    fn columns_touching(&self, high: Range<usize>) -> Range<usize> {
        let start = self.columns.partition_point(|tap| tap.second < high.start);
        let end = self.columns.partition_point(|tap| tap.first < high.end);
        start..end
    }

    fn interpolated_rows(&self) -> InterpolatedRows<'_> {
        InterpolatedRows {
            sampling: self,
            slots: [(None, Vec::new()), (None, Vec::new())],
        }
    }
}

/// Source rows interpolated to the width of the result. Two are kept: the next row of the result
/// mostly lies between the same two.
struct InterpolatedRows<'a> {
    sampling: &'a Sampling<'a>,
    /// Row y of the source is kept in slot y % 2, so that neighbours never share one.
    slots: [(Option<usize>, Vec<f32>); 2],
}

impl InterpolatedRows<'_> {
    fn pair(&mut self, row: Tap) -> (&[f32], &[f32]) {
        self.fill(row.first);
        self.fill(row.second);
        (&self.slots[row.first % 2].1, &self.slots[row.second % 2].1)
    }

    fn fill(&mut self, y: usize) {
        let Sampling { map, map_width, .. } = *self.sampling;
        let (filled, values) = &mut self.slots[y % 2];
        if *filled == Some(y) {
            return;
        }
        *filled = Some(y);
        let source = &map[y * map_width..][..map_width];
        values.clear();
        values.extend(
            self.sampling
                .columns
                .iter()
                .map(|tap| tap.blend(source[tap.first], source[tap.second])),
        );
    }
}

/// One bit for each byte, which is 0 or 1.
fn pack(bytes: &[u8; BITS]) -> u64 {
    let (eights, _) = bytes.as_chunks::<8>();
    eights.iter().enumerate().fold(0, |word, (i, &eight)| {
        // The product gathers the lowest bits of the eight bytes in its highest byte.
        let byte = u64::from_le_bytes(eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word | byte << (8 * i)
    })
}

fn union(a: &Option<Range<usize>>, b: &Option<Range<usize>>) -> Option<Range<usize>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.start.min(b.start)..a.end.max(b.end)),
        (a, b) => a.clone().or(b.clone()),
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn golden_bytes() -> Vec<u8> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/upsample.safetensors"
        );
        std::fs::read(path).unwrap()
    }

    fn tensor(golden: &SafeTensors, name: &str) -> (Size, Vec<f32>) {
        let tensor = golden.tensor(name).unwrap();
        let values = tensor.data().chunks_exact(4);
        let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        (
            Size::new(tensor.shape()[1], tensor.shape()[0]),
            values.collect(),
        )
    }

    /// A smooth map with values on both sides of zero.
    fn waves(height: usize, width: usize, shift: f32) -> Vec<f32> {
        (0..height * width)
            .map(|i| {
                let (x, y) = ((i % width) as f32, (i / width) as f32);
                (x * 0.37).sin() * 4.0 + (y * 0.23).cos() * 3.0 + shift
            })
            .collect()
    }

    #[test]
    fn it_equals_pytorch_to_the_last_bit() {
        let bytes = golden_bytes();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        for case in ["up", "wide", "mixed", "down"] {
            let (size, map) = tensor(&golden, &format!("{case}.in"));
            let (new_size, want) = tensor(&golden, &format!("{case}.out"));
            let got = upsample_bilinear(&map, size, new_size).unwrap();
            let different = got.iter().zip(&want).filter(|(a, b)| a != b).count();
            assert_eq!(different, 0, "{case}: {size} to {new_size}");
        }
    }

    #[test]
    fn thresholding_on_the_way_changes_nothing() {
        let cases = [
            ((7, 9), (64, 200), 0.0, 0.0),
            ((36, 36), (150, 333), -6.8, 0.0),
            ((36, 36), (150, 333), -20.0, 0.0),
            ((36, 36), (150, 333), 20.0, 0.0),
            ((36, 36), (20, 11), 0.0, 0.5),
            ((1, 5), (40, 64), 0.0, -3.0),
            ((20, 30), (20, 30), 0.0, 1.0),
        ];
        for ((h, w), (new_h, new_w), shift, threshold) in cases {
            let (size, new_size) = (Size::new(w, h), Size::new(new_w, new_h));
            let map = waves(h, w, shift);
            let large = upsample_bilinear(&map, size, new_size).unwrap();
            let mask = threshold_upsampled(&map, size, new_size, threshold).unwrap();
            let want = Mask::from_fn(new_w, new_h, |x, y| large[y * new_w + x] > threshold);
            assert_eq!(mask, want, "{size} to {new_size}, shift {shift}");
        }
    }

    #[test]
    fn a_constant_map_at_the_threshold_is_outside() {
        let map = vec![0.1; 12];
        let want = upsample_bilinear(&map, Size::new(4, 3), Size::new(90, 70)).unwrap();
        let mask = threshold_upsampled(&map, Size::new(4, 3), Size::new(90, 70), 0.1).unwrap();
        assert_eq!(
            mask.area(),
            want.iter().filter(|&&value| value > 0.1).count()
        );
    }

    #[test]
    fn a_map_of_the_wrong_size_is_refused() {
        let (small, square) = (Size::new(3, 2), Size::square(4));
        assert!(upsample_bilinear(&[0.0; 5], small, square).is_err());
        assert!(threshold_upsampled(&[], Size::new(3, 0), square, 0.0).is_err());
        assert!(threshold_upsampled(&[0.0; 6], small, Size::new(4, 0), 0.0).is_err());
    }
}
