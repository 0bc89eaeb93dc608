//! How far an import is, in a small file, so that the next run need not send what is recorded.
//!
//! It is written after the server has acknowledged what it says, and replaced as a whole, so it is never ahead of the
//! truth and never half. Without it everything is sent again, and found by its keys.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{Done, Format, with_suffix};

/// What an import is of. A state of another one is no state of this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) ledger: String,
    pub(super) id: Option<String>,
    pub(super) format: Format,
    pub(super) equity: Option<String>,
    /// Hash of the file's beginning.
    pub(super) head: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    subject: Subject,
    done: Done,
    /// How much of the report belongs to it.
    report_bytes: u64,
}

#[derive(Debug)]
pub(super) struct State {
    path: Option<PathBuf>,
    subject: Subject,
}

impl State {
    pub(super) fn open(path: Option<PathBuf>, subject: Subject) -> State {
        State { path, subject }
    }

    /// What was done of a file that is at least as long as it was, and how much of the report belongs to that.
    pub(super) fn load(&self, len: Option<u64>) -> Option<(Done, u64)> {
        let text = fs::read(self.path.as_ref()?).ok()?;
        let saved: Saved = serde_json::from_slice(&text).ok()?;
        let fits = saved.subject == self.subject && len.is_some_and(|len| saved.done.offset <= len);
        fits.then_some((saved.done, saved.report_bytes))
    }

    pub(super) fn save(&self, done: &Done, report_bytes: u64) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let saved = Saved { subject: self.subject.clone(), done: *done, report_bytes };
        let beside = with_suffix(path, ".new");
        let cannot = || format!("cannot write {}; with --report its state is kept beside the report", path.display());
        let mut file = File::create(&beside).with_context(cannot)?;
        file.write_all(&serde_json::to_vec(&saved)?).and_then(|()| file.sync_data()).with_context(cannot)?;
        fs::rename(&beside, path).with_context(cannot)
    }

    /// All is done: the next run is another import.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        match self.path.as_ref().map(fs::remove_file) {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_of_one_file_and_one_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let subject = Subject {
            ledger: "main".to_owned(),
            id: Some("i".to_owned()),
            format: Format::Csv,
            equity: None,
            head: "h".to_owned(),
        };
        let state = State::open(Some(path.clone()), subject.clone());
        assert_eq!(state.load(Some(100)), None);
        let done = Done { offset: 50, line: 3, ..Done::default() };
        state.save(&done, 7).unwrap();
        assert_eq!(state.load(Some(100)), Some((done, 7)));
        assert_eq!(state.load(Some(49)), None, "the file is shorter");
        let other = State::open(Some(path), Subject { head: "other".to_owned(), ..subject });
        assert_eq!(other.load(Some(100)), None);
        state.remove().unwrap();
        state.remove().unwrap();
        assert_eq!(state.load(Some(100)), None);
    }
}
