//! Projections: accounts, balances, entries and rejections, with their checkpoints;
//! what few flushes have besides is written by [`backdating`] and [`standing`].
//!
//! One projector per shard writes, fenced by its claim's epoch and by
//! compare-and-set on the checkpoint, both in the statement that writes the
//! rows. So a stale projector, two of them, or a rebuild that swaps the tables
//! underneath can only ever make a flush do nothing. Readers take no locks: a
//! statement sees rows and checkpoint of the same commit.
//!
//! The sequencer forgets accounts whose last event the checkpoint covers and reads
//! them back with [`load_accounts`], so what that gives must be exact as of the
//! checkpoint. An account whose projection has stopped has an old row in
//! `balances` while its checkpoint moves on. Its state is then in the log: each
//! flush keeps, in the account's row of `projection_faults` and in the commit
//! that moves the checkpoint, the position of the last leg that it did not
//! write, so one probe of that table and one event by primary key give the
//! balance, however long ago the projection stopped. An account that has stopped
//! stays so until a rebuild, or that position would fall behind its row.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use std::sync::Arc;
use uuid::Uuid;

use super::backdating::{self, BackdatedLeg};
use super::jsonb::Jsonb;
use super::standing::{self, Standing};
use super::{Connection, Epoch, Error, LedgerId, Shard, events, rows};
use crate::ledger::{
    Account, AccountCode, AccountId, AccountStatus, Amount, AssetCode, Attributes, Balance, Event, Fact, Freeze,
    FreezeScope, Limits, Position, Side,
};

/// The projection that this module keeps.
pub const BALANCES: &str = "balances";

/// One shard's part in a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub shard: Shard,
    pub epoch: Epoch,
    /// Where the shard's checkpoint must be.
    pub from: Position,
}

/// What a range of the log did, by column, ready for `UNNEST`.
#[derive(Debug, Default)]
pub struct Flush {
    pub accounts: AccountColumns,
    pub balances: BalanceColumns,
    pub entries: EntryColumns,
    pub rejections: RejectionColumns,
    /// Legs that are effective at another time than they are recorded at, in the order of the log.
    pub backdated: Vec<BackdatedLeg>,
    pub metadata: MetadataColumns,
    /// What few flushes have: see [`super::standing`].
    pub standing: Standing,
}

#[derive(Debug, Default)]
pub struct AccountColumns {
    pub shard: Vec<Shard>,
    pub account_id: Vec<i64>,
    pub code: Vec<AccountCode>,
    pub asset: Vec<AssetCode>,
    pub normal_side: Vec<&'static str>,
    pub min_balance: Vec<Option<Amount>>,
    pub max_balance: Vec<Option<Amount>>,
    pub metadata: Vec<Option<Jsonb<Arc<str>>>>,
    pub opened_at: Vec<DateTime<Utc>>,
}

#[derive(Debug, Default)]
pub struct BalanceColumns {
    pub shard: Vec<Shard>,
    pub account_id: Vec<i64>,
    pub debits_posted: Vec<Amount>,
    pub credits_posted: Vec<Amount>,
    pub debits_pending: Vec<Amount>,
    pub credits_pending: Vec<Amount>,
    pub version: Vec<i64>,
    pub previous_version: Vec<i64>,
    pub position: Vec<i64>,
}

#[derive(Debug, Default)]
pub struct EntryColumns {
    pub shard: Vec<Shard>,
    pub account_id: Vec<i64>,
    pub version: Vec<i64>,
    pub position: Vec<i64>,
    pub leg: Vec<i16>,
    pub transaction_id: Vec<Uuid>,
    pub side: Vec<&'static str>,
    pub amount: Vec<Amount>,
    pub balance_after: Vec<Amount>,
    pub reference: Vec<Option<Arc<str>>>,
    pub effective_at: Vec<DateTime<Utc>>,
    pub recorded_at: Vec<DateTime<Utc>>,
}

#[derive(Debug, Default)]
pub struct RejectionColumns {
    pub shard: Vec<Shard>,
    pub account_id: Vec<i64>,
    pub position: Vec<i64>,
    pub leg: Vec<i16>,
    pub transaction_id: Vec<Uuid>,
    pub reason: Vec<&'static str>,
    pub reference: Vec<Option<Arc<str>>>,
    pub effective_at: Vec<DateTime<Utc>>,
    pub recorded_at: Vec<DateTime<Utc>>,
}

