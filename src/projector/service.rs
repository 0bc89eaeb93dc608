//! One ledger's projector as a service.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use metrics::{gauge, histogram};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Checkpoints;
use super::fold::{Fold, part_of};
use crate::clock::Clock;
use crate::cluster::Renewals;
use crate::cluster::follow::Upstream;
use crate::failpoint::failpoint;
use crate::ledger::{Event, Position};
use crate::safety::{Safety, is_off};
use crate::sequencer::{Pressure, Tail};
use crate::store::claims::Unit;
use crate::store::projections::{Flush, Step};
use crate::store::{self, Connection, Database, Epoch, Error, LedgerId, Shard};
use crate::telemetry::metric;

/// Events folded into one flush: half a second of writing at most.
const FLUSH_EVENTS_MAX: usize = 20_000;
/// The same where there is so much to catch up with that nobody waits for this flush in
/// particular: an account is written once for more events, and an index page for more rows,
/// which spares a tenth of the work.
const FLUSH_EVENTS_MAX_BEHIND: usize = 50_000;
/// Events waiting from which that is so: two seconds of catching up.
const FAR_BEHIND_EVENTS: u64 = 200_000;
/// Events waiting from which a flush follows on the last one without a rest.
const NO_REST_EVENTS: u64 = FLUSH_EVENTS_MAX as u64;
/// Connections that write one flush, each its part of the shards, when there is
/// much to write: catching up would otherwise wait for one core of PostgreSQL.
const FLUSH_PARTS_MAX: usize = 2;
/// Events, those of a worker's own share, from which a flush is written in parts: a
/// commit more is nothing then.
const FLUSH_PARTS_EVENTS_MIN: u64 = 5_000;
/// Between flushes when little happens: small, since readers of lists wait for it.
const PAUSE_IDLE: Duration = Duration::from_millis(10);
/// Between flushes under load: an account hit often is then written once.
const PAUSE_BUSY: Duration = Duration::from_millis(100);
/// Events waiting that count as load.
const BUSY_EVENTS: u64 = 200;
/// The longest pause of a worker that projects only some of the shards: as much
/// gathers for it as for one that has them all, and a flush of little costs
/// PostgreSQL half as much again per row.
const PAUSE_SHARED_MAX: Duration = Duration::from_millis(300);
/// Events waiting from which that matters: some 7,000 a second. Below, there is
/// time for small flushes, and the projections are closer to the log.
const SHARED_EVENTS: u64 = 1_000;
/// After claims have changed pauses stay short for so long: a shard that moves
/// on meanwhile waits for its next holder as well.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// Between flushes in a peak: acknowledging comes first, the lag is worked off after.
const PAUSE_PEAK: Duration = Duration::from_secs(5);
/// Items in the queue that count as a peak: far above what single payments of
/// many clients make, so that only batches that pile up defer the projections.
const PEAK_QUEUE_ITEMS: usize = 2_000;
/// Events behind the log from which a peak defers no longer: a takeover decodes
/// them before it serves, at some 330,000 a second, so within four; and they are
/// caught up with within ten, at 120,000 a second once the peak is over.
pub const PEAK_LAG_MAX: u64 = 1_200_000;
/// A flush that takes longer counts as a lost connection.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// A page of the log takes some tenths of a second to read; a read that takes
/// longer than this has lost its connection.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait between tries at a database that is not there.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often the projector looks around when nothing wakes it.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// The shards that this worker projects, with their claims' epochs.
pub type ShardClaims = Arc<BTreeMap<Shard, Epoch>>;

/// What the service of one ledger works with.
pub struct Service {
    pub ledger_id: LedgerId,
    pub ledger: Arc<str>,
    pub database: Database,
    pub shard_count: Shard,
    pub tail: Arc<Tail>,
    /// The same of the worker that sequences the ledger, when that is another.
    pub upstream: Upstream,
    pub checkpoints: Arc<Checkpoints>,
    pub claims: watch::Receiver<ShardClaims>,
    /// Whether this worker's sequencer of the ledger is loading.
    pub loading: watch::Receiver<bool>,
    pub renewals: Renewals,
    pub clock: Arc<dyn Clock>,
    /// What the sequencer has still to do.
    pub pressure: Pressure,
    /// The claims that it works with at this moment: a shard that is not in them
    /// is not written any more.
    pub acting: watch::Sender<ShardClaims>,
    /// When the oldest event that is not projected was recorded.
    pub oldest: watch::Sender<Option<DateTime<Utc>>>,
}

