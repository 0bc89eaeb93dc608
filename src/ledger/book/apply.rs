//! What events do to a book. Everything that an event states is computed again, and
//! one that states something else is refused, and leaves the book as it was.

use uuid::Uuid;

use super::{AttributesBefore, Book, Contradiction, Slot, Undo};
use crate::ledger::account::{Account, Attributes, Balance};
use crate::ledger::amount::Amount;
use crate::ledger::event::{AccountChanged, Change, Event, Fact, Position};
use crate::ledger::known::{Hold, HoldState, Known, State};
use crate::ledger::name::AccountCode;
use crate::ledger::transaction::{
    Authorisation, HoldRef, Kind, Leg, LegRequest, Origin, Release, ReleaseReason, Side, Transaction, Usage,
};

impl Book {
    /// Makes an event so. Recomputes what the event says came out, and refuses
    /// an event that says otherwise, leaving the book as it was.
    ///
    /// What it is about must be in the book: the accounts of its legs, the hold of a
    /// capture, the transaction of a reversal. Rules and closed periods never
    /// contradict, since loading may come by them twice.
    pub fn apply(&mut self, event: &Event) -> Result<(), Contradiction> {
        let mark = self.mark();
        self.make(event).map_err(|detail| {
            self.roll_back(mark);
            Contradiction { position: event.position, detail }
        })
    }

    fn make(&mut self, event: &Event) -> Result<(), String> {
        match &event.fact {
            Fact::TransactionPosted(transaction) => {
                match transaction.more.as_ref().and_then(|more| more.origin.as_ref()) {
                    None => {
                        let is_plain = matches!(transaction.kind, Kind::Payment | Kind::Transaction);
                        check(is_plain, "it does not say where it comes from")?;
                        self.count_usage(transaction, event)?;
                        self.post(&transaction.legs, event.position)
                    }
                    Some(origin) => self.post_from(origin, transaction, event),
                }
            }
            Fact::TransactionRejected(rejected) => match rejected.scheduled {
                None => Ok(()),
                Some(position) => {
                    let id = id_of(event)?;
                    self.scheduled(id, position)?;
                    self.change(id, event)
                }
            },
            Fact::BatchRejected { .. } => Ok(()),
            Fact::TransactionAuthorised(authorisation) => self.authorise(authorisation, event),
            Fact::HoldReleased(release) => self.release(release, event),
            Fact::TransactionScheduled(scheduled) => {
                let request = &scheduled.request;
                let is_ahead = request.effective_at == Some(event.effective_at);
                check(is_ahead && event.effective_at > event.recorded_at, "it is scheduled for another time")?;
                check(request.legs.len() == scheduled.account_ids.len(), "an account has no leg, or a leg no account")?;
                for (leg, id) in request.legs.iter().zip(&scheduled.account_ids) {
                    check(self.found(&leg.account)?.id == *id, "an account has another number")?;
                }
                self.begin(event)
            }
            Fact::ScheduleCancelled(cancelled) => {
                let id = id_of(event)?;
                check(cancelled.transaction == id, "it is about another transaction than it says")?;
                let request = &self.scheduled(id, cancelled.position)?.request;
                let is_first = request.legs.first().is_some_and(|leg| leg.account == cancelled.account);
                check(is_first, "its account is not the first one of the transaction")?;
                check(self.found(&cancelled.account)?.id == cancelled.account_id, "an account has another number")?;
                self.change(id, event)
            }
            Fact::AccountOpened { code, asset, normal, limits, metadata } => {
                if self.contains(code) {
                    return Err(format!("account {code} exists"));
                }
                let slot = self.insert(Account {
                    id: event.position,
                    code: code.clone(),
                    asset: asset.clone(),
                    normal: *normal,
                    attributes: Attributes { limits: *limits, metadata: metadata.clone(), ..Attributes::default() },
                    changed: event.position,
                    opened_at: event.recorded_at,
                    balance: Balance { position: event.position, ..Balance::default() },
                });
                self.undo.push_back(Undo::AccountOpened { slot });
                Ok(())
            }
            Fact::AccountChanged(changed) => self.change_account(changed, event.position),
            Fact::AssetDefined { code, scale } => match self.asset_scale(code) {
                None => {
                    self.assets.insert(code.clone(), *scale);
                    self.undo.push_back(Undo::AssetDefined(code.clone()));
                    Ok(())
                }
                // Loaded from the table that the event's own append has written.
                Some(known) if known == *scale => Ok(()),
                Some(known) => Err(format!("asset {code} has scale {known}")),
            },
            Fact::RuleSet(rule) => {
                let key = rule.key();
                if self.rules.get(&key).is_some_and(|(_, position)| *position >= event.position) {
                    return Ok(());
                }
                let before = self.rules.put(&key, Some((rule.clone(), event.position)));
                self.undo.push_back(Undo::Rule(Box::new((key, before))));
                Ok(())
            }
            Fact::RuleRemoved(key) => {
                let is_earlier = self.rules.get(key).is_some_and(|(_, position)| *position < event.position);
                if is_earlier && let Some(before) = self.rules.put(key, None) {
                    self.undo.push_back(Undo::Rule(Box::new((key.clone(), Some(before)))));
                }
                Ok(())
            }
            Fact::PeriodClosed { before } => {
                let earlier = self.closed_before;
                // `None` is before all times.
                if earlier < Some(*before) {
                    self.closed_before = Some(*before);
                    self.undo.push_back(Undo::PeriodClosed(earlier));
                }
                Ok(())
            }
        }
    }

