//! Transposed convolutions with kernel 2 and stride 2.

use candle::{Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::conv::{Conv2d, ConvConfig, get_f64, loaded};
use super::kernels::epilogue::Activation;
use super::linear::Linear;
use super::sample::resize_bilinear;
use super::{activate, cpu_slice, on_cpu_in_f32, on_host};

/// A transposed convolution with kernel 2 and stride 2: (b, in, h, w) -> (b, out, 2h, 2w).
///
/// The windows do not overlap, so it is one product of matrices and a shuffle of pixels.
#[derive(Debug, Clone)]
pub struct ConvTranspose2x2 {
    /// To 4 * out channels, ordered (row in window, column in window, out).
    product: Conv2d,
    /// (out)
    bias: Tensor,
}

impl ConvTranspose2x2 {
    /// Reads `weight` (in, out, 2, 2) and `bias` (out).
    pub fn new(in_channels: usize, out_channels: usize, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get((in_channels, out_channels, 2, 2), "weight")?;
        Self::from_tensors(&weight, vb.get(out_channels, "bias")?)
    }

    /// Reads a transposed convolution (in to middle) at `vb` and the 1x1 convolution (middle to
    /// out) that follows it at `next`, both with bias, as one: nothing comes between them.
    pub fn with_pointwise(
        [in_channels, middle, out_channels]: [usize; 3],
        vb: VarBuilder,
        next: VarBuilder,
    ) -> Result<Self> {
        let weight = get_f64((in_channels, middle, 2, 2), "weight", &vb)?;
        let bias = get_f64(middle, "bias", &vb)?.unsqueeze(1)?;
        let pointwise = get_f64((out_channels, middle, 1, 1), "weight", &next)?;
        let pointwise = pointwise.reshape((out_channels, middle))?;
        let taps = weight
            .permute((1, 0, 2, 3))?
            .reshape((middle, in_channels * 4))?;
        let weight = pointwise
            .matmul(&taps)?
            .reshape((out_channels, in_channels, 2, 2))?
            .permute((1, 0, 2, 3))?;
        let bias = pointwise.matmul(&bias)?.squeeze(1)?;
        let bias = (bias + get_f64(out_channels, "bias", &next)?)?;
        Self::from_tensors(&loaded(&weight, &vb)?, loaded(&bias, &vb)?)
    }

    /// From a `weight` (in, out, 2, 2) and a `bias` (out).
    pub fn from_tensors(weight: &Tensor, bias: Tensor) -> Result<Self> {
        let (in_channels, out_channels, _, _) = weight.dims4()?;
        let weight =
            weight
                .permute((2, 3, 1, 0))?
                .reshape((4 * out_channels, in_channels, 1, 1))?;
        Ok(Self {
            product: Conv2d::new(&weight, None, ConvConfig::default())?,
            bias,
        })
    }
}

/// [`ConvTranspose2x2`] for tokens, the four pixels of each left where they are, rows first: a
/// linear layer (…, in) -> (…, 4 * out).
pub fn conv_transpose2x2_tokens(
    in_channels: usize,
    out_channels: usize,
    vb: VarBuilder,
) -> Result<Linear> {
    let weight = vb.get((in_channels, out_channels, 2, 2), "weight")?;
    let weight = weight
        .permute((2, 3, 1, 0))?
        .reshape((4 * out_channels, in_channels))?;
    Linear::new(&weight, Some(vb.get(out_channels, "bias")?.repeat(4)?))
}

impl ConvTranspose2x2 {
    /// What the layer makes of `xs` resized to `side`: (b, in, h, w) -> (b, out, 2 side, 2 side)
    ///
    /// The layer maps each pixel by itself, so it runs before the resize, on the smaller map.
    pub fn forward_resized(&self, xs: &Tensor, side: usize) -> Result<Tensor> {
        self.interleave(&self.product_resized(xs, side)?, Activation::Identity)
    }

    /// [`Self::forward_resized`], then GELU with the error function.
    pub fn forward_resized_gelu(&self, xs: &Tensor, side: usize) -> Result<Tensor> {
        self.interleave(&self.product_resized(xs, side)?, Activation::Gelu)
    }

    fn product_resized(&self, xs: &Tensor, side: usize) -> Result<Tensor> {
        resize_bilinear(&self.product.forward(xs)?, side)
    }

    /// The four pixels of each window, (b, 4 * out, h, w), to their places, plus bias, through
    /// `activation`: (b, out, 2h, 2w)
    fn interleave(&self, ys: &Tensor, activation: Activation) -> Result<Tensor> {
        let (b, _, h, w) = ys.dims4()?;
        let out = self.bias.dim(0)?;
        if on_cpu_in_f32(ys) {
            return interleave(ys, &self.bias, activation, (b, out, h, w));
        }
        let ys = ys
            .reshape((b, 2, 2, out, h, w))?
            .permute((0, 3, 4, 1, 5, 2))?
            .reshape((b, out, 2 * h, 2 * w))?
            .broadcast_add(&self.bias.reshape((1, out, 1, 1))?)?;
        activate(&ys, activation)
    }
}

impl Module for ConvTranspose2x2 {
    /// (b, in, h, w) -> (b, out, 2h, 2w)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.interleave(&self.product.forward(xs)?, Activation::Identity)
    }
}

