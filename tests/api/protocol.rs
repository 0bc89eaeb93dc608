//! What holds for every route: ids, sizes, types, methods, encodings.

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{JSON, payment, start, start_with_accounts};
use crate::raw;
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
    // `batch` is a route of POST too.
    for path in ["/accounts/batch", "/accounts/%62atch", "/accounts/batch?consistency=strong"] {
        assert_eq!(client.get(path).await.is(200).body["code"], "batch", "{path}");
    }
    assert!(client.get("/accounts/batch/entries").await.is(200).data().is_empty());
    client.get("/accounts/batch?x=1").await.is_problem(422, "validation_failed").at("/query/x");
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

/// The trap: an answer that is kept back because the next request has begun.
#[tokio::test]
async fn an_answer_does_not_wait_for_the_next_request() {
    let (server, _client) = start().await;
    let request = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = raw::send(server.address(), format!("{request}GET /liv")).await;
    let answer = raw::read_answer(&mut stream);
    // Well before the second request is cut off for being slow.
    let answer = tokio::time::timeout(std::time::Duration::from_secs(5), answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.write_all(b"ez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = raw::read_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Requests that come together are answered in order.
    let mut stream = raw::send(server.address(), request.replace("/livez", "/nothing") + request).await;
    let (mut answers, both) = (String::new(), |text: &str| text.matches("HTTP/1.1 ").count() == 2);
    while !both(&answers) {
        answers += &raw::read_answer(&mut stream).await;
    }
    let (first, second) = (answers.find("HTTP/1.1 404").unwrap(), answers.find("HTTP/1.1 200").unwrap());
    assert!(first < second, "{answers}");
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let (_server, client) = start_with_accounts().await;
    client.pay("k", &payment("alice", "bob", 1)).await.is(201);
    for (path, status) in [
        ("//livez", 200),
        ("//readyz", 200),
        ("//openapi.json", 200),
        ("//v1/ledgers", 200),
        ("//v1/cluster", 200),
        ("/accounts", 200),
        ("/accounts/alice", 200),
        ("/accounts/alice/entries", 200),
        ("/transactions", 200),
        ("/events", 200),
        ("/assets", 200),
        ("/accounts/nobody", 404),
        ("/accounts/batch", 404),
        ("/accounts?limit=0", 422),
        ("//nothing", 404),
        ("/payments", 405),
    ] {
        let get = client.get(path).await.is(status);
        let head = client.send(Method::HEAD, path, &[], "").await.is(status);
        assert!(head.text.is_empty(), "{path}: {}", head.text);
        for name in ["content-type", "ledger-position", "allow"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
        if let Some(length) = head.header("content-length").filter(|_| !path.starts_with("//v1/cluster")) {
            assert_eq!(length, get.text.len().to_string(), "{path}");
        }
    }
    // A stream has no end that could be waited for.
    let stream = client.send(Method::HEAD, "/events/stream", &[], "").await.is(200);
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_the_server_goes_on() {
    let (server, client) = start_with_accounts().await;
    let head = client.head().await;
    let get = |rest: &str| format!("GET /livez HTTP/1.1\r\nhost: x\r\n{rest}\r\n").into_bytes();
    let post = |rest: &str| {
        let headers = "host: x\r\ncontent-type: application/json\r\nidempotency-key: k\r\n";
        format!("POST /v1/ledgers/main/payments HTTP/1.1\r\n{headers}{rest}").into_bytes()
    };
    let long = |bytes| "x".repeat(bytes);
    for (what, sent, status) in [
        ("no request", b"GARBAGE\r\n\r\n".to_vec(), "400"),
        ("no version", b"GET /livez\r\n\r\n".to_vec(), "400"),
        ("another version", b"GET /livez HTTP/9.9\r\nhost: x\r\n\r\n".to_vec(), "400"),
        ("no method", b" /livez HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), "400"),
        ("no path", b"GET  HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), "400"),
        ("a space in the path", b"GET /li vez HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), "400"),
        ("binary", (0..=255).chain(*b"\r\n\r\n").collect(), "400"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), "400"),
        ("a header without a colon", get("accept\r\n"), "400"),
        ("a header without a name", get(": x\r\n"), "400"),
        ("a space in a header's name", get("acc ept: x\r\n"), "400"),
        ("NUL in a header", get("accept: \0\r\n"), "400"),
        ("200 headers", get(&"a: b\r\n".repeat(200)), "431"),
        ("a header of 1 MB", get(&format!("a: {}\r\n", long(1_000_000))), "431"),
        ("a path of 100 KB", format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", long(100_000)).into_bytes(), "414"),
        ("a length that is none", post("content-length: ten\r\n\r\n{}"), "400"),
        ("a negative length", post("content-length: -1\r\n\r\n{}"), "400"),
        ("two lengths", post("content-length: 2\r\ncontent-length: 3\r\n\r\n{}"), "400"),
        ("a length that is no u64", post("content-length: 99999999999999999999\r\n\r\n{}"), "400"),
        ("an encoding that nobody knows", post("transfer-encoding: zip\r\n\r\n{}"), "400"),
        ("a chunk of no length", post("transfer-encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n"), "400"),
    ] {
        let answer = raw::read_to_end(raw::send(server.address(), sent).await).await;
        // What is cut off while it is sent may take the answer with it.
        if !(answer.is_empty() && (what.ends_with(" KB") || what.ends_with(" MB"))) {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer:?}");
            // Several answers would be several requests, one of them smuggled in.
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer:?}");
        }
        client.get("//livez").await.is(200);
    }
    assert_eq!(client.head().await, head, "nothing was recorded");
    assert!(client.get("/transactions?idempotency_key=k").await.is(200).data().is_empty());
}
