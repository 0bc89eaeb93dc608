//! The engine's part in what comes due: when it is settled, and who waits for it.

use hashbrown::HashSet;

use super::*;

impl Engine {
    /// Settles some of all that is due, the earliest first: once in each batch, so
    /// that neither requests nor what is due wait for the other for long.
    pub(super) fn settle_slice(&mut self) -> Result<(), ExitReason> {
        let room = due::SLICE.saturating_sub(self.open.settled);
        // Requests that are appended one by one go before.
        let waits = self.isolate > 0 && !self.backlog.is_empty();
        if room == 0 || waits || !self.open_has_room() {
            return Ok(());
        }
        let now = self.now();
        if !self.is_due(now) {
            // Requests may have settled the last of it: nobody waits for it any more.
            self.context.due.store(0, Ordering::Relaxed);
            self.due_moved |= !self.behind_due.is_empty();
            return Ok(());
        }
        self.due.take_in(&self.book, now, usize::MAX);
        self.context.due.store(self.book.due(None, now).take(due::COUNT_MAX).count(), Ordering::Relaxed);
        let before = self.open.settled;
        let mut missing = Vec::new();
        // The accounts of scheduled transactions that have to wait.
        let mut kept: HashSet<AccountHash> = HashSet::new();
        for item in self.due.earliest(&self.book, now, room) {
            let Some(known) = self.book.known(&item.id) else { continue };
            let had_missing = !missing.is_empty();
            let found = missing.len();
            missing.extend(known.accounts().filter(|code| !self.book.contains(code)).cloned());
            // A scheduled transaction must not go before what is due on its accounts,
            // nor a release before a scheduled transaction; before a release it may.
            let must_wait = if matches!(known.state, State::Scheduled(_)) {
                if !missing.is_empty() {
                    kept.extend(known.accounts().map(due::hash));
                }
                had_missing
            } else {
                !kept.is_empty() && known.accounts().any(|code| kept.contains(&due::hash(code)))
            };
            if missing.len() == found && !must_wait {
                self.settle(item.id, now)?;
            }
        }
        if !missing.is_empty() && !self.due.has_to_fetch() {
            self.due.fetch_first(missing);
        }
        self.due_moved |= self.open.settled > before;
        self.due.refresh(&self.book);
        if !self.due.is_due(now) {
            self.context.due.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether something is due. One comparison when nothing is.
    fn is_due(&mut self, now: DateTime<Utc>) -> bool {
        if self.due.is_due(now) {
            self.due.refresh(&self.book);
        }
        self.due.is_due(now)
    }

    /// Settles what is due on the accounts of a request, before it is decided.
    pub(super) fn settle_before(&mut self, work: &Work, now: DateTime<Utc>) -> Result<Ready, ExitReason> {
        if !self.is_due(now) {
            return Ok(Ready::Yes);
        }
        self.due.take_in(&self.book, now, usize::MAX);
        // Of a large request the size is the bound, as it is of its own events.
        let max = due::SLICE.max(work.items());
        let needed = if commands(work).any(Command::concerns_all) {
            let items = self.due.earliest(&self.book, now, max + 1);
            if items.len() > max { Needed::TooMany } else { Needed::Items(items) }
        } else {
            self.due.needed(&self.book, &self.concerned(work), now, max)
        };
        let Needed::Items(items) = needed else { return Ok(Ready::Crowded) };
        let accounts = items.iter().filter_map(|item| self.book.known(&item.id)).flat_map(Known::accounts);
        let missing: Vec<AccountCode> = accounts.filter(|code| !self.book.contains(code)).cloned().collect();
        if !missing.is_empty() {
            self.due.fetch_first(missing);
            return Ok(Ready::Missing);
        }
        for item in &items {
            self.settle(item.id, now)?;
        }
        Ok(Ready::Yes)
    }

    /// The accounts whose state a request sees or changes.
    fn concerned(&self, work: &Work) -> SmallVec<[AccountHash; 4]> {
        let known = commands(work).filter_map(Command::transaction).filter_map(|id| self.book.known(&id));
        due::hashes(accounts(work).chain(known.flat_map(Known::accounts)))
    }

    /// Settles one transaction. A panic is a defect that would come again with the
    /// same one: it is left alone from then on.
    fn settle(&mut self, id: Uuid, now: DateTime<Utc>) -> Result<(), ExitReason> {
        let (index, head) = (self.open.events.len(), self.head);
        match catch_unwind(AssertUnwindSafe(|| self.decide_settle(id, now))) {
            Ok(true) => self.open.settled += 1,
            Ok(false) => self.set_aside(id, "it is due, and cannot be decided"),
            Err(_) => {
                // The panic has been logged where it happened. The book may be
                // half-changed: nothing that was decided on it is kept.
                self.open.events.truncate(index);
                self.head = head;
                self.set_aside(id, "its decision panicked");
                return Err(ExitReason::Panicked);
            }
        }
        Ok(())
    }

    fn decide_settle(&mut self, id: Uuid, now: DateTime<Utc>) -> bool {
        failpoint("settle");
        let (command, at) = (Command::Settle(id), self.moment(now));
        let Verdict::Record(fact) = decide(&self.book, &command, &at) else { return false };
        self.record(event(&self.book, &command, fact, None, &at));
        true
    }

    pub(super) fn set_aside(&mut self, id: Uuid, why: &str) {
        tracing::error!(ledger = %self.context.ledger, transaction = %id, why, "a transaction that is due is set aside");
        self.due.set_aside(id, &self.context.set_aside);
    }

    /// Lets requests try again that have waited for slices, and answers those that
    /// have waited too long.
    pub(super) fn recheck_behind_due(&mut self) {
        if !std::mem::take(&mut self.due_moved) {
            return;
        }
        self.due.forget_crowded();
        expire(&mut self.behind_due);
        let has_ordered = self.behind_due.iter().any(|submission| submission.ordered.is_some());
        while let Some(submission) = self.behind_due.pop_back() {
            self.backlog.push_front(submission);
        }
        // What was taken back meanwhile may have to go before them.
        if has_ordered {
            self.backlog = in_order(std::mem::take(&mut self.backlog));
        }
    }

    /// Settles the next group of what was part of a refused batch, alone, to find
    /// the one at fault. They are in the order in which they were settled before.
    pub(super) fn try_suspects(&mut self) -> Result<(), ExitReason> {
        if !self.open.is_empty() || self.appends.first().is_some() {
            return Ok(());
        }
        let now = self.now();
        self.due.take_in(&self.book, now, usize::MAX);
        while self.open.is_empty()
            && let Some(group) = self.suspects.last().cloned()
        {
            for id in group {
                let can_go = |known: &Known| {
                    let is_due = known.due_at().is_some_and(|due_at| due_at <= now);
                    is_due && known.accounts().all(|code| self.book.contains(code))
                };
                if self.book.known(&id).is_some_and(can_go) {
                    self.settle(id, now)?;
                }
            }
            if self.open.is_empty() {
                self.suspects.pop();
            }
        }
        Ok(())
    }

    /// Looks at what will be due within some seconds, so that its accounts are in
    /// memory by then and stay there.
    pub(super) fn look_ahead(&mut self) {
        // Requests that are behind what was due have deadlines, even when nothing waits any more.
        let is_idle = self.book.waiting() == 0 && self.behind_due.is_empty();
        if is_idle || self.look_ahead_at > Instant::now() {
            return;
        }
        let until = self.now() + due::LOOK_AHEAD;
        self.due.take_in(&self.book, until, due::LOOK_ITEMS_MAX);
        let pause = if self.due.has_taken_in(until) { due::TICK } else { due::LOOK_PAUSE };
        self.look_ahead_at = Instant::now() + pause;
        // Deadlines pass too.
        self.due_moved = true;
    }

    /// Accounts that are needed for what is due have been fetched. One that is not
    /// there cannot be: nobody may wait for it.
    pub(super) fn on_fetched_ahead(&mut self) {
        for code in std::mem::take(&mut self.prefetching_ahead) {
            if !self.book.contains(&code) {
                for id in self.due.of_account(&self.book, &code) {
                    self.set_aside(id, "its account does not exist");
                }
            }
        }
    }

    /// When to look again at what is due, if nothing else happens: `None` when
    /// nothing waits.
    pub(super) fn next_due(&self) -> Option<tokio::time::Instant> {
        if self.book.waiting() == 0 && self.behind_due.is_empty() {
            return None;
        }
        // What is due already waits for an append or for its accounts, which say
        // when they are there.
        let ahead = (self.due.next_at() - self.now()).to_std().ok().filter(|ahead| !ahead.is_zero());
        let due_at = Instant::now() + ahead.map_or(due::TICK, |ahead| ahead.min(due::TICK));
        Some(due_at.min(self.look_ahead_at).into())
    }
}
