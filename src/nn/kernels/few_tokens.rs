//! Attention between an image and a few tokens, both ways, in one pass over the image.
//!
//! The image has thousands of rows, the tokens are a handful. So whatever can be is left to the
//! tokens: scores `(x W) k^T` are `x (k W^T)^T`, and results `a (v W)` need `v W` once. The image is
//! then only multiplied with a few columns for each head, and a block of its rows passes through all
//! steps while it is in the cache.

use candle::Result;
use rayon::prelude::*;

use super::epilogue::{Activation, Bias, Epilogue};
use super::layout::Format;
use super::matmul::PackedWeight;
use super::pack::stack;
use super::rowwise::{exp2, layer_norm, softmax2};
use super::tile::Tile;
use super::view::{Block, Rows};
use crate::run;

/// Rows of a block: whole strips of the tiles with 6 and 14 rows.
const ROWS: usize = 84;

/// What the rows of an image take from the tokens, for `h` heads and `n` tokens:
/// `softmax(q keys^T + key_bias) values^T + bias`, the softmax over the tokens of each head.
pub struct FromTokens {
    /// (h * n, k), times log2 e.
    pub keys: PackedWeight,
    /// (h * n), times log2 e.
    pub key_bias: Vec<f32>,
    /// (d, h * n)
    pub values: PackedWeight,
    /// (d)
    pub bias: Vec<f32>,
    /// n
    pub tokens: usize,
}

/// One pass over an image of `m` rows.
pub struct Pass<'a> {
    /// (m, d)
    pub image: Rows<'a>,
    /// Added to the rows of the image where they are compared with tokens (m, d).
    pub positions: Rows<'a>,
    /// Queries of the image (m, k); None for its rows with their positions.
    pub queries: Option<Rows<'a>>,
    /// What is added to the image.
    pub from_tokens: &'a FromTokens,
    /// Weight, bias and epsilon of the layer norm that follows.
    pub norm: (&'a [f32], &'a [f32], f32),
    /// Queries (c, d) of tokens that look at the result, times log2 e.
    pub looks: &'a PackedWeight,
    /// Of the products.
    pub format: Format,
}

impl Pass<'_> {
    /// Writes the new image (m, d) to `out` and returns what the tokens see in it (c, d):
    /// `softmax(looks (out + positions)^T) out`, the softmax over the image.
    ///
    /// # Errors
    /// When the run is cancelled.
    ///
    /// # Panics
    /// When the sizes disagree.
    pub fn run(&self, out: &mut [f32]) -> Result<Vec<f32>> {
        let (m, d) = (self.image.count, self.image.len);
        assert!(out.len() == m * d && (self.positions.count, self.positions.len) == (m, d));
        let blocks = m.div_ceil(ROWS).max(1);
        let tasks = (2 * rayon::current_num_threads()).min(blocks);
        let rows = blocks.div_ceil(tasks) * ROWS;
        let check = run::checker();
        let parts = out.par_chunks_mut((rows * d).max(1)).enumerate();
        let seen: Result<Vec<Seen>> = parts
            .map(|(task, out)| {
                let mut seen = Seen::new(self.looks.dims(), self.format);
                let mut scratch = Scratch::default();
                for (block, out) in out.chunks_mut(ROWS * d).enumerate() {
                    check()?;
                    self.block(task * rows + block * ROWS, out, &mut scratch, &mut seen);
                }
                Ok(seen)
            })
            .collect();
        let all = seen?.into_iter().reduce(Seen::with);
        Ok(all.map_or_else(Vec::new, Seen::finish))
    }

    fn block(&self, first: usize, out: &mut [f32], scratch: &mut Scratch, seen: &mut Seen) {
        let d = self.image.len;
        let count = out.len() / d;
        let (image, positions) = (
            self.image.rows(first, count),
            self.positions.rows(first, count),
        );
        let Scratch {
            strips,
            placed,
            scores,
        } = scratch;
        let FromTokens { keys, values, .. } = self.from_tokens;
        let (columns, _) = keys.dims();
        scores.resize(count * columns, 0.);
        let queries = match self.queries {
            Some(queries) => queries.rows(first, count),
            None => place(image, positions, placed),
        };
        keys.multiply(queries, strips, scores);
        let key_bias = Epilogue {
            bias: Bias::Columns(&self.from_tokens.key_bias),
            ..Epilogue::default()
        };
        key_bias.apply(Block::new(scores, columns), 0, 0);
        softmax2(scores, self.from_tokens.tokens);
        values.multiply(Rows::new(scores, columns, count, columns), strips, out);
        let residual = Epilogue {
            bias: Bias::Columns(&self.from_tokens.bias),
            activation: Activation::Identity,
            residual: Some(image),
        };
        residual.apply(Block::new(out, d), 0, 0);
        let (weight, bias, eps) = self.norm;
        layer_norm(out, weight, bias, eps);

        let image = Rows::new(out, d, count, d);
        let (looks, _) = self.looks.dims();
        scores.resize(count * looks, 0.);
        self.looks
            .multiply(place(image, positions, placed), strips, scores);
        seen.add(scores, image, strips, placed);
    }
}

