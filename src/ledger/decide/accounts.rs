//! Assets and accounts: defining, opening, and changing what an account is.

use super::super::account::{Account, Attributes, Limits};
use super::super::amount::Amount;
use super::super::asset::SCALE_MAX;
use super::super::book::Book;
use super::super::event::{AccountChanged, Change, Fact};
use super::super::name::AssetCode;
use super::super::rejection::Refusal;
use super::super::transaction::Side;
use super::{AccountUpdate, ChangeAccount, Declined, OpenAccount, invalid};

pub(super) fn define_asset(book: &Book, code: &AssetCode, scale: u8) -> Result<Fact, Declined> {
    if scale > SCALE_MAX {
        return Err(invalid("an asset has at most 37 decimals").into());
    }
    match book.asset_scale(code) {
        None => Ok(Fact::AssetDefined { code: code.clone(), scale }),
        Some(known) if known == scale => Err(Declined::Unchanged),
        Some(known) => Err(Refusal::AssetAlreadyExists { code: code.clone(), scale: known }.into()),
    }
}

/// What is left out is as the account's type has it, resolved now: a type that
/// changes later changes no account.
pub(super) fn open(book: &Book, open: &OpenAccount) -> Result<Fact, Declined> {
    let (normal, limits) = match book.account_type(&open.code) {
        Some(account_type) => (account_type.normal, account_type.limits),
        None => (Side::Credit, Limits { min_balance: Some(Amount::ZERO), max_balance: None }),
    };
    let normal = open.normal.unwrap_or(normal);
    let limits = Limits {
        min_balance: open.min_balance.unwrap_or(limits.min_balance),
        max_balance: open.max_balance.unwrap_or(limits.max_balance),
    };
    check_limits(limits)?;
    if let Some(account) = book.account(&open.code) {
        let same = account.asset == open.asset
            && account.normal == normal
            && account.attributes.limits == limits
            && account.attributes.metadata == open.metadata;
        return Err(if same {
            Declined::Unchanged
        } else {
            Refusal::AccountAlreadyExists(Box::new(account.clone())).into()
        });
    }
    if book.asset_scale(&open.asset).is_none() {
        return Err(Refusal::AssetNotFound(open.asset.clone()).into());
    }
    Ok(Fact::AccountOpened {
        code: open.code.clone(),
        asset: open.asset.clone(),
        normal,
        limits,
        metadata: open.metadata.clone(),
    })
}

pub(super) fn check_limits(limits: Limits) -> Result<(), Refusal> {
    match (limits.min_balance, limits.max_balance) {
        (Some(floor), Some(cap)) if floor > cap => Err(invalid("min_balance must not be above max_balance")),
        _ => Ok(()),
    }
}

/// | change | open | frozen | closed |
/// | --- | --- | --- | --- |
/// | update | yes | yes | refused |
/// | freeze | yes | replaces the freeze | refused |
/// | unfreeze | nothing to do | yes | refused |
/// | close | when empty | when empty, and the freeze stays | nothing to do |
/// | reopen | nothing to do | nothing to do | yes, and a freeze is still there |
pub(super) fn change(book: &Book, change: &ChangeAccount) -> Result<Fact, Declined> {
    let Some(account) = book.account(&change.code) else {
        let missing = smallvec::smallvec![(0, change.code.clone())];
        return Err(Refusal::AccountNotFound(missing).into());
    };
    let before = &account.attributes;
    let is = |state| Declined::from(Refusal::AccountState { account: account.code.clone(), state });
    let reopens_or_closes = matches!(change.change, AccountUpdate::Close { .. } | AccountUpdate::Reopen { .. });
    if before.closed && !reopens_or_closes {
        return Err(is("closed"));
    }
    let (change, after, reason) = match &change.change {
        AccountUpdate::Update { min_balance, max_balance, metadata } => {
            let limits = Limits {
                min_balance: min_balance.unwrap_or(before.limits.min_balance),
                max_balance: max_balance.unwrap_or(before.limits.max_balance),
            };
            let metadata = metadata.as_ref().unwrap_or(&before.metadata).clone();
            (Change::Updated, Attributes { limits, metadata, ..before.clone() }, None)
        }
        AccountUpdate::Freeze(freeze) => {
            let after = Attributes { freeze: Some(freeze.clone()), ..before.clone() };
            (Change::Frozen, after, Some(freeze.reason.clone()))
        }
        AccountUpdate::Unfreeze { reason } => {
            (Change::Unfrozen, Attributes { freeze: None, ..before.clone() }, Some(reason.clone()))
        }
        AccountUpdate::Close { reason } => {
            (Change::Closed, Attributes { closed: true, ..before.clone() }, reason.clone())
        }
        AccountUpdate::Reopen { reason } => {
            (Change::Reopened, Attributes { closed: false, ..before.clone() }, reason.clone())
        }
    };
    if after == *before {
        return Err(Declined::Unchanged);
    }
    match change {
        Change::Updated => check_new_limits(account, after.limits)?,
        Change::Closed if !account.balance.is_empty() => return Err(is("not_empty")),
        _ => {}
    }
    Ok(Fact::AccountChanged(AccountChanged {
        account: account.code.clone(),
        account_id: account.id,
        change,
        after,
        reason,
    }))
}

/// A limit that changes must hold now. One that stays may be broken already, by a
/// reversal that was allowed to.
fn check_new_limits(account: &Account, limits: Limits) -> Result<(), Refusal> {
    check_limits(limits)?;
    let (before, balance, normal) = (account.attributes.limits, &account.balance, account.normal);
    let conflict = |limit, balance| Err(Refusal::LimitsConflict { account: account.code.clone(), limit, balance });
    if let Some(floor) = limits.min_balance
        && before.min_balance != Some(floor)
        && balance.is_below_floor(normal, floor)
    {
        return conflict("min_balance", balance.available(normal));
    }
    if let Some(cap) = limits.max_balance
        && before.max_balance != Some(cap)
        && balance.is_above_cap(normal, cap)
    {
        return conflict("max_balance", balance.expected(normal));
    }
    Ok(())
}
