//! One writer: the advisory lock decides who tries, the epoch who succeeds.

use sqlx::PgExecutor;
use steelyard::ledger::decide::event;
use steelyard::ledger::{AccountCode, AssetCode, Book, Command, Fact, Limits, Moment, OpenAccount, Position, Side};
use steelyard::projector::fold::Fold;
use steelyard::sequencer::Outcome;
use steelyard::store::claims::{self, Unit};
use steelyard::store::events::KeyRow;
use steelyard::store::projections::{self, Step};
use steelyard::store::{Database, Error, LedgerId, events};

use super::{PATIENCE, code, eur, main_ledger, open_accounts, payment, serving, submit, worker};
use crate::support::{Postgres, eventually};

async fn count(executor: impl PgExecutor<'_>, table: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(executor).await.unwrap()
}

fn account_opened(position: u64) -> events_::Event {
    let command = Command::OpenAccount(OpenAccount {
        code: code("x"),
        asset: eur(),
        normal: None,
        min_balance: Some(None),
        max_balance: None,
        metadata: None,
    });
    let fact = Fact::AccountOpened {
        code: AccountCode::new("x").unwrap(),
        asset: AssetCode::new("EUR").unwrap(),
        normal: Side::Credit,
        limits: Limits::default(),
        metadata: None,
    };
    let recorded_at = chrono::DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    event(&Book::default(), &command, fact, None, &Moment { position, recorded_at, transaction_id: uuid::Uuid::nil() })
}

mod events_ {
    pub use steelyard::ledger::Event;
}

#[tokio::test]
async fn a_stale_epoch_stores_nothing() {
    let url = Postgres::shared().await.database().await;
    let database = Database::new(&url).unwrap();
    let mut conn = database.connect_serving().await.unwrap();
    let main = steelyard::ledger::LedgerName::new("main").unwrap();
    let (ledger_id, _) = steelyard::store::ledgers::create(&mut conn, &main).await.unwrap();
    sqlx::query("UPDATE sequencer_claims SET epoch = 5").execute(&mut conn).await.unwrap();
    let key = KeyRow { key_hash: [1; 16], fingerprint: [2; 16], position: 1, event_count: 1 };
    for stale in [4, 6] {
        let refused = events::append(&mut conn, ledger_id, stale, &[account_opened(1)], &[key]).await;
        assert!(matches!(refused, Err(Error::Fenced { epoch }) if epoch == stale), "{refused:?}");
        assert_eq!(count(&mut conn, "events").await, 0);
        assert_eq!(count(&mut conn, "idempotency_keys").await, 0);
        assert!(matches!(events::fence(&mut conn, ledger_id, stale).await, Err(Error::Fenced { .. })));
    }
    events::append(&mut conn, ledger_id, 5, &[account_opened(1)], &[key]).await.unwrap();
    assert_eq!(count(&mut conn, "events").await, 1);
}

#[tokio::test]
async fn a_takeover_waits_for_an_append_under_way() {
    let url = Postgres::shared().await.database().await;
    let database = Database::new(&url).unwrap();
    let mut appender = database.connect_serving().await.unwrap();
    let mut taker = database.connect_owner().await.unwrap();
    let main = steelyard::ledger::LedgerName::new("main").unwrap();
    let (ledger_id, _) = steelyard::store::ledgers::create(&mut appender, &main).await.unwrap();
    sqlx::query("BEGIN").execute(&mut appender).await.unwrap();
    events::append(&mut appender, ledger_id, 0, &[account_opened(1)], &[]).await.unwrap();
    let raise = tokio::spawn(async move {
        let units = [steelyard::store::claims::Unit::Sequencer(ledger_id)];
        let raised = steelyard::store::claims::raise(&mut taker, uuid::Uuid::nil(), &units).await.unwrap();
        // A statement of its own, after the wait: it sees what the wait was for.
        (raised, events::head(&mut taker, ledger_id).await.unwrap())
    });
    a_takeover_waits(&database).await;
    sqlx::query("COMMIT").execute(&mut appender).await.unwrap();
    let (raised, head) = raise.await.unwrap();
    assert_eq!(raised[0].1, 1);
    assert_eq!(head.map(|(position, _)| position), Some(1));
}

