//! Accounts over time: limits and metadata, freezes, closing and reopening.

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Client, JSON, payment, start, start_with_accounts};

async fn patch(client: &Client, code: &str, body: &Value) -> Answer {
    client.send(Method::PATCH, &format!("/accounts/{code}"), &[JSON], body.to_string()).await
}

async fn change(client: &Client, code: &str, what: &str, body: &Value) -> Answer {
    client.post(&format!("/accounts/{code}/{what}"), body).await
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() {
    let (_server, client) = start_with_accounts().await;
    let before = client.get("/accounts/alice").await.is(200);
    let changed = patch(&client, "alice", &json!({"min_balance": "-500", "metadata": {"customer": 17}})).await.is(200);
    assert_eq!(changed.body["min_balance"], "-500");
    assert_eq!(changed.body["max_balance"], Value::Null);
    assert_eq!(changed.body["metadata"], json!({"customer": 17}));
    assert_eq!(changed.body["balance"]["posted"], "1000");
    assert_eq!(changed.body["opened_at"], before.body["opened_at"]);
    client.pay("overdraft", &payment("alice", "bob", 1500)).await.is(201);

    // Metadata is replaced as a whole; null takes it away, and a limit too.
    let changed = patch(&client, "bob", &json!({"max_balance": 2000, "metadata": {"a": 1}})).await.is(200);
    assert_eq!(changed.body["max_balance"], "2000");
    client.pay("capped", &payment("bank", "bob", 501)).await.is_problem(422, "balance_limit_exceeded");
    let changed = patch(&client, "bob", &json!({"max_balance": null, "metadata": {"b": 2}})).await.is(200);
    assert_eq!((&changed.body["max_balance"], &changed.body["metadata"]), (&Value::Null, &json!({"b": 2})));
    let changed = patch(&client, "bob", &json!({"metadata": null, "min_balance": null})).await.is(200);
    assert_eq!((&changed.body["min_balance"], &changed.body["metadata"]), (&Value::Null, &json!({})));
    assert_eq!(client.get("/accounts/bob").await.is(200).body, changed.body);
}

#[tokio::test]
async fn an_update_that_changes_nothing_records_nothing() {
    let (_server, client) = start_with_accounts().await;
    patch(&client, "alice", &json!({"metadata": {"a": 1}})).await.is(200);
    let (head, before) = (client.head().await, client.get("/accounts/alice").await.is(200).body);
    for same in [json!({}), json!({"metadata": {"a": 1}}), json!({"min_balance": 0, "max_balance": null})] {
        assert_eq!(patch(&client, "alice", &same).await.is(200).body, before, "{same}");
    }
    assert_eq!(client.head().await, head);
}

#[tokio::test]
async fn a_limit_that_the_balance_breaks_is_refused() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let refused = patch(&client, "alice", &json!({"min_balance": "1001"})).await.is_problem(409, "limits_conflict");
    refused.at("/min_balance");
    let refused = patch(&client, "alice", &json!({"max_balance": "999"})).await.is_problem(409, "limits_conflict");
    refused.at("/max_balance");
    for (body, pointer) in [
        (json!({"min_balance": "2", "max_balance": "1"}), "/min_balance"),
        (json!({"max_balance": "-1"}), "/max_balance"),
        (json!({"min_balance": "1.5"}), "/min_balance"),
        (json!({"metadata": []}), "/metadata"),
        (json!({"min_balence": "0"}), "/min_balence"),
        (json!({"asset": "USD"}), "/asset"),
    ] {
        patch(&client, "alice", &body).await.is_problem(422, "validation_failed").at(pointer);
    }
    patch(&client, "nobody", &json!({})).await.is_problem(404, "account_not_found");
    assert_eq!(client.head().await, head);
    patch(&client, "alice", &json!({"min_balance": "1000", "max_balance": "1000"})).await.is(200);
}