/// Rows of `transaction_metadata`.
#[derive(Debug, Default)]
pub struct MetadataColumns {
    pub shard: Vec<Shard>,
    pub account_id: Vec<i64>,
    pub position: Vec<i64>,
    pub key: Vec<String>,
    pub value: Vec<String>,
}

/// What a flush did.
#[derive(Debug, PartialEq, Eq)]
pub struct Flushed {
    /// The shards that advanced; the others have moved on without us.
    pub advanced: Vec<Shard>,
    /// Accounts whose projection newly stopped.
    pub faults: u64,
}

/// Entries from which they go by COPY, after the rest and in its transaction.
const COPY_ENTRIES_MIN: usize = 1_000;

/// Writes one flush and moves the checkpoints of `steps`, which begin before `to`, there.
pub async fn flush(
    conn: &mut Connection,
    ledger_id: LedgerId,
    steps: &[Step],
    to: Position,
    flush: &Flush,
) -> Result<Flushed, Error> {
    let copies_entries = flush.entries.shard.len() >= COPY_ENTRIES_MIN;
    let is_plain = flush.backdated.is_empty() && flush.metadata.shard.is_empty() && flush.standing.is_empty();
    if !copies_entries && is_plain {
        return Ok(flush_rows(conn, ledger_id, steps, to, flush, &flush.entries).await?.0);
    }
    let mut tx = conn.begin().await?;
    let none = EntryColumns::default();
    let inline = if copies_entries { &none } else { &flush.entries };
    let (flushed, stopped) = flush_rows(&mut tx, ledger_id, steps, to, flush, inline).await?;
    if copies_entries {
        let rows = entry_rows(ledger_id, &flush.entries, &flushed.advanced, &stopped);
        events::copy(&mut tx, COPY_ENTRIES, &rows).await?;
    }
    backdating::write(&mut tx, ledger_id, &flush.backdated, &flushed.advanced, &stopped).await?;
    if let Some(rows) = metadata_rows(ledger_id, &flush.metadata, &flushed.advanced) {
        events::copy(&mut tx, COPY_METADATA, &rows).await?;
    }
    standing::write(&mut tx, ledger_id, &flush.standing, &flushed.advanced).await?;
    tx.commit().await?;
    Ok(flushed)
}

const COPY_ENTRIES: &str = "COPY entries (shard, ledger_id, account_id, version, position, leg, transaction_id, side, \
                            amount, balance_after, reference, effective_at, recorded_at) FROM STDIN (FORMAT binary)";

/// The entries of shards that advanced and accounts that did not stop, in the
/// order of the primary key: a statement then lies together on disk.
fn entry_rows(ledger_id: LedgerId, e: &EntryColumns, advanced: &[Shard], stopped: &[i64]) -> Vec<u8> {
    let goes = |index: &usize| advanced.contains(&e.shard[*index]) && !stopped.contains(&e.account_id[*index]);
    let mut order: Vec<usize> = (0..e.shard.len()).filter(goes).collect();
    order.sort_unstable_by_key(|index| (e.shard[*index], e.account_id[*index], e.version[*index]));
    let mut out = Vec::with_capacity(order.len() * 200);
    out.extend_from_slice(rows::COPY_HEADER);
    for index in order {
        let (shard, account_id) = (e.shard[index], e.account_id[index] as u64);
        let row = rows::EntryRow {
            owner: rows::Owner { shard, ledger_id, account_id },
            version: e.version[index] as u64,
            position: e.position[index] as u64,
            leg: e.leg[index],
            transaction_id: e.transaction_id[index],
            side: e.side[index],
            amount: e.amount[index],
            balance_after: e.balance_after[index],
            reference: e.reference[index].as_deref(),
            effective_at: e.effective_at[index],
            recorded_at: e.recorded_at[index],
        };
        row.encode(&mut out);
    }
    out.extend_from_slice(&rows::COPY_TRAILER);
    out
}

const COPY_METADATA: &str =
    "COPY transaction_metadata (shard, ledger_id, account_id, position, key, value) FROM STDIN (FORMAT binary)";

/// The metadata of transactions in shards that advanced, in the order of the
/// index; `None` when there is none. An account whose projection has stopped
/// loses nothing here, as no row builds on another.
fn metadata_rows(ledger_id: LedgerId, m: &MetadataColumns, advanced: &[Shard]) -> Option<Vec<u8>> {
    let mut order: Vec<usize> = (0..m.shard.len()).filter(|index| advanced.contains(&m.shard[*index])).collect();
    if order.is_empty() {
        return None;
    }
    order.sort_unstable_by_key(|index| (&m.key[*index], &m.value[*index], m.position[*index]));
    let mut out = Vec::with_capacity(order.len() * 96);
    out.extend_from_slice(rows::COPY_HEADER);
    for index in order {
        let owner = rows::Owner { shard: m.shard[index], ledger_id, account_id: m.account_id[index] as u64 };
        let position = m.position[index] as u64;
        rows::MetadataRow { owner, position, key: &m.key[index], value: &m.value[index] }.encode(&mut out);
    }
    out.extend_from_slice(&rows::COPY_TRAILER);
    Some(out)
}

