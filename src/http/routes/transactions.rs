//! Transactions: what was posted or rejected, found by what is known of it.

use std::collections::VecDeque;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::super::filters::{self, Between, InQueryWithMetadata, Pair};
use super::super::params::{InPath, InQuery, Order, cursor, cursor_text, limit};
use super::super::problem::{Code, Problem};
use super::super::reads::{self, Consistency, Freshness};
use super::super::search::{TransactionFilter, TransactionSearch, Walk};
use super::super::wire::{Page, TRANSACTION_STATUSES, TransactionOutput, account_code};
use super::super::{SharedApp, answer, idempotency};
use super::accounts::no_account;
use super::ledger;
use super::payments::REFERENCE_BYTES_MAX;
use crate::ledger::Kind;
use crate::shard::shard_of;
use crate::store;
use crate::store::search::{self, Direction, Range};

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
    let unknown = || Problem::new(Code::TransactionNotFound, "there is no such transaction in this ledger").as_of(head);
    let id = Uuid::try_parse(&id).map_err(|_| unknown())?;
    // The log itself: an acknowledged transaction is there.
    let event = store::events::of_transaction(app.worker.database.pool(), ledger.ledger_id, id).await?;
    let event = event.ok_or_else(unknown)?;
    let output = TransactionOutput::new(&event).ok_or_else(unknown)?;
    Ok(answer(StatusCode::OK, &output, Some(head.max(event.position)), false))
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
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let mut walks = Vec::new();
    if let Some(key) = &query.idempotency_key {
        let rows = store::keys::find(pool, ledger_id, &[store::keys::hash(key)]).await?;
        let made = rows.iter().flat_map(|row| row.position..row.position + u64::from(row.event_count));
        let mut made: VecDeque<i64> = made.map(|position| position as i64).collect();
        if direction == Direction::Descending {
            made = made.into_iter().rev().collect();
        }
        walks.push(Walk::Known(made));
    } else {
        walks.extend(filter.reference.clone().map(Walk::Reference));
        walks.extend(filter.metadata.iter().cloned().map(Walk::Metadata));
        if let Some(code) = &filter.account {
            let shard = shard_of(ledger_id, code.as_str(), app.worker.ledgers.shard_count());
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
    let (data, next) = TransactionSearch { pool, ledger_id, filter, direction, limit }.run(walks, range).await?;
    let next = next.map(|next| cursor_text(TRANSACTION_CURSOR, next as u64));
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(position), false))
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
