//! The decision: what a command does to a book, without doing it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use smallvec::SmallVec;
use uuid::Uuid;

use super::account::{Account, AccountStatus, Balance, Freeze, Limits};
use super::amount::Amount;
use super::asset::SCALE_MAX;
use super::book::Book;
use super::event::{Event, Fact, Moment};
use super::known::Known;
use super::name::{AccountCode, AssetCode};
use super::rejection::{Refusal, Rejection};
use super::rule::{Rule, RuleKey};
use super::transaction::{LEGS_MAX, Leg, LegRequest, RejectedTransaction, Side, Transaction, TransactionRequest};

/// What a client wants to happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    DefineAsset {
        code: AssetCode,
        scale: u8,
    },
    OpenAccount(OpenAccount),
    Transact(TransactionRequest),
    Capture(Capture),
    Void(Void),
    Reverse(Reverse),
    Cancel(Cancel),
    ChangeAccount(ChangeAccount),
    SetRule(Rule),
    RemoveRule(RuleKey),
    /// Nothing is to become effective before this any more.
    ClosePeriod {
        before: DateTime<Utc>,
    },
    /// What has come due of a transaction: a hold expires, a scheduled one is
    /// decided. The sequencer's own; no client can send it.
    Settle(Uuid),
}

/// The attributes of a new account.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenAccount {
    pub code: AccountCode,
    pub asset: AssetCode,
    /// `None` is as the account's type has it, or credit.
    pub normal: Option<Side>,
    /// `None` is as the account's type has it, or 0; `Some(None)` is no floor.
    pub min_balance: Option<Option<Amount>>,
    /// `None` is as the account's type has it, or none; `Some(None)` is no cap.
    pub max_balance: Option<Option<Amount>>,
    pub metadata: Option<Arc<str>>,
}

/// The client's own words about a command on an earlier transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    pub reference: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub metadata: Option<Arc<str>>,
}

/// Post what a hold has reserved.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// Id of the authorised payment.
    pub payment: Uuid,
    /// `None` is all that remains.
    pub amount: Option<Amount>,
    /// Give back what then remains.
    pub last: bool,
    pub notes: Notes,
}

/// Give back what a hold has reserved.
#[derive(Clone, Debug, PartialEq)]
pub struct Void {
    pub payment: Uuid,
    pub notes: Notes,
}

/// Post the counterpart of what a transaction has posted.
#[derive(Clone, Debug, PartialEq)]
pub struct Reverse {
    pub transaction: Uuid,
    pub part: Part,
    /// It may break a floor. Nothing else is waived.
    pub force: bool,
    pub notes: Notes,
}

/// How much of a transaction is reversed.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// All that is left.
    Rest,
    /// So much of each leg of a transaction of two legs.
    Amount(Amount),
    /// Legs of the reversal itself, each on the other side of a leg of the
    /// transaction on the same account.
    Legs(SmallVec<[LegRequest; 2]>),
}

/// Withdraw a scheduled transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Cancel {
    pub transaction: Uuid,
    pub notes: Notes,
}

/// Change an account's attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeAccount {
    pub code: AccountCode,
    pub change: AccountUpdate,
}

#[derive(Clone, Debug, PartialEq)]
pub enum AccountUpdate {
    /// `None` leaves it as it is; `Some(None)` takes it away.
    Update {
        min_balance: Option<Option<Amount>>,
        max_balance: Option<Option<Amount>>,
        metadata: Option<Option<Arc<str>>>,
    },
    Freeze(Freeze),
    Unfreeze {
        reason: Arc<str>,
    },
    Close {
        reason: Option<Arc<str>>,
    },
    Reopen {
        reason: Option<Arc<str>>,
    },
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is a fact, be it a posting or a recorded rejection: append it.
    Record(Fact),
    /// It is so already; nothing to record.
    Unchanged,
    /// It cannot be; nothing to record.
    Refuse(Refusal),
}

impl Command {
    /// The accounts that must be in the book, or be known not to exist, before
    /// [`decide`] may look at the command; beside those of [`Self::transaction`].
    pub fn accounts(&self) -> impl Iterator<Item = &AccountCode> {
        let (one, legs): (Option<&AccountCode>, &[LegRequest]) = match self {
            Self::OpenAccount(open) => (Some(&open.code), &[]),
            Self::ChangeAccount(change) => (Some(&change.code), &[]),
            Self::Transact(request) => (None, &request.legs),
            _ => (None, &[]),
        };
        one.into_iter().chain(legs.iter().map(|leg| &leg.account))
    }

