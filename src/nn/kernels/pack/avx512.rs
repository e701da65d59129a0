//! Packing by AVX-512.

use std::arch::x86_64::*;

use crate::nn::kernels::lanes::unroll;
use crate::nn::kernels::layout::{GROUP, Layout};
use crate::nn::kernels::view::{Block, Rows};

/// At most as many rows as `to` has columns.
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub fn transpose_singles(xs: Rows, scale: f32, mut to: Block) {
    let scale = _mm512_set1_ps(scale);
    for side in (0..to.width()).step_by(16) {
        let (xs, mut to) = (xs.rows(side, 16), to.columns(side, 16));
        for start in (0..xs.len).step_by(16) {
            let xs = xs.columns(start, 16);
            let mut rows = [_mm512_setzero_ps(); 16];
            unroll!(16, i => if i < xs.count {
                rows[i] = _mm512_mul_ps(scale, load(xs.row(i), 0));
            });
            store(square(rows), start, xs.len, &mut to);
        }
    }
}

/// The same; an element is a pair of values.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
pub fn transpose_pairs(xs: Rows, scale: f32, layout: Layout, mut to: Block) {
    let scale = _mm512_set1_ps(scale);
    let parts = Part::of(layout);
    for side in (0..to.width()).step_by(16) {
        let (xs, mut to) = (xs.rows(side, 16), to.columns(side, 16));
        for (group, start) in (0..xs.len).step_by(GROUP).enumerate() {
            let xs = xs.columns(start, GROUP);
            for (p, part) in parts.iter().enumerate() {
                let mut rows = [_mm512_setzero_ps(); 16];
                unroll!(16, i => if i < xs.count { rows[i] = pairs(xs.row(i), scale, *part) });
                let first = (group * parts.len() + p) * 16;
                store(square(rows), first, pairs_of_group(xs.len, layout), &mut to);
            }
        }
    }
}

/// Rows as rows of left tiles.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
pub fn copy_to_tiles(xs: Rows, scale: f32, layout: Layout, mut to: Block) {
    let scale = _mm512_set1_ps(scale);
    let (parts, width) = (Part::of(layout), to.width());
    let rows = to.elements().as_chunks_mut::<16>().0;
    for i in 0..width {
        for (group, start) in (0..xs.len).step_by(GROUP).enumerate() {
            for (p, part) in parts.iter().enumerate() {
                let row = match i < xs.count {
                    true => pairs(xs.columns(start, GROUP).row(i), scale, *part),
                    false => _mm512_setzero_ps(),
                };
                let to = &mut rows[(group * parts.len() + p) * width + i];
                // SAFETY: a register is 16 elements.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), row) }
            }
        }
    }
}

/// At most as many columns as `to` has; an element is a pair of values of a column.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
pub fn stack_pairs(xs: Rows, layout: Layout, mut to: Block) {
    let parts = Part::of(layout);
    for side in (0..to.width()).step_by(16) {
        let (xs, mut to) = (xs.columns(side, 16), to.columns(side, 16));
        for (group, start) in (0..xs.count).step_by(GROUP).enumerate() {
            let xs = xs.rows(start, GROUP);
            for (p, part) in parts.iter().enumerate() {
                let first = (group * parts.len() + p) * 16;
                store(
                    columns(xs, *part),
                    first,
                    pairs_of_group(xs.count, layout),
                    &mut to,
                );
            }
        }
    }
}

/// Columns as rows of left tiles.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
pub fn transpose_to_tiles(xs: Rows, layout: Layout, mut to: Block) {
    let (parts, width) = (Part::of(layout), to.width());
    let rows = to.elements().as_chunks_mut::<16>().0;
    for side in (0..width).step_by(16) {
        let xs = xs.columns(side, 16);
        for (group, start) in (0..xs.count).step_by(GROUP).enumerate() {
            for (p, part) in parts.iter().enumerate() {
                let tile = square(columns(xs.rows(start, GROUP), *part));
                let to = &mut rows[(group * parts.len() + p) * width + side..];
                unroll!(16, j => if j < width - side {
                    // SAFETY: a register is 16 elements.
                    unsafe { _mm512_storeu_ps(to[j].as_mut_ptr(), tile[j]) }
                });
            }
        }
    }
}

