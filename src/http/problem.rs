//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! Every code is in one closed list, with its status, its title and a sentence
//! on what to do about it, which `/problems/<code>` shows.

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::wire::Timestamp;
use crate::ledger::rule::RULES_MAX;
use crate::ledger::{
    AccountCode, HoldState, LegRequest, Place, Position, Refusal, RejectedTransaction, Rejection, RuleKey, Side,
};
use crate::sequencer::Unavailable;
use crate::store;

macro_rules! codes {
    ($($variant:ident $code:literal $status:literal $title:literal $remedy:literal)*) => {
        /// Every kind of problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($variant,)*
        }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable name, in snake_case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            pub const fn status(self) -> StatusCode {
                const { assert!(true $(&& $status >= 400 && $status < 600)*) };
                match self { $(Self::$variant => match StatusCode::from_u16($status) {
                    Ok(status) => status,
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
                },)* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// What a client does about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

codes! {
    MalformedJson "malformed_json" 400 "The body is not JSON" "Send well-formed JSON in UTF-8. Nothing was recorded."
    MalformedRequest "malformed_request" 400 "The request is malformed" "Correct what the detail names. Nothing was recorded."
    IdempotencyKeyMissing "idempotency_key_missing" 400 "The Idempotency-Key header is missing" "Send a new key with every payment, and the same key when you try the same payment again."
    IdempotencyKeyInvalid "idempotency_key_invalid" 400 "The idempotency key is invalid" "Use 1 to 255 visible ASCII characters, a UUID for example."
    Unauthenticated "unauthenticated" 401 "An API key is needed" "Send the header Authorization: Bearer, followed by an API key that has neither expired nor been revoked; whoever runs the service makes them with steelyard keys create. Nothing was recorded; the idempotency key is free."
    Forbidden "forbidden" 403 "The API key does not allow this" "Use an API key whose role and ledger allow it. Nothing was recorded; the idempotency key is free."
    NotFound "not_found" 404 "There is nothing here" "See /docs for the routes."
    LedgerNotFound "ledger_not_found" 404 "The ledger does not exist" "Create it with PUT /v1/ledgers/{ledger}."
    AccountNotFound "account_not_found" 404 "An account does not exist" "Open it with POST /accounts. Nothing was recorded; the idempotency key is free."
    AssetNotFound "asset_not_found" 404 "The asset is not defined" "Define it with PUT /assets/{code}."
    TransactionNotFound "transaction_not_found" 404 "The transaction does not exist" "Check the id and the ledger."
    RuleNotFound "rule_not_found" 404 "The rule does not exist" "Check its name; GET lists what is set."
    MethodNotAllowed "method_not_allowed" 405 "The method is not allowed here" "Use one of the methods in the Allow header."
    RequestTimeout "request_timeout" 408 "The request came too slowly" "Send the whole body within the time limit. Nothing was recorded."
    AccountAlreadyExists "account_already_exists" 409 "The account exists with other attributes" "Choose another code, or use the account as it is."
    AssetAlreadyExists "asset_already_exists" 409 "The asset exists with another scale" "Use the scale that it has, or define another asset."
    LimitsConflict "limits_conflict" 409 "The balance does not allow the limit" "Bring the balance within the limit first, or choose another limit. Nothing was changed."
    AccountIsClosed "account_is_closed" 409 "The account is closed" "Reopen it first. Nothing was changed."
    AccountNotEmpty "account_not_empty" 409 "The account is not empty" "Pay its balance out and end its holds, then close it. Nothing was changed."
    TooManyRules "too_many_rules" 409 "There are too many rules of this sort" "Remove rules that are no longer needed, or let one rule serve a prefix. Nothing was changed."
    PeriodAlreadyClosed "period_already_closed" 409 "The period was closed before" "A period that is closed stays closed; name a later time. Nothing was changed."
    BodyTooLarge "body_too_large" 413 "The body is too large" "Split the batch into smaller ones. Nothing was recorded."
    UnsupportedMediaType "unsupported_media_type" 415 "The content type is not supported" "Send Content-Type: application/json."
    ValidationFailed "validation_failed" 422 "The request breaks a rule" "Correct what the errors name. Nothing was recorded; the idempotency key is free."
    SameAccount "same_account" 422 "Both sides are the same account" "Name two different accounts. Nothing was recorded."
    AssetMismatch "asset_mismatch" 422 "The asset is not the account's" "Use the account's own asset. Nothing was recorded."
    NotAHold "not_a_hold" 422 "The payment reserved nothing" "Only a payment with \"capture\": \"manual\" can be captured or voided; one that is posted can be reversed. Nothing was recorded; the idempotency key is free."
    NotReversible "not_reversible" 422 "The transaction has not been posted" "Reverse what is posted: of a hold its captures. Nothing was recorded; the idempotency key is free."
    NotScheduled "not_scheduled" 422 "The transaction does not wait for its time" "Only what is scheduled can be cancelled; one that is posted can be reversed. Nothing was recorded; the idempotency key is free."
    IdempotencyKeyReused "idempotency_key_reused" 422 "The idempotency key was used for another request" "Use a new key for a new request. The transaction that the key made is named."
    HoldNotOpen "hold_not_open" 422 "The hold has ended" "The decision is recorded and final for this key; authorise a new payment."
    CaptureExceedsHold "capture_exceeds_hold" 422 "More than the hold has left" "The decision is recorded and final for this key; capture what remains with a new key."
    ReversalExceedsTransaction "reversal_exceeds_transaction" 422 "More than is left to reverse" "The decision is recorded and final for this key; GET the transaction to see what is left, and use a new key."
    PeriodClosed "period_closed" 422 "The period is closed" "The decision is recorded and final for this key; use a new key and a later effective_at."
    AccountClosed "account_closed" 422 "An account is closed" "The decision is recorded and final for this key."
    AccountFrozen "account_frozen" 422 "An account is frozen" "The decision is recorded and final for this key."
    VelocityLimitExceeded "velocity_limit_exceeded" 422 "Too much within a window of time" "The decision is recorded and final for this key; try again with a new key at passes_at, where there is one."
    InsufficientFunds "insufficient_funds" 422 "The funds do not suffice" "The decision is recorded and final for this key; try again with a new key once there are funds."
    BalanceLimitExceeded "balance_limit_exceeded" 422 "A balance would exceed its limit" "The decision is recorded and final for this key."
    InternalError "internal_error" 500 "Something went wrong on our side" "Try again with the same key; tell the operator the X-Request-Id if it persists."
    Overloaded "overloaded" 503 "Too many requests are waiting" "Try again with the same key after Retry-After seconds. Nothing was recorded."
    Unavailable "unavailable" 503 "The ledger cannot be reached at the moment" "Try again with the same key after Retry-After seconds. Nothing was recorded."
    OutcomeUnknown "outcome_unknown" 504 "Whether the request was recorded is not known yet" "Try again with the same key: if it was recorded, you get its answer; if not, it is done now."
    ProjectionBehind "projection_behind" 504 "The projections have not reached the position yet" "Try again after Retry-After seconds, or read with ?consistency=eventual."
}

impl Code {
    /// Whether what the ledger holds decided so: the answer says as of which position.
    pub const fn reflects_the_log(self) -> bool {
        use Code::*;
        self.is_recorded()
            || matches!(self, AccountNotFound | AssetNotFound | TransactionNotFound | RuleNotFound)
            || matches!(self, AccountAlreadyExists | AssetAlreadyExists | LimitsConflict | AccountIsClosed)
            || matches!(self, AccountNotEmpty | TooManyRules | PeriodAlreadyClosed | SameAccount | AssetMismatch)
            || matches!(self, NotAHold | NotReversible | NotScheduled | IdempotencyKeyReused)
    }

    /// A business rejection: recorded, and the answer of its key for ever.
    pub const fn is_recorded(self) -> bool {
        use Code::*;
        matches!(self, HoldNotOpen | CaptureExceedsHold | ReversalExceedsTransaction | PeriodClosed | AccountClosed)
            || matches!(self, AccountFrozen | VelocityLimitExceeded | InsufficientFunds | BalanceLimitExceeded)
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the body, or below `/query`, `/path` or
    /// `/headers` into another part of the request.
    pub pointer: String,
    pub detail: String,
}

/// An error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: String,
    pub errors: Vec<FieldError>,
    pub transaction_id: Option<Uuid>,
    /// Where the rejection is recorded.
    pub position: Option<Position>,
    /// The velocity limit that declined it.
    pub exceeded: Option<Box<Exceeded>>,
    /// Header `Ledger-Position`: the position as of which it was so.
    pub reflects: Option<Position>,
    /// Header `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// Header `Idempotent-Replayed`.
    pub replayed: bool,
}

/// A velocity limit that was exceeded: told by the rejection, so the same for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Name of the limit.
    pub limit: Arc<str>,
    pub account: AccountCode,
    /// When the same would pass, if ever.
    pub passes_at: Option<DateTime<Utc>>,
}

/// What of a problem is in the body.
#[derive(Serialize)]
pub struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passes_at: Option<Timestamp>,
}

/// How the request that a refusal is about names accounts: where the refusal points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// With `from` and `to`.
    Payment,
    /// In the `legs` of its body.
    Legs,
    /// In its path, or not at all.
    Path,
}

