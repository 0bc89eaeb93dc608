//! Verifies a database against its own log.
//!
//! The log is followed from its beginning by a [`Replay`], which computes every
//! balance again; then keys, checkpoints, assets and projections are compared
//! with what came out. Millions of rows are compared by account: both sides add
//! up a 128-bit hash of every row, so that order does not matter and memory
//! holds two numbers. When the sums differ, the first row that does is looked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use hashbrown::HashMap;
use serde::Serialize;
use sqlx::PgConnection;
use xxhash_rust::xxh3::xxh3_128;

use super::Progress;
use super::backdating::Backdating;
use super::replay::{Account, Change, Contradiction, ReadAhead, Replay, Reversed, describe};
use crate::ledger::{
    AccountId, Amount, Attributes, Authorisation, Balance, Event, Fact, Origin, Position, Scheduled, Side, Transaction,
    asset,
};
use crate::metadata;
use crate::store::events::{self, Logged};
use crate::store::rows::{
    AccountOfRow, EntryRow, HoldRow, MetadataRow, Owner, RejectionRow, ScheduleRow, Table, UsageRow,
};
use crate::store::verify::{self as sql, Line, StoredAccount, StoredBalance, StoredKey};
use crate::store::{self, Database, Error, LedgerId, Shard};

/// Bytes of a key's hash and of its fingerprint.
const HASH_BYTES: usize = 16;
/// Rows and events read at a time while a difference is looked for.
const SEARCH_PAGE: i64 = 10_000;

/// What was found to be as it must.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    pub ledgers: u64,
    pub events: u64,
    /// Transactions that were posted, and their legs.
    pub transactions: u64,
    pub legs: u64,
    pub keys: u64,
    pub assets: u64,
    pub accounts: u64,
    pub balances: u64,
    pub entries: u64,
    pub rejections: u64,
    /// Legs that are effective at another time than they were recorded at.
    pub backdated: u64,
    /// Members of metadata by which transactions are found.
    pub metadata: u64,
    /// Transactions that were authorised.
    pub holds: u64,
    pub scheduled: u64,
    /// Transactions of which something was reversed.
    pub reversed: u64,
    /// Buckets of velocity limits.
    pub usage: u64,
    pub seconds: f64,
}

/// The first thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("ledger {ledger}: {subject}: expected {expected}, found {found}")]
pub struct Difference {
    /// Name of the ledger, or its number if it has none.
    pub ledger: String,
    /// Which position, account or key it is about.
    pub subject: String,
    pub expected: String,
    pub found: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The database is not what its log says.
    #[error(transparent)]
    Difference(Box<Difference>),
    /// It could not be verified.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Verifies everything, as of the moment at which it begins.
///
/// # Errors
/// The first [`Difference`], or why the database could not be read.
pub async fn verify(database: &Database, progress: Progress<'_>) -> Result<Report, Failure> {
    let started = Instant::now();
    let mut conn = database.connect_owner().await?;
    sql::begin(&mut conn).await?;
    let mut verification = Verification::begin(&mut conn, progress).await?;
    let mut conn = verification.follow_log(conn).await?;
    verification.compare_reversals(&mut conn).await?;
    verification.compare_keys(&mut conn).await?;
    verification.compare_checkpoints(&mut conn).await?;
    verification.compare_assets(&mut conn).await?;
    verification.compare_accounts(&mut conn).await?;
    verification.compare_balances(&mut conn).await?;
    verification.compare_rows(&mut conn, Table::Entries).await?;
    verification.compare_rows(&mut conn, Table::Rejections).await?;
    verification.compare_rows(&mut conn, Table::Backdated).await?;
    verification.compare_days(&mut conn).await?;
    verification.compare_rows(&mut conn, Table::TransactionMetadata).await?;
    verification.compare_rows(&mut conn, Table::Holds).await?;
    verification.compare_rows(&mut conn, Table::ScheduledTransactions).await?;
    verification.compare_rows(&mut conn, Table::TransactionAccounts).await?;
    verification.compare_rows(&mut conn, Table::VelocityUsage).await?;
    check_trial_balance(&mut conn).await?;
    Ok(Report { seconds: started.elapsed().as_secs_f64(), ..verification.report })
}

/// A bag of rows as two numbers: how many more there are on one side, and by
/// how much the sums of their hashes differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    rows: i64,
    hashes: u128,
}

impl Tally {
    fn expect(&mut self, row: &[u8]) {
        self.rows += 1;
        self.hashes = self.hashes.wrapping_add(xxh3_128(row));
    }

    fn find(&mut self, row: &[u8]) {
        self.rows -= 1;
        self.hashes = self.hashes.wrapping_sub(xxh3_128(row));
    }

    /// A row takes the place of another.
    fn replace<T>(&mut self, before: Option<&T>, after: &T, encode: impl Fn(&T, &mut Vec<u8>)) {
        let mut encoded = Vec::with_capacity(256);
        if let Some(before) = before {
            encode(before, &mut encoded);
            self.find(&encoded);
            encoded.clear();
        }
        encode(after, &mut encoded);
        self.expect(&encoded);
    }

    fn is_even(self) -> bool {
        self == Self::default()
    }
}

