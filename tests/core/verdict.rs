//! What the model says to a command: the rules one after the other, in the order
//! that `src/ledger/rejection.rs` documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bigdecimal::{BigDecimal, One, Signed, Zero};
use chrono::{DateTime, TimeDelta, Utc};
use smallvec::SmallVec;
use steelyard::ledger::book::WAITING_MAX;
use steelyard::ledger::rule::RULES_MAX;
use steelyard::ledger::velocity::Counted;
use steelyard::ledger::{
    Account, AccountChanged, AccountCode, AccountType, AccountUpdate, Amount, Attributes, Authorisation, Balance,
    Cancelled, Capture, Change, ChangeAccount, Command, Direction, Expiry, Fact, Freeze, FreezeScope, Hold, HoldRef,
    HoldState, Kind, Known, Leg, LegRequest, Limits, Moment, More, Notes, OpenAccount, Origin, Part, Place, Position,
    Rate, Refusal, RejectedTransaction, Rejection, Release, ReleaseReason, Reverse, Rule, RuleKey, Scheduled, Scope,
    Side, State, Terms, Transaction, TransactionRequest, Usage, VelocityLimit, Verdict, Window,
};
use uuid::Uuid;

use crate::exact::{Exact, highest, lowest};
use crate::model::{CountedLeg, Model, weight};

/// How far ahead a hold may expire and a transaction may be scheduled.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1830);

fn refuse(refusal: Refusal) -> Verdict {
    Verdict::Refuse(refusal)
}

fn invalid(why: &'static str) -> Verdict {
    refuse(Refusal::Invalid { place: Place::Whole, rule: why.into() })
}

type Legs = SmallVec<[LegRequest; 2]>;

/// What legs do to the balances of their accounts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Post,
    Reserve,
}

/// What does not hold for a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waived {
    Nothing,
    /// For reversals.
    Velocity,
    /// For forced ones.
    VelocityAndFloor,
}

impl Model {
    pub fn verdict(&self, command: &Command, at: &Moment) -> Verdict {
        match command {
            Command::DefineAsset { scale, .. } if *scale > 37 => invalid("an asset has at most 37 decimals"),
            Command::DefineAsset { code, scale } => match self.assets.get(code.as_str()) {
                None => Verdict::Record(Fact::AssetDefined { code: code.clone(), scale: *scale }),
                Some(known) if known == scale => Verdict::Unchanged,
                Some(known) => refuse(Refusal::AssetAlreadyExists { code: code.clone(), scale: *known }),
            },
            Command::OpenAccount(open) => self.open(open),
            Command::Transact(request) => self.transact(request, at),
            Command::Capture(capture) => self.capture(capture, at),
            Command::Void(void) => self.void(void.payment, at),
            Command::Reverse(reverse) => self.reverse(reverse, at),
            Command::Cancel(cancel) => self.cancel(cancel.transaction),
            Command::ChangeAccount(change) => self.change(change),
            Command::SetRule(rule) => self.set_rule(rule),
            Command::RemoveRule(key) => match self.rules.get(key) {
                Some(_) => Verdict::Record(Fact::RuleRemoved(key.clone())),
                None => refuse(Refusal::RuleNotFound(key.clone())),
            },
            Command::ClosePeriod { before } if *before > at.recorded_at => invalid("a period closes when it is over"),
            Command::ClosePeriod { before } => match self.closed_before {
                Some(closed) if closed == *before => Verdict::Unchanged,
                Some(closed) if closed > *before => refuse(Refusal::PeriodAlreadyClosed(closed)),
                _ => Verdict::Record(Fact::PeriodClosed { before: *before }),
            },
            Command::Settle(id) => self.settle(id, at),
        }
    }
}

/// Accounts and rules.
impl Model {
    fn open(&self, open: &OpenAccount) -> Verdict {
        let OpenAccount { code, asset, normal, min_balance, max_balance, metadata } = open.clone();
        let mut of_type = AccountType {
            prefix: "".into(),
            normal: Side::Credit,
            limits: Limits { min_balance: Some(Amount::ZERO), max_balance: None },
        };
        for (rule, _) in self.rules.values() {
            if let Rule::AccountType(rule) = rule
                && code.as_str().starts_with(&*rule.prefix)
                && rule.prefix.len() > of_type.prefix.len()
            {
                of_type = rule.clone();
            }
        }
        let normal = normal.unwrap_or(of_type.normal);
        let limits = Limits {
            min_balance: min_balance.unwrap_or(of_type.limits.min_balance),
            max_balance: max_balance.unwrap_or(of_type.limits.max_balance),
        };
        if are_crossed(limits) {
            return invalid("min_balance must not be above max_balance");
        }
        match self.accounts.get(&code) {
            Some(known)
                if (&known.asset, known.normal, known.attributes.limits, &known.attributes.metadata)
                    == (&asset, normal, limits, &metadata) =>
            {
                Verdict::Unchanged
            }
            Some(known) => refuse(Refusal::AccountAlreadyExists(Box::new(known.clone()))),
            None if !self.assets.contains_key(asset.as_str()) => refuse(Refusal::AssetNotFound(asset)),
            None => Verdict::Record(Fact::AccountOpened { code, asset, normal, limits, metadata }),
        }
    }