/// The same for a shard. FOR KEY SHARE would not do: raising the epoch changes no
/// column of a key.
#[tokio::test]
async fn a_takeover_of_a_shard_waits_for_a_flush_under_way() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let head = ledger.tail.head();
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(head)).await.unwrap();
    worker.stop().await;
    let database = Database::new(&url).unwrap();
    let mut projector = database.connect_serving().await.unwrap();
    let mut taker = database.connect_owner().await.unwrap();
    let epoch = "SELECT epoch FROM shard_claims WHERE shard = 0";
    let epoch: i64 = sqlx::query_scalar(epoch).fetch_one(&mut projector).await.unwrap();
    let from: Vec<Option<Position>> = vec![Some(head); 64];
    let nothing = Fold::new(1, 64, &from, 1).finish().remove(0);
    sqlx::query("BEGIN").execute(&mut projector).await.unwrap();
    let steps = [Step { shard: 0, epoch, from: head }];
    let flushed = projections::flush(&mut projector, 1, &steps, head + 1, &nothing).await.unwrap();
    assert_eq!(flushed.advanced, [0]);
    let raise = tokio::spawn(async move {
        let raised = claims::raise(&mut taker, uuid::Uuid::nil(), &[Unit::Projector(0)]).await.unwrap();
        // A statement of its own, after the wait: it sees what the wait was for.
        let reached = "SELECT position FROM checkpoints WHERE shard = 0";
        (raised, sqlx::query_scalar::<_, i64>(reached).fetch_one(&mut taker).await.unwrap())
    });
    waits(&database, "UPDATE shard_claims").await;
    sqlx::query("COMMIT").execute(&mut projector).await.unwrap();
    let (raised, reached) = raise.await.unwrap();
    assert_eq!(raised, [(Unit::Projector(0), epoch + 1)]);
    assert_eq!(reached, head as i64 + 1);
}

/// Waits until a takeover of a sequencer waits for a lock.
async fn a_takeover_waits(database: &Database) {
    waits(database, "UPDATE sequencer_claims").await;
}

/// Waits until one such statement waits for a lock.
async fn waits(database: &Database, statement: &str) {
    let mut watcher = database.connect_owner().await.unwrap();
    eventually("the takeover waits", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1 AND datname = current_database()";
        let waiting = sqlx::query_scalar::<_, i64>(sql).bind(format!("%{statement}%"));
        waiting.fetch_one(&mut watcher).await.unwrap() == 1
    })
    .await;
}

/// A database with the ledger `main`, whose claim has the epoch 5.
async fn claimed() -> (Database, LedgerId) {
    let url = Postgres::shared().await.database().await;
    let database = Database::new(&url).unwrap();
    let mut conn = database.connect_serving().await.unwrap();
    let main = steelyard::ledger::LedgerName::new("main").unwrap();
    let (ledger_id, _) = steelyard::store::ledgers::create(&mut conn, &main).await.unwrap();
    sqlx::query("UPDATE sequencer_claims SET epoch = 5").execute(&mut conn).await.unwrap();
    (database, ledger_id)
}

fn key_row(hash: u8, position: u64) -> KeyRow {
    KeyRow { key_hash: [hash; 16], fingerprint: [2; 16], position, event_count: 1 }
}

#[tokio::test]
async fn a_large_batch_under_a_stale_epoch_stores_nothing() {
    let (database, ledger_id) = claimed().await;
    let mut conn = database.connect_serving().await.unwrap();
    for stale in [4, 6] {
        let refused = events::write(&mut conn, ledger_id, stale, &[account_opened(1)], &[key_row(1, 1)]).await.err();
        assert!(matches!(refused, Some(Error::Fenced { epoch }) if epoch == stale), "{refused:?}");
        assert_eq!(count(&mut conn, "events").await, 0);
        assert_eq!(count(&mut conn, "idempotency_keys").await, 0);
    }
    let written = events::write(&mut conn, ledger_id, 5, &[account_opened(1)], &[key_row(1, 1)]).await.unwrap();
    written.commit().await.unwrap();
    assert_eq!(count(&mut conn, "events").await, 1);
    assert_eq!(count(&mut conn, "idempotency_keys").await, 1);
}

#[tokio::test]
async fn a_takeover_waits_for_a_large_batch_that_is_written_and_not_committed() {
    for commits in [true, false] {
        let (database, ledger_id) = claimed().await;
        let mut appender = database.connect_serving().await.unwrap();
        let mut taker = database.connect_owner().await.unwrap();
        let written = events::write(&mut appender, ledger_id, 5, &[account_opened(1)], &[]).await.unwrap();
        let raise = tokio::spawn(async move {
            let units = [steelyard::store::claims::Unit::Sequencer(ledger_id)];
            let raised = steelyard::store::claims::raise(&mut taker, uuid::Uuid::nil(), &units).await.unwrap();
            (raised, events::was_appended(&mut taker, ledger_id, 1, 5).await.unwrap())
        });
        a_takeover_waits(&database).await;
        if commits {
            written.commit().await.unwrap();
        } else {
            written.roll_back().await.unwrap();
        }
        let (raised, appended) = raise.await.unwrap();
        assert_eq!(raised[0].1, 6);
        assert_eq!(appended, commits);
        let late = events::write(&mut appender, ledger_id, 5, &[account_opened(2)], &[]).await.err();
        assert!(matches!(late, Some(Error::Fenced { .. })), "{late:?}");
    }
}