/// Memory of a task.
#[derive(Default)]
struct Scratch {
    strips: Vec<f32>,
    placed: Vec<f32>, // (rows, d)
    scores: Vec<f32>, // (rows, columns)
}

/// Rows with their positions.
fn place<'a>(xs: Rows, positions: Rows, placed: &'a mut Vec<f32>) -> Rows<'a> {
    placed.clear();
    for i in 0..xs.count {
        let sums = xs.row(i).iter().zip(positions.row(i)).map(|(x, p)| x + p);
        placed.extend(sums);
    }
    Rows::new(placed, xs.len, xs.count, xs.len)
}

/// What `c` queries have seen of an image so far.
struct Seen {
    tile: Tile,
    max: Vec<f32>,   // (c): the largest score
    total: Vec<f32>, // (c): the sum of exponentials relative to it
    sums: Vec<f32>,  // (c, d): the sum of rows weighted with them
}

impl Seen {
    fn new((c, d): (usize, usize), format: Format) -> Self {
        Self {
            tile: Tile::of(format).fitting(c),
            max: vec![f32::MIN; c], // finite, so that differences are defined
            total: vec![0.; c],
            sums: vec![0.; c * d],
        }
    }

    /// Adds rows and their `scores` (rows, c), which are overwritten, as are `strips` and `panels`.
    fn add(
        &mut self,
        scores: &mut [f32],
        rows: Rows,
        strips: &mut Vec<f32>,
        panels: &mut Vec<f32>,
    ) {
        let (c, d) = (self.max.len(), rows.len);
        let mut top = self.max.clone();
        for row in scores.chunks_exact(c) {
            top.iter_mut()
                .zip(row)
                .for_each(|(top, x)| *top = top.max(*x));
        }
        self.raise(&top);
        for row in scores.chunks_exact_mut(c) {
            row.iter_mut().zip(&top).for_each(|(x, top)| *x -= top);
        }
        exp2(scores);
        for row in scores.chunks_exact(c) {
            self.total
                .iter_mut()
                .zip(row)
                .for_each(|(total, x)| *total += x);
        }
        let (tile, weights) = (self.tile, Rows::new(scores, c, rows.count, c));
        let depth = tile.left.elements(rows.count);
        strips.resize(c.next_multiple_of(tile.rows) * depth, 0.);
        let chunks = strips.chunks_exact_mut((depth * tile.rows).max(1));
        for (first, strip) in (0..c).step_by(tile.rows).zip(chunks) {
            let weights = weights.columns(first, tile.rows);
            stack(weights, tile.left, Block::new(strip, tile.rows));
        }
        panels.resize(d.next_multiple_of(tile.cols) * depth, 0.);
        let chunks = panels.chunks_exact_mut((depth * tile.cols).max(1));
        for (first, panel) in (0..d).step_by(tile.cols).zip(chunks) {
            let rows = rows.columns(first, tile.cols);
            stack(rows, tile.right, Block::new(panel, tile.cols));
        }
        let sums = Block::new(&mut self.sums, d);
        tile.multiply_into(depth, strips, panels, sums, true);
    }

    /// Makes everything relative to larger scores.
    fn raise(&mut self, top: &[f32]) {
        let mut factors: Vec<f32> = self
            .max
            .iter()
            .zip(top)
            .map(|(old, new)| old - new)
            .collect();
        exp2(&mut factors);
        let d = self.sums.len() / self.max.len().max(1);
        for (i, factor) in factors
            .iter()
            .enumerate()
            .filter(|(_, factor)| **factor != 1.)
        {
            self.total[i] *= factor;
            self.sums[i * d..(i + 1) * d]
                .iter_mut()
                .for_each(|x| *x *= factor);
        }
        self.max.copy_from_slice(top);
    }

    /// Both together.
    fn with(mut self, mut other: Self) -> Self {
        let top: Vec<f32> = self
            .max
            .iter()
            .zip(&other.max)
            .map(|(a, b)| a.max(*b))
            .collect();
        self.raise(&top);
        other.raise(&top);
        self.total
            .iter_mut()
            .zip(&other.total)
            .for_each(|(a, b)| *a += b);
        self.sums
            .iter_mut()
            .zip(&other.sums)
            .for_each(|(a, b)| *a += b);
        self
    }

