//! Packing by AVX2.

use std::arch::x86_64::*;

use crate::nn::kernels::lanes::unroll;
use crate::nn::kernels::view::{Block, Rows};

/// Values of a row that are turned at once.
const STEP: usize = 8;

/// Writes rows `first..first + N` as columns `first..first + N` of `to`, multiplied by `scale`; N is 6,
/// the height of a tile, or 8. Returns N.
#[target_feature(enable = "avx2")]
pub fn transpose<const N: usize>(xs: Rows, first: usize, scale: f32, to: &mut Block) -> usize {
    let rows = xs.rows(first, N);
    assert!((N == 6 || N == STEP) && rows.count == N);
    assert!(rows.len <= to.count && first + N <= to.width);
    let mut t = 0;
    while t + STEP <= rows.len {
        // SAFETY: all rows go on for 8 values; `to` has a row for each of them, with N columns from
        // `first` on.
        unsafe {
            let columns = turn::<N>(rows.row(0).as_ptr().add(t), rows.stride, scale);
            let at = to.first.add(t * to.stride + first);
            unroll!(8, j => store::<N>(columns[j], at.add(j * to.stride)));
        }
        t += STEP;
    }
    for t in t..rows.len {
        let to = &mut to.row(t)[first..first + N];
        for (i, to) in to.iter_mut().enumerate() {
            *to = rows.row(i)[t] * scale;
        }
    }
    N
}

/// Columns of up to eight rows, times `scale`.
///
/// # Safety
/// 8 values can be read from each of N rows, `stride` apart.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn turn<const N: usize>(rows: *const f32, stride: usize, scale: f32) -> [__m256; STEP] {
    let scale = _mm256_set1_ps(scale);
    let mut columns = [_mm256_setzero_ps(); STEP];
    unroll!(2, half => {
        // A quarter of the square: four values of rows `i` and `i + 4`.
        let mut r = [_mm256_setzero_ps(); 4];
        unroll!(4, i => {
            // SAFETY: the caller's promise.
            let low = unsafe { _mm_loadu_ps(rows.add(i * stride + 4 * half)) };
            let high = match i + 4 < N {
                // SAFETY: as above.
                true => unsafe { _mm_loadu_ps(rows.add((i + 4) * stride + 4 * half)) },
                false => _mm_setzero_ps(),
            };
            r[i] = _mm256_mul_ps(scale, _mm256_set_m128(high, low));
        });
        let (a, b) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (c, d) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        columns[4 * half] = _mm256_shuffle_ps::<0x44>(a, c);
        columns[4 * half + 1] = _mm256_shuffle_ps::<0xee>(a, c);
        columns[4 * half + 2] = _mm256_shuffle_ps::<0x44>(b, d);
        columns[4 * half + 3] = _mm256_shuffle_ps::<0xee>(b, d);
    });
    columns
}

/// Writes the first N values.
///
/// # Safety
/// N values can be written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const N: usize>(xs: __m256, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if N == STEP {
            return _mm256_storeu_ps(to, xs);
        }
        // Not masked: such stores are slow on AMD's processors before Zen 4.
        _mm_storeu_ps(to, _mm256_castps256_ps128(xs));
        let rest = _mm_castps_pd(_mm256_extractf128_ps::<1>(xs));
        _mm_storel_pd(to.add(4).cast(), rest);
    }
}
