//! What can go wrong between us and PostgreSQL, sorted by what to do about it.

use std::time::Duration;

use super::payload::PayloadError;
use crate::ledger::Position;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection is gone, or none could be had. Whether a statement that
    /// was under way took effect is unknown.
    #[error("the database is not reachable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// PostgreSQL rolled the statement back for a reason that passes
    /// (serialisation failure, deadlock). Nothing took effect.
    #[error("the database asks to try again: {0}")]
    Transient(#[source] sqlx::Error),
    /// PostgreSQL cannot do it at the moment, through no fault of the request: a
    /// full disk, no memory, an I/O error, a cancelled statement. Nothing took effect.
    #[error("the database cannot do it at the moment: {0}")]
    Exhausted(#[source] sqlx::Error),
    /// A unique constraint refused the statement. Nothing took effect.
    #[error("the unique constraint {constraint} refused the statement")]
    UniqueViolation { constraint: String },
    /// The claim has a newer epoch: somebody else is the writer now. Nothing took effect.
    #[error("the claim has changed hands: epoch {epoch} is no longer valid")]
    Fenced { epoch: super::Epoch },
    /// The append before this one failed, so this one was rolled back. Nothing took effect.
    #[error("the append before this one failed")]
    Abandoned,
    /// The log has a hole.
    #[error("the log of ledger {ledger_id} is corrupt: position {expected} is followed by {found}")]
    Hole { ledger_id: super::LedgerId, expected: Position, found: Position },
    #[error("the event at position {position} cannot be read: {source}")]
    Payload { position: Position, source: PayloadError },
    /// An event contradicts what the log or the projections say.
    #[error("the event at position {position} is not consistent with the ledger: {detail}")]
    Corrupt { position: Position, detail: String },
    /// Anything else: a missing privilege, a defect.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
}

impl Error {
    /// Whether the same statement may succeed when it is tried again.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Transient(_) | Self::Exhausted(_))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
                _ => Self::Refused(error),
            };
        };
        if database.is_unique_violation() {
            let constraint = database.constraint().unwrap_or_default().to_owned();
            return Self::UniqueViolation { constraint };
        }
        // Source: PostgreSQL, appendix A, error codes.
        match database.code().as_deref().unwrap_or_default() {
            "40001" | "40P01" | "55P03" => Self::Transient(error),
            // 53300: no connection left. 25006: a read-only standby after a
            // failover. 25P03: a session that was ended in its transaction, because
            // we were too slow.
            "53300" | "25006" | "25P03" => Self::Unavailable(error),
            // 57P0x: the server or the session is being shut down.
            code if code.starts_with("08") || code.starts_with("57P0") => Self::Unavailable(error),
            // 53: no disk, memory or other resource left. 58: the system failed it,
            // an I/O error for one. 57014: somebody cancelled the statement.
            code if code.starts_with("53") || code.starts_with("58") || code == "57014" => Self::Exhausted(error),
            _ => Self::Refused(error),
        }
    }
}

/// Waits for `statement` for no longer than `limit`; then its connection must
/// not be used again. A half-open connection answers nothing, for ever.
///
/// # Errors
/// Those of the statement, and [`Error::Unavailable`] when it did not answer in time.
pub async fn within<T>(
    limit: Duration,
    what: &'static str,
    statement: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, statement).await.unwrap_or_else(|_| Err(timed_out(what)))
}

/// A statement that did not answer in time: its connection must not be used again.
pub fn timed_out(what: &'static str) -> Error {
    Error::Unavailable(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what)))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What PostgreSQL says, with one of its codes.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(Cow::Borrowed(self.0))
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    #[test]
    fn codes_are_sorted_by_what_to_do_about_them() {
        for (codes, expected) in [
            ("40001 40P01 55P03", "Transient"),
            ("08006 57P01 57P05 53300 25006 25P03", "Unavailable"),
            ("53000 53100 53200 53400 58000 58030 57014", "Exhausted"),
            ("42501 23514 22003 XX000", "Refused"),
        ] {
            for code in codes.split(' ') {
                let error = Error::from(sqlx::Error::Database(Box::new(Said(code))));
                assert!(format!("{error:?}").starts_with(expected), "{code}: {error:?}");
                assert_eq!(error.is_retryable(), expected != "Refused", "{code}");
            }
        }
    }
}
