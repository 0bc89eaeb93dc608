//! The engine: queue, prefetch, decide, append, reply.
//!
//! One task owns the book and everything that is decided on it. While one
//! append is in flight, requests that arrive are decided at once on the state
//! that the append will leave behind, into the open batch; when the append
//! commits, the open batch follows. So batches grow with the load by themselves,
//! and deciding costs no waiting.
//!
//! What is decided on an append that fails is taken back with it: the book rolls
//! back, and the requests, which are kept until their batch commits, are decided
//! anew. When the outcome of an append is not known, the engine stops; the
//! [`super::service`] finds out and starts another.
//!
//! What comes due by itself ([`super::due`]) is settled by events of its own, for
//! which nobody waits: before a request on the same accounts is decided, all that
//! concerns it, and of everything else a slice in each batch. As the requests, it
//! is decided anew when its append fails: in the rolled-back book it waits again.

mod settle;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use metrics::{counter, gauge, histogram};
use smallvec::{SmallVec, smallvec};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::append::{APPENDS_MAX, Appends, Ended, InFlight, ended};
use super::due::{self, AccountHash, Due, Needed, SetAside};
use super::keys::RecentKeys;
use super::load::Loaded;
use super::{Answer, Batch, Claim, Item, Key, Outcome, Submission, Tail, Unavailable, Work};
use crate::clock::{Clock, IdSource, recorded_at};
use crate::failpoint::failpoint;
use crate::ledger::decide::{batch_rejected, event};
use crate::ledger::{
    Account, AccountCode, Book, Command, Counted, Event, Fact, Kind, Known, Mark, Moment, Position, State, Verdict,
    decide,
};
use crate::projector::Checkpoints;
use crate::shard::shard_of;
use crate::store::events::KeyRow;
use crate::store::{self, Connection, Database, Epoch, Error, LedgerId, Shard};
use crate::telemetry::metric;

/// Events after which a batch is full: large enough that the cost of a commit
/// disappears, small enough that it commits within a tenth of a second. One
/// request's items are never split, so a batch can be larger by one request.
const BATCH_EVENTS_MAX: usize = 5_000;
/// Requests taken from the queue before looking at the append again.
const INTAKE_MAX: usize = 128;
/// A prefetch that takes longer counts as a lost connection.
const PREFETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Times in a row that PostgreSQL may ask to try again before the engine starts over.
const TRANSIENT_TRIES_MAX: u32 = 10;
/// Before an append is tried again that PostgreSQL had no means for: short beside
/// a client's deadline, long enough not to add to what is wrong.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(250);
/// How long every fresh key is looked up after an old one came back.
const KEY_LOOKUP_AFTER_HIT: Duration = Duration::from_secs(5);
/// Accounts evicted after a commit: what one batch of 10,000 payments can bring in, so
/// that memory never grows faster than it is given back; some milliseconds.
const EVICT_MAX: usize = 20_000;
/// Transactions in memory that wait for nothing: what clients capture, void and
/// reverse within seconds, at some 400 bytes each. Others are read back from the log.
const KNOWN_MAX: usize = 100_000;

/// What the engine of one ledger works with.
pub struct Context {
    pub database: Database,
    pub ledger_id: LedgerId,
    pub ledger: Arc<str>,
    pub shard_count: Shard,
    pub accounts_max: usize,
    pub tail: Arc<Tail>,
    pub checkpoints: Arc<Checkpoints>,
    pub clock: Arc<dyn Clock>,
    /// What no engine of this ledger is to settle.
    pub set_aside: Arc<SetAside>,
    /// How much is due and has to wait for a later batch, counted up to [`due::COUNT_MAX`].
    pub due: Arc<AtomicUsize>,
}

/// Why an engine stopped, and what it leaves behind.
pub struct Exit {
    pub reason: ExitReason,
    /// A batch of which is not known whether it was committed.
    pub unknown: Option<Unknown>,
    /// Requests of which nothing was recorded, in order.
    pub waiting: VecDeque<Submission>,
}

#[derive(Debug)]
pub enum ExitReason {
    /// The claim was given up, or the process stops.
    Cancelled,
    /// A newer epoch refused the append.
    Fenced,
    /// Anything else: start over from the log.
    Failed(Error),
    /// A defect; the requests that it concerns have been answered.
    Panicked,
}

/// An append without an answer.
pub struct Unknown {
    pub epoch: Epoch,
    batch: Arc<Batch>,
    pending: Vec<Pending>,
}

impl Unknown {
    pub fn first_position(&self) -> Option<Position> {
        self.batch.first_position()
    }

    pub fn deadline(&self) -> Option<tokio::time::Instant> {
        self.pending.iter().map(|pending| pending.submission.deadline).max()
    }

    /// It was committed after all.
    pub fn answer(self) {
        for pending in self.pending {
            pending.answer(&self.batch);
        }
    }

