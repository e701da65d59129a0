//! Attention without the matrix of scores: blocks of keys pass by, and the softmax is corrected
//! when a larger score appears.
//!
//! Scores are computed transposed, keys by queries. A panel of queries then fills the lanes of
//! registers: maxima, exponentials and sums take no step across lanes, and the weights come out
//! packed for the product with the values.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use rayon::prelude::*;

use super::lanes::vectorised;
use super::pack::{Format, Rows, stack, transpose};
use super::tile::{Block, Shared, Tile};

/// Keys of a block, at most: their scores with a panel of queries stay in the first cache.
const KEYS: usize = 144;
/// Panels of queries that share a block.
const PANELS: usize = 4;

/// Added to the scores before the softmax; negative infinity hides a key.
#[derive(Clone, Copy)]
pub enum Bias<'a> {
    /// Nothing.
    None,
    /// One value for each key, the same for all queries.
    Keys(&'a [f32]),
    /// One value for each query and key (n, m).
    Each(Rows<'a>),
    /// Keys form a grid; the bias is the sum of one value for the key's row (n, grid rows) and one
    /// for its column (n, grid columns).
    Grid {
        /// For each query, the values of the grid's rows.
        rows: Rows<'a>,
        /// For each query, the values of the grid's columns.
        columns: Rows<'a>,
    },
}

/// What one head attends with.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Queries (n, c).
    pub q: Rows<'a>,
    /// Keys (m, c).
    pub k: Rows<'a>,
    /// Values (m, d).
    pub v: Rows<'a>,
    /// For queries and keys (n, m).
    pub bias: Bias<'a>,
}

/// `softmax(q k^T * scale + bias) v` of each head -> (batch, n, heads, d)
///
/// `head(b, h)` gives head `h` of image `b`; all have the same sizes. Without keys the result is 0.
pub fn attend<'a>(
    (batch, heads): (usize, usize),
    head: impl Fn(usize, usize) -> Head<'a> + Sync,
    scale: f32,
    format: Format,
) -> Vec<f32> {
    if batch * heads == 0 {
        return vec![];
    }
    let Head { q, k, v, .. } = head(0, 0);
    let (n, d) = (q.count, v.len);
    if k.count * d == 0 {
        return vec![0.; batch * n * heads * d];
    }
    let tile = Tile::of(format);
    let panels = n.div_ceil(tile.cols);
    let share = (panels * batch * heads).div_ceil(2 * rayon::current_num_threads());
    let group = PANELS.min(share).min(panels).max(1);
    let mut out = Vec::with_capacity(batch * n * heads * d);
    let shared = Shared::new(&mut out);
    (0..batch * heads).into_par_iter().for_each(|i| {
        let (b, h) = (i / heads, i % heads);
        let head = head(b, h);
        assert!(head.q.count == n && head.v.len == d && head.k.len == head.q.len);
        let keys = Keys::new(&head, tile);
        (0..panels.div_ceil(group)).into_par_iter().for_each_init(
            || Scratch::new(&keys, group, &head.bias),
            |scratch, g| {
                let first = g * group * tile.cols;
                let count = (group * tile.cols).min(n - first);
                scratch.attend(&head, &keys, first..first + count, scale);
                let at = ((b * n + first) * heads + h) * d;
                // SAFETY: these queries' part of this head's result belongs to this task.
                scratch.write(unsafe { shared.block(at, heads * d, count, d) });
            },
        );
    });
    // SAFETY: the tasks wrote every head's result for every query.
    unsafe { out.set_len(batch * n * heads * d) };
    out
}

/// Keys and values of a head, packed as left operands.
struct Keys {
    tile: Tile,        // of keys
    values_tile: Tile, // of channels of the values
    strips: Vec<f32>,  // [m / tile.rows][elements of c][tile.rows]
    values: Vec<f32>,  // [d / values_tile.rows][elements of m][values_tile.rows]
    depth: usize,      // elements of c
    count: usize,      // m
    channels: usize,   // d
    block: usize,      // keys of a block: whole strips, whole elements
}

