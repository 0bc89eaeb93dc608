//! What comes due by itself: holds that expire, and scheduled transactions.
//!
//! The book has them in the order of their moments. Here they are found by
//! account, so that what is due on the accounts of a request is settled before it
//! is decided, however much else is due. Only those are in the index that are due
//! within some seconds: their accounts are fetched and kept in memory meanwhile.
//!
//! Releases commute: a hold that expires gives back its own funds, whatever other
//! holds are due. A scheduled transaction does not: whether it is posted depends on
//! what is there, so everything that is due before it on its accounts goes first,
//! and it goes before every hold that expires there after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use hashbrown::{HashMap, HashSet};
use metrics::counter;
use smallvec::SmallVec;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::ledger::{AccountCode, Book, Event, Fact, Known, Origin, Position, ReleaseReason, State};
use crate::telemetry::metric;

/// Due transactions that go into one batch beside those that its requests need:
/// some five milliseconds of deciding and twenty of writing, which payments wait
/// longer. As one batch is written while the one before it commits, a hundred
/// thousand are settled in two seconds all the same.
pub const SLICE: usize = 1_000;
/// Due transactions that are counted at most: enough to be known as a peak, for which
/// projectors keep out of the way.
pub const COUNT_MAX: usize = 4 * SLICE;
/// How long before its moment a transaction is looked at: several round trips for
/// its accounts, even when a hundred thousand are due at once.
pub const LOOK_AHEAD: TimeDelta = TimeDelta::seconds(5);
/// Between two looks ahead, and the longest sleep while anything waits: the clock
/// may be set meanwhile.
pub const TICK: Duration = Duration::from_millis(500);
/// Transactions that one look takes in, so that it takes some milliseconds.
pub const LOOK_ITEMS_MAX: usize = 10_000;
/// Before the next look when that was not all: a million are taken in within
/// [`LOOK_AHEAD`], at a fifth of the engine's time.
pub const LOOK_PAUSE: Duration = Duration::from_millis(40);
/// Accounts that are fetched ahead in one round trip, since requests may wait for the next.
pub const FETCH_MAX: usize = 1_000;

/// A transaction and its moment. Sorts by what is to be settled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    pub due_at: DateTime<Utc>,
    /// Of the event that began it.
    pub position: Position,
    pub id: Uuid,
}

impl Item {
    fn of(id: Uuid, known: &Known) -> Option<Self> {
        Some(Self { due_at: known.due_at()?, position: known.position, id })
    }

    const fn moment(&self) -> Moment {
        (self.due_at, self.position)
    }
}

/// What orders transactions that wait.
type Moment = (DateTime<Utc>, Position);

/// An account, as short as can be: there may be two million in the index. Two that
/// have one hash only wait for each other.
pub type AccountHash = u64;

pub fn hash(code: &AccountCode) -> AccountHash {
    xxh3_64(code.as_str().as_bytes())
}

/// What a request has to wait for.
#[derive(Debug, PartialEq, Eq)]
pub enum Needed {
    /// These, in this order; often none.
    Items(Vec<Item>),
    /// More than one batch is to settle: slices bring it down.
    TooMany,
}

/// What waits, by account and in its order.
type Index = BTreeMap<(AccountHash, DateTime<Utc>, Position), Uuid>;

/// What waits for its moment in a book, by account.
#[derive(Debug)]
pub struct Due {
    /// Nothing is due before. May be earlier than what it really is.
    next_at: DateTime<Utc>,
    by_account: Index,
    /// Those of them that are scheduled.
    scheduled: Index,
    /// Everything up to here is in the index.
    taken: Option<Moment>,
    /// Accounts on which more is due than a request may settle, as far as that is known.
    crowded: HashSet<AccountHash>,
    /// Accounts of the index that memory did not hold, those needed first in front.
    to_fetch: VecDeque<AccountCode>,
    /// Those that requests wait for, and the same as a set: many may wait for one.
    to_fetch_first: VecDeque<AccountCode>,
    awaited: HashSet<AccountHash>,
    set_aside: HashSet<Uuid>,
}

impl Due {
    pub fn new(set_aside: &SetAside) -> Self {
        Self {
            next_at: DateTime::<Utc>::MIN_UTC,
            by_account: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            taken: None,
            crowded: HashSet::new(),
            to_fetch: VecDeque::new(),
            to_fetch_first: VecDeque::new(),
            awaited: HashSet::new(),
            set_aside: set_aside.lock().clone(),
        }
    }

