//! `steelyard migrate`

use std::process::ExitCode;

use serde_json::json;

use super::database::DatabaseArgs;
use super::output::Output;

pub async fn run(args: DatabaseArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let opened = args.open().await?;
    let migrated = opened.migrated().await.map(drop);
    opened.close().await?;
    migrated?;
    if output.is_json() {
        output.print_json(&json!({"schema": "current"}))?;
    } else {
        output.print_line("The schema is current.")?;
    }
    Ok(ExitCode::SUCCESS)
}
