//! What the server does not do.

use axum::body::Body;
use candle_sam3::server::guard::Guard;
use candle_sam3::server::{Config, Server};
use serde_json::{Value, json};

use crate::support::*;

#[test]
fn bad_requests_are_refused_with_a_code_and_advice() {
    let id = scene_id();
    let segment = format!("/api/v1/images/{id}/segment");
    let huge = vec!["cat"; 17];
    for (body, want) in [
        (json!({}), "invalid_prompt"),
        (json!({"text": ""}), "invalid_prompt"),
        (json!({"text": huge}), "invalid_prompt"),
        (json!({"text": "cat", "threshold": 2}), "invalid_argument"),
        (
            json!({"text": "cat", "objects": [{"points": [[1, 1]]}]}),
            "invalid_prompt",
        ),
        (json!({"objects": [{}]}), "invalid_prompt"),
        (
            json!({"objects": [{"points": [[500, 1]]}]}),
            "invalid_prompt",
        ),
        (
            json!({"objects": [{"points": [[1, 1]], "labels": []}]}),
            "invalid_prompt",
        ),
        (
            json!({"objects": [{"points": [[1, 1]], "labels": [7]}]}),
            "invalid_prompt",
        ),
        (
            json!({"objects": [{"box": [9, 9, 1, 1]}]}),
            "invalid_prompt",
        ),
        (
            json!({"objects": [{"mask": {"size": [1, 1], "counts": [1]}}]}),
            "invalid_prompt",
        ),
        (
            json!({"objects": [{"mask": {"size": [224, 224], "counts": [1, 1]}}]}),
            "invalid_prompt",
        ),
        (
            json!({"objects": [{"points": [[1, 1]], "logits": "AAA="}]}),
            "invalid_prompt",
        ),
        (json!({"image_path": "/etc/passwd"}), "invalid_prompt"),
    ] {
        let (status, code) = post(&segment, &body).error();
        assert_eq!((status, code.as_str()), (422, want), "{body}");
    }
    assert_eq!(
        post("/api/v1/images/xyz/segment", &json!({})).error().0,
        400
    );
    let unknown = format!("/api/v1/images/{}/segment", "0".repeat(32));
    assert_eq!(
        post(&unknown, &json!({})).error(),
        (404, "unknown_image".into())
    );
    assert_eq!(get("/nowhere").error(), (404, "not_found".into()));
    assert_eq!(get(&segment).error(), (405, "wrong_method".into()));
    let plain = request("POST", &segment)
        .body(Body::from(r#"{"text":"cat"}"#))
        .unwrap();
    assert_eq!(send(router(), plain).error(), (415, "not_json".into()));
    assert_eq!(get("/api/v1/hover").error().1, "not_a_websocket");
}

#[test]
fn only_pictures_are_taken() {
    for file in [
        vec![],
        b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(),
        vec![0xff; 1000],
    ] {
        assert_eq!(upload(file).error(), (422, "invalid_image".into()));
    }
    let encoded = request("POST", "/api/v1/images").header("content-encoding", "gzip");
    let encoded = send(
        router(),
        encoded.body(Body::from(scene_file(SCENE))).unwrap(),
    );
    assert_eq!(encoded.error(), (415, "encoded_body".into()));
    // A header that announces 60,000 x 60,000 pixels.
    let mut bomb = scene_file(SCENE);
    bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let status = upload(bomb).error().0;
    assert!(status == 413 || status == 422, "{status}");
}

#[test]
fn uploads_have_a_limit_with_and_without_an_announced_length() {
    let config = Config {
        max_upload: 1 << 16,
        ..Config::default()
    };
    let server = Server::start(model(), config).unwrap();
    let file = vec![1; (1 << 16) + 1];
    let announced = request("POST", "/api/v1/images").header("content-length", file.len());
    let announced = announced.body(Body::from(file.clone())).unwrap();
    assert_eq!(
        send(server.router(), announced).error(),
        (413, "too_large".into())
    );
    let silent = request("POST", "/api/v1/images")
        .body(Body::from(file))
        .unwrap();
    assert_eq!(
        send(server.router(), silent).error(),
        (413, "too_large".into())
    );
}

#[test]
fn pictures_have_a_limit_of_pixels() {
    let config = Config {
        max_pixels: 50_000,
        ..Config::default()
    };
    let server = Server::start(model(), config).unwrap();
    let upload = request("POST", "/api/v1/images")
        .body(Body::from(scene_file(SCENE)))
        .unwrap();
    assert_eq!(
        send(server.router(), upload).error(),
        (413, "too_many_pixels".into())
    );
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let ask = |host: &str, origin: Option<&str>| {
        let mut request = axum::http::Request::post("/api/v1/images").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        send(
            router(),
            request.body(Body::from(scene_file(SCENE))).unwrap(),
        )
        .status()
        .as_u16()
    };
    assert_eq!(ask("localhost:8000", None), 201);
    assert_eq!(ask("localhost:8000", Some("http://localhost:8000")), 201);
    assert_eq!(ask("evil.example:8000", None), 403);
    assert_eq!(ask("localhost:8000", Some("http://evil.example")), 403);
    assert_eq!(ask("localhost:8000", Some("null")), 403);
}

#[test]
fn other_origins_may_ask_when_they_are_named() {
    let guard = Guard::default().with_origins(vec!["https://editor.example".into()]);
    let server = Server::start(
        model(),
        Config {
            guard,
            ..Config::default()
        },
    )
    .unwrap();
    let ask = |method: &str, origin: &str| {
        let request = request(method, "/api/v1/model").header("origin", origin);
        send(server.router(), request.body(Body::empty()).unwrap())
    };
    let named = ask("GET", "https://editor.example");
    assert_eq!(
        named.header("access-control-allow-origin"),
        "https://editor.example"
    );
    assert_eq!(named.header("cross-origin-resource-policy"), "cross-origin");
    let preflight = ask("OPTIONS", "https://editor.example");
    assert_eq!(preflight.status(), 204);
    assert!(
        preflight
            .header("access-control-allow-headers")
            .contains("authorization")
    );
    assert_eq!(
        ask("GET", "https://other.example").header("access-control-allow-origin"),
        ""
    );
}

#[test]
fn a_token_opens_all_but_the_page() {
    let guard = Guard::default().with_token("open-sesame");
    let server = Server::start(
        model(),
        Config {
            guard,
            ..Config::default()
        },
    )
    .unwrap();
    let ask = |path: &str, header: Option<(&str, &str)>| {
        let mut request = request("GET", path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        send(server.router(), request.body(Body::empty()).unwrap())
            .status()
            .as_u16()
    };
    for path in ["/", "/assets/app.js", "/health", "/openapi.json"] {
        assert_eq!(ask(path, None), 200, "{path}");
    }
    for path in [
        "/api/v1/model",
        "/metrics",
        "/v1/models",
        "/label-studio/health",
    ] {
        assert_eq!(ask(path, None), 401, "{path}");
        assert_eq!(
            ask(path, Some(("authorization", "Bearer wrong"))),
            401,
            "{path}"
        );
        assert_eq!(
            ask(path, Some(("authorization", "Bearer open-sesame"))),
            200,
            "{path}"
        );
        assert_eq!(ask(path, Some(("token", "open-sesame"))), 200, "{path}");
    }
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let config = Config {
        queue: 1,
        ..Config::default()
    };
    let server = Server::start(model(), config).unwrap();
    let router = server.router();
    let statuses: Vec<(u16, String)> = runtime().block_on(async {
        let mut asked = tokio::task::JoinSet::new();
        for scene in 0..8 {
            let (kind, body) = form(&[
                ("image", &scene_file(&format!("scene_{scene}"))),
                ("text", b"red circle"),
            ]);
            let request = request("POST", "/api/v1/segment").header("content-type", kind);
            let request = request.body(Body::from(body)).unwrap();
            let router = router.clone();
            asked.spawn(async move {
                let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
                let after = response.headers().get("retry-after");
                let after = after
                    .map_or("", |value| value.to_str().unwrap())
                    .to_string();
                (response.status().as_u16(), after)
            });
        }
        asked.join_all().await
    });
    assert!(
        statuses.iter().any(|(status, _)| *status == 200),
        "{statuses:?}"
    );
    for (status, after) in statuses {
        assert!(
            status == 200 || (status == 429 && !after.is_empty()),
            "{status} {after}"
        );
    }
}

#[test]
fn who_hangs_up_while_waiting_costs_nothing() {
    let server = Server::start(model(), Config::default()).unwrap();
    let router = server.router();
    let ask = async |request: axum::http::Request<Body>| {
        let response = tower::ServiceExt::oneshot(router.clone(), request)
            .await
            .unwrap();
        axum::body::to_bytes(response.into_body(), 1 << 24)
            .await
            .unwrap()
    };
    let post = |path: &str, body: &Value| {
        let request = request("POST", path).header("content-type", "application/json");
        request.body(Body::from(body.to_string())).unwrap()
    };
    runtime().block_on(async {
        let upload = request("POST", "/api/v1/images")
            .body(Body::from(scene_file(SCENE)))
            .unwrap();
        let uploaded: Value = serde_json::from_slice(&ask(upload).await).unwrap();
        let path = format!("/api/v1/images/{}", uploaded["id"].as_str().unwrap());
        let point = json!({"objects": [{"points": [[9, 9]]}]});
        ask(post(&format!("{path}/segment"), &point)).await;
        // Keeps the engine busy while others wait and leave.
        let busy = post(
            &format!("{path}/everything"),
            &json!({"points_per_side": 64}),
        );
        let busy = tokio::spawn(tower::ServiceExt::oneshot(router.clone(), busy));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let mut others = tokio::task::JoinSet::new();
        for scene in 3..9 {
            let (kind, body) = form(&[
                ("image", &scene_file(&format!("scene_{scene}"))),
                ("text", b"star"),
            ]);
            let other = request("POST", "/api/v1/segment").header("content-type", kind);
            others.spawn(tower::ServiceExt::oneshot(
                router.clone(),
                other.body(Body::from(body)).unwrap(),
            ));
        }
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        others.abort_all();
        busy.await.unwrap().unwrap();
        ask(post(&format!("{path}/segment"), &point)).await;
        // The engine drops those who left when it comes to them, which may be after the answer above.
        let mut text = String::new();
        for _ in 0..200 {
            let metrics = request("GET", "/metrics").body(Body::empty()).unwrap();
            text = String::from_utf8(ask(metrics).await.to_vec()).unwrap();
            if text.contains("\nsam3_waiting_patient 0\n") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(text.contains("\nsam3_encodes_total 1\n"), "{text}");
        assert!(text.contains("\nsam3_waiting_patient 0\n"), "{text}");
    });
}

#[test]
fn failures_name_no_paths() {
    let text = |answer: &Answer| String::from_utf8_lossy(&answer.bytes).into_owned();
    let answers = [
        upload(vec![1, 2, 3]),
        get("/nowhere"),
        post("/sam3/embed_image", &Value::Null),
    ];
    for answer in answers {
        assert!(
            !text(&answer).contains("/src/") && !text(&answer).contains(".rs"),
            "{}",
            text(&answer)
        );
    }
}
