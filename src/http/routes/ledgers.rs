//! Ledgers and assets.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use smallvec::smallvec;
use tokio::time::Instant;

use super::super::params::{InPath, InQuery, limit, name_cursor, name_cursor_text};
use super::super::problem::{Code, Problem, Shape};
use super::super::reads::{self, Consistency};
use super::super::wire::{AssetInput, AssetOutput, LedgerInput, LedgerOutput, Page, Timestamp, asset_code};
use super::super::{SharedApp, answer, body};
use super::ledger;
use crate::ledger::{Command, LedgerName};
use crate::sequencer::{Item, Outcome, REQUEST_DEADLINE, Work};
use crate::store;

/// A new ledger waits so long for its sequencer before the answer goes out.
const SERVING_WAIT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    after: Option<String>,
    limit: Option<i64>,
}

/// Letters of these lists' cursors, which go on after a name.
const LEDGER_CURSOR: char = 'l';
const ASSET_CURSOR: char = 'c';

/// `PUT /v1/ledgers/{ledger}`
pub async fn create(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    body::parse::<LedgerInput>(&bytes)?;
    let name = LedgerName::new(&name).map_err(|error| Problem::invalid("/path/ledger", error.to_string()))?;
    let mut conn = app.worker.database.pool().acquire().await.map_err(store::Error::from)?;
    let (ledger_id, is_new) = store::ledgers::create(&mut conn, &name).await?;
    let rows = store::ledgers::list(&mut conn).await?;
    drop(conn);
    let row = rows.iter().find(|row| row.ledger_id == ledger_id);
    let row = row.ok_or_else(|| Problem::new(Code::InternalError, "the ledger could not be read"))?;
    let ledger = app.worker.ledgers.ensure(row);
    // This worker has done its part; the one that is to sequence it picks it up.
    _ = ledger.handle.submit(Work::ReadHead, Instant::now() + SERVING_WAIT).await;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let output = LedgerOutput { name: row.name.to_string(), created_at: Timestamp(row.created_at) };
    Ok(answer(status, &output, None, false))
}

/// `GET /v1/ledgers`
pub async fn list(State(app): State<SharedApp>, InQuery(query): InQuery<ListQuery>) -> Result<Response, Problem> {
    let limit = limit(query.limit)? as usize;
    let after = name_cursor(LEDGER_CURSOR, query.after.as_deref())?;
    let rows = store::ledgers::list(app.worker.database.pool()).await?;
    let rest: Vec<_> = rows.iter().filter(|row| row.name.as_str() > after).collect();
    let data: Vec<LedgerOutput> = rest
        .iter()
        .take(limit)
        .map(|row| LedgerOutput { name: row.name.to_string(), created_at: Timestamp(row.created_at) })
        .collect();
    let next = data.last().filter(|_| rest.len() > limit).map(|last| name_cursor_text(LEDGER_CURSOR, &last.name));
    Ok(answer(StatusCode::OK, &Page { data, next }, None, false))
}

/// `PUT /v1/ledgers/{ledger}/assets/{code}`
pub async fn define_asset(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let AssetInput { scale } = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let code = asset_code(&code).map_err(|detail| Problem::invalid("/path/code", detail))?;
    let command = Command::DefineAsset { code: code.clone(), scale };
    let work = Work::Each(smallvec![Item { command, key: None }]);
    let done = ledger.handle.submit(work, Instant::now() + REQUEST_DEADLINE).await?;
    let status = match done.outcomes.first() {
        Some(Outcome::Recorded { .. }) => StatusCode::CREATED,
        Some(Outcome::Unchanged(_)) => StatusCode::OK,
        Some(Outcome::Refused { refusal, .. }) => {
            return Err(Problem::refused(refusal, Shape::Path, "", done.position));
        }
        _ => return Err(Problem::new(Code::InternalError, "the asset has no outcome")),
    };
    Ok(answer(status, &AssetOutput { code: code.to_string(), scale }, Some(done.position), false))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAssetsQuery {
    after: Option<String>,
    limit: Option<i64>,
    /// Either is the same here.
    #[serde(rename = "consistency")]
    _consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// `GET /v1/ledgers/{ledger}/assets`
pub async fn list_assets(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ListAssetsQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)? as usize;
    let after = name_cursor(ASSET_CURSOR, query.after.as_deref())?;
    let ledger = ledger(&app, &name).await?;
    let position = reads::log_at(&ledger, query.min_position).await?;
    // Assets commit with the events that define them: the table is never behind.
    let assets = store::ledgers::assets(app.worker.database.pool(), ledger.ledger_id).await?;
    let rest: Vec<_> = assets.iter().filter(|asset| asset.code.as_str() > after).collect();
    let data: Vec<AssetOutput> =
        rest.iter().take(limit).map(|asset| AssetOutput { code: asset.code.to_string(), scale: asset.scale }).collect();
    let next = data.last().filter(|_| rest.len() > limit).map(|last| name_cursor_text(ASSET_CURSOR, &last.code));
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(position), false))
}
