//! What is in the books after each event of the log, computed anew from the
//! amounts, and what a rule says to a request at that place.
//!
//! It shares no code with the ledger, and has the rules that these histories
//! need: all accounts count on the credit side, and no balance has a cap.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::request::{Scope, Wish};
use super::{Finding, Read, Rule, found};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Debit,
    Credit,
}

impl Scope {
    const fn stops(self, side: Side) -> bool {
        matches!((self, side), (Self::All, _) | (Self::Debits, Side::Debit) | (Self::Credits, Side::Credit))
    }
}

/// A leg of two: the debit comes first but in a reversal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub account: String,
    pub side: Side,
    pub amount: i128,
}

fn pair(from: &str, to: &str, amount: i128) -> Vec<Leg> {
    let leg = |account: &str, side| Leg { account: account.to_owned(), side, amount };
    vec![leg(from, Side::Debit), leg(to, Side::Credit)]
}

/// Why a request is declined, as the log states it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Reason {
    pub code: String,
    account: String,
    #[serde(flatten)]
    members: BTreeMap<String, String>,
}

impl Reason {
    fn new<const N: usize>(code: &str, account: &str, members: [(&str, String); N]) -> Self {
        let members = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { code: code.to_owned(), account: account.to_owned(), members }
    }

    /// The rule that is broken by what is done all the same.
    pub fn rule(&self) -> Rule {
        match self.code.as_str() {
            "account_frozen" => Rule::Freezes,
            "insufficient_funds" => Rule::Floors,
            "reversal_exceeds_transaction" => Rule::Reversals,
            _ => Rule::Holds,
        }
    }
}

/// The totals of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub debits: i128,
    pub credits: i128,
    pub debits_pending: i128,
    pub credits_pending: i128,
    /// How many legs have been posted.
    pub version: u64,
}

impl Totals {
    pub const fn posted(&self) -> i128 {
        self.credits - self.debits
    }

    pub const fn available(&self) -> i128 {
        self.posted() - self.debits_pending
    }
}

/// What happens to a side of an account with a leg.
#[derive(Clone, Copy, Debug, Default)]
pub struct Move {
    pub posted: i128,
    pub pending: i128,
}

/// An account and what became of it.
#[derive(Debug)]
pub struct Account {
    pub id: u64,
    pub floor: Option<i128>,
    /// After each event that touched it, oldest first.
    states: Vec<(u64, Totals)>,
    /// What it declines since a position.
    freezes: Vec<(u64, Option<Scope>)>,
    /// What waits for a moment of its own.
    waiting: BTreeSet<Due>,
    /// What waited, and the position at which that ended.
    ended: Vec<(Due, u64)>,
}

impl Account {
    pub fn new(id: u64, floor: Option<i128>) -> Self {
        Self {
            id,
            floor,
            states: vec![(id, Totals::default())],
            freezes: Vec::new(),
            waiting: BTreeSet::new(),
            ended: Vec::new(),
        }
    }

    pub fn totals(&self) -> Totals {
        self.states.last().expect("an account begins with a state").1
    }

    pub fn freeze(&self) -> Option<Scope> {
        self.freezes.last().and_then(|(_, scope)| *scope)
    }

    pub fn set_freeze(&mut self, position: u64, scope: Option<Scope>) {
        self.freezes.push((position, scope));
    }

    pub fn apply(&mut self, position: u64, side: Side, moved: Move) -> Totals {
        let mut after = self.totals();
        let (posted, pending) = match side {
            Side::Debit => (&mut after.debits, &mut after.debits_pending),
            Side::Credit => (&mut after.credits, &mut after.credits_pending),
        };
        *posted += moved.posted;
        *pending += moved.pending;
        after.version += u64::from(moved.posted > 0);
        self.states.push((position, after));
        after
    }
}

