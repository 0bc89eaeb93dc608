//! The JSON of the log. Its bytes are a contract: what is written today is
//! read by every later release, and by clients of `GET /events`.
//!
//! A snapshot that changes is a new schema version, or a mistake; but for the order
//! of members, which `jsonb` has of its own.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use steelyard::ledger::{
    AccountChanged, AccountCode, AccountType, Amount, AssetCode, Attributes, Authorisation, Balance, Cancelled, Change,
    Counted, Direction, Expiry, Fact, Freeze, FreezeScope, HoldRef, HoldState, Kind, Leg, LegRequest, Limits, More,
    Origin, Rate, RejectedTransaction, Rejection, Release, ReleaseReason, Rule, RuleKey, Scheduled, Scope, Side, Terms,
    Transaction, TransactionRequest, Usage, VelocityLimit, Window,
};
use steelyard::metadata;
use steelyard::store::payload;
use uuid::Uuid;

use crate::scenario::{asset, code, signed, time};

/// Where the facts of this file stand in their log.
const POSITION: u64 = 4712;

fn written(fact: &Fact) -> String {
    let mut json = String::new();
    payload::write(fact, &mut json);
    json
}

fn read_as(schema_version: i16, type_name: &str, json: &str) -> Result<Fact, String> {
    payload::read(type_name, schema_version, POSITION, json).map_err(|error| error.to_string())
}

/// As a row in the version in which all that this release writes of the type can be said.
fn read(type_name: &str, json: &str) -> Result<Fact, String> {
    let newest =
        if ["transaction_posted", "transaction_rejected", "batch_rejected"].contains(&type_name) { 2 } else { 1 };
    read_as(newest, type_name, json)
}

/// The snapshot of a payload in the first version of its type, which must also be
/// JSON and mean what was written.
#[track_caller]
fn check(name: &str, fact: &Fact) {
    check_version(1, name, fact);
}

/// As [`check`], of a payload that needs the second version and cannot pass for the first.
#[track_caller]
fn check_second(name: &str, fact: &Fact) {
    check_version(2, name, fact);
    let refused = read_as(1, fact.type_name(), &written(fact)).unwrap_err();
    assert!(refused.ends_with("holds an invalid schema version"), "{refused}");
}

#[track_caller]
fn check_version(schema_version: i16, name: &str, fact: &Fact) {
    let json = written(fact);
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok_and(|value| value.is_object()), "{json}");
    assert_eq!(payload::schema_version(fact), schema_version, "{json}");
    assert_eq!(read_as(schema_version, fact.type_name(), &json).as_ref(), Ok(fact), "{json}");
    assert_eq!(read(fact.type_name(), &json).as_ref(), Ok(fact), "upcast: {json}");
    members_in_the_order_of_jsonb(&json);
    insta::assert_snapshot!(name, json);
}

/// An object's members in the order in which they are written.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                std::iter::from_fn(|| map.next_entry().transpose()).collect::<Result<_, _>>().map(Members)
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

/// Shorter names first, and then by their bytes; a client's metadata has its own order.
/// Source: PostgreSQL's `lengthCompareJsonbString`.
#[track_caller]
fn members_in_the_order_of_jsonb(json: &str) {
    let Members(members) = serde_json::from_str(json).unwrap();
    let names: Vec<(usize, &str)> = members.iter().map(|(name, _)| (name.len(), name.as_str())).collect();
    assert!(names.is_sorted(), "{names:?}");
    for (name, value) in &members {
        match value.get().as_bytes()[0] {
            b'{' if name != "metadata" => members_in_the_order_of_jsonb(value.get()),
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap();
                let objects = items.iter().filter(|item| item.get().starts_with('{'));
                objects.for_each(|item| members_in_the_order_of_jsonb(item.get()));
            }
            _ => {}
        }
    }
}

fn shared(text: &str) -> Option<Arc<str>> {
    Some(Arc::from(text))
}

fn canonical(json: &str) -> Option<Arc<str>> {
    metadata::canonical(json).unwrap()
}

fn leg(account: &str, account_id: u64, side: Side, amount: i128, unit: &str, after: (i128, i128, u64)) -> Leg {
    let (debits, credits, version) = after;
    Leg {
        account: code(account),
        account_id,
        normal: Side::Credit,
        side,
        amount: signed(amount),
        asset: asset(unit),
        after: Balance {
            debits_posted: signed(debits),
            credits_posted: signed(credits),
            version,
            position: POSITION,
            ..Balance::default()
        },
    }
}

fn payment() -> Transaction {
    Transaction {
        kind: Kind::Payment,
        legs: [
            leg("wallet:alice", 3, Side::Debit, 1250, "EUR", (2000, 9000, 8)),
            leg("wallet:bob", 4, Side::Credit, 1250, "EUR", (0, 1250, 1)),
        ]
        .into_iter()
        .collect(),
        reference: None,
        description: None,
        metadata: None,
        more: None,
    }
}

fn declined(reason: Rejection) -> RejectedTransaction {
    RejectedTransaction {
        request: TransactionRequest::payment(
            code("wallet:alice"),
            code("wallet:bob"),
            Amount::from(1250),
            asset("EUR"),
        ),
        account_ids: [3, 4].into_iter().collect(),
        reason,
        scheduled: None,
    }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0193_5a5c_7b1e_7000_8000_0000_0000_0000 + number)
}

fn hold() -> HoldRef {
    HoldRef { id: id(1), position: 4700 }
}

fn rate() -> Rate {
    Rate { from: asset("EUR"), to: asset("USD"), rate: Arc::from("1.0815"), remainder: shared("-0.25") }
}

fn usage() -> Usage {
    let (bucket, since) = (1_795_219_200, 1_795_215_660);
    Usage { leg: 0, counted: Counted { limit: 17, bucket, since, count: 3, amount: Amount::from(3750) } }
}

fn with(more: More) -> Transaction {
    Transaction { more: Some(Box::new(more)), ..payment() }
}

fn with_origin(kind: Kind, origin: Origin) -> Fact {
    Fact::TransactionPosted(Transaction { kind, ..with(More { origin: Some(origin), ..More::default() }) })
}