/// What of a value goes into a bf16.
#[derive(Clone, Copy)]
enum Part {
    Whole,
    High,
    Low,
}

impl Part {
    fn of(layout: Layout) -> &'static [Self] {
        match layout {
            Layout::LeftTiles { split: true } | Layout::RightTiles { split: true } => {
                &[Self::High, Self::Low]
            }
            _ => &[Self::Whole],
        }
    }

    /// Rounding this to bf16 gives the part.
    ///
    /// What is infinite or not a number is all in the low part. High parts are also multiplied
    /// with low ones, which may be 0 or have the other sign, and either would make infinity
    /// something that is not a number.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
    fn take(self, x: __m512) -> __m512 {
        const INFINITE_OR_NOT_A_NUMBER: i32 = 0x99;
        let high = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(round(x)));
        let infinite = || _mm512_fpclass_ps_mask::<INFINITE_OR_NOT_A_NUMBER>(high);
        match self {
            Self::Whole => x,
            Self::High => _mm512_maskz_mov_ps(!infinite(), high),
            Self::Low => _mm512_mask_sub_ps(x, !infinite(), x, high),
        }
    }
}

/// The values as bf16, each in the low half of its lane.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
fn round(x: __m512) -> __m512i {
    // SAFETY: both are 16 numbers of 16 bits.
    let bits = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) };
    _mm512_cvtepu16_epi32(bits)
}

/// At most 32 values of a row as pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
fn pairs(row: &[f32], scale: __m512, part: Part) -> __m512 {
    let take = |from| part.take(_mm512_mul_ps(scale, load(row, from)));
    let both = _mm512_cvtne2ps_pbh(take(16), take(0));
    // SAFETY: the types differ in name only.
    unsafe { std::mem::transmute::<__m512bh, __m512>(both) }
}

/// A row of values and the next one as a row of elements.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
pub fn row_of_pairs(first: __m512, second: __m512) -> __m512 {
    /// The first half of 32 numbers of 16 bits, each followed by its fellow of the second half.
    const SIDE_BY_SIDE: [u16; 32] = {
        let (mut order, mut i) = ([0; 32], 0);
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: a register is 32 numbers of 16 bits; the types differ in name only.
    let (order, both) = unsafe {
        let both = _mm512_cvtne2ps_pbh(second, first);
        (
            _mm512_loadu_si512(SIDE_BY_SIDE.as_ptr().cast()),
            std::mem::transmute::<__m512bh, __m512i>(both),
        )
    };
    _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both))
}

/// At most 16 columns of at most 32 rows: pairs of rows.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16")]
fn columns(xs: Rows, part: Part) -> [__m512; 16] {
    let take = |i| match i < xs.count {
        true => part.take(load(xs.row(i), 0)),
        false => _mm512_setzero_ps(),
    };
    let mut rows = [_mm512_setzero_ps(); 16];
    unroll!(16, e => if 2 * e < xs.count {
        rows[e] = row_of_pairs(take(2 * e), take(2 * e + 1));
    });
    rows
}

/// Pairs of a group that has `len` values: tiles are filled up.
fn pairs_of_group(len: usize, layout: Layout) -> usize {
    match layout {
        Layout::Singles | Layout::Pairs => len.div_ceil(2),
        _ => GROUP / 2,
    }
}

/// Values `from..from + 16`, 0 where there are none.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &[f32], from: usize) -> __m512 {
    let mask = first(row.len().saturating_sub(from));
    // SAFETY: the mask covers the values that are there; an address of masked lanes only is not
    // read from.
    unsafe { _mm512_maskz_loadu_ps(mask, row.as_ptr().wrapping_add(from)) }
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
    let low = |a, b| _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
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
