//! The lines that were refused, in a file.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Format;
use crate::http::import::csv;

/// A line that was refused, as the server says it.
#[derive(Debug, Serialize)]
pub(super) struct Refused {
    pub(super) line: u64,
    pub(super) key: Option<String>,
    pub(super) problem: Box<RawValue>,
}

/// Without a path it forgets what it is told.
#[derive(Debug)]
pub(super) struct Report {
    path: Option<PathBuf>,
    format: Format,
    file: Option<BufWriter<File>>,
    bytes: u64,
}

const CSV_HEADER: &[u8] = b"line,key,code,detail,transaction_id\n";

impl Report {
    /// Goes on after the first `bytes` of the file that is there; what is behind belongs to lines that are sent again.
    pub(super) fn open(path: Option<&Path>, bytes: u64) -> anyhow::Result<Report> {
        let Some(path) = path else {
            return Ok(Report { path: None, format: Format::Ndjson, file: None, bytes: 0 });
        };
        let format = Format::of(path).context("a report is .ndjson or .csv")?;
        let cannot = || format!("cannot write {}", path.display());
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path).with_context(cannot)?;
        if file.metadata().with_context(cannot)?.len() < bytes {
            bail!("{} is shorter than when the import was interrupted; remove {0}.state to begin anew", path.display());
        }
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes))).with_context(cannot)?;
        let file = Some(BufWriter::new(file));
        let mut report = Report { path: Some(path.to_owned()), format, file, bytes };
        if bytes == 0 && format == Format::Csv {
            report.append(CSV_HEADER)?;
        }
        Ok(report)
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn write(&mut self, lines: impl Iterator<Item = Refused>) -> anyhow::Result<()> {
        for line in lines {
            if self.file.is_none() {
                continue;
            }
            let mut text = match self.format {
                Format::Ndjson => serde_json::to_vec(&line)?,
                Format::Csv => csv_line(&line)?,
            };
            text.push(b'\n');
            self.append(&text)?;
        }
        Ok(())
    }

    fn append(&mut self, text: &[u8]) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(text).context("the report cannot be written")?;
            self.bytes += text.len() as u64;
        }
        Ok(())
    }

    /// Writes everything to disk, and says how much that is.
    pub(super) fn flush(&mut self) -> anyhow::Result<u64> {
        if let Some(file) = &mut self.file {
            file.flush().and_then(|()| file.get_ref().sync_data()).context("the report cannot be written")?;
        }
        Ok(self.bytes)
    }
}

fn csv_line(refused: &Refused) -> anyhow::Result<Vec<u8>> {
    let problem: Value = serde_json::from_str(refused.problem.get())?;
    let mut line = refused.line.to_string().into_bytes();
    let code = problem["code"].as_str();
    let mut detail = problem["detail"].as_str().unwrap_or_default().to_owned();
    // Where several fields are wrong, the detail only counts them.
    if let Some([_, _, ..]) = problem["errors"].as_array().map(Vec::as_slice) {
        let errors = problem["errors"].as_array().into_iter().flatten();
        let errors = errors.map(|error| {
            format!(
                "{}: {}",
                error["pointer"].as_str().unwrap_or_default(),
                error["detail"].as_str().unwrap_or_default()
            )
        });
        detail = errors.collect::<Vec<_>>().join("; ");
    }
    for text in [refused.key.as_deref(), code, Some(&detail), problem["transaction_id"].as_str()] {
        line.push(b',');
        csv::write_text(&mut line, text.unwrap_or_default());
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_goes_on_where_it_was_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refused.csv");
        let line = |line| {
            Refused {
            line,
            key: Some("=k".to_owned()),
            problem: serde_json::from_str(r#"{"code":"validation_failed","detail":"2 fields are invalid","errors":[{"pointer":"/a","detail":"x, y"},{"pointer":"/b","detail":"z"}]}"#).unwrap(),
        }
        };
        let mut report = Report::open(Some(&path), 0).unwrap();
        report.write([line(3)].into_iter()).unwrap();
        let good = report.flush().unwrap();
        report.write([line(4)].into_iter()).unwrap();
        report.flush().unwrap();
        let mut report = Report::open(Some(&path), good).unwrap();
        report.write([line(5)].into_iter()).unwrap();
        report.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "line,key,code,detail,transaction_id\n\
             3,'=k,validation_failed,\"/a: x, y; /b: z\",\n\
             5,'=k,validation_failed,\"/a: x, y; /b: z\",\n"
        );
        assert!(Report::open(Some(&path), 10_000).is_err());
    }
}
