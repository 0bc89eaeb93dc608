//! Who does what: workers, their claims, and the ledgers they serve.
//!
//! In this release one worker holds every unit and the others stand by. What is
//! to come (sharing the shards among workers, forwarding to the sequencer)
//! belongs into this module: an assignment in place of "all", and a way from
//! [`ledgers`] to another worker.

pub mod ledgers;
pub mod session;
pub mod worker;

use tokio::sync::mpsc;

pub use ledgers::{Ledger, Ledgers};
pub use worker::{Status, Worker};

use crate::sequencer::Claim;
use crate::store::claims::Unit;

/// A ledger's claim, as its sequencer sees it.
#[derive(Clone, Debug)]
pub enum ClaimState {
    /// Not known yet, or lost and being won back: requests are held.
    Waiting,
    /// Another worker holds it.
    Standby,
    Held(Claim),
    /// The worker stops.
    Stopped,
}

/// Requests for a new epoch, by those who lost their connection or their fence.
#[derive(Clone, Debug)]
pub struct Renewals(mpsc::Sender<Unit>);

impl Renewals {
    /// Renewals that may wait; the session looks at all units anyway.
    const WAITING_MAX: usize = 1_024;

    pub fn new() -> (Self, mpsc::Receiver<Unit>) {
        let (sender, receiver) = mpsc::channel(Self::WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Asks; when too many ask already, the session will notice by itself.
    pub fn ask(&self, unit: Unit) {
        _ = self.0.try_send(unit);
    }
}
