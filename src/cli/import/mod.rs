//! `steelyard import`: a file of lines, each recorded exactly once whatever is killed meanwhile.
//!
//! The file is sent as one request whose answer tells how far it is. What a progress record acknowledges is durable,
//! so a request that was cut off is followed by one that begins behind it: after a lost connection at once, after a
//! crash of this command from a small [`state`] file. Neither is needed for exactness, which is the keys' business;
//! they only spare the server the look-ups.
//!
//! [`source`] reads the file, [`report`] has the lines that were refused.

mod report;
mod source;
mod state;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{ApiArgs, Client, ClientError, backoff};
use super::output::{Output, grouped};
use super::{EXIT_FAILED, EXIT_LINES_REFUSED, EXIT_TRY_AGAIN, progress};
use report::{Refused, Report};
use source::{Sent, Source};
use state::State;

/// Without any record for so long the connection counts as lost: the server writes one every five seconds.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Between two writings of the state file.
const SAVE_EVERY: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  steelyard import payments.csv --report refused.csv
  steelyard import history.ndjson --ledger archive --equity equity:opening
  zcat day.ndjson.gz | steelyard import - --format ndjson --id day-2026-11-24

A line is an account, a payment, a transaction or an opening balance; docs/IMPORT.md has their fields.
Run the same command again after any failure: what is recorded stays recorded once.
The default id is made of the file's name and its first 64 KiB: give --id when lines are corrected or appended.

Exit status: 0 every line is recorded, 3 done but for lines that were refused, 75 not finished (run it again),
1 failed.";

/// Record a file of accounts, payments, transactions and opening balances, each line exactly once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    /// The file; `-` is standard input.
    file: PathBuf,

    /// What the file is; by default what its name ends with.
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// What the keys of lines without a key of their own begin with: `<id>:<line number>`.
    #[arg(long)]
    id: Option<String>,

    /// The account on the other side of opening balances that name none.
    #[arg(long, value_name = "ACCOUNT")]
    equity: Option<String>,

    /// Where to write the lines that were refused, with their numbers and reasons: .ndjson or .csv.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Lines per second, at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Give up when nothing was recorded for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    give_up_after: u64,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Ndjson,
    Csv,
}

impl Format {
    fn of(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?;
        match extension.to_ascii_lowercase().as_str() {
            "ndjson" | "jsonl" => Some(Format::Ndjson),
            "csv" => Some(Format::Csv),
            _ => None,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Ndjson => "application/x-ndjson",
            Format::Csv => "text/csv",
        }
    }
}

/// How much is done, of the whole file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    /// Where the last line ends, and its number.
    offset: u64,
    line: u64,
    lines: u64,
    recorded: u64,
    replayed: u64,
    refused: u64,
    position: u64,
}

/// A record of the answer: progress, a refused line or the summary.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record<'a> {
    line: u64,
    key: Option<String>,
    #[serde(borrow)]
    problem: Option<&'a RawValue>,
    done: Option<bool>,
    /// Only progress and summary have it, and the rest.
    bytes: Option<u64>,
    lines: u64,
    recorded: u64,
    replayed: u64,
    refused: u64,
    position: u64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    done: bool,
    id: Option<&'a str>,
    #[serde(flatten)]
    counts: Done,
    seconds: f64,
    /// Of this run.
    lines_per_second: f64,
    /// The line after which this run began.
    resumed_after_line: u64,
    report: Option<&'a Path>,
}

pub async fn run(args: ImportArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let mut import = Import::prepare(args, output).await?;
    let begun = Instant::now();
    let first = import.done;
    let ended = import.until_done().await;
    import.bar.finish_and_clear();
    import.save()?;
    let seconds = begun.elapsed().as_secs_f64();
    let summary = Summary {
        done: ended.is_ok(),
        id: import.id.as_deref(),
        counts: import.done,
        seconds,
        lines_per_second: (import.done.lines - first.lines) as f64 / seconds.max(f64::EPSILON),
        resumed_after_line: first.line,
        report: import.report.path(),
    };
    if output.is_json() {
        output.print_json(&summary)?;
    } else {
        import.print(&summary, output)?;
    }
    match ended {
        Ok(()) => {
            if import.done.refused > 0 {
                import.state.rewind()?;
                return Ok(ExitCode::from(EXIT_LINES_REFUSED));
            }
            import.state.remove()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            super::output::print_failure(&error, output.is_json());
            let again = error.downcast_ref::<ClientError>().is_some_and(ClientError::is_temporary);
            Ok(ExitCode::from(if again { EXIT_TRY_AGAIN } else { EXIT_FAILED }))
        }
    }
}

struct Import {
    args: ImportArgs,
    client: Client,
    format: Format,
    id: Option<String>,
    source: Source,
    sent: Sent,
    report: Report,
    state: State,
    saved_at: Instant,
    done: Done,
    /// Refused lines that no progress record has acknowledged yet.
    pending: Vec<Refused>,
    bar: ProgressBar,
    output: Output,
    moved_at: Instant,
}

