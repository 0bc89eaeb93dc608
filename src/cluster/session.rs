//! The worker's session: one connection of its own that holds its advisory
//! locks, says once a second that the worker lives, and is pinged by that.
//!
//! While the connection stands, the locks are ours; when it does not, nothing
//! is: every claim is lost at once and won back from the beginning. That the
//! locks are held is never remembered past a failed heartbeat, and nothing
//! relies on it: appends and flushes carry their epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use sqlx::{Connection, PgConnection};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ClaimState, Ledgers, Status};
use crate::projector::service::ShardClaims;
use crate::sequencer::Claim;
use crate::store::claims::{self, Unit};
use crate::store::{self, Database, Epoch, Error};
use crate::telemetry::metric;

/// Between heartbeats, by which others know that we live, and we that our session does.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between tries at units that another worker holds: bounds a takeover.
const CLAIM_TICK: Duration = Duration::from_millis(200);
/// A statement that takes longer on this connection means that it is dead.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// Between tries at a database that is not there.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

pub struct Session {
    pub database: Database,
    pub address: String,
    pub ledgers: Arc<Ledgers>,
    pub shard_claims: watch::Sender<ShardClaims>,
    pub status: watch::Sender<Status>,
    pub renewals: mpsc::Receiver<Unit>,
    pub stop: CancellationToken,
}

/// What one connection holds.
struct Held {
    conn: PgConnection,
    worker_id: Uuid,
    epochs: BTreeMap<Unit, Epoch>,
    heartbeat_at: Instant,
}

enum Ended {
    Stopped,
    Lost(Error),
    /// Another worker raised the epoch of a unit of ours.
    Deposed(Unit),
}