    fn change(&self, ChangeAccount { code, change }: &ChangeAccount) -> Verdict {
        let Some(account) = self.accounts.get(code) else {
            return refuse(Refusal::AccountNotFound([(0, code.clone())].into_iter().collect()));
        };
        let (attributes, balance) = (&account.attributes, &account.balance);
        let must_not_be = |state| refuse(Refusal::AccountState { account: code.clone(), state });
        let changed = |change, after, reason: Option<&Arc<str>>| {
            Verdict::Record(Fact::AccountChanged(AccountChanged {
                account: code.clone(),
                account_id: account.id,
                change,
                after,
                reason: reason.cloned(),
            }))
        };
        let with_freeze = |freeze| Attributes { freeze, ..attributes.clone() };
        let with_closed = |closed| Attributes { closed, ..attributes.clone() };
        match change {
            AccountUpdate::Close { .. } if attributes.closed => Verdict::Unchanged,
            AccountUpdate::Close { reason } => {
                let is_empty = balance.debits_posted == balance.credits_posted
                    && balance.debits_pending == Amount::ZERO
                    && balance.credits_pending == Amount::ZERO;
                if is_empty {
                    changed(Change::Closed, with_closed(true), reason.as_ref())
                } else {
                    must_not_be("not_empty")
                }
            }
            AccountUpdate::Reopen { .. } if !attributes.closed => Verdict::Unchanged,
            AccountUpdate::Reopen { reason } => changed(Change::Reopened, with_closed(false), reason.as_ref()),
            _ if attributes.closed => must_not_be("closed"),
            AccountUpdate::Freeze(freeze) if attributes.freeze.as_ref() == Some(freeze) => Verdict::Unchanged,
            AccountUpdate::Freeze(freeze) => {
                changed(Change::Frozen, with_freeze(Some(freeze.clone())), Some(&freeze.reason))
            }
            AccountUpdate::Unfreeze { .. } if attributes.freeze.is_none() => Verdict::Unchanged,
            AccountUpdate::Unfreeze { reason } => changed(Change::Unfrozen, with_freeze(None), Some(reason)),
            AccountUpdate::Update { min_balance, max_balance, metadata } => {
                let was = attributes.limits;
                let limits = Limits {
                    min_balance: min_balance.unwrap_or(was.min_balance),
                    max_balance: max_balance.unwrap_or(was.max_balance),
                };
                let metadata = metadata.clone().unwrap_or_else(|| attributes.metadata.clone());
                let after = Attributes { limits, metadata, ..attributes.clone() };
                if after == *attributes {
                    return Verdict::Unchanged;
                }
                if are_crossed(limits) {
                    return invalid("min_balance must not be above max_balance");
                }
                let conflict = |limit, balance: Exact| {
                    refuse(Refusal::LimitsConflict { account: code.clone(), limit, balance: balance.clamp() })
                };
                let (available, expected) = (lowest(account.normal, balance), highest(account.normal, balance));
                if let Some(floor) = limits.min_balance
                    && limits.min_balance != was.min_balance
                    && available < floor.into()
                {
                    return conflict("min_balance", available);
                }
                if let Some(cap) = limits.max_balance
                    && limits.max_balance != was.max_balance
                    && expected > cap.into()
                {
                    return conflict("max_balance", expected);
                }
                changed(Change::Updated, after, None)
            }
        }
    }

    fn set_rule(&self, rule: &Rule) -> Verdict {
        match rule {
            Rule::AccountType(rule) if are_crossed(rule.limits) => {
                return invalid("min_balance must not be above max_balance");
            }
            Rule::VelocityLimit(VelocityLimit { count_max: None, amount_max: None, .. }) => {
                return invalid("a velocity limit counts something");
            }
            Rule::VelocityLimit(VelocityLimit { asset: None, amount_max: Some(_), .. }) => {
                return invalid("an amount needs an asset");
            }
            Rule::VelocityLimit(VelocityLimit { window: Window::Rolling { seconds }, .. })
                if *seconds < 60 || *seconds > 31_622_400 =>
            {
                return invalid("a window has a minute to 366 days");
            }
            Rule::AccountType(_) | Rule::VelocityLimit(_) => {}
        }
        let sort = |key: &RuleKey| matches!(key, RuleKey::AccountType(_));
        let key = rule.key();
        let of_the_sort = self.rules.keys().filter(|other| sort(other) == sort(&key)).count();
        let unknown = match rule {
            Rule::VelocityLimit(VelocityLimit { asset: Some(asset), .. })
                if !self.assets.contains_key(asset.as_str()) =>
            {
                Some(asset.clone())
            }
            Rule::AccountType(_) | Rule::VelocityLimit(_) => None,
        };
        match (self.rules.get(&key), unknown) {
            (Some((known, _)), _) if known == rule => Verdict::Unchanged,
            (_, Some(asset)) => refuse(Refusal::AssetNotFound(asset)),
            (None, None) if of_the_sort >= RULES_MAX => refuse(Refusal::TooManyRules),
            _ => Verdict::Record(Fact::RuleSet(rule.clone())),
        }
    }
}

fn are_crossed(limits: Limits) -> bool {
    matches!(limits, Limits { min_balance: Some(floor), max_balance: Some(cap) } if floor > cap)
}

