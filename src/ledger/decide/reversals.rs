//! Reversals: the counterpart of what a transaction has posted, or of a part.
//!
//! Each leg of a reversal takes from the transaction's legs on the same account and
//! the other side, in their order, and never more than is left of them.

use smallvec::SmallVec;

use super::transact::{Accounts, Movement, attempt, check_legs, check_period, find_accounts, ids, pass, transaction};
use super::{Declined, Part, Reverse, invalid};
use crate::ledger::amount::Amount;
use crate::ledger::book::Book;
use crate::ledger::event::{Fact, Moment};
use crate::ledger::known::{Posted, State};
use crate::ledger::rejection::{Field, Place, Refusal, Rejection};
use crate::ledger::transaction::{Kind, LegRequest, More, Origin, RejectedTransaction};

pub(super) fn reverse(book: &Book, reverse: &Reverse, at: &Moment) -> Result<Fact, Declined> {
    match &reverse.part {
        Part::Amount(amount) if !amount.is_positive() => {
            return Err(invalid(Place::Field(Field::Amount), "an amount is more than zero").into());
        }
        Part::Legs(legs) => check_legs(legs)?,
        Part::Rest | Part::Amount(_) => {}
    }
    let id = reverse.transaction;
    let known = book.known(&id).ok_or(Refusal::TransactionNotFound(id))?;
    let State::Posted(posted) = &known.state else { return Err(Refusal::NotReversible(id).into()) };
    let asked = asked(posted, &reverse.part)?;
    let asked_accounts = find_accounts(book, &asked)?;
    check_originals(posted, &asked, &asked_accounts)?;
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
            let rule = "a part of a transaction of more than two legs is reversed by its legs";
            Err(invalid(Place::Field(Field::Amount), rule))
        }
        Part::Amount(amount) => Ok(posted.legs.iter().map(|leg| leg.mirrored(*amount)).collect()),
        Part::Legs(legs) => Ok(legs.clone()),
    }
}

/// Each leg is the other side of one of the transaction's, however much is left of that.
fn check_originals(posted: &Posted, legs: &[LegRequest], accounts: &Accounts<'_>) -> Result<(), Refusal> {
    if let Some(leg) = legs.iter().zip(accounts).position(|(leg, account)| leg.asset != account.asset) {
        return Err(invalid(Place::Leg(leg, Field::Asset), "a leg has the asset of its account"));
    }
    let is_in_it = |leg: &LegRequest| posted.legs.iter().any(|original| is_taken_by(original, leg));
    if let Some(leg) = legs.iter().position(|leg| !is_in_it(leg)) {
        let rule = "a leg of a reversal is on the other side of a leg of the transaction, on the same account";
        return Err(invalid(Place::Leg(leg, Field::Account), rule));
    }
    Ok(())
}

/// Whether a leg of a reversal takes from this leg of the transaction.
fn is_taken_by(original: &LegRequest, leg: &LegRequest) -> bool {
    original.account == leg.account && original.side != leg.side
}

