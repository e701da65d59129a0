//! The feed-forward network of a transformer's block.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use super::linear::{Linear, linear};
use super::norm::{LayerNorm, layer_norm};

/// Two linear layers per token, behind a norm and with a residual.
#[derive(Debug, Clone)]
pub struct FeedForward {
    norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

impl FeedForward {
    /// Reads a norm with `eps` and two layers of these `names`.
    pub fn new(
        [dim, hidden]: [usize; 2],
        eps: f64,
        names: [&str; 3],
        vb: &VarBuilder,
    ) -> Result<Self> {
        let [norm, widen, narrow] = names.map(|name| vb.pp(name));
        Ok(Self {
            norm: layer_norm(dim, eps, norm)?,
            widen: linear(dim, hidden, widen)?,
            narrow: linear(hidden, dim, narrow)?,
        })
    }

    /// `x + narrow(gelu(widen(norm(x))))`, with GELU by the error function
    pub fn forward_gelu(&self, xs: &Tensor) -> Result<Tensor> {
        let hidden = self.widen.forward_gelu(&xs.apply(&self.norm)?)?;
        self.narrow.forward_onto(xs, &hidden)
    }

    /// `x + narrow(relu(widen(norm(x))))`
    pub fn forward_relu(&self, xs: &Tensor) -> Result<Tensor> {
        let hidden = self.widen.forward_relu(&xs.apply(&self.norm)?)?;
        self.narrow.forward_onto(xs, &hidden)
    }
}
