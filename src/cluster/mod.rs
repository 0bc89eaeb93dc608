//! Who does what: workers, their claims, and the ledgers they serve.
//!
//! [`worker`] is the process. Its [`session`] holds the locks and reconciles what
//! it holds with the [`assignment`]; its [`ledgers`] run the services. What is
//! another worker's it [`follow`]s and [`forward`]s to, by way of its [`peer`]s,
//! in the form of [`wire`].

pub mod assignment;
pub mod follow;
pub mod forward;
pub mod ledgers;
pub mod peer;
pub mod session;
pub mod wire;
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
    /// Another worker holds it, or is to: requests are forwarded.
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
