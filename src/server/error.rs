//! What a client is told when something goes wrong.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::Error;

/// A failed request: a status, a code for programs, and for people a message and what would work.
///
/// As JSON `{"error": {"code", "message", "advice"}, "message", "detail"}`: own clients read
/// `error`, Roboflow's SDK reads `message`, others read `detail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// For programs; documented in `openapi.json`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What would work.
    pub advice: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

/// The result of what a client asks for.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    /// An error with no time to try again at.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            advice: advice.into(),
            retry_after: None,
        }
    }

    /// 400: a request that cannot be read.
    pub fn bad_request(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message, advice)
    }

    /// 422: a request that can be read and makes no sense.
    pub fn invalid(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_prompt",
            message,
            advice,
        )
    }

    /// 401: a token is missing or wrong.
    pub fn unauthorized(advice: impl Into<String>) -> Self {
        let message = "this server asks for a token";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message, advice)
    }

    /// 429: too much to do.
    pub fn busy(message: impl Into<String>, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds.max(1)),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                message,
                "send the request again after the seconds of the Retry-After header",
            )
        }
    }

    /// 503: the server goes down.
    pub fn shutting_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "the server shuts down",
            "ask it again when it is back",
        )
    }

    /// 500: a fault of the server; the cause is in its log.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server failed to answer",
            "the log of the server has the cause; please report it",
        )
    }

    /// 499: the client went away, so nobody reads this.
    pub fn cancelled() -> Self {
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, "cancelled", "the request was cancelled", "")
    }

    /// The JSON of the answer.
    pub fn body(&self) -> Value {
        json!({
            "error": {"code": self.code, "message": self.message, "advice": self.advice},
            "message": self.line(),
            "detail": self.line(),
        })
    }

    /// Message and advice in one line.
    pub fn line(&self) -> String {
        match self.advice.is_empty() {
            true => self.message.clone(),
            false => format!("{}; {}", self.message, self.advice),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// A JSON answer.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
            Err(error) => {
                tracing::error!("an answer cannot be written as JSON: {error}");
                ApiError::internal().into_response()
            }
        }
    }
}

impl From<Error> for ApiError {
    /// One status for each class of failure. Messages of failures that are not the client's stay
    /// in the log: they may name paths.
    fn from(error: Error) -> Self {
        let refused = |code, message: String, advice: &str| {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message, advice)
        };
        match error {
            Error::InvalidImage(problem) => {
                let advice = "send a jpeg, png, webp, bmp, gif, tiff or pnm file as it is";
                refused("invalid_image", problem, advice)
            }
            Error::InvalidPrompt { reason } => Self::invalid(reason, ""),
            Error::InvalidArgument(reason) => {
                refused("invalid_argument", reason, "see /openapi.json")
            }
            Error::InvalidMask(problem) => {
                let advice = "give COCO run lengths that fill the picture";
                refused("invalid_mask", problem, advice)
            }
            Error::Cancelled => Self::cancelled(),
            Error::Unsupported { what, instead } => {
                let message = format!("{what} is not supported");
                refused("unsupported", message, &instead)
            }
            error => {
                tracing::error!("{error}");
                Self::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_finds_the_message() {
        let error = ApiError::invalid("point 9,9 is outside", "give points inside");
        let body = error.body();
        assert_eq!(body["error"]["code"], "invalid_prompt");
        assert_eq!(body["error"]["message"], "point 9,9 is outside");
        assert_eq!(body["message"], "point 9,9 is outside; give points inside");
        assert_eq!(body["detail"], body["message"]);
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        let response = ApiError::busy("full", 0).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
    }

    #[test]
    fn paths_stay_in_the_log() {
        let path = "/home/someone/sam3.pt".into();
        let error = ApiError::from(Error::NotFound { path });
        assert_eq!(error.status, 500);
        assert!(!error.body().to_string().contains("someone"));
    }
}
