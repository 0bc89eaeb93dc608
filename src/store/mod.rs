//! All SQL, and only here.
//!
//! The header of each module says what may run at the same time as its
//! statements, and why that is safe.

pub mod api_keys;
pub mod as_of;
pub mod backdating;
pub mod claims;
pub mod connect;
pub mod connection;
pub mod error;
pub mod events;
pub mod exports;
pub mod jsonb;
pub mod keys;
pub mod known;
pub mod ledgers;
pub mod numeric;
pub mod payload;
pub mod projections;
pub mod rebuild;
pub mod rows;
pub mod rules;
pub mod search;
pub mod standing;
pub mod story;
pub mod verify;
pub mod waiting;

pub use connect::Database;
pub use connection::Connection;
pub use error::Error;

/// A ledger's number in the database.
pub type LedgerId = i32;
/// A range of accounts: 0 to shard count - 1.
pub type Shard = i16;
/// A claim's fencing number.
pub type Epoch = i64;
