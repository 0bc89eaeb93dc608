//! The server loop: accepts connections, bounds them, and ends them well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at a time: each costs some 20 KB and a file descriptor.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Time for a request's headers, so that slow clients hold nothing open.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client of HTTP/2 begins with (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between looks at a preface that came in pieces.
const PREFACE_PAUSE: Duration = Duration::from_millis(20);
/// Requests under way on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 1_024;
/// Time for requests under way to finish when the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after the system refused to accept, out of file descriptors for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`; then takes no new connection, finishes what was asked
/// on the others, and returns.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(HTTP2_STREAMS_MAX);
    let builder = Arc::new(builder);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let tracker = tokio_util::task::TaskTracker::new();
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            () = stop.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        let (stream, peer): (_, SocketAddr) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let (builder, watcher, stop) = (Arc::clone(&builder), graceful.watcher(), stop.clone());
        tracker.spawn(async move {
            tokio::select! {
                spoke = speaks(&stream) => if !spoke { return },
                () = stop.cancelled() => return,
            }
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%peer, %error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, async { tokio::join!(graceful.shutdown(), tracker.wait()) })
        .await
        .is_err()
    {
        tracing::warn!("some connections did not end in time");
    }
}

/// Waits until a client has said which HTTP it speaks; `false` when it takes
/// longer than for a request's headers. hyper-util waits for that without end
/// before any other time limit begins (`auto` 0.1.21, `ReadVersion`).
async fn speaks(stream: &TcpStream) -> bool {
    tokio::time::timeout(HEADER_READ_TIMEOUT, async {
        let mut begin = [0; HTTP2_PREFACE.len()];
        loop {
            match stream.peek(&mut begin).await {
                Ok(0) | Err(_) => return false,
                Ok(bytes) if bytes < begin.len() && HTTP2_PREFACE.starts_with(&begin[..bytes]) => {
                    // What is there does not make the next look wait.
                    tokio::time::sleep(PREFACE_PAUSE).await;
                }
                Ok(_) => return true,
            }
        }
    })
    .await
    .unwrap_or(false)
}