impl Keys {
    fn new(head: &Head, tile: Tile) -> Self {
        let Head { k, v, .. } = *head;
        let (values_tile, tile) = (tile.fitting(v.len), tile.fitting(k.count));
        let (depth, elements) = (tile.format.elements(k.len), tile.format.elements(k.count));
        let mut strips = vec![0f32; k.count.div_ceil(tile.rows) * depth * tile.rows];
        let chunks = strips.chunks_exact_mut((depth * tile.rows).max(1));
        for (first, strip) in (0..).step_by(tile.rows).zip(chunks) {
            let rows = k.rows(first, tile.rows);
            transpose(rows, 1., tile.format, Block::new(strip, tile.rows));
        }
        let rows = values_tile.rows;
        let mut values = vec![0f32; v.len.div_ceil(rows) * elements * rows];
        let chunks = values.chunks_exact_mut(elements * rows);
        for (first, strip) in (0..).step_by(rows).zip(chunks) {
            stack(v.columns(first, rows), tile.format, Block::new(strip, rows));
        }
        Self {
            tile,
            values_tile,
            strips,
            values,
            depth,
            count: k.count,
            channels: v.len,
            block: KEYS / (2 * tile.rows) * 2 * tile.rows,
        }
    }
}

/// What one task needs for its panels of queries. Everything that has a value for each query is
/// stored in panels: [rows][cols], the queries side by side.
struct Scratch {
    cols: usize,
    queries: Vec<f32>, // of each panel [elements of c][cols], scaled
    grid: Vec<f32>,    // of each panel [grid rows + grid columns][cols], scaled
    scores: Vec<f32>,  // [keys of a block][cols], then their exponentials
    pairs: Vec<f32>,   // [elements of a block][cols]: the exponentials as pairs
    max: Vec<f32>,     // of each panel [cols]: the largest score so far
    total: Vec<f32>,   // of each panel [cols]: the sum of exponentials so far
    sums: Vec<f32>,    // of each panel [d][cols]: the sum of weighted values so far
    channels: usize,
}

impl Scratch {
    fn new(keys: &Keys, panels: usize, bias: &Bias) -> Self {
        let cols = keys.tile.cols;
        let grid = match bias {
            Bias::Grid { rows, columns } => rows.len + columns.len,
            _ => 0,
        };
        let block = keys.block.min(keys.count);
        let pairs = match keys.tile.format {
            Format::Single => 0,
            Format::Pairs => block.div_ceil(2),
        };
        Self {
            cols,
            queries: vec![0.; panels * keys.depth * cols],
            grid: vec![0.; panels * grid * cols],
            scores: vec![0.; block * cols],
            pairs: vec![0.; pairs * cols],
            max: vec![0.; panels * cols],
            total: vec![0.; panels * cols],
            sums: vec![0.; panels * keys.channels * cols],
            channels: keys.channels,
        }
    }

    /// Leaves the results of these queries in `sums`, transposed.
    fn attend(&mut self, head: &Head, keys: &Keys, queries: Range<usize>, scale: f32) {
        let (cols, format) = (self.cols, keys.tile.format);
        // Exponentials are powers of 2, which saves a product each.
        let panels = queries.len().div_ceil(cols);
        for p in 0..panels {
            let first = queries.start + p * cols;
            let count = cols.min(queries.end - first);
            let to = &mut self.queries[p * keys.depth * cols..][..keys.depth * cols];
            let q = head.q.rows(first, count);
            transpose(q, scale * LOG2_E, format, Block::new(to, cols));
            if let Bias::Grid { rows, columns } = head.bias {
                let sides = rows.len + columns.len;
                let (to, rest) =
                    self.grid[p * sides * cols..][..sides * cols].split_at_mut(rows.len * cols);
                for (bias, to) in [(rows, to), (columns, rest)] {
                    transpose(
                        bias.rows(first, count),
                        LOG2_E,
                        Format::Single,
                        Block::new(to, cols),
                    );
                }
            }
        }
        self.max.fill(f32::MIN); // finite: its difference to a hidden key's score is defined
        self.total.fill(0.);
        self.sums.fill(0.);
        for start in (0..keys.count).step_by(keys.block) {
            let len = keys.block.min(keys.count - start);
            for p in 0..panels {
                let first = queries.start + p * cols;
                let add = self.fill_with_bias(
                    head.bias,
                    start..start + len,
                    p,
                    first..queries.end.min(first + cols),
                );
                self.score(keys, start, len, p, add);
                self.weigh(keys, start, len, p);
            }
        }
        for p in 0..panels {
            let range = p * self.channels * cols..(p + 1) * self.channels * cols;
            divide(&mut self.sums[range], &self.total[p * cols..][..cols]);
        }
    }

