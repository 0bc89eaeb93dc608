use std::process::ExitCode;

use clap::Parser;
use steelyard::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match cli::run(cli).await {
        Ok(code) => code,
        Err(error) => cli::report_failure(&error, json),
    }
}
