//! Sums that cannot overflow.

use std::ops::{Add, Sub};

use steelyard::ledger::{Amount, Balance, Side};

/// A sum of any number of amounts, exact: `high` × 10^19 + `low`.
///
/// Two amounts of 38 digits already leave an `i128`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exact {
    high: i128,
    /// 0 to 10^19 - 1, so that comparing field by field compares the numbers.
    low: i128,
}

const LIMB: i128 = 10_i128.pow(19);

impl Exact {
    pub const ZERO: Self = Self { high: 0, low: 0 };

    fn new(high: i128, low: i128) -> Self {
        Self { high: high + low.div_euclid(LIMB), low: low.rem_euclid(LIMB) }
    }

    /// The amount nearest to this number.
    pub fn clamp(self) -> Amount {
        if self > Amount::MAX.into() {
            return Amount::MAX;
        }
        if self < Amount::MIN.into() {
            return Amount::MIN;
        }
        Amount::new(self.high * LIMB + self.low).unwrap()
    }

    pub fn fits(self) -> bool {
        self == self.clamp().into()
    }
}

impl From<Amount> for Exact {
    fn from(amount: Amount) -> Self {
        Self::new(0, amount.get())
    }
}

impl Add for Exact {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.high + other.high, self.low + other.low)
    }
}

impl Sub for Exact {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::new(self.high - other.high, self.low - other.low)
    }
}

/// Debits less credits, exact.
pub fn net(debits: Amount, credits: Amount) -> Exact {
    Exact::from(debits) - Exact::from(credits)
}

/// What is left of an account on its normal side, were `pending` captured too.
fn on_normal_side(normal: Side, debits: Exact, credits: Exact) -> Exact {
    match normal {
        Side::Debit => debits - credits,
        Side::Credit => credits - debits,
    }
}

/// What the floor is compared with: every pending amount that lowers counts.
pub fn lowest(normal: Side, balance: &Balance) -> Exact {
    let (debits, credits) = (Exact::from(balance.debits_posted), Exact::from(balance.credits_posted));
    match normal {
        Side::Debit => on_normal_side(normal, debits, credits + balance.credits_pending.into()),
        Side::Credit => on_normal_side(normal, debits + balance.debits_pending.into(), credits),
    }
}

/// What the cap is compared with: every pending amount that raises counts.
pub fn highest(normal: Side, balance: &Balance) -> Exact {
    let (debits, credits) = (Exact::from(balance.debits_posted), Exact::from(balance.credits_posted));
    match normal {
        Side::Debit => on_normal_side(normal, debits + balance.debits_pending.into(), credits),
        Side::Credit => on_normal_side(normal, debits, credits + balance.credits_pending.into()),
    }
}
