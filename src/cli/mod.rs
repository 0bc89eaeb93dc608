//! The command line: one file per sub-command.
//!
//! `serve` runs the service; `keys`, `migrate`, `verify`, `rebuild` and `psql` work on its database.
//! The others are clients of the HTTP API and of nothing else, except that `bench` also measures what PostgreSQL itself
//! can write.
//! Every command that prints has `--json`: people get tables, programs get the API's own JSON on standard output.
//! Hints and progress go to standard error, so standard output can always be piped.

pub mod access;
pub mod account;
mod account_changes;
pub mod bench;
pub mod client;
pub mod cluster;
pub mod database;
pub mod export;
pub mod import;
pub mod keys;
mod legs;
pub mod migrate;
pub mod output;
pub mod pay;
pub mod progress;
pub mod psql;
pub mod rebuild;
pub mod rules;
pub mod serve;
pub mod transaction;
pub mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::ClientError;
use output::Output;

/// The command did not succeed; standard error says why.
const EXIT_FAILED: u8 = 1;

/// An import is done, and lines of it were refused; the report says which and why.
const EXIT_LINES_REFUSED: u8 = 3;

/// The service is unavailable or the outcome is unknown: the same command, with the same idempotency key, may be run
/// again. The number is `EX_TEMPFAIL` of BSD's `sysexits.h`.
const EXIT_TRY_AGAIN: u8 = 75;

const AFTER_HELP: &str = "\
Examples:
  steelyard serve
  steelyard account open wallet:alice --asset EUR
  steelyard pay --from wallet:alice --to wallet:bob --amount 1250 --asset EUR
  steelyard account statement wallet:bob --limit 20
  steelyard account freeze wallet:bob --scope debits --reason \"court order\"
  steelyard import payments.csv --report refused.csv
  steelyard bench --connections 256 --duration 20

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 imported but for lines that were refused,
75 unavailable or outcome unknown (run it again, with the same idempotency key).";

/// An event-sourced payments ledger on PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "steelyard", version, about, after_help = AFTER_HELP, propagate_version = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// Print JSON for programs in place of tables for people.
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take payments: run the HTTP service, on a built-in PostgreSQL unless --database-url is given.
    Serve(serve::ServeArgs),
    /// Make, list and revoke API keys.
    Keys(keys::KeysArgs),
    /// Bring the database's schema up to this release.
    Migrate(database::DatabaseArgs),
    /// Prove that the log is whole and that the projections say what it says.
    Verify(database::DatabaseArgs),
    /// Fold the log into fresh projections and swap them in, while payments go on.
    Rebuild(database::DatabaseArgs),
    /// Open psql on the database, or print its URL.
    Psql(psql::PsqlArgs),
    /// Open, show, list and change accounts; print a statement.
    Account(account::AccountArgs),
    /// Say what accounts begin with, by the beginning of their names.
    AccountTypes(rules::AccountTypesArgs),
    /// Limit how much moves within a window of time.
    Limits(rules::LimitsArgs),
    /// Make one payment, or reserve its funds.
    Pay(Box<pay::PayArgs>),
    /// Post what a payment has reserved, or a part of it.
    Capture(transaction::CaptureArgs),
    /// Give back what a payment has reserved.
    Void(transaction::VoidArgs),
    /// Take back what a transaction has posted, or a part of it.
    Reverse(transaction::ReverseArgs),
    /// Withdraw a scheduled transaction.
    Cancel(transaction::CancelArgs),
    /// Post a transaction of two or more legs; show one, and what became of it.
    Transaction(transaction::TransactionArgs),
    /// Close the books up to a time, and show what is closed.
    Period(rules::PeriodArgs),
    /// Record a file of accounts, payments, transactions and opening balances, each line exactly once.
    Import(import::ImportArgs),
    /// Write the journal, a statement or the trial balance to a file.
    Export(export::ExportArgs),
    /// Show the workers, what each holds, what moves, what nobody holds, and how far the projections are.
    Cluster(cluster::ClusterArgs),
    /// Measure payments per second, latency and lag, and compare with what PostgreSQL itself can write.
    Bench(bench::BenchArgs),
}

/// Runs one command. An error has not been printed yet: give it to [`report_failure`].
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let output = Output::new(cli.json);
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Keys(args) => keys::run(args, &output).await,
        Command::Migrate(args) => migrate::run(args, &output).await,
        Command::Verify(args) => verify::run(args, &output).await,
        Command::Rebuild(args) => rebuild::run(args, &output).await,
        Command::Psql(args) => psql::run(args, &output).await,
        Command::Account(args) => account::run(args, &output).await,
        Command::AccountTypes(args) => rules::account_types(args, &output).await,
        Command::Limits(args) => rules::limits(args, &output).await,
        Command::Pay(args) => pay::run(*args, &output).await,
        Command::Capture(args) => transaction::capture(args, &output).await,
        Command::Void(args) => transaction::void(args, &output).await,
        Command::Reverse(args) => transaction::reverse(args, &output).await,
        Command::Cancel(args) => transaction::cancel(args, &output).await,
        Command::Transaction(args) => transaction::run(args, &output).await,
        Command::Period(args) => rules::period(args, &output).await,
        Command::Import(args) => import::run(args, &output).await,
        Command::Export(args) => export::run(args, &output).await,
        Command::Cluster(args) => cluster::run(args, &output).await,
        Command::Bench(args) => bench::run(args, &output).await,
    }
}

/// Prints an error on standard error, with what to do about it, and says with which status to exit.
pub fn report_failure(error: &anyhow::Error, json: bool) -> ExitCode {
    output::print_failure(error, json);
    let try_again = error.downcast_ref::<ClientError>().is_some_and(ClientError::is_temporary);
    ExitCode::from(if try_again { EXIT_TRY_AGAIN } else { EXIT_FAILED })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_never_shows_secrets_from_the_environment() {
        let mut command = Cli::command();
        command.build();
        let mut pending = vec![&command];
        while let Some(command) = pending.pop() {
            pending.extend(command.get_subcommands());
            for argument in command.get_arguments() {
                if ["api_key", "database_url", "claims_database_url", "cluster_secret"]
                    .contains(&argument.get_id().as_str())
                {
                    assert!(argument.is_hide_env_values_set(), "{}: --{}", command.get_name(), argument.get_id());
                }
            }
        }
    }
}
