//! Rules of the ledger and its closed period.

use chrono::{DateTime, Utc};

use super::super::book::Book;
use super::super::event::{Fact, Moment};
use super::super::rejection::Refusal;
use super::super::rule::{RULES_MAX, Rule, RuleKey, VelocityLimit, Window};
use super::accounts::check_limits;
use super::{Declined, invalid};

/// Seconds of a rolling window: shorter ones are a matter of rate limiting, longer
/// ones than a leap year would have to be counted for ever.
const WINDOW_SECONDS_MIN: u32 = 60;
const WINDOW_SECONDS_MAX: u32 = 366 * 86_400;

/// Sets a rule, or replaces the one of the same key.
pub(super) fn set(book: &Book, rule: &Rule) -> Result<Fact, Declined> {
    match rule {
        Rule::AccountType(rule) => check_limits(rule.limits)?,
        Rule::VelocityLimit(rule) => check_velocity_limit(rule)?,
    }
    let key = rule.key();
    match book.rule(&key) {
        Some(present) if present == rule => Err(Declined::Unchanged),
        None if book.rules_of_its_sort(&key) >= RULES_MAX => Err(Refusal::TooManyRules.into()),
        _ => Ok(Fact::RuleSet(rule.clone())),
    }
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
        return Err(invalid("a period can be closed up to now, and not up to a time that lies ahead").into());
    }
    match book.closed_before() {
        Some(closed) if closed == before => Err(Declined::Unchanged),
        Some(closed) if closed > before => Err(Refusal::PeriodAlreadyClosed(closed).into()),
        _ => Ok(Fact::PeriodClosed { before }),
    }
}

fn check_velocity_limit(limit: &VelocityLimit) -> Result<(), Refusal> {
    if limit.count_max.is_none() && limit.amount_max.is_none() {
        return Err(invalid("a velocity limit has a count_max, an amount_max, or both"));
    }
    if limit.amount_max.is_some() && limit.asset.is_none() {
        return Err(invalid("an amount_max needs an asset: amounts of different ones have no sum"));
    }
    match limit.window {
        Window::Rolling { seconds } if !(WINDOW_SECONDS_MIN..=WINDOW_SECONDS_MAX).contains(&seconds) => {
            Err(invalid("a rolling window is 60 to 31622400 seconds long"))
        }
        Window::Rolling { .. } | Window::Day { .. } => Ok(()),
    }
}
