//! Requests and answers of `/api/v1`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::server::error::{ApiError, Result};
use crate::server::images::Picture;
use crate::{BoxXyxy, Rle, Size};

/// Texts in one request.
pub const MAX_TEXTS: usize = 16;
/// Bytes of one text.
const MAX_TEXT: usize = 256;
/// Exemplars in one request.
pub const MAX_EXEMPLARS: usize = 64;
/// Objects in one request.
pub const MAX_OBJECTS: usize = 64;
/// Points of one object.
pub const MAX_POINTS: usize = 256;

/// What to look for in a picture: texts and exemplars, or objects that are pointed at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SegmentRequest {
    /// Noun phrases: a list, or one string with commas between them.
    pub text: Option<Texts>,
    /// Boxes around things that are meant, or not.
    pub exemplars: Vec<ExemplarIn>,
    /// One prompt for each object.
    pub objects: Vec<ObjectIn>,
    /// Keep instances of a higher score; 0.5 by default.
    pub threshold: Option<f32>,
    /// Drop instances that overlap a better one by more than this IoU.
    pub nms: Option<f32>,
    /// At most so many instances for each text.
    #[serde(deserialize_with = "count")]
    pub max_instances: Option<usize>,
    /// Three masks for each object; by default the best one.
    pub multimask: bool,
    /// The form of the masks.
    pub output: Output,
    /// Also answer low-resolution logits, to be handed back with the next points.
    pub logits: bool,
}

/// Reads a count by JSON Schema's rule that a number without a fraction is an integer: `37.0` is.
///
/// # Errors
/// Those of serde, for what is no whole number from 0 up.
pub fn count<'de, D: Deserializer<'de>>(json: D) -> Result<Option<usize>, D::Error> {
    /// Integers above are not exact in JSON's usual numbers.
    const LARGEST: f64 = (1u64 << 53) as f64;
    let Some(number) = Option::<serde_json::Number>::deserialize(json)? else {
        return Ok(None);
    };
    let whole = |value: &f64| value.fract() == 0. && (0. ..=LARGEST).contains(value);
    let value = number
        .as_u64()
        .or_else(|| number.as_f64().filter(whole).map(|value| value as u64));
    match value.and_then(|value| usize::try_from(value).ok()) {
        Some(value) => Ok(Some(value)),
        None => Err(serde::de::Error::custom(format!(
            "invalid value: {number}, expected a whole number from 0 up"
        ))),
    }
}

/// Phrases.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    /// With commas between them.
    One(String),
    /// Each as it is.
    Many(Vec<String>),
}

impl Texts {
    /// The phrases, none of them empty or too long.
    ///
    /// # Errors
    /// 422 for no phrase, too many and too long ones.
    pub fn phrases(&self) -> Result<Vec<String>> {
        let texts: Vec<&str> = match self {
            Self::One(text) => text.split(',').collect(),
            Self::Many(texts) => texts.iter().map(String::as_str).collect(),
        };
        let phrases = texts.into_iter().map(str::trim);
        let phrases = phrases.filter(|text| !text.is_empty());
        let phrases: Vec<String> = phrases.map(str::to_string).collect();
        if phrases.is_empty() {
            return Err(ApiError::invalid(
                "the text is empty",
                "name what to look for",
            ));
        }
        limit("texts", phrases.len(), MAX_TEXTS)?;
        for phrase in &phrases {
            limit("bytes in a text", phrase.len(), MAX_TEXT)?;
        }
        Ok(phrases)
    }
}

/// # Errors
/// 422 if `count` is over `max`.
pub fn limit(what: &str, count: usize, max: usize) -> Result<()> {
    match count <= max {
        true => Ok(()),
        false => Err(ApiError::invalid(
            format!("{count} {what}; at most {max} are taken"),
            "send several requests",
        )),
    }
}

/// # Errors
/// 422 if the mask is not of the picture's size.
pub fn check_mask(mask: &Rle, picture: Size) -> Result<()> {
    match mask.size == [picture.height, picture.width] {
        true => Ok(()),
        false => Err(ApiError::invalid(
            format!(
                "a mask of [height, width] {:?} for a picture of {picture}",
                mask.size
            ),
            "give masks of the picture's size",
        )),
    }
}

/// A box that shows what is meant.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExemplarIn {
    /// In pixels of the picture.
    #[serde(rename = "box")]
    pub bbox: BoxXyxy,
    /// False for what is not meant.
    #[serde(default = "yes")]
    pub positive: bool,
}

fn yes() -> bool {
    true
}

/// A prompt for one object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectIn {
    /// In pixels of the picture.
    pub points: Vec<[f32; 2]>,
    /// 1 on the object, 0 beside it; all 1 by default.
    pub labels: Option<Vec<u8>>,
    /// A box around it.
    #[serde(rename = "box")]
    pub bbox: Option<BoxXyxy>,
    /// A rough mask of the picture's size.
    pub mask: Option<Rle>,
    /// Logits of an earlier answer, in place of a mask.
    pub logits: Option<String>,
}