    /// The transaction that must be in the book with its accounts, or be known not
    /// to exist.
    pub const fn transaction(&self) -> Option<Uuid> {
        match self {
            Self::Capture(Capture { payment, .. }) | Self::Void(Void { payment, .. }) => Some(*payment),
            Self::Reverse(Reverse { transaction, .. }) | Self::Cancel(Cancel { transaction, .. }) => Some(*transaction),
            Self::Settle(transaction) => Some(*transaction),
            _ => None,
        }
    }

    /// Whether everything that is due must have been settled before it, and not
    /// only what concerns its accounts.
    pub const fn concerns_all(&self) -> bool {
        matches!(self, Self::ClosePeriod { .. })
    }
}

/// Decides one command on the state of `book`, as of `at`.
pub fn decide(book: &Book, command: &Command, at: &Moment) -> Verdict {
    match command {
        Command::DefineAsset { code, scale } => define_asset(book, code, *scale),
        Command::OpenAccount(open) => open_account(book, open),
        Command::Transact(request) => match transact(book, request, at) {
            Ok(transaction) => Verdict::Record(Fact::TransactionPosted(transaction)),
            Err(Declined::Refused(refusal)) => Verdict::Refuse(refusal),
            Err(Declined::Rejected(rejected)) => Verdict::Record(Fact::TransactionRejected(rejected)),
        },
        _ => Verdict::Refuse(Refusal::Invalid("not yet".into())),
    }
}

/// The event that records `fact`, which [`decide`] has just given for `command` on `book`.
pub fn event(book: &Book, command: &Command, fact: Fact, idempotency_key: Option<Arc<str>>, at: &Moment) -> Event {
    Event {
        position: at.position,
        recorded_at: at.recorded_at,
        effective_at: match command {
            Command::Transact(request) => request.effective_at.unwrap_or(at.recorded_at),
            Command::Settle(id) => book.known(id).and_then(Known::due_at).unwrap_or(at.recorded_at),
            _ => at.recorded_at,
        },
        transaction_id: match (&fact, command) {
            (Fact::HoldReleased(release), _) => Some(release.hold.id),
            (Fact::ScheduleCancelled(cancelled), _) => Some(cancelled.transaction),
            (_, Command::Settle(id)) => Some(*id),
            (
                Fact::TransactionPosted(_)
                | Fact::TransactionRejected(_)
                | Fact::BatchRejected { .. }
                | Fact::TransactionAuthorised(_)
                | Fact::TransactionScheduled(_),
                _,
            ) => Some(at.transaction_id),
            _ => None,
        },
        idempotency_key,
        fact,
    }
}

fn define_asset(book: &Book, code: &AssetCode, scale: u8) -> Verdict {
    if scale > SCALE_MAX {
        return Verdict::Refuse(Refusal::Invalid("an asset has at most 37 decimals".into()));
    }
    match book.asset_scale(code) {
        None => Verdict::Record(Fact::AssetDefined { code: code.clone(), scale }),
        Some(known) if known == scale => Verdict::Unchanged,
        Some(known) => Verdict::Refuse(Refusal::AssetAlreadyExists { code: code.clone(), scale: known }),
    }
}

fn open_account(book: &Book, open: &OpenAccount) -> Verdict {
    let (normal, limits) = (
        open.normal.unwrap_or(Side::Credit),
        Limits {
            min_balance: open.min_balance.unwrap_or(Some(Amount::ZERO)),
            max_balance: open.max_balance.unwrap_or_default(),
        },
    );
    if let (Some(floor), Some(cap)) = (limits.min_balance, limits.max_balance)
        && floor > cap
    {
        return Verdict::Refuse(Refusal::Invalid("min_balance must not be above max_balance".into()));
    }
    if let Some(account) = book.account(&open.code) {
        let same = account.asset == open.asset
            && account.normal == normal
            && account.attributes.limits == limits
            && account.attributes.metadata == open.metadata;
        return if same {
            Verdict::Unchanged
        } else {
            Verdict::Refuse(Refusal::AccountAlreadyExists(Box::new(account.clone())))
        };
    }
    if book.asset_scale(&open.asset).is_none() {
        return Verdict::Refuse(Refusal::AssetNotFound(open.asset.clone()));
    }
    Verdict::Record(Fact::AccountOpened {
        code: open.code.clone(),
        asset: open.asset.clone(),
        normal,
        limits,
        metadata: open.metadata.clone(),
    })
}

