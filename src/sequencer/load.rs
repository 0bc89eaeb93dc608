//! What a sequencer must know before it decides: the assets, the head, the
//! accounts whose projections are behind, and the keys that were used last.
//!
//! A worker that is about to take a ledger over reads it twice: once while the
//! other still serves, which may take seconds in a peak, and, once it holds the
//! claim, only what was appended since. So the gap is a batch, not a reload.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_util::task::AbortOnDropHandle;

use super::append::APPENDS_MAX;
use super::keys::RecentKeys;
use crate::ledger::{AccountCode, Balance, Book, Event, Fact, Position};
use crate::shard::shard_of;
use crate::store::{self, Connection, Database, Error, LedgerId, Shard};

/// Keys read back: what clients of the last seconds may retry.
const RECENT_KEYS_LOADED: u64 = 50_000;
/// Events read at a time.
const LOAD_PAGE: i64 = 10_000;
/// One statement of a load takes some tenths of a second at most; one that takes
/// longer than this has lost its connection. How many there are, the lag bounds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Events that are read ahead of a takeover even if they are projected: their
/// accounts are the busiest, and in memory then.
const WARM_EVENTS: u64 = 20_000;
/// In a peak so much arrives while a worker reads ahead that it reads once more, and
/// what is left then is a batch or two.
const WARM_ROUNDS_MAX: u32 = 4;
/// A round that took no longer leaves little for the next.
const WARM_ROUND_SHORT: Duration = Duration::from_millis(200);
/// What was read ahead is kept for a takeover that comes at once, or not at all.
const WARM_KEPT: Duration = Duration::from_secs(20);

/// What has been read, up to and with `head`.
#[derive(Debug, Default)]
pub struct Loaded {
    pub book: Book,
    pub keys: RecentKeys,
    pub head: Position,
    pub last_recorded_at: DateTime<Utc>,
    begun: bool,
}

impl Loaded {
    /// Reads what follows on `head`; at first, what follows on the lowest
    /// checkpoint, and at least the last `events_min` events.
    ///
    /// Brings into the book every account that the log has touched since its
    /// projection: its row in `balances` is not exact yet. Legs state the balance
    /// they leave behind, so the last one of each account is its state. What was
    /// read once stays true: the log only grows.
    ///
    /// These are as many accounts as the events behind the checkpoints touch, even
    /// if that is more than memory is to hold: none of their rows may be relied
    /// upon. The holder before this one could let none of them go for the same
    /// reason, and the projectors bound them: a peak defers them by
    /// [`PEAK_LAG_MAX`] events at most, which is 2.4 million legs, some 900 MB if
    /// each were of another account. They go as the checkpoints move on, like all
    /// others.
    ///
    /// [`PEAK_LAG_MAX`]: crate::projector::service::PEAK_LAG_MAX
    ///
    /// # Errors
    /// What the database answers; a statement that takes too long;
    /// [`Error::Hole`] and [`Error::Corrupt`] for a log that contradicts itself.
    pub async fn read_on(
        mut self,
        ledger_id: LedgerId,
        shard_count: Shard,
        [mut conn, other]: [Connection; APPENDS_MAX],
        events_min: u64,
    ) -> Result<(Self, [Connection; APPENDS_MAX]), Error> {
        let head = in_time(store::events::head(&mut conn, ledger_id)).await?;
        let (head, last_recorded_at) = head.unwrap_or((0, DateTime::UNIX_EPOCH));
        if self.head > head {
            // Another database than the one that was read before: a copy that was behind.
            self = Self::default();
        }
        for asset in in_time(store::ledgers::assets(&mut conn, ledger_id)).await? {
            self.book.load_asset(asset.code, asset.scale);
        }
        let known = self.begun.then_some(self.head);
        let after = if let Some(known) = known {
            known
        } else {
            let checkpoints = in_time(store::projections::checkpoints(&mut conn, ledger_id)).await?;
            let lowest = checkpoints.iter().map(|(_, position)| *position).min().unwrap_or(head);
            lowest.min(head.saturating_sub(events_min))
        };
        // Reading and decoding take a core each: two halves at a time.
        let middle = after + (head - after) / 2;
        let second = AbortOnDropHandle::new(tokio::spawn(read_touched(other, ledger_id, middle, head)));
        let (mut conn, mut touched) = read_touched(conn, ledger_id, after, middle).await?;
        let second = second.await.map_err(|_| store::error::timed_out("the task that loads the ledger died"));
        let (other, later) = second??;
        touched.opened.extend(later.opened);
        touched.balances.extend(later.balances);

        let Self { book, keys, .. } = &mut self;
        for event in &touched.opened {
            let contradiction = |error: crate::ledger::book::Contradiction| Error::Corrupt {
                position: event.position,
                detail: error.to_string(),
            };
            book.apply(event).map_err(contradiction)?;
        }
        let codes: Vec<&AccountCode> = touched.balances.keys().filter(|code| !book.contains(code)).collect();
        for chunk in codes.chunks(LOAD_PAGE as usize) {
            let shards: Vec<Shard> = chunk.iter().map(|code| shard_of(ledger_id, code.as_str(), shard_count)).collect();
            let chunk: Vec<&str> = chunk.iter().map(|code| code.as_str()).collect();
            let accounts = store::projections::load_accounts(&mut conn, ledger_id, &shards, &chunk);
            for account in in_time(accounts).await? {
                book.load_account(account);
            }
        }
        book.settle(book.mark());
        for (code, balance) in touched.balances {
            book.set_balance(&code, balance);
        }

        let unread = (head - known.unwrap_or(0)).min(RECENT_KEYS_LOADED);
        let recent = store::events::recent_keys(&mut conn, ledger_id, head, unread);
        for key in in_time(recent).await? {
            keys.insert(store::keys::hash(&key));
        }
        (self.head, self.last_recorded_at, self.begun) = (head, last_recorded_at, true);
        Ok((self, [conn, other]))
    }
}

