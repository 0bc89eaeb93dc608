//! How far an import is, in a small file, so that the next run need not send what is recorded.
//!
//! It is written after the server has acknowledged what it says, and replaced as a whole, so it is never ahead of the
//! truth and never half. Without it everything is sent again, and found by its keys.
//!
//! It is good only for a file that begins as the one that was sent: in one that was edited before the place, the place
//! may lie within a line, and the numbers of lines, which are keys, may be others. So it has a hash of all that was
//! sent up to there, and the file is read again before it is believed.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::source::Prefix;
use super::{Done, Format, with_suffix};

/// What an import is of. A state of another one is no state of this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    /// Of the file, without the directory.
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) ledger: String,
    pub(super) id: Option<String>,
    pub(super) format: Format,
    pub(super) equity: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    subject: Subject,
    pub(super) done: Done,
    /// How much of the report belongs to it.
    pub(super) report_bytes: u64,
    /// How the file began, up to what is done at least.
    #[serde(default)]
    pub(super) prefix: Option<Prefix>,
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

    /// What was saved of this import.
    ///
    /// # Errors
    /// The file of this name was imported with another id, which its lines without keys have been recorded under, and
    /// nobody has said which one is meant.
    pub(super) fn load(&self, id_is_given: bool) -> anyhow::Result<Option<Saved>> {
        let Some(path) = &self.path else { return Ok(None) };
        let saved = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Saved>(&text).ok());
        let Some(saved) = saved else { return Ok(None) };
        let (before, now) = (&saved.subject, &self.subject);
        let is_same_file = before.name.is_some() && before.name == now.name && before.ledger == now.ledger;
        if let (true, Some(id)) = (is_same_file && before.id != now.id && !id_is_given, &before.id) {
            anyhow::bail!(
                "a file of this name was imported with the id {id} and not all of its lines are recorded; this one \
                 begins otherwise, and with an id of its own every line without a key would be recorded again. If it \
                 is that file, corrected, say --id {id}; if it is another one, remove {} first",
                path.display()
            );
        }
        Ok((before == now).then_some(saved))
    }

    /// Keeps what is done, and how the file begins up to there.
    pub(super) fn save(&self, done: &Done, report_bytes: u64, prefix: Option<Prefix>) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let saved = Saved { subject: self.subject.clone(), done: *done, report_bytes, prefix };
        let beside = with_suffix(path, ".new");
        let cannot = || format!("cannot write {}; with --report its state is kept beside the report", path.display());
        let mut file = File::create(&beside).with_context(cannot)?;
        file.write_all(&serde_json::to_vec(&saved)?).and_then(|()| file.sync_data()).with_context(cannot)?;
        fs::rename(&beside, path).with_context(cannot)
    }

    /// All is done but for lines that were refused: the next run begins anew, with the same id.
    pub(super) fn rewind(&self) -> anyhow::Result<()> {
        self.save(&Done::default(), 0, None)
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
            name: Some("f.csv".to_owned()),
            ledger: "main".to_owned(),
            id: Some("i".to_owned()),
            format: Format::Csv,
            equity: None,
        };
        let of = |subject: Subject| State::open(Some(path.clone()), subject);
        let state = of(subject.clone());
        assert_eq!(state.load(false).unwrap(), None);
        let done = Done { offset: 50, line: 3, ..Done::default() };
        state.save(&done, 7, None).unwrap();
        let saved = state.load(false).unwrap().unwrap();
        assert_eq!((saved.done, saved.report_bytes), (done, 7));
        assert_eq!(of(Subject { ledger: "other".to_owned(), ..subject.clone() }).load(false).unwrap(), None);
        let renamed = Subject { name: Some("g.csv".to_owned()), id: Some("j".to_owned()), ..subject.clone() };
        assert_eq!(of(renamed).load(false).unwrap(), None);
        let edited = of(Subject { id: Some("j".to_owned()), ..subject });
        assert_eq!(edited.load(true).unwrap(), None);
        let edited = edited.load(false).unwrap_err().to_string();
        assert!(edited.contains("--id i;"), "{edited}");
        state.rewind().unwrap();
        assert_eq!(state.load(false).unwrap().unwrap().done, Done::default());
        state.remove().unwrap();
        state.remove().unwrap();
        assert_eq!(state.load(false).unwrap(), None);
    }
}
