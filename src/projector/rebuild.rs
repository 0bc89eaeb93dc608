//! Rebuilds the projections of all ledgers from the log, while payments go on.
//!
//! The log is folded into fresh tables up to its head; then, with indexes in
//! place, in smaller and smaller steps up to where the head has moved meanwhile;
//! and the last step is one transaction with the swap. Why nobody sees anything
//! half-done is told in [`store::rebuild`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use serde::Serialize;
use sqlx::PgConnection;

use super::Progress;
use super::backdating::Backdating;
use super::replay::{Account, Change, Contradiction, ReadAhead, Replay};
use crate::ledger::{AccountId, Attributes, HoldState, Position};
use crate::store::events::Logged;
use crate::store::rebuild::{self as sql, Definition, Load, Rows};
use crate::store::rows::{AttributesRow, BalanceRow, ScheduleState, Table};
use crate::store::{self, Database, LedgerId, Shard};

/// Tables that are loaded at a time, each over a connection of its own.
const TABLES_LOADED: usize = 10;
/// Events behind the head from which the swap is begun: a tenth of a second of
/// folding, for which flushes wait.
const SWAP_LAG_EVENTS: u64 = 2_000;
/// Rounds of catching up before a swap. Each is shorter than the one before
/// unless payments come in faster than they are folded; then flushes wait
/// longer, and payments do not.
const CATCH_UP_ROUNDS_MAX: usize = 20;
/// Events written in one transaction while catching up: what a swap that is
/// tried again has to hold in memory.
const CATCH_UP_STEP_EVENTS: u64 = 50_000;
/// Tries at the swap, a second apart: some ten minutes of analysts' statements
/// and of `verify`, which may not be swapped underneath.
const SWAP_TRIES_MAX: usize = 600;
/// Between tries at the swap, so that whoever queued behind our lock gets through.
const SWAP_PAUSE: Duration = Duration::from_secs(1);
/// How long the swap waits for a flush under way.
const FLUSH_WAIT_MS: u64 = 2_000;
/// How long the swap waits for a reader, with other readers, and the sequencer's
/// look-ups among them, behind it.
const READER_WAIT_MS: u64 = 300;
/// Every so many tries the swap waits longer, so that a vacuum in the way is
/// ended: PostgreSQL does that when it has been waited for `deadlock_timeout`, 1 s.
const PATIENT_TRY: usize = 5;
const VACUUM_WAIT_MS: u64 = 1_500;
/// How long old snapshots are waited for: as long as the tries at the swap.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(600);
/// Between looks for old snapshots.
const SNAPSHOT_POLL: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another rebuild is running on this database")]
    AlreadyRunning,
    /// Nothing was changed: the live projections are as they were.
    #[error("{0} would be lost by a rebuild; drop it first, and make it anew afterwards")]
    Obstacle(String),
    /// The log cannot be folded. The live projections are as they were.
    #[error("the log of ledger {ledger_id} contradicts itself at {contradiction}")]
    Contradiction { ledger_id: LedgerId, contradiction: Contradiction },
    /// The live projections are as they were.
    #[error(
        "transactions that began before the rebuild do not end (sessions {pids:?}): \
         end them, or run the rebuild at another time"
    )]
    OldTransactions { pids: Vec<i32> },
    /// The live projections are as they were.
    #[error("readers held the projections at every try ({tries}); run the rebuild at another time")]
    ReadersInTheWay { tries: usize },
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What a rebuild did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub ledgers: u64,
    /// Events of the log that were folded.
    pub events: u64,
    pub accounts: u64,
    pub entries: u64,
    pub rejections: u64,
    /// Tries that the swap took.
    pub swap_tries: u64,
    pub seconds: f64,
}

