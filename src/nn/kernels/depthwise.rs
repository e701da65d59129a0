//! Depthwise convolution on the CPU: one small kernel per channel, f32.
//!
//! There is nothing to reuse across channels, so the work is bound by memory: each plane is copied
//! once into a zero-padded scratch that stays in the cache, and every output row is then a sum of
//! shifted rows, which the compiler turns into vector code. A stride of s is made contiguous by
//! keeping the columns of the scratch in s phases (for s = 2 the even and the odd columns).

use std::ops::Range;

use candle::{Device, Result, Tensor};
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::level::{Level, level};
use super::{Window, cpu_slice};

/// Output pixels computed together: four AVX2 or two AVX-512 registers.
const LANES: usize = 32;

/// Depthwise convolution of `xs` (b, c, h, w) with `weight` (c, 1, kh, kw) -> (b, c, h', w').
///
/// All tensors are f32 on the CPU.
///
/// # Errors
/// When the padded image is smaller than the kernel, or a tensor is elsewhere or of another type.
pub fn conv2d(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
) -> Result<Tensor> {
    let (b, c, h, w) = xs.dims4()?;
    let (_, _, kh, kw) = weight.dims4()?;
    let (oh, ow) = window.output_size((h, w), (kh, kw))?;
    let weight = weight.flatten_all()?.to_vec1::<f32>()?;
    let bias = match bias {
        Some(bias) => bias.to_vec1::<f32>()?,
        None => vec![0.; c],
    };
    let scratch = Scratch::new((h, w), (kh, kw), (oh, ow), window);
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let xs = cpu_slice(&storage, layout)?;
    let mut out = vec![0f32; b * c * oh * ow];
    if !out.is_empty() {
        out.par_chunks_mut(oh * ow)
            .zip(xs.par_chunks(h * w))
            .enumerate()
            .for_each_init(
                || vec![0f32; scratch.len()],
                |buffer, (plane, (out, xs))| {
                    let channel = plane % c;
                    scratch.fill(buffer, xs);
                    let weight = &weight[channel * kh * kw..][..kh * kw];
                    scratch.convolve(buffer, weight, bias[channel], out);
                },
            );
    }
    Tensor::from_vec(out, (b, c, oh, ow), &Device::Cpu)
}

