//! Regression tests for traps that have cost other projects an outage.

use std::time::{Duration, Instant};

use smallvec::smallvec;
use steelyard::ledger::{LedgerName, Position};
use steelyard::projector::fold::Fold;
use steelyard::sequencer::{Outcome, Unavailable, Work};
use steelyard::store::projections::{self, Step};
use steelyard::store::{Connection, Database, Error, claims, events, ledgers};

use super::{PATIENCE, main_ledger, open_accounts, payment, serving, submit, worker};
use crate::support::{Postgres, eventually};

/// The log cannot be changed: not by the serving role, and not by the owner.
#[tokio::test]
async fn the_log_is_append_only() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    open_accounts(&main_ledger(&worker)).await;
    let mut serving = worker.database.connect_serving().await.unwrap();
    let mut owner = Connection::from(worker.database.connect_owner().await.unwrap());
    for table in ["events", "idempotency_keys"] {
        for sql in [
            format!("UPDATE {table} SET position = position"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
        ] {
            for conn in [&mut serving, &mut owner] {
                let refused = sqlx::query(sqlx::AssertSqlSafe(sql.clone())).execute(conn).await.unwrap_err();
                let code = refused.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
                assert_eq!(code.as_deref(), Some("42501"), "{sql}");
            }
        }
    }
    worker.stop().await;
}

/// A hole is corruption: readers stop, they never skip.
#[tokio::test]
async fn a_hole_in_the_log_stops_readers() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    open_accounts(&main_ledger(&worker)).await;
    worker.stop().await;
    let database = Database::new(&url).unwrap();
    let mut conn = database.connect_owner().await.unwrap();
    let cut = "SET session_replication_role = replica; DELETE FROM events WHERE position = 2";
    sqlx::raw_sql(cut).execute(&mut conn).await.unwrap();
    let read = events::read(&mut conn, 1, 0, 10).await;
    assert!(matches!(read, Err(Error::Hole { expected: 2, found: 3, .. })), "{read:?}");
}

/// The checkpoint moves though nothing in the range concerns the shard.
#[tokio::test]
async fn a_checkpoint_advances_without_events_of_its_shard() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let head = ledger.tail.head();
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(head)).await.unwrap();
    let checkpoints = projections::checkpoints(worker.database.pool(), ledger.ledger_id).await.unwrap();
    assert_eq!(checkpoints.len(), 64);
    assert!(checkpoints.iter().all(|(_, position)| *position == head), "{checkpoints:?}");
    worker.stop().await;
}

/// A stale projector, or one that begins elsewhere, changes nothing.
#[tokio::test]
async fn a_flush_from_another_position_or_epoch_does_nothing() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    submit(&ledger, payment("bank", "a", 5, "k")).await.unwrap();
    worker.stop().await;
    let database = Database::new(&url).unwrap();
    let mut conn = Connection::from(database.connect_owner().await.unwrap());
    let log = events::read_events(&mut conn, 1, 0, 100).await.unwrap();
    let from: Vec<Option<Position>> = vec![Some(0); 64];
    let mut fold = Fold::new(1, 64, &from, 1);
    log.iter().for_each(|event| fold.add(event));
    let flush = fold.finish().remove(0);
    let epochs: Vec<(i16, i64)> =
        sqlx::query_as("SELECT shard, epoch FROM shard_claims").fetch_all(&mut conn).await.unwrap();
    let entries = "SELECT count(*) FROM entries";
    let before: i64 = sqlx::query_scalar(entries).fetch_one(&mut conn).await.unwrap();
    for (position, ahead) in [(0, 0), (log.len() as u64, -1), (log.len() as u64, 1)] {
        let steps: Vec<Step> =
            epochs.iter().map(|(shard, epoch)| Step { shard: *shard, epoch: epoch + ahead, from: position }).collect();
        let flushed = projections::flush(&mut conn, 1, &steps, 1_000, &flush).await.unwrap();
        assert!(flushed.advanced.is_empty(), "{flushed:?}");
    }
    let after: i64 = sqlx::query_scalar(entries).fetch_one(&mut conn).await.unwrap();
    assert_eq!(before, after);
}

