//! What moves money: routes of holds, reversals and schedules, bodies and events.

use serde_json::{Map, Value, json};

use super::super::problem::Code::{self, *};
use super::super::requests::EXPIRES_IN_S_MAX;
use super::super::routes::transactions::BATCH_LEGS_MAX;
use super::super::story::TRANSACTION_STATUSES;
use super::operations::{ANY, BODY, LEDGER, LEDGER_IN_PATH, Operation, Parameter, REPLAYABLE, WRITE, json_answer};
use super::schemas::{
    account_code, amount, count, described, key, metadata, nullable, object, position, reference, rejection_codes,
    rejection_or_null, result, short_name, side, some_of, text, timestamp, uuid,
};
use crate::ledger::transaction::LEGS_MAX;
use crate::ledger::{HoldState, Kind, RATE_DIGITS_MAX, RATES_MAX, REMAINDER_DIGITS_MAX};
use crate::store::story::LINKED_MAX;

const KEY: Parameter = Parameter::Shared("Idempotency-Key");
const TRANSACTION: Parameter = Parameter::Shared("transaction-id");

const KEYED: &[Code] = &[IdempotencyKeyMissing, IdempotencyKeyInvalid, IdempotencyKeyReused];
/// What may be wrong with a new transaction.
pub const TRANSACT: &[Code] = &[
    IdempotencyKeyMissing,
    IdempotencyKeyInvalid,
    IdempotencyKeyReused,
    SameAccount,
    AccountNotFound,
    AssetMismatch,
    PeriodClosed,
    AccountClosed,
    AccountFrozen,
    VelocityLimitExceeded,
    InsufficientFunds,
    BalanceLimitExceeded,
];
const CAPTURE: &[Code] = &[
    TransactionNotFound,
    NotAHold,
    HoldNotOpen,
    CaptureExceedsHold,
    AccountClosed,
    AccountFrozen,
    BalanceLimitExceeded,
];
const REVERSE: &[Code] = &[
    TransactionNotFound,
    NotReversible,
    AccountNotFound,
    ReversalExceedsTransaction,
    PeriodClosed,
    AccountClosed,
    AccountFrozen,
    InsufficientFunds,
    BalanceLimitExceeded,
];

/// What the descriptions below say.
const _: () = assert!(
    LEGS_MAX == 256
        && BATCH_LEGS_MAX == 40_000
        && RATES_MAX == 16
        && RATE_DIGITS_MAX == 18
        && REMAINDER_DIGITS_MAX == 55
        && LINKED_MAX == 1_000
);

