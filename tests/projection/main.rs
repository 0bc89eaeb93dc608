//! Verifying and rebuilding, with a real PostgreSQL.

mod ahead;
mod as_of;
mod fixture;
mod rebuild;
mod recipes;
mod search_speed;
mod speed;
mod standing;
#[path = "../support/mod.rs"]
mod support;
mod verify;