/// Rebuilds all projections of all ledgers.
///
/// # Errors
/// See [`Error`]; on each of them the live projections are as they were.
pub async fn rebuild(database: &Database, progress: Progress<'_>) -> Result<Report, Error> {
    let started = Instant::now();
    let mut owner = database.connect_owner().await?;
    if !sql::lock(&mut owner).await? {
        return Err(Error::AlreadyRunning);
    }
    sql::settle_in(&mut owner).await?;
    let built: Result<Report, Error> = async {
        let mut build = Build::begin(database, &mut owner, progress).await?;
        build.load(database, &mut owner).await?;
        build.wait_for_old_snapshots(&mut owner).await?;
        let swap_tries = build.swap(&mut owner).await?;
        Ok(build.report(swap_tries))
    }
    .await;
    if built.is_err() {
        // Whatever it was doing. An interrupted COPY first answers that it was.
        for _ in 0..2 {
            _ = sql::roll_back(&mut owner).await;
        }
    }
    if let Err(error) = sql::clear(&mut owner).await {
        tracing::warn!(%error, "tables were left behind in the schemas rebuild and replaced; the next rebuild drops them");
    }
    Ok(Report { seconds: started.elapsed().as_secs_f64(), ..built? })
}

/// A rebuild under way.
struct Build<'a> {
    progress: Progress<'a>,
    shard_count: Shard,
    definitions: Vec<Definition>,
    /// Reads the log; `None` while a task does.
    reader: Option<PgConnection>,
    ledgers: BTreeMap<LedgerId, Replay>,
    /// What has been folded and is not committed yet.
    rows: Rows,
    /// Accounts whose balances are not committed as they are now.
    changed: HashSet<(LedgerId, usize)>,
    /// Accounts whose attributes have changed and are not committed as they are now.
    altered: HashMap<(LedgerId, usize), Attributes>,
    /// The same of holds that are open and of transactions that are still scheduled.
    open: HashSet<(LedgerId, Position)>,
    /// The same of what limits have counted, by account and the limit's position.
    used: HashSet<(LedgerId, AccountId, Position)>,
    entries: u64,
    rejections: u64,
    backdating: Backdating,
}

impl<'a> Build<'a> {
    async fn begin(database: &Database, owner: &mut PgConnection, progress: Progress<'a>) -> Result<Self, Error> {
        sql::clear(owner).await?;
        if let Some(obstacle) = sql::obstacles(owner).await?.into_iter().next() {
            return Err(Error::Obstacle(obstacle));
        }
        let definitions = sql::definitions(owner).await?;
        sql::create_schema(owner).await?;
        let shard_count = store::ledgers::shard_count(&mut *owner).await?;
        let mut reader = database.connect_owner().await?;
        sql::settle_in(&mut reader).await?;
        Ok(Self {
            progress,
            shard_count,
            definitions,
            reader: Some(reader),
            ledgers: BTreeMap::new(),
            rows: Rows::default(),
            changed: HashSet::new(),
            altered: HashMap::new(),
            open: HashSet::new(),
            used: HashSet::new(),
            entries: 0,
            rejections: 0,
            backdating: Backdating::default(),
        })
    }

    /// Folds the log up to its present head into tables without indexes, each
    /// over a connection of its own, and builds the indexes.
    async fn load(&mut self, database: &Database, owner: &mut PgConnection) -> Result<(), Error> {
        let heads = sql::heads(owner).await?;
        let mut others = Vec::with_capacity(TABLES_LOADED - 1);
        for _ in 1..TABLES_LOADED {
            others.push(database.connect_owner().await?);
        }
        // In the order of the definitions, entries over the connection that is there.
        let mut conns: Vec<&mut PgConnection> = others.iter_mut().collect();
        conns.insert(2, owner);
        for (conn, definition) in conns.iter_mut().zip(&self.definitions) {
            sql::settle_in(conn).await?;
            sql::begin(conn).await?;
            definition.create(conn).await?;
        }
        let Ok(mut conns) = <[&mut PgConnection; TABLES_LOADED]>::try_from(conns) else { return Ok(()) };
        // The last are the days, which are made of the back-dated legs, over the same connection.
        if let Some(of_days) = self.definitions.last() {
            of_days.create(conns[4]).await?;
        }
        self.load_rows(&mut conns, &heads).await?;
        for conn in &mut conns {
            sql::commit(conn).await?;
        }
        let [a, b, owner, r, d, m, h, s, t, u] = conns;
        let [
            of_accounts,
            of_balances,
            of_entries,
            of_rejections,
            of_backdated,
            of_metadata,
            of_holds,
            of_schedules,
            of_transaction_accounts,
            of_usage,
            of_days,
        ] = &self.definitions[..]
        else {
            return Ok(());
        };
        tokio::try_join!(of_entries.index(owner), async {
            of_accounts.index(a).await?;
            of_balances.index(b).await?;
            of_rejections.index(r).await?;
            of_backdated.index(d).await?;
            of_metadata.index(m).await?;
            of_holds.index(h).await?;
            of_schedules.index(s).await?;
            of_transaction_accounts.index(t).await?;
            of_usage.index(u).await?;
            of_days.index(d).await
        })?;
        // What has changed of accounts that were loaded as they were opened.
        self.commit(owner).await
    }

