//! Imports and exports by the command line, with processes that are killed.

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use support::{Postgres, Process, WAIT};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// Payments of the file, and every how many of them a line is refused.
const PAYMENTS: u64 = 20_000;
const REFUSED_EVERY: u64 = 1_000;
const ACCOUNTS: u64 = 50;

fn write_file(path: &Path) {
    let mut text = String::new();
    for account in 0..ACCOUNTS {
        text.push_str(&format!(
            "{{\"type\":\"account\",\"code\":\"w:{account}\",\"asset\":\"EUR\",\"min_balance\":null}}\n"
        ));
    }
    for n in 0..PAYMENTS {
        let (from, to) = (n % ACCOUNTS, (n * 7 + 1) % ACCOUNTS);
        let to = if n % REFUSED_EVERY == 0 { "nobody".to_owned() } else { format!("w:{to}") };
        text.push_str(&format!(
            "{{\"from\":\"w:{from}\",\"to\":\"{to}\",\"amount\":\"{}\",\"asset\":\"EUR\"}}\n",
            n % 97 + 1
        ));
    }
    std::fs::write(path, text).unwrap();
}

/// Payments of the file that are of an account with itself.
fn same_account() -> u64 {
    (0..PAYMENTS).filter(|n| n % REFUSED_EVERY != 0 && n % ACCOUNTS == (n * 7 + 1) % ACCOUNTS).count() as u64
}

fn refused() -> u64 {
    PAYMENTS / REFUSED_EVERY + same_account()
}

struct Import {
    child: Child,
    notes: Lines<BufReader<ChildStderr>>,
}

impl Import {
    fn start(url: &str, ledger: &str, file: &Path, report: &Path, rate: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_steelyard"))
            .args(["import", "--json", "--rate", rate, "--url", url, "--ledger", ledger, "--report"])
            .args([report, file])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let notes = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, notes }
    }

    /// Waits until it says that more than so many lines are done.
    async fn passes(&mut self, lines: u64) {
        let passed = async {
            while let Some(line) = self.notes.next_line().await.unwrap() {
                let note: Value = serde_json::from_str(&line).unwrap_or_default();
                if note["progress"]["lines"].as_u64().is_some_and(|done| done > lines) {
                    return;
                }
            }
            panic!("it ended before");
        };
        tokio::time::timeout(WAIT, passed).await.unwrap();
    }

    /// Its exit status and its summary.
    async fn ends(mut self) -> (Option<i32>, Value) {
        let mut said = String::new();
        let mut notes = String::new();
        let ended = async {
            while let Some(line) = self.notes.next_line().await.unwrap() {
                notes.push_str(&line);
                notes.push('\n');
            }
            self.child.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(WAIT * 2, ended).await.unwrap();
        (status.code(), serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said} {notes}")))
    }
}

/// Lines of a report, with the codes of their problems.
fn reasons(report: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(report).unwrap();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["line"].as_u64().unwrap(), line["problem"]["code"].as_str().unwrap().to_owned())
    };
    text.lines().map(line).collect()
}

async fn posted(url: &str, ledger: &str) -> i64 {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let count = "SELECT count(*) FROM events JOIN ledgers USING (ledger_id) \
                 WHERE name = $1 AND type = 'transaction_posted'";
    sqlx::query_scalar(count).bind(ledger).fetch_one(&mut conn).await.unwrap()
}

