//! Registers of f32 lanes on Arm, which every 64-bit processor of that kind has.
//!
//! They have only run in an emulator so far.

use std::arch::aarch64::*;

use super::lanes::{LOWEST, Lanes, ROUND, exp2_of_fraction, instructions};

impl Lanes for float32x4_t {
    const COUNT: usize = 4;
    const FUSED: bool = true;
    instructions! {
        splat(x: f32) -> Self = vdupq_n_f32(x);
        load(from: *const f32) -> Self = vld1q_f32(from);
        store(self: Self, to: *mut f32) -> () = vst1q_f32(to, self);
        add(self: Self, other: Self) -> Self = vaddq_f32(self, other);
        sub(self: Self, other: Self) -> Self = vsubq_f32(self, other);
        mul(self: Self, other: Self) -> Self = vmulq_f32(self, other);
        div(self: Self, other: Self) -> Self = vdivq_f32(self, other);
        // Arm's own maximum is NaN where either is.
        max(self: Self, other: Self) -> Self = vbslq_f32(vcgtq_f32(self, other), self, other);
        mul_add(self: Self, b: Self, c: Self) -> Self = vfmaq_f32(c, self, b);
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: the caller's promise, see the trait.
        unsafe {
            let clamped = Self::splat(LOWEST).max(self); // what is not a number stays
            let shifted = clamped.add(Self::splat(ROUND));
            let fraction = clamped.sub(shifted.sub(Self::splat(ROUND)));
            let one = vreinterpretq_u32_f32(Self::splat(1.));
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(shifted));
            let power = vreinterpretq_f32_u32(vaddq_u32(exponent, one));
            let result = exp2_of_fraction(fraction).mul(power);
            let is_too_small = vcltq_f32(self, Self::splat(LOWEST));
            vbslq_f32(is_too_small, Self::splat(0.), result)
        }
    }
}
