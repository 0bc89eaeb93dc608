//! Time and ids: inputs to the core, made here and nowhere else.

use std::sync::Mutex;

use chrono::{DateTime, Utc};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// Where the time comes from.
pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's own clock. In a debug build a test may put it out by
/// `STEELYARD_CLOCK_SKEW_MS`, either way, as a machine's may be.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> DateTime<Utc> {
        let now = Utc::now();
        #[cfg(debug_assertions)]
        let now = now + *SKEW;
        now
    }
}

#[cfg(debug_assertions)]
static SKEW: std::sync::LazyLock<chrono::TimeDelta> = std::sync::LazyLock::new(|| {
    let skew_ms = std::env::var("STEELYARD_CLOCK_SKEW_MS").ok().and_then(|text| text.parse().ok());
    chrono::TimeDelta::milliseconds(skew_ms.unwrap_or(0))
});

/// A clock that a test sets, and that may run backwards.
#[derive(Debug)]
pub struct ManualClock(Mutex<DateTime<Utc>>);

impl ManualClock {
    pub const fn new(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(now))
    }

    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Makes transaction ids: uuid v7, so that they sort by time and the index on
/// them grows at its right edge.
#[derive(Debug)]
pub struct IdSource(SmallRng);

impl IdSource {
    pub fn new() -> Self {
        Self(SmallRng::from_rng(&mut rand::rng()))
    }

    /// Ids that a test can foresee.
    pub fn seeded(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// An id for `at`. The fraction of the millisecond goes into the 12 bits
    /// after it, which RFC 9562 (section 6.2, method 3) provides for.
    pub fn next(&mut self, at: DateTime<Utc>) -> Uuid {
        let micros = u64::try_from(at.timestamp_micros()).unwrap_or(0);
        let mut bytes: [u8; 10] = self.0.random();
        let fraction = ((micros % 1_000) * 4) as u16;
        bytes[..2].copy_from_slice(&fraction.to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(micros / 1_000, &bytes).into_uuid()
    }
}

impl Default for IdSource {
    fn default() -> Self {
        Self::new()
    }
}

/// The time of a fact: microseconds, since PostgreSQL keeps no finer, and never
/// before the fact before it.
pub fn recorded_at(clock: &dyn Clock, last: DateTime<Utc>) -> DateTime<Utc> {
    let now = clock.now();
    DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now).max(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time() {
        let mut ids = IdSource::seeded(7);
        let start = DateTime::from_timestamp_micros(1_800_000_000_000_000).unwrap();
        let made: Vec<Uuid> = (0..5_000).map(|i| ids.next(start + chrono::Duration::microseconds(i))).collect();
        assert!(made.is_sorted());
        assert!(made.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn recorded_time_never_runs_backwards() {
        let noon = DateTime::from_timestamp(1_800_000_000, 123_456_789).unwrap();
        let clock = ManualClock::new(noon);
        let first = recorded_at(&clock, DateTime::UNIX_EPOCH);
        assert_eq!(first.timestamp_subsec_nanos(), 123_456_000);
        clock.set(noon - chrono::Duration::hours(1));
        assert_eq!(recorded_at(&clock, first), first);
    }
}
