//! The plans of the hot statements, as PostgreSQL makes them for any parameters:
//! through an index, without reading a whole table, and with no lock per account.

use sqlx::Row;
use steelyard::ledger::{Position, Side};
use steelyard::store::{Connection, Database, as_of, events, keys, known, projections, rules, search, story, waiting};

use super::{main_ledger, open_accounts, payment, submit, worker};
use crate::support::Postgres;

/// Tables that grow with the business.
const LARGE: [&str; 12] = [
    "events",
    "idempotency_keys",
    "accounts",
    "balances",
    "entries",
    "rejections",
    "backdated",
    "backdated_days",
    "transaction_metadata",
    "transaction_accounts",
    "holds",
    "scheduled_transactions",
];

async fn plans(conn: &mut Connection) -> Vec<(String, String)> {
    sqlx::query("SET plan_cache_mode = force_generic_plan").execute(&mut *conn).await.unwrap();
    let prepared = sqlx::query(
        "SELECT name, statement, cardinality(parameter_types) AS parameters FROM pg_prepared_statements
         WHERE statement ~ 'events|idempotency_keys|accounts|entries|backdated|transaction_metadata|holds|scheduled_transactions|FOR SHARE'",
    )
    .fetch_all(&mut *conn)
    .await
    .unwrap();
    let mut plans = Vec::new();
    for row in prepared {
        let (name, statement): (String, String) = (row.get("name"), row.get("statement"));
        if statement.contains("pg_prepared_statements") {
            continue;
        }
        let nulls = vec!["NULL"; row.get::<i32, _>("parameters") as usize].join(", ");
        let sql = format!("EXPLAIN (COSTS OFF) EXECUTE \"{name}\"({nulls})");
        let lines: Vec<String> = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .fetch_all(&mut *conn)
            .await
            .unwrap()
            .iter()
            .map(|row| row.get::<String, _>(0))
            .collect();
        plans.push((statement, lines.join("\n")));
    }
    plans
}

