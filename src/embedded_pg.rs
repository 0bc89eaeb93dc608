//! The built-in PostgreSQL: find it, initialise it, start it, share it, stop it.
//!
//! Without a `DATABASE_URL`, Steelyard runs the system's own PostgreSQL on a data directory of its own. Nothing is
//! downloaded, and durability is that of any PostgreSQL: `fsync` and `synchronous_commit` are on.
//!
//! One data directory, one server, any number of Steelyard processes on the machine:
//!
//! ```text
//! <data_dir>/postgres/        the cluster
//! <data_dir>/postgres.log     the server's log; the one before is postgres.log.1
//! <data_dir>/run/             the socket, closed to everybody but the server's user and root
//! <data_dir>/startup.lock     exclusive: whoever initialises, starts, stops, comes or leaves
//! <data_dir>/users.lock       shared: every process that uses the server, for as long as it does
//! <data_dir>/server.version   the program that the running server was started from
//! ```
//!
//! Why the locking is right. The lock of users is taken and converted only under the startup lock, so that between
//! "nobody else uses the server" and "it is stopped" nobody can come. Both are `flock` locks, which end with their
//! process: a process that is killed neither keeps the server from being stopped later nor keeps others out.
//! The server is no child of ours that would die with us. It lives in a session of its own, so that another process
//! goes on with it when the process that started it is killed or gets a Ctrl-C.

mod account;
mod error;
mod installation;
mod lock;
mod postmaster;
mod settings;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::{ConnectOptions, Connection};
use tokio::time::{Instant, sleep, timeout};

use account::{ServerAccount, last_bytes};
use error::At;
use installation::{StartedFrom, Surroundings};
use lock::{FileLock, Mode};
use postmaster::{Postmaster, State};

pub use account::default_data_dir;
pub use error::Error;
pub use installation::{Installation, OLDEST_MAJOR, Version};

/// The superuser of the built-in server. The directory of the socket guards it, so it has no password.
const USER: &str = "steelyard";

/// The database that Steelyard uses.
const DATABASE: &str = "steelyard";

/// How long `initdb` may take. It takes a second or two; on a busy network disk a minute has been seen.
const INITIALISE_WAIT: Duration = Duration::from_secs(300);

/// How long a start may take. After a crash the server first replays up to `max_wal_size` (8 GB) of WAL,
/// at 20 MB/s on a slow disk.
const START_WAIT: Duration = Duration::from_secs(600);

/// How long a stop may take. A fast stop writes all that is dirty in `shared_buffers` (2 GB at most).
const STOP_WAIT: Duration = Duration::from_secs(180);

/// What `pg_ctl` may take beyond the time it was told to wait, before it counts as hung.
const PG_CTL_GRACE: Duration = Duration::from_secs(15);

/// How long another process may hold the startup lock: it stops a server, initialises a cluster and starts it.
const STARTUP_LOCK_WAIT: Duration =
    Duration::from_secs(STOP_WAIT.as_secs() + INITIALISE_WAIT.as_secs() + START_WAIT.as_secs() + 60);

/// How long the lock of users may be busy while we hold the startup lock. Only a dying process is ever in the way.
const USERS_LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long a running server may take to accept a connection and answer, and to copy a template database.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// How long processes of a dead server may go on using its shared memory. The busiest notices when its client has
/// gone, which it looks for every 5 s (`client_connection_check_interval`).
const ORPHANS_WAIT: Duration = Duration::from_secs(30);

/// How often the state of a starting or stopping server is read.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// The longest path of a Unix socket (`sun_path` less its terminating zero).
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Where the socket goes when the data directory's path is too long for one. Not `TMPDIR`: processes with different
/// ones must agree.
const SHORT_DIR: &str = "/tmp";

/// A start moves a log beyond this size aside, so that the log never fills the disk over the years.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How much of the end of the log an error shows.
const LOG_TAIL_BYTES_MAX: usize = 2048;

/// What a cluster's directory is called while `initdb` fills it.
const INITIALISING: &str = "postgres.initializing";

/// A built-in PostgreSQL in use by this process.
///
/// Dropping it without [`EmbeddedPg::close`] leaves the server running, as if this process had been killed: the next
/// process attaches to it, and the last one to close stops it.
#[derive(Debug)]
pub struct EmbeddedPg {
    server: Server,
    users: FileLock,
}

/// What became of the server when this process closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Nobody else used it, so it was stopped.
    Stopped,
    /// Another process uses it.
    LeftRunning,
}

