//! Finding transactions and accounts: walks along an index, in steps.
//!
//! A walk gives positions in the order of the log, as many at a time as its
//! caller asks for, so that what one request costs has a bound whatever is
//! asked. Each has an index that is in that order: the reference's, the
//! metadata's, an account's entries, the states of holds and of scheduled
//! transactions, or the log itself. What has none (type, amount, whether it was
//! posted) is looked at by the caller in what a walk gives.
//!
//! A transaction is found under the position of its first event, and there only:
//! at which it was authorised, if it is a hold, and at which it was scheduled, if
//! it was, whatever has become of it. That never changes, and so a cursor keeps
//! its place. Walks give positions of later events too, since those have entries
//! or rejections as all have; [`begins`] tells them apart. What a first event does
//! not say, the last one about the transaction does: [`latest`].
//!
//! Readers take no locks. A walk looks at positions up to one that all shards
//! have reached, so that what is written meanwhile lies beyond its end, and a
//! page that is read later goes on where the one before it ended, without a gap.

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use sqlx::PgExecutor;

use super::connection::Pool;
use super::jsonb::Jsonb;
use super::rows::ScheduleState;
use super::{Connection, Error, LedgerId, Shard, events};
use crate::ledger::{Event, Fact, HoldState, Origin, Position, Side};
use crate::shard::shard_of;

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

/// Which transactions a walk gives, by what they began as; others may be among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcomes {
    pub posted: bool,
    pub rejected: bool,
    pub authorised: bool,
    pub scheduled: bool,
}

impl Outcomes {
    /// What may have come to a status; anything for `None`.
    pub fn of(status: Option<&str>) -> Self {
        let Some(status) = status else {
            return Self { posted: true, rejected: true, authorised: true, scheduled: true };
        };
        let schedule = ScheduleState::parse(status);
        Self {
            posted: schedule == Some(ScheduleState::Posted),
            rejected: schedule == Some(ScheduleState::Rejected),
            authorised: HoldState::parse(status).is_some(),
            scheduled: schedule.is_some(),
        }
    }
}

/// A state that transactions are walked along by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Hold(HoldState),
    Schedule(ScheduleState),
}

