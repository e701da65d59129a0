//! Lists everything that is wrong with a checkpoint instead of the first thing.

use super::Checkpoint;
use super::names::listing;
use crate::error::{Error, Result};
use candle::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
struct Problems {
    missing: Vec<String>,
    misshaped: Vec<String>,
}

/// Answers every request with zeros and notes those the checkpoint cannot answer.
struct Dry {
    checkpoint: Checkpoint,
    problems: Arc<Mutex<Problems>>,
}

impl Checkpoint {
    /// Builds a model on zeros and reports every tensor that is missing or misshaped.
    ///
    /// Nothing is read from the file or recorded as read. The zeros take no memory, but what
    /// `build` computes from them may; so this is for after a failed load rather than before each.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors; [`Error::Tensor`] if `build` fails otherwise.
    pub fn verify<T>(&self, build: impl FnOnce(VarBuilder) -> candle::Result<T>) -> Result<()> {
        let problems = Arc::new(Mutex::new(Problems::default()));
        let dry = Dry {
            checkpoint: self.clone(),
            problems: problems.clone(),
        };
        let built = build(VarBuilder::from_backend(
            Box::new(dry),
            DType::F32,
            Device::Cpu,
        ));
        let problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = vec![];
        if !problems.missing.is_empty() {
            let names = listing(problems.missing.iter().map(String::as_str));
            report.push(format!(
                "{} tensors are missing:{names}",
                problems.missing.len()
            ));
        }
        if !problems.misshaped.is_empty() {
            let first = problems.misshaped.iter().take(10);
            let lines: String = first.map(|line| format!("\n  {line}")).collect();
            let n = problems.misshaped.len();
            report.push(format!(
                "{n} tensors have another shape, the first ones:{lines}"
            ));
        }
        if report.is_empty() {
            return built.map(drop).map_err(Error::from);
        }
        let problem = format!("({} layout) {}", self.layout().name, report.join("\n"));
        Err(Error::checkpoint(self.path(), problem))
    }
}

impl Dry {
    fn note(&self, add: impl FnOnce(&mut Problems)) {
        add(&mut self.problems.lock().unwrap_or_else(PoisonError::into_inner));
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
            None => self.note(|problems| problems.missing.push(name.to_string())),
            Some(got) if got != shape.dims() => self.note(|problems| {
                let want = shape.dims();
                problems
                    .misshaped
                    .push(format!("{name}: {got:?} instead of {want:?}"));
            }),
            Some(_) => {}
        }
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle::Result<Tensor> {
        match self.checkpoint.shape(name) {
            Some(shape) => Tensor::zeros((), dtype, device)?.broadcast_as(shape),
            None => {
                self.note(|problems| problems.missing.push(name.to_string()));
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
