//! One ledger's sequencer as a service: claim, load, serve, and again.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::due::SetAside;
use super::engine::{Context, Engine, Exit, ExitReason, Unknown};
use super::load::WarmUp;
use super::{Claim, Submission, Tail, Unavailable};
use crate::clock::Clock;
use crate::cluster::{ClaimState, Renewals};
use crate::ledger::Position;
use crate::projector::Checkpoints;
use crate::safety::{Safety, is_off};
use crate::store::claims::Unit;
use crate::store::{self, Connection, Database, Epoch, Error, LedgerId, Shard};

/// Wait between tries at a database that is not there.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Requests taken from the queue at a time while no engine serves.
const INTAKE_MAX: usize = 128;

/// Reading the outcome of an append back is one row by primary key; what takes
/// longer has lost its connection.
const READ_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// What the service of one ledger works with.
pub struct Service {
    pub ledger_id: LedgerId,
    pub ledger: Arc<str>,
    pub database: Database,
    pub shard_count: Shard,
    pub accounts_max: usize,
    pub tail: Arc<Tail>,
    pub checkpoints: Arc<Checkpoints>,
    pub clock: Arc<dyn Clock>,
    pub claim: watch::Receiver<ClaimState>,
    pub renewals: Renewals,
    /// Whether an engine is serving.
    pub serving: watch::Sender<bool>,
    /// Whether one is loading, for which requests wait.
    pub loading: watch::Sender<bool>,
    /// What has been read of the ledger ahead of the claim.
    pub warm_up: Arc<WarmUp>,
    /// How much is due and has to wait for a later batch.
    pub due: Arc<AtomicUsize>,
    /// The way to the worker that sequences the ledger when this one does not.
    pub forward: mpsc::Sender<Submission>,
}

/// What waits while no engine serves.
#[derive(Default)]
struct Waiting {
    unknown: Option<Unknown>,
    requests: VecDeque<Submission>,
    /// What an engine could not settle, so that the next one does not fail of it.
    set_aside: Arc<SetAside>,
}