/// Depthwise convolution, channels last: `xs` (b, h, w, c), `weight` (c, 1, kh, kw) -> (b, h', w', c).
///
/// All tensors are f32 on the CPU. Needs no scratch: the vectors run along the channels, and what
/// lies outside the image is left out of the sum.
///
/// # Errors
/// When the padded image is smaller than the kernel, or a tensor is elsewhere or of another type.
pub fn conv2d_channels_last(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
) -> Result<Tensor> {
    let (b, h, w, c) = xs.dims4()?;
    let (_, _, kh, kw) = weight.dims4()?;
    let (oh, ow) = window.output_size((h, w), (kh, kw))?;
    // One vector of channels per kernel element.
    let weight = weight.reshape((c, kh * kw))?.t()?.flatten_all()?;
    let weight = weight.to_vec1::<f32>()?;
    let bias = match bias {
        Some(bias) => bias.to_vec1::<f32>()?,
        None => vec![0.; c],
    };
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let xs = cpu_slice(&storage, layout)?;
    let mut out = vec![0f32; b * oh * ow * c];
    out.par_chunks_mut((ow * c).max(1))
        .enumerate()
        .for_each(|(i, out)| {
            let (batch, y) = (i / oh, i % oh);
            let row = ImageRow {
                image: &xs[batch * h * w * c..][..h * w * c],
                size: (h, w, c),
                kernel: (kh, kw),
                window,
                y,
            };
            row.convolve(&weight, &bias, out);
        });
    Tensor::from_vec(out, (b, oh, ow, c), &Device::Cpu)
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

impl ImageRow<'_> {
    /// Convolves with `weight` (kh * kw, c) into `out` (w', c).
    fn convolve(&self, weight: &[f32], bias: &[f32], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        {
            match level() {
                // SAFETY: `level` reports what this processor has.
                Level::Amx | Level::Avx512 => {
                    return unsafe { self.convolve_avx512(weight, bias, out) };
                }
                // SAFETY: as above.
                Level::Avx2 => return unsafe { self.convolve_avx2(weight, bias, out) },
                Level::Portable => {}
            }
        }
        self.convolve_channels::<FUSED_BY_DEFAULT>(weight, bias, out)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn convolve_avx512(&self, weight: &[f32], bias: &[f32], out: &mut [f32]) {
        self.convolve_channels::<true>(weight, bias, out)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn convolve_avx2(&self, weight: &[f32], bias: &[f32], out: &mut [f32]) {
        self.convolve_channels::<true>(weight, bias, out)
    }

    #[inline(always)]
    fn convolve_channels<const FUSED: bool>(&self, weight: &[f32], bias: &[f32], out: &mut [f32]) {
        let c = self.size.2;
        let vectors = c / LANES * LANES;
        for first in (0..vectors).step_by(LANES) {
            self.convolve_lanes::<FUSED, LANES>(first, weight, bias, out);
        }
        for first in vectors..c {
            self.convolve_lanes::<FUSED, 1>(first, weight, bias, out);
        }
    }

    /// The channels `first..first + N` of the row.
    #[inline(always)]
    fn convolve_lanes<const FUSED: bool, const N: usize>(
        &self,
        first: usize,
        weight: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) {
        let (h, w, c) = self.size;
        let Window { stride, padding } = self.window;
        let (top, rows) = inside(self.y, stride.0, padding.0, self.kernel.0, h);
        let mut start = [0.; N];
        start.copy_from_slice(&bias[first..first + N]);
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            let (left, columns) = inside(x, stride.1, padding.1, self.kernel.1, w);
            let mut sum = start;
            for (i, y) in rows.clone().zip(top..) {
                let sources = self.image[(y * w + left) * c + first..].chunks(c);
                let weights = weight[(i * self.kernel.1 + columns.start) * c + first..].chunks(c);
                for ((source, weight), _) in sources.zip(weights).zip(columns.clone()) {
                    if let (Some(source), Some(weight)) =
                        (source.first_chunk(), weight.first_chunk())
                    {
                        sum = multiply_add_lanes::<FUSED, N>(source, weight, sum);
                    }
                }
            }
            if let Some(out) = out[first..].first_chunk_mut() {
                *out = sum;
            }
        }
    }
}

/// The first pixel under window `i` along an axis of `size`, and which kernel elements lie inside.
#[inline(always)]
fn inside(
    i: usize,
    stride: usize,
    padding: usize,
    kernel: usize,
    size: usize,
) -> (usize, Range<usize>) {
    let start = i * stride;
    let skipped = padding.saturating_sub(start);
    let end = kernel.min((size + padding).saturating_sub(start));
    (start + skipped - padding, skipped..end)
}

/// Whether code compiled without runtime detection has a fused multiply-add; elsewhere it would be
/// a library call.
const FUSED_BY_DEFAULT: bool = cfg!(target_arch = "aarch64");

/// `a * b + sum`, lane by lane.
#[inline(always)]
fn multiply_add_lanes<const FUSED: bool, const N: usize>(
    a: &[f32; N],
    b: &[f32; N],
    mut sum: [f32; N],
) -> [f32; N] {
    for lane in 0..N {
        sum[lane] = match FUSED {
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
    /// Rows of the padded plane.
    rows: usize,
    /// Length of one phase of one row, with room for a group of lanes behind a narrow output.
    phase: usize,
    /// Where each kernel element begins, seen from the first output pixel.
    taps: Vec<usize>,
}

impl Scratch {
    fn new(
        (h, w): (usize, usize),
        (kh, kw): (usize, usize),
        (_, ow): (usize, usize),
        window: Window,
    ) -> Self {
        let Window { stride, padding } = window;
        let reached = ow.max(LANES) + (kw - 1) / stride.1;
        let filled = (w + 2 * padding.1).div_ceil(stride.1);
        let phase = reached.max(filled);
        let tap = |k: usize| {
            let (i, j) = (k / kw, k % kw);
            (i * stride.1 + j % stride.1) * phase + j / stride.1
        };
        Self {
            width: w,
            out_width: ow,
            stride,
            padding,
            rows: h + 2 * padding.0,
            phase,
            taps: (0..kh * kw).map(tap).collect(),
        }
    }

    fn len(&self) -> usize {
        self.rows * self.row_len()
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

    /// Convolves a filled buffer into `out` (h', w').
    fn convolve(&self, buffer: &[f32], weight: &[f32], bias: f32, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        {
            match level() {
                // SAFETY: `level` reports what this processor has.
                Level::Amx | Level::Avx512 => {
                    return unsafe { self.convolve_avx512(buffer, weight, bias, out) };
                }
                // SAFETY: as above.
                Level::Avx2 => return unsafe { self.convolve_avx2(buffer, weight, bias, out) },
                Level::Portable => {}
            }
        }
        self.convolve_rows::<FUSED_BY_DEFAULT>(buffer, weight, bias, out)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn convolve_avx512(&self, buffer: &[f32], weight: &[f32], bias: f32, out: &mut [f32]) {
        self.convolve_rows::<true>(buffer, weight, bias, out)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn convolve_avx2(&self, buffer: &[f32], weight: &[f32], bias: f32, out: &mut [f32]) {
        self.convolve_rows::<true>(buffer, weight, bias, out)
    }

    #[inline(always)]
    fn convolve_rows<const FUSED: bool>(
        &self,
        buffer: &[f32],
        weight: &[f32],
        bias: f32,
        out: &mut [f32],
    ) {
        for (y, out) in out.chunks_exact_mut(self.out_width).enumerate() {
            let rows = &buffer[y * self.stride.0 * self.row_len()..];
            let Some(last) = self.out_width.checked_sub(LANES) else {
                let sum = self.lanes::<FUSED>(rows, 0, weight, bias);
                out.copy_from_slice(&sum[..self.out_width]);
                continue;
            };
            // The last group overlaps the one before, so that all are whole.
            for x in (0..last).step_by(LANES).chain([last]) {
                if let Some(out) = out[x..].first_chunk_mut() {
                    *out = self.lanes::<FUSED>(rows, x, weight, bias);
                }
            }
        }
    }

    /// The output pixels from column `x` on, of the window whose first row begins `rows`.
    #[inline(always)]
    fn lanes<const FUSED: bool>(
        &self,
        rows: &[f32],
        x: usize,
        weight: &[f32],
        bias: f32,
    ) -> [f32; LANES] {
        let mut sum = [bias; LANES];
        for (&tap, &weight) in self.taps.iter().zip(weight) {
            if let Some(source) = rows[tap + x..].first_chunk() {
                sum = multiply_add_lanes::<FUSED, LANES>(source, &[weight; LANES], sum);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes long and follows no pointers")]
    fn every_window_equals_candles_convolution() {
        struct Case {
            size: (usize, usize),
            kernel: usize,
            stride: usize,
            padding: usize,
        }
        let case = |h, w, kernel, stride, padding| Case {
            size: (h, w),
            kernel,
            stride,
            padding,
        };
        let cases = [
            case(7, 9, 3, 1, 1),
            case(40, 33, 3, 1, 1),
            case(9, 64, 3, 1, 0),
            case(63, 63, 3, 2, 1),
            case(64, 34, 3, 2, 1),
            case(12, 70, 5, 1, 2),
            case(12, 71, 5, 2, 2),
            case(8, 8, 7, 2, 3),
            case(10, 11, 3, 3, 1),
            case(1, 1, 3, 1, 1),
        ];
        for Case {
            size: (h, w),
            kernel,
            stride,
            padding,
        } in cases
        {
            // More than one group of lanes, and a rest.
            let c = LANES + 5;
            let xs = random(&[2, c, h, w]);
            let weight = random(&[c, 1, kernel, kernel]);
            let bias = random(&[c]);
            let window = Window {
                stride: (stride, stride),
                padding: (padding, padding),
            };
            let got = conv2d(&xs, &weight, Some(&bias), window).unwrap();
            let want = xs.conv2d(&weight, padding, stride, 1, c).unwrap();
            let want = want
                .broadcast_add(&bias.reshape((1, c, 1, 1)).unwrap())
                .unwrap();
            assert_eq!(got.dims(), want.dims());
            let channels_last = |t: &Tensor| t.permute((0, 2, 3, 1)).unwrap();
            let last = channels_last(&xs);
            let last = conv2d_channels_last(&last, &weight, Some(&bias), window).unwrap();
            for worst in [got - &want, last - channels_last(&want)] {
                let worst = worst.unwrap().abs().unwrap().max_all().unwrap();
                let worst = worst.to_scalar::<f32>().unwrap();
                assert!(worst < 1e-5, "{h}x{w} k{kernel} s{stride}: {worst}");
            }
        }
    }

    #[test]
    fn a_kernel_larger_than_the_padded_image_is_an_error() {
        let window = Window {
            stride: (1, 1),
            padding: (0, 0),
        };
        assert!(conv2d(&random(&[1, 2, 2, 2]), &random(&[2, 1, 3, 3]), None, window).is_err());
    }

    #[test]
    #[ignore = "prints timings; run with --ignored --nocapture"]
    fn timings() {
        for (c, size, kernel, stride) in [
            (64, 252, 3, 1),
            (384, 63, 3, 1),
            (128, 126, 5, 1),
            (256, 126, 3, 2),
        ] {
            let xs = random(&[1, c, size, size]);
            let weight = random(&[c, 1, kernel, kernel]);
            let window = Window {
                stride: (stride, stride),
                padding: (kernel / 2, kernel / 2),
            };
            let best = |run: &dyn Fn() -> Result<Tensor>| {
                let mut best = f64::INFINITY;
                for _ in 0..30 {
                    let start = std::time::Instant::now();
                    run().unwrap();
                    best = best.min(start.elapsed().as_secs_f64());
                }
                best * 1e3
            };
            let first = best(&|| conv2d(&xs, &weight, None, window));
            let xs = xs.reshape((1, size, size, c)).unwrap();
            let last = best(&|| conv2d_channels_last(&xs, &weight, None, window));
            println!("{c}@{size} k{kernel} s{stride}: {first:.2} ms, channels last {last:.2} ms");
        }
    }
}
