//! `steelyard account-types`, `steelyard limits` and `steelyard period`: the rules of a ledger.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::account::{Limit, Normal, parse_limit, parse_time};
use super::client::{Answer, ApiArgs, Client};
use super::output::{self, Column, Output, printable};
use crate::ledger::rule::{ROLLING_S_MAX, ROLLING_S_MIN};

/// Rules of one sort that a ledger may have.
const RULES_MAX: usize = 1_000;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct AccountTypesArgs {
    #[command(subcommand)]
    command: AccountTypesCommand,
}

#[derive(Debug, Subcommand)]
enum AccountTypesCommand {
    Set(SetTypeArgs),
    /// Remove an account type. Accounts that are open stay as they are.
    Remove(RuleArgs),
    /// List the account types.
    List(ListArgs),
}

const SET_TYPE_EXAMPLES: &str = "\
Examples:
  steelyard account-types set bank: --normal debit --min-balance none
  steelyard account-types set wallet: --max-balance 1000000";

/// Say what accounts begin with whose names begin so, unless their opening says otherwise.
///
/// The longest prefix counts. Setting it again replaces all of it; accounts that are open stay as they are.
#[derive(Debug, Args)]
#[command(after_help = SET_TYPE_EXAMPLES)]
struct SetTypeArgs {
    /// What the accounts' names begin with, such as `wallet:`.
    prefix: String,

    /// The side that makes the balance grow: credit for what is owed to others, debit for what is owned.
    #[arg(long, value_enum, default_value_t = Normal::Credit)]
    normal: Normal,

    /// Lowest balance, in the asset's smallest unit. Negative is an overdraft limit; `none` is no limit.
    #[arg(long, value_name = "N|none", default_value = "0", allow_hyphen_values = true, value_parser = parse_limit)]
    min_balance: Limit,

    /// Highest balance, in the asset's smallest unit, or `none`.
    #[arg(long, value_name = "N|none", default_value = "none", allow_hyphen_values = true, value_parser = parse_limit)]
    max_balance: Limit,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
struct RuleArgs {
    /// The prefix or the name under which it was set.
    name: String,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct LimitsArgs {
    #[command(subcommand)]
    command: LimitsCommand,
}

#[derive(Debug, Subcommand)]
enum LimitsCommand {
    Set(Box<SetLimitArgs>),
    /// Remove a limit.
    Remove(RuleArgs),
    /// List the limits.
    List(ListArgs),
}

const SET_LIMIT_EXAMPLES: &str = "\
Examples:
  steelyard limits set daily-out --prefix wallet: --direction out --day Europe/Zurich --asset EUR --amount-max 100000
  steelyard limits set burst --account wallet:alice --direction out --rolling 3600 --count-max 10";

/// Limit how much moves within a window of time, on one account or on each below a prefix.
///
/// Setting another value under the same name replaces the limit, and begins its counting anew.
#[derive(Debug, Args)]
#[command(after_help = SET_LIMIT_EXAMPLES)]
#[command(group = clap::ArgGroup::new("scope").required(true))]
#[command(group = clap::ArgGroup::new("window").required(true))]
#[command(group = clap::ArgGroup::new("most").required(true).multiple(true))]
struct SetLimitArgs {
    /// A name of your own; what is declined names it.
    name: String,

    /// The account that it is for.
    #[arg(long, group = "scope")]
    account: Option<String>,

    /// Each account whose name begins so has the limit for itself.
    #[arg(long, group = "scope")]
    prefix: Option<String>,

    /// Only accounts of this asset.
    #[arg(long)]
    asset: Option<String>,

    /// What is counted: `out` lowers the balance, `in` raises it.
    #[arg(long, value_enum)]
    direction: Direction,

    /// A window of so many seconds that rolls along.
    #[arg(long, value_name = "SECONDS", group = "window", value_parser = clap::value_parser!(u32).range(i64::from(ROLLING_S_MIN)..=i64::from(ROLLING_S_MAX)))]
    rolling: Option<u32>,

    /// A calendar day in this time zone, such as Europe/Zurich.
    #[arg(long, value_name = "ZONE", group = "window")]
    day: Option<String>,

