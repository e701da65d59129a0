//! Floor 5: the HTTP API, the hover socket and the page of `sam3 serve`.
//!
//! ```no_run
//! # async fn serve(model: candle_sam3::Model) -> Result<(), Box<dyn std::error::Error>> {
//! use candle_sam3::server::{Config, Server};
//!
//! let server = Server::start(model, Config::default())?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! server.serve(listener, async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await;
//! # Ok(()) }
//! ```
//!
//! One thread owns the model, behind a bounded queue in which decodes overtake encodes. Pictures and
//! their embeddings are kept by content within a budget of bytes. [`Server::router`] can be called
//! without a socket, as the tests do.
//!
//! | routes | for |
//! |---|---|
//! | `/`, `/assets/…` | the page |
//! | `/api/v1/…` | own clients, see `/openapi.json` |
//! | `/sam3/…` | clients of Roboflow's inference server |
//! | `/v1/…` | X-AnyLabeling |
//! | `/label-studio/…` | Label Studio |
//! | `/health`, `/metrics` | operators |
//!
//! # Safety
//! Nothing that a client sends is opened as a path, a URL or a model, and nothing is written to the
//! disk. Bodies, pixels, prompts, connections, sockets and time are limited. See [`guard`] for hosts,
//! origins and tokens.

mod api;
mod body;
mod clients;
mod engine;
mod error;
pub mod guard;
mod hover;
mod images;
mod listen;
mod metrics;
mod page;
mod preview;
mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};
use tower_http::catch_panic::CatchPanicLayer;

pub use clients::label_studio::TaskImages;
pub use error::ApiError;

use body::Budget;
use clients::roboflow::Names;
use clients::{anylabeling, label_studio, roboflow};
use engine::Engine;
use guard::Guard;
use images::Images;
use metrics::Metrics;

use crate::Model;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who may ask.
    pub guard: Guard,
    /// Bytes of pictures and embeddings that are kept.
    pub cache_bytes: u64,
    /// The largest upload in bytes.
    pub max_upload: usize,
    /// The most pixels a picture may have.
    pub max_pixels: u64,
    /// How many jobs of each priority may wait.
    pub queue: usize,
    /// Connections that are open at a time.
    pub max_connections: u32,
    /// Hover sockets that are open at a time.
    pub max_sockets: usize,
    /// The Label Studio whose tasks' pictures are fetched.
    pub task_images: Option<TaskImages>,
    /// Whether the model is the built-in one of colored shapes.
    pub is_demo: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            guard: Guard::default(),
            cache_bytes: 2 << 30,
            max_upload: 64 << 20,
            max_pixels: 64_000_000,
            queue: 32,
            max_connections: 256,
            max_sockets: 64,
            task_images: None,
            is_demo: false,
        }
    }
}

/// A running engine with everything that answers for it.
pub struct Server {
    service: Service,
    engine_thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// What every handler works with.
pub(crate) type Service = Arc<Inner>;

pub(crate) struct Inner {
    config: Config,
    engine: Engine,
    images: Arc<Images>,
    names: Names,
    metrics: Metrics,
    bodies: Budget,
    /// Pictures being decoded at a time: it costs memory and keeps a core busy.
    decoders: Semaphore,
    sockets: Arc<Semaphore>,
    /// True from the shutdown on.
    stopping: watch::Receiver<bool>,
}

/// Pictures being decoded at a time.
const DECODERS: usize = 2;
/// Bodies in memory together, as a multiple of the largest.
const BODIES: usize = 8;

impl Server {
    /// Starts the engine.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(model: Model, config: Config) -> std::io::Result<Self> {
        let images = Arc::new(Images::new(config.cache_bytes));
        let (engine, thread) = Engine::start(model, Arc::clone(&images), config.queue)?;
        let (stop, stopping) = watch::channel(false);
        let service = Inner {
            engine,
            images,
            names: Names::default(),
            metrics: Metrics::default(),
            bodies: Budget::new(config.max_upload.saturating_mul(BODIES)),
            decoders: Semaphore::new(DECODERS),
            sockets: Arc::new(Semaphore::new(config.max_sockets)),
            stopping,
            config,
        };
        Ok(Self {
            service: Arc::new(service),
            engine_thread: thread,
            stop,
        })
    }

    /// Everything that the server answers.
    pub fn router(&self) -> Router {
        router(Arc::clone(&self.service))
    }

    /// Answers connections until `shutdown`; then takes no more, finishes what runs within ten
    /// seconds and closes sockets.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()>,
    ) {
        let drain = async {
            shutdown.await;
            let _ = self.stop.send(true);
        };
        let connections = self.service.config.max_connections;
        listen::serve(listener, self.router(), connections, drain).await;
        self.service.engine.close();
        let ended = tokio::task::spawn_blocking(|| self.engine_thread.join());
        let _ = tokio::time::timeout(listen::GRACE, ended).await;
    }
}

/// Locks a value that no panic leaves half changed.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does long work on a thread of its own.
///
/// # Errors
/// 500 when it panics, and those of `work`.
async fn blocking<T, F>(work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ApiError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ApiError::internal()))
}

