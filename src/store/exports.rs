//! What exports read that nobody else does.
//!
//! A trial balance is one statement, hence one snapshot, in which the cut is the
//! lowest checkpoint. Shards that are ahead of it have their later entries taken
//! off again, as the views of `reporting` do. Rows come in the order of an index
//! and are never held as a whole; flushes go on meanwhile.

use std::collections::HashMap;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use sqlx::PgExecutor;

use super::projections::BALANCES;
use super::{Connection, Error, LedgerId};
use crate::ledger::{Amount, Event, Fact, Origin, Position};

/// A line of a trial balance.
#[derive(Debug)]
pub struct TrialBalanceRow {
    pub account: String,
    pub asset: String,
    pub normal_side: String,
    pub debits_posted: Amount,
    pub credits_posted: Amount,
    /// Position of the log that it answers at, the same in all lines.
    pub position: i64,
}

/// All accounts of a ledger by code, with their posted totals at the consistent cut.
pub fn trial_balance(conn: &mut Connection, ledger_id: LedgerId) -> BoxStream<'_, Result<TrialBalanceRow, Error>> {
    sqlx::query_as!(
        TrialBalanceRow,
        r#"
        WITH cut AS (
            SELECT min(position) AS position FROM checkpoints WHERE projection = $1 AND ledger_id = $2
        )
        SELECT
            a.code AS account, a.asset, a.normal_side,
            b.debits_posted - coalesce(later.debits, 0) AS "debits_posted!: Amount",
            b.credits_posted - coalesce(later.credits, 0) AS "credits_posted!: Amount",
            cut.position AS "position!"
        FROM cut
        JOIN accounts a ON a.ledger_id = $2 AND a.account_id <= cut.position
        JOIN balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
        LEFT JOIN LATERAL (
            SELECT
                sum(e.amount) FILTER (WHERE e.side = 'debit') AS debits,
                sum(e.amount) FILTER (WHERE e.side = 'credit') AS credits
            FROM entries e
            WHERE b.position > cut.position
                AND e.shard = a.shard AND e.ledger_id = a.ledger_id AND e.account_id = a.account_id
                AND e.position > cut.position
        ) later ON b.position > cut.position
        ORDER BY a.code
        "#,
        BALANCES,
        ledger_id
    )
    .fetch(conn)
    .map_err(Error::from)
    .boxed()
}

/// The keys that scheduled what `events` posted at its time, by the position at which they did.
pub async fn scheduling_keys(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    events: &[Event],
) -> Result<HashMap<Position, String>, Error> {
    let positions: Vec<i64> = events.iter().filter_map(scheduled_at).map(|position| position as i64).collect();
    if positions.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"
        SELECT position, idempotency_key AS "idempotency_key!" FROM events
        WHERE ledger_id = $1 AND position = ANY($2) AND idempotency_key IS NOT NULL
        "#,
        ledger_id,
        &positions
    )
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(|row| (row.position as Position, row.idempotency_key)).collect())
}

/// Where the transaction that an event posts was scheduled.
pub fn scheduled_at(event: &Event) -> Option<Position> {
    let Fact::TransactionPosted(posted) = &event.fact else { return None };
    match posted.more.as_ref()?.origin {
        Some(Origin::Schedule { position }) => Some(position),
        _ => None,
    }
}
