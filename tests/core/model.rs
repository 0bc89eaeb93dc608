//! The ledger written a second time, to be obviously right instead of fast:
//! plain maps, and whatever a fact says is written into them. What the facts are
//! is in [`crate::verdict`].

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use smallvec::SmallVec;
use steelyard::ledger::{
    Account, AccountCode, Amount, Attributes, Balance, Command, Fact, Hold, HoldState, Known, Leg, LegRequest, Moment,
    Origin, Position, Posted, ReleaseReason, Rule, RuleKey, State, Transaction, Verdict,
};
use uuid::Uuid;

/// Everything that a ledger knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub assets: BTreeMap<String, u8>,
    pub accounts: BTreeMap<AccountCode, Account>,
    /// Every transaction that was ever recorded, rejected ones too.
    pub transactions: BTreeMap<Uuid, Known>,
    pub rules: BTreeMap<RuleKey, (Rule, Position)>,
    pub closed_before: Option<DateTime<Utc>>,
    /// Every leg that a velocity limit has counted, once for each.
    pub counted: Vec<CountedLeg>,
}

/// One leg, as one velocity limit has counted it.
#[derive(Clone, Debug, PartialEq)]
pub struct CountedLeg {
    /// Position of the event that set the limit.
    pub limit: Position,
    pub account: AccountCode,
    pub amount: Amount,
    pub at: DateTime<Utc>,
}

/// When something happens to a transaction by itself.
fn due_at(known: &Known) -> Option<DateTime<Utc>> {
    match &known.state {
        State::Hold(hold) if hold.state == HoldState::Authorised => hold.expires_at,
        State::Scheduled(scheduled) => scheduled.request.effective_at,
        _ => None,
    }
}

/// What a transaction weighs while it waits: 1, and 1 for each 800 bytes that it has
/// beside two legs, of which a leg and a rate are 200.
pub fn weight(known: &Known) -> usize {
    let State::Scheduled(scheduled) = &known.state else { return 1 };
    let request = &scheduled.request;
    let notes: String = [&request.reference, &request.description, &request.metadata]
        .into_iter()
        .flatten()
        .map(|note| &**note)
        .collect();
    1 + ((request.legs.len() - 2 + request.rates().len()) * 200 + notes.len()) / 800
}

impl Model {
    /// Everything that waits for a moment, in the order in which it is settled.
    pub fn waiting(&self) -> Vec<(DateTime<Utc>, Position, Uuid)> {
        let waits = |(id, known): (&Uuid, &Known)| Some((due_at(known)?, known.position, *id));
        let mut waiting: Vec<_> = self.transactions.iter().filter_map(waits).collect();
        waiting.sort_unstable();
        waiting
    }

    /// When a fact that came of a command counts for the books.
    pub fn effective_at(&self, command: &Command, at: &Moment) -> DateTime<Utc> {
        match command {
            Command::Transact(request) => request.effective_at.unwrap_or(at.recorded_at),
            Command::Settle(id) => due_at(&self.transactions[id]).unwrap(),
            _ => at.recorded_at,
        }
    }

    /// The transaction whose history a fact belongs to.
    pub fn transaction_id(&self, command: &Command, fact: &Fact, at: &Moment) -> Option<Uuid> {
        match (command, fact) {
            (Command::Settle(id), _) => Some(*id),
            (Command::Void(void), Fact::HoldReleased(_)) => Some(void.payment),
            (Command::Cancel(cancel), Fact::ScheduleCancelled(_)) => Some(cancel.transaction),
            (
                Command::Transact(_)
                | Command::Capture(_)
                | Command::Void(_)
                | Command::Reverse(_)
                | Command::Cancel(_),
                _,
            ) => Some(at.transaction_id),
            _ => None,
        }
    }