/// Why an attempt ended.
enum Ended {
    Done,
    /// The summary says why the server went no further.
    Stopped(Box<super::client::Problem>),
}

impl Import {
    async fn prepare(args: ImportArgs, output: &Output) -> anyhow::Result<Import> {
        let client = Client::new(&args.api)?;
        let from_stdin = args.file.as_os_str() == "-";
        let format = args.format.or_else(|| Format::of(&args.file));
        let format = format.context("say with --format whether the file is ndjson or csv")?;
        let mut source = Source::open((!from_stdin).then_some(&args.file), format == Format::Csv).await?;
        let id = args.id.clone().or_else(|| source.default_id());
        let state_path = match (&args.report, from_stdin) {
            (Some(report), _) => Some(with_suffix(report, ".state")),
            (None, false) => Some(with_suffix(&args.file, ".import-state")),
            (None, true) => None,
        };
        let subject = state::Subject {
            name: source.name().map(str::to_owned),
            ledger: args.api.ledger.clone(),
            id: id.clone(),
            format,
            equity: args.equity.clone(),
        };
        let state = State::open(state_path, subject);
        let bar = progress::import(source.len());
        // What comes from standard input or a pipe cannot be told to be the same before it has been read.
        let saved = if source.len().is_some() { state.load(args.id.is_some())? } else { None };
        let (done, report_bytes, prefix) = match saved {
            Some(saved) if saved.done.offset > 0 => {
                bar.set_message("looking whether it is as it was");
                let line = grouped(saved.done.line);
                let unchanged = match &saved.prefix {
                    Some(prefix) => {
                        source.begins_with(prefix, saved.done.offset, |bytes| bar.set_position(bytes)).await?
                    }
                    None => false,
                };
                if unchanged {
                    let note = format!("going on after line {line}, which was acknowledged before");
                    bar.suspend(|| output.note(&note));
                    (saved.done, saved.report_bytes, saved.prefix)
                } else {
                    let note = format!(
                        "the file is not as it was up to line {line}, which was acknowledged before: starting again \
                         from line 1; what is recorded is found by its keys"
                    );
                    bar.suspend(|| output.note(&note));
                    Default::default()
                }
            }
            _ => Default::default(),
        };
        let report = Report::open(args.report.as_deref(), report_bytes)?;
        bar.set_message("");
        bar.set_position(done.offset);
        bar.reset_eta();
        let now = Instant::now();
        Ok(Import {
            args,
            client,
            format,
            id,
            source,
            sent: Sent::after(done.offset, prefix),
            report,
            state,
            saved_at: now,
            done,
            pending: Vec::new(),
            bar,
            output: *output,
            moved_at: now,
        })
    }

