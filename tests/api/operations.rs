//! What operators and load balancers ask, and the description itself.

use crate::client::{payment, start, start_with_accounts};
use crate::contract::CONTRACT;
use steelyard::http::Code;

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
