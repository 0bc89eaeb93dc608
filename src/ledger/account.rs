//! Accounts: a name, one asset, a normal side, limits and a balance.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::amount::Amount;
use super::event::Position;
use super::name::{AccountCode, AssetCode};
use super::transaction::Side;

/// An account's number in its ledger: the position of the event that opened it.
pub type AccountId = Position;

/// Whether an account takes part in transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    Open,
    /// Open, with a [`Freeze`].
    Frozen,
    Closed,
}

impl AccountStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Frozen => "frozen",
            Self::Closed => "closed",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Frozen, Self::Closed].into_iter().find(|s| s.as_str() == text)
    }
}

/// Which legs a freeze declines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreezeScope {
    All,
    Debits,
    Credits,
}

impl FreezeScope {
    pub const ALL: [Self; 3] = [Self::All, Self::Debits, Self::Credits];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Debits => "debits",
            Self::Credits => "credits",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    pub const fn stops(self, side: Side) -> bool {
        matches!((self, side), (Self::All, _) | (Self::Debits, Side::Debit) | (Self::Credits, Side::Credit))
    }
}

/// Legs that an account declines until it is unfrozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    pub scope: FreezeScope,
    /// Why, in the operator's words.
    pub reason: Arc<str>,
}

/// Everything about an account that may change, beside its balance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    pub closed: bool,
    /// Kept while the account is closed: reopening does not lift it.
    pub freeze: Option<Freeze>,
    pub limits: Limits,
    /// The client's own JSON object as it came, `None` for `{}`.
    pub metadata: Option<Arc<str>>,
}

impl Attributes {
    pub const fn status(&self) -> AccountStatus {
        match (self.closed, &self.freeze) {
            (true, _) => AccountStatus::Closed,
            (false, Some(_)) => AccountStatus::Frozen,
            (false, None) => AccountStatus::Open,
        }
    }
}

/// The bounds of a balance, counted on the account's normal side. `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The floor. Below zero it is an overdraft limit.
    pub min_balance: Option<Amount>,
    /// The cap.
    pub max_balance: Option<Amount>,
}

/// What has happened to an account: totals that only ever describe whole legs.
///
/// All four totals are zero or more, in the asset's smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub debits_posted: Amount,
    pub credits_posted: Amount,
    pub debits_pending: Amount,
    pub credits_pending: Amount,
    /// Rises by one with every leg: 0 when just opened.
    pub version: u64,
    /// Position of the last event that touched the account.
    pub position: Position,
}

impl Balance {
    /// Posted balance on the normal side. Below zero when overdrawn.
    pub fn posted(&self, normal: Side) -> Amount {
        self.net(normal, self.debits_posted, self.credits_posted)
    }

    /// Pending amounts that will raise the balance if they are captured.
    pub fn pending_in(&self, normal: Side) -> Amount {
        match normal {
            Side::Debit => self.debits_pending,
            Side::Credit => self.credits_pending,
        }
    }

    /// Pending amounts that will lower the balance if they are captured.
    pub fn pending_out(&self, normal: Side) -> Amount {
        match normal {
            Side::Debit => self.credits_pending,
            Side::Credit => self.debits_pending,
        }
    }

    /// Nothing is on the account and nothing is to come or to go.
    pub fn is_empty(&self) -> bool {
        self.debits_posted == self.credits_posted && self.debits_pending.is_zero() && self.credits_pending.is_zero()
    }

    /// Posted less pending out, which is what the floor is about; the nearest
    /// amount, where that has 39 digits.
    pub fn available(&self, normal: Side) -> Amount {
        saturating(self.lowest(normal))
    }

    /// Posted plus pending in, which is what the cap is about; the nearest
    /// amount, where that has 39 digits.
    pub fn expected(&self, normal: Side) -> Amount {
        saturating(self.highest(normal))
    }

    pub fn is_below_floor(&self, normal: Side, floor: Amount) -> bool {
        self.lowest(normal) < floor.get()
    }

    pub fn is_above_cap(&self, normal: Side, cap: Amount) -> bool {
        self.highest(normal) > cap.get()
    }

    /// The balance after one more posted leg, as of `position`. `None` when a
    /// total would have more than 38 digits.
    pub fn with_posted(&self, side: Side, amount: Amount, position: Position) -> Option<Self> {
        let mut after = *self;
        match side {
            Side::Debit => after.debits_posted = after.debits_posted.checked_add(amount)?,
            Side::Credit => after.credits_posted = after.credits_posted.checked_add(amount)?,
        }
        after.version += 1;
        after.position = position;
        Some(after)
    }

