//! Products with a matrix of 8-bit weights: activations become bytes row by row, sums are exact
//! integers, and what follows is f32 again.
//!
//! `y[i][j] = (Σ byte[i][k] weight[j][k] - zero[i] Σ weight[j][k]) * (step[i] * scale[j])`, then the
//! [`Epilogue`]. The integers are the same on every processor, and so are the two roundings after
//! them.

mod dot;
#[cfg(target_arch = "aarch64")]
mod neon;
mod rows;
#[cfg(target_arch = "x86_64")]
mod x86;

use candle::{Result, bail};
use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::lanes::vectorised;
use super::layout::Layout;
use super::matmul::pieces;
use super::pack::transpose;
use super::view::{Block, Rows, Shared, elements, filled};
use crate::run;
use dot::{MAX_DEPTH, TILE, Tile};
use rows::Step;

/// Bytes of the rows that share a pass over the weights: a part of the second cache.
const STRIPS: usize = 256 << 10;

/// A weight (n, k) of 8 bits with a scale for each of its n rows, packed for multiplying from the
/// right, transposed.
pub struct Int8Weight {
    panels: Vec<i8>, // [n / cols][elements of k][cols][group], the last panel filled up with zeros
    /// Of each row: what a zero of the activations other than 0 adds.
    sums: Vec<i32>,
    scales: Vec<f32>,
    n: usize,
    k: usize,
    tile: Tile,
}

impl Int8Weight {
    /// From the bytes of a row-major weight (n, k) of i8.
    ///
    /// # Errors
    /// When sizes disagree, a scale is not finite, or a row is so long that sums of its products
    /// could exceed 32 bits.
    pub fn new(bytes: &[u8], scales: Vec<f32>, n: usize, k: usize) -> Result<Self> {
        Self::for_tile(*TILE, bytes, scales, n, k)
    }

    fn for_tile(tile: Tile, bytes: &[u8], scales: Vec<f32>, n: usize, k: usize) -> Result<Self> {
        if n.checked_mul(k) != Some(bytes.len()) || scales.len() != n {
            let (got, scales) = (bytes.len(), scales.len());
            bail!("{n} x {k} weights of 8 bits came as {got} bytes with {scales} scales");
        }
        if k > MAX_DEPTH {
            bail!("rows of {k} weights of 8 bits are too long; {MAX_DEPTH} is the most");
        }
        check_scales(&scales)?;
        let panel = elements(&[tile.elements(k), tile.cols, tile.group])?;
        let mut panels = vec![0i8; elements(&[n.div_ceil(tile.cols), panel])?];
        let mut sums = vec![0i32; n];
        let rows = (
            bytes.par_chunks((tile.cols * k).max(1)),
            sums.par_chunks_mut(tile.cols),
        );
        let panels_mut = panels.par_chunks_exact_mut(panel.max(1));
        panels_mut.zip(rows).for_each(|(panel, (rows, sums))| {
            for ((c, row), sum) in rows.chunks_exact(k).enumerate().zip(sums) {
                *sum = row.iter().map(|byte| i32::from(*byte as i8)).sum();
                let groups = panel.chunks_exact_mut(tile.group).skip(c);
                for (to, from) in groups.step_by(tile.cols).zip(row.chunks(tile.group)) {
                    to.iter_mut()
                        .zip(from)
                        .for_each(|(to, from)| *to = *from as i8);
                }
            }
        });
        Ok(Self {
            panels,
            sums,
            scales,
            n,
            k,
            tile,
        })
    }

    /// (n, k)
    pub fn dims(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// The weight of columns that start at a multiple of a panel's: panel, sums and scales.
    fn panel(&self, column: usize) -> (&[i8], &[i32], &[f32]) {
        let size = self.tile.elements(self.k) * self.tile.group;
        let of_panel = column..self.n.min(column + self.tile.cols);
        (
            &self.panels[column * size..][..self.tile.cols * size],
            &self.sums[of_panel.clone()],
            &self.scales[of_panel],
        )
    }
}

/// # Errors
/// When a scale is not finite.
pub fn check_scales(scales: &[f32]) -> Result<()> {
    match scales.iter().find(|scale| !scale.is_finite()) {
        Some(bad) => bail!("a scale of weights of 8 bits is {bad}"),
        None => Ok(()),
    }
}

/// What a task needs besides its result.
struct Room {
    tile: Tile,
    bytes: Vec<u8>,
    strips: Vec<u32>,
    steps: Vec<Step>,
    /// Of all rows with the columns of a panel.
    sums: Vec<i32>,
}

impl Room {
    /// For `rows` rows of whole strips.
    fn new(rows: usize, tile: Tile, k: usize) -> Self {
        Self {
            tile,
            bytes: vec![0; k],
            strips: vec![0; rows / tile.rows * tile.strip(k)],
            steps: vec![Step::default(); rows],
            sums: vec![0; rows * tile.cols],
        }
    }

