//! The API's document and the server say the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::*;

const DOCUMENT: &str = include_str!("../../src/server/openapi.json");
const ROUTER: &str = include_str!("../../src/server/mod.rs");

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// Checks a value against a schema of the document.
fn check(document: &Value, schema: &Value, value: &Value, of: &str) {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let problems: Vec<String> = validator
        .iter_errors(value)
        .map(|error| error.to_string())
        .collect();
    assert!(problems.is_empty(), "{of}: {problems:?} in {value}");
}

/// The answer of an operation is one that the document has.
fn check_answer(method: &str, path: &str, answer: &Answer) {
    let document = document();
    let status = answer.status().as_u16().to_string();
    let mut stated = &document["paths"][path][method]["responses"][&status];
    if let Some(shared) = stated["$ref"].as_str() {
        stated = document.pointer(shared.trim_start_matches('#')).unwrap();
    }
    let of = format!("{method} {path} {status}");
    assert!(
        stated["description"].is_string(),
        "{of} is not in the document"
    );
    let kind = answer.header("content-type").split(';').next().unwrap();
    if kind.is_empty() {
        return;
    }
    let schema = &stated["content"][kind]["schema"];
    assert!(schema.is_object(), "{of} has no {kind}");
    if kind == "application/json" {
        check(&document, schema, &answer.json(), &of);
    }
}

#[test]
fn every_route_is_documented_and_nothing_else() {
    let routes: BTreeSet<String> = ROUTER
        .split(".route(")
        .skip(1)
        .filter_map(|rest| rest.split('"').nth(1))
        .filter(|path| !matches!(*path, "/" | "/assets/{name}")) // the page
        .map(str::to_string)
        .collect();
    let document = document();
    let documented: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(routes, documented);
}

#[test]
fn answers_are_as_documented() {
    let id = scene_id();
    let point = json!({"objects": [point_at(RED_CIRCLE)], "multimask": true, "logits": true});
    let segment = "/api/v1/images/{id}/segment";
    let at = |path: &str| path.replace("{id}", &id);
    for (path, body) in [
        (segment, point.clone()),
        (segment, json!({"text": "red circle, star"})),
        (segment, json!({"text": "star", "output": "polygon"})),
        (segment, json!({"text": "star", "output": "png"})),
        (segment, json!({"text": "star", "output": "cutout"})),
        (segment, json!({"text": "star", "output": "overlay"})),
        (segment, json!({"nonsense": 1})),
        (
            "/api/v1/images/{id}/everything",
            json!({"points_per_side": 4}),
        ),
        (
            "/sam3/embed_image",
            json!({"image": {"type": "url", "value": "http://x"}}),
        ),
        ("/sam3/embed_image", json!({"image_id": "nobody's"})),
        (
            "/v1/predict",
            json!({"model": "none", "image": scene_base64()}),
        ),
        ("/label-studio/setup", json!({})),
        ("/label-studio/webhook", json!({})),
    ] {
        check_answer("post", path, &post(&at(path), &body));
    }
    for path in [
        "/health",
        "/metrics",
        "/openapi.json",
        "/api/v1/model",
        "/api/v1/images/{id}",
        "/v1/models",
        "/label-studio/health",
        "/label-studio/versions",
    ] {
        check_answer("get", path, &get(&at(path)));
    }
    check_answer("get", "/api/v1/images/{id}", &get("/api/v1/images/xyz"));
    check_answer("get", "/api/v1/hover", &get("/api/v1/hover"));
    check_answer("get", "/v1/models/{id}/info", &get("/v1/models/none/info"));
    check_answer("post", "/api/v1/images", &upload(scene_file(SCENE)));
    check_answer("post", "/api/v1/images", &upload(vec![1, 2, 3]));
    let file = scene_file(SCENE);
    let one_shot = post_form("/api/v1/segment", &[("image", &file), ("text", b"star")]);
    check_answer("post", "/api/v1/segment", &one_shot);
    let requested = &document()["components"]["schemas"]["SegmentRequest"].clone();
    check(&document(), requested, &point, "the request of the test");
}
