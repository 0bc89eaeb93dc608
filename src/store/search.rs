//! Finding transactions and accounts: walks along an index, in steps.
//!
//! A walk gives positions in the order of the log, as many at a time as its
//! caller asks for, so that what one request costs has a bound whatever is
//! asked. Each has an index that is in that order: the reference's, the
//! metadata's, an account's entries, or the log itself. What has none (type,
//! status, amount) is looked at by the caller in what a walk gives.
//!
//! Readers take no locks. A walk looks at positions up to one that all shards
//! have reached, so that what is written meanwhile lies beyond its end, and a
//! page that is read later goes on where the one before it ended, without a gap.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::jsonb::Jsonb;
use super::{Connection, Error, LedgerId, Shard};
use crate::ledger::Position;

/// The positions that a walk still has before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub above: i64,
    pub upto: i64,
}

impl Range {
    pub const fn is_empty(self) -> bool {
        self.above >= self.upto
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// In the order of the log.
    Ascending,
    /// The newest first.
    Descending,
}

/// Which transactions a walk gives; those of other kinds may be among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcomes {
    pub posted: bool,
    pub rejected: bool,
}

/// One step of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In the direction of the walk, each once.
    pub positions: Vec<i64>,
    /// What is left; empty at the end.
    pub rest: Range,
    /// Rows that were looked at: of one transaction there may be many legs.
    pub rows: i64,
}

