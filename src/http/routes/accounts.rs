//! Accounts and their statements.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;

use super::super::filters::{self, Between, InQueryWithMetadata};
use super::super::moment;
use super::super::params::{InPath, InQuery, Order, cursor, cursor_text, limit, name_cursor, name_cursor_text};
use super::super::problem::{self, Code, FieldError, Problem, Shape};
use super::super::reads::{self, Consistency, Freshness};
use super::super::search::{AccountFilter, AccountSearch};
use super::super::wire::{
    self, AccountBatchInput, AccountInput, AccountOutput, AmountInput, AmountText, EntryOutput, Page, Timestamp,
};
use super::super::{App, SharedApp, answer, body};
use super::{account_code, ledger};
use crate::cluster::Ledger;
use crate::ledger::{
    Account, AccountCode, AccountStatus, Amount, Attributes, Balance, Command, Event, Fact, OpenAccount, Position, Side,
};
use crate::metadata;
use crate::sequencer::{Answer, Item, Outcome, REQUEST_DEADLINE, Work};
use crate::shard::shard_of;
use crate::store::as_of::{Moment, Of};
use crate::store::{self, Shard};

/// Accounts that one batch may open.
const BATCH_ITEMS_MAX: usize = 10_000;
/// Bytes of an account's or a transaction's metadata: notes, not documents.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;

/// `POST /accounts`
pub async fn open(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: AccountInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let open = command(input).map_err(Problem::validation)?;
    let work = Work::Each(smallvec![Item { command: Command::OpenAccount(open), key: None }]);
    let done = ledger.handle.submit(work, Instant::now() + REQUEST_DEADLINE).await?;
    let outcome = done.outcomes.first().ok_or_else(no_outcome)?;
    let (status, account) = opened(&done, outcome, "")?;
    let output = AccountOutput::new(&account, shard(&app, &ledger, &account.code));
    Ok(answer(status, &output, Some(done.position), false))
}

#[derive(Serialize)]
struct BatchOutput<'a> {
    results: Vec<BatchResult<'a>>,
}

#[derive(Serialize)]
struct BatchResult<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<AccountOutput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<problem::Body<'a>>,
}

/// `POST /accounts/batch`
pub async fn open_batch(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: AccountBatchInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    if !(1..=BATCH_ITEMS_MAX).contains(&input.accounts.len()) {
        return Err(Problem::invalid("/accounts", format!("a batch has 1 to {BATCH_ITEMS_MAX} accounts")));
    }
    let place = |index: usize| format!("/accounts/{index}");
    let commands: Vec<Result<OpenAccount, Problem>> = input
        .accounts
        .into_iter()
        .enumerate()
        .map(|(index, account)| {
            command(account.0).map_err(|mut errors| {
                for error in &mut errors {
                    error.pointer.insert_str(0, &place(index));
                }
                Problem::validation(errors)
            })
        })
        .collect();
    let items: SmallVec<[Item; 1]> =
        commands.iter().flatten().map(|open| Item { command: Command::OpenAccount(open.clone()), key: None }).collect();
    let done = ledger.handle.submit(Work::Each(items), Instant::now() + REQUEST_DEADLINE).await?;
    let mut outcomes = done.outcomes.iter();
    let results: Vec<Result<(StatusCode, Account), Problem>> = commands
        .into_iter()
        .enumerate()
        .map(|(index, command)| {
            command?;
            opened(&done, outcomes.next().ok_or_else(no_outcome)?, &place(index))
        })
        .collect();
    let results = results.iter().map(|result| match result {
        Ok((status, account)) => BatchResult {
            status: status.as_u16(),
            account: Some(AccountOutput::new(account, shard(&app, &ledger, &account.code))),
            problem: None,
        },
        Err(problem) => {
            BatchResult { status: problem.code.status().as_u16(), account: None, problem: Some(problem.body()) }
        }
    });
    Ok(answer(StatusCode::OK, &BatchOutput { results: results.collect() }, Some(done.position), false))
}

pub(super) fn no_outcome() -> Problem {
    Problem::new(Code::InternalError, "the account has no outcome")
}