/// A moment at which something happens to a transaction by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    pub at: DateTime<Utc>,
    /// Position at which that was recorded.
    position: u64,
    id: String,
    /// A posting, which cares for what came before it; not the end of a hold.
    posts: bool,
}

/// Funds that are reserved.
#[derive(Clone, Debug)]
pub struct Hold {
    from: String,
    to: String,
    pub amount: i128,
    pub remaining: i128,
    pub captured: i128,
    /// Ended as, or `authorised`.
    pub state: &'static str,
    pub position: u64,
    pub due: Option<DateTime<Utc>>,
}

/// A transaction that was posted, and what is left of its amount.
#[derive(Debug)]
struct Posted {
    legs: Vec<Leg>,
    remaining: i128,
}

#[derive(Clone, Debug)]
pub struct Schedule {
    pub wish: Wish,
    pub at: DateTime<Utc>,
    pub position: u64,
    waits: bool,
}

#[derive(Debug, Default)]
pub struct Book {
    accounts: BTreeMap<String, Account>,
    holds: BTreeMap<String, Hold>,
    posted: BTreeMap<String, Posted>,
    schedules: BTreeMap<String, Schedule>,
}

impl Book {
    /// Whether there was none of the name.
    pub fn open(&mut self, code: String, account: Account) -> bool {
        self.accounts.insert(code, account).is_none()
    }

    pub fn account(&mut self, code: &str) -> Option<&mut Account> {
        self.accounts.get_mut(code)
    }

    pub fn hold(&self, id: &str) -> Option<&Hold> {
        self.holds.get(id)
    }

    pub fn schedule(&self, id: &str) -> Option<&Schedule> {
        self.schedules.get(id).filter(|schedule| schedule.waits)
    }

    /// Whether it was scheduled once, and is not any more.
    pub fn was_scheduled(&self, id: &str) -> bool {
        self.schedules.get(id).is_some_and(|schedule| !schedule.waits)
    }

    /// The legs that a wish is about at this place; `None` where what it is about
    /// is not there.
    pub fn legs(&self, wish: &Wish) -> Option<Vec<Leg>> {
        match wish {
            Wish::Pay { from, to, amount, .. } | Wish::Authorise { from, to, amount, .. } => {
                Some(pair(from, to, *amount))
            }
            Wish::Capture { hold, amount, .. } => {
                let hold = self.holds.get(hold)?;
                let rest = if hold.remaining > 0 { hold.remaining } else { hold.amount };
                Some(pair(&hold.from, &hold.to, amount.unwrap_or(rest)))
            }
            Wish::Void { hold } => {
                let hold = self.holds.get(hold)?;
                let amount = if hold.state == "authorised" { hold.remaining } else { hold.amount };
                Some(pair(&hold.from, &hold.to, amount))
            }
            Wish::Reverse { transaction, amount, .. } => {
                let posted = self.posted.get(transaction)?;
                let mirrored = |leg: &Leg| Leg {
                    account: leg.account.clone(),
                    side: if leg.side == Side::Debit { Side::Credit } else { Side::Debit },
                    amount: amount.unwrap_or(if posted.remaining > 0 { posted.remaining } else { leg.amount }),
                };
                Some(posted.legs.iter().map(mirrored).collect())
            }
            Wish::Cancel { schedule } => self.legs(&self.schedules.get(schedule)?.wish),
        }
    }