fn captured() -> Fact {
    let origin = Origin::Capture { hold: hold(), remaining: Amount::from(750), captured: Amount::from(500) };
    with_origin(Kind::Capture, origin)
}

fn reversed(forced: bool) -> Fact {
    let remaining = [Amount::ZERO, Amount::from(250)].into_iter().collect();
    with_origin(Kind::Reversal, Origin::Reversal { transaction: id(2), remaining, forced })
}

fn released(reason: ReleaseReason) -> Fact {
    let mut legs = payment().legs;
    legs[1].after.credits_pending = Amount::from(40);
    Fact::HoldReleased(Release { hold: hold(), reason, legs, captured: Amount::from(500) })
}

fn scheduled() -> Scheduled {
    let rejected = declined(insufficient_funds());
    let request = TransactionRequest { effective_at: Some(time(86_400)), ..rejected.request };
    Scheduled { request, account_ids: rejected.account_ids }
}

fn cancelled() -> Fact {
    let (transaction, account) = (id(3), code("wallet:alice"));
    Fact::ScheduleCancelled(Cancelled { transaction, position: 4600, account, account_id: 3 })
}

/// A declined attempt on an earlier transaction.
fn declined_attempt(kind: Kind, reason: Rejection, force: bool) -> RejectedTransaction {
    let mut rejected = declined(reason);
    rejected.request.kind = kind;
    rejected.request.terms = Some(Box::new(Terms { of: Some(id(4)), force, ..Terms::default() }));
    rejected
}

fn changed(change: Change, after: Attributes, reason: Option<&str>) -> Fact {
    let account = code("wallet:alice");
    Fact::AccountChanged(AccountChanged { account, account_id: 3, change, after, reason: reason.map(Arc::from) })
}

fn freeze(scope: FreezeScope) -> Attributes {
    let limits = Limits { min_balance: Some(Amount::ZERO), max_balance: None };
    Attributes { freeze: Some(Freeze { scope, reason: Arc::from("court \"order\"") }), limits, ..Attributes::default() }
}

fn account_type() -> AccountType {
    let limits = Limits { min_balance: Some(signed(-500)), max_balance: Some(Amount::from(1000)) };
    AccountType { prefix: Arc::from("assets:bank:"), normal: Side::Debit, limits }
}

fn velocity_limit() -> VelocityLimit {
    VelocityLimit {
        name: Arc::from("daily-out"),
        scope: Scope::Prefix(Arc::from("wallet:")),
        asset: Some(asset("EUR")),
        direction: Direction::Out,
        window: Window::Day { zone: chrono_tz::Europe::Berlin },
        count_max: Some(20),
        amount_max: Some(Amount::from(100_000)),
    }
}

fn insufficient_funds() -> Rejection {
    Rejection::InsufficientFunds {
        account: code("wallet:alice"),
        available: Amount::from(950),
        would_be: signed(-300),
        min_balance: Amount::ZERO,
    }
}

#[test]
fn asset_defined() {
    check("asset_defined", &Fact::AssetDefined { code: asset("GOLD-1.oz"), scale: 37 });
}