    fn pack(&mut self, xs: Rows) {
        let (bytes, strips) = (&mut self.bytes, &mut self.strips);
        rows::pack(xs, &self.tile, bytes, strips, &mut self.steps);
    }

    /// The products of the packed rows with the panel of `weight` that starts at `column`.
    fn multiply(&mut self, weight: &Int8Weight, column: usize, to: Block) {
        let (tile, (panel, sums, scales)) = (self.tile, weight.panel(column));
        let products = &mut self.sums[..to.count().next_multiple_of(tile.rows) * tile.cols];
        tile.multiply(tile.elements(weight.k), &self.strips, panel, products);
        rescale(products, tile.cols, &self.steps, sums, scales, to);
    }
}

/// `epilogue(xs weight^T)`: `xs` (m, k) -> (m, n)
///
/// A row with a value that is not finite gives a row of NaN.
///
/// # Errors
/// When there is no memory for the result, or the run is cancelled.
///
/// # Panics
/// When the sizes disagree.
pub fn matmul(xs: Rows, weight: &Int8Weight, epilogue: &Epilogue) -> Result<Vec<f32>> {
    let (m, n, k) = (xs.count, weight.n, weight.k);
    assert!(xs.len == k && epilogue.fits(m, n));
    let tile = weight.tile.fitting(m);
    let write = |shared: Shared| {
        let (most, tasks) = pieces(m, n, [tile.rows, tile.cols], strips(k, &tile));
        let check = run::checker();
        let room = || Room::new(most, tile, k);
        tasks.try_for_each_init(room, |room, [(row, height), (col, width)]| {
            check()?;
            // SAFETY: these rows and columns belong to this task.
            let mut out = unsafe { shared.block(row * n + col, n, height, width) };
            room.pack(xs.rows(row, height));
            for at in (0..width).step_by(tile.cols) {
                room.multiply(weight, col + at, out.columns(at, tile.cols));
                epilogue.apply(out.columns(at, tile.cols), row, col + at);
            }
            Ok(())
        })
    };
    // SAFETY: the tasks write all rows and columns.
    unsafe { filled(&[m, n], write) }
}

/// The same for channels first, a 1x1 convolution: `xs` (k, m) -> (n, m), each pixel a row.
///
/// # Errors
/// As [`matmul`].
///
/// # Panics
/// When the sizes disagree.
pub fn pointwise(
    xs: &[f32],
    m: usize,
    weight: &Int8Weight,
    epilogue: &Epilogue,
) -> Result<Vec<f32>> {
    let (n, k) = weight.dims();
    let planes = Rows::new(xs, m, k, m);
    assert!(epilogue.fits(n, m));
    let tile = weight.tile.fitting(m);
    let write = |shared: Shared| {
        let (most, tasks) = pieces(m, n, [tile.rows, tile.cols], strips(k, &tile));
        let check = run::checker();
        let room = || {
            let pixels = vec![0f32; most * k];
            let part = vec![0f32; most * tile.cols];
            (Room::new(most, tile, k), pixels, part)
        };
        tasks.try_for_each_init(room, |(room, pixels, part), piece| {
            check()?;
            let [(first, count), (col, width)] = piece;
            // SAFETY: these channels of these pixels belong to this task.
            let mut out = unsafe { shared.block(col * m + first, m, width, count) };
            let pixels = &mut pixels[..count * k];
            let columns = planes.columns(first, count);
            transpose(columns, 1., Layout::Singles, Block::new(pixels, k));
            room.pack(Rows::new(pixels, k, count, k));
            for at in (0..width).step_by(tile.cols) {
                let channels = tile.cols.min(width - at);
                let part = &mut part[..count * channels];
                room.multiply(weight, col + at, Block::new(part, channels));
                let part = Rows::new(part, channels, count, channels);
                transpose(part, 1., Layout::Singles, out.rows(at, tile.cols));
                epilogue.apply(out.rows(at, tile.cols), col + at, first);
            }
            Ok(())
        })
    };
    // SAFETY: the tasks write all channels of all pixels.
    unsafe { filled(&[n, m], write) }
}

/// Strips that share a pass over the weights.
fn strips(k: usize, tile: &Tile) -> usize {
    let strip = size_of::<u32>() * tile.strip(k);
    (STRIPS / strip.max(1)).max(1)
}

vectorised! {
    /// Sums in rows of `stride` become f32.
    fn rescale<L>(
        products: &[i32],
        stride: usize,
        steps: &[Step],
        sums: &[i32],
        scales: &[f32],
        to: Block,
    ) {
        let mut to = to;
        for (i, step) in steps[..to.count()].iter().enumerate() {
            let products = &products[i * stride..][..sums.len()];
            let columns = products.iter().zip(sums).zip(scales);
            for (y, ((product, sum), scale)) in to.row(i).iter_mut().zip(columns) {
                let product = product.wrapping_sub(step.zero.wrapping_mul(*sum)); // cannot overflow
                *y = product as f32 * (step.scale * scale);
            }
        }
    }
}

#[cfg(test)]
mod tests;