    /// Whether something may be due.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.next_at <= now
    }

    /// When something may be due, at the earliest.
    pub const fn next_at(&self) -> DateTime<Utc> {
        self.next_at
    }

    /// Looks at the book for what is due next.
    pub fn refresh(&mut self, book: &Book) {
        let waits =
            |(due_at, _, id): (DateTime<Utc>, Position, Uuid)| (!self.set_aside.contains(&id)).then_some(due_at);
        let next_at = book.due(None, DateTime::<Utc>::MAX_UTC).find_map(waits);
        self.next_at = next_at.unwrap_or(DateTime::<Utc>::MAX_UTC);
    }

    /// Forgets the index: the book has been rolled back.
    pub fn forget(&mut self) {
        let set_aside = std::mem::take(&mut self.set_aside);
        *self = Self { set_aside, ..Self::new(&SetAside::default()) };
    }

    /// Takes in what is due up to `until` and was not in the index, `max` at most.
    /// Accounts that the book does not hold will be in [`Self::to_fetch`].
    pub fn take_in(&mut self, book: &Book, until: DateTime<Utc>, max: usize) {
        if self.has_taken_in(until) {
            return;
        }
        let mut count = 0;
        for (due_at, position, id) in book.due(self.taken, until).take(max) {
            count += 1;
            self.taken = Some((due_at, position));
            let Some(known) = book.known(&id) else { continue };
            self.insert(Item { due_at, position, id }, known);
            self.to_fetch.extend(known.accounts().filter(|code| !book.contains(code)).cloned());
        }
        if count < max {
            self.taken = Some((until, Position::MAX));
        }
    }

    /// Whether all that is due up to `until` is in the index.
    pub fn has_taken_in(&self, until: DateTime<Utc>) -> bool {
        self.taken.is_some_and(|taken| taken >= (until, Position::MAX))
    }

    /// A transaction waits, since just now, or as before with less.
    pub fn add(&mut self, id: Uuid, known: &Known) {
        let Some(item) = Item::of(id, known) else { return };
        self.next_at = self.next_at.min(item.due_at);
        if self.taken.is_some_and(|taken| item.moment() <= taken) {
            self.insert(item, known);
        }
    }

    /// A transaction waits no longer, or will be added again.
    pub fn remove(&mut self, id: Uuid, known: &Known) {
        let Some(Item { due_at, position, .. }) = Item::of(id, known) else { return };
        for code in known.accounts() {
            self.by_account.remove(&(hash(code), due_at, position));
            self.scheduled.remove(&(hash(code), due_at, position));
        }
    }

    fn insert(&mut self, item: Item, known: &Known) {
        for code in known.accounts() {
            self.by_account.insert((hash(code), item.due_at, item.position), item.id);
            if let State::Scheduled(_) = known.state {
                self.scheduled.insert((hash(code), item.due_at, item.position), item.id);
            }
        }
    }

    /// What has to be settled before `now` is seen on `accounts`, if that is no more
    /// than `max`: what is due on them, and what that has to wait for in turn. All
    /// that is due must be in the index.
    pub fn needed(&mut self, book: &Book, accounts: &[AccountHash], now: DateTime<Utc>, max: usize) -> Needed {
        if accounts.iter().any(|account| self.crowded.contains(account)) {
            return Needed::TooMany;
        }
        let mut needed: BTreeSet<Item> = BTreeSet::new();
        // Up to where the items of an account are needed, and whether only those that
        // are scheduled.
        let mut reached: HashMap<(AccountHash, bool), Moment> = HashMap::new();
        let mut open: Vec<(AccountHash, bool, Moment)> =
            accounts.iter().map(|account| (*account, false, (now, Position::MAX))).collect();
        while let Some((account, only_scheduled, upto)) = open.pop() {
            let from = reached.get(&(account, only_scheduled)).copied().unwrap_or((DateTime::<Utc>::MIN_UTC, 0));
            if from >= upto {
                continue;
            }
            reached.insert((account, only_scheduled), upto);
            let index = if only_scheduled { &self.scheduled } else { &self.by_account };
            for (&(_, due_at, position), &id) in index.range((account, from.0, from.1)..=(account, upto.0, upto.1)) {
                let item = Item { due_at, position, id };
                if self.set_aside.contains(&id) || !needed.insert(item) {
                    continue;
                }
                if needed.len() > max {
                    self.note_crowded(accounts, now);
                    return Needed::TooMany;
                }
                let Some(known) = book.known(&id) else { continue };
                let only_scheduled = !matches!(known.state, State::Scheduled(_));
                open.extend(known.accounts().map(|code| (hash(code), only_scheduled, item.moment())));
            }
        }
        Needed::Items(needed.into_iter().collect())
    }

    /// So that the next request on the same account need not count.
    fn note_crowded(&mut self, accounts: &[AccountHash], now: DateTime<Utc>) {
        for &account in accounts {
            let due = self.by_account.range((account, DateTime::<Utc>::MIN_UTC, 0)..=(account, now, Position::MAX));
            if due.take(SLICE + 1).count() > SLICE {
                self.crowded.insert(account);
            }
        }
    }

    /// Accounts may have less due than before.
    pub fn forget_crowded(&mut self) {
        self.crowded.clear();
    }

    /// What is to be settled first of all that is due, `max` at most.
    pub fn earliest(&self, book: &Book, now: DateTime<Utc>, max: usize) -> Vec<Item> {
        book.due(None, now)
            .filter(|(_, _, id)| !self.set_aside.contains(id))
            .take(max)
            .map(|(due_at, position, id)| Item { due_at, position, id })
            .collect()
    }

    /// Whether something is due soon on an account, which should stay in memory for it.
    pub fn needs(&self, code: &AccountCode) -> bool {
        if self.by_account.is_empty() {
            return false;
        }
        let account = hash(code);
        let range = (account, DateTime::<Utc>::MIN_UTC, 0)..=(account, DateTime::<Utc>::MAX_UTC, Position::MAX);
        self.by_account.range(range).next().is_some()
    }

    /// What is due soon on an account.
    pub fn of_account(&self, book: &Book, code: &AccountCode) -> Vec<Uuid> {
        let account = hash(code);
        let range = (account, DateTime::<Utc>::MIN_UTC, 0)..=(account, DateTime::<Utc>::MAX_UTC, Position::MAX);
        let ids = self.by_account.range(range).map(|(_, id)| *id);
        let is_of_it = |id: &Uuid| book.known(id).is_some_and(|known| known.accounts().any(|other| other == code));
        ids.filter(is_of_it).collect()
    }

    /// Accounts are to be fetched before all others.
    pub fn fetch_first(&mut self, codes: Vec<AccountCode>) {
        for code in codes {
            if self.awaited.insert(hash(&code)) {
                self.to_fetch_first.push_back(code);
            }
        }
    }

    pub fn has_to_fetch(&self) -> bool {
        !self.to_fetch_first.is_empty() || !self.to_fetch.is_empty()
    }

    /// The accounts to fetch next.
    pub fn next_to_fetch(&mut self, book: &Book) -> Vec<AccountCode> {
        let mut codes = Vec::new();
        while codes.len() < FETCH_MAX
            && let Some(code) = self.to_fetch_first.pop_front().or_else(|| self.to_fetch.pop_front())
        {
            self.awaited.remove(&hash(&code));
            if !book.contains(&code) {
                codes.push(code);
            }
        }
        codes
    }

    /// Leaves a transaction alone from now on.
    pub fn set_aside(&mut self, id: Uuid, everywhere: &SetAside) {
        self.set_aside.insert(id);
        everywhere.lock().insert(id);
        counter!(metric::DUE_SET_ASIDE).increment(1);
    }
}

