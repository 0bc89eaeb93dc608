//! `steelyard transaction post`, and what becomes of a transaction later: `capture`, `void`, `reverse`, `cancel` and
//! `transaction show`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::account::{parse_metadata, parse_time};
use super::client::{ApiArgs, Client};
use super::legs::LegsArgs;
use super::output::{self, Column, Output, printable};
use super::pay::{new_idempotency_key, parse_idempotency_key};

/// What can be said with what posts or is declined.
#[derive(Debug, Args)]
struct NotesArgs {
    /// Your reference, which statements show.
    #[arg(long)]
    reference: Option<String>,

    /// A text for people.
    #[arg(long)]
    description: Option<String>,

    /// A JSON object to keep with it.
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Value>,
}

/// What everything that moves money takes.
#[derive(Debug, Args)]
struct SubmitArgs {
    /// Names this request: the same key never acts twice. Made up and printed when it is left out.
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    idempotency_key: Option<String>,

    #[command(flatten)]
    api: ApiArgs,
}

const CAPTURE_EXAMPLES: &str = "\
Examples:
  steelyard capture 01a205a2-4396-79f4-a3be-ea2cee9b6faa
  steelyard capture 01a205a2-4396-79f4-a3be-ea2cee9b6faa --amount 700
  steelyard capture 01a205a2-4396-79f4-a3be-ea2cee9b6faa --amount 300 --final";

/// Post what a payment with --capture manual has reserved: all of it, or a part.
///
/// It may be captured in parts, until nothing is left or one of them is the final one.
#[derive(Debug, Args)]
#[command(after_help = CAPTURE_EXAMPLES)]
pub struct CaptureArgs {
    /// The payment's id.
    id: Uuid,

    /// How much, in the asset's smallest unit; all that remains without it.
    #[arg(long, value_name = "N")]
    amount: Option<String>,

    /// Give back what then remains.
    #[arg(long)]
    r#final: bool,

    #[command(flatten)]
    notes: NotesArgs,

    #[command(flatten)]
    submit: SubmitArgs,
}

/// Give back what a payment with --capture manual has reserved and what was not captured.
#[derive(Debug, Args)]
pub struct VoidArgs {
    /// The payment's id.
    id: Uuid,

    #[command(flatten)]
    submit: SubmitArgs,
}

/// Take back what a transaction has posted: all that is left of it, or a part.
#[derive(Debug, Args)]
pub struct ReverseArgs {
    /// The transaction's id.
    id: Uuid,

    /// How much of a transaction of two legs, in the asset's smallest unit; all that is left without it.
    #[arg(long, value_name = "N")]
    amount: Option<String>,

    /// Reverse it even if a balance falls below its floor. The log says that it was forced. Needs a key with the
    /// role admin.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    notes: NotesArgs,

    #[command(flatten)]
    submit: SubmitArgs,
}

/// Withdraw a transaction that is scheduled and not posted yet.
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The transaction's id.
    id: Uuid,

    #[command(flatten)]
    submit: SubmitArgs,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct TransactionArgs {
    #[command(subcommand)]
    command: TransactionCommand,
}

#[derive(Debug, Subcommand)]
enum TransactionCommand {
    Post(Box<PostArgs>),
    Show(ShowArgs),
}

const POST_EXAMPLES: &str = "\
Examples:
  steelyard transaction post --debit wallet:alice 1000 EUR \\
      --credit shop 970 EUR --credit fees 30 EUR --reference \"order 8\"
  steelyard transaction post --debit wallet:alice 200 EUR --credit fx:eur 200 EUR \\
      --debit fx:usd 217 USD --credit alice:usd 217 USD --rate EUR USD 1.0845 -0.1

One whose outcome is in doubt is safe to repeat with the key that was printed, as --idempotency-key.";