/// The statement; `e` are the entries that it writes. Also answers the accounts
/// that stopped.
async fn flush_rows(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    steps: &[Step],
    to: Position,
    flush: &Flush,
    e: &EntryColumns,
) -> Result<(Flushed, Vec<i64>), Error> {
    let shards: Vec<Shard> = steps.iter().map(|step| step.shard).collect();
    let epochs: Vec<Epoch> = steps.iter().map(|step| step.epoch).collect();
    let froms: Vec<i64> = steps.iter().map(|step| step.from as i64).collect();
    let Flush { accounts: a, balances: b, rejections: r, .. } = flush;
    let codes: Vec<&str> = a.code.iter().map(AccountCode::as_str).collect();
    let assets: Vec<&str> = a.asset.iter().map(AssetCode::as_str).collect();
    let metadata: Vec<Option<Jsonb<&str>>> =
        a.metadata.iter().map(|json| json.as_ref().map(|json| Jsonb(&*json.0))).collect();
    let entry_references: Vec<Option<&str>> = e.reference.iter().map(|text| text.as_deref()).collect();
    let rejection_references: Vec<Option<&str>> = r.reference.iter().map(|text| text.as_deref()).collect();
    let rows = sqlx::query_file!(
        "src/store/sql/flush.sql",
        ledger_id,
        &shards,
        &epochs,
        &froms,
        to as i64,
        &a.shard,
        &a.account_id,
        codes as _,
        assets as _,
        a.normal_side.as_slice() as _,
        a.min_balance.as_slice() as _,
        a.max_balance.as_slice() as _,
        metadata as _,
        &a.opened_at,
        &b.shard,
        &b.account_id,
        b.debits_posted.as_slice() as _,
        b.credits_posted.as_slice() as _,
        b.debits_pending.as_slice() as _,
        b.credits_pending.as_slice() as _,
        &b.version,
        &b.previous_version,
        &b.position,
        &e.shard,
        &e.account_id,
        &e.version,
        &e.position,
        &e.leg,
        &e.transaction_id,
        e.side.as_slice() as _,
        e.amount.as_slice() as _,
        e.balance_after.as_slice() as _,
        entry_references as _,
        &e.effective_at,
        &e.recorded_at,
        &r.shard,
        &r.account_id,
        &r.position,
        &r.leg,
        &r.transaction_id,
        r.reason.as_slice() as _,
        rejection_references as _,
        &r.effective_at,
        &r.recorded_at,
    )
    .fetch_all(executor)
    .await?;
    let stopped = rows.first().and_then(|row| row.stopped.clone()).unwrap_or_default();
    let faults = rows.first().map_or(0, |row| row.faults as u64);
    Ok((Flushed { faults, advanced: rows.into_iter().map(|row| row.shard).collect() }, stopped))
}

/// The checkpoint of every shard of a ledger, by shard.
pub async fn checkpoints(executor: impl PgExecutor<'_>, ledger_id: LedgerId) -> Result<Vec<(Shard, Position)>, Error> {
    let rows = sqlx::query!(
        "SELECT shard, position FROM checkpoints WHERE projection = $1 AND ledger_id = $2 ORDER BY shard",
        BALANCES,
        ledger_id
    )
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(|row| (row.shard, row.position as Position)).collect())
}

/// A row of `accounts` with its row of `balances`.
struct AccountRow {
    account_id: i64,
    code: String,
    asset: String,
    normal_side: String,
    status: String,
    min_balance: Option<Amount>,
    max_balance: Option<Amount>,
    metadata: Option<Jsonb<Box<str>>>,
    freeze_scope: Option<String>,
    freeze_reason: Option<String>,
    opened_at: DateTime<Utc>,
    debits_posted: Amount,
    credits_posted: Amount,
    debits_pending: Amount,
    credits_pending: Amount,
    version: i64,
    position: i64,
    /// Where its last leg is, posted or pending, when its projection has stopped and the balance above is old.
    fault_position: Option<i64>,
}

