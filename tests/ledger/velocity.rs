//! What velocity limits have counted on accounts that memory let go. What they count is
//! in the tests of the core.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use smallvec::smallvec;
use steelyard::clock::ManualClock;
use steelyard::cluster::{Ledger, Worker};
use steelyard::ledger::{Amount, Command, Direction, Fact, Rejection, Rule, Scope, VelocityLimit, Window};
use steelyard::sequencer::{Item, Outcome, Work};
use tokio::time::Instant;

use super::{PATIENCE, eur, main_ledger, open, open_accounts, payment, submit, worker_with};
use crate::support::Postgres;

/// 09:00 in Zürich, and the beginning of a minute.
const START: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
/// Seconds from then to midnight there.
const MIDNIGHT_S: i64 = 15 * 3_600;

/// A worker that lets every account go as soon as it may, and its clock.
struct Bench {
    clock: Arc<ManualClock>,
    worker: Worker,
    ledger: Arc<Ledger>,
    payments: u64,
}

impl Bench {
    async fn start() -> Self {
        let url = Postgres::shared().await.database().await;
        let clock = Arc::new(ManualClock::new(START));
        let worker = worker_with(&url, clock.clone(), 0).await;
        let ledger = main_ledger(&worker);
        open_accounts(&ledger).await;
        Self { clock, worker, ledger, payments: 0 }
    }

    async fn limit(&self, prefix: &str, window: Window, count_max: Option<u32>, amount_max: Option<u64>) {
        let rule = Rule::VelocityLimit(VelocityLimit {
            name: prefix.into(),
            scope: Scope::Prefix(prefix.into()),
            asset: Some(eur()),
            direction: Direction::Out,
            window,
            count_max,
            amount_max: amount_max.map(Amount::from),
        });
        submit(&self.ledger, Item { command: Command::SetRule(rule), key: None }).await.expect("it is set");
    }

    /// Lets all accounts go but the two of one more payment: their projections are
    /// exact, and it is at its commit that memory is given back, before anything else
    /// is decided.
    async fn forget(&mut self) {
        let head = self.ledger.tail.head();
        tokio::time::timeout(PATIENCE, self.ledger.checkpoints.reached(head)).await.expect("it is projected");
        self.pay("bank", "a", 1).await.expect("no limit is on it");
    }

    /// `Err` is the limit's rejection: how many seconds after the start the same passes.
    async fn pay(&mut self, from: &str, to: &str, amount: u64) -> Result<(), Option<i64>> {
        self.payments += 1;
        let work = Work::Each(smallvec![payment(from, to, amount, &format!("p{}", self.payments))]);
        let answer = self.ledger.handle.submit(work, Instant::now() + PATIENCE).await.expect("an answer");
        let Outcome::Recorded { index, .. } = answer.outcomes[0] else { panic!("{answer:?}") };
        match &answer.batch.events[index].fact {
            Fact::TransactionPosted(_) => Ok(()),
            Fact::TransactionRejected(rejected) => match rejected.reason {
                Rejection::VelocityLimitExceeded { passes_at, .. } => {
                    Err(passes_at.map(|at| (at - START).num_seconds()))
                }
                ref other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// The same at a moment, on an account that memory does not hold.
    async fn pay_at(&mut self, seconds: i64, from: &str, amount: u64) -> Result<(), Option<i64>> {
        self.forget().await;
        self.clock.set(START + TimeDelta::seconds(seconds));
        self.pay(from, "b", amount).await
    }
}

/// Each payment finds an account that has been read back, and what had been counted
/// on it before, bucket by bucket.
#[tokio::test]
async fn an_account_that_memory_let_go_still_counts_what_was_counted_before() {
    let mut bench = Bench::start().await;
    for name in ["rolling:1", "rolling:2", "day:1"] {
        submit(&bench.ledger, open(name, None)).await.expect("it is opened");
    }
    bench.limit("rolling:", Window::Rolling { seconds: 3_600 }, None, Some(100)).await;
    bench.limit("day:", Window::Day { zone: chrono_tz::Europe::Zurich }, Some(2), None).await;

    // Buckets of a minute, each of which counts for an hour after its end.
    assert_eq!(bench.pay_at(0, "rolling:1", 60).await, Ok(()));
    assert_eq!(bench.pay_at(600, "rolling:1", 39).await, Ok(()));
    assert_eq!(bench.pay_at(630, "rolling:1", 2).await, Err(Some(3_660)));
    assert_eq!(bench.pay_at(630, "rolling:1", 1).await, Ok(()));
    assert_eq!(bench.pay_at(640, "rolling:2", 100).await, Ok(()), "each has the limit for itself");
    assert_eq!(bench.pay_at(3_659, "rolling:1", 60).await, Err(Some(3_660)));
    assert_eq!(bench.pay_at(3_660, "rolling:1", 60).await, Ok(()), "the first bucket has left");
    assert_eq!(bench.pay_at(3_660, "rolling:1", 1).await, Err(Some(600 + 3_660)), "and the others have not");

    assert_eq!(bench.pay_at(4_000, "day:1", 5).await, Ok(()));
    assert_eq!(bench.pay_at(5_000, "day:1", 5).await, Ok(()));
    assert_eq!(bench.pay_at(6_000, "day:1", 5).await, Err(Some(MIDNIGHT_S)));
    assert_eq!(bench.pay_at(MIDNIGHT_S - 1, "day:1", 5).await, Err(Some(MIDNIGHT_S)));
    assert_eq!(bench.pay_at(MIDNIGHT_S, "day:1", 5).await, Ok(()));
    assert_eq!(bench.pay_at(MIDNIGHT_S, "day:1", 5).await, Ok(()));
    assert_eq!(bench.pay_at(MIDNIGHT_S, "day:1", 5).await, Err(Some(MIDNIGHT_S + 86_400)));

    // Memory does not hold it: without the rows nothing has been counted.
    bench.forget().await;
    let mut conn = bench.worker.database.connect_owner().await.unwrap();
    sqlx::query("DELETE FROM velocity_usage").execute(&mut conn).await.unwrap();
    assert_eq!(bench.pay("day:1", "b", 5).await, Ok(()));
    bench.worker.stop().await;
}
