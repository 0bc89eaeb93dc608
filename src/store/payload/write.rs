//! Writing: a fact as JSON.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use crate::ledger::{
    AccountChanged, AccountType, Amount, AssetCode, Cancelled, Counted, Expiry, Fact, Freeze, HoldRef, Kind, Leg,
    Limits, More, Origin, Rate, RejectedTransaction, Rejection, Release, Rule, RuleKey, Scheduled, Scope, Side,
    Transaction, TransactionRequest, Usage, VelocityLimit, Window,
};

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
            write_limits(out, limits);
            out.push('}');
        }
        Fact::TransactionPosted(transaction) => write_transaction(out, transaction, None),
        Fact::TransactionRejected(rejected) => write_rejected(out, rejected, None),
        Fact::BatchRejected { item, rejected } => write_rejected(out, rejected, Some(*item)),
        Fact::TransactionAuthorised(hold) => write_transaction(out, &hold.transaction, hold.expires_at),
        Fact::HoldReleased(release) => write_release(out, release),
        Fact::TransactionScheduled(scheduled) => write_scheduled(out, scheduled),
        Fact::ScheduleCancelled(Cancelled { transaction, position, account, account_id }) => {
            _ = write!(out, r#"{{"account":"{account}","account_id":{account_id},"transaction_id":"{transaction}""#);
            write_number(out, "scheduled_position", *position);
            out.push('}');
        }
        Fact::AccountChanged(changed) => write_account_changed(out, changed),
        Fact::RuleSet(Rule::AccountType(AccountType { prefix, normal, limits })) => {
            _ = write!(out, r#"{{"normal":"{}""#, normal.as_str());
            write_note(out, "prefix", Some(prefix));
            write_limits(out, limits);
            out.push('}');
        }
        Fact::RuleSet(Rule::VelocityLimit(limit)) => write_velocity_limit(out, limit),
        Fact::RuleRemoved(key) => {
            let (name, value) = match key {
                RuleKey::AccountType(prefix) => ("prefix", prefix),
                RuleKey::VelocityLimit(name) => ("name", name),
            };
            _ = write!(out, r#"{{"{name}":"#);
            write_escaped(out, value);
            out.push('}');
        }
        Fact::PeriodClosed { before } => {
            _ = write!(out, r#"{{"before":"{}"}}"#, text_of(*before));
        }
    }
}

fn write_transaction(out: &mut String, transaction: &Transaction, expires_at: Option<DateTime<Utc>>) {
    let shared = shared_asset(transaction.legs.iter().map(|leg| &leg.asset));
    let more = transaction.more.as_deref();
    let origin = more.and_then(|more| more.origin.as_ref());
    out.push('{');
    if let Some(Origin::Capture { hold, remaining, captured }) = origin {
        write_hold(out, hold, *captured, Some(*remaining));
    }
    write_kind(out, transaction.kind);
    write_legs(out, &transaction.legs, shared);
    if let Some(More { rates, usage, origin: _ }) = more {
        write_rates(out, rates);
        write_usage(out, usage);
    }
    write_metadata(out, transaction.metadata.as_deref());
    if let Some(Origin::Reversal { transaction, remaining, forced }) = origin {
        write_reversal(out, *transaction, remaining, *forced);
    }
    write_note(out, "reference", transaction.reference.as_deref());
    write_time(out, "expires_at", expires_at);
    write_note(out, "description", transaction.description.as_deref());
    if let Some(Origin::Schedule { position }) = origin {
        write_number(out, "scheduled_position", *position);
    }
    out.push('}');
}

fn write_release(out: &mut String, release: &Release) {
    let shared = shared_asset(release.legs.iter().map(|leg| &leg.asset));
    out.push('{');
    write_hold(out, &release.hold, release.captured, None);
    out.push_str(r#""legs":["#);
    write_legs(out, &release.legs, shared);
    out.push('}');
}

fn write_rejected(out: &mut String, rejected: &RejectedTransaction, item: Option<usize>) {
    let RejectedTransaction { request, account_ids, reason, scheduled } = rejected;
    out.push('{');
    if let Some(item) = item {
        _ = write!(out, r#""item":{item},"#);
    }
    write_request_legs(out, request, account_ids);
    let terms = request.terms.as_deref();
    if terms.is_some_and(|terms| terms.force) {
        out.push_str(r#","force":true"#);
    }
    write_rates(out, request.rates());
    write_metadata(out, request.metadata.as_deref());
    write_note(out, "reference", request.reference.as_deref());
    write_rejection(out, reason);
    if let Some(subject) = terms.and_then(|terms| terms.of) {
        write_uuid(out, "subject_id", subject);
    }
    write_note(out, "description", request.description.as_deref());
    if let Some(expiry) = request.hold() {
        out.push_str(r#","authorisation":"#);
        _ = match expiry {
            Expiry::Never => out.write_str("{}"),
            Expiry::At(at) => write!(out, r#"{{"expires_at":"{}"}}"#, text_of(at)),
            Expiry::In(seconds) => write!(out, r#"{{"expires_in_s":{seconds}}}"#),
        };
    }
    if let Some(position) = scheduled {
        write_number(out, "scheduled_position", *position);
    }
    out.push('}');
}

fn write_scheduled(out: &mut String, scheduled: &Scheduled) {
    let Scheduled { request, account_ids } = scheduled;
    out.push('{');
    write_request_legs(out, request, account_ids);
    write_rates(out, request.rates());
    write_metadata(out, request.metadata.as_deref());
    write_note(out, "reference", request.reference.as_deref());
    write_note(out, "description", request.description.as_deref());
    write_time(out, "effective_at", request.effective_at);
    out.push('}');
}

fn write_rejection(out: &mut String, reason: &Rejection) {
    _ = write!(out, r#","rejection":{{"code":"{}""#, reason.code());
    match reason {
        Rejection::HoldNotOpen { state, .. } => write_text(out, "state", state.as_str()),
        Rejection::PeriodClosed { before, .. } => write_time(out, "before", Some(*before)),
        Rejection::VelocityLimitExceeded { limit, .. } => write_note(out, "limit", Some(limit)),
        Rejection::CaptureExceedsHold { .. }
        | Rejection::ReversalExceedsTransaction { .. }
        | Rejection::AccountClosed { .. }
        | Rejection::AccountFrozen { .. }
        | Rejection::InsufficientFunds { .. }
        | Rejection::BalanceLimitExceeded { .. } => {}
    }
    write_text(out, "account", reason.account().as_str());
    match reason {
        Rejection::HoldNotOpen { .. }
        | Rejection::PeriodClosed { .. }
        | Rejection::AccountClosed { .. }
        | Rejection::AccountFrozen { .. } => {}
        Rejection::CaptureExceedsHold { remaining, .. } | Rejection::ReversalExceedsTransaction { remaining, .. } => {
            write_integer(out, "remaining", *remaining);
        }
        Rejection::VelocityLimitExceeded { passes_at, .. } => write_time(out, "passes_at", *passes_at),
        Rejection::InsufficientFunds { available, would_be, min_balance, .. } => {
            write_integer(out, "would_be", *would_be);
            write_integer(out, "available", *available);
            write_integer(out, "min_balance", *min_balance);
        }
        Rejection::BalanceLimitExceeded { would_be, max_balance, .. } => {
            write_integer(out, "would_be", *would_be);
            write_integer(out, "max_balance", *max_balance);
        }
    }
    out.push('}');
}

fn write_account_changed(out: &mut String, changed: &AccountChanged) {
    let AccountChanged { account, account_id, change: _, after, reason } = changed;
    out.push('{');
    if after.closed {
        out.push_str(r#""closed":true,"#);
    }
    if let Some(Freeze { scope, reason }) = &after.freeze {
        _ = write!(out, r#""freeze":{{"scope":"{}""#, scope.as_str());
        write_note(out, "reason", Some(reason));
        out.push_str("},");
    }
    if let Some(reason) = reason {
        out.push_str(r#""reason":"#);
        write_escaped(out, reason);
        out.push(',');
    }
    _ = write!(out, r#""account":"{account}""#);
    write_metadata(out, after.metadata.as_deref());
    write_number(out, "account_id", *account_id);
    write_limits(out, &after.limits);
    out.push('}');
}

fn write_velocity_limit(out: &mut String, limit: &VelocityLimit) {
    let VelocityLimit { name, scope, asset, direction, window, count_max, amount_max } = limit;
    out.push_str(r#"{"name":"#);
    write_escaped(out, name);
    if let Some(asset) = asset {
        write_text(out, "asset", asset.as_str());
    }
    if let Scope::Prefix(prefix) = scope {
        write_note(out, "prefix", Some(prefix));
    }
    _ = match window {
        Window::Rolling { seconds } => write!(out, r#","window":{{"seconds":{seconds}}}"#),
        Window::Day { zone } => write!(out, r#","window":{{"zone":"{}"}}"#, zone.name()),
    };
    if let Scope::Account(account) = scope {
        write_note(out, "account", Some(account));
    }
    if let Some(count_max) = count_max {
        write_number(out, "count_max", u64::from(*count_max));
    }
    write_text(out, "direction", direction.as_str());
    write_amount(out, "amount_max", *amount_max);
    out.push('}');
}

/// The kind, and the opening of the legs.
fn write_kind(out: &mut String, kind: Kind) {
    for part in [r#""kind":""#, kind.as_str(), r#"","legs":["#] {
        out.push_str(part);
    }
}

/// What follows on the opening of the legs, up to the asset that they share.
fn write_legs(out: &mut String, legs: &[Leg], shared: Option<&AssetCode>) {
    for (index, leg) in legs.iter().enumerate() {
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
    write_legs_end(out, shared);
}

/// The kind, and the legs as they were asked for.
fn write_request_legs(out: &mut String, request: &TransactionRequest, account_ids: &[u64]) {
    let shared = shared_asset(request.legs.iter().map(|leg| &leg.asset));
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
    write_legs_end(out, shared);
}

fn write_side(out: &mut String, index: usize, side: Side) {
    if index > 0 {
        out.push(',');
    }
    for part in [r#"{"side":""#, side.as_str(), "\""] {
        out.push_str(part);
    }
}

fn write_legs_end(out: &mut String, shared: Option<&AssetCode>) {
    out.push(']');
    if let Some(asset) = shared {
        write_text(out, "asset", asset.as_str());
    }
}

/// As the first of several members.
fn write_hold(out: &mut String, hold: &HoldRef, captured: Amount, remaining: Option<Amount>) {
    let mut buffer = Uuid::encode_buffer();
    for part in [r#""hold":{"id":""#, hold.id.hyphenated().encode_lower(&mut buffer), "\""] {
        out.push_str(part);
    }
    write_integer(out, "captured", captured);
    write_number(out, "position", hold.position);
    write_amount(out, "remaining", remaining);
    out.push_str("},");
}

fn write_reversal(out: &mut String, transaction: Uuid, remaining: &[Amount], forced: bool) {
    out.push_str(r#","reversal":{"#);
    if forced {
        out.push_str(r#""forced":true,"#);
    }
    out.push_str(r#""remaining":["#);
    for (index, amount) in remaining.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        _ = write!(out, r#"{comma}"{amount}""#);
    }
    out.push(']');
    write_uuid(out, "transaction_id", transaction);
    out.push('}');
}

fn write_rates(out: &mut String, rates: &[Rate]) {
    write_list(out, "rates", rates, |out, Rate { from, to, rate, remainder }| {
        _ = write!(out, r#"{{"to":"{to}","from":"{from}""#);
        write_note(out, "rate", Some(rate));
        write_note(out, "remainder", remainder.as_deref());
        out.push('}');
    });
}

fn write_usage(out: &mut String, usage: &[Usage]) {
    write_list(out, "usage", usage, |out, Usage { leg, counted }| {
        let Counted { limit, bucket, since, count, amount } = counted;
        _ = write!(
            out,
            r#"{{"leg":{leg},"count":{count},"limit":{limit},"since":{since},"amount":"{amount}","bucket":{bucket}}}"#
        );
    });
}

/// Nothing for an empty list.
fn write_list<T>(out: &mut String, name: &str, items: &[T], write_item: impl Fn(&mut String, &T)) {
    if items.is_empty() {
        return;
    }
    for part in [",\"", name, "\":["] {
        out.push_str(part);
    }
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_item(out, item);
    }
    out.push(']');
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

fn write_uuid(out: &mut String, name: &str, id: Uuid) {
    write_text(out, name, id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
}

fn write_time(out: &mut String, name: &str, time: Option<DateTime<Utc>>) {
    if let Some(time) = time {
        write_text(out, name, &text_of(time));
    }
}

fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn write_limits(out: &mut String, limits: &Limits) {
    write_amount(out, "max_balance", limits.max_balance);
    write_amount(out, "min_balance", limits.min_balance);
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