/// What is left of each of the transaction's legs after `asked`.
fn take(posted: &Posted, asked: &[LegRequest]) -> Result<SmallVec<[Amount; 2]>, Rejection> {
    let mut remaining = posted.remaining.clone();
    for leg in asked {
        let mut missing = leg.amount;
        for (left, original) in remaining.iter_mut().zip(&posted.legs) {
            if is_taken_by(original, leg) {
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
    let lefts = lefts.filter(|(original, _)| is_taken_by(original, leg));
    lefts.fold(Amount::ZERO, |sum, (_, left)| sum.checked_add(*left).unwrap_or(Amount::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fixture::{self, Ledger, amount, code, freeze, id, legs, pay, reverse, transaction};
    use crate::ledger::{Command, FreezeScope, OpenAccount};

    fn exceeds(account: &str, remaining: i128) -> Rejection {
        Rejection::ReversalExceedsTransaction { account: code(account), remaining: amount(remaining) }
    }

    fn part(value: i128) -> Part {
        Part::Amount(amount(value))
    }

    #[test]
    fn a_payment_is_reversed_in_parts_and_never_beyond_what_is_left() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let paid = ledger.begin(&pay("alice", "bob", 100));
        let reversal = ledger.record(&reverse(paid, part(30), false));
        assert_eq!(reversal.fact.subject(), Some(paid));
        assert_eq!((ledger.balance("alice").0, ledger.balance("bob").0), (930, 1070));
        assert_eq!(ledger.rejection(&reverse(paid, part(71), false)), exceeds("alice", 70));
        ledger.record(&reverse(paid, Part::Rest, false));
        assert_eq!((ledger.balance("alice").0, ledger.balance("bob").0), (1000, 1000));
        assert_eq!(ledger.rejection(&reverse(paid, Part::Rest, false)), exceeds("alice", 0));
        assert_eq!(ledger.rejection(&reverse(paid, part(1), true)), exceeds("alice", 0));
    }

    #[test]
    fn what_is_not_posted_is_not_reversed() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        assert_eq!(ledger.refusal(&reverse(id(99), Part::Rest, false)), Refusal::TransactionNotFound(id(99)));
        assert!(ledger.is_invalid(&reverse(id(99), part(0), false)));
        let scheduled = ledger.begin(&fixture::pay_at("alice", "bob", 1, fixture::moment(9)));
        assert_eq!(ledger.refusal(&reverse(scheduled, Part::Rest, false)), Refusal::NotReversible(scheduled));
    }

    #[test]
    fn a_reversal_can_be_reversed_and_a_capture_too() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let held = ledger.begin(&fixture::hold("alice", "bob", 100, crate::ledger::Expiry::Never));
        let captured = ledger.begin(&fixture::capture(held, Some(60), true));
        let reversal = ledger.begin(&reverse(captured, part(50), false));
        ledger.record(&reverse(reversal, Part::Rest, false));
        assert_eq!((ledger.balance("alice").0, ledger.balance("bob").0), (940, 1060));
        assert_eq!(ledger.rejection(&reverse(captured, part(11), false)), exceeds("alice", 10));
    }

    #[test]
    fn only_force_breaks_a_floor_and_nothing_else() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let paid = ledger.begin(&pay("alice", "bob", 100));
        ledger.record(&pay("bob", "bank", 1050));
        ledger.record(&fixture::limits("bob", Some(0), None));
        let short = ledger.rejection(&reverse(paid, Part::Rest, false));
        assert_eq!(short.code(), "insufficient_funds");
        ledger.record(&fixture::limits("alice", None, Some(950)));
        let full = ledger.rejection(&reverse(paid, Part::Rest, true));
        assert_eq!((full.code(), full.account()), ("balance_limit_exceeded", &code("alice")));
        ledger.record(&freeze("bob", FreezeScope::Debits));
        let frozen = ledger.rejection(&reverse(paid, part(50), true));
        assert_eq!((frozen.code(), frozen.account()), ("account_frozen", &code("bob")));
        ledger.record(&freeze("bob", FreezeScope::Credits));
        let forced = ledger.record(&reverse(paid, part(50), true));
        assert_eq!((ledger.balance("alice").0, ledger.balance("bob").0), (950, 0));
        let Fact::TransactionPosted(forced) = forced.fact else { panic!("it is posted") };
        let origin = forced.more.unwrap().origin.unwrap();
        let Origin::Reversal { transaction, remaining, forced } = origin else { panic!("{origin:?}") };
        assert_eq!((transaction, remaining.as_slice(), forced), (paid, &[amount(50), amount(50)][..], true));
    }

    #[test]
    fn legs_take_from_the_legs_of_their_account_in_order() {
        let mut ledger = Ledger::with(&["alice", "bob", "carol"]);
        let posted = "debit alice 10 EUR, debit alice 20 EUR, credit bob 25 EUR, credit carol 5 EUR, debit bob 1 EUR, credit bob 1 EUR";
        let posted = ledger.begin(&Command::Transact(transaction(posted)));
        let of = |text: &str| reverse(posted, Part::Legs(legs(text)), false);

        let event = ledger.record(&of("debit bob 15 EUR, credit alice 15 EUR"));
        let written: Vec<_> =
            event.fact.legs().iter().map(|leg| (leg.account.as_str(), leg.side, leg.amount.get())).collect();
        use crate::ledger::Side::{Credit, Debit};
        assert_eq!(written, [("alice", Credit, 10), ("alice", Credit, 5), ("bob", Debit, 15)]);
        let State::Posted(left) = ledger.state_of(posted) else { panic!("it stays posted") };
        let left: Vec<_> = left.remaining.iter().map(|left| left.get()).collect();
        assert_eq!(left, [0, 15, 10, 5, 1, 1]);

        assert_eq!(ledger.rejection(&of("debit bob 12 EUR, credit alice 12 EUR")), exceeds("bob", 11));
        for (command, place) in [
            // Alice has none on that side, and the bank has no leg in it.
            (of("debit alice 1 EUR, credit bob 1 EUR"), Place::Leg(0, Field::Account)),
            (of("credit alice 1 EUR, debit bank 1 EUR"), Place::Leg(1, Field::Account)),
            (of("debit bob 2 EUR, credit alice 1 EUR"), Place::Field(Field::Legs)),
            (of("debit bob 0 EUR, credit alice 0 EUR"), Place::Leg(0, Field::Amount)),
            (
                of("debit bob 1 EUR, credit alice 1 EUR, debit bob 1 USD, credit alice 1 USD"),
                Place::Leg(2, Field::Asset),
            ),
            (reverse(posted, part(1), false), Place::Field(Field::Amount)),
        ] {
            assert_eq!(ledger.wrong_place(&command), place, "{command:?}");
        }
        let nobody = ledger.refusal(&of("debit bob 1 EUR, credit nobody 1 EUR"));
        assert_eq!(nobody, Refusal::AccountNotFound(smallvec::smallvec![(1, code("nobody"))]));
        assert_eq!(of("debit bob 1 EUR, credit alice 1 EUR").accounts().count(), 2);

        ledger.record(&reverse(posted, Part::Rest, false));
        for account in ["alice", "bob", "carol"] {
            assert_eq!(ledger.balance(account).0, 1000);
        }
    }

    #[test]
    fn an_exchange_is_reversed_as_a_whole_or_by_one_asset() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        for account in ["alice:usd", "bob:usd"] {
            let open = OpenAccount { asset: fixture::asset("USD"), min_balance: Some(None), ..fixture::open(account) };
            ledger.record(&Command::OpenAccount(open));
        }
        let text = "debit alice 100 EUR, credit bob 100 EUR, debit bob:usd 110 USD, credit alice:usd 110 USD";
        let exchanged = ledger.begin(&Command::Transact(transaction(text)));
        let dollars = legs("credit bob:usd 10 USD, debit alice:usd 10 USD");
        ledger.record(&reverse(exchanged, Part::Legs(dollars), false));
        assert_eq!((ledger.balance("alice").0, ledger.balance("alice:usd").0), (900, 100));
        ledger.record(&reverse(exchanged, Part::Rest, false));
        assert_eq!((ledger.balance("alice").0, ledger.balance("alice:usd").0), (1000, 0));
    }
}