pub(super) fn shard(app: &App, ledger: &Ledger, code: &AccountCode) -> Shard {
    shard_of(ledger.ledger_id, code.as_str(), app.worker.ledgers.shard_count())
}

/// The command of a request, or everything that is wrong with it.
pub fn command(input: AccountInput<'_>) -> Result<OpenAccount, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    let code = wire::account_code(&input.code).map_err(|detail| wrong("/code", detail)).ok();
    let asset = wire::asset_code(&input.asset).map_err(|detail| wrong("/asset", detail)).ok();
    let normal = input.normal.as_deref().map(|text| {
        let side = Side::parse(text);
        if side.is_none() {
            wrong("/normal", "normal is credit or debit".to_owned());
        }
        side.unwrap_or(Side::Credit)
    });
    let [min_balance, max_balance] = limits(input.min_balance, input.max_balance, &mut wrong);
    let metadata = match canonical_metadata(input.metadata) {
        Ok(metadata) => metadata,
        Err(FieldError { pointer, detail }) => {
            wrong(&pointer, detail);
            None
        }
    };
    match (code, asset) {
        (Some(code), Some(asset)) if errors.is_empty() => {
            Ok(OpenAccount { code, asset, normal, min_balance, max_balance, metadata })
        }
        _ => Err(errors),
    }
}

/// A limit as a request states it: absent, null, or an amount.
pub type LimitInput = Option<Option<AmountInput>>;

/// A floor and a cap that fit each other; what does not is told to `wrong`, with its pointer.
pub fn limits(
    min_balance: LimitInput,
    max_balance: LimitInput,
    mut wrong: impl FnMut(&str, String),
) -> [Option<Option<Amount>>; 2] {
    let mut bound = |pointer: &str, input: LimitInput| {
        input.map(|stated| match stated?.0 {
            Ok(amount) => Some(amount),
            Err(error) => {
                wrong(pointer, error.to_string());
                None
            }
        })
    };
    let limits = [bound("/min_balance", min_balance), bound("/max_balance", max_balance)];
    if let [Some(Some(floor)), Some(Some(cap))] = limits
        && floor > cap
    {
        wrong("/min_balance", "min_balance must not be above max_balance".to_owned());
    }
    limits
}

/// A client's JSON object in canonical text, within its bound.
pub fn canonical_metadata(raw: Option<&RawValue>) -> Result<Option<Arc<str>>, FieldError> {
    let Some(raw) = raw.map(RawValue::get).filter(|text| *text != "null") else { return Ok(None) };
    let wrong = |pointer: &str, detail: String| FieldError { pointer: format!("/metadata{pointer}"), detail };
    if raw.len() > METADATA_BYTES_MAX {
        return Err(wrong("", format!("metadata has at most {METADATA_BYTES_MAX} bytes")));
    }
    metadata::accept(raw).map_err(|refused| wrong(&refused.pointer, refused.reason.to_string()))
}

fn opened(done: &Answer, outcome: &Outcome, base: &str) -> Result<(StatusCode, Account), Problem> {
    match outcome {
        Outcome::Recorded { index, .. } => {
            let event = done.batch.events.get(*index).ok_or_else(no_outcome)?;
            Ok((StatusCode::CREATED, account_of(event).ok_or_else(no_outcome)?))
        }
        Outcome::Unchanged(Some(account)) => Ok((StatusCode::OK, (**account).clone())),
        Outcome::Refused { refusal, .. } => Err(Problem::refused(refusal, Shape::Path, base, done.position)),
        _ => Err(no_outcome()),
    }
}

