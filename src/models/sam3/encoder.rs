//! The fusion encoder: image tokens attend to each other and to the prompt.
//!
//! Follows `TransformerEncoderFusion`,
//! <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/encoder.py#L463>.
//!
//! Pre-norm, no norm after the last layer, and the prompt tokens are never updated.

use candle::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::nn::{FeedForward, LayerNorm, MultiHeadAttention, ScoreBias, layer_norm};

const EPS: f64 = 1e-5;

/// Sizes of a stack of transformer layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the tokens.
    pub d_model: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Number of layers.
    pub layers: usize,
    /// Hidden width of the feed-forward network.
    pub ffn_dim: usize,
}

/// The fusion encoder.
#[derive(Debug)]
pub struct Encoder {
    layers: Vec<EncoderLayer>,
}

impl Encoder {
    /// Reads `layers.*`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let layers = (0..cfg.layers)
            .map(|i| EncoderLayer::new(cfg, vb.pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// The first self-attention, before any prompt: image tokens `src` (b, n, d) with positions
    /// `pos` (1, n, d) -> (b, n, d)
    pub fn attend_image(&self, src: &Tensor, pos: &Tensor) -> Result<Tensor> {
        match self.layers.first() {
            None => Ok(src.clone()),
            Some(layer) => layer.attend_self(src, Some(pos)),
        }
    }

    /// The rest: `attended` (b, n, d) from [`Self::attend_image`], `prompt` (b, m, d) with
    /// `padding` (b, 1, 1, m), see [`crate::nn::attention::padding_bias`] -> memory (b, n, d)
    pub fn forward(
        &self,
        attended: &Tensor,
        pos: &Tensor,
        prompt: &Tensor,
        padding: &Tensor,
    ) -> Result<Tensor> {
        let mut xs = attended.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                xs = layer.attend_self(&xs, Some(pos))?;
            }
            xs = layer.attend_and_feed_forward(&xs, prompt, prompt, ScoreBias::Whole(padding))?;
        }
        Ok(xs)
    }
}

/// Self-attention, cross-attention and feed-forward, each behind a norm and with a residual.
///
/// The fusion encoder and the geometry encoder share it; they differ in where positions are added.
#[derive(Debug)]
pub struct EncoderLayer {
    norm1: LayerNorm,
    self_attn: MultiHeadAttention,
    norm2: LayerNorm,
    cross_attn_image: MultiHeadAttention,
    feed_forward: FeedForward,
}

impl EncoderLayer {
    /// Reads `self_attn`, `cross_attn_image`, `linear1/2` and `norm1/2/3`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let attention = |name| MultiHeadAttention::new(cfg.d_model, cfg.num_heads, vb.pp(name));
        let (sizes, names) = ([cfg.d_model, cfg.ffn_dim], ["norm3", "linear1", "linear2"]);
        Ok(Self {
            norm1: layer_norm(cfg.d_model, EPS, vb.pp("norm1"))?,
            self_attn: attention("self_attn")?,
            norm2: layer_norm(cfg.d_model, EPS, vb.pp("norm2"))?,
            cross_attn_image: attention("cross_attn_image")?,
            feed_forward: FeedForward::new(sizes, EPS, names, &vb)?,
        })
    }

    /// `xs` (b, n, d) attend to each other, with positions (1, n, d) on queries and keys.
    pub fn attend_self(&self, xs: &Tensor, pos: Option<&Tensor>) -> Result<Tensor> {
        let normed = self.norm1.forward(xs)?;
        let qk = match pos {
            Some(pos) => normed.broadcast_add(pos)?,
            None => normed.clone(),
        };
        self.self_attn
            .forward_onto(xs, &qk, &qk, &normed, ScoreBias::None)
    }

    /// The layer after its self-attention: `xs` (b, n, d) attends to `key` and `value` (b, m, d).
    pub fn attend_and_feed_forward(
        &self,
        xs: &Tensor,
        key: &Tensor,
        value: &Tensor,
        bias: ScoreBias,
    ) -> Result<Tensor> {
        let normed = self.norm2.forward(xs)?;
        let xs = self
            .cross_attn_image
            .forward_onto(xs, &normed, key, value, bias)?;
        self.feed_forward.forward_relu(&xs)
    }
}

#[cfg(test)]
impl Config {
    /// The sizes of a golden file.
    pub(super) fn of(golden: &crate::nn::golden::Golden) -> Self {
        Self {
            d_model: golden.size("d_model"),
            num_heads: golden.size("heads"),
            layers: golden.size("layers"),
            ffn_dim: golden.size("ffn"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::attention::padding_bias;
    use crate::nn::golden::{Golden, assert_close};
    use candle::DType;

    #[test]
    fn equals_the_official_fusion_encoder() -> Result<()> {
        let golden = Golden::open("encoder");
        let cfg = Config::of(&golden);
        let encoder = Encoder::new(&cfg, golden.weights())?;
        let (src, pos) = (golden.tokens("in.features"), golden.tokens("in.pos"));
        let padding = padding_bias(&golden.tensor("in.prompt_mask"), DType::F32)?;
        let attended = encoder.attend_image(&src, &pos)?;
        let got = encoder.forward(&attended, &pos, &golden.tensor("in.prompt"), &padding)?;
        assert_close(&got, &golden.tensor("out.memory"), 1e-5);
        Ok(())
    }
}