/// What the projections must hold of one account.
#[derive(Debug)]
struct Expected {
    attributes: Attributes,
    opened_at: DateTime<Utc>,
    /// `None` when the account was opened after its shard's checkpoint.
    balance: Option<Balance>,
    entries: Tally,
    rejections: Tally,
    backdated: Tally,
    members: Tally,
    /// Of what few accounts have: holds, scheduled transactions, the accounts of both, usage.
    others: Option<Box<[Tally; 4]>>,
    account_found: bool,
    balance_found: bool,
}

/// One ledger.
struct Ledger {
    name: String,
    head: Position,
    /// By shard.
    checkpoints: Vec<Option<Position>>,
    replay: Replay,
    accounts: Vec<Expected>,
    assets: BTreeMap<String, u8>,
    keys: Tally,
    backdating: Backdating,
}

struct Verification<'a> {
    progress: Progress<'a>,
    ledgers: BTreeMap<LedgerId, Ledger>,
    report: Report,
}

impl<'a> Verification<'a> {
    async fn begin(conn: &mut PgConnection, progress: Progress<'a>) -> Result<Self, Failure> {
        let shard_count = store::ledgers::shard_count(&mut *conn).await?;
        let mut ledgers = BTreeMap::new();
        for row in store::ledgers::list(&mut *conn).await? {
            let head = events::head(&mut *conn, row.ledger_id).await?.map_or(0, |(head, _)| head);
            let ledger = Ledger {
                name: row.name.as_str().to_owned(),
                head,
                checkpoints: vec![None; usize::try_from(shard_count).unwrap_or(0)],
                replay: Replay::new(row.ledger_id, shard_count),
                accounts: Vec::new(),
                assets: BTreeMap::new(),
                keys: Tally::default(),
                backdating: Backdating::default(),
            };
            ledgers.insert(row.ledger_id, ledger);
        }
        let mut after = LedgerId::MIN;
        while let Some(ledger_id) = sql::next_ledger_in_log(conn, after).await? {
            if !ledgers.contains_key(&ledger_id) {
                return Err(differs(ledger_id, "its events", "a row in ledgers", "none"));
            }
            after = ledger_id;
        }
        let mut this = Self { progress, ledgers, report: Report::default() };
        this.read_checkpoints(conn).await?;
        Ok(this)
    }

    /// Which position every shard's projection is at, and that there is one for each.
    async fn read_checkpoints(&mut self, conn: &mut PgConnection) -> Result<(), Failure> {
        for row in sql::checkpoints(conn).await? {
            let Some(ledger) = self.ledgers.get_mut(&row.ledger_id) else {
                return Err(differs(
                    row.ledger_id,
                    format!("checkpoint of shard {}", row.shard),
                    "no ledger, no checkpoint",
                    row.position,
                ));
            };
            match usize::try_from(row.shard).ok().and_then(|shard| ledger.checkpoints.get_mut(shard)) {
                Some(slot) => *slot = Some(row.position as Position),
                None => {
                    let expected = format!("{} shards", ledger.checkpoints.len());
                    return Err(differs(
                        &ledger.name,
                        format!("checkpoint of shard {}", row.shard),
                        expected,
                        row.position,
                    ));
                }
            }
        }
        for ledger in self.ledgers.values() {
            if let Some(shard) = ledger.checkpoints.iter().position(Option::is_none) {
                return Err(differs(&ledger.name, format!("checkpoint of shard {shard}"), "a row", "none"));
            }
        }
        Ok(())
    }

    async fn follow_log(&mut self, mut conn: PgConnection) -> Result<PgConnection, Failure> {
        let total: u64 = self.ledgers.values().map(|ledger| ledger.head).sum();
        for (ledger_id, ledger) in &mut self.ledgers {
            self.report.ledgers += 1;
            let mut ahead = ReadAhead::start(conn, *ledger_id, 0, ledger.head);
            while let Some(page) = ahead.next().await.map_err(|error| unreadable(&ledger.name, error))? {
                for logged in &page {
                    ledger.follow(logged, &mut self.report)?;
                }
                // The log is the first half of the work, the projections are the second.
                (self.progress)(self.report.events, total * 2);
            }
            conn = ahead.finish().await?;
        }
        Ok(conn)
    }

    /// What was reversed is compared with the transactions themselves.
    async fn compare_reversals(&mut self, conn: &mut PgConnection) -> Result<(), Failure> {
        for (ledger_id, ledger) in &self.ledgers {
            let all: Vec<(&uuid::Uuid, &Reversed)> = ledger.replay.reversed().iter().collect();
            for chunk in all.chunks(SEARCH_PAGE as usize) {
                let ids: Vec<uuid::Uuid> = chunk.iter().map(|(id, _)| **id).collect();
                let positions = sql::posted_at(conn, *ledger_id, &ids).await?;
                let posted = events::at_positions(&mut *conn, *ledger_id, &positions).await?;
                let posted: HashMap<uuid::Uuid, Event> =
                    posted.into_iter().filter_map(|event| Some((event.transaction_id?, event))).collect();
                for (id, reversed) in chunk {
                    let Some(event) = posted.get(*id).filter(|event| event.position < reversed.position) else {
                        let subject = format!("position {}, reversal", reversed.position);
                        return Err(differs(&ledger.name, subject, format!("transaction {id} before it"), "none"));
                    };
                    ledger.compare_reversed(event, reversed)?;
                }
            }
            self.report.reversed += all.len() as u64;
        }
        Ok(())
    }

