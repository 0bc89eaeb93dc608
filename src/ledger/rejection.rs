//! Why something was not done: two closed lists in a fixed order.
//!
//! When several reasons apply, the first one in this order is given, always:
//!
//! | # | code | recorded |
//! | --- | --- | --- |
//! | 1 | `validation_failed` | no |
//! | 2 | `transaction_not_found` | no |
//! | 3 | `not_a_hold`, `not_reversible`, `not_scheduled` | no |
//! | 4 | `same_account` | no |
//! | 5 | `account_not_found` | no |
//! | 6 | `asset_mismatch` | no |
//! | 7 | `overloaded`: too many transactions wait for a moment | no |
//! | 8 | `hold_not_open` | yes |
//! | 9 | `capture_exceeds_hold` | yes |
//! | 10 | `reversal_exceeds_transaction` | yes |
//! | 11 | `period_closed` | yes |
//! | 12 | `account_closed` | yes |
//! | 13 | `account_frozen` | yes |
//! | 14 | `velocity_limit_exceeded` | yes |
//! | 15 | `insufficient_funds` | yes |
//! | 16 | `balance_limit_exceeded` | yes |
//!
//! Accounts, assets and rules have refusals of their own, none of them recorded.
//!
//! Within one code the first leg that shows it is named.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use smallvec::SmallVec;
use uuid::Uuid;

use super::account::Account;
use super::amount::Amount;
use super::known::HoldState;
use super::name::{AccountCode, AssetCode};
use super::rule::RuleKey;

/// The request cannot mean anything in this book. Nothing is recorded, and the
/// idempotency key stays free.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// A rule that the type system does not hold. Says which, and what breaks it.
    Invalid {
        place: Place,
        rule: Cow<'static, str>,
    },
    /// A transaction of one account with itself.
    SameAccount(AccountCode),
    /// Legs (by index) whose account does not exist.
    AccountNotFound(SmallVec<[(usize, AccountCode); 2]>),
    AssetNotFound(AssetCode),
    /// The leg's asset is not its account's.
    AssetMismatch {
        leg: usize,
        account: AccountCode,
        account_asset: AssetCode,
        asset: AssetCode,
    },
    /// The code is taken by an account with other attributes.
    AccountAlreadyExists(Box<Account>),
    /// The code is taken by an asset with another scale.
    AssetAlreadyExists {
        code: AssetCode,
        scale: u8,
    },
    TransactionNotFound(Uuid),
    /// What was to be captured or voided never was a hold.
    NotAHold(Uuid),
    /// What was to be reversed has not been posted.
    NotReversible(Uuid),
    /// What was to be cancelled is not scheduled: it never was, or no longer is.
    NotScheduled(Uuid),
    /// What waits for a moment of its own would weigh more than
    /// [`super::book::WAITING_MAX`] with this.
    TooManyWaiting,
    /// A floor above what is available, or a cap below what is expected.
    LimitsConflict {
        account: AccountCode,
        /// The name of the limit, `min_balance` or `max_balance`.
        limit: &'static str,
        /// The balance that it has to hold for.
        balance: Amount,
    },
    /// What an account must not be for this: says what it is.
    AccountState {
        account: AccountCode,
        /// `closed`, or `not_empty` for one that is to be closed.
        state: &'static str,
    },
    RuleNotFound(RuleKey),
    /// [`super::rule::RULES_MAX`] rules of the sort are set.
    TooManyRules,
    /// The period up to this was closed before.
    PeriodAlreadyClosed(DateTime<Utc>),
}

/// The part of a request that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// No part more than another.
    Whole,
    Field(Field),
    /// A field of the leg of this index.
    Leg(usize, Field),
    /// The rate of this index, or a field of it.
    Rate(usize, Option<Field>),
}

/// A part of a request, by the name that it has wherever a client writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Account,
    Amount,
    Asset,
    Before,
    Capture,
    EffectiveAt,
    ExpiresAt,
    ExpiresInS,
    From,
    Legs,
    MaxBalance,
    MinBalance,
    Rate,
    Rates,
    Remainder,
    Scale,
    To,
    Window,
}

