//! Projectors: fold the log into accounts, balances and statements.
//!
//! The [`service`] of a ledger follows the tail in memory where it can and the
//! log by position where it must, [`fold`]s what it finds, and flushes it with
//! the checkpoints of the shards that this worker has claimed.
//! [`rebuild`] does the same from the beginning into fresh tables, and
//! [`verify`] compares.

pub mod checkpoints;
pub mod fold;
pub mod rebuild;
pub mod service;
pub mod verify;

pub use checkpoints::Checkpoints;
