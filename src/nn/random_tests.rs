//! Layers of random sizes against candle's own operations.
//!
//! `SAM3_LAYERS=50000` tries as many; under AddressSanitizer (`tools/check_unsafe.sh asan`) that
//! also shows whether a kernel reads or writes beside its tensors.

use candle::{D, DType, Module, Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::softmax_last_dim;

use super::conv::{Conv2d, ConvConfig};
use super::conv_transpose::ConvTranspose2x2;
use super::golden::assert_close;
use super::kernels::random;
use super::{Linear, Precision, group_norm, layer_norm, sdpa, window};
use crate::Device;

/// Layers when nobody asks for more.
const TRIED: u32 = 400;
const TOLERANCE: f64 = 5e-5;

/// Reproducible sizes and tensors.
struct Dice(u32);

impl Dice {
    /// 0..n
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as usize % n
    }

    /// 1..=n, half of the time small.
    fn size(&mut self, n: usize) -> usize {
        match self.below(2) {
            0 => 1 + self.below(n.min(9)),
            _ => 1 + self.below(n),
        }
    }

    fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        let values = random(shape.iter().product(), self.below(1 << 24) as u32);
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn maybe(&mut self, shape: &[usize]) -> Result<Option<Tensor>> {
        (self.below(2) == 0).then(|| self.tensor(shape)).transpose()
    }

    /// As [`Dice::tensor`], at times with gaps or in another order in memory.
    fn view(&mut self, shape: &[usize]) -> Result<Tensor> {
        let (last, rank) = (shape.len() - 1, shape.len());
        let mut stored = shape.to_vec();
        match self.below(4) {
            0 if rank > 1 => {
                stored.swap(last, last - 1);
                self.tensor(&stored)?.transpose(last, last - 1)
            }
            1 => {
                stored[last] += 3;
                self.tensor(&stored)?.narrow(last, 2, shape[last])
            }
            _ => self.tensor(shape),
        }
    }
}

fn add_bias(ys: Tensor, bias: Option<&Tensor>, axis: usize) -> Result<Tensor> {
    let Some(bias) = bias else { return Ok(ys) };
    let mut shape = vec![1; ys.rank()];
    shape[axis] = bias.elem_count();
    ys.broadcast_add(&bias.reshape(shape)?)
}

fn try_linear(dice: &mut Dice) -> Result<()> {
    let [b, m, k, n] = [3, 70, 200, 150].map(|most| dice.size(most));
    let (xs, weight, bias) = (
        dice.view(&[b, m, k])?,
        dice.tensor(&[n, k])?,
        dice.maybe(&[n])?,
    );
    let layer = Linear::new(&weight, bias.clone())?;
    let want = xs.contiguous()?.broadcast_matmul(&weight.t()?)?;
    let want = add_bias(want, bias.as_ref(), 2)?;
    let residual = dice.view(&[b, m, n])?;
    assert_close(&layer.forward(&xs)?, &want, TOLERANCE);
    assert_close(&layer.forward_relu(&xs)?, &want.relu()?, TOLERANCE);
    assert_close(&layer.forward_gelu(&xs)?, &want.gelu_erf()?, TOLERANCE);
    let onto = layer.forward_onto(&residual, &xs)?;
    assert_close(&onto, &(want + residual)?, TOLERANCE);
    Ok(())
}

fn try_convolution(dice: &mut Dice) -> Result<()> {
    let kernel = [1, 1, 2, 3, 3, 3, 4, 5, 7][dice.below(9)];
    let (mut inputs, mut outputs) = (dice.size(40), dice.size(40));
    let groups = match dice.below(4) {
        0 => {
            outputs = inputs; // depthwise
            inputs
        }
        1 => {
            (inputs, outputs) = (2 * inputs, 2 * outputs);
            2
        }
        _ => 1,
    };
    let cfg = ConvConfig {
        stride: 1 + dice.below(kernel.min(3)),
        padding: dice.below(kernel / 2 + 1),
        groups,
    };
    let [h, w] = [0, 0].map(|_| kernel + dice.size(40) - 1);
    let batch = dice.size(2);
    let xs = dice.view(&[batch, inputs, h, w])?;
    let weight = dice.tensor(&[outputs, inputs / groups, kernel, kernel])?;
    let bias = dice.maybe(&[outputs])?;
    let layer = Conv2d::new(&weight, bias.clone(), cfg)?;
    let want = xs.contiguous()?;
    let want = want.conv2d(&weight, cfg.padding, cfg.stride, 1, groups)?;
    let want = add_bias(want, bias.as_ref(), 1)?;
    assert_close(&layer.forward(&xs)?, &want, TOLERANCE);
    let want = want.gelu_erf()?;
    assert_close(&layer.forward_gelu(&xs)?, &want, TOLERANCE);
    let last = |xs: &Tensor| xs.permute((0, 2, 3, 1))?.contiguous();
    let got = layer.forward_gelu_channels_last(&last(&xs)?)?;
    assert_close(&got, &last(&want)?, TOLERANCE);
    Ok(())
}

