//! Registers of 32-bit sums of Arm, and the loop compiled for each.
//!
//! They have only run in an emulator so far.

use std::arch::aarch64::*;

use super::dot::{Sums, Tile, tile_of};
use crate::nn::kernels::lanes::{instructions, unroll};

/// Bytes become integers of 16 bits on their way into a register.
#[derive(Clone, Copy)]
struct Words(int32x4_t);

impl Sums for Words {
    const COUNT: usize = 4;
    const GROUP: usize = 2;
    type Left = int16x8_t;
    type Right = int16x8_t;
    instructions! {
        zero() -> Self = Self(vdupq_n_s32(0));
        splat(element: u32) -> int16x8_t = vreinterpretq_s16_u32(vdupq_n_u32(element));
        load(from: *const i8) -> int16x8_t = vmovl_s8(vld1_s8(from));
        add_products(self: Self, left: int16x8_t, right: int16x8_t) -> Self = {
            let low = vmull_s16(vget_low_s16(left), vget_low_s16(right));
            let high = vmull_high_s16(left, right);
            Self(vaddq_s32(self.0, vpaddq_s32(low, high)))
        };
        store(self: Self, to: *mut i32) -> () = vst1q_s32(to, self.0);
    }
}

/// SDOT, which takes signed bytes on both sides.
#[derive(Clone, Copy)]
struct Bytes(int32x4_t);

impl Sums for Bytes {
    const COUNT: usize = 4;
    const GROUP: usize = 4;
    const OFFSET: u8 = 128;
    type Left = int8x16_t;
    type Right = int8x16_t;
    instructions! {
        zero() -> Self = Self(vdupq_n_s32(0));
        splat(element: u32) -> int8x16_t = vreinterpretq_s8_u32(vdupq_n_u32(element));
        load(from: *const i8) -> int8x16_t = vld1q_s8(from);
        store(self: Self, to: *mut i32) -> () = vst1q_s32(to, self.0);
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
}

tile_of!(WORDS: Words; 1 2 3 4 5 6 7 8);
tile_of!(DOT: Bytes; 1 2 3 4 5 6 7 8 9 10 11 12);

/// Registers of 2 x 2 sums across the columns of a panel.
const PAIRS: usize = 4;

/// `P` pairs of rows times the columns of a panel, 8 bytes of each at a time.
///
/// # Safety
/// `a` holds `depth * 4 * P` words, `b` `depth * 64` bytes and `to` `16 * P` sums; the processor has
/// I8MM.
unsafe fn matrix<const P: usize>(depth: usize, a: &[u32], b: &[i8], to: &mut [i32]) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); PAIRS]; P];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..depth {
            let mut columns = [vdupq_n_s8(0); PAIRS];
            unroll!(PAIRS, j => columns[j] = vld1q_s8(b.add(16 * j)));
            unroll!(P, i => {
                let rows = vreinterpretq_u8_u32(vld1q_u32(a.add(4 * i)));
                unroll!(PAIRS, j => sums[i][j] = add_products(sums[i][j], rows, columns[j]));
            });
            a = a.add(4 * P);
            b = b.add(16 * PAIRS);
        }
        let to = to.as_mut_ptr();
        unroll!(P, i => {
            let [s0, s1, s2, s3] = sums[i];
            let row = to.add(4 * PAIRS * i);
            vst1q_s32(row, vcombine_s32(vget_low_s32(s0), vget_low_s32(s1)));
            vst1q_s32(row.add(4), vcombine_s32(vget_low_s32(s2), vget_low_s32(s3)));
            vst1q_s32(row.add(8), vcombine_s32(vget_high_s32(s0), vget_high_s32(s1)));
            vst1q_s32(row.add(12), vcombine_s32(vget_high_s32(s2), vget_high_s32(s3)));
        });
    }
}

/// USMMLA: two rows of bytes times two columns of signed bytes, row by row.
///
/// # Safety
/// The processor has I8MM.
#[inline(always)]
unsafe fn add_products(mut sums: int32x4_t, rows: uint8x16_t, columns: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction that changes one register, and which the processor has. The standard
    // library's function for it is not stable yet.
    unsafe {
        std::arch::asm!(
            ".arch_extension i8mm",
            "usmmla {sums:v}.4s, {rows:v}.16b, {columns:v}.16b",
            sums = inout(vreg) sums,
            rows = in(vreg) rows,
            columns = in(vreg) columns,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Of USMMLA: strips have an even number of rows.
pub const MATRIX: Tile = Tile::of_code(
    2 * PAIRS,
    8,
    0,
    &[
        matrix::<1>,
        matrix::<1>,
        matrix::<2>,
        matrix::<2>,
        matrix::<3>,
        matrix::<3>,
        matrix::<4>,
        matrix::<4>,
        matrix::<5>,
        matrix::<5>,
        matrix::<6>,
        matrix::<6>,
    ],
);