pub const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/payments/{id}/capture",
        id: "capture",
        tag: "Payments",
        summary: "Post what a payment has reserved",
        description: "All that remains, or a part of it with `amount`, as often as something remains; with \
                      `\"final\": true` the rest is given back. What was reserved needs no funds any more: neither \
                      floors nor caps are looked at, only whether the accounts are open and not frozen. In order: \
                      `transaction_not_found`, `not_a_hold`, and, recorded, `hold_not_open`, `capture_exceeds_hold`, \
                      `account_closed`, `account_frozen`, `balance_limit_exceeded` (a total of more than 38 digits).",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("payment-id"), KEY],
        body: Some("CaptureRequest"),
        answers: &[json_answer(201, "The capture is posted and durable.", "Capture", REPLAYABLE)],
        problems: &[ANY, LEDGER, BODY, WRITE, KEYED, CAPTURE],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/payments/{id}/void",
        id: "void",
        tag: "Payments",
        summary: "Give back what a payment has reserved",
        description: "All that remains of it; what was captured stays posted, and can be reversed. Possible on frozen \
                      accounts. In order: `transaction_not_found`, `not_a_hold`, and, recorded, `hold_not_open`.",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("payment-id"), KEY],
        body: Some("VoidRequest"),
        answers: &[json_answer(200, "Nothing is reserved any more.", "VoidedPayment", REPLAYABLE)],
        problems: &[ANY, LEDGER, BODY, WRITE, KEYED, &[TransactionNotFound, NotAHold, HoldNotOpen]],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/transactions",
        id: "transact",
        tag: "Transactions",
        summary: "Post a transaction of 2 to 256 legs",
        description: "Debits equal credits for each asset. `rates` states exchange rates, which are checked: the debits \
                      in `from`, times `rate`, in whole units, are the debits in `to` plus `remainder`, exactly. With \
                      an `effective_at` in the future it is scheduled, and decided then. When several reasons apply, \
                      the first in this order is given: `validation_failed`, `same_account`, `account_not_found`, \
                      `asset_mismatch`, and, recorded, `period_closed`, `account_closed`, `account_frozen`, \
                      `velocity_limit_exceeded`, `insufficient_funds`, `balance_limit_exceeded`.",
        parameters: &[LEDGER_IN_PATH, KEY],
        body: Some("TransactionRequest"),
        answers: &[json_answer(201, "It is posted, or scheduled, and durable.", "TransactionAnswer", REPLAYABLE)],
        problems: &[ANY, LEDGER, BODY, WRITE, TRANSACT],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/transactions/batch",
        id: "transactInBatch",
        tag: "Transactions",
        summary: "Post 1 to 10,000 transactions",
        description: "As the batch of payments: each for itself with an `idempotency_key` in each item, or with \
                      `\"atomic\": true` all or none with one `Idempotency-Key` header. At most 40,000 legs in all.",
        parameters: &[LEDGER_IN_PATH, Parameter::Shared("Idempotency-Key-of-batch")],
        body: Some("TransactionBatchRequest"),
        answers: &[
            json_answer(
                200,
                "A result per item, in order; `Idempotent-Replayed` when every item that got to the ledger was a replay.",
                "TransactionBatch",
                REPLAYABLE,
            ),
            json_answer(201, "All are recorded (`atomic`).", "RecordedTransactionBatch", REPLAYABLE),
        ],
        problems: &[ANY, LEDGER, BODY, WRITE, TRANSACT],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/transactions/{id}/reverse",
        id: "reverse",
        tag: "Transactions",
        summary: "Take back what a transaction has posted, or a part of it",
        description: "All that is left, so much of both legs with `amount`, or parts of single legs with `legs`, never \
                      more than is left. A reversal is a transaction of its own with the sides exchanged, and can be \
                      reversed itself. `\"force\": true` lets it break a floor, and is recorded; nothing else is \
                      waived. It needs an API key with the role `admin` (403 `forbidden`), where keys are asked \
                      for. In order: `transaction_not_found`, `not_reversible`, `account_not_found` (of `legs`), \
                      and, recorded, `reversal_exceeds_transaction`, `period_closed`, `account_closed`, \
                      `account_frozen`, `insufficient_funds`, `balance_limit_exceeded`.",
        parameters: &[LEDGER_IN_PATH, TRANSACTION, KEY],
        body: Some("ReversalRequest"),
        answers: &[json_answer(201, "The reversal is posted and durable.", "Reversal", REPLAYABLE)],
        problems: &[ANY, LEDGER, BODY, WRITE, KEYED, REVERSE],
    },
    Operation {
        method: "post",
        path: "/v1/ledgers/{ledger}/transactions/{id}/cancel",
        id: "cancel",
        tag: "Transactions",
        summary: "Withdraw a scheduled transaction",
        description: "Before its time; afterwards it has been decided, and this is `not_scheduled`.",
        parameters: &[LEDGER_IN_PATH, TRANSACTION, KEY],
        body: Some("CancellationRequest"),
        answers: &[json_answer(200, "It will not be posted.", "CancelledTransaction", REPLAYABLE)],
        problems: &[ANY, LEDGER, BODY, WRITE, KEYED, &[TransactionNotFound, NotScheduled]],
    },
];

/// Texts and metadata of a request.
pub fn note_fields() -> Value {
    json!({
        "reference": {"type": ["string", "null"], "default": null, "maxLength": 255, "description": "An invoice number, an end-to-end id: up to 255 bytes."},
        "description": {"type": ["string", "null"], "default": null, "maxLength": 1024, "description": "A line on a statement: up to 1,024 bytes."},
        "metadata": nullable(metadata()),
    })
}

/// The same of an answer, and where it is in the log.
fn recorded_fields() -> Value {
    json!({
        "reference": text("As the client gave it."),
        "description": text("As the client gave it."),
        "metadata": reference("Metadata"),
        "position": position(),
        "recorded_at": timestamp(),
        "effective_at": timestamp(),
    })
}

fn with(mut fields: Value, more: &Value) -> Value {
    for (name, schema) in more.as_object().into_iter().flatten() {
        fields[name.as_str()] = schema.clone();
    }
    fields
}

