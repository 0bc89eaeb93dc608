//! Bodies of requests and answers, as JSON Schema 2020-12.

use serde_json::{Map, Value, json};

use super::super::problem::Code;
use super::{money, rules};
use crate::ledger::asset::SCALE_MAX;

/// A reference to one of [`all`].
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The content types of a request body.
pub fn content_types(name: &str) -> &'static [&'static str] {
    match name {
        "ImportFile" => &["application/x-ndjson", "text/csv"],
        _ => &["application/json"],
    }
}

/// Every schema, by name.
pub fn all() -> Value {
    let mut schemas = Map::new();
    for part in
        [scalars(), requests(), bulk(), answers(), pages(), events(), operations(), money::schemas(), rules::schemas()]
    {
        if let Value::Object(part) = part {
            schemas.extend(part);
        }
    }
    let null = json!({"type": "null"});
    let of_rules = rules::events().into_iter().map(|event| (event, null.clone(), null.clone()));
    let of_money = money::events().into_iter().map(|event| (event, uuid(), nullable(key())));
    for ((name, schema, payload), transaction_id, idempotency_key) in of_money.chain(of_rules) {
        schemas.insert(schema.to_owned(), event(name, payload, transaction_id, idempotency_key));
        let events = &mut schemas["Event"];
        if let Some(variants) = events["oneOf"].as_array_mut() {
            variants.push(reference(schema));
        }
        events["discriminator"]["mapping"][name] = json!(format!("#/components/schemas/{schema}"));
    }
    Value::Object(schemas)
}

/// An object whose members are all there, and no others.
pub(super) fn object(properties: Value) -> Value {
    let required: Vec<String> = properties.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    some_of(properties, &required.iter().map(String::as_str).collect::<Vec<_>>())
}

/// An object without members other than these, of which some must be there.
pub(super) fn some_of(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// A member that may be null: either the schema or the type `null`.
pub(super) fn nullable(mut schema: Value) -> Value {
    match schema.get("type").cloned() {
        Some(Value::String(one)) => schema["type"] = json!([one, "null"]),
        Some(Value::Array(mut several)) => {
            several.push(json!("null"));
            schema["type"] = Value::Array(several);
        }
        _ => return json!({"oneOf": [schema, {"type": "null"}]}),
    }
    schema
}

pub(super) fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

pub(super) fn amount() -> Value {
    json!({"type": "string", "pattern": "^-?[0-9]{1,38}$"})
}

/// A sum of amounts, which may have more digits than one.
fn sum() -> Value {
    json!({"type": "string", "pattern": "^-?[0-9]{1,60}$"})
}

pub(super) fn timestamp() -> Value {
    json!({"type": "string", "format": "date-time", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z$"})
}

pub(super) fn account_code() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z0-9:_.@/-]{1,128}$"})
}

pub(super) fn short_name() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z0-9:_.@/-]{1,32}$"})
}

pub(super) fn position() -> Value {
    json!({"type": "integer", "minimum": 1})
}

pub(super) fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn ledgers() -> Value {
    json!({"type": "array", "items": short_name()})
}