impl Service {
    /// Runs until the cluster says [`ClaimState::Stopped`]. Every request that
    /// was accepted has been answered by then.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Submission>) {
        let mut waiting = Waiting::default();
        let mut used = 0;
        while let Some(claim) = self.next_claim(used, &mut queue, &mut waiting).await {
            used = claim.epoch;
            // A panic is a defect, and no reason to leave the ledger without a
            // sequencer. What it held is told that its outcome is not known; what
            // it was writing, the next epoch waits out.
            let served = AssertUnwindSafe(self.serve(&claim, &mut queue, &mut waiting)).catch_unwind().await;
            self.serving.send_replace(false);
            self.loading.send_replace(false);
            match served.unwrap_or(Ok(ExitReason::Panicked)) {
                Ok(ExitReason::Cancelled) => {}
                Ok(reason) => {
                    if matches!(reason, ExitReason::Fenced) {
                        self.renewals.count_fenced("append");
                    }
                    tracing::warn!(ledger = %self.ledger, epoch = claim.epoch, ?reason, "the sequencer stopped; starting over from the log");
                    // What would only happen again does not happen in a storm.
                    if matches!(reason, ExitReason::Panicked | ExitReason::Failed(Error::Exhausted(_))) {
                        self.pause(&mut queue, &mut waiting).await;
                    }
                    self.renewals.ask(Unit::Sequencer(self.ledger_id), claim.epoch);
                }
                Err(error) => {
                    tracing::warn!(ledger = %self.ledger, epoch = claim.epoch, %error, "the sequencer could not start");
                    self.pause(&mut queue, &mut waiting).await;
                    self.renewals.ask(Unit::Sequencer(self.ledger_id), claim.epoch);
                }
            }
        }
        self.refuse_all(&mut queue, waiting);
    }

    /// Waits for a claim whose epoch is above `used`, keeping what waits within
    /// its deadlines. Only a newer epoch waits out what was sent under the last
    /// one. `None` when the service is to stop.
    async fn next_claim(
        &mut self,
        used: Epoch,
        queue: &mut mpsc::Receiver<Submission>,
        waiting: &mut Waiting,
    ) -> Option<Claim> {
        let mut tick = tokio::time::interval(RETRY_PAUSE);
        let mut arrived = Vec::with_capacity(INTAKE_MAX);
        loop {
            let state = self.claim.borrow_and_update().clone();
            match state {
                ClaimState::Held(claim) if claim.epoch > used && !claim.lost.is_cancelled() => return Some(claim),
                ClaimState::Stopped => return None,
                ClaimState::Standby => {
                    self.resolve_as_standby(queue, waiting).await;
                    for submission in waiting.requests.drain(..) {
                        self.pass_on(submission);
                    }
                }
                ClaimState::Held(_) | ClaimState::Waiting => {}
            }
            tokio::select! {
                changed = self.claim.changed() => changed.ok()?,
                1.. = queue.recv_many(&mut arrived, INTAKE_MAX) => waiting.requests.extend(arrived.drain(..)),
                _ = tick.tick() => {
                    self.warm_up.expire();
                    expire(waiting);
                }
            }
        }
    }

    /// A request for a ledger that another worker has.
    fn pass_on(&self, submission: Submission) {
        if submission.forwarded {
            return submission.answer(Err(Unavailable::Standby));
        }
        if let Err(error) = self.forward.try_send(submission) {
            error.into_inner().answer(Err(Unavailable::Overloaded));
        }
    }

    /// Waits before the next try, keeping what waits within its deadlines.
    async fn pause(&self, queue: &mut mpsc::Receiver<Submission>, waiting: &mut Waiting) {
        let over = tokio::time::sleep(RETRY_PAUSE);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                Some(submission) = queue.recv() => waiting.requests.push_back(submission),
            }
        }
        expire(waiting);
    }

    async fn serve(
        &self,
        claim: &Claim,
        queue: &mut mpsc::Receiver<Submission>,
        waiting: &mut Waiting,
    ) -> Result<ExitReason, Error> {
        let unknown = waiting.unknown.as_ref().map(|unknown| (unknown.first_position().unwrap_or(0), unknown.epoch));
        let connected = async {
            let mut append_conns = [self.database.connect_serving().await?, self.database.connect_serving().await?];
            let prefetch_conn = self.database.connect_serving().await?;
            let committed = match unknown {
                // The claim's epoch was raised after that append was sent, which
                // waited it out: it is in the log now, or never will be.
                Some((first, epoch)) => Some(self.was_appended(&mut append_conns[0], first, epoch).await?),
                None => None,
            };
            Ok((append_conns, prefetch_conn, committed))
        };
        let connected = meanwhile(connected, &claim.lost, queue, waiting).await?;
        let Some((append_conns, prefetch_conn, committed)) = connected else { return Ok(ExitReason::Cancelled) };
        if let Some(committed) = committed {
            self.resolve(waiting, committed);
        }
        let context = Context {
            database: self.database.clone(),
            ledger_id: self.ledger_id,
            ledger: Arc::clone(&self.ledger),
            shard_count: self.shard_count,
            accounts_max: self.accounts_max,
            tail: Arc::clone(&self.tail),
            checkpoints: Arc::clone(&self.checkpoints),
            clock: Arc::clone(&self.clock),
            set_aside: Arc::clone(&waiting.set_aside),
            due: Arc::clone(&self.due),
        };
        self.loading.send_replace(true);
        let load = Engine::load(context, claim, append_conns, prefetch_conn, self.warm_up.take());
        let loaded = meanwhile(load, &claim.lost, queue, waiting).await;
        self.loading.send_replace(false);
        let Some(engine) = loaded? else { return Ok(ExitReason::Cancelled) };
        tracing::info!(ledger = %self.ledger, epoch = claim.epoch, head = self.tail.head(), "sequencing");
        self.serving.send_replace(true);
        let Exit { reason, unknown, waiting: requests } =
            engine.serve(queue, claim, std::mem::take(&mut waiting.requests)).await;
        self.due.store(0, Ordering::Relaxed);
        self.serving.send_replace(false);
        waiting.unknown = unknown;
        waiting.requests = requests;
        Ok(reason)
    }

    async fn was_appended(&self, conn: &mut Connection, first: Position, epoch: Epoch) -> Result<bool, Error> {
        if is_off(Safety::ReadBack) {
            return Ok(true);
        }
        let read_back = store::events::was_appended(conn, self.ledger_id, first, epoch);
        store::error::within(READ_BACK_TIMEOUT, "reading an append back took too long", read_back).await
    }

    fn resolve(&self, waiting: &mut Waiting, committed: bool) {
        let Some(unknown) = waiting.unknown.take() else { return };
        tracing::info!(ledger = %self.ledger, epoch = unknown.epoch, committed, "read the outcome of an append back from the log");
        if committed {
            unknown.answer();
        } else {
            for submission in unknown.into_waiting().rev() {
                waiting.requests.push_front(submission);
            }
        }
    }

    /// Another worker has the ledger. It raised the epoch, so an append of ours
    /// without an answer is decided too: ask the log once more before giving up.
    async fn resolve_as_standby(&self, queue: &mut mpsc::Receiver<Submission>, waiting: &mut Waiting) {
        let Some(unknown) = &waiting.unknown else { return };
        let (first, epoch) = (unknown.first_position().unwrap_or(0), unknown.epoch);
        let read_back = async {
            let mut conn = self.database.connect_serving().await?;
            let fence = store::events::fence(&mut conn, self.ledger_id, epoch);
            match store::error::within(READ_BACK_TIMEOUT, "the fence took too long", fence).await {
                // Nobody has raised it yet: it is too early to tell.
                Ok(()) => Ok(None),
                Err(Error::Fenced { .. }) => self.was_appended(&mut conn, first, epoch).await.map(Some),
                Err(error) => Err(error),
            }
        };
        match meanwhile(read_back, &CancellationToken::new(), queue, waiting).await {
            Ok(Some(Some(committed))) => self.resolve(waiting, committed),
            Ok(_) => {}
            Err(error) => tracing::debug!(ledger = %self.ledger, %error, "the log cannot be read yet"),
        }
    }

    fn refuse_all(&self, queue: &mut mpsc::Receiver<Submission>, waiting: Waiting) {
        queue.close();
        if let Some(unknown) = waiting.unknown {
            unknown.give_up();
        }
        for submission in waiting.requests {
            submission.answer(Err(Unavailable::TimedOut));
        }
        while let Ok(submission) = queue.try_recv() {
            submission.answer(Err(Unavailable::TimedOut));
        }
    }
}

