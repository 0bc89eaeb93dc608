//! `steelyard keys`: create, list, revoke. On the database itself, as `verify` does, since who may make keys is who may
//! do everything there; a running server knows within two seconds.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::database::DatabaseArgs;
use super::output::{Column, Output, facts, printable, table};
use crate::clock::{Clock, IdSource, SystemClock};
use crate::store::api_keys::{self, KeyRow, NewKey, Role};
use crate::store::ledgers;

/// Characters that a key's name may have, as in the database.
const NAME_CHARS_MAX: usize = 128;

/// The longest life that can be asked for: ten years. A key that is to live longer has no end.
const EXPIRES_IN_MAX: Duration = Duration::from_secs(3_650 * 24 * 3_600);

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    Create(CreateArgs),
    /// List all keys, those that were revoked or have expired too, and when they were used last.
    List(DatabaseArgs),
    Revoke(RevokeArgs),
}

const CREATE_EXAMPLES: &str = "\
Examples:
  steelyard keys create --name shop-backend --role submit --ledger main
  steelyard keys create --name grafana --role read --expires-in 90d
  export STEELYARD_API_KEY=$(steelyard --json keys create --name me --role admin | jq -r .key)";

/// Make an API key, and show it this once.
///
/// Only a hash of it is kept. As soon as there is a key, every server of this database asks for one.
#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLES)]
struct CreateArgs {
    /// Who or what will use it, for those who read the list later.
    #[arg(long, value_parser = parse_name)]
    name: String,

    /// What it allows.
    #[arg(long, value_enum)]
    role: RoleArg,

    /// The one ledger that it is good for; all without it.
    #[arg(long, value_name = "LEDGER")]
    ledger: Option<String>,

    /// How long it is good for, such as 90d, 12h or 30m; for ever without it.
    #[arg(long, value_name = "TIME", value_parser = parse_expires_in)]
    expires_in: Option<Duration>,

    #[command(flatten)]
    database: DatabaseArgs,
}

/// Take an API key back, for good. Every server refuses it within two seconds.
#[derive(Debug, Args)]
struct RevokeArgs {
    /// The key's id, from `steelyard keys list`; not the key itself.
    id: Uuid,

    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    /// Read everything.
    Read,
    /// Read, pay, open accounts.
    Submit,
    /// Everything: changing accounts, rules and periods, creating ledgers and defining assets included.
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Read => Self::Read,
            RoleArg::Submit => Self::Submit,
            RoleArg::Admin => Self::Admin,
        }
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().count() > NAME_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {NAME_CHARS_MAX} characters, none of them a control character"));
    }
    Ok(text.to_owned())
}

fn parse_expires_in(text: &str) -> Result<Duration, String> {
    let explain = || "write a whole number and s, m, h, d or w, for example 90d".to_owned();
    let unit = text.chars().next_back().ok_or_else(explain)?;
    let unit_s: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(explain()),
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(explain());
    }
    let number: u64 = digits.parse().map_err(|_| explain())?;
    let life = Duration::from_secs(number.saturating_mul(unit_s));
    if life.is_zero() || life > EXPIRES_IN_MAX {
        return Err("a key lives up to ten years (3650d); without --expires-in, for ever".to_owned());
    }
    Ok(life)
}

