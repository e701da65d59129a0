//! Results as one JSON document.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::answer::{Answer, Found};
use super::{ImageResults, Kind};
use crate::error::{Error, Result};
use crate::mask::{BoxXyxy, Rle};
use crate::models::Point;

/// Everything that was found in one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Which image.
    pub image: ImageEntry,
    /// Name of the model.
    pub model: String,
    /// How the objects were asked for: `text`, `interactive` or `everything`.
    pub kind: Kind,
    /// One entry for each prompt, in the order they were given.
    pub prompts: Vec<PromptEntry>,
    /// Milliseconds for each stage, in the order they ran; see [`Document::add_timing`].
    pub timings_ms: Map<String, Value>,
}

impl Document {
    /// The document of one image.
    pub fn new(results: &ImageResults) -> Self {
        let mut document = Self {
            image: ImageEntry {
                path: results.path.to_string(),
                width: results.image.width(),
                height: results.image.height(),
                source: results.source.map(str::to_string),
                warnings: results.warnings.to_vec(),
            },
            model: results.model.to_string(),
            kind: results.kind,
            prompts: results.answers.iter().map(PromptEntry::from).collect(),
            timings_ms: Map::new(),
        };
        for (stage, elapsed) in results.timings {
            document.add_timing(stage, *elapsed);
        }
        document
    }

    /// The document as JSON.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a number that is NaN or infinite: it would be written as `null`.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::argument(error.to_string()))
    }

    /// Records how long a stage took, in milliseconds with two decimals.
    pub fn add_timing(&mut self, stage: &str, elapsed: Duration) {
        let milliseconds = rounded(elapsed.as_secs_f64() * 1e3, 2);
        self.timings_ms
            .insert(stage.to_string(), milliseconds.into());
    }
}

/// The image of a [`Document`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Where it was read from, as the user named it.
    pub path: String,
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// See [`ImageResults::source`]; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What the image was used with a caveat for; left out when there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A prompt and what was found by it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptEntry {
    /// The phrase; `null` when there was none.
    pub text: Option<String>,
    /// Example boxes; left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exemplars: Vec<ExemplarEntry>,
    /// Points on and beside the object; left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
    /// The box of the object, in pixels; left out when there is none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "box_of_two_decimals"
    )]
    pub box_xyxy: Option<BoxXyxy>,
    /// How sure the model is that the image shows the prompted thing at all, in 0..=1; `null` for
    /// models that do not say.
    #[serde(serialize_with = "score")]
    pub presence: Option<f32>,
    /// What was found.
    pub instances: Vec<InstanceEntry>,
}

/// An example box of a [`PromptEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ExemplarEntry {
    /// The box in pixels.
    #[serde(serialize_with = "box_of_two_decimals")]
    pub box_xyxy: BoxXyxy,
    /// Whether it shows the thing or something else.
    pub positive: bool,
}

/// One found object of a [`PromptEntry`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceEntry {
    /// Confidence in 0..=1, four decimals; the predicted quality (IoU) of an object that was clicked
    /// or that nothing was asked for, which may exceed 1.
    #[serde(serialize_with = "score")]
    pub score: f32,
    /// How little the mask depends on where its logits are cut, in 0..=1, four decimals; left out
    /// for objects of a text.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "score"
    )]
    pub stability: Option<f32>,
    /// The box in pixels, two decimals.
    #[serde(serialize_with = "box_of_two_decimals")]
    pub box_xyxy: BoxXyxy,
    /// Pixels in the mask.
    pub area: usize,
    /// The mask, as COCO and pycocotools read it.
    pub segmentation: Rle,
}

impl From<&Answer> for PromptEntry {
    fn from(answer: &Answer) -> Self {
        let prompt = &answer.prompt;
        let exemplars = prompt.exemplars.iter().map(|exemplar| ExemplarEntry {
            box_xyxy: exemplar.bbox,
            positive: exemplar.positive,
        });
        Self {
            text: prompt.text.clone(),
            exemplars: exemplars.collect(),
            points: prompt.points.clone(),
            box_xyxy: prompt.bbox,
            presence: answer.presence,
            instances: answer.instances.iter().map(InstanceEntry::from).collect(),
        }
    }
}

impl From<&Found> for InstanceEntry {
    fn from(found: &Found) -> Self {
        Self {
            score: found.score,
            stability: found.stability,
            box_xyxy: found.bbox,
            area: found.mask.area(),
            segmentation: Rle::encode(&found.mask),
        }
    }
}

fn rounded(value: f64, decimals: i32) -> f64 {
    let unit = 10f64.powi(decimals);
    (value * unit).round() / unit
}

