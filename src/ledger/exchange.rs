//! Exchange rates that a transaction states, checked against its legs.

use std::borrow::Cow;
use std::str::FromStr;

use bigdecimal::{BigDecimal, One, Signed, Zero};

use super::asset::SCALE_MAX;
use super::book::Book;
use super::name::AssetCode;
use super::rejection::{Field, Place, Refusal};
use super::transaction::{Kind, LegRequest, Rate, Side, TransactionRequest};

/// Rates one transaction may state: each is shown wherever the transaction is.
pub const RATES_MAX: usize = 16;
/// Digits of a rate before the point, and as many after it: enough for the smallest
/// unit of any asset in any other.
pub const RATE_DIGITS_MAX: usize = 18;
/// Digits of a remainder after the point: as many as the product can have that it
/// is left of, which are those of the rate, and those of the scale of `from`
/// where `to` has none.
pub const REMAINDER_DIGITS_MAX: usize = RATE_DIGITS_MAX + SCALE_MAX as usize;

/// Whether every rate of the request is one, and holds for the legs exactly.
///
/// # Errors
/// [`Refusal::Invalid`], which says what would hold.
pub(super) fn check(book: &Book, request: &TransactionRequest) -> Result<(), Refusal> {
    let rates = request.rates();
    if rates.is_empty() {
        return Ok(());
    }
    if request.kind != Kind::Transaction {
        return Err(invalid(Place::Field(Field::Rates), "only a transaction of legs states rates"));
    }
    if rates.len() > RATES_MAX {
        return Err(invalid(Place::Field(Field::Rates), "a transaction states at most 16 rates"));
    }
    rates.iter().enumerate().try_for_each(|(index, rate)| check_rate(book, &request.legs, index, rate))
}

/// What the texts say.
const _: () = assert!(RATES_MAX == 16 && RATE_DIGITS_MAX == 18 && REMAINDER_DIGITS_MAX == 55);

fn check_rate(book: &Book, legs: &[LegRequest], index: usize, rate: &Rate) -> Result<(), Refusal> {
    let Rate { from, to, .. } = rate;
    let at = |field| Place::Rate(index, Some(field));
    if from == to {
        return Err(invalid(at(Field::To), "a rate is between two different assets"));
    }
    let is_in_no_leg = |asset: &AssetCode| !legs.iter().any(|leg| leg.asset == *asset);
    if let Some((field, asset)) =
        [(Field::From, from), (Field::To, to)].into_iter().find(|(_, asset)| is_in_no_leg(asset))
    {
        return Err(invalid(at(field), format!("a rate is of {asset}, which no leg is in")));
    }
    let factor = plain_decimal(&rate.rate, RATE_DIGITS_MAX).filter(Signed::is_positive);
    let expected = "a rate is a decimal above zero with at most 18 digits before the point and 18 after it";
    let factor = factor.ok_or(invalid(at(Field::Rate), expected))?;
    let remainder = match &rate.remainder {
        None => Some(BigDecimal::zero()),
        Some(text) => signed_decimal(text).filter(|remainder| remainder.abs() < BigDecimal::one()),
    };
    let expected = "a remainder is a decimal between -1 and 1 with at most 55 decimals";
    let remainder = remainder.ok_or(invalid(at(Field::Remainder), expected))?;
    // An asset that is not defined has no account: the legs are refused for that.
    let (Some(scale_from), Some(scale_to)) = (book.asset_scale(from), book.asset_scale(to)) else { return Ok(()) };

    // Bounded, so exact: 256 amounts of 38 digits, 18 digits of a rate on either side
    // of its point, and 37 by which the scales differ.
    let (given, got) = (debits(legs, from), debits(legs, to));
    let exact = &given * &factor * power_of_ten(i64::from(scale_to) - i64::from(scale_from));
    let needed = (&exact - &got).normalized();
    if needed == remainder {
        return Ok(());
    }
    let product = format!(
        "{given} of the smallest unit of {from} at {rate} are exactly {exact} of {to}, and the legs debit {got}",
        rate = rate.rate,
        exact = exact.normalized().to_plain_string(),
    );
    let detail = if needed.abs() < BigDecimal::one() {
        format!("{product}: the remainder to name is {:?}", needed.to_plain_string())
    } else {
        format!("{product}: the legs do not match the rate")
    };
    Err(invalid(Place::Rate(index, None), detail))
}

fn invalid(place: Place, rule: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::Invalid { place, rule: rule.into() }
}

