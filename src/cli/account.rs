//! `steelyard account`: open, show, list, statement; what changes accounts is in [`super::account_changes`].

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::SecondsFormat;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::account_changes::{self, CloseArgs, FreezeArgs, ReopenArgs, UnfreezeArgs, UpdateArgs};
use super::client::{AccountRequest, ApiArgs, Client, Page};
use super::output::{self, Column, Output, printable};
use crate::http::time::time_or_date;
use crate::metadata;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct AccountArgs {
    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    Open(OpenArgs),
    Show(ShowArgs),
    List(ListArgs),
    Statement(StatementArgs),
    Update(UpdateArgs),
    Freeze(FreezeArgs),
    Unfreeze(UnfreezeArgs),
    Close(CloseArgs),
    Reopen(ReopenArgs),
}

const OPEN_EXAMPLES: &str = "\
Examples:
  steelyard account open wallet:alice --asset EUR
  steelyard account open bank:cash --asset EUR --normal debit --min-balance none
  steelyard account open wallet:bob --asset EUR --min-balance -50000 --metadata '{\"customer\": 17}'";

/// Open an account.
///
/// What is not said is as the account's type has it (`steelyard account-types`); without one it is a credit account with
/// a floor of 0 and no cap. Opening it again with the same attributes is fine and changes nothing; other attributes are
/// refused.
#[derive(Debug, Args)]
#[command(after_help = OPEN_EXAMPLES)]
struct OpenArgs {
    /// Name of the account: letters, digits and `: _ - . @ /`, at most 128.
    code: String,

    /// Asset of the account, such as EUR.
    #[arg(long)]
    asset: String,

    /// The side that makes the balance grow: credit for what is owed to others, debit for what is owned.
    #[arg(long, value_enum)]
    normal: Option<Normal>,

    /// Lowest balance, in the asset's smallest unit. Negative is an overdraft limit; `none` is no limit.
    #[arg(long, value_name = "N|none", allow_hyphen_values = true, value_parser = parse_limit)]
    min_balance: Option<Limit>,

    /// Highest balance, in the asset's smallest unit, or `none`.
    #[arg(long, value_name = "N|none", allow_hyphen_values = true, value_parser = parse_limit)]
    max_balance: Option<Limit>,

    /// A JSON object to keep with the account.
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Value>,

    #[command(flatten)]
    api: ApiArgs,
}

/// Show one account with its balance, exact at the head of the log or as of a moment.
#[derive(Debug, Args)]
struct ShowArgs {
    /// Name of the account.
    code: String,

    /// The balance as of this effective time: RFC 3339, or a date for its beginning in UTC.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    as_of: Option<String>,

    /// The balance as of this position of the log.
    #[arg(long, value_name = "N")]
    as_of_position: Option<u64>,

    #[command(flatten)]
    api: ApiArgs,
}

/// List accounts by name.
#[derive(Debug, Args)]
struct ListArgs {
    /// Only accounts whose name begins so, such as `wallet:`.
    #[arg(long)]
    prefix: Option<String>,

    /// Only accounts of this asset.
    #[arg(long)]
    asset: Option<String>,

    /// Only accounts in this state.
    #[arg(long, value_enum)]
    status: Option<Status>,

    /// How many accounts at most.
    #[arg(long, default_value_t = 100, value_parser = parse_list_limit)]
    limit: usize,

    #[command(flatten)]
    api: ApiArgs,
}

const STATEMENT_EXAMPLES: &str = "\
Examples:
  steelyard account statement wallet:alice
  steelyard account statement wallet:alice --from 2026-11-01 --to 2026-12-01
  steelyard account statement wallet:alice --from 2026-11-01 --format csv > november.csv
  steelyard account statement wallet:alice --format html > statement.html";

/// Print the entries of one account with the balance after each, or the statement of a period.
///
/// Entries are in the order in which they were recorded. The statement of a period (--from, --to or --format) has its
/// lines in the order of effective time, between an opening and a closing balance.
#[derive(Debug, Args)]
#[command(after_help = STATEMENT_EXAMPLES)]
struct StatementArgs {
    /// Name of the account.
    code: String,

