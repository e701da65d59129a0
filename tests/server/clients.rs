//! Requests of other servers' clients, as their own code sends them.

use candle_sam3::mask::Mask;
use serde_json::{Value, json};

use crate::support::*;

/// The pixels inside a polygon of whole pixels through border centers.
fn filled(polygons: &Value) -> Mask {
    let mut all = Mask::new(224, 224);
    for polygon in polygons.as_array().unwrap() {
        let path: Vec<[f64; 2]> = serde_json::from_value(polygon.clone()).unwrap();
        let part = candle_sam3::mask::polygon::rasterize_centers(&path, 224, 224).unwrap();
        all.unite(&part);
    }
    all
}

fn image() -> Value {
    json!({"type": "base64", "value": scene_base64()})
}

/// As inference-sdk 1.8.3 sends it, the key in the query too.
#[test]
fn roboflow_finds_concepts() {
    let request = json!({
        "api_key": "x", "format": "polygon", "output_prob_thresh": 0.5,
        "prompts": [{"type": "text", "text": "white star"}, {"type": "text", "text": "hexagon"}],
        "image": image(),
    });
    let answer = post("/sam3/concept_segment?api_key=x", &request).ok();
    let results = answer["prompt_results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    let echo = json!({"prompt_index": 0, "type": "text", "text": "white star", "num_boxes": 0});
    assert_eq!(results[0]["echo"], echo);
    let found = &results[0]["predictions"][0];
    assert_eq!(found["format"], "polygon");
    assert!(found["confidence"].as_f64().unwrap() > 0.5 && answer["time"].is_number());
    assert!(filled(&found["masks"]).iou(&object(WHITE_STAR).mask) > 0.85);
    assert!(results[1]["predictions"].is_array());
}

#[test]
fn roboflow_masks_are_run_lengths_where_asked() {
    let bbox = object(RED_CIRCLE).bbox;
    let [x, y] = [bbox[0], bbox[1]];
    let boxes = json!([{"x": x, "y": y, "width": bbox[2] - x, "height": bbox[3] - y}]);
    let request = json!({
        "format": "rle", "image": image(), "nms_iou_threshold": 0.9, "model_id": "sam3/sam3_final",
        "prompts": [{"type": "visual", "boxes": boxes, "box_labels": [1]}],
    });
    let answer = post("/sam3/concept_segment", &request).ok();
    let found = &answer["prompt_results"][0]["predictions"][0];
    assert_eq!(found["format"], "rle");
    assert_eq!(mask(&found["masks"]).width(), 224);
}

#[test]
fn roboflow_segments_what_is_pointed_at() {
    let circle = object(RED_CIRCLE);
    let [x, y] = circle.click;
    let points = json!([{"x": x, "y": y, "positive": true}]);
    let [x0, y0, x1, y1] = circle.bbox;
    let (w, h) = (x1 - x0, y1 - y0);
    let centered = json!({"x": x0 + w / 2., "y": y0 + h / 2., "width": w, "height": h});
    for prompts in [
        json!({"prompts": [{"points": points}]}),
        json!([{"points": points}]),
        json!({"points": points}),
        json!({"prompts": [{"box": centered}]}),
    ] {
        let request = json!({
            "api_key": "x", "image": image(), "prompts": prompts, "multimask_output": true,
            "format": "json", "sam2_version_id": "hiera_large", "save_logits_to_cache": false,
        });
        let answer = post("/sam3/visual_segment?api_key=x", &request).ok();
        let found = &answer["predictions"][0];
        assert_eq!(found["format"], "polygon");
        let iou = filled(&found["masks"]).iou(&circle.mask);
        assert!(iou > 0.85, "{prompts}: {iou}");
    }
}

#[test]
fn roboflow_ids_stand_for_one_picture() {
    let request = json!({"image": image(), "image_id": "my picture"});
    let answer = post("/sam3/embed_image", &request).ok();
    assert_eq!(answer["image_id"], "my picture");
    // Known, so that it need not be sent again.
    assert_eq!(
        post("/sam3/embed_image", &json!({"image_id": "my picture"})).status(),
        200
    );
    let other = json!({"type": "base64", "value": base64_of("scene_3")});
    let taken = post(
        "/sam3/embed_image",
        &json!({"image": other, "image_id": "my picture"}),
    );
    assert_eq!(taken.error(), (409, "image_id_taken".into()));
    let unknown = post("/sam3/embed_image", &json!({"image_id": "another"}));
    assert_eq!(unknown.error(), (404, "unknown_image".into()));
    for kind in ["url", "numpy", "file"] {
        let image = json!({"type": kind, "value": "http://169.254.169.254/latest"});
        let refused = post("/sam3/embed_image", &json!({"image": image}));
        assert_eq!(refused.error(), (400, "bad_request".into()), "{kind}");
    }
}

fn base64_of(scene: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(scene_file(scene))
}

/// As X-AnyLabeling's `remote_server.py` sends it.
fn anylabeling(model: &str, params: Value) -> Answer {
    let mut all = json!({"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001});
    for (key, value) in params.as_object().unwrap() {
        all[key] = value.clone();
    }
    let image = format!("data:image/png;base64,{}", scene_base64());
    post(
        "/v1/predict",
        &json!({"model": model, "image": image, "params": all}),
    )
}

#[test]
fn anylabeling_lists_two_models() {
    let models = get("/v1/models").ok();
    let data = models["data"].as_object().unwrap();
    assert_eq!(
        data.keys().collect::<Vec<_>>(),
        ["candle_sam3_clicks", "candle_sam3_concepts"]
    );
    for model in data.values() {
        for widget in model["widgets"].as_array().unwrap() {
            assert!(widget["name"].is_string() && widget.get("value").is_some());
        }
    }
    assert_eq!(
        get("/v1/models/candle_sam3_clicks/info").ok()["data"],
        data["candle_sam3_clicks"]
    );
    let health = get("/health").ok();
    assert!(health["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn anylabeling_draws_what_is_clicked_or_named() {
    let circle = object(RED_CIRCLE);
    let [x0, y0, x1, y1] = circle.bbox;
    for marks in [
        json!([{"type": "point", "data": circle.click, "label": 1}]),
        json!([{"type": "rectangle", "data": [x0, y0, x1, y1], "label": 1}]),
    ] {
        let answer = anylabeling("candle_sam3_clicks", json!({"marks": marks})).ok();
        assert_eq!(
            (&answer["success"], &answer["data"]["replace"]),
            (&json!(true), &json!(true))
        );
        let shape = &answer["data"]["shapes"][0];
        assert_eq!(
            (&shape["shape_type"], &shape["label"]),
            (&json!("polygon"), &json!("AUTOLABEL_OBJECT"))
        );
        let iou = filled(&json!([shape["points"]])).iou(&circle.mask);
        assert!(iou > 0.85, "{marks}: {iou}");
    }
    let answer = anylabeling("candle_sam3_concepts", json!({"text_prompt": "white star"})).ok();
    let shapes = answer["data"]["shapes"].as_array().unwrap();
    assert_eq!(
        (shapes.len(), &shapes[0]["label"]),
        (1, &json!("white star"))
    );
    let marks = json!([{"type": "rectangle", "data": [x0, y0, x1, y1], "label": 1}]);
    assert_eq!(
        anylabeling("candle_sam3_concepts", json!({"marks": marks})).status(),
        200
    );
}

#[test]
fn anylabeling_shows_its_user_what_failed() {
    let answer = anylabeling("sam_2", json!({}));
    assert_eq!(answer.error(), (404, "MODEL_NOT_FOUND".into()));
    assert_eq!(answer.json()["success"], false);
    let answer = anylabeling("candle_sam3_clicks", json!({"marks": []}));
    assert_eq!(answer.error(), (422, "INFERENCE_ERROR".into()));
    let request = json!({"model": "candle_sam3_clicks", "image": "AAAA", "params": {}});
    assert_eq!(
        post("/v1/predict", &request).error(),
        (422, "INVALID_IMAGE".into())
    );
}

/// As Label Studio 1.23.2 sends it, with the picture in the task.
fn label_studio(config: &str, context: Value) -> Answer {
    let image = format!("data:image/png;base64,{}", scene_base64());
    let request = json!({
        "tasks": [{"id": 7, "data": {"image": image}, "annotations": [], "drafts": [], "predictions": []}],
        "project": "12.1790000000",
        "label_config": config,
        "params": {"login": null, "password": null, "context": context},
    });
    post("/label-studio/predict", &request)
}

fn config(control: &str) -> String {
    format!(
        r#"<View><Image name="image" value="$image"/><{control} name="tag" toName="image">
        <Label value="white star"/></{control}>
        <KeyPointLabels name="kp" toName="image" smart="true"><Label value="white star"/></KeyPointLabels></View>"#
    )
}

#[test]
fn label_studio_gets_a_region_for_a_smart_key_point() {
    let star = object(WHITE_STAR);
    let [x, y] = star.click.map(|v| v / 2.24);
    let context = json!({"result": [{
        "id": "k1", "type": "keypointlabels", "from_name": "kp", "to_name": "image",
        "original_width": 224, "original_height": 224, "image_rotation": 0, "is_positive": 1,
        "value": {"x": x, "y": y, "width": 0.3, "labels": ["white star"], "keypointlabels": ["white star"]},
    }]});
    let answer = label_studio(&config("BrushLabels"), context.clone()).ok();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 1);
    let region = &results[0]["result"][0];
    assert_eq!(
        (&region["type"], &region["from_name"]),
        (&json!("brushlabels"), &json!("tag"))
    );
    assert_eq!(region["value"]["brushlabels"], json!(["white star"]));
    assert!(region["value"]["rle"].as_array().unwrap().len() > 20);
    let answer = label_studio(&config("PolygonLabels"), context).ok();
    let points = &answer["results"][0]["result"][0]["value"]["points"];
    let path: Vec<[f64; 2]> = serde_json::from_value::<Vec<[f64; 2]>>(points.clone()).unwrap();
    let path: Vec<[f64; 2]> = path.into_iter().map(|xy| xy.map(|v| v * 2.24)).collect();
    let drawn = candle_sam3::mask::polygon::rasterize_edges(&path, 224, 224)
        .unwrap()
        .decode()
        .unwrap();
    assert!(drawn.iou(&star.mask) > 0.8, "{}", drawn.iou(&star.mask));
}

#[test]
fn label_studio_gets_the_labels_of_a_project_found() {
    let answer = label_studio(&config("RectangleLabels"), Value::Null).ok();
    let found = &answer["results"][0]["result"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    let [x0, ..] = object(WHITE_STAR).bbox;
    let x = found[0]["value"]["x"].as_f64().unwrap() * 2.24;
    assert!((x - x0).abs() < 6., "{x} {x0}");
}

#[test]
fn label_studio_connects() {
    assert_eq!(get("/label-studio/health").ok()["status"], "UP");
    let setup =
        json!({"project": "1.2", "schema": "<View/>", "hostname": "http://x", "access_token": "s"});
    assert!(post("/label-studio/setup", &setup).ok()["model_version"].is_string());
    let event = post(
        "/label-studio/webhook",
        &json!({"action": "ANNOTATION_CREATED"}),
    );
    assert_eq!(
        (event.status().as_u16(), &event.json()["status"]),
        (201, &json!("ok"))
    );
    assert!(get("/label-studio/versions").ok()["versions"][0].is_string());
}

#[test]
fn label_studio_pictures_are_not_fetched_from_anywhere() {
    for image in [
        "http://169.254.169.254/",
        "/data/upload/1/a.jpg",
        "file:///etc/passwd",
        "s3://a/b",
    ] {
        let request = json!({
            "tasks": [{"id": 7, "data": {"image": image}}], "label_config": config("BrushLabels"),
        });
        let refused = post("/label-studio/predict", &request);
        assert_eq!(refused.error(), (422, "foreign_image".into()), "{image}");
    }
}
