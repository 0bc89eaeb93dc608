//! What holds for every route: ids, sizes, types, methods, encodings.

use reqwest::Method;
use serde_json::json;

use crate::client::{JSON, payment, start, start_with_accounts};
use crate::support::Server;

#[tokio::test]
async fn a_request_id_is_repeated_or_made() {
    let (_server, client) = start().await;
    let longest = "r".repeat(128);
    for own in ["abc-123", &longest, "!~"] {
        let answer = client.send(Method::GET, "//livez", &[("x-request-id", own)], "").await.is(200);
        assert_eq!(answer.header("x-request-id"), Some(own));
    }
    let mut made = Vec::new();
    for unfit in ["", "a b", &"r".repeat(129)] {
        let answer = client.send(Method::GET, "//nothing", &[("x-request-id", unfit)], "").await.is(404);
        made.push(answer.header("x-request-id").unwrap().to_owned());
    }
    made.push(client.get("//livez").await.header("x-request-id").unwrap().to_owned());
    assert!(made.iter().all(|id| id.len() == 32), "{made:?}");
    made.dedup();
    assert_eq!(made.len(), 4, "each has its own");
}

#[tokio::test]
async fn unknown_routes_are_404() {
    let (_server, client) = start().await;
    for path in [
        "//",
        "//v1",
        "//v2/ledgers",
        "/nothing",
        "/accounts/a/b",
        "/accounts/",
        "//livez/",
        "/payments/x/y",
        "//favicon.ico",
    ] {
        client.get(path).await.is_problem(404, "not_found");
        client.post(path, &json!({})).await.is_problem(404, "not_found");
    }
}

#[tokio::test]
async fn other_content_types_are_415() {
    let (_server, client) = start_with_accounts().await;
    let body = payment("alice", "bob", 1).to_string();
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json", "application/problem+json"]
    {
        for path in ["/payments", "/payments/batch", "/accounts", "/accounts/batch"] {
            let headers = [("content-type", content_type), ("idempotency-key", "k")];
            let answer = client.send(Method::POST, path, &headers, body.clone()).await;
            answer.is_problem(415, "unsupported_media_type");
        }
        let answer = client.send(Method::PUT, "/assets/X", &[("content-type", content_type)], "{}").await;
        answer.is_problem(415, "unsupported_media_type");
    }
    let answer = client.send(Method::POST, "/payments", &[("idempotency-key", "k")], body.clone()).await;
    answer.is_problem(415, "unsupported_media_type");
    for (n, content_type) in
        ["application/json; charset=utf-8", "Application/JSON", " application/json ;x=y"].iter().enumerate()
    {
        let headers = [("content-type", *content_type), ("idempotency-key", &format!("ok{n}"))];
        client.send(Method::POST, "/payments", &headers, body.clone()).await.is(201);
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_413_and_the_connection_goes_on() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let filling = " ".repeat(10 * 1024 * 1024);
    let body = payment("alice", "bob", 1).to_string() + &filling;
    for path in ["/payments", "/payments/batch", "/accounts", "/accounts/batch"] {
        client.post_with_key(path, "k", body.clone()).await.is_problem(413, "body_too_large");
    }
    client.send(Method::PUT, "//v1/ledgers/x", &[JSON], filling).await.is_problem(413, "body_too_large");
    assert_eq!(client.head().await, head);
    let just_fits = payment("alice", "bob", 1).to_string() + &" ".repeat(8 * 1024 * 1024 - 100);
    client.post_with_key("/payments", "k", just_fits).await.is(201);
}

#[tokio::test]
async fn names_in_paths_are_percent_encoded() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "a/b", "asset": "EUR"})).await;
    client.open(json!({"code": "batch", "asset": "EUR"})).await;
    client.pay("k", &payment("alice", "a/b", 5)).await.is(201);
    for path in ["/accounts/a%2Fb", "/accounts/a%2fb", "/accounts/%61%2F%62"] {
        assert_eq!(client.get(path).await.is(200).body["code"], "a/b");
        assert_eq!(client.get(&format!("{path}/entries")).await.is(200).data().len(), 1);
    }
    client.get("/accounts/a/b").await.is_problem(404, "not_found");
    assert_eq!(client.get("/transactions?account=a%2Fb").await.is(200).data().len(), 1);
    assert_eq!(client.get("/accounts?prefix=a%2F").await.is(200).data().len(), 1);
    client.put("/assets/X%2FY", &json!({"scale": 0})).await.is(201);
    // `batch` is a route of POST; as an account it is encoded.
    assert_eq!(client.get("/accounts/%62atch").await.is(200).body["code"], "batch");
}

#[tokio::test]
async fn http_2_is_spoken_as_well() {
    let (server, _client): (Server, _) = start().await;
    let http2 = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(server.address()).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, http2).await;
    let (mut sender, connection) = handshake.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("{}/livez", server.origin()))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
    drop(sender);
    connection.await.unwrap().unwrap();
}
