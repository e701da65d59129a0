//! Attention without the matrix of scores: blocks of keys pass by, and the softmax is corrected
//! when a larger score appears.

use rayon::prelude::*;

use super::math;
use super::tile::{TILE, Tile};

/// Keys of a block: its keys and values stay in the second cache.
const KEYS: usize = 512;
/// Strips of queries that share a block.
const STRIPS: usize = 4;

/// Added to the scores before the softmax: a row of `m` values for each query.
#[derive(Clone, Copy)]
pub struct Bias<'a> {
    /// The rows.
    pub rows: &'a [f32],
    /// Elements from one query to the next; 0 if all queries share a row.
    pub stride: usize,
}

/// One head: `softmax(q k^T * scale + bias) v` of `q` (n, c), `k` (m, c) and `v` (m, d)
/// -> `out` (n, d)
pub fn head(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    (c, d): (usize, usize),
    scale: f32,
    bias: Option<Bias>,
    out: &mut [f32],
) {
    let tile = *TILE;
    let keys = Keys {
        k: pack_keys(k, c, &tile),
        v: pack_values(v, d, &tile),
        m: k.len() / c,
        c,
        d,
    };
    let strips = q.len().div_ceil(tile.rows * c);
    let rows = STRIPS.min(strips.div_ceil(rayon::current_num_threads())) * tile.rows;
    let blocks = out
        .par_chunks_mut(rows * d)
        .zip(q.par_chunks(rows * c))
        .enumerate();
    blocks.for_each_init(
        || Scratch::new(rows, c, &tile),
        |scratch, (i, (out, q))| {
            let bias = bias.map(|b| Bias {
                rows: &b.rows[i * rows * b.stride..],
                ..b
            });
            scratch.attend(q, &keys, scale, bias, out, &tile);
        },
    );
}

/// Keys and values of a head, packed.
struct Keys {
    k: Vec<f32>, // panels [m / cols][c][cols]
    v: Vec<f32>, // panels [d / cols][m][cols]
    m: usize,
    c: usize,
    d: usize,
}

/// What one task needs for its queries.
struct Scratch {
    queries: Vec<f32>, // strips [c][rows], scaled
    scores: Vec<f32>,  // [rows][KEYS]
    weights: Vec<f32>, // [KEYS][rows], the scores' exponentials
    max: Vec<f32>,     // largest score so far of each query
    sum: Vec<f32>,     // sum of exponentials so far
}

impl Scratch {
    fn new(rows: usize, c: usize, tile: &Tile) -> Self {
        Self {
            queries: vec![0.; rows * c],
            scores: vec![0.; tile.rows * KEYS],
            weights: vec![0.; tile.rows * KEYS],
            max: vec![0.; rows],
            sum: vec![0.; rows],
        }
    }

    fn attend(
        &mut self,
        q: &[f32],
        keys: &Keys,
        scale: f32,
        bias: Option<Bias>,
        out: &mut [f32],
        tile: &Tile,
    ) {
        let (n, c, d) = (q.len() / keys.c, keys.c, keys.d);
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.);
        out.fill(0.);
        for (i, row) in q.chunks_exact(c).enumerate() {
            let strip = &mut self.queries[i / tile.rows * tile.rows * c..];
            for (t, x) in row.iter().enumerate() {
                strip[t * tile.rows + i % tile.rows] = x * scale;
            }
        }
        for start in (0..keys.m).step_by(KEYS) {
            let len = KEYS.min(keys.m - start);
            for first in (0..n).step_by(tile.rows) {
                let height = tile.rows.min(n - first);
                self.score(keys, start, len, first, height, tile);
                for i in 0..height {
                    let row = first + i;
                    let bias = bias.map(|b| &b.rows[row * b.stride + start..][..len]);
                    self.exponentiate(i, row, len, bias, &mut out[row * d..][..d], tile.rows);
                }
                for from in (0..d).step_by(tile.cols) {
                    let panel = &keys.v[(from * keys.m) + start * tile.cols..];
                    let size = (height, tile.cols.min(d - from));
                    let to = &mut out[first * d + from..];
                    tile.multiply(len, &self.weights, panel, to, d, size, true);
                }
            }
        }
        for (row, sum) in out.chunks_exact_mut(d).zip(&self.sum) {
            row.iter_mut().for_each(|x| *x /= sum);
        }
    }

    /// Scores of one strip of queries against `len` keys.
    fn score(
        &mut self,
        keys: &Keys,
        start: usize,
        len: usize,
        first: usize,
        height: usize,
        tile: &Tile,
    ) {
        let strip = &self.queries[first * keys.c..];
        for from in (0..len).step_by(tile.cols) {
            let panel = &keys.k[(start + from) * keys.c..];
            let size = (height, tile.cols.min(len - from));
            tile.multiply(
                keys.c,
                strip,
                panel,
                &mut self.scores[from..],
                KEYS,
                size,
                false,
            );
        }
    }

    /// Turns row `i` of the scores into weights, and corrects what the query `row` has so far.
    fn exponentiate(
        &mut self,
        i: usize,
        row: usize,
        len: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        rows: usize,
    ) {
        let scores = &mut self.scores[i * KEYS..][..len];
        if let Some(bias) = bias {
            scores.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
        let max = self.max[row].max(math::max(scores));
        if max == f32::NEG_INFINITY {
            scores.fill(0.); // every key so far is masked
        } else {
            let correction = math::exp(self.max[row] - max);
            self.sum[row] = self.sum[row] * correction + math::exp_sum(scores, max);
            self.max[row] = max;
            if correction != 1. {
                out.iter_mut().for_each(|x| *x *= correction);
            }
        }
        for (j, x) in scores.iter().enumerate() {
            self.weights[j * rows + i] = *x;
        }
    }
}

