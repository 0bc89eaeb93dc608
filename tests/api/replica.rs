//! Two workers on one database: each answers everything.

use std::time::{Duration, Instant};

use serde_json::json;
use steelyard::cluster::Status;

use crate::client::{Client, payment};
use crate::legs::leg;
use crate::support::{Postgres, Server};

#[tokio::test]
async fn any_worker_answers_any_request() {
    let url = Postgres::shared().await.database().await;
    let first = Server::start(&url).await;
    let sequencing = Client::new(&first.origin());
    sequencing.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    sequencing.open(json!({"code": "alice", "asset": "EUR"})).await;
    let paid = sequencing.pay("k", &payment("bank", "alice", 5)).await.is(201);
    let id = paid.body["id"].as_str().unwrap();

    let second = Server::join(&url).await;
    second.reaches(&Status::Serving).await;
    let replica = Client::new(&second.origin());
    replica.get("//livez").await.is(200);
    replica.get("//readyz").await.is(200);

    // Writes are decided by the sequencer's worker, wherever they come in.
    let forwarded = replica.pay("k2", &payment("bank", "alice", 5)).await.is(201);
    let again = sequencing.pay("k2", &payment("bank", "alice", 5)).await.is(201);
    assert!(again.is_replay() && again.text == forwarded.text);
    let again = replica.pay("k", &payment("bank", "alice", 5)).await.is(201);
    assert!(again.is_replay() && again.text == paid.text);
    replica.pay("k", &payment("bank", "alice", 6)).await.is_problem(422, "idempotency_key_reused");
    replica.post("/accounts", &json!({"code": "x", "asset": "EUR", "metadata": {"a": [1, "b"]}})).await.is(201);
    sequencing.post("/accounts", &json!({"code": "x", "asset": "EUR", "metadata": {"a": [1, "b"]}})).await.is(200);
    replica.post("/accounts", &json!({"code": "x", "asset": "USD"})).await.is_problem(409, "account_already_exists");
    replica.put("/assets/NEW", &json!({"scale": 1})).await.is(201);
    replica.put("/assets/NEW", &json!({"scale": 2})).await.is_problem(409, "asset_already_exists");
    let item = |key: &str, amount: u32| json!({"from": "bank", "to": "alice", "amount": amount, "asset": "EUR", "idempotency_key": key});
    let batch = json!({"payments": [item("b1", 1), item("b2", 2), item("b1", 1)]});
    let answer = replica.post("/payments/batch", &batch).await.is(200);
    assert_eq!(answer.body["results"][2]["payment"], answer.body["results"][0]["payment"]);
    replica.pay("k4", &payment("alice", "bank", 1_000)).await.is_problem(422, "insufficient_funds");
    replica.pay("k5", &payment("alice", "nobody", 1)).await.is_problem(404, "account_not_found");
    replica.pay("k3", &payment("bank", "alice", 0)).await.is_problem(422, "validation_failed");

    // Nor does it matter through which worker the steps of one payment come.
    let mut request = payment("bank", "alice", 7);
    request["capture"] = json!("manual");
    let held = replica.pay("h", &request).await.is(201);
    assert_eq!(sequencing.pay("h", &request).await.is(201).text, held.text);
    let path = |verb: &str| format!("/payments/{}/{verb}", held.body["id"].as_str().unwrap());
    let captured = replica.post_with_key(&path("capture"), "c", json!({"amount": 3})).await.is(201);
    let again = sequencing.post_with_key(&path("capture"), "c", json!({"amount": 3})).await.is(201);
    assert!(again.is_replay() && again.text == captured.text);
    replica.post_with_key(&path("capture"), "x", json!({"amount": 5})).await.is_problem(422, "capture_exceeds_hold");
    replica.post_with_key(&path("void"), "v", json!({})).await.is(200);
    replica.post_with_key(&path("void"), "w", json!({})).await.is_problem(422, "hold_not_open");
    let reverse = format!("/transactions/{}/reverse", captured.body["id"].as_str().unwrap());
    replica.post_with_key(&reverse, "r", json!({"force": true})).await.is(201);
    replica.post_with_key(&reverse, "s", json!({})).await.is_problem(422, "reversal_exceeds_transaction");
    let mut later = payment("bank", "alice", 7);
    later["effective_at"] = json!("2030-01-01");
    let later = replica.pay("l", &later).await.is(201);
    let cancel = format!("/transactions/{}/cancel", later.body["id"].as_str().unwrap());
    replica.post_with_key(&cancel, "m", json!({})).await.is(200);
    replica.post_with_key(&cancel, "n", json!({})).await.is_problem(422, "not_scheduled");

    // Reads see what was written through the other, whichever that is.
    for (writer, reader, round) in [(&sequencing, &replica, 0), (&replica, &sequencing, 1)] {
        let written = writer.pay(&format!("r{round}"), &payment("bank", "alice", 1)).await.is(201);
        for path in
            ["/accounts/alice", "/accounts", "/accounts/alice/entries", "/transactions?account=alice", "/events"]
        {
            let read = reader.get(path).await.is(200);
            assert!(read.position() >= written.position(), "{path}");
        }
        let entries = reader.get("/accounts/alice/entries?order=desc&limit=1").await.is(200);
        assert_eq!(entries.body["data"][0]["position"], written.body["position"]);
        let legs = json!([leg("bank", "debit", 2, "EUR"), leg("alice", "credit", 1, "EUR")]);
        let refused = writer.post_with_key("/transactions", "lopsided", json!({"legs": legs})).await;
        refused.is_problem(422, "validation_failed").at("/legs");
        let min_position = format!("/accounts/alice?consistency=eventual&min_position={}", written.position());
        assert!(reader.get(&min_position).await.is(200).position() >= written.position());
    }
    replica.get(&format!("/transactions/{id}")).await.is(200);
    replica.get("/events?min_position=1000").await.is_problem(504, "projection_behind");
    assert_eq!(replica.get("//v1/cluster").await.is(200).body["workers"].as_array().unwrap().len(), 2);

    first.close().await;
    second.reaches(&Status::Serving).await;
    replica.get("//readyz").await.is(200);
    let again = replica.pay("k", &payment("bank", "alice", 5)).await.is(201);
    assert!(again.is_replay() && again.text == paid.text);
    assert_eq!(replica.posted("alice").await, "15");
    second.close().await;
}

