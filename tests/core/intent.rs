//! What a client of a made-up history wants: a command whose transactions and
//! moments are chosen only when it is its turn, among those that there are then.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::sample::Index;
use steelyard::ledger::{
    Account, AccountCode, AccountUpdate, Amount, Cancel, Capture, ChangeAccount, Command, Expiry, HoldState, Known,
    LegRequest, Notes, Part, Reverse, RuleKey, Side, State, Terms, TransactionRequest, Void,
};
use uuid::Uuid;

use crate::model::Model;
use crate::scenario::{Flaw, spoil};

#[derive(Clone, Debug)]
pub enum Intent {
    /// A command that depends on nothing.
    Plain(Command),
    Transact {
        request: TransactionRequest,
        effective_at: Option<When>,
        hold: Option<Term>,
    },
    Capture {
        of: Pick,
        /// `None` is all that remains.
        portion: Option<Portion>,
        last: bool,
        reference: Option<Arc<str>>,
    },
    Void {
        of: Pick,
    },
    Reverse {
        of: Pick,
        part: ReversePart,
        force: bool,
        reference: Option<Arc<str>>,
    },
    Cancel {
        of: Pick,
    },
    Change {
        /// Where `index` is set, it is one of those that it would do something to,
        /// as long as there is one.
        code: AccountCode,
        index: Option<Index>,
        change: AccountUpdate,
    },
    RemoveRule {
        /// As with [`Self::Change`].
        key: RuleKey,
        index: Option<Index>,
    },
    ClosePeriod {
        before: When,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Seconds from now.
    In(i64),
    At(DateTime<Utc>),
}

/// When a hold is to end by itself.
#[derive(Clone, Copy, Debug)]
pub enum Term {
    Never,
    At(When),
    In(u32),
}

/// One of the transactions of a sort.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    pub target: Target,
    pub index: Index,
}

#[derive(Clone, Copy, Debug)]
pub enum Target {
    OpenHold,
    Hold,
    Posted,
    Scheduled,
    Any,
    /// None that there is.
    None,
}

/// How much of what is left.
#[derive(Clone, Copy, Debug)]
pub enum Portion {
    All,
    Percent(u8),
    OneMore,
    Amount(Amount),
}

#[derive(Clone, Debug)]
pub enum ReversePart {
    Rest,
    Amount(Portion),
    /// Pairs of a leg and one of the other side in the same asset, with how much of
    /// what is left of both.
    Legs {
        pairs: Vec<(Index, Index, Portion)>,
        flaw: Option<(Flaw, usize)>,
    },
}

impl When {
    fn resolve(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::In(seconds) => now + TimeDelta::seconds(seconds),
            Self::At(moment) => moment,
        }
    }
}

impl Portion {
    fn of(self, left: Amount) -> Amount {
        match self {
            Self::All => left,
            Self::Percent(percent) => Amount::new((left.get() / 100 * i128::from(percent)).max(1)).unwrap(),
            Self::OneMore => left.checked_add(Amount::from(1)).unwrap_or(left),
            Self::Amount(amount) => amount,
        }
    }
}

impl Pick {
    /// The transaction's id; one that is not known, where there is none to pick.
    fn resolve(self, model: &Model, may_be_picked: &impl Fn(&Uuid) -> bool) -> (Uuid, Option<Known>) {
        let fits = |known: &Known| match self.target {
            Target::OpenHold => matches!(&known.state, State::Hold(hold) if hold.state == HoldState::Authorised),
            Target::Hold => matches!(known.state, State::Hold(_)),
            Target::Posted => matches!(known.state, State::Posted(_)),
            Target::Scheduled => matches!(known.state, State::Scheduled(_)),
            Target::Any => true,
            Target::None => false,
        };
        let sort = |fits: &dyn Fn(&Known) -> bool| -> Vec<(&Uuid, &Known)> {
            model.transactions.iter().filter(|(id, known)| fits(known) && may_be_picked(id)).collect()
        };
        let mut candidates = sort(&fits);
        if candidates.is_empty() && matches!(self.target, Target::OpenHold) {
            candidates = sort(&|known| matches!(known.state, State::Hold(_)));
        }
        if candidates.is_empty() && !matches!(self.target, Target::None) {
            candidates = sort(&|_| true);
        }
        match candidates.len() {
            0 => (Uuid::from_u128(1), None),
            len => {
                let (id, known) = candidates[self.index.index(len)];
                (*id, Some(known.clone()))
            }
        }
    }
}

