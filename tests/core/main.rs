//! The pure core and the payloads of the log, tested without a database.
//!
//! [`model`] is the ledger written a second time, as simply as possible;
//! [`scenario`] makes up histories for both; [`properties`] holds what must be
//! true of every history; [`precedence`] is the table of who wins when several
//! reasons apply; [`payloads`] and [`golden`] keep the log readable for ever.

mod golden;
mod model;
mod payloads;
mod precedence;
mod properties;
mod run;
mod scenario;
mod velocity;