impl EmbeddedPg {
    /// Opens the built-in PostgreSQL whose data is in `data_dir`: initialises it the first time, starts it unless it
    /// runs, and counts this process among its users.
    ///
    /// When it returns, the server accepts connections and the database `steelyard` is there.
    pub async fn open(data_dir: &Path) -> Result<Self, Error> {
        let files = Files::prepare(data_dir)?;
        let startup = files.lock_startup().await?;

        let users = FileLock::acquire(&files.users_lock, Mode::Shared, USERS_LOCK_WAIT).await?;
        let alone = users.try_change(Mode::Exclusive)?;
        users.change(Mode::Shared, USERS_LOCK_WAIT).await?;

        let cluster_major = files.cluster_major()?;
        let installation = Installation::find_for(
            &files.account,
            cluster_major.as_deref().map(|major| (files.cluster.as_path(), major)),
            &Surroundings::of_this_process(&files.account).await,
        )
        .await?;
        let server = Server { files, installation };
        tracing::info!(
            version = %server.installation.version(),
            programs = %server.installation.bin_dir().display(),
            data = %server.files.cluster.display(),
            user = server.files.account.name(),
            "using the built-in PostgreSQL"
        );
        if cluster_major.is_none() {
            server.initialise().await?;
        }
        let came = server.ensure_running().await?;
        if came == Came::ToARunningServer && server.is_outdated()? {
            server.replace_outdated(alone).await?;
        }
        if let Err(error) = server.ensure_database().await {
            // Nobody would be left to stop what we have just started.
            if came == Came::ToAStoppedServer
                && let Err(also) = server.stop("fast").await
            {
                tracing::warn!(%also, "could not stop the built-in PostgreSQL");
            }
            return Err(error);
        }

        drop(startup);
        Ok(Self { server, users })
    }

    /// Opens the one whose data is in `data_dir`, and makes none: for commands that would find nothing in a new one,
    /// so that a directory that was misspelt is not proven to be right.
    pub async fn open_existing(data_dir: &Path) -> Result<Self, Error> {
        let version = data_dir.join("postgres").join("PG_VERSION");
        match fs::metadata(&version) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoCluster { dir: data_dir.to_owned() }),
            // Whatever else is wrong with it is told by opening it.
            _ => Self::open(data_dir).await,
        }
    }

    /// The URL of the database `steelyard`, for sqlx, libpq and psql alike.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The URL of a database of this server.
    pub fn url_of(&self, database: &str) -> String {
        self.server.url_of(database)
    }

    /// The path of one of PostgreSQL's programs, such as `psql`, or `None` where this installation lacks it.
    pub fn bin(&self, name: &str) -> Option<PathBuf> {
        self.server.installation.bin(name)
    }

    /// The installation that this process found.
    pub fn installation(&self) -> &Installation {
        &self.server.installation
    }

    /// The server's log, for messages to the operator.
    pub fn log_path(&self) -> &Path {
        &self.server.files.log
    }

    /// Whether the server runs and accepts connections.
    pub fn is_running(&self) -> bool {
        let found = Postmaster::find(&self.server.files.cluster);
        matches!(found, Ok(Some(server)) if server.state == State::Ready)
    }

    /// Whether the package manager has replaced PostgreSQL's programs since the running server was started.
    ///
    /// Such a server fails as soon as it loads another library (`undefined symbol`): say so, and [`restart`] it.
    ///
    /// [`restart`]: EmbeddedPg::restart
    pub fn upgraded_underneath(&self) -> Result<bool, Error> {
        self.server.is_outdated()
    }

    /// Starts the server unless it runs. It has stopped after [`EmbeddedPg::stop_immediate`], or after a crash.
    pub async fn start(&self) -> Result<(), Error> {
        let _startup = self.server.files.lock_startup().await?;
        self.server.ensure_running().await?;
        Ok(())
    }

    /// Stops the server and starts it again, also when other processes use it: everybody has to connect anew.
    pub async fn restart(&self) -> Result<(), Error> {
        let _startup = self.server.files.lock_startup().await?;
        self.server.stop("fast").await?;
        self.server.ensure_running().await?;
        Ok(())
    }

    /// Stops the server as a crash would, without a checkpoint and without a word to its clients. For tests of faults.
    pub async fn stop_immediate(&self) -> Result<(), Error> {
        let _startup = self.server.files.lock_startup().await?;
        self.server.stop("immediate").await
    }

    /// Ends this process's use of the server, and stops it if nobody else uses it.
    ///
    /// Close the connections first: a stop ends those that are still open.
    pub async fn close(self) -> Result<Closed, Error> {
        let _startup = self.server.files.lock_startup().await?;
        // Bound here, after the startup lock, so that they are dropped, and the lock of users released, before it.
        let Self { server, users } = self;
        if !users.try_change(Mode::Exclusive)? {
            tracing::info!("left the built-in PostgreSQL running, because another process uses it");
            return Ok(Closed::LeftRunning);
        }
        server.stop("fast").await?;
        Ok(Closed::Stopped)
    }
}

