//! Balances as of a moment, the chart of accounts, the trial balance, statements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use smallvec::smallvec;
use steelyard::clock::{Clock, SystemClock};
use steelyard::ledger::{AccountCode, Amount, AssetCode, Command, TransactionRequest};
use steelyard::sequencer::{Item, Key, Work};
use steelyard::store::keys;

use crate::client::{Answer, Client, payment, start, start_with_accounts};
use crate::support::Server;

fn now() -> DateTime<Utc> {
    SystemClock.now()
}

fn days_ago(days: i64) -> DateTime<Utc> {
    now() - TimeDelta::days(days)
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A payment in EUR that became effective before it is recorded.
async fn back_date(server: &Server, key: &str, [from, to]: [&str; 2], amount: u64, effective_at: DateTime<Utc>) {
    let code = |text| AccountCode::new(text).unwrap();
    let asset = AssetCode::new("EUR").unwrap();
    let effective_at = DateTime::from_timestamp_micros(effective_at.timestamp_micros());
    let request = TransactionRequest {
        effective_at,
        reference: Some(Arc::from(key)),
        ..TransactionRequest::payment(code(from), code(to), Amount::from(amount), asset)
    };
    let key = Key { text: Arc::from(key), hash: keys::hash(key), fingerprint: [7; 16] };
    let work = Work::Each(smallvec![Item { command: Command::Transact(request), key: Some(key) }]);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let ledger = server.app.worker.ledgers.get("main").unwrap();
    ledger.handle.submit(work, deadline).await.unwrap();
}

async fn posted(client: &Client, path: &str) -> String {
    let account = client.get(path).await.is(200);
    account.body["balance"]["posted"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_balance_as_of_a_time_counts_what_is_back_dated() {
    let (server, client) = start_with_accounts().await;
    let early = client.pay("k1", &payment("alice", "bob", 100)).await.is(201);
    back_date(&server, "late news", ["alice", "bob"], 300, days_ago(10)).await;
    back_date(&server, "later news", ["bob", "alice"], 20, days_ago(5)).await;
    let as_of = |days: i64| format!("/accounts/bob?as_of={}", text(days_ago(days)));
    for (days, expected) in [(11, "0"), (9, "300"), (4, "280"), (0, "380")] {
        assert_eq!(posted(&client, &as_of(days)).await, expected, "{days} days ago");
    }
    // As it was known before the news.
    let then = format!("{}&as_of_position={}", as_of(9), early.position());
    assert_eq!(posted(&client, &then).await, "0");
    let then = format!("{}&as_of_position={}", as_of(0), early.position());
    assert_eq!(posted(&client, &then).await, "100");

    let account = client.get(&as_of(4)).await.is(200);
    assert!(account.position() >= 7);
    let present = client.get("/accounts/bob").await.is(200);
    for field in ["code", "asset", "normal", "status", "min_balance", "max_balance", "metadata", "shard", "opened_at"] {
        assert_eq!(account.body[field], present.body[field], "{field}");
    }
    let expected = json!({
        "posted": "280", "pending_in": "0", "pending_out": "0", "available": "280",
        "debits_posted": "20", "credits_posted": "300", "version": 0, "position": 3,
    });
    assert_eq!(account.body["balance"], expected);
    let exactly = early.body["effective_at"].as_str().unwrap();
    assert_eq!(posted(&client, &format!("/accounts/bob?as_of={exactly}")).await, "380");
    assert_eq!(posted(&client, &as_of(0)).await, client.posted("bob").await);
}

#[tokio::test]
async fn a_balance_as_of_a_position_is_what_it_was_after_it() {
    let (_server, client) = start_with_accounts().await;
    let mut expected = vec![(client.get("/accounts/alice").await.is(200).body["balance"].clone(), client.head().await)];
    for n in 1..=12_u64 {
        let (from, to) = if n % 3 == 0 { ("bob", "alice") } else { ("alice", "bob") };
        let paid = client.pay(&format!("k{n}"), &payment(from, to, n)).await.is(201);
        expected.push((client.get("/accounts/alice").await.is(200).body["balance"].clone(), paid.position()));
        client.open(json!({"code": format!("between:{n}"), "asset": "EUR"})).await;
        expected.push((expected[expected.len() - 1].0.clone(), client.head().await));
    }
    // What is reserved, captured in part, and given back.
    for (n, from, to) in [(1, "alice", "bob"), (2, "bob", "alice"), (3, "alice", "bank")] {
        let hold = json!({"capture": "manual", "from": from, "to": to, "amount": "9", "asset": "EUR"});
        let held = client.pay(&format!("h{n}"), &hold).await.is(201);
        let id = held.body["id"].as_str().unwrap();
        expected.push((client.get("/accounts/alice").await.is(200).body["balance"].clone(), held.position()));
        let part = json!({"amount": "2"});
        let done = client.post_with_key(&format!("/payments/{id}/capture"), &format!("c{n}"), part).await.is(201);
        expected.push((client.get("/accounts/alice").await.is(200).body["balance"].clone(), done.position()));
        if n != 2 {
            let done = client.post_with_key(&format!("/payments/{id}/void"), &format!("v{n}"), "{}").await;
            expected.push((client.get("/accounts/alice").await.is(200).body["balance"].clone(), done.position()));
        }
    }
    assert!(expected.iter().any(|(balance, _)| balance["pending_in"] == "7" && balance["pending_out"] == "7"));
    for (balance, position) in &expected {
        let account = client.get(&format!("/accounts/alice?as_of_position={position}")).await.is(200);
        assert_eq!(account.body["balance"], *balance, "as of {position}");
        assert!(account.position() >= *position);
        client.get(&format!("/accounts/alice?consistency=eventual&as_of_position={position}")).await.is(200);
    }
    // Not open yet.
    let late = client.get("/accounts/between:12?as_of_position=3").await.is_problem(404, "account_not_found");
    assert!(late.body["detail"].as_str().unwrap().contains("was opened at position"));
    client.open(json!({"code": "batch", "asset": "EUR"})).await;
    assert_eq!(posted(&client, &format!("/accounts/batch?as_of={}", text(now()))).await, "0");
}

#[tokio::test]
async fn moments_that_cannot_be_answered_are_refused() {
    let (_server, client) = start_with_accounts().await;
    let tomorrow = text(days_ago(-1));
    let lists = ["/accounts/bob", "/balances", "/trial-balance"];
    for list in lists {
        let refused = client.get(&format!("{list}?as_of={tomorrow}")).await;
        refused.is_problem(422, "validation_failed").at("/query/as_of");
        let no_times = ["2026-11-22T20:13:04", "2026-11-22T20:13:04+01:00", "1700000000", "2026-11-31", "2026-1-22"];
        for wrong in ["", "yesterday"].into_iter().chain(no_times) {
            let refused = client.get(&format!("{list}?as_of={wrong}")).await;
            refused.is_problem(422, "validation_failed").at("/query/as_of");
        }
        client.get(&format!("{list}?as_of=2026-11-22T20:13:04%2B01:00")).await.is(200);
        for wrong in ["", "-1", "x", "1.5", "99999999999999999999"] {
            client.get(&format!("{list}?as_of_position={wrong}")).await.is_problem(422, "validation_failed");
        }
    }
    // A date is its first moment.
    let account = client.get(&format!("/accounts/bob?as_of={}", now().format("%Y-%m-%d"))).await.is(200);
    assert_eq!(account.body["balance"]["version"], 0);
    let sums = client.get("/trial-balance?as_of=2026-11-22").await.is(200);
    assert_eq!(sums.body["as_of"], "2026-11-22T00:00:00.000000Z");
    let period = client.get("/accounts/bob/statement?from=2026-11-01&to=2026-12-01").await.is(200).body;
    let ends = [&period["from"], &period["to"]];
    assert_eq!(ends, ["2026-11-01T00:00:00.000000Z", "2026-12-01T00:00:00.000000Z"]);
    // Of a moment by another clock.
    client.get(&format!("/accounts/bob?as_of={}", text(now() + TimeDelta::seconds(20)))).await.is(200);
    client.get("/accounts/nobody?as_of_position=1").await.is_problem(404, "account_not_found");
    client.get(&format!("/accounts/nobody?as_of={}", text(now()))).await.is_problem(404, "account_not_found");
    client.get("/accounts/a%20b?as_of_position=1").await.is_problem(422, "validation_failed").at("/path/code");

    // Beyond the head: waited for, as `min_position` is.
    let beyond = client.head().await + 1;
    let began = Instant::now();
    let reads = lists.map(|list| {
        let client = client.clone();
        async move { client.get(&format!("{list}?as_of_position={beyond}")).await }
    });
    for answer in futures::future::join_all(reads).await {
        assert_eq!(answer.is_problem(504, "projection_behind").header("retry-after"), Some("1"));
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "it waits a second first");
    let (path, five) = (format!("/accounts/bob?as_of_position={beyond}"), payment("alice", "bob", 5));
    let (waited, _) = tokio::join!(client.get(&path), client.pay("k", &five));
    assert_eq!(waited.is(200).body["balance"]["posted"], "5");
}

/// A chart with two assets, and what is in it.
async fn chart(client: &Client) {
    for (code, asset, normal) in [
        ("assets:bank:one", "EUR", "debit"),
        ("assets:bank:two", "EUR", "debit"),
        ("assets:bank:usd", "USD", "debit"),
        ("assets:bankrupt", "EUR", "debit"),
        ("liabilities:alice", "EUR", "credit"),
        ("liabilities:usd", "USD", "credit"),
    ] {
        client.open(json!({"code": code, "asset": asset, "normal": normal, "min_balance": null})).await;
    }
    for (key, from, to, amount, asset) in [
        ("1", "assets:bank:one", "liabilities:alice", 100, "EUR"),
        ("2", "assets:bank:two", "liabilities:alice", 20, "EUR"),
        ("3", "assets:bankrupt", "assets:bank:one", 7, "EUR"),
        ("4", "assets:bank:usd", "liabilities:usd", 5, "USD"),
    ] {
        let body = json!({"from": from, "to": to, "amount": amount, "asset": asset});
        client.pay(key, &body).await.is(201);
    }
}

/// Path, asset, accounts and net debit of each sum.
fn sums(answer: &Answer) -> Vec<(String, String, u64, String)> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    let sum = |item: &Value| {
        (text(item, "path"), text(item, "asset"), item["accounts"].as_u64().unwrap(), text(item, "net_debit"))
    };
    answer.data().iter().map(sum).collect()
}

fn expected(sums: &[(&str, &str, u64, &str)]) -> Vec<(String, String, u64, String)> {
    let owned = |(path, asset, accounts, net): &(&str, &str, u64, &str)| {
        ((*path).to_owned(), (*asset).to_owned(), *accounts, (*net).to_owned())
    };
    sums.iter().map(owned).collect()
}

#[tokio::test]
async fn balances_are_summed_along_the_chart() {
    let (_server, client) = start().await;
    let empty = client.get("/balances").await.is(200);
    assert!(empty.data().is_empty() && empty.body["next"].is_null() && empty.body["position"] == 0);
    chart(&client).await;
    let head = client.head().await;
    let get = async |query: &str| {
        let answer = client.get(&format!("/balances{query}")).await.is(200);
        assert_eq!((answer.position(), &answer.body["position"]), (head, &json!(head)), "{query}");
        sums(&answer)
    };
    assert_eq!(get("").await, expected(&[("", "EUR", 4, "0"), ("", "USD", 2, "0")]));
    assert_eq!(get("?asset=USD").await, expected(&[("", "USD", 2, "0")]));
    let bank = expected(&[("assets:bank", "EUR", 2, "113"), ("assets:bank", "USD", 1, "5")]);
    assert_eq!(get("?prefix=assets:bank").await, bank, "and not the bankrupt one");
    assert_eq!(get("?prefix=assets:bank:one").await, expected(&[("assets:bank:one", "EUR", 1, "93")]));
    assert_eq!(get("?prefix=assets:ban").await, expected(&[]));
    let tree = [
        ("assets:bank", "EUR", 2, "113"),
        ("assets:bank", "USD", 1, "5"),
        ("assets:bankrupt", "EUR", 1, "7"),
        ("liabilities:alice", "EUR", 1, "-120"),
        ("liabilities:usd", "USD", 1, "-5"),
    ];
    assert_eq!(get("?depth=2").await, expected(&tree));
    assert_eq!(get("?depth=2&prefix=assets").await, expected(&tree[..3]));
    let mut paged = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.get(&format!("/balances?depth=2&limit=2{after}")).await.is(200);
        assert_eq!(page.body["position"], head, "all pages are as of one position");
        paged.extend(sums(&page));
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={}", next.replace(',', "%2C"));
        client
            .pay(next, &json!({"from": "assets:bankrupt", "to": "liabilities:alice", "amount": 1, "asset": "EUR"}))
            .await
            .is(201);
    }
    assert_eq!(paged, expected(&tree));
    let whole = client.get("/balances?prefix=assets:bank&asset=EUR").await.is(200);
    let sum = &whole.data()[0];
    assert_eq!((&sum["debits_posted"], &sum["credits_posted"]), (&json!("120"), &json!("7")));
    assert_eq!((&sum["debits_pending"], &sum["credits_pending"]), (&json!("0"), &json!("0")));
    let past = client.get(&format!("/balances?prefix=assets&asset=EUR&as_of_position={head}")).await.is(200);
    assert_eq!(sums(&past), expected(&[("assets", "EUR", 3, "120")]));
    assert!(past.data()[0]["debits_posted"].is_null(), "what balances are made of is not known of the past");
    assert_eq!(past.position(), head);
    let before = client.get(&format!("/balances?as_of={}", text(days_ago(1)))).await.is(200);
    assert_eq!(sums(&before), expected(&[("", "EUR", 4, "0"), ("", "USD", 2, "0")]));
    assert!(before.body["as_of"].is_string());

    for (query, pointer) in [
        ("prefix=a%20b", "/query/prefix"),
        ("asset=a%20b", "/query/asset"),
        ("depth=0", "/query/depth"),
        ("depth=129", "/query/depth"),
        ("depth=x", "/query/depth"),
        ("limit=0", "/query/limit"),
        ("after=t1,,,,,a", "/query/after"),
        ("after=b1", "/query/after"),
        ("after=b1,,,,EUR,%00", "/query/after"),
        ("after=b1,,,,EUR,a&as_of_position=2", "/query/after"),
        ("until=2", "/query/until"),
    ] {
        client.get(&format!("/balances?{query}")).await.is_problem(422, "validation_failed").at(pointer);
    }
}

#[tokio::test]
async fn the_trial_balance_is_of_one_position_and_sums_to_zero() {
    let (_server, client) = start().await;
    chart(&client).await;
    let head = client.head().await;
    let mut rows = Vec::new();
    let mut after = String::new();
    let mut pages = 0;
    loop {
        let page = client.get(&format!("/trial-balance?limit=2{after}")).await.is(200);
        assert_eq!((page.position(), &page.body["position"]), (head, &json!(head)));
        if pages == 0 {
            let expected = json!([
                {"asset": "EUR", "accounts": 4, "debit": "120", "credit": "120", "net_debit": "0"},
                {"asset": "USD", "accounts": 2, "debit": "5", "credit": "5", "net_debit": "0"},
            ]);
            assert_eq!(page.body["totals"], expected, "over all accounts, and not over the page");
        } else {
            assert!(page.body["totals"].is_null());
        }
        pages += 1;
        rows.extend(page.data().to_vec());
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={}", next.replace(',', "%2C"));
        client
            .pay(next, &json!({"from": "assets:bankrupt", "to": "liabilities:alice", "amount": 1, "asset": "EUR"}))
            .await
            .is(201);
        client.open(json!({"code": format!("more:{pages}"), "asset": "EUR"})).await;
    }
    assert_eq!(pages, 3);
    let expected = json!([
        {"account": "assets:bank:one", "asset": "EUR", "normal": "debit", "balance": "93", "debit": "93", "credit": "0"},
        {"account": "assets:bank:two", "asset": "EUR", "normal": "debit", "balance": "20", "debit": "20", "credit": "0"},
        {"account": "assets:bank:usd", "asset": "USD", "normal": "debit", "balance": "5", "debit": "5", "credit": "0"},
        {"account": "assets:bankrupt", "asset": "EUR", "normal": "debit", "balance": "7", "debit": "7", "credit": "0"},
        {"account": "liabilities:alice", "asset": "EUR", "normal": "credit", "balance": "120", "debit": "0", "credit": "120"},
        {"account": "liabilities:usd", "asset": "USD", "normal": "credit", "balance": "5", "debit": "0", "credit": "5"},
    ]);
    assert_eq!(Value::from(rows), expected);
    let past = client.get("/trial-balance?as_of_position=8").await.is(200);
    assert_eq!(past.body["totals"][0]["debit"], "120");
    assert_eq!(
        past.body["totals"][1],
        json!({"asset": "USD", "accounts": 2, "debit": "0", "credit": "0", "net_debit": "0"})
    );
    assert_eq!(client.get("/trial-balance?as_of_position=2").await.is(200).data().len(), 2);
    assert!(client.get("/trial-balance?as_of_position=0").await.is(200).data().is_empty());
    for after in ["x", "t", "t1", "b1,,,,,a", "t-1,,,,,a", "t99999999999999999999,,,,,a"] {
        client
            .get(&format!("/trial-balance?after={after}"))
            .await
            .is_problem(422, "validation_failed")
            .at("/query/after");
    }
}

#[tokio::test]
async fn pages_of_sums_are_all_of_one_moment_and_depth() {
    let (server, client) = start().await;
    chart(&client).await;
    back_date(&server, "old", ["assets:bank:one", "liabilities:alice"], 1_000, days_ago(10)).await;
    let (then, later) = (text(days_ago(5)), text(days_ago(1)));
    for (list, wrong) in [("/balances?depth=2&", "depth=1"), ("/trial-balance?", "as_of_position=1")] {
        let bare = list.replace("depth=2&", "");
        for of in [format!("as_of={then}&"), "as_of_position=11&".to_owned(), String::new()] {
            let whole = client.get(&format!("{list}{of}limit=1000")).await.is(200);
            let head = whole.position();
            let first = client.get(&format!("{list}{of}limit=2")).await.is(200);
            let after = first.body["next"].as_str().unwrap().replace(',', "%2C");
            client
                .pay(
                    &after,
                    &json!({"from": "assets:bankrupt", "to": "liabilities:alice", "amount": 1, "asset": "EUR"}),
                )
                .await
                .is(201);
            // What the cursor fixes may be said again or left out.
            for again in [format!("{list}{of}"), bare.clone(), format!("{bare}as_of_position={head}&")] {
                let rest = client.get(&format!("{again}after={after}")).await.is(200);
                let paged: Vec<Value> = first.data().iter().chain(rest.data()).cloned().collect();
                assert_eq!(paged, *whole.data(), "{list}{of} and {again}");
                assert_eq!((&rest.body["as_of"], rest.position()), (&whole.body["as_of"], head));
                back_date(&server, &again, ["assets:bank:two", "liabilities:alice"], 1, days_ago(10)).await;
            }
            for differs in [format!("as_of={later}"), wrong.to_owned(), format!("as_of_position={}", head + 1)] {
                let refused = client.get(&format!("{bare}{differs}&after={after}")).await;
                refused.is_problem(422, "validation_failed").at("/query/after");
            }
        }
    }
}

/// The statement over all pages of so many lines.
async fn statement(client: &Client, path: &str, limit: usize) -> (Vec<Value>, Value) {
    let mut lines = Vec::new();
    let mut after = String::new();
    let mut first: Option<Value> = None;
    loop {
        let page = client.get(&format!("{path}limit={limit}{after}")).await.is(200);
        assert!(page.data().len() <= limit);
        lines.extend(page.data().to_vec());
        let first = first.get_or_insert_with(|| page.body.clone());
        for field in ["from", "to", "opening_balance", "closing_balance"] {
            assert_eq!(page.body[field], first[field], "{field} is the same on all pages");
        }
        let Some(next) = page.body["next"].as_str() else { return (lines, first.clone()) };
        after = format!("&after={}", next.replace(',', "%2C"));
        client.pay(&format!("{next}{path}"), &payment("alice", "bob", 1)).await.is(201);
    }
}

fn amount(value: &Value) -> i128 {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn opening_balance_and_lines_are_the_closing_balance() {
    let (server, client) = start_with_accounts().await;
    back_date(&server, "old", ["bank", "bob"], 400, days_ago(100)).await;
    for n in 1..8 {
        client.pay(&format!("k{n}"), &payment("alice", "bob", n)).await.is(201);
        back_date(&server, &format!("b{n}"), ["bob", "alice"], 10 + n, days_ago(20 + n as i64 % 3)).await;
    }
    let (long_ago, recent) = (text(days_ago(50)), text(now() - TimeDelta::minutes(5)));
    for (query, opening) in [
        (format!("from={long_ago}&"), "400"),
        (format!("from={long_ago}&to={recent}&"), "400"),
        (format!("from={}&to={}&", text(days_ago(200)), text(days_ago(60))), "0"),
        (format!("from={recent}&"), "302"),
    ] {
        let path = format!("/accounts/bob/statement?{query}");
        let known = client.head().await;
        let (whole, first) = statement(&client, &path, 1000).await;
        assert_eq!(first["opening_balance"], opening, "{query}");
        let mut running = amount(&first["opening_balance"]);
        for line in &whole {
            running += if line["side"] == "credit" { amount(&line["amount"]) } else { -amount(&line["amount"]) };
            assert_eq!(amount(&line["balance"]), running, "{query}: {line}");
        }
        assert_eq!(running, amount(&first["closing_balance"]), "{query}");
        let order: Vec<_> =
            whole.iter().map(|line| (line["effective_at"].to_string(), line["position"].as_u64())).collect();
        assert!(order.is_sorted(), "{order:?}");
        for limit in [1, 3] {
            let (paged, _) = statement(&client, &path, limit).await;
            let paged: Vec<_> = paged.into_iter().filter(|line| line["position"].as_u64().unwrap() <= known).collect();
            assert_eq!(paged, whole, "{query} by {limit}");
        }
    }
    // A month, up to now, by default.
    let default = client.get("/accounts/bob/statement").await.is(200);
    assert!(default.body["from"].as_str().unwrap().ends_with("-01T00:00:00.000000Z"));
    assert_eq!(default.body["closing_balance"], client.posted("bob").await);
    assert_eq!(client.get("/accounts/bank/statement").await.is(200).body["normal"], "debit");

    let back = text(days_ago(60));
    for (query, pointer) in [
        (format!("from={long_ago}&to={back}"), "/query/to"),
        (format!("from={long_ago}&to={long_ago}"), "/query/to"),
        (format!("from={}", text(days_ago(-2))), "/query/from"),
        ("from=x".to_owned(), "/query/from"),
        ("to=x".to_owned(), "/query/to"),
        ("format=pdf".to_owned(), "/query/format"),
        ("format=csv&limit=5".to_owned(), "/query/limit"),
        ("format=html&after=x".to_owned(), "/query/after"),
        ("limit=0".to_owned(), "/query/limit"),
        ("after=v1".to_owned(), "/query/after"),
        ("after=s1,4,9000000000000000000,0,9,3,2,1".to_owned(), "/query/after"),
        (format!("after=s1,4,1,0,9,3,2,1&from={back}"), "/query/after"),
        ("order=desc".to_owned(), "/query/order"),
    ] {
        let refused = client.get(&format!("/accounts/bob/statement?{query}")).await;
        refused.is_problem(422, "validation_failed").at(pointer);
    }
    client.get("/accounts/nobody/statement").await.is_problem(404, "account_not_found");
    client.get("/accounts/nobody/statement?format=csv").await.is_problem(404, "account_not_found");
}

#[tokio::test]
async fn a_statement_goes_on_for_its_own_account_only() {
    let (_server, client) = start_with_accounts().await;
    client.put("//v1/ledgers/other", &json!({})).await.is(201);
    let body = json!({"code": "alice", "asset": "EUR", "min_balance": null});
    let other = client.post("//v1/ledgers/other/accounts", &body).await.is(201);
    assert_eq!(other.position(), 1);
    for n in 1..=4 {
        client.pay(&format!("k{n}"), &payment("alice", "bob", n)).await.is(201);
    }
    let first = client.get("/accounts/bob/statement?limit=2").await.is(200);
    let after = first.body["next"].as_str().unwrap().replace(',', "%2C");
    for account in ["/accounts/alice", "/accounts/bank", "//v1/ledgers/other/accounts/alice"] {
        let refused = client.get(&format!("{account}/statement?limit=1&after={after}")).await;
        refused.is_problem(422, "validation_failed").at("/query/after");
    }
    let last = client.get(&format!("/accounts/bob/statement?after={after}")).await.is(200);
    assert_eq!(last.data().last().unwrap()["balance"], first.body["closing_balance"]);
}

#[tokio::test]
async fn a_statement_for_spreadsheets_has_no_formulas() {
    let (server, client) = start_with_accounts().await;
    let mut evil = payment("alice", "bob", 250);
    evil["reference"] = json!("=cmd|' /C calc'!A0");
    client.pay("evil", &evil).await.is(201);
    let mut quoted = payment("bob", "alice", 300);
    quoted["reference"] = json!("a \"b\", c\nd");
    client.pay("poor", &quoted).await.is(422);
    quoted["amount"] = json!("5");
    client.pay("quoted", &quoted).await.is(201);
    back_date(&server, "news", ["alice", "bob"], 7, days_ago(400)).await;
    let from = text(days_ago(1));
    let csv = client.get(&format!("/accounts/bob/statement?format=csv&from={from}")).await.is(200);
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"statement-bob.csv\""));
    let rows: Vec<&str> = csv.text.split("\r\n").collect();
    assert_eq!(rows.len(), 6, "{}", csv.text);
    assert_eq!(
        rows[0],
        "kind,account,effective_at,recorded_at,position,transaction_id,reference,side,amount,balance,asset"
    );
    assert_eq!(rows[1], format!("opening_balance,bob,{from},,,,,,,0.07,EUR"));
    assert!(rows[2].ends_with(",\"'=cmd|' /C calc'!A0\",credit,2.50,2.57,EUR"), "{}", rows[2]);
    assert!(rows[3].ends_with(",\"a \"\"b\"\", c\nd\",debit,0.05,2.52,EUR"), "{}", rows[3]);
    assert!(rows[4].starts_with("closing_balance,bob,") && rows[4].ends_with(",,,,,,,2.52,EUR"), "{}", rows[4]);
    assert_eq!(rows[5], "");
    let none = client.get(&format!("/accounts/bob/statement?format=csv&to={}", text(days_ago(500)))).await.is(200);
    assert_eq!(none.text.lines().count(), 3);
}

