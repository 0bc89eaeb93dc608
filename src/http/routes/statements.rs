//! The statement of an account over a period: opening balance, lines, closing
//! balance.
//!
//! By effective time, so that what is back-dated stands where it counts. The
//! first answer fixes what is known, as the version of the account, and the end
//! of the period; cursors carry both and the account, so that opening balance and
//! lines always amount to the closing balance, in one answer and over all pages.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use futures::Stream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::moment;
use super::super::params::{InPath, InQuery, limit, time};
use super::super::problem::{Code, Problem};
use super::super::reads::{self, Consistency, Freshness};
use super::super::statement::{self, Form, Heading, Line};
use super::super::wire::{AmountText, Timestamp};
use super::super::{App, LEDGER_POSITION, SharedApp, answer};
use super::accounts::subject;
use super::{account_code, ledger};
use crate::ledger::{Account, Amount, Position, Side};
use crate::store::as_of::{LineRow, Lines, Moment, Of};
use crate::store::{self, Error, LedgerId};

/// Lines read at a time for a statement that is given as a whole: what it needs
/// of memory, whatever its length.
const CHUNK_LINES: i64 = 1_000;
/// The least time that there is: periods end before their end.
const TICK: TimeDelta = TimeDelta::microseconds(1);
/// What the page may load: its own style, and nothing from anywhere.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Csv,
    Html,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementQuery {
    from: Option<String>,
    to: Option<String>,
    format: Option<Format>,
    after: Option<String>,
    limit: Option<i64>,
    consistency: Option<Consistency>,
    min_position: Option<u64>,
}

#[derive(Serialize)]
struct StatementOutput {
    account: String,
    asset: String,
    normal: &'static str,
    from: Timestamp,
    to: Timestamp,
    opening_balance: AmountText,
    closing_balance: AmountText,
    data: Vec<LineOutput>,
    next: Option<String>,
}

#[derive(Serialize)]
struct LineOutput {
    effective_at: Timestamp,
    recorded_at: Timestamp,
    position: Position,
    transaction_id: Uuid,
    reference: Option<String>,
    side: String,
    amount: AmountText,
    balance: AmountText,
}

/// `GET /accounts/{code}/statement`
pub async fn show(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    InQuery(query): InQuery<StatementQuery>,
) -> Result<Response, Problem> {
    let form = match query.format.unwrap_or(Format::Json) {
        Format::Json => None,
        Format::Csv => Some(Form::Csv),
        Format::Html => Some(Form::Html),
    };
    let page_of = limit(query.limit)?;
    if form.is_some() && (query.limit.is_some() || query.after.is_some()) {
        let pointer = if query.limit.is_some() { "/query/limit" } else { "/query/after" };
        return Err(Problem::invalid(pointer, "csv and html have all lines in one answer; leave it out"));
    }
    let asked = Asked::of(&query)?;
    let ledger = ledger(&app, &name).await?;
    let code = account_code(&code)?;
    let freshness = Freshness { consistency: query.consistency, min_position: query.min_position };
    let position = reads::projections_at(&ledger, freshness).await?;
    let mut conn = app.worker.database.pool().acquire().await.map_err(Error::from)?;
    let (account, of) = subject(&app, &ledger, &mut conn, &code, position).await?;
    let cursor = match asked.cursor {
        Some(cursor) if !cursor.is_of(of) || cursor.known > account.balance.version as i64 => {
            return Err(foreign_cursor());
        }
        Some(cursor) => cursor,
        None => begin(&app, &mut conn, &account, of, &asked).await?,
    };
    let balances = balances(&mut conn, of, &account, &cursor).await?;
    let heading = Heading {
        ledger: ledger.name.to_string(),
        account: account.code.to_string(),
        asset: account.asset.to_string(),
        scale: 0,
        normal: account.normal,
        from: cursor.from,
        to: cursor.to,
        opening: balances.opening,
        closing: balances.closing,
        position,
    };
    let cursor = Cursor { running: asked.cursor.map_or(balances.opening, |cursor| cursor.running), ..cursor };
    match form {
        None => page(&mut conn, of, &heading, cursor, page_of).await,
        Some(form) => {
            let assets = store::ledgers::assets(&mut conn, of.ledger_id).await?;
            let scale = assets.iter().find(|asset| asset.code == account.asset).map_or(0, |asset| asset.scale);
            drop(conn);
            Ok(whole(app, of, Heading { scale, ..heading }, cursor, form))
        }
    }
}

fn foreign_cursor() -> Problem {
    Problem::invalid("/query/after", "this is no cursor of this list")
}

/// What a query asks for.
struct Asked {
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    cursor: Option<Cursor>,
}

