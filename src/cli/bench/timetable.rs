//! When the requests of a run at a fixed rate are due.
//!
//! The timetable does not wait for answers. Latency counts from the time at which a request was due, so a service that
//! stalls is charged for every request that had to wait, and not only for those that happened to be in flight
//! (Gil Tene calls the mistake "coordinated omission").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The dispatcher sleeps at least this long, so that at high rates it wakes 5,000 times a second and not 100,000
/// times. No request is sent later than this because of it.
const DISPATCH_INTERVAL_MIN: Duration = Duration::from_micros(200);

/// Request number `k` is due `k × payments per request ÷ rate` after the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timetable {
    payments_per_second: u128,
    payments_per_request: u128,
    /// How many requests are due in the whole run.
    requests: u64,
}

impl Timetable {
    pub(super) fn new(payments_per_second: u32, payments_per_request: u32, duration: Duration) -> Timetable {
        let payments_per_second = u128::from(payments_per_second);
        let payments_per_request = u128::from(payments_per_request);
        // Those that are due before the end: the first at 0, none at the end itself.
        let requests = (duration.as_nanos() * payments_per_second).div_ceil(payments_per_request * NANOS_PER_SECOND);
        Timetable { payments_per_second, payments_per_request, requests: saturating_u64(requests) }
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    /// When the request is due, counted from the start.
    pub(super) fn due_at(&self, request: u64) -> Duration {
        let nanos = u128::from(request) * self.payments_per_request * NANOS_PER_SECOND / self.payments_per_second;
        Duration::from_nanos(saturating_u64(nanos))
    }

    /// How many requests are due by then.
    fn due_by(&self, elapsed: Duration) -> u64 {
        let whole = elapsed.as_nanos() * self.payments_per_second / (self.payments_per_request * NANOS_PER_SECOND);
        saturating_u64(whole + 1).min(self.requests)
    }
}

fn saturating_u64(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Hands requests to whichever connection is free, each when it is due.
pub(super) struct Dispatch {
    timetable: Timetable,
    due: Semaphore,
    taken: AtomicU64,
}

impl Dispatch {
    pub(super) fn new(timetable: Timetable) -> Dispatch {
        Dispatch { timetable, due: Semaphore::new(0), taken: AtomicU64::new(0) }
    }

    /// Releases the requests as they fall due, and returns when the last was. It blocks its thread: timers of the
    /// asynchronous runtime are only exact to a millisecond.
    pub(super) fn run(&self, start: Instant, connections: usize) {
        let total = self.timetable.requests();
        let mut released = 0;
        while released < total {
            let elapsed = start.elapsed();
            let due = self.timetable.due_by(elapsed);
            if due > released {
                self.due.add_permits(usize::try_from(due - released).expect("a run fits into memory"));
                released = due;
            }
            if released < total {
                let wait = self.timetable.due_at(released).saturating_sub(start.elapsed());
                std::thread::sleep(wait.max(DISPATCH_INTERVAL_MIN));
            }
        }
        // One more for each connection, which tells it that there is nothing left.
        self.due.add_permits(connections);
    }

    /// Waits for the next request that is due: its time, counted from the start. `None` when there are no more.
    pub(super) async fn next(&self) -> Option<Duration> {
        self.due.acquire().await.expect("the semaphore is never closed").forget();
        let request = self.taken.fetch_add(1, Ordering::Relaxed);
        (request < self.timetable.requests()).then(|| self.timetable.due_at(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_evenly_and_fill_the_duration() {
        let timetable = Timetable::new(5_000, 1, Duration::from_secs(2));
        assert_eq!(timetable.requests(), 10_000);
        assert_eq!(timetable.due_at(0), Duration::ZERO);
        assert_eq!(timetable.due_at(1), Duration::from_micros(200));
        assert_eq!(timetable.due_at(9_999), Duration::from_micros(1_999_800));
    }

    #[test]
    fn the_rate_is_of_payments_whatever_the_batch() {
        let timetable = Timetable::new(1_000, 50, Duration::from_secs(1));
        assert_eq!(timetable.requests(), 20);
        assert_eq!(timetable.due_at(1), Duration::from_millis(50));
        // A batch that is due every 2.5 s is due four times within 10 s.
        assert_eq!(Timetable::new(4_000, 10_000, Duration::from_secs(10)).requests(), 4);
    }

    #[test]
    fn what_is_due_agrees_with_when_it_is_due() {
        for (rate, batch) in [(1, 1), (3, 1), (7, 3), (999_983, 1), (10_000_000, 10_000)] {
            let timetable = Timetable::new(rate, batch, Duration::from_secs(3));
            for request in 0..timetable.requests().min(1_000) {
                let due_at = timetable.due_at(request);
                // `due_at` is cut to whole nanoseconds, so it may be one early.
                assert!(timetable.due_by(due_at + Duration::from_nanos(1)) > request, "{rate} {batch} {request}");
                assert!(due_at < Duration::from_secs(3));
                if request > 0 {
                    let just_before = due_at - Duration::from_nanos(1);
                    assert!(timetable.due_by(just_before) <= request, "{rate} {batch} {request}");
                }
            }
            assert_eq!(timetable.due_by(Duration::from_secs(100)), timetable.requests());
        }
    }

    #[tokio::test]
    async fn each_request_is_handed_out_once_and_then_each_connection_is_told_to_stop() {
        let timetable = Timetable::new(100_000, 1, Duration::from_millis(5));
        let dispatch = Dispatch::new(timetable);
        dispatch.run(Instant::now(), 3);
        for request in 0..timetable.requests() {
            assert_eq!(dispatch.next().await, Some(timetable.due_at(request)));
        }
        for _connection in 0..3 {
            assert_eq!(dispatch.next().await, None);
        }
    }
}