/// Transactions that begin: posted, authorised or scheduled.
impl Model {
    fn transact(&self, request: &TransactionRequest, at: &Moment) -> Verdict {
        let legs = &request.legs;
        let distinct: BTreeSet<&AccountCode> = legs.iter().map(|leg| &leg.account).collect();

        // 1. validation_failed
        if let Some(why) = wrong_with(legs) {
            return invalid(why);
        }
        if let Some(expiry) = request.hold() {
            if request.kind != Kind::Payment || legs.len() != 2 {
                return invalid("only a payment is authorised");
            }
            if request.effective_at.is_some() {
                return invalid("a hold is effective now");
            }
            let is_sound = match expiry {
                Expiry::Never => true,
                Expiry::At(moment) => moment > at.recorded_at && moment <= at.recorded_at + AHEAD_MAX,
                Expiry::In(seconds) => (1..=158_112_000).contains(&seconds),
            };
            if !is_sound {
                return invalid("a hold expires within five years");
            }
        }
        if let Some(effective_at) = request.effective_at
            && (effective_at < DateTime::UNIX_EPOCH || effective_at > at.recorded_at + AHEAD_MAX)
        {
            return invalid("too far away");
        }
        if !request.rates().is_empty() && request.kind != Kind::Transaction {
            return invalid("a payment has no rates");
        }
        if !self.are_rates_right(request.rates(), legs) {
            return invalid("the rates are not those of the legs");
        }

        // 4. same_account
        if distinct.len() == 1 {
            return refuse(Refusal::SameAccount(legs[0].account.clone()));
        }

        // 5. account_not_found
        let missing = |leg: &LegRequest| !self.accounts.contains_key(&leg.account);
        if legs.iter().any(missing) {
            let named = legs.iter().enumerate().filter(|(_, leg)| missing(leg));
            return refuse(Refusal::AccountNotFound(named.map(|(i, leg)| (i, leg.account.clone())).collect()));
        }

        // 6. asset_mismatch
        for (leg, request) in legs.iter().enumerate() {
            let account = &self.accounts[&request.account];
            if request.asset != account.asset {
                return refuse(Refusal::AssetMismatch {
                    leg,
                    account: request.account.clone(),
                    account_asset: account.asset.clone(),
                    asset: request.asset.clone(),
                });
            }
        }

        // 7. overloaded
        let is_scheduled = request.effective_at.is_some_and(|moment| moment > at.recorded_at);
        let expires = request.hold().is_some_and(|expiry| expiry != Expiry::Never);
        let scheduled = Scheduled { request: request.clone(), account_ids: self.account_ids(legs) };
        if is_scheduled || expires {
            let waiting: usize = self.waiting().iter().map(|(.., id)| weight(&self.transactions[id])).sum();
            let state = State::Scheduled(Box::new(scheduled.clone()));
            let more = if expires { 1 } else { weight(&Known { position: 0, changed: 0, state }) };
            if waiting + more > WAITING_MAX {
                return refuse(Refusal::TooManyWaiting);
            }
        }
        if is_scheduled {
            return Verdict::Record(Fact::TransactionScheduled(scheduled));
        }

        let reject = |reason| Verdict::Record(self.rejected(request.clone(), reason, None));

        // 12. period_closed
        let effective_at = request.effective_at.unwrap_or(at.recorded_at);
        if let Some(reason) = self.period_closed(legs, effective_at) {
            return reject(reason);
        }

        // 13 to 17
        let effect = if request.hold().is_some() { Effect::Reserve } else { Effect::Post };
        match self.after(legs, effect, Waived::Nothing, at) {
            Err(reason) => reject(reason),
            Ok((legs, usage)) if effect == Effect::Reserve => {
                let expires_at = match request.hold().unwrap() {
                    Expiry::Never => None,
                    Expiry::At(moment) => Some(moment),
                    Expiry::In(seconds) => Some(at.recorded_at + TimeDelta::seconds(seconds.into())),
                };
                let transaction = transaction(request, legs, None, usage);
                Verdict::Record(Fact::TransactionAuthorised(Authorisation { transaction, expires_at }))
            }
            Ok((legs, usage)) => Verdict::Record(Fact::TransactionPosted(transaction(request, legs, None, usage))),
        }
    }

    fn settle(&self, id: &Uuid, at: &Moment) -> Verdict {
        let Some(known) = self.transactions.get(id) else { return Verdict::Unchanged };
        match &known.state {
            State::Hold(hold) => match hold.expires_at {
                Some(moment) if hold.state == HoldState::Authorised && moment <= at.recorded_at => {
                    self.released(*id, known.position, hold, ReleaseReason::Expired, at)
                }
                _ => Verdict::Unchanged,
            },
            State::Scheduled(scheduled) if scheduled.request.effective_at.unwrap() <= at.recorded_at => {
                let request = &scheduled.request;
                match self.after(&request.legs, Effect::Post, Waived::Nothing, at) {
                    Err(reason) => Verdict::Record(self.rejected(request.clone(), reason, Some(known.position))),
                    Ok((legs, usage)) => {
                        let origin = Origin::Schedule { position: known.position };
                        Verdict::Record(Fact::TransactionPosted(transaction(request, legs, Some(origin), usage)))
                    }
                }
            }
            _ => Verdict::Unchanged,
        }
    }

