//! Transactions of many legs: posted, checked against rates, in batches.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::client::{Client, payment, start_with_accounts};

/// For a command to end: well under a second, more on a busy machine.
const WAIT: Duration = Duration::from_secs(30);

pub fn leg(account: &str, side: &str, amount: u64, asset: &str) -> Value {
    json!({"account": account, "side": side, "amount": amount.to_string(), "asset": asset})
}

/// 100 from alice: 95 to bob, 5 to the fees.
fn split() -> Value {
    json!({"legs": [
        leg("alice", "debit", 100, "EUR"), leg("bob", "credit", 95, "EUR"), leg("fees", "credit", 5, "EUR"),
    ]})
}

/// `steelyard transaction post` with these words: its status, standard output and standard error.
async fn post_on_the_command_line(url: &str, words: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steelyard"));
    command.args(["transaction", "post", "--url", url]).args(words.split(' ')).env("NO_COLOR", "1").kill_on_drop(true);
    for name in ["STEELYARD_LEDGER", "STEELYARD_API_KEY"] {
        command.env_remove(name);
    }
    let output = tokio::time::timeout(WAIT, command.output()).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn post(client: &Client, key: &str, body: &Value) -> crate::client::Answer {
    client.post_with_key("/transactions", key, body).await
}

/// Accounts in dollars, with liquidity on both sides of an exchange.
async fn open_exchange(client: &Client) {
    client.open(json!({"code": "fx:eur", "asset": "EUR", "min_balance": null})).await;
    client.open(json!({"code": "fx:usd", "asset": "USD", "min_balance": null})).await;
    client.open(json!({"code": "alice:usd", "asset": "USD"})).await;
}

/// 200.00 EUR from alice against dollars at a rate.
fn exchange(euros: u64, dollars: u64, rate: &Value) -> Value {
    json!({
        "legs": [
            leg("alice", "debit", euros, "EUR"), leg("fx:eur", "credit", euros, "EUR"),
            leg("fx:usd", "debit", dollars, "USD"), leg("alice:usd", "credit", dollars, "USD"),
        ],
        "rates": [rate],
    })
}

#[tokio::test]
async fn a_transaction_is_posted_with_all_its_legs() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "fees", "asset": "EUR"})).await;
    let mut request = split();
    request["reference"] = json!("order 7");
    request["metadata"] = json!({"shop": 1});
    let answer = post(&client, "k", &request).await.is(201);
    let body = &answer.body;
    let after = |mut leg: Value, after: &str| {
        leg["balance_after"] = json!(after);
        leg
    };
    assert_eq!((&body["type"], &body["status"], &body["rates"]), (&json!("transaction"), &json!("posted"), &json!([])));
    assert_eq!(
        body["legs"],
        json!([
            after(leg("alice", "debit", 100, "EUR"), "900"),
            after(leg("bob", "credit", 95, "EUR"), "95"),
            after(leg("fees", "credit", 5, "EUR"), "5"),
        ])
    );
    assert_eq!(
        body["balances"]["fees"],
        json!({"posted": "5", "pending_in": "0", "pending_out": "0", "available": "5", "version": 1})
    );
    let again = post(&client, "k", &request).await.is(201);
    assert_eq!((again.is_replay(), &again.text), (true, &answer.text));
    let story = client.get(&format!("/transactions/{}", body["id"].as_str().unwrap())).await.is(200);
    for field in ["id", "type", "status", "reference", "metadata", "position", "recorded_at", "effective_at"] {
        assert_eq!(story.body[field], body[field], "{field}");
    }
    assert_eq!(story.body["legs"][1]["balance_after"], "95");
}

