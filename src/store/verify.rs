//! What a verification reads.
//!
//! Everything in one REPEATABLE READ snapshot, so log, keys, checkpoints and
//! projections are those of one moment, whatever is appended, flushed or claimed
//! meanwhile. The tables' locks, in ACCESS SHARE mode, are taken before the
//! snapshot: a rebuild swaps either before it or after the verification has
//! ended, never underneath it. Nobody else waits for these locks.

use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::jsonb::Jsonb;
use super::projections::BALANCES;
use super::rows::{
    AccountOfRow, BackdatedRow, COPY_HEADER, COPY_TRAILER, EntryRow, HoldRow, MetadataRow, Owner, RejectionRow,
    ScheduleRow, ScheduleState, Table, UsageRow,
};
use super::{Error, LedgerId, Shard};
use crate::ledger::{AccountCode, AccountId, Amount, AssetCode, HoldState, Position};

/// Shards that a database may have: where rows are looked for that may be
/// stored under the wrong one.
const SHARDS: Range<Shard> = 0..1_024;

/// Begins the snapshot.
pub async fn begin(conn: &mut PgConnection) -> Result<(), Error> {
    let statements = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
        SET search_path = public; \
        BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
        LOCK TABLE ledgers, assets, events, idempotency_keys, checkpoints, projection_faults, \
            accounts, balances, entries, rejections, backdated, transaction_metadata, holds, \
            scheduled_transactions, transaction_accounts, velocity_usage, backdated_days IN ACCESS SHARE MODE";
    sqlx::raw_sql(statements).execute(conn).await?;
    Ok(())
}

/// The lowest number above `after` of a ledger that the log knows.
pub async fn next_ledger_in_log(conn: &mut PgConnection, after: LedgerId) -> Result<Option<LedgerId>, Error> {
    Ok(sqlx::query_scalar!("SELECT min(ledger_id) FROM events WHERE ledger_id > $1", after).fetch_one(conn).await?)
}

/// A row of `idempotency_keys`.
#[derive(Debug)]
pub struct StoredKey {
    pub ledger_id: LedgerId,
    pub key_hash: Vec<u8>,
    pub fingerprint_bytes: i32,
    pub position: i64,
    pub event_count: i32,
}

/// All idempotency keys, in no order.
pub fn keys(conn: &mut PgConnection) -> BoxStream<'_, Result<StoredKey, Error>> {
    sqlx::query_as!(
        StoredKey,
        r#"
        SELECT ledger_id, key_hash, octet_length(fingerprint) AS "fingerprint_bytes!", position, event_count
        FROM idempotency_keys
        "#
    )
    .fetch(conn)
    .map_err(Error::from)
    .boxed()
}

/// The first event whose key has no row that covers it: position and key.
pub async fn event_without_key(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
) -> Result<Option<(Position, String)>, Error> {
    let row = sqlx::query!(
        r#"
        SELECT e.position, e.idempotency_key AS "key!"
        FROM events e
        LEFT JOIN idempotency_keys k ON k.ledger_id = e.ledger_id
            AND k.key_hash = substring(sha256(convert_to(e.idempotency_key, 'UTF8')) FROM 1 FOR 16)
        WHERE e.ledger_id = $1 AND e.idempotency_key IS NOT NULL
            AND (k.key_hash IS NULL OR e.position < k.position OR e.position >= k.position + k.event_count)
        ORDER BY e.position
        LIMIT 1
        "#,
        ledger_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.position as Position, row.key)))
}

/// The first row of a key that does not have as many events as it says:
/// position, hash, and how many it should and does have.
pub async fn key_without_event(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
) -> Result<Option<(Position, String, i64, i64)>, Error> {
    let row = sqlx::query!(
        r#"
        SELECT k.position, encode(k.key_hash, 'hex') AS "key_hash!", k.event_count, found.events AS "events!"
        FROM idempotency_keys k
        CROSS JOIN LATERAL (
            SELECT count(*) AS events FROM events e
            WHERE e.ledger_id = k.ledger_id AND e.position >= k.position AND e.position < k.position + k.event_count
                AND substring(sha256(convert_to(e.idempotency_key, 'UTF8')) FROM 1 FOR 16) = k.key_hash
        ) AS found
        WHERE k.ledger_id = $1 AND found.events <> k.event_count
        ORDER BY k.position
        LIMIT 1
        "#,
        ledger_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.position as Position, row.key_hash, i64::from(row.event_count), row.events)))
}