/// A score, or `null` where there is none.
fn score<S: Serializer>(
    score: &(impl Copy + Into<Option<f32>>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let score = (*score).into().map(finite).transpose()?;
    score.map(|score| rounded(score, 4)).serialize(serializer)
}

/// A box, or `null` where there is none.
fn box_of_two_decimals<S: Serializer>(
    bbox: &(impl Copy + Into<Option<BoxXyxy>>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let bbox: Option<BoxXyxy> = (*bbox).into();
    let edge = |edge: f32| Ok(rounded(finite(edge)?, 2));
    let edges = bbox.map(|bbox| <[f32; 4]>::from(bbox).into_iter().map(edge).collect());
    let edges: Option<Vec<f64>> = edges.transpose()?;
    edges.serialize(serializer)
}

/// JSON has neither NaN nor infinity; serde_json would write `null`.
fn finite<E: serde::ser::Error>(value: f32) -> Result<f64, E> {
    match value.is_finite() {
        true => Ok(f64::from(value)),
        false => Err(E::custom(format!("{value} in a score or a box"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::{answer, image, results};
    use super::*;
    use crate::mask::Mask;
    use crate::output::answer::Description;
    use crate::predict::concept::Exemplar;

    fn document() -> Document {
        let mut answer = answer();
        answer.instances[0].bbox = BoxXyxy::from([1.004, 0.996, 2.0, 3.0]);
        let mut document = Document::new(&results(&image(), &[answer], Kind::Text));
        document.add_timing("detect", Duration::from_millis(3));
        document
    }

    #[test]
    fn the_document_has_this_form() {
        let want = concat!(
            r#"{"image":{"path":"photos/truck.jpg","width":4,"height":3},"model":"sam3","kind":"text","#,
            r#""prompts":[{"text":"wheel","presence":0.9312,"instances":[{"score":0.9123,"#,
            r#""box_xyxy":[1.0,1.0,2.0,3.0],"area":2,"segmentation":{"size":[3,4],"counts":"426"}}]}],"#,
            r#""timings_ms":{"decode":12.35,"detect":3.0}}"#
        );
        let bytes = document().to_bytes().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), want);
    }

    #[test]
    fn exemplars_are_listed_and_the_text_is_null() {
        let answer = Answer {
            prompt: Description {
                exemplars: vec![Exemplar {
                    bbox: BoxXyxy::from([0.1, 1.0, 2.555, 3.0]),
                    positive: true,
                }],
                ..Description::default()
            },
            presence: None,
            instances: vec![],
        };
        let want = concat!(
            r#"{"text":null,"exemplars":[{"box_xyxy":[0.1,1.0,2.56,3.0],"positive":true}],"#,
            r#""presence":null,"instances":[]}"#
        );
        let entry = PromptEntry::from(&answer);
        assert_eq!(serde_json::to_string(&entry).unwrap(), want);
    }

    #[test]
    fn clicks_are_listed_with_their_stability() {
        let mask = Mask::from_fn(4, 3, |x, _| x == 1);
        let answer = Answer {
            prompt: Description {
                points: vec![Point {
                    xy: [1.5, 2.0],
                    on_object: false,
                }],
                bbox: Some(BoxXyxy::from([0.1, 0.0, 3.0, 3.0])),
                ..Description::default()
            },
            presence: None,
            instances: vec![Found {
                stability: Some(0.987_66),
                ..super::super::format::tests::found("object", mask, 1.02)
            }],
        };
        let want = concat!(
            r#"{"text":null,"points":[{"xy":[1.5,2.0],"positive":false}],"box_xyxy":[0.1,0.0,3.0,3.0],"#,
            r#""presence":null,"instances":[{"score":1.02,"stability":0.9877,"#,
            r#""box_xyxy":[1.0,0.0,2.0,3.0],"area":3,"segmentation":{"size":[3,4],"counts":"336"}}]}"#
        );
        let text = serde_json::to_string(&PromptEntry::from(&answer)).unwrap();
        assert_eq!(text, want);
        let read: PromptEntry = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn a_written_document_can_be_read() {
        let text = document().to_bytes().unwrap();
        let read: Document = serde_json::from_slice(&text).unwrap();
        assert_eq!(read.prompts[0].instances[0].area, 2);
        let mask = read.prompts[0].instances[0].segmentation.decode().unwrap();
        assert!(mask.get(1, 1) && mask.get(1, 2) && mask.area() == 2);
        assert_eq!(read.to_bytes().unwrap(), text);
    }

    #[test]
    fn what_is_no_number_is_refused_and_never_null() {
        for value in [f32::NAN, f32::INFINITY] {
            let mut answers = [answer(), answer(), answer(), answer()];
            answers[0].presence = Some(value);
            answers[1].instances[0].score = value;
            answers[2].instances[0].stability = Some(value);
            answers[3].instances[0].bbox.x1 = value;
            for answer in answers {
                let image = image();
                let document = Document::new(&results(&image, &[answer], Kind::Text));
                let error = document.to_bytes().unwrap_err().to_string();
                assert!(error.contains("in a score or a box"), "{error}");
            }
        }
    }
}
