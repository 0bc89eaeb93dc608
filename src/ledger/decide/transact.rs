//! Transactions: posted at once, reserved as a hold, or scheduled; and the rules
//! that everything which moves money shares.

use chrono::{DateTime, TimeDelta, Utc};
use smallvec::SmallVec;
use uuid::Uuid;

use super::{Declined, Notes, invalid};
use crate::ledger::account::{Account, AccountId, Balance};
use crate::ledger::amount::Amount;
use crate::ledger::book::{Asked, Book, Exceeded, WAITING_MAX};
use crate::ledger::event::{Fact, Moment, Position};
use crate::ledger::exchange;
use crate::ledger::known::HOLD_WEIGHT;
use crate::ledger::rejection::{Field, Place, Refusal, Rejection};
use crate::ledger::transaction::{
    Authorisation, Expiry, Kind, LEGS_MAX, Leg, LegRequest, More, Origin, RejectedTransaction, Scheduled, Side, Terms,
    Transaction, TransactionRequest, Usage,
};

/// Days ahead that a hold may expire or a transaction be scheduled: five years,
/// since memory keeps what waits until its time has come.
pub const HOLD_MAX_DAYS: i64 = 1_830;
const HOLD_SECONDS_MAX: u32 = 1_830 * 86_400;

pub(super) type Accounts<'book> = SmallVec<[&'book Account; 2]>;
/// The balance after each leg; `None` from the first total on that would have
/// more than 38 digits.
pub(super) type After = SmallVec<[Option<Balance>; 2]>;

/// What legs do to balances.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Movement {
    Posting,
    Reserving,
    /// Posting what undoes something else: no velocity limit counts it.
    Reversing {
        /// It may break floors.
        forced: bool,
    },
}

/// What is to become of a valid request.
enum Course {
    /// Posted, effective when it is recorded.
    Now,
    /// Posted, effective earlier.
    Earlier(DateTime<Utc>),
    /// Decided at its `effective_at`.
    Later,
    /// Authorised, until it expires.
    Hold(Option<DateTime<Utc>>),
}

/// The rules, in the documented order of [`crate::ledger::rejection`].
pub(super) fn transact(book: &Book, request: &TransactionRequest, at: &Moment) -> Result<Fact, Declined> {
    if !matches!(request.kind, Kind::Payment | Kind::Transaction) {
        return Err(invalid(Place::Whole, "only payments and transactions are asked for by themselves").into());
    }
    check_legs(&request.legs)?;
    let course = match (request.effective_at, &request.terms) {
        (None, None) => Course::Now,
        (effective_at, terms) => course(book, request, effective_at, terms.as_deref(), at)?,
    };
    check_parties(&request.legs)?;
    let accounts = find_accounts(book, &request.legs)?;
    check_assets(&request.legs, &accounts)?;
    let rejected = |reason| {
        Declined::Rejected(RejectedTransaction {
            request: request.clone(),
            account_ids: ids(&accounts),
            reason,
            scheduled: None,
        })
    };
    match course {
        Course::Now => {}
        Course::Earlier(effective_at) => check_period(book, &request.legs, effective_at).map_err(rejected)?,
        Course::Later => {
            check_waiting(book, request.weight())?;
            let (request, account_ids) = (request.clone(), ids(&accounts));
            return Ok(Fact::TransactionScheduled(Scheduled { request, account_ids }));
        }
        Course::Hold(expires_at) => {
            if expires_at.is_some() {
                check_waiting(book, HOLD_WEIGHT)?;
            }
            let (after, usage) = pass(book, &request.legs, &accounts, Movement::Reserving, at).map_err(rejected)?;
            let transaction = transaction(request, &request.legs, &accounts, after, more(None, request, usage));
            return Ok(Fact::TransactionAuthorised(Authorisation { transaction, expires_at }));
        }
    }
    let (after, usage) = pass(book, &request.legs, &accounts, Movement::Posting, at).map_err(rejected)?;
    let more = more(None, request, usage);
    Ok(Fact::TransactionPosted(transaction(request, &request.legs, &accounts, after, more)))
}