    async fn load_rows(
        &mut self,
        conns: &mut [&mut PgConnection; TABLES_LOADED],
        heads: &[(LedgerId, Position)],
    ) -> Result<(), Error> {
        let [a, b, e, r, d, m, h, s, t, u] = conns;
        let mut accounts = Load::begin(a, Table::Accounts).await?;
        let mut balances = Load::begin(b, Table::Balances).await?;
        let mut entries = Load::begin(e, Table::Entries).await?;
        let mut rejections = Load::begin(r, Table::Rejections).await?;
        let mut backdated = Load::begin(d, Table::Backdated).await?;
        let mut metadata = Load::begin(m, Table::TransactionMetadata).await?;
        let mut holds = Load::begin(h, Table::Holds).await?;
        let mut schedules = Load::begin(s, Table::ScheduledTransactions).await?;
        let mut transaction_accounts = Load::begin(t, Table::TransactionAccounts).await?;
        let mut usage = Load::begin(u, Table::VelocityUsage).await?;
        for (ledger_id, head) in heads {
            let mut ahead = self.read_ahead(*ledger_id, *head)?;
            while let Some(page) = ahead.next().await? {
                self.fold(*ledger_id, &page)?;
                entries.send(&mut self.rows.entries).await?;
                accounts.send(&mut self.rows.accounts).await?;
                rejections.send(&mut self.rows.rejections).await?;
                backdated.send(&mut self.rows.backdated).await?;
                metadata.send(&mut self.rows.metadata).await?;
                holds.send(&mut self.rows.holds.ended).await?;
                schedules.send(&mut self.rows.schedules.ended).await?;
                transaction_accounts.send(&mut self.rows.transaction_accounts).await?;
                self.tell(heads);
            }
            self.reader = Some(ahead.finish().await?);
            self.reached(*ledger_id, *head)?;
        }
        self.encode_open();
        balances.send(&mut self.rows.balances).await?;
        holds.send(&mut self.rows.holds.open).await?;
        schedules.send(&mut self.rows.schedules.open).await?;
        usage.send(&mut self.rows.usage).await?;
        self.changed.clear();
        self.open.clear();
        self.used.clear();
        accounts.finish().await?;
        balances.finish().await?;
        entries.finish().await?;
        rejections.finish().await?;
        backdated.finish().await?;
        sql::fill_days(d).await?;
        metadata.finish().await?;
        holds.finish().await?;
        schedules.finish().await?;
        transaction_accounts.finish().await?;
        usage.finish().await?;
        Ok(())
    }

    fn read_ahead(&mut self, ledger_id: LedgerId, to: Position) -> Result<ReadAhead, store::Error> {
        let gone = || store::error::timed_out("the connection that reads the log is gone");
        let reader = self.reader.take().ok_or_else(gone)?;
        let after = self.ledger(ledger_id).position();
        Ok(ReadAhead::start(reader, ledger_id, after, to))
    }

    fn ledger(&mut self, ledger_id: LedgerId) -> &mut Replay {
        self.ledgers.entry(ledger_id).or_insert_with(|| Replay::new(ledger_id, self.shard_count))
    }

