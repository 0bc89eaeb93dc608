//! The table of idempotency, line by line.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON, payment, start_with_accounts};
use crate::support::{Postgres, Server};

/// The same status and body as before, and a header that says so.
#[track_caller]
fn check_replay(first: &Answer, again: &Answer) {
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert!(!first.is_replay() && again.is_replay());
}

#[tokio::test]
async fn a_missing_key_is_400() {
    let (_server, client) = start_with_accounts().await;
    client.post("/payments", &payment("alice", "bob", 1)).await.is_problem(400, "idempotency_key_missing");
    let atomic = json!({"atomic": true, "payments": [payment("alice", "bob", 1)]});
    client.post("/payments/batch", &atomic).await.is_problem(400, "idempotency_key_missing");
}

#[tokio::test]
async fn the_same_request_again_is_answered_the_same() {
    let (_server, client) = start_with_accounts().await;
    let mut rich = payment("alice", "bob", 5);
    rich["metadata"] = json!({"b": 1.0, "a": 0.12345678901234568, "u": "ü\u{1}"});
    rich["reference"] = json!("r\"\\\u{7f}");
    for (key, request, status) in [
        ("posted", payment("alice", "bob", 300), 201),
        ("rich", rich, 201),
        ("rejected", payment("alice", "bob", 9_999), 422),
    ] {
        let first = client.pay(key, &request).await.is(status);
        let head = client.head().await;
        for _ in 0..3 {
            check_replay(&first, &client.pay(key, &request).await);
        }
        assert_eq!(client.head().await, head);
    }
}

#[tokio::test]
async fn a_rejection_is_replayed_even_when_there_are_funds_by_now() {
    let (_server, client) = start_with_accounts().await;
    let request = payment("bob", "alice", 100);
    let first = client.pay("k", &request).await.is_problem(422, "insufficient_funds");
    client.pay("more", &payment("alice", "bob", 500)).await.is(201);
    check_replay(&first, &client.pay("k", &request).await);
    client.pay("k2", &request).await.is(201);
}

#[tokio::test]
async fn sixty_four_at_once_with_one_key_are_one_payment() {
    let (_server, client) = start_with_accounts().await;
    for (key, amount, status) in [("posted", 100, 201), ("rejected", 10_000, 422)] {
        let head = client.head().await;
        let request = payment("alice", "bob", amount);
        let answers = join_all((0..64).map(|_| client.pay(key, &request))).await;
        assert!(answers.iter().all(|answer| (answer.status, &answer.text) == (status, &answers[0].text)));
        assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 1);
        assert_eq!(client.head().await, head + 1);
    }
    assert_eq!(client.posted("bob").await, "100");
}

#[tokio::test]
async fn what_a_request_means_counts_and_how_it_is_written_does_not() {
    let (_server, client) = start_with_accounts().await;
    let base = r#"{"from":"alice","to":"bob","amount":"125","asset":"EUR","metadata":{"a":1,"b":[2]}}"#;
    let first = client.post_with_key("/payments", "k", base).await.is(201);
    for same in [
        r#"{"metadata":{"b":[2],"a":1},"asset":"EUR","amount":"125","to":"bob","from":"alice"}"#,
        "\n{ \"from\" : \"alice\",\t\"to\":\"bob\",\"amount\":\"125\",\"asset\":\"EUR\",\"metadata\":{ \"a\":1.0, \"b\":[ 2 ]} } ",
        r#"{"from":"alice","to":"bob","amount":125,"asset":"EUR","metadata":{"a":1,"b":[2]}}"#,
        r#"{"from":"alice","to":"bob","amount":"0125","asset":"EUR","metadata":{"a":1,"b":[2]}}"#,
        r#"{"from":"\u0061lice","to":"bob","amount":"125","asset":"EUR","metadata":{"\u0061":1,"b":[2]}}"#,
        r#"{"from":"alice","to":"bob","amount":"125","asset":"EUR","metadata":{"a":1,"b":[2]},"reference":null,"description":null}"#,
    ] {
        check_replay(&first, &client.post_with_key("/payments", "k", same).await);
    }
    let head = client.head().await;
    for other in [
        r#"{"from":"alice","to":"bob","amount":"126","asset":"EUR","metadata":{"a":1,"b":[2]}}"#,
        r#"{"from":"bob","to":"alice","amount":"125","asset":"EUR","metadata":{"a":1,"b":[2]}}"#,
        r#"{"from":"alice","to":"bank","amount":"125","asset":"EUR","metadata":{"a":1,"b":[2]}}"#,
        r#"{"from":"alice","to":"bob","amount":"125","asset":"USD","metadata":{"a":1,"b":[2]}}"#,
        r#"{"from":"alice","to":"bob","amount":"125","asset":"EUR","metadata":{"a":1,"b":[3]}}"#,
        r#"{"from":"alice","to":"bob","amount":"125","asset":"EUR"}"#,
        r#"{"from":"alice","to":"bob","amount":"125","asset":"EUR","metadata":{"a":1,"b":[2]},"reference":""}"#,
        r#"{"from":"alice","to":"bob","amount":"125","asset":"EUR","metadata":{"a":1,"b":[2]},"description":"x"}"#,
        // Even one that would be refused under a new key.
        r#"{"from":"alice","to":"nobody","amount":"125","asset":"EUR"}"#,
    ] {
        let answer = client.post_with_key("/payments", "k", other).await.is_problem(422, "idempotency_key_reused");
        assert_eq!(answer.body["transaction_id"], first.body["id"]);
    }
    assert_eq!(client.head().await, head);
}

