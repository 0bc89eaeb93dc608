//! A PostgreSQL of the tests' own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{Connection, PgConnection};
use steelyard::embedded_pg::EmbeddedPg;
use steelyard::store::Database;
use tokio::sync::OnceCell;

/// The migrated database that every test's is a copy of.
const TEMPLATE: &str = "steelyard_template";

/// Waits until its standard input ends, which is when the test process does,
/// however it does. Then it stops the server as a crash would (QUIT is an
/// immediate stop) and removes the directory. `$1` is the directory.
const WATCHDOG: &str = r#"
cat > /dev/null
pid=$(head -n 1 "$1/data/postgres/postmaster.pid" 2> /dev/null)
if [ -n "$pid" ]; then
    kill -QUIT "$pid" 2> /dev/null
    tries=200
    while kill -0 "$pid" 2> /dev/null && [ "$tries" -gt 0 ]; do
        sleep 0.05
        tries=$((tries - 1))
    done
fi
rm -rf "$1"
"#;

static SHARED: OnceCell<Postgres> = OnceCell::const_new();

/// A running server with a template database.
#[derive(Debug)]
pub struct Postgres {
    server: EmbeddedPg,
    databases: AtomicU64,
    /// Its standard input is the pipe whose end it waits for.
    _watchdog: Child,
}

impl Postgres {
    /// The one that all tests of this process share. It goes when the process does.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(Self::start).await
    }

    /// One of a test's own, for tests that stop it. It goes when this is dropped.
    pub async fn start() -> Self {
        // For the HTTP clients of the tests; fails only when there is one already.
        _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("steelyard-tests-").tempdir_in("/tmp").unwrap();
        // The server's user must get through; the server closes its own directories.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let dir = dir.keep();
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C on the terminal is for the tests, not for it.
            .process_group(0)
            .spawn()
            .unwrap();
        let server = EmbeddedPg::open(&dir.join("data")).await.unwrap();
        let mut conn = PgConnection::connect(&server.url()).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {TEMPLATE}"))).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let template = Database::new(&server.url_of(TEMPLATE)).unwrap();
        template.migrate().await.unwrap();
        Self { server, databases: AtomicU64::new(0), _watchdog: watchdog }
    }

    /// A new database with the schema of this release, and its URL.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut conn = PgConnection::connect(&self.server.url()).await.unwrap();
        let create = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        self.server.url_of(&name)
    }

    /// The server itself, to stop and to start.
    pub fn server(&self) -> &EmbeddedPg {
        &self.server
    }
}
