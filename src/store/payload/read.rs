//! Reading: JSON of any version as a fact.
//!
//! One form serves all versions of a type, because later ones only added members:
//! a row of the first version is one that has none of them. Forms list the members
//! that their types may have, and serde refuses all others; what more there is to
//! refuse stands below.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use uuid::Uuid;

use super::{PayloadError, newest_version, schema_version};
use crate::ledger::{
    AccountChanged, AccountCode, AccountId, AccountType, Amount, AssetCode, Attributes, Authorisation, Balance,
    Cancelled, Change, Counted, Direction, Expiry, Fact, Freeze, FreezeScope, HoldRef, HoldState, Kind, Leg,
    LegRequest, Limits, More, Origin, Position, Rate, RejectedTransaction, Rejection, Release, ReleaseReason, Rule,
    RuleKey, Scheduled, Scope, Side, Terms, Transaction, TransactionRequest, Usage, VelocityLimit, Window,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AssetDefined {
    asset: String,
    scale: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountOpened {
    account: String,
    asset: String,
    normal: String,
    min_balance: Option<String>,
    max_balance: Option<String>,
    metadata: Option<Box<RawValue>>,
}

/// What was posted or authorised.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Moved<'a> {
    kind: &'a str,
    #[serde(borrow)]
    asset: Option<&'a str>,
    #[serde(borrow)]
    legs: Vec<MovedLeg<'a>>,
    reference: Option<String>,
    description: Option<String>,
    metadata: Option<Box<RawValue>>,
    #[serde(borrow)]
    rates: Option<Vec<RateMember<'a>>>,
    #[serde(borrow)]
    usage: Option<Vec<UsageMember<'a>>>,
    #[serde(borrow)]
    hold: Option<HoldMember<'a>>,
    #[serde(borrow)]
    reversal: Option<ReversalMember<'a>>,
    scheduled_position: Option<Position>,
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MovedLeg<'a> {
    account: &'a str,
    account_id: AccountId,
    side: &'a str,
    amount: &'a str,
    asset: Option<&'a str>,
    normal: Option<&'a str>,
    debits: &'a str,
    credits: &'a str,
    debits_pending: Option<&'a str>,
    credits_pending: Option<&'a str>,
    version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateMember<'a> {
    from: &'a str,
    to: &'a str,
    rate: &'a str,
    remainder: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageMember<'a> {
    leg: u16,
    limit: Position,
    bucket: i64,
    since: i64,
    count: u32,
    amount: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldMember<'a> {
    id: Uuid,
    position: Position,
    captured: &'a str,
    remaining: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReversalMember<'a> {
    transaction_id: Uuid,
    #[serde(borrow)]
    remaining: SmallVec<[&'a str; 2]>,
    forced: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Released<'a> {
    #[serde(borrow)]
    hold: HoldMember<'a>,
    asset: Option<&'a str>,
    #[serde(borrow)]
    legs: Vec<MovedLeg<'a>>,
}

/// What was declined or scheduled.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    kind: &'a str,
    #[serde(borrow)]
    asset: Option<&'a str>,
    #[serde(borrow)]
    legs: Vec<AskedLeg<'a>>,
    #[serde(borrow)]
    rejection: Option<RejectionMember<'a>>,
    item: Option<usize>,
    reference: Option<String>,
    description: Option<String>,
    metadata: Option<Box<RawValue>>,
    #[serde(borrow)]
    rates: Option<Vec<RateMember<'a>>>,
    authorisation: Option<AuthorisationMember>,
    subject_id: Option<Uuid>,
    force: Option<bool>,
    scheduled_position: Option<Position>,
    effective_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedLeg<'a> {
    account: &'a str,
    account_id: AccountId,
    side: &'a str,
    amount: &'a str,
    asset: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorisationMember {
    expires_at: Option<DateTime<Utc>>,
    expires_in_s: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RejectionMember<'a> {
    code: &'a str,
    account: &'a str,
    available: Option<&'a str>,
    would_be: Option<&'a str>,
    min_balance: Option<&'a str>,
    max_balance: Option<&'a str>,
    remaining: Option<&'a str>,
    state: Option<&'a str>,
    before: Option<DateTime<Utc>>,
    limit: Option<String>,
    passes_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleCancelled<'a> {
    account: &'a str,
    account_id: AccountId,
    transaction_id: Uuid,
    scheduled_position: Position,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    account: String,
    account_id: AccountId,
    closed: Option<bool>,
    freeze: Option<FreezeMember>,
    min_balance: Option<String>,
    max_balance: Option<String>,
    metadata: Option<Box<RawValue>>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FreezeMember {
    scope: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountTypeSet {
    prefix: String,
    normal: String,
    min_balance: Option<String>,
    max_balance: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountTypeRemoved {
    prefix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VelocityLimitSet {
    name: String,
    account: Option<String>,
    prefix: Option<String>,
    asset: Option<String>,
    direction: String,
    window: WindowMember,
    count_max: Option<u32>,
    amount_max: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowMember {
    seconds: Option<u32>,
    zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VelocityLimitRemoved {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeriodClosed {
    before: DateTime<Utc>,
}

/// The fact that a row of the log records.
///
/// # Errors
/// An unknown type or version, and anything else than what [`super::write()`] writes.
pub fn read(type_name: &str, version: i16, position: Position, json: &str) -> Result<Fact, PayloadError> {
    if !newest_version(type_name).is_some_and(|newest| (1..=newest).contains(&version)) {
        return Err(PayloadError::Unknown { type_name: type_name.to_owned(), schema_version: version });
    }
    let fact = fact(type_name, position, json).map_err(|failure| match failure {
        Failure::Malformed(source) => PayloadError::Malformed { type_name: type_name.to_owned(), source },
        Failure::Invalid(what) => PayloadError::Invalid { type_name: type_name.to_owned(), what },
    })?;
    if schema_version(&fact) > version {
        // It holds what only a later version may say.
        return Err(PayloadError::Invalid { type_name: type_name.to_owned(), what: "schema version" });
    }
    Ok(fact)
}

enum Failure {
    Malformed(serde_json::Error),
    Invalid(&'static str),
}

impl From<&'static str> for Failure {
    fn from(what: &'static str) -> Self {
        Self::Invalid(what)
    }
}

fn fact(type_name: &str, position: Position, json: &str) -> Result<Fact, Failure> {
    Ok(match type_name {
        "asset_defined" => {
            let AssetDefined { asset, scale } = parse(json)?;
            Fact::AssetDefined { code: asset_code(&asset)?, scale }
        }
        "account_opened" => {
            let form: AccountOpened = parse(json)?;
            Fact::AccountOpened {
                code: account(&form.account)?,
                asset: asset_code(&form.asset)?,
                normal: side(&form.normal)?,
                limits: limits(form.min_balance, form.max_balance)?,
                metadata: canonical(form.metadata)?,
            }
        }
        "transaction_posted" => Fact::TransactionPosted(posted(parse(json)?, position)?),
        "transaction_rejected" => {
            let form: Asked<'_> = parse(json)?;
            absent(form.item, "item")?;
            Fact::TransactionRejected(rejected(form)?)
        }
        "batch_rejected" => {
            let form: Asked<'_> = parse(json)?;
            Fact::BatchRejected { item: form.item.ok_or("item")?, rejected: rejected(form)? }
        }
        "transaction_authorised" => Fact::TransactionAuthorised(authorised(parse(json)?, position)?),
        "hold_voided" => Fact::HoldReleased(released(parse(json)?, ReleaseReason::Voided, position)?),
        "hold_expired" => Fact::HoldReleased(released(parse(json)?, ReleaseReason::Expired, position)?),
        "transaction_scheduled" => Fact::TransactionScheduled(scheduled(parse(json)?)?),
        "schedule_cancelled" => {
            let form: ScheduleCancelled<'_> = parse(json)?;
            Fact::ScheduleCancelled(Cancelled {
                transaction: form.transaction_id,
                position: form.scheduled_position,
                account: account(form.account)?,
                account_id: form.account_id,
            })
        }
        "account_updated" => account_changed(parse(json)?, Change::Updated)?,
        "account_frozen" => account_changed(parse(json)?, Change::Frozen)?,
        "account_unfrozen" => account_changed(parse(json)?, Change::Unfrozen)?,
        "account_closed" => account_changed(parse(json)?, Change::Closed)?,
        "account_reopened" => account_changed(parse(json)?, Change::Reopened)?,
        "account_type_set" => {
            let form: AccountTypeSet = parse(json)?;
            Fact::RuleSet(Rule::AccountType(AccountType {
                prefix: form.prefix.into(),
                normal: side(&form.normal)?,
                limits: limits(form.min_balance, form.max_balance)?,
            }))
        }
        "account_type_removed" => {
            let AccountTypeRemoved { prefix } = parse(json)?;
            Fact::RuleRemoved(RuleKey::AccountType(prefix.into()))
        }
        "velocity_limit_set" => Fact::RuleSet(Rule::VelocityLimit(velocity_limit(parse(json)?)?)),
        "velocity_limit_removed" => {
            let VelocityLimitRemoved { name } = parse(json)?;
            Fact::RuleRemoved(RuleKey::VelocityLimit(name.into()))
        }
        "period_closed" => {
            let PeriodClosed { before } = parse(json)?;
            Fact::PeriodClosed { before }
        }
        _ => return Err(Failure::Invalid("type")),
    })
}

fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(Failure::Malformed)
}

fn posted(form: Moved<'_>, position: Position) -> Result<Transaction, &'static str> {
    absent(form.expires_at, "expires_at")?;
    moved(form, position)
}

fn authorised(form: Moved<'_>, position: Position) -> Result<Authorisation, &'static str> {
    let expires_at = form.expires_at;
    let transaction = moved(form, position)?;
    if transaction.more.as_ref().is_some_and(|more| more.origin.is_some()) {
        return Err("origin");
    }
    Ok(Authorisation { transaction, expires_at })
}

fn moved(form: Moved<'_>, position: Position) -> Result<Transaction, &'static str> {
    let legs = moved_legs(&form.legs, form.asset, position)?;
    let origin = origin(form.hold, form.reversal, form.scheduled_position)?;
    let (rates, usage) = (rates(form.rates)?, usage(form.usage)?);
    let has_more = origin.is_some() || !rates.is_empty() || !usage.is_empty();
    Ok(Transaction {
        kind: kind(form.kind)?,
        legs,
        reference: form.reference.map(Arc::from),
        description: form.description.map(Arc::from),
        metadata: canonical(form.metadata)?,
        more: has_more.then(|| Box::new(More { origin, rates, usage })),
    })
}

fn moved_legs(
    legs: &[MovedLeg<'_>],
    shared: Option<&str>,
    position: Position,
) -> Result<SmallVec<[Leg; 2]>, &'static str> {
    let shared = shared.map(asset_code).transpose()?;
    let pending = |text: Option<&str>| text.map_or(Ok(Amount::ZERO), amount);
    let leg = |leg: &MovedLeg<'_>| {
        Ok(Leg {
            account: account(leg.account)?,
            account_id: leg.account_id,
            normal: leg.normal.map_or(Ok(Side::Credit), side)?,
            side: side(leg.side)?,
            amount: amount(leg.amount)?,
            asset: leg_asset(leg.asset, shared.as_ref())?,
            after: Balance {
                debits_posted: amount(leg.debits)?,
                credits_posted: amount(leg.credits)?,
                debits_pending: pending(leg.debits_pending)?,
                credits_pending: pending(leg.credits_pending)?,
                version: leg.version,
                position,
            },
        })
    };
    legs.iter().map(leg).collect()
}

/// A transaction has one origin at most.
fn origin(
    hold: Option<HoldMember<'_>>,
    reversal: Option<ReversalMember<'_>>,
    scheduled_position: Option<Position>,
) -> Result<Option<Origin>, &'static str> {
    Ok(match (hold, reversal, scheduled_position) {
        (None, None, None) => None,
        (Some(hold), None, None) => Some(Origin::Capture {
            remaining: stated(hold.remaining)?,
            captured: amount(hold.captured)?,
            hold: HoldRef { id: hold.id, position: hold.position },
        }),
        (None, Some(reversal), None) => Some(Origin::Reversal {
            transaction: reversal.transaction_id,
            remaining: reversal.remaining.iter().map(|text| amount(text)).collect::<Result<_, _>>()?,
            forced: flag(reversal.forced, "forced")?,
        }),
        (None, None, Some(position)) => Some(Origin::Schedule { position }),
        _ => return Err("origin"),
    })
}

fn released(form: Released<'_>, reason: ReleaseReason, position: Position) -> Result<Release, &'static str> {
    absent(form.hold.remaining, "hold")?;
    Ok(Release {
        reason,
        legs: moved_legs(&form.legs, form.asset, position)?,
        captured: amount(form.hold.captured)?,
        hold: HoldRef { id: form.hold.id, position: form.hold.position },
    })
}

fn rejected(form: Asked<'_>) -> Result<RejectedTransaction, &'static str> {
    // The row has it.
    absent(form.effective_at, "effective_at")?;
    let reason = rejection(form.rejection.as_ref().ok_or("rejection")?)?;
    let scheduled = form.scheduled_position;
    let (request, account_ids) = asked(form)?;
    Ok(RejectedTransaction { request, account_ids, reason, scheduled })
}

fn scheduled(form: Asked<'_>) -> Result<Scheduled, &'static str> {
    absent(form.rejection.as_ref(), "rejection")?;
    absent(form.item, "item")?;
    absent(form.authorisation.as_ref(), "authorisation")?;
    absent(form.subject_id, "subject_id")?;
    absent(form.force, "force")?;
    absent(form.scheduled_position, "scheduled_position")?;
    let effective_at = form.effective_at.ok_or("effective_at")?;
    let (request, account_ids) = asked(form)?;
    Ok(Scheduled { request: TransactionRequest { effective_at: Some(effective_at), ..request }, account_ids })
}

fn asked(form: Asked<'_>) -> Result<(TransactionRequest, SmallVec<[AccountId; 2]>), &'static str> {
    let shared = form.asset.map(asset_code).transpose()?;
    let leg = |leg: &AskedLeg<'_>| {
        Ok(LegRequest {
            account: account(leg.account)?,
            side: side(leg.side)?,
            amount: amount(leg.amount)?,
            asset: leg_asset(leg.asset, shared.as_ref())?,
        })
    };
    let terms = Terms {
        hold: form.authorisation.map(expiry).transpose()?,
        rates: rates(form.rates)?,
        of: form.subject_id,
        force: flag(form.force, "force")?,
    };
    let request = TransactionRequest {
        kind: kind(form.kind)?,
        legs: form.legs.iter().map(leg).collect::<Result<_, &'static str>>()?,
        reference: form.reference.map(Arc::from),
        description: form.description.map(Arc::from),
        metadata: canonical(form.metadata)?,
        effective_at: None,
        terms: (terms != Terms::default()).then(|| Box::new(terms)),
    };
    Ok((request, form.legs.iter().map(|leg| leg.account_id).collect()))
}

fn expiry(form: AuthorisationMember) -> Result<Expiry, &'static str> {
    match (form.expires_at, form.expires_in_s) {
        (None, None) => Ok(Expiry::Never),
        (Some(at), None) => Ok(Expiry::At(at)),
        (None, Some(seconds)) => Ok(Expiry::In(seconds)),
        (Some(_), Some(_)) => Err("authorisation"),
    }
}

fn rejection(form: &RejectionMember<'_>) -> Result<Rejection, &'static str> {
    let account = account(form.account)?;
    let stated = |text: Option<&str>| stated(text).map_err(|_| "rejection");
    match form.code {
        "hold_not_open" => {
            let state = form.state.and_then(HoldState::parse).ok_or("rejection")?;
            Ok(Rejection::HoldNotOpen { account, state })
        }
        "capture_exceeds_hold" => Ok(Rejection::CaptureExceedsHold { account, remaining: stated(form.remaining)? }),
        "reversal_exceeds_transaction" => {
            Ok(Rejection::ReversalExceedsTransaction { account, remaining: stated(form.remaining)? })
        }
        "period_closed" => Ok(Rejection::PeriodClosed { account, before: form.before.ok_or("rejection")? }),
        "account_closed" => Ok(Rejection::AccountClosed { account }),
        "account_frozen" => Ok(Rejection::AccountFrozen { account }),
        "velocity_limit_exceeded" => Ok(Rejection::VelocityLimitExceeded {
            account,
            limit: form.limit.as_deref().ok_or("rejection")?.into(),
            passes_at: form.passes_at,
        }),
        "insufficient_funds" => Ok(Rejection::InsufficientFunds {
            account,
            available: stated(form.available)?,
            would_be: stated(form.would_be)?,
            min_balance: stated(form.min_balance)?,
        }),
        "balance_limit_exceeded" => Ok(Rejection::BalanceLimitExceeded {
            account,
            would_be: stated(form.would_be)?,
            max_balance: stated(form.max_balance)?,
        }),
        _ => Err("rejection code"),
    }
}

fn account_changed(form: Changed, change: Change) -> Result<Fact, &'static str> {
    let freeze = |freeze: FreezeMember| {
        let scope = FreezeScope::parse(&freeze.scope).ok_or("freeze")?;
        Ok::<_, &'static str>(Freeze { scope, reason: freeze.reason.into() })
    };
    Ok(Fact::AccountChanged(AccountChanged {
        account: account(&form.account)?,
        account_id: form.account_id,
        change,
        after: Attributes {
            closed: flag(form.closed, "closed")?,
            freeze: form.freeze.map(freeze).transpose()?,
            limits: limits(form.min_balance, form.max_balance)?,
            metadata: canonical(form.metadata)?,
        },
        reason: form.reason.map(Arc::from),
    }))
}

fn velocity_limit(form: VelocityLimitSet) -> Result<VelocityLimit, &'static str> {
    Ok(VelocityLimit {
        name: form.name.into(),
        scope: match (form.account, form.prefix) {
            (Some(account), None) => Scope::Account(account.into()),
            (None, Some(prefix)) => Scope::Prefix(prefix.into()),
            _ => return Err("scope"),
        },
        asset: form.asset.as_deref().map(asset_code).transpose()?,
        direction: Direction::parse(&form.direction).ok_or("direction")?,
        window: match (form.window.seconds, form.window.zone) {
            (Some(seconds), None) => Window::Rolling { seconds },
            (None, Some(zone)) => Window::Day { zone: zone.parse().map_err(|_| "zone")? },
            _ => return Err("window"),
        },
        count_max: form.count_max,
        amount_max: form.amount_max.as_deref().map(amount).transpose()?,
    })
}

fn rates(members: Option<Vec<RateMember<'_>>>) -> Result<Vec<Rate>, &'static str> {
    list(members, "rates", |member| {
        Ok(Rate {
            from: asset_code(member.from)?,
            to: asset_code(member.to)?,
            rate: decimal(member.rate)?,
            remainder: member.remainder.map(decimal).transpose()?,
        })
    })
}

fn usage(members: Option<Vec<UsageMember<'_>>>) -> Result<Vec<Usage>, &'static str> {
    list(members, "usage", |member| {
        let UsageMember { leg, limit, bucket, since, count, .. } = member;
        Ok(Usage { leg, counted: Counted { limit, bucket, since, count, amount: amount(member.amount)? } })
    })
}

/// An empty list is left out.
fn list<M, T>(
    members: Option<Vec<M>>,
    what: &'static str,
    item: impl Fn(M) -> Result<T, &'static str>,
) -> Result<Vec<T>, &'static str> {
    let Some(members) = members else { return Ok(Vec::new()) };
    if members.is_empty() {
        return Err(what);
    }
    members.into_iter().map(item).collect()
}

/// What is not so is left out.
fn flag(stated: Option<bool>, what: &'static str) -> Result<bool, &'static str> {
    match stated {
        None => Ok(false),
        Some(true) => Ok(true),
        Some(false) => Err(what),
    }
}

fn absent<T>(member: Option<T>, what: &'static str) -> Result<(), &'static str> {
    if member.is_none() { Ok(()) } else { Err(what) }
}

fn stated(text: Option<&str>) -> Result<Amount, &'static str> {
    text.map_or(Err("amount"), amount)
}

fn kind(text: &str) -> Result<Kind, &'static str> {
    Kind::parse(text).ok_or("kind")
}

fn account(text: &str) -> Result<AccountCode, &'static str> {
    AccountCode::new(text).map_err(|_| "account")
}

fn asset_code(text: &str) -> Result<AssetCode, &'static str> {
    AssetCode::new(text).map_err(|_| "asset")
}

fn side(text: &str) -> Result<Side, &'static str> {
    Side::parse(text).ok_or("side")
}

fn amount(text: &str) -> Result<Amount, &'static str> {
    text.parse().map_err(|_| "amount")
}

/// Digits with a point among them or none, as they were given.
fn decimal(text: &str) -> Result<Arc<str>, &'static str> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').map_or((unsigned, None), |(a, b)| (a, Some(b)));
    if digits(whole) && fraction.is_none_or(digits) { Ok(text.into()) } else { Err("rate") }
}

fn limits(min_balance: Option<String>, max_balance: Option<String>) -> Result<Limits, &'static str> {
    let bound = |text: Option<String>| text.as_deref().map(amount).transpose();
    Ok(Limits { min_balance: bound(min_balance)?, max_balance: bound(max_balance)? })
}

fn leg_asset(own: Option<&str>, shared: Option<&AssetCode>) -> Result<AssetCode, &'static str> {
    match (own, shared) {
        (Some(code), _) => asset_code(code),
        (None, Some(shared)) => Ok(shared.clone()),
        (None, None) => Err("asset"),
    }
}

fn canonical(metadata: Option<Box<RawValue>>) -> Result<Option<Arc<str>>, &'static str> {
    metadata.map_or(Ok(None), |json| crate::metadata::canonical(json.get()).map_err(|_| "metadata"))
}
