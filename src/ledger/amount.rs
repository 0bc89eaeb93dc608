//! Money: an integer in the asset's smallest unit.

use std::fmt;
use std::str::FromStr;

/// An amount of one asset in its smallest unit (cents, satoshi, wei).
///
/// At most 38 decimal digits either side of zero, which is what
/// `NUMERIC(38,0)` in PostgreSQL holds and what an `i128` holds with room to
/// spare. Every operation is checked; there is no float anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// Decimal digits an amount may have.
pub const AMOUNT_DIGITS_MAX: usize = 38;

const MAGNITUDE_MAX: i128 = 10_i128.pow(AMOUNT_DIGITS_MAX as u32) - 1;

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAmountError {
    #[error("an amount is an integer in the asset's smallest unit, written with digits only, such as \"1250\"")]
    NotAnInteger,
    #[error("an amount has at most 38 digits")]
    TooManyDigits,
}

impl Amount {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(MAGNITUDE_MAX);
    pub const MIN: Self = Self(-MAGNITUDE_MAX);

    /// `None` when the value has more than 38 digits.
    pub const fn new(value: i128) -> Option<Self> {
        if value >= -MAGNITUDE_MAX && value <= MAGNITUDE_MAX { Some(Self(value)) } else { None }
    }

    pub const fn get(self) -> i128 {
        self.0
    }

    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `None` when the sum has more than 38 digits. Two amounts of 38 digits do
    /// not even fit an `i128`.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }

    /// `None` when the difference has more than 38 digits.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Self::new(difference),
            None => None,
        }
    }

    /// What is left of an amount after a part of it; zero, where the part is more.
    /// Both are zero or more.
    pub fn less(self, part: Self) -> Self {
        Self((self.0 - part.0).max(0))
    }
}

impl From<u64> for Amount {
    fn from(value: u64) -> Self {
        Self(i128::from(value))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nearly every amount fits 64 bits, and formatting those is several
        // times cheaper than formatting 128.
        match i64::try_from(self.0) {
            Ok(small) => f.pad(itoa::Buffer::new().format(small)),
            Err(_) => f.pad(itoa::Buffer::new().format(self.0)),
        }
    }
}

impl FromStr for Amount {
    type Err = ParseAmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseAmountError::NotAnInteger);
        }
        let significant = digits.trim_start_matches('0');
        if significant.len() > AMOUNT_DIGITS_MAX {
            return Err(ParseAmountError::TooManyDigits);
        }
        let mut value: i128 = 0;
        for b in significant.bytes() {
            value = value * 10 + i128::from(b - b'0');
        }
        Ok(Self(if negative { -value } else { value }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn thirty_eight_digits_fit_and_thirty_nine_do_not() {
        let most = "9".repeat(38);
        assert_eq!(most.parse::<Amount>().unwrap(), Amount::MAX);
        assert_eq!(format!("-{most}").parse::<Amount>().unwrap(), Amount::MIN);
        assert_eq!("1".repeat(39).parse::<Amount>(), Err(ParseAmountError::TooManyDigits));
        assert_eq!(Amount::MAX.checked_add(Amount::from(1)), None);
        assert_eq!(Amount::MIN.checked_sub(Amount::from(1)), None);
    }

    #[test]
    fn sums_that_leave_an_i128_are_none() {
        assert_eq!(Amount::MAX.checked_add(Amount::MAX), None);
        assert_eq!(Amount::MIN.checked_add(Amount::MIN), None);
        assert_eq!(Amount::MIN.checked_sub(Amount::MAX), None);
        assert_eq!(Amount::MAX.checked_sub(Amount::MIN), None);
        assert_eq!(Amount::MAX.checked_sub(Amount::MAX), Some(Amount::ZERO));
    }

    #[test]
    fn only_digits_are_an_amount() {
        for text in ["", "-", "+1", "1.0", "1e3", " 1", "1 ", "NaN", "0x10", "١"] {
            assert_eq!(text.parse::<Amount>(), Err(ParseAmountError::NotAnInteger), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(value in -MAGNITUDE_MAX..=MAGNITUDE_MAX) {
            let amount = Amount::new(value).unwrap();
            prop_assert_eq!(amount.to_string(), value.to_string());
            prop_assert_eq!(amount.to_string().parse::<Amount>().unwrap(), amount);
        }
    }
}
