//! The log itself, in pages and as a stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::params::{InPath, InQuery, limit};
use super::super::problem::{Code, Problem};
use super::super::reads::{self, Consistency};
use super::super::wire::{EventOutput, Page, Timestamp};
use super::super::{LEDGER_POSITION, SharedApp, answer};
use super::ledger;
use crate::store::{self, events::Row};

/// Events read at a time for a stream.
const STREAM_PAGE: i64 = 500;
/// How often a silent stream says that it lives, and looks at the log by itself.
const STREAM_TICK: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    after: Option<String>,
    limit: Option<i64>,
    /// Either is the same here: the log is never behind.
    #[serde(rename = "consistency")]
    _consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// `GET /events`
pub async fn list(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = position(query.after.as_deref(), "/query/after")?.unwrap_or(0);
    let ledger = ledger(&app, &name).await?;
    let head = reads::log_at(&ledger, query.min_position).await?;
    let rows = store::events::read(app.worker.database.pool(), ledger.ledger_id, after, limit + 1).await?;
    let more = rows.len() > limit as usize;
    let data = rows.into_iter().take(limit as usize).map(output).collect::<Result<Vec<_>, _>>()?;
    let last = data.last().map(|event| event.position);
    let next = last.filter(|_| more).map(|last| last.to_string());
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(head.max(last.unwrap_or(0))), false))
}

fn position(text: Option<&str>, pointer: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.parse::<u64>().ok().filter(|number| i64::try_from(*number).is_ok());
    number.map(Some).ok_or_else(|| Problem::invalid(pointer, "this is no position: 0, 1, 2, …"))
}

fn output(row: Row) -> Result<EventOutput, Problem> {
    let payload = RawValue::from_string(row.payload.into())
        .map_err(|_| Problem::new(Code::InternalError, "an event could not be read"))?;
    Ok(EventOutput {
        position: row.position,
        r#type: row.type_name,
        schema_version: row.schema_version,
        transaction_id: row.transaction_id,
        idempotency_key: row.idempotency_key,
        payload,
        recorded_at: Timestamp(row.recorded_at),
        effective_at: Timestamp(row.effective_at),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamQuery {
    after: Option<String>,
}

/// `GET /events/stream`: server-sent events, `id:` is the position.
pub async fn stream(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let ledger = ledger(&app, &name).await?;
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    let resumed = position(last, "/headers/Last-Event-ID")?;
    let after = match resumed {
        Some(position) => position,
        None => position(query.after.as_deref(), "/query/after")?.unwrap_or(0),
    };
    let head = ledger.tail.head();
    let keep_alive = KeepAlive::new().interval(STREAM_TICK);
    let mut response = Sse::new(follow(app, ledger, after)).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(LEDGER_POSITION, HeaderValue::from(head));
    Ok(response)
}

/// Reads by position, and waits for the head to move where it stops. Ends when
/// the worker drains or the log cannot be read: the client resumes elsewhere.
fn follow(
    app: SharedApp,
    ledger: std::sync::Arc<crate::cluster::Ledger>,
    mut after: u64,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    // Polled when the request's span is left, and what is logged then belongs to it all the same.
    let span = tracing::Span::current();
    async_stream::stream! {
        let mut head = ledger.tail.subscribe();
        let mut status = app.worker.watch_status();
        loop {
            // Also where there is always more to read.
            if *status.borrow() == crate::cluster::Status::Draining {
                return;
            }
            head.mark_unchanged();
            let rows = store::events::read(app.worker.database.pool(), ledger.ledger_id, after, STREAM_PAGE).await;
            let rows = match rows {
                Ok(rows) => rows,
                Err(error) => {
                    let _in = span.enter();
                    tracing::warn!(ledger = %ledger.name, %error, "an event stream ended: the log could not be read");
                    return;
                }
            };
            if rows.is_empty() {
                tokio::select! {
                    _ = head.changed() => {}
                    _ = status.wait_for(|status| *status == crate::cluster::Status::Draining) => return,
                    () = tokio::time::sleep(STREAM_TICK) => {}
                }
            }
            for row in rows {
                after = row.position;
                let Ok(output) = output(row) else { return };
                let event = sse::Event::default().id(output.position.to_string()).event(output.r#type.clone());
                match event.json_data(&output) {
                    Ok(event) => yield Ok(event),
                    Err(_) => return,
                }
            }
        }
    }
}
