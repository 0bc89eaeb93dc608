//! The JSON of the log. Its bytes are a contract: what is written today is
//! read by every later release, and by clients of `GET /events`.
//!
//! A snapshot that changes is a new schema version, or a mistake; but for the order
//! of members, which `jsonb` has of its own.

use std::sync::Arc;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use steelyard::ledger::{
    AccountCode, Amount, AssetCode, Balance, Fact, Kind, Leg, LegRequest, Limits, RejectedTransaction, Rejection, Side,
    Transaction, TransactionRequest,
};
use steelyard::metadata;
use steelyard::store::payload::{self, SCHEMA_VERSION};

use crate::scenario::{asset, code, signed, time};

/// Where the facts of this file stand in their log.
const POSITION: u64 = 4712;

fn written(fact: &Fact) -> String {
    let mut json = String::new();
    payload::write(fact, &mut json);
    json
}

fn read(type_name: &str, json: &str) -> Result<Fact, String> {
    payload::read(type_name, SCHEMA_VERSION, POSITION, json).map_err(|error| error.to_string())
}

/// The snapshot of a payload, which must also be JSON and mean what was written.
#[track_caller]
fn check(name: &str, fact: &Fact) {
    let json = written(fact);
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok_and(|value| value.is_object()), "{json}");
    assert_eq!(read(fact.type_name(), &json).as_ref(), Ok(fact), "{json}");
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
        match name.as_str() {
            "legs" => {
                let legs: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap();
                legs.iter().for_each(|leg| members_in_the_order_of_jsonb(leg.get()));
            }
            "rejection" => members_in_the_order_of_jsonb(value.get()),
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
    for version in [2, 0, -1, i16::MAX] {
        let error = payload::read("transaction_posted", version, POSITION, &json).unwrap_err();
        let expected = format!(r#"event type "transaction_posted" in schema version {version} {what_to_do}"#);
        assert_eq!(error.to_string(), expected);
    }
}

fn facts() -> Vec<Fact> {
    let limits = Limits { min_balance: Some(Amount::ZERO), max_balance: Some(Amount::from(5)) };
    vec![
        Fact::AssetDefined { code: asset("GOLD"), scale: 3 },
        Fact::AccountOpened {
            code: code("a"),
            asset: asset("EUR"),
            normal: Side::Debit,
            limits,
            metadata: canonical(r#"{"a":1}"#),
        },
        Fact::TransactionPosted(payment()),
        Fact::TransactionRejected(declined(insufficient_funds())),
        Fact::BatchRejected { item: 1, rejected: declined(insufficient_funds()) },
    ]
}

/// A field that a reader does not know may change what the others mean.
#[test]
fn an_unknown_field_anywhere_in_a_payload_is_refused() {
    for fact in facts() {
        let json: serde_json::Value = serde_json::from_str(&written(&fact)).unwrap();
        let mut places = vec![String::new()];
        places.extend(["/legs/0", "/rejection"].map(str::to_owned));
        for place in places.iter().filter(|place| json.pointer(place).is_some()) {
            let mut spoilt = json.clone();
            spoilt.pointer_mut(place).unwrap()["min_balence"] = "0".into();
            let refused = read(fact.type_name(), &spoilt.to_string()).expect_err(place);
            let start =
                format!("the payload of event type {:?} is malformed: unknown field `min_balence`", fact.type_name());
            assert!(refused.starts_with(&start), "{refused}");
        }
    }
}

/// Nobody may guess what is not there: taking any one field away is noticed.
#[test]
fn a_field_that_was_written_cannot_go_missing_unnoticed() {
    for fact in facts() {
        let json: serde_json::Value = serde_json::from_str(&written(&fact)).unwrap();
        for place in ["", "/legs/0", "/rejection"] {
            let Some(object) = json.pointer(place).and_then(|value| value.as_object()) else { continue };
            for name in object.keys() {
                let mut spoilt = json.clone();
                spoilt.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(name);
                let read = read(fact.type_name(), &spoilt.to_string());
                // These may be absent, and absent they mean something else.
                let optional = ["min_balance", "max_balance", "metadata"].contains(&name.as_str()) && place.is_empty();
                if optional {
                    assert!(read.is_ok_and(|other| other != fact), "{name} is optional");
                } else {
                    read.expect_err(&format!("{place}/{name} of {}", fact.type_name()));
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
    check_refused("transaction_rejected", &posted, "holds an invalid rejection");
    let check_rejected = |from: &str, to: &str, expected: &str| {
        check_refused("transaction_rejected", &with(&rejected, from, to), expected);
    };
    check_rejected("insufficient_funds", "bad_mood", "holds an invalid rejection code");
    check_rejected(r#","available":"950""#, "", "holds an invalid rejection");
}

#[test]
fn one_types_fields_in_another_types_payload_are_refused() {
    let batch = written(&Fact::BatchRejected { item: 1, rejected: declined(insufficient_funds()) });
    check_refused("transaction_rejected", &batch, "holds an invalid item");
    let rejected = written(&Fact::TransactionRejected(declined(insufficient_funds())));
    check_refused("batch_rejected", &rejected, "holds an invalid item");
    check_refused("transaction_posted", &rejected, "holds an invalid rejection");
    let legs_with_totals =
        rejected.replace(r#""amount":"1250""#, r#""amount":"1250","debits":"1","credits":"1","version":1"#);
    check_refused("transaction_rejected", &legs_with_totals, "holds an invalid leg");
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
        },
    )
}

fn any_rejection() -> impl Strategy<Value = Rejection> {
    (any_account(), any_amount(), any_amount(), any_amount(), 0..4).prop_map(
        |(account, available, would_be, bound, which)| match which {
            0 => Rejection::AccountClosed { account },
            1 => Rejection::AccountFrozen { account },
            2 => Rejection::InsufficientFunds { account, available, would_be, min_balance: bound },
            _ => Rejection::BalanceLimitExceeded { account, would_be, max_balance: bound },
        },
    )
}

fn any_rejected() -> impl Strategy<Value = RejectedTransaction> {
    (any_transaction(), any_rejection()).prop_map(|(transaction, reason)| RejectedTransaction {
        account_ids: transaction.legs.iter().map(|leg| leg.account_id).collect(),
        request: TransactionRequest {
            kind: transaction.kind,
            legs: transaction
                .legs
                .into_iter()
                .map(|Leg { account, side, amount, asset, .. }| LegRequest { account, side, amount, asset })
                .collect(),
            reference: transaction.reference,
            description: transaction.description,
            metadata: transaction.metadata,
            effective_at: None,
        },
        reason,
    })
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let bounds = (prop::option::of(any_amount()), prop::option::of(any_amount()))
        .prop_map(|(min_balance, max_balance)| Limits { min_balance, max_balance });
    prop_oneof![
        1 => (any_asset(), any::<u8>()).prop_map(|(code, scale)| Fact::AssetDefined { code, scale }),
        2 => (any_account(), any_asset(), any_side(), bounds, any_metadata()).prop_map(
            |(code, asset, normal, limits, metadata)| Fact::AccountOpened { code, asset, normal, limits, metadata }
        ),
        4 => any_transaction().prop_map(Fact::TransactionPosted),
        3 => any_rejected().prop_map(Fact::TransactionRejected),
        1 => (0..10_000_usize, any_rejected()).prop_map(|(item, rejected)| Fact::BatchRejected { item, rejected }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_what_is_read(fact in any_fact()) {
        let json = written(&fact);
        prop_assert_eq!(read(fact.type_name(), &json), Ok(fact), "{}", json);
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
