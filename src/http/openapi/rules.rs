//! What changes accounts, and the rules of a ledger: routes, bodies and events.

use serde_json::{Value, json};

use super::super::problem::Code::{AccountIsClosed, AccountNotEmpty, AccountNotFound, LimitsConflict};
use super::super::problem::Code::{AssetNotFound, PeriodAlreadyClosed, RuleNotFound, TooManyRules};
use super::super::routes::account_changes::REASON_CHARS_MAX;
use super::super::routes::periods::HISTORY_MAX;
use super::operations::{
    ANY, AT_POSITION, BODY, CONSISTENCY, CURSOR, LEDGER, LEDGER_IN_PATH, LIMIT, MIN_POSITION, Operation, POSITION,
    Parameter, READ, SEQUENCED, WRITE, json_answer,
};
use super::schemas::{
    account_code, amount, described, metadata, nullable, object, page, position, reference, short_name, side, some_of,
    timestamp,
};
use crate::ledger::rule::{ROLLING_S_MAX, ROLLING_S_MIN};
use crate::ledger::{Change, FreezeScope};

const ACCOUNT: Parameter = Parameter::Shared("account-code");
const PREFIX: Parameter = Parameter::Shared("account-type-prefix");
const NAME: Parameter = Parameter::Shared("velocity-limit-name");

pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "patch",
        path: "/v1/ledgers/{ledger}/accounts/{code}",
        id: "updateAccount",
        tag: "Accounts",
        summary: "Change an account's limits or metadata",
        description: "What is absent stays; null takes a limit or the metadata away; metadata is replaced as a whole. \
                      A floor may be raised to what is available and no further, and a cap lowered to what is posted \
                      and pending: beyond that it is `limits_conflict`. A limit that stays as it was is not looked \
                      at. The same again changes nothing.",
        parameters: &[LEDGER_IN_PATH, ACCOUNT],
        body: Some("AccountUpdateRequest"),
        answers: &[json_answer(200, "The account as it is now.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE, SEQUENCED, &[AccountNotFound, AccountIsClosed, LimitsConflict]],
    },
    Operation {
        method: "patch",
        path: "/v1/ledgers/{ledger}/accounts/batch",
        id: "updateAccountNamedBatch",
        tag: "Accounts",
        summary: "Change the account with the code `batch`",
        description: "As with any other code; it is here because its path is one of POST too.",
        parameters: &[LEDGER_IN_PATH],
        body: Some("AccountUpdateRequest"),
        answers: &[json_answer(200, "The account as it is now.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE, SEQUENCED, &[AccountNotFound, AccountIsClosed, LimitsConflict]],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/accounts/{code}/freeze",
        id: "freezeAccount",
        tag: "Accounts",
        summary: "Freeze an account",
        description: "Declines legs of the account, `account_frozen`, until it is unfrozen: all of them, only debits or \
                      only credits, whichever side the account counts on. Holds on it stay, may be voided and expire, \
                      and are not captured meanwhile. Another freeze replaces the first; the same again changes \
                      nothing.",
        parameters: &[LEDGER_IN_PATH, ACCOUNT],
        body: Some("FreezeRequest"),
        answers: &[json_answer(200, "The account as it is now.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE, SEQUENCED, &[AccountNotFound, AccountIsClosed]],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/accounts/{code}/unfreeze",
        id: "unfreezeAccount",
        tag: "Accounts",
        summary: "Lift an account's freeze",
        description: "One that is not frozen stays as it is.",
        parameters: &[LEDGER_IN_PATH, ACCOUNT],
        body: Some("UnfreezeRequest"),
        answers: &[json_answer(200, "The account as it is now.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE, SEQUENCED, &[AccountNotFound, AccountIsClosed]],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/accounts/{code}/close",
        id: "closeAccount",
        tag: "Accounts",
        summary: "Close an account",
        description: "At a posted balance of zero and with nothing pending, else it is `account_not_empty`. All legs of \
                      it are declined from then on, `account_closed`; what was scheduled for it is declined when its \
                      time comes. A freeze stays. One that is closed stays as it is.",
        parameters: &[LEDGER_IN_PATH, ACCOUNT],
        body: Some("ReasonRequest"),
        answers: &[json_answer(200, "The account as it is now.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE, SEQUENCED, &[AccountNotFound, AccountNotEmpty]],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/accounts/{code}/reopen",
        id: "reopenAccount",
        tag: "Accounts",
        summary: "Reopen an account that was closed",
        description: "One that is open stays as it is; one that was frozen when it was closed is frozen still.",
        parameters: &[LEDGER_IN_PATH, ACCOUNT],
        body: Some("ReasonRequest"),
        answers: &[json_answer(200, "The account as it is now.", "Account", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE, SEQUENCED, &[AccountNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/account-types",
        id: "listAccountTypes",
        tag: "Rules",
        summary: "List account types by prefix",
        description: "Answered from the log, so a type that is set is there.",
        parameters: &[LEDGER_IN_PATH, CURSOR, LIMIT, CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &[json_answer(200, "A page of account types.", "AccountTypePage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, POSITION],
    },
    Operation {
        method: "put",
        path: "/v1/ledgers/{ledger}/account-types/{prefix}",
        id: "setAccountType",
        tag: "Rules",
        summary: "Set what accounts begin with",
        description: "An account whose opening leaves `normal`, `min_balance` or `max_balance` out has them from the \
                      type with the longest prefix that its code begins with, and without one is a credit account \
                      with a floor of 0 and no cap. Accounts that are open stay as they are. What the body leaves out \
                      is `credit`, `\"0\"` and null.",
        parameters: &[LEDGER_IN_PATH, PREFIX],
        body: Some("AccountTypeRequest"),
        answers: &[
            json_answer(
                200,
                "It was set before, to this or another value; it has this one now.",
                "AccountType",
                AT_POSITION,
            ),
            json_answer(201, "The account type is new.", "AccountType", AT_POSITION),
        ],
        problems: &[ANY, LEDGER, BODY, READ, WRITE, &[TooManyRules]],
    },
    Operation {
        method: "delete",
        path: "/v1/ledgers/{ledger}/account-types/{prefix}",
        id: "removeAccountType",
        tag: "Rules",
        summary: "Remove an account type",
        description: "Accounts stay as they are.",
        parameters: &[LEDGER_IN_PATH, PREFIX],
        body: None,
        answers: &[json_answer(200, "What it was.", "AccountType", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, WRITE, &[RuleNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/velocity-limits",
        id: "listVelocityLimits",
        tag: "Rules",
        summary: "List velocity limits by name",
        description: "Answered from the log, so a limit that is set is there.",
        parameters: &[LEDGER_IN_PATH, CURSOR, LIMIT, CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &[json_answer(200, "A page of velocity limits.", "VelocityLimitPage", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, POSITION],
    },
    Operation {
        method: "put",
        path: "/v1/ledgers/{ledger}/velocity-limits/{name}",
        id: "setVelocityLimit",
        tag: "Rules",
        summary: "Limit how much moves within a window of time",
        description: "Counts the legs of an account, or of every account below a prefix for itself, that lower its \
                      balance (`out`) or raise it (`in`), and their amounts. What would exceed it is \
                      `velocity_limit_exceeded`, which names the limit and says when the same would pass. Setting \
                      another value begins the counting anew. An `asset` that is not defined is `asset_not_found`.",
        parameters: &[LEDGER_IN_PATH, NAME],
        body: Some("VelocityLimitRequest"),
        answers: &[
            json_answer(
                200,
                "It was set before, to this or another value; it has this one now.",
                "VelocityLimit",
                AT_POSITION,
            ),
            json_answer(201, "The limit is new.", "VelocityLimit", AT_POSITION),
        ],
        problems: &[ANY, LEDGER, BODY, READ, WRITE, &[AssetNotFound, TooManyRules]],
    },
    Operation {
        method: "delete",
        path: "/v1/ledgers/{ledger}/velocity-limits/{name}",
        id: "removeVelocityLimit",
        tag: "Rules",
        summary: "Remove a velocity limit",
        description: "Nothing is counted for it any more.",
        parameters: &[LEDGER_IN_PATH, NAME],
        body: None,
        answers: &[json_answer(200, "What it was.", "VelocityLimit", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, WRITE, &[RuleNotFound]],
    },
    Operation {
        method: "get",
        path: "/v1/ledgers/{ledger}/periods",
        id: "getPeriods",
        tag: "Rules",
        summary: "What is closed, and since when",
        description: "Answered from the log. The history has the last 1,000 closings, the newest first.",
        parameters: &[LEDGER_IN_PATH, CONSISTENCY, MIN_POSITION],
        body: None,
        answers: &[json_answer(200, "The time before which everything is closed.", "Periods", AT_POSITION)],
        problems: &[ANY, LEDGER, READ, POSITION],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/periods/close",
        id: "closePeriod",
        tag: "Rules",
        summary: "Close the books up to a time",
        description: "Nothing can become effective before it any more, for good: back-dating there is `period_closed`. \
                      The time is not in the future. What was scheduled for a time before it has been decided by \
                      then. The same again changes nothing; an earlier time is `period_already_closed`.",
        parameters: &[LEDGER_IN_PATH],
        body: Some("PeriodCloseRequest"),
        answers: &[json_answer(200, "The books are closed.", "PeriodClosing", AT_POSITION)],
        problems: &[ANY, LEDGER, BODY, WRITE, &[PeriodAlreadyClosed]],
    },
];

/// What the description above says.
const _: () = assert!(HISTORY_MAX == 1_000);

/// Parameters of these routes, by the name they are referred to.
pub fn parameters() -> Value {
    let in_path = |name: &str, description: &str| {
        let schema = reference("AccountCode");
        json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
    };
    json!({
        "account-type-prefix": in_path("prefix", "What the codes of the accounts begin with, percent-encoded: plain text, such as `wallet:`."),
        "velocity-limit-name": in_path("name", "The limit's name, percent-encoded."),
    })
}

fn bound(default: Value, description: &str) -> Value {
    json!({"$ref": "#/components/schemas/Bound", "default": default, "description": description})
}

fn reason() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": REASON_CHARS_MAX, "pattern": "\\S"})
}

fn scope() -> Value {
    json!({"type": "string", "enum": FreezeScope::ALL.map(FreezeScope::as_str), "description": "Which legs are declined."})
}

fn direction() -> Value {
    json!({"type": "string", "enum": ["out", "in"], "description": "Legs that lower the balance on the account's normal side, or those that raise it."})
}

fn count_max() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": u32::MAX, "description": "Legs within the window."})
}

fn zone() -> Value {
    json!({"type": "string", "description": "A time zone of the IANA database, such as `Europe/Zurich`."})
}

fn seconds() -> Value {
    json!({"type": "integer", "minimum": ROLLING_S_MIN, "maximum": ROLLING_S_MAX, "description": "Seconds that roll along, counted in sixtieths of them."})
}

/// The freeze of an account, there only when it has one.
pub fn frozen() -> Value {
    described(
        object(json!({"scope": scope(), "reason": described(reason(), "Why, in the operator's words.")})),
        "There when the account has a freeze, which one that is closed keeps.",
    )
}

/// Bodies of these routes.
pub fn schemas() -> Value {
    let account_type = json!({
        "normal": {"type": ["string", "null"], "enum": ["credit", "debit", null], "default": "credit", "description": "The side that raises the balance."},
        "min_balance": bound(json!("0"), "The floor; null is none."),
        "max_balance": bound(Value::Null, "The cap; null is none."),
    });
    let velocity_limit = json!({
        "account": nullable(described(account_code(), "The one account; either this or `prefix`.")),
        "prefix": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9:_.@/-]{0,128}$", "description": "Each account whose code begins so, for itself; an empty one is all accounts."},
        "asset": nullable(described(short_name(), "Only accounts of this asset; needed with `amount_max`.")),
        "direction": direction(),
        "window": reference("Window"),
        "count_max": nullable(count_max()),
        "amount_max": {"oneOf": [reference("PositiveAmount"), {"type": "null"}], "description": "Sum of the legs' amounts within the window."},
    });
    let account_type_answer = json!({
        "prefix": account_code(),
        "normal": side(),
        "min_balance": nullable(amount()),
        "max_balance": nullable(amount()),
        "position": described(position(), "The event that has set it so."),
        "set_at": timestamp(),
    });
    let mut velocity_limit_answer = velocity_limit.clone();
    velocity_limit_answer["name"] = account_code();
    velocity_limit_answer["amount_max"] = nullable(amount());
    velocity_limit_answer["position"] = described(position(), "The event that has set it so, from which on it counts.");
    velocity_limit_answer["set_at"] = timestamp();
    json!({
        "AccountUpdateRequest": some_of(
            json!({
                "min_balance": {"$ref": "#/components/schemas/Bound", "description": "The floor; absent: as it is; null: none."},
                "max_balance": {"$ref": "#/components/schemas/Bound", "description": "The cap; absent: as it is; null: none."},
                "metadata": nullable(described(metadata(), "All of it anew; absent: as it is; null: `{}`.")),
            }),
            &[],
        ),
        "FreezeRequest": some_of(
            json!({
                "scope": {"type": ["string", "null"], "enum": ["all", "debits", "credits", null], "default": "all", "description": "Which legs are declined."},
                "reason": reason(),
            }),
            &["reason"],
        ),
        "UnfreezeRequest": object(json!({"reason": reason()})),
        "ReasonRequest": some_of(json!({"reason": nullable(reason())}), &[]),
        "AccountTypeRequest": some_of(account_type, &[]),
        "AccountType": object(account_type_answer),
        "AccountTypePage": page("AccountType"),
        "Window": {"oneOf": [
            object(json!({"rolling_s": seconds()})),
            object(json!({"day": described(zone(), "A calendar day as clocks in a time zone of the IANA database have it, such as `Europe/Zurich`.")})),
        ]},
        "VelocityLimitRequest": some_of(velocity_limit, &["direction", "window"]),
        "VelocityLimit": object(velocity_limit_answer),
        "VelocityLimitPage": page("VelocityLimit"),
        "PeriodCloseRequest": object(json!({
            "before": {
                "type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}],
                "description": "The first moment that stays open: RFC 3339, or a date, which begins at midnight in UTC.",
            },
        })),
        "PeriodClosing": object(json!({"closed_before": timestamp()})),
        "Periods": object(json!({
            "closed_before": described(nullable(timestamp()), "Nothing can become effective before it; null when nothing was ever closed."),
            "history": {"type": "array", "maxItems": HISTORY_MAX, "items": object(json!({
                "before": timestamp(),
                "position": position(),
                "recorded_at": timestamp(),
            }))},
        })),
    })
}

/// The events that these routes record: type, name of the schema, payload.
pub fn events() -> Vec<(&'static str, &'static str, Value)> {
    let limit = || described(amount(), "Left out when there is none.");
    let changed = some_of(
        json!({
            "account": account_code(),
            "account_id": described(position(), "Position of the event that opened the account."),
            "closed": {"type": "boolean", "const": true, "description": "Left out when it is open."},
            "freeze": described(object(json!({"scope": scope(), "reason": reason()})), "Left out when there is none."),
            "min_balance": limit(),
            "max_balance": limit(),
            "metadata": reference("Metadata"),
            "reason": described(reason(), "Of the change, where one was given."),
        }),
        &["account", "account_id"],
    );
    let mut events: Vec<_> = Change::ALL.map(|change| (change.type_name(), schema_of(change), changed.clone())).into();
    let window = json!({"oneOf": [object(json!({"seconds": seconds()})), object(json!({"zone": zone()}))]});
    events.extend([
        (
            "account_type_set",
            "AccountTypeSet",
            some_of(
                json!({"prefix": account_code(), "normal": side(), "min_balance": limit(), "max_balance": limit()}),
                &["prefix", "normal"],
            ),
        ),
        ("account_type_removed", "AccountTypeRemoved", object(json!({"prefix": account_code()}))),
        (
            "velocity_limit_set",
            "VelocityLimitSet",
            some_of(
                json!({
                    "name": account_code(),
                    "account": described(account_code(), "Either this or `prefix`."),
                    "prefix": {"type": "string", "maxLength": 128},
                    "asset": short_name(),
                    "direction": direction(),
                    "window": window,
                    "count_max": count_max(),
                    "amount_max": amount(),
                }),
                &["name", "direction", "window"],
            ),
        ),
        ("velocity_limit_removed", "VelocityLimitRemoved", object(json!({"name": account_code()}))),
        ("period_closed", "PeriodClosed", object(json!({"before": timestamp()}))),
    ]);
    events
}

const fn schema_of(change: Change) -> &'static str {
    match change {
        Change::Updated => "AccountUpdated",
        Change::Frozen => "AccountFrozen",
        Change::Unfrozen => "AccountUnfrozen",
        Change::Closed => "AccountClosed",
        Change::Reopened => "AccountReopened",
    }
}

/// An example of a body, where one says more than the schema.
pub fn example(name: &str) -> Option<Value> {
    let example = match name {
        "AccountUpdateRequest" => json!({"min_balance": "-50000", "metadata": {"customer": 17}}),
        "FreezeRequest" => json!({"scope": "debits", "reason": "court order 4 C 17/26"}),
        "UnfreezeRequest" => json!({"reason": "order lifted"}),
        "ReasonRequest" => json!({"reason": "the customer has left"}),
        "AccountTypeRequest" => json!({"normal": "debit", "min_balance": null}),
        "VelocityLimitRequest" => json!({
            "prefix": "wallet:", "asset": "EUR", "direction": "out",
            "window": {"day": "Europe/Zurich"}, "amount_max": "100000", "count_max": 20,
        }),
        "PeriodCloseRequest" => json!({"before": "2026-11-01T00:00:00Z"}),
        _ => return None,
    };
    Some(example)
}
