//! The pure core and the payloads of the log, tested without a database.
//!
//! [`model`] and [`verdict`] are the ledger written a second time, as simply as
//! possible; [`scenario`] makes up histories of [`intent`]s, which [`run`] plays on
//! both; [`properties`] holds what must be true of every history; [`states`] are the
//! tables of what every command does in every state; [`precedence`] is the table of
//! who wins when several reasons apply; [`payloads`] and [`golden`] keep the log
//! readable for ever.

mod exact;
mod golden;
mod intent;
mod model;
mod payloads;
mod precedence;
mod properties;
mod run;
mod scenario;
mod states;
mod velocity;
mod verdict;
