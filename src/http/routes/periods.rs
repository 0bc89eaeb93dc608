//! Periods: what is closed stays closed, and nothing becomes effective in it any more.

use std::borrow::Cow;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use smallvec::smallvec;
use tokio::time::Instant;

use super::super::params::{InPath, InQuery};
use super::super::problem::{Code, Problem, Shape};
use super::super::reads::{self, Consistency};
use super::super::requests::TIME_OR_DATE_EXPECTED;
use super::super::time::time_or_date;
use super::super::wire::Timestamp;
use super::super::{SharedApp, answer, body};
use super::ledger;
use crate::ledger::{Command, Position};
use crate::sequencer::{Item, Outcome, REQUEST_DEADLINE, Work};
use crate::store;

/// Closings that the answer has: eighty years of months.
pub const HISTORY_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseInput<'a> {
    #[serde(borrow)]
    before: Cow<'a, str>,
}

#[derive(Serialize)]
struct ClosedOutput {
    closed_before: Timestamp,
}

/// `POST /periods/close`
pub async fn close(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: CloseInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let before = time_or_date(&input.before).ok_or_else(|| Problem::invalid("/before", TIME_OR_DATE_EXPECTED))?;
    let work = Work::Each(smallvec![Item { command: Command::ClosePeriod { before }, key: None }]);
    let done = ledger.handle.submit(work, Instant::now() + REQUEST_DEADLINE).await?;
    match done.outcomes.first() {
        Some(Outcome::Recorded { .. } | Outcome::Unchanged(_)) => {
            let output = ClosedOutput { closed_before: Timestamp(before) };
            Ok(answer(StatusCode::OK, &output, Some(done.position), false))
        }
        Some(Outcome::Refused { refusal, .. }) => Err(Problem::refused(refusal, Shape::Path, "", done.position)),
        _ => Err(Problem::new(Code::InternalError, "the period has no outcome")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowQuery {
    /// Either is the same here.
    #[serde(rename = "consistency")]
    _consistency: Option<Consistency>,
    min_position: Option<u64>,
}

#[derive(Serialize)]
struct PeriodsOutput {
    closed_before: Option<Timestamp>,
    history: Vec<ClosingOutput>,
}

#[derive(Serialize)]
struct ClosingOutput {
    before: Timestamp,
    position: Position,
    recorded_at: Timestamp,
}

/// `GET /periods`
pub async fn show(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ShowQuery>,
) -> Result<Response, Problem> {
    let ledger = ledger(&app, &name).await?;
    // Of what was acknowledged nothing is missing: it is in the log.
    let known = reads::log_at(&ledger, query.min_position).await?;
    let rules = store::rules::now(app.worker.database.pool(), ledger.ledger_id).await?;
    let history = rules.closings.iter().rev().take(HISTORY_MAX).map(|closing| ClosingOutput {
        before: Timestamp(closing.before),
        position: closing.position,
        recorded_at: Timestamp(closing.recorded_at),
    });
    let output = PeriodsOutput {
        closed_before: rules.closings.last().map(|closing| Timestamp(closing.before)),
        history: history.collect(),
    };
    Ok(answer(StatusCode::OK, &output, Some(known.max(rules.position)), false))
}
