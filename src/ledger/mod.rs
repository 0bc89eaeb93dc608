//! The pure core: what money may do.
//!
//! No I/O, no clock, no SQL and no async in here. [`decide`] looks at the
//! [`Book`] and says what happens; [`Book::apply`] makes it so. Both take time
//! and identifiers as inputs, so that a history replayed gives the same book.
//!
//! Reading order: [`amount`], [`name`], [`asset`], [`account`],
//! [`transaction`], [`rule`], [`rejection`], [`event`], [`known`], [`book`],
//! [`decide`]. Exchange rates are a subject of their own, in `exchange`.

pub mod account;
pub mod amount;
pub mod asset;
pub mod book;
pub mod decide;
pub mod event;
mod exchange;
#[cfg(test)]
mod fixture;
pub mod known;
pub mod name;
pub mod rejection;
pub mod rule;
pub mod transaction;
pub mod velocity;

pub use account::{Account, AccountId, AccountStatus, Attributes, Balance, Freeze, FreezeScope, Limits};
pub use amount::Amount;
pub use asset::Asset;
pub use book::{Book, Mark};
pub use decide::{
    AccountUpdate, Cancel, Capture, ChangeAccount, Command, Notes, OpenAccount, Part, Reverse, Verdict, Void, decide,
};
pub use event::{AccountChanged, Change, Event, Fact, Moment, Position};
pub use exchange::{RATE_DIGITS_MAX, RATES_MAX, REMAINDER_DIGITS_MAX};
pub use known::{Hold, HoldState, Known, Posted, State};
pub use name::{AccountCode, AssetCode, LedgerName};
pub use rejection::{Field, Place, Refusal, Rejection};
pub use rule::{AccountType, Direction, Rule, RuleKey, Scope, VelocityLimit, Window};
pub use transaction::{
    Authorisation, Cancelled, Expiry, HoldRef, Kind, Leg, LegRequest, More, Origin, Rate, RejectedTransaction, Release,
    ReleaseReason, Scheduled, Side, Terms, Transaction, TransactionRequest, Usage,
};
pub use velocity::{Counted, Counters};