    fn cancel(&self, id: Uuid) -> Verdict {
        match self.transactions.get(&id) {
            None => refuse(Refusal::TransactionNotFound(id)),
            Some(Known { position, state: State::Scheduled(scheduled), .. }) => {
                Verdict::Record(Fact::ScheduleCancelled(Cancelled {
                    transaction: id,
                    position: *position,
                    account: scheduled.request.legs[0].account.clone(),
                    account_id: scheduled.account_ids[0],
                }))
            }
            Some(_) => refuse(Refusal::NotScheduled(id)),
        }
    }

    fn are_rates_right(&self, rates: &[Rate], legs: &[LegRequest]) -> bool {
        let scale = |asset: &str| self.assets.get(asset).copied();
        let debits = |asset: &str| {
            let debits = legs.iter().filter(|leg| leg.side == Side::Debit && leg.asset.as_str() == asset);
            debits.fold(BigDecimal::zero(), |sum, leg| sum + BigDecimal::from(leg.amount.get()))
        };
        rates.len() <= 16
            && rates.iter().all(|Rate { from, to, rate, remainder }| {
                let (from, to) = (from.as_str(), to.as_str());
                let is_among = |asset: &str| legs.iter().any(|leg| leg.asset.as_str() == asset);
                let Some(rate) = plain_decimal(rate) else { return false };
                let Some(remainder) = plain_decimal(remainder.as_deref().unwrap_or("0")) else { return false };
                if !is_among(from)
                    || !is_among(to)
                    || from == to
                    || !rate.is_positive()
                    || remainder.abs() >= BigDecimal::one()
                {
                    return false;
                }
                let (Some(scale_from), Some(scale_to)) = (scale(from), scale(to)) else { return false };
                let shift: BigDecimal = format!("1e{}", i32::from(scale_to) - i32::from(scale_from)).parse().unwrap();
                debits(from) * rate * shift == debits(to) + remainder
            })
    }
}

/// At most 18 digits before the point and 18 after it.
fn plain_decimal(text: &str) -> Option<BigDecimal> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        |digits: &str| (1..=18).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_number(whole.strip_prefix('-').unwrap_or(whole)) || !is_number(fraction) {
        return None;
    }
    text.parse().ok()
}

/// What is wrong with legs whatever their accounts are.
fn wrong_with(legs: &[LegRequest]) -> Option<&'static str> {
    if legs.len() < 2 || legs.len() > 256 {
        return Some("a transaction has 2 to 256 legs");
    }
    if legs.iter().any(|leg| leg.amount <= Amount::ZERO) {
        return Some("an amount is more than zero");
    }
    let mut nets: BTreeMap<&str, Exact> = BTreeMap::new();
    for leg in legs {
        let net = nets.entry(leg.asset.as_str()).or_default();
        *net = match leg.side {
            Side::Debit => *net + leg.amount.into(),
            Side::Credit => *net - leg.amount.into(),
        };
    }
    if nets.values().any(|net| *net != Exact::ZERO) {
        return Some("debits and credits are equal for every asset");
    }
    None
}

/// Captures and voids.
impl Model {
    fn capture(&self, Capture { payment, amount, last, notes }: &Capture, at: &Moment) -> Verdict {
        // 1. validation_failed
        if amount.is_some_and(|amount| amount <= Amount::ZERO) {
            return invalid("an amount is more than zero");
        }
        // 2. transaction_not_found
        let Some(known) = self.transactions.get(payment) else {
            return refuse(Refusal::TransactionNotFound(*payment));
        };
        // 3. not_a_hold
        let State::Hold(hold) = &known.state else { return refuse(Refusal::NotAHold(*payment)) };

        let whole = hold.legs[0].amount;
        let rest = if hold.remaining == Amount::ZERO { whole } else { hold.remaining };
        let amount = amount.unwrap_or(rest);
        let legs: Legs = hold.legs.iter().map(|leg| LegRequest { amount, ..leg.clone() }).collect();
        let reject = |reason| {
            let request = attempt(Kind::Capture, legs.clone(), notes, *payment, false);
            Verdict::Record(self.rejected(request, reason, None))
        };
        let debited = || legs.iter().find(|leg| leg.side == Side::Debit).unwrap().account.clone();

        // 8. hold_not_open
        if hold.state != HoldState::Authorised {
            return reject(Rejection::HoldNotOpen { account: debited(), state: hold.state });
        }
        // 9. capture_exceeds_hold
        if amount > hold.remaining {
            return reject(Rejection::CaptureExceedsHold { account: debited(), remaining: hold.remaining });
        }
        // 13 and 14. account_closed, account_frozen
        if let Some(reason) = self.not_open(&legs) {
            return reject(reason);
        }
        let left = minus(hold.remaining, amount);
        let remaining = if *last { Amount::ZERO } else { left };
        let released = minus(hold.remaining, remaining);
        // 17. balance_limit_exceeded, for totals of more than 38 digits only
        let mut legs_after = SmallVec::new();
        for leg in &legs {
            let account = &self.accounts[&leg.account];
            let Some(posted) = add_leg(account.balance, leg, Effect::Post, at.position) else {
                return reject(total_of_39_digits(&leg.account));
            };
            legs_after.push(leg_after(account, leg, take_back(posted, leg.side, released, at.position)));
        }
        let hold_ref = HoldRef { id: *payment, position: known.position };
        let captured = plus(hold.captured, amount);
        let origin = Origin::Capture { hold: hold_ref, remaining, captured };
        let request = attempt(Kind::Capture, legs.clone(), notes, *payment, false);
        Verdict::Record(Fact::TransactionPosted(transaction(&request, legs_after, Some(origin), Vec::new())))
    }

