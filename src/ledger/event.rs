//! Events: facts in the order in which they happened.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::account::Limits;
use super::name::{AccountCode, AssetCode};
use super::transaction::{RejectedTransaction, Side, Transaction};
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
    /// Set for transactions, posted or rejected.
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
        }
    }
}
