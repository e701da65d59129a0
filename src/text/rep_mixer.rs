//! The convolutional block that MobileCLIP-S0 puts before and after its transformer.
//!
//! Training-time branches are folded into one depthwise convolution when the weights are read.

use candle::{Device, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::nn::Linear;
use crate::nn::conv::{batch_norm, depthwise_conv1d, get_f64, loaded};

const KERNEL: usize = 11;

/// Token mixing by a depthwise convolution along the sequence, then a convolutional feed-forward.
///
/// Follows `RepMixerBlock`,
/// <https://github.com/SimonZeng7108/efficientsam3/blob/c1f0b02/sam3/sam3/backbones/mobile_clip.py>.
#[derive(Debug)]
pub struct RepMixerBlock {
    mixer: Depthwise,
    ffn_conv: Depthwise,
    fc1: Linear,
    fc2: Linear,
}

impl RepMixerBlock {
    /// Reads `token_mixer.*`, `convffn.*` and `layer_scale`.
    pub fn new(width: usize, vb: VarBuilder) -> Result<Self> {
        let ffn = vb.pp("convffn");
        let (fc1, fc2) = (ffn.pp("fc1"), ffn.pp("fc2"));
        let w1 = fc1
            .get((4 * width, width, 1, 1), "weight")?
            .reshape((4 * width, width))?;
        let b1 = fc1.get(4 * width, "bias")?;
        let scale = get_f64((width, 1, 1), "layer_scale", &vb)?.reshape((width, 1))?;
        let w2 = get_f64((width, 4 * width, 1, 1), "weight", &fc2)?.reshape((width, 4 * width))?;
        let w2 = loaded(&w2.broadcast_mul(&scale)?, &vb)?;
        let b2 = loaded(&(get_f64(width, "bias", &fc2)? * scale.squeeze(1)?)?, &vb)?;
        Ok(Self {
            mixer: Depthwise::token_mixer(width, vb.pp("token_mixer"))?,
            ffn_conv: Depthwise::conv_bn(width, ffn.pp("conv.conv"), ffn.pp("conv.bn"))?,
            fc1: Linear::new(&w1, Some(b1))?,
            fc2: Linear::new(&w2, Some(b2))?,
        })
    }
}

impl Module for RepMixerBlock {
    /// (b, s, width) -> (b, s, width)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.mixer.forward(&xs.transpose(1, 2)?.contiguous()?)?; // (b, width, s)
        let hidden = self.ffn_conv.forward(&xs)?.transpose(1, 2)?.contiguous()?;
        let hidden = self.fc1.forward_gelu(&hidden)?.apply(&self.fc2)?;
        xs.transpose(1, 2)? + hidden
    }
}

/// A depthwise convolution along the sequence.
#[derive(Debug)]
struct Depthwise {
    weight: Tensor, // (c, 1, k)
    bias: Tensor,   // (c)
}

impl Depthwise {
    fn conv_bn(width: usize, conv: VarBuilder, bn: VarBuilder) -> Result<Self> {
        let (weight, bias) = folded_conv(width, &conv, bn)?;
        Ok(Self {
            weight: loaded(&weight, &conv)?,
            bias: loaded(&bias, &conv)?,
        })
    }

    /// Folds `x + ls * (conv_bn(x) + skip_bn(x) - norm_bn(x))`.
    fn token_mixer(width: usize, vb: VarBuilder) -> Result<Self> {
        let mixer = vb.pp("mixer");
        let conv_bn = mixer.pp("rbr_conv.0");
        let (weight, bias) = folded_conv(width, &conv_bn.pp("conv"), conv_bn.pp("bn"))?;
        let skip = batch_norm(width, mixer.pp("rbr_skip"))?;
        let norm = batch_norm(width, vb.pp("norm.rbr_skip"))?;
        let scale = get_f64((width, 1, 1), "layer_scale", &vb)?;
        let centre = ((skip.scale - norm.scale)?.reshape((width, 1, 1))? * &scale)? + 1.;
        let identity: Vec<f64> = (0..KERNEL).map(|i| f64::from(i == KERNEL / 2)).collect();
        let identity = Tensor::new(identity, &Device::Cpu)?;
        let weight = (weight.broadcast_mul(&scale)? + centre?.broadcast_mul(&identity)?)?;
        let bias = (((bias + skip.shift)? - norm.shift)? * scale.flatten_all()?)?;
        Ok(Self {
            weight: loaded(&weight, &vb)?,
            bias: loaded(&bias, &vb)?,
        })
    }

    /// (b, c, s) -> (b, c, s)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        depthwise_conv1d(xs, &self.weight, Some(&self.bias), KERNEL / 2)
    }
}

/// A depthwise convolution with the norm after it: weight (c, 1, k) and bias (c), f64.
fn folded_conv(width: usize, conv: &VarBuilder, bn: VarBuilder) -> Result<(Tensor, Tensor)> {
    let weight = get_f64((width, 1, 1, KERNEL), "weight", conv)?.reshape((width, 1, KERNEL))?;
    batch_norm(width, bn)?.fold(&weight, None)
}