impl Asked {
    fn of(query: &StatementQuery) -> Result<Self, Problem> {
        let from = query.from.as_deref().map(|text| time("from", text)).transpose()?;
        let to = query.to.as_deref().map(|text| time("to", text)).transpose()?;
        let cursor = query.after.as_deref().filter(|text| !text.is_empty());
        let cursor = cursor.map(|text| Cursor::read(text).ok_or_else(foreign_cursor));
        let cursor = cursor.transpose()?;
        if let Some(cursor) = cursor
            && (from.is_some_and(|from| from != cursor.from) || to.is_some_and(|to| to != cursor.to))
        {
            return Err(Problem::invalid("/query/after", "this is a cursor of this list for another period"));
        }
        Ok(Self { from, to, cursor })
    }
}

/// The beginning of a new statement.
async fn begin(
    app: &App,
    conn: &mut store::Connection,
    account: &Account,
    of: Of,
    asked: &Asked,
) -> Result<Cursor, Problem> {
    let known = account.balance.version as i64;
    let to = match asked.to {
        Some(to) => to,
        // Whoever recorded the last entry may have a clock that is ahead of ours.
        None => {
            let last = store::as_of::recorded_at(&mut *conn, of, known).await?;
            let now = app.worker.now();
            now.max(last.unwrap_or(now)) + TICK
        }
    };
    let to = DateTime::from_timestamp_micros(to.timestamp_micros()).unwrap_or(to);
    let from = asked.from.unwrap_or_else(|| month_of(to - TICK));
    if from >= to {
        let detail = format!("the period begins at {} and must end after that", Text(from));
        return Err(Problem::invalid(if asked.to.is_some() { "/query/to" } else { "/query/from" }, detail));
    }
    let account = (of.ledger_id, of.account_id);
    Ok(Cursor { account, known, from, to, at: from, version: 0, running: Amount::ZERO })
}

/// The beginning of the month that a time is in.
fn month_of(time: DateTime<Utc>) -> DateTime<Utc> {
    let first = time.date_naive().with_day(1).unwrap_or_else(|| time.date_naive());
    first.and_time(chrono::NaiveTime::MIN).and_utc()
}

struct Text(DateTime<Utc>);

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
    }
}

struct Balances {
    opening: Amount,
    closing: Amount,
}

/// What was effective before the period, and before its end.
async fn balances(
    conn: &mut store::Connection,
    of: Of,
    account: &Account,
    cursor: &Cursor,
) -> Result<Balances, Problem> {
    let before = |time: DateTime<Utc>| Moment { position: None, time: Some(time - TICK) };
    let opening = store::as_of::balance(&mut *conn, of, cursor.known, before(cursor.from)).await?;
    let closing = store::as_of::balance(&mut *conn, of, cursor.known, before(cursor.to)).await?;
    moment::refuse_stale(&closing, &account.code)?;
    Ok(Balances { opening: opening.balance, closing: closing.balance })
}

async fn page(
    conn: &mut store::Connection,
    of: Of,
    heading: &Heading,
    mut cursor: Cursor,
    limit: i64,
) -> Result<Response, Problem> {
    let is_first = cursor.version == 0;
    let mut rows = store::as_of::lines(&mut *conn, of, cursor.lines(), limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let mut data = Vec::with_capacity(rows.len());
    for row in rows {
        let balance = cursor.pass(of.normal, &row).ok_or_else(|| disagree(&heading.account))?;
        data.push(LineOutput {
            effective_at: Timestamp(row.effective_at),
            recorded_at: Timestamp(row.recorded_at),
            position: row.position as Position,
            transaction_id: row.transaction_id,
            reference: row.reference,
            side: row.side,
            amount: AmountText(row.amount),
            balance: AmountText(balance),
        });
    }
    if !more && cursor.running != heading.closing {
        // The balance that a cursor brings is what we once gave, or somebody made it up.
        return Err(if is_first { disagree(&heading.account) } else { foreign_cursor() });
    }
    let output = StatementOutput {
        account: heading.account.clone(),
        asset: heading.asset.clone(),
        normal: heading.normal.as_str(),
        from: Timestamp(heading.from),
        to: Timestamp(heading.to),
        opening_balance: AmountText(heading.opening),
        closing_balance: AmountText(heading.closing),
        data,
        next: more.then(|| cursor.text()),
    };
    Ok(answer(StatusCode::OK, &output, Some(heading.position), false))
}

/// Projections that `verify` would complain of.
fn disagree(account: &str) -> Problem {
    tracing::error!(account, "the lines of a statement do not amount to its closing balance; run `steelyard verify`");
    Problem::new(Code::InternalError, "the lines do not amount to the closing balance")
}

fn whole(app: SharedApp, of: Of, heading: Heading, cursor: Cursor, form: Form) -> Response {
    let (position, file) = (heading.position, statement::file_name(&heading.account));
    let mut response = Response::new(Body::from_stream(text(app, of, heading, cursor, form)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    headers.insert(LEDGER_POSITION, HeaderValue::from(position));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    match form {
        Form::Html => {
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        }
        Form::Csv => {
            if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{file}\"")) {
                headers.insert(header::CONTENT_DISPOSITION, value);
            }
        }
    }
    response
}

/// What ends the body of an answer early.
#[derive(Debug, thiserror::Error)]
#[error("the statement could not be finished")]
struct BrokenOff;

/// A statement piece by piece. One that cannot be finished breaks off, so that
/// the client sees that it is not whole.
fn text(
    app: SharedApp,
    of: Of,
    heading: Heading,
    mut cursor: Cursor,
    form: Form,
) -> impl Stream<Item = Result<Bytes, BrokenOff>> {
    // Polled when the request's span is left, and what is logged then belongs to it all the same.
    let span = tracing::Span::current();
    let broken = move |account: &str, error: &dyn std::fmt::Display| {
        let _in = span.enter();
        tracing::warn!(account, %error, "a statement broke off");
        BrokenOff
    };
    async_stream::try_stream! {
        let mut out = String::new();
        form.begin(&heading, &mut out);
        loop {
            let rows = store::as_of::lines(app.worker.database.pool(), of, cursor.lines(), CHUNK_LINES).await;
            let rows = rows.map_err(|error| broken(&heading.account, &error))?;
            for row in &rows {
                let passed = cursor.pass(of.normal, row);
                let balance = passed.ok_or_else(|| broken(&heading.account, &"a balance has too many digits"))?;
                form.line(&heading, Line { row, balance }, &mut out);
            }
            if rows.len() < CHUNK_LINES as usize {
                break;
            }
            yield Bytes::from(std::mem::take(&mut out));
        }
        if cursor.running != heading.closing {
            Err(broken(&heading.account, &"its lines do not amount to its closing balance"))?;
        }
        form.end(&heading, &mut out);
        yield Bytes::from(out);
    }
}

/// Where a statement goes on: whose it is, what it knows, its period, the last line and the balance after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    /// Accounts are numbered within their ledger.
    account: (LedgerId, i64),
    known: i64,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    at: DateTime<Utc>,
    version: i64,
    running: Amount,
}