    /// How many times at most within the window.
    #[arg(long, value_name = "N", group = "most", value_parser = clap::value_parser!(u32).range(1..))]
    count_max: Option<u32>,

    /// How much at most within the window, in the asset's smallest unit.
    #[arg(long, value_name = "N", group = "most", requires = "asset")]
    amount_max: Option<String>,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Direction {
    Out,
    In,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct PeriodArgs {
    #[command(subcommand)]
    command: PeriodCommand,
}

#[derive(Debug, Subcommand)]
enum PeriodCommand {
    Close(ClosePeriodArgs),
    /// Show before which time everything is closed, and when that was done.
    Show(ListArgs),
}

/// Close the books up to a time, for good: nothing can become effective before it any more.
#[derive(Debug, Args)]
struct ClosePeriodArgs {
    /// The first moment that stays open: RFC 3339, or a date for its beginning in UTC. Not in the future.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: String,

    #[command(flatten)]
    api: ApiArgs,
}

pub async fn account_types(args: AccountTypesArgs, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        AccountTypesCommand::Set(args) => {
            let body = json!({
                "normal": args.normal.as_str(),
                "min_balance": args.min_balance.0,
                "max_balance": args.max_balance.0,
            });
            set(&args.api, &["account-types", &args.prefix], &body, account_type_table, output).await?;
        }
        AccountTypesCommand::Remove(args) => remove(&args, "account-types", output).await?,
        AccountTypesCommand::List(args) => list(&args, "account-types", account_type_table, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn limits(args: LimitsArgs, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        LimitsCommand::Set(args) => {
            let body = limit_body(&args);
            set(&args.api, &["velocity-limits", &args.name], &body, limit_table, output).await?;
        }
        LimitsCommand::Remove(args) => remove(&args, "velocity-limits", output).await?,
        LimitsCommand::List(args) => list(&args, "velocity-limits", limit_table, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn limit_body(args: &SetLimitArgs) -> Value {
    let direction = match args.direction {
        Direction::Out => "out",
        Direction::In => "in",
    };
    let window = match (args.rolling, &args.day) {
        (Some(seconds), _) => json!({"rolling_s": seconds}),
        (None, zone) => json!({"day": zone}),
    };
    let members = [
        ("account", json!(args.account)),
        ("prefix", json!(args.prefix)),
        ("asset", json!(args.asset)),
        ("direction", json!(direction)),
        ("window", window),
        ("count_max", json!(args.count_max)),
        ("amount_max", json!(args.amount_max)),
    ];
    let said = members.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

async fn set(
    api: &ApiArgs,
    segments: &[&str],
    body: &Value,
    table: fn(&[Value]) -> anyhow::Result<Table>,
    output: &Output,
) -> anyhow::Result<()> {
    let answer: Answer<Value> = Client::new(api)?.change(Method::PUT, segments, Some(body)).await?;
    if output.is_json() {
        return output.print_json(&answer.body);
    }
    output.note(if answer.status == StatusCode::CREATED { "set; it is new" } else { "set; it was there before" });
    output.print_table(&table(&[answer.body])?)
}

async fn remove(args: &RuleArgs, list: &str, output: &Output) -> anyhow::Result<()> {
    let answer = Client::new(&args.api)?.change(Method::DELETE, &[list, &args.name], None).await?;
    if output.is_json() {
        return output.print_json(&answer.body);
    }
    output.note("removed");
    Ok(())
}

async fn list(
    args: &ListArgs,
    list: &str,
    table: fn(&[Value]) -> anyhow::Result<Table>,
    output: &Output,
) -> anyhow::Result<()> {
    let page = Client::new(&args.api)?.list(&[list], &[], RULES_MAX).await?;
    if output.is_json() {
        return output.print_json(&json!({"data": page.data, "next": page.next}));
    }
    output.print_table(&table(&page.data)?)
}

pub async fn period(args: PeriodArgs, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        PeriodCommand::Close(args) => {
            let body = json!({"before": args.before});
            let answer = Client::new(&args.api)?.change(Method::POST, &["periods", "close"], Some(&body)).await?.body;
            if output.is_json() {
                output.print_json(&answer)?;
            } else {
                output.print_table(&output::facts([("closed before", text(&answer["closed_before"]))]))?;
            }
        }
        PeriodCommand::Show(args) => {
            let periods = Client::new(&args.api)?.get(&["periods"], &[]).await?;
            if output.is_json() {
                output.print_json(&periods)?;
            } else {
                output.print_table(&period_table(&periods)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Deserialize)]
struct AccountType {
    prefix: String,
    normal: String,
    min_balance: Option<String>,
    max_balance: Option<String>,
    set_at: String,
}

fn account_type_table(types: &[Value]) -> anyhow::Result<Table> {
    let mut table = output::table(&[
        Column::Text("PREFIX"),
        Column::Text("NORMAL"),
        Column::Number("MIN BALANCE"),
        Column::Number("MAX BALANCE"),
        Column::Text("SET AT"),
    ]);
    for item in types {
        let item = AccountType::deserialize(item).context("the answer is not a list of account types")?;
        let bound = |bound: Option<String>| bound.unwrap_or_else(|| "none".to_owned());
        table.add_row([
            printable(&item.prefix),
            printable(&item.normal),
            bound(item.min_balance),
            bound(item.max_balance),
            printable(&item.set_at),
        ]);
    }
    Ok(table)
}

#[derive(Debug, Deserialize)]
struct VelocityLimit {
    name: String,
    account: Option<String>,
    prefix: Option<String>,
    asset: Option<String>,
    direction: String,
    window: Window,
    count_max: Option<u32>,
    amount_max: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Window {
    RollingS(u32),
    Day(String),
}

fn limit_table(limits: &[Value]) -> anyhow::Result<Table> {
    let mut table = output::table(&[
        Column::Text("LIMIT"),
        Column::Text("ACCOUNTS"),
        Column::Text("ASSET"),
        Column::Text("DIRECTION"),
        Column::Text("WINDOW"),
        Column::Number("COUNT MAX"),
        Column::Number("AMOUNT MAX"),
    ]);
    for item in limits {
        let item = VelocityLimit::deserialize(item).context("the answer is not a list of limits")?;
        let accounts = item.account.unwrap_or_else(|| format!("{}*", item.prefix.unwrap_or_default()));
        let window = match item.window {
            Window::RollingS(seconds) => format!("{seconds} s"),
            Window::Day(zone) => format!("day in {zone}"),
        };
        table.add_row([
            printable(&item.name),
            printable(&accounts),
            printable(item.asset.as_deref().unwrap_or("all")),
            printable(&item.direction),
            printable(&window),
            item.count_max.map(|count| count.to_string()).unwrap_or_default(),
            item.amount_max.unwrap_or_default(),
        ]);
    }
    Ok(table)
}

fn period_table(periods: &Value) -> anyhow::Result<Table> {
    let history = periods["history"].as_array().context("the answer is not a list of periods")?;
    let mut table =
        output::table(&[Column::Text("CLOSED BEFORE"), Column::Number("POSITION"), Column::Text("RECORDED AT")]);
    for closing in history {
        table.add_row([text(&closing["before"]), closing["position"].to_string(), text(&closing["recorded_at"])]);
    }
    Ok(table)
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut table: Table) -> Vec<String> {
        table.force_no_tty();
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn a_limit_is_one_line() {
        let limit = json!({
            "name": "daily", "account": null, "prefix": "wallet:", "asset": "EUR", "direction": "out",
            "window": {"day": "Europe/Zurich"}, "count_max": null, "amount_max": "100000", "position": 7, "set_at": "x",
        });
        assert_eq!(
            lines(limit_table(&[limit]).unwrap()),
            [
                "LIMIT  ACCOUNTS  ASSET  DIRECTION  WINDOW                COUNT MAX  AMOUNT MAX",
                "daily  wallet:*  EUR    out        day in Europe/Zurich                 100000",
            ]
        );
    }

    #[test]
    fn an_account_type_without_limits_says_so() {
        let item = json!({
            "prefix": "bank:", "normal": "debit", "min_balance": null, "max_balance": null, "position": 7, "set_at": "x",
        });
        assert_eq!(
            lines(account_type_table(&[item]).unwrap()),
            ["PREFIX  NORMAL  MIN BALANCE  MAX BALANCE  SET AT", "bank:   debit          none         none  x"]
        );
    }
}
