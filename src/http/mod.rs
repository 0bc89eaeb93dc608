//! The HTTP API.
//!
//! [`server`] accepts connections and bounds them, [`router`] says which route
//! is whose, [`access`] who may use it, `routes/` has a file per noun, [`body`], [`wire`] and [`requests`]
//! turn bytes into commands, `recorded` turns events into answers, and [`problem`] everything that goes wrong.

pub mod access;
pub mod body;
pub mod export;
mod filters;
pub mod idempotency;
pub mod import;
pub mod moment;
pub mod observe;
pub mod openapi;
pub mod params;
pub mod problem;
pub mod reads;
mod recorded;
pub mod requests;
pub mod router;
pub mod routes;
mod search;
pub mod server;
pub mod starting;
pub mod statement;
mod story;
pub mod time;
pub mod wire;
mod wording;

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

pub use problem::{Code, Problem};

use crate::cluster::Worker;
use crate::ledger::Position;

/// The position of the log that an answer reflects.
pub const LEDGER_POSITION: HeaderName = HeaderName::from_static("ledger-position");
/// Says that an answer is what the key did before.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What every route has at hand.
pub struct App {
    pub worker: Worker,
    pub metrics: Option<PrometheusHandle>,
    pub access: access::Access,
    /// Metrics are served on a listener of their own, and not beside the API.
    pub operations_apart: bool,
}

pub type SharedApp = Arc<App>;

/// A JSON answer that reflects the log.
pub fn answer(status: StatusCode, body: &impl Serialize, position: Option<Position>, replayed: bool) -> Response {
    answer_of_size(ANSWER_BYTES, status, body, position, replayed)
}

/// What a single payment's answer fits into.
const ANSWER_BYTES: usize = 512;

/// The same, of about so many bytes: an answer to thousands of items would be
/// copied several times while it grows.
pub fn answer_of_size(
    bytes: usize,
    status: StatusCode,
    body: &impl Serialize,
    position: Option<Position>,
    replayed: bool,
) -> Response {
    let mut json = Vec::with_capacity(bytes);
    match serde_json::to_writer(&mut json, body) {
        Ok(()) => with_json(status, json, position, replayed),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            Problem::new(Code::InternalError, "the answer could not be written").into_response()
        }
    }
}

fn with_json(status: StatusCode, json: Vec<u8>, position: Option<Position>, replayed: bool) -> Response {
    let mut response = (status, json).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(position) = position {
        headers.insert(LEDGER_POSITION, HeaderValue::from(position));
    }
    if replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
