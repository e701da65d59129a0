//! Linear layers.

use std::fmt;
use std::sync::Arc;

use candle::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::int8::Int8Rows;
use super::kernels::epilogue::{Activation, Bias, Epilogue};
use super::kernels::int8::{self, Int8Weight};
use super::kernels::matmul::{self, PackedWeight};
use super::kernels::view::{Rows, elements};
use super::precision::Precision;
use super::{activate, cpu_slice, is_half_on_cpu, on_cpu_in_f32, values, with_slice, without_gaps};
use crate::run;

/// `x weight^T + bias`: (…, in) -> (…, out)
///
/// On the CPU in f32 the weight is packed when the layer is built, for the current [`Precision`],
/// and only kept that way. A weight of 8 bits stays one, on the CPU.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>, // (out)
}

#[derive(Clone)]
enum Weight {
    Plain(Tensor), // (out, in)
    Packed(Arc<PackedWeight>),
    Int8(Arc<Int8Weight>),
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(weight) => write!(f, "{:?}", weight.dims()),
            Self::Packed(weight) => write!(f, "{:?} packed", weight.dims()),
            Self::Int8(weight) => write!(f, "{:?} of 8 bits", weight.dims()),
        }
    }
}

/// Reads `weight` (output, input), of 8 bits if it has scales, and `bias` (output).
pub fn linear(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    let bias = Some(vb.get(output, "bias")?);
    match Int8Rows::read(&[output, input], "weight", &vb)? {
        Some(rows) => Linear::from_int8(&rows, bias),
        None => Linear::new(&vb.get((output, input), "weight")?, bias),
    }
}

