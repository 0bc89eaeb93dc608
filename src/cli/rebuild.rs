//! `steelyard rebuild`

use std::process::ExitCode;

use super::database::{DatabaseArgs, Opened};
use super::output::{Output, grouped};
use super::progress;
use crate::projector::rebuild::{self, Report};

pub async fn run(args: DatabaseArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let opened = args.open_existing().await?;
    let rebuilt = build(&opened).await;
    opened.close().await?;
    let report = rebuilt?;
    if output.is_json() {
        output.print_json(&report)?;
    } else {
        let per_second = (report.events as f64 / report.seconds.max(0.001)) as u64;
        output.print_line(&format!(
            "Rebuilt the projections of {} ledgers from {} events in {:.1} s ({} events/s): {} accounts, {} entries, {} rejections.",
            report.ledgers,
            grouped(report.events),
            report.seconds,
            grouped(per_second),
            grouped(report.accounts),
            grouped(report.entries),
            grouped(report.rejections),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn build(opened: &Opened) -> anyhow::Result<Report> {
    let database = opened.migrated().await?;
    let bar = progress::events("rebuild");
    let rebuilt = rebuild::rebuild(&database, &progress::moving(&bar)).await;
    bar.finish_and_clear();
    Ok(rebuilt?)
}
