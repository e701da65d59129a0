//! Dense convolution as a product of the weights with windows of the image, which are packed as
//! they are needed.

use std::ops::Range;

use candle::Result;
use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::layout::{Format, Layout};
use super::pack::{stack, transpose};
use super::tile::{MAX_COLS, Tile};
use super::view::{Block, Rows, Shared, elements, filled};
use super::window::Window;
use crate::run;

/// Elements of the summation that one pass covers.
const DEPTH: usize = 1024;
/// Panels of pixels that share a pass over the weights: about half of the second cache.
const PANELS: usize = 5;

/// A weight (out, in, kernel, kernel) packed for multiplying from the left.
pub struct PackedKernel {
    strips: Vec<f32>, // [out / rows][elements of k][rows], the last strip filled up with zeros
    out: usize,
    channels: usize,
    side: usize,
    tile: Tile,
}

impl PackedKernel {
    /// From a row-major `weight` (out, channels, side, side), for products in `format` if this
    /// processor has them.
    pub fn new(weight: &[f32], out: usize, channels: usize, side: usize, format: Format) -> Self {
        let (tile, k) = (Tile::of(format).fitting(out), channels * side * side);
        let depth = tile.left.elements(k);
        let mut strips = vec![0f32; out.div_ceil(tile.rows) * depth * tile.rows];
        let rows = Rows::new(weight, k, out, k);
        let chunks = strips.chunks_exact_mut((depth * tile.rows).max(1));
        for (first, strip) in (0..).step_by(tile.rows).zip(chunks) {
            let rows = rows.rows(first, tile.rows);
            transpose(rows, 1., tile.left, Block::new(strip, tile.rows));
        }
        Self {
            strips,
            out,
            channels,
            side,
            tile,
        }
    }

    /// (out, channels, side, side)
    pub fn dims(&self) -> [usize; 4] {
        [self.out, self.channels, self.side, self.side]
    }

    /// Products for one output pixel and channel.
    fn products(&self) -> usize {
        self.channels * self.side * self.side
    }
}

/// `epilogue` of the convolution: `xs` (channels, h, w) -> (out, h', w'), with its height and width
///
/// # Errors
/// When the padded image is smaller than the kernel, there is no memory for the result, or the run is
/// cancelled.
///
/// # Panics
/// When the sizes disagree.
pub fn conv2d(
    xs: &[f32],
    (h, w): (usize, usize),
    kernel: &PackedKernel,
    window: Window,
    epilogue: &Epilogue,
) -> Result<(Vec<f32>, (usize, usize))> {
    let tile = kernel.tile;
    let (oh, ow) = window.output_size((h, w), (kernel.side, kernel.side))?;
    let pixels = elements(&[oh, ow])?;
    assert!(epilogue.fits(kernel.out, pixels));
    let image = Image {
        xs,
        h,
        w,
        side: kernel.side,
        window,
        out_width: ow,
    };
    let panels = pixels.div_ceil(tile.cols);
    // As many groups for each thread.
    let groups = panels
        .div_ceil(PANELS)
        .next_multiple_of(rayon::current_num_threads());
    let group = panels.div_ceil(groups.max(1)).max(1);
    let depth = tile.right.elements(kernel.products());
    let step = DEPTH.min(depth).max(1);
    let values = match tile.right {
        Layout::Singles => 0,
        layout => layout.values() * step * tile.cols,
    };
    let write = |shared: Shared| {
        let room = || (vec![0f32; group * step * tile.cols], vec![0f32; values]);
        let tasks = (0..panels.div_ceil(group)).into_par_iter();
        let check = run::checker();
        tasks.try_for_each_init(room, |(packed, values), g| {
            check()?;
            let first = g * group * tile.cols;
            let columns = (group * tile.cols).min(pixels - first);
            // SAFETY: these columns belong to this task.
            let mut out = unsafe { shared.block(first, pixels, kernel.out, columns) };
            let mut start = 0;
            loop {
                let len = step.min(depth - start);
                let panels = packed.chunks_exact_mut((len * tile.cols).max(1));
                for (panel, at) in panels.zip((0..columns).step_by(tile.cols)) {
                    let pixels = first + at..first + columns.min(at + tile.cols);
                    image.pack_elements(pixels, start..start + len, kernel, values, panel);
                }
                for row in (0..kernel.out).step_by(tile.rows) {
                    let strip = &kernel.strips[row * depth + start * tile.rows..];
                    let to = out.rows(row, tile.rows);
                    tile.multiply_into(len, strip, packed, to, start > 0);
                }
                start += len;
                if start == depth {
                    break;
                }
            }
            epilogue.apply(out, 0, first);
            Ok(())
        })
    };
    // SAFETY: the tasks write all channels of all pixels.
    let out = unsafe { filled(&[kernel.out, pixels], write)? };
    Ok((out, (oh, ow)))
}