    /// Makes a command so of which [`Self::verdict`] said that it is to be recorded.
    pub fn record(&mut self, command: &Command, verdict: &Verdict, at: &Moment) {
        let Verdict::Record(fact) = verdict else { return };
        let id = self.transaction_id(command, fact, at);
        match fact {
            Fact::AssetDefined { code, scale } => {
                self.assets.insert(code.to_string(), *scale);
            }
            Fact::AccountOpened { code, asset, normal, limits, metadata } => {
                let account = Account {
                    id: at.position,
                    code: code.clone(),
                    asset: asset.clone(),
                    normal: *normal,
                    attributes: Attributes { closed: false, freeze: None, limits: *limits, metadata: metadata.clone() },
                    opened_at: at.recorded_at,
                    balance: Balance { position: at.position, ..Balance::default() },
                    changed: at.position,
                };
                self.accounts.insert(code.clone(), account);
            }
            Fact::AccountChanged(changed) => {
                let account = self.accounts.get_mut(&changed.account).unwrap();
                account.attributes = changed.after.clone();
                account.changed = at.position;
            }
            Fact::TransactionPosted(transaction) => {
                self.record_usage(transaction, at);
                self.record_legs(&transaction.legs);
                self.record_origin(transaction, at.position);
                let legs = asked(&transaction.legs);
                let remaining = legs.iter().map(|leg| leg.amount).collect();
                self.record_state(id, State::Posted(Posted { legs, remaining }), at.position);
            }
            Fact::TransactionRejected(_) | Fact::BatchRejected { .. } => {
                self.record_state(id, State::Rejected, at.position);
            }
            Fact::TransactionAuthorised(authorisation) => {
                self.record_usage(&authorisation.transaction, at);
                self.record_legs(&authorisation.transaction.legs);
                let legs = asked(&authorisation.transaction.legs);
                let hold = Hold {
                    state: HoldState::Authorised,
                    remaining: legs[0].amount,
                    captured: Amount::ZERO,
                    expires_at: authorisation.expires_at,
                    legs,
                };
                self.record_state(id, State::Hold(hold), at.position);
            }
            Fact::HoldReleased(release) => {
                self.record_legs(&release.legs);
                let state = match release.reason {
                    ReleaseReason::Voided => HoldState::Voided,
                    ReleaseReason::Expired => HoldState::Expired,
                };
                self.record_hold(release.hold.id, state, Amount::ZERO, release.captured, at.position);
            }
            Fact::TransactionScheduled(scheduled) => {
                self.record_state(id, State::Scheduled(Box::new(scheduled.clone())), at.position);
            }
            Fact::ScheduleCancelled(_) => self.record_state(id, State::Cancelled, at.position),
            Fact::RuleSet(rule) => {
                self.rules.insert(rule.key(), (rule.clone(), at.position));
            }
            Fact::RuleRemoved(key) => {
                self.rules.remove(key);
            }
            Fact::PeriodClosed { before } => self.closed_before = Some(*before),
        }
    }

    fn record_usage(&mut self, transaction: &Transaction, at: &Moment) {
        for usage in transaction.more.iter().flat_map(|more| &more.usage) {
            let leg = &transaction.legs[usize::from(usage.leg)];
            self.counted.push(CountedLeg {
                limit: usage.counted.limit,
                account: leg.account.clone(),
                amount: leg.amount,
                at: at.recorded_at,
            });
        }
    }

    fn record_legs(&mut self, legs: &[Leg]) {
        for leg in legs {
            self.accounts.get_mut(&leg.account).unwrap().balance = leg.after;
        }
    }

    /// What a posting does to the transaction that it comes from.
    fn record_origin(&mut self, transaction: &Transaction, position: Position) {
        match transaction.more.as_ref().and_then(|more| more.origin.as_ref()) {
            Some(Origin::Capture { hold, remaining, captured }) => {
                let state = if remaining.is_zero() { HoldState::Captured } else { HoldState::Authorised };
                self.record_hold(hold.id, state, *remaining, *captured, position);
            }
            Some(Origin::Reversal { transaction, remaining, .. }) => {
                let known = self.transactions.get_mut(transaction).unwrap();
                let State::Posted(posted) = &mut known.state else { panic!("only what was posted is reversed") };
                posted.remaining.clone_from(remaining);
                known.changed = position;
            }
            Some(Origin::Schedule { .. }) | None => {}
        }
    }

    fn record_hold(&mut self, id: Uuid, state: HoldState, remaining: Amount, captured: Amount, position: Position) {
        let known = self.transactions.get_mut(&id).unwrap();
        let State::Hold(hold) = &mut known.state else { panic!("only a hold is captured, voided or expires") };
        (hold.state, hold.remaining, hold.captured) = (state, remaining, captured);
        known.changed = position;
    }

    /// The state of a transaction that begins, or of one that was scheduled.
    fn record_state(&mut self, id: Option<Uuid>, state: State, position: Position) {
        let id = id.expect("it is about a transaction");
        let begun = self.transactions.get(&id).map_or(position, |known| known.position);
        self.transactions.insert(id, Known { position: begun, changed: position, state });
    }
}

/// Legs as they had been asked for.
fn asked(legs: &[Leg]) -> SmallVec<[LegRequest; 2]> {
    let asked = |leg: &Leg| LegRequest {
        account: leg.account.clone(),
        side: leg.side,
        amount: leg.amount,
        asset: leg.asset.clone(),
    };
    legs.iter().map(asked).collect()
}
