//! How fast searches are over HTTP in a long log. Run in release, alone; every
//! million of payments takes some 1.2 GB of disk and half a minute to write.
//!
//! ```text
//! STEELYARD_SPEED_EVENTS=10000000 cargo test --release --test projection -- --ignored --nocapture speed_of_searches
//! ```

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::fixture::Scratch;
use crate::support::Server;

const ACCOUNTS: u64 = 10_000;
/// Payments written at a time.
const PART: u64 = 1_000_000;
/// Searches of each kind, one after the other on one connection.
const SEARCHES: usize = 1_000;
/// What a search by reference or metadata may take.
const P99_MAX: Duration = Duration::from_millis(20);

fn payments() -> u64 {
    std::env::var("STEELYARD_SPEED_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(PART)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; for measuring"]
async fn speed_of_searches() {
    let (scratch, payments) = (Scratch::empty().await, payments());
    let start = fill(&scratch, payments).await;
    if payments <= PART {
        scratch.verify().await.unwrap();
    }
    let server = Server::start(scratch.url()).await;
    let url = format!("{}/v1/ledgers/main/transactions", server.origin());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut random = SmallRng::seed_from_u64(7);
    let at = |n: u64| {
        let time: DateTime<Utc> = start + chrono::Duration::microseconds(10 * n as i64);
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    };
    type Query<'a> = Box<dyn FnMut() -> String + 'a>;
    let random = std::cell::RefCell::new(&mut random);
    let any = |end: u64| random.borrow_mut().random_range(0..end);
    let kinds: [(&str, bool, Query<'_>); 7] = [
        ("reference", true, Box::new(|| format!("reference=r-{}", any(payments / 2)))),
        ("metadata", true, Box::new(|| format!("metadata[order]=o-{}", any(payments / 3)))),
        (
            "both",
            true,
            Box::new(|| {
                let n = any(payments);
                format!("reference=r-{}&metadata[order]=o-{}", n / 2, n / 3)
            }),
        ),
        (
            "metadata of every tenth, 100 from anywhere",
            false,
            Box::new(|| format!("metadata[channel]=web&after=p{}", ACCOUNTS + any(payments))),
        ),
        (
            "account, 100 from anywhere",
            false,
            Box::new(|| format!("account=w:{}&after=p{}", any(ACCOUNTS), ACCOUNTS + any(payments))),
        ),
        (
            "a second, the newest first",
            false,
            Box::new(|| {
                let n = any(payments);
                format!("from={}&to={}&order=desc", at(n), at(n + 100_000))
            }),
        ),
        ("an amount that is not there", false, Box::new(|| "min_amount=777".to_owned())),
    ];
    for (name, is_bounded, mut query) in kinds {
        let searches = if name.starts_with("an amount") { SEARCHES / 50 } else { SEARCHES };
        let mut times = Vec::with_capacity(searches);
        for _ in 0..searches {
            let query = query();
            let began = Instant::now();
            let body: Value = http.get(format!("{url}?{query}")).send().await.unwrap().json().await.unwrap();
            times.push(began.elapsed());
            let found = body["data"].as_array().unwrap_or_else(|| panic!("{query}: {body}"));
            assert!(!is_bounded || (1..=3).contains(&found.len()), "{query}: {body}");
        }
        times.sort_unstable();
        let (p50, p99) = (times[searches / 2], times[searches * 99 / 100]);
        println!("{name}, {payments} payments: p50 {p50:.2?}, p99 {p99:.2?}");
        assert!(cfg!(debug_assertions) || !is_bounded || p99 < P99_MAX, "{name}: {p99:?}");
    }
    server.close().await;
}

/// Accounts from the API, so that they are where they belong, and payments by SQL.
/// Answers when the first was recorded.
async fn fill(scratch: &Scratch, payments: u64) -> DateTime<Utc> {
    let server = Server::start(scratch.url()).await;
    let accounts: Vec<Value> =
        (0..ACCOUNTS).map(|n| json!({"code": format!("w:{n}"), "asset": "EUR", "min_balance": null})).collect();
    let url = format!("{}/v1/ledgers/main/accounts/batch", server.origin());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let opened = http.post(url).json(&json!({"accounts": accounts})).send().await.unwrap();
    assert_eq!(opened.status(), 200);
    server.close().await;
    let mut conn = scratch.connect().await;
    let mut first = 0;
    while first < payments {
        let last = payments.min(first + PART) - 1;
        let part = include_str!("search_speed.sql")
            .replace("$accounts", &ACCOUNTS.to_string())
            .replace("$base", &ACCOUNTS.to_string())
            .replace("$first", &first.to_string())
            .replace("$last", &last.to_string());
        sqlx::raw_sql(AssertSqlSafe(part)).execute(&mut conn).await.unwrap();
        first = last + 1;
    }
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut conn).await.unwrap();
    let start = format!("SELECT recorded_at FROM events WHERE ledger_id = 1 AND position = {}", ACCOUNTS + 1);
    sqlx::query_scalar(AssertSqlSafe(start)).fetch_one(&mut conn).await.unwrap()
}