/// The rarer wishes: a time, a hold, rates.
fn course(
    book: &Book,
    request: &TransactionRequest,
    effective_at: Option<DateTime<Utc>>,
    terms: Option<&Terms>,
    at: &Moment,
) -> Result<Course, Refusal> {
    exchange::check(book, request)?;
    match (terms.and_then(|terms| terms.hold), effective_at) {
        (Some(_), Some(_)) => {
            let rule = "a hold takes no effective_at: it is effective as it is captured";
            Err(invalid(Place::Field(Field::EffectiveAt), rule))
        }
        (Some(expiry), None) => {
            check_hold(request)?;
            Ok(Course::Hold(expires_at(expiry, at)?))
        }
        (None, None) => Ok(Course::Now),
        (None, Some(effective_at)) if effective_at > at.recorded_at => {
            if effective_at - at.recorded_at > TimeDelta::days(HOLD_MAX_DAYS) {
                let rule = "a transaction is scheduled at most 1830 days ahead";
                return Err(invalid(Place::Field(Field::EffectiveAt), rule));
            }
            Ok(Course::Later)
        }
        (None, Some(effective_at)) if effective_at < DateTime::UNIX_EPOCH => {
            Err(invalid(Place::Field(Field::EffectiveAt), "effective_at is not before 1970-01-01"))
        }
        (None, Some(effective_at)) => Ok(Course::Earlier(effective_at)),
    }
}

fn check_hold(request: &TransactionRequest) -> Result<(), Refusal> {
    match (request.kind, request.legs.as_slice()) {
        (Kind::Payment, [from, to]) if from.side == Side::Debit && to.side == Side::Credit => Ok(()),
        _ => Err(invalid(Place::Field(Field::Capture), "only a payment can be captured later")),
    }
}

fn expires_at(expiry: Expiry, at: &Moment) -> Result<Option<DateTime<Utc>>, Refusal> {
    let now = at.recorded_at;
    let (until, within) = (Place::Field(Field::ExpiresAt), Place::Field(Field::ExpiresInS));
    match expiry {
        Expiry::Never => Ok(None),
        Expiry::At(time) if time <= now => Err(invalid(until, "expires_at lies in the future")),
        Expiry::At(time) if time - now > TimeDelta::days(HOLD_MAX_DAYS) => {
            Err(invalid(until, "a hold expires within 1830 days"))
        }
        Expiry::At(time) => Ok(Some(time)),
        Expiry::In(seconds) if (1..=HOLD_SECONDS_MAX).contains(&seconds) => {
            Ok(Some(now + TimeDelta::seconds(i64::from(seconds))))
        }
        Expiry::In(_) => Err(invalid(within, "a hold expires in 1 to 158112000 seconds")),
    }
}

fn check_waiting(book: &Book, weight: usize) -> Result<(), Refusal> {
    let fits = book.waiting_weight().saturating_add(weight) <= WAITING_MAX;
    if fits { Ok(()) } else { Err(Refusal::TooManyWaiting) }
}

/// The business rules that every movement keeps, in their order; gives the balance
/// after each leg, and what velocity limits have counted.
pub(super) fn pass(
    book: &Book,
    legs: &[LegRequest],
    accounts: &Accounts<'_>,
    movement: Movement,
    at: &Moment,
) -> Result<(After, Vec<Usage>), Rejection> {
    check_status(legs, accounts)?;
    let usage = match movement {
        Movement::Posting | Movement::Reserving => {
            let counted = legs.iter().zip(accounts).map(|(leg, account)| (*account, leg.side, leg.amount));
            book.count(counted, at.recorded_at).map_err(|Exceeded { account, limit }| {
                let asked: Vec<Asked<'_>> = asked(legs, accounts, None).collect();
                Rejection::VelocityLimitExceeded { account, limit, passes_at: book.passes_at(&asked, at.recorded_at) }
            })?
        }
        Movement::Reversing { .. } => Vec::new(),
    };
    let after = match movement {
        Movement::Posting | Movement::Reversing { .. } => balances(legs, accounts, Balance::with_posted, at),
        Movement::Reserving => balances(legs, accounts, Balance::with_pending, at),
    };
    if movement != (Movement::Reversing { forced: true }) {
        check_floors(accounts, &after)?;
    }
    check_caps(accounts, &after)?;
    Ok((after, usage))
}

