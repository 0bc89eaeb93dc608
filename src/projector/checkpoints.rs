//! How far the projections of one ledger are, in memory.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

use crate::ledger::Position;
use crate::store::Shard;

/// The position that each shard's projection has durably reached, as far as
/// this worker knows. Never ahead of the database.
#[derive(Debug)]
pub struct Checkpoints {
    positions: Box<[AtomicU64]>,
    lowest: watch::Sender<Position>,
    /// Readers that wait, and the bell that they ring when they begin.
    waiting: AtomicUsize,
    wanted: Notify,
}

impl Checkpoints {
    pub fn new(shard_count: Shard) -> Self {
        let positions = (0..shard_count).map(|_| AtomicU64::new(0)).collect();
        Self { positions, lowest: watch::Sender::new(0), waiting: AtomicUsize::new(0), wanted: Notify::new() }
    }

    pub fn get(&self, shard: Shard) -> Position {
        usize::try_from(shard)
            .ok()
            .and_then(|shard| self.positions.get(shard))
            .map_or(0, |position| position.load(Ordering::Acquire))
    }

    /// The position that every shard has reached: the consistent cut.
    pub fn lowest(&self) -> Position {
        self.positions.iter().map(|position| position.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    pub fn set(&self, checkpoints: impl IntoIterator<Item = (Shard, Position)>) {
        for (shard, position) in checkpoints {
            if let Some(slot) = usize::try_from(shard).ok().and_then(|shard| self.positions.get(shard)) {
                slot.store(position, Ordering::Release);
            }
        }
        self.lowest.send_replace(self.lowest());
    }

    /// Takes in what other workers have reached; nothing goes back. Answers
    /// whether anything moved.
    pub fn advance(&self, checkpoints: impl IntoIterator<Item = (Shard, Position)>) -> bool {
        let mut moved = false;
        for (shard, position) in checkpoints {
            if let Some(slot) = usize::try_from(shard).ok().and_then(|shard| self.positions.get(shard)) {
                moved |= slot.fetch_max(position, Ordering::AcqRel) < position;
            }
        }
        if moved {
            self.lowest.send_replace(self.lowest());
        }
        moved
    }

    /// Whether a reader waits for them to move.
    pub fn are_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until a reader begins to wait.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits until every shard has reached `position`. The caller sets the deadline.
    pub async fn reached(&self, position: Position) {
        if self.lowest() >= position {
            return;
        }
        let _waiting = Waiting::new(&self.waiting);
        self.wanted.notify_one();
        // The sender lives in self, so the wait can only end well.
        _ = self.lowest.subscribe().wait_for(|lowest| *lowest >= position).await;
    }
}

/// Counts a reader for as long as it waits, also when it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
