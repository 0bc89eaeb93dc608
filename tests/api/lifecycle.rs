//! Starting, stopping, and clients that take their time.

use std::time::{Duration, Instant};

use steelyard::cluster::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, payment, start, start_with_accounts};
use crate::raw::{read_to_end, send};
use crate::support::{Postgres, Process, Server, eventually};

#[tokio::test]
async fn the_program_serves_and_stops_at_sigterm() {
    let url = Postgres::shared().await.database().await;
    let process = Process::spawn(&url, &[]).await;
    process.serves().await;
    Client::new(process.origin()).get("//readyz").await.is(200);
    assert!(process.terminate().await.success());
    // Its claims are free.
    let server = Server::start(&url).await;
    Client::new(&server.origin()).get("//readyz").await.is(200);
    server.close().await;
}

/// What comes before the body of a payment.
fn head_of_payment(key: &str, body_bytes: usize) -> String {
    format!(
        "POST /v1/ledgers/main/payments HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\ncontent-length: {body_bytes}\r\n\r\n",
    )
}

#[tokio::test]
async fn a_request_under_way_is_finished_when_the_server_stops() {
    let (server, client) = start_with_accounts().await;
    let address = server.address();
    let body = payment("alice", "bob", 7).to_string();
    let (first, rest) = body.split_at(10);
    let mut slow = send(address, head_of_payment("slow", body.len()) + first).await;
    // Answered after the slow one was accepted, on another connection.
    client.get("//livez").await.is(200);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let closing = tokio::spawn(server.close());
    eventually("nobody is let in", async || TcpStream::connect(address).await.is_err()).await;
    slow.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_to_end(slow).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(answer.contains(r#""amount":"7""#), "{answer}");
    closing.await.unwrap();
}

#[tokio::test]
async fn a_draining_worker_is_not_ready() {
    let (server, client) = start().await;
    server.app.worker.drain();
    // Longer than the session takes to look at its claims again.
    for _ in 0..10 {
        client.get("//readyz").await.is_problem(503, "unavailable");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.app.worker.status(), Status::Draining);
    server.close().await;
}

/// The trap: connections held open by clients that never finish a request's head.
#[tokio::test]
async fn slow_clients_are_cut_off() {
    let (server, _client) = start().await;
    let cut_off = async |sent: &str| {
        let stream = send(server.address(), sent).await;
        let began = Instant::now();
        let rest = tokio::time::timeout(Duration::from_secs(30), read_to_end(stream)).await;
        rest.unwrap_or_else(|_| panic!("{sent:?} holds a connection"));
        assert!(began.elapsed() < Duration::from_secs(13), "{sent:?}: {:?}", began.elapsed());
    };
    tokio::join!(
        cut_off("GET /livez HTTP/1.1\r\nhost: x\r\n"),
        cut_off("G"),
        // What HTTP/2 begins with.
        cut_off("PRI * HT"),
        cut_off(""),
    );
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_408_and_leaves_the_key_free() {
    let (server, client) = start_with_accounts().await;
    let head = client.head().await;
    let body = payment("alice", "bob", 7).to_string();
    let mut slow = send(server.address(), head_of_payment("slow", body.len())).await;
    let (mut slow_to_read, mut slow_to_write) = slow.split();
    let began = Instant::now();
    // It lives, and all the same it does not get on.
    let trickle = async {
        for byte in body.bytes().take(body.len() - 1) {
            if slow_to_write.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut answer = [0; 4096];
    let read = tokio::select! {
        read = slow_to_read.read(&mut answer) => read.unwrap(),
        () = trickle => panic!("it is not cut off"),
    };
    let waited = began.elapsed();
    assert!((19..30).contains(&waited.as_secs()), "{waited:?}");
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains(r#""code":"request_timeout""#), "{answer}");
    assert_eq!(client.head().await, head, "nothing was recorded");
    assert!(!client.pay("slow", &payment("alice", "bob", 7)).await.is(201).is_replay());
}

/// A database that accepts and says nothing, as one does that is far away or recovers.
#[tokio::test]
async fn while_it_starts_it_lives_and_is_not_ready() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let database = format!("postgres://x@{}/x?sslmode=disable", silent.local_addr().unwrap());
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_steelyard"))
        .args(["serve", "--listen", &address.to_string(), "--database-url", &database])
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let client = Client::new(&format!("http://{address}"));
    eventually("it lives", async || reqwest::get(format!("http://{address}/livez")).await.is_ok()).await;
    client.get("//livez").await.is(200);
    let not_ready = client.get("//readyz").await;
    assert_eq!(
        (not_ready.status, not_ready.body["detail"].as_str()),
        (503, Some("starting: waiting for the database"))
    );
    assert_eq!(not_ready.header("retry-after"), Some("1"));
    assert_eq!(client.pay("k", &payment("a", "b", 1)).await.status, 503);
    process.kill().await.unwrap();
}
