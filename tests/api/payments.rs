//! `POST /payments`: what it answers, and what goes wrong in which order.

use serde_json::{Value, json};

use crate::client::{Client, payment, start_with_accounts};

#[tokio::test]
async fn a_payment_is_posted_with_everything_it_says() {
    let (_server, client) = start_with_accounts().await;
    let mut request = payment("alice", "bob", 300);
    request["reference"] = json!("inv-1");
    request["description"] = json!("Miete für März – „Süd“");
    request["metadata"] = json!({"z": [1, 2.5, null], "a": {"b": "c"}});
    let answer = client.pay("k", &request).await.is(201);
    let body = &answer.body;
    for (field, expected) in [
        ("from", json!("alice")),
        ("to", json!("bob")),
        ("amount", json!("300")),
        ("asset", json!("EUR")),
        ("type", json!("payment")),
        ("status", json!("posted")),
        ("reference", json!("inv-1")),
        ("description", json!("Miete für März – „Süd“")),
        ("metadata", json!({"z": [1, 2.5, null], "a": {"b": "c"}})),
        (
            "balances",
            json!({
                "alice": {"posted": "700", "available": "700", "version": 2},
                "bob": {"posted": "300", "available": "300", "version": 1},
            }),
        ),
    ] {
        assert_eq!(body[field], expected, "{field}");
    }
    assert_eq!(body["effective_at"], body["recorded_at"]);
    assert_eq!(answer.position(), body["position"].as_u64().unwrap());
    assert!(!answer.is_replay());
    assert_eq!(client.posted("bob").await, "300");

    let bare = client.pay("k2", &payment("alice", "bob", 1)).await.is(201);
    assert_eq!((&bare.body["reference"], &bare.body["metadata"]), (&Value::Null, &json!({})));
}

#[tokio::test]
async fn amounts_are_strings_or_integers_up_to_38_digits() {
    let (_server, client) = start_with_accounts().await;
    for (code, asset) in [("vault", "EUR"), ("mine", "EUR")] {
        client.open(json!({"code": code, "asset": asset, "min_balance": null})).await;
    }
    let most = "9".repeat(38);
    for (key, amount) in [("s", json!("1250").to_string()), ("n", "1250".to_owned()), ("most", most.clone())] {
        let body = format!(r#"{{"from":"mine","to":"vault","amount":{amount},"asset":"EUR"}}"#);
        let answer = client.post_with_key("/payments", key, body).await;
        match key {
            // 1250 twice is there already, and totals have 38 digits at most.
            "most" => _ = answer.is_problem(422, "balance_limit_exceeded"),
            _ => assert_eq!(answer.is(201).body["amount"], "1250"),
        }
    }
    let rest = "9".repeat(34) + "7499";
    let body = format!(r#"{{"from":"mine","to":"vault","amount":"{rest}","asset":"EUR"}}"#);
    client.post_with_key("/payments", "rest", body).await.is(201);
    assert_eq!(client.posted("vault").await, most);
    assert_eq!(client.posted("mine").await, format!("-{most}"));
}

/// Of accounts without a cap, or with the largest: what is full is said, by the same
/// code and the same event as ever.
#[tokio::test]
async fn a_total_of_more_than_38_digits_is_said_to_be_one() {
    let (_server, client) = start_with_accounts().await;
    let most = "9".repeat(38);
    for (code, cap) in [("big1", json!(null)), ("big2", json!(null)), ("held", json!(null)), ("widest", json!(most))] {
        client.open(json!({"code": code, "asset": "EUR", "min_balance": null, "max_balance": cap})).await;
    }
    client.open(json!({"code": "source", "asset": "EUR", "min_balance": null})).await;
    let of = |from: &str, to: &str, amount: &str, capture: &str| json!({"from": from, "to": to, "amount": amount, "asset": "EUR", "capture": capture});
    client.pay("fill", &of("big1", "big2", &most, "automatic")).await.is(201);
    client.pay("hold", &of("bank", "held", &most, "manual")).await.is(201);
    client.pay("near", &of("source", "widest", &most, "manual")).await.is(201);
    let legs = |account: &str| {
        let leg = |account: &str, side: &str| json!({"account": account, "side": side, "amount": "1", "asset": "EUR"});
        json!({"legs": [leg(account, "credit"), leg("alice", "debit"), leg(account, "debit"), leg("bob", "credit")]})
    };
    for (key, path, body, account, totals) in [
        ("a", "/payments", of("big1", "bob", "1", "automatic"), "big1", "debits"),
        ("b", "/payments", of("bob", "big1", "1", "automatic"), "bob", ""),
        ("c", "/payments", of("alice", "big2", "1", "automatic"), "big2", "credits"),
        ("d", "/payments", of("alice", "held", "1", "manual"), "held", "credits"),
        ("e", "/payments", of("alice", "widest", "1", "automatic"), "widest", "credits"),
        ("f", "/transactions", legs("big1"), "big1", "debits or credits"),
    ] {
        let answer = client.post_with_key(path, key, &body).await;
        if totals.is_empty() {
            answer.is_problem(422, "insufficient_funds");
            continue;
        }
        let answer = answer.is_problem(422, "balance_limit_exceeded");
        let expected =
            format!("the total of {totals} of account {account}, with what is pending, would have more than 38 digits");
        assert_eq!(answer.body["detail"], expected, "{key}");
        let again = client.post_with_key(path, key, &body).await;
        assert_eq!((again.is_replay(), again.text), (true, answer.text));
        let event = client.get(&format!("/events?after={}", answer.body["position"].as_u64().unwrap() - 1)).await;
        let reason = &event.body["data"][0]["payload"]["rejection"];
        let recorded =
            json!({"code": "balance_limit_exceeded", "account": account, "would_be": most, "max_balance": most});
        assert_eq!(*reason, recorded);
    }
}

/// Sends `request` with a new key and expects a refusal that leaves no trace.
async fn check_refused(client: &Client, request: &Value, status: u16, code: &str, pointer: &str) {
    let head = client.head().await;
    let answer = client.pay("refused", request).await.is_problem(status, code).at(pointer);
    assert!(answer.body.get("transaction_id").is_none() && answer.body.get("position").is_none(), "{}", answer.text);
    assert_eq!(client.head().await, head, "nothing was recorded: {request}");
    assert_eq!(answer.header("ledger-position"), (code != "validation_failed").then_some(&*head.to_string()));
    let key = client.get("/transactions?idempotency_key=refused").await.is(200);
    assert!(key.data().is_empty(), "the key is free: {request}");
}

#[tokio::test]
async fn refusals_leave_no_trace() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "dollars", "asset": "USD"})).await;
    for (from, to, asset, status, code, pointer) in [
        ("nobody", "bob", "EUR", 404, "account_not_found", "/from"),
        ("alice", "nobody", "EUR", 404, "account_not_found", "/to"),
        ("alice", "alice", "EUR", 422, "same_account", "/to"),
        ("alice", "dollars", "EUR", 422, "asset_mismatch", "/asset"),
        ("alice", "bob", "USD", 422, "asset_mismatch", "/asset"),
        ("alice", "bob", "XYZ", 422, "asset_mismatch", "/asset"),
        ("", "bob", "EUR", 422, "validation_failed", "/from"),
        ("alice", "b b", "EUR", 422, "validation_failed", "/to"),
        ("alice", "bob", "", 422, "validation_failed", "/asset"),
    ] {
        let request = json!({"from": from, "to": to, "asset": asset, "amount": "1"});
        check_refused(&client, &request, status, code, pointer).await;
    }
    let held = json!({"from": "alice", "to": "alice", "asset": "EUR", "amount": "1", "capture": "manual"});
    check_refused(&client, &held, 422, "same_account", "/to").await;
    let both = client.pay("k", &payment("x", "y", 1)).await.is_problem(404, "account_not_found");
    assert_eq!(both.body["errors"].as_array().unwrap().len(), 2, "both are named: {}", both.text);
}

