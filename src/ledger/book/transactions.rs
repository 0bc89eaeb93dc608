//! The transactions that memory knows: by their ids, and those that wait by the time
//! that they wait for.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use uuid::Uuid;

use crate::ledger::event::Position;
use crate::ledger::known::Known;

/// A moment, the position of the transaction's first event, and its id.
type Due = (DateTime<Utc>, Position, Uuid);

/// Notes in `idle` that may be out of date before they are looked through.
const STALE_MIN: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Transactions {
    by_id: HashMap<Uuid, Known>,
    due: BTreeSet<Due>,
    /// Of all that are in `due`.
    weight: usize,
    /// Those that wait for nothing, with the event that changed them last, in the
    /// order in which they came to be so. A note whose transaction has changed since
    /// is out of date; there is a newer one then.
    idle: VecDeque<(Uuid, Position)>,
}

impl Transactions {
    pub fn get(&self, id: &Uuid) -> Option<&Known> {
        self.by_id.get(id)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn waiting(&self) -> usize {
        self.due.len()
    }

    pub fn waiting_weight(&self) -> usize {
        self.weight
    }

    pub fn next_due(&self) -> Option<Due> {
        self.due.first().copied()
    }

    pub fn due(&self, after: Option<(DateTime<Utc>, Position)>, until: DateTime<Utc>) -> impl Iterator<Item = Due> {
        let from = after.map_or(Bound::Unbounded, |(time, position)| Bound::Excluded((time, position, Uuid::max())));
        self.due.range((from, Bound::Unbounded)).copied().take_while(move |(time, ..)| *time <= until)
    }

    /// Takes in a transaction unless there is a copy.
    pub fn load(&mut self, id: Uuid, known: Known) {
        if let Entry::Vacant(vacant) = self.by_id.entry(id) {
            let (due, changed) = (waits(&known, id), known.changed);
            vacant.insert(known);
            self.note(id, due, changed);
        }
    }

    /// Sets what is known of a transaction or, with `None`, forgets it; gives back
    /// what there was.
    pub fn put(&mut self, id: Uuid, known: Option<Known>) -> Option<Known> {
        let next = known.as_ref().map(|known| (waits(known, id), known.changed));
        let before = match known {
            Some(known) => self.by_id.insert(id, known),
            None => self.by_id.remove(&id),
        };
        if let Some((due, weight)) = before.as_ref().and_then(|before| waits(before, id)) {
            self.due.remove(&due);
            self.weight -= weight;
        }
        if let Some((due, changed)) = next {
            self.note(id, due, changed);
        }
        before
    }

    /// Forgets those that wait for nothing, until `max` of them are left.
    pub fn evict(&mut self, max: usize, committed: Position) {
        for _ in 0..self.idle.len() {
            if self.idle_len() <= max {
                break;
            }
            let Some((id, changed)) = self.idle.pop_front() else { break };
            if !self.is_current(&id, changed) {
                continue;
            }
            if changed <= committed {
                self.by_id.remove(&id);
            } else {
                self.idle.push_back((id, changed));
            }
        }
    }

    fn idle_len(&self) -> usize {
        self.by_id.len() - self.due.len()
    }

    fn note(&mut self, id: Uuid, waits: Option<(Due, usize)>, changed: Position) {
        match waits {
            Some((due, weight)) => {
                self.due.insert(due);
                self.weight += weight;
            }
            None => {
                self.idle.push_back((id, changed));
                self.drop_stale();
            }
        }
    }

    /// Keeps `idle` within twice what it is about, at a cost that is shared by all
    /// that has been added since it was done last.
    fn drop_stale(&mut self) {
        if self.idle.len() > 2 * self.idle_len() + STALE_MIN {
            let mut idle = std::mem::take(&mut self.idle);
            // The same note may be there twice: taken back, a change leaves the
            // earlier state behind once more.
            let mut seen = hashbrown::HashSet::with_capacity(self.idle_len());
            idle.retain(|(id, changed)| self.is_current(id, *changed) && seen.insert(*id));
            self.idle = idle;
        }
    }

    fn is_current(&self, id: &Uuid, changed: Position) -> bool {
        self.by_id.get(id).is_some_and(|known| known.changed == changed && known.due_at().is_none())
    }
}

/// When a transaction is due, and what it weighs until then; `None` when it waits for
/// nothing.
fn waits(known: &Known, id: Uuid) -> Option<(Due, usize)> {
    Some(((known.due_at()?, known.position, id), known.weight()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::ledger::fixture::{Ledger, capture, hold, id, moment, pay, payment, reverse, transaction, void};
    use crate::ledger::{Cancel, Command, Expiry, Part, State, TransactionRequest};

    #[test]
    fn only_what_waits_for_nothing_and_is_in_the_log_is_forgotten() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let waiting = ledger.begin(&hold("alice", "bob", 1, Expiry::In(60)));
        let open = ledger.begin(&hold("alice", "bob", 1, Expiry::Never));
        let paid = ledger.begin(&pay("alice", "bob", 5));
        let committed = ledger.head;
        ledger.record(&reverse(paid, Part::Rest, false));
        ledger.book.evict_known(2, committed);
        assert_eq!(ledger.book.known_len(), 3, "two wait for nothing");
        ledger.book.evict_known(0, committed);
        assert!(ledger.book.known(&open).is_none());
        assert!(ledger.book.known(&paid).is_some(), "its reversal is not in the log yet");
        ledger.book.evict_known(0, ledger.head);
        assert!(ledger.book.known(&paid).is_none());
        ledger.book.evict_known(0, ledger.head);
        assert!(ledger.book.known(&waiting).is_some());
        assert_eq!((ledger.book.known_len(), ledger.book.waiting()), (1, 1));
        ledger.record(&capture(waiting, None, false));
        ledger.book.evict_known(0, ledger.head);
        assert_eq!((ledger.book.known_len(), ledger.book.waiting()), (0, 0));
    }

    #[test]
    fn those_longest_unchanged_go_first() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let holds: Vec<Uuid> = (0..4).map(|_| ledger.begin(&hold("alice", "bob", 9, Expiry::Never))).collect();
        ledger.record(&capture(holds[0], Some(1), false));
        ledger.book.evict_known(2, ledger.head);
        let left: Vec<bool> = holds.iter().map(|hold| ledger.book.known(hold).is_some()).collect();
        assert_eq!(left, [true, false, false, true]);
    }

    #[test]
    fn a_copy_from_the_log_never_replaces_what_memory_has() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 9, Expiry::In(60)));
        let copy = ledger.book.known(&held).unwrap().clone();
        ledger.record(&capture(held, None, false));
        ledger.book.load_known(held, copy.clone());
        let State::Hold(hold) = ledger.state_of(held) else { panic!("it is a hold") };
        assert!(hold.remaining.is_zero());
        assert_eq!((ledger.book.waiting(), ledger.book.known(&held).unwrap().position), (0, copy.position));
    }

    /// Many small captures of one hold leave a note each.
    #[test]
    fn notes_that_are_out_of_date_are_dropped() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 5_000, Expiry::Never));
        let other = ledger.begin(&hold("alice", "bob", 1, Expiry::Never));
        for _ in 0..2_000 {
            ledger.record(&capture(held, Some(1), false));
        }
        assert!(ledger.book.transactions.idle.len() <= STALE_MIN + 4);
        ledger.book.evict_known(0, ledger.head);
        assert!(ledger.book.known(&held).is_none() && ledger.book.known(&other).is_none());
        assert_eq!(ledger.book.known(&id(1)), None);
    }

    /// Whatever ends the waiting; [`Ledger`] takes each step back once and does it again.
    #[test]
    fn what_waits_no_longer_weighs_nothing() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let noted = |request: TransactionRequest, bytes: usize, seconds: i64| {
            let (metadata, effective_at) = (Some(Arc::from("x".repeat(bytes))), Some(moment(seconds)));
            Command::Transact(TransactionRequest { metadata, effective_at, ..request })
        };
        let weighs = |ledger: &Ledger, expected: usize| assert_eq!(ledger.book.waiting_weight(), expected);
        weighs(&ledger, 0);
        let part = ledger.begin(&hold("alice", "bob", 9, Expiry::In(60)));
        let voided = ledger.begin(&hold("alice", "bob", 9, Expiry::In(60)));
        ledger.begin(&hold("alice", "bob", 9, Expiry::In(60)));
        let never = ledger.begin(&hold("alice", "bob", 9, Expiry::Never));
        weighs(&ledger, 3);
        let posted = ledger.begin(&noted(payment("alice", "bob", 9), 1_600, 60));
        let rejected = ledger.begin(&noted(payment("alice", "bob", 5_000), 800, 60));
        let cancelled = ledger.begin(&noted(payment("alice", "bob", 9), 8_000, 60));
        let six_legs = transaction(&["debit alice 1 EUR, credit bob 1 EUR"; 3].join(", "));
        let of_six_legs = ledger.begin(&noted(six_legs, 1, 60));
        weighs(&ledger, 3 + 3 + 2 + 11 + 2);

        // What stays of a hold weighs what it did.
        ledger.record(&capture(part, Some(1), false));
        ledger.record(&capture(never, Some(1), false));
        weighs(&ledger, 21);
        ledger.record(&capture(part, None, false));
        weighs(&ledger, 20);
        ledger.record(&void(voided));
        weighs(&ledger, 19);
        ledger.record(&Command::Cancel(Cancel { transaction: cancelled }));
        weighs(&ledger, 8);
        ledger.book.evict_known(0, ledger.head);
        weighs(&ledger, 8);

        let start = ledger.book.mark();
        ledger.at(60);
        for (id, after) in [(posted, 5), (rejected, 3), (of_six_legs, 1)] {
            ledger.record(&Command::Settle(id));
            weighs(&ledger, after);
        }
        let (_, _, last) = ledger.book.next_due().unwrap();
        ledger.record(&Command::Settle(last));
        weighs(&ledger, 0);
        assert_eq!(ledger.book.waiting(), 0);
        ledger.book.roll_back(start);
        weighs(&ledger, 8);
    }

    #[test]
    fn a_copy_that_is_not_taken_in_adds_no_weight() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 9, Expiry::In(60)));
        let copy = ledger.book.known(&held).unwrap().clone();
        ledger.book.load_known(held, copy.clone());
        assert_eq!(ledger.book.waiting_weight(), 1);
        ledger.book.load_known(id(99), copy);
        assert_eq!(ledger.book.waiting_weight(), 2);
    }
}