    async fn compare_keys(&mut self, conn: &mut PgConnection) -> Result<(), Failure> {
        let mut rows = sql::keys(conn);
        while let Some(row) = rows.try_next().await? {
            let Some(ledger) = self.ledgers.get_mut(&row.ledger_id) else {
                return Err(differs(row.ledger_id, "its idempotency keys", "a row in ledgers", "none"));
            };
            ledger.find_key(&row)?;
            self.report.keys += 1;
        }
        drop(rows);
        for (ledger_id, ledger) in &self.ledgers {
            if !ledger.keys.is_even() {
                return Err(ledger.name_key(*ledger_id, conn).await?);
            }
        }
        Ok(())
    }

    /// Assets are those of the log and of ISO 4217. A ledger from before a currency
    /// came into being has no row of it; one that is withdrawn has to stay in our list.
    async fn compare_assets(&mut self, conn: &mut PgConnection) -> Result<(), Failure> {
        let predefined: BTreeMap<String, u8> =
            asset::iso_4217().map(|asset| (asset.code.to_string(), asset.scale)).collect();
        for (ledger_id, ledger) in &self.ledgers {
            let stored = store::ledgers::assets(&mut *conn, *ledger_id).await?;
            let stored: BTreeMap<&str, u8> = stored.iter().map(|asset| (asset.code.as_str(), asset.scale)).collect();
            for (code, scale) in &ledger.assets {
                let found = stored.get(code.as_str());
                if found != Some(scale) {
                    let found = found.map_or_else(|| "none".to_owned(), |scale| format!("{scale} decimals"));
                    return Err(differs(&ledger.name, format!("asset {code}"), format!("{scale} decimals"), found));
                }
            }
            for (code, scale) in &stored {
                // What the log defined has been compared.
                if ledger.assets.contains_key(*code) {
                    continue;
                }
                let expected = predefined.get(*code);
                if expected != Some(scale) {
                    let expected = expected.map_or_else(|| "none".to_owned(), |scale| format!("{scale} decimals"));
                    return Err(differs(&ledger.name, format!("asset {code}"), expected, format!("{scale} decimals")));
                }
            }
            for account in ledger.replay.accounts() {
                if !stored.contains_key(account.asset.as_str()) {
                    let subject = format!("asset {} of account {}", account.asset, account.code);
                    return Err(differs(&ledger.name, subject, "a row in assets", "none"));
                }
            }
            self.report.assets += stored.len() as u64;
        }
        Ok(())
    }

    async fn compare_checkpoints(&self, conn: &mut PgConnection) -> Result<(), Failure> {
        for ledger in self.ledgers.values() {
            let ahead = ledger.checkpoints.iter().enumerate().find(|(_, position)| **position > Some(ledger.head));
            if let Some((shard, Some(position))) = ahead {
                let expected = format!("{} at most, where the log ends", ledger.head);
                return Err(differs(&ledger.name, format!("checkpoint of shard {shard}"), expected, position));
            }
        }
        let Some(fault) = sql::first_fault(conn).await? else { return Ok(()) };
        let ledger = self.ledgers.get(&fault.ledger_id);
        let account = ledger
            .and_then(|ledger| ledger.replay.accounts().get(ledger.replay.index_of(fault.account_id as AccountId)?));
        let account = account.map_or_else(|| fault.account_id.to_string(), |account| account.code.to_string());
        let name = ledger.map_or_else(|| fault.ledger_id.to_string(), |ledger| ledger.name.clone());
        let found = format!("stopped after version {}, and last left out position {}", fault.expected, fault.position);
        Err(differs(name, format!("projection of account {account}"), "one that goes on", found))
    }

    async fn compare_accounts(&mut self, conn: &mut PgConnection) -> Result<(), Failure> {
        let mut rows = sql::accounts(conn);
        while let Some(row) = rows.try_next().await? {
            let owner = Owner { shard: row.shard, ledger_id: row.ledger_id, account_id: row.account_id as AccountId };
            let (ledger, index) = self.find(Table::Accounts, owner)?;
            ledger.compare_account(index, &row)?;
            self.report.accounts += 1;
        }
        self.ledgers.values().try_for_each(|ledger| ledger.missing(Table::Accounts, |expected| expected.account_found))
    }

    async fn compare_balances(&mut self, conn: &mut PgConnection) -> Result<(), Failure> {
        let mut rows = sql::balances(conn);
        while let Some(row) = rows.try_next().await? {
            let owner = Owner { shard: row.shard, ledger_id: row.ledger_id, account_id: row.account_id as AccountId };
            let (ledger, index) = self.find(Table::Balances, owner)?;
            ledger.compare_balance(index, &row)?;
            self.report.balances += 1;
        }
        self.ledgers.values().try_for_each(|ledger| ledger.missing(Table::Balances, |expected| expected.balance_found))
    }

