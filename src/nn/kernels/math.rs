//! Exponentials and error functions over slices.

use super::tile::dispatch;

/// e^x within a few units in the last place; exactly 0 below -87.3, at most e^88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits: no conversion, no branch.
    const ROUND: f32 = 12_582_912.;
    let clamped = x.clamp(-87.3, 88.);
    let shifted = fma(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in products with n
    let r = fma(n, -0.693_145_75, clamped);
    let r = fma(n, -1.428_606_8e-6, r);
    let p = fma(r, 1.987_569_1e-4, 1.398_199_9e-3);
    let p = fma(p, r, 8.333_452e-3);
    let p = fma(p, r, 4.166_579_6e-2);
    let p = fma(p, r, 1.666_666_5e-1);
    let p = fma(p, r, 0.5);
    let p = fma(p * r, r, r) + 1.;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let scaled = p * f32::from_bits(exponent);
    if x < -87.3 { 0. } else { scaled }
}

/// The error function within 4e-7: a rational approximation on ±4, ±1 beyond.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = x.clamp(-4., 4.);
    let s = x * x;
    let p = fma(s, -2.726_142_3e-10, 2.770_681_4e-8);
    let p = fma(p, s, -2.101_024e-6);
    let p = fma(p, s, -5.692_506_4e-5);
    let p = fma(p, s, -7.349_906_3e-4);
    let p = fma(p, s, -2.954_599_8e-3);
    let p = fma(p, s, -1.609_603_3e-2);
    let q = fma(s, -1.456_607_2e-5, -2.133_740_6e-4);
    let q = fma(q, s, -1.682_827e-3);
    let q = fma(q, s, -7.373_329e-3);
    let q = fma(q, s, -1.426_473_9e-2);
    x * p / q
}

/// `a * b + c`, fused where processors do it in one step.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    match cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        true => a.mul_add(b, c),
        false => a * b + c,
    }
}

dispatch! {
    /// Replaces each x by e^(x - max) and returns their sum.
    pub fn exp_sum(xs: &mut [f32], max: f32) -> f32 {
        let mut lanes = [0f32; 16];
        let (chunks, rest) = xs.as_chunks_mut::<16>();
        for chunk in chunks {
            for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                *x = exp(*x - max);
                *lane += *x;
            }
        }
        let mut sum = lanes.iter().sum::<f32>();
        for x in rest {
            *x = exp(*x - max);
            sum += *x;
        }
        sum
    }
}

dispatch! {
    /// The largest element, negative infinity if there is none.
    pub fn max(xs: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (chunks, rest) = xs.as_chunks::<16>();
        for chunk in chunks {
            for (x, lane) in chunk.iter().zip(&mut lanes) {
                *lane = if *x > *lane { *x } else { *lane };
            }
        }
        lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

dispatch! {
    /// GELU with the error function, in place.
    pub fn gelu(xs: &mut [f32]) {
        for x in xs {
            *x = 0.5 * *x * (1. + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

dispatch! {
    /// Negative elements become 0, in place.
    pub fn relu(xs: &mut [f32]) {
        for x in xs {
            *x = if *x > 0. { *x } else { 0. };
        }
    }
}

dispatch! {
    /// `x * clamp(x + 3, 0, 6) / 6`, in place.
    pub fn hard_swish(xs: &mut [f32]) {
        for x in xs {
            *x *= (*x + 3.).clamp(0., 6.) * (1. / 6.);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_exact_to_a_few_units_in_the_last_place() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = (x as f64).exp();
            let relative = (exp(x) as f64 - want).abs() / want;
            assert!(relative < 3e-7 || want < 1.2e-38, "{x}: {relative:.1e}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.);
        assert_eq!(exp(0.), 1.);
    }

    #[test]
    fn the_error_function_follows_its_integral() {
        let (mut integral, step) = (0f64, 1e-4);
        for i in 0..60_000 {
            let x = i as f64 * step;
            let diff = (erf(x as f32) as f64 - integral).abs();
            assert!(diff < 5e-7, "{x}: {diff:.1e}");
            assert_eq!(erf(x as f32), -erf(-x as f32));
            let slope = |t: f64| 2. / std::f64::consts::PI.sqrt() * (-t * t).exp();
            integral += step / 6. * (slope(x) + 4. * slope(x + step / 2.) + slope(x + step));
        }
    }
}
