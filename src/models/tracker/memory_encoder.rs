//! A frame's features and its masks become the memory that later frames attend to.
//!
//! Follows `SimpleMaskEncoder`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/memory.py#L161>, and
//! `_encode_new_memory`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/sam3_tracker_base.py#L796>; for
//! SAM 3.1 the same function of
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/video_tracking_multiplex.py#L1649>,
//! where a memory is that of a bucket of objects, each with a channel of its own.
//!
//! # Easy to get wrong
//! - The features are those of the neck: neither the "no memory" embedding nor earlier memories
//!   are in them.
//! - Probabilities are scaled to ±10 before they are resized, not after; in SAM 3.1 to ±1.
//! - A frame without its object has an embedding of its own added to its memory. In SAM 3.1 the
//!   embeddings of slots without an object are added as well, and their channels are 0.

use candle::{DType, Module, Result, Tensor};
use candle_nn::{VarBuilder, ops::sigmoid};

use super::{Config, Slots};
use crate::device::upload;
use crate::models::head::prompt_encoder::MaskDownscaling;
use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::sample::resize_bilinear;
use crate::nn::{LayerNorm, Linear, layer_norm, linear};

/// Of all norms here.
const EPS: f64 = 1e-6;
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

/// The masks by which a frame is remembered.
#[derive(Debug, Clone, Copy)]
pub struct MemoryMasks<'a> {
    /// Logits (n, side, side) of any side.
    pub logits: &'a Tensor,
    /// How they become probabilities.
    pub probability: MaskProbability,
    /// Logit of "the object is there" of each object.
    pub object_scores: &'a [f32],
    /// The slots of the objects.
    pub slots: &'a Slots,
    /// Whether each object was prompted on the frame; only SAM 3.1 looks at it.
    pub prompted: &'a [bool],
}

/// The memory encoder, `maskmem_backbone`.
#[derive(Debug, Clone)]
pub struct MemoryEncoder {
    mask_downsampler: MaskDownscaling,
    pix_feat_proj: Linear,
    fuser: Vec<FuserBlock>,
    out_proj: Option<Linear>,
    no_object: Tensor, // (slots, m)
    grid: usize,
    mask_size: usize,
    /// Probabilities 0 and 1 become minus and plus this.
    magnitude: f64,
}

