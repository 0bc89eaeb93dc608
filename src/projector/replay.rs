//! A fold of the log that believes nothing: every balance is computed again
//! from the amounts, and what an event states is only compared with it.
//!
//! Written plainly and on its own, so that it can bear witness against the
//! sequencer's book and the projectors' fold: it shares no code with either.

use std::fmt;

use chrono::{DateTime, Utc};
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::ledger::{
    AccountChanged, AccountCode, AccountId, Amount, AssetCode, Attributes, Authorisation, Balance, Cancelled, Counted,
    Event, Fact, HoldRef, HoldState, Leg, LegRequest, Origin, Position, RejectedTransaction, Release, ReleaseReason,
    Scheduled, Side, Transaction, Usage,
};
use crate::metadata;
use crate::shard::shard_of;
use crate::store::events::{Logged, read_logged};
use crate::store::rows::{
    AccountOfRow, AccountRow, AttributesRow, EntryRow, HoldRow, MetadataRow, Owner, RejectionRow, ScheduleRow,
    ScheduleState, UsageRow,
};
use crate::store::{self, Epoch, Error, LedgerId, Shard};

/// Events read at a time: some 5 MB, and a few dozen milliseconds.
const PAGE_EVENTS: u64 = 10_000;
/// Pages that wait, so that reading and decoding never wait for writing for long.
const PAGES_AHEAD: usize = 3;

/// An event that does not follow from the log before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {position}, {subject}: expected {expected}, found {found}")]
pub struct Contradiction {
    pub position: Position,
    /// Which part of the event.
    pub subject: String,
    pub expected: String,
    pub found: String,
}

/// An account as the log alone describes it.
#[derive(Clone, Debug)]
pub struct Account {
    pub id: AccountId,
    pub code: AccountCode,
    pub asset: AssetCode,
    pub normal: Side,
    pub shard: Shard,
    pub balance: Balance,
    pub closed: bool,
}

impl Account {
    pub const fn owner(&self, ledger_id: LedgerId) -> Owner {
        Owner { shard: self.shard, ledger_id, account_id: self.id }
    }
}