    /// How many entries at most.
    #[arg(long, default_value_t = 100, value_parser = parse_list_limit)]
    limit: usize,

    /// `desc`: the newest first; `asc`: from the first entry on.
    #[arg(long, value_enum, default_value_t = Order::Desc)]
    order: Order,

    /// Beginning of the period: RFC 3339, or a date for its beginning in UTC. By default, that of the month of its end.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "order")]
    from: Option<String>,

    /// End of the period, not in it. By default now.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "order")]
    to: Option<String>,

    /// How the statement of a period is written; `csv` and `html` have all lines.
    #[arg(long, value_enum, conflicts_with = "order")]
    format: Option<Format>,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Normal {
    Credit,
    Debit,
}

impl Normal {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Debit => "debit",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Open,
    Frozen,
    Closed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    Asc,
    Desc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Html,
}

/// A limit of a balance; `None` means that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<String>);

/// The most items that one command fetches: they are held in memory, and a million rows are no reading for people.
const LIST_ITEMS_MAX: usize = 1_000_000;

/// The largest page that the API gives.
const PAGE_ITEMS_MAX: usize = 1_000;

/// Digits of the largest amount.
const AMOUNT_DIGITS_MAX: usize = 38;

fn parse_list_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=LIST_ITEMS_MAX).contains(&limit) => Ok(limit),
        _ => Err(format!("a number from 1 to {LIST_ITEMS_MAX}")),
    }
}

pub(super) fn parse_time(text: &str) -> Result<String, String> {
    let time = time_or_date(text).ok_or("a time such as 2026-11-22T20:13:04Z, or a date such as 2026-11-22")?;
    Ok(time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

pub(super) fn parse_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || digits.len() > AMOUNT_DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "a whole number in the asset's smallest unit with at most {AMOUNT_DIGITS_MAX} digits, or `none`"
        ));
    }
    Ok(Limit(Some(text.to_owned())))
}

/// A JSON object from the command line, refused where the service would refuse
/// it: what a [`Value`] does not hold must not get lost on the way there.
pub(super) fn parse_metadata(text: &str) -> Result<Value, String> {
    let not_json = |error: serde_json::Error| format!("it is not JSON: {error}");
    if !serde_json::from_str::<Value>(text).map_err(not_json)?.is_object() {
        return Err("it must be a JSON object, such as '{\"order\": 17}'".to_owned());
    }
    let kept = metadata::accept(text).map_err(|refused| format!("{}: {refused}", refused.pointer))?;
    kept.map_or_else(|| Ok(json!({})), |kept| serde_json::from_str(&kept).map_err(not_json))
}

