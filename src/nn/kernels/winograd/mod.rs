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
//! Products of bf16, where they are asked for and fast, keep that factor: 1e-2 of the norm, of which the
//! plain sum of such products has 2e-3. Numbers split for AMX are not used here: five times their
//! error would be a lot for a single layer, and these transforms have no tiles.

mod transforms;

use candle::Result;
use half::bf16;
use rayon::prelude::*;

use super::epilogue::Activation;
use super::layout::{Format, GROUP, Layout};
use super::pack::stack;
use super::tile::{MAX_ROWS, TILE, Tile};
use super::view::{Block, Rows, Shared, elements, filled, room};
use super::window::{Run, runs};
use crate::run;
use transforms::{Image, POINTS, STEP, from_points, to_points, values_at_points};

/// Elements of the summation that one pass covers.
const DEPTH: usize = 256;
/// Panels of tiles that share a pass over the weights.
const PANELS: usize = 2;
/// Bytes of weights that no cache holds from one panel to the next.
const LARGE: usize = 32 << 20;

/// A weight (out, in, 3, 3) as its values at the points, packed for multiplying from the left.
pub struct TransformedKernel {
    strips: Vec<f32>, // [points][out / rows][elements of channels][rows], zeros beyond `out`
    out: usize,
    channels: usize,
    tile: Tile,
}

