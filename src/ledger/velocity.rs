//! Velocity limits: how much may move on an account within a window of time.
//!
//! Movements are counted in buckets of time, and every event states what its
//! buckets have then, so that whoever follows the log needs no state from before. A
//! bucket of a rolling window is a sixtieth of it, and counts for as long as any
//! part of it is within the window: the limit may hold a little longer than the
//! window, and never lets more through.

use chrono::{DateTime, Days, NaiveDate, TimeDelta, TimeZone, Utc};

use super::amount::Amount;
use super::event::Position;
use super::name::{AccountCode, AssetCode};
use super::rule::{Direction, Scope, VelocityLimit, Window};
use super::transaction::Side;

/// Buckets of a rolling window.
const BUCKETS: u32 = 60;
/// Clocks are put forward by an hour, in a few places by two or by half of one. A day
/// whose midnight does not exist begins within so many quarters of an hour.
const GAP_QUARTERS_MAX: i32 = 12;

/// What a limit has counted on an account in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Position of the event that set the limit.
    pub limit: Position,
    /// The bucket's beginning, in seconds since 1970, UTC.
    pub bucket: i64,
    /// The oldest bucket of this limit that still counts.
    pub since: i64,
    /// Legs.
    pub count: u32,
    /// Sum of their amounts.
    pub amount: Amount,
}

/// Legs on one account, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Legs; no window sees 2^64 of them.
    pub count: u64,
    /// Sum of their amounts; `None` has more than 38 digits.
    pub amount: Option<Amount>,
}

impl Moved {
    pub const NOTHING: Self = Self { count: 0, amount: Some(Amount::ZERO) };

    /// With one more leg of `amount`.
    pub fn and(self, amount: Amount) -> Self {
        Self { count: self.count + 1, amount: self.amount.and_then(|sum| sum.checked_add(amount)) }
    }

    fn and_counted(self, counted: &Counted) -> Self {
        let amount = self.amount.and_then(|sum| sum.checked_add(counted.amount));
        Self { count: self.count + u64::from(counted.count), amount }
    }
}

/// What all limits have counted on one account, in no order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters(Vec<Counted>);

impl Counters {
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Counted> {
        self.0.iter()
    }

    /// Takes in what an event states, and forgets the limit's buckets that count no longer.
    pub fn set(&mut self, counted: Counted) {
        self.0.retain(|known| {
            known.limit != counted.limit || (known.bucket >= counted.since && known.bucket != counted.bucket)
        });
        self.0.push(counted);
    }

    /// Forgets limits that are not in force any more.
    pub fn keep(&mut self, in_force: impl Fn(Position) -> bool) {
        self.0.retain(|known| in_force(known.limit));
    }

    /// Counts one more leg of `amount`; `None` when it would be more than the limit.
    pub fn count(
        &self,
        limit: &VelocityLimit,
        position: Position,
        amount: Amount,
        at: DateTime<Utc>,
    ) -> Option<Counted> {
        let (bucket, since) = (limit.window.bucket(at), limit.window.since(at));
        if !limit.lets_pass(self.counting(position, since).fold(Moved::NOTHING.and(amount), Moved::and_counted)) {
            return None;
        }
        let before = self.counting(position, since).find(|known| known.bucket == bucket);
        let (count, sum) = before.map_or((0, Amount::ZERO), |known| (known.count, known.amount));
        // More than 38 digits can only be where no limit asks for the sum.
        let amount = sum.checked_add(amount).unwrap_or(Amount::MAX);
        Some(Counted { limit: position, bucket, since, count: count.saturating_add(1), amount })
    }

    /// The earliest time, not before `at`, at which all legs of a request pass
    /// together if nothing else moves; `None` for never. What is counted only leaves
    /// the window then, so that what passes at a time passes at each later one.
    pub fn passes_at(
        &self,
        limit: &VelocityLimit,
        position: Position,
        asked: Moved,
        at: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let mut counting: Vec<&Counted> = self.counting(position, limit.window.since(at)).collect();
        counting.sort_unstable_by_key(|known| known.bucket);
        let fits = |left: &[&Counted]| limit.lets_pass(left.iter().copied().fold(asked, Moved::and_counted));
        match (0..=counting.len()).find(|gone| fits(&counting[*gone..]))? {
            0 => Some(at),
            gone => DateTime::from_timestamp(limit.window.leaves(counting[gone - 1].bucket), 0),
        }
    }

    /// What a limit has counted in the buckets that still count.
    fn counting(&self, position: Position, since: i64) -> impl Iterator<Item = &Counted> {
        self.0.iter().filter(move |known| known.limit == position && known.bucket >= since)
    }
}

