//! Through PgBouncer in transaction mode, with fewer sessions than a server has
//! connections. `STEELYARD_TEST_PGBOUNCER=1` sends all other tests through one too.

use std::str::FromStr;

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use steelyard::cluster::Status;
use steelyard::store::Database;

use crate::client::{Client, payment};
use crate::support::pgbouncer::{self, SESSIONS};
use crate::support::{Postgres, Process, Server, eventually};

async fn open_accounts(client: &Client) {
    client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR", "metadata": {"vip": true}})).await;
    client.open(json!({"code": "bob", "asset": "EUR"})).await;
}

fn payments(count: usize, key: &str) -> Vec<Value> {
    let item = |index| {
        let mut payment = payment("bank", "bob", 1);
        payment["idempotency_key"] = json!(format!("{key}-{index}"));
        payment
    };
    (0..count).map(item).collect()
}

#[tokio::test]
async fn the_main_paths_lead_through_a_pooler() {
    let url = Postgres::shared().await.database().await;
    let server = Server::start_on(pgbouncer::pooled(&url).await).await;
    let client = Client::new(&server.origin());
    client.get("//readyz").await.is(200);
    open_accounts(&client).await;

    let paid = client.pay("k", &payment("bank", "alice", 1_000)).await.is(201);
    let again = client.pay("k", &payment("bank", "alice", 1_000)).await.is(201);
    assert!(again.is_replay() && again.text == paid.text);
    client.pay("k", &payment("bank", "alice", 1)).await.is_problem(422, "idempotency_key_reused");
    client.pay("poor", &payment("alice", "bob", 1_001)).await.is_problem(422, "insufficient_funds");

    // Few enough for one statement, and so many that they go by COPY.
    for count in [5, 5_000] {
        let answer = client.post("/payments/batch", &json!({"payments": payments(count, &count.to_string())})).await;
        let results = answer.is(200).body["results"].as_array().unwrap().clone();
        assert_eq!((results.len(), results.iter().all(|result| result["status"] == 201)), (count, true));
    }
    let atomic = json!({"atomic": true, "payments": [payment("alice", "bob", 900), payment("bob", "bank", 800)]});
    client.post_with_key("/payments/batch", "atomic", &atomic).await.is(201);
    let declined = json!({"atomic": true, "payments": [payment("alice", "bob", 100), payment("alice", "bob", 1)]});
    client.post_with_key("/payments/batch", "none", &declined).await.is_problem(422, "insufficient_funds");
    client.put("/assets/NEW", &json!({"scale": 3})).await.is(201);
    client.put("//v1/ledgers/other", &json!({})).await.is(201);

    // From memory, and from the projections once they have caught up.
    let head = client.head().await;
    assert_eq!((client.posted("alice").await, client.posted("bob").await), ("100".into(), "5105".into()));
    let listed = client.get("/accounts").await.is(200);
    assert_eq!((listed.data().len(), listed.position()), (3, head));
    let account = client.get("/accounts/alice?consistency=eventual").await.is(200);
    assert_eq!((&account.body["balance"]["posted"], &account.body["metadata"]), (&json!("100"), &json!({"vip": true})));
    let entries = client.get("/accounts/alice/entries").await.is(200);
    assert_eq!(entries.field("amount"), [json!("1000"), json!("900")]);
    let id = paid.body["id"].as_str().unwrap();
    assert_eq!(client.get(&format!("/transactions/{id}")).await.is(200).body["idempotency_key"], "k");
    client.get("/transactions?account=alice").await.is(200);
    server.close().await;
}

/// Reads and payments of many clients at a time share what sessions there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_a_few_sessions() {
    let url = Postgres::shared().await.database().await;
    let first = Server::start_on(pgbouncer::pooled(&url).await).await;
    let second = Server::start_on(pgbouncer::pooled(&url).await).await;
    let clients = [Client::new(&first.origin()), Client::new(&second.origin())];
    open_accounts(&clients[0]).await;
    let everybody = (0..40).map(async |index: usize| {
        let client = &clients[index % 2];
        for round in 0..5 {
            client.pay(&format!("{index}-{round}"), &payment("bank", "alice", 1)).await.is(201);
            client.get("/accounts/alice/entries?order=desc").await.is(200);
            client.get("/events").await.is(200);
        }
    });
    join_all(everybody).await;
    assert_eq!(clients[0].posted("alice").await, "200");
    let mut conn = PgConnection::connect(&url).await.unwrap();
    // Beside the claims connection of each worker, which is direct.
    let sessions = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid NOT IN (SELECT backend_pid FROM workers)";
    let sessions: i64 = sqlx::query_scalar(sessions).fetch_one(&mut conn).await.unwrap();
    assert!((1..=i64::from(SESSIONS)).contains(&sessions), "{sessions}");
    first.close().await;
    second.close().await;
}

