//! Depthwise convolution on the CPU: one small kernel per channel, f32.
//!
//! There is nothing to reuse across channels, so the work is bound by memory: each plane is copied
//! once into a zero-padded scratch that stays in the cache, and every output row is then a sum of
//! shifted rows, which the compiler turns into vector code. A stride of s is made contiguous by
//! keeping the columns of the scratch in s phases (for s = 2 the even and the odd columns).

use std::ops::Range;

use candle::Result;
use rayon::prelude::*;

use super::epilogue::Activation;
use super::lanes::{Lanes, vectorised};
use super::view::{Shared, elements, filled};
use super::window::Window;
use crate::run;

/// Output pixels computed together: four AVX2 or two AVX-512 registers.
const LANES: usize = 32;

/// Depthwise convolution of `xs` (b, c, h, w) with `weight` (c, kh, kw) and `bias` (c)
/// -> (b, c, h', w'), with its height and width.
///
/// # Errors
/// When the padded image is smaller than the kernel, or there is no memory for the result.
///
/// # Panics
/// When the sizes disagree.
pub fn conv2d(
    xs: &[f32],
    [b, c, h, w]: [usize; 4],
    weight: &[f32],
    (kh, kw): (usize, usize),
    bias: Option<&[f32]>,
    window: Window,
) -> Result<(Vec<f32>, (usize, usize))> {
    let (oh, ow) = window.output_size((h, w), (kh, kw))?;
    let scratch = Scratch::new((h, w), (kh, kw), ow, window)?;
    let write = |shared: Shared| {
        assert!(xs.len() == b * c * h * w && weight.len() == c * kh * kw);
        let planes = xs.par_chunks(h * w).enumerate();
        let room = || vec![0f32; scratch.len];
        let check = run::checker();
        planes.try_for_each_init(room, |buffer, (plane, xs)| {
            check()?;
            let channel = plane % c;
            scratch.fill(buffer, xs);
            let weight = &weight[channel * kh * kw..][..kh * kw];
            let bias = bias.map_or(0., |bias| bias[channel]);
            // SAFETY: this plane belongs to this task.
            let mut out = unsafe { shared.block(plane * oh * ow, oh * ow, 1, oh * ow) };
            convolve_plane(&scratch, buffer, weight, bias, out.row(0));
            Ok(())
        })
    };
    // SAFETY: the tasks write all planes.
    let out = unsafe { filled(&[b, c, oh, ow], write)? };
    Ok((out, (oh, ow)))
}

/// Depthwise convolution, channels last: `xs` (b, h, w, c), `weight` (kh, kw, c), `bias` (c), then
/// the activation -> (b, h', w', c), with its height and width.
///
/// Needs no scratch: the vectors run along the channels, and what lies outside the image is left
/// out of the sum.
///
/// # Errors
/// When the padded image is smaller than the kernel, or there is no memory for the result.
///
/// # Panics
/// When the sizes disagree.
pub fn conv2d_channels_last(
    xs: &[f32],
    [b, h, w, c]: [usize; 4],
    weight: &[f32],
    (kh, kw): (usize, usize),
    (bias, activation): (Option<&[f32]>, Activation),
    window: Window,
) -> Result<(Vec<f32>, (usize, usize))> {
    let (oh, ow) = window.output_size((h, w), (kh, kw))?;
    let write = |shared: Shared| {
        assert!(xs.len() == b * h * w * c && weight.len() == kh * kw * c);
        let zeros = vec![0.; c];
        let bias = bias.unwrap_or(&zeros);
        (0..b * oh).into_par_iter().for_each(|i| {
            let (batch, y) = (i / oh, i % oh);
            let row = ImageRow {
                image: &xs[batch * h * w * c..][..h * w * c],
                size: (h, w, c),
                kernel: (kh, kw),
                window,
                y,
            };
            // SAFETY: this row belongs to this task.
            let mut out = unsafe { shared.block(i * ow * c, ow * c, 1, ow * c) };
            convolve_row(&row, weight, bias, activation, out.row(0));
        });
        Ok(())
    };
    // SAFETY: the tasks write all rows.
    let out = unsafe { filled(&[b, oh, ow, c], write)? };
    Ok((out, (oh, ow)))
}

