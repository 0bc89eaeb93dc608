//! The OpenAPI document as a judge of answers.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use steelyard::http::{Code, openapi};

pub static CONTRACT: LazyLock<Contract> =
    LazyLock::new(|| Contract { document: openapi::build(), validators: Mutex::default() });

/// The document, and the validators that were made of it.
pub struct Contract {
    pub document: Value,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Contract {
    /// Fails unless the document describes such an answer. `path` is without the query.
    pub fn check(&self, method: &str, path: &str, status: u16, headers: &HeaderMap, body: &[u8]) {
        let what = format!("{method} {path} answered {status}: {}", String::from_utf8_lossy(body));
        let is_head = method == "HEAD";
        let described = self.described(if is_head { "GET" } else { method }, path, status);
        let described = described.unwrap_or_else(|| panic!("not in the OpenAPI document: {what}"));

        let documented = self.resolve(&described);
        self.check_headers(documented, headers, &what);
        let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("none");
        let essence = content_type.split(';').next().unwrap_or_default();
        let media = documented["content"].as_object().unwrap();
        let media =
            media.get(essence).unwrap_or_else(|| panic!("content type {content_type} is not described: {what}"));
        if is_head {
            assert!(body.is_empty(), "HEAD has no body: {what}");
        } else if essence.ends_with("/json") || essence.ends_with("+json") {
            let value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {what}"));
            self.check_value(&media["schema"], &value, &what);
            check_wording(&value, &what);
        }
        if essence == "application/problem+json" && !is_head {
            let value: Value = serde_json::from_slice(body).unwrap();
            let code = Code::ALL.iter().find(|code| value["code"] == code.as_str()).unwrap();
            assert_eq!(headers.contains_key("ledger-position"), code.reflects_the_log(), "Ledger-Position: {what}");
        }
    }

    /// Fails unless `value` is an instance of a named schema.
    pub fn check_schema(&self, name: &str, value: &Value) {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        self.check_value(&schema, value, &format!("{name}: {value}"));
    }

    /// The template of a path: the one with the most literal segments that fits.
    pub fn template(&self, path: &str) -> Option<&str> {
        let segments: Vec<&str> = path.split('/').collect();
        let fits = |template: &&String| {
            let parts: Vec<&str> = template.split('/').collect();
            parts.len() == segments.len()
                && parts
                    .iter()
                    .zip(&segments)
                    .all(|(part, segment)| part == segment || (part.starts_with('{') && !segment.is_empty()))
        };
        let templates = self.document["paths"].as_object().unwrap();
        templates.keys().filter(fits).min_by_key(|template| template.matches('{').count()).map(String::as_str)
    }

    fn described(&self, method: &str, path: &str, status: u16) -> Option<Value> {
        let responses = &self.document["components"]["responses"];
        let Some(template) = self.template(path) else {
            return (status == 404).then(|| responses["NotFound"].clone());
        };
        match self.document["paths"][template].get(method.to_lowercase()) {
            Some(operation) => operation["responses"].get(status.to_string()).cloned(),
            None => (status == 405).then(|| responses["MethodNotAllowed"].clone()),
        }
    }

    fn check_headers(&self, response: &Value, headers: &HeaderMap, what: &str) {
        let documented = response["headers"].as_object().unwrap();
        for (name, header) in documented {
            let header = self.resolve(header);
            let found = headers.get(name).map(|value| value.to_str().unwrap());
            match found {
                None => assert_ne!(header["required"], json!(true), "no header {name}: {what}"),
                Some(text) => {
                    let value = match header["schema"]["type"].as_str() {
                        Some("integer") => {
                            json!(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}: {text}: {what}")))
                        }
                        _ => json!(text),
                    };
                    self.check_value(&header["schema"], &value, &format!("header {name} of {what}"));
                }
            }
        }
        for name in ["Ledger-Position", "Idempotent-Replayed", "Retry-After", "Allow"] {
            assert!(documented.contains_key(name) || !headers.contains_key(name), "undescribed header {name}: {what}");
        }
        assert!(!headers.contains_key("etag"), "positions do what an ETag would: {what}");
    }

    fn check_value(&self, schema: &Value, value: &Value, what: &str) {
        let validator = self.validator(schema);
        let errors: Vec<String> =
            validator.iter_errors(value).map(|error| format!("{} at {}", error, error.instance_path())).collect();
        assert!(errors.is_empty(), "{what}\nis not as described: {errors:#?}");
    }

    fn validator(&self, schema: &Value) -> Arc<Validator> {
        let mut validators = self.validators.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let validator = validators.entry(schema.to_string()).or_insert_with(|| {
            let mut root = schema.clone();
            root["components"] = self.document["components"].clone();
            let options = jsonschema::draft202012::options().should_validate_formats(true);
            Arc::new(options.build(&root).unwrap())
        });
        Arc::clone(validator)
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(reference) => self.document.pointer(&reference[1..]).unwrap(),
            None => value,
        }
    }
}

/// Fails when a problem, or one in a batch, speaks of Rust or of its libraries.
fn check_wording(value: &Value, what: &str) {
    const WORDS: [&str; 20] = [
        "u8", "u16", "u32", "u64", "i64", "i128", "usize", "f64", "struct", "enum", "variant", "tuple", "sequence",
        "borrowed", "serde", "ident", "EOF", "sqlx", "axum", "hyper",
    ];
    const PHRASES: [&str; 8] = [
        "invalid digit",
        "invalid type",
        "invalid value",
        "unknown field",
        "missing field",
        "duplicate field",
        "floating point",
        "Invalid URL",
    ];
    match value {
        Value::Array(items) => items.iter().for_each(|item| check_wording(item, what)),
        Value::Object(members) => {
            members.values().for_each(|member| check_wording(member, what));
            let Some(detail) = members.get("detail").and_then(Value::as_str) else { return };
            let mut words = detail.split(|c: char| !c.is_ascii_alphanumeric());
            let word = words.find(|word| WORDS.contains(word));
            let phrase = PHRASES.into_iter().find(|phrase| detail.contains(phrase));
            assert_eq!(word.or(phrase), None, "{what}");
        }
        _ => {}
    }
}