/// An image under a moving window.
struct Image<'a> {
    xs: &'a [f32], // (channels, h, w)
    h: usize,
    w: usize,
    side: usize,
    window: Window,
    out_width: usize,
}

/// Pixels of a panel that lie in one row of the output.
#[derive(Clone, Copy, Default)]
struct Run {
    column: usize,
    len: usize,
    y: usize,
    x: usize,
}

impl Image<'_> {
    /// Some elements of the windows of some output pixels -> a panel [elements][cols]
    ///
    /// `values` is room for the panel's values where it does not hold them as they are.
    fn pack_elements(
        &self,
        pixels: Range<usize>,
        elements: Range<usize>,
        kernel: &PackedKernel,
        values: &mut [f32],
        panel: &mut [f32],
    ) {
        let Tile { cols, right, .. } = kernel.tile;
        match right {
            Layout::Singles => self.pack(pixels, elements.start, panel, &kernel.tile),
            layout => {
                let end = kernel.products().min(layout.values() * elements.end);
                let steps = layout.values() * elements.start..end;
                let values = &mut values[..steps.len() * cols];
                self.pack(pixels, steps.start, values, &kernel.tile);
                let values = Rows::new(values, cols, steps.len(), cols);
                stack(values, layout, Block::new(panel, cols));
            }
        }
    }

    /// Steps `start..` of the windows of some output pixels -> a panel [depth][cols]
    fn pack(&self, pixels: Range<usize>, start: usize, panel: &mut [f32], tile: &Tile) {
        let (mut runs, mut count) = ([Run::default(); MAX_COLS], 0);
        let mut at = pixels.start;
        while at < pixels.end {
            let (y, x) = (at / self.out_width, at % self.out_width);
            let len = (self.out_width - x).min(pixels.end - at);
            runs[count] = Run {
                column: at - pixels.start,
                len,
                y,
                x,
            };
            count += 1;
            at += len;
        }
        let Image { h, w, side, .. } = *self;
        let Window { stride, padding } = self.window;
        for (t, row) in (start..).zip(panel.chunks_exact_mut(tile.cols)) {
            let (channel, ky, kx) = (t / (side * side), t / side % side, t % side);
            let plane = &self.xs[channel * h * w..][..h * w];
            for run in &runs[..count] {
                let to = &mut row[run.column..run.column + run.len];
                let y = run.y * stride.0 + ky;
                if y < padding.0 || y - padding.0 >= h {
                    to.fill(0.);
                    continue;
                }
                let line = &plane[(y - padding.0) * w..][..w];
                let x = (run.x * stride.1 + kx) as isize - padding.1 as isize;
                match stride.1 {
                    1 => copy_shifted(line, x, to),
                    stride => {
                        for (j, o) in to.iter_mut().enumerate() {
                            let at = x + (j * stride) as isize;
                            *o = usize::try_from(at)
                                .ok()
                                .and_then(|at| line.get(at))
                                .map_or(0., |x| *x);
                        }
                    }
                }
            }
        }
    }
}

