//! Products with a matrix that is packed once: the weights of a linear layer.

use candle::Result;
use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::layout::Format;
use super::pack::{transpose, transpose_pieces};
use super::tile::Tile;
use super::view::{Block, Rows, Shared, filled, room};
use crate::run;

/// Elements of the summation that one pass covers. Long passes spare the result a visit each; of a
/// panel of this length, half stays in the first cache and the rest streams from the second.
const DEPTH: usize = 512;
/// Strips that share a pass over the weights: most of the second cache.
const STRIPS: usize = 24;

/// Multiplications that take a thread less time than waking another.
const SMALL: usize = 1 << 18;

/// A weight (n, k) packed for multiplying from the right, transposed.
pub struct PackedWeight {
    panels: Vec<f32>, // [n / cols][elements of k][cols], the last panel filled up with zeros
    n: usize,
    k: usize,
    tile: Tile,
}

impl PackedWeight {
    /// From a row-major `weight` (n, k), for products in `format` if this processor has them.
    pub fn new(weight: &[f32], n: usize, k: usize, format: Format) -> Self {
        let tile = Tile::of(format);
        let (cols, depth) = (tile.cols, tile.right.elements(k));
        let mut panels = vec![0f32; n.div_ceil(cols) * depth * cols];
        let rows = Rows::new(weight, k, n, k);
        let chunks = panels.par_chunks_exact_mut((depth * cols).max(1));
        chunks.enumerate().for_each(|(p, panel)| {
            let rows = rows.rows(p * cols, cols);
            transpose(rows, 1., tile.right, Block::new(panel, cols));
        });
        Self { panels, n, k, tile }
    }

