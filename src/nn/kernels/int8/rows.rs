//! Rows of f32 as bytes: each row has a step and a zero of its own, measured as the row comes.

use super::super::lanes::{ROUND, vectorised};
use super::super::view::Rows;
use super::dot::Tile;

/// `x = scale * (byte - zero)` for the values of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Step {
    /// f32 to a step. NaN for a row with a value that is not finite, so that its whole result is
    /// NaN; 0 for a row of zeros, and of numbers so small that steps between them have no inverse.
    pub scale: f32,
    /// The byte that stands for 0, less what a tile takes from each byte.
    pub zero: i32,
}

/// Values of a register or two, each with a minimum and a maximum of its own.
const LANES: usize = 16;

/// Writes `xs` to strips, one behind the other, and the steps of its rows to `steps`. `bytes` is room
/// for a row.
///
/// # Panics
/// When one of them is too short.
pub fn pack(xs: Rows, tile: &Tile, bytes: &mut [u8], strips: &mut [u32], steps: &mut [Step]) {
    let strip = tile.strip(xs.len);
    let bytes = &mut bytes[..xs.len];
    for (i, step) in steps[..xs.count].iter_mut().enumerate() {
        *step = to_bytes(xs.row(i), bytes);
        let at = i / tile.rows * strip;
        tile.pack_row(bytes, i % tile.rows, &mut strips[at..at + strip]);
        step.zero -= i32::from(tile.offset);
    }
}

vectorised! {
    /// `bytes` become the values of a row.
    fn to_bytes<L>(row: &[f32], bytes: &mut [u8]) -> Step {
        let (mut low, mut high, mut finite) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for (i, x) in chunk.iter().enumerate() {
                low[i] = if *x < low[i] { *x } else { low[i] };
                high[i] = if *x > high[i] { *x } else { high[i] };
                finite[i] += x * 0.; // NaN from the first value on that is not finite
            }
        }
        for (i, x) in rest.iter().enumerate() {
            (low[i], high[i]) = (low[i].min(*x), high[i].max(*x));
            finite[i] += x * 0.;
        }
        let low = low.iter().fold(0f32, |a, b| a.min(*b));
        let high = high.iter().fold(0f32, |a, b| a.max(*b));
        let range = high - low;
        let inverse = 255. / range;
        if finite.iter().any(|x| x.is_nan()) || range == f32::INFINITY {
            bytes.fill(0);
            return Step { scale: f32::NAN, zero: 0 };
        }
        if inverse == f32::INFINITY {
            bytes.fill(0);
            return Step::default();
        }
        let zero = rounded(-low * inverse);
        for (byte, x) in bytes.iter_mut().zip(row) {
            *byte = rounded(x * inverse).wrapping_add(zero).clamp(0, 255) as u8;
        }
        Step { scale: range / 255., zero }
    }
}

/// To the nearest integer, halves to the even one, for |x| up to 2^22: see [`ROUND`]. (Nothing here
/// overflows; saying so keeps checks out of the loops.) The function of the standard library is a call
/// where the processor has no instruction for it.
#[inline(always)]
fn rounded(x: f32) -> i32 {
    ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for x in [
            0., 0.5, 1.5, 2.5, -0.5, -1.5, 0.49999, 254.5, -255.5, 127.50001,
        ] {
            assert_eq!(rounded(x), x.round_ties_even() as i32, "{x}");
        }
    }

    #[test]
    fn bytes_stand_for_their_values_within_a_step() {
        for len in [1, 15, 16, 50] {
            for shift in [0., 0.5, -3.] {
                let row: Vec<f32> = random(len, 1).iter().map(|x| x + shift).collect();
                let mut bytes = vec![0; len];
                let step = to_bytes(&row, &mut bytes);
                assert!((0..=255).contains(&step.zero));
                for (x, byte) in row.iter().zip(&bytes) {
                    let back = step.scale * (i32::from(*byte) - step.zero) as f32;
                    assert!((x - back).abs() <= step.scale, "{x} came back as {back}");
                }
            }
        }
    }

    #[test]
    fn zeros_tiny_and_infinite_rows_have_steps_too() {
        let mut bytes = [7; 20];
        assert_eq!(to_bytes(&[0.; 20], &mut bytes), Step::default());
        assert_eq!(bytes, [0; 20]);
        assert_eq!(to_bytes(&[1e-42; 20], &mut bytes), Step::default());
        let mut row = [1f32; 20];
        for (at, bad) in [(3, f32::NAN), (17, f32::INFINITY), (19, f32::NEG_INFINITY)] {
            row[at] = bad;
            assert!(to_bytes(&row, &mut bytes).scale.is_nan());
            row[at] = 1.;
        }
        (row[0], row[1]) = (f32::MAX, f32::MIN);
        assert!(to_bytes(&row, &mut bytes).scale.is_nan());
    }
}
