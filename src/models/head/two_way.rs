//! The transformer between prompt tokens and image tokens, attending both ways.
//!
//! Follows `TwoWayTransformer`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/modeling/transformer.py#L16>.
//!
//! # Easy to get wrong
//! - The first self-attention has no positions and no residual.
//! - The positions of the prompt tokens are those tokens as they came in.
//! - The norms' eps is 1e-5, unlike everywhere else in SAM 1; the activation is ReLU.

use candle::{D, Result, Tensor};
use candle_nn::VarBuilder;

use super::Config;
use crate::nn::attention::merge_heads;
use crate::nn::{LayerNorm, Linear, Precision, layer_norm, linear, sdpa};

const DEPTH: usize = 2;
const EPS: f64 = 1e-5;
/// Factor by which attention between tokens and image is narrower than the tokens.
const DOWNSAMPLE_RATE: usize = 2;

/// Two layers, and a last look of the tokens at the image.
#[derive(Debug, Clone)]
pub struct TwoWayTransformer {
    layers: Vec<Layer>,
    final_attn_token_to_image: Attention,
    norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    /// Reads `layers.*`, `final_attn_token_to_image` and `norm_final_attn`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let layers = (0..DEPTH).map(|i| Layer::new(cfg, i == 0, vb.pp("layers").pp(i)));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            final_attn_token_to_image: Attention::new(
                cfg,
                DOWNSAMPLE_RATE,
                vb.pp("final_attn_token_to_image"),
            )?,
            norm_final_attn: layer_norm(cfg.dim, EPS, vb.pp("norm_final_attn"))?,
        })
    }

    /// `image` (1 or b, m, d), `image_pe` (1, m, d), `tokens` (b, n, d)
    /// -> tokens (b, n, d), image (b, m, d)
    ///
    /// Projections of the image that prompts share are computed once while its batch is 1.
    pub fn forward(
        &self,
        image: &Tensor,
        image_pe: &Tensor,
        tokens: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let token_pe = tokens;
        let (mut tokens, mut image) = (tokens.clone(), image.clone());
        for layer in &self.layers {
            (tokens, image) = layer.forward(&tokens, token_pe, &image, image_pe)?;
        }
        let q = (&tokens + token_pe)?;
        let k = image.broadcast_add(image_pe)?;
        let attended = self.final_attn_token_to_image.forward(&q, &k, &image)?;
        Ok(((tokens + attended)?.apply(&self.norm_final_attn)?, image))
    }
}

#[derive(Debug, Clone)]
struct Layer {
    self_attn: Attention,
    norm1: LayerNorm,
    cross_attn_token_to_image: Attention,
    norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
    norm3: LayerNorm,
    cross_attn_image_to_token: Attention,
    norm4: LayerNorm,
    is_first: bool,
}

impl Layer {
    fn new(cfg: &Config, is_first: bool, vb: VarBuilder) -> Result<Self> {
        let attention = |rate, name| Attention::new(cfg, rate, vb.pp(name));
        let norm = |name| layer_norm(cfg.dim, EPS, vb.pp(name));
        Ok(Self {
            self_attn: attention(1, "self_attn")?,
            norm1: norm("norm1")?,
            cross_attn_token_to_image: attention(DOWNSAMPLE_RATE, "cross_attn_token_to_image")?,
            norm2: norm("norm2")?,
            lin1: linear(cfg.dim, cfg.mlp_dim, vb.pp("mlp.lin1"))?,
            lin2: linear(cfg.mlp_dim, cfg.dim, vb.pp("mlp.lin2"))?,
            norm3: norm("norm3")?,
            cross_attn_image_to_token: attention(DOWNSAMPLE_RATE, "cross_attn_image_to_token")?,
            norm4: norm("norm4")?,
            is_first,
        })
    }

    fn forward(
        &self,
        tokens: &Tensor,
        token_pe: &Tensor,
        image: &Tensor,
        image_pe: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let tokens = if self.is_first {
            self.self_attn.forward(tokens, tokens, tokens)?
        } else {
            let q = (tokens + token_pe)?;
            (tokens + self.self_attn.forward(&q, &q, tokens)?)?
        };
        let tokens = tokens.apply(&self.norm1)?;

        let placed_image = image.broadcast_add(image_pe)?;
        let q = (&tokens + token_pe)?;
        let attended = self
            .cross_attn_token_to_image
            .forward(&q, &placed_image, image)?;
        let tokens = (tokens + attended)?.apply(&self.norm2)?;

        let hidden = self.lin1.forward_relu(&tokens)?;
        let tokens = (tokens + hidden.apply(&self.lin2)?)?.apply(&self.norm3)?;

        let k = (&tokens + token_pe)?;
        let attended = self
            .cross_attn_image_to_token
            .forward(&placed_image, &k, &tokens)?;
        let image = image.broadcast_add(&attended)?.apply(&self.norm4)?;
        Ok((tokens, image))
    }
}

/// Multi-head attention that is narrower inside.
#[derive(Debug, Clone)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    num_heads: usize,
    precision: Precision,
}

impl Attention {
    fn new(cfg: &Config, downsample_rate: usize, vb: VarBuilder) -> Result<Self> {
        let inner = cfg.dim / downsample_rate;
        Ok(Self {
            q_proj: linear(cfg.dim, inner, vb.pp("q_proj"))?,
            k_proj: linear(cfg.dim, inner, vb.pp("k_proj"))?,
            v_proj: linear(cfg.dim, inner, vb.pp("v_proj"))?,
            out_proj: linear(inner, cfg.dim, vb.pp("out_proj"))?,
            num_heads: cfg.num_heads,
            precision: Precision::current(),
        })
    }

    /// `q` (b, n, d), `k` and `v` (b, m, d) -> (b, n, d); a batch of 1 on either side is shared.
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let ((b, n, d), prompts) = (q.dims3()?, k.dim(0)?);
        if prompts == 1 && b > 1 {
            // Queries do not see each other: those of all prompts are one long list.
            let all = self.forward(&q.reshape((1, b * n, d))?, k, v)?;
            return all.reshape((b, n, d));
        }
        let q = self.split_heads(&q.apply(&self.q_proj)?)?;
        let k = self.split_heads(&k.apply(&self.k_proj)?)?;
        let v = self.split_heads(&v.apply(&self.v_proj)?)?;
        let (_, h, n, c) = q.dims4()?;
        let q = q.broadcast_as((prompts, h, n, c))?;
        let scale = (q.dim(D::Minus1)? as f64).powf(-0.5);
        let attended = sdpa(&q, &k, &v, scale, None, self.precision)?;
        merge_heads(&attended)?.apply(&self.out_proj)
    }

    /// (b, n, h * c) -> (b, h, n, c)
    fn split_heads(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, n, dim) = xs.dims3()?;
        xs.reshape((b, n, self.num_heads, dim / self.num_heads))?
            .transpose(1, 2)?
            .contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_transformer_with_a_shared_and_an_own_image() -> Result<()> {
        let golden = Golden::open("sam_two_way");
        let transformer = TwoWayTransformer::new(&Config::of(&golden), golden.weights())?;
        let (pe, tokens) = (golden.tensor("in.image_pe"), golden.tensor("in.tokens"));
        for case in ["shared", "own"] {
            let image = golden.tensor(&format!("in.{case}.image"));
            let (hs, image) = transformer.forward(&image, &pe, &tokens)?;
            assert_close(&hs, &golden.tensor(&format!("out.{case}.tokens")), 2e-6);
            assert_close(&image, &golden.tensor(&format!("out.{case}.image")), 2e-6);
        }
        Ok(())
    }
}
