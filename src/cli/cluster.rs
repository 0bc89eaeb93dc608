//! `steelyard cluster`: who does what.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use clap::Args;
use comfy_table::Table;
use serde::Deserialize;

use super::client::{ApiArgs, Client};
use super::output::{self, Column, Output, printable};

const AFTER_HELP: &str = "\
A worker that lives beats every second; one whose session has ended, or that is not heard of for
5 s, is gone. DENIED is how much it should hold and could not get: for seconds in a move; longer
means that another session holds the locks. FENCED is how many of its writes were refused because
another worker had taken over. Lag is how many events a shard's projection is behind the log.";

/// Show the workers, the ledgers and shards that each holds, what moves, what nobody holds, and how far the
/// projections are.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ClusterArgs {
    #[command(flatten)]
    api: ApiArgs,
}

/// `GET /v1/cluster`, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Cluster {
    workers: Vec<Worker>,
    ledgers: Vec<Ledger>,
    shards: Vec<Shard>,
    moves: Vec<Move>,
    unowned: Units,
}

#[derive(Debug, Deserialize)]
struct Move {
    from: Option<String>,
    to: String,
    #[serde(flatten)]
    units: Units,
}

#[derive(Debug, Deserialize)]
struct Units {
    ledgers: Vec<String>,
    shards: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Worker {
    worker_id: String,
    address: String,
    version: String,
    capacity: u32,
    heartbeat_age_ms: u64,
    live: bool,
    draining: bool,
    shards: Vec<String>,
    denied: Units,
    writes_fenced: u64,
}

#[derive(Debug, Deserialize)]
struct Ledger {
    ledger: String,
    head: u64,
    worker_id: Option<String>,
    epoch: i64,
}

#[derive(Debug, Deserialize)]
struct Shard {
    checkpoints: Vec<Checkpoint>,
}

#[derive(Debug, Deserialize)]
struct Checkpoint {
    ledger: String,
    lag: u64,
}

pub async fn run(args: ClusterArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let answer = Client::new(&args.api)?.cluster_state().await?;
    if output.is_json() {
        output.print_json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cluster: Cluster = serde_json::from_value(answer)?;
    output.print_table(&worker_table(&cluster))?;
    output.print_line("")?;
    output.print_table(&ledger_table(&cluster))?;
    if !cluster.moves.is_empty() {
        output.print_line("")?;
        output.print_table(&move_table(&cluster.moves))?;
    }
    if !cluster.unowned.is_empty() {
        output.print_line("")?;
        output.print_line(&format!("held by nobody: {}", cluster.unowned))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn worker_table(cluster: &Cluster) -> Table {
    let mut workers = output::table(&[
        Column::Text("Worker"),
        Column::Text("Address"),
        Column::Text("Version"),
        Column::Number("Capacity"),
        Column::Number("Heartbeat"),
        Column::Text("State"),
        Column::Text("Denied"),
        Column::Number("Fenced"),
        Column::Text("Ledgers"),
        Column::Text("Shards"),
    ]);
    for worker in &cluster.workers {
        let sequences = cluster.ledgers.iter().filter(|ledger| ledger.worker_id.as_ref() == Some(&worker.worker_id));
        let sequences: Vec<String> = sequences.map(|ledger| printable(&ledger.ledger)).collect();
        let state = if !worker.live {
            "gone"
        } else if worker.draining {
            "draining"
        } else {
            "live"
        };
        workers.add_row([
            printable(&worker.worker_id),
            printable(&worker.address),
            printable(&worker.version),
            worker.capacity.to_string(),
            format!("{} ms", worker.heartbeat_age_ms),
            state.to_owned(),
            worker.denied.to_string(),
            worker.writes_fenced.to_string(),
            sequences.join(" "),
            worker.shards.join(" "),
        ]);
    }
    workers
}

fn ledger_table(cluster: &Cluster) -> Table {
    let mut ledgers = output::table(&[
        Column::Text("Ledger"),
        Column::Number("Head"),
        Column::Number("Epoch"),
        Column::Text("Sequenced by"),
        Column::Number("Largest lag"),
    ]);
    let mut lags: BTreeMap<&str, u64> = BTreeMap::new();
    for checkpoint in cluster.shards.iter().flat_map(|shard| &shard.checkpoints) {
        let lag = lags.entry(&checkpoint.ledger).or_default();
        *lag = checkpoint.lag.max(*lag);
    }
    for ledger in &cluster.ledgers {
        ledgers.add_row([
            printable(&ledger.ledger),
            ledger.head.to_string(),
            ledger.epoch.to_string(),
            ledger.worker_id.as_deref().map_or_else(|| "nobody".to_owned(), printable),
            lags.get(ledger.ledger.as_str()).copied().unwrap_or(0).to_string(),
        ]);
    }
    ledgers
}

fn move_table(moves: &[Move]) -> Table {
    let mut table = output::table(&[Column::Text("Moves from"), Column::Text("To"), Column::Text("What")]);
    for way in moves {
        let from = way.from.as_deref().map_or_else(|| "nobody".to_owned(), printable);
        table.add_row([from, printable(&way.to), way.units.to_string()]);
    }
    table
}

impl Units {
    fn is_empty(&self) -> bool {
        self.ledgers.is_empty() && self.shards.is_empty()
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &str, items: &[String]| {
            let items: Vec<String> = items.iter().map(|item| printable(item)).collect();
            (!items.is_empty()).then(|| format!("{name} {}", items.join(" ")))
        };
        let parts = [named("ledger", &self.ledgers), named("shards", &self.shards)];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(mut table: Table) -> Vec<String> {
        table.force_no_tty();
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn what_is_wrong_is_shown() {
        let worker = |id: &str, live: bool, denied: &[&str], fenced: u64| {
            json!({
                "worker_id": id, "address": "http://x", "version": "1", "capacity": 1, "heartbeat_age_ms": 7,
                "live": live, "draining": false, "shards": ["0-31"], "writes_fenced": fenced,
                "denied": {"ledgers": [], "shards": denied},
            })
        };
        let units = |ledgers: &[&str], shards: &[&str]| json!({"ledgers": ledgers, "shards": shards});
        let mut away = units(&["main"], &["0-15"]);
        away["from"] = json!(null);
        away["to"] = json!("b");
        let cluster: Cluster = serde_json::from_value(json!({
            "workers": [worker("a", false, &[], 3), worker("b", true, &["0-15", "17"], 0)],
            "ledgers": [], "shards": [], "moves": [away], "unowned": units(&["main"], &["0-15"]),
        }))
        .unwrap();
        assert_eq!(
            lines(worker_table(&cluster)),
            [
                "Worker  Address   Version  Capacity  Heartbeat  State  Denied          Fenced  Ledgers  Shards",
                "a       http://x  1               1       7 ms  gone                        3           0-31",
                "b       http://x  1               1       7 ms  live   shards 0-15 17       0           0-31",
            ]
        );
        assert_eq!(
            lines(move_table(&cluster.moves)),
            ["Moves from  To  What", "nobody      b   ledger main, shards 0-15"]
        );
        assert_eq!(cluster.unowned.to_string(), "ledger main, shards 0-15");
    }
}
