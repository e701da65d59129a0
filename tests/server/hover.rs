//! The hover socket, over a real connection.

use std::net::SocketAddr;
use std::time::Duration;

use candle_sam3::server::guard::Guard;
use candle_sam3::server::{Config, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::*;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A server on a port of its own, until the sender is dropped or used.
async fn serve(config: Config) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::start(model(), config).unwrap();
    let upload = request("POST", "/api/v1/images")
        .header("authorization", "Bearer open-sesame")
        .body(axum::body::Body::from(scene_file(SCENE)))
        .unwrap();
    tower::ServiceExt::oneshot(server.router(), upload)
        .await
        .unwrap();
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(server.serve(listener, async {
        let _ = stopped.await;
    }));
    (address, stop, running)
}

async fn open(address: SocketAddr) -> Socket {
    connect_async(format!("ws://{address}/api/v1/hover"))
        .await
        .unwrap()
        .0
}

async fn next(socket: &mut Socket) -> Message {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
        match message
            .expect("an answer in time")
            .expect("an open socket")
            .unwrap()
        {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

async fn told(socket: &mut Socket) -> Value {
    serde_json::from_str(next(socket).await.to_text().unwrap()).unwrap()
}

async fn hello(socket: &mut Socket) -> u32 {
    let id = {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(scene_file(SCENE));
        digest[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    socket
        .send(Message::text(json!({"image": id}).to_string()))
        .await
        .unwrap();
    let opened = told(socket).await;
    assert_eq!(
        (&opened["opened"], &opened["width"]),
        (&json!(id), &json!(224)),
        "{opened}"
    );
    let tag = opened["tag"].as_u64().unwrap();
    assert_eq!(told(socket).await, json!({"ready": tag}));
    tag as u32
}

fn position(seq: u32, tag: u32, [x, y]: [f64; 2]) -> Message {
    let mut bytes = vec![1, 255, 0, 0];
    bytes.extend(seq.to_le_bytes());
    bytes.extend(tag.to_le_bytes());
    bytes.extend((x as f32).to_le_bytes());
    bytes.extend((y as f32).to_le_bytes());
    Message::binary(bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn masks_follow_the_pointer_and_the_last_position_is_never_lost() {
    runtime().block_on(async {
        let (address, stop, running) = serve(Config::default()).await;
        let mut socket = open(address).await;
        let tag = hello(&mut socket).await;
        let circle = object(RED_CIRCLE);
        // As fast as they can be sent: some are replaced, the last one is not.
        for seq in 1..=50 {
            let at = [circle.click[0] - 50. + f64::from(seq), circle.click[1]];
            socket.send(position(seq, tag, at)).await.unwrap();
        }
        let mut seen = 0;
        while seen < 50 {
            let message = next(&mut socket).await;
            let bytes = message.into_data();
            let seq = word(&bytes, 4);
            assert!(seq > seen && word(&bytes, 8) == tag);
            seen = seq;
            if seq == 50 {
                let (width, height) = (usize::from(bytes[12]), usize::from(bytes[14]));
                let levels = &bytes[48..];
                assert_eq!(levels.len(), width * height);
                let scale = width as f64 / 224.;
                let mask = candle_sam3::mask::Mask::from_fn(224, 224, |x, y| {
                    let at = |v: usize| (((v as f64 + 0.5) * scale) as usize).min(width - 1);
                    levels[at(y) * width + at(x)] >= 128
                });
                assert!(mask.iou(&circle.mask) > 0.8, "{}", mask.iou(&circle.mask));
            }
        }
        stop.send(()).unwrap();
        let Message::Close(Some(frame)) = next(&mut socket).await else {
            panic!("no close")
        };
        assert_eq!(u16::from(frame.code), 1001);
        running.await.unwrap();
    });
}

#[test]
fn nonsense_is_answered_and_the_socket_stays_open() {
    runtime().block_on(async {
        let (address, _stop, _running) = serve(Config::default()).await;
        let mut socket = open(address).await;
        for (message, code) in [
            (Message::text("{"), "bad_request"),
            (
                Message::text(r#"{"image": "../../etc/passwd"}"#),
                "bad_request",
            ),
            (
                Message::text(json!({"image": "0".repeat(32)}).to_string()),
                "unknown_image",
            ),
            (Message::binary(vec![1, 2, 3]), "bad_request"),
            (Message::binary(vec![9; 20]), "bad_request"),
        ] {
            socket.send(message).await.unwrap();
            assert_eq!(told(&mut socket).await["error"]["code"], code);
        }
        let tag = hello(&mut socket).await;
        socket.send(position(1, tag, [f64::NAN, 3.])).await.unwrap();
        let refused = told(&mut socket).await;
        assert_eq!(
            (&refused["error"]["code"], &refused["seq"]),
            (&json!("invalid_prompt"), &json!(1))
        );
        socket.send(Message::binary(vec![0; 5000])).await.unwrap();
        assert!(!matches!(
            socket.next().await,
            Some(Ok(Message::Text(_) | Message::Binary(_)))
        ));
    });
}

#[test]
fn a_socket_of_another_origin_is_not_opened() {
    runtime().block_on(async {
        let (address, _stop, _running) = serve(Config::default()).await;
        let mut request = format!("ws://{address}/api/v1/hover")
            .into_client_request()
            .unwrap();
        request
            .headers_mut()
            .insert("origin", "http://evil.example".parse().unwrap());
        let refused = connect_async(request).await.unwrap_err().to_string();
        assert!(refused.contains("403"), "{refused}");
    });
}

#[test]
fn a_socket_asks_for_the_token_first() {
    runtime().block_on(async {
        let guard = Guard::default().with_token("open-sesame");
        let (address, _stop, _running) = serve(Config {
            guard,
            ..Config::default()
        })
        .await;
        let mut socket = open(address).await;
        socket.send(position(1, 1, [3., 3.])).await.unwrap();
        assert_eq!(told(&mut socket).await["error"]["code"], "unauthorized");
        socket
            .send(Message::text(r#"{"token": "open-sesame"}"#))
            .await
            .unwrap();
        hello(&mut socket).await;
    });
}

#[test]
fn sockets_have_a_limit() {
    runtime().block_on(async {
        let config = Config {
            max_sockets: 1,
            ..Config::default()
        };
        let (address, _stop, _running) = serve(config).await;
        let socket = open(address).await;
        let url = format!("ws://{address}/api/v1/hover");
        let refused = connect_async(&url).await.unwrap_err().to_string();
        assert!(refused.contains("429"), "{refused}");
        drop(socket);
        let mut tries = 0;
        while connect_async(&url).await.is_err() {
            tries += 1;
            assert!(tries < 100);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
