//! Files of many lines, in.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, payment, start, start_with_accounts};
use crate::contract::CONTRACT;
use crate::support::WAIT;

pub const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const CSV: (&str, &str) = ("content-type", "text/csv");

/// The records of an import's answer, each as the contract has it, and the summary.
pub struct Imported {
    pub refused: Vec<Value>,
    pub summary: Value,
}

pub async fn import(client: &Client, query: &str, header: (&str, &str), body: impl Into<Vec<u8>>) -> Imported {
    let answer = client.send(Method::POST, &format!("/import{query}"), &[header], body).await.is(200);
    let mut records: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &records {
        CONTRACT.check_schema("ImportRecord", record);
    }
    let summary = records.pop().unwrap();
    let refused = records.into_iter().filter(|record| record.get("bytes").is_none()).collect();
    Imported { refused, summary }
}

impl Imported {
    /// Lines that were recorded, recorded before, and refused; all that there were.
    #[track_caller]
    fn is_done(&self, recorded: u64, replayed: u64, refused: u64) {
        let count = |name: &str| self.summary[name].as_u64();
        let counts = [count("recorded"), count("replayed"), count("refused")];
        assert_eq!(self.summary["done"], true, "{}", self.summary);
        assert_eq!(counts, [Some(recorded), Some(replayed), Some(refused)], "{:?}", self.refused);
        assert_eq!(self.refused.len() as u64, refused);
    }

    /// The numbers of the refused lines, with the codes of their problems.
    fn reasons(&self) -> Vec<(u64, &str)> {
        let reason = |record: &Value| record["line"].as_u64().unwrap();
        self.refused.iter().map(|record| (reason(record), record["problem"]["code"].as_str().unwrap())).collect()
    }
}

