//! The book: the state of a ledger in memory, and how events change it.
//!
//! Here is what it holds and how it is taken back; `apply` is what events do.

mod apply;
mod counters;
mod rules;
mod transactions;

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use uuid::Uuid;

pub use self::counters::{Asked, Exceeded};
use self::rules::Rules;
use self::transactions::Transactions;
use super::account::{Account, Attributes, Balance};
use super::event::Position;
use super::known::Known;
use super::name::{AccountCode, AssetCode};
use super::rule::{AccountType, Rule, RuleKey};
use super::velocity::Counters;

/// Accounts that eviction may look at for each that it is to evict, so that a
/// pause stays short when few may go.
const EVICTION_LOOKS: usize = 16;
/// Looks that are always worth their time: some microseconds.
const EVICTION_LOOKS_MIN: usize = 4_096;

/// Weight of all transactions that may wait for a moment of their own: so many holds
/// that expire and scheduled ones of two legs, and fewer that are larger
/// ([`Known::weight`]). All are in memory, at 560 to 830 bytes for each 1, and at twice
/// that if the notes of every one are a byte short of weighing more.
pub const WAITING_MAX: usize = 1_000_000;

/// The assets and rules of a ledger, and those of its accounts and transactions
/// that memory holds.
///
/// The book remembers how to take back what was applied after a [`Mark`],
/// because the sequencer decides on state whose append is still in flight: if
/// that append fails, so must everything that was decided on it.
#[derive(Debug, Default)]
pub struct Book {
    assets: HashMap<AssetCode, u8>,
    slots: HashMap<AccountCode, u32>,
    accounts: Vec<Option<Slot>>,
    free: Vec<u32>,
    transactions: Transactions,
    rules: Rules,
    /// Nothing becomes effective before this any more.
    closed_before: Option<DateTime<Utc>>,
    undo: VecDeque<Undo>,
    /// Undo entries ever dropped from the front: makes marks absolute.
    settled: u64,
    /// Where the eviction hand stands.
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    account: Account,
    /// What velocity limits have counted; few accounts have any.
    counters: Option<Box<Counters>>,
    /// Set on every touch, cleared by the eviction hand: second-chance (clock)
    /// replacement, which needs no list to keep in order on the hot path.
    recently_used: bool,
}

/// What the last change has replaced. The rarer ones are boxed, so that a payment
/// writes down no more than two balances.
#[derive(Debug)]
enum Undo {
    Balance {
        slot: u32,
        before: Balance,
    },
    Attributes(Box<AttributesBefore>),
    AccountOpened {
        slot: u32,
    },
    AssetDefined(AssetCode),
    /// `None` where the transaction was begun.
    Transaction(Box<(Uuid, Option<Known>)>),
    Rule(Box<(RuleKey, Option<(Rule, Position)>)>),
    PeriodClosed(Option<DateTime<Utc>>),
    /// Of the account in this slot.
    Counters(Box<(u32, Option<Box<Counters>>)>),
}

#[derive(Debug)]
struct AttributesBefore {
    slot: u32,
    attributes: Attributes,
    changed: Position,
}

/// A point in a book's history to which it can be rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// An event that contradicts the book: the log is corrupt, or the code is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {position} does not follow from the book: {detail}")]
pub struct Contradiction {
    pub position: Position,
    pub detail: String,
}

impl Book {
    pub fn asset_scale(&self, code: &AssetCode) -> Option<u8> {
        self.assets.get(code).copied()
    }

    pub fn account(&self, code: &AccountCode) -> Option<&Account> {
        let slot = *self.slots.get(code)?;
        self.accounts[slot as usize].as_ref().map(|slot| &slot.account)
    }

    pub fn contains(&self, code: &AccountCode) -> bool {
        self.slots.contains_key(code)
    }

