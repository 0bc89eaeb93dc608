//! The built program, serving on a data directory and a port of its own.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
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
    log: Arc<Mutex<Vec<String>>>,
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
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        let (listens, listening) = mpsc::channel();
        // Ends with the server. Its lines are shown with a test that fails.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("{line}");
                kept.lock().unwrap().push(line.clone());
                if line.contains("listening")
                    && let Some(address) = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next())
                {
                    _ = listens.send(address.to_owned());
                }
            }
        });
        let mut server = Self { process, address: String::new(), dir, log };
        server.address = listening.recv_timeout(START_WAIT).expect("the server says where it listens");
        server
    }

    /// What it has logged, once there is such a line.
    pub fn log_until(&self, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        let began = Instant::now();
        loop {
            let log = self.log.lock().unwrap().clone();
            if let Some(at) = log.iter().position(|line| is_last(line)) {
                return log[..=at].to_vec();
            }
            assert!(began.elapsed() < START_WAIT, "the log is {log:#?}");
            thread::sleep(POLL_EVERY);
        }
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

    /// Runs one command of the README against it, and gives back what it prints, standard error included.
    ///
    /// It may fail where it says so, as a payment does that is declined.
    pub fn run(&self, command: &str) -> String {
        let programs = Path::new(env!("CARGO_BIN_EXE_steelyard")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let output = bare("sh")
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("STEELYARD_URL", format!("http://{}", self.address))
            .env("STEELYARD_DATA_DIR", self.dir.path().join("data"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let is_error = printed.lines().any(|line| line.starts_with("error: "));
        assert_eq!(output.status.success(), !is_error, "{command}\n{}\n{printed}", output.status);
        printed
    }

    /// What `psql` prints for a query in a role.
    pub fn psql(&self, role: &str, query: &str) -> String {
        let output = steelyard()
            .args(["psql", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--", "--no-psqlrc", "--quiet", "--command", &format!("SET ROLE {role}"), "--command", query])
            .output()
            .unwrap();
        assert!(output.status.success(), "{query}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
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
pub fn steelyard() -> Command {
    bare(env!("CARGO_BIN_EXE_steelyard"))
}

fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"STEELYARD_") {
            command.env_remove(name);
        }
    }
    command.env_remove("DATABASE_URL").env_remove("RUST_LOG").env_remove("COLUMNS").env("NO_COLOR", "1");
    command
}
