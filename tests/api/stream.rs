//! The log as server-sent events.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

use crate::client::{Client, payment, start_with_accounts};
use crate::contract::CONTRACT;
use crate::support::WAIT;

/// Reads a stream event by event.
struct Events {
    response: Response,
    buffer: String,
}

impl Events {
    async fn open(client: &Client, query: &str, headers: &[(&str, &str)]) -> Self {
        let response = client.open_stream(&format!("/events/stream{query}"), headers).await;
        assert_eq!(response.status(), 200);
        Self { response, buffer: String::new() }
    }

    /// The position and the event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(u64, Value)> {
        loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                // Without data it is a comment that keeps the connection alive.
                let Some(data) = field("data:") else { continue };
                let event: Value = serde_json::from_str(data).unwrap();
                CONTRACT.check_schema("Event", &event);
                assert_eq!(field("event:"), event["type"].as_str());
                return Some((field("id:").unwrap().parse().unwrap(), event));
            }
            let chunk = tokio::time::timeout(WAIT, self.response.chunk()).await.unwrap().unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_has_the_log_and_then_what_comes() {
    let (_server, client) = start_with_accounts().await;
    let mut events = Events::open(&client, "", &[]).await;
    let log = client.get("/events").await.is(200);
    for (expected, position) in log.data().iter().zip(1..) {
        assert_eq!(events.next().await.unwrap(), (position, expected.clone()));
    }
    for n in 5..25 {
        let paid = client.pay(&format!("k{n}"), &payment("alice", "bob", 1)).await.is(201);
        let (position, event) = events.next().await.unwrap();
        assert_eq!((position, &event["transaction_id"]), (n, &paid.body["id"]));
    }
}

#[tokio::test]
async fn a_stream_resumes_where_it_was_cut() {
    let (_server, client) = start_with_accounts().await;
    for n in 0..6 {
        client.pay(&format!("k{n}"), &payment("alice", "bob", 1)).await.is(201);
    }
    let mut first = Events::open(&client, "?after=2", &[]).await;
    assert_eq!(first.next().await.unwrap().0, 3);
    let last = first.next().await.unwrap().0.to_string();
    drop(first);
    // A browser repeats the first URL with its header: the header counts.
    let mut resumed = Events::open(&client, "?after=2", &[("last-event-id", &last)]).await;
    for position in 5..=10 {
        assert_eq!(resumed.next().await.unwrap().0, position);
    }
    for (query, headers) in
        [("?after=x", vec![]), ("?after=-1", vec![]), ("", vec![("last-event-id", "x")]), ("?x=1", vec![])]
    {
        let mut headers: Vec<(&str, &str)> = headers;
        headers.push(("accept", "text/event-stream"));
        let answer = client.send(reqwest::Method::GET, &format!("/events/stream{query}"), &headers, "").await;
        answer.is_problem(422, "validation_failed");
    }
    client.of_ledger("nowhere").get("/events/stream").await.is_problem(404, "ledger_not_found");
}

#[tokio::test]
async fn a_stream_ends_when_the_server_stops() {
    let (server, client) = start_with_accounts().await;
    let mut events = Events::open(&client, "", &[]).await;
    for _ in 0..4 {
        events.next().await.unwrap();
    }
    let closed = tokio::time::timeout(Duration::from_secs(20), server.close());
    let (closed, end) = tokio::join!(closed, events.next());
    assert!(end.is_none(), "the stream ends well");
    closed.expect("a stream does not hold the server open");
}
