//! Weights of 8 bits: what files and loading hand to layers.
//!
//! A weight `x` of 8 bits comes with a tensor `x_scale`, one number for each output channel. The
//! builder answers for its values as U8, whose bits are those of i8: candle has no such type.

use std::fmt;
use std::str::FromStr;

use candle::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::kernels::int8::{Int8Weight, check_scales};
use super::kernels::level::{has_fast_bf16, takes_candles_way};
use super::on_host;
use super::precision::Precision;
use crate::Error;

/// How a model holds the weights of its large layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WeightFormat {
    /// As the file has them: in the number format of the computation, or in 8 bits.
    #[default]
    Stored,
    /// In 8 bits, symmetric, with a scale for each output channel; activations become bytes row by row
    /// as they come. On the CPU in f32. Which layers: [`is_int8`](crate::models::int8::is_int8). Where the
    /// processor is faster at bf16, attention and the smaller layers of encoders and decoder compute in it,
    /// unless [`Precision::Highest`](crate::Precision) is asked for.
    Int8,
}

impl WeightFormat {
    /// The precision of layers among those with such weights, in a model of precision `asked`. Bytes leave
    /// errors ten times those of bf16, which takes the place of f32 where it is faster.
    pub(crate) fn precision_of_layers(self, asked: Precision) -> Precision {
        match (self, asked) {
            (Self::Int8, Precision::High) => Precision::Medium,
            _ => asked,
        }
    }

    /// Checks that a model can have weights of 8 bits.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on a GPU, or in another dtype than f32.
    pub(crate) fn check(self, device: &Device, dtype: DType) -> crate::Result<()> {
        let runs = device.is_cpu() && dtype == DType::F32 && !takes_candles_way();
        match self {
            Self::Int8 if !runs => Err(Error::Unsupported {
                what: format!(
                    "a model with weights of 8 bits on {:?} in {dtype:?}",
                    device.location()
                ),
                instead: "weights of 8 bits are for the CPU in f32; elsewhere use a file of f32, \
                          f16 or bf16, and choose the dtype there"
                    .into(),
            }),
            _ => Ok(()),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        match name {
            "stored" => Ok(Self::Stored),
            "int8" => Ok(Self::Int8),
            _ => Err(Error::Unsupported {
                what: format!("weights as {name:?}"),
                instead: "use stored or int8".into(),
            }),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored",
            Self::Int8 => "int8",
        })
    }
}

/// A weight of 8 bits on its way from a file to a layer.
pub(super) struct Int8Rows {
    /// (out, in), the bits of i8.
    bytes: Tensor,
    /// (out)
    scales: Tensor,
}

impl Int8Rows {
    /// Reads `name` (out, …) and `name_scale` (out), if the weights have the latter.
    pub fn read(shape: &[usize], name: &str, vb: &VarBuilder) -> Result<Option<Self>> {
        let scale = format!("{name}_scale");
        if !vb.contains_tensor(&scale) {
            return Ok(None);
        }
        let bytes = vb.get_with_hints_dtype(shape, name, Default::default(), DType::U8)?;
        let scales = vb.get_with_hints_dtype(shape[0], &scale, Default::default(), DType::F32)?;
        if vb.dtype() != DType::F32 {
            return Ok(None); // a survey, which only notes what is asked for
        }
        let bytes = bytes.flatten_from(1)?;
        Ok(Some(Self { bytes, scales }))
    }

    /// Some of the rows.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        Ok(Self {
            bytes: self.bytes.narrow(0, start, len)?,
            scales: self.scales.narrow(0, start, len)?,
        })
    }

    /// The rows multiplied by `factors` (out), f64: their scales take it up.
    pub fn scaled(self, factors: &Tensor) -> Result<Self> {
        let scales = (self.scales.to_dtype(DType::F64)? * factors)?;
        Ok(Self {
            scales: scales.to_dtype(DType::F32)?,
            ..self
        })
    }

    /// The weight in f32 (out, in) where products of bf16 are wanted and fast, for layers that gain
    /// nothing from bytes.
    pub fn for_bf16(&self) -> Result<Option<Tensor>> {
        if Precision::current() != Precision::Medium || !has_fast_bf16() {
            return Ok(None);
        }
        check_scales(&on_host::<f32>(&self.scales)?)?;
        let (out, input) = self.bytes.dims2()?;
        let bytes = on_host::<u8>(&self.bytes)?.into_iter();
        let signed: Vec<f32> = bytes.map(|byte| f32::from(byte as i8)).collect();
        let signed = Tensor::from_vec(signed, (out, input), &Device::Cpu)?;
        signed
            .broadcast_mul(&self.scales.reshape((out, 1))?)
            .map(Some)
    }

    pub fn pack(&self) -> Result<Int8Weight> {
        let (out, input) = self.bytes.dims2()?;
        let bytes = on_host::<u8>(&self.bytes)?;
        Int8Weight::new(&bytes, on_host(&self.scales)?, out, input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_are_for_the_cpu_in_f32() {
        let check = |format: WeightFormat, dtype| format.check(&Device::Cpu, dtype);
        assert!(check(WeightFormat::Stored, DType::F16).is_ok());
        assert_eq!(
            check(WeightFormat::Int8, DType::F32).is_ok(),
            !takes_candles_way()
        );
        let error = check(WeightFormat::Int8, DType::BF16).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("8 bits on Cpu in BF16"), "{error}");
        assert!(error.contains("use a file of f32"), "{error}");
    }

    #[test]
    fn bf16_lies_between_eight_bits_unless_the_highest_precision_is_asked_for() {
        let layers = |format: WeightFormat, asked| format.precision_of_layers(asked);
        for asked in [Precision::Highest, Precision::High, Precision::Medium] {
            assert_eq!(layers(WeightFormat::Stored, asked), asked);
        }
        let [highest, high] =
            [Precision::Highest, Precision::High].map(|asked| layers(WeightFormat::Int8, asked));
        assert_eq!([highest, high], [Precision::Highest, Precision::Medium]);
    }

    #[test]
    fn names_parse_and_others_say_what_works() {
        for format in [WeightFormat::Stored, WeightFormat::Int8] {
            assert_eq!(format.to_string().parse::<WeightFormat>().unwrap(), format);
        }
        let error = "int4".parse::<WeightFormat>().unwrap_err().to_string();
        assert!(error.contains("use stored or int8"), "{error}");
    }
}
