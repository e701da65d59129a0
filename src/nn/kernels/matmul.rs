//! Products with a matrix that is packed once: the weights of a linear layer.

use rayon::prelude::*;

use super::math;
use super::tile::{Shared, TILE, Tile};

/// Steps of the summation that one pass covers: its piece of a panel stays in the first cache.
const DEPTH: usize = 256;
/// Strips that share a pass over the weights.
const STRIPS: usize = 24;

/// A weight (n, k) packed for multiplying from the right, transposed.
pub struct PackedWeight {
    panels: Vec<f32>, // [n / cols][k][cols], the last panel filled up with zeros
    n: usize,
    k: usize,
}

impl PackedWeight {
    /// From a row-major `weight` (n, k).
    pub fn new(weight: &[f32], n: usize, k: usize) -> Self {
        let cols = TILE.cols;
        let mut panels = vec![0f32; n.div_ceil(cols) * k * cols];
        let rows = weight.par_chunks(cols * k);
        panels
            .par_chunks_mut(k * cols)
            .zip(rows)
            .for_each(|(panel, rows)| {
                for (j, row) in rows.chunks_exact(k).enumerate() {
                    for (t, x) in row.iter().enumerate() {
                        panel[t * cols + j] = *x;
                    }
                }
            });
        Self { panels, n, k }
    }

    /// (n, k)
    pub fn dims(&self) -> (usize, usize) {
        (self.n, self.k)
    }
}

/// What follows the product while it is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// The larger of x and 0.
    Relu,
    /// GELU with the error function.
    Gelu,
}

impl Activation {
    pub(super) fn apply(self, xs: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => math::relu(xs),
            Self::Gelu => math::gelu(xs),
        }
    }
}

/// `activation(xs weight^T + bias)`: `xs` (m, k) -> (m, n)
pub fn matmul(
    xs: &[f32],
    weight: &PackedWeight,
    bias: Option<&[f32]>,
    activation: Activation,
) -> Vec<f32> {
    let (n, k, tile) = (weight.n, weight.k, *TILE);
    let m = xs.len() / k.max(1);
    let mut out = vec![0f32; m * n];
    let shared = Shared::new(&mut out);
    let (blocks, groups) = split(m, n, &tile);
    (0..blocks.count * groups.count)
        .into_par_iter()
        .for_each_init(
            || vec![0f32; blocks.size.min(m.next_multiple_of(tile.rows)) * DEPTH.min(k)],
            |packed, task| {
                let (row, height) = blocks.piece(task / groups.count);
                let (col, width) = groups.piece(task % groups.count);
                let rows = &xs[row * k..(row + height) * k];
                for start in (0..k).step_by(DEPTH) {
                    let depth = DEPTH.min(k - start);
                    pack_strips(rows, k, start, depth, tile.rows, packed);
                    for at in (col..col + width).step_by(tile.cols) {
                        let panel =
                            &weight.panels[at / tile.cols * k * tile.cols..][start * tile.cols..];
                        for (s, strip) in packed.chunks_exact(depth * tile.rows).enumerate() {
                            let first = s * tile.rows;
                            if first >= height {
                                break;
                            }
                            let size = (tile.rows.min(height - first), tile.cols.min(n - at));
                            // SAFETY: these rows and columns lie inside `out` and belong to this task.
                            unsafe {
                                let to = shared.at((row + first) * n + at);
                                tile.multiply_at(depth, strip, panel, to, n, size, start > 0);
                            }
                        }
                    }
                }
                for i in row..row + height {
                    // SAFETY: as above.
                    let out =
                        unsafe { std::slice::from_raw_parts_mut(shared.at(i * n + col), width) };
                    if let Some(bias) = bias {
                        out.iter_mut().zip(&bias[col..]).for_each(|(x, b)| *x += b);
                    }
                    activation.apply(out);
                }
            },
        );
    out
}

/// A length cut into pieces of one size, the last one shorter.
struct Pieces {
    len: usize,
    size: usize,
    count: usize,
}

impl Pieces {
    fn new(len: usize, size: usize) -> Self {
        Self {
            len,
            size,
            count: len.div_ceil(size),
        }
    }

    /// Start and length of a piece.
    fn piece(&self, index: usize) -> (usize, usize) {
        let start = index * self.size;
        (start, self.size.min(self.len - start))
    }
}

/// Rows first; columns too where there are fewer strips of rows than tasks wanted.
fn split(m: usize, n: usize, tile: &Tile) -> (Pieces, Pieces) {
    let tasks = 4 * rayon::current_num_threads();
    let strips = m.div_ceil(tile.rows).max(1);
    let rows = strips.div_ceil(tasks).min(STRIPS) * tile.rows;
    let panels = n.div_ceil(tile.cols).max(1);
    let groups = (tasks / strips).clamp(1, panels);
    (
        Pieces::new(m, rows),
        Pieces::new(n, panels.div_ceil(groups) * tile.cols),
    )
}

/// Columns `start..start + depth` of `xs` (m, k) -> strips [m / rows][depth][rows]
fn pack_strips(xs: &[f32], k: usize, start: usize, depth: usize, rows: usize, packed: &mut [f32]) {
    for (strip, xs) in packed
        .chunks_exact_mut(depth * rows)
        .zip(xs.chunks(rows * k))
    {
        for (i, row) in xs.chunks_exact(k).enumerate() {
            for (t, x) in row[start..start + depth].iter().enumerate() {
                strip[t * rows + i] = *x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;

    #[test]
    fn products_of_all_sizes_equal_the_sums_in_double() {
        for (m, k, n) in [
            (1, 1, 1),
            (37, 50, 70),
            (3, 600, 5),
            (130, 257, 33),
            (500, 16, 300),
        ] {
            let (xs, weight, bias) = (random(m * k, 1), random(n * k, 2), random(n, 3));
            let packed = PackedWeight::new(&weight, n, k);
            for activation in [Activation::Identity, Activation::Relu, Activation::Gelu] {
                let got = matmul(&xs, &packed, Some(&bias), activation);
                for i in 0..m {
                    for j in 0..n {
                        let products = (0..k).map(|t| (xs[i * k + t] * weight[j * k + t]) as f64);
                        let mut want = [(products.sum::<f64>() + bias[j] as f64) as f32];
                        activation.apply(&mut want);
                        let diff = (got[i * n + j] - want[0]).abs();
                        assert!(diff < 1e-5, "{m}x{k}x{n} at {i}, {j}: {diff:.1e}");
                    }
                }
            }
        }
    }
}
