//! Tests with a real PostgreSQL, each on a cluster of its own, which is stopped and removed even if the test fails.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgConnection;
use tempfile::TempDir;

use super::*;

/// How long a test waits for what takes milliseconds, on a machine that does other things too.
const TEST_WAIT: Duration = Duration::from_secs(120);

/// The variable that turns the test [`holder`] into another Steelyard process.
const HOLD: &str = "STEELYARD_TEST_HOLD_DIR";

struct Scratch {
    dir: TempDir,
    data_dir: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        Self::named("data")
    }

    fn named(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("steelyard-test-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let data_dir = dir.path().canonicalize().unwrap().join(name);
        Self { dir, data_dir }
    }

    fn cluster(&self) -> PathBuf {
        self.data_dir.join("postgres")
    }

    fn pid(&self) -> Option<Pid> {
        Postmaster::find(&self.cluster()).unwrap().map(|found| found.pid)
    }

    /// Starts another process that opens the same data directory and holds it until it is killed.
    fn spawn_holder(&self) -> Holder {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["embedded_pg::tests::holder", "--exact", "--ignored", "--nocapture"])
            .env(HOLD, &self.data_dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Holder(child)
    }

    fn holders_ready(&self) -> usize {
        let entries = fs::read_dir(self.dir.path()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"held-by-")).count()
    }

    async fn wait_for_holders(&self, count: usize) {
        wait_until("the other processes have opened", || self.holders_ready() == count).await;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while let Ok(Some(found)) = Postmaster::find(&self.cluster()) {
            // QUIT is an immediate stop.
            let _ = kill_process(found.pid, Signal::QUIT);
            if std::time::Instant::now() > deadline {
                let _ = kill_process(found.pid, Signal::KILL);
                break;
            }
            std::thread::sleep(POLL_EVERY);
        }
        let socket_dir = socket_dir(&self.data_dir);
        if !socket_dir.starts_with(&self.data_dir) {
            let _ = fs::remove_dir_all(socket_dir);
        }
    }
}

/// Another Steelyard process, killed at the latest when the test ends.
struct Holder(Child);

impl Holder {
    /// Kills it as the kernel's out-of-memory killer would.
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < TEST_WAIT, "waited in vain until {what}");
        sleep(POLL_EVERY).await;
    }
}

async fn connect(pg: &EmbeddedPg) -> PgConnection {
    PgConnection::connect(&pg.url()).await.unwrap()
}

async fn ask(connection: &mut PgConnection, sql: &'static str) -> String {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

/// Not a test: what [`Scratch::spawn_holder`] runs in another process.
#[tokio::test]
#[ignore = "run by other tests as a second process"]
async fn holder() {
    let Some(data_dir) = std::env::var_os(HOLD).map(PathBuf::from) else {
        return;
    };
    let _pg = EmbeddedPg::open(&data_dir).await.unwrap();
    let ready = data_dir.with_file_name(format!("held-by-{}", std::process::id()));
    fs::write(ready, "").unwrap();
    sleep(TEST_WAIT).await;
}

#[tokio::test]
async fn what_is_to_exist_is_not_made() {
    let scratch = Scratch::new();
    let refused = async |dir: &Path| {
        let error = EmbeddedPg::open_existing(dir).await.unwrap_err();
        assert!(matches!(&error, Error::NoCluster { dir: named } if named == dir), "{error}");
    };
    refused(&scratch.data_dir).await;
    assert!(!scratch.data_dir.exists());
    fs::create_dir(&scratch.data_dir).unwrap();
    refused(&scratch.data_dir).await;
    assert_eq!(fs::read_dir(&scratch.data_dir).unwrap().count(), 0);
}

#[tokio::test]
async fn a_new_data_dir_becomes_a_durable_private_server() {
    let scratch = Scratch::new();
    // What a process that was killed during its first start leaves behind.
    let leftover = scratch.data_dir.join("postgres.initializing-1");
    fs::create_dir_all(&leftover).unwrap();
    fs::set_permissions(&scratch.data_dir, Permissions::from_mode(0o755)).unwrap();
    fs::write(leftover.join("PG_VERSION"), "15\n").unwrap();

    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert!(pg.is_running());
    assert!(!leftover.exists());
    assert!(pg.bin("postgres").is_some() && pg.bin("no-such-program").is_none());
    assert!(pg.log_path().is_file());

    let mut connection = connect(&pg).await;
    for (sql, expected) in [
        ("SELECT current_user::TEXT", "steelyard"),
        ("SELECT current_database()::TEXT", "steelyard"),
        ("SHOW fsync", "on"),
        ("SHOW synchronous_commit", "on"),
        ("SHOW full_page_writes", "on"),
        ("SHOW data_checksums", "on"),
        ("SHOW server_encoding", "UTF8"),
        ("SELECT datcollate::TEXT FROM pg_database WHERE datname = 'steelyard'", "C"),
        ("SHOW listen_addresses", ""),
        ("SHOW jit", "off"),
        ("SHOW max_wal_size", "8GB"),
        ("SELECT count(*)::TEXT FROM pg_file_settings WHERE error IS NOT NULL", "0"),
        ("SELECT (count(*) > 10)::TEXT FROM pg_settings WHERE sourcefile LIKE '%/steelyard.conf'", "true"),
    ] {
        assert_eq!(ask(&mut connection, sql).await, expected, "{sql}");
    }
    connection.close().await.unwrap();

    let run = fs::metadata(scratch.data_dir.join("run")).unwrap();
    assert_eq!(run.mode() & 0o777, 0o700);
    let pid = scratch.pid().unwrap();
    if cfg!(target_os = "linux") {
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        assert_ne!(fs::metadata(&process).unwrap().uid(), 0, "the server must not run as root");
        // The fourth field after the name in parentheses is the session: its own, so no terminal's Ctrl-C reaches it.
        let stat = fs::read_to_string(process.join("stat")).unwrap();
        let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3);
        assert_eq!(session, Some(pid.as_raw_nonzero().to_string().as_str()));
    }

    assert_eq!(pg.close().await.unwrap(), Closed::Stopped);
    assert_eq!(scratch.pid(), None);
}

