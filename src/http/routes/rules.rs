//! Account types and velocity limits: rules that are set, replaced and removed by name.
//!
//! Setting the same again changes nothing. What is in force is read from the log,
//! so an answer is never behind it.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smallvec::smallvec;
use tokio::time::Instant;

use super::super::params::{InPath, InQuery, NoQuery, limit, name_cursor, name_cursor_text};
use super::super::problem::{Code, FieldError, Problem, Shape};
use super::super::reads::{self, Consistency};
use super::super::wire::{self, AmountInput, AmountText, Object, Page, Timestamp, present};
use super::super::{App, SharedApp, answer, body};
use super::account_changes::not_read;
use super::accounts::limits;
use super::ledger;
use crate::cluster::Ledger;
use crate::ledger::rule::{ROLLING_S_MAX, ROLLING_S_MIN};
use crate::ledger::{
    AccountType, Amount, AssetCode, Command, Direction, Fact, Limits, Position, Rule, RuleKey, Scope, Side,
    VelocityLimit, Window,
};
use crate::sequencer::{Answer, Item, Outcome, REQUEST_DEADLINE, Work};
use crate::store;
use crate::store::rules::{Rules, Standing};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountTypeInput<'a> {
    #[serde(borrow, default)]
    normal: Option<Cow<'a, str>>,
    /// Absent is `"0"`; null is no floor.
    #[serde(default, deserialize_with = "present")]
    min_balance: Option<Option<AmountInput>>,
    #[serde(default, deserialize_with = "present")]
    max_balance: Option<Option<AmountInput>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VelocityLimitInput<'a> {
    #[serde(borrow, default)]
    account: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    prefix: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    asset: Option<Cow<'a, str>>,
    #[serde(borrow)]
    direction: Cow<'a, str>,
    #[serde(borrow)]
    window: Object<WindowInput<'a>>,
    #[serde(borrow, default)]
    count_max: Option<&'a RawValue>,
    #[serde(default)]
    amount_max: Option<AmountInput>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowInput<'a> {
    #[serde(borrow, default)]
    rolling_s: Option<&'a RawValue>,
    #[serde(borrow, default)]
    day: Option<Cow<'a, str>>,
}

