//! Logs that were written once, as `jsonb` gives them back, and what they come to:
//! that of the first release, in schema version 1, and one with all that came with
//! holds, reversals, schedules, changes of accounts and rules. These files stay as they
//! are for ever: a release that cannot read them, or reads them otherwise, would do the
//! same to the logs of its users.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use steelyard::ledger::{Account, Amount, Book, Counted, Counters, Event, Fact, Known, State};
use steelyard::store::payload;
use uuid::Uuid;

const LOG: &str = include_str!("golden/log-v1.ndjson");
const BALANCES: &str = include_str!("golden/balances-v1.json");
const SECOND_LOG: &str = include_str!("golden/log-v2.ndjson");
const SECOND_STATE: &str = include_str!("golden/state-v2.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<'a> {
    position: u64,
    r#type: &'a str,
    schema_version: i16,
    transaction_id: Option<Uuid>,
    /// The first release had none.
    #[serde(default)]
    subject_id: Option<Uuid>,
    idempotency_key: Option<&'a str>,
    recorded_at: chrono::DateTime<chrono::Utc>,
    effective_at: chrono::DateTime<chrono::Utc>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

fn rows(log: &str) -> impl Iterator<Item = Row<'_>> {
    log.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn log(log: &str) -> Vec<Event> {
    let event = |row: Row<'_>| {
        let fact = payload::read(row.r#type, row.schema_version, row.position, row.payload.get()).unwrap();
        assert_eq!(fact.type_name(), row.r#type);
        assert_eq!(fact.subject(), row.subject_id, "event {}", row.position);
        Event {
            position: row.position,
            recorded_at: row.recorded_at,
            effective_at: row.effective_at,
            transaction_id: row.transaction_id,
            idempotency_key: row.idempotency_key.map(Into::into),
            fact,
        }
    };
    rows(log).map(event).collect()
}

/// The book after a log; it forgets every transaction that it may, and is given it
/// back as the log's first and last event about it have it, when it is needed again.
fn fold(log: &[Event]) -> Book {
    let mut book = Book::default();
    for code in ["EUR", "USD"] {
        book.load_asset(crate::scenario::asset(code), 2);
    }
    let mut ends: HashMap<Uuid, (&Event, &Event)> = HashMap::new();
    for event in log {
        let about = [event.fact.subject(), event.transaction_id].into_iter().flatten();
        for id in about {
            if let Some((first, last)) = ends.get_mut(&id) {
                if book.known(&id).is_none() {
                    book.load_known(id, known(first, last));
                }
                *last = event;
            } else {
                ends.insert(id, (event, event));
            }
        }
        book.apply(event).unwrap();
        book.settle(book.mark());
        book.evict_known(0, event.position);
    }
    for (id, (first, last)) in ends {
        if book.known(&id).is_none() {
            book.load_known(id, known(first, last));
        }
    }
    book
}

fn known(first: &Event, last: &Event) -> Known {
    let known = Known::begun_by(first).unwrap();
    if first.position == last.position { known } else { known.changed_by(last).unwrap() }
}

/// Accounts by code, with everything that the log of the first release says about them.
fn balances(book: &Book) -> Value {
    Value::Object(book.accounts().map(|account| (account.code.to_string(), balance(account))).collect())
}

fn balance(account: &Account) -> Value {
    let (balance, normal, attributes) = (&account.balance, account.normal, &account.attributes);
    let limit = |limit: Option<Amount>| limit.map(|limit| limit.to_string());
    json!({
        "account_id": account.id,
        "asset": account.asset.as_str(),
        "normal": normal.as_str(),
        "status": attributes.status().as_str(),
        "min_balance": limit(attributes.limits.min_balance),
        "max_balance": limit(attributes.limits.max_balance),
        "metadata": attributes.metadata.as_deref().map(|text| serde_json::from_str::<Value>(text).unwrap()),
        "opened_at": account.opened_at,
        "debits_posted": balance.debits_posted.to_string(),
        "credits_posted": balance.credits_posted.to_string(),
        "posted": balance.posted(normal).to_string(),
        "available": balance.available(normal).to_string(),
        "version": balance.version,
        "position": balance.position,
    })
}

fn counted(counted: &Counted) -> Value {
    let Counted { limit, bucket, since, count, amount } = counted;
    json!({"limit": limit, "bucket": bucket, "since": since, "count": count, "amount": amount.to_string()})
}

/// All that is in a book.
fn state(book: &Book, log: &[Event]) -> Value {
    let account = |account: &Account| {
        let mut state = balance(account);
        state["debits_pending"] = account.balance.debits_pending.to_string().into();
        state["credits_pending"] = account.balance.credits_pending.to_string().into();
        let freeze = account.attributes.freeze.as_ref();
        state["freeze"] = json!(freeze.map(|freeze| [freeze.scope.as_str(), &*freeze.reason]));
        state["changed"] = account.changed.into();
        let counters = book.counters(&account.code);
        let mut buckets: Vec<&Counted> = counters.into_iter().flat_map(Counters::iter).collect();
        buckets.sort_unstable_by_key(|counted| (counted.limit, counted.bucket));
        state["counted"] = buckets.into_iter().map(counted).collect();
        (account.code.to_string(), state)
    };
    let ids: BTreeSet<Uuid> = log.iter().filter_map(|event| event.transaction_id).collect();
    let transaction = |id: &Uuid| {
        let known = book.known(id).unwrap();
        let amounts = |amounts: &[Amount]| amounts.iter().map(Amount::to_string).collect::<Vec<_>>();
        let (state, remaining, captured) = match &known.state {
            State::Hold(hold) => (hold.state.as_str(), amounts(&[hold.remaining]), Some(hold.captured.to_string())),
            State::Posted(posted) => ("posted", amounts(&posted.remaining), None),
            State::Scheduled(_) => ("scheduled", Vec::new(), None),
            State::Cancelled => ("cancelled", Vec::new(), None),
            State::Rejected => ("rejected", Vec::new(), None),
        };
        let state = json!({
            "position": known.position,
            "changed": known.changed,
            "state": state,
            "remaining": remaining,
            "captured": captured,
            "due_at": known.due_at(),
        });
        (id.to_string(), state)
    };
    let rules = book.rules().map(|(rule, position)| {
        let mut json = String::new();
        payload::write(&Fact::RuleSet(rule.clone()), &mut json);
        (position.to_string(), serde_json::from_str(&json).unwrap())
    });
    json!({
        "accounts": book.accounts().map(account).collect::<serde_json::Map<_, _>>(),
        "transactions": ids.iter().map(transaction).collect::<serde_json::Map<_, _>>(),
        "rules": rules.collect::<serde_json::Map<_, _>>(),
        "closed_before": book.closed_before(),
    })
}

#[test]
fn the_golden_log_folds_to_the_golden_balances() {
    let expected: Value = serde_json::from_str(BALANCES).unwrap();
    let actual = balances(&fold(&log(LOG)));
    assert_eq!(actual, expected, "\n{actual:#}");
}

#[test]
fn the_second_golden_log_folds_to_its_golden_state() {
    let log = log(SECOND_LOG);
    let expected: Value = serde_json::from_str(SECOND_STATE).unwrap();
    let actual = state(&fold(&log), &log);
    assert_eq!(actual, expected, "\n{actual:#}");
}

/// What was read is what would be written, in the same version.
#[test]
fn golden_logs_are_written_as_they_were() {
    for row in rows(LOG).chain(rows(SECOND_LOG)) {
        let fact = payload::read(row.r#type, row.schema_version, row.position, row.payload.get()).unwrap();
        assert_eq!(payload::schema_version(&fact), row.schema_version, "event {}", row.position);
        let mut json = String::new();
        payload::write(&fact, &mut json);
        let [written, stored]: [Value; 2] = [&json, row.payload.get()].map(|json| serde_json::from_str(json).unwrap());
        assert_eq!(written, stored, "event {}", row.position);
    }
}

/// Types and rejections of a log, and how often they are in it.
fn seen(log: &[Event]) -> BTreeMap<&str, usize> {
    let mut seen = BTreeMap::new();
    for event in log {
        *seen.entry(event.fact.type_name()).or_default() += 1;
        if let Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } = &event.fact {
            *seen.entry(rejected.reason.code()).or_default() += 1;
        }
    }
    seen
}

/// The log is worth as much as what is in it.
#[test]
fn the_golden_log_has_every_type_and_every_rejection() {
    let log = log(LOG);
    let seen = seen(&log);
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
    check_order(&log);
    for event in &log {
        let moves = !matches!(event.fact, Fact::AssetDefined { .. } | Fact::AccountOpened { .. });
        assert_eq!(event.transaction_id.is_some(), moves, "event {}", event.position);
    }
}

#[test]
fn the_second_golden_log_has_every_type_rejection_and_member() {
    let log = log(SECOND_LOG);
    check_order(&log);
    let seen = seen(&log);
    // `account_closed` and `account_frozen` are both types and rejections.
    for expected in [
        "asset_defined",
        "account_opened",
        "account_updated",
        "account_frozen",
        "account_unfrozen",
        "account_closed",
        "account_reopened",
        "transaction_posted",
        "transaction_rejected",
        "batch_rejected",
        "transaction_authorised",
        "hold_voided",
        "hold_expired",
        "transaction_scheduled",
        "schedule_cancelled",
        "account_type_set",
        "account_type_removed",
        "velocity_limit_set",
        "velocity_limit_removed",
        "period_closed",
        "hold_not_open",
        "capture_exceeds_hold",
        "reversal_exceeds_transaction",
        "velocity_limit_exceeded",
        "insufficient_funds",
        "balance_limit_exceeded",
    ] {
        assert!(seen.contains_key(expected), "{expected} is missing from {seen:?}");
    }
    for member in [
        r#""kind": "payment""#,
        r#""kind": "transaction""#,
        r#""kind": "capture""#,
        r#""kind": "void""#,
        r#""kind": "reversal""#,
        r#""rates""#,
        r#""remainder""#,
        r#""usage""#,
        r#""hold""#,
        r#""remaining""#,
        r#""reversal""#,
        r#""forced""#,
        r#""force""#,
        r#""scheduled_position""#,
        r#""subject_id": "0"#,
        r#""authorisation": {}"#,
        r#""authorisation": {"expires_at""#,
        r#""authorisation": {"expires_in_s""#,
        r#""expires_at""#,
        r#""passes_at""#,
        r#""rejection": {"code": "account_closed""#,
        r#""rejection": {"code": "account_frozen""#,
        r#""closed": true"#,
        r#""scope": "all""#,
        r#""scope": "debits""#,
        r#""scope": "credits""#,
        r#""window": {"seconds""#,
        r#""window": {"zone""#,
        r#""debits_pending""#,
        r#""credits_pending""#,
        r#""metadata""#,
        r#""reference""#,
        r#""description""#,
        r#""count_max""#,
        r#""amount_max""#,
        r#""prefix""#,
    ] {
        assert!(SECOND_LOG.contains(member), "{member} is missing");
    }
}

fn check_order(log: &[Event]) {
    assert!(log.iter().map(|event| event.position).eq(1..=log.len() as u64), "positions without a gap");
    assert!(log.is_sorted_by_key(|event| event.recorded_at), "time does not run backwards");
}

/// The sum over a golden log is no less zero than over any other.
#[test]
fn the_golden_balances_are_zero_per_asset() {
    for (text, assets) in [(LOG, 4), (SECOND_LOG, 3)] {
        let book = fold(&log(text));
        let mut sums: BTreeMap<String, (i128, i128)> = BTreeMap::new();
        for account in book.accounts() {
            let balance = account.balance;
            let (posted, pending) = sums.entry(account.asset.to_string()).or_default();
            *posted += balance.debits_posted.get() - balance.credits_posted.get();
            *pending += balance.debits_pending.get() - balance.credits_pending.get();
        }
        assert!(sums.len() >= assets && sums.values().all(|sums| *sums == (0, 0)), "{sums:?}");
    }
}
