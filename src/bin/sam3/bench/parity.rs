//! A model held against the same one in f32 on the CPU.

use std::fmt;

use anyhow::{Result, bail};
use candle_sam3::predict::concept::{self, Options, Prompt};
use candle_sam3::predict::interactive::{self, MaskPrediction, Multimask};
use candle_sam3::trace::{Difference, Trace};
use candle_sam3::{
    DType, InteractiveModel, Model, Precision, Run, Sam3, VisualPrompt, WeightFormat,
};
use serde::Serialize;

use super::picture::Picture;

/// In f32 no stage may be further off, relative to its size.
const MAX_RELATIVE: f64 = 1e-3;
/// In half precision no stage may point elsewhere.
const MIN_COSINE: f64 = 0.999;
/// Objects whose masks are compared: those that the reference is surest of.
const OBJECTS: usize = 20;

/// How far a model is off, each stage on what the ones before it gave.
#[derive(Serialize)]
pub struct Parity {
    stages: Vec<Difference>,
    /// The least overlap (IoU) of a mask and its counterpart; random weights give masks with
    /// ragged edges, so nothing is concluded from it.
    worst_mask_iou: f64,
}

impl Parity {
    pub fn of(model: &Model, reference: &Model, picture: &Picture) -> Result<Self> {
        match (model.as_concept(), reference.as_concept()) {
            (Ok(model), Ok(reference)) => of_concepts(model, reference, picture),
            _ => of_clicks(
                model.as_interactive()?,
                reference.as_interactive()?,
                picture,
            ),
        }
    }

    /// Fails if a stage is further off than the number format explains.
    pub fn check(&self, dtype: DType, precision: Precision, weights: WeightFormat) -> Result<()> {
        let is_f32 =
            dtype == DType::F32 && precision != Precision::Medium && weights != WeightFormat::Int8;
        // NaN is within no limit.
        let is_near = |s: &Difference| match is_f32 {
            true => s.relative <= MAX_RELATIVE,
            false => s.cosine >= MIN_COSINE,
        };
        let off = self.stages.iter().filter(|s| !is_near(s));
        let off: Vec<String> = off
            .map(|s| format!("{} ({:.1e}, cosine {:.5})", s.stage, s.relative, s.cosine))
            .collect();
        if off.is_empty() {
            return Ok(());
        }
        let limit = match is_f32 {
            true => format!("a relative difference of {MAX_RELATIVE}"),
            false => format!("a cosine of {MIN_COSINE}"),
        };
        bail!("beyond {limit} from f32 on the CPU: {}", off.join(", "))
    }
}

/// The worst stage.
impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_difference = |a: &&Difference, b: &&Difference| a.relative.total_cmp(&b.relative);
        if let Some(worst) = self.stages.iter().max_by(by_difference) {
            let (name, relative, cosine) = (&worst.stage, worst.relative, worst.cosine);
            write!(
                f,
                "worst stage {name}, relative {relative:.1e}, cosine {cosine:.6}; "
            )?;
        }
        write!(f, "worst mask IoU {:.4}", self.worst_mask_iou)
    }
}

fn of_concepts(model: &Sam3, reference: &Sam3, picture: &Picture) -> Result<Parity> {
    let image = picture.decode()?;
    let prompt = [Prompt::text("wheel")];
    let every_query = Options {
        threshold: 0.,
        ..Options::default()
    };
    let run = |model: &Sam3| -> Result<_> {
        let mut trace = Trace::default();
        let run = &mut Run::traced(&mut trace);
        let embedding = model.encode_image(&image, run)?;
        let prompts = concept::encode(model, &prompt, run)?;
        let found = concept::predict(model, &embedding, &prompts, &every_query, run)?;
        let found = found.into_iter().flat_map(|found| found.instances);
        Ok((trace, found.collect::<Vec<_>>()))
    };
    let (want, wanted) = run(reference)?;
    let (got, found) = run(model)?;
    let mut surest: Vec<_> = wanted.iter().zip(&found).collect();
    surest.sort_by(|(a, _), (b, _)| b.score.total_cmp(&a.score));
    let surest = surest.iter().take(OBJECTS);
    let ious = surest.map(|(a, b)| a.mask.iou(&b.mask));
    Ok(Parity {
        stages: got.differences(&want)?,
        worst_mask_iou: ious.fold(1., f32::min).into(),
    })
}

/// Encoder and decoder together: the logits of one point's masks.
fn of_clicks(
    model: &dyn InteractiveModel,
    reference: &dyn InteractiveModel,
    picture: &Picture,
) -> Result<Parity> {
    let image = picture.decode()?;
    let [x, y] = picture.point();
    let prompt = VisualPrompt::point(x, y);
    let options = interactive::Options {
        multimask: Multimask::Three,
        ..interactive::Options::default()
    };
    let run = |model: &dyn InteractiveModel| -> Result<_> {
        let run = &mut Run::default();
        let embedding = model.encode_interactive(&image, run)?;
        Ok(interactive::predict_one(
            model, &embedding, &prompt, &options, run,
        )?)
    };
    let (want, got) = (run(reference)?, run(model)?);
    let masks = || want.masks.iter().zip(&got.masks);
    let logits = |(i, (want, got)): (usize, (&MaskPrediction, &MaskPrediction))| {
        let name = format!("low_res_logits.{i}");
        Difference::new(&name, &got.low_res_logits, &want.low_res_logits)
    };
    let ious = masks().map(|(want, got)| want.mask.iou(&got.mask));
    Ok(Parity {
        stages: masks().enumerate().map(logits).collect(),
        worst_mask_iou: ious.fold(1., f32::min).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parity(relative: f64, cosine: f64) -> Parity {
        let stage = Difference {
            stage: "trunk".to_string(),
            relative,
            cosine,
        };
        Parity {
            stages: vec![stage],
            worst_mask_iou: 1.,
        }
    }

    #[test]
    fn a_stage_far_off_fails_by_the_measure_of_its_number_format() {
        let check = |relative, cosine, dtype, precision, weights| {
            parity(relative, cosine).check(dtype, precision, weights)
        };
        let (high, stored, int8) = (Precision::High, WeightFormat::Stored, WeightFormat::Int8);
        assert!(check(1e-4, 0.9, DType::F32, high, stored).is_ok());
        for (dtype, precision, weights) in [
            (DType::BF16, high, stored),
            (DType::F32, Precision::Medium, stored),
            (DType::F32, high, int8),
        ] {
            assert!(check(0.03, 0.9995, dtype, precision, weights).is_ok());
        }
        let error = check(0.03, 0.9995, DType::F32, high, stored).unwrap_err();
        assert!(error.to_string().contains("trunk (3.0e-2"), "{error}");
        assert!(check(1e-4, 0.99, DType::F16, high, stored).is_err());
        assert!(check(1e-4, 0.98, DType::F32, high, int8).is_err());
        assert!(check(f64::NAN, f64::NAN, DType::F32, high, stored).is_err());
    }
}
