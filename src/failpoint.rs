//! Places at which a test kills the process, or lets a task panic:
//! `STEELYARD_FAILPOINT=name:n` ends the process, as `kill -9` would, when it
//! passes the named place for the n-th time; `name:n:panic` panics there.
//! Release builds have none of this.

/// Dies here if a test wants so.
///
/// # Panics
/// If a test wants so.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        left: AtomicU64,
        panics: bool,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let setting = std::env::var("STEELYARD_FAILPOINT").ok()?;
        let mut parts = setting.split(':');
        let (name, left) = (parts.next()?.to_owned(), AtomicU64::new(parts.next()?.parse().ok()?));
        Some(Armed { name, left, panics: parts.next() == Some("panic") })
    });
    if let Some(armed) = &*ARMED
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        assert!(!armed.panics, "failpoint {name}");
        _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub const fn failpoint(_name: &str) {}
