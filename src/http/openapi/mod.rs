//! The description of the API (OpenAPI 3.1), and a page that shows it offline.
//!
//! [`operations`] is a table with a row per route, [`schemas`] has the bodies;
//! here they become one document. A test holds the table against the router's,
//! and the tests of the API hold every answer against the document.

mod money;
mod operations;
mod rules;
mod schemas;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::access;
use super::problem::Code;
use super::router::asset;
use operations::{Answer, Operation, Parameter};

static DOCUMENT: LazyLock<Vec<u8>> = LazyLock::new(|| serde_json::to_vec(&build()).unwrap_or_default());

/// What the page may load: its own script and the document, nothing from elsewhere.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; \
                           img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page; the element comes from the script, the colours from the reader's system.
const PAGE: &str = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Steelyard: the HTTP API</title>
<script type="module" src="/docs/rapidoc.js"></script>
</head>
<body>
<rapi-doc spec-url="/openapi.json" load-fonts="false" regular-font="system-ui, sans-serif" mono-font="ui-monospace, monospace"
 render-style="read" show-header="false" show-info="true" allow-authentication="true" allow-server-selection="false"
 allow-spec-url-load="false" allow-spec-file-load="false" schema-style="table" schema-description-expanded="true"
 use-path-in-nav-bar="true" nav-item-spacing="compact" primary-color="#2f6f8f"></rapi-doc>
<noscript>This page needs JavaScript; the description itself is at <a href="/openapi.json">/openapi.json</a>.</noscript>
</body>
</html>
"##;

/// `GET /openapi.json`
pub async fn document() -> impl IntoResponse {
    asset("application/json", &DOCUMENT)
}

/// `GET /docs`
pub async fn page() -> Response {
    const POLICY: HeaderName = header::CONTENT_SECURITY_POLICY;
    let policy = [(POLICY, HeaderValue::from_static(PAGE_POLICY))];
    (policy, asset("text/html; charset=utf-8", PAGE.as_bytes())).into_response()
}

/// `GET /docs/rapidoc.js`: RapiDoc 9.3.8, MIT licence (beside it).
pub async fn script() -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", include_bytes!("rapidoc/rapidoc-min.js"))
}

const INTRODUCTION: &str = "\
An event-sourced payments ledger: every payment is one event in a gapless log, and every balance follows from it.

**Amounts** are integers in the asset's smallest unit, at most 38 digits: strings in answers, strings or integers in \
requests. **Times** are RFC 3339, in answers in UTC with microseconds; in requests with any offset and seconds of 00 to \
59, and digits after the microsecond are cut. A date, where one may stand, is `YYYY-MM-DD`. **Fields that are not described here are refused**, so that \
a misspelt one is no silent gap.

**Exactly once.** Every POST that moves money takes an `Idempotency-Key`: the same key and the same request give the same answer \
for ever, with `Idempotent-Replayed: true`; the same key with another request is `idempotency_key_reused`. A request \
that was malformed, or found the ledger unavailable, leaves its key free.

**Reads see your own writes**, through any worker. What is answered from the projections waits up to a second until \
they have reached the head of the log; if they have not, the answer is 504 `projection_behind`, never a stale one. \
`?consistency=eventual` answers at once, `?min_position=` waits for a position. `Ledger-Position` says what an answer \
reflects, on problems too where the ledger had a say in it. Without a sequencer to ask for the head, a read is 503 \
`unavailable` after two seconds.

**API keys** are sent as `Authorization: Bearer` and the key. A key has a role: `read` looks at everything below \
`/v1`, `submit` also pays, opens accounts and imports, `admin` also changes accounts that are there, sets rules, closes \
periods, creates ledgers and defines assets; and it may be good for one ledger only, with nothing beyond that ledger's \
paths. A server that only its own machine reaches asks for none until the first one is made.

**Problems** are `application/problem+json` (RFC 9457). Besides those listed with each route, an unknown route is 404 \
`not_found`, and a known one with another method is 405 `method_not_allowed` with `Allow`. HEAD is answered like GET, \
without a body. What is not HTTP is answered with a status of the 400s and no body, and the connection ends.";

/// Every route, a table per part of the API.
const TABLES: [&[Operation]; 3] = [operations::OPERATIONS, money::OPERATIONS, rules::OPERATIONS];

