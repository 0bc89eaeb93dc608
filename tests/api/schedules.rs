//! Transactions of another time: back-dated, scheduled, and in periods that are closed.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::client::{Client, payment, start_on_database, start_with_accounts};
use crate::holds::{becomes, id};
use crate::legs::leg;
use crate::support::Server;

/// The server's time, and so much more.
pub async fn after(client: &Client, more: TimeDelta) -> String {
    let key = format!("now {}", client.head().await).replace(' ', "-");
    let now = client.pay(&key, &payment("bank", "bob", 1)).await.is(201).body["recorded_at"].clone();
    let now: DateTime<Utc> = now.as_str().unwrap().parse().unwrap();
    (now + more).to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn at(mut body: Value, effective_at: &str) -> Value {
    body["effective_at"] = json!(effective_at);
    body
}

#[tokio::test]
async fn what_lies_in_the_future_touches_nothing_until_then() {
    let (_server, client) = start_with_accounts().await;
    let then = after(&client, TimeDelta::milliseconds(1500)).await;
    let request = at(payment("alice", "bob", 300), &then);
    let answer = client.pay("k", &request).await.is(201);
    assert_eq!((&answer.body["status"], &answer.body["effective_at"]), (&json!("scheduled"), &json!(then)));
    assert_eq!((&answer.body["from"], &answer.body["amount"]), (&json!("alice"), &json!("300")));
    assert!(answer.body.get("balances").is_none());
    assert_eq!(client.posted("alice").await, "1000");
    let story = becomes(&client, &id(&answer), "posted").await;
    assert_eq!((&story["effective_at"], &story["legs"][0]["balance_after"]), (&json!(then), &json!("700")));
    assert_eq!(story["idempotency_key"], "k");
    let types: Vec<&Value> = story["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["transaction_scheduled", "transaction_posted"]);
    assert_eq!(client.posted("alice").await, "700");
    let journal = client.get("/export/journal?format=ndjson").await.is(200);
    let legs: Vec<Value> = journal.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    assert_eq!(legs.last().unwrap()["transaction_id"], answer.body["id"]);
    assert_eq!(legs.last().unwrap()["idempotency_key"], "k");
    let again = client.pay("k", &request).await.is(201);
    assert_eq!((again.is_replay(), &again.text), (true, &answer.text));
    // It is posted, and reversed, as any other.
    client.post_with_key(&format!("/transactions/{}/reverse", id(&answer)), "r", json!({})).await.is(201);
    assert_eq!(client.posted("alice").await, "1000");
}

#[tokio::test]
async fn what_is_scheduled_is_decided_at_its_time() {
    let (_server, client) = start_with_accounts().await;
    let then = after(&client, TimeDelta::milliseconds(1000)).await;
    let legs = json!({"legs": [leg("alice", "debit", 300, "EUR"), leg("bob", "credit", 300, "EUR")]});
    let scheduled = client.post_with_key("/transactions", "t", at(legs, &then)).await.is(201);
    assert_eq!((&scheduled.body["type"], &scheduled.body["status"]), (&json!("transaction"), &json!("scheduled")));
    assert_eq!(scheduled.body["legs"][0], leg("alice", "debit", 300, "EUR"));
    client.pay("spent", &payment("alice", "bank", 701)).await.is(201);
    let story = becomes(&client, &id(&scheduled), "rejected").await;
    assert_eq!((&story["reason"], &story["legs"][0]["balance_after"]), (&json!("insufficient_funds"), &Value::Null));
    let reverse = client.post_with_key(&format!("/transactions/{}/reverse", id(&scheduled)), "r", json!({})).await;
    reverse.is_problem(422, "not_reversible");
}

#[tokio::test]
async fn what_is_scheduled_can_be_withdrawn_before_its_time() {
    let (_server, client) = start_with_accounts().await;
    let then = after(&client, TimeDelta::days(30)).await;
    let scheduled = id(&client.pay("k", &at(payment("alice", "bob", 300), &then)).await.is(201));
    let cancel =
        async |key: &str, id: &str| client.post_with_key(&format!("/transactions/{id}/cancel"), key, json!({})).await;
    client
        .post_with_key(&format!("/transactions/{scheduled}/reverse"), "c", json!({}))
        .await
        .is_problem(422, "not_reversible");
    client.post_with_key(&format!("/payments/{scheduled}/capture"), "c", json!({})).await.is_problem(422, "not_a_hold");
    let cancelled = cancel("c", &scheduled).await.is(200);
    assert_eq!((&cancelled.body["id"], &cancelled.body["status"]), (&json!(scheduled), &json!("cancelled")));
    let again = cancel("c", &scheduled).await.is(200);
    assert_eq!((again.is_replay(), again.text), (true, cancelled.text));
    for key in ["k", "c"] {
        let found = client.get(&format!("/transactions?idempotency_key={key}")).await.is(200);
        assert_eq!(
            (found.field("id"), found.field("status")),
            (vec![json!(scheduled)], vec![json!("cancelled")]),
            "{key}"
        );
    }
    cancel("d", &scheduled).await.is_problem(422, "not_scheduled");
    let story = client.get(&format!("/transactions/{scheduled}")).await.is(200).body;
    assert_eq!((&story["status"], &story["reason"]), (&json!("cancelled"), &Value::Null));
    let plain = id(&client.pay("p", &payment("alice", "bob", 1)).await.is(201));
    cancel("d", &plain).await.is_problem(422, "not_scheduled");
    cancel("d", "x").await.is_problem(404, "transaction_not_found");
    let path = format!("/transactions/{plain}/cancel");
    client
        .post_with_key(&path, "d", json!({"reference": "r"}))
        .await
        .is_problem(422, "validation_failed")
        .at("/reference");
}

#[tokio::test]
async fn what_is_back_dated_is_posted_now_and_effective_then() {
    let (_server, client) = start_with_accounts().await;
    let paid = client.pay("k", &at(payment("alice", "bob", 300), "2024-02-29T23:00:00-02:00")).await.is(201);
    assert_eq!(
        (&paid.body["status"], &paid.body["effective_at"]),
        (&json!("posted"), &json!("2024-03-01T01:00:00.000000Z"))
    );
    assert_eq!(paid.body["balances"]["alice"], json!({"posted": "700", "available": "700", "version": 2}));
    // A date is its first moment, and so means the same.
    let day = client.pay("d", &at(payment("alice", "bob", 1), "2024-02-29")).await.is(201);
    assert_eq!(day.body["effective_at"], "2024-02-29T00:00:00.000000Z");
    assert!(client.pay("d", &at(payment("alice", "bob", 1), "2024-02-29T00:00:00Z")).await.is(201).is_replay());
    let other = client.pay("d", &at(payment("alice", "bob", 1), "2024-02-28")).await;
    other.is_problem(422, "idempotency_key_reused");
    for never in ["1969-12-31", "2024-02-30", "tomorrow", ""] {
        let request = at(payment("alice", "bob", 1), never);
        client.pay("n", &request).await.is_problem(422, "validation_failed").at("/effective_at");
    }
    let far = after(&client, TimeDelta::days(1831)).await;
    let refused = client.pay("n", &at(payment("alice", "bob", 1), &far)).await;
    refused.is_problem(422, "validation_failed").at("/effective_at");
}

#[tokio::test]
async fn nothing_becomes_effective_in_a_period_that_is_closed() {
    let (_server, client) = start_with_accounts().await;
    client.post("/periods/close", &json!({"before": "2025-01-01T00:00:00Z"})).await.is(200);
    let late = client.pay("k", &at(payment("alice", "bob", 1), "2024-12-31T23:59:59.999999Z")).await;
    let late = late.is_problem(422, "period_closed");
    assert!(late.body["detail"].as_str().unwrap().contains("2025-01-01T00:00:00.000000Z"), "{}", late.text);
    client.pay("l", &at(payment("alice", "bob", 1), "2025-01-01T00:00:00Z")).await.is(201);
    let legs = json!({"legs": [leg("alice", "debit", 3, "EUR"), leg("bob", "credit", 3, "EUR")]});
    client.post_with_key("/transactions", "t", at(legs, "2024-06-01")).await.is_problem(422, "period_closed");
}

/// After a restart memory has the keys of the last 50,000 events only. Nothing is
/// appended for what is refused, so no index of keys has the last word there: it has
/// to be asked. (60,000 accounts are opened for that, which takes some seconds.)
#[tokio::test]
async fn a_withdrawal_and_a_hold_are_answered_as_before_when_memory_has_forgotten_their_keys() {
    let (server, client, url) = start_on_database().await;
    let then = after(&client, TimeDelta::days(1)).await;
    let scheduled = id(&client.pay("later", &at(payment("alice", "bob", 1), &then)).await.is(201));
    let cancel = format!("/transactions/{scheduled}/cancel");
    let cancelled = client.post_with_key(&cancel, "cancel", json!({})).await.is(200);
    let mut hold = payment("alice", "bob", 1);
    hold["capture"] = json!("manual");
    hold["expires_at"] = json!(after(&client, TimeDelta::seconds(1)).await);
    let authorised = client.pay("hold", &hold).await.is(201);
    becomes(&client, &id(&authorised), "expired").await;
    for batch in 0..6 {
        let accounts: Vec<Value> =
            (0..10_000).map(|n| json!({"code": format!("filler:{batch}:{n}"), "asset": "EUR"})).collect();
        client.post("/accounts/batch", &json!({ "accounts": accounts })).await.is(200);
    }
    server.close().await;

    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    let again = client.post_with_key(&cancel, "cancel", json!({})).await.is(200);
    assert_eq!((again.is_replay(), &again.text), (true, &cancelled.text));
    let again = client.pay("hold", &hold).await.is(201);
    assert_eq!((again.is_replay(), &again.text), (true, &authorised.text));
    client.post_with_key(&cancel, "another", json!({})).await.is_problem(422, "not_scheduled");
    server.close().await;
}
