//! Scores of how well each query matches the prompt.

use candle::{DType, Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::nn::{LayerNorm, Linear, Mlp, layer_norm, linear};

/// Dot product of the queries with the pooled prompt.
///
/// Follows `DotProductScoring`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/model_misc.py#L34>.
#[derive(Debug)]
pub struct DotProductScoring {
    prompt_mlp: Mlp,
    out_norm: LayerNorm,
    prompt_proj: Linear,
    hs_proj: Linear,
    scale: f64,
    max_logit: f64,
}

impl DotProductScoring {
    /// Reads `prompt_mlp`, `prompt_proj` and `hs_proj`; logits stay within ± `max_logit`.
    pub fn new(d_model: usize, mlp_dim: usize, max_logit: f64, vb: VarBuilder) -> Result<Self> {
        let mlp = vb.pp("prompt_mlp");
        Ok(Self {
            out_norm: layer_norm(d_model, 1e-5, mlp.pp("out_norm"))?,
            prompt_mlp: Mlp::new(&[d_model, mlp_dim, d_model], mlp)?,
            prompt_proj: linear(d_model, d_model, vb.pp("prompt_proj"))?,
            hs_proj: linear(d_model, d_model, vb.pp("hs_proj"))?,
            scale: (d_model as f64).powf(-0.5),
            max_logit,
        })
    }

    /// Queries `hs` (b, q, d), all prompt tokens `prompt` (b, m, d), text and geometry, with
    /// `is_padding` (b, m) u8 -> logits (b, q) in f32
    pub fn forward(&self, hs: &Tensor, prompt: &Tensor, is_padding: &Tensor) -> Result<Tensor> {
        let prompt = (self.prompt_mlp.forward(prompt)? + prompt)?.apply(&self.out_norm)?;
        let is_valid = is_padding.eq(0u8)?.to_dtype(prompt.dtype())?.unsqueeze(2)?; // (b, m, 1)
        let count = is_valid.sum(1)?.maximum(1f64)?;
        let pooled = prompt
            .broadcast_mul(&is_valid)?
            .sum(1)?
            .broadcast_div(&count)?;
        let pooled = pooled.apply(&self.prompt_proj)?.unsqueeze(2)?; // (b, d, 1)
        let logits = hs.apply(&self.hs_proj)?.matmul(&pooled)?.squeeze(2)?;
        (logits.to_dtype(DType::F32)? * self.scale)?.clamp(-self.max_logit, self.max_logit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn equals_the_official_scoring() -> Result<()> {
        let golden = Golden::open("scoring");
        let n = |key| golden.size(key);
        let scoring = DotProductScoring::new(n("d_model"), n("hidden"), 12., golden.weights())?;
        let (prompt, mask) = (golden.tensor("in.prompt"), golden.tensor("in.prompt_mask"));
        for layer in 0..2 {
            let got = scoring.forward(&golden.tensor("in.hs").get(layer)?, &prompt, &mask)?;
            let want = golden.tensor("out.logits").get(layer)?.squeeze(2)?;
            assert_close(&got, &want, 1e-5);
        }
        Ok(())
    }
}