/// The form of masks in an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// COCO run lengths, `{"size": [h, w], "counts": "…"}`.
    #[default]
    Rle,
    /// `{"parts": [{"outer": [[x, y], …], "holes": […]}]}`, along the edges of pixels.
    Polygon,
    /// `{"png": "…"}`, the picture's size, white on the object, base64.
    Png,
    /// `{"cutout": "…", "x", "y"}`, the object alone, transparent around it, base64.
    Cutout,
    /// No masks: the answer is a picture with all of them drawn.
    Overlay,
}

impl std::str::FromStr for Output {
    type Err = ApiError;

    fn from_str(name: &str) -> Result<Self> {
        Self::deserialize(Value::from(name))
            .map_err(|error| ApiError::invalid(format!("output: {error}"), ""))
    }
}

/// The answer to a [`SegmentRequest`].
#[derive(Debug, Serialize)]
pub struct SegmentAnswer {
    /// The model that answered.
    pub model: String,
    /// The picture.
    pub image: ImageOut,
    /// What was found, prompt after prompt.
    pub objects: Vec<ObjectOut>,
    /// For each text, how sure the model is that it is in the picture at all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub presence: Vec<f32>,
    /// Where the time went.
    pub timing: Timing,
}

/// A picture in an answer.
#[derive(Debug, Serialize)]
pub struct ImageOut {
    /// For further requests.
    pub id: String,
    /// Pixels per row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl ImageOut {
    /// Of a picture that is kept.
    pub fn new(picture: &Picture) -> Self {
        let Size { width, height } = picture.size();
        let id = picture.id.to_string();
        Self { id, width, height }
    }
}

/// One found object.
#[derive(Debug, Serialize)]
pub struct ObjectOut {
    /// Index of the prompt that found it.
    pub prompt: usize,
    /// The phrase that found it; empty for one that was pointed at.
    pub label: String,
    /// In 0..1 for a text; the predicted IoU for one that was pointed at.
    pub score: f32,
    /// IoU of the masks cut higher and lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stability: Option<f32>,
    /// In pixels of the picture.
    #[serde(rename = "box")]
    pub bbox: BoxXyxy,
    /// Pixels of the mask.
    pub area: usize,
    /// In the form that was asked for.
    pub mask: Value,
    /// See [`SegmentRequest::logits`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<String>,
}

/// Milliseconds.
#[derive(Debug, Default, Serialize)]
pub struct Timing {
    /// Waiting for the picture to be encoded; 0 when it was.
    pub encode_ms: f64,
    /// In the model, after waiting for it.
    pub decode_ms: f64,
    /// All together.
    pub total_ms: f64,
}

/// Logits as base64 of little-endian f16.
pub fn encode_logits(logits: &[f32]) -> String {
    let bytes: Vec<u8> = logits
        .iter()
        .flat_map(|l| f16::from_f32(*l).to_le_bytes())
        .collect();
    STANDARD.encode(bytes)
}

/// # Errors
/// 422 for what [`encode_logits`] did not write.
pub fn decode_logits(text: &str) -> Result<Vec<f32>> {
    let bytes = STANDARD.decode(text).ok();
    match bytes.as_ref().map(|bytes| bytes.as_chunks()) {
        Some((values, [])) => Ok(values
            .iter()
            .map(|v| f16::from_le_bytes(*v).to_f32())
            .collect()),
        _ => Err(ApiError::invalid(
            "`logits` is not the base64 of 16-bit numbers",
            "hand back what an earlier answer had",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_cut_at_commas_and_a_list_is_not() {
        let phrases = |json: &str| serde_json::from_str::<Texts>(json).unwrap().phrases();
        assert_eq!(phrases(r#""cat, dog ,,""#).unwrap(), ["cat", "dog"]);
        assert_eq!(phrases(r#"["cat, black"]"#).unwrap(), ["cat, black"]);
        assert!(phrases(r#"" , ""#).is_err() && phrases("[]").is_err());
        assert!(phrases(&format!("{:?}", "a,".repeat(17))).is_err());
        assert!(phrases(&format!("{:?}", "a".repeat(257))).is_err());
    }

    #[test]
    fn logits_come_back() {
        let logits = [0.0, -1.5, 32.0, 0.0625];
        assert_eq!(decode_logits(&encode_logits(&logits)).unwrap(), logits);
        for wrong in ["?", "AAAA", "AA=="] {
            assert_eq!(decode_logits(wrong).unwrap_err().status, 422, "{wrong}");
        }
    }

    #[test]
    fn unknown_fields_are_no_silent_typos() {
        assert!(serde_json::from_str::<SegmentRequest>(r#"{"texts": ["cat"]}"#).is_err());
        let request: SegmentRequest = serde_json::from_str(
            r#"{"objects": [{"points": [[1, 2]], "box": [0, 0, 4, 4]}], "output": "png"}"#,
        )
        .unwrap();
        assert_eq!(request.output, Output::Png);
        assert_eq!(request.objects[0].bbox.unwrap().x1, 4.);
    }
}
