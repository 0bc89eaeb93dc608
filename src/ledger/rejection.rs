//! Why something was not done: two closed lists in a fixed order.
//!
//! When several reasons apply, the first one in this order is given, always:
//!
//! | # | code | recorded |
//! | --- | --- | --- |
//! | 1 | `validation_failed` | no |
//! | 2 | `same_account` | no |
//! | 3 | `account_not_found` | no |
//! | 4 | `asset_mismatch` | no |
//! | 5 | `account_closed` | yes |
//! | 6 | `account_frozen` | yes |
//! | 7 | `insufficient_funds` | yes |
//! | 8 | `balance_limit_exceeded` | yes |
//!
//! Within one code the first leg that shows it is named.

use smallvec::SmallVec;

use super::account::Account;
use super::amount::Amount;
use super::name::{AccountCode, AssetCode};

/// The request cannot mean anything in this book. Nothing is recorded, and the
/// idempotency key stays free.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// A rule that the type system does not hold. Says which.
    Invalid(std::borrow::Cow<'static, str>),
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
}

/// A business rule says no. That is a fact and is recorded as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    AccountClosed {
        account: AccountCode,
    },
    AccountFrozen {
        account: AccountCode,
    },
    /// The floor would be broken: `available` would fall to `would_be`.
    InsufficientFunds {
        account: AccountCode,
        available: Amount,
        would_be: Amount,
        min_balance: Amount,
    },
    /// The cap would be broken, or a total would have more than 38 digits
    /// (then `would_be` and `max_balance` are the largest amount).
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
            Self::AccountClosed { .. } => "account_closed",
            Self::AccountFrozen { .. } => "account_frozen",
            Self::InsufficientFunds { .. } => "insufficient_funds",
            Self::BalanceLimitExceeded { .. } => "balance_limit_exceeded",
        }
    }

    pub const fn account(&self) -> &AccountCode {
        match self {
            Self::AccountClosed { account }
            | Self::AccountFrozen { account }
            | Self::InsufficientFunds { account, .. }
            | Self::BalanceLimitExceeded { account, .. } => account,
        }
    }
}