/// A flush writes the rows of the shards that it advances, and of no other: not
/// even of those whose claim was lost between folding and writing.
#[tokio::test]
async fn a_flush_writes_nothing_for_a_shard_without_a_step() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    submit(&ledger, payment("bank", "a", 5, "k1")).await.unwrap();
    submit(&ledger, payment("a", "b", 50, "declined")).await.unwrap();
    // Enough entries for their COPY.
    let many = (0..600).map(|n| payment("bank", "b", 1, &format!("many-{n}"))).collect();
    ledger.handle.submit(Work::Each(many), Instant::now().into_tokio() + PATIENCE).await.unwrap();
    worker.stop().await;
    let database = Database::new(&url).unwrap();
    let mut conn = Connection::from(database.connect_owner().await.unwrap());
    let unproject = "TRUNCATE accounts, balances, entries, rejections; UPDATE checkpoints SET position = 0";
    sqlx::raw_sql(unproject).execute(&mut conn).await.unwrap();
    let rows = "SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM balances)
        + (SELECT count(*) FROM entries) + (SELECT count(*) FROM rejections)";
    let bank = steelyard::shard::shard_of(1, "bank", 64);
    let epoch = "SELECT epoch FROM shard_claims WHERE shard = $1";
    let epoch: i64 = sqlx::query_scalar(epoch).bind(bank).fetch_one(&mut conn).await.unwrap();
    for limit in [10, 1_000] {
        let log = events::read_events(&mut conn, 1, 0, limit).await.unwrap();
        let from: Vec<Option<Position>> = vec![Some(0); 64];
        let mut fold = Fold::new(1, 64, &from, 1);
        log.iter().for_each(|event| fold.add(event));
        let flush = fold.finish().remove(0);
        let flushed = projections::flush(&mut conn, 1, &[], log.len() as u64, &flush).await.unwrap();
        assert!(flushed.advanced.is_empty(), "{flushed:?}");
        let written: i64 = sqlx::query_scalar(rows).fetch_one(&mut conn).await.unwrap();
        assert_eq!(written, 0, "{limit} events");
    }
    // One step, and the rows of bank, alone in its shard: account, balance and 601 entries.
    let log = events::read_events(&mut conn, 1, 0, 1_000).await.unwrap();
    let from: Vec<Option<Position>> = vec![Some(0); 64];
    let mut fold = Fold::new(1, 64, &from, 1);
    log.iter().for_each(|event| fold.add(event));
    let flush = fold.finish().remove(0);
    let steps = [Step { shard: bank, epoch, from: 0 }];
    let flushed = projections::flush(&mut conn, 1, &steps, log.len() as u64, &flush).await.unwrap();
    assert_eq!(flushed.advanced, [bank]);
    let written: i64 = sqlx::query_scalar(rows).fetch_one(&mut conn).await.unwrap();
    assert_eq!(written, 603);
}

/// A flush that is refused for one shard asks for a new epoch of that shard alone:
/// one of all would refuse every other ledger's flushes, which would ask again.
#[tokio::test]
async fn one_refused_shard_gets_one_new_epoch() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(ledger.tail.head())).await.unwrap();
    let mut conn = worker.database.connect_owner().await.unwrap();
    let epochs = "SELECT epoch FROM shard_claims ORDER BY shard";
    let before: Vec<i64> = sqlx::query_scalar(epochs).fetch_all(&mut conn).await.unwrap();
    sqlx::query("UPDATE shard_claims SET epoch = epoch + 1 WHERE shard = 7").execute(&mut conn).await.unwrap();
    submit(&ledger, payment("bank", "a", 5, "k1")).await.unwrap();
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(ledger.tail.head())).await.unwrap();
    let after: Vec<i64> = sqlx::query_scalar(epochs).fetch_all(&mut conn).await.unwrap();
    let raised: Vec<i64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    assert_eq!((raised[7], raised.iter().sum()), (2, 2), "{raised:?}");
    worker.stop().await;
}