fn effective_at() -> Value {
    json!({
        "type": ["string", "null"], "default": null,
        "anyOf": [{"format": "date-time"}, {"format": "date"}, {"type": "null"}],
        "description": "When it counts for the books: RFC 3339 with seconds of 00 to 59, of which digits after the microsecond are cut, or a date (`2026-01-31`), which begins at midnight in UTC; by default when it is recorded. From 1970 on, outside of closed periods; in the future, up to 1,830 days ahead, it is scheduled.",
    })
}

/// What a payment may state beside the first release's fields.
pub fn payment_terms() -> Value {
    json!({
        "capture": {"type": ["string", "null"], "enum": ["automatic", "manual", null], "default": "automatic", "description": "`manual` only reserves the funds, to be captured or voided later."},
        "expires_at": {"type": ["string", "null"], "format": "date-time", "default": null, "description": "When what is reserved is given back by itself: RFC 3339 with seconds of 00 to 59, of which digits after the microsecond are cut; in the future, up to 1,830 days ahead. Only with `\"capture\": \"manual\"`."},
        "expires_in_s": {"type": ["integer", "null"], "minimum": 1, "maximum": EXPIRES_IN_S_MAX, "default": null, "description": "The same, in seconds after it is recorded. Either this or `expires_at`."},
        "effective_at": effective_at(),
    })
}

fn legs(item: &str) -> Value {
    json!({"type": "array", "minItems": 2, "maxItems": LEGS_MAX, "items": reference(item)})
}

fn balances() -> Value {
    json!({
        "type": "object", "minProperties": 1, "maxProperties": LEGS_MAX,
        "propertyNames": account_code(), "additionalProperties": reference("BalanceWithPendingAfter"),
        "description": "What it left behind, by account.",
    })
}

fn constant(value: &str) -> Value {
    json!({"type": "string", "const": value})
}

/// Bodies of these routes, and of those that answer with a transaction.
pub fn schemas() -> Value {
    let mut schemas = Map::new();
    for part in [requests(), payments(), transactions(), story()] {
        if let Value::Object(part) = part {
            schemas.extend(part);
        }
    }
    Value::Object(schemas)
}

fn requests() -> Value {
    let transaction = with(
        json!({
            "legs": legs("Leg"),
            "rates": {"type": ["array", "null"], "maxItems": RATES_MAX, "default": null, "items": reference("RateRequest"), "description": "Exchange rates that the legs are checked against."},
            "effective_at": effective_at(),
        }),
        &note_fields(),
    );
    let item = with(
        transaction.clone(),
        &json!({"idempotency_key": nullable(described(key(), "Required unless the batch is atomic."))}),
    );
    json!({
        "Leg": object(json!({
            "account": account_code(),
            "side": side(),
            "amount": reference("PositiveAmount"),
            "asset": short_name(),
        })),
        "RateRequest": some_of(
            json!({
                "from": short_name(),
                "to": short_name(),
                "rate": {"type": ["string", "number"], "pattern": format!("^0*[0-9]{{1,{RATE_DIGITS_MAX}}}(\\.[0-9]{{1,{RATE_DIGITS_MAX}}}0*)?$"), "description": "Whole units of `to` for one whole unit of `from`: a plain decimal of more than zero, at most 18 digits on either side of the point. A string is exact whatever the JSON library."},
                "remainder": {"type": ["string", "number", "null"], "pattern": format!("^-?0+(\\.[0-9]{{1,{REMAINDER_DIGITS_MAX}}}0*)?$"), "default": null, "description": "What rounding left over, in the smallest unit of `to`: a decimal between -1 and 1, of at most 55 digits, which are as many as the product can have. The problem that comes without it says which it is."},
            }),
            &["from", "to", "rate"],
        ),
        "TransactionRequest": some_of(transaction, &["legs"]),
        "TransactionBatchItem": some_of(item, &["legs"]),
        "TransactionBatchRequest": some_of(
            json!({
                "transactions": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": reference("TransactionBatchItem"), "description": "With at most 40,000 legs in all."},
                "atomic": {"type": "boolean", "default": false, "description": "All or none."},
            }),
            &["transactions"],
        ),
        "CaptureRequest": some_of(
            with(
                json!({
                    "amount": {"oneOf": [reference("PositiveAmount"), {"type": "null"}], "default": null, "description": "All that remains, where it is left out."},
                    "final": {"type": ["boolean", "null"], "default": false, "description": "Give back what then remains."},
                }),
                &note_fields(),
            ),
            &[],
        ),
        "VoidRequest": object(json!({})),
        "ReversalRequest": some_of(
            with(
                json!({
                    "amount": {"oneOf": [reference("PositiveAmount"), {"type": "null"}], "default": null, "description": "So much of both legs, of a transaction that has two."},
                    "legs": {"type": ["array", "null"], "minItems": 2, "maxItems": LEGS_MAX, "default": null, "items": reference("Leg"), "description": "The legs of the reversal, each on the other side of one of the transaction's legs on the same account. Either this or `amount`; without both, all that is left."},
                    "force": {"type": ["boolean", "null"], "default": false, "description": "It may break a floor."},
                }),
                &note_fields(),
            ),
            &[],
        ),
        "CancellationRequest": object(json!({})),
    })
}