    /// Compares a table that is compared by its encoded rows.
    async fn compare_rows(&mut self, conn: &mut PgConnection, table: Table) -> Result<(), Failure> {
        let mut found: u64 = 0;
        let mut rows = sql::encoded_rows(conn, table).await?;
        while let Some(row) = rows.try_next().await? {
            let owner = Owner::of(&row).ok_or_else(|| store::error::timed_out("a COPY row is cut short"))?;
            let (ledger, index) = self.find(table, owner)?;
            ledger.accounts[index].tally(table).find(&row);
            found += 1;
            if table == Table::Entries && found.is_multiple_of(SEARCH_PAGE as u64) {
                let (events, legs) = (self.report.events, self.report.legs.max(1));
                let share = u128::from(events) * u128::from(found.min(legs)) / u128::from(legs);
                (self.progress)(events + share as u64, events * 2);
            }
        }
        drop(rows);
        for (ledger_id, ledger) in &mut self.ledgers {
            if let Some(index) = ledger.accounts.iter_mut().position(|expected| !expected.is_even(table)) {
                return Err(ledger.name_row(*ledger_id, index, table, conn).await?);
            }
        }
        match table {
            Table::Entries => self.report.entries = found,
            Table::Backdated => self.report.backdated = found,
            Table::TransactionMetadata => self.report.metadata = found,
            Table::Holds => self.report.holds = found,
            Table::ScheduledTransactions => self.report.scheduled = found,
            Table::VelocityUsage => self.report.usage = found,
            Table::TransactionAccounts => {}
            _ => self.report.rejections = found,
        }
        (self.progress)(self.report.events * 2, self.report.events * 2);
        Ok(())
    }

    /// The legs have been compared; of the days it remains to be seen that they are the legs' sums.
    async fn compare_days(&self, conn: &mut PgConnection) -> Result<(), Failure> {
        let Some(day) = sql::first_wrong_day(conn).await? else { return Ok(()) };
        let ledger = self.ledgers.get(&day.ledger_id);
        let name = ledger.map_or_else(|| day.ledger_id.to_string(), |ledger| ledger.name.clone());
        let account = ledger
            .and_then(|ledger| ledger.replay.accounts().get(ledger.replay.index_of(day.account_id as AccountId)?));
        let account = account.map_or_else(|| day.account_id.to_string(), |account| account.code.to_string());
        let told = |sums: Option<String>| sums.unwrap_or_else(|| "none".to_owned());
        let subject = format!("back-dated legs of account {account} on {}", day.day);
        Err(differs(name, subject, told(day.expected), told(day.found)))
    }

    /// The account that a row of a projection belongs to.
    fn find(&mut self, table: Table, owner: Owner) -> Result<(&mut Ledger, usize), Failure> {
        let Owner { shard, ledger_id, account_id } = owner;
        let subject = || format!("{} of account number {account_id} in shard {shard}", table.name());
        let Some(ledger) = self.ledgers.get_mut(&ledger_id) else {
            return Err(differs(ledger_id, subject(), "no row, as there is no such ledger", "a row"));
        };
        match ledger.replay.index_of(account_id) {
            Some(index) if ledger.accounts[index].balance.is_some() => Ok((ledger, index)),
            Some(_) => Err(differs(&ledger.name, subject(), "no row before the checkpoint has reached it", "a row")),
            None => Err(differs(&ledger.name, subject(), "no row, as the log has no such account", "a row")),
        }
    }
}

impl Expected {
    fn tally(&mut self, table: Table) -> &mut Tally {
        match table {
            Table::Entries => &mut self.entries,
            Table::Backdated => &mut self.backdated,
            Table::TransactionMetadata => &mut self.members,
            Table::Holds => self.other(0),
            Table::ScheduledTransactions => self.other(1),
            Table::TransactionAccounts => self.other(2),
            Table::VelocityUsage => self.other(3),
            Table::Rejections | Table::Accounts | Table::Balances | Table::BackdatedDays => &mut self.rejections,
        }
    }

    fn other(&mut self, index: usize) -> &mut Tally {
        &mut self.others.get_or_insert_default()[index]
    }

    fn is_even(&mut self, table: Table) -> bool {
        match table {
            Table::Holds | Table::ScheduledTransactions | Table::TransactionAccounts | Table::VelocityUsage
                if self.others.is_none() =>
            {
                true
            }
            table => self.tally(table).is_even(),
        }
    }
}

impl Ledger {
    fn follow(&mut self, logged: &Logged, report: &mut Report) -> Result<(), Failure> {
        let event = &logged.event;
        report.events += 1;
        match &event.fact {
            Fact::AssetDefined { code, scale } => {
                self.assets.insert(code.as_str().to_owned(), *scale);
            }
            Fact::TransactionPosted(transaction) => {
                report.transactions += 1;
                report.legs += transaction.legs.len() as u64;
            }
            _ => {}
        }
        if let Some(key) = &event.idempotency_key {
            self.keys.expect(&key_use(&store::keys::hash(key), event.position));
        }
        let (checkpoints, accounts, backdating) = (&self.checkpoints, &mut self.accounts, &mut self.backdating);
        let followed = self.replay.apply(logged, |index, account, change| {
            let projected = checkpoint(checkpoints, account.shard) >= event.position;
            observe(accounts, backdating, index, account, change, projected, event);
        });
        followed.map_err(|Contradiction { position, subject, expected, found }| {
            differs(&self.name, format!("position {position}, {subject}"), expected, found)
        })
    }

