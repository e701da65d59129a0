//! Registers of 32-bit sums of x86-64, and the loop compiled for each.
//!
//! AVX-VNNI's have not run on a processor that has them yet: the tests emulate the instruction, and run the
//! real one where it is there.

use std::arch::x86_64::*;

use super::dot::{Multiply, Sums, tile};

/// SSE2: bytes become integers of 16 bits on their way into a register.
#[derive(Clone, Copy)]
struct NarrowWords(__m128i);

// SAFETY of each function: the caller's promises, see the trait.
impl Sums for NarrowWords {
    const COUNT: usize = 4;
    const GROUP: usize = 2;
    type Left = __m128i;
    type Right = __m128i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(unsafe { _mm_setzero_si128() })
    }

    #[inline(always)]
    unsafe fn splat(element: u32) -> __m128i {
        unsafe { _mm_set1_epi32(element as i32) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> __m128i {
        unsafe {
            let bytes = _mm_loadl_epi64(from.cast());
            _mm_srai_epi16::<8>(_mm_unpacklo_epi8(bytes, bytes))
        }
    }

    #[inline(always)]
    unsafe fn add_products(self, left: __m128i, right: __m128i) -> Self {
        Self(unsafe { _mm_add_epi32(self.0, _mm_madd_epi16(left, right)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        unsafe { _mm_storeu_si128(to.cast(), self.0) }
    }
}

/// AVX2: as above.
#[derive(Clone, Copy)]
struct Words(__m256i);

// SAFETY of each function: the caller's promises, see the trait.
impl Sums for Words {
    const COUNT: usize = 8;
    const GROUP: usize = 2;
    type Left = __m256i;
    type Right = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn splat(element: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(element as i32) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn add_products(self, left: __m256i, right: __m256i) -> Self {
        Self(unsafe { _mm256_add_epi32(self.0, _mm256_madd_epi16(left, right)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }
}

/// AVX-VNNI.
#[derive(Clone, Copy)]
struct Bytes(__m256i);

// SAFETY of each function: the caller's promises, see the trait.
impl Sums for Bytes {
    const COUNT: usize = 8;
    const GROUP: usize = 4;
    type Left = __m256i;
    type Right = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn splat(element: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(element as i32) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn add_products(self, left: __m256i, right: __m256i) -> Self {
        Self(unsafe { _mm256_dpbusd_avx_epi32(self.0, left, right) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }
}

/// AVX-512 VNNI.
#[derive(Clone, Copy)]
struct WideBytes(__m512i);

// SAFETY of each function: the caller's promises, see the trait.
impl Sums for WideBytes {
    const COUNT: usize = 16;
    const GROUP: usize = 4;
    type Left = __m512i;
    type Right = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn splat(element: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(element as i32) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn add_products(self, left: __m512i, right: __m512i) -> Self {
        Self(unsafe { _mm512_dpbusd_epi32(self.0, left, right) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }
}

macro_rules! code {
    ($table:ident[$len:literal]: $features:literal, $sums:ty; $($rows:literal)*) => {
        pub static $table: [Multiply; $len] = {
            #[target_feature(enable = $features)]
            unsafe fn multiply<const R: usize>(
                depth: usize,
                a: &[u32],
                b: &[i8],
                to: &mut [i32],
            ) {
                // SAFETY: passed on to the caller.
                unsafe { tile::<$sums, R>(depth, a, b, to) }
            }
            [$(multiply::<$rows>),*]
        };
    };
}
code!(SSE2[6]: "sse2", NarrowWords; 1 2 3 4 5 6);
code!(AVX2[6]: "avx2", Words; 1 2 3 4 5 6);
code!(AVX_VNNI[6]: "avx2,avxvnni", Bytes; 1 2 3 4 5 6);
code!(AVX512_VNNI[14]: "avx512f,avx512vnni", WideBytes; 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
