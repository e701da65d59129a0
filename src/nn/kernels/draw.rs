//! Image tokens become 4 x 4 pixels each, and pixels logits, without ever writing the pixels.
//!
//! The two upscalings never see two tokens at a time. So one row of the grid passes through all
//! steps while it is in the cache.

use candle::Result;
use rayon::prelude::*;

use super::epilogue::{Activation, add_to_rows};
use super::lanes::vectorised;
use super::matmul::PackedWeight;
use super::rowwise::layer_norm;
use super::view::{Rows, room};
use crate::run;

/// Tokens (d) -> 4 pixels (h), norm, GELU -> 4 pixels of each (e), GELU; windows of 2 x 2, by rows.
pub struct Upscaling<'a> {
    /// (4 * h, d) and bias.
    pub first: (&'a PackedWeight, &'a [f32]),
    /// Weight (h), bias (h) and epsilon.
    pub norm: (&'a [f32], &'a [f32], f32),
    /// (4 * e, h) and bias.
    pub second: (&'a PackedWeight, &'a [f32]),
    /// Added to the pixels before the norm (g * g, 4, h) and before the last GELU (g * g, 16, e).
    pub details: Option<[&'a [f32]; 2]>,
}

/// The products of all pixels of an image (`grid`², d) with `masks` (n, e): (n, 4 grid, 4 grid)
///
/// # Errors
/// When the run is cancelled.
///
/// # Panics
/// When the sizes disagree.
pub fn draw(image: Rows, up: &Upscaling, masks: Rows, grid: usize) -> Result<Vec<f32>> {
    assert_eq!(image.count, grid * grid);
    let check = run::checker();
    let rows: Result<Vec<Vec<f32>>> = (0..grid)
        .into_par_iter()
        .map_init(Scratch::default, |scratch, y| {
            check()?;
            let tokens = image.rows(y * grid, grid);
            Ok(row(tokens, y, up, masks, scratch))
        })
        .collect();
    // Four rows of pixels of every mask.
    let (len, mut out) = (16 * grid, vec![0f32; masks.count * 16 * grid * grid]);
    for (y, row) in rows?.iter().enumerate() {
        for (mask, row) in row.chunks_exact(len).enumerate() {
            out[(mask * grid + y) * len..][..len].copy_from_slice(row);
        }
    }
    Ok(out)
}

/// Memory of a task.
#[derive(Default)]
struct Scratch {
    strips: Vec<f32>,
    coarse: Vec<f32>, // (grid, 4, h)
    fine: Vec<f32>,   // (grid, 16, e)
    logits: Vec<f32>, // (grid, 16)
}

/// Row `y` of tokens: (n, 4, 4 grid)
fn row(tokens: Rows, y: usize, up: &Upscaling, masks: Rows, scratch: &mut Scratch) -> Vec<f32> {
    let grid = tokens.count;
    let Scratch {
        strips,
        coarse,
        fine,
        logits,
    } = scratch;
    let (h, e) = (up.norm.0.len(), masks.len);
    let [of_coarse, of_fine] = [4 * h, 16 * e];
    let details = |at: usize, len: usize, width: usize| {
        let details = up.details.as_ref()?[at];
        let row = &details[y * grid * len..][..grid * len];
        Some(Rows::new(row, width, row.len() / width, width))
    };

    let coarse = room(coarse, grid * of_coarse);
    let (weight, bias) = up.first;
    weight.multiply(tokens, strips, coarse);
    let residual = details(0, of_coarse, of_coarse);
    add_to_rows(coarse, of_coarse, bias, residual);
    let (norm, norm_bias, eps) = up.norm;
    layer_norm(coarse, norm, norm_bias, eps);
    Activation::Gelu.apply(coarse);

    let fine = room(fine, grid * of_fine);
    let (weight, bias) = up.second;
    weight.multiply(Rows::new(coarse, h, 4 * grid, h), strips, fine);
    let residual = details(1, of_fine, 4 * e);
    add_to_rows(fine, 4 * e, bias, residual);
    Activation::Gelu.apply(fine);

    let mut out = vec![0f32; masks.count * 16 * grid];
    let logits = room(logits, 16 * grid);
    for (mask, out) in out.chunks_exact_mut(16 * grid).enumerate() {
        dots(fine, masks.row(mask), logits);
        for (x, token) in logits.as_chunks::<16>().0.iter().enumerate() {
            for (i, logit) in token.iter().enumerate() {
                // rows and columns of the two windows
                let (row, column) = (i / 8 * 2 + i / 2 % 2, i / 4 % 2 * 2 + i % 2);
                out[row * 4 * grid + 4 * x + column] = *logit;
            }
        }
    }
    out
}

vectorised! {
    /// The products of rows as long as `by` with it.
    fn dots<L>(xs: &[f32], by: &[f32], out: &mut [f32]) {
        let (by, by_rest) = by.as_chunks::<16>();
        let len = 16 * by.len() + by_rest.len();
        for (out, row) in out.iter_mut().zip(xs.chunks_exact(len.max(1))) {
            let (row, rest) = row.as_chunks::<16>();
            let mut lanes = [0f32; 16];
            for (row, by) in row.iter().zip(by) {
                for ((lane, x), y) in lanes.iter_mut().zip(row).zip(by) {
                    *lane += x * y;
                }
            }
            let rest = rest.iter().zip(by_rest).map(|(x, y)| x * y);
            *out = lanes.iter().sum::<f32>() + rest.sum::<f32>();
        }
    }
}
