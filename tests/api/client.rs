//! The client of the tests. It checks every answer against the contract.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::contract::CONTRACT;
use crate::support::{Postgres, Server};

/// A client of one ledger of one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    origin: String,
    ledger: String,
}

/// An answer that the contract describes.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// Null when the answer is not JSON.
    pub body: Value,
}

/// A server on a new database, and a client of its ledger `main`.
pub async fn start() -> (Server, Client) {
    let server = Server::start(&Postgres::shared().await.database().await).await;
    let client = Client::new(&server.origin());
    (server, client)
}

/// The same, with the accounts `bank` (EUR, no floor), `alice` (with 10.00 EUR) and `bob`.
pub async fn start_with_accounts() -> (Server, Client) {
    let (server, client) = start().await;
    client.open_accounts().await;
    (server, client)
}

/// A server with those accounts, and the URL of its database.
pub async fn start_on_database() -> (Server, Client, String) {
    let url = Postgres::shared().await.database().await;
    let server = Server::start(&url).await;
    let client = Client::new(&server.origin());
    client.open_accounts().await;
    (server, client, url)
}

/// Holds every answer of a database's sequencers back: before each they look at
/// their claims, in the table that this locks.
pub struct Stall(PgConnection);

impl Stall {
    pub async fn begin(url: &str) -> Self {
        let mut conn = PgConnection::connect(url).await.unwrap();
        let lock = "BEGIN; LOCK TABLE sequencer_claims IN ACCESS EXCLUSIVE MODE";
        sqlx::raw_sql(lock).execute(&mut conn).await.unwrap();
        Self(conn)
    }

    pub async fn end(self) {
        self.0.close().await.unwrap();
    }
}

/// The body of a payment in EUR.
pub fn payment(from: &str, to: &str, amount: u64) -> Value {
    json!({"from": from, "to": to, "amount": amount.to_string(), "asset": "EUR"})
}

impl Client {
    async fn open_accounts(&self) {
        self.open(json!({"code": "bank", "asset": "EUR", "normal": "debit", "min_balance": null})).await;
        self.open(json!({"code": "alice", "asset": "EUR"})).await;
        self.open(json!({"code": "bob", "asset": "EUR"})).await;
        self.pay("funding", &payment("bank", "alice", 1000)).await.is(201);
    }

    pub fn new(origin: &str) -> Self {
        Self { http: Self::http(HeaderMap::new()), origin: origin.to_owned(), ledger: "main".to_owned() }
    }

    /// The same with an API key.
    pub fn with_key(&self, key: &str) -> Self {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([(reqwest::header::AUTHORIZATION, authorization)]);
        Self { http: Self::http(headers), ..self.clone() }
    }

    fn http(headers: HeaderMap) -> reqwest::Client {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        http.default_headers(headers).build().unwrap()
    }

    /// The same server's other ledger.
    pub fn of_ledger(&self, ledger: &str) -> Self {
        Self { ledger: ledger.to_owned(), ..self.clone() }
    }

    /// The URL of a path of the ledger (`/payments`), or of the server where it
    /// begins with two slashes (`//livez`).
    pub fn url(&self, path: &str) -> String {
        match path.strip_prefix('/').filter(|path| path.starts_with('/')) {
            Some(path) => format!("{}{path}", self.origin),
            None => format!("{}/v1/ledgers/{}{path}", self.origin, self.ledger),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, &[JSON], body.to_string()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[JSON], body.to_string()).await
    }

    pub async fn post_with_key(&self, path: &str, key: &str, body: impl ToString) -> Answer {
        self.send(Method::POST, path, &[JSON, ("idempotency-key", key)], body.to_string()).await
    }

    pub async fn pay(&self, key: &str, body: &Value) -> Answer {
        self.post_with_key("/payments", key, body).await
    }

    /// Opens an account that is not there.
    pub async fn open(&self, body: Value) -> Answer {
        self.post("/accounts", &body).await.is(201)
    }

    /// Sends what need not be fit to be sent, and checks what comes back.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        self.send_bytes(method, path, &headers, body.into()).await
    }

    pub async fn send_bytes(&self, method: Method, path: &str, headers: &[(&str, &[u8])], body: Vec<u8>) -> Answer {
        self.send_any(method, path, headers, body.into()).await
    }

    /// The same with a body that need not be there yet, or ever.
    pub async fn send_body(&self, method: Method, path: &str, headers: &[(&str, &str)], body: reqwest::Body) -> Answer {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        self.send_any(method, path, &headers, body).await
    }

    async fn send_any(&self, method: Method, path: &str, headers: &[(&str, &[u8])], body: reqwest::Body) -> Answer {
        let mut request = self.http.request(method.clone(), self.url(path)).body(body);
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request = request.header(name, HeaderValue::from_bytes(value).unwrap());
        }
        let request = request.build().unwrap();
        let path = request.url().path().to_owned();
        let response = self.http.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        check(&method, &path, status, &headers, &bytes);
        Answer {
            status: status.as_u16(),
            headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
        }
    }

    /// An answer that does not end: its head is checked, its body is the caller's.
    pub async fn open_stream(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let mut request = self.http.get(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.build().unwrap();
        let path = request.url().path().to_owned();
        let response = self.http.execute(request).await.unwrap();
        if response.status() == StatusCode::OK {
            check(&Method::GET, &path, response.status(), response.headers(), b"");
        }
        response
    }

    /// Position of the last event of the log.
    pub async fn head(&self) -> u64 {
        self.get("/events?limit=1").await.is(200).position()
    }

    /// An account's posted balance.
    pub async fn posted(&self, code: &str) -> String {
        let account = self.get(&format!("/accounts/{code}")).await.is(200);
        account.body["balance"]["posted"].as_str().unwrap().to_owned()
    }
}

pub const JSON: (&str, &str) = ("content-type", "application/json");

fn check(method: &Method, path: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) {
    CONTRACT.check(method.as_str(), path, status.as_u16(), headers, body);
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// It is this problem, with the same status in its body.
    #[track_caller]
    #[expect(clippy::wrong_self_convention, reason = "it asserts, and hands the answer on")]
    pub fn is_problem(self, status: u16, code: &str) -> Self {
        let found = (self.status, self.body["status"].as_u64(), self.body["code"].as_str());
        assert_eq!(found, (status, Some(u64::from(status)), Some(code)), "{}", self.text);
        assert_eq!(self.body["type"], format!("/problems/{code}"));
        self
    }

    /// Where the problem's first error points.
    #[track_caller]
    pub fn at(self, pointer: &str) -> Self {
        assert_eq!(self.body["errors"][0]["pointer"], pointer, "{}", self.text);
        self
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn position(&self) -> u64 {
        self.header("ledger-position").unwrap().parse().unwrap()
    }

    pub fn is_replay(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }

    /// The items of a list.
    #[track_caller]
    pub fn data(&self) -> &[Value] {
        self.body["data"].as_array().unwrap()
    }

    /// One field of every item of a list.
    #[track_caller]
    pub fn field(&self, name: &str) -> Vec<Value> {
        self.data().iter().map(|item| item[name].clone()).collect()
    }
}