/// When all items of an atomic batch together pass the velocity limits; `None` for
/// never. `book` is as it was before the batch. An item that means nothing is skipped:
/// the batch is refused for it, whatever is counted.
pub(super) fn batch_passes_at<'a>(
    book: &Book,
    requests: impl Iterator<Item = &'a TransactionRequest>,
    at: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let mut all = Vec::new();
    for request in requests {
        let Ok(accounts) = find_accounts(book, &request.legs) else { continue };
        all.extend(asked(&request.legs, &accounts, request.effective_at));
    }
    book.passes_at(&all, at)
}

fn asked<'a, 'book>(
    legs: &'a [LegRequest],
    accounts: &'a Accounts<'book>,
    counts_from: Option<DateTime<Utc>>,
) -> impl Iterator<Item = Asked<'book>> {
    let legs = legs.iter().zip(accounts);
    legs.map(move |(leg, account)| Asked { account, side: leg.side, amount: leg.amount, counts_from })
}

/// The rarer parts of a transaction, where it has any.
pub(super) fn more(origin: Option<Origin>, request: &TransactionRequest, usage: Vec<Usage>) -> Option<Box<More>> {
    let rates = request.rates();
    let is_plain = origin.is_none() && rates.is_empty() && usage.is_empty();
    (!is_plain).then(|| Box::new(More { origin, rates: rates.to_vec(), usage }))
}

/// The transaction that comes of a request, or a part of it: `legs`.
pub(super) fn transaction(
    request: &TransactionRequest,
    legs: &[LegRequest],
    accounts: &Accounts<'_>,
    after: After,
    more: Option<Box<More>>,
) -> Transaction {
    Transaction {
        kind: request.kind,
        legs: written(legs, accounts, after),
        reference: request.reference.clone(),
        description: request.description.clone(),
        metadata: request.metadata.clone(),
        more,
    }
}

/// The legs as they are recorded.
pub(super) fn written(legs: &[LegRequest], accounts: &Accounts<'_>, after: After) -> SmallVec<[Leg; 2]> {
    let legs = legs.iter().zip(accounts).zip(after).map(|((leg, account), after)| Leg {
        // The account's own copy of the name, not the request's, so that one
        // allocation serves every event of the account.
        account: account.code.clone(),
        account_id: account.id,
        normal: account.normal,
        side: leg.side,
        amount: leg.amount,
        asset: account.asset.clone(),
        after: after.unwrap_or_default(),
    });
    legs.collect()
}

/// What was asked for about an earlier transaction, in the form that its record has.
pub(super) fn attempt(
    kind: Kind,
    of: Uuid,
    force: bool,
    legs: SmallVec<[LegRequest; 2]>,
    notes: &Notes,
) -> TransactionRequest {
    TransactionRequest {
        kind,
        legs,
        reference: notes.reference.clone(),
        description: notes.description.clone(),
        metadata: notes.metadata.clone(),
        effective_at: None,
        terms: Some(Box::new(Terms { of: Some(of), force, ..Terms::default() })),
    }
}

pub(super) fn ids(accounts: &Accounts<'_>) -> SmallVec<[AccountId; 2]> {
    accounts.iter().map(|account| account.id).collect()
}

pub(super) fn check_legs(legs: &[LegRequest]) -> Result<(), Refusal> {
    if !(2..=LEGS_MAX).contains(&legs.len()) {
        return Err(invalid(Place::Field(Field::Legs), "a transaction has 2 to 256 legs"));
    }
    if let Some(leg) = legs.iter().position(|leg| !leg.amount.is_positive()) {
        return Err(invalid(Place::Leg(leg, Field::Amount), "an amount is more than zero"));
    }
    if !is_balanced(legs) {
        return Err(invalid(Place::Field(Field::Legs), "debits and credits are equal for every asset"));
    }
    Ok(())
}

