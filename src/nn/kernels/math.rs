//! Activation functions.

/// From here on the error function is 1 to the last bit.
const ERF_IS_ONE: f32 = 3.832_507;

/// The error function within 4e-7: a rational approximation, and exactly ±1 far from 0, so that GELU
/// of a large negative number vanishes.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let is_one = x.abs() > ERF_IS_ONE;
    let sign = 1f32.copysign(x);
    let x = x.clamp(-4., 4.);
    let s = x * x;
    let p = fma(s, -2.726_142_3e-10, 2.770_681_4e-8);
    let p = fma(p, s, -2.101_024e-6);
    let p = fma(p, s, -5.692_506_4e-5);
    let p = fma(p, s, -7.349_906_3e-4);
    let p = fma(p, s, -2.954_6e-3);
    let p = fma(p, s, -1.609_603_3e-2);
    let q = fma(s, -1.456_607_2e-5, -2.133_740_6e-4);
    let q = fma(q, s, -1.682_827e-3);
    let q = fma(q, s, -7.373_329e-3);
    let q = fma(q, s, -1.426_473_9e-2);
    if is_one { sign } else { x * p / q }
}

/// `a * b + c`, fused where processors do it in one step.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    match cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        true => a.mul_add(b, c),
        false => a * b + c,
    }
}

/// GELU with the error function.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    0.5 * x * (1. + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// ReLU; NaN propagates.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x < 0. { 0. } else { x }
}

/// `x * clamp(x + 3, 0, 6) / 6`
#[inline(always)]
pub fn hard_swish(x: f32) -> f32 {
    x * (x + 3.).clamp(0., 6.) * (1. / 6.)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "takes long and follows no pointers")]
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