/// An account whose event does not follow on its balance stops, visibly; the
/// others go on.
#[tokio::test]
async fn a_poison_event_stops_its_account_and_no_other() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    submit(&ledger, payment("bank", "a", 5, "k1")).await.unwrap();
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(ledger.tail.head())).await.unwrap();
    let mut conn = worker.database.connect_owner().await.unwrap();
    let break_a =
        "UPDATE balances SET version = 40 WHERE account_id = (SELECT account_id FROM accounts WHERE code = 'a')";
    sqlx::query(break_a).execute(&mut conn).await.unwrap();
    submit(&ledger, payment("bank", "a", 5, "k2")).await.unwrap();
    submit(&ledger, payment("bank", "b", 5, "k3")).await.unwrap();
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(ledger.tail.head())).await.unwrap();
    let lines = "SELECT a.code, count(e.*) FROM accounts a LEFT JOIN entries e USING (shard, ledger_id, account_id)
                 GROUP BY 1 ORDER BY 1";
    let lines: Vec<(String, i64)> = sqlx::query_as(lines).fetch_all(&mut conn).await.unwrap();
    assert_eq!(lines, [("a".into(), 1), ("b".into(), 1), ("bank".into(), 3)]);
    let faults: Vec<String> =
        sqlx::query_scalar("SELECT code FROM projection_faults JOIN accounts USING (shard, ledger_id, account_id)")
            .fetch_all(&mut conn)
            .await
            .unwrap();
    assert_eq!(faults, ["a"]);
    worker.stop().await;
}

/// The lock of a session whose worker is not heard of any more is taken from it.
#[tokio::test]
async fn an_orphan_session_does_not_hold_the_ledger_for_ever() {
    let url = Postgres::shared().await.database().await;
    let database = Database::new(&url).unwrap();
    let mut orphan = database.connect_owner().await.unwrap();
    let main = LedgerName::new("main").unwrap();
    let (ledger_id, _) = ledgers::create(&mut database.connect_serving().await.unwrap(), &main).await.unwrap();
    let mut units: Vec<_> = (0..64).map(claims::Unit::Projector).collect();
    units.push(claims::Unit::Sequencer(ledger_id));
    let gone = uuid::Uuid::from_u128(1);
    let registration = claims::Registration {
        address: "http://gone".to_owned(),
        internal_url: None,
        version: "0".to_owned(),
        capacity: 1,
        sequencer: true,
        projector: true,
    };
    claims::register(&mut orphan, gone, &registration).await.unwrap();
    assert_eq!(claims::try_lock(&mut orphan, &units).await.unwrap().len(), 65);
    claims::raise(&mut orphan, gone, &units).await.unwrap();
    let long_ago = "UPDATE workers SET heartbeat_at = now() - interval '6 s'";
    sqlx::query(long_ago).execute(&mut orphan).await.unwrap();
    let worker = worker(&url).await;
    assert!(sqlx::query("SELECT 1").execute(&mut orphan).await.is_err(), "the orphan's session still stands");
    worker.stop().await;
}

