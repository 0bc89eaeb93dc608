//! Verifying and rebuilding, with a real PostgreSQL.

mod fixture;
mod rebuild;
mod speed;
mod verify;
