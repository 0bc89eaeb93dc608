//! What happens at a moment of its own: holds expire, scheduled transactions are
//! decided, unless they were withdrawn before.

use uuid::Uuid;

use super::transact::{Movement, check_period, find_accounts, ids, more, pass, transaction};
use super::{Cancel, Declined, holds};
use crate::ledger::book::Book;
use crate::ledger::event::{Fact, Moment, Position};
use crate::ledger::known::State;
use crate::ledger::rejection::Refusal;
use crate::ledger::transaction::{Cancelled, Origin, RejectedTransaction, ReleaseReason, Scheduled};

/// What has come due of a transaction, if anything has.
pub(super) fn settle(book: &Book, id: Uuid, at: &Moment) -> Result<Fact, Declined> {
    let due = book.known(&id).filter(|known| known.due_at().is_some_and(|due_at| due_at <= at.recorded_at));
    let Some(known) = due else { return Err(Declined::Unchanged) };
    match &known.state {
        State::Hold(_) => holds::release(book, id, ReleaseReason::Expired, at),
        State::Scheduled(scheduled) => post(book, scheduled, known.position, at),
        State::Posted(_) | State::Cancelled | State::Rejected => Err(Declined::Unchanged),
    }
}

/// Withdraws a transaction that is still scheduled. What became of another one,
/// only the log knows.
pub(super) fn cancel(book: &Book, cancel: &Cancel) -> Result<Fact, Declined> {
    let id = cancel.transaction;
    let known = book.known(&id).ok_or(Refusal::TransactionNotFound(id))?;
    let State::Scheduled(scheduled) = &known.state else { return Err(Refusal::NotScheduled(id).into()) };
    Ok(Fact::ScheduleCancelled(Cancelled {
        transaction: id,
        position: known.position,
        account: scheduled.request.legs[0].account.clone(),
        account_id: scheduled.account_ids[0],
    }))
}