/// Post a transaction of two or more legs, whose debits equal their credits for each asset: all of them, or none.
///
/// It is tried again with the same idempotency key while the service is unavailable, so it is posted at most once.
#[derive(Debug, Args)]
#[command(after_help = POST_EXAMPLES)]
struct PostArgs {
    #[command(flatten)]
    legs: LegsArgs,

    /// When it counts for the books: RFC 3339, or a date for its beginning in UTC. In the future it is scheduled for then.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    effective_at: Option<String>,

    #[command(flatten)]
    notes: NotesArgs,

    #[command(flatten)]
    submit: SubmitArgs,
}

/// Show one transaction with its legs, and what became of it.
#[derive(Debug, Args)]
struct ShowArgs {
    /// The transaction's id.
    id: Uuid,

    #[command(flatten)]
    api: ApiArgs,
}

pub async fn capture(args: CaptureArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let own = [("amount", json!(args.amount)), ("final", or_null(args.r#final))];
    submit(&["payments", &args.id.to_string(), "capture"], with_notes(own, args.notes), args.submit, output).await
}

pub async fn void(args: VoidArgs, output: &Output) -> anyhow::Result<ExitCode> {
    submit(&["payments", &args.id.to_string(), "void"], json!({}), args.submit, output).await
}

pub async fn reverse(args: ReverseArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let own = [("amount", json!(args.amount)), ("force", or_null(args.force))];
    submit(&["transactions", &args.id.to_string(), "reverse"], with_notes(own, args.notes), args.submit, output).await
}

pub async fn cancel(args: CancelArgs, output: &Output) -> anyhow::Result<ExitCode> {
    submit(&["transactions", &args.id.to_string(), "cancel"], json!({}), args.submit, output).await
}

pub async fn run(args: TransactionArgs, output: &Output) -> anyhow::Result<ExitCode> {
    match args.command {
        TransactionCommand::Post(args) => post(*args, output).await,
        TransactionCommand::Show(args) => show(args, output).await,
    }
}

async fn post(args: PostArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let PostArgs { legs, effective_at, notes, submit: to } = args;
    let own = [("legs", legs.legs()?), ("rates", legs.rates()), ("effective_at", json!(effective_at))];
    submit(&["transactions"], with_notes(own, notes), to, output).await
}

async fn show(args: ShowArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let transaction = Client::new(&args.api)?.get(&["transactions", &args.id.to_string()], &[]).await?;
    print(&transaction, output)?;
    Ok(ExitCode::SUCCESS)
}

/// What is not said is left out of a body.
fn or_null(said: bool) -> Value {
    if said { Value::Bool(true) } else { Value::Null }
}

/// A body of what is said.
fn with_notes<const N: usize>(own: [(&str, Value); N], notes: NotesArgs) -> Value {
    let notes = [
        ("reference", json!(notes.reference)),
        ("description", json!(notes.description)),
        ("metadata", json!(notes.metadata)),
    ];
    let said = own.into_iter().chain(notes).filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

async fn submit(segments: &[&str], body: Value, args: SubmitArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let key = args.idempotency_key.unwrap_or_else(new_idempotency_key);
    let client = Client::new(&args.api)?;
    // Before the request, so that the key is known even if this process is killed before the answer.
    output.note(&format!("idempotency key: {key}"));
    let answer = client.submit(segments, &body, &key).await?;
    if answer.replayed && !output.is_json() {
        output.note("this had been done before with the same key; nothing was done again");
    }
    print(&answer.body, output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a transaction as the API gives it: in any state, alone or with what it is about.
pub(super) fn print(transaction: &Value, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.print_json(transaction);
    }
    output.print_table(&facts(transaction)?)?;
    for table in
        [legs(transaction), rates(transaction), balances(transaction), links(transaction)].into_iter().flatten()
    {
        output.print_line("")?;
        output.print_table(&table)?;
    }
    Ok(())
}

/// Members of a transaction that are shown, where they are there.
const FACTS: [(&str, &str); 19] = [
    ("type", "/type"),
    ("status", "/status"),
    ("reason", "/reason"),
    ("because", "/rejection/detail"),
    ("of payment", "/payment/id"),
    ("payment now", "/payment/status"),
    ("payment left", "/payment/remaining"),
    ("of transaction", "/reverses/id"),
    ("forced", "/forced"),
    ("from", "/from"),
    ("to", "/to"),
    ("captured", "/captured"),
    ("remaining", "/remaining"),
    ("released", "/released"),
    ("expires at", "/expires_at"),
    ("position", "/position"),
    ("recorded at", "/recorded_at"),
    ("reference", "/reference"),
    ("description", "/description"),
];

fn facts(transaction: &Value) -> anyhow::Result<Table> {
    let id = transaction["id"].as_str().context("the answer is not a transaction")?;
    let mut rows = vec![("transaction", printable(id))];
    for (name, pointer) in FACTS {
        // That it is a payment goes without saying.
        let said = |value: &&Value| pointer != "/type" || **value != "payment";
        rows.extend(transaction.pointer(pointer).filter(said).and_then(shown).map(|value| (name, value)));
        if name == "to"
            && let Some(amount) = shown(&transaction["amount"])
        {
            rows.push(("amount", format!("{amount} {}", shown(&transaction["asset"]).unwrap_or_default())));
        }
        // Of most it is when they were recorded.
        let effective_at = shown(&transaction["effective_at"]);
        if name == "recorded at" && effective_at != shown(&transaction["recorded_at"]) {
            rows.extend(effective_at.map(|at| ("effective at", at)));
        }
    }
    Ok(output::facts(rows))
}

/// A value as a person reads it; `None` for null.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(true) => Some("yes".to_owned()),
        Value::Bool(false) => Some("no".to_owned()),
        Value::String(text) => Some(printable(text)),
        other => Some(printable(&other.to_string())),
    }
}

fn legs(transaction: &Value) -> Option<Table> {
    let legs = transaction["legs"].as_array()?;
    let mut table = output::table(&[
        Column::Text("ACCOUNT"),
        Column::Text("SIDE"),
        Column::Number("AMOUNT"),
        Column::Text("ASSET"),
        Column::Number("BALANCE AFTER"),
    ]);
    for leg in legs {
        table.add_row(
            ["account", "side", "amount", "asset", "balance_after"].map(|name| shown(&leg[name]).unwrap_or_default()),
        );
    }
    Some(table)
}

/// The exchange rates that it states.
fn rates(transaction: &Value) -> Option<Table> {
    let rates = transaction["rates"].as_array().filter(|rates| !rates.is_empty())?;
    let mut table =
        output::table(&[Column::Text("FROM"), Column::Text("TO"), Column::Number("RATE"), Column::Number("REMAINDER")]);
    for rate in rates {
        table.add_row(["from", "to", "rate", "remainder"].map(|name| shown(&rate[name]).unwrap_or_default()));
    }
    Some(table)
}

/// The balances that a transaction left behind; what is pending only where it says so.
pub(super) fn balances(transaction: &Value) -> Option<Table> {
    let balances = transaction["balances"].as_object()?;
    let with_pending = balances.values().any(|balance| balance["pending_out"].is_string());
    let mut columns = vec![Column::Text("ACCOUNT"), Column::Number("POSTED")];
    let mut members = vec!["posted"];
    if with_pending {
        columns.extend([Column::Number("PENDING IN"), Column::Number("PENDING OUT")]);
        members.extend(["pending_in", "pending_out"]);
    }
    columns.extend([Column::Number("AVAILABLE"), Column::Number("VERSION")]);
    members.extend(["available", "version"]);
    let mut table = output::table(&columns);
    for (account, balance) in balances {
        let values = members.iter().map(|member| shown(&balance[*member]).unwrap_or_default());
        table.add_row(std::iter::once(printable(account)).chain(values));
    }
    Some(table)
}

/// Captures and reversals of a transaction.
fn links(transaction: &Value) -> Option<Table> {
    let of = |name: &str, what: &'static str| {
        let links = transaction[name].as_array().cloned().unwrap_or_default();
        links.into_iter().map(move |link| (what, link))
    };
    let mut links = of("captures", "capture").chain(of("reversals", "reversal")).peekable();
    links.peek()?;
    let mut table = output::table(&[
        Column::Text("LATER"),
        Column::Text("TRANSACTION"),
        Column::Number("AMOUNT"),
        Column::Number("POSITION"),
        Column::Text("RECORDED AT"),
    ]);
    for (what, link) in links {
        let values = ["id", "amount", "position", "recorded_at"].map(|name| shown(&link[name]).unwrap_or_default());
        table.add_row(std::iter::once(what.to_owned()).chain(values));
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut table: Table) -> Vec<String> {
        table.force_no_tty();
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn a_payment_is_shown_with_the_balances_after_it() {
        let payment = json!({
            "id": "0193", "type": "payment", "status": "posted", "from": "wallet:alice", "to": "wallet:bob",
            "amount": "1250", "asset": "EUR", "reference": "inv-1", "description": null, "metadata": {},
            "balances": {"wallet:alice": {"posted": "0", "available": "0", "version": 8},
                         "wallet:bob": {"posted": "1250", "available": "1250", "version": 1}},
            "position": 4712, "recorded_at": "r", "effective_at": "r",
        });
        assert_eq!(
            lines(facts(&payment).unwrap()),
            [
                "transaction  0193",
                "status       posted",
                "from         wallet:alice",
                "to           wallet:bob",
                "amount       1250 EUR",
                "position     4712",
                "recorded at  r",
                "reference    inv-1",
            ]
        );
        assert_eq!(lines(balances(&payment).unwrap())[2], "wallet:bob      1250       1250        1");
    }

    #[test]
    fn a_capture_says_what_is_left_of_its_payment() {
        let capture = json!({
            "id": "0194", "type": "capture", "status": "posted",
            "payment": {"id": "0193", "status": "authorised", "captured": "5", "remaining": "7"},
            "from": "a", "to": "b", "amount": "5", "asset": "EUR", "position": 9, "recorded_at": "r", "effective_at": "e",
            "balances": {"a": {"posted": "0", "pending_in": "0", "pending_out": "7", "available": "-7", "version": 1}},
        });
        let facts = lines(facts(&capture).unwrap());
        for line in ["of payment    0193", "payment now   authorised", "payment left  7", "effective at  e"] {
            assert!(facts.contains(&line.to_owned()), "{line}: {facts:#?}");
        }
        assert_eq!(
            lines(balances(&capture).unwrap()),
            [
                "ACCOUNT  POSTED  PENDING IN  PENDING OUT  AVAILABLE  VERSION",
                "a             0           0            7         -7        1"
            ]
        );
    }

    #[test]
    fn a_transaction_is_shown_with_its_legs_and_what_followed() {
        let transaction = json!({
            "id": "0193", "type": "payment", "status": "captured", "reason": null, "captured": "5", "remaining": "0",
            "legs": [{"account": "a", "side": "debit", "amount": "5", "asset": "EUR", "balance_after": null}],
            "captures": [{"id": "0194", "amount": "5", "position": 9, "recorded_at": "r"}],
            "position": 8, "recorded_at": "r", "effective_at": "r",
        });
        assert_eq!(lines(legs(&transaction).unwrap())[1], "a        debit       5  EUR");
        assert_eq!(lines(links(&transaction).unwrap())[1], "capture  0194              5         9  r");
        assert!(rates(&transaction).is_none());
        let exchange = json!({"rates": [{"from": "EUR", "to": "USD", "rate": "1.0845", "remainder": "-0.1"}]});
        assert_eq!(lines(rates(&exchange).unwrap())[1], "EUR   USD  1.0845       -0.1");
        assert!(balances(&transaction).is_none());
    }
}