impl Intent {
    /// The command, as of `now` and of what `model` knows.
    pub fn resolve(&self, model: &Model, now: DateTime<Utc>, may_be_picked: impl Fn(&Uuid) -> bool) -> Command {
        let notes = |reference: &Option<Arc<str>>| Notes { reference: reference.clone(), ..Notes::default() };
        match self {
            Self::Plain(command) => command.clone(),
            Self::Transact { request, effective_at, hold } => {
                let mut request = request.clone();
                request.effective_at = effective_at.map(|when| when.resolve(now));
                if let Some(term) = hold {
                    let expiry = match *term {
                        Term::Never => Expiry::Never,
                        Term::At(when) => Expiry::At(when.resolve(now)),
                        Term::In(seconds) => Expiry::In(seconds),
                    };
                    request.terms = Some(Box::new(Terms { hold: Some(expiry), ..Terms::default() }));
                }
                Command::Transact(request)
            }
            Self::Capture { of, portion, last, reference } => {
                let (payment, known) = of.resolve(model, &may_be_picked);
                let left = match known {
                    Some(Known { state: State::Hold(hold), .. }) => hold.remaining,
                    _ => Amount::from(10),
                };
                let amount = portion.map(|portion| portion.of(left));
                Command::Capture(Capture { payment, amount, last: *last, notes: notes(reference) })
            }
            Self::Void { of } => {
                let (payment, _) = of.resolve(model, &may_be_picked);
                Command::Void(Void { payment })
            }
            Self::Reverse { of, part, force, reference } => {
                let (transaction, known) = of.resolve(model, &may_be_picked);
                let part = part.resolve(known.as_ref());
                Command::Reverse(Reverse { transaction, part, force: *force, notes: notes(reference) })
            }
            Self::Cancel { of } => {
                let (transaction, _) = of.resolve(model, &may_be_picked);
                Command::Cancel(Cancel { transaction })
            }
            Self::Change { code, index, change } => {
                let suits = |account: &&Account| {
                    let (attributes, balance) = (&account.attributes, &account.balance);
                    match change {
                        AccountUpdate::Update { .. } | AccountUpdate::Freeze(_) => true,
                        AccountUpdate::Unfreeze { .. } => !attributes.closed && attributes.freeze.is_some(),
                        AccountUpdate::Reopen { .. } => attributes.closed,
                        AccountUpdate::Close { .. } => {
                            !attributes.closed && balance.debits_posted == balance.credits_posted
                        }
                    }
                };
                let suitable: Vec<&Account> = model.accounts.values().filter(suits).collect();
                let code = match index {
                    Some(index) if !suitable.is_empty() => suitable[index.index(suitable.len())].code.clone(),
                    _ => code.clone(),
                };
                Command::ChangeAccount(ChangeAccount { code, change: change.clone() })
            }
            Self::RemoveRule { key, index } => {
                let keys: Vec<&RuleKey> = model.rules.keys().collect();
                let key = match index {
                    Some(index) if !keys.is_empty() => keys[index.index(keys.len())].clone(),
                    _ => key.clone(),
                };
                Command::RemoveRule(key)
            }
            Self::ClosePeriod { before } => Command::ClosePeriod { before: before.resolve(now) },
        }
    }
}

impl ReversePart {
    fn resolve(&self, known: Option<&Known>) -> Part {
        let posted = match known {
            Some(Known { state: State::Posted(posted), .. }) => Some(posted),
            _ => None,
        };
        match (self, posted) {
            (Self::Rest, _) => Part::Rest,
            (Self::Amount(portion), Some(posted)) => Part::Amount(portion.of(posted.remaining[0])),
            (Self::Amount(_) | Self::Legs { .. }, None) => Part::Amount(Amount::from(1)),
            (Self::Legs { pairs, flaw }, Some(posted)) => {
                let mirrored = |index: usize, amount| {
                    let leg = &posted.legs[index];
                    let side = if leg.side == Side::Debit { Side::Credit } else { Side::Debit };
                    LegRequest { side, amount, ..leg.clone() }
                };
                let mut legs: Vec<LegRequest> = Vec::new();
                for (one, other, portion) in pairs {
                    let one = one.index(posted.legs.len());
                    let matches = |index: &usize| {
                        posted.legs[*index].asset == posted.legs[one].asset
                            && posted.legs[*index].side != posted.legs[one].side
                    };
                    let others: Vec<usize> = (0..posted.legs.len()).filter(matches).collect();
                    let other = others[other.index(others.len())];
                    let amount = portion.of(posted.remaining[one].min(posted.remaining[other]));
                    legs.extend([mirrored(one, amount), mirrored(other, amount)]);
                }
                if let Some((flaw, at)) = flaw {
                    spoil(&mut legs, *flaw, *at);
                }
                Part::Legs(legs.into_iter().collect())
            }
        }
    }
}