fn try_windows(dice: &mut Dice) -> Result<()> {
    let [b, h, w, c, size] = [2, 30, 30, 20, 8].map(|most| dice.size(most));
    let xs = dice.view(&[b, h, w, c])?;
    let f64 = |xs: &Tensor| xs.to_dtype(DType::F64); // takes the way of other devices
    let (windows, want) = (
        window::partition(&xs, size)?,
        window::partition(&f64(&xs)?, size)?,
    );
    assert_close(&windows, &want.to_dtype(DType::F32)?, 0.);
    assert_close(&window::merge(&windows, h, w)?, &xs, 0.);
    let residual = dice.view(&[b, h, w, c])?;
    let onto = window::merge_onto(&residual, &windows)?;
    assert_close(&onto, &(residual + xs)?, 0.);
    Ok(())
}

fn try_transposed(dice: &mut Dice) -> Result<()> {
    let [b, inputs, outputs, h, w] = [2, 60, 40, 20, 20].map(|most| dice.size(most));
    let xs = dice.view(&[b, inputs, h, w])?;
    let (weight, bias) = (
        dice.tensor(&[inputs, outputs, 2, 2])?,
        dice.tensor(&[outputs])?,
    );
    let got = ConvTranspose2x2::from_tensors(&weight, bias.clone())?.forward(&xs)?;
    let want = xs.contiguous()?.conv_transpose2d(&weight, 0, 0, 2, 1)?;
    assert_close(&got, &add_bias(want, Some(&bias), 1)?, TOLERANCE);
    Ok(())
}

fn try_attention(dice: &mut Dice) -> Result<()> {
    let [b, h, n, m, c, d] = [2, 3, 90, 600, 70, 70].map(|most| dice.size(most));
    let (q, k, v) = (
        dice.view(&[b, h, n, c])?,
        dice.view(&[b, h, m, c])?,
        dice.view(&[b, h, m, d])?,
    );
    let bias = match dice.below(4) {
        0 => Some(dice.view(&[b, h, n, m])?),
        1 => Some(dice.view(&[1, 1, 1, m])?),
        2 => Some(dice.view(&[b, 1, n, m])?),
        _ => None,
    };
    let got = sdpa(&q, &k, &v, 0.3, bias.as_ref(), Precision::Highest)?;
    let scores = q.contiguous()?.matmul(&k.t()?.contiguous()?)?;
    let scores = (scores * 0.3)?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(&bias)?,
        None => scores,
    };
    let want = softmax_last_dim(&scores.contiguous()?)?.matmul(&v.contiguous()?)?;
    assert_close(&got, &want, TOLERANCE);
    Ok(())
}

fn try_norms(dice: &mut Dice) -> Result<()> {
    let (rows, channels) = (dice.size(40), 2 * (1 + dice.size(100)));
    let (weight, bias) = (dice.tensor(&[channels])?, dice.tensor(&[channels])?);
    let tensors = [
        ("weight".to_string(), weight.clone()),
        ("bias".to_string(), bias.clone()),
    ];
    let vb = VarBuilder::from_tensors(tensors.into(), candle::DType::F32, &Device::Cpu);
    let normed = |xs: &Tensor| -> Result<Tensor> {
        let centered = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        centered.broadcast_div(&(variance + 1e-5)?.sqrt()?)
    };
    let xs = dice.view(&[rows, channels])?;
    let want = normed(&xs)?.broadcast_mul(&weight)?.broadcast_add(&bias)?;
    let layer = layer_norm(channels, 1e-5, vb.clone())?;
    assert_close(&layer.forward(&xs)?, &want, TOLERANCE);

    let (batch, pixels) = (dice.size(2), 1 + dice.size(60));
    let images = dice.view(&[batch, channels, pixels, 2])?;
    let grouped = normed(&images.contiguous()?.reshape((batch, 2, ()))?)?;
    let want = grouped
        .reshape(images.shape())?
        .broadcast_mul(&weight.reshape((1, channels, 1, 1))?)?;
    let want = add_bias(want, Some(&bias), 1)?;
    let layer = group_norm(2, channels, vb)?;
    assert_close(&layer.forward(&images)?, &want, TOLERANCE);
    Ok(())
}

#[test]
fn layers_of_any_size_equal_candles_operations() {
    let asked = std::env::var("SAM3_LAYERS").ok();
    let count = asked.map_or(TRIED, |n| n.parse().expect("SAM3_LAYERS is a number"));
    for number in 0..count {
        let mut dice = Dice(number.wrapping_mul(0x9E37_79B9));
        let (name, layer): (_, fn(&mut Dice) -> Result<()>) = match dice.below(7) {
            0 => ("linear", try_linear),
            1 | 2 => ("convolution", try_convolution),
            3 => ("transposed convolution", try_transposed),
            4 => ("attention", try_attention),
            5 => ("windows", try_windows),
            _ => ("norms", try_norms),
        };
        println!("{number}: {name}");
        layer(&mut dice).unwrap();
    }
}
