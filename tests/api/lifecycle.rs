//! Starting, standing by and stopping.

use crate::support::{Postgres, Process, Server};

#[tokio::test]
async fn a_server_and_a_process_serve_and_stop() {
    let url = Postgres::shared().await.database().await;
    let server = Server::start(&url).await;
    let answer = reqwest::get(format!("{}/readyz", server.origin())).await.unwrap();
    assert_eq!(answer.status(), 200);
    server.close().await;

    let process = Process::spawn(&url, &[]).await;
    process.serves().await;
    let answer = reqwest::get(format!("{}/readyz", process.origin())).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(process.terminate().await.success());
}