#[tokio::test]
async fn an_exchange_is_checked_against_its_rate() {
    let (_server, client) = start_with_accounts().await;
    open_exchange(&client).await;
    let rate = json!({"from": "EUR", "to": "USD", "rate": "1.0845"});
    let answer = post(&client, "k", &exchange(200, 217, &rate)).await;
    // 2.00 EUR are 2.169 USD: what rounding made of it has to be named.
    let problem = answer.is_problem(422, "validation_failed").at("/rates/0");
    assert!(problem.body["detail"].as_str().unwrap().contains("-0.1"), "{}", problem.text);
    let mut named = rate.clone();
    named["remainder"] = json!("-0.10");
    let posted = post(&client, "k", &exchange(200, 217, &named)).await.is(201);
    assert_eq!(posted.body["rates"], json!([{"from": "EUR", "to": "USD", "rate": "1.0845", "remainder": "-0.1"}]));
    assert_eq!(client.posted("alice:usd").await, "217");
    // A rate means the same with zeros that say nothing, and as a number.
    named["rate"] = json!(1.0845);
    assert!(post(&client, "k", &exchange(200, 217, &named)).await.is(201).is_replay());
    named["rate"] = json!("1.0846");
    post(&client, "k", &exchange(200, 217, &named)).await.is_problem(422, "idempotency_key_reused");

    let exact = json!({"from": "EUR", "to": "USD", "rate": "1.5", "remainder": "0"});
    let posted = post(&client, "exact", &exchange(200, 300, &exact)).await.is(201);
    assert_eq!(posted.body["rates"][0]["remainder"], "0");
    let elsewhere = json!({"from": "EUR", "to": "CHF", "rate": "1.5"});
    post(&client, "no", &exchange(200, 300, &elsewhere)).await.is_problem(422, "validation_failed").at("/rates/0/to");
    let mut second = exchange(200, 300, &exact);
    second["rates"] = json!([exact, {"from": "USD", "to": "EUR", "rate": "0.5"}]);
    post(&client, "no", &second).await.is_problem(422, "validation_failed").at("/rates/1");
    let story = client.get("/transactions?idempotency_key=exact").await.is(200);
    assert_eq!(story.data()[0]["rates"], posted.body["rates"]);
}

#[tokio::test]
async fn the_command_line_posts_legs_in_their_order_with_their_rates() {
    let (server, client) = start_with_accounts().await;
    open_exchange(&client).await;
    let url = server.origin();
    let words = "--debit alice 200 EUR --credit fx:eur 200 EUR --debit fx:usd 217 USD --credit alice:usd 217 USD";
    let posted = format!(
        "{words} --rate EUR USD 1.0845 -0.1 --reference r --effective-at 2021-05-06 --idempotency-key k --json"
    );
    let (status, shown, notes) = post_on_the_command_line(&url, &posted).await;
    assert_eq!(status, Some(0), "{notes}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    // The same as over the API: it is the same request.
    let mut request = exchange(200, 217, &json!({"from": "EUR", "to": "USD", "rate": "1.0845", "remainder": "-0.1"}));
    request["reference"] = json!("r");
    request["effective_at"] = json!("2021-05-06");
    let again = post(&client, "k", &request).await.is(201);
    assert_eq!((again.is_replay(), &again.body), (true, &shown));
    let (status, shown, notes) = post_on_the_command_line(&url, posted.strip_suffix(" --json").unwrap()).await;
    assert_eq!(status, Some(0), "{notes}");
    assert!(shown.contains("EUR   USD  1.0845       -0.1"), "{shown}");
    assert!(notes.contains("nothing was done again"), "{notes}");

    let (status, _, problem) = post_on_the_command_line(&url, &format!("{words} --rate EUR USD 1.0845")).await;
    assert_eq!(status, Some(1));
    assert!(problem.contains("/rates/0: 200 of the smallest unit of EUR"), "{problem}");
    let (status, _, problem) = post_on_the_command_line(&url, "--debit alice 2.00 EUR --credit bob 200 EUR").await;
    assert_eq!(status, Some(1));
    assert!(problem.contains("the amount of --debit alice is a whole number"), "{problem}");
}

#[tokio::test]
async fn what_cannot_be_is_told_at_its_leg() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "dollars", "asset": "USD"})).await;
    let head = client.head().await;
    let two = |first: Value, second: Value| json!({"legs": [first, second]});
    let debit = || leg("alice", "debit", 5, "EUR");
    for (body, status, code, pointer) in [
        (two(debit(), leg("nobody", "credit", 5, "EUR")), 404, "account_not_found", "/legs/1/account"),
        (
            two(leg("dollars", "debit", 5, "EUR"), leg("bob", "credit", 5, "EUR")),
            422,
            "asset_mismatch",
            "/legs/0/asset",
        ),
        (two(debit(), leg("alice", "credit", 5, "EUR")), 422, "same_account", "/legs"),
        (two(debit(), leg("bob", "credit", 4, "EUR")), 422, "validation_failed", "/legs"),
        (two(debit(), leg("bob", "debit", 5, "EUR")), 422, "validation_failed", "/legs"),
        (two(debit(), leg("dollars", "credit", 5, "USD")), 422, "validation_failed", "/legs"),
        (two(debit(), leg("bob", "right", 5, "EUR")), 422, "validation_failed", "/legs/1/side"),
        (two(debit(), leg("bob", "credit", 0, "EUR")), 422, "validation_failed", "/legs/1/amount"),
        (two(debit(), leg("a b", "credit", 5, "EUR")), 422, "validation_failed", "/legs/1/account"),
        (json!({"legs": [debit()]}), 422, "validation_failed", "/legs"),
        (json!({"legs": vec![debit(); 257]}), 422, "validation_failed", "/legs"),
        (json!({}), 422, "validation_failed", "/legs"),
        (json!({"legs": [debit(), [1]]}), 422, "validation_failed", "/legs/1"),
        (json!({"legs": [debit(), {"account": "bob"}]}), 422, "validation_failed", "/legs/1/side"),
        (json!({"legs": [], "capture": "manual"}), 422, "validation_failed", "/capture"),
        (json!({"legs": [debit(), debit()], "rates": {}}), 422, "validation_failed", "/rates"),
        (
            json!({"legs": [debit(), debit()], "rates": [{"from": "EUR", "to": "USD", "rate": true}]}),
            422,
            "validation_failed",
            "/rates/0/rate",
        ),
    ] {
        post(&client, "k", &body).await.is_problem(status, code).at(pointer);
    }
    client.post("/transactions", &split()).await.is_problem(400, "idempotency_key_missing");
    assert_eq!(client.head().await, head, "nothing was recorded");
}

