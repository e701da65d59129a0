//! Registers of f32 lanes: one type for each instruction set, so that a loop is written once.

/// A register of f32 lanes.
///
/// # Safety
/// The functions may only run on a processor that has the type's instructions. Pointers are good
/// for [`Self::COUNT`] elements, aligned or not.
pub(super) trait Lanes: Copy {
    /// Lanes of a register.
    const COUNT: usize;
    /// Whether products are added without rounding in between.
    const FUSED: bool;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// The larger one; `other` where either is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// `self * b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// 2^x within a few units in the last place, for x up to 127; 0 for negative infinity and where
    /// the result is too small for a normal number.
    unsafe fn exp2(self) -> Self;
}

/// The functions of a register that are one expression, mostly one instruction.
macro_rules! instructions {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $body:expr;)*) => {
        $(
            #[inline(always)]
            #[allow(unused_unsafe)] // plain code has no promise to keep
            unsafe fn $name($($arg: $ty),*) -> $ret {
                // SAFETY: the caller's promise, see the trait.
                unsafe { $body }
            }
        )*
    };
}
pub(super) use instructions;

/// Repeats an expression for `$i` in `0..$n` with each `$i` a constant, so that arrays which it
/// indexes live in registers at any level of optimisation.
macro_rules! unroll {
    ($n:expr, $i:ident => $body:expr) => {
        $crate::nn::kernels::lanes::unroll!(
            @ $n, $i => $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
        )
    };
    (@ $n:expr, $i:ident => $body:expr; $($k:literal)*) => {
        $(if $k < $n { let $i = $k; $body })*
    };
}
pub(super) use unroll;

/// Defines a function whose body is compiled for each instruction set and run in the widest: written
/// for any [`Lanes`] `$L`, or plain code that the compiler makes vectors of.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$L:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            unsafe fn body<$L: $crate::nn::kernels::lanes::Lanes>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::{__m256, __m512};
                use $crate::nn::kernels::level::{Level, level};
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
                unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: this function has the instructions.
                    unsafe { body::<__m512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: as above.
                    unsafe { body::<__m256>($($arg),*) }
                }
                match level() {
                    // SAFETY: `level` reports what this processor has.
                    Level::Amx | Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Portable | Level::Neon => {}
                }
            }
            #[cfg(target_arch = "aarch64")]
            {
                use $crate::nn::kernels::level::{Level, level};
                if level() == Level::Neon {
                    // SAFETY: `level` reports what this processor has.
                    return unsafe { body::<std::arch::aarch64::float32x4_t>($($arg),*) };
                }
            }
            // SAFETY: plain code.
            unsafe { body::<$crate::nn::kernels::lanes::Four>($($arg),*) }
        }
    };
}
pub(super) use vectorised;

/// What a tile does with two operands.
pub(super) trait Product<L> {
    /// `a * b + sum`
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn add_product(a: L, b: L, sum: L) -> L;
}

/// Products of f32.
pub(super) struct Single;

impl<L: Lanes> Product<L> for Single {
    #[inline(always)]
    unsafe fn add_product(a: L, b: L, sum: L) -> L {
        // SAFETY: the caller's promise.
        unsafe { a.mul_add(b, sum) }
    }
}

/// 2^x for x in ±0.5: Cephes' `exp2f`.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn exp2_of_fraction<L: Lanes>(x: L) -> L {
    // SAFETY: the caller's promise.
    unsafe {
        let p = L::splat(1.535_336_2e-4).mul_add(x, L::splat(1.339_887_4e-3));
        let p = p.mul_add(x, L::splat(9.618_437e-3));
        let p = p.mul_add(x, L::splat(5.550_332_5e-2));
        let p = p.mul_add(x, L::splat(2.402_264_8e-1));
        let p = p.mul_add(x, L::splat(6.931_472e-1));
        p.mul_add(x, L::splat(1.))
    }
}