/// The trap: what one client does to a session, the next one finds.
#[tokio::test]
async fn a_session_serves_in_the_serving_role_and_keeps_nothing() {
    let url = Postgres::shared().await.database().await;
    let database = pgbouncer::pooled(&url).await;
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(database.pool()).await.unwrap();
    assert_eq!(role, "steelyard_serving");
    let mut conn = database.connect_serving().await.unwrap();
    for sql in ["UPDATE events SET position = position", "DELETE FROM idempotency_keys"] {
        for _ in 0..2 {
            let refused = sqlx::query(sql).execute(&mut conn).await.unwrap_err().to_string();
            assert!(refused.contains("permission denied"), "{refused}");
        }
    }
    // Who goes away in the middle of a transaction leaves nothing open.
    let mut tx = conn.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM events").execute(&mut tx).await.unwrap();
    drop(tx);
    drop(conn);
    let mut direct = PgConnection::connect(&url).await.unwrap();
    let busy = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
    eventually("all sessions are idle", async || {
        sqlx::query_scalar::<_, i64>(busy).fetch_one(&mut direct).await.unwrap() == 0
    })
    .await;
    let pooler = PgConnectOptions::from_str(&pgbouncer::before(&url).await).unwrap().extra_float_digits(None);
    let mut other = PgConnection::connect_with(&pooler).await.unwrap();
    let kept = "SELECT current_user::text, (SELECT count(*) FROM pg_prepared_statements)::text,
        current_setting('idle_in_transaction_session_timeout')";
    let kept = sqlx::raw_sql(kept).fetch_one(&mut other).await.unwrap();
    assert_eq!([0, 1, 2].map(|column| kept.get::<String, _>(column)), ["steelyard", "0", "0"]);
}

/// An operator who names only the pooler is told, rather than served by halves.
#[tokio::test]
async fn a_pooler_that_nobody_has_told_of_is_noticed() {
    let url = Postgres::shared().await.database().await;
    let pooler = pgbouncer::before(&url).await;
    assert!(Database::new(&url).unwrap().is_direct().await.unwrap());
    assert!(!Database::new(&pooler).unwrap().is_direct().await.unwrap());
    assert!(pgbouncer::pooled(&url).await.is_direct().await.unwrap());
}

/// One that is killed is taken over at once; one that is frozen in the middle of
/// a transaction holds a session of the pooler, by which it is found and ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_or_freezes_is_taken_over() {
    for failpoint in ["before_reply:3", "before_commit:1:stop", "during_copy:1:stop"] {
        let url = Postgres::shared().await.database().await;
        let pooler = pgbouncer::before(&url).await;
        let mut process = Process::spawn(
            &url,
            &[("DATABASE_URL", &pooler), ("STEELYARD_CLAIMS_DATABASE_URL", &url), ("STEELYARD_FAILPOINT", failpoint)],
        )
        .await;
        process.serves().await;
        let server = Server::start_on(pgbouncer::pooled(&url).await).await;
        let client = Client::new(&server.origin());
        client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
        client.open(json!({"code": "bob", "asset": "EUR"})).await;
        let batch = json!({"payments": payments(1_000, "k")});
        // On a slow machine it takes as long as a request waits; then the same keys again tell.
        eventually("the batch has its answer", async || {
            let answer = client.post("/payments/batch", &batch).await;
            assert!([200, 504].contains(&answer.status), "{}", answer.text);
            answer.status == 200
        })
        .await;
        assert_eq!(client.posted("bob").await, "1000");
        server.reaches(&Status::Serving).await;
        let listed = client.get("/accounts").await.is(200);
        assert_eq!(listed.position(), client.head().await, "its shards were taken over too");
        if failpoint.ends_with("stop") {
            assert!(process.is_stopped(), "{failpoint} was not reached");
            process.kill().await;
        } else {
            process.ended().await;
        }
        server.close().await;
    }
}
