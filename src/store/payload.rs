//! What the log says, as JSON: the payload of each event type, by version.
//!
//! Written by hand, because it is the hottest serialisation of all and its
//! bytes are a contract; read with serde. What is usual is left out: an asset
//! that all legs share stands once beside them, a credit-normal account and
//! zero pending amounts are not mentioned.
//!
//! Members stand in the order in which `jsonb` keeps them, shorter names first
//! and then by their bytes, which spares PostgreSQL the sorting: a quarter of its
//! reading of a payload. And an event reads the same from memory and from the log.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ledger::{
    AccountCode, Amount, AssetCode, Balance, Fact, Kind, Leg, LegRequest, Limits, Position, RejectedTransaction,
    Rejection, Side, Transaction, TransactionRequest,
};

/// The version that this release writes, and the newest that it reads.
pub const SCHEMA_VERSION: i16 = 1;

/// A payload that cannot be understood. Nobody may guess what it meant: readers stop.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error(
        "event type {type_name:?} in schema version {schema_version} is unknown to this release; \
         run the release that wrote it, or a newer one"
    )]
    Unknown { type_name: String, schema_version: i16 },
    #[error("the payload of event type {type_name:?} is malformed: {source}")]
    Malformed { type_name: String, source: serde_json::Error },
    #[error("the payload of event type {type_name:?} holds an invalid {what}")]
    Invalid { type_name: String, what: &'static str },
}