fn payments() -> Value {
    let between = json!({
        "from": account_code(),
        "to": account_code(),
        "amount": described(amount(), "In the asset's smallest unit."),
        "asset": short_name(),
    });
    let payment = |status: &str, more: Value| {
        let fields = json!({"id": uuid(), "type": constant("payment"), "status": constant(status)});
        with(with(fields, &between), &more)
    };
    let recorded = recorded_fields();
    json!({
        "BalanceWithPendingAfter": object(json!({
            "posted": amount(),
            "pending_in": amount(),
            "pending_out": amount(),
            "available": amount(),
            "version": count(),
        })),
        "AuthorisedPayment": object(with(
            payment("authorised", json!({
                "captured": amount(),
                "remaining": described(amount(), "Reserved."),
                "expires_at": described(nullable(timestamp()), "When that ends by itself; null for never."),
                "balances": balances(),
            })),
            &recorded,
        )),
        "ScheduledPayment": object(with(payment("scheduled", json!({})), &recorded)),
        "PaymentAnswer": {"oneOf": [reference("Payment"), reference("AuthorisedPayment"), reference("ScheduledPayment")]},
        "Capture": object(with(
            with(
                json!({
                    "id": described(uuid(), "Of the capture, which is a transaction of its own."),
                    "type": constant("capture"),
                    "status": constant("posted"),
                    "payment": reference("CapturedPayment"),
                    "balances": balances(),
                }),
                &between,
            ),
            &recorded,
        )),
        "CapturedPayment": object(json!({
            "id": uuid(),
            "status": {"type": "string", "enum": ["authorised", "captured"]},
            "captured": described(amount(), "In all, with this capture."),
            "remaining": described(amount(), "Still reserved afterwards."),
        })),
        "VoidedPayment": object(payment("voided", json!({
            "captured": described(amount(), "What had been posted, which stays so."),
            "remaining": constant("0"),
            "released": described(amount(), "What was given back."),
            "balances": balances(),
            "position": position(),
            "recorded_at": timestamp(),
        }))),
    })
}