/// How [`Server::ensure_running`] found the server.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    ToARunningServer,
    ToAStoppedServer,
}

/// One cluster and the programs to run it with. Its methods that change anything want the startup lock held.
#[derive(Debug)]
struct Server {
    files: Files,
    installation: Installation,
}

impl Server {
    fn url_of(&self, database: &str) -> String {
        // Port and sslmode are said, because otherwise PGPORT and PGSSLMODE would be asked.
        format!(
            "postgres://{USER}@localhost:{}/{}?host={}&sslmode=disable",
            settings::PORT,
            utf8_percent_encode(database, NON_ALPHANUMERIC),
            utf8_percent_encode(&self.files.socket_dir_text(), NON_ALPHANUMERIC),
        )
    }

    fn program(&self, name: &str) -> PathBuf {
        self.installation.bin_dir().join(name)
    }

    /// Makes the cluster beside its place and moves it there when it is complete, so that a crash in the middle leaves
    /// no half-made cluster.
    async fn initialise(&self) -> Result<(), Error> {
        let Files { data_dir, cluster, account, .. } = &self.files;
        tracing::info!(cluster = %cluster.display(), "initialising the built-in PostgreSQL");
        for entry in fs::read_dir(data_dir).at("list", data_dir)? {
            let leftover = entry.at("list", data_dir)?;
            if leftover.file_name().as_encoded_bytes().starts_with(INITIALISING.as_bytes()) {
                let leftover = leftover.path();
                fs::remove_dir_all(&leftover).at("remove", &leftover)?;
            }
        }
        // Numbered: an initdb that outlived its killed parent may still be writing to an earlier one.
        let unfinished = data_dir.join(format!("{INITIALISING}-{}", std::process::id()));
        account.private_dir(&unfinished)?;
        let mut args = [
            "--encoding=UTF8",
            // Sorting by bytes is the same on every machine and after every upgrade of the C library,
            // so no index of names ever breaks.
            "--locale=C",
            "--data-checksums",
            "--auth-local=trust",
            "--auth-host=reject",
            "--no-instructions",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--username={USER}"));
        args.push(format!("--pgdata={}", unfinished.display()));
        account.run(&self.program("initdb"), args, INITIALISE_WAIT).await?;

        let configuration = unfinished.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&configuration)
            .and_then(|mut file| {
                writeln!(file, "\ninclude_if_exists = '{}'", settings::FILE_NAME)?;
                file.sync_all()
            })
            .at("write", &configuration)?;
        fs::rename(&unfinished, cluster).at("move the new cluster to", cluster)?;
        File::open(data_dir).and_then(|dir| dir.sync_all()).at("sync", data_dir)
    }

    /// Waits for a server that is starting or stopping, and starts one if there is none.
    async fn ensure_running(&self) -> Result<Came, Error> {
        if self.wait_until_ready().await? {
            tracing::info!("attached to the built-in PostgreSQL that already runs");
            return Ok(Came::ToARunningServer);
        }
        self.launch().await?;
        Ok(Came::ToAStoppedServer)
    }

    async fn launch(&self) -> Result<(), Error> {
        let Files { cluster, socket_dir, log, account, .. } = &self.files;
        account.private_dir(socket_dir)?;
        postmaster::remove_remains(cluster, socket_dir, settings::PORT)?;
        self.write_settings()?;
        self.files.rotate_log()?;
        // Before the start, so that no crash can leave a running server without a record.
        StartedFrom::now(&self.installation)?.write(&self.files.record)?;

        let options: Vec<String> = settings::fixed(&self.files.socket_dir_text())
            .iter()
            .map(|setting| format!("-c {}", shell_quoted(setting)))
            .collect();
        let args = [
            "start".to_owned(),
            "--wait".to_owned(),
            format!("--timeout={}", START_WAIT.as_secs()),
            format!("--pgdata={}", cluster.display()),
            format!("--log={}", log.display()),
            format!("--options={}", options.join(" ")),
        ];
        let began = Instant::now();
        loop {
            let log_bytes_before = fs::metadata(log).map_or(0, |metadata| metadata.len());
            // pg_ctl puts the server into a session of its own, and its output into the log.
            let started = account.run(&self.program("pg_ctl"), &args, START_WAIT + PG_CTL_GRACE).await;
            let Err(failure) = started else {
                tracing::info!(
                    socket_dir = %socket_dir.display(),
                    log = %log.display(),
                    took_ms = began.elapsed().as_millis() as u64,
                    "started the built-in PostgreSQL"
                );
                return Ok(());
            };
            if !matches!(failure, Error::Program { .. }) {
                return Err(failure);
            }
            let tail = self.files.log_since(log_bytes_before);
            // A pg_ctl that outlived its killed parent may have won; then there is a server after all.
            let other = Postmaster::find(cluster)?.is_some();
            let orphans = tail.contains("pre-existing shared memory block");
            if !(other || orphans) || began.elapsed() > ORPHANS_WAIT {
                let tail = if tail.is_empty() { failure.to_string() } else { tail };
                return Err(Error::DidNotStart { log: log.clone(), tail });
            }
            if other && self.wait_until_ready().await? {
                return Ok(());
            }
            sleep(POLL_EVERY * 4).await;
        }
    }