/// The shuffle of [`ConvTranspose2x2`] on the CPU: (b, 2 * 2 * c, h * w) -> (b, c, 2h, 2w)
fn interleave(
    ys: &Tensor,
    bias: &Tensor,
    activation: Activation,
    (b, c, h, w): (usize, usize, usize, usize),
) -> Result<Tensor> {
    let bias = on_host::<f32>(bias)?;
    let (storage, layout) = ys.storage_and_layout();
    let ys = cpu_slice(&storage, layout)?;
    let mut out = vec![0f32; b * c * 4 * h * w];
    out.par_chunks_mut((4 * h * w).max(1))
        .enumerate()
        .for_each(|(plane, out)| {
            let (batch, channel) = (plane / c, plane % c);
            let bias = bias[channel];
            for (row, out) in out.chunks_exact_mut(2 * w).enumerate() {
                let (y, i) = (row / 2, row % 2);
                let line = |j| {
                    let start = (((batch * 2 + i) * 2 + j) * c + channel) * h * w + y * w;
                    &ys[start..start + w]
                };
                for ((pair, left), right) in out.chunks_exact_mut(2).zip(line(0)).zip(line(1)) {
                    pair[0] = left + bias;
                    pair[1] = right + bias;
                }
                activation.apply(out);
            }
        });
    Tensor::from_vec(out, (b, c, 2 * h, 2 * w), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::assert_close;

    #[test]
    fn a_1x1_convolution_behind_it_is_one_layer_with_it() -> Result<()> {
        let dev = &Device::Cpu;
        let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, dev);
        let tensors = [
            ("up.weight".to_string(), random(&[6, 5, 2, 2])?),
            ("up.bias".to_string(), random(&[5])?),
            ("next.weight".to_string(), random(&[3, 5, 1, 1])?),
            ("next.bias".to_string(), random(&[3])?),
        ];
        let vb = VarBuilder::from_tensors(tensors.into(), candle::DType::F32, dev);
        let next = super::super::conv::conv2d(5, 3, 1, ConvConfig::default(), vb.pp("next"))?;
        let xs = random(&[2, 6, 5, 7])?;
        let want = next.forward(&ConvTranspose2x2::new(6, 5, vb.pp("up"))?.forward(&xs)?)?;
        let both = ConvTranspose2x2::with_pointwise([6, 5, 3], vb.pp("up"), vb.pp("next"))?;
        assert_close(&both.forward(&xs)?, &want, 1e-6);
        Ok(())
    }

    #[test]
    fn maps_and_tokens_equal_candles() -> Result<()> {
        let dev = &Device::Cpu;
        let weight = Tensor::randn(0f32, 1., (6, 4, 2, 2), dev)?;
        let bias = Tensor::randn(0f32, 1., 4, dev)?;
        let xs = Tensor::randn(0f32, 1., (2, 6, 5, 7), dev)?;
        let want = xs.conv_transpose2d(&weight, 0, 0, 2, 1)?;
        let want = want.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
        let got = ConvTranspose2x2::from_tensors(&weight, bias.clone())?.forward(&xs)?;
        assert_close(&got, &want, 1e-6);

        let layer = ConvTranspose2x2::from_tensors(&weight, bias.clone())?;
        let gelu = layer.forward_resized_gelu(&resize_bilinear(&xs, 7)?, 7)?;
        let resized_after = layer.forward_resized_gelu(&xs, 7)?;
        assert_close(&gelu, &resized_after, 1e-6);

        let tensors = [("weight".to_string(), weight), ("bias".to_string(), bias)].into();
        let vb = VarBuilder::from_tensors(tensors, candle::DType::F32, dev);
        let tokens = xs.flatten_from(2)?.transpose(1, 2)?; // (b, h * w, 6)
        let got = conv_transpose2x2_tokens(6, 4, vb)?.forward(&tokens)?; // (b, h * w, 4 * 4)
        let got = got
            .reshape((2, 5, 7, 2, 2, 4))?
            .permute((0, 5, 1, 3, 2, 4))?
            .reshape((2, 4, 10, 14))?;
        assert_close(&got, &want, 1e-6);
        Ok(())
    }
}
