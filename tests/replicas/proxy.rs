//! HAProxy with the configuration in `deploy/`, in front of local replicas.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::free_port;
use crate::support::eventually;

pub struct HaProxy {
    _process: Child,
    port: u16,
    operations: u16,
    _dir: TempDir,
}

impl HaProxy {
    /// Starts it before replicas at these ports of 127.0.0.1.
    pub async fn start(ports: &[u16]) -> Self {
        let (port, operations) = (free_port(), free_port());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, configuration(port, operations, ports)).unwrap();
        let process = Command::new("haproxy")
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("haproxy is needed for this test: apt-get install haproxy");
        let proxy = Self { _process: process, port, operations, _dir: dir };
        eventually("HAProxy listens", async || reqwest::get(format!("{}/livez", proxy.operations())).await.is_ok())
            .await;
        proxy
    }

    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn operations(&self) -> String {
        format!("http://127.0.0.1:{}", self.operations)
    }

    /// Waits until so many replicas are up in its eyes.
    pub async fn sees(&self, replicas: usize) {
        let url = format!("{}/;csv", self.operations());
        eventually("HAProxy sees the replicas", async || {
            let Ok(answer) = reqwest::get(&url).await else { return false };
            let Ok(csv) = answer.text().await else { return false };
            let up = csv.lines().filter(|line| line.starts_with("steelyard,replica-") && line.contains(",UP,"));
            up.count() == replicas
        })
        .await;
    }
}

/// What we ship, with local addresses in place of a container network's names.
fn configuration(port: u16, operations: u16, ports: &[u16]) -> String {
    let shipped = include_str!("../../deploy/haproxy.cfg");
    let mut text = String::new();
    let mut in_resolvers = false;
    for line in shipped.lines() {
        if !line.starts_with(' ') && !line.is_empty() {
            in_resolvers = line.starts_with("resolvers");
        }
        let trimmed = line.trim_start();
        if in_resolvers || trimmed.starts_with("server ") || trimmed.starts_with("default-server resolvers") {
            continue;
        }
        let line = line
            .replace("bind :8080", &format!("bind 127.0.0.1:{port}"))
            .replace("bind :8404", &format!("bind 127.0.0.1:{operations}"))
            // Standard output is the tests'.
            .replace("log stdout format raw daemon info", "log 127.0.0.1:9 local0");
        text.push_str(&line);
        text.push('\n');
        if trimmed.starts_with("default-server check") {
            for (index, port) in ports.iter().enumerate() {
                text.push_str(&format!("    server replica-{index} 127.0.0.1:{port}\n"));
                text.push_str(&format!("    server any-{index} 127.0.0.1:{port} backup no-check\n"));
            }
        }
    }
    text
}
