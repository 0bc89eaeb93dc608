//! What the log says, as JSON: the payload of each event type, by version.
//!
//! Written by hand, because it is the hottest serialisation of all and its
//! bytes are a contract; read with serde. What is usual is left out: an asset
//! that all legs share stands once beside them, a credit-normal account and
//! zero pending amounts are not mentioned.
//!
//! Members stand in the order in which `jsonb` keeps them, shorter names first
//! and then by their bytes, which spares PostgreSQL the sorting: a quarter of its
//! reading of a payload. And an event reads the same from memory and from the log.
//!
//! A later version of a type only adds to the one before, and a fact that needs
//! nothing of what it adds is still written in the earlier one, byte for byte: so
//! an older release reads a newer one's log for as long as it can understand it,
//! and stops where it cannot.

mod read;
mod write;

pub use read::read;
pub use write::{write, write_escaped};

use crate::ledger::{Fact, Kind, RejectedTransaction, Rejection};

/// A payload that cannot be understood. Nobody may guess what it meant: readers stop.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error(
        "event type {type_name:?} in schema version {schema_version} is unknown to this release; \
         run the release that wrote it, or a newer one"
    )]
    Unknown { type_name: String, schema_version: i16 },
    #[error("the payload of event type {type_name:?} is malformed: {source}")]
    Malformed { type_name: String, source: serde_json::Error },
    #[error("the payload of event type {type_name:?} holds an invalid {what}")]
    Invalid { type_name: String, what: &'static str },
}

/// The version in which `fact` is written: the earliest that can say it.
///
/// The second version of the types about transactions came with holds, reversals,
/// schedules and rates: it has their members, their kinds and their rejections.
pub fn schema_version(fact: &Fact) -> i16 {
    let is_first = match fact {
        Fact::TransactionPosted(transaction) => transaction.kind == Kind::Payment && transaction.more.is_none(),
        Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => is_rejected_as_at_first(rejected),
        _ => true,
    };
    if is_first { 1 } else { 2 }
}

fn is_rejected_as_at_first(rejected: &RejectedTransaction) -> bool {
    let RejectedTransaction { request, account_ids: _, reason, scheduled } = rejected;
    request.kind == Kind::Payment
        && request.terms.is_none()
        && scheduled.is_none()
        && matches!(
            reason,
            Rejection::AccountClosed { .. }
                | Rejection::AccountFrozen { .. }
                | Rejection::InsufficientFunds { .. }
                | Rejection::BalanceLimitExceeded { .. }
        )
}

/// The newest version of a type that this release reads; `None` for a type that it
/// does not know.
fn newest_version(type_name: &str) -> Option<i16> {
    match type_name {
        "transaction_posted" | "transaction_rejected" | "batch_rejected" => Some(2),
        "asset_defined"
        | "account_opened"
        | "transaction_authorised"
        | "hold_voided"
        | "hold_expired"
        | "transaction_scheduled"
        | "schedule_cancelled"
        | "account_updated"
        | "account_frozen"
        | "account_unfrozen"
        | "account_closed"
        | "account_reopened"
        | "account_type_set"
        | "account_type_removed"
        | "velocity_limit_set"
        | "velocity_limit_removed"
        | "period_closed" => Some(1),
        _ => None,
    }
}