/// The position of the last event that was recorded before a time; 0 for none.
pub async fn position_before(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    time: DateTime<Utc>,
) -> Result<i64, Error> {
    let position = sqlx::query_scalar!(r#"SELECT log_position_before($1, $2) AS "position!""#, ledger_id, time);
    Ok(position.fetch_one(executor).await?)
}

/// A statement in either direction.
macro_rules! walk {
    ($direction:expr, $executor:expr, $before:literal, [$($between:literal),*], $after:literal, $($argument:expr),+) => {
        match $direction {
            Direction::Ascending => {
                sqlx::query_as!(Found, $before $(+ " ASC " + $between)* + " ASC " + $after, $($argument),+)
                    .fetch_all($executor)
                    .await?
            }
            Direction::Descending => {
                sqlx::query_as!(Found, $before $(+ " DESC " + $between)* + " DESC " + $after, $($argument),+)
                    .fetch_all($executor)
                    .await?
            }
        }
    };
}

/// A position, and of which of a walk's tables.
struct Found {
    position: i64,
    /// Of those that were rejected.
    rejected: bool,
}

/// A step of the transactions with a reference.
pub async fn of_reference(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    reference: &str,
    outcomes: Outcomes,
    range: Range,
    direction: Direction,
    limit: i64,
) -> Result<Step, Error> {
    let found = walk!(
        direction,
        executor,
        r#"(SELECT position AS "position!", false AS "rejected!" FROM entries
            WHERE $6::boolean AND ledger_id = $1 AND reference = $2 AND leg = 0 AND position > $3 AND position <= $4
            ORDER BY position"#,
        [r#"LIMIT $5)
           UNION ALL
           (SELECT position, true FROM rejections
            WHERE $7::boolean AND ledger_id = $1 AND reference = $2 AND leg = 0 AND position > $3 AND position <= $4
            ORDER BY position"#],
        "LIMIT $5)",
        ledger_id,
        reference,
        range.above,
        range.upto,
        limit,
        outcomes.posted,
        outcomes.rejected
    );
    Ok(step(&found, range, direction, limit))
}

/// A step of the transactions that touched an account, or would have. Where in
/// its statement the range begins and ends is found by probing versions, so the
/// last page of ten million lines costs what the first one costs.
pub async fn of_account(
    executor: impl PgExecutor<'_>,
    (ledger_id, shard, account_id): (LedgerId, Shard, i64),
    outcomes: Outcomes,
    range: Range,
    direction: Direction,
    limit: i64,
) -> Result<Step, Error> {
    let found = walk!(
        direction,
        executor,
        r#"(SELECT position AS "position!", false AS "rejected!" FROM entries
            WHERE $7::boolean AND shard = $2 AND ledger_id = $1 AND account_id = $3
                AND version > entry_version_at($2, $1, $3, $4, 'infinity')
                AND version <= entry_version_at($2, $1, $3, $5, 'infinity')
            ORDER BY version"#,
        [r#"LIMIT $6)
           UNION ALL
           (SELECT position, true FROM rejections
            WHERE $8::boolean AND shard = $2 AND ledger_id = $1 AND account_id = $3
                AND position > $4 AND position <= $5
            ORDER BY position"#],
        "LIMIT $6)",
        ledger_id,
        shard,
        account_id,
        range.above,
        range.upto,
        limit,
        outcomes.posted,
        outcomes.rejected
    );
    Ok(step(&found, range, direction, limit))
}

/// A step of the transactions whose metadata has a member with a value.
pub async fn of_metadata(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    (key, value): (&str, &str),
    range: Range,
    direction: Direction,
    limit: i64,
) -> Result<Step, Error> {
    let found = walk!(
        direction,
        executor,
        r#"SELECT position, false AS "rejected!" FROM transaction_metadata
           WHERE ledger_id = $1 AND key = $2 AND value = $3 AND position > $4 AND position <= $5
           ORDER BY position"#,
        [],
        "LIMIT $6",
        ledger_id,
        key,
        value,
        range.above,
        range.upto,
        limit
    );
    Ok(step(&found, range, direction, limit))
}

/// A step along the log itself, of `range` as a whole: the caller bounds it.
pub async fn of_log(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    outcomes: Outcomes,
    range: Range,
    direction: Direction,
    limit: i64,
) -> Result<Step, Error> {
    let found = walk!(
        direction,
        executor,
        r#"SELECT position, false AS "rejected!" FROM events
           WHERE ledger_id = $1 AND position > $2 AND position <= $3 AND transaction_id IS NOT NULL
               AND ($5::boolean OR type <> 'transaction_posted')
               AND ($6::boolean OR type NOT IN ('transaction_rejected', 'batch_rejected'))
           ORDER BY position"#,
        [],
        "LIMIT $4",
        ledger_id,
        range.above,
        range.upto,
        limit,
        outcomes.posted,
        outcomes.rejected
    );
    Ok(step(&found, range, direction, limit))
}

/// Puts the rows of one or two tables in order. A table that gave as many as it
/// was asked for may have more beyond its last, so nothing beyond that counts.
/// Several rows of one position are legs of one transaction.
fn step(found: &[Found], range: Range, direction: Direction, limit: i64) -> Step {
    let ends = [false, true].map(|rejected| {
        let mut of_table = found.iter().filter(|row| row.rejected == rejected);
        let is_full = of_table.clone().count() as i64 >= limit;
        of_table.next_back().filter(|_| is_full).map(|row| row.position)
    });
    let ends = ends.into_iter().flatten();
    let mut positions: Vec<i64> = found.iter().map(|row| row.position).collect();
    positions.sort_unstable();
    positions.dedup();
    let rest = match direction {
        Direction::Ascending => {
            let reached = ends.min().unwrap_or(range.upto);
            positions.retain(|position| *position <= reached);
            Range { above: reached, ..range }
        }
        Direction::Descending => {
            let reached = ends.max().unwrap_or(range.above + 1);
            positions.retain(|position| *position >= reached);
            positions.reverse();
            Range { upto: reached - 1, ..range }
        }
    };
    Step { positions, rest, rows: found.len() as i64 }
}

/// A page's cursor, as a range: what comes after a position in a direction.
pub const fn beyond(range: Range, direction: Direction, cursor: Option<Position>) -> Range {
    match (direction, cursor) {
        (_, None) => range,
        (Direction::Ascending, Some(cursor)) => {
            let cursor = cursor as i64;
            Range { above: if cursor > range.above { cursor } else { range.above }, ..range }
        }
        (Direction::Descending, Some(cursor)) => {
            let last = (cursor as i64).saturating_sub(1);
            Range { upto: if last < range.upto { last } else { range.upto }, ..range }
        }
    }
}

/// Codes of up to `limit` accounts, in no order, after `after` and from `prefix` to
/// before `end`,
/// whose metadata contains one of the objects. Only the index by metadata makes
/// that cheap, and PostgreSQL reads it as a bitmap, which serving sessions are
/// told to avoid; so this one is told otherwise.
pub async fn codes_by_metadata(
    conn: &mut Connection,
    ledger_id: LedgerId,
    objects: &[String],
    (prefix, after, end): (&str, &str, &str),
    limit: i64,
) -> Result<Vec<String>, Error> {
    let objects: Vec<Jsonb<&str>> = objects.iter().map(|object| Jsonb(object.as_str())).collect();
    let mut tx = conn.begin().await?;
    sqlx::raw_sql("SET LOCAL enable_bitmapscan = on").execute(&mut tx).await?;
    let codes = sqlx::query_scalar!(
        r#"
        SELECT code FROM accounts
        WHERE ledger_id = $1 AND metadata IS NOT NULL AND metadata @> ANY($2::jsonb[]) AND code >= $3 AND code > $4 AND code < $5
        LIMIT $6
        "#,
        ledger_id,
        objects as _,
        prefix,
        after,
        end,
        limit
    )
    .fetch_all(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { above: 0, upto: 100 };

    fn rows(posted: &[i64], rejected: &[i64]) -> Vec<Found> {
        let found = |rejected| move |position: &i64| Found { position: *position, rejected };
        posted.iter().map(found(false)).chain(rejected.iter().map(found(true))).collect()
    }

    fn check(posted: &[i64], rejected: &[i64], direction: Direction, positions: &[i64], rest: Range) {
        let found = step(&rows(posted, rejected), RANGE, direction, 3);
        let rows = (posted.len() + rejected.len()) as i64;
        assert_eq!(found, Step { positions: positions.to_vec(), rest, rows }, "{posted:?} {rejected:?}");
    }

    #[test]
    fn a_step_ends_where_a_table_may_have_more() {
        let ascending = Direction::Ascending;
        check(&[1, 5], &[3], ascending, &[1, 3, 5], Range { above: 100, upto: 100 });
        check(&[1, 5, 9], &[3, 10], ascending, &[1, 3, 5, 9], Range { above: 9, upto: 100 });
        check(&[1, 5, 9], &[2, 3, 4], ascending, &[1, 2, 3, 4], Range { above: 4, upto: 100 });
        // Three legs of one account in one transaction.
        check(&[7, 7, 7], &[], ascending, &[7], Range { above: 7, upto: 100 });
        check(&[], &[], ascending, &[], Range { above: 100, upto: 100 });
    }

    #[test]
    fn and_the_other_way_round() {
        let descending = Direction::Descending;
        check(&[5, 1], &[3], descending, &[5, 3, 1], Range { above: 0, upto: 0 });
        check(&[9, 5, 3], &[10, 2], descending, &[10, 9, 5, 3], Range { above: 0, upto: 2 });
        check(&[7, 7, 7], &[8], descending, &[8, 7], Range { above: 0, upto: 6 });
        check(&[], &[], descending, &[], Range { above: 0, upto: 0 });
    }

    #[test]
    fn a_cursor_only_ever_narrows() {
        let (ascending, descending) = (Direction::Ascending, Direction::Descending);
        let range = Range { above: 10, upto: 20 };
        assert_eq!(beyond(range, ascending, None), range);
        assert_eq!(beyond(range, ascending, Some(15)), Range { above: 15, upto: 20 });
        assert_eq!(beyond(range, ascending, Some(5)), range);
        assert_eq!(beyond(range, descending, Some(15)), Range { above: 10, upto: 14 });
        assert_eq!(beyond(range, descending, Some(25)), range);
        assert!(beyond(range, ascending, Some(25)).is_empty() && beyond(range, descending, Some(0)).is_empty());
    }
}
