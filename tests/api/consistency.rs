//! How fresh reads are.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Stall, payment, start_on_database, start_with_accounts};

#[tokio::test]
async fn every_route_reads_what_was_just_written() {
    let (_server, client) = start_with_accounts().await;
    for n in 1..=20_u64 {
        let mut request = payment("alice", "bob", 1);
        request["reference"] = json!(format!("ref-{n}"));
        let paid = client.pay(&format!("k-{n}"), &request).await.is(201);
        let (id, position) = (paid.body["id"].as_str().unwrap(), paid.position());
        let newest = client.get("/accounts/bob/entries?order=desc&limit=1").await.is(200);
        assert_eq!(newest.field("transaction_id"), [id]);
        let account = client.get("/accounts/bob").await.is(200);
        assert_eq!(account.body["balance"]["posted"], n.to_string());
        let listed = client.get("/accounts?prefix=bob").await.is(200);
        assert_eq!(listed.data()[0]["balance"], account.body["balance"]);
        for query in [
            format!("reference=ref-{n}"),
            format!("idempotency_key=k-{n}"),
            format!("account=bob&after=p{}", position - 1),
        ] {
            let found = client.get(&format!("/transactions?{query}")).await.is(200);
            assert_eq!(found.field("id"), [id], "{query}");
        }
        let events = client.get(&format!("/events?after={}", position - 1)).await.is(200);
        assert_eq!(events.field("transaction_id"), [id]);
        client.get(&format!("/transactions/{id}")).await.is(200);
        for answer in [newest, account, listed, events] {
            assert!(answer.position() >= position);
        }
        let opened = client.open(json!({"code": format!("new-{n}"), "asset": "EUR"})).await;
        client.get(&format!("/accounts/new-{n}/entries")).await.is(200);
        assert!(client.get("/accounts?prefix=new-").await.is(200).data().contains(&opened.body));
    }
}

#[tokio::test]
async fn a_position_that_is_reached_is_waited_for() {
    let (_server, client) = start_with_accounts().await;
    let paid = client.pay("k", &payment("alice", "bob", 1)).await.is(201);
    let (id, position) = (paid.body["id"].as_str().unwrap(), paid.position());
    for path in READS {
        let path = path.replace("{id}", id);
        let answer = client.get(&format!("{path}?min_position={position}")).await.is(200);
        assert!(answer.position() >= position, "{path}");
        let answer = client.get(&format!("{path}?consistency=eventual&min_position={position}")).await.is(200);
        assert!(answer.position() >= position, "{path}");
        client.get(&format!("{path}?consistency=strong")).await.is(200);
    }
    let account = client.get(&format!("/accounts/bob?consistency=eventual&min_position={position}")).await.is(200);
    assert_eq!(account.body["balance"]["posted"], "1");
}

#[tokio::test]
async fn a_position_that_is_not_reached_is_no_stale_answer() {
    let (_server, client) = start_with_accounts().await;
    let paid = client.pay("k", &payment("alice", "bob", 1)).await.is(201);
    let (id, beyond) = (paid.body["id"].as_str().unwrap(), paid.position() + 1);
    let reads = READS.iter().map(|path| {
        let path = format!("{}?min_position={beyond}", path.replace("{id}", id));
        let client = client.clone();
        async move { client.get(&path).await.is_problem(504, "projection_behind") }
    });
    let began = Instant::now();
    for answer in futures::future::join_all(reads).await {
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "it waits a second first");
}

/// Every route that reflects a position and takes it as a condition.
const READS: [&str; 10] = [
    "/accounts/bob",
    "/accounts/bob/statement",
    "/balances",
    "/trial-balance",
    "/accounts",
    "/accounts/bob/entries",
    "/transactions",
    "/transactions/{id}",
    "/events",
    "/assets",
];

#[tokio::test]
async fn an_eventual_read_is_never_ahead_of_what_it_says() {
    let (_server, client) = start_with_accounts().await;
    for n in 0..10 {
        client.pay(&format!("k{n}"), &payment("alice", "bob", 1)).await.is(201);
        let listed = client.get("/accounts?prefix=bob&consistency=eventual").await.is(200);
        let at = listed.position();
        assert!(at <= client.head().await);
        for account in listed.data() {
            assert!(account["balance"]["version"].as_u64().unwrap() <= n + 1);
        }
    }
    client.get("/accounts/unknown?consistency=eventual").await.is_problem(404, "account_not_found");
}

/// Nobody waits for a balance as long as for a payment.
#[tokio::test]
async fn a_read_without_a_sequencer_is_503_after_two_seconds() {
    let (_server, client, url) = start_on_database().await;
    let stall = Stall::begin(&url).await;
    let reads = ["/accounts/bob", "/accounts/batch", "/accounts", "/accounts/bob/entries", "/transactions"];
    let began = Instant::now();
    let answers = futures::future::join_all(reads.map(|path| client.get(path))).await;
    let waited = began.elapsed();
    for answer in answers {
        assert_eq!(answer.is_problem(503, "unavailable").header("retry-after"), Some("1"));
    }
    assert!((1900..6000).contains(&waited.as_millis()), "{waited:?}");
    // What needs no head does not wait for it.
    for path in ["/accounts/bob?consistency=eventual", "/accounts?min_position=1", "/events", "/assets"] {
        client.get(path).await.is(200);
    }
    stall.end().await;
    for path in ["/accounts/bob", "/accounts"] {
        client.get(path).await.is(200);
    }
}

#[tokio::test]
async fn a_strong_read_waits_for_the_head_and_for_the_position() {
    let (_server, client) = start_with_accounts().await;
    for path in ["/accounts", "/accounts/bob/entries", "/transactions", "/accounts/bob"] {
        let paid = client.pay(path, &payment("alice", "bob", 1)).await.is(201);
        let answer = client.get(&format!("{path}?consistency=strong&min_position=1")).await.is(200);
        assert!(answer.position() >= paid.position(), "{path}");
        let beyond = format!("{path}?consistency=strong&min_position={}", paid.position() + 1);
        client.get(&beyond).await.is_problem(504, "projection_behind");
    }
}
