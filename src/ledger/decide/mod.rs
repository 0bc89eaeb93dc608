//! The decision: what a command does to a book, without doing it.
//!
//! Here are the commands; the rules about each noun are in a module of its own.

mod accounts;
mod due;
mod holds;
mod reversals;
mod rules;
mod transact;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use smallvec::SmallVec;
use uuid::Uuid;

use super::account::Freeze;
use super::amount::Amount;
use super::book::Book;
use super::event::{Event, Fact, Moment};
use super::known::Known;
use super::name::{AccountCode, AssetCode};
use super::rejection::{Place, Refusal, Rejection};
use super::rule::{Rule, RuleKey};
use super::transaction::{LegRequest, RejectedTransaction, Side, TransactionRequest};

/// What a client wants to happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    DefineAsset {
        code: AssetCode,
        scale: u8,
    },
    OpenAccount(OpenAccount),
    Transact(TransactionRequest),
    Capture(Capture),
    Void(Void),
    Reverse(Reverse),
    Cancel(Cancel),
    ChangeAccount(ChangeAccount),
    SetRule(Rule),
    RemoveRule(RuleKey),
    /// Nothing is to become effective before this any more.
    ClosePeriod {
        before: DateTime<Utc>,
    },
    /// What has come due of a transaction: a hold expires, a scheduled one is
    /// decided. The sequencer's own; no client can send it.
    Settle(Uuid),
}

/// The attributes of a new account.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenAccount {
    pub code: AccountCode,
    pub asset: AssetCode,
    /// `None` is as the account's type has it, or credit.
    pub normal: Option<Side>,
    /// `None` is as the account's type has it, or 0; `Some(None)` is no floor.
    pub min_balance: Option<Option<Amount>>,
    /// `None` is as the account's type has it, or none; `Some(None)` is no cap.
    pub max_balance: Option<Option<Amount>>,
    pub metadata: Option<Arc<str>>,
}

/// The client's own words about a command on an earlier transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    pub reference: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub metadata: Option<Arc<str>>,
}

/// Post what a hold has reserved.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// Id of the authorised payment.
    pub payment: Uuid,
    /// `None` is all that remains.
    pub amount: Option<Amount>,
    /// Give back what then remains.
    pub last: bool,
    pub notes: Notes,
}

/// Give back what a hold has reserved. Its event has no place for a client's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Void {
    pub payment: Uuid,
}

/// Post the counterpart of what a transaction has posted.
#[derive(Clone, Debug, PartialEq)]
pub struct Reverse {
    pub transaction: Uuid,
    pub part: Part,
    /// It may break a floor. Nothing else is waived.
    pub force: bool,
    pub notes: Notes,
}

/// How much of a transaction is reversed.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// All that is left.
    Rest,
    /// So much of each leg of a transaction of two legs.
    Amount(Amount),
    /// Legs of the reversal itself, each on the other side of a leg of the
    /// transaction on the same account.
    Legs(SmallVec<[LegRequest; 2]>),
}

/// Withdraw a scheduled transaction. Its event has no place for a client's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Cancel {
    pub transaction: Uuid,
}

/// Change an account's attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeAccount {
    pub code: AccountCode,
    pub change: AccountUpdate,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AccountUpdate {
    /// `None` leaves it as it is; `Some(None)` takes it away.
    Update {
        min_balance: Option<Option<Amount>>,
        max_balance: Option<Option<Amount>>,
        metadata: Option<Option<Arc<str>>>,
    },
    Freeze(Freeze),
    Unfreeze {
        reason: Arc<str>,
    },
    Close {
        reason: Option<Arc<str>>,
    },
    Reopen {
        reason: Option<Arc<str>>,
    },
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is a fact, be it a posting or a recorded rejection: append it.
    Record(Fact),
    /// It is so already; nothing to record.
    Unchanged,
    /// It cannot be; nothing to record.
    Refuse(Refusal),
}

impl Command {
    /// The accounts that must be in the book, or be known not to exist, before
    /// [`decide`] may look at the command; beside those of [`Self::transaction`].
    pub fn accounts(&self) -> impl Iterator<Item = &AccountCode> {
        let (one, legs): (Option<&AccountCode>, &[LegRequest]) = match self {
            Self::OpenAccount(open) => (Some(&open.code), &[]),
            Self::ChangeAccount(change) => (Some(&change.code), &[]),
            Self::Transact(request) => (None, &request.legs),
            Self::Reverse(Reverse { part: Part::Legs(legs), .. }) => (None, legs),
            _ => (None, &[]),
        };
        one.into_iter().chain(legs.iter().map(|leg| &leg.account))
    }

