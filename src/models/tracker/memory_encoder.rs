//! A frame's features and its masks become the memory that later frames attend to.
//!
//! Follows `SimpleMaskEncoder`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/memory.py#L161>, and
//! `_encode_new_memory`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L796>.
//!
//! # Easy to get wrong
//! - The features are those of the neck: neither the "no memory" embedding nor earlier memories
//!   are in them.
//! - Probabilities are scaled to ±10 before they are resized, not after.
//! - A frame without its object has an embedding of its own added to its memory.

use candle::{DType, Module, Result, Tensor};
use candle_nn::{VarBuilder, ops::sigmoid};

use super::Config;
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::sample::resize_bilinear;
use crate::nn::{LayerNorm, Linear, gelu, layer_norm, linear};

/// Of all norms here.
const EPS: f64 = 1e-6;
/// Probabilities 0 and 1 become minus and plus this.
const MAGNITUDE: f64 = 10.;
/// Channels of the mask after each halving of its side.
const MASK_CHANNELS: [usize; 5] = [1, 4, 16, 64, 256];
/// ConvNeXt blocks on the sum of features and mask.
const FUSER_LAYERS: usize = 2;

/// How mask logits become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaskProbability {
    /// 1 above 0, else 0: masks that were prompted.
    Binary,
    /// The sigmoid: masks that were tracked.
    Sigmoid,
}

/// The memory encoder, `maskmem_backbone`.
#[derive(Debug, Clone)]
pub struct MemoryEncoder {
    mask_downsampler: MaskDownsampler,
    pix_feat_proj: Linear,
    fuser: Vec<FuserBlock>,
    out_proj: Linear,
    no_object: Option<Tensor>, // (1, 1, m)
    grid: usize,
    mask_size: usize,
}

impl MemoryEncoder {
    /// Reads `maskmem_backbone` and `no_obj_embed_spatial`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, m) = (cfg.dim, cfg.memory_dim);
        let encoder = vb.pp("maskmem_backbone");
        let fuser = (0..FUSER_LAYERS)
            .map(|i| FuserBlock::new(d, encoder.pp("fuser.layers").pp(i)))
            .collect::<Result<_>>()?;
        let no_object = vb.get((1, m), "no_obj_embed_spatial")?.unsqueeze(0)?;
        Ok(Self {
            mask_downsampler: MaskDownsampler::new(d, encoder.pp("mask_downsampler.encoder"))?,
            pix_feat_proj: pointwise(d, d, encoder.pp("pix_feat_proj"))?,
            fuser,
            out_proj: pointwise(d, m, encoder.pp("out_proj"))?,
            no_object: Some(no_object),
            grid: cfg.grid,
            mask_size: cfg.mask_size(),
        })
    }

    /// `features` (1 or b, g * g, d), mask logits (b, side, side) of any side, object scores (b)
    /// in f32 -> memory (b, g * g, m)
    pub fn forward(
        &self,
        features: &Tensor,
        mask_logits: &Tensor,
        object_scores: &Tensor,
        probability: MaskProbability,
    ) -> Result<Tensor> {
        let masks = self
            .prepare(mask_logits, probability)?
            .to_dtype(features.dtype())?;
        let masks = self.mask_downsampler.forward(&masks)?; // (b, g, g, d)
        let projected = features.apply(&self.pix_feat_proj)?;
        let projected = projected.reshape(((), self.grid, self.grid, projected.dim(2)?))?;
        let mut xs = masks.broadcast_add(&projected)?;
        for block in &self.fuser {
            xs = block.forward(&xs)?;
        }
        let memory = xs.flatten(1, 2)?.apply(&self.out_proj)?;
        let Some(no_object) = &self.no_object else {
            return Ok(memory);
        };
        let is_absent = object_scores.le(0f64)?.to_dtype(memory.dtype())?;
        let is_absent = is_absent.reshape(((), 1, 1))?;
        memory.broadcast_add(&is_absent.broadcast_mul(no_object)?)
    }

    /// Logits (b, side, side) -> ±10 at the size that the convolutions expect (b, s, s, 1)
    fn prepare(&self, logits: &Tensor, probability: MaskProbability) -> Result<Tensor> {
        let probabilities = match probability {
            MaskProbability::Binary => logits.gt(0f64)?.to_dtype(DType::F32)?,
            MaskProbability::Sigmoid => sigmoid(&logits.to_dtype(DType::F32)?)?,
        };
        let scaled = probabilities.affine(2. * MAGNITUDE, -MAGNITUDE)?;
        let resized = resize_bilinear(&scaled.unsqueeze(1)?, self.mask_size)?;
        resized.permute((0, 2, 3, 1))?.contiguous()
    }
}

/// A 1x1 convolution on tokens.
fn pointwise(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get((output, input, 1, 1), "weight")?;
    Linear::new(
        &weight.reshape((output, input))?,
        Some(vb.get(output, "bias")?),
    )
}

