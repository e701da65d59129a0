//! Answers: what was asked of an image and what was found, in the one form that every writer takes.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mask::{BoxXyxy, Mask};
use crate::models::{Point, VisualPrompt};
use crate::predict::Instance;
use crate::predict::concept::{Exemplar, Prediction, Prompt};
use crate::predict::everything::MaskRecord;
use crate::predict::interactive::{self, MaskPrediction};

/// The answer to one prompt on one image.
///
/// Made of a prompt and its prediction, or with `try_from` of the records of the mask generator:
///
/// ```
/// use candle_sam3::output::Answer;
/// use candle_sam3::predict::concept::{Prediction, Prompt};
///
/// fn answers(prompts: &[Prompt], found: Vec<Prediction>) -> Vec<Answer> {
///     prompts.iter().zip(found).map(Answer::from).collect()
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was asked for.
    pub prompt: Description,
    /// Probability that the image shows the prompted thing at all, in 0..=1; `None` for models
    /// that do not predict it.
    pub presence: Option<f32>,
    /// The objects, in the order of the prediction.
    pub instances: Vec<Found>,
}

/// One found object.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What to call it: the text of its prompt, `exemplars` or `object`.
    pub label: String,
    /// Its pixels, at the size of the image.
    pub mask: Mask,
    /// Its box in pixels of the image: as predicted for a concept, which may reach outside the
    /// image, otherwise the box around the mask. All zeros for an empty mask.
    pub bbox: BoxXyxy,
    /// Confidence in 0..=1; for clicks and the mask generator the predicted IoU, which may exceed 1.
    pub score: f32,
    /// IoU of the masks cut at a higher and at a lower logit, in 0..=1, and 0 for an empty mask;
    /// `None` for objects of a concept.
    pub stability: Option<f32>,
    /// Where the mask generator found it; `None` for objects that were asked for.
    pub sample: Option<Sample>,
}

impl Found {
    /// An object of a concept, called `label`.
    pub fn new(label: impl Into<String>, instance: Instance) -> Self {
        Self {
            label: label.into(),
            mask: instance.mask,
            bbox: instance.bbox,
            score: instance.score,
            stability: None,
            sample: None,
        }
    }

    /// What a click or a box cut out, called `label`.
    pub fn cut_out(label: impl Into<String>, found: MaskPrediction) -> Self {
        Self {
            label: label.into(),
            bbox: found.mask.bbox().unwrap_or_default(),
            mask: found.mask,
            score: found.iou_score,
            stability: Some(found.stability_score),
            sample: None,
        }
    }
}

/// The grid point that led the mask generator to an object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// x and y in pixels of the image.
    pub point: [f64; 2],
    /// x, y, width and height of the crop that was looked at, in pixels of the image.
    pub crop_box: [usize; 4],
}

/// What a prompt asked for; empty where nothing was asked, as for the mask generator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The phrase.
    pub text: Option<String>,
    /// Boxes around examples of what is meant and of what is not.
    pub exemplars: Vec<Exemplar>,
    /// Points on the object and beside it.
    pub points: Vec<Point>,
    /// The box around the object.
    pub bbox: Option<BoxXyxy>,
}

impl Description {
    /// What the objects of this prompt are called.
    pub fn label(&self) -> &str {
        match &self.text {
            Some(text) => text,
            None if !self.exemplars.is_empty() => "exemplars",
            None => "object",
        }
    }
}

impl From<&Prompt> for Description {
    fn from(prompt: &Prompt) -> Self {
        Self {
            text: prompt.text.clone(),
            exemplars: prompt.exemplars.clone(),
            ..Self::default()
        }
    }
}

impl From<&VisualPrompt> for Description {
    fn from(prompt: &VisualPrompt) -> Self {
        Self {
            points: prompt.points.clone(),
            bbox: prompt.bbox,
            ..Self::default()
        }
    }
}

impl From<(&Prompt, Prediction)> for Answer {
    fn from((prompt, prediction): (&Prompt, Prediction)) -> Self {
        let prompt = Description::from(prompt);
        let instances = prediction.instances.into_iter();
        let instances = instances.map(|instance| Found::new(prompt.label(), instance));
        Self {
            presence: Some(prediction.presence),
            instances: instances.collect(),
            prompt,
        }
    }
}

impl From<(&VisualPrompt, interactive::Prediction)> for Answer {
    fn from((prompt, prediction): (&VisualPrompt, interactive::Prediction)) -> Self {
        let prompt = Description::from(prompt);
        let masks = prediction.masks.into_iter();
        let instances = masks.map(|found| Found::cut_out(prompt.label(), found));
        Self {
            presence: prediction.object_score.map(sigmoid),
            instances: instances.collect(),
            prompt,
        }
    }
}

