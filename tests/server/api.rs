//! `/api/v1`: pictures, prompts, everything.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use candle_sam3::image::Image;
use serde_json::{Value, json};

use crate::support::*;

fn segment(prompt: Value) -> Answer {
    post(&format!("/api/v1/images/{}/segment", scene_id()), &prompt)
}

fn iou(answer: &Value, number: usize) -> f32 {
    mask(&answer["objects"][0]["mask"]).iou(&object(number).mask)
}

#[test]
fn a_picture_has_the_same_id_raw_and_in_a_form() {
    let raw = upload(scene_file("scene_4"));
    assert_eq!(raw.status(), 201);
    let raw = raw.json();
    assert_eq!((&raw["width"], &raw["height"]), (&json!(224), &json!(224)));
    let in_form = post_form("/api/v1/images", &[("image", &scene_file("scene_4"))]).ok();
    assert_eq!(raw["id"], in_form["id"]);
    let path = format!("/api/v1/images/{}", raw["id"].as_str().unwrap());
    assert_eq!(get(&path).ok()["id"], raw["id"]);
    let forgotten = send(router(), request("DELETE", &path).body("".into()).unwrap());
    assert_eq!(forgotten.status(), 204);
    assert_eq!(get(&path).error(), (404, "unknown_image".into()));
}

#[test]
fn words_find_what_they_name() {
    let answer = segment(json!({"text": "white star, hexagon"})).ok();
    let found = &answer["objects"][0];
    assert_eq!(
        (&found["label"], &found["prompt"]),
        (&json!("white star"), &json!(0))
    );
    assert!(found["score"].as_f64().unwrap() > 0.5 && iou(&answer, WHITE_STAR) > 0.85);
    assert_eq!(found["area"], mask(&found["mask"]).area());
    assert_eq!(answer["presence"].as_array().unwrap().len(), 2);
    let all = segment(json!({"text": ["white star"], "threshold": 0.0, "max_instances": 5})).ok();
    assert_eq!(all["objects"].as_array().unwrap().len(), 5);
}

#[test]
fn exemplars_find_what_looks_like_them() {
    let bbox = object(4).bbox;
    let answer = segment(json!({"exemplars": [{"box": bbox}]})).ok();
    assert!(!answer["objects"].as_array().unwrap().is_empty());
    assert_eq!(answer["objects"][0]["label"], "exemplars");
}

#[test]
fn points_and_boxes_mean_one_object() {
    let circle = object(RED_CIRCLE);
    for prompt in [point_at(RED_CIRCLE), json!({"box": circle.bbox})] {
        let answer = segment(json!({"objects": [prompt]})).ok();
        assert_eq!(answer["objects"].as_array().unwrap().len(), 1);
        assert!(
            iou(&answer, RED_CIRCLE) > 0.85,
            "{}",
            iou(&answer, RED_CIRCLE)
        );
        assert!(answer["objects"][0]["stability"].is_number());
    }
    let three = segment(json!({"objects": [point_at(RED_CIRCLE)], "multimask": true})).ok();
    assert_eq!(three["objects"].as_array().unwrap().len(), 3);
}

#[test]
fn an_answer_is_refined_by_its_logits_or_by_its_mask() {
    let circle = object(RED_CIRCLE);
    let first = segment(json!({"objects": [point_at(RED_CIRCLE)], "logits": true})).ok();
    let found = &first["objects"][0];
    let star = object(WHITE_STAR).click;
    for with in ["logits", "mask"] {
        let mut prompt = json!({"points": [circle.click, star], "labels": [1, 0]});
        prompt[with] = found[with].clone();
        let refined = segment(json!({"objects": [prompt]})).ok();
        assert!(
            iou(&refined, RED_CIRCLE) > 0.85,
            "{with}: {}",
            iou(&refined, RED_CIRCLE)
        );
    }
}

#[test]
fn masks_come_in_every_form() {
    let ask = |output: &str| {
        let prompt = json!({"objects": [point_at(RED_CIRCLE)], "output": output});
        segment(prompt)
    };
    let want = mask(&ask("rle").ok()["objects"][0]["mask"]);
    let file = |answer: &Answer, key: &str| {
        let text = answer.ok()["objects"][0]["mask"][key]
            .as_str()
            .unwrap()
            .to_string();
        image::load_from_memory(&STANDARD.decode(text).unwrap()).unwrap()
    };
    let png = file(&ask("png"), "png").to_luma8();
    assert_eq!(
        png.pixels().filter(|pixel| pixel.0[0] == 255).count(),
        want.area()
    );
    let cutout = file(&ask("cutout"), "cutout").to_rgba8();
    assert_eq!(
        cutout.pixels().filter(|pixel| pixel.0[3] == 255).count(),
        want.area()
    );
    let bbox = want.bbox().unwrap();
    assert_eq!(cutout.width() as f32, bbox.width());
    let parts = ask("polygon").ok()["objects"][0]["mask"]["parts"].clone();
    assert!(parts[0]["outer"].as_array().unwrap().len() >= 8, "{parts}");
    let overlay = ask("overlay");
    assert_eq!(overlay.header("content-type"), "image/png");
    assert_eq!(Image::decode(&overlay.bytes).unwrap().width(), 224);
}