fn every_operation() -> impl Iterator<Item = &'static Operation> {
    TABLES.into_iter().flatten()
}

/// The members of several objects in one.
fn merged(parts: impl IntoIterator<Item = Value>) -> Value {
    let members = parts.into_iter().filter_map(|part| match part {
        Value::Object(members) => Some(members),
        _ => None,
    });
    Value::Object(members.flatten().collect())
}

/// The whole document.
pub fn build() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in every_operation() {
        paths.entry(operation.path).or_default().insert(operation.method.to_owned(), describe(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Steelyard",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "An event-sourced payments ledger on PostgreSQL",
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "tags": operations::TAGS.iter().map(|(name, text)| json!({"name": name, "description": text})).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "parameters": merged([operations::parameters(), rules::parameters()]),
            "headers": headers(),
            "securitySchemes": {
                "ApiKey": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "sy_ and 64 hexadecimal digits",
                    "description": "An API key of the role that a route names, or of a higher one: read, submit, admin.",
                },
            },
            "responses": {
                "NotFound": problem_answer(404, &[Code::NotFound]),
                "MethodNotAllowed": problem_answer(405, &[Code::MethodNotAllowed]),
            },
        },
    })
}

fn headers() -> Value {
    let position = json!({"type": "integer", "minimum": 0});
    json!({
        "Ledger-Position": {
            "description": "The position of the ledger's log that the answer reflects, at least.",
            "required": true, "schema": position,
        },
        "Ledger-Position-of-problem": {
            "description": "The position of the ledger's log that the answer reflects, at least; absent when the ledger had no say in it, as with `validation_failed`.",
            "required": false, "schema": position,
        },
        "Idempotent-Replayed": {
            "description": "`true` when the answer is what the key did before, or all keys of a batch; absent at the first use.",
            "required": false, "schema": {"type": "string", "const": "true"},
        },
        "Retry-After": {
            "description": "Seconds after which to try again.",
            "required": true, "schema": {"type": "integer", "minimum": 1},
        },
        "X-Request-Id": {
            "description": "The client's own `X-Request-Id` if it is 1 to 128 visible ASCII characters, else a new one. It ties the answer to the log.",
            "required": true, "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        },
        "WWW-Authenticate": {
            "description": "How to authenticate (RFC 9110, section 11.6.1).",
            "required": true, "schema": {"type": "string", "const": "Bearer"},
        },
        "Allow": {
            "description": "The methods that the route takes.",
            "required": true, "schema": {"type": "string"},
        },
    })
}

fn header(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

fn describe(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> =
        operation.parameters.iter().map(|parameter| parameter_of(operation, parameter)).collect();
    parameters.push(json!({"$ref": "#/components/parameters/X-Request-Id"}));
    let mut value = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": parameters,
        "responses": answers(operation),
    });
    if let Some(role) = access::needed(operation.method, operation.path) {
        value["security"] = json!([{"ApiKey": [role.as_str()]}]);
    }
    if let Some(schema) = operation.body {
        value["requestBody"] = json!({
            "required": true,
            "content": schemas::content_types(schema).iter().map(|name| ((*name).to_owned(), media(schema))).collect::<Map<_, _>>(),
        });
    }
    value
}

fn parameter_of(operation: &Operation, parameter: &Parameter) -> Value {
    // Only its being required differs from route to route.
    match parameter {
        Parameter::Shared(name) => json!({"$ref": format!("#/components/parameters/{name}")}),
        Parameter::After(text) => json!({
            "name": "after", "in": "query", "required": false, "description": text,
            "schema": if operation.tag == "Events" { json!({"type": "integer", "minimum": 0}) } else { json!({"type": "string"}) },
        }),
    }
}

fn answers(operation: &Operation) -> Value {
    let mut answers: BTreeMap<String, Value> = BTreeMap::new();
    for answer in operation.answers {
        let described = answer_of(answer);
        match answers.get_mut(&answer.status.to_string()) {
            // The same in another content type.
            Some(known) => known["content"][answer.content_type] = described["content"][answer.content_type].clone(),
            None => _ = answers.insert(answer.status.to_string(), described),
        }
    }
    let mut codes: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    let guarded = access::needed(operation.method, operation.path).map(|_| &operations::GUARDED);
    let sets = || operation.problems.iter().chain(guarded);
    // In the order of the list of all, whatever the order of the table.
    for code in Code::ALL.iter().filter(|code| sets().any(|set| set.contains(code))) {
        codes.entry(code.status().as_u16()).or_default().push(*code);
    }
    for (status, codes) in codes {
        answers.insert(status.to_string(), problem_answer(status, &codes));
    }
    json!(answers)
}

