//! Functions of rows: norm and softmax.

use super::lanes::vectorised;

vectorised! {
    /// Layer normalization of rows as long as `weight`, in place: the variance in a second pass.
    pub fn layer_norm<L>(xs: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        let dim = weight.len() as f32;
        for row in xs.chunks_exact_mut(weight.len().max(1)) {
            let mean = sum(row, |x| x) / dim;
            let var = sum(row, |x| (x - mean) * (x - mean)) / dim;
            let inv_std = 1. / (var + eps).sqrt();
            for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                *x = (*x - mean) * inv_std * w + b;
            }
        }
    }
}

/// Sums `f` over a row in 16 lanes, so that the loop vectorises and errors grow slowly.
#[inline(always)]
pub fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// Softmax over each `len` values that follow each other, of scores that were multiplied by log2 e.
///
/// # Panics
/// When `len` is 0.
pub fn softmax2(scores: &mut [f32], len: usize) {
    for group in scores.chunks_exact_mut(len) {
        let max = group.iter().copied().fold(f32::MIN, f32::max);
        group.iter_mut().for_each(|x| *x -= max);
    }
    exp2(scores);
    for group in scores.chunks_exact_mut(len) {
        let factor = 1. / group.iter().sum::<f32>();
        group.iter_mut().for_each(|x| *x *= factor);
    }
}

vectorised! {
    /// 2^x of each value up to 127, in place.
    pub fn exp2<L>(xs: &mut [f32]) {
        let mut registers = xs.chunks_exact_mut(L::COUNT);
        for register in &mut registers {
            let at = register.as_mut_ptr();
            // SAFETY: a chunk is one register long.
            unsafe { L::load(at).exp2().store(at) }
        }
        let rest = registers.into_remainder();
        let mut last = [0f32; 16];
        assert!(L::COUNT <= last.len());
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: `last` is one register long, or longer.
        unsafe { L::load(last.as_ptr()).exp2().store(last.as_mut_ptr()) }
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;

    #[test]
    fn softmax_over_groups_equals_the_definition_in_double() {
        for (len, groups) in [(1, 3), (7, 8), (8, 5), (13, 31)] {
            let mut xs: Vec<f32> = random(len * groups, 1).iter().map(|x| x * 20.).collect();
            let want = xs.clone();
            softmax2(&mut xs, len);
            for (got, scores) in xs.chunks_exact(len).zip(want.chunks_exact(len)) {
                let powers = scores.iter().map(|x| f64::from(*x).exp2());
                let total: f64 = powers.clone().sum();
                for (got, power) in got.iter().zip(powers) {
                    assert!((f64::from(*got) - power / total).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_in_its_group() {
        let mut xs = [0., f32::NAN, 1., 2.];
        softmax2(&mut xs, 2);
        assert!(xs[..2].iter().all(|x| x.is_nan()) && xs[2..].iter().all(|x| x.is_finite()));
    }

    #[test]
    fn rows_with_a_large_mean_are_normalized() {
        let mut xs: Vec<f32> = random(3 * 40, 2).iter().map(|x| x + 1000.).collect();
        layer_norm(&mut xs, &[1.; 40], &[0.; 40], 1e-6);
        for row in xs.chunks_exact(40) {
            let mean = row.iter().sum::<f32>() / 40.;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 40.;
            assert!(mean.abs() < 1e-3 && (var - 1.).abs() < 1e-3, "{mean} {var}");
        }
    }
}
