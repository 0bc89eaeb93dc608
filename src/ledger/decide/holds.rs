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

use super::transact::{After, attempt, check_status, find_accounts, ids, transaction, written};
use super::{Capture, Declined, Notes, Void, invalid};
use crate::ledger::amount::Amount;
use crate::ledger::book::Book;
use crate::ledger::event::{Fact, Moment};
use crate::ledger::known::{Hold, HoldState, Known, State};
use crate::ledger::name::AccountCode;
use crate::ledger::rejection::{Field, Place, Refusal, Rejection};
use crate::ledger::transaction::{
    HoldRef, Kind, LegRequest, More, Origin, RejectedTransaction, Release, ReleaseReason,
};

/// Posts what is reserved. The funds are there since they were authorised: neither
/// floor nor cap nor velocity limit is asked again.
pub(super) fn capture(book: &Book, capture: &Capture, at: &Moment) -> Result<Fact, Declined> {
    if capture.amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(invalid(Place::Field(Field::Amount), "an amount is more than zero").into());
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
        return Err(declined_void(book, hold, void.payment, reason)?);
    }
    release(book, void.payment, ReleaseReason::Voided, at)
}

fn declined_void(book: &Book, hold: &Hold, id: Uuid, reason: Rejection) -> Result<Declined, Refusal> {
    let account_ids = ids(&find_accounts(book, &hold.legs)?);
    let request = attempt(Kind::Void, id, false, hold.legs.clone(), &Notes::default());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fixture::{self, Ledger, amount, capture, code, freeze, hold, id, moment, pay, reverse, void};
    use crate::ledger::{
        Command, Event, Expiry, FreezeScope, Part, Refusal, Rejection, Side, Terms, TransactionRequest, Verdict,
    };

    fn rejected(event: Event) -> RejectedTransaction {
        match event.fact {
            Fact::TransactionRejected(rejected) => rejected,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hold_is_captured_in_parts_and_its_rest_is_given_back() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::Never));
        assert_eq!((ledger.balance("alice"), ledger.balance("bob")), ((1000, 100, 0), (1000, 0, 100)));

        let first = ledger.record(&capture(held, Some(30), false));
        assert_eq!((ledger.balance("alice"), ledger.balance("bob")), ((970, 70, 0), (1030, 0, 70)));
        assert_ne!(first.transaction_id, Some(held), "a capture is a transaction of its own");
        assert_eq!(first.fact.subject(), Some(held));

        ledger.record(&capture(held, Some(20), true));
        assert_eq!((ledger.balance("alice"), ledger.balance("bob")), ((950, 0, 0), (1050, 0, 0)));
        let State::Hold(captured) = ledger.state_of(held) else { panic!("it stays a hold") };
        let (remaining, total) = (captured.remaining.get(), captured.captured.get());
        assert_eq!((captured.state, remaining, total), (HoldState::Captured, 0, 50));
    }

    #[test]
    fn what_is_reserved_raises_no_version() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let version = |ledger: &Ledger| ledger.book.account(&code("alice")).unwrap().balance.version;
        let before = version(&ledger);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::Never));
        assert_eq!(version(&ledger), before);
        ledger.record(&capture(held, Some(1), false));
        assert_eq!(version(&ledger), before + 1);
        ledger.record(&void(held));
        assert_eq!(version(&ledger), before + 1);
        assert_eq!(ledger.book.account(&code("alice")).unwrap().balance.position, ledger.head);
    }

    /// Every state against every command.
    #[test]
    fn only_an_authorised_hold_is_captured_or_voided() {
        for (end, state) in [
            (capture(id(0), None, false), HoldState::Captured),
            (void(id(0)), HoldState::Voided),
            (Command::Settle(id(0)), HoldState::Expired),
        ] {
            let mut ledger = Ledger::with(&["alice", "bob"]);
            let held = ledger.begin(&hold("alice", "bob", 100, Expiry::In(60)));
            let about = |command: &Command| match command {
                Command::Capture(_) => capture(held, None, false),
                Command::Void(_) => void(held),
                _ => Command::Settle(held),
            };
            ledger.at(60).record(&about(&end));
            let balances = (ledger.balance("alice"), ledger.balance("bob"));
            assert_eq!((balances.0.1, balances.1.2), (0, 0), "{state:?}: nothing is pending");
            let not_open = Rejection::HoldNotOpen { account: code("alice"), state };
            for command in [capture(held, None, false), capture(held, Some(100), true), void(held)] {
                assert_eq!(ledger.rejection(&command), not_open);
            }
            assert_eq!(ledger.decide(&Command::Settle(held)), Verdict::Unchanged);
            assert_eq!((ledger.balance("alice"), ledger.balance("bob")), balances);
        }
    }

    #[test]
    fn a_hold_ends_exactly_when_it_expires() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::At(moment(60))));
        ledger.record(&capture(held, Some(40), false));
        assert_eq!(ledger.at(59).decide(&Command::Settle(held)), Verdict::Unchanged);
        let expired = ledger.at(75).record(&Command::Settle(held));
        assert_eq!(expired.fact.type_name(), "hold_expired");
        assert_eq!((expired.transaction_id, expired.effective_at), (Some(held), moment(60)));
        assert_eq!((ledger.balance("alice"), ledger.balance("bob")), ((960, 0, 0), (1040, 0, 0)));
        let State::Hold(hold) = ledger.state_of(held) else { panic!("it stays a hold") };
        assert_eq!((hold.state, hold.captured.get()), (HoldState::Expired, 40));
        assert_eq!(ledger.book.waiting(), 0);
    }

    #[test]
    fn more_than_is_reserved_is_not_captured() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::Never));
        ledger.record(&capture(held, Some(30), false));
        let exceeds = Rejection::CaptureExceedsHold { account: code("alice"), remaining: amount(70) };
        assert_eq!(ledger.rejection(&capture(held, Some(71), true)), exceeds);
        ledger.record(&capture(held, Some(70), false));
        assert!(ledger.is_invalid(&capture(held, Some(0), false)));
        assert_eq!(ledger.refusal(&void(id(999))), Refusal::TransactionNotFound(id(999)));
        let posted = ledger.begin(&pay("alice", "bob", 1));
        assert_eq!(ledger.refusal(&capture(posted, None, true)), Refusal::NotAHold(posted));
        assert_eq!(ledger.refusal(&reverse(held, Part::Rest, false)), Refusal::NotReversible(held));
    }

    #[test]
    fn reserved_funds_count_against_floor_and_cap_and_are_there_when_captured() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        ledger.record(&fixture::limits("alice", Some(0), None));
        ledger.record(&fixture::limits("bob", None, Some(1900)));
        let held = ledger.begin(&hold("alice", "bob", 800, Expiry::Never));
        let short = |would_be| Rejection::InsufficientFunds {
            account: code("alice"),
            available: amount(200),
            would_be: amount(would_be),
            min_balance: Amount::ZERO,
        };
        assert_eq!(ledger.rejection(&hold("alice", "bob", 201, Expiry::Never)), short(-1));
        assert_eq!(ledger.rejection(&pay("alice", "bank", 300)), short(-100));
        let full =
            Rejection::BalanceLimitExceeded { account: code("bob"), would_be: amount(1901), max_balance: amount(1900) };
        assert_eq!(ledger.rejection(&hold("bank", "bob", 101, Expiry::Never)), full);
        ledger.record(&hold("alice", "bob", 100, Expiry::Never));
        ledger.record(&pay("alice", "bank", 100));
        assert_eq!(ledger.balance("alice"), (900, 900, 0));
        ledger.record(&capture(held, None, false));
        assert_eq!(ledger.balance("alice"), (100, 100, 0));
    }

    #[test]
    fn a_frozen_account_is_not_captured_from_but_its_holds_are_voided() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::Never));
        for (account, scope, declined) in [
            ("alice", FreezeScope::Credits, false),
            ("bob", FreezeScope::Debits, false),
            ("bob", FreezeScope::All, true),
            ("alice", FreezeScope::Debits, true),
        ] {
            ledger.record(&freeze(account, scope));
            if declined {
                let frozen = Rejection::AccountFrozen { account: code(account) };
                assert_eq!(ledger.rejection(&capture(held, Some(1), false)), frozen);
            } else {
                ledger.record(&capture(held, Some(1), false));
            }
        }
        ledger.record(&void(held));
        assert_eq!(ledger.balance("alice"), (998, 0, 0));
    }

    #[test]
    fn only_payments_are_held_and_for_no_more_than_five_years() {
        let ledger = Ledger::with(&["alice", "bob"]);
        let with = |request: TransactionRequest| {
            let terms = Some(Box::new(Terms { hold: Some(Expiry::Never), ..Terms::default() }));
            Command::Transact(TransactionRequest { terms, ..request })
        };
        let payment = fixture::payment("alice", "bob", 1);
        for request in [
            fixture::transaction("debit alice 1 EUR, credit bob 1 EUR"),
            TransactionRequest {
                kind: Kind::Payment,
                ..fixture::transaction("debit alice 2 EUR, credit bob 1 EUR, credit bank 1 EUR")
            },
            TransactionRequest { kind: Kind::Payment, ..fixture::transaction("credit alice 1 EUR, debit bob 1 EUR") },
            TransactionRequest { effective_at: Some(moment(0)), ..payment.clone() },
        ] {
            assert!(ledger.is_invalid(&with(request.clone())), "{request:?}");
        }
        // As without a hold, and after all that is wrong with the request.
        let to_itself = with(fixture::payment("alice", "alice", 1));
        assert_eq!(ledger.refusal(&to_itself), Refusal::SameAccount(code("alice")));
        assert!(ledger.is_invalid(&hold("alice", "alice", 1, Expiry::In(0))));
        let longest = 1_830 * 86_400;
        for (expiry, valid) in [
            (Expiry::In(0), false),
            (Expiry::In(1), true),
            (Expiry::In(longest), true),
            (Expiry::In(longest + 1), false),
            (Expiry::At(moment(0)), false),
            (Expiry::At(moment(1)), true),
            (Expiry::At(moment(i64::from(longest))), true),
            (Expiry::At(moment(i64::from(longest) + 1)), false),
        ] {
            let verdict = ledger.decide(&hold("alice", "bob", 1, expiry));
            assert_eq!(matches!(verdict, Verdict::Record(_)), valid, "{expiry:?}");
        }
    }

    #[test]
    fn a_declined_attempt_is_recorded_with_what_was_asked() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&hold("alice", "bob", 100, Expiry::Never));
        let exceeded = ledger.record(&capture(held, Some(150), false));
        assert_eq!(exceeded.transaction_id, Some(id(exceeded.position)), "it is not the hold that is declined");
        let exceeded = rejected(exceeded);
        let legs = |value| {
            smallvec::SmallVec::from([
                fixture::leg(Side::Debit, "alice", value, "EUR"),
                fixture::leg(Side::Credit, "bob", value, "EUR"),
            ])
        };
        assert_eq!((exceeded.request.kind, exceeded.request.legs), (Kind::Capture, legs(150)));
        assert_eq!(exceeded.request.terms.unwrap().of, Some(held));
        ledger.record(&capture(held, Some(60), false));
        ledger.record(&void(held));
        let void = rejected(ledger.record(&void(held)));
        assert_eq!((void.request.kind, void.request.legs), (Kind::Void, legs(100)));
        assert_eq!(void.account_ids.as_slice(), [2, 3]);
        let captured = rejected(ledger.record(&capture(held, None, false)));
        assert_eq!(captured.request.legs, legs(100));
    }

    #[test]
    fn a_capture_that_leaves_38_digits_is_declined() {
        let mut ledger = Ledger::with(&["alice"]);
        let most = Amount::MAX.get();
        ledger.record(&pay("alice", "bank", most));
        ledger.record(&pay("bank", "alice", most - 2000));
        let held = ledger.begin(&hold("alice", "bank", 1, Expiry::Never));
        let full =
            Rejection::BalanceLimitExceeded { account: code("alice"), would_be: Amount::MAX, max_balance: Amount::MAX };
        assert_eq!(ledger.rejection(&capture(held, None, false)), full);
        ledger.record(&void(held));
    }
}
