//! What operators and load balancers ask, and the description itself.

use serde_json::json;
use steelyard::http::Code;

use crate::client::{Client, payment, start, start_with_accounts};
use crate::contract::CONTRACT;
use crate::support::{Postgres, Process, Server, eventually};

#[tokio::test]
async fn a_serving_worker_is_alive_and_ready() {
    let (_server, client) = start().await;
    assert_eq!(client.get("//livez").await.is(200).body["status"], "alive");
    assert_eq!(client.get("//readyz").await.is(200).body["status"], "ready");
}

#[tokio::test]
async fn the_cluster_shows_who_does_what() {
    let (_server, client) = start_with_accounts().await;
    client.pay("k", &payment("alice", "bob", 1)).await.is(201);
    let head = client.head().await;
    // A strong read, so that every shard has got there.
    client.get("/accounts").await.is(200);
    let cluster = client.get("//v1/cluster").await.is(200).body;
    let worker = &cluster["workers"][0];
    assert_eq!(cluster["workers"].as_array().unwrap().len(), 1);
    assert_eq!(worker["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(worker["draining"], false);
    assert_eq!(worker["shards"], json!(["0-63"]));
    let nothing = json!({"ledgers": [], "shards": []});
    assert_eq!((&worker["live"], &worker["writes_fenced"]), (&json!(true), &json!(0)));
    assert_eq!((&worker["denied"], &cluster["unowned"], &cluster["moves"]), (&nothing, &nothing, &json!([])));
    assert_eq!((&cluster["ledgers"][0]["ledger"], &cluster["ledgers"][0]["head"]), (&"main".into(), &head.into()));
    assert_eq!(cluster["ledgers"][0]["worker_id"], worker["worker_id"]);
    let shards = cluster["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 64);
    assert!(shards.iter().all(|shard| shard["worker_id"] == worker["worker_id"] && shard["epoch"] == 1));
    assert!(shards.iter().all(|shard| shard["checkpoints"][0]["lag"].is_u64()));
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let (_server, client) = start_with_accounts().await;
    let metrics = client.get("//metrics").await.is(200);
    for name in ["steelyard_log_head", "steelyard_http_requests_total", "steelyard_queue_depth"] {
        assert!(metrics.text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

/// The trap: labels that clients choose make a metric grow without end.
#[tokio::test]
async fn no_client_chooses_a_label() {
    let (_server, client) = start().await;
    let method = reqwest::Method::from_bytes(b"MADE-UP").unwrap();
    client.send(method, "//livez", &[], "").await.is_problem(405, "method_not_allowed");
    client.get("//made-up/path").await.is(404);
    let metrics = client.get("//metrics").await.is(200);
    assert!(!metrics.text.contains("MADE-UP") && !metrics.text.contains("made-up"));
    assert!(metrics.text.contains(r#"method="other""#));
}

#[tokio::test]
async fn every_problem_has_its_page() {
    let (_server, client) = start().await;
    for code in Code::ALL {
        let page = client.get(&format!("//problems/{}", code.as_str())).await.is(200);
        assert!(page.text.contains(code.title()) && page.text.contains(code.remedy()), "{}", code.as_str());
    }
    client.get("//problems/no_such_problem").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn the_description_is_served_and_shown_offline() {
    let (_server, client) = start().await;
    assert_eq!(client.get("//openapi.json").await.is(200).body, CONTRACT.document);
    let page = client.get("//docs").await.is(200);
    assert!(page.text.contains(r#"load-fonts="false""#) && !page.text.contains("://"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'; script-src 'self'"));
    let script = client.get("//docs/rapidoc.js").await.is(200);
    assert!(script.text.contains("rapi-doc"));
}

/// What keeps the description true: each method that it does not name is 405.
#[tokio::test]
async fn methods_that_are_not_described_are_405() {
    let (_server, client) = start().await;
    let paths = CONTRACT.document["paths"].as_object().unwrap();
    for (template, operations) in paths {
        let path = template.replace("{ledger}", "main").replace("{code}", "x").replace("{id}", "x");
        let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let mut allowed: Vec<&str> =
            methods.into_iter().filter(|m| operations.get(m.to_lowercase()).is_some()).collect();
        if allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        allowed.sort_unstable();
        for method in methods.into_iter().filter(|method| !allowed.contains(method)) {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            let answer = client.send(method, &format!("/{path}"), &[], "").await;
            let answer = answer.is_problem(405, "method_not_allowed");
            let mut found: Vec<&str> = answer.header("allow").unwrap().split(',').map(str::trim).collect();
            found.sort_unstable();
            assert_eq!(found, allowed, "{path}");
        }
    }
}

/// The value of a metric without or with labels, as it is scraped.
async fn metric(client: &Client, name: &str) -> Option<u64> {
    let metrics = client.get("//metrics").await.is(200);
    metrics.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn a_replay_is_the_same_request_again() {
    let process = Process::spawn(&Postgres::shared().await.database().await, &[]).await;
    process.serves().await;
    let client = Client::new(process.origin());
    client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR"})).await;
    let replays = async || metric(&client, "steelyard_idempotent_replays_total").await;
    client.pay("k", &payment("bank", "alice", 1)).await.is(201);
    assert_eq!(replays().await, Some(0));
    client.pay("k", &payment("bank", "alice", 2)).await.is_problem(422, "idempotency_key_reused");
    assert_eq!(replays().await, Some(0));
    client.pay("k", &payment("bank", "alice", 1)).await.is(201);
    assert_eq!(replays().await, Some(1));
    let item = |key: &str, amount: u64| {
        let mut item = payment("bank", "alice", amount);
        item["idempotency_key"] = json!(key);
        item
    };
    let first = json!({"payments": [item("a", 1), item("b", 1)]});
    client.post("/payments/batch", &first).await.is(200);
    let again = json!({"payments": [item("a", 1), item("b", 2), item("c", 1), item("c", 1)]});
    client.post("/payments/batch", &again).await.is(200);
    assert_eq!(replays().await, Some(3), "one that is old, and one that is twice in the batch");
    process.kill().await;
}

#[tokio::test]
async fn every_ledger_has_its_head_as_a_metric_on_every_worker() {
    let url = Postgres::shared().await.database().await;
    let process = Process::spawn(&url, &[]).await;
    process.serves().await;
    let client = Client::new(process.origin());
    let heads = async |client: &Client| {
        let head = async |ledger: &str| metric(client, &format!(r#"steelyard_log_head{{ledger="{ledger}"}}"#)).await;
        (head("main").await, head("second").await)
    };
    assert_eq!(heads(&client).await, (Some(0), None));
    client.put("//v1/ledgers/second", &json!({})).await.is(201);
    client.open(json!({"code": "bank", "asset": "EUR"})).await;
    assert_eq!(heads(&client).await, (Some(1), Some(0)));
    let other = Process::spawn(&url, &[]).await;
    other.serves().await;
    assert_eq!(heads(&Client::new(other.origin())).await, (Some(1), Some(0)));
    other.kill().await;
    process.kill().await;
}

/// The trap: what a library says about the database, in an answer that anyone may ask for.
#[tokio::test]
async fn a_worker_without_a_database_says_no_more_than_that() {
    let postgres = Postgres::start().await;
    let server = Server::start(&postgres.database().await).await;
    let client = Client::new(&server.origin());
    postgres.server().stop_immediate().await.unwrap();
    eventually("it says that there is no database", async || {
        let answer = client.get("//readyz").await;
        let detail = answer.body["detail"].as_str().unwrap_or("ready");
        assert!(
            ["ready", "starting: claims are being won back", "starting: no database"].contains(&detail),
            "{detail}"
        );
        detail == "starting: no database"
    })
    .await;
    client.get("//livez").await.is(200);
    client.get("//metrics").await.is(200);
    postgres.server().start().await.unwrap();
    eventually("it serves again", async || client.get("//readyz").await.status == 200).await;
}
