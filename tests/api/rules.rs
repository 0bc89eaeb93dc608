//! Account types, velocity limits and closed periods, as rules that are set and listed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Client, start, start_with_accounts};
use crate::support::{Postgres, Server};

async fn delete(client: &Client, path: &str) -> Answer {
    client.send(Method::DELETE, path, &[], "").await
}

#[tokio::test]
async fn accounts_begin_as_the_longest_prefix_says() {
    let (_server, client) = start().await;
    let bank = json!({"normal": "debit", "min_balance": null, "max_balance": "900"});
    client.put("/account-types/bank:", &bank).await.is(201);
    client.put("/account-types/bank:fees:", &json!({"min_balance": "-5"})).await.is(201);
    let opened = |code: &str, more: Value| {
        let (client, mut body) = (client.clone(), json!({"code": code, "asset": "EUR"}));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        async move {
            let account = client.open(body).await.body;
            json!([account["normal"], account["min_balance"], account["max_balance"]])
        }
    };
    assert_eq!(opened("bank:main", json!({})).await, json!(["debit", null, "900"]));
    assert_eq!(opened("bank:fees:eur", json!({})).await, json!(["credit", "-5", null]));
    assert_eq!(opened("bank", json!({})).await, json!(["credit", "0", null]));
    let said = json!({"normal": "credit", "min_balance": 0, "max_balance": null});
    assert_eq!(opened("bank:other", said).await, json!(["credit", "0", null]));

    // The same again is the same while the type is; accounts that are open stay as they are.
    client.post("/accounts", &json!({"code": "bank:main", "asset": "EUR"})).await.is(200);
    let replaced = client.put("/account-types/bank:", &json!({})).await.is(200);
    assert_eq!(replaced.body["normal"], "credit");
    let kept = client.get("/accounts/bank:main").await.is(200);
    assert_eq!(kept.body["normal"], "debit");
    client
        .post("/accounts", &json!({"code": "bank:main", "asset": "EUR"}))
        .await
        .is_problem(409, "account_already_exists");
    assert_eq!(opened("bank:new", json!({})).await, json!(["credit", "0", null]));
}

#[tokio::test]
async fn a_rule_is_set_replaced_listed_and_removed() {
    let (_server, client) = start().await;
    let first = client.put("/account-types/wallet:", &json!({"max_balance": 7})).await.is(201);
    let expected = json!({
        "prefix": "wallet:", "normal": "credit", "min_balance": "0", "max_balance": "7",
        "position": 1, "set_at": first.body["set_at"],
    });
    assert_eq!(first.body, expected);
    let head = client.head().await;
    let same = client.put("/account-types/wallet:", &json!({"normal": "credit", "max_balance": "7"})).await.is(200);
    assert_eq!((client.head().await, &same.body), (head, &expected));
    let other = client.put("/account-types/wallet:", &json!({"min_balance": null})).await.is(200);
    assert_eq!((&other.body["position"], &other.body["max_balance"]), (&json!(2), &Value::Null));
    client.put("/account-types/a%2Fb", &json!({})).await.is(201);
    client.put("/account-types/bank:", &json!({"normal": "debit"})).await.is(201);
    client.put("/velocity-limits/x", &velocity(json!({"prefix": "wallet:"}))).await.is(201);

    let listed = client.get("/account-types").await.is(200);
    assert_eq!(listed.field("prefix"), ["a/b", "bank:", "wallet:"]);
    assert_eq!((listed.data()[2].clone(), listed.position()), (other.body, client.head().await));
    let page = client.get("/account-types?limit=2").await.is(200);
    assert_eq!(page.field("prefix"), ["a/b", "bank:"]);
    let rest = client.get(&format!("/account-types?after={}", page.body["next"].as_str().unwrap())).await.is(200);
    assert_eq!((rest.field("prefix"), &rest.body["next"]), (vec![json!("wallet:")], &Value::Null));

    let removed = delete(&client, "/account-types/a%2Fb").await.is(200);
    assert_eq!((&removed.body["prefix"], &removed.body["position"]), (&json!("a/b"), &json!(3)));
    delete(&client, "/account-types/a%2Fb").await.is_problem(404, "rule_not_found");
    delete(&client, "/velocity-limits/wallet:").await.is_problem(404, "rule_not_found");
    assert_eq!(client.get("/account-types").await.is(200).field("prefix"), ["bank:", "wallet:"]);
    client.put("/account-types/a%2Fb", &json!({})).await.is(201);
}

