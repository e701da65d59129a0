//! Attention through a fused kernel of the device, which keeps no scores in memory.
//!
//! candle has one for Metal, `candle_nn::ops::sdpa`, for some widths of heads; others are padded. With a
//! bias, attention goes through the scores. candle's kernel for CUDA is a crate whose build fetches
//! sources from GitHub and compiles for hours, so it is not used.

use candle::{D, Device, Result, Tensor};

/// Widths of heads that the kernel for Metal takes.
const WIDTHS: [usize; 7] = [32, 64, 72, 80, 96, 128, 256];

/// A fused kernel and the width that it takes heads in.
pub(super) struct Fused {
    width: usize,
}

impl Fused {
    /// For `n` queries with heads of `c` channels, and values of `d`, where the device has one.
    pub(super) fn of(device: &Device, n: usize, c: usize, d: usize) -> Option<Self> {
        match device.is_metal() {
            true => Self::on_metal(n, c, d),
            false => None,
        }
    }

    /// A single query has another kernel, of other limits, and few scores.
    fn on_metal(n: usize, c: usize, d: usize) -> Option<Self> {
        let width = WIDTHS.into_iter().find(|width| *width >= c.max(d))?;
        (n > 1).then_some(Self { width })
    }

    /// `softmax(q k^T * scale) v`, see [`super::sdpa`]
    pub(super) fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
        self.attend_by(q, k, v, |q, k, v| {
            candle_nn::ops::sdpa(q, k, v, None, false, scale as f32, 1.)
        })
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
            xs.pad_with_zeros(D::Minus1, 0, missing)?.contiguous()
        };
        let attended = kernel(&pad(q)?, &pad(k)?, &pad(v)?)?;
        attended.narrow(D::Minus1, 0, d)?.contiguous()
    }
}

#[cfg(test)]
mod tests {
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
        for (c, d) in [(16, 16), (32, 32), (92, 64), (200, 64), (24, 40)] {
            let (q, k, v) = (random(5, c, 1)?, random(7, c, 2)?, random(7, d, 3)?);
            let fused = Fused::on_metal(5, c, d).unwrap();
            let kernel = |q: &Tensor, k: &Tensor, v: &Tensor| {
                for xs in [q, k, v] {
                    assert!(WIDTHS.contains(&xs.dim(3)?) && xs.is_contiguous());
                }
                sdpa(q, k, v, 0.3, None, Precision::Highest)
            };
            let got = fused.attend_by(&q, &k, &v, kernel)?;
            assert_close(
                &got,
                &sdpa(&q, &k, &v, 0.3, None, Precision::Highest)?,
                1e-6,
            );
        }
        Ok(())
    }

    #[test]
    fn what_no_kernel_takes_goes_through_the_scores() {
        assert!(Fused::on_metal(2, 257, 64).is_none());
        assert!(Fused::on_metal(2, 64, 300).is_none());
        assert!(Fused::on_metal(1, 64, 64).is_none());
        assert!(Fused::of(&Device::Cpu, 2, 64, 64).is_none());
    }
}
