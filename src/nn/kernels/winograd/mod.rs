//! 3x3 convolution with stride 1 and padding 1 in Winograd's way: a quarter of the products.
//!
//! A tile of 4x4 output pixels depends on 6x6 input pixels. Seen as polynomials, a row of input
//! and a row of weights are multiplied by multiplying their values at six points; in two
//! dimensions that is 36 products per tile and channel instead of 144. The sums over channels at
//! one point, for many tiles and output channels, are a product of matrices.
//!
//! The points are 0, ±5/8, ±3/2 and infinity: with them the rounding error of the result is about
//! five times that of the plain sum (1.4e-6 of its norm at 256 channels), half of that with the
//! usual 0, ±1, ±2. An infinity or NaN in the input reaches all pixels of its tiles.
//!
//! Products here are of f32 on any processor: five times the error of numbers split for AMX would
//! be a lot for a single layer.

mod transforms;

use candle::Result;
use rayon::prelude::*;

use super::epilogue::Activation;
use super::tile::TILE;
use super::view::{Block, Shared, filled};
use crate::run;
use transforms::{Image, POINTS, STEP, from_points, runs, to_points, values_at_points};

/// Steps of the summation that one pass covers.
const DEPTH: usize = 256;
/// Panels of tiles that share a pass over the weights.
const PANELS: usize = 2;

/// A weight (out, in, 3, 3) as its values at the points, packed for multiplying from the left.
pub struct TransformedKernel {
    strips: Vec<f32>, // [points][out / rows][channels][rows], the last strip filled up with zeros
    out: usize,
    channels: usize,
}

impl TransformedKernel {
    /// From a row-major `weight` (out, channels, 3, 3).
    ///
    /// # Panics
    /// When the sizes disagree.
    pub fn new(weight: &[f32], out: usize, channels: usize) -> Self {
        let len = weight.len();
        assert_eq!(
            len,
            out * channels * 9,
            "{len} values for {out} x {channels} kernels"
        );
        let rows = TILE.rows;
        let plane = out.div_ceil(rows) * channels * rows;
        let mut strips = vec![0f32; POINTS * plane];
        let shared = Shared::new(&mut strips);
        weight
            .par_chunks(channels * 9)
            .enumerate()
            .for_each(|(o, weight)| {
                for (c, weight) in weight.as_chunks::<9>().0.iter().enumerate() {
                    for (point, value) in values_at_points(weight).iter().enumerate() {
                        let strip = point * plane + o / rows * channels * rows;
                        // SAFETY: only this task writes for this `o`.
                        let mut to = unsafe { shared.block(strip + c * rows + o % rows, 1, 1, 1) };
                        to.row(0)[0] = *value;
                    }
                }
            });
        Self {
            strips,
            out,
            channels,
        }
    }

    /// (out, channels, 3, 3)
    pub fn dims(&self) -> [usize; 4] {
        [self.out, self.channels, 3, 3]
    }
}