/// Session locks are lost with the session: so is everything that was held by them.
#[tokio::test]
async fn the_claims_connection_is_never_believed_past_its_end() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    let epoch = "SELECT epoch FROM sequencer_claims";
    let before: i64 = sqlx::query_scalar(epoch).fetch_one(&mut conn).await.unwrap();
    let end = "SELECT pg_terminate_backend(backend_pid) FROM sequencer_claims";
    sqlx::query(end).execute(&mut conn).await.unwrap();
    let started = Instant::now();
    loop {
        let now: i64 = sqlx::query_scalar(epoch).fetch_one(&mut conn).await.unwrap();
        if now > before {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "the claim was not won back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    serving(&worker).await;
    let answer = submit(&ledger, payment("bank", "a", 1, "k")).await.unwrap();
    assert!(matches!(answer.outcomes[0], Outcome::Recorded { .. }));
    worker.stop().await;
}

/// A database that does not answer while a sequencer loads holds up nobody past
/// their deadlines, and the sequencer tries again with other connections.
#[tokio::test]
async fn a_load_that_gets_no_answer_is_given_up_and_requests_keep_their_deadlines() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut conn = worker.database.connect_owner().await.unwrap();
    let mut blocker = worker.database.connect_owner().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE").execute(&mut blocker).await.unwrap();
    sqlx::query("SELECT pg_terminate_backend(backend_pid) FROM sequencer_claims").execute(&mut conn).await.unwrap();
    let loading = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '%FROM events WHERE%' LIMIT 1";
    let mut first = None;
    eventually("the sequencer waits for the log", async || {
        first = sqlx::query_scalar::<_, i32>(loading).fetch_optional(&mut conn).await.unwrap();
        first.is_some()
    })
    .await;
    let asked = Instant::now();
    let work = Work::Each(smallvec![payment("bank", "a", 1, "k")]);
    let answer = ledger.handle.submit(work, asked.into_tokio() + Duration::from_secs(1)).await;
    assert!(matches!(answer, Err(Unavailable::TimedOut)), "{answer:?}");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '%FROM events WHERE%' AND pid <> $1";
    eventually("it tries again", async || {
        sqlx::query_scalar::<_, i64>(others).bind(first).fetch_one(&mut conn).await.unwrap() > 0
    })
    .await;
    sqlx::query("COMMIT").execute(&mut blocker).await.unwrap();
    serving(&worker).await;
    let answer = submit(&ledger, payment("bank", "a", 1, "k")).await.unwrap();
    assert!(matches!(answer.outcomes[0], Outcome::Recorded { .. }), "{answer:?}");
    worker.stop().await;
}

/// Accounts that memory let go are read back exactly as the log left them.
#[tokio::test]
async fn accounts_beyond_the_bound_of_memory_keep_their_balances() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    submit(&ledger, payment("bank", "a", 1_000, "fund")).await.unwrap();
    // More accounts than the worker keeps (50,000), in batches.
    for batch in 0..8 {
        let items = (0..8_000).map(|n| super::open(&format!("x:{batch}:{n}"), None)).collect();
        ledger.handle.submit(Work::Each(items), Instant::now().into_tokio() + PATIENCE).await.unwrap();
        tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(ledger.tail.head())).await.unwrap();
    }
    for n in 0..60 {
        // Each commit lets some go; none that is needed is lost.
        let items =
            smallvec![payment("a", "b", 1, &format!("p{n}")), payment(&format!("x:0:{n}"), "b", 1, &format!("q{n}"))];
        ledger.handle.submit(Work::Each(items), Instant::now().into_tokio() + PATIENCE).await.unwrap();
    }
    let read = |name: &'static str| {
        ledger.handle.submit(Work::ReadAccount(super::code(name)), Instant::now().into_tokio() + PATIENCE)
    };
    let Outcome::Account(Some(b)) = read("b").await.unwrap().outcomes.remove(0) else { panic!("b is gone") };
    assert_eq!(b.balance.credits_posted.to_string(), "120");
    let Outcome::Account(Some(x)) = read("x:0:7").await.unwrap().outcomes.remove(0) else { panic!("x is gone") };
    assert_eq!((x.balance.debits_posted.to_string(), x.balance.version), ("1".to_owned(), 1));
    worker.stop().await;
}

trait IntoTokio {
    fn into_tokio(self) -> tokio::time::Instant;
}

impl IntoTokio for Instant {
    fn into_tokio(self) -> tokio::time::Instant {
        self.into()
    }
}
