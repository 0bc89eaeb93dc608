//! What happens to an account after its opening: limits and metadata, freezes,
//! closing and reopening.
//!
//! None of it needs a key: doing the same again changes nothing and gives the
//! account as it is.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smallvec::smallvec;
use tokio::time::Instant;

use super::super::params::InPath;
use super::super::problem::{Code, FieldError, Problem, Shape};
use super::super::wire::{AccountOutput, AmountInput, present};
use super::super::{App, SharedApp, answer, body, reads};
use super::accounts::{canonical_metadata, limits, no_account, no_outcome, shard};
use super::{account_code, ledger};
use crate::cluster::Ledger;
use crate::ledger::{AccountCode, AccountUpdate, ChangeAccount, Command, Freeze, FreezeScope};
use crate::sequencer::{Item, Outcome, REQUEST_DEADLINE, Work};

/// Characters that a reason may have: a sentence or two for the auditor.
pub const REASON_CHARS_MAX: usize = 500;

/// Of what is absent nothing changes; null takes it away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateInput<'a> {
    #[serde(default, deserialize_with = "present")]
    min_balance: Option<Option<AmountInput>>,
    #[serde(default, deserialize_with = "present")]
    max_balance: Option<Option<AmountInput>>,
    #[serde(borrow, default, deserialize_with = "present_json")]
    metadata: Option<&'a RawValue>,
}

/// Tells a null that is there, as its text, from a field that is not.
fn present_json<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FreezeInput<'a> {
    #[serde(borrow, default)]
    scope: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonInput<'a> {
    #[serde(borrow)]
    reason: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptionalReasonInput<'a> {
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
}

/// `PATCH /accounts/{code}`
pub async fn update(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    updated(&app, &name, &code, request).await
}

/// `PATCH /accounts/batch`: the account of that name, as with GET.
pub async fn update_batch(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    updated(&app, &name, "batch", request).await
}

async fn updated(app: &App, name: &str, code: &str, request: Request<Body>) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: UpdateInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(app, name).await?;
    let code = account_code(code)?;
    let update = update_of(input).map_err(Problem::validation)?;
    change(app, &ledger, code, update).await
}

/// The update of a request, or everything that is wrong with it.
fn update_of(input: UpdateInput<'_>) -> Result<AccountUpdate, Vec<FieldError>> {
    let mut errors = Vec::new();
    let wrong = |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    let [min_balance, max_balance] = limits(input.min_balance, input.max_balance, wrong);
    let metadata = input.metadata.map(|json| match canonical_metadata(Some(json)) {
        Ok(metadata) => metadata,
        Err(error) => {
            errors.push(error);
            None
        }
    });
    if errors.is_empty() { Ok(AccountUpdate::Update { min_balance, max_balance, metadata }) } else { Err(errors) }
}

/// `POST /accounts/{code}/freeze`
pub async fn freeze(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: FreezeInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let code = account_code(&code)?;
    let freeze = freeze_of(input).map_err(Problem::validation)?;
    change(&app, &ledger, code, AccountUpdate::Freeze(freeze)).await
}

fn freeze_of(input: FreezeInput<'_>) -> Result<Freeze, Vec<FieldError>> {
    let mut errors = Vec::new();
    let scope = input.scope.as_deref().map_or(Some(FreezeScope::All), FreezeScope::parse);
    if scope.is_none() {
        let detail = "scope is all, debits or credits".to_owned();
        errors.push(FieldError { pointer: "/scope".to_owned(), detail });
    }
    let reason = reason(&input.reason).map_err(|error| errors.push(error)).ok();
    match (scope, reason) {
        (Some(scope), Some(reason)) => Ok(Freeze { scope, reason }),
        _ => Err(errors),
    }
}

/// `POST /accounts/{code}/unfreeze`
pub async fn unfreeze(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: ReasonInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let code = account_code(&code)?;
    let reason = reason(&input.reason).map_err(|error| Problem::validation(vec![error]))?;
    change(&app, &ledger, code, AccountUpdate::Unfreeze { reason }).await
}

/// `POST /accounts/{code}/close`
pub async fn close(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change_with_reason(&app, &name, &code, request, |reason| AccountUpdate::Close { reason }).await
}