/// A row of `checkpoints`.
#[derive(Debug)]
pub struct Checkpoint {
    pub ledger_id: LedgerId,
    pub shard: Shard,
    pub position: i64,
}

pub async fn checkpoints(conn: &mut PgConnection) -> Result<Vec<Checkpoint>, Error> {
    Ok(sqlx::query_as!(
        Checkpoint,
        "SELECT ledger_id, shard, position FROM checkpoints WHERE projection = $1 ORDER BY ledger_id, shard",
        BALANCES
    )
    .fetch_all(conn)
    .await?)
}

/// A row of `projection_faults`.
#[derive(Debug)]
pub struct Fault {
    pub ledger_id: LedgerId,
    pub account_id: i64,
    /// The version up to which it was projected.
    pub expected: i64,
    /// Its last leg that was not.
    pub position: i64,
}

/// The first account whose projection has stopped.
pub async fn first_fault(conn: &mut PgConnection) -> Result<Option<Fault>, Error> {
    Ok(sqlx::query_as!(
        Fault,
        r#"
        SELECT ledger_id, account_id, expected, position FROM projection_faults
        ORDER BY ledger_id, position, account_id LIMIT 1
        "#
    )
    .fetch_optional(conn)
    .await?)
}

/// A row of `accounts`.
#[derive(Debug)]
pub struct StoredAccount {
    pub shard: Shard,
    pub ledger_id: LedgerId,
    pub account_id: i64,
    pub code: String,
    pub asset: String,
    pub normal_side: String,
    pub min_balance: Option<Amount>,
    pub max_balance: Option<Amount>,
    pub status: String,
    pub metadata: Option<Jsonb<Box<str>>>,
    pub opened_at: DateTime<Utc>,
    pub freeze_scope: Option<String>,
    pub freeze_reason: Option<String>,
}

pub fn accounts(conn: &mut PgConnection) -> BoxStream<'_, Result<StoredAccount, Error>> {
    sqlx::query_as!(
        StoredAccount,
        r#"
        SELECT shard, ledger_id, account_id, code, asset, normal_side, min_balance AS "min_balance: Amount",
               max_balance AS "max_balance: Amount", status, metadata AS "metadata: Jsonb<Box<str>>", opened_at,
               freeze_scope, freeze_reason
        FROM accounts
        "#
    )
    .fetch(conn)
    .map_err(Error::from)
    .boxed()
}

/// A row of `balances`.
#[derive(Debug)]
pub struct StoredBalance {
    pub shard: Shard,
    pub ledger_id: LedgerId,
    pub account_id: i64,
    pub debits_posted: Amount,
    pub credits_posted: Amount,
    pub debits_pending: Amount,
    pub credits_pending: Amount,
    pub version: i64,
    pub position: i64,
}

pub fn balances(conn: &mut PgConnection) -> BoxStream<'_, Result<StoredBalance, Error>> {
    sqlx::query_as!(
        StoredBalance,
        r#"
        SELECT shard, ledger_id, account_id,
               debits_posted AS "debits_posted: Amount", credits_posted AS "credits_posted: Amount",
               debits_pending AS "debits_pending: Amount", credits_pending AS "credits_pending: Amount",
               version, position
        FROM balances
        "#
    )
    .fetch(conn)
    .map_err(Error::from)
    .boxed()
}

/// All rows of a table in the form of [`super::rows`], in no order.
pub async fn encoded_rows(
    conn: &mut PgConnection,
    table: Table,
) -> Result<BoxStream<'_, Result<bytes::Bytes, Error>>, Error> {
    let statement = format!("COPY {} ({}) TO STDOUT (FORMAT binary)", table.name(), table.columns());
    let messages = conn.copy_out_raw(&statement).await?;
    // One row a message, as the protocol has it, the header before the first.
    let rows = messages.map_err(Error::from).map_ok(|mut message| {
        if message.starts_with(COPY_HEADER) { message.split_off(COPY_HEADER.len()) } else { message.split_off(0) }
    });
    let is_row = |row: &bytes::Bytes| !row.is_empty() && !row.starts_with(&COPY_TRAILER);
    Ok(rows.try_filter(move |row| std::future::ready(is_row(row))).boxed())
}