#[test]
fn account_opened() {
    let fact = |normal, limits, metadata| Fact::AccountOpened {
        code: code("wallet:alice@example.com/a_b-c"),
        asset: asset("EUR"),
        normal,
        limits,
        metadata,
    };
    check("account_opened", &fact(Side::Credit, Limits::default(), None));
    let limits = Limits { min_balance: Some(signed(-5000)), max_balance: Some(Amount::MAX) };
    check("account_opened_with_limits", &fact(Side::Debit, limits, None));
    let limits = Limits { min_balance: Some(Amount::ZERO), max_balance: None };
    let metadata = canonical(r#"{"owner": "Zoë \"Z\"\n", "ids": [1, 2.50, 1e3], "": {"b": null, "a": true}}"#);
    check("account_opened_with_metadata", &fact(Side::Credit, limits, metadata));
}

#[test]
fn transaction_posted_payment() {
    check("transaction_posted_payment", &Fact::TransactionPosted(payment()));
}

#[test]
fn transaction_posted_of_38_digits() {
    let most = Amount::MAX.get();
    let legs = [
        leg("equity", 1, Side::Debit, most, "WEI", (most, 0, 1)),
        leg("pool", u64::MAX, Side::Credit, most, "WEI", (0, most, u64::MAX)),
    ];
    check(
        "transaction_posted_of_38_digits",
        &Fact::TransactionPosted(Transaction { legs: legs.into_iter().collect(), ..payment() }),
    );
}

#[test]
fn transaction_posted_of_several_assets() {
    let legs = [
        leg("wallet:alice", 3, Side::Debit, 1000, "EUR", (1750, 9000, 8)),
        leg("fx:eur", 5, Side::Credit, 990, "EUR", (0, 990, 1)),
        leg("fees", 6, Side::Credit, 10, "EUR", (0, 10, 1)),
        leg("fx:usd", 7, Side::Debit, 1080, "USD", (1080, 0, 1)),
        leg("wallet:alice-usd", 8, Side::Credit, 1080, "USD", (0, 1080, 1)),
    ];
    check(
        "transaction_posted_of_several_assets",
        &Fact::TransactionPosted(Transaction { legs: legs.into_iter().collect(), ..payment() }),
    );
}

#[test]
fn transaction_posted_on_a_debit_normal_account() {
    let mut transaction = payment();
    transaction.legs[1].normal = Side::Debit;
    check("transaction_posted_on_a_debit_normal_account", &Fact::TransactionPosted(transaction));
}

#[test]
fn transaction_posted_with_amounts_pending() {
    let mut transaction = payment();
    transaction.legs[0].after.debits_pending = Amount::from(300);
    transaction.legs[1].after.credits_pending = Amount::from(40);
    check("transaction_posted_with_amounts_pending", &Fact::TransactionPosted(transaction));
}

#[test]
fn transaction_posted_with_notes() {
    let transaction = Transaction {
        reference: shared("inv \"1\" \\ 2\n"),
        description: shared("Miete für März\t\u{1f3e0}\u{7f}\u{1}\u{2028}/"),
        metadata: canonical(r#"{"order": {"lines": [{"sku": "ä\\b", "qty": 2}], "paid": false}}"#),
        ..payment()
    };
    check("transaction_posted_with_notes", &Fact::TransactionPosted(transaction));
    // Empty is not the same as absent.
    let transaction = Transaction { reference: shared(""), ..payment() };
    check("transaction_posted_with_an_empty_reference", &Fact::TransactionPosted(transaction));
}

#[test]
fn transaction_rejected() {
    let account = code("wallet:alice");
    let capped = Rejection::BalanceLimitExceeded {
        account: code("wallet:bob"),
        would_be: Amount::from(10_250),
        max_balance: Amount::from(10_000),
    };
    let rejected = |reason| Fact::TransactionRejected(declined(reason));
    check("transaction_rejected_account_closed", &rejected(Rejection::AccountClosed { account: account.clone() }));
    check("transaction_rejected_account_frozen", &rejected(Rejection::AccountFrozen { account }));
    check("transaction_rejected_insufficient_funds", &rejected(insufficient_funds()));
    check("transaction_rejected_balance_limit_exceeded", &rejected(capped));
}

#[test]
fn transaction_rejected_with_everything() {
    let mut rejected = declined(insufficient_funds());
    let usd =
        |account: &str, side| LegRequest { account: code(account), side, amount: Amount::from(7), asset: asset("USD") };
    rejected.request.legs.extend([usd("fx:usd", Side::Debit), usd("wallet:bob-usd", Side::Credit)]);
    rejected.account_ids.extend([7, 9]);
    rejected.request.reference = shared("inv-1");
    rejected.request.description = shared("für \"Bob\"");
    rejected.request.metadata = canonical(r#"{"a": 1}"#);
    check("transaction_rejected_with_everything", &Fact::TransactionRejected(rejected));
}

#[test]
fn transactions_of_several_legs_and_rates() {
    let plain = Transaction { kind: Kind::Transaction, ..payment() };
    check_second("transaction_posted_of_several_legs", &Fact::TransactionPosted(plain));
    let unrounded = Rate { rate: Arc::from("1"), remainder: None, ..rate() };
    let more =
        More { rates: vec![rate(), unrounded], usage: vec![usage(), Usage { leg: 255, ..usage() }], origin: None };
    let transaction = Transaction { kind: Kind::Transaction, ..with(more) };
    check_second("transaction_posted_with_rates_and_usage", &Fact::TransactionPosted(transaction));
}

#[test]
fn holds() {
    let notes = Transaction { reference: shared("inv-1"), description: shared("Lunch"), ..payment() };
    let authorised = |transaction, expires_at| Fact::TransactionAuthorised(Authorisation { transaction, expires_at });
    check("transaction_authorised", &authorised(payment(), None));
    check("transaction_authorised_until", &authorised(notes.clone(), Some(time(1))));
    let counted = with(More { usage: vec![usage()], ..More::default() });
    check("transaction_authorised_with_usage", &authorised(counted, Some(time(2_000_000))));
    check_second("transaction_posted_capture", &captured());
    check("hold_voided", &released(ReleaseReason::Voided));
    check("hold_expired", &released(ReleaseReason::Expired));
}

#[test]
fn reversals() {
    check_second("transaction_posted_reversal", &reversed(false));
    check_second("transaction_posted_reversal_forced", &reversed(true));
}

#[test]
fn schedules() {
    check("transaction_scheduled", &Fact::TransactionScheduled(scheduled()));
    let mut exchange = scheduled();
    exchange.request.terms = Some(Box::new(Terms { rates: vec![rate()], ..Terms::default() }));
    exchange.request.kind = Kind::Transaction;
    exchange.request.reference = shared("rent");
    exchange.request.description = shared("März");
    exchange.request.metadata = canonical(r#"{"a": 1}"#);
    check("transaction_scheduled_with_everything", &Fact::TransactionScheduled(exchange));
    check("schedule_cancelled", &cancelled());
    check_second("transaction_posted_scheduled", &with_origin(Kind::Payment, Origin::Schedule { position: 4600 }));
    let rejected = RejectedTransaction { scheduled: Some(4600), ..declined(insufficient_funds()) };
    check_second("transaction_rejected_scheduled", &Fact::TransactionRejected(rejected));
}

#[test]
fn declined_attempts_on_earlier_transactions() {
    let account = code("wallet:alice");
    let rejected = |kind, reason, force| Fact::TransactionRejected(declined_attempt(kind, reason, force));
    let remaining = Amount::from(750);
    let over = Rejection::CaptureExceedsHold { account: account.clone(), remaining };
    check_second("transaction_rejected_capture_exceeds_hold", &rejected(Kind::Capture, over, false));
    for state in HoldState::ALL {
        let name = format!("transaction_rejected_hold_not_open_{}", state.as_str());
        let reason = Rejection::HoldNotOpen { account: account.clone(), state };
        check_second(&name, &rejected(Kind::Void, reason, false));
    }
    let over = Rejection::ReversalExceedsTransaction { account: account.clone(), remaining: Amount::ZERO };
    check_second("transaction_rejected_reversal_exceeds_transaction", &rejected(Kind::Reversal, over, true));
    let closed = Rejection::AccountClosed { account };
    let mut rejected = declined_attempt(Kind::Cancellation, closed, false);
    rejected.request.reference = shared("inv-1");
    rejected.request.description = shared("too late");
    rejected.request.metadata = canonical(r#"{"a": 1}"#);
    check_second("transaction_rejected_cancellation", &Fact::TransactionRejected(rejected));
}

#[test]
fn declined_holds_and_limits() {
    let account = code("wallet:alice");
    let expiries = [("never", Expiry::Never), ("at", Expiry::At(time(1))), ("in", Expiry::In(3600))];
    for (name, expiry) in expiries {
        let mut rejected = declined(insufficient_funds());
        rejected.request.terms = Some(Box::new(Terms { hold: Some(expiry), ..Terms::default() }));
        check_second(&format!("transaction_rejected_hold_{name}"), &Fact::TransactionRejected(rejected));
    }
    let rejected = |reason| Fact::TransactionRejected(declined(reason));
    let closed = Rejection::PeriodClosed { account: account.clone(), before: time(1) };
    check_second("transaction_rejected_period_closed", &rejected(closed));
    for (name, passes_at) in [("later", Some(time(1))), ("never", None)] {
        let (account, limit) = (account.clone(), Arc::from("daily-out"));
        let reason = Rejection::VelocityLimitExceeded { account, limit, passes_at };
        check_second(&format!("transaction_rejected_velocity_limit_{name}"), &rejected(reason));
    }
    let mut rejected = declined(insufficient_funds());
    rejected.request.kind = Kind::Transaction;
    rejected.request.terms = Some(Box::new(Terms { rates: vec![rate()], ..Terms::default() }));
    check_second("batch_rejected_with_rates", &Fact::BatchRejected { item: 2, rejected });
}

#[test]
fn account_changes() {
    let limits = Limits { min_balance: Some(signed(-5000)), max_balance: Some(Amount::from(1)) };
    let updated = Attributes { limits, metadata: canonical(r#"{"tier": 2}"#), ..Attributes::default() };
    check("account_updated", &changed(Change::Updated, updated, None));
    check("account_updated_to_nothing", &changed(Change::Updated, Attributes::default(), None));
    for scope in FreezeScope::ALL {
        let fact = changed(Change::Frozen, freeze(scope), Some("court \"order\""));
        check(&format!("account_frozen_{}", scope.as_str()), &fact);
    }
    check("account_unfrozen", &changed(Change::Unfrozen, Attributes::default(), Some("lifted")));
    let closed = Attributes { closed: true, ..freeze(FreezeScope::Debits) };
    check("account_closed", &changed(Change::Closed, closed, Some("gone")));
    check("account_reopened", &changed(Change::Reopened, Attributes::default(), None));
}

#[test]
fn rules_and_periods() {
    check("account_type_set", &Fact::RuleSet(Rule::AccountType(account_type())));
    let unbounded = AccountType { limits: Limits::default(), normal: Side::Credit, ..account_type() };
    check("account_type_set_without_limits", &Fact::RuleSet(Rule::AccountType(unbounded)));
    check("account_type_removed", &Fact::RuleRemoved(RuleKey::AccountType(Arc::from("assets:bank:"))));
    check("velocity_limit_set", &Fact::RuleSet(Rule::VelocityLimit(velocity_limit())));
    let counted = VelocityLimit {
        scope: Scope::Account(Arc::from("wallet:alice")),
        asset: None,
        direction: Direction::In,
        window: Window::Rolling { seconds: 3600 },
        amount_max: None,
        ..velocity_limit()
    };
    check("velocity_limit_set_for_an_account", &Fact::RuleSet(Rule::VelocityLimit(counted)));
    check("velocity_limit_removed", &Fact::RuleRemoved(RuleKey::VelocityLimit(Arc::from("daily-out"))));
    check("period_closed", &Fact::PeriodClosed { before: time(0) });
}

#[test]
fn batch_rejected() {
    let mut rejected = declined(insufficient_funds());
    rejected.request.reference = shared("payroll-7");
    check("batch_rejected", &Fact::BatchRejected { item: 41, rejected });
}

/// `effective_at` has its own column, so a payload does not repeat it.
#[test]
fn when_a_rejected_transaction_was_to_count_is_not_in_the_payload() {
    let mut rejected = declined(insufficient_funds());
    let without = written(&Fact::TransactionRejected(rejected.clone()));
    rejected.request.effective_at = Some(time(1));
    assert_eq!(written(&Fact::TransactionRejected(rejected)), without);
}

#[test]
fn an_unknown_type_or_version_stops_the_reader_and_says_what_to_do() {
    let what_to_do = "is unknown to this release; run the release that wrote it, or a newer one";
    let json = written(&Fact::TransactionPosted(payment()));
    assert_eq!(
        read("transaction_voided", &json),
        Err(format!(r#"event type "transaction_voided" in schema version 1 {what_to_do}"#))
    );
    for (type_name, version) in
        [("transaction_posted", 3), ("transaction_posted", 0), ("batch_rejected", -1), ("hold_voided", 2)]
    {
        let error = read_as(version, type_name, &json).unwrap_err();
        assert_eq!(error, format!("event type {type_name:?} in schema version {version} {what_to_do}"));
    }
}

/// Facts that between them have every member.
fn facts() -> Vec<Fact> {
    let limits = Limits { min_balance: Some(Amount::ZERO), max_balance: Some(Amount::from(5)) };
    let attributes = Attributes {
        closed: true,
        freeze: Some(Freeze { scope: FreezeScope::All, reason: Arc::from("why") }),
        limits,
        metadata: canonical(r#"{"a":1}"#),
    };
    let terms = Terms { hold: Some(Expiry::In(60)), rates: vec![rate()], of: Some(id(4)), force: true };
    let declined_with = |reason| {
        let mut rejected = RejectedTransaction { scheduled: Some(4600), ..declined(reason) };
        rejected.request.terms = Some(Box::new(terms.clone()));
        rejected
    };
    let account = code("a");
    let mut facts = vec![
        Fact::AssetDefined { code: asset("GOLD"), scale: 3 },
        Fact::AccountOpened {
            code: account.clone(),
            asset: asset("EUR"),
            normal: Side::Debit,
            limits,
            metadata: canonical(r#"{"a":1}"#),
        },
        Fact::TransactionPosted(payment()),
        Fact::TransactionPosted(with(More { rates: vec![rate()], usage: vec![usage()], origin: None })),
        captured(),
        reversed(true),
        with_origin(Kind::Payment, Origin::Schedule { position: 4600 }),
        Fact::TransactionAuthorised(Authorisation { transaction: payment(), expires_at: Some(time(1)) }),
        released(ReleaseReason::Voided),
        released(ReleaseReason::Expired),
        Fact::TransactionScheduled(scheduled()),
        cancelled(),
        Fact::BatchRejected { item: 1, rejected: declined(insufficient_funds()) },
        Fact::RuleSet(Rule::AccountType(account_type())),
        Fact::RuleSet(Rule::VelocityLimit(velocity_limit())),
        Fact::RuleRemoved(RuleKey::AccountType(Arc::from("a:"))),
        Fact::RuleRemoved(RuleKey::VelocityLimit(Arc::from("daily"))),
        Fact::PeriodClosed { before: time(1) },
    ];
    facts.extend(Change::ALL.map(|change| changed(change, attributes.clone(), Some("why"))));
    facts.extend(
        [
            insufficient_funds(),
            Rejection::HoldNotOpen { account: account.clone(), state: HoldState::Voided },
            Rejection::CaptureExceedsHold { account: account.clone(), remaining: Amount::from(1) },
            Rejection::ReversalExceedsTransaction { account: account.clone(), remaining: Amount::from(1) },
            Rejection::PeriodClosed { account: account.clone(), before: time(1) },
            Rejection::VelocityLimitExceeded {
                account: account.clone(),
                limit: Arc::from("daily"),
                passes_at: Some(time(1)),
            },
            Rejection::BalanceLimitExceeded { account, would_be: Amount::from(2), max_balance: Amount::from(1) },
        ]
        .map(|reason| Fact::TransactionRejected(declined_with(reason))),
    );
    facts
}

/// Where the objects of a payload are, other than a client's metadata.
fn places(json: &serde_json::Value) -> Vec<&'static str> {
    let known = [
        "",
        "/legs/0",
        "/rejection",
        "/hold",
        "/reversal",
        "/rates/0",
        "/usage/0",
        "/authorisation",
        "/freeze",
        "/window",
    ];
    known.into_iter().filter(|place| json.pointer(place).is_some()).collect()
}

/// A field that a reader does not know may change what the others mean.
#[test]
fn an_unknown_field_anywhere_in_a_payload_is_refused() {
    for fact in facts() {
        let json: serde_json::Value = serde_json::from_str(&written(&fact)).unwrap();
        for place in places(&json) {
            let mut spoilt = json.clone();
            spoilt.pointer_mut(place).unwrap()["min_balence"] = "0".into();
            let refused = read(fact.type_name(), &spoilt.to_string()).expect_err(place);
            let start =
                format!("the payload of event type {:?} is malformed: unknown field `min_balence`", fact.type_name());
            assert!(refused.starts_with(&start), "{refused}");
        }
    }
}

/// Members of the payloads in [`facts`] that may be absent, and absent mean something else.
fn optional(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "transaction_posted" => {
            &["/rates", "/rates/0/remainder", "/usage", "/hold", "/reversal", "/reversal/forced", "/scheduled_position"]
        }
        "transaction_authorised" => &["/expires_at"],
        "transaction_rejected" => &[
            "/rates",
            "/rates/0/remainder",
            "/force",
            "/subject_id",
            "/authorisation",
            "/authorisation/expires_in_s",
            "/scheduled_position",
            "/rejection/passes_at",
        ],
        "account_opened" => &["/metadata", "/min_balance", "/max_balance"],
        "account_updated" | "account_frozen" | "account_unfrozen" | "account_closed" | "account_reopened" => {
            &["/metadata", "/min_balance", "/max_balance", "/closed", "/freeze", "/reason"]
        }
        "account_type_set" => &["/min_balance", "/max_balance"],
        "velocity_limit_set" => &["/asset", "/count_max", "/amount_max"],
        _ => &[],
    }
}

/// Nobody may guess what is not there: taking any one member away is noticed, or
/// means something else.
#[test]
fn a_member_that_was_written_cannot_go_missing_unnoticed() {
    for fact in facts() {
        let json: serde_json::Value = serde_json::from_str(&written(&fact)).unwrap();
        for place in places(&json) {
            for name in json.pointer(place).unwrap().as_object().unwrap().keys() {
                let mut spoilt = json.clone();
                spoilt.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(name);
                let member = format!("{place}/{name}");
                match read(fact.type_name(), &spoilt.to_string()) {
                    Ok(other) => {
                        assert!(optional(fact.type_name()).contains(&&*member), "{member} of {}", fact.type_name());
                        assert_ne!(other, fact, "{member} of {}", fact.type_name());
                    }
                    Err(refused) => {
                        assert!(!optional(fact.type_name()).contains(&&*member), "{member}: {refused}");
                    }
                }
            }
        }
    }
}

#[track_caller]
fn check_refused(type_name: &str, json: &str, expected: &str) {
    assert_eq!(read(type_name, json), Err(format!("the payload of event type {type_name:?} {expected}")), "{json}");
}

#[test]
fn a_payload_that_makes_no_sense_is_refused() {
    let posted = written(&Fact::TransactionPosted(payment()));
    let rejected = written(&Fact::TransactionRejected(declined(insufficient_funds())));
    let with = |json: &str, from: &str, to: &str| {
        assert!(json.contains(from), "{from} in {json}");
        json.replace(from, to)
    };
    let check_posted =
        |from: &str, to: &str, expected: &str| check_refused("transaction_posted", &with(&posted, from, to), expected);
    check_posted(r#""payment""#, r#""gift""#, "holds an invalid kind");
    check_posted("wallet:alice", "wallet alice", "holds an invalid account");
    check_posted("EUR", "E R", "holds an invalid asset");
    check_posted(r#","asset":"EUR""#, "", "holds an invalid asset");
    check_posted("debit\"", "left\"", "holds an invalid side");
    check_posted("\"1250\"", "\"12.50\"", "holds an invalid amount");
    check_posted("\"9000\"", "\"1e3\"", "holds an invalid amount");
    let check_rejected = |from: &str, to: &str, expected: &str| {
        check_refused("transaction_rejected", &with(&rejected, from, to), expected);
    };
    check_rejected("insufficient_funds", "bad_mood", "holds an invalid rejection code");
    check_rejected(r#","available":"950""#, "", "holds an invalid rejection");
}

#[test]
fn one_types_members_in_another_types_payload_are_refused() {
    let refused = |type_name: &str, json: &str, expected: &str| {
        let refused = read(type_name, json).unwrap_err();
        let start = format!("the payload of event type {type_name:?} {expected}");
        assert!(refused.starts_with(&start), "{refused}");
    };
    let batch = written(&Fact::BatchRejected { item: 1, rejected: declined(insufficient_funds()) });
    let rejected = written(&Fact::TransactionRejected(declined(insufficient_funds())));
    let posted = written(&Fact::TransactionPosted(payment()));
    let (until, scheduled) = (r#""kind":"payment","expires_at":"2026-11-22T20:13:04.123456Z""#, written(&cancelled()));
    refused("transaction_rejected", &batch, "holds an invalid item");
    refused("batch_rejected", &rejected, "holds an invalid item");
    refused("transaction_posted", &rejected, "is malformed: missing field `debits`");
    refused("transaction_rejected", &posted, "is malformed: unknown field `debits`");
    refused("transaction_scheduled", &rejected, "holds an invalid rejection");
    refused("transaction_posted", &posted.replace(r#""kind":"payment""#, until), "holds an invalid expires_at");
    refused("transaction_authorised", &written(&captured()), "holds an invalid origin");
    refused("hold_voided", &written(&captured()), "is malformed: unknown field `kind`");
    refused("transaction_scheduled", &scheduled, "is malformed: ");
    let when = rejected.replace(r#""kind":"payment""#, &until.replace("expires_at", "effective_at"));
    refused("transaction_rejected", &when, "holds an invalid effective_at");
}

/// What is usual is left out; stated all the same, it was not written by us.
#[test]
fn what_would_be_left_out_is_refused() {
    let posted = written(&reversed(true));
    for (from, to, what) in [
        (r#""forced":true"#, r#""forced":false"#, "forced"),
        (r#""kind""#, r#""rates":[],"kind""#, "rates"),
        (r#""kind""#, r#""usage":[],"kind""#, "usage"),
        (r#""kind""#, r#""scheduled_position":1,"kind""#, "origin"),
    ] {
        check_refused("transaction_posted", &posted.replace(from, to), &format!("holds an invalid {what}"));
    }
    let open = r#"{"account":"a","account_id":3,"closed":false}"#;
    check_refused("account_reopened", open, "holds an invalid closed");
    let both = r#"{"name":"a","account":"a","prefix":"a","direction":"in","window":{"seconds":60}}"#;
    check_refused("velocity_limit_set", both, "holds an invalid scope");
    for (window, what) in [("{}", "window"), (r#"{"seconds":1,"zone":"UTC"}"#, "window"), (r#"{"zone":"X"}"#, "zone")] {
        let json = format!(r#"{{"name":"a","account":"a","direction":"in","window":{window}}}"#);
        check_refused("velocity_limit_set", &json, &format!("holds an invalid {what}"));
    }
}

#[test]
fn a_rate_is_a_plain_decimal() {
    let json =
        |rate: &str| written(&Fact::TransactionPosted(with(More { rates: vec![rate_of(rate)], ..More::default() })));
    for good in ["1", "0.5", "-0.25", "00.10"] {
        assert!(read("transaction_posted", &json(good)).is_ok(), "{good}");
    }
    for bad in ["", ".", "1.", ".5", "1e3", "+1", "--1", "1.2.3", " 1", "NaN"] {
        check_refused("transaction_posted", &json(bad), "holds an invalid rate");
    }
}

fn rate_of(text: &str) -> Rate {
    Rate { rate: Arc::from(text), ..rate() }
}

/// Metadata is an object; anything else in its place was not written by us.
#[test]
fn metadata_that_is_no_object_is_refused() {
    let opened = |metadata: &str| format!(r#"{{"account":"a","asset":"EUR","normal":"credit","metadata":{metadata}}}"#);
    for bad in ["[1]", "\"a\"", "1", "true", r#"{"a":"\u0000"}"#] {
        check_refused("account_opened", &opened(bad), "holds an invalid metadata");
    }
    assert!(read("account_opened", &opened(r#"{"a":1}"#)).is_ok());
}

/// PostgreSQL keeps a payload as `jsonb`: members in its own order, spaces, and
/// whole numbers without an exponent. It means the same.
#[test]
fn a_payload_that_went_through_jsonb_means_the_same() {
    let json = r#"{"kind": "payment", "legs": [
        {"side": "debit", "amount": "1250", "debits": "2000", "account": "wallet:alice", "credits": "9000", "version": 8, "account_id": 3},
        {"side": "credit", "amount": "1250", "debits": "0", "account": "wallet:bob", "credits": "1250", "version": 1, "account_id": 4}
      ], "asset": "EUR", "metadata": {"b": 10000000000000000, "aa": [0.0000001, {"x": 1.50}]}, "reference": "ü"}"#;
    let transaction = Transaction {
        reference: shared("ü"),
        metadata: canonical(r#"{"aa": [1e-7, {"x": 1.5}], "b": 1e16}"#),
        ..payment()
    };
    assert_eq!(read("transaction_posted", json), Ok(Fact::TransactionPosted(transaction)));
}

fn any_account() -> impl Strategy<Value = AccountCode> {
    "[A-Za-z0-9:_.@/-]{1,128}".prop_map(|text| code(&text))
}

fn any_asset() -> impl Strategy<Value = AssetCode> {
    prop_oneof![Just(asset("EUR")), "[A-Za-z0-9:_.@/-]{1,32}".prop_map(|text| asset(&text))]
}

fn any_amount() -> impl Strategy<Value = Amount> {
    let most = Amount::MAX.get();
    prop_oneof![3 => -1000_i128..1000, 1 => -most..=most, 1 => i128::from(i64::MIN) - 2..=i128::from(i64::MIN) + 2]
        .prop_map(signed)
}

fn any_side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Debit), Just(Side::Credit)]
}

fn any_text() -> impl Strategy<Value = Option<Arc<str>>> {
    prop_oneof![
        2 => Just(None),
        1 => "[ -~]{0,40}".prop_map(|text| shared(&text)),
        1 => any::<String>().prop_map(|text| shared(&text)),
    ]
}

/// Numbers, texts and nesting of any kind, in the form in which the core holds them.
fn any_metadata() -> impl Strategy<Value = Option<Arc<str>>> {
    let text = || any::<String>().prop_map(|text| text.replace('\0', ""));
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text().prop_map(Into::into),
    ];
    let tree = leaf.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    });
    let object = prop::collection::vec((text(), tree), 0..4)
        .prop_map(|members| serde_json::Value::Object(members.into_iter().collect()));
    object.prop_map(|object| canonical(&object.to_string()))
}

fn any_balance() -> impl Strategy<Value = Balance> {
    (any_amount(), any_amount(), any_amount(), any_amount(), any::<u64>()).prop_map(
        |(debits_posted, credits_posted, debits_pending, credits_pending, version)| Balance {
            debits_posted,
            credits_posted,
            debits_pending,
            credits_pending,
            version,
            position: POSITION,
        },
    )
}

fn any_leg() -> impl Strategy<Value = Leg> {
    (any_account(), any::<u64>(), any_side(), any_side(), any_amount(), any_asset(), any_balance()).prop_map(
        |(account, account_id, normal, side, amount, asset, after)| Leg {
            account,
            account_id,
            normal,
            side,
            amount,
            asset,
            after,
        },
    )
}

fn any_transaction() -> impl Strategy<Value = Transaction> {
    (prop::collection::vec(any_leg(), 1..9), any_text(), any_text(), any_metadata()).prop_map(
        |(legs, reference, description, metadata)| Transaction {
            kind: Kind::Payment,
            legs: legs.into_iter().collect(),
            reference,
            description,
            metadata,
            more: None,
        },
    )
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(&Kind::ALL[..])
}

fn any_time() -> impl Strategy<Value = DateTime<Utc>> {
    // Years of four digits.
    (-62_000_000_000_000_000_i64..253_000_000_000_000_000)
        .prop_map(|micros| DateTime::from_timestamp_micros(micros).unwrap())
}

fn any_id() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn any_name() -> impl Strategy<Value = Arc<str>> {
    any_text().prop_map(|text| text.unwrap_or_else(|| Arc::from("name")))
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let remainder = prop::option::of("-?0\\.[0-9]{1,18}".prop_map(Arc::from));
    (any_asset(), any_asset(), "[0-9]{1,18}(\\.[0-9]{1,18})?", remainder).prop_map(|(from, to, rate, remainder)| Rate {
        from,
        to,
        rate: rate.into(),
        remainder,
    })
}

fn any_rates() -> impl Strategy<Value = Vec<Rate>> {
    prop::collection::vec(any_rate(), 0..3)
}

fn any_usage() -> impl Strategy<Value = Vec<Usage>> {
    let one = (any::<u16>(), any::<u64>(), any::<i64>(), any::<i64>(), any::<u32>(), any_amount()).prop_map(
        |(leg, limit, bucket, since, count, amount)| Usage {
            leg,
            counted: Counted { limit, bucket, since, count, amount },
        },
    );
    prop::collection::vec(one, 0..3)
}

fn any_hold() -> impl Strategy<Value = HoldRef> {
    (any_id(), any::<u64>()).prop_map(|(id, position)| HoldRef { id, position })
}

fn any_origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        (any_hold(), any_amount(), any_amount()).prop_map(|(hold, remaining, captured)| Origin::Capture {
            hold,
            remaining,
            captured
        }),
        (any_id(), prop::collection::vec(any_amount(), 0..5), any::<bool>()).prop_map(
            |(transaction, remaining, forced)| Origin::Reversal { transaction, remaining: remaining.into(), forced }
        ),
        any::<u64>().prop_map(|position| Origin::Schedule { position }),
    ]
}

fn any_posted() -> impl Strategy<Value = Transaction> {
    let more = (prop::option::of(any_origin()), any_rates(), any_usage()).prop_map(|(origin, rates, usage)| More {
        origin,
        rates,
        usage,
    });
    let plain = prop_oneof![Just(More::default()), more];
    (any_transaction(), any_kind(), plain).prop_map(|(transaction, kind, more)| Transaction {
        kind,
        more: (more != More::default()).then(|| Box::new(more)),
        ..transaction
    })
}

fn any_authorisation() -> impl Strategy<Value = Authorisation> {
    (any_posted(), prop::option::of(any_time())).prop_map(|(mut transaction, expires_at)| {
        if let Some(more) = &mut transaction.more {
            more.origin = None;
        }
        transaction.more = transaction.more.filter(|more| **more != More::default());
        Authorisation { transaction, expires_at }
    })
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let expiry = prop_oneof![Just(Expiry::Never), any_time().prop_map(Expiry::At), any::<u32>().prop_map(Expiry::In)];
    let terms = (prop::option::of(expiry), any_rates(), prop::option::of(any_id()), any::<bool>())
        .prop_map(|(hold, rates, of, force)| Terms { hold, rates, of, force });
    prop_oneof![Just(Terms::default()), terms]
}

fn boxed(terms: Terms) -> Option<Box<Terms>> {
    (terms != Terms::default()).then(|| Box::new(terms))
}

fn any_release() -> impl Strategy<Value = Release> {
    let reason = prop_oneof![Just(ReleaseReason::Voided), Just(ReleaseReason::Expired)];
    (any_hold(), reason, any_transaction(), any_amount())
        .prop_map(|(hold, reason, Transaction { legs, .. }, captured)| Release { hold, reason, legs, captured })
}

fn any_scheduled() -> impl Strategy<Value = Scheduled> {
    (any_rejected(), any_time(), any_rates()).prop_map(|(rejected, effective_at, rates)| {
        let RejectedTransaction { request, account_ids, .. } = rejected;
        let terms = boxed(Terms { rates, ..Terms::default() });
        Scheduled { request: TransactionRequest { effective_at: Some(effective_at), terms, ..request }, account_ids }
    })
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (prop::option::of(any_amount()), prop::option::of(any_amount()))
        .prop_map(|(min_balance, max_balance)| Limits { min_balance, max_balance })
}

fn any_change() -> impl Strategy<Value = AccountChanged> {
    let freeze =
        (prop::sample::select(&FreezeScope::ALL[..]), any_name()).prop_map(|(scope, reason)| Freeze { scope, reason });
    let after = (any::<bool>(), prop::option::of(freeze), any_limits(), any_metadata())
        .prop_map(|(closed, freeze, limits, metadata)| Attributes { closed, freeze, limits, metadata });
    (any_account(), any::<u64>(), prop::sample::select(&Change::ALL[..]), after, any_text()).prop_map(
        |(account, account_id, change, after, reason)| AccountChanged { account, account_id, change, after, reason },
    )
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let account_type = (any_name(), any_side(), any_limits())
        .prop_map(|(prefix, normal, limits)| Rule::AccountType(AccountType { prefix, normal, limits }));
    let scope = prop_oneof![any_name().prop_map(Scope::Account), any_name().prop_map(Scope::Prefix)];
    let window = prop_oneof![
        any::<u32>().prop_map(|seconds| Window::Rolling { seconds }),
        prop::sample::select(&chrono_tz::TZ_VARIANTS[..]).prop_map(|zone| Window::Day { zone }),
    ];
    let direction = prop_oneof![Just(Direction::Out), Just(Direction::In)];
    let maxima = (prop::option::of(any::<u32>()), prop::option::of(any_amount()));
    let velocity_limit = (any_name(), scope, prop::option::of(any_asset()), direction, window, maxima).prop_map(
        |(name, scope, asset, direction, window, (count_max, amount_max))| {
            Rule::VelocityLimit(VelocityLimit { name, scope, asset, direction, window, count_max, amount_max })
        },
    );
    prop_oneof![account_type, velocity_limit]
}

fn any_rejection() -> impl Strategy<Value = Rejection> {
    let state = prop::sample::select(&HoldState::ALL[..]);
    let more = (state, any_time(), prop::option::of(any_time()), any_name());
    (any_account(), any_amount(), any_amount(), any_amount(), 0..9, more).prop_map(
        |(account, available, would_be, bound, which, (state, before, passes_at, limit))| match which {
            0 => Rejection::AccountClosed { account },
            1 => Rejection::AccountFrozen { account },
            2 => Rejection::InsufficientFunds { account, available, would_be, min_balance: bound },
            3 => Rejection::BalanceLimitExceeded { account, would_be, max_balance: bound },
            4 => Rejection::HoldNotOpen { account, state },
            5 => Rejection::CaptureExceedsHold { account, remaining: bound },
            6 => Rejection::ReversalExceedsTransaction { account, remaining: bound },
            7 => Rejection::PeriodClosed { account, before },
            _ => Rejection::VelocityLimitExceeded { account, limit, passes_at },
        },
    )
}

fn any_rejected() -> impl Strategy<Value = RejectedTransaction> {
    let scheduled = prop::option::of(any::<u64>());
    (any_transaction(), any_kind(), any_terms(), any_rejection(), scheduled).prop_map(
        |(transaction, kind, terms, reason, scheduled)| RejectedTransaction {
            account_ids: transaction.legs.iter().map(|leg| leg.account_id).collect(),
            request: TransactionRequest {
                kind,
                legs: transaction
                    .legs
                    .into_iter()
                    .map(|Leg { account, side, amount, asset, .. }| LegRequest { account, side, amount, asset })
                    .collect(),
                reference: transaction.reference,
                description: transaction.description,
                metadata: transaction.metadata,
                effective_at: None,
                terms: boxed(terms),
            },
            reason,
            scheduled,
        },
    )
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let key = prop_oneof![any_name().prop_map(RuleKey::AccountType), any_name().prop_map(RuleKey::VelocityLimit)];
    prop_oneof![
        1 => (any_asset(), any::<u8>()).prop_map(|(code, scale)| Fact::AssetDefined { code, scale }),
        2 => (any_account(), any_asset(), any_side(), any_limits(), any_metadata()).prop_map(
            |(code, asset, normal, limits, metadata)| Fact::AccountOpened { code, asset, normal, limits, metadata }
        ),
        4 => any_posted().prop_map(Fact::TransactionPosted),
        3 => any_rejected().prop_map(Fact::TransactionRejected),
        1 => (0..10_000_usize, any_rejected()).prop_map(|(item, rejected)| Fact::BatchRejected { item, rejected }),
        2 => any_authorisation().prop_map(Fact::TransactionAuthorised),
        1 => any_release().prop_map(Fact::HoldReleased),
        1 => any_scheduled().prop_map(Fact::TransactionScheduled),
        1 => (any_id(), any::<u64>(), any_account(), any::<u64>()).prop_map(
            |(transaction, position, account, account_id)| {
                Fact::ScheduleCancelled(Cancelled { transaction, position, account, account_id })
            }
        ),
        2 => any_change().prop_map(Fact::AccountChanged),
        1 => any_rule().prop_map(Fact::RuleSet),
        1 => key.prop_map(Fact::RuleRemoved),
        1 => any_time().prop_map(|before| Fact::PeriodClosed { before }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_what_is_read(fact in any_fact()) {
        let json = written(&fact);
        prop_assert_eq!(read_as(payload::schema_version(&fact), fact.type_name(), &json), Ok(fact), "{}", json);
        members_in_the_order_of_jsonb(&json);
    }

    /// A reader of broken JSON says so and does not fall over.
    #[test]
    fn a_payload_that_was_cut_short_is_refused(fact in any_fact(), at in any::<prop::sample::Index>()) {
        let json = written(&fact);
        let cut: String = json.chars().take(at.index(json.chars().count())).collect();
        let refused = read(fact.type_name(), &cut).expect_err(&cut);
        prop_assert!(refused.contains("is malformed"), "{refused}");
    }
}
