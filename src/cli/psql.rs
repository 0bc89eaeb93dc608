//! `steelyard psql`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::database::DatabaseArgs;
use super::output::Output;

#[derive(Clone, Debug, Args)]
pub struct PsqlArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Print the URL in place of opening psql; the built-in PostgreSQL must be running for it to work.
    #[arg(long)]
    print: bool,

    /// Passed on to psql, for example -c 'SELECT …'.
    #[arg(last = true, value_name = "PSQL ARGUMENTS")]
    arguments: Vec<String>,
}

pub async fn run(args: PsqlArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let opened = args.database.open_existing().await?;
    if args.print {
        if output.is_json() {
            output.print_json(&json!({"url": opened.url}))?;
        } else {
            output.print_line(&opened.url)?;
        }
        opened.close().await?;
        return Ok(ExitCode::SUCCESS);
    }
    opened.migrated().await?;
    let psql =
        opened.embedded.as_ref().and_then(|embedded| embedded.bin("psql")).unwrap_or_else(|| PathBuf::from("psql"));
    // Ctrl-C is for psql, which cancels its query; we live until it ends.
    let _interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let status = tokio::process::Command::new(&psql)
        .arg(&opened.url)
        .args(&args.arguments)
        .status()
        .await
        .with_context(|| format!("{} could not be run; install the PostgreSQL client", psql.display()))?;
    opened.close().await?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}
