//! Steelyard: an event-sourced payments ledger on PostgreSQL.
//!
//! A payment is decided in the memory of the one sequencer of its ledger,
//! committed to one gapless log together with everyone else's, and folded into
//! balances by the workers that have claimed the account ranges.
//!
//! Modules in reading order, the way data flows:

#![forbid(unsafe_code)]
// The OpenAPI document is written as JSON in macros, whose expansion is as deep as they have members.
#![recursion_limit = "256"]

pub mod cli;
pub mod cluster;
pub mod http;
pub mod ledger;
pub mod metadata;
pub mod projector;
pub mod sequencer;
pub mod store;

pub mod clock;
pub mod config;
pub mod embedded_pg;
pub mod failpoint;
pub mod safety;
pub mod shard;
pub mod telemetry;
