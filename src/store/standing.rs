//! Rows that state how things stand, in place of what happened: holds, scheduled
//! transactions, accounts' attributes, usage of velocity limits.
//!
//! Written by a shard's projector in the transaction of its flush, after the
//! checkpoint has moved, so under the same fence. Nobody else writes rows of the
//! shard meanwhile: whoever would, waits for the checkpoint and then finds it
//! moved. A flush without such rows runs none of these statements, and single
//! payments have none.
//!
//! All that is written is absolute, as the log states it, and builds on no row
//! from before. So an account whose projection has stopped misses nothing here.

use chrono::{DateTime, Utc};

use super::connection::Tx;
use super::jsonb::Jsonb;
use super::rows::{self, AccountOfRow, HoldRow, Owner, ScheduleRow, ScheduleState, UsageRow};
use super::{Connection, Error, LedgerId, Shard, events};
use crate::ledger::rule::RULES_MAX;
use crate::ledger::{AccountId, Amount, Attributes, Counted, HoldState, Position};

/// Rows that an account may have in `velocity_usage`: sixty buckets and the present
/// one for each limit.
const BUCKETS_MAX: i64 = 61 * RULES_MAX as i64;

/// What a flush has of them. Of one hold, account or bucket there is one row.
#[derive(Debug, Default)]
pub struct Standing {
    /// Begun in this flush, as they are at its end.
    pub holds: Vec<HoldRow>,
    /// Begun before.
    pub hold_changes: Vec<HoldChange>,
    pub schedules: Vec<ScheduleRow>,
    pub schedule_changes: Vec<ScheduleChange>,
    /// Accounts of the holds and schedules that begin.
    pub accounts: Vec<AccountOfRow>,
    pub attributes: Vec<(Owner, Attributes)>,
    pub usage: Vec<UsageRow>,
    /// Of each limit and account in `usage`.
    pub lapses: Vec<Lapse>,
}

/// How a hold stands after the last event about it.
#[derive(Clone, Copy, Debug)]
pub struct HoldChange {
    pub owner: Owner,
    pub position: Position,
    pub state: HoldState,
    pub remaining: Amount,
    pub captured: Amount,
    pub changed_position: Position,
    pub changed_at: DateTime<Utc>,
}

/// The same of a scheduled transaction.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleChange {
    pub owner: Owner,
    pub position: Position,
    pub state: ScheduleState,
    pub changed_position: Position,
    pub changed_at: DateTime<Utc>,
}

/// Buckets of a limit that begin before `since` count for an account no longer, and
/// their rows go.
#[derive(Clone, Copy, Debug)]
pub struct Lapse {
    pub owner: Owner,
    /// Position of the event that set the limit.
    pub limit: Position,
    pub since: i64,
}

impl Standing {
    pub const fn is_empty(&self) -> bool {
        self.holds.is_empty()
            && self.hold_changes.is_empty()
            && self.schedules.is_empty()
            && self.schedule_changes.is_empty()
            && self.accounts.is_empty()
            && self.attributes.is_empty()
            && self.usage.is_empty()
    }
}

const COPY_HOLDS: &str = "COPY holds (shard, ledger_id, account_id, position, transaction_id, from_account, to_account, \
                          to_account_id, asset, amount, remaining, captured, state, expires_at, reference, \
                          authorised_at, changed_position, changed_at) FROM STDIN (FORMAT binary)";
const COPY_SCHEDULES: &str = "COPY scheduled_transactions (shard, ledger_id, account_id, position, transaction_id, \
                              state, effective_at, reference, recorded_at, changed_position, changed_at) \
                              FROM STDIN (FORMAT binary)";
const COPY_ACCOUNTS: &str =
    "COPY transaction_accounts (shard, ledger_id, account_id, position) FROM STDIN (FORMAT binary)";

