//! The results, for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ceiling::Ceiling;
use super::lag::{CatchUp, Lag};
use super::load::Outcome;
use super::{BenchArgs, Output, Shape};
use crate::cli::output::{facts, grouped, printable};

/// What `--json` prints. Each number says its unit in its name.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    setting: Setting,
    payments: Payments,
    requests: u64,
    latency_ms: Latency,
    /// The cause of the first payment that was not acknowledged.
    first_failure: Option<String>,
    lag: LagReport,
    ceiling: CeilingReport,
}

#[derive(Debug, Serialize)]
struct Setting {
    url: String,
    ledger: String,
    shape: &'static str,
    connections: u16,
    threads: u16,
    batch: u32,
    accounts: u32,
    duration_s: u32,
    /// `null`: as fast as the connections could.
    rate_per_second: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Payments {
    accepted: u64,
    /// Acknowledged as posted before the end of the run, per second of it.
    accepted_per_second: f64,
    rejected: u64,
    failed: u64,
    failed_by_cause: BTreeMap<String, u64>,
    /// Due on the timetable but never sent.
    unsent: u64,
}

/// Of requests: of a whole batch where there are batches.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct LagReport {
    /// Sampled during a run at a fixed rate only.
    during_max_positions: Option<u64>,
    during_max_ms: Option<f64>,
    at_end_positions: Option<u64>,
    at_end_ms: Option<f64>,
    /// `null`: not within the time that was allowed for it.
    caught_up_after_s: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum CeilingReport {
    Measured {
        rows: u64,
        rows_per_second: f64,
        rounds_rows_per_second: Vec<f64>,
        /// Payments acknowledged per second ÷ rows per second.
        ratio: f64,
    },
    NotMeasured {
        not_measured: String,
    },
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        outcome: &Outcome,
        lag_during: Option<Lag>,
        lag_after: Option<CatchUp>,
        ceiling: Ceiling,
    ) -> Report {
        let tally = &outcome.tally;
        let payments_per_second = outcome.payments_per_second();
        let quantile_ms = |quantile: f64| tally.latency_us.value_at_quantile(quantile) as f64 / 1_000.0;
        Report {
            setting: Setting {
                url: args.api.url.to_string(),
                ledger: args.api.ledger.clone(),
                shape: match args.shape {
                    Shape::Uniform => "uniform",
                    Shape::Zipf => "zipf",
                    Shape::Hot => "hot",
                },
                connections: args.connections,
                threads: args.threads,
                batch: args.batch,
                accounts: args.accounts,
                duration_s: args.duration,
                rate_per_second: args.rate,
            },
            payments: Payments {
                accepted: tally.accepted,
                accepted_per_second: payments_per_second,
                rejected: tally.rejected,
                failed: tally.failed.values().sum(),
                failed_by_cause: tally.failed.clone(),
                unsent: tally.unsent,
            },
            requests: tally.requests,
            latency_ms: Latency {
                p50: quantile_ms(0.5),
                p99: quantile_ms(0.99),
                p999: quantile_ms(0.999),
                max: tally.latency_us.max() as f64 / 1_000.0,
            },
            first_failure: tally.first_failure.clone(),
            lag: LagReport {
                during_max_positions: lag_during.map(|lag| lag.positions),
                during_max_ms: lag_during.and_then(|lag| lag.ms),
                at_end_positions: lag_after.map(|after| after.at_first.positions),
                at_end_ms: lag_after.and_then(|after| after.at_first.ms),
                caught_up_after_s: lag_after.and_then(|after| after.caught_up_after).map(|after| after.as_secs_f64()),
            },
            ceiling: match ceiling {
                Ceiling::Measured { rows, rounds_rows_per_second } => {
                    let best = rounds_rows_per_second.iter().copied().fold(0.0, f64::max);
                    CeilingReport::Measured {
                        rows,
                        rows_per_second: best,
                        rounds_rows_per_second,
                        ratio: payments_per_second / best,
                    }
                }
                Ceiling::NotMeasured { reason } => CeilingReport::NotMeasured { not_measured: reason },
            },
        }
    }

    pub(super) fn print(&self, output: &Output) -> anyhow::Result<()> {
        output.print_table(&facts(self.rows()))
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let payments = &self.payments;
        let mut rows = vec![
            ("setting", self.setting_text()),
            ("throughput", format!("{} payments/s acknowledged", rounded(payments.accepted_per_second))),
            ("accepted", grouped(payments.accepted)),
            ("rejected", grouped(payments.rejected)),
            ("failed", self.failures_text()),
        ];
        if payments.unsent > 0 {
            rows.push(("not sent", format!("{}: due, but the service was too far behind", grouped(payments.unsent))));
        }
        if let Some(first_failure) = &self.first_failure {
            rows.push(("first failure", printable(first_failure)));
        }
        let latency = &self.latency_ms;
        rows.push((
            if self.setting.batch == 1 { "latency" } else { "latency of a batch" },
            format!(
                "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
                latency.p50, latency.p99, latency.p999, latency.max
            ),
        ));
        if let Some(positions) = self.lag.during_max_positions {
            rows.push(("largest lag", lag_text(positions, self.lag.during_max_ms)));
        }
        if let Some(positions) = self.lag.at_end_positions {
            rows.push(("lag at the end", lag_text(positions, self.lag.at_end_ms)));
            let caught_up = match self.lag.caught_up_after_s {
                Some(seconds) => format!("after {seconds:.2} s"),
                None => "not in the time allowed".to_owned(),
            };
            rows.push(("caught up", caught_up));
        }
        match &self.ceiling {
            CeilingReport::Measured { rows: count, rows_per_second, ratio, .. } => {
                let text = format!(
                    "{} rows/s: COPY of {} of these events, best of three",
                    rounded(*rows_per_second),
                    grouped(*count)
                );
                rows.push(("ceiling", text));
                rows.push(("of the ceiling", format!("{:.1} %", ratio * 100.0)));
            }
            CeilingReport::NotMeasured { not_measured } => {
                rows.push(("ceiling", format!("not measured: {}", printable(not_measured))));
            }
        }
        rows
    }

    fn setting_text(&self) -> String {
        let setting = &self.setting;
        let pace = match setting.rate_per_second {
            Some(rate) => format!("{} payments/s on a timetable", grouped(rate.into())),
            None => "as fast as possible".to_owned(),
        };
        format!(
            "{}, {} connections, batches of {}, {} accounts, {} s, {pace}",
            setting.shape,
            setting.connections,
            setting.batch,
            grouped(setting.accounts.into()),
            setting.duration_s,
        )
    }

    fn failures_text(&self) -> String {
        let causes: Vec<String> = self
            .payments
            .failed_by_cause
            .iter()
            .map(|(cause, count)| format!("{cause}: {}", grouped(*count)))
            .collect();
        if causes.is_empty() {
            "0".to_owned()
        } else {
            format!("{} ({})", grouped(self.payments.failed), causes.join(", "))
        }
    }
}

fn lag_text(positions: u64, ms: Option<f64>) -> String {
    match ms {
        Some(ms) => format!("{} positions, {ms:.0} ms", grouped(positions)),
        None => format!("{} positions", grouped(positions)),
    }
}

fn rounded(number: f64) -> String {
    grouped(number.round() as u64)
}
