//! Floor 0: tensors in, tensors out; knows no model.
//!
//! Shape letters used throughout: b batch, n tokens, m keys, c channels, h w grid, q queries.

pub mod attention;
pub mod conv;
pub mod conv_transpose;
pub(crate) mod kernels;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod posenc;
pub mod precision;
pub mod rope;
pub mod sample;
pub mod window;

#[cfg(test)]
mod edges;
#[cfg(test)]
pub(crate) mod golden;

pub use attention::{MultiHeadAttention, ScoreBias, sdpa};
pub use linear::{Linear, linear};
pub use mlp::Mlp;
pub use norm::{GroupNorm, LayerNorm, group_norm, layer_norm};
pub use precision::Precision;

use candle::{DType, Result, Tensor};

use kernels::Elementwise;

/// Inverse of the sigmoid, with the argument kept `eps` = 1e-3 away from 0 and 1.
///
/// Follows `inverse_sigmoid`,
/// <https://github.com/facebookresearch/sam3/blob/99d02f2/sam3/model/model_misc.py#L19>.
pub fn inverse_sigmoid(xs: &Tensor) -> Result<Tensor> {
    const EPS: f64 = 1e-3;
    let xs = xs.clamp(0.0, 1.0)?;
    let numerator = xs.maximum(EPS)?;
    let denominator = xs.affine(-1.0, 1.0)?.maximum(EPS)?;
    (numerator / denominator)?.log()
}

/// GELU with the error function, for any shape.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    match kernels::on_cpu_in_f32(xs) {
        true => Elementwise::Gelu.apply(xs),
        false => xs.gelu_erf(),
    }
}

/// `x * clamp(x + 3, 0, 6) / 6`, for any shape.
pub fn hard_swish(xs: &Tensor) -> Result<Tensor> {
    match kernels::on_cpu_in_f32(xs) {
        true => Elementwise::HardSwish.apply(xs),
        false => xs * (((xs + 3.)?.clamp(0., 6.)? / 6.)?),
    }
}

/// An elementwise function on any device.
fn activate(xs: &Tensor, activation: Option<Elementwise>) -> Result<Tensor> {
    match activation {
        None => Ok(xs.clone()),
        Some(Elementwise::Gelu) => gelu(xs),
        Some(Elementwise::HardSwish) => hard_swish(xs),
    }
}

/// Whether `xs` is f16 or bf16 on the CPU. candle sums products with few rows in f16 there.
fn is_half_on_cpu(xs: &Tensor) -> bool {
    xs.device().is_cpu() && matches!(xs.dtype(), DType::F16 | DType::BF16)
}

/// Runs `f` in f32 and returns its result in the dtype of `xs`.
pub(crate) fn in_f32(xs: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match xs.dtype() {
        DType::F32 => f(xs),
        dtype => f(&xs.to_dtype(DType::F32)?)?.to_dtype(dtype),
    }
}