    /// Waits until the server is ready, if there is one; `false` if there is none, or none any more.
    async fn wait_until_ready(&self) -> Result<bool, Error> {
        let began = Instant::now();
        while let Some(found) = Postmaster::find(&self.files.cluster)? {
            if found.state == State::Ready {
                return Ok(true);
            }
            if began.elapsed() > START_WAIT {
                return Err(Error::NotReady {
                    state: found.state.name().to_owned(),
                    limit: START_WAIT,
                    log: self.files.log.clone(),
                });
            }
            sleep(POLL_EVERY).await;
        }
        Ok(false)
    }

    /// Stops the server if it runs. `mode` is one of `pg_ctl`.
    async fn stop(&self, mode: &str) -> Result<(), Error> {
        // pg_ctl would signal the number in a stale file, whoever has that number now.
        if Postmaster::find(&self.files.cluster)?.is_none() {
            return Ok(());
        }
        let args = [
            "stop".to_owned(),
            "--wait".to_owned(),
            format!("--timeout={}", STOP_WAIT.as_secs()),
            format!("--mode={mode}"),
            format!("--pgdata={}", self.files.cluster.display()),
        ];
        let stopped = self.files.account.run(&self.program("pg_ctl"), args, STOP_WAIT + PG_CTL_GRACE).await;
        // That it ended by itself meanwhile is no failure.
        if let Err(failure) = stopped
            && Postmaster::find(&self.files.cluster)?.is_some()
        {
            return Err(failure);
        }
        tracing::info!(mode, "stopped the built-in PostgreSQL");
        Ok(())
    }

    fn write_settings(&self) -> Result<(), Error> {
        let file = self.files.cluster.join(settings::FILE_NAME);
        let new = self.files.cluster.join("steelyard.conf.new");
        // Renamed into place: a crash leaves the old file or the new one, not half of one.
        fs::write(&new, settings::file(settings::memory_bytes())).at("write", &new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).at("set the mode of", &new)?;
        self.files.account.own(&new)?;
        fs::rename(&new, &file).at("write", &file)
    }

    fn is_outdated(&self) -> Result<bool, Error> {
        let running = Postmaster::find(&self.files.cluster)?.is_some();
        let started_from = StartedFrom::read(&self.files.record);
        Ok(running && started_from.is_some_and(|started_from| started_from.is_replaced()))
    }

    async fn replace_outdated(&self, alone: bool) -> Result<(), Error> {
        let running = StartedFrom::read(&self.files.record);
        let running = running.as_ref().map_or("unknown", StartedFrom::version);
        let installed = &self.installation.version().text;
        if !alone {
            tracing::warn!(
                running,
                installed,
                "PostgreSQL was upgraded under the running built-in server, which may fail with `undefined symbol` at \
                 any time; other processes use it, so it was left alone: restart all of them"
            );
            return Ok(());
        }
        tracing::warn!(running, installed, "PostgreSQL was upgraded under the running built-in server; restarting it");
        self.stop("fast").await?;
        self.launch().await
    }

