//! What clients and dashboards rely on, word for word.

use std::collections::BTreeSet;

use futures::StreamExt;
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
    let later = problems_of_later_steps(&client).await;
    let refusals = access::refusals().await;
    let faults = faults::problems().await;
    let bodies: Map<String, Value> = provoked
        .iter()
        .chain(&later)
        .chain(&refusals)
        .chain(&faults)
        .map(|answer| (code(answer), placeholders(answer.body.clone())))
        .collect();
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let found: BTreeSet<&str> = bodies.keys().map(String::as_str).collect();
    assert_eq!(found, all, "every problem is provoked");
    insta::assert_json_snapshot!("problems", bodies);
}

/// Of what becomes of transactions and accounts, and of rules.
async fn problems_of_later_steps(client: &Client) -> Vec<Answer> {
    client.open(json!({"code": "bob", "asset": "EUR"})).await;
    let paid = client.pay("paid", &payment("alice", "bob", 100)).await.is(201).body["id"].clone();
    let mut request = payment("alice", "bob", 100);
    request["capture"] = json!("manual");
    let held = client.pay("held", &request).await.is(201).body["id"].clone();
    let (paid, held) = (paid.as_str().unwrap(), held.as_str().unwrap());
    let capture = async |key: &str, id: &str, body: Value| {
        client.post_with_key(&format!("/payments/{id}/capture"), key, body).await
    };
    let exceeds = capture("c", held, json!({"amount": 101})).await;
    client.post_with_key(&format!("/payments/{held}/void"), "v", json!({})).await.is(200);
    let mut found = vec![
        exceeds,
        capture("d", held, json!({})).await,
        capture("e", paid, json!({})).await,
        client.post_with_key(&format!("/transactions/{held}/reverse"), "r", json!({})).await,
        client.post_with_key(&format!("/transactions/{paid}/reverse"), "x", json!({"amount": 101})).await,
        client.post_with_key(&format!("/transactions/{paid}/cancel"), "y", json!({})).await,
    ];
    let close = async |before: &str| client.post("/periods/close", &json!({"before": before})).await;
    close("2025-01-01T00:00:00Z").await.is(200);
    found.push(close("2024-01-01T00:00:00Z").await);
    let mut dated = payment("alice", "bob", 1);
    dated["effective_at"] = json!("2024-06-01");
    found.push(client.pay("dated", &dated).await);

    let limit = json!({"account": "alice", "direction": "out", "window": {"rolling_s": 86_400}, "count_max": 1});
    client.put("/velocity-limits/once-a-day", &limit).await.is(201);
    client.pay("once", &payment("alice", "bob", 1)).await.is(201);
    found.push(client.pay("twice", &payment("alice", "bob", 1)).await);
    found.push(client.send(Method::DELETE, "/velocity-limits/none", &[], "").await);
    let set = async |number| _ = client.put(&format!("/account-types/t{number}"), &json!({})).await.is(201);
    futures::stream::iter(0..1_000).for_each_concurrent(32, set).await;
    found.push(client.put("/account-types/one-too-many", &json!({})).await);

    let patch = |path: &'static str, body: Value| client.send(Method::PATCH, path, &[JSON], body.to_string());
    found.push(patch("/accounts/bob", json!({"min_balance": "999"})).await);
    found.push(client.post("/accounts/bob/close", &json!({})).await);
    client.open(json!({"code": "shut", "asset": "EUR"})).await;
    client.post("/accounts/shut/close", &json!({})).await.is(200);
    found.push(patch("/accounts/shut", json!({"min_balance": "-1"})).await);
    found
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
    for steps in [&["capture"][..], &["capture", "void"], &["void", "capture"]] {
        let mut request = payment("alice", "bob", 100);
        request["capture"] = json!("manual");
        request["expires_at"] = json!("2030-01-01T00:00:00Z");
        let held = client.pay(&format!("hold/{}", steps.join(",")), &request).await.is(201);
        let held = held.body["id"].as_str().unwrap();
        for step in steps {
            let body = if *step == "capture" && steps.len() == 2 { json!({"amount": "40"}) } else { json!({}) };
            client
                .post_with_key(&format!("/payments/{held}/{step}"), &format!("{}/{step}", steps.join(",")), &body)
                .await;
        }
    }
    let leg = |account: &str, side: &str, amount: &str, asset: &str| json!({"account": account, "side": side, "amount": amount, "asset": asset});
    for (code, asset) in [("fx:eur", "EUR"), ("fx:eth", "ETH"), ("alice:eth", "ETH")] {
        client.open(json!({"code": code, "asset": asset, "min_balance": null})).await;
    }
    let exchange = json!({
        "legs": [
            leg("alice", "debit", "100", "EUR"), leg("fx:eur", "credit", "100", "EUR"),
            leg("fx:eth", "debit", "333333333333333", "ETH"), leg("alice:eth", "credit", "333333333333333", "ETH"),
        ],
        "rates": [{"from": "EUR", "to": "ETH", "rate": "0.000333333333333333", "remainder": "0"}],
    });
    let exchanged = client.post_with_key("/transactions", "exchange", &exchange).await.is(201);
    let path = format!("/transactions/{}/reverse", exchanged.body["id"].as_str().unwrap());
    client.post_with_key(&path, "reversal", json!({"force": true})).await.is(201);
    client.post_with_key(&path, "nothing-left", json!({"force": true})).await.is(422);
    let mut later = payment("alice", "bob", 1);
    later["effective_at"] = json!("2030-01-01");
    let later = client.pay("later", &later).await.is(201);
    let path = format!("/transactions/{}/cancel", later.body["id"].as_str().unwrap());
    client.post_with_key(&path, "cancel", json!({})).await.is(200);
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
        Value::String(text) if text.ends_with('Z') => {
            let is_time = |word: &str| word.len() == 27 && word.ends_with('Z');
            let words: Vec<&str> = text.split(' ').map(|word| if is_time(word) { "<time>" } else { word }).collect();
            json!(words.join(" "))
        }
        Value::Array(items) => items.into_iter().map(placeholders).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, placeholders(value))).collect(),
        other => other,
    }
}
