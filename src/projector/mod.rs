//! Projectors: fold the log into accounts, balances and statements.
//!
//! The [`service`] of a ledger follows the tail in memory where it can and the
//! log by position where it must, [`fold`]s what it finds, and flushes it with
//! the checkpoints of the shards that this worker has claimed.
//! [`rebuild`] fills fresh tables from the beginning of the log, and [`verify`]
//! compares; both by way of [`replay`], a fold that believes nothing.

pub mod backdating;
pub mod checkpoints;
pub mod fold;
pub mod rebuild;
pub mod replay;
pub mod service;
pub mod verify;

pub use checkpoints::Checkpoints;

/// Told how much of a long piece of work is done: what is done, and the total.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);
