//! Exchange rates that a transaction states, checked against its legs.

use std::str::FromStr;

use bigdecimal::{BigDecimal, Signed, Zero};

use super::book::Book;
use super::name::AssetCode;
use super::rejection::Refusal;
use super::transaction::{Kind, LegRequest, Rate, Side, TransactionRequest};

/// Rates one transaction may state: each is shown wherever the transaction is.
pub const RATES_MAX: usize = 16;
/// Digits of a rate or remainder before the point, and as many after it: enough for
/// the smallest unit of any asset in any other.
const RATE_DIGITS_MAX: usize = 18;

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
        return Err(Refusal::Invalid("only a transaction of legs states rates".into()));
    }
    if rates.len() > RATES_MAX {
        return Err(Refusal::Invalid("a transaction states at most 16 rates".into()));
    }
    rates.iter().try_for_each(|rate| check_rate(book, &request.legs, rate))
}

fn check_rate(book: &Book, legs: &[LegRequest], rate: &Rate) -> Result<(), Refusal> {
    let Rate { from, to, .. } = rate;
    if from == to {
        return Err(Refusal::Invalid("a rate is between two different assets".into()));
    }
    if let Some(asset) = [from, to].into_iter().find(|asset| !legs.iter().any(|leg| leg.asset == **asset)) {
        return Err(Refusal::Invalid(format!("a rate is of {asset}, which no leg is in").into()));
    }
    let factor = plain_decimal(&rate.rate).filter(Signed::is_positive);
    let factor = factor.ok_or(Refusal::Invalid(
        "a rate is a decimal above zero with at most 18 digits before the point and 18 after it".into(),
    ))?;
    let remainder = match &rate.remainder {
        None => Some(BigDecimal::zero()),
        Some(text) => signed_decimal(text).filter(|remainder| remainder.abs() < BigDecimal::from(1)),
    };
    let remainder = remainder
        .ok_or(Refusal::Invalid("a remainder is a decimal between -1 and 1 with at most 18 decimals".into()))?;
    // An asset that is not defined has no account: the legs are refused for that.
    let (Some(scale_from), Some(scale_to)) = (book.asset_scale(from), book.asset_scale(to)) else { return Ok(()) };

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
    let can_be_named = needed.abs() < BigDecimal::from(1) && needed.fractional_digit_count() <= RATE_DIGITS_MAX as i64;
    let detail = if can_be_named {
        format!("{product}: the remainder to name is {:?}", needed.to_plain_string())
    } else {
        format!("{product}: the legs do not match the rate")
    };
    Err(Refusal::Invalid(detail.into()))
}

/// The sum of the debits in `asset`, in its smallest unit.
fn debits(legs: &[LegRequest], asset: &AssetCode) -> BigDecimal {
    let debits = legs.iter().filter(|leg| leg.side == Side::Debit && leg.asset == *asset);
    debits.fold(BigDecimal::zero(), |sum, leg| sum + BigDecimal::from(leg.amount.get()))
}

fn power_of_ten(exponent: i64) -> BigDecimal {
    BigDecimal::new(1.into(), -exponent)
}

/// Digits, and perhaps a point between them; no sign, no exponent.
fn plain_decimal(text: &str) -> Option<BigDecimal> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits =
        |part: &str| (1..=RATE_DIGITS_MAX).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if is_digits(whole) && is_digits(decimals) { BigDecimal::from_str(text).ok() } else { None }
}

fn signed_decimal(text: &str) -> Option<BigDecimal> {
    match text.strip_prefix('-') {
        Some(text) => plain_decimal(text).map(|decimal| -decimal),
        None => plain_decimal(text),
    }
}
