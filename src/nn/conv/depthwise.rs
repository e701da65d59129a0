//! Depthwise convolutions: every channel has a kernel of its own.

use candle::{Device, Result, Tensor};

use crate::nn::kernels::depthwise;
use crate::nn::kernels::epilogue::Activation;
use crate::nn::kernels::window::Window;
use crate::nn::{on_cpu_in_f32, on_host, values, with_slice};

/// A depthwise 1-D convolution with stride 1: `xs` (b, c, s), `weight` (c, 1, k) -> (b, c, s').
///
/// `padding` zeros are added on both sides; an odd k with padding k / 2 keeps the length.
pub fn depthwise_conv1d(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    padding: usize,
) -> Result<Tensor> {
    let window = Window {
        stride: (1, 1),
        padding: (0, padding),
    };
    // A sequence is an image of one row.
    let weight = weight.unsqueeze(2)?;
    depthwise_conv2d(&xs.unsqueeze(2)?, &weight, bias, window)?.squeeze(2)
}

/// `xs` (b, c, h, w), `weight` (c, 1, kh, kw) -> (b, c, h', w')
pub(super) fn depthwise_conv2d(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
) -> Result<Tensor> {
    check_channels(xs.dim(1)?, weight.dim(0)?)?;
    if on_cpu_in_f32(xs) {
        return depthwise_on_cpu(xs, weight, bias, window);
    }
    let ys = depthwise_by_taps(xs, weight, window)?;
    match bias {
        Some(bias) => ys.broadcast_add(&bias.reshape((1, (), 1, 1))?),
        None => Ok(ys),
    }
}

/// All tensors are f32 on the CPU.
fn depthwise_on_cpu(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
) -> Result<Tensor> {
    let (b, c, h, w) = xs.dims4()?;
    let (_, _, kh, kw) = weight.dims4()?;
    let (weight, bias) = (on_host(weight)?, values(bias)?);
    let (ys, (oh, ow)) = with_slice(xs, |xs| {
        depthwise::conv2d(xs, [b, c, h, w], &weight, (kh, kw), bias.as_deref(), window)
    })?;
    Tensor::from_vec(ys, (b, c, oh, ow), &Device::Cpu)
}

/// `xs` (b, h, w, c), `weight` (c, 1, kh, kw) -> (b, h', w', c), all f32 on the CPU, and the
/// activation.
pub(super) fn depthwise_channels_last(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    activation: Activation,
) -> Result<Tensor> {
    let (b, h, w, c) = xs.dims4()?;
    let (channels, _, kh, kw) = weight.dims4()?;
    check_channels(c, channels)?;
    // One vector of channels per kernel element.
    let weight = on_host(&weight.reshape((c, kh * kw))?.t()?)?;
    let bias = values(bias)?;
    let (dims, kernel) = ([b, h, w, c], (kh, kw));
    let end = (bias.as_deref(), activation);
    let (ys, (oh, ow)) = with_slice(xs, |xs| {
        depthwise::conv2d_channels_last(xs, dims, &weight, kernel, end, window)
    })?;
    Tensor::from_vec(ys, (b, oh, ow, c), &Device::Cpu)
}

fn check_channels(got: usize, of_weight: usize) -> Result<()> {
    if got != of_weight {
        candle::bail!("a depthwise convolution of {of_weight} channels got {got}")
    }
    Ok(())
}

/// One scaled and shifted copy of the image per kernel element, summed.
///
/// candle's grouped convolution runs one convolution per channel, thousands of launches for one
/// layer; this takes two per kernel element.
fn depthwise_by_taps(xs: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    let (_, c, h, w) = xs.dims4()?;
    let (_, _, kh, kw) = weight.dims4()?;
    let (sh, sw) = window.stride;
    let (ph, pw) = window.padding;
    let (oh, ow) = window.output_size((h, w), (kh, kw))?;
    // Up to stride - 1 more zeros behind, so that the rows of each tap can be cut into strides.
    let xs = xs.pad_with_zeros(2, ph, ph + sh - 1)?;
    let xs = xs.pad_with_zeros(3, pw, pw + sw - 1)?;
    let weight = weight.reshape((1, c, kh, kw))?;
    let mut sum: Option<Tensor> = None;
    for i in 0..kh {
        for j in 0..kw {
            let tap = every(&every(&xs, 2, i, sh, oh)?, 3, j, sw, ow)?;
            let scaled = tap.broadcast_mul(&weight.narrow(2, i, 1)?.narrow(3, j, 1)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + scaled)?,
                None => scaled,
            });
        }
    }
    match sum {
        Some(sum) => Ok(sum),
        None => candle::bail!("a convolution kernel of size 0"),
    }
}

/// Elements `start`, `start + step`, … along `dim`, `len` of them.
fn every(xs: &Tensor, dim: usize, start: usize, step: usize, len: usize) -> Result<Tensor> {
    let xs = xs.narrow(dim, start, len * step)?;
    if step == 1 {
        return Ok(xs);
    }
    let mut dims = xs.dims().to_vec();
    dims[dim] = len;
    dims.insert(dim + 1, step);
    xs.reshape(dims)?.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_equal, random};
    use super::*;

    #[test]
    fn depthwise_by_taps_equals_the_kernel() {
        for (kernel, stride) in [(3, 1), (3, 2), (5, 2)] {
            let xs = random(&[2, 6, 11, 8]);
            let weight = random(&[6, 1, kernel, kernel]);
            let window = Window {
                stride: (stride, stride),
                padding: (kernel / 2, kernel / 2),
            };
            let got = depthwise_by_taps(&xs, &weight, window).unwrap();
            let want = depthwise_on_cpu(&xs, &weight, None, window).unwrap();
            assert_equal(&got, &want);
        }
    }

    #[test]
    fn a_depthwise_conv1d_equals_candles() {
        let (xs, weight) = (random(&[2, 6, 16]), random(&[6, 1, 11]));
        let bias = random(&[6]);
        let want = xs.conv1d(&weight, 5, 1, 1, 6).unwrap();
        let want = want.broadcast_add(&bias.reshape((1, 6, 1)).unwrap());
        let got = depthwise_conv1d(&xs, &weight, Some(&bias), 5).unwrap();
        assert_equal(&got, &want.unwrap());
    }
}
