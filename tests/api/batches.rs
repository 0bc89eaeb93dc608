//! Batches of independent payments.

use serde_json::{Value, json};

use crate::client::{Answer, Client, payment, start_with_accounts};

fn item(key: &str, mut payment: Value) -> Value {
    payment["idempotency_key"] = json!(key);
    payment
}

async fn send(client: &Client, payments: &[Value]) -> Answer {
    client.post("/payments/batch", &json!({"payments": payments})).await.is(200)
}

/// Status and code of each result.
fn results(answer: &Answer) -> Vec<(u64, &str)> {
    let results = answer.body["results"].as_array().unwrap();
    results
        .iter()
        .map(|result| (result["status"].as_u64().unwrap(), result["problem"]["code"].as_str().unwrap_or("posted")))
        .collect()
}

#[tokio::test]
async fn every_item_has_its_own_result_and_sees_those_before() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let answer = send(
        &client,
        &[
            item("1", payment("bob", "alice", 500)),
            item("2", payment("alice", "bob", 600)),
            item("3", payment("bob", "alice", 500)),
            item("4", payment("nobody", "alice", 1)),
            item("5", payment("alice", "alice", 1)),
            item("6", payment("alice", "bob", 0)),
            item("", payment("alice", "bob", 1)),
            payment("alice", "bob", 1),
            item("9", payment("alice", "bob", 1)),
        ],
    )
    .await;
    let expected = [
        (422, "insufficient_funds"),
        (201, "posted"),
        (201, "posted"),
        (404, "account_not_found"),
        (422, "same_account"),
        (422, "validation_failed"),
        (422, "validation_failed"),
        (400, "idempotency_key_missing"),
        (201, "posted"),
    ];
    assert_eq!(results(&answer), expected);
    let pointers =
        [(3, "/payments/3/from"), (4, "/payments/4/to"), (5, "/payments/5/amount"), (6, "/payments/6/idempotency_key")];
    for (index, pointer) in pointers {
        assert_eq!(answer.body["results"][index]["problem"]["errors"][0]["pointer"], pointer);
    }
    assert_eq!(client.head().await, head + 4, "three posted, one rejected");
    assert_eq!(answer.position(), head + 4);
}

#[tokio::test]
async fn a_batch_again_is_a_replay_of_every_item() {
    let (_server, client) = start_with_accounts().await;
    let batch = [
        item("1", payment("alice", "bob", 5)),
        item("2", payment("alice", "bob", 9_999)),
        item("3", payment("x", "bob", 1)),
    ];
    let first = send(&client, &batch).await;
    assert_eq!(results(&first), [(201, "posted"), (422, "insufficient_funds"), (404, "account_not_found")]);
    let head = client.head().await;
    let again = send(&client, &batch).await;
    assert_eq!(again.text, first.text);
    assert_eq!(client.head().await, head);
    assert!(!first.is_replay() && !again.is_replay(), "what is not recorded is decided anew");
    // Some new, some not.
    let mixed = send(
        &client,
        &[item("4", payment("alice", "bob", 1)), batch[0].clone(), item("2", payment("alice", "bob", 1))],
    )
    .await;
    assert_eq!(results(&mixed), [(201, "posted"), (201, "posted"), (422, "idempotency_key_reused")]);
    assert_eq!(mixed.body["results"][1], first.body["results"][0]);
    assert_eq!(
        mixed.body["results"][2]["problem"]["transaction_id"],
        first.body["results"][1]["problem"]["transaction_id"]
    );
    assert_eq!(client.head().await, head + 1);
    assert!(!mixed.is_replay());
    // Only what is no item at all for the ledger has no say.
    let recorded = [batch[0].clone(), batch[1].clone(), batch[0].clone()];
    assert!(send(&client, &recorded).await.is_replay());
    let with_invalid = [batch[0].clone(), item("4b", payment("alice", "bob", 0))];
    assert!(send(&client, &with_invalid).await.is_replay());
    for others in [
        vec![batch[0].clone(), item("5", payment("alice", "bob", 1))],
        vec![batch[0].clone(), item("2", payment("alice", "bob", 1))],
        vec![item("4c", payment("alice", "bob", 0))],
    ] {
        assert!(!send(&client, &others).await.is_replay());
    }
}

#[tokio::test]
async fn a_key_twice_in_a_batch_is_a_replay_or_reused() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let answer = send(
        &client,
        &[
            item("same", payment("alice", "bob", 5)),
            item("same", payment("alice", "bob", 5)),
            item("same", payment("alice", "bob", 6)),
            item("no", payment("alice", "bob", 9_999)),
            item("no", payment("alice", "bob", 9_999)),
            item("no", payment("alice", "bob", 1)),
            item("free", payment("alice", "nobody", 1)),
            item("free", payment("alice", "bob", 1)),
        ],
    )
    .await;
    let expected = [
        (201, "posted"),
        (201, "posted"),
        (422, "idempotency_key_reused"),
        (422, "insufficient_funds"),
        (422, "insufficient_funds"),
        (422, "idempotency_key_reused"),
        (404, "account_not_found"),
        (201, "posted"),
    ];
    assert_eq!(results(&answer), expected);
    let results = &answer.body["results"];
    assert_eq!(results[1], results[0]);
    assert_eq!(results[2]["problem"]["transaction_id"], results[0]["payment"]["id"]);
    assert_eq!(results[4], results[3]);
    assert_eq!(client.head().await, head + 3);
}

#[tokio::test]
async fn ten_thousand_items_are_a_batch() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let payments: Vec<Value> = (0..10_000).map(|n| item(&n.to_string(), payment("bank", "bob", 1))).collect();
    let answer = send(&client, &payments).await;
    assert!(results(&answer).iter().all(|result| *result == (201, "posted")));
    assert_eq!(client.head().await, head + 10_000);
    assert_eq!(client.posted("bob").await, "10000");
}
