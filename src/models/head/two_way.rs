//! The transformer between prompt tokens and image tokens, attending both ways.
//!
//! Follows `TwoWayTransformer`,
//! <https://github.com/facebookresearch/segment-anything/blob/dca509f/segment_anything/modeling/transformer.py#L16>.
//!
//! What the first layer projects of the image does not depend on the points of a prompt and is kept
//! with it, [`PreparedImage`]. On the CPU nothing else of the image is projected at all, see
//! `nn::attention::few_tokens`.
//!
//! # Easy to get wrong
//! - The first self-attention has no positions and no residual.
//! - The positions of the prompt tokens are those tokens as they came in.
//! - The norms' eps is 1e-5, unlike everywhere else in SAM 1; the activation is ReLU.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::Config;
use super::cross_attention::{Attention, ImageToToken, TokenToImage};
use crate::nn::attention::few_tokens::Pass;
use crate::nn::{LayerNorm, Linear, layer_norm, linear, on_cpu_in_f32};

const DEPTH: usize = 2;
const EPS: f64 = 1e-5;
/// From this many tokens on, asking each image token for all of them costs more than projecting the
/// image once.
const MANY_TOKENS: usize = 48;

/// Image tokens, and what the first layer makes of them whatever the prompt.
#[derive(Debug, Clone)]
pub struct PreparedImage {
    /// (1 or b, m, d)
    image: Tensor,
    /// Of the tokens' attention to the image (1 or b, m, inner).
    keys: Tensor,
    values: Tensor,
    /// Of the image's attention to the tokens (1 or b, m, inner).
    queries: Tensor,
}

impl PreparedImage {
    /// Memory that it keeps, in bytes.
    pub fn bytes(&self) -> usize {
        let tensors = [&self.image, &self.keys, &self.values, &self.queries];
        let bytes = |xs: &Tensor| xs.elem_count() * xs.dtype().size_in_bytes();
        tensors.into_iter().map(bytes).sum()
    }
}

/// Two layers, and a last look of the tokens at the image.
#[derive(Debug, Clone)]
pub struct TwoWayTransformer {
    layers: [Layer; DEPTH],
    final_attn_token_to_image: TokenToImage,
    norm_final_attn: LayerNorm,
}

impl TwoWayTransformer {
    /// Reads `layers.*`, `final_attn_token_to_image` and `norm_final_attn`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let layer = |i: usize| Layer::new(cfg, i == 0, vb.pp("layers").pp(i));
        Ok(Self {
            layers: [layer(0)?, layer(1)?],
            final_attn_token_to_image: TokenToImage::new(cfg, vb.pp("final_attn_token_to_image"))?,
            norm_final_attn: layer_norm(cfg.dim, EPS, vb.pp("norm_final_attn"))?,
        })
    }

    /// `image` (1 or b, m, d), `image_pe` (1, m, d)
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn prepare(&self, image: &Tensor, image_pe: &Tensor) -> Result<PreparedImage> {
        let placed = image.broadcast_add(image_pe)?;
        let [first, _] = &self.layers;
        let look = &first.cross_attn_token_to_image.attention;
        Ok(PreparedImage {
            keys: placed.apply(&look.k_proj)?,
            values: image.apply(&look.v_proj)?,
            queries: placed.apply(&first.cross_attn_image_to_token.attention.q_proj)?,
            image: image.contiguous()?,
        })
    }

    /// An image of 1 or b, `image_pe` (1, m, d), `tokens` (b, n, d)
    /// -> the first `outputs` tokens (b, outputs, d), image (b, m, d)
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn forward(
        &self,
        image: &PreparedImage,
        image_pe: &Tensor,
        tokens: &Tensor,
        outputs: usize,
    ) -> Result<(Tensor, Tensor)> {
        match on_cpu_in_f32(tokens) && tokens.dim(1)? < MANY_TOKENS {
            true => self.forward_in_passes(image, image_pe, tokens, outputs),
            false => self.forward_by_layers(image, image_pe, tokens, outputs),
        }
    }

    fn forward_by_layers(
        &self,
        prepared: &PreparedImage,
        image_pe: &Tensor,
        tokens: &Tensor,
        outputs: usize,
    ) -> Result<(Tensor, Tensor)> {
        let token_pe = tokens;
        let (mut tokens, mut image) = (tokens.clone(), prepared.image.clone());
        for (i, layer) in self.layers.iter().enumerate() {
            tokens = layer.attend_themselves(&tokens, token_pe)?;
            let placed = image.broadcast_add(image_pe)?;
            let q = (&tokens + token_pe)?;
            let look = &layer.cross_attn_token_to_image.attention;
            let attended = match i {
                0 => look.attend(&q.apply(&look.q_proj)?, &prepared.keys, &prepared.values)?,
                _ => look.forward(&q, &placed, &image)?,
            };
            tokens = layer.take_in(&tokens, &attended)?;
            let k = (&tokens + token_pe)?;
            let look = &layer.cross_attn_image_to_token.attention;
            let queries = match i {
                0 => prepared.queries.clone(),
                _ => placed.apply(&look.q_proj)?,
            };
            let (k, v) = (k.apply(&look.k_proj)?, tokens.apply(&look.v_proj)?);
            let attended = look.attend(&queries, &k, &v)?;
            image = image.broadcast_add(&attended)?.apply(&layer.norm4)?;
        }
        let tokens = tokens.narrow(1, 0, outputs)?;
        let q = (&tokens + token_pe.narrow(1, 0, outputs)?)?;
        let k = image.broadcast_add(image_pe)?;
        let look = &self.final_attn_token_to_image.attention;
        let attended = look.forward(&q, &k, &image)?;
        Ok(((tokens + attended)?.apply(&self.norm_final_attn)?, image))
    }

    /// With one pass over the image for each layer: what the tokens ask next depends on the tokens
    /// alone, so it is asked of each row of the image as soon as that is made.
    fn forward_in_passes(
        &self,
        prepared: &PreparedImage,
        image_pe: &Tensor,
        tokens: &Tensor,
        outputs: usize,
    ) -> Result<(Tensor, Tensor)> {
        let token_pe = tokens;
        let [first, _] = &self.layers;
        let mut tokens = first.attend_themselves(tokens, token_pe)?;
        let look = &first.cross_attn_token_to_image.attention;
        let q = (&tokens + token_pe)?.apply(&look.q_proj)?;
        let mut attended = look.attend(&q, &prepared.keys, &prepared.values)?;
        let mut image = prepared.image.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            tokens = layer.take_in(&tokens, &attended)?;
            let k = (&tokens + token_pe)?;
            let queries = (i == 0).then_some(&prepared.queries);
            let back = &layer.cross_attn_image_to_token;
            let from_tokens = back.absorbed(&k, &tokens, queries.is_some())?;
            let look = match self.layers.get(i + 1) {
                Some(next) => {
                    tokens = next.attend_themselves(&tokens, token_pe)?;
                    &next.cross_attn_token_to_image
                }
                None => {
                    tokens = tokens.narrow(1, 0, outputs)?;
                    &self.final_attn_token_to_image
                }
            };
            let asking = (&tokens + token_pe.narrow(1, 0, tokens.dim(1)?)?)?;
            let looks = look.absorbed_queries(&asking)?;
            let pass = Pass {
                image: &image,
                positions: image_pe,
                queries,
                from_tokens: &from_tokens,
                norm: &layer.norm4,
                looks: &looks,
                precision: look.attention.precision,
            };
            let seen;
            (image, seen) = pass.run()?;
            attended = look.project(&seen)?;
        }
        Ok(((tokens + attended)?.apply(&self.norm_final_attn)?, image))
    }
}

