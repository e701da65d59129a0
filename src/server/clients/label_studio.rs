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

use std::fmt;
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{BASE64, inside};
use crate::mask::polygon::{Convention, Polygons, Simplify};
use crate::output::answer::Found;
use crate::output::brush;
use crate::predict::concept;
use crate::predict::interactive::Multimask;
use crate::server::Service;
use crate::server::api::images;
use crate::server::api::segment::{Work, run};
use crate::server::api::types::{MAX_POINTS, MAX_TEXTS, limit};
use crate::server::body;
use crate::server::error::{ApiError, json_response};
use crate::server::images::Picture;
use crate::{BoxXyxy, Point, Size, VisualPrompt};

/// Tasks in one request.
const MAX_TASKS: usize = 64;
/// Bytes of a labeling configuration.
const MAX_CONFIG: usize = 1 << 20;

/// Fetches a picture by its address: its bytes, or why not.
pub type Fetch = dyn Fn(&str) -> Result<Vec<u8>, String> + Send + Sync;

/// The Label Studio whose tasks' pictures may be fetched.
#[derive(Clone)]
pub struct TaskImages {
    origin: String,
    fetch: Arc<Fetch>,
}

impl TaskImages {
    /// `origin` is scheme, host and port; `fetch` must follow no redirect to another origin.
    pub fn new(origin: &str, fetch: Arc<Fetch>) -> Self {
        Self {
            origin: origin.trim_end_matches('/').to_string(),
            fetch,
        }
    }

    /// The address of a task's picture.
    fn address(&self, task: &Value, image: &str) -> Result<String, ApiError> {
        let of_origin = |rest: &str| rest.is_empty() || rest.starts_with(['/', '?']);
        if let Some(rest) = image.strip_prefix(&self.origin)
            && of_origin(rest)
        {
            return Ok(image.to_string());
        }
        if image.starts_with('/') && !image.starts_with("//") && !image.contains('\\') {
            return Ok(format!("{}{image}", self.origin));
        }
        if ["s3://", "gs://", "azure-blob://"]
            .iter()
            .any(|scheme| image.starts_with(scheme))
            && let Some(id) = task.as_u64()
        {
            let file = BASE64.encode(image);
            return Ok(format!(
                "{}/tasks/{id}/presign/?fileuri={file}",
                self.origin
            ));
        }
        Err(foreign())
    }
}

impl fmt::Debug for TaskImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskImages")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

fn foreign() -> ApiError {
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "foreign_image",
        "this server does not fetch the picture of that task",
        "start it with --label-studio-url and --label-studio-key of your Label Studio",
    )
}

fn version(service: &Service) -> String {
    format!("candle-sam3 {}", service.engine.model().name())
}

/// `GET /label-studio/health`
pub async fn health() -> Response {
    json_response(
        StatusCode::OK,
        &json!({"status": "UP", "model_class": "candle-sam3"}),
    )
}

/// `POST /label-studio/setup`
pub async fn setup(State(service): State<Service>, request: Request) -> Result<Response, ApiError> {
    // Read and thrown away: there is nothing to set up, and it holds an access token.
    let _: Value = read(&service, request).await?;
    Ok(json_response(
        StatusCode::OK,
        &json!({"model_version": version(&service)}),
    ))
}

/// `GET /label-studio/versions`
pub async fn versions(State(service): State<Service>) -> Response {
    json_response(StatusCode::OK, &json!({"versions": [version(&service)]}))
}

/// `POST /label-studio/webhook`: nothing is trained here.
pub async fn webhook(
    State(service): State<Service>,
    request: Request,
) -> Result<Response, ApiError> {
    let _: Value = read(&service, request).await?;
    Ok(json_response(
        StatusCode::CREATED,
        &json!({"result": {}, "status": "ok"}),
    ))
}

async fn read<T: serde::de::DeserializeOwned>(
    service: &Service,
    request: Request,
) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    // Tasks come with all their drafts.
    let limit = body::base64_limit(service.config.max_upload);
    let received = service.bodies.read(&parts.headers, body, limit).await?;
    body::json(&parts.headers, &received.bytes)
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
    data: serde_json::Map<String, Value>,
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
pub async fn predict(
    State(service): State<Service>,
    request: Request,
) -> Result<Response, ApiError> {
    let request: PredictRequest = read(&service, request).await?;
    limit("tasks", request.tasks.len(), MAX_TASKS)?;
    let config = Config::read(request.label_config.as_deref().unwrap_or_default())?;
    let context = request.params.and_then(|params| params.context);
    let regions = context.map(|context| context.result).unwrap_or_default();
    let mut results = vec![];
    for task in &request.tasks {
        results.push(answer(&service, &config, task, &regions).await?);
    }
    Ok(json_response(StatusCode::OK, &json!({"results": results})))
}

async fn answer(
    service: &Service,
    config: &Config,
    task: &Task,
    regions: &[Region],
) -> Result<Value, ApiError> {
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
        let label = labels
            .get(hit.prompt)
            .map(String::as_str)
            .unwrap_or_default();
        list.extend(items(config, &hit.found, index, label, declared));
    }
    Ok(json!({"result": list, "score": score, "model_version": version(service)}))
}

async fn picture(
    service: &Service,
    config: &Config,
    task: &Task,
) -> Result<Arc<Picture>, ApiError> {
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
    let fetched = tokio::task::spawn_blocking(move || fetch(&address)).await;
    let fetched = fetched.map_err(|_| ApiError::internal())?;
    let file = fetched.map_err(|problem| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unreachable_image",
            format!("Label Studio did not give the picture: {problem}"),
            "check --label-studio-url and --label-studio-key",
        )
    })?;
    images::keep(service, Bytes::from(file)).await
}