impl MemoryEncoder {
    /// Reads `maskmem_backbone` and `no_obj_embed_spatial`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (d, m) = (cfg.dim, cfg.memory_dim);
        let encoder = vb.pp("maskmem_backbone");
        let fuser = (0..FUSER_LAYERS)
            .map(|i| FuserBlock::new(d, encoder.pp("fuser.layers").pp(i)))
            .collect::<Result<_>>()?;
        let out_proj = || pointwise(d, m, encoder.pp("out_proj"));
        let halve = (3, ConvConfig::same(3).with_stride(2));
        let downsampler = encoder.pp("mask_downsampler.encoder");
        Ok(Self {
            mask_downsampler: MaskDownscaling::new(&cfg.mask_channels, d, halve, downsampler)?,
            pix_feat_proj: pointwise(d, d, encoder.pp("pix_feat_proj"))?,
            fuser,
            out_proj: (d != m).then(out_proj).transpose()?,
            no_object: vb.get((cfg.slots, m), "no_obj_embed_spatial")?,
            grid: cfg.grid,
            mask_size: cfg.mask_size(),
            magnitude: cfg.mask_magnitude,
        })
    }

    /// `features` (1, g * g, d) -> memory (buckets, g * g, m)
    ///
    /// # Errors
    /// For tensors of another shape, and more or fewer masks than objects have slots.
    pub fn forward(&self, features: &Tensor, masks: &MemoryMasks) -> Result<Tensor> {
        let planes = self.planes(masks)?.to_dtype(features.dtype())?;
        let embedded = self.mask_downsampler.forward(&planes)?; // (buckets, g, g, d)
        let projected = features.apply(&self.pix_feat_proj)?;
        let projected = projected.reshape(((), self.grid, self.grid, projected.dim(2)?))?;
        let mut xs = embedded.broadcast_add(&projected)?;
        for block in &self.fuser {
            xs = block.forward(&xs)?;
        }
        let memory = xs.flatten(1, 2)?;
        let memory = match &self.out_proj {
            Some(out_proj) => memory.apply(out_proj)?,
            None => memory,
        };
        memory.broadcast_add(&self.absence(masks)?)
    }

    /// What the slots without a visible object add to the memory of each bucket (buckets, 1, m)
    fn absence(&self, masks: &MemoryMasks) -> Result<Tensor> {
        let slots = masks.slots;
        let mut is_absent = vec![1f32; slots.buckets() * slots.width()];
        for (object, score) in masks.object_scores.iter().enumerate() {
            is_absent[slots.row(object)] = f32::from(*score <= 0.);
        }
        let shape = (slots.buckets(), slots.width());
        let is_absent = upload(is_absent, shape, self.no_object.device())?;
        let is_absent = is_absent.to_dtype(self.no_object.dtype())?;
        is_absent.matmul(&self.no_object)?.unsqueeze(1)
    }

    /// The channels that the convolutions take (buckets, s, s, c): of each slot its mask, and where
    /// there is more than one, of each slot whether its object was prompted.
    fn planes(&self, masks: &MemoryMasks) -> Result<Tensor> {
        let resized = self.prepare(masks.logits, masks.probability)?; // (n, s, s)
        let (slots, (n, s, _)) = (masks.slots, resized.dims3()?);
        if n != masks.object_scores.len() || n != masks.prompted.len() {
            candle::bail!("{n} masks of {} objects", masks.object_scores.len());
        }
        if slots.width() == 1 {
            return resized.unsqueeze(3);
        }
        let filled = slots.fill(&resized)?;
        let filled = filled.reshape((slots.buckets(), slots.width(), s, s))?;
        let mut is_prompted = vec![0f32; slots.buckets() * slots.width()];
        for (object, prompted) in masks.prompted.iter().enumerate() {
            is_prompted[slots.row(object)] = f32::from(*prompted);
        }
        let shape = (slots.buckets(), slots.width(), 1, 1);
        let is_prompted = upload(is_prompted, shape, filled.device())?;
        let is_prompted = is_prompted.broadcast_as(filled.shape())?;
        let planes = Tensor::cat(&[&filled, &is_prompted], 1)?;
        planes.permute((0, 2, 3, 1))?.contiguous()
    }

    /// Logits (n, side, side) -> scaled probabilities at the size that the convolutions expect
    /// (n, s, s)
    fn prepare(&self, logits: &Tensor, probability: MaskProbability) -> Result<Tensor> {
        let probabilities = match probability {
            MaskProbability::Binary => logits.gt(0f64)?.to_dtype(DType::F32)?,
            MaskProbability::Sigmoid => sigmoid(&logits.to_dtype(DType::F32)?)?,
        };
        let scaled = probabilities.affine(2. * self.magnitude, -self.magnitude)?;
        resize_bilinear(&scaled.unsqueeze(1)?, self.mask_size)?.squeeze(1)
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
    use crate::models::tracker::{non_overlapping, toy::multiplex};
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
        let features = golden.tokens("in.features");
        let scores = golden.tensor("in.object_scores").to_vec1::<f32>()?;
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
            let masks = MemoryMasks {
                logits: &logits,
                probability,
                object_scores: &scores,
                slots: &Slots::of(1, scores.len()),
                prompted: &vec![false; scores.len()],
            };
            let memory = encoder.forward(&features, &masks)?;
            let want = golden.tensor(&format!("out.{case}.memory"));
            assert_close(&maps(&memory, grid)?, &want, TOLERANCE);
        }
        let mask = encoder.prepare(&at_image_size, Sigmoid)?.unsqueeze(3)?;
        let embedded = encoder.mask_downsampler.forward(&mask)?;
        let channels_first = |xs: &Tensor| xs.permute((0, 3, 1, 2));
        let want = golden.tensor("out.tracked.mask_embedding");
        assert_close(&channels_first(&embedded)?, &want, TOLERANCE);
        Ok(())
    }

    #[test]
    fn a_bucket_is_remembered_as_officially_and_a_second_one_beside_it() -> Result<()> {
        let (golden, cfg) = multiplex();
        let encoder = MemoryEncoder::new(&cfg, golden.weights().pp("tracker.model"))?;
        for objects in [1, 19] {
            let input = |part: &str| golden.tensor(&format!("in.memory.{objects}.{part}"));
            let logits = match objects {
                1 => input("logits"),
                _ => resize_bilinear(&input("logits"), cfg.image_size)?,
            };
            let scores = input("scores").flatten_all()?.to_vec1::<f32>()?;
            let is_prompted = |object: usize| objects > 1 && [0, 3].contains(&object);
            let masks = MemoryMasks {
                logits: &logits.squeeze(1)?,
                probability: MaskProbability::Sigmoid,
                object_scores: &scores,
                slots: &Slots::of(cfg.slots, objects),
                prompted: &(0..objects).map(is_prompted).collect::<Vec<_>>(),
            };
            let features = golden.tokens(&format!("in.memory.{objects}.features"));
            let memory = encoder.forward(&features, &masks)?;
            let want = golden.tensor(&format!("out.memory.{objects}"));
            println!("{objects} objects");
            assert_close(&maps(&memory, cfg.grid)?, &want, 1e-5);
        }
        Ok(())
    }
}
