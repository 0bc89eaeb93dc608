//! Files of many lines, out.

use std::collections::BTreeMap;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Value, json};

use crate::client::{Client, start_with_accounts};
use crate::import::{NDJSON, balances, import};

/// A ledger with a formula for a reference, two normal sides, and rejections that are in no journal.
async fn with_history() -> (crate::support::Server, Client) {
    let (server, client) = start_with_accounts().await;
    for n in 1..=9 {
        let reference = if n == 4 { "=HYPERLINK(\"x\"),\n" } else { "r" };
        let mut body = json!({"from": "alice", "to": "bob", "amount": n, "asset": "EUR", "reference": reference});
        body["metadata"] = json!({"n": n});
        client.pay(&format!("k{n}"), &body).await.is(201);
    }
    client.pay("poor", &json!({"from": "bob", "to": "alice", "amount": 1_000_000, "asset": "EUR"})).await.is(422);
    (server, client)
}

async fn ndjson(client: &Client, path: &str) -> Vec<Value> {
    let answer = client.get(path).await.is(200);
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn the_journal_has_every_leg_in_order_in_every_format() {
    let (_server, client) = with_history().await;
    let rows = ndjson(&client, "/export/journal?format=ndjson").await;
    assert_eq!(rows.len(), 20, "ten transactions with two legs");
    let positions: Vec<u64> = rows.iter().map(|row| row["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted());
    assert_eq!(rows[9]["account"], "bob");
    assert_eq!((&rows[9]["side"], &rows[9]["amount"], &rows[9]["leg"]), (&json!("credit"), &json!("4"), &json!(2)));
    assert_eq!((&rows[9]["balance_after"], &rows[9]["metadata"]), (&json!("10"), &json!({"n": 4})));
    assert_eq!(rows[9]["idempotency_key"], "k4");

    let csv = client.get("/export/journal").await.is(200);
    assert!(
        csv.text.starts_with("position,transaction_id,type,leg,account,side,amount,asset,balance_after,reference,")
    );
    assert!(csv.text.contains(",\"'=HYPERLINK(\"\"x\"\"),\n\","), "no formula: {}", csv.text);
    assert_eq!(csv.text.matches("\r\n").count(), 21);
    let disposition = csv.header("content-disposition").unwrap();
    assert_eq!(disposition, format!("attachment; filename=\"journal-main-{}.csv\"", csv.position()));

    let part = ndjson(&client, "/export/journal?format=ndjson&from_position=6&to_position=7").await;
    let part: Vec<&Value> = part.iter().map(|row| &row["position"]).collect();
    assert_eq!(part, [6, 6, 7, 7]);
    assert_eq!(client.get("/export/journal?format=ndjson&from_position=999").await.is(200).text, "");
}

#[tokio::test]
async fn parquet_is_read_back_as_it_was() {
    let (_server, client) = with_history().await;
    let rows = ndjson(&client, "/export/journal?format=ndjson").await;
    let bytes = reqwest::get(client.url("/export/journal?format=parquet")).await.unwrap().bytes().await.unwrap();
    let reader = SerializedFileReader::new(bytes).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr();
    assert_eq!(schema.num_columns(), rows[0].as_object().unwrap().len());
    assert_eq!((schema.column(6).name(), schema.column(6).type_precision()), ("amount", 38));
    let mut read = Vec::new();
    for row in reader.get_row_iter(None).unwrap() {
        let row = row.unwrap();
        let fields = row.get_column_iter().map(|(name, field)| {
            let value = match field {
                Field::Null => Value::Null,
                Field::Str(text) if name == "metadata" => serde_json::from_str(text).unwrap(),
                Field::Str(text) => json!(text),
                Field::Bytes(bytes) if name == "metadata" => serde_json::from_slice(bytes.data()).unwrap(),
                Field::Long(number) => json!(number),
                Field::TimestampMicros(micros) => {
                    let time = chrono::DateTime::from_timestamp_micros(*micros).unwrap();
                    json!(time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
                }
                Field::Decimal(decimal) => {
                    json!(i128::from_be_bytes(decimal.data().try_into().unwrap()).to_string())
                }
                other => panic!("{name}: {other:?}"),
            };
            (name.clone(), value)
        });
        read.push(Value::Object(fields.collect()));
    }
    assert_eq!(read, rows);
    let empty = reqwest::get(client.url("/export/journal?format=parquet&from_position=999")).await.unwrap();
    let empty = SerializedFileReader::new(empty.bytes().await.unwrap()).unwrap();
    assert_eq!(empty.metadata().file_metadata().num_rows(), 0);
}

#[tokio::test]
async fn a_statement_has_the_entries_of_the_account() {
    let (_server, client) = with_history().await;
    let entries = client.get("/accounts/bob/entries").await.is(200);
    let rows = ndjson(&client, "/export/statement?account=bob&format=ndjson").await;
    assert_eq!(rows.len(), 9);
    for (row, entry) in rows.iter().zip(entries.data()) {
        for name in ["position", "transaction_id", "side", "amount", "balance_after", "reference", "effective_at"] {
            assert_eq!(row[name], entry[name]);
        }
        assert_eq!((&row["line"], &row["account"], &row["asset"]), (&entry["version"], &json!("bob"), &json!("EUR")));
    }
    let (from, to) = (&rows[3]["position"], &rows[5]["position"]);
    let path = format!("/export/statement?account=bob&format=ndjson&from_position={from}&to_position={to}");
    assert_eq!(ndjson(&client, &path).await, rows[3..=5]);
    client.get("/export/statement").await.is_problem(422, "validation_failed").at("/query/account");
    client.get("/export/statement?account=nobody").await.is_problem(404, "account_not_found");
    client.get("/export/journal?format=xlsx").await.is_problem(422, "validation_failed").at("/query/format");
}

#[tokio::test]
async fn a_trial_balance_is_zero_at_one_position() {
    let (_server, client) = with_history().await;
    let rows = ndjson(&client, "/export/trial-balance?format=ndjson").await;
    let codes: Vec<&Value> = rows.iter().map(|row| &row["account"]).collect();
    assert_eq!(codes, ["alice", "bank", "bob"]);
    let sum = |name: &str| rows.iter().map(|row| row[name].as_str().unwrap().parse::<i128>().unwrap()).sum::<i128>();
    assert_eq!(sum("debits_posted"), sum("credits_posted"));
    assert_eq!((&rows[0]["balance"], &rows[1]["balance"]), (&json!("955"), &json!("1000")));
    let position = &rows[0]["as_of_position"];
    assert!(rows.iter().all(|row| row["as_of_position"] == *position));
    let csv = client.get("/export/trial-balance").await.is(200);
    assert!(csv.text.contains(&format!("bank,EUR,debit,1000,0,1000,{position}\r\n")), "{}", csv.text);
}

/// Two legs of a journal are a payment: into another ledger they make the same balances.
#[tokio::test]
async fn a_journal_goes_into_another_ledger() {
    let (_server, client) = with_history().await;
    client.put("//v1/ledgers/copy", &json!({})).await.is(201);
    let copy = client.of_ledger("copy");
    let mut body = String::new();
    for account in client.get("/accounts").await.is(200).data() {
        let fields = ["code", "asset", "normal", "min_balance", "max_balance", "metadata"];
        let mut line: BTreeMap<&str, Value> = fields.into_iter().map(|name| (name, account[name].clone())).collect();
        line.insert("type", json!("account"));
        body.push_str(&format!("{}\n", json!(line)));
    }
    for legs in ndjson(&client, "/export/journal?format=ndjson").await.chunks(2) {
        let (debit, credit) = (&legs[0], &legs[1]);
        let mut line = json!({"from": debit["account"], "to": credit["account"], "key": debit["transaction_id"]});
        for name in ["amount", "asset", "reference", "description", "metadata", "effective_at"] {
            line[name] = debit[name].clone();
        }
        body.push_str(&format!("{line}\n"));
    }
    let imported = import(&copy, "", NDJSON, body).await;
    assert_eq!((&imported.summary["recorded"], &imported.summary["refused"]), (&json!(13), &json!(0)));
    assert_eq!(balances(&copy).await, balances(&client).await);
}