    fn find_key(&mut self, row: &StoredKey) -> Result<(), Failure> {
        let StoredKey { key_hash, fingerprint_bytes, position, event_count, .. } = row;
        let subject = || format!("idempotency key with the hash {}", hex(key_hash));
        let lengths = (key_hash.len(), *fingerprint_bytes as usize);
        if lengths != (HASH_BYTES, HASH_BYTES) {
            return Err(differs(&self.name, subject(), "hash and fingerprint of 16 bytes", format!("{lengths:?}")));
        }
        let last = position + i64::from(*event_count) - 1;
        if *position < 1 || last > self.head as i64 {
            let found = format!("positions {position} to {last}");
            return Err(differs(&self.name, subject(), format!("positions 1 to {} of the log", self.head), found));
        }
        // So many that the sums cannot be even any more; no need to go on for long.
        let rows = i64::from(*event_count).min(self.keys.rows + 1);
        for position in *position..position + rows.max(1) {
            self.keys.find(&key_use(key_hash, position as Position));
        }
        Ok(())
    }

    /// Which key it is that events and rows do not agree on.
    async fn name_key(&self, ledger_id: LedgerId, conn: &mut PgConnection) -> Result<Failure, Error> {
        if let Some((position, key)) = sql::event_without_key(conn, ledger_id).await? {
            let subject = format!("position {position}, idempotency key {key:?}");
            return Ok(differs(&self.name, subject, "a row in idempotency_keys that covers the event", "none"));
        }
        if let Some((position, hash, expected, found)) = sql::key_without_event(conn, ledger_id).await? {
            let subject = format!("idempotency key with the hash {hash}, which was used at position {position}");
            let expected = format!("{expected} events with that key from there on");
            return Ok(differs(&self.name, subject, expected, found));
        }
        Ok(differs(&self.name, "idempotency keys", "one row for each key in the log", "another number"))
    }

    fn compare_account(&mut self, index: usize, row: &StoredAccount) -> Result<(), Failure> {
        let (account, expected) = (&self.replay.accounts()[index], &mut self.accounts[index]);
        let metadata = row.metadata.as_ref().map(|json| crate::metadata::canonical(&json.0));
        let metadata = match metadata {
            None => None,
            Some(canonical) => canonical.unwrap_or_else(|_| Some(Arc::from("no object"))),
        };
        let limit = |limit: Option<Amount>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
        let none = || Arc::from("none");
        let freeze = |scope: Option<&str>, reason: Option<&str>| {
            scope.map_or_else(|| "none".to_owned(), |scope| format!("{scope}, because {reason:?}"))
        };
        let Attributes { limits, freeze: frozen, metadata: stated, .. } = &expected.attributes;
        let columns: [(&str, String, String); 10] = [
            ("shard", account.shard.to_string(), row.shard.to_string()),
            ("code", account.code.to_string(), row.code.clone()),
            ("asset", account.asset.to_string(), row.asset.clone()),
            ("normal_side", account.normal.as_str().to_owned(), row.normal_side.clone()),
            ("min_balance", limit(limits.min_balance), limit(row.min_balance)),
            ("max_balance", limit(limits.max_balance), limit(row.max_balance)),
            ("status", expected.attributes.status().as_str().to_owned(), row.status.clone()),
            (
                "freeze",
                freeze(
                    frozen.as_ref().map(|freeze| freeze.scope.as_str()),
                    frozen.as_ref().map(|freeze| &*freeze.reason),
                ),
                freeze(row.freeze_scope.as_deref(), row.freeze_reason.as_deref()),
            ),
            ("metadata", stated.clone().unwrap_or_else(none).to_string(), metadata.unwrap_or_else(none).to_string()),
            ("opened_at", format!("{:?}", expected.opened_at), format!("{:?}", row.opened_at)),
        ];
        if std::mem::replace(&mut expected.account_found, true) {
            return Err(differs(&self.name, format!("row of account {}", account.code), "one", "two"));
        }
        match columns.into_iter().find(|(_, expected, found)| expected != found) {
            None => Ok(()),
            Some((column, expected, found)) => {
                Err(differs(&self.name, format!("{column} of account {}", account.code), expected, found))
            }
        }
    }

    fn compare_balance(&mut self, index: usize, row: &StoredBalance) -> Result<(), Failure> {
        let (account, expected) = (&self.replay.accounts()[index], &mut self.accounts[index]);
        let found = Balance {
            debits_posted: row.debits_posted,
            credits_posted: row.credits_posted,
            debits_pending: row.debits_pending,
            credits_pending: row.credits_pending,
            version: row.version as u64,
            position: row.position as Position,
        };
        let subject = format!("balance of account {}", account.code);
        if std::mem::replace(&mut expected.balance_found, true) {
            return Err(differs(&self.name, subject, "one row", "two"));
        }
        if row.shard != account.shard {
            return Err(differs(
                &self.name,
                subject,
                format!("shard {}", account.shard),
                format!("shard {}", row.shard),
            ));
        }
        match expected.balance {
            Some(balance) if balance != found => {
                Err(differs(&self.name, subject, describe(&balance), describe(&found)))
            }
            _ => Ok(()),
        }
    }

