//! The chart of accounts in sums, and the trial balance: many accounts as of one
//! position.
//!
//! The first page fixes the position and its cursor carries it, so that all
//! pages together are one consistent picture, whatever is posted meanwhile.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::super::moment;
use super::super::params::{InPath, InQuery, limit};
use super::super::problem::Problem;
use super::super::reads::{self, Consistency, Freshness};
use super::super::wire::{self, AmountText, Timestamp};
use super::super::{SharedApp, answer};
use super::ledger;
use crate::ledger::{Amount, Position, Side};
use crate::store;
use crate::store::as_of::{Chart, ChartRow, Moment, TrialRow, TrialTotal};

/// Segments that a code of 128 bytes can have.
const DEPTH_MAX: i32 = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    prefix: Option<String>,
    asset: Option<String>,
    depth: Option<i32>,
    as_of: Option<String>,
    as_of_position: Option<u64>,
    after: Option<String>,
    limit: Option<i64>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

#[derive(Serialize)]
struct ListOutput {
    position: Position,
    as_of: Option<Timestamp>,
    data: Vec<SumOutput>,
    next: Option<String>,
}

#[derive(Serialize)]
struct SumOutput {
    path: String,
    asset: String,
    accounts: i64,
    net_debit: String,
    /// Of the present only: over time, balances are kept and not what they are made of.
    debits_posted: Option<String>,
    credits_posted: Option<String>,
    debits_pending: Option<String>,
    credits_pending: Option<String>,
}

/// Letter of this list's cursors: the position, and the last group's asset and path.
const SUM_CURSOR: char = 'b';

/// `GET /balances`
pub async fn list(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = Cursor::parse(SUM_CURSOR, query.after.as_deref(), query.as_of_position)?;
    let ledger = ledger(&app, &name).await?;
    if let Some(prefix) = query.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        wire::account_code(prefix).map_err(|detail| Problem::invalid("/query/prefix", detail))?;
    }
    if let Some(asset) = &query.asset {
        wire::asset_code(asset).map_err(|detail| Problem::invalid("/query/asset", detail))?;
    }
    if query.depth.is_some_and(|depth| !(1..=DEPTH_MAX).contains(&depth)) {
        return Err(Problem::invalid("/query/depth", format!("depth is 1 to {DEPTH_MAX}")));
    }
    let moment = moment::of(&app, query.as_of.as_deref(), query.as_of_position)?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = position(&ledger, freshness, moment, after.as_ref()).await?;
    let chart = Chart {
        prefix: query.prefix.as_deref().unwrap_or_default(),
        asset: query.asset.as_deref(),
        depth: query.depth,
        position,
        time: moment.time,
        is_present: moment.is_present(),
        after: after.as_ref().map_or(("", ""), |after| (after.path, after.asset)),
    };
    let rows = store::as_of::chart(app.worker.database.pool(), ledger.ledger_id, chart, limit + 1).await?;
    let more = rows.len() > limit as usize;
    let data: Vec<SumOutput> = rows.into_iter().take(limit as usize).map(|row| sum(row, moment.is_present())).collect();
    let last = data.last().filter(|_| more);
    let next = last.map(|last| Cursor { position, asset: &last.asset, path: &last.path }.text(SUM_CURSOR));
    let output = ListOutput { position, as_of: moment.time.map(Timestamp), data, next };
    Ok(answer(StatusCode::OK, &output, Some(position), false))
}

