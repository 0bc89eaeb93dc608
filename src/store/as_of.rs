//! Balances as of a position and as of an effective time, and what is made of
//! them: sums by prefix, the trial balance, statements.
//!
//! All of it is read from the projections, with the functions of
//! `migrations/0007_as_of.sql`, which find an account's last entry at a moment by
//! bisection. Entries are never changed, so what was found as of a version stays
//! true while flushes go on, and pages of one answer need no snapshot in common:
//! they name the position or the version that they are as of. Readers take no
//! locks.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Connection, Error, LedgerId, Shard, events};
use crate::ledger::{Amount, Balance, Event, Position, Side};

/// Which moment a balance is of; with neither, the present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// What was known then: the log up to and with this position.
    pub position: Option<Position>,
    /// What was effective by then.
    pub time: Option<DateTime<Utc>>,
}

impl Moment {
    pub const fn is_present(self) -> bool {
        self.position.is_none() && self.time.is_none()
    }
}

/// Whose entries are read.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    pub shard: Shard,
    pub ledger_id: LedgerId,
    pub account_id: i64,
    pub normal: Side,
}

/// An account's balance as of a moment.
#[derive(Clone, Copy, Debug)]
pub struct AsOf {
    /// The last entry's version at the moment's position.
    pub known: i64,
    /// The last of those that were recorded by the moment's time, 0 for none, and its position.
    entry_version: i64,
    entry_position: Option<i64>,
    /// On the normal side.
    pub balance: Amount,
    /// What back-dating adds to the totals that the last entry left behind.
    moved_debits: Amount,
    moved_credits: Amount,
    /// The account's projection has stopped, and what is missing may count.
    pub is_stale: bool,
}

/// The balance as of a moment; no entry above the version `newest` counts.
pub async fn balance(executor: impl PgExecutor<'_>, of: Of, newest: i64, moment: Moment) -> Result<AsOf, Error> {
    // OFFSET has the known version computed once.
    let row = sqlx::query!(
        r#"
        SELECT
            known.version AS "known!", b.entry_version AS "entry_version!", b.entry_position AS "entry_position?",
            b.balance AS "balance!: Amount", b.moved_debits AS "moved_debits!: Amount",
            b.moved_credits AS "moved_credits!: Amount",
            (SELECT least(f.expected, s.version) FROM projection_faults f
             LEFT JOIN balances s ON s.shard = f.shard AND s.ledger_id = f.ledger_id AND s.account_id = f.account_id
             WHERE f.shard = $1 AND f.ledger_id = $2 AND f.account_id = $3) AS stopped_after
        FROM (SELECT last_entry($1, $2, $3, $5, $6, 'infinity') AS version OFFSET 0) AS known
        CROSS JOIN LATERAL balance_as_of($1, $2, $3, $4, known.version, coalesce($7::timestamptz, 'infinity')) AS b
        "#,
        of.shard,
        of.ledger_id,
        of.account_id,
        of.normal.as_str(),
        newest,
        moment.position.map_or(i64::MAX, |position| position as i64),
        moment.time
    )
    .fetch_one(executor)
    .await?;
    let is_stale = row.stopped_after.is_some_and(|after| moment.time.is_some() || row.known >= after);
    Ok(AsOf {
        known: row.known,
        entry_version: row.entry_version,
        entry_position: row.entry_position,
        balance: row.balance,
        moved_debits: row.moved_debits,
        moved_credits: row.moved_credits,
        is_stale,
    })
}

/// The totals as of a moment, with what was pending then. That has no effective time of
/// its own: it counts from when it is recorded. Position and version are those of the
/// last event about the account that was recorded by then.
///
/// # Errors
/// [`Error::Corrupt`] when projections and log do not agree.
pub async fn totals(conn: &mut Connection, of: Of, as_of: &AsOf, moment: Moment) -> Result<Balance, Error> {
    let reserved = reserved_at(conn, of, moment).await?;
    let positions: Vec<i64> = [as_of.entry_position, reserved].into_iter().flatten().collect();
    let events = events::at_positions(&mut *conn, of.ledger_id, &positions).await?;
    let left_at = |position: i64| {
        let event = events.iter().find(|event| event.position as i64 == position);
        event
            .and_then(|event| after(event, of.account_id))
            .ok_or_else(|| differs(position, of, "the event has no such leg"))
    };
    let opened = Balance { position: of.account_id as Position, ..Balance::default() };
    // Entries have the balance only; the event has what it is made of.
    let entry = as_of.entry_position.map_or(Ok(opened), left_at)?;
    let position = as_of.entry_position.unwrap_or(of.account_id);
    if entry.version as i64 != as_of.entry_version {
        return Err(differs(position, of, "entries and log have different versions"));
    }
    let last = reserved.filter(|reserved| *reserved > position).map_or(Ok(entry), left_at)?;
    if last.version != entry.version {
        return Err(differs(last.position as i64, of, "an entry before it is missing"));
    }
    let moved = |total: Amount, by: Amount| total.checked_add(by).filter(|total| *total >= Amount::ZERO);
    let contradiction = || differs(position, of, "more was back-dated than posted");
    let balance = Balance {
        debits_posted: moved(entry.debits_posted, as_of.moved_debits).ok_or_else(contradiction)?,
        credits_posted: moved(entry.credits_posted, as_of.moved_credits).ok_or_else(contradiction)?,
        ..last
    };
    if balance.posted(of.normal) == as_of.balance {
        Ok(balance)
    } else {
        Err(differs(position, of, "entries and log have different balances"))
    }
}

