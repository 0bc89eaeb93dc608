//! The sequencer: the one that decides, orders and appends for a ledger.
//!
//! [`Handle`] is its front: a bounded queue that any request may submit to. The
//! [`service`] behind it waits for the ledger's claim, loads what it needs and
//! runs an [`engine`] until the claim or the connection is lost, and then begins
//! anew, with what was still waiting. [`tail`] is what it leaves for others.

mod append;
pub mod due;
pub mod engine;
pub mod keys;
pub mod load;
pub mod service;
pub mod tail;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use tail::{Batch, Tail};

use crate::ledger::{Account, AccountCode, Command, Position, Refusal};
use crate::store::Epoch;

/// Commands that may wait for one ledger: two seconds of work at the pace of a
/// peak. More would only wait longer than clients do.
pub const QUEUE_ITEMS_MAX: usize = 100_000;
/// Requests that may wait, whatever they hold.
const QUEUE_REQUESTS_MAX: usize = 16_384;
/// How long a request is held while its ledger has no sequencer.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A client's idempotency key, with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub text: Arc<str>,
    pub hash: [u8; 16],
    /// Hash of the request's meaning.
    pub fingerprint: [u8; 16],
}

/// One command, and its key if it moves money.
#[derive(Clone, Debug)]
pub struct Item {
    pub command: Command,
    pub key: Option<Key>,
}

/// What a request asks of a ledger.
#[derive(Clone, Debug)]
pub enum Work {
    /// Commands that stand each for itself, in order.
    Each(SmallVec<[Item; 1]>),
    /// Transactions that are posted all or none.
    Atomic { commands: Vec<Command>, key: Key },
    /// The state of an account at the head of the log.
    ReadAccount(AccountCode),
    /// The head of the log.
    ReadHead,
}

impl Work {
    /// What it counts against the bounds of queues and frames.
    pub fn items(&self) -> usize {
        match self {
            Self::Each(items) => items.len(),
            Self::Atomic { commands, .. } => commands.len(),
            Self::ReadAccount(_) | Self::ReadHead => 1,
        }
    }
}

/// What became of one command.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Recorded as the event at this index of the answer's batch; of an atomic
    /// batch that was posted, the first of `count`.
    Recorded { index: usize, count: usize },
    /// It was so before; the account as it is, where one was to be opened or changed.
    Unchanged(Option<Box<Account>>),
    /// The idempotency key has been used: the store knows what it did.
    KeyUsed,
    /// Nothing was recorded. Of an atomic batch, with the index of the item.
    Refused { item: usize, refusal: Refusal },
    /// The account asked for.
    Account(Option<Box<Account>>),
    /// The head asked for is in the answer.
    Head,
}

/// The answer to a request, as of a moment at which everything it reflects is
/// durable and the claim was held.
#[derive(Clone, Debug)]
pub struct Answer {
    /// In the order of the request's commands.
    pub outcomes: SmallVec<[Outcome; 1]>,
    /// The events that the outcomes point into.
    pub batch: Arc<Batch>,
    /// Position of the last event that the answer reflects.
    pub position: Position,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The queue is full. Nothing was recorded.
    #[error("too many requests are waiting")]
    Overloaded,
    /// Projections are too far behind the log. Nothing was recorded.
    #[error("the projections are too far behind the log")]
    ProjectionsBehind,
    /// This worker does not sequence the ledger, and was asked by one that
    /// thought so. Nothing was recorded. No client sees it.
    #[error("another worker sequences this ledger")]
    Standby,
    /// The ledger had no sequencer within the deadline. Nothing was recorded.
    #[error("the ledger could not be reached in time")]
    TimedOut,
    /// It may or may not have been recorded, and the database that knows could
    /// not be reached within the deadline.
    #[error("whether the request was recorded is not known yet")]
    OutcomeUnknown,
    /// A defect. Nothing was recorded.
    #[error("the request could not be processed")]
    Defect,
}

/// A request on its way to an answer.
#[derive(Debug)]
pub struct Submission {
    pub work: Work,
    pub deadline: Instant,
    reply: oneshot::Sender<Result<Answer, Unavailable>>,
    /// What it needs has been fetched: what is still missing does not exist.
    prefetched: bool,
    /// It came from another worker, which knows what to do when this one does
    /// not sequence the ledger: it is not passed on once more.
    forwarded: bool,
    /// It was sent to another worker whose answer never came: it may have been recorded.
    pub asked: bool,
    /// Of a request that is not decided before those with lower numbers, whatever
    /// has to be fetched for them. Those without overtake each other.
    pub ordered: Option<u64>,
    _ticket: Ticket,
}

impl Submission {
    /// Whether it is an ordered one that must be decided before another ordered one.
    fn is_before(&self, other: &Self) -> bool {
        matches!((self.ordered, other.ordered), (Some(first), Some(second)) if first < second)
    }

    /// The client may have gone away; that changes nothing.
    pub fn answer(self, answer: Result<Answer, Unavailable>) {
        _ = self.reply.send(answer);
    }
}