/// Writes those rows whose shards advanced.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    ledger_id: LedgerId,
    standing: &Standing,
    advanced: &[Shard],
) -> Result<(), Error> {
    let goes = |owner: &Owner| advanced.contains(&owner.shard);
    if let Some(rows) = encoded(&standing.holds, |row| (&row.owner, row.position), goes, HoldRow::encode) {
        events::copy(tx, COPY_HOLDS, &rows).await?;
    }
    if let Some(rows) = encoded(&standing.schedules, |row| (&row.owner, row.position), goes, ScheduleRow::encode) {
        events::copy(tx, COPY_SCHEDULES, &rows).await?;
    }
    if let Some(rows) = encoded(&standing.accounts, |row| (&row.owner, row.position), goes, AccountOfRow::encode) {
        events::copy(tx, COPY_ACCOUNTS, &rows).await?;
    }
    let changes: Vec<&HoldChange> = standing.hold_changes.iter().filter(|change| goes(&change.owner)).collect();
    if !changes.is_empty() {
        change_holds(tx, ledger_id, &changes).await?;
    }
    let changes: Vec<&ScheduleChange> = standing.schedule_changes.iter().filter(|change| goes(&change.owner)).collect();
    if !changes.is_empty() {
        change_schedules(tx, ledger_id, &changes).await?;
    }
    let attributes: Vec<&(Owner, Attributes)> = standing.attributes.iter().filter(|(owner, _)| goes(owner)).collect();
    if !attributes.is_empty() {
        change_accounts(tx, ledger_id, &attributes).await?;
    }
    let usage: Vec<&UsageRow> = standing.usage.iter().filter(|row| goes(&row.owner)).collect();
    if !usage.is_empty() {
        set_usage(tx, ledger_id, &usage).await?;
        let lapses: Vec<&Lapse> = standing.lapses.iter().filter(|lapse| goes(&lapse.owner)).collect();
        forget_usage(tx, ledger_id, &lapses).await?;
    }
    Ok(())
}

/// Rows in the form of a COPY, in the order of the primary key; `None` when there
/// are none.
fn encoded<T>(
    all: &[T],
    key: impl Fn(&T) -> (&Owner, Position),
    goes: impl Fn(&Owner) -> bool,
    encode: impl Fn(&T, &mut Vec<u8>),
) -> Option<Vec<u8>> {
    let mut order: Vec<&T> = all.iter().filter(|row| goes(key(row).0)).collect();
    if order.is_empty() {
        return None;
    }
    order.sort_unstable_by_key(|row| {
        let (owner, position) = key(row);
        (owner.shard, owner.account_id, position)
    });
    let mut out = Vec::with_capacity(order.len() * 256);
    out.extend_from_slice(rows::COPY_HEADER);
    for row in order {
        encode(row, &mut out);
    }
    out.extend_from_slice(&rows::COPY_TRAILER);
    Some(out)
}

