//! Rules of the ledger and its closed period.

use chrono::{DateTime, Utc};

use super::accounts::check_limits;
use super::{Declined, invalid};
use crate::ledger::book::Book;
use crate::ledger::event::{Fact, Moment};
use crate::ledger::name::AssetCode;
use crate::ledger::rejection::{Field, Place, Refusal};
use crate::ledger::rule::{ROLLING_S_MAX, ROLLING_S_MIN, RULES_MAX, Rule, RuleKey, VelocityLimit, Window};

/// Sets a rule, or replaces the one of the same key.
pub(super) fn set(book: &Book, rule: &Rule) -> Result<Fact, Declined> {
    match rule {
        Rule::AccountType(rule) => check_limits(rule.limits, Field::MinBalance)?,
        Rule::VelocityLimit(rule) => check_velocity_limit(rule)?,
    }
    let key = rule.key();
    let present = book.rule(&key);
    if present == Some(rule) {
        return Err(Declined::Unchanged);
    }
    if let Some(asset) = unknown_asset(book, rule) {
        return Err(Refusal::AssetNotFound(asset.clone()).into());
    }
    if present.is_none() && book.rules_of_its_sort(&key) >= RULES_MAX {
        return Err(Refusal::TooManyRules.into());
    }
    Ok(Fact::RuleSet(rule.clone()))
}

pub(super) fn remove(book: &Book, key: &RuleKey) -> Result<Fact, Declined> {
    match book.rule(key) {
        Some(_) => Ok(Fact::RuleRemoved(key.clone())),
        None => Err(Refusal::RuleNotFound(key.clone()).into()),
    }
}

/// A period is closed for good: the date moves on only.
pub(super) fn close_period(book: &Book, before: DateTime<Utc>, at: &Moment) -> Result<Fact, Declined> {
    if before > at.recorded_at {
        let rule = "a period can be closed up to now, and not up to a time that lies ahead";
        return Err(invalid(Place::Field(Field::Before), rule).into());
    }
    match book.closed_before() {
        Some(closed) if closed == before => Err(Declined::Unchanged),
        Some(closed) if closed > before => Err(Refusal::PeriodAlreadyClosed(closed).into()),
        _ => Ok(Fact::PeriodClosed { before }),
    }
}

/// An asset that no account can have, so that the rule would never apply.
fn unknown_asset<'a>(book: &Book, rule: &'a Rule) -> Option<&'a AssetCode> {
    match rule {
        Rule::VelocityLimit(limit) => limit.asset.as_ref().filter(|asset| book.asset_scale(asset).is_none()),
        Rule::AccountType(_) => None,
    }
}

