//! Atomic batches: all or none, under one key.

use serde_json::{Value, json};

use crate::client::{payment, start_with_accounts};

fn batch(payments: &[Value]) -> Value {
    json!({"atomic": true, "payments": payments})
}

#[tokio::test]
async fn all_are_posted_under_one_key() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    // The second is possible only after the first.
    let request = batch(&[payment("alice", "bob", 900), payment("bob", "bank", 800), payment("bob", "alice", 100)]);
    let posted = client.post_with_key("/payments/batch", "k", &request).await.is(201);
    let results = posted.body["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert_eq!(posted.position(), head + 3);
    for (result, position) in results.iter().zip(head + 1..) {
        assert_eq!(result["payment"]["position"], position);
        let id = result["payment"]["id"].as_str().unwrap();
        assert_eq!(client.get(&format!("/transactions/{id}")).await.is(200).body["idempotency_key"], "k");
    }
    let again = client.post_with_key("/payments/batch", "k", &request).await.is(201);
    assert!(again.is_replay() && again.text == posted.text);
    assert_eq!(client.head().await, head + 3);
    assert_eq!((client.posted("alice").await, client.posted("bob").await), ("200".into(), "0".into()));
}

#[tokio::test]
async fn none_is_posted_when_one_is_declined() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let request = batch(&[payment("alice", "bob", 900), payment("alice", "bob", 900), payment("bob", "bank", 9_999)]);
    let declined = client.post_with_key("/payments/batch", "k", &request).await.is_problem(422, "insufficient_funds");
    assert_eq!(declined.body["errors"][0]["pointer"], "/payments/1", "the first that fails");
    assert_eq!(declined.body["position"], head + 1);
    assert_eq!(client.head().await, head + 1, "one event says that it was declined");
    assert_eq!((client.posted("alice").await, client.posted("bob").await), ("1000".into(), "0".into()));
    assert_eq!(client.get("/accounts/alice").await.body["balance"]["version"], 1);

    client.pay("more", &payment("bank", "alice", 99_999)).await.is(201);
    let again = client.post_with_key("/payments/batch", "k", &request).await.is(422);
    assert!(again.is_replay() && again.text == declined.text);
    let found = client.get("/transactions?idempotency_key=k").await.is(200);
    assert_eq!(
        (found.field("status"), found.field("id")),
        (vec![json!("rejected")], vec![declined.body["transaction_id"].clone()])
    );

    let mut other = request.clone();
    other["payments"].as_array_mut().unwrap().swap(0, 2);
    let reused = client.post_with_key("/payments/batch", "k", &other).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(reused.body["transaction_id"], declined.body["transaction_id"]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_the_key_free() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let mut with_key = payment("alice", "bob", 1);
    with_key["idempotency_key"] = json!("own");
    let good = payment("alice", "bob", 1);
    for (payments, status, code, pointer) in [
        (vec![good.clone(), payment("nobody", "bob", 1)], 404, "account_not_found", "/payments/1/from"),
        (vec![good.clone(), payment("bob", "bob", 1)], 422, "same_account", "/payments/1/to"),
        (vec![good.clone(), payment("alice", "bob", 0)], 422, "validation_failed", "/payments/1/amount"),
        (vec![good.clone(), with_key], 422, "validation_failed", "/payments/1/idempotency_key"),
        (vec![], 422, "validation_failed", "/payments"),
        // Declined and not to be: what is not recorded comes first, as with one payment.
        (
            vec![good.clone(), json!({"from": "alice", "to": "bob", "amount": 1, "asset": "USD"})],
            422,
            "asset_mismatch",
            "/payments/1/asset",
        ),
    ] {
        let answer = client.post_with_key("/payments/batch", "k", batch(&payments)).await;
        answer.is_problem(status, code).at(pointer);
    }
    assert_eq!(client.head().await, head);
    let answer = client.post_with_key("/payments/batch", "k", batch(&[good])).await.is(201);
    assert!(!answer.is_replay());
}