/// Counts a request's items against the queue's bound for as long as it lives.
#[derive(Debug)]
struct Ticket {
    depth: Arc<AtomicUsize>,
    items: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.depth.fetch_sub(self.items, Ordering::Relaxed);
    }
}

/// The front of a ledger's sequencer.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: mpsc::Sender<Submission>,
    depth: Arc<AtomicUsize>,
    /// What is due and has to wait for a later batch.
    due: Arc<AtomicUsize>,
    /// Ordered requests so far.
    ordered: Arc<AtomicU64>,
}

/// What a sequencer has still to do, for those who would rather not be in its way.
#[derive(Clone, Debug)]
pub struct Pressure {
    depth: Arc<AtomicUsize>,
    due: Arc<AtomicUsize>,
}

impl Pressure {
    /// Items that wait for an answer, and what is due, as far as that is counted.
    pub fn items(&self) -> usize {
        self.depth.load(Ordering::Relaxed) + self.due.load(Ordering::Relaxed)
    }
}

impl Handle {
    pub fn new() -> (Self, mpsc::Receiver<Submission>) {
        let (queue, submissions) = mpsc::channel(QUEUE_REQUESTS_MAX);
        (Self { queue, depth: Arc::default(), due: Arc::default(), ordered: Arc::default() }, submissions)
    }

    /// Items waiting for an answer.
    pub fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed)
    }

    /// The same with what is due, to watch.
    pub fn pressure(&self) -> Pressure {
        Pressure { depth: Arc::clone(&self.depth), due: Arc::clone(&self.due) }
    }

    /// Where the ledger's engine says how much is due.
    pub fn due(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.due)
    }

    /// Submits a request and waits for its answer.
    ///
    /// # Errors
    /// [`Unavailable::Overloaded`] at once when the queue is full, and the
    /// others as they say.
    pub async fn submit(&self, work: Work, deadline: Instant) -> Result<Answer, Unavailable> {
        answered(self.enqueue(work, deadline, false, None)).await
    }

    /// The same for one part of a work that is submitted part by part: it is
    /// decided after all that were submitted so before it. It is in the queue, or
    /// refused, once the future has been polled. Parts that are under way together
    /// should have one deadline, or one could miss it and the next be decided.
    ///
    /// # Errors
    /// Those of [`Self::submit`].
    pub async fn submit_in_order(&self, work: Work, deadline: Instant) -> Result<Answer, Unavailable> {
        let number = self.ordered.fetch_add(1, Ordering::Relaxed);
        answered(self.enqueue(work, deadline, false, Some(number))).await
    }

    /// The same for requests from another worker, each with its deadline: all are in
    /// the queue before the first is answered, and all answers are there when the
    /// last one is. [`Unavailable::Standby`] when this worker does not sequence the
    /// ledger.
    pub async fn submit_forwarded(
        &self,
        requests: impl Iterator<Item = Result<(Work, Instant), Unavailable>>,
    ) -> Vec<Result<Answer, Unavailable>> {
        let enqueue = |(work, deadline)| self.enqueue(work, deadline, true, None);
        let enqueued: Vec<_> = requests.map(|request| request.and_then(enqueue)).collect();
        let mut answers = Vec::with_capacity(enqueued.len());
        for request in enqueued {
            answers.push(answered(request).await);
        }
        answers
    }

    /// Puts a request back that was to be forwarded, now that this worker
    /// sequences the ledger. It keeps its place in the count.
    pub fn give_back(&self, submission: Submission) {
        if let Err(error) = self.queue.try_send(submission) {
            error.into_inner().answer(Err(Unavailable::Overloaded));
        }
    }

    fn enqueue(
        &self,
        work: Work,
        deadline: Instant,
        forwarded: bool,
        ordered: Option<u64>,
    ) -> Result<Enqueued, Unavailable> {
        let items = work.items();
        let before = self.depth.fetch_add(items, Ordering::Relaxed);
        let ticket = Ticket { depth: Arc::clone(&self.depth), items };
        if before > 0 && before + items > QUEUE_ITEMS_MAX {
            return Err(Unavailable::Overloaded);
        }
        let (reply, answer) = oneshot::channel();
        let submission =
            Submission { work, deadline, reply, prefetched: false, forwarded, asked: false, ordered, _ticket: ticket };
        self.queue.try_send(submission).map_err(|_| Unavailable::Overloaded)?;
        Ok(answer)
    }
}

/// Where the answer to a request in the queue will be.
type Enqueued = oneshot::Receiver<Result<Answer, Unavailable>>;

async fn answered(enqueued: Result<Enqueued, Unavailable>) -> Result<Answer, Unavailable> {
    enqueued?.await.unwrap_or(Err(Unavailable::OutcomeUnknown))
}

/// The right to sequence a ledger, as the cluster gave it.
#[derive(Clone, Debug)]
pub struct Claim {
    pub epoch: Epoch,
    /// Cancelled when the claim is lost or given up.
    pub lost: tokio_util::sync::CancellationToken,
}
