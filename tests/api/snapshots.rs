//! What clients and dashboards rely on, word for word.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Map, Value, json};
use steelyard::http::Code;

use crate::access;
use crate::client::{Answer, Client, JSON, payment, start_with_accounts};
use crate::contract::CONTRACT;
use crate::faults;
use crate::support::{Postgres, Process, Server};

#[test]
fn the_description() {
    insta::assert_json_snapshot!("openapi", CONTRACT.document);
}

#[tokio::test]
async fn a_body_of_each_problem() {
    let url = Postgres::shared().await.database().await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    client.open(json!({"code": "bank", "asset": "EUR", "normal": "debit", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR", "max_balance": 1000})).await;
    client.open(json!({"code": "dollars", "asset": "USD"})).await;
    client.pay("used", &payment("bank", "alice", 500)).await.is(201);
    let good = payment("alice", "bank", 1);
    let in_text = [("content-type", "text/plain"), ("idempotency-key", "k")];
    let bad_key = [JSON, ("idempotency-key", "a b")];
    let provoked = [
        client.post_with_key("/payments", "k", r#"{"from": "alice", "#).await,
        client.get("/accounts/%FF").await,
        client.post("/payments", &good).await,
        client.send(Method::POST, "/payments", &bad_key, good.to_string()).await,
        client.get("//nothing").await,
        client.of_ledger("nowhere").get("/accounts").await,
        client.pay("k", &payment("nobody", "no-one", 1)).await,
        client.post("/accounts", &json!({"code": "x", "asset": "NOPE"})).await,
        client.get("/transactions/x").await,
        client.send(Method::DELETE, "/accounts/alice", &[], "").await,
        client.post("/accounts", &json!({"code": "alice", "asset": "USD"})).await,
        client.put("/assets/EUR", &json!({"scale": 3})).await,
        client.post_with_key("/payments", "k", " ".repeat(9 * 1024 * 1024)).await,
        client.send(Method::POST, "/payments", &in_text, good.to_string()).await,
        client.pay("k", &json!({"from": "a b", "to": "bank", "amount": "1.5", "asset": "EUR"})).await,
        client.pay("k", &payment("alice", "alice", 1)).await,
        client.pay("k", &payment("bank", "dollars", 1)).await,
        client.pay("used", &good).await,
        client.pay("poor", &payment("alice", "bank", 501)).await,
        client.pay("rich", &payment("bank", "alice", 501)).await,
        client.get("/events?min_position=999").await,
    ];
    let refusals = access::refusals().await;
    let faults = faults::problems().await;
    let bodies: Map<String, Value> = provoked
        .iter()
        .chain(&refusals)
        .chain(&faults)
        .map(|answer| (code(answer), placeholders(answer.body.clone())))
        .collect();
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let found: BTreeSet<&str> = bodies.keys().map(String::as_str).collect();
    assert_eq!(found, all, "every problem is provoked");
    insta::assert_json_snapshot!("problems", bodies);
}

fn code(answer: &Answer) -> String {
    answer.body["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn events_as_the_api_gives_them() {
    let (_server, client) = start_with_accounts().await;
    client.put("/assets/ETH", &json!({"scale": 18})).await.is(201);
    client.open(json!({"code": "shop", "asset": "EUR", "min_balance": "-5", "max_balance": "10", "metadata": {"b": 1, "a": "ü"}})).await;
    let mut rich = payment("alice", "bob", 100);
    rich["reference"] = json!("inv-1");
    rich["description"] = json!("\"quoted\"");
    rich["metadata"] = json!({"order": 7});
    client.pay("posted", &rich).await.is(201);
    client.pay("poor", &payment("bob", "alice", 101)).await.is(422);
    client.pay("capped", &payment("alice", "shop", 11)).await.is(422);
    let atomic = json!({"atomic": true, "payments": [payment("alice", "bob", 1), payment("bob", "alice", 999)]});
    client.post_with_key("/payments/batch", "atomic", &atomic).await.is(422);
    let events = client.get("/events").await.is(200);
    insta::assert_json_snapshot!("events", placeholders(events.body));
}

#[tokio::test]
async fn names_of_metrics() {
    let process = Process::spawn(&Postgres::shared().await.database().await, &[]).await;
    process.serves().await;
    let client = Client::new(process.origin());
    client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR"})).await;
    for (key, request) in
        [("k", payment("bank", "alice", 1)), ("k", payment("bank", "alice", 1)), ("no", payment("alice", "bank", 9))]
    {
        client.pay(key, &request).await;
    }
    client.get("/accounts").await.is(200);
    let metrics = client.get("//metrics").await.is(200);
    let names: BTreeSet<&str> = metrics.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    insta::assert_json_snapshot!("metrics", names);
    process.kill().await;
}

/// The same with what differs from run to run replaced.
fn placeholders(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() == 36 && text.matches('-').count() == 4 => json!("<uuid>"),
        Value::String(text) if text.len() == 27 && text.ends_with('Z') => json!("<time>"),
        Value::Array(items) => items.into_iter().map(placeholders).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, placeholders(value))).collect(),
        other => other,
    }
}
