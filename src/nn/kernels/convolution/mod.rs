//! Dense convolution as a product of the weights with windows of the image, which are packed as
//! they are needed.

mod image;

use candle::Result;
use rayon::prelude::*;

use super::epilogue::Epilogue;
use super::layout::{Format, Layout};
use super::pack::transpose_pieces;
use super::tile::Tile;
use super::view::{Block, Rows, Shared, elements, filled};
use super::window::Window;
use crate::run;
use image::Image;

pub(super) use image::copy_shifted;

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
        transpose_pieces(rows, tile.left, tile.rows, &mut strips);
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

    /// Elements of the summation.
    fn depth(&self) -> usize {
        self.tile.right.elements(self.products())
    }

    /// Those of one pass.
    fn step(&self) -> usize {
        DEPTH.min(self.depth()).max(1)
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
    let group = group_of(pixels, tile.cols);
    let write = |shared: Shared| {
        let room = || Room::of(&[kernel], group);
        let tasks = (0..pixels.div_ceil(group)).into_par_iter();
        let check = run::checker();
        tasks.try_for_each_init(room, |room, g| {
            check()?;
            let first = g * group;
            let columns = group.min(pixels - first);
            // SAFETY: these columns belong to this task.
            let mut out = unsafe { shared.block(first, pixels, kernel.out, columns) };
            image.multiply(first, kernel, room, &mut out);
            epilogue.apply(out, 0, first);
            Ok(())
        })
    };
    // SAFETY: the tasks write all channels of all pixels.
    let out = unsafe { filled(&[kernel.out, pixels], write)? };
    Ok((out, (oh, ow)))
}

/// Two 1x1 convolutions, each with its epilogue: `xs` (channels, pixels) -> (out, pixels). What the
/// first one makes of some pixels is in the cache when the second one reads it, and is stored nowhere
/// else.
///
/// # Errors
/// As [`conv2d`].
///
/// # Panics
/// When the sizes disagree.
pub fn pointwise_pair(
    xs: &[f32],
    pixels: usize,
    kernels: [&PackedKernel; 2],
    epilogues: [&Epilogue; 2],
) -> Result<Vec<f32>> {
    let [first, second] = kernels;
    assert!(first.side == 1 && second.side == 1 && first.out == second.channels);
    assert!(epilogues[0].fits(first.out, pixels) && epilogues[1].fits(second.out, pixels));
    let image = Image::flat(xs, pixels);
    let group = group_of(pixels, first.tile.cols.max(second.tile.cols));
    let write = |shared: Shared| {
        let room = || (Room::of(&kernels, group), vec![0f32; first.out * group]);
        let tasks = (0..pixels.div_ceil(group)).into_par_iter();
        let check = run::checker();
        tasks.try_for_each_init(room, |(room, between), g| {
            check()?;
            let start = g * group;
            let columns = group.min(pixels - start);
            let between = &mut between[..first.out * columns];
            let mut block = Block::new(between, columns);
            image.multiply(start, first, room, &mut block);
            epilogues[0].apply(block, 0, start);
            // SAFETY: these columns belong to this task.
            let mut out = unsafe { shared.block(start, pixels, second.out, columns) };
            Image::flat(between, columns).multiply(0, second, room, &mut out);
            epilogues[1].apply(out, 0, start);
            Ok(())
        })
    };
    // SAFETY: the tasks write all channels of all pixels.
    unsafe { filled(&[second.out, pixels], write) }
}

/// Pixels that share a pass over the weights, in whole panels; as many groups for each thread.
fn group_of(pixels: usize, cols: usize) -> usize {
    let panels = pixels.div_ceil(cols);
    let groups = panels
        .div_ceil(PANELS)
        .next_multiple_of(rayon::current_num_threads());
    panels.div_ceil(groups.max(1)).max(1) * cols
}

/// What a task packs into.
struct Room {
    panels: Vec<f32>,
    /// Values of panels that do not hold them as they are.
    values: Vec<f32>,
}

impl Room {
    /// For products of groups of pixels with any of these kernels.
    fn of(kernels: &[&PackedKernel], group: usize) -> Self {
        let most = |of: fn(&PackedKernel) -> usize| kernels.iter().map(|k| of(k)).max();
        let values = most(|kernel| match kernel.tile.right {
            Layout::Singles => 0,
            layout => layout.values() * kernel.step(),
        });
        Self {
            panels: vec![0f32; most(PackedKernel::step).unwrap_or(0) * group],
            values: vec![0f32; values.unwrap_or(0) * group],
        }
    }
}

impl Image<'_> {
    /// Convolves the output pixels from `first` on, as many as `out` (out, pixels) is wide.
    fn multiply(&self, first: usize, kernel: &PackedKernel, room: &mut Room, out: &mut Block) {
        let (tile, depth, step) = (kernel.tile, kernel.depth(), kernel.step());
        let columns = out.width();
        let mut start = 0;
        loop {
            let len = step.min(depth - start);
            let pixels = first..first + columns;
            let Room { panels, values } = room;
            self.pack_elements(pixels, start..start + len, kernel, values, panels);
            for row in (0..kernel.out).step_by(tile.rows) {
                let strip = &kernel.strips[row * depth + start * tile.rows..];
                let to = out.rows(row, tile.rows);
                tile.multiply_into(len, strip, &room.panels, to, start > 0);
            }
            start += len;
            if start == depth {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::epilogue::{Activation, Bias};
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
    fn a_pair_equals_one_after_the_other() {
        let unit = Window::UNIT;
        for (c, between, o, h, w) in [(5, 9, 7, 3, 11), (40, 80, 40, 13, 20), (3, 1100, 2, 4, 9)] {
            let (xs, pixels) = (random(c * h * w, 1), h * w);
            let weights = [random(between * c, 2), random(o * between, 3)];
            let biases = [random(between, 4), random(o, 5)];
            let residual = random(o * pixels, 6);
            for format in Format::ALL {
                let first = PackedKernel::new(&weights[0], between, c, 1, format);
                let second = PackedKernel::new(&weights[1], o, between, 1, format);
                let gelu = Epilogue {
                    activation: Activation::Gelu,
                    ..biased(&biases[0])
                };
                let last = Epilogue {
                    residual: Some(Rows::new(&residual, pixels, o, pixels)),
                    ..biased(&biases[1])
                };
                let (ys, _) = conv2d(&xs, (h, w), &first, unit, &gelu).unwrap();
                let (want, _) = conv2d(&ys, (h, w), &second, unit, &last).unwrap();
                let got = pointwise_pair(&xs, pixels, [&first, &second], [&gelu, &last]);
                assert_eq!(got.unwrap(), want, "{c} {between} {o} {format:?}");
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
