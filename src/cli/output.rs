//! What the commands print.
//!
//! Colour is used only where the stream is a terminal and `NO_COLOR` is not set.
//! Text that came from the ledger (references, details of problems) is printed with its control characters escaped,
//! so that nobody can write to an operator's terminal through a payment's reference.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

use super::client::ClientError;

/// Where a command's results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one JSON document, indented, on standard output.
    pub fn print_json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        write_stdout(text.as_bytes())
    }

    /// Prints one line on standard output.
    pub fn print_line(&self, line: &str) -> anyhow::Result<()> {
        write_stdout(format!("{line}\n").as_bytes())
    }

    /// Prints a piece of a text as it is.
    pub fn print_bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        write_stdout(bytes)
    }

    pub fn print_table(&self, table: &Table) -> anyhow::Result<()> {
        write_stdout(render(table).as_bytes())
    }

    /// A remark for a person: on standard error, so that it never gets into a pipe.
    pub fn note(&self, text: &str) {
        // Standard error that cannot be written leaves nobody to tell.
        let _ = writeln!(io::stderr(), "{}", text.if_supports_color(Stream::Stderr, |text| text.dimmed()));
    }
}

/// How one column of a table is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Text(&'static str),
    /// Right-aligned, so that digits of one weight stand below each other.
    Number(&'static str),
}

/// A table with a header line and no borders: readable, and easy to cut with `awk`.
pub fn table(columns: &[Column]) -> Table {
    let mut table = bare_table();
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => *name,
    }));
    for (index, column) in columns.iter().enumerate() {
        let set = table.column_mut(index).expect("the header has just made this column");
        set.set_padding((0, 2));
        if matches!(column, Column::Number(_)) {
            set.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table of names and values, for one thing.
pub fn facts<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> Table {
    let mut table = bare_table();
    for (name, value) in rows {
        table.add_row([name, value.as_str()]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn render(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The text with control characters written as escapes.
pub fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            let _ = write!(printed, "{}", character.escape_default());
        } else {
            printed.push(character);
        }
    }
    printed
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints an error on standard error: for programs the problem as JSON, for people what happened and what to do.
pub fn print_failure(error: &anyhow::Error, json: bool) {
    let text = if json {
        format!("{}\n", failure_json(error))
    } else {
        let label = "error:";
        format!("{} {}", label.if_supports_color(Stream::Stderr, |label| label.red()), failure_text(error))
    };
    // Standard error that cannot be written leaves nobody to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn failure_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    // The chain on one line: "cannot read x: permission denied".
    let _ = writeln!(text, "{error:#}");
    if let Some(advice) = error.downcast_ref::<ClientError>().and_then(ClientError::advice) {
        for line in advice.lines() {
            let _ = writeln!(text, "  hint: {line}");
        }
    }
    text
}

fn failure_json(error: &anyhow::Error) -> serde_json::Value {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Problem(problem)) => problem.to_json(),
        Some(client_error) => serde_json::json!({
            "title": client_error.to_string(),
            "detail": client_error.advice(),
        }),
        None => serde_json::json!({ "title": format!("{error:#}") }),
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is the end of the work, not an error.
fn write_stdout(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_numbers_right_and_leave_no_trailing_space() {
        let mut table = table(&[Column::Text("ACCOUNT"), Column::Number("POSTED"), Column::Text("STATUS")]);
        table.force_no_tty();
        table.add_row(["wallet:alice", "1250", "open"]);
        table.add_row(["wallet:b", "7", "frozen"]);
        let expected = "\
ACCOUNT       POSTED  STATUS
wallet:alice    1250  open
wallet:b           7  frozen
";
        assert_eq!(render(&table), expected);
    }

    #[test]
    fn facts_stand_in_two_columns() {
        let mut table = facts([("asset", "EUR".to_owned()), ("normal side", "credit".to_owned())]);
        table.force_no_tty();
        assert_eq!(render(&table), "asset        EUR\nnormal side  credit\n");
    }

    #[test]
    fn a_reference_cannot_write_to_the_terminal() {
        assert_eq!(printable("inv-1 \u{1b}[2J\n"), "inv-1 \\u{1b}[2J\\n");
        assert_eq!(printable("Grüße 12 €"), "Grüße 12 €");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let error = anyhow::Error::from(ClientError::Unreachable {
            url: "http://127.0.0.1:8080/".parse().unwrap(),
            reason: "Connection refused (os error 111)".to_owned(),
        });
        let expected = "\
cannot reach http://127.0.0.1:8080/: Connection refused (os error 111)
  hint: is `steelyard serve` running at http://127.0.0.1:8080/? Another address is given with --url or STEELYARD_URL.
";
        assert_eq!(failure_text(&error), expected);
    }
}