    /// Puts the bias where the scores will be added to it; false if there is none.
    fn fill_with_bias(
        &mut self,
        bias: Bias,
        keys: Range<usize>,
        p: usize,
        queries: Range<usize>,
    ) -> bool {
        let cols = self.cols;
        let scores = &mut self.scores[..keys.len() * cols];
        match bias {
            Bias::None => return false,
            Bias::Keys(bias) => {
                for (row, b) in scores.chunks_exact_mut(cols).zip(&bias[keys]) {
                    row.fill(b * LOG2_E);
                }
            }
            Bias::Each(bias) => {
                let bias = bias
                    .rows(queries.start, queries.len())
                    .columns(keys.start, keys.len());
                transpose(bias, LOG2_E, Format::Single, Block::new(scores, cols));
            }
            Bias::Grid { rows, columns } => {
                let sides = rows.len + columns.len;
                let grid = &self.grid[p * sides * cols..][..sides * cols];
                let (rows, grid_columns) = grid.split_at(rows.len * cols);
                add_grid(rows, grid_columns, keys.start, scores, cols);
            }
        }
        true
    }

    /// Scores of one panel of queries with `len` keys.
    fn score(&mut self, keys: &Keys, start: usize, len: usize, p: usize, add: bool) {
        let Keys { tile, depth, .. } = *keys;
        let panel = &self.queries[p * depth * self.cols..];
        for first in (0..len).step_by(tile.rows) {
            let strip = &keys.strips[(start + first) * depth..];
            let to = &mut self.scores[first * self.cols..];
            let size = (tile.rows.min(len - first), self.cols);
            tile.multiply(depth, strip, panel, to, self.cols, size, add);
        }
    }

    /// Turns scores into weights and adds the weighted values.
    fn weigh(&mut self, keys: &Keys, start: usize, len: usize, p: usize) {
        let (cols, tile) = (self.cols, keys.values_tile);
        let scores = &mut self.scores[..len * cols];
        let sums = &mut self.sums[p * keys.channels * cols..][..keys.channels * cols];
        let queries = p * cols..(p + 1) * cols;
        exponentiate(
            scores,
            &mut self.max[queries.clone()],
            &mut self.total[queries],
            sums,
        );
        let weights = match tile.format {
            Format::Single => &self.scores,
            Format::Pairs => {
                let scores = Rows::new(scores, cols, len, cols);
                stack(scores, tile.format, Block::new(&mut self.pairs, cols));
                &self.pairs
            }
        };
        let depth = tile.format.elements(keys.count);
        let (start, len) = (tile.format.elements(start), tile.format.elements(len));
        for first in (0..keys.channels).step_by(tile.rows) {
            let strip = &keys.values[first * depth + start * tile.rows..];
            let size = (tile.rows.min(keys.channels - first), cols);
            tile.multiply(
                len,
                strip,
                weights,
                &mut sums[first * cols..],
                cols,
                size,
                true,
            );
        }
    }

    /// (queries, d)
    fn write(&self, mut to: Block) {
        for (p, sums) in self
            .sums
            .chunks_exact(self.channels * self.cols)
            .enumerate()
        {
            let count = self.cols.min(to.count().saturating_sub(p * self.cols));
            let sums = Rows::new(sums, self.cols, self.channels, count);
            transpose(sums, 1., Format::Single, to.rows(p * self.cols, count));
        }
    }
}