/// The account as its first event makes it.
fn account_of(event: &Event) -> Option<Account> {
    let Fact::AccountOpened { code, asset, normal, limits, metadata } = &event.fact else { return None };
    Some(Account {
        id: event.position,
        code: code.clone(),
        asset: asset.clone(),
        normal: *normal,
        attributes: Attributes { limits: *limits, metadata: metadata.clone(), ..Attributes::default() },
        changed: event.position,
        opened_at: event.recorded_at,
        balance: Balance { position: event.position, ..Balance::default() },
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowQuery {
    as_of: Option<String>,
    as_of_position: Option<u64>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// `GET /accounts/{code}`
pub async fn show(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    InQuery(query): InQuery<ShowQuery>,
) -> Result<Response, Problem> {
    shown(&app, &name, &code, query).await
}

/// `GET /accounts/batch`: the account of that name, as the path is also one of
/// POST and so a route of its own.
pub async fn show_batch(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ShowQuery>,
) -> Result<Response, Problem> {
    shown(&app, &name, "batch", query).await
}

async fn shown(app: &App, name: &str, code: &str, query: ShowQuery) -> Result<Response, Problem> {
    let ledger = ledger(app, name).await?;
    let code = account_code(code)?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let shard = shard(app, &ledger, &code);
    let moment = moment::of(app, query.as_of.as_deref(), query.as_of_position)?;
    if !moment.is_present() {
        let (account, position) = as_of(app, &ledger, &code, moment, freshness).await?;
        return Ok(answer(StatusCode::OK, &AccountOutput::new(&account, shard), Some(position), false));
    }
    let (account, position) = if freshness.is_eventual() {
        let position = reads::projections_at(&ledger, freshness).await?;
        let mut conn = app.worker.database.pool().acquire().await.map_err(store::Error::from)?;
        let codes = [code.as_str()];
        let found = store::projections::load_accounts(&mut conn, ledger.ledger_id, &[shard], &codes).await?;
        (found.into_iter().next(), position)
    } else {
        reads::log_at(&ledger, freshness.min_position).await?;
        let read = reads::ask(&ledger, Work::ReadAccount(code.clone())).await?;
        let position = read.position;
        match read.outcomes.into_iter().next() {
            Some(Outcome::Account(account)) => (account.map(|account| *account), position),
            _ => return Err(no_outcome()),
        }
    };
    let account = account.ok_or_else(|| no_account(&code).as_of(position))?;
    Ok(answer(StatusCode::OK, &AccountOutput::new(&account, shard), Some(position), false))
}

/// The account as it is, with its balance as of a moment, and the position that
/// the projections have reached.
async fn as_of(
    app: &App,
    ledger: &Ledger,
    code: &AccountCode,
    moment: Moment,
    freshness: Freshness,
) -> Result<(Account, Position), Problem> {
    let position = reads::projections_at(ledger, moment::freshness(freshness, moment.position)).await?;
    let mut conn = app.worker.database.pool().acquire().await.map_err(store::Error::from)?;
    let (mut account, of) = subject(app, ledger, &mut conn, code, position).await?;
    if let Some(at) = moment.position.filter(|at| *at < account.id) {
        let detail = format!("account {code} was opened at position {}, after {at}", account.id);
        return Err(Problem::new(Code::AccountNotFound, detail).as_of(position));
    }
    let found = store::as_of::balance(&mut conn, of, account.balance.version as i64, moment).await?;
    moment::refuse_stale(&found, code)?;
    // Nothing that came since the account was read.
    let last = account.balance.position;
    let known = Moment { position: Some(moment.position.map_or(last, |at| at.min(last))), ..moment };
    account.balance = store::as_of::totals(&mut conn, of, &found, known).await?;
    Ok((account, position))
}

/// An account of the projections, and where its entries are.
pub async fn subject(
    app: &App,
    ledger: &Ledger,
    conn: &mut store::Connection,
    code: &AccountCode,
    position: Position,
) -> Result<(Account, Of), Problem> {
    let shard = shard(app, ledger, code);
    let found = store::projections::load_accounts(conn, ledger.ledger_id, &[shard], &[code.as_str()]).await?;
    let account = found.into_iter().next().ok_or_else(|| no_account(code).as_of(position))?;
    let of = Of { shard, ledger_id: ledger.ledger_id, account_id: account.id as i64, normal: account.normal };
    Ok((account, of))
}

pub fn no_account(code: &AccountCode) -> Problem {
    Problem::new(Code::AccountNotFound, format!("no account {code}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    prefix: Option<String>,
    asset: Option<String>,
    normal: Option<String>,
    status: Option<String>,
    min_posted: Option<String>,
    max_posted: Option<String>,
    opened_from: Option<String>,
    opened_to: Option<String>,
    after: Option<String>,
    limit: Option<i64>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// Letter of this list's cursors: the code of the last account.
const ACCOUNT_CURSOR: char = 'a';

/// `GET /accounts`
pub async fn list(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQueryWithMetadata(query, metadata): InQueryWithMetadata<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = name_cursor(ACCOUNT_CURSOR, query.after.as_deref())?;
    let ledger = ledger(&app, &name).await?;
    if let Some(prefix) = query.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        wire::account_code(prefix).map_err(|detail| Problem::invalid("/query/prefix", detail))?;
    }
    if let Some(asset) = &query.asset {
        wire::asset_code(asset).map_err(|detail| Problem::invalid("/query/asset", detail))?;
    }
    let normal = query.normal.as_deref().map(|text| {
        Side::parse(text).ok_or_else(|| Problem::invalid("/query/normal", "expected one of: credit, debit"))
    });
    let status = query.status.as_deref().map(|text| {
        AccountStatus::parse(text)
            .ok_or_else(|| Problem::invalid("/query/status", "expected one of: open, frozen, closed"))
    });
    let opened = [query.opened_from.as_deref(), query.opened_to.as_deref()];
    let (opened_from, opened_to) = filters::period(["opened_from", "opened_to"], opened[0], opened[1])?;
    let filter = AccountFilter {
        asset: query.asset,
        normal: normal.transpose()?,
        status: status.transpose()?,
        metadata,
        opened_from,
        opened_to,
        posted: Between::new(["min_posted", "max_posted"], query.min_posted.as_deref(), query.max_posted.as_deref())?,
    };
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let search = AccountSearch {
        pool: app.worker.database.pool(),
        ledger_id: ledger.ledger_id,
        prefix: query.prefix.as_deref().unwrap_or_default(),
        filter,
        limit,
    };
    let (accounts, next) = search.run(after).await?;
    let output = |account| AccountOutput::new(account, shard(&app, &ledger, &account.code));
    let data: Vec<AccountOutput> = accounts.iter().map(output).collect();
    let next = next.map(|code| name_cursor_text(ACCOUNT_CURSOR, &code));
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(position), false))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntriesQuery {
    after: Option<String>,
    limit: Option<i64>,
    order: Option<Order>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// Letter of this list's cursors: the version of the last line.
const ENTRY_CURSOR: char = 'v';

/// `GET /accounts/{code}/entries`
pub async fn entries(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    InQuery(query): InQuery<EntriesQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = cursor(ENTRY_CURSOR, query.after.as_deref())?;
    let ledger = ledger(&app, &name).await?;
    let code = account_code(&code)?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let (pool, ledger_id, shard) = (app.worker.database.pool(), ledger.ledger_id, shard(&app, &ledger, &code));
    let id = store::projections::account_id(pool, ledger_id, shard, code.as_str()).await?;
    let id = id.ok_or_else(|| no_account(&code).as_of(position))?;
    let ascending = matches!(query.order.unwrap_or(Order::Asc), Order::Asc);
    let from = after.map_or(if ascending { 0 } else { i64::MAX }, |version| version as i64);
    let rows = store::projections::entries(pool, ledger_id, shard, id, from, ascending, limit + 1).await?;
    let more = rows.len() > limit as usize;
    let data: Vec<EntryOutput> = rows
        .into_iter()
        .take(limit as usize)
        .map(|row| EntryOutput {
            position: row.position as u64,
            transaction_id: row.transaction_id,
            side: row.side,
            amount: AmountText(row.amount),
            balance_after: AmountText(row.balance_after),
            version: row.version as u64,
            reference: row.reference,
            effective_at: Timestamp(row.effective_at),
            recorded_at: Timestamp(row.recorded_at),
        })
        .collect();
    let next = data.last().filter(|_| more).map(|last| cursor_text(ENTRY_CURSOR, last.version));
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(position), false))
}