fn router(service: Service) -> Router {
    let routes = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics::show))
        .route("/openapi.json", get(page::openapi))
        .route("/api/v1/model", get(api::model))
        .route("/api/v1/images", post(api::images::upload))
        .route(
            "/api/v1/images/{id}",
            get(api::images::show).delete(api::images::forget),
        )
        .route("/api/v1/images/{id}/segment", post(api::segment::stored))
        .route(
            "/api/v1/images/{id}/everything",
            post(api::everything::everything),
        )
        .route("/api/v1/images/{id}/export", post(api::export::export))
        .route("/api/v1/segment", post(api::segment::one_shot))
        .route("/api/v1/hover", get(hover::open))
        .route("/sam3/concept_segment", post(roboflow::concept_segment))
        .route("/sam3/visual_segment", post(roboflow::visual_segment))
        .route("/sam3/embed_image", post(roboflow::embed_image))
        .route("/v1/models", get(anylabeling::models))
        .route("/v1/models/{id}/info", get(anylabeling::info))
        .route("/v1/predict", post(anylabeling::predict))
        .route("/label-studio/health", get(label_studio::health))
        .route("/label-studio/setup", post(label_studio::setup))
        .route("/label-studio/predict", post(label_studio::predict))
        .route("/label-studio/versions", get(label_studio::versions))
        .route("/label-studio/webhook", post(label_studio::webhook))
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .fallback(async || not_found())
        .with_state(Arc::clone(&service));
    routes
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::internal().into_response()
        }))
        .layer(middleware::from_fn_with_state(service, around))
}

fn not_found() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is nothing here",
        "see /openapi.json for what there is",
    )
}

/// What is open without a token: the page, which asks for it, and what load balancers ask. The
/// hover socket checks its own: browsers cannot send headers with it.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/health" | "/openapi.json" | "/api/v1/hover")
        || path.starts_with("/assets/")
}

/// Around every request: the guard before, metrics, log and headers after.
async fn around(State(service): State<Service>, request: Request, next: Next) -> Response {
    let start = std::time::Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_string();
    let guard = &service.config.guard;
    let origin = guard.reader(request.headers()).cloned();
    let checked = guard.check_source(&method, request.uri(), request.headers());
    let checked = checked.and_then(|()| match is_open(&path) || method == Method::OPTIONS {
        true => Ok(()),
        false => guard.check_token(request.uri(), request.headers()),
    });
    let mut response = match checked {
        Err(error) => error.into_response(),
        Ok(()) if method == Method::OPTIONS => preflight(&next.run(request).await),
        Ok(()) => next.run(request).await,
    };
    if !response.status().is_success() {
        response = as_json(response);
    }
    add_headers(&mut response, origin);
    service
        .metrics
        .count(&path, response.status(), start.elapsed());
    // The path alone: queries may hold keys.
    tracing::info!(
        method = method.as_str(),
        path,
        status = response.status().as_u16(),
        ms = start.elapsed().as_millis() as u64,
        "request"
    );
    response
}

/// The answer to a question for a route's methods, from the route's refusal of the question's own;
/// the router adds `Allow`.
fn preflight(refusal: &Response) -> Response {
    if refusal.status() != StatusCode::METHOD_NOT_ALLOWED {
        return not_found().into_response();
    }
    let allow = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, token",
        ),
    ];
    (StatusCode::NO_CONTENT, allow).into_response()
}

/// Failures of the framework (a wrong method, a path that is not UTF-8) in the words of the API.
fn as_json(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_ours = kind.is_some_and(|kind| kind == "application/json");
    if is_ours || status.is_redirection() || status.is_informational() {
        return response;
    }
    let (code, message) = match status {
        StatusCode::METHOD_NOT_ALLOWED => ("wrong_method", "this route has other methods"),
        StatusCode::UPGRADE_REQUIRED | StatusCode::BAD_REQUEST => {
            ("bad_request", "the request cannot be read")
        }
        _ => ("refused", "the request is refused"),
    };
    let mut refused = ApiError::new(status, code, message, "see /openapi.json").into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        refused.headers_mut().insert(header::ALLOW, allow.clone());
    }
    refused
}

const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
                      style-src 'self'; script-src 'self'; object-src 'none'; base-uri 'none'; \
                      frame-ancestors 'none'; form-action 'self'";

fn add_headers(response: &mut Response, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    let readers = match origin.is_some() {
        true => "cross-origin",
        false => "same-origin",
    };
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        (
            "permissions-policy",
            "geolocation=(), microphone=(), payment=(), usb=()",
        ),
        ("cross-origin-resource-policy", readers),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// The fields of X-AnyLabeling-Server first, ours after them.
async fn health(State(service): State<Service>) -> Response {
    let is_draining = *service.stopping.borrow();
    let (urgent, patient) = service.engine.waiting();
    let body = serde_json::json!({
        "status": if is_draining { "draining" } else { "healthy" },
        "models_loaded": 1,
        "timestamp": metrics::timestamp(),
        "version": env!("CARGO_PKG_VERSION"),
        "model": service.engine.model().name(),
        "queue": {"urgent": urgent, "patient": patient},
    });
    let status = match is_draining {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    };
    (status, error::Json(body)).into_response()
}