fn lines(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn accounts_payments_and_opening_balances_come_in_the_order_of_the_file() {
    let (_server, client) = start().await;
    let body = lines(&[
        json!({"type": "account", "code": "equity:opening", "asset": "EUR", "normal": "debit", "min_balance": null}),
        json!({"type": "account", "code": "alice", "asset": "EUR"}),
        json!({"type": "account", "code": "cash", "asset": "EUR", "normal": "debit"}),
        json!({"type": "opening_balance", "account": "alice", "amount": "500", "asset": "EUR", "effective_at": "2020-01-31"}),
        json!({"type": "opening_balance", "account": "cash", "side": "debit", "amount": 70, "asset": "EUR", "effective_at": "2020-01-31T23:00:00+01:00"}),
        json!({"type": "payment", "from": "alice", "to": "equity:opening", "amount": "20", "asset": "EUR", "key": "own", "reference": "r"}),
    ]);
    let first = import(&client, "?id=f1&equity=equity:opening", NDJSON, body.clone()).await;
    first.is_done(6, 0, 0);
    assert_eq!((&first.summary["line"], &first.summary["bytes"]), (&json!(6), &json!(body.len())));
    assert_eq!(first.summary["position"], client.head().await.max(6));
    assert_eq!((client.posted("alice").await, client.posted("cash").await), ("480".to_owned(), "70".to_owned()));
    let entries = client.get("/accounts/alice/entries").await.is(200);
    assert_eq!(entries.data()[0]["effective_at"], "2020-01-31T00:00:00.000000Z");
    let by_key = client.get("/transactions?idempotency_key=f1:5").await.is(200);
    assert_eq!(by_key.data()[0]["effective_at"], "2020-01-31T22:00:00.000000Z");
    assert_eq!(client.get("/transactions?idempotency_key=own").await.data()[0]["reference"], "r");

    let again = import(&client, "?id=f1&equity=equity:opening", NDJSON, body.clone()).await;
    again.is_done(0, 6, 0);
    // The rest of a file has the same keys, by the numbers of its lines.
    let rest: String = body.lines().skip(3).map(|line| format!("{line}\n")).collect();
    import(&client, "?id=f1&equity=equity:opening&first_line=4", NDJSON, rest).await.is_done(0, 3, 0);
    assert_eq!(client.posted("alice").await, "480");
}

#[tokio::test]
async fn a_csv_file_says_the_same_with_a_header() {
    let (_server, client) = start_with_accounts().await;
    let body = "\u{feff}type,code,asset,min_balance,normal,from,to,amount,reference,metadata,effective_at\r\n\
                account,carol,EUR,none,debit,,,,,,\r\n\
                ,,EUR,,,alice,carol,100,\"a, \"\"b\"\"\nc\",\"{\"\"n\"\":1}\",2021-05-06\r\n\
                \r\n\
                payment,,EUR,,,alice,bob,5,'=1+1,,\r\n";
    import(&client, "?id=c", CSV, body).await.is_done(3, 0, 0);
    let found = client.get("/transactions?account=bob").await.is(200);
    assert_eq!(found.data()[0]["reference"], "=1+1");
    // Its record is on lines 3 and 4, an empty line follows.
    assert_eq!(found.data()[0]["idempotency_key"], "c:6");
    let found = client.get("/transactions?account=carol").await.is(200);
    assert_eq!(found.data()[0]["reference"], "a, \"b\"\nc");
    assert_eq!(found.data()[0]["metadata"], json!({"n": 1}));
    assert_eq!(client.posted("carol").await, "-100");
}

#[tokio::test]
async fn a_quote_that_is_out_of_place_costs_its_own_line_only() {
    let (_server, client) = start_with_accounts().await;
    let body = "from,to,amount,asset,reference\n\
                alice,bob,1,EUR,7\" screen\n\
                alice,bob,2,EUR,good\n\
                alice,bob,3,EUR,\"7\"\" screen\"\n\
                alice,bob,4,EUR,\"not\nclosed\n\
                alice,bob,5,EUR,good\n";
    let imported = import(&client, "?id=q", CSV, body).await;
    imported.is_done(2, 0, 2);
    assert_eq!(imported.reasons(), [(2, "validation_failed"), (5, "validation_failed")]);
    let detail = |index: usize| imported.refused[index]["problem"]["detail"].as_str().unwrap();
    assert!(detail(0).contains("a quote within is written twice") && !detail(0).contains("lines"), "{}", detail(0));
    assert!(detail(1).contains("lines 5 to 7"), "{}", detail(1));
    assert_eq!((client.posted("bob").await, &imported.summary["line"]), ("5".to_owned(), &json!(7)));
}

#[tokio::test]
async fn a_quoted_field_beyond_the_limit_is_refused_with_the_lines_that_it_took() {
    let (_server, client) = start_with_accounts().await;
    let good = "alice,bob,1,EUR,a reference of a length\n";
    let opening = "alice,bob,1,EUR,\"not closed\n";
    let body = format!("from,to,amount,asset,reference\n{opening}{}", good.repeat(2_000));
    let imported = import(&client, "?id=q", CSV, body).await;
    let taken = ((65_537 - opening.len()) / good.len() + 1) as u64;
    imported.is_done(2_000 - taken, 0, 1);
    let detail = imported.refused[0]["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("65536 bytes") && detail.contains(&format!("lines 2 to {}", 2 + taken)), "{detail}");
}

/// What follows on a progress record has the number behind it, also when a record of several lines was the last.
#[tokio::test]
async fn the_line_that_is_acknowledged_is_the_last_of_a_record() {
    let (_server, client) = start_with_accounts().await;
    let header = "from,to,amount,asset,reference\n";
    let (first, rest) = ("alice,bob,1,EUR,\"two\nlines\"\n", "alice,bob,2,EUR,\n");
    let done = import(&client, "?id=n", CSV, format!("{header}{first}")).await;
    done.is_done(1, 0, 0);
    assert_eq!(done.summary["line"], 3);
    import(&client, "?id=n&first_line=4", CSV, format!("{header}{rest}")).await.is_done(1, 0, 0);
    import(&client, "?id=n", CSV, format!("{header}{first}{rest}")).await.is_done(0, 2, 0);
}

#[tokio::test]
async fn transactions_of_many_legs_come_in_both_formats() {
    let (_server, client) = start_with_accounts().await;
    let leg = |account: &str, side: &str, amount: u64| json!({"account": account, "side": side, "amount": amount, "asset": "EUR"});
    let legs = json!([leg("alice", "debit", 100), leg("bob", "credit", 95), leg("bank", "credit", 5)]);
    let body = lines(&[
        json!({"type": "transaction", "legs": legs, "effective_at": "2021-05-06", "reference": "split"}),
        json!({"type": "transaction", "legs": [leg("alice", "debit", 1), leg("nobody", "credit", 1)]}),
        json!({"type": "transaction", "legs": [leg("alice", "debit", 1), leg("bob", "left", 1)]}),
        json!({"type": "transaction", "legs": [leg("alice", "debit", 1)], "amount": 1}),
        json!({"type": "transaction", "legs": [leg("alice", "debit", 1), leg("bob", "credit", 1)], "effective_at": "2999-01-01"}),
        json!({"type": "transaction", "legs": [leg("bob", "debit", 999), leg("alice", "credit", 999)]}),
        json!({"type": "transaction", "legs": [leg("alice", "debit", 2), leg("bob", "credit", 1)]}),
    ]);
    let imported = import(&client, "?id=t", NDJSON, body.clone()).await;
    imported.is_done(1, 0, 6);
    let pointers: Vec<&Value> =
        imported.refused.iter().map(|record| &record["problem"]["errors"][0]["pointer"]).collect();
    // What could not be submitted is told before what the ledger refused; each has its number.
    let told: BTreeMap<u64, &Value> =
        imported.refused.iter().map(|record| record["line"].as_u64().unwrap()).zip(pointers).collect();
    assert_eq!(
        told.into_values().collect::<Vec<_>>(),
        [
            &json!("/legs/1/account"),
            &json!("/legs/1/side"),
            &json!("/amount"),
            &json!("/effective_at"),
            &Value::Null,
            &json!("/legs"),
        ]
    );
    let found = client.get("/transactions?reference=split").await.is(200);
    assert_eq!(
        (&found.data()[0]["type"], &found.data()[0]["legs"][2]["account"]),
        (&json!("transaction"), &json!("bank"))
    );
    assert_eq!(found.data()[0]["effective_at"], "2021-05-06T00:00:00.000000Z");
    import(&client, "?id=t", NDJSON, body.lines().next().unwrap()).await.is_done(0, 1, 0);

    let quoted = legs.to_string().replace('"', "\"\"");
    let csv = format!(
        "type,legs,effective_at,from,to,amount,asset\r\ntransaction,\"{quoted}\",2021-05-07,,,,\r\n,,,alice,bob,5,EUR\r\ntransaction,\"{{}}\",,,,,\r\ntransaction,[,,,,,\r\n"
    );
    let imported = import(&client, "?id=c", CSV, csv).await;
    imported.is_done(2, 0, 2);
    assert_eq!(imported.refused[0]["problem"]["errors"][0], json!({"pointer": "/legs", "detail": "expected an array"}));
    assert_eq!(client.posted("bob").await, "195");
}

#[tokio::test]
async fn a_line_that_is_refused_is_told_with_its_number_and_the_others_are_recorded() {
    let (_server, client) = start_with_accounts().await;
    let body = [
        payment("alice", "bob", 10).to_string(),
        "{\"from\": ".to_owned(),
        payment("alice", "nobody", 1).to_string(),
        payment("alice", "bob", 100_000).to_string(),
        String::new(),
        json!({"type": "account", "code": "bob", "asset": "USD"}).to_string(),
        json!({"type": "opening_balance", "account": "nobody", "equity": "bank", "amount": 1, "asset": "EUR"})
            .to_string(),
        json!({"from": "alice", "to": "bob", "amount": "1", "asset": "EUR", "effective_at": "2999-01-01"}).to_string(),
        json!({"from": "alice", "to": "bob", "amount": "1", "asset": "EUR", "key": "funding"}).to_string(),
        json!({"from": "alice", "to": "bob", "amount": "3", "asset": "EUR", "key": "twice"}).to_string(),
        json!({"asset": "EUR", "amount": 3, "to": "bob", "from": "alice", "key": "twice"}).to_string(),
        "x".repeat(70_000),
        payment("alice", "bob", 1).to_string(),
    ]
    .join("\n");
    let expected = [
        (2, "malformed_json"),
        (3, "account_not_found"),
        (4, "insufficient_funds"),
        (6, "account_already_exists"),
        (7, "account_not_found"),
        (8, "validation_failed"),
        (9, "idempotency_key_reused"),
        (12, "validation_failed"),
    ];
    let first = import(&client, "?id=r", NDJSON, body.clone()).await;
    assert_eq!(first.reasons(), expected);
    first.is_done(3, 1, 8);
    assert_eq!(first.refused[1]["key"], "r:3");
    assert_eq!(first.refused[4]["problem"]["errors"][0]["pointer"], "/account");
    assert!(first.refused[2]["problem"]["position"].is_u64(), "a decision is recorded");
    assert!(first.refused[6]["problem"]["transaction_id"].is_string());
    let again = import(&client, "?id=r", NDJSON, body).await;
    again.is_done(0, 4, 8);
    assert_eq!(again.refused, first.refused, "the same report");
    assert_eq!(client.posted("bob").await, "14");
    let without_keys = import(&client, "", NDJSON, payment("alice", "bob", 1).to_string()).await;
    assert_eq!(without_keys.reasons(), [(1, "idempotency_key_missing")]);
}

#[tokio::test]
async fn the_wrong_file_is_given_up_and_what_came_before_is_done() {
    let (_server, client) = start_with_accounts().await;
    let body = format!("{}\n{}", payment("alice", "bob", 1), "not a line\n".repeat(20_000));
    let imported = import(&client, "?id=w", NDJSON, body).await;
    assert_eq!((&imported.summary["done"], &imported.summary["recorded"]), (&json!(false), &json!(1)));
    assert_eq!(imported.summary["problem"]["code"], "malformed_request");
    assert_eq!(imported.refused.len(), 1_000);
}

#[tokio::test]
async fn what_can_be_no_import_is_a_problem_at_once() {
    let (_server, client) = start().await;
    let send = async |query: &str, header, body: &'static str| {
        client.send(Method::POST, &format!("/import{query}"), &[header], body).await
    };
    send("", ("content-type", "application/json"), "{}").await.is_problem(415, "unsupported_media_type");
    let header = "from,to,amount,asset\n";
    for other in ["text/csv; charset=ISO-8859-1", "text/csv;header=present; charset = latin1"] {
        send("", ("content-type", other), header).await.is_problem(415, "unsupported_media_type");
    }
    for same in ["text/csv; charset=\"UTF-8\"", "text/csv; charset=utf8", "text/csv; header=present"] {
        import(&client, "", ("content-type", same), header).await.is_done(0, 0, 0);
    }
    let unknown = send("", CSV, "from,iban\n").await;
    let problem = unknown.is_problem(422, "validation_failed");
    assert!(
        problem.body["detail"].as_str().unwrap().contains("the column \"iban\", which is none of"),
        "{}",
        problem.text
    );
    send("", CSV, "").await.is_problem(422, "validation_failed");
    send("?id=%20", NDJSON, "").await.is_problem(422, "validation_failed").at("/query/id");
    send("?equity=a%20b", NDJSON, "").await.is_problem(422, "validation_failed").at("/query/equity");
    send("?first_line=0", NDJSON, "").await.is_problem(422, "validation_failed").at("/query/first_line");
    send("?x=1", NDJSON, "").await.is_problem(422, "validation_failed").at("/query/x");
    client.of_ledger("none").send(Method::POST, "/import", &[NDJSON], "").await.is_problem(404, "ledger_not_found");
    import(&client, "", NDJSON, "").await.is_done(0, 0, 0);
}

/// The accounts of the first chunk have to be looked for, those of the second are in memory.
#[tokio::test]
async fn a_chunk_does_not_overtake_the_one_before_it() {
    let (_server, client) = start_with_accounts().await;
    client.open(json!({"code": "a", "asset": "EUR"})).await;
    let mut body = lines(&[
        json!({"type": "account", "code": "new", "asset": "EUR"}),
        json!({"from": "bank", "to": "a", "amount": "10000", "asset": "EUR"}),
    ]);
    let filler = format!("{}\n", payment("bank", "bob", 1));
    body.push_str(&filler.repeat(4_998));
    let spending = format!("{}\n", payment("a", "bob", 1));
    body.push_str(&spending.repeat(10_000));
    import(&client, "?id=o", NDJSON, body).await.is_done(15_000, 0, 0);
    assert_eq!(client.posted("a").await, "0");
}

#[tokio::test]
async fn lines_are_done_while_the_file_is_still_being_sent() {
    let (_server, client) = start_with_accounts().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
    let body = reqwest::Body::wrap(Channel(receiver));
    let request = reqwest::Client::new().post(client.url("/import?id=s")).header(NDJSON.0, NDJSON.1).body(body);
    let answer = tokio::spawn(request.send());
    sender.send(format!("{}\n{{\"from\"", payment("alice", "bob", 7)).into()).await.unwrap();
    let mut answer = tokio::time::timeout(WAIT, answer).await.unwrap().unwrap().unwrap();
    let progress = tokio::time::timeout(WAIT, answer.chunk()).await.unwrap().unwrap().unwrap();
    let progress: Value = serde_json::from_slice(&progress).unwrap();
    assert_eq!((&progress["line"], &progress["recorded"]), (&json!(1), &json!(1)));
    assert_eq!(client.posted("bob").await, "7");
    // The body ends in the middle of a line, which is no line of an import.
    drop(sender);
    let rest = tokio::time::timeout(WAIT, answer.text()).await.unwrap().unwrap();
    assert!(rest.contains("\"line\":2"), "{rest}");
    assert_eq!(client.posted("bob").await, "7");
}

#[tokio::test]
async fn an_import_ends_with_what_is_done_when_its_worker_stops() {
    let (server, client) = start_with_accounts().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
    let body = reqwest::Body::wrap(Channel(receiver));
    let request = reqwest::Client::new().post(client.url("/import?id=d")).header(NDJSON.0, NDJSON.1).body(body);
    let answer = tokio::spawn(request.send());
    sender.send(format!("{}\n", payment("alice", "bob", 7)).into()).await.unwrap();
    let mut answer = tokio::time::timeout(WAIT, answer).await.unwrap().unwrap().unwrap();
    tokio::time::timeout(WAIT, answer.chunk()).await.unwrap().unwrap().unwrap();
    server.app.worker.drain();
    let last = tokio::time::timeout(WAIT, answer.chunk()).await.unwrap().unwrap().unwrap();
    let last: Value = serde_json::from_slice(&last).unwrap();
    CONTRACT.check_schema("ImportRecord", &last);
    assert_eq!((&last["done"], &last["line"], &last["recorded"]), (&json!(false), &json!(1), &json!(1)));
    assert_eq!(last["problem"]["code"], "unavailable");
    drop(sender);
}

struct Channel(tokio::sync::mpsc::Receiver<bytes::Bytes>);

impl hyper::body::Body for Channel {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

/// A line of a file: what is imported, and what is asked one by one.
#[derive(Clone, Debug)]
enum Line {
    Account(Value),
    Payment(String, Value),
    Broken(&'static str),
}

fn line() -> impl Strategy<Value = Line> {
    let code = || prop_oneof![Just("bank"), Just("a"), Just("b"), Just("c"), Just("d")];
    let asset = || prop_oneof![9 => Just("EUR"), 1 => Just("USD")];
    let floor = || prop_oneof![Just(Value::Null), Just(json!("0")), Just(json!("-50"))];
    let account = (code(), asset(), floor())
        .prop_map(|(code, asset, floor)| Line::Account(json!({"code": code, "asset": asset, "min_balance": floor})));
    let payment = (0..40_u32, code(), code(), 0..100_i64, asset()).prop_map(|(key, from, to, amount, asset)| {
        let fields = json!({"from": from, "to": to, "amount": amount, "asset": asset});
        Line::Payment(format!("k{key}"), fields)
    });
    let broken = prop_oneof![Just("{"), Just("[]"), Just(r#"{"from":"a"}"#), Just(r#"{"amout":1}"#)];
    prop_oneof![2 => account, 8 => payment, 1 => broken.prop_map(Line::Broken)]
}

/// Good lines, bad ones and keys that are there twice: the books are those of the same requests one by one.
#[tokio::test]
async fn a_file_makes_the_books_that_its_lines_make_one_by_one() {
    let (_server, main) = start().await;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for case in 0..8 {
        let mut lines = vec![Line::Account(json!({"code": "bank", "asset": "EUR", "min_balance": null}))];
        lines.extend(proptest::collection::vec(line(), 60).new_tree(&mut runner).unwrap().current());
        let (one_by_one, at_once) = (main.of_ledger(&format!("one-{case}")), main.of_ledger(&format!("file-{case}")));
        main.put(&format!("//v1/ledgers/one-{case}"), &json!({})).await.is(201);
        main.put(&format!("//v1/ledgers/file-{case}"), &json!({})).await.is(201);
        let mut codes = Vec::new();
        let mut body = String::new();
        for (number, line) in (1..).zip(&lines) {
            let answer = match line {
                Line::Account(account) => {
                    let mut fields = account.clone();
                    fields["type"] = json!("account");
                    body.push_str(&fields.to_string());
                    Some(one_by_one.post("/accounts", account).await)
                }
                Line::Payment(key, payment) => {
                    let mut fields = payment.clone();
                    fields["key"] = json!(key);
                    body.push_str(&fields.to_string());
                    Some(one_by_one.pay(key, payment).await)
                }
                Line::Broken(text) => {
                    body.push_str(text);
                    None
                }
            };
            body.push('\n');
            // What is broken is none of the ledger's business.
            if let Some(answer) = answer.filter(|answer| answer.status >= 400) {
                codes.push((number, answer.body["code"].as_str().unwrap().to_owned()));
            }
        }
        let imported = import(&at_once, "?id=p", NDJSON, body).await;
        assert_eq!(imported.summary["done"], true);
        let broken = |number: u64| matches!(lines[number as usize - 1], Line::Broken(_));
        let reasons = imported.reasons();
        let of_lines = reasons.iter().filter(|(number, _)| !broken(*number));
        assert_eq!(of_lines.map(|(number, code)| (*number, (*code).to_owned())).collect::<Vec<_>>(), codes);
        assert_eq!(reasons.len() - codes.len(), lines.iter().filter(|line| matches!(line, Line::Broken(_))).count());
        assert_eq!(balances(&at_once).await, balances(&one_by_one).await);
        for (_, code) in codes {
            *seen.entry(code).or_default() += 1;
        }
    }
    for code in ["insufficient_funds", "idempotency_key_reused", "account_not_found", "same_account", "asset_mismatch"]
    {
        assert!(seen.contains_key(code), "the files say nothing about {code}: {seen:?}");
    }
}

/// What every account was opened with and has.
pub async fn balances(client: &Client) -> Vec<Value> {
    let accounts = client.get("/accounts?limit=1000").await.is(200);
    let of = |account: &Value| {
        json!([
            account["code"],
            account["asset"],
            account["min_balance"],
            account["balance"]["debits_posted"],
            account["balance"]["credits_posted"]
        ])
    };
    accounts.data().iter().map(of).collect()
}