/// Shards are shared out, a ledger that is new finds its sequencer, and a worker
/// that stops hands over without an error to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_shared_and_handed_over() {
    let url = Postgres::shared().await.database().await;
    let first = Server::start(&url).await;
    let client = Client::new(&first.origin());
    client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR"})).await;
    let second = Server::join(&url).await;
    let third = Server::join(&url).await;
    let joined = Instant::now();
    let shares = loop {
        let cluster = client.get("//v1/cluster").await.is(200).body;
        let mut shares = std::collections::BTreeMap::<String, usize>::new();
        for shard in cluster["shards"].as_array().unwrap() {
            *shares.entry(shard["worker_id"].to_string()).or_default() += 1;
        }
        if shares.values().all(|share| (21..=22).contains(share)) && shares.len() == 3 {
            break shares;
        }
        // Five seconds on an idle machine; this one also compiles and tests.
        assert!(joined.elapsed() < Duration::from_secs(12), "not balanced in time: {shares:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(shares.values().sum::<usize>(), 64);

    let replica = Client::new(&third.origin());
    let stop = tokio_util::sync::CancellationToken::new();
    let paying = {
        let (origin, stop) = (third.origin(), stop.clone());
        tokio::spawn(async move {
            let client = Client::new(&origin);
            let mut paid = 0;
            let mut slowest = Duration::ZERO;
            while !stop.is_cancelled() {
                let begun = Instant::now();
                client.pay(&format!("p{paid}"), &payment("bank", "alice", 1)).await.is(201);
                slowest = slowest.max(begun.elapsed());
                paid += 1;
            }
            (paid, slowest)
        })
    };
    // The first holds the sequencer, and so does whoever takes it over.
    first.close().await;
    second.close().await;
    stop.cancel();
    let (paid, slowest) = paying.await.unwrap();
    println!("{paid} payments, the slowest took {slowest:?}");
    assert_eq!(replica.posted("alice").await, paid.to_string());
    let entries = replica.get("/accounts/alice/entries?order=desc&limit=1").await.is(200);
    assert_eq!(entries.body["data"][0]["version"], paid);
    third.close().await;
}
