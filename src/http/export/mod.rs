//! Exports: the journal, a statement, the trial balance, as CSV, NDJSON or Parquet.
//!
//! Each is as of one position, read in pages or as a stream and written as it is
//! read, so that memory is bounded whatever the size. What goes wrong on the way
//! breaks the connection off, so that nobody takes a part for the whole.

mod parquet;
mod table;

use std::sync::Arc;

use async_stream::try_stream;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use self::table::{Column, Encoder, Format, Kind, Value};
use super::params::{InPath, InQuery};
use super::problem::{Code, Problem};
use super::reads::{self, Consistency, Freshness};
use super::routes::accounts::no_account;
use super::routes::{account_code_in, ledger};
use super::{LEDGER_POSITION, SharedApp};
use crate::cluster::Ledger;
use crate::ledger::{Fact, Position};
use crate::shard::shard_of;
use crate::store::{self, LedgerId, Shard};

/// Exports at a time in this process: each holds a megabyte to some tens of them, and
/// one of a trial balance a connection and a snapshot.
const EXPORTS_MAX: usize = 4;
/// Events or entries read at a time.
const PAGE: i64 = 2_000;

static EXPORTS: Semaphore = Semaphore::const_new(EXPORTS_MAX);

/// Why an export breaks off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("a row cannot be encoded: {0}")]
    Encode(#[from] table::Failed),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeQuery {
    format: Option<Format>,
    /// Of a statement.
    account: Option<String>,
    from_position: Option<u64>,
    to_position: Option<u64>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// `GET /export/journal`: every leg of every posted transaction, in the order of the log.
pub async fn journal(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<RangeQuery>,
) -> Result<Response, Problem> {
    if query.account.is_some() {
        return Err(Problem::invalid("/query/account", "a journal is of all accounts; leave it out"));
    }
    let ledger = ledger(&app, &name).await?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let mut head = reads::log_at(&ledger, query.min_position).await?;
    if !freshness.is_eventual() {
        head = head.max(reads::head(&ledger).await?);
    }
    let format = query.format.unwrap_or(Format::Csv);
    let (from, to) = (query.from_position.unwrap_or(1), query.to_position.unwrap_or(head).min(head));
    let permit = permit()?;
    let encoder = Encoder::new(format, JOURNAL)?;
    let rows = journal_rows(app, Arc::clone(&ledger), from, to, encoder, permit);
    Ok(answer(rows, format, &format!("journal-{name}-{to}"), to))
}

const JOURNAL: &[Column] = &[
    Column::new("position", Kind::Integer),
    Column::new("transaction_id", Kind::Text),
    Column::new("type", Kind::Text),
    Column::new("leg", Kind::Integer),
    Column::new("account", Kind::Text),
    Column::new("side", Kind::Text),
    Column::new("amount", Kind::Amount),
    Column::new("asset", Kind::Text),
    Column::new("balance_after", Kind::Amount),
    Column::nullable("reference", Kind::Text),
    Column::nullable("description", Kind::Text),
    Column::new("metadata", Kind::Json),
    Column::nullable("idempotency_key", Kind::Text),
    Column::new("effective_at", Kind::Time),
    Column::new("recorded_at", Kind::Time),
];

fn journal_rows(
    app: SharedApp,
    ledger: Arc<Ledger>,
    from: Position,
    to: Position,
    mut encoder: Encoder,
    permit: SemaphorePermit<'static>,
) -> impl Stream<Item = Result<Bytes, Broken>> {
    try_stream! {
        let _permit = permit;
        let mut after = from.saturating_sub(1);
        while after < to {
            let limit = PAGE.min((to - after) as i64);
            let events = store::events::read_events(app.worker.database.pool(), ledger.ledger_id, after, limit).await?;
            let Some(last) = events.last() else { break };
            after = last.position;
            let pool = app.worker.database.pool();
            let scheduling = store::exports::scheduling_keys(pool, ledger.ledger_id, &events).await?;
            for event in &events {
                let (Fact::TransactionPosted(posted), Some(id)) = (&event.fact, event.transaction_id) else { continue };
                let id = id.to_string();
                let scheduled = store::exports::scheduled_at(event).and_then(|position| scheduling.get(&position));
                let key = event.idempotency_key.as_deref().or(scheduled.map(String::as_str));
                for (index, leg) in posted.legs.iter().enumerate() {
                    encoder.row(&[
                        Value::Integer(event.position as i64),
                        Value::Text(&id),
                        Value::Text(posted.kind.as_str()),
                        Value::Integer(index as i64 + 1),
                        Value::Text(leg.account.as_str()),
                        Value::Text(leg.side.as_str()),
                        Value::Amount(leg.amount),
                        Value::Text(leg.asset.as_str()),
                        Value::Amount(leg.after.posted(leg.normal)),
                        Value::text(posted.reference.as_deref()),
                        Value::text(posted.description.as_deref()),
                        Value::Json(posted.metadata.as_deref().unwrap_or("{}")),
                        Value::text(key),
                        Value::Time(event.effective_at),
                        Value::Time(event.recorded_at),
                    ])?;
                }
            }
            if let Some(bytes) = encoder.take() {
                yield bytes;
            }
        }
        yield encoder.finish()?;
    }
}

/// `GET /export/statement`: every entry of one account.
pub async fn statement(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<RangeQuery>,
) -> Result<Response, Problem> {
    let ledger = ledger(&app, &name).await?;
    let code = query.account.as_deref();
    let code = code.ok_or_else(|| Problem::invalid("/query/account", "this is required: whose statement it is"))?;
    let code = account_code_in(code, "/query/account")?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let (ledger_id, pool) = (ledger.ledger_id, app.worker.database.pool());
    let shard = shard_of(ledger_id, code.as_str(), app.worker.ledgers.shard_count());
    let found = {
        let mut conn = pool.acquire().await.map_err(store::Error::from)?;
        store::projections::load_accounts(&mut conn, ledger_id, &[shard], &[code.as_str()]).await?
    };
    let account = found.into_iter().next().ok_or_else(|| no_account(&code).as_of(position))?;
    let format = query.format.unwrap_or(Format::Csv);
    let statement = Statement {
        ledger_id,
        shard,
        account_id: account.id as i64,
        account: code.to_string(),
        asset: account.asset.to_string(),
        versions: account.balance.version,
        from: query.from_position.unwrap_or(1),
        to: query.to_position.unwrap_or(position).min(position),
    };
    let permit = permit()?;
    let encoder = Encoder::new(format, STATEMENT)?;
    let to = statement.to;
    Ok(answer(statement.rows(app, encoder, permit), format, &format!("statement-{code}-{to}"), position))
}

const STATEMENT: &[Column] = &[
    Column::new("account", Kind::Text),
    Column::new("line", Kind::Integer),
    Column::new("position", Kind::Integer),
    Column::new("transaction_id", Kind::Text),
    Column::new("side", Kind::Text),
    Column::new("amount", Kind::Amount),
    Column::new("asset", Kind::Text),
    Column::new("balance_after", Kind::Amount),
    Column::nullable("reference", Kind::Text),
    Column::new("effective_at", Kind::Time),
    Column::new("recorded_at", Kind::Time),
];

struct Statement {
    ledger_id: LedgerId,
    shard: Shard,
    account_id: i64,
    account: String,
    asset: String,
    /// Of the account, when the export began.
    versions: u64,
    from: Position,
    to: Position,
}

impl Statement {
    fn rows(
        self,
        app: SharedApp,
        mut encoder: Encoder,
        permit: SemaphorePermit<'static>,
    ) -> impl Stream<Item = Result<Bytes, Broken>> {
        try_stream! {
            let _permit = permit;
            let mut after = self.version_before(&app).await?;
            'pages: loop {
                let rows = self.page(&app, after, PAGE).await?;
                let Some(last) = rows.last() else { break };
                after = last.version;
                for row in rows {
                    if row.position as u64 > self.to {
                        break 'pages;
                    }
                    encoder.row(&[
                        Value::Text(&self.account),
                        Value::Integer(row.version),
                        Value::Integer(row.position),
                        Value::Text(&row.transaction_id.to_string()),
                        Value::Text(&row.side),
                        Value::Amount(row.amount),
                        Value::Text(&self.asset),
                        Value::Amount(row.balance_after),
                        Value::text(row.reference.as_deref()),
                        Value::Time(row.effective_at),
                        Value::Time(row.recorded_at),
                    ])?;
                }
                if let Some(bytes) = encoder.take() {
                    yield bytes;
                }
            }
            yield encoder.finish()?;
        }
    }

    async fn page(
        &self,
        app: &SharedApp,
        after: i64,
        limit: i64,
    ) -> Result<Vec<store::projections::EntryRow>, store::Error> {
        let pool = app.worker.database.pool();
        store::projections::entries(pool, self.ledger_id, self.shard, self.account_id, after, true, limit).await
    }

    /// The last version whose entry is before the first position asked for. Versions and
    /// positions rise together, so halving finds it without reading all before.
    async fn version_before(&self, app: &SharedApp) -> Result<i64, store::Error> {
        let (mut low, mut high) = (0, self.versions as i64);
        while self.from > 1 && low < high {
            let middle = low + (high - low) / 2;
            match self.page(app, middle, 1).await?.first() {
                Some(row) if (row.position as u64) < self.from => low = row.version,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialBalanceQuery {
    format: Option<Format>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// `GET /export/trial-balance`: the totals of every account.
pub async fn trial_balance(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<TrialBalanceQuery>,
) -> Result<Response, Problem> {
    let ledger = ledger(&app, &name).await?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let format = query.format.unwrap_or(Format::Csv);
    let permit = permit()?;
    // A connection of its own: those of the pool are for reads that are over soon.
    let conn = app.worker.database.connect_serving().await?;
    let rows = trial_balance_rows(conn, ledger.ledger_id, Encoder::new(format, TRIAL_BALANCE)?, permit);
    Ok(answer(rows, format, &format!("trial-balance-{name}"), position))
}

const TRIAL_BALANCE: &[Column] = &[
    Column::new("account", Kind::Text),
    Column::new("asset", Kind::Text),
    Column::new("normal", Kind::Text),
    Column::new("debits_posted", Kind::Amount),
    Column::new("credits_posted", Kind::Amount),
    Column::new("balance", Kind::Amount),
    Column::new("as_of_position", Kind::Integer),
];

fn trial_balance_rows(
    mut conn: store::Connection,
    ledger_id: LedgerId,
    mut encoder: Encoder,
    permit: SemaphorePermit<'static>,
) -> impl Stream<Item = Result<Bytes, Broken>> {
    try_stream! {
        let _permit = permit;
        let mut rows = store::exports::trial_balance(&mut conn, ledger_id);
        while let Some(row) = rows.try_next().await? {
            let (debits, credits) = (row.debits_posted, row.credits_posted);
            let balance = if row.normal_side == "debit" { debits.checked_sub(credits) } else { credits.checked_sub(debits) };
            encoder.row(&[
                Value::Text(&row.account),
                Value::Text(&row.asset),
                Value::Text(&row.normal_side),
                Value::Amount(debits),
                Value::Amount(credits),
                // Both are zero or more and at most 38 digits, and so is their difference.
                Value::Amount(balance.unwrap_or_default()),
                Value::Integer(row.position),
            ])?;
            if let Some(bytes) = encoder.take() {
                yield bytes;
            }
        }
        yield encoder.finish()?;
    }
}

fn permit() -> Result<SemaphorePermit<'static>, Problem> {
    EXPORTS.try_acquire().map_err(|_| {
        Problem::new(Code::Overloaded, format!("{EXPORTS_MAX} exports are under way already; try again later"))
    })
}

/// The rows as a file of that name.
fn answer(
    rows: impl Stream<Item = Result<Bytes, Broken>> + Send + 'static,
    format: Format,
    name: &str,
    position: Position,
) -> Response {
    // Polled when the request's span is left, and what is logged then belongs to it all the same.
    let span = tracing::Span::current();
    let rows = rows.inspect_err(move |error| {
        let _in = span.enter();
        tracing::warn!(%error, "an export broke off");
    });
    let mut response = Response::new(Body::from_stream(rows));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    // Of a code, what is no character of file names is another one.
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'), "_");
    let disposition = format!("attachment; filename=\"{name}.{}\"", format.extension());
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    headers.insert(LEDGER_POSITION, HeaderValue::from(position));
    response
}
