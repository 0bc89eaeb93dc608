//! What velocity limits have counted on the accounts that memory holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{Book, Undo};
use crate::ledger::account::{Account, AccountId};
use crate::ledger::amount::Amount;
use crate::ledger::event::Position;
use crate::ledger::name::AccountCode;
use crate::ledger::transaction::{Side, Usage};
use crate::ledger::velocity::{Counted, Counters, Moved};

/// A velocity limit that does not let a leg pass.
pub struct Exceeded {
    pub account: AccountCode,
    pub limit: Arc<str>,
}

/// A leg that a request asks for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub account: &'a Account,
    pub side: Side,
    pub amount: Amount,
    /// Before this the leg is only scheduled, which is not counted.
    pub counts_from: Option<DateTime<Utc>>,
}

impl Book {
    /// Whether accounts that come into the book may have been counted on.
    pub fn had_velocity_limits(&self) -> bool {
        self.rules.had_velocity_limits()
    }

    pub fn has_velocity_limits(&self) -> bool {
        self.rules.has_velocity_limits()
    }

    /// What limits count of a transaction's legs, one after the other.
    ///
    /// # Errors
    /// The first leg, and of its limits the first that was set, that does not pass.
    pub fn count<'a>(
        &self,
        legs: impl Iterator<Item = (&'a Account, Side, Amount)>,
        at: DateTime<Utc>,
    ) -> Result<Vec<Usage>, Exceeded> {
        let mut usage = Vec::new();
        if !self.has_velocity_limits() {
            return Ok(usage);
        }
        // Of accounts that have been counted on within this transaction.
        let mut counted: Vec<(AccountId, Counters)> = Vec::new();
        for (index, (account, side, amount)) in legs.enumerate() {
            for (limit, position) in self.rules.velocity_limits(&account.code) {
                if !limit.covers(&account.code, &account.asset) || !limit.counts(side, account.normal) {
                    continue;
                }
                let known = counted.iter().position(|(id, _)| *id == account.id).unwrap_or_else(|| {
                    counted.push((account.id, self.counters(&account.code).cloned().unwrap_or_default()));
                    counted.len() - 1
                });
                let counters = &mut counted[known].1;
                let count = counters
                    .count(limit, position, amount, at)
                    .ok_or_else(|| Exceeded { account: account.code.clone(), limit: Arc::clone(&limit.name) })?;
                counters.set(count);
                usage.push(Usage { leg: index as u16, counted: count });
            }
        }
        Ok(usage)
    }

    /// The earliest time, not before `at`, at which all limits let all legs of a
    /// request pass if nothing else moves; `None` for never.
    pub fn passes_at(&self, asked: &[Asked<'_>], at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut passes_at = at;
        loop {
            let counted = |leg: &Asked<'_>| leg.counts_from.is_none_or(|from| from <= passes_at);
            let next = self.pass_together(asked.iter().filter(|leg| counted(leg)), passes_at)?;
            // What is scheduled now will count if its time has come by then. More legs
            // pass no earlier, so this ends at the earliest time for all that count at it.
            let joins = |leg: &Asked<'_>| leg.counts_from.is_some_and(|from| from > passes_at && from <= next);
            if !asked.iter().any(joins) {
                return Some(next);
            }
            passes_at = next;
        }
    }

    /// The latest of the times at which each limit lets pass what the legs move on each
    /// account. Each of them stays passed: what is counted only leaves the windows.
    fn pass_together<'a>(&self, legs: impl Iterator<Item = &'a Asked<'a>>, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut moved: BTreeMap<(AccountId, bool), (&Account, Side, Moved)> = BTreeMap::new();
        for leg in legs {
            let key = (leg.account.id, leg.side == Side::Debit);
            let (_, _, sum) = moved.entry(key).or_insert((leg.account, leg.side, Moved::NOTHING));
            *sum = sum.and(leg.amount);
        }
        let nothing = Counters::default();
        let mut latest = at;
        for (account, side, sum) in moved.into_values() {
            let counters = self.counters(&account.code).unwrap_or(&nothing);
            for (limit, position) in self.rules.velocity_limits(&account.code) {
                if limit.covers(&account.code, &account.asset) && limit.counts(side, account.normal) {
                    latest = latest.max(counters.passes_at(limit, position, sum, at)?);
                }
            }
        }
        Some(latest)
    }

    /// What has been counted on an account; `None` is nothing.
    pub fn counters(&self, code: &AccountCode) -> Option<&Counters> {
        let slot = *self.slots.get(code)?;
        self.accounts[slot as usize].as_ref()?.counters.as_deref()
    }

    /// Takes in what the projection or the log has counted on an account that is in
    /// the book. For loading only: it cannot be rolled back.
    pub fn load_counted(&mut self, code: &AccountCode, counted: Counted) {
        if let Ok((_, slot)) = self.slot(code) {
            slot.counters.get_or_insert_default().set(counted);
        }
    }

    pub(super) fn set_counted(&mut self, code: &AccountCode, counted: Counted) -> Result<(), String> {
        let rules = &self.rules;
        let in_force = |position: Position| rules.velocity_limits(code).any(|(_, known)| known == position);
        let index = *self.slots.get(code).ok_or("a leg has no account")?;
        let slot = self.accounts[index as usize].as_mut().ok_or("a leg has no account")?;
        let before = slot.counters.clone();
        let counters = slot.counters.get_or_insert_default();
        counters.keep(in_force);
        counters.set(counted);
        self.undo.push_back(Undo::Counters(Box::new((index, before))));
        Ok(())
    }
}