fn check_velocity_limit(limit: &VelocityLimit) -> Result<(), Refusal> {
    if limit.count_max.is_none() && limit.amount_max.is_none() {
        return Err(invalid(Place::Whole, "a velocity limit has a count_max, an amount_max, or both"));
    }
    if limit.amount_max.is_some() && limit.asset.is_none() {
        let rule = "an amount_max needs an asset: amounts of different ones have no sum";
        return Err(invalid(Place::Field(Field::Asset), rule));
    }
    match limit.window {
        Window::Rolling { seconds } if !(ROLLING_S_MIN..=ROLLING_S_MAX).contains(&seconds) => {
            Err(invalid(Place::Field(Field::Window), "a rolling window is 60 to 31622400 seconds long"))
        }
        Window::Rolling { .. } | Window::Day { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::account::Limits;
    use crate::ledger::fixture::{self, Ledger, amount, code, moment};
    use crate::ledger::rule::{AccountType, Direction, Scope};
    use crate::ledger::{Command, OpenAccount, Side, Verdict};

    fn account_type(prefix: &str, normal: Side, floor: Option<i128>) -> Rule {
        let limits = Limits { min_balance: floor.map(amount), max_balance: Some(amount(500)) };
        Rule::AccountType(AccountType { prefix: Arc::from(prefix), normal, limits })
    }

    fn velocity_limit() -> VelocityLimit {
        VelocityLimit {
            name: Arc::from("daily"),
            scope: Scope::Prefix(Arc::from("wallet:")),
            asset: None,
            direction: Direction::Out,
            window: Window::Rolling { seconds: 60 },
            count_max: Some(3),
            amount_max: None,
        }
    }

    #[test]
    fn an_account_begins_with_what_the_type_of_its_longest_prefix_says() {
        let mut ledger = Ledger::with(&[]);
        ledger.record(&Command::SetRule(account_type("assets:", Side::Debit, None)));
        ledger.record(&Command::SetRule(account_type("assets:bank", Side::Debit, Some(-7))));
        let opened = |ledger: &mut Ledger, open: OpenAccount| {
            let code = open.code.clone();
            ledger.record(&Command::OpenAccount(open));
            let account = ledger.book.account(&code).unwrap();
            let limits = account.attributes.limits;
            (account.normal, limits.min_balance.map(Amount::get), limits.max_balance.map(Amount::get))
        };
        use crate::ledger::Amount;
        assert_eq!(opened(&mut ledger, fixture::open("wallet:a")), (Side::Credit, Some(0), None));
        assert_eq!(opened(&mut ledger, fixture::open("assets:a")), (Side::Debit, None, Some(500)));
        assert_eq!(opened(&mut ledger, fixture::open("assets:bank:eur")), (Side::Debit, Some(-7), Some(500)));
        let own = OpenAccount { normal: Some(Side::Credit), max_balance: Some(None), ..fixture::open("assets:own") };
        assert_eq!(opened(&mut ledger, own), (Side::Credit, None, None));
        let too_high = OpenAccount { min_balance: Some(Some(amount(501))), ..fixture::open("assets:b") };
        assert_eq!(ledger.wrong_place(&Command::OpenAccount(too_high)), Place::Field(Field::MinBalance));
        let too_low = OpenAccount { max_balance: Some(Some(amount(-8))), ..fixture::open("assets:bank:b") };
        assert_eq!(ledger.wrong_place(&Command::OpenAccount(too_low)), Place::Field(Field::MaxBalance));

        let again = Command::OpenAccount(fixture::open("assets:a"));
        assert_eq!(ledger.decide(&again), Verdict::Unchanged);
        ledger.record(&Command::RemoveRule(account_type("assets:", Side::Debit, None).key()));
        assert!(matches!(ledger.refusal(&again), Refusal::AccountAlreadyExists(_)), "it would be another account now");
        assert_eq!(ledger.book.account(&code("assets:a")).unwrap().normal, Side::Debit);
    }

    #[test]
    fn a_rule_is_set_replaced_and_removed() {
        let mut ledger = Ledger::with(&[]);
        let rule = Rule::VelocityLimit(velocity_limit());
        let first = ledger.record(&Command::SetRule(rule.clone())).position;
        assert_eq!(ledger.decide(&Command::SetRule(rule.clone())), Verdict::Unchanged);
        assert_eq!(ledger.book.rules().collect::<Vec<_>>(), [(&rule, first)]);
        let other = Rule::VelocityLimit(VelocityLimit { count_max: Some(4), ..velocity_limit() });
        let second = ledger.record(&Command::SetRule(other.clone())).position;
        assert_eq!(ledger.book.rules().collect::<Vec<_>>(), [(&other, second)]);
        ledger.record(&Command::RemoveRule(rule.key()));
        assert_eq!(ledger.refusal(&Command::RemoveRule(rule.key())), Refusal::RuleNotFound(rule.key()));
    }

    #[test]
    fn rules_of_each_sort_are_bounded() {
        let mut ledger = Ledger::with(&[]);
        for index in 0..RULES_MAX {
            let rule = account_type(&format!("a{index}"), Side::Debit, None);
            let at = ledger.next();
            ledger.head += 1;
            let event = crate::ledger::decide::event(
                &ledger.book,
                &Command::SetRule(rule.clone()),
                Fact::RuleSet(rule),
                None,
                &at,
            );
            ledger.book.apply(&event).unwrap();
        }
        let one_more = Command::SetRule(account_type("b", Side::Debit, None));
        assert_eq!(ledger.refusal(&one_more), Refusal::TooManyRules);
        ledger.record(&Command::SetRule(account_type("a0", Side::Credit, None)));
        ledger.record(&Command::SetRule(Rule::VelocityLimit(velocity_limit())));
    }

    #[test]
    fn a_velocity_limit_limits_something() {
        let ledger = Ledger::with(&[]);
        let in_eur = || VelocityLimit { asset: Some(fixture::asset("EUR")), ..velocity_limit() };
        let rolling = |seconds| VelocityLimit { window: Window::Rolling { seconds }, ..velocity_limit() };
        for (limit, valid) in [
            (VelocityLimit { count_max: None, ..velocity_limit() }, false),
            (VelocityLimit { amount_max: Some(amount(5)), ..velocity_limit() }, false),
            (VelocityLimit { amount_max: Some(amount(5)), ..in_eur() }, true),
            (VelocityLimit { count_max: None, amount_max: Some(amount(5)), ..in_eur() }, true),
            (VelocityLimit { window: Window::Day { zone: chrono_tz::Europe::Berlin }, ..velocity_limit() }, true),
            (rolling(59), false),
            (rolling(31_622_400), true),
            (rolling(31_622_401), false),
        ] {
            let verdict = ledger.decide(&Command::SetRule(Rule::VelocityLimit(limit.clone())));
            assert_eq!(matches!(verdict, Verdict::Record(_)), valid, "{limit:?}");
        }
        let Rule::AccountType(mut crossed) = account_type("a", Side::Debit, Some(501)) else { return };
        assert!(ledger.is_invalid(&Command::SetRule(Rule::AccountType(crossed.clone()))));
        crossed.limits.max_balance = None;
        assert!(matches!(ledger.decide(&Command::SetRule(Rule::AccountType(crossed))), Verdict::Record(_)));
    }

    #[test]
    fn a_closed_period_only_grows() {
        let mut ledger = Ledger::with(&[]);
        let close = |seconds| Command::ClosePeriod { before: moment(seconds) };
        assert!(ledger.is_invalid(&close(1)));
        let closed = ledger.record(&close(-10));
        assert_eq!(closed.transaction_id, None);
        assert_eq!(ledger.decide(&close(-10)), Verdict::Unchanged);
        assert_eq!(ledger.refusal(&close(-11)), Refusal::PeriodAlreadyClosed(moment(-10)));
        ledger.record(&close(0));
        assert_eq!(ledger.book.closed_before(), Some(moment(0)));
    }
}
