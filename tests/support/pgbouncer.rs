//! PgBouncer in transaction mode before a test's PostgreSQL.
//!
//! With `STEELYARD_TEST_PGBOUNCER` in the environment every server of the tests
//! goes through one; `tests/api/pgbouncer.rs` does in any case.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use steelyard::store::Database;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use url::Url;

use super::eventually;

/// Sessions of PostgreSQL per database: fewer than one server has clients.
pub const SESSIONS: u32 = 5;

/// Waits until its standard input ends, which is when the test process does,
/// however it does. Then it stops the pooler and removes the directory, `$1`.
const WATCHDOG: &str = r#"
pgbouncer --quiet "$1/pgbouncer.ini" &
cat > /dev/null
kill $!
wait
rm -rf "$1"
"#;

/// The watchdogs, by the directory of PostgreSQL's socket.
static STARTED: Mutex<Option<HashMap<String, PgBouncer>>> = Mutex::const_new(None);

struct PgBouncer {
    dir: String,
    /// Its standard input is the pipe whose end it waits for.
    _watchdog: Child,
}

/// Whether all servers of the tests go through PgBouncer.
pub fn everywhere() -> bool {
    std::env::var_os("STEELYARD_TEST_PGBOUNCER").is_some()
}

/// How servers of the tests reach the database at `url`.
pub async fn database(url: &str) -> Database {
    if everywhere() { pooled(url).await } else { Database::new(url).unwrap() }
}

/// The database at `url`, served through PgBouncer.
pub async fn pooled(url: &str) -> Database {
    Database::new(url).unwrap().through_pooler(&before(url).await).unwrap()
}

/// The URL of the same database by way of PgBouncer, which is started if need be.
pub async fn before(url: &str) -> String {
    let mut pooled = Url::parse(url).unwrap();
    let socket_dir = pooled.query_pairs().find(|(name, _)| name == "host").unwrap().1.into_owned();
    let mut started = STARTED.lock().await;
    let started = started.get_or_insert_default();
    if !started.contains_key(&socket_dir) {
        started.insert(socket_dir.clone(), PgBouncer::start(&socket_dir, pooled.port().unwrap()));
    }
    let dir = &started[&socket_dir].dir;
    pooled.query_pairs_mut().clear().append_pair("host", dir).append_pair("sslmode", "disable");
    let socket = format!("{dir}/.s.PGSQL.{}", pooled.port().unwrap());
    eventually("PgBouncer listens", async || UnixStream::connect(&socket).await.is_ok()).await;
    pooled.into()
}

impl PgBouncer {
    /// Starts one before the PostgreSQL with this socket, as its user: PgBouncer too refuses to run as root.
    fn start(socket_dir: &str, port: u16) -> Self {
        let user = std::fs::metadata(socket_dir).unwrap();
        let dir = tempfile::Builder::new().prefix("steelyard-pgbouncer-").tempdir_in("/tmp").unwrap().keep();
        std::fs::write(dir.join("pgbouncer.ini"), configuration(socket_dir, port, &dir)).unwrap();
        chown(&dir, Some(user.uid()), Some(user.gid())).unwrap();
        let found = Command::new("pgbouncer").arg("--version").stdout(Stdio::null()).status();
        found.expect("pgbouncer is needed for this test: apt-get install pgbouncer");
        let mut watchdog = Command::new("sh");
        if rustix::process::geteuid().is_root() {
            watchdog.uid(user.uid()).gid(user.gid());
        }
        let watchdog = watchdog
            .args(["-c", WATCHDOG, "sh"])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C on the terminal is for the tests, not for it.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { dir: dir.to_str().unwrap().to_owned(), _watchdog: watchdog }
    }
}

/// What matters is the mode and the size; the defaults are as Debian ships them.
/// It listens on a socket with the number of PostgreSQL's port, in its own directory.
fn configuration(socket_dir: &str, port: u16, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[databases]
* = host={socket_dir} port={port} user=steelyard
[pgbouncer]
pool_mode = transaction
default_pool_size = {SESSIONS}
max_client_conn = 1000
listen_addr =
listen_port = {port}
unix_socket_dir = {dir}
auth_type = any
logfile = {dir}/log
# Every test has a database of its own, which soon nobody uses any more.
server_idle_timeout = 2
"
    )
}
