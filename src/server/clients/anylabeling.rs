//! X-AnyLabeling's remote server: `/v1/models` and `/v1/predict`.
//!
//! Follows <https://github.com/CVHub520/X-AnyLabeling-Server/tree/70599dc/app/api> and what its
//! client does with the answers,
//! <https://github.com/CVHub520/X-AnyLabeling/blob/87da339/anylabeling/services/auto_labeling/remote_server.py>.
//!
//! A box means the object in it to one model and an example to the other, and the client sends the
//! same for both: there are two model ids. Failures have an HTTP status besides the original's
//! `success: false`, because the client shows only the former to its user.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{inside, picture, read};
use crate::mask::polygon::{Convention, Polygons, Simplify};
use crate::output::answer::Found;
use crate::predict::concept::{self, Exemplar};
use crate::predict::interactive::Multimask;
use crate::server::Service;
use crate::server::api::segment::{Hit, Work, concept_prompts, run};
use crate::server::api::types::{MAX_EXEMPLARS, MAX_POINTS, Texts, limit};
use crate::server::error::{ApiError, Json, Result};
use crate::{BoxXyxy, Model, Point, VisualPrompt};

const CLICKS: &str = "candle_sam3_clicks";
const CONCEPTS: &str = "candle_sam3_concepts";
/// What the client calls an object without a text.
const UNNAMED: &str = "AUTOLABEL_OBJECT";
/// How far outlines are simplified when the client does not say.
const EPSILON: f64 = 0.001;

fn description(id: &str) -> Value {
    let (name, mode, mut widgets) = match id {
        CLICKS => (
            "SAM 3 clicks (candle-sam3)",
            "default",
            json!({
                "button_add_point": null,
                "button_remove_point": null,
                "button_add_rect": null,
                "button_clear": null,
                "button_finish_object": null,
            }),
        ),
        _ => (
            "SAM 3 text and exemplars (candle-sam3)",
            "text_prompt",
            json!({
                "edit_text": null,
                "button_send": null,
                "add_pos_rect": null,
                "add_neg_rect": null,
                "button_run_rect": null,
                "button_clear": null,
                "button_finish_object": null,
                "input_conf": null,
                "edit_conf": 0.25,
                "toggle_preserve_existing_annotations": false,
            }),
        ),
    };
    widgets["mask_fineness_slider"] = json!(10);
    widgets["mask_fineness_value_label"] = Value::Null;
    let widgets = widgets.as_object().into_iter().flatten();
    let widgets = widgets.map(|(name, value)| json!({"name": name, "value": value}));
    json!({
        "display_name": name,
        "widgets": widgets.collect::<Value>(),
        "params": {},
        "capabilities": {},
        "batch_processing_mode": mode,
    })
}

fn ids(model: &Model) -> Vec<&'static str> {
    let clicks = model.as_interactive().is_ok().then_some(CLICKS);
    let concepts = model.as_concept().is_ok().then_some(CONCEPTS);
    clicks.into_iter().chain(concepts).collect()
}

/// `GET /v1/models`
pub async fn models(State(service): State<Service>) -> Json<Value> {
    let ids = ids(service.engine.model());
    let models: serde_json::Map<String, Value> = ids
        .into_iter()
        .map(|id| (id.to_string(), description(id)))
        .collect();
    Json(json!({"success": true, "data": models}))
}

/// `GET /v1/models/{id}/info`
pub async fn info(State(service): State<Service>, Path(id): Path<String>) -> Response {
    match ids(service.engine.model()).contains(&id.as_str()) {
        true => Json(json!({"success": true, "data": description(&id)})).into_response(),
        false => failure(unknown_model(&id)),
    }
}

fn unknown_model(id: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "MODEL_NOT_FOUND",
        format!("there is no model {id:?}"),
        format!("use {CLICKS} or {CONCEPTS}, as /v1/models lists them"),
    )
}

fn failure(error: ApiError) -> Response {
    let code = match error.code {
        "MODEL_NOT_FOUND" => "MODEL_NOT_FOUND",
        "invalid_image" | "too_many_pixels" => "INVALID_IMAGE",
        "unauthorized" => "UNAUTHORIZED",
        _ => "INFERENCE_ERROR",
    };
    let mut body = error.body();
    body["success"] = json!(false);
    body["error"]["code"] = json!(code);
    body["error"]["details"] = json!(error.advice);
    let mut response = error.into_response();
    *response.body_mut() = body.to_string().into();
    response
}

