//! The text encoder of SAM 3: a causal CLIP transformer whose every token is kept.
//!
//! Follows `VETextEncoder`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/text_encoder_ve.py#L255>.
//!
//! The pooled projection `text_projection` is computed and thrown away there; here it is not read.

use candle::{Device, Result, Tensor};
use candle_nn::{Embedding, Module, VarBuilder, embedding};

use crate::device::upload;
use crate::nn::{FeedForward, LayerNorm, Linear, MultiHeadAttention, ScoreBias};
use crate::nn::{layer_norm, linear};

const EPS: f64 = 1e-5;

/// Sizes of the text transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Tokens per prompt, padding included.
    pub context_length: usize,
    /// Width of the transformer.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of each block's MLP.
    pub mlp_dim: usize,
    /// Width of the features that leave the resizer.
    pub output_dim: usize,
}

impl Config {
    /// The text encoder of SAM 3: 354 M parameters.
    pub fn sam3() -> Self {
        Self {
            vocab_size: 49408,
            context_length: 32,
            width: 1024,
            layers: 24,
            num_heads: 16,
            mlp_dim: 4096,
            output_dim: 256,
        }
    }
}

/// The text transformer and its projection to the detector's width.
#[derive(Debug)]
pub struct ClipText {
    token_embedding: Embedding,
    positional_embedding: Tensor, // (s, width)
    causal: Tensor,               // (1, 1, s, s), negative infinity above the diagonal
    resblocks: Vec<ResidualAttentionBlock>,
    ln_final: LayerNorm,
    resizer: Linear,
}

impl ClipText {
    /// Reads `encoder.*` and `resizer`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let encoder = vb.pp("encoder");
        let positions = (cfg.context_length, cfg.width);
        let blocks = encoder.pp("transformer.resblocks");
        Ok(Self {
            token_embedding: embedding(cfg.vocab_size, cfg.width, encoder.pp("token_embedding"))?,
            positional_embedding: encoder.get(positions, "positional_embedding")?,
            causal: causal_bias(cfg.context_length, vb.device())?.to_dtype(vb.dtype())?,
            resblocks: (0..cfg.layers)
                .map(|i| ResidualAttentionBlock::new(cfg, blocks.pp(i)))
                .collect::<Result<_>>()?,
            ln_final: layer_norm(cfg.width, EPS, encoder.pp("ln_final"))?,
            resizer: linear(cfg.width, cfg.output_dim, vb.pp("resizer"))?,
        })
    }

    /// Token ids (b, s), u32 -> features (b, s, output_dim)
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let tokens = self.token_embedding.forward(ids)?;
        let len = ids.dim(1)?;
        let positions = self.positional_embedding.narrow(0, 0, len)?;
        let causal = self.causal.narrow(2, 0, len)?.narrow(3, 0, len)?;
        let mut xs = tokens.broadcast_add(&positions)?;
        for block in &self.resblocks {
            xs = block.forward(&xs, &causal)?;
        }
        xs.apply(&self.ln_final)?.apply(&self.resizer)
    }
}

/// (1, 1, n, n), negative infinity above the diagonal.
fn causal_bias(n: usize, device: &Device) -> Result<Tensor> {
    let bias: Vec<f32> = (0..n)
        .flat_map(|row| (0..n).map(move |col| if col > row { f32::NEG_INFINITY } else { 0. }))
        .collect();
    upload(bias, (1, 1, n, n), device)
}

#[derive(Debug)]
struct ResidualAttentionBlock {
    ln_1: LayerNorm,
    attn: MultiHeadAttention,
    mlp: FeedForward,
}

impl ResidualAttentionBlock {
    fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (sizes, mlp) = ([cfg.width, cfg.mlp_dim], ["ln_2", "mlp.c_fc", "mlp.c_proj"]);
        Ok(Self {
            ln_1: layer_norm(cfg.width, EPS, vb.pp("ln_1"))?,
            attn: MultiHeadAttention::new(cfg.width, cfg.num_heads, vb.pp("attn"))?,
            mlp: FeedForward::new(sizes, EPS, mlp, &vb)?,
        })
    }

    /// (b, s, width) -> (b, s, width)
    fn forward(&self, xs: &Tensor, causal: &Tensor) -> Result<Tensor> {
        let normed = xs.apply(&self.ln_1)?;
        let causal = ScoreBias::Whole(causal);
        let xs = self
            .attn
            .forward_onto(xs, &normed, &normed, &normed, causal)?;
        self.mlp.forward_gelu(&xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_text_encoder() -> Result<()> {
        let golden = Golden::open("text_clip");
        let dims = |name: &str| golden.tensor(&format!("weights.{name}")).dims().to_vec();
        let tokens = dims("encoder.token_embedding.weight");
        let cfg = Config {
            vocab_size: tokens[0],
            context_length: dims("encoder.positional_embedding")[0],
            width: tokens[1],
            layers: golden.size("layers"),
            num_heads: golden.size("heads"),
            mlp_dim: dims("encoder.transformer.resblocks.0.mlp.c_fc.weight")[0],
            output_dim: dims("resizer.weight")[0],
        };
        let ids = golden.tensor("in.ids").to_dtype(candle::DType::U32)?;
        let got = ClipText::new(&cfg, golden.weights())?.forward(&ids)?;
        assert_close(&got, &golden.tensor("out.features"), 1e-5);
        Ok(())
    }
}