    fn void(&self, id: Uuid, at: &Moment) -> Verdict {
        let Some(known) = self.transactions.get(&id) else { return refuse(Refusal::TransactionNotFound(id)) };
        let State::Hold(hold) = &known.state else { return refuse(Refusal::NotAHold(id)) };
        if hold.state != HoldState::Authorised {
            let account = hold.legs.iter().find(|leg| leg.side == Side::Debit).unwrap().account.clone();
            let request = attempt(Kind::Void, hold.legs.clone(), &Notes::default(), id, false);
            let reason = Rejection::HoldNotOpen { account, state: hold.state };
            return Verdict::Record(self.rejected(request, reason, None));
        }
        self.released(id, known.position, hold, ReleaseReason::Voided, at)
    }

    fn released(&self, id: Uuid, position: Position, hold: &Hold, reason: ReleaseReason, at: &Moment) -> Verdict {
        let amount = hold.remaining;
        let legs = hold.legs.iter().map(|leg| {
            let account = &self.accounts[&leg.account];
            let after = take_back(account.balance, leg.side, amount, at.position);
            leg_after(account, &LegRequest { amount, ..leg.clone() }, after)
        });
        Verdict::Record(Fact::HoldReleased(Release {
            hold: HoldRef { id, position },
            reason,
            legs: legs.collect(),
            captured: hold.captured,
        }))
    }
}

/// Reversals.
impl Model {
    fn reverse(&self, reverse: &Reverse, at: &Moment) -> Verdict {
        let Reverse { transaction: id, part, force, notes } = reverse;

        // 1. validation_failed, as far as the request alone can tell
        match part {
            Part::Rest => {}
            Part::Amount(amount) if *amount <= Amount::ZERO => return invalid("an amount is more than zero"),
            Part::Amount(_) => {}
            Part::Legs(legs) => {
                if let Some(why) = wrong_with(legs) {
                    return invalid(why);
                }
            }
        }
        // 2. transaction_not_found
        let Some(known) = self.transactions.get(id) else { return refuse(Refusal::TransactionNotFound(*id)) };
        // 3. not_reversible
        let State::Posted(posted) = &known.state else { return refuse(Refusal::NotReversible(*id)) };

        // 1 again, as far as it depends on the transaction
        if matches!(part, Part::Amount(_)) && posted.legs.len() != 2 {
            return invalid("an amount needs a transaction of two legs");
        }
        if let Part::Legs(legs) = part {
            // 5. account_not_found
            let missing = |leg: &LegRequest| !self.accounts.contains_key(&leg.account);
            if legs.iter().any(missing) {
                let named = legs.iter().enumerate().filter(|(_, leg)| missing(leg));
                return refuse(Refusal::AccountNotFound(named.map(|(i, leg)| (i, leg.account.clone())).collect()));
            }
            // 1 again, as far as it depends on the accounts
            if legs.iter().any(|leg| self.accounts[&leg.account].asset != leg.asset) {
                return invalid("a leg has the asset of its account");
            }
            // and once more, as far as it depends on the transaction's legs
            let has =
                |account: &AccountCode, side| posted.legs.iter().any(|of| of.account == *account && of.side == side);
            if legs.iter().any(|leg| !has(&leg.account, other(leg.side))) {
                return invalid("a leg takes from one of the transaction");
            }
        }

        // Of each leg of the transaction, what is taken back; or the first account
        // of which more is asked than is left.
        let mut taken: Vec<Amount> = vec![Amount::ZERO; posted.legs.len()];
        let mut exceeded: Option<(AccountCode, Amount)> = None;
        match part {
            Part::Rest => {
                taken = posted.remaining.to_vec();
                if taken.iter().all(|amount| *amount == Amount::ZERO) {
                    exceeded = Some((posted.legs[0].account.clone(), Amount::ZERO));
                }
            }
            Part::Amount(amount) => {
                taken = vec![*amount; posted.legs.len()];
                let short = (0..posted.legs.len()).find(|leg| *amount > posted.remaining[*leg]);
                exceeded = short.map(|leg| (posted.legs[leg].account.clone(), posted.remaining[leg]));
            }
            Part::Legs(legs) => {
                for leg in legs {
                    let same = |of: &LegRequest| of.account == leg.account && of.side != leg.side;
                    let mut wanted = leg.amount;
                    for (index, _) in posted.legs.iter().enumerate().filter(|(_, of)| same(of)) {
                        let more = wanted.min(minus(posted.remaining[index], taken[index]));
                        taken[index] = plus(taken[index], more);
                        wanted = minus(wanted, more);
                    }
                    if wanted > Amount::ZERO {
                        let of_account = (0..posted.legs.len()).filter(|index| same(&posted.legs[*index]));
                        let left = of_account.fold(Amount::ZERO, |sum, index| plus(sum, posted.remaining[index]));
                        exceeded = Some((leg.account.clone(), left));
                        break;
                    }
                }
            }
        }

        let mirrored = |amounts: &[Amount]| -> Legs {
            let legs = posted.legs.iter().zip(amounts).filter(|(_, amount)| **amount > Amount::ZERO);
            legs.map(|(leg, amount)| LegRequest { side: other(leg.side), amount: *amount, ..leg.clone() }).collect()
        };
        let reject = |reason| {
            let whole: Vec<Amount> = posted.legs.iter().map(|leg| leg.amount).collect();
            let nothing_left = posted.remaining.iter().all(|amount| *amount == Amount::ZERO);
            let asked = match part {
                Part::Legs(legs) => legs.clone(),
                Part::Rest if nothing_left => mirrored(&whole),
                Part::Rest | Part::Amount(_) => mirrored(&taken),
            };
            Verdict::Record(self.rejected(attempt(Kind::Reversal, asked, notes, *id, *force), reason, None))
        };

        // 11. reversal_exceeds_transaction
        if let Some((account, remaining)) = exceeded {
            return reject(Rejection::ReversalExceedsTransaction { account, remaining });
        }
        let legs = mirrored(&taken);
        // 12. period_closed
        if let Some(reason) = self.period_closed(&legs, at.recorded_at) {
            return reject(reason);
        }
        // 13 to 17
        let waived = if *force { Waived::VelocityAndFloor } else { Waived::Velocity };
        match self.after(&legs, Effect::Post, waived, at) {
            Err(reason) => reject(reason),
            Ok((legs_after, _)) => {
                let left = posted.remaining.iter().zip(&taken).map(|(left, taken)| minus(*left, *taken));
                let origin = Origin::Reversal { transaction: *id, remaining: left.collect(), forced: *force };
                let request = attempt(Kind::Reversal, legs, notes, *id, *force);
                Verdict::Record(Fact::TransactionPosted(transaction(&request, legs_after, Some(origin), Vec::new())))
            }
        }
    }
}

