//! Around every request: its id, its metrics, its panics.
//!
//! A request runs in a span with its id, so that each line that is logged on its
//! way says to which answer it belongs. The span is one of errors, so that it is
//! there whatever level is asked for: half a microsecond a request, or nothing
//! where nothing is logged.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use metrics::{counter, histogram};
use tracing::Instrument;
use uuid::Uuid;

use super::problem::{Code, Problem};
use crate::telemetry::metric;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a client's own request id that we repeat.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Runs a request.
pub async fn request(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let span = tracing::error_span!("request", request_id = id.to_str().unwrap_or_default());
    let mut response = observed(request, next).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn observed(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            tracing::error!(panic = panic_text(&*panic), "a request panicked");
            Problem::new(Code::InternalError, "the request could not be processed").into_response()
        }
    };
    let route = route.as_ref().map_or("none", |route| route.as_str());
    log(&response, &method, route);
    let (route, status) = (Arc::<str>::from(route), response.status().as_str().to_owned());
    counter!(
        metric::HTTP_REQUESTS, "route" => Arc::clone(&route), "method" => method_label(&method), "status" => status
    )
    .increment(1);
    histogram!(metric::HTTP_SECONDS, "route" => route).record(started.elapsed().as_secs_f64());
    response
}

/// Says what was answered: at `warn` what should not be, at `info` what passes,
/// at `debug` what is as it should be.
fn log(response: &Response, method: &Method, route: &str) {
    let status = response.status().as_u16();
    let code = response.extensions().get::<Code>();
    let problem = code.map(|code| code.as_str());
    match code {
        // One of these per request is what an overload consists of.
        Some(Code::Overloaded) => {
            tracing::debug!(%method, route, status, problem, "answered with a problem");
        }
        Some(Code::Unavailable | Code::ProjectionBehind) => {
            tracing::info!(%method, route, status, problem, "answered with a problem");
        }
        _ if response.status().is_server_error() => {
            tracing::warn!(%method, route, status, problem, "answered with a problem");
        }
        Some(_) => tracing::debug!(%method, route, status, problem, "answered with a problem"),
        None => tracing::debug!(%method, route, status, "answered"),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of no text")
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
        let mut digits = Uuid::encode_buffer();
        let id = Uuid::from_u128(rand::random()).simple().encode_lower(&mut digits);
        HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}