fn clicks(regions: &[Region], size: Size) -> Result<VisualPrompt, ApiError> {
    limit("regions", regions.len(), MAX_POINTS)?;
    let (width, height) = (size.width as f32 / 100., size.height as f32 / 100.);
    let mut prompt = VisualPrompt::default();
    for region in regions {
        let RegionValue {
            x,
            y,
            width: w,
            height: h,
            ..
        } = region.value;
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
                let (w, h) = (w.unwrap_or(0.), h.unwrap_or(0.));
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
        let RegionValue {
            keypointlabels,
            rectanglelabels,
            labels,
            ..
        } = &region.value;
        let lists = [keypointlabels, rectanglelabels, labels];
        lists
            .into_iter()
            .flatten()
            .find_map(|labels| labels.first().cloned())
    });
    named
        .or_else(|| config.labels.first().cloned())
        .unwrap_or_default()
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

/// What the labeling configuration says about pictures and labels.
#[derive(Debug, PartialEq)]
struct Config {
    /// `BrushLabels`, else `PolygonLabels`, else `RectangleLabels`.
    control: String,
    from_name: String,
    to_name: String,
    /// The field of a task's data that names its picture.
    value: String,
    /// The labels of the control.
    labels: Vec<String>,
}

static TAG: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"<(/?)(\w+)((?:\s+[\w:.-]+\s*=\s*(?:"[^"]*"|'[^']*'))*)"#).ok());
static ATTRIBUTE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"([\w:.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')"#).ok());

impl Config {
    fn read(text: &str) -> Result<Self, ApiError> {
        limit("bytes of label_config", text.len(), MAX_CONFIG)?;
        let (Some(tag), Some(attribute)) = (&*TAG, &*ATTRIBUTE) else {
            return Err(ApiError::internal());
        };
        let attributes = |text: &str, name: &str| {
            let found = attribute
                .captures_iter(text)
                .find(|pair| &pair[1] == name)?;
            let value = found.get(2).or(found.get(3))?;
            Some(unescape(value.as_str()))
        };
        let mut value = None;
        let mut controls: Vec<Self> = vec![];
        for found in tag.captures_iter(text).filter(|found| found[1].is_empty()) {
            let (name, rest) = (&found[2], &found[3]);
            match name {
                "Image" if value.is_none() => {
                    let field = attributes(rest, "value").unwrap_or_default();
                    value = Some(field.trim_start_matches('$').to_string());
                }
                "Label" => {
                    if let Some(control) = controls.last_mut() {
                        control.labels.extend(attributes(rest, "value"));
                    }
                }
                _ if name.ends_with("Labels") => controls.push(Self {
                    control: name.to_string(),
                    from_name: attributes(rest, "name").unwrap_or_default(),
                    to_name: attributes(rest, "toName").unwrap_or_default(),
                    value: String::new(),
                    labels: vec![],
                }),
                _ => {}
            }
        }
        let rank = |control: &Self| {
            let known = ["BrushLabels", "PolygonLabels", "RectangleLabels"];
            known.iter().position(|name| *name == control.control)
        };
        controls.retain(|control| rank(control).is_some());
        let (Some(value), Some(best)) = (value, controls.into_iter().min_by_key(rank)) else {
            return Err(ApiError::invalid(
                "the labeling configuration has no Image tag or nothing to answer with",
                "give it BrushLabels, PolygonLabels or RectangleLabels for its Image",
            ));
        };
        Ok(Self { value, ..best })
    }
}

/// The five entities that XML has by itself; `&amp;` last, so that nothing is unescaped twice.
fn unescape(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    let replace = |text: String, (entity, sign): (&str, &str)| text.replace(entity, sign);
    entities.into_iter().fold(text.to_string(), replace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;

    const CONFIG: &str = r#"<View><Image name="image" value="$photo"/>
        <RectangleLabels name="box" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
        <BrushLabels name='tag' toName='image'><Label value="Cat &amp; dog"/><Label value="Car"/></BrushLabels>
        <KeyPointLabels name="kp" toName="image"><Label value="Other"/></KeyPointLabels></View>"#;

    #[test]
    fn the_best_control_and_its_labels_are_found() {
        let config = Config::read(CONFIG).unwrap();
        let want = Config {
            control: "BrushLabels".into(),
            from_name: "tag".into(),
            to_name: "image".into(),
            value: "photo".into(),
            labels: vec!["Cat & dog".into(), "Car".into()],
        };
        assert_eq!(config, want);
        for wrong in [
            "",
            "<View/>",
            "<Image value='$a'/>",
            "<BrushLabels name='a'>",
        ] {
            assert_eq!(Config::read(wrong).unwrap_err().status, 422, "{wrong}");
        }
    }

    #[test]
    fn pictures_come_from_the_one_label_studio_alone() {
        let source = TaskImages::new("http://studio:8080/", Arc::new(|_| Ok(vec![])));
        let address = |image: &str| source.address(&json!(7), image).ok();
        assert_eq!(
            address("/data/upload/1/a.jpg").unwrap(),
            "http://studio:8080/data/upload/1/a.jpg"
        );
        assert_eq!(
            address("http://studio:8080/a?b").unwrap(),
            "http://studio:8080/a?b"
        );
        assert!(
            address("s3://bucket/a")
                .unwrap()
                .starts_with("http://studio:8080/tasks/7/presign/")
        );
        for foreign in [
            "http://evil.example/a.jpg",
            "http://studio:8080.evil.example/a",
            "http://studio:8080@evil/",
            "//evil.example/a",
            "/\\evil.example/a",
            "file:///etc/passwd",
            "a.jpg",
            "http://studio:80801/",
            "ftp://studio/a",
        ] {
            assert!(address(foreign).is_none(), "{foreign}");
        }
    }

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