#[tokio::test]
async fn a_large_batch_that_is_abandoned_leaves_nothing_and_its_connection_goes_on() {
    let (database, ledger_id) = claimed().await;
    let mut conn = database.connect_serving().await.unwrap();
    let mut onlooker = database.connect_serving().await.unwrap();
    let written = events::write(&mut conn, ledger_id, 5, &[account_opened(1)], &[key_row(1, 1)]).await.unwrap();
    written.roll_back().await.unwrap();
    assert_eq!(count(&mut onlooker, "events").await, 0);
    // One that is dropped rolls back before the next statement on its connection.
    drop(events::write(&mut conn, ledger_id, 5, &[account_opened(1)], &[key_row(1, 1)]).await.unwrap());
    let written = events::write(&mut conn, ledger_id, 5, &[account_opened(1)], &[key_row(1, 1)]).await.unwrap();
    assert_eq!(count(&mut onlooker, "events").await, 0);
    written.commit().await.unwrap();
    assert_eq!(count(&mut onlooker, "events").await, 1);
    assert_eq!(count(&mut onlooker, "idempotency_keys").await, 1);
}

#[tokio::test]
async fn a_unique_violation_in_a_large_batch_names_its_constraint_and_stores_nothing() {
    let (database, ledger_id) = claimed().await;
    let mut conn = database.connect_serving().await.unwrap();
    let written = events::write(&mut conn, ledger_id, 5, &[account_opened(1)], &[key_row(1, 1)]).await.unwrap();
    written.commit().await.unwrap();
    for (event, key, expected) in
        [(account_opened(2), key_row(1, 2), "idempotency_keys_pkey"), (account_opened(1), key_row(3, 1), "events_pkey")]
    {
        let refused = events::write(&mut conn, ledger_id, 5, &[event], &[key]).await.err();
        assert!(
            matches!(&refused, Some(Error::UniqueViolation { constraint }) if constraint == expected),
            "{refused:?}"
        );
        assert_eq!(count(&mut conn, "events").await, 1);
    }
    let written = events::write(&mut conn, ledger_id, 5, &[account_opened(2)], &[key_row(4, 2)]).await.unwrap();
    written.commit().await.unwrap();
    assert_eq!(count(&mut conn, "events").await, 2);
}

/// The second of two overlapping appends has written its rows when the first fails.
#[tokio::test]
async fn what_follows_a_large_batch_that_fails_is_decided_again_and_stored_once() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    sqlx::query("INSERT INTO idempotency_keys VALUES (1, $1, $2, 1, 1)")
        .bind(steelyard::store::keys::hash("old").as_slice())
        .bind([7_u8; 16].as_slice())
        .execute(&mut conn)
        .await
        .unwrap();
    let batch = |name: &'static str| {
        let mut items: smallvec::SmallVec<_> =
            (0..1_500).map(|n| payment("bank", "a", 1, &format!("{name}-{n}"))).collect();
        if name == "first" {
            items.push(payment("bank", "a", 1, "old"));
        }
        ledger.handle.submit(steelyard::sequencer::Work::Each(items), tokio::time::Instant::now() + PATIENCE)
    };
    let answers = tokio::join!(batch("first"), batch("second"), batch("third"));
    for answer in [answers.0, answers.1, answers.2] {
        let used = answer.unwrap().outcomes.iter().filter(|outcome| matches!(outcome, Outcome::KeyUsed)).count();
        assert!(used <= 1);
    }
    let stored: Vec<i64> = sqlx::query_scalar(
        "SELECT count(*) FROM events UNION ALL SELECT count(DISTINCT idempotency_key) FROM events
         UNION ALL SELECT max(position) FROM events",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    let opened = stored[0] - 4_500;
    assert_eq!(stored, [4_500 + opened, 4_500, 4_500 + opened]);
    worker.stop().await;
}

