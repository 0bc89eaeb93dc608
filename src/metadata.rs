//! Clients' own JSON objects, in one canonical text.
//!
//! PostgreSQL's `jsonb` reorders members and rewrites numbers, so that what
//! comes back is equal but not the same. Putting both in one form lets the core
//! compare them as text: members sorted, no spaces, whole numbers of 64 bits in
//! digits, all others as the shortest text of their double.
//!
//! What that form would change is refused before it gets anywhere: a number
//! that no double holds, and a member that is there twice. Otherwise two
//! requests that say different things would have one text, and one would count
//! as the other sent again.

use std::sync::Arc;

use serde_json::{Map, Number, Value};

/// Objects and arrays within each other: as many as JSON libraries take.
const LEVELS_MAX: u32 = 127;
/// Digits of the largest whole number of 64 bits.
const WHOLE_DIGITS_MAX: i64 = 20;
/// Members of one transaction by which it is found: each is a row and an entry
/// of an index.
pub const SEARCHABLE_MEMBERS_MAX: usize = 32;
/// Bytes of a name, and of a value, by which a transaction is found: both are in
/// an index, whose entries PostgreSQL bounds at some 2,700 bytes.
pub const SEARCHABLE_BYTES_MAX: usize = 255;

/// Why a text cannot be kept as metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    #[error("metadata is a JSON object")]
    NotAnObject,
    #[error("metadata has at most {LEVELS_MAX} levels")]
    TooDeep,
    #[error("half of a surrogate pair is no character")]
    NoCharacter,
    #[error("the character U+0000 cannot be stored; leave it out")]
    Nul,
    #[error("this member is there twice; send it once")]
    Twice,
    #[error("this number is no double and would come back as another one; send it as a string")]
    Inexact,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// JSON pointer (RFC 6901) into the object; empty for the object itself.
    pub pointer: String,
    pub reason: InvalidMetadata,
}

/// The canonical text of what a client sends, which is well-formed JSON; `None`
/// for an empty object.
///
/// # Errors
/// It is no object, or keeping it would change it.
pub fn accept(json: &str) -> Result<Option<Arc<str>>, Refused> {
    read(json, true)
}

/// The canonical text of what was stored, which was accepted once; `None` for
/// an empty object. Whatever it holds is read as well as it can be, since a log
/// that cannot be read is worse.
///
/// # Errors
/// It is no object, or none that can be stored.
pub fn canonical(json: &str) -> Result<Option<Arc<str>>, Refused> {
    read(json, false)
}

/// The members of an object by which it is found, with their values as text:
/// strings without quotes, numbers and booleans as JSON writes them. Of those at
/// the top, in the order of the text, what is not too long, and not too many.
pub fn searchable(json: &str) -> Vec<(String, String)> {
    let mut reader = Reader { rest: json, exactly: false, level: 0, pointer: String::new() };
    let mut found = Vec::new();
    if reader.token() != "{" {
        return found;
    }
    while found.len() < SEARCHABLE_MEMBERS_MAX {
        let name = reader.token();
        if matches!(name, "}" | "") {
            break;
        }
        let value = reader.token();
        let value = match value.as_bytes() {
            [b'{' | b'[', ..] => {
                reader.skip();
                None
            }
            [b'"', ..] => text(value).ok(),
            b"null" => None,
            _ => Some(value.to_owned()),
        };
        if let (Ok(name), Some(value)) = (text(name), value)
            && name.len() <= SEARCHABLE_BYTES_MAX
            && value.len() <= SEARCHABLE_BYTES_MAX
        {
            found.push((name, value));
        }
    }
    found
}

fn read(json: &str, exactly: bool) -> Result<Option<Arc<str>>, Refused> {
    let mut reader = Reader { rest: json, exactly, level: 0, pointer: String::new() };
    let value = match reader.token() {
        first if first.starts_with('{') => reader.value(first),
        _ => Err(InvalidMetadata::NotAnObject),
    };
    match value {
        Err(reason) => Err(Refused { pointer: reader.pointer, reason }),
        Ok(Value::Object(members)) if members.is_empty() => Ok(None),
        Ok(mut value) => {
            value.sort_all_objects();
            Ok(Some(Arc::from(value.to_string())))
        }
    }
}

/// Reads a text that is known to be well-formed. A parser would do that too, but
/// it hides how numbers are written and which members come twice.
struct Reader<'a> {
    rest: &'a str,
    /// Refuse what would be changed.
    exactly: bool,
    level: u32,
    /// Where it is; when something is refused, where that was.
    pointer: String,
}