impl Shape {
    /// The pointers to a leg's account and asset, of what is at the pointer `base`.
    fn leg(self, base: &str, leg: usize) -> Option<(String, String)> {
        match self {
            Self::Payment => {
                Some((format!("{base}/{}", if leg == 0 { "from" } else { "to" }), format!("{base}/asset")))
            }
            Self::Legs => Some((format!("{base}/legs/{leg}/account"), format!("{base}/legs/{leg}/asset"))),
            Self::Path => None,
        }
    }

    /// The pointer to a place in what is at the pointer `base`.
    fn place(self, base: &str, place: Place) -> String {
        match place {
            Place::Whole => base.to_owned(),
            Place::Leg(leg, field) if self == Self::Legs => format!("{base}/legs/{leg}/{}", field.as_str()),
            // The legs of the others are written as fields of the whole.
            Place::Field(field) | Place::Leg(_, field) => format!("{base}/{}", field.as_str()),
            Place::Rate(rate, None) => format!("{base}/rates/{rate}"),
            Place::Rate(rate, Some(field)) => format!("{base}/rates/{rate}/{}", field.as_str()),
        }
    }
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            transaction_id: None,
            position: None,
            exceeded: None,
            reflects: None,
            retry_after_s: matches!(code.status().as_u16(), 503 | 504).then_some(1),
            replayed: false,
        }
    }

    /// `validation_failed` for one field.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::validation(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// `validation_failed` for several.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.pointer.is_empty() => one.detail.clone(),
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} fields are invalid", many.len()),
        };
        Self { errors, ..Self::new(Code::ValidationFailed, detail) }
    }

    /// Says as of which position it is so, if the ledger has a say in it: what
    /// breaks a rule does so whatever the ledger holds.
    #[must_use]
    pub fn as_of(self, position: Position) -> Self {
        Self { reflects: self.code.reflects_the_log().then_some(position), ..self }
    }

    /// Says where in the request.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        let detail = self.detail.clone();
        self.errors.push(FieldError { pointer: pointer.into(), detail });
        self
    }

    /// The body, also for items of a batch.
    pub fn body(&self) -> Body<'_> {
        let exceeded = self.exceeded.as_deref();
        Body {
            r#type: format!("/problems/{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            errors: &self.errors,
            transaction_id: self.transaction_id,
            position: self.position,
            limit: exceeded.map(|exceeded| &*exceeded.limit),
            account: exceeded.map(|exceeded| exceeded.account.as_str()),
            passes_at: exceeded.and_then(|exceeded| exceeded.passes_at).map(Timestamp),
        }
    }

    /// A refusal, as of a position, of what is at the pointer `base` of the body:
    /// empty for the body itself, `/payments/3` for an item.
    pub fn refused(refusal: &Refusal, shape: Shape, base: &str, position: Position) -> Self {
        Self::refusal(refusal, shape, base).as_of(position)
    }

    fn refusal(refusal: &Refusal, shape: Shape, base: &str) -> Self {
        match refusal {
            Refusal::Invalid { place, rule } => Self::invalid(shape.place(base, *place), rule.as_ref()),
            Refusal::SameAccount(code) => match shape {
                Shape::Legs => {
                    Self::new(Code::SameAccount, format!("all legs are of {code}")).at(format!("{base}/legs"))
                }
                _ => Self::new(Code::SameAccount, format!("from and to are both {code}")).at(format!("{base}/to")),
            },
            Refusal::AccountNotFound(missing) => {
                let mut names: Vec<&str> = missing.iter().map(|(_, code)| code.as_str()).collect();
                names.dedup();
                let mut problem =
                    Self::new(Code::AccountNotFound, format!("no account {}", names.join(", no account ")));
                let error = |(leg, code): &(usize, _)| {
                    let (pointer, _) = shape.leg(base, *leg)?;
                    Some(FieldError { pointer, detail: format!("no account {code}") })
                };
                problem.errors = missing.iter().filter_map(error).collect();
                problem
            }
            Refusal::AssetNotFound(code) => {
                Self::new(Code::AssetNotFound, format!("no asset {code}")).at(format!("{base}/asset"))
            }
            Refusal::AssetMismatch { leg, account, account_asset, asset } => {
                let detail = format!("account {account} holds {account_asset}, not {asset}");
                let problem = Self::new(Code::AssetMismatch, detail);
                match shape.leg(base, *leg) {
                    Some((_, pointer)) => problem.at(pointer),
                    None => problem,
                }
            }
            Refusal::AccountAlreadyExists(account) => Self::new(
                Code::AccountAlreadyExists,
                format!("account {} exists with other attributes; GET it to see them", account.code),
            ),
            Refusal::AssetAlreadyExists { code, scale } => {
                Self::new(Code::AssetAlreadyExists, format!("asset {code} has scale {scale}"))
            }
            Refusal::TransactionNotFound(_) => {
                Self::new(Code::TransactionNotFound, "there is no such transaction in this ledger")
            }
            Refusal::NotAHold(_) => Self::new(Code::NotAHold, "the transaction never reserved funds"),
            Refusal::NotReversible(_) => {
                Self::new(Code::NotReversible, "the transaction itself has posted nothing that could be reversed")
            }
            Refusal::NotScheduled(_) => {
                Self::new(Code::NotScheduled, "the transaction was not scheduled, or its time has come")
            }
            Refusal::TooManyWaiting => Self::new(
                Code::Overloaded,
                "as many transactions as may be wait for a moment of their own: holds that expire, and scheduled ones",
            ),
            Refusal::LimitsConflict { account, limit, balance } => {
                let side = if *limit == "min_balance" { "available" } else { "with what is pending" };
                Self::new(Code::LimitsConflict, format!("account {account} has {balance} {side}"))
                    .at(format!("{base}/{limit}"))
            }
            Refusal::AccountState { account, state: "closed" } => {
                Self::new(Code::AccountIsClosed, format!("account {account} is closed"))
            }
            Refusal::AccountState { account, .. } => Self::new(
                Code::AccountNotEmpty,
                format!("account {account} has a balance that is not zero, or pending amounts"),
            ),
            Refusal::RuleNotFound(RuleKey::AccountType(prefix)) => {
                Self::new(Code::RuleNotFound, format!("there is no account type for {prefix}"))
            }
            Refusal::RuleNotFound(RuleKey::VelocityLimit(name)) => {
                Self::new(Code::RuleNotFound, format!("there is no velocity limit {name}"))
            }
            Refusal::TooManyRules => {
                Self::new(Code::TooManyRules, format!("a ledger has at most {RULES_MAX} rules of one sort"))
            }
            Refusal::PeriodAlreadyClosed(before) => Self::new(
                Code::PeriodAlreadyClosed,
                format!("everything before {} is closed", before.to_rfc3339_opts(SecondsFormat::Micros, true)),
            ),
        }
    }

    /// A rejection that is recorded at `position`.
    pub fn rejected(rejected: &RejectedTransaction, transaction_id: Option<Uuid>, position: Position) -> Self {
        let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let mut exceeded = None;
        let (code, detail) = match &rejected.reason {
            Rejection::HoldNotOpen { state, .. } => (
                Code::HoldNotOpen,
                match state {
                    HoldState::Authorised => "the hold is not open".to_owned(),
                    state => format!("the hold is {}: nothing of it is reserved any more", state.as_str()),
                },
            ),
            Rejection::CaptureExceedsHold { remaining, .. } => {
                (Code::CaptureExceedsHold, format!("the hold has {remaining} left"))
            }
            Rejection::ReversalExceedsTransaction { account, remaining } => (
                Code::ReversalExceedsTransaction,
                format!("of what the transaction posted on account {account}, {remaining} is left to reverse"),
            ),
            Rejection::PeriodClosed { before, .. } => {
                (Code::PeriodClosed, format!("nothing can become effective before {} any more", time(before)))
            }
            Rejection::AccountClosed { account } => (Code::AccountClosed, format!("account {account} is closed")),
            Rejection::AccountFrozen { account } => (Code::AccountFrozen, format!("account {account} is frozen")),
            Rejection::VelocityLimitExceeded { account, limit, passes_at: at } => {
                let when = match at {
                    Some(at) => format!("the same would pass at {}", time(at)),
                    None => "the limit allows so much at no time".to_owned(),
                };
                let of = Exceeded { limit: Arc::clone(limit), account: account.clone(), passes_at: *at };
                exceeded = Some(Box::new(of));
                (Code::VelocityLimitExceeded, format!("account {account} would exceed its limit {limit}; {when}"))
            }
            Rejection::InsufficientFunds { account, available, would_be, min_balance } => (
                Code::InsufficientFunds,
                format!(
                    "account {account} has {available} available, would have {would_be}, and may not have less than {min_balance}"
                ),
            ),
            // Where no cap is broken, a total is full.
            Rejection::BalanceLimitExceeded { account, would_be, max_balance } if would_be <= max_balance => {
                let totals = totals(&rejected.request.legs, account);
                let detail = format!(
                    "the total of {totals} of account {account}, with what is pending, would have more than 38 digits"
                );
                (Code::BalanceLimitExceeded, detail)
            }
            Rejection::BalanceLimitExceeded { account, would_be, max_balance } => (
                Code::BalanceLimitExceeded,
                format!("account {account} would have {would_be}, and may not have more than {max_balance}"),
            ),
        };
        Self { transaction_id, position: Some(position), exceeded, reflects: Some(position), ..Self::new(code, detail) }
    }
}

