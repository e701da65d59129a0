//! Attention within the prompt tokens, and between them and the image.
//!
//! The projections of an image that are linear in it can be left to the tokens, see
//! [`crate::nn::attention::few_tokens`]: [`TokenToImage`] and [`ImageToToken`] keep the weights for it.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::Config;
use crate::nn::attention::few_tokens::FromTokens;
use crate::nn::attention::merge_heads;
use crate::nn::{Linear, Precision, linear, sdpa};

/// Factor by which attention between tokens and image is narrower than the tokens.
const DOWNSAMPLE_RATE: usize = 2;

/// Multi-head attention that is narrower inside.
#[derive(Debug, Clone)]
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    out_proj: Linear,
    num_heads: usize,
    /// Of the products.
    pub precision: Precision,
}

impl Attention {
    pub fn new(cfg: &Config, downsample_rate: usize, vb: VarBuilder) -> Result<Self> {
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
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.attend(
            &q.apply(&self.q_proj)?,
            &k.apply(&self.k_proj)?,
            &v.apply(&self.v_proj)?,
        )
    }

    /// The same of what is projected: (b, n, inner), (b, m, inner) -> (b, n, d)
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let ((b, n, inner), prompts) = (q.dims3()?, k.dim(0)?);
        if prompts == 1 && b > 1 {
            // Queries do not see each other: those of all prompts are one long list.
            let all = self.attend(&q.reshape((1, b * n, inner))?, k, v)?;
            return all.reshape((b, n, ()));
        }
        let (q, k, v) = (
            self.split_heads(q)?,
            self.split_heads(k)?,
            self.split_heads(v)?,
        );
        let (_, h, n, c) = q.dims4()?;
        let q = q.broadcast_as((prompts, h, n, c))?;
        let attended = sdpa(&q, &k, &v, scale(c), None, self.precision)?;
        merge_heads(&attended)?.apply(&self.out_proj)
    }

    /// (b, n, h * c) -> (b, h, n, c)
    fn split_heads(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, n, dim) = xs.dims3()?;
        xs.reshape((b, n, self.num_heads, dim / self.num_heads))?
            .transpose(1, 2)
    }
}

/// Of the scores of heads with `c` channels.
fn scale(c: usize) -> f64 {
    (c as f64).powf(-0.5)
}

/// Each head's channels of `xs` (b, n, h * c) through its own of `weights` (h, c, d): (b, h * n, d)
fn through_heads(xs: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let ((b, n, _), (h, c, d)) = (xs.dims3()?, weights.dims3()?);
    xs.reshape((b * n, h, c))?
        .transpose(0, 1)?
        .contiguous()?
        .matmul(weights)?
        .reshape((h, b, n, d))?
        .transpose(0, 1)?
        .reshape((b, h * n, d))
}

/// Tokens look at the image.
#[derive(Debug, Clone)]
pub struct TokenToImage {
    /// As it is on other devices.
    pub attention: Attention,
    k_weight: Tensor, // (h, c, d)
    v_weight: Tensor, // (h, d, c)
    v_bias: Tensor,   // (h, 1, c)
}

impl TokenToImage {
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (h, d) = (cfg.num_heads, cfg.dim);
        let inner = d / DOWNSAMPLE_RATE;
        let weight = |name| {
            vb.pp(name)
                .get((inner, d), "weight")?
                .reshape((h, inner / h, d))
        };
        Ok(Self {
            attention: Attention::new(cfg, DOWNSAMPLE_RATE, vb.clone())?,
            k_weight: weight("k_proj")?.contiguous()?,
            v_weight: weight("v_proj")?.transpose(1, 2)?.contiguous()?,
            v_bias: vb
                .pp("v_proj")
                .get(inner, "bias")?
                .reshape((h, 1, inner / h))?,
        })
    }

    /// `q` (b, n, d) -> queries of the image itself (b, h * n, d), scaled. The bias of its keys
    /// would add the same to all scores of a query.
    pub fn absorbed_queries(&self, q: &Tensor) -> Result<Tensor> {
        let (_, c, _) = self.k_weight.dims3()?;
        let q = (q.apply(&self.attention.q_proj)? * scale(c))?;
        through_heads(&q, &self.k_weight)
    }

    /// Sums of rows of the image (b, h * n, d), whose weights add up to 1 -> (b, n, d)
    pub fn project(&self, seen: &Tensor) -> Result<Tensor> {
        let ((b, rows, d), (h, _, c)) = (seen.dims3()?, self.v_weight.dims3()?);
        let n = rows / h;
        let values = seen
            .reshape((b, h, n, d))?
            .transpose(0, 1)?
            .reshape((h, b * n, d))?
            .matmul(&self.v_weight)?
            .broadcast_add(&self.v_bias)?;
        values
            .transpose(0, 1)?
            .reshape((b, n, h * c))?
            .apply(&self.attention.out_proj)
    }
}

/// The image looks at tokens.
#[derive(Debug, Clone)]
pub struct ImageToToken {
    /// As it is on other devices.
    pub attention: Attention,
    q_weight: Tensor,   // (h, c, d)
    q_bias: Tensor,     // (h, c, 1)
    out_weight: Tensor, // (h, c, d)
    out_bias: Tensor,   // (d)
}

impl ImageToToken {
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (h, d) = (cfg.num_heads, cfg.dim);
        let inner = d / DOWNSAMPLE_RATE;
        let heads = (h, inner / h, d);
        let (q, out) = (vb.pp("q_proj"), vb.pp("out_proj"));
        Ok(Self {
            attention: Attention::new(cfg, DOWNSAMPLE_RATE, vb)?,
            q_weight: q.get((inner, d), "weight")?.reshape(heads)?.contiguous()?,
            q_bias: q.get(inner, "bias")?.reshape((h, inner / h, 1))?,
            out_weight: out
                .get((d, inner), "weight")?
                .t()?
                .reshape(heads)?
                .contiguous()?,
            out_bias: out.get(d, "bias")?,
        })
    }

    /// `k` and `v` (b, n, d) -> what the image takes from them. Its rows are compared with the keys
    /// themselves, or as queries that are projected.
    pub fn absorbed(&self, k: &Tensor, v: &Tensor, is_projected: bool) -> Result<FromTokens> {
        let Attention { k_proj, v_proj, .. } = &self.attention;
        let ((b, n, _), (h, c, _)) = (k.dims3()?, self.q_weight.dims3()?);
        let k = (k.apply(k_proj)? * scale(c))?;
        let (keys, key_bias) = match is_projected {
            true => (
                own_heads_only(&k, h)?,
                Tensor::zeros((b, h * n), k.dtype(), k.device())?,
            ),
            false => (
                through_heads(&k, &self.q_weight)?,
                through_heads(&k, &self.q_bias)?.squeeze(2)?,
            ),
        };
        Ok(FromTokens {
            keys,
            key_bias,
            values: through_heads(&v.apply(v_proj)?, &self.out_weight)?,
            bias: self.out_bias.clone(),
            tokens: n,
        })
    }
}

/// Keys (b, n, h * c) for queries of all heads side by side (b, h * n, h * c): zeros for other heads.
fn own_heads_only(keys: &Tensor, h: usize) -> Result<Tensor> {
    let (_, _, width) = keys.dims3()?;
    let c = width / h;
    let own = |head: usize| {
        let keys = keys.narrow(2, head * c, c)?;
        keys.pad_with_zeros(2, head * c, width - (head + 1) * c)
    };
    Tensor::cat(&(0..h).map(own).collect::<Result<Vec<_>>>()?, 1)
}
