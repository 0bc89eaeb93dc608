//! `steelyard account update`, `freeze`, `unfreeze`, `close` and `reopen`.

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::account::{Limit, account_facts, parse_limit, parse_metadata};
use super::client::{ApiArgs, Client};
use super::output::Output;

const UPDATE_EXAMPLES: &str = "\
Examples:
  steelyard account update wallet:bob --min-balance -50000
  steelyard account update wallet:bob --max-balance none --metadata '{\"customer\": 17}'";

/// Change the limits or the metadata of an account.
///
/// What is not named stays as it is. A floor above what is available, or a cap below what is posted and pending, is
/// refused.
#[derive(Debug, Args)]
#[command(after_help = UPDATE_EXAMPLES)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(super) struct UpdateArgs {
    /// Name of the account.
    code: String,

    /// Lowest balance, in the asset's smallest unit. Negative is an overdraft limit; `none` is no limit.
    #[arg(long, value_name = "N|none", group = "change", allow_hyphen_values = true, value_parser = parse_limit)]
    min_balance: Option<Limit>,

    /// Highest balance, in the asset's smallest unit, or `none`.
    #[arg(long, value_name = "N|none", group = "change", allow_hyphen_values = true, value_parser = parse_limit)]
    max_balance: Option<Limit>,

    /// The JSON object to keep with the account, in place of the one that is there.
    #[arg(long, value_name = "JSON", group = "change", value_parser = parse_metadata)]
    metadata: Option<Value>,

    #[command(flatten)]
    api: ApiArgs,
}

/// Decline what would move on an account, until it is unfrozen.
///
/// Holds on it stay, and may be voided. Freezing it again replaces the scope and the reason.
#[derive(Debug, Args)]
pub(super) struct FreezeArgs {
    /// Name of the account.
    code: String,

    /// What is declined: all of its legs, only debits, or only credits.
    #[arg(long, value_enum, default_value_t = Scope::All)]
    scope: Scope,

    /// Why, for whoever looks at the account later.
    #[arg(long, value_name = "TEXT")]
    reason: String,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scope {
    All,
    Debits,
    Credits,
}

/// Lift the freeze of an account.
#[derive(Debug, Args)]
pub(super) struct UnfreezeArgs {
    /// Name of the account.
    code: String,

    /// Why, for whoever looks at the log later.
    #[arg(long, value_name = "TEXT")]
    reason: String,

    #[command(flatten)]
    api: ApiArgs,
}

/// Close an account, whose balance must be zero with nothing pending.
#[derive(Debug, Args)]
pub(super) struct CloseArgs {
    /// Name of the account.
    code: String,

    /// Why, for whoever looks at the log later.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    api: ApiArgs,
}

/// Reopen an account that was closed. A freeze that it had is still there.
#[derive(Debug, Args)]
pub(super) struct ReopenArgs {
    /// Name of the account.
    code: String,

    /// Why, for whoever looks at the log later.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn update(args: UpdateArgs, output: &Output) -> anyhow::Result<()> {
    let mut body = Map::new();
    let limits = [("min_balance", args.min_balance), ("max_balance", args.max_balance)];
    for (name, limit) in limits {
        if let Some(Limit(bound)) = limit {
            body.insert(name.to_owned(), json!(bound));
        }
    }
    if let Some(metadata) = args.metadata {
        body.insert("metadata".to_owned(), metadata);
    }
    change(&args.api, Method::PATCH, &["accounts", &args.code], &Value::Object(body), output).await
}

pub(super) async fn freeze(args: FreezeArgs, output: &Output) -> anyhow::Result<()> {
    let scope = match args.scope {
        Scope::All => "all",
        Scope::Debits => "debits",
        Scope::Credits => "credits",
    };
    let body = json!({"scope": scope, "reason": args.reason});
    change(&args.api, Method::POST, &["accounts", &args.code, "freeze"], &body, output).await
}

pub(super) async fn unfreeze(args: UnfreezeArgs, output: &Output) -> anyhow::Result<()> {
    let body = json!({"reason": args.reason});
    change(&args.api, Method::POST, &["accounts", &args.code, "unfreeze"], &body, output).await
}

pub(super) async fn close(args: CloseArgs, output: &Output) -> anyhow::Result<()> {
    let body = json!({"reason": args.reason});
    change(&args.api, Method::POST, &["accounts", &args.code, "close"], &body, output).await
}

pub(super) async fn reopen(args: ReopenArgs, output: &Output) -> anyhow::Result<()> {
    let body = json!({"reason": args.reason});
    change(&args.api, Method::POST, &["accounts", &args.code, "reopen"], &body, output).await
}

/// Changes the account, and shows it as it is then.
async fn change(api: &ApiArgs, method: Method, segments: &[&str], body: &Value, output: &Output) -> anyhow::Result<()> {
    let account = Client::new(api)?.change(method, segments, Some(body)).await?.body;
    if output.is_json() {
        return output.print_json(&account);
    }
    output.print_table(&account_facts(&account)?)
}
