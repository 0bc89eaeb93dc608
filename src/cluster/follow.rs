//! Following what other workers do to a ledger: how far the log is when another
//! appends to it, and how far the shards are that others project.
//!
//! Both are small rows that are read by primary key, often while somebody waits
//! for them and seldom while nothing happens; nothing depends on a notification.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::forward::Routes;
use super::peer::Peers;
use super::wire::{LogPage, LogRequest, VERSION};
use crate::ledger::{Event, Position};
use crate::projector::Checkpoints;
use crate::projector::service::ShardClaims;
use crate::sequencer::Tail;
use crate::shard::ShardSet;
use crate::store::{self, Database, Error, LedgerId, Shard};

/// Between looks while a reader waits.
const PAUSE_AWAITED: Duration = Duration::from_millis(2);
/// Between looks while the log grows.
const PAUSE_BUSY: Duration = Duration::from_millis(50);
/// Between looks after a while without change.
const PAUSE_IDLE: Duration = Duration::from_millis(250);

pub struct Follower {
    pub ledger_id: LedgerId,
    pub database: Database,
    pub shard_count: Shard,
    pub tail: Arc<Tail>,
    pub checkpoints: Arc<Checkpoints>,
    /// Whether this worker sequences the ledger, and so knows the head.
    pub serving: watch::Receiver<bool>,
    /// The shards that this worker projects, and so knows.
    pub claims: watch::Receiver<ShardClaims>,
}

impl Follower {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSE_BUSY;
        loop {
            let head = !*self.serving.borrow_and_update();
            let shards = self.claims.borrow_and_update().len() < usize::try_from(self.shard_count).unwrap_or(0);
            let nothing = !head && !shards;
            if !nothing {
                pause = match self.look(head, shards).await {
                    Ok(_) if self.checkpoints.are_awaited() => PAUSE_AWAITED,
                    Ok(true) => PAUSE_BUSY,
                    Ok(false) => (pause * 2).min(PAUSE_IDLE),
                    Err(error) => {
                        tracing::debug!(%error, "the log cannot be followed at the moment");
                        PAUSE_IDLE
                    }
                };
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.serving.changed() => if changed.is_err() { return },
                changed = self.claims.changed() => if changed.is_err() { return },
                () = self.checkpoints.wanted(), if !nothing => {}
                () = tokio::time::sleep(pause), if !nothing => {}
            }
        }
    }

    /// Whether anything has moved.
    async fn look(&self, head: bool, shards: bool) -> Result<bool, Error> {
        let pool = self.database.pool();
        let mut moved = false;
        if head {
            let head = store::events::head(pool, self.ledger_id).await?;
            moved |= head.is_some_and(|(position, _)| self.tail.follow(position));
        }
        if shards {
            let checkpoints = store::projections::checkpoints(pool, self.ledger_id).await?;
            moved |= self.checkpoints.advance(checkpoints);
        }
        Ok(moved)
    }
}

/// The log of a ledger in the memory of the worker that sequences it: so that
/// PostgreSQL need not read, and write out as JSON, each event once more for each
/// worker that projects it.
pub struct Upstream {
    pub ledger_id: LedgerId,
    pub peers: Peers,
    pub routes: watch::Receiver<Routes>,
}

impl Upstream {
    /// Of up to `limit` committed events that follow on `after` without a hole those
    /// that concern `shards`, if another worker sequences the ledger and has them still.
    pub async fn after(&self, after: Position, limit: usize, shards: ShardSet) -> Option<LogPage<Event>> {
        let route = self.routes.borrow().get(&self.ledger_id).cloned()?;
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let request = LogRequest { version: VERSION, ledger_id: self.ledger_id, after, limit, shards };
        let page = match self.peers.log(&route.url, &request).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(worker_id = %route.worker_id, %error, "the log is read from the database");
                return None;
            }
        };
        let rise = page.events.is_sorted_by(|one, next| one.position < next.position);
        let first = page.events.first().map_or(page.to, |event| event.position);
        let last = page.events.last().map_or(first, |event| event.position);
        (rise && after < first && last <= page.to).then_some(page)
    }
}