/// A row of `entries` or of `rejections`, by what orders it and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub key: (i64, i16),
    pub text: String,
}

/// Up to `limit` rows of `entries` of one account, in whatever shard they are,
/// by version and shard, after `after`.
pub async fn entries_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
    after: (i64, i16),
    limit: i64,
) -> Result<Vec<Line>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT shard, version, position, leg, transaction_id, side, amount AS "amount: Amount",
               balance_after AS "balance_after: Amount", reference, effective_at, recorded_at
        FROM entries
        WHERE shard = ANY($1) AND ledger_id = $2 AND account_id = $3 AND version >= $4
            AND (version, shard) > ($4, $5)
        ORDER BY version, shard
        LIMIT $6
        "#,
        &SHARDS.collect::<Vec<_>>(),
        ledger_id,
        account_id as i64,
        after.0,
        after.1,
        limit
    )
    .fetch_all(conn)
    .await?;
    let line = |row: &EntryRow<'_>| Line { key: (row.version as i64, row.owner.shard), text: row.to_string() };
    Ok(rows
        .into_iter()
        .map(|row| {
            line(&EntryRow {
                owner: Owner { shard: row.shard, ledger_id, account_id },
                version: row.version as u64,
                position: row.position as Position,
                leg: row.leg,
                transaction_id: row.transaction_id,
                side: &row.side,
                amount: row.amount,
                balance_after: row.balance_after,
                reference: row.reference.as_deref(),
                effective_at: row.effective_at,
                recorded_at: row.recorded_at,
            })
        })
        .collect())
}

/// The same of `rejections`, by position and leg.
pub async fn rejections_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
    after: (i64, i16),
    limit: i64,
) -> Result<Vec<Line>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT shard, position, leg, transaction_id, reason, reference, effective_at, recorded_at
        FROM rejections
        WHERE shard = ANY($1) AND ledger_id = $2 AND account_id = $3 AND position >= $4
            AND (position, leg) > ($4, $5)
        ORDER BY position, leg
        LIMIT $6
        "#,
        &SHARDS.collect::<Vec<_>>(),
        ledger_id,
        account_id as i64,
        after.0,
        after.1,
        limit
    )
    .fetch_all(conn)
    .await?;
    let line = |row: &RejectionRow<'_>| Line { key: (row.position as i64, row.leg), text: row.to_string() };
    Ok(rows
        .into_iter()
        .map(|row| {
            line(&RejectionRow {
                owner: Owner { shard: row.shard, ledger_id, account_id },
                position: row.position as Position,
                leg: row.leg,
                transaction_id: row.transaction_id,
                reason: &row.reason,
                reference: row.reference.as_deref(),
                effective_at: row.effective_at,
                recorded_at: row.recorded_at,
            })
        })
        .collect())
}

/// The same of `backdated`, by version and shard.
pub async fn backdated_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
    after: (i64, i16),
    limit: i64,
) -> Result<Vec<Line>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT shard, version, side, amount AS "amount: Amount", effective_at, recorded_at,
               debits_after AS "debits_after: Amount", credits_after AS "credits_after: Amount"
        FROM backdated
        WHERE shard = ANY($1) AND ledger_id = $2 AND account_id = $3 AND version >= $4
            AND (version, shard) > ($4, $5)
        ORDER BY version, shard
        LIMIT $6
        "#,
        &SHARDS.collect::<Vec<_>>(),
        ledger_id,
        account_id as i64,
        after.0,
        after.1,
        limit
    )
    .fetch_all(conn)
    .await?;
    let line = |row: &BackdatedRow<'_>| Line { key: (row.version as i64, row.owner.shard), text: row.to_string() };
    Ok(rows
        .into_iter()
        .map(|row| {
            line(&BackdatedRow {
                owner: Owner { shard: row.shard, ledger_id, account_id },
                version: row.version as u64,
                side: &row.side,
                amount: row.amount,
                effective_at: row.effective_at,
                recorded_at: row.recorded_at,
                debits_after: row.debits_after,
                credits_after: row.credits_after,
            })
        })
        .collect())
}

