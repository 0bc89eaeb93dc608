//! Rows of a table, in one of three formats.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;

use super::super::import::csv;
use super::super::problem::{Code, Problem};
use super::parquet;
use crate::ledger::Amount;

/// Encoded bytes that go out together.
const OUT_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    Ndjson,
    Parquet,
}

impl Format {
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Ndjson => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    pub const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    /// DECIMAL(38,0), and a string in JSON.
    Amount,
    /// Microseconds in UTC.
    Time,
    /// A JSON object.
    Json,
}

#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub nullable: bool,
}

impl Column {
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, nullable: false }
    }

    pub const fn nullable(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, nullable: true }
    }
}

/// What is in one column of one row.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Null,
    Text(&'a str),
    Integer(i64),
    Amount(Amount),
    Time(DateTime<Utc>),
    Json(&'a str),
}

impl<'a> Value<'a> {
    pub fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

/// Why a row cannot be encoded: a defect.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("{0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("the value of {0} is of another kind")]
    Kind(&'static str),
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        tracing::error!(error = %failed, "an export could not be begun");
        Self::new(Code::InternalError, "the export could not be begun")
    }
}

/// Encodes rows; what is ready is taken bit by bit.
pub struct Encoder {
    columns: &'static [Column],
    out: Vec<u8>,
    form: Form,
}

enum Form {
    Csv,
    Ndjson,
    Parquet(Box<parquet::Writer>),
}

impl Encoder {
    /// # Errors
    /// A defect: columns that the format cannot have.
    pub fn new(format: Format, columns: &'static [Column]) -> Result<Self, Failed> {
        let mut out = Vec::new();
        let form = match format {
            Format::Csv => {
                let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
                out.extend_from_slice(names.join(",").as_bytes());
                out.extend_from_slice(b"\r\n");
                Form::Csv
            }
            Format::Ndjson => Form::Ndjson,
            Format::Parquet => Form::Parquet(Box::new(parquet::Writer::new(columns)?)),
        };
        Ok(Self { columns, out, form })
    }

    /// # Errors
    /// A defect: values that are not those of the columns.
    pub fn row(&mut self, values: &[Value<'_>]) -> Result<(), Failed> {
        debug_assert_eq!(values.len(), self.columns.len(), "a row has a value for each column");
        match &mut self.form {
            Form::Csv => csv_row(&mut self.out, values),
            Form::Ndjson => json_row(&mut self.out, self.columns, values)?,
            Form::Parquet(writer) => writer.row(values, &mut self.out)?,
        }
        Ok(())
    }

    /// What is ready to go out, if it is worth it.
    pub fn take(&mut self) -> Option<Bytes> {
        (self.out.len() >= OUT_BYTES).then(|| std::mem::take(&mut self.out).into())
    }

    /// The rest.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub fn finish(self) -> Result<Bytes, Failed> {
        let mut out = self.out;
        if let Form::Parquet(writer) = self.form {
            writer.finish(&mut out)?;
        }
        Ok(out.into())
    }
}

/// RFC 4180; what is null is empty.
fn csv_row(out: &mut Vec<u8>, values: &[Value<'_>]) {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match value {
            Value::Null => {}
            Value::Text(text) | Value::Json(text) => csv::write_text(out, text),
            Value::Integer(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            Value::Amount(amount) => out.extend_from_slice(itoa::Buffer::new().format(amount.get()).as_bytes()),
            Value::Time(time) => out.extend_from_slice(text_of(time).as_bytes()),
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn json_row(out: &mut Vec<u8>, columns: &[Column], values: &[Value<'_>]) -> Result<(), Failed> {
    for (index, (column, value)) in columns.iter().zip(values).enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        out.push(b'"');
        out.extend_from_slice(column.name.as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Text(text) => serde_json::to_writer(&mut *out, text)?,
            Value::Json(json) => out.extend_from_slice(json.as_bytes()),
            Value::Integer(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
            Value::Amount(amount) => {
                out.push(b'"');
                out.extend_from_slice(itoa::Buffer::new().format(amount.get()).as_bytes());
                out.push(b'"');
            }
            Value::Time(time) => {
                out.push(b'"');
                out.extend_from_slice(text_of(time).as_bytes());
                out.push(b'"');
            }
        }
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn text_of(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