#[tokio::test]
async fn a_freeze_declines_the_legs_of_its_scope_until_it_is_lifted() {
    let (_server, client) = start_with_accounts().await;
    client.pay("both", &payment("alice", "bob", 100)).await.is(201);
    let frozen = change(&client, "bob", "freeze", &json!({"scope": "debits", "reason": "court order"})).await.is(200);
    assert_eq!(frozen.body["status"], "frozen");
    assert_eq!(frozen.body["frozen"], json!({"scope": "debits", "reason": "court order"}));
    client.pay("out", &payment("bob", "alice", 1)).await.is_problem(422, "account_frozen");
    client.pay("in", &payment("alice", "bob", 1)).await.is(201);

    // Another freeze replaces the first; the same again is none.
    change(&client, "bob", "freeze", &json!({"scope": "credits", "reason": "court order"})).await.is(200);
    client.pay("out-2", &payment("bob", "alice", 1)).await.is(201);
    client.pay("in-2", &payment("alice", "bob", 1)).await.is_problem(422, "account_frozen");
    let all = change(&client, "bob", "freeze", &json!({"reason": "all of it"})).await.is(200);
    assert_eq!(all.body["frozen"]["scope"], "all");
    let head = client.head().await;
    let again = change(&client, "bob", "freeze", &json!({"scope": "all", "reason": "all of it"})).await.is(200);
    assert_eq!((client.head().await, &again.body), (head, &all.body));
    client.pay("in-3", &payment("alice", "bob", 1)).await.is_problem(422, "account_frozen");

    let lifted = change(&client, "bob", "unfreeze", &json!({"reason": "order lifted"})).await.is(200);
    assert_eq!((&lifted.body["status"], lifted.body.get("frozen")), (&json!("open"), None));
    client.pay("in-4", &payment("alice", "bob", 1)).await.is(201);
    let head = client.head().await;
    change(&client, "bob", "unfreeze", &json!({"reason": "once more"})).await.is(200);
    assert_eq!(client.head().await, head);
}

#[tokio::test]
async fn a_freeze_needs_a_reason_and_a_scope_that_there_is() {
    let (_server, client) = start_with_accounts().await;
    for (what, body, pointer) in [
        ("freeze", json!({}), "/reason"),
        ("freeze", json!({"reason": ""}), "/reason"),
        ("freeze", json!({"reason": "r".repeat(501)}), "/reason"),
        ("freeze", json!({"reason": "a\u{0}b"}), "/reason"),
        ("freeze", json!({"reason": 7}), "/reason"),
        ("freeze", json!({"reason": "r", "scope": "some"}), "/scope"),
        ("unfreeze", json!({}), "/reason"),
        ("close", json!({"reason": " "}), "/reason"),
        ("reopen", json!({"why": "r"}), "/why"),
    ] {
        change(&client, "alice", what, &body).await.is_problem(422, "validation_failed").at(pointer);
    }
    for what in ["freeze", "unfreeze", "close", "reopen"] {
        change(&client, "nobody", what, &json!({"reason": "r"})).await.is_problem(404, "account_not_found");
    }
}

#[tokio::test]
async fn an_account_closes_when_it_is_empty_and_reopens() {
    let (_server, client) = start_with_accounts().await;
    change(&client, "alice", "close", &json!({})).await.is_problem(409, "account_not_empty");
    change(&client, "bob", "freeze", &json!({"scope": "debits", "reason": "still there"})).await.is(200);
    let closed = change(&client, "bob", "close", &json!({"reason": "the customer has left"})).await.is(200);
    assert_eq!(closed.body["status"], "closed");
    assert_eq!(closed.body["frozen"]["reason"], "still there");
    client.pay("in", &payment("alice", "bob", 1)).await.is_problem(422, "account_closed");
    let head = client.head().await;
    assert_eq!(change(&client, "bob", "close", &json!({})).await.is(200).body, closed.body);
    assert_eq!(client.head().await, head);
    for (what, body) in [("freeze", json!({"reason": "r"})), ("unfreeze", json!({"reason": "r"}))] {
        change(&client, "bob", what, &body).await.is_problem(409, "account_is_closed");
    }
    patch(&client, "bob", &json!({"min_balance": null})).await.is_problem(409, "account_is_closed");
    let reopened = change(&client, "bob", "reopen", &json!({})).await.is(200);
    assert_eq!(reopened.body["status"], "frozen", "reopening lifts no freeze");
    let head = client.head().await;
    change(&client, "bob", "reopen", &json!({})).await.is(200);
    assert_eq!(client.head().await, head);
    client.pay("in-2", &payment("alice", "bob", 1)).await.is(201);
}

