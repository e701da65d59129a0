//! What hovering costs the server: `cargo bench --bench hover`, or with names of `sam3 models`.
//!
//! Models of full size on random weights behind a real socket. Each position is sent when the mask
//! of the one before has come; the server's work is what its answers say, from the arrival of the
//! position to the mask.

use std::time::Instant;

use candle_sam3::models::{LoadOptions, variant};
use candle_sam3::server::{Config, Server};
use candle_sam3::{Image, Model};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// One with SAM 1's head, and the smallest with SAM 3's.
const MODELS: [&str; 2] = ["mobile-sam", "efficientsam3-stage1-rv-s"];
const WARM_UP: usize = 20;
const POSITIONS: usize = 300;
const WIDTH: usize = 1200;
const HEIGHT: usize = 800;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let given: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let names = match given.is_empty() {
        true => MODELS.map(String::from).to_vec(),
        false => given,
    };
    println!(
        "{:28} {:>8} {:>8} {:>8} {:>8}",
        "ms", "p50", "p95", "p50", "p95"
    );
    println!("{:28} {:>17} {:>17}", "", "server", "until received");
    for name in &names {
        let [server, received] = measure(name).await?;
        let at = |xs: &[f64], part: usize| xs[xs.len() * part / 100];
        println!(
            "{name:28} {:8.1} {:8.1} {:8.1} {:8.1}",
            at(&server, 50),
            at(&server, 95),
            at(&received, 50),
            at(&received, 95)
        );
    }
    Ok(())
}

/// Sorted milliseconds of the server's work, and from sending a position to having its mask.
async fn measure(name: &str) -> Result<[Vec<f64>; 2], Failure> {
    let release = variant::find(name).ok_or_else(|| format!("no model is called {name}"))?;
    let options = LoadOptions {
        interactive: true,
        ..LoadOptions::default()
    };
    let model = Model::with_random_weights(&release.variant, &options)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("ws://{}/api/v1/hover", listener.local_addr()?);
    let server = Server::start(model, Config::default())?;
    let id = upload(&server).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.serve(listener, async {
        let _ = stopped.await;
    }));

    let (mut socket, _) = connect_async(url).await?;
    socket
        .send(Message::text(json!({"image": id}).to_string()))
        .await?;
    let mut tag = None;
    let tag = loop {
        let message: Value = match socket.next().await.ok_or("the socket closed")?? {
            Message::Text(text) => serde_json::from_str(&text)?,
            _ => continue,
        };
        if message["ready"].is_u64() {
            break tag.ok_or("ready before it was opened")?;
        }
        tag = Some(message["tag"].as_u64().ok_or_else(|| message.to_string())? as u32);
    };
    let (mut server_ms, mut received_ms) = (vec![], vec![]);
    for seq in 0..(WARM_UP + POSITIONS) as u32 {
        // A walk that comes near every place.
        let x = (seq as f32 * 0.618).fract() * WIDTH as f32;
        let y = (seq as f32 * 0.414).fract() * HEIGHT as f32;
        let start = Instant::now();
        socket.send(position(seq, tag, [x, y])).await?;
        let answer = loop {
            match socket.next().await.ok_or("the socket closed")?? {
                Message::Binary(bytes) => break bytes,
                Message::Text(text) => return Err(text.to_string().into()),
                _ => {}
            }
        };
        let word = |at: usize| {
            u32::from_le_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]])
        };
        if seq as usize >= WARM_UP {
            received_ms.push(start.elapsed().as_secs_f64() * 1e3);
            server_ms.push(f64::from(word(40) + word(44)) / 1e3);
        }
    }
    let _ = stop.send(());
    drop(socket);
    running.await?;
    server_ms.sort_by(f64::total_cmp);
    received_ms.sort_by(f64::total_cmp);
    Ok([server_ms, received_ms])
}

async fn upload(server: &Server) -> Result<String, Failure> {
    let pixels = (0..3 * WIDTH * HEIGHT).map(|i| (i / 97 + (i % 7) * 20) as u8);
    let image = Image::from_rgb8(WIDTH, HEIGHT, pixels.collect())?;
    let request = axum::http::Request::post("/api/v1/images")
        .header("host", "localhost")
        .body(axum::body::Body::from(candle_sam3::output::encode_png(
            &image,
        )?))?;
    let response = tower::ServiceExt::oneshot(server.router(), request).await?;
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await?;
    let answer: Value = serde_json::from_slice(&body)?;
    let id = answer["id"].as_str().ok_or_else(|| answer.to_string())?;
    Ok(id.to_string())
}

/// See the table in the server's `hover` module.
fn position(seq: u32, tag: u32, [x, y]: [f32; 2]) -> Message {
    let mut bytes = vec![1, 255, 0, 0];
    bytes.extend(seq.to_le_bytes());
    bytes.extend(tag.to_le_bytes());
    bytes.extend(x.to_le_bytes());
    bytes.extend(y.to_le_bytes());
    Message::binary(bytes)
}
