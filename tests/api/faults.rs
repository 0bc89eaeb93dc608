//! Problems that need a fault, a slow client, or a state that no route makes.
//!
//! Each is brought about on a real server, and what its remedy promises is checked: that the key is free, or that the
//! same key tells.

use std::convert::Infallible;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::client::{Answer, Client, JSON, Stall, payment, start_on_database, start_with_accounts};
use crate::overload::FullQueue;
use crate::support::{Postgres, Server, eventually};

/// One answer for each of these problems, in no order.
pub async fn problems() -> Vec<Answer> {
    let (slow, [frozen, closed], defect, overloaded, (unavailable, unknown)) = tokio::join!(
        a_body_that_does_not_come(),
        accounts_that_are_not_open(),
        an_append_that_is_refused(),
        a_full_queue(),
        a_database_that_goes_away(),
    );
    vec![slow, frozen, closed, defect, overloaded, unavailable, unknown]
}

async fn a_body_that_does_not_come() -> Answer {
    let (_server, client) = start_with_accounts().await;
    let request = payment("alice", "bob", 1).to_string();
    let half = Bytes::from(request[..request.len() / 2].to_owned());
    let frames = futures::stream::iter([Ok::<_, Infallible>(hyper::body::Frame::data(half))]);
    let body = reqwest::Body::wrap(StreamBody::new(frames.chain(futures::stream::pending())));
    let slow = client.send_body(Method::POST, "/payments", &[JSON, ("idempotency-key", "k")], body).await;
    assert!(!client.pay("k", &payment("alice", "bob", 1)).await.is(201).is_replay(), "the key is free");
    slow.is_problem(408, "request_timeout")
}

async fn accounts_that_are_not_open() -> [Answer; 2] {
    let (_server, client) = start_with_accounts().await;
    client.post("/accounts/alice/freeze", &json!({"reason": "dispute"})).await.is(200);
    client.post("/accounts/bob/close", &json!({})).await.is(200);
    let frozen = client.pay("frozen", &payment("bank", "alice", 1)).await.is_problem(422, "account_frozen");
    let closed = client.pay("closed", &payment("bank", "bob", 1)).await.is_problem(422, "account_closed");
    for (key, to, first) in [("frozen", "alice", &frozen), ("closed", "bob", &closed)] {
        let again = client.pay(key, &payment("bank", to, 1)).await;
        assert!(again.is_replay() && again.body == first.body, "it is recorded: {}", again.text);
        let transaction =
            client.get(&format!("/transactions/{}", first.body["transaction_id"].as_str().unwrap())).await;
        assert_eq!(transaction.is(200).body["status"], "rejected");
    }
    [frozen, closed]
}

/// PostgreSQL refuses one payment for good, as it would with a privilege that is missing.
async fn an_append_that_is_refused() -> Answer {
    let (_server, client, url) = start_on_database().await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let poison = "ALTER TABLE events ADD CONSTRAINT poison CHECK (idempotency_key <> 'poison')";
    sqlx::query(poison).execute(&mut conn).await.unwrap();
    let request = payment("alice", "bob", 1);
    let refused = client.pay("poison", &request).await.is_problem(500, "internal_error");
    assert!(!refused.text.contains("constraint") && !refused.text.contains("events"), "{}", refused.text);
    sqlx::query("ALTER TABLE events DROP CONSTRAINT poison").execute(&mut conn).await.unwrap();
    assert!(!client.pay("poison", &request).await.is(201).is_replay(), "nothing was recorded");
    refused
}

async fn a_full_queue() -> Answer {
    let (server, client, url) = start_on_database().await;
    let full = FullQueue::begin(&server, &url).await;
    let refused = client.pay("k", &payment("alice", "bob", 1)).await.is_problem(503, "overloaded");
    full.end().await;
    refused
}

/// One payment is being written when the database dies, and another comes after that.
async fn a_database_that_goes_away() -> (Answer, Answer) {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR"})).await;
    let request = payment("bank", "alice", 1);

    let stall = Stall::begin(&url).await;
    let written = {
        let (client, request) = (client.clone(), request.clone());
        tokio::spawn(async move { client.pay("written", &request).await })
    };
    let mut conn = PgConnection::connect(&url).await.unwrap();
    eventually("its append waits for the claim", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%events%'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut conn).await.unwrap() > 0
    })
    .await;
    postgres.server().stop_immediate().await.unwrap();
    drop((stall, conn));
    eventually("the worker knows", async || client.get("//readyz").await.status == 503).await;
    let late = client.pay("late", &request).await.is_problem(503, "unavailable");
    let unknown = written.await.unwrap().is_problem(504, "outcome_unknown");
    for answer in [&late, &unknown] {
        assert_eq!(answer.header("retry-after"), Some("1"));
    }

    postgres.server().start().await.unwrap();
    eventually("it serves again", async || client.get("//readyz").await.status == 200).await;
    for key in ["late", "written"] {
        assert!(!client.pay(key, &request).await.is(201).is_replay(), "{key} was not recorded, and is now");
    }
    assert_eq!(client.posted("alice").await, "2");
    server.close().await;
    (late, unknown)
}