impl Linear {
    /// From a `weight` (out, in) and a `bias` (out).
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        if !on_cpu_in_f32(weight) {
            return Ok(Self {
                weight: Weight::Plain(without_gaps(weight)?),
                bias,
            });
        }
        let (out, input) = weight.dims2()?;
        let format = Precision::current().format();
        let pack = |weight: &[f32]| Ok(PackedWeight::new(weight, out, input, format));
        Ok(Self {
            weight: Weight::Packed(Arc::new(with_slice(weight, pack)?)),
            bias: bias.map(|bias| bias.contiguous()).transpose()?,
        })
    }

    /// From a weight of 8 bits and a `bias` (out).
    pub(super) fn from_int8(rows: &Int8Rows, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self {
            weight: Weight::Int8(Arc::new(rows.pack()?)),
            bias: bias.map(|bias| bias.contiguous()).transpose()?,
        })
    }

    /// The packed weight and the bias, where the layer has them for the CPU's kernels.
    pub(super) fn packed(&self) -> Result<Option<(&PackedWeight, Vec<f32>)>> {
        match &self.weight {
            Weight::Packed(weight) => {
                let bias = values(self.bias.as_ref())?;
                Ok(Some((
                    weight,
                    bias.unwrap_or_else(|| vec![0.; weight.dims().0]),
                )))
            }
            _ => Ok(None),
        }
    }

    /// The layer, then ReLU.
    pub fn forward_relu(&self, xs: &Tensor) -> Result<Tensor> {
        self.run(xs, Activation::Relu, None)
    }

    /// The layer, then GELU with the error function.
    pub fn forward_gelu(&self, xs: &Tensor) -> Result<Tensor> {
        self.run(xs, Activation::Gelu, None)
    }

    /// The layer, added to `residual` (…, out).
    pub fn forward_onto(&self, residual: &Tensor, xs: &Tensor) -> Result<Tensor> {
        self.run(xs, Activation::Identity, Some(residual))
    }

    fn run(
        &self,
        xs: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        run::check()?;
        match &self.weight {
            Weight::Packed(weight) => {
                let product = |xs: Rows, end: &Epilogue| matmul::matmul(xs, weight, end);
                self.run_packed(weight.dims(), xs, activation, residual, product)
            }
            Weight::Int8(weight) => {
                let product = |xs: Rows, end: &Epilogue| int8::matmul(xs, weight, end);
                self.run_packed(weight.dims(), xs, activation, residual, product)
            }
            Weight::Plain(weight) if is_half_on_cpu(xs) => {
                let f32 = |xs: &Tensor| xs.to_dtype(DType::F32);
                let exact = Self {
                    weight: Weight::Plain(f32(weight)?),
                    bias: self.bias.as_ref().map(f32).transpose()?,
                };
                let residual = residual.map(f32).transpose()?;
                let ys = exact.run(&f32(xs)?, activation, residual.as_ref())?;
                ys.to_dtype(xs.dtype())
            }
            Weight::Plain(weight) => {
                let ys = plain(xs, weight, self.bias.as_ref())?;
                let ys = activate(&ys, activation)?;
                match residual {
                    None => Ok(ys),
                    Some(residual) => residual + ys,
                }
            }
        }
    }

    fn run_packed(
        &self,
        (out, input): (usize, usize),
        xs: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
        product: impl FnOnce(Rows, &Epilogue) -> Result<Vec<f32>>,
    ) -> Result<Tensor> {
        let mut dims = xs.dims().to_vec();
        if dims.last() != Some(&input) || !on_cpu_in_f32(xs) {
            candle::bail!(
                "a linear layer of {input} inputs got {:?} {:?}",
                xs.dtype(),
                xs.dims()
            );
        }
        if let Some(last) = dims.last_mut() {
            *last = out;
        }
        let rows = elements(&dims[..dims.len() - 1])?;
        let xs = xs.contiguous()?;
        let (storage, layout) = xs.storage_and_layout();
        let xs = Rows::new(cpu_slice(&storage, layout)?, input, rows, input);
        let bias = values(self.bias.as_ref())?;
        if let Some(other) = residual.filter(|r| r.dims() != dims || !on_cpu_in_f32(r)) {
            candle::bail!("{:?} cannot be added to {dims:?}", other.dims());
        }
        let residual = residual.map(Tensor::contiguous).transpose()?;
        let residual = residual.as_ref().map(Tensor::storage_and_layout);
        let residual = match &residual {
            None => None,
            Some((storage, layout)) => Some(Rows::new(cpu_slice(storage, layout)?, out, rows, out)),
        };
        let epilogue = Epilogue {
            bias: bias.as_deref().map_or(Bias::None, Bias::Columns),
            activation,
            residual,
        };
        let ys = product(xs, &epilogue)?;
        Tensor::from_vec(ys, dims, &Device::Cpu)
    }
}

/// candle's own layer gives other numbers for a transposed view, and takes no empty batch.
fn plain(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out, input) = weight.dims2()?;
    let mut dims = xs.dims().to_vec();
    let Some(last) = dims.last_mut().filter(|last| **last == input) else {
        candle::bail!("a linear layer of {input} inputs got {:?}", xs.dims());
    };
    *last = out;
    let rows = elements(&dims[..dims.len() - 1])?;
    if rows == 0 {
        return Tensor::zeros(dims, xs.dtype(), xs.device());
    }
    let ys = xs.contiguous()?.reshape((rows, input))?;
    let ys = ys.matmul(&weight.t()?)?.reshape(dims)?;
    match bias {
        None => Ok(ys),
        Some(bias) => ys.broadcast_add(bias),
    }
}