impl AccountRow {
    fn into_account(self) -> Result<Account, Error> {
        let invalid =
            |what: &str| Error::Refused(sqlx::Error::Decode(format!("an account's {what} is invalid").into()));
        let freeze = match (&self.freeze_scope, self.freeze_reason) {
            (Some(scope), reason) => Some(Freeze {
                scope: FreezeScope::parse(scope).ok_or_else(|| invalid("freeze"))?,
                reason: Arc::from(reason.unwrap_or_default()),
            }),
            (None, _) => None,
        };
        Ok(Account {
            id: self.account_id as AccountId,
            code: AccountCode::new(&self.code).map_err(|_| invalid("code"))?,
            asset: AssetCode::new(&self.asset).map_err(|_| invalid("asset"))?,
            normal: Side::parse(&self.normal_side).ok_or_else(|| invalid("normal side"))?,
            attributes: Attributes {
                closed: self.status == AccountStatus::Closed.as_str(),
                freeze,
                limits: Limits { min_balance: self.min_balance, max_balance: self.max_balance },
                metadata: self.metadata.and_then(|json| crate::metadata::canonical(&json.0).ok().flatten()),
            },
            changed: 0,
            opened_at: self.opened_at,
            balance: Balance {
                debits_posted: self.debits_posted,
                credits_posted: self.credits_posted,
                debits_pending: self.debits_pending,
                credits_pending: self.credits_pending,
                version: self.version as u64,
                position: self.position as Position,
            },
        })
    }
}

/// Those of the accounts that exist, as of their shards' checkpoints. LIMIT
/// keeps the planner to one index probe per account, whatever it believes about
/// the size of the tables.
pub async fn load_accounts(
    conn: &mut Connection,
    ledger_id: LedgerId,
    shards: &[Shard],
    codes: &[&str],
) -> Result<Vec<Account>, Error> {
    let rows = sqlx::query_as!(
        AccountRow,
        r#"
        SELECT
            found.account_id, found.code, found.asset, found.normal_side, found.status,
            found.min_balance AS "min_balance: Amount", found.max_balance AS "max_balance: Amount",
            found.metadata AS "metadata: Jsonb<Box<str>>", found.freeze_scope, found.freeze_reason, found.opened_at,
            found.debits_posted AS "debits_posted: Amount", found.credits_posted AS "credits_posted: Amount",
            found.debits_pending AS "debits_pending: Amount", found.credits_pending AS "credits_pending: Amount",
            found.version, found.position, found.fault_position AS "fault_position?"
        FROM UNNEST($2::smallint[], $3::text[]) AS u (shard, code)
        CROSS JOIN LATERAL (
            SELECT
                a.account_id, a.code, a.asset, a.normal_side, a.status, a.min_balance, a.max_balance, a.metadata,
                a.freeze_scope, a.freeze_reason, a.opened_at, b.debits_posted, b.credits_posted, b.debits_pending, b.credits_pending,
                b.version, b.position, f.position AS fault_position
            FROM accounts a
            JOIN balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
            LEFT JOIN projection_faults f
                ON f.shard = a.shard AND f.ledger_id = a.ledger_id AND f.account_id = a.account_id
            WHERE a.shard = u.shard AND a.ledger_id = $1 AND a.code = u.code
            LIMIT 1
        ) AS found
        "#,
        ledger_id,
        shards,
        codes as _
    )
    .fetch_all(&mut *conn)
    .await?;
    let stopped: Vec<i64> = rows.iter().filter_map(|row| row.fault_position).collect();
    let last_legs =
        if stopped.is_empty() { Vec::new() } else { events::at_positions(conn, ledger_id, &stopped).await? };
    rows.into_iter()
        .map(|row| {
            let fault_position = row.fault_position;
            let mut account = row.into_account()?;
            if let Some(position) = fault_position {
                account.balance = balance_at(&last_legs, position as Position, &account)?;
            }
            Ok(account)
        })
        .collect()
}

/// The balance that the event at `position`, one of `events`, leaves an account with.
fn balance_at(events: &[Event], position: Position, account: &Account) -> Result<Balance, Error> {
    let event = events.iter().find(|event| event.position == position);
    let balance = event.and_then(|event| match &event.fact {
        Fact::AccountOpened { .. } if position == account.id => Some(Balance { position, ..Balance::default() }),
        fact => fact.legs().iter().rev().find(|leg| leg.account_id == account.id).map(|leg| leg.after),
    });
    let detail = || format!("it does not touch account {}, whose projection stopped", account.code);
    balance.ok_or_else(|| Error::Corrupt { position, detail: detail() })
}