impl Session {
    /// Runs until `stop`.
    pub async fn run(mut self) {
        loop {
            match self.connect().await {
                Ok(mut held) => {
                    let ended = self.hold(&mut held).await;
                    self.lose_all(&held, &ended);
                    match ended {
                        Ended::Stopped => return self.leave(held).await,
                        Ended::Lost(error) => {
                            tracing::warn!(%error, "the claims connection is lost; all claims with it");
                        }
                        Ended::Deposed(unit) => tracing::warn!(?unit, "another worker took over; rejoining"),
                    }
                    // Dropping the connection ends the session, and with it the locks.
                    drop(held.conn);
                }
                Err(error) => {
                    tracing::warn!(%error, "the database cannot be reached; trying again");
                    // What is wrong with it is in the log, and not for whoever asks.
                    self.status.send_replace(Status::Starting("no database".to_owned()));
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
            }
        }
    }

    async fn connect(&self) -> Result<Held, Error> {
        let mut conn = self.database.connect_owner().await?;
        // New at every join, so that nobody mistakes it for its former self.
        let worker_id = new_worker_id();
        claims::register(&mut conn, worker_id, &self.address, env!("CARGO_PKG_VERSION")).await?;
        tracing::info!(%worker_id, "joined");
        Ok(Held { conn, worker_id, epochs: BTreeMap::new(), heartbeat_at: Instant::now() })
    }

    async fn hold(&mut self, held: &mut Held) -> Ended {
        loop {
            match tokio::time::timeout(STATEMENT_TIMEOUT * 2, self.tick(held)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Ended::Lost(error),
                Err(_) => return Ended::Lost(store::error::timed_out("the claims connection does not answer")),
            }
            self.report(held);
            tokio::select! {
                () = self.stop.cancelled() => return Ended::Stopped,
                Some(unit) = self.renewals.recv() => match self.renew(held, unit).await {
                    Ok(true) => {}
                    Ok(false) => return Ended::Deposed(unit),
                    Err(error) => return Ended::Lost(error),
                },
                () = tokio::time::sleep(CLAIM_TICK) => {}
            }
        }
    }

    /// Beats, and claims what is free.
    async fn tick(&self, held: &mut Held) -> Result<(), Error> {
        if held.heartbeat_at.elapsed() >= HEARTBEAT {
            claims::heartbeat(&mut held.conn, held.worker_id).await?;
            held.heartbeat_at = Instant::now();
        }
        for row in store::ledgers::list(&mut held.conn).await? {
            self.ledgers.ensure(&row);
        }
        let missing: Vec<Unit> = self.units().into_iter().filter(|unit| !held.epochs.contains_key(unit)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut free = claims::try_lock(&mut held.conn, &missing).await?;
        if free.len() < missing.len() {
            free.extend(self.evict_stale(held, &missing, &free).await?);
        }
        let raised = claims::raise(&mut held.conn, held.worker_id, &free).await?;
        for (unit, epoch) in raised {
            held.epochs.insert(unit, epoch);
            self.publish(unit, epoch);
        }
        self.publish_shards(held);
        Ok(())
    }

    /// Takes from workers that are gone but whose sessions are not: the epoch
    /// first, so that they can write no more, then the session with its lock.
    async fn evict_stale(&self, held: &mut Held, missing: &[Unit], free: &[Unit]) -> Result<Vec<Unit>, Error> {
        let stale = claims::stale(&mut held.conn).await?;
        let stale: Vec<_> =
            stale.into_iter().filter(|stale| missing.contains(&stale.unit) && !free.contains(&stale.unit)).collect();
        if stale.is_empty() {
            return Ok(Vec::new());
        }
        let units: Vec<Unit> = stale.iter().map(|stale| stale.unit).collect();
        claims::raise(&mut held.conn, held.worker_id, &units).await?;
        let sessions: BTreeSet<_> = stale.iter().map(|stale| (stale.backend_pid, stale.backend_start)).collect();
        for (pid, start) in sessions {
            tracing::warn!(pid, "ending the session of a worker that is not heard of any more");
            claims::terminate(&mut held.conn, pid, start).await?;
        }
        claims::try_lock(&mut held.conn, &units).await
    }

    /// A new epoch for a unit of ours; `false` when it is ours no more.
    async fn renew(&self, held: &mut Held, unit: Unit) -> Result<bool, Error> {
        if !held.epochs.contains_key(&unit) {
            return Ok(true);
        }
        let renewed = claims::renew(&mut held.conn, held.worker_id, unit);
        let renewed = tokio::time::timeout(STATEMENT_TIMEOUT, renewed)
            .await
            .unwrap_or_else(|_| Err(store::error::timed_out("the claims connection does not answer")))?;
        let Some(epoch) = renewed else { return Ok(false) };
        held.epochs.insert(unit, epoch);
        self.publish(unit, epoch);
        self.publish_shards(held);
        Ok(true)
    }

    /// Everything there is to do. Here an assignment among workers will choose.
    fn units(&self) -> Vec<Unit> {
        let ledgers = self.ledgers.all().into_iter().map(|ledger| Unit::Sequencer(ledger.ledger_id));
        ledgers.chain((0..self.ledgers.shard_count()).map(Unit::Projector)).collect()
    }

    fn publish(&self, unit: Unit, epoch: Epoch) {
        let Unit::Sequencer(ledger_id) = unit else { return };
        for ledger in self.ledgers.all().into_iter().filter(|ledger| ledger.ledger_id == ledger_id) {
            let claim = Claim { epoch, lost: CancellationToken::new() };
            replace(&ledger.claim, ClaimState::Held(claim));
        }
    }

    fn publish_shards(&self, held: &Held) {
        let shards: BTreeMap<_, _> = held
            .epochs
            .iter()
            .filter_map(|(unit, epoch)| match unit {
                Unit::Projector(shard) => Some((*shard, *epoch)),
                Unit::Sequencer(_) => None,
            })
            .collect();
        if **self.shard_claims.borrow() != shards {
            self.shard_claims.send_replace(Arc::new(shards));
        }
    }

    fn report(&self, held: &Held) {
        gauge!(metric::CLAIMS_HELD).set(held.epochs.len() as f64);
        let ledgers = self.ledgers.all();
        let mut missing = 0;
        for ledger in &ledgers {
            if !held.epochs.contains_key(&Unit::Sequencer(ledger.ledger_id)) {
                missing += 1;
                replace(&ledger.claim, ClaimState::Standby);
            }
        }
        let status = if missing > 0 {
            Status::Standby
        } else if ledgers.iter().all(|ledger| *ledger.serving.borrow()) {
            Status::Serving
        } else {
            Status::Starting("the sequencer is loading".to_owned())
        };
        self.status.send_if_modified(|known| {
            // Draining is for good, whatever is still held.
            let changed = *known != status && *known != Status::Draining;
            if changed {
                tracing::info!(to = %status, "status");
                *known = status;
            }
            changed
        });
    }

    fn lose_all(&self, held: &Held, ended: &Ended) {
        let how = match ended {
            Ended::Stopped => "stopped",
            Ended::Lost(_) => "connection",
            Ended::Deposed(_) => "deposed",
        };
        counter!(metric::CLAIMS_LOST, "how" => how).increment(held.epochs.len() as u64);
        gauge!(metric::CLAIMS_HELD).set(0.0);
        if matches!(ended, Ended::Stopped) {
            return;
        }
        for ledger in self.ledgers.all() {
            replace(&ledger.claim, ClaimState::Waiting);
        }
        self.shard_claims.send_replace(ShardClaims::default());
        self.status.send_replace(Status::Starting("claims are being won back".to_owned()));
    }

    /// Gives everything back. Sequencers and projectors have stopped by now.
    async fn leave(&self, mut held: Held) {
        let left = async {
            claims::deregister(&mut held.conn, held.worker_id).await?;
            held.conn.close().await.map_err(Error::from)
        };
        if !matches!(tokio::time::timeout(STATEMENT_TIMEOUT, left).await, Ok(Ok(()))) {
            tracing::debug!("left without saying goodbye");
        }
    }
}

/// Puts a new state in place of the old one; a claim that goes is cancelled.
fn replace(claim: &watch::Sender<ClaimState>, state: ClaimState) {
    let unchanged = matches!(
        (&*claim.borrow(), &state),
        (ClaimState::Standby, ClaimState::Standby)
            | (ClaimState::Waiting, ClaimState::Waiting)
            | (ClaimState::Stopped, _)
    );
    if unchanged {
        return;
    }
    if let ClaimState::Held(old) = claim.send_replace(state) {
        old.lost.cancel();
    }
}

#[expect(clippy::disallowed_methods, reason = "a worker's id is no part of any history")]
fn new_worker_id() -> Uuid {
    Uuid::now_v7()
}
