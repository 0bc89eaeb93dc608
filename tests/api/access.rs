//! API keys: who is let in, as what, for how long.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use steelyard::clock::{Clock, IdSource, SystemClock};
use steelyard::cluster::Status;
use steelyard::http::router::routes;
use steelyard::store::Database;
use steelyard::store::api_keys::{self, NewKey, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use uuid::Uuid;

use crate::client::{Answer, Client, JSON, payment};
use crate::support::{Postgres, Process, Server, WAIT, eventually};

/// What is promised for making and for revoking a key.
const ACTS_WITHIN: Duration = Duration::from_secs(2);

/// The least role of every route; `None` is open to everybody. A new route
/// needs a row here, so that somebody has thought about it.
const ROUTES: &[(&str, &str, Option<Role>)] = &[
    ("get", "/v1/ledgers", Some(Role::Read)),
    ("put", "/v1/ledgers/{ledger}", Some(Role::Admin)),
    ("get", "/v1/ledgers/{ledger}/assets", Some(Role::Read)),
    ("put", "/v1/ledgers/{ledger}/assets/{code}", Some(Role::Admin)),
    ("get", "/v1/ledgers/{ledger}/accounts", Some(Role::Read)),
    ("post", "/v1/ledgers/{ledger}/accounts", Some(Role::Submit)),
    ("post", "/v1/ledgers/{ledger}/accounts/batch", Some(Role::Submit)),
    ("get", "/v1/ledgers/{ledger}/accounts/batch", Some(Role::Read)),
    ("patch", "/v1/ledgers/{ledger}/accounts/batch", Some(Role::Admin)),
    ("get", "/v1/ledgers/{ledger}/accounts/{code}", Some(Role::Read)),
    ("patch", "/v1/ledgers/{ledger}/accounts/{code}", Some(Role::Admin)),
    ("post", "/v1/ledgers/{ledger}/accounts/{code}/freeze", Some(Role::Admin)),
    ("post", "/v1/ledgers/{ledger}/accounts/{code}/unfreeze", Some(Role::Admin)),
    ("post", "/v1/ledgers/{ledger}/accounts/{code}/close", Some(Role::Admin)),
    ("post", "/v1/ledgers/{ledger}/accounts/{code}/reopen", Some(Role::Admin)),
    ("get", "/v1/ledgers/{ledger}/accounts/{code}/entries", Some(Role::Read)),
    ("get", "/v1/ledgers/{ledger}/accounts/{code}/statement", Some(Role::Read)),
    ("get", "/v1/ledgers/{ledger}/account-types", Some(Role::Read)),
    ("put", "/v1/ledgers/{ledger}/account-types/{prefix}", Some(Role::Admin)),
    ("delete", "/v1/ledgers/{ledger}/account-types/{prefix}", Some(Role::Admin)),
    ("get", "/v1/ledgers/{ledger}/velocity-limits", Some(Role::Read)),
    ("put", "/v1/ledgers/{ledger}/velocity-limits/{name}", Some(Role::Admin)),
    ("delete", "/v1/ledgers/{ledger}/velocity-limits/{name}", Some(Role::Admin)),
    ("get", "/v1/ledgers/{ledger}/periods", Some(Role::Read)),
    ("post", "/v1/ledgers/{ledger}/periods/close", Some(Role::Admin)),
    ("get", "/v1/ledgers/{ledger}/balances", Some(Role::Read)),
    ("get", "/v1/ledgers/{ledger}/trial-balance", Some(Role::Read)),
    ("post", "/v1/ledgers/{ledger}/payments", Some(Role::Submit)),
    ("post", "/v1/ledgers/{ledger}/payments/batch", Some(Role::Submit)),
    ("post", "/v1/ledgers/{ledger}/payments/{id}/capture", Some(Role::Submit)),
    ("post", "/v1/ledgers/{ledger}/payments/{id}/void", Some(Role::Submit)),
    ("post", "/v1/ledgers/{ledger}/import", Some(Role::Submit)),
    ("get", "/v1/ledgers/{ledger}/export/journal", Some(Role::Read)),
    ("get", "/v1/ledgers/{ledger}/export/statement", Some(Role::Read)),
    ("get", "/v1/ledgers/{ledger}/export/trial-balance", Some(Role::Read)),
    ("get", "/v1/ledgers/{ledger}/transactions", Some(Role::Read)),
    ("post", "/v1/ledgers/{ledger}/transactions", Some(Role::Submit)),
    ("post", "/v1/ledgers/{ledger}/transactions/batch", Some(Role::Submit)),
    ("get", "/v1/ledgers/{ledger}/transactions/{id}", Some(Role::Read)),
    ("post", "/v1/ledgers/{ledger}/transactions/{id}/reverse", Some(Role::Submit)),
    ("post", "/v1/ledgers/{ledger}/transactions/{id}/cancel", Some(Role::Submit)),
    ("get", "/v1/ledgers/{ledger}/events", Some(Role::Read)),
    ("get", "/v1/ledgers/{ledger}/events/stream", Some(Role::Read)),
    ("get", "/v1/cluster", Some(Role::Read)),
    ("get", "/livez", None),
    ("get", "/readyz", None),
    ("get", "/metrics", None),
    ("get", "/problems/{code}", None),
    ("get", "/openapi.json", None),
    ("get", "/docs", None),
    ("get", "/docs/rapidoc.js", None),
];

/// A key that was made.
struct Made {
    id: Uuid,
    key: String,
}

/// Makes a key as `steelyard keys create` does.
async fn make(url: &str, role: Role, ledger: Option<&str>, expires_in_s: Option<f64>) -> Made {
    let key = api_keys::generate().unwrap();
    let id = IdSource::new().next(SystemClock.now());
    let key_hash = api_keys::hash(&key).unwrap();
    let new = NewKey { key_id: id, name: "test", key_hash, role, ledger, expires_in_s };
    let mut conn = owner(url).await;
    api_keys::create(&mut conn, &new).await.unwrap().unwrap();
    conn.close().await.unwrap();
    Made { id, key }
}

async fn revoke(url: &str, key: &Made) {
    let mut conn = owner(url).await;
    api_keys::revoke(&mut conn, key.id).await.unwrap().unwrap();
    conn.close().await.unwrap();
}

async fn owner(url: &str) -> PgConnection {
    Database::new(url).unwrap().connect_owner().await.unwrap()
}

async fn new_database() -> String {
    Postgres::shared().await.database().await
}

/// A server on a database with a key of each role, and its clients: without a
/// key, and with one that reads, submits, administers.
async fn start_with_keys() -> (Server, String, Client, [Client; 3]) {
    let url = new_database().await;
    let mut keys = Vec::new();
    for role in Role::ALL {
        keys.push(make(&url, role, None, None).await.key);
    }
    let server = Server::start(&url).await;
    let stranger = Client::new(&server.origin());
    let clients = [0, 1, 2].map(|n| stranger.with_key(&keys[n]));
    (server, url, stranger, clients)
}

/// `unauthenticated` and `forbidden`, for the snapshot of all problems.
pub async fn refusals() -> [Answer; 2] {
    let (_server, _url, stranger, [reader, ..]) = start_with_keys().await;
    let forbidden = reader.post("/accounts", &json!({"code": "x", "asset": "EUR"})).await;
    [stranger.get("/accounts").await, forbidden]
}

/// Time until a request is answered so.
async fn until(client: &Client, path: &str, status: u16) -> Duration {
    let began = Instant::now();
    eventually(&format!("{path} answers {status}"), async || client.get(path).await.status == status).await;
    began.elapsed()
}

#[tokio::test]
async fn each_role_reaches_its_routes_and_no_other() {
    let listed: BTreeSet<_> = ROUTES.iter().map(|(method, path, _)| (*method, *path)).collect();
    let served: BTreeSet<_> = routes().iter().map(|route| (route.method, route.path)).collect();
    assert_eq!(listed, served, "every route has its role here");

    let (_server, _url, stranger, clients) = start_with_keys().await;
    for (method, path, needed) in ROUTES {
        let filled = path.replace("{ledger}", "main").replace("{code}", "x").replace("{id}", "x");
        let filled = filled.replace("{prefix}", "x").replace("{name}", "x");
        let callers = [(None, &stranger)].into_iter().chain(Role::ALL.into_iter().map(Some).zip(&clients));
        for (role, client) in callers {
            let what = format!("{method} {path} as {role:?}");
            let status = if path.ends_with("/stream") {
                client.open_stream(&format!("/{filled}"), &[]).await.status().as_u16()
            } else {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                client.send(method, &format!("/{filled}"), &[JSON, ("idempotency-key", "k")], "{}").await.status
            };
            match (needed, role) {
                (Some(_), None) => assert_eq!(status, 401, "{what}"),
                (Some(needed), Some(role)) if role < *needed => assert_eq!(status, 403, "{what}"),
                _ => assert!(status != 401 && status != 403, "{what}: {status}"),
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_says_what_to_do_and_records_nothing() {
    let (_server, _url, stranger, [reader, submitter, admin]) = start_with_keys().await;
    admin.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    admin.open(json!({"code": "alice", "asset": "EUR"})).await;
    let head = admin.head().await;
    let request = payment("bank", "alice", 5);
    let refused = stranger.pay("k", &request).await.is_problem(401, "unauthenticated");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    assert!(refused.body["detail"].as_str().unwrap().contains("Authorization: Bearer"));
    let refused = reader.pay("k", &request).await.is_problem(403, "forbidden");
    assert!(refused.body["detail"].as_str().unwrap().contains("submit"), "{}", refused.text);
    assert_eq!(refused.header("www-authenticate"), None);
    assert_eq!(admin.head().await, head);
    assert!(!submitter.pay("k", &request).await.is(201).is_replay(), "the key is free");

    // What is not there, and what does not take the method, is no secret.
    stranger.get("//nothing").await.is_problem(404, "not_found");
    stranger.send(Method::DELETE, "/accounts", &[], "").await.is_problem(405, "method_not_allowed");
    let head = reqwest::Client::builder().no_proxy().build().unwrap().head(stranger.url("/accounts")).send().await;
    assert_eq!(head.unwrap().status(), 401, "HEAD is guarded as GET is");
}

/// The trap: a floor that is only for admins to change, and that any key which pays gets below.
#[tokio::test]
async fn only_an_admin_forces_a_reversal() {
    let url = new_database().await;
    let server = Server::start(&url).await;
    let stranger = Client::new(&server.origin());
    stranger.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    stranger.open(json!({"code": "alice", "asset": "EUR"})).await;
    let reversible = async |client: &Client, key: &str| {
        let paid = client.pay(key, &payment("bank", "alice", 5)).await.is(201);
        client.pay(&format!("{key}-spent"), &payment("alice", "bank", 5)).await.is(201);
        format!("/transactions/{}/reverse", paid.body["id"].as_str().unwrap())
    };
    let open = reversible(&stranger, "open").await;
    stranger.post_with_key(&open, "r-open", json!({"force": true})).await.is(201);

    let [reader, submitter, admin] = {
        let mut keys = Vec::new();
        for role in Role::ALL {
            keys.push(make(&url, role, None, None).await.key);
        }
        [0, 1, 2].map(|n| stranger.with_key(&keys[n]))
    };
    until(&stranger, "/accounts/alice", 401).await;
    // The last that was made: all are known with it.
    until(&admin, "/accounts/alice", 200).await;
    submitter.pay("up", &payment("bank", "alice", 5)).await.is(201);
    let path = reversible(&submitter, "p").await;
    let head = admin.head().await;
    reader.post_with_key(&path, "r", json!({"force": true})).await.is_problem(403, "forbidden");
    let refused = submitter.post_with_key(&path, "r", json!({"force": true})).await.is_problem(403, "forbidden");
    assert!(refused.body["detail"].as_str().unwrap().contains("the role admin"), "{}", refused.text);
    let nowhere = "/transactions/x/reverse";
    submitter.post_with_key(nowhere, "r", json!({"force": true})).await.is_problem(403, "forbidden");
    submitter.post_with_key(&path, "r", json!({"force": 1})).await.is_problem(422, "validation_failed");
    assert_eq!(admin.head().await, head, "nothing is recorded");
    assert!(!admin.post_with_key(&path, "r", json!({"force": true})).await.is(201).is_replay(), "the key is free");
    // What was forced is told to who forces only; without force the route is for those who pay.
    submitter.post_with_key(&path, "r", json!({"force": true})).await.is_problem(403, "forbidden");
    submitter.pay("up-again", &payment("bank", "alice", 5)).await.is(201);
    let path = reversible(&submitter, "q").await;
    submitter.post_with_key(&path, "s", json!({"force": false})).await.is_problem(422, "insufficient_funds");
}

/// The trap: a client that sends a large batch first and reads then sees a broken
/// connection, tries again for ever, and never learns that its key has expired.
#[tokio::test]
async fn a_client_that_sends_much_is_told_why_it_is_refused() {
    let (server, ..) = start_with_keys().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let body = vec![b' '; 7 * 1024 * 1024];
    let head = format!(
        "POST /v1/ledgers/main/payments/batch HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in body.chunks(64 * 1024) {
        stream.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn credentials_that_are_none_are_401() {
    let (_server, url, stranger, _clients) = start_with_keys().await;
    let good = make(&url, Role::Read, None, None).await.key;
    let with = async |authorization: &str| {
        stranger.send(Method::GET, "//v1/ledgers", &[("authorization", authorization)], "").await
    };
    eventually("the new key is known", async || with(&format!("Bearer {good}")).await.status == 200).await;
    for scheme in ["bearer", "BEARER", "Bearer "] {
        with(&format!("{scheme} {good}")).await.is(200);
    }
    for bad in [
        "",
        "Bearer",
        &good,
        &format!("Basic {good}"),
        &format!("Bearer {}", &good[..66]),
        &format!("Bearer {good}0"),
        &format!("Bearer {}", &good[3..]),
        &format!("Bearer {}", good.to_uppercase()),
        &format!("Bearer sy_{}", "0".repeat(64)),
        &format!("Bearer {}", "x".repeat(10_000)),
    ] {
        with(bad).await.is_problem(401, "unauthenticated");
    }
    let two = format!("Bearer {good}");
    let two = [("authorization", two.as_str()), ("authorization", two.as_str())];
    stranger.send(Method::GET, "//v1/ledgers", &two, "").await.is_problem(401, "unauthenticated");
    // In the query, where it would be logged by everything on the way, it counts for nothing.
    stranger.get(&format!("/accounts?access_token={good}")).await.is_problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_key_of_one_ledger_opens_no_other() {
    let url = new_database().await;
    let everything = make(&url, Role::Admin, None, None).await.key;
    let bound = make(&url, Role::Admin, Some("a/b"), None).await.key;
    let reading = make(&url, Role::Read, Some("a/b"), None).await.key;
    let server = Server::start(&url).await;
    let admin = Client::new(&server.origin()).with_key(&everything);
    admin.put("//v1/ledgers/a%2Fb", &json!({})).await.is(201);
    admin.open(json!({"code": "x", "asset": "EUR"})).await;

    let main = admin.with_key(&bound);
    let own = main.of_ledger("a%2Fb");
    own.open(json!({"code": "x", "asset": "EUR"})).await;
    own.get("/accounts/x").await.is(200);
    own.put("/assets/COIN", &json!({"scale": 1})).await.is(201);
    own.put("", &json!({})).await.is(200);
    // However it is written.
    admin.with_key(&reading).of_ledger("%61%2fb").get("/accounts/x").await.is(200);
    admin
        .with_key(&reading)
        .of_ledger("a%2Fb")
        .put("/assets/COIN", &json!({"scale": 1}))
        .await
        .is_problem(403, "forbidden");
    for path in ["/accounts/x", "/accounts", "/events", "/assets", "//v1/ledgers", "//v1/cluster"] {
        let refused = main.get(path).await.is_problem(403, "forbidden");
        assert!(refused.body["detail"].as_str().unwrap().contains("the ledger a/b"), "{}", refused.text);
    }
    main.post("/accounts", &json!({"code": "y", "asset": "EUR"})).await.is_problem(403, "forbidden");
    main.put("//v1/ledgers/new", &json!({})).await.is_problem(403, "forbidden");
    // Whether a ledger is there is not told either; nor do names that are none slip through.
    for elsewhere in ["nowhere", "a", "a%2Fb%2F", "A%2FB", "%FF", "a%2Fb%00"] {
        main.of_ledger(elsewhere).get("/accounts/x").await.is_problem(403, "forbidden");
    }
}

#[tokio::test]
async fn a_key_ends_when_it_expires() {
    let url = new_database().await;
    let server = Server::start(&url).await;
    let lasting = make(&url, Role::Read, None, None).await.key;
    let began = Instant::now();
    let passing = make(&url, Role::Read, None, Some(3.0)).await.key;
    let lasting = Client::new(&server.origin()).with_key(&lasting);
    let passing = lasting.with_key(&passing);
    until(&passing, "//v1/ledgers", 200).await;
    until(&passing, "//v1/ledgers", 401).await;
    let lived = began.elapsed();
    assert!(lived > Duration::from_millis(2_900) && lived < Duration::from_secs(3) + ACTS_WITHIN, "{lived:?}");
    passing.get("//v1/ledgers").await.is_problem(401, "unauthenticated");
    lasting.get("//v1/ledgers").await.is(200);
}

#[tokio::test]
async fn making_and_revoking_a_key_acts_on_every_worker_within_two_seconds() {
    let url = new_database().await;
    make(&url, Role::Read, None, None).await;
    let serving = Server::start(&url).await;
    let replica = Server::join(&url).await;
    replica.reaches(&Status::Serving).await;
    let key = make(&url, Role::Read, None, None).await;
    let clients = [&serving, &replica].map(|server| Client::new(&server.origin()).with_key(&key.key));
    for (status, change) in [(200, "making"), (401, "revoking")] {
        if status == 401 {
            revoke(&url, &key).await;
        }
        let [one, other] = &clients;
        let (one, other) = tokio::join!(until(one, "//v1/ledgers", status), until(other, "//v1/ledgers", status));
        assert!(one.max(other) < ACTS_WITHIN, "{change} took {one:?} and {other:?}");
    }
    // Revoking once more is fine, and changes nothing.
    revoke(&url, &key).await;
    replica.close().await;
    serving.close().await;
}

#[tokio::test]
async fn an_outage_of_the_database_calls_no_good_key_bad() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let key = make(&url, Role::Read, None, None).await;
    let server = Server::start(&url).await;
    let stranger = Client::new(&server.origin());
    let client = stranger.with_key(&key.key);
    client.get("//v1/ledgers").await.is(200);
    postgres.server().stop_immediate().await.unwrap();
    for _ in 0..5 {
        client.get("//v1/cluster").await.is_problem(503, "unavailable");
        stranger.get("//v1/cluster").await.is_problem(401, "unauthenticated");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    postgres.server().start().await.unwrap();
    until(&client, "//v1/ledgers", 200).await;
    // The keys are read again.
    revoke(&url, &key).await;
    until(&client, "//v1/ledgers", 401).await;
    server.close().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_key() {
    let (_server, url, stranger, [reader, _, admin]) = start_with_keys().await;
    let key = make(&url, Role::Read, None, None).await;
    let passing = stranger.with_key(&key.key);
    until(&passing, "//v1/ledgers", 200).await;
    let mut ending = passing.open_stream("/events/stream?after=0", &[]).await;
    let mut lasting = reader.open_stream("/events/stream?after=0", &[]).await;
    admin.open(json!({"code": "x", "asset": "EUR"})).await;
    for stream in [&mut ending, &mut lasting] {
        assert!(stream.chunk().await.unwrap().is_some());
    }
    revoke(&url, &key).await;
    let began = Instant::now();
    let ended = tokio::time::timeout(WAIT, async { while ending.chunk().await.unwrap().is_some() {} }).await;
    assert!(ended.is_ok() && began.elapsed() < ACTS_WITHIN + Duration::from_secs(1), "{:?}", began.elapsed());
    admin.open(json!({"code": "y", "asset": "EUR"})).await;
    assert!(lasting.chunk().await.unwrap().is_some(), "the other goes on");
}

#[tokio::test]
async fn a_server_of_this_machine_is_open_until_the_first_key_and_never_again() {
    let url = new_database().await;
    let server = Server::start(&url).await;
    let stranger = Client::new(&server.origin());
    assert_eq!(stranger.get("//readyz").await.is(200).body, json!({"status": "ready"}));
    stranger.get("//v1/ledgers").await.is(200);
    // Something in the header does not matter to a server that does not ask.
    stranger.with_key("anything").get("//v1/ledgers").await.is(200);
    let mut stream = stranger.open_stream("/events/stream", &[]).await;
    let key = make(&url, Role::Read, None, None).await;
    assert!(until(&stranger, "//v1/ledgers", 401).await < ACTS_WITHIN);
    let ended = tokio::time::timeout(WAIT, async { while stream.chunk().await.unwrap().is_some() {} }).await;
    assert!(ended.is_ok(), "what was let in without a key ends");
    stranger.with_key(&key.key).get("//v1/ledgers").await.is(200);
    revoke(&url, &key).await;
    until(&stranger.with_key(&key.key), "//v1/ledgers", 401).await;
    stranger.get("//v1/ledgers").await.is_problem(401, "unauthenticated");
    server.close().await;
    let server = Server::start(&url).await;
    Client::new(&server.origin()).get("//v1/ledgers").await.is_problem(401, "unauthenticated");
}

/// `steelyard` with these arguments, on a database: its status, standard output and standard error.
async fn steelyard(url: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steelyard"));
    command.args(arguments).env("DATABASE_URL", url).env("NO_COLOR", "1").kill_on_drop(true);
    for name in ["STEELYARD_LISTEN", "STEELYARD_INSECURE", "STEELYARD_REQUIRE_KEYS", "STEELYARD_OPERATIONS_LISTEN"] {
        command.env_remove(name);
    }
    let output = tokio::time::timeout(WAIT, command.output()).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_server_beyond_this_machine_does_not_start_without_a_key() {
    let url = new_database().await;
    let refuses = async |arguments: &[&str], reason: &str| {
        let (status, _, log) = steelyard(&url, &[&["serve"], arguments].concat()).await;
        assert_eq!(status, Some(1), "{log}");
        assert!(log.contains(reason), "{log}");
        assert!(!log.contains("listening"), "{log}");
    };
    let beyond = ["--listen", "0.0.0.0:0"];
    refuses(&beyond, "steelyard keys create").await;
    refuses(&["--listen", "[::]:0"], "no usable API key").await;
    refuses(&["--listen", "0.0.0.0:0", "--require-keys"], "no usable API key").await;
    refuses(&["--listen", "127.0.0.1:0", "--require-keys", "--insecure"], "contradict").await;
    // A key that lets nobody in does not count.
    let key = make(&url, Role::Admin, None, None).await;
    revoke(&url, &key).await;
    refuses(&beyond, "no usable API key").await;

    let key = make(&url, Role::Admin, None, None).await;
    let process = Process::spawn(&url, &[("STEELYARD_LISTEN", "0.0.0.0:0")]).await;
    process.serves().await;
    let stranger = Client::new(process.origin());
    stranger.get("//v1/ledgers").await.is_problem(401, "unauthenticated");
    assert_eq!(stranger.get("//readyz").await.is(200).body, json!({"status": "ready"}));
    stranger.with_key(&key.key).get("//v1/ledgers").await.is(200);
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn a_server_may_ask_before_there_is_a_key() {
    let url = new_database().await;
    let process = Process::spawn(&url, &[("STEELYARD_REQUIRE_KEYS", "true")]).await;
    process.serves().await;
    let stranger = Client::new(process.origin());
    stranger.get("//v1/ledgers").await.is_problem(401, "unauthenticated");
    let key = make(&url, Role::Read, None, None).await.key;
    assert!(until(&stranger.with_key(&key), "//v1/ledgers", 200).await < ACTS_WITHIN);
    process.kill().await;
}

#[tokio::test]
async fn an_insecure_server_says_so() {
    let url = new_database().await;
    make(&url, Role::Read, None, None).await;
    let process = Process::spawn(&url, &[("STEELYARD_LISTEN", "0.0.0.0:0"), ("STEELYARD_INSECURE", "1")]).await;
    let warned = process.logs(|line| line["message"].as_str().is_some_and(|text| text.starts_with("insecure"))).await;
    assert_eq!(warned["level"], "WARN");
    process.serves().await;
    let stranger = Client::new(process.origin());
    assert_eq!(stranger.get("//readyz").await.is(200).body, json!({"status": "ready", "insecure": true}));
    stranger.open(json!({"code": "x", "asset": "EUR"})).await;
    process.kill().await;
}

#[tokio::test]
async fn operations_may_have_a_listener_of_their_own() {
    let url = new_database().await;
    let key = make(&url, Role::Read, None, None).await.key;
    let process = Process::spawn(&url, &[("STEELYARD_OPERATIONS_LISTEN", "127.0.0.1:0")]).await;
    let told = process.logs(|line| line["message"] == "health and metrics have an address of their own").await;
    process.serves().await;
    let apart = Client::new(&format!("http://{}", told["address"].as_str().unwrap()));
    let beside = Client::new(process.origin());
    apart.get("//metrics").await.is(200);
    for client in [&apart, &beside] {
        client.get("//livez").await.is(200);
        client.get("//readyz").await.is(200);
    }
    beside.get("//metrics").await.is_problem(404, "not_found");
    beside.with_key(&key).get("//metrics").await.is_problem(404, "not_found");
    for path in ["//v1/ledgers", "//v1/cluster", "//docs", "/accounts"] {
        let answer = reqwest::get(apart.url(path)).await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
    assert!(process.terminate().await.success());
}

#[tokio::test]
async fn the_use_of_a_key_is_noted_and_not_more_than_once_a_minute() {
    let url = new_database().await;
    let used = make(&url, Role::Read, None, None).await;
    let unused = make(&url, Role::Read, None, None).await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin()).with_key(&used.key);
    let mut conn = owner(&url).await;
    client.get("//v1/ledgers").await.is(200);
    let mut noted = None;
    eventually("the use is noted", async || {
        let rows = api_keys::list(&mut conn).await.unwrap();
        noted = rows.iter().find(|row| row.key_id == used.id).unwrap().last_used_at;
        noted.is_some()
    })
    .await;
    // Through two more readings of the keys.
    let again = make(&url, Role::Read, None, None).await;
    until(&client.with_key(&again.key), "//v1/ledgers", 200).await;
    client.get("//v1/ledgers").await.is(200);
    revoke(&url, &again).await;
    until(&client.with_key(&again.key), "//v1/ledgers", 401).await;
    let rows = api_keys::list(&mut conn).await.unwrap();
    let of = |id: Uuid| rows.iter().find(|row| row.key_id == id).unwrap();
    assert_eq!(of(used.id).last_used_at, noted);
    assert_eq!(of(unused.id).last_used_at, None);
    server.close().await;
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_on_the_command_line() {
    let url = new_database().await;
    let json = async |arguments: &[&str]| -> Value {
        let (status, out, err) = steelyard(&url, &[&["--json", "keys"], arguments].concat()).await;
        assert_eq!(status, Some(0), "{err}");
        serde_json::from_str(&out).unwrap()
    };
    let made = json(&["create", "--name", "shop", "--role", "submit", "--ledger", "main", "--expires-in", "30d"]).await;
    let key = made["key"].as_str().unwrap();
    assert!(key.len() == 67 && key.starts_with("sy_"));
    assert_eq!((&made["name"], &made["role"], &made["ledger"]), (&json!("shop"), &json!("submit"), &json!("main")));
    let (_, shown, _) = steelyard(&url, &["keys", "create", "--name", "me", "--role", "admin"]).await;
    let own = shown.lines().find_map(|line| line.strip_prefix("key ")).unwrap().trim();

    let process = Process::spawn(&url, &[]).await;
    process.serves().await;
    let client = Client::new(process.origin());
    client.with_key(key).open(json!({"code": "x", "asset": "EUR"})).await;
    client.with_key(key).get("//v1/ledgers").await.is_problem(403, "forbidden");
    client.with_key(own).put("//v1/ledgers/shop", &json!({})).await.is(201);
    // The commands that are clients send it.
    let url_of_server = ["--url", process.origin()];
    let (status, _, err) = steelyard(&url, &[&["account", "show", "x"], &url_of_server[..]].concat()).await;
    assert!(status == Some(1) && err.contains("STEELYARD_API_KEY"), "{err}");
    let (status, _, err) =
        steelyard(&url, &[&["account", "show", "x", "--api-key", key], &url_of_server[..]].concat()).await;
    assert_eq!(status, Some(0), "{err}");

    let listed = json(&["list"]).await;
    let text = listed.to_string();
    assert!(!text.contains(&key[3..]) && !text.contains("hash"), "{text}");
    assert_eq!(listed["data"][0]["id"], made["id"]);
    assert_eq!((&listed["data"][1]["name"], &listed["data"][1]["expires_at"]), (&json!("me"), &Value::Null));
    let id = made["id"].as_str().unwrap();
    let revoked = json(&["revoke", id]).await;
    assert_eq!(json(&["revoke", id]).await, revoked, "once more changes nothing");
    until(&client.with_key(key), "/accounts/x", 401).await;
    let (_, table, _) = steelyard(&url, &["keys", "list"]).await;
    let statuses: Vec<_> = table.lines().skip(1).map(|line| line.contains("revoked")).collect();
    assert_eq!(statuses, [true, false], "{table}");

    for (arguments, reason) in [
        (&["revoke", "01a205a2-4396-79f4-a3be-ea2cee9b6faa"][..], "no key"),
        (&["create", "--name", "x", "--role", "read", "--ledger", "nowhere"], "no ledger nowhere"),
    ] {
        let (status, _, err) = steelyard(&url, &[&["keys"], arguments].concat()).await;
        assert!(status == Some(1) && err.contains(reason), "{err}");
    }
    process.kill().await;
}

/// The trap: a log that is kept for years, by others, with what opens the ledger in it.
#[tokio::test]
async fn no_key_body_or_secret_is_ever_logged() {
    let url = new_database().await;
    let key = make(&url, Role::Admin, None, None).await.key;
    let wrong = api_keys::generate().unwrap();
    // Nobody asks for it on the socket.
    let url = url.replacen("@localhost", ":database-password@localhost", 1);
    assert!(url.contains("database-password"));
    let process = Process::spawn(&url, &[("RUST_LOG", "trace")]).await;
    process.serves().await;
    let log = process.log();
    let client = Client::new(process.origin()).with_key(&key);
    client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    client.open(json!({"code": "alice", "asset": "EUR", "metadata": {"name": "personal-metadata"}})).await;
    let mut request = payment("bank", "alice", 5);
    request["reference"] = json!("private-reference");
    request["description"] = json!("private-description");
    client.pay("k", &request).await.is(201);
    request["amount"] = json!("no-amount-at-all");
    client.pay("k2", &request).await.is(422);
    client.post_with_key("/payments", "k3", r#"{"broken-body"#).await.is(400);
    client.get("/accounts?prefix=alice").await.is(200);
    client.get("/transactions?reference=private-reference").await.is(200);
    client.with_key(&wrong).get("/accounts").await.is(401);
    let basic = [("authorization", "Basic dXNlcjpiYXNpYy1wYXNzd29yZA==")];
    client.send(Method::GET, "//v1/ledgers", &basic, "").await.is(401);
    over_http2(process.origin(), &key).await;
    assert!(process.terminate().await.success());

    // The log's end, however its last lines come.
    let mut log_ended = log.clone();
    while log_ended.changed().await.is_ok() {}
    let lines: Vec<String> = log.borrow().iter().map(Value::to_string).collect();
    assert!(lines.iter().any(|line| line.contains(r#""level":"TRACE""#)), "it was asked to log everything");
    let secrets = [
        &key[3..],
        &wrong[3..],
        "dXNlcjpiYXNpYy1wYXNzd29yZA",
        "database-password",
        "personal-metadata",
        "private-reference",
        "private-description",
        "no-amount-at-all",
        "broken-body",
    ];
    for secret in secrets {
        let found: Vec<_> = lines.iter().filter(|line| line.contains(secret)).take(3).collect();
        assert!(found.is_empty(), "{secret} is in the log: {found:#?}");
    }
}

/// One request with a key over HTTP/2, whose library logs on its own account.
async fn over_http2(origin: &str, key: &str) {
    let address = origin.strip_prefix("http://").unwrap();
    let io = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(format!("{origin}/v1/ledgers"))
        .header("authorization", format!("Bearer {key}"))
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn workers_can_make_no_key_and_analysts_see_none() {
    let url = new_database().await;
    make(&url, Role::Read, None, None).await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    for (role, statement, allowed) in [
        ("steelyard_serving", "SELECT key_hash FROM api_keys", true),
        ("steelyard_serving", "UPDATE api_keys SET last_used_at = now()", true),
        ("steelyard_serving", "UPDATE api_keys SET revoked_at = NULL", false),
        ("steelyard_serving", "UPDATE api_keys SET role = 'admin'", false),
        ("steelyard_serving", "DELETE FROM api_keys", false),
        (
            "steelyard_serving",
            "INSERT INTO api_keys (key_id, name, key_hash, role) VALUES (gen_random_uuid(), 'x', sha256('x'), 'admin')",
            false,
        ),
        ("steelyard_analyst", "SELECT name FROM api_keys", false),
    ] {
        let become_role = format!("SET ROLE {role}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(become_role)).execute(&mut conn).await.unwrap();
        let done = sqlx::raw_sql(statement).execute(&mut conn).await;
        let code = done.err().and_then(|error| error.as_database_error()?.code().map(String::from));
        assert_eq!(code, (!allowed).then(|| "42501".to_owned()), "{role}: {statement}");
    }
    conn.close().await.unwrap();
}