/// One output row of a channels-last convolution.
#[derive(Debug, Clone, Copy)]
struct ImageRow<'a> {
    image: &'a [f32],
    /// Rows, columns and channels of the image.
    size: (usize, usize, usize),
    kernel: (usize, usize),
    window: Window,
    /// The output row.
    y: usize,
}

vectorised! {
    /// Convolves a row with `weight` (kh * kw, c) into `out` (w', c), pixel by pixel: the rows of the
    /// image are then read front to back.
    fn convolve_row<L>(
        row: &ImageRow,
        weight: &[f32],
        bias: &[f32],
        activation: Activation,
        out: &mut [f32],
    ) {
        let c = row.size.2;
        let vectors = c / LANES * LANES;
        for (x, out) in out.chunks_exact_mut(c.max(1)).enumerate() {
            let taps = row.taps(x);
            for first in (0..vectors).step_by(LANES) {
                row.convolve_lanes::<L, LANES>(&taps, first, weight, bias, out);
            }
            for first in vectors..c {
                row.convolve_lanes::<L, 1>(&taps, first, weight, bias, out);
            }
            activation.apply_here(out);
        }
    }
}

impl ImageRow<'_> {
    /// The part of the window of the output pixel at column `x` that lies inside the image: the first row
    /// of the image and the rows of the kernel, and the same of columns.
    #[inline(always)]
    fn taps(&self, x: usize) -> [(usize, Range<usize>); 2] {
        let Window { stride, padding } = self.window;
        let (h, w, _) = self.size;
        [
            inside(self.y, stride.0, padding.0, self.kernel.0, h),
            inside(x, stride.1, padding.1, self.kernel.1, w),
        ]
    }

    /// The channels `first..first + N` of an output pixel, which `out` holds all of.
    #[inline(always)]
    fn convolve_lanes<L: Lanes, const N: usize>(
        &self,
        [(top, rows), (left, columns)]: &[(usize, Range<usize>); 2],
        first: usize,
        weight: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) {
        let (_, w, c) = self.size;
        let mut sum = [0.; N];
        sum.copy_from_slice(&bias[first..first + N]);
        for (i, y) in rows.clone().zip(*top..) {
            let sources = self.image[(y * w + left) * c + first..].chunks(c);
            let kernel = (i * self.kernel.1 + columns.start) * c;
            let weights = weight[kernel + first..].chunks(c);
            for ((source, weight), _) in sources.zip(weights).zip(columns.clone()) {
                if let (Some(source), Some(weight)) = (source.first_chunk(), weight.first_chunk()) {
                    sum = multiply_add_lanes::<L, N>(source, weight, sum);
                }
            }
        }
        if let Some(out) = out[first..].first_chunk_mut() {
            *out = sum;
        }
    }
}

/// The first pixel under window `i` along an axis of `size`, and which kernel elements lie inside:
/// none where the padding is wider than the kernel.
#[inline(always)]
fn inside(
    i: usize,
    stride: usize,
    padding: usize,
    kernel: usize,
    size: usize,
) -> (usize, Range<usize>) {
    let start = i * stride;
    let end = kernel.min((size + padding).saturating_sub(start));
    let skipped = padding.saturating_sub(start).min(end);
    match skipped < end {
        true => (start + skipped - padding, skipped..end),
        false => (0, 0..0),
    }
}

/// `a * b + sum`, lane by lane.
#[inline(always)]
fn multiply_add_lanes<L: Lanes, const N: usize>(
    a: &[f32; N],
    b: &[f32; N],
    mut sum: [f32; N],
) -> [f32; N] {
    for lane in 0..N {
        sum[lane] = match L::FUSED {
            true => a[lane].mul_add(b[lane], sum[lane]),
            false => a[lane] * b[lane] + sum[lane],
        };
    }
    sum
}

