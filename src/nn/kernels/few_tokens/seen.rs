//! What tokens see of an image that comes block by block.

use super::super::lanes::vectorised;
use super::super::layout::Format;
use super::super::pack::stack_pieces;
use super::super::rowwise::exp2;
use super::super::tile::Tile;
use super::super::view::{Block, Rows, room};

/// What `c` queries have seen of an image so far.
pub struct Seen {
    tile: Tile,
    max: Vec<f32>,   // (c): the largest score
    total: Vec<f32>, // (c): the sum of exponentials relative to it
    sums: Vec<f32>,  // (c, d): the sum of rows weighted with them
}

impl Seen {
    pub fn new((c, d): (usize, usize), format: Format) -> Self {
        Self {
            tile: Tile::of(format).fitting(c),
            max: vec![f32::MIN; c], // finite, so that differences are defined
            total: vec![0.; c],
            sums: vec![0.; c * d],
        }
    }

    /// Adds rows and their `scores` (rows, c), which are overwritten, as are `strips` and `panels`.
    pub fn add(
        &mut self,
        scores: &mut [f32],
        rows: Rows,
        strips: &mut Vec<f32>,
        panels: &mut Vec<f32>,
    ) {
        let (c, d) = (self.max.len(), rows.len);
        let mut top = self.max.clone();
        raise_to(scores, &mut top);
        self.raise(&top);
        subtract(scores, &top);
        exp2(scores);
        add_up(scores, &mut self.total);
        let (tile, weights) = (self.tile, Rows::new(scores, c, rows.count, c));
        let depth = tile.left.elements(rows.count);
        let strips = room(strips, c.next_multiple_of(tile.rows) * depth);
        stack_pieces(weights, tile.left, tile.rows, strips);
        let panels = room(panels, d.next_multiple_of(tile.cols) * depth);
        stack_pieces(rows, tile.right, tile.cols, panels);
        let sums = Block::new(&mut self.sums, d);
        tile.multiply_into(depth, strips, panels, sums, true);
    }

    /// Makes everything relative to larger scores.
    fn raise(&mut self, top: &[f32]) {
        let difference = |(old, new): (&f32, &f32)| old - new;
        let mut factors: Vec<f32> = self.max.iter().zip(top).map(difference).collect();
        exp2(&mut factors);
        let d = self.sums.len() / self.max.len().max(1);
        let changed = factors.iter().enumerate().filter(|(_, x)| **x != 1.);
        for (i, factor) in changed {
            self.total[i] *= factor;
            let sums = &mut self.sums[i * d..(i + 1) * d];
            sums.iter_mut().for_each(|x| *x *= factor);
        }
        self.max.copy_from_slice(top);
    }

    /// Both together.
    pub fn with(mut self, mut other: Self) -> Self {
        let mut top = self.max.clone();
        raise_to(&other.max, &mut top);
        self.raise(&top);
        other.raise(&top);
        add_up(&other.total, &mut self.total);
        add_up(&other.sums, &mut self.sums);
        self
    }

    pub fn finish(mut self) -> Vec<f32> {
        let d = self.sums.len() / self.max.len().max(1);
        for (row, total) in self.sums.chunks_exact_mut(d.max(1)).zip(&self.total) {
            row.iter_mut().for_each(|x| *x /= total);
        }
        self.sums
    }
}

vectorised! {
    /// The largest of each column, and of what `top` held.
    fn raise_to<L>(xs: &[f32], top: &mut [f32]) {
        for row in xs.chunks_exact(top.len().max(1)) {
            for (top, x) in top.iter_mut().zip(row) {
                *top = top.max(*x);
            }
        }
    }
}

vectorised! {
    /// Subtracts `top` from each row.
    fn subtract<L>(xs: &mut [f32], top: &[f32]) {
        for row in xs.chunks_exact_mut(top.len().max(1)) {
            for (x, top) in row.iter_mut().zip(top) {
                *x -= top;
            }
        }
    }
}

vectorised! {
    /// Adds the sums of the columns.
    fn add_up<L>(xs: &[f32], total: &mut [f32]) {
        for row in xs.chunks_exact(total.len().max(1)) {
            for (total, x) in total.iter_mut().zip(row) {
                *total += x;
            }
        }
    }
}