#[tokio::test]
async fn accounts_are_listed_by_their_state() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "old", "asset": "EUR", "metadata": {"a": 1}})).await;
    change(&client, "bob", "freeze", &json!({"reason": "r"})).await.is(200);
    change(&client, "old", "freeze", &json!({"scope": "credits", "reason": "r"})).await.is(200);
    let closed = change(&client, "old", "close", &json!({})).await.is(200);
    let changed = patch(&client, "alice", &json!({"max_balance": "5000", "metadata": {"b": 2}})).await.is(200);
    for (status, codes) in [("open", json!(["alice", "bank"])), ("frozen", json!(["bob"])), ("closed", json!(["old"]))]
    {
        let listed = client.get(&format!("/accounts?status={status}")).await.is(200);
        assert_eq!(json!(listed.field("code")), codes, "{status}");
    }
    // As the database gives them.
    let listed = client.get("/accounts?status=closed").await.is(200);
    assert_eq!(listed.data(), std::slice::from_ref(&closed.body));
    let listed = client.get("/accounts?metadata[b]=2").await.is(200);
    assert_eq!(listed.data(), std::slice::from_ref(&changed.body));
    let eventual = client.get("/accounts/old?consistency=eventual").await.is(200);
    assert_eq!(eventual.body, closed.body);
}

#[tokio::test]
async fn changes_are_events_with_all_attributes_as_they_are_then() {
    let (_server, client) = start().await;
    client.open(json!({"code": "a/b", "asset": "EUR"})).await;
    patch(&client, "a%2Fb", &json!({"max_balance": "7", "metadata": {"a": 1}})).await.is(200);
    change(&client, "a%2Fb", "freeze", &json!({"scope": "credits", "reason": "why"})).await.is(200);
    change(&client, "a%2Fb", "close", &json!({"reason": "gone"})).await.is(200);
    change(&client, "a%2Fb", "reopen", &json!({})).await.is(200);
    change(&client, "a%2Fb", "unfreeze", &json!({"reason": "over"})).await.is(200);
    let events = client.get("/events?after=1").await.is(200);
    assert_eq!(
        events.field("type"),
        ["account_updated", "account_frozen", "account_closed", "account_reopened", "account_unfrozen"]
    );
    let common =
        json!({"account": "a/b", "account_id": 1, "min_balance": "0", "max_balance": "7", "metadata": {"a": 1}});
    let with = |more: Value| {
        let mut payload = common.clone();
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        payload
    };
    let freeze = json!({"scope": "credits", "reason": "why"});
    assert_eq!(
        events.field("payload"),
        [
            common.clone(),
            with(json!({"freeze": freeze, "reason": events.data()[1]["payload"]["reason"]})),
            with(json!({"freeze": freeze, "closed": true, "reason": "gone"})),
            with(json!({"freeze": freeze})),
            with(json!({"reason": "over"})),
        ]
    );
}

#[tokio::test]
async fn the_account_named_batch_changes_like_any_other() {
    let (_server, client) = start().await;
    client.open(json!({"code": "batch", "asset": "EUR"})).await;
    assert_eq!(patch(&client, "batch", &json!({"max_balance": 5})).await.is(200).body["max_balance"], "5");
    change(&client, "batch", "freeze", &json!({"reason": "r"})).await.is(200);
    assert_eq!(client.get("/accounts/batch").await.is(200).body["status"], "frozen");
    client.get("/accounts/batch/entries").await.is(200);
}

/// Of a sequencer that begins anew, whose memory is empty.
#[tokio::test]
async fn changes_outlive_the_server() {
    let url = crate::support::Postgres::shared().await.database().await;
    let server = crate::support::Server::start(&url).await;
    let client = Client::new(&server.origin());
    client.open(json!({"code": "alice", "asset": "EUR"})).await;
    client.open(json!({"code": "bank", "asset": "EUR", "min_balance": null})).await;
    patch(&client, "alice", &json!({"max_balance": "100"})).await.is(200);
    let frozen = change(&client, "alice", "freeze", &json!({"scope": "credits", "reason": "r"})).await.is(200);
    server.close().await;
    let server = crate::support::Server::start(&url).await;
    let client = Client::new(&server.origin());
    assert_eq!(client.get("/accounts/alice").await.is(200).body, frozen.body);
    client.pay("in", &payment("bank", "alice", 1)).await.is_problem(422, "account_frozen");
    change(&client, "alice", "unfreeze", &json!({"reason": "r"})).await.is(200);
    client.pay("in-2", &payment("bank", "alice", 101)).await.is_problem(422, "balance_limit_exceeded");
}
