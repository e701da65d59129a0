//! The SAM 3 routes of Roboflow's inference server, as its SDK and its users call them.
//!
//! Follows <https://github.com/roboflow/inference/tree/3bb973b5c/inference/core/entities>:
//! `requests/sam3.py`, `requests/sam2.py` and the responses of the same names.
//!
//! # Easy to get wrong
//! - Boxes of `concept_segment` are top-left-based, those of `visual_segment` center-based.
//! - A threshold of 0 means the default.
//!
//! What differs: a prompt without a threshold has the request's, also beside prompts with lower
//! ones; pictures as URLs and pickled arrays are refused; an `image_id` stands for the picture that
//! was first sent with it, and for no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{from_center, from_corner, inside, picture, read};
use crate::mask::polygon::{Convention, Polygons, Simplify};
use crate::output::answer::Found;
use crate::predict::concept::{self, Exemplar};
use crate::predict::interactive::Multimask;
use crate::server::api::segment::{Work, run};
use crate::server::api::types::{MAX_EXEMPLARS, MAX_OBJECTS, MAX_POINTS, MAX_TEXTS, limit};
use crate::server::error::{ApiError, Json, Result};
use crate::server::images::{ImageId, Picture};
use crate::server::{Service, lock};
use crate::{BoxXyxy, Mask, Point, Rle, Size, VisualPrompt};

/// Names that clients may give to pictures; the rest is forgotten.
const MAX_NAMES: usize = 1000;
/// Bytes of a name.
const MAX_NAME: usize = 256;
/// The threshold of requests without one.
const THRESHOLD: f32 = 0.5;

/// Which picture a client means by a name of its own.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, ImageId>>);

impl Names {
    fn find(&self, name: &str) -> Option<ImageId> {
        lock(&self.0).get(name).copied()
    }

    /// # Errors
    /// 409 when the name is that of another picture, 422 when it is too long.
    fn bind(&self, name: &str, id: ImageId) -> Result<()> {
        limit("bytes in image_id", name.len(), MAX_NAME)?;
        let mut names = lock(&self.0);
        match names.get(name) {
            Some(known) if *known == id => return Ok(()),
            Some(_) => {
                return Err(ApiError::new(
                    StatusCode::CONFLICT,
                    "image_id_taken",
                    format!("image_id {name:?} is that of another picture"),
                    "use one id for each picture",
                ));
            }
            None => {}
        }
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert(name.to_string(), id);
        Ok(())
    }
}

#[derive(Deserialize)]
struct ImageIn {
    r#type: String,
    value: Value,
}

/// Fields that are not listed are not needed here.
#[derive(Deserialize)]
struct ConceptRequest {
    image: ImageIn,
    image_id: Option<String>,
    #[serde(default)]
    format: Format,
    output_prob_thresh: Option<f32>,
    nms_iou_threshold: Option<f32>,
    prompts: Vec<ConceptPrompt>,
}

