//! Payments in two phases: authorised, and then captured, voided or expired.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{Answer, Client, payment, start_with_accounts};
use crate::support::WAIT;

/// The body of a payment from alice to bob that only reserves.
fn hold(amount: u64, more: &Value) -> Value {
    let mut body = payment("alice", "bob", amount);
    body["capture"] = json!("manual");
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// Its id.
async fn authorise(client: &Client, key: &str, amount: u64, more: &Value) -> String {
    id(&client.pay(key, &hold(amount, more)).await.is(201))
}

pub fn id(answer: &Answer) -> String {
    answer.body["id"].as_str().unwrap().to_owned()
}

async fn capture(client: &Client, key: &str, id: &str, body: &Value) -> Answer {
    client.post_with_key(&format!("/payments/{id}/capture"), key, body).await
}

async fn void(client: &Client, key: &str, id: &str) -> Answer {
    client.post_with_key(&format!("/payments/{id}/void"), key, json!({})).await
}

async fn show(client: &Client, id: &str) -> Value {
    client.get(&format!("/transactions/{id}")).await.is(200).body
}

/// Waits until a transaction has come to `status` by itself.
pub async fn becomes(client: &Client, id: &str, status: &str) -> Value {
    let deadline = Instant::now() + WAIT;
    loop {
        let found = show(client, id).await;
        if found["status"] == status {
            return found;
        }
        assert!(Instant::now() < deadline, "{found}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What an account has: posted, pending in, pending out, available.
async fn balance(client: &Client, code: &str) -> [String; 4] {
    let account = client.get(&format!("/accounts/{code}")).await.is(200);
    ["posted", "pending_in", "pending_out", "available"]
        .map(|name| account.body["balance"][name].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_is_authorised_is_reserved_on_both_accounts() {
    let (_server, client) = start_with_accounts().await;
    let answer = client.pay("h", &hold(600, &json!({"reference": "room 7"}))).await.is(201);
    let body = &answer.body;
    for (field, expected) in [
        ("type", json!("payment")),
        ("status", json!("authorised")),
        ("from", json!("alice")),
        ("to", json!("bob")),
        ("amount", json!("600")),
        ("captured", json!("0")),
        ("remaining", json!("600")),
        ("expires_at", Value::Null),
        ("reference", json!("room 7")),
        (
            "balances",
            json!({
                "alice": {"posted": "1000", "pending_in": "0", "pending_out": "600", "available": "400", "version": 1},
                "bob": {"posted": "0", "pending_in": "600", "pending_out": "0", "available": "0", "version": 0},
            }),
        ),
    ] {
        assert_eq!(body[field], expected, "{field}");
    }
    assert_eq!(balance(&client, "alice").await, ["1000", "0", "600", "400"]);
    assert_eq!(balance(&client, "bob").await, ["0", "600", "0", "0"]);
    // Neither what is reserved nor what is to come can be paid with.
    client.pay("too-much", &payment("alice", "bank", 401)).await.is_problem(422, "insufficient_funds");
    client.pay("too-early", &payment("bob", "bank", 1)).await.is_problem(422, "insufficient_funds");
    client.pay("second", &hold(401, &json!({}))).await.is_problem(422, "insufficient_funds");
    client.pay("rest", &payment("alice", "bank", 400)).await.is(201);

    let again = client.pay("h", &hold(600, &json!({"reference": "room 7"}))).await.is(201);
    assert!(again.is_replay());
    assert_eq!(again.text, answer.text);
}

#[tokio::test]
async fn a_hold_is_captured_in_parts_until_nothing_remains() {
    let (_server, client) = start_with_accounts().await;
    let payment = authorise(&client, "h", 600, &json!({})).await;
    let first = capture(&client, "c1", &payment, &json!({"amount": "250", "reference": "night 1"})).await.is(201);
    assert_ne!(id(&first), payment);
    assert_eq!((&first.body["type"], &first.body["status"]), (&json!("capture"), &json!("posted")));
    assert_eq!(
        first.body["payment"],
        json!({"id": payment, "status": "authorised", "captured": "250", "remaining": "350"})
    );
    assert_eq!(
        (&first.body["from"], &first.body["to"], &first.body["amount"], &first.body["reference"]),
        (&json!("alice"), &json!("bob"), &json!("250"), &json!("night 1"))
    );
    assert_eq!(
        first.body["balances"]["alice"],
        json!({"posted": "750", "pending_in": "0", "pending_out": "350", "available": "400", "version": 2})
    );
    capture(&client, "too-much", &payment, &json!({"amount": 351})).await.is_problem(422, "capture_exceeds_hold");
    let rest = capture(&client, "c2", &payment, &json!({})).await.is(201);
    assert_eq!(rest.body["payment"], json!({"id": payment, "status": "captured", "captured": "600", "remaining": "0"}));
    assert_eq!(balance(&client, "alice").await, ["400", "0", "0", "400"]);
    assert_eq!(balance(&client, "bob").await, ["600", "0", "0", "600"]);

    let story = show(&client, &payment).await;
    assert_eq!(
        (&story["status"], &story["captured"], &story["remaining"]),
        (&json!("captured"), &json!("600"), &json!("0"))
    );
    let link = |answer: &Answer| json!({"id": answer.body["id"], "amount": answer.body["amount"], "position": answer.body["position"], "recorded_at": answer.body["recorded_at"]});
    assert_eq!(story["captures"], json!([link(&first), link(&rest)]));
    let story = show(&client, &id(&first)).await;
    assert_eq!((&story["type"], &story["payment"]), (&json!("capture"), &first.body["payment"]));

    let again = capture(&client, "c1", &payment, &json!({"reference": "night 1", "final": null, "amount": 250})).await;
    assert!(again.is_replay());
    assert_eq!(again.text, first.text);
}

#[tokio::test]
async fn the_final_capture_gives_the_rest_back() {
    let (_server, client) = start_with_accounts().await;
    let payment = authorise(&client, "h", 600, &json!({"expires_in_s": 3600})).await;
    let last = capture(&client, "c", &payment, &json!({"amount": "1", "final": true})).await.is(201);
    assert_eq!(last.body["payment"], json!({"id": payment, "status": "captured", "captured": "1", "remaining": "0"}));
    assert_eq!(balance(&client, "alice").await, ["999", "0", "0", "999"]);
    assert_eq!(balance(&client, "bob").await, ["1", "0", "0", "1"]);
    let story = show(&client, &payment).await;
    assert_eq!(
        (&story["status"], &story["captured"], &story["remaining"]),
        (&json!("captured"), &json!("1"), &json!("0"))
    );
}

#[tokio::test]
async fn a_void_gives_back_what_is_left_and_is_replayed() {
    let (_server, client) = start_with_accounts().await;
    let payment = authorise(&client, "h", 600, &json!({})).await;
    let captured = capture(&client, "c", &payment, &json!({"amount": "100"})).await.is(201);
    let voided = void(&client, "v", &payment).await.is(200);
    let body = &voided.body;
    for (field, expected) in [
        ("id", json!(payment)),
        ("type", json!("payment")),
        ("status", json!("voided")),
        ("from", json!("alice")),
        ("to", json!("bob")),
        ("asset", json!("EUR")),
        ("amount", json!("600")),
        ("captured", json!("100")),
        ("remaining", json!("0")),
        ("released", json!("500")),
    ] {
        assert_eq!(body[field], expected, "{field}");
    }
    assert_eq!(balance(&client, "alice").await, ["900", "0", "0", "900"]);
    assert_eq!(balance(&client, "bob").await, ["100", "0", "0", "100"]);
    let again = void(&client, "v", &payment).await.is(200);
    assert!(again.is_replay());
    assert_eq!(again.text, voided.text);
    for order in ["asc", "desc"] {
        for key in ["h", "v"] {
            let found = client.get(&format!("/transactions?idempotency_key={key}&order={order}")).await.is(200);
            let ids = found.field("id");
            assert_eq!(
                (ids.as_slice(), &found.data()[0]["status"]),
                (&[json!(payment)][..], &json!("voided")),
                "{key}"
            );
            assert_eq!(found.data()[0]["idempotency_key"], "h");
            assert_eq!(found.body["next"], Value::Null);
        }
    }
    let found = client.get("/transactions?idempotency_key=v&status=authorised").await.is(200);
    assert!(found.data().is_empty(), "the other filters hold too: {}", found.text);

    let story = show(&client, &payment).await;
    assert_eq!(
        (&story["status"], &story["captured"], &story["remaining"]),
        (&json!("voided"), &json!("100"), &json!("0"))
    );
    let types: Vec<&Value> = story["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["transaction_authorised", "hold_voided"]);
    assert_eq!(story["captures"][0]["id"], captured.body["id"]);
}

/// The table of docs/TRANSACTIONS.md: for each state, the status or the code that each command comes to.
fn documented_states() -> Vec<Vec<String>> {
    let page = include_str!("../../docs/TRANSACTIONS.md");
    let table = page.lines().skip_while(|line| !line.starts_with("| state | capture |")).skip(2);
    let cell = |cell: &str| cell.split(':').next().unwrap().trim().trim_matches('`').to_owned();
    table.take_while(|line| line.starts_with('|')).map(|row| row.split('|').skip(2).map(cell).collect()).collect()
}

#[tokio::test]
async fn every_command_has_its_answer_in_every_state() {
    let (_server, client) = start_with_accounts().await;
    let rows = documented_states();
    let states = ["authorised", "partly captured", "captured", "voided", "expired"];
    assert_eq!(rows.len(), states.len());
    for (column, command) in ["capture", "capture too much", "void", "reverse", "cancel"].into_iter().enumerate() {
        for (state, row) in states.into_iter().zip(&rows) {
            let expected = row[column].as_str();
            let key = |step: &str| format!("{command}/{state}/{step}").replace(' ', "_");
            let more = if state == "expired" { json!({"expires_in_s": 1}) } else { json!({}) };
            let payment = authorise(&client, &key("hold"), 10, &more).await;
            match state {
                "partly captured" => {
                    capture(&client, &key("before"), &payment, &json!({"amount": 4})).await.is(201);
                }
                "captured" => _ = capture(&client, &key("before"), &payment, &json!({})).await.is(201),
                "voided" => _ = void(&client, &key("before"), &payment).await.is(200),
                "expired" => _ = becomes(&client, &payment, "expired").await,
                _ => {}
            }
            let before = show(&client, &payment).await;
            let answer = match command {
                "capture" => capture(&client, &key("it"), &payment, &json!({"amount": 3})).await,
                "capture too much" => capture(&client, &key("it"), &payment, &json!({"amount": 11})).await,
                "void" => void(&client, &key("it"), &payment).await,
                other => client.post_with_key(&format!("/transactions/{payment}/{other}"), &key("it"), json!({})).await,
            };
            if let Ok(status) = expected.parse() {
                let id = answer.is(status).body["id"].clone();
                let found = client.get(&format!("/transactions?idempotency_key={}", key("it"))).await.is(200);
                assert_eq!(found.field("id"), [id], "{command} of {state}");
                continue;
            }
            let declined = answer.is_problem(422, expected);
            assert_eq!(show(&client, &payment).await, before, "{command} of {state} changes nothing");
            // What is recorded is shown, with what it was about; what is not left its key free.
            let keys = client.get(&format!("/transactions?idempotency_key={}", key("it"))).await.is(200);
            match declined.body["transaction_id"].as_str() {
                Some(id) => {
                    let story = show(&client, id).await;
                    assert_eq!((&story["status"], &story["reason"]), (&json!("rejected"), &json!(expected)));
                    assert_eq!(story["payment"], json!({"id": payment}));
                    assert_eq!(keys.data()[0]["id"], id);
                }
                None => assert!(keys.data().is_empty(), "{command} of {state}"),
            }
        }
    }
}

#[tokio::test]
async fn a_hold_expires_at_its_time_and_gives_back_what_is_left() {
    let (_server, client) = start_with_accounts().await;
    let answer = client.pay("h", &hold(600, &json!({"expires_in_s": 1}))).await.is(201);
    let payment = id(&answer);
    let expires_at = answer.body["expires_at"].clone();
    capture(&client, "c", &payment, &json!({"amount": "100"})).await.is(201);
    let story = becomes(&client, &payment, "expired").await;
    assert_eq!((&story["captured"], &story["remaining"]), (&json!("100"), &json!("0")));
    assert_eq!(story["expires_at"], expires_at);
    assert_eq!(balance(&client, "alice").await, ["900", "0", "0", "900"]);
    assert_eq!(balance(&client, "bob").await, ["100", "0", "0", "100"]);
    let events = client.get("/events?limit=1000").await.is(200);
    let expired = events.data().iter().find(|event| event["type"] == "hold_expired").unwrap();
    assert_eq!((&expired["transaction_id"], &expired["effective_at"]), (&json!(payment), &expires_at));
    // The key answers what it did, whatever has become of that.
    let again = client.pay("h", &hold(600, &json!({"expires_in_s": 1}))).await.is(201);
    assert_eq!((again.is_replay(), &again.text), (true, &answer.text));
}

#[tokio::test]
async fn a_time_to_expire_at_is_kept_to_the_microsecond() {
    let (_server, client) = start_with_accounts().await;
    let year =
        1 + client.get("//v1/ledgers").await.data()[0]["created_at"].as_str().unwrap()[..4].parse::<u32>().unwrap();
    let at = format!("{year}-06-01T12:00:00.123456789+02:00");
    let answer = client.pay("h", &hold(1, &json!({"expires_at": at}))).await.is(201);
    assert_eq!(answer.body["expires_at"], format!("{year}-06-01T10:00:00.123456Z"));
    let later = format!("{}-06-01T12:00:00Z", year + 6);
    for at in ["2020-01-01T00:00:00Z", &later] {
        let refused = client.pay("never", &hold(1, &json!({"expires_at": at}))).await;
        refused.is_problem(422, "validation_failed").at("/expires_at");
    }
}

#[tokio::test]
async fn only_holds_are_captured_and_voided() {
    let (_server, client) = start_with_accounts().await;
    let plain = id(&client.pay("p", &payment("alice", "bob", 5)).await.is(201));
    capture(&client, "k", &plain, &json!({})).await.is_problem(422, "not_a_hold");
    void(&client, "k", &plain).await.is_problem(422, "not_a_hold");
    for unknown in ["0193a5b0-0000-7000-8000-000000000000", "x", "%00"] {
        capture(&client, "k", unknown, &json!({})).await.is_problem(404, "transaction_not_found");
        void(&client, "k", unknown).await.is_problem(404, "transaction_not_found");
    }
    let payment = authorise(&client, "h", 5, &json!({})).await;
    for (body, pointer) in [
        (json!({"amount": "0"}), "/amount"),
        (json!({"amount": "1.5"}), "/amount"),
        (json!({"final": "yes"}), "/final"),
        (json!({"expires_at": null}), "/expires_at"),
        (json!({"reference": "r".repeat(256)}), "/reference"),
    ] {
        capture(&client, "k", &payment, &body).await.is_problem(422, "validation_failed").at(pointer);
    }
    let path = format!("/payments/{payment}/void");
    for (body, pointer) in [
        (json!({"amount": 1}), "/amount"),
        (json!({"reference": "r"}), "/reference"),
        (json!({"description": "d"}), "/description"),
        (json!({"metadata": {}}), "/metadata"),
    ] {
        client.post_with_key(&path, "k", body).await.is_problem(422, "validation_failed").at(pointer);
    }
    client.post(&path, &json!({})).await.is_problem(400, "idempotency_key_missing");
    // Nothing of that has used the key.
    capture(&client, "k", &payment, &json!({})).await.is(201);
}

#[tokio::test]
async fn a_key_belongs_to_its_payment_and_its_command() {
    let (_server, client) = start_with_accounts().await;
    let (one, two) = (authorise(&client, "1", 5, &json!({})).await, authorise(&client, "2", 5, &json!({})).await);
    capture(&client, "k", &one, &json!({"amount": 1})).await.is(201);
    capture(&client, "k", &two, &json!({"amount": 1})).await.is_problem(422, "idempotency_key_reused");
    capture(&client, "k", &one, &json!({"amount": 2})).await.is_problem(422, "idempotency_key_reused");
    capture(&client, "k", &one, &json!({"amount": 1, "final": true})).await.is_problem(422, "idempotency_key_reused");
    void(&client, "k", &one).await.is_problem(422, "idempotency_key_reused");
    client.pay("1", &payment("alice", "bob", 5)).await.is_problem(422, "idempotency_key_reused");
    assert!(capture(&client, "k", &one, &json!({"amount": "1", "final": false})).await.is(201).is_replay());
}

#[tokio::test]
async fn what_a_frozen_account_has_reserved_can_only_be_given_back() {
    let (_server, client) = start_with_accounts().await;
    let (one, two) = (authorise(&client, "1", 5, &json!({})).await, authorise(&client, "2", 5, &json!({})).await);
    client.post("/accounts/alice/freeze", &json!({"scope": "debits", "reason": "court order"})).await.is(200);
    capture(&client, "c1", &one, &json!({})).await.is_problem(422, "account_frozen");
    void(&client, "v1", &one).await.is(200);
    client.post("/accounts/alice/unfreeze", &json!({"reason": "lifted"})).await.is(200);
    client.post("/accounts/bob/freeze", &json!({"scope": "credits", "reason": "court order"})).await.is(200);
    capture(&client, "c2", &two, &json!({})).await.is_problem(422, "account_frozen");
    client.post("/accounts/bob/unfreeze", &json!({"reason": "lifted"})).await.is(200);
    // The decision was final for its key.
    assert!(capture(&client, "c2", &two, &json!({})).await.is_problem(422, "account_frozen").is_replay());
    capture(&client, "c3", &two, &json!({})).await.is(201);
}

#[tokio::test]
async fn batches_reserve_too() {
    let (_server, client) = start_with_accounts().await;
    let keyed = |key: &str, mut body: Value| {
        body["idempotency_key"] = json!(key);
        body
    };
    let batch = json!({"payments": [
        keyed("1", hold(600, &json!({"expires_in_s": 60}))),
        keyed("2", payment("alice", "bob", 401)),
        keyed("3", payment("alice", "bob", 400)),
        keyed("4", hold(1, &json!({"expires_in_s": 0}))),
        keyed("5", hold(1, &json!({"expires_at": "2020-01-01T00:00:00Z"}))),
    ]});
    let results = client.post("/payments/batch", &batch).await.is(200).body["results"].clone();
    assert_eq!(results[0]["payment"]["status"], "authorised");
    assert_eq!(results[1]["problem"]["code"], "insufficient_funds");
    assert_eq!(results[2]["payment"]["status"], "posted");
    assert_eq!(results[3]["problem"]["errors"][0]["pointer"], "/payments/3/expires_in_s");
    assert_eq!(results[4]["problem"]["errors"][0]["pointer"], "/payments/4/expires_at");
    let payment_id = results[0]["payment"]["id"].as_str().unwrap();
    void(&client, "v", payment_id).await.is(200);

    let atomic = json!({"atomic": true, "payments": [hold(500, &json!({})), payment("alice", "bob", 100)]});
    let all = client.post_with_key("/payments/batch", "a", &atomic).await.is(201);
    let statuses: Vec<&Value> =
        all.body["results"].as_array().unwrap().iter().map(|result| &result["payment"]["status"]).collect();
    assert_eq!(statuses, ["authorised", "posted"]);
    assert_eq!(balance(&client, "alice").await, ["500", "0", "500", "0"]);
    let again = client.post_with_key("/payments/batch", "a", &atomic).await.is(201);
    assert_eq!((again.is_replay(), again.text), (true, all.text));
}

/// Clients of the first release parse this; its members are those, in this order.
#[tokio::test]
async fn the_answer_to_a_plain_payment_is_that_of_the_first_release() {
    let (_server, client) = start_with_accounts().await;
    let answer = client.pay("k", &payment("alice", "bob", 5)).await.is(201);
    let text = |name: &str| answer.body[name].as_str().unwrap().to_owned();
    let expected = format!(
        concat!(
            r#"{{"id":"{}","type":"payment","status":"posted","from":"alice","to":"bob","amount":"5","asset":"EUR","#,
            r#""reference":null,"description":null,"metadata":{{}},"#,
            r#""balances":{{"alice":{{"posted":"995","available":"995","version":2}},"#,
            r#""bob":{{"posted":"5","available":"5","version":1}}}},"#,
            r#""position":{},"recorded_at":"{}","effective_at":"{}"}}"#
        ),
        text("id"),
        answer.body["position"],
        text("recorded_at"),
        text("effective_at")
    );
    assert_eq!(answer.text, expected);
}
