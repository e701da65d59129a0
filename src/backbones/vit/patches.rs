//! Non-overlapping patches as tokens.

use candle::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::Linear;

/// A convolution whose stride is its kernel, as one product of matrices.
#[derive(Debug)]
pub struct PatchEmbed {
    product: Linear, // (3 p p) -> (dim)
    patch_size: usize,
    grid: usize,
}

impl PatchEmbed {
    /// Reads `weight` (dim, 3, p, p).
    pub fn new(
        patch_size: usize,
        dim: usize,
        grid: usize,
        bias: Option<Tensor>,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get((dim, 3, patch_size, patch_size), "weight")?;
        Ok(Self {
            product: Linear::new(&weight.flatten_from(1)?, bias)?,
            patch_size,
            grid,
        })
    }

    /// (b, 3, s, s) -> (b, g, g, dim)
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = xs.dims4()?;
        let (p, g) = (self.patch_size, self.grid);
        if (h, w) != (g * p, g * p) {
            candle::bail!("this ViT takes {0} x {0} pixels, got {w} x {h}", g * p);
        }
        xs.reshape((b, c, g, p, g, p))?
            .permute((0, 2, 4, 1, 3, 5))? // (b, g, g, c, p, p)
            .contiguous()?
            .reshape((b * g * g, c * p * p))?
            .apply(&self.product)?
            .reshape((b, g, g, ()))
    }
}