fn check_parties(legs: &[LegRequest]) -> Result<(), Refusal> {
    let first = &legs[0].account;
    if legs.iter().all(|leg| leg.account == *first) { Err(Refusal::SameAccount(first.clone())) } else { Ok(()) }
}

/// Debits equal credits per asset. All amounts must be more than zero.
fn is_balanced(legs: &[LegRequest]) -> bool {
    let first_of_its_asset = |index: usize| !legs[..index].iter().any(|leg| leg.asset == legs[index].asset);
    (0..legs.len()).filter(|&index| first_of_its_asset(index)).all(|index| {
        let amounts = |side| {
            let of_asset = move |leg: &&LegRequest| leg.side == side && leg.asset == legs[index].asset;
            legs.iter().filter(of_asset).map(|leg| leg.amount.get())
        };
        have_equal_sums(amounts(Side::Debit), amounts(Side::Credit))
    })
}

/// Whether two lists of positive amounts have the same sum. The sums need not
/// fit an `i128`: the next amount is always of the list that is behind, so that
/// the difference never has more digits than an amount.
fn have_equal_sums(mut debits: impl Iterator<Item = i128>, mut credits: impl Iterator<Item = i128>) -> bool {
    let mut ahead: i128 = 0;
    loop {
        let next = if ahead > 0 { credits.next().map(|credit| -credit) } else { debits.next() };
        match next {
            Some(amount) => ahead += amount,
            None => return ahead == 0 && credits.next().is_none(),
        }
    }
}

pub(super) fn find_accounts<'book>(book: &'book Book, legs: &[LegRequest]) -> Result<Accounts<'book>, Refusal> {
    let mut found = Accounts::with_capacity(legs.len());
    let mut missing = SmallVec::new();
    for (index, leg) in legs.iter().enumerate() {
        match book.account(&leg.account) {
            Some(account) => found.push(account),
            None => missing.push((index, leg.account.clone())),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(Refusal::AccountNotFound(missing)) }
}

fn check_assets(legs: &[LegRequest], accounts: &Accounts<'_>) -> Result<(), Refusal> {
    let mismatch = legs.iter().zip(accounts).position(|(leg, account)| leg.asset != account.asset);
    match mismatch {
        None => Ok(()),
        Some(leg) => Err(Refusal::AssetMismatch {
            leg,
            account: accounts[leg].code.clone(),
            account_asset: accounts[leg].asset.clone(),
            asset: legs[leg].asset.clone(),
        }),
    }
}

/// Nothing becomes effective in a closed period.
pub(super) fn check_period(book: &Book, legs: &[LegRequest], effective_at: DateTime<Utc>) -> Result<(), Rejection> {
    match book.closed_before() {
        Some(before) if effective_at < before => {
            Err(Rejection::PeriodClosed { account: legs[0].account.clone(), before })
        }
        _ => Ok(()),
    }
}

/// No leg is on a closed account, and none is on a side that is frozen.
pub(super) fn check_status(legs: &[LegRequest], accounts: &Accounts<'_>) -> Result<(), Rejection> {
    if let Some(account) = accounts.iter().find(|account| account.attributes.closed) {
        return Err(Rejection::AccountClosed { account: account.code.clone() });
    }
    let is_frozen = |leg: &LegRequest, account: &Account| {
        account.attributes.freeze.as_ref().is_some_and(|freeze| freeze.scope.stops(leg.side))
    };
    if let Some((_, account)) = legs.iter().zip(accounts).find(|(leg, account)| is_frozen(leg, account)) {
        return Err(Rejection::AccountFrozen { account: account.code.clone() });
    }
    Ok(())
}