/// What a stretch of the log says of accounts.
#[derive(Default)]
struct Touched {
    /// The events that opened them, in order.
    opened: Vec<Event>,
    /// The last balance of each that a leg touched.
    balances: hashbrown::HashMap<AccountCode, Balance>,
}

/// Reads the log after `after`, up to and with `to`.
async fn read_touched(
    mut conn: Connection,
    ledger_id: LedgerId,
    mut after: Position,
    to: Position,
) -> Result<(Connection, Touched), Error> {
    let mut touched = Touched::default();
    while after < to {
        let limit = LOAD_PAGE.min((to - after) as i64);
        let page = in_time(store::events::read_events(&mut conn, ledger_id, after, limit)).await?;
        let Some(last) = page.last() else { return Err(Error::Hole { ledger_id, expected: after + 1, found: to }) };
        after = last.position;
        for event in page {
            match event.fact {
                Fact::TransactionPosted(transaction) => {
                    for leg in transaction.legs {
                        touched.balances.insert(leg.account, leg.after);
                    }
                }
                Fact::AccountOpened { .. } => touched.opened.push(event),
                _ => {}
            }
        }
    }
    Ok((conn, touched))
}

async fn in_time<T>(statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    store::error::within(LOAD_TIMEOUT, "loading the ledger took too long", statement).await
}

/// Reads a ledger ahead of a takeover, and keeps it until then.
#[derive(Debug)]
pub struct WarmUp {
    database: Database,
    ledger_id: LedgerId,
    shard_count: Shard,
    kept: Mutex<Option<(Instant, Loaded)>>,
}

impl WarmUp {
    pub const fn new(database: Database, ledger_id: LedgerId, shard_count: Shard) -> Self {
        Self { database, ledger_id, shard_count, kept: Mutex::new(None) }
    }

    /// # Errors
    /// Those of [`Loaded::read_on`].
    pub async fn run(&self) -> Result<(), Error> {
        let started = Instant::now();
        let mut conns = [self.database.connect_serving().await?, self.database.connect_serving().await?];
        let mut loaded = self.take().unwrap_or_default();
        for _ in 0..WARM_ROUNDS_MAX {
            let begun = Instant::now();
            (loaded, conns) = loaded.read_on(self.ledger_id, self.shard_count, conns, WARM_EVENTS).await?;
            if begun.elapsed() < WARM_ROUND_SHORT {
                break;
            }
        }
        let took = started.elapsed();
        tracing::info!(ledger_id = self.ledger_id, head = loaded.head, ?took, "read ahead of a takeover");
        *self.lock() = Some((Instant::now(), loaded));
        Ok(())
    }

    /// What was read ahead, if it was.
    pub fn take(&self) -> Option<Loaded> {
        self.lock().take().map(|(_, loaded)| loaded)
    }

    /// Forgets what nobody has come for.
    pub fn expire(&self) {
        let mut kept = self.lock();
        if kept.as_ref().is_some_and(|(at, _)| at.elapsed() > WARM_KEPT) {
            *kept = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Loaded)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
