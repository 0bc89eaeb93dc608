//! How fresh a read is.
//!
//! By default a read sees everything that was acknowledged before it began,
//! through any connection: it asks the sequencer for the head (which proves by
//! a fence check that it is the head), and waits until the projections are there.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::problem::{Code, Problem};
use crate::cluster::Ledger;
use crate::ledger::Position;
use crate::sequencer::{Answer, Unavailable, Work};

/// A read waits so long for the projections.
const PROJECTION_WAIT: Duration = Duration::from_secs(1);
/// A read waits so long for the sequencer: a commit under way and a short
/// failover, but not as long as a payment, which has more to lose.
const SEQUENCER_WAIT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    Strong,
    Eventual,
}

/// What a client wants of a read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Freshness {
    pub consistency: Option<Consistency>,
    pub min_position: Option<Position>,
}

impl Freshness {
    pub fn is_eventual(self) -> bool {
        self.consistency == Some(Consistency::Eventual)
    }

    /// A position that a client names stands in place of the head, unless it
    /// asks for both.
    fn needs_head(self) -> bool {
        match self.consistency {
            Some(Consistency::Strong) => true,
            Some(Consistency::Eventual) => false,
            None => self.min_position.is_none(),
        }
    }
}

/// Waits until the projections are as fresh as asked for, and says at which
/// position they are at least.
///
/// # Errors
/// `projection_behind`; 503 when there is no sequencer to ask.
pub async fn projections_at(ledger: &Ledger, freshness: Freshness) -> Result<Position, Problem> {
    let head = if freshness.needs_head() { head(ledger).await? } else { 0 };
    let wanted = head.max(freshness.min_position.unwrap_or(0));
    if timeout(PROJECTION_WAIT, ledger.checkpoints.reached(wanted)).await.is_err() {
        return Err(behind(wanted, ledger.checkpoints.lowest()));
    }
    Ok(ledger.checkpoints.lowest())
}

/// The head of the log, proven.
pub async fn head(ledger: &Ledger) -> Result<Position, Problem> {
    Ok(ask(ledger, Work::ReadHead).await?.position)
}

/// Asks the sequencer for what it knows.
///
/// # Errors
/// 503 when there is no sequencer to ask, or none that answers in time: that an
/// outcome is unknown can be said of a write only.
pub async fn ask(ledger: &Ledger, read: Work) -> Result<Answer, Problem> {
    let deadline = Instant::now() + SEQUENCER_WAIT;
    // A sequencer that waits for its database does not look at deadlines.
    let answer = tokio::time::timeout_at(deadline, ledger.handle.submit(read, deadline)).await;
    answer.unwrap_or(Err(Unavailable::TimedOut)).map_err(|reason| match reason {
        Unavailable::OutcomeUnknown => Unavailable::TimedOut.into(),
        reason => reason.into(),
    })
}

/// Waits until the log itself has reached a position that a client names, and
/// says where it is at least.
///
/// # Errors
/// `projection_behind`; 503 when the database cannot be asked.
pub async fn log_at(ledger: &Ledger, min_position: Option<Position>) -> Result<Position, Problem> {
    let wanted = min_position.unwrap_or(0);
    match timeout(PROJECTION_WAIT, ledger.tail.reached(wanted)).await {
        Ok(head) => Ok(head),
        Err(_) => Err(behind(wanted, ledger.tail.head())),
    }
}

fn behind(wanted: Position, reached: Position) -> Problem {
    Problem::new(
        Code::ProjectionBehind,
        format!("position {wanted} is not reached yet; the answer would be as of {reached}"),
    )
}