/// `to[j] = line[x + j]`, zero outside the line.
pub(super) fn copy_shifted(line: &[f32], x: isize, to: &mut [f32]) {
    let len = to.len() as isize;
    let before = (-x).clamp(0, len);
    let inside = (line.len() as isize - x).clamp(before, len);
    to[..before as usize].fill(0.);
    to[inside as usize..].fill(0.);
    if inside > before {
        let from = (x + before) as usize;
        let count = (inside - before) as usize;
        to[before as usize..inside as usize].copy_from_slice(&line[from..from + count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::epilogue::Bias;
    use crate::nn::kernels::{is_affordable, random};

    fn biased(bias: &[f32]) -> Epilogue<'_> {
        Epilogue {
            bias: Bias::Rows(bias),
            ..Epilogue::default()
        }
    }

    #[test]
    fn every_window_equals_the_sums_in_double() {
        for (c, h, w, o, k, s, p) in [
            (3, 9, 7, 5, 3, 1, 1),
            (8, 20, 13, 33, 3, 2, 1),
            (70, 12, 40, 20, 1, 1, 0),
            (40, 7, 7, 16, 7, 1, 0),
            (3, 28, 28, 15, 14, 14, 0),
            (2, 3, 2, 3, 5, 1, 4), // padding wider than the image
            (2, 5, 5, 3, 3, 2, 1),
            (115, 1, 2, 1, 3, 1, 1), // more than one pass
        ] {
            if !is_affordable(o * h * w * c * k * k) {
                continue;
            }
            let (xs, weight, bias) = (random(c * h * w, 1), random(o * c * k * k, 2), random(o, 3));
            let window = Window {
                stride: (s, s),
                padding: (p, p),
            };
            let at = |ci: usize, y: usize, x: usize| -> f64 {
                match (p..p + h).contains(&y) && (p..p + w).contains(&x) {
                    true => xs[(ci * h + y - p) * w + x - p] as f64,
                    false => 0.,
                }
            };
            for format in Format::ALL {
                let packed = PackedKernel::new(&weight, o, c, k, format);
                if packed.tile.format != format {
                    continue;
                }
                let tolerance = match packed.tile.format {
                    Format::Single => 1e-5,
                    Format::Pairs => 2e-2,
                    Format::Split => 5e-5,
                };
                let (got, (oh, ow)) = conv2d(&xs, (h, w), &packed, window, &biased(&bias)).unwrap();
                for (i, got) in got.iter().enumerate() {
                    let (oc, y, x) = (i / (oh * ow), i / ow % oh, i % ow);
                    let mut want = bias[oc] as f64;
                    for t in 0..c * k * k {
                        let (ci, ky, kx) = (t / (k * k), t / k % k, t % k);
                        want += at(ci, y * s + ky, x * s + kx) * weight[oc * c * k * k + t] as f64;
                    }
                    assert!(
                        (*got as f64 - want).abs() < tolerance,
                        "{c}->{o} k{k} s{s} p{p} {format:?} at {oc},{y},{x}"
                    );
                }
            }
        }
    }

    #[test]
    fn without_channels_the_bias_is_left() {
        let kernel = PackedKernel::new(&[], 3, 0, 3, Format::Single);
        let window = Window {
            stride: (1, 1),
            padding: (1, 1),
        };
        let got = conv2d(&[], (4, 5), &kernel, window, &biased(&[1., 2., 3.]));
        let want = [[1.; 20], [2.; 20], [3.; 20]].concat();
        assert_eq!(got.unwrap(), (want, (4, 5)));
    }

    #[test]
    fn a_result_that_no_memory_holds_is_an_error() {
        let padded = |padding| Window {
            stride: (1, 1),
            padding: (padding, padding),
        };
        let huge = PackedKernel::new(&[], 6_148_914_691_236_517_208, 0, 1, Format::Single);
        let four = PackedKernel::new(&[1.; 4], 4, 1, 1, Format::Single);
        for (xs, size, kernel, padding) in [
            (&[][..], (1, 3), &huge, 0),
            (&[1.; 4], (2, 2), &four, (1 << 30) - 1),
            (&[1.; 4], (2, 2), &four, usize::MAX / 2),
        ] {
            let result = conv2d(xs, size, kernel, padded(padding), &Epilogue::default());
            assert!(result.is_err(), "{size:?} padded by {padding}");
        }
    }
}