/// What an event did to one account, as the row that projections keep of it.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Opened(AccountRow<'a>),
    Posted(EntryRow<'a>),
    Rejected(RejectionRow<'a>),
    /// It was the first leg's of a transaction with metadata; once per member.
    Described(MetadataRow<'a>),
    /// Funds of it became pending, or are so no longer, and no leg was posted.
    Reserved,
    Altered(AttributesRow<'a>),
    /// It is one of a transaction that was authorised or scheduled; once for each.
    Named(AccountOfRow),
    /// A hold on it began, or went on.
    Held {
        before: Option<&'a HoldRow>,
        after: &'a HoldRow,
    },
    /// It was the first leg's of a transaction that was scheduled, or was now.
    Scheduled {
        before: Option<&'a ScheduleRow>,
        after: &'a ScheduleRow,
    },
    /// A velocity limit counted for it, in the same bucket as before or in a new one.
    Used {
        before: Option<&'a UsageRow>,
        after: &'a UsageRow,
    },
    /// A bucket that counts no longer.
    Lapsed(&'a UsageRow),
}

/// What has been taken back of a transaction.
#[derive(Clone, Debug)]
pub struct Reversed {
    /// Position of the last reversal.
    pub position: Position,
    /// What it says is left of each leg.
    pub remaining: SmallVec<[Amount; 2]>,
    /// What all reversals have posted, by account and side.
    pub taken: SmallVec<[(AccountId, Side, Amount); 2]>,
}

/// The state of a ledger as of one position, from the log alone.
#[derive(Debug)]
pub struct Replay {
    ledger_id: LedgerId,
    shard_count: Shard,
    position: Position,
    recorded_at: DateTime<Utc>,
    epoch: Epoch,
    accounts: Vec<Account>,
    by_id: HashMap<AccountId, usize>,
    codes: HashSet<AccountCode>,
    /// One copy of each asset's name, whatever number of accounts it has.
    assets: HashSet<AssetCode>,
    /// Holds that are open, by position.
    holds: HashMap<Position, HoldRow>,
    /// Transactions that are still scheduled, by position.
    schedules: HashMap<Position, ScheduleRow>,
    /// The buckets that count, in order, by account and the limit's position.
    usage: HashMap<(AccountId, Position), Vec<UsageRow>>,
    reversed: HashMap<uuid::Uuid, Reversed>,
}

impl Replay {
    pub fn new(ledger_id: LedgerId, shard_count: Shard) -> Self {
        Self {
            ledger_id,
            shard_count,
            position: 0,
            recorded_at: DateTime::<Utc>::MIN_UTC,
            epoch: Epoch::MIN,
            accounts: Vec::new(),
            by_id: HashMap::new(),
            codes: HashSet::new(),
            assets: HashSet::new(),
            holds: HashMap::new(),
            schedules: HashMap::new(),
            usage: HashMap::new(),
            reversed: HashMap::new(),
        }
    }

    pub const fn position(&self) -> Position {
        self.position
    }

    /// In the order in which they were opened; [`Replay::apply`] counts in it.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Where an account stands in [`Replay::accounts`].
    pub fn index_of(&self, id: AccountId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// The hold that began at a position, if it is open.
    pub fn hold(&self, position: Position) -> Option<&HoldRow> {
        self.holds.get(&position)
    }

    /// The transaction that was scheduled at a position, if it still is.
    pub fn schedule(&self, position: Position) -> Option<&ScheduleRow> {
        self.schedules.get(&position)
    }

    /// What a limit has counted for an account, in the buckets that count.
    pub fn usage(&self, account: AccountId, limit: Position) -> &[UsageRow] {
        self.usage.get(&(account, limit)).map_or(&[], Vec::as_slice)
    }

    /// The transactions of which something was reversed.
    pub const fn reversed(&self) -> &HashMap<uuid::Uuid, Reversed> {
        &self.reversed
    }

    /// Follows one event, telling `observe` what it did to which account, each
    /// as it is after that.
    ///
    /// # Errors
    /// The first contradiction. The replay must not be used any further.
    pub fn apply(
        &mut self,
        logged: &Logged,
        mut observe: impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Logged { event, epoch } = logged;
        self.check_order(event, *epoch)?;
        match &event.fact {
            Fact::AccountOpened { .. } => self.open(event, &mut observe)?,
            Fact::TransactionPosted(transaction) => self.post(event, transaction, &mut observe)?,
            Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => {
                self.reject(event, rejected, &mut observe)?;
            }
            Fact::TransactionAuthorised(authorisation) => self.authorise(event, authorisation, &mut observe)?,
            Fact::HoldReleased(release) => self.release(event, release, &mut observe)?,
            Fact::TransactionScheduled(scheduled) => self.schedule_at(event, scheduled, &mut observe)?,
            Fact::ScheduleCancelled(cancelled) => self.cancel(event, cancelled, &mut observe)?,
            Fact::AccountChanged(changed) => self.alter(event, changed, &mut observe)?,
            Fact::AssetDefined { .. } | Fact::RuleSet(_) | Fact::RuleRemoved(_) | Fact::PeriodClosed { .. } => {}
        }
        (self.position, self.recorded_at, self.epoch) = (event.position, event.recorded_at, *epoch);
        Ok(())
    }

    fn check_order(&self, event: &Event, epoch: Epoch) -> Result<(), Contradiction> {
        let next = self.position + 1;
        if event.position != next {
            return Err(differs(next, "the log", format!("position {next}"), format!("position {}", event.position)));
        }
        if event.recorded_at < self.recorded_at {
            let expected = format!("a time not before {:?}", self.recorded_at);
            return Err(differs(next, "recorded_at", expected, format!("{:?}", event.recorded_at)));
        }
        if epoch < self.epoch {
            return Err(differs(next, "epoch", format!("{} or more", self.epoch), epoch));
        }
        Ok(())
    }

    fn open(
        &mut self,
        event: &Event,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Fact::AccountOpened { code, asset, normal, limits, metadata } = &event.fact else { return Ok(()) };
        if !self.codes.insert(code.clone()) {
            return Err(differs(
                event.position,
                format!("account {code}"),
                "a new account",
                "one that is open already",
            ));
        }
        let account = Account {
            id: event.position,
            code: code.clone(),
            asset: self.assets.get_or_insert_with(asset.as_str(), |_| asset.clone()).clone(),
            normal: *normal,
            shard: shard_of(self.ledger_id, code.as_str(), self.shard_count),
            balance: Balance { position: event.position, ..Balance::default() },
            closed: false,
        };
        let row = AccountRow {
            owner: account.owner(self.ledger_id),
            code: code.as_str(),
            asset: asset.as_str(),
            normal: *normal,
            limits: *limits,
            metadata: metadata.as_deref(),
            opened_at: event.recorded_at,
        };
        let index = self.accounts.len();
        observe(index, &account, Change::Opened(row));
        self.by_id.insert(account.id, index);
        self.accounts.push(account);
        Ok(())
    }

    fn post(
        &mut self,
        event: &Event,
        transaction: &Transaction,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let transaction_id = transaction_id(event)?;
        let legs = transaction.legs.iter();
        check_balance(event.position, legs.map(|leg| (&leg.asset, leg.side, leg.amount)))?;
        let origin = transaction.more.as_ref().and_then(|more| more.origin.as_ref());
        let held = match origin {
            Some(Origin::Capture { hold, remaining, captured }) => {
                Some(self.capture(event, &transaction.legs, hold, (*remaining, *captured))?)
            }
            _ => None,
        };
        let moved = match &held {
            None => Moved::Posted { released: Amount::ZERO },
            Some((before, after)) => Moved::Posted { released: less(before.remaining, after.remaining) },
        };
        for (leg_index, leg) in transaction.legs.iter().enumerate() {
            let index = self.find(event.position, leg.account_id, &leg.account, &leg.asset)?;
            let account = &mut self.accounts[index];
            add_leg(account, leg, event.position, moved)?;
            let row = EntryRow {
                owner: account.owner(self.ledger_id),
                version: account.balance.version,
                position: event.position,
                leg: leg_index as i16,
                transaction_id,
                side: leg.side.as_str(),
                amount: leg.amount,
                balance_after: account.balance.posted(account.normal),
                reference: transaction.reference.as_deref(),
                effective_at: event.effective_at,
                recorded_at: event.recorded_at,
            };
            observe(index, account, Change::Posted(row));
        }
        self.count(event, transaction, observe)?;
        if let Some((before, after)) = &held {
            self.hold_changed(Some(before), after, observe);
        }
        let first = transaction.legs.first().map(|leg| leg.account_id);
        match origin {
            Some(Origin::Schedule { position }) => {
                // Its metadata is found where it was scheduled.
                return self.end_schedule(event, *position, first, ScheduleState::Posted, observe);
            }
            Some(Origin::Reversal { transaction: of, remaining, .. }) => {
                self.reverse(event, &transaction.legs, *of, remaining)?;
            }
            Some(Origin::Capture { .. }) | None => {}
        }
        self.describe(event.position, first, transaction.metadata.as_deref(), observe);
        Ok(())
    }

    /// What a capture makes of its hold: the row before and after.
    fn capture(
        &mut self,
        event: &Event,
        legs: &[Leg],
        hold: &HoldRef,
        (remaining, captured): (Amount, Amount),
    ) -> Result<(HoldRow, HoldRow), Contradiction> {
        let before = self.open_hold(event, legs, hold)?;
        let differs = |expected: String, found: String| {
            differs(event.position, format!("hold at position {}", hold.position), expected, found)
        };
        let amount = legs.first().map_or(Amount::ZERO, |leg| leg.amount);
        if amount > before.remaining {
            return Err(differs(format!("a capture of {} at most", before.remaining), amount.to_string()));
        }
        let (left, sum) = (less(before.remaining, amount), plus(before.captured, amount));
        if captured != sum {
            return Err(differs(format!("{sum} captured in all"), captured.to_string()));
        }
        if remaining != left && !remaining.is_zero() {
            return Err(differs(format!("{left} or nothing remaining"), remaining.to_string()));
        }
        let state = if remaining.is_zero() { HoldState::Captured } else { HoldState::Authorised };
        let (changed_position, changed_at) = (event.position, event.recorded_at);
        let after = HoldRow { state, remaining, captured, changed_position, changed_at, ..before.clone() };
        Ok((before, after))
    }

    /// The hold that an event is about, with the same legs but for their amounts.
    fn open_hold(&self, event: &Event, legs: &[Leg], hold: &HoldRef) -> Result<HoldRow, Contradiction> {
        let subject = || format!("hold at position {}", hold.position);
        let Some(row) = self.holds.get(&hold.position) else {
            return Err(differs(event.position, subject(), "one that is open", "none"));
        };
        if row.transaction_id != hold.id {
            return Err(differs(event.position, subject(), row.transaction_id, hold.id));
        }
        let expected = [(Side::Debit, row.owner.account_id), (Side::Credit, row.to_account_id)];
        if !legs.iter().map(|leg| (leg.side, leg.account_id)).eq(expected) {
            let expected = format!("a debit of {} and a credit of {}", row.from, row.to);
            return Err(differs(event.position, subject(), expected, "other legs"));
        }
        Ok(row.clone())
    }

    /// Keeps a hold as it is now, if it is open, and tells.
    fn hold_changed(
        &mut self,
        before: Option<&HoldRow>,
        after: &HoldRow,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) {
        if after.state == HoldState::Authorised {
            self.holds.insert(after.position, after.clone());
        } else {
            self.holds.remove(&after.position);
        }
        if let Some(index) = self.index_of(after.owner.account_id) {
            observe(index, &self.accounts[index], Change::Held { before, after });
        }
    }

    fn authorise(
        &mut self,
        event: &Event,
        authorisation: &Authorisation,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Authorisation { transaction, expires_at } = authorisation;
        let transaction_id = transaction_id(event)?;
        check_balance(event.position, transaction.legs.iter().map(|leg| (&leg.asset, leg.side, leg.amount)))?;
        let [from, to] = &transaction.legs[..] else {
            return Err(differs(event.position, "the hold", "two legs", transaction.legs.len()));
        };
        if (from.side, to.side) != (Side::Debit, Side::Credit) || from.account_id == to.account_id {
            return Err(differs(event.position, "the hold", "a debit, and a credit of another account", "other legs"));
        }
        for leg in &transaction.legs {
            let index = self.find(event.position, leg.account_id, &leg.account, &leg.asset)?;
            let account = &mut self.accounts[index];
            add_leg(account, leg, event.position, Moved::Reserved)?;
            observe(index, account, Change::Reserved);
            let row = AccountOfRow { owner: account.owner(self.ledger_id), position: event.position };
            observe(index, account, Change::Named(row));
        }
        self.count(event, transaction, observe)?;
        let shard = self.index_of(from.account_id).map_or(0, |index| self.accounts[index].shard);
        let row = HoldRow {
            owner: Owner { shard, ledger_id: self.ledger_id, account_id: from.account_id },
            position: event.position,
            transaction_id,
            from: from.account.clone(),
            to: to.account.clone(),
            to_account_id: to.account_id,
            asset: from.asset.clone(),
            amount: from.amount,
            remaining: from.amount,
            captured: Amount::ZERO,
            state: HoldState::Authorised,
            expires_at: *expires_at,
            reference: transaction.reference.clone(),
            authorised_at: event.recorded_at,
            changed_position: event.position,
            changed_at: event.recorded_at,
        };
        self.hold_changed(None, &row, observe);
        self.describe(event.position, Some(from.account_id), transaction.metadata.as_deref(), observe);
        Ok(())
    }

    fn release(
        &mut self,
        event: &Event,
        release: &Release,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Release { hold, reason, legs, captured } = release;
        let before = self.open_hold(event, legs, hold)?;
        let subject = || format!("hold at position {}", hold.position);
        if transaction_id(event)? != hold.id {
            return Err(differs(event.position, subject(), "its transaction_id", "another"));
        }
        if let Some(leg) = legs.iter().find(|leg| leg.amount != before.remaining) {
            return Err(differs(event.position, subject(), format!("{} given back", before.remaining), leg.amount));
        }
        let is_due = before.expires_at == Some(event.effective_at) && event.effective_at <= event.recorded_at;
        if *reason == ReleaseReason::Expired && !is_due {
            let expected = before.expires_at.map_or("no end".to_owned(), |at| format!("an end at {at:?}"));
            return Err(differs(event.position, subject(), expected, format!("{:?}", event.effective_at)));
        }
        if *captured != before.captured {
            return Err(differs(event.position, subject(), format!("{} captured", before.captured), captured));
        }
        for leg in legs {
            let index = self.find(event.position, leg.account_id, &leg.account, &leg.asset)?;
            let account = &mut self.accounts[index];
            add_leg(account, leg, event.position, Moved::Released)?;
            observe(index, account, Change::Reserved);
        }
        let after = HoldRow {
            state: (*reason).into(),
            remaining: Amount::ZERO,
            changed_position: event.position,
            changed_at: event.recorded_at,
            ..before.clone()
        };
        self.hold_changed(Some(&before), &after, observe);
        Ok(())
    }

    fn schedule_at(
        &mut self,
        event: &Event,
        scheduled: &Scheduled,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Scheduled { request, account_ids } = scheduled;
        let transaction_id = transaction_id(event)?;
        check_balance(event.position, request.legs.iter().map(|leg| (&leg.asset, leg.side, leg.amount)))?;
        if event.effective_at < event.recorded_at || request.legs.len() != account_ids.len() {
            let expected = "a later effective_at, and one account for each leg";
            return Err(differs(event.position, "the scheduled transaction", expected, "something else"));
        }
        let mut named: HashSet<AccountId> = HashSet::new();
        for (leg, id) in request.legs.iter().zip(account_ids) {
            let index = self.find(event.position, *id, &leg.account, &leg.asset)?;
            let account = &self.accounts[index];
            if named.insert(*id) {
                let row = AccountOfRow { owner: account.owner(self.ledger_id), position: event.position };
                observe(index, account, Change::Named(row));
            }
        }
        let first = account_ids.first().copied();
        let Some(index) = first.and_then(|id| self.index_of(id)) else { return Ok(()) };
        let account = &self.accounts[index];
        let row = ScheduleRow {
            owner: account.owner(self.ledger_id),
            position: event.position,
            transaction_id,
            state: ScheduleState::Scheduled,
            effective_at: event.effective_at,
            reference: request.reference.clone(),
            recorded_at: event.recorded_at,
            changed_position: event.position,
            changed_at: event.recorded_at,
        };
        observe(index, account, Change::Scheduled { before: None, after: &row });
        self.schedules.insert(event.position, row);
        self.describe(event.position, first, request.metadata.as_deref(), observe);
        Ok(())
    }

    fn cancel(
        &mut self,
        event: &Event,
        cancelled: &Cancelled,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Cancelled { transaction, position, account, account_id } = cancelled;
        let subject = || format!("what was scheduled at position {position}");
        if transaction_id(event)? != *transaction {
            return Err(differs(event.position, subject(), transaction, "another transaction_id"));
        }
        if self.index_of(*account_id).is_none_or(|index| self.accounts[index].code != *account) {
            return Err(differs(event.position, subject(), "the account of its first leg", account));
        }
        self.end_schedule(event, *position, Some(*account_id), ScheduleState::Cancelled, observe)
    }

    /// A transaction is scheduled no longer.
    fn end_schedule(
        &mut self,
        event: &Event,
        position: Position,
        first: Option<AccountId>,
        state: ScheduleState,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let subject = || format!("what was scheduled at position {position}");
        let Some(before) = self.schedules.remove(&position) else {
            return Err(differs(event.position, subject(), "a transaction that still is", "none"));
        };
        if transaction_id(event)? != before.transaction_id || first != Some(before.owner.account_id) {
            return Err(differs(event.position, subject(), before, "another transaction"));
        }
        if state != ScheduleState::Cancelled && event.effective_at != before.effective_at {
            let (expected, found) = (format!("{:?}", before.effective_at), format!("{:?}", event.effective_at));
            return Err(differs(event.position, "effective_at", expected, found));
        }
        let (changed_position, changed_at) = (event.position, event.recorded_at);
        let after = ScheduleRow { state, changed_position, changed_at, ..before.clone() };
        if let Some(index) = self.index_of(before.owner.account_id) {
            observe(index, &self.accounts[index], Change::Scheduled { before: Some(&before), after: &after });
        }
        Ok(())
    }

    fn alter(
        &mut self,
        event: &Event,
        changed: &AccountChanged,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        use crate::ledger::Change as Done;
        let AccountChanged { account: code, account_id, change, after, .. } = changed;
        let subject = || format!("account {code}");
        let Some(index) = self.index_of(*account_id) else {
            let expected = format!("an account opened at position {account_id}");
            return Err(differs(event.position, subject(), expected, "none"));
        };
        let ledger_id = self.ledger_id;
        let account = &mut self.accounts[index];
        if account.code != *code {
            return Err(differs(event.position, format!("account number {account_id}"), &account.code, code));
        }
        let Balance { debits_posted, credits_posted, debits_pending, credits_pending, .. } = account.balance;
        let is_empty = debits_posted == credits_posted && debits_pending.is_zero() && credits_pending.is_zero();
        let Attributes { closed, freeze, .. } = after;
        // Closed before and after, and what else must hold.
        let (was_closed, is_closed, holds) = match change {
            Done::Updated => (false, false, true),
            Done::Frozen => (false, false, freeze.is_some()),
            Done::Unfrozen => (false, false, freeze.is_none()),
            Done::Closed => (false, true, is_empty),
            Done::Reopened => (true, false, true),
        };
        if (account.closed, *closed, holds) != (was_closed, is_closed, true) {
            let (expected, found) = (format!("one that can be {change:?}"), describe(&account.balance));
            return Err(differs(event.position, subject(), expected, found));
        }
        account.closed = *closed;
        let row = AttributesRow { owner: account.owner(ledger_id), attributes: after };
        observe(index, account, Change::Altered(row));
        Ok(())
    }

    /// What velocity limits counted.
    fn count(
        &mut self,
        event: &Event,
        transaction: &Transaction,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        for Usage { leg, counted } in transaction.more.iter().flat_map(|more| &more.usage) {
            let found = transaction.legs.get(usize::from(*leg));
            let Some((leg, index)) = found.and_then(|leg| Some((leg, self.index_of(leg.account_id)?))) else {
                return Err(differs(event.position, "usage", "a leg of the transaction", leg));
            };
            let account = &self.accounts[index];
            let Counted { limit, bucket, since, count, amount } = *counted;
            let after = UsageRow { owner: account.owner(self.ledger_id), limit, bucket, count, amount };
            let rows = self.usage.entry((leg.account_id, limit)).or_default();
            let last = rows.last().copied();
            let before = last.filter(|last| last.bucket == bucket);
            // Time does not run backwards along the log, and so neither do buckets.
            let (times, sum) = before.map_or((0, Amount::ZERO), |before| (before.count, before.amount));
            let expected = UsageRow { count: times.saturating_add(1), amount: plus(sum, leg.amount), ..after };
            if after != expected || since > bucket || last.is_some_and(|last| last.bucket > bucket) {
                return Err(differs(event.position, format!("account {}", account.code), expected, after));
            }
            let lapsed = rows.partition_point(|row| row.bucket < since);
            for row in rows.drain(..lapsed) {
                observe(index, account, Change::Lapsed(&row));
            }
            match rows.last_mut().filter(|_| before.is_some()) {
                Some(row) => *row = after,
                None => rows.push(after),
            }
            observe(index, account, Change::Used { before: before.as_ref(), after: &after });
        }
        Ok(())
    }

    /// What is left of a transaction falls by what is posted against it.
    fn reverse(
        &mut self,
        event: &Event,
        legs: &[Leg],
        of: uuid::Uuid,
        remaining: &SmallVec<[Amount; 2]>,
    ) -> Result<(), Contradiction> {
        let subject = || format!("reversal of transaction {of}");
        let known = self.reversed.entry(of).or_insert_with(|| Reversed {
            position: event.position,
            remaining: remaining.clone(),
            taken: SmallVec::new(),
        });
        let mut falls = known.remaining.iter().zip(remaining).all(|(before, after)| after <= before);
        falls &= known.remaining.len() == remaining.len() && remaining.iter().all(|amount| *amount >= Amount::ZERO);
        if !falls {
            let list = |amounts: &[Amount]| amounts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let expected = format!("{} left at most", list(&known.remaining));
            return Err(differs(event.position, subject(), expected, list(remaining)));
        }
        for leg in legs {
            let same = |(id, side, _): &&mut (AccountId, Side, Amount)| (*id, *side) == (leg.account_id, leg.side);
            match known.taken.iter_mut().find(same) {
                Some((.., sum)) => *sum = plus(*sum, leg.amount),
                None => known.taken.push((leg.account_id, leg.side, leg.amount)),
            }
        }
        (known.position, known.remaining) = (event.position, remaining.clone());
        Ok(())
    }

    fn reject(
        &mut self,
        event: &Event,
        rejected: &RejectedTransaction,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let transaction_id = transaction_id(event)?;
        let RejectedTransaction { scheduled, request, account_ids, reason } = rejected;
        check_balance(event.position, request.legs.iter().map(|leg| (&leg.asset, leg.side, leg.amount)))?;
        for (leg_index, (LegRequest { account, asset, .. }, id)) in request.legs.iter().zip(account_ids).enumerate() {
            let index = self.find(event.position, *id, account, asset)?;
            let account = &self.accounts[index];
            let row = RejectionRow {
                owner: account.owner(self.ledger_id),
                position: event.position,
                leg: leg_index as i16,
                transaction_id,
                reason: reason.code(),
                reference: request.reference.as_deref(),
                effective_at: event.effective_at,
                recorded_at: event.recorded_at,
            };
            observe(index, account, Change::Rejected(row));
        }
        let first = account_ids.first().copied();
        if let Some(position) = scheduled {
            return self.end_schedule(event, *position, first, ScheduleState::Rejected, observe);
        }
        self.describe(event.position, first, request.metadata.as_deref(), observe);
        Ok(())
    }

    /// What a transaction is found by.
    fn describe(
        &self,
        position: Position,
        first: Option<AccountId>,
        json: Option<&str>,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) {
        let Some((index, json)) = first.and_then(|id| self.index_of(id)).zip(json) else { return };
        let account = &self.accounts[index];
        let owner = account.owner(self.ledger_id);
        for (key, value) in &metadata::searchable(json) {
            observe(index, account, Change::Described(MetadataRow { owner, position, key, value }));
        }
    }

    fn find(
        &self,
        position: Position,
        id: AccountId,
        code: &AccountCode,
        asset: &AssetCode,
    ) -> Result<usize, Contradiction> {
        let subject = || format!("account {code}");
        let Some(index) = self.index_of(id) else {
            return Err(differs(position, subject(), format!("an account opened at position {id}"), "none"));
        };
        let account = &self.accounts[index];
        if account.code != *code {
            return Err(differs(position, format!("account number {id}"), &account.code, code));
        }
        if account.asset != *asset {
            return Err(differs(position, subject(), format!("an amount of {}", account.asset), asset));
        }
        Ok(index)
    }
}

/// What a leg does to its account.
#[derive(Clone, Copy)]
enum Moved {
    /// It is posted, and so much is pending no longer.
    Posted { released: Amount },
    /// Its amount becomes pending.
    Reserved,
    /// Its amount is pending no longer.
    Released,
}

/// Adds a leg's amount to its account, and compares with what the leg states.
fn add_leg(account: &mut Account, leg: &Leg, position: Position, moved: Moved) -> Result<(), Contradiction> {
    let differs =
        |expected: String, found: String| differs(position, format!("account {}", leg.account), expected, found);
    if leg.normal != account.normal {
        return Err(differs(format!("a {}-normal account", account.normal.as_str()), leg.normal.as_str().to_owned()));
    }
    if account.closed {
        return Err(differs("an account that is open".to_owned(), "one that is closed".to_owned()));
    }
    let balance = &mut account.balance;
    let (posted, pending) = match leg.side {
        Side::Debit => (&mut balance.debits_posted, &mut balance.debits_pending),
        Side::Credit => (&mut balance.credits_posted, &mut balance.credits_pending),
    };
    let add = |total: &mut Amount| match total.checked_add(leg.amount) {
        Some(sum) => {
            *total = sum;
            Ok(())
        }
        None => Err(differs("a total of 38 digits at most".to_owned(), format!("{total} and {} more", leg.amount))),
    };
    let release = |total: &mut Amount, amount: Amount| {
        if amount > *total {
            return Err(differs(format!("{total} given back at most"), amount.to_string()));
        }
        *total = less(*total, amount);
        Ok(())
    };
    match moved {
        Moved::Posted { released } => {
            add(posted)?;
            release(pending, released)?;
            balance.version += 1;
        }
        Moved::Reserved => add(pending)?,
        Moved::Released => release(pending, leg.amount)?,
    }
    balance.position = position;
    if leg.after != *balance {
        return Err(differs(describe(balance), describe(&leg.after)));
    }
    Ok(())
}

/// The one less the other, which is not more.
fn less(amount: Amount, by: Amount) -> Amount {
    Amount::new(amount.get() - by.get()).unwrap_or(Amount::ZERO)
}

/// The sum; the most there is, where that has more digits.
fn plus(amount: Amount, and: Amount) -> Amount {
    amount.checked_add(and).unwrap_or(Amount::MAX)
}

/// A balance in words.
pub fn describe(balance: &Balance) -> String {
    let Balance { debits_posted, credits_posted, debits_pending, credits_pending, version, position } = balance;
    format!(
        "debits {debits_posted}, credits {credits_posted}, pending debits {debits_pending}, \
         pending credits {credits_pending}, version {version}, position {position}"
    )
}

fn transaction_id(event: &Event) -> Result<uuid::Uuid, Contradiction> {
    event.transaction_id.ok_or_else(|| differs(event.position, "the event", "a transaction_id", "none"))
}

/// Debits equal credits for every asset, and every amount is more than zero.
fn check_balance<'a>(
    position: Position,
    legs: impl Iterator<Item = (&'a AssetCode, Side, Amount)>,
) -> Result<(), Contradiction> {
    let mut sums: SmallVec<[(&AssetCode, Sum, Sum); 1]> = SmallVec::new();
    for (asset, side, amount) in legs {
        if !amount.is_positive() {
            return Err(differs(position, "the transaction", "amounts above zero", amount));
        }
        let index = sums.iter().position(|(known, ..)| *known == asset).unwrap_or_else(|| {
            sums.push((asset, Sum::default(), Sum::default()));
            sums.len() - 1
        });
        let (_, debits, credits) = &mut sums[index];
        match side {
            Side::Debit => debits.add(amount),
            Side::Credit => credits.add(amount),
        }
    }
    for (asset, debits, credits) in &sums {
        if debits != credits {
            let (expected, found) = (format!("debits of {credits} {asset}"), format!("debits of {debits} {asset}"));
            return Err(differs(position, "the transaction is not balanced", expected, found));
        }
    }
    if sums.is_empty() { Err(differs(position, "the transaction", "legs", "none")) } else { Ok(()) }
}

/// A sum of amounts, which may have more digits than an amount: two accounts without bounds
/// may give away all that an amount can be in one transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    /// Of 10^19 each.
    high: i128,
    /// Below 10^19.
    low: i128,
}

impl Sum {
    const HIGH: i128 = 10_i128.pow(19);

    const fn add(&mut self, amount: Amount) {
        self.low += amount.get() % Self::HIGH;
        self.high += amount.get() / Self::HIGH + self.low / Self::HIGH;
        self.low %= Self::HIGH;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.high {
            0 => write!(f, "{}", self.low),
            high => write!(f, "{high}{:019}", self.low),
        }
    }
}

fn differs(
    position: Position,
    subject: impl Into<String>,
    expected: impl ToString,
    found: impl ToString,
) -> Contradiction {
    Contradiction { position, subject: subject.into(), expected: expected.to_string(), found: found.to_string() }
}

/// Reads a range of the log in a task of its own, a few pages ahead of the one
/// who folds it: the next page is fetched and decoded while this one is written.
pub struct ReadAhead {
    pages: mpsc::Receiver<Result<Vec<Logged>, Error>>,
    task: AbortOnDropHandle<PgConnection>,
}

impl ReadAhead {
    /// Reads what follows on `after`, up to `to`.
    pub fn start(mut conn: PgConnection, ledger_id: LedgerId, mut after: Position, to: Position) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let task = tokio::spawn(async move {
            while after < to {
                let page_to = to.min(after + PAGE_EVENTS);
                let page = read_logged(&mut conn, ledger_id, after, page_to).await;
                let failed = page.is_err();
                // A page that the log does not have is a hole: what follows on it tells.
                let missing = page.as_ref().is_ok_and(Vec::is_empty);
                if (!missing && sender.send(page).await.is_err()) || failed {
                    break;
                }
                after = page_to;
            }
            conn
        });
        Self { pages, task: AbortOnDropHandle::new(task) }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Logged>>, Error> {
        match self.pages.recv().await {
            Some(page) => page.map(Some),
            None => Ok(None),
        }
    }

    /// Gives the connection back.
    pub async fn finish(self) -> Result<PgConnection, Error> {
        drop(self.pages);
        self.task.await.map_err(|_| store::error::timed_out("the task that reads the log died"))
    }
}