#[tokio::test]
async fn hot_statements_use_indexes_and_lock_no_account() {
    let url = Postgres::shared().await.database().await;
    let worker = worker(&url).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    submit(&ledger, payment("bank", "a", 1, "k")).await.unwrap();
    let head: Position = ledger.tail.head();
    ledger.checkpoints.reached(head).await;
    worker.stop().await;

    let database = Database::new(&url).unwrap();
    let mut owner = database.connect_owner().await.unwrap();
    // Tables of a size at which reading them whole would be a disaster.
    let grow = "
        SET session_replication_role = replica;
        INSERT INTO events SELECT 1, n, 'transaction_posted', 1, gen_random_uuid(), 'k' || n, '{}', now(), now(), 1
            FROM generate_series(100, 60000) n;
        INSERT INTO idempotency_keys SELECT 1, decode(md5(n::text), 'hex'), '\\x00', n, 1 FROM generate_series(100, 60000) n;
        INSERT INTO accounts SELECT n % 64, 1, n, 'w' || n, 'EUR', 'credit', 0, NULL, 'open', NULL, now()
            FROM generate_series(100, 60000) n;
        INSERT INTO balances SELECT n % 64, 1, n, 0, 0, 0, 0, 1, 0, n FROM generate_series(100, 60000) n;
        INSERT INTO entries SELECT n % 64, 1, n, 1, n, 0, gen_random_uuid(), 'debit', 1, 1, 'r' || n, now(), now()
            FROM generate_series(100, 60000) n;
        INSERT INTO rejections SELECT n % 64, 1, n, n, 0, gen_random_uuid(), 'x', 'r' || n, now(), now()
            FROM generate_series(100, 60000) n;
        INSERT INTO backdated SELECT n % 64, 1, n, 2000, 'debit', 1, now() - interval '1 day', now(), 1, 0
            FROM generate_series(100, 60000) n;
        INSERT INTO backdated_days SELECT n % 64, 1, n, current_date - 1, 1, 0 FROM generate_series(100, 60000) n;
        INSERT INTO transaction_metadata SELECT n % 64, 1, n, n, 'order', n::text FROM generate_series(100, 60000) n;
        INSERT INTO transaction_accounts SELECT n % 64, 1, n, n FROM generate_series(100, 60000) n;
        INSERT INTO holds SELECT n % 64, 1, n, n, gen_random_uuid(), 'a', 'b', 1, 'EUR', 1, 0, 1, 'captured', now(), 'r' || n,
                now(), n, now()
            FROM generate_series(100, 60000) n;
        INSERT INTO scheduled_transactions SELECT n % 64, 1, n, n, gen_random_uuid(), 'posted', now(), 'r' || n, now(), n, now()
            FROM generate_series(100, 60000) n;
        ANALYZE;";
    sqlx::raw_sql(grow).execute(&mut owner).await.unwrap();

    let conn = &mut Connection::from(database.connect_owner().await.unwrap());
    let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM sequencer_claims").fetch_one(&mut *conn).await.unwrap();
    let event = events::at_positions(&mut *conn, 1, &[4]).await.unwrap();
    // Each hot statement once, so that it is prepared on this connection.
    assert!(events::append(&mut *conn, 1, epoch - 1, &event, &[]).await.is_err());
    assert!(events::write(conn, 1, epoch - 1, &event, &[]).await.is_err());
    events::fence(&mut *conn, 1, epoch).await.unwrap();
    events::recent_keys(&mut *conn, 1, 60_000, 100).await.unwrap();
    events::head(&mut *conn, 1).await.unwrap();
    events::was_appended(&mut *conn, 1, 1, 1).await.unwrap();
    assert!(events::read(&mut *conn, 1, 0, 4).await.is_ok());
    story::of(&mut *conn, 1, uuid::Uuid::nil()).await.unwrap();
    rules::now(&mut *conn, 1).await.unwrap();
    known::find(conn, 1, &[uuid::Uuid::nil()]).await.unwrap();
    known::rules(conn, 1, 0, 60_000, 10).await.unwrap();
    waiting::waiting(conn, 1).await.unwrap();
    keys::find(&mut *conn, 1, &[[0; 16]]).await.unwrap();
    projections::load_accounts(conn, 1, &[0], &["w100"]).await.unwrap();
    projections::flush(conn, 1, &[], 1, &projections::Flush::default()).await.unwrap();
    projections::account_id(&mut *conn, 1, 0, "w100").await.unwrap();
    projections::list_accounts(&mut *conn, 1, "w", None, "", 10).await.unwrap();
    projections::entries(&mut *conn, 1, 0, 100, 0, true, 10).await.unwrap();
    projections::entries(&mut *conn, 1, 0, 100, 9, false, 10).await.unwrap();
    let of = as_of::Of { shard: 0, ledger_id: 1, account_id: 100, normal: Side::Credit };
    let epoch_1970 = chrono::DateTime::UNIX_EPOCH;
    as_of::lines(&mut *conn, of, as_of::Lines { known: 1, after: (epoch_1970, 0), to: epoch_1970 }, 10).await.unwrap();
    as_of::recorded_at(&mut *conn, of, 1).await.unwrap();
    as_of::trial_balance(&mut *conn, 1, head, None, "w", 10).await.unwrap();
    let (outcomes, range) = (
        search::Outcomes { posted: true, rejected: true, authorised: true, scheduled: true },
        search::Range { above: 0, upto: 60_000 },
    );
    for direction in [search::Direction::Ascending, search::Direction::Descending] {
        search::of_account(&mut *conn, (1, 0, 100), outcomes, range, direction, 10).await.unwrap();
        search::of_reference(&mut *conn, 1, "r100", outcomes, range, direction, 10).await.unwrap();
        search::of_metadata(&mut *conn, 1, ("order", "100"), range, direction, 10).await.unwrap();
        search::of_log(&mut *conn, 1, outcomes, range, direction, 10).await.unwrap();
    }
    projections::accounts_of_codes(&mut *conn, 1, &["w100".to_owned()]).await.unwrap();

    let plans = plans(conn).await;
    assert!(plans.len() >= 17, "only {} statements were looked at", plans.len());
    for (statement, plan) in &plans {
        for table in LARGE {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{statement}\n{plan}");
        }
        assert!(!plan.contains("LockRows") || plan.contains("_claims"), "{statement}\n{plan}");
    }
    let copy = plans.iter().find(|(statement, _)| statement.ends_with("FOR SHARE")).unwrap();
    assert!(copy.1.starts_with("LockRows"), "what fences a COPY locks nothing\n{}", copy.1);
    let append = plans.iter().find(|(statement, _)| statement.contains("INSERT INTO events")).unwrap();
    for table in ["accounts", "balances", "entries"] {
        assert!(!append.1.contains(&format!(" on {table}")), "the append touches {table}\n{}", append.1);
    }
    insta::assert_snapshot!("append", append.1);
    let walks = ["FROM transaction_metadata", "entry_version_at", "reference = $2", "$8::boolean AND type"];
    for (name, part) in ["metadata", "account", "reference", "log"].into_iter().zip(walks) {
        let walk = |order: &str| {
            let of_walk = |(statement, _): &&(String, String)| statement.contains(part) && statement.contains(order);
            plans.iter().find(of_walk).map(|(_, plan)| plan.as_str()).unwrap_or_default()
        };
        insta::assert_snapshot!(format!("search_by_{name}"), format!("{}\n\n{}", walk(" ASC "), walk(" DESC ")));
    }
    let flush = plans.iter().find(|(statement, _)| statement.contains("INSERT INTO entries")).unwrap();
    insta::assert_snapshot!("flush", flush.1);
    let lines = plans.iter().find(|(statement, _)| statement.contains("WITH straight")).unwrap();
    insta::assert_snapshot!("statement_lines", lines.1);
    let trial = plans.iter().find(|(statement, _)| statement.contains("net_debit_as_of")).unwrap();
    insta::assert_snapshot!("trial_balance", trial.1);
}

