//! Two workers on one database: one serves, one stands by.

use serde_json::json;
use steelyard::cluster::Status;

use crate::client::{Client, payment};
use crate::support::{Postgres, Server};

#[tokio::test]
async fn a_second_worker_stands_by_and_says_so() {
    let url = Postgres::shared().await.database().await;
    let first = Server::start(&url).await;
    let serving = Client::new(&first.origin());
    serving.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    serving.open(json!({"code": "alice", "asset": "EUR"})).await;
    let paid = serving.pay("k", &payment("bank", "alice", 5)).await.is(201);
    let id = paid.body["id"].as_str().unwrap();

    let second = Server::join(&url).await;
    second.reaches(&Status::Standby).await;
    let standby = Client::new(&second.origin());
    standby.get("//livez").await.is(200);
    let not_ready = standby.get("//readyz").await.is_problem(503, "standby");
    assert_eq!(not_ready.header("retry-after"), Some("1"));
    let head = serving.head().await;
    standby.pay("k2", &payment("bank", "alice", 5)).await.is_problem(503, "standby");
    standby.post("/accounts", &json!({"code": "x", "asset": "EUR"})).await.is_problem(503, "standby");
    standby.put("/assets/NEW", &json!({"scale": 1})).await.is_problem(503, "standby");
    let batch =
        json!({"payments": [{"from": "bank", "to": "alice", "amount": 1, "asset": "EUR", "idempotency_key": "b"}]});
    standby.post("/payments/batch", &batch).await.is_problem(503, "standby");
    assert_eq!(serving.head().await, head, "nothing was recorded");
    let answer = serving.pay("k2", &payment("bank", "alice", 5)).await.is(201);
    assert!(!answer.is_replay(), "the key is free after 503");

    // Malformed is malformed everywhere.
    standby.pay("k3", &payment("bank", "alice", 0)).await.is_problem(422, "validation_failed");
    // What asks the sequencer cannot be answered; what is as of a position can.
    standby.get("/accounts/alice").await.is_problem(503, "standby");
    standby.get("/accounts").await.is_problem(503, "standby");
    standby.get("/accounts?consistency=strong&min_position=1").await.is_problem(503, "standby");
    let position = answer.position();
    // The first has the projections up to there once it has answered from them.
    serving.get("/accounts?prefix=alice").await.is(200);
    for path in [
        "/accounts/alice?consistency=eventual",
        "/accounts",
        "/accounts/alice/entries",
        "/transactions",
        "/events",
        "/assets",
    ] {
        let separator = if path.contains('?') { '&' } else { '?' };
        let read = standby.get(&format!("{path}{separator}min_position={position}")).await;
        if read.status == 504 {
            // Checkpoints of shards without events follow at their own pace.
            read.is_problem(504, "projection_behind");
        } else {
            assert!(read.is(200).position() >= position, "{path}");
        }
    }
    standby.get(&format!("/transactions/{id}")).await.is(200);
    standby.get("/events?min_position=1000").await.is_problem(504, "projection_behind");
    let cluster = standby.get("//v1/cluster").await.is(200).body;
    let shards: Vec<_> = cluster["workers"].as_array().unwrap().iter().map(|worker| &worker["shards"]).collect();
    assert_eq!(shards.len(), 2);
    assert!(shards.contains(&&json!(["0-63"])) && shards.contains(&&json!([])), "{shards:?}");

    first.close().await;
    second.reaches(&Status::Serving).await;
    standby.get("//readyz").await.is(200);
    let again = standby.pay("k", &payment("bank", "alice", 5)).await.is(201);
    assert!(again.is_replay() && again.text == paid.text);
    assert_eq!(standby.posted("alice").await, "10");
    second.close().await;
}
