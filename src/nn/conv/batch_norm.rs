//! BatchNorm, folded into the convolution before it when the weights are loaded.

use candle::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::{Conv2d, ConvConfig, int8_rows};
use crate::nn::int8::Int8Rows;
use crate::nn::linear::Linear;

/// Added to the running variance; PyTorch's default, which every model here keeps.
const BATCH_NORM_EPS: f64 = 1e-5;

/// A convolution without bias at `conv_vb` and the BatchNorm after it at `bn_vb`, as one convolution.
pub fn conv2d_bn(
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    cfg: ConvConfig,
    conv_vb: VarBuilder,
    bn_vb: VarBuilder,
) -> Result<Conv2d> {
    if let Some(rows) = int8_rows(in_channels, out_channels, kernel, cfg, &conv_vb)? {
        let norm = batch_norm(out_channels, bn_vb)?;
        let bias = loaded(&norm.shift, &conv_vb)?;
        return Conv2d::from_int8(&rows.scaled(&norm.scale)?, Some(bias));
    }
    let shape = (out_channels, in_channels / cfg.groups, kernel, kernel);
    let weight = get_f64(shape, "weight", &conv_vb)?;
    let (weight, bias) = batch_norm(out_channels, bn_vb)?.fold(&weight, None)?;
    Conv2d::from_folded(&weight, &bias, cfg, &conv_vb)
}

/// A 1x1 convolution without bias at `conv_vb` and the BatchNorm after it, for tokens: a linear
/// layer (…, in) -> (…, out).
pub fn pointwise_bn(
    in_channels: usize,
    out_channels: usize,
    conv_vb: VarBuilder,
    bn_vb: VarBuilder,
) -> Result<Linear> {
    let shape = [out_channels, in_channels, 1, 1];
    if let Some(rows) = Int8Rows::read(&shape, "weight", &conv_vb)? {
        let norm = batch_norm(out_channels, bn_vb)?;
        let bias = loaded(&norm.shift, &conv_vb)?;
        return Linear::from_int8(&rows.scaled(&norm.scale)?, Some(bias));
    }
    let weight = get_f64(&shape, "weight", &conv_vb)?;
    let (weight, bias) = batch_norm(out_channels, bn_vb)?.fold(&weight, None)?;
    let weight = loaded(&weight.reshape((out_channels, in_channels))?, &conv_vb)?;
    Linear::new(&weight, Some(loaded(&bias, &conv_vb)?))
}

/// BatchNorm at inference: `x * scale + shift` per channel, in f64 on the CPU.
///
/// Only for folding into a neighbour while loading. Double precision and the CPU, because the
/// fold must come before any cast to half precision and not every device has f64.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// (c)
    pub scale: Tensor,
    /// (c)
    pub shift: Tensor,
}

impl BatchNorm {
    /// Folds this norm into the convolution before it.
    ///
    /// `weight` (c, ..) and `bias` (c) are f64 on the CPU; returns the new weight and bias.
    pub fn fold(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let mut per_channel = vec![1; weight.rank()];
        per_channel[0] = weight.dim(0)?;
        let weight = weight.broadcast_mul(&self.scale.reshape(per_channel)?)?;
        let bias = match bias {
            Some(bias) => ((bias * &self.scale)? + &self.shift)?,
            None => self.shift.clone(),
        };
        Ok((weight, bias))
    }
}

/// Reads a BatchNorm: `weight`, `bias`, `running_mean`, `running_var`, each (channels).
pub fn batch_norm(channels: usize, vb: VarBuilder) -> Result<BatchNorm> {
    let get = |name| get_f64(channels, name, &vb);
    let deviation = (get("running_var")? + BATCH_NORM_EPS)?.sqrt()?;
    let scale = (get("weight")? / deviation)?;
    let shift = (get("bias")? - (get("running_mean")? * &scale)?)?;
    Ok(BatchNorm { scale, shift })
}

impl Conv2d {
    /// A convolution from a weight and bias just folded, in the type and on the device of `vb`.
    pub fn from_folded(
        weight: &Tensor,
        bias: &Tensor,
        cfg: ConvConfig,
        vb: &VarBuilder,
    ) -> Result<Self> {
        Self::new(&loaded(weight, vb)?, Some(loaded(bias, vb)?), cfg)
    }
}

/// Reads a tensor for folding: f64 on the CPU, from the file's values before any cast.
pub fn get_f64<S: Into<candle::Shape>>(shape: S, name: &str, vb: &VarBuilder) -> Result<Tensor> {
    vb.get_with_hints_dtype(shape, name, Default::default(), DType::F32)?
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)
}

/// A folded tensor in the type and on the device of a model.
pub fn loaded(folded: &Tensor, vb: &VarBuilder) -> Result<Tensor> {
    folded
        .to_dtype(DType::F32)?
        .to_dtype(vb.dtype())?
        .to_device(vb.device())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle::{Module, ModuleT};

    use super::super::conv2d_no_bias;
    use super::super::tests::{assert_equal, random};
    use super::*;

    #[test]
    fn a_folded_batch_norm_equals_the_norm_after_the_convolution() {
        let tensors = HashMap::from([
            ("c.weight".to_string(), random(&[4, 6, 3, 3])),
            ("bn.weight".to_string(), random(&[4])),
            ("bn.bias".to_string(), random(&[4])),
            ("bn.running_mean".to_string(), random(&[4])),
            ("bn.running_var".to_string(), random(&[4]).sqr().unwrap()),
        ]);
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let cfg = ConvConfig::same(3);
        let folded = conv2d_bn(6, 4, 3, cfg, vb.pp("c"), vb.pp("bn")).unwrap();
        let conv = conv2d_no_bias(6, 4, 3, cfg, vb.pp("c")).unwrap();
        let norm = candle_nn::batch_norm(4, BATCH_NORM_EPS, vb.pp("bn")).unwrap();
        let xs = random(&[1, 6, 9, 9]);
        let want = norm.forward_t(&conv.forward(&xs).unwrap(), false).unwrap();
        assert_equal(&folded.forward(&xs).unwrap(), &want);
    }
}