impl<'a> Reader<'a> {
    /// The value that begins with this token.
    fn value(&mut self, first: &'a str) -> Result<Value, InvalidMetadata> {
        match first.as_bytes() {
            [b'{' | b'[', ..] => {
                self.level += 1;
                if self.level > LEVELS_MAX {
                    return Err(InvalidMetadata::TooDeep);
                }
                let value = if first == "{" { self.members()? } else { self.items()? };
                self.level -= 1;
                Ok(value)
            }
            [b'"', ..] => text(first).map(Value::String),
            b"true" => Ok(Value::Bool(true)),
            b"false" => Ok(Value::Bool(false)),
            b"null" => Ok(Value::Null),
            _ => self.number(first).map(Value::Number),
        }
    }

    fn members(&mut self) -> Result<Value, InvalidMetadata> {
        let here = self.pointer.len();
        let mut members = Map::new();
        loop {
            let name = self.token();
            if matches!(name, "}" | "") {
                return Ok(Value::Object(members));
            }
            let name = text(name)?;
            self.pointer.push('/');
            self.pointer.push_str(&escape(&name));
            let first = self.token();
            let value = self.value(first)?;
            if members.insert(name, value).is_some() && self.exactly {
                return Err(InvalidMetadata::Twice);
            }
            self.pointer.truncate(here);
        }
    }

    fn items(&mut self) -> Result<Value, InvalidMetadata> {
        let here = self.pointer.len();
        let mut items = Vec::new();
        loop {
            let first = self.token();
            if matches!(first, "]" | "") {
                return Ok(Value::Array(items));
            }
            self.pointer.push('/');
            self.pointer.push_str(itoa::Buffer::new().format(items.len()));
            items.push(self.value(first)?);
            self.pointer.truncate(here);
        }
    }

    /// Passes over the rest of an object or array that has begun.
    fn skip(&mut self) {
        let mut open = 1_u32;
        while open > 0 {
            match self.token() {
                "{" | "[" => open += 1,
                "}" | "]" => open -= 1,
                "" => return,
                _ => {}
            }
        }
    }

    fn number(&self, written: &str) -> Result<Number, InvalidMetadata> {
        let decimal = Decimal::of(written);
        if let Some(whole) = decimal.whole() {
            return Ok(whole);
        }
        // Fails for what is beyond the largest double.
        let double: Number = serde_json::from_str(written).map_err(|_| InvalidMetadata::Inexact)?;
        if self.exactly && Decimal::of(&double.to_string()) != decimal {
            return Err(InvalidMetadata::Inexact);
        }
        Ok(double)
    }

    /// The next bracket, string or word; empty at the end. What belongs where
    /// follows from those alone, so colons and commas are passed over.
    fn token(&mut self) -> &'a str {
        let text = self.rest.trim_start_matches([' ', '\t', '\n', '\r', ':', ',']);
        let length = match text.as_bytes() {
            [] => 0,
            [b'{' | b'}' | b'[' | b']', ..] => 1,
            [b'"', string @ ..] => {
                let mut escaped = false;
                let end = string.iter().position(|byte| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                });
                end.map_or(text.len(), |end| end + 2)
            }
            word => word.iter().position(|byte| b" \t\n\r,]}".contains(byte)).unwrap_or(word.len()),
        };
        let (token, rest) = text.split_at(length);
        self.rest = rest;
        token
    }
}

/// The characters that a string's token stands for.
fn text(token: &str) -> Result<String, InvalidMetadata> {
    let text: String = serde_json::from_str(token).map_err(|_| InvalidMetadata::NoCharacter)?;
    // `jsonb` cannot hold it.
    if text.contains('\0') { Err(InvalidMetadata::Nul) } else { Ok(text) }
}

/// A number's sign, significant digits, and the power of ten of the last one:
/// one for all ways of writing it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    power: i64,
}

