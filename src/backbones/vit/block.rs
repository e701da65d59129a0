//! One transformer block, with rotary or relative positions.

use candle::{Result, Tensor};
use candle_nn::{Module, VarBuilder};

use crate::nn::attention::{RelativePositions, merge_heads, split_qkv};
use crate::nn::rope::AxialRope;
use crate::nn::{FeedForward, LayerNorm, Linear, Precision};
use crate::nn::{layer_norm, linear, sdpa, window};

/// Sizes of a block, and how its parts are called.
#[derive(Debug, Clone)]
pub struct BlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of the MLP.
    pub mlp_dim: usize,
    /// Epsilon of both norms.
    pub eps: f64,
    /// Names of the norm and the two layers of the MLP.
    pub mlp_names: [&'static str; 3],
}

/// Positional encoding of attention.
#[derive(Debug)]
pub enum Positions {
    /// SAM 3: queries and keys are turned.
    Rotary(AxialRope),
    /// SAM 1: logits get a learned bias.
    Relative(RelativePositions),
}

/// Attention and MLP, each behind a norm and with a residual.
#[derive(Debug)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    mlp: FeedForward,
    window: Option<usize>,
}

impl Block {
    /// Reads `norm1`, `attn`, `norm2` and `mlp`. Attention sees `window` tokens a side, or all that
    /// the block is given.
    pub fn new(
        cfg: &BlockConfig,
        window: Option<usize>,
        positions: Positions,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(Self {
            norm1: layer_norm(cfg.dim, cfg.eps, vb.pp("norm1"))?,
            attn: Attention::new(cfg, positions, vb.pp("attn"))?,
            mlp: FeedForward::new([cfg.dim, cfg.mlp_dim], cfg.eps, cfg.mlp_names, &vb)?,
            window,
        })
    }

    /// (b, g, g, dim) -> (b, g, g, dim)
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(xs)?;
        let xs = match self.window {
            None => self.attn.forward_onto(xs, &normed)?,
            // The zeros that complete the last windows are seen by the tokens there, as in the
            // reference.
            Some(size) => {
                let windows = window::partition(&normed, size)?;
                let windows = self.attn.attend(&windows)?.apply(&self.attn.proj)?;
                window::merge_onto(xs, &windows)?
            }
        };
        self.mlp.forward_gelu(&xs)
    }
}

#[derive(Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    num_heads: usize,
    positions: Positions,
    precision: Precision,
}

impl Attention {
    fn new(cfg: &BlockConfig, positions: Positions, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            qkv: linear(cfg.dim, 3 * cfg.dim, vb.pp("qkv"))?,
            proj: linear(cfg.dim, cfg.dim, vb.pp("proj"))?,
            num_heads: cfg.num_heads,
            positions,
            precision: Precision::current(),
        })
    }

    /// `residual`, `xs` (b, h, w, dim) -> (b, h, w, dim)
    fn forward_onto(&self, residual: &Tensor, xs: &Tensor) -> Result<Tensor> {
        self.proj.forward_onto(residual, &self.attend(xs)?)
    }

    /// All but the projection: (b, h, w, dim) -> (b, h, w, dim)
    fn attend(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, h, w, dim) = xs.dims4()?;
        let head_dim = dim / self.num_heads;
        let qkv = xs
            .apply(&self.qkv)?
            .reshape((b, h * w, 3, self.num_heads, head_dim))?
            .permute((2, 0, 3, 1, 4))?; // (3, b, heads, n, c)
        let [q, k, v] = split_qkv(&qkv)?;
        let scale = (head_dim as f64).powf(-0.5);
        let attended = match &self.positions {
            Positions::Rotary(rope) => {
                let (q, k) = (rope.apply(&q)?, rope.apply(&k)?);
                sdpa(&q, &k, &v, scale, None, self.precision)?
            }
            Positions::Relative(relative) => relative.attend(&q, &k, &v, scale)?,
        };
        merge_heads(&attended)?.reshape((b, h, w, dim))
    }
}
