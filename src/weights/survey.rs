//! What a model asks of a checkpoint, told without reading it.

use super::Checkpoint;
use super::names::listing;
use crate::error::{Error, Result};
use candle::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What a model asked for while it was built, by official names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Everything it asked for that the checkpoint has in the right shape.
    pub read: BTreeSet<String>,
    /// What the checkpoint lacks.
    pub missing: BTreeSet<String>,
    /// What the checkpoint has in another shape: name, shape in the file, shape asked for.
    pub misshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Survey {
    /// Whether a model can be loaded.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.misshaped.is_empty()
    }
}

/// Answers every request with zeros and notes it.
struct Dry {
    checkpoint: Checkpoint,
    survey: Arc<Mutex<Survey>>,
}

impl Checkpoint {
    /// Builds a model on these weights; where they do not fit, the error lists everything about
    /// them that does not, and not only what `build` met first.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub(crate) fn build<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl Fn(VarBuilder) -> candle::Result<T>,
    ) -> Result<T> {
        build(self.var_builder(dtype, device)).or_else(|error| {
            self.verify(build)?;
            Err(Error::checkpoint(self.path(), error.to_string()))
        })
    }

    /// Builds a model on zeros and notes what it asks for.
    ///
    /// Nothing is read from the file or recorded as read, and the zeros take no memory as long as
    /// nobody writes to them.
    ///
    /// # Errors
    /// [`Error::Tensor`] if `build` fails for another reason than what the survey tells.
    pub fn survey<T>(&self, build: impl FnOnce(VarBuilder) -> candle::Result<T>) -> Result<Survey> {
        let survey = Arc::new(Mutex::new(Survey::default()));
        let dry = Dry {
            checkpoint: self.clone(),
            survey: survey.clone(),
        };
        // In f64 no layer packs its weight, and zeros come from the system untouched.
        let vb = VarBuilder::from_backend(Box::new(dry), DType::F64, Device::Cpu);
        let built = build(vb).map(drop);
        let survey = survey.lock().unwrap_or_else(PoisonError::into_inner);
        match built {
            Err(error) if survey.is_complete() => Err(error.into()),
            _ => Ok(survey.clone()),
        }
    }

    /// Builds a model on zeros and reports every tensor that is missing or misshaped.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors; [`Error::Tensor`] if `build` fails otherwise.
    pub fn verify<T>(&self, build: impl FnOnce(VarBuilder) -> candle::Result<T>) -> Result<()> {
        let survey = self.survey(build)?;
        if survey.is_complete() {
            return Ok(());
        }
        let mut report = vec![];
        if !survey.missing.is_empty() {
            let names = listing(survey.missing.iter().map(String::as_str));
            let n = survey.missing.len();
            report.push(format!("{n} tensors are missing:{names}"));
        }
        if !survey.misshaped.is_empty() {
            let first = survey.misshaped.iter().take(10);
            let lines: String = first
                .map(|(name, got, want)| format!("\n  {name}: {got:?} instead of {want:?}"))
                .collect();
            let n = survey.misshaped.len();
            report.push(format!(
                "{n} tensors have another shape, the first ones:{lines}"
            ));
        }
        let problem = format!("({} layout) {}", self.layout().name, report.join("\n"));
        Err(Error::checkpoint(self.path(), problem))
    }
}

impl Dry {
    fn note(&self, add: impl FnOnce(&mut Survey)) {
        add(&mut self.survey.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn note_missing(&self, name: &str) {
        self.note(|survey| {
            survey.missing.insert(name.to_string());
        });
    }

    fn note_read(&self, name: &str) {
        self.note(|survey| {
            survey.read.insert(name.to_string());
        });
    }
}

impl SimpleBackend for Dry {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle::Result<Tensor> {
        match self.checkpoint.shape(name) {
            None => self.note_missing(name),
            Some(got) if got != shape.dims() => {
                let problem = (name.to_string(), got.to_vec(), shape.dims().to_vec());
                self.note(|survey| survey.misshaped.push(problem));
            }
            Some(_) => self.note_read(name),
        }
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle::Result<Tensor> {
        match self.checkpoint.shape(name) {
            Some(shape) => {
                self.note_read(name);
                Tensor::zeros(shape, dtype, device)
            }
            None => {
                self.note_missing(name);
                Err(candle::Error::msg(self.checkpoint.missing_message(name)))
            }
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let shapes = [("a.weight", vec![2, 3]), ("b.weight", vec![3, 3])];
        let shapes = shapes.map(|(name, shape)| (name.to_string(), shape, DType::F32));
        Checkpoint::from_shapes(shapes).unwrap()
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let build = |vb: VarBuilder| {
            candle_nn::linear(3, 2, vb.pp("a"))?;
            candle_nn::linear(2, 3, vb.pp("b"))?;
            candle_nn::linear(1, 1, vb.pp("c"))
        };
        let survey = checkpoint().survey(build).unwrap();
        assert_eq!(survey.read.into_iter().collect::<Vec<_>>(), ["a.weight"]);
        let got = checkpoint().verify(build).unwrap_err().to_string();
        for part in [
            "(SAM 3 layout) 4 tensors are missing:",
            "\n  a.bias\n  b.bias\n  c.{weight,bias} (2)",
            "1 tensors have another shape, the first ones:\n  b.weight: [3, 3] instead of [3, 2]",
        ] {
            assert!(got.contains(part), "{got}");
        }
    }

    #[test]
    fn a_fitting_model_passes_and_nothing_counts_as_read() {
        let checkpoint = checkpoint();
        checkpoint.verify(|vb| vb.get((2, 3), "a.weight")).unwrap();
        assert_eq!(checkpoint.unread(), ["a.weight", "b.weight"]);
        let other = checkpoint.verify(|_| candle::bail!("another reason") as candle::Result<()>);
        assert!(matches!(other, Err(Error::Tensor(_))));
    }
}
