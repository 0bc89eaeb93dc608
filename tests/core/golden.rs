//! A log that was written once, in schema version 1 and as `jsonb` gives it
//! back, and the balances that it comes to. Both files stay as they are for
//! ever: a release that cannot read them, or reads them otherwise, would do the
//! same to the logs of its users.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use steelyard::ledger::{Book, Event, Fact};
use steelyard::store::payload;

const LOG: &str = include_str!("golden/log-v1.ndjson");
const BALANCES: &str = include_str!("golden/balances-v1.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<'a> {
    position: u64,
    r#type: &'a str,
    schema_version: i16,
    transaction_id: Option<uuid::Uuid>,
    idempotency_key: Option<&'a str>,
    recorded_at: chrono::DateTime<chrono::Utc>,
    effective_at: chrono::DateTime<chrono::Utc>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn log() -> Vec<Event> {
    let event = |line: &str| {
        let row: Row<'_> = serde_json::from_str(line).unwrap();
        let fact = payload::read(row.r#type, row.schema_version, row.position, row.payload.get()).unwrap();
        assert_eq!(fact.type_name(), row.r#type);
        Event {
            position: row.position,
            recorded_at: row.recorded_at,
            effective_at: row.effective_at,
            transaction_id: row.transaction_id,
            idempotency_key: row.idempotency_key.map(Into::into),
            fact,
        }
    };
    LOG.lines().map(event).collect()
}

fn fold(log: &[Event]) -> Book {
    let mut book = Book::default();
    log.iter().for_each(|event| book.apply(event).unwrap());
    book
}

/// Accounts by code, with everything that the log says about them.
fn balances(book: &Book) -> Value {
    let accounts = book.accounts().map(|account| {
        let (balance, normal) = (&account.balance, account.normal);
        let limit = |limit: Option<steelyard::ledger::Amount>| limit.map(|limit| limit.to_string());
        let state = json!({
            "account_id": account.id,
            "asset": account.asset.as_str(),
            "normal": normal.as_str(),
            "status": account.attributes.status().as_str(),
            "min_balance": limit(account.attributes.limits.min_balance),
            "max_balance": limit(account.attributes.limits.max_balance),
            "metadata": account.attributes.metadata.as_deref().map(|text| serde_json::from_str::<Value>(text).unwrap()),
            "opened_at": account.opened_at,
            "debits_posted": balance.debits_posted.to_string(),
            "credits_posted": balance.credits_posted.to_string(),
            "posted": balance.posted(normal).to_string(),
            "available": balance.available(normal).to_string(),
            "version": balance.version,
            "position": balance.position,
        });
        (account.code.to_string(), state)
    });
    Value::Object(accounts.collect())
}

#[test]
fn the_golden_log_folds_to_the_golden_balances() {
    let expected: Value = serde_json::from_str(BALANCES).unwrap();
    let actual = balances(&fold(&log()));
    assert_eq!(actual, expected, "\n{actual:#}");
}

/// The log is worth as much as what is in it.
#[test]
fn the_golden_log_has_every_type_and_every_rejection() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let log = log();
    for event in &log {
        *seen.entry(event.fact.type_name()).or_default() += 1;
        if let Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } = &event.fact {
            *seen.entry(rejected.reason.code()).or_default() += 1;
        }
    }
    for expected in [
        "asset_defined",
        "account_opened",
        "transaction_posted",
        "transaction_rejected",
        "batch_rejected",
        "account_closed",
        "account_frozen",
        "insufficient_funds",
        "balance_limit_exceeded",
    ] {
        assert!(seen.contains_key(expected), "{expected} is missing from {seen:?}");
    }
    assert!(log.iter().map(|event| event.position).eq(1..=log.len() as u64), "positions without a gap");
    assert!(log.is_sorted_by_key(|event| event.recorded_at), "time does not run backwards");
    for event in &log {
        let moves = !matches!(event.fact, Fact::AssetDefined { .. } | Fact::AccountOpened { .. });
        assert_eq!(event.transaction_id.is_some(), moves, "event {}", event.position);
    }
}

/// The sum over a golden log is no less zero than over any other.
#[test]
fn the_golden_balances_are_zero_per_asset() {
    let book = fold(&log());
    let mut sums: BTreeMap<String, i128> = BTreeMap::new();
    for account in book.accounts() {
        let balance = account.balance;
        *sums.entry(account.asset.to_string()).or_default() +=
            balance.debits_posted.get() - balance.credits_posted.get();
    }
    assert!(sums.len() >= 4 && sums.values().all(|sum| *sum == 0), "{sums:?}");
}
