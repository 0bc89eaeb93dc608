//! The built program, serving on a data directory and a port of its own.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The address in the README.
const STATED_ADDRESS: &str = "127.0.0.1:8080";

/// Time for a start: `initdb`, PostgreSQL, the migrations. Some 5 s; more on a busy machine.
const START_WAIT: Duration = Duration::from_secs(180);

/// Time for a stop, which includes PostgreSQL's last checkpoint.
const STOP_WAIT: Duration = Duration::from_secs(120);

const POLL_EVERY: Duration = Duration::from_millis(20);

pub struct Server {
    process: Child,
    address: String,
    dir: TempDir,
}

impl Server {
    pub fn start() -> Self {
        // Not TMPDIR, and open to others: as root, PostgreSQL runs as another user, who has to get there.
        let dir = tempfile::Builder::new().prefix("steelyard-readme-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let mut process = steelyard()
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let (listens, listening) = mpsc::channel();
        // Ends with the server. Its lines are shown with a test that fails.
        thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("{line}");
                if line.contains("listening")
                    && let Some(address) = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next())
                {
                    _ = listens.send(address.to_owned());
                }
            }
        });
        let mut server = Self { process, address: String::new(), dir };
        server.address = listening.recv_timeout(START_WAIT).expect("the server says where it listens");
        server
    }

    /// Runs one `curl` command of the README, and gives back the answer's body.
    pub fn curl(&self, command: &str) -> String {
        assert_eq!(
            command.matches("curl ").count(),
            1,
            "one request a block, so that its status can be told:\n{command}"
        );
        assert!(command.contains(STATED_ADDRESS), "not at {STATED_ADDRESS}:\n{command}");
        fs::write(self.dir.path().join(".curlrc"), "silent\nshow-error\nwrite-out = \"%{stderr}%{http_code}\"\n")
            .unwrap();
        let output = Command::new("sh")
            .args(["-c", &command.replace(STATED_ADDRESS, &self.address)])
            .env("CURL_HOME", self.dir.path())
            .output()
            .unwrap();
        let (body, status) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_ne!(
            output.status.code(),
            Some(127),
            "curl is not installed, and the README's requests are made with it"
        );
        assert!(output.status.success() && status.len() == 3 && status.starts_with('2'), "{command}\n{status}\n{body}");
        body.into_owned()
    }

    /// The URL of its database, as the program itself tells it.
    pub fn database_url(&self) -> String {
        let output =
            steelyard().args(["psql", "--print", "--data-dir"]).arg(self.dir.path().join("data")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Asks it to stop; it must end well, and PostgreSQL with it.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait().expect("the server stops in time");
        assert!(status.success(), "{status}");
        assert!(!self.dir.path().join("data/postgres/postmaster.pid").exists(), "PostgreSQL was left running");
    }

    fn signal(&self, signal: Signal) {
        _ = kill_process(Pid::from_child(&self.process), signal);
    }

    fn wait(&mut self) -> Option<std::process::ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < STOP_WAIT {
            if let Some(status) = self.process.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(POLL_EVERY);
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a failed assertion: leave no PostgreSQL behind.
        if matches!(self.process.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            if self.wait().is_none() {
                self.signal(Signal::KILL);
            }
        }
    }
}

/// The program, with nothing of this environment that would change what it does.
fn steelyard() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steelyard"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"STEELYARD_") {
            command.env_remove(name);
        }
    }
    command.env_remove("DATABASE_URL").env_remove("RUST_LOG").env("NO_COLOR", "1");
    command
}
