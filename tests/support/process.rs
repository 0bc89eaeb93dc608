//! Steelyard as a process of its own, to be killed.

use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{WAIT, pgbouncer};

/// Lines of its log that a failed test prints.
const LOG_PRINTED: usize = 100;

/// `steelyard serve` on a free port of 127.0.0.1, unless its environment says
/// another address. Dropping it kills it; a test that fails prints the end of its log.
#[derive(Debug)]
pub struct Process {
    child: Child,
    origin: String,
    /// What it has logged so far, by line.
    log: watch::Receiver<Vec<Value>>,
    log_reader: JoinHandle<()>,
}

impl Process {
    /// Starts on a database, with settings in its environment
    /// (`STEELYARD_FAILPOINT`), and waits until it listens.
    pub async fn spawn(database_url: &str, envs: &[(&str, &str)]) -> Self {
        Self::spawn_at(database_url, "127.0.0.1:0", envs).await
    }

    /// The same at an address that others know.
    pub async fn spawn_at(database_url: &str, listen: &str, envs: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steelyard"));
        command.env("DATABASE_URL", database_url);
        if pgbouncer::everywhere() {
            command.env("DATABASE_URL", pgbouncer::before(database_url).await);
            command.env("STEELYARD_CLAIMS_DATABASE_URL", database_url);
        }
        let mut child = command
            .args(["serve", "--log-format", "json"])
            .env("STEELYARD_LISTEN", listen)
            .env("RUST_LOG", "info,sqlx=warn")
            .env_remove("STEELYARD_FAILPOINT")
            .env_remove("STEELYARD_SAFETY_OFF")
            .env_remove("STEELYARD_CLOCK_SKEW_MS")
            .envs(envs.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (log_of_reader, log) = watch::channel(Vec::new());
        // Ends with the process, whose standard error it reads.
        let log_reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                log_of_reader.send_modify(|log| log.push(line));
            }
        });
        let mut process = Self { child, origin: String::new(), log, log_reader };
        let listening = process.logs(|line| line["message"] == "listening").await;
        process.origin = format!("http://{}", listening["address"].as_str().unwrap());
        process
    }

    /// What comes before the path of a URL.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Waits until it serves; it may have served and stopped since.
    pub async fn serves(&self) {
        self.logs(|line| line["message"] == "status" && line["to"] == "serving").await;
    }

    /// Waits for a line of its log, and gives it.
    pub async fn logs(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut log = self.log.clone();
        let found = tokio::time::timeout(WAIT, log.wait_for(|log| log.iter().any(&wanted))).await;
        let Ok(Ok(found)) = found.map(|found| found.map(|log| log.clone())) else {
            panic!("the process did not log what was waited for, but {:#?}", *self.log.borrow());
        };
        found.into_iter().find(wanted).unwrap()
    }

    /// What it logs, to be read after its end too.
    pub fn log(&self) -> watch::Receiver<Vec<Value>> {
        self.log.clone()
    }

    /// Closes its standard error: it can log no more.
    pub async fn close_log(&mut self) {
        self.log_reader.abort();
        _ = (&mut self.log_reader).await;
    }

    /// `kill -9`, and its end.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ended().await
    }

    /// Stops it where it is, as a machine that hangs would; `true` lets it go on.
    pub fn stop_or_continue(&self, go_on: bool) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        let signal = if go_on { rustix::process::Signal::CONT } else { rustix::process::Signal::STOP };
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Whether it is stopped where it is.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id().unwrap())).unwrap();
        stat.rsplit(')').next().is_some_and(|state| state.trim_start().starts_with('T'))
    }

    /// Whether it has ended by itself, at a failpoint for one.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself, at a failpoint for one.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(WAIT, self.child.wait()).await.unwrap().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log.borrow();
            println!("the end of the log of {}:", self.origin);
            log.iter().skip(log.len().saturating_sub(LOG_PRINTED)).for_each(|line| println!("{line}"));
        }
    }
}