    /// An account that must have a row and has none.
    fn missing(&self, table: Table, found: impl Fn(&Expected) -> bool) -> Result<(), Failure> {
        let missing = self.accounts.iter().position(|expected| expected.balance.is_some() && !found(expected));
        let Some(account) = missing.and_then(|index| self.replay.accounts().get(index)) else { return Ok(()) };
        Err(differs(&self.name, format!("account {}", account.code), format!("a row in {}", table.name()), "none"))
    }

    /// Which row of an account it is that differs. Reads the log from where the
    /// account was opened once more, beside the account's rows.
    async fn name_row(
        &self,
        ledger_id: LedgerId,
        index: usize,
        table: Table,
        conn: &mut PgConnection,
    ) -> Result<Failure, Error> {
        let account = &self.replay.accounts()[index];
        let subject = format!("{} of account {}", table.name(), account.code);
        let differ = |expected: String, found: String| differs(&self.name, &subject, expected, found);
        if matches!(table, Table::Holds | Table::ScheduledTransactions | Table::VelocityUsage) {
            return self.name_standing(ledger_id, index, table, conn).await;
        }
        if table == Table::TransactionMetadata {
            sql::open_metadata_of_account(conn, ledger_id, account.id).await?;
        }
        let mut stored =
            Stored { ledger_id, account_id: account.id, table, lines: Vec::new().into_iter(), after: (0, -1) };
        let mut backdating = Backdating::default();
        let (mut after, to) = (account.id, checkpoint(&self.checkpoints, account.shard).min(self.head));
        while after < to {
            let page_to = to.min(after + SEARCH_PAGE as u64);
            let page = events::read_logged(&mut *conn, ledger_id, after, page_to).await?;
            after = page_to;
            let lines = |logged: &Logged| lines(account.owner(ledger_id), &logged.event, table, &mut backdating);
            for expected in page.iter().flat_map(lines) {
                match stored.next(conn).await? {
                    Some(found) if found == expected => {}
                    Some(found) => return Ok(differ(expected.text, found.text)),
                    None => return Ok(differ(expected.text, "no row".to_owned())),
                }
            }
        }
        let extra = stored.next(conn).await?;
        Ok(differ(
            "no other row".to_owned(),
            extra.map_or_else(|| "a row that cannot be shown".to_owned(), |line| line.text),
        ))
    }
}

impl Ledger {
    /// The same of tables whose rows change: the log is followed once more, and
    /// memory holds what becomes of the account's rows.
    async fn name_standing(
        &self,
        ledger_id: LedgerId,
        index: usize,
        table: Table,
        conn: &mut PgConnection,
    ) -> Result<Failure, Error> {
        let account = &self.replay.accounts()[index];
        let subject = format!("{} of account {}", table.name(), account.code);
        let shard_count = Shard::try_from(self.checkpoints.len()).unwrap_or(Shard::MAX);
        let mut replay = Replay::new(ledger_id, shard_count);
        let mut rows: BTreeMap<(i64, i64), String> = BTreeMap::new();
        let (mut after, to) = (0, checkpoint(&self.checkpoints, account.shard).min(self.head));
        while after < to {
            let page_to = to.min(after + SEARCH_PAGE as u64);
            for logged in events::read_logged(&mut *conn, ledger_id, after, page_to).await? {
                let followed = replay.apply(&logged, |of, _, change| {
                    if let Change::Lapsed(row) = change
                        && (of, table) == (index, Table::VelocityUsage)
                    {
                        rows.remove(&(row.limit as i64, row.bucket));
                    }
                    let row = match change {
                        Change::Held { after, .. } => {
                            Some((Table::Holds, (after.position as i64, 0), after.to_string()))
                        }
                        Change::Scheduled { after, .. } => {
                            Some((Table::ScheduledTransactions, (after.position as i64, 0), after.to_string()))
                        }
                        Change::Used { after, .. } => {
                            let key = (after.limit as i64, after.bucket);
                            Some((Table::VelocityUsage, key, after.to_string()))
                        }
                        _ => None,
                    };
                    if let Some((_, key, text)) = row.filter(|(of_table, ..)| of == index && *of_table == table) {
                        rows.insert(key, text);
                    }
                });
                followed.map_err(|contradiction| Error::Corrupt {
                    position: contradiction.position,
                    detail: contradiction.to_string(),
                })?;
            }
            after = page_to;
        }
        let mut expected = rows.into_values();
        let mut found = sql::standing_of_account(conn, ledger_id, account.id, table).await?.into_iter();
        loop {
            let (expected, found) = (expected.next(), found.next());
            if expected != found {
                let told = |row: Option<String>, none: &str| row.unwrap_or_else(|| none.to_owned());
                let (expected, found) = (told(expected, "no other row"), told(found, "no row"));
                return Ok(differs(&self.name, subject, expected, found));
            }
            if expected.is_none() {
                return Ok(differs(&self.name, subject, "no other row", "a row that cannot be shown"));
            }
        }
    }

