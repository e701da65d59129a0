//! Eight clients at once that mix uploads, words, points and hovering, and now and then hang up.
//!
//! `LOAD_SECONDS=120 cargo test --release --test server load -- --nocapture` states figures; a second
//! or two otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use candle_sam3::server::{Config, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

use crate::support::*;

/// Milliseconds by kind of request.
type Times = Arc<std::sync::Mutex<BTreeMap<&'static str, Vec<f64>>>>;

#[derive(Default)]
struct Tally {
    refused: AtomicU64,
    hung_up: AtomicU64,
}

async fn ask(router: &Router, request: Request<Body>) -> (u16, Vec<u8>) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        axum::body::to_bytes(response.into_body(), 1 << 26)
            .await
            .unwrap()
            .to_vec(),
    )
}

fn prompt(id: &str, prompt: &Value) -> Request<Body> {
    let request = request("POST", &format!("/api/v1/images/{id}/segment"));
    request
        .header("content-type", "application/json")
        .body(Body::from(prompt.to_string()))
        .unwrap()
}

/// Pictures that are all different, so that each is encoded.
fn picture(client: usize, round: usize) -> Vec<u8> {
    let file = scene_file(&format!("scene_{}", round % 12));
    let image = candle_sam3::image::Image::decode(&file).unwrap();
    let mut pixels = image.pixels().to_vec();
    pixels[..16]
        .copy_from_slice(&[(client as u64).to_le_bytes(), (round as u64).to_le_bytes()].concat());
    let image =
        candle_sam3::image::Image::from_rgb8(image.width(), image.height(), pixels).unwrap();
    candle_sam3::output::encode_png(&image).unwrap()
}

async fn work(router: Router, client: usize, end: Instant, times: Times, tally: Arc<Tally>) {
    let mut round = 0;
    while Instant::now() < end {
        round += 1;
        let file = picture(client, round);
        let upload = request("POST", "/api/v1/images")
            .body(Body::from(file))
            .unwrap();
        let start = Instant::now();
        let (status, body) = ask(&router, upload).await;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        times
            .lock()
            .unwrap()
            .entry("upload")
            .or_default()
            .push(ms(start));
        let id = serde_json::from_slice::<Value>(&body).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_string();
        for (name, asked) in [
            ("text", json!({"text": "red circle, star"})),
            ("point", json!({"objects": [{"points": [[112, 112]]}]})),
            ("box", json!({"objects": [{"box": [60, 60, 160, 160]}]})),
        ] {
            let start = Instant::now();
            let (status, body) = ask(&router, prompt(&id, &asked)).await;
            match status {
                200 => times
                    .lock()
                    .unwrap()
                    .entry(name)
                    .or_default()
                    .push(ms(start)),
                429 => {
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => panic!("{status} for {name}: {}", String::from_utf8_lossy(&body)),
            }
        }
        if round % 4 == client % 4 {
            // A client that hangs up while it waits.
            let asked = prompt(&id, &json!({"text": "blue star"}));
            let answer = ask(&router, asked);
            if tokio::time::timeout(Duration::from_millis(2), answer)
                .await
                .is_err()
            {
                tally.hung_up.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Hovers over the same picture, position after position; each is answered or replaced by a newer one.
async fn hover(url: String, id: String, end: Instant, times: Times) {
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket
        .send(Message::text(json!({"image": id}).to_string()))
        .await
        .unwrap();
    let mut tag = None;
    let mut seq = 0u32;
    // On a slow machine the time is over before the picture is encoded; one mask comes all the same.
    while Instant::now() < end || seq == 0 {
        if let Some(tag) = tag {
            seq += 1;
            let mut bytes = vec![1, 255, 0, 0];
            bytes.extend(seq.to_le_bytes());
            bytes.extend(u32::to_le_bytes(tag));
            bytes.extend(((seq % 200) as f32).to_le_bytes());
            bytes.extend(112f32.to_le_bytes());
            socket.send(Message::binary(bytes)).await.unwrap();
        }
        let start = Instant::now();
        loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => {
                    assert_eq!(bytes[4..8], seq.to_le_bytes());
                    times
                        .lock()
                        .unwrap()
                        .entry("hover")
                        .or_default()
                        .push(ms(start));
                    break;
                }
                Message::Text(text) => {
                    let told: Value = serde_json::from_str(&text).unwrap();
                    if let Some(ready) = told["ready"].as_u64() {
                        tag = Some(ready as u32);
                        break;
                    }
                    assert!(told["opened"].is_string(), "{told}");
                }
                _ => {}
            }
        }
    }
}

/// Bytes of memory that are in use, where the system says so.
fn memory() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

#[test]
fn eight_clients_lose_nothing_and_memory_stays_flat() {
    let seconds = std::env::var("LOAD_SECONDS").map_or(2, |seconds| seconds.parse().unwrap());
    let times = Times::default();
    let tally = Arc::<Tally>::default();
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/api/v1/hover", listener.local_addr().unwrap());
        let config = Config {
            cache_bytes: 256 << 20,
            ..Config::default()
        };
        let server = Server::start(model(), config).unwrap();
        let router = server.router();
        let upload = request("POST", "/api/v1/images")
            .body(Body::from(scene_file(SCENE)))
            .unwrap();
        let (_, body) = ask(&router, upload).await;
        let id = serde_json::from_slice::<Value>(&body).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        let start = Instant::now();
        let end = start + Duration::from_secs(seconds);
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..6 {
            clients.spawn(work(
                router.clone(),
                client,
                end,
                Arc::clone(&times),
                Arc::clone(&tally),
            ));
        }
        for _ in 0..2 {
            clients.spawn(hover(url.clone(), id.clone(), end, Arc::clone(&times)));
        }
        // Warm after a quarter of the time.
        tokio::time::sleep(Duration::from_secs(seconds) / 4).await;
        let warm = memory();
        clients.join_all().await;
        let done = memory();
        let (status, metrics) = ask(
            &router,
            request("GET", "/metrics").body(Body::empty()).unwrap(),
        )
        .await;
        let metrics = String::from_utf8(metrics).unwrap();
        assert!(status == 200 && metrics.contains("\nsam3_panics_total 0\n"));
        if let (Some(warm), Some(done)) = (warm, done) {
            let mib = |bytes: u64| bytes >> 20;
            println!(
                "memory: {} MiB warm, {} MiB at the end",
                mib(warm),
                mib(done)
            );
            // The cache may still be filling in a short run.
            assert!(
                seconds < 60 || done < warm + (96 << 20),
                "{} {}",
                mib(warm),
                mib(done)
            );
        }
        stop.send(()).unwrap();
        running.await.unwrap();
    });
    println!(
        "{seconds} s: {} refused with 429, {} hung up",
        tally.refused.load(Ordering::Relaxed),
        tally.hung_up.load(Ordering::Relaxed)
    );
    let mut times = times.lock().unwrap().clone();
    for (name, times) in &mut times {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        println!(
            "{name}: {} answers, p50 {:.1} ms, p95 {:.1} ms",
            times.len(),
            at(0.5),
            at(0.95)
        );
    }
    assert!(
        times.contains_key("hover") && times.contains_key("upload"),
        "{:?}",
        times.keys()
    );
}
