//! Masks from image tokens: two transposed convolutions, and the products of their pixels.

use candle::{Device, Result, Tensor};

use super::kernels::draw::{self, Upscaling};
use super::kernels::view::Rows;
use super::{LayerNorm, Linear, cpu_slice, on_cpu_in_f32};

/// The layers between image tokens and pixels, each to the four pixels of its input: `first`, norm and
/// GELU, `second` and GELU. See [`super::conv_transpose::conv_transpose2x2_tokens`].
pub(crate) struct Upscale<'a> {
    /// (d) -> (4 * h)
    pub first: &'a Linear,
    /// Of h.
    pub norm: &'a LayerNorm,
    /// (h) -> (4 * e)
    pub second: &'a Linear,
    /// Added before the norm (1, g * g, 4, h), and before the last GELU (1, g * g, 16, e).
    pub details: Option<&'a [Tensor; 2]>,
}

impl Upscale<'_> {
    /// Image tokens (b, `grid`², d) and `masks` (b, n, e) -> logits (b, n, 4 grid, 4 grid). None where
    /// the CPU's kernels do not take the tensors.
    ///
    /// # Errors
    /// For tensors of another shape.
    pub fn draw(&self, image: &Tensor, masks: &Tensor, grid: usize) -> Result<Option<Tensor>> {
        let (Some((first, first_bias)), Some((second, second_bias)), true) = (
            self.first.packed()?,
            self.second.packed()?,
            on_cpu_in_f32(image),
        ) else {
            return Ok(None);
        };
        let ((b, m, d), (_, n, e)) = (image.dims3()?, masks.dims3()?);
        let (weight, bias, eps) = self.norm.values()?;
        let details = match self.details {
            Some([coarse, fine]) => Some([coarse.contiguous()?, fine.contiguous()?]),
            None => None,
        };
        let details = details
            .as_ref()
            .map(|[coarse, fine]| [coarse.storage_and_layout(), fine.storage_and_layout()]);
        let up = Upscaling {
            first: (first, &first_bias),
            norm: (&weight, &bias, eps),
            second: (second, &second_bias),
            details: match &details {
                Some([coarse, fine]) => {
                    Some([cpu_slice(&coarse.0, coarse.1)?, cpu_slice(&fine.0, fine.1)?])
                }
                None => None,
            },
        };
        let (image, masks) = (image.contiguous()?, masks.contiguous()?);
        let (image, masks) = (image.storage_and_layout(), masks.storage_and_layout());
        let (image, masks) = (cpu_slice(&image.0, image.1)?, cpu_slice(&masks.0, masks.1)?);
        let mut logits = Vec::with_capacity(b * n * 16 * m);
        for i in 0..b {
            let image = Rows::new(&image[i * m * d..], d, m, d);
            let masks = Rows::new(&masks[i * n * e..], e, n, e);
            logits.extend(draw::draw(image, &up, masks, grid)?);
        }
        Tensor::from_vec(logits, (b, n, 4 * grid, 4 * grid), &Device::Cpu).map(Some)
    }
}