/// Numbers that only a double would take for the same, and members that only a
/// merge would: none of them may count as the request sent again.
#[tokio::test]
async fn what_metadata_means_is_not_changed() {
    let (_server, client) = start_with_accounts().await;
    let body =
        |metadata: &str| format!(r#"{{"from":"alice","to":"bob","amount":"1","asset":"EUR","metadata":{metadata}}}"#);
    for (key, first, others) in [
        ("large", r#"{"a":100000000000000000000}"#, vec![r#"{"a":100000000000000000001}"#]),
        ("fine", r#"{"a":0.12345678901234568}"#, vec![r#"{"a":0.1234567890123456789012}"#]),
        ("twice", r#"{"a":2}"#, vec![r#"{"a":1,"a":2}"#, r#"{"a":2,"a":2}"#]),
    ] {
        let paid = client.post_with_key("/payments", key, body(first)).await.is(201);
        for other in others {
            client.post_with_key("/payments", key, body(other)).await.is_problem(422, "validation_failed");
        }
        check_replay(&paid, &client.post_with_key("/payments", key, body(first)).await);
    }
    client.post_with_key("/payments", "whole", body(r#"{"a":9007199254740993}"#)).await.is(201);
    let other = client.post_with_key("/payments", "whole", body(r#"{"a":9007199254740992}"#)).await;
    other.is_problem(422, "idempotency_key_reused");
}

/// Answers reflect the log as it is now, also where they say what was decided before.
#[tokio::test]
async fn a_replay_has_the_current_position() {
    let (_server, client) = start_with_accounts().await;
    let rejected = client.pay("no", &payment("bob", "alice", 1)).await.is(422);
    assert_eq!(rejected.position(), client.head().await);
    let atomic = json!({"atomic": true, "payments": [payment("bob", "alice", 1)]});
    client.post_with_key("/payments/batch", "none", &atomic).await.is(422);
    client.pay("yes", &payment("alice", "bob", 1)).await.is(201);
    let head = client.pay("more", &payment("alice", "bob", 1)).await.is(201).position();
    for again in [
        client.pay("yes", &payment("alice", "bob", 1)).await.is(201),
        client.pay("no", &payment("bob", "alice", 1)).await.is(422),
        client.post_with_key("/payments/batch", "none", &atomic).await.is(422),
    ] {
        assert!(again.is_replay());
        assert_eq!(again.position(), head);
    }
    let again = client.pay("no", &payment("bob", "alice", 1)).await;
    assert_eq!(again.body["position"], rejected.body["position"], "where it is recorded stays");
    let reused = client.pay("no", &payment("bob", "alice", 2)).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(reused.position(), head);
}

#[tokio::test]
async fn a_key_belongs_to_its_route() {
    let (_server, client) = start_with_accounts().await;
    let request = payment("alice", "bob", 1);
    let first = client.pay("k", &request).await.is(201);
    let mut item = request.clone();
    item["idempotency_key"] = json!("k");
    let batch = client.post("/payments/batch", &json!({"payments": [item]})).await.is(200);
    assert_eq!(batch.body["results"][0]["problem"]["code"], "idempotency_key_reused");
    assert_eq!(batch.body["results"][0]["problem"]["transaction_id"], first.body["id"]);
    let atomic = json!({"atomic": true, "payments": [request]});
    let answer = client.post_with_key("/payments/batch", "k", &atomic).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(answer.body["transaction_id"], first.body["id"]);
}

/// A request that leaves its key free: sent, refused, and then the key pays.
async fn check_free(client: &Client, key: &str, refused: Answer) {
    assert!(matches!(refused.status, 400 | 404 | 413 | 415 | 422), "{}", refused.text);
    let answer = client.pay(key, &payment("alice", "bob", 1)).await.is(201);
    assert!(!answer.is_replay());
}

#[tokio::test]
async fn a_key_is_free_after_a_request_that_was_malformed() {
    let (_server, client) = start_with_accounts().await;
    let path = "/payments";
    let good = payment("alice", "bob", 1);
    check_free(&client, "400", client.post_with_key(path, "400", "{").await.is_problem(400, "malformed_json")).await;
    let unknown = client.pay("404", &payment("alice", "nobody", 1)).await.is_problem(404, "account_not_found");
    check_free(&client, "404", unknown).await;
    let elsewhere = client.of_ledger("elsewhere").pay("404b", &good).await.is_problem(404, "ledger_not_found");
    check_free(&client, "404b", elsewhere).await;
    let large = client.post_with_key(path, "413", " ".repeat(9 * 1024 * 1024)).await.is_problem(413, "body_too_large");
    check_free(&client, "413", large).await;
    let headers = [("content-type", "text/plain"), ("idempotency-key", "415")];
    let plain = client.send(reqwest::Method::POST, path, &headers, good.to_string()).await;
    check_free(&client, "415", plain.is_problem(415, "unsupported_media_type")).await;
    let zero = client.pay("422", &payment("alice", "bob", 0)).await.is_problem(422, "validation_failed");
    check_free(&client, "422", zero).await;
}

#[tokio::test]
async fn keys_are_remembered_by_the_database() {
    let url = Postgres::shared().await.database().await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    client.open(json!({"code": "bank", "asset": "EUR", "normal": "debit", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR"})).await;
    let mut posted = payment("bank", "alice", 7);
    posted["metadata"] = json!({"rate": 0.30000000000000004, "big": 1e21, "n": {"b": 1, "a": "\u{e4}"}});
    let rejected = payment("alice", "bank", 70);
    let atomic = json!({"atomic": true, "payments": [payment("bank", "alice", 1), payment("bank", "alice", 2)]});
    let first = [
        client.pay("p", &posted).await.is(201),
        client.pay("r", &rejected).await.is(422),
        client.post_with_key("/payments/batch", "a", &atomic).await.is(201),
    ];
    server.close().await;

    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    let head = client.head().await;
    check_replay(&first[0], &client.pay("p", &posted).await);
    check_replay(&first[1], &client.pay("r", &rejected).await);
    check_replay(&first[2], &client.post_with_key("/payments/batch", "a", &atomic).await);
    client.pay("p", &rejected).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(client.head().await, head);
    server.close().await;
}

#[tokio::test]
async fn what_a_key_did_can_be_found() {
    let (_server, client) = start_with_accounts().await;
    let find = async |key: &str| client.get(&format!("/transactions?idempotency_key={key}")).await.is(200);
    let posted = client.pay("posted", &payment("alice", "bob", 1)).await.is(201);
    let rejected = client.pay("rejected", &payment("alice", "bob", 9_999)).await.is(422);
    let atomic = json!({"atomic": true, "payments": [payment("alice", "bob", 1), payment("bob", "alice", 1)]});
    let atomic = client.post_with_key("/payments/batch", "atomic", &atomic).await.is(201);
    assert_eq!(find("posted").await.field("id"), [posted.body["id"].clone()]);
    let found = find("rejected").await;
    assert_eq!(found.field("id"), [rejected.body["transaction_id"].clone()]);
    assert_eq!(found.field("status"), ["rejected"]);
    let ids: Vec<Value> =
        atomic.body["results"].as_array().unwrap().iter().map(|result| result["payment"]["id"].clone()).collect();
    assert_eq!(find("atomic").await.field("id"), ids);
    assert!(find("unused").await.data().is_empty());
    let elsewhere = client.get("/transactions?idempotency_key=posted&account=bank").await.is(200);
    assert!(elsewhere.data().is_empty(), "the filters hold together");
}

#[tokio::test]
async fn more_than_one_key_is_none() {
    let (_server, client) = start_with_accounts().await;
    let headers = [JSON, ("idempotency-key", "a"), ("idempotency-key", "b")];
    let answer =
        client.send(reqwest::Method::POST, "/payments", &headers, payment("alice", "bob", 1).to_string()).await;
    answer.is_problem(400, "idempotency_key_invalid");
}