    /// Legs that are posted, and nothing else.
    fn post(&mut self, legs: &[Leg], position: Position) -> Result<(), String> {
        legs.iter()
            .try_for_each(|leg| self.apply_leg(leg, |balance| balance.with_posted(leg.side, leg.amount, position)))
    }

    fn post_from(&mut self, origin: &Origin, transaction: &Transaction, event: &Event) -> Result<(), String> {
        match origin {
            Origin::Capture { hold, remaining, captured } => {
                check(transaction.kind == Kind::Capture, "a capture is of another kind")?;
                let known = self.open_hold(hold)?;
                let (asked, reserved, earlier) = (known.legs.clone(), known.remaining, known.captured);
                let amount = transaction.legs.first().map_or(Amount::ZERO, |leg| leg.amount);
                check(amount.is_positive() && amount <= reserved, "it captures more than is reserved, or nothing")?;
                check(earlier.checked_add(amount) == Some(*captured), "the hold has captured another amount")?;
                let left = reserved.checked_sub(amount);
                check(left == Some(*remaining) || remaining.is_zero(), "another amount of the hold remains")?;
                let released = reserved.checked_sub(*remaining).unwrap_or(reserved);
                check(
                    are(&transaction.legs, asked.iter().map(|leg| (leg, leg.side, amount))),
                    "its legs are not the hold's",
                )?;
                for leg in &transaction.legs {
                    self.apply_leg(leg, |balance| {
                        let posted = balance.with_posted(leg.side, amount, event.position)?;
                        posted.with_released(leg.side, released, event.position)
                    })?;
                }
                self.change(hold.id, event)
            }
            Origin::Reversal { transaction: id, remaining, .. } => {
                check(transaction.kind == Kind::Reversal, "a reversal is of another kind")?;
                let State::Posted(posted) = &self.transaction(*id)?.state else {
                    return Err(format!("transaction {id} has not been posted"));
                };
                let is_left = |(left, before): (&Amount, &Amount)| *left >= Amount::ZERO && left <= before;
                let are_left = remaining.iter().zip(&posted.remaining).all(is_left);
                check(are_left && remaining.len() == posted.remaining.len(), "it leaves what has not been there")?;
                let taken = posted.taken(remaining);
                let legs = taken.iter().map(|leg| (leg, leg.side, leg.amount));
                check(are(&transaction.legs, legs), "its legs are not what it takes of the transaction")?;
                self.post(&transaction.legs, event.position)?;
                self.change(*id, event)
            }
            Origin::Schedule { position } => {
                let id = id_of(event)?;
                let request = &self.scheduled(id, *position)?.request;
                check(request.effective_at == Some(event.effective_at), "it was scheduled for another time")?;
                check(request.kind == transaction.kind, "it was scheduled as another kind")?;
                let legs = request.legs.iter().map(|leg| (leg, leg.side, leg.amount));
                check(are(&transaction.legs, legs), "its legs are not those that were scheduled")?;
                self.count_usage(transaction, event)?;
                self.post(&transaction.legs, event.position)?;
                self.change(id, event)
            }
        }
    }