/// The geometry of one padded plane.
#[derive(Debug, Clone)]
struct Scratch {
    /// Columns of the image.
    width: usize,
    /// Columns of the output.
    out_width: usize,
    stride: (usize, usize),
    padding: (usize, usize),
    /// Length of one phase of one row, with room for a group of lanes behind a narrow output.
    phase: usize,
    /// Of all rows of the padded plane.
    len: usize,
    /// Where each kernel element begins, seen from the first output pixel.
    taps: Vec<usize>,
}

impl Scratch {
    /// For an output of `ow` columns, which the image and the kernel have.
    fn new(
        (h, w): (usize, usize),
        (kh, kw): (usize, usize),
        ow: usize,
        window: Window,
    ) -> Result<Self> {
        let Window { stride, padding } = window;
        let reached = ow.max(LANES) + (kw - 1) / stride.1;
        let filled = (w + 2 * padding.1).div_ceil(stride.1);
        let phase = reached.max(filled);
        let tap = |k: usize| {
            let (i, j) = (k / kw, k % kw);
            (i * stride.1 + j % stride.1) * phase + j / stride.1
        };
        Ok(Self {
            width: w,
            out_width: ow,
            stride,
            padding,
            phase,
            len: elements(&[h + 2 * padding.0, phase, stride.1])?,
            taps: (0..kh * kw).map(tap).collect(),
        })
    }

    fn row_len(&self) -> usize {
        self.phase * self.stride.1
    }

    /// Copies a plane inside the zeros. The zeros are never written, so a buffer can be reused.
    fn fill(&self, buffer: &mut [f32], plane: &[f32]) {
        let (step, left) = (self.stride.1, self.padding.1);
        let rows = buffer.chunks_exact_mut(self.row_len()).skip(self.padding.0);
        for (row, source) in rows.zip(plane.chunks_exact(self.width)) {
            if step == 1 {
                row[left..left + self.width].copy_from_slice(source);
                continue;
            }
            for (phase, row) in row.chunks_exact_mut(self.phase).enumerate() {
                // The first source column whose padded position is of this phase.
                let first = (phase + step - left % step) % step;
                let to = (first + left) / step;
                let source = source.iter().skip(first).step_by(step);
                for (to, from) in row[to..].iter_mut().zip(source) {
                    *to = *from;
                }
            }
        }
    }

    /// The output pixels from column `x` on, of the window whose first row begins `rows`.
    #[inline(always)]
    fn lanes<L: Lanes>(&self, rows: &[f32], x: usize, weight: &[f32], bias: f32) -> [f32; LANES] {
        let mut sum = [bias; LANES];
        for (&tap, &weight) in self.taps.iter().zip(weight) {
            if let Some(source) = rows[tap + x..].first_chunk() {
                sum = multiply_add_lanes::<L, LANES>(source, &[weight; LANES], sum);
            }
        }
        sum
    }
}

