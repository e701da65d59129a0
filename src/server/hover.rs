//! `GET /api/v1/hover`: a WebSocket on which masks follow the pointer.
//!
//! The client opens a picture with the text `{"image": ID, "token"?: TOKEN}` and is answered
//! `{"opened": ID, "tag", "width", "height"}`; a picture that is not encoded yet is encoded, and
//! `{"ready": TAG}` follows. It then sends positions of 20 bytes, of which a newer one replaces the
//! one that waits, and gets a mask for each position that was not replaced. All numbers are little
//! endian.
//!
//! | position | | answer | |
//! |---|---|---|---|
//! | 0 | 1, version | 0 | 1, version |
//! | 1 | mask wanted: 0, 1, 2, or 255 for the best | 1 | mask that follows |
//! | 2 | 0, 0 | 2 | 0, 0 |
//! | 4 | u32 sequence number | 4 | u32 sequence number |
//! | 8 | u32 tag | 8 | u32 tag |
//! | 12 | f32 x, f32 y | 12 | u16 width, u16 height of the map |
//! | | | 16 | u16 left, top, width, height of the picture in the map |
//! | | | 24 | f32 predicted IoU of the three masks |
//! | | | 36 | f32 logit of "there is an object", NaN if the model does not say |
//! | | | 40 | u32 microseconds in the model, u32 microseconds until then |
//! | | | 48 | levels by rows: 128 and more is inside the mask |
//!
//! Failures are the text `{"error": {"code", "message", "advice"}, "seq"?}`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::body;
use super::error::{ApiError, Result};
use super::images::Picture;
use super::preview::{Preview, preview};
use super::queue::Priority;
use super::{Service, lock};

/// Bytes of a message: a token and an id are the most there is.
const MAX_MESSAGE: usize = 4 << 10;
/// A client that sends nothing is asked whether it is there...
const PING: Duration = Duration::from_secs(20);
/// ...and let go after this long.
const SILENCE: Duration = Duration::from_secs(60);
/// A socket must name its picture or token after this long.
const FIRST: Duration = Duration::from_secs(10);
const VERSION: u8 = 1;
const POSITION: usize = 20;
const HEAD: usize = 48;
const BEST: u8 = 255;

/// Opens the socket; without a valid token in the headers the first message must have it.
pub async fn open(
    State(service): State<Service>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::new(
            rejection.status(),
            "not_a_websocket",
            "this route is a WebSocket",
            "open it with the WebSocket handshake",
        )
    })?;
    let is_known = service.config.guard.check_token(&uri, &headers).is_ok();
    let slot = Arc::clone(&service.sockets).try_acquire_owned();
    let slot = slot.map_err(|_| ApiError::busy("too many hover sockets are open", 5))?;
    let upgrade = upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE);
    Ok(upgrade
        .on_upgrade(async move |socket| {
            let _slot = slot;
            Session::new(service, is_known).run(socket).await;
        })
        .into_response())
}

/// A pointer position.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Position {
    index: Option<usize>,
    seq: u32,
    tag: u32,
    xy: [f32; 2],
}

impl Position {
    fn read(bytes: &[u8]) -> Result<Self> {
        let wrong = |what: &str| {
            let advice = "see the API's documentation of the hover socket";
            Err(ApiError::bad_request(what, advice))
        };
        let Ok(bytes) = <&[u8; POSITION]>::try_from(bytes) else {
            return wrong("a position has 20 bytes");
        };
        if bytes[0] != VERSION {
            return wrong("a position starts with its version, 1");
        }
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        Ok(Self {
            index: (bytes[1] != BEST).then_some(bytes[1].into()),
            seq: u32::from_le_bytes(word(4)),
            tag: u32::from_le_bytes(word(8)),
            xy: [f32::from_le_bytes(word(12)), f32::from_le_bytes(word(16))],
        })
    }
}

