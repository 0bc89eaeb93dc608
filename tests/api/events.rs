//! Events as the OpenAPI document describes them: a ledger that has had each type,
//! with velocity limits in force throughout.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, payment, start_with_accounts};
use crate::contract::CONTRACT;
use crate::holds::{becomes, id};
use crate::legs::leg;
use crate::schedules::after;

#[tokio::test]
async fn every_type_of_event_is_as_described_with_limits_in_force() {
    let (_server, client) = start_with_accounts().await;
    set_rules(&client).await;
    change_an_account(&client).await;
    move_money(&client).await;
    client.post("/periods/close", &json!({"before": "2025-01-01"})).await.is(200);

    let page = client.get("/events?limit=1000").await.is(200);
    let events = page.body["data"].as_array().unwrap();
    let schemas = CONTRACT.document["components"]["schemas"]["Event"]["discriminator"]["mapping"].as_object().unwrap();
    let mut counted = BTreeSet::new();
    for event in events {
        let kind = event["type"].as_str().unwrap();
        CONTRACT.check_schema(schemas[kind].as_str().unwrap().rsplit('/').next().unwrap(), event);
        if event["payload"].get("usage").is_some() {
            let kind_of = event["payload"]["kind"].as_str().unwrap();
            let was_scheduled = event["payload"].get("scheduled_position").is_some();
            counted.insert((kind, kind_of, was_scheduled));
        }
    }
    let found: BTreeSet<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let described: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    assert_eq!(found, described, "each type is there");
    let expected = [
        ("transaction_authorised", "payment", false),
        ("transaction_posted", "payment", false),
        ("transaction_posted", "payment", true),
        ("transaction_posted", "transaction", false),
    ];
    assert_eq!(counted, BTreeSet::from(expected), "what limits have counted");
}

async fn set_rules(client: &Client) {
    client.put("/assets/BTC", &json!({"scale": 8})).await.is(201);
    client.put("/account-types/t:", &json!({"normal": "debit", "min_balance": null})).await.is(201);
    client.send(Method::DELETE, "/account-types/t:", &[], "").await.is(200);
    let limit = |direction: &str, window: Value| json!({"prefix": "", "asset": "EUR", "direction": direction, "window": window, "count_max": 1000, "amount_max": "900"});
    client.put("/velocity-limits/out", &limit("out", json!({"rolling_s": 3600}))).await.is(201);
    client.put("/velocity-limits/in", &limit("in", json!({"day": "Europe/Zurich"}))).await.is(201);
    client.put("/velocity-limits/gone", &limit("in", json!({"rolling_s": 60}))).await.is(201);
    client.send(Method::DELETE, "/velocity-limits/gone", &[], "").await.is(200);
}

async fn change_an_account(client: &Client) {
    client.open(json!({"code": "shop", "asset": "EUR", "max_balance": "500", "metadata": {"a": 1}})).await;
    let headers = [("content-type", "application/json")];
    client.send(Method::PATCH, "/accounts/shop", &headers, r#"{"min_balance": "-5"}"#).await.is(200);
    for (what, body) in [
        ("freeze", json!({"scope": "debits", "reason": "court order"})),
        ("unfreeze", json!({"reason": "lifted"})),
        ("close", json!({})),
        ("reopen", json!({})),
    ] {
        client.post(&format!("/accounts/shop/{what}"), &body).await.is(200);
    }
}

/// In each way, declined too.
async fn move_money(client: &Client) {
    let hold = |more: Value| {
        let mut body = payment("alice", "bob", 10);
        body["capture"] = json!("manual");
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let at = |mut body: Value, effective_at: &str| {
        body["effective_at"] = json!(effective_at);
        body
    };
    let expiring = client.pay("expiring", &hold(json!({"expires_in_s": 1}))).await.is(201);
    let soon = after(client, TimeDelta::seconds(1)).await;
    let due = client.pay("due", &at(payment("alice", "bob", 5), &soon)).await.is(201);
    let too_much = client.pay("too-much", &at(payment("alice", "bob", 899), &soon)).await.is(201);
    let withdrawn = client.pay("withdrawn", &at(payment("alice", "bob", 5), "2028-01-01")).await.is(201);
    client.post_with_key(&format!("/transactions/{}/cancel", id(&withdrawn)), "cancel", json!({})).await.is(200);

    let paid = client.pay("paid", &payment("alice", "bob", 20)).await.is(201);
    let legs = [leg("alice", "debit", 3, "EUR"), leg("alice", "debit", 4, "EUR"), leg("bob", "credit", 7, "EUR")];
    client.post_with_key("/transactions", "legs", json!({"legs": legs})).await.is(201);
    client.post_with_key(&format!("/transactions/{}/reverse", id(&paid)), "reverse", json!({})).await.is(201);
    client.pay("fast", &payment("alice", "bob", 900)).await.is_problem(422, "velocity_limit_exceeded");
    client.pay("poor", &payment("bob", "alice", 800)).await.is_problem(422, "insufficient_funds");
    client.pay("capped", &payment("alice", "shop", 501)).await.is_problem(422, "balance_limit_exceeded");
    let atomic = json!({"atomic": true, "payments": [payment("alice", "bob", 1), payment("alice", "bob", 900)]});
    client.post_with_key("/payments/batch", "atomic", &atomic).await.is_problem(422, "velocity_limit_exceeded");

    let held = id(&client.pay("held", &hold(json!({"expires_at": "2028-01-01T00:00:00Z"}))).await.is(201));
    client.post_with_key(&format!("/payments/{held}/capture"), "capture", json!({"amount": "4"})).await.is(201);
    client.post_with_key(&format!("/payments/{held}/capture"), "over", json!({"amount": "7"})).await.is(422);
    client.post_with_key(&format!("/payments/{held}/void"), "void", json!({})).await.is(200);
    client.post_with_key(&format!("/payments/{held}/void"), "void-2", json!({})).await.is(422);

    becomes(client, &id(&expiring), "expired").await;
    becomes(client, &id(&due), "posted").await;
    becomes(client, &id(&too_much), "rejected").await;
}