/// The same of `transaction_accounts`, by position and shard.
pub async fn transactions_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
    after: (i64, i16),
    limit: i64,
) -> Result<Vec<Line>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT shard, position FROM transaction_accounts
        WHERE shard = ANY($1) AND ledger_id = $2 AND account_id = $3 AND position >= $4
            AND (position, shard) > ($4, $5)
        ORDER BY position, shard
        LIMIT $6
        "#,
        &SHARDS.collect::<Vec<_>>(),
        ledger_id,
        account_id as i64,
        after.0,
        after.1,
        limit
    )
    .fetch_all(conn)
    .await?;
    let line = |shard, position| {
        let row = AccountOfRow { owner: Owner { shard, ledger_id, account_id }, position: position as Position };
        Line { key: (position, shard), text: row.to_string() }
    };
    Ok(rows.into_iter().map(|row| line(row.shard, row.position)).collect())
}

/// All rows of one account in `holds`, `scheduled_transactions` or `velocity_usage`,
/// in words, by their keys; none of another table.
pub async fn standing_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
    table: Table,
) -> Result<Vec<String>, Error> {
    let id = account_id as i64;
    let shards: Vec<Shard> = SHARDS.collect();
    match table {
        Table::Holds => holds_of_account(conn, ledger_id, account_id, &shards).await,
        Table::ScheduledTransactions => {
            let rows = sqlx::query!(
                r#"
                SELECT shard, position, transaction_id, state, effective_at, reference, recorded_at,
                       changed_position, changed_at
                FROM scheduled_transactions
                WHERE shard = ANY($1) AND ledger_id = $2 AND account_id = $3
                ORDER BY position, shard
                "#,
                &shards,
                ledger_id,
                id
            )
            .fetch_all(conn)
            .await?;
            let text = |row: ScheduleRow| row.to_string();
            let rows = rows.into_iter().map(|row| {
                Ok(text(ScheduleRow {
                    owner: Owner { shard: row.shard, ledger_id, account_id },
                    position: row.position as Position,
                    transaction_id: row.transaction_id,
                    state: ScheduleState::parse(&row.state).ok_or_else(|| unreadable(row.position, "state"))?,
                    effective_at: row.effective_at,
                    reference: row.reference.map(Arc::from),
                    recorded_at: row.recorded_at,
                    changed_position: row.changed_position as Position,
                    changed_at: row.changed_at,
                }))
            });
            rows.collect()
        }
        Table::VelocityUsage => {
            let rows = sqlx::query!(
                r#"
                SELECT shard, limit_position, bucket, count, amount AS "amount: Amount"
                FROM velocity_usage
                WHERE shard = ANY($1) AND ledger_id = $2 AND account_id = $3
                ORDER BY limit_position, bucket, shard
                "#,
                &shards,
                ledger_id,
                id
            )
            .fetch_all(conn)
            .await?;
            let rows = rows.into_iter().map(|row| UsageRow {
                owner: Owner { shard: row.shard, ledger_id, account_id },
                limit: row.limit_position as Position,
                bucket: row.bucket,
                count: row.count as u32,
                amount: row.amount,
            });
            Ok(rows.map(|row| row.to_string()).collect())
        }
        _ => Ok(Vec::new()),
    }
}

async fn holds_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
    shards: &[Shard],
) -> Result<Vec<String>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT shard, position, transaction_id, from_account, to_account, to_account_id, asset,
               amount AS "amount: Amount", remaining AS "remaining: Amount", captured AS "captured: Amount",
               state, expires_at, reference, authorised_at, changed_position, changed_at
        FROM holds
        WHERE shard = ANY($1) AND ledger_id = $2 AND account_id = $3
        ORDER BY position, shard
        "#,
        shards,
        ledger_id,
        account_id as i64
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| {
        let invalid = |what| unreadable(row.position, what);
        let row = HoldRow {
            owner: Owner { shard: row.shard, ledger_id, account_id },
            position: row.position as Position,
            transaction_id: row.transaction_id,
            from: AccountCode::new(&row.from_account).map_err(|_| invalid("account"))?,
            to: AccountCode::new(&row.to_account).map_err(|_| invalid("account"))?,
            to_account_id: row.to_account_id as AccountId,
            asset: AssetCode::new(&row.asset).map_err(|_| invalid("asset"))?,
            amount: row.amount,
            remaining: row.remaining,
            captured: row.captured,
            state: HoldState::parse(&row.state).ok_or_else(|| invalid("state"))?,
            expires_at: row.expires_at,
            reference: row.reference.map(Arc::from),
            authorised_at: row.authorised_at,
            changed_position: row.changed_position as Position,
            changed_at: row.changed_at,
        };
        Ok(row.to_string())
    });
    rows.collect()
}

