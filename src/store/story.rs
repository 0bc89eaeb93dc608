//! The events of one transaction: its own, and those that name it.
//!
//! One statement, and so one snapshot: what is read is what the log said at one
//! moment, however many captures are on their way meanwhile. Both parts are found
//! by an index, and bounded.

use sqlx::PgExecutor;
use uuid::Uuid;

use super::events::Row;
use super::jsonb::Jsonb;
use super::{Error, LedgerId};
use crate::ledger::{Event, Position};

/// Captures or reversals of one transaction that are read, from the first on. Their
/// number has no bound; what all of them amount to is in the last.
pub const LINKED_MAX: i64 = 1_000;

/// A transaction's events, in the order of the log.
#[derive(Debug, Default)]
pub struct Story {
    /// With its id: none when there is no such transaction.
    pub own: Vec<Event>,
    /// Its captures, or its reversals: the first [`LINKED_MAX`].
    pub linked: Vec<Event>,
    /// The last one of those.
    pub latest: Option<Event>,
}

impl Story {
    /// Position of the last event of all.
    pub fn position(&self) -> Option<Position> {
        self.own.iter().chain(&self.linked).chain(&self.latest).map(|event| event.position).max()
    }
}

/// Everything that the log says of a transaction.
///
/// # Errors
/// Those of a read.
pub async fn of(executor: impl PgExecutor<'_>, ledger_id: LedgerId, transaction_id: Uuid) -> Result<Story, Error> {
    let rows =
        sqlx::query_file!("src/store/sql/story.sql", ledger_id, transaction_id, LINKED_MAX).fetch_all(executor).await?;
    let mut story = Story::default();
    for row in rows {
        let part = row.part;
        let event = Row {
            position: row.position as Position,
            type_name: row.type_name,
            schema_version: row.schema_version,
            transaction_id: row.transaction_id,
            subject_id: row.subject_id,
            idempotency_key: row.idempotency_key,
            payload: row.payload.0,
            recorded_at: row.recorded_at,
            effective_at: row.effective_at,
        }
        .into_event()?;
        match part {
            0 => story.own.push(event),
            1 => story.linked.push(event),
            _ => story.latest = Some(event),
        }
    }
    Ok(story)
}
