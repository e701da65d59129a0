//! A machine learning backend for Label Studio, at `/label-studio`.
//!
//! Follows <https://github.com/HumanSignal/label-studio-ml-backend/blob/d02cedf/label_studio_ml/api.py>
//! and what Label Studio reads of the answers. Smart key points and rectangles are prompts for one
//! object; a task without them is searched for the labels of its project, as words.
//!
//! # Safety
//! A task names its picture. It is fetched only from the Label Studio that the server was started
//! with, by what [`TaskImages`] holds; anything else is refused. Requests hold passwords, so that
//! nothing of them is logged.

mod config;
mod task_images;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use task_images::TaskImages;

use config::Config;
use task_images::foreign;

use super::{inside, read};
use crate::mask::polygon::{Convention, Polygons, Simplify};
use crate::output::answer::Found;
use crate::output::brush;
use crate::predict::concept;
use crate::predict::interactive::Multimask;
use crate::server::api::images;
use crate::server::api::segment::{Work, run};
use crate::server::api::types::{MAX_POINTS, MAX_TEXTS, limit};
use crate::server::error::{ApiError, Json, Result};
use crate::server::images::Picture;
use crate::server::{Service, blocking};
use crate::{BoxXyxy, Point, Size, VisualPrompt};

/// Tasks in one request.
const MAX_TASKS: usize = 64;

fn version(service: &Service) -> String {
    format!("candle-sam3 {}", service.engine.model().name())
}

/// `GET /label-studio/health`
pub async fn health() -> Json<Value> {
    Json(json!({"status": "UP", "model_class": "candle-sam3"}))
}

/// `POST /label-studio/setup`
pub async fn setup(State(service): State<Service>, request: Request) -> Result<Json<Value>> {
    // Read and thrown away: there is nothing to set up, and it holds an access token.
    let _: Map<String, Value> = read(&service, request).await?.json()?;
    Ok(Json(json!({"model_version": version(&service)})))
}

/// `GET /label-studio/versions`
pub async fn versions(State(service): State<Service>) -> Json<Value> {
    Json(json!({"versions": [version(&service)]}))
}

/// `POST /label-studio/webhook`: nothing is trained here.
pub async fn webhook(State(service): State<Service>, request: Request) -> Result<Response> {
    let _: Map<String, Value> = read(&service, request).await?.json()?;
    let body = Json(json!({"result": {}, "status": "ok"}));
    Ok((StatusCode::CREATED, body).into_response())
}

/// Fields that are not listed are not needed here; drafts and annotations are skipped unread.
#[derive(Deserialize)]
struct PredictRequest {
    tasks: Vec<Task>,
    label_config: Option<String>,
    params: Option<Params>,
}

#[derive(Deserialize)]
struct Task {
    #[serde(default)]
    id: Value,
    data: Map<String, Value>,
}

#[derive(Deserialize)]
struct Params {
    context: Option<Context>,
}

#[derive(Deserialize)]
struct Context {
    #[serde(default)]
    result: Vec<Region>,
}

/// What was drawn with a smart tool; percent of the picture.
#[derive(Deserialize)]
struct Region {
    r#type: String,
    original_width: Option<u64>,
    original_height: Option<u64>,
    is_positive: Option<Value>,
    value: RegionValue,
}

#[derive(Deserialize)]
struct RegionValue {
    x: f32,
    y: f32,
    width: Option<f32>,
    height: Option<f32>,
    labels: Option<Vec<String>>,
    keypointlabels: Option<Vec<String>>,
    rectanglelabels: Option<Vec<String>>,
}

/// `POST /label-studio/predict`
pub async fn predict(State(service): State<Service>, request: Request) -> Result<Json<Value>> {
    // Tasks come with all their drafts.
    let request: PredictRequest = read(&service, request).await?.json()?;
    limit("tasks", request.tasks.len(), MAX_TASKS)?;
    let config = Config::read(request.label_config.as_deref().unwrap_or_default())?;
    let context = request.params.and_then(|params| params.context);
    let regions = context.map(|context| context.result).unwrap_or_default();
    let mut results = vec![];
    for task in &request.tasks {
        results.push(answer(&service, &config, task, &regions).await?);
    }
    Ok(Json(json!({"results": results})))
}

