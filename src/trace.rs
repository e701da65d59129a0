//! Tensors of every stage of one run, for finding the first stage that differs from a reference.
//!
//! ```no_run
//! use candle_sam3::{Image, Run, Sam3, Trace};
//!
//! fn stages(model: &Sam3, image: &Image) -> candle_sam3::Result<()> {
//!     let mut trace = Trace::default();
//!     model.encode_image(image, &mut Run::traced(&mut trace))?;
//!     trace.save("stages.safetensors")
//! }
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle::{DType, Tensor};
use serde::Serialize;

use crate::device::download;
use crate::write::write_file;
use crate::{Error, Result};

/// Collects named tensors, see [`crate::Run::trace`].
#[derive(Debug, Default, Clone)]
pub struct Trace {
    tensors: BTreeMap<String, Tensor>,
    prefix: String,
}

impl Trace {
    /// Puts `prefix` before the names recorded from here on.
    pub fn set_prefix(&mut self, prefix: impl Into<String>) {
        self.prefix = prefix.into();
    }

    pub(crate) fn record(&mut self, name: &str, tensor: &Tensor) {
        let name = format!("{}{name}", self.prefix);
        self.tensors.insert(name, tensor.clone());
    }

    /// Difference of each stage recorded here from the same stage of a `reference`, in the order of
    /// names; padding masks are left out.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a stage has another shape.
    pub fn differences(&self, reference: &Self) -> Result<Vec<Difference>> {
        let values =
            |t: &Tensor| -> candle::Result<Vec<f32>> { download(&t.to_dtype(DType::F32)?) };
        let mut differences = vec![];
        for (name, want) in reference.tensors().filter(|(_, t)| t.dtype().is_float()) {
            let Some(got) = self.tensors.get(name) else {
                continue;
            };
            if got.dims() != want.dims() {
                let (got, want) = (got.dims(), want.dims());
                let message = format!("`{name}` has shape {got:?} instead of {want:?}");
                return Err(candle::Error::msg(message).into());
            }
            differences.push(Difference::new(name, &values(got)?, &values(want)?));
        }
        Ok(differences)
    }

    /// The tensors recorded so far, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The recorded tensors as a safetensors file.
    ///
    /// # Errors
    /// [`Error::Tensor`] when a tensor cannot be copied from its device.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let tensors = self.tensors.iter();
        let tensors = tensors.map(|(name, t)| Ok((name, t.contiguous()?)));
        let tensors = tensors.collect::<candle::Result<Vec<_>>>()?;
        // by which a later trace knows that it may replace this one
        let about = HashMap::from([("trace".to_string(), env!("CARGO_PKG_NAME").to_string())]);
        safetensors::serialize(tensors, Some(about)).map_err(|e| Error::Tensor(e.into()))
    }

    /// Writes the recorded tensors to a safetensors file, in one step; only an earlier trace is
    /// replaced.
    ///
    /// # Errors
    /// As [`Trace::to_bytes`] and [`write_file`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_file(path, &self.to_bytes()?)
    }
}

/// Difference of a stage from a reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The stage.
    #[serde(rename = "name")]
    pub stage: String,
    /// Length of the difference over the length of the reference.
    pub relative: f64,
    /// Cosine of the angle between both.
    pub cosine: f64,
}

impl Difference {
    /// Between two lists of the same length.
    pub fn new(stage: &str, got: &[f32], want: &[f32]) -> Self {
        let (mut error, mut product, mut gots, mut wants) = (0., 0., 0., 0.);
        for (got, want) in got.iter().zip(want) {
            let (got, want) = (f64::from(*got), f64::from(*want));
            error += (got - want) * (got - want);
            product += got * want;
            gots += got * got;
            wants += want * want;
        }
        let same = gots == 0. && wants == 0.;
        Self {
            stage: stage.to_string(),
            relative: if same { 0. } else { (error / wants).sqrt() },
            cosine: if same {
                1.
            } else {
                product / (gots * wants).sqrt()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::Device;

    #[test]
    fn differences_are_relative_and_have_an_angle() {
        let [mut got, mut want] = [Trace::default(), Trace::default()];
        let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu).unwrap();
        want.record("a", &tensor([3., 4.]));
        got.record("a", &tensor([4., 3.]));
        want.record("missing here", &tensor([3., 4.]));
        want.record("b", &tensor([0., 0.]));
        got.record("b", &tensor([0., 0.]));
        let found = got.differences(&want).unwrap();
        assert_eq!(found.len(), 2);
        assert!((found[0].relative - 2f64.sqrt() / 5.).abs() < 1e-9);
        assert!((found[0].cosine - 24. / 25.).abs() < 1e-9);
        assert_eq!((found[1].relative, found[1].cosine), (0., 1.));
        got.record("a", &Tensor::new(&[1f32], &Device::Cpu).unwrap());
        assert!(got.differences(&want).is_err());
    }
}