    /// Sends until the server says that all is done.
    async fn until_done(&mut self) -> anyhow::Result<()> {
        let give_up_after = Duration::from_secs(self.args.give_up_after);
        let mut failures = 0;
        self.moved_at = Instant::now();
        let mut is_first = true;
        loop {
            let before = self.done;
            if !std::mem::take(&mut is_first) {
                self.check_source().await?;
            }
            let error = match self.attempt().await {
                Ok(Ended::Done) => return Ok(()),
                Ok(Ended::Stopped(problem)) => ClientError::Problem(problem),
                Err(error) => match error.downcast::<ClientError>() {
                    Ok(error) => error,
                    Err(error) => return Err(error),
                },
            };
            // A request of which the body came too slowly was waiting for its source, or for the network.
            let may_go_on = error.is_temporary() || error.is_timeout();
            if !may_go_on || self.moved_at.elapsed() > give_up_after {
                return Err(error.into());
            }
            failures = if self.done == before { failures + 1 } else { 1 };
            let pause = backoff(failures, error.retry_after());
            if failures == 1 {
                self.bar.suspend(|| self.output.note(&format!("{error}; trying again")));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// A file that is sent on has to be what was sent before.
    async fn check_source(&mut self) -> anyhow::Result<()> {
        self.sent.rewind();
        let Some(prefix) = self.sent.prefix().filter(|_| self.done.offset > 0) else { return Ok(()) };
        let begun = Instant::now();
        if !self.source.begins_with(&prefix, self.done.offset, |_| ()).await? {
            anyhow::bail!("the file was changed while it was imported; run the same command again");
        }
        // Time in which nothing was asked of the server is none without progress.
        self.moved_at += begun.elapsed();
        Ok(())
    }

    /// One request, from behind the last line that was acknowledged.
    async fn attempt(&mut self) -> anyhow::Result<Ended> {
        self.pending.clear();
        let base = self.done;
        let mut query = Vec::new();
        query.extend(self.id.clone().map(|id| ("id", id)));
        query.extend(self.args.equity.clone().map(|code| ("equity", code)));
        // The header of a file that is continued is sent again, and is no line of it.
        let header = if base.offset > 0 { self.source.header() } else { Vec::new() };
        let header_bytes = header.len() as u64;
        if base.line > 0 {
            query.push(("first_line", (base.line + 1).to_string()));
        }
        let (sender, body) = source::body();
        let content_type = self.format.content_type();
        let (client, rate) = (self.client.clone(), self.args.rate);
        // Taken out while it is read from, beside the answer that is read into the rest.
        let mut source = std::mem::take(&mut self.source);
        let sent = self.sent.clone();
        let mut produced = false;
        let result = {
            let produce = source.send(header, base.offset, &sent, rate, sender);
            let consume = async {
                let mut response = client.import(&query, content_type, body).await?;
                let mut rest = Vec::new();
                loop {
                    let more = tokio::time::timeout(SILENCE_MAX, client.more(&mut response)).await;
                    let Some(bytes) = more.unwrap_or_else(|_| Err(client.silent()))? else {
                        return Err(client.cut_off().into());
                    };
                    rest.extend_from_slice(&bytes);
                    let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
                    for line in rest[..end].split(|byte| *byte == b'\n') {
                        if let Some(ended) = self.take_in(line, &base, header_bytes)? {
                            return Ok(ended);
                        }
                    }
                    rest.drain(..=end);
                }
            };
            tokio::pin!(produce, consume);
            loop {
                tokio::select! {
                    result = &mut consume => break result,
                    sent = &mut produce, if !produced => {
                        produced = true;
                        if let Err(error) = sent {
                            break Err(error);
                        }
                    }
                }
            }
        };
        self.source = source;
        result
    }

    /// One record of the answer; whether it is the last.
    fn take_in(&mut self, line: &[u8], base: &Done, header_bytes: u64) -> anyhow::Result<Option<Ended>> {
        let record: Record<'_> = serde_json::from_slice(line).context("the server's answer cannot be read")?;
        let Some(bytes) = record.bytes else {
            let problem = record.problem.context("a refused line has no reason")?;
            self.pending.push(Refused { line: record.line, key: record.key, problem: problem.to_owned() });
            return Ok(None);
        };
        let done = Done {
            offset: (base.offset + bytes).saturating_sub(header_bytes).max(base.offset),
            line: record.line.max(base.line),
            lines: base.lines + record.lines,
            recorded: base.recorded + record.recorded,
            replayed: base.replayed + record.replayed,
            refused: base.refused + record.refused,
            position: base.position.max(record.position),
        };
        self.report.write(self.pending.drain(..))?;
        if done.lines > self.done.lines {
            self.moved_at = Instant::now();
        }
        self.done = done;
        self.sent.acknowledge(done.offset);
        self.bar.set_position(done.offset);
        let refused = if done.refused > 0 { format!(", {} refused", grouped(done.refused)) } else { String::new() };
        self.bar.set_message(format!("{} lines{refused}", grouped(done.lines)));
        if self.saved_at.elapsed() >= SAVE_EVERY {
            self.save()?;
        }
        match (record.done, record.problem) {
            (Some(true), _) => Ok(Some(Ended::Done)),
            (Some(false), Some(problem)) => Ok(Some(Ended::Stopped(serde_json::from_str(problem.get())?))),
            _ => Ok(None),
        }
    }

    /// The report first: the state says how much of it is good.
    fn save(&mut self) -> anyhow::Result<()> {
        self.saved_at = Instant::now();
        let bytes = self.report.flush()?;
        self.state.save(&self.done, bytes, self.sent.prefix())?;
        if self.output.is_json() {
            // For a program that watches; one line, as it is now.
            self.output.note(&serde_json::json!({"progress": self.done, "total_bytes": self.bar.length()}).to_string());
        }
        Ok(())
    }

    fn print(&self, summary: &Summary<'_>, output: &Output) -> anyhow::Result<()> {
        let Done { lines, recorded, replayed, refused, .. } = self.done;
        output.print_line(&format!(
            "{} lines: {} recorded, {} recorded before, {} refused; {:.1} s, {} lines/s",
            grouped(lines),
            grouped(recorded),
            grouped(replayed),
            grouped(refused),
            summary.seconds,
            grouped(summary.lines_per_second as u64),
        ))?;
        match summary.report {
            Some(path) if refused > 0 => self.output.note(&format!("the refused lines are in {}", path.display())),
            None if refused > 0 => {
                self.output.note("with --report FILE the refused lines are kept, with their reasons");
            }
            _ => {}
        }
        if let (true, Some(id)) = (refused > 0, summary.id) {
            self.output.note(&format!("to send the file again with lines corrected in their places, say --id {id}"));
        }
        Ok(())
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
