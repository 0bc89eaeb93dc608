//! Transactions: legs whose debits equal credits, per asset.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use smallvec::SmallVec;

use super::account::{AccountId, Balance};
use super::amount::Amount;
use super::name::{AccountCode, AssetCode};
use super::rejection::Rejection;

/// Legs one transaction may have: enough for a payroll run or a split
/// settlement, few enough that one event stays one small row.
pub const LEGS_MAX: usize = 256;

/// The side of an account that a leg is written on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Debit,
    Credit,
}

impl Side {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debit => "debit",
            Self::Credit => "credit",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Debit, Self::Credit].into_iter().find(|s| s.as_str() == text)
    }
}

/// What a client meant with a transaction; the rules are the same for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two legs: `from` is debited, `to` is credited.
    Payment,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payment => "payment",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Payment].into_iter().find(|k| k.as_str() == text)
    }
}

/// One leg as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegRequest {
    pub account: AccountCode,
    pub side: Side,
    /// More than zero, in the smallest unit of `asset`.
    pub amount: Amount,
    pub asset: AssetCode,
}

/// A transaction as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRequest {
    pub kind: Kind,
    pub legs: SmallVec<[LegRequest; 2]>,
    pub reference: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    /// The client's own JSON object as it came, `None` for `{}`.
    pub metadata: Option<Arc<str>>,
    /// When it counts for the books; `None` is when it is recorded.
    pub effective_at: Option<DateTime<Utc>>,
}

impl TransactionRequest {
    /// The two-leg transaction.
    pub fn payment(from: AccountCode, to: AccountCode, amount: Amount, asset: AssetCode) -> Self {
        let debit = LegRequest { account: from, side: Side::Debit, amount, asset: asset.clone() };
        let credit = LegRequest { account: to, side: Side::Credit, amount, asset };
        Self {
            kind: Kind::Payment,
            legs: SmallVec::from_buf([debit, credit]),
            reference: None,
            description: None,
            metadata: None,
            effective_at: None,
        }
    }
}

/// One leg as it was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub account: AccountCode,
    pub account_id: AccountId,
    /// The account's normal side, so that a reader of the log alone can tell
    /// what the totals amount to.
    pub normal: Side,
    pub side: Side,
    pub amount: Amount,
    pub asset: AssetCode,
    /// The account's balance after this leg.
    pub after: Balance,
}

/// A transaction that was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub kind: Kind,
    pub legs: SmallVec<[Leg; 2]>,
    pub reference: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub metadata: Option<Arc<str>>,
}

/// A transaction that a business rule declined: what was asked, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedTransaction {
    pub request: TransactionRequest,
    /// The accounts of the request's legs, in their order.
    pub account_ids: SmallVec<[AccountId; 2]>,
    pub reason: Rejection,
}
