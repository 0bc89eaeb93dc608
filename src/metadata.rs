//! Clients' own JSON objects, in one canonical text.
//!
//! PostgreSQL's `jsonb` reorders members and rewrites numbers, so that what
//! comes back is equal but not the same. Putting both in one form lets the core
//! compare them as text: members sorted, no spaces, whole numbers without a
//! decimal point.

use std::sync::Arc;

use serde_json::{Number, Value};

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// Why a text cannot be kept as metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    #[error("metadata is a JSON object")]
    NotAnObject,
    #[error("metadata has at most 127 levels, numbers that fit a double, and no half of a surrogate pair")]
    OutOfBounds,
    #[error("the character U+0000 cannot be stored; leave it out")]
    Nul,
}

/// The canonical text; `None` for an empty object.
pub fn canonical(json: &str) -> Result<Option<Arc<str>>, InvalidMetadata> {
    // It is well-formed, but serde_json takes only so much.
    let mut value: Value = serde_json::from_str(json).map_err(|_| InvalidMetadata::OutOfBounds)?;
    let members = value.as_object().ok_or(InvalidMetadata::NotAnObject)?;
    if members.is_empty() {
        return Ok(None);
    }
    if has_nul(&value) {
        return Err(InvalidMetadata::Nul);
    }
    normalise(&mut value);
    value.sort_all_objects();
    Ok(Some(Arc::from(value.to_string())))
}

/// `jsonb` cannot hold U+0000.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn normalise(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::Object(members) => members.values_mut().for_each(normalise),
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0);
            // `jsonb` writes whole numbers out, and those of 64 bits are then
            // read as integers, so integers they must be from the start.
            match whole {
                Some(float) if (-TWO_TO_63..TWO_TO_63).contains(&float) => *number = Number::from(float as i64),
                Some(float) if (TWO_TO_63..2.0 * TWO_TO_63).contains(&float) => *number = Number::from(float as u64),
                _ => {}
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(json: &str) -> String {
        canonical(json).unwrap().unwrap().to_string()
    }

    /// The left as clients write it, the right as `jsonb` gives back what the
    /// left became.
    #[test]
    fn a_number_has_the_same_text_after_it_went_through_jsonb() {
        for (written, stored) in [
            ("1e16", "10000000000000000"),
            ("-1e16", "-10000000000000000"),
            ("1.0e19", "10000000000000000000"),
            ("9223372036854775808.0", "9223372036854775808"),
            ("18446744073709551616", "18446744073709552000"),
            ("-9223372036854775809", "-9223372036854775808"),
            ("1e20", "100000000000000000000"),
            ("1e-7", "0.0000001"),
            ("-0.0", "0"),
            ("2.50", "2.5"),
        ] {
            let (written, stored) = (format!(r#"{{"a":{written}}}"#), format!(r#"{{"a":{stored}}}"#));
            assert_eq!(text(&written), text(&stored));
        }
    }

    proptest! {
        /// Otherwise an account would look changed each time it is read.
        #[test]
        fn the_canonical_text_is_its_own_canonical_text(
            any in any::<f64>(),
            fraction in 0.0..1.0_f64,
            large in 1e15..1e20_f64,
            digits in "[1-9][0-9]{0,24}[.][0-9]{1,24}",
        ) {
            let once = text(&format!(r#"{{"a":{any:e},"b":[{fraction},{large}],"c":{digits}}}"#));
            prop_assert_eq!(text(&once), once);
        }
    }

    #[test]
    fn equal_objects_have_one_text() {
        let one = canonical(r#"{ "b": 1e5, "a": [1.0, "x"], "c": {"z": null, "y": 0.5} }"#);
        let other = canonical(r#"{"a":[1,"x"],"b":100000,"c":{"y":0.50,"z":null}}"#);
        assert_eq!(one.as_ref().unwrap().as_deref(), Some(r#"{"a":[1,"x"],"b":100000,"c":{"y":0.5,"z":null}}"#));
        assert_eq!(one, other);
        assert_eq!(canonical("{}"), Ok(None));
        assert_eq!(canonical("[1]"), Err(InvalidMetadata::NotAnObject));
        for extreme in
            [r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, &format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200))]
        {
            assert_eq!(canonical(extreme), Err(InvalidMetadata::OutOfBounds), "{extreme}");
        }
        assert_eq!(canonical(r#"{"a":["\u0000"]}"#), Err(InvalidMetadata::Nul));
    }
}
