//! Appends under way: at most two, in the order of their positions.
//!
//! The first may commit as soon as it is written. A second, if it is large
//! enough to be worth a transaction of several statements, writes its rows on a
//! connection of its own at the same time, and commits only once the first has:
//! so one batch is written while the one before it becomes durable, and the log
//! still grows in order and without a hole. When the first fails, the second is
//! abandoned: its COMMIT has never been sent. A connection that is lost with an
//! abandoned batch is replaced, in the background: one is enough to go on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::Batch;
use super::engine::Pending;
use crate::failpoint::failpoint;
use crate::ledger::Mark;
use crate::store::events::KeyRow;
use crate::store::{self, Connection, Database, Epoch, Error, LedgerId};

/// A statement of an append that takes longer counts as lost: its outcome is read back.
const APPEND_TIMEOUT: Duration = Duration::from_secs(8);
/// Connections, and so appends at a time: one that commits, one that writes.
pub const APPENDS_MAX: usize = 2;

/// Between tries to replace a lost connection.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// A batch on its way into the log.
pub struct InFlight {
    pub batch: Arc<Batch>,
    pub keys: Arc<Vec<KeyRow>>,
    pub pending: Vec<Pending>,
    /// Where in the book's history it begins and ends.
    pub start: Mark,
    pub end: Mark,
    pub started: Instant,
    /// Lets it commit; `None` once it may.
    turn: Option<oneshot::Sender<()>>,
    /// `None` once its end has been seen.
    task: Option<JoinHandle<Ended<()>>>,
}

/// How a statement in a task of its own ended; without the connection when the
/// task did not live to give it back.
pub struct Ended<T> {
    pub conn: Option<Connection>,
    pub result: Result<T, Error>,
}

pub async fn ended<T>(task: &mut JoinHandle<Ended<T>>) -> Ended<T> {
    let died = |_| Ended { conn: None, result: Err(store::error::timed_out("the statement's task died")) };
    task.await.unwrap_or_else(died)
}

pub struct Appends {
    database: Database,
    ledger_id: LedgerId,
    epoch: Epoch,
    conns: Vec<Connection>,
    reconnecting: Option<AbortOnDropHandle<Result<Connection, Error>>>,
    under_way: VecDeque<InFlight>,
}

impl Appends {
    pub fn new(database: Database, ledger_id: LedgerId, epoch: Epoch, conns: [Connection; APPENDS_MAX]) -> Self {
        let under_way = VecDeque::with_capacity(APPENDS_MAX);
        Self { database, ledger_id, epoch, conns: conns.into(), reconnecting: None, under_way }
    }