/// `activation(convolution + bias)`: `xs` (channels, h, w), `bias` (out) -> (out, h, w)
///
/// # Errors
/// When there is no memory for the result, or the run is cancelled.
///
/// # Panics
/// When the sizes disagree.
pub fn conv3x3(
    xs: &[f32],
    (h, w): (usize, usize),
    kernel: &TransformedKernel,
    bias: Option<&[f32]>,
    activation: Activation,
) -> Result<Vec<f32>> {
    let tile = *TILE;
    let TransformedKernel { out, channels, .. } = *kernel;
    let write = |shared: Shared| {
        let (tiles_x, tiles_y) = (w.div_ceil(STEP), h.div_ceil(STEP));
        let tiles = tiles_x * tiles_y;
        let image = Image { xs, h, w };
        let panels = tiles.div_ceil(tile.cols);
        let group = PANELS
            .min(panels.div_ceil(2 * rayon::current_num_threads()))
            .max(1);
        let (input, output) = (POINTS * channels * tile.cols, POINTS * out * tile.cols);
        let room = || (vec![0f32; group * input], vec![0f32; group * output]);
        let tasks = (0..panels.div_ceil(group)).into_par_iter();
        let check = run::checker();
        tasks.try_for_each_init(room, |(values, sums), g| {
            check()?;
            let panels = g * group..panels.min((g + 1) * group);
            let runs_of = |panel: usize| {
                let first = panel * tile.cols;
                runs(first..tiles.min(first + tile.cols), tiles_x)
            };
            for (panel, values) in panels.clone().zip(values.chunks_exact_mut(input)) {
                to_points(&image, &runs_of(panel), values);
            }
            let strips = kernel.strips.chunks_exact(channels * tile.rows);
            let rows = (0..POINTS)
                .flat_map(|point| (0..out).step_by(tile.rows).map(move |row| (point, row)));
            for ((point, row), strip) in rows.zip(strips) {
                let values = values.chunks_exact(input);
                let sums = sums.chunks_exact_mut(output);
                for ((_, values), sums) in panels.clone().zip(values).zip(sums) {
                    let values = &values[point * channels * tile.cols..];
                    let sums = &mut sums[(point * out + row) * tile.cols..];
                    let rows = tile.rows.min(out - row);
                    let mut sums = Block::new(&mut sums[..rows * tile.cols], tile.cols);
                    for start in (0..channels).step_by(DEPTH) {
                        let depth = DEPTH.min(channels - start);
                        let (a, b) = (&strip[start * tile.rows..], &values[start * tile.cols..]);
                        tile.multiply_into(depth, a, b, sums.rows(0, rows), start > 0);
                    }
                }
            }
            for (panel, sums) in panels.zip(sums.chunks_exact(output)) {
                let shape = [out, h, w];
                from_points(sums, &runs_of(panel), bias, activation, shape, shared);
            }
            Ok(())
        })
    };
    // SAFETY: the tasks write the tiles of all planes.
    unsafe { filled(&[out, h, w], write) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::{is_affordable, random};

    #[test]
    fn every_size_is_close_to_the_sums_in_double() {
        for (c, o, h, w, biased) in [
            (1, 1, 1, 1, false),
            (3, 5, 4, 4, true),
            (1, 2, 9, 13, true), // several panels of four lanes
            (20, 40, 9, 7, true),
            (300, 30, 5, 150, true), // more channels than one pass, a row of several panels
            (32, 32, 37, 22, false),
        ] {
            if !is_affordable(o * h * w * c * 9) {
                continue;
            }
            let (xs, weight) = (random(c * h * w, 1), random(o * c * 9, 2));
            let bias = biased.then(|| random(o, 3));
            let kernel = TransformedKernel::new(&weight, o, c);
            let got = conv3x3(&xs, (h, w), &kernel, bias.as_deref(), Activation::Identity);
            let got = got.unwrap();
            let (mut error, mut norm) = (0f64, 0f64);
            for (i, got) in got.iter().enumerate() {
                let (oc, y, x) = (i / (h * w), i / w % h, i % w);
                let mut want = bias.as_ref().map_or(0., |bias| bias[oc] as f64);
                for t in 0..c * 9 {
                    let (ci, ky, kx) = (t / 9, t / 3 % 3, t % 3);
                    if (1..=h).contains(&(y + ky)) && (1..=w).contains(&(x + kx)) {
                        let pixel = xs[(ci * h + y + ky - 1) * w + x + kx - 1];
                        want += pixel as f64 * weight[oc * c * 9 + t] as f64;
                    }
                }
                error += (*got as f64 - want).powi(2);
                norm += want * want;
            }
            let relative = (error / norm).sqrt();
            assert!(relative < 3e-6, "{c}->{o} at {h} x {w}: {relative:.1e}");
        }
    }

    #[test]
    #[should_panic(expected = "9 values for 3 x 2 kernels")]
    fn a_weight_of_another_size_is_refused() {
        TransformedKernel::new(&random(9, 1), 3, 2);
    }
}
