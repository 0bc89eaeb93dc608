//! What operators see of the work that is not where it should be.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use steelyard::store::claims::{self, Registration, Unit};
use uuid::Uuid;

use crate::client::{Client, payment, start_on_database};
use crate::support::{Postgres, Process, Server, eventually};

async fn cluster(client: &Client) -> Value {
    client.get("//v1/cluster").await.is(200).body
}

/// Waits for a state of the cluster, and gives it.
async fn until(client: &Client, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut found = Value::Null;
    eventually(what, async || {
        found = cluster(client).await;
        wanted(&found)
    })
    .await;
    found
}

fn nothing() -> Value {
    json!({"ledgers": [], "shards": []})
}

/// A worker that counts as alive for as long as its session stands, projects all shards, and gives none back.
async fn one_that_holds_on(conn: &mut PgConnection) -> Uuid {
    let worker_id = Uuid::from_u128(1);
    let registration = Registration {
        address: "http://holds-on".to_owned(),
        internal_url: None,
        version: "0".to_owned(),
        capacity: 1,
        sequencer: false,
        projector: true,
    };
    claims::register(conn, worker_id, &registration).await.unwrap();
    let shards: Vec<Unit> = (0..64).map(Unit::Projector).collect();
    assert_eq!(claims::try_lock(conn, &shards).await.unwrap().len(), 64);
    claims::raise(conn, worker_id, &shards).await.unwrap();
    // Both have settled, and one beats ahead of time.
    let ahead = "UPDATE workers SET heartbeat_at = now() + interval '1 hour', started_at = now() - interval '1 hour'";
    sqlx::query(ahead).execute(conn).await.unwrap();
    worker_id
}

#[tokio::test]
async fn what_is_on_its_way_is_shown_until_it_has_arrived() {
    let url = Postgres::shared().await.database().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let holder = one_that_holds_on(&mut conn).await.to_string();
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());

    let moving = |cluster: &Value| cluster["workers"][1]["denied"] != nothing() && cluster["unowned"] == nothing();
    let found = until(&client, "it wants its share", moving).await;
    let joined = &found["workers"][1];
    assert_eq!((&found["workers"][0]["worker_id"], &found["workers"][0]["live"]), (&json!(holder), &json!(true)));
    assert_eq!((&joined["live"], &joined["shards"]), (&json!(true), &json!([])));
    let shares = shards(&joined["denied"]["shards"]);
    assert_eq!(shares.len(), 32);
    assert_eq!(
        found["moves"],
        json!([{"from": holder, "to": joined["worker_id"], "ledgers": [], "shards": joined["denied"]["shards"]}])
    );

    conn.close().await.unwrap();
    let arrived = |cluster: &Value| {
        let still = cluster["moves"] == json!([]) && cluster["unowned"] == nothing();
        still && cluster["workers"][1]["denied"] == nothing()
    };
    let found = until(&client, "all has arrived", arrived).await;
    assert_eq!((&found["workers"][0]["live"], &found["workers"][0]["shards"]), (&json!(false), &json!([])));
    assert_eq!(found["workers"][1]["shards"], json!(["0-63"]));
    server.close().await;
}

/// The trap: a worker that gives shards back says so first and unlocks them then, and whoever looks in between finds
/// claims of nobody that are locked. Their session is that of a worker that lives, and nobody may end it.
#[tokio::test]
async fn a_worker_that_is_giving_back_does_not_count_as_gone() {
    let url = Postgres::shared().await.database().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let holder = one_that_holds_on(&mut conn).await;
    let half_given = "UPDATE shard_claims SET worker_id = NULL WHERE shard < 32 AND worker_id = $1";
    sqlx::query(half_given).bind(holder).execute(&mut conn).await.unwrap();
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());

    // It is told with the heartbeat that comes after the look that was denied.
    let wanted = |cluster: &Value| cluster["workers"][1]["denied"]["shards"] == json!(["0-31"]);
    until(&client, "it wants what is being given", wanted).await;
    let given: Vec<Unit> = (0..32).map(Unit::Projector).collect();
    claims::release(&mut conn, holder, &given).await.expect("the session of the one that gives stands");
    let arrived = |cluster: &Value| cluster["workers"][1]["shards"] == json!(["0-31"]);
    let found = until(&client, "it has arrived", arrived).await;
    assert_eq!(found["workers"][0]["shards"], json!(["32-63"]));
    server.close().await;
}