    /// Whether what reversals say is left of a transaction is what they left.
    fn compare_reversed(&self, event: &Event, reversed: &Reversed) -> Result<(), Failure> {
        let Fact::TransactionPosted(transaction) = &event.fact else { return Ok(()) };
        let id = event.transaction_id.unwrap_or_default();
        let subject = || format!("position {}, reversal of transaction {id}", reversed.position);
        if transaction.legs.len() != reversed.remaining.len() {
            return Err(differs(&self.name, subject(), transaction.legs.len(), reversed.remaining.len()));
        }
        let counter = |side| if side == Side::Debit { Side::Credit } else { Side::Debit };
        let of = |id: AccountId, side: Side| move |leg: &&crate::ledger::Leg| leg.account_id == id && leg.side == side;
        let sum = |amounts: &mut dyn Iterator<Item = Amount>| {
            amounts.fold(0_i128, |sum, amount| sum.saturating_add(amount.get()))
        };
        for leg in &transaction.legs {
            let (id, side) = (leg.account_id, leg.side);
            let posted = sum(&mut transaction.legs.iter().filter(of(id, side)).map(|leg| leg.amount));
            let legs = transaction.legs.iter().zip(&reversed.remaining);
            let left = sum(&mut legs.filter(|(leg, _)| of(id, side)(leg)).map(|(_, left)| *left));
            let is_same = |(of, taken_side, _): &&(AccountId, Side, Amount)| (*of, *taken_side) == (id, counter(side));
            let taken = sum(&mut reversed.taken.iter().filter(is_same).map(|(.., amount)| *amount));
            if posted - taken != left {
                let subject = format!("{}, account {}", subject(), leg.account);
                return Err(differs(&self.name, subject, format!("{} left", posted - taken), left));
            }
        }
        let stranger = reversed.taken.iter().find(|(id, side, _)| {
            !transaction.legs.iter().any(|leg| (leg.account_id, leg.side) == (*id, counter(*side)))
        });
        match stranger {
            None => Ok(()),
            Some((id, ..)) => Err(differs(&self.name, subject(), "its own accounts", format!("account number {id}"))),
        }
    }
}

/// Rows of one account, page by page.
struct Stored {
    ledger_id: LedgerId,
    account_id: AccountId,
    table: Table,
    lines: std::vec::IntoIter<Line>,
    after: (i64, i16),
}

impl Stored {
    async fn next(&mut self, conn: &mut PgConnection) -> Result<Option<Line>, Error> {
        if self.lines.len() == 0 {
            let (ledger_id, account_id) = (self.ledger_id, self.account_id);
            let page = match self.table {
                Table::Entries => sql::entries_of_account(conn, ledger_id, account_id, self.after, SEARCH_PAGE).await?,
                Table::Backdated => {
                    sql::backdated_of_account(conn, ledger_id, account_id, self.after, SEARCH_PAGE).await?
                }
                Table::TransactionMetadata => {
                    sql::next_metadata_of_account(conn, ledger_id, account_id, SEARCH_PAGE).await?
                }
                Table::TransactionAccounts => {
                    sql::transactions_of_account(conn, ledger_id, account_id, self.after, SEARCH_PAGE).await?
                }
                _ => sql::rejections_of_account(conn, ledger_id, account_id, self.after, SEARCH_PAGE).await?,
            };
            self.lines = page.into_iter();
        }
        let line = self.lines.next();
        self.after = line.as_ref().map_or(self.after, |line| line.key);
        Ok(line)
    }
}

