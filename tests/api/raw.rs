//! Requests by hand, for what no client would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::WAIT;

/// A new connection on which `sent` has been sent, or as much as was taken.
pub async fn send(address: SocketAddr, sent: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    _ = stream.write_all(sent.as_ref()).await;
    stream
}

/// Everything up to the end of the connection, however it ends.
pub async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    tokio::time::timeout(WAIT, stream.read_to_end(&mut text)).await.map_or_else(
        |_| panic!("the connection stays open after {:?}", String::from_utf8_lossy(&text)),
        |_| String::from_utf8_lossy(&text).into_owned(),
    )
}

/// One answer, by its `Content-Length`; the connection stays open.
pub async fn read_answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let answer = async {
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    return text;
                }
            }
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "the connection ended after {text:?}");
        }
    };
    tokio::time::timeout(WAIT, answer).await.expect("an answer")
}
