//! Connections: a pool for reads, single connections for those who hold a claim.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, PgConnection, Row};
use uuid::Uuid;

use super::connection::{Pool, Way};
use super::error::timed_out;
use super::{Connection, Error};

/// Connections that HTTP reads share: more than two cores can keep busy, few
/// enough to leave room for other workers under PostgreSQL's usual 100.
const POOL_CONNECTIONS_MAX: u32 = 12;
/// A read that waits longer for a connection is better refused.
const POOL_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that takes longer to accept a connection counts as not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection; we have some forty.
const STATEMENT_CACHE: usize = 128;

/// The role that serving connections take on: it may not change the log.
pub const SERVING_ROLE: &str = "steelyard_serving";

/// How to reach one database.
#[derive(Clone, Debug)]
pub struct Database {
    /// Straight to PostgreSQL, as the user of the URL.
    direct: PgConnectOptions,
    serving: PgConnectOptions,
    way: Way,
    pool: Pool,
    /// Names this process; its last two bytes are 0.
    process: Uuid,
    joins: Arc<AtomicU16>,
}

impl Database {
    /// Prepares connections; opens none yet.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(url: &str) -> Result<Self, Error> {
        let process = worker_id(new_process_id(), 0);
        let direct = options(url, process)?;
        let serving = serving(&direct);
        let pool = pool(&serving, Way::Direct);
        Ok(Self { direct, serving, way: Way::Direct, pool, process, joins: Arc::default() })
    }

    /// The same, with what serves going by way of a pooler in transaction mode.
    /// The locks and all that owners do stay on direct connections.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn through_pooler(self, url: &str) -> Result<Self, Error> {
        // A pooler refuses parameters that it does not know how to keep for a client; each
        // transaction brings them with it.
        let serving = options(url, self.process)?.extra_float_digits(None);
        let pool = pool(&serving, Way::Pooler);
        Ok(Self { serving, way: Way::Pooler, pool, ..self })
    }

    /// The id of a worker that joins: new each time, so that nobody mistakes it
    /// for its former self, and its process's in all but the last two bytes.
    pub fn new_worker_id(&self) -> Uuid {
        worker_id(self.process, self.joins.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// Reads of the HTTP API.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A connection of its own in the serving role.
    pub async fn connect_serving(&self) -> Result<Connection, Error> {
        Ok(Connection::own(connect(&self.serving).await?, self.way))
    }

    /// A direct connection of its own as the user of the URL: it owns the tables, holds
    /// the advisory locks, and may end other sessions of the same user.
    pub async fn connect_owner(&self) -> Result<PgConnection, Error> {
        connect(&self.direct.clone().options(SESSION)).await
    }

    /// Whether nothing lies between that shares sessions: a pooler refuses what a
    /// session asks for as it starts, or drops it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: the database is not reachable.
    pub async fn is_direct(&self) -> Result<bool, Error> {
        let mut conn = match self.connect_owner().await {
            Err(error) if error.to_string().contains("unsupported startup parameter") => return Ok(false),
            connected => connected?,
        };
        let (name, asked) = SESSION[0];
        let shown = sqlx::raw_sql(AssertSqlSafe(format!("SHOW {name}"))).fetch_one(&mut conn).await?;
        conn.close().await?;
        Ok(shown.try_get::<String, _>(0)? == asked)
    }

    /// Brings the schema up to this release.
    pub async fn migrate(&self) -> Result<(), sqlx::migrate::MigrateError> {
        let mut conn = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.direct))
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        let mut migrator = sqlx::migrate!();
        // A newer release may have been here: what it added does not break this one, which may start again.
        migrator.set_ignore_missing(true);
        migrator.run_direct(None, &mut conn, false).await?;
        conn.close().await?;
        Ok(())
    }
}

/// What the sessions of a process are called in `pg_stat_activity`: whoever knows
/// the id of one of its workers can find and end them all.
pub(super) fn application_name(worker: Uuid) -> String {
    format!("steelyard {}", worker_id(worker, 0))
}

fn worker_id(process: Uuid, join: u16) -> Uuid {
    let mut bytes = process.into_bytes();
    bytes[14..].copy_from_slice(&join.to_be_bytes());
    Uuid::from_bytes(bytes)
}

#[expect(clippy::disallowed_methods, reason = "a process's id is no part of any history")]
fn new_process_id() -> Uuid {
    Uuid::now_v7()
}

fn options(url: &str, process: Uuid) -> Result<PgConnectOptions, Error> {
    Ok(PgConnectOptions::from_str(url)?
        .application_name(&application_name(process))
        .statement_cache_capacity(STATEMENT_CACHE)
        .log_statements(tracing::log::LevelFilter::Trace)
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1)))
}

fn pool(serving: &PgConnectOptions, way: Way) -> Pool {
    let options = PgPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX).acquire_timeout(POOL_ACQUIRE_TIMEOUT);
    Pool::new(options.connect_lazy_with(serving.clone()), way)
}

/// A session that serves: may not change the log, and never sits in a
/// transaction or on a dead client for long.
fn serving(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options([("role", SERVING_ROLE), ("idle_in_transaction_session_timeout", "10s")]).options(SESSION)
}

/// The same for a transaction in a session that is somebody else's before and after. How
/// TCP finds out about a client that is gone is the pooler's to know.
pub(super) const BEGIN_SERVING: &str = "BEGIN; SET LOCAL ROLE steelyard_serving; \
                                        SET LOCAL idle_in_transaction_session_timeout = '10s'; \
                                        SET LOCAL client_connection_check_interval = '2s'; \
                                        SET LOCAL enable_bitmapscan = off";

/// A session whose client is gone ends by itself, and with it its locks: within
/// seconds, where half-open connections would live for hours. And its statements go
/// through indexes in their order: while statistics are older than the growth of the
/// log, the planner would rather collect its rows in a bitmap and sort them, for a
/// page of the log all of the rest.
const SESSION: [(&str, &str); 6] = [
    ("client_connection_check_interval", "2s"),
    ("enable_bitmapscan", "off"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
];

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(timed_out("connecting took too long")),
    }
}
