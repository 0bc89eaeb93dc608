//! Transactions: posted with their legs, taken back, withdrawn, and found by what is known of them.

use std::collections::VecDeque;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::super::access;
use super::super::filters::{self, Between, InQueryWithMetadata, Pair};
use super::super::idempotency::Route;
use super::super::params::{InPath, InQuery, Order, cursor, cursor_text, limit};
use super::super::problem::{Problem, Shape};
use super::super::reads::{self, Consistency, Freshness};
use super::super::requests::{
    self, CancellationInput, REFERENCE_BYTES_MAX, ReversalInput, TransactionBatchInput, TransactionInput,
};
use super::super::search::{TransactionFilter, TransactionSearch, Walk};
use super::super::story::{TRANSACTION_STATUSES, told};
use super::super::wire::{Page, account_code};
use super::super::{SharedApp, answer, body, idempotency};
use super::accounts::no_account;
use super::batch::{self, BATCH_ITEMS_MAX, Batch, Sort};
use super::ledger;
use super::submission::{no_transaction, record, record_about};
use crate::ledger::{Cancel, Command, Kind};
use crate::shard::shard_of;
use crate::store::api_keys::Role;
use crate::store::connection::Pool;
use crate::store::search::{self, Direction, Range, Standing};
use crate::store::{self, LedgerId};

/// Legs that the transactions of one batch may have together: four for each of the
/// most transactions, as an exchange has.
pub const BATCH_LEGS_MAX: usize = 4 * BATCH_ITEMS_MAX;

/// `POST /transactions`
pub async fn transact(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let key = idempotency::from_headers(request.headers()).map(str::to_owned);
    let bytes = body::read(request).await?;
    let key = key?;
    let input: TransactionInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let command = Command::Transact(requests::transaction(input).map_err(Problem::validation)?);
    let key = idempotency::key(&key, Route::Transaction, [&command]);
    record(&app.worker.database, &ledger, command, key, Shape::Legs).await
}

const TRANSACTIONS: Sort = Sort {
    list: "transactions",
    member: batch::Member::Transaction,
    shape: Shape::Legs,
    item: Route::TransactionBatchItem,
    atomic: Route::AtomicTransactionBatch,
};

/// `POST /transactions/batch`
pub async fn transact_batch(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let key = idempotency::from_headers(request.headers()).map(str::to_owned);
    let bytes = body::read(request).await?;
    let input: TransactionBatchInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    if input.transactions.iter().map(|item| item.0.legs()).sum::<usize>() > BATCH_LEGS_MAX {
        return Err(Problem::invalid("/transactions", format!("a batch has at most {BATCH_LEGS_MAX} legs in all")));
    }
    let items = input.transactions.into_iter().map(|item| {
        let (key, transaction) = item.0.into_parts();
        (key, requests::transaction(transaction))
    });
    Batch { app: &app, ledger: &ledger, sort: &TRANSACTIONS }.answer(items, input.atomic, key).await
}

/// `POST /transactions/{id}/reverse`. A floor binds those who pay, so it takes the
/// role that may lift it to reverse below one.
pub async fn reverse(
    State(app): State<SharedApp>,
    InPath(path): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let may_force = access::require(Role::Admin, request.extensions());
    record_about(&app, path, request, Route::Reversal, |id, bytes| {
        let input: ReversalInput<'_> = body::parse(bytes)?;
        let reverse = requests::reversal(id, input).map_err(Problem::validation)?;
        if reverse.force {
            may_force?;
        }
        Ok(Command::Reverse(reverse))
    })
    .await
}

