//! The memory attention of SAM 3.1, of many objects at a time.
//!
//! Follows `TransformerEncoderDecoupledCrossAttention` with the layers of
//! `DecoupledTransformerDecoderLayerv2`,
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/decoder.py#L1070>.
//!
//! Keys are sums of two projections: of what a frame remembers of its objects, and of how the frame
//! looked, which is the same for all of them.
//!
//! # Easy to get wrong
//! - Positions of memories are added to keys after the projection.
//! - The frame's features are projected as they are, without positions, for every layer alike.
//! - An object pointer has no looks, and so the bias of their projection.
//! - The activation is GELU.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::Config;
use super::memory_attention::{EPS, MemoryTokens, POSITION_SHARE, feed_forward};
use super::rotary::RotaryAttention;
use crate::nn::rope::AxialRope;
use crate::nn::{FeedForward, LayerNorm, Linear, layer_norm, linear};

/// The memory attention of SAM 3.1, `transformer.encoder`.
#[derive(Debug, Clone)]
pub struct DecoupledAttention {
    layers: Vec<Layer>,
    norm: LayerNorm,
    rotary: RotaryAttention,
}

impl DecoupledAttention {
    /// Reads `layers.*` and `norm`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let layers = (0..cfg.attention_layers).map(|i| Layer::new(cfg, vb.pp("layers").pp(i)));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            norm: layer_norm(cfg.dim, EPS, vb.pp("norm"))?,
            rotary: RotaryAttention::new(cfg, vb.device())?,
        })
    }

    /// The first self-attention, which is the same for all objects of a frame: `features`
    /// (1, n, d) with positions `pos` (1, n, d) -> (1, n, d)
    pub fn attend_frame(&self, features: &Tensor, pos: &Tensor) -> Result<Tensor> {
        let xs = (features + (pos * POSITION_SHARE)?)?;
        match self.layers.first() {
            None => Ok(xs),
            Some(layer) => layer.attend_self(&xs, &self.rotary),
        }
    }

    /// The rest: `attended` (1, n, d) from [`Self::attend_frame`] of `features` (1, n, d), and the
    /// features of the remembered frames one after the other (1, frames * n, d) -> features that know
    /// of `memory` (b, n, d)
    pub fn forward(
        &self,
        attended: &Tensor,
        features: &Tensor,
        frames: &Tensor,
        memory: &MemoryTokens,
    ) -> Result<Tensor> {
        let places = self
            .rotary
            .places(memory.tokens.dim(1)?, memory.pointer_tokens)?;
        let (_, _, d) = features.dims3()?;
        let shape = (1, memory.pointer_tokens, d);
        let no_looks = Tensor::zeros(shape, frames.dtype(), frames.device())?;
        let looks = Tensor::cat(&[frames, &no_looks], 1)?;
        let mut xs = attended.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                xs = layer.attend_self(&xs, &self.rotary)?;
            }
            xs = layer.attend_memory(&xs, [features, &looks], memory, (&self.rotary, &places))?;
        }
        xs.apply(&self.norm)
    }
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: LayerNorm,
    self_attn: [Linear; 4], // of queries, keys, values and what comes out
    norm2: LayerNorm,
    cross_attn: [Linear; 4],
    image_q: Linear,
    image_k: Linear,
    feed_forward: FeedForward,
}

impl Layer {
    fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let norm = |name| layer_norm(cfg.dim, EPS, vb.pp(name));
        let proj = |name: String| linear(cfg.dim, cfg.dim, vb.pp(name));
        let four = |attention: &str| -> Result<[Linear; 4]> {
            let proj = |part: &str| proj(format!("{attention}_{part}_proj"));
            Ok([proj("q")?, proj("k")?, proj("v")?, proj("out")?])
        };
        Ok(Self {
            norm1: norm("norm1")?,
            self_attn: four("self_attn")?,
            norm2: norm("norm2")?,
            cross_attn: four("cross_attn")?,
            image_q: proj("image_cross_attn_q_proj".into())?,
            image_k: proj("image_cross_attn_k_proj".into())?,
            feed_forward: feed_forward(cfg, &vb)?,
        })
    }

    fn attend_self(&self, xs: &Tensor, rotary: &RotaryAttention) -> Result<Tensor> {
        let normed = xs.apply(&self.norm1)?;
        let [q, k, v, out] = &self.self_attn;
        let (q, k, v) = (normed.apply(q)?, normed.apply(k)?, normed.apply(v)?);
        let attended = rotary.attend(&q, &k, &v, rotary.cells())?;
        out.forward_onto(xs, &attended)
    }

    /// `xs` (1 or b, n, d); of the image: `features` (1, n, d), and how memories looked (1, k, d)
    fn attend_memory(
        &self,
        xs: &Tensor,
        [features, looks]: [&Tensor; 2],
        memory: &MemoryTokens,
        (rotary, places): (&RotaryAttention, &AxialRope),
    ) -> Result<Tensor> {
        let [to_q, to_k, to_v, out] = &self.cross_attn;
        let q = xs.apply(&self.norm2)?.apply(to_q)?;
        let q = q.broadcast_add(&features.apply(&self.image_q)?)?;
        let shared = (looks.apply(&self.image_k)? + &memory.positions)?;
        let k = memory.tokens.apply(to_k)?.broadcast_add(&shared)?;
        let v = memory.tokens.apply(to_v)?;
        let attended = rotary.attend(&q, &k, &v, places)?;
        let xs = attended.apply(out)?.broadcast_add(xs)?;
        self.feed_forward.forward_gelu(&xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tracker::toy::multiplex;
    use crate::nn::golden::assert_close;

    #[test]
    fn equals_the_official_attention_with_one_and_more_buckets() -> Result<()> {
        let (golden, cfg) = multiplex();
        let vb = golden.weights().pp("tracker.model.transformer.encoder");
        let attention = DecoupledAttention::new(&cfg, vb)?;
        for case in ["one_frame", "three_frames", "no_pointers"] {
            let input = |part: &str| golden.tensor(&format!("in.attention.{case}.{part}"));
            let mut positions = input("memory_image_pos");
            let mut pointer_tokens = 0;
            if golden.contains(&format!("in.attention.{case}.pointer_pos")) {
                let pointers = input("pointer_pos");
                pointer_tokens = pointers.dim(1)?;
                positions = Tensor::cat(&[&positions, &pointers], 1)?;
            }
            let memory = MemoryTokens {
                tokens: input("memory"),
                positions,
                pointer_tokens,
            };
            let image = input("image");
            let attended = attention.attend_frame(&image, &input("image_pos"))?;
            let got = attention.forward(&attended, &image, &input("memory_image"), &memory)?;
            println!("{case}");
            assert_close(&got, &golden.tensor(&format!("out.attention.{case}")), 1e-5);
        }
        Ok(())
    }
}