/// Position of the last event by a moment that authorised a hold on the account, or gave
/// back what was left of one.
async fn reserved_at(conn: &mut Connection, of: Of, moment: Moment) -> Result<Option<i64>, Error> {
    let reserved = sqlx::query_scalar!(
        r#"
        SELECT greatest(
            (SELECT max(position) FROM holds
             WHERE shard = $1 AND ledger_id = $2 AND account_id = $3 AND position <= upto),
            (SELECT max(position) FROM holds WHERE ledger_id = $2 AND to_account_id = $3 AND position <= upto),
            (SELECT max(changed_position) FROM holds
             WHERE ledger_id = $2 AND account_id = $3 AND changed_position <= upto AND state IN ('voided', 'expired')),
            (SELECT max(changed_position) FROM holds
             WHERE ledger_id = $2 AND to_account_id = $3 AND changed_position <= upto
                AND state IN ('voided', 'expired'))
        )
        FROM (
            SELECT least($4, CASE WHEN $5::timestamptz IS NOT NULL
                                  THEN log_position_before($2, $5 + interval '1 microsecond') END) AS upto
            -- Most accounts have none, and the log need not be searched for the time. In the order of
            -- an index: for EXISTS the table would be read where nearly all holds are of one account.
            WHERE (SELECT min(position) FROM holds WHERE shard = $1 AND ledger_id = $2 AND account_id = $3) IS NOT NULL
                OR (SELECT min(position) FROM holds WHERE ledger_id = $2 AND to_account_id = $3) IS NOT NULL
            OFFSET 0
        ) AS moment
        "#,
        of.shard,
        of.ledger_id,
        of.account_id,
        moment.position.map_or(i64::MAX, |position| position as i64),
        moment.time
    )
    .fetch_optional(conn)
    .await?;
    Ok(reserved.flatten())
}

/// The balance that the account's last leg in an event leaves behind.
fn after(event: &Event, account_id: i64) -> Option<Balance> {
    let leg = event.fact.legs().iter().rfind(|leg| leg.account_id as i64 == account_id)?;
    Some(leg.after)
}

fn differs(position: i64, of: Of, what: &str) -> Error {
    Error::Corrupt { position: position as Position, detail: format!("account number {}: {what}", of.account_id) }
}

/// The line of a trial balance.
#[derive(Debug)]
pub struct TrialRow {
    pub code: String,
    pub asset: String,
    pub normal_side: String,
    /// Debits less credits.
    pub net_debit: Amount,
}

/// Up to `limit` accounts by code, after `after`, as of a position and a time.
pub async fn trial_balance(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    position: Position,
    time: Option<DateTime<Utc>>,
    after: &str,
    limit: i64,
) -> Result<Vec<TrialRow>, Error> {
    Ok(sqlx::query_as!(
        TrialRow,
        r#"
        SELECT a.code, a.asset, a.normal_side,
            CASE
                WHEN $3::timestamptz IS NULL AND b.position <= $2 THEN b.debits_posted - b.credits_posted
                ELSE net_debit_as_of(
                    a.shard, a.ledger_id, a.account_id, a.normal_side, b.version, $2, coalesce($3, 'infinity')
                )
            END AS "net_debit!: Amount"
        FROM accounts a
        JOIN balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
        WHERE a.ledger_id = $1 AND a.account_id <= $2 AND a.code > $4
        ORDER BY a.code
        LIMIT $5
        "#,
        ledger_id,
        position as i64,
        time,
        after,
        limit
    )
    .fetch_all(executor)
    .await?)
}

/// What all accounts of an asset amount to. Sums may have more digits than an amount.
#[derive(Debug)]
pub struct TrialTotal {
    pub asset: String,
    pub accounts: i64,
    /// Sums of the balances that are debits, and of those that are credits.
    pub debit: String,
    pub credit: String,
    /// The one less the other: 0.
    pub net_debit: String,
}

