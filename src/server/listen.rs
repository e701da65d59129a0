//! Connections: how many, and how long each may take.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// What runs may finish after the shutdown for this long.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// The head of a request must be here after this long; also ends idle connections.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

/// Serves HTTP/1.1 until `shutdown`, with timers, which `axum::serve` does not set: without them
/// a client that sends its headers slowly keeps its connection for ever.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: u32,
    shutdown: impl Future<Output = ()>,
) {
    let free = Arc::new(Semaphore::new(max_connections as usize));
    let (stop, stopping) = watch::channel(());
    tokio::pin!(shutdown);
    loop {
        // Those beyond the limit wait in the backlog of the system.
        let slot = tokio::select! {
            slot = Arc::clone(&free).acquire_owned() => slot,
            () = &mut shutdown => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("a connection was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        let answered = answer(stream, router.clone(), stopping.clone());
        tokio::spawn(async move {
            let _slot = slot;
            answered.await;
        });
    }
    drop(listener);
    let _ = stop.send(());
    // All slots are free when all connections have ended.
    let ended = free.acquire_many(max_connections);
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::warn!("some requests did not finish within {} s", GRACE.as_secs());
    }
}

async fn answer(stream: TcpStream, router: Router, mut stopping: watch::Receiver<()>) {
    // Small answers go out at once. Where that cannot be set, they go out later.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // Broken connections are the client's business.
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}
