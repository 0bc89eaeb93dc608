//! Transactions that later commands are about: holds, scheduled ones, and what is
//! left to reverse of posted ones.
//!
//! Memory keeps those that wait for a moment of their own, since they are due
//! whatever clients do; the others are read back from the log when they are asked
//! for, from their first event and their last one, which states all that changes.

use chrono::{DateTime, Utc};
use smallvec::SmallVec;

use super::amount::Amount;
use super::event::{Event, Fact, Position};
use super::name::AccountCode;
use super::transaction::{Leg, LegRequest, Origin, ReleaseReason, Scheduled};

/// What a hold weighs ([`Known::weight`]): it has two legs, and memory keeps none of its
/// notes.
pub const HOLD_WEIGHT: usize = 1;

/// A transaction, as far as commands about it depend on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Position of its first event.
    pub position: Position,
    /// Position of the last event that changed it.
    pub changed: Position,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Hold(Hold),
    Posted(Posted),
    /// Waits for its `effective_at`.
    Scheduled(Box<Scheduled>),
    Cancelled,
    Rejected,
}

/// Funds that were reserved, and what became of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// As they were authorised: the debit first, each with the whole amount.
    pub legs: SmallVec<[LegRequest; 2]>,
    pub state: HoldState,
    /// Still pending.
    pub remaining: Amount,
    /// Posted by captures.
    pub captured: Amount,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Where a hold stands. All but the first are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldState {
    /// Something is still reserved; parts may have been captured.
    Authorised,
    Captured,
    Voided,
    Expired,
}

impl HoldState {
    pub const ALL: [Self; 4] = [Self::Authorised, Self::Captured, Self::Voided, Self::Expired];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authorised => "authorised",
            Self::Captured => "captured",
            Self::Voided => "voided",
            Self::Expired => "expired",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

impl From<ReleaseReason> for HoldState {
    fn from(reason: ReleaseReason) -> Self {
        match reason {
            ReleaseReason::Voided => Self::Voided,
            ReleaseReason::Expired => Self::Expired,
        }
    }
}

/// What was posted, and what of each leg is not reversed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Posted {
    pub legs: SmallVec<[LegRequest; 2]>,
    pub remaining: SmallVec<[Amount; 2]>,
}

impl Known {
    /// What the first event of a transaction says of it; `None` for an event that
    /// begins none.
    pub fn begun_by(event: &Event) -> Option<Self> {
        let state = match &event.fact {
            Fact::TransactionAuthorised(authorisation) => {
                let legs = asked(&authorisation.transaction.legs);
                let remaining = legs.first()?.amount;
                State::Hold(Hold {
                    legs,
                    state: HoldState::Authorised,
                    remaining,
                    captured: Amount::ZERO,
                    expires_at: authorisation.expires_at,
                })
            }
            Fact::TransactionPosted(transaction) => State::Posted(Posted::new(asked(&transaction.legs))),
            Fact::TransactionScheduled(scheduled) => State::Scheduled(Box::new(scheduled.clone())),
            Fact::TransactionRejected(_) | Fact::BatchRejected { .. } => State::Rejected,
            _ => return None,
        };
        Some(Self { position: event.position, changed: event.position, state })
    }

    /// The same after a later event about it, be it the next or the last one;
    /// `None` when that event cannot follow.
    pub fn changed_by(&self, event: &Event) -> Option<Self> {
        let state = match (&self.state, &event.fact) {
            (State::Hold(hold), Fact::TransactionPosted(transaction)) => {
                let Some(Origin::Capture { remaining, captured, .. }) = origin(transaction) else { return None };
                let state = if remaining.is_zero() { HoldState::Captured } else { HoldState::Authorised };
                State::Hold(Hold { state, remaining: *remaining, captured: *captured, ..hold.clone() })
            }
            (State::Hold(hold), Fact::HoldReleased(release)) => State::Hold(Hold {
                state: release.reason.into(),
                remaining: Amount::ZERO,
                captured: release.captured,
                ..hold.clone()
            }),
            (State::Posted(posted), Fact::TransactionPosted(transaction)) => {
                State::Posted(posted.reversed_by(transaction)?)
            }
            (State::Scheduled(scheduled), Fact::TransactionPosted(transaction)) => match origin(transaction)? {
                Origin::Schedule { .. } => State::Posted(Posted::new(asked(&transaction.legs))),
                Origin::Reversal { .. } => {
                    State::Posted(Posted::new(scheduled.request.legs.clone()).reversed_by(transaction)?)
                }
                Origin::Capture { .. } => return None,
            },
            (State::Scheduled(_), Fact::TransactionRejected(_)) => State::Rejected,
            (State::Scheduled(_), Fact::ScheduleCancelled(_)) => State::Cancelled,
            _ => return None,
        };
        Some(Self { position: self.position, changed: event.position, state })
    }

    /// When something happens to it by itself.
    pub fn due_at(&self) -> Option<DateTime<Utc>> {
        match &self.state {
            State::Hold(Hold { state: HoldState::Authorised, expires_at, .. }) => *expires_at,
            State::Scheduled(scheduled) => scheduled.request.effective_at,
            _ => None,
        }
    }

    /// What it counts against [`super::book::WAITING_MAX`] while it waits for a moment:
    /// the same from its first event to its last one.
    pub fn weight(&self) -> usize {
        match &self.state {
            State::Scheduled(scheduled) => scheduled.request.weight(),
            _ => HOLD_WEIGHT,
        }
    }

    /// The accounts that must be in the book before a command about it is decided.
    pub fn accounts(&self) -> impl Iterator<Item = &AccountCode> {
        let legs: &[LegRequest] = match &self.state {
            State::Hold(hold) => &hold.legs,
            State::Posted(posted) => &posted.legs,
            State::Scheduled(scheduled) => &scheduled.request.legs,
            State::Cancelled | State::Rejected => &[],
        };
        legs.iter().map(|leg| &leg.account)
    }
}

impl Posted {
    fn new(legs: SmallVec<[LegRequest; 2]>) -> Self {
        let remaining = legs.iter().map(|leg| leg.amount).collect();
        Self { legs, remaining }
    }

    /// The legs of the reversal after which `remaining` is left: the transaction's
    /// own, in their order, on the other side.
    pub fn taken(&self, remaining: &[Amount]) -> SmallVec<[LegRequest; 2]> {
        let legs = self.legs.iter().zip(&self.remaining).zip(remaining);
        let legs = legs.map(|((leg, before), after)| leg.mirrored(before.less(*after)));
        legs.filter(|leg| leg.amount.is_positive()).collect()
    }

    fn reversed_by(&self, transaction: &super::Transaction) -> Option<Self> {
        let Some(Origin::Reversal { remaining, .. }) = origin(transaction) else { return None };
        (remaining.len() == self.legs.len()).then(|| Self { legs: self.legs.clone(), remaining: remaining.clone() })
    }
}

fn origin(transaction: &super::Transaction) -> Option<&Origin> {
    transaction.more.as_ref()?.origin.as_ref()
}

/// The legs as they had been asked for.
fn asked(legs: &[Leg]) -> SmallVec<[LegRequest; 2]> {
    let asked = |leg: &Leg| LegRequest {
        account: leg.account.clone(),
        side: leg.side,
        amount: leg.amount,
        asset: leg.asset.clone(),
    };
    legs.iter().map(asked).collect()
}