#[tokio::test]
async fn the_last_user_stops_the_server_and_the_data_stays() {
    let scratch = Scratch::new();
    let first = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    let second = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    let pid = scratch.pid();
    let mut connection = connect(&second).await;
    sqlx::query("CREATE TABLE kept AS SELECT 'here' AS word").execute(&mut connection).await.unwrap();

    assert_eq!(first.close().await.unwrap(), Closed::LeftRunning);
    assert_eq!(ask(&mut connection, "SELECT word FROM kept").await, "here");
    connection.close().await.unwrap();
    // A user that goes without closing counts no longer, and the server waits for the next.
    drop(second);
    let third = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert_eq!(scratch.pid(), pid);
    assert_eq!(third.close().await.unwrap(), Closed::Stopped);
    assert_eq!(scratch.pid(), None);

    let again = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    let mut connection = connect(&again).await;
    assert_eq!(ask(&mut connection, "SELECT word FROM kept").await, "here");
    connection.close().await.unwrap();
    assert_eq!(again.close().await.unwrap(), Closed::Stopped);
}

#[tokio::test]
async fn a_server_that_died_starts_again() {
    let scratch = Scratch::new();
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    let url = pg.url();

    // A client keeps a process of the dead server alive for a while.
    let mut client = connect(&pg).await;
    let busy = tokio::spawn(async move {
        let _ = sqlx::query("SELECT pg_sleep(5)").execute(&mut client).await;
    });
    let killed = scratch.pid().unwrap();
    kill_process(killed, Signal::KILL).unwrap();
    wait_until("the server is gone", || !pg.is_running()).await;
    assert!(scratch.cluster().join("postmaster.pid").exists(), "the file is stale");
    pg.start().await.unwrap();
    assert_ne!(scratch.pid(), Some(killed));
    connect(&pg).await.close().await.unwrap();
    busy.abort();

    pg.stop_immediate().await.unwrap();
    assert!(!pg.is_running());
    pg.stop_immediate().await.unwrap();
    pg.start().await.unwrap();
    pg.start().await.unwrap();
    let before = scratch.pid();
    pg.restart().await.unwrap();
    assert_ne!(scratch.pid(), before);
    assert_eq!(pg.url(), url);
    connect(&pg).await.close().await.unwrap();
    assert_eq!(pg.close().await.unwrap(), Closed::Stopped);
}

