//! What does not fit, in the API's own words.
//!
//! serde's texts name types of Rust and change with its releases, so none of
//! them goes out: what they say is said anew, and what is not recognised is said
//! in general terms.

use serde_path_to_error::{Path, Segment};

use super::problem::FieldError;
use super::requests::{DECIMAL_EXPECTED, SECONDS_EXPECTED};
use super::wire::{AMOUNT_EXPECTED, SCALE_EXPECTED};
use crate::metadata::escape;

/// Before the names that are known, where one is not.
pub const KNOWN_ARE: &str = "this is not known here; what is: ";

/// What is wrong with the value at `path`, below the pointer `base`; `text` is serde's.
pub fn field_error(base: &str, path: &Path, text: &str) -> FieldError {
    let mut pointer = base.to_owned();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let (name, detail) = said_anew(text);
    // The path of a field that is missing, unknown or there twice may end at its object.
    if let Some(member) = name.map(|name| format!("/{}", escape(name)))
        && !pointer.ends_with(&member)
    {
        pointer.push_str(&member);
    }
    FieldError { pointer, detail }
}

/// What serde says, and the field that it names.
fn said_anew(text: &str) -> (Option<&str>, String) {
    if let Some(rest) = text.strip_prefix("missing field `") {
        return (rest.strip_suffix('`'), "this is required".to_owned());
    }
    if let Some(rest) = text.strip_prefix("duplicate field `") {
        return (rest.strip_suffix('`'), "this is there twice; send it once".to_owned());
    }
    if let Some(rest) = text.strip_prefix("unknown field `") {
        // The name is the client's and may hold anything; what follows it does not.
        return match rest.rsplit_once("`, expected ") {
            Some((name, known)) => (Some(name), format!("{KNOWN_ARE}{}", listed(known))),
            None => (rest.strip_suffix("`, there are no fields"), "this is not known here; leave it out".to_owned()),
        };
    }
    if let Some((_, known)) = text.strip_prefix("unknown variant `").and_then(|rest| rest.rsplit_once("`, expected ")) {
        return (None, format!("expected one of: {}", listed(known)));
    }
    (None, expected(text))
}

/// The names in a list such as "one of `a`, `b`, `c`".
fn listed(known: &str) -> String {
    known.split('`').skip(1).step_by(2).collect::<Vec<_>>().join(", ")
}

fn expected(text: &str) -> String {
    let of_type = text.starts_with("invalid type: ") || text.starts_with("invalid value: ");
    if let Some((_, expected)) = text.rsplit_once(", expected ").filter(|_| of_type) {
        match expected {
            "a string" | "a JSON object" | AMOUNT_EXPECTED | SCALE_EXPECTED | DECIMAL_EXPECTED | SECONDS_EXPECTED => {
                return format!("expected {expected}");
            }
            "a boolean" => return "expected true or false".to_owned(),
            "a sequence" => return "expected an array".to_owned(),
            _ => {}
        }
    }
    let detail = match text {
        "invalid digit found in string" | "cannot parse integer from empty string" => "expected a whole number",
        "number too large to fit in target type" => "this number is too large",
        "number too small to fit in target type" => "this number is too small",
        _ => "this does not fit here; /docs says what does",
    };
    detail.to_owned()
}

/// Why a text is no JSON, and where.
pub fn syntax(error: &serde_json::Error) -> String {
    let place = format!("line {}, column {}", error.line(), error.column());
    if error.is_eof() {
        return format!("the JSON ends too early, in {place}");
    }
    let text = error.to_string();
    let reason = match text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason) {
        "expected ident" => "expected true, false or null",
        reason => reason,
    };
    format!("this is no JSON, in {place}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: Option<&str>, detail: &str) {
        assert_eq!(said_anew(text), (name, detail.to_owned()), "{text}");
    }

    #[test]
    fn what_serde_says_is_said_anew() {
        check("missing field `to`", Some("to"), "this is required");
        check("duplicate field `to`", Some("to"), "this is there twice; send it once");
        check(
            "unknown field `t`o`, expected one of `from`, `to`",
            Some("t`o"),
            "this is not known here; what is: from, to",
        );
        check("unknown field `x`, expected `scale`", Some("x"), "this is not known here; what is: scale");
        check("unknown field `x`, there are no fields", Some("x"), "this is not known here; leave it out");
        check("unknown variant `x`, expected `asc` or `desc`", None, "expected one of: asc, desc");
        check("invalid type: integer `1`, expected a string", None, "expected a string");
        check("invalid type: string \"a, expected u8\", expected a sequence", None, "expected an array");
        check("invalid digit found in string", None, "expected a whole number");
    }

    #[test]
    fn what_is_not_recognised_does_not_go_out() {
        for text in ["invalid value: integer `300`, expected u8", "expected unit variant", "struct PaymentInput", ""] {
            check(text, None, "this does not fit here; /docs says what does");
        }
    }
}