fn transactions() -> Value {
    let posted_leg = object(json!({
        "account": account_code(),
        "side": side(),
        "amount": amount(),
        "asset": short_name(),
        "balance_after": described(amount(), "The account's posted balance after the leg."),
    }));
    let scheduled_leg = object(json!({
        "account": account_code(), "side": side(), "amount": amount(), "asset": short_name(),
    }));
    let legs = |item: Value| json!({"type": "array", "minItems": 2, "maxItems": LEGS_MAX, "items": item});
    let rates = json!({"type": "array", "maxItems": RATES_MAX, "items": reference("Rate")});
    let recorded = recorded_fields();
    json!({
        "Rate": object(json!({
            "from": short_name(), "to": short_name(), "rate": {"type": "string"}, "remainder": {"type": "string"},
        })),
        "PostedTransaction": object(with(
            json!({
                "id": uuid(), "type": constant("transaction"), "status": constant("posted"),
                "legs": legs(posted_leg.clone()), "rates": rates, "balances": balances(),
            }),
            &recorded,
        )),
        "ScheduledTransaction": object(with(
            json!({
                "id": uuid(), "type": constant("transaction"), "status": constant("scheduled"),
                "legs": legs(scheduled_leg), "rates": rates,
            }),
            &recorded,
        )),
        "TransactionAnswer": {"oneOf": [reference("PostedTransaction"), reference("ScheduledTransaction")]},
        "TransactionResult": result("transaction", "TransactionAnswer"),
        "TransactionBatch": object(json!({"results": {"type": "array", "items": reference("TransactionResult")}})),
        "RecordedTransactionBatch": object(json!({"results": {"type": "array", "minItems": 1, "items": object(json!({
            "status": {"type": "integer", "const": 201}, "transaction": reference("TransactionAnswer"),
        }))}})),
        "Reversal": object(with(
            json!({
                "id": described(uuid(), "Of the reversal, which is a transaction of its own."),
                "type": constant("reversal"),
                "status": constant("posted"),
                "reverses": reference("ReversedTransaction"),
                "forced": {"type": "boolean", "description": "It was allowed to break a floor."},
                "legs": legs(posted_leg),
                "balances": balances(),
            }),
            &recorded,
        )),
        "ReversedTransaction": object(json!({
            "id": uuid(),
            "remaining": {"type": "array", "minItems": 2, "maxItems": LEGS_MAX, "items": amount(), "description": "Of each of its legs, what is not reversed yet afterwards."},
        })),
        "CancelledTransaction": object(json!({
            "id": uuid(), "status": constant("cancelled"), "position": position(), "recorded_at": timestamp(),
        })),
    })
}

/// A transaction as the routes show it that find one.
fn story() -> Value {
    let linked = |description: &str| json!({"type": "array", "maxItems": LINKED_MAX, "items": reference("LinkedTransaction"), "description": description});
    let asked = object(json!({"id": uuid()}));
    json!({
        "TransactionLeg": some_of(
            json!({
                "account": account_code(),
                "side": side(),
                "amount": amount(),
                "asset": short_name(),
                "balance_after": described(nullable(amount()), "The account's posted balance after the leg; null when it posted nothing."),
                "version": described(nullable(count()), "The account's version after the leg; null when it posted nothing."),
                "reversible": described(amount(), "What of it is not reversed yet; there once something is reversed."),
            }),
            &["account", "side", "amount", "asset", "balance_after", "version"],
        ),
        "LinkedTransaction": object(json!({
            "id": uuid(),
            "amount": described(nullable(amount()), "Of both legs; null where there are more."),
            "position": position(),
            "recorded_at": timestamp(),
        })),
        "Transaction": some_of(
            json!({
                "id": uuid(),
                "type": {"type": "string", "enum": Kind::ALL.map(Kind::as_str)},
                "status": {"type": "string", "enum": TRANSACTION_STATUSES},
                "reason": {"type": ["string", "null"], "enum": rejection_or_null(), "description": "The rule that declined it; null otherwise."},
                "rejection": described(some_of(
                    json!({
                        "detail": {"type": "string", "description": "As in the problem that its request was answered with."},
                        "account": account_code(),
                        "limit": {"type": "string", "description": "The velocity limit."},
                        "passes_at": described(timestamp(), "When the same would have passed the velocity limits; left out for never."),
                        "item": {"type": "integer", "minimum": 0, "description": "Of a batch that was declined as a whole: the index of the item at fault."},
                    }),
                    &["detail", "account"],
                ), "Of one that was declined: why."),
                "legs": legs("TransactionLeg"),
                "reference": text("As the client gave it."),
                "description": text("As the client gave it."),
                "metadata": reference("Metadata"),
                "idempotency_key": nullable(key()),
                "position": described(position(), "Of the event that began it."),
                "recorded_at": timestamp(),
                "effective_at": timestamp(),
                "rates": {"type": "array", "maxItems": RATES_MAX, "items": reference("Rate"), "description": "There where it states any."},
                "captured": described(amount(), "Of a payment that was authorised: what is posted of it."),
                "remaining": described(amount(), "Of a payment that was authorised: what is still reserved."),
                "expires_at": described(nullable(timestamp()), "Of a payment that was authorised: when it expires by itself; null for never."),
                "captures": linked("Of a payment that was authorised: its captures, the first 1,000."),
                "reversals": linked("Its reversals, the first 1,000; there once there is one."),
                "payment": {"oneOf": [reference("CapturedPayment"), asked], "description": "Of a capture: the payment, as it left it. Of a capture or a void that was declined: its id."},
                "reverses": {"oneOf": [reference("ReversedTransaction"), asked], "description": "Of a reversal: the transaction, as it left it. Of one that was declined: its id."},
                "forced": {"type": "boolean", "description": "Of a reversal: whether it was allowed to break a floor."},
                "events": {"type": "array", "minItems": 2, "description": "Its own events, where it has more than one; `GET …/events?after=` shows them.", "items": object(json!({
                    "type": {"type": "string"}, "position": position(), "recorded_at": timestamp(),
                }))},
            }),
            &[
                "id", "type", "status", "reason", "legs", "reference", "description", "metadata", "idempotency_key",
                "position", "recorded_at", "effective_at",
            ],
        ),
    })
}

