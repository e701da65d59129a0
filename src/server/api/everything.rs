//! `POST /api/v1/images/{id}/everything`: all objects, without a prompt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body_util::channel::Channel;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::segment::ms_since;
use super::types::{self, ImageOut, ObjectOut, SegmentAnswer, Timing};
use crate::predict::everything::{self, MaskRecord, Options};
use crate::server::Service;
use crate::server::body::text_of;
use crate::server::error::{ApiError, Json, Result};
use crate::server::images::Picture;
use crate::server::queue::Priority;
use crate::{BoxXyxy, Progress, Run};

/// Bytes of the options.
const MAX_BODY: usize = 64 << 10;
/// Most points along a side: each is an answer of the model.
const MAX_SIDE: usize = 64;
/// Most layers of crops: each crop is encoded.
const MAX_LAYERS: usize = 2;
/// A stream is never silent for longer, so that a client that is gone is noticed.
const BEAT: Duration = Duration::from_secs(5);

/// What `sam3 everything` can be told, as far as a client may.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EverythingRequest {
    /// Points along one side of the grid; 32 by default.
    #[serde(deserialize_with = "types::count")]
    pub points_per_side: Option<usize>,
    /// Keep masks of a higher predicted IoU; 0.88 by default.
    pub pred_iou_thresh: Option<f64>,
    /// Keep masks of at least this stability; 0.95 by default.
    pub stability_score_thresh: Option<f64>,
    /// Layers of crops to look at besides the whole picture; 0 by default.
    #[serde(deserialize_with = "types::count")]
    pub crop_n_layers: Option<usize>,
    /// Fill holes and remove islands of fewer pixels; 0 by default.
    #[serde(deserialize_with = "types::count")]
    pub min_mask_region_area: Option<usize>,
}

impl EverythingRequest {
    fn options(&self) -> Result<Options> {
        let defaults = Options::default();
        let at_most = |name: &str, value: Option<usize>, max: usize| match value {
            Some(value) if value > max => Err(ApiError::invalid(
                format!("{name} is {value}; it must be at most {max}"),
                "",
            )),
            _ => Ok(()),
        };
        at_most("points_per_side", self.points_per_side, MAX_SIDE)?;
        at_most("crop_n_layers", self.crop_n_layers, MAX_LAYERS)?;
        let options = Options {
            points_per_side: self.points_per_side.or(defaults.points_per_side),
            pred_iou_thresh: self.pred_iou_thresh.unwrap_or(defaults.pred_iou_thresh),
            stability_score_thresh: self
                .stability_score_thresh
                .unwrap_or(defaults.stability_score_thresh),
            crop_n_layers: self.crop_n_layers.unwrap_or(defaults.crop_n_layers),
            min_mask_region_area: self
                .min_mask_region_area
                .unwrap_or(defaults.min_mask_region_area),
            ..defaults
        };
        options.validate()?;
        Ok(options)
    }
}

