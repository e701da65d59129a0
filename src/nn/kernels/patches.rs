//! Dense convolution on the CPU as a product of matrices, f32.
//!
//! The patches under the windows of a band of output rows become the columns of a matrix, which the
//! weight multiplies; band by band, so that memory stays small whatever the image.

use candle::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{Window, cpu_slice};

/// Floats of one matrix of patches: 16 MB, so that the allocator reuses it from band to band.
const PATCHES_LEN: usize = 4 << 20;

/// Dense convolution of `xs` (b, in, h, w) with `weight` (out, in, kh, kw) -> (b, out, h', w').
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
    let (out, in_channels, kh, kw) = weight.dims4()?;
    if c != in_channels {
        candle::bail!("a convolution of {in_channels} channels got {c}")
    }
    let (oh, ow) = window.output_size((h, w), (kh, kw))?;
    let depth = c * kh * kw;
    let weight = weight.reshape((out, depth))?;
    let bias = match bias {
        Some(bias) => bias.to_vec1::<f32>()?,
        None => vec![0.; out],
    };
    // Bands of equal height.
    let bands = (depth * oh * ow).div_ceil(PATCHES_LEN).clamp(1, oh);
    let rows = oh.div_ceil(bands);
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let pixels = cpu_slice(&storage, layout)?;
    let mut ys = vec![0f32; b * out * oh * ow];
    for (pixels, ys) in pixels
        .chunks_exact(c * h * w)
        .zip(ys.chunks_exact_mut(out * oh * ow))
    {
        for top in (0..oh).step_by(rows) {
            let rows = rows.min(oh - top);
            let mut patches = vec![0f32; depth * rows * ow];
            patches
                .par_chunks_exact_mut(rows * ow)
                .enumerate()
                .for_each(|(k, patches)| {
                    let plane = &pixels[k / (kh * kw) * h * w..][..h * w];
                    let tap = (k / kw % kh, k % kw);
                    gather_tap(plane, (h, w), tap, window, top, patches, ow);
                });
            let patches = Tensor::from_vec(patches, (depth, rows * ow), &Device::Cpu)?;
            let band = weight.matmul(&patches)?; // (out, rows * ow)
            let (storage, layout) = band.storage_and_layout();
            let band = cpu_slice(&storage, layout)?;
            ys.par_chunks_exact_mut(oh * ow)
                .zip(band.par_chunks_exact(rows * ow))
                .zip(&bias)
                .for_each(|((ys, band), bias)| {
                    for (y, sum) in ys[top * ow..].iter_mut().zip(band) {
                        *y = sum + bias;
                    }
                });
        }
    }
    Tensor::from_vec(ys, (b, out, oh, ow), &Device::Cpu)
}

/// What one kernel element sees of a plane (h, w), for the output rows from `top` on.
///
/// `patches` holds zeros; what lies outside the plane is left alone.
fn gather_tap(
    plane: &[f32],
    (h, w): (usize, usize),
    tap: (usize, usize),
    window: Window,
    top: usize,
    patches: &mut [f32],
    ow: usize,
) {
    let Window { stride, padding } = window;
    // The output columns whose source column, x * stride + tap - padding, lies in the plane.
    let first = padding.1.saturating_sub(tap.1).div_ceil(stride.1);
    let end = (w + padding.1)
        .saturating_sub(tap.1)
        .div_ceil(stride.1)
        .min(ow);
    for (y, patches) in patches.chunks_exact_mut(ow).enumerate() {
        let Some(source) = ((top + y) * stride.0 + tap.0).checked_sub(padding.0) else {
            continue;
        };
        if source >= h || first >= end {
            continue;
        }
        let source = &plane[source * w + first * stride.1 + tap.1 - padding.1..(source + 1) * w];
        let patches = &mut patches[first..end];
        if stride.1 == 1 {
            patches.copy_from_slice(&source[..patches.len()]);
        } else {
            for (to, from) in patches.iter_mut().zip(source.iter().step_by(stride.1)) {
                *to = *from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn every_window_equals_candles_convolution() {
        // Size, kernel, stride, padding; the last needs several bands.
        for ((h, w), kernel, stride, padding) in [
            ((7, 9), 3, 1, 1),
            ((9, 8), 3, 1, 0),
            ((8, 9), 3, 2, 1),
            ((6, 5), 5, 1, 2),
            ((9, 11), 2, 2, 0),
            ((1, 1), 3, 1, 1),
            ((5, 4), 3, 3, 2),
            ((410, 400), 3, 1, 1),
        ] {
            let (xs, bias) = (random(&[2, 3, h, w]), random(&[4]));
            let weight = random(&[4, 3, kernel, kernel]);
            let window = Window {
                stride: (stride, stride),
                padding: (padding, padding),
            };
            let got = conv2d(&xs, &weight, Some(&bias), window).unwrap();
            let want = xs.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let bias = bias.reshape((1, 4, 1, 1)).unwrap();
            let want = want.broadcast_add(&bias).unwrap();
            assert_eq!(got.dims(), want.dims());
            let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap();
            let worst = worst.to_scalar::<f32>().unwrap();
            assert!(worst < 2e-5, "{h}x{w} k{kernel} s{stride}: {worst}");
        }
    }
}
