//! `steelyard export`: the journal, a statement or the trial balance, in a file.
//!
//! The file has its name only once it is whole: until then it is beside it, under another.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::client::{ApiArgs, Client};
use super::output::{Output, grouped};
use super::progress;

/// Without any byte for so long the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  steelyard export journal --output journal.parquet
  steelyard export journal --output november.csv --from-position 4711
  steelyard export statement wallet:alice --output alice.csv
  steelyard export trial-balance --format ndjson --output -

A file gets its name once it is whole. In CSV, a text that a spreadsheet would run as a formula has an apostrophe
before it.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    #[command(subcommand)]
    command: ExportCommand,
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// Every leg of every posted transaction, in the order of the log.
    Journal {
        #[command(flatten)]
        range: RangeArgs,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Every entry of one account, with the balance after it.
    Statement {
        /// Name of the account.
        account: String,
        #[command(flatten)]
        range: RangeArgs,
        #[command(flatten)]
        file: FileArgs,
    },
    /// The totals of every account, at one position.
    TrialBalance {
        #[command(flatten)]
        file: FileArgs,
    },
}

#[derive(Debug, Args)]
struct RangeArgs {
    /// Begin at this position of the log.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from_position: Option<u64>,

    /// End with this position.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    to_position: Option<u64>,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// Where to write it; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// By default what the file's name ends with.
    #[arg(long, value_enum)]
    format: Option<Format>,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Csv,
    Ndjson,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Format::Csv),
            "ndjson" | "jsonl" => Some(Format::Ndjson),
            "parquet" => Some(Format::Parquet),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::Ndjson => "ndjson",
            Format::Parquet => "parquet",
        }
    }
}

pub async fn run(args: ExportArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let (what, account, range, file) = match args.command {
        ExportCommand::Journal { range, file } => ("journal", None, Some(range), file),
        ExportCommand::Statement { account, range, file } => ("statement", Some(account), Some(range), file),
        ExportCommand::TrialBalance { file } => ("trial-balance", None, None, file),
    };
    let format = file.format.or_else(|| Format::of(&file.output));
    let format = format.context("say with --format whether to write csv, ndjson or parquet")?;
    let mut query = vec![("format", format.name().to_owned())];
    query.extend(account.map(|code| ("account", code)));
    if let Some(range) = range {
        query.extend(range.from_position.map(|position| ("from_position", position.to_string())));
        query.extend(range.to_position.map(|position| ("to_position", position.to_string())));
    }
    let client = Client::new(&file.api)?;
    if file.output.as_os_str() == "-" {
        write(&client, what, &query, &mut std::io::stdout().lock()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let beside = beside(&file.output)?;
    let written = write_beside(&client, what, &query, &beside).await;
    let (bytes, position) = match written {
        Ok(written) => written,
        Err(error) => {
            // What is left of it is of no use; if it cannot be removed, it still has not the name.
            _ = std::fs::remove_file(&beside);
            return Err(error);
        }
    };
    std::fs::rename(&beside, &file.output).with_context(|| format!("cannot write {}", file.output.display()))?;
    if output.is_json() {
        output.print_json(&json!({"file": file.output, "bytes": bytes, "position": position}))?;
    } else {
        let path = file.output.display();
        output.print_line(&format!("{path}: {} bytes, as of position {position}", grouped(bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a file is until it is whole: in the same directory, so that it can be renamed.
fn beside(path: &Path) -> anyhow::Result<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().with_context(|| format!("{} is no name of a file", path.display()))?);
    name.push(".part");
    Ok(path.with_file_name(name))
}

async fn write_beside(
    client: &Client,
    what: &str,
    query: &[(&str, String)],
    path: &Path,
) -> anyhow::Result<(u64, u64)> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(cannot)?);
    let written = write(client, what, query, &mut file).await?;
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .with_context(cannot)?;
    Ok(written)
}

/// Bytes, and the position that they reflect.
async fn write(
    client: &Client,
    what: &str,
    query: &[(&str, String)],
    to: &mut impl Write,
) -> anyhow::Result<(u64, u64)> {
    let mut response = client.export(what, query).await?;
    let position = response.headers().get("ledger-position").and_then(|value| value.to_str().ok()?.parse().ok());
    let bar = progress::bytes("export");
    let mut bytes = 0;
    loop {
        let more = tokio::time::timeout(SILENCE_MAX, client.more(&mut response)).await;
        let Some(block) = more.unwrap_or_else(|_| Err(client.silent()))? else { break };
        to.write_all(&block).context("the export cannot be written")?;
        bytes += block.len() as u64;
        bar.set_position(bytes);
    }
    to.flush().context("the export cannot be written")?;
    bar.finish_and_clear();
    Ok((bytes, position.unwrap_or(0)))
}