impl Standing {
    /// `None` for a status that others may have too, which are in no index by it.
    pub fn of(status: &str) -> Option<Self> {
        let schedule = ScheduleState::parse(status)
            .filter(|state| matches!(state, ScheduleState::Scheduled | ScheduleState::Cancelled));
        HoldState::parse(status).map(Self::Hold).or_else(|| schedule.map(Self::Schedule))
    }
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

/// A position, and of which of a walk's tables, counted from 0.
struct Found {
    position: i64,
    part: i32,
}

/// Tables that one walk reads, at most.
const PARTS_MAX: usize = 4;

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
        r#"(SELECT position AS "position!", 0 AS "part!" FROM entries
            WHERE $6::boolean AND ledger_id = $1 AND reference = $2 AND leg = 0 AND position > $3 AND position <= $4
            ORDER BY position"#,
        [
            r#"LIMIT $5)
           UNION ALL
           (SELECT position, 1 FROM rejections
            WHERE $7::boolean AND ledger_id = $1 AND reference = $2 AND leg = 0 AND position > $3 AND position <= $4
            ORDER BY position"#,
            r#"LIMIT $5)
           UNION ALL
           (SELECT position, 2 FROM holds
            WHERE $8::boolean AND ledger_id = $1 AND reference = $2 AND position > $3 AND position <= $4
            ORDER BY position"#,
            r#"LIMIT $5)
           UNION ALL
           (SELECT position, 3 FROM scheduled_transactions
            WHERE $9::boolean AND ledger_id = $1 AND reference = $2 AND position > $3 AND position <= $4
            ORDER BY position"#
        ],
        "LIMIT $5)",
        ledger_id,
        reference,
        range.above,
        range.upto,
        limit,
        outcomes.posted,
        outcomes.rejected,
        outcomes.authorised,
        outcomes.scheduled
    );
    Ok(step(&found, range, direction, limit))
}

/// A step of the transactions that touched an account, or would. Where in
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
        r#"(SELECT position AS "position!", 0 AS "part!" FROM entries
            WHERE $7::boolean AND shard = $2 AND ledger_id = $1 AND account_id = $3
                AND version > entry_version_at($2, $1, $3, $4, 'infinity')
                AND version <= entry_version_at($2, $1, $3, $5, 'infinity')
            ORDER BY version"#,
        [
            r#"LIMIT $6)
           UNION ALL
           (SELECT position, 1 FROM rejections
            WHERE $8::boolean AND shard = $2 AND ledger_id = $1 AND account_id = $3
                AND position > $4 AND position <= $5
            ORDER BY position"#,
            r#"LIMIT $6)
           UNION ALL
           (SELECT position, 2 FROM transaction_accounts
            WHERE $9::boolean AND shard = $2 AND ledger_id = $1 AND account_id = $3
                AND position > $4 AND position <= $5
            ORDER BY position"#
        ],
        "LIMIT $6)",
        ledger_id,
        shard,
        account_id,
        range.above,
        range.upto,
        limit,
        outcomes.posted,
        outcomes.rejected,
        outcomes.authorised || outcomes.scheduled
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
        r#"SELECT position, 0 AS "part!" FROM transaction_metadata
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
        r#"SELECT position, 0 AS "part!" FROM events
           WHERE ledger_id = $1 AND position > $2 AND position <= $3 AND transaction_id IS NOT NULL
               AND (
                   ($5::boolean AND type = 'transaction_posted')
                   OR ($6::boolean AND type IN ('transaction_rejected', 'batch_rejected'))
                   OR ($7::boolean AND type = 'transaction_authorised')
                   OR ($8::boolean AND type = 'transaction_scheduled')
               )
           ORDER BY position"#,
        [],
        "LIMIT $4",
        ledger_id,
        range.above,
        range.upto,
        limit,
        outcomes.posted,
        outcomes.rejected,
        outcomes.authorised,
        outcomes.scheduled
    );
    Ok(step(&found, range, direction, limit))
}

/// A step of the holds, or of the scheduled transactions, that are in a state now.
pub async fn of_state(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    standing: Standing,
    range: Range,
    direction: Direction,
    limit: i64,
) -> Result<Step, Error> {
    let found = match standing {
        Standing::Hold(state) => walk!(
            direction,
            executor,
            r#"SELECT position, 0 AS "part!" FROM holds
               WHERE ledger_id = $1 AND state = $2 AND position > $3 AND position <= $4
               ORDER BY position"#,
            [],
            "LIMIT $5",
            ledger_id,
            state.as_str(),
            range.above,
            range.upto,
            limit
        ),
        Standing::Schedule(state) => walk!(
            direction,
            executor,
            r#"SELECT position, 0 AS "part!" FROM scheduled_transactions
               WHERE ledger_id = $1 AND state = $2 AND position > $3 AND position <= $4
               ORDER BY position"#,
            [],
            "LIMIT $5",
            ledger_id,
            state.as_str(),
            range.above,
            range.upto,
            limit
        ),
    };
    Ok(step(&found, range, direction, limit))
}

/// Whether an event is the first of a transaction, under which it is found.
pub fn begins(event: &Event) -> bool {
    match &event.fact {
        Fact::TransactionPosted(transaction) => {
            let origin = transaction.more.as_ref().and_then(|more| more.origin.as_ref());
            !matches!(origin, Some(Origin::Schedule { .. }))
        }
        Fact::TransactionRejected(rejected) => rejected.scheduled.is_none(),
        Fact::BatchRejected { .. } | Fact::TransactionAuthorised(_) | Fact::TransactionScheduled(_) => true,
        _ => false,
    }
}

/// Position of the first event of the transaction that `event` has ended: a void or
/// a cancellation is no transaction of its own.
pub fn ended(event: &Event) -> Option<Position> {
    match &event.fact {
        Fact::HoldReleased(release) => Some(release.hold.position),
        Fact::ScheduleCancelled(cancelled) => Some(cancelled.position),
        _ => None,
    }
}

/// The last event about each of the holds and scheduled transactions that `begun`
/// begins, by the position of the first; none where the first is the last. As of
/// the projections, or later.
pub async fn latest(
    pool: &Pool,
    ledger_id: LedgerId,
    shard_count: Shard,
    begun: &[Event],
) -> Result<HashMap<Position, Event>, Error> {
    let key = |event: &Event| {
        let (code, id) = match &event.fact {
            Fact::TransactionAuthorised(authorisation) => {
                let from = authorisation.transaction.legs.iter().find(|leg| leg.side == Side::Debit)?;
                (&from.account, from.account_id)
            }
            Fact::TransactionScheduled(scheduled) => {
                (&scheduled.request.legs.first()?.account, *scheduled.account_ids.first()?)
            }
            _ => return None,
        };
        Some((shard_of(ledger_id, code.as_str(), shard_count), id as i64, event.position as i64))
    };
    let keys: Vec<(Shard, i64, i64)> = begun.iter().filter_map(key).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let shards: Vec<Shard> = keys.iter().map(|(shard, ..)| *shard).collect();
    let account_ids: Vec<i64> = keys.iter().map(|(_, id, _)| *id).collect();
    let positions: Vec<i64> = keys.iter().map(|(.., position)| *position).collect();
    // LIMIT keeps the planner to probes of the primary keys.
    let rows = sqlx::query!(
        r#"
        SELECT found.position AS "position!", found.changed_position AS "changed_position!"
        FROM UNNEST($2::smallint[], $3::bigint[], $4::bigint[]) AS u (shard, account_id, position)
        CROSS JOIN LATERAL (
            (
                SELECT h.position, h.changed_position FROM holds h
                WHERE h.shard = u.shard AND h.ledger_id = $1 AND h.account_id = u.account_id AND h.position = u.position
                LIMIT 1
            )
            UNION ALL
            (
                SELECT s.position, s.changed_position FROM scheduled_transactions s
                WHERE s.shard = u.shard AND s.ledger_id = $1 AND s.account_id = u.account_id AND s.position = u.position
                LIMIT 1
            )
        ) AS found
        WHERE found.changed_position > found.position
        "#,
        ledger_id,
        &shards,
        &account_ids,
        &positions
    )
    .fetch_all(pool)
    .await?;
    let changed: Vec<i64> = rows.iter().map(|row| row.changed_position).collect();
    let mut later: HashMap<i64, Event> = HashMap::with_capacity(changed.len());
    for event in events::at_positions(pool, ledger_id, &changed).await? {
        later.insert(event.position as i64, event);
    }
    // An event is about one transaction, so each is taken once.
    let taken = rows.iter().filter_map(|row| Some((row.position as Position, later.remove(&row.changed_position)?)));
    Ok(taken.collect())
}

/// Puts the rows of some tables in order. A table that gave as many as it
/// was asked for may have more beyond its last, so nothing beyond that counts.
/// Several rows of one position are legs of one transaction.
fn step(found: &[Found], range: Range, direction: Direction, limit: i64) -> Step {
    let ends: [Option<i64>; PARTS_MAX] = std::array::from_fn(|part| {
        let mut of_table = found.iter().filter(|row| row.part == part as i32);
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
        let found = |part| move |position: &i64| Found { position: *position, part };
        posted.iter().map(found(0)).chain(rejected.iter().map(found(1))).collect()
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
    fn a_status_is_looked_for_where_it_may_be() {
        let of = |status| {
            let Outcomes { posted, rejected, authorised, scheduled } = Outcomes::of(status);
            [posted, rejected, authorised, scheduled]
        };
        assert_eq!(of(None), [true; 4]);
        assert_eq!(of(Some("posted")), [true, false, false, true]);
        assert_eq!(of(Some("rejected")), [false, true, false, true]);
        for state in HoldState::ALL {
            assert_eq!(of(Some(state.as_str())), [false, false, true, false]);
            assert_eq!(Standing::of(state.as_str()), Some(Standing::Hold(state)));
        }
        for (state, walks) in ScheduleState::ALL.into_iter().zip([true, false, false, true]) {
            assert!(Outcomes::of(Some(state.as_str())).scheduled);
            assert_eq!(Standing::of(state.as_str()).is_some(), walks);
        }
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