/// The totals of the trial balance, over all accounts.
pub async fn trial_totals(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    position: Position,
    time: Option<DateTime<Utc>>,
) -> Result<Vec<TrialTotal>, Error> {
    Ok(sqlx::query_as!(
        TrialTotal,
        r#"
        SELECT asset AS "asset!", count(*) AS "accounts!",
            coalesce(sum(net_debit) FILTER (WHERE net_debit > 0), 0)::text AS "debit!",
            coalesce(-sum(net_debit) FILTER (WHERE net_debit < 0), 0)::text AS "credit!",
            sum(net_debit)::text AS "net_debit!"
        FROM (
            SELECT a.asset,
                CASE
                    WHEN $3::timestamptz IS NULL AND b.position <= $2 THEN b.debits_posted - b.credits_posted
                    ELSE net_debit_as_of(
                        a.shard, a.ledger_id, a.account_id, a.normal_side, b.version, $2, coalesce($3, 'infinity')
                    )
                END AS net_debit
            FROM accounts a
            JOIN balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
            WHERE a.ledger_id = $1 AND a.account_id <= $2
            OFFSET 0
        ) AS found
        GROUP BY asset
        ORDER BY asset
        "#,
        ledger_id,
        position as i64,
        time
    )
    .fetch_all(executor)
    .await?)
}

/// Which accounts are summed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Chart<'a> {
    /// The account of this code and all below it in the chart; empty for all.
    pub prefix: &'a str,
    pub asset: Option<&'a str>,
    /// Segments of a code that make a group; `None` for one group.
    pub depth: Option<i32>,
    pub position: Position,
    pub time: Option<DateTime<Utc>>,
    /// Whether the position is the present, where sums by side are known.
    pub is_present: bool,
    /// The group after which to go on: path and asset.
    pub after: (&'a str, &'a str),
}

/// What a group of accounts amounts to. Sums may have more digits than an amount.
#[derive(Debug)]
pub struct ChartRow {
    pub path: String,
    pub asset: String,
    pub accounts: i64,
    pub net_debit: String,
    pub debits_posted: String,
    pub credits_posted: String,
    pub debits_pending: String,
    pub credits_pending: String,
}

/// Up to `limit` groups by path and asset.
pub async fn chart(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    chart: Chart<'_>,
    limit: i64,
) -> Result<Vec<ChartRow>, Error> {
    let Chart { prefix, asset, depth, position, time, is_present, after } = chart;
    let below = if prefix.is_empty() || prefix.ends_with(':') { prefix.to_owned() } else { format!("{prefix}:") };
    // As in `projections::list_accounts`. Codes of a group do not sort before its path.
    let end = format!("{below}\u{7f}");
    let lowest = prefix.max(after.0);
    Ok(sqlx::query_file_as!(
        ChartRow,
        "src/store/sql/balances.sql",
        ledger_id,
        position as i64,
        time,
        is_present,
        depth,
        prefix,
        lowest,
        end,
        below,
        asset,
        after.0,
        after.1,
        limit
    )
    .fetch_all(executor)
    .await?)
}

/// When the last entry up to a version was recorded.
pub async fn recorded_at(executor: impl PgExecutor<'_>, of: Of, version: i64) -> Result<Option<DateTime<Utc>>, Error> {
    Ok(sqlx::query_scalar!(
        r#"
        SELECT recorded_at FROM entries
        WHERE shard = $1 AND ledger_id = $2 AND account_id = $3 AND version <= $4
        ORDER BY version DESC
        LIMIT 1
        "#,
        of.shard,
        of.ledger_id,
        of.account_id,
        version
    )
    .fetch_optional(executor)
    .await?)
}

/// The period of a statement, and where to go on in it.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Entries up to this version.
    pub known: i64,
    /// The last line that was given, by effective time and version; to begin, the
    /// beginning of the period and 0.
    pub after: (DateTime<Utc>, i64),
    /// The end of the period, which is not in it.
    pub to: DateTime<Utc>,
}

/// A leg in a statement.
#[derive(Debug)]
pub struct LineRow {
    pub version: i64,
    pub position: i64,
    pub transaction_id: Uuid,
    pub side: String,
    pub amount: Amount,
    pub reference: Option<String>,
    pub effective_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
}

/// Up to `limit` lines, in the order of effective time and then of position.
pub async fn lines(executor: impl PgExecutor<'_>, of: Of, lines: Lines, limit: i64) -> Result<Vec<LineRow>, Error> {
    Ok(sqlx::query_file_as!(
        LineRow,
        "src/store/sql/statement_lines.sql",
        of.shard,
        of.ledger_id,
        of.account_id,
        lines.known,
        lines.after.0,
        lines.after.1,
        lines.to,
        limit
    )
    .fetch_all(executor)
    .await?)
}
