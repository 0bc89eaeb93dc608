//! Events: facts in the order in which they happened.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::account::{AccountId, Attributes, Limits};
use super::name::{AccountCode, AssetCode};
use super::rule::{Rule, RuleKey};
use super::transaction::{
    Authorisation, Cancelled, Leg, Origin, RejectedTransaction, Release, ReleaseReason, Scheduled, Side, Transaction,
};
use super::velocity::Counted;
use std::sync::Arc;

/// An event's number in its ledger: 1, 2, 3, … without a gap. 0 is before the first.
pub type Position = u64;

/// Where and when a fact is to be recorded: everything that the core cannot
/// know by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub position: Position,
    /// UTC, microseconds; never before the moment of the event before.
    pub recorded_at: DateTime<Utc>,
    /// The id to give to a transaction, uuid v7.
    pub transaction_id: Uuid,
}

/// One business fact, one row in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub position: Position,
    pub recorded_at: DateTime<Utc>,
    pub effective_at: DateTime<Utc>,
    /// Set for transactions. One that was authorised or scheduled keeps its id
    /// when it is voided, expires, is posted at its time, rejected or cancelled.
    pub transaction_id: Option<Uuid>,
    /// The client's key, where the request had one. The events of an atomic
    /// batch share theirs.
    pub idempotency_key: Option<Arc<str>>,
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    AssetDefined {
        code: AssetCode,
        scale: u8,
    },
    AccountOpened {
        code: AccountCode,
        asset: AssetCode,
        normal: Side,
        limits: Limits,
        metadata: Option<Arc<str>>,
    },
    TransactionPosted(Transaction),
    TransactionRejected(RejectedTransaction),
    /// An atomic batch of which one item was declined: nothing was posted.
    BatchRejected {
        /// Index of the first item that was declined, from 0.
        item: usize,
        rejected: RejectedTransaction,
    },
    /// Funds are reserved.
    TransactionAuthorised(Authorisation),
    /// Reserved funds are given back: `hold_voided` or `hold_expired`.
    HoldReleased(Release),
    TransactionScheduled(Scheduled),
    ScheduleCancelled(Cancelled),
    AccountChanged(AccountChanged),
    RuleSet(Rule),
    RuleRemoved(RuleKey),
    /// Nothing can become effective before this any more.
    PeriodClosed {
        before: DateTime<Utc>,
    },
}

/// A change of an account's attributes, with all of them as they are afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountChanged {
    pub account: AccountCode,
    pub account_id: AccountId,
    pub change: Change,
    pub after: Attributes,
    /// Why, in the operator's words, where they were asked for.
    pub reason: Option<Arc<str>>,
}

/// What was done to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Updated,
    Frozen,
    Unfrozen,
    Closed,
    Reopened,
}

impl Change {
    pub const ALL: [Self; 5] = [Self::Updated, Self::Frozen, Self::Unfrozen, Self::Closed, Self::Reopened];

    /// The name of the event type.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Updated => "account_updated",
            Self::Frozen => "account_frozen",
            Self::Unfrozen => "account_unfrozen",
            Self::Closed => "account_closed",
            Self::Reopened => "account_reopened",
        }
    }
}

impl Fact {
    /// The stable name of the event type, as in the log and in the API.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::AssetDefined { .. } => "asset_defined",
            Self::AccountOpened { .. } => "account_opened",
            Self::TransactionPosted(_) => "transaction_posted",
            Self::TransactionRejected(_) => "transaction_rejected",
            Self::BatchRejected { .. } => "batch_rejected",
            Self::TransactionAuthorised(_) => "transaction_authorised",
            Self::HoldReleased(release) => match release.reason {
                ReleaseReason::Voided => "hold_voided",
                ReleaseReason::Expired => "hold_expired",
            },
            Self::TransactionScheduled(_) => "transaction_scheduled",
            Self::ScheduleCancelled(_) => "schedule_cancelled",
            Self::AccountChanged(changed) => changed.change.type_name(),
            Self::RuleSet(Rule::AccountType(_)) => "account_type_set",
            Self::RuleSet(Rule::VelocityLimit(_)) => "velocity_limit_set",
            Self::RuleRemoved(RuleKey::AccountType(_)) => "account_type_removed",
            Self::RuleRemoved(RuleKey::VelocityLimit(_)) => "velocity_limit_removed",
            Self::PeriodClosed { .. } => "period_closed",
        }
    }

    /// The earlier transaction that this one changes or refers to: the hold of a
    /// capture, the transaction of a reversal. `None` for what was declined.
    pub fn subject(&self) -> Option<Uuid> {
        let Self::TransactionPosted(transaction) = self else { return None };
        match transaction.more.as_ref()?.origin.as_ref()? {
            Origin::Capture { hold, .. } => Some(hold.id),
            Origin::Reversal { transaction, .. } => Some(*transaction),
            Origin::Schedule { .. } => None,
        }
    }

    /// What velocity limits have counted with it, each with its leg.
    pub fn counted(&self) -> impl Iterator<Item = (&Leg, Counted)> {
        let transaction = match self {
            Self::TransactionPosted(transaction) => Some(transaction),
            Self::TransactionAuthorised(authorisation) => Some(&authorisation.transaction),
            _ => None,
        };
        let more = transaction.and_then(|transaction| Some((&transaction.legs, transaction.more.as_ref()?)));
        more.into_iter().flat_map(|(legs, more)| {
            more.usage.iter().filter_map(|usage| Some((legs.get(usize::from(usage.leg))?, usage.counted)))
        })
    }

    /// The legs that it posted or made pending, each with the balance it leaves behind.
    pub fn legs(&self) -> &[Leg] {
        match self {
            Self::TransactionPosted(transaction) => &transaction.legs,
            Self::TransactionAuthorised(authorisation) => &authorisation.transaction.legs,
            Self::HoldReleased(release) => &release.legs,
            _ => &[],
        }
    }
}
