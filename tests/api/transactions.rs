//! Finding transactions, and the log itself.

use serde_json::{Value, json};

use crate::client::{payment, start_with_accounts};

#[tokio::test]
async fn a_transaction_shows_its_legs() {
    let (_server, client) = start_with_accounts().await;
    let mut request = payment("alice", "bob", 100);
    request["reference"] = json!("inv");
    request["metadata"] = json!({"a": 1});
    let paid = client.pay("k", &request).await.is(201);
    let found = client.get(&format!("/transactions/{}", paid.body["id"].as_str().unwrap())).await.is(200);
    let leg = |account: &str, side: &str, after: &str, version: u64| json!({"account": account, "side": side, "amount": "100", "asset": "EUR", "balance_after": after, "version": version});
    assert_eq!(found.body["legs"], json!([leg("alice", "debit", "900", 2), leg("bob", "credit", "100", 1)]));
    for field in
        ["id", "type", "status", "reference", "description", "metadata", "position", "recorded_at", "effective_at"]
    {
        assert_eq!(found.body[field], paid.body[field], "{field}");
    }
    assert_eq!((&found.body["reason"], &found.body["idempotency_key"]), (&Value::Null, &json!("k")));

    let declined = client.pay("no", &payment("bob", "alice", 101)).await.is(422);
    let found =
        client.get(&format!("/transactions/{}", declined.body["transaction_id"].as_str().unwrap())).await.is(200);
    assert_eq!(found.body["legs"][0]["balance_after"], Value::Null);
    for unknown in ["0193a5b0-0000-7000-8000-000000000000", "x", "%00", "1"] {
        client.get(&format!("/transactions/{unknown}")).await.is_problem(404, "transaction_not_found");
    }
}

#[tokio::test]
async fn transactions_are_found_by_what_is_known() {
    let (_server, client) = start_with_accounts().await;
    let mut ids = Vec::new();
    for (key, from, to, amount, reference) in [
        ("1", "alice", "bob", 10, "x"),
        ("2", "bob", "bank", 5, "x"),
        ("3", "bob", "alice", 9_999, "y"),
        ("4", "alice", "bank", 1, "z"),
    ] {
        let mut request = payment(from, to, amount);
        request["reference"] = json!(reference);
        let answer = client.pay(key, &request).await;
        ids.push(
            [&answer.body["id"], &answer.body["transaction_id"]].into_iter().find(|id| id.is_string()).unwrap().clone(),
        );
    }
    for (query, expected) in [
        ("account=bob", &[0, 1, 2][..]),
        ("account=bob&reference=x", &[0, 1]),
        ("reference=x", &[0, 1]),
        ("reference=y", &[2]),
        ("reference=y&account=alice", &[2]),
        ("reference=z&account=bob", &[]),
        ("idempotency_key=2", &[1]),
        ("idempotency_key=2&account=bob", &[1]),
        ("idempotency_key=2&account=alice", &[]),
        ("idempotency_key=2&reference=y", &[]),
        ("reference=", &[]),
    ] {
        let found = client.get(&format!("/transactions?{query}")).await.is(200);
        let expected: Vec<Value> = expected.iter().map(|index: &usize| ids[*index].clone()).collect();
        assert_eq!(found.field("id"), expected, "{query}");
    }
    assert_eq!(client.get("/transactions?account=alice").await.data().len(), 4, "the funding too");
    client.get("/transactions?account=nobody").await.is_problem(404, "account_not_found");
}

#[tokio::test]
async fn the_log_has_every_fact_in_order() {
    let (_server, client) = start_with_accounts().await;
    client.put("/assets/ETH", &json!({"scale": 18})).await.is(201);
    client.pay("no", &payment("bob", "alice", 1)).await.is(422);
    let atomic = json!({"atomic": true, "payments": [payment("alice", "bob", 1), payment("bob", "alice", 2)]});
    client.post_with_key("/payments/batch", "none", &atomic).await.is(422);
    let events = client.get("/events").await.is(200);
    let types = [
        "account_opened",
        "account_opened",
        "account_opened",
        "transaction_posted",
        "asset_defined",
        "transaction_rejected",
        "batch_rejected",
    ];
    assert_eq!(events.field("type"), types);
    assert_eq!(events.field("position"), [1, 2, 3, 4, 5, 6, 7]);
    let times = events.field("recorded_at");
    assert!(times.iter().map(Value::as_str).is_sorted());
    assert_eq!(events.position(), 7);
    let rest = client.get("/events?after=5").await.is(200);
    assert_eq!((rest.field("position"), rest.body["next"].clone()), (vec![json!(6), json!(7)], Value::Null));
    assert!(client.get("/events?after=7").await.is(200).data().is_empty());
    assert!(client.get("/events?after=9000").await.is(200).data().is_empty());
}
