//! The log, and what ties an answer to it.

use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::client::{Answer, Client, Stall};
use crate::support::{Postgres, Process};

async fn get(client: &Client, path: &str, id: &str) -> Answer {
    client.send(Method::GET, path, &[("x-request-id", id)], "").await
}

/// Waits for the line that says what was answered to the request, and gives its level.
async fn level(process: &Process, id: &str, status: u16, problem: &str) -> String {
    let line = process.logs(|line| is_of(line, id) && line["message"] == "answered with a problem").await;
    assert_eq!((&line["status"], &line["problem"]), (&status.into(), &problem.into()), "{line}");
    line["level"].as_str().unwrap().to_owned()
}

fn is_of(line: &Value, id: &str) -> bool {
    line["span"]["request_id"] == id
}

#[tokio::test]
async fn every_line_says_to_which_answer_it_belongs() {
    let url = Postgres::shared().await.database().await;
    let process = Process::spawn(&url, &[("RUST_LOG", "info,steelyard=debug")]).await;
    process.serves().await;
    let client = Client::new(process.origin());

    get(&client, "/accounts/nobody", "not-found").await.is_problem(404, "account_not_found");
    assert_eq!(level(&process, "not-found", 404, "account_not_found").await, "DEBUG");

    let stall = Stall::begin(&url).await;
    get(&client, "/accounts/nobody", "stalled").await.is_problem(503, "unavailable");
    stall.end().await;
    assert_eq!(level(&process, "stalled", 503, "unavailable").await, "INFO");

    let mut conn = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("ALTER TABLE idempotency_keys RENAME TO gone").execute(&mut conn).await.unwrap();
    let broken = "/transactions?idempotency_key=k&consistency=eventual";
    let answer = get(&client, broken, "broken").await.is_problem(500, "internal_error");
    assert!(!answer.text.contains("idempotency_keys"), "{}", answer.text);
    let line = process.logs(|line| is_of(line, "broken") && line["message"] == "a read failed").await;
    assert!(line["error"].as_str().unwrap().contains("idempotency_keys"), "the operator is told what is wrong");
    assert_eq!(level(&process, "broken", 500, "internal_error").await, "WARN");
    // One of ours, when the client has none that is fit.
    let answer = get(&client, broken, "a b").await;
    let made = answer.header("x-request-id").unwrap();
    assert_eq!(level(&process, made, 500, "internal_error").await, "WARN");
    process.kill().await;
}
