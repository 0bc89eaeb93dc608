//! The server process of a cluster, as its `postmaster.pid` and the operating system describe it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, test_kill_process};

use super::error::{At, Error};

/// Which line of `postmaster.pid` (see `pidfile.h` of PostgreSQL) holds the server's state, counted from 0.
const STATE_LINE: usize = 7;

/// A server that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Postmaster {
    pub(super) pid: Pid,
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Starting,
    Ready,
    Stopping,
}

impl State {
    /// The state as a word for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "running",
            Self::Stopping => "stopping",
        }
    }
}

impl Postmaster {
    /// Finds the server of a cluster; `None` when there is none, also when a dead one left its file.
    ///
    /// `cluster` must be free of symbolic links.
    pub(super) fn find(cluster: &Path) -> Result<Option<Self>, Error> {
        let file = cluster.join("postmaster.pid");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", &file),
        };
        Ok(Self::parse(&text).filter(|found| serves(found.pid, cluster)))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // A negative number is that of a single-user server, which nobody can connect to.
        let number: i32 = lines.next()?.trim().parse().ok()?;
        let pid = Pid::from_raw(number.max(0))?;
        // The server writes the file line by line while it starts.
        let state = match lines.nth(STATE_LINE - 1).unwrap_or_default().trim() {
            "ready" | "standby" => State::Ready,
            "stopping" => State::Stopping,
            _ => State::Starting,
        };
        Some(Self { pid, state })
    }
}

/// Removes the lock files of a dead server that would keep a new one from starting.
///
/// PostgreSQL does this by itself, with two exceptions: when the file is empty, after a loss of power, and when the dead
/// server's number has been given to another process of the same user, which is the rule in a restarted container,
/// where all numbers are small. Only those two are handled here, because PostgreSQL's own way also checks that no
/// process of the dead server still uses its shared memory. The caller has made sure that no server is alive, and
/// holds the startup lock.
pub(super) fn remove_remains(cluster: &Path, socket_dir: &Path, port: u16) -> Result<(), Error> {
    let socket_lock = socket_dir.join(format!(".s.PGSQL.{port}.lock"));
    for file in [cluster.join("postmaster.pid"), socket_lock] {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).at("read", &file),
        };
        let first_line = text.lines().next().unwrap_or_default().trim();
        let gone = first_line
            .parse()
            .ok()
            .and_then(|number: i32| Pid::from_raw(number.checked_abs()?))
            .is_some_and(|pid| !exists(pid));
        if !gone {
            fs::remove_file(&file).at("remove", &file)?;
            tracing::info!(file = %file.display(), "removed the lock file of a dead PostgreSQL server");
        }
    }
    Ok(())
}

/// Whether there is a process with this number, whoever it belongs to.
fn exists(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Whether the process is the server of this cluster, and not another that has been given a dead server's number.
fn serves(pid: Pid, cluster: &Path) -> bool {
    if !Path::new("/proc/self").exists() {
        // Without /proc (macOS) we know only whether there is such a process.
        return exists(pid);
    }
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    // The server's working directory is its data directory.
    if let Ok(working_dir) = fs::read_link(process.join("cwd")) {
        return working_dir == cluster;
    }
    // In a container, root may not see the working directory of another user's process; its arguments it may.
    // A process that has died and waits for its parent (a zombie) has neither.
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments.any(|argument| argument == b"-D") && arguments.next() == Some(cluster.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_is_read_while_it_is_being_written() {
        let check = |text: &str, expected: Option<State>| {
            assert_eq!(Postmaster::parse(text).map(|found| found.state), expected, "{text:?}");
        };
        let begun = "4711\n/srv/postgres\n1700000000\n5432\n/srv/run\n\n";
        check("", None);
        check("\n", None);
        check("-4711\n", None);
        check("4711\n", Some(State::Starting));
        check(begun, Some(State::Starting));
        check(&format!("{begun}  1234 5\nstarting\n"), Some(State::Starting));
        check(&format!("{begun}  1234 5\nready   \n"), Some(State::Ready));
        check(&format!("{begun}  1234 5\nstopping\n"), Some(State::Stopping));
    }

    #[test]
    fn a_pid_file_that_names_a_stranger_is_stale() {
        let cluster = tempfile::tempdir().unwrap();
        let ours = std::process::id();
        fs::write(cluster.path().join("postmaster.pid"), format!("{ours}\n")).unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(Postmaster::find(cluster.path()).unwrap(), None);
        }
    }
}