/// The rows that an event leaves of one account.
fn lines(owner: Owner, event: &Event, table: Table, backdating: &mut Backdating) -> Vec<Line> {
    if table == Table::TransactionMetadata {
        return metadata_lines(owner, event);
    }
    let transaction_id = event.transaction_id.unwrap_or_default();
    let (effective_at, recorded_at) = (event.effective_at, event.recorded_at);
    match (&event.fact, table) {
        (Fact::TransactionPosted(transaction), Table::Entries | Table::Backdated) => {
            let legs = transaction.legs.iter().enumerate().filter(|(_, leg)| leg.account_id == owner.account_id);
            legs.filter_map(|(index, leg)| {
                let row = EntryRow {
                    owner,
                    version: leg.after.version,
                    position: event.position,
                    leg: index as i16,
                    transaction_id,
                    side: leg.side.as_str(),
                    amount: leg.amount,
                    balance_after: leg.after.posted(leg.normal),
                    reference: transaction.reference.as_deref(),
                    effective_at,
                    recorded_at,
                };
                let text = match table {
                    Table::Entries => row.to_string(),
                    _ => backdating.follow(&row)?.to_string(),
                };
                Some(Line { key: (row.version as i64, owner.shard), text })
            })
            .collect()
        }
        (Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. }, Table::Rejections) => {
            let legs = rejected.account_ids.iter().enumerate().filter(|(_, id)| **id == owner.account_id);
            legs.map(|(index, _)| {
                let row = RejectionRow {
                    owner,
                    position: event.position,
                    leg: index as i16,
                    transaction_id,
                    reason: rejected.reason.code(),
                    reference: rejected.request.reference.as_deref(),
                    effective_at,
                    recorded_at,
                };
                Line { key: (row.position as i64, row.leg), text: row.to_string() }
            })
            .collect()
        }
        (Fact::TransactionAuthorised(_) | Fact::TransactionScheduled(_), Table::TransactionAccounts) => {
            let names = match &event.fact {
                Fact::TransactionScheduled(scheduled) => scheduled.account_ids.contains(&owner.account_id),
                fact => fact.legs().iter().any(|leg| leg.account_id == owner.account_id),
            };
            let row = AccountOfRow { owner, position: event.position };
            let line = Line { key: (event.position as i64, owner.shard), text: row.to_string() };
            names.then_some(line).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The rows of `transaction_metadata` that an event leaves, if its first leg is of the account.
fn metadata_lines(owner: Owner, event: &Event) -> Vec<Line> {
    let of_legs = |transaction: &Transaction| transaction.legs.first().map(|leg| leg.account_id);
    let (first, json) = match &event.fact {
        Fact::TransactionPosted(posted) if !was_scheduled(posted) => (of_legs(posted), &posted.metadata),
        Fact::TransactionAuthorised(Authorisation { transaction, .. }) => (of_legs(transaction), &transaction.metadata),
        Fact::TransactionScheduled(Scheduled { request, account_ids }) => {
            (account_ids.first().copied(), &request.metadata)
        }
        Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } if rejected.scheduled.is_none() => {
            (rejected.account_ids.first().copied(), &rejected.request.metadata)
        }
        _ => return Vec::new(),
    };
    if first != Some(owner.account_id) {
        return Vec::new();
    }
    let position = event.position;
    let line = |(key, value): &(String, String)| Line {
        key: (position as i64, 0),
        text: MetadataRow { owner, position, key, value }.to_string(),
    };
    json.as_deref().map(metadata::searchable).unwrap_or_default().iter().map(line).collect()
}

/// Whether it is found where it was scheduled, and not where it was posted.
fn was_scheduled(transaction: &Transaction) -> bool {
    let origin = transaction.more.as_ref().and_then(|more| more.origin.as_ref());
    matches!(origin, Some(Origin::Schedule { .. }))
}

/// Notes what an event leaves in the projections of one account, if they have
/// reached it.
fn observe(
    accounts: &mut Vec<Expected>,
    backdating: &mut Backdating,
    index: usize,
    account: &Account,
    change: Change<'_>,
    projected: bool,
    event: &Event,
) {
    let row = match change {
        Change::Opened(row) => {
            let attributes =
                Attributes { limits: row.limits, metadata: row.metadata.map(Arc::from), ..Attributes::default() };
            accounts.push(Expected {
                attributes,
                opened_at: event.recorded_at,
                balance: projected.then_some(account.balance),
                entries: Tally::default(),
                rejections: Tally::default(),
                backdated: Tally::default(),
                members: Tally::default(),
                others: None,
                account_found: false,
                balance_found: false,
            });
            return;
        }
        _ if !projected => return,
        change => change,
    };
    let expected = &mut accounts[index];
    let mut encoded = Vec::with_capacity(256);
    match row {
        Change::Opened(_) => {}
        Change::Posted(row) => {
            expected.balance = Some(account.balance);
            row.encode(&mut encoded);
            expected.entries.expect(&encoded);
            if let Some(row) = backdating.follow(&row) {
                encoded.clear();
                row.encode(&mut encoded);
                expected.backdated.expect(&encoded);
            }
        }
        Change::Reserved => expected.balance = Some(account.balance),
        Change::Altered(row) => expected.attributes = row.attributes.clone(),
        Change::Rejected(row) => {
            row.encode(&mut encoded);
            expected.rejections.expect(&encoded);
        }
        Change::Described(row) => {
            row.encode(&mut encoded);
            expected.members.expect(&encoded);
        }
        Change::Named(row) => {
            row.encode(&mut encoded);
            expected.tally(Table::TransactionAccounts).expect(&encoded);
        }
        Change::Held { before, after } => {
            expected.tally(Table::Holds).replace(before, after, HoldRow::encode);
        }
        Change::Scheduled { before, after } => {
            expected.tally(Table::ScheduledTransactions).replace(before, after, ScheduleRow::encode);
        }
        Change::Used { before, after } => {
            expected.tally(Table::VelocityUsage).replace(before, after, UsageRow::encode);
        }
        Change::Lapsed(row) => {
            row.encode(&mut encoded);
            expected.tally(Table::VelocityUsage).find(&encoded);
        }
    }
}

async fn check_trial_balance(conn: &mut PgConnection) -> Result<(), Failure> {
    match sql::first_unbalanced_asset(conn).await? {
        None => Ok(()),
        Some((ledger, asset, net)) => Err(differs(ledger, format!("trial balance of {asset}"), "0", net)),
    }
}

fn checkpoint(checkpoints: &[Option<Position>], shard: Shard) -> Position {
    usize::try_from(shard).ok().and_then(|shard| checkpoints.get(shard).copied().flatten()).unwrap_or(0)
}

/// One event of one key, to be counted.
fn key_use(hash: &[u8], position: Position) -> Vec<u8> {
    [hash, &position.to_be_bytes()].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An event that this release cannot read is a finding; a lost connection is not.
fn unreadable(ledger: &str, error: Error) -> Failure {
    match error {
        Error::Payload { position, source } => {
            differs(ledger, format!("position {position}"), "an event that can be read", source)
        }
        error => Failure::Store(error),
    }
}

fn differs(
    ledger: impl ToString,
    subject: impl Into<String>,
    expected: impl ToString,
    found: impl ToString,
) -> Failure {
    let (ledger, subject) = (ledger.to_string(), subject.into());
    Failure::Difference(Box::new(Difference {
        ledger,
        subject,
        expected: expected.to_string(),
        found: found.to_string(),
    }))
}