fn unreadable(position: i64, what: &str) -> Error {
    Error::Corrupt { position: position as Position, detail: format!("the {what} of its row is invalid") }
}

/// Where transactions were posted, those of them that were.
pub async fn posted_at(conn: &mut PgConnection, ledger_id: LedgerId, ids: &[Uuid]) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar!(
        "SELECT position FROM events WHERE ledger_id = $1 AND transaction_id = ANY($2) AND type = 'transaction_posted'",
        ledger_id,
        ids
    )
    .fetch_all(conn)
    .await?)
}

/// A day of an account that is not what its back-dated legs amount to.
#[derive(Debug)]
pub struct WrongDay {
    pub ledger_id: LedgerId,
    pub account_id: i64,
    pub day: String,
    /// Debits and credits of the legs, and of the day's row; `None` where there is none.
    pub expected: Option<String>,
    pub found: Option<String>,
}

/// The first day in `backdated_days` that differs from what `backdated` has of it.
pub async fn first_wrong_day(conn: &mut PgConnection) -> Result<Option<WrongDay>, Error> {
    Ok(sqlx::query_as!(
        WrongDay,
        r#"
        SELECT ledger_id AS "ledger_id!", account_id AS "account_id!", day::text AS "day!",
               'debits ' || l.debits || ', credits ' || l.credits AS expected,
               'debits ' || d.debits || ', credits ' || d.credits AS found
        FROM (
            SELECT shard, ledger_id, account_id, (effective_at AT TIME ZONE 'UTC')::date AS day,
                coalesce(sum(amount) FILTER (WHERE side = 'debit'), 0) AS debits,
                coalesce(sum(amount) FILTER (WHERE side = 'credit'), 0) AS credits
            FROM backdated
            GROUP BY 1, 2, 3, 4
        ) AS l
        FULL JOIN backdated_days d USING (shard, ledger_id, account_id, day)
        WHERE (l.debits, l.credits) IS DISTINCT FROM (d.debits, d.credits)
        ORDER BY 1, 2, 3
        LIMIT 1
        "#
    )
    .fetch_optional(conn)
    .await?)
}

/// Begins to read the rows of `transaction_metadata` of one account. They are in
/// no index by account, so one cursor reads the table once.
pub async fn open_metadata_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
) -> Result<(), Error> {
    let declare = format!(
        "DECLARE metadata_rows NO SCROLL CURSOR FOR
         SELECT shard, position, key, value FROM transaction_metadata
         WHERE ledger_id = {ledger_id} AND account_id = {account_id} ORDER BY position, key, shard"
    );
    sqlx::raw_sql(AssertSqlSafe(declare)).execute(conn).await?;
    Ok(())
}

/// The next rows that [`open_metadata_of_account`] found, `limit` at most.
pub async fn next_metadata_of_account(
    conn: &mut PgConnection,
    ledger_id: LedgerId,
    account_id: AccountId,
    limit: i64,
) -> Result<Vec<Line>, Error> {
    let fetch = format!("FETCH {limit} FROM metadata_rows");
    let rows: Vec<(Shard, i64, String, String)> = sqlx::query_as(AssertSqlSafe(fetch)).fetch_all(conn).await?;
    let line = |(shard, position, key, value): (Shard, i64, String, String)| {
        let owner = Owner { shard, ledger_id, account_id };
        let row = MetadataRow { owner, position: position as Position, key: &key, value: &value };
        Line { key: (position, 0), text: row.to_string() }
    };
    Ok(rows.into_iter().map(line).collect())
}

/// The first asset whose trial balance, as analysts see it, is not zero:
/// ledger, asset and what debits are more than credits.
pub async fn first_unbalanced_asset(conn: &mut PgConnection) -> Result<Option<(String, String, String)>, Error> {
    let row = sqlx::query!(
        r#"
        SELECT ledger AS "ledger!", asset AS "asset!", sum(net_debit)::text AS "net_debit!"
        FROM reporting.trial_balance
        GROUP BY ledger, asset
        HAVING sum(net_debit) <> 0
        ORDER BY ledger, asset
        LIMIT 1
        "#
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.ledger, row.asset, row.net_debit)))
}