/// The balance after each leg, where `with` says what a leg does.
fn balances(
    legs: &[LegRequest],
    accounts: &Accounts<'_>,
    with: impl Fn(&Balance, Side, Amount, Position) -> Option<Balance>,
    at: &Moment,
) -> After {
    let mut after = After::with_capacity(legs.len());
    for (index, leg) in legs.iter().enumerate() {
        let earlier = (0..index).rev().find(|&i| accounts[i].id == accounts[index].id);
        let before = match earlier {
            Some(i) => after[i],
            None => Some(accounts[index].balance),
        };
        after.push(before.and_then(|balance| with(&balance, leg.side, leg.amount, at.position)));
    }
    after
}

/// Each account once, at its first leg, with its balance after its last leg:
/// limits bound what a transaction leaves behind, not the steps within it.
fn outcomes<'a>(
    accounts: &'a Accounts<'_>,
    after: &'a [Option<Balance>],
) -> impl Iterator<Item = (&'a Account, Option<Balance>)> {
    (0..accounts.len()).filter_map(move |index| {
        let same = |i: &usize| accounts[*i].id == accounts[index].id;
        if (0..index).any(|i| same(&i)) {
            return None;
        }
        let last = (index..accounts.len()).rev().find(same)?;
        Some((accounts[index], after[last]))
    })
}

/// A floor stops what lowers the balance, or will when it is captured; it does not
/// stop money coming in.
fn check_floors(accounts: &Accounts<'_>, after: &[Option<Balance>]) -> Result<(), Rejection> {
    for (account, after) in outcomes(accounts, after) {
        let (Some(after), Some(min_balance)) = (after, account.attributes.limits.min_balance) else { continue };
        let normal = account.normal;
        let before = &account.balance;
        let lowers =
            after.posted(normal) < before.posted(normal) || after.pending_out(normal) > before.pending_out(normal);
        if lowers && after.is_below_floor(normal, min_balance) {
            let (available, would_be) = (account.balance.available(normal), after.available(normal));
            let account = account.code.clone();
            return Err(Rejection::InsufficientFunds { account, available, would_be, min_balance });
        }
    }
    Ok(())
}

/// A cap stops what raises the balance, or will when it is captured; it does not
/// stop money going out.
fn check_caps(accounts: &Accounts<'_>, after: &[Option<Balance>]) -> Result<(), Rejection> {
    for (account, after) in outcomes(accounts, after) {
        let exceeded = |would_be, max_balance| Rejection::BalanceLimitExceeded {
            account: account.code.clone(),
            would_be,
            max_balance,
        };
        let Some(after) = after else { return Err(exceeded(Amount::MAX, Amount::MAX)) };
        let Some(max_balance) = account.attributes.limits.max_balance else { continue };
        let normal = account.normal;
        let before = &account.balance;
        let raises =
            after.posted(normal) > before.posted(normal) || after.pending_in(normal) > before.pending_in(normal);
        if raises && after.is_above_cap(normal, max_balance) {
            return Err(exceeded(after.expected(normal), max_balance));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_equal_or_not_whatever_their_size_and_order() {
        let most = Amount::MAX.get();
        let equal =
            |debits: &[i128], credits: &[i128]| have_equal_sums(debits.iter().copied(), credits.iter().copied());
        assert!(equal(&[most, most, most], &[most, most, most]));
        assert!(equal(&[most, 1, most], &[1, most, most]));
        assert!(equal(&[3], &[1, 1, 1]));
        assert!(equal(&[1, 1, 1], &[3]));
        assert!(!equal(&[most, most], &[most, most - 1]));
        assert!(!equal(&[most, most - 1], &[most, most]));
        assert!(!equal(&[1], &[]));
        assert!(!equal(&[], &[1]));
        assert!(!equal(&[1, 1], &[1]));
        assert!(!equal(&[1], &[1, 1]));
        // Four of these are 2^128, which a wrapping sum would take for zero.
        assert!(!equal(&[1 << 126, 1 << 126, 1 << 126, 1 << 126], &[]));
    }
}