/// Transactions that could not be settled: a defect, or PostgreSQL refuses the
/// event. They are tried again when the process starts anew or another worker takes
/// the ledger over, and not before, so that one of them does not stop all others.
#[derive(Debug, Default)]
pub struct SetAside(Mutex<HashSet<Uuid>>);

impl SetAside {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transaction whose waiting an event begins, changes or ends.
pub fn changes(event: &Event) -> Option<Uuid> {
    match &event.fact {
        Fact::TransactionPosted(transaction) => match transaction.more.as_ref()?.origin.as_ref()? {
            Origin::Capture { hold, .. } => Some(hold.id),
            Origin::Schedule { .. } => event.transaction_id,
            Origin::Reversal { .. } => None,
        },
        Fact::TransactionAuthorised(_)
        | Fact::HoldReleased(_)
        | Fact::TransactionScheduled(_)
        | Fact::ScheduleCancelled(_) => event.transaction_id,
        Fact::TransactionRejected(rejected) if rejected.scheduled.is_some() => event.transaction_id,
        _ => None,
    }
}

/// The transaction that an event has settled, which no request asked for.
pub fn settled_by(event: &Event) -> Option<Uuid> {
    let is_settled = match &event.fact {
        Fact::TransactionPosted(transaction) => {
            matches!(transaction.more.as_ref()?.origin, Some(Origin::Schedule { .. }))
        }
        Fact::TransactionRejected(rejected) => rejected.scheduled.is_some(),
        Fact::HoldReleased(release) => release.reason == ReleaseReason::Expired,
        _ => false,
    };
    if is_settled { event.transaction_id } else { None }
}

/// Each once.
pub fn hashes<'a>(codes: impl Iterator<Item = &'a AccountCode>) -> SmallVec<[AccountHash; 4]> {
    let mut hashes: SmallVec<[AccountHash; 4]> = codes.map(hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}
