//! The page: files that are part of the binary.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::error::{ApiError, Result};

struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    tag: LazyLock<HeaderValue>,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! asset {
    ($kind:expr, $name:literal) => {
        asset!($kind, $name, concat!("page/", $name))
    };
    ($kind:expr, $name:literal, $file:expr) => {
        Asset {
            name: $name,
            kind: $kind,
            bytes: include_bytes!($file),
            tag: LazyLock::new(|| tag(include_bytes!($file))),
        }
    };
}

static INDEX: Asset = asset!(HTML, "index.html");
static OPENAPI: Asset = asset!("application/json", "openapi.json", "openapi.json");

/// All that can be asked for under `/assets`.
static ASSETS: [Asset; 14] = [
    asset!(CSS, "style.css"),
    asset!("image/svg+xml", "icon.svg"),
    asset!("image/png", "sample.png", "../../tests/scenes/shapes.png"),
    asset!(SCRIPT, "app.js"),
    asset!(SCRIPT, "api.js"),
    asset!(SCRIPT, "hover.js"),
    asset!(SCRIPT, "keys.js"),
    asset!(SCRIPT, "masks.js"),
    asset!(SCRIPT, "pointer.js"),
    asset!(SCRIPT, "session.js"),
    asset!(SCRIPT, "store.js"),
    asset!(SCRIPT, "strings.js"),
    asset!(SCRIPT, "ui.js"),
    asset!(SCRIPT, "view.js"),
];

fn tag(bytes: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(bytes);
    let tag = u64::from_be_bytes(std::array::from_fn(|i| digest[i]));
    HeaderValue::from_str(&format!("\"{tag:016x}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// `GET /`
pub async fn index(headers: HeaderMap) -> Response {
    send(&INDEX, &headers)
}

/// `GET /openapi.json`
pub async fn openapi(headers: HeaderMap) -> Response {
    send(&OPENAPI, &headers)
}

/// `GET /assets/{name}`
pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response> {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => Ok(send(asset, &headers)),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "the page has no such file",
            "open /",
        )),
    }
}

/// The browser asks again each time and is told that it has the file.
fn send(asset: &'static Asset, headers: &HeaderMap) -> Response {
    let tag = LazyLock::force(&asset.tag).clone();
    let cache = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind))];
    (kind, cache, asset.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_only_files_that_it_has() {
        let scripts = ASSETS
            .iter()
            .chain([&INDEX])
            .filter(|a| a.kind == SCRIPT || a.kind == HTML);
        let mut named = 0;
        for asset in scripts {
            let text = std::str::from_utf8(asset.bytes).unwrap();
            let text = text.replace("http://www.w3.org/", ""); // the name of SVG
            let imports = text.split("from \"./").skip(1);
            let links = text.split("\"/assets/").skip(1);
            for name in imports
                .chain(links)
                .filter_map(|rest| rest.split('"').next())
            {
                named += 1;
                let known = ASSETS.iter().any(|asset| asset.name == name);
                assert!(known, "{} names {name}", asset.name);
            }
            assert!(
                !text.contains("http://") || asset.kind == HTML,
                "{} uses a network",
                asset.name
            );
        }
        assert!(named > 10);
    }
}
