//! Floor 0: tensors in, tensors out; knows no model.
//!
//! Shape letters used throughout: b batch, n tokens, m keys, c channels, h w grid, q queries.

pub mod attention;
pub mod conv;
pub mod conv_transpose;
pub(crate) mod draw;
pub mod feed_forward;
pub mod int8;
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
pub(crate) mod golden;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use kernels::random as noise;

pub use attention::{MultiHeadAttention, ScoreBias, sdpa};
pub use feed_forward::FeedForward;
pub use int8::WeightFormat;
pub use kernels::peak::multiply_adds;
pub use linear::{Linear, linear};
pub use mlp::Mlp;
pub use norm::{GroupNorm, LayerNorm, group_norm, layer_norm};
pub use precision::Precision;

use candle::{DType, Device, Layout, Result, Storage, Tensor, WithDType};

use kernels::epilogue::Activation;
use kernels::level::takes_candles_way;

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
    activate(xs, Activation::Gelu)
}

/// `x * clamp(x + 3, 0, 6) / 6`, for any shape.
pub fn hard_swish(xs: &Tensor) -> Result<Tensor> {
    activate(xs, Activation::HardSwish)
}

/// An elementwise function on any device.
fn activate(xs: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(xs.clone()),
        _ if on_cpu_in_f32(xs) => {
            let ys = with_slice(xs, |xs| activation.map(xs))?;
            Tensor::from_vec(ys, xs.shape(), &Device::Cpu)
        }
        Activation::Relu => xs.relu(),
        Activation::Gelu => xs.gelu_erf(),
        Activation::HardSwish => xs * (((xs + 3.)?.clamp(0., 6.)? / 6.)?),
    }
}

/// Whether the CPU's kernels take the tensor.
pub(crate) fn on_cpu_in_f32(xs: &Tensor) -> bool {
    !takes_candles_way() && xs.device().is_cpu() && xs.dtype() == DType::F32
}

/// Whether `device` is a GPU, or the CPU in its place, see [`takes_candles_way`].
pub(crate) fn on_gpu(device: &Device) -> bool {
    !device.is_cpu() || takes_candles_way()
}

/// The elements of a f32 tensor on the CPU: all of a contiguous one, for another one those from the
/// first on to the end of its storage.
fn cpu_slice<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    let Storage::Cpu(storage) = storage else {
        candle::bail!("this kernel needs a tensor on the CPU")
    };
    let all = storage.as_slice()?;
    Ok(match layout.contiguous_offsets() {
        Some((start, end)) => &all[start..end],
        None => &all[layout.start_offset()..],
    })
}

/// What `f` makes of the elements of a f32 tensor on the CPU, by rows.
fn with_slice<T>(xs: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    f(cpu_slice(&storage, layout)?)
}

/// A weight without gaps, as candle's operations want it. The zeros of a survey, one number that is seen
/// everywhere, stay that: the weights of a whole model would take gigabytes.
fn without_gaps(weight: &Tensor) -> Result<Tensor> {
    match weight.stride().iter().all(|stride| *stride == 0) {
        true => Ok(weight.clone()),
        false => weight.contiguous(),
    }
}

/// The elements of a tensor on the CPU, by rows, for a kernel that keeps or packs them.
fn on_host<D: WithDType>(xs: &Tensor) -> Result<Vec<D>> {
    if !xs.device().is_cpu() {
        candle::bail!("this kernel needs a tensor on the CPU");
    }
    xs.flatten_all()?.to_vec1()
}

/// The values of a vector that a kernel reads, if there is one.
fn values(xs: Option<&Tensor>) -> Result<Option<Vec<f32>>> {
    xs.map(on_host).transpose()
}

/// Whether `xs` is f16 or bf16 on the CPU. candle sums products with few rows in f16 there.
fn is_half_on_cpu(xs: &Tensor) -> bool {
    !takes_candles_way() && xs.device().is_cpu() && matches!(xs.dtype(), DType::F16 | DType::BF16)
}

/// Runs `f` in f32 and returns its result in the dtype of `xs`.
pub(crate) fn in_f32(xs: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match xs.dtype() {
        DType::F32 => f(xs),
        dtype => f(&xs.to_dtype(DType::F32)?)?.to_dtype(dtype),
    }
}