#[tokio::test]
async fn a_statement_for_people_is_a_page_that_loads_nothing() {
    let (_server, client) = start_with_accounts().await;
    let mut evil = payment("alice", "bob", 250);
    evil["reference"] = json!("<img src=x onerror=alert(1)>");
    client.pay("evil", &evil).await.is(201);
    let page = client.get("/accounts/bob/statement?format=html").await.is(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(page.text.starts_with("<!doctype html>") && page.text.ends_with("</html>\n"));
    for expected in [
        "Statement of bob",
        "&lt;img src=x onerror=alert(1)&gt;",
        ">2.50<",
        "Opening balance",
        "Closing balance",
        "@media print",
    ] {
        assert!(page.text.contains(expected), "{expected}");
    }
    for forbidden in ["<script", "<img", "<link", "http:", "https:", "url("] {
        assert!(!page.text.contains(forbidden), "{forbidden}");
    }
}

/// More lines than are read at a time.
#[tokio::test]
async fn a_long_statement_comes_in_pieces_and_whole() {
    let (_server, client) = start_with_accounts().await;
    let payments: Vec<Value> = (0..2_500)
        .map(|n| {
            let mut item = payment("bank", "bob", 1 + n % 7);
            item["idempotency_key"] = json!(format!("n{n}"));
            item
        })
        .collect();
    client.post("/payments/batch", &json!({"payments": payments})).await.is(200);
    let csv = client.get("/accounts/bob/statement?format=csv").await.is(200);
    assert_eq!(csv.text.lines().count(), 2_500 + 3);
    let (lines, first) = statement(&client, "/accounts/bob/statement?", 1000).await;
    assert_eq!(lines.len(), 2_500, "what is paid meanwhile is not in it");
    assert_eq!(lines.last().unwrap()["balance"], first["closing_balance"]);
    let rows: Vec<&str> = csv.text.lines().collect();
    for (row, line) in rows[2..].iter().zip(&lines) {
        assert!(row.contains(&format!(",{},{},", line["position"], line["transaction_id"].as_str().unwrap())));
    }
    let page = client.get("/accounts/bob/statement?format=html").await.is(200);
    assert_eq!(page.text.matches("<tr>").count(), 1 + 2_500 + 2, "with the heading, and those paid while paging");
}
