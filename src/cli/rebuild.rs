//! `steelyard rebuild`

use std::process::ExitCode;

use super::database::DatabaseArgs;
use super::output::Output;

pub async fn run(_args: DatabaseArgs, _output: &Output) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not in this build")
}