    /// Accounts in memory.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter().flatten().map(|slot| &slot.account)
    }

    /// A transaction that memory knows.
    pub fn known(&self, id: &Uuid) -> Option<&Known> {
        self.transactions.get(id)
    }

    /// Transactions in memory.
    pub fn known_len(&self) -> usize {
        self.transactions.len()
    }

    /// Transactions that wait for a moment of their own.
    pub fn waiting(&self) -> usize {
        self.transactions.waiting()
    }

    /// What they weigh together. No decision brings it above [`WAITING_MAX`]; a log
    /// from when another rule weighed them may.
    pub fn waiting_weight(&self) -> usize {
        self.transactions.waiting_weight()
    }

    /// What is due up to and with `until`, in the order in which it is to be settled:
    /// by its time, then by the position of its first event. Begins behind `after`.
    pub fn due(
        &self,
        after: Option<(DateTime<Utc>, Position)>,
        until: DateTime<Utc>,
    ) -> impl Iterator<Item = (DateTime<Utc>, Position, Uuid)> {
        self.transactions.due(after, until)
    }

    /// What is due first, be it now or later.
    pub fn next_due(&self) -> Option<(DateTime<Utc>, Position, Uuid)> {
        self.transactions.next_due()
    }

    /// Nothing becomes effective before this any more.
    pub fn closed_before(&self) -> Option<DateTime<Utc>> {
        self.closed_before
    }

    /// The rules, each with the position of the event that set it.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, Position)> {
        self.rules.iter()
    }

    pub fn rule(&self, key: &RuleKey) -> Option<&Rule> {
        self.rules.get(key).map(|(rule, _)| rule)
    }

    /// Rules of the same sort as `key`'s.
    pub fn rules_of_its_sort(&self, key: &RuleKey) -> usize {
        self.rules.of_its_sort(key)
    }

    /// The account type with the longest prefix of `code`.
    pub fn account_type(&self, code: &AccountCode) -> Option<&AccountType> {
        self.rules.account_type(code)
    }

    /// Takes in a transaction as the log has it. One that is in the book already
    /// is newer than any copy, and stays.
    pub fn load_known(&mut self, id: Uuid, known: Known) {
        self.transactions.load(id, known);
    }

    /// Forgets transactions that wait for nothing, those longest unchanged first,
    /// until `max` of them are left. Keeps what an event behind `committed` has
    /// changed: the log has that not yet.
    pub fn evict_known(&mut self, max: usize, committed: Position) {
        self.transactions.evict(max, committed);
    }

    /// Takes in an asset that is known from elsewhere than an event.
    pub fn load_asset(&mut self, code: AssetCode, scale: u8) {
        self.assets.insert(code, scale);
    }

    /// Takes in an account as the projection or a snapshot has it. One that is
    /// in the book already is newer than any copy, and stays.
    pub fn load_account(&mut self, account: Account) {
        if !self.contains(&account.code) {
            self.insert(account);
        }
    }

    /// Sets the balance of an account that is in the book to what the log says
    /// its last leg left behind. For loading only: it cannot be rolled back.
    pub fn set_balance(&mut self, code: &AccountCode, balance: Balance) {
        if let Some(&index) = self.slots.get(code)
            && let Some(slot) = self.accounts[index as usize].as_mut()
        {
            slot.account.balance = balance;
        }
    }

    /// Sets the attributes of an account that is in the book to what the log says
    /// its last change, at `changed`, left behind. For loading only: it cannot be
    /// rolled back.
    pub fn set_attributes(&mut self, code: &AccountCode, attributes: Attributes, changed: Position) {
        if let Some(&index) = self.slots.get(code)
            && let Some(slot) = self.accounts[index as usize].as_mut()
        {
            slot.account.attributes = attributes;
            slot.account.changed = changed;
        }
    }

    /// The present point, to roll back to or to settle.
    pub fn mark(&self) -> Mark {
        Mark(self.settled + self.undo.len() as u64)
    }

    /// Takes back everything applied after `mark`, newest first.
    pub fn roll_back(&mut self, mark: Mark) {
        while self.mark() > mark {
            match self.undo.pop_back() {
                Some(Undo::Balance { slot, before }) => {
                    if let Some(slot) = self.accounts[slot as usize].as_mut() {
                        slot.account.balance = before;
                    }
                }
                Some(Undo::Attributes(before)) => {
                    if let Some(slot) = self.accounts[before.slot as usize].as_mut() {
                        slot.account.attributes = before.attributes;
                        slot.account.changed = before.changed;
                    }
                }
                Some(Undo::AccountOpened { slot }) => self.remove(slot),
                Some(Undo::AssetDefined(code)) => {
                    self.assets.remove(&code);
                }
                Some(Undo::Transaction(before)) => {
                    let (id, known) = *before;
                    self.transactions.put(id, known);
                }
                Some(Undo::Rule(before)) => {
                    let (key, rule) = *before;
                    self.rules.put(&key, rule);
                }
                Some(Undo::PeriodClosed(before)) => self.closed_before = before,
                Some(Undo::Counters(before)) => {
                    let (slot, counters) = *before;
                    if let Some(slot) = self.accounts[slot as usize].as_mut() {
                        slot.counters = counters;
                    }
                }
                None => return,
            }
        }
    }

    /// Forgets how to roll back to before `mark`: what was applied by then is durable.
    pub fn settle(&mut self, mark: Mark) {
        let count = usize::try_from(mark.0.saturating_sub(self.settled)).unwrap_or(usize::MAX);
        let count = count.min(self.undo.len());
        self.undo.drain(..count);
        self.settled += count as u64;
    }

    /// Forgets up to `want` accounts that `may_go` allows, those longest unused
    /// first, and says how many went. Looks at no more than [`EVICTION_LOOKS`]
    /// accounts for each that is wanted, and at each at most twice.
    pub fn evict(&mut self, want: usize, may_go: impl Fn(&Account) -> bool) -> usize {
        let mut gone = 0;
        for _ in 0..(self.accounts.len() * 2).min(EVICTION_LOOKS_MIN.max(want * EVICTION_LOOKS)) {
            if gone == want {
                break;
            }
            self.hand = (self.hand + 1) % self.accounts.len();
            let Some(slot) = self.accounts[self.hand].as_mut() else { continue };
            if std::mem::take(&mut slot.recently_used) || !may_go(&slot.account) {
                continue;
            }
            self.remove(self.hand as u32);
            gone += 1;
        }
        gone
    }

    fn insert(&mut self, mut account: Account) -> u32 {
        // One name for all accounts of the asset: less memory, and equal at a glance.
        if let Some((shared, _)) = self.assets.get_key_value(&account.asset) {
            account.asset = shared.clone();
        }
        let code = account.code.clone();
        let slot = Some(Slot { account, counters: None, recently_used: true });
        let index = match self.free.pop() {
            Some(index) => {
                self.accounts[index as usize] = slot;
                index
            }
            None => {
                self.accounts.push(slot);
                u32::try_from(self.accounts.len() - 1).expect("fewer than 2^32 accounts are held in memory")
            }
        };
        self.slots.insert(code, index);
        index
    }

    fn remove(&mut self, index: u32) {
        if let Some(slot) = self.accounts[index as usize].take() {
            self.slots.remove(&slot.account.code);
            self.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Event, Fact};
    use super::*;

    fn defined(scale: u8) -> Event {
        Event {
            position: 1,
            recorded_at: chrono::DateTime::UNIX_EPOCH,
            effective_at: chrono::DateTime::UNIX_EPOCH,
            transaction_id: None,
            idempotency_key: None,
            fact: Fact::AssetDefined { code: gold(), scale },
        }
    }

    fn gold() -> AssetCode {
        AssetCode::new("GOLD").unwrap()
    }

    #[test]
    fn rolling_back_keeps_an_asset_that_was_there_before() {
        let mut book = Book::default();
        book.load_asset(gold(), 3);
        let mark = book.mark();
        book.apply(&defined(3)).unwrap();
        book.roll_back(mark);
        assert_eq!(book.asset_scale(&gold()), Some(3));
    }

    #[test]
    fn an_asset_does_not_change_its_scale() {
        let mut book = Book::default();
        book.apply(&defined(3)).unwrap();
        let refused = book.apply(&defined(4)).unwrap_err();
        assert_eq!(refused.to_string(), "event 1 does not follow from the book: asset GOLD has scale 3");
        assert_eq!(book.asset_scale(&gold()), Some(3));
    }
}