/// Which totals of an account legs raise.
fn totals(legs: &[LegRequest], account: &AccountCode) -> &'static str {
    let has = |side| legs.iter().any(|leg| leg.account == *account && leg.side == side);
    match (has(Side::Debit), has(Side::Credit)) {
        (true, false) => "debits",
        (false, true) => "credits",
        _ => "debits or credits",
    }
}

impl From<Unavailable> for Problem {
    fn from(reason: Unavailable) -> Self {
        let code = match reason {
            Unavailable::Overloaded | Unavailable::ProjectionsBehind => Code::Overloaded,
            Unavailable::Standby | Unavailable::TimedOut => Code::Unavailable,
            Unavailable::OutcomeUnknown => Code::OutcomeUnknown,
            Unavailable::Defect => Code::InternalError,
        };
        Self::new(code, reason.to_string())
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        if error.is_retryable() {
            tracing::warn!(%error, "a read failed");
            return Self::new(Code::Unavailable, "the database cannot be reached at the moment");
        }
        tracing::error!(%error, "a read failed");
        Self::new(Code::InternalError, "the answer could not be read")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = (self.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(position) = self.reflects {
            headers.insert(super::LEDGER_POSITION, HeaderValue::from(position));
        }
        if self.replayed {
            headers.insert(super::IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        // For whoever logs the answer.
        response.extensions_mut().insert(self.code);
        response
    }
}