/// Shards in words.
fn ranges() -> Value {
    json!({"type": "array", "items": {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?$"}})
}

pub(super) fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

pub(super) fn side() -> Value {
    json!({"type": "string", "enum": ["debit", "credit"]})
}

pub(super) fn key() -> Value {
    json!({"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"})
}

fn scale() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": SCALE_MAX, "description": "Decimals of the smallest unit: EUR has 2."})
}

pub(super) fn rejection_codes() -> Value {
    json!(Code::ALL.iter().filter(|code| code.is_recorded()).map(|code| code.as_str()).collect::<Vec<_>>())
}

fn scalars() -> Value {
    json!({
        "Amount": described(amount(), "An integer in the asset's smallest unit."),
        "Timestamp": described(timestamp(), "RFC 3339 in UTC with microseconds."),
        "AccountCode": described(account_code(), "ASCII letters, digits and `: _ - . @ /`, up to 128 bytes."),
        "ShortName": described(short_name(), "ASCII letters, digits and `: _ - . @ /`, up to 32 bytes."),
        "PositiveAmount": {
            "type": ["string", "integer"], "pattern": "^[0-9]{1,38}$", "minimum": 1,
            "description": "An integer above zero in the asset's smallest unit, as a string or, in digits only, as a number. Above 2^53 many JSON libraries lose digits of a number: use a string.",
        },
        "Bound": {
            "type": ["string", "integer", "null"], "pattern": "^-?[0-9]{1,38}$",
            "description": "An integer in the asset's smallest unit, as a string or, in digits only, as a number; null is no bound.",
        },
        "Metadata": {"type": "object", "description": "The client's own JSON object: up to 16 KiB and 127 levels, without the character U+0000."},
        "Text": {"type": "string"},
        "Document": {"type": "object", "required": ["openapi", "info", "paths", "components"], "properties": {"openapi": {"const": "3.1.0"}}},
        "FieldError": object(json!({
            "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) into the body, to the part that is wrong, also where only the ledger can tell: legs that do not balance are at `/legs`. Empty is all of it; `/query/…`, `/path/…` and `/headers/…` are the request's other parts."},
            "detail": {"type": "string", "minLength": 1},
        })),
        "Problem": some_of(
            json!({
                "type": {"type": "string", "format": "uri-reference", "pattern": "^/problems/[a-z_]+$", "description": "A page that says what to do."},
                "title": {"type": "string", "minLength": 1},
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": {"type": "string", "minLength": 1},
                "code": {"type": "string", "enum": Code::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>(), "description": "Stable, for programs."},
                "errors": {"type": "array", "minItems": 1, "items": reference("FieldError"), "description": "What is wrong, and where."},
                "transaction_id": described(uuid(), "The recorded rejection, or the transaction that the key made before."),
                "position": described(position(), "Where the rejection is recorded."),
                "limit": described(account_code(), "Name of the velocity limit that was exceeded."),
                "account": described(account_code(), "The account that would have exceeded it."),
                "passes_at": described(timestamp(), "The earliest time at which the whole request would pass all velocity limits, if nothing else moves. Absent: at no time."),
            }),
            &["type", "title", "status", "detail", "code"],
        ),
    })
}

pub(super) fn metadata() -> Value {
    json!({"type": "object", "description": "The client's own JSON object, up to 16 KiB and 127 levels. What would not come back as it was is refused: a number that is no double (send it as a string), a member that is there twice, the character U+0000."})
}

fn payment_fields() -> Map<String, Value> {
    let fields = json!({
        "from": described(account_code(), "The account that is debited."),
        "to": described(account_code(), "The account that is credited."),
        "amount": reference("PositiveAmount"),
        "asset": short_name(),
    });
    let parts = [fields, money::note_fields(), money::payment_terms()];
    parts.iter().filter_map(Value::as_object).flatten().map(|(name, schema)| (name.clone(), schema.clone())).collect()
}

fn requests() -> Value {
    let mut item = payment_fields();
    item.insert("idempotency_key".to_owned(), nullable(described(key(), "Required unless the batch is atomic.")));
    let payment = ["from", "to", "amount", "asset"];
    json!({
        "LedgerRequest": object(json!({})),
        "AssetRequest": object(json!({"scale": scale()})),
        "AccountRequest": some_of(
            json!({
                "code": account_code(),
                "asset": short_name(),
                "normal": {"type": ["string", "null"], "enum": ["credit", "debit", null], "description": "The side that raises the balance. By default that of the account's type, or credit."},
                "min_balance": {"$ref": "#/components/schemas/Bound", "description": "The floor; below zero it is an overdraft limit, null is none. By default that of the account's type, or 0."},
                "max_balance": {"$ref": "#/components/schemas/Bound", "description": "The cap; null is none. By default that of the account's type, or none."},
                "metadata": nullable(metadata()),
            }),
            &["code", "asset"],
        ),
        "AccountBatchRequest": object(json!({
            "accounts": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": reference("AccountRequest")},
        })),
        "PaymentRequest": some_of(Value::Object(payment_fields()), &payment),
        "PaymentBatchItem": some_of(Value::Object(item), &payment),
        "PaymentBatchRequest": some_of(
            json!({
                "payments": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": reference("PaymentBatchItem")},
                "atomic": {"type": "boolean", "default": false, "description": "All or none."},
            }),
            &["payments"],
        ),
    })
}

/// Lines and records: one to a line of a body, so no body is as a whole of one of these, but for the file's.
fn bulk() -> Value {
    let counts = json!({
        "line": described(count(), "Number of the last line that is done: durable, if it was recorded."),
        "bytes": described(count(), "Bytes of the body up to the end of that line."),
        "lines": described(count(), "Lines that are done, without empty ones."),
        "recorded": described(count(), "Lines that were recorded by this request."),
        "replayed": described(count(), "Lines that had been recorded before."),
        "refused": described(count(), "Lines that were not done; each has a record."),
        "position": described(count(), "The last position of the log that this reflects."),
    });
    let mut summary = counts.clone();
    summary["done"] = described(
        json!({"type": "boolean"}),
        "`true` when the whole body was read and every line is done; `false` when the import stopped behind the last line.",
    );
    let mut stopped = summary.clone();
    stopped["problem"] = reference("Problem");
    let notes = json!({
        "key": described(key(), "The line's idempotency key; by default `<id>:<line number>`."),
        "effective_at": described(json!({"type": "string"}), "When it counts for the books: RFC 3339, or a date; not in the future."),
        "reference": {"type": ["string", "null"], "maxLength": 255},
        "description": {"type": ["string", "null"], "maxLength": 1024},
        "metadata": nullable(metadata()),
    });
    let with_notes = |mut fields: Value| {
        for (name, schema) in notes.as_object().into_iter().flatten() {
            fields[name.as_str()] = schema.clone();
        }
        fields
    };
    json!({
        "ImportFile": {"type": "string", "description": "NDJSON: an ImportLine on each line. CSV (RFC 4180, UTF-8): a header that names fields of an ImportLine, then a record for each line; an empty field is one that is not there, `none` is a limit of null, metadata is its JSON."},
        "ImportLine": {"oneOf": [
            reference("ImportPayment"), reference("ImportTransaction"), reference("ImportAccount"), reference("ImportOpeningBalance"),
        ]},
        "ImportPayment": some_of(
            with_notes(json!({
                "type": {"type": "string", "const": "payment"},
                "from": described(account_code(), "The account that is debited."),
                "to": described(account_code(), "The account that is credited."),
                "amount": reference("PositiveAmount"),
                "asset": short_name(),
            })),
            &["from", "to", "amount", "asset"],
        ),
        "ImportTransaction": some_of(
            with_notes(json!({
                "type": {"type": "string", "const": "transaction"},
                "legs": {"type": "array", "minItems": 2, "maxItems": 256, "items": reference("Leg"), "description": "In CSV, their JSON."},
                "rates": {"type": ["array", "null"], "maxItems": 16, "items": reference("RateRequest"), "description": "Exchange rates that the legs are checked against; in CSV, their JSON."},
            })),
            &["type", "legs"],
        ),
        "ImportAccount": some_of(
            json!({
                "type": {"type": "string", "const": "account"},
                "code": account_code(),
                "asset": short_name(),
                "normal": {"type": ["string", "null"], "enum": ["credit", "debit", null]},
                "min_balance": reference("Bound"),
                "max_balance": reference("Bound"),
                "metadata": nullable(metadata()),
            }),
            &["type", "code", "asset"],
        ),
        "ImportOpeningBalance": some_of(
            with_notes(json!({
                "type": {"type": "string", "const": "opening_balance"},
                "account": described(account_code(), "Whose balance it is."),
                "side": described(side(), "The side of the account that it is on; `credit` by default."),
                "equity": described(account_code(), "The account on the other side; by default that of `?equity=`."),
                "amount": reference("PositiveAmount"),
                "asset": short_name(),
            })),
            &["type", "account", "amount", "asset"],
        ),
        "ImportRecord": {"oneOf": [
            reference("ImportProgress"), reference("ImportRefusedLine"), reference("ImportSummary"), reference("ImportStopped"),
        ]},
        "ImportProgress": object(counts),
        "ImportRefusedLine": object(json!({
            "line": position(),
            "key": {"type": ["string", "null"]},
            "problem": reference("Problem"),
        })),
        "ImportSummary": object(summary),
        "ImportStopped": object(stopped),
    })
}

/// The result of an item of a batch.
pub(super) fn result(name: &str, schema: &str) -> Value {
    json!({"oneOf": [
        object(json!({"status": {"type": "integer", "enum": [200, 201]}, name: reference(schema)})),
        object(json!({"status": {"type": "integer", "minimum": 400, "maximum": 599}, "problem": reference("Problem")})),
    ]})
}

/// A text that may not be there.
pub(super) fn text(description: &str) -> Value {
    json!({"type": ["string", "null"], "description": description})
}

fn answers() -> Value {
    json!({
        "Ledger": object(json!({"name": short_name(), "created_at": timestamp()})),
        "Asset": object(json!({"code": short_name(), "scale": scale()})),
        "Balance": object(json!({
            "posted": described(amount(), "Counted on the account's normal side; below zero when overdrawn."),
            "pending_in": described(amount(), "Pending amounts that will raise the balance if they are captured."),
            "pending_out": described(amount(), "Pending amounts that will lower it."),
            "available": described(amount(), "Posted less pending out: what the floor is compared with."),
            "debits_posted": amount(),
            "credits_posted": amount(),
            "version": described(count(), "Rises by one with every leg."),
            "position": described(position(), "The last event that touched the account."),
        })),
        "Account": some_of(
            json!({
                "code": account_code(),
                "asset": short_name(),
                "normal": side(),
                "status": {"type": "string", "enum": ["open", "frozen", "closed"]},
                "frozen": rules::frozen(),
                "min_balance": nullable(amount()),
                "max_balance": nullable(amount()),
                "metadata": reference("Metadata"),
                "shard": count(),
                "balance": reference("Balance"),
                "opened_at": timestamp(),
            }),
            &[
                "code", "asset", "normal", "status", "min_balance", "max_balance", "metadata", "shard", "balance",
                "opened_at",
            ],
        ),
        "AccountResult": result("account", "Account"),
        "AccountBatch": object(json!({"results": {"type": "array", "items": reference("AccountResult")}})),
        "BalanceAfter": object(json!({"posted": amount(), "available": amount(), "version": count()})),
        "Payment": object(json!({
            "id": uuid(),
            "type": {"type": "string", "const": "payment"},
            "status": {"type": "string", "const": "posted"},
            "from": account_code(),
            "to": account_code(),
            "amount": described(amount(), "In the asset's smallest unit."),
            "asset": short_name(),
            "reference": text("As the client gave it."),
            "description": text("As the client gave it."),
            "metadata": reference("Metadata"),
            "balances": {
                "type": "object", "minProperties": 2, "maxProperties": 2,
                "propertyNames": account_code(), "additionalProperties": reference("BalanceAfter"),
                "description": "What the payment left behind, by account.",
            },
            "position": position(),
            "recorded_at": timestamp(),
            "effective_at": timestamp(),
        })),
        "PaymentResult": result("payment", "PaymentAnswer"),
        "PaymentBatch": object(json!({"results": {"type": "array", "items": reference("PaymentResult")}})),
        "RecordedPaymentBatch": object(json!({"results": {"type": "array", "minItems": 1, "items": object(json!({
            "status": {"type": "integer", "const": 201}, "payment": reference("PaymentAnswer"),
        }))}})),
        "Entry": object(json!({
            "position": position(),
            "transaction_id": uuid(),
            "side": side(),
            "amount": amount(),
            "balance_after": described(amount(), "The account's posted balance after the leg."),
            "version": described(position(), "The account's version after the leg."),
            "reference": text("The transaction's."),
            "effective_at": timestamp(),
            "recorded_at": timestamp(),
        })),
        "StatementLine": object(json!({
            "effective_at": described(timestamp(), "When it counts: what lines are ordered by, and then by position."),
            "recorded_at": timestamp(),
            "position": position(),
            "transaction_id": uuid(),
            "reference": text("The transaction's."),
            "side": side(),
            "amount": amount(),
            "balance": described(amount(), "The balance after the line, on the account's normal side."),
        })),
        "Statement": object(json!({
            "account": account_code(),
            "asset": short_name(),
            "normal": side(),
            "from": described(timestamp(), "The beginning of the period."),
            "to": described(timestamp(), "Its end, which is not in it."),
            "opening_balance": described(amount(), "What was effective before the period, on the account's normal side."),
            "closing_balance": described(amount(), "The same before its end: the opening balance and all lines."),
            "data": {"type": "array", "maxItems": 1_000, "items": reference("StatementLine")},
            "next": next(),
        })),
        "Sum": object(json!({
            "path": {"type": "string", "maxLength": 128, "description": "The first segments of the accounts' codes; without `depth` the prefix."},
            "asset": short_name(),
            "accounts": described(position(), "How many accounts it is over."),
            "net_debit": described(sum(), "Debits less credits that are posted."),
            "debits_posted": described(nullable(sum()), "Null as of the past."),
            "credits_posted": described(nullable(sum()), "Null as of the past."),
            "debits_pending": described(nullable(sum()), "Null as of the past; otherwise as of the position or a moment later."),
            "credits_pending": described(nullable(sum()), "Null as of the past; otherwise as of the position or a moment later."),
        })),
        "SumPage": object(json!({
            "position": described(count(), "What all pages are as of."),
            "as_of": described(nullable(timestamp()), "The effective time that was asked for; null for none."),
            "data": {"type": "array", "maxItems": 1_000, "items": reference("Sum")},
            "next": next(),
        })),
        "TrialBalanceRow": object(json!({
            "account": account_code(),
            "asset": short_name(),
            "normal": side(),
            "balance": described(amount(), "On the normal side."),
            "debit": described(amount(), "The balance if it is a debit, or 0."),
            "credit": described(amount(), "The balance if it is a credit, or 0."),
        })),
        "TrialBalanceTotal": object(json!({
            "asset": short_name(),
            "accounts": position(),
            "debit": sum(),
            "credit": sum(),
            "net_debit": described(sum(), "The one less the other: 0."),
        })),
        "TrialBalance": object(json!({
            "position": described(count(), "What all pages are as of."),
            "as_of": described(nullable(timestamp()), "The effective time that was asked for; null for none."),
            "totals": {"type": ["array", "null"], "items": reference("TrialBalanceTotal"), "description": "Over all accounts, per asset; null after the first page."},
            "data": {"type": "array", "maxItems": 1_000, "items": reference("TrialBalanceRow")},
            "next": next(),
        })),
    })
}

fn next() -> Value {
    json!({"type": ["string", "null"], "description": "`after` for the next page; null when this is the last."})
}

pub(super) fn rejection_or_null() -> Value {
    let mut codes = rejection_codes();
    if let Value::Array(codes) = &mut codes {
        codes.push(Value::Null);
    }
    codes
}

/// A page of a list.
pub(super) fn page(schema: &str) -> Value {
    object(json!({
        "data": {"type": "array", "maxItems": 1_000, "items": reference(schema)},
        "next": next(),
    }))
}

fn pages() -> Value {
    json!({
        "LedgerPage": page("Ledger"),
        "AssetPage": page("Asset"),
        "AccountPage": page("Account"),
        "EntryPage": page("Entry"),
        "TransactionPage": page("Transaction"),
        "EventPage": page("Event"),
    })
}

/// A row of the log.
fn event(name: &str, payload: Value, transaction_id: Value, idempotency_key: Value) -> Value {
    object(json!({
        "position": position(),
        "type": {"type": "string", "const": name},
        "schema_version": {"type": "integer", "minimum": 1, "maximum": 2},
        "transaction_id": transaction_id,
        "idempotency_key": idempotency_key,
        "payload": payload,
        "recorded_at": timestamp(),
        "effective_at": timestamp(),
    }))
}

/// The log's own form of each event type.
fn events() -> Value {
    let null = json!({"type": "null"});
    json!({
        "AssetDefined": event(
            "asset_defined", object(json!({"asset": short_name(), "scale": scale()})), null.clone(), null.clone(),
        ),
        "AccountOpened": event(
            "account_opened",
            some_of(
                json!({
                    "account": account_code(),
                    "asset": short_name(),
                    "normal": side(),
                    "min_balance": described(amount(), "Left out when there is none."),
                    "max_balance": described(amount(), "Left out when there is none."),
                    "metadata": reference("Metadata"),
                }),
                &["account", "asset", "normal"],
            ),
            null.clone(),
            null,
        ),
        "Event": {
            "oneOf": [reference("AssetDefined"), reference("AccountOpened")],
            "discriminator": {"propertyName": "type", "mapping": {
                "asset_defined": "#/components/schemas/AssetDefined",
                "account_opened": "#/components/schemas/AccountOpened",
            }},
        },
    })
}

fn operations() -> Value {
    let claim = |mut fields: Value| {
        fields["worker_id"] = described(nullable(uuid()), "Who holds it; null when nobody does.");
        fields["epoch"] = described(count(), "Rises each time the claim changes hands.");
        fields["claimed_at"] = nullable(timestamp());
        object(fields)
    };
    json!({
        "Liveness": object(json!({"status": {"type": "string", "const": "alive"}})),
        "Readiness": some_of(
            json!({
                "status": {"type": "string", "const": "ready"},
                "insecure": {"type": "boolean", "const": true, "description": "There when the server was told to ask nobody for an API key."},
            }),
            &["status"],
        ),
        "Units": object(json!({
            "ledgers": described(ledgers(), "Ledgers to sequence."),
            "shards": described(ranges(), "Shards to project, neighbours together: `0-63`, `7`."),
        })),
        "Cluster": object(json!({
            "workers": {"type": "array", "items": object(json!({
                "worker_id": uuid(),
                "address": {"type": "string"},
                "version": {"type": "string"},
                "capacity": described(count(), "Its weight against the others."),
                "roles": {"type": "array", "items": {"type": "string", "enum": ["api", "sequencer", "projector"]}},
                "started_at": timestamp(),
                "heartbeat_age_ms": count(),
                "live": {"type": "boolean", "description": "The others count on it: it was heard of within 5 s, and its session is there."},
                "draining": {"type": "boolean"},
                "shards": described(ranges(), "What it projects, neighbours together: `0-63`, `7`."),
                "denied": described(reference("Units"), "What it should hold and could not get, at its last heartbeat. For seconds in a move; longer means that another session holds the lock."),
                "writes_fenced": described(count(), "Its appends and flushes that were refused because another worker had taken over, since it started."),
            }))},
            "ledgers": {"type": "array", "items": claim(json!({
                "ledger": short_name(),
                "head": described(count(), "Position of the last event; 0 when there is none."),
            }))},
            "shards": {"type": "array", "items": claim(json!({
                "shard": count(),
                "checkpoints": {"type": "array", "items": object(json!({
                    "ledger": short_name(),
                    "position": described(count(), "What the projection has reached."),
                    "lag": described(count(), "Events behind the log."),
                    "lag_ms": described(nullable(count()), "Age of the oldest event that is not projected; null where another worker knows it."),
                }))},
            }))},
            "moves": {"type": "array", "description": "What is on its way to another worker.", "items": object(json!({
                "from": described(nullable(uuid()), "Who holds it; null when nobody does that lives."),
                "to": described(uuid(), "Who is to."),
                "ledgers": ledgers(),
                "shards": described(ranges(), "Shards, neighbours together."),
            }))},
            "unowned": described(reference("Units"), "What no worker that lives holds."),
        })),
    })
}

/// An example of a body, where one says more than the schema.
pub fn example(name: &str) -> Option<Value> {
    let example = match name {
        "LedgerRequest" => json!({}),
        "AssetRequest" => json!({"scale": 18}),
        "AccountRequest" => json!({"code": "wallet:alice", "asset": "EUR"}),
        "AccountBatchRequest" => json!({"accounts": [
            {"code": "wallet:alice", "asset": "EUR"},
            {"code": "bank", "asset": "EUR", "normal": "debit", "min_balance": null},
        ]}),
        "PaymentRequest" => {
            json!({"from": "wallet:alice", "to": "wallet:bob", "amount": "1250", "asset": "EUR", "reference": "inv-1"})
        }
        "PaymentBatchRequest" => json!({"payments": [
            {"idempotency_key": "k-1", "from": "wallet:alice", "to": "wallet:bob", "amount": "1250", "asset": "EUR"},
            {"idempotency_key": "k-2", "from": "wallet:bob", "to": "wallet:carol", "amount": "300", "asset": "EUR"},
        ]}),
        "Ledger" => json!({"name": "main", "created_at": "2026-11-22T20:13:04.123456Z"}),
        "Asset" => json!({"code": "ETH", "scale": 18}),
        "Account" => json!({
            "code": "wallet:alice", "asset": "EUR", "normal": "credit", "status": "open",
            "min_balance": "0", "max_balance": null, "metadata": {}, "shard": 17,
            "balance": {
                "posted": "1250", "pending_in": "0", "pending_out": "300", "available": "950",
                "debits_posted": "750", "credits_posted": "2000", "version": 7, "position": 4711,
            },
            "opened_at": "2026-11-22T20:13:04.123456Z",
        }),
        "Payment" | "PaymentAnswer" => json!({
            "id": "019ab2c3-0000-7000-8000-000000000001", "type": "payment", "status": "posted",
            "from": "wallet:alice", "to": "wallet:bob", "amount": "1250", "asset": "EUR",
            "reference": "inv-1", "description": null, "metadata": {},
            "balances": {
                "wallet:alice": {"posted": "0", "available": "0", "version": 8},
                "wallet:bob": {"posted": "1250", "available": "1250", "version": 1},
            },
            "position": 4712, "recorded_at": "2026-11-22T20:13:05.000001Z", "effective_at": "2026-11-22T20:13:05.000001Z",
        }),
        "Liveness" => json!({"status": "alive"}),
        "Readiness" => json!({"status": "ready"}),
        _ => return money::example(name).or_else(|| rules::example(name)),
    };
    Some(example)
}