fn event_leg(outcome: bool) -> Value {
    let mut fields = json!({
        "account": account_code(),
        "account_id": described(position(), "Position of the event that opened the account."),
        "side": side(),
        "amount": amount(),
        "asset": described(short_name(), "Where the legs do not share one."),
    });
    let mut required = vec!["account", "account_id", "side", "amount"];
    if outcome {
        fields["normal"] = json!({"type": "string", "const": "debit", "description": "Left out when it is credit."});
        fields["debits"] = described(amount(), "The account's posted debits after the leg.");
        fields["credits"] = described(amount(), "The account's posted credits after the leg.");
        fields["debits_pending"] = described(amount(), "Left out when zero.");
        fields["credits_pending"] = described(amount(), "Left out when zero.");
        fields["version"] = count();
        required.extend(["debits", "credits", "version"]);
    }
    json!({"type": "array", "minItems": 2, "maxItems": LEGS_MAX, "items": some_of(fields, &required)})
}

fn event_transaction(outcome: bool, more: &Value, more_required: &[&str]) -> Value {
    let fields = json!({
        "kind": {"type": "string", "enum": Kind::ALL.map(Kind::as_str)},
        "asset": described(short_name(), "What all legs share."),
        "legs": event_leg(outcome),
        "rates": {"type": "array", "minItems": 1, "maxItems": RATES_MAX, "items": some_of(
            json!({"from": short_name(), "to": short_name(), "rate": {"type": "string"}, "remainder": {"type": "string"}}),
            &["from", "to", "rate"],
        )},
        "reference": {"type": "string"},
        "description": {"type": "string"},
        "metadata": reference("Metadata"),
    });
    let mut required = vec!["kind", "legs"];
    required.extend(more_required);
    some_of(with(fields, more), &required)
}

/// What velocity limits have counted with an event.
fn usage() -> Value {
    json!({"type": "array", "minItems": 1, "description": "What velocity limits have counted with it; left out for nothing.", "items": object(json!({
        "leg": described(count(), "Index of the leg, from 0."),
        "limit": described(position(), "Of the event that set the limit."),
        "bucket": {"type": "integer", "description": "Where the bucket of time begins that it is counted in, in seconds after 1970."},
        "since": {"type": "integer", "description": "Buckets of the limit that began before this count no longer; in seconds after 1970."},
        "count": described(count(), "Legs in the bucket, with this one."),
        "amount": described(amount(), "Their sum."),
    }))})
}