/// What transactions of all kinds have in common.
impl Model {
    fn account_ids(&self, legs: &[LegRequest]) -> SmallVec<[Position; 2]> {
        legs.iter().map(|leg| self.accounts[&leg.account].id).collect()
    }

    fn rejected(&self, request: TransactionRequest, reason: Rejection, scheduled: Option<Position>) -> Fact {
        let account_ids = self.account_ids(&request.legs);
        Fact::TransactionRejected(RejectedTransaction { request, account_ids, reason, scheduled })
    }

    fn period_closed(&self, legs: &[LegRequest], effective_at: DateTime<Utc>) -> Option<Rejection> {
        let before = self.closed_before.filter(|before| effective_at < *before)?;
        Some(Rejection::PeriodClosed { account: legs[0].account.clone(), before })
    }

    fn not_open(&self, legs: &[LegRequest]) -> Option<Rejection> {
        // 13. account_closed
        if let Some(leg) = legs.iter().find(|leg| self.accounts[&leg.account].attributes.closed) {
            return Some(Rejection::AccountClosed { account: leg.account.clone() });
        }
        // 14. account_frozen
        let is_frozen = |leg: &&LegRequest| match &self.accounts[&leg.account].attributes.freeze {
            None => false,
            Some(Freeze { scope: FreezeScope::All, .. }) => true,
            Some(Freeze { scope: FreezeScope::Debits, .. }) => leg.side == Side::Debit,
            Some(Freeze { scope: FreezeScope::Credits, .. }) => leg.side == Side::Credit,
        };
        let leg = legs.iter().find(is_frozen)?;
        Some(Rejection::AccountFrozen { account: leg.account.clone() })
    }

    /// The legs with what they leave behind, or why they may not.
    fn after(
        &self,
        legs: &[LegRequest],
        effect: Effect,
        waived: Waived,
        at: &Moment,
    ) -> Result<(SmallVec<[Leg; 2]>, Vec<Usage>), Rejection> {
        // 13 and 14. account_closed, account_frozen
        if let Some(reason) = self.not_open(legs) {
            return Err(reason);
        }

        // 15. velocity_limit_exceeded
        let usage = if waived == Waived::Nothing { self.usage(legs, at.recorded_at)? } else { Vec::new() };

        // What each account would be left with. An account of which a total
        // would have more than 38 digits is left with nothing that could be
        // compared with a floor: that is rule 17.
        let mut left: BTreeMap<&AccountCode, Option<Balance>> = BTreeMap::new();
        let mut legs_after: Vec<Option<Balance>> = Vec::new();
        for leg in legs {
            let before = *left.entry(&leg.account).or_insert(Some(self.accounts[&leg.account].balance));
            let after = before.and_then(|balance| add_leg(balance, leg, effect, at.position));
            left.insert(&leg.account, after);
            legs_after.push(after);
        }

        // 16. insufficient_funds, at the first leg whose account shows it
        for leg in legs {
            let account = &self.accounts[&leg.account];
            let (Some(after), Some(min_balance)) = (left[&leg.account], account.attributes.limits.min_balance) else {
                continue;
            };
            let (was, would_be) = (lowest(account.normal, &account.balance), lowest(account.normal, &after));
            if waived != Waived::VelocityAndFloor && would_be < was && would_be < min_balance.into() {
                return Err(Rejection::InsufficientFunds {
                    account: leg.account.clone(),
                    available: was.clamp(),
                    would_be: would_be.clamp(),
                    min_balance,
                });
            }
        }

        // 17. balance_limit_exceeded, at the first leg whose account shows it
        for leg in legs {
            let account = &self.accounts[&leg.account];
            let Some(after) = left[&leg.account] else { return Err(total_of_39_digits(&leg.account)) };
            let Some(max_balance) = account.attributes.limits.max_balance else { continue };
            let (was, would_be) = (highest(account.normal, &account.balance), highest(account.normal, &after));
            if would_be > was && would_be > max_balance.into() {
                let (account, would_be) = (leg.account.clone(), would_be.clamp());
                return Err(Rejection::BalanceLimitExceeded { account, would_be, max_balance });
            }
        }

        let after = legs.iter().zip(legs_after);
        let legs_after = after.map(|(leg, after)| leg_after(&self.accounts[&leg.account], leg, after.unwrap()));
        Ok((legs_after.collect(), usage))
    }
}

