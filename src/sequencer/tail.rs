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

    /// Waits until the head is at `position` or beyond, and says where it is. The
    /// caller sets the deadline.
    pub async fn reached(&self, position: Position) -> Position {
        let mut heads = self.head.subscribe();
        // What `wait_for` gives holds the lock that a commit must have, and that
        // nobody may take twice while a commit waits for it: it goes at once.
        let reached = heads.wait_for(|head| *head >= position).await.map(|head| *head);
        reached.unwrap_or_else(|_| self.head())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Readers and commits take the same lock: with one of them holding it while
    /// it takes it once more, all of them stop for ever.
    #[test]
    fn readers_that_wait_for_the_head_never_stop_a_commit() {
        let (done, finished) = std::sync::mpsc::channel();
        let tail = Arc::new(Tail::new());
        for _ in 0..2 {
            let (tail, done) = (Arc::clone(&tail), done.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    while tail.head() < 200_000 {
                        let head = tail.head();
                        assert!(tail.reached(head).await >= head);
                    }
                });
                done.send(()).unwrap();
            });
        }
        std::thread::spawn(move || {
            (1..=200_000).for_each(|head| assert!(tail.follow(head)));
            done.send(()).unwrap();
        });
        for _ in 0..3 {
            finished.recv_timeout(Duration::from_secs(60)).expect("nobody waits for ever");
        }
    }
}