/// (m, c) -> panels [m / cols][c][cols]
fn pack_keys(k: &[f32], c: usize, tile: &Tile) -> Vec<f32> {
    let mut panels = vec![0f32; (k.len() / c).next_multiple_of(tile.cols) * c];
    for (panel, rows) in panels
        .chunks_exact_mut(c * tile.cols)
        .zip(k.chunks(tile.cols * c))
    {
        for (j, row) in rows.chunks_exact(c).enumerate() {
            for (t, x) in row.iter().enumerate() {
                panel[t * tile.cols + j] = *x;
            }
        }
    }
    panels
}

/// (m, c) -> panels [c / cols][m][cols]
fn pack_values(v: &[f32], c: usize, tile: &Tile) -> Vec<f32> {
    let m = v.len() / c;
    let mut panels = vec![0f32; c.div_ceil(tile.cols) * m * tile.cols];
    for (p, panel) in panels.chunks_exact_mut((m * tile.cols).max(1)).enumerate() {
        let from = p * tile.cols;
        let width = tile.cols.min(c - from);
        for (to, row) in panel.chunks_exact_mut(tile.cols).zip(v.chunks_exact(c)) {
            to[..width].copy_from_slice(&row[from..from + width]);
        }
    }
    panels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;

    #[test]
    fn heads_of_all_sizes_equal_the_softmax_in_double() {
        // some keys masked; queries without bias, with rows of their own, with one row for all
        for (n, m, c, d, stride) in [
            (5, 7, 6, 6, None),
            (57, 1100, 64, 40, Some(1100)),
            (201, 600, 32, 32, Some(0)),
        ] {
            let q: Vec<f32> = random(n * c, 1).iter().map(|x| x * 10.).collect();
            let (k, v) = (random(m * c, 2), random(m * d, 3));
            let mut rows = random(n * m, 4);
            rows.iter_mut()
                .step_by(3)
                .for_each(|x| *x = f32::NEG_INFINITY);
            rows[..520.min(m)].fill(f32::NEG_INFINITY); // a whole block of the first query
            rows[m - 1] = 0.;
            let bias = stride.map(|stride| Bias {
                rows: &rows,
                stride,
            });
            let mut got = vec![0f32; n * d];
            head(&q, &k, &v, (c, d), 0.3, bias, &mut got);
            for i in 0..n {
                let score = |j: usize| -> f64 {
                    let dot: f64 = (0..c)
                        .map(|t| (q[i * c + t] as f64) * (k[j * c + t] as f64))
                        .sum();
                    dot * 0.3 + bias.map_or(0., |b| b.rows[i * b.stride + j] as f64)
                };
                let scores: Vec<f64> = (0..m).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp()).collect();
                for t in 0..d {
                    let sum: f64 = weights
                        .iter()
                        .enumerate()
                        .map(|(j, w)| w * v[j * d + t] as f64)
                        .sum();
                    let want = sum / weights.iter().sum::<f64>();
                    let diff = (got[i * d + t] as f64 - want).abs();
                    assert!(diff < 2e-6, "{n}x{m}x{c} at {i}, {t}: {diff:.1e}");
                }
            }
        }
    }
}
