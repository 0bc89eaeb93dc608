//! `steelyard cluster`: who does what.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::client::{ApiArgs, Client};
use super::output::{self, Column, Output, printable};

const AFTER_HELP: &str = "\
A worker that lives beats every second; one that is not heard of for 5 s counts as gone.
Lag is how many events a shard's projection is behind the log.";

/// Show the workers, the ledgers and shards that each holds, and how far the projections are.
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
}

#[derive(Debug, Deserialize)]
struct Worker {
    worker_id: String,
    address: String,
    version: String,
    capacity: u32,
    heartbeat_age_ms: u64,
    draining: bool,
    shards: Vec<String>,
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
    worker_id: Option<String>,
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
    let mut workers = output::table(&[
        Column::Text("Worker"),
        Column::Text("Address"),
        Column::Text("Version"),
        Column::Number("Capacity"),
        Column::Number("Heartbeat"),
        Column::Text("State"),
        Column::Text("Ledgers"),
        Column::Text("Shards"),
    ]);
    for worker in &cluster.workers {
        let sequences = cluster.ledgers.iter().filter(|ledger| ledger.worker_id.as_ref() == Some(&worker.worker_id));
        let sequences: Vec<String> = sequences.map(|ledger| printable(&ledger.ledger)).collect();
        let state = if worker.heartbeat_age_ms > 5_000 {
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
            sequences.join(" "),
            worker.shards.join(" "),
        ]);
    }
    output.print_table(&workers)?;
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
    output.print_table(&ledgers)?;
    let unowned = cluster.shards.iter().filter(|shard| shard.worker_id.is_none()).count();
    if unowned > 0 {
        output.note(&format!("{unowned} shards are held by nobody at the moment"));
    }
    Ok(ExitCode::SUCCESS)
}
