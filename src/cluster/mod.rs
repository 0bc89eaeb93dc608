//! Who does what: workers, their claims, and the ledgers they serve.
//!
//! [`worker`] is the process. Its [`session`] holds the locks and reconciles what
//! it holds with the [`assignment`], and [`overview`] is what that comes to for
//! all of them; its [`ledgers`] run the services. What is another worker's it
//! [`follow`]s and [`forward`]s to, by way of its [`peer`]s, in the form of
//! [`wire`].

pub mod assignment;
pub mod follow;
pub mod forward;
pub mod ledgers;
pub mod overview;
pub mod peer;
pub mod session;
pub mod wire;
pub mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::counter;
use tokio::sync::Notify;

pub use ledgers::{Ledger, Ledgers};
pub use worker::{Status, Worker};

use crate::sequencer::Claim;
use crate::store::Epoch;
use crate::store::claims::Unit;
use crate::telemetry::metric;

/// A ledger's claim, as its sequencer sees it.
#[derive(Clone, Debug)]
pub enum ClaimState {
    /// Not known yet, or lost and being won back: requests are held.
    Waiting,
    /// Another worker holds it, or is to: requests are forwarded.
    Standby,
    Held(Claim),
    /// The worker stops.
    Stopped,
}

/// Requests for a new epoch, by those who lost their connection or their fence:
/// per unit, the epoch that is of no use any more. A unit is in it once, however
/// often it is asked for, so none is ever lost for want of room.
#[derive(Clone, Debug, Default)]
pub struct Renewals(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    refused: Mutex<BTreeMap<Unit, Epoch>>,
    more: Notify,
    /// Writes that a newer epoch refused.
    fenced: AtomicU64,
}

/// What the session takes them from.
#[derive(Debug)]
pub struct RenewalsAsked(Arc<Asked>);

impl Renewals {
    pub fn new() -> (Self, RenewalsAsked) {
        let asked = Arc::<Asked>::default();
        (Self(Arc::clone(&asked)), RenewalsAsked(asked))
    }

    /// Counts an append or a flush that a newer epoch refused.
    pub fn count_fenced(&self, write: &'static str) {
        counter!(metric::FENCED, "write" => write).increment(1);
        self.0.fenced.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks for an epoch above `refused`. Asking twice is fine.
    pub fn ask(&self, unit: Unit, refused: Epoch) {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(unit, refused);
        self.0.more.notify_one();
    }
}

impl RenewalsAsked {
    /// Writes that a newer epoch refused, so far.
    pub fn fenced(&self) -> u64 {
        self.0.fenced.load(Ordering::Relaxed)
    }

    /// The next unit to be renewed, sequencers first, and its epoch that was
    /// refused. Cancelling the wait loses nothing.
    pub async fn recv(&mut self) -> Option<(Unit, Epoch)> {
        loop {
            let next = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if next.is_some() {
                return next;
            }
            self.0.more.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_renewal_is_asked_for_once_and_none_is_lost() {
        let (renewals, mut asked) = Renewals::new();
        for epoch in 1..3 {
            for shard in 0..1_024 {
                renewals.ask(Unit::Projector(shard), epoch);
            }
        }
        renewals.ask(Unit::Sequencer(1), 9);
        assert_eq!(asked.recv().await, Some((Unit::Sequencer(1), 9)));
        for shard in 0..1_024 {
            assert_eq!(asked.recv().await, Some((Unit::Projector(shard), 2)));
        }
        let later = async {
            tokio::task::yield_now().await;
            renewals.ask(Unit::Sequencer(2), 1);
        };
        let (next, ()) = tokio::join!(asked.recv(), later);
        assert_eq!(next, Some((Unit::Sequencer(2), 1)));
    }
}