impl Field {
    pub const ALL: [Self; 18] = [
        Self::Account,
        Self::Amount,
        Self::Asset,
        Self::Before,
        Self::Capture,
        Self::EffectiveAt,
        Self::ExpiresAt,
        Self::ExpiresInS,
        Self::From,
        Self::Legs,
        Self::MaxBalance,
        Self::MinBalance,
        Self::Rate,
        Self::Rates,
        Self::Remainder,
        Self::Scale,
        Self::To,
        Self::Window,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Amount => "amount",
            Self::Asset => "asset",
            Self::Before => "before",
            Self::Capture => "capture",
            Self::EffectiveAt => "effective_at",
            Self::ExpiresAt => "expires_at",
            Self::ExpiresInS => "expires_in_s",
            Self::From => "from",
            Self::Legs => "legs",
            Self::MaxBalance => "max_balance",
            Self::MinBalance => "min_balance",
            Self::Rate => "rate",
            Self::Rates => "rates",
            Self::Remainder => "remainder",
            Self::Scale => "scale",
            Self::To => "to",
            Self::Window => "window",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.as_str() == text)
    }
}

/// A business rule says no. That is a fact and is recorded as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The hold has ended.
    HoldNotOpen {
        account: AccountCode,
        state: HoldState,
    },
    CaptureExceedsHold {
        account: AccountCode,
        remaining: Amount,
    },
    /// More than is left of the account's leg, which may be nothing.
    ReversalExceedsTransaction {
        account: AccountCode,
        remaining: Amount,
    },
    /// It would become effective in a period that is closed.
    PeriodClosed {
        account: AccountCode,
        before: DateTime<Utc>,
    },
    AccountClosed {
        account: AccountCode,
    },
    AccountFrozen {
        account: AccountCode,
    },
    VelocityLimitExceeded {
        account: AccountCode,
        /// Name of the limit.
        limit: Arc<str>,
        /// The earliest time at which the whole request would pass all limits, if nothing
        /// else moves; `None` for never: it is more than a limit by itself.
        passes_at: Option<DateTime<Utc>>,
    },
    /// The floor would be broken: `available` would fall to `would_be`.
    InsufficientFunds {
        account: AccountCode,
        available: Amount,
        would_be: Amount,
        min_balance: Amount,
    },
    /// The cap would be broken, or a total, be it with what is pending, would have
    /// more than 38 digits: then `would_be` and `max_balance` are the largest amount,
    /// whatever the cap. Of a cap that is broken `would_be` is above it.
    BalanceLimitExceeded {
        account: AccountCode,
        would_be: Amount,
        max_balance: Amount,
    },
}

impl Rejection {
    /// The stable code, as in the log and in the API.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::HoldNotOpen { .. } => "hold_not_open",
            Self::CaptureExceedsHold { .. } => "capture_exceeds_hold",
            Self::ReversalExceedsTransaction { .. } => "reversal_exceeds_transaction",
            Self::PeriodClosed { .. } => "period_closed",
            Self::VelocityLimitExceeded { .. } => "velocity_limit_exceeded",
            Self::AccountClosed { .. } => "account_closed",
            Self::AccountFrozen { .. } => "account_frozen",
            Self::InsufficientFunds { .. } => "insufficient_funds",
            Self::BalanceLimitExceeded { .. } => "balance_limit_exceeded",
        }
    }

    pub const fn account(&self) -> &AccountCode {
        match self {
            Self::HoldNotOpen { account, .. }
            | Self::CaptureExceedsHold { account, .. }
            | Self::ReversalExceedsTransaction { account, .. }
            | Self::PeriodClosed { account, .. }
            | Self::VelocityLimitExceeded { account, .. }
            | Self::AccountClosed { account }
            | Self::AccountFrozen { account }
            | Self::InsufficientFunds { account, .. }
            | Self::BalanceLimitExceeded { account, .. } => account,
        }
    }
}
