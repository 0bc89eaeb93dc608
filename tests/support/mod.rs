//! What integration tests stand on: a PostgreSQL per run, a database per test,
//! and Steelyard itself, in this process or as one of its own.
//!
//! ```no_run
//! #[path = "../support/mod.rs"]
//! mod support;
//!
//! #[tokio::test]
//! async fn it_serves() {
//!     let url = Postgres::shared().await.database().await;
//!     let server = Server::start(&url).await;
//!     let answer = reqwest::get(format!("{}/readyz", server.origin())).await.unwrap();
//!     assert_eq!(answer.status(), 200);
//!     server.close().await;
//! }
//! ```

#![allow(dead_code, unused_imports, reason = "every test binary uses a part of it")]

pub mod pgbouncer;
mod postgres;
mod process;
mod server;

use std::time::Duration;

pub use postgres::Postgres;
pub use process::Process;
pub use server::Server;

/// How long a test waits for what takes milliseconds, on a machine that does other things too.
pub const WAIT: Duration = Duration::from_secs(60);

/// Waits for what has no signal, at most [`WAIT`].
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + WAIT;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain waited until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
