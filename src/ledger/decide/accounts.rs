//! Assets and accounts: defining, opening, and changing what an account is.

use super::{AccountUpdate, ChangeAccount, Declined, OpenAccount, invalid};
use crate::ledger::account::{Account, Attributes, Limits};
use crate::ledger::amount::Amount;
use crate::ledger::asset::SCALE_MAX;
use crate::ledger::book::Book;
use crate::ledger::event::{AccountChanged, Change, Fact};
use crate::ledger::name::AssetCode;
use crate::ledger::rejection::{Field, Place, Refusal};
use crate::ledger::transaction::Side;

pub(super) fn define_asset(book: &Book, code: &AssetCode, scale: u8) -> Result<Fact, Declined> {
    if scale > SCALE_MAX {
        return Err(invalid(Place::Field(Field::Scale), "an asset has at most 37 decimals").into());
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
    check_limits(limits, stated(open.min_balance))?;
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

/// A floor is not above its cap; `stated` is the one that says so.
pub(super) fn check_limits(limits: Limits, stated: Field) -> Result<(), Refusal> {
    match (limits.min_balance, limits.max_balance) {
        (Some(floor), Some(cap)) if floor > cap => {
            Err(invalid(Place::Field(stated), "min_balance must not be above max_balance"))
        }
        _ => Ok(()),
    }
}

/// Of two limits that do not fit each other, the one that the request states: the
/// floor where it states both.
const fn stated(min_balance: Option<Option<Amount>>) -> Field {
    if min_balance.is_some() { Field::MinBalance } else { Field::MaxBalance }
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
            check_limits(limits, stated(*min_balance))?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::fixture::{self, Ledger, amount, change as update, code, freeze, hold, limits, pay};
    use crate::ledger::{Command, Expiry, FreezeScope, Rejection, Verdict};

    fn close() -> AccountUpdate {
        AccountUpdate::Close { reason: None }
    }

    fn reopen() -> AccountUpdate {
        AccountUpdate::Reopen { reason: Some(Arc::from("asked for")) }
    }

    fn unfreeze() -> AccountUpdate {
        AccountUpdate::Unfreeze { reason: Arc::from("cleared") }
    }

    fn closed(account: &str) -> Refusal {
        Refusal::AccountState { account: code(account), state: "closed" }
    }

    /// The table above, cell by cell; the account is empty.
    #[test]
    fn every_change_in_every_state() {
        use AccountUpdate::Update;
        let metadata = || Update { min_balance: None, max_balance: None, metadata: Some(Some(Arc::from("{}"))) };
        let freeze_debits = || {
            let Command::ChangeAccount(change) = freeze("a", FreezeScope::Debits) else { return close() };
            change.change
        };
        let changes: [(&str, AccountUpdate); 5] = [
            ("update", metadata()),
            ("freeze", freeze_debits()),
            ("unfreeze", unfreeze()),
            ("close", close()),
            ("reopen", reopen()),
        ];
        for (state, outcomes) in [
            ("open", ["account_updated", "account_frozen", "unchanged", "account_closed", "unchanged"]),
            ("frozen", ["account_updated", "account_frozen", "account_unfrozen", "account_closed", "unchanged"]),
            ("closed", ["refused", "refused", "refused", "unchanged", "account_reopened"]),
            ("closed and frozen", ["refused", "refused", "refused", "unchanged", "account_reopened"]),
        ] {
            for ((name, change), outcome) in changes.iter().zip(outcomes) {
                let mut ledger = Ledger::with(&[]);
                ledger.record(&Command::OpenAccount(fixture::open("a")));
                if state.contains("frozen") {
                    ledger.record(&freeze("a", FreezeScope::All));
                }
                if state.contains("closed") {
                    ledger.record(&update("a", close()));
                }
                let command = update("a", change.clone());
                let got = match ledger.decide(&command) {
                    Verdict::Record(_) => ledger.record(&command).fact.type_name(),
                    Verdict::Unchanged => "unchanged",
                    Verdict::Refuse(refusal) => {
                        assert_eq!(refusal, closed("a"));
                        "refused"
                    }
                };
                assert_eq!(got, outcome, "{name} of an account that is {state}");
                let account = ledger.book.account(&code("a")).unwrap();
                if got.starts_with("account") {
                    assert_eq!(account.changed, ledger.head);
                    assert_eq!(ledger.decide(&command), Verdict::Unchanged, "{name}, once more");
                }
            }
        }
    }

    #[test]
    fn a_freeze_stays_through_closing_and_reopening() {
        let mut ledger = Ledger::with(&[]);
        ledger.record(&Command::OpenAccount(fixture::open("a")));
        ledger.record(&freeze("a", FreezeScope::Credits));
        ledger.record(&update("a", close()));
        assert_eq!(ledger.rejection(&pay("bank", "a", 1)), Rejection::AccountClosed { account: code("a") });
        ledger.record(&update("a", reopen()));
        assert_eq!(ledger.rejection(&pay("bank", "a", 1)), Rejection::AccountFrozen { account: code("a") });
        ledger.record(&freeze("a", FreezeScope::Debits));
        ledger.record(&pay("bank", "a", 1));
        assert_eq!(ledger.rejection(&pay("a", "bank", 1)), Rejection::AccountFrozen { account: code("a") });
        ledger.record(&update("a", unfreeze()));
        ledger.record(&pay("a", "bank", 1));
    }

    #[test]
    fn only_an_empty_account_is_closed() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        let not_empty = |account: &str| Refusal::AccountState { account: code(account), state: "not_empty" };
        assert_eq!(ledger.refusal(&update("alice", close())), not_empty("alice"));
        let held = ledger.begin(&hold("alice", "bob", 7, Expiry::Never));
        ledger.record(&pay("alice", "bank", 1000));
        ledger.record(&pay("bob", "bank", 1000));
        assert_eq!(ledger.refusal(&update("alice", close())), not_empty("alice"));
        assert_eq!(ledger.refusal(&update("bob", close())), not_empty("bob"));
        ledger.record(&fixture::void(held));
        ledger.record(&update("alice", close()));
        let nobody = ledger.refusal(&update("nobody", close()));
        assert_eq!(nobody, Refusal::AccountNotFound(smallvec::smallvec![(0, code("nobody"))]));
    }

    /// It begins with 0, and what leads further away is stopped.
    #[test]
    fn an_account_may_be_opened_outside_of_its_limits() {
        let mut ledger = Ledger::with(&["alice"]);
        let open = |account: &str, min_balance, max_balance| {
            let (min_balance, max_balance) = (Some(min_balance), Some(max_balance));
            Command::OpenAccount(OpenAccount { min_balance, max_balance, ..fixture::open(account) })
        };
        let poor = |available, would_be| Rejection::InsufficientFunds {
            account: code("deposit"),
            available: amount(available),
            would_be: amount(would_be),
            min_balance: amount(100),
        };
        ledger.record(&open("deposit", Some(amount(100)), None));
        assert_eq!(ledger.rejection(&pay("deposit", "alice", 1)), poor(0, -1));
        ledger.record(&pay("alice", "deposit", 60));
        assert_eq!(ledger.rejection(&pay("deposit", "alice", 1)), poor(60, 59));
        ledger.record(&pay("alice", "deposit", 90));
        assert_eq!(ledger.rejection(&hold("deposit", "alice", 51, Expiry::Never)), poor(150, 99));
        ledger.record(&pay("deposit", "alice", 50));

        let full = |would_be| Rejection::BalanceLimitExceeded {
            account: code("debt"),
            would_be: amount(would_be),
            max_balance: amount(-100),
        };
        ledger.refusal(&open("debt", Some(Amount::ZERO), Some(amount(-100))));
        ledger.record(&open("debt", None, Some(amount(-100))));
        assert_eq!(ledger.rejection(&pay("alice", "debt", 1)), full(1));
        ledger.record(&pay("debt", "alice", 60));
        assert_eq!(ledger.rejection(&pay("alice", "debt", 1)), full(-59));
        ledger.record(&pay("debt", "alice", 90));
        assert_eq!(ledger.rejection(&pay("alice", "debt", 51)), full(-99));
        ledger.record(&pay("alice", "debt", 50));
    }

    #[test]
    fn a_limit_that_changes_must_hold_and_one_that_stays_need_not() {
        let mut ledger = Ledger::with(&["alice", "bob"]);
        ledger.begin(&hold("alice", "bob", 100, Expiry::Never));
        let conflict = |account: &str, limit, balance| Refusal::LimitsConflict {
            account: code(account),
            limit,
            balance: amount(balance),
        };
        assert_eq!(ledger.refusal(&limits("alice", Some(901), None)), conflict("alice", "min_balance", 900));
        assert_eq!(ledger.refusal(&limits("bob", None, Some(1099))), conflict("bob", "max_balance", 1100));
        assert!(ledger.is_invalid(&limits("alice", Some(5), Some(4))));
        ledger.record(&limits("bob", None, Some(1100)));
        ledger.record(&limits("alice", Some(900), None));
        assert_eq!(ledger.decide(&limits("alice", Some(900), None)), Verdict::Unchanged);

        let paid = ledger.begin(&pay("bank", "alice", 50));
        ledger.record(&limits("alice", Some(950), None));
        ledger.record(&fixture::reverse(paid, crate::ledger::decide::Part::Rest, true));
        assert_eq!(ledger.balance("alice"), (1000, 100, 0), "a floor of 950 is broken");
        ledger.record(&limits("alice", Some(950), Some(2000)));
        assert_eq!(ledger.refusal(&limits("alice", Some(940), None)), conflict("alice", "min_balance", 900));
        ledger.record(&limits("alice", Some(900), None));
        ledger.record(&limits("alice", None, None));
    }
}