/// Velocity limits.
impl Model {
    /// What the limits count of the legs, or the first that one of them does not let pass.
    fn usage(&self, legs: &[LegRequest], now: DateTime<Utc>) -> Result<Vec<Usage>, Rejection> {
        let mut counted = self.counted.clone();
        let mut usage = Vec::new();
        for (index, leg) in legs.iter().enumerate() {
            let normal = self.accounts[&leg.account].normal;
            for (rule, position) in self.velocity_limits(leg) {
                if (rule.direction == Direction::In) != (leg.side == normal) {
                    continue;
                }
                let buckets = Buckets(rule.window);
                let still = counted.iter().filter(|earlier| {
                    (earlier.limit, &earlier.account) == (position, &leg.account)
                        && buckets.end(buckets.of(earlier.at)) > now
                });
                let fits = are_within(&rule, still.map(|earlier| earlier.amount).chain([leg.amount]));
                if !fits {
                    let passes_at = self.passes_at(legs, now);
                    let (account, limit) = (leg.account.clone(), Arc::clone(&rule.name));
                    return Err(Rejection::VelocityLimitExceeded { account, limit, passes_at });
                }
                let (account, amount) = (leg.account.clone(), leg.amount);
                counted.push(CountedLeg { limit: position, account, amount, at: now });
                let in_bucket: Vec<Amount> = counted
                    .iter()
                    .filter(|other| (other.limit, &other.account) == (position, &leg.account))
                    .filter(|other| buckets.of(other.at) == buckets.of(now))
                    .map(|other| other.amount)
                    .collect();
                let sum = in_bucket.iter().fold(Exact::ZERO, |sum, amount| sum + (*amount).into());
                usage.push(Usage {
                    leg: index as u16,
                    counted: Counted {
                        limit: position,
                        bucket: buckets.of(now).timestamp(),
                        since: buckets.since(now).timestamp(),
                        count: in_bucket.len() as u32,
                        amount: sum.clamp(),
                    },
                });
            }
        }
        Ok(usage)
    }

    /// The first moment, of all at which something that was counted counts no longer, at
    /// which every limit has room for all legs that are asked for.
    fn passes_at(&self, legs: &[LegRequest], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let limited: Vec<(&LegRequest, VelocityLimit, Position)> = legs
            .iter()
            .flat_map(|leg| self.velocity_limits(leg).into_iter().map(move |(rule, position)| (leg, rule, position)))
            .collect();
        let is_counted = |leg: &LegRequest, rule: &VelocityLimit| {
            (rule.direction == Direction::In) == (leg.side == self.accounts[&leg.account].normal)
        };
        let fits = |at: DateTime<Utc>| {
            limited.iter().filter(|(leg, rule, _)| is_counted(leg, rule)).all(|(leg, rule, position)| {
                let buckets = Buckets(rule.window);
                let still = self.counted.iter().filter(|earlier| {
                    (earlier.limit, &earlier.account) == (*position, &leg.account)
                        && buckets.end(buckets.of(earlier.at)) > at
                });
                let asked = legs.iter().filter(|other| other.account == leg.account && is_counted(other, rule));
                are_within(rule, still.map(|earlier| earlier.amount).chain(asked.map(|leg| leg.amount)))
            })
        };
        let ends: BTreeSet<DateTime<Utc>> = limited
            .iter()
            .map(|(_, rule, _)| Buckets(rule.window))
            .flat_map(|buckets| self.counted.iter().map(move |earlier| buckets.end(buckets.of(earlier.at))))
            .filter(|end| *end > now)
            .collect();
        ends.into_iter().find(|end| fits(*end))
    }

    /// Those that cover the leg's account: first those on the account itself, then
    /// those on a prefix, each as they were set.
    fn velocity_limits(&self, leg: &LegRequest) -> Vec<(VelocityLimit, Position)> {
        let mut limits = Vec::new();
        for (rule, position) in self.rules.values() {
            let Rule::VelocityLimit(rule) = rule else { continue };
            let (is_covered, is_prefix) = match &rule.scope {
                Scope::Account(code) => (leg.account.as_str() == &**code, false),
                Scope::Prefix(prefix) => (leg.account.as_str().starts_with(&**prefix), true),
            };
            if is_covered && rule.asset.as_ref().is_none_or(|asset| *asset == leg.asset) {
                limits.push((is_prefix, *position, rule.clone()));
            }
        }
        limits.sort_by_key(|(is_prefix, position, _)| (*is_prefix, *position));
        limits.into_iter().map(|(_, position, rule)| (rule, position)).collect()
    }
}

