//! Pages and cursors.

use serde_json::{Value, json};

use crate::client::{Client, payment, start, start_with_accounts};

/// Follows a list to its end by pages of `limit`, doing `between` after each,
/// and gives one field of each item.
async fn follow(client: &Client, path: &str, limit: usize, field: &str, mut between: impl AsyncFnMut()) -> Vec<Value> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.get(&format!("{path}limit={limit}{after}")).await.is(200);
        assert!(page.data().len() <= limit);
        found.extend(page.field(field));
        let Some(next) = page.body["next"].as_str() else { return found };
        assert_eq!(page.data().len(), limit, "a page with a next one is full");
        let next = percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC);
        after = format!("&after={next}");
        between().await;
    }
}

#[tokio::test]
async fn every_list_is_the_same_in_pages_and_in_one() {
    let (_server, client) = start_with_accounts().await;
    for n in 0..5 {
        client.put(&format!("//v1/ledgers/l/{n}").replace("l/", "l%2F"), &json!({})).await;
        client.open(json!({"code": format!("w/{n}@:_.-"), "asset": "EUR"})).await;
        let mut request = payment("alice", "bob", 1);
        request["reference"] = json!("same");
        client.pay(&format!("k{n}"), &request).await.is(201);
    }
    client
        .pay("no", &json!({"from": "bob", "to": "alice", "amount": 99, "asset": "EUR", "reference": "same"}))
        .await
        .is(422);
    for (path, field, items) in [
        ("//v1/ledgers?", "name", Some(6)),
        ("/assets?", "code", None),
        ("/accounts?", "code", Some(8)),
        ("/accounts?prefix=w&asset=EUR&", "code", Some(5)),
        ("/accounts/bob/entries?", "version", Some(5)),
        ("/accounts/bob/entries?order=desc&", "version", Some(5)),
        ("/transactions?", "id", Some(7)),
        ("/transactions?account=bob&", "id", Some(6)),
        ("/transactions?reference=same&", "id", Some(6)),
        ("/transactions?account=bob&reference=same&", "id", Some(6)),
        ("/events?", "position", Some(15)),
    ] {
        let whole = client.get(&format!("{path}limit=1000")).await.is(200);
        assert!(whole.body["next"].is_null());
        assert!(items.is_none_or(|items| whole.data().len() == items), "{path}: {}", whole.text);
        for limit in [1, 2, 3] {
            if whole.data().len() > 50 && limit == 1 {
                continue;
            }
            let limit = if whole.data().len() > 50 { limit * 20 } else { limit };
            let paged = follow(&client, path, limit, field, async || {}).await;
            assert_eq!(paged, whole.field(field), "{path} by {limit}");
        }
    }
}

#[tokio::test]
async fn cursors_stay_valid_while_data_is_added() {
    let (_server, client) = start_with_accounts().await;
    for n in 0..9 {
        client.open(json!({"code": format!("m{n}"), "asset": "EUR"})).await;
        client.pay(&format!("k{n}"), &payment("alice", "bob", 1)).await.is(201);
    }
    let mut added = 0;
    for (path, field) in [
        ("/accounts?", "code"),
        ("/accounts/bob/entries?", "version"),
        ("/accounts/bob/entries?order=desc&", "version"),
        ("/transactions?", "position"),
        ("/events?", "position"),
    ] {
        let before = client.get(&format!("{path}limit=1000")).await.field(field);
        let found = follow(&client, path, 4, field, async || {
            added += 1;
            // Only so often, or a list in order of time never ends.
            if added % 5 < 2 {
                client.open(json!({"code": format!("a{added}"), "asset": "EUR"})).await;
                client.pay(&format!("more{added}"), &payment("alice", "bob", 1)).await.is(201);
            }
        })
        .await;
        let kept: Vec<&Value> = found.iter().filter(|item| before.contains(item)).collect();
        assert_eq!(kept, before.iter().collect::<Vec<_>>(), "{path}: nothing is missed, nothing comes twice");
        let mut once = found.iter().map(Value::to_string).collect::<Vec<_>>();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), found.len(), "{path}");
    }
}

#[tokio::test]
async fn a_cursor_of_another_list_is_refused() {
    let (_server, client) = start_with_accounts().await;
    client.put("//v1/ledgers/second", &json!({})).await.is(201);
    client.pay("k1", &payment("alice", "bob", 1)).await.is(201);
    client.pay("k2", &payment("alice", "bob", 1)).await.is(201);
    let lists = ["//v1/ledgers", "/assets", "/accounts", "/accounts/bob/entries", "/transactions", "/events"];
    let mut cursors = Vec::new();
    for list in lists {
        let page = client.get(&format!("{list}?limit=1")).await.is(200);
        cursors.push((list, page.body["next"].as_str().unwrap().to_owned()));
    }
    for list in lists {
        for (of, cursor) in &cursors {
            let answer = client.get(&format!("{list}?after={cursor}")).await;
            if *of == list {
                _ = answer.is(200);
            } else {
                _ = answer.is_problem(422, "validation_failed").at("/query/after");
            }
        }
    }
}

#[tokio::test]
async fn pages_have_1_to_1000_items() {
    let (_server, client) = start().await;
    let accounts: Vec<Value> = (0..1001).map(|n| json!({"code": format!("a{n:04}"), "asset": "EUR"})).collect();
    client.post("/accounts/batch", &json!({"accounts": accounts})).await.is(200);
    assert_eq!(client.get("/accounts").await.data().len(), 100);
    assert_eq!(client.get("/accounts?after=").await.data().len(), 100);
    assert_eq!(client.get("/accounts?limit=1").await.data().len(), 1);
    let most = client.get("/accounts?limit=1000").await.is(200);
    assert_eq!((most.data().len(), most.body["next"].is_string()), (1000, true));
    for list in ["/accounts", "/accounts/a0000/entries", "/transactions", "/events", "/assets", "//v1/ledgers"] {
        for limit in ["0", "-1", "1001", "1.5", "ten", "", "99999999999999999999"] {
            client.get(&format!("{list}?limit={limit}")).await.is_problem(422, "validation_failed");
        }
    }
}
