//! Transactions that commands are about, and the rules of a ledger, read back from
//! the log.
//!
//! The log only grows, and only the sequencer that asks appends to it, so what is
//! read here is all that is committed. A transaction that the sequencer's memory
//! does not hold has no event under way either: it is let go only when its last
//! event is committed, and changes only in memory. Nothing is locked.

use uuid::Uuid;

use super::events::Row;
use super::jsonb::Jsonb;
use super::{Connection, Error, LedgerId};
use crate::ledger::{Event, Known, Position};

/// Those of the transactions `ids` that exist, as their first and their last event say.
///
/// Of the few events that carry an id as their own all are read, and of those that
/// are about it, of which there may be many, the last one.
///
/// # Errors
/// What the database answers; [`Error::Corrupt`] for events that cannot follow on
/// each other.
pub async fn find(conn: &mut Connection, ledger_id: LedgerId, ids: &[Uuid]) -> Result<Vec<(Uuid, Known)>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT wanted.id AS "id!", about.position AS "position!", about.type AS "type_name!",
               about.schema_version AS "schema_version!", about.transaction_id, about.subject_id, about.idempotency_key,
               about.payload AS "payload!: Jsonb<Box<str>>", about.recorded_at AS "recorded_at!",
               about.effective_at AS "effective_at!"
        FROM UNNEST($2::uuid[]) AS wanted (id)
        CROSS JOIN LATERAL (
            SELECT
                position, type, schema_version, transaction_id, subject_id, idempotency_key, payload, recorded_at,
                effective_at
            FROM events
            WHERE transaction_id = wanted.id AND ledger_id = $1
            UNION ALL
            (
                SELECT
                    position, type, schema_version, transaction_id, subject_id, idempotency_key, payload, recorded_at,
                    effective_at
                FROM events
                WHERE ledger_id = $1 AND subject_id = wanted.id
                ORDER BY position DESC
                LIMIT 1
            )
        ) AS about
        ORDER BY wanted.id, about.position
        "#,
        ledger_id,
        ids
    )
    .fetch_all(conn)
    .await?;
    let mut found: Vec<(Uuid, Known)> = Vec::with_capacity(ids.len());
    for row in rows {
        let (id, position) = (row.id, row.position as Position);
        let event = Row {
            position,
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
        let contradiction =
            || Error::Corrupt { position, detail: format!("it cannot be an event of transaction {id}") };
        match found.last_mut().filter(|(last, _)| *last == id) {
            None => found.push((id, Known::begun_by(&event).ok_or_else(contradiction)?)),
            Some((_, known)) => *known = known.changed_by(&event).ok_or_else(contradiction)?,
        }
    }
    Ok(found)
}

/// Up to `limit` events that set or removed a rule or closed a period, after
/// `after` and up to `to`, in order.
pub async fn rules(
    conn: &mut Connection,
    ledger_id: LedgerId,
    after: Position,
    to: Position,
    limit: i64,
) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT position, type AS type_name, schema_version, transaction_id, subject_id, idempotency_key,
               payload AS "payload: Jsonb<Box<str>>", recorded_at, effective_at
        FROM events
        WHERE ledger_id = $1 AND position > $2 AND position <= $3 AND type IN (
            'account_type_set', 'account_type_removed', 'velocity_limit_set', 'velocity_limit_removed', 'period_closed'
        )
        ORDER BY position
        LIMIT $4
        "#,
        ledger_id,
        after as i64,
        to as i64,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            Row {
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
            .into_event()
        })
        .collect()
}