pub async fn run(args: AccountArgs, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        AccountCommand::Open(args) => open(args, output).await?,
        AccountCommand::Show(args) => show(args, output).await?,
        AccountCommand::List(args) => list(args, output).await?,
        AccountCommand::Statement(args) => statement(args, output).await?,
        AccountCommand::Update(args) => account_changes::update(args, output).await?,
        AccountCommand::Freeze(args) => account_changes::freeze(args, output).await?,
        AccountCommand::Unfreeze(args) => account_changes::unfreeze(args, output).await?,
        AccountCommand::Close(args) => account_changes::close(args, output).await?,
        AccountCommand::Reopen(args) => account_changes::reopen(args, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(args: OpenArgs, output: &Output) -> anyhow::Result<()> {
    let request = AccountRequest {
        code: args.code,
        asset: args.asset,
        normal: args.normal.map(|normal| normal.as_str().to_owned()),
        min_balance: args.min_balance.map(|limit| limit.0),
        max_balance: args.max_balance.map(|limit| limit.0),
        metadata: args.metadata.unwrap_or_else(|| json!({})),
    };
    let answer = Client::new(&args.api)?.open_account(&request).await?;
    if output.is_json() {
        return output.print_json(&answer.body);
    }
    output.note(if answer.status == StatusCode::CREATED {
        "opened"
    } else {
        "was open already, with these attributes"
    });
    output.print_table(&account_facts(&answer.body)?)
}

async fn show(args: ShowArgs, output: &Output) -> anyhow::Result<()> {
    let position = args.as_of_position.map(|position| position.to_string());
    let filters = given([("as_of", &args.as_of), ("as_of_position", &position)]);
    let account = Client::new(&args.api)?.get(&["accounts", &args.code], &filters).await?;
    if output.is_json() {
        return output.print_json(&account);
    }
    output.print_table(&account_facts(&account)?)
}

async fn list(args: ListArgs, output: &Output) -> anyhow::Result<()> {
    let status = args.status.map(|status| match status {
        Status::Open => "open".to_owned(),
        Status::Frozen => "frozen".to_owned(),
        Status::Closed => "closed".to_owned(),
    });
    let filters = given([("prefix", &args.prefix), ("asset", &args.asset), ("status", &status)]);
    let page = Client::new(&args.api)?.list(&["accounts"], &filters, args.limit).await?;
    print_page(&page, account_table(&page.data)?, output)
}

/// Those query parameters that have a value.
fn given<'a, const N: usize>(filters: [(&'a str, &'a Option<String>); N]) -> Vec<(&'a str, &'a str)> {
    filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
}

async fn statement(args: StatementArgs, output: &Output) -> anyhow::Result<()> {
    if args.from.is_some() || args.to.is_some() || args.format.is_some() {
        return period(args, output).await;
    }
    let order = match args.order {
        Order::Asc => "asc",
        Order::Desc => "desc",
    };
    let client = Client::new(&args.api)?;
    let page = client.list(&["accounts", &args.code, "entries"], &[("order", order)], args.limit).await?;
    print_page(&page, statement_table(&page.data)?, output)
}

/// The statement of a period.
async fn period(args: StatementArgs, output: &Output) -> anyhow::Result<()> {
    let client = Client::new(&args.api)?;
    let segments = ["accounts", &args.code, "statement"];
    let format = match args.format {
        Some(Format::Csv) => Some("csv".to_owned()),
        Some(Format::Html) => Some("html".to_owned()),
        Some(Format::Table) | None => None,
    };
    let mut filters = given([("from", &args.from), ("to", &args.to), ("format", &format)]);
    if format.is_some() {
        return client.text(&segments, &filters, |piece| output.print_bytes(piece)).await;
    }
    // The first page says what the rest is of.
    let first = args.limit.min(PAGE_ITEMS_MAX).to_string();
    filters.push(("limit", &first));
    let mut statement = client.get(&segments, &filters).await?;
    let mut lines = statement["data"].as_array().cloned().unwrap_or_default();
    while let Some(next) = statement["next"].as_str().filter(|_| lines.len() < args.limit) {
        let (after, limit) = (next.to_owned(), (args.limit - lines.len()).min(PAGE_ITEMS_MAX).to_string());
        let page = client.get(&segments, &[("after", after.as_str()), ("limit", limit.as_str())]).await?;
        lines.extend(page["data"].as_array().cloned().unwrap_or_default());
        statement["next"] = page["next"].clone();
    }
    if output.is_json() {
        statement["data"] = Value::Array(lines);
        return output.print_json(&statement);
    }
    let fact = |name: &str| printable(statement[name].as_str().unwrap_or_default());
    output.print_table(&output::facts([
        ("account", fact("account")),
        ("asset", fact("asset")),
        ("from", fact("from")),
        ("to", fact("to")),
        ("opening balance", fact("opening_balance")),
        ("closing balance", fact("closing_balance")),
    ]))?;
    if !lines.is_empty() {
        output.print_line("")?;
        output.print_table(&period_table(&lines)?)?;
    }
    if statement["next"].is_string() {
        output.note(&format!("the first {}; there are more: --limit, or --format csv for all", lines.len()));
    }
    Ok(())
}

fn print_page(page: &Page, table: Table, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.print_json(&json!({ "data": page.data, "next": page.next }));
    }
    output.print_table(&table)?;
    if page.next.is_some() {
        output.note(&format!("the first {}; there are more: --limit", page.data.len()));
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Account {
    code: String,
    asset: String,
    normal: String,
    status: String,
    frozen: Option<Frozen>,
    min_balance: Option<String>,
    max_balance: Option<String>,
    #[serde(default)]
    metadata: Value,
    shard: Option<u32>,
    balance: Option<Balance>,
    opened_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Frozen {
    scope: String,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Balance {
    posted: String,
    pending_in: String,
    pending_out: String,
    available: String,
    debits_posted: String,
    credits_posted: String,
    version: u64,
    position: u64,
}

#[derive(Debug, Deserialize)]
struct Entry {
    position: u64,
    transaction_id: String,
    side: String,
    amount: String,
    balance_after: String,
    reference: Option<String>,
    recorded_at: String,
}

#[derive(Debug, Deserialize)]
struct Line {
    effective_at: String,
    position: u64,
    transaction_id: String,
    side: String,
    amount: String,
    balance: String,
    reference: Option<String>,
}

pub(super) fn account_facts(account: &Value) -> anyhow::Result<Table> {
    let account = Account::deserialize(account).context("the answer is not an account")?;
    let mut rows = vec![
        ("account", printable(&account.code)),
        ("asset", printable(&account.asset)),
        ("normal side", printable(&account.normal)),
        ("status", printable(&account.status)),
    ];
    if let Some(frozen) = account.frozen {
        rows.extend([("frozen", printable(&frozen.scope)), ("because", printable(&frozen.reason))]);
    }
    rows.extend([
        ("min balance", account.min_balance.unwrap_or_else(|| "none".to_owned())),
        ("max balance", account.max_balance.unwrap_or_else(|| "none".to_owned())),
    ]);
    if let Some(balance) = account.balance {
        rows.extend([
            ("posted", balance.posted),
            ("pending in", balance.pending_in),
            ("pending out", balance.pending_out),
            ("available", balance.available),
            ("debits posted", balance.debits_posted),
            ("credits posted", balance.credits_posted),
            ("version", balance.version.to_string()),
            ("as of position", balance.position.to_string()),
        ]);
    }
    rows.extend(account.shard.map(|shard| ("shard", shard.to_string())));
    rows.extend(account.opened_at.map(|opened_at| ("opened at", printable(&opened_at))));
    if account.metadata.as_object().is_some_and(|metadata| !metadata.is_empty()) {
        rows.push(("metadata", printable(&account.metadata.to_string())));
    }
    Ok(output::facts(rows))
}

fn account_table(accounts: &[Value]) -> anyhow::Result<Table> {
    let mut table = output::table(&[
        Column::Text("ACCOUNT"),
        Column::Text("ASSET"),
        Column::Text("NORMAL"),
        Column::Text("STATUS"),
        Column::Number("POSTED"),
        Column::Number("AVAILABLE"),
    ]);
    for account in accounts {
        let account = Account::deserialize(account).context("the answer is not a list of accounts")?;
        let (posted, available) =
            account.balance.map(|balance| (balance.posted, balance.available)).unwrap_or_default();
        table.add_row([
            printable(&account.code),
            printable(&account.asset),
            printable(&account.normal),
            printable(&account.status),
            posted,
            available,
        ]);
    }
    Ok(table)
}

fn statement_table(entries: &[Value]) -> anyhow::Result<Table> {
    let mut table = output::table(&[
        Column::Number("POSITION"),
        Column::Text("RECORDED AT"),
        Column::Text("TRANSACTION"),
        Column::Text("SIDE"),
        Column::Number("AMOUNT"),
        Column::Number("BALANCE"),
        Column::Text("REFERENCE"),
    ]);
    for entry in entries {
        let entry = Entry::deserialize(entry).context("the answer is not a list of entries")?;
        table.add_row([
            entry.position.to_string(),
            printable(&entry.recorded_at),
            printable(&entry.transaction_id),
            printable(&entry.side),
            entry.amount,
            entry.balance_after,
            printable(entry.reference.as_deref().unwrap_or("")),
        ]);
    }
    Ok(table)
}

fn period_table(lines: &[Value]) -> anyhow::Result<Table> {
    let mut table = output::table(&[
        Column::Text("EFFECTIVE AT"),
        Column::Number("POSITION"),
        Column::Text("TRANSACTION"),
        Column::Text("SIDE"),
        Column::Number("AMOUNT"),
        Column::Number("BALANCE"),
        Column::Text("REFERENCE"),
    ]);
    for line in lines {
        let line = Line::deserialize(line).context("the answer is not a statement")?;
        table.add_row([
            printable(&line.effective_at),
            line.position.to_string(),
            printable(&line.transaction_id),
            printable(&line.side),
            line.amount,
            line.balance,
            printable(line.reference.as_deref().unwrap_or("")),
        ]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut table: Table) -> Vec<String> {
        table.force_no_tty();
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn limits_are_whole_numbers_or_none() {
        assert_eq!(parse_limit("none"), Ok(Limit(None)));
        assert_eq!(parse_limit("-50000"), Ok(Limit(Some("-50000".to_owned()))));
        for wrong in ["", "-", "12.50", "1e3", "+5", &"9".repeat(39)] {
            assert!(parse_limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_rfc_3339_or_a_date() {
        assert_eq!(parse_time("2026-11-01").unwrap(), "2026-11-01T00:00:00.000000Z");
        assert_eq!(parse_time("2026-11-01T01:00:00+02:00").unwrap(), "2026-10-31T23:00:00.000000Z");
        for wrong in
            ["", "november", "2026-11", "2026-11-1", "2026-11-31", "2026-11-01T00:00:00", "2026-12-31T23:59:60Z"]
        {
            assert!(parse_time(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn metadata_is_a_json_object() {
        assert_eq!(parse_metadata(r#"{"order": 17}"#), Ok(json!({"order": 17})));
        assert!(parse_metadata("[1]").unwrap_err().contains("JSON object"));
        assert!(parse_metadata("{order}").unwrap_err().contains("not JSON"));
        assert!(parse_metadata(r#"{"order": 100000000000000000001}"#).unwrap_err().starts_with("/order: "));
        assert!(parse_metadata(r#"{"a": 1, "a": 2}"#).unwrap_err().starts_with("/a: "));
    }

    #[test]
    fn an_account_is_shown_with_its_balance() {
        let account = json!({
            "code": "wallet:alice", "asset": "EUR", "normal": "credit", "status": "open",
            "min_balance": "0", "max_balance": null, "metadata": {}, "shard": 17,
            "balance": {"posted": "1250", "pending_in": "0", "pending_out": "300", "available": "950",
                        "debits_posted": "750", "credits_posted": "2000", "version": 7, "position": 4711},
            "opened_at": "2026-11-22T20:13:04.123456Z",
        });
        let lines = lines(account_facts(&account).unwrap());
        assert_eq!(lines[0], "account         wallet:alice");
        assert!(lines.contains(&"max balance     none".to_owned()), "{lines:#?}");
        assert!(lines.contains(&"available       950".to_owned()), "{lines:#?}");
    }

    #[test]
    fn a_frozen_account_says_what_is_declined_and_why() {
        let account = json!({
            "code": "wallet:alice", "asset": "EUR", "normal": "credit", "status": "frozen",
            "frozen": {"scope": "debits", "reason": "court order"}, "min_balance": "0", "max_balance": null,
        });
        let lines = lines(account_facts(&account).unwrap());
        assert_eq!(lines[3..6], ["status       frozen", "frozen       debits", "because      court order"]);
    }

    #[test]
    fn a_statement_has_one_line_for_each_entry() {
        let entry = json!({
            "position": 4712, "transaction_id": "0193", "side": "debit", "amount": "1250", "balance_after": "0",
            "version": 8, "reference": "inv-1", "effective_at": "x", "recorded_at": "2026-11-22T20:13:04.123456Z",
        });
        assert_eq!(
            lines(statement_table(&[entry]).unwrap()),
            [
                "POSITION  RECORDED AT                  TRANSACTION  SIDE   AMOUNT  BALANCE  REFERENCE",
                "    4712  2026-11-22T20:13:04.123456Z  0193         debit    1250        0  inv-1",
            ]
        );
    }
}
