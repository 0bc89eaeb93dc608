//! Path and query parameters, with problems for what is wrong with them.

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::problem::{Code, Problem};
use super::time::time_or_date;
use super::wording;
use crate::ledger::AccountCode;

/// Items of a page when nothing is asked for.
pub const PAGE_DEFAULT: i64 = 100;
/// Items that a page may have.
pub const PAGE_MAX: i64 = 1_000;

/// Parameters in the path, percent-decoded.
pub struct InPath<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(params)) => Ok(Self(params)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => Err(malformed(error.kind())),
            Err(_) => Err(Problem::new(Code::MalformedRequest, "the path does not fit its route")),
        }
    }
}

fn malformed(error: &ErrorKind) -> Problem {
    match error {
        ErrorKind::InvalidUtf8InPathParam { key } => {
            let detail = "this part of the path is not UTF-8 when its percent-encoding is undone";
            Problem::new(Code::MalformedRequest, detail).at(format!("/path/{key}"))
        }
        _ => Problem::new(Code::MalformedRequest, "the path does not fit its route"),
    }
}

/// Parameters in the query; unknown ones are refused by `T`.
pub struct InQuery<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl<T: DeserializeOwned> InQuery<T> {
    /// Reads the text of a query.
    pub fn parse(query: &str) -> Result<Self, Problem> {
        let pairs = form_urlencoded::parse(query.as_bytes());
        serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs)).map(Self).map_err(|error| {
            let wrong = wording::field_error("/query", error.path(), &error.inner().to_string());
            Problem::validation(vec![wrong])
        })
    }
}

/// The query of a route that takes no parameters.
///
/// # Errors
/// `validation_failed`: what somebody meant by one must not be done without it.
pub fn no_query(query: Option<&str>) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    match query {
        None | Some("") => Ok(()),
        Some(query) => InQuery::<Nothing>::parse(query).map(|_| ()),
    }
}

/// A request without parameters in the query.
pub struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        no_query(parts.uri.query()).map(|()| Self)
    }
}

/// In which order a list is, where both are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    Asc,
    Desc,
}

/// How many items a page has.
///
/// # Errors
/// `validation_failed` for anything but 1 to 1000.
pub fn limit(limit: Option<i64>) -> Result<i64, Problem> {
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid("/query/limit", format!("limit is 1 to {PAGE_MAX}")));
    }
    Ok(limit)
}

/// Cursors are the position or the version after which to go on, behind a
/// letter that says which, so that one list's cursor is refused by another. An
/// empty one begins at the beginning.
pub fn cursor(kind: char, after: Option<&str>) -> Result<Option<u64>, Problem> {
    let Some(text) = after.filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.strip_prefix(kind).and_then(|digits| digits.parse::<u64>().ok());
    number
        .filter(|number| i64::try_from(*number).is_ok())
        .map(Some)
        .ok_or_else(|| Problem::invalid("/query/after", "this is no cursor of this list"))
}

/// Cursors of lists by name: the name after which to go on, behind such a letter.
/// An empty one begins at the beginning.
pub fn name_cursor(kind: char, after: Option<&str>) -> Result<&str, Problem> {
    let Some(text) = after.filter(|text| !text.is_empty()) else { return Ok("") };
    let name = text.strip_prefix(kind).filter(|name| AccountCode::new(name).is_ok());
    name.ok_or_else(|| Problem::invalid("/query/after", "this is no cursor of this list"))
}

/// A time in the query, to the microsecond: RFC 3339, or a date, which is its midnight in UTC.
///
/// # Errors
/// `validation_failed` for what is neither.
pub fn time(name: &str, text: &str) -> Result<DateTime<Utc>, Problem> {
    time_or_date(text).ok_or_else(|| {
        let detail = "a time is RFC 3339, such as 2026-11-24T09:30:00Z, or a date, such as 2026-11-24, which begins \
                      in UTC; a plus sign is %2B in a query";
        Problem::invalid(format!("/query/{name}"), detail)
    })
}

/// The opaque text of a cursor.
pub fn name_cursor_text(kind: char, after: &str) -> String {
    format!("{kind}{after}")
}

/// The opaque text of a cursor.
pub fn cursor_text(kind: char, after: u64) -> String {
    format!("{kind}{after}")
}
