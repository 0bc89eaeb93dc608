//! Transactions: what was posted or rejected, found by what is known of it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::super::params::{InPath, InQuery, cursor, cursor_text, limit};
use super::super::problem::{Code, Problem};
use super::super::reads::{self, Consistency, Freshness};
use super::super::wire::{Page, TransactionOutput, account_code};
use super::super::{SharedApp, answer, idempotency};
use super::accounts::no_account;
use super::ledger;
use super::payments::REFERENCE_BYTES_MAX;
use crate::ledger::AccountCode;
use crate::shard::shard_of;
use crate::store;

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
    after: Option<String>,
    limit: Option<i64>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// Letter of this list's cursors: the position of the last transaction.
const TRANSACTION_CURSOR: char = 'p';

/// `GET /transactions`
pub async fn list(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = cursor(TRANSACTION_CURSOR, query.after.as_deref())?.unwrap_or(0) as i64;
    let ledger = ledger(&app, &name).await?;
    let reference = query.reference.as_deref();
    if reference.is_some_and(|text| text.len() > REFERENCE_BYTES_MAX || text.contains('\0')) {
        let detail = format!("a reference has at most {REFERENCE_BYTES_MAX} bytes, without U+0000");
        return Err(Problem::invalid("/query/reference", detail));
    }
    let account = query.account.as_deref().map(account_code).transpose();
    let account = account.map_err(|detail| Problem::invalid("/query/account", detail))?;
    if query.idempotency_key.as_deref().is_some_and(|key| !idempotency::is_valid(key)) {
        return Err(Problem::invalid("/query/idempotency_key", "a key has 1 to 255 visible ASCII characters"));
    }
    let (pool, ledger_id) = (app.worker.database.pool(), ledger.ledger_id);
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let positions = match (&query.idempotency_key, &account, reference) {
        (Some(key), _, _) => {
            let rows = store::keys::find(pool, ledger_id, &[store::keys::hash(key)]).await?;
            let made = rows.iter().flat_map(|row| row.position..row.position + u64::from(row.event_count));
            made.map(|position| position as i64).filter(|position| *position > after).take(limit as usize + 1).collect()
        }
        (None, Some(code), reference) => {
            let shard = shard_of(ledger_id, code.as_str(), app.worker.ledgers.shard_count());
            let id = store::projections::account_id(pool, ledger_id, shard, code.as_str()).await?;
            let id = id.ok_or_else(|| no_account(code).as_of(position))?;
            store::projections::positions_of_account(pool, ledger_id, shard, id, reference, after, limit + 1).await?
        }
        (None, None, Some(reference)) => {
            store::projections::positions_of_reference(pool, ledger_id, reference, after, limit + 1).await?
        }
        (None, None, None) => store::events::transaction_positions(pool, ledger_id, after as u64, limit + 1).await?,
    };
    let more = positions.len() > limit as usize;
    let page: Vec<i64> = positions.into_iter().take(limit as usize).collect();
    let events = store::events::at_positions(pool, ledger_id, &page).await?;
    let matches = |output: &TransactionOutput| {
        // The key alone was looked up: the other filters hold all the same.
        let of_account = |code: &AccountCode| output.legs.iter().any(|leg| leg.account == code.as_str());
        account.as_ref().is_none_or(of_account)
            && reference.is_none_or(|reference| output.reference.as_deref() == Some(reference))
    };
    let data: Vec<TransactionOutput> = events.iter().filter_map(TransactionOutput::new).filter(matches).collect();
    let next = page.last().filter(|_| more).map(|last| cursor_text(TRANSACTION_CURSOR, *last as u64));
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(position), false))
}