    /// It was not: the requests may be decided anew.
    pub fn into_waiting(self) -> impl DoubleEndedIterator<Item = Submission> {
        self.pending.into_iter().map(|pending| pending.submission)
    }

    /// Nobody could tell in time.
    pub fn give_up(self) {
        for pending in self.pending {
            pending.submission.answer(Err(Unavailable::OutcomeUnknown));
        }
    }
}

pub struct Pending {
    submission: Submission,
    outcomes: SmallVec<[Outcome; 1]>,
    position: Position,
}

impl Pending {
    fn answer(self, batch: &Arc<Batch>) {
        let answer = Answer { outcomes: self.outcomes, batch: Arc::clone(batch), position: self.position };
        self.submission.answer(Ok(answer));
    }
}

/// What has been decided and waits for the append before it.
#[derive(Default)]
struct OpenBatch {
    events: Vec<Event>,
    keys: Vec<KeyRow>,
    pending: Vec<Pending>,
    /// Of its events, those for which nobody waits.
    settled: usize,
}

impl OpenBatch {
    const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.pending.is_empty()
    }
}

/// What was fetched because memory did not hold it.
struct Fetched {
    known: Vec<(Uuid, Known)>,
    accounts: Vec<Account>,
    /// What velocity limits have counted on the accounts.
    counted: Vec<(AccountCode, Counted)>,
    keys: Vec<KeyRow>,
}

type Prefetch = Ended<Fetched>;

/// Whether a request may be decided now, as far as it depends on what is due.
enum Ready {
    /// All that concerns it has been settled.
    Yes,
    /// More than one batch is to settle concerns it.
    Crowded,
    /// Accounts have to be fetched first.
    Missing,
}

pub struct Engine {
    context: Context,
    epoch: Epoch,
    book: Book,
    keys: RecentKeys,
    ids: IdSource,
    /// Position and time of the last event decided, committed or not.
    head: Position,
    last_recorded_at: DateTime<Utc>,
    /// The same, committed.
    committed: (Position, DateTime<Utc>),
    open: OpenBatch,
    /// Where in the book's history the open batch begins.
    open_start: Mark,
    appends: Appends,
    prefetch_conn: Option<Connection>,
    prefetch: Option<JoinHandle<Prefetch>>,
    prefetching: Vec<Submission>,
    /// Accounts that are fetched ahead for what is due soon.
    prefetching_ahead: Vec<AccountCode>,
    /// Waiting for the prefetch after the one under way.
    parked: Vec<Submission>,
    due: Due,
    /// When to look again at what will be due soon.
    look_ahead_at: Instant,
    /// Requests on accounts that have more due than one batch is to settle.
    behind_due: VecDeque<Submission>,
    /// Something has been settled since they were looked at.
    due_moved: bool,
    /// Transactions whose settling was part of a batch that PostgreSQL refused, in
    /// groups; the last is the next to be tried, alone.
    suspects: Vec<Vec<Uuid>>,
    /// To be decided before the queue, oldest first.
    backlog: VecDeque<Submission>,
    look_keys_up_until: Option<Instant>,
    transient_failures: u32,
    /// Until when nothing is decided or appended, because PostgreSQL lacks the means.
    paused_until: Option<tokio::time::Instant>,
    /// Requests to append one by one, to find the one that PostgreSQL refuses.
    isolate: usize,
}

impl Engine {
    /// Loads what a sequencer must know, or what is missing in `warm`.
    ///
    /// The claim's epoch has been raised before, so nothing of an older holder
    /// can still be committed behind this read.
    pub async fn load(
        context: Context,
        claim: &Claim,
        append_conns: [Connection; APPENDS_MAX],
        prefetch_conn: Connection,
        warm: Option<Loaded>,
    ) -> Result<Self, Error> {
        let ledger_id = context.ledger_id;
        let loaded = warm.unwrap_or_default();
        let (loaded, append_conns) = loaded.read_on(ledger_id, context.shard_count, append_conns, 0).await?;
        let Loaded { mut book, keys, head, last_recorded_at, waiting, .. } = loaded;
        for (id, known) in waiting {
            book.load_known(id, known);
        }
        context.tail.reset(head);
        Ok(Self {
            appends: Appends::new(context.database.clone(), ledger_id, claim.epoch, append_conns),
            due: Due::new(&context.set_aside),
            context,
            epoch: claim.epoch,
            open_start: book.mark(),
            book,
            keys,
            ids: IdSource::new(),
            head,
            last_recorded_at,
            committed: (head, last_recorded_at),
            open: OpenBatch::default(),
            prefetch_conn: Some(prefetch_conn),
            prefetch: None,
            prefetching: Vec::new(),
            prefetching_ahead: Vec::new(),
            parked: Vec::new(),
            look_ahead_at: Instant::now(),
            behind_due: VecDeque::new(),
            due_moved: false,
            suspects: Vec::new(),
            backlog: VecDeque::new(),
            look_keys_up_until: None,
            transient_failures: 0,
            paused_until: None,
            isolate: 0,
        })
    }

