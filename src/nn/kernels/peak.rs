//! The f32 rate of this processor, to hold kernels against.

use std::hint::black_box;

use rayon::prelude::*;

use super::lanes::{unroll, vectorised};

/// Sums of a thread: enough for the latency of two units, and together with two factors no more than AVX2
/// has registers.
const SUMS: usize = 12;

/// Multiplies and adds in registers, `rounds` times on every thread of the pool. Returns the floating-point
/// operations, two for each multiply-add of a lane.
pub fn multiply_adds(rounds: usize) -> f64 {
    let threads = rayon::current_num_threads();
    let lanes: usize = (0..threads)
        .into_par_iter()
        .with_max_len(1)
        .map(|_| in_registers(rounds, black_box(0.999), black_box(1e-3)))
        .sum();
    2. * SUMS as f64 * rounds as f64 * lanes as f64
}

vectorised! {
    /// Returns the lanes of a register.
    fn in_registers<L>(rounds: usize, factor: f32, summand: f32) -> usize {
        // SAFETY: only registers.
        unsafe {
            let (factor, summand) = (L::splat(factor), L::splat(summand));
            let mut sums = [summand; SUMS];
            for _ in 0..rounds {
                unroll!(SUMS, i => sums[i] = sums[i].mul_add(factor, summand));
            }
            black_box(&sums);
        }
        L::COUNT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_grow_with_rounds() {
        let one = multiply_adds(1);
        assert!(one >= 2. * SUMS as f64);
        assert_eq!(multiply_adds(5), 5. * one);
    }
}
