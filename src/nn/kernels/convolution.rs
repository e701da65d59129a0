//! Dense convolution as a product of the weights with windows of the image, which are packed as
//! they are needed.

use std::ops::Range;

use candle::Result;
use rayon::prelude::*;

use super::Window;
use super::tile::{MAX_COLS, Shared, TILE, Tile};

/// Steps of the summation that one pass covers.
const DEPTH: usize = 256;
/// Panels of pixels that share a pass over the weights.
const PANELS: usize = 8;

/// A weight (out, in, kernel, kernel) packed for multiplying from the left.
pub struct PackedKernel {
    strips: Vec<f32>, // [out / rows][k][rows], the last strip filled up with zeros
    out: usize,
    channels: usize,
    side: usize,
}

impl PackedKernel {
    /// From a row-major `weight` (out, channels, side, side).
    pub fn new(weight: &[f32], out: usize, channels: usize, side: usize) -> Self {
        let (rows, k) = (TILE.rows, channels * side * side);
        let mut strips = vec![0f32; out.div_ceil(rows) * k * rows];
        for (strip, weight) in strips
            .chunks_exact_mut(k * rows)
            .zip(weight.chunks(rows * k))
        {
            for (i, row) in weight.chunks_exact(k).enumerate() {
                for (t, x) in row.iter().enumerate() {
                    strip[t * rows + i] = *x;
                }
            }
        }
        Self {
            strips,
            out,
            channels,
            side,
        }
    }

    /// (out, channels, side, side)
    pub fn dims(&self) -> [usize; 4] {
        [self.out, self.channels, self.side, self.side]
    }

    /// Products for one output pixel and channel.
    fn depth(&self) -> usize {
        self.channels * self.side * self.side
    }
}

/// `xs` (channels, h, w) -> (out, h', w'), with its height and width
///
/// # Errors
/// When the padded image is smaller than the kernel.
pub fn conv2d(
    xs: &[f32],
    (h, w): (usize, usize),
    kernel: &PackedKernel,
    bias: Option<&[f32]>,
    window: Window,
) -> Result<(Vec<f32>, (usize, usize))> {
    let tile = *TILE;
    let (oh, ow) = window.output_size((h, w), (kernel.side, kernel.side))?;
    let pixels = oh * ow;
    let mut out = vec![0f32; kernel.out * pixels];
    let shared = Shared::new(&mut out);
    let image = Image {
        xs,
        h,
        w,
        side: kernel.side,
        window,
        out_width: ow,
    };
    let panels = pixels.div_ceil(tile.cols);
    let group = PANELS
        .min(panels.div_ceil(2 * rayon::current_num_threads()))
        .max(1);
    (0..panels.div_ceil(group)).into_par_iter().for_each_init(
        || vec![0f32; group * DEPTH.min(kernel.depth()) * tile.cols],
        |packed, g| {
            let first = g * group * tile.cols;
            let columns = (group * tile.cols).min(pixels - first);
            let starts = || (0..columns).step_by(tile.cols);
            for start in (0..kernel.depth()).step_by(DEPTH) {
                let depth = DEPTH.min(kernel.depth() - start);
                for (panel, at) in packed.chunks_exact_mut(depth * tile.cols).zip(starts()) {
                    let end = columns.min(at + tile.cols);
                    image.pack(first + at..first + end, start, panel, &tile);
                }
                let strips = kernel.strips.chunks_exact(kernel.depth() * tile.rows);
                for (row, strip) in (0..).step_by(tile.rows).zip(strips) {
                    let strip = &strip[start * tile.rows..];
                    for (panel, at) in packed.chunks_exact(depth * tile.cols).zip(starts()) {
                        let size = (tile.rows.min(kernel.out - row), tile.cols.min(columns - at));
                        // SAFETY: these rows and columns lie inside `out`, and the columns belong
                        // to this task.
                        unsafe {
                            let to = shared.at(row * pixels + first + at);
                            tile.multiply_at(depth, strip, panel, to, pixels, size, start > 0);
                        }
                    }
                }
            }
            for (o, b) in bias.iter().flat_map(|bias| bias.iter().enumerate()) {
                // SAFETY: as above.
                let row = unsafe {
                    std::slice::from_raw_parts_mut(shared.at(o * pixels + first), columns)
                };
                row.iter_mut().for_each(|x| *x += b);
            }
        },
    );
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
    use crate::nn::kernels::random;

    #[test]
    fn every_window_equals_the_sums_in_double() {
        for (c, h, w, o, k, s, p) in [
            (3, 9, 7, 5, 3, 1, 1),
            (8, 20, 13, 33, 3, 2, 1),
            (70, 12, 40, 20, 1, 1, 0),
            (40, 7, 7, 16, 7, 1, 0),
            (3, 28, 28, 15, 14, 14, 0),
            (2, 3, 2, 3, 5, 1, 4), // padding wider than the image
        ] {
            let (xs, weight, bias) = (random(c * h * w, 1), random(o * c * k * k, 2), random(o, 3));
            let window = Window {
                stride: (s, s),
                padding: (p, p),
            };
            let packed = PackedKernel::new(&weight, o, c, k);
            let (got, (oh, ow)) = conv2d(&xs, (h, w), &packed, Some(&bias), window).unwrap();
            let at = |ci: usize, y: usize, x: usize| -> f64 {
                match (p..p + h).contains(&y) && (p..p + w).contains(&x) {
                    true => xs[(ci * h + y - p) * w + x - p] as f64,
                    false => 0.,
                }
            };
            for (i, got) in got.iter().enumerate() {
                let (oc, y, x) = (i / (oh * ow), i / ow % oh, i % ow);
                let mut want = bias[oc] as f64;
                for t in 0..c * k * k {
                    let (ci, ky, kx) = (t / (k * k), t / k % k, t % k);
                    want += at(ci, y * s + ky, x * s + kx) * weight[oc * c * k * k + t] as f64;
                }
                assert!(
                    (*got as f64 - want).abs() < 1e-5,
                    "{c}->{o} k{k} s{s} p{p} at {oc},{y},{x}"
                );
            }
        }
    }
}
