//! A rebuild repairs, disturbs nobody, and never shows anything half-done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use steelyard::cluster::Ledger;
use steelyard::ledger::{Command, Side};
use steelyard::projector::rebuild::{Error, rebuild};
use steelyard::projector::verify::Failure;
use steelyard::sequencer::Outcome;
use steelyard::store;

use crate::fixture::{PATIENCE, Scratch, furnished, opening, payment, projected, submit};

const DAMAGE: &[&str] = &[
    "UPDATE balances SET credits_posted = credits_posted + 1 WHERE account_id = 3",
    "DELETE FROM entries WHERE account_id = 3 AND version = 2",
    "DELETE FROM accounts",
    "DELETE FROM transaction_metadata WHERE position = 8",
    "UPDATE transaction_metadata SET value = 'else'",
    "TRUNCATE accounts, balances, entries, rejections, transaction_metadata; UPDATE checkpoints SET position = 0",
    "INSERT INTO projection_faults (shard, ledger_id, account_id, expected, position) VALUES (0, 1, 3, 1, 9)",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_repairs_damaged_projections() {
    let good = furnished().await;
    for damage in DAMAGE {
        let scratch = good.cloned().await;
        scratch.corrupt(damage).await;
        if !damage.starts_with("TRUNCATE") {
            assert!(matches!(scratch.verify().await, Err(Failure::Difference(_))), "{damage}");
        }
        let report = scratch.rebuild().await.unwrap();
        assert_eq!((report.ledgers, report.events, report.accounts), (2, 2 * 14, 2 * 5));
        assert_eq!((report.entries, report.rejections), (2 * 13, 2 * 4));
        let verified = scratch.verify().await.unwrap();
        assert_eq!(verified.entries, report.entries, "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_contradicts_itself_is_refused_and_the_projections_stay() {
    let scratch = furnished().await;
    scratch
        .corrupt("UPDATE events SET payload = jsonb_set(payload, '{legs,1,debits}', '\"9\"') WHERE ledger_id = 1 AND position = 7")
        .await;
    match scratch.rebuild().await {
        Err(Error::Contradiction { ledger_id: 1, contradiction }) => assert_eq!(contradiction.position, 7),
        other => panic!("{other:?}"),
    }
    assert_eq!(scratch.number("SELECT count(*) FROM reporting.accounts").await, 10);
    assert_eq!(scratch.number("SELECT count(*) FROM pg_namespace WHERE nspname IN ('rebuild', 'replaced')").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rebuilds_do_not_run_at_once() {
    let scratch = furnished().await;
    let mut conn = scratch.connect().await;
    assert!(store::rebuild::lock(&mut conn).await.unwrap());
    assert!(matches!(scratch.rebuild().await, Err(Error::AlreadyRunning)));
    drop(conn);
    let again = async {
        while matches!(scratch.rebuild().await, Err(Error::AlreadyRunning)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

/// Everything about the tables and views that a rebuild might forget.
const CATALOGUE: &str = r"
    SELECT coalesce(string_agg(line, E'\n' ORDER BY line), '') FROM (
        SELECT indexdef AS line FROM pg_indexes WHERE schemaname IN ('public', 'reporting', 'extra')
        UNION ALL
        SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
        UNION ALL
        SELECT concat_ws(' ', oid::regclass, relkind, relacl, reloptions, pg_get_userbyid(relowner), relpersistence, obj_description(oid))
        FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'reporting'::regnamespace, 'extra'::regnamespace)
        UNION ALL
        SELECT concat_ws(' ', attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attstorage, attacl,
            col_description(attrelid, attnum), pg_get_expr(adbin, adrelid))
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (
            SELECT oid FROM pg_class WHERE relkind IN ('r', 'v')
                AND relnamespace IN ('public'::regnamespace, 'reporting'::regnamespace, 'extra'::regnamespace))
        UNION ALL
        SELECT concat_ws(' ', oid::regclass, pg_get_viewdef(oid)) FROM pg_class
        WHERE relkind = 'v' AND relnamespace IN ('reporting'::regnamespace, 'extra'::regnamespace)
    ) AS lines";

async fn catalogue(scratch: &Scratch) -> String {
    let mut conn = scratch.connect().await;
    sqlx::query_scalar(AssertSqlSafe(CATALOGUE)).fetch_one(&mut conn).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_views_come_back_as_later_migrations_left_them() {
    let scratch = furnished().await;
    scratch
        .corrupt(
            "CREATE SCHEMA extra;
             CREATE VIEW extra.wealth WITH (security_barrier = true) AS
                SELECT a.code, b.credits_posted FROM accounts a JOIN balances b USING (shard, ledger_id, account_id);
             CREATE VIEW extra.upon AS SELECT w.code, s.amount FROM extra.wealth w JOIN reporting.statement_lines s ON s.account = w.code;
             COMMENT ON VIEW extra.wealth IS 'Who has what.';
             COMMENT ON COLUMN entries.reference IS 'The client''s.';
             COMMENT ON TABLE entries IS 'Legs.';
             CREATE INDEX entries_by_time ON entries (recorded_at) WHERE amount > 0;
             ALTER TABLE entries ADD COLUMN note text DEFAULT 'none';
             ALTER TABLE entries SET (fillfactor = 91);
             ALTER TABLE rejections ADD CONSTRAINT rejections_leg CHECK (leg >= 0);
             GRANT SELECT (code), INSERT ON accounts TO steelyard_analyst;
             GRANT SELECT ON entries TO steelyard_analyst WITH GRANT OPTION",
        )
        .await;
    let before = catalogue(&scratch).await;
    scratch.rebuild().await.unwrap();
    let after = catalogue(&scratch).await;
    let lost: Vec<&str> = before.lines().filter(|line| !after.contains(line)).collect();
    let new: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    assert!(lost.is_empty() && new.is_empty(), "lost {lost:#?}\nnew {new:#?}");
    scratch.verify().await.unwrap();
    scratch.rebuild().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_follow_the_tables_is_refused() {
    let scratch = furnished().await;
    scratch.corrupt("CREATE MATERIALIZED VIEW public.frozen AS SELECT code FROM accounts").await;
    match scratch.rebuild().await {
        Err(Error::Obstacle(obstacle)) => assert_eq!(obstacle, "materialized view frozen"),
        other => panic!("{other:?}"),
    }
}

/// A ledger under load: payments around a ring of accounts, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    payments: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

const RING: u64 = 40;

impl Load {
    async fn start(ledger: &Arc<Ledger>) -> Self {
        for index in 0..RING {
            let open = opening(&format!("ring:{index}"), Side::Credit, None);
            submit(ledger, Command::OpenAccount(open), None).await.unwrap();
        }
        let (stop, payments) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..8).map(|client| {
            let (ledger, stop, payments) = (Arc::clone(ledger), Arc::clone(&stop), Arc::clone(&payments));
            tokio::spawn(async move {
                for round in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let from = (client * 7 + round) % RING;
                    let request = payment(
                        &format!("ring:{from}"),
                        &format!("ring:{}", (from + 1 + client) % RING),
                        1 + round % 9,
                    );
                    let key = format!("load {client} {round}");
                    let answer = submit(&ledger, Command::Transact(request), Some(&key)).await.unwrap();
                    let recorded = matches!(answer.outcomes.as_slice(), [Outcome::Recorded { .. }]);
                    assert!(recorded, "{key}: {:?}", answer.outcomes);
                    payments.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self { tasks: tasks.collect(), stop, payments }
    }

    async fn more(&self, count: u64) {
        let want = self.payments.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.payments.load(Ordering::Relaxed) < want {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.payments.load(Ordering::Relaxed)
    }
}

/// Looks at the projections over and over, as an analyst does, until told to
/// stop, and answers how often it looked.
async fn watch(mut conn: PgConnection, stop: Arc<AtomicBool>) -> u64 {
    let (mut accounts_before, mut cut_before, mut looks) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        let (accounts, cut, net, lines): (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM reporting.accounts),
                    (SELECT sum(position)::bigint FROM reporting.consistent_cut),
                    (SELECT coalesce(sum(net_debit), 0)::bigint FROM reporting.trial_balance),
                    (SELECT coalesce(sum(a.version), 0)::bigint - (SELECT count(*) FROM reporting.statement_lines) FROM reporting.accounts a)",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        assert!(accounts >= accounts_before, "{accounts_before} accounts became {accounts}");
        assert!(cut >= cut_before, "the cut went back from {cut_before} to {cut}");
        assert_eq!((net, lines), (0, 0), "trial balance, and lines that accounts have more than statements");
        (accounts_before, cut_before, looks) = (accounts, cut, looks + 1);
    }
    looks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn payments_go_on_and_readers_see_whole_projections_during_rebuilds() {
    let scratch = furnished().await;
    let worker = scratch.work().await;
    let ledger = worker.ledgers.get("main").unwrap();
    let load = Load::start(&ledger).await;
    let stop = Arc::new(AtomicBool::new(false));
    let watchers = [scratch.connect().await, scratch.connect().await];
    let watchers = watchers.map(|conn| tokio::spawn(watch(conn, Arc::clone(&stop))));
    for _ in 0..4 {
        load.more(200).await;
        let before = load.payments.load(Ordering::Relaxed);
        let report = scratch.rebuild().await.unwrap();
        assert!(report.events > before);
        // Also while the projections are behind the log.
        scratch.verify().await.unwrap();
    }
    load.more(200).await;
    stop.store(true, Ordering::Relaxed);
    for watcher in watchers {
        assert!(watcher.await.unwrap() > 10);
    }
    let payments = load.stop().await;
    projected(&ledger).await;
    worker.stop().await;
    let report = scratch.verify().await.unwrap();
    assert_eq!(report.transactions, payments + 12);
    assert_eq!(scratch.number("SELECT count(*) FROM projection_faults").await, 0);
}

/// Trap: a rebuild that swaps in what it had folded before the live projectors
/// went on. The sequencer has evicted accounts on the word of those checkpoints.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trap_a_swap_never_moves_a_checkpoint_back() {
    let scratch = furnished().await;
    let worker = scratch.work().await;
    let ledger = worker.ledgers.get("main").unwrap();
    let runtime = tokio::runtime::Handle::current();
    let moved = AtomicBool::new(false);
    // In the middle of the rebuild, payments come and are projected.
    let progress = |_, _| {
        if moved.swap(true, Ordering::Relaxed) {
            return;
        }
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                for index in 0..20 {
                    let key = format!("meanwhile {index}");
                    submit(&ledger, Command::Transact(payment("bank", "jar", 1)), Some(&key)).await.unwrap();
                }
                projected(&ledger).await;
            });
        });
    };
    let report = rebuild(&scratch.database, &progress).await.unwrap();
    assert!(moved.load(Ordering::Relaxed));
    assert_eq!(report.events, 2 * 14 + 20);
    let behind = "SELECT count(*) FROM checkpoints WHERE ledger_id = 1 AND position < 34";
    assert_eq!(scratch.number(behind).await, 0);
    assert_eq!(
        scratch.number("SELECT debits_posted::bigint FROM balances WHERE ledger_id = 1 AND account_id = 1").await,
        520
    );
    submit(&ledger, Command::Transact(payment("bank", "jar", 1)), Some("after")).await.unwrap();
    projected(&ledger).await;
    worker.stop().await;
    scratch.verify().await.unwrap();
}

/// Trap: the same under load, looking at every checkpoint all the time, with
/// epochs that may only rise.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trap_checkpoints_only_ever_advance_under_load() {
    let scratch = furnished().await;
    let worker = scratch.work().await;
    let ledger = worker.ledgers.get("main").unwrap();
    let load = Load::start(&ledger).await;
    let stop = Arc::new(AtomicBool::new(false));
    let observer = tokio::spawn({
        let (mut conn, stop) = (scratch.connect().await, Arc::clone(&stop));
        async move {
            let mut known: BTreeMap<(i32, i16), (i64, i64)> = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                let rows: Vec<(i32, i16, i64, i64)> =
                    sqlx::query_as("SELECT ledger_id, shard, position, epoch FROM checkpoints")
                        .fetch_all(&mut conn)
                        .await
                        .unwrap();
                for (ledger_id, shard, position, epoch) in rows {
                    let before = known.insert((ledger_id, shard), (position, epoch)).unwrap_or_default();
                    assert!(
                        position >= before.0 && epoch >= before.1,
                        "shard {shard}: {before:?}, {position}, {epoch}"
                    );
                }
            }
        }
    });
    for _ in 0..3 {
        load.more(300).await;
        scratch.rebuild().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    observer.await.unwrap();
    load.stop().await;
    worker.stop().await;
    scratch.verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_reader_delays_the_swap_and_nobody_else() {
    let scratch = furnished().await;
    let mut long = scratch.connect().await;
    let mut reading = long.begin().await.unwrap();
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM reporting.accounts").fetch_one(&mut *reading).await.unwrap();
    assert_eq!(count, 10);
    let rebuilding = tokio::spawn({
        let database = scratch.database.clone();
        async move { rebuild(&database, &|_, _| {}).await }
    });
    // Until the swap has been tried.
    let tried = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        while scratch.number(waits).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.unwrap();
    let other = scratch.number("SELECT count(*) FROM reporting.accounts");
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), other).await.unwrap(), 10);
    assert!(!rebuilding.is_finished());
    reading.commit().await.unwrap();
    let report = tokio::time::timeout(PATIENCE, rebuilding).await.unwrap().unwrap().unwrap();
    assert!(report.swap_tries > 1);
    scratch.verify().await.unwrap();
}

/// Trap: a transaction whose snapshot is older than the fresh rows would find
/// the tables empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn trap_an_old_snapshot_never_sees_empty_tables() {
    let scratch = furnished().await;
    let mut old = scratch.connect().await;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledgers")
        .execute(&mut old)
        .await
        .unwrap();
    let loaded = Arc::new(AtomicBool::new(false));
    let rebuilding = tokio::spawn({
        let (database, loaded) = (scratch.database.clone(), Arc::clone(&loaded));
        async move { rebuild(&database, &|done, total| loaded.store(done == total, Ordering::Relaxed)).await }
    });
    let indexed = async {
        let primary_keys = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'rebuild' AND indexname LIKE '%_pkey'";
        while !loaded.load(Ordering::Relaxed) || scratch.number(primary_keys).await < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, indexed).await.unwrap();
    // Long enough for a swap that does not wait.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!rebuilding.is_finished());
    let accounts: i64 =
        sqlx::query_scalar("SELECT count(*) FROM reporting.accounts").fetch_one(&mut old).await.unwrap();
    assert_eq!(accounts, 10);
    sqlx::raw_sql("COMMIT").execute(&mut old).await.unwrap();
    tokio::time::timeout(PATIENCE, rebuilding).await.unwrap().unwrap().unwrap();
    scratch.verify().await.unwrap();
}
