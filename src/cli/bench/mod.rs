//! `steelyard bench`: how many payments the service acknowledges, how fast, and how far the projections fall behind.
//!
//! 1. [`setup`] opens the accounts and funds them through the API.
//! 2. [`load`] drives the connections for the duration; [`workload`] makes the requests, [`timetable`] says when,
//!    [`answers`] counts what came back.
//! 3. [`lag`] watches the projections, during a run at a fixed rate and after every run.
//! 4. [`ceiling`] writes the same events into the same PostgreSQL with nothing in between, to compare with.
//! 5. [`report`] prints it all.

mod answers;
mod ceiling;
mod lag;
mod load;
mod report;
mod setup;
mod timetable;
mod workload;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::{ApiArgs, Client};
use super::database::{DatabaseArgs, Opened};
use super::output::{Output, grouped};
use ceiling::{Ceiling, CeilingProbe};
use report::Report;

const EXAMPLES: &str = "\
Examples:
  steelyard bench                                     as fast as 256 connections can
  steelyard bench --batch 200 --connections 16        the same through POST /payments/batch
  steelyard bench --shape hot                         every payment goes to one account
  steelyard bench --rate 5000 --duration 60           latency and lag at a fixed rate

It writes real payments: use a ledger that is made for it, with --ledger.
Latency with --rate counts from the time at which a payment was due, whether or not the service was ready for it.
The ceiling is how many of the same event rows per second PostgreSQL takes by COPY, with the same durability.
It needs --database-url with a role that may read the log and create a schema (`steelyard_bench`, dropped again).";

/// Measure payments per second, latency and lag.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Keep-alive connections. Each has one request in flight.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,

    /// How long to drive them, in seconds.
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub duration: u32,

    /// Payments in one request. 1 uses POST /payments, more use POST /payments/batch.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,

    /// Accounts between which payments are made: `wallet:1` and so on.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    pub accounts: u32,

    /// Who pays whom.
    #[arg(long, value_enum, default_value_t = Shape::Uniform)]
    pub shape: Shape,

    /// Payments per second on a fixed timetable. Without it, each connection sends as soon as it has its answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,

    /// What each wallet is given before the first run, in the asset's smallest unit.
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000_000..))]
    pub funding: u64,

    /// Threads of the load generator. More than one only helps where it has a machine to itself.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,

    /// Do not measure what PostgreSQL itself can write.
    #[arg(long)]
    pub no_ceiling: bool,

    /// The server's database, to measure the ceiling in.
    #[command(flatten)]
    pub database: DatabaseArgs,

    // Last: its heading is that of all options after it.
    #[command(flatten)]
    pub api: ApiArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Any two wallets, all alike.
    Uniform,
    /// A few wallets take part in most payments (Zipf, exponent 0.99).
    Zipf,
    /// Any wallet pays one merchant.
    Hot,
}

/// How often progress is drawn, and the lag is sampled during a run at a fixed rate.
const TICK: Duration = Duration::from_millis(250);

/// Runs the measurement.
pub async fn run(args: BenchArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let opened = if args.no_ceiling { None } else { open_database(&args.database, output).await };
    let ran = measure(args, opened.as_ref().map(|opened| opened.url.clone()), output).await;
    if let Some(opened) = opened {
        opened.close().await?;
    }
    ran
}

/// The database is needed for the ceiling only: without it there is the rest.
async fn open_database(database: &DatabaseArgs, output: &Output) -> Option<Opened> {
    match database.open_existing().await {
        Ok(opened) => Some(opened),
        Err(error) => {
            output.note(&format!("the ceiling is not measured: {error:#}"));
            None
        }
    }
}

/// `database_url` is where the ceiling is measured; without it there is none.
async fn measure(args: BenchArgs, database_url: Option<String>, output: &Output) -> anyhow::Result<ExitCode> {
    if args.api.url.scheme() != "http" {
        bail!("bench speaks plain HTTP only: point --url at a worker, not at an https address");
    }
    let client = Client::new(&args.api)?;

    setup::prepare(&client, &args, output).await?;
    // What the set-up left to do is not charged to the run.
    let settled = lag::wait_until_caught_up(&client).await?;
    if settled.caught_up_after.is_none() {
        output.note("the projections had not caught up with the set-up when the run began");
    }
    // Before the load, so that a wrong URL is known at once, and so that the run's first position is.
    let probe = connect_ceiling(&args, database_url, output).await;

    let plan = Arc::new(load::Plan::new(&args, &client)?);
    let load = tokio::task::spawn_blocking({
        let plan = plan.clone();
        move || load::drive(&plan)
    });
    let lag_during = watch_run(&client, &args, &plan, &load, output).await;
    let outcome = load.await.context("the load generator stopped")??;

    // The run has been made: a service that no longer tells its lag must not take the other results along.
    let lag_after = match lag::wait_until_caught_up(&client).await {
        Ok(lag) => Some(lag),
        Err(error) => {
            output.note(&format!("the lag after the run could not be read: {error}"));
            None
        }
    };
    let ceiling = match probe {
        Ok(probe) => probe.measure(&progress_spinner(output, "measuring the ceiling")).await,
        Err(reason) => Ceiling::NotMeasured { reason },
    };

    let report = Report::new(&args, &outcome, lag_during, lag_after, ceiling);
    if output.is_json() {
        output.print_json(&report)?;
    } else {
        report.print(output)?;
    }
    // A run in which nothing was acknowledged measured nothing.
    Ok(if outcome.tally.accepted > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The connection on which the ceiling will be measured, or why there is none.
async fn connect_ceiling(
    args: &BenchArgs,
    database_url: Option<String>,
    output: &Output,
) -> Result<CeilingProbe, String> {
    if args.no_ceiling {
        return Err("--no-ceiling".to_owned());
    }
    let Some(url) = database_url else {
        return Err("no --database-url".to_owned());
    };
    let probe = CeilingProbe::connect(&url, &args.api.ledger).await;
    if let Err(reason) = &probe {
        output.note(&format!("the ceiling will not be measured: {reason}"));
    }
    probe
}

/// Draws progress until the load has ended. At a fixed rate it also samples the lag; otherwise the service is left
/// alone, and `None` is returned.
async fn watch_run(
    client: &Client,
    args: &BenchArgs,
    plan: &load::Plan,
    load: &tokio::task::JoinHandle<anyhow::Result<load::Outcome>>,
    output: &Output,
) -> Option<lag::Lag> {
    let bar = progress_bar(output, u64::from(args.duration), "{msg} [{bar:30}] {pos}/{len} s");
    let mut max = args.rate.map(|_| lag::Lag::default());
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let begun = std::time::Instant::now();
    while !load.is_finished() {
        ticks.tick().await;
        bar.set_position(begun.elapsed().as_secs().min(u64::from(args.duration)));
        bar.set_message(format!("{} payments", grouped(plan.accepted_so_far())));
        if let Some(max) = &mut max
            && let Ok(lag) = lag::read(client).await
        {
            *max = max.or_larger(lag);
        }
    }
    bar.finish_and_clear();
    max
}

/// A progress bar on standard error; none where that is not a terminal, or the output is for a program.
fn progress_bar(output: &Output, length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), draw_target(output));
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("=> "));
    bar
}

fn progress_spinner(output: &Output, message: &'static str) -> ProgressBar {
    let spinner = ProgressBar::with_draw_target(None, draw_target(output)).with_message(message);
    spinner.enable_steady_tick(TICK);
    spinner
}

fn draw_target(output: &Output) -> ProgressDrawTarget {
    if output.is_json() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}