    /// (n, k)
    pub fn dims(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// `xs weight^T` on this thread alone, for a task that goes on with the result while it is in
    /// the cache: `xs` (m, k) -> `out` (m, n). `strips` is memory that calls may share.
    ///
    /// # Panics
    /// When the sizes disagree.
    pub fn multiply(&self, xs: Rows, strips: &mut Vec<f32>, out: &mut [f32]) {
        assert!(xs.len == self.k && out.len() == xs.count * self.n);
        let tile = self.tile.fitting(xs.count);
        let depth = tile.right.elements(self.k);
        let strips = room(strips, xs.count.next_multiple_of(tile.rows) * depth);
        transpose_pieces(xs, tile.left, tile.rows, strips);
        let mut out = Block::new(out, self.n);
        for at in (0..self.n).step_by(tile.cols) {
            let panel = &self.panels[at * depth..];
            tile.multiply_into(depth, strips, panel, out.columns(at, tile.cols), false);
        }
    }
}

/// `epilogue(xs weight^T)`: `xs` (m, k) -> (m, n)
///
/// # Errors
/// When there is no memory for the result, or the run is cancelled.
///
/// # Panics
/// When the sizes disagree.
pub fn matmul(xs: Rows, weight: &PackedWeight, epilogue: &Epilogue) -> Result<Vec<f32>> {
    let (m, n) = (xs.count, weight.n);
    assert!(xs.len == weight.k && epilogue.fits(m, n));
    let tile = weight.tile.fitting(m);
    let depth = tile.right.elements(weight.k);
    let step = DEPTH.min(depth).max(1);
    let write = |shared: Shared| {
        let (most, tasks) = pieces(m, n, [tile.rows, tile.cols], STRIPS);
        let check = run::checker();
        let strips = || vec![0f32; most * step];
        let is_small = m.saturating_mul(n).saturating_mul(weight.k) <= SMALL;
        let tasks = tasks.with_min_len(if is_small { usize::MAX } else { 1 });
        tasks.try_for_each_init(strips, |strips, [(row, height), (col, width)]| {
            check()?;
            let xs = xs.rows(row, height);
            // SAFETY: these rows and columns belong to this task.
            let mut out = unsafe { shared.block(row * n + col, n, height, width) };
            let mut start = 0;
            loop {
                let len = step.min(depth - start);
                let values = xs.columns(start * tile.left.values(), len * tile.left.values());
                transpose_pieces(values, tile.left, tile.rows, strips);
                for at in (0..width).step_by(tile.cols) {
                    let panel = (col + at) * depth + start * tile.cols;
                    let panel = &weight.panels[panel..];
                    let mut out = out.columns(at, tile.cols);
                    let to = out.rows(0, height);
                    tile.multiply_into(len, strips, panel, to, start > 0);
                    if start + len == depth {
                        epilogue.apply(out, row, col + at);
                    }
                }
                start += len;
                if start == depth {
                    return Ok(());
                }
            }
        })
    };
    // SAFETY: the tasks write all rows and columns.
    unsafe { filled(&[m, n], write) }
}

/// Start and length of the rows of a piece, and of its columns.
type Piece = [(usize, usize); 2];

/// The most rows of a piece of a result (m, n), and the pieces. Rows are cut first, at most `most` strips
/// to a piece; columns too where there are few strips of rows.
pub(super) fn pieces(
    m: usize,
    n: usize,
    [rows, cols]: [usize; 2],
    most: usize,
) -> (usize, impl IndexedParallelIterator<Item = Piece>) {
    let threads = rayon::current_num_threads();
    let (strips, panels) = (m.div_ceil(rows).max(1), n.div_ceil(cols).max(1));
    let blocks = strips.div_ceil(most).next_multiple_of(threads).min(strips);
    let groups = (2 * threads).div_ceil(blocks).min(panels);
    let (height, width) = (
        strips.div_ceil(blocks) * rows,
        panels.div_ceil(groups) * cols,
    );
    let (blocks, groups) = (m.div_ceil(height), n.div_ceil(width));
    let pieces = (0..blocks * groups).into_par_iter().map(move |piece| {
        let (row, col) = (piece / groups * height, piece % groups * width);
        [(row, height.min(m - row)), (col, width.min(n - col))]
    });
    (height, pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::epilogue::{Activation, Bias};
    use crate::nn::kernels::{is_affordable, math, random};

    const ACTIVATIONS: [Activation; 4] = [
        Activation::Identity,
        Activation::Relu,
        Activation::Gelu,
        Activation::HardSwish,
    ];

    fn product(xs: Rows, weight: &PackedWeight) -> Vec<f32> {
        matmul(xs, weight, &Epilogue::default()).unwrap()
    }

    #[test]
    fn products_of_all_sizes_equal_the_sums_in_double() {
        for (m, k, n) in [
            (1, 1, 1),
            (9, 10, 17),
            (1, 1030, 2), // more than one pass
            (37, 50, 70),
            (3, 2600, 5),
            (130, 257, 33),
            (500, 16, 300),
        ] {
            if !is_affordable(m * k * n) {
                continue;
            }
            let (xs, weight, bias) = (random(m * k, 1), random(n * k, 2), random(n, 3));
            for format in Format::ALL {
                let packed = PackedWeight::new(&weight, n, k, format);
                if packed.tile.format != format {
                    continue;
                }
                let tolerance = match packed.tile.format {
                    Format::Single => 1e-5,
                    Format::Pairs => 4e-3 * (k as f64).sqrt() / 4.,
                    Format::Split => 1e-5 * (k as f64).sqrt() / 4. + 1e-5,
                };
                for activation in ACTIVATIONS {
                    let epilogue = Epilogue {
                        bias: Bias::Columns(&bias),
                        activation,
                        residual: None,
                    };
                    let xs_rows = Rows::new(&xs, k, m, k);
                    let got = matmul(xs_rows, &packed, &epilogue).unwrap();
                    let mut alone = vec![f32::NAN; m * n];
                    packed.multiply(xs_rows, &mut vec![], &mut alone);
                    epilogue.apply(Block::new(&mut alone, n), 0, 0);
                    for (at, (got, alone)) in got.iter().zip(&alone).enumerate() {
                        assert!((got - alone).abs() < 1e-5 * (1. + got.abs()));
                        let (i, j) = (at / n, at % n);
                        let products = (0..k).map(|t| (xs[i * k + t] * weight[j * k + t]) as f64);
                        let sum = (products.sum::<f64>() + bias[j] as f64) as f32;
                        let want = match activation {
                            Activation::Identity => sum,
                            Activation::Relu => sum.max(0.),
                            Activation::Gelu => math::gelu(sum),
                            Activation::HardSwish => math::hard_swish(sum),
                        };
                        let diff = (got - want).abs() as f64;
                        assert!(diff < tolerance, "{m}x{k}x{n} at {i}, {j}: {diff:.1e}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_may_lie_apart() {
        let (xs, weight) = (random(20 * 9, 1), random(3 * 4, 2));
        let packed = PackedWeight::new(&weight, 3, 4, Format::Single);
        let apart = product(Rows::new(&xs[2..], 9, 19, 4), &packed);
        let together: Vec<f32> = (0..19)
            .flat_map(|i| &xs[2 + i * 9..][..4])
            .copied()
            .collect();
        let dense = Rows::new(&together, 4, 19, 4);
        assert_eq!(apart, product(dense, &packed));
    }

    #[test]
    fn empty_sides_give_empty_results_or_the_bias() {
        for (m, k, n) in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)] {
            let packed = PackedWeight::new(&vec![1.; n * k], n, k, Format::Single);
            let (xs, bias, residual) = (vec![1.; m * k], vec![2.; n], vec![3.; m * n]);
            let (xs, residual) = (Rows::new(&xs, k, m, k), Rows::new(&residual, n, m, n));
            let epilogue = Epilogue {
                bias: Bias::Columns(&bias),
                activation: Activation::Relu,
                residual: Some(residual),
            };
            let got = matmul(xs, &packed, &epilogue).unwrap();
            assert_eq!(got, vec![5.; m * n], "{m}x{k}x{n}");
        }
    }

    #[test]
    fn a_product_that_no_memory_holds_is_an_error() {
        let packed = PackedWeight::new(&[], 1 << 32, 0, Format::Single);
        let rows = Rows::new(&[], 0, 1 << 32, 0);
        assert!(matmul(rows, &packed, &Epilogue::default()).is_err());
    }

    #[test]
    fn infinity_and_what_is_not_a_number_reach_their_row_only() {
        let (m, k, n) = if cfg!(miri) { (10, 8, 9) } else { (20, 30, 40) };
        let mut xs = random(m * k, 1);
        (xs[4 * k + 7], xs[9 * k + 2]) = (f32::NAN, f32::INFINITY);
        for format in Format::ALL {
            let packed = PackedWeight::new(&vec![1.; n * k], n, k, format);
            for activation in ACTIVATIONS {
                let epilogue = Epilogue {
                    activation,
                    ..Epilogue::default()
                };
                let got = matmul(Rows::new(&xs, k, m, k), &packed, &epilogue).unwrap();
                for (i, row) in got.chunks_exact(n).enumerate() {
                    let fits = |x: &f32| match i {
                        4 => x.is_nan(),
                        9 => *x == f32::INFINITY,
                        _ => x.is_finite(),
                    };
                    assert!(row.iter().all(fits), "row {i}, {activation:?}: {row:?}");
                }
            }
        }
    }
}
