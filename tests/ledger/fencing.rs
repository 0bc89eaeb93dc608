//! One writer: the advisory lock decides who tries, the epoch who succeeds.

use sqlx::PgConnection;
use steelyard::ledger::decide::event;
use steelyard::ledger::{AccountCode, AssetCode, Command, Fact, Limits, Moment, OpenAccount, Side};
use steelyard::sequencer::Outcome;
use steelyard::store::events::KeyRow;
use steelyard::store::{Database, Error, events};

use super::{code, eur, main_ledger, open_accounts, payment, serving, submit, worker};
use crate::support::Postgres;

async fn count(conn: &mut PgConnection, table: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(conn).await.unwrap()
}

fn account_opened(position: u64) -> events_::Event {
    let command = Command::OpenAccount(OpenAccount {
        code: code("x"),
        asset: eur(),
        normal: Side::Credit,
        limits: Limits::default(),
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
    event(&command, fact, None, &Moment { position, recorded_at, transaction_id: uuid::Uuid::nil() })
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
    let mut appender = database.connect_owner().await.unwrap();
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
    let mut watcher = database.connect_owner().await.unwrap();
    let mut waiting = false;
    for _ in 0..400 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE sequencer_claims%' AND datname = current_database()";
        waiting = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut watcher).await.unwrap() == 1;
        if waiting {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(waiting, "the takeover does not wait for the append");
    sqlx::query("COMMIT").execute(&mut appender).await.unwrap();
    let (raised, head) = raise.await.unwrap();
    assert_eq!(raised[0].1, 1);
    assert_eq!(head.map(|(position, _)| position), Some(1));
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