#[derive(Deserialize)]
struct ConceptPrompt {
    r#type: Option<String>,
    text: Option<String>,
    output_prob_thresh: Option<f32>,
    boxes: Option<Vec<BoxIn>>,
    box_labels: Option<Vec<Sign>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BoxIn {
    Sized {
        x: f32,
        y: f32,
        width: f32,
        height: f32,
    },
    Corners {
        x0: f32,
        y0: f32,
        x1: f32,
        y1: f32,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Sign {
    Number(u8),
    Truth(bool),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Polygon,
    /// The same.
    Json,
    Rle,
}

impl Format {
    fn prediction(self, found: &Found) -> Value {
        let (name, masks) = match self {
            Self::Polygon | Self::Json => ("polygon", json!(outlines(&found.mask))),
            Self::Rle => ("rle", json!(Rle::encode(&found.mask))),
        };
        json!({"format": name, "confidence": found.score, "masks": masks})
    }
}

/// Through the centers of the border pixels, as OpenCV's external contours; holes are lost there.
fn outlines(mask: &Mask) -> Vec<Vec<[i64; 2]>> {
    let polygons = Polygons::outline(mask, Convention::PixelCenters, &Simplify::EXACT);
    let whole = |path: Vec<[f64; 2]>| path.into_iter().map(|xy| xy.map(|v| v as i64)).collect();
    let outlines: Vec<_> = polygons
        .parts
        .into_iter()
        .map(|part| whole(part.outer))
        .collect();
    match outlines.is_empty() {
        true => vec![vec![]],
        false => outlines,
    }
}

/// `POST /sam3/concept_segment`
pub async fn concept_segment(
    State(service): State<Service>,
    request: Request,
) -> Result<Json<Value>> {
    let start = Instant::now();
    let request: ConceptRequest = read(&service, request).await?.json()?;
    let prompts = concept_prompts(&request)?;
    let picture = sent(&service, Some(&request.image), request.image_id.as_deref()).await?;
    let options = concept::Options {
        threshold: threshold(request.output_prob_thresh),
        nms: request.nms_iou_threshold,
        nms_across_prompts: true,
        ..concept::Options::default()
    };
    let work = Work::concepts(service.engine.model(), &picture, prompts.clone(), options)?;
    let ((hits, _), _) = run(&service, &picture, work).await?;
    let results = prompts.iter().enumerate().map(|(index, prompt)| {
        let of_prompt = hits.iter().filter(|hit| hit.prompt == index);
        let predictions = of_prompt.map(|hit| request.format.prediction(&hit.found));
        json!({
            "prompt_index": index,
            "echo": {
                "prompt_index": index,
                "type": if prompt.exemplars.is_empty() { "text" } else { "visual" },
                "text": prompt.text,
                "num_boxes": prompt.exemplars.len(),
            },
            "predictions": predictions.collect::<Value>(),
        })
    });
    let results: Value = results.collect();
    Ok(Json(
        json!({"time": start.elapsed().as_secs_f64(), "prompt_results": results}),
    ))
}

/// Of a request, where 0 is as good as nothing.
fn threshold(asked: Option<f32>) -> f32 {
    asked
        .filter(|threshold| *threshold != 0.)
        .unwrap_or(THRESHOLD)
}

fn concept_prompts(request: &ConceptRequest) -> Result<Vec<concept::Prompt>> {
    limit("prompts", request.prompts.len(), MAX_TEXTS)?;
    if request.prompts.is_empty() {
        return Err(ApiError::invalid("no prompts", "give 1 to 16"));
    }
    request.prompts.iter().map(concept_prompt).collect()
}

fn concept_prompt(prompt: &ConceptPrompt) -> Result<concept::Prompt> {
    let boxes = prompt.boxes.as_deref().unwrap_or_default();
    limit("boxes", boxes.len(), MAX_EXEMPLARS)?;
    match prompt.r#type.as_deref() {
        Some("visual") if boxes.is_empty() => {
            return Err(ApiError::invalid(
                "a visual prompt without boxes",
                "give `boxes`",
            ));
        }
        None | Some("text" | "visual") => {}
        Some(other) => {
            let problem = format!("prompt type {other:?}");
            return Err(ApiError::invalid(problem, "use \"text\" or \"visual\""));
        }
    }
    let labels = match &prompt.box_labels {
        None => vec![Sign::Number(1); boxes.len()],
        Some(labels) if labels.len() == boxes.len() => labels.clone(),
        Some(labels) => {
            return Err(ApiError::invalid(
                format!("{} box_labels for {} boxes", labels.len(), boxes.len()),
                "give one label for each box",
            ));
        }
    };
    let exemplars = boxes.iter().zip(labels).map(|(bbox, label)| {
        let bbox = match *bbox {
            BoxIn::Sized {
                x,
                y,
                width,
                height,
            } => from_corner(x, y, width, height),
            BoxIn::Corners { x0, y0, x1, y1 } => BoxXyxy::from([x0, y0, x1, y1]),
        };
        let positive = match label {
            Sign::Number(0) | Sign::Truth(false) => false,
            Sign::Number(1) | Sign::Truth(true) => true,
            Sign::Number(other) => {
                return Err(ApiError::invalid(
                    format!("box label {other}"),
                    "use 0 or 1",
                ));
            }
        };
        Ok(Exemplar { bbox, positive })
    });
    Ok(concept::Prompt {
        text: prompt.text.clone(),
        exemplars: exemplars.collect::<Result<_, _>>()?,
        threshold: prompt.output_prob_thresh,
    })
}

#[derive(Deserialize)]
struct VisualRequest {
    image: ImageIn,
    image_id: Option<String>,
    prompts: Option<PromptsIn>,
    #[serde(default)]
    format: Format,
    multimask_output: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PromptsIn {
    Wrapped { prompts: Vec<PromptIn> },
    List(Vec<PromptIn>),
    One(PromptIn),
}

#[derive(Deserialize)]
struct PromptIn {
    r#box: Option<CenteredBox>,
    points: Option<Vec<PointIn>>,
}

#[derive(Deserialize)]
struct CenteredBox {
    x: f32,
    y: f32,
    width: f32,
    height: f32,
}

#[derive(Deserialize)]
struct PointIn {
    x: f32,
    y: f32,
    positive: bool,
}

/// `POST /sam3/visual_segment`
pub async fn visual_segment(
    State(service): State<Service>,
    request: Request,
) -> Result<Json<Value>> {
    let start = Instant::now();
    let request: VisualRequest = read(&service, request).await?.json()?;
    let prompts = match request.prompts {
        Some(PromptsIn::Wrapped { prompts } | PromptsIn::List(prompts)) => prompts,
        Some(PromptsIn::One(prompt)) => vec![prompt],
        None => vec![],
    };
    limit("prompts", prompts.len(), MAX_OBJECTS)?;
    if prompts.is_empty() {
        return Err(ApiError::invalid("no prompts", "give points or a box"));
    }
    let picture = sent(&service, Some(&request.image), request.image_id.as_deref()).await?;
    let prompts = prompts
        .iter()
        .map(|prompt| visual_prompt(prompt, picture.size()));
    let prompts: Vec<VisualPrompt> = prompts.collect::<Result<_, _>>()?;
    let multimask = match request.multimask_output {
        Some(false) => Multimask::One,
        _ => Multimask::Three,
    };
    let work = Work::pointed(service.engine.model(), &picture, prompts, multimask, false)?;
    let ((hits, _), _) = run(&service, &picture, work).await?;
    let predictions = hits.iter().map(|hit| request.format.prediction(&hit.found));
    let predictions: Value = predictions.collect();
    Ok(Json(
        json!({"time": start.elapsed().as_secs_f64(), "predictions": predictions}),
    ))
}

fn visual_prompt(prompt: &PromptIn, size: Size) -> Result<VisualPrompt> {
    let points = prompt.points.as_deref().unwrap_or_default();
    limit("points", points.len(), MAX_POINTS)?;
    let bbox = prompt.r#box.as_ref();
    let point = |point: &PointIn| Point {
        xy: [point.x, point.y],
        on_object: point.positive,
    };
    let mut clicks = VisualPrompt {
        points: points.iter().map(point).collect(),
        bbox: bbox.map(|b| from_center(b.x, b.y, b.width, b.height)),
        mask_logits: None,
    };
    inside(&mut clicks, size);
    Ok(clicks)
}

#[derive(Deserialize)]
struct EmbedRequest {
    image: Option<ImageIn>,
    image_id: Option<String>,
}

/// `POST /sam3/embed_image`
pub async fn embed_image(State(service): State<Service>, request: Request) -> Result<Json<Value>> {
    let start = Instant::now();
    let request: EmbedRequest = read(&service, request).await?.json()?;
    let name = request.image_id.as_deref();
    let picture = sent(&service, request.image.as_ref(), name).await?;
    service.engine.encode(&picture).await?;
    let id = request.image_id.unwrap_or_else(|| picture.id.to_string());
    Ok(Json(
        json!({"image_id": id, "time": start.elapsed().as_secs_f64()}),
    ))
}

/// The picture that was sent, or the one that an id stands for.
async fn sent(
    service: &Service,
    image: Option<&ImageIn>,
    name: Option<&str>,
) -> Result<Arc<Picture>> {
    let Some(image) = image else {
        let id = name.and_then(|name| service.names.find(name).or_else(|| name.parse().ok()));
        let kept = id.and_then(|id| service.images.find(id));
        return kept.ok_or_else(|| {
            ApiError::new(
                StatusCode::NOT_FOUND,
                "unknown_image",
                "no picture is kept under that id",
                "send the picture in `image`",
            )
        });
    };
    let text = match (image.r#type.as_str(), &image.value) {
        ("base64", Value::String(text)) => text,
        ("base64", _) => return Err(ApiError::invalid("image.value is not a string", "")),
        (other, _) => {
            return Err(ApiError::bad_request(
                format!("image type {other:?} is not taken"),
                "send {\"type\": \"base64\", \"value\": …}; this server fetches nothing",
            ));
        }
    };
    let picture = picture(service, text).await?;
    if let Some(name) = name {
        service.names.bind(name, picture.id)?;
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_with_its_picture() {
        let names = Names::default();
        let [a, b] = [b"a", b"b"].map(|file| ImageId::of(file));
        names.bind("cat", a).unwrap();
        names.bind("cat", a).unwrap();
        assert_eq!(names.bind("cat", b).unwrap_err().status, 409);
        assert_eq!((names.find("cat"), names.find("dog")), (Some(a), None));
        assert_eq!(names.bind(&"x".repeat(257), a).unwrap_err().status, 422);
        for i in 0..MAX_NAMES {
            names.bind(&i.to_string(), b).unwrap();
        }
        assert!(names.0.lock().unwrap().len() <= MAX_NAMES);
    }

    #[test]
    fn both_spellings_of_boxes_are_read_and_labels_are_numbers_or_truths() {
        let prompt: ConceptPrompt = serde_json::from_value(json!({
            "type": "visual",
            "boxes": [{"x": 1, "y": 2, "width": 3, "height": 4}, {"x0": 1, "y0": 2, "x1": 4, "y1": 6}],
            "box_labels": [1, false],
        }))
        .unwrap();
        let prompt = concept_prompt(&prompt).unwrap();
        assert_eq!(prompt.exemplars[0].bbox, prompt.exemplars[1].bbox);
        let signs: Vec<bool> = prompt.exemplars.iter().map(|e| e.positive).collect();
        assert_eq!(signs, [true, false]);
        for wrong in [
            json!({"type": "visual"}),
            json!({"type": "point", "text": "cat"}),
            json!({"boxes": [{"x": 1, "y": 2, "width": 3, "height": 4}], "box_labels": []}),
            json!({"boxes": [{"x": 1, "y": 2, "width": 3, "height": 4}], "box_labels": [2]}),
        ] {
            let prompt: ConceptPrompt = serde_json::from_value(wrong.clone()).unwrap();
            assert_eq!(concept_prompt(&prompt).unwrap_err().status, 422, "{wrong}");
        }
    }

    #[test]
    fn boxes_of_visual_prompts_have_a_center() {
        let prompt: PromptIn = serde_json::from_value(json!({
            "box": {"x": 50, "y": 40, "width": 20, "height": 10},
            "points": [{"x": 100, "y": -1, "positive": false}],
        }))
        .unwrap();
        let clicks = visual_prompt(&prompt, Size::new(100, 80)).unwrap();
        assert_eq!(clicks.bbox, Some(BoxXyxy::from([40., 35., 60., 45.])));
        assert_eq!(
            clicks.points,
            VisualPrompt::default().and_not(99.99, 0.).points
        );
    }

    #[test]
    fn an_empty_mask_has_one_empty_outline() {
        assert_eq!(outlines(&Mask::new(4, 4)), [Vec::<[i64; 2]>::new()]);
        let square = Mask::from_fn(6, 6, |x, y| (1..4).contains(&x) && (2..5).contains(&y));
        assert_eq!(outlines(&square)[0].len(), 4);
    }
}
