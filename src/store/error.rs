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
    /// Anything else: a missing privilege, a full disk, a defect.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
}

impl Error {
    /// Whether the same statement may succeed when it is tried again.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Transient(_))
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
        match database.code().as_deref() {
            Some("40001" | "40P01" | "55P03") => Self::Transient(error),
            // 57P0x: the server or the session is being shut down. 53300: no
            // connection left. 25006: a read-only standby after a failover.
            Some(code) if code.starts_with("08") || code.starts_with("57P0") => Self::Unavailable(error),
            Some("53300" | "25006") => Self::Unavailable(error),
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
