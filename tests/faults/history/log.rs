//! The log as a witness: whether it is one that a right ledger may have
//! written, and whether it has exactly what clients asked for and were told.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::book::{Account, Book, Due, Leg, Move, Reason, Side, Totals};
use super::request::{Scope, Wish};
use super::{Answer, Asked, Finding, FreezeAsked, Read, Rule, found};

/// A row of `events`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub position: i64,
    pub epoch: i64,
    pub recorded_at: DateTime<Utc>,
    pub effective_at: DateTime<Utc>,
    #[sqlx(rename = "type")]
    pub type_name: String,
    pub transaction_id: Option<String>,
    pub idempotency_key: Option<String>,
    pub payload: String,
}

impl Row {
    const fn at(&self) -> u64 {
        self.position as u64
    }

    fn id(&self) -> &str {
        self.transaction_id.as_deref().unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
struct Opened {
    account: String,
    normal: String,
    min_balance: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Changed {
    account: String,
    account_id: u64,
    min_balance: Option<String>,
    freeze: Option<Freeze>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Freeze {
    scope: Scope,
    reason: String,
}

/// An event about a transaction, of whichever type.
#[derive(Debug, Deserialize)]
struct Transaction {
    kind: Option<String>,
    #[serde(default)]
    legs: Vec<StatedLeg>,
    rejection: Option<Reason>,
    /// Of a declined attempt: what it was about.
    subject_id: Option<String>,
    /// Of an authorisation.
    expires_at: Option<DateTime<Utc>>,
    /// Of a capture, and of the end of a hold.
    hold: Option<StatedHold>,
    reversal: Option<StatedReversal>,
    /// Of what was scheduled, and of its end.
    scheduled_position: Option<u64>,
    effective_at: Option<DateTime<Utc>>,
}

/// A leg; what it leaves behind is there when it moved something.
#[derive(Debug, Deserialize)]
struct StatedLeg {
    account: String,
    account_id: u64,
    side: Side,
    amount: String,
    debits: Option<String>,
    credits: Option<String>,
    debits_pending: Option<String>,
    credits_pending: Option<String>,
    version: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct StatedHold {
    id: String,
    position: u64,
    captured: String,
    remaining: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StatedReversal {
    transaction_id: String,
    remaining: Vec<String>,
    #[serde(default)]
    forced: bool,
}

/// A log that has been followed to its end.
#[derive(Debug, Default)]
pub struct Log {
    book: Book,
    /// Where each key was recorded.
    keys: BTreeMap<String, u64>,
    /// Where each freeze was recorded, by its reason.
    freezes: Vec<(String, u64)>,
}

/// What clients asked for.
#[derive(Clone, Copy)]
pub struct Requests<'a> {
    pub asked: &'a BTreeMap<String, Asked>,
    /// By their reason, which is one for each.
    pub freezes: &'a BTreeMap<String, FreezeAsked>,
}

impl Log {
    /// Follows the log from its beginning, beside what was asked and answered.
    pub fn follow(rows: &[Row], requests: Requests<'_>) -> Result<Self, Finding> {
        let mut log = Self::default();
        let mut before: Option<&Row> = None;
        for row in rows {
            check_order(before, row)?;
            log.apply(row, requests)?;
            before = Some(row);
        }
        for (key, asked) in requests.asked {
            log.check_acknowledged(key, asked)?;
        }
        let acknowledged =
            requests.freezes.iter().filter(|(_, asked)| asked.scope.is_some() && asked.answered.is_some());
        for (reason, asked) in acknowledged {
            if !log.freezes.iter().any(|(frozen, _)| frozen == reason) {
                return Err(found(
                    Rule::ExactlyOnce,
                    format!("{reason} was answered and is not in the log: {asked:?}"),
                ));
            }
        }
        Ok(log)
    }

    /// Where a key was recorded.
    pub fn position(&self, key: &str) -> Option<u64> {
        self.keys.get(key).copied()
    }

    /// The reasons of freezes and their ends, with where they were recorded.
    pub fn freezes(&self) -> &[(String, u64)] {
        &self.freezes
    }

    /// Something that was due by a moment and still waits.
    pub fn overdue(&self, by: DateTime<Utc>) -> Option<&Due> {
        self.book.overdue(by)
    }

    /// See [`Book::check_read`].
    pub fn check_read(&self, read: &Read, clocks_apart: TimeDelta) -> Result<(), Finding> {
        self.book.check_read(read, clocks_apart)
    }

    /// What was answered is in the log, but for a cancellation that came too late,
    /// of which nothing is recorded.
    fn check_acknowledged(&self, key: &str, asked: &Asked) -> Result<(), Finding> {
        let Some(answer) = &asked.answer else { return Ok(()) };
        let refused = answer.transaction.is_none();
        if refused == self.keys.contains_key(key) {
            let what = if refused { "refused and is" } else { "answered and is not" };
            return Err(found(Rule::ExactlyOnce, format!("{key} was {what} in the log: {asked:?}")));
        }
        match &asked.wish {
            Wish::Cancel { schedule } if refused && !self.book.was_scheduled(schedule) => {
                Err(found(Rule::Rejections, format!("{schedule} waits, and could not be cancelled: {answer:?}")))
            }
            Wish::Cancel { .. } => Ok(()),
            _ if refused => Err(found(Rule::Rejections, format!("{key} was refused: {asked:?}"))),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, row: &Row, requests: Requests<'_>) -> Result<(), Finding> {
        match row.type_name.as_str() {
            "account_opened" => self.open(row),
            "account_frozen" | "account_unfrozen" => self.freeze(row, requests.freezes),
            _ => self.transact(row, requests.asked),
        }
    }

    fn open(&mut self, row: &Row) -> Result<(), Finding> {
        let Opened { account, normal, min_balance } = payload(row)?;
        if normal != "credit" {
            return Err(found(Rule::Requests, format!("{account} was opened {normal}-normal")));
        }
        let opened = Account::new(row.at(), min_balance.as_deref().map(amount));
        if self.book.open(account.clone(), opened) {
            return Ok(());
        }
        Err(found(Rule::ExactlyOnce, format!("{account} was opened twice, at {} and before", row.position)))
    }

    /// A freeze is recorded when it changes something, and as it was asked for.
    fn freeze(&mut self, row: &Row, asked: &BTreeMap<String, FreezeAsked>) -> Result<(), Finding> {
        let changed: Changed = payload(row)?;
        let (scope, reason) = match &changed.freeze {
            Some(freeze) => (Some(freeze.scope), &freeze.reason),
            None => (None, changed.reason.as_ref().unwrap_or(&changed.account)),
        };
        let wrong = |rule, what: &str| Err(found(rule, format!("{what}: {changed:?} at {}", row.position)));
        let legs = [Leg { account: changed.account.clone(), side: Side::Debit, amount: 0 }];
        self.check_moments(row, &legs, None)?;
        let wanted = asked.get(reason).is_some_and(|asked| asked.scope == scope && asked.account == changed.account);
        if !wanted || scope.is_some() != (row.type_name == "account_frozen") {
            return wrong(Rule::Requests, "nobody asked for this");
        }
        let again = scope.is_some() && self.freezes.iter().rev().any(|(frozen, _)| frozen == reason);
        let Some(account) = self.book.account(&changed.account).filter(|account| account.id == changed.account_id)
        else {
            return wrong(Rule::Balances, "there is no such account");
        };
        if account.floor != changed.min_balance.as_deref().map(amount) {
            return wrong(Rule::Floors, "the floor is another");
        }
        if account.freeze() == scope && (scope.is_none() || again) {
            return wrong(Rule::ExactlyOnce, "it was so before");
        }
        account.set_freeze(row.at(), scope);
        self.freezes.push((reason.clone(), row.at()));
        Ok(())
    }

    /// An event about a transaction: what a client wished, or what had come due.
    fn transact(&mut self, row: &Row, asked: &BTreeMap<String, Asked>) -> Result<(), Finding> {
        let stated: Transaction = payload(row)?;
        let asked = self.note_key(row, asked)?;
        let answer = asked.and_then(|asked| asked.answer.as_ref());
        let event = Event { row, stated: &stated, answer };
        let Some(asked) = asked else { return self.settle(&event) };
        let wish = &asked.wish;
        let Some(legs) = self.book.legs(wish) else {
            return Err(event.found(Rule::Requests, &format!("there is nothing there for {wish:?}")));
        };
        self.check_moments(row, &legs, None)?;
        let scheduled = match wish {
            Wish::Pay { effective_at: Some(at), .. } if row.type_name == "transaction_scheduled" => Some(*at),
            _ => None,
        };
        event.check_effective(match wish {
            Wish::Pay { effective_at: Some(at), .. } => *at,
            _ => row.recorded_at,
        })?;
        if let Some(at) = scheduled {
            return self.schedule(&event, wish, at, &legs);
        }
        if row.type_name == "transaction_rejected" {
            return self.reject(&event, wish, &legs);
        }
        self.grant(&event, wish, &legs)
    }

    /// A key acts once, and only if somebody asked. What comes due by itself has none.
    fn note_key<'a>(&mut self, row: &Row, asked: &'a BTreeMap<String, Asked>) -> Result<Option<&'a Asked>, Finding> {
        let Some(key) = &row.idempotency_key else { return Ok(None) };
        if let Some(earlier) = self.keys.insert(key.clone(), row.at()) {
            return Err(found(Rule::ExactlyOnce, format!("{key} is in the log at {earlier} and at {}", row.position)));
        }
        let asked = asked.get(key);
        asked.map(Some).ok_or_else(|| found(Rule::Requests, format!("nobody asked for {key} at {}", row.position)))
    }

    /// Nothing on the event's accounts should have been settled before it.
    fn check_moments(&self, row: &Row, legs: &[Leg], own: Option<&Due>) -> Result<(), Finding> {
        match self.book.overlooked(legs, row.recorded_at, own) {
            None => Ok(()),
            Some(due) => Err(found(Rule::Due, format!("{due:?} was due, and not settled before {row:?}"))),
        }
    }

    /// A hold expires, or a scheduled transaction is decided: once it is due, and
    /// with effect from then.
    fn settle(&mut self, event: &Event<'_>) -> Result<(), Finding> {
        let (row, id) = (event.row, event.row.id());
        let Some(due) = self.book.due(id) else {
            return Err(event.found(Rule::Requests, "nobody asked for this, and nothing waits under its id"));
        };
        if row.recorded_at < due.at {
            return Err(event.found(Rule::Due, &format!("{due:?} is not due")));
        }
        event.check_effective(due.at)?;
        let Some(schedule) = self.book.schedule(id).cloned() else { return self.expire(event, &due) };
        let Some(legs) = self.book.legs(&schedule.wish) else { return Ok(()) };
        self.check_moments(row, &legs, Some(&due))?;
        if event.stated.scheduled_position != Some(schedule.position) {
            return Err(event.found(Rule::Requests, &format!("it was scheduled at {}", schedule.position)));
        }
        self.book.end_schedule(id, row.at(), &legs);
        match row.type_name.as_str() {
            "transaction_rejected" => self.reject(event, &schedule.wish, &legs),
            _ => self.grant(event, &schedule.wish, &legs),
        }
    }

    fn expire(&mut self, event: &Event<'_>, due: &Due) -> Result<(), Finding> {
        let hold = event.row.id().to_owned();
        let Some(legs) = self.book.legs(&Wish::Void { hold: hold.clone() }) else { return Ok(()) };
        self.check_moments(event.row, &legs, Some(due))?;
        event.check_legs(None, &legs)?;
        self.change_hold(event, "hold_expired", &hold, 0, Some("expired"))?;
        self.move_all(event, &legs, |leg| Move { posted: 0, pending: -leg.amount })
    }

    fn schedule(&mut self, event: &Event<'_>, wish: &Wish, at: DateTime<Utc>, legs: &[Leg]) -> Result<(), Finding> {
        let row = event.row;
        event.check_legs(Some("payment"), legs)?;
        if at <= row.recorded_at || event.stated.effective_at != Some(at) {
            return Err(event.found(Rule::Due, &format!("it was to be effective at {at}")));
        }
        self.book.begin_schedule(row.id(), row.at(), wish.clone(), at, legs);
        event.check_answer(201, &[("/status", json!("scheduled"))])
    }

    /// A rejection has the reason that there is at its place.
    fn reject(&self, event: &Event<'_>, wish: &Wish, legs: &[Leg]) -> Result<(), Finding> {
        let kind = match wish {
            Wish::Pay { .. } | Wish::Authorise { .. } => "payment",
            Wish::Capture { .. } => "capture",
            Wish::Void { .. } => "void",
            Wish::Reverse { .. } => "reversal",
            Wish::Cancel { .. } => "cancellation",
        };
        let Some(stated) = &event.stated.rejection else {
            return Err(event.found(Rule::Rejections, "it has no reason"));
        };
        event.check_answer(422, &[])?;
        event.check_legs(Some(kind), legs)?;
        if event.stated.subject_id.as_deref() != subject(wish) {
            return Err(event.found(Rule::Requests, &format!("{wish:?} was about another")));
        }
        let reason = self.book.reason(wish, legs);
        if reason.as_ref() != Some(stated) {
            return Err(event.found(Rule::Rejections, &format!("the reason is {reason:?}, and not {stated:?}")));
        }
        event.check_answer(422, &[("/code", json!(stated.code))])
    }

    /// A wish is granted when there is no reason against it.
    fn grant(&mut self, event: &Event<'_>, wish: &Wish, legs: &[Leg]) -> Result<(), Finding> {
        let id = event.row.id();
        if let Some(reason) = self.book.reason(wish, legs) {
            return Err(event.found(reason.rule(), &format!("there was a reason against it, {reason:?}")));
        }
        match wish {
            Wish::Pay { effective_at: Some(at), .. } if *at > event.row.recorded_at => {
                Err(event.found(Rule::Due, "it is not its time"))
            }
            Wish::Pay { .. } => {
                event.check_type("transaction_posted")?;
                event.check_legs(Some("payment"), legs)?;
                self.book.post(id, legs);
                self.move_all(event, legs, |leg| Move { posted: leg.amount, pending: 0 })?;
                event.check_answer(201, &[("/status", json!("posted")), ("/type", json!("payment"))])
            }
            Wish::Authorise { expires_in_s, amount, .. } => {
                event.check_type("transaction_authorised")?;
                event.check_legs(Some("payment"), legs)?;
                let due = expires_in_s.map(|seconds| event.row.recorded_at + TimeDelta::seconds(seconds.into()));
                if event.stated.expires_at != due {
                    return Err(event.found(Rule::Due, &format!("it was to expire at {due:?}")));
                }
                self.book.begin_hold(id, event.row.at(), legs, due);
                self.move_all(event, legs, |leg| Move { posted: 0, pending: leg.amount })?;
                let told = [
                    ("/status", json!("authorised")),
                    ("/amount", json!(amount.to_string())),
                    ("/captured", json!("0")),
                    ("/remaining", json!(amount.to_string())),
                    ("/expires_at", due.map_or(Value::Null, time)),
                ];
                event.check_answer(201, &told)
            }
            Wish::Capture { hold, last, .. } => self.capture(event, hold, *last, legs),
            Wish::Void { hold } => {
                event.check_legs(None, legs)?;
                if id != hold {
                    return Err(event.found(Rule::Requests, &format!("{hold} was to be voided")));
                }
                let captured = self.change_hold(event, "hold_voided", hold, 0, Some("voided"))?;
                self.move_all(event, legs, |leg| Move { posted: 0, pending: -leg.amount })?;
                let told = [
                    ("/status", json!("voided")),
                    ("/captured", json!(captured.to_string())),
                    ("/released", json!(legs[0].amount.to_string())),
                ];
                event.check_answer(200, &told)
            }
            Wish::Reverse { transaction, force, .. } => self.reverse(event, transaction, *force, legs),
            Wish::Cancel { schedule } => {
                event.check_type("schedule_cancelled")?;
                let position = self.book.schedule(schedule).map(|schedule| schedule.position);
                if id != schedule || position.is_none() || event.stated.scheduled_position != position {
                    return Err(event.found(Rule::Requests, &format!("{schedule} was scheduled at {position:?}")));
                }
                self.book.end_schedule(schedule, event.row.at(), legs);
                event.check_answer(200, &[("/status", json!("cancelled"))])
            }
        }
    }

    fn capture(&mut self, event: &Event<'_>, id: &str, last: bool, legs: &[Leg]) -> Result<(), Finding> {
        event.check_legs(Some("capture"), legs)?;
        let amount = legs[0].amount;
        let before = self.book.hold(id).map_or(0, |hold| hold.remaining);
        let end = (last || amount == before).then_some("captured");
        let captured = self.change_hold(event, "transaction_posted", id, amount, end)?;
        let remaining = if end.is_some() { 0 } else { before - amount };
        self.book.post(event.row.id(), legs);
        self.move_all(event, legs, |leg| Move { posted: leg.amount, pending: remaining - before })?;
        let told = [
            ("/type", json!("capture")),
            ("/amount", json!(amount.to_string())),
            ("/payment/id", json!(id)),
            ("/payment/status", json!(end.unwrap_or("authorised"))),
            ("/payment/captured", json!(captured.to_string())),
            ("/payment/remaining", json!(remaining.to_string())),
        ];
        event.check_answer(201, &told)
    }

    /// The hold is afterwards as the event says; gives what it has captured in all.
    fn change_hold(
        &mut self,
        event: &Event<'_>,
        type_name: &str,
        id: &str,
        captured: i128,
        end: Option<&'static str>,
    ) -> Result<i128, Finding> {
        event.check_type(type_name)?;
        let after = self.book.change_hold(id, event.row.at(), captured, end);
        let (Some(after), Some(stated)) = (after, &event.stated.hold) else {
            return Err(event.found(Rule::Holds, &format!("it is not about the hold {id}")));
        };
        let remaining = (type_name == "transaction_posted").then_some(after.remaining);
        let expected = (id, after.position, after.captured, remaining);
        if (stated.id.as_str(), stated.position, amount(&stated.captured), stated.remaining.as_deref().map(amount))
            != expected
        {
            return Err(event.found(Rule::Holds, &format!("the hold is {after:?}")));
        }
        Ok(after.captured)
    }

    fn reverse(&mut self, event: &Event<'_>, id: &str, force: bool, legs: &[Leg]) -> Result<(), Finding> {
        event.check_type("transaction_posted")?;
        event.check_legs(Some("reversal"), legs)?;
        let remaining = self.book.reverse(id, legs[0].amount).unwrap_or_default();
        let left = vec![remaining.to_string(); legs.len()];
        let Some(stated) = &event.stated.reversal else {
            return Err(event.found(Rule::Reversals, &format!("it is not about {id}")));
        };
        if (stated.transaction_id.as_str(), &stated.remaining, stated.forced) != (id, &left, force) {
            return Err(event.found(Rule::Reversals, &format!("{left:?} is left of {id}")));
        }
        self.book.post(event.row.id(), legs);
        self.move_all(event, legs, |leg| Move { posted: leg.amount, pending: 0 })?;
        let told = [("/type", json!("reversal")), ("/reverses/id", json!(id)), ("/reverses/remaining", json!(left))];
        event.check_answer(201, &told)
    }

    /// Moves each leg's amount, and compares what that leaves behind.
    fn move_all(&mut self, event: &Event<'_>, legs: &[Leg], moved: impl Fn(&Leg) -> Move) -> Result<(), Finding> {
        for (leg, stated) in legs.iter().zip(&event.stated.legs) {
            let account = self.book.account(&leg.account).filter(|account| account.id == stated.account_id);
            let Some(account) = account else {
                return Err(event.found(Rule::Balances, &format!("there is no account {stated:?}")));
            };
            let after = account.apply(event.row.at(), leg.side, moved(leg));
            if stated.totals() != Some(after) {
                return Err(event.found(Rule::Balances, &format!("{} has {after:?}", leg.account)));
            }
            event.check_balance(&leg.account, &after)?;
        }
        Ok(())
    }
}

/// What a request is about, in the words of its rejection.
fn subject(wish: &Wish) -> Option<&str> {
    match wish {
        Wish::Pay { .. } | Wish::Authorise { .. } => None,
        Wish::Capture { hold, .. } | Wish::Void { hold } => Some(hold),
        Wish::Reverse { transaction, .. } => Some(transaction),
        Wish::Cancel { schedule } => Some(schedule),
    }
}

/// An event about a transaction, with the answer to whoever asked for it.
struct Event<'a> {
    row: &'a Row,
    stated: &'a Transaction,
    answer: Option<&'a Answer>,
}

impl Event<'_> {
    fn found(&self, rule: Rule, what: &str) -> Finding {
        found(rule, format!("{what}, at {:?}", self.row))
    }

    fn check_type(&self, expected: &str) -> Result<(), Finding> {
        if self.row.type_name == expected {
            return Ok(());
        }
        Err(self.found(Rule::Requests, &format!("it should be {expected}")))
    }

    fn check_effective(&self, at: DateTime<Utc>) -> Result<(), Finding> {
        if self.row.effective_at == at {
            Ok(())
        } else {
            Err(self.found(Rule::Due, &format!("it is effective at {at}")))
        }
    }

    /// The event does what was asked for, and nothing else.
    fn check_legs(&self, kind: Option<&str>, expected: &[Leg]) -> Result<(), Finding> {
        let leg = |leg: &StatedLeg| Leg { account: leg.account.clone(), side: leg.side, amount: amount(&leg.amount) };
        let legs: Vec<Leg> = self.stated.legs.iter().map(leg).collect();
        if legs == expected && self.stated.kind.as_deref() == kind {
            return Ok(());
        }
        Err(self.found(Rule::Requests, &format!("{kind:?} of {expected:?} was asked for")))
    }

    /// The answer, if there is one, is about this event.
    fn check_answer(&self, status: u16, told: &[(&str, Value)]) -> Result<(), Finding> {
        let Some(answer) = self.answer else { return Ok(()) };
        let about = (answer.status, &answer.transaction, answer.body["position"].as_i64());
        let wrong = told.iter().find(|(pointer, value)| answer.body.pointer(pointer) != Some(value));
        if about == (status, &self.row.transaction_id, Some(self.row.position)) && wrong.is_none() {
            return Ok(());
        }
        Err(self.found(Rule::Answers, &format!("{wrong:?} is not in {answer:?}")))
    }

    /// The balances of an answer; what is pending stands where holds are concerned.
    fn check_balance(&self, account: &str, after: &Totals) -> Result<(), Finding> {
        let Some(told) = self.answer.map(|answer| &answer.body["balances"][account]) else { return Ok(()) };
        let told_amount = |member: &str| told[member].as_str().map(amount);
        let pending = [("pending_in", after.credits_pending), ("pending_out", after.debits_pending)];
        let amounts = [("posted", after.posted()), ("available", after.available())];
        let pending = pending.into_iter().filter(|(member, _)| !told[member].is_null());
        let mut amounts = amounts.into_iter().chain(pending);
        if amounts.all(|(member, amount)| told_amount(member) == Some(amount))
            && told["version"].as_u64() == Some(after.version)
        {
            return Ok(());
        }
        Err(self.found(Rule::Answers, &format!("{after:?} was answered with {told}")))
    }
}

impl StatedLeg {
    fn totals(&self) -> Option<Totals> {
        let pending = |text: &Option<String>| text.as_deref().map_or(0, amount);
        Some(Totals {
            debits: amount(self.debits.as_deref()?),
            credits: amount(self.credits.as_deref()?),
            debits_pending: pending(&self.debits_pending),
            credits_pending: pending(&self.credits_pending),
            version: self.version?,
        })
    }
}

/// Positions are contiguous, epochs rise, time does not run backwards.
fn check_order(before: Option<&Row>, row: &Row) -> Result<(), Finding> {
    let expected = before.map_or(0, |before| before.position) + 1;
    if row.position != expected {
        return Err(found(Rule::Positions, format!("position {} in the place of {expected}", row.position)));
    }
    let Some(before) = before else { return Ok(()) };
    if row.epoch < before.epoch {
        return Err(found(Rule::Epochs, format!("{} follows {} at {expected}", row.epoch, before.epoch)));
    }
    if row.recorded_at < before.recorded_at {
        let what = format!("{} follows {} at {expected}", row.recorded_at, before.recorded_at);
        return Err(found(Rule::Time, what));
    }
    Ok(())
}

fn payload<T: DeserializeOwned>(row: &Row) -> Result<T, Finding> {
    serde_json::from_str(&row.payload).map_err(|error| found(Rule::Requests, format!("{error}: {row:?}")))
}

fn time(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

fn amount(text: &str) -> i128 {
    text.parse().expect("an amount")
}

#[cfg(test)]
mod tests;
