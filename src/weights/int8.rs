//! Weights of 8 bits: symmetric, with a scale for each row.
//!
//! A file holds such a weight `x` as I8, and beside it `x_scale` as F32, one number for each output
//! channel: `x[i] * x_scale[i]` is what it stands for. [`Checkpoint::quantized`](super::Checkpoint)
//! makes them of other files as they are read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use rayon::prelude::*;

/// Says of a tensor, by its official name, whether it is to be of 8 bits. Only weights of at least two
/// axes can be.
pub type Choice = fn(&str) -> bool;

/// What is added to the name of a weight for its scales; the layers in `nn` ask by it.
const SUFFIX: &str = "_scale";

/// The name of the scales of `weight`.
pub(super) fn scale_of(weight: &str) -> String {
    format!("{weight}{SUFFIX}")
}

/// The weight whose scales have this name.
pub(super) fn weight_of(scale: &str) -> Option<&str> {
    scale.strip_suffix(SUFFIX)
}

/// The bits of i8, row by row, and the scale of each row.
pub(super) struct Quantized {
    pub bytes: Vec<u8>,
    pub scales: Vec<f32>,
}

/// The nearest multiples of a scale by which the largest value of the row becomes 127.
///
/// # Errors
/// When a value is not finite.
pub(super) fn quantize(values: &[f32], rows: usize) -> Result<Quantized> {
    const MOST: f32 = 127.;
    /// Here f32 holds integers alone: adding it rounds to the nearest, halves to the even one. The function
    /// of the standard library is a call for each number where SSE4.1 is not a given.
    const INTEGERS: f32 = 12_582_912.;
    let width = values.len() / rows.max(1);
    let (mut bytes, mut scales) = (vec![0; values.len()], vec![0f32; rows]);
    if width > 0 {
        let rows = bytes.par_chunks_mut(width).zip(values.par_chunks(width));
        rows.zip(&mut scales).for_each(|((bytes, row), scale)| {
            // Magnitudes are in the order of their bits, what is not finite above all.
            let magnitudes = row.iter().map(|x| x.abs().to_bits());
            let most = f32::from_bits(magnitudes.fold(0, u32::max));
            *scale = most / MOST;
            let inverse = MOST / most;
            if !most.is_finite() {
                *scale = f32::NAN;
            } else if inverse.is_finite() {
                for (byte, x) in bytes.iter_mut().zip(row) {
                    let x = (x * inverse).clamp(-MOST, MOST);
                    *byte = (x + INTEGERS - INTEGERS) as i8 as u8;
                }
            }
        });
    }
    match scales.iter().any(|scale| scale.is_nan()) {
        true => bail!("it holds values that are not finite"),
        false => Ok(Quantized { bytes, scales }),
    }
}

/// Weights that are made 8 bits as they are asked for.
struct Quantizing<B> {
    inner: B,
    choice: Choice,
    /// Scales of weights that were asked for.
    scales: Mutex<HashMap<String, Vec<f32>>>,
}

/// A builder over `backend`; the weights that `choice` names are made 8 bits.
pub(super) fn builder(
    backend: impl SimpleBackend + 'static,
    choice: Option<Choice>,
    dtype: DType,
    device: &Device,
) -> VarBuilder<'static> {
    let backend: Box<dyn SimpleBackend> = match choice {
        None => Box::new(backend),
        Some(choice) => Box::new(Quantizing {
            inner: backend,
            choice,
            scales: Mutex::default(),
        }),
    };
    VarBuilder::from_backend(backend, dtype, device.clone())
}

impl<B: SimpleBackend> SimpleBackend for Quantizing<B> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let scales = || self.scales.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scales) = scales().remove(name) {
            return Tensor::from_vec(scales, shape, device);
        }
        let scale = scale_of(name);
        if dtype != DType::U8 || !(self.choice)(name) || self.inner.contains_tensor(&scale) {
            return self.inner.get(shape, name, init, dtype, device);
        }
        let rows = shape.dims().first().copied().unwrap_or(1);
        let exact = self
            .inner
            .get(shape.clone(), name, init, DType::F32, &Device::Cpu)?;
        let made = quantize(&exact.flatten_all()?.to_vec1::<f32>()?, rows)
            .map_err(|error| error.context(format!("`{name}` cannot be made 8 bits")))?;
        scales().insert(scale, made.scales);
        Tensor::from_vec(made.bytes, shape, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.inner.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let makes = |weight: &str| (self.choice)(weight) && self.inner.contains_tensor(weight);
        self.inner.contains_tensor(name) || weight_of(name).is_some_and(makes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_a_row_becomes_127_and_all_are_within_half_a_step() {
        let values = [1., -2., 0.5, 0., 0., 0., 1e-3, 1e-3, -3e-3];
        let made = quantize(&values, 3).unwrap();
        let bytes: Vec<i8> = made.bytes.iter().map(|b| *b as i8).collect();
        assert_eq!(bytes, [64, -127, 32, 0, 0, 0, 42, 42, -127]);
        assert_eq!(made.scales[1], 0.);
        for (i, (x, byte)) in values.iter().zip(&bytes).enumerate() {
            let scale = made.scales[i / 3];
            assert!(
                (x - f32::from(*byte) * scale).abs() <= 0.5001 * scale,
                "{x}"
            );
        }
    }

    #[test]
    fn tiny_rows_are_zeros_and_what_is_not_finite_is_an_error() {
        let made = quantize(&[1e-42, -1e-42, 1., 2.], 2).unwrap();
        assert_eq!(made.bytes[..2], [0, 0]);
        assert!(quantize(&[f32::NAN, 1.], 1).is_err());
        assert!(quantize(&[1., f32::INFINITY], 1).is_err());
        assert!(quantize(&[], 0).unwrap().bytes.is_empty());
        assert_eq!(quantize(&[], 3).unwrap().scales, [0.; 3]);
    }
}