/// Sends `request` and expects a rejection that is recorded, and found again.
async fn check_rejected(client: &Client, key: &str, request: &Value, code: &str) {
    let head = client.head().await;
    let answer = client.pay(key, request).await.is_problem(422, code);
    assert_eq!(answer.body["position"], head + 1);
    assert_eq!(answer.position(), head + 1);
    let id = answer.body["transaction_id"].as_str().unwrap();
    let found = client.get(&format!("/transactions/{id}")).await.is(200);
    assert_eq!((&found.body["status"], &found.body["reason"]), (&json!("rejected"), &json!(code)));
    assert_eq!((&found.body["position"], &found.body["idempotency_key"]), (&json!(head + 1), &json!(key)));
}

#[tokio::test]
async fn business_rejections_are_recorded() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "capped", "asset": "EUR", "max_balance": 100})).await;
    check_rejected(&client, "r1", &payment("alice", "bob", 1001), "insufficient_funds").await;
    check_rejected(&client, "r2", &payment("alice", "capped", 101), "balance_limit_exceeded").await;
    // Both apply: the floor comes first in the documented order.
    check_rejected(&client, "r3", &payment("alice", "capped", 1001), "insufficient_funds").await;
    client.pay("ok", &payment("alice", "capped", 100)).await.is(201);
    check_rejected(&client, "r4", &payment("alice", "capped", 1), "balance_limit_exceeded").await;
    assert_eq!(client.posted("alice").await, "900");
}

#[tokio::test]
async fn the_first_reason_in_the_documented_order_wins() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "dollars", "asset": "USD"})).await;
    for (request, status, code) in [
        // validation_failed, same_account
        (json!({"from": "alice", "to": "alice", "amount": "0", "asset": "EUR"}), 422, "validation_failed"),
        // same_account, account_not_found
        (json!({"from": "x", "to": "x", "amount": "1", "asset": "EUR"}), 422, "same_account"),
        // account_not_found, asset_mismatch
        (json!({"from": "alice", "to": "x", "amount": "1", "asset": "USD"}), 404, "account_not_found"),
        // asset_mismatch, insufficient_funds
        (json!({"from": "alice", "to": "dollars", "amount": "9999", "asset": "EUR"}), 422, "asset_mismatch"),
    ] {
        for _ in 0..2 {
            client.pay("k", &request).await.is_problem(status, code);
        }
    }
}