fn frame(position: &Position, preview: &Preview, model: Duration, before: Duration) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + preview.levels.len());
    bytes.extend([VERSION, preview.index as u8, 0, 0]);
    bytes.extend(position.seq.to_le_bytes());
    bytes.extend(position.tag.to_le_bytes());
    let short = |value: usize| (value.min(u16::MAX.into()) as u16).to_le_bytes();
    bytes.extend(short(preview.size.width));
    bytes.extend(short(preview.size.height));
    bytes.extend(preview.crop.iter().flat_map(|edge| short(*edge)));
    for i in 0..3 {
        let iou = preview.ious.get(i).copied().unwrap_or(f32::NAN);
        bytes.extend(iou.to_le_bytes());
    }
    bytes.extend(preview.object_score.unwrap_or(f32::NAN).to_le_bytes());
    bytes.extend((model.as_micros() as u32).to_le_bytes());
    bytes.extend((before.as_micros() as u32).to_le_bytes());
    bytes.extend(&preview.levels);
    bytes
}

/// What the client says in words.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    image: Option<String>,
    token: Option<String>,
}

struct Session {
    service: Service,
    is_known: bool,
    tag: u32,
    picture: Option<Arc<Picture>>,
    /// The newest position that nobody works on.
    waiting: Arc<Mutex<Option<(Position, Instant)>>>,
    /// Whether a job is under way that will look at `waiting`.
    is_working: bool,
    /// Work that is under way, dropped when the socket closes.
    tasks: JoinSet<Event>,
}

/// What a task finished while the socket was being watched.
enum Event {
    /// A position was worked on, and what to send for it.
    Decoded(Option<Message>),
    /// The picture of this tag is encoded, or cannot be.
    Encoded(u32, Result<()>),
}

impl Session {
    fn new(service: Service, is_known: bool) -> Self {
        Self {
            service,
            is_known,
            tag: 0,
            picture: None,
            waiting: Arc::default(),
            is_working: false,
            tasks: JoinSet::new(),
        }
    }

