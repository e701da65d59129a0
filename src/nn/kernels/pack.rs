//! Operands in the order in which [`Tile`](super::tile::Tile) reads them.
//!
//! A packed operand is a list of elements of 32 bits: one f32, or two bf16 that follow each other
//! in the summation. It is a list of f32 in either case, so that all code but the innermost
//! instruction is the same.

use super::tile::Block;
#[cfg(target_arch = "x86_64")]
use super::tile::{Level, level};

/// What an element holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One f32.
    Single,
    /// Two bf16, the first in the low bits. Only for processors that multiply them, see
    /// [`Tile::of`](super::tile::Tile::of).
    Pairs,
}

impl Format {
    /// Values in an element.
    pub fn values(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Pairs => 2,
        }
    }

    /// Elements that hold `len` values; zeros fill up the last one.
    pub fn elements(self, len: usize) -> usize {
        len.div_ceil(self.values())
    }
}

/// A view of a matrix: `count` rows of `len` values, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    xs: &'a [f32],
    stride: usize,
    /// The number of rows.
    pub count: usize,
    /// Values in a row.
    pub len: usize,
}

impl<'a> Rows<'a> {
    /// The rows that start at the first value of `xs`.
    ///
    /// # Panics
    /// When `xs` is too short for them.
    pub fn new(xs: &'a [f32], stride: usize, count: usize, len: usize) -> Self {
        assert!(count == 0 || xs.len() >= (count - 1) * stride + len);
        Self {
            xs,
            stride,
            count,
            len,
        }
    }

    /// Rows `start..start + count`, or as many of them as there are.
    pub fn rows(self, start: usize, count: usize) -> Self {
        let start = start.min(self.count);
        Self {
            xs: &self.xs[(start * self.stride).min(self.xs.len())..],
            count: count.min(self.count - start),
            ..self
        }
    }

    /// Columns `start..start + len`, or as many of them as there are.
    pub fn columns(self, start: usize, len: usize) -> Self {
        let start = start.min(self.len);
        Self {
            xs: &self.xs[start.min(self.xs.len())..],
            len: len.min(self.len - start),
            ..self
        }
    }

    /// The values of a row.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.xs[i * self.stride..][..self.len]
    }
}

/// Writes rows as columns, multiplied by `scale`: element `e` of row `i` goes to row `e`, column
/// `i` of `to`; columns without a row become 0.
///
/// # Panics
/// When `to` has fewer rows than there are elements, or fewer columns than rows to pack.
pub fn transpose(xs: Rows, scale: f32, format: Format, mut to: Block) {
    let width = to.width();
    assert!(format.elements(xs.len) <= to.count() && xs.count <= width);
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        for first in (0..width).step_by(16) {
            let rows = xs.rows(first, 16);
            let to = to.columns(first, 16);
            // SAFETY: the level is as asked for; pairs exist only where their instructions do.
            unsafe {
                match format {
                    Format::Single => x86::transpose_singles(rows, scale, to),
                    Format::Pairs => x86::transpose_pairs(rows, scale, to),
                }
            }
        }
        return;
    }
    assert_eq!(format, Format::Single, "pairs exist with AVX-512 only");
    for t in 0..xs.len {
        to.row(t)[xs.count..].fill(0.);
    }
    for i in 0..xs.count {
        for (t, x) in xs.row(i).iter().enumerate() {
            to.row(t)[i] = x * scale;
        }
    }
}

