//! The worker's session: one connection of its own that holds its advisory
//! locks, says once a second that the worker lives, and is pinged by that.
//!
//! At every look it computes which units this worker should hold, gives back
//! some that it should not, and claims those that it should. While the
//! connection stands, the locks are ours; when it does not, nothing is: every
//! claim is lost at once and won back from the beginning. That the locks are
//! held is never remembered past a failed heartbeat, and nothing relies on it:
//! appends and flushes carry their epochs.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use metrics::{counter, gauge};
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::assignment::assign;
use super::forward::{Route, Routes};
use super::overview::{self, Lasting, News, Told, holders, members};
use super::peer::Peers;
use super::{ClaimState, Ledgers, RenewalsAsked, Status};
use crate::projector::service::ShardClaims;
use crate::sequencer::Claim;
use crate::store::claims::{self, Condition, LiveRow, Registration, Unit};
use crate::store::{self, Database, Epoch, Error};
use crate::telemetry::metric;

/// Between heartbeats, by which others know that we live, and we that our session does.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between looks at who lives and who holds what: bounds a takeover.
const CLAIM_TICK: Duration = Duration::from_millis(200);
/// Between looks while units are being given back, or somebody asks to look.
const CLAIM_TICK_MIN: Duration = Duration::from_millis(10);
/// Shards that a worker gives back per look, so that few pause at a time.
const SHARDS_MOVED_MAX: usize = 8;
/// A statement that takes longer on this connection means that it is dead.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// A unit that nobody holds for so long is worth a line of the log: a takeover takes less.
const UNOWNED_LOGGED: Duration = Duration::from_secs(5);
/// So is one that this worker cannot get: its holder may let it read ahead first, for seconds in a peak.
const DENIED_LOGGED: Duration = Duration::from_secs(10);
/// Of so many tries in a row that fail, one is logged: every five seconds.
const FAILURES_LOGGED: u32 = 25;
/// Between tries at a database that is not there.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

pub struct Session {
    pub database: Database,
    pub registration: Registration,
    pub ledgers: Arc<Ledgers>,
    pub shard_claims: watch::Sender<ShardClaims>,
    pub routes: watch::Sender<Routes>,
    pub status: watch::Sender<Status>,
    pub renewals: RenewalsAsked,
    pub peers: Peers,
    /// Rung by whoever has reason to believe that claims have changed.
    pub look_again: Arc<Notify>,
    /// Whether this worker stops and has nothing left that another could take.
    pub handed_over: watch::Sender<bool>,
    pub stop: CancellationToken,
}

/// What one connection holds.
struct Held {
    conn: PgConnection,
    worker_id: Uuid,
    epochs: BTreeMap<Unit, Epoch>,
    /// Of those, the ones that are being given back: nobody here works with them
    /// any more, or is about to stop.
    leaving: BTreeSet<Unit>,
    /// The ledgers that their next holders are reading at the moment, while we go on.
    warming: BTreeMap<Unit, JoinHandle<()>>,
    /// Where the other workers that live take requests.
    others: BTreeMap<Uuid, Arc<str>>,
    /// Words to them that are on their way.
    nudges: JoinSet<()>,
    heartbeat_at: Instant,
    /// Whether the others have been told that this worker stops.
    draining: bool,
    /// What it should hold and could not get, at the last look.
    denied: BTreeSet<Unit>,
    denied_for_long: Lasting,
    unowned_for_long: Lasting,
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
        let mut failures: u32 = 0;
        let mut former = None;
        loop {
            let connected = tokio::time::timeout(STATEMENT_TIMEOUT * 2, self.connect(former)).await;
            match connected.unwrap_or_else(|_| Err(store::error::timed_out("joining took too long"))) {
                Ok(mut held) => {
                    failures = 0;
                    former = Some(held.worker_id);
                    // A defect costs the claims, not the worker: it would look alive and never serve again.
                    let ended = AssertUnwindSafe(self.hold(&mut held)).catch_unwind().await;
                    let ended = ended.unwrap_or_else(|_| Ended::Lost(store::error::timed_out("the session panicked")));
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
                    if failures.is_multiple_of(FAILURES_LOGGED) {
                        tracing::warn!(%error, failures, "the database cannot be reached; trying again");
                    }
                    failures = failures.saturating_add(1);
                    self.say_starting("no database");
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
            }
        }
    }

