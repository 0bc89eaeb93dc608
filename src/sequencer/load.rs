//! What a sequencer must know before it decides: the assets and rules, the head,
//! the accounts whose projections are behind, the transactions that wait for a
//! moment of their own, and the keys that were used last.
//!
//! A worker that is about to take a ledger over reads it twice: once while the
//! other still serves, which may take seconds in a peak, and, once it holds the
//! claim, only what was appended since. So the gap is a batch, not a reload.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::append::APPENDS_MAX;
use super::due;
use super::keys::RecentKeys;
use crate::ledger::{
    Account, AccountCode, AccountId, Attributes, Balance, Book, Counted, Event, Fact, Known, Origin, Position,
};
use crate::shard::shard_of;
use crate::store::{self, Connection, Database, Error, LedgerId, Shard};

/// Keys read back: what clients of the last seconds may retry.
const RECENT_KEYS_LOADED: u64 = 50_000;
/// Events read at a time.
const LOAD_PAGE: i64 = 10_000;
/// One statement of a load takes some tenths of a second at most; one that takes
/// longer than this has lost its connection. How many there are, the lag bounds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for all that wait: a million of them are some hundred such statements.
const WAITING_TIMEOUT: Duration = Duration::from_secs(60);
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
    /// Holds that expire and scheduled transactions.
    pub waiting: HashMap<Uuid, Known>,
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
    /// The transactions that wait are those of the projections, with what the log
    /// after the lowest checkpoint says of them. Each event states all that it
    /// changes, so one that a projection has had already changes nothing.
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
            // After the checkpoints: what was projected since is in the log behind them.
            let waiting = store::waiting::waiting(&mut conn, ledger_id);
            let waiting = store::error::within(WAITING_TIMEOUT, "loading what waits took too long", waiting).await?;
            self.waiting = waiting.into_iter().collect();
            lowest.min(head.saturating_sub(events_min))
        };
        let rules = read_rules(&mut conn, ledger_id, known.unwrap_or(0), head).await?;
        // Reading and decoding take a core each: two halves at a time.
        let middle = after + (head - after) / 2;
        let second = AbortOnDropHandle::new(tokio::spawn(read_touched(other, ledger_id, middle, head)));
        let (mut conn, mut touched) = read_touched(conn, ledger_id, after, middle).await?;
        let second = second.await.map_err(|_| store::error::timed_out("the task that loads the ledger died"));
        let (other, later) = second??;
        touched.opened.extend(later.opened);
        touched.balances.extend(later.balances);
        touched.attributes.extend(later.attributes);
        touched.counted.extend(later.counted);

        let Self { book, keys, waiting, .. } = &mut self;
        for (id, trace) in touched.waiting.into_iter().chain(later.waiting) {
            trace.follow(waiting, id)?;
        }
        for event in rules.iter().chain(&touched.opened) {
            let contradiction = |error: crate::ledger::book::Contradiction| Error::Corrupt {
                position: event.position,
                detail: error.to_string(),
            };
            book.apply(event).map_err(contradiction)?;
        }
        let changed = touched.attributes.keys().filter(|code| !touched.balances.contains_key(*code));
        let codes = touched.balances.keys().chain(changed);
        let codes: Vec<&AccountCode> = codes.filter(|code| !book.contains(code)).collect();
        for chunk in codes.chunks(LOAD_PAGE as usize) {
            let shards: Vec<Shard> = chunk.iter().map(|code| shard_of(ledger_id, code.as_str(), shard_count)).collect();
            let chunk: Vec<&str> = chunk.iter().map(|code| code.as_str()).collect();
            let accounts = store::projections::load_accounts(&mut conn, ledger_id, &shards, &chunk);
            let accounts = in_time(accounts).await?;
            let counted = if book.had_velocity_limits() {
                in_time(counted(&mut conn, ledger_id, shard_count, &accounts)).await?
            } else {
                Vec::new()
            };
            for account in accounts {
                book.load_account(account);
            }
            for (code, counted) in counted {
                book.load_counted(&code, counted);
            }
        }
        book.settle(book.mark());
        for (code, balance) in touched.balances {
            book.set_balance(&code, balance);
        }
        for (code, (attributes, position)) in touched.attributes {
            book.set_attributes(&code, attributes, position);
        }
        for (code, counted) in touched.counted {
            book.load_counted(&code, counted);
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

/// What velocity limits have counted on accounts that memory does not hold. The last
/// event of each is projected, and with it what it counted: both commit together.
pub(super) async fn counted(
    conn: &mut Connection,
    ledger_id: LedgerId,
    shard_count: Shard,
    accounts: &[Account],
) -> Result<Vec<(AccountCode, Counted)>, Error> {
    let shards: Vec<Shard> =
        accounts.iter().map(|account| shard_of(ledger_id, account.code.as_str(), shard_count)).collect();
    let ids: Vec<i64> = accounts.iter().map(|account| account.id as i64).collect();
    let rows = store::standing::counted(conn, ledger_id, &shards, &ids).await?;
    let codes: HashMap<AccountId, &AccountCode> = accounts.iter().map(|account| (account.id, &account.code)).collect();
    Ok(rows.into_iter().filter_map(|(id, counted)| Some(((*codes.get(&id)?).clone(), counted))).collect())
}

/// What a stretch of the log says of accounts, and of transactions that wait.
#[derive(Default)]
struct Touched {
    /// The events that opened them, in order.
    opened: Vec<Event>,
    /// The last balance of each that a leg touched.
    balances: HashMap<AccountCode, Balance>,
    /// The last attributes of each that was changed, and the event's position.
    attributes: HashMap<AccountCode, (Attributes, Position)>,
    /// What velocity limits have counted, in order.
    counted: Vec<(AccountCode, Counted)>,
    waiting: HashMap<Uuid, Trace>,
}

/// What a stretch of the log says of a transaction that waits, or did.
enum Trace {
    /// It began in the stretch, and waits still.
    Waits(Known),
    /// It began before, and this is the last event about it.
    Changed(Box<Event>),
    /// It waits no more.
    Ended,
}

impl Trace {
    /// Notes what one more event of the stretch says.
    fn note(traces: &mut HashMap<Uuid, Self>, event: &Event) -> Result<(), Error> {
        let Some(id) = due::changes(event) else { return Ok(()) };
        let trace = match &event.fact {
            Fact::TransactionAuthorised(_) | Fact::TransactionScheduled(_) => match Known::begun_by(event) {
                Some(known) if known.due_at().is_some() => Self::Waits(known),
                // A hold that does not expire.
                _ => return Ok(()),
            },
            _ if ends(event) => Self::Ended,
            _ => match traces.get(&id) {
                Some(Self::Waits(known)) => Self::Waits(changed(known, event)?),
                _ => Self::Changed(Box::new(event.clone())),
            },
        };
        traces.insert(id, trace);
        Ok(())
    }

    /// Brings what is known of a transaction up to the end of the stretch.
    fn follow(self, waiting: &mut HashMap<Uuid, Known>, id: Uuid) -> Result<(), Error> {
        let before = waiting.get(&id);
        let is_news = |position| before.is_none_or(|known| known.changed < position);
        match self {
            Self::Waits(known) if is_news(known.changed) => {
                waiting.insert(id, known);
            }
            Self::Changed(event) if is_news(event.position) => {
                // Without a transaction it is about one that does not wait.
                if let Some(known) = before {
                    let known = changed(known, &event)?;
                    waiting.insert(id, known);
                }
            }
            Self::Ended => {
                waiting.remove(&id);
            }
            Self::Waits(_) | Self::Changed(_) => {}
        }
        Ok(())
    }
}

/// Whether an event ends the waiting that it changes: all do but the beginning, and
/// a capture that leaves something.
fn ends(event: &Event) -> bool {
    match &event.fact {
        Fact::TransactionPosted(transaction) => {
            let origin = transaction.more.as_ref().and_then(|more| more.origin.as_ref());
            !matches!(origin, Some(Origin::Capture { remaining, .. }) if !remaining.is_zero())
        }
        _ => true,
    }
}

fn changed(known: &Known, event: &Event) -> Result<Known, Error> {
    known.changed_by(event).ok_or_else(|| Error::Corrupt {
        position: event.position,
        detail: "it does not follow on what its transaction has become".to_owned(),
    })
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
            Trace::note(&mut touched.waiting, &event)?;
            for leg in event.fact.legs() {
                touched.balances.insert(leg.account.clone(), leg.after);
            }
            touched.counted.extend(event.fact.counted().map(|(leg, counted)| (leg.account.clone(), counted)));
            match event.fact {
                Fact::AccountOpened { .. } => touched.opened.push(event),
                Fact::AccountChanged(changed) => {
                    touched.attributes.insert(changed.account, (changed.after, event.position));
                }
                _ => {}
            }
        }
    }
    Ok((conn, touched))
}

/// The events after `after`, up to and with `to`, that set or removed a rule or
/// closed a period.
async fn read_rules(
    conn: &mut Connection,
    ledger_id: LedgerId,
    mut after: Position,
    to: Position,
) -> Result<Vec<Event>, Error> {
    let mut rules = Vec::new();
    loop {
        let page = in_time(store::known::rules(conn, ledger_id, after, to, LOAD_PAGE)).await?;
        let is_last = page.len() < LOAD_PAGE as usize;
        after = page.last().map_or(after, |event| event.position);
        rules.extend(page);
        if is_last {
            return Ok(rules);
        }
    }
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