#[derive(Debug, Clone)]
struct Layer {
    self_attn: Attention,
    norm1: LayerNorm,
    cross_attn_token_to_image: TokenToImage,
    norm2: LayerNorm,
    lin1: Linear,
    lin2: Linear,
    norm3: LayerNorm,
    cross_attn_image_to_token: ImageToToken,
    norm4: LayerNorm,
    is_first: bool,
}

impl Layer {
    fn new(cfg: &Config, is_first: bool, vb: VarBuilder) -> Result<Self> {
        let norm = |name| layer_norm(cfg.dim, EPS, vb.pp(name));
        Ok(Self {
            self_attn: Attention::new(cfg, 1, vb.pp("self_attn"))?,
            norm1: norm("norm1")?,
            cross_attn_token_to_image: TokenToImage::new(cfg, vb.pp("cross_attn_token_to_image"))?,
            norm2: norm("norm2")?,
            lin1: linear(cfg.dim, cfg.mlp_dim, vb.pp("mlp.lin1"))?,
            lin2: linear(cfg.mlp_dim, cfg.dim, vb.pp("mlp.lin2"))?,
            norm3: norm("norm3")?,
            cross_attn_image_to_token: ImageToToken::new(cfg, vb.pp("cross_attn_image_to_token"))?,
            norm4: norm("norm4")?,
            is_first,
        })
    }

    fn attend_themselves(&self, tokens: &Tensor, token_pe: &Tensor) -> Result<Tensor> {
        let tokens = if self.is_first {
            self.self_attn.forward(tokens, tokens, tokens)?
        } else {
            let q = (tokens + token_pe)?;
            (tokens + self.self_attn.forward(&q, &q, tokens)?)?
        };
        tokens.apply(&self.norm1)
    }

    /// Adds what the tokens have seen of the image.
    fn take_in(&self, tokens: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let tokens = (tokens + attended)?.apply(&self.norm2)?;
        let hidden = self.lin1.forward_relu(&tokens)?;
        (tokens + hidden.apply(&self.lin2)?)?.apply(&self.norm3)
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
            let image = transformer.prepare(&golden.tensor(&format!("in.{case}.image")), &pe)?;
            for forward in [
                TwoWayTransformer::forward_by_layers,
                TwoWayTransformer::forward_in_passes,
            ] {
                let want = golden.tensor(&format!("out.{case}.tokens"));
                for outputs in [tokens.dim(1)?, 2] {
                    let (hs, _) = forward(&transformer, &image, &pe, &tokens, outputs)?;
                    assert_close(&hs, &want.narrow(1, 0, outputs)?, 2e-6);
                }
                let (_, image) = forward(&transformer, &image, &pe, &tokens, 1)?;
                assert_close(&image, &golden.tensor(&format!("out.{case}.image")), 2e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn an_image_that_is_kept_gives_every_prompt_what_a_fresh_one_gives() -> Result<()> {
        let golden = Golden::open("sam_two_way");
        let transformer = TwoWayTransformer::new(&Config::of(&golden), golden.weights())?;
        let (pe, tokens) = (golden.tensor("in.image_pe"), golden.tensor("in.tokens"));
        let image = golden.tensor("in.shared.image");
        let kept = transformer.prepare(&image, &pe)?;
        for prompt in 0..tokens.dim(0)? {
            let tokens = tokens.narrow(0, prompt, 1)?;
            let (hs, drawn) = transformer.forward(&kept, &pe, &tokens, 3)?;
            let fresh = transformer.prepare(&image, &pe)?;
            let (want, want_drawn) = transformer.forward(&fresh, &pe, &tokens, 3)?;
            assert_close(&hs, &want, 0.);
            assert_close(&drawn, &want_drawn, 0.);
        }
        Ok(())
    }
}
