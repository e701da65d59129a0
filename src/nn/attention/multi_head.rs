//! PyTorch's multi-head attention.

use candle::{D, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::{sdpa, sdpa_on_grid};
use crate::nn::int8::Int8Rows;
use crate::nn::linear::{Linear, linear};
use crate::nn::precision::Precision;

/// What is added to the scores of [`MultiHeadAttention`] before their softmax.
#[derive(Debug, Clone, Copy)]
pub enum ScoreBias<'a> {
    /// Nothing.
    None,
    /// A tensor broadcastable to (b, heads, n, m).
    Whole(&'a Tensor),
    /// Keys form a grid: the sum of one value for the key's row (b, heads, n, grid rows) and one
    /// for its column (b, heads, n, grid columns).
    Grid([&'a Tensor; 2]),
}

/// PyTorch's `nn.MultiheadAttention`, batch first, with its fused input projection.
#[derive(Debug, Clone)]
pub struct MultiHeadAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    num_heads: usize,
    precision: Precision,
}

impl MultiHeadAttention {
    /// Reads `in_proj_weight` (3 dim, dim), `in_proj_bias` and `out_proj`.
    pub fn new(dim: usize, num_heads: usize, vb: VarBuilder) -> Result<Self> {
        let (name, shape) = ("in_proj_weight", [3 * dim, dim]);
        let bias = vb.get(3 * dim, "in_proj_bias")?;
        let bias = |start| bias.narrow(0, start, dim).map(Some);
        let thirds = |part: &dyn Fn(usize) -> Result<Linear>| -> Result<[Linear; 3]> {
            Ok([part(0)?, part(dim)?, part(2 * dim)?])
        };
        let [q_proj, k_proj, v_proj] = match Int8Rows::read(&shape, name, &vb)? {
            Some(rows) => thirds(&|i| Linear::from_int8(&rows.narrow(i, dim)?, bias(i)?))?,
            None => {
                let weight = vb.get(&shape, name)?;
                thirds(&|i| Linear::new(&weight.narrow(0, i, dim)?, bias(i)?))?
            }
        };
        Ok(Self {
            q_proj,
            k_proj,
            v_proj,
            out_proj: linear(dim, dim, vb.pp("out_proj"))?,
            num_heads,
            precision: Precision::current(),
        })
    }

    /// `q` (b, n, dim), `k` and `v` (b, m, dim) -> what was attended to, added to `residual`
    /// (b, n, dim)
    pub fn forward_onto(
        &self,
        residual: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        bias: ScoreBias,
    ) -> Result<Tensor> {
        let q = self.split_heads(&self.q_proj.forward(q)?)?; // (b, h, n, c)
        let k = self.split_heads(&self.k_proj.forward(k)?)?; // (b, h, m, c)
        let v = self.split_heads(&self.v_proj.forward(v)?)?;
        let scale = (q.dim(D::Minus1)? as f64).powf(-0.5);
        let attended = match bias {
            ScoreBias::None => sdpa(&q, &k, &v, scale, None, self.precision)?,
            ScoreBias::Whole(bias) => sdpa(&q, &k, &v, scale, Some(bias), self.precision)?,
            ScoreBias::Grid(axes) => sdpa_on_grid(&q, &k, &v, scale, axes, self.precision)?,
        };
        self.out_proj
            .forward_onto(residual, &merge_heads(&attended)?)
    }

    /// (b, n, h * c) -> (b, h, n, c)
    fn split_heads(&self, xs: &Tensor) -> Result<Tensor> {
        let (b, n, dim) = xs.dims3()?;
        xs.reshape((b, n, self.num_heads, dim / self.num_heads))?
            .transpose(1, 2)
    }
}

/// (b, h, n, c) -> (b, n, h * c)
pub fn merge_heads(xs: &Tensor) -> Result<Tensor> {
    xs.transpose(1, 2)?.flatten_from(2)
}