vectorised! {
    /// Convolves a filled buffer into `out` (h', w').
    fn convolve_plane<L>(
        scratch: &Scratch,
        buffer: &[f32],
        weight: &[f32],
        bias: f32,
        out: &mut [f32],
    ) {
        for (y, out) in out.chunks_exact_mut(scratch.out_width).enumerate() {
            let rows = &buffer[y * scratch.stride.0 * scratch.row_len()..];
            let Some(last) = scratch.out_width.checked_sub(LANES) else {
                let sum = scratch.lanes::<L>(rows, 0, weight, bias);
                out.copy_from_slice(&sum[..scratch.out_width]);
                continue;
            };
            // The last group overlaps the one before, so that all are whole.
            for x in (0..last).step_by(LANES).chain([last]) {
                if let Some(out) = out[x..].first_chunk_mut() {
                    *out = scratch.lanes::<L>(rows, x, weight, bias);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::kernels::{is_affordable, random};

    /// (height, width), kernel, stride, padding
    type Case = ((usize, usize), usize, usize, usize);

    fn window(stride: usize, padding: usize) -> Window {
        Window {
            stride: (stride, stride),
            padding: (padding, padding),
        }
    }

    #[test]
    fn every_window_equals_the_sums_in_double() {
        let cases: [Case; 13] = [
            ((7, 9), 3, 1, 1),
            ((40, 33), 3, 1, 1),
            ((9, 64), 3, 1, 0),
            ((63, 63), 3, 2, 1),
            ((64, 34), 3, 2, 1),
            ((12, 70), 5, 1, 2),
            ((12, 71), 5, 2, 2),
            ((8, 8), 7, 2, 3),
            ((10, 11), 3, 3, 1),
            ((1, 1), 3, 1, 1),
            ((2, 3), 3, 1, 4), // padding wider than the kernel
            ((5, 4), 3, 2, 3),
            ((2, 2), 2, 7, 9),
        ];
        for ((h, w), k, stride, padding) in cases {
            // More than one group of lanes, and a rest.
            let (b, c) = (2, LANES + 5);
            if !is_affordable(b * c * h * w * k * k) {
                continue;
            }
            let (xs, weight) = (random(b * c * h * w, 1), random(c * k * k, 2));
            let bias = random(c, 3);
            let window = window(stride, padding);
            let (got, (oh, ow)) =
                conv2d(&xs, [b, c, h, w], &weight, (k, k), Some(&bias), window).unwrap();
            // The same with the channels last.
            let turned = |xs: &[f32], plane: usize| -> Vec<f32> {
                let planes = xs.len() / (c * plane);
                (0..xs.len())
                    .map(|i| xs[(i / (c * plane) % planes * c + i % c) * plane + i / c % plane])
                    .collect()
            };
            let (last, _) = conv2d_channels_last(
                &turned(&xs, h * w),
                [b, h, w, c],
                &turned(&weight, k * k),
                (k, k),
                (Some(&bias), Activation::Identity),
                window,
            )
            .unwrap();
            let at = |plane: usize, y: usize, x: usize| -> f64 {
                let (rows, columns) = (padding..padding + h, padding..padding + w);
                match rows.contains(&y) && columns.contains(&x) {
                    true => f64::from(xs[(plane * h + y - padding) * w + x - padding]),
                    false => 0.,
                }
            };
            let last_again = turned(&got, oh * ow);
            assert_eq!(got.len(), b * c * oh * ow);
            for (i, got) in got.iter().enumerate() {
                let (plane, y, x) = (i / (oh * ow), i / ow % oh, i % ow);
                let mut want = f64::from(bias[plane % c]);
                for t in 0..k * k {
                    let pixel = at(plane, y * stride + t / k, x * stride + t % k);
                    want += pixel * f64::from(weight[plane % c * k * k + t]);
                }
                let diff = (f64::from(*got) - want).abs();
                assert!(diff < 1e-5, "{h}x{w} k{k} s{stride} p{padding}: {diff:.1e}");
            }
            for (got, want) in last.iter().zip(&last_again) {
                let diff = (got - want).abs();
                assert!(
                    diff < 1e-5,
                    "{h}x{w} k{k} s{stride} p{padding}, last: {diff:.1e}"
                );
            }
        }
    }

    #[test]
    fn a_kernel_larger_than_the_padded_image_is_an_error() {
        let (xs, weight) = ([0.; 8], [0.; 18]);
        assert!(conv2d(&xs, [1, 2, 2, 2], &weight, (3, 3), None, window(1, 0)).is_err());
    }

    #[test]
    fn a_result_or_a_scratch_that_no_memory_holds_is_an_error() {
        // Each step skips nearly all of the padding: four pixels out of 2^62.
        for window in [window(1, 1 << 30), window(1 << 30, 1 << 30)] {
            assert!(conv2d(&[1.; 4], [1, 1, 2, 2], &[1.], (1, 1), None, window).is_err());
        }
        let (wide, end) = (window(1, 1 << 30), (None, Activation::Identity));
        assert!(conv2d_channels_last(&[1.; 4], [1, 2, 2, 1], &[1.], (1, 1), end, wide).is_err());
    }
}