#[derive(Deserialize)]
struct PredictRequest {
    model: String,
    image: String,
    #[serde(default)]
    params: Params,
}

/// Fields that are not listed are not needed here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Params {
    conf_threshold: Option<f32>,
    iou_threshold: Option<f32>,
    epsilon_factor: Option<f64>,
    text_prompt: Option<String>,
    marks: Option<Vec<Mark>>,
}

#[derive(Deserialize)]
struct Mark {
    r#type: String,
    data: Vec<f32>,
    #[serde(default = "one")]
    label: i64,
}

fn one() -> i64 {
    1
}

/// `POST /v1/predict`
pub async fn predict(State(service): State<Service>, request: Request) -> Response {
    match answer(&service, request).await {
        Ok(data) => Json(json!({"success": true, "data": data})).into_response(),
        Err(error) => failure(error),
    }
}

async fn answer(service: &Service, request: Request) -> Result<Value> {
    let received = read(service, request).await?;
    let request: PredictRequest = received.json()?;
    let model = service.engine.model();
    let params = &request.params;
    let marks = params.marks.as_deref().unwrap_or_default();
    let picture = picture(service, &request.image).await?;
    let work = match request.model.as_str() {
        CLICKS => {
            let mut prompt = clicks(marks)?;
            inside(&mut prompt, picture.size());
            Work::pointed(model, &picture, vec![prompt], Multimask::Auto, false)?
        }
        CONCEPTS => {
            // 0 is what the client sends for "not set".
            let set = |value: Option<f32>| value.filter(|value| *value > 0.);
            let defaults = concept::Options::default();
            let options = concept::Options {
                threshold: set(params.conf_threshold).unwrap_or(defaults.threshold),
                nms: set(params.iou_threshold),
                ..defaults
            };
            Work::concepts(model, &picture, concepts(params, marks)?, options)?
        }
        other => return Err(unknown_model(other)),
    };
    let ((hits, _), _) = run(service, &picture, work).await?;
    let epsilon = params
        .epsilon_factor
        .filter(|factor| (0. ..=1.).contains(factor));
    let epsilon = epsilon.unwrap_or(EPSILON);
    let has_text = params
        .text_prompt
        .as_deref()
        .is_some_and(|text| !text.trim().is_empty());
    let label = |hit: &Hit| match has_text && request.model == CONCEPTS {
        true => hit.found.label.clone(),
        false => UNNAMED.to_string(),
    };
    let shapes: Vec<Value> = hits
        .iter()
        .enumerate()
        .flat_map(|(index, hit)| shapes(&hit.found, &label(hit), index + 1, epsilon))
        .collect();
    // Clicks are asked again with one more point: each answer takes the place of the last.
    let replace = match request.model.as_str() {
        CLICKS => json!(true),
        _ => Value::Null,
    };
    Ok(json!({"description": "", "replace": replace, "shapes": shapes}))
}

fn numbers<const N: usize>(mark: &Mark) -> Result<[f32; N]> {
    <[f32; N]>::try_from(mark.data.as_slice()).map_err(|_| {
        ApiError::invalid(
            format!("a {} of {} numbers", mark.r#type, mark.data.len()),
            format!("give {N}"),
        )
    })
}

fn clicks(marks: &[Mark]) -> Result<VisualPrompt> {
    limit("marks", marks.len(), MAX_POINTS)?;
    let mut prompt = VisualPrompt::default();
    for mark in marks {
        match mark.r#type.as_str() {
            "point" => prompt.points.push(Point {
                xy: numbers::<2>(mark)?,
                on_object: mark.label > 0,
            }),
            "rectangle" => prompt.bbox = Some(ordered(numbers::<4>(mark)?)),
            other => {
                let problem = format!("a mark of type {other:?}");
                return Err(ApiError::invalid(problem, "use point or rectangle"));
            }
        }
    }
    Ok(prompt)
}

/// Rectangles are drawn from any corner.
fn ordered([a, b, c, d]: [f32; 4]) -> BoxXyxy {
    BoxXyxy::from([a.min(c), b.min(d), a.max(c), b.max(d)])
}