#[tokio::test]
async fn account_types_that_cannot_be_are_refused() {
    let (_server, client) = start().await;
    for (prefix, body, pointer) in [
        ("wallet:", json!({"normal": "left"}), "/normal"),
        ("wallet:", json!({"min_balance": 2, "max_balance": 1}), "/min_balance"),
        ("wallet:", json!({"max_balance": -1}), "/max_balance"),
        ("wallet:", json!({"min_balance": "x"}), "/min_balance"),
        ("wallet:", json!({"asset": "EUR"}), "/asset"),
        ("a%20b", json!({}), "/path/prefix"),
    ] {
        let path = format!("/account-types/{prefix}");
        client.put(&path, &body).await.is_problem(422, "validation_failed").at(pointer);
    }
    client.get("/account-types?after=wallet:").await.is_problem(422, "validation_failed").at("/query/after");
    assert_eq!(client.head().await, 0);
}

fn velocity(more: Value) -> Value {
    let mut body = json!({"direction": "out", "window": {"rolling_s": 3600}, "count_max": 3});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn velocity_limits_are_given_back_as_they_were_set() {
    let (_server, client) = start().await;
    let daily = json!({
        "prefix": "wallet:", "asset": "EUR", "direction": "out", "window": {"day": "Europe/Zurich"},
        "amount_max": 100_000, "count_max": 20,
    });
    let set = client.put("/velocity-limits/daily", &daily).await.is(201);
    let expected = json!({
        "name": "daily", "account": null, "prefix": "wallet:", "asset": "EUR", "direction": "out",
        "window": {"day": "Europe/Zurich"}, "count_max": 20, "amount_max": "100000",
        "position": 1, "set_at": set.body["set_at"],
    });
    assert_eq!(set.body, expected);
    client.put("/velocity-limits/daily", &daily).await.is(200);
    let burst = velocity(json!({"account": "wallet:a"}));
    let burst = client.put("/velocity-limits/burst", &burst).await.is(201);
    assert_eq!(burst.body["window"], json!({"rolling_s": 3600}));
    let all = client.put("/velocity-limits/everyone", &velocity(json!({"prefix": ""}))).await.is(201);
    assert_eq!(all.body["prefix"], "");
    let listed = client.get("/velocity-limits").await.is(200);
    assert_eq!(listed.field("name"), ["burst", "daily", "everyone"]);
    assert_eq!(listed.data()[1], expected);
    let events = client.get("/events").await.is(200);
    assert_eq!(events.field("type"), ["velocity_limit_set"; 3]);
    let removed = delete(&client, "/velocity-limits/daily").await.is(200);
    assert_eq!(removed.body, expected);
    assert_eq!(client.get("/velocity-limits?min_position=4").await.is(200).field("name"), ["burst", "everyone"]);
}

#[tokio::test]
async fn velocity_limits_that_cannot_be_are_refused() {
    let (_server, client) = start().await;
    for (more, pointer) in [
        (json!({}), "/account"),
        (json!({"account": "a", "prefix": "a"}), "/account"),
        (json!({"account": "a b"}), "/account"),
        (json!({"prefix": "a b"}), "/prefix"),
        (json!({"prefix": "a", "direction": "up"}), "/direction"),
        (json!({"prefix": "a", "window": {}}), "/window"),
        (json!({"prefix": "a", "window": [1]}), "/window"),
        (json!({"prefix": "a", "window": {"rolling_s": 59}}), "/window/rolling_s"),
        (json!({"prefix": "a", "window": {"rolling_s": 31_622_401}}), "/window/rolling_s"),
        (json!({"prefix": "a", "window": {"day": "Mars/Olympus"}}), "/window/day"),
        (json!({"prefix": "a", "window": {"month": "UTC"}}), "/window/month"),
        (json!({"prefix": "a", "count_max": 0}), "/count_max"),
        (json!({"prefix": "a", "count_max": null}), ""),
        (json!({"prefix": "a", "amount_max": "5"}), "/asset"),
        (json!({"prefix": "a", "asset": "EUR", "amount_max": "0"}), "/amount_max"),
        (json!({"prefix": "a", "period": 1}), "/period"),
    ] {
        let refused = client.put("/velocity-limits/x", &velocity(more)).await;
        refused.is_problem(422, "validation_failed").at(pointer);
    }
    // It would apply to nothing, as no account can have the asset.
    let unknown = velocity(json!({"prefix": "a", "asset": "GOLD"}));
    client.put("/velocity-limits/x", &unknown).await.is_problem(404, "asset_not_found").at("/asset");
    assert_eq!(client.head().await, 0);
    client.put("/assets/GOLD", &json!({"scale": 3})).await.is(201);
    client.put("/velocity-limits/x", &unknown).await.is(201);
}

#[tokio::test]
async fn a_period_closes_once_and_for_good() {
    let (_server, client) = start_with_accounts().await;
    let none = client.get("/periods").await.is(200);
    assert_eq!(none.body, json!({"closed_before": null, "history": []}));
    let october = json!({"before": "2020-11-01T00:00:00Z"});
    let closed = client.post("/periods/close", &october).await.is(200);
    assert_eq!(closed.body, json!({"closed_before": "2020-11-01T00:00:00.000000Z"}));
    let head = client.head().await;
    client.post("/periods/close", &json!({"before": "2020-11-01T01:00:00+01:00"})).await.is(200);
    // A date is its first moment in UTC.
    let same = client.post("/periods/close", &json!({"before": "2020-11-01"})).await.is(200);
    assert_eq!(same.body["closed_before"], "2020-11-01T00:00:00.000000Z");
    assert_eq!(client.head().await, head);
    client
        .post("/periods/close", &json!({"before": "2020-10-31T23:59:59.999999Z"}))
        .await
        .is_problem(409, "period_already_closed");
    client.post("/periods/close", &json!({"before": "2020-12-01T00:00:00Z"})).await.is(200);
    let periods = client.get("/periods").await.is(200);
    assert_eq!(periods.body["closed_before"], "2020-12-01T00:00:00.000000Z");
    let history = periods.body["history"].as_array().unwrap();
    let told: Vec<_> = history.iter().map(|closing| (&closing["before"], &closing["position"])).collect();
    assert_eq!(
        told,
        [
            (&json!("2020-12-01T00:00:00.000000Z"), &json!(head + 1)),
            (&json!("2020-11-01T00:00:00.000000Z"), &json!(head)),
        ]
    );
    for (body, pointer) in [
        (json!({}), "/before"),
        (json!({"before": "2020-13-01"}), "/before"),
        (json!({"before": "9999-12-31"}), "/before"),
        (json!({"before": "9999-12-31T00:00:00Z"}), "/before"),
        (json!({"before": 7}), "/before"),
    ] {
        client.post("/periods/close", &body).await.is_problem(422, "validation_failed").at(pointer);
    }
}

/// Of a sequencer that begins anew, whose memory is empty.
#[tokio::test]
async fn rules_outlive_the_server() {
    let url = Postgres::shared().await.database().await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    client.put("/account-types/bank:", &json!({"normal": "debit"})).await.is(201);
    client.put("/account-types/gone:", &json!({"normal": "debit"})).await.is(201);
    delete(&client, "/account-types/gone:").await.is(200);
    client.post("/periods/close", &json!({"before": "2020-11-01T00:00:00Z"})).await.is(200);
    server.close().await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    assert_eq!(client.get("/account-types").await.is(200).field("prefix"), ["bank:"]);
    assert_eq!(client.open(json!({"code": "bank:a", "asset": "EUR"})).await.body["normal"], "debit");
    assert_eq!(client.open(json!({"code": "gone:a", "asset": "EUR"})).await.body["normal"], "credit");
    client
        .post("/periods/close", &json!({"before": "2020-10-01T00:00:00Z"}))
        .await
        .is_problem(409, "period_already_closed");
}
