//! Functions of rows: norm, rotation and softmax.

use candle::Result;
use rayon::prelude::*;

use super::lanes::vectorised;
use super::view::{Block, Rows, Shared, filled};

/// Rows that a task normalizes.
const ROWS: usize = 16;

/// [`layer_norm`] of rows, in parallel -> (rows, weights)
///
/// # Errors
/// When there is no memory for the result.
///
/// # Panics
/// When rows are not as long as `weight` and `bias`.
pub fn normalized(xs: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Result<Vec<f32>> {
    let dim = weight.len();
    assert!(bias.len() == dim && (xs.is_empty() || xs.len().is_multiple_of(dim)));
    let chunk = (ROWS * dim).max(1);
    let write = |shared: Shared| {
        xs.par_chunks(chunk).enumerate().for_each(|(i, xs)| {
            // SAFETY: these rows belong to this task.
            let mut out = unsafe { shared.block(i * chunk, xs.len(), 1, xs.len()) };
            let out = out.row(0);
            out.copy_from_slice(xs);
            layer_norm(out, weight, bias, eps);
        });
        Ok(())
    };
    // SAFETY: the tasks write all rows.
    unsafe { filled(&[xs.len()], write) }
}

/// Turns pairs of adjacent channels of `heads` heads (n, c) by angles (n, c / 2) that all of them share,
/// in parallel -> (heads, n, c)
///
/// # Errors
/// When there is no memory for the result.
///
/// # Panics
/// When sizes disagree.
pub fn rotated<'a>(
    heads: usize,
    head: impl Fn(usize) -> Rows<'a> + Sync,
    [n, c]: [usize; 2],
    [cos, sin]: [&[f32]; 2],
) -> Result<Vec<f32>> {
    assert!(c.is_multiple_of(2) && [cos.len(), sin.len()] == [n * c / 2; 2]);
    let write = |shared: Shared| {
        (0..heads).into_par_iter().for_each(|i| {
            let rows = head(i);
            assert!([rows.count, rows.len] == [n, c]);
            // SAFETY: this head's part of the result belongs to this task.
            rotate(rows, cos, sin, unsafe { shared.block(i * n * c, c, n, c) });
        });
        Ok(())
    };
    // SAFETY: the tasks write all heads.
    unsafe { filled(&[heads, n, c], write) }
}

vectorised! {
    fn rotate<L>(xs: Rows, cos: &[f32], sin: &[f32], to: Block) {
        let (mut to, pairs) = (to, xs.len / 2);
        for token in 0..xs.count {
            let angles = token * pairs..(token + 1) * pairs;
            let angles = cos[angles.clone()].iter().zip(&sin[angles]);
            let pairs = xs.row(token).as_chunks::<2>().0.iter();
            let to = to.row(token).as_chunks_mut::<2>().0.iter_mut();
            for ((to, [x, y]), (cos, sin)) in to.zip(pairs).zip(angles) {
                *to = [x * cos - y * sin, x * sin + y * cos];
            }
        }
    }
}

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

/// Heads whose scores [`softmax2`] takes.
pub const MAX_HEADS: usize = 16;

/// Softmax over the tokens of each head, of scores that were multiplied by log2 e: in a row of `width`,
/// those of the heads for one token lie side by side.
///
/// # Panics
/// With no or more than [`MAX_HEADS`] heads, or a width that is no multiple of them.
pub fn softmax2(scores: &mut [f32], width: usize, heads: usize) {
    assert!((1..=MAX_HEADS).contains(&heads) && width.is_multiple_of(heads));
    subtract_max(scores, width, heads);
    exp2(scores);
    divide_by_sum(scores, width, heads);
}

vectorised! {
    fn subtract_max<L>(scores: &mut [f32], width: usize, heads: usize) {
        match heads {
            8 => for_heads(scores, width, 8, f32::MIN, f32::max, |x, max| x - max), // vectors of 8
            _ => for_heads(scores, width, heads, f32::MIN, f32::max, |x, max| x - max),
        }
    }
}

vectorised! {
    fn divide_by_sum<L>(scores: &mut [f32], width: usize, heads: usize) {
        match heads {
            8 => for_heads(scores, width, 8, 0., |a, b| a + b, |x, sum| x / sum),
            _ => for_heads(scores, width, heads, 0., |a, b| a + b, |x, sum| x / sum),
        }
    }
}

/// Reduces the scores of each head in a row, from `start`, and applies the result to each of them.
#[inline(always)]
fn for_heads(
    scores: &mut [f32],
    width: usize,
    heads: usize,
    start: f32,
    reduce: impl Fn(f32, f32) -> f32,
    apply: impl Fn(f32, f32) -> f32,
) {
    for row in scores.chunks_exact_mut(width.max(1)) {
        let mut all = [start; MAX_HEADS];
        for token in row.chunks_exact(heads) {
            for (all, x) in all.iter_mut().zip(token) {
                *all = reduce(*all, *x);
            }
        }
        for token in row.chunks_exact_mut(heads) {
            for (x, all) in token.iter_mut().zip(&all) {
                *x = apply(*x, *all);
            }
        }
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
    fn softmax_over_the_tokens_of_each_head_equals_the_definition_in_double() {
        for (tokens, heads, rows) in [(1, 3, 2), (7, 8, 5), (8, 1, 3), (13, 16, 4)] {
            let width = tokens * heads;
            let scores: Vec<f32> = random(width * rows, 1).iter().map(|x| x * 20.).collect();
            let mut got = scores.clone();
            softmax2(&mut got, width, heads);
            for (i, got) in got.iter().enumerate() {
                let (row, head) = (i / width * width, i % heads);
                let of_head = scores[row..row + width].iter().skip(head).step_by(heads);
                let total: f64 = of_head.map(|x| f64::from(*x).exp2()).sum();
                let want = f64::from(scores[i]).exp2() / total;
                assert!((f64::from(*got) - want).abs() < 1e-6, "{tokens} {heads}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_in_its_head() {
        let mut xs = [0., 1., f32::NAN, 2.];
        softmax2(&mut xs, 4, 2);
        assert!(xs[0].is_nan() && xs[2].is_nan() && xs[1].is_finite() && xs[3].is_finite());
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