async fn answer(
    service: &Service,
    config: &Config,
    task: &Task,
    regions: &[Region],
) -> Result<Value> {
    let picture = picture(service, config, task).await?;
    let (model, size) = (service.engine.model(), picture.size());
    let (work, labels) = if regions.is_empty() {
        if model.as_concept().is_err() || config.labels.is_empty() {
            return Ok(json!({"result": [], "score": 0, "model_version": version(service)}));
        }
        let labels: Vec<String> = config.labels.iter().take(MAX_TEXTS).cloned().collect();
        let prompts = labels.iter().map(concept::Prompt::text).collect();
        let options = concept::Options::default();
        (Work::concepts(model, &picture, prompts, options)?, labels)
    } else {
        let prompt = clicks(regions, size)?;
        (
            Work::pointed(model, &picture, vec![prompt], Multimask::Auto, false)?,
            vec![label(regions, config)],
        )
    };
    let ((hits, _), _) = run(service, &picture, work).await?;
    let score = hits.iter().map(|hit| hit.found.score).fold(0., f32::max);
    let declared = regions
        .first()
        .and_then(|region| Some([region.original_width?, region.original_height?]));
    let declared = declared.unwrap_or([size.width as u64, size.height as u64]);
    let mut list: Vec<Value> = vec![];
    for (index, hit) in hits.iter().enumerate() {
        // As many labels as prompts.
        let label = labels.get(hit.prompt).map_or("", String::as_str);
        list.extend(items(config, &hit.found, index, label, declared));
    }
    Ok(json!({"result": list, "score": score, "model_version": version(service)}))
}

async fn picture(service: &Service, config: &Config, task: &Task) -> Result<Arc<Picture>> {
    let Some(Value::String(image)) = task.data.get(&config.value) else {
        return Err(ApiError::invalid(
            format!("the task has no picture {:?}", config.value),
            "the labeling configuration names it in its Image tag",
        ));
    };
    if image.starts_with("data:") {
        return super::picture(service, image).await;
    }
    let source = service.config.task_images.as_ref().ok_or_else(foreign)?;
    let address = source.address(&task.id, image)?;
    let fetch = Arc::clone(&source.fetch);
    let unreachable = |problem: String| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unreachable_image",
            format!("Label Studio did not give the picture: {problem}"),
            "check --label-studio-url and --label-studio-key",
        )
    };
    let file = blocking(move || fetch(&address).map_err(unreachable)).await?;
    images::keep(service, Bytes::from(file)).await
}

fn clicks(regions: &[Region], size: Size) -> Result<VisualPrompt> {
    limit("regions", regions.len(), MAX_POINTS)?;
    let (width, height) = (size.width as f32 / 100., size.height as f32 / 100.);
    let mut prompt = VisualPrompt::default();
    for region in regions {
        let value = &region.value;
        let (x, y) = (value.x, value.y);
        match region.r#type.as_str() {
            "keypointlabels" | "keypoint" => {
                // Only smart tools say so; what says nothing is on the object.
                let is_off = matches!(&region.is_positive, Some(Value::Bool(false)))
                    || region.is_positive.as_ref().and_then(Value::as_f64) == Some(0.);
                prompt.points.push(Point {
                    xy: [x * width, y * height],
                    on_object: !is_off,
                });
            }
            "rectanglelabels" | "rectangle" => {
                let (w, h) = (value.width.unwrap_or(0.), value.height.unwrap_or(0.));
                let edges = [x * width, y * height, (x + w) * width, (y + h) * height];
                prompt.bbox = Some(BoxXyxy::from(edges));
            }
            _ => {} // what other tools drew is no prompt
        }
    }
    inside(&mut prompt, size);
    Ok(prompt)
}

fn label(regions: &[Region], config: &Config) -> String {
    let named = regions.iter().find_map(|region| {
        let value = &region.value;
        let lists = value.keypointlabels.iter().chain(&value.rectanglelabels);
        lists.chain(&value.labels).flatten().next()
    });
    named.or(config.labels.first()).cloned().unwrap_or_default()
}

