//! Accounts: opening, showing, statements.

use serde_json::{Value, json};

use crate::client::{Answer, payment, start, start_with_accounts};

#[tokio::test]
async fn an_account_opens_with_defaults_and_again_is_itself() {
    let (_server, client) = start().await;
    let request = json!({"code": "wallet:alice", "asset": "EUR"});
    let opened = client.post("/accounts", &request).await.is(201);
    for (field, expected) in [
        ("code", json!("wallet:alice")),
        ("asset", json!("EUR")),
        ("normal", json!("credit")),
        ("status", json!("open")),
        ("min_balance", json!("0")),
        ("max_balance", Value::Null),
        ("metadata", json!({})),
    ] {
        assert_eq!(opened.body[field], expected, "{field}");
    }
    assert_eq!(opened.body["balance"]["version"], 0);
    let again = client.post("/accounts", &request).await.is(200);
    assert_eq!(again.body, opened.body);
    let spelled_out = json!({
        "code": "wallet:alice", "asset": "EUR", "normal": "credit", "min_balance": 0, "max_balance": null, "metadata": {},
    });
    client.post("/accounts", &spelled_out).await.is(200);
    assert_eq!(client.get("/accounts/wallet:alice").await.is(200).body, opened.body);
    let head = client.head().await;
    for (field, other) in [
        ("asset", json!("USD")),
        ("normal", json!("debit")),
        ("min_balance", Value::Null),
        ("min_balance", json!("-1")),
        ("max_balance", json!("1")),
        ("metadata", json!({"a": 1})),
    ] {
        let mut request = request.clone();
        request[field] = other;
        client.post("/accounts", &request).await.is_problem(409, "account_already_exists");
    }
    assert_eq!(client.head().await, head);
}

#[tokio::test]
async fn what_an_account_is_opened_with_stays() {
    let (_server, client) = start().await;
    let request = json!({
        "code": "a/b@c.d_e-f:G", "asset": "JPY", "normal": "debit", "min_balance": "-500", "max_balance": 10000,
        "metadata": {"z": 0.12345678901234568, "a": ["ü", {"n": null}], "big": 1e300},
    });
    let opened = client.post("/accounts", &request).await.is(201);
    let shown = client.get("/accounts/a%2Fb@c.d_e-f:G").await.is(200);
    assert_eq!(shown.body, opened.body);
    for field in ["code", "normal", "min_balance", "metadata"] {
        assert_eq!(shown.body[field], request[field], "{field}");
    }
    assert_eq!(shown.body["max_balance"], "10000");
    client.post("/accounts", &request).await.is(200);
    // As the database gives it.
    let projected = client.get("/accounts?prefix=a/b").await.is(200);
    assert_eq!(projected.data(), std::slice::from_ref(&opened.body));
}

#[tokio::test]
async fn accounts_that_cannot_be_are_refused() {
    let (_server, client) = start().await;
    for (request, status, code, pointer) in [
        (json!({"code": "a", "asset": "NOPE"}), 404, "asset_not_found", "/asset"),
        (json!({"code": "a b", "asset": "EUR"}), 422, "validation_failed", "/code"),
        (json!({"code": "a", "asset": ""}), 422, "validation_failed", "/asset"),
        (json!({"code": "a", "asset": "EUR", "normal": "left"}), 422, "validation_failed", "/normal"),
        (json!({"code": "a", "asset": "EUR", "min_balance": "1.5"}), 422, "validation_failed", "/min_balance"),
        (
            json!({"code": "a", "asset": "EUR", "min_balance": 2, "max_balance": 1}),
            422,
            "validation_failed",
            "/min_balance",
        ),
        (json!({"code": "a", "asset": "EUR", "metadata": []}), 422, "validation_failed", "/metadata"),
        (json!({"code": "a", "asset": "EUR", "min_balence": "0"}), 422, "validation_failed", "/min_balence"),
        (json!({"asset": "EUR"}), 422, "validation_failed", "/code"),
        // Against the floor of 0 that it has because it states none.
        (json!({"code": "a", "asset": "EUR", "max_balance": -1}), 422, "validation_failed", "/max_balance"),
    ] {
        client.post("/accounts", &request).await.is_problem(status, code).at(pointer);
    }
    assert_eq!(client.head().await, 0);
    client.get("/accounts/a").await.is_problem(404, "account_not_found");
    client.get("/accounts/a/entries").await.is_problem(404, "account_not_found");
}

#[tokio::test]
async fn a_batch_of_accounts_has_a_result_for_each() {
    let (_server, client) = start().await;
    client.open(json!({"code": "old", "asset": "EUR"})).await;
    let accounts = json!({"accounts": [
        {"code": "new", "asset": "EUR"},
        {"code": "old", "asset": "EUR"},
        {"code": "old", "asset": "USD"},
        {"code": "new", "asset": "EUR"},
        {"code": "b b", "asset": "EUR"},
        {"code": "c", "asset": "NOPE"},
        {"code": "d", "asset": "EUR", "max_balance": "7"},
        {"code": "e", "asset": "EUR", "max_balance": "-7"},
    ]});
    let answer = client.post("/accounts/batch", &accounts).await.is(200);
    let results = answer.body["results"].as_array().unwrap();
    let statuses: Vec<&Value> = results.iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, [201, 200, 409, 200, 422, 404, 201, 422]);
    assert_eq!(results[3]["account"], results[0]["account"], "later items see earlier ones");
    assert_eq!(results[2]["problem"]["code"], "account_already_exists");
    assert_eq!(results[4]["problem"]["errors"][0]["pointer"], "/accounts/4/code");
    assert_eq!(results[5]["problem"]["code"], "asset_not_found");
    assert_eq!(results[5]["problem"]["errors"][0]["pointer"], "/accounts/5/asset");
    assert_eq!(results[6]["account"]["max_balance"], "7");
    assert_eq!(results[7]["problem"]["errors"][0]["pointer"], "/accounts/7/max_balance");
    assert_eq!(answer.position(), 3);
}

#[tokio::test]
async fn a_statement_has_a_line_per_leg_in_either_order() {
    let (_server, client) = start_with_accounts().await;
    let mut with_reference = payment("alice", "bob", 100);
    with_reference["reference"] = json!("rent");
    let paid = client.pay("1", &with_reference).await.is(201);
    client.pay("2", &payment("bob", "alice", 30)).await.is(201);
    client.pay("3", &payment("bob", "alice", 300)).await.is(422);
    let statement = client.get("/accounts/bob/entries").await.is(200);
    let lines: Vec<_> = statement
        .data()
        .iter()
        .map(|line| {
            (line["side"].as_str().unwrap(), line["amount"].as_str().unwrap(), line["balance_after"].as_str().unwrap())
        })
        .collect();
    assert_eq!(lines, [("credit", "100", "100"), ("debit", "30", "70")]);
    assert_eq!(statement.field("version"), [1, 2]);
    assert_eq!(statement.data()[0]["reference"], "rent");
    assert_eq!(statement.data()[0]["transaction_id"], paid.body["id"]);
    assert_eq!(statement.data()[0]["position"], paid.body["position"]);
    assert_eq!(statement.data()[0]["recorded_at"], paid.body["recorded_at"]);
    let newest_first = client.get("/accounts/bob/entries?order=desc").await.is(200);
    assert_eq!(newest_first.field("version"), [2, 1]);
    let empty: Answer = client.get("/accounts/bob/entries?order=desc&after=v1").await.is(200);
    assert!(empty.data().is_empty() && empty.body["next"].is_null());
}