/// A flush that is ready to be written.
struct Prepared {
    /// What it was folded under and is written under: newer claims may be for
    /// shards whose rows are not in it.
    claims: ShardClaims,
    from: Vec<Option<Position>>,
    to: Position,
    events: usize,
    parts: Vec<Flush>,
    oldest: Option<DateTime<Utc>>,
}

impl Prepared {
    /// The shards of one part that it takes further, and where each begins. Who had a
    /// shard before may have been further than this flush is.
    fn steps(&self, part: usize) -> Vec<Step> {
        let parts = self.parts.len();
        let steps = self.claims.iter().filter(|(shard, _)| part_of(**shard, parts) == part);
        let steps = steps.filter_map(|(shard, epoch)| {
            let from = self.from.get(usize::try_from(*shard).ok()?).copied().flatten()?;
            (from < self.to).then_some(Step { shard: *shard, epoch: *epoch, from })
        });
        steps.collect()
    }
}

impl Service {
    /// Runs until `stop`; then writes what is committed and ends.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut head = self.tail.subscribe();
        loop {
            // A panic is a defect, and no reason to leave the ledger without a
            // projector. What it was writing may still commit, as a whole; the
            // next one goes by the checkpoints.
            let projected = AssertUnwindSafe(self.project(&mut head, &stop)).catch_unwind().await;
            let Ok(projected) = projected else {
                tracing::error!(ledger = %self.ledger, "the projector panicked; starting over from the checkpoints");
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            };
            match projected {
                Ok(()) => return,
                Err(error @ Error::Exhausted(_)) => {
                    tracing::error!(ledger = %self.ledger, %error, "a flush failed for want of means; trying again");
                }
                Err(error) if error.is_retryable() => {
                    tracing::debug!(ledger = %self.ledger, %error, "the projector lost its connection");
                }
                Err(error) => {
                    tracing::error!(ledger = %self.ledger, %error, "the projector stopped; it tries again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
    }

    async fn project(&mut self, head: &mut watch::Receiver<Position>, stop: &CancellationToken) -> Result<(), Error> {
        // Whatever it worked with before, that is over, and may be given back.
        self.acting.send_replace(ShardClaims::default());
        // A worker without shards needs no connections for them.
        while self.claims.borrow_and_update().is_empty() {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.claims.changed() => if changed.is_err() { return Ok(()) },
            }
        }
        let mut conns = Vec::with_capacity(FLUSH_PARTS_MAX);
        for _ in 0..FLUSH_PARTS_MAX {
            conns.push(self.database.connect_serving().await?);
        }
        let mut reader = self.database.connect_serving().await?;
        self.reload(&mut reader).await?;
        let mut prepared: Option<Prepared> = None;
        // The claims that it acts on.
        let mut known = ShardClaims::default();
        let mut settled_at = Instant::now();
        loop {
            // Requests wait for the load; it gets the processor and the disk for itself.
            tokio::select! {
                _ = self.loading.wait_for(|loading| !loading) => {}
                () = stop.cancelled() => {}
            }
            let claims = Arc::clone(&self.claims.borrow_and_update());
            if claims != known {
                self.acting.send_replace(Arc::clone(&claims));
                // What is new was another worker's, who knows how far it got.
                if claims.iter().any(|(shard, epoch)| known.get(shard) != Some(epoch)) {
                    self.reload(&mut reader).await?;
                }
                prepared = None;
                settled_at = Instant::now() + SETTLED_AFTER;
                known = Arc::clone(&claims);
            }
            if prepared.is_none() {
                prepared = self.prepare(&mut reader, &claims, self.positions(&claims)).await?;
            }
            let Some(ready) = prepared.take() else {
                if stop.is_cancelled() {
                    return Ok(());
                }
                self.observe(None);
                tokio::select! {
                    changed = head.changed() => if changed.is_err() { return Ok(()) },
                    changed = self.claims.changed() => if changed.is_err() { return Ok(()) },
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(IDLE_TICK) => {}
                }
                continue;
            };
            self.observe(ready.oldest);
            // Without a rest after it the next range is read and folded while this one
            // is written; else it is after the rest, when there is more of it.
            let next_from = ready.from.iter().map(|from| from.map(|from| from.max(ready.to))).collect();
            let started = Instant::now();
            let next = async {
                if self.tail.head().saturating_sub(ready.to) < NO_REST_EVENTS {
                    return Ok(None);
                }
                self.prepare(&mut reader, &claims, next_from).await
            };
            let (advanced, next) = tokio::join!(self.write(&mut conns, &ready), next);
            let refused = advanced?;
            prepared = if refused.is_empty() { next? } else { self.start_over(&mut reader, &refused).await? };
            if !stop.is_cancelled() {
                let settled = settled_at <= started;
                let shared = if settled { self.shared_pause(known.len()) } else { PAUSE_BUSY };
                self.pause(started, &ready, shared, stop).await;
            }
        }
    }

    /// Writes one flush, and answers the steps of shards that did not advance. Where its parts
    /// end differently, checkpoints differ too, and the next flush begins there.
    async fn write(&self, conns: &mut [Connection], ready: &Prepared) -> Result<Vec<Step>, Error> {
        let started = Instant::now();
        failpoint("before_flush");
        let parts = ready.parts.iter().zip(conns).enumerate().map(|(part, (flush, conn))| async move {
            let mut steps = ready.steps(part);
            if is_off(Safety::Checkpoint) {
                self.begin_anywhere(conn, &mut steps).await?;
            }
            let flushed = store::projections::flush(conn, self.ledger_id, &steps, ready.to, flush).await?;
            self.checkpoints.set(flushed.advanced.iter().map(|shard| (*shard, ready.to)));
            let refused = steps.into_iter().filter(|step| !flushed.advanced.contains(&step.shard));
            Ok((refused.collect::<Vec<_>>(), flushed.faults))
        });
        let flush = async { tokio::join!(futures::future::join_all(parts), crash_in_the_middle()).0 };
        let Ok(flushed) = tokio::time::timeout(FLUSH_TIMEOUT, flush).await else {
            return Err(store::error::timed_out("a flush took too long"));
        };
        let flushed = flushed.into_iter().collect::<Result<Vec<_>, Error>>()?;
        failpoint("after_flush");
        histogram!(metric::FLUSH_SECONDS).record(started.elapsed().as_secs_f64());
        histogram!(metric::FLUSH_EVENTS).record(ready.events as f64);
        let faults: u64 = flushed.iter().map(|(_, faults)| faults).sum();
        if faults > 0 {
            tracing::error!(
                ledger = %self.ledger, accounts = faults, to = ready.to,
                "the projection of some accounts stopped, see table projection_faults; run `steelyard verify`, then `steelyard rebuild`"
            );
        }
        Ok(flushed.into_iter().flat_map(|(refused, _)| refused).collect())
    }

    /// Lets steps begin wherever their checkpoints are, though their rows do not:
    /// a compare-and-set that compares with itself.
    async fn begin_anywhere(&self, conn: &mut Connection, steps: &mut [Step]) -> Result<(), Error> {
        let checkpoints: BTreeMap<Shard, Position> =
            store::projections::checkpoints(conn, self.ledger_id).await?.into_iter().collect();
        for step in steps {
            step.from = checkpoints.get(&step.shard).copied().unwrap_or(step.from);
        }
        Ok(())
    }

    /// Somebody else moved a checkpoint or a claim: a takeover, or a rebuild.
    /// A shard whose checkpoint is where it was has lost its claim; a new epoch is
    /// asked for unless there is one already.
    async fn start_over(&self, conn: &mut Connection, refused: &[Step]) -> Result<Option<Prepared>, Error> {
        self.renewals.count_fenced("flush");
        tracing::warn!(ledger = %self.ledger, shards = refused.len(), "a flush was refused for some shards; reading checkpoints again");
        self.reload(conn).await?;
        let fenced: Vec<&Step> = refused.iter().filter(|step| self.checkpoints.get(step.shard) == step.from).collect();
        for step in &fenced {
            if self.claims.borrow().get(&step.shard) == Some(&step.epoch) {
                self.renewals.ask(Unit::Projector(step.shard), step.epoch);
            }
        }
        if !fenced.is_empty() {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Ok(None)
    }

    async fn reload(&self, conn: &mut Connection) -> Result<(), Error> {
        let checkpoints = store::projections::checkpoints(conn, self.ledger_id);
        self.checkpoints.set(in_time(checkpoints).await?);
        Ok(())
    }

    /// Per shard, how far it is, if it is ours.
    fn positions(&self, claims: &ShardClaims) -> Vec<Option<Position>> {
        (0..self.shard_count).map(|shard| claims.contains_key(&shard).then(|| self.checkpoints.get(shard))).collect()
    }

    /// Folds what follows on `from`; `None` when there is nothing.
    async fn prepare(
        &self,
        reader: &mut Connection,
        claims: &ShardClaims,
        from: Vec<Option<Position>>,
    ) -> Result<Option<Prepared>, Error> {
        let Some(lowest) = from.iter().flatten().min().copied() else { return Ok(None) };
        let head = self.tail.head();
        if claims.is_empty() || lowest >= head {
            return Ok(None);
        }
        let own = (head - lowest) * claims.len() as u64 / u64::from(self.shard_count.unsigned_abs().max(1));
        let parts = if own >= FLUSH_PARTS_EVENTS_MIN { FLUSH_PARTS_MAX } else { 1 };
        let mut fold = Fold::new(self.ledger_id, self.shard_count, &from, parts);
        let mut to = lowest;
        let mut oldest = None;
        let most = if head - lowest < FAR_BEHIND_EVENTS { FLUSH_EVENTS_MAX } else { FLUSH_EVENTS_MAX_BEHIND };
        let in_memory = self.tail.after(lowest, most);
        let limit = most.min(usize::try_from(head - lowest).unwrap_or(usize::MAX));
        let elsewhere = match in_memory {
            Some(_) => None,
            None => self.upstream.after(lowest, limit, claims.keys().copied().collect()).await,
        };
        let mut add = |event: &Event| {
            oldest = oldest.or(Some(event.recorded_at));
            fold.add(event);
        };
        if let Some(page) = elsewhere {
            // Its sender has seen every event, and left out what is not about our shards.
            page.events.iter().for_each(add);
            to = page.to;
        } else {
            let mut add_next = |event: &Event| {
                if event.position != to + 1 {
                    let (expected, found) = (to + 1, event.position);
                    return Err(Error::Hole { ledger_id: self.ledger_id, expected, found });
                }
                to = event.position;
                add(event);
                Ok(())
            };
            if let Some(batches) = in_memory {
                let events = batches.iter().flat_map(|batch| &batch.events);
                events.filter(|event| event.position > lowest).try_for_each(&mut add_next)?;
            } else {
                let page = store::events::read_events(reader, self.ledger_id, lowest, limit as i64);
                let page = in_time(page).await?;
                page.iter().try_for_each(&mut add_next)?;
                if page.is_empty() {
                    return Err(Error::Hole { ledger_id: self.ledger_id, expected: lowest + 1, found: head });
                }
            }
        }
        if to == lowest {
            return Ok(None);
        }
        let events = (to - lowest) as usize;
        failpoint("folded");
        let parts = fold.finish();
        Ok(Some(Prepared { claims: Arc::clone(claims), from, to, events, parts, oldest }))
    }

    /// Lets changes gather after a flush, the longer the busier the ledger is; `shared`
    /// is how long where that pays for a worker with some of the shards.
    async fn pause(&self, started: Instant, flushed: &Prepared, shared: Duration, stop: &CancellationToken) {
        let behind = || self.tail.head().saturating_sub(flushed.to);
        let lag = || self.tail.head().saturating_sub(self.checkpoints.lowest());
        let deep = || self.pressure.items() >= PEAK_QUEUE_ITEMS && lag() < PEAK_LAG_MAX;
        let busy = behind().max(flushed.events as u64) >= BUSY_EVENTS;
        let pause = if busy { PAUSE_BUSY } else { PAUSE_IDLE };
        if behind() >= NO_REST_EVENTS && !deep() {
            return;
        }
        let since = |pause: Duration| pause.saturating_sub(started.elapsed());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(since(pause)) => {}
        }
        let mut claims = self.claims.clone();
        // In steps, so that a reader here waits no longer than it would without.
        while !since(shared).is_zero() && behind() >= SHARED_EVENTS && !self.checkpoints.are_awaited() {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = claims.changed() => return,
                () = tokio::time::sleep(since(shared).min(PAUSE_BUSY)) => {}
            }
        }
        while deep() && !since(PAUSE_PEAK).is_zero() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE_BUSY) => {}
            }
        }
    }

    /// The pause of a worker that has so many of the shards.
    fn shared_pause(&self, shards: usize) -> Duration {
        PAUSE_BUSY.mul_f64(f64::from(self.shard_count) / shards.max(1) as f64).min(PAUSE_SHARED_MAX)
    }

    fn observe(&self, oldest: Option<DateTime<Utc>>) {
        self.oldest.send_replace(oldest);
        let age = oldest.map_or(0.0, |oldest| (self.clock.now() - oldest).as_seconds_f64().max(0.0));
        gauge!(metric::PROJECTION_LAG_SECONDS, "ledger" => Arc::clone(&self.ledger)).set(age);
    }
}

async fn in_time<T>(read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    store::error::within(READ_TIMEOUT, "a projector's read took too long", read).await
}

/// With the failpoint `during_flush` armed, dies shortly after the flush has
/// been sent and before it has committed.
async fn crash_in_the_middle() {
    if cfg!(debug_assertions) {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_micros(300)).await;
        failpoint("during_flush");
    }
}
