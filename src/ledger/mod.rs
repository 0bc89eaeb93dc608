//! The pure core: what money may do.
//!
//! No I/O, no clock, no SQL and no async in here. [`decide`] looks at the
//! [`Book`] and says what happens; [`Book::apply`] makes it so. Both take time
//! and identifiers as inputs, so that a history replayed gives the same book.
//!
//! Reading order: [`amount`], [`name`], [`asset`], [`account`],
//! [`transaction`], [`rejection`], [`event`], [`book`], [`decide`].

pub mod account;
pub mod amount;
pub mod asset;
pub mod book;
pub mod decide;
pub mod event;
pub mod name;
pub mod rejection;
pub mod transaction;

pub use account::{Account, AccountId, AccountStatus, Balance, Limits};
pub use amount::Amount;
pub use asset::Asset;
pub use book::{Book, Mark};
pub use decide::{Command, OpenAccount, Verdict, decide};
pub use event::{Event, Fact, Moment, Position};
pub use name::{AccountCode, AssetCode, LedgerName};
pub use rejection::{Refusal, Rejection};
pub use transaction::{Kind, Leg, LegRequest, RejectedTransaction, Side, Transaction, TransactionRequest};