#[tokio::test]
async fn an_import_of_which_everything_is_killed_once_is_as_if_nothing_had_been() {
    let url = Postgres::shared().await.database().await;
    let server = Process::spawn(&url, &[]).await;
    server.serves().await;
    let (origin, dir) = (server.origin().to_owned(), tempfile::tempdir().unwrap());
    let put = reqwest::Client::new().put(format!("{origin}/v1/ledgers/calm")).body("{}");
    let put = put.header("content-type", "application/json").send().await.unwrap();
    assert_eq!(put.status(), 201);
    let (file, report, calm) =
        (dir.path().join("f.ndjson"), dir.path().join("refused.ndjson"), dir.path().join("calm.ndjson"));
    write_file(&file);

    let (status, _) = Import::start(&origin, "calm", &file, &calm, "1000000").ends().await;
    assert_eq!(status, Some(3));

    let mut first = Import::start(&origin, "main", &file, &report, "4000");
    first.passes(1_000).await;
    first.child.kill().await.unwrap();
    let mut second = Import::start(&origin, "main", &file, &report, "4000");
    second.passes(6_000).await;
    server.kill().await;
    let server = Process::spawn_at(&url, origin.strip_prefix("http://").unwrap(), &[]).await;
    let (status, summary) = second.ends().await;
    assert_eq!(status, Some(3), "{summary}");
    assert!(summary["resumed_after_line"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!(summary["lines"], ACCOUNTS + PAYMENTS);
    assert_eq!(summary["refused"], refused());

    let expected = (PAYMENTS - refused()) as i64;
    assert_eq!((posted(&url, "main").await, posted(&url, "calm").await), (expected, expected));
    assert_eq!(reasons(&report).len() as u64, refused());
    assert_eq!(reasons(&report), reasons(&calm));
    let states = std::fs::read_dir(dir.path()).unwrap().count() - 3;
    assert_eq!(states, 2, "lines were refused: a run with what was corrected knows its id");

    // Without a state it is exactly once all the same, by its keys.
    let (status, summary) = Import::start(&origin, "main", &file, &report, "1000000").ends().await;
    assert_eq!((status, &summary["recorded"]), (Some(3), &Value::from(0)));
    assert_eq!(posted(&url, "main").await, expected);
    assert_eq!(reasons(&report), reasons(&calm));
    assert!(server.terminate().await.success());
    let verified =
        Command::new(env!("CARGO_BIN_EXE_steelyard")).args(["verify", "--database-url", &url]).output().await.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

/// Replaces one line of a file in place; lines are numbered from 1.
fn edit(file: &Path, number: usize, replace: impl Fn(&str) -> String) {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().enumerate().map(|(index, line)| match index + 1 == number {
        true => replace(line) + "\n",
        false => line.to_owned() + "\n",
    });
    std::fs::write(file, lines.collect::<String>()).unwrap();
}

#[tokio::test]
async fn an_import_of_a_file_that_was_edited_after_a_crash_records_nothing_twice() {
    let url = Postgres::shared().await.database().await;
    let server = Process::spawn(&url, &[]).await;
    server.serves().await;
    let (origin, dir) = (server.origin().to_owned(), tempfile::tempdir().unwrap());
    let (file, report) = (dir.path().join("f.ndjson"), dir.path().join("refused.ndjson"));
    write_file(&file);
    let mut first = Import::start(&origin, "main", &file, &report, "4000");
    first.passes(4_000).await;
    first.child.kill().await.unwrap();

    // Longer than it was, behind the 64 KiB that the id is made of and before what is acknowledged.
    let edited = 2_003;
    edit(&file, edited, |line| line.replace(r#""amount":""#, r#""amount":"1000"#));
    let (status, summary) = Import::start(&origin, "main", &file, &report, "1000000").ends().await;
    assert_eq!((status, &summary["resumed_after_line"]), (Some(3), &Value::from(0)), "{summary}");
    assert_eq!((&summary["lines"], &summary["refused"]), (&(ACCOUNTS + PAYMENTS).into(), &(refused() + 1).into()));
    assert_eq!(posted(&url, "main").await, (PAYMENTS - refused()) as i64);
    let reused: Vec<_> = reasons(&report).into_iter().filter(|(_, code)| code == "idempotency_key_reused").collect();
    assert_eq!(reused, [(edited as u64, "idempotency_key_reused".to_owned())]);
}

#[tokio::test]
async fn a_file_that_is_edited_while_it_is_imported_is_not_sent_on() {
    let url = Postgres::shared().await.database().await;
    let server = Process::spawn(&url, &[]).await;
    server.serves().await;
    let (origin, dir) = (server.origin().to_owned(), tempfile::tempdir().unwrap());
    let (file, report) = (dir.path().join("f.ndjson"), dir.path().join("refused.ndjson"));
    write_file(&file);
    let mut import = Import::start(&origin, "main", &file, &report, "4000");
    import.passes(4_000).await;
    server.kill().await;
    edit(&file, 2_003, |line| line.replace(r#""amount":""#, r#""amount":"1000"#));
    let _server = Process::spawn_at(&url, origin.strip_prefix("http://").unwrap(), &[]).await;
    assert_eq!(import.ends().await.0, Some(1));
    let (status, summary) = Import::start(&origin, "main", &file, &report, "1000000").ends().await;
    assert_eq!((status, &summary["resumed_after_line"]), (Some(3), &Value::from(0)), "{summary}");
    assert_eq!((&summary["lines"], &summary["refused"]), (&(ACCOUNTS + PAYMENTS).into(), &(refused() + 1).into()));
    assert_eq!(posted(&url, "main").await, (PAYMENTS - refused()) as i64);
}

#[tokio::test]
async fn a_file_that_is_corrected_at_its_beginning_keeps_its_id_or_is_not_sent() {
    let url = Postgres::shared().await.database().await;
    let server = Process::spawn(&url, &[]).await;
    server.serves().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.csv");
    let text = "type,code,min_balance,from,to,amount,asset\naccount,e,none,,,,EUR\naccount,a,,,,,EUR\naccount,b,,,,,EUR\n\
                ,,,e,a,10,EUR\n,,,a,nobody,1,EUR\n,,,a,b,2,EUR\n";
    std::fs::write(&file, text).unwrap();
    let import = async |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steelyard"));
        command.args(["import", "--json", "--url", server.origin()]).args(more).arg(&file);
        let output = command.output().await.unwrap();
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), summary, String::from_utf8(output.stderr).unwrap())
    };
    let (status, summary, _) = import(&[]).await;
    assert_eq!((status, &summary["refused"]), (Some(3), &Value::from(1)), "{summary}");
    let before = posted(&url, "main").await;
    assert_eq!(before, 2);

    edit(&file, 6, |_| ",,,a,b,1,EUR".to_owned());
    let (status, _, notes) = import(&[]).await;
    let id = summary["id"].as_str().unwrap();
    assert!(status == Some(1) && notes.contains(&format!("--id {id}")), "{status:?} {notes}");
    assert_eq!(posted(&url, "main").await, before);

    let (status, summary, _) = import(&["--id", id]).await;
    assert_eq!((status, &summary["recorded"], &summary["replayed"]), (Some(0), &1.into(), &5.into()), "{summary}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no state is left when all is recorded");
}

/// The address of the worker that sequences `main`.
async fn sequencer(origin: &str) -> String {
    let cluster: Value = reqwest::get(format!("{origin}/v1/cluster")).await.unwrap().json().await.unwrap();
    let holder = &cluster["ledgers"][0]["worker_id"];
    let workers = cluster["workers"].as_array().unwrap();
    let worker = workers.iter().find(|worker| worker["worker_id"] == *holder).unwrap();
    worker["address"].as_str().unwrap().to_owned()
}

/// Its lines are forwarded to the worker that sequences. The command dies, then its
/// replica, then the one that sequences, and at last the replica goes on alone.
#[tokio::test]
async fn an_import_through_a_replica_that_does_not_sequence_survives_every_death() {
    let url = Postgres::shared().await.database().await;
    let first = Process::spawn(&url, &[]).await;
    first.serves().await;
    let replica = Process::spawn(&url, &[]).await;
    replica.serves().await;
    let (origin, dir) = (replica.origin().to_owned(), tempfile::tempdir().unwrap());
    assert_eq!(sequencer(&origin).await, first.origin());
    let (file, report) = (dir.path().join("f.ndjson"), dir.path().join("refused.ndjson"));
    write_file(&file);

    let mut import = Import::start(&origin, "main", &file, &report, "4000");
    import.passes(1_000).await;
    import.child.kill().await.unwrap();
    let mut import = Import::start(&origin, "main", &file, &report, "4000");
    import.passes(5_000).await;
    replica.kill().await;
    let replica = Process::spawn_at(&url, origin.strip_prefix("http://").unwrap(), &[]).await;
    import.passes(10_000).await;
    assert_eq!(sequencer(&origin).await, first.origin());
    first.kill().await;
    let (status, summary) = import.ends().await;
    assert_eq!(status, Some(3), "{summary}");
    assert!(summary["resumed_after_line"].as_u64().unwrap() > 0, "{summary}");
    assert_eq!((&summary["lines"], &summary["refused"]), (&(ACCOUNTS + PAYMENTS).into(), &refused().into()));
    assert_eq!(sequencer(&origin).await, origin);
    assert_eq!(posted(&url, "main").await, (PAYMENTS - refused()) as i64);
    let reasons = reasons(&report);
    let lines: std::collections::BTreeSet<u64> = reasons.iter().map(|(line, _)| *line).collect();
    assert_eq!((reasons.len() as u64, lines.len() as u64), (refused(), refused()));
    assert!(replica.terminate().await.success());
    let verified =
        Command::new(env!("CARGO_BIN_EXE_steelyard")).args(["verify", "--database-url", &url]).output().await.unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test]
async fn an_import_that_cannot_finish_says_so_and_one_that_is_refused_fails() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.csv");
    std::fs::write(&file, "from,to,amount,asset\na,b,1,EUR\n").unwrap();
    let import = async |url: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steelyard"));
        command.args(["import", "--url", url, "--give-up-after", "1"]).args(more).arg(&file);
        command.output().await.unwrap().status.code()
    };
    assert_eq!(import("http://127.0.0.1:9", &[]).await, Some(75));
    let url = Postgres::shared().await.database().await;
    let server = Process::spawn(&url, &[]).await;
    server.serves().await;
    assert_eq!(import(server.origin(), &["--ledger", "nowhere"]).await, Some(1));
    assert_eq!(import(server.origin(), &[]).await, Some(3), "no account a");
    assert_eq!(import(server.origin(), &["--format", "ndjson"]).await, Some(3));
}

#[tokio::test]
async fn an_export_that_breaks_off_leaves_no_file_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.csv");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let half = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        _ = stream.read(&mut [0; 4096]).await;
        let half = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nposit\r\n";
        stream.write_all(half.as_bytes()).await.unwrap();
    });
    let export = async |url: &str, file: &Path, what: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steelyard"));
        command.args(["export", what, "--url", url, "--output"]).arg(file);
        command.output().await.unwrap().status.code()
    };
    assert_eq!(export(&url, &file, "journal").await, Some(75));
    half.await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    let url = Postgres::shared().await.database().await;
    let server = Process::spawn(&url, &[]).await;
    server.serves().await;
    assert_eq!(export(server.origin(), &file, "journal").await, Some(0));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("position,"));
    let file = dir.path().join("balance.parquet");
    assert_eq!(export(server.origin(), &file, "trial-balance").await, Some(0));
    assert!(std::fs::read(&file).unwrap().ends_with(b"PAR1"));
}