/// From the smallest unit of a scale of 18 into cents: what the problem names is
/// taken, and comes back as it was.
#[tokio::test]
async fn a_remainder_has_as_many_digits_as_the_product() {
    let (_server, client) = start_with_accounts().await;
    client.put("/assets/ETH", &json!({"scale": 18})).await.is(201);
    for (code, asset) in [("eth", "ETH"), ("fx:eth", "ETH"), ("usd", "USD"), ("fx:usd", "USD")] {
        client.open(json!({"code": code, "asset": asset, "min_balance": null})).await;
    }
    let exchange = |rate: Value| {
        let given = 1_234_567_890_123_456_789;
        json!({"rates": [rate], "legs": [
            leg("eth", "debit", given, "ETH"), leg("fx:eth", "credit", given, "ETH"),
            leg("fx:usd", "debit", 426_764, "USD"), leg("usd", "credit", 426_764, "USD"),
        ]})
    };
    let mut rate = json!({"from": "ETH", "to": "USD", "rate": "3456.7891"});
    let refused = post(&client, "fx", &exchange(rate.clone())).await.is_problem(422, "validation_failed");
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.ends_with("the remainder to name is \"0.08257887630825361999\""), "{detail}");
    rate["remainder"] = json!("0.08257887630825361999");
    let posted = post(&client, "fx", &exchange(rate.clone())).await.is(201);
    assert_eq!(posted.body["rates"], json!([rate]));
    let again = post(&client, "fx", &exchange(rate.clone())).await.is(201);
    assert_eq!((again.is_replay(), &again.text), (true, &posted.text));
    let story = client.get(&format!("/transactions/{}", posted.body["id"].as_str().unwrap())).await.is(200);
    assert_eq!(story.body["rates"], json!([rate]));
}