async fn change_holds(tx: &mut Tx<'_>, ledger_id: LedgerId, changes: &[&HoldChange]) -> Result<(), Error> {
    let shards: Vec<Shard> = changes.iter().map(|change| change.owner.shard).collect();
    let account_ids: Vec<i64> = changes.iter().map(|change| change.owner.account_id as i64).collect();
    let positions: Vec<i64> = changes.iter().map(|change| change.position as i64).collect();
    let states: Vec<&str> = changes.iter().map(|change| change.state.as_str()).collect();
    let remaining: Vec<Amount> = changes.iter().map(|change| change.remaining).collect();
    let captured: Vec<Amount> = changes.iter().map(|change| change.captured).collect();
    let changed_positions: Vec<i64> = changes.iter().map(|change| change.changed_position as i64).collect();
    let changed_at: Vec<DateTime<Utc>> = changes.iter().map(|change| change.changed_at).collect();
    sqlx::query!(
        r#"
        UPDATE holds h
        SET state = u.state, remaining = u.remaining, captured = u.captured,
            changed_position = u.changed_position, changed_at = u.changed_at
        FROM UNNEST(
            $2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $6::numeric[], $7::numeric[], $8::bigint[],
            $9::timestamptz[]
        ) AS u (shard, account_id, position, state, remaining, captured, changed_position, changed_at)
        WHERE h.shard = u.shard AND h.ledger_id = $1 AND h.account_id = u.account_id AND h.position = u.position
            AND h.changed_position < u.changed_position
        "#,
        ledger_id,
        &shards,
        &account_ids,
        &positions,
        states.as_slice() as _,
        remaining.as_slice() as _,
        captured.as_slice() as _,
        &changed_positions,
        &changed_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn change_schedules(tx: &mut Tx<'_>, ledger_id: LedgerId, changes: &[&ScheduleChange]) -> Result<(), Error> {
    let shards: Vec<Shard> = changes.iter().map(|change| change.owner.shard).collect();
    let account_ids: Vec<i64> = changes.iter().map(|change| change.owner.account_id as i64).collect();
    let positions: Vec<i64> = changes.iter().map(|change| change.position as i64).collect();
    let states: Vec<&str> = changes.iter().map(|change| change.state.as_str()).collect();
    let changed_positions: Vec<i64> = changes.iter().map(|change| change.changed_position as i64).collect();
    let changed_at: Vec<DateTime<Utc>> = changes.iter().map(|change| change.changed_at).collect();
    sqlx::query!(
        r#"
        UPDATE scheduled_transactions s
        SET state = u.state, changed_position = u.changed_position, changed_at = u.changed_at
        FROM UNNEST($2::smallint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::timestamptz[])
            AS u (shard, account_id, position, state, changed_position, changed_at)
        WHERE s.shard = u.shard AND s.ledger_id = $1 AND s.account_id = u.account_id AND s.position = u.position
            AND s.changed_position < u.changed_position
        "#,
        ledger_id,
        &shards,
        &account_ids,
        &positions,
        states.as_slice() as _,
        &changed_positions,
        &changed_at
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn change_accounts(tx: &mut Tx<'_>, ledger_id: LedgerId, changes: &[&(Owner, Attributes)]) -> Result<(), Error> {
    let shards: Vec<Shard> = changes.iter().map(|(owner, _)| owner.shard).collect();
    let account_ids: Vec<i64> = changes.iter().map(|(owner, _)| owner.account_id as i64).collect();
    let min: Vec<Option<Amount>> = changes.iter().map(|(_, after)| after.limits.min_balance).collect();
    let max: Vec<Option<Amount>> = changes.iter().map(|(_, after)| after.limits.max_balance).collect();
    let statuses: Vec<&str> = changes.iter().map(|(_, after)| after.status().as_str()).collect();
    let metadata: Vec<Option<Jsonb<&str>>> =
        changes.iter().map(|(_, after)| after.metadata.as_deref().map(Jsonb)).collect();
    let freezes = || changes.iter().map(|(_, after)| after.freeze.as_ref());
    let scopes: Vec<Option<&str>> = freezes().map(|freeze| freeze.map(|freeze| freeze.scope.as_str())).collect();
    let reasons: Vec<Option<&str>> = freezes().map(|freeze| freeze.map(|freeze| &*freeze.reason)).collect();
    sqlx::query!(
        r#"
        UPDATE accounts a
        SET min_balance = u.min_balance, max_balance = u.max_balance, status = u.status, metadata = u.metadata,
            freeze_scope = u.freeze_scope, freeze_reason = u.freeze_reason
        FROM UNNEST(
            $2::smallint[], $3::bigint[], $4::numeric[], $5::numeric[], $6::text[], $7::jsonb[], $8::text[], $9::text[]
        ) AS u (shard, account_id, min_balance, max_balance, status, metadata, freeze_scope, freeze_reason)
        WHERE a.shard = u.shard AND a.ledger_id = $1 AND a.account_id = u.account_id
        "#,
        ledger_id,
        &shards,
        &account_ids,
        min.as_slice() as _,
        max.as_slice() as _,
        statuses.as_slice() as _,
        metadata as _,
        scopes as _,
        reasons as _
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn set_usage(tx: &mut Tx<'_>, ledger_id: LedgerId, usage: &[&UsageRow]) -> Result<(), Error> {
    let shards: Vec<Shard> = usage.iter().map(|row| row.owner.shard).collect();
    let account_ids: Vec<i64> = usage.iter().map(|row| row.owner.account_id as i64).collect();
    let limits: Vec<i64> = usage.iter().map(|row| row.limit as i64).collect();
    let buckets: Vec<i64> = usage.iter().map(|row| row.bucket).collect();
    let counts: Vec<i32> = usage.iter().map(|row| row.count as i32).collect();
    let amounts: Vec<Amount> = usage.iter().map(|row| row.amount).collect();
    sqlx::query!(
        r#"
        INSERT INTO velocity_usage (shard, ledger_id, account_id, limit_position, bucket, count, amount)
        SELECT u.shard, $1, u.account_id, u.limit_position, u.bucket, u.count, u.amount
        FROM UNNEST($2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::integer[], $7::numeric[])
            AS u (shard, account_id, limit_position, bucket, count, amount)
        ON CONFLICT (shard, ledger_id, account_id, limit_position, bucket) DO UPDATE SET
            count = EXCLUDED.count, amount = EXCLUDED.amount
        "#,
        ledger_id,
        &shards,
        &account_ids,
        &limits,
        &buckets,
        &counts,
        amounts.as_slice() as _
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn forget_usage(tx: &mut Tx<'_>, ledger_id: LedgerId, lapses: &[&Lapse]) -> Result<(), Error> {
    let shards: Vec<Shard> = lapses.iter().map(|lapse| lapse.owner.shard).collect();
    let account_ids: Vec<i64> = lapses.iter().map(|lapse| lapse.owner.account_id as i64).collect();
    let limits: Vec<i64> = lapses.iter().map(|lapse| lapse.limit as i64).collect();
    let since: Vec<i64> = lapses.iter().map(|lapse| lapse.since).collect();
    sqlx::query!(
        r#"
        DELETE FROM velocity_usage v
        USING UNNEST($2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS u (shard, account_id, limit_position, since)
        WHERE v.shard = u.shard AND v.ledger_id = $1 AND v.account_id = u.account_id
            AND v.limit_position = u.limit_position AND v.bucket < u.since
        "#,
        ledger_id,
        &shards,
        &account_ids,
        &limits,
        &since
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What velocity limits have counted on accounts, as of their shards' checkpoints:
/// each limit's buckets that counted when it last counted, the newest first, with the
/// account's number. LIMIT keeps the planner to one probe of the primary key per
/// account: a limit has some sixty buckets at most.
pub async fn counted(
    conn: &mut Connection,
    ledger_id: LedgerId,
    shards: &[Shard],
    account_ids: &[i64],
) -> Result<Vec<(AccountId, Counted)>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT found.account_id, found.limit_position, found.bucket, found.count, found.amount AS "amount: Amount"
        FROM UNNEST($2::smallint[], $3::bigint[]) AS u (shard, account_id)
        CROSS JOIN LATERAL (
            SELECT v.account_id, v.limit_position, v.bucket, v.count, v.amount FROM velocity_usage v
            WHERE v.shard = u.shard AND v.ledger_id = $1 AND v.account_id = u.account_id
            ORDER BY v.limit_position DESC, v.bucket DESC
            LIMIT $4
        ) AS found
        "#,
        ledger_id,
        shards,
        account_ids,
        BUCKETS_MAX
    )
    .fetch_all(conn)
    .await?;
    let counted = rows.into_iter().map(|row| {
        let counted = Counted {
            limit: row.limit_position as Position,
            bucket: row.bucket,
            // Of what is there, nothing has lapsed.
            since: i64::MIN,
            count: row.count as u32,
            amount: row.amount,
        };
        (row.account_id as AccountId, counted)
    });
    Ok(counted.collect())
}