#[derive(Debug, Serialize)]
struct AccountTypeOutput<'a> {
    prefix: &'a str,
    normal: &'static str,
    min_balance: Option<AmountText>,
    max_balance: Option<AmountText>,
    position: Position,
    set_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct VelocityLimitOutput<'a> {
    name: &'a str,
    account: Option<&'a str>,
    prefix: Option<&'a str>,
    asset: Option<&'a str>,
    direction: &'static str,
    window: WindowOutput,
    count_max: Option<u32>,
    amount_max: Option<AmountText>,
    position: Position,
    set_at: Timestamp,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum WindowOutput {
    RollingS(u32),
    Day(&'static str),
}

/// A rule of either sort.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum RuleOutput<'a> {
    AccountType(AccountTypeOutput<'a>),
    VelocityLimit(VelocityLimitOutput<'a>),
}

impl<'a> RuleOutput<'a> {
    fn new(standing: &'a Standing) -> Self {
        let (position, set_at) = (standing.position, Timestamp(standing.set_at));
        match &standing.rule {
            Rule::AccountType(rule) => Self::AccountType(AccountTypeOutput {
                prefix: &rule.prefix,
                normal: rule.normal.as_str(),
                min_balance: rule.limits.min_balance.map(AmountText),
                max_balance: rule.limits.max_balance.map(AmountText),
                position,
                set_at,
            }),
            Rule::VelocityLimit(rule) => {
                let (account, prefix) = match &rule.scope {
                    Scope::Account(code) => (Some(&**code), None),
                    Scope::Prefix(prefix) => (None, Some(&**prefix)),
                };
                Self::VelocityLimit(VelocityLimitOutput {
                    name: &rule.name,
                    account,
                    prefix,
                    asset: rule.asset.as_ref().map(AssetCode::as_str),
                    direction: rule.direction.as_str(),
                    window: match rule.window {
                        Window::Rolling { seconds } => WindowOutput::RollingS(seconds),
                        Window::Day { zone } => WindowOutput::Day(zone.name()),
                    },
                    count_max: rule.count_max,
                    amount_max: rule.amount_max.map(AmountText),
                    position,
                    set_at,
                })
            }
        }
    }
}

/// `PUT /account-types/{prefix}`
pub async fn set_account_type(
    State(app): State<SharedApp>,
    InPath((name, prefix)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: AccountTypeInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let prefix = name_in_path("/path/prefix", &prefix)?;
    let rule = account_type(prefix, input).map_err(Problem::validation)?;
    set(&app, &ledger, Rule::AccountType(rule)).await
}

/// The account type of a request, or everything that is wrong with it.
fn account_type(prefix: Arc<str>, input: AccountTypeInput<'_>) -> Result<AccountType, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    let normal = input.normal.as_deref().map_or(Some(Side::Credit), Side::parse);
    if normal.is_none() {
        wrong("/normal", "normal is credit or debit".to_owned());
    }
    let [min_balance, max_balance] = limits(input.min_balance, input.max_balance, wrong);
    let limits =
        Limits { min_balance: min_balance.unwrap_or(Some(Amount::ZERO)), max_balance: max_balance.unwrap_or_default() };
    if min_balance.is_none()
        && let (Some(floor), Some(cap)) = (limits.min_balance, limits.max_balance)
        && floor > cap
    {
        let detail = "max_balance must not be below min_balance, which is 0 unless it is said".to_owned();
        errors.push(FieldError { pointer: "/max_balance".to_owned(), detail });
    }
    match normal {
        Some(normal) if errors.is_empty() => Ok(AccountType { prefix, normal, limits }),
        _ => Err(errors),
    }
}

/// `PUT /velocity-limits/{name}`
pub async fn set_velocity_limit(
    State(app): State<SharedApp>,
    InPath((name, rule)): InPath<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let bytes = body::read(request).await?;
    let input: VelocityLimitInput<'_> = body::parse(&bytes)?;
    let ledger = ledger(&app, &name).await?;
    let rule = name_in_path("/path/name", &rule)?;
    let rule = velocity_limit(rule, input).map_err(Problem::validation)?;
    set(&app, &ledger, Rule::VelocityLimit(rule)).await
}

/// The limit of a request, or everything that is wrong with it.
fn velocity_limit(name: Arc<str>, input: VelocityLimitInput<'_>) -> Result<VelocityLimit, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    let scope = match (&input.account, &input.prefix) {
        (Some(account), None) => wire::account_code(account)
            .map(|code| Scope::Account(Arc::from(code.as_str())))
            .map_err(|detail| wrong("/account", detail))
            .ok(),
        // An empty one is all accounts.
        (None, Some(prefix)) if prefix.is_empty() => Some(Scope::Prefix(Arc::from(""))),
        (None, Some(prefix)) => wire::account_code(prefix)
            .map(|code| Scope::Prefix(Arc::from(code.as_str())))
            .map_err(|detail| wrong("/prefix", detail))
            .ok(),
        _ => {
            wrong("/account", "name either an account or a prefix".to_owned());
            None
        }
    };
    let asset = input.asset.as_deref().and_then(|asset| {
        let asset = wire::asset_code(asset);
        asset.map_err(|detail| wrong("/asset", detail)).ok()
    });
    let direction = Direction::parse(&input.direction);
    if direction.is_none() {
        wrong("/direction", "direction is out or in".to_owned());
    }
    let window = window(&input.window.0).map_err(|(pointer, detail)| wrong(pointer, detail)).ok();
    let count_max = input.count_max.and_then(|count| {
        let count = whole_number(count).filter(|count| *count > 0);
        if count.is_none() {
            wrong("/count_max", format!("count_max is a whole number from 1 to {}", u32::MAX));
        }
        count
    });
    let amount_max = input.amount_max.and_then(|amount| match amount.0 {
        Ok(amount) if amount.is_positive() => Some(amount),
        Ok(_) => {
            wrong("/amount_max", "an amount is more than zero".to_owned());
            None
        }
        Err(error) => {
            wrong("/amount_max", error.to_string());
            None
        }
    });
    if input.count_max.is_none() && input.amount_max.is_none() {
        wrong("", "a limit has a count_max, an amount_max or both".to_owned());
    }
    if input.amount_max.is_some() && input.asset.is_none() {
        wrong("/asset", "an amount_max needs the asset that it is in".to_owned());
    }
    match (scope, direction, window) {
        (Some(scope), Some(direction), Some(window)) if errors.is_empty() => {
            Ok(VelocityLimit { name, scope, asset, direction, window, count_max, amount_max })
        }
        _ => Err(errors),
    }
}

fn window(input: &WindowInput<'_>) -> Result<Window, (&'static str, String)> {
    match (input.rolling_s, &input.day) {
        (Some(seconds), None) => {
            let seconds = whole_number(seconds).filter(|seconds| (ROLLING_S_MIN..=ROLLING_S_MAX).contains(seconds));
            let wrong = || format!("rolling_s is a whole number of seconds from {ROLLING_S_MIN} to {ROLLING_S_MAX}");
            seconds.map(|seconds| Window::Rolling { seconds }).ok_or_else(|| ("/window/rolling_s", wrong()))
        }
        (None, Some(zone)) => {
            let wrong =
                |_| ("/window/day", "day is a time zone of the IANA database, such as Europe/Zurich".to_owned());
            zone.parse().map(|zone| Window::Day { zone }).map_err(wrong)
        }
        _ => Err(("/window", "a window has either rolling_s or day".to_owned())),
    }
}

fn whole_number(json: &RawValue) -> Option<u32> {
    json.get().parse().ok()
}

/// The name of a rule, under the rules for all names.
fn name_in_path(pointer: &str, text: &str) -> Result<Arc<str>, Problem> {
    let name = wire::account_code(text).map_err(|detail| Problem::invalid(pointer, detail))?;
    Ok(Arc::from(name.as_str()))
}

/// Sets a rule: 201 when there was none of its name, 200 when there was.
async fn set(app: &App, ledger: &Ledger, rule: Rule) -> Result<Response, Problem> {
    let key = rule.key();
    let done = submit(ledger, Command::SetRule(rule)).await?;
    match done.outcomes.first() {
        Some(Outcome::Recorded { index, .. }) => {
            let event = done.batch.events.get(*index).ok_or_else(no_outcome)?;
            let Fact::RuleSet(rule) = &event.fact else { return Err(no_outcome()) };
            let standing = Standing { rule: rule.clone(), position: event.position, set_at: event.recorded_at };
            let before = rules_at(app, ledger, event.position - 1).await.map_err(not_read)?;
            let status = if before.rules.contains_key(&key) { StatusCode::OK } else { StatusCode::CREATED };
            Ok(answer(status, &RuleOutput::new(&standing), Some(done.position), false))
        }
        Some(Outcome::Unchanged(_)) => {
            let rules = rules_at(app, ledger, done.position).await?;
            let standing = rules.rules.get(&key).ok_or_else(no_outcome)?;
            Ok(answer(StatusCode::OK, &RuleOutput::new(standing), Some(done.position), false))
        }
        Some(Outcome::Refused { refusal, .. }) => Err(Problem::refused(refusal, Shape::Path, "", done.position)),
        _ => Err(no_outcome()),
    }
}

async fn rules_at(app: &App, ledger: &Ledger, position: Position) -> Result<Rules, Problem> {
    Ok(store::rules::at(app.worker.database.pool(), ledger.ledger_id, position).await?)
}

async fn submit(ledger: &Ledger, command: Command) -> Result<Answer, Problem> {
    let work = Work::Each(smallvec![Item { command, key: None }]);
    Ok(ledger.handle.submit(work, Instant::now() + REQUEST_DEADLINE).await?)
}

fn no_outcome() -> Problem {
    Problem::new(Code::InternalError, "the rule has no outcome")
}

/// `DELETE /account-types/{prefix}`
pub async fn remove_account_type(
    State(app): State<SharedApp>,
    InPath((name, prefix)): InPath<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let ledger = ledger(&app, &name).await?;
    let prefix = name_in_path("/path/prefix", &prefix)?;
    remove(&app, &ledger, RuleKey::AccountType(prefix)).await
}

/// `DELETE /velocity-limits/{name}`
pub async fn remove_velocity_limit(
    State(app): State<SharedApp>,
    InPath((name, rule)): InPath<(String, String)>,
    _: NoQuery,
) -> Result<Response, Problem> {
    let ledger = ledger(&app, &name).await?;
    let rule = name_in_path("/path/name", &rule)?;
    remove(&app, &ledger, RuleKey::VelocityLimit(rule)).await
}

/// Removes a rule, and answers with what it was.
async fn remove(app: &App, ledger: &Ledger, key: RuleKey) -> Result<Response, Problem> {
    let done = submit(ledger, Command::RemoveRule(key.clone())).await?;
    match done.outcomes.first() {
        Some(Outcome::Recorded { index, .. }) => {
            let event = done.batch.events.get(*index).ok_or_else(no_outcome)?;
            let before = rules_at(app, ledger, event.position - 1).await.map_err(not_read)?;
            let standing = before.rules.get(&key).ok_or_else(no_outcome)?;
            Ok(answer(StatusCode::OK, &RuleOutput::new(standing), Some(done.position), false))
        }
        Some(Outcome::Refused { refusal, .. }) => Err(Problem::refused(refusal, Shape::Path, "", done.position)),
        _ => Err(no_outcome()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    after: Option<String>,
    limit: Option<i64>,
    /// Either is the same here.
    #[serde(rename = "consistency")]
    _consistency: Option<Consistency>,
    min_position: Option<u64>,
}

/// Letters of these lists' cursors, which go on after a name.
const ACCOUNT_TYPE_CURSOR: char = 'y';
const VELOCITY_LIMIT_CURSOR: char = 'w';

/// `GET /account-types`
pub async fn list_account_types(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ListQuery>,
) -> Result<Response, Problem> {
    let name_of = |key: &RuleKey| match key {
        RuleKey::AccountType(prefix) => Some(Arc::clone(prefix)),
        RuleKey::VelocityLimit(_) => None,
    };
    list(&app, &name, query, ACCOUNT_TYPE_CURSOR, name_of).await
}

/// `GET /velocity-limits`
pub async fn list_velocity_limits(
    State(app): State<SharedApp>,
    InPath(name): InPath<String>,
    InQuery(query): InQuery<ListQuery>,
) -> Result<Response, Problem> {
    let name_of = |key: &RuleKey| match key {
        RuleKey::VelocityLimit(name) => Some(Arc::clone(name)),
        RuleKey::AccountType(_) => None,
    };
    list(&app, &name, query, VELOCITY_LIMIT_CURSOR, name_of).await
}

/// A page of the rules that `name_of` has a name for, by name.
async fn list(
    app: &App,
    name: &str,
    query: ListQuery,
    cursor: char,
    name_of: impl Fn(&RuleKey) -> Option<Arc<str>> + Send,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)? as usize;
    let after = name_cursor(cursor, query.after.as_deref())?;
    let ledger = ledger(app, name).await?;
    // Of what was acknowledged nothing is missing: it is in the log.
    let known = reads::log_at(&ledger, query.min_position).await?;
    let rules = store::rules::now(app.worker.database.pool(), ledger.ledger_id).await?;
    let named = rules.rules.iter().filter_map(|(key, standing)| Some((name_of(key)?, standing)));
    let rest: Vec<(Arc<str>, &Standing)> = named.filter(|(name, _)| &**name > after).collect();
    let data: Vec<RuleOutput<'_>> = rest.iter().take(limit).map(|(_, standing)| RuleOutput::new(standing)).collect();
    let next = rest.get(limit - 1).filter(|_| rest.len() > limit).map(|(last, _)| name_cursor_text(cursor, last));
    Ok(answer(StatusCode::OK, &Page { data, next }, Some(known.max(rules.position)), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_from(json: &str) -> Result<VelocityLimit, Vec<String>> {
        let limit = velocity_limit(Arc::from("daily"), body::parse(json.as_bytes()).unwrap());
        limit.map_err(|errors| errors.into_iter().map(|error| error.pointer).collect())
    }

    #[test]
    fn a_limit_has_a_scope_a_window_and_something_to_count() {
        let limit = limit_from(
            r#"{"prefix": "wallet:", "asset": "EUR", "direction": "out", "window": {"day": "Europe/Zurich"}, "amount_max": "100", "count_max": 3}"#,
        )
        .unwrap();
        assert_eq!(limit.scope, Scope::Prefix(Arc::from("wallet:")));
        assert_eq!(limit.window, Window::Day { zone: chrono_tz::Europe::Zurich });
        assert_eq!((limit.count_max, limit.amount_max), (Some(3), Some(Amount::from(100))));
        assert!(
            limit_from(r#"{"prefix": "", "direction": "in", "window": {"rolling_s": 60}, "count_max": 1}"#).is_ok()
        );
    }

    #[test]
    fn what_is_wrong_with_a_limit_is_said_where_it_is() {
        for (json, pointers) in [
            (r#"{"direction": "out", "window": {"rolling_s": 60}, "count_max": 1}"#, ["/account"].as_slice()),
            (
                r#"{"account": "a", "prefix": "a", "direction": "out", "window": {"rolling_s": 60}, "count_max": 1}"#,
                &["/account"],
            ),
            (
                r#"{"account": "a", "direction": "up", "window": {}, "count_max": 0}"#,
                &["/direction", "/window", "/count_max"],
            ),
            (
                r#"{"account": "a b", "direction": "in", "window": {"rolling_s": 59}, "count_max": 1.5}"#,
                &["/account", "/window/rolling_s", "/count_max"],
            ),
            (
                r#"{"account": "a", "direction": "in", "window": {"rolling_s": "60"}, "count_max": 1}"#,
                &["/window/rolling_s"],
            ),
            (r#"{"account": "a", "direction": "in", "window": {"day": "Nowhere"}, "count_max": 1}"#, &["/window/day"]),
            (
                r#"{"account": "a", "direction": "in", "window": {"day": "UTC", "rolling_s": 60}, "count_max": 1}"#,
                &["/window"],
            ),
            (r#"{"account": "a", "direction": "in", "window": {"day": "UTC"}}"#, &[""]),
            (r#"{"account": "a", "direction": "in", "window": {"day": "UTC"}, "amount_max": "5"}"#, &["/asset"]),
            (
                r#"{"account": "a", "asset": "EUR", "direction": "in", "window": {"day": "UTC"}, "amount_max": "0"}"#,
                &["/amount_max"],
            ),
        ] {
            assert_eq!(limit_from(json).unwrap_err(), pointers, "{json}");
        }
    }

    #[test]
    fn an_account_type_has_the_defaults_of_accounts() {
        let parse = |json: &str| account_type(Arc::from("wallet:"), body::parse(json.as_bytes()).unwrap());
        let limits = |min_balance, max_balance| Limits { min_balance, max_balance };
        let plain = parse("{}").unwrap();
        assert_eq!((plain.normal, plain.limits), (Side::Credit, limits(Some(Amount::ZERO), None)));
        let stated = parse(r#"{"normal": "debit", "min_balance": null, "max_balance": "7"}"#).unwrap();
        assert_eq!((stated.normal, stated.limits), (Side::Debit, limits(None, Some(Amount::from(7)))));
        for (json, pointer) in [
            (r#"{"normal": "left"}"#, "/normal"),
            (r#"{"min_balance": "8", "max_balance": "7"}"#, "/min_balance"),
            (r#"{"max_balance": "-7"}"#, "/max_balance"),
        ] {
            assert_eq!(parse(json).unwrap_err()[0].pointer, pointer, "{json}");
        }
    }
}
