//! What lists are searched by, as it stands in a query.

use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::params::{self, InQuery};
use super::problem::{FieldError, Problem};
use super::wording::KNOWN_ARE;
use crate::ledger::Amount;
use crate::metadata::{SEARCHABLE_BYTES_MAX, escape};

/// Members of metadata that one search may name: each is one more thing to look
/// at in every candidate.
pub const METADATA_PAIRS_MAX: usize = 8;

/// A member of metadata and its value as text.
pub type Pair = (String, String);

/// Parameters in the query, those of the form `metadata[key]=value` apart.
pub struct InQueryWithMetadata<T>(pub T, pub Vec<Pair>);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InQueryWithMetadata<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl<T: DeserializeOwned> InQueryWithMetadata<T> {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut metadata = Vec::new();
        let mut others = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']')) {
                Some(key) => metadata.push((key.to_owned(), value.into_owned())),
                None => _ = others.append_pair(&name, &value),
            }
        }
        check(&metadata)?;
        let InQuery(query) = InQuery::<T>::parse(&others.finish())
            .map_err(|problem| Problem::validation(problem.errors.into_iter().map(metadata_is_known).collect()))?;
        Ok(Self(query, metadata))
    }
}

/// Where known parameters are listed, these are too.
fn metadata_is_known(mut error: FieldError) -> FieldError {
    if error.detail.starts_with(KNOWN_ARE) {
        error.detail.push_str(", metadata[name]");
    }
    error
}

fn check(metadata: &[Pair]) -> Result<(), Problem> {
    let pointer = |key: &str| format!("/query/{}", escape(&format!("metadata[{key}]")));
    for (index, (key, value)) in metadata.iter().enumerate() {
        let wrong = |detail: String| Err(Problem::invalid(pointer(key), detail));
        if index >= METADATA_PAIRS_MAX {
            return wrong(format!("a search names at most {METADATA_PAIRS_MAX} members"));
        }
        if [key, value].iter().any(|text| text.len() > SEARCHABLE_BYTES_MAX || text.contains('\0')) {
            return wrong(format!(
                "what is searched for has at most {SEARCHABLE_BYTES_MAX} bytes in name and value, without U+0000"
            ));
        }
        if metadata[..index].iter().any(|(earlier, _)| earlier == key) {
            return wrong("this is there twice; send it once".to_owned());
        }
    }
    Ok(())
}

/// A time that may be missing.
pub fn time(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    text.map(|text| params::time(name, text)).transpose()
}

/// A first time and the one before which it ends, either of which may be missing.
pub type Period = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// From a time on, and before another.
pub fn period(names: [&str; 2], from: Option<&str>, to: Option<&str>) -> Result<Period, Problem> {
    let (from, to) = (time(names[0], from)?, time(names[1], to)?);
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(Problem::invalid(
            format!("/query/{}", names[0]),
            format!("{} must not be after {}", names[0], names[1]),
        ));
    }
    Ok((from, to))
}

/// Amounts from a least to a most, either of which may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between {
    least: Option<Amount>,
    most: Option<Amount>,
}

impl Between {
    pub fn new(names: [&str; 2], least: Option<&str>, most: Option<&str>) -> Result<Self, Problem> {
        let amount = |name: &str, text: Option<&str>| {
            let amount = text.map(Amount::from_str).transpose();
            amount.map_err(|error| {
                Problem::validation(vec![FieldError { pointer: format!("/query/{name}"), detail: error.to_string() }])
            })
        };
        let (least, most) = (amount(names[0], least)?, amount(names[1], most)?);
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            let detail = format!("{} must not be above {}", names[0], names[1]);
            return Err(Problem::invalid(format!("/query/{}", names[0]), detail));
        }
        Ok(Self { least, most })
    }

    pub fn is_unbounded(self) -> bool {
        self == Self::default()
    }

    pub fn holds(self, amount: Amount) -> bool {
        self.least.is_none_or(|least| least <= amount) && self.most.is_none_or(|most| amount <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_days() {
        let at = |text: &str| time("from", Some(text)).ok().flatten().map(|time| time.to_rfc3339());
        assert_eq!(at("2026-11-24").as_deref(), Some("2026-11-24T00:00:00+00:00"));
        assert_eq!(at("2026-11-24T01:30:00.5+02:00").as_deref(), Some("2026-11-23T23:30:00.500+00:00"));
        for wrong in
            ["", "2026-11-24T01:30:00 02:00", "2026-11-24T01:30", "24.11.2026", "2026-2-3", "now", "1764000000"]
        {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn amounts_lie_between_their_bounds() {
        let between = |least, most| Between::new(["min_amount", "max_amount"], least, most);
        let one_to_five = between(Some("1"), Some("5")).unwrap();
        let held: Vec<u64> = (0..8).filter(|n| one_to_five.holds(Amount::from(*n))).collect();
        assert_eq!(held, [1, 2, 3, 4, 5]);
        assert!(between(None, None).unwrap().is_unbounded() && !between(None, Some("5")).unwrap().is_unbounded());
        for (least, most) in [(Some("2"), Some("1")), (Some("1.5"), None), (None, Some("")), (Some("x"), Some("1"))] {
            assert!(between(least, most).is_err());
        }
    }
}