impl FromIterator<Counted> for Counters {
    fn from_iter<I: IntoIterator<Item = Counted>>(counted: I) -> Self {
        Self(counted.into_iter().collect())
    }
}

impl VelocityLimit {
    /// Whether legs of the account are counted.
    pub fn covers(&self, account: &AccountCode, asset: &AssetCode) -> bool {
        let in_scope = match &self.scope {
            Scope::Account(code) => account.as_str() == &**code,
            Scope::Prefix(prefix) => account.as_str().starts_with(&**prefix),
        };
        in_scope && self.asset.as_ref().is_none_or(|only| only == asset)
    }

    /// Whether so much may be within one window.
    fn lets_pass(&self, moved: Moved) -> bool {
        self.count_max.is_none_or(|most| moved.count <= u64::from(most))
            && self.amount_max.is_none_or(|most| moved.amount.is_some_and(|sum| sum <= most))
    }

    /// Whether a leg on this side of an account with this normal side is counted.
    pub fn counts(&self, side: Side, normal: Side) -> bool {
        (self.direction == Direction::In) == (side == normal)
    }
}

impl Window {
    /// The beginning of the bucket that `at` lies in, in seconds since 1970.
    pub fn bucket(self, at: DateTime<Utc>) -> i64 {
        match self {
            Self::Rolling { seconds } => {
                let length = bucket_seconds(seconds);
                at.timestamp().div_euclid(length) * length
            }
            Self::Day { zone } => start_of_day(zone, at.with_timezone(&zone).date_naive()),
        }
    }

    /// The oldest bucket that counts at `at`.
    pub fn since(self, at: DateTime<Utc>) -> i64 {
        match self {
            Self::Rolling { seconds } => {
                let length = bucket_seconds(seconds);
                let gone = at.timestamp() - i64::from(seconds) - length;
                (gone.div_euclid(length) + 1) * length
            }
            Self::Day { .. } => self.bucket(at),
        }
    }

    /// When a bucket counts no longer, in seconds since 1970.
    pub fn leaves(self, bucket: i64) -> i64 {
        match self {
            Self::Rolling { seconds } => bucket + bucket_seconds(seconds) + i64::from(seconds),
            Self::Day { zone } => {
                let begun = DateTime::from_timestamp(bucket, 0).unwrap_or_default().with_timezone(&zone);
                start_of_day(zone, begun.date_naive() + Days::new(1))
            }
        }
    }
}

fn bucket_seconds(window_seconds: u32) -> i64 {
    i64::from(window_seconds.div_ceil(BUCKETS).max(1))
}