fn answer_of(answer: &Answer) -> Value {
    let mut named = Map::new();
    named.insert("X-Request-Id".to_owned(), header("X-Request-Id"));
    for name in answer.headers {
        named.insert((*name).to_owned(), header(name));
    }
    json!({"description": answer.description, "headers": named, "content": {answer.content_type: media(answer.schema)}})
}

fn media(schema: &str) -> Value {
    let mut media = json!({"schema": schemas::reference(schema)});
    if let Some(example) = schemas::example(schema) {
        media["example"] = example;
    }
    media
}

/// One status, with every code that it may come with.
fn problem_answer(status: u16, codes: &[Code]) -> Value {
    let mut named = Map::new();
    named.insert("X-Request-Id".to_owned(), header("X-Request-Id"));
    match status {
        401 => _ = named.insert("WWW-Authenticate".to_owned(), header("WWW-Authenticate")),
        405 => _ = named.insert("Allow".to_owned(), header("Allow")),
        503 | 504 => _ = named.insert("Retry-After".to_owned(), header("Retry-After")),
        _ => {}
    }
    if codes.iter().all(|code| code.reflects_the_log()) {
        named.insert("Ledger-Position".to_owned(), header("Ledger-Position"));
    } else if codes.iter().any(|code| code.reflects_the_log()) {
        named.insert("Ledger-Position".to_owned(), header("Ledger-Position-of-problem"));
    }
    if codes.iter().any(|code| code.is_recorded()) {
        named.insert("Idempotent-Replayed".to_owned(), header("Idempotent-Replayed"));
    }
    let lines: Vec<String> =
        codes.iter().map(|code| format!("- `{}`: {}. {}", code.as_str(), code.title(), code.remedy())).collect();
    let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    json!({
        "description": lines.join("\n"),
        "headers": named,
        "content": {"application/problem+json": {"schema": {
            "$ref": "#/components/schemas/Problem",
            "properties": {"status": {"const": status}, "code": {"enum": names}},
        }}},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::router::routes;
    use super::*;

    #[test]
    fn every_route_is_described_and_every_description_is_of_a_route() {
        let served: BTreeSet<_> = routes().iter().map(|route| (route.path, route.method)).collect();
        let described: BTreeSet<_> = every_operation().map(|operation| (operation.path, operation.method)).collect();
        assert_eq!(served, described);
        assert_eq!(served.len(), every_operation().count(), "nothing is described twice");
    }

    #[test]
    fn every_code_is_described_and_operation_ids_are_unique() {
        let text = build().to_string();
        for code in Code::ALL {
            assert!(text.contains(&format!("- `{}`: ", code.as_str())), "{}", code.as_str());
        }
        let ids: BTreeSet<_> = every_operation().map(|operation| operation.id).collect();
        assert_eq!(ids.len(), every_operation().count());
    }

    #[test]
    fn references_lead_somewhere() {
        fn walk(value: &Value, document: &Value) {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                assert!(target.is_some(), "{reference}");
            }
            match value {
                Value::Array(items) => items.iter().for_each(|item| walk(item, document)),
                Value::Object(members) => members.values().for_each(|member| walk(member, document)),
                _ => {}
            }
        }
        let document = build();
        walk(&document, &document);
    }

    #[test]
    fn parameters_in_paths_are_described() {
        let document = build();
        for operation in every_operation() {
            let described: BTreeSet<String> = operation
                .parameters
                .iter()
                .filter_map(|parameter| match parameter {
                    Parameter::Shared(name) => document.pointer(&format!("/components/parameters/{name}")),
                    Parameter::After(_) => None,
                })
                .filter(|parameter| parameter["in"] == "path")
                .filter_map(|parameter| parameter["name"].as_str().map(str::to_owned))
                .collect();
            let named = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            assert_eq!(described, named.map(str::to_owned).collect(), "{}", operation.path);
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        assert!(!PAGE.contains("http:") && !PAGE.contains("https:") && !PAGE.contains("//"));
        assert!(PAGE.contains(r#"load-fonts="false""#));
    }
}
