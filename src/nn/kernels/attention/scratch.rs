//! Panels of queries on their way past the keys.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::super::lanes::vectorised;
use super::super::layout::Layout;
use super::super::pack::{stack, transpose};
use super::super::view::{Block, Rows};
use super::{Bias, Head, Keys};

/// What one task needs for its panels of queries. Everything that has a value for each query is
/// stored in panels: [rows][cols], the queries side by side.
pub(super) struct Scratch {
    cols: usize,
    queries: Vec<f32>, // of each panel [elements of c][cols], scaled
    grid: Vec<f32>,    // of each panel [grid rows + grid columns][cols], scaled
    scores: Vec<f32>,  // [keys of a block][cols], then their exponentials
    weights: Vec<f32>, // [elements of a block][cols]: the exponentials as right operand
    max: Vec<f32>,     // of each panel [cols]: the largest score so far
    total: Vec<f32>,   // of each panel [cols]: the sum of exponentials so far
    sums: Vec<f32>,    // of each panel [d][cols]: the sum of weighted values so far
    channels: usize,
}

impl Scratch {
    pub(super) fn new(keys: &Keys, panels: usize, bias: &Bias) -> Self {
        let cols = keys.tile.cols;
        let grid = match bias {
            Bias::Grid { rows, columns } => rows.len + columns.len,
            _ => 0,
        };
        let block = keys.block.min(keys.count);
        let weights = match keys.tile.right {
            Layout::Singles => 0, // the scores are
            layout => layout.elements(block),
        };
        Self {
            cols,
            queries: vec![0.; panels * keys.depth * cols],
            grid: vec![0.; panels * grid * cols],
            scores: vec![0.; block * cols],
            weights: vec![0.; weights * cols],
            max: vec![0.; panels * cols],
            total: vec![0.; panels * cols],
            sums: vec![0.; panels * keys.channels * cols],
            channels: keys.channels,
        }
    }

    /// Leaves the results of these queries in `sums`, transposed.
    pub(super) fn attend(&mut self, head: &Head, keys: &Keys, queries: Range<usize>, scale: f32) {
        let (cols, layout) = (self.cols, keys.tile.right);
        // Exponentials are powers of 2, which saves a product each.
        let panels = queries.len().div_ceil(cols);
        for p in 0..panels {
            let first = queries.start + p * cols;
            let count = cols.min(queries.end - first);
            let to = &mut self.queries[p * keys.depth * cols..][..keys.depth * cols];
            let q = head.q.rows(first, count);
            transpose(q, scale * LOG2_E, layout, Block::new(to, cols));
            if let Bias::Grid { rows, columns } = head.bias {
                let sides = rows.len + columns.len;
                let (to, rest) =
                    self.grid[p * sides * cols..][..sides * cols].split_at_mut(rows.len * cols);
                for (bias, to) in [(rows, to), (columns, rest)] {
                    transpose(
                        bias.rows(first, count),
                        LOG2_E,
                        Layout::Singles,
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
                transpose(bias, LOG2_E, Layout::Singles, Block::new(scores, cols));
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
        let to = Block::new(&mut self.scores[..len * self.cols], self.cols);
        tile.multiply_into(depth, &keys.strips[start * depth..], panel, to, add);
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
        let weights = match tile.right {
            Layout::Singles => &self.scores,
            layout => {
                let scores = Rows::new(scores, cols, len, cols);
                stack(scores, layout, Block::new(&mut self.weights, cols));
                &self.weights
            }
        };
        let depth = tile.left.elements(keys.count);
        let (start, len) = (tile.left.elements(start), tile.left.elements(len));
        for first in (0..keys.channels).step_by(tile.rows) {
            let strip = &keys.values[first * depth + start * tile.rows..];
            let rows = tile.rows.min(keys.channels - first);
            let to = Block::new(&mut sums[first * cols..][..rows * cols], cols);
            tile.multiply_into(len, strip, weights, to, true);
        }
    }

    /// (queries, d)
    pub(super) fn write(&self, mut to: Block) {
        for (p, sums) in self
            .sums
            .chunks_exact(self.channels * self.cols)
            .enumerate()
        {
            let count = self.cols.min(to.count().saturating_sub(p * self.cols));
            let sums = Rows::new(sums, self.cols, self.channels, count);
            transpose(sums, 1., Layout::Singles, to.rows(p * self.cols, count));
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
