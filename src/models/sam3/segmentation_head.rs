//! Masks of the queries, and the semantic map.
//!
//! Follows `UniversalSegmentationHead`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/maskformer_segmentation.py#L236>.

use candle::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::nn::conv::{Conv2d, ConvConfig, conv2d};
use crate::nn::sample::upsample_nearest_add;
use crate::nn::{GroupNorm, LayerNorm, Mlp, MultiHeadAttention, Precision, ScoreBias};
use crate::nn::{group_norm, layer_norm};

/// Groups of the pixel decoder's norms.
const GROUPS: usize = 8;

/// Turns memory, pyramid and queries into mask logits.
#[derive(Debug)]
pub struct SegmentationHead {
    cross_attn_norm: LayerNorm,
    cross_attend_prompt: MultiHeadAttention,
    pixel_decoder: Vec<(Conv2d, GroupNorm)>,
    instance_seg_head: (Tensor, Tensor), // (d, d), (d, 1)
    semantic_seg_head: Conv2d,
    mask_embed: Mlp,
}

impl SegmentationHead {
    /// Reads the two stages of the pixel decoder that run, and the heads. The third stage is in
    /// the checkpoints and has nothing to upsample. `layers` is the precision of what makes pixels; what
    /// makes masks of them has the current one.
    pub fn new(
        d_model: usize,
        num_heads: usize,
        layers: Precision,
        vb: VarBuilder,
    ) -> Result<Self> {
        let decoder = vb.pp("pixel_decoder");
        let stage = |i: usize| -> Result<(Conv2d, GroupNorm)> {
            let conv = decoder.pp("conv_layers").pp(i);
            let conv = conv2d(d_model, d_model, 3, ConvConfig::same(3), conv)?;
            Ok((
                conv,
                group_norm(GROUPS, d_model, decoder.pp("norms").pp(i))?,
            ))
        };
        let (pointwise, instances) = (ConvConfig::default(), vb.pp("instance_seg_head"));
        let attention = vb.pp("cross_attend_prompt");
        Ok(Self {
            cross_attn_norm: layer_norm(d_model, 1e-5, vb.pp("cross_attn_norm"))?,
            cross_attend_prompt: layers
                .scope(|| MultiHeadAttention::new(d_model, num_heads, attention))?,
            pixel_decoder: layers.scope(|| Ok::<_, candle::Error>(vec![stage(0)?, stage(1)?]))?,
            instance_seg_head: (
                instances
                    .get((d_model, d_model, 1, 1), "weight")?
                    .reshape((d_model, d_model))?,
                instances.get(d_model, "bias")?.unsqueeze(1)?,
            ),
            semantic_seg_head: conv2d(d_model, 1, 1, pointwise, vb.pp("semantic_seg_head"))?,
            mask_embed: Mlp::new(&[d_model; 4], vb.pp("mask_predictor.mask_embed"))?,
        })
    }

    /// `memory` (b, h * w, d), pyramid `fpn` from fine to coarse (1, d, …), `prompt` (b, m, d)
    /// with `padding` (b, 1, 1, m) -> pixel embedding (b, d, 4h, 4w)
    pub fn embed_pixels(
        &self,
        memory: &Tensor,
        fpn: &[Tensor; 3],
        prompt: &Tensor,
        padding: &Tensor,
    ) -> Result<Tensor> {
        let normed = self.cross_attn_norm.forward(memory)?;
        let padding = ScoreBias::Whole(padding);
        let memory = self
            .cross_attend_prompt
            .forward_onto(memory, &normed, prompt, prompt, padding)?;

        let (b, _, d) = memory.dims3()?;
        let (_, _, h, w) = fpn[2].dims4()?;
        let mut xs = memory.transpose(1, 2)?.reshape((b, d, h, w))?; // replaces the coarse level
        for ((conv, norm), level) in self.pixel_decoder.iter().zip([&fpn[1], &fpn[0]]) {
            xs = norm.forward_relu(upsample_nearest_add(&xs, level)?.apply(conv)?)?;
        }
        Ok(xs)
    }

    /// `pixels` from [`Self::embed_pixels`] (b, d, h, w), queries `hs` (b, q, d)
    /// -> mask logits (b, q, h, w)
    ///
    /// The instance head is a 1x1 convolution and a query's mask a weighted sum of its channels, so
    /// the two are multiplied first: the pixels are read once, and only for these queries.
    pub fn masks(&self, pixels: &Tensor, hs: &Tensor) -> Result<Tensor> {
        let (b, d, _, _) = pixels.dims4()?;
        let queries = hs.dim(1)?;
        let embedded = self.mask_embed.forward(hs)?; // (b, q, d)
        let (weight, bias) = &self.instance_seg_head;
        let masks = (0..b).map(|i| {
            let embedded = embedded.get(i)?;
            let weight = embedded.matmul(weight)?.reshape((queries, d, 1, 1))?;
            let bias = embedded.matmul(bias)?.squeeze(1)?;
            let conv = Conv2d::new(&weight, Some(bias), ConvConfig::default())?;
            conv.forward(&pixels.narrow(0, i, 1)?)
        });
        Tensor::cat(&masks.collect::<Result<Vec<_>>>()?, 0)
    }

    /// `pixels` (b, d, h, w) -> logits of "belongs to any instance" (b, 1, h, w)
    pub fn semantic(&self, pixels: &Tensor) -> Result<Tensor> {
        self.semantic_seg_head.forward(pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::padding_bias;
    use crate::nn::golden::{Golden, assert_close};
    use candle::DType;

    #[test]
    fn equals_the_official_segmentation_head() -> Result<()> {
        let golden = Golden::open("segmentation_head");
        let n = |key| golden.size(key);
        let head =
            SegmentationHead::new(n("d_model"), n("heads"), Precision::High, golden.weights())?;
        let fpn = [0, 1, 2].map(|level| golden.tensor(&format!("in.fpn.{level}")));
        let padding = padding_bias(&golden.tensor("in.prompt_mask"), DType::F32)?;
        let (memory, prompt) = (golden.tensor("in.memory"), golden.tensor("in.prompt"));
        let pixels = head.embed_pixels(&memory, &fpn, &prompt, &padding)?;
        assert_close(&pixels, &golden.tensor("out.pixel_embed"), 1e-5);
        let masks = head.masks(&pixels, &golden.tensor("in.hs"))?;
        assert_close(&masks, &golden.tensor("out.pred_masks"), 1e-5);
        assert_close(
            &head.semantic(&pixels)?,
            &golden.tensor("out.semantic_seg"),
            1e-5,
        );
        Ok(())
    }
}
