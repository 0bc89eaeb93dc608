//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! Every code is in one closed list, with its status, its title and a sentence
//! on what to do about it, which `/problems/<code>` shows.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use crate::ledger::{Position, Refusal, Rejection};
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
    MethodNotAllowed "method_not_allowed" 405 "The method is not allowed here" "Use one of the methods in the Allow header."
    RequestTimeout "request_timeout" 408 "The request came too slowly" "Send the whole body within the time limit. Nothing was recorded."
    AccountAlreadyExists "account_already_exists" 409 "The account exists with other attributes" "Choose another code, or use the account as it is."
    AssetAlreadyExists "asset_already_exists" 409 "The asset exists with another scale" "Use the scale that it has, or define another asset."
    BodyTooLarge "body_too_large" 413 "The body is too large" "Split the batch into smaller ones. Nothing was recorded."
    UnsupportedMediaType "unsupported_media_type" 415 "The content type is not supported" "Send Content-Type: application/json."
    ValidationFailed "validation_failed" 422 "The request breaks a rule" "Correct what the errors name. Nothing was recorded; the idempotency key is free."
    SameAccount "same_account" 422 "Both sides are the same account" "Name two different accounts. Nothing was recorded."
    AssetMismatch "asset_mismatch" 422 "The asset is not the account's" "Use the account's own asset. Nothing was recorded."
    IdempotencyKeyReused "idempotency_key_reused" 422 "The idempotency key was used for another request" "Use a new key for a new request. The transaction that the key made is named."
    AccountClosed "account_closed" 422 "An account is closed" "The decision is recorded and final for this key."
    AccountFrozen "account_frozen" 422 "An account is frozen" "The decision is recorded and final for this key."
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
            || matches!(self, AccountNotFound | AssetNotFound | TransactionNotFound | AccountAlreadyExists)
            || matches!(self, AssetAlreadyExists | SameAccount | AssetMismatch | IdempotencyKeyReused)
    }

    /// A business rejection: recorded, and the answer of its key for ever.
    pub const fn is_recorded(self) -> bool {
        matches!(self, Self::AccountClosed | Self::AccountFrozen | Self::InsufficientFunds | Self::BalanceLimitExceeded)
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
    /// Header `Ledger-Position`: the position as of which it was so.
    pub reflects: Option<Position>,
    /// Header `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// Header `Idempotent-Replayed`.
    pub replayed: bool,
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
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            transaction_id: None,
            position: None,
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
        Body {
            r#type: format!("/problems/{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            errors: &self.errors,
            transaction_id: self.transaction_id,
            position: self.position,
        }
    }

    /// A refusal, as of a position, of what is at the pointer `base` of the body:
    /// empty for the body itself, `/payments/3` for an item.
    pub fn refused(refusal: &Refusal, base: &str, position: Position) -> Self {
        Self::refusal(refusal, base).as_of(position)
    }

    fn refusal(refusal: &Refusal, base: &str) -> Self {
        let leg = |leg: usize| format!("{base}/{}", if leg == 0 { "from" } else { "to" });
        let asset_field = || format!("{base}/asset");
        match refusal {
            Refusal::Invalid(rule) => Self::invalid(base, rule.as_ref()),
            Refusal::SameAccount(code) => {
                Self::new(Code::SameAccount, format!("from and to are both {code}")).at(leg(1))
            }
            Refusal::AccountNotFound(missing) => {
                let names: Vec<&str> = missing.iter().map(|(_, code)| code.as_str()).collect();
                let mut problem =
                    Self::new(Code::AccountNotFound, format!("no account {}", names.join(", no account ")));
                problem.errors = missing
                    .iter()
                    .map(|(index, code)| FieldError { pointer: leg(*index), detail: format!("no account {code}") })
                    .collect();
                problem
            }
            Refusal::AssetNotFound(code) => {
                Self::new(Code::AssetNotFound, format!("no asset {code}")).at(asset_field())
            }
            Refusal::AssetMismatch { account, account_asset, asset, .. } => {
                Self::new(Code::AssetMismatch, format!("account {account} holds {account_asset}, not {asset}"))
                    .at(asset_field())
            }
            Refusal::AccountAlreadyExists(account) => Self::new(
                Code::AccountAlreadyExists,
                format!("account {} exists with other attributes; GET it to see them", account.code),
            ),
            Refusal::AssetAlreadyExists { code, scale } => {
                Self::new(Code::AssetAlreadyExists, format!("asset {code} has scale {scale}"))
            }
            _ => unimplemented!("problem"),
        }
    }

    /// A rejection that is recorded at `position`.
    pub fn rejected(rejection: &Rejection, transaction_id: Option<Uuid>, position: Position) -> Self {
        let (code, detail) = match rejection {
            Rejection::AccountClosed { account } => (Code::AccountClosed, format!("account {account} is closed")),
            Rejection::AccountFrozen { account } => (Code::AccountFrozen, format!("account {account} is frozen")),
            Rejection::InsufficientFunds { account, available, would_be, min_balance } => (
                Code::InsufficientFunds,
                format!(
                    "account {account} has {available} available, would have {would_be}, and may not have less than {min_balance}"
                ),
            ),
            Rejection::BalanceLimitExceeded { account, would_be, max_balance } => (
                Code::BalanceLimitExceeded,
                format!("account {account} would have {would_be}, and may not have more than {max_balance}"),
            ),
            _ => unimplemented!("problem"),
        };
        Self { transaction_id, position: Some(position), reflects: Some(position), ..Self::new(code, detail) }
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