    fn fold(&mut self, ledger_id: LedgerId, page: &[Logged]) -> Result<(), Error> {
        let replay = self.ledgers.entry(ledger_id).or_insert_with(|| Replay::new(ledger_id, self.shard_count));
        let rows = &mut self.rows;
        for logged in page {
            let observed = replay.apply(logged, |index, account: &Account, change| match change {
                Change::Opened(row) => {
                    row.encode(&mut rows.accounts);
                    self.changed.insert((ledger_id, index));
                }
                Change::Posted(row) => {
                    row.encode(&mut rows.entries);
                    if let Some(row) = self.backdating.follow(&row) {
                        row.encode(&mut rows.backdated);
                    }
                    self.entries += 1;
                    self.changed.insert((ledger_id, index));
                }
                Change::Reserved => _ = self.changed.insert((ledger_id, index)),
                Change::Rejected(row) => {
                    row.encode(&mut rows.rejections);
                    self.rejections += 1;
                }
                Change::Described(row) => row.encode(&mut rows.metadata),
                Change::Named(row) => row.encode(&mut rows.transaction_accounts),
                Change::Altered(row) => _ = self.altered.insert((ledger_id, index), row.attributes.clone()),
                Change::Held { after, .. } => {
                    if after.state == HoldState::Authorised {
                        self.open.insert((ledger_id, after.position));
                    } else {
                        self.open.remove(&(ledger_id, after.position));
                        after.encode(&mut rows.holds.ended);
                    }
                }
                Change::Scheduled { after, .. } => {
                    if after.state == ScheduleState::Scheduled {
                        self.open.insert((ledger_id, after.position));
                    } else {
                        self.open.remove(&(ledger_id, after.position));
                        after.encode(&mut rows.schedules.ended);
                    }
                }
                Change::Used { after, .. } => _ = self.used.insert((ledger_id, account.id, after.limit)),
                // Whatever lapses, something has counted.
                Change::Lapsed(_) => {}
            });
            observed.map_err(|contradiction| Error::Contradiction { ledger_id, contradiction })?;
        }
        Ok(())
    }

    /// The log may not end before the head that was seen.
    fn reached(&self, ledger_id: LedgerId, head: Position) -> Result<(), store::Error> {
        let found = self.ledgers.get(&ledger_id).map_or(0, Replay::position);
        if found < head { Err(store::Error::Hole { ledger_id, expected: found + 1, found: head }) } else { Ok(()) }
    }

    /// Encodes what may still change, as it is now.
    fn encode_open(&mut self) {
        let rows = &mut self.rows;
        rows.balances.clear();
        for (ledger_id, index) in &self.changed {
            let Some(account) = self.ledgers.get(ledger_id).and_then(|replay| replay.accounts().get(*index)) else {
                continue;
            };
            BalanceRow { owner: account.owner(*ledger_id), balance: account.balance }.encode(&mut rows.balances);
        }
        rows.attributes.clear();
        for ((ledger_id, index), attributes) in &self.altered {
            let Some(account) = self.ledgers.get(ledger_id).and_then(|replay| replay.accounts().get(*index)) else {
                continue;
            };
            AttributesRow { owner: account.owner(*ledger_id), attributes }.encode(&mut rows.attributes);
        }
        rows.holds.open.clear();
        rows.schedules.open.clear();
        rows.usage.clear();
        for (ledger_id, position) in &self.open {
            let Some(replay) = self.ledgers.get(ledger_id) else { continue };
            if let Some(hold) = replay.hold(*position) {
                hold.encode(&mut rows.holds.open);
            }
            if let Some(schedule) = replay.schedule(*position) {
                schedule.encode(&mut rows.schedules.open);
            }
        }
        for (ledger_id, account, limit) in &self.used {
            let Some(replay) = self.ledgers.get(ledger_id) else { continue };
            replay.usage(*account, *limit).iter().for_each(|row| row.encode(&mut rows.usage));
        }
    }

    fn tell(&self, heads: &[(LedgerId, Position)]) {
        let done = self.ledgers.values().map(Replay::position).sum();
        (self.progress)(done, heads.iter().map(|(_, head)| head).sum::<u64>().max(done));
    }