/// The sum of the debits in `asset`, in its smallest unit.
fn debits(legs: &[LegRequest], asset: &AssetCode) -> BigDecimal {
    let debits = legs.iter().filter(|leg| leg.side == Side::Debit && leg.asset == *asset);
    debits.fold(BigDecimal::zero(), |sum, leg| sum + BigDecimal::from(leg.amount.get()))
}

fn power_of_ten(exponent: i64) -> BigDecimal {
    BigDecimal::new(1.into(), -exponent)
}

/// Digits, and perhaps a point and at most so many decimals; no sign, no exponent.
fn plain_decimal(text: &str, decimals_max: usize) -> Option<BigDecimal> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits =
        |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if is_digits(whole, RATE_DIGITS_MAX) && is_digits(decimals, decimals_max) {
        BigDecimal::from_str(text).ok()
    } else {
        None
    }
}

fn signed_decimal(text: &str) -> Option<BigDecimal> {
    match text.strip_prefix('-') {
        Some(text) => plain_decimal(text, REMAINDER_DIGITS_MAX).map(|decimal| -decimal),
        None => plain_decimal(text, REMAINDER_DIGITS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::{asset, transaction};
    use super::super::transaction::{Kind, Terms};
    use super::*;

    fn book() -> Book {
        let mut book = Book::default();
        for (code, scale) in [("EUR", 2), ("USD", 2), ("JPY", 0), ("WEI", 18), ("DUST", 37)] {
            book.load_asset(asset(code), scale);
        }
        book
    }

    fn rate(from: &str, to: &str, rate: &str, remainder: Option<&str>) -> Rate {
        Rate { from: asset(from), to: asset(to), rate: Arc::from(rate), remainder: remainder.map(Arc::from) }
    }

    /// What is wrong with the exchange of `from` into `to`, such as `100 EUR`.
    fn checked(from: &str, to: &str, rates: Vec<Rate>) -> Result<(), String> {
        let request = transaction(&format!("debit a {from}, credit b {from}, debit c {to}, credit d {to}"));
        let terms = Some(Box::new(Terms { rates, ..Terms::default() }));
        check(&book(), &TransactionRequest { terms, ..request }).map_err(|refusal| match refusal {
            Refusal::Invalid { rule, .. } => rule.into_owned(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_rate_holds_exactly_or_with_the_remainder_that_is_named() {
        checked("100 EUR", "109 USD", vec![rate("EUR", "USD", "1.09", None)]).unwrap();
        checked("101 EUR", "110 USD", vec![rate("EUR", "USD", "1.09", Some("0.09"))]).unwrap();
        checked("101 EUR", "111 USD", vec![rate("EUR", "USD", "1.09", Some("-0.91"))]).unwrap();
        checked("101 EUR", "110 USD", vec![rate("EUR", "USD", "1.09", Some("0.090"))]).unwrap();
        checked("12345 EUR", "20123 JPY", vec![rate("EUR", "JPY", "163", Some("-0.65"))]).unwrap();
        checked("12345 EUR", "20122 JPY", vec![rate("EUR", "JPY", "163", Some("0.35"))]).unwrap();
        checked("1 EUR", "4000000000000 WEI", vec![rate("EUR", "WEI", "0.0004", None)]).unwrap();
        checked("4000000000000 WEI", "1 EUR", vec![rate("WEI", "EUR", "2500", None)]).unwrap();
        let both = vec![rate("EUR", "USD", "1.25", None), rate("USD", "EUR", "0.8", None)];
        checked("100 EUR", "125 USD", both).unwrap();
        let most = "99999999999999999999999999999999999999";
        checked(&format!("{most} EUR"), &format!("{most} USD"), vec![rate("EUR", "USD", "1", None)]).unwrap();
    }

    #[test]
    fn a_rate_that_does_not_hold_is_told_what_would() {
        let wrong =
            |to: &str, remainder| checked("101 EUR", to, vec![rate("EUR", "USD", "1.09", remainder)]).unwrap_err();
        assert_eq!(
            wrong("110 USD", None),
            "101 of the smallest unit of EUR at 1.09 are exactly 110.09 of USD, and the legs debit 110: \
             the remainder to name is \"0.09\""
        );
        assert_eq!(
            wrong("112 USD", Some("0.5")),
            "101 of the smallest unit of EUR at 1.09 are exactly 110.09 of USD, and the legs debit 112: \
             the legs do not match the rate"
        );
    }

    /// However many digits the product has.
    #[test]
    fn what_rounding_leaves_over_can_be_named_whatever_the_scales() {
        let (most, nines) = ("9".repeat(38), "9".repeat(18));
        for (from, to, between, at, product, remainder) in [
            (
                "1234567890123456789 WEI",
                "426764 USD",
                ["WEI", "USD"],
                "3456.7891",
                "426764.08257887630825361999",
                "0.08257887630825361999",
            ),
            (
                "1234567890123456789 WEI",
                "426765 USD",
                ["WEI", "USD"],
                "3456.7891",
                "426764.08257887630825361999",
                "-0.91742112369174638001",
            ),
            (
                &format!("{most} DUST"),
                "10000000000000000000 JPY",
                ["DUST", "JPY"],
                &format!("{nines}.{nines}"),
                "9999999999999999999.9999999999999999899000000000000000000000000000000000001",
                "-0.0000000000000000100999999999999999999999999999999999999",
            ),
            (
                "1 DUST",
                "1 JPY",
                ["DUST", "JPY"],
                &format!("0.{}1", "0".repeat(17)),
                &format!("0.{}1", "0".repeat(54)),
                &format!("-0.{nines}{nines}{nines}9"),
            ),
        ] {
            let [of, into] = between;
            let without = checked(from, to, vec![rate(of, into, at, None)]).unwrap_err();
            assert!(without.contains(&format!("are exactly {product} of {into}")), "{without}");
            assert!(without.ends_with(&format!("the remainder to name is {remainder:?}")), "{without}");
            checked(from, to, vec![rate(of, into, at, Some(remainder))]).unwrap();
        }
    }

    #[test]
    fn rates_and_remainders_are_plain_decimals() {
        for text in ["", "0", "0.0", "-1", "+1", "1.", ".5", "1e3", "1,5", "1_0", "NaN", " 1", "1.0000000000000000000"]
        {
            checked("100 EUR", "100 USD", vec![rate("EUR", "USD", text, None)]).unwrap_err();
        }
        for text in ["", "1", "-1", "1.0", "+0", "0.", "--0", &format!("0.{}1", "0".repeat(55))] {
            checked("100 EUR", "100 USD", vec![rate("EUR", "USD", "1", Some(text))]).unwrap_err();
        }
        checked("100 EUR", "100 USD", vec![rate("EUR", "USD", "1.000000000000000000", Some("-0"))]).unwrap();
        checked("100 EUR", "100 USD", vec![rate("EUR", "JPY", "1", None)]).unwrap_err();
        checked("100 EUR", "100 USD", vec![rate("EUR", "EUR", "1", None)]).unwrap_err();
        checked("100 EUR", "100 USD", vec![rate("EUR", "USD", "1", None); 16]).unwrap();
        checked("100 EUR", "100 USD", vec![rate("EUR", "USD", "1", None); 17]).unwrap_err();
    }

    #[test]
    fn what_is_wrong_with_a_rate_is_told_at_its_place() {
        let good = || rate("EUR", "USD", "1", None);
        let place = |rates: Vec<Rate>| {
            let legs = "debit a 100 EUR, credit b 100 EUR, debit c 100 USD, credit d 100 USD";
            let terms = Some(Box::new(Terms { rates, ..Terms::default() }));
            match check(&book(), &TransactionRequest { terms, ..transaction(legs) }) {
                Err(Refusal::Invalid { place, .. }) => place,
                other => panic!("{other:?}"),
            }
        };
        for (wrong, field) in [
            (rate("EUR", "EUR", "1", None), Some(Field::To)),
            (rate("JPY", "USD", "1", None), Some(Field::From)),
            (rate("EUR", "JPY", "1", None), Some(Field::To)),
            (rate("EUR", "USD", "0", None), Some(Field::Rate)),
            (rate("EUR", "USD", "1", Some("1")), Some(Field::Remainder)),
            (rate("EUR", "USD", "1.1", None), None),
        ] {
            assert_eq!(place(vec![good(), wrong.clone()]), Place::Rate(1, field), "{wrong:?}");
        }
        assert_eq!(place(vec![good(); 17]), Place::Field(Field::Rates));
    }

    #[test]
    fn a_payment_states_no_rate() {
        let terms = Some(Box::new(Terms { rates: vec![rate("EUR", "USD", "1", None)], ..Terms::default() }));
        let request = TransactionRequest { kind: Kind::Payment, terms, ..transaction("debit a 1 EUR, credit b 1 EUR") };
        check(&book(), &request).unwrap_err();
    }
}