vectorised! {
    /// Scores (keys, cols) become powers of two relative to the largest so far, whose sum is added
    /// to `total`; what `total` and `sums` (d, cols) hold is made relative to it too.
    fn exponentiate<L>(scores: &mut [f32], max: &mut [f32], total: &mut [f32], sums: &mut [f32]) {
        let cols = 2 * L::COUNT;
        assert!(max.len() == cols && total.len() == cols);
        // SAFETY: rows are two registers long.
        unsafe {
            let load = |xs: &[f32]| [L::load(xs.as_ptr()), L::load(xs.as_ptr().add(L::COUNT))];
            let store = |xs: [L; 2], to: &mut [f32]| {
                xs[0].store(to.as_mut_ptr());
                xs[1].store(to.as_mut_ptr().add(L::COUNT));
            };
            let old = load(max);
            let mut top = old;
            for row in scores.chunks_exact(cols) {
                let row = load(row);
                top = [row[0].max(top[0]), row[1].max(top[1])];
            }
            store(top, max);
            let correction = [old[0].sub(top[0]).exp2(), old[1].sub(top[1]).exp2()];
            let sum = load(total);
            let mut sum = [sum[0].mul(correction[0]), sum[1].mul(correction[1])];
            for row in scores.chunks_exact_mut(cols) {
                let x = load(row);
                let x = [x[0].sub(top[0]).exp2(), x[1].sub(top[1]).exp2()];
                sum = [sum[0].add(x[0]), sum[1].add(x[1])];
                store(x, row);
            }
            store(sum, total);
            for row in sums.chunks_exact_mut(cols) {
                let x = load(row);
                store([x[0].mul(correction[0]), x[1].mul(correction[1])], row);
            }
        }
    }
}

vectorised! {
    /// Divides each row of `xs` (d, cols) by `by` (cols).
    fn divide<L>(xs: &mut [f32], by: &[f32]) {
        assert_eq!(by.len(), 2 * L::COUNT);
        for at in [0, L::COUNT] {
            // SAFETY: rows are two registers long.
            unsafe {
                let factor = L::splat(1.).div(L::load(by.as_ptr().add(at)));
                for row in xs.chunks_exact_mut(2 * L::COUNT) {
                    let to = row.as_mut_ptr().add(at);
                    L::load(to).mul(factor).store(to);
                }
            }
        }
    }
}