    async fn connect(&self, former: Option<Uuid>) -> Result<Held, Error> {
        let mut conn = self.database.connect_owner().await?;
        claims::bound_lock_waits(&mut conn).await?;
        if let Some(former) = former {
            claims::deregister(&mut conn, former).await?;
        }
        // New at every join, so that nobody mistakes it for its former self.
        let worker_id = self.database.new_worker_id();
        claims::register(&mut conn, worker_id, &self.registration).await?;
        tracing::info!(%worker_id, "joined");
        Ok(Held {
            conn,
            worker_id,
            epochs: BTreeMap::new(),
            leaving: BTreeSet::new(),
            warming: BTreeMap::new(),
            others: BTreeMap::new(),
            nudges: JoinSet::new(),
            heartbeat_at: Instant::now(),
            draining: false,
            denied: BTreeSet::new(),
            denied_for_long: Lasting::new(DENIED_LOGGED),
            unowned_for_long: Lasting::new(UNOWNED_LOGGED),
        })
    }

    async fn hold(&mut self, held: &mut Held) -> Ended {
        loop {
            let looked_at = Instant::now();
            match tokio::time::timeout(STATEMENT_TIMEOUT * 2, self.look(held)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Ended::Lost(error),
                Err(_) => return Ended::Lost(store::error::timed_out("the claims connection does not answer")),
            }
            self.report(held);
            while held.nudges.try_join_next().is_some() {}
            let soon = CLAIM_TICK_MIN.saturating_sub(looked_at.elapsed());
            let pause = if held.leaving.is_empty() { CLAIM_TICK } else { soon };
            tokio::select! {
                () = self.stop.cancelled() => return Ended::Stopped,
                Some((unit, refused)) = self.renewals.recv() => match self.renew(held, unit, refused).await {
                    Ok(true) => {}
                    Ok(false) => return Ended::Deposed(unit),
                    Err(error) => return Ended::Lost(error),
                },
                () = async { self.look_again.notified().await; tokio::time::sleep(soon).await } => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Beats, gives back what others should hold, and claims what it should hold.
    async fn look(&self, held: &mut Held) -> Result<(), Error> {
        let draining = *self.status.borrow() == Status::Draining;
        if held.heartbeat_at.elapsed() >= HEARTBEAT || draining != held.draining {
            let condition = Condition {
                draining,
                denied: held.denied.iter().copied().collect(),
                writes_fenced: self.renewals.fenced(),
            };
            claims::heartbeat(&mut held.conn, held.worker_id, &condition).await?;
            held.heartbeat_at = Instant::now();
            if draining && !held.draining {
                self.nudge(held);
            }
            held.draining = draining;
        }
        for row in store::ledgers::list(&mut held.conn).await? {
            self.ledgers.ensure(&row);
        }
        let live = claims::live(&mut held.conn).await?;
        let holders = holders(&claims::list(&mut held.conn).await?, &live);
        self.publish_routes(held, &live, &holders);
        let assigned = assign(&members(&live), &holders, &self.units());
        self.give_back(held, &assigned).await?;
        self.claim(held, &assigned).await?;
        gauge!(metric::WORKERS).set(live.len() as f64);
        self.tell_what_lasts(held, &holders);
        let elsewhere = |unit: &Unit| assigned.get(unit).is_some_and(|worker_id| *worker_id != held.worker_id);
        self.handed_over.send_replace(held.draining && !held.epochs.keys().any(elsewhere));
        Ok(())
    }

    /// Stops working with units that another worker should hold, some at a time,
    /// and gives back those with which nobody here works any more. What nobody
    /// else could take stays.
    async fn give_back(&self, held: &mut Held, assigned: &BTreeMap<Unit, Uuid>) -> Result<(), Error> {
        let elsewhere = |unit: &Unit| assigned.get(unit).is_some_and(|worker_id| *worker_id != held.worker_id);
        let shards_max = if held.draining { usize::MAX } else { SHARDS_MOVED_MAX };
        let shards_leaving = held.leaving.iter().filter(|unit| matches!(unit, Unit::Projector(_))).count();
        let staying = held.epochs.keys().filter(|unit| !held.leaving.contains(unit) && elsewhere(unit)).copied();
        let (sequencers, shards): (Vec<Unit>, Vec<Unit>) = staying.partition(|unit| matches!(unit, Unit::Sequencer(_)));
        let shards = shards.into_iter().take(shards_max.saturating_sub(shards_leaving));
        held.warming.retain(|unit, _| elsewhere(unit));
        let sequencers = sequencers.into_iter().filter(|unit| self.next_is_warm(held, *unit, assigned.get(unit)));
        let leaving: Vec<Unit> = sequencers.collect::<Vec<_>>().into_iter().chain(shards).collect();
        if !leaving.is_empty() {
            tracing::info!(units = leaving.len(), "giving units to other workers");
            held.leaving.extend(leaving);
            self.publish_shards(held);
            self.publish_standby(held);
        }
        let quiet: Vec<Unit> = held.leaving.iter().filter(|unit| self.is_quiet(**unit)).copied().collect();
        if quiet.is_empty() {
            return Ok(());
        }
        match claims::release(&mut held.conn, held.worker_id, &quiet).await {
            // A flush whose connection was lost holds the rows until PostgreSQL has noticed: at a later look.
            Err(Error::Transient(_)) => return Ok(()),
            released => released?,
        }
        for unit in &quiet {
            held.warming.remove(unit);
            held.leaving.remove(unit);
            held.epochs.remove(unit);
        }
        self.nudge(held);
        Ok(())
    }

    /// Whether the next holder of a sequencer has read its ledger, or could not. Asks
    /// for it first, so that clients wait for a batch and not for a load.
    fn next_is_warm(&self, held: &mut Held, unit: Unit, next: Option<&Uuid>) -> bool {
        if let Some(warming) = held.warming.get(&unit) {
            return warming.is_finished();
        }
        let (Unit::Sequencer(ledger_id), Some(url)) = (unit, next.and_then(|next| held.others.get(next))) else {
            return true;
        };
        let (peers, url, look_again) = (self.peers.clone(), Arc::clone(url), Arc::clone(&self.look_again));
        let warming = tokio::spawn(async move {
            if let Err(error) = peers.warm_up(&url, ledger_id).await {
                tracing::info!(ledger_id, %error, "the next holder of a ledger could not read it ahead");
            }
            look_again.notify_one();
        });
        held.warming.insert(unit, warming);
        false
    }

    /// Whether nothing here works with the unit any more.
    fn is_quiet(&self, unit: Unit) -> bool {
        self.ledgers.all().iter().all(|ledger| match unit {
            Unit::Sequencer(ledger_id) => ledger.ledger_id != ledger_id || !*ledger.serving.borrow(),
            Unit::Projector(shard) => !ledger.projecting.borrow().contains_key(&shard),
        })
    }

    /// Claims what is assigned to this worker and free, or held by one that is gone.
    async fn claim(&self, held: &mut Held, assigned: &BTreeMap<Unit, Uuid>) -> Result<(), Error> {
        let mine = assigned.iter().filter(|(_, worker_id)| **worker_id == held.worker_id);
        let missing: Vec<Unit> = mine.map(|(unit, _)| *unit).filter(|unit| !held.epochs.contains_key(unit)).collect();
        held.denied.clear();
        if missing.is_empty() {
            gauge!(metric::CLAIMS_DENIED).set(0.0);
            return Ok(());
        }
        let mut free = claims::try_lock(&mut held.conn, &missing).await?;
        if free.len() < missing.len() {
            free.extend(self.evict_stale(held, &missing, &free).await?);
        }
        held.denied.extend(missing.iter().filter(|unit| !free.contains(unit)));
        gauge!(metric::CLAIMS_DENIED).set(held.denied.len() as f64);
        let raised = match claims::raise(&mut held.conn, held.worker_id, &free).await {
            Err(Error::Transient(_)) => {
                self.end_holders(held, &free).await?;
                claims::raise(&mut held.conn, held.worker_id, &free).await?
            }
            raised => raised?,
        };
        let sequencers = raised.iter().any(|(unit, _)| matches!(unit, Unit::Sequencer(_)));
        for (unit, epoch) in raised {
            held.epochs.insert(unit, epoch);
            self.publish(unit, epoch);
        }
        self.publish_shards(held);
        if sequencers {
            // So that the others find the way at once.
            self.nudge(held);
        }
        Ok(())
    }

    /// Ends the sessions of those who hold the rows of `units` without their locks: a
    /// worker whose session of its locks is gone and that froze in an append or a flush.
    async fn end_holders(&self, held: &mut Held, units: &[Unit]) -> Result<(), Error> {
        let rows = claims::list(&mut held.conn).await?;
        let former = rows.iter().filter(|row| units.contains(&row.unit)).filter_map(|row| row.worker_id);
        for worker_id in former.filter(|former| *former != held.worker_id).collect::<BTreeSet<_>>() {
            tracing::warn!(%worker_id, "ending the sessions of a worker that holds claims without their locks");
            claims::terminate_worker(&mut held.conn, worker_id).await?;
        }
        Ok(())
    }

    /// Logs what nobody does, and what this worker should do and cannot, once it is
    /// no matter of a move or a takeover any more.
    fn tell_what_lasts(&self, held: &mut Held, holders: &BTreeMap<Unit, Uuid>) {
        let mut unowned = overview::unowned(&self.units(), holders);
        // Claimed since they were read.
        unowned.retain(|unit| !held.epochs.contains_key(unit));
        gauge!(metric::UNITS_UNOWNED).set(unowned.len() as f64);
        let now = Instant::now();
        let News { lasts, over } = held.unowned_for_long.at(&unowned, now);
        if !lasts.is_empty() {
            tracing::warn!(units = %Told(&lasts), "no worker holds units");
        }
        if !over.is_empty() {
            tracing::info!(units = %Told(&over), "units are held again");
        }
        let News { lasts, over } = held.denied_for_long.at(&held.denied, now);
        if !lasts.is_empty() {
            tracing::warn!(units = %Told(&lasts), "claims are denied: another session holds their locks");
        }
        if !over.is_empty() {
            tracing::info!(units = %Told(&over), "claims are denied no longer");
        }
    }

    /// Tells the other workers to look again.
    fn nudge(&self, held: &mut Held) {
        for url in held.others.values() {
            let (peers, url) = (self.peers.clone(), Arc::clone(url));
            held.nudges.spawn(async move { peers.nudge(&url).await });
        }
    }

    /// Where each ledger is sequenced that this worker does not sequence itself.
    fn publish_routes(&self, held: &mut Held, live: &[LiveRow], holders: &BTreeMap<Unit, Uuid>) {
        let urls: BTreeMap<Uuid, Arc<str>> = live
            .iter()
            .filter(|row| row.worker_id != held.worker_id)
            .filter_map(|row| Some((row.worker_id, Arc::from(row.internal_url.as_deref()?))))
            .collect();
        let routes: BTreeMap<_, _> = holders
            .iter()
            .filter_map(|(unit, worker_id)| match unit {
                Unit::Sequencer(ledger_id) => {
                    let route = Route { worker_id: *worker_id, url: Arc::clone(urls.get(worker_id)?) };
                    Some((*ledger_id, route))
                }
                Unit::Projector(_) => None,
            })
            .collect();
        held.others = urls;
        if **self.routes.borrow() != routes {
            self.routes.send_replace(Arc::new(routes));
        }
    }

    /// Takes from workers that are gone but whose sessions are not. All of these
    /// end first, since one that is frozen in an append or a flush would keep the
    /// epoch from being raised; then the epochs are, so that nothing that was sent
    /// before can be written.
    async fn evict_stale(&self, held: &mut Held, missing: &[Unit], free: &[Unit]) -> Result<Vec<Unit>, Error> {
        let stale = claims::stale(&mut held.conn).await?;
        let stale: Vec<_> =
            stale.into_iter().filter(|stale| missing.contains(&stale.unit) && !free.contains(&stale.unit)).collect();
        if stale.is_empty() {
            return Ok(Vec::new());
        }
        let units: Vec<Unit> = stale.iter().map(|stale| stale.unit).collect();
        let gone: BTreeMap<_, _> = stale.iter().filter_map(|stale| Some((stale.worker_id?, stale.silent_s))).collect();
        for (worker_id, silent_s) in gone {
            tracing::warn!(%worker_id, silent_s, "ending the sessions of a worker that is not heard of any more");
            claims::terminate_worker(&mut held.conn, worker_id).await?;
        }
        let sessions: BTreeSet<_> = stale.iter().map(|stale| (stale.backend_pid, stale.backend_start)).collect();
        for (pid, start) in sessions {
            claims::terminate(&mut held.conn, pid, start).await?;
        }
        claims::raise(&mut held.conn, held.worker_id, &units).await?;
        claims::try_lock(&mut held.conn, &units).await
    }

    /// A new epoch for a unit of ours in place of `refused`, if there is none
    /// yet; `false` when it is ours no more.
    async fn renew(&self, held: &mut Held, unit: Unit, refused: Epoch) -> Result<bool, Error> {
        if held.epochs.get(&unit) != Some(&refused) || held.leaving.contains(&unit) {
            return Ok(true);
        }
        // What is still on its way under the refused epoch holds the row until it is over.
        let renewed = async {
            loop {
                match claims::renew(&mut held.conn, held.worker_id, unit).await {
                    Err(Error::Transient(_)) => {}
                    renewed => return renewed,
                }
            }
        };
        let renewed = tokio::time::timeout(STATEMENT_TIMEOUT, renewed)
            .await
            .unwrap_or_else(|_| Err(store::error::timed_out("the claims connection does not answer")))?;
        let Some(epoch) = renewed else { return Ok(false) };
        held.epochs.insert(unit, epoch);
        self.publish(unit, epoch);
        self.publish_shards(held);
        Ok(true)
    }

    /// Everything there is to do.
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
            .filter(|(unit, _)| !held.leaving.contains(unit))
            .filter_map(|(unit, epoch)| match unit {
                Unit::Projector(shard) => Some((*shard, *epoch)),
                Unit::Sequencer(_) => None,
            })
            .collect();
        if **self.shard_claims.borrow() != shards {
            self.shard_claims.send_replace(Arc::new(shards));
        }
    }

    /// Ledgers that this worker does not sequence, or not any more.
    fn publish_standby(&self, held: &Held) {
        for ledger in self.ledgers.all() {
            let unit = Unit::Sequencer(ledger.ledger_id);
            if !held.epochs.contains_key(&unit) || held.leaving.contains(&unit) {
                replace(&ledger.claim, ClaimState::Standby);
            }
        }
    }

    fn report(&self, held: &Held) {
        gauge!(metric::CLAIMS_HELD).set(held.epochs.len() as f64);
        self.publish_standby(held);
        let routes = Arc::clone(&self.routes.borrow());
        let reached = |ledger: &super::Ledger| *ledger.serving.borrow() || routes.contains_key(&ledger.ledger_id);
        let status = match self.ledgers.all().iter().find(|ledger| !reached(ledger)) {
            None => Status::Serving,
            Some(ledger) if held.epochs.contains_key(&Unit::Sequencer(ledger.ledger_id)) => {
                Status::Starting("the sequencer is loading".to_owned())
            }
            Some(ledger) => Status::Starting(format!("no worker sequences ledger {} yet", ledger.name)),
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
        self.routes.send_replace(Routes::default());
        self.say_starting("claims are being won back");
    }

    /// Not ready, and why; draining is for good.
    fn say_starting(&self, why: &str) {
        self.status.send_if_modified(|known| {
            let draining = *known == Status::Draining;
            if !draining {
                *known = Status::Starting(why.to_owned());
            }
            !draining
        });
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
    claim.send_if_modified(|present| {
        let unchanged = matches!(
            (&*present, &state),
            (ClaimState::Standby, ClaimState::Standby)
                | (ClaimState::Waiting, ClaimState::Waiting)
                | (ClaimState::Stopped, _)
        );
        if !unchanged && let ClaimState::Held(old) = std::mem::replace(present, state) {
            old.lost.cancel();
        }
        !unchanged
    });
}
