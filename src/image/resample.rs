//! Bilinear resizing of maps with antialiasing: the kernel stretches where a map shrinks.
//!
//! Equal to `torch.nn.functional.interpolate(.., mode="bilinear", antialias=True)` on floats, with
//! corners not aligned, up to rounding.

use rayon::prelude::*;

use super::passes::Pass;
use crate::{Error, Result, Size};

/// Resizes a map, stored by rows.
///
/// # Errors
/// [`Error::InvalidMask`] when `map` does not have `size`, or a side is zero.
pub(crate) fn resize_antialias(map: &[f32], size: Size, to: Size) -> Result<Vec<f32>> {
    let sides = [size.width, size.height, to.width, to.height];
    if sides.contains(&0) || map.len() != size.width * size.height {
        return Err(Error::InvalidMask(format!(
            "cannot resize a map of {} values from {size} to {to}",
            map.len()
        )));
    }
    if size == to {
        return Ok(map.to_vec());
    }
    let columns = kernels(size.width, to.width);
    let rows = kernels(size.height, to.height);
    let mut narrow = vec![0f32; to.width * size.height];
    narrow
        .par_chunks_mut(to.width)
        .zip(map.par_chunks(size.width))
        .for_each(|(to, from)| {
            for (value, kernel) in to.iter_mut().zip(&columns) {
                let from = &from[kernel.start..];
                *value = kernel.weights.iter().zip(from).map(|(w, v)| w * v).sum();
            }
        });
    let mut resized = vec![0f32; to.width * to.height];
    resized
        .par_chunks_mut(to.width)
        .zip(&rows)
        .for_each(|(line, kernel)| {
            for (i, weight) in kernel.weights.iter().enumerate() {
                let from = &narrow[(kernel.start + i) * to.width..][..to.width];
                for (value, from) in line.iter_mut().zip(from) {
                    *value += weight * from;
                }
            }
        });
    Ok(resized)
}

/// What [`resize_antialias`] sums, in the order of its passes.
pub(crate) fn passes(from: Size, to: Size) -> Vec<Pass<f32>> {
    if from == to {
        return vec![];
    }
    let pass = |is_horizontal, kernels: Vec<Kernel>| {
        let taps = kernels.iter().map(|k| k.weights.len()).max().unwrap_or(0);
        let padded = |kernel: &Kernel| {
            let mut weights = kernel.weights.clone();
            weights.resize(taps, 0.);
            weights
        };
        Pass {
            is_horizontal,
            taps,
            weights: kernels.iter().flat_map(padded).collect(),
            starts: kernels.iter().map(|kernel| kernel.start).collect(),
        }
    };
    vec![
        pass(true, kernels(from.width, to.width)),
        pass(false, kernels(from.height, to.height)),
    ]
}

/// The samples that one sample of the result is a mean of.
struct Kernel {
    start: usize,
    weights: Vec<f32>,
}

fn kernels(old: usize, new: usize) -> Vec<Kernel> {
    let scale = old as f32 / new as f32;
    let (support, inverse) = if scale >= 1. {
        (scale, 1. / scale)
    } else {
        (1., 1.)
    };
    (0..new)
        .map(|i| {
            let center = scale * (i as f32 + 0.5);
            let start = (center - support + 0.5).max(0.) as usize;
            let end = ((center + support + 0.5) as usize).min(old);
            let triangle = |j: usize| (1. - ((j as f32 - center + 0.5) * inverse).abs()).max(0.);
            let weights: Vec<f32> = (start..end).map(triangle).collect();
            let total: f32 = weights.iter().sum();
            Kernel {
                start,
                weights: weights.iter().map(|w| w / total).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enlarged_map_is_that_without_antialiasing() {
        let got = resize_antialias(&[0., 1., 4., 9.], Size::square(2), Size::new(4, 3)).unwrap();
        let row = |a: f32, b: f32| [a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b];
        let want = [row(0., 1.), row(2., 5.), row(4., 9.)].concat();
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn a_shrunk_map_is_a_weighted_mean() {
        // torch.nn.functional.interpolate(torch.arange(6.)[None, None, None], size=(1, 3), ..)
        let map: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let got = resize_antialias(&map, Size::new(6, 1), Size::new(3, 1)).unwrap();
        for (got, want) in got.iter().zip([0.714_285_7, 2.5, 4.285_714]) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
        let flat = resize_antialias(&[3.; 77], Size::new(11, 7), Size::new(4, 3)).unwrap();
        assert!(flat.iter().all(|v| (v - 3.).abs() < 1e-6));
    }

    #[test]
    fn a_map_of_another_size_is_refused() {
        assert!(resize_antialias(&[0.; 5], Size::new(2, 3), Size::new(1, 1)).is_err());
        assert!(resize_antialias(&[0.; 6], Size::new(2, 3), Size::new(0, 1)).is_err());
    }
}
