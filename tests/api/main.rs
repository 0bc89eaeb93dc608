//! The HTTP contract, against the real server on a real PostgreSQL.

#[path = "../support/mod.rs"]
mod support;

mod lifecycle;
