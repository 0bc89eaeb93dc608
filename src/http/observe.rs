//! Around every request: its id, its metrics, its panics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use metrics::{counter, histogram};

use super::problem::{Code, Problem};
use crate::telemetry::metric;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a client's own request id that we repeat.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Runs a request.
pub async fn request(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::InternalError, "the request could not be processed").into_response(),
    };
    let status = response.status();
    let route = route.as_ref().map_or("none", |route| route.as_str());
    // 503 says what clients and probes are to do; it is no failure of the request.
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        tracing::warn!(request_id = ?id, %method, route, status = status.as_u16(), "answered with an error");
    } else {
        tracing::debug!(request_id = ?id, %method, route, status = status.as_u16(), "answered");
    }
    let labels = [
        ("route", route.to_owned()),
        ("method", method_label(&method).to_owned()),
        ("status", status.as_str().to_owned()),
    ];
    counter!(metric::HTTP_REQUESTS, &labels).increment(1);
    histogram!(metric::HTTP_SECONDS, "route" => route.to_owned()).record(started.elapsed().as_secs_f64());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// One of the methods that exist, so that no client makes a metric grow without end.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// The client's, if it is fit to be repeated; else one of ours.
fn request_id(request: &Request) -> HeaderValue {
    let own = request.headers().get(&REQUEST_ID).filter(|value| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    own.cloned().unwrap_or_else(|| {
        let id = format!("{:032x}", rand::random::<u128>());
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}
