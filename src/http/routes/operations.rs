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
use crate::cluster::assignment::assign;
use crate::cluster::{Status, overview};
use crate::ledger::Position;
use crate::store::claims::{self, Unit, WorkerRow};
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
    /// What is on its way to another worker.
    moves: Vec<MoveOutput>,
    /// What no worker that lives holds.
    unowned: UnitsOutput,
}

#[derive(Serialize)]
struct MoveOutput {
    from: Option<Uuid>,
    to: Uuid,
    #[serde(flatten)]
    units: UnitsOutput,
}

/// Units of work: ledgers to sequence, and shards to project, as ranges.
#[derive(Serialize)]
struct UnitsOutput {
    ledgers: Vec<String>,
    shards: Vec<String>,
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
    /// Whether the other workers count on it.
    live: bool,
    draining: bool,
    /// What it projects, as ranges: `0-63`, `7`.
    shards: Vec<String>,
    /// What it should hold and could not get, at its last heartbeat.
    denied: UnitsOutput,
    /// Its writes that a newer epoch refused, since it started.
    writes_fenced: i64,
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
    let (workers, claims) = claims::overview(pool).await?;
    let live: Vec<_> = workers.iter().filter(|worker| worker.lives()).map(WorkerRow::to_live).collect();
    let units: Vec<Unit> = claims.iter().map(|claim| claim.unit).collect();
    let holders = overview::holders(&claims, &live);
    let assigned = assign(&overview::members(&live), &holders, &units);
    let names: BTreeMap<LedgerId, String> =
        app.worker.ledgers.all().iter().map(|ledger| (ledger.ledger_id, ledger.name.to_string())).collect();
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
    let moves = overview::moves(&units, &holders, &assigned).into_iter();
    let mut output = Cluster {
        workers: Vec::new(),
        ledgers: Vec::new(),
        shards: Vec::new(),
        moves: moves.map(|way| MoveOutput { from: way.from, to: way.to, units: told(&way.units, &names) }).collect(),
        unowned: told(&overview::unowned(&units, &holders), &names),
    };
    let mut held: BTreeMap<Uuid, BTreeSet<Unit>> = BTreeMap::new();
    for claim in claims {
        let (worker_id, epoch, claimed_at) = (claim.worker_id, claim.epoch, claim.claimed_at.map(Timestamp));
        match claim.unit {
            Unit::Sequencer(ledger_id) => {
                let Some((ledger, head)) = heads.remove(&ledger_id) else { continue };
                output.ledgers.push(LedgerOutput { ledger, head, worker_id, epoch, claimed_at });
            }
            Unit::Projector(shard) => {
                if let Some(worker_id) = worker_id {
                    held.entry(worker_id).or_default().insert(claim.unit);
                }
                let checkpoints = checkpoints.remove(&shard).unwrap_or_default();
                output.shards.push(ShardOutput { shard, worker_id, epoch, claimed_at, checkpoints });
            }
        }
    }
    output.workers = workers
        .into_iter()
        .map(|worker| WorkerOutput {
            live: worker.lives(),
            denied: told(&denied(&worker), &names),
            writes_fenced: worker.writes_fenced,
            worker_id: worker.worker_id,
            address: worker.advertised_address,
            version: worker.version,
            capacity: worker.capacity,
            roles: roles(worker.sequencer, worker.projector),
            started_at: Timestamp(worker.started_at),
            heartbeat_age_ms: (worker.heartbeat_age_s.max(0.0) * 1_000.0) as u64,
            draining: worker.draining,
            shards: held.get(&worker.worker_id).map(overview::ranges).unwrap_or_default(),
        })
        .collect();
    Ok(answer(StatusCode::OK, &output, None, false))
}

/// What a worker takes part in.
fn roles(sequencer: bool, projector: bool) -> Vec<&'static str> {
    let all = [("api", true), ("sequencer", sequencer), ("projector", projector)];
    all.into_iter().filter(|(_, has)| *has).map(|(role, _)| role).collect()
}

/// What a worker should hold and could not get.
fn denied(worker: &WorkerRow) -> BTreeSet<Unit> {
    let ledgers = worker.ledgers_denied.iter().copied().map(Unit::Sequencer);
    ledgers.chain(worker.shards_denied.iter().copied().map(Unit::Projector)).collect()
}

/// Units by the names that clients know.
fn told(units: &BTreeSet<Unit>, names: &BTreeMap<LedgerId, String>) -> UnitsOutput {
    // One that was made this moment has no name here yet.
    let ledgers = overview::ledgers(units).filter_map(|ledger_id| names.get(&ledger_id).cloned());
    UnitsOutput { ledgers: ledgers.collect(), shards: overview::ranges(units) }
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
