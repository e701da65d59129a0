//! Attention between an image and a few tokens, both ways, in one pass over the image.
//!
//! The image has thousands of rows, the tokens are a handful. So whatever can be is left to the
//! tokens: scores `(x W) k^T` are `x (k W^T)^T`, and results `a (v W)` need `v W` once. The image is
//! then only multiplied with a few columns for each head, and a block of its rows passes through all
//! steps while it is in the cache.

mod seen;

use candle::Result;
use rayon::prelude::*;

use super::epilogue::add_to_rows;
use super::lanes::vectorised;
use super::layout::Format;
use super::matmul::PackedWeight;
use super::rowwise::{layer_norm, softmax2};
use super::tile::TILE;
use super::view::{Block, Rows, Shared, filled, room};
use crate::run;
use seen::Seen;

/// Rows of a block: whole strips of the tiles with 6 and 14 rows.
const ROWS: usize = 84;

/// What the rows of an image take from the tokens, for `n` tokens and `h` heads:
/// `softmax(q keys^T + key_bias) values^T + bias`, the softmax over the tokens of each head.
///
/// The heads of a token lie side by side, so that what all heads do is done in vectors.
pub struct FromTokens {
    /// (n * h, k), times log2 e.
    pub keys: PackedWeight,
    /// (n * h), times log2 e.
    pub key_bias: Vec<f32>,
    /// (d, n * h)
    pub values: PackedWeight,
    /// (d)
    pub bias: Vec<f32>,
    /// h, at most [`MAX_HEADS`](super::rowwise::MAX_HEADS)
    pub heads: usize,
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

/// The new images (b, m, d) of `b` passes over images of one size, and what the tokens of each see in
/// its own (b, c, d): `softmax(looks (out + positions)^T) out`, the softmax over the image.
///
/// # Errors
/// When there is no memory for the images, or the run is cancelled.
///
/// # Panics
/// When the sizes disagree.
pub fn run(passes: &[Pass]) -> Result<[Vec<f32>; 2]> {
    let Some(Rows { count, len, .. }) = passes.first().map(|pass| pass.image) else {
        return Ok([vec![], vec![]]);
    };
    let mut seen = vec![];
    let write = |shared: Shared| {
        for (i, pass) in passes.iter().enumerate() {
            assert_eq!((pass.image.count, pass.image.len), (count, len));
            seen.extend(pass.run(shared, i * count)?);
        }
        Ok(())
    };
    // SAFETY: each pass writes its image.
    let images = unsafe { filled(&[passes.len(), count, len], write) }?;
    Ok([images, seen])
}

impl Pass<'_> {
    /// Writes the new image to rows `at..` of `out` and returns what the tokens see in it.
    fn run(&self, out: Shared, at: usize) -> Result<Vec<f32>> {
        let (m, d) = (self.image.count, self.image.len);
        assert_eq!((self.positions.count, self.positions.len), (m, d));
        let tasks = 2 * rayon::current_num_threads();
        let rows = m.div_ceil(tasks).next_multiple_of(TILE.rows).max(1);
        let check = run::checker();
        let tasks = (0..m.div_ceil(rows)).into_par_iter();
        let seen: Result<Vec<Seen>> = tasks
            .map(|task| {
                let mut seen = Seen::new(self.looks.dims(), self.format);
                let mut scratch = Scratch::default();
                let end = m.min((task + 1) * rows);
                for first in (task * rows..end).step_by(ROWS) {
                    check()?;
                    let count = ROWS.min(end - first);
                    // SAFETY: these rows belong to this task.
                    let block = unsafe { out.block((at + first) * d, d, count, d) };
                    self.block(first, block, &mut scratch, &mut seen);
                }
                Ok(seen)
            })
            .collect();
        let all = seen?.into_iter().reduce(Seen::with);
        Ok(all.map_or_else(Vec::new, Seen::finish))
    }

    /// Rows `first..` of the image, as many as `out` has.
    fn block(&self, first: usize, mut out: Block, scratch: &mut Scratch, seen: &mut Seen) {
        let (count, d) = (out.count(), out.width());
        let out = out.elements();
        let (image, positions) = (
            self.image.rows(first, count),
            self.positions.rows(first, count),
        );
        let Scratch {
            strips,
            placed,
            scores,
        } = scratch;
        let FromTokens {
            keys,
            key_bias,
            values,
            bias,
            heads,
        } = self.from_tokens;
        let (columns, _) = keys.dims();
        let taken = room(scores, count * columns);
        let queries = match self.queries {
            Some(queries) => queries.rows(first, count),
            None => place(image, positions, placed),
        };
        keys.multiply(queries, strips, taken);
        add_to_rows(taken, columns, key_bias, None);
        softmax2(taken, columns, *heads);
        values.multiply(Rows::new(taken, columns, count, columns), strips, out);
        add_to_rows(out, d, bias, Some(image));
        let (weight, bias, eps) = self.norm;
        layer_norm(out, weight, bias, eps);

        let image = Rows::new(out, d, count, d);
        let (looks, _) = self.looks.dims();
        let asked = room(scores, count * looks);
        self.looks
            .multiply(place(image, positions, placed), strips, asked);
        seen.add(asked, image, strips, placed);
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
    let placed = room(placed, xs.count * xs.len);
    add(xs, positions, placed);
    Rows::new(placed, xs.len, xs.count, xs.len)
}

vectorised! {
    /// The sums of rows, without gaps.
    fn add<L>(a: Rows, b: Rows, sums: &mut [f32]) {
        for (i, sums) in sums.chunks_exact_mut(a.len.max(1)).enumerate() {
            for ((sum, a), b) in sums.iter_mut().zip(a.row(i)).zip(b.row(i)) {
                *sum = a + b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;
    use crate::nn::kernels::tile::Tile;

    /// `softmax2(scores) values` by the definition, in double; of every `heads`-th column by itself.
    fn attended(scores: &[Vec<f64>], values: &[Vec<f64>], heads: usize) -> Vec<Vec<f64>> {
        let row = |scores: &Vec<f64>| {
            let mut sums = vec![0.; values[0].len()];
            for head in 0..heads {
                let of_head = || (head..scores.len()).step_by(heads);
                let max = of_head().map(|i| scores[i]).fold(f64::MIN, f64::max);
                let power = |i: usize| (scores[i] - max).exp2();
                let total: f64 = of_head().map(power).sum();
                for i in of_head() {
                    for (sum, v) in sums.iter_mut().zip(&values[i]) {
                        *sum += power(i) / total * v;
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
                    heads,
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
                let [out, seen] = run(&[pass]).unwrap();

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
                    &attended(&scores, &columns, heads),
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
                close(&seen, &attended(&scores, &want, 1));
            }
        }
    }
}
