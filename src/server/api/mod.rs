//! The server's own API: `/api/v1`.
//!
//! Coordinates are pixels of the picture as it is shown (EXIF orientation applied), x right and y
//! down; boxes are `[x0, y0, x1, y1]`; masks are COCO run lengths unless asked for otherwise.

pub mod everything;
pub mod export;
pub mod images;
pub mod segment;
pub mod types;

use axum::extract::State;
use serde_json::{Value, json};

use super::Service;
use super::error::Json;

/// `GET /api/v1/model`
pub(super) async fn model(State(service): State<Service>) -> Json<Value> {
    let model = service.engine.model();
    let mut prompts = vec![];
    if model.as_concept().is_ok() {
        prompts.extend(["text", "exemplars"]);
    }
    let interactive = model.as_interactive().ok();
    if interactive.is_some() {
        prompts.extend(["points", "box", "mask", "everything"]);
    }
    let low_res_size = interactive.map(|model| model.low_res_size());
    let config = &service.config;
    Json(json!({
        "name": model.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "demo": config.is_demo,
        "prompts": prompts,
        "low_res_size": low_res_size.map(|size| [size.height, size.width]),
        "limits": {
            "upload_bytes": config.max_upload,
            "pixels": config.max_pixels,
            "texts": types::MAX_TEXTS,
            "exemplars": types::MAX_EXEMPLARS,
            "objects": types::MAX_OBJECTS,
            "points": types::MAX_POINTS,
        },
    }))
}