    /// The transaction that must be in the book with its accounts, or be known not
    /// to exist.
    pub const fn transaction(&self) -> Option<Uuid> {
        match self {
            Self::Capture(Capture { payment, .. }) | Self::Void(Void { payment, .. }) => Some(*payment),
            Self::Reverse(Reverse { transaction, .. }) | Self::Cancel(Cancel { transaction, .. }) => Some(*transaction),
            Self::Settle(transaction) => Some(*transaction),
            _ => None,
        }
    }

    /// Whether everything that is due must have been settled before it, and not
    /// only what concerns its accounts.
    pub const fn concerns_all(&self) -> bool {
        matches!(self, Self::ClosePeriod { .. })
    }
}

/// Decides one command on the state of `book`, as of `at`.
///
/// All that has come due on the command's accounts must have been settled before:
/// see [`Command::Settle`] and [`Book::due`].
pub fn decide(book: &Book, command: &Command, at: &Moment) -> Verdict {
    let decided = match command {
        Command::Transact(request) => transact::transact(book, request, at),
        Command::DefineAsset { code, scale } => accounts::define_asset(book, code, *scale),
        Command::OpenAccount(open) => accounts::open(book, open),
        Command::Capture(capture) => holds::capture(book, capture, at),
        Command::Void(void) => holds::void(book, void, at),
        Command::Reverse(reverse) => reversals::reverse(book, reverse, at),
        Command::Cancel(cancel) => due::cancel(book, cancel),
        Command::ChangeAccount(change) => accounts::change(book, change),
        Command::SetRule(rule) => rules::set(book, rule),
        Command::RemoveRule(key) => rules::remove(book, key),
        Command::ClosePeriod { before } => rules::close_period(book, *before, at),
        Command::Settle(id) => due::settle(book, *id, at),
    };
    match decided {
        Ok(fact) => Verdict::Record(fact),
        Err(Declined::Rejected(rejected)) => Verdict::Record(Fact::TransactionRejected(rejected)),
        Err(Declined::Refused(refusal)) => Verdict::Refuse(refusal),
        Err(Declined::Unchanged) => Verdict::Unchanged,
    }
}

/// The fact that records an atomic batch of `commands` of which this item was declined.
/// `book` is as it was before the batch.
pub fn batch_rejected(
    book: &Book,
    commands: &[Command],
    item: usize,
    mut rejected: RejectedTransaction,
    at: DateTime<Utc>,
) -> Fact {
    // The item was declined with those before it counted, and will be tried again with all.
    if let Rejection::VelocityLimitExceeded { passes_at, .. } = &mut rejected.reason {
        let requests = commands.iter().filter_map(|command| match command {
            Command::Transact(request) => Some(request),
            _ => None,
        });
        *passes_at = transact::batch_passes_at(book, requests, at);
    }
    Fact::BatchRejected { item, rejected }
}

/// Why a command does not do what it says.
enum Declined {
    Unchanged,
    Refused(Refusal),
    Rejected(RejectedTransaction),
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn invalid(place: Place, rule: &'static str) -> Refusal {
    Refusal::Invalid { place, rule: rule.into() }
}

/// The event that records `fact`, which [`decide`] has just given for `command` on `book`.
pub fn event(book: &Book, command: &Command, fact: Fact, idempotency_key: Option<Arc<str>>, at: &Moment) -> Event {
    Event {
        position: at.position,
        recorded_at: at.recorded_at,
        effective_at: match command {
            Command::Transact(request) => request.effective_at.unwrap_or(at.recorded_at),
            Command::Settle(id) => book.known(id).and_then(Known::due_at).unwrap_or(at.recorded_at),
            _ => at.recorded_at,
        },
        transaction_id: match (&fact, command) {
            (Fact::HoldReleased(release), _) => Some(release.hold.id),
            (Fact::ScheduleCancelled(cancelled), _) => Some(cancelled.transaction),
            (_, Command::Settle(id)) => Some(*id),
            (
                Fact::TransactionPosted(_)
                | Fact::TransactionRejected(_)
                | Fact::BatchRejected { .. }
                | Fact::TransactionAuthorised(_)
                | Fact::TransactionScheduled(_),
                _,
            ) => Some(at.transaction_id),
            _ => None,
        },
        idempotency_key,
        fact,
    }
}