    /// Begins to replace a connection that was lost, or takes in the new one.
    /// Never waits: until then appends do not overlap.
    pub fn mend(&mut self) {
        if let Some(connected) = self.reconnecting.as_mut().and_then(FutureExt::now_or_never) {
            self.reconnecting = None;
            self.conns.extend(connected.ok().and_then(Result::ok));
        }
        let used = self.under_way.iter().filter(|append| append.task.is_some()).count();
        if self.conns.len() + used < APPENDS_MAX && self.reconnecting.is_none() {
            let database = self.database.clone();
            self.reconnecting = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                let connected = database.connect_serving().await;
                if connected.is_err() {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                connected
            })));
        }
    }

    /// Whether an append of so many events may start now.
    pub fn have_room(&self, events: usize) -> bool {
        let alone = self.under_way.is_empty();
        !self.conns.is_empty() && (alone || (self.under_way.len() < APPENDS_MAX && store::events::goes_by_copy(events)))
    }

    /// Starts one; [`Self::have_room`] must have said that it may.
    pub fn start(&mut self, batch: Batch, keys: Vec<KeyRow>, pending: Vec<Pending>, (start, end): (Mark, Mark)) {
        let Some(conn) = self.conns.pop() else { return };
        let (batch, keys) = (Arc::new(batch), Arc::new(keys));
        let (turn, may_commit) = oneshot::channel();
        let turn = if self.under_way.is_empty() {
            _ = turn.send(());
            None
        } else {
            Some(turn)
        };
        let (ledger_id, epoch) = (self.ledger_id, self.epoch);
        let task = tokio::spawn(append(conn, ledger_id, epoch, Arc::clone(&batch), Arc::clone(&keys), may_commit));
        let started = Instant::now();
        self.under_way.push_back(InFlight { batch, keys, pending, start, end, started, turn, task: Some(task) });
    }

    /// Waits for the end of the first, which stays [`Self::first`] until
    /// [`Self::committed`] or [`Self::take`] takes it out; waits for ever when
    /// there is none.
    pub async fn ended(&mut self) -> Result<(), Error> {
        let task = self.under_way.front_mut().and_then(|first| first.task.as_mut());
        let Some(task) = task else { return std::future::pending().await };
        let Ended { conn, result } = ended(task).await;
        if let Some(first) = self.under_way.front_mut() {
            first.task = None;
        }
        // Nobody uses a connection again that may be in the middle of something.
        if !matches!(result, Err(Error::Unavailable(_))) {
            self.conns.extend(conn);
        }
        result
    }

    pub fn first(&self) -> Option<&InFlight> {
        self.under_way.front()
    }

    /// Whether the end of the first is still to come.
    pub fn first_runs(&self) -> bool {
        self.under_way.front().is_some_and(|first| first.task.is_some())
    }

    /// Takes out the first, which has committed, and lets the next one commit.
    pub fn committed(&mut self) -> Option<InFlight> {
        let first = self.under_way.pop_front();
        if let Some(turn) = self.under_way.front_mut().and_then(|next| next.turn.take()) {
            // One that has failed by itself does not wait any more; its end says why.
            _ = turn.send(());
        }
        first
    }

    /// The first has failed: lets those behind it roll back, and waits until they have.
    pub async fn abandon_followers(&mut self) {
        for follower in self.under_way.iter_mut().skip(1) {
            follower.turn = None;
            if let Some(mut task) = follower.task.take() {
                let Ended { conn, result } = ended(&mut task).await;
                if !matches!(result, Err(Error::Unavailable(_))) {
                    self.conns.extend(conn);
                }
            }
        }
    }

    /// Takes out all, the first in front.
    pub fn take(&mut self) -> VecDeque<InFlight> {
        std::mem::take(&mut self.under_way)
    }

    /// A connection that no append uses.
    pub fn conn(&mut self) -> Option<&mut Connection> {
        self.conns.last_mut()
    }
}

async fn append(
    mut conn: Connection,
    ledger_id: LedgerId,
    epoch: Epoch,
    batch: Arc<Batch>,
    keys: Arc<Vec<KeyRow>>,
    may_commit: oneshot::Receiver<()>,
) -> Ended<()> {
    failpoint("before_append");
    let result = if store::events::goes_by_copy(batch.events.len()) {
        append_in_turn(&mut conn, ledger_id, epoch, &batch, &keys, may_commit).await
    } else {
        in_time(store::events::append(&mut conn, ledger_id, epoch, &batch.events, &keys)).await
    };
    failpoint("before_reply");
    Ended { conn: Some(conn), result }
}

async fn append_in_turn(
    conn: &mut Connection,
    ledger_id: LedgerId,
    epoch: Epoch,
    batch: &Batch,
    keys: &[KeyRow],
    may_commit: oneshot::Receiver<()>,
) -> Result<(), Error> {
    let written = in_time(store::events::write(conn, ledger_id, epoch, &batch.events, keys)).await?;
    if may_commit.await.is_err() {
        in_time(written.roll_back()).await?;
        return Err(Error::Abandoned);
    }
    failpoint("before_commit");
    in_time(written.commit()).await
}

async fn in_time<T>(statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    store::error::within(APPEND_TIMEOUT, "an append took too long", statement).await
}
