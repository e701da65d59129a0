//! Requests that nobody means well with: every answer is typed, nothing panics, memory stays bounded.
//!
//! `HOSTILE=100000 cargo test --release --test server hostile` sends so many; a few thousand otherwise.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use candle_sam3::server::{Config, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

use crate::support::*;

/// Numbers that look random and are the same each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() >> 33) as usize % n
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.roll() as u8).collect()
    }
}

const PATHS: &[&str] = &[
    "/",
    "/health",
    "/metrics",
    "/openapi.json",
    "/api/v1/model",
    "/api/v1/images",
    "/api/v1/segment",
    "/api/v1/images/{id}",
    "/api/v1/images/{id}/segment",
    "/api/v1/images/{id}/everything",
    "/api/v1/images/{id}/export",
    "/api/v1/images/00/segment",
    "/api/v1/images/%ff/segment",
    "/api/v1/hover",
    "/sam3/concept_segment",
    "/sam3/visual_segment",
    "/sam3/embed_image",
    "/v1/models",
    "/v1/models/x/info",
    "/v1/predict",
    "/label-studio/predict",
    "/label-studio/setup",
    "/label-studio/webhook",
    "/assets/app.js",
    "/assets/%2e%2e%2fmod.rs",
    "/../../etc/passwd",
    "/a%00b",
];

/// A value of any kind, rarely a sensible one.
fn value(dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 9 } else { 11 }) {
        0 => Value::Null,
        1 => json!(dice.roll().is_multiple_of(2)),
        2 => json!(dice.roll() as i64),
        3 => json!(f64::from_bits(dice.roll())),
        4 => json!(dice.pick(&[0., -1., 1e38, 1e-38, 223.9, 224., 0.5])),
        5 => json!(String::from_utf8_lossy(&dice.bytes(40))),
        6 => json!("\u{0}\u{202e}'; DROP TABLE--<script>".repeat(dice.below(4))),
        7 => json!(vec![dice.below(300) as f64; dice.below(6)]),
        8 => json!("a".repeat(dice.below(2000))),
        9 => (0..dice.below(5)).map(|_| value(dice, depth - 1)).collect(),
        _ => {
            let mut map = serde_json::Map::new();
            for _ in 0..dice.below(5) {
                map.insert(dice.pick(KEYS).to_string(), value(dice, depth - 1));
            }
            Value::Object(map)
        }
    }
}

const KEYS: &[&str] = &[
    "text",
    "exemplars",
    "objects",
    "threshold",
    "nms",
    "max_instances",
    "multimask",
    "output",
    "logits",
    "box",
    "points",
    "labels",
    "mask",
    "size",
    "counts",
    "positive",
    "image",
    "image_id",
    "type",
    "value",
    "prompts",
    "boxes",
    "box_labels",
    "format",
    "model",
    "params",
    "marks",
    "data",
    "label",
    "tasks",
    "label_config",
    "context",
    "result",
    "x",
    "y",
    "width",
    "height",
    "points_per_side",
    "formats",
    "name",
];

/// A good request with one thing wrong, if luck has it.
fn almost(dice: &mut Dice) -> Value {
    let mut good = dice
        .pick(&[
            json!({"text": "red circle", "threshold": 0.5, "output": "rle"}),
            json!({"objects": [{"points": [[100, 100]], "labels": [1], "box": [10, 10, 90, 90]}]}),
            json!({"objects": [{"mask": {"size": [224, 224], "counts": [100, 50, 50026]}}]}),
            json!({"exemplars": [{"box": [10, 10, 90, 90], "positive": true}]}),
            json!({"image": {"type": "base64", "value": "AAAA"}, "prompts": [{"type": "text", "text": "a"}]}),
            json!({"model": "candle_sam3_clicks", "image": "AAAA", "params": {"marks": []}}),
            json!({"tasks": [{"id": 1, "data": {"image": "data:image/png;base64,AAAA"}}], "label_config":
                   "<Image value='$image'/><BrushLabels name='a' toName='b'><Label value='c'/></BrushLabels>"}),
            json!({"name": "a.png", "formats": ["masks"], "objects": [
                   {"label": "a", "score": 1, "mask": {"size": [224, 224], "counts": [1, 50175]}}]}),
        ])
        .clone();
    break_one(dice, &mut good);
    good
}

