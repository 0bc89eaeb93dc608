//! How fresh a read is.
//!
//! By default a read sees everything that was acknowledged before it began,
//! through any connection: it asks the sequencer for the head (which proves by
//! a fence check that it is the head), and waits until the projections are there.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::problem::{Code, Problem};
use crate::cluster::Ledger;
use crate::ledger::Position;
use crate::sequencer::{Answer, REQUEST_DEADLINE, Unavailable, Work};

/// A read waits so long for the projections.
const PROJECTION_WAIT: Duration = Duration::from_secs(1);

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
}

/// Waits until the projections are as fresh as asked for, and says at which
/// position they are at least.
///
/// # Errors
/// `projection_behind`; 503 when there is no sequencer to ask.
pub async fn projections_at(ledger: &Ledger, freshness: Freshness) -> Result<Position, Problem> {
    let wanted = match (freshness.min_position, freshness.is_eventual()) {
        (Some(position), _) => position,
        (None, true) => 0,
        (None, false) => head(ledger).await?,
    };
    if tokio::time::timeout(PROJECTION_WAIT, ledger.checkpoints.reached(wanted)).await.is_err() {
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
/// 503 when there is no sequencer to ask, or none that answers: that an outcome
/// is unknown can be said of a write only.
pub async fn ask(ledger: &Ledger, read: Work) -> Result<Answer, Problem> {
    ledger.handle.submit(read, Instant::now() + REQUEST_DEADLINE).await.map_err(|reason| match reason {
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
    let mut heads = ledger.tail.subscribe();
    let reached = heads.wait_for(|head| *head >= wanted);
    match tokio::time::timeout(PROJECTION_WAIT, reached).await {
        Ok(_) => Ok(ledger.tail.head()),
        Err(_) => Err(behind(wanted, ledger.tail.head())),
    }
}

fn behind(wanted: Position, reached: Position) -> Problem {
    Problem::new(
        Code::ProjectionBehind,
        format!("position {wanted} is not reached yet; the answer would be as of {reached}"),
    )
}