/// The object in the form of the project's control; a polygon for each part.
fn items(
    config: &Config,
    found: &Found,
    index: usize,
    label: &str,
    [width, height]: [u64; 2],
) -> Vec<Value> {
    let percent = |[x, y]: [f64; 2]| {
        let (width, height) = (found.mask.width() as f64, found.mask.height() as f64);
        [x / width * 100., y / height * 100.]
    };
    let mut values: Vec<Value> = match config.control.as_str() {
        "BrushLabels" => {
            vec![json!({"format": "rle", "rle": brush::encode(&found.mask)})]
        }
        "PolygonLabels" => {
            let limits = Simplify::default();
            let polygons = Polygons::outline(&found.mask, Convention::PixelEdges, &limits);
            let outlines = polygons.parts.into_iter().map(|part| part.outer);
            outlines
                .map(|outer| {
                    let points: Vec<[f64; 2]> = outer.into_iter().map(percent).collect();
                    json!({"points": points, "closed": true})
                })
                .collect()
        }
        _ => {
            let bbox = found.mask.bbox().unwrap_or(BoxXyxy::from([0.; 4]));
            let [x, y] = percent([bbox.x0.into(), bbox.y0.into()]);
            let [w, h] = percent([bbox.width().into(), bbox.height().into()]);
            vec![json!({"x": x, "y": y, "width": w, "height": h, "rotation": 0})]
        }
    };
    let kind = config.control.to_ascii_lowercase();
    let item = |(part, value): (usize, &mut Value)| {
        value[&kind] = json!([label]);
        json!({
            "id": format!("sam3-{index}-{part}"), "from_name": config.from_name,
            "to_name": config.to_name, "type": kind, "original_width": width,
            "original_height": height, "image_rotation": 0, "readonly": false,
            "score": found.score, "value": value,
        })
    };
    values.iter_mut().enumerate().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::config::CONFIG;
    use super::*;
    use crate::mask::Mask;

    #[test]
    fn percents_are_turned_into_pixels_and_signs_are_read() {
        let regions: Vec<Region> = serde_json::from_value(json!([
            {"type": "keypointlabels", "is_positive": 1, "value": {"x": 50, "y": 25, "keypointlabels": ["Cat"]}},
            {"type": "keypointlabels", "is_positive": 0, "value": {"x": 100, "y": 100}},
            {"type": "keypointlabels", "value": {"x": 0, "y": 0}},
            {"type": "rectanglelabels", "value": {"x": 10, "y": 10, "width": 30, "height": 40}},
            {"type": "brushlabels", "value": {"x": 0, "y": 0}},
        ]))
        .unwrap();
        let prompt = clicks(&regions, Size::new(200, 100)).unwrap();
        let want = VisualPrompt::point(100., 25.)
            .and_not(199.99, 99.99)
            .and_point(0., 0.);
        assert_eq!(prompt.points, want.points);
        assert_eq!(prompt.bbox, Some(BoxXyxy::from([20., 10., 80., 50.])));
        assert_eq!(label(&regions, &Config::read(CONFIG).unwrap()), "Cat");
    }

    #[test]
    fn objects_take_the_form_of_the_control() {
        let mask = Mask::from_fn(20, 10, |x, y| x < 10 && y < 5);
        let found = Found {
            label: "object".into(),
            bbox: mask.bbox().unwrap(),
            mask,
            score: 0.5,
            stability: None,
            sample: None,
        };
        let of = |control: &str| {
            let config = Config {
                control: control.into(),
                ..Config::read(CONFIG).unwrap()
            };
            items(&config, &found, 0, "Cat", [20, 10]).remove(0)
        };
        assert_eq!(of("BrushLabels")["value"]["format"], "rle");
        assert_eq!(of("BrushLabels")["value"]["brushlabels"], json!(["Cat"]));
        assert_eq!(of("RectangleLabels")["value"]["width"], 50.);
        let polygon = of("PolygonLabels");
        assert_eq!(
            (&polygon["type"], &polygon["value"]["closed"]),
            (&json!("polygonlabels"), &json!(true))
        );
        assert_eq!(polygon["original_width"], 20);
    }
}