    /// Why a wish is to be declined at this place, the first reason in the
    /// documented order; `None` when it is to be granted.
    pub fn reason(&self, wish: &Wish, legs: &[Leg]) -> Option<Reason> {
        match wish {
            Wish::Pay { .. } | Wish::Authorise { .. } => self.frozen(legs).or_else(|| self.below_floor(legs)),
            Wish::Capture { hold, amount, .. } => {
                let hold = self.holds.get(hold)?;
                let exceeds = amount.unwrap_or_default() > hold.remaining;
                let remaining = [("remaining", hold.remaining.to_string())];
                let exceeds = exceeds.then(|| Reason::new("capture_exceeds_hold", &hold.from, remaining));
                hold.ended().or(exceeds).or_else(|| self.frozen(legs))
            }
            Wish::Void { hold } => self.holds.get(hold)?.ended(),
            Wish::Reverse { transaction, amount, force } => {
                let posted = self.posted.get(transaction)?;
                let exceeds = amount.unwrap_or(1) > posted.remaining;
                let remaining = [("remaining", posted.remaining.to_string())];
                exceeds
                    .then(|| Reason::new("reversal_exceeds_transaction", &legs[0].account, remaining))
                    .or_else(|| self.frozen(legs))
                    .or_else(|| if *force { None } else { self.below_floor(legs) })
            }
            Wish::Cancel { .. } => None,
        }
    }

    fn frozen(&self, legs: &[Leg]) -> Option<Reason> {
        let stopped = |leg: &&Leg| {
            let freeze = self.accounts.get(&leg.account).and_then(Account::freeze);
            freeze.is_some_and(|scope| scope.stops(leg.side))
        };
        legs.iter().find(stopped).map(|leg| Reason::new("account_frozen", &leg.account, []))
    }

    fn below_floor(&self, legs: &[Leg]) -> Option<Reason> {
        legs.iter().filter(|leg| leg.side == Side::Debit).find_map(|leg| {
            let account = self.accounts.get(&leg.account)?;
            let available = account.totals().available();
            let would_be = available - leg.amount;
            let floor = account.floor.filter(|floor| would_be < *floor)?;
            let members = [("available", available), ("would_be", would_be), ("min_balance", floor)];
            let members = members.map(|(name, amount)| (name, amount.to_string()));
            Some(Reason::new("insufficient_funds", &leg.account, members))
        })
    }

    /// What should have been settled before an event at `now` that concerns these
    /// accounts: whatever is due. Before what is itself settled, which is `own`,
    /// only what is due earlier, and before the end of a hold only postings, since
    /// ends of holds do not mind each other.
    pub fn overlooked(&self, accounts: &[Leg], now: DateTime<Utc>, own: Option<&Due>) -> Option<&Due> {
        let mut waiting = accounts.iter().filter_map(|leg| self.accounts.get(&leg.account)).flat_map(|account| {
            let due = account.waiting.iter().take_while(|due| due.at <= now);
            due.filter(|due| own.is_none_or(|own| *due < own && (own.posts || due.posts)))
        });
        waiting.next()
    }

    /// Something that was due by a moment and still waits.
    pub fn overdue(&self, by: DateTime<Utc>) -> Option<&Due> {
        self.accounts.values().filter_map(|account| account.waiting.first()).find(|due| due.at <= by)
    }

    /// The moment of a transaction that waits for one.
    pub fn due(&self, id: &str) -> Option<Due> {
        let (at, position, posts) = match (self.holds.get(id), self.schedule(id)) {
            (Some(hold), _) if hold.state == "authorised" => (hold.due?, hold.position, false),
            (_, Some(schedule)) => (schedule.at, schedule.position, true),
            _ => return None,
        };
        Some(Due { at, position, id: id.to_owned(), posts })
    }

    pub fn begin_hold(&mut self, id: &str, position: u64, legs: &[Leg], due: Option<DateTime<Utc>>) {
        let [from, to] = legs else { return };
        let hold = Hold {
            from: from.account.clone(),
            to: to.account.clone(),
            amount: from.amount,
            remaining: from.amount,
            captured: 0,
            state: "authorised",
            position,
            due,
        };
        self.holds.insert(id.to_owned(), hold);
        self.wait(id, legs);
    }