    /// What velocity limits count of a transaction that they do not exempt.
    fn count_usage(&mut self, transaction: &Transaction, event: &Event) -> Result<(), String> {
        let stated = transaction.more.as_ref().map_or(&[] as &[Usage], |more| &more.usage);
        if stated.is_empty() && !self.has_velocity_limits() {
            return Ok(());
        }
        let mut legs = Vec::with_capacity(transaction.legs.len());
        for leg in &transaction.legs {
            legs.push((self.found(&leg.account)?, leg.side, leg.amount));
        }
        let counted = self.count(legs.into_iter(), event.recorded_at);
        check(counted.is_ok_and(|counted| counted == stated), "velocity limits would not have counted what it states")?;
        for usage in stated {
            let leg = transaction.legs.get(usize::from(usage.leg)).ok_or("it counts a leg that it has not")?;
            self.set_counted(&leg.account, usage.counted)?;
        }
        Ok(())
    }

    fn authorise(&mut self, authorisation: &Authorisation, event: &Event) -> Result<(), String> {
        let Authorisation { transaction, expires_at } = authorisation;
        let is_payment = match transaction.legs.as_slice() {
            [from, to] => {
                let sides = from.side == Side::Debit && to.side == Side::Credit;
                sides && from.account != to.account && from.amount == to.amount && from.amount.is_positive()
            }
            _ => false,
        };
        check(is_payment && transaction.kind == Kind::Payment, "a hold is no payment")?;
        check(expires_at.is_none_or(|time| time > event.recorded_at), "a hold has expired before it was made")?;
        self.count_usage(transaction, event)?;
        for leg in &transaction.legs {
            self.apply_leg(leg, |balance| balance.with_pending(leg.side, leg.amount, event.position))?;
        }
        self.begin(event)
    }

    fn release(&mut self, release: &Release, event: &Event) -> Result<(), String> {
        check(event.transaction_id == Some(release.hold.id), "it is about another transaction than it says")?;
        let hold = self.open_hold(&release.hold)?;
        check(hold.captured == release.captured, "the hold has captured another amount")?;
        let is_due = hold.expires_at.is_some_and(|time| time == event.effective_at && time <= event.recorded_at);
        check(is_due || release.reason != ReleaseReason::Expired, "the hold expires at another time")?;
        let legs = hold.legs.iter().map(|leg| (leg, leg.side, hold.remaining));
        check(are(&release.legs, legs), "its legs are not what is reserved")?;
        for leg in &release.legs {
            self.apply_leg(leg, |balance| balance.with_released(leg.side, leg.amount, event.position))?;
        }
        self.change(release.hold.id, event)
    }

    fn change_account(&mut self, changed: &AccountChanged, position: Position) -> Result<(), String> {
        let (index, slot) = self.slot(&changed.account)?;
        let account = &mut slot.account;
        check(account.id == changed.account_id, "an account has another number")?;
        let (before, after) = (&account.attributes, &changed.after);
        let closed = matches!(changed.change, Change::Reopened);
        check(before.closed == closed, "the account is closed, or is not")?;
        let follows = match changed.change {
            Change::Updated => Attributes { limits: after.limits, metadata: after.metadata.clone(), ..before.clone() },
            Change::Frozen => {
                check(after.freeze.is_some(), "the account is not frozen")?;
                Attributes { freeze: after.freeze.clone(), ..before.clone() }
            }
            Change::Unfrozen => Attributes { freeze: None, ..before.clone() },
            Change::Closed => {
                check(account.balance.is_empty(), "the account is not empty")?;
                Attributes { closed: true, ..before.clone() }
            }
            Change::Reopened => Attributes { closed: false, ..before.clone() },
        };
        check(follows == *after, "the account would not be as it states")?;
        let attributes = std::mem::replace(&mut account.attributes, follows);
        let changed = std::mem::replace(&mut account.changed, position);
        slot.recently_used = true;
        self.undo.push_back(Undo::Attributes(Box::new(AttributesBefore { slot: index, attributes, changed })));
        Ok(())
    }

    /// One leg, where `with` says what it does to its account's balance.
    fn apply_leg(&mut self, leg: &Leg, with: impl FnOnce(&Balance) -> Option<Balance>) -> Result<(), String> {
        let (index, slot) = self.slot(&leg.account)?;
        let account = &mut slot.account;
        if account.id != leg.account_id || account.normal != leg.normal || account.asset != leg.asset {
            return Err(format!("account {} is another one", leg.account));
        }
        let before = account.balance;
        if with(&before) != Some(leg.after) {
            return Err(format!("account {} would not have the balance after that it states", leg.account));
        }
        account.balance = leg.after;
        slot.recently_used = true;
        self.undo.push_back(Undo::Balance { slot: index, before });
        Ok(())
    }

