//! Bad input at the edge: always the right problem, never a 5xx, nothing
//! recorded, and the server goes on serving.

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, JSON, payment, start_with_accounts};

/// A body, and what is wrong with it.
type Case = (&'static str, Vec<u8>, u16, &'static str);

fn case(name: &'static str, body: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Case {
    (name, body.into(), status, code)
}

/// Sends each body to `path`, and holds what comes back against the table.
async fn check(client: &Client, method: Method, path: &str, cases: Vec<Case>) {
    let head = client.head().await;
    for (name, body, status, code) in cases {
        let headers = [JSON, ("idempotency-key", "bad")].map(|(name, value)| (name, value.as_bytes()));
        let answer = client.send_bytes(method.clone(), path, &headers, body).await;
        assert_eq!(
            (answer.status, answer.body["code"].as_str()),
            (status, Some(code)),
            "{path}: {name}: {}",
            answer.text
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}: {name}");
    }
    assert_eq!(client.head().await, head, "{path}: nothing was recorded");
    assert!(client.get("/transactions?idempotency_key=bad").await.is(200).data().is_empty(), "{path}: the key is free");
    client.get("//readyz").await.is(200);
}

/// What no JSON body may be, wherever it is sent.
fn broken() -> Vec<Case> {
    vec![
        case("empty", "", 400, "malformed_json"),
        case("blank", " \n", 400, "malformed_json"),
        case("cut off", r#"{"from":"alice""#, 400, "malformed_json"),
        case("a comma too many", r#"{"from":"alice",}"#, 400, "malformed_json"),
        case("single quotes", "{'from':'alice'}", 400, "malformed_json"),
        case("a second value", "{}{}", 400, "malformed_json"),
        case("a comment", "{/* */}", 400, "malformed_json"),
        case("NaN", r#"{"amount":NaN}"#, 400, "malformed_json"),
        case("a leading zero", r#"{"amount":01}"#, 400, "malformed_json"),
        case("a plus", r#"{"amount":+1}"#, 400, "malformed_json"),
        case("hexadecimal", r#"{"amount":0x10}"#, 400, "malformed_json"),
        case("a byte order mark", b"\xef\xbb\xbf{}".as_slice(), 400, "malformed_json"),
        case("no UTF-8", b"\xff\xfe".as_slice(), 400, "malformed_json"),
        case("UTF-16", "{}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(), 400, "malformed_json"),
        case("binary", (0..=255).collect::<Vec<u8>>(), 400, "malformed_json"),
        case("an array", "[]", 422, "validation_failed"),
        case("an array of fields", r#"["alice","bob","1","EUR"]"#, 422, "validation_failed"),
        case("a string", r#""alice""#, 422, "validation_failed"),
        case("null", "null", 422, "validation_failed"),
        case("a number", "1", 422, "validation_failed"),
        case("10,000 arrays", "[".repeat(10_000), 400, "malformed_json"),
        case("10,000 arrays, closed", "[".repeat(10_000) + &"]".repeat(10_000), 422, "validation_failed"),
        case("10,000 objects", r#"{"a":"#.repeat(10_000), 400, "malformed_json"),
        case("10,000 objects, closed", r#"{"a":"#.repeat(10_000) + "1" + &"}".repeat(10_000), 422, "validation_failed"),
        case("10 MB", " ".repeat(10 * 1024 * 1024), 413, "body_too_large"),
    ]
}

#[tokio::test]
async fn broken_bodies_are_told_what_is_wrong() {
    let (_server, client) = start_with_accounts().await;
    let id = "0193a5b0-0000-7000-8000-000000000000";
    let about =
        [("payments", "capture"), ("payments", "void"), ("transactions", "reverse"), ("transactions", "cancel")];
    let about = about.map(|(noun, verb)| format!("/{noun}/{id}/{verb}"));
    let new = ["/payments", "/payments/batch", "/transactions", "/transactions/batch", "/accounts", "/accounts/batch"];
    for path in new.into_iter().chain(about.iter().map(String::as_str)) {
        check(&client, Method::POST, path, broken()).await;
    }
    for path in ["/assets/X", "//v1/ledgers/x"] {
        check(&client, Method::PUT, path, broken()).await;
    }
}

/// A good payment with the text of one field replaced.
fn with(field: &str, text: &str) -> String {
    let fields = [("from", r#""alice""#), ("to", r#""bob""#), ("amount", r#""1""#), ("asset", r#""EUR""#)];
    let mut members: Vec<String> =
        fields.iter().map(|(name, good)| format!(r#""{name}":{}"#, if *name == field { text } else { good })).collect();
    if !fields.iter().any(|(name, _)| *name == field) {
        members.push(format!(r#""{field}":{text}"#));
    }
    format!("{{{}}}", members.join(","))
}

fn fields_of_a_payment() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |field: &str, texts: &[&str], status: u16, code: &'static str| {
        for text in texts {
            let name: &'static str =
                Box::leak(format!("{field}: {}", text.chars().take(40).collect::<String>()).into_boxed_str());
            cases.push(case(name, with(field, text), status, code));
        }
    };
    let long = |n: usize| format!(r#""{}""#, "9".repeat(n));
    let most = "9".repeat(39);
    let longer = "9".repeat(10_000);
    let amounts = [
        "0",
        r#""0""#,
        r#""00""#,
        "-0",
        "-1",
        r#""-1""#,
        r#""-0""#,
        "1.5",
        r#""1.5""#,
        "1.0",
        r#""1.0""#,
        "1e3",
        "1E400",
        r#""1e3""#,
        r#""+1""#,
        r#""""#,
        r#"" 1""#,
        r#""1 ""#,
        r#""1,000""#,
        r#""1_000""#,
        r#""NaN""#,
        r#""Infinity""#,
        r#""0x10""#,
        r#""١""#,
        r#""1\u0000""#,
        "true",
        "null",
        "[]",
        "[1]",
        "{}",
        &most,
        &long(39),
        &longer,
        &long(10_000),
        "-99999999999999999999999999999999999999",
    ];
    add("amount", &amounts, 422, "validation_failed");
    let bytes_300 = format!(r#""{}""#, "x".repeat(300));
    let bytes_129 = format!(r#""{}""#, "x".repeat(129));
    let names = [
        r#""""#,
        r#"" ""#,
        r#""a b""#,
        r#""a\nb""#,
        r#""a\u0000b""#,
        r#""\u0000""#,
        r#""a\u001fb""#,
        r#""\u007f""#,
        r#""ä""#,
        r#""😀""#,
        r#""a%2Fb""#,
        r#""a\\b""#,
        r#""a\"b""#,
        r#""';DROP TABLE events;--""#,
        &bytes_300,
        &bytes_129,
        "1",
        "true",
        "null",
        "[]",
        "{}",
    ];
    for field in ["from", "to", "asset"] {
        add(field, &names, 422, "validation_failed");
        add(
            field,
            &[r#""\ud800""#, r#""\udc00\ud800""#, r#""\ud800x""#, r#""\x""#, "\"a\nb\"", "\"\0\""],
            400,
            "malformed_json",
        );
    }
    add("asset", &[&format!(r#""{}""#, "x".repeat(33))], 422, "validation_failed");
    for (field, bytes_max) in [("reference", 255), ("description", 1024)] {
        let over = format!(r#""{}""#, "x".repeat(bytes_max + 1));
        let over_in_bytes = format!(r#""{}""#, "ü".repeat(bytes_max / 2 + 1));
        add(
            field,
            &[&over, &over_in_bytes, r#""\u0000""#, r#""a\u0000b""#, "1", "true", "[]", "{}"],
            422,
            "validation_failed",
        );
        add(field, &[r#""\ud800""#, r#""\ud83d""#, r#""\udc00""#, "\"\u{1}\""], 400, "malformed_json");
    }
    let nested = |levels: usize| r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels);
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(16 * 1024));
    let metadata = [
        "[]",
        "1",
        "true",
        r#""x""#,
        r#"{"a":"\u0000"}"#,
        r#"{"\u0000":1}"#,
        r#"{"a":["b",{"c":"\u0000"}]}"#,
        r#"{"a":1e400}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"\udfff":1}"#,
        &nested(10_000),
        &nested(1_000),
        &nested(128),
        &large,
        &format!(r#"{{"a":{}}}"#, "[".repeat(5_000) + &"]".repeat(5_000)),
    ];
    add("metadata", &metadata, 422, "validation_failed");
    add("metadata", &[r#"{"a":}"#, r#"{"a":NaN}"#, r#"{"a" 1}"#], 400, "malformed_json");
    add("amuont", &["1"], 422, "validation_failed");
    add("idempotency_key", &[r#""k""#], 422, "validation_failed");
    cases.extend([
        case("nothing", "{}", 422, "validation_failed"),
        case("no asset", r#"{"from":"alice","to":"bob","amount":"1"}"#, 422, "validation_failed"),
        case(
            "amount twice",
            r#"{"from":"alice","to":"bob","amount":"1","amount":"2","asset":"EUR"}"#,
            422,
            "validation_failed",
        ),
        case(
            "from twice",
            r#"{"from":"alice","from":"bank","to":"bob","amount":"1","asset":"EUR"}"#,
            422,
            "validation_failed",
        ),
        case("another case", r#"{"From":"alice","to":"bob","amount":"1","asset":"EUR"}"#, 422, "validation_failed"),
        case(
            "no UTF-8 in a string",
            [br#"{"from":"al"#.as_slice(), b"\xff", br#"ice","to":"bob","amount":"1","asset":"EUR"}"#].concat(),
            400,
            "malformed_json",
        ),
        case(
            "no UTF-8 in metadata",
            [
                br#"{"from":"alice","to":"bob","amount":"1","asset":"EUR","metadata":{"a":""#.as_slice(),
                b"\xc3\x28",
                br#""}}"#,
            ]
            .concat(),
            400,
            "malformed_json",
        ),
        case(
            "half a character",
            [
                br#"{"from":"alice","to":"bob","amount":"1","asset":"EUR","reference":""#.as_slice(),
                b"\xed\xa0\x80",
                br#""}"#,
            ]
            .concat(),
            400,
            "malformed_json",
        ),
    ]);
    cases
}

#[tokio::test]
async fn fields_of_a_payment_are_checked() {
    let (_server, client) = start_with_accounts().await;
    check(&client, Method::POST, "/payments", fields_of_a_payment()).await;
    client.pay("good", &payment("alice", "bob", 1)).await.is(201);
}

#[tokio::test]
async fn fields_of_an_atomic_batch_are_checked_alike() {
    let (_server, client) = start_with_accounts().await;
    let cases = fields_of_a_payment().into_iter().filter(|(name, ..)| !name.starts_with("idempotency_key"));
    let wrapped = cases.map(|(name, body, status, code)| {
        (name, [br#"{"atomic":true,"payments":["#.as_slice(), &body, b"]}"].concat(), status, code)
    });
    check(&client, Method::POST, "/payments/batch", wrapped.collect()).await;
}

#[tokio::test]
async fn fields_of_other_bodies_are_checked() {
    let (_server, client) = start_with_accounts().await;
    let refused =
        |bodies: &[&str]| bodies.iter().map(|body| case("", *body, 422, "validation_failed")).collect::<Vec<_>>();
    let accounts = refused(&[
        r#"{"code":"n","asset":"EUR","normal":1}"#,
        r#"{"code":"n","asset":"EUR","normal":"Credit"}"#,
        r#"{"code":"n","asset":"EUR","min_balance":true}"#,
        r#"{"code":"n","asset":"EUR","min_balance":1.5}"#,
        r#"{"code":"n","asset":"EUR","min_balance":"x"}"#,
        r#"{"code":"n","asset":"EUR","min_balance":""}"#,
        r#"{"code":"n","asset":"EUR","max_balance":[]}"#,
        r#"{"code":"n","asset":"EUR","max_balance":"999999999999999999999999999999999999999"}"#,
        r#"{"code":"n","asset":"EUR","max_balance":-1}"#,
        r#"{"code":"n","asset":"EUR","min_balance":0,"min_balance":1}"#,
        r#"{"code":"n","asset":"EUR","metadata":"x"}"#,
        r#"{"code":"n","asset":"EUR","metadata":{"a":"\u0000"}}"#,
        r#"{"code":"n","asset":"EUR","status":"frozen"}"#,
        r#"{"code":"n\u0000","asset":"EUR"}"#,
        r#"{"code":null,"asset":"EUR"}"#,
        r#"{"code":"n","asset":7}"#,
    ]);
    check(&client, Method::POST, "/accounts", accounts).await;
    let item = r#"{"code":"n","asset":"EUR"}"#;
    let too_many = format!(r#"{{"accounts":[{}]}}"#, [item; 10_001].join(","));
    let batches = [
        r#"{"accounts":[]}"#,
        r#"{"accounts":{}}"#,
        r#"{"accounts":null}"#,
        r#"{"accounts":[1]}"#,
        r#"{"accounts":[["n","EUR"]]}"#,
        r#"{"accounts":[{}]}"#,
        &too_many,
    ];
    check(&client, Method::POST, "/accounts/batch", refused(&batches)).await;

    let item = with("idempotency_key", r#""k""#);
    let too_many = format!(r#"{{"payments":[{}]}}"#, vec![item.as_str(); 10_001].join(","));
    let atomic = format!(r#"{{"atomic":true,"payments":[{}]}}"#, vec![with("amount", "1"); 10_001].join(","));
    let batches = [
        r#"{"payments":[]}"#,
        r#"{"payments":[],"atomic":true}"#,
        r#"{"payments":{}}"#,
        r#"{"payments":[null]}"#,
        r#"{"payments":[["k","alice","bob","1","EUR"]]}"#,
        r#"{"payments":[{}],"atomic":"yes"}"#,
        r#"{"payments":[{}],"atomic":null}"#,
        r#"{"payments":[],"payments":[]}"#,
        r#"{"atomic":true}"#,
        &format!(r#"{{"payments":[{item}],"mode":"x"}}"#),
        &too_many,
        &atomic,
    ];
    check(&client, Method::POST, "/payments/batch", refused(&batches)).await;
    let scales = [
        "{}",
        r#"{"scale":1.5}"#,
        r#"{"scale":null}"#,
        r#"{"scale":[2]}"#,
        r#"{"scale":1e1}"#,
        r#"{"scale":2,"scale":2}"#,
        r#"{"scale":99999999999999999999}"#,
        r#"{"Scale":2}"#,
    ];
    check(&client, Method::PUT, "/assets/NEW", refused(&scales)).await;
}

/// The items of an independent batch fail alone; the batch is answered.
#[tokio::test]
async fn bad_items_are_their_own_results() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    for (field, text) in [
        ("amount", "0"),
        ("amount", "1.5"),
        ("amount", r#""999999999999999999999999999999999999999""#),
        ("from", r#""a b""#),
        ("reference", r#""\u0000""#),
        ("metadata", r#"{"a":"\u0000"}"#),
        ("metadata", "[]"),
        ("idempotency_key", r#""""#),
        ("idempotency_key", r#""a b""#),
        ("idempotency_key", r#""ä""#),
        ("idempotency_key", r#""\u0000""#),
    ] {
        let item = with(field, text);
        let item = if field == "idempotency_key" { item } else { item.replacen('{', r#"{"idempotency_key":"k","#, 1) };
        let batch = format!(r#"{{"payments":[{item}]}}"#);
        let answer = client.send(Method::POST, "/payments/batch", &[JSON], batch).await.is(200);
        let result = &answer.body["results"][0];
        assert_eq!(
            (&result["status"], &result["problem"]["code"]),
            (&json!(422), &json!("validation_failed")),
            "{field}: {text}"
        );
        let pointer = result["problem"]["errors"][0]["pointer"].as_str().unwrap();
        assert!(pointer.starts_with(&format!("/payments/0/{field}")), "{pointer}");
    }
    let long_key = with("idempotency_key", &format!(r#""{}""#, "k".repeat(256)));
    let answer =
        client.send(Method::POST, "/payments/batch", &[JSON], format!(r#"{{"payments":[{long_key}]}}"#)).await.is(200);
    assert_eq!(answer.body["results"][0]["problem"]["code"], "validation_failed");
    assert_eq!(client.head().await, head);
}

#[tokio::test]
async fn keys_are_1_to_255_visible_ascii_characters() {
    let (_server, client) = start_with_accounts().await;
    let body = payment("alice", "bob", 1).to_string();
    let head = client.head().await;
    let long = "k".repeat(256);
    let longer = "k".repeat(5_000);
    let send = async |path: &str, key: &[u8], body: &str| {
        let headers: [(&str, &[u8]); 2] = [("content-type", b"application/json"), ("idempotency-key", key)];
        client.send_bytes(Method::POST, path, &headers, body.as_bytes().to_vec()).await
    };
    let atomic = format!(r#"{{"atomic":true,"payments":[{body}]}}"#);
    for key in [b"".as_slice(), b" ", b"a b", b"a\tb", "ä".as_bytes(), b"\xff", long.as_bytes(), longer.as_bytes()] {
        send("/payments", key, &body).await.is_problem(400, "idempotency_key_invalid");
        send("/payments/batch", key, &atomic).await.is_problem(400, "idempotency_key_invalid");
    }
    assert_eq!(client.head().await, head);
    let longest = "k".repeat(255);
    for key in [longest.as_bytes(), b"!", b"~", br#""quoted";,/\%20"#] {
        send("/payments", key, &body).await.is(201);
        let text: String = percent_encoding::percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        assert_eq!(client.get(&format!("/transactions?idempotency_key={text}")).await.is(200).data().len(), 1);
    }
}

#[tokio::test]
async fn paths_are_checked() {
    let (_server, client) = start_with_accounts().await;
    let long = "x".repeat(300);
    for (path, status, code) in [
        ("/accounts/%00", 422, "validation_failed"),
        ("/accounts/a%00b/entries", 422, "validation_failed"),
        ("/accounts/%20", 422, "validation_failed"),
        ("/accounts/%C3%A4", 422, "validation_failed"),
        ("/accounts/%25", 422, "validation_failed"),
        ("/accounts/a%2525", 422, "validation_failed"),
        (&format!("/accounts/{long}"), 422, "validation_failed"),
        ("/accounts/%FF", 400, "malformed_request"),
        ("/accounts/%FF/entries", 400, "malformed_request"),
        ("/accounts/%C3", 400, "malformed_request"),
        ("/transactions/%FF", 400, "malformed_request"),
        (&format!("/transactions/{long}"), 404, "transaction_not_found"),
        ("//v1/ledgers/%FF/accounts", 400, "malformed_request"),
        ("//v1/ledgers/%00/accounts", 422, "validation_failed"),
        ("//v1/ledgers/a%20b/events", 422, "validation_failed"),
        (&format!("//v1/ledgers/{long}/assets"), 422, "validation_failed"),
        ("//v1/ledgers/a%2Fb/events/stream", 404, "ledger_not_found"),
        ("//problems/%FF", 400, "malformed_request"),
        ("//problems/%00", 404, "not_found"),
        ("//problems/..%2F..%2Fetc%2Fpasswd", 404, "not_found"),
    ] {
        client.get(path).await.is_problem(status, code);
    }
    for path in ["/assets/%00", "/assets/%20", "//v1/ledgers/%00"] {
        let body = if path.contains("assets") { json!({"scale": 1}) } else { json!({}) };
        client.put(path, &body).await.is_problem(422, "validation_failed");
    }
    client.put("/assets/%FF", &json!({"scale": 1})).await.is_problem(400, "malformed_request");
    client.put("//v1/ledgers/%FF", &json!({})).await.is_problem(400, "malformed_request");
    client.of_ledger("%FF").pay("k", &payment("alice", "bob", 1)).await.is_problem(400, "malformed_request");
    client.get("//readyz").await.is(200);
}

#[tokio::test]
async fn queries_are_checked() {
    let (_server, client) = start_with_accounts().await;
    let long = "x".repeat(300);
    let huge = "99999999999999999999";
    let mut paths: Vec<String> = Vec::new();
    for list in ["/accounts", "/accounts/bob/entries", "/transactions", "/events", "/assets", "/accounts/bob"] {
        for query in [
            "consistency=weak",
            "consistency=",
            "consistency=Eventual",
            "min_position=x",
            "min_position=-1",
            "min_position=1.5",
            "min_position=",
            "unknown=1",
            "limt=5",
            "limit=1&limit=2",
            "min_position=1&min_position=1",
            "%00=1",
            "limit=%00",
        ] {
            paths.push(format!("{list}?{query}"));
        }
        paths.push(format!("{list}?min_position={huge}"));
    }
    for list in ["/accounts", "/accounts/bob/entries", "/transactions", "/events", "/assets", "//v1/ledgers"] {
        for cursor in [
            "x",
            "%00",
            "a%00",
            "-1",
            "v",
            "p",
            "v-1",
            "p-1",
            "v1.5",
            "p9223372036854775808",
            huge,
            &long,
            "%FF",
            "a%FF",
            "l%00",
            "c%00",
        ] {
            paths.push(format!("{list}?after={cursor}"));
        }
    }
    for query in ["prefix=%00", "prefix=a%20b", "prefix=%FF", "asset=%00", "asset=", "asset=a%20b", "asset=%FF"] {
        paths.push(format!("/accounts?{query}"));
    }
    paths.push(format!("/accounts?prefix={long}"));
    paths.push(format!("/accounts?asset={long}"));
    for query in [
        "account=%00",
        "account=",
        "account=a%20b",
        "reference=%00",
        "reference=a%00b",
        "idempotency_key=",
        "idempotency_key=%00",
        "idempotency_key=a%20b",
        "idempotency_key=%C3%A4",
    ] {
        paths.push(format!("/transactions?{query}"));
    }
    for field in ["account", "reference", "idempotency_key"] {
        paths.push(format!("/transactions?{field}={long}"));
    }
    paths.push("/transactions?idempotency_key=k&account=a%20b".to_owned());
    paths.extend(["/accounts/bob/entries?order=up", "/accounts/bob/entries?order=ASC"].map(str::to_owned));
    let head = client.head().await;
    for path in paths {
        let answer = client.get(&path).await;
        assert_eq!(
            (answer.status, answer.body["code"].as_str()),
            (422, Some("validation_failed")),
            "{path}: {}",
            answer.text
        );
        // The last parameter is the one that is wrong.
        let name = path.rsplit(['?', '&']).next().unwrap().split('=').next().unwrap().replace("%00", "\0");
        assert_eq!(answer.body["errors"][0]["pointer"], format!("/query/{name}"), "{path}: {}", answer.text);
    }
    assert_eq!(client.head().await, head);
    // Beyond what can be, but numbers all the same.
    let beyond = client.get("/events?after=9223372036854775807").await.is(200);
    assert!(beyond.data().is_empty());
}

/// What somebody meant by a parameter must not be done without it.
#[tokio::test]
async fn what_changes_something_takes_no_parameters_in_its_query() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    let id = uuid::Uuid::nil();
    let paid = payment("bank", "bob", 1);
    let routes = [
        ("POST", "/accounts".to_owned(), json!({"code": "new", "asset": "EUR"})),
        ("PATCH", "/accounts/bob".to_owned(), json!({"metadata": {"a": 1}})),
        ("POST", "/accounts/bob/freeze".to_owned(), json!({"scope": "all", "reason": "r"})),
        ("POST", "/accounts/bob/close".to_owned(), json!({})),
        ("PUT", "/account-types/w:".to_owned(), json!({"normal": "debit"})),
        ("DELETE", "/account-types/w:".to_owned(), json!({})),
        ("DELETE", "/velocity-limits/w".to_owned(), json!({})),
        ("PUT", "/assets/NEW".to_owned(), json!({"scale": 2})),
        ("POST", "/payments".to_owned(), paid.clone()),
        ("POST", "/payments/batch".to_owned(), json!({"payments": [paid]})),
        ("POST", format!("/payments/{id}/capture"), json!({})),
        ("POST", format!("/payments/{id}/void"), json!({})),
        ("POST", format!("/transactions/{id}/reverse"), json!({})),
        ("POST", format!("/transactions/{id}/cancel"), json!({})),
        ("POST", "/periods/close".to_owned(), json!({"before": "2020-01-01"})),
    ];
    for (method, path, body) in routes {
        let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let answer = client.send(method, &format!("{path}?dry_run=true"), &headers, body.to_string()).await;
        let answer = answer.is_problem(422, "validation_failed");
        assert_eq!(answer.body["errors"][0]["pointer"], "/query/dry_run", "{path}: {}", answer.text);
    }
    assert_eq!(client.head().await, head);
}

#[tokio::test]
async fn no_problem_tells_what_is_inside() {
    let (_server, client) = start_with_accounts().await;
    let bodies: Vec<Value> =
        vec![json!([]), json!({"from": 1}), json!({"from": "\u{0}"}), payment("'; DROP TABLE events; --", "bob", 1)];
    for body in bodies {
        let answer = client.pay("k", &body).await;
        assert!(answer.status < 500);
        for inside in
            ["steelyard", "src/", "sqlx", "serde", "panicked", "struct ", "SELECT", "PaymentInput", "Object", "tuple"]
        {
            assert!(!answer.text.contains(inside), "{inside}: {}", answer.text);
        }
    }
}

/// What metadata may not say, and where it says so.
const NOT_KEPT: [(&str, &str); 9] = [
    (r#"{"a":100000000000000000001}"#, "/metadata/a"),
    (r#"{"a":12345678901234567890123}"#, "/metadata/a"),
    (r#"{"a":0.1234567890123456789012}"#, "/metadata/a"),
    (r#"{"a":1e400}"#, "/metadata/a"),
    (r#"{"x/y":[1,{"b~":1e-400}]}"#, "/metadata/x~1y/1/b~0"),
    (r#"{"a":1,"a":1}"#, "/metadata/a"),
    (r#"{"a":1,"\u0061":2}"#, "/metadata/a"),
    (r#"{"x":[{"a":1,"b":2,"a":3}]}"#, "/metadata/x/0/a"),
    (r#"{"x":{"a":"\u0000"}}"#, "/metadata/x/a"),
];

#[tokio::test]
async fn metadata_that_would_not_come_back_as_it_was_is_refused() {
    let (_server, client) = start_with_accounts().await;
    let head = client.head().await;
    for (metadata, pointer) in NOT_KEPT {
        let payment = with("metadata", metadata);
        let answer = client.post_with_key("/payments", "k", &payment).await.is_problem(422, "validation_failed");
        assert!(!answer.body["errors"][0]["detail"].as_str().unwrap().is_empty());
        _ = answer.at(pointer);
        let atomic = format!(r#"{{"atomic":true,"payments":[{payment}]}}"#);
        let answer = client.post_with_key("/payments/batch", "k", atomic).await.is_problem(422, "validation_failed");
        _ = answer.at(&format!("/payments/0{pointer}"));
        let item = payment.replacen('{', r#"{"idempotency_key":"k","#, 1);
        let batch = format!(r#"{{"payments":[{item}]}}"#);
        let answer = client.send(Method::POST, "/payments/batch", &[JSON], batch).await.is(200);
        let problem = &answer.body["results"][0]["problem"];
        assert_eq!(problem["errors"][0]["pointer"], format!("/payments/0{pointer}"), "{metadata}");
        let account = format!(r#"{{"code":"n","asset":"EUR","metadata":{metadata}}}"#);
        let answer = client.send(Method::POST, "/accounts", &[JSON], account.clone()).await;
        _ = answer.is_problem(422, "validation_failed").at(pointer);
        let accounts = format!(r#"{{"accounts":[{account}]}}"#);
        let answer = client.send(Method::POST, "/accounts/batch", &[JSON], accounts).await.is(200);
        let problem = &answer.body["results"][0]["problem"];
        assert_eq!(problem["errors"][0]["pointer"], format!("/accounts/0{pointer}"), "{metadata}");
    }
    assert_eq!(client.head().await, head);
    let told = client.post_with_key("/payments", "k", with("metadata", NOT_KEPT[0].0)).await;
    assert!(told.body["errors"][0]["detail"].as_str().unwrap().contains("as a string"), "{}", told.text);
}

#[tokio::test]
async fn metadata_comes_back_as_it_was() {
    let (_server, client) = start_with_accounts().await;
    for (n, (sent, kept)) in [
        (r#"{"a":1e5,"b":2.50,"c":-0.0}"#, r#"{"a":100000,"b":2.5,"c":0}"#),
        (
            r#"{"a":18446744073709551615,"b":-9223372036854775808}"#,
            r#"{"a":18446744073709551615,"b":-9223372036854775808}"#,
        ),
        (r#"{"a":9007199254740993.0}"#, r#"{"a":9007199254740993}"#),
        (r#"{"a":"100000000000000000001"}"#, r#"{"a":"100000000000000000001"}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let kept = format!(r#""metadata":{kept}"#);
        let account = format!(r#"{{"code":"m{n}","asset":"EUR","metadata":{sent}}}"#);
        client.send(Method::POST, "/accounts", &[JSON], account.clone()).await.is(201);
        client.send(Method::POST, "/accounts", &[JSON], account).await.is(200);
        for read in ["strong", "eventual"] {
            // The projections have it once a list has waited for them.
            client.get("/accounts").await.is(200);
            let shown = client.get(&format!("/accounts/m{n}?consistency={read}")).await.is(200);
            assert!(shown.text.contains(&kept), "{}", shown.text);
        }
        let paid = client.post_with_key("/payments", &format!("k{n}"), with("metadata", sent)).await.is(201);
        assert!(paid.text.contains(&kept), "{}", paid.text);
        let found = client.get(&format!("/transactions/{}", paid.body["id"].as_str().unwrap())).await.is(200);
        assert!(found.text.contains(&kept), "{}", found.text);
    }
}

/// Words are checked with every answer; here are the answers that had the wrong ones.
#[tokio::test]
async fn what_is_wrong_is_said_in_words_of_the_api() {
    let (_server, client) = start_with_accounts().await;
    for (body, pointer, detail) in [
        (r#"{"scale":300}"#, "/scale", "expected a whole number from 0 to 37"),
        (r#"{"scale":38}"#, "/scale", "expected a whole number from 0 to 37"),
        (r#"{"scale":-1}"#, "/scale", "expected a whole number from 0 to 37"),
        (r#"{"scale":"2"}"#, "/scale", "expected a whole number from 0 to 37"),
        ("{}", "/scale", "this is required"),
        (r#"{"scale":2,"scale":2}"#, "/scale", "this is there twice; send it once"),
        (r#"{"scale":2,"a`b/c":2}"#, "/a`b~1c", "this is not known here; what is: scale"),
        ("[]", "", "expected a JSON object"),
    ] {
        let answer = client.send(Method::PUT, "/assets/NEW", &[JSON], body).await.is_problem(422, "validation_failed");
        assert_eq!(answer.body["errors"], json!([{"pointer": pointer, "detail": detail}]));
    }
    for (body, pointer, detail) in [
        (with("from", "1"), "/from", "expected a string"),
        (with("amount", "true"), "/amount", "expected an amount: a string of digits, or an integer"),
    ] {
        let answer = client.post_with_key("/payments", "k", body).await.is_problem(422, "validation_failed");
        assert_eq!(answer.body["errors"], json!([{"pointer": pointer, "detail": detail}]));
    }
    for (body, detail) in
        [(r#"{"payments":{}}"#, "expected an array"), (r#"{"payments":[],"atomic":"yes"}"#, "expected true or false")]
    {
        let answer = client.send(Method::POST, "/payments/batch", &[JSON], body).await.is(422);
        assert_eq!(answer.body["errors"][0]["detail"], detail);
    }
    for (query, detail) in [
        ("limit=abc", "expected a whole number"),
        ("limit=", "expected a whole number"),
        ("limit=99999999999999999999", "this number is too large"),
        ("min_position=-1", "expected a whole number"),
        ("consistency=weak", "expected one of: strong, eventual"),
        ("limit=1&limit=2", "this is there twice; send it once"),
        (
            "foo=1",
            "this is not known here; what is: prefix, asset, normal, status, min_posted, max_posted, opened_from, opened_to, \
             after, limit, consistency, min_position, metadata[name]",
        ),
    ] {
        let answer = client.get(&format!("/accounts?{query}")).await.is_problem(422, "validation_failed");
        assert_eq!(answer.body["errors"][0]["detail"], detail, "{query}");
    }
    let path = client.get("/accounts/%FF").await.is_problem(400, "malformed_request").at("/path/code");
    assert!(path.body["detail"].as_str().unwrap().contains("UTF-8"));
    let ended = client.post_with_key("/payments", "k", r#"{"from":"#).await.is_problem(400, "malformed_json");
    assert_eq!(ended.body["detail"], "the JSON ends too early, in line 1, column 8");
}

/// Wherever one is read: a date has ten characters, a minute sixty seconds.
#[tokio::test]
async fn times_have_one_form() {
    let (_server, client) = start_with_accounts().await;
    let with = |name: &str, text: &str| {
        let mut body = payment("alice", "bob", 1);
        body[name] = json!(text);
        body
    };
    let head = client.head().await;
    for text in ["2026-1-1", "2025-06-30T23:59:60Z", "2025-06-30 12:00:00Z", "2025-06-30T12:00:00"] {
        let dated = with("effective_at", text);
        client.pay("bad", &dated).await.is_problem(422, "validation_failed").at("/effective_at");
        let mut held = with("expires_at", text);
        held["capture"] = json!("manual");
        client.pay("bad", &held).await.is_problem(422, "validation_failed").at("/expires_at");
        let leg = |account: &str, side: &str| json!({"account": account, "side": side, "amount": "1", "asset": "EUR"});
        let legs = json!({"legs": [leg("alice", "debit"), leg("bob", "credit")], "effective_at": text});
        let refused = client.post_with_key("/transactions", "bad", &legs).await;
        refused.is_problem(422, "validation_failed").at("/effective_at");
        client
            .post("/periods/close", &json!({"before": text}))
            .await
            .is_problem(422, "validation_failed")
            .at("/before");
        for (path, name) in [
            ("/transactions", "from"),
            ("/transactions", "to"),
            ("/accounts", "opened_from"),
            ("/accounts/bob", "as_of"),
            ("/accounts/bob/statement", "from"),
            ("/accounts/bob/statement", "to"),
            ("/trial-balance", "as_of"),
        ] {
            let refused = client.get(&format!("{path}?{name}={}", text.replace(' ', "%20"))).await;
            refused.is_problem(422, "validation_failed").at(&format!("/query/{name}"));
        }
        let mut line = with("effective_at", text);
        line["key"] = json!("bad");
        let csv = format!("key,from,to,amount,asset,effective_at\nbad,alice,bob,1,EUR,{text}\n");
        for (content_type, body) in [("application/x-ndjson", line.to_string()), ("text/csv", csv)] {
            let answer = client.send(Method::POST, "/import", &[("content-type", content_type)], body).await.is(200);
            let record: Value = serde_json::from_str(answer.text.lines().next().unwrap()).unwrap();
            assert_eq!(record["problem"]["errors"][0]["pointer"], "/effective_at", "{text}: {}", answer.text);
        }
    }
    assert_eq!(client.head().await, head, "nothing was recorded");

    // What a microsecond does not hold is cut, and not rounded.
    let paid = client.pay("k", &with("effective_at", "2026-01-31T23:59:59.9999999+00:00")).await.is(201);
    assert_eq!(paid.body["effective_at"], "2026-01-31T23:59:59.999999Z");
}