enum Declined {
    Refused(Refusal),
    Rejected(RejectedTransaction),
}

type Accounts<'book> = SmallVec<[&'book Account; 2]>;

/// The rules, in the documented order of [`super::rejection`].
fn transact(book: &Book, request: &TransactionRequest, at: &Moment) -> Result<Transaction, Declined> {
    check_request(request).map_err(Declined::Refused)?;
    let accounts = find_accounts(book, &request.legs).map_err(Declined::Refused)?;
    check_assets(&request.legs, &accounts).map_err(Declined::Refused)?;

    let rejected = |reason: Rejection| {
        Declined::Rejected(RejectedTransaction {
            request: request.clone(),
            account_ids: accounts.iter().map(|account| account.id).collect(),
            reason,
            scheduled: None,
        })
    };
    check_status(&accounts).map_err(rejected)?;
    let after = post(&request.legs, &accounts, at);
    check_floors(&accounts, &after).map_err(rejected)?;
    check_caps(&accounts, &after).map_err(rejected)?;

    let legs = request.legs.iter().zip(&accounts).zip(after).map(|((leg, account), after)| Leg {
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
    Ok(Transaction {
        kind: request.kind,
        legs: legs.collect(),
        reference: request.reference.clone(),
        description: request.description.clone(),
        metadata: request.metadata.clone(),
        more: None,
    })
}

fn check_request(request: &TransactionRequest) -> Result<(), Refusal> {
    let legs = &request.legs;
    if !(2..=LEGS_MAX).contains(&legs.len()) {
        return Err(Refusal::Invalid("a transaction has 2 to 256 legs".into()));
    }
    if !legs.iter().all(|leg| leg.amount.is_positive()) {
        return Err(Refusal::Invalid("an amount is more than zero".into()));
    }
    if !is_balanced(legs) {
        return Err(Refusal::Invalid("debits and credits are equal for every asset".into()));
    }
    let first = &legs[0].account;
    if legs.iter().all(|leg| leg.account == *first) {
        return Err(Refusal::SameAccount(first.clone()));
    }
    Ok(())
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

fn find_accounts<'book>(book: &'book Book, legs: &[LegRequest]) -> Result<Accounts<'book>, Refusal> {
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

fn check_status(accounts: &Accounts<'_>) -> Result<(), Rejection> {
    let first_with = |status| accounts.iter().find(|account| account.attributes.status() == status);
    if let Some(account) = first_with(AccountStatus::Closed) {
        return Err(Rejection::AccountClosed { account: account.code.clone() });
    }
    if let Some(account) = first_with(AccountStatus::Frozen) {
        return Err(Rejection::AccountFrozen { account: account.code.clone() });
    }
    Ok(())
}

/// The balance after each leg; `None` from the first total on that would have
/// more than 38 digits.
fn post(legs: &[LegRequest], accounts: &Accounts<'_>, at: &Moment) -> SmallVec<[Option<Balance>; 2]> {
    let mut after: SmallVec<[Option<Balance>; 2]> = SmallVec::with_capacity(legs.len());
    for (index, leg) in legs.iter().enumerate() {
        let earlier = (0..index).rev().find(|&i| accounts[i].id == accounts[index].id);
        let before = match earlier {
            Some(i) => after[i],
            None => Some(accounts[index].balance),
        };
        after.push(before.and_then(|balance| balance.with_posted(leg.side, leg.amount, at.position)));
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

/// A floor stops what lowers the balance; it does not stop money coming in.
fn check_floors(accounts: &Accounts<'_>, after: &[Option<Balance>]) -> Result<(), Rejection> {
    for (account, after) in outcomes(accounts, after) {
        let (Some(after), Some(min_balance)) = (after, account.attributes.limits.min_balance) else { continue };
        let normal = account.normal;
        let lowers = after.posted(normal) < account.balance.posted(normal);
        if lowers && after.is_below_floor(normal, min_balance) {
            let (available, would_be) = (account.balance.available(normal), after.available(normal));
            let account = account.code.clone();
            return Err(Rejection::InsufficientFunds { account, available, would_be, min_balance });
        }
    }
    Ok(())
}

/// A cap stops what raises the balance; it does not stop money going out.
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
        let raises = after.posted(normal) > account.balance.posted(normal);
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