/// The events that these routes record: type, name of the schema, payload.
pub fn events() -> Vec<(&'static str, &'static str, Value)> {
    let scheduled_position = described(position(), "Of the event that scheduled it.");
    let hold = |remaining: bool| {
        let mut fields = json!({
            "id": uuid(),
            "position": described(position(), "Of the event that authorised it."),
            "captured": described(amount(), "What is posted of it in all."),
        });
        if remaining {
            fields["remaining"] = described(amount(), "What is still reserved afterwards.");
        }
        object(fields)
    };
    let posted = json!({
        "hold": described(hold(true), "Of a capture: what it is of."),
        "reversal": described(
            some_of(
                json!({
                    "transaction_id": uuid(),
                    "remaining": {"type": "array", "items": amount(), "description": "Of each of that transaction's legs, what is not reversed yet."},
                    "forced": {"type": "boolean", "const": true, "description": "It was allowed to break a floor; left out otherwise."},
                }),
                &["transaction_id", "remaining"],
            ),
            "Of a reversal: what it is of.",
        ),
        "scheduled_position": scheduled_position,
        "usage": usage(),
    });
    let rejection = some_of(
        json!({
            "code": {"type": "string", "enum": rejection_codes()},
            "account": account_code(),
            "state": {"type": "string", "enum": HoldState::ALL.map(HoldState::as_str)},
            "remaining": amount(),
            "before": timestamp(),
            "limit": {"type": "string"},
            "passes_at": timestamp(),
            "available": amount(),
            "would_be": amount(),
            "min_balance": amount(),
            "max_balance": amount(),
        }),
        &["code", "account"],
    );
    let rejected = json!({
        "rejection": rejection,
        "subject_id": described(uuid(), "The transaction that was to be captured, voided or reversed."),
        "force": {"type": "boolean", "const": true},
        "authorisation": some_of(
            json!({"expires_at": timestamp(), "expires_in_s": {"type": "integer", "minimum": 1}}), &[],
        ),
        "scheduled_position": scheduled_position,
    });
    let item = json!({"item": described(count(), "Index of the first item that was declined, from 0.")});
    let released = some_of(
        json!({"hold": hold(false), "asset": short_name(), "legs": event_leg(true)}),
        &["hold", "asset", "legs"],
    );
    vec![
        ("transaction_posted", "TransactionPosted", event_transaction(true, &posted, &[])),
        ("transaction_rejected", "TransactionRejected", event_transaction(false, &rejected, &["rejection"])),
        ("batch_rejected", "BatchRejected", event_transaction(false, &with(rejected, &item), &["rejection", "item"])),
        (
            "transaction_authorised",
            "TransactionAuthorised",
            event_transaction(
                true,
                &json!({"expires_at": described(timestamp(), "Left out for never."), "usage": usage()}),
                &[],
            ),
        ),
        ("hold_voided", "HoldVoided", released.clone()),
        ("hold_expired", "HoldExpired", released),
        (
            "transaction_scheduled",
            "TransactionScheduled",
            event_transaction(false, &json!({"effective_at": timestamp()}), &["effective_at"]),
        ),
        (
            "schedule_cancelled",
            "ScheduleCancelled",
            object(json!({
                "transaction_id": uuid(),
                "scheduled_position": scheduled_position,
                "account": described(account_code(), "Of the first leg."),
                "account_id": position(),
            })),
        ),
    ]
}

/// An example of a body, where one says more than the schema.
pub fn example(name: &str) -> Option<Value> {
    let leg = |account: &str, side: &str, amount: &str, asset: &str| json!({"account": account, "side": side, "amount": amount, "asset": asset});
    let exchange = json!([
        leg("wallet:alice:eur", "debit", "10000", "EUR"),
        leg("fx:eur", "credit", "10000", "EUR"),
        leg("fx:usd", "debit", "10845", "USD"),
        leg("wallet:alice:usd", "credit", "10845", "USD"),
    ]);
    let example = match name {
        "CaptureRequest" => json!({"amount": "1000", "final": true}),
        "VoidRequest" => json!({}),
        "TransactionRequest" => json!({
            "legs": exchange, "rates": [{"from": "EUR", "to": "USD", "rate": "1.0845"}], "reference": "fx-1",
        }),
        "TransactionBatchRequest" => json!({"transactions": [{
            "idempotency_key": "k-1",
            "legs": [
                leg("wallet:alice", "debit", "1250", "EUR"),
                leg("shop", "credit", "1200", "EUR"),
                leg("fees", "credit", "50", "EUR"),
            ],
        }]}),
        "ReversalRequest" => json!({"amount": "250", "reference": "refund"}),
        "CancellationRequest" => json!({}),
        "Capture" => json!({
            "id": "019ab2c3-0000-7000-8000-000000000002", "type": "capture", "status": "posted",
            "payment": {
                "id": "019ab2c3-0000-7000-8000-000000000001", "status": "captured", "captured": "1000", "remaining": "0",
            },
            "from": "wallet:alice", "to": "shop", "amount": "1000", "asset": "EUR",
            "reference": null, "description": null, "metadata": {},
            "balances": {
                "wallet:alice": {"posted": "4000", "pending_in": "0", "pending_out": "0", "available": "4000", "version": 2},
                "shop": {"posted": "1000", "pending_in": "0", "pending_out": "0", "available": "1000", "version": 1},
            },
            "position": 4713, "recorded_at": "2026-11-22T20:14:05.000001Z", "effective_at": "2026-11-22T20:14:05.000001Z",
        }),
        _ => return None,
    };
    Some(example)
}