    /// Creates the database `steelyard` where it is missing.
    ///
    /// These are the only statements outside `store`: they come before there is a database for it to open.
    async fn ensure_database(&self) -> Result<(), Error> {
        let work = async {
            let options: sqlx::postgres::PgConnectOptions = self.url_of("postgres").parse()?;
            let mut connection = options.connect().await?;
            let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(DATABASE)
                .fetch_one(&mut connection)
                .await?;
            if !exists {
                sqlx::query("CREATE DATABASE steelyard TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
                    .execute(&mut connection)
                    .await?;
                tracing::info!(database = DATABASE, "created the database");
            }
            connection.close().await?;
            Ok(())
        };
        timeout(ANSWER_WAIT, work)
            .await
            .unwrap_or_else(|_| Err(Error::NoAnswer { socket_dir: self.files.socket_dir.clone(), limit: ANSWER_WAIT }))
    }
}

/// The paths of one data directory, and the user that owns the server's part of it.
#[derive(Debug)]
struct Files {
    account: ServerAccount,
    data_dir: PathBuf,
    cluster: PathBuf,
    log: PathBuf,
    socket_dir: PathBuf,
    startup_lock: PathBuf,
    users_lock: PathBuf,
    record: PathBuf,
}

impl Files {
    fn prepare(data_dir: &Path) -> Result<Self, Error> {
        check_usable(data_dir)?;
        let account = ServerAccount::choose(&data_dir.join("postgres"))?;
        let data_dir = account.prepare_data_dir(data_dir)?;
        check_usable(&data_dir)?;
        let cluster = data_dir.join("postgres");
        Ok(Self {
            account,
            // Resolved, because an operator may have moved it to another disk and left a symbolic link.
            cluster: cluster.canonicalize().unwrap_or(cluster),
            log: data_dir.join("postgres.log"),
            socket_dir: socket_dir(&data_dir),
            startup_lock: data_dir.join("startup.lock"),
            users_lock: data_dir.join("users.lock"),
            record: data_dir.join("server.version"),
            data_dir,
        })
    }

    async fn lock_startup(&self) -> Result<FileLock, Error> {
        FileLock::acquire(&self.startup_lock, Mode::Exclusive, STARTUP_LOCK_WAIT).await
    }

    /// The socket's directory as text, which it is in full: [`check_usable`] has seen to that.
    fn socket_dir_text(&self) -> String {
        self.socket_dir.to_string_lossy().into_owned()
    }

    /// The major version of the cluster; `None` where there is no cluster yet.
    fn cluster_major(&self) -> Result<Option<String>, Error> {
        let file = self.cluster.join("PG_VERSION");
        match fs::read_to_string(&file) {
            Ok(text) => return Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("read", &file),
        }
        // An empty directory is as good as none: the new cluster is moved over it.
        let empty = match fs::read_dir(&self.cluster) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error).at("list", &self.cluster),
        };
        if !empty {
            return Err(Error::NotACluster { path: self.cluster.clone() });
        }
        Ok(None)
    }

    /// Makes the log file, which the server's user cannot make in a directory of root's, and sets a large one aside.
    fn rotate_log(&self) -> Result<(), Error> {
        if fs::metadata(&self.log).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
            let previous = self.data_dir.join("postgres.log.1");
            fs::rename(&self.log, &previous).at("rotate", &self.log)?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log).at("create", &self.log)?;
        self.account.own(&self.log)
    }

    /// The end of what was logged since the log had this length. Best effort: it goes into an error message.
    fn log_since(&self, log_bytes_before: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(log_bytes_before.max(end.saturating_sub(LOG_TAIL_BYTES_MAX as u64))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES_MAX as u64).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        last_bytes(text.trim(), LOG_TAIL_BYTES_MAX).to_owned()
    }
}

/// Refuses a path that PostgreSQL's own tools would take apart: `pg_ctl` puts it between double quotes in a shell
/// command, and `postmaster.pid` has one to a line.
fn check_usable(dir: &Path) -> Result<(), Error> {
    let unusable = |reason| Error::UnusablePath { dir: dir.to_owned(), reason };
    let text = dir.to_str().ok_or_else(|| unusable("its name is not UTF-8"))?;
    if text.is_empty() {
        return Err(unusable("its name is empty"));
    }
    if text.contains(|c: char| c.is_control() || "\"$`\\".contains(c)) {
        return Err(unusable(
            "pg_ctl cannot cope with a double quote, a dollar sign, a backquote, a backslash or a control character",
        ));
    }
    Ok(())
}

/// The directory of the socket: `run` in the data directory, or one in `/tmp` that is named after the data directory,
/// where the path is too long for a Unix socket or has a comma, at which libpq would cut it in two.
fn socket_dir(data_dir: &Path) -> PathBuf {
    let run = data_dir.join("run");
    let socket = run.join(format!(".s.PGSQL.{}", settings::PORT));
    let socket = socket.as_os_str().as_encoded_bytes();
    if socket.len() <= SOCKET_PATH_BYTES_MAX && !socket.contains(&b',') {
        return run;
    }
    let hash = xxhash_rust::xxh3::xxh3_64(data_dir.as_os_str().as_encoded_bytes());
    Path::new(SHORT_DIR).join(format!("steelyard-{hash:016x}"))
}

/// Quotes a word for the shell that `pg_ctl` starts the server with.
fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
