//! Regression tests for traps about sessions, locks and what the schema must not have.

use std::fs;
use std::path::{Path, PathBuf};

use smallvec::SmallVec;
use sqlx::{Connection, PgConnection};
use steelyard::cluster::Status;
use steelyard::sequencer::Work;
use steelyard::store::{Database, claims};
use tokio::time::Instant;

use super::{PATIENCE, main_ledger, open, open_accounts, payment, submit, worker};
use crate::support::{Postgres, eventually};

/// A number that is handed out before its commit makes readers skip what commits
/// later. Positions come from the one writer, and nothing else counts.
#[tokio::test]
async fn no_number_is_handed_out_before_its_commit() {
    let mut conn = PgConnection::connect(&Postgres::shared().await.database().await).await.unwrap();
    let counters: Vec<String> = sqlx::query_scalar(
        "SELECT format('sequence %s', c.oid::regclass) FROM pg_class c
         WHERE c.relkind = 'S' AND c.relnamespace::regnamespace::text IN ('public', 'reporting')
         UNION ALL
         SELECT format('%s.%s', a.attrelid::regclass, a.attname) FROM pg_attribute a
         JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace::regnamespace::text IN ('public', 'reporting')
         WHERE a.attidentity <> ''",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert!(counters.is_empty(), "{counters:?}");
}

/// Half-open connections hold locks for hours, unless somebody looks.
#[tokio::test]
async fn a_session_notices_that_its_client_is_gone() {
    let database = Database::new(&Postgres::shared().await.database().await).unwrap();
    let looks = ["client_connection_check_interval", "tcp_keepalives_idle", "tcp_keepalives_interval"];
    let looks = looks.into_iter().chain(["tcp_keepalives_count", "tcp_user_timeout"]).collect::<Vec<_>>();
    let owner = (steelyard::store::Connection::from(database.connect_owner().await.unwrap()), looks.clone());
    let in_transactions = looks.into_iter().chain(["idle_in_transaction_session_timeout"]).collect::<Vec<_>>();
    let serving = (database.connect_serving().await.unwrap(), in_transactions);
    for (mut conn, settings) in [owner, serving] {
        // On a socket of the machine those of TCP have no value, but they have been asked for all the same.
        let asked: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM pg_settings WHERE name = ANY($1) AND source IN ('client', 'session') ORDER BY name",
        )
        .bind(&settings)
        .fetch_all(&mut conn)
        .await
        .unwrap();
        assert_eq!(asked.len(), settings.len(), "{asked:?}");
        let look: String =
            sqlx::query_scalar("SHOW client_connection_check_interval").fetch_one(&mut conn).await.unwrap();
        assert_eq!(look, "2s");
    }
}

/// Session locks in a pool starve it, or are lost in it: the claims' connection is
/// no part of the pool, and neither are those that append and flush.
#[tokio::test]
async fn a_pool_without_connections_left_costs_no_claim_and_no_payment() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let mut taken = Vec::new();
    while let Ok(conn) = worker.database.pool().acquire().await {
        taken.push(conn);
    }
    assert!(!taken.is_empty());
    let mut watcher = PgConnection::connect(&url).await.unwrap();
    let beat = "SELECT heartbeat_at FROM workers";
    let before: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(beat).fetch_one(&mut watcher).await.unwrap();
    submit(&ledger, payment("bank", "a", 5, "k")).await.unwrap();
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(ledger.tail.head())).await.unwrap();
    eventually("it beats", async || {
        let now: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(beat).fetch_one(&mut watcher).await.unwrap();
        now > before
    })
    .await;
    assert_eq!(worker.status(), Status::Serving);
    let epochs =
        "SELECT max(epoch) FROM (SELECT epoch FROM shard_claims UNION SELECT epoch FROM sequencer_claims) AS e";
    let highest: i64 = sqlx::query_scalar(epochs).fetch_one(&mut watcher).await.unwrap();
    assert_eq!(highest, 1, "no claim was lost and won back");
    drop(taken);
    worker.stop().await;
}

/// Advisory locks fill the server's lock table: there is one for each unit of
/// work, however many accounts there are, and one session holds them all.
#[tokio::test]
async fn there_are_as_many_advisory_locks_as_units_of_work() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    let many: SmallVec<_> = (0..2_000).map(|n| open(&format!("account-{n}"), None)).collect();
    ledger.handle.submit(Work::Each(many), Instant::now() + PATIENCE).await.unwrap();
    let paid: SmallVec<_> =
        (0..2_000).map(|n| payment("bank", &format!("account-{n}"), 1, &format!("k-{n}"))).collect();
    ledger.handle.submit(Work::Each(paid), Instant::now() + PATIENCE).await.unwrap();
    tokio::time::timeout(PATIENCE, ledger.checkpoints.reached(ledger.tail.head())).await.unwrap();
    let mut watcher = PgConnection::connect(&url).await.unwrap();
    let held: (i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT pid) FROM pg_locks
         WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .fetch_one(&mut watcher)
    .await
    .unwrap();
    assert_eq!(held, (64 + 1, 1));
    worker.stop().await;
}

/// NOTIFY takes a lock on the whole database through the commit's fsync, and a
/// listener that reconnects has missed something and does not know it.
#[test]
fn nothing_notifies_and_nothing_listens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for dir in ["src", "migrations"] {
        collect(&root.join(dir), &mut sources);
    }
    assert!(sources.len() > 50, "{sources:?}");
    for path in sources {
        let text = fs::read_to_string(&path).unwrap();
        for word in ["pg_notify", "PgListener", "NOTIFY ", "\"LISTEN "] {
            assert!(!text.contains(word), "{word} in {}", path.display());
        }
    }
}

/// The files of ours: what is vendored is JavaScript.
fn collect(dir: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "sql") {
            sources.push(path);
        }
    }
}

/// A disk that stalls for longer than a worker may be silent is not the death of all workers.
#[tokio::test]
async fn a_heartbeat_does_not_wait_for_the_disk() {
    let database = Database::new(&Postgres::shared().await.database().await).unwrap();
    let mut conn = database.connect_owner().await.unwrap();
    let worker_id = database.new_worker_id();
    let registration = claims::Registration {
        address: "http://beats".to_owned(),
        internal_url: None,
        version: "0".to_owned(),
        capacity: 1,
        sequencer: true,
        projector: true,
    };
    claims::register(&mut conn, worker_id, &registration).await.unwrap();
    let waits = async |conn: &mut PgConnection| -> String {
        sqlx::query_scalar("SHOW synchronous_commit").fetch_one(conn).await.unwrap()
    };
    sqlx::raw_sql("BEGIN").execute(&mut conn).await.unwrap();
    claims::heartbeat(&mut conn, worker_id, &claims::Condition::default()).await.unwrap();
    assert_eq!(waits(&mut conn).await, "off");
    sqlx::raw_sql("COMMIT").execute(&mut conn).await.unwrap();
    // Everything else that this session commits is durable.
    assert_eq!(waits(&mut conn).await, "on");
    let beaten: bool = sqlx::query_scalar("SELECT heartbeat_at > started_at FROM workers WHERE worker_id = $1")
        .bind(worker_id)
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert!(beaten);
}