    /// The balance after one more pending leg, as of `position`: no leg is posted,
    /// so the version stays. `None` when a total would have more than 38 digits.
    pub fn with_pending(&self, side: Side, amount: Amount, position: Position) -> Option<Self> {
        let mut after = *self;
        match side {
            Side::Debit => after.debits_pending = after.debits_pending.checked_add(amount)?,
            Side::Credit => after.credits_pending = after.credits_pending.checked_add(amount)?,
        }
        after.position = position;
        Some(after)
    }

    /// The balance after `amount` is pending no longer, as of `position`. `None`
    /// when so much was not pending.
    pub fn with_released(&self, side: Side, amount: Amount, position: Position) -> Option<Self> {
        let mut after = *self;
        let pending = match side {
            Side::Debit => &mut after.debits_pending,
            Side::Credit => &mut after.credits_pending,
        };
        let left = pending.get().checked_sub(amount.get()).filter(|left| *left >= 0)?;
        *pending = Amount::new(left)?;
        after.position = position;
        Some(after)
    }

    /// Saturates at the end of `i128`, which is further out than any limit, so
    /// that it compares with a limit as the exact number would.
    fn lowest(&self, normal: Side) -> i128 {
        self.posted(normal).get().saturating_sub(self.pending_out(normal).get())
    }

    /// As [`Self::lowest`].
    fn highest(&self, normal: Side) -> i128 {
        self.posted(normal).get().saturating_add(self.pending_in(normal).get())
    }

    fn net(&self, normal: Side, debits: Amount, credits: Amount) -> Amount {
        match normal {
            Side::Debit => saturating(debits.get() - credits.get()),
            Side::Credit => saturating(credits.get() - debits.get()),
        }
    }
}

/// Posted totals are zero or more and at most 38 digits, so a difference of two
/// cannot leave the range; only a sum with pending amounts can.
fn saturating(value: i128) -> Amount {
    Amount::new(value.clamp(Amount::MIN.get(), Amount::MAX.get())).unwrap_or(Amount::ZERO)
}

/// An account with its present state.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub id: AccountId,
    pub code: AccountCode,
    pub asset: AssetCode,
    pub normal: Side,
    pub attributes: Attributes,
    pub opened_at: DateTime<Utc>,
    pub balance: Balance,
    /// Position of the last event that changed the attributes, as far as memory
    /// knows: 0 for an account that was loaded from its projection.
    pub changed: Position,
}

impl Account {
    /// The last event that the account's state depends on.
    pub fn touched(&self) -> Position {
        self.balance.position.max(self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_amounts_count_against_the_side_they_move() {
        let balance = Balance {
            debits_posted: Amount::from(750),
            credits_posted: Amount::from(2000),
            debits_pending: Amount::from(300),
            credits_pending: Amount::from(40),
            version: 7,
            position: 4711,
        };
        assert_eq!(balance.posted(Side::Credit), Amount::from(1250));
        assert_eq!(balance.available(Side::Credit), Amount::from(950));
        assert_eq!(balance.expected(Side::Credit), Amount::from(1290));
        assert_eq!(balance.posted(Side::Debit), Amount::new(-1250).unwrap());
        assert_eq!(balance.pending_out(Side::Debit), Amount::from(40));
        assert_eq!(balance.pending_in(Side::Debit), Amount::from(300));
    }

    /// Posted and pending amounts together leave 38 digits, and even an `i128`.
    #[test]
    fn limits_hold_where_a_balance_has_39_digits() {
        let overdrawn = Balance { debits_posted: Amount::MAX, debits_pending: Amount::MAX, ..Balance::default() };
        assert_eq!(overdrawn.available(Side::Credit), Amount::MIN);
        assert!(overdrawn.is_below_floor(Side::Credit, Amount::MIN));
        assert_eq!(overdrawn.expected(Side::Debit), Amount::MAX);
        assert!(overdrawn.is_above_cap(Side::Debit, Amount::MAX));
        let at_the_end = Balance { debits_pending: Amount::ZERO, ..overdrawn };
        assert!(!at_the_end.is_below_floor(Side::Credit, Amount::MIN));
        assert!(!at_the_end.is_above_cap(Side::Debit, Amount::MAX));
    }
}