/// `POST /accounts/{code}/reopen`
pub async fn reopen(
    State(app): State<SharedApp>,
    InPath((name, code)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    change_with_reason(&app, &name, &code, request, |reason| AccountUpdate::Reopen { reason }).await
}

async fn change_with_reason(
    app: &App,
    name: &str,
    code: &str,
    request: Request<Body>,
    update: impl FnOnce(Option<Arc<str>>) -> AccountUpdate + Send,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: OptionalReasonInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(app, name).await?;
    let code = account_code(code)?;
    let reason = input.reason.as_deref().map(reason).transpose().map_err(|error| Problem::validation(vec![error]))?;
    change(app, &ledger, code, update(reason)).await
}

fn reason(text: &str) -> Result<Arc<str>, FieldError> {
    let wrong = |detail: String| FieldError { pointer: "/reason".to_owned(), detail };
    if text.contains('\0') {
        return Err(wrong("the character U+0000 cannot be stored; leave it out".to_owned()));
    }
    if text.trim().is_empty() || text.chars().count() > REASON_CHARS_MAX {
        return Err(wrong(format!("a reason has 1 to {REASON_CHARS_MAX} characters, and not only spaces")));
    }
    Ok(Arc::from(text))
}

/// Submits one change, and answers with the account as it is then.
async fn change(app: &App, ledger: &Ledger, code: AccountCode, change: AccountUpdate) -> Result<Response, Problem> {
    let command = Command::ChangeAccount(ChangeAccount { code: code.clone(), change });
    let work = Work::Each(smallvec![Item { command, key: None }]);
    let done = ledger.handle.submit(work, Instant::now() + REQUEST_DEADLINE).await?;
    match done.outcomes.first() {
        Some(Outcome::Recorded { .. } | Outcome::Unchanged(_)) => {}
        Some(Outcome::Refused { refusal, .. }) => {
            return Err(Problem::refused(refusal, Shape::Path, "", done.position));
        }
        _ => return Err(no_outcome()),
    }
    let read = reads::ask(ledger, Work::ReadAccount(code.clone())).await.map_err(not_read)?;
    let position = read.position;
    match read.outcomes.into_iter().next() {
        Some(Outcome::Account(Some(account))) => {
            let output = AccountOutput::new(&account, shard(app, ledger, &code));
            Ok(answer(StatusCode::OK, &output, Some(position), false))
        }
        Some(Outcome::Account(None)) => Err(no_account(&code).as_of(position)),
        _ => Err(no_outcome()),
    }
}

/// The change is done, and what it led to could not be read: a plain `unavailable`
/// would say that nothing was recorded.
pub(super) fn not_read(problem: Problem) -> Problem {
    let detail = "what the change led to could not be read; ask for it, or send the same again, which changes nothing";
    Problem::new(Code::OutcomeUnknown, format!("{detail} ({})", problem.code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update_from(json: &str) -> Result<AccountUpdate, Vec<FieldError>> {
        update_of(body::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn what_is_absent_stays_and_null_takes_it_away() {
        let update = |min_balance, max_balance, metadata| AccountUpdate::Update { min_balance, max_balance, metadata };
        assert_eq!(update_from("{}"), Ok(update(None, None, None)));
        assert_eq!(
            update_from(r#"{"min_balance": null, "max_balance": null, "metadata": null}"#),
            Ok(update(Some(None), Some(None), Some(None)))
        );
        assert_eq!(update_from(r#"{"metadata": {}}"#), Ok(update(None, None, Some(None))));
        assert_eq!(
            update_from(r#"{"min_balance": "-5", "max_balance": 7, "metadata": {"a":1}}"#),
            Ok(update(Some(Some(amount("-5"))), Some(Some(amount("7"))), Some(Some(Arc::from(r#"{"a":1}"#)))))
        );
        let errors = update_from(r#"{"min_balance": 1.5, "metadata": []}"#).unwrap_err();
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/min_balance", "/metadata"]);
        let errors = update_from(r#"{"min_balance": 2, "max_balance": 1}"#).unwrap_err();
        assert_eq!(errors[0].pointer, "/min_balance");
    }

    fn amount(text: &str) -> crate::ledger::Amount {
        text.parse().unwrap()
    }

    #[test]
    fn a_reason_says_something_and_not_too_much() {
        assert!(reason(&"ü".repeat(REASON_CHARS_MAX)).is_ok());
        for wrong in ["", "  \n", "a\0b", &"r".repeat(REASON_CHARS_MAX + 1)] {
            assert_eq!(reason(wrong).unwrap_err().pointer, "/reason");
        }
    }
}
