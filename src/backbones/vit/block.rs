//! One transformer block with rotary attention.

use candle::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

use super::{Config, EPS};
use crate::nn::attention::merge_heads;
use crate::nn::rope::AxialRope;
use crate::nn::{LayerNorm, Linear, layer_norm, linear, sdpa, window};

/// Attention and MLP, each behind a norm and with a residual.
#[derive(Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    /// Reads `norm1`, `attn`, `norm2` and `mlp`.
    pub fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm1: layer_norm(cfg.dim, EPS, vb.pp("norm1"))?,
            attn: Attention::new(cfg, vb.pp("attn"))?,
            norm2: layer_norm(cfg.dim, EPS, vb.pp("norm2"))?,
            fc1: linear(cfg.dim, cfg.mlp_dim, vb.pp("mlp.fc1"))?,
            fc2: linear(cfg.mlp_dim, cfg.dim, vb.pp("mlp.fc2"))?,
        })
    }

    /// (b, g, g, dim) -> (b, g, g, dim); attention inside windows of `window` tokens a side, or
    /// over the whole grid.
    pub fn forward(&self, xs: &Tensor, window: Option<usize>, rope: &AxialRope) -> Result<Tensor> {
        let (_, h, w, _) = xs.dims4()?;
        let normed = self.norm1.forward(xs)?;
        let attended = match window {
            None => self.attn.forward(&normed, rope)?,
            Some(size) => {
                let windows = window::partition(&normed, size)?;
                window::merge(&self.attn.forward(&windows, rope)?, h, w)?
            }
        };
        let xs = (xs + attended)?;
        let hidden = self.fc1.forward_gelu(&xs.apply(&self.norm2)?)?;
        xs + hidden.apply(&self.fc2)?
    }
}

#[derive(Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    num_heads: usize,
}

impl Attention {
    fn new(cfg: &Config, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            qkv: linear(cfg.dim, 3 * cfg.dim, vb.pp("qkv"))?,
            proj: linear(cfg.dim, cfg.dim, vb.pp("proj"))?,
            num_heads: cfg.num_heads,
        })
    }

    /// (b, h, w, dim) -> (b, h, w, dim)
    fn forward(&self, xs: &Tensor, rope: &AxialRope) -> Result<Tensor> {
        let (b, h, w, dim) = xs.dims4()?;
        let head_dim = dim / self.num_heads;
        let qkv = xs
            .apply(&self.qkv)?
            .reshape((b, h * w, 3, self.num_heads, head_dim))?
            .permute((2, 0, 3, 1, 4))?; // (3, b, heads, n, c)
        let q = rope.apply(&qkv.get(0)?)?;
        let k = rope.apply(&qkv.get(1)?)?;
        let v = qkv.get(2)?.contiguous()?;
        let attended = sdpa(&q, &k, &v, (head_dim as f64).powf(-0.5), None)?;
        merge_heads(&attended)?
            .reshape((b, h, w, dim))?
            .apply(&self.proj)
    }
}