    /// Waits for the last transaction that could look at the fresh tables with
    /// a snapshot from before their rows.
    async fn wait_for_old_snapshots(&self, owner: &mut PgConnection) -> Result<(), Error> {
        let written_at = sql::now(owner).await?;
        let deadline = Instant::now() + SNAPSHOT_WAIT;
        loop {
            let pids = sql::older_snapshots(owner, written_at).await?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::OldTransactions { pids });
            }
            tokio::time::sleep(SNAPSHOT_POLL).await;
        }
    }

    /// Catches up and swaps, as often as it takes. Answers the number of tries.
    async fn swap(&mut self, owner: &mut PgConnection) -> Result<u64, Error> {
        for tries in 1..=SWAP_TRIES_MAX {
            self.catch_up(owner).await?;
            match self.try_swap(owner, tries).await {
                Ok(()) => return Ok(tries as u64),
                Err(Error::Store(store::Error::Transient(error))) => {
                    tracing::info!(tries, %error, "the swap found the projections in use; trying again");
                    sql::roll_back(owner).await?;
                    tokio::time::sleep(SWAP_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::ReadersInTheWay { tries: SWAP_TRIES_MAX })
    }

    async fn catch_up(&mut self, owner: &mut PgConnection) -> Result<(), Error> {
        // What a swap that did not come about has folded.
        self.commit(owner).await?;
        for _ in 0..CATCH_UP_ROUNDS_MAX {
            let heads = sql::heads(owner).await?;
            if self.behind(&heads) < SWAP_LAG_EVENTS {
                break;
            }
            for (ledger_id, head) in heads.iter().copied() {
                let mut to = self.ledgers.get(&ledger_id).map_or(0, Replay::position);
                while to < head {
                    to = head.min(to + CATCH_UP_STEP_EVENTS);
                    self.fold_to(ledger_id, to).await?;
                    self.commit(owner).await?;
                    self.tell(&heads);
                }
            }
        }
        Ok(())
    }

    fn behind(&self, heads: &[(LedgerId, Position)]) -> u64 {
        let folded = |ledger_id| self.ledgers.get(&ledger_id).map_or(0, Replay::position);
        heads.iter().map(|(ledger_id, head)| head.saturating_sub(folded(*ledger_id))).sum()
    }

    async fn fold_to(&mut self, ledger_id: LedgerId, to: Position) -> Result<(), Error> {
        let mut ahead = self.read_ahead(ledger_id, to)?;
        while let Some(page) = ahead.next().await? {
            self.fold(ledger_id, &page)?;
        }
        self.reader = Some(ahead.finish().await?);
        Ok(self.reached(ledger_id, to)?)
    }

    async fn write(&mut self, owner: &mut PgConnection) -> Result<(), Error> {
        self.encode_open();
        Ok(sql::write(owner, &self.rows).await?)
    }

    async fn commit(&mut self, owner: &mut PgConnection) -> Result<(), Error> {
        sql::begin(owner).await?;
        self.write(owner).await?;
        sql::commit(owner).await?;
        self.written();
        Ok(())
    }

    /// What was folded is committed.
    fn written(&mut self) {
        self.rows = Rows::default();
        self.changed.clear();
        self.altered.clear();
        self.open.clear();
        self.used.clear();
    }

    async fn try_swap(&mut self, owner: &mut PgConnection, tries: usize) -> Result<(), Error> {
        let wait_ms = if tries.is_multiple_of(PATIENT_TRY) { VACUUM_WAIT_MS } else { READER_WAIT_MS };
        sql::begin(owner).await?;
        sql::stop_flushes(owner, FLUSH_WAIT_MS).await?;
        let heads = sql::heads(owner).await?;
        for (ledger_id, head) in heads.iter().copied() {
            self.fold_to(ledger_id, head).await?;
        }
        self.write(owner).await?;
        sql::swap(owner, &heads, wait_ms).await?;
        sql::commit(owner).await?;
        self.written();
        self.tell(&heads);
        Ok(())
    }

    fn report(&self, swap_tries: u64) -> Report {
        Report {
            ledgers: self.ledgers.len() as u64,
            events: self.ledgers.values().map(Replay::position).sum(),
            accounts: self.ledgers.values().map(|replay| replay.accounts().len() as u64).sum(),
            entries: self.entries,
            rejections: self.rejections,
            swap_tries,
            seconds: 0.0,
        }
    }
}
