//! Starting, stopping, and clients that take their time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use steelyard::cluster::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, payment, start, start_with_accounts};
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

/// A request by hand, up to where `sent` says.
async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_request_under_way_is_finished_when_the_server_stops() {
    let (server, client) = start_with_accounts().await;
    let address = server.address();
    let body = payment("alice", "bob", 7).to_string();
    let (first, rest) = body.split_at(10);
    let head = format!(
        "POST /v1/ledgers/main/payments HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nidempotency-key: slow\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut slow = send(address, &format!("{head}{first}")).await;
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