/// `POST /transactions/{id}/cancel`
pub async fn cancel(
    State(app): State<SharedApp>,
    InPath(path): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    record_about(&app, path, request, Route::Cancellation, |transaction, bytes| {
        let CancellationInput {} = body::parse(bytes)?;
        Ok(Command::Cancel(Cancel { transaction }))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowQuery {
    /// Either is the same here: the log is never behind.
    #[serde(rename = "consistency")]
    _consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// `GET /transactions/{id}`
pub async fn show(
    State(app): State<SharedApp>,
    InPath((name, id)): InPath<(String, String)>,
    InQuery(query): InQuery<ShowQuery>,
) -> Result<Response, Problem> {
    let ledger = ledger(&app, &name).await?;
    let head = reads::log_at(&ledger, query.min_position).await?;
    let id = Uuid::try_parse(&id).map_err(|_| no_transaction(head))?;
    // The log itself: an acknowledged transaction is there.
    let story = store::story::of(app.worker.database.pool(), ledger.ledger_id, id).await?;
    let output = told(&story).ok_or_else(|| no_transaction(head))?;
    Ok(answer(StatusCode::OK, &output, Some(head.max(story.position().unwrap_or_default())), false))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    account: Option<String>,
    reference: Option<String>,
    idempotency_key: Option<String>,
    r#type: Option<String>,
    status: Option<String>,
    min_amount: Option<String>,
    max_amount: Option<String>,
    from: Option<String>,
    to: Option<String>,
    after: Option<String>,
    limit: Option<i64>,
    order: Option<Order>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// Letter of this list's cursors: the position of the last transaction that was looked at.
const TRANSACTION_CURSOR: char = 'p';

/// `GET /transactions`
pub async fn list(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQueryWithMetadata(query, metadata): InQueryWithMetadata<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = cursor(TRANSACTION_CURSOR, query.after.as_deref())?;
    let ledger = ledger(&app, &name).await?;
    let filter = filter(&query, metadata)?;
    let (from, to) = filters::period(["from", "to"], query.from.as_deref(), query.to.as_deref())?;
    let direction = match query.order.unwrap_or(Order::Asc) {
        Order::Asc => Direction::Ascending,
        Order::Desc => Direction::Descending,
    };
    let (pool, ledger_id) = (app.worker.database.pool(), ledger.ledger_id);
    let shard_count = app.worker.ledgers.shard_count();
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let mut walks = Vec::new();
    if let Some(key) = &query.idempotency_key {
        let mut made = made_by(pool, ledger_id, key).await?;
        if direction == Direction::Descending {
            made = made.into_iter().rev().collect();
        }
        walks.push(Walk::Known(made));
    } else {
        walks.extend(filter.reference.clone().map(Walk::Reference));
        walks.extend(filter.metadata.iter().cloned().map(Walk::Metadata));
        walks.extend(filter.status.and_then(Standing::of).map(Walk::State));
        if let Some(code) = &filter.account {
            let shard = shard_of(ledger_id, code.as_str(), shard_count);
            let id = store::projections::account_id(pool, ledger_id, shard, code.as_str()).await?;
            walks.push(Walk::Account(shard, id.ok_or_else(|| no_account(code).as_of(position))?));
        }
    }
    // A key is looked up in the log itself, which may be ahead of the projections.
    let mut range = Range { above: 0, upto: if query.idempotency_key.is_some() { i64::MAX } else { position as i64 } };
    if let Some(from) = from {
        range.above = search::position_before(pool, ledger_id, from).await?;
    }
    if let Some(to) = to {
        range.upto = range.upto.min(search::position_before(pool, ledger_id, to).await?);
    }
    let range = search::beyond(range, direction, after);
    let search = TransactionSearch { pool, ledger_id, shard_count, filter, direction, limit };
    let (data, next) = search.run(walks, range).await?;
    let next = next.map(|next| cursor_text(TRANSACTION_CURSOR, next as u64));
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(position), false))
}

/// Positions at which the transactions begin that a key has made or ended, in order.
async fn made_by(pool: &Pool, ledger_id: LedgerId, key: &str) -> Result<VecDeque<i64>, store::Error> {
    let rows = store::keys::find(pool, ledger_id, &[store::keys::hash(key)]).await?;
    let made = rows.iter().flat_map(|row| row.position..row.position + u64::from(row.event_count));
    let mut made: VecDeque<i64> = made.map(|position| position as i64).collect();
    // Only a batch makes more than one event, and it ends nothing.
    if made.len() == 1 {
        let events = store::events::at_positions(pool, ledger_id, made.make_contiguous()).await?;
        if let Some(begun) = events.first().and_then(search::ended) {
            made = VecDeque::from([begun as i64]);
        }
    }
    Ok(made)
}

fn filter(query: &ListQuery, metadata: Vec<Pair>) -> Result<TransactionFilter, Problem> {
    if query.reference.as_deref().is_some_and(|text| text.len() > REFERENCE_BYTES_MAX || text.contains('\0')) {
        let detail = format!("a reference has at most {REFERENCE_BYTES_MAX} bytes, without U+0000");
        return Err(Problem::invalid("/query/reference", detail));
    }
    let account = query.account.as_deref().map(account_code).transpose();
    if query.idempotency_key.as_deref().is_some_and(|key| !idempotency::is_valid(key)) {
        return Err(Problem::invalid("/query/idempotency_key", "a key has 1 to 255 visible ASCII characters"));
    }
    let kind = query.r#type.as_deref().map(|text| {
        Kind::parse(text).ok_or_else(|| Problem::invalid("/query/type", "there is no such type of transaction"))
    });
    let status = query.status.as_deref().map(|text| {
        let known = TRANSACTION_STATUSES.into_iter().find(|status| *status == text);
        let expected = || format!("expected one of: {}", TRANSACTION_STATUSES.join(", "));
        known.ok_or_else(|| Problem::invalid("/query/status", expected()))
    });
    Ok(TransactionFilter {
        account: account.map_err(|detail| Problem::invalid("/query/account", detail))?,
        reference: query.reference.clone(),
        metadata,
        kind: kind.transpose()?,
        status: status.transpose()?,
        amount: Between::new(["min_amount", "max_amount"], query.min_amount.as_deref(), query.max_amount.as_deref())?,
    })
}
