//! Bodies of requests: bounded in bytes, in time, and all together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::multipart::MultipartError;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::header::AsHeaderName;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, Result};

/// A whole body must be here after this long.
const DEADLINE: Duration = Duration::from_secs(30);
/// One permit of the budget, in bytes.
const UNIT: usize = 1 << 10;
/// Parts of a form at most.
const MAX_PARTS: usize = 64;

/// Bytes that bodies may take up together.
pub struct Budget(Arc<Semaphore>);

/// A body that is here; its share of the budget is free again when it is dropped.
pub struct Received {
    headers: HeaderMap,
    /// The bytes.
    pub bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }

    /// Reads the body of a request, of at most `limit` bytes.
    ///
    /// # Errors
    /// 413 for a longer one, 408 for one that takes too long, 415 for an encoded one, 429 when the
    /// budget is used up.
    pub async fn read(&self, request: Request, limit: usize) -> Result<Received> {
        let (Parts { headers, .. }, body) = request.into_parts();
        if headers.contains_key(header::CONTENT_ENCODING) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "encoded_body",
                "bodies with a Content-Encoding are not read",
                "send the bytes as they are",
            ));
        }
        let announced = text_of(&headers, header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let share = announced.unwrap_or(limit).div_ceil(UNIT).max(1) as u32;
        let share = Arc::clone(&self.0).try_acquire_many_owned(share);
        let share = share.map_err(|_| ApiError::busy("too much is being uploaded at once", 2))?;
        let collected = tokio::time::timeout(DEADLINE, Limited::new(body, limit).collect());
        let bytes = match collected.await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large(limit)),
            Ok(Err(_)) => {
                return Err(ApiError::bad_request(
                    "the body broke off or is not framed as its headers say",
                    "send it again",
                ));
            }
            Err(_) => {
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "too_slow",
                    format!("the body was not here after {} s", DEADLINE.as_secs()),
                    "send a smaller picture or use a faster connection",
                ));
            }
        };
        Ok(Received {
            headers,
            bytes,
            _share: share,
        })
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_large",
        format!("the body is larger than {limit} bytes"),
        "send a smaller picture or fewer prompts",
    )
}

impl Received {
    /// Whether the content type is `kind`, whatever its parameters.
    pub fn is_type(&self, kind: &str) -> bool {
        let value = text_of(&self.headers, header::CONTENT_TYPE);
        let value = value.and_then(|value| value.split(';').next());
        value.is_some_and(|value| value.trim().eq_ignore_ascii_case(kind))
    }

    /// A JSON document. The content type is asked for because a page of another origin can send
    /// anything else without the browser asking first.
    ///
    /// # Errors
    /// 415 for another content type, 400 for what is not JSON, 422 for JSON of another shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        if !self.is_type("application/json") {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not_json",
                "the body is not marked as JSON",
                "send it with `Content-Type: application/json`",
            ));
        }
        object(&self.bytes).map_err(|error| match error.is_data() {
            true => ApiError::invalid(error.to_string(), "see /openapi.json"),
            false => ApiError::bad_request(format!("no valid JSON: {error}"), "see /openapi.json"),
        })
    }

    /// The parts of a form.
    ///
    /// # Errors
    /// 400 for a broken form and one of too many parts.
    pub async fn form(&self) -> Result<Vec<Part>> {
        let mut request = Request::new(Body::from(self.bytes.clone()));
        *request.headers_mut() = self.headers.clone();
        DefaultBodyLimit::disable().apply(&mut request);
        let form = Multipart::from_request(request, &()).await;
        let mut form = form.map_err(|error| no_form(error.body_text()))?;
        let broken = |error: MultipartError| no_form(error.body_text());
        let mut parts = vec![];
        while let Some(field) = form.next_field().await.map_err(broken)? {
            if parts.len() == MAX_PARTS {
                return Err(no_form(format!("more than {MAX_PARTS} fields")));
            }
            let name = field.name().unwrap_or_default().to_string();
            let bytes = field.bytes().await.map_err(broken)?;
            parts.push(Part { name, bytes });
        }
        Ok(parts)
    }
}

fn no_form(problem: String) -> ApiError {
    ApiError::bad_request(
        format!("no valid form: {problem}"),
        "send fields as `multipart/form-data`, as curl -F does",
    )
}

/// Reads a JSON object; an array, which serde takes for the fields of an object in their order, is an
/// error.
pub fn object<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::custom(
            "an array, where an object is expected",
        ));
    }
    serde_json::from_slice(bytes)
}

/// A header as text, where it is one.
pub fn text_of(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A part of a form.
pub struct Part {
    /// The name of its field.
    pub name: String,
    /// What was sent.
    pub bytes: Bytes,
}

impl Part {
    /// The part as text.
    ///
    /// # Errors
    /// 422 for what is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes)
            .map_err(|_| ApiError::invalid(format!("field {} is not UTF-8", self.name), ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_array_is_no_request() {
        #[derive(Debug, serde::Deserialize)]
        struct Wanted {
            wanted: Option<u8>,
        }
        let budget = Budget::new(1 << 20);
        let received = async |body: &'static str| {
            let request = Request::post("/").header(header::CONTENT_TYPE, "application/json");
            let request = request.body(Body::from(body)).unwrap();
            budget.read(request, 1 << 10).await.unwrap()
        };
        let request: Wanted = received(r#" {"wanted": 7}"#).await.json().unwrap();
        assert_eq!(request.wanted, Some(7));
        let error = received("\n [7]").await.json::<Wanted>().unwrap_err();
        assert_eq!(error.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}
