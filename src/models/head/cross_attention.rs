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
    /// Of the scores.
    scale: f64,
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
            scale: ((inner / cfg.num_heads) as f64).powf(-0.5),
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
        let attended = sdpa(&q, &k, &v, self.scale, None, self.precision)?;
        merge_heads(&attended)?.apply(&self.out_proj)
    }

    /// (b, n, h * c) -> (b, h, n, c)
    fn split_heads(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, n, dim) = xs.dims3()?;
        xs.reshape((b, n, self.num_heads, dim / self.num_heads))?
            .transpose(1, 2)
    }
}

/// Which channels are whose (1, 1, h, h * c): 1 for those of a head, 0 for the others.
#[derive(Debug, Clone)]
struct Heads(Tensor);

impl Heads {
    /// `h` heads of `c` channels.
    fn new(h: usize, c: usize, vb: &VarBuilder) -> Result<Self> {
        let own = Tensor::eye(h, vb.dtype(), vb.device())?.reshape((1, 1, h, h, 1))?;
        let own = own.broadcast_as((1, 1, h, h, c))?;
        own.reshape((1, 1, h, h * c)).map(Self)
    }

    /// (b, n, h * c) -> (b, n * h, h * c): a row for each head of a token, zeros for other heads.
    fn split(&self, xs: &Tensor) -> Result<Tensor> {
        xs.unsqueeze(2)?.broadcast_mul(&self.0)?.flatten(1, 2)
    }

    /// The rows of [`Heads::split`], whatever stands for other heads: (b, n * h, h * c) -> (b, n, h * c)
    fn merge(&self, xs: &Tensor) -> Result<Tensor> {
        let ((b, rows, width), (_, _, h, _)) = (xs.dims3()?, self.0.dims4()?);
        let xs = xs.reshape((b, rows / h, h, width))?;
        xs.broadcast_mul(&self.0)?.sum(2)
    }
}

/// Tokens look at the image.
#[derive(Debug, Clone)]
pub struct TokenToImage {
    /// As it is on other devices.
    pub attention: Attention,
    heads: Heads,
    /// Keys of the image are left to the queries: `k_proj` the other way around.
    to_image: Linear,
}

impl TokenToImage {
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (h, inner) = (cfg.num_heads, cfg.dim / DOWNSAMPLE_RATE);
        let keys = vb.pp("k_proj").get((inner, cfg.dim), "weight")?;
        Ok(Self {
            attention: Attention::new(cfg, DOWNSAMPLE_RATE, vb.clone())?,
            heads: Heads::new(h, inner / h, &vb)?,
            to_image: Linear::new(&keys.t()?, None)?,
        })
    }

    /// `q` (b, n, d) -> queries of the image itself (b, n * h, d), scaled. The bias of its keys
    /// would add the same to all scores of a query.
    pub fn absorbed_queries(&self, q: &Tensor) -> Result<Tensor> {
        let q = q.apply(&self.attention.q_proj)?;
        let q = (q * self.attention.scale)?;
        self.heads.split(&q)?.apply(&self.to_image)
    }

    /// Sums of rows of the image (b, n * h, d), whose weights add up to 1 -> (b, n, d)
    pub fn project(&self, seen: &Tensor) -> Result<Tensor> {
        let values = seen.apply(&self.attention.v_proj)?;
        let values = self.heads.merge(&values)?;
        values.apply(&self.attention.out_proj)
    }
}

/// The image looks at tokens.
#[derive(Debug, Clone)]
pub struct ImageToToken {
    /// As it is on other devices.
    pub attention: Attention,
    heads: Heads,
    /// Queries of the image are left to the keys: `q_proj` the other way around.
    to_image: Linear,
    q_bias: Linear,   // the same for the bias: to 1
    out_proj: Linear, // without its bias
    out_bias: Tensor, // (d)
}

impl ImageToToken {
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        let (h, d, inner) = (cfg.num_heads, cfg.dim, cfg.dim / DOWNSAMPLE_RATE);
        let (q, out) = (vb.pp("q_proj"), vb.pp("out_proj"));
        let q_bias = q.get(inner, "bias")?.unsqueeze(0)?;
        Ok(Self {
            attention: Attention::new(cfg, DOWNSAMPLE_RATE, vb.clone())?,
            heads: Heads::new(h, inner / h, &vb)?,
            to_image: Linear::new(&q.get((inner, d), "weight")?.t()?, None)?,
            q_bias: Linear::new(&q_bias, None)?,
            out_proj: Linear::new(&out.get((d, inner), "weight")?, None)?,
            out_bias: out.get(d, "bias")?,
        })
    }

    /// `k` and `v` (b, n, d) -> what the image takes from them. Its rows are compared with the keys
    /// themselves, or as queries that are projected.
    pub fn absorbed(&self, k: &Tensor, v: &Tensor, is_projected: bool) -> Result<FromTokens> {
        let Attention { k_proj, v_proj, .. } = &self.attention;
        let k = (k.apply(k_proj)? * self.attention.scale)?;
        let k = self.heads.split(&k)?;
        let (b, rows, _) = k.dims3()?;
        let (keys, key_bias) = match is_projected {
            true => {
                let none = Tensor::zeros((b, rows), k.dtype(), k.device())?;
                (k, none)
            }
            false => (k.apply(&self.to_image)?, k.apply(&self.q_bias)?.squeeze(2)?),
        };
        let values = self.heads.split(&v.apply(v_proj)?)?;
        Ok(FromTokens {
            keys,
            key_bias,
            values: values.apply(&self.out_proj)?,
            bias: self.out_bias.clone(),
            heads: self.attention.num_heads,
        })
    }
}
