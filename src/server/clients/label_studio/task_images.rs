//! Where tasks' pictures come from: one Label Studio alone.

use std::fmt;
use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine as _;
use serde_json::Value;

use crate::server::clients::BASE64;
use crate::server::error::{ApiError, Result};

/// Fetches a picture by its address: its bytes, or why not.
pub type Fetch = dyn Fn(&str) -> Result<Vec<u8>, String> + Send + Sync;

/// The Label Studio whose tasks' pictures may be fetched.
#[derive(Clone)]
pub struct TaskImages {
    origin: String,
    pub(super) fetch: Arc<Fetch>,
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
    pub(super) fn address(&self, task: &Value, image: &str) -> Result<String> {
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

pub(super) fn foreign() -> ApiError {
    ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "foreign_image",
        "this server does not fetch the picture of that task",
        "start it with --label-studio-url and --label-studio-key of your Label Studio",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
}