/// Letter of this list's cursors.
const STATEMENT_CURSOR: char = 's';

impl Cursor {
    fn is_of(&self, of: Of) -> bool {
        self.account == (of.ledger_id, of.account_id)
    }

    fn lines(&self) -> Lines {
        Lines { known: self.known, after: (self.at, self.version), to: self.to }
    }

    /// Goes on to a line, and answers the balance after it.
    fn pass(&mut self, normal: Side, row: &LineRow) -> Option<Amount> {
        let rises = row.side == normal.as_str();
        let running = self.running;
        self.running = if rises { running.checked_add(row.amount)? } else { running.checked_sub(row.amount)? };
        (self.at, self.version) = (row.effective_at, row.version);
        Some(self.running)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(STATEMENT_CURSOR)?.split(',');
        let mut number = || parts.next()?.parse::<i64>().ok();
        let account = (number()?.try_into().ok()?, number()?);
        let (known, from_us, to_us, at_us, version) = (number()?, number()?, number()?, number()?, number()?);
        let running = parts.next()?.parse().ok()?;
        // As far as times are RFC 3339.
        let time = |us: i64| DateTime::from_timestamp_micros(us).filter(|time| (0..=9_999).contains(&time.year()));
        let (from, to, at) = (time(from_us)?, time(to_us)?, time(at_us)?);
        let fits = parts.next().is_none() && known >= 0 && version >= 0 && from < to && from <= at && at < to;
        fits.then_some(Self { account, known, from, to, at, version, running })
    }

    fn text(&self) -> String {
        let Self { account: (ledger, account), known, from, to, at, version, running } = self;
        let [from, to, at] = [from, to, at].map(DateTime::timestamp_micros);
        format!("{STATEMENT_CURSOR}{ledger},{account},{known},{from},{to},{at},{version},{running}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let time = |us| DateTime::from_timestamp_micros(us).unwrap();
        let (from, to, at) = (time(-1), time(9), time(3));
        let cursor = Cursor { account: (1, 4), known: 7, from, to, at, version: 2, running: Amount::MIN };
        assert_eq!(Cursor::read(&cursor.text()), Some(cursor));
        for wrong in [
            "",
            "s",
            "s1,4,7,0,9,3,2",
            "v1,4,7,0,9,3,2,1",
            "s1,4,7,9,0,3,2,1",
            "s1,4,7,0,9,9,2,1",
            "s1,4,7,0,9,3,2,1,1",
            "s2147483648,4,7,0,9,3,2,1",
        ] {
            assert_eq!(Cursor::read(wrong), None, "{wrong}");
        }
        assert_eq!(Cursor::read(&format!("s1,4,7,0,{},3,2,1", i64::MAX)), None);
    }

    #[test]
    fn a_month_begins_on_its_first_day_in_utc() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(month_of(time("2026-11-24T21:19:38.5Z")), time("2026-11-01T00:00:00Z"));
        assert_eq!(month_of(time("2026-12-01T00:00:00Z") - TICK), time("2026-11-01T00:00:00Z"));
    }
}
