//! Request bodies: JSON within a size and a time, with errors that say where.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::params;
use super::problem::{Code, Problem};
use super::wire::Object;
use super::wording;

/// A batch of 10,000 payments with references and some metadata.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What is read and thrown away of a body that is too large, so that the client
/// has finished sending and reads the answer.
const DISCARD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time for a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// The bytes of a JSON body.
///
/// # Errors
/// `unsupported_media_type`, `body_too_large`, `request_timeout`, `malformed_request`; `validation_failed`
/// for parameters in the query, of which no route with a JSON body has any.
pub async fn read(request: Request<Body>) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let json = is_json(&parts.headers);
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await;
    let bytes = read.unwrap_or_else(|_| {
        Err(Problem::new(Code::RequestTimeout, format!("the body took longer than {} s", BODY_TIMEOUT.as_secs())))
    })?;
    if !json {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "the content type is not application/json; send the header Content-Type: application/json",
        ));
    }
    params::no_query(parts.uri.query())?;
    Ok(bytes)
}

/// Throws away the body of a request that is refused before it is read, for the
/// same reason as above: who is still sending when the connection closes sees
/// that it broke, and not why.
pub async fn discard(mut body: Body) {
    let end = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > BODY_BYTES_MAX {
                break;
            }
        }
    };
    // Too slow is the client's own loss.
    _ = tokio::time::timeout(BODY_TIMEOUT, end).await;
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn collect(mut body: Body) -> Result<Bytes, Problem> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(Code::MalformedRequest, "the body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen > DISCARD_BYTES_MAX {
            break;
        }
        if seen > BODY_BYTES_MAX {
            (first, rest) = (None, BytesMut::new());
        } else if first.is_none() && rest.is_empty() {
            // Most bodies come in one piece and are not copied.
            first = Some(data);
        } else {
            if let Some(first) = first.take() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    if seen > BODY_BYTES_MAX {
        return Err(Problem::new(Code::BodyTooLarge, format!("a body has at most {BODY_BYTES_MAX} bytes")));
    }
    Ok(first.unwrap_or_else(|| rest.freeze()))
}

/// Reads `T` from a JSON object.
///
/// # Errors
/// `malformed_json` for what is not JSON; `validation_failed`, with a pointer,
/// for JSON that is not a `T`.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    match serde_json::from_slice(bytes) {
        Ok(Object(value)) => Ok(value),
        Err(error) => Err(explain::<Object<T>>(bytes, &error)),
    }
}

/// Reads `T` from JSON that is the value of another one's field at `base`.
///
/// # Errors
/// `validation_failed`, with a pointer.
pub fn parse_at<'a, T: Deserialize<'a>>(bytes: &'a [u8], base: &str) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let deserializer = &mut serde_json::Deserializer::from_slice(bytes);
        match serde_path_to_error::deserialize::<_, T>(deserializer) {
            Err(error) if error.inner().is_data() => {
                let text = error.inner().to_string();
                let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
                Problem::validation(vec![wording::field_error(base, error.path(), text)])
            }
            _ => Problem::invalid(base, wording::syntax(&error)),
        }
    })
}

/// The slow path, which only broken requests take.
#[cold]
fn explain<'a, T: Deserialize<'a>>(bytes: &'a [u8], error: &serde_json::Error) -> Problem {
    if let Err(syntax) = serde_json::from_slice::<IgnoredAny>(bytes) {
        return Problem::new(Code::MalformedJson, wording::syntax(&syntax));
    }
    if !error.is_data() {
        return Problem::new(Code::MalformedJson, wording::syntax(error));
    }
    let deserializer = &mut serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(deserializer) {
        Ok(_) => Problem::new(Code::MalformedJson, wording::syntax(error)),
        Err(error) => {
            // serde_json ends its texts with the place in the source, which the pointer says better.
            let text = error.inner().to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
            Problem::validation(vec![wording::field_error("", error.path(), text)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Outer {
        items: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape matters")]
    struct Inner {
        amount: String,
    }

    fn check(json: &str, code: Code, pointer: &str) {
        let problem = parse::<Outer>(json.as_bytes()).unwrap_err();
        assert_eq!(problem.code, code, "{json}: {problem:?}");
        assert_eq!(problem.errors.first().map_or("", |error| &error.pointer), pointer, "{json}: {problem:?}");
    }

    #[test]
    fn errors_say_where() {
        check("{", Code::MalformedJson, "");
        check("", Code::MalformedJson, "");
        check(r#"{"items":[{"amount":NaN}]}"#, Code::MalformedJson, "");
        check(r#"{"items":[{"amount":1}]}"#, Code::ValidationFailed, "/items/0/amount");
        check(r#"{"items":[{"amount":"1"},{}]}"#, Code::ValidationFailed, "/items/1/amount");
        check(r#"{"items":[{"amount":"1","x/y":1}]}"#, Code::ValidationFailed, "/items/0/x~1y");
        check(r#"{"items":[{"amount":"1","amount":"2"}]}"#, Code::ValidationFailed, "/items/0/amount");
        check(r"[]", Code::ValidationFailed, "");
        // serde would read a struct from an array as well.
        check(r#"[[{"amount":"1"}]]"#, Code::ValidationFailed, "");
        // Broken JSON is broken, even behind a field that is unknown.
        check(r#"{"x":1,"#, Code::MalformedJson, "");
    }
}
