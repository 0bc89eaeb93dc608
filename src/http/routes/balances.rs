//! The chart of accounts in sums, and the trial balance: many accounts as of one
//! position.
//!
//! The first page fixes the moment, the position at least, and the depth. Its
//! cursor carries them, so that all pages together are one consistent picture,
//! whatever is posted meanwhile.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Datelike, Utc};
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

/// Letter of this list's cursors.
const SUM_CURSOR: char = 'b';

/// `GET /balances`
pub async fn list(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ListQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = Cursor::parse(SUM_CURSOR, query.after.as_deref())?;
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
    let asked = moment::of(&app, query.as_of.as_deref(), query.as_of_position)?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let View { position, time, is_present, depth } =
        View::of(&ledger, freshness, asked, query.depth, after.as_ref()).await?;
    let chart = Chart {
        prefix: query.prefix.as_deref().unwrap_or_default(),
        asset: query.asset.as_deref(),
        depth,
        position,
        time,
        is_present,
        after: after.as_ref().map_or(("", ""), |after| (after.path, after.asset)),
    };
    let rows = store::as_of::chart(app.worker.database.pool(), ledger.ledger_id, chart, limit + 1).await?;
    let more = rows.len() > limit as usize;
    let data: Vec<SumOutput> = rows.into_iter().take(limit as usize).map(|row| sum(row, is_present)).collect();
    let last = data.last().filter(|_| more);
    let view = View { position, time, is_present, depth };
    let next = last.map(|last| Cursor { view, asset: &last.asset, path: &last.path }.text(SUM_CURSOR));
    let output = ListOutput { position, as_of: time.map(Timestamp), data, next };
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

/// Letter of this list's cursors.
const TRIAL_CURSOR: char = 't';

/// `GET /trial-balance`
pub async fn trial(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<TrialQuery>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let after = Cursor::parse(TRIAL_CURSOR, query.after.as_deref())?;
    let ledger = ledger(&app, &name).await?;
    let asked = moment::of(&app, query.as_of.as_deref(), query.as_of_position)?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let view = View::of(&ledger, freshness, asked, None, after.as_ref()).await?;
    let View { position, time, .. } = view;
    let (pool, ledger_id) = (app.worker.database.pool(), ledger.ledger_id);
    let totals = match after {
        None => Some(store::as_of::trial_totals(pool, ledger_id, position, time).await?),
        Some(_) => None,
    };
    let last_code = after.as_ref().map_or("", |after| after.path);
    let rows = store::as_of::trial_balance(pool, ledger_id, position, time, last_code, limit + 1).await?;
    let more = rows.len() > limit as usize;
    let data: Vec<RowOutput> = rows.into_iter().take(limit as usize).map(row).collect();
    let last = data.last().filter(|_| more);
    let next = last.map(|last| Cursor { view, asset: "", path: &last.account }.text(TRIAL_CURSOR));
    let output = TrialOutput {
        position,
        as_of: time.map(Timestamp),
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

/// What all pages of a list have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    position: Position,
    time: Option<DateTime<Utc>>,
    /// Whether the position was the present when the first page was made.
    is_present: bool,
    depth: Option<i32>,
}

impl View {
    /// What the cursor carries or, in the beginning, what is asked for. The position is then the one that the
    /// projections have reached, if none is named.
    async fn of(
        ledger: &crate::cluster::Ledger,
        freshness: Freshness,
        asked: Moment,
        depth: Option<i32>,
        after: Option<&Cursor<'_>>,
    ) -> Result<Self, Problem> {
        let begun = after.map(|after| after.view);
        if let Some(begun) = begun {
            begun.refuse_another(asked, depth)?;
        }
        let fixed = begun.map(|begun| begun.position).or(asked.position);
        let reached = reads::projections_at(ledger, moment::freshness(freshness, fixed)).await?;
        let position = fixed.unwrap_or(reached);
        Ok(begun.unwrap_or(Self { position, time: asked.time, is_present: asked.is_present(), depth }))
    }

    /// What a later page leaves out is as on the first one.
    fn refuse_another(&self, asked: Moment, depth: Option<i32>) -> Result<(), Problem> {
        let another = if asked.position.is_some_and(|position| position != self.position) {
            "position"
        } else if asked.time.is_some() && asked.time != self.time {
            "time"
        } else if depth.is_some() && depth != self.depth {
            return Err(Problem::invalid("/query/after", "this is a cursor of this list with another depth"));
        } else {
            return Ok(());
        };
        Err(Problem::invalid("/query/after", format!("this is a cursor of this list as of another {another}")))
    }
}

/// Where a list goes on: after the last group's asset and path, or the last account's code. Names have no commas.
#[derive(Debug, PartialEq, Eq)]
struct Cursor<'a> {
    view: View,
    asset: &'a str,
    path: &'a str,
}

impl<'a> Cursor<'a> {
    /// An empty one begins at the beginning.
    fn parse(kind: char, after: Option<&'a str>) -> Result<Option<Self>, Problem> {
        let Some(text) = after.filter(|text| !text.is_empty()) else { return Ok(None) };
        let cursor = Self::read(kind, text);
        cursor.map(Some).ok_or_else(|| Problem::invalid("/query/after", "this is no cursor of this list"))
    }

    fn read(kind: char, text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix(kind)?.splitn(6, ',');
        let position = parts.next()?.parse().ok().filter(|position| i64::try_from(*position).is_ok())?;
        let time = match parts.next()? {
            "" => None,
            // As far as times are RFC 3339.
            us => {
                let time = DateTime::from_timestamp_micros(us.parse().ok()?);
                Some(time.filter(|time| (0..=9_999).contains(&time.year()))?)
            }
        };
        let is_present = match parts.next()? {
            "p" => true,
            "" => false,
            _ => return None,
        };
        let depth = match parts.next()? {
            "" => None,
            depth => Some(depth.parse().ok().filter(|depth| (1..=DEPTH_MAX).contains(depth))?),
        };
        let (asset, path) = (parts.next()?, parts.next()?);
        let fits = !(is_present && time.is_some())
            && (asset.is_empty() || wire::asset_code(asset).is_ok())
            && (path.is_empty() || wire::account_code(path).is_ok());
        fits.then_some(Self { view: View { position, time, is_present, depth }, asset, path })
    }

    fn text(&self, kind: char) -> String {
        let View { position, time, is_present, depth } = self.view;
        let time = time.map(|time| time.timestamp_micros().to_string()).unwrap_or_default();
        let present = if is_present { "p" } else { "" };
        let depth = depth.map(|depth| depth.to_string()).unwrap_or_default();
        format!("{kind}{position},{time},{present},{depth},{},{}", self.asset, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for (time, is_present, depth) in [(None, true, None), (None, false, Some(2)), (Some(-1), false, Some(128))] {
            let time = time.map(|us| DateTime::from_timestamp_micros(us).unwrap());
            let cursor = Cursor { view: View { position: 7, time, is_present, depth }, asset: "EUR", path: "a:b" };
            assert_eq!(Cursor::read('b', &cursor.text('b')), Some(cursor));
        }
        for wrong in
            ["", "b", "b7,EUR,a", "t7,,,,EUR,a", "b7,x,,,EUR,a", "b7,,x,,EUR,a", "b7,,,0,EUR,a", "b7,1,p,,EUR,a"]
        {
            assert_eq!(Cursor::read('b', wrong), None, "{wrong}");
        }
        assert_eq!(Cursor::read('b', &format!("b7,{},,,EUR,a", i64::MAX)), None);
    }
}