/// The numbers in ranges.
fn shards(ranges: &Value) -> BTreeSet<u16> {
    let ranges = ranges.as_array().unwrap().iter().map(|range| range.as_str().unwrap());
    let bounds = ranges.map(|range| range.split_once('-').unwrap_or((range, range)));
    bounds.flat_map(|(first, last)| first.parse().unwrap()..=last.parse().unwrap()).collect()
}

/// A flush whose connection was lost holds the rows of its claims until PostgreSQL has noticed.
#[tokio::test]
async fn shards_whose_rows_are_held_are_given_back_later() {
    let url = Postgres::shared().await.database().await;
    let first = Process::spawn(&url, &[]).await;
    first.serves().await;
    let client = Client::new(first.origin());
    until(&client, "it has all shards", |cluster| cluster["workers"][0]["shards"] == json!(["0-63"])).await;
    let mut holder = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM shard_claims FOR SHARE").execute(&mut holder).await.unwrap();
    let second = Process::spawn(&url, &[]).await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut tries = BTreeSet::<chrono::DateTime<chrono::Utc>>::new();
    eventually("giving back was tried twice", async || {
        let waiting = "SELECT query_start FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'
                           AND query LIKE 'UPDATE shard_claims SET worker_id = NULL%'";
        tries.extend(
            sqlx::query_scalar::<_, chrono::DateTime<chrono::Utc>>(waiting).fetch_all(&mut conn).await.unwrap(),
        );
        tries.len() >= 2
    })
    .await;
    conn.close().await.unwrap();
    holder.close().await.unwrap();
    let shared = |cluster: &Value| {
        let held = |worker: &Value| shards(&worker["shards"]).len();
        cluster["workers"].as_array().unwrap().iter().map(held).collect::<Vec<_>>() == [32, 32]
    };
    until(&client, "each has its share", shared).await;
    let lost = |line: &Value| line["message"] == "the claims connection is lost; all claims with it";
    assert!(!first.log().borrow().iter().any(lost), "{:#?}", *first.log().borrow());
    second.kill().await;
    first.kill().await;
}

/// The trap: a deploy makes every shard move, and all of them at once.
#[tokio::test]
async fn a_join_moves_one_share_once_and_few_shards_at_a_time() {
    // On a machine that is busy with other tests a worker may be silent for so long that it counts as gone,
    // and what it had moves for that reason. The log says for how long, and then there is nothing to be seen here.
    for _ in 0..3 {
        if one_joins().await {
            return;
        }
    }
    panic!("a worker was silent for five seconds each time");
}