#[test]
fn one_call_takes_the_picture_and_the_prompt() {
    let file = scene_file(SCENE);
    let [x, y] = object(RED_CIRCLE).click;
    let point = format!("{x},{y}");
    let answer = post_form(
        "/api/v1/segment",
        &[("image", &file), ("point", point.as_bytes())],
    )
    .ok();
    assert!(iou(&answer, RED_CIRCLE) > 0.85);
    let answer = post_form(
        "/api/v1/segment",
        &[("image", &file), ("text", b"white star")],
    )
    .ok();
    assert!(iou(&answer, WHITE_STAR) > 0.85);
    let prompt = json!({"text": ["white star"], "output": "png"}).to_string();
    let answer = post_form(
        "/api/v1/segment",
        &[("prompt", prompt.as_bytes()), ("image", &file)],
    );
    assert!(answer.ok()["objects"][0]["mask"]["png"].is_string());
}

#[test]
fn everything_is_answered_at_once_or_with_progress() {
    let path = format!("/api/v1/images/{}/everything", scene_id());
    let options =
        json!({"points_per_side": 8, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5});
    let at_once = post(&path, &options).ok();
    let objects = at_once["objects"].as_array().unwrap();
    assert!(!objects.is_empty());
    let streamed = send(
        router(),
        request("POST", &path)
            .header("content-type", "application/json")
            .header("accept", "text/event-stream")
            .body(options.to_string().into())
            .unwrap(),
    );
    assert_eq!(streamed.header("content-type"), "text/event-stream");
    let text = String::from_utf8(streamed.bytes).unwrap();
    let events: Vec<(&str, Value)> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("event: ")?.split_once("\ndata: "))
        .map(|(name, data)| (name, serde_json::from_str(data).unwrap()))
        .collect();
    assert_eq!(events[0], ("progress", json!({"done": 64, "total": 64})));
    let (name, done) = events.last().unwrap();
    assert_eq!((*name, &done["objects"]), ("done", &at_once["objects"]));
}

#[test]
fn objects_are_exported_in_the_formats_of_other_programs() {
    let circle = candle_sam3::Rle::encode(&object(RED_CIRCLE).mask);
    let path = format!("/api/v1/images/{}/export", scene_id());
    let objects = json!([{"label": "circle", "score": 0.9, "mask": circle},
                         {"label": "", "score": 0.8, "mask": circle}]);
    let formats = ["coco", "yolo", "labelme", "masks", "cutouts"];
    let asked = json!({"name": "../a scene.png", "formats": formats, "objects": objects});
    let answer = post(&path, &asked);
    assert_eq!(answer.header("content-type"), "application/zip");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(answer.bytes)).unwrap();
    let names: Vec<String> = zip
        .file_names()
        .map(|name| name.unwrap().into_owned())
        .collect();
    for name in [
        "coco.json",
        "yolo/data.yaml",
        "yolo/labels/train/a scene.txt",
        "labelme/a scene.json",
    ] {
        assert!(
            names.iter().any(|known| known == name),
            "{name} in {names:?}"
        );
    }
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("masks/"))
            .count(),
        2
    );
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("cutouts/"))
            .count(),
        2
    );
    let coco: Value = serde_json::from_reader(zip.by_name("coco.json").unwrap()).unwrap();
    assert_eq!(coco["categories"][1]["name"], "object");
    assert_eq!(
        mask(&coco["annotations"][0]["segmentation"]),
        object(RED_CIRCLE).mask
    );
    let wrong =
        json!({"name": "a", "formats": [], "objects": [{"mask": {"size": [1, 1], "counts": [1]}}]});
    assert_eq!(post(&path, &wrong).error(), (422, "invalid_prompt".into()));
}

#[test]
fn the_page_comes_with_its_files_and_a_strict_policy() {
    let page = get("/");
    assert_eq!(
        (page.status().as_u16(), page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(
        page.header("content-security-policy")
            .contains("default-src 'self'")
    );
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let script = get("/assets/app.js");
    assert_eq!(
        script.header("content-type"),
        "text/javascript; charset=utf-8"
    );
    let again = request("GET", "/assets/app.js").header("if-none-match", script.header("etag"));
    assert_eq!(send(router(), again.body("".into()).unwrap()).status(), 304);
    assert_eq!(
        get("/assets/..%2fmod.rs").error(),
        (404, "not_found".into())
    );
}

#[test]
fn health_and_metrics_are_for_operators() {
    let health = get("/health").ok();
    assert_eq!(
        (&health["status"], &health["models_loaded"]),
        (&json!("healthy"), &json!(1))
    );
    let metrics = get("/metrics");
    let text = String::from_utf8(metrics.bytes).unwrap();
    assert!(
        text.contains("sam3_requests_total{route=\"/health\",status=\"200\"}"),
        "{text}"
    );
    assert!(text.contains("sam3_cache_bytes"));
    assert_eq!(get("/api/v1/model").ok()["prompts"][0], "text");
}