impl TryFrom<&[MaskRecord]> for Answer {
    type Error = Error;

    /// # Errors
    /// As [`MaskRecord::mask`].
    fn try_from(records: &[MaskRecord]) -> Result<Self> {
        let prompt = Description::default();
        let instances = records.iter().map(|record| {
            let mask = record.mask()?;
            let [point] = record.point_coords;
            Ok(Found {
                label: prompt.label().to_string(),
                bbox: mask.bbox().unwrap_or_default(),
                score: record.predicted_iou,
                // NaN, 0 over 0, where no pixel is in either mask.
                stability: Some(if mask.is_empty() && record.stability_score.is_nan() {
                    0.0
                } else {
                    record.stability_score
                }),
                sample: Some(Sample {
                    point,
                    crop_box: record.crop_box,
                }),
                mask,
            })
        });
        Ok(Self {
            presence: None,
            instances: instances.collect::<Result<_>>()?,
            prompt,
        })
    }
}

fn sigmoid(x: f32) -> f32 {
    1. / (1. + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Rle;

    fn bar() -> Mask {
        Mask::from_fn(4, 3, |x, _| x == 1)
    }

    #[test]
    fn a_concept_keeps_its_predicted_box_and_takes_its_text_as_label() {
        let prompt = Prompt::text("wheel");
        let bbox = BoxXyxy::from([-1.0, 0.0, 2.5, 3.0]);
        let prediction = Prediction {
            presence: 0.75,
            instances: vec![Instance {
                mask: bar(),
                bbox,
                score: 0.9,
            }],
            semantic: None,
        };
        let answer = Answer::from((&prompt, prediction));
        assert_eq!(answer.prompt.text.as_deref(), Some("wheel"));
        assert_eq!(answer.presence, Some(0.75));
        let found = &answer.instances[0];
        assert_eq!((found.label.as_str(), found.bbox), ("wheel", bbox));
        assert_eq!((found.score, found.stability), (0.9, None));
    }

    #[test]
    fn exemplars_and_clicks_have_labels_too() {
        let exemplar = Exemplar {
            bbox: BoxXyxy::from([0.0, 0.0, 1.0, 1.0]),
            positive: true,
        };
        let exemplars = Prompt::exemplars(vec![exemplar]);
        assert_eq!(Description::from(&exemplars).label(), "exemplars");
        assert_eq!(Description::default().label(), "object");
    }

    #[test]
    fn a_click_is_boxed_by_its_mask_and_its_logit_becomes_a_presence() {
        let prompt = VisualPrompt::point(1.5, 2.0).and_not(0.0, 0.0);
        let click = |mask| MaskPrediction {
            mask,
            iou_score: 1.02,
            stability_score: 0.5,
            low_res_logits: vec![],
        };
        let prediction = interactive::Prediction {
            masks: vec![click(bar()), click(Mask::new(4, 3))],
            object_score: Some(0.0),
        };
        let answer = Answer::from((&prompt, prediction));
        let points: Vec<bool> = answer.prompt.points.iter().map(|p| p.on_object).collect();
        assert_eq!(points, [true, false]);
        assert_eq!(answer.presence, Some(0.5));
        let boxes: Vec<BoxXyxy> = answer.instances.iter().map(|found| found.bbox).collect();
        assert_eq!(boxes[0], BoxXyxy::from([1.0, 0.0, 2.0, 3.0]));
        assert_eq!(boxes[1], BoxXyxy::from([0.0; 4]));
    }

    #[test]
    fn records_of_the_generator_become_one_answer() {
        let record = |mask: &Mask, stability_score| MaskRecord {
            segmentation: Rle::encode(mask),
            area: mask.area(),
            bbox: [1, 0, 0, 2],
            predicted_iou: 0.9,
            point_coords: [[1.5, 2.0]],
            stability_score,
            crop_box: [0, 0, 4, 3],
        };
        let records = [record(&bar(), 0.96), record(&Mask::new(4, 3), f32::NAN)];
        let answer = Answer::try_from(&records[..]).unwrap();
        assert_eq!(answer.prompt, Description::default());
        assert_eq!(answer.instances[0].mask, bar());
        assert_eq!(answer.instances[0].sample.unwrap().point, [1.5, 2.0]);
        assert_eq!(answer.instances[1].stability, Some(0.0));
        let mut broken = records;
        broken[0].segmentation.counts.push(1);
        assert!(Answer::try_from(&broken[..]).is_err());
    }
}
