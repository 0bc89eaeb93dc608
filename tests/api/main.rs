//! The HTTP contract, against the real server on a real PostgreSQL.
//!
//! Every answer goes through [`client::Client`], which holds it against the
//! OpenAPI document: a status, a field, a header or a code that is not described
//! there fails the test that met it.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod contract;
mod raw;

mod access;
mod account_changes;
mod accounts;
mod as_of;
mod atomic;
mod bad_input;
mod batches;
mod cluster;
mod consistency;
mod events;
mod export;
mod faults;
mod holds;
mod idempotency;
mod import;
mod ledgers;
mod legs;
mod lifecycle;
mod logs;
mod operations;
mod overload;
mod pages;
mod payments;
mod pgbouncer;
mod protocol;
mod replica;
mod reversals;
mod rules;
mod schedules;
mod search;
mod snapshots;
mod stream;
mod transactions;
mod velocity;