    /// Serves `waiting` and then the queue, until the claim is lost, the queue
    /// is closed, or something fails. What was accepted and is not in [`Exit`]
    /// has been answered.
    pub async fn serve(
        mut self,
        queue: &mut mpsc::Receiver<Submission>,
        claim: &Claim,
        waiting: VecDeque<Submission>,
    ) -> Exit {
        // What was prefetched for another engine is not in this one's book.
        self.backlog = waiting.into_iter().map(|submission| Submission { prefetched: false, ..submission }).collect();
        let reason = self.run(queue, claim).await;
        self.exit(reason).await
    }

    async fn run(&mut self, queue: &mut mpsc::Receiver<Submission>, claim: &Claim) -> ExitReason {
        let mut arrived = Vec::with_capacity(INTAKE_MAX);
        loop {
            if self.paused_until.is_some() {
                expire(&mut self.backlog);
                expire(&mut self.behind_due);
            } else if let Err(reason) = self.fill_and_append() {
                return reason;
            }
            self.look_ahead();
            self.start_prefetch();
            // In a pause all comes into the backlog, where deadlines are kept.
            let has_room = self.paused_until.is_some() || self.has_room();
            let (paused_until, next_due) = (self.paused_until, self.next_due());
            let step = tokio::select! {
                biased;
                () = claim.lost.cancelled() => Err(ExitReason::Cancelled),
                appended = self.appends.ended() => self.on_appended(appended).await,
                fetched = fetched(&mut self.prefetch) => self.on_prefetched(fetched),
                () = until(paused_until) => {
                    self.paused_until = None;
                    Ok(())
                }
                () = until(next_due) => Ok(()),
                received = queue.recv_many(&mut arrived, INTAKE_MAX), if has_room => {
                    if received == 0 { Err(ExitReason::Cancelled) } else {
                        self.backlog.extend(arrived.drain(..));
                        Ok(())
                    }
                }
            };
            if let Err(reason) = step {
                return reason;
            }
        }
    }

    /// Decides what is there into the open batch and sends it off, until there is
    /// nothing more to decide or no room for an append.
    fn fill_and_append(&mut self) -> Result<(), ExitReason> {
        loop {
            if self.suspects.is_empty() {
                self.settle_slice()?;
                self.recheck_behind_due();
                self.take_in_backlog()?;
            } else {
                self.try_suspects()?;
            }
            if !self.start_append() {
                return Ok(());
            }
        }
    }

    fn has_room(&self) -> bool {
        self.backlog.is_empty() && self.open_has_room()
    }

    fn open_has_room(&self) -> bool {
        let alone = self.isolate > 0 && !self.open.is_empty();
        self.suspects.is_empty() && self.open.events.len() < BATCH_EVENTS_MAX && !alone
    }

    fn take_in_backlog(&mut self) -> Result<(), ExitReason> {
        while self.open_has_room() {
            let Some(submission) = self.backlog.pop_front() else { break };
            let waits = || self.needs_prefetch(&submission.work) || self.would_overtake_fetched(&submission);
            if self.would_overtake_behind_due(&submission) {
                self.behind_due.push_back(submission);
            } else if !submission.prefetched && waits() {
                self.parked.push(submission);
            } else {
                self.decide(submission)?;
            }
        }
        Ok(())
    }

    fn needs_prefetch(&self, work: &Work) -> bool {
        let lacks = |command: &Command| {
            let transaction = command.transaction().is_some_and(|id| match self.book.known(&id) {
                None => true,
                Some(known) => known.accounts().any(|code| !self.book.contains(code)),
            });
            transaction || command.accounts().any(|code| !self.book.contains(code))
        };
        let state = match work {
            Work::ReadAccount(code) => !self.book.contains(code),
            _ => commands(work).any(lacks),
        };
        state || (self.looks_keys_up() && keys(work).any(|key| !self.keys.contains(&key.hash)))
    }

    /// Whether an ordered request that is before this one waits for what is fetched.
    fn would_overtake_fetched(&self, submission: &Submission) -> bool {
        submission.ordered.is_some()
            && self.prefetching.iter().chain(&self.parked).any(|other| other.is_before(submission))
    }

    /// Whether one has been taken back while accounts were fetched for this one.
    fn would_overtake_waiting(&self, submission: &Submission) -> bool {
        submission.ordered.is_some() && self.backlog.iter().chain(&self.parked).any(|other| other.is_before(submission))
    }

    /// Whether an ordered request that is before this one waits for what is due.
    fn would_overtake_behind_due(&self, submission: &Submission) -> bool {
        submission.ordered.is_some() && self.behind_due.iter().any(|other| other.is_before(submission))
    }