fn sum(row: ChartRow, is_present: bool) -> SumOutput {
    let present = |sum: String| is_present.then_some(sum);
    SumOutput {
        path: row.path,
        asset: row.asset,
        accounts: row.accounts,
        net_debit: row.net_debit,
        debits_posted: present(row.debits_posted),
        credits_posted: present(row.credits_posted),
        debits_pending: present(row.debits_pending),
        credits_pending: present(row.credits_pending),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialQuery {
    as_of: Option<String>,
    as_of_position: Option<u64>,
    after: Option<String>,
    limit: Option<i64>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

#[derive(Serialize)]
struct TrialOutput {
    position: Position,
    as_of: Option<Timestamp>,
    /// With the first page, over all accounts; the same for all pages.
    totals: Option<Vec<TotalOutput>>,
    data: Vec<RowOutput>,
    next: Option<String>,
}

#[derive(Serialize)]
struct TotalOutput {
    asset: String,
    accounts: i64,
    debit: String,
    credit: String,
    net_debit: String,
}

#[derive(Serialize)]
struct RowOutput {
    account: String,
    asset: String,
    normal: String,
    /// On the normal side.
    balance: AmountText,
    debit: AmountText,
    credit: AmountText,
}

/// Letter of this list's cursors: the position and the last account's code.
const TRIAL_CURSOR: char = 't';

/// `GET /trial-balance`
pub async fn trial(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<TrialQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = Cursor::parse(TRIAL_CURSOR, query.after.as_deref(), query.as_of_position)?;
    let ledger = ledger(&app, &name).await?;
    let moment = moment::of(&app, query.as_of.as_deref(), query.as_of_position)?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = position(&ledger, freshness, moment, after.as_ref()).await?;
    let (pool, ledger_id) = (app.worker.database.pool(), ledger.ledger_id);
    let totals = match after {
        None => Some(store::as_of::trial_totals(pool, ledger_id, position, moment.time).await?),
        Some(_) => None,
    };
    let last_code = after.as_ref().map_or("", |after| after.path);
    let rows = store::as_of::trial_balance(pool, ledger_id, position, moment.time, last_code, limit + 1).await?;
    let more = rows.len() > limit as usize;
    let data: Vec<RowOutput> = rows.into_iter().take(limit as usize).map(row).collect();
    let last = data.last().filter(|_| more);
    let next = last.map(|last| Cursor { position, asset: "", path: &last.account }.text(TRIAL_CURSOR));
    let output = TrialOutput {
        position,
        as_of: moment.time.map(Timestamp),
        totals: totals.map(|totals| totals.into_iter().map(total).collect()),
        data,
        next,
    };
    Ok(answer(StatusCode::OK, &output, Some(position), false))
}

fn total(total: TrialTotal) -> TotalOutput {
    let TrialTotal { asset, accounts, debit, credit, net_debit } = total;
    TotalOutput { asset, accounts, debit, credit, net_debit }
}

fn row(row: TrialRow) -> RowOutput {
    let net = row.net_debit;
    let opposite = Amount::ZERO.checked_sub(net).unwrap_or(Amount::ZERO);
    let is_debit = row.normal_side == Side::Debit.as_str();
    RowOutput {
        balance: AmountText(if is_debit { net } else { opposite }),
        debit: AmountText(net.max(Amount::ZERO)),
        credit: AmountText(opposite.max(Amount::ZERO)),
        account: row.code,
        asset: row.asset,
        normal: row.normal_side,
    }
}

/// The position that all accounts are shown at: the one that is asked for or, in
/// the beginning, the one that the projections have reached.
async fn position(
    ledger: &crate::cluster::Ledger,
    freshness: Freshness,
    moment: Moment,
    after: Option<&Cursor<'_>>,
) -> Result<Position, Problem> {
    let fixed = after.map(|after| after.position).or(moment.position);
    let reached = reads::projections_at(ledger, moment::freshness(freshness, fixed)).await?;
    Ok(fixed.unwrap_or(reached))
}

/// Where a list goes on, and as of which position. Names have no commas.
struct Cursor<'a> {
    position: Position,
    asset: &'a str,
    path: &'a str,
}

impl<'a> Cursor<'a> {
    /// An empty one begins at the beginning.
    fn parse(kind: char, after: Option<&'a str>, as_of_position: Option<Position>) -> Result<Option<Self>, Problem> {
        let Some(text) = after.filter(|text| !text.is_empty()) else { return Ok(None) };
        let wrong = |detail: &str| Problem::invalid("/query/after", detail);
        let cursor = Self::read(kind, text).ok_or_else(|| wrong("this is no cursor of this list"))?;
        if as_of_position.is_some_and(|position| position != cursor.position) {
            return Err(wrong("this is a cursor of this list as of another position"));
        }
        Ok(Some(cursor))
    }

    fn read(kind: char, text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix(kind)?.splitn(3, ',');
        let position = parts.next()?.parse().ok().filter(|position| i64::try_from(*position).is_ok())?;
        let (asset, path) = (parts.next()?, parts.next()?);
        let fits = (asset.is_empty() || wire::asset_code(asset).is_ok())
            && (path.is_empty() || wire::account_code(path).is_ok());
        fits.then_some(Self { position, asset, path })
    }

    fn text(&self, kind: char) -> String {
        format!("{kind}{},{},{}", self.position, self.asset, self.path)
    }
}
