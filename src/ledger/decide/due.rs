//! What happens at a moment of its own: holds expire, scheduled transactions are
//! decided, unless they were withdrawn before.

use uuid::Uuid;

use super::super::book::Book;
use super::super::event::{Fact, Moment, Position};
use super::super::known::State;
use super::super::rejection::Refusal;
use super::super::transaction::{Cancelled, Origin, RejectedTransaction, ReleaseReason, Scheduled};
use super::transact::{Movement, find_accounts, ids, more, pass, transaction};
use super::{Cancel, Declined, holds};

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
/// when it was scheduled; nothing that this depends on can have changed. A period
/// is closed only when nothing is due in it, so that rule cannot apply.
fn post(book: &Book, scheduled: &Scheduled, position: Position, at: &Moment) -> Result<Fact, Declined> {
    let request = &scheduled.request;
    let accounts = find_accounts(book, &request.legs)?;
    let (after, usage) = pass(book, &request.legs, &accounts, Movement::Posting, at).map_err(|reason| {
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
