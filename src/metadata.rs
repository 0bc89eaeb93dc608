//! Clients' own JSON objects, in one canonical text.
//!
//! PostgreSQL's `jsonb` reorders members and rewrites numbers, so that what
//! comes back is equal but not the same. Putting both in one form lets the core
//! compare them as text: members sorted, no spaces, whole numbers without a
//! decimal point.

use std::sync::Arc;

use serde_json::{Number, Value};

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
            // Up to 2^53 every whole number has its own double.
            if let Some(float) = whole.filter(|float| float.abs() <= 9_007_199_254_740_992.0) {
                *number = Number::from(float as i64);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What comes back from the database is put in canonical form again: nothing may move then,
        /// or a replay's body would not be the first one's.
        #[test]
        fn a_canonical_text_is_its_own_canonical_text(float in any::<f64>().prop_filter("JSON has no others", |f| f.is_finite())) {
            let once = canonical(&format!(r#"{{"n":{float:?}}}"#)).unwrap().unwrap();
            prop_assert_eq!(canonical(&once).unwrap().unwrap(), once);
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
