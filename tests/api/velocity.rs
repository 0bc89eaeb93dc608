//! Velocity limits, as a client meets them. What they count is in the tests of the core.

use serde_json::json;

use crate::client::{Client, payment, start_with_accounts};
use crate::support::{Postgres, Server};

#[tokio::test]
async fn a_payment_above_the_limit_is_declined_for_good_and_says_when_one_passes() {
    let (_server, client) = start_with_accounts().await;
    let limit = json!({"account": "alice", "direction": "out", "window": {"rolling_s": 3600}, "count_max": 2});
    client.put("/velocity-limits/twice", &limit).await.is(201);
    client.pay("a", &payment("alice", "bob", 1)).await.is(201);
    client.pay("b", &payment("alice", "bob", 1)).await.is(201);
    let declined = client.pay("c", &payment("alice", "bob", 1)).await.is_problem(422, "velocity_limit_exceeded");
    let detail = declined.body["detail"].as_str().unwrap();
    assert!(detail.contains("twice") && detail.contains("alice"), "{detail}");
    let passes_at = declined.body["passes_at"].as_str().unwrap().to_owned();
    assert!(detail.contains(&passes_at), "{detail}");
    assert_eq!((&declined.body["limit"], &declined.body["account"]), (&json!("twice"), &json!("alice")));
    let shown =
        client.get(&format!("/transactions/{}", declined.body["transaction_id"].as_str().unwrap())).await.is(200);
    assert_eq!(shown.body["status"], "rejected");
    assert_eq!(
        shown.body["rejection"],
        json!({"detail": detail, "account": "alice", "limit": "twice", "passes_at": passes_at})
    );

    // The same key gets the same answer, and others are not concerned.
    let again = client.pay("c", &payment("alice", "bob", 1)).await.is_problem(422, "velocity_limit_exceeded");
    assert!(again.is_replay());
    assert_eq!(again.text, declined.text);
    client.pay("d", &payment("bob", "alice", 1)).await.is(201);
    client.send(reqwest::Method::DELETE, "/velocity-limits/twice", &[], "").await.is(200);
    client.pay("e", &payment("alice", "bob", 1)).await.is(201);
}

#[tokio::test]
async fn a_limit_counts_holds_and_every_leg() {
    let (_server, client) = start_with_accounts().await;
    let limit = json!({"prefix": "al", "asset": "EUR", "direction": "out", "window": {"day": "Europe/Zurich"}, "amount_max": 10});
    client.put("/velocity-limits/ten-a-day", &limit).await.is(201);
    let mut hold = payment("alice", "bob", 4);
    hold["capture"] = json!("manual");
    client.pay("hold", &hold).await.is(201);
    let leg = |account: &str, side: &str, amount: u64| json!({"account": account, "side": side, "amount": amount, "asset": "EUR"});
    let split = |first: u64| json!({"legs": [leg("alice", "debit", first), leg("alice", "debit", 3), leg("bob", "credit", first + 3)]});
    client.post_with_key("/transactions", "much", split(4)).await.is_problem(422, "velocity_limit_exceeded");
    // One that passes at no time, as an item of a batch that posts nothing.
    let batch = json!({"atomic": true, "payments": [payment("bank", "bob", 1), payment("alice", "bob", 11)]});
    let declined = client.post_with_key("/payments/batch", "never", &batch).await;
    let declined = declined.is_problem(422, "velocity_limit_exceeded").at("/payments/1");
    assert_eq!((&declined.body["limit"], &declined.body["account"]), (&json!("ten-a-day"), &json!("alice")));
    assert_eq!(declined.body.get("passes_at"), None);
    let shown = client.get(&format!("/transactions/{}", declined.body["transaction_id"].as_str().unwrap())).await;
    assert_eq!((&shown.body["rejection"]["item"], shown.body["rejection"].get("passes_at")), (&json!(1), None));
    // No other rejection has them.
    let declined = client.pay("poor", &payment("bob", "alice", 1_000)).await.is_problem(422, "insufficient_funds");
    assert_eq!((declined.body.get("limit"), declined.body.get("account")), (None, None));
    client.post_with_key("/transactions", "right", split(3)).await.is(201);
    client.pay("more", &payment("alice", "bob", 1)).await.is_problem(422, "velocity_limit_exceeded");
}