/// In a restarted container the number in the stale file is soon that of another process of the same user,
/// and PostgreSQL by itself would refuse to start.
#[tokio::test]
async fn a_stale_pid_that_now_is_a_strangers_does_not_keep_the_server_down() {
    let scratch = Scratch::new();
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    let pid_file = scratch.cluster().join("postmaster.pid");
    let socket_lock = scratch.data_dir.join("run/.s.PGSQL.5432.lock");
    let owner = fs::metadata(&pid_file).unwrap();
    let running = fs::read_to_string(&pid_file).unwrap();
    let (_, rest) = running.split_once('\n').unwrap();
    assert_eq!(pg.close().await.unwrap(), Closed::Stopped);

    let mut stranger = Command::new("sleep");
    stranger.arg("300");
    if rustix::process::geteuid().is_root() {
        stranger.uid(owner.uid()).gid(owner.gid());
    }
    let mut stranger = Holder(stranger.spawn().unwrap());
    for file in [&pid_file, &socket_lock] {
        fs::write(file, format!("{}\n{rest}", stranger.0.id())).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert!(pg.is_running());
    assert!(stranger.0.try_wait().unwrap().is_none(), "the stranger was left alone");
    assert_eq!(pg.close().await.unwrap(), Closed::Stopped);
    stranger.kill();

    // What a loss of power may leave.
    fs::write(&pid_file, "").unwrap();
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert_eq!(pg.close().await.unwrap(), Closed::Stopped);
}

#[tokio::test]
async fn the_server_outlives_the_process_that_started_it() {
    let scratch = Scratch::new();
    let mut starter = scratch.spawn_holder();
    scratch.wait_for_holders(1).await;
    let standby = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    let mut connection = connect(&standby).await;
    let pid = scratch.pid();

    starter.kill();
    assert_eq!(ask(&mut connection, "SELECT 'alive'").await, "alive");
    connection.close().await.unwrap();
    assert!(standby.is_running());
    assert_eq!(scratch.pid(), pid);
    assert_eq!(standby.close().await.unwrap(), Closed::Stopped);
    assert_eq!(scratch.pid(), None);
}

#[tokio::test]
async fn processes_that_open_at_the_same_moment_share_one_server() {
    let scratch = Scratch::new();
    let mut others = [scratch.spawn_holder(), scratch.spawn_holder()];
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    scratch.wait_for_holders(others.len()).await;
    let pid = scratch.pid().unwrap();
    assert!(connect(&pg).await.ping().await.is_ok());
    assert_eq!(pg.close().await.unwrap(), Closed::LeftRunning);
    assert_eq!(scratch.pid(), Some(pid));

    others.iter_mut().for_each(Holder::kill);
    let last = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert_eq!(scratch.pid(), Some(pid));
    assert_eq!(last.close().await.unwrap(), Closed::Stopped);
}

/// The trap: an operating-system upgrade of PostgreSQL under a running built-in server breaks its next library load.
#[tokio::test]
async fn an_upgrade_underneath_is_noticed_and_the_server_restarted() {
    let scratch = Scratch::new();
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert!(!pg.upgraded_underneath().unwrap());
    let pid = scratch.pid();

    let record = scratch.data_dir.join("server.version");
    let text = fs::read_to_string(&record).unwrap();
    assert!(text.starts_with("version=postgres (PostgreSQL) "), "{text}");
    fs::write(&record, text.replace("inode=", "inode=1")).unwrap();
    assert!(pg.upgraded_underneath().unwrap());

    let second = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert_eq!(scratch.pid(), pid, "with another user it is left alone");
    drop(pg);
    drop(second);
    let alone = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    assert_ne!(scratch.pid(), pid, "without one it is restarted");
    assert!(!alone.upgraded_underneath().unwrap());
    connect(&alone).await.close().await.unwrap();
    assert_eq!(alone.close().await.unwrap(), Closed::Stopped);
}

#[tokio::test]
async fn data_of_another_major_version_is_refused_by_name() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.cluster()).unwrap();
    fs::set_permissions(&scratch.data_dir, Permissions::from_mode(0o755)).unwrap();
    fs::write(scratch.cluster().join("PG_VERSION"), "12\n").unwrap();
    let error = EmbeddedPg::open(&scratch.data_dir).await.unwrap_err();
    assert!(matches!(error, Error::MajorVersion { .. }), "{error}");
    let message = error.to_string();
    for part in ["written by PostgreSQL 12, but PostgreSQL 1", "install PostgreSQL 12", "pg_upgrade"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }

    fs::rename(scratch.cluster().join("PG_VERSION"), scratch.cluster().join("notes")).unwrap();
    let error = EmbeddedPg::open(&scratch.data_dir).await.unwrap_err();
    assert!(matches!(error, Error::NotACluster { .. }), "{error}");
    assert!(scratch.cluster().join("notes").exists());
}