/// Decides a scheduled transaction at its time. Its request was found to be valid
/// when it was scheduled; nothing that this depends on can have changed. A period is
/// closed only when nothing is due in it, but for what could not be settled then and is
/// tried again later.
fn post(book: &Book, scheduled: &Scheduled, position: Position, at: &Moment) -> Result<Fact, Declined> {
    let request = &scheduled.request;
    let accounts = find_accounts(book, &request.legs)?;
    let due_at = request.effective_at.unwrap_or(at.recorded_at);
    let passed = check_period(book, &request.legs, due_at)
        .and_then(|()| pass(book, &request.legs, &accounts, Movement::Posting, at));
    let (after, usage) = passed.map_err(|reason| {
        Declined::Rejected(RejectedTransaction {
            request: request.clone(),
            account_ids: ids(&accounts),
            reason,
            scheduled: Some(position),
        })
    })?;
    let origin = Some(Origin::Schedule { position });
    let more = more(origin, request, usage);
    Ok(Fact::TransactionPosted(transaction(request, &request.legs, &accounts, after, more)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fixture::{self, Ledger, capture, code, hold, id, moment, pay, pay_at, reverse};
    use crate::ledger::{Command, Expiry, Field, Part, Place, Rejection, Verdict};

    fn cancel(transaction: Uuid) -> Command {
        Command::Cancel(Cancel { transaction })
    }

    #[test]
    fn a_scheduled_transaction_is_posted_at_its_time_and_not_before() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let scheduled = ledger.record(&pay_at("alice", "bob", 100, moment(60)));
        let id = scheduled.transaction_id.unwrap();
        assert_eq!(scheduled.effective_at, moment(60));
        assert_eq!(ledger.balance("alice"), (1000, 0, 0), "its funds are untouched");
        assert_eq!(ledger.at(59).decide(&Command::Settle(id)), Verdict::Unchanged);

        let posted = ledger.at(61).record(&Command::Settle(id));
        assert_eq!(
            (posted.transaction_id, posted.effective_at, posted.recorded_at),
            (Some(id), moment(60), moment(61))
        );
        let Fact::TransactionPosted(transaction) = &posted.fact else { panic!("{posted:?}") };
        let origin = transaction.more.as_ref().unwrap().origin.as_ref();
        assert_eq!(origin, Some(&Origin::Schedule { position: scheduled.position }));
        assert_eq!(ledger.balance("alice"), (900, 0, 0));
        assert_eq!(ledger.decide(&Command::Settle(id)), Verdict::Unchanged);
        assert_eq!(ledger.refusal(&cancel(id)), Refusal::NotScheduled(id));
        assert_eq!(ledger.book.known(&id).unwrap().position, scheduled.position);
        ledger.record(&reverse(id, Part::Rest, false));
        assert_eq!(ledger.balance("alice"), (1000, 0, 0));
    }

    #[test]
    fn a_scheduled_transaction_is_rejected_at_its_time() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let scheduled = ledger.record(&pay_at("alice", "bob", 100, moment(60)));
        let id = scheduled.transaction_id.unwrap();
        ledger.record(&pay("alice", "bank", 1000));
        ledger.record(&fixture::limits("alice", Some(0), None));
        ledger.record(&Command::ClosePeriod { before: moment(0) });
        let rejected = ledger.at(60).record(&Command::Settle(id));
        assert_eq!((rejected.transaction_id, rejected.effective_at), (Some(id), moment(60)));
        let Fact::TransactionRejected(rejected) = &rejected.fact else { panic!("{rejected:?}") };
        assert_eq!((rejected.reason.code(), rejected.scheduled), ("insufficient_funds", Some(scheduled.position)));
        assert_eq!(ledger.state_of(id), &State::Rejected);
        assert_eq!(ledger.book.waiting(), 0);
        assert_eq!(ledger.refusal(&reverse(id, Part::Rest, false)), Refusal::NotReversible(id));
    }

    /// The sequencer closes no period in which something is due, but for what it has
    /// set aside; that is tried again after a restart.
    #[test]
    fn what_could_not_be_settled_in_time_is_not_posted_into_a_closed_period() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let id = ledger.begin(&pay_at("alice", "bob", 100, moment(60)));
        ledger.at(70).record(&Command::ClosePeriod { before: moment(65) });
        let rejected = ledger.record(&Command::Settle(id));
        let Fact::TransactionRejected(rejected) = &rejected.fact else { panic!("{rejected:?}") };
        let closed = Rejection::PeriodClosed { account: code("alice"), before: moment(65) };
        assert_eq!(rejected.reason, closed);
        assert_eq!(ledger.state_of(id), &State::Rejected);
        assert_eq!(ledger.balance("alice"), (1000, 0, 0));
    }

    #[test]
    fn a_scheduled_transaction_is_cancelled_once() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let id = ledger.begin(&pay_at("alice", "bob", 100, moment(60)));
        let cancelled = ledger.record(&cancel(id));
        assert_eq!(cancelled.transaction_id, Some(id));
        assert_eq!(ledger.state_of(id), &State::Cancelled);
        assert_eq!(ledger.refusal(&cancel(id)), Refusal::NotScheduled(id));
        assert_eq!(ledger.at(99).decide(&Command::Settle(id)), Verdict::Unchanged);
        assert_eq!(ledger.refusal(&cancel(fixture::id(77))), Refusal::TransactionNotFound(fixture::id(77)));
    }

    #[test]
    fn nothing_becomes_effective_too_early_too_late_or_in_a_closed_period() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let farthest = 1_830 * 86_400;
        let too_late = pay_at("alice", "bob", 1, moment(farthest + 1));
        assert_eq!(ledger.wrong_place(&too_late), Place::Field(Field::EffectiveAt));
        assert!(ledger.is_invalid(&pay_at("alice", "bob", 1, chrono::DateTime::from_timestamp(-1, 0).unwrap())));
        ledger.record(&pay_at("alice", "bob", 1, moment(farthest)));
        let back_dated = ledger.record(&pay_at("alice", "bob", 1, moment(-60)));
        assert_eq!((back_dated.effective_at, back_dated.fact.type_name()), (moment(-60), "transaction_posted"));
        ledger.record(&Command::ClosePeriod { before: moment(-10) });
        let closed = Rejection::PeriodClosed { account: code("alice"), before: moment(-10) };
        assert_eq!(ledger.rejection(&pay_at("alice", "bob", 1, moment(-11))), closed);
        ledger.record(&pay_at("alice", "bob", 1, moment(-10)));
    }

    #[test]
    fn what_is_due_comes_in_order_of_its_time_and_then_of_the_log() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let third = ledger.begin(&hold("alice", "bob", 1, Expiry::In(20)));
        let first = ledger.begin(&pay_at("alice", "bob", 1, moment(10)));
        let second = ledger.begin(&hold("alice", "bob", 1, Expiry::In(10)));
        ledger.begin(&hold("alice", "bob", 1, Expiry::Never));
        ledger.begin(&pay_at("alice", "bob", 1, moment(30)));
        let due = |ledger: &Ledger, after, until| -> Vec<Uuid> {
            ledger.book.due(after, moment(until)).map(|(.., id)| id).collect()
        };
        assert_eq!(due(&ledger, None, 20), [first, second, third]);
        assert!(due(&ledger, None, 9).is_empty());
        let position = ledger.book.known(&first).unwrap().position;
        assert_eq!(due(&ledger, Some((moment(10), position)), 20), [second, third]);
        assert!(due(&ledger, Some((moment(99), 0)), 20).is_empty());
        assert_eq!(ledger.book.next_due(), Some((moment(10), position, first)));
        assert_eq!(ledger.book.waiting(), 4);
        ledger.record(&capture(second, Some(1), false));
        ledger.at(20).record(&Command::Settle(third));
        assert_eq!(due(&ledger, None, 20), [first]);
        assert_eq!(ledger.decide(&Command::Settle(id(999))), Verdict::Unchanged);
    }
}