fn break_one(dice: &mut Dice, value: &mut Value) {
    if dice.below(3) == 0 {
        *value = self::value(dice, 2);
        return;
    }
    match value {
        Value::Array(items) if !items.is_empty() => {
            let at = dice.below(items.len());
            break_one(dice, &mut items[at]);
        }
        Value::Object(map) if !map.is_empty() => {
            let at = dice.below(map.len());
            if let Some((_, inner)) = map.iter_mut().nth(at) {
                break_one(dice, inner);
            }
        }
        _ => *value = self::value(dice, 1),
    }
}

fn body(dice: &mut Dice, scene: &[u8]) -> (String, Vec<u8>) {
    match dice.below(8) {
        0 => ("application/json".into(), dice.bytes(300)),
        1 | 2 => (
            "application/json".into(),
            value(dice, 3).to_string().into_bytes(),
        ),
        3 | 4 => (
            "application/json".into(),
            almost(dice).to_string().into_bytes(),
        ),
        5 => {
            // A damaged picture: any byte, or the sizes in its header.
            let mut file = scene.to_vec();
            for _ in 0..=dice.below(4) {
                let at = if dice.below(2) == 0 {
                    dice.below(40)
                } else {
                    dice.below(file.len())
                };
                file[at] = dice.roll() as u8;
            }
            file.truncate(1 + dice.below(scene.len()));
            ("image/png".into(), file)
        }
        6 => {
            let text = value(dice, 1).to_string();
            let name = dice.pick(KEYS);
            let (kind, mut form) = form(&[(name, text.as_bytes()), ("image", &dice.bytes(50))]);
            let at = dice.below(form.len());
            form[at] = dice.roll() as u8;
            (kind, form)
        }
        _ => ("multipart/form-data".into(), dice.bytes(100)),
    }
}

fn hostile(dice: &mut Dice, id: &str, scene: &[u8]) -> Request<Body> {
    let path = dice.pick(PATHS).replace("{id}", id);
    let method = *dice.pick(&[
        "POST", "POST", "POST", "GET", "DELETE", "PUT", "HEAD", "OPTIONS", "BREW",
    ]);
    // The picture stays, or later requests would find none.
    let method = if method == "DELETE" { "PATCH" } else { method };
    let host = match dice.below(12) {
        0 => "evil.example",
        1 => "localhost:99999999",
        _ => "localhost:8000",
    };
    let (kind, body) = body(dice, scene);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host);
    request = request.header("content-type", kind);
    for _ in 0..dice.below(3) {
        let name = *dice.pick(&[
            "origin",
            "accept",
            "content-encoding",
            "token",
            "upgrade",
            "sec-fetch-site",
        ]);
        if let Ok(text) = HeaderValue::from_bytes(&dice.bytes(30)) {
            request = request.header(HeaderName::from_static(name), text);
        }
    }
    request.body(Body::from(body)).unwrap()
}

#[test]
fn every_answer_is_typed_and_nothing_panics() {
    let count = std::env::var("HOSTILE").map_or(3000, |count| count.parse().unwrap());
    let config = Config {
        cache_bytes: 256 << 20,
        ..Config::default()
    };
    let server = Server::start(model(), config).unwrap();
    let scene = scene_file(SCENE);
    let mut dice = Dice(0x5a17_c0de);
    let mut statuses = std::collections::BTreeMap::new();
    runtime().block_on(async {
        let upload = request("POST", "/api/v1/images")
            .body(Body::from(scene.clone()))
            .unwrap();
        let uploaded = server.router().oneshot(upload).await.unwrap();
        let bytes = axum::body::to_bytes(uploaded.into_body(), 1 << 20)
            .await
            .unwrap();
        let id = serde_json::from_slice::<Value>(&bytes).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_string();
        for number in 0..count {
            let request = hostile(&mut dice, &id, &scene);
            let asked = format!("{number}: {request:?}");
            let response = server.router().oneshot(request).await.unwrap();
            let status = response.status();
            *statuses.entry(status.as_u16()).or_insert(0) += 1;
            assert!(!status.is_server_error(), "{status} for {asked}");
            let bytes = axum::body::to_bytes(response.into_body(), 64 << 20)
                .await
                .unwrap();
            if status.is_client_error() && !asked.contains("method: HEAD") {
                let body: Value = serde_json::from_slice(&bytes)
                    .unwrap_or_else(|_| panic!("{status} without JSON for {asked}"));
                assert!(body["error"]["code"].is_string(), "{body} for {asked}");
            }
        }
        let metrics = request("GET", "/metrics").body(Body::empty()).unwrap();
        let metrics = server.router().oneshot(metrics).await.unwrap();
        let text = axum::body::to_bytes(metrics.into_body(), 1 << 20)
            .await
            .unwrap();
        assert!(String::from_utf8_lossy(&text).contains("\nsam3_panics_total 0\n"));
    });
    println!("{count} requests: {statuses:?}");
    assert!(
        statuses[&200] > 0 && statuses[&422] > 0 && statuses[&403] > 0,
        "{statuses:?}"
    );
}

