//! What is answered while the service starts: that it lives, that it is not
//! ready, and nothing else. A database that recovers from a crash can take
//! minutes, in which probes and clients are not left without an answer.

use std::io;
use std::os::fd::AsFd;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::problem::{Code, Problem};
use super::routes::operations::livez;
use super::{observe, server};

/// A server on a listener that another server will have later.
pub struct Starting {
    served: JoinHandle<()>,
    stop: DropGuard,
}

impl Starting {
    /// # Errors
    /// The listener cannot be shared: no file descriptor is left.
    pub fn serve(listener: &TcpListener) -> io::Result<Self> {
        let shared = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
        let shared = TcpListener::from_std(shared)?;
        let stop = CancellationToken::new();
        let router = Router::new()
            .route("/livez", get(livez))
            .fallback(async || Problem::new(Code::Unavailable, "starting: waiting for the database"))
            .layer(middleware::from_fn(observe::request));
        let served = tokio::spawn(server::serve(shared, router, stop.clone()));
        Ok(Self { served, stop: stop.drop_guard() })
    }

    /// Finishes what was asked, and leaves the listener to the next.
    pub async fn end(self) {
        drop(self.stop);
        _ = self.served.await;
    }
}
