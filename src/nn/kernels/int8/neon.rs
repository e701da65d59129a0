//! Registers of 32-bit sums of Arm, and the loop compiled for each.
//!
//! They have only run in an emulator so far.

use std::arch::aarch64::*;

use super::dot::{Multiply, Sums, tile};

/// Bytes become integers of 16 bits on their way into a register.
#[derive(Clone, Copy)]
struct Words(int32x4_t);

// SAFETY of each function: the caller's promises, see the trait.
impl Sums for Words {
    const COUNT: usize = 4;
    const GROUP: usize = 2;
    type Left = int16x8_t;
    type Right = int16x8_t;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(unsafe { vdupq_n_s32(0) })
    }

    #[inline(always)]
    unsafe fn splat(element: u32) -> int16x8_t {
        unsafe { vreinterpretq_s16_u32(vdupq_n_u32(element)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> int16x8_t {
        unsafe { vmovl_s8(vld1_s8(from)) }
    }

    #[inline(always)]
    unsafe fn add_products(self, left: int16x8_t, right: int16x8_t) -> Self {
        unsafe {
            let low = vmull_s16(vget_low_s16(left), vget_low_s16(right));
            let high = vmull_high_s16(left, right);
            Self(vaddq_s32(self.0, vpaddq_s32(low, high)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        unsafe { vst1q_s32(to, self.0) }
    }
}

/// SDOT, which takes signed bytes on both sides.
#[derive(Clone, Copy)]
struct Bytes(int32x4_t);

// SAFETY of each function: the caller's promises, see the trait.
impl Sums for Bytes {
    const COUNT: usize = 4;
    const GROUP: usize = 4;
    type Left = int8x16_t;
    type Right = int8x16_t;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(unsafe { vdupq_n_s32(0) })
    }

    #[inline(always)]
    unsafe fn splat(element: u32) -> int8x16_t {
        unsafe { vreinterpretq_s8_u32(vdupq_n_u32(element)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i8) -> int8x16_t {
        unsafe { vld1q_s8(from) }
    }

    #[inline(always)]
    unsafe fn add_products(self, left: int8x16_t, right: int8x16_t) -> Self {
        let mut sums = self.0;
        // SAFETY: one instruction that changes one register, and which the processor has. The standard
        // library's function for it is not stable yet.
        unsafe {
            std::arch::asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {left:v}.16b, {right:v}.16b",
                sums = inout(vreg) sums,
                left = in(vreg) left,
                right = in(vreg) right,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        Self(sums)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        unsafe { vst1q_s32(to, self.0) }
    }
}

macro_rules! code {
    ($table:ident[$len:literal]: $sums:ty; $($rows:literal)*) => {
        pub static $table: [Multiply; $len] = {
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
code!(WORDS[8]: Words; 1 2 3 4 5 6 7 8);
code!(DOT[12]: Bytes; 1 2 3 4 5 6 7 8 9 10 11 12);