fn are_within(rule: &VelocityLimit, amounts: impl Iterator<Item = Amount>) -> bool {
    let amounts: Vec<Amount> = amounts.collect();
    let sum = amounts.iter().fold(Exact::ZERO, |sum, amount| sum + (*amount).into());
    rule.count_max.is_none_or(|most| amounts.len() <= most as usize)
        && rule.amount_max.is_none_or(|most| sum <= most.into())
}

/// The buckets of a window, by their beginnings.
struct Buckets(Window);

impl Buckets {
    fn of(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        match self.0 {
            Window::Rolling { seconds } => {
                // A sixtieth of the window, in whole seconds.
                let length = i64::from(seconds.div_ceil(60));
                DateTime::from_timestamp(at.timestamp() / length * length, 0).unwrap()
            }
            Window::Day { zone } => {
                let midnight = at.with_timezone(&zone).date_naive().and_hms_opt(0, 0, 0).unwrap();
                midnight.and_local_timezone(zone).unwrap().to_utc()
            }
        }
    }

    /// When a bucket counts no longer.
    fn end(&self, bucket: DateTime<Utc>) -> DateTime<Utc> {
        match self.0 {
            Window::Rolling { seconds } => {
                bucket + TimeDelta::seconds(i64::from(seconds.div_ceil(60)) + i64::from(seconds))
            }
            // No day has 36 hours, and no two have.
            Window::Day { .. } => self.of(bucket + TimeDelta::hours(36)),
        }
    }

    /// The oldest bucket that still counts.
    fn since(&self, at: DateTime<Utc>) -> DateTime<Utc> {
        let mut oldest = self.of(at);
        loop {
            let earlier = self.of(oldest - TimeDelta::seconds(1));
            if self.end(earlier) <= at {
                return oldest;
            }
            oldest = earlier;
        }
    }
}

fn total_of_39_digits(account: &AccountCode) -> Rejection {
    let account = account.clone();
    Rejection::BalanceLimitExceeded { account, would_be: Amount::MAX, max_balance: Amount::MAX }
}

fn leg_after(account: &Account, leg: &LegRequest, after: Balance) -> Leg {
    Leg {
        account: leg.account.clone(),
        account_id: account.id,
        normal: account.normal,
        side: leg.side,
        amount: leg.amount,
        asset: leg.asset.clone(),
        after,
    }
}

fn transaction(
    request: &TransactionRequest,
    legs: SmallVec<[Leg; 2]>,
    origin: Option<Origin>,
    usage: Vec<Usage>,
) -> Transaction {
    let rates = request.rates().to_vec();
    let more = More { origin, rates, usage };
    Transaction {
        kind: request.kind,
        legs,
        reference: request.reference.clone(),
        description: request.description.clone(),
        metadata: request.metadata.clone(),
        more: (more != More::default()).then(|| Box::new(more)),
    }
}

/// A command on an earlier transaction, as a declined one is recorded.
fn attempt(kind: Kind, legs: Legs, notes: &Notes, of: Uuid, force: bool) -> TransactionRequest {
    TransactionRequest {
        kind,
        legs,
        reference: notes.reference.clone(),
        description: notes.description.clone(),
        metadata: notes.metadata.clone(),
        effective_at: None,
        terms: Some(Box::new(Terms { hold: None, rates: Vec::new(), of: Some(of), force })),
    }
}

fn add_leg(mut balance: Balance, leg: &LegRequest, effect: Effect, position: Position) -> Option<Balance> {
    let total = match (effect, leg.side) {
        (Effect::Post, Side::Debit) => &mut balance.debits_posted,
        (Effect::Post, Side::Credit) => &mut balance.credits_posted,
        (Effect::Reserve, Side::Debit) => &mut balance.debits_pending,
        (Effect::Reserve, Side::Credit) => &mut balance.credits_pending,
    };
    let sum = Exact::from(*total) + leg.amount.into();
    if !sum.fits() {
        return None;
    }
    *total = sum.clamp();
    // A version counts posted legs.
    if effect == Effect::Post {
        balance.version += 1;
    }
    balance.position = position;
    Some(balance)
}

/// A balance of which `amount` is pending no longer.
fn take_back(mut balance: Balance, side: Side, amount: Amount, position: Position) -> Balance {
    let pending = match side {
        Side::Debit => &mut balance.debits_pending,
        Side::Credit => &mut balance.credits_pending,
    };
    *pending = minus(*pending, amount);
    assert!(*pending >= Amount::ZERO, "what is pending no longer had been pending");
    balance.position = position;
    balance
}

fn plus(a: Amount, b: Amount) -> Amount {
    Amount::new(a.get() + b.get()).unwrap()
}

fn minus(a: Amount, b: Amount) -> Amount {
    Amount::new(a.get() - b.get()).unwrap()
}

fn other(side: Side) -> Side {
    match side {
        Side::Debit => Side::Credit,
        Side::Credit => Side::Debit,
    }
}