/// Does `work`, which has deadlines of its own, while what waits keeps its own;
/// `None` when the claim is lost before it is done.
async fn meanwhile<T>(
    work: impl Future<Output = Result<T, Error>>,
    lost: &CancellationToken,
    queue: &mut mpsc::Receiver<Submission>,
    waiting: &mut Waiting,
) -> Result<Option<T>, Error> {
    tokio::pin!(work);
    let mut tick = tokio::time::interval(RETRY_PAUSE);
    loop {
        tokio::select! {
            biased;
            () = lost.cancelled() => return Ok(None),
            done = &mut work => return done.map(Some),
            _ = tick.tick() => expire(waiting),
            Some(submission) = queue.recv() => waiting.requests.push_back(submission),
        }
    }
}

/// Answers what has waited too long.
fn expire(waiting: &mut Waiting) {
    let now = Instant::now();
    if waiting.unknown.as_ref().and_then(Unknown::deadline).is_some_and(|deadline| deadline <= now)
        && let Some(unknown) = waiting.unknown.take()
    {
        unknown.give_up();
    }
    for submission in std::mem::take(&mut waiting.requests) {
        if submission.deadline <= now {
            submission.answer(Err(Unavailable::TimedOut));
        } else {
            waiting.requests.push_back(submission);
        }
    }
}