    async fn run(mut self, mut socket: WebSocket) {
        let mut stopping = self.service.stopping.clone();
        let mut heard = Instant::now();
        let mut ping = tokio::time::interval(PING);
        let opened = Instant::now();
        loop {
            let first = tokio::time::sleep(FIRST.saturating_sub(opened.elapsed()));
            let reply = tokio::select! {
                message = socket.recv() => {
                    heard = Instant::now();
                    let Some(Ok(message)) = message else { return };
                    self.handle(message).unwrap_or_else(|error| Some(failure(&error, None)))
                }
                // A task that panicked has nothing to tell.
                Some(done) = self.tasks.join_next() => done.ok().and_then(|event| self.finish(event)),
                _ = ping.tick() => match heard.elapsed() > SILENCE {
                    true => return,
                    false => Some(Message::Ping(Default::default())),
                },
                () = first, if !self.is_known => return,
                _ = stopping.changed() => {
                    let close = CloseFrame { code: close_code::AWAY, reason: Utf8Bytes::from_static("shutting down") };
                    let _ = socket.send(Message::Close(Some(close))).await;
                    return;
                }
            };
            if let Some(reply) = reply {
                // A client that does not read must not keep its slot.
                let sent = tokio::time::timeout(FIRST, socket.send(reply)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
        }
    }

    fn handle(&mut self, message: Message) -> Result<Option<Message>> {
        match message {
            Message::Text(text) => self.hello(&text),
            Message::Binary(_) if !self.is_known => Err(unauthorized()),
            Message::Binary(bytes) => {
                let position = Position::read(&bytes)?;
                if position.tag == self.tag {
                    self.place(position);
                    self.work();
                }
                Ok(None)
            }
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(None),
        }
    }

    fn hello(&mut self, text: &str) -> Result<Option<Message>> {
        let hello: Hello = body::object(text.as_bytes())
            .map_err(|error| ApiError::bad_request(error.to_string(), "send {\"image\": ID}"))?;
        if let Some(token) = &hello.token {
            self.is_known |= self.service.config.guard.is_token(token);
        }
        if !self.is_known {
            return Err(unauthorized());
        }
        let Some(id) = hello.image else {
            return Ok(None);
        };
        let picture = self.service.images.get(id.parse()?)?;
        self.service.engine.model().as_interactive()?;
        self.tag = self.tag.wrapping_add(1);
        *lock(&self.waiting) = None;
        let (tag, service) = (self.tag, Arc::clone(&self.service));
        let wanted = Arc::clone(&picture);
        self.tasks.spawn(async move {
            let encoded = service.engine.encode(&wanted).await;
            Event::Encoded(tag, encoded.map(drop))
        });
        let size = picture.size();
        self.picture = Some(picture);
        Ok(Some(text_message(&json!({
            "opened": id, "tag": tag, "width": size.width, "height": size.height,
        }))))
    }

    /// Replaces the position that waits.
    fn place(&self, position: Position) {
        let replaced = lock(&self.waiting).replace((position, Instant::now()));
        if replaced.is_some() {
            self.service
                .metrics
                .hovers_replaced
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Starts a job for the position that waits when it runs, unless one is under way.
    fn work(&mut self) {
        let picture = self.picture.as_ref();
        let Some(embedding) = picture.and_then(|picture| picture.embedding()) else {
            return; // `Event::Encoded` comes
        };
        if self.is_working || lock(&self.waiting).is_none() {
            return;
        }
        self.is_working = true;
        let (service, waiting) = (Arc::clone(&self.service), Arc::clone(&self.waiting));
        self.tasks.spawn(async move {
            let decode = service.engine.run(Priority::Urgent, move |worker, _| {
                let Some((position, since)) = lock(&waiting).take() else {
                    return Ok(None);
                };
                let (before, start) = (since.elapsed(), Instant::now());
                let answer = preview(&worker.model, &embedding, position.xy, position.index);
                Ok(Some(match answer {
                    Ok(preview) => {
                        let bytes = frame(&position, &preview, start.elapsed(), before);
                        Message::Binary(bytes.into())
                    }
                    Err(error) => failure(&error.into(), Some(position.seq)),
                }))
            });
            let message = decode.await;
            service.metrics.hovers.fetch_add(1, Ordering::Relaxed);
            Event::Decoded(message.unwrap_or_else(|error| Some(failure(&error, None))))
        });
    }

    fn finish(&mut self, event: Event) -> Option<Message> {
        let reply = match event {
            Event::Decoded(message) => {
                self.is_working = false;
                message
            }
            Event::Encoded(tag, _) if tag != self.tag => None,
            Event::Encoded(tag, Ok(())) => Some(text_message(&json!({"ready": tag}))),
            Event::Encoded(_, Err(error)) => Some(failure(&error, None)),
        };
        self.work();
        reply
    }
}

fn unauthorized() -> ApiError {
    ApiError::unauthorized("send {\"token\": TOKEN} first")
}

fn text_message(value: &serde_json::Value) -> Message {
    Message::Text(value.to_string().into())
}

fn failure(error: &ApiError, seq: Option<u32>) -> Message {
    let mut value = json!({"error": error.body()["error"]});
    if let Some(seq) = seq {
        value["seq"] = json!(seq);
    }
    text_message(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_field_by_field() {
        let mut bytes = vec![1, 255, 0, 0, 7, 0, 0, 0, 2, 1, 0, 0];
        bytes.extend(3.5f32.to_le_bytes());
        bytes.extend((-1f32).to_le_bytes());
        let position = Position::read(&bytes).unwrap();
        let want = Position {
            index: None,
            seq: 7,
            tag: 258,
            xy: [3.5, -1.],
        };
        assert_eq!(position, want);
        bytes[1] = 2;
        assert_eq!(Position::read(&bytes).unwrap().index, Some(2));
        assert!(Position::read(&bytes[..19]).is_err());
        bytes[0] = 2;
        assert!(Position::read(&bytes).is_err());
    }

    #[test]
    fn a_frame_has_its_fields_where_the_table_says() {
        let preview = Preview {
            size: crate::Size::new(2, 1),
            crop: [0, 0, 2, 1],
            index: 1,
            ious: vec![0.25, 0.5, 0.75],
            object_score: None,
            levels: vec![1, 200],
        };
        let position = Position {
            index: None,
            seq: 9,
            tag: 3,
            xy: [0.; 2],
        };
        let ms = Duration::from_millis;
        let bytes = frame(&position, &preview, ms(2), ms(1));
        assert_eq!(bytes.len(), HEAD + 2);
        assert_eq!(bytes[..12], [1, 1, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[12..24], [2, 0, 1, 0, 0, 0, 0, 0, 2, 0, 1, 0]);
        assert_eq!(bytes[28..32], 0.5f32.to_le_bytes());
        assert!(f32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]).is_nan());
        assert_eq!(bytes[40..], [0xd0, 7, 0, 0, 0xe8, 3, 0, 0, 1, 200]);
    }
}
