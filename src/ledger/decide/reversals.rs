//! Reversals: the counterpart of what a transaction has posted, or of a part.
//!
//! Each leg of a reversal takes from the transaction's legs on the same account and
//! the other side, in their order, and never more than is left of them.

use smallvec::SmallVec;

use super::super::amount::Amount;
use super::super::book::Book;
use super::super::event::{Fact, Moment};
use super::super::known::{Posted, State};
use super::super::rejection::{Refusal, Rejection};
use super::super::transaction::{Kind, LegRequest, More, Origin, RejectedTransaction};
use super::transact::{Accounts, Movement, attempt, check_legs, check_period, find_accounts, ids, pass, transaction};
use super::{Declined, Part, Reverse, invalid};

pub(super) fn reverse(book: &Book, reverse: &Reverse, at: &Moment) -> Result<Fact, Declined> {
    match &reverse.part {
        Part::Amount(amount) if !amount.is_positive() => return Err(invalid("an amount is more than zero").into()),
        Part::Legs(legs) => check_legs(legs)?,
        Part::Rest | Part::Amount(_) => {}
    }
    let id = reverse.transaction;
    let known = book.known(&id).ok_or(Refusal::TransactionNotFound(id))?;
    let State::Posted(posted) = &known.state else { return Err(Refusal::NotReversible(id).into()) };
    let asked = asked(posted, &reverse.part)?;
    let asked_accounts = find_accounts(book, &asked)?;
    check_assets(&asked, &asked_accounts)?;
    let rejected = |reason| {
        Declined::Rejected(RejectedTransaction {
            request: attempt(Kind::Reversal, id, reverse.force, asked.clone(), &reverse.notes),
            account_ids: ids(&asked_accounts),
            reason,
            scheduled: None,
        })
    };
    let remaining = take(posted, &asked).map_err(rejected)?;
    let legs = posted.taken(&remaining);
    let accounts = find_accounts(book, &legs)?;
    check_period(book, &legs, at.recorded_at).map_err(rejected)?;
    let movement = Movement::Reversing { forced: reverse.force };
    let (after, _) = pass(book, &legs, &accounts, movement, at).map_err(rejected)?;

    let origin = Origin::Reversal { transaction: id, remaining, forced: reverse.force };
    let more = More { origin: Some(origin), ..More::default() };
    let request = attempt(Kind::Reversal, id, reverse.force, SmallVec::new(), &reverse.notes);
    Ok(Fact::TransactionPosted(transaction(&request, &legs, &accounts, after, Some(Box::new(more)))))
}

/// The legs of the reversal that is asked for.
fn asked(posted: &Posted, part: &Part) -> Result<SmallVec<[LegRequest; 2]>, Refusal> {
    match part {
        Part::Rest => {
            let rest = posted.taken(&vec![Amount::ZERO; posted.legs.len()]);
            // Where nothing is left, the whole is what cannot be had.
            Ok(if rest.is_empty() { posted.legs.iter().map(|leg| leg.mirrored(leg.amount)).collect() } else { rest })
        }
        Part::Amount(_) if posted.legs.len() != 2 => {
            Err(invalid("a part of a transaction of more than two legs is reversed by its legs"))
        }
        Part::Amount(amount) => Ok(posted.legs.iter().map(|leg| leg.mirrored(*amount)).collect()),
        Part::Legs(legs) => Ok(legs.clone()),
    }
}

fn check_assets(legs: &[LegRequest], accounts: &Accounts<'_>) -> Result<(), Refusal> {
    let same = legs.iter().zip(accounts).all(|(leg, account)| leg.asset == account.asset);
    if same { Ok(()) } else { Err(invalid("a leg has the asset of its account")) }
}

/// What is left of each of the transaction's legs after `asked`.
fn take(posted: &Posted, asked: &[LegRequest]) -> Result<SmallVec<[Amount; 2]>, Rejection> {
    let mut remaining = posted.remaining.clone();
    for leg in asked {
        let mut missing = leg.amount;
        for (left, original) in remaining.iter_mut().zip(&posted.legs) {
            if original.account == leg.account && original.side != leg.side {
                let part = missing.min(*left);
                missing = missing.less(part);
                *left = left.less(part);
            }
        }
        if missing.is_positive() {
            return Err(Rejection::ReversalExceedsTransaction {
                account: leg.account.clone(),
                remaining: left_for(posted, leg),
            });
        }
    }
    Ok(remaining)
}

/// All that could be taken by `leg`, if it were the only one.
fn left_for(posted: &Posted, leg: &LegRequest) -> Amount {
    let lefts = posted.legs.iter().zip(&posted.remaining);
    let lefts = lefts.filter(|(original, _)| original.account == leg.account && original.side != leg.side);
    lefts.fold(Amount::ZERO, |sum, (_, left)| sum.checked_add(*left).unwrap_or(Amount::MAX))
}
