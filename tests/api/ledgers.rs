//! Ledgers and assets.

use serde_json::json;

use crate::client::{payment, start, start_with_accounts};

#[tokio::test]
async fn a_ledger_is_created_once_and_listed() {
    let (_server, client) = start().await;
    let created = client.put("//v1/ledgers/shop", &json!({})).await.is(201);
    let again = client.put("//v1/ledgers/shop", &json!({})).await.is(200);
    assert_eq!(created.body, again.body);
    let main = client.put("//v1/ledgers/main", &json!({})).await.is(200);
    let listed = client.get("//v1/ledgers").await.is(200);
    assert_eq!(listed.data(), [main.body, created.body]);
    client.put("//v1/ledgers/a%2Fb", &json!({})).await.is(201);
    client.of_ledger("a%2Fb").open(json!({"code": "x", "asset": "EUR"})).await;
    client.put("//v1/ledgers/a%20b", &json!({})).await.is_problem(422, "validation_failed").at("/path/ledger");
    client.put(&format!("//v1/ledgers/{}", "l".repeat(33)), &json!({})).await.is_problem(422, "validation_failed");
    client.put("//v1/ledgers/x", &json!({"name": "x"})).await.is_problem(422, "validation_failed").at("/name");
    client.of_ledger("nowhere").get("/accounts").await.is_problem(404, "ledger_not_found");
}

#[tokio::test]
async fn ledgers_share_nothing() {
    let (_server, main) = start_with_accounts().await;
    main.put("//v1/ledgers/other", &json!({})).await.is(201);
    let other = main.of_ledger("other");
    assert_eq!(other.head().await, 0);
    other.get("/accounts/alice").await.is_problem(404, "account_not_found");
    // The same codes with other attributes, the same assets with another scale, the same keys.
    other.put("/assets/COIN", &json!({"scale": 3})).await.is(201);
    main.put("/assets/COIN", &json!({"scale": 8})).await.is(201);
    other.open(json!({"code": "alice", "asset": "COIN", "min_balance": null})).await;
    other.open(json!({"code": "bob", "asset": "COIN"})).await;
    let request = json!({"from": "alice", "to": "bob", "amount": "5", "asset": "COIN"});
    let paid = other.pay("funding", &request).await.is(201);
    assert!(!paid.is_replay());
    assert_eq!(paid.position(), 4);
    assert_eq!((main.posted("alice").await, other.posted("alice").await), ("1000".into(), "-5".into()));
    let id = paid.body["id"].as_str().unwrap();
    main.get(&format!("/transactions/{id}")).await.is_problem(404, "transaction_not_found");
    assert_eq!(main.get("/transactions?idempotency_key=funding").await.data().len(), 1);
    assert_eq!(other.get("/accounts?prefix=bob").await.data()[0]["asset"], "COIN");
    assert_eq!(other.get("/accounts/bob/entries").await.data().len(), 1);
    assert_eq!(other.get("/events").await.data().len(), 4);
    main.pay("k", &payment("alice", "bob", 1)).await.is(201);
}

#[tokio::test]
async fn assets_are_those_of_iso_4217_and_those_defined() {
    let (_server, client) = start().await;
    let assets = client.get("/assets?limit=1000").await.is(200);
    for (code, scale) in [("EUR", 2), ("JPY", 0), ("KWD", 3)] {
        assert!(assets.data().contains(&json!({"code": code, "scale": scale})), "{code}");
    }
    let request = json!({"scale": 18});
    client.put("/assets/ETH", &request).await.is(201);
    client.put("/assets/ETH", &request).await.is(200);
    client.put("/assets/ETH", &json!({"scale": 17})).await.is_problem(409, "asset_already_exists");
    client.put("/assets/EUR", &json!({"scale": 2})).await.is(200);
    client.put("/assets/EUR", &json!({"scale": 3})).await.is_problem(409, "asset_already_exists");
    client.put("/assets/MAX", &json!({"scale": 37})).await.is(201);
    for (code, body, pointer) in [
        ("OVER", json!({"scale": 38}), "/scale"),
        ("OVER", json!({"scale": 256}), "/scale"),
        ("OVER", json!({"scale": -1}), "/scale"),
        ("OVER", json!({"scale": "2"}), "/scale"),
        ("OVER", json!({}), "/scale"),
        ("O%20", json!({"scale": 2}), "/path/code"),
        ("O0123456789012345678901234567890123", json!({"scale": 2}), "/path/code"),
    ] {
        client.put(&format!("/assets/{code}"), &body).await.is_problem(422, "validation_failed").at(pointer);
    }
    assert_eq!(client.head().await, 2);
    assert!(client.get("/assets?limit=1000").await.data().contains(&json!({"code": "ETH", "scale": 18})));
    client.open(json!({"code": "a", "asset": "ETH"})).await;
}