/// The first moment of a day as the wall clock has it, in seconds since 1970.
fn start_of_day(zone: chrono_tz::Tz, day: NaiveDate) -> i64 {
    let midnight = day.and_time(chrono::NaiveTime::MIN);
    let first = (0..=GAP_QUARTERS_MAX).find_map(|quarters| {
        zone.from_local_datetime(&(midnight + TimeDelta::minutes(i64::from(quarters) * 15))).earliest()
    });
    // A day that a zone has left out altogether, at the date line, begins where the next one does.
    first.map_or_else(|| Utc.from_utc_datetime(&midnight).timestamp(), |first| first.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn limit(window: Window, count_max: Option<u32>, amount_max: Option<u64>) -> VelocityLimit {
        VelocityLimit {
            name: "l".into(),
            scope: Scope::Prefix("wallet:".into()),
            asset: None,
            direction: Direction::Out,
            window,
            count_max,
            amount_max: amount_max.map(Amount::from),
        }
    }

    #[test]
    fn a_rolling_window_passes_again_when_its_oldest_bucket_leaves() {
        let limit = limit(Window::Rolling { seconds: 3_600 }, Some(2), None);
        let mut counters = Counters::default();
        for seconds in [600, 1_200] {
            counters.set(counters.count(&limit, 7, Amount::from(5), at(seconds)).unwrap());
        }
        assert_eq!(counters.count(&limit, 7, Amount::from(5), at(1_300)), None);
        let one = Moved::NOTHING.and(Amount::from(5));
        let passes_at = counters.passes_at(&limit, 7, one, at(1_300)).unwrap();
        assert_eq!(passes_at, at(600 + 60 + 3_600));
        assert!(counters.count(&limit, 7, Amount::from(5), passes_at - TimeDelta::microseconds(1)).is_none());
        assert!(counters.count(&limit, 7, Amount::from(5), passes_at).is_some());
        // Two legs of one request wait for both buckets, and three would be too many at any time.
        let two = one.and(Amount::from(5));
        assert_eq!(counters.passes_at(&limit, 7, two, at(1_300)), Some(at(1_200 + 60 + 3_600)));
        assert_eq!(counters.passes_at(&limit, 7, two.and(Amount::from(5)), at(1_300)), None);
    }

    #[test]
    fn an_amount_above_the_limit_never_passes() {
        let limit = limit(Window::Rolling { seconds: 3_600 }, None, Some(100));
        let counters = Counters::default();
        let asked = |amount: u64| Moved::NOTHING.and(Amount::from(amount));
        assert_eq!(counters.count(&limit, 7, Amount::from(101), at(0)), None);
        assert_eq!(counters.passes_at(&limit, 7, asked(101), at(0)), None);
        assert!(counters.count(&limit, 7, Amount::from(100), at(0)).is_some());
        assert_eq!(counters.passes_at(&limit, 7, asked(100), at(0)), Some(at(0)));
        // A sum of 39 digits is above any limit.
        assert_eq!(counters.passes_at(&limit, 7, asked(1).and(Amount::MAX), at(0)), None);
    }

    #[test]
    fn a_day_is_that_of_its_zone_and_as_long_as_it_is_there() {
        let window = Window::Day { zone: chrono_tz::Europe::Zurich };
        // 2026-10-25 has 25 hours in Zürich, and begins at 22:00 UTC of the day before.
        let begin = Utc.with_ymd_and_hms(2026, 10, 24, 22, 0, 0).unwrap();
        assert_eq!(window.bucket(begin), begin.timestamp());
        assert_eq!(window.bucket(begin - TimeDelta::seconds(1)), begin.timestamp() - 86_400);
        assert_eq!(window.leaves(begin.timestamp()), begin.timestamp() + 25 * 3_600);
        // Midnight did not exist on 2018-11-04 in São Paulo.
        let window = Window::Day { zone: chrono_tz::America::Sao_Paulo };
        let begin = Utc.with_ymd_and_hms(2018, 11, 4, 3, 0, 0).unwrap();
        assert_eq!(window.bucket(begin + TimeDelta::hours(5)), begin.timestamp());
        assert_eq!(window.leaves(begin.timestamp()), begin.timestamp() + 23 * 3_600);
    }

    #[test]
    fn legs_count_by_what_they_do_to_the_balance() {
        let out = limit(Window::Rolling { seconds: 60 }, Some(1), None);
        assert!(out.counts(Side::Debit, Side::Credit) && out.counts(Side::Credit, Side::Debit));
        assert!(!out.counts(Side::Debit, Side::Debit) && !out.counts(Side::Credit, Side::Credit));
    }

    proptest! {
        /// However movements come, no window of the stated length holds more than the limit.
        #[test]
        fn no_window_holds_more_than_the_limit(
            seconds in 60_u32..10_000,
            steps in prop::collection::vec((0_i64..2_000, 1_u64..50), 1..120),
        ) {
            let limit = limit(Window::Rolling { seconds }, Some(10), Some(200));
            let mut counters = Counters::default();
            let mut passed: Vec<(i64, u64)> = Vec::new();
            let mut now = 1_800_000_000;
            for (step, amount) in steps {
                now += step;
                match counters.count(&limit, 7, Amount::from(amount), at(now)) {
                    Some(counted) => {
                        counters.set(counted);
                        passed.push((now, amount));
                    }
                    None => {
                        let asked = Moved::NOTHING.and(Amount::from(amount));
                        let passes_at = counters.passes_at(&limit, 7, asked, at(now));
                        let passes_at = passes_at.expect("each amount is below the limit");
                        prop_assert!(passes_at > at(now));
                        prop_assert!(counters.count(&limit, 7, Amount::from(amount), passes_at).is_some());
                    }
                }
                let within = passed.iter().filter(|(time, _)| *time > now - i64::from(seconds));
                let (count, sum) = within.fold((0, 0), |(count, sum), (_, amount)| (count + 1, sum + amount));
                prop_assert!(count <= 10 && sum <= 200);
            }
        }

        #[test]
        fn a_day_contains_its_moments(seconds in 1_500_000_000_i64..2_500_000_000, zone in prop::sample::select(&chrono_tz::TZ_VARIANTS[..])) {
            let window = Window::Day { zone };
            let bucket = window.bucket(at(seconds));
            prop_assert!(bucket <= seconds && seconds < window.leaves(bucket));
        }
    }
}
