//! Panels of queries on their way past the keys.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::super::lanes::{Lanes, vectorised};
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
        let (max, total) = (&mut self.max[queries.clone()], &mut self.total[queries]);
        let weights = match tile.right {
            Layout::Singles => {
                exponentiate(scores, max, total, sums);
                &self.scores
            }
            #[cfg(target_arch = "x86_64")]
            Layout::Pairs => {
                // SAFETY: pairs exist only where their instructions do.
                unsafe { pairs::exponentiate(scores, max, total, sums, &mut self.weights) }
                &self.weights
            }
            layout => {
                exponentiate(scores, max, total, sums);
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
        // SAFETY: rows are two registers long.
        unsafe {
            let top = raise::<L>(scores, max, total, sums);
            let mut sum = load::<L>(total);
            for row in scores.chunks_exact_mut(2 * L::COUNT) {
                let x = load::<L>(row);
                let x = [x[0].sub(top[0]).exp2(), x[1].sub(top[1]).exp2()];
                sum = [sum[0].add(x[0]), sum[1].add(x[1])];
                store(x, row);
            }
            store(sum, total);
        }
    }
}

/// The largest of `max` (cols) and of the scores (keys, cols) takes its place; what `total` (cols) and
/// `sums` (d, cols) hold is made relative to it.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn raise<L: Lanes>(
    scores: &[f32],
    max: &mut [f32],
    total: &mut [f32],
    sums: &mut [f32],
) -> [L; 2] {
    let cols = 2 * L::COUNT;
    assert!(max.len() == cols && total.len() == cols);
    // SAFETY: rows are two registers long; the rest is the caller's promise.
    unsafe {
        let old = load::<L>(max);
        let mut top = old;
        for row in scores.chunks_exact(cols) {
            let row = load::<L>(row);
            top = [row[0].max(top[0]), row[1].max(top[1])];
        }
        store(top, max);
        let correction = [old[0].sub(top[0]).exp2(), old[1].sub(top[1]).exp2()];
        for row in [total].into_iter().chain(sums.chunks_exact_mut(cols)) {
            let x = load::<L>(row);
            store([x[0].mul(correction[0]), x[1].mul(correction[1])], row);
        }
        top
    }
}

/// A row of two registers.
///
/// # Safety
/// `row` is as long; the processor has the instructions of `L`.
#[inline(always)]
unsafe fn load<L: Lanes>(row: &[f32]) -> [L; 2] {
    // SAFETY: the caller's promise.
    unsafe { [L::load(row.as_ptr()), L::load(row.as_ptr().add(L::COUNT))] }
}

/// The reverse of [`load`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn store<L: Lanes>(xs: [L; 2], row: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        xs[0].store(row.as_mut_ptr());
        xs[1].store(row.as_mut_ptr().add(L::COUNT));
    }
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;

    use super::{load, raise, store};
    use crate::nn::kernels::pack::avx512::row_of_pairs;

    /// Keys by queries of a pair of rows.
    const TWO_ROWS: usize = 64;

    /// [`super::exponentiate`] with powers for `weights` of bf16 (elements of keys, cols), which become
    /// pairs while they are in registers.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,fma")]
    pub fn exponentiate(
        scores: &[f32],
        max: &mut [f32],
        total: &mut [f32],
        sums: &mut [f32],
        weights: &mut [f32],
    ) {
        assert!(scores.len().is_multiple_of(TWO_ROWS / 2));
        // SAFETY: rows are two registers long, and this function has the instructions.
        unsafe {
            let top = raise::<__m512>(scores, max, total, sums);
            let mut sum = load::<__m512>(total);
            let (twos, last) = scores.as_chunks::<TWO_ROWS>();
            let mut to = weights.chunks_exact_mut(TWO_ROWS / 2);
            for (two, to) in twos.iter().zip(&mut to) {
                let (first, second) = two.split_at(TWO_ROWS / 2);
                let (first, second) = (powers(first, top), powers(second, top));
                sum = [0, 1].map(|i| _mm512_add_ps(sum[i], _mm512_add_ps(first[i], second[i])));
                store([0, 1].map(|i| row_of_pairs(first[i], second[i])), to);
            }
            if !last.is_empty() {
                let first = powers(last, top);
                sum = [0, 1].map(|i| _mm512_add_ps(sum[i], first[i]));
                let none = _mm512_setzero_ps();
                to.take(1)
                    .for_each(|to| store([0, 1].map(|i| row_of_pairs(first[i], none)), to));
            }
            store(sum, total);
        }
    }

    /// 2^(score - top) within 8e-5 of it, where rounding to bf16 leaves 2e-3: the polynomial of three
    /// degrees with the smallest relative error.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn powers(scores: &[f32], top: [__m512; 2]) -> [__m512; 2] {
        let [c0, c1, c2, c3] =
            [0.999_928_06, 0.693_260_97, 0.242_611_13, 0.055_171_67].map(|c| _mm512_set1_ps(c));
        // SAFETY: rows are two registers long.
        let scores = unsafe { load::<__m512>(scores) };
        [0, 1].map(|i| {
            let x = _mm512_sub_ps(scores[i], top[i]);
            let fraction = _mm512_reduce_ps::<0>(x); // to the nearest; 0 of infinity
            let p = _mm512_fmadd_ps(c3, fraction, c2);
            let p = _mm512_fmadd_ps(p, fraction, c1);
            let p = _mm512_fmadd_ps(p, fraction, c0);
            _mm512_scalef_ps(p, _mm512_sub_ps(x, fraction))
        })
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