/// Whether both workers were heard of throughout, so that all was as it should be.
async fn one_joins() -> bool {
    let url = Postgres::shared().await.database().await;
    let first = Process::spawn(&url, &[]).await;
    first.serves().await;
    let second = Process::spawn(&url, &[]).await;
    let client = Client::new(second.origin());
    let held = |cluster: &Value| {
        let of = |worker: &Value| shards(&worker["shards"]).len();
        cluster["workers"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let arrived = |cluster: &Value| held(cluster) == [32, 32] && cluster["moves"] == json!([]);
    let found = until(&client, "each has its share", arrived).await;
    let log = first.log();
    let given = || -> Vec<u64> {
        let log = log.borrow();
        let giving = log.iter().filter(|line| line["message"] == "giving units to other workers");
        giving.map(|line| line["units"].as_u64().unwrap()).collect()
    };
    eventually("all that was given is logged", async || given().iter().sum::<u64>() >= 32).await;
    let given = given();
    let logs = [first.log(), second.log()];
    let gone = "ending the sessions of a worker that is not heard of any more";
    let is_gone = |line: &Value| line["message"] == gone && line["silent_s"].as_f64() >= Some(claims::STALE_AFTER_S);
    if logs.iter().any(|log| log.borrow().iter().any(is_gone)) {
        second.kill().await;
        first.kill().await;
        return false;
    }
    assert!(given.iter().sum::<u64>() == 32 && given.iter().all(|units| *units <= 8), "{given:?}");
    let epochs = found["shards"].as_array().unwrap().iter().map(|shard| shard["epoch"].as_i64().unwrap());
    assert_eq!(epochs.filter(|epoch| *epoch == 2).count(), 32, "each changed hands once: {}", found["shards"]);
    second.kill().await;
    first.kill().await;
    true
}

/// A denial is never silence: it is a metric, a line of the log and a line of `steelyard cluster`.
#[tokio::test]
async fn a_claim_that_is_denied_and_a_unit_that_nobody_holds_are_seen_everywhere() {
    let url = Postgres::shared().await.database().await;
    // A session that is no worker's, as a pooler would leave one behind.
    let mut orphan = PgConnection::connect(&url).await.unwrap();
    assert_eq!(claims::try_lock(&mut orphan, &[Unit::Projector(5)]).await.unwrap().len(), 1);
    let process = Process::spawn(&url, &[]).await;
    process.serves().await;
    let client = Client::new(process.origin());

    let five = json!({"ledgers": [], "shards": ["5"]});
    let denied = |cluster: &Value| cluster["workers"][0]["denied"] == five && cluster["unowned"] == five;
    let found = until(&client, "it is denied", denied).await;
    let worker_id = &found["workers"][0]["worker_id"];
    assert_eq!(found["moves"], json!([{"from": null, "to": worker_id, "ledgers": [], "shards": ["5"]}]));
    assert_eq!(found["workers"][0]["shards"], json!(["0-4", "6-63"]));
    let metrics = client.get("//metrics").await.is(200).text;
    for line in ["steelyard_claims_denied 1", "steelyard_units_unowned 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    let shown = tokio::process::Command::new(env!("CARGO_BIN_EXE_steelyard"))
        .args(["cluster", "--url", process.origin()])
        .output()
        .await
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in ["held by nobody: shards 5", &format!("nobody      {}  shards 5", worker_id.as_str().unwrap())] {
        assert!(shown.lines().any(|found| found == line), "{line} is not in\n{shown}");
    }
    for message in ["no worker holds units", "claims are denied: another session holds their locks"] {
        let line = process.logs(|line| line["message"] == message).await;
        assert_eq!((&line["level"], &line["units"]), (&json!("WARN"), &json!("shards 5")), "{line}");
    }

    orphan.close().await.unwrap();
    until(&client, "all is well", |cluster| {
        (&cluster["workers"][0]["denied"], &cluster["unowned"]) == (&nothing(), &nothing())
    })
    .await;
    for message in ["units are held again", "claims are denied no longer"] {
        let line = process.logs(|line| line["message"] == message).await;
        assert_eq!(line["units"], "shards 5", "{line}");
    }
    process.kill().await;
}

#[tokio::test]
async fn writes_that_were_fenced_are_counted_for_all_to_see() {
    let (server, client, url) = start_on_database().await;
    assert_eq!(cluster(&client).await["workers"][0]["writes_fenced"], 0);
    let mut conn = PgConnection::connect(&url).await.unwrap();
    // As if another worker had taken over, and given back.
    sqlx::query("UPDATE sequencer_claims SET epoch = epoch + 1").execute(&mut conn).await.unwrap();
    client.pay("k", &payment("alice", "bob", 1)).await.is(201);
    until(&client, "it is told", |cluster| cluster["workers"][0]["writes_fenced"] == 1).await;
    server.close().await;
}