    fn finish(mut self) -> Vec<f32> {
        let d = self.sums.len() / self.max.len().max(1);
        for (row, total) in self.sums.chunks_exact_mut(d.max(1)).zip(&self.total) {
            row.iter_mut().for_each(|x| *x /= total);
        }
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;

    /// `softmax2(a b^T + bias) values`, by the definition, in double; over `len` columns at a time.
    fn attended(scores: &[Vec<f64>], values: &[Vec<f64>], len: usize) -> Vec<Vec<f64>> {
        let row = |scores: &Vec<f64>| {
            let mut sums = vec![0.; values[0].len()];
            for (group, values) in scores.chunks(len).zip(values.chunks(len)) {
                let max = group.iter().copied().fold(f64::MIN, f64::max);
                let powers: Vec<f64> = group.iter().map(|x| (x - max).exp2()).collect();
                let total: f64 = powers.iter().sum();
                for (power, value) in powers.iter().zip(values) {
                    for (sum, v) in sums.iter_mut().zip(value) {
                        *sum += power / total * v;
                    }
                }
            }
            sums
        };
        scores.iter().map(row).collect()
    }

    fn matrix(xs: &[f32], len: usize) -> Vec<Vec<f64>> {
        let row = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect();
        xs.chunks_exact(len).map(row).collect()
    }

    fn dots(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        a.iter()
            .map(|a| b.iter().map(|b| dot(a, b)).collect())
            .collect()
    }

    #[test]
    fn a_pass_equals_attention_norm_and_attention_in_double() {
        for (m, heads, n, d, is_projected) in [
            (5, 1, 1, 3, false),
            (200, 2, 7, 20, false),
            (700, 4, 3, 40, true),
        ] {
            if cfg!(miri) && m > 5 {
                continue;
            }
            let (c, looks, k) = (heads * n, 5, if is_projected { 9 } else { d });
            let scaled = |len, seed| {
                random(len, seed)
                    .iter()
                    .map(|x| x * 3.)
                    .collect::<Vec<f32>>()
            };
            let (image, positions, queries) =
                (scaled(m * d, 1), scaled(m * d, 2), scaled(m * k, 3));
            let (keys, values) = (scaled(c * k, 4), scaled(d * c, 5));
            let (key_bias, bias) = (scaled(c, 6), scaled(d, 7));
            let (weight, norm_bias, looking) = (scaled(d, 8), scaled(d, 9), scaled(looks * d, 10));
            for format in Format::ALL {
                let tolerance = match Tile::of(format).format {
                    Format::Single => 2e-5,
                    Format::Split => 2e-4,
                    Format::Pairs => continue,
                };
                let from_tokens = FromTokens {
                    keys: PackedWeight::new(&keys, c, k, format),
                    key_bias: key_bias.clone(),
                    values: PackedWeight::new(&values, d, c, format),
                    bias: bias.clone(),
                    tokens: n,
                };
                let packed = PackedWeight::new(&looking, looks, d, format);
                let pass = Pass {
                    image: Rows::new(&image, d, m, d),
                    positions: Rows::new(&positions, d, m, d),
                    queries: is_projected.then(|| Rows::new(&queries, k, m, k)),
                    from_tokens: &from_tokens,
                    norm: (&weight, &norm_bias, 1e-5),
                    looks: &packed,
                    format,
                };
                let mut out = vec![f32::NAN; m * d];
                let seen = pass.run(&mut out).unwrap();

                let sums = |a: &[Vec<f64>], b: &[Vec<f64>]| -> Vec<Vec<f64>> {
                    let add = |(a, b): (&Vec<f64>, &Vec<f64>)| {
                        a.iter().zip(b).map(|(a, b)| a + b).collect()
                    };
                    a.iter().zip(b).map(add).collect()
                };
                let (wide, placed) = (matrix(&image, d), matrix(&positions, d));
                let asked = match is_projected {
                    true => matrix(&queries, k),
                    false => sums(&wide, &placed),
                };
                let key_bias = vec![matrix(&key_bias, c).remove(0); m];
                let scores = sums(&dots(&asked, &matrix(&keys, k)), &key_bias);
                let columns: Vec<Vec<f64>> = (0..c)
                    .map(|j| (0..d).map(|i| f64::from(values[i * c + j])).collect())
                    .collect();
                let taken = sums(
                    &attended(&scores, &columns, n),
                    &vec![matrix(&bias, d).remove(0); m],
                );
                let want: Vec<Vec<f64>> = sums(&taken, &wide)
                    .iter()
                    .map(|row| {
                        let mean = row.iter().sum::<f64>() / d as f64;
                        let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
                        let at = |i: usize| {
                            (row[i] - mean) / (var + 1e-5).sqrt() * f64::from(weight[i])
                                + f64::from(norm_bias[i])
                        };
                        (0..d).map(at).collect()
                    })
                    .collect();
                let close = |got: &[f32], want: &[Vec<f64>]| {
                    for (got, want) in got.iter().zip(want.iter().flatten()) {
                        let diff = (f64::from(*got) - want).abs();
                        assert!(diff < tolerance, "{m} {n} {format:?}: {got} {want}");
                    }
                };
                close(&out, &want);
                let scores = dots(&matrix(&looking, d), &sums(&want, &placed));
                close(&seen, &attended(&scores, &want, m));
            }
        }
    }
}