#[tokio::test]
async fn a_long_path_gets_a_short_socket_dir() {
    let scratch = Scratch::named(&"a-very-long-directory-name-".repeat(4));
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    let short = socket_dir(&scratch.data_dir);
    assert_eq!(short.parent(), Some(Path::new("/tmp")));
    assert_eq!(fs::metadata(&short).unwrap().mode() & 0o777, 0o700);
    assert!(connect(&pg).await.ping().await.is_ok());
    assert_eq!(pg.close().await.unwrap(), Closed::Stopped);
}

#[tokio::test]
async fn odd_characters_in_the_path_survive_the_shell_and_the_settings() {
    let names = ["it's a; 50% & ünusual", "with, a comma"];
    for name in names {
        let scratch = Scratch::named(name);
        let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
        assert!(connect(&pg).await.ping().await.is_ok(), "{name}");
        if let Some(psql) = pg.bin("psql") {
            let output = Command::new(psql).args([&pg.url(), "-Atc", "SELECT 1"]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{output:?}");
        }
        assert_eq!(pg.close().await.unwrap(), Closed::Stopped);
    }
    let scratch = Scratch::new();
    let error = EmbeddedPg::open(&scratch.dir.path().join("a$HOME")).await.unwrap_err();
    assert!(matches!(error, Error::UnusablePath { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_its_log() {
    let scratch = Scratch::new();
    let pg = EmbeddedPg::open(&scratch.data_dir).await.unwrap();
    pg.stop_immediate().await.unwrap();
    let mut configuration = OpenOptions::new().append(true).open(scratch.cluster().join("postgresql.conf")).unwrap();
    writeln!(configuration, "no_such_setting = 1").unwrap();
    let error = pg.start().await.unwrap_err();
    assert!(matches!(error, Error::DidNotStart { .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[test]
fn the_socket_stays_within_the_limit_of_the_kernel() {
    let check = |data_dir_bytes: usize, inside: bool| {
        let data_dir = PathBuf::from(format!("/{}", "d".repeat(data_dir_bytes - 1)));
        let dir = socket_dir(&data_dir);
        assert_eq!(dir.starts_with(&data_dir), inside, "{}", dir.display());
        assert!(dir.join(".s.PGSQL.5432").as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
        assert_eq!(dir, socket_dir(&data_dir), "the name is stable");
    };
    let around = "/run/.s.PGSQL.5432".len();
    check(20, true);
    check(SOCKET_PATH_BYTES_MAX - around, true);
    check(SOCKET_PATH_BYTES_MAX - around + 1, false);
    check(300, false);
    assert_ne!(
        socket_dir(&PathBuf::from(format!("/{}", "d".repeat(300)))),
        socket_dir(&PathBuf::from(format!("/{}", "e".repeat(300))))
    );
}

#[test]
fn words_for_the_shell_are_quoted() {
    assert_eq!(shell_quoted("port=5432"), "'port=5432'");
    assert_eq!(shell_quoted("it's"), r"'it'\''s'");
}

#[test]
fn the_default_data_dir_depends_on_who_runs_it() {
    let dir = default_data_dir().unwrap();
    assert!(dir.is_absolute() && dir.ends_with("steelyard"), "{dir:?}");
    assert!(!dir.starts_with("/root"), "{dir:?}");
}

#[test]
fn services_can_spawn_it() {
    fn needs_send<T: Send>(_: T) {}
    #[expect(clippy::manual_async_fn, reason = "an `async fn` would not say `Send`")]
    fn use_and_close(pg: EmbeddedPg) -> impl Future<Output = Result<Closed, Error>> + Send {
        async move {
            pg.start().await?;
            pg.restart().await?;
            pg.stop_immediate().await?;
            pg.close().await
        }
    }
    needs_send(EmbeddedPg::open(Path::new("/nonexistent")));
    let _ = use_and_close;
}
