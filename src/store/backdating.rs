//! Legs that are effective at another time than they are recorded at: what a
//! balance as of a time needs beside the entries (see [`super::as_of`]), once an
//! account has more entries than a reader looks through.
//!
//! Written by a shard's projector in the transaction of its flush, after the
//! checkpoint has moved, so under the same fence. Nobody else writes rows of the
//! shard meanwhile: whoever would, waits for the checkpoint and then finds it
//! moved. A flush without such legs runs none of these statements.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use hashbrown::HashMap;

use super::connection::Tx;
use super::{Error, LedgerId, Shard, events, rows};
use crate::ledger::{AccountId, Amount, Side};

/// The entries of an account that readers look through as they are, by an index that
/// back-dated ones alone are in: nothing of them is kept here. The same number stands in
/// `migrations/0013_first_entries.sql` and `sql/statement_lines.sql`.
pub const FIRST_ENTRIES: u64 = 1_024;

/// Whether an entry is kept here too. PostgreSQL keeps microseconds.
pub fn is_kept(version: u64, effective_at: DateTime<Utc>, recorded_at: DateTime<Utc>) -> bool {
    version > FIRST_ENTRIES && effective_at.timestamp_micros() != recorded_at.timestamp_micros()
}

/// A leg of a flush.
#[derive(Clone, Copy, Debug)]
pub struct BackdatedLeg {
    pub shard: Shard,
    pub account_id: AccountId,
    pub version: u64,
    pub side: Side,
    pub amount: Amount,
    pub effective_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
}

/// Sums of legs by side.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    debits: Amount,
    credits: Amount,
}

impl Sums {
    /// # Errors
    /// The account's own totals would have had too many digits first.
    fn add(&mut self, side: Side, amount: Amount) -> Result<(), Error> {
        let sum = match side {
            Side::Debit => &mut self.debits,
            Side::Credit => &mut self.credits,
        };
        let too_much = || Error::Refused(sqlx::Error::Encode("back-dated legs amount to more than 38 digits".into()));
        *sum = sum.checked_add(amount).ok_or_else(too_much)?;
        Ok(())
    }
}

const COPY_BACKDATED: &str = "COPY backdated (shard, ledger_id, account_id, version, side, amount, effective_at, \
                              recorded_at, debits_after, credits_after) FROM STDIN (FORMAT binary)";

/// Writes those legs whose shards advanced and whose accounts did not stop.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    ledger_id: LedgerId,
    legs: &[BackdatedLeg],
    advanced: &[Shard],
    stopped: &[i64],
) -> Result<(), Error> {
    let goes = |leg: &&BackdatedLeg| advanced.contains(&leg.shard) && !stopped.contains(&(leg.account_id as i64));
    let mut legs: Vec<&BackdatedLeg> = legs.iter().filter(goes).collect();
    if legs.is_empty() {
        return Ok(());
    }
    // In the order of the primary key, which PostgreSQL inserts twice as fast.
    legs.sort_unstable_by_key(|leg| (leg.shard, leg.account_id, leg.version));
    let mut totals = totals(tx, ledger_id, &legs).await?;
    let mut days: BTreeMap<(Shard, AccountId, NaiveDate), Sums> = BTreeMap::new();
    let mut encoded = Vec::with_capacity(legs.len() * 160);
    encoded.extend_from_slice(rows::COPY_HEADER);
    for leg in legs {
        let after = totals.entry(leg.account_id).or_default();
        after.add(leg.side, leg.amount)?;
        let row = rows::BackdatedRow {
            owner: rows::Owner { shard: leg.shard, ledger_id, account_id: leg.account_id },
            version: leg.version,
            side: leg.side.as_str(),
            amount: leg.amount,
            effective_at: leg.effective_at,
            recorded_at: leg.recorded_at,
            debits_after: after.debits,
            credits_after: after.credits,
        };
        row.encode(&mut encoded);
        let day = (leg.shard, leg.account_id, leg.effective_at.date_naive());
        days.entry(day).or_default().add(leg.side, leg.amount)?;
    }
    encoded.extend_from_slice(&rows::COPY_TRAILER);
    events::copy(tx, COPY_BACKDATED, &encoded).await?;
    add_days(tx, ledger_id, &days).await
}

/// What the accounts' back-dated legs amount to before this flush. LIMIT keeps
/// the planner to one probe of the primary key per account.
async fn totals(
    tx: &mut Tx<'_>,
    ledger_id: LedgerId,
    legs: &[&BackdatedLeg],
) -> Result<HashMap<AccountId, Sums>, Error> {
    let accounts: BTreeMap<AccountId, Shard> = legs.iter().map(|leg| (leg.account_id, leg.shard)).collect();
    let shards: Vec<Shard> = accounts.values().copied().collect();
    let account_ids: Vec<i64> = accounts.keys().map(|id| *id as i64).collect();
    let rows = sqlx::query!(
        r#"
        SELECT last.account_id, last.debits_after AS "debits: Amount", last.credits_after AS "credits: Amount"
        FROM UNNEST($2::smallint[], $3::bigint[]) AS u (shard, account_id)
        CROSS JOIN LATERAL (
            SELECT b.account_id, b.debits_after, b.credits_after FROM backdated b
            WHERE b.shard = u.shard AND b.ledger_id = $1 AND b.account_id = u.account_id
            ORDER BY b.version DESC
            LIMIT 1
        ) AS last
        "#,
        ledger_id,
        &shards,
        &account_ids
    )
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.account_id as AccountId, Sums { debits: row.debits, credits: row.credits }))
        .collect())
}

async fn add_days(
    tx: &mut Tx<'_>,
    ledger_id: LedgerId,
    days: &BTreeMap<(Shard, AccountId, NaiveDate), Sums>,
) -> Result<(), Error> {
    let shards: Vec<Shard> = days.keys().map(|(shard, ..)| *shard).collect();
    let account_ids: Vec<i64> = days.keys().map(|(_, id, _)| *id as i64).collect();
    let dates: Vec<NaiveDate> = days.keys().map(|(.., day)| *day).collect();
    let debits: Vec<Amount> = days.values().map(|sums| sums.debits).collect();
    let credits: Vec<Amount> = days.values().map(|sums| sums.credits).collect();
    sqlx::query!(
        r#"
        INSERT INTO backdated_days AS d (shard, ledger_id, account_id, day, debits, credits)
        SELECT u.shard, $1, u.account_id, u.day, u.debits, u.credits
        FROM UNNEST($2::smallint[], $3::bigint[], $4::date[], $5::numeric[], $6::numeric[])
            AS u (shard, account_id, day, debits, credits)
        ON CONFLICT (shard, ledger_id, account_id, day) DO UPDATE SET
            debits = d.debits + EXCLUDED.debits,
            credits = d.credits + EXCLUDED.credits
        "#,
        ledger_id,
        &shards,
        &account_ids,
        &dates,
        debits.as_slice() as _,
        credits.as_slice() as _
    )
    .execute(tx)
    .await?;
    Ok(())
}
