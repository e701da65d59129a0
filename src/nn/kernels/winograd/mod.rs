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
use super::tile::{MAX_ROWS, TILE, Tile};
use super::view::{Shared, elements, filled};
use crate::run;
use transforms::{Image, POINTS, Run, STEP, from_points, runs, to_points, values_at_points};

/// Steps of the summation that one pass covers.
const DEPTH: usize = 256;
/// Panels of tiles that share a pass over the weights.
const PANELS: usize = 2;
/// Bytes of weights that no cache holds from one panel to the next.
const LARGE: usize = 32 << 20;

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
        let (strip, count) = (channels * rows, out.div_ceil(rows));
        let mut strips = vec![0f32; POINTS * count * strip];
        let shared = Shared::new(&mut strips);
        let kernels = weight.as_chunks::<9>().0;
        (0..count).into_par_iter().for_each(|s| {
            let first = s * rows;
            for c in 0..channels {
                let mut values = [[0f32; MAX_ROWS]; POINTS];
                for o in first..out.min(first + rows) {
                    let of_kernel = values_at_points(&kernels[o * channels + c]);
                    for (values, value) in values.iter_mut().zip(of_kernel) {
                        values[o - first] = value;
                    }
                }
                for (point, values) in values.iter().enumerate() {
                    let at = (point * count + s) * strip + c * rows;
                    // SAFETY: this strip belongs to this task, at all points.
                    let mut to = unsafe { shared.block(at, rows, 1, rows) };
                    to.row(0).copy_from_slice(&values[..rows]);
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
    let is_large = size_of_val(&kernel.strips[..]) > LARGE;
    convolve(xs, (h, w), kernel, (bias, activation), is_large)
}

fn convolve(
    xs: &[f32],
    (h, w): (usize, usize),
    kernel: &TransformedKernel,
    (bias, activation): (Option<&[f32]>, Activation),
    by_points: bool,
) -> Result<Vec<f32>> {
    let shape = [kernel.out, h, w];
    let pass = Pass {
        image: Image { xs, h, w },
        tiles_x: w.div_ceil(STEP),
        tiles: w.div_ceil(STEP) * h.div_ceil(STEP),
        kernel,
        tile: *TILE,
    };
    let write = |result: Shared| {
        let finish = |panel, sums: &[f32]| {
            from_points(sums, &pass.runs(panel), bias, activation, shape, result);
        };
        match by_points {
            true => pass.by_points(finish),
            false => pass.by_panels(finish),
        }
    };
    // SAFETY: the tasks write the tiles of all planes.
    unsafe { filled(&shape, write) }
}

/// One convolution of one image.
struct Pass<'a> {
    image: Image<'a>,
    /// Tiles of a row.
    tiles_x: usize,
    tiles: usize,
    kernel: &'a TransformedKernel,
    tile: Tile,
}

impl Pass<'_> {
    fn panels(&self) -> usize {
        self.tiles.div_ceil(self.tile.cols)
    }

    /// The tiles of a panel.
    fn runs(&self, panel: usize) -> Vec<Run> {
        let first = panel * self.tile.cols;
        runs(first..self.tiles.min(first + self.tile.cols), self.tiles_x)
    }

    /// Values of the input of a panel, [points][channels][cols], and sums, [points][out][cols].
    fn sizes(&self) -> [usize; 2] {
        let TransformedKernel { out, channels, .. } = *self.kernel;
        [channels, out].map(|planes| POINTS * planes * self.tile.cols)
    }

    /// Groups of panels, each from its pixels to `finish`: only weights come from beyond the cache.
    fn by_panels(&self, finish: impl Fn(usize, &[f32]) + Sync) -> Result<()> {
        let panels = self.panels();
        let group = PANELS
            .min(panels.div_ceil(2 * rayon::current_num_threads()))
            .max(1);
        let [input, output] = self.sizes();
        let room = || (vec![0f32; group * input], vec![0f32; group * output]);
        let tasks = (0..panels.div_ceil(group)).into_par_iter();
        let check = run::checker();
        tasks.try_for_each_init(room, |(values, sums), g| {
            check()?;
            let panels = g * group..panels.min((g + 1) * group);
            for (panel, values) in panels.clone().zip(values.chunks_exact_mut(input)) {
                to_points(&self.image, &self.runs(panel), values);
            }
            let shared = Shared::new(sums);
            for point in 0..POINTS {
                // SAFETY: nobody else has these sums.
                unsafe { self.multiply(point, panels.len(), values, shared) }
            }
            for (panel, sums) in panels.zip(sums.chunks_exact(output)) {
                finish(panel, sums);
            }
            Ok(())
        })
    }

    /// All panels, point by point: weights that no cache holds are read once.
    fn by_points(&self, finish: impl Fn(usize, &[f32]) + Sync) -> Result<()> {
        let (panels, [input, output]) = (self.panels(), self.sizes());
        let room = |size| elements(&[panels, size]).map(|len| vec![0f32; len]);
        let (mut values, mut sums) = (room(input)?, room(output)?);
        let check = run::checker();
        let inputs = values.par_chunks_exact_mut(input).enumerate();
        inputs.try_for_each(|(panel, values)| {
            check()?;
            to_points(&self.image, &self.runs(panel), values);
            candle::Result::Ok(())
        })?;
        let shared = Shared::new(&mut sums);
        (0..POINTS).into_par_iter().try_for_each(|point| {
            check()?;
            // SAFETY: the sums at this point belong to this task.
            unsafe { self.multiply(point, panels, &values, shared) }
            candle::Result::Ok(())
        })?;
        let outputs = sums.par_chunks_exact(output).enumerate();
        outputs.for_each(|(panel, sums)| finish(panel, sums));
        Ok(())
    }

    /// The sums at a point of as many panels as there are `values` of.
    ///
    /// # Safety
    /// No other task touches the sums at this point.
    unsafe fn multiply(&self, point: usize, panels: usize, values: &[f32], sums: Shared) {
        let TransformedKernel { out, channels, .. } = *self.kernel;
        let tile = self.tile;
        let [input, output] = self.sizes();
        let strip = channels * tile.rows;
        let strips = &self.kernel.strips[point * out.div_ceil(tile.rows) * strip..];
        for (row, strip) in (0..out).step_by(tile.rows).zip(strips.chunks_exact(strip)) {
            let rows = tile.rows.min(out - row);
            for panel in 0..panels {
                let values = &values[panel * input + point * channels * tile.cols..];
                let at = panel * output + (point * out + row) * tile.cols;
                // SAFETY: the caller's promise.
                let mut sums = unsafe { sums.block(at, tile.cols, rows, tile.cols) };
                for start in (0..channels).step_by(DEPTH) {
                    let depth = DEPTH.min(channels - start);
                    let (a, b) = (&strip[start * tile.rows..], &values[start * tile.cols..]);
                    tile.multiply_into(depth, a, b, sums.rows(0, rows), start > 0);
                }
            }
        }
    }
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
    fn weights_too_large_for_a_cache_give_the_same_values() {
        for (c, o, h, w) in [(3, 5, 4, 4), (20, 40, 9, 30), (300, 7, 33, 18)] {
            if !is_affordable(o * h * w * c * 9) {
                continue;
            }
            let (xs, weight, bias) = (random(c * h * w, 1), random(o * c * 9, 2), random(o, 3));
            let kernel = TransformedKernel::new(&weight, o, c);
            let end = (Some(&bias[..]), Activation::Gelu);
            let [panels, points] = [false, true]
                .map(|by_points| convolve(&xs, (h, w), &kernel, end, by_points).unwrap());
            assert_eq!(panels, points, "{c}->{o} at {h} x {w}");
        }
    }

    #[test]
    #[should_panic(expected = "9 values for 3 x 2 kernels")]
    fn a_weight_of_another_size_is_refused() {
        TransformedKernel::new(&random(9, 1), 3, 2);
    }
}
