//! Axial two-dimensional rotary position encoding.
//!
//! Easy to get wrong: pairs are adjacent channels (2p, 2p + 1), not halves; the first half of the
//! pairs turns with x, the second with y; positions start at 0.

use candle::{DType, Device, Result, Tensor};

use super::attention::{Heads, in_rows};
use super::kernels::rowwise::rotated;
use super::{cpu_slice, on_cpu_in_f32, window};
use crate::device::upload;

/// Cosines and sines of one grid, applied to queries and keys.
#[derive(Debug, Clone)]
pub struct AxialRope {
    cos: Tensor, // (n, c / 2)
    sin: Tensor,
}

impl AxialRope {
    /// A `side` x `side` grid, row by row; positions are multiplied by `scale`.
    ///
    /// Follows `compute_axial_cis`,
    /// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/vitdet.py#L46>.
    pub fn new(
        head_dim: usize,
        side: usize,
        scale: f64,
        theta: f64,
        device: &Device,
    ) -> Result<Self> {
        let quarter = head_dim / 4;
        let freqs: Vec<f32> = (0..quarter)
            .map(|j| 1. / (theta as f32).powf((4 * j) as f32 / head_dim as f32))
            .collect();
        let mut angles = Vec::with_capacity(side * side * 2 * quarter);
        for y in 0..side {
            for x in 0..side {
                for position in [x, y] {
                    let position = position as f32 * scale as f32;
                    angles.extend(freqs.iter().map(|f| position * f));
                }
            }
        }
        let angles = upload(angles, (side * side, 2 * quarter), device)?;
        Ok(Self {
            cos: angles.cos()?,
            sin: angles.sin()?,
        })
    }

    /// For tokens in the order of windows of `size`, instead of row by row.
    pub fn in_windows(&self, size: usize) -> Result<Self> {
        let (n, pairs) = self.cos.dims2()?;
        let side = n.isqrt();
        let reorder = |table: &Tensor| {
            let table = table.reshape((1, side, side, pairs))?;
            window::partition(&table, size)?.reshape((n, pairs))
        };
        Ok(Self {
            cos: reorder(&self.cos)?,
            sin: reorder(&self.sin)?,
        })
    }

    /// For the tokens of `grids` grids one after the other, and `still` more that are not rotated.
    pub fn repeated(&self, grids: usize, still: usize) -> Result<Self> {
        let (_, pairs) = self.cos.dims2()?;
        let extend = |table: &Tensor, rest: f32| {
            let rest = Tensor::full(rest, (still, pairs), table.device())?;
            let mut tables = vec![table; grids];
            tables.push(&rest);
            Tensor::cat(&tables, 0)
        };
        Ok(Self {
            cos: extend(&self.cos, 1.)?,
            sin: extend(&self.sin, 0.)?,
        })
    }

    /// Rotates `xs` (b, h, n, c), in f32 -> (b, h, n, c)
    pub fn apply(&self, xs: &Tensor) -> Result<Tensor> {
        if on_cpu_in_f32(xs) {
            return self.apply_on_cpu(&in_rows(xs)?);
        }
        let dtype = xs.dtype();
        let xs = xs.to_dtype(DType::F32)?.contiguous()?;
        candle_nn::rotary_emb::rope_i(&xs, &self.cos, &self.sin)?.to_dtype(dtype)
    }

    /// Reads queries and keys where a linear layer left them, in parallel.
    fn apply_on_cpu(&self, xs: &Tensor) -> Result<Tensor> {
        let (storage, layout) = xs.storage_and_layout();
        let heads = Heads::new(&storage, layout)?;
        let [b, h, n, c] = heads.dims;
        if self.cos.dims() != [n, c / 2] || c % 2 != 0 {
            candle::bail!("rotation of {:?} by {:?}", xs.dims(), self.cos.dims());
        }
        let ((cos, cos_layout), (sin, sin_layout)) =
            (self.cos.storage_and_layout(), self.sin.storage_and_layout());
        let (cos, sin) = (cpu_slice(&cos, cos_layout)?, cpu_slice(&sin, sin_layout)?);
        let out = rotated(b * h, |i| heads.of(i / h, i % h), [n, c], [cos, sin])?;
        Tensor::from_vec(out, xs.dims(), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::{Golden, assert_close};

    #[test]
    fn windows_and_grids_equal_the_official_rotation() -> Result<()> {
        let golden = Golden::open("rope");
        for (case, side, scale) in [("window", 4, 1.), ("global", 12, 1. / 3.)] {
            let rope = AxialRope::new(16, side, scale, 10_000., &Device::Cpu)?;
            for part in ["q", "k"] {
                let got = rope.apply(&golden.tensor(&format!("in.{case}.{part}")))?;
                assert_close(&got, &golden.tensor(&format!("out.{case}.{part}")), 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn x_turns_the_first_pairs_and_y_the_last() -> Result<()> {
        let rope = AxialRope::new(4, 2, 0.5, 10_000., &Device::Cpu)?;
        let xs = Tensor::new(&[[1f32, 0., 1., 0.]], &Device::Cpu)?
            .broadcast_as((1, 1, 4, 4))?
            .contiguous()?;
        let got = rope.apply(&xs)?.squeeze(0)?.squeeze(0)?.to_vec2::<f32>()?;
        let (c, s) = (0.5f32.cos(), 0.5f32.sin());
        let want = [
            [1., 0., 1., 0.],
            [c, s, 1., 0.],
            [1., 0., c, s],
            [c, s, c, s],
        ];
        for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        Ok(())
    }
}