impl Module for Linear {
    /// (…, in) -> (…, out)
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.run(xs, Activation::Identity, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::golden::assert_close;
    use crate::nn::kernels::level::takes_candles_way;

    #[test]
    fn the_packed_layer_equals_candles() -> Result<()> {
        let dev = &Device::Cpu;
        let (weight, bias) = (
            Tensor::randn(0f32, 1., (37, 20), dev)?,
            Tensor::randn(0f32, 1., 37, dev)?,
        );
        let layer = Linear::new(&weight, Some(bias.clone()))?;
        let want = candle_nn::Linear::new(weight, Some(bias));
        // one with an offset and one that is not contiguous
        let xs = Tensor::randn(0f32, 1., (4, 20, 6), dev)?.transpose(1, 2)?;
        for xs in [xs.narrow(0, 1, 2)?, xs.contiguous()?.narrow(0, 1, 2)?] {
            let ys = want.forward(&xs.contiguous()?)?;
            assert_close(&layer.forward(&xs)?, &ys, 1e-6);
            assert_close(&layer.forward_relu(&xs)?, &ys.relu()?, 1e-6);
            assert_close(&layer.forward_gelu(&xs)?, &ys.gelu_erf()?, 1e-6);
            assert_close(&layer.forward_onto(&ys, &xs)?, &(&ys + &ys)?, 1e-6);
        }
        Ok(())
    }

    #[test]
    fn a_weight_of_eight_bits_is_near_the_one_it_stands_for() -> Result<()> {
        if takes_candles_way() {
            return Ok(()); // weights of 8 bits are refused there
        }
        let dev = &Device::Cpu;
        let values = crate::nn::kernels::random(37 * 20, 1);
        let bytes: Vec<u8> = values.iter().map(|x| (x * 254.) as i8 as u8).collect();
        let exact: Vec<f32> = bytes.iter().map(|b| f32::from(*b as i8) / 64.).collect();
        let bias = Tensor::randn(0f32, 1., 37, dev)?;
        let tensors = [
            ("weight", Tensor::from_vec(bytes, (37, 20), dev)?),
            ("weight_scale", Tensor::full(1f32 / 64., 37, dev)?),
            ("bias", bias.clone()),
        ];
        let tensors = tensors.map(|(name, tensor)| (name.to_string(), tensor));
        let vb = VarBuilder::from_tensors(tensors.into(), DType::F32, dev);
        let layer = linear(20, 37, vb)?;
        let exact = Linear::new(&Tensor::from_vec(exact, (37, 20), dev)?, Some(bias))?;
        let xs = Tensor::randn(0f32, 1., (4, 20, 6), dev)?.transpose(1, 2)?;
        for xs in [xs.narrow(0, 1, 2)?, xs.contiguous()?.narrow(0, 1, 2)?] {
            let ys = exact.forward(&xs)?;
            assert_close(&layer.forward(&xs)?, &ys, 1e-2);
            assert_close(&layer.forward_gelu(&xs)?, &exact.forward_gelu(&xs)?, 1e-2);
            assert_close(&layer.forward_onto(&ys, &xs)?, &(&ys + &ys)?, 1e-2);
        }
        Ok(())
    }

    #[test]
    fn the_zeros_of_a_survey_take_no_memory() -> Result<()> {
        let zeros = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        Linear::new(&zeros.broadcast_as((1 << 20, 1 << 20))?, None)?; // 8 TiB
        Ok(())
    }

    #[test]
    fn half_precision_on_the_cpu_sums_in_f32() -> Result<()> {
        if takes_candles_way() {
            return Ok(()); // as on a GPU, whose products sum in f32
        }
        let dev = &Device::Cpu;
        let random = |rows, seed| {
            let values = crate::nn::kernels::random(rows * 5000, seed);
            Tensor::from_vec(values, (rows, 5000), dev)?.to_dtype(DType::F16)
        };
        let (weight, xs) = (random(3, 1)?, random(1, 2)?);
        let got = Linear::new(&weight, None)?.forward(&xs)?;
        let f32 = |xs: &Tensor| xs.to_dtype(DType::F32);
        let want = f32(&xs)?
            .matmul(&f32(&weight)?.t()?)?
            .to_dtype(DType::F16)?;
        assert_eq!(f32(&got)?.to_vec2::<f32>()?, f32(&want)?.to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn a_wrong_width_or_type_is_an_error() -> Result<()> {
        let dev = &Device::Cpu;
        let layer = Linear::new(&Tensor::zeros((3, 4), DType::F32, dev)?, None)?;
        assert!(
            layer
                .forward(&Tensor::zeros((2, 5), DType::F32, dev)?)
                .is_err()
        );
        assert!(
            layer
                .forward(&Tensor::zeros((2, 4), DType::F64, dev)?)
                .is_err()
        );
        Ok(())
    }
}
