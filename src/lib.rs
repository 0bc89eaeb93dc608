//! Steelyard: an event-sourced payments ledger on PostgreSQL.

#![forbid(unsafe_code)]

pub mod cli;