pub async fn run(args: KeysArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let opened = match &args.command {
        // A key may come before the first start of a server that asks for one.
        KeysCommand::Create(create) => create.database.open().await?,
        KeysCommand::List(database) => database.open_existing().await?,
        KeysCommand::Revoke(revoke) => revoke.database.open_existing().await?,
    };
    let done = async {
        let mut conn = opened.migrated().await?.connect_owner().await?;
        let done = match &args.command {
            KeysCommand::Create(args) => create(args, &mut conn, output).await,
            KeysCommand::List(_) => list(&mut conn, output).await,
            KeysCommand::Revoke(args) => revoke(args.id, &mut conn, output).await,
        };
        _ = conn.close().await;
        done
    }
    .await;
    opened.close().await?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn create(args: &CreateArgs, conn: &mut PgConnection, output: &Output) -> anyhow::Result<()> {
    if let Some(ledger) = &args.ledger {
        // A server makes `main` when it starts, and a key may come before.
        let known = ledger == "main" || ledgers::list(&mut *conn).await?.iter().any(|row| row.name.as_str() == ledger);
        if !known {
            bail!("there is no ledger {}; create it first (PUT /v1/ledgers/{{ledger}})", printable(ledger));
        }
    }
    let key = api_keys::generate().context("the operating system has no randomness to give")?;
    let key_hash = api_keys::hash(&key).context("a new key is not of the form of a key")?;
    let row = NewKey {
        key_id: IdSource::new().next(SystemClock.now()),
        name: &args.name,
        key_hash,
        role: args.role.into(),
        ledger: args.ledger.as_deref(),
        expires_in_s: args.expires_in.map(|life| life.as_secs_f64()),
    };
    let Some(row) = api_keys::create(&mut *conn, &row).await? else {
        bail!("there are {} usable keys already; revoke some that nobody uses", api_keys::USABLE_MAX);
    };
    if output.is_json() {
        let mut json = to_json(&row);
        json["key"] = json!(key);
        return output.print_json(&json);
    }
    output.print_table(&facts([
        ("key", key),
        ("id", row.key_id.to_string()),
        ("name", printable(&row.name)),
        ("role", row.role.clone()),
        ("ledger", row.ledger.clone().unwrap_or_else(|| "all".to_owned())),
        ("expires", row.expires_at.map_or_else(|| "never".to_owned(), time)),
    ]))?;
    output.note("The key is shown only now. Clients send it as Authorization: Bearer; steelyard takes it from STEELYARD_API_KEY.");
    Ok(())
}

async fn list(conn: &mut PgConnection, output: &Output) -> anyhow::Result<()> {
    let rows = api_keys::list(conn).await?;
    if output.is_json() {
        return output.print_json(&json!({"data": rows.iter().map(to_json).collect::<Vec<_>>()}));
    }
    let columns = ["ID", "NAME", "ROLE", "LEDGER", "STATUS", "CREATED", "EXPIRES", "LAST USED"];
    let mut table = table(&columns.map(Column::Text));
    for row in &rows {
        let or_never = |at: Option<DateTime<Utc>>| at.map_or_else(|| "never".to_owned(), time);
        table.add_row([
            row.key_id.to_string(),
            printable(&row.name),
            row.role.clone(),
            row.ledger.clone().unwrap_or_else(|| "all".to_owned()),
            row.status.clone(),
            time(row.created_at),
            or_never(row.expires_at),
            or_never(row.last_used_at),
        ]);
    }
    output.print_table(&table)?;
    if rows.is_empty() {
        output.note("No key was ever made, so servers that listen on this machine only ask for none.");
    }
    Ok(())
}

async fn revoke(key_id: Uuid, conn: &mut PgConnection, output: &Output) -> anyhow::Result<()> {
    let Some(row) = api_keys::revoke(conn, key_id).await? else {
        bail!("there is no key {key_id}; `steelyard keys list` shows all");
    };
    if output.is_json() {
        return output.print_json(&to_json(&row));
    }
    let revoked_at = row.revoked_at.map(time).unwrap_or_default();
    output.print_line(&format!("{} ({}) is revoked since {revoked_at}.", row.key_id, printable(&row.name)))
}

fn to_json(row: &KeyRow) -> Value {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Micros, true);
    json!({
        "id": row.key_id,
        "name": row.name,
        "role": row.role,
        "ledger": row.ledger,
        "status": row.status,
        "created_at": time(row.created_at),
        "expires_at": row.expires_at.map(time),
        "revoked_at": row.revoked_at.map(time),
        "last_used_at": row.last_used_at.map(time),
    })
}

/// For people: to the second.
fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_whole_numbers_of_a_unit() {
        for (text, seconds) in [("1s", 1), ("30m", 1_800), ("12h", 43_200), ("90d", 7_776_000), ("2w", 1_209_600)] {
            assert_eq!(parse_expires_in(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "30", "1.5d", "-1d", "+1d", "0s", "1 d", "1D", "3651d", "99999999999999999999d", "9ü"] {
            assert!(parse_expires_in(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_for_reading() {
        assert!(parse_name("shop, backend (old)").is_ok() && parse_name(&"ü".repeat(128)).is_ok());
        for text in ["", " ", "a\nb", "\u{1b}[2J", &"n".repeat(129)] {
            assert!(parse_name(text).is_err(), "{text:?}");
        }
    }
}
