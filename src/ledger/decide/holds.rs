//! Holds: funds that are reserved are captured, or given back.
//!
//! | command | authorised | captured, voided or expired |
//! | --- | --- | --- |
//! | capture of a part | authorised, with less reserved | `hold_not_open` |
//! | capture of a part, the last one | captured; the rest is given back | `hold_not_open` |
//! | capture of all that remains | captured | `hold_not_open` |
//! | capture of more | `capture_exceeds_hold` | `hold_not_open` |
//! | void | voided; the rest is given back | `hold_not_open` |
//! | its time | expired; the rest is given back | nothing to do |

use smallvec::SmallVec;
use uuid::Uuid;

use super::super::amount::Amount;
use super::super::book::Book;
use super::super::event::{Fact, Moment};
use super::super::known::{Hold, HoldState, Known, State};
use super::super::name::AccountCode;
use super::super::rejection::{Refusal, Rejection};
use super::super::transaction::{HoldRef, Kind, LegRequest, More, Origin, RejectedTransaction, Release, ReleaseReason};
use super::transact::{After, attempt, check_status, find_accounts, ids, transaction, written};
use super::{Capture, Declined, Notes, Void, invalid};

/// Posts what is reserved. The funds are there since they were authorised: neither
/// floor nor cap nor velocity limit is asked again.
pub(super) fn capture(book: &Book, capture: &Capture, at: &Moment) -> Result<Fact, Declined> {
    if capture.amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(invalid("an amount is more than zero").into());
    }
    let (known, hold) = find(book, capture.payment)?;
    let asked = capture.amount.unwrap_or(if hold.remaining.is_zero() { hold.legs[0].amount } else { hold.remaining });
    let legs = with_amount(hold, asked);
    let accounts = find_accounts(book, &legs)?;
    let request = |legs| attempt(Kind::Capture, capture.payment, false, legs, &capture.notes);
    let rejected = |reason| {
        let (request, account_ids) = (request(legs.clone()), ids(&accounts));
        Declined::Rejected(RejectedTransaction { request, account_ids, reason, scheduled: None })
    };
    check_open(hold).map_err(rejected)?;
    let Some(left) = hold.remaining.checked_sub(asked).filter(|left| *left >= Amount::ZERO) else {
        let (account, remaining) = (debited(hold), hold.remaining);
        return Err(rejected(Rejection::CaptureExceedsHold { account, remaining }));
    };
    check_status(&legs, &accounts).map_err(rejected)?;

    let (remaining, released) =
        if capture.last || left.is_zero() { (Amount::ZERO, hold.remaining) } else { (left, asked) };
    let mut after = After::new();
    for (leg, account) in legs.iter().zip(&accounts) {
        let Some(posted) = account.balance.with_posted(leg.side, asked, at.position) else {
            let account = account.code.clone();
            let (would_be, max_balance) = (Amount::MAX, Amount::MAX);
            return Err(rejected(Rejection::BalanceLimitExceeded { account, would_be, max_balance }));
        };
        after.push(posted.with_released(leg.side, released, at.position));
    }
    let origin = Origin::Capture {
        hold: HoldRef { id: capture.payment, position: known.position },
        remaining,
        // Both are parts of the hold's amount, and so is their sum.
        captured: hold.captured.checked_add(asked).unwrap_or(Amount::MAX),
    };
    let more = More { origin: Some(origin), ..More::default() };
    let request = request(SmallVec::new());
    Ok(Fact::TransactionPosted(transaction(&request, &legs, &accounts, after, Some(Box::new(more)))))
}

/// Gives back what is reserved, on frozen accounts too: nothing is posted.
pub(super) fn void(book: &Book, void: &Void, at: &Moment) -> Result<Fact, Declined> {
    let (_, hold) = find(book, void.payment)?;
    if let Err(reason) = check_open(hold) {
        return Err(declined_void(book, hold, void.payment, &void.notes, reason)?);
    }
    release(book, void.payment, ReleaseReason::Voided, at)
}

fn declined_void(book: &Book, hold: &Hold, id: Uuid, notes: &Notes, reason: Rejection) -> Result<Declined, Refusal> {
    let account_ids = ids(&find_accounts(book, &hold.legs)?);
    let request = attempt(Kind::Void, id, false, hold.legs.clone(), notes);
    Ok(Declined::Rejected(RejectedTransaction { request, account_ids, reason, scheduled: None }))
}

/// The end of a hold that is authorised.
pub(super) fn release(book: &Book, id: Uuid, reason: ReleaseReason, at: &Moment) -> Result<Fact, Declined> {
    let (known, hold) = find(book, id)?;
    let legs = with_amount(hold, hold.remaining);
    let accounts = find_accounts(book, &legs)?;
    let after = legs.iter().zip(&accounts);
    let after = after.map(|(leg, account)| account.balance.with_released(leg.side, leg.amount, at.position)).collect();
    Ok(Fact::HoldReleased(Release {
        hold: HoldRef { id, position: known.position },
        reason,
        legs: written(&legs, &accounts, after),
        captured: hold.captured,
    }))
}

fn find(book: &Book, id: Uuid) -> Result<(&Known, &Hold), Refusal> {
    let known = book.known(&id).ok_or(Refusal::TransactionNotFound(id))?;
    match &known.state {
        State::Hold(hold) => Ok((known, hold)),
        _ => Err(Refusal::NotAHold(id)),
    }
}

fn check_open(hold: &Hold) -> Result<(), Rejection> {
    match hold.state {
        HoldState::Authorised => Ok(()),
        state => Err(Rejection::HoldNotOpen { account: debited(hold), state }),
    }
}

fn debited(hold: &Hold) -> AccountCode {
    hold.legs[0].account.clone()
}

fn with_amount(hold: &Hold, amount: Amount) -> SmallVec<[LegRequest; 2]> {
    hold.legs.iter().map(|leg| LegRequest { amount, ..leg.clone() }).collect()
}
