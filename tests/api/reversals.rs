//! Taking back what was posted: all of it, a part, and never more than is left.

use serde_json::{Value, json};

use crate::client::{Answer, Client, payment, start_with_accounts};
use crate::holds::id;
use crate::legs::leg;

async fn reverse(client: &Client, key: &str, id: &str, body: &Value) -> Answer {
    client.post_with_key(&format!("/transactions/{id}/reverse"), key, body).await
}

async fn show(client: &Client, id: &str) -> Value {
    client.get(&format!("/transactions/{id}")).await.is(200).body
}

#[tokio::test]
async fn a_payment_is_taken_back_in_parts_and_no_further() {
    let (_server, client) = start_with_accounts().await;
    let paid = id(&client.pay("p", &payment("alice", "bob", 300)).await.is(201));
    let first = reverse(&client, "r1", &paid, &json!({"amount": "100", "reference": "refund"})).await.is(201);
    assert_eq!((&first.body["type"], &first.body["status"]), (&json!("reversal"), &json!("posted")));
    assert_eq!(first.body["reverses"], json!({"id": paid, "remaining": ["200", "200"]}));
    assert_eq!((&first.body["forced"], &first.body["reference"]), (&json!(false), &json!("refund")));
    let after = |mut leg: Value, after: &str| {
        leg["balance_after"] = json!(after);
        leg
    };
    assert_eq!(
        first.body["legs"],
        json!([after(leg("alice", "credit", 100, "EUR"), "800"), after(leg("bob", "debit", 100, "EUR"), "200")])
    );
    let exceeds = reverse(&client, "no", &paid, &json!({"amount": "201"})).await;
    let exceeds = exceeds.is_problem(422, "reversal_exceeds_transaction");
    let declined = show(&client, exceeds.body["transaction_id"].as_str().unwrap()).await;
    assert_eq!((&declined["type"], &declined["reverses"]), (&json!("reversal"), &json!({"id": paid})));
    let rest = reverse(&client, "r2", &paid, &json!({})).await.is(201);
    assert_eq!(rest.body["reverses"]["remaining"], json!(["0", "0"]));
    reverse(&client, "r3", &paid, &json!({})).await.is_problem(422, "reversal_exceeds_transaction");
    assert_eq!((client.posted("alice").await, client.posted("bob").await), ("1000".to_owned(), "0".to_owned()));

    let story = show(&client, &paid).await;
    let link = |answer: &Answer, amount: &str| json!({"id": answer.body["id"], "amount": amount, "position": answer.body["position"], "recorded_at": answer.body["recorded_at"]});
    assert_eq!(story["reversals"], json!([link(&first, "100"), link(&rest, "200")]));
    assert_eq!((&story["status"], &story["legs"][0]["reversible"]), (&json!("posted"), &json!("0")));
    let story = show(&client, &id(&first)).await;
    assert_eq!((&story["reverses"], &story["forced"]), (&first.body["reverses"], &json!(false)));

    let again = reverse(&client, "r1", &paid, &json!({"reference": "refund", "amount": 100, "force": null})).await;
    assert_eq!((again.is_replay(), again.text), (true, first.text));
    reverse(&client, "r1", &paid, &json!({"amount": 100})).await.is_problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn a_reversal_can_be_reversed() {
    let (_server, client) = start_with_accounts().await;
    let paid = id(&client.pay("p", &payment("alice", "bob", 300)).await.is(201));
    let back = id(&reverse(&client, "r", &paid, &json!({})).await.is(201));
    let forth = reverse(&client, "rr", &back, &json!({})).await.is(201);
    assert_eq!(forth.body["reverses"]["id"], back);
    assert_eq!(client.posted("bob").await, "300");
}

#[tokio::test]
async fn a_capture_is_reversed_and_its_hold_is_not() {
    let (_server, client) = start_with_accounts().await;
    let mut request = payment("alice", "bob", 300);
    request["capture"] = json!("manual");
    let hold = id(&client.pay("h", &request).await.is(201));
    let capture = client.post_with_key(&format!("/payments/{hold}/capture"), "c", json!({})).await.is(201);
    reverse(&client, "r", &hold, &json!({})).await.is_problem(422, "not_reversible");
    reverse(&client, "r", &id(&capture), &json!({})).await.is(201);
    assert_eq!(client.posted("alice").await, "1000");
}

#[tokio::test]
async fn only_force_breaks_a_floor_and_nothing_else() {
    let (_server, client) = start_with_accounts().await;
    let paid = id(&client.pay("p", &payment("alice", "bob", 300)).await.is(201));
    client.pay("spent", &payment("bob", "bank", 250)).await.is(201);
    reverse(&client, "r1", &paid, &json!({})).await.is_problem(422, "insufficient_funds");
    client.post("/accounts/bob/freeze", &json!({"reason": "dispute"})).await.is(200);
    reverse(&client, "r2", &paid, &json!({"force": true})).await.is_problem(422, "account_frozen");
    client.post("/accounts/bob/unfreeze", &json!({"reason": "settled"})).await.is(200);
    let forced = reverse(&client, "r3", &paid, &json!({"force": true})).await.is(201);
    assert_eq!((&forced.body["forced"], &forced.body["balances"]["bob"]["posted"]), (&json!(true), &json!("-250")));
    assert_eq!(show(&client, &id(&forced)).await["forced"], true);
}

#[tokio::test]
async fn single_legs_of_a_transaction_are_taken_back() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "fees", "asset": "EUR"})).await;
    let legs =
        json!([leg("alice", "debit", 100, "EUR"), leg("bob", "credit", 95, "EUR"), leg("fees", "credit", 5, "EUR"),]);
    let split = id(&client.post_with_key("/transactions", "t", json!({"legs": legs})).await.is(201));
    let part = json!({"legs": [leg("bob", "debit", 40, "EUR"), leg("alice", "credit", 40, "EUR")]});
    let reversal = reverse(&client, "r1", &split, &part).await.is(201);
    assert_eq!(reversal.body["reverses"]["remaining"], json!(["60", "55", "5"]));
    for (body, code, pointer) in [
        (json!({"amount": 1}), "validation_failed", "/amount"),
        (json!({"legs": [leg("bob", "debit", 40, "EUR")]}), "validation_failed", "/legs"),
        (
            json!({"legs": [leg("bob", "debit", 40, "EUR"), leg("alice", "credit", 41, "EUR")]}),
            "validation_failed",
            "/legs",
        ),
        (json!({"amount": 1, "legs": []}), "validation_failed", "/legs"),
        (json!({"part": 1}), "validation_failed", "/part"),
    ] {
        reverse(&client, "no", &split, &body).await.is_problem(422, code).at(pointer);
    }
    let unknown = json!({"legs": [leg("nobody", "debit", 40, "EUR"), leg("alice", "credit", 30, "EUR"), leg("no:one", "credit", 10, "EUR")]});
    let unknown = reverse(&client, "no", &split, &unknown).await.is_problem(404, "account_not_found");
    let errors = unknown.body["errors"].as_array().unwrap();
    let pointers: Vec<&Value> = errors.iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, [&json!("/legs/0/account"), &json!("/legs/2/account")]);
    let dollars = json!({"legs": [leg("bob", "debit", 1, "USD"), leg("alice", "credit", 1, "USD")]});
    reverse(&client, "no", &split, &dollars).await.is_problem(422, "validation_failed").at("/legs/0/asset");
    for (key, account, amount) in [("no1", "bob", 56), ("no2", "fees", 6)] {
        let legs = json!({"legs": [leg(account, "debit", amount, "EUR"), leg("alice", "credit", amount, "EUR")]});
        reverse(&client, key, &split, &legs).await.is_problem(422, "reversal_exceeds_transaction");
    }
    // What is none of the transaction's legs is recorded as little as a wrong asset.
    let head = client.head().await;
    for (from, to, wrong) in [("bank", "alice", 0), ("bob", "bank", 1), ("alice", "bob", 0)] {
        let legs = json!({"legs": [leg(from, "debit", 1, "EUR"), leg(to, "credit", 1, "EUR")]});
        let refused = reverse(&client, "no", &split, &legs).await.is_problem(422, "validation_failed");
        refused.at(&format!("/legs/{wrong}/account"));
    }
    assert_eq!(client.head().await, head);
    let rest = reverse(&client, "r2", &split, &json!({})).await.is(201);
    assert_eq!(rest.body["reverses"]["remaining"], json!(["0", "0", "0"]));
    assert_eq!(client.posted("alice").await, "1000");
    let story = show(&client, &split).await;
    let amounts: Vec<&Value> = story["reversals"].as_array().unwrap().iter().map(|link| &link["amount"]).collect();
    assert_eq!(amounts, [&json!("40"), &Value::Null]);
}

#[tokio::test]
async fn what_was_not_posted_is_not_reversed() {
    let (_server, client) = start_with_accounts().await;
    let declined = client.pay("no", &payment("bob", "alice", 1)).await.is(422);
    let rejected = declined.body["transaction_id"].as_str().unwrap();
    reverse(&client, "r", rejected, &json!({})).await.is_problem(422, "not_reversible");
    for unknown in ["0193a5b0-0000-7000-8000-000000000000", "x", "%00"] {
        reverse(&client, "r", unknown, &json!({})).await.is_problem(404, "transaction_not_found");
    }
    assert!(client.get("/transactions?idempotency_key=r").await.is(200).data().is_empty());
}
