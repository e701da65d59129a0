//! Attention through a fused kernel of the device, which keeps no scores in memory.
//!
//! candle has two, for some widths of heads; others are padded: `candle_nn::ops::sdpa` on Metal, and on
//! CUDA the crate `candle-flash-attn`, in half precision, with the feature `flash-attn`. With a bias,
//! attention goes through the scores.

use candle::{D, DType, Result, Tensor};

/// Widths of heads that the kernel for Metal takes.
const WIDTHS_ON_METAL: [usize; 7] = [32, 64, 72, 80, 96, 128, 256];
/// The kernel for CUDA takes widths that are multiples of this...
const STEP_ON_CUDA: usize = 8;
/// ...up to 512. No model here has wider heads than this.
const MAX_ON_CUDA: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kernel {
    Metal,
    Cuda,
}

/// A fused kernel and the width that it takes heads in.
#[derive(Debug, PartialEq)]
pub(super) struct Fused {
    kernel: Kernel,
    width: usize,
}

impl Fused {
    /// For queries like `q` (b, h, n, c) and values of `d` channels, where the device has one.
    pub(super) fn of(q: &Tensor, d: usize) -> Result<Option<Self>> {
        let (_, _, n, c) = q.dims4()?;
        let device = q.device();
        Ok(match device.is_metal() {
            true => Self::on_metal(n, c, d),
            false if device.is_cuda() && cfg!(feature = "flash-attn") => {
                Self::on_cuda(q.dtype(), c, d)
            }
            false => None,
        })
    }

    /// A single query has another kernel, of other limits, and few scores.
    fn on_metal(n: usize, c: usize, d: usize) -> Option<Self> {
        let mut widths = WIDTHS_ON_METAL.into_iter();
        let width = widths.find(|width| *width >= c.max(d))?;
        (n > 1).then_some(Self {
            kernel: Kernel::Metal,
            width,
        })
    }

    fn on_cuda(dtype: DType, c: usize, d: usize) -> Option<Self> {
        let width = c.max(d).next_multiple_of(STEP_ON_CUDA);
        let is_half = matches!(dtype, DType::BF16 | DType::F16);
        (is_half && width <= MAX_ON_CUDA).then_some(Self {
            kernel: Kernel::Cuda,
            width,
        })
    }

    /// `softmax(q k^T * scale) v`, see [`super::sdpa`]
    pub(super) fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        let scale = scale as f32;
        match self.kernel {
            Kernel::Metal => self.attend_by(q, k, v, |q, k, v| {
                candle_nn::ops::sdpa(q, k, v, None, false, scale, 1.)
            }),
            Kernel::Cuda => self.attend_by(q, k, v, |q, k, v| flash(q, k, v, scale)),
        }
    }

    /// Channels of zeros change no score, and those of the values are cut off again.
    fn attend_by(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        kernel: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let d = v.dim(D::Minus1)?;
        let pad = |xs: &Tensor| {
            let missing = self.width - xs.dim(D::Minus1)?;
            let padded = xs.pad_with_zeros(D::Minus1, 0, missing)?;
            match self.kernel {
                Kernel::Metal => padded.contiguous(),
                // Tokens before heads: mostly where they come from, so that nothing is copied.
                Kernel::Cuda => padded.transpose(1, 2)?.contiguous(),
            }
        };
        let attended = kernel(&pad(q)?, &pad(k)?, &pad(v)?)?;
        let attended = match self.kernel {
            Kernel::Metal => attended,
            Kernel::Cuda => attended.transpose(1, 2)?,
        };
        attended.narrow(D::Minus1, 0, d)?.contiguous()
    }
}

/// Queries, keys and values (b, tokens, h, c) -> (b, n, h, c)
#[cfg(feature = "flash-attn")]
fn flash(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    candle_flash_attn::flash_attn(q, k, v, scale, false)
}

#[cfg(not(feature = "flash-attn"))]
fn flash(_: &Tensor, _: &Tensor, _: &Tensor, _: f32) -> Result<Tensor> {
    candle::bail!("built without the feature flash-attn")
}

#[cfg(test)]
mod tests {
    use candle::Device;

    use super::super::sdpa;
    use super::*;
    use crate::nn::Precision;
    use crate::nn::golden::assert_close;

    #[test]
    fn heads_of_any_width_give_what_they_give_without_padding() -> Result<()> {
        let random = |tokens: usize, width: usize, seed| {
            let values = crate::nn::noise(2 * 3 * tokens * width, seed);
            Tensor::from_vec(values, (2, 3, tokens, width), &Device::Cpu)
        };
        for (c, d) in [(16, 16), (32, 32), (92, 64), (200, 64), (24, 40), (13, 7)] {
            let (q, k, v) = (random(5, c, 1)?, random(7, c, 2)?, random(7, d, 3)?);
            let want = sdpa(&q, &k, &v, 0.3, None, Precision::Highest)?;
            let metal = Fused::on_metal(5, c, d).unwrap();
            let got = metal.attend_by(&q, &k, &v, |q, k, v| {
                for xs in [q, k, v] {
                    assert!(WIDTHS_ON_METAL.contains(&xs.dim(3)?) && xs.is_contiguous());
                }
                sdpa(q, k, v, 0.3, None, Precision::Highest)
            })?;
            assert_close(&got, &want, 1e-6);
            let cuda = Fused::on_cuda(DType::BF16, c, d).unwrap();
            let got = cuda.attend_by(&q, &k, &v, |q, k, v| {
                assert_eq!(q.dims4()?, (2, 5, 3, cuda.width));
                assert_eq!(k.dims(), v.dims());
                assert!(
                    cuda.width.is_multiple_of(8) && [q, k, v].iter().all(|xs| xs.is_contiguous())
                );
                let heads_first = |xs: &Tensor| xs.transpose(1, 2)?.contiguous();
                let (q, k, v) = (heads_first(q)?, heads_first(k)?, heads_first(v)?);
                sdpa(&q, &k, &v, 0.3, None, Precision::Highest)?.transpose(1, 2)
            })?;
            assert_close(&got, &want, 1e-6);
        }
        Ok(())
    }

    #[test]
    fn what_no_kernel_takes_goes_through_the_scores() -> Result<()> {
        assert_eq!(Fused::on_metal(2, 257, 64), None);
        assert_eq!(Fused::on_metal(2, 64, 300), None);
        assert_eq!(Fused::on_metal(1, 64, 64), None);
        assert_eq!(Fused::on_cuda(DType::F32, 64, 64), None);
        assert_eq!(Fused::on_cuda(DType::F16, 64, 257), None);
        let q = Tensor::zeros((1, 1, 2, 64), DType::BF16, &Device::Cpu)?;
        assert_eq!(Fused::of(&q, 64)?, None);
        Ok(())
    }
}