    fn looks_keys_up(&self) -> bool {
        self.look_keys_up_until.is_some_and(|until| Instant::now() < until)
    }

    /// One round trip for all that the parked requests miss, and two where they are
    /// about transactions that memory does not hold, while the append before them is
    /// under way. With them goes some of what will be missing soon.
    fn start_prefetch(&mut self) {
        if self.prefetch.is_some() || (self.parked.is_empty() && !self.due.has_to_fetch()) {
            return;
        }
        let Some(mut conn) = self.prefetch_conn.take() else { return };
        self.prefetching = std::mem::take(&mut self.parked);
        self.prefetching_ahead = self.due.next_to_fetch(&self.book);
        let mut codes = self.prefetching_ahead.clone();
        let mut ids: Vec<Uuid> = Vec::new();
        let mut hashes: Vec<[u8; 16]> = Vec::new();
        for submission in &self.prefetching {
            let missing = accounts(&submission.work).filter(|code| !self.book.contains(code));
            codes.extend(missing.cloned());
            for id in commands(&submission.work).filter_map(Command::transaction) {
                match self.book.known(&id) {
                    None => ids.push(id),
                    Some(known) => codes.extend(known.accounts().filter(|code| !self.book.contains(code)).cloned()),
                }
            }
            if self.looks_keys_up() {
                hashes.extend(keys(&submission.work).map(|key| key.hash).filter(|hash| !self.keys.contains(hash)));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        let (ledger_id, shard_count) = (self.context.ledger_id, self.context.shard_count);
        let counts = self.book.had_velocity_limits();
        self.prefetch = Some(tokio::spawn(async move {
            let fetched = fetch(&mut conn, (ledger_id, shard_count), codes, counts, &ids, &hashes);
            let fetched = tokio::time::timeout(PREFETCH_TIMEOUT, fetched);
            let result = fetched.await.unwrap_or_else(|_| Err(store::error::timed_out("a prefetch took too long")));
            Ended { conn: Some(conn), result }
        }));
    }

    fn on_prefetched(&mut self, fetched: Prefetch) -> Result<(), ExitReason> {
        self.prefetch = None;
        self.prefetch_conn = fetched.conn;
        let Fetched { known, accounts, mut counted, keys } = fetched.result.map_err(ExitReason::Failed)?;
        // What the book has counted itself is newer.
        counted.retain(|(code, _)| !self.book.contains(code));
        for account in accounts {
            self.book.load_account(account);
        }
        for (code, counted) in counted {
            self.book.load_counted(&code, counted);
        }
        for (id, known) in known {
            self.book.load_known(id, known);
        }
        self.on_fetched_ahead();
        if !keys.is_empty() {
            self.look_keys_up_until = Some(Instant::now() + KEY_LOOKUP_AFTER_HIT);
        }
        for key in keys {
            self.keys.insert(key.key_hash);
        }
        // Decided at once, so that nothing that was fetched can be evicted
        // before. They were first: they go before the backlog.
        let fetched = std::mem::take(&mut self.prefetching);
        if !self.suspects.is_empty() {
            // Only what is suspected is decided now.
            fetched.into_iter().rev().for_each(|submission| self.backlog.push_front(submission));
            return Ok(());
        }
        let mut fetched = fetched.into_iter();
        while let Some(mut submission) = fetched.next() {
            if self.would_overtake_behind_due(&submission) {
                self.behind_due.push_back(submission);
                continue;
            }
            if self.would_overtake_waiting(&submission) {
                let behind = self.backlog.iter().position(|other| submission.is_before(other));
                self.backlog.insert(behind.unwrap_or(self.backlog.len()), submission);
                continue;
            }
            submission.prefetched = true;
            if let Err(reason) = self.decide(submission) {
                self.prefetching = fetched.collect();
                return Err(reason);
            }
        }
        self.evict();
        Ok(())
    }

    /// Decides a request into the open batch, once all that is due before it is settled.
    fn decide(&mut self, mut submission: Submission) -> Result<(), ExitReason> {
        // One moment for all of it: nothing can come due between its items.
        let now = self.now();
        if self.due.is_due(now) {
            let ready = match self.settle_before(&submission.work, now) {
                Ok(ready) => ready,
                Err(reason) => {
                    self.backlog.push_front(submission);
                    return Err(reason);
                }
            };
            // What was fetched for one that waits may be evicted meanwhile.
            match ready {
                Ready::Yes => {}
                Ready::Crowded => {
                    submission.prefetched = false;
                    self.behind_due.push_back(submission);
                    return Ok(());
                }
                Ready::Missing => {
                    submission.prefetched = false;
                    self.parked.push(submission);
                    return Ok(());
                }
            }
        }
        let start = (self.book.mark(), self.open.events.len(), self.open.keys.len(), self.head);
        // A large batch at once: growing to it would copy its events several times.
        let items = submission.work.items();
        self.open.events.reserve(items);
        self.open.keys.reserve(items);
        let decided = catch_unwind(AssertUnwindSafe(|| self.decide_work(&submission.work, now)));
        let outcomes = match decided {
            Ok(outcomes) => outcomes,
            Err(_) => {
                // The panic has been logged where it happened. The book may be
                // half-changed: nothing that was decided on it is kept.
                let (_, events, keys, head) = start;
                self.open.events.truncate(events);
                self.open.keys.truncate(keys);
                self.head = head;
                submission.answer(Err(Unavailable::Defect));
                return Err(ExitReason::Panicked);
            }
        };
        self.open.pending.push(Pending { submission, outcomes, position: self.head });
        Ok(())
    }

    fn decide_work(&mut self, work: &Work, now: DateTime<Utc>) -> SmallVec<[Outcome; 1]> {
        match work {
            Work::Each(items) => items.iter().map(|item| self.decide_item(item, now)).collect(),
            Work::Atomic { commands, key } => smallvec![self.decide_atomic(commands, key, now)],
            Work::ReadAccount(code) => {
                smallvec![Outcome::Account(self.book.account(code).cloned().map(Box::new))]
            }
            Work::ReadHead => smallvec![Outcome::Head],
        }
    }

    fn decide_item(&mut self, item: &Item, now: DateTime<Utc>) -> Outcome {
        if item.key.as_ref().is_some_and(|key| self.keys.contains(&key.hash)) {
            return Outcome::KeyUsed;
        }
        let at = self.moment(now);
        match decide(&self.book, &item.command, &at) {
            Verdict::Record(fact) => {
                let index = self.open.events.len();
                let text = item.key.as_ref().map(|key| Arc::clone(&key.text));
                self.record(event(&self.book, &item.command, fact, text, &at));
                if let Some(key) = &item.key {
                    self.use_key(key, at.position, 1);
                }
                Outcome::Recorded { index, count: 1 }
            }
            Verdict::Unchanged => Outcome::Unchanged(match &item.command {
                Command::OpenAccount(open) => self.book.account(&open.code).cloned().map(Box::new),
                Command::ChangeAccount(change) => self.book.account(&change.code).cloned().map(Box::new),
                _ => None,
            }),
            Verdict::Refuse(refusal) => Outcome::Refused { item: 0, refusal },
        }
    }

    fn decide_atomic(&mut self, commands: &[Command], key: &Key, now: DateTime<Utc>) -> Outcome {
        if self.keys.contains(&key.hash) {
            return Outcome::KeyUsed;
        }
        let (mark, index, head) = (self.book.mark(), self.open.events.len(), self.head);
        for (item, command) in commands.iter().enumerate() {
            let at = self.moment(now);
            let declined = match decide(&self.book, command, &at) {
                Verdict::Record(Fact::TransactionRejected(rejected)) => Ok(rejected),
                Verdict::Record(fact) => {
                    self.record(event(&self.book, command, fact, Some(Arc::clone(&key.text)), &at));
                    continue;
                }
                Verdict::Unchanged => continue,
                Verdict::Refuse(refusal) => Err(refusal),
            };
            self.take_back_from(mark, index, head);
            return match declined {
                Err(refusal) => Outcome::Refused { item, refusal },
                Ok(rejected) => {
                    let fact = batch_rejected(&self.book, commands, item, rejected, now);
                    let at = self.moment(now);
                    self.record(event(&self.book, command, fact, Some(Arc::clone(&key.text)), &at));
                    self.use_key(key, at.position, 1);
                    Outcome::Recorded { index, count: 1 }
                }
            };
        }
        let count = self.open.events.len() - index;
        self.use_key(key, head + 1, count as u32);
        Outcome::Recorded { index, count }
    }

    /// Takes back the last events of the open batch, from `index` on.
    fn take_back_from(&mut self, mark: Mark, index: usize, head: Position) {
        let changed: SmallVec<[Uuid; 2]> =
            self.open.events.drain(index..).filter_map(|event| due::changes(&event)).collect();
        for id in &changed {
            self.book.known(id).into_iter().for_each(|known| self.due.remove(*id, known));
        }
        self.book.roll_back(mark);
        for id in &changed {
            self.book.known(id).into_iter().for_each(|known| self.due.add(*id, known));
        }
        self.head = head;
    }

    /// What the clock says, and never before the last event.
    fn now(&self) -> DateTime<Utc> {
        recorded_at(&*self.context.clock, self.last_recorded_at)
    }

    fn moment(&mut self, now: DateTime<Utc>) -> Moment {
        Moment { position: self.head + 1, recorded_at: now, transaction_id: self.ids.next(now) }
    }

    fn record(&mut self, event: Event) {
        let changed = due::changes(&event);
        if let Some(id) = changed
            && let Some(known) = self.book.known(&id)
        {
            self.due.remove(id, known);
        }
        let applied = self.book.apply(&event);
        // What `decide` says came out, `apply` computes again.
        assert!(applied.is_ok(), "a decision contradicts the book: {applied:?}");
        if let Some(id) = changed
            && let Some(known) = self.book.known(&id)
        {
            self.due.add(id, known);
        }
        self.head = event.position;
        self.last_recorded_at = event.recorded_at;
        self.open.events.push(event);
    }

    fn use_key(&mut self, key: &Key, position: Position, event_count: u32) {
        self.keys.insert(key.hash);
        self.open.keys.push(KeyRow { key_hash: key.hash, fingerprint: key.fingerprint, position, event_count });
    }

    /// Sends the open batch off, if there is room for one more, and says whether it did.
    fn start_append(&mut self) -> bool {
        self.appends.mend();
        if self.open.is_empty() || !self.appends.have_room(self.open.events.len()) {
            return false;
        }
        let OpenBatch { events, keys, pending, .. } = std::mem::take(&mut self.open);
        let (start, end) = (self.open_start, self.book.mark());
        self.open_start = end;
        self.appends.start(Batch { events }, keys, pending, (start, end));
        true
    }

    async fn on_appended(&mut self, result: Result<(), Error>) -> Result<(), ExitReason> {
        match result {
            Ok(()) => {
                self.on_committed();
                Ok(())
            }
            Err(Error::Fenced { epoch }) => {
                tracing::warn!(ledger = %self.context.ledger, epoch, "an append was refused: the claim has a newer epoch");
                self.take_back().await;
                Err(ExitReason::Fenced)
            }
            Err(Error::UniqueViolation { constraint }) if constraint == KEYS_CONSTRAINT => self.on_keys_known().await,
            Err(error @ Error::Transient(_)) if self.transient_failures < TRANSIENT_TRIES_MAX => {
                tracing::info!(ledger = %self.context.ledger, %error, "deciding a batch again");
                counter!(metric::REDECIDED, "reason" => "transient").increment(1);
                self.transient_failures += 1;
                self.take_back().await;
                Ok(())
            }
            Err(error @ Error::Exhausted(_)) => {
                tracing::error!(ledger = %self.context.ledger, %error, "an append failed for want of means; trying again");
                counter!(metric::REDECIDED, "reason" => "exhausted").increment(1);
                self.take_back().await;
                self.paused_until = Some(tokio::time::Instant::now() + EXHAUSTED_PAUSE);
                Ok(())
            }
            Err(error @ Error::Refused(_)) => {
                tracing::error!(ledger = %self.context.ledger, %error, "an append was refused");
                counter!(metric::REDECIDED, "reason" => "refused").increment(1);
                self.on_refused().await;
                Ok(())
            }
            // The connection is gone, or the log holds what it cannot hold if
            // this claim is alone. The batch stays in flight: its outcome is
            // not known.
            Err(error) => {
                tracing::warn!(ledger = %self.context.ledger, %error, "an append has no certain outcome");
                Err(ExitReason::Failed(error))
            }
        }
    }

    fn on_committed(&mut self) {
        let Some(InFlight { batch, pending, end, started, .. }) = self.appends.committed() else { return };
        failpoint("on_committed");
        histogram!(metric::APPEND_SECONDS).record(started.elapsed().as_secs_f64());
        self.transient_failures = 0;
        if !pending.is_empty() {
            self.isolate = self.isolate.saturating_sub(1);
        }
        // While there are any, a batch is one group of them and nothing else.
        self.suspects.pop();
        self.book.settle(end);
        if let Some(last) = batch.events.last() {
            self.committed = (last.position, last.recorded_at);
            histogram!(metric::BATCH_EVENTS).record(batch.events.len() as f64);
            gauge!(metric::LOG_HEAD, "ledger" => Arc::clone(&self.context.ledger)).set(last.position as f64);
            count_decisions(&batch.events);
            self.context.tail.push(Arc::clone(&batch));
        }
        for pending in pending {
            pending.answer(&batch);
        }
        self.evict();
    }

    /// Keeps memory within its bound. An account may go only when its row in
    /// the projection is exact, and nothing is due soon on it; a transaction when its
    /// last event is in the log. None goes while a prefetch is under way: it
    /// fetches what was missing when it began, and what was there must stay until
    /// its requests are decided, or they would be told that it does not exist.
    fn evict(&mut self) {
        if self.prefetch.is_some() {
            return;
        }
        self.book.evict_known(KNOWN_MAX, self.committed.0);
        let held = self.book.len();
        if held <= self.context.accounts_max {
            return;
        }
        let Context { ledger_id, shard_count, checkpoints, .. } = &self.context;
        let want = (held - self.context.accounts_max).min(EVICT_MAX);
        let due = &self.due;
        self.book.evict(want, |account| {
            let shard = shard_of(*ledger_id, account.code.as_str(), *shard_count);
            account.touched() <= checkpoints.get(shard) && !due.needs(&account.code)
        });
        gauge!(metric::ACCOUNTS_IN_MEMORY, "ledger" => Arc::clone(&self.context.ledger)).set(self.book.len() as f64);
    }

    /// The unique index knows keys that memory did not: remember them, and
    /// decide the rest again.
    async fn on_keys_known(&mut self) -> Result<(), ExitReason> {
        counter!(metric::REDECIDED, "reason" => "known_key").increment(1);
        let hashes: Vec<[u8; 16]> = match self.appends.first() {
            Some(first) => first.keys.iter().map(|key| key.key_hash).collect(),
            None => Vec::new(),
        };
        self.take_back().await;
        let Some(conn) = self.appends.conn() else { return Ok(()) };
        let find = tokio::time::timeout(PREFETCH_TIMEOUT, store::keys::find(conn, self.context.ledger_id, &hashes));
        let known = find.await.unwrap_or_else(|_| Err(store::error::timed_out("a look-up took too long")));
        for key in known.map_err(ExitReason::Failed)? {
            self.keys.insert(key.key_hash);
        }
        self.look_keys_up_until = Some(Instant::now() + KEY_LOOKUP_AFTER_HIT);
        Ok(())
    }

    /// PostgreSQL refuses something in the batch for good. Alone, the request
    /// at fault is found and answered; the others go on. What was settled in the
    /// batch is tried before, in halves, since nobody has an answer of it.
    async fn on_refused(&mut self) {
        let Some(first) = self.appends.first() else { return };
        let requests = first.pending.len();
        let settled: Vec<Uuid> = first.batch.events.iter().filter_map(due::settled_by).collect();
        self.take_back().await;
        if let Some(mut group) = self.suspects.pop() {
            if let [id] = group[..] {
                self.set_aside(id, "PostgreSQL refuses its event");
                // It was this, and no request.
                self.isolate = 0;
            } else {
                let second_half = group.split_off(group.len() / 2);
                self.suspects.extend([second_half, group]);
            }
        } else if settled.is_empty() && requests == 1 {
            if let Some(submission) = self.backlog.pop_front() {
                submission.answer(Err(Unavailable::Defect));
            }
            self.isolate = self.isolate.saturating_sub(1);
        } else {
            if requests > 0 {
                self.isolate = self.backlog.len();
            }
            if !settled.is_empty() {
                self.suspects.push(settled);
            }
        }
    }

    /// Takes back the append that failed and everything decided after it, as if
    /// none of it had been decided: the requests go to the front of the backlog.
    async fn take_back(&mut self) {
        self.appends.abandon_followers().await;
        let open = std::mem::take(&mut self.open);
        let mut taken: Vec<Pending> = Vec::new();
        self.book.roll_back(self.appends.first().map_or(self.open_start, |first| first.start));
        self.open_start = self.book.mark();
        for in_flight in self.appends.take() {
            self.keys.remove_all(in_flight.keys.iter().map(|key| key.key_hash));
            taken.extend(in_flight.pending);
        }
        self.keys.remove_all(open.keys.iter().map(|key| key.key_hash));
        taken.extend(open.pending);
        (self.head, self.last_recorded_at) = self.committed;
        self.due.forget();
        self.look_ahead_at = Instant::now();
        for pending in taken.into_iter().rev() {
            let mut submission = pending.submission;
            submission.prefetched = false;
            self.backlog.push_front(submission);
        }
    }

    /// Lets the appends under way finish, and hands over what is left.
    async fn exit(mut self, mut reason: ExitReason) -> Exit {
        while self.appends.first_runs() {
            match self.appends.ended().await {
                Ok(()) => self.on_committed(),
                Err(Error::Fenced { .. }) => {
                    self.take_back().await;
                    reason = ExitReason::Fenced;
                }
                Err(Error::Transient(_) | Error::Exhausted(_) | Error::Refused(_)) => self.take_back().await,
                Err(error) => {
                    tracing::warn!(ledger = %self.context.ledger, %error, "the last append has no certain outcome");
                }
            }
        }
        // Of the first is not known whether it was committed; those behind it never were.
        self.appends.abandon_followers().await;
        let mut in_flight = self.appends.take();
        let unknown = in_flight.pop_front().map(|first| Unknown {
            epoch: self.epoch,
            batch: first.batch,
            pending: first.pending,
        });
        let decided = in_flight.into_iter().flat_map(|follower| follower.pending).chain(self.open.pending);
        let decided = decided.map(|pending| pending.submission);
        let waiting = in_order(
            decided.chain(self.prefetching).chain(self.parked).chain(self.behind_due).chain(self.backlog).collect(),
        );
        if let Some(prefetch) = self.prefetch {
            prefetch.abort();
        }
        Exit { reason, unknown, waiting }
    }
}

/// The same requests, of which the ordered ones are in their order: what was taken back
/// last is not always what came last.
fn in_order(waiting: VecDeque<Submission>) -> VecDeque<Submission> {
    if waiting.iter().filter_map(|submission| submission.ordered).is_sorted() {
        return waiting;
    }
    let (mut ordered, others): (Vec<_>, Vec<_>) =
        waiting.into_iter().partition(|submission| submission.ordered.is_some());
    ordered.sort_by_key(|submission| submission.ordered);
    ordered.into_iter().chain(others).collect()
}

/// Name of the unique index that has the last word on keys.
const KEYS_CONSTRAINT: &str = "idempotency_keys_pkey";

fn commands(work: &Work) -> impl Iterator<Item = &Command> {
    let (items, commands): (&[Item], &[Command]) = match work {
        Work::Each(items) => (items, &[]),
        Work::Atomic { commands, .. } => (&[], commands),
        Work::ReadAccount(_) | Work::ReadHead => (&[], &[]),
    };
    items.iter().map(|item| &item.command).chain(commands)
}

/// Without those of the transactions that commands are about.
fn accounts(work: &Work) -> impl Iterator<Item = &AccountCode> {
    let read = match work {
        Work::ReadAccount(code) => Some(code),
        _ => None,
    };
    read.into_iter().chain(commands(work).flat_map(Command::accounts))
}

fn keys(work: &Work) -> impl Iterator<Item = &Key> {
    let (items, atomic): (&[Item], Option<&Key>) = match work {
        Work::Each(items) => (items, None),
        Work::Atomic { key, .. } => (&[], Some(key)),
        Work::ReadAccount(_) | Work::ReadHead => (&[], None),
    };
    items.iter().filter_map(|item| item.key.as_ref()).chain(atomic)
}

/// Reads transactions, accounts and keys, and the accounts of those transactions.
async fn fetch(
    conn: &mut Connection,
    (ledger_id, shard_count): (LedgerId, Shard),
    mut codes: Vec<AccountCode>,
    counts: bool,
    ids: &[Uuid],
    hashes: &[[u8; 16]],
) -> Result<Fetched, Error> {
    let known = if ids.is_empty() { Vec::new() } else { store::known::find(conn, ledger_id, ids).await? };
    codes.extend(known.iter().flat_map(|(_, known)| known.accounts()).cloned());
    codes.sort_unstable();
    codes.dedup();
    counter!(metric::ACCOUNTS_PREFETCHED).increment(codes.len() as u64);
    let shards: Vec<Shard> = codes.iter().map(|code| shard_of(ledger_id, code.as_str(), shard_count)).collect();
    let codes: Vec<&str> = codes.iter().map(AccountCode::as_str).collect();
    let accounts = if codes.is_empty() {
        Vec::new()
    } else {
        store::projections::load_accounts(conn, ledger_id, &shards, &codes).await?
    };
    let counted =
        if counts { super::load::counted(conn, ledger_id, shard_count, &accounts).await? } else { Vec::new() };
    let keys = if hashes.is_empty() { Vec::new() } else { store::keys::find(conn, ledger_id, hashes).await? };
    Ok(Fetched { known, accounts, counted, keys })
}

/// Answers what has waited too long.
fn expire(waiting: &mut VecDeque<Submission>) {
    let now = tokio::time::Instant::now();
    for submission in std::mem::take(waiting) {
        if submission.deadline <= now {
            submission.answer(Err(Unavailable::TimedOut));
        } else {
            waiting.push_back(submission);
        }
    }
}

fn count_decisions(events: &[Event]) {
    // What there may be thousands of in a batch is counted at once.
    let mut frequent =
        [("posted", 0), ("captured", 0), ("reversed", 0), ("transaction_authorised", 0), ("hold_expired", 0)];
    for event in events {
        let outcome = match &event.fact {
            Fact::TransactionPosted(transaction) => match transaction.kind {
                Kind::Capture => "captured",
                Kind::Reversal => "reversed",
                _ => "posted",
            },
            Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => rejected.reason.code(),
            fact => fact.type_name(),
        };
        match frequent.iter_mut().find(|(name, _)| *name == outcome) {
            Some((_, count)) => *count += 1,
            None => counter!(metric::DECISIONS, "outcome" => outcome).increment(1),
        }
    }
    for (outcome, count) in frequent {
        if count > 0 {
            counter!(metric::DECISIONS, "outcome" => outcome).increment(count);
        }
    }
}

async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn fetched(prefetch: &mut Option<JoinHandle<Prefetch>>) -> Prefetch {
    match prefetch {
        Some(prefetch) => ended(prefetch).await,
        None => std::future::pending().await,
    }
}
