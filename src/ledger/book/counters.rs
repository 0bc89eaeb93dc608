//! What velocity limits have counted on the accounts that memory holds.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{Book, Undo};
use crate::ledger::account::{Account, AccountId};
use crate::ledger::amount::Amount;
use crate::ledger::event::Position;
use crate::ledger::name::AccountCode;
use crate::ledger::transaction::{Side, Usage};
use crate::ledger::velocity::{Counted, Counters};

/// A velocity limit that does not let a leg pass.
pub struct Exceeded {
    pub account: AccountCode,
    pub limit: Arc<str>,
    /// When it would, if nothing else moved; `None` is never.
    pub passes_at: Option<DateTime<Utc>>,
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
                let count = counters.count(limit, position, amount, at).map_err(|passes_at| Exceeded {
                    account: account.code.clone(),
                    limit: Arc::clone(&limit.name),
                    passes_at,
                })?;
                counters.set(count);
                usage.push(Usage { leg: index as u16, counted: count });
            }
        }
        Ok(usage)
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