fn concepts(params: &Params, marks: &[Mark]) -> Result<Vec<concept::Prompt>> {
    limit("marks", marks.len(), MAX_EXEMPLARS)?;
    let rectangles = marks.iter().filter(|mark| mark.r#type == "rectangle");
    let exemplars = rectangles.map(|mark| {
        let bbox = ordered(numbers::<4>(mark)?);
        let positive = mark.label > 0;
        Ok(Exemplar { bbox, positive })
    });
    let exemplars: Vec<Exemplar> = exemplars.collect::<Result<_>>()?;
    let text = params.text_prompt.as_deref().unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(concept_prompts(None, exemplars));
    }
    // The client takes full stops for commas where there are none.
    let text = match text.contains(',') {
        true => text.to_string(),
        false => text.replace('.', ","),
    };
    let mut phrases = Texts::One(text).phrases()?;
    let mut seen = std::collections::HashSet::new();
    phrases.retain(|phrase| seen.insert(phrase.clone()));
    Ok(concept_prompts(Some(phrases), exemplars))
}

/// One closed polygon for each part, joined by a group where there are several.
fn shapes(found: &Found, label: &str, index: usize, epsilon: f64) -> Vec<Value> {
    let exact = Polygons::outline(&found.mask, Convention::PixelCenters, &Simplify::EXACT);
    let longest = exact
        .parts
        .iter()
        .map(|part| length(&part.outer))
        .fold(0., f64::max);
    let limits = Simplify {
        tolerance: epsilon * longest,
        min_iou: 0.,
    };
    let polygons = Polygons::outline(&found.mask, Convention::PixelCenters, &limits);
    let group = match polygons.parts.len() {
        0 | 1 => Value::Null,
        _ => json!(index),
    };
    let shape = |mut points: Vec<[f64; 2]>| {
        points.extend(points.first().copied());
        json!({
            "label": label, "shape_type": "polygon", "points": points, "score": found.score,
            "group_id": group, "attributes": {}, "description": null, "difficult": false,
            "direction": 0, "flags": null, "kie_linking": [],
        })
    };
    // Fewer than three points are no polygon to the client.
    let outlines = polygons.parts.into_iter().map(|part| part.outer);
    outlines
        .filter(|outer| outer.len() > 2)
        .map(shape)
        .collect()
}

fn length(path: &[[f64; 2]]) -> f64 {
    let next = path.iter().cycle().skip(1);
    path.iter()
        .zip(next)
        .map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;

    #[test]
    fn the_same_rectangle_is_a_box_for_one_model_and_an_exemplar_for_the_other() {
        let marks: Vec<Mark> = serde_json::from_value(json!([
            {"type": "rectangle", "data": [300, 400, 100, 80], "label": 0}
        ]))
        .unwrap();
        let want = BoxXyxy::from([100., 80., 300., 400.]);
        assert_eq!(clicks(&marks).unwrap().bbox, Some(want));
        let prompts = concepts(&Params::default(), &marks).unwrap();
        assert_eq!(
            prompts[0].exemplars,
            [Exemplar {
                bbox: want,
                positive: false
            }]
        );
    }

    #[test]
    fn texts_are_cut_at_commas_or_full_stops_and_said_once() {
        let phrases = |text: &str| -> Vec<String> {
            let text_prompt = Some(text.to_string());
            let params = Params {
                text_prompt,
                ..Params::default()
            };
            concepts(&params, &[])
                .unwrap()
                .into_iter()
                .filter_map(|prompt| prompt.text)
                .collect()
        };
        assert_eq!(phrases("cat, dog, cat"), ["cat", "dog"]);
        assert_eq!(phrases("cat.dog"), ["cat", "dog"]);
        assert_eq!(phrases("st. bernard, cat"), ["st. bernard", "cat"]);
    }

    #[test]
    fn parts_are_closed_polygons_of_one_group() {
        let mask = Mask::from_fn(20, 8, |x, y| (1..6).contains(&y) && !(6..=12).contains(&x));
        let found = Found {
            label: "object".into(),
            bbox: mask.bbox().unwrap(),
            mask,
            score: 0.5,
            stability: None,
            sample: None,
        };
        let shapes = shapes(&found, UNNAMED, 3, 0.001);
        assert_eq!(shapes.len(), 2);
        for shape in shapes {
            let points = shape["points"].as_array().unwrap();
            assert_eq!(points.first(), points.last());
            assert_eq!(
                (&shape["group_id"], &shape["label"]),
                (&json!(3), &json!(UNNAMED))
            );
        }
    }
}