    /// Takes in a transaction with its first event.
    fn begin(&mut self, event: &Event) -> Result<(), String> {
        let id = id_of(event)?;
        let known = Known::begun_by(event).ok_or("it begins no transaction")?;
        if self.known(&id).is_some() {
            return Err(format!("transaction {id} exists"));
        }
        self.put(id, known);
        Ok(())
    }

    /// Changes a transaction as an event says that was found to follow.
    fn change(&mut self, id: Uuid, event: &Event) -> Result<(), String> {
        let known = self.transaction(id)?.changed_by(event);
        let known = known.ok_or_else(|| format!("this cannot happen to transaction {id}"))?;
        self.put(id, known);
        Ok(())
    }

    fn put(&mut self, id: Uuid, known: Known) {
        let before = self.transactions.put(id, Some(known));
        self.undo.push_back(Undo::Transaction(Box::new((id, before))));
    }

    fn transaction(&self, id: Uuid) -> Result<&Known, String> {
        self.known(&id).ok_or_else(|| format!("transaction {id} is unknown"))
    }

    fn open_hold(&self, hold: &HoldRef) -> Result<&Hold, String> {
        let known = self.transaction(hold.id)?;
        check(known.position == hold.position, "the hold was authorised at another position")?;
        match &known.state {
            State::Hold(hold) if hold.state == HoldState::Authorised => Ok(hold),
            _ => Err(format!("transaction {} reserves nothing", hold.id)),
        }
    }

    fn scheduled(&self, id: Uuid, position: Position) -> Result<&crate::ledger::Scheduled, String> {
        let known = self.transaction(id)?;
        check(known.position == position, "it was scheduled at another position")?;
        match &known.state {
            State::Scheduled(scheduled) => Ok(scheduled),
            _ => Err(format!("transaction {id} is not scheduled")),
        }
    }

    fn found(&self, code: &AccountCode) -> Result<&Account, String> {
        self.account(code).ok_or_else(|| unknown(code))
    }

    pub(super) fn slot(&mut self, code: &AccountCode) -> Result<(u32, &mut Slot), String> {
        let index = *self.slots.get(code).ok_or_else(|| unknown(code))?;
        let slot = self.accounts[index as usize].as_mut().ok_or_else(|| unknown(code))?;
        Ok((index, slot))
    }
}

/// Whether these are the legs that were to be, each with a side and an amount.
fn are<'a>(legs: &[Leg], mut expected: impl ExactSizeIterator<Item = (&'a LegRequest, Side, Amount)>) -> bool {
    legs.len() == expected.len()
        && legs.iter().all(|leg| {
            expected.next().is_some_and(|(request, side, amount)| {
                leg.account == request.account && leg.side == side && leg.amount == amount && leg.asset == request.asset
            })
        })
}

fn id_of(event: &Event) -> Result<Uuid, String> {
    event.transaction_id.ok_or_else(|| "a transaction has no id".to_owned())
}

fn unknown(code: &AccountCode) -> String {
    format!("account {code} is unknown")
}