/// Four convolutions that halve the mask's side, and one to the width of the features.
#[derive(Debug, Clone)]
struct MaskDownsampler {
    stages: Vec<(Conv2d, LayerNorm)>,
    project: Conv2d,
}

impl MaskDownsampler {
    fn new(dim: usize, vb: VarBuilder) -> Result<Self> {
        let halve = ConvConfig::same(3).with_stride(2);
        let stages = MASK_CHANNELS.windows(2).enumerate().map(|(i, channels)| {
            // convolution, norm and GELU are numbered together
            let conv = conv2d(channels[0], channels[1], 3, halve, vb.pp(3 * i))?;
            Ok((conv, layer_norm(channels[1], EPS, vb.pp(3 * i + 1))?))
        });
        let (pointwise, last) = (ConvConfig::default(), MASK_CHANNELS.len() - 1);
        Ok(Self {
            stages: stages.collect::<Result<_>>()?,
            project: conv2d(MASK_CHANNELS[last], dim, 1, pointwise, vb.pp(3 * last))?,
        })
    }
}

impl Module for MaskDownsampler {
    /// (b, 16g, 16g, 1) -> (b, g, g, d)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (conv, norm) in &self.stages {
            xs = gelu(&conv.forward_channels_last(&xs)?.apply(norm)?)?;
        }
        self.project.forward_channels_last(&xs)
    }
}

/// A ConvNeXt block.
#[derive(Debug, Clone)]
struct FuserBlock {
    dwconv: Conv2d,
    norm: LayerNorm,
    pwconv1: Linear,
    pwconv2: Linear,
    gamma: Tensor, // (d)
}

impl FuserBlock {
    fn new(dim: usize, vb: VarBuilder) -> Result<Self> {
        let depthwise = ConvConfig::same(7).with_groups(dim);
        Ok(Self {
            dwconv: conv2d(dim, dim, 7, depthwise, vb.pp("dwconv"))?,
            norm: layer_norm(dim, EPS, vb.pp("norm"))?,
            pwconv1: linear(dim, 4 * dim, vb.pp("pwconv1"))?,
            pwconv2: linear(4 * dim, dim, vb.pp("pwconv2"))?,
            gamma: vb.get(dim, "gamma")?,
        })
    }
}

impl Module for FuserBlock {
    /// (b, h, w, d) -> (b, h, w, d)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = self.dwconv.forward_channels_last(xs)?.apply(&self.norm)?;
        let ys = self.pwconv1.forward_gelu(&ys)?.apply(&self.pwconv2)?;
        xs + ys.broadcast_mul(&self.gamma)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tracker::non_overlapping;
    use crate::nn::golden::{Golden, assert_close};

    const TOLERANCE: f64 = 5e-6;

    fn maps(tokens: &Tensor, grid: usize) -> Result<Tensor> {
        let (b, _, c) = tokens.dims3()?;
        tokens.transpose(1, 2)?.reshape((b, c, grid, grid))
    }

    #[test]
    fn tracked_clicked_and_detected_masks_are_remembered_as_officially() -> Result<()> {
        let golden = Golden::open("memory_encoder");
        let grid = golden.size("grid");
        let cfg = Config {
            dim: golden.size("dim"),
            memory_dim: golden.size("memory_dim"),
            ..Config::sam3(grid, golden.size("image_size"))
        };
        let encoder = MemoryEncoder::new(&cfg, golden.weights())?;
        let (features, scores) = (
            golden.tokens("in.features"),
            golden.tensor("in.object_scores"),
        );
        let low_res = golden.tensor("in.low_res_logits");
        let at_image_size = resize_bilinear(&low_res, golden.size("image_size"))?.squeeze(1)?;
        let detected = golden.tensor("out.concept.high_res_logits").squeeze(1)?;
        use MaskProbability::{Binary, Sigmoid};
        for (case, logits, probability) in [
            ("tracked", at_image_size.clone(), Sigmoid),
            ("clicked", non_overlapping(&at_image_size)?, Binary),
            ("concept", detected, Sigmoid),
        ] {
            println!("{case}");
            let memory = encoder.forward(&features, &logits, &scores, probability)?;
            let want = golden.tensor(&format!("out.{case}.memory"));
            assert_close(&maps(&memory, grid)?, &want, TOLERANCE);
        }
        let mask = encoder.prepare(&at_image_size, Sigmoid)?;
        let embedded = encoder.mask_downsampler.forward(&mask)?;
        let channels_first = |xs: &Tensor| xs.permute((0, 3, 1, 2));
        let want = golden.tensor("out.tracked.mask_embedding");
        assert_close(&channels_first(&embedded)?, &want, TOLERANCE);
        Ok(())
    }
}
