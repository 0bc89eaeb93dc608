//! How far the projections of one ledger are, in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::ledger::Position;
use crate::store::Shard;

/// The position that each shard's projection has durably reached, as far as
/// this worker knows. Never ahead of the database.
#[derive(Debug)]
pub struct Checkpoints {
    positions: Box<[AtomicU64]>,
    lowest: watch::Sender<Position>,
}

impl Checkpoints {
    pub fn new(shard_count: Shard) -> Self {
        let positions = (0..shard_count).map(|_| AtomicU64::new(0)).collect();
        Self { positions, lowest: watch::Sender::new(0) }
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

    /// Waits until every shard has reached `position`. The caller sets the deadline.
    pub async fn reached(&self, position: Position) {
        // The sender lives in self, so the wait can only end well.
        _ = self.lowest.subscribe().wait_for(|lowest| *lowest >= position).await;
    }
}
