//! Steelyard in the test's own process.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use metrics_exporter_prometheus::PrometheusHandle;
use steelyard::clock::SystemClock;
use steelyard::cluster::worker::{self, Status};
use steelyard::cluster::{Worker, peer};
use steelyard::config::ACCOUNTS_IN_MEMORY_MIN;
use steelyard::http::access::{Access, Policy};
use steelyard::http::{App, SharedApp, router, server};
use steelyard::store::Database;
use steelyard::telemetry::metric;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{WAIT, pgbouncer};

/// One worker with its HTTP server on a free port of 127.0.0.1.
///
/// [`Server::close`] stops it as SIGTERM would. Dropped without that, it is
/// told to stop, and what it has not done when the test's runtime ends is lost.
pub struct Server {
    pub app: SharedApp,
    address: SocketAddr,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
    stop_internal: CancellationToken,
    served_internal: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts and waits until it serves.
    pub async fn start(database_url: &str) -> Self {
        let server = Self::join(database_url).await;
        server.reaches(&Status::Serving).await;
        server
    }

    /// The same, on a database that is reached in a way of its own.
    pub async fn start_on(database: Database) -> Self {
        let server = Self::join_on(database).await;
        server.reaches(&Status::Serving).await;
        server
    }

    /// Starts; what it becomes is for the others to say.
    pub async fn join(database_url: &str) -> Self {
        Self::join_on(pgbouncer::database(database_url).await).await
    }

    async fn join_on(database: Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let internal_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let internal_address = internal_listener.local_addr().unwrap();
        let access = Access::start(&database, Policy::OnceThereAreKeys).await.unwrap();
        let worker = Worker::start(worker::Options {
            internal_url: Some(format!("http://{internal_address}")),
            accounts_max: ACCOUNTS_IN_MEMORY_MIN,
            ..worker::Options::new(database, format!("http://{address}"), Arc::new(SystemClock))
        })
        .await
        .unwrap();
        let stop_internal = CancellationToken::new();
        let internal = peer::router(worker.internal());
        let served_internal = tokio::spawn(server::serve(internal_listener, internal, stop_internal.clone()));
        let app = Arc::new(App { worker, metrics: Some(metrics()), access, operations_apart: false });
        let stop = CancellationToken::new();
        let served = tokio::spawn(server::serve(listener, router::router(Arc::clone(&app)), stop.clone()));
        Self { app, address, stop, served: Some(served), stop_internal, served_internal: Some(served_internal) }
    }

    /// Waits until the worker's status is `status`.
    pub async fn reaches(&self, status: &Status) {
        let mut statuses = self.app.worker.watch_status();
        let reached = statuses.wait_for(|found| found == status);
        if tokio::time::timeout(WAIT, reached).await.is_err() {
            panic!("in vain waited for {status:?}; it is {:?}", self.app.worker.status());
        }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What comes before the path of a URL.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops as after SIGTERM: finishes what was asked, then ends.
    pub async fn close(mut self) {
        self.app.worker.drain();
        self.app.worker.handed_over().await;
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            served.await.unwrap();
        }
        self.app.worker.stop().await;
        self.stop_internal.cancel();
        if let Some(served) = self.served_internal.take() {
            served.await.unwrap();
        }
        self.app.access.stop().await;
        self.app.worker.database.pool().close().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.worker.drain();
        self.stop.cancel();
        self.stop_internal.cancel();
    }
}

/// A process has one recorder, whatever number of servers.
fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| metric::install().unwrap()).clone()
}