/// Added to a small number, leaves the nearest integer in the low bits: no conversion, no branch.
pub(super) const ROUND: f32 = 12_582_912.; // 1.5 * 2^23
/// Below this, 2^x is 0.
pub(super) const LOWEST: f32 = -126.;

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::{LOWEST, Lanes, Product, ROUND, exp2_of_fraction};

    impl Lanes for __m512 {
        const COUNT: usize = 16;
        const FUSED: bool = true;
        instructions! {
            splat(x: f32) -> Self = _mm512_set1_ps(x);
            load(from: *const f32) -> Self = _mm512_loadu_ps(from);
            store(self: Self, to: *mut f32) -> () = _mm512_storeu_ps(to, self);
            add(self: Self, other: Self) -> Self = _mm512_add_ps(self, other);
            sub(self: Self, other: Self) -> Self = _mm512_sub_ps(self, other);
            mul(self: Self, other: Self) -> Self = _mm512_mul_ps(self, other);
            div(self: Self, other: Self) -> Self = _mm512_div_ps(self, other);
            max(self: Self, other: Self) -> Self = _mm512_max_ps(self, other);
            mul_add(self: Self, b: Self, c: Self) -> Self = _mm512_fmadd_ps(self, b, c);
        }

        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            // SAFETY: the caller's promise, see the trait.
            unsafe {
                let fraction = _mm512_reduce_ps::<0>(self); // to the nearest; 0 of infinity
                _mm512_scalef_ps(exp2_of_fraction(fraction), self.sub(fraction))
            }
        }
    }

    impl Lanes for __m256 {
        const COUNT: usize = 8;
        const FUSED: bool = true;
        instructions! {
            splat(x: f32) -> Self = _mm256_set1_ps(x);
            load(from: *const f32) -> Self = _mm256_loadu_ps(from);
            store(self: Self, to: *mut f32) -> () = _mm256_storeu_ps(to, self);
            add(self: Self, other: Self) -> Self = _mm256_add_ps(self, other);
            sub(self: Self, other: Self) -> Self = _mm256_sub_ps(self, other);
            mul(self: Self, other: Self) -> Self = _mm256_mul_ps(self, other);
            div(self: Self, other: Self) -> Self = _mm256_div_ps(self, other);
            max(self: Self, other: Self) -> Self = _mm256_max_ps(self, other);
            mul_add(self: Self, b: Self, c: Self) -> Self = _mm256_fmadd_ps(self, b, c);
        }

        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            // SAFETY: the caller's promise, see the trait.
            unsafe {
                let clamped = Self::splat(LOWEST).max(self); // what is not a number stays
                let shifted = clamped.add(Self::splat(ROUND));
                let fraction = clamped.sub(shifted.sub(Self::splat(ROUND)));
                let one = _mm256_castps_si256(Self::splat(1.));
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
                let power = _mm256_castsi256_ps(_mm256_add_epi32(exponent, one));
                let normal = _mm256_cmp_ps::<_CMP_NLT_UQ>(self, Self::splat(LOWEST));
                _mm256_and_ps(exp2_of_fraction(fraction).mul(power), normal)
            }
        }
    }

    /// Products of pairs of bf16, both added to the same sum.
    pub struct Pairs;

    impl Product<__m512> for Pairs {
        #[inline(always)]
        unsafe fn add_product(a: __m512, b: __m512, sum: __m512) -> __m512 {
            // SAFETY: the caller's promise; the types differ in name only.
            unsafe {
                let a = std::mem::transmute::<__m512, __m512bh>(a);
                let b = std::mem::transmute::<__m512, __m512bh>(b);
                _mm512_dpbf16_ps(sum, a, b)
            }
        }
    }
}

/// Four lanes that a compiler turns into one register where there is one.
#[derive(Clone, Copy)]
pub(super) struct Four([f32; 4]);

impl Four {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Four {
    const COUNT: usize = 4;
    // On x86 this is compiled without the instruction: a fused sum would be a call of a function.
    const FUSED: bool = cfg!(target_arch = "aarch64") || cfg!(target_feature = "fma");
    instructions! {
        splat(x: f32) -> Self = Self([x; 4]);
        load(from: *const f32) -> Self = Self(from.cast::<[f32; 4]>().read_unaligned());
        store(self: Self, to: *mut f32) -> () = to.cast::<[f32; 4]>().write_unaligned(self.0);
        add(self: Self, other: Self) -> Self = self.zip(other, |a, b| a + b);
        sub(self: Self, other: Self) -> Self = self.zip(other, |a, b| a - b);
        mul(self: Self, other: Self) -> Self = self.zip(other, |a, b| a * b);
        div(self: Self, other: Self) -> Self = self.zip(other, |a, b| a / b);
        max(self: Self, other: Self) -> Self = self.zip(other, |a, b| if a > b { a } else { b });
        mul_add(self: Self, b: Self, c: Self) -> Self = Self(std::array::from_fn(|i| {
            match Self::FUSED {
                true => self.0[i].mul_add(b.0[i], c.0[i]),
                false => self.0[i] * b.0[i] + c.0[i],
            }
        }));
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        let clamped = Self(self.0.map(|x| if LOWEST > x { LOWEST } else { x }));
        let shifted = clamped.0.map(|x| x + ROUND);
        let fraction = Self(std::array::from_fn(|i| clamped.0[i] - (shifted[i] - ROUND)));
        let power =
            Self(shifted.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(1f32.to_bits()))));
        // SAFETY: plain code.
        let result = unsafe { exp2_of_fraction(fraction).mul(power) };
        self.zip(result, |x, y| if x < LOWEST { 0. } else { y })
    }
}
