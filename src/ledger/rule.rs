//! Rules of a ledger: what accounts begin with, and how fast money may move.
//!
//! Each is set and removed by an event of its own, and memory has all of them, so
//! their number is bounded by [`RULES_MAX`].

use std::sync::Arc;

use super::account::Limits;
use super::amount::Amount;
use super::name::AssetCode;
use super::transaction::Side;

/// Rules of one sort that a ledger may have: a chart of accounts has some tens of
/// types; all of them are looked at when an account is opened.
pub const RULES_MAX: usize = 1_000;

/// Seconds of the shortest rolling window: it is counted in sixtieths, and a second is
/// the least of those.
pub const ROLLING_S_MIN: u32 = 60;
/// The longest: a leap year, since what is counted has to be kept for so long.
pub const ROLLING_S_MAX: u32 = 366 * 86_400;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    AccountType(AccountType),
    VelocityLimit(VelocityLimit),
}

/// The name under which a rule is set, replaced and removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleKey {
    /// The prefix of an account type.
    AccountType(Arc<str>),
    /// The name of a velocity limit.
    VelocityLimit(Arc<str>),
}

impl Rule {
    pub fn key(&self) -> RuleKey {
        match self {
            Self::AccountType(rule) => RuleKey::AccountType(Arc::clone(&rule.prefix)),
            Self::VelocityLimit(rule) => RuleKey::VelocityLimit(Arc::clone(&rule.name)),
        }
    }
}

/// What accounts whose codes begin with `prefix` have unless their opening says
/// otherwise. The longest prefix counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountType {
    pub prefix: Arc<str>,
    pub normal: Side,
    pub limits: Limits,
}

/// How much may move on an account within a window of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VelocityLimit {
    pub name: Arc<str>,
    pub scope: Scope,
    /// Only accounts of this asset; needed where there is an `amount_max`.
    pub asset: Option<AssetCode>,
    pub direction: Direction,
    pub window: Window,
    /// Legs within the window.
    pub count_max: Option<u32>,
    /// Sum of the legs' amounts within the window.
    pub amount_max: Option<Amount>,
}

/// The accounts of a limit. Each has the limit for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Account(Arc<str>),
    Prefix(Arc<str>),
}

/// Which legs are counted: those that lower the account's balance on its normal
/// side, or those that raise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Out,
    In,
}

impl Direction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Out, Self::In].into_iter().find(|d| d.as_str() == text)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many seconds, counted in sixtieths of them.
    Rolling { seconds: u32 },
    /// A day as the wall clock of a time zone has it.
    Day { zone: chrono_tz::Tz },
}