/// Pages that a balance as of a moment may touch: some thirty probes of an index
/// of three levels, a row each, and the days of some years. The account below
/// has 40 times as many.
const PAGES_MAX: u64 = 250;

/// No plan of a statement within a function is to be had, so what it touches is counted.
#[tokio::test]
async fn a_balance_as_of_a_moment_touches_few_pages_of_a_long_history() {
    let url = Postgres::shared().await.database().await;
    let database = Database::new(&url).unwrap();
    let mut owner = database.connect_owner().await.unwrap();
    // Every hour one leg, of which every tenth is back-dated by up to 90 days.
    let grow = "
        SET session_replication_role = replica;
        INSERT INTO entries SELECT 0, 1, 1, n, n * 3, 0, '00000000-0000-0000-0000-000000000000', 'credit', 1, n, NULL,
                t - CASE WHEN n % 10 = 0 THEN interval '1 hour' * (n * 7919 % 2160 + 1) ELSE interval '0' END, t
            FROM (SELECT n, '2010-01-01Z'::timestamptz + interval '1 hour' * n AS t FROM generate_series(1, 200000) n) h;
        INSERT INTO backdated SELECT shard, ledger_id, account_id, version, side, amount, effective_at, recorded_at, 0, version / 10 - 102
            FROM entries WHERE effective_at <> recorded_at AND version > 1024;
        INSERT INTO backdated_days SELECT 0, 1, 1, (effective_at AT TIME ZONE 'UTC')::date, 0, count(*) FROM backdated GROUP BY 4;
        VACUUM ANALYZE entries; VACUUM ANALYZE backdated; VACUUM ANALYZE backdated_days;";
    for statement in grow.split_inclusive(';') {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut owner).await.unwrap();
    }
    for times in [1, 77_777, 199_999] {
        let balance = format!(
            "balance_as_of(0::smallint, 1, 1, 'credit', 200000, '2010-01-01Z'::timestamptz + interval '1 hour' * {times})"
        );
        let position = format!("last_entry(0::smallint, 1, 1, 200000, {times} * 3, 'infinity')");
        for call in [balance, position] {
            // The first time it is planned; the sixth time with a plan for any parameters.
            let mut plan = String::new();
            for _ in 0..7 {
                let explain = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) SELECT {call}");
                let lines = sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_all(&mut owner).await.unwrap();
                plan = lines.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n");
            }
            let buffers = plan.lines().find(|line| line.contains("Buffers:")).unwrap();
            let numbers = buffers.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u64>().ok());
            let pages: u64 = numbers.sum();
            assert!((3..PAGES_MAX).contains(&pages), "{call}: {pages} pages\n{plan}");
        }
    }
}