#[tokio::test]
async fn a_rejection_is_recorded_with_all_legs() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "fees", "asset": "EUR"})).await;
    let mut request = split();
    request["legs"][0] = leg("bob", "debit", 100, "EUR");
    request["legs"][1] = leg("alice", "credit", 95, "EUR");
    let declined = post(&client, "k", &request).await.is_problem(422, "insufficient_funds");
    let id = declined.body["transaction_id"].as_str().unwrap();
    let story = client.get(&format!("/transactions/{id}")).await.is(200).body;
    assert_eq!((&story["type"], &story["status"]), (&json!("transaction"), &json!("rejected")));
    assert_eq!(story["legs"].as_array().unwrap().len(), 3);
    let again = post(&client, "k", &request).await.is_problem(422, "insufficient_funds");
    assert_eq!((again.is_replay(), again.text), (true, declined.text));
}

#[tokio::test]
async fn two_hundred_and_fifty_six_legs_are_one_transaction() {
    let (_server, client) = start_with_accounts().await;
    let mut legs = vec![leg("alice", "debit", 255, "EUR")];
    legs.extend((1..256).map(|_| leg("bob", "credit", 1, "EUR")));
    let posted = post(&client, "k", &json!({"legs": legs})).await.is(201);
    assert_eq!(posted.body["legs"][255]["balance_after"], "255");
    assert_eq!(posted.body["balances"]["bob"]["version"], 255);
}

#[tokio::test]
async fn a_batch_of_transactions_is_as_one_of_payments() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "fees", "asset": "EUR"})).await;
    let keyed = |key: &str, mut body: Value| {
        body["idempotency_key"] = json!(key);
        body
    };
    let mut poor = split();
    poor["legs"][0] = leg("fees", "debit", 100, "EUR");
    let mut lost = split();
    lost["legs"][2] = leg("lost", "credit", 5, "EUR");
    let batch = json!({"transactions": [
        keyed("1", split()), keyed("2", poor.clone()), keyed("1", split()), keyed("3", lost), split(),
    ]});
    let answer = client.post("/transactions/batch", &batch).await.is(200);
    let results = &answer.body["results"];
    assert_eq!(results[0]["transaction"]["status"], "posted");
    assert_eq!(results[1]["problem"]["code"], "insufficient_funds");
    assert_eq!(results[2], results[0]);
    assert_eq!(results[3]["problem"]["errors"][0]["pointer"], "/transactions/3/legs/2/account");
    assert_eq!(results[4]["problem"]["code"], "idempotency_key_missing");
    assert_eq!(client.posted("bob").await, "95");

    let atomic = |second: Value| json!({"atomic": true, "transactions": [split(), second]});
    let declined = client.post_with_key("/transactions/batch", "a", atomic(poor.clone())).await;
    declined.is_problem(422, "insufficient_funds").at("/transactions/1");
    let all = client.post_with_key("/transactions/batch", "b", atomic(split())).await.is(201);
    assert_eq!(all.body["results"].as_array().unwrap().len(), 2);
    let again = client.post_with_key("/transactions/batch", "b", atomic(split())).await.is(201);
    assert_eq!((again.is_replay(), again.text), (true, all.text));
    assert_eq!(client.posted("bob").await, "285");
    let mut lopsided = split();
    lopsided["legs"][1]["amount"] = json!(94);
    let refused = client.post_with_key("/transactions/batch", "c", atomic(lopsided.clone())).await;
    refused.is_problem(422, "validation_failed").at("/transactions/1/legs");
    let each = json!({"transactions": [keyed("4", split()), keyed("5", lopsided)]});
    let refused = client.post("/transactions/batch", &each).await.is(200).body["results"][1]["problem"].clone();
    assert_eq!(refused["errors"][0]["pointer"], "/transactions/1/legs");
    assert_eq!(refused["detail"], "/transactions/1/legs: debits and credits are equal for every asset");
    let other = json!({"atomic": true, "payments": [payment("alice", "bob", 1)]});
    client.post_with_key("/payments/batch", "b", other).await.is_problem(422, "idempotency_key_reused");

    let none = json!({"transactions": []});
    client.post("/transactions/batch", &none).await.is_problem(422, "validation_failed").at("/transactions");
    let mut many = split();
    many["legs"] = json!(vec![leg("a", "debit", 1, "E"); 256]);
    let legs = json!({"transactions": vec![many; 157]});
    client.post("/transactions/batch", &legs).await.is_problem(422, "validation_failed").at("/transactions");
}