/// Up to `limit` accounts by code, after `after`, with a prefix and an asset if given.
pub async fn list_accounts(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    prefix: &str,
    asset: Option<&str>,
    after: &str,
    limit: i64,
) -> Result<Vec<Account>, Error> {
    let end = end_of(prefix);
    let rows = sqlx::query_as!(
        AccountRow,
        r#"
        SELECT
            a.account_id, a.code, a.asset, a.normal_side, a.status,
            a.min_balance AS "min_balance: Amount", a.max_balance AS "max_balance: Amount",
            a.metadata AS "metadata: Jsonb<Box<str>>", a.freeze_scope, a.freeze_reason, a.opened_at,
            b.debits_posted AS "debits_posted: Amount", b.credits_posted AS "credits_posted: Amount",
            b.debits_pending AS "debits_pending: Amount", b.credits_pending AS "credits_pending: Amount",
            b.version, b.position, NULL::bigint AS fault_position
        FROM accounts a
        JOIN balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
        WHERE a.ledger_id = $1 AND a.code >= $2 AND a.code < $3 AND a.code > $4
            AND ($5::text IS NULL OR a.asset = $5)
        ORDER BY a.code
        LIMIT $6
        "#,
        ledger_id,
        prefix,
        end,
        after,
        asset,
        limit
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(AccountRow::into_account).collect()
}

/// Before what the codes with a prefix end. In C collation they are those from the
/// prefix on; DEL sorts after all characters of ours.
pub fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{7f}")
}

/// Those of the accounts that exist, by code.
pub async fn accounts_of_codes(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    codes: &[String],
) -> Result<Vec<Account>, Error> {
    let rows = sqlx::query_as!(
        AccountRow,
        r#"
        SELECT
            a.account_id, a.code, a.asset, a.normal_side, a.status,
            a.min_balance AS "min_balance: Amount", a.max_balance AS "max_balance: Amount",
            a.metadata AS "metadata: Jsonb<Box<str>>", a.freeze_scope, a.freeze_reason, a.opened_at,
            b.debits_posted AS "debits_posted: Amount", b.credits_posted AS "credits_posted: Amount",
            b.debits_pending AS "debits_pending: Amount", b.credits_pending AS "credits_pending: Amount",
            b.version, b.position, NULL::bigint AS fault_position
        FROM accounts a
        JOIN balances b ON b.shard = a.shard AND b.ledger_id = a.ledger_id AND b.account_id = a.account_id
        WHERE a.ledger_id = $1 AND a.code = ANY($2)
        ORDER BY a.code
        "#,
        ledger_id,
        codes
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(AccountRow::into_account).collect()
}

/// The number of an account in the projection.
pub async fn account_id(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    shard: Shard,
    code: &str,
) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar!(
        "SELECT account_id FROM accounts WHERE shard = $1 AND ledger_id = $2 AND code = $3",
        shard,
        ledger_id,
        code
    )
    .fetch_optional(executor)
    .await?)
}

/// A line of an account's statement.
#[derive(Debug)]
pub struct EntryRow {
    pub version: i64,
    pub position: i64,
    pub transaction_id: Uuid,
    pub side: String,
    pub amount: Amount,
    pub balance_after: Amount,
    pub reference: Option<String>,
    pub effective_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
}

/// Up to `limit` lines of a statement: in ascending order those with a version
/// above `after`, in descending order those below it.
pub async fn entries(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    shard: Shard,
    account_id: i64,
    after: i64,
    ascending: bool,
    limit: i64,
) -> Result<Vec<EntryRow>, Error> {
    macro_rules! statement {
        ($comparison:literal, $order:literal) => {
            sqlx::query_as!(
                EntryRow,
                r#"SELECT version, position, transaction_id, side, amount AS "amount: Amount",
                balance_after AS "balance_after: Amount", reference, effective_at, recorded_at
                FROM entries
                WHERE shard = $1 AND ledger_id = $2 AND account_id = $3 AND version "#
                    + $comparison
                    + " $4 ORDER BY version "
                    + $order
                    + " LIMIT $5",
                shard,
                ledger_id,
                account_id,
                after,
                limit
            )
            .fetch_all(executor)
            .await?
        };
    }
    Ok(if ascending { statement!(">", "ASC") } else { statement!("<", "DESC") })
}

/// Accounts whose projection has stopped, all ledgers.
pub async fn fault_count(executor: impl PgExecutor<'_>) -> Result<i64, Error> {
    Ok(sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM projection_faults"#).fetch_one(executor).await?)
}