/// Writes rows as they are: row `e` of `to` holds element `e` of each column; columns and values
/// that are not there become 0.
///
/// # Panics
/// When `to` has fewer rows than there are elements, or fewer columns.
pub fn stack(xs: Rows, format: Format, mut to: Block) {
    assert!(format.elements(xs.count) <= to.count() && xs.len <= to.width());
    match format {
        Format::Single => {
            for i in 0..xs.count {
                let to = to.row(i);
                to[..xs.len].copy_from_slice(xs.row(i));
                to[xs.len..].fill(0.);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Format::Pairs => {
            for first in (0..to.width()).step_by(16) {
                // SAFETY: pairs exist only where their instructions do.
                unsafe { x86::stack_pairs(xs.columns(first, 16), to.columns(first, 16)) }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Format::Pairs => unreachable!("pairs exist with AVX-512 only"),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, Rows};
    use crate::nn::kernels::lanes::unroll;

    /// At most 16 rows; `to` has at most 16 columns.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
    pub unsafe fn transpose_singles(xs: Rows, scale: f32, mut to: Block) {
        let scale = _mm512_set1_ps(scale);
        for start in (0..xs.len).step_by(16) {
            let xs = xs.columns(start, 16);
            // SAFETY: the mask covers the columns that are there.
            let load = |row: &[f32]| unsafe {
                _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(first(xs.len), row.as_ptr()))
            };
            let mut rows = [_mm512_setzero_ps(); 16];
            unroll!(16, i => if i < xs.count { rows[i] = load(xs.row(i)) });
            store(square(rows), start, xs.len, &mut to);
        }
    }

    /// The same; each element holds two values.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
    pub unsafe fn transpose_pairs(xs: Rows, scale: f32, mut to: Block) {
        let scale = _mm512_set1_ps(scale);
        for start in (0..xs.len).step_by(32) {
            let xs = xs.columns(start, 32);
            let (low, high) = (first(xs.len), first(xs.len.saturating_sub(16)));
            // SAFETY: the masks cover the columns that are there; an address of masked lanes only
            // is not read from.
            let load = |row: &[f32]| unsafe {
                let low = _mm512_maskz_loadu_ps(low, row.as_ptr());
                let high = _mm512_maskz_loadu_ps(high, row.as_ptr().wrapping_add(16));
                let both =
                    _mm512_cvtne2ps_pbh(_mm512_mul_ps(scale, high), _mm512_mul_ps(scale, low));
                std::mem::transmute::<__m512bh, __m512>(both)
            };
            let mut rows = [_mm512_setzero_ps(); 16];
            unroll!(16, i => if i < xs.count { rows[i] = load(xs.row(i)) });
            store(square(rows), start / 2, xs.len.div_ceil(2), &mut to);
        }
    }

    /// At most 16 columns of `xs` and of `to`.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
    pub unsafe fn stack_pairs(xs: Rows, mut to: Block) {
        let (from, until) = (first(xs.len), first(to.width()));
        // SAFETY: the mask covers the columns that are there.
        let load = |i: usize| unsafe { _mm512_maskz_loadu_ps(from, xs.row(i).as_ptr()) };
        // SAFETY: both are 16 numbers of 16 bits.
        let widen = |x| unsafe {
            _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(
                _mm512_cvtneps_pbh(x),
            ))
        };
        for e in 0..xs.count.div_ceil(2) {
            let low = widen(load(2 * e));
            let high = match 2 * e + 1 < xs.count {
                true => widen(load(2 * e + 1)),
                false => _mm512_setzero_si512(),
            };
            let pairs = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
            // SAFETY: the mask covers the columns that are there.
            unsafe {
                _mm512_mask_storeu_ps(to.row(e).as_mut_ptr(), until, _mm512_castsi512_ps(pairs))
            }
        }
    }

    /// The lanes below `count`.
    fn first(count: usize) -> __mmask16 {
        match count {
            16.. => !0,
            count => (1 << count) - 1,
        }
    }

    /// Writes `count` of the registers to rows `start..` of `to`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(columns: [__m512; 16], start: usize, count: usize, to: &mut Block) {
        let mask = first(to.width());
        unroll!(16, j => if j < count {
            // SAFETY: the mask covers the columns that are there.
            unsafe { _mm512_mask_storeu_ps(to.row(start + j).as_mut_ptr(), mask, columns[j]) }
        });
    }

    /// Rows of a square become its columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn square(r: [__m512; 16]) -> [__m512; 16] {
        let (mut t, mut u) = (r, r);
        unroll!(8, i => {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        });
        let low =
            |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
        let high =
            |a, b| _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
        unroll!(4, i => {
            u[4 * i] = low(t[4 * i], t[4 * i + 2]);
            u[4 * i + 1] = high(t[4 * i], t[4 * i + 2]);
            u[4 * i + 2] = low(t[4 * i + 1], t[4 * i + 3]);
            u[4 * i + 3] = high(t[4 * i + 1], t[4 * i + 3]);
        });
        // Now quarter `l` of register `4 i + j` holds column `4 l + j` of rows `4 i ..`.
        let even = |a, b| _mm512_shuffle_f32x4::<0x88>(a, b);
        let odd = |a, b| _mm512_shuffle_f32x4::<0xdd>(a, b);
        unroll!(4, j => {
            t[j] = even(u[j], u[4 + j]);
            t[4 + j] = odd(u[j], u[4 + j]);
            t[8 + j] = even(u[8 + j], u[12 + j]);
            t[12 + j] = odd(u[8 + j], u[12 + j]);
        });
        unroll!(4, j => {
            u[j] = even(t[j], t[8 + j]);
            u[8 + j] = odd(t[j], t[8 + j]);
            u[4 + j] = even(t[4 + j], t[12 + j]);
            u[12 + j] = odd(t[4 + j], t[12 + j]);
        });
        u
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;
    use crate::nn::kernels::tile::Tile;

    /// The values of packed elements, one list for each column.
    fn values(packed: &[f32], width: usize, format: Format) -> Vec<Vec<f32>> {
        let of_element = |x: &f32| match format {
            Format::Single => vec![*x],
            Format::Pairs => [x.to_bits() << 16, x.to_bits() & 0xffff_0000]
                .map(f32::from_bits)
                .to_vec(),
        };
        (0..width)
            .map(|i| {
                packed[i..]
                    .iter()
                    .step_by(width)
                    .flat_map(of_element)
                    .collect()
            })
            .collect()
    }

    #[test]
    fn packed_rows_and_columns_hold_their_values_and_zeros_elsewhere() {
        for format in [Format::Single, Format::Pairs] {
            if Tile::of(format).format != format {
                continue;
            }
            for (count, len, width) in [
                (1, 1, 1),
                (5, 7, 14),
                (14, 33, 14),
                (20, 64, 32),
                (31, 5, 32),
            ] {
                // a view into something larger
                let (stride, xs) = (len + 3, random(count * (len + 3), 1));
                let xs = Rows::new(&xs, stride, count, len);
                let close = |got: f32, want: f32| (got - want).abs() <= want.abs() * 4e-3;

                let mut to = vec![f32::NAN; format.elements(len) * width];
                transpose(xs, 2., format, Block::new(&mut to, width));
                for (i, got) in values(&to, width, format).iter().enumerate() {
                    for (t, got) in got.iter().enumerate() {
                        let there = i < count && t < len;
                        let want = if there { 2. * xs.row(i)[t] } else { 0. };
                        assert!(close(*got, want), "{count}x{len} at {i}, {t}: {got} {want}");
                    }
                }

                let wide = len.next_multiple_of(10);
                let mut to = vec![f32::NAN; format.elements(count) * wide];
                stack(xs, format, Block::new(&mut to, wide));
                for (j, got) in values(&to, wide, format).iter().enumerate() {
                    for (i, got) in got.iter().enumerate() {
                        let there = i < count && j < len;
                        let want = if there { xs.row(i)[j] } else { 0. };
                        assert!(close(*got, want), "{count}x{len} at {i}, {j}: {got} {want}");
                    }
                }
            }
        }
    }
}