/// Keys `start..` of a grid: the sum of their row's and their column's biases -> `to` (keys, cols)
fn add_grid(rows: &[f32], columns: &[f32], start: usize, to: &mut [f32], cols: usize) {
    let width = columns.len() / cols;
    for (key, to) in (start..).zip(to.chunks_exact_mut(cols)) {
        let row = &rows[key / width * cols..][..cols];
        let column = &columns[key % width * cols..][..cols];
        for ((to, row), column) in to.iter_mut().zip(row).zip(column) {
            *to = row + column;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::random;

    /// The definition, in double; `bias(i, j)` is added to the score of query i and key j.
    fn defined(head: &Head, scale: f64, bias: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
        };
        let mut out = vec![];
        for i in 0..head.q.count {
            let scores: Vec<f64> = (0..head.k.count)
                .map(|j| dot(head.q.row(i), head.k.row(j)) * scale + bias(i, j))
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..head.v.len).map(|t| {
                let sum: f64 = weights
                    .iter()
                    .enumerate()
                    .map(|(j, w)| w * head.v.row(j)[t] as f64)
                    .sum();
                sum / total
            }));
        }
        out
    }

    fn assert_near(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let diff = (*got as f64 - want).abs();
            assert!(diff < tolerance, "{what} at {i}: {diff:.1e}");
        }
    }

    #[test]
    fn heads_of_all_sizes_and_biases_equal_the_softmax_in_double() {
        for (n, m, c, d) in [
            (1, 1, 1, 1),
            (5, 7, 6, 6),
            (57, 1100, 64, 40),
            (201, 600, 32, 32),
        ] {
            let q: Vec<f32> = random(n * c, 1).iter().map(|x| x * 10.).collect();
            let (k, v) = (random(m * c, 2), random(m * d, 3));
            let mut values = random(n * m, 4);
            let hidden = |x: &mut f32| *x = f32::NEG_INFINITY;
            values.iter_mut().step_by(3).for_each(hidden);
            values[..m.min(520)].iter_mut().for_each(hidden); // whole blocks of the first query
            values[m - 1] = 0.;
            let width = (1..=m)
                .rev()
                .find(|w| m % w == 0 && w * w <= m)
                .unwrap_or(1);
            let (rows, columns) = (random(n * (m / width), 5), random(n * width, 6));
            let rows = Rows::new(&rows, m / width, n, m / width);
            let columns = Rows::new(&columns, width, n, width);
            for bias in [
                Bias::None,
                Bias::Keys(&values[..m]),
                Bias::Each(Rows::new(&values, m, n, m)),
                Bias::Grid { rows, columns },
            ] {
                let head = Head {
                    q: Rows::new(&q, c, n, c),
                    k: Rows::new(&k, c, m, c),
                    v: Rows::new(&v, d, m, d),
                    bias,
                };
                let want = defined(&head, 0.3, |i, j| match bias {
                    Bias::None => 0.,
                    Bias::Keys(bias) => bias[j] as f64,
                    Bias::Each(bias) => bias.row(i)[j] as f64,
                    Bias::Grid { rows, columns } => {
                        rows.row(i)[j / width] as f64 + columns.row(i)[j % width] as f64
                    }
                });
                let got = attend((1, 1), |_, _| head, 0.3, Format::Single);
                assert_near(&got, &want, 3e-6, &format!("{n}x{m}x{c}"));
                if Tile::of(Format::Pairs).format == Format::Pairs {
                    let got = attend((1, 1), |_, _| head, 0.3, Format::Pairs);
                    assert_near(&got, &want, 2e-2, &format!("{n}x{m}x{c} in bf16"));
                }
            }
        }
    }

    #[test]
    fn heads_and_images_keep_apart() {
        // (batch 2, n 3, heads 2, c 4), as a linear layer leaves them
        let xs = random(2 * 3 * 2 * 4, 7);
        let head = |b: usize, h: usize| {
            let rows = Rows::new(&xs[b * 24 + h * 4..], 8, 3, 4);
            Head {
                q: rows,
                k: rows,
                v: rows,
                bias: Bias::None,
            }
        };
        let got = attend((2, 2), head, 1., Format::Single);
        for (b, h) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let rows = Rows::new(&got[b * 24 + h * 4..], 8, 3, 4);
            let got: Vec<f32> = (0..3).flat_map(|i| rows.row(i)).copied().collect();
            assert_near(&got, &defined(&head(b, h), 1., |_, _| 0.), 1e-6, "a head");
        }
    }

    #[test]
    fn empty_sides_give_empty_results_or_zeros() {
        let xs = random(64, 8);
        for (n, m, c, d) in [(0, 5, 4, 4), (5, 0, 4, 4), (5, 3, 4, 0), (3, 5, 0, 4)] {
            let head = Head {
                q: Rows::new(&xs, c, n, c),
                k: Rows::new(&xs, c, m, c),
                v: Rows::new(&xs, d, m, d),
                bias: Bias::None,
            };
            let got = attend((1, 1), |_, _| head, 1., Format::Single);
            assert_eq!(got.len(), n * d);
            let mean = |t: usize| (0..m).map(|j| xs[j * d + t]).sum::<f32>() / m.max(1) as f32;
            for (i, got) in got.iter().enumerate() {
                assert!((got - mean(i % d)).abs() < 1e-6, "{n}x{m}x{c}x{d}: {got}");
            }
        }
        assert!(attend((0, 1), |_, _| unreachable!(), 1., Format::Single).is_empty());
    }

    #[test]
    fn what_is_not_a_number_stays_in_its_query_and_infinity_hides_a_key() {
        let (n, m, c) = (40, 300, 8);
        let (mut q, k, mut v) = (random(n * c, 1), random(m * c, 2), random(m * c, 3));
        q[3 * c] = f32::NAN;
        v[7 * c] = f32::NAN;
        let mut hidden = vec![0f32; n * m];
        hidden[5 * m..][..m].fill(f32::NEG_INFINITY); // all keys of query 5
        hidden[6 * m + 9] = f32::INFINITY;
        let head = Head {
            q: Rows::new(&q, c, n, c),
            k: Rows::new(&k, c, m, c),
            v: Rows::new(&v, c, m, c),
            bias: Bias::Each(Rows::new(&hidden, m, n, m)),
        };
        let got = attend((1, 1), |_, _| head, 1., Format::Single);
        for (i, row) in got.chunks_exact(c).enumerate() {
            assert!(
                row[0].is_nan(),
                "a value that is not a number reaches query {i}"
            );
            let expected = matches!(i, 3 | 5 | 6); // as the definition has it
            assert_eq!(
                row[1..].iter().all(|x| x.is_nan()),
                expected,
                "query {i}: {row:?}"
            );
            assert_eq!(
                row[1..].iter().any(|x| x.is_nan()),
                expected,
                "query {i}: {row:?}"
            );
        }
    }
}