/// A server on a socket, for what is not a request at all.
fn listen(config: Config) -> SocketAddr {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::start(model(), config).unwrap();
        tokio::spawn(server.serve(listener, std::future::pending()));
        address
    })
}

#[test]
fn broken_frames_close_their_socket_alone() {
    let address = listen(Config::default());
    let mut dice = Dice(7);
    for raw in 0..200 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        let handshake = "GET /api/v1/hover HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(handshake.as_bytes()).unwrap();
        let mut head = [0; 1024];
        let read = stream.read(&mut head).unwrap();
        assert!(head[..read].starts_with(b"HTTP/1.1 101"));
        // Frames without a mask, with reserved bits, of absurd lengths, or noise.
        let noise = match raw % 4 {
            0 => vec![0x82, 0x05, 1, 2, 3, 4, 5],
            1 => vec![0xf2, 0x80, 0, 0, 0, 0],
            2 => vec![
                0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4,
            ],
            _ => dice.bytes(400),
        };
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = vec![];
        let _ = stream.read_to_end(&mut rest);
    }
    runtime().block_on(async {
        let url = format!("ws://{address}/api/v1/hover");
        let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
        for _ in 0..2000 {
            let noise = dice.bytes(60);
            // A position of another picture is dropped without a word.
            let is_position = noise.len() == 20 && noise[0] == 1;
            let message = match dice.below(2) {
                0 if is_position => continue,
                0 => Message::binary(noise),
                _ => Message::text(String::from_utf8_lossy(&noise).into_owned()),
            };
            socket.send(message).await.unwrap();
            // Pings of the server come in between.
            let answer = loop {
                match socket.next().await.unwrap().unwrap() {
                    Message::Ping(_) => {}
                    answer => break answer,
                }
            };
            assert!(
                answer.to_text().unwrap().contains("\"error\""),
                "{answer:?}"
            );
        }
    });
}

#[test]
fn slow_heads_and_broken_requests_lose_their_connection() {
    let address = listen(Config {
        max_connections: 8,
        ..Config::default()
    });
    let start = Instant::now();
    // More than there are slots: those that wait are served when the slow ones are thrown out.
    let slow: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
            stream
        })
        .collect();
    let mut honest = TcpStream::connect(address).unwrap();
    honest
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    honest
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    honest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(start.elapsed() > Duration::from_secs(5) && start.elapsed() < Duration::from_secs(25));
    drop(slow);
    let many = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "A: b\r\n".repeat(100)
    );
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a".repeat(100_000)
    );
    for (sent, want) in [
        (many.as_str(), "HTTP/1.1 431"),
        (long.as_str(), "HTTP/1.1 4"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400"),
        (
            "POST /api/v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n",
            "HTTP/1.1 400",
        ),
        (
            "POST /api/v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 413",
        ),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .unwrap();
        let _ = stream.write_all(sent.as_bytes());
        let mut answer = [0; 16];
        let read = stream.read(&mut answer).unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(
            answer.starts_with(want),
            "{answer:?} for {:?}",
            &sent[..sent.len().min(60)]
        );
    }
}

#[test]
fn one_call_of_many_pictures_stays_within_the_budget() {
    let config = Config {
        cache_bytes: 4 << 20,
        ..Config::default()
    };
    let server = Server::start(model(), config).unwrap();
    for shade in 0..100u8 {
        let image =
            candle_sam3::image::Image::from_rgb8(300, 300, vec![shade; 300 * 300 * 3]).unwrap();
        let file = candle_sam3::output::encode_png(&image).unwrap();
        let upload = request("POST", "/api/v1/images?encode=no")
            .body(Body::from(file))
            .unwrap();
        assert_eq!(send(server.router(), upload).status(), StatusCode::CREATED);
    }
    let metrics = request("GET", "/metrics").body(Body::empty()).unwrap();
    let text = String::from_utf8(send(server.router(), metrics).bytes).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("sam3_cache_bytes "))
        .unwrap();
    let bytes: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(bytes > 0. && bytes <= f64::from(4 << 20), "{bytes}");
}
