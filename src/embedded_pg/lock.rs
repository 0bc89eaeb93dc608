//! Advisory file locks between the processes that share one built-in PostgreSQL.
//!
//! `flock` locks belong to an open file, so the kernel releases them when their process dies, however it dies.
//! Every lock is also released by name when it is dropped: a child that is between `fork` and `exec` at that moment
//! shares the open file, and closing ours alone would leave the lock with the child.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::error::{At, Error};

/// How often a busy lock is tried again. A person who waits for a start does not notice 20 ms.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// How long to wait before saying that we wait. Most starts are done by then.
const SAY_SO_AFTER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// A lock on a file, held until it is dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Opens the file, creating it where needed, and waits until the lock is ours, at most `limit`.
    pub(super) async fn acquire(path: &Path, mode: Mode, limit: Duration) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .at("open", path)?;
        let lock = Self { file, path: path.to_owned() };
        lock.change(mode, limit).await?;
        Ok(lock)
    }

    /// Waits until the lock has this mode, at most `limit`.
    ///
    /// `flock` converts by giving the old lock up before it takes the new one, so somebody else may come between.
    /// The callers convert the lock of users only while they hold the startup lock, under which alone it is taken.
    pub(super) async fn change(&self, mode: Mode, limit: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let mut said = false;
        while !self.try_change(mode)? {
            if began.elapsed() > limit {
                return Err(Error::LockTimeout { path: self.path.clone(), limit });
            }
            if !said && began.elapsed() > SAY_SO_AFTER {
                said = true;
                tracing::info!(
                    lock = %self.path.display(),
                    "waiting for another process that is starting or stopping the built-in PostgreSQL"
                );
            }
            sleep(RETRY_EVERY).await;
        }
        Ok(())
    }

    /// Takes the lock in this mode if nobody is in the way, and says whether it did.
    /// If somebody is, the lock held before may be gone.
    pub(super) fn try_change(&self, mode: Mode) -> Result<bool, Error> {
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&self.file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
            Err(error) => Err(error).at("lock", &self.path),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Unlocking a file that is open cannot fail in a way that closing it would not mend.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}