impl Decimal {
    fn of(written: &str) -> Self {
        let (mantissa, exponent) = written.split_once(['e', 'E']).unwrap_or((written, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let (negative, whole) = whole.strip_prefix('-').map_or((false, whole), |whole| (true, whole));
        let mut digits = whole.to_owned() + fraction;
        let all = digits.len();
        digits.truncate(digits.trim_end_matches('0').len());
        let zeros = all - digits.len();
        digits.drain(..digits.len() - digits.trim_start_matches('0').len());
        if digits.is_empty() {
            return Self::default();
        }
        // What no 64 bits hold is the power of no double either.
        let exponent = exponent.parse().unwrap_or(i64::MAX);
        Self { negative, digits, power: exponent.saturating_add(zeros as i64 - fraction.len() as i64) }
    }

    /// The same as a whole number of 64 bits.
    fn whole(&self) -> Option<Number> {
        if self.digits.is_empty() {
            return Some(Number::from(0));
        }
        if self.power < 0 || self.power.saturating_add(self.digits.len() as i64) > WHOLE_DIGITS_MAX {
            return None;
        }
        let sign = if self.negative { "-" } else { "" };
        let digits = format!("{sign}{}{}", self.digits, "0".repeat(self.power as usize));
        let unsigned = digits.parse::<u64>().map(Number::from);
        unsigned.or_else(|_| digits.parse::<i64>().map(Number::from)).ok()
    }
}

/// A member's name as a part of a JSON pointer (RFC 6901, section 3).
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accepted(json: &str) -> String {
        accept(json).unwrap_or_else(|refused| panic!("{json}: {refused:?}")).unwrap().to_string()
    }

    fn check(json: &str, pointer: &str, reason: InvalidMetadata) {
        assert_eq!(accept(json), Err(Refused { pointer: pointer.to_owned(), reason }), "{json}");
    }

    #[test]
    fn what_is_searched_are_scalars_at_the_top_that_are_not_too_long() {
        let found = |json: &str| searchable(&accepted(json));
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let mixed = r#"{"z":"a \"b\" {","n":1e3,"f":2.50,"t":true,"u":false,"x":null,"o":{"p":{"q":"}"}},"l":[1,[2,"]"]],"\u00fc":"\u20ac"}"#;
        let expected =
            [("f", "2.5"), ("n", "1000"), ("t", "true"), ("u", "false"), ("z", "a \"b\" {"), ("\u{fc}", "\u{20ac}")];
        assert_eq!(found(mixed), pairs(&expected));
        let (fits, long) = ("x".repeat(255), "x".repeat(256));
        assert_eq!(
            found(&format!(r#"{{"a":"{fits}","b":"{long}","{fits}":1,"{long}":1}}"#)),
            pairs(&[("a", &fits), (&fits, "1")])
        );
        let many: Vec<String> = (0..40).map(|n| format!(r#""k{n:02}":{n},"a{n:02}":[]"#)).collect();
        let found = found(&format!("{{{}}}", many.join(",")));
        assert_eq!((found.len(), found[31].clone()), (32, ("k31".to_owned(), "31".to_owned())));
        assert_eq!((searchable("{}"), searchable(r#"{"":""}"#)), (Vec::new(), pairs(&[("", "")])));
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
            ("9007199254740993.0", "9007199254740993"),
            ("1.2345678901234568e+18", "1234567890123456800"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709552000", "18446744073709552000"),
            ("1e20", "100000000000000000000"),
            ("1e-7", "0.0000001"),
            ("-0.0", "0"),
            ("2.50", "2.5"),
        ] {
            let (written, stored) = (format!(r#"{{"a":{written}}}"#), format!(r#"{{"a":{stored}}}"#));
            assert_eq!(accepted(&written), canonical(&stored).unwrap().unwrap().to_string());
        }
    }

    #[test]
    fn equal_objects_have_one_text() {
        let one = accepted(r#"{ "b": 1e5, "a": [1.0, "x"], "c": {"z": null, "y": 0.5} }"#);
        let other = accepted(r#"{"a":[1,"x"],"b":100000,"c":{"y":0.50,"z":null}}"#);
        assert_eq!(one, r#"{"a":[1,"x"],"b":100000,"c":{"y":0.5,"z":null}}"#);
        assert_eq!(one, other);
        assert_eq!(accept("{}"), Ok(None));
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        check("[1]", "", InvalidMetadata::NotAnObject);
        check(r#""{}""#, "", InvalidMetadata::NotAnObject);
        check(r#"{"a":"\ud800"}"#, "/a", InvalidMetadata::NoCharacter);
        check(r#"{"a":["\u0000"]}"#, "/a/0", InvalidMetadata::Nul);
        check(r#"{"a":{"\u0000":1}}"#, "/a", InvalidMetadata::Nul);
        let nested = |levels: usize| r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels);
        assert_eq!(accepted(&nested(127)), nested(127));
        check(&nested(128), &"/a".repeat(127), InvalidMetadata::TooDeep);
        check(&nested(20_000), &"/a".repeat(127), InvalidMetadata::TooDeep);
        // One after the other they are not within each other.
        accepted(&format!(r#"{{"a":[{}0]}}"#, "{},[],".repeat(200)));
    }

    #[test]
    fn a_number_that_would_come_back_as_another_is_refused() {
        for number in [
            "100000000000000000001",
            "12345678901234567890123",
            "0.1234567890123456789012",
            "18446744073709551616",
            "-9223372036854775809",
            "0.30000000000000000001",
            "1.00000000000000000001",
            "9007199254740993.5",
            "1e999",
            "-1e309",
            "1e-400",
            "1e-99999999999999999999",
            "1e99999999999999999999",
        ] {
            check(&format!(r#"{{"a":{number}}}"#), "/a", InvalidMetadata::Inexact);
            check(&format!(r#"{{"a":[1,{{"b":[{number}]}}]}}"#), "/a/1/b/0", InvalidMetadata::Inexact);
        }
        for (number, same) in [
            ("1e5", "100000"),
            ("1E+5", "100000"),
            ("2.50", "2.5"),
            ("25.0e-1", "2.5"),
            ("-0", "0"),
            ("0e99", "0"),
            ("0.000e-99999999999999999999", "0"),
            ("18446744073709551615", "18446744073709551615"),
            ("0.10", "0.1"),
            ("0.30000000000000004", "0.30000000000000004"),
        ] {
            assert_eq!(accepted(&format!(r#"{{"a":{number}}}"#)), format!(r#"{{"a":{same}}}"#));
        }
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused() {
        check(r#"{"a":1,"a":1}"#, "/a", InvalidMetadata::Twice);
        check(r#"{"a":1,"b":{},"\u0061":2}"#, "/a", InvalidMetadata::Twice);
        check(r#"{"x":[{"a":1},{"b/~":null,"c":"}","b/~":[]}]}"#, "/x/1/b~1~0", InvalidMetadata::Twice);
        assert_eq!(accepted(r#"{"a":{"a":{"a":1}},"b":{"a":1}}"#), r#"{"a":{"a":{"a":1}},"b":{"a":1}}"#);
        assert_eq!(accepted(r#"{"":1," ":2,"A":3,"a":4}"#), r#"{"":1," ":2,"A":3,"a":4}"#);
    }

    /// The shortest text of a double; of two that are as near, the even one, which is
    /// what JavaScript and Python write too, but not Rust's own formatting.
    fn shortest(double: f64) -> String {
        Number::from_f64(double).unwrap().to_string()
    }

    #[test]
    fn of_two_texts_that_are_as_near_to_a_double_the_even_one_is_kept() {
        assert_eq!(accepted(r#"{"a":229149635479887.12}"#), r#"{"a":229149635479887.12}"#);
        // It would come back as the other.
        check(r#"{"a":229149635479887.13}"#, "/a", InvalidMetadata::Inexact);
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
            let [any, fraction, large] = [any, fraction, large].map(shortest);
            let written = format!(r#"{{"a":{any},"b":[{fraction},{large}],"c":"{digits}"}}"#);
            let once = accepted(&written);
            prop_assert_eq!(&accepted(&once), &once);
            let stored = canonical(&once).unwrap().unwrap();
            prop_assert_eq!(&*stored, once);
        }

        #[test]
        fn numbers_are_kept_or_refused(
            double in any::<f64>(),
            signed in any::<i64>(),
            unsigned in any::<u64>(),
            written in "-?(0|[1-9][0-9]{0,24})([.][0-9]{1,24})?(e[+-]?[0-9]{1,2})?",
        ) {
            let shortest = shortest(double);
            let same = |text: &String| Decimal::of(text) == Decimal::of(&shortest);
            let others = [format!("{double:e}"), double.to_string()].into_iter().filter(same);
            for number in others.chain([shortest.clone(), signed.to_string(), unsigned.to_string()]) {
                accepted(&format!(r#"{{"a":{number}}}"#));
            }
            if let Ok(kept) = accept(&format!(r#"{{"a":{written}}}"#)) {
                let kept = kept.unwrap();
                let kept = kept.strip_prefix(r#"{"a":"#).and_then(|rest| rest.strip_suffix('}')).unwrap();
                prop_assert_eq!(Decimal::of(kept), Decimal::of(&written));
            }
        }

        /// The reader reads what a parser reads.
        #[test]
        fn any_text_and_any_shape_is_read(text in "[^\0]{0,20}", name in "[^\0]{0,20}", number in any::<i32>()) {
            let inner = serde_json::json!({name.clone(): [{"name": text}, number, [], [null, true, {}]]});
            let value = serde_json::json!({"inner": inner, "text": text, "false": false});
            for json in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let read: Value = serde_json::from_str(&accepted(&json)).unwrap();
                prop_assert_eq!(&read, &value);
            }
        }
    }
}
