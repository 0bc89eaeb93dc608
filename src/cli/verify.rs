//! `steelyard verify`

use std::process::ExitCode;

use serde_json::json;

use super::database::{DatabaseArgs, Opened};
use super::output::{Output, facts, grouped};
use super::progress;
use crate::projector::verify::{self, Failure, Report};

pub async fn run(args: DatabaseArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let opened = args.open_existing().await?;
    let checked = check(&opened).await;
    opened.close().await?;
    match checked? {
        Ok(report) => {
            print(&report, output)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(Failure::Difference(difference)) => {
            if output.is_json() {
                output.print_json(&json!({"verified": false, "difference": difference}))?;
            } else {
                output.print_line(&format!("NOT VERIFIED: {difference}"))?;
            }
            Ok(ExitCode::FAILURE)
        }
        Err(failure) => Err(failure.into()),
    }
}

async fn check(opened: &Opened) -> anyhow::Result<Result<Report, Failure>> {
    let database = opened.migrated().await?;
    let bar = progress::events("verify");
    let checked = verify::verify(&database, &progress::moving(&bar)).await;
    bar.finish_and_clear();
    Ok(checked)
}

fn print(report: &Report, output: &Output) -> anyhow::Result<()> {
    if output.is_json() {
        return output.print_json(&json!({"verified": true, "report": report}));
    }
    let counts = [
        ("ledgers", report.ledgers, "trial balance zero per asset"),
        ("events", report.events, "contiguous, balanced per asset, in order of time and epoch"),
        ("transactions", report.transactions, "each leg leaves the balance that it states"),
        ("legs", report.legs, "debits equal credits"),
        ("idempotency keys", report.keys, "each has its event, each event its key"),
        ("accounts", report.accounts, "as the log opened and changed them"),
        ("balances", report.balances, "equal to a fresh fold"),
        ("entries", report.entries, "equal to a fresh fold, running balance included"),
        ("rejections", report.rejections, "equal to a fresh fold"),
        ("back-dated legs", report.backdated, "equal to a fresh fold, sums included"),
        ("metadata", report.metadata, "members that transactions are found by, equal to a fresh fold"),
        ("holds", report.holds, "equal to a fresh fold: captures, ends and what is pending"),
        ("scheduled transactions", report.scheduled, "equal to a fresh fold"),
        ("reversed transactions", report.reversed, "nothing taken back that was not posted"),
        ("buckets of limits", report.usage, "equal to a fresh fold"),
        ("assets", report.assets, "as the log defined them"),
    ];
    let rows = counts.map(|(name, count, what)| (name, format!("{:>14}  {what}", grouped(count))));
    output.print_table(&facts(rows))?;
    output.print_line(&format!("Verified in {:.1} s.", report.seconds))
}