/// An atomic batch is tried again as a whole: its own items are no history.
#[tokio::test]
async fn a_batch_says_when_all_of_it_passes() {
    let (_server, client) = start_with_accounts().await;
    let set = async |name: &str, limit| client.put(&format!("/velocity-limits/{name}"), &limit).await.is(201);
    set(
        "hundred",
        json!({"account": "alice", "asset": "EUR", "direction": "out", "window": {"rolling_s": 60}, "amount_max": 100}),
    )
    .await;
    set(
        "three",
        json!({"account": "bob", "asset": "EUR", "direction": "out", "window": {"rolling_s": 7200}, "count_max": 3}),
    )
    .await;
    client.pay("for-bob", &payment("bank", "bob", 10)).await.is(201);
    let batch = async |key: &str, payments: Vec<serde_json::Value>| {
        let body = json!({"atomic": true, "payments": payments});
        client.post_with_key("/payments/batch", key, &body).await
    };
    let two = vec![payment("alice", "bob", 60), payment("alice", "bob", 60)];
    let declined = batch("amount", two).await.is_problem(422, "velocity_limit_exceeded").at("/payments/1");
    assert_eq!((&declined.body["limit"], declined.body.get("passes_at")), (&json!("hundred"), None));
    let four = (0..4).map(|_| payment("bob", "bank", 1)).collect();
    let declined = batch("count", four).await.is_problem(422, "velocity_limit_exceeded").at("/payments/3");
    assert_eq!((&declined.body["limit"], declined.body.get("passes_at")), (&json!("three"), None));

    // One that is declined by its first item waits for the limits of the others too.
    let first = batch("first", vec![payment("alice", "bob", 60), payment("bob", "bank", 1)]).await.is(201);
    let many = |last: u64| {
        let bobs = (0..3).map(|_| payment("bob", "bank", 1));
        [payment("alice", "bob", 50)].into_iter().chain(bobs).chain([payment("alice", "bob", last)]).collect()
    };
    let declined = batch("later", many(50)).await.is_problem(422, "velocity_limit_exceeded").at("/payments/0");
    assert_eq!(declined.body["limit"], json!("hundred"));
    let time = |value: &serde_json::Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    let passes_in = time(&declined.body["passes_at"]) - time(&first.body["results"][0]["payment"]["recorded_at"]);
    assert!((7_200..=7_320).contains(&passes_in.num_seconds()), "{passes_in}");
    let declined = batch("never", many(51)).await.is_problem(422, "velocity_limit_exceeded").at("/payments/0");
    assert_eq!(declined.body.get("passes_at"), None);
}

/// Of a sequencer that begins anew, whose memory is empty.
#[tokio::test]
async fn what_was_counted_outlives_the_server() {
    let url = Postgres::shared().await.database().await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    for code in ["alice", "bob"] {
        client.open(json!({"code": code, "asset": "EUR", "min_balance": null})).await;
    }
    let limit = json!({"prefix": "a", "direction": "out", "window": {"rolling_s": 86400}, "count_max": 2});
    client.put("/velocity-limits/twice", &limit).await.is(201);
    client.pay("a", &payment("alice", "bob", 1)).await.is(201);
    client.get("/accounts/alice/entries").await.is(200);
    server.close().await;

    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    client.pay("b", &payment("alice", "bob", 1)).await.is(201);
    client.pay("c", &payment("alice", "bob", 1)).await.is_problem(422, "velocity_limit_exceeded");
    server.close().await;
}