    /// Takes what was captured, and what is given back with it, and says how the
    /// hold is afterwards.
    pub fn change_hold(&mut self, id: &str, position: u64, captured: i128, end: Option<&'static str>) -> Option<Hold> {
        let due = self.due(id);
        let hold = self.holds.get_mut(id)?;
        hold.captured += captured;
        hold.remaining -= captured;
        if let Some(state) = end {
            (hold.remaining, hold.state) = (0, state);
        }
        let hold = hold.clone();
        if end.is_some() {
            self.end_wait(due, position, &pair(&hold.from, &hold.to, 0));
        }
        Some(hold)
    }

    pub fn post(&mut self, id: &str, legs: &[Leg]) {
        let remaining = legs.first().map_or(0, |leg| leg.amount);
        self.posted.insert(id.to_owned(), Posted { legs: legs.to_vec(), remaining });
    }

    /// What is left of a transaction after so much was reversed.
    pub fn reverse(&mut self, id: &str, amount: i128) -> Option<i128> {
        let posted = self.posted.get_mut(id)?;
        posted.remaining -= amount;
        Some(posted.remaining)
    }

    pub fn begin_schedule(&mut self, id: &str, position: u64, wish: Wish, at: DateTime<Utc>, legs: &[Leg]) {
        self.schedules.insert(id.to_owned(), Schedule { wish, at, position, waits: true });
        self.wait(id, legs);
    }

    pub fn end_schedule(&mut self, id: &str, position: u64, legs: &[Leg]) {
        let due = self.due(id);
        if let Some(schedule) = self.schedules.get_mut(id) {
            schedule.waits = false;
        }
        self.end_wait(due, position, legs);
    }

    fn wait(&mut self, id: &str, legs: &[Leg]) {
        let Some(due) = self.due(id) else { return };
        for leg in legs {
            if let Some(account) = self.accounts.get_mut(&leg.account) {
                account.waiting.insert(due.clone());
            }
        }
    }

    fn end_wait(&mut self, due: Option<Due>, position: u64, legs: &[Leg]) {
        let Some(due) = due else { return };
        for leg in legs {
            if let Some(account) = self.accounts.get_mut(&leg.account)
                && account.waiting.remove(&due)
            {
                account.ended.push((due.clone(), position));
            }
        }
    }

    /// A read is what the log says of the account as of the read's position, and
    /// has nothing that was due when it was asked for, if the clocks differ by no
    /// more than `clocks_apart`.
    pub fn check_read(&self, read: &Read, clocks_apart: TimeDelta) -> Result<(), Finding> {
        let differs = |expected: &str| Err(found(Rule::Reads, format!("{read:?}, but by the log {expected}")));
        let Some(account) = self.accounts.get(&read.account) else { return differs("there is no such account") };
        let after = account.states.partition_point(|(position, _)| *position <= read.position);
        let Some(&(position, totals)) = after.checked_sub(1).map(|last| &account.states[last]) else {
            return differs("it was opened later");
        };
        if (position, totals) != (read.balance_position, read.totals) {
            return differs(&format!("{totals:?} since {position}"));
        }
        if totals.available() != read.available {
            return differs(&format!("{} is available", totals.available()));
        }
        let freezes = account.freezes.partition_point(|(position, _)| *position <= read.position);
        let freeze = freezes.checked_sub(1).and_then(|last| account.freezes[last].1);
        if read.frozen != freeze.is_some() {
            return differs(&format!("its freeze is {freeze:?}"));
        }
        let waiting = account.waiting.iter().map(|due| (due, u64::MAX));
        let ended = account.ended.iter().map(|(due, position)| (due, *position));
        let mut seen = waiting.chain(ended).filter(|(due, _)| due.position <= read.position);
        match seen.find(|(due, ended)| *ended > read.position && due.at + clocks_apart < read.asked_at) {
            None => Ok(()),
            Some((due, _)) => Err(found(Rule::Due, format!("{read:?} was asked for after {due:?}"))),
        }
    }
}

impl Hold {
    fn ended(&self) -> Option<Reason> {
        let state = [("state", self.state.to_owned())];
        (self.state != "authorised").then(|| Reason::new("hold_not_open", &self.from, state))
    }
}
