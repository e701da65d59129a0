//! What a model asks of a checkpoint, found by building it on zeros.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use candle::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use super::Checkpoint;
use super::names::{listing, matches};
use crate::error::{Error, Result};

/// What a model asked for while it was built, by official names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// Everything it asked for that the checkpoint has in the right shape.
    pub read: BTreeSet<String>,
    /// What the checkpoint lacks.
    pub missing: BTreeSet<String>,
    /// What the checkpoint has in another shape: name, shape in the file, shape asked for.
    pub misshaped: BTreeSet<(String, Vec<usize>, Vec<usize>)>,
}

impl Survey {
    /// True if a model can be loaded.
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
    /// Builds a model of these weights, after a dry run that compares what it asks for with what
    /// there is: the error lists all differences, before any tensor is read.
    ///
    /// `left_out` are prefixes of whole segments of what the model leaves unread on purpose; `*`
    /// stands for any segment or part of one and a leading `**` for any number of segments. What
    /// [`Checkpoint::with_part`] supplies need not be read.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing the tensors that are missing, misshaped or left over, or if
    /// one cannot be read; [`Error::Tensor`] if `build` fails otherwise.
    pub fn build<T>(
        &self,
        dtype: DType,
        device: &Device,
        left_out: &[&str],
        build: impl Fn(VarBuilder) -> candle::Result<T>,
    ) -> Result<T> {
        self.compare(&self.survey(&build)?, left_out)?;
        build(self.var_builder(dtype, device))
            .map_err(|error| Error::checkpoint(self.path(), error.to_string()))
    }

    /// Builds a model on zeros and notes what it asks for.
    ///
    /// Nothing is read from the file, and the zeros take no memory as long as no layer rearranges
    /// them.
    ///
    /// # Errors
    /// [`Error::Tensor`] if `build` fails for another reason than what the survey says.
    pub fn survey<T>(&self, build: impl FnOnce(VarBuilder) -> candle::Result<T>) -> Result<Survey> {
        let survey = Arc::new(Mutex::new(Survey::default()));
        let dry = Dry {
            checkpoint: self.clone(),
            survey: survey.clone(),
        };
        // In f64 no layer packs its weight.
        let vb = VarBuilder::from_backend(Box::new(dry), DType::F64, Device::Cpu);
        let built = build(vb).map(drop);
        let survey = survey.lock().unwrap_or_else(PoisonError::into_inner);
        match built {
            Err(error) if survey.is_complete() => Err(error.into()),
            _ => Ok(survey.clone()),
        }
    }

    /// Everything in which this checkpoint differs from what a model asks for.
    pub(crate) fn compare(&self, survey: &Survey, left_out: &[&str]) -> Result<()> {
        let mut report = vec![];
        let mut tell = |what: &str, names: Vec<String>| {
            if !names.is_empty() {
                report.push(format!("{} tensors {what}:{}", names.len(), listing(names)));
            }
        };
        tell("are missing", survey.missing.iter().cloned().collect());
        let misshaped = survey.misshaped.iter();
        let misshaped =
            misshaped.map(|(name, got, want)| format!("{name}: {got:?} instead of {want:?}"));
        tell("have another shape", misshaped.collect());
        let unreadable = survey.read.iter().filter(|name| self.dtype(name).is_none());
        let unreadable = unreadable.filter_map(|name| {
            let part = self.entry(name)?.parts.first()?;
            Some(format!("{name}: {}", part.dtype))
        });
        tell(
            "have a number format that is not read, save them as f32, f16 or bf16",
            unreadable.collect(),
        );
        let is_surplus = |name: &&str| {
            !survey.read.contains(*name)
                && !survey.misshaped.iter().any(|(other, ..)| other == name)
                && !left_out.iter().any(|part| matches(name, part).is_some())
        };
        let surplus = self.own_names().filter(is_surplus).map(String::from);
        tell("belong to no part of the model", surplus.collect());
        if report.is_empty() {
            return Ok(());
        }
        let problem = format!("({} layout) {}", self.layout().name, report.join("\n"));
        Err(Error::checkpoint(self.path(), problem))
    }
}

impl Dry {
    fn note(&self, name: &str, shape: Option<&Shape>) {
        let mut survey = self.survey.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.checkpoint.shape(name), shape.map(Shape::dims)) {
            (None, _) => _ = survey.missing.insert(name.into()),
            (Some(got), Some(want)) if got != want => {
                let problem = (name.into(), got.to_vec(), want.to_vec());
                survey.misshaped.insert(problem);
            }
            (Some(_), _) => _ = survey.read.insert(name.into()),
        }
    }
}

/// One zero that is seen everywhere: no bytes vouch for the shape that a model asks for.
fn zeros(shape: impl Into<Shape>, dtype: DType, device: &Device) -> candle::Result<Tensor> {
    Tensor::zeros((), dtype, device)?.broadcast_as(shape)
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
        self.note(name, Some(&shape));
        zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle::Result<Tensor> {
        self.note(name, None);
        match self.checkpoint.shape(name) {
            Some(shape) => zeros(shape, dtype, device),
            None => Err(candle::Error::msg(self.checkpoint.missing_message(name))),
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
        let got = checkpoint().build(DType::F32, &Device::Cpu, &[], build);
        let got = got.unwrap_err().to_string();
        for part in [
            "(SAM 3 layout) 4 tensors are missing:",
            "\n  a.bias\n  b.bias\n  c.{weight,bias} (2)",
            "1 tensors have another shape:\n  b.weight: [3, 3] instead of [3, 2]",
        ] {
            assert!(got.contains(part), "{got}");
        }
        assert!(!got.contains("belong to no part"), "{got}");
    }

    #[test]
    fn what_is_left_over_is_an_error_unless_left_out_on_purpose() {
        let build = |left_out: &[&str]| {
            let build = |vb: VarBuilder| vb.get((2, 3), "a.weight");
            checkpoint().build(DType::F32, &Device::Cpu, left_out, build)
        };
        assert_eq!(build(&["b"]).unwrap().dims(), [2, 3]);
        let got = build(&["a"]).unwrap_err().to_string();
        let want = "1 tensors belong to no part of the model:\n  b.weight";
        assert!(got.ends_with(want), "{got}");
    }

    #[test]
    fn a_failure_of_the_model_itself_is_passed_on() {
        let fail = |_: VarBuilder| candle::bail!("another reason") as candle::Result<()>;
        let got = checkpoint().build(DType::F32, &Device::Cpu, &[], fail);
        assert!(matches!(got, Err(Error::Tensor(_))));
    }
}
