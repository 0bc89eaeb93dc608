//! CSV (RFC 4180), and what spreadsheets make of it.
//!
//! A spreadsheet runs a text that begins with `=`, `+`, `-` or `@` as a formula,
//! whoever wrote it. So texts of an export that begin so get an apostrophe before
//! them, which spreadsheets do not show, and an import takes it off again; texts
//! that begin with an apostrophe get one too, so that both ways are exact.

use std::borrow::Cow;
use std::fmt;

/// Why a record is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    NotUtf8,
    /// A quote within a field that does not begin with one, or text behind the closing quote.
    Quotes,
    /// It has another number of fields than the header.
    Fields {
        found: usize,
        expected: usize,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("the line is not UTF-8"),
            Self::Quotes => f.write_str(
                "the quotes do not fit: a field with a comma, a quote or a line break is in double quotes, and a \
                 quote within is written twice",
            ),
            Self::Fields { found, expected } => {
                write!(f, "the line has {found} fields, and the header {expected}")
            }
        }
    }
}

/// The fields of a record, each with its index.
///
/// # Errors
/// What breaks RFC 4180; what came before has been given.
pub fn fields<'a>(record: &'a [u8], mut give: impl FnMut(usize, Cow<'a, str>)) -> Result<usize, Broken> {
    let mut rest = std::str::from_utf8(record).map_err(|_| Broken::NotUtf8)?;
    for index in 0.. {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = memchr::memchr2(b',', b'"', rest.as_bytes()).unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        give(index, field);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Ok(index + 1),
            None => return Err(Broken::Quotes),
        }
    }
    Err(Broken::Quotes)
}

/// A field behind its opening quote, and what is behind its closing one.
fn quoted_field(text: &str) -> Result<(Cow<'_, str>, &str), Broken> {
    let mut doubled = false;
    let mut from = 0;
    loop {
        let end = from + memchr::memchr(b'"', &text.as_bytes()[from..]).ok_or(Broken::Quotes)?;
        if text.as_bytes().get(end + 1) == Some(&b'"') {
            doubled = true;
            from = end + 2;
        } else {
            let field = &text[..end];
            let field = if doubled { Cow::Owned(field.replace("\"\"", "\"")) } else { Cow::Borrowed(field) };
            return Ok((field, &text[end + 1..]));
        }
    }
}

/// Whether a spreadsheet would take a text for a formula, or its apostrophe for ours.
fn needs_apostrophe(text: &str) -> bool {
    matches!(text.as_bytes().first(), Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r' | b'\''))
}

/// Writes a text: with an apostrophe where it needs one, in quotes where it needs them.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    let apostrophe: &[u8] = if needs_apostrophe(text) { b"'" } else { b"" };
    if text.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        out.push(b'"');
        out.extend_from_slice(apostrophe);
        out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(apostrophe);
        out.extend_from_slice(text.as_bytes());
    }
}

/// A text as it was before [`write_text`] put an apostrophe before it.
pub fn read_text(text: Cow<'_, str>) -> Cow<'_, str> {
    match text.strip_prefix('\'') {
        Some(rest) if needs_apostrophe(rest) => Cow::Owned(rest.to_owned()),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(record: &str, expected: Result<&[&str], Broken>) {
        let mut found = Vec::new();
        let count = fields(record.as_bytes(), |_, field| found.push(field.into_owned()));
        assert_eq!(
            count.map(|count| (count, found)),
            expected.map(|fields| { (fields.len(), fields.iter().map(|field| (*field).to_owned()).collect()) }),
            "{record}"
        );
    }

    #[test]
    fn records_are_those_of_rfc_4180() {
        check("", Ok(&[""]));
        check("a,b,", Ok(&["a", "b", ""]));
        check("\"a,\"\"b\"\"\n\",c", Ok(&["a,\"b\"\n", "c"]));
        check("\"\",\"\"\"\"", Ok(&["", "\""]));
        check("a\"b", Err(Broken::Quotes));
        check("\"a\"b", Err(Broken::Quotes));
        check("\"a", Err(Broken::Quotes));
    }

    #[test]
    fn a_text_that_looks_like_a_formula_is_no_formula_any_more() {
        for text in ["=1+1", "+49", "-x", "@a", "\t=1", "'=1", "'a"] {
            let mut out = Vec::new();
            write_text(&mut out, text);
            assert!(out.starts_with(b"'"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn texts_round_trip(texts in proptest::collection::vec("[=+@',\"\r\n\ta-c-]{0,6}", 1..4)) {
            let mut out = Vec::new();
            for (index, text) in texts.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(&mut out, text);
            }
            let mut found = Vec::new();
            fields(&out, |_, field| found.push(read_text(field).into_owned())).unwrap();
            prop_assert_eq!(found, texts);
        }
    }
}