/// Appends the JSON of `fact` to `out`.
pub fn write(fact: &Fact, out: &mut String) {
    match fact {
        Fact::AssetDefined { code, scale } => {
            // Names need no escaping: they are plain ASCII by construction.
            _ = write!(out, r#"{{"asset":"{code}","scale":{scale}}}"#);
        }
        Fact::AccountOpened { code, asset, normal, limits, metadata } => {
            _ = write!(out, r#"{{"asset":"{asset}","normal":"{}","account":"{code}""#, normal.as_str());
            write_metadata(out, metadata.as_deref());
            write_amount(out, "max_balance", limits.max_balance);
            write_amount(out, "min_balance", limits.min_balance);
            out.push('}');
        }
        Fact::TransactionPosted(transaction) => write_transaction(out, transaction),
        Fact::TransactionRejected(rejected) => write_rejected(out, rejected, None),
        Fact::BatchRejected { item, rejected } => write_rejected(out, rejected, Some(*item)),
        _ => unimplemented!("payload"),
    }
}

fn write_transaction(out: &mut String, transaction: &Transaction) {
    let shared = shared_asset(transaction.legs.iter().map(|leg| &leg.asset));
    out.push('{');
    write_kind(out, transaction.kind);
    for (index, leg) in transaction.legs.iter().enumerate() {
        let Leg { account, account_id, normal, side, amount, asset, after } = leg;
        write_side(out, index, *side);
        if shared.is_none() {
            write_text(out, "asset", asset.as_str());
        }
        write_integer(out, "amount", *amount);
        write_integer(out, "debits", after.debits_posted);
        if *normal == Side::Debit {
            out.push_str(r#","normal":"debit""#);
        }
        write_text(out, "account", account.as_str());
        write_integer(out, "credits", after.credits_posted);
        write_number(out, "version", after.version);
        write_number(out, "account_id", *account_id);
        if !after.debits_pending.is_zero() {
            write_integer(out, "debits_pending", after.debits_pending);
        }
        if !after.credits_pending.is_zero() {
            write_integer(out, "credits_pending", after.credits_pending);
        }
        out.push('}');
    }
    out.push(']');
    if let Some(asset) = shared {
        write_text(out, "asset", asset.as_str());
    }
    write_metadata(out, transaction.metadata.as_deref());
    write_note(out, "reference", transaction.reference.as_deref());
    write_note(out, "description", transaction.description.as_deref());
    out.push('}');
}

fn write_rejected(out: &mut String, rejected: &RejectedTransaction, item: Option<usize>) {
    let RejectedTransaction { request, account_ids, reason, scheduled: _ } = rejected;
    let shared = shared_asset(request.legs.iter().map(|leg| &leg.asset));
    out.push('{');
    if let Some(item) = item {
        _ = write!(out, r#""item":{item},"#);
    }
    write_kind(out, request.kind);
    for (index, (leg, account_id)) in request.legs.iter().zip(account_ids).enumerate() {
        write_side(out, index, leg.side);
        if shared.is_none() {
            write_text(out, "asset", leg.asset.as_str());
        }
        write_integer(out, "amount", leg.amount);
        write_text(out, "account", leg.account.as_str());
        write_number(out, "account_id", *account_id);
        out.push('}');
    }
    out.push(']');
    if let Some(asset) = shared {
        write_text(out, "asset", asset.as_str());
    }
    write_metadata(out, request.metadata.as_deref());
    write_note(out, "reference", request.reference.as_deref());
    _ = write!(out, r#","rejection":{{"code":"{}","account":"{}""#, reason.code(), reason.account());
    match reason {
        Rejection::AccountClosed { .. } | Rejection::AccountFrozen { .. } => {}
        Rejection::InsufficientFunds { available, would_be, min_balance, .. } => {
            write_integer(out, "would_be", *would_be);
            write_integer(out, "available", *available);
            write_integer(out, "min_balance", *min_balance);
        }
        Rejection::BalanceLimitExceeded { would_be, max_balance, .. } => {
            write_integer(out, "would_be", *would_be);
            write_integer(out, "max_balance", *max_balance);
        }
        _ => unimplemented!("payload"),
    }
    out.push('}');
    write_note(out, "description", request.description.as_deref());
    out.push('}');
}

/// The kind, and the opening of the legs.
fn write_kind(out: &mut String, kind: Kind) {
    for part in [r#""kind":""#, kind.as_str(), r#"","legs":["#] {
        out.push_str(part);
    }
}

fn write_side(out: &mut String, index: usize, side: Side) {
    if index > 0 {
        out.push(',');
    }
    for part in [r#"{"side":""#, side.as_str(), "\""] {
        out.push_str(part);
    }
}

fn write_number(out: &mut String, name: &str, number: u64) {
    for part in [",\"", name, "\":", itoa::Buffer::new().format(number)] {
        out.push_str(part);
    }
}

fn write_integer(out: &mut String, name: &str, amount: Amount) {
    write_text(out, name, itoa::Buffer::new().format(amount.get()));
}

/// `text` must need no escaping.
fn write_text(out: &mut String, name: &str, text: &str) {
    for part in [",\"", name, "\":\"", text, "\""] {
        out.push_str(part);
    }
}

fn write_amount(out: &mut String, name: &str, amount: Option<Amount>) {
    if let Some(amount) = amount {
        write_integer(out, name, amount);
    }
}

fn write_note(out: &mut String, name: &str, text: Option<&str>) {
    if let Some(text) = text {
        for part in [",\"", name, "\":"] {
            out.push_str(part);
        }
        write_escaped(out, text);
    }
}

fn write_metadata(out: &mut String, metadata: Option<&str>) {
    if let Some(json) = metadata {
        out.push_str(r#","metadata":"#);
        out.push_str(json);
    }
}

/// A client's text as a JSON string.
pub fn write_escaped(out: &mut String, text: &str) {
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

fn shared_asset<'a>(mut assets: impl Iterator<Item = &'a AssetCode>) -> Option<&'a AssetCode> {
    let first = assets.next()?;
    assets.all(|asset| asset == first).then_some(first)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetDefinedV1 {
    asset: String,
    scale: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountOpenedV1 {
    account: String,
    asset: String,
    normal: String,
    min_balance: Option<String>,
    max_balance: Option<String>,
    metadata: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransactionV1<'a> {
    kind: &'a str,
    #[serde(borrow)]
    asset: Option<&'a str>,
    #[serde(borrow)]
    legs: Vec<LegV1<'a>>,
    #[serde(borrow)]
    rejection: Option<RejectionV1<'a>>,
    item: Option<usize>,
    reference: Option<String>,
    description: Option<String>,
    metadata: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LegV1<'a> {
    account: &'a str,
    account_id: Position,
    side: &'a str,
    amount: &'a str,
    asset: Option<&'a str>,
    normal: Option<&'a str>,
    debits: Option<&'a str>,
    credits: Option<&'a str>,
    debits_pending: Option<&'a str>,
    credits_pending: Option<&'a str>,
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RejectionV1<'a> {
    code: &'a str,
    account: &'a str,
    available: Option<&'a str>,
    would_be: Option<&'a str>,
    min_balance: Option<&'a str>,
    max_balance: Option<&'a str>,
}

/// The fact that a row of the log records.
///
/// # Errors
/// An unknown type or version, and anything else than what [`write`] writes.
pub fn read(type_name: &str, schema_version: i16, position: Position, json: &str) -> Result<Fact, PayloadError> {
    if schema_version != 1 {
        return Err(PayloadError::Unknown { type_name: type_name.to_owned(), schema_version });
    }
    let malformed = |source| PayloadError::Malformed { type_name: type_name.to_owned(), source };
    let invalid = |what| PayloadError::Invalid { type_name: type_name.to_owned(), what };
    match type_name {
        "asset_defined" => {
            let v1: AssetDefinedV1 = serde_json::from_str(json).map_err(malformed)?;
            let code = AssetCode::new(&v1.asset).map_err(|_| invalid("asset"))?;
            Ok(Fact::AssetDefined { code, scale: v1.scale })
        }
        "account_opened" => {
            let v1: AccountOpenedV1 = serde_json::from_str(json).map_err(malformed)?;
            account_opened(v1).map_err(invalid)
        }
        "transaction_posted" => {
            let v1: TransactionV1<'_> = serde_json::from_str(json).map_err(malformed)?;
            posted(v1, position).map(Fact::TransactionPosted).map_err(invalid)
        }
        "transaction_rejected" => {
            let v1: TransactionV1<'_> = serde_json::from_str(json).map_err(malformed)?;
            if v1.item.is_some() {
                return Err(invalid("item"));
            }
            rejected(v1).map(Fact::TransactionRejected).map_err(invalid)
        }
        "batch_rejected" => {
            let v1: TransactionV1<'_> = serde_json::from_str(json).map_err(malformed)?;
            let item = v1.item.ok_or_else(|| invalid("item"))?;
            rejected(v1).map(|rejected| Fact::BatchRejected { item, rejected }).map_err(invalid)
        }
        _ => Err(PayloadError::Unknown { type_name: type_name.to_owned(), schema_version }),
    }
}

fn account_opened(v1: AccountOpenedV1) -> Result<Fact, &'static str> {
    let bound = |text: Option<String>| text.map(|text| amount(&text)).transpose();
    Ok(Fact::AccountOpened {
        code: account(&v1.account)?,
        asset: AssetCode::new(&v1.asset).map_err(|_| "asset")?,
        normal: side(&v1.normal)?,
        limits: Limits { min_balance: bound(v1.min_balance)?, max_balance: bound(v1.max_balance)? },
        metadata: canonical(v1.metadata)?,
    })
}

fn posted(v1: TransactionV1<'_>, position: Position) -> Result<Transaction, &'static str> {
    if v1.rejection.is_some() {
        return Err("rejection");
    }
    if v1.item.is_some() {
        return Err("item");
    }
    let shared = shared(&v1)?;
    let leg = |leg: &LegV1<'_>| {
        let total = |text: Option<&str>| text.map_or(Err("total"), amount);
        let pending = |text: Option<&str>| text.map_or(Ok(Amount::ZERO), amount);
        Ok(Leg {
            account: account(leg.account)?,
            account_id: leg.account_id,
            normal: leg.normal.map_or(Ok(Side::Credit), side)?,
            side: side(leg.side)?,
            amount: amount(leg.amount)?,
            asset: leg_asset(leg, shared.as_ref())?,
            after: Balance {
                debits_posted: total(leg.debits)?,
                credits_posted: total(leg.credits)?,
                debits_pending: pending(leg.debits_pending)?,
                credits_pending: pending(leg.credits_pending)?,
                version: leg.version.ok_or("version")?,
                position,
            },
        })
    };
    Ok(Transaction {
        kind: Kind::parse(v1.kind).ok_or("kind")?,
        legs: v1.legs.iter().map(leg).collect::<Result<_, &'static str>>()?,
        reference: v1.reference.map(Arc::from),
        description: v1.description.map(Arc::from),
        metadata: canonical(v1.metadata)?,
        more: None,
    })
}

fn rejected(v1: TransactionV1<'_>) -> Result<RejectedTransaction, &'static str> {
    let shared = shared(&v1)?;
    let leg = |leg: &LegV1<'_>| {
        // What an account was left with stands in postings only.
        let totals = [leg.normal, leg.debits, leg.credits, leg.debits_pending, leg.credits_pending];
        if leg.version.is_some() || totals.iter().any(Option::is_some) {
            return Err("leg");
        }
        Ok(LegRequest {
            account: account(leg.account)?,
            side: side(leg.side)?,
            amount: amount(leg.amount)?,
            asset: leg_asset(leg, shared.as_ref())?,
        })
    };
    let reason = v1.rejection.as_ref().ok_or("rejection")?;
    Ok(RejectedTransaction {
        account_ids: v1.legs.iter().map(|leg| leg.account_id).collect(),
        reason: rejection(reason)?,
        scheduled: None,
        request: TransactionRequest {
            kind: Kind::parse(v1.kind).ok_or("kind")?,
            legs: v1.legs.iter().map(leg).collect::<Result<_, &'static str>>()?,
            reference: v1.reference.map(Arc::from),
            description: v1.description.map(Arc::from),
            metadata: canonical(v1.metadata)?,
            effective_at: None,
            terms: None,
        },
    })
}

fn rejection(v1: &RejectionV1<'_>) -> Result<Rejection, &'static str> {
    let account = account(v1.account)?;
    let stated = |text: Option<&str>| text.map_or(Err("rejection"), amount);
    match v1.code {
        "account_closed" => Ok(Rejection::AccountClosed { account }),
        "account_frozen" => Ok(Rejection::AccountFrozen { account }),
        "insufficient_funds" => Ok(Rejection::InsufficientFunds {
            account,
            available: stated(v1.available)?,
            would_be: stated(v1.would_be)?,
            min_balance: stated(v1.min_balance)?,
        }),
        "balance_limit_exceeded" => Ok(Rejection::BalanceLimitExceeded {
            account,
            would_be: stated(v1.would_be)?,
            max_balance: stated(v1.max_balance)?,
        }),
        _ => Err("rejection code"),
    }
}

fn account(text: &str) -> Result<AccountCode, &'static str> {
    AccountCode::new(text).map_err(|_| "account")
}

fn side(text: &str) -> Result<Side, &'static str> {
    Side::parse(text).ok_or("side")
}

fn amount(text: &str) -> Result<Amount, &'static str> {
    text.parse().map_err(|_| "amount")
}

fn shared(v1: &TransactionV1<'_>) -> Result<Option<AssetCode>, &'static str> {
    v1.asset.map(|code| AssetCode::new(code).map_err(|_| "asset")).transpose()
}

fn leg_asset(leg: &LegV1<'_>, shared: Option<&AssetCode>) -> Result<AssetCode, &'static str> {
    match (leg.asset, shared) {
        (Some(code), _) => AssetCode::new(code).map_err(|_| "asset"),
        (None, Some(shared)) => Ok(shared.clone()),
        (None, None) => Err("asset"),
    }
}

fn canonical(metadata: Option<Box<RawValue>>) -> Result<Option<Arc<str>>, &'static str> {
    metadata.map_or(Ok(None), |json| crate::metadata::canonical(json.get()).map_err(|_| "metadata"))
}