/// The connection of a batch that is abandoned may be lost with it; appends overlap
/// again all the same.
#[tokio::test]
async fn a_connection_lost_with_an_abandoned_batch_is_replaced() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    let mut blocker = worker.database.connect_owner().await.unwrap();
    for round in 0..2 {
        // The first batch waits for this row, and then cannot have it.
        let key = steelyard::store::keys::hash(&format!("first-{round}-7"));
        sqlx::query("BEGIN").execute(&mut blocker).await.unwrap();
        sqlx::query("INSERT INTO idempotency_keys VALUES (1, $1, '\\x00000000000000000000000000000000', 1, 1)")
            .bind(key.as_slice())
            .execute(&mut blocker)
            .await
            .unwrap();
        let pay = |name: &'static str| {
            let ledger = std::sync::Arc::clone(&ledger);
            tokio::spawn(async move {
                let items = (0..1_000).map(|n| payment("bank", "a", 1, &format!("{name}-{round}-{n}"))).collect();
                let deadline = tokio::time::Instant::now() + PATIENCE;
                ledger.handle.submit(steelyard::sequencer::Work::Each(items), deadline).await
            })
        };
        let first = pay("first");
        let waits = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'COPY idempotency_keys%'";
        eventually("the first batch waits for its key", async || {
            sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut conn).await.unwrap() == 1
        })
        .await;
        let second = pay("second");
        let idle = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND state = 'idle in transaction' AND query LIKE 'COPY idempotency_keys%'";
        eventually("the second is written", async || {
            let idle = sqlx::query_scalar::<_, i32>(idle).fetch_optional(&mut conn).await.unwrap();
            let Some(pid) = idle else { return false };
            sqlx::query("SELECT pg_terminate_backend($1, 5000)").bind(pid).execute(&mut conn).await.unwrap();
            true
        })
        .await;
        sqlx::query("COMMIT").execute(&mut blocker).await.unwrap();
        for answer in [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()] {
            assert_eq!(answer.outcomes.len(), 1_000);
        }
    }
    let stored = "SELECT count(*) FROM events WHERE idempotency_key IS NOT NULL";
    let stored: i64 = sqlx::query_scalar(stored).fetch_one(&mut conn).await.unwrap();
    assert_eq!(stored, 2 * (999 + 1_000));
    worker.stop().await;
}

#[tokio::test]
async fn a_deposed_sequencer_stores_nothing_under_its_old_epoch_and_its_client_is_answered_right() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    // Somebody else takes the ledger, without our noticing.
    let taken: i64 = sqlx::query_scalar(
        "UPDATE sequencer_claims SET epoch = epoch + 1, worker_id = gen_random_uuid() RETURNING epoch",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    // The stale holder's append is refused; this worker rejoins, wins the claim
    // back under a newer epoch, and only then decides and answers.
    let answer = submit(&ledger, payment("bank", "a", 10, "k1")).await;
    if let Ok(answer) = &answer {
        assert!(matches!(answer.outcomes[0], Outcome::Recorded { .. }), "{answer:?}");
    }
    serving(&worker).await;
    let epochs: Vec<i64> =
        sqlx::query_scalar("SELECT epoch FROM events WHERE idempotency_key = 'k1'").fetch_all(&mut conn).await.unwrap();
    assert_eq!(epochs.len(), usize::from(answer.is_ok()), "{answer:?}");
    assert!(epochs.iter().all(|epoch| *epoch > taken), "{epochs:?} after {taken}");
    worker.stop().await;
}

#[tokio::test]
async fn another_worker_takes_over_within_two_seconds() {
    let url = Postgres::shared().await.database().await;
    let first = worker(&url).await;
    let database = Database::new(&url).unwrap();
    let address = "http://127.0.0.1:1".to_owned();
    let clock = std::sync::Arc::new(steelyard::clock::SystemClock);
    let options = steelyard::cluster::worker::Options::new(database, address, clock);
    let second = steelyard::cluster::Worker::start(options).await.unwrap();
    let started = std::time::Instant::now();
    first.stop().await;
    serving(&second).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
    second.stop().await;
}

/// A worker that froze in an append, and whose session with the locks is gone: the
/// lock is free, and the claim's row is not. Its other sessions are ended, or
/// nobody could ever raise the epoch.
#[tokio::test]
async fn who_holds_the_row_without_the_lock_is_ended() {
    let url = Postgres::shared().await.database().await;
    let database = Database::new(&url).unwrap();
    let mut conn = database.connect_serving().await.unwrap();
    let main = steelyard::ledger::LedgerName::new("main").unwrap();
    steelyard::store::ledgers::create(&mut conn, &main).await.unwrap();
    let frozen = Database::new(&url).unwrap();
    sqlx::query("UPDATE sequencer_claims SET worker_id = $1, epoch = 7")
        .bind(frozen.new_worker_id())
        .execute(&mut conn)
        .await
        .unwrap();
    let mut appending = frozen.connect_owner().await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1 FROM sequencer_claims FOR SHARE").execute(&mut appending).await.unwrap();

    let begun = std::time::Instant::now();
    let worker = worker(&url).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(7), "{:?}", begun.elapsed());
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    submit(&ledger, payment("bank", "a", 1, "k")).await.unwrap();
    assert!(sqlx::raw_sql("COMMIT").execute(&mut appending).await.is_err(), "the frozen append can no more commit");
    worker.stop().await;
}
