//! Clients of other servers, answered in their own terms.

pub(super) mod anylabeling;
pub(super) mod label_studio;
pub(super) mod roboflow;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::DecodePaddingMode};

use super::Service;
use super::api::images;
use super::body::Received;
use super::error::{ApiError, Result};
use super::images::Picture;
use crate::{BoxXyxy, Point, Size, VisualPrompt};

/// The alphabet of RFC 4648, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The body of a request with a picture in base64, or with much else around it.
async fn read(service: &Service, request: Request) -> Result<Received> {
    let limit = service.config.max_upload / 3 * 4 + (1 << 20);
    service.bodies.read(request, limit).await
}

/// A picture's file in base64, with or without `data:image/…;base64,` before it.
async fn picture(service: &Service, text: &str) -> Result<Arc<Picture>> {
    let text = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,").map_or("", |(_, data)| data),
        None => text,
    };
    let limit = service.config.max_upload;
    if text.len() / 4 * 3 > limit {
        return Err(ApiError::new(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the picture is larger than {limit} bytes"),
            "send a smaller picture",
        ));
    }
    let file = BASE64.decode(text).map_err(|_| {
        ApiError::bad_request(
            "the picture is not base64",
            "send the bytes of a picture's file in base64, alone or as a data URI",
        )
    })?;
    images::keep(service, Bytes::from(file)).await
}

/// What other servers take without a word: points just outside the picture are moved to its edge.
fn inside(prompt: &mut VisualPrompt, size: Size) {
    let edge = |value: f32, size: usize| value.clamp(0., size as f32 - 0.01);
    for Point { xy: [x, y], .. } in &mut prompt.points {
        (*x, *y) = (edge(*x, size.width), edge(*y, size.height));
    }
}

/// From left, top, width and height.
fn from_corner(x: f32, y: f32, width: f32, height: f32) -> BoxXyxy {
    BoxXyxy::from([x, y, x + width, y + height])
}

/// From center, width and height.
fn from_center(x: f32, y: f32, width: f32, height: f32) -> BoxXyxy {
    from_corner(x - width / 2., y - height / 2., width, height)
}
