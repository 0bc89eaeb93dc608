//! What operators and load balancers ask.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics::gauge;
use serde::Serialize;
use uuid::Uuid;

use super::super::params::InPath;
use super::super::problem::{Code, Problem};
use super::super::wire::Timestamp;
use super::super::{SharedApp, answer};
use crate::cluster::Status;
use crate::ledger::Position;
use crate::store::claims::{self, Unit};
use crate::store::{self, Epoch, LedgerId, Shard};
use crate::telemetry::metric;

#[derive(Serialize)]
struct State_ {
    status: &'static str,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    /// Nobody is asked for an API key, because the server was told so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure: bool,
}

/// `GET /livez`
pub async fn livez() -> Response {
    answer(StatusCode::OK, &State_ { status: "alive" }, None, false)
}

/// `GET /readyz`
pub async fn readyz(State(app): State<SharedApp>) -> Result<Response, Problem> {
    match app.worker.status() {
        Status::Serving => {
            let readiness = Readiness { status: "ready", insecure: app.access.is_insecure() };
            Ok(answer(StatusCode::OK, &readiness, None, false))
        }
        other => Err(Problem::new(Code::Unavailable, other.to_string())),
    }
}

/// `GET /metrics`
pub async fn metrics(State(app): State<SharedApp>) -> Response {
    // A database that is not there is waited for once, not once per ledger.
    let mut reachable = true;
    for ledger in app.worker.ledgers.all() {
        let name = ledger.name.to_string();
        gauge!(metric::QUEUE_DEPTH, "ledger" => name.clone()).set(ledger.handle.depth() as f64);
        let head = ledger.tail.head();
        if *ledger.serving.borrow() {
            gauge!(metric::LOG_HEAD, "ledger" => name.clone()).set(head as f64);
        } else if reachable {
            // Another worker appends: ask the table.
            match store::events::head(app.worker.database.pool(), ledger.ledger_id).await {
                Ok(head) => {
                    let head = head.map_or(0, |(position, _)| position);
                    gauge!(metric::LOG_HEAD, "ledger" => name.clone()).set(head as f64);
                }
                Err(_) => reachable = false,
            }
        }
        for shard in 0..app.worker.ledgers.shard_count() {
            let lag = head.saturating_sub(ledger.checkpoints.get(shard));
            gauge!(metric::PROJECTION_LAG, "ledger" => name.clone(), "shard" => shard.to_string()).set(lag as f64);
        }
    }
    if reachable && let Ok(faults) = store::projections::fault_count(app.worker.database.pool()).await {
        gauge!(metric::PROJECTION_FAULTS).set(faults as f64);
    }
    let Some(metrics) = &app.metrics else {
        return Problem::new(Code::NotFound, "metrics are not collected").into_response();
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

#[derive(Serialize)]
struct Cluster {
    workers: Vec<WorkerOutput>,
    ledgers: Vec<LedgerOutput>,
    shards: Vec<ShardOutput>,
}

#[derive(Serialize)]
struct WorkerOutput {
    worker_id: Uuid,
    address: String,
    version: String,
    /// Its weight against the others.
    capacity: i32,
    roles: Vec<&'static str>,
    started_at: Timestamp,
    heartbeat_age_ms: u64,
    draining: bool,
    /// What it projects, as ranges: `0-63`, `7`.
    shards: Vec<String>,
}

#[derive(Serialize)]
struct LedgerOutput {
    ledger: String,
    head: Position,
    worker_id: Option<Uuid>,
    epoch: Epoch,
    claimed_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct ShardOutput {
    shard: Shard,
    worker_id: Option<Uuid>,
    epoch: Epoch,
    claimed_at: Option<Timestamp>,
    checkpoints: Vec<CheckpointOutput>,
}

#[derive(Clone, Serialize)]
struct CheckpointOutput {
    ledger: String,
    position: Position,
    /// Events behind the log.
    lag: u64,
    /// Age of the oldest event that is not projected; null where another worker knows it.
    lag_ms: Option<u64>,
}

/// `GET /v1/cluster`
pub async fn cluster(State(app): State<SharedApp>) -> Result<Response, Problem> {
    let pool = app.worker.database.pool();
    let claims = claims::list(pool).await?;
    let workers = claims::workers(pool).await?;
    let mut heads: BTreeMap<LedgerId, (String, Position)> = BTreeMap::new();
    let mut checkpoints: BTreeMap<Shard, Vec<CheckpointOutput>> = BTreeMap::new();
    for ledger in app.worker.ledgers.all() {
        // Checkpoints first: a head that is read later is never behind them.
        let reached = store::projections::checkpoints(pool, ledger.ledger_id).await?;
        let head = store::events::head(pool, ledger.ledger_id).await?.map_or(0, |(position, _)| position);
        let serves = *ledger.serving.borrow();
        let oldest = *ledger.oldest.borrow();
        let age_ms = |lag: u64| match oldest {
            _ if !serves => None,
            Some(oldest) if lag > 0 => Some(app.worker.age_ms(oldest)),
            _ => Some(0),
        };
        for (shard, position) in reached {
            let lag = head.saturating_sub(position);
            let output = CheckpointOutput { ledger: ledger.name.to_string(), position, lag, lag_ms: age_ms(lag) };
            checkpoints.entry(shard).or_default().push(output);
        }
        heads.insert(ledger.ledger_id, (ledger.name.to_string(), head));
    }
    let mut output = Cluster { workers: Vec::new(), ledgers: Vec::new(), shards: Vec::new() };
    let mut held: BTreeMap<Uuid, BTreeSet<Shard>> = BTreeMap::new();
    for claim in claims {
        let (worker_id, epoch, claimed_at) = (claim.worker_id, claim.epoch, claim.claimed_at.map(Timestamp));
        match claim.unit {
            Unit::Sequencer(ledger_id) => {
                let Some((ledger, head)) = heads.remove(&ledger_id) else { continue };
                output.ledgers.push(LedgerOutput { ledger, head, worker_id, epoch, claimed_at });
            }
            Unit::Projector(shard) => {
                if let Some(worker_id) = worker_id {
                    held.entry(worker_id).or_default().insert(shard);
                }
                let checkpoints = checkpoints.remove(&shard).unwrap_or_default();
                output.shards.push(ShardOutput { shard, worker_id, epoch, claimed_at, checkpoints });
            }
        }
    }
    output.workers = workers
        .into_iter()
        .map(|worker| WorkerOutput {
            worker_id: worker.worker_id,
            address: worker.advertised_address,
            version: worker.version,
            capacity: worker.capacity,
            roles: roles(worker.sequencer, worker.projector),
            started_at: Timestamp(worker.started_at),
            heartbeat_age_ms: (worker.heartbeat_age_s.max(0.0) * 1_000.0) as u64,
            draining: worker.draining,
            shards: held.get(&worker.worker_id).map(ranges).unwrap_or_default(),
        })
        .collect();
    Ok(answer(StatusCode::OK, &output, None, false))
}

/// What a worker takes part in.
fn roles(sequencer: bool, projector: bool) -> Vec<&'static str> {
    let all = [("api", true), ("sequencer", sequencer), ("projector", projector)];
    all.into_iter().filter(|(_, has)| *has).map(|(role, _)| role).collect()
}

/// Neighbours together: `0-15`, `17`, `20-63`.
fn ranges(shards: &BTreeSet<Shard>) -> Vec<String> {
    let mut ranges: Vec<(Shard, Shard)> = Vec::new();
    for shard in shards {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *shard => *last = *shard,
            _ => ranges.push((*shard, *shard)),
        }
    }
    let text =
        |(first, last): (Shard, Shard)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect()
}

/// `GET /problems/{code}`
pub async fn problem(InPath(name): InPath<String>) -> Result<Response, Problem> {
    let code = Code::ALL.iter().find(|code| code.as_str() == name);
    let code = code.ok_or_else(|| Problem::new(Code::NotFound, "there is no such problem"))?;
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title>\
         <body style=\"font-family:sans-serif;max-width:40em;margin:3em auto;line-height:1.5\">\
         <h1>{title}</h1><p><code>{name}</code>, status {status}</p><p>{remedy}</p></body></html>",
        name = code.as_str(),
        title = code.title(),
        status = code.status().as_u16(),
        remedy = code.remedy(),
    );
    Ok(([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_told_as_ranges() {
        for (shards, expected) in [
            (vec![], vec![]),
            (vec![5], vec!["5"]),
            ((0..64).collect(), vec!["0-63"]),
            (vec![0, 1, 3, 7, 8, 9, 63], vec!["0-1", "3", "7-9", "63"]),
        ] {
            assert_eq!(ranges(&shards.into_iter().collect()), expected);
        }
    }
}
