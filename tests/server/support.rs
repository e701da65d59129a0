//! A running server and requests to it.

use std::sync::OnceLock;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use candle_sam3::server::{Config, Server};
use candle_sam3::{Image, LoadOptions, Mask, Model, Rle, models, weights};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A scene that the demo model has not seen, and what is in it.
pub const SCENE: &str = "scene_2";

pub fn model() -> Model {
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    models::load(&weights::demo().unwrap(), &options).unwrap()
}

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// One server for all tests that do not care how it is set up.
pub fn router() -> Router {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER
        .get_or_init(|| Server::start(model(), Config::default()).unwrap())
        .router()
}

pub struct Answer {
    pub response: Response<()>,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.response.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The JSON of an answer that must be a success.
    pub fn ok(&self) -> Value {
        assert!(
            self.status().is_success(),
            "{} {}",
            self.status(),
            self.json()
        );
        self.json()
    }

    pub fn error(&self) -> (u16, String) {
        let body = self.json();
        for key in ["message", "detail"] {
            assert!(body[key].is_string(), "{body}");
        }
        (
            self.status().as_u16(),
            body["error"]["code"].as_str().unwrap().to_string(),
        )
    }
}

pub fn send(router: Router, request: Request<Body>) -> Answer {
    runtime().block_on(async {
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX)
            .await
            .unwrap()
            .to_vec();
        Answer {
            response: Response::from_parts(parts, ()),
            bytes,
        }
    })
}

pub fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost:8000")
}

pub fn get(path: &str) -> Answer {
    send(router(), request("GET", path).body(Body::empty()).unwrap())
}

pub fn post(path: &str, body: &Value) -> Answer {
    let request = request("POST", path).header("content-type", "application/json");
    send(
        router(),
        request.body(Body::from(body.to_string())).unwrap(),
    )
}

pub fn upload(file: Vec<u8>) -> Answer {
    send(
        router(),
        request("POST", "/api/v1/images")
            .body(Body::from(file))
            .unwrap(),
    )
}

pub fn scene_file(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/scenes/{name}.png", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

pub fn scene_base64() -> String {
    STANDARD.encode(scene_file(SCENE))
}

/// The id of the scene, uploaded.
pub fn scene_id() -> String {
    upload(scene_file(SCENE)).ok()["id"]
        .as_str()
        .unwrap()
        .to_string()
}

/// One object of the scene: its visible pixels and a point on it.
pub struct Object {
    pub mask: Mask,
    pub click: [f64; 2],
    pub bbox: [f64; 4],
}

/// The n-th object of the scene, from 1.
pub fn object(number: usize) -> Object {
    let image = Image::decode(&scene_file(&format!("{SCENE}_objects"))).unwrap();
    let (width, height) = (image.width(), image.height());
    let is_object = |x: usize, y: usize| usize::from(image.pixels()[3 * (y * width + x)]) == number;
    let mask = Mask::from_fn(width, height, is_object);
    let scenes: Vec<Value> = serde_json::from_slice(
        &std::fs::read(format!(
            "{}/tests/scenes/scenes.json",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap(),
    )
    .unwrap();
    let scene = scenes.iter().find(|scene| scene["name"] == SCENE).unwrap();
    let object = &scene["objects"][number - 1];
    let numbers = |value: &Value| -> Vec<f64> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect()
    };
    Object {
        mask,
        click: numbers(&object["click"]).try_into().unwrap(),
        bbox: numbers(&object["box"]).try_into().unwrap(),
    }
}

pub const WHITE_STAR: usize = 6;
pub const RED_CIRCLE: usize = 1;

/// A mask of an answer.
pub fn mask(value: &Value) -> Mask {
    serde_json::from_value::<Rle>(value.clone())
        .unwrap()
        .decode()
        .unwrap()
}

/// The parts of a form.
pub fn form(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = vec![];
    for (name, bytes) in parts {
        let head = format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend(head.as_bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--edge--\r\n");
    ("multipart/form-data; boundary=edge".to_string(), body)
}

pub fn post_form(path: &str, parts: &[(&str, &[u8])]) -> Answer {
    let (kind, body) = form(parts);
    let request = request("POST", path).header("content-type", kind);
    send(router(), request.body(Body::from(body)).unwrap())
}

pub fn point_at(number: usize) -> Value {
    json!({"points": [object(number).click]})
}
