//! Pictures: upload, state, removal.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::Image;
use crate::server::body::Part;
use crate::server::error::{ApiError, Json, Result};
use crate::server::images::{ImageId, Picture};
use crate::server::{Service, blocking};

/// `POST /api/v1/images`: a picture's file, raw or as a form's field `image`. Encoding starts at
/// once unless the query has `encode=no`.
pub async fn upload(State(service): State<Service>, request: Request) -> Result<Response> {
    let encodes = wants_encode(request.uri())?;
    let limit = service.config.max_upload;
    let received = service.bodies.read(request, limit).await?;
    let file = match received.is_type("multipart/form-data") {
        true => take_image(&mut received.form().await?)?,
        false => received.bytes.clone(),
    };
    let picture = keep(&service, file).await?;
    let state = picture.state();
    if encodes {
        encode_ahead(&service, &picture);
    }
    let mut body = describe(&picture);
    body["cached"] = json!(state == "done");
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// `GET /api/v1/images/{id}`
pub async fn show(State(service): State<Service>, Path(id): Path<String>) -> Result<Json<Value>> {
    let picture = service.images.get(id.parse()?)?;
    Ok(Json(describe(&picture)))
}

/// `DELETE /api/v1/images/{id}`: forgets a picture; an encode that only the upload asked for stops.
pub async fn forget(State(service): State<Service>, Path(id): Path<String>) -> Result<StatusCode> {
    let picture = service.images.get(id.parse()?)?;
    picture.leave();
    service.images.remove(picture.id);
    Ok(StatusCode::NO_CONTENT)
}

fn describe(picture: &Picture) -> Value {
    let size = picture.size();
    json!({
        "id": picture.id.to_string(),
        "width": size.width,
        "height": size.height,
        "encoded": picture.state(),
        "encode_ms": picture.encode_ms(),
    })
}

fn wants_encode(uri: &Uri) -> Result<bool> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut asked = pairs.filter_map(|pair| match pair.split_once('=') {
        Some((name, value)) => (name == "encode").then_some(value),
        None => (pair == "encode").then_some(""),
    });
    match (asked.next(), asked.next()) {
        (None, _) => Ok(true),
        (Some("no"), None) => Ok(false),
        _ => Err(ApiError::invalid(
            "encode in the query can only be no",
            "write encode=no to encode with the first prompt",
        )),
    }
}

/// Takes the picture's file out of a form.
///
/// # Errors
/// 422 for a form without one.
pub(super) fn take_image(form: &mut Vec<Part>) -> Result<Bytes> {
    let image = form.iter().position(|part| part.name == "image");
    let image = image.ok_or_else(|| {
        ApiError::invalid(
            "the form has no field `image`",
            "send the picture's file in it",
        )
    })?;
    Ok(form.swap_remove(image).bytes)
}

/// Decodes a file and keeps it; a file that is kept already is not decoded again.
///
/// # Errors
/// 422 for what is no picture, 413 for one of too many pixels.
pub async fn keep(service: &Service, file: Bytes) -> Result<Arc<Picture>> {
    let max_pixels = service.config.max_pixels;
    // A permit is only refused by a closed semaphore, and nothing closes this one.
    let _slot = service
        .decoders
        .acquire()
        .await
        .map_err(|_| ApiError::internal())?;
    let images = Arc::clone(&service.images);
    blocking(move || {
        let id = ImageId::of(&file);
        if let Some(picture) = images.find(id) {
            return Ok(picture);
        }
        check_pixels(&file, max_pixels)?;
        Ok(images.insert(Picture::new(id, Image::decode(&file)?)))
    })
    .await
}

/// Reads the header alone. What has none is left to the decoder, whose errors say more.
fn check_pixels(file: &[u8], max: u64) -> Result<()> {
    let reader = ::image::ImageReader::new(std::io::Cursor::new(file)).with_guessed_format();
    let Ok(Ok((width, height))) = reader.map(|reader| reader.into_dimensions()) else {
        return Ok(());
    };
    if u64::from(width) * u64::from(height) <= max {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_many_pixels",
        format!("{width} x {height} pixels are more than the server's limit of {max}"),
        "scale the picture down, or start the server with a higher --max-pixels",
    ))
}

/// Encodes before anybody asks; what a full queue refuses is encoded when somebody asks.
fn encode_ahead(service: &Service, picture: &Arc<Picture>) {
    let (service, encoded) = (Arc::clone(service), Arc::clone(picture));
    let task = tokio::spawn(async move {
        if let Err(error) = service.engine.encode(&encoded).await {
            tracing::debug!("not encoded ahead: {}", error.message);
        }
    });
    picture.stay(task.abort_handle());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_nobody_knows_the_meaning_of_is_refused() {
        let encodes = |query: &'static str| wants_encode(&Uri::from_static(query));
        assert_eq!(encodes("/api/v1/images"), Ok(true));
        assert_eq!(encodes("/api/v1/images?token=encode"), Ok(true));
        assert_eq!(encodes("/api/v1/images?encode=no&token=x"), Ok(false));
        for wrong in [
            "/?encode",
            "/?encode=",
            "/?encode=null",
            "/?encode=no&encode=no",
        ] {
            let error = wants_encode(&Uri::from_static(wrong)).unwrap_err();
            assert_eq!(error.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
        }
    }
}