fn check(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fixture::{
        self, Ledger, amount, capture, code, freeze, hold, id, moment, pay, pay_at, reverse, void,
    };
    use crate::ledger::{Cancel, Command, Expiry, FreezeScope, Part, Verdict, decide};

    /// The event that `command` would be, changed by `tamper`, contradicts the book,
    /// and leaves it as it was; unchanged, it does not.
    fn refused(ledger: &mut Ledger, command: &Command, tamper: impl Fn(&mut Event)) {
        let at = ledger.next();
        let Verdict::Record(fact) = decide(&ledger.book, command, &at) else { panic!("{command:?} is declined") };
        let event = crate::ledger::decide::event(&ledger.book, command, fact, None, &at);
        let mut other = event.clone();
        tamper(&mut other);
        assert_ne!(other, event, "something is tampered with");
        let (before, mark) = (ledger.state(), ledger.book.mark());
        ledger.book.apply(&other).expect_err("it does not follow");
        assert_eq!((ledger.state(), ledger.book.mark()), (before, mark));
        ledger.book.apply(&event).unwrap();
        ledger.book.roll_back(mark);
    }

    fn legs(event: &mut Event) -> &mut [Leg] {
        match &mut event.fact {
            Fact::TransactionPosted(transaction) => &mut transaction.legs,
            Fact::TransactionAuthorised(authorisation) => &mut authorisation.transaction.legs,
            Fact::HoldReleased(release) => &mut release.legs,
            other => panic!("{other:?} has no legs"),
        }
    }

    fn origin(event: &mut Event) -> &mut Origin {
        let Fact::TransactionPosted(transaction) = &mut event.fact else { panic!("it is not posted") };
        transaction.more.as_mut().unwrap().origin.as_mut().unwrap()
    }

    #[test]
    fn legs_state_the_account_and_what_they_leave_behind() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::In(60)));
        let paid = ledger.begin(&pay("alice", "bob", 50));
        let scheduled = ledger.begin(&pay_at("alice", "bob", 5, moment(60)));
        ledger.at(60);
        for command in [
            pay("alice", "bob", 10),
            hold("alice", "bob", 10, Expiry::Never),
            capture(held, Some(10), false),
            capture(held, Some(10), true),
            void(held),
            Command::Settle(held),
            Command::Settle(scheduled),
            reverse(paid, Part::Rest, false),
        ] {
            refused(&mut ledger, &command, |event| legs(event)[0].after.version += 1);
            refused(&mut ledger, &command, |event| legs(event)[1].after.debits_pending = amount(1));
            refused(&mut ledger, &command, |event| legs(event)[1].after.position -= 1);
            refused(&mut ledger, &command, |event| legs(event)[1].account_id += 1);
            refused(&mut ledger, &command, |event| legs(event)[1].account = code("nobody"));
            refused(&mut ledger, &command, |event| legs(event)[1].normal = Side::Debit);
            refused(&mut ledger, &command, |event| legs(event)[1].amount = amount(11));
            refused(&mut ledger, &command, |event| legs(event)[0].side = legs(event)[0].side.other());
        }
    }

    #[test]
    fn what_is_about_a_hold_follows_from_the_hold() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::In(60)));
        ledger.record(&capture(held, Some(30), false));
        type Field = fn(&mut HoldRef, &mut Amount, &mut Amount);
        let wrong: [Field; 5] = [
            |hold, _, _| hold.id = id(1),
            |hold, _, _| hold.position += 1,
            |_, remaining, _| *remaining = amount(59),
            |_, remaining, _| *remaining = amount(61),
            |_, _, captured| *captured = amount(39),
        ];
        for tamper in wrong {
            refused(&mut ledger, &capture(held, Some(10), false), |event| {
                let Origin::Capture { hold, remaining, captured } = origin(event) else { return };
                tamper(hold, remaining, captured);
            });
        }
        for command in [void(held), Command::Settle(held)] {
            ledger.at(60);
            let release = |event: &mut Event, tamper: fn(&mut Release)| {
                if let Fact::HoldReleased(release) = &mut event.fact {
                    tamper(release);
                }
            };
            refused(&mut ledger, &command, |event| release(event, |release| release.hold.position += 1));
            refused(&mut ledger, &command, |event| release(event, |release| release.captured = amount(31)));
            refused(&mut ledger, &command, |event| event.transaction_id = Some(id(1)));
        }
        refused(&mut ledger, &Command::Settle(held), |event| event.effective_at = moment(61));
        refused(&mut ledger, &Command::Settle(held), |event| event.recorded_at = moment(59));
        let voided = ledger.record(&void(held));
        let again = Event { position: voided.position + 1, ..voided };
        ledger.book.apply(&again).expect_err("a hold ends once");
        refused(&mut ledger, &hold("alice", "bob", 10, Expiry::Never), |event| event.transaction_id = Some(held));
        refused(&mut ledger, &hold("alice", "bob", 10, Expiry::Never), |event| event.transaction_id = None);
    }

    #[test]
    fn a_reversal_takes_only_what_is_left() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let paid = ledger.begin(&pay("alice", "bob", 100));
        ledger.record(&reverse(paid, Part::Amount(amount(30)), false));
        let part = reverse(paid, Part::Amount(amount(10)), false);
        let wrong: [fn(&mut Uuid, &mut [Amount]); 4] = [
            |id, _| *id = fixture::id(99),
            |_, remaining| remaining[0] = amount(59),
            |_, remaining| remaining[1] = amount(71),
            |_, remaining| remaining.fill(amount(-1)),
        ];
        for tamper in wrong {
            refused(&mut ledger, &part, |event| {
                let Origin::Reversal { transaction, remaining, .. } = origin(event) else { return };
                tamper(transaction, remaining);
            });
        }
        refused(&mut ledger, &part, |event| {
            let Origin::Reversal { remaining, .. } = origin(event) else { return };
            remaining.pop();
        });
        let reversal = ledger.record(&reverse(paid, Part::Rest, false));
        let again = Event { position: reversal.position + 1, ..reversal };
        ledger.book.apply(&again).expect_err("nothing is left");
    }

    #[test]
    fn what_is_about_a_schedule_follows_from_the_schedule() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        refused(&mut ledger, &pay_at("alice", "bob", 5, moment(60)), |event| event.effective_at = moment(61));
        refused(&mut ledger, &pay_at("alice", "bob", 5, moment(60)), |event| event.recorded_at = moment(60));
        let scheduled = ledger.begin(&pay_at("alice", "bob", 5, moment(60)));
        let cancel = Command::Cancel(Cancel { transaction: scheduled });
        refused(&mut ledger, &cancel, |event| {
            let Fact::ScheduleCancelled(cancelled) = &mut event.fact else { return };
            cancelled.position += 1;
        });
        refused(&mut ledger, &cancel, |event| {
            let Fact::ScheduleCancelled(cancelled) = &mut event.fact else { return };
            cancelled.account = code("bob");
        });
        ledger.at(60);
        let settle = Command::Settle(scheduled);
        refused(&mut ledger, &settle, |event| *origin(event) = Origin::Schedule { position: 1 });
        refused(&mut ledger, &settle, |event| event.transaction_id = Some(id(1)));
        refused(&mut ledger, &settle, |event| event.effective_at = moment(59));
        ledger.record(&fixture::limits("alice", Some(1000), None));
        refused(&mut ledger, &settle, |event| event.transaction_id = Some(id(1)));
        ledger.record(&settle);
        assert_eq!(ledger.state_of(scheduled), &State::Rejected);
    }

    #[test]
    fn a_change_of_an_account_changes_what_it_says_only() {
        use crate::ledger::AccountUpdate::{Close, Reopen, Unfreeze};
        let update = |change| fixture::change("alice", change);
        let because = || std::sync::Arc::from("because");
        let mut ledger = Ledger::with(&[]);
        ledger.record(&Command::OpenAccount(fixture::open("alice")));
        for command in [
            fixture::limits("alice", None, Some(9)),
            freeze("alice", FreezeScope::All),
            update(Unfreeze { reason: because() }),
            freeze("alice", FreezeScope::Debits),
            update(Close { reason: None }),
            update(Reopen { reason: None }),
        ] {
            let wrong: [fn(&mut AccountChanged); 4] = [
                |changed| changed.account_id += 1,
                |changed| changed.account = code("nobody"),
                |changed| changed.after.closed = !changed.after.closed,
                |changed| {
                    changed.change = if changed.change == Change::Closed { Change::Updated } else { Change::Closed }
                },
            ];
            for tamper in wrong {
                refused(&mut ledger, &command, |event| {
                    let Fact::AccountChanged(changed) = &mut event.fact else { return };
                    tamper(changed);
                });
            }
            ledger.record(&command);
        }
    }

    /// Loading reads all rules, and those of the last events once more.
    #[test]
    fn rules_and_periods_may_be_applied_twice() {
        use crate::ledger::{AccountType, Limits, Rule};
        let mut ledger = Ledger::with(&[]);
        let set = |prefix: &str, normal| {
            let prefix = std::sync::Arc::from(prefix);
            Command::SetRule(Rule::AccountType(AccountType { prefix, normal, limits: Limits::default() }))
        };
        let remove = crate::ledger::RuleKey::AccountType(std::sync::Arc::from("b"));
        let events = [
            set("a", Side::Debit),
            set("a", Side::Credit),
            set("b", Side::Debit),
            Command::RemoveRule(remove),
            Command::ClosePeriod { before: moment(-9) },
            Command::ClosePeriod { before: moment(-5) },
        ]
        .map(|command| ledger.record(&command));
        let once = ledger.state();
        events.iter().for_each(|event| ledger.book.apply(event).unwrap());
        assert_eq!(ledger.state(), once);
        events.iter().rev().take(4).for_each(|event| ledger.book.apply(event).unwrap());
        assert_eq!(ledger.book.closed_before(), Some(moment(-5)));
    }
}
