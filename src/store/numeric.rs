//! `Amount` as PostgreSQL's `NUMERIC(38,0)`, in the binary format.
//!
//! The format is a header of four 16-bit words (digit count, weight of the
//! first digit, sign, display scale) and then the digits in base 10,000, most
//! significant first, trailing zeros left out.
//! Source: `numeric_send` and `numeric_recv` in PostgreSQL's numeric.c.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::ledger::Amount;

const BASE: u64 = 10_000;
/// Base-10,000 digits of the largest amount.
const DIGITS_MAX: usize = 10;
const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;

/// Types by their numbers in PostgreSQL's pg_type.dat, which never change: sqlx looks a name up with
/// a statement of its own, and that undoes a statement that was prepared without a name.
const NUMERIC: Oid = Oid(1700);
const NUMERIC_ARRAY: Oid = Oid(1231);

impl Type<Postgres> for Amount {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(NUMERIC)
    }
}

impl PgHasArrayType for Amount {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(NUMERIC_ARRAY)
    }
}

impl Encode<'_, Postgres> for Amount {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        write_binary(*self, buf);
        Ok(IsNull::No)
    }

    fn size_hint(&self) -> usize {
        8 + 2 * DIGITS_MAX
    }
}

/// Appends an amount in the one form that `numeric_send` gives it too.
pub fn write_binary(amount: Amount, out: &mut Vec<u8>) {
    let mut digits = [0_u16; DIGITS_MAX];
    let mut first = DIGITS_MAX;
    let mut push = |digit: u16| {
        first -= 1;
        digits[first] = digit;
    };
    // Nearly every amount fits 64 bits, where a division is several times cheaper.
    let mut rest = amount.get().unsigned_abs();
    while rest > u128::from(u64::MAX) {
        push((rest % u128::from(BASE)) as u16);
        rest /= u128::from(BASE);
    }
    let mut rest = rest as u64;
    while rest > 0 {
        push((rest % BASE) as u16);
        rest /= BASE;
    }
    let all = &digits[first..];
    let weight = all.len().saturating_sub(1) as u16;
    let kept = all.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
    let sign = if amount.get() < 0 { NEGATIVE } else { POSITIVE };
    for word in [kept as u16, weight, sign, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    for digit in &all[..kept] {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

impl Decode<'_, Postgres> for Amount {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Text => Ok(value.as_str()?.parse()?),
            PgValueFormat::Binary => from_binary(value.as_bytes()?),
        }
    }
}

fn from_binary(bytes: &[u8]) -> Result<Amount, BoxDynError> {
    let word = |index: usize| -> Result<u16, BoxDynError> {
        let pair = bytes.get(index * 2..index * 2 + 2).ok_or("a numeric is cut short")?;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    };
    let (count, weight, sign) = (usize::from(word(0)?), word(1)? as i16, word(2)?);
    if count > 0 && count as i32 > i32::from(weight) + 1 {
        return Err("a numeric with decimals is no amount".into());
    }
    let mut value: i128 = 0;
    for index in 0..=i32::from(weight).max(-1) {
        let digit = if (index as usize) < count { word(4 + index as usize)? } else { 0 };
        value = value
            .checked_mul(i128::from(BASE))
            .and_then(|value| value.checked_add(i128::from(digit)))
            .ok_or("a numeric is too large for an amount")?;
    }
    let value = match sign {
        POSITIVE => value,
        NEGATIVE => -value,
        _ => return Err("NaN and infinity are no amounts".into()),
    };
    Amount::new(value).ok_or_else(|| "a numeric is too large for an amount".into())
}