impl TransformedKernel {
    /// From a row-major `weight` (out, channels, 3, 3), for products of pairs of bf16 where `format` asks
    /// for these and lanes are fast at them, else of f32.
    ///
    /// # Panics
    /// When the sizes disagree.
    pub fn new(weight: &[f32], out: usize, channels: usize, format: Format) -> Self {
        let len = weight.len();
        assert_eq!(
            len,
            out * channels * 9,
            "{len} values for {out} x {channels} kernels"
        );
        let tile = match Tile::of(format) {
            tile if tile.left == Layout::Pairs => tile,
            _ => *TILE,
        };
        let rows = tile.rows;
        let (strip, count) = (tile.left.elements(channels) * rows, out.div_ceil(rows));
        let mut strips = vec![0f32; POINTS * count * strip];
        let shared = Shared::new(&mut strips);
        let kernels = weight.as_chunks::<9>().0;
        (0..count).into_par_iter().for_each(|s| {
            let first = s * rows;
            for (element, c) in (0..channels).step_by(tile.left.values()).enumerate() {
                let mut values = [[0f32; MAX_ROWS]; POINTS];
                for o in first..out.min(first + rows) {
                    let of_channel = |c| match c < channels {
                        true => values_at_points(&kernels[o * channels + c]),
                        false => [0.; POINTS],
                    };
                    let of_element = match tile.left {
                        Layout::Pairs => pairs(of_channel(c), of_channel(c + 1)),
                        _ => of_channel(c),
                    };
                    for (values, value) in values.iter_mut().zip(of_element) {
                        values[o - first] = value;
                    }
                }
                for (point, values) in values.iter().enumerate() {
                    let at = (point * count + s) * strip + element * rows;
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
            tile,
        }
    }

    /// (out, channels, 3, 3)
    pub fn dims(&self) -> [usize; 4] {
        [self.out, self.channels, 3, 3]
    }
}

/// Two channels' values as elements of [`Layout::Pairs`].
fn pairs(first: [f32; POINTS], second: [f32; POINTS]) -> [f32; POINTS] {
    let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    std::array::from_fn(|i| f32::from_bits(bits(first[i]) | bits(second[i]) << 16))
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
}

impl Pass<'_> {
    fn panels(&self) -> usize {
        self.tiles.div_ceil(self.kernel.tile.cols)
    }

    /// The tiles of a panel.
    fn runs(&self, panel: usize) -> Vec<Run> {
        let cols = self.kernel.tile.cols;
        let first = panel * cols;
        let tiles = first..self.tiles.min(first + cols);
        runs(tiles, self.tiles_x, cols, 0)
    }

    /// Elements of the input of a panel, [points][elements of channels][cols], and sums,
    /// [points][out][cols].
    fn sizes(&self) -> [usize; 2] {
        let TransformedKernel { out, tile, .. } = *self.kernel;
        [self.depth(), out].map(|planes| POINTS * planes * tile.cols)
    }

    /// Elements of the summation.
    fn depth(&self) -> usize {
        let TransformedKernel { channels, tile, .. } = *self.kernel;
        tile.left.elements(channels)
    }

    /// The input of a panel. `few` is room for the values of a group of channels.
    fn transform(&self, panel: usize, few: &mut Vec<f32>, input: &mut [f32]) {
        let TransformedKernel { channels, tile, .. } = *self.kernel;
        let (cols, runs) = (tile.cols, self.runs(panel));
        if tile.right == Layout::Singles {
            return to_points(&self.image, &runs, input);
        }
        let Image { xs, h, w } = self.image;
        for start in (0..channels).step_by(GROUP) {
            let count = GROUP.min(channels - start);
            let few = room(few, POINTS * count * cols);
            let xs = &xs[start * h * w..][..count * h * w];
            to_points(&Image { xs, h, w }, &runs, few);
            let (depth, start) = (self.depth(), tile.right.elements(start));
            for (point, few) in few.chunks_exact(count * cols).enumerate() {
                let to = &mut input[(point * depth + start) * cols..];
                let to = &mut to[..tile.right.elements(count) * cols];
                let few = Rows::new(few, cols, count, cols);
                stack(few, tile.right, Block::new(to, cols));
            }
        }
    }

    /// Groups of panels, each from its pixels to `finish`: only weights come from beyond the cache.
    fn by_panels(&self, finish: impl Fn(usize, &[f32]) + Sync) -> Result<()> {
        let panels = self.panels();
        let group = PANELS
            .min(panels.div_ceil(2 * rayon::current_num_threads()))
            .max(1);
        let [input, output] = self.sizes();
        let room = || {
            (
                vec![],
                vec![0f32; group * input],
                vec![0f32; group * output],
            )
        };
        let tasks = (0..panels.div_ceil(group)).into_par_iter();
        let check = run::checker();
        tasks.try_for_each_init(room, |(few, values, sums), g| {
            check()?;
            let panels = g * group..panels.min((g + 1) * group);
            for (panel, values) in panels.clone().zip(values.chunks_exact_mut(input)) {
                self.transform(panel, few, values);
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
        inputs.try_for_each_init(Vec::new, |few, (panel, values)| {
            check()?;
            self.transform(panel, few, values);
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
        let TransformedKernel { out, tile, .. } = *self.kernel;
        let ([input, output], elements) = (self.sizes(), self.depth());
        let strip = elements * tile.rows;
        let strips = &self.kernel.strips[point * out.div_ceil(tile.rows) * strip..];
        for (row, strip) in (0..out).step_by(tile.rows).zip(strips.chunks_exact(strip)) {
            let rows = tile.rows.min(out - row);
            for panel in 0..panels {
                let values = &values[panel * input + point * elements * tile.cols..];
                let at = panel * output + (point * out + row) * tile.cols;
                // SAFETY: the caller's promise.
                let mut sums = unsafe { sums.block(at, tile.cols, rows, tile.cols) };
                for start in (0..elements).step_by(DEPTH) {
                    let depth = DEPTH.min(elements - start);
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
            let [single, pairs] = [Format::Single, Format::Pairs].map(|format| {
                let kernel = TransformedKernel::new(&weight, o, c, format);
                let identity = Activation::Identity;
                conv3x3(&xs, (h, w), &kernel, bias.as_deref(), identity).unwrap()
            });
            let (mut errors, mut norm) = ([0f64; 2], 0f64);
            for (i, got) in single.into_iter().zip(pairs).enumerate() {
                let (oc, y, x) = (i / (h * w), i / w % h, i % w);
                let mut want = bias.as_ref().map_or(0., |bias| bias[oc] as f64);
                for t in 0..c * 9 {
                    let (ci, ky, kx) = (t / 9, t / 3 % 3, t % 3);
                    if (1..=h).contains(&(y + ky)) && (1..=w).contains(&(x + kx)) {
                        let pixel = xs[(ci * h + y + ky - 1) * w + x + kx - 1];
                        want += pixel as f64 * weight[oc * c * 9 + t] as f64;
                    }
                }
                for (error, got) in errors.iter_mut().zip([got.0, got.1]) {
                    *error += (f64::from(got) - want).powi(2);
                }
                norm += want * want;
            }
            let errors = errors.map(|error| (error / norm).sqrt());
            let [single, pairs] = errors;
            assert!(
                single < 3e-6 && pairs < 1.5e-2,
                "{c}->{o} at {h} x {w}: {errors:?}"
            );
        }
    }

    #[test]
    fn weights_too_large_for_a_cache_give_the_same_values() {
        for (c, o, h, w) in [(3, 5, 4, 4), (20, 40, 9, 30), (300, 7, 33, 18)] {
            if !is_affordable(o * h * w * c * 9) {
                continue;
            }
            let (xs, weight, bias) = (random(c * h * w, 1), random(o * c * 9, 2), random(o, 3));
            for format in [Format::Single, Format::Pairs] {
                let kernel = TransformedKernel::new(&weight, o, c, format);
                let end = (Some(&bias[..]), Activation::Gelu);
                let [panels, points] = [false, true]
                    .map(|by_points| convolve(&xs, (h, w), &kernel, end, by_points).unwrap());
                assert_eq!(panels, points, "{c}->{o} at {h} x {w}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "9 values for 3 x 2 kernels")]
    fn a_weight_of_another_size_is_refused() {
        TransformedKernel::new(&random(9, 1), 3, 2, Format::Single);
    }
}
