//! What events do to a book. Everything that an event states is computed again, and
//! one that states something else is refused, and leaves the book as it was.

use uuid::Uuid;

use super::super::account::{Account, Attributes, Balance};
use super::super::amount::Amount;
use super::super::event::{AccountChanged, Change, Event, Fact, Position};
use super::super::known::{Hold, HoldState, Known, State};
use super::super::name::AccountCode;
use super::super::transaction::{
    Authorisation, HoldRef, Kind, Leg, LegRequest, Origin, Release, ReleaseReason, Side, Transaction, Usage,
};
use super::{AttributesBefore, Book, Contradiction, Slot, Undo};

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

    fn scheduled(&self, id: Uuid, position: Position) -> Result<&super::super::Scheduled, String> {
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
