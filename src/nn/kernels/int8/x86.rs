//! Registers of 32-bit sums of x86-64, and the loop compiled for each.
//!
//! AVX-VNNI's have not run on a processor that has them yet: the tests emulate the instruction, and run the
//! real one where it is there.

use std::arch::x86_64::*;

use super::dot::{Sums, tile_of};
use crate::nn::kernels::lanes::instructions;

/// SSE2: bytes become integers of 16 bits on their way into a register.
#[derive(Clone, Copy)]
struct NarrowWords(__m128i);

impl Sums for NarrowWords {
    const COUNT: usize = 4;
    const GROUP: usize = 2;
    type Left = __m128i;
    type Right = __m128i;
    instructions! {
        zero() -> Self = Self(_mm_setzero_si128());
        splat(element: u32) -> __m128i = _mm_set1_epi32(element as i32);
        load(from: *const i8) -> __m128i = {
            let bytes = _mm_loadl_epi64(from.cast());
            _mm_srai_epi16::<8>(_mm_unpacklo_epi8(bytes, bytes))
        };
        add_products(self: Self, left: __m128i, right: __m128i) -> Self =
            Self(_mm_add_epi32(self.0, _mm_madd_epi16(left, right)));
        store(self: Self, to: *mut i32) -> () = _mm_storeu_si128(to.cast(), self.0);
    }
}

/// AVX2: as above.
#[derive(Clone, Copy)]
struct Words(__m256i);

impl Sums for Words {
    const COUNT: usize = 8;
    const GROUP: usize = 2;
    type Left = __m256i;
    type Right = __m256i;
    instructions! {
        zero() -> Self = Self(_mm256_setzero_si256());
        splat(element: u32) -> __m256i = _mm256_set1_epi32(element as i32);
        load(from: *const i8) -> __m256i = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()));
        add_products(self: Self, left: __m256i, right: __m256i) -> Self =
            Self(_mm256_add_epi32(self.0, _mm256_madd_epi16(left, right)));
        store(self: Self, to: *mut i32) -> () = _mm256_storeu_si256(to.cast(), self.0);
    }
}

/// AVX-VNNI.
#[derive(Clone, Copy)]
struct Bytes(__m256i);

impl Sums for Bytes {
    const COUNT: usize = 8;
    const GROUP: usize = 4;
    type Left = __m256i;
    type Right = __m256i;
    instructions! {
        zero() -> Self = Self(_mm256_setzero_si256());
        splat(element: u32) -> __m256i = _mm256_set1_epi32(element as i32);
        load(from: *const i8) -> __m256i = _mm256_loadu_si256(from.cast());
        add_products(self: Self, left: __m256i, right: __m256i) -> Self =
            Self(_mm256_dpbusd_avx_epi32(self.0, left, right));
        store(self: Self, to: *mut i32) -> () = _mm256_storeu_si256(to.cast(), self.0);
    }
}

/// AVX-512 VNNI.
#[derive(Clone, Copy)]
struct WideBytes(__m512i);

impl Sums for WideBytes {
    const COUNT: usize = 16;
    const GROUP: usize = 4;
    type Left = __m512i;
    type Right = __m512i;
    instructions! {
        zero() -> Self = Self(_mm512_setzero_si512());
        splat(element: u32) -> __m512i = _mm512_set1_epi32(element as i32);
        load(from: *const i8) -> __m512i = _mm512_loadu_si512(from.cast());
        add_products(self: Self, left: __m512i, right: __m512i) -> Self =
            Self(_mm512_dpbusd_epi32(self.0, left, right));
        store(self: Self, to: *mut i32) -> () = _mm512_storeu_si512(to.cast(), self.0);
    }
}

tile_of!(SSE2: NarrowWords, "sse2"; 1 2 3 4 5 6);
tile_of!(AVX2: Words, "avx2"; 1 2 3 4 5 6);
tile_of!(AVX_VNNI: Bytes, "avx2,avxvnni"; 1 2 3 4 5 6);
tile_of!(AVX512_VNNI: WideBytes, "avx512f,avx512vnni"; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
