//! The back-dated legs of accounts, followed along the log.
//!
//! Belongs to [`super::replay`] and, like it, shares nothing with the
//! projectors' way to the same rows.

use hashbrown::HashMap;

use crate::ledger::{AccountId, Amount};
use crate::store::LedgerId;
use crate::store::backdating::FIRST_ENTRIES;
use crate::store::rows::{BackdatedRow, EntryRow};

/// What the back-dated legs of each account after its first entries amount to so far: debits and credits.
#[derive(Debug, Default)]
pub struct Backdating(HashMap<(LedgerId, AccountId), [Amount; 2]>);

impl Backdating {
    /// Follows an account's next entry. Answers its row in `backdated`, if it is none of the
    /// first and effective at another time than it was recorded at.
    pub fn follow<'a>(&mut self, entry: &EntryRow<'a>) -> Option<BackdatedRow<'a>> {
        let EntryRow { owner, version, side, amount, effective_at, recorded_at, .. } = *entry;
        if version <= FIRST_ENTRIES || effective_at == recorded_at {
            return None;
        }
        let sums = self.0.entry((owner.ledger_id, owner.account_id)).or_default();
        let sum = &mut sums[usize::from(side == "credit")];
        // No more than the account's own total, which has been checked.
        *sum = sum.checked_add(amount).unwrap_or(Amount::MAX);
        let [debits_after, credits_after] = *sums;
        Some(BackdatedRow { owner, version, side, amount, effective_at, recorded_at, debits_after, credits_after })
    }
}
