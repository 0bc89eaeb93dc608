//! The end of the log, in memory: what was just committed, for those who want
//! it without asking the database.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::ledger::{Event, Position};

/// Committed events that memory keeps, some 35 MB of payments: what two flushes
/// write and what arrives meanwhile. Readers that are further behind read by position.
const TAIL_EVENTS_MAX: usize = 60_000;

/// Events that were appended together.
#[derive(Debug)]
pub struct Batch {
    /// Their positions follow on each other.
    pub events: Vec<Event>,
}

impl Batch {
    pub fn first_position(&self) -> Option<Position> {
        self.events.first().map(|event| event.position)
    }

    pub fn last_position(&self) -> Option<Position> {
        self.events.last().map(|event| event.position)
    }
}

/// The tail of one ledger's log.
#[derive(Debug)]
pub struct Tail {
    recent: Mutex<Recent>,
    head: watch::Sender<Position>,
}

#[derive(Debug, Default)]
struct Recent {
    batches: VecDeque<Arc<Batch>>,
    events: usize,
}

impl Tail {
    pub fn new() -> Self {
        Self { recent: Mutex::default(), head: watch::Sender::new(0) }
    }

    /// Position of the last committed event that this worker knows of.
    pub fn head(&self) -> Position {
        *self.head.borrow()
    }

    /// Wakes up with every commit.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    /// Takes in what was just committed.
    pub fn push(&self, batch: Arc<Batch>) {
        let Some(last) = batch.last_position() else { return };
        let mut recent = self.lock();
        recent.events += batch.events.len();
        recent.batches.push_back(batch);
        while recent.events > TAIL_EVENTS_MAX && recent.batches.len() > 1 {
            if let Some(oldest) = recent.batches.pop_front() {
                recent.events -= oldest.events.len();
            }
        }
        drop(recent);
        self.head.send_replace(last);
    }

    /// Starts over at `head`: what lies before is to be read by position.
    pub fn reset(&self, head: Position) {
        *self.lock() = Recent::default();
        self.head.send_replace(head);
    }

    /// What another worker has appended: moves the head there, and never back.
    /// Answers whether it moved.
    pub fn follow(&self, head: Position) -> bool {
        let ahead = head > self.head();
        if ahead {
            self.reset(head);
        }
        ahead
    }

    /// The batches with everything after `after`, up to about `events_max`
    /// events; `None` when memory does not reach back so far.
    pub fn after(&self, after: Position, events_max: usize) -> Option<Vec<Arc<Batch>>> {
        let recent = self.lock();
        let first = recent.batches.front()?.first_position()?;
        if first > after + 1 {
            return None;
        }
        let start = recent.batches.partition_point(|batch| batch.last_position() <= Some(after));
        let mut events = 0;
        let wanted = recent.batches.iter().skip(start).take_while(|batch| {
            let take = events < events_max;
            events += batch.events.len();
            take
        });
        Some(wanted.cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self::new()
    }
}
