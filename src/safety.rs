//! Safeties that a test switches off, one at a time, to show that its checks
//! notice: `STEELYARD_SAFETY_OFF=epoch`, `read_back` or `checkpoint`.
//! Release builds have none of this.

/// What can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// An append is refused when its claim has a newer epoch.
    Epoch,
    /// An append whose outcome is not known is read back from the log. Without
    /// that it is taken for committed.
    ReadBack,
    /// A flush moves a checkpoint only from where it believes it to be.
    Checkpoint,
}

/// Whether a test wants to do without it.
#[cfg(debug_assertions)]
pub fn is_off(safety: Safety) -> bool {
    use std::sync::LazyLock;

    static OFF: LazyLock<Option<Safety>> =
        LazyLock::new(|| match std::env::var("STEELYARD_SAFETY_OFF").ok()?.as_str() {
            "epoch" => Some(Safety::Epoch),
            "read_back" => Some(Safety::ReadBack),
            "checkpoint" => Some(Safety::Checkpoint),
            _ => None,
        });
    *OFF == Some(safety)
}

/// Never, in a release build.
#[cfg(not(debug_assertions))]
pub const fn is_off(_safety: Safety) -> bool {
    false
}
