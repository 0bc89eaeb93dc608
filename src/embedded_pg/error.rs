//! Everything that can go wrong with the built-in PostgreSQL, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::installation::OLDEST_MAJOR;

/// An error of the built-in PostgreSQL.
/// The messages are for the operator who has just started Steelyard, so each names the remedy where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no PostgreSQL {OLDEST_MAJOR} or newer was found on this machine, and the built-in database needs its programs \
         (initdb, pg_ctl, postgres).\n\
         Install it:\n  \
           apt-get install postgresql           (Debian, Ubuntu)\n  \
           dnf install postgresql-server        (Fedora, RHEL)\n  \
           brew install postgresql@17           (macOS)\n\
         or set STEELYARD_PG_BIN_DIR to the directory that holds them,\n\
         or set DATABASE_URL to use a PostgreSQL that already runs.{}",
        list_of_tried(.tried)
    )]
    NoInstallation {
        /// What was found and why it does not do, one entry for each directory.
        tried: Vec<String>,
    },

    #[error("STEELYARD_PG_BIN_DIR is {dir}, which does not do: {reason}", dir = .dir.display())]
    BinDir { dir: PathBuf, reason: String },

    #[error(
        "the data in {cluster} was written by PostgreSQL {cluster_major}, but PostgreSQL {installed} is installed here. \
         A server reads only data of its own major version: install PostgreSQL {cluster_major} \
         (both can be installed at once), or convert the data with pg_upgrade",
        cluster = .cluster.display()
    )]
    MajorVersion { cluster: PathBuf, cluster_major: String, installed: String },

    #[error(
        "PostgreSQL refuses to run as root, and /etc/passwd has neither a `postgres` nor a `nobody` user to run it as: \
         create one (useradd --system postgres), or start Steelyard as an ordinary user"
    )]
    NoServerAccount,

    #[error(
        "the built-in database cannot live in {dir}: PostgreSQL runs as the user `{user}`, not as root, \
         and `{user}` may not enter {blocked_at}. Choose another data directory (such as /var/lib/steelyard), \
         or let others pass through with `chmod o+x {blocked_at}`",
        dir = .dir.display(), blocked_at = .blocked_at.display()
    )]
    NotTraversable { dir: PathBuf, blocked_at: PathBuf, user: String },

    #[error(
        "the built-in database cannot live in {dir}: it is under /root, which is closed to the user `{user}` \
         that PostgreSQL runs as. Choose another data directory, such as /var/lib/steelyard",
        dir = .dir.display()
    )]
    UnderRoot { dir: PathBuf, user: String },

    #[error(
        "{path} belongs to the user with uid {owner}, but the built-in database would run with uid {ours}: \
         start Steelyard as that user or as root, or choose another data directory",
        path = .path.display()
    )]
    Owner { path: PathBuf, owner: u32, ours: u32 },

    #[error("the data directory {dir:?} cannot be used: {reason}")]
    UnusablePath { dir: PathBuf, reason: &'static str },

    #[error(
        "{path} is in the way: it is not empty and is not a PostgreSQL data directory (it has no PG_VERSION). \
         Move it away, or choose another data directory",
        path = .path.display()
    )]
    NotACluster { path: PathBuf },

    #[error(
        "{dir} holds no database, and this command makes none. Say where it is with --data-dir, or with --database-url; \
         `steelyard serve` makes a new one",
        dir = .dir.display()
    )]
    NoCluster { dir: PathBuf },

    #[error("no place for the data: neither XDG_DATA_HOME nor HOME is set. Set one, or give a data directory")]
    NoHome,

    #[error(
        "another process has held {path} for more than {limit:?}: it is starting or stopping the built-in database, \
         or hangs while doing so",
        path = .path.display()
    )]
    LockTimeout { path: PathBuf, limit: Duration },

    #[error("{program} failed ({status}): {output}", program = .program.display())]
    Program { program: PathBuf, status: String, output: String },

    #[error("{program} did not finish within {limit:?}", program = .program.display())]
    ProgramTimeout { program: PathBuf, limit: Duration },

    #[error(
        "the built-in PostgreSQL did not start. The end of its log, {log}:\n{tail}",
        log = .log.display()
    )]
    DidNotStart { log: PathBuf, tail: String },

    #[error(
        "the built-in PostgreSQL was still {state} after {limit:?}; its log is {log}",
        log = .log.display()
    )]
    NotReady { state: String, limit: Duration, log: PathBuf },

    #[error(
        "the built-in PostgreSQL runs but does not answer on its socket in {socket_dir} within {limit:?}",
        socket_dir = .socket_dir.display()
    )]
    NoAnswer { socket_dir: PathBuf, limit: Duration },

    #[error("the built-in PostgreSQL refused to prepare its database")]
    Database(#[from] sqlx::Error),

    #[error("cannot {action} {path}: {reason}", path = .path.display())]
    Io {
        /// A verb in the infinitive, such as `create`.
        action: &'static str,
        path: PathBuf,
        /// Part of the message, and so not repeated as the source.
        reason: io::Error,
    },
}

/// Names what was being done to which path, so that an `io::Error` says more than "permission denied".
pub(super) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|error| Error::Io { action, path: path.to_owned(), reason: error.into() })
    }
}

fn list_of_tried(tried: &[String]) -> String {
    if tried.is_empty() {
        return String::new();
    }
    format!("\nFound, but of no use:\n  {}", tried.join("\n  "))
}