/// The answer as one document, or with `Accept: text/event-stream` as events `progress`, then
/// `done` with that document, or `error`.
pub async fn everything(
    State(service): State<Service>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response> {
    let picture = service.images.get(id.parse()?)?;
    let wants_events = text_of(request.headers(), header::ACCEPT)
        .is_some_and(|accept| accept.contains("text/event-stream"));
    let received = service.bodies.read(request, MAX_BODY).await?;
    let request = match received.bytes.is_empty() {
        true => EverythingRequest::default(),
        false => received.json()?,
    };
    let options = request.options()?;
    service.engine.model().as_interactive()?;
    let (progress, steps) = mpsc::unbounded_channel();
    let work = run(service, picture, options, progress);
    match wants_events {
        true => Ok(stream(work, steps)),
        false => Ok(Json(work.await?).into_response()),
    }
}

/// Points done, and all of them.
type Step = (u64, u64);

async fn run(
    service: Service,
    picture: Arc<Picture>,
    options: Options,
    progress: mpsc::UnboundedSender<Step>,
) -> Result<SegmentAnswer> {
    let start = Instant::now();
    let embedding = service.engine.encode(&picture).await?;
    let encode_ms = ms_since(start);
    let encoded = Arc::clone(&picture);
    let found = service
        .engine
        .run(Priority::Patient, move |worker, cancel| {
            let start = Instant::now();
            let mut report = |Progress { done, total }| {
                // A receiver that is gone cancels the whole job.
                let _ = progress.send((done, total));
                worker.breathe();
            };
            let mut run = Run {
                progress: Some(&mut report),
                cancel: Some(cancel.clone()),
                ..Run::default()
            };
            let model = &worker.model;
            let embedding = model.interactive_embedding(&embedding)?;
            let records = everything::generate_encoded(
                model.as_interactive()?,
                &encoded.image,
                &embedding,
                &options,
                &mut run,
            )?;
            Ok((records, ms_since(start)))
        });
    let (records, decode_ms) = found.await?;
    Ok(SegmentAnswer {
        model: service.engine.model().name().to_string(),
        image: ImageOut::new(&picture),
        objects: records.into_iter().map(object).collect(),
        presence: vec![],
        timing: Timing {
            encode_ms,
            decode_ms,
            total_ms: ms_since(start),
        },
    })
}

fn object(record: MaskRecord) -> ObjectOut {
    ObjectOut {
        prompt: 0,
        label: String::new(),
        score: record.predicted_iou,
        // Not a number where no pixel is in either mask.
        stability: Some(record.stability_score).filter(|score| !score.is_nan()),
        bbox: record.segmentation.bbox().unwrap_or(BoxXyxy::from([0.; 4])),
        area: record.area,
        mask: json!(record.segmentation),
        logits: None,
    }
}

fn stream(
    work: impl Future<Output = Result<SegmentAnswer>> + Send + 'static,
    mut steps: mpsc::UnboundedReceiver<Step>,
) -> Response {
    let (mut sender, body) = Channel::<Bytes>::new(8);
    tokio::spawn(async move {
        tokio::pin!(work);
        let mut beat = tokio::time::interval(BEAT);
        loop {
            // A client that is gone ends this task, which drops and so cancels the work.
            let (text, is_last) = tokio::select! {
                biased;
                Some((done, total)) = steps.recv() => {
                    (event("progress", &json!({"done": done, "total": total})), false)
                }
                answer = &mut work => match answer {
                    Ok(answer) => (event("done", &answer), true),
                    Err(error) => (event("error", &error.body()), true),
                },
                _ = beat.tick() => (":\n\n".to_string(), false),
            };
            if sender.send_data(text.into()).await.is_err() || is_last {
                return;
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, Body::new(body)).into_response()
}

/// Written at once: a detour through [`serde_json::Value`] widens every 32-bit number.
fn event(name: &str, data: &impl Serialize) -> String {
    match serde_json::to_string(data) {
        Ok(data) => format!("event: {name}\ndata: {data}\n\n"),
        Err(error) => {
            tracing::error!("an answer cannot be written as JSON: {error}");
            event("error", &ApiError::internal().body())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_can_afford_is_taken() {
        let options = |json: &str| {
            serde_json::from_str::<EverythingRequest>(json)
                .unwrap()
                .options()
        };
        assert_eq!(options("{}").unwrap(), Options::default());
        let asked = options(r#"{"points_per_side": 8, "pred_iou_thresh": 0}"#).unwrap();
        assert_eq!(
            (asked.points_per_side, asked.pred_iou_thresh),
            (Some(8), 0.)
        );
        assert_eq!(
            options(r#"{"points_per_side": 8.0}"#).unwrap(),
            options(r#"{"points_per_side": 8, "crop_n_layers": null}"#).unwrap()
        );
        for unreadable in ["8.5", "-1", "-1.0", "1e300", "\"8\""] {
            let json = format!(r#"{{"points_per_side": {unreadable}}}"#);
            assert!(
                serde_json::from_str::<EverythingRequest>(&json).is_err(),
                "{json}"
            );
        }
        for wrong in [
            r#"{"points_per_side": 65}"#,
            r#"{"points_per_side": 1e15}"#,
            r#"{"points_per_side": 0}"#,
            r#"{"crop_n_layers": 3}"#,
            r#"{"pred_iou_thresh": 1.5}"#,
        ] {
            assert_eq!(options(wrong).unwrap_err().status, 422, "{wrong}");
        }
    }
}
