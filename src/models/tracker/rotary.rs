//! Attention whose queries and keys are rotated by their place in the frame, as both memory
//! attentions have it.

use candle::{Device, Result, Tensor};

use super::Config;
use crate::nn::attention::merge_heads;
use crate::nn::rope::AxialRope;
use crate::nn::{Precision, sdpa};

/// Rotated attention on projected tokens.
#[derive(Debug, Clone)]
pub(super) struct RotaryAttention {
    heads: usize,
    cells: AxialRope,
    tokens: usize, // of a frame
    precision: Precision,
}

impl RotaryAttention {
    pub(super) fn new(cfg: &Config, device: &Device) -> Result<Self> {
        let width = cfg.dim / cfg.attention_heads;
        Ok(Self {
            heads: cfg.attention_heads,
            cells: AxialRope::new(width, cfg.grid, 1., cfg.rope_theta, device)?,
            tokens: cfg.grid * cfg.grid,
            precision: Precision::current(),
        })
    }

    /// The places of a frame's own tokens.
    pub(super) fn cells(&self) -> &AxialRope {
        &self.cells
    }

    /// The places of memory tokens: whole frames, and then `pointers`, which have none.
    pub(super) fn places(&self, tokens: usize, pointers: usize) -> Result<AxialRope> {
        match tokens.checked_sub(pointers) {
            Some(of_frames) if of_frames.is_multiple_of(self.tokens) => {
                self.cells.repeated(of_frames / self.tokens, pointers)
            }
            _ => candle::bail!(
                "{tokens} memory tokens with {pointers} pointers; a frame has {}",
                self.tokens
            ),
        }
    }

    /// Queries (1 or b, n, d) of a frame, keys (b, m, d) at `places` and values (b, m, e)
    /// -> (b, n, e)
    pub(super) fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        places: &AxialRope,
    ) -> Result<Tensor> {
        let split = |xs: &Tensor| {
            let (b, n, d) = xs.dims3()?;
            xs.reshape((b, n, self.heads, d / self.heads))?
                .transpose(1, 2)
        };
        let q = self.cells.apply(&split(q)?)?;
        let k = places.apply(&split(k)?)?;
        let ((_, h, n, c), b) = (q.dims4()?, k.dim(0)?);
        let q = q.broadcast_as((b, h, n, c))?;
        let scale = (c as f64).powf(-0.5);
        let v = split(v)?;
        merge_heads(&sdpa(&q, &k, &v, scale, None, self.precision)?)
    }
}
