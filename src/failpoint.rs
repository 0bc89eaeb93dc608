//! Places at which a test kills the process, or lets a task panic:
//! `STEELYARD_FAILPOINT=name:n` ends the process, as `kill -9` would, when it
//! passes the named place for the n-th time; `name:n:panic` panics there, and
//! `name:n:stop` freezes the process until it gets a SIGCONT.
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
        action: Option<String>,
    }

    /// Microseconds, unless the machine is very busy.
    const SIGNAL_ARRIVES: std::time::Duration = std::time::Duration::from_millis(100);

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let setting = std::env::var("STEELYARD_FAILPOINT").ok()?;
        let mut parts = setting.split(':');
        let (name, left) = (parts.next()?.to_owned(), AtomicU64::new(parts.next()?.parse().ok()?));
        Some(Armed { name, left, action: parts.next().map(str::to_owned) })
    });
    if let Some(armed) = &*ARMED
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        let signal = match armed.action.as_deref() {
            Some("panic") => panic!("failpoint {name}"),
            Some("stop") => rustix::process::Signal::STOP,
            _ => rustix::process::Signal::KILL,
        };
        _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        // The signal may go to another thread first; this one must not get past the place meanwhile.
        std::thread::sleep(SIGNAL_ARRIVES);
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub const fn failpoint(_name: &str) {}
