//! Results as one JSON document.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::mask::{BoxXyxy, Mask, Rle};

/// Everything that was found in one image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Which image.
    pub image: ImageEntry,
    /// Name of the model.
    pub model: String,
    /// What was asked for: `text`, `interactive` or `everything`.
    pub kind: String,
    /// One entry for each prompt, in the order they were given.
    pub prompts: Vec<PromptEntry>,
    /// Milliseconds for each stage, in the order they ran; see [`Document::add_timing`].
    pub timings_ms: Map<String, Value>,
}

impl Document {
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
    pub points: Vec<PointEntry>,
    /// The box of the object, in pixels; left out when there is none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "optional_box_of_two_decimals"
    )]
    pub box_xyxy: Option<BoxXyxy>,
    /// How sure the model is that the image shows the prompted thing at all, in 0..=1; `null` for
    /// models that do not say.
    #[serde(serialize_with = "score_or_null")]
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

/// A point of a [`PromptEntry`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PointEntry {
    /// x and y in pixels.
    pub xy: [f32; 2],
    /// Whether it lies on the object or on something else.
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
        serialize_with = "score_or_null"
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

impl InstanceEntry {
    /// Measures and encodes the mask of one found object.
    pub fn new(mask: &Mask, bbox: BoxXyxy, score: f32) -> Self {
        Self {
            score,
            stability: None,
            box_xyxy: bbox,
            area: mask.area(),
            segmentation: Rle::encode(mask),
        }
    }
}

fn rounded(value: f64, decimals: i32) -> f64 {
    let unit = 10f64.powi(decimals);
    (value * unit).round() / unit
}

fn score<S: Serializer>(score: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded(f64::from(*score), 4))
}

fn score_or_null<S: Serializer>(score: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    score
        .map(|score| rounded(f64::from(score), 4))
        .serialize(serializer)
}

fn optional_box_of_two_decimals<S: Serializer>(
    b: &Option<BoxXyxy>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match b {
        Some(b) => box_of_two_decimals(b, serializer),
        None => serializer.serialize_none(),
    }
}

fn box_of_two_decimals<S: Serializer>(b: &BoxXyxy, serializer: S) -> Result<S::Ok, S::Error> {
    <[f32; 4]>::from(*b)
        .map(|edge| rounded(f64::from(edge), 2))
        .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        let mask = Mask::from_fn(4, 3, |x, y| x == 1 && y > 0);
        let bbox = BoxXyxy::from([1.004, 0.996, 2.0, 3.0]);
        let mut document = Document {
            image: ImageEntry {
                path: "truck.jpg".to_string(),
                width: 4,
                height: 3,
            },
            model: "sam3".to_string(),
            kind: "text".to_string(),
            prompts: vec![PromptEntry {
                text: Some("wheel".to_string()),
                presence: Some(0.931_249),
                instances: vec![InstanceEntry::new(&mask, bbox, 0.912_345)],
                ..PromptEntry::default()
            }],
            timings_ms: Map::new(),
        };
        document.add_timing("encode", Duration::from_micros(12_345));
        document.add_timing("decode", Duration::from_millis(3));
        document
    }

    #[test]
    fn the_document_has_this_form() {
        let want = concat!(
            r#"{"image":{"path":"truck.jpg","width":4,"height":3},"model":"sam3","kind":"text","#,
            r#""prompts":[{"text":"wheel","presence":0.9312,"instances":[{"score":0.9123,"#,
            r#""box_xyxy":[1.0,1.0,2.0,3.0],"area":2,"segmentation":{"size":[3,4],"counts":"426"}}]}],"#,
            r#""timings_ms":{"encode":12.35,"decode":3.0}}"#
        );
        assert_eq!(serde_json::to_string(&document()).unwrap(), want);
    }

    #[test]
    fn exemplars_are_listed_and_the_text_is_null() {
        let entry = PromptEntry {
            exemplars: vec![ExemplarEntry {
                box_xyxy: BoxXyxy::from([0.1, 1.0, 2.555, 3.0]),
                positive: true,
            }],
            ..PromptEntry::default()
        };
        let want = concat!(
            r#"{"text":null,"exemplars":[{"box_xyxy":[0.1,1.0,2.56,3.0],"positive":true}],"#,
            r#""presence":null,"instances":[]}"#
        );
        assert_eq!(serde_json::to_string(&entry).unwrap(), want);
    }

    #[test]
    fn clicks_are_listed_with_their_stability() {
        let mask = Mask::from_fn(4, 3, |x, _| x == 1);
        let bbox = BoxXyxy::from([1.0, 0.0, 2.0, 3.0]);
        let entry = PromptEntry {
            points: vec![PointEntry {
                xy: [1.5, 2.0],
                positive: false,
            }],
            box_xyxy: Some(BoxXyxy::from([0.1, 0.0, 3.0, 3.0])),
            instances: vec![InstanceEntry {
                stability: Some(0.987_66),
                ..InstanceEntry::new(&mask, bbox, 1.02)
            }],
            ..PromptEntry::default()
        };
        let want = concat!(
            r#"{"text":null,"points":[{"xy":[1.5,2.0],"positive":false}],"box_xyxy":[0.1,0.0,3.0,3.0],"#,
            r#""presence":null,"instances":[{"score":1.02,"stability":0.9877,"#,
            r#""box_xyxy":[1.0,0.0,2.0,3.0],"area":3,"segmentation":{"size":[3,4],"counts":"336"}}]}"#
        );
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(text, want);
        let read: PromptEntry = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn a_written_document_can_be_read() {
        let text = serde_json::to_string(&document()).unwrap();
        let read: Document = serde_json::from_str(&text).unwrap();
        assert_eq!(read.prompts[0].instances[0].area, 2);
        let mask = read.prompts[0].instances[0].segmentation.decode().unwrap();
        assert!(mask.get(1, 1) && mask.get(1, 2) && mask.area() == 2);
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }
}
