//! A small client for the HTTP API.
//!
//! A request that moves money is sent again with the same idempotency key when the service was unavailable or the
//! connection was lost, so a retry can never pay twice. When even the last attempt has no answer and an earlier one
//! may have arrived, the error says that the outcome is unknown, and how to find it out.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::output::printable;

/// How long to wait for the TCP connection: a service on a reachable network answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait for an answer. The server holds a request through a failover, which takes seconds, so this is
/// well above that.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for a text that comes in pieces, such as a statement of ten million lines.
const TEXT_TIMEOUT: Duration = Duration::from_secs(3_600);
/// How long an import or an export may take: whoever reads it watches that it moves.
const STREAM_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How often one request is sent at most.
const ATTEMPTS_MAX: u32 = 5;

/// No further attempt begins after this long: a person is waiting.
const ATTEMPTS_TIME_MAX: Duration = Duration::from_secs(60);

/// The first pause between attempts. It doubles each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest pause between attempts, also when `Retry-After` asks for more.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How much of an answer that is no problem document is shown.
const EXCERPT_CHARS_MAX: usize = 200;

/// The answers of the ledger that are recorded as events although no money moved.
pub const BUSINESS_REJECTIONS: [&str; 9] = [
    "insufficient_funds",
    "balance_limit_exceeded",
    "account_frozen",
    "account_closed",
    "velocity_limit_exceeded",
    "period_closed",
    "hold_not_open",
    "capture_exceeds_hold",
    "reversal_exceeds_transaction",
];

/// Where the server is, and as whom to talk to it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ApiArgs {
    /// Address of any worker, or of the load balancer before them.
    #[arg(long, env = "STEELYARD_URL", default_value = "http://127.0.0.1:8080", value_parser = parse_url)]
    pub url: Url,

    /// The ledger to work on.
    #[arg(long, env = "STEELYARD_LEDGER", default_value = "main")]
    pub ledger: String,

    /// API key, sent as a bearer token and never printed. The environment keeps it out of the shell's history.
    #[arg(long, env = "STEELYARD_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<ApiKey>,
}

fn parse_url(text: &str) -> Result<Url, String> {
    let with_scheme = || format!("write it with its scheme, for example http://{text}");
    let url = Url::parse(text).map_err(|_| with_scheme())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(with_scheme());
    }
    Ok(url)
}

/// The value of an `Authorization` header. `Debug` shows only that there is one.
#[derive(Debug, Clone)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl FromStr for ApiKey {
    type Err = String;

    fn from_str(key: &str) -> Result<ApiKey, String> {
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("an API key is visible ASCII characters without spaces".to_owned());
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|error| error.to_string())?;
        header.set_sensitive(true);
        Ok(ApiKey(header))
    }
}

/// A successful answer.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    pub status: StatusCode,
    /// The server had this answer already: the idempotency key had been used for the same request before.
    pub replayed: bool,
    pub body: T,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub data: Vec<Value>,
    #[serde(default)]
    pub next: Option<String>,
}

/// The answer to a batch, in the order of the request.
#[derive(Debug, Deserialize)]
pub struct BatchAnswer {
    pub results: Vec<BatchItem>,
}

#[derive(Debug, Deserialize)]
pub struct BatchItem {
    pub status: u16,
    #[serde(default)]
    pub problem: Option<Problem>,
}

/// `POST /payments`. The amount is in the asset's smallest unit.
#[derive(Debug, Clone, Serialize)]
pub struct PaymentRequest {
    pub from: String,
    pub to: String,
    pub amount: String,
    pub asset: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// `manual` only reserves the funds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_at: Option<String>,
}

/// `POST /accounts`. What is left out is as the account's type has it; `null` in a limit means that there is none.
#[derive(Debug, Clone, Serialize)]
pub struct AccountRequest {
    pub code: String,
    pub asset: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_balance: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_balance: Option<Option<String>>,
    pub metadata: Value,
}

/// `GET /v1/cluster`, as far as lag is concerned.
#[derive(Debug, Default, Deserialize)]
pub struct Cluster {
    #[serde(default)]
    pub shards: Vec<ClusterShard>,
}

#[derive(Debug, Deserialize)]
pub struct ClusterShard {
    #[serde(default)]
    pub checkpoints: Vec<ClusterCheckpoint>,
}

#[derive(Debug, Deserialize)]
pub struct ClusterCheckpoint {
    pub ledger: String,
    /// Positions between the head of the log and this checkpoint.
    pub lag: u64,
    /// Age of the oldest event that is not yet in the projections.
    #[serde(default)]
    pub lag_ms: Option<f64>,
}

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    ledger: String,
}

impl Client {
    pub fn new(args: &ApiArgs) -> anyhow::Result<Client> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &args.api_key {
            headers.insert(AUTHORIZATION, key.header().clone());
        }
        // Fails only when a provider is installed already, which is as good.
        _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .default_headers(headers)
            .user_agent(concat!("steelyard/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Client { http, base: args.url.clone(), ledger: args.ledger.clone() })
    }

    pub fn ledger(&self) -> &str {
        &self.ledger
    }

    /// The address of a route of this ledger. Each segment is percent-encoded.
    pub fn ledger_url(&self, segments: &[&str]) -> Url {
        let mut url = self.root_url(&["v1", "ledgers", &self.ledger]);
        url.path_segments_mut().expect("the base has a host, so it has a path").extend(segments);
        url
    }

    fn root_url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.path_segments_mut().expect("the base has a host, so it has a path").pop_if_empty().extend(segments);
        url
    }

    /// Creates the ledger if it does not exist.
    pub async fn create_ledger(&self) -> Result<Answer<Value>, ClientError> {
        self.send_with_retries(self.with_json(Method::PUT, self.ledger_url(&[]), b"{}".to_vec())).await.result()
    }

    /// Opens an account: 201 when it is new, 200 when it was open already with the same attributes.
    pub async fn open_account(&self, account: &AccountRequest) -> Result<Answer<Value>, ClientError> {
        let request = self.with_json(Method::POST, self.ledger_url(&["accounts"]), json_bytes(account));
        self.send_with_retries(request).await.result()
    }

    /// `body` is the JSON of `{"accounts": […]}`.
    pub async fn open_accounts(&self, body: Vec<u8>) -> Result<BatchAnswer, ClientError> {
        let request = self.with_json(Method::POST, self.ledger_url(&["accounts", "batch"]), body);
        Ok(self.send_with_retries(request).await.result()?.body)
    }

    pub async fn account(&self, code: &str) -> Result<Value, ClientError> {
        Ok(self.send(self.http.get(self.ledger_url(&["accounts", code]))).await?.body)
    }

    /// A document of the ledger.
    pub async fn get(&self, segments: &[&str], filters: &[(&str, &str)]) -> Result<Value, ClientError> {
        Ok(self.send(self.http.get(self.with_filters(segments, filters))).await?.body)
    }

    /// A text of the ledger, piece by piece as it comes.
    pub async fn text(
        &self,
        segments: &[&str],
        filters: &[(&str, &str)],
        mut piece: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let request = self.http.get(self.with_filters(segments, filters)).timeout(TEXT_TIMEOUT);
        let mut response = request.send().await.map_err(|error| self.transport_error(error))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.bytes().await.map_err(|error| self.transport_error(error))?;
            return Err(ClientError::from_answer(&self.base, status, &body, None).into());
        }
        while let Some(bytes) = response.chunk().await.map_err(|error| self.transport_error(error))? {
            piece(&bytes)?;
        }
        Ok(())
    }

    fn with_filters(&self, segments: &[&str], filters: &[(&str, &str)]) -> Url {
        let mut url = self.ledger_url(segments);
        if !filters.is_empty() {
            url.query_pairs_mut().extend_pairs(filters);
        }
        url
    }

    /// One payment, tried again with the same key while the service is unavailable.
    pub async fn pay(&self, payment: &PaymentRequest, key: &str) -> Result<Answer<Value>, ClientError> {
        self.submit(&["payments"], payment, key).await
    }

    /// What moves money, tried again with the same key while the service is unavailable.
    pub async fn submit(
        &self,
        segments: &[&str],
        body: &impl Serialize,
        key: &str,
    ) -> Result<Answer<Value>, ClientError> {
        let request =
            self.with_json(Method::POST, self.ledger_url(segments), json_bytes(body)).header("idempotency-key", key);
        let attempts = self.send_with_retries(request).await;
        match attempts.last {
            Err(error) if attempts.outcome_unknown && (error.is_temporary() || error.may_have_been_recorded()) => {
                Err(ClientError::OutcomeUnknown { key: key.to_owned(), last: Box::new(error) })
            }
            last => last,
        }
    }

    /// What moves no money and changes nothing when it is done again, tried again while the service is unavailable.
    pub async fn change(
        &self,
        method: Method,
        segments: &[&str],
        body: Option<&Value>,
    ) -> Result<Answer<Value>, ClientError> {
        let url = self.ledger_url(segments);
        let request = match body {
            Some(body) => self.with_json(method, url, json_bytes(body)),
            None => self.http.request(method, url),
        };
        self.send_with_retries(request).await.result()
    }

    /// `body` is the JSON of `{"payments": […]}` with a key in each item.
    pub async fn pay_batch(&self, body: Vec<u8>) -> Result<BatchAnswer, ClientError> {
        let request = self.with_json(Method::POST, self.ledger_url(&["payments", "batch"]), body);
        Ok(self.send_with_retries(request).await.result()?.body)
    }

    /// Items of a list, following the cursor until there are `limit` of them or no more.
    pub async fn list(&self, segments: &[&str], filters: &[(&str, &str)], limit: usize) -> Result<Page, ClientError> {
        /// The largest page that the API gives.
        const PAGE_ITEMS_MAX: usize = 1_000;

        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let wanted = (limit - items.len()).min(PAGE_ITEMS_MAX);
            let mut url = self.ledger_url(segments);
            {
                let mut query = url.query_pairs_mut();
                query.extend_pairs(filters).append_pair("limit", &wanted.to_string());
                if let Some(after) = &after {
                    query.append_pair("after", after);
                }
            }
            let page: Page = self.send(self.http.get(url)).await?.body;
            let empty = page.data.is_empty();
            items.extend(page.data);
            after = page.next;
            if after.is_none() || empty || items.len() >= limit {
                items.truncate(limit);
                return Ok(Page { data: items, next: after });
            }
        }
    }

    /// An import whose body is still to come; the answer's body comes meanwhile.
    pub async fn import(
        &self,
        query: &[(&str, String)],
        content_type: &'static str,
        body: reqwest::Body,
    ) -> Result<reqwest::Response, ClientError> {
        let mut url = self.ledger_url(&["import"]);
        url.query_pairs_mut().extend_pairs(query);
        let request = self.http.post(url).header(CONTENT_TYPE, HeaderValue::from_static(content_type)).body(body);
        self.open(request).await
    }

    /// An export, whose body is still to be read.
    pub async fn export(&self, what: &str, query: &[(&str, String)]) -> Result<reqwest::Response, ClientError> {
        let mut url = self.ledger_url(&["export", what]);
        url.query_pairs_mut().extend_pairs(query);
        self.open(self.http.get(url)).await
    }

    /// More of an answer's body; `None` at its end.
    pub async fn more(&self, response: &mut reqwest::Response) -> Result<Option<bytes::Bytes>, ClientError> {
        response.chunk().await.map_err(|error| self.transport_error(error))
    }

    /// An answer of which nothing came for too long.
    pub fn silent(&self) -> ClientError {
        ClientError::TimedOut { url: self.base.clone() }
    }

    /// An answer that ended before it was over.
    pub fn cut_off(&self) -> ClientError {
        ClientError::Lost { url: self.base.clone(), reason: "the answer ended early".to_owned() }
    }

    async fn open(&self, request: RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let response = request.timeout(STREAM_TIMEOUT).send().await.map_err(|error| self.transport_error(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(&response);
        let body = response.bytes().await.map_err(|error| self.transport_error(error))?;
        Err(ClientError::from_answer(&self.base, status, &body, retry_after))
    }

    /// The same, whole and as it came.
    pub async fn cluster_state(&self) -> Result<Value, ClientError> {
        Ok(self.send(self.http.get(self.root_url(&["v1", "cluster"]))).await?.body)
    }

    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        Ok(self.send(self.http.get(self.root_url(&["v1", "cluster"]))).await?.body)
    }

    fn with_json(&self, method: Method, url: Url, body: Vec<u8>) -> RequestBuilder {
        self.http.request(method, url).header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body)
    }

    async fn send_with_retries<T: DeserializeOwned>(&self, request: RequestBuilder) -> Attempts<T> {
        let begun = Instant::now();
        let mut outcome_unknown = false;
        let mut attempt = 1;
        loop {
            let again = request.try_clone().expect("the body is bytes, not a stream");
            let last = self.send(again).await;
            let Err(error) = &last else {
                return Attempts { last, outcome_unknown };
            };
            outcome_unknown |= error.may_have_been_recorded();
            if !error.is_temporary() || attempt == ATTEMPTS_MAX || begun.elapsed() > ATTEMPTS_TIME_MAX {
                return Attempts { last, outcome_unknown };
            }
            tokio::time::sleep(backoff(attempt, error.retry_after())).await;
            attempt += 1;
        }
    }

    async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>, ClientError> {
        let response = request.send().await.map_err(|error| self.transport_error(error))?;
        let status = response.status();
        let replayed = response.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
        let retry_after = retry_after(&response);
        let body = response.bytes().await.map_err(|error| self.transport_error(error))?;
        if !status.is_success() {
            return Err(ClientError::from_answer(&self.base, status, &body, retry_after));
        }
        match serde_json::from_slice(&body) {
            Ok(body) => Ok(Answer { status, replayed, body }),
            Err(_) => Err(ClientError::unexpected(&self.base, status, &body)),
        }
    }

    fn transport_error(&self, error: reqwest::Error) -> ClientError {
        let url = self.base.clone();
        let reason = innermost(&error);
        if error.is_connect() {
            ClientError::Unreachable { url, reason }
        } else if error.is_timeout() {
            ClientError::TimedOut { url }
        } else {
            ClientError::Lost { url, reason }
        }
    }
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What came of sending one request until it was answered.
struct Attempts<T> {
    last: Result<Answer<T>, ClientError>,
    /// At least one attempt may have arrived without its answer coming back.
    outcome_unknown: bool,
}

impl<T> Attempts<T> {
    /// For requests that may be repeated without harm, whatever became of them.
    fn result(self) -> Result<Answer<T>, ClientError> {
        self.last
    }
}

fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("requests are plain structures with text keys")
}

/// The pause after attempt number `attempt`, counted from 1.
pub(super) fn backoff(attempt: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << (attempt - 1).min(16));
    retry_after.unwrap_or(Duration::ZERO).max(doubled).min(BACKOFF_MAX)
}

/// The text of the error at the end of the chain: "Connection refused" rather than "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Why there is no successful answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: Url, reason: String },

    #[error("no answer from {url} within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut { url: Url },

    #[error("the connection to {url} was lost: {reason}")]
    Lost { url: Url, reason: String },

    #[error("{0}")]
    Problem(Box<Problem>),

    #[error("{url} answered {status}, and not as this API does: {excerpt}")]
    Unexpected { url: Url, status: StatusCode, excerpt: String },

    #[error("it is unknown whether it was done: {last}")]
    OutcomeUnknown { key: String, last: Box<ClientError> },
}

impl ClientError {
    fn from_answer(url: &Url, status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(mut problem) => {
                problem.status = status.as_u16();
                problem.retry_after = retry_after;
                ClientError::Problem(Box::new(problem))
            }
            Err(_) => ClientError::unexpected(url, status, body),
        }
    }

    fn unexpected(url: &Url, status: StatusCode, body: &[u8]) -> ClientError {
        let text: String = String::from_utf8_lossy(body).chars().take(EXCERPT_CHARS_MAX).collect();
        let excerpt = if text.trim().is_empty() { "(an empty body)".to_owned() } else { printable(text.trim()) };
        ClientError::Unexpected { url: url.clone(), status, excerpt }
    }

    fn status(&self) -> Option<u16> {
        match self {
            ClientError::Problem(problem) => Some(problem.status),
            ClientError::Unexpected { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } | ClientError::Lost { .. } => true,
            ClientError::OutcomeUnknown { .. } => true,
            // 502 and 504 come from a load balancer whose worker went away.
            ClientError::Problem(_) | ClientError::Unexpected { .. } => {
                matches!(self.status(), Some(502..=504))
            }
        }
    }

    /// The body came too slowly: 408.
    pub fn is_timeout(&self) -> bool {
        self.status() == Some(408)
    }

    /// Whether the server may have acted on the request. Unavailable (503) means that nothing was recorded.
    fn may_have_been_recorded(&self) -> bool {
        match self {
            ClientError::TimedOut { .. } | ClientError::Lost { .. } | ClientError::OutcomeUnknown { .. } => true,
            ClientError::Unreachable { .. } => false,
            ClientError::Problem(_) | ClientError::Unexpected { .. } => {
                self.status().is_none_or(|status| status != 503 && !(400..500).contains(&status))
            }
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            ClientError::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }

    /// What the person at the terminal can do.
    pub fn advice(&self) -> Option<String> {
        match self {
            ClientError::Unreachable { url, .. } => Some(format!(
                "is `steelyard serve` running at {url}? Another address is given with --url or STEELYARD_URL."
            )),
            ClientError::TimedOut { url } | ClientError::Lost { url, .. } => {
                Some(format!("{url}readyz says whether the service can work"))
            }
            ClientError::Unexpected { .. } => Some("is --url the address of a Steelyard server?".to_owned()),
            ClientError::OutcomeUnknown { key, .. } => Some(format!(
                "run the same command with --idempotency-key {key}: it never acts twice, and tells what happened"
            )),
            ClientError::Problem(problem) => problem.advice(),
        }
    }
}

/// A `application/problem+json` document (RFC 9457).
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Problem {
    pub title: String,
    #[serde(default)]
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
    /// Further members, kept for `--json`.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// What is wrong with one place of the request.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct FieldError {
    #[serde(default)]
    pub pointer: String,
    #[serde(default)]
    pub detail: String,
}

impl Problem {
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a problem is a plain structure with text keys")
    }

    /// Whether the refusal is a fact in the log.
    pub fn is_business_rejection(&self) -> bool {
        self.code.as_deref().is_some_and(|code| BUSINESS_REJECTIONS.contains(&code))
    }

    fn advice(&self) -> Option<String> {
        let advice = match (self.status, self.code.as_deref()) {
            (401, _) => "give an API key with --api-key or STEELYARD_API_KEY",
            (403, _) => "this API key does not allow it; use another with --api-key or STEELYARD_API_KEY",
            (_, Some("account_not_found")) => "`steelyard account open CODE --asset ASSET` opens an account",
            (_, Some("idempotency_key_reused")) => {
                "this key was used for another request; leave --idempotency-key out to get a new one"
            }
            (_, Some("projection_behind")) => "the projections have not caught up yet; try again in a moment",
            (503, _) => "nothing was recorded; try again in a moment",
            _ => return None,
        };
        Some(advice.to_owned())
    }
}

/// The title, the detail, the code, and one line for each place in the request that is wrong.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.title))?;
        if let Some(detail) = &self.detail {
            write!(f, "\n  {}", printable(detail))?;
        }
        for error in &self.errors {
            let pointer = if error.pointer.is_empty() { "(body)" } else { &error.pointer };
            write!(f, "\n  {}: {}", printable(pointer), printable(&error.detail))?;
        }
        match &self.code {
            Some(code) => write!(f, "\n  code: {} ({})", printable(code), self.status)?,
            None => write!(f, "\n  status: {}", self.status)?,
        }
        if let Some(transaction_id) = &self.transaction_id {
            write!(f, "\n  transaction: {}", printable(transaction_id))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use axum::http::HeaderMap as AxumHeaders;
    use axum::response::IntoResponse;
    use axum::routing::{get, post};
    use serde_json::json;

    use super::*;

    fn args(url: &str) -> ApiArgs {
        ApiArgs { url: url.parse().unwrap(), ledger: "main".to_owned(), api_key: Some("secret-key".parse().unwrap()) }
    }

    /// A stand-in for the server, on a free port, which ends with the test's runtime.
    async fn serve(router: axum::Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    fn payment() -> PaymentRequest {
        PaymentRequest {
            from: "wallet:alice".to_owned(),
            to: "wallet:bob".to_owned(),
            amount: "1250".to_owned(),
            asset: "EUR".to_owned(),
            reference: None,
            description: None,
            metadata: None,
            capture: None,
            expires_in_s: None,
            expires_at: None,
            effective_at: None,
        }
    }

    #[test]
    fn a_problem_is_rendered_with_title_detail_pointers_and_code() {
        let body = json!({
            "type": "/problems/validation_failed", "title": "The request is not valid", "status": 422,
            "detail": "2 fields are wrong", "code": "validation_failed",
            "errors": [{"pointer": "/amount", "detail": "must be positive"},
                       {"pointer": "/asset", "detail": "is missing"}],
        });
        let problem: Problem = serde_json::from_value(body.clone()).unwrap();
        let expected = "\
The request is not valid
  2 fields are wrong
  /amount: must be positive
  /asset: is missing
  code: validation_failed (422)";
        assert_eq!(problem.to_string(), expected);
        assert_eq!(problem.to_json(), body);
    }

    #[test]
    fn a_recorded_rejection_names_its_transaction() {
        let problem: Problem = serde_json::from_value(json!({
            "title": "Insufficient funds", "status": 422, "code": "insufficient_funds",
            "transaction_id": "0193", "position": 7,
        }))
        .unwrap();
        assert!(problem.is_business_rejection());
        assert_eq!(problem.to_string(), "Insufficient funds\n  code: insufficient_funds (422)\n  transaction: 0193");
    }

    #[test]
    fn the_api_key_is_never_printed() {
        assert!(!format!("{:?}", args("http://localhost")).contains("secret-key"));
    }

    #[test]
    fn an_address_without_a_scheme_is_refused_with_the_remedy() {
        assert_eq!(
            parse_url("127.0.0.1:8080").unwrap_err(),
            "write it with its scheme, for example http://127.0.0.1:8080"
        );
        assert!(parse_url("localhost:8080").is_err());
    }

    #[test]
    fn path_segments_are_percent_encoded_below_any_base() {
        let client = Client::new(&args("http://host/prefix/")).unwrap();
        assert_eq!(
            client.ledger_url(&["accounts", "a/b c?"]).as_str(),
            "http://host/prefix/v1/ledgers/main/accounts/a%2Fb%20c%3F"
        );
    }

    #[test]
    fn the_pause_doubles_and_is_bounded() {
        assert_eq!(backoff(1, None), Duration::from_millis(100));
        assert_eq!(backoff(3, None), Duration::from_millis(400));
        assert_eq!(backoff(1, Some(Duration::from_secs(1))), Duration::from_secs(1));
        assert_eq!(backoff(1, Some(Duration::from_secs(3_600))), BACKOFF_MAX);
        assert_eq!(backoff(u32::MAX, None), BACKOFF_MAX);
    }

    #[tokio::test]
    async fn a_refused_connection_asks_whether_the_server_runs() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Client::new(&args(&url)).unwrap().account("wallet:alice").await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
        assert!(error.advice().unwrap().contains(&format!("is `steelyard serve` running at {url}/?")));
    }

    #[tokio::test]
    async fn an_unavailable_service_is_asked_again_with_the_same_key() {
        let keys: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = keys.clone();
        let router = axum::Router::new().route(
            "/v1/ledgers/main/payments",
            post(move |headers: AxumHeaders| async move {
                assert_eq!(headers["authorization"], "Bearer secret-key");
                let mut keys = seen.lock().unwrap();
                keys.push(headers["idempotency-key"].to_str().unwrap().to_owned());
                if keys.len() < 3 {
                    let problem = json!({"title": "Overloaded", "status": 503, "code": "overloaded"});
                    return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(problem)).into_response();
                }
                let body = axum::Json(json!({"id": "0193"}));
                (StatusCode::CREATED, [("idempotent-replayed", "true")], body).into_response()
            }),
        );
        let client = Client::new(&args(&serve(router).await)).unwrap();
        let answer = client.pay(&payment(), "key-1").await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED);
        assert!(answer.replayed);
        assert_eq!(*keys.lock().unwrap(), ["key-1", "key-1", "key-1"]);
    }

    #[tokio::test]
    async fn lost_answers_leave_the_outcome_unknown_and_name_the_key() {
        // Each connection is closed as soon as it is accepted and something was read: sent, but not answered.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 16];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await;
            }
        });
        let error = Client::new(&args(&url)).unwrap().pay(&payment(), "key-1").await.unwrap_err();
        assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
        assert!(error.is_temporary());
        assert!(error.advice().unwrap().contains("--idempotency-key key-1"));
    }

    #[tokio::test]
    async fn a_business_rejection_is_not_tried_again() {
        let calls: Arc<Mutex<u32>> = Arc::default();
        let counted = calls.clone();
        let router = axum::Router::new().route(
            "/v1/ledgers/main/payments",
            post(move || async move {
                *counted.lock().unwrap() += 1;
                let problem = json!({"title": "Insufficient funds", "status": 422, "code": "insufficient_funds"});
                (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(problem))
            }),
        );
        let client = Client::new(&args(&serve(router).await)).unwrap();
        let error = client.pay(&payment(), "key-1").await.unwrap_err();
        assert!(!error.is_temporary());
        assert_eq!(*calls.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_list_follows_the_cursor_to_the_limit() {
        #[derive(Deserialize)]
        struct Query {
            limit: usize,
            after: Option<usize>,
        }
        let router = axum::Router::new().route(
            "/v1/ledgers/main/accounts",
            get(|axum::extract::Query(query): axum::extract::Query<Query>| async move {
                // Smaller pages than asked for, as a server may give.
                let first = query.after.unwrap_or(0);
                let data: Vec<usize> = (first..first + query.limit.min(40)).collect();
                axum::Json(json!({"data": data, "next": (first + data.len()).to_string()}))
            }),
        );
        let client = Client::new(&args(&serve(router).await)).unwrap();
        let page = client.list(&["accounts"], &[], 100).await.unwrap();
        assert_eq!(page.data, (0..100).map(Value::from).collect::<Vec<_>>());
        assert_eq!(page.next.as_deref(), Some("100"));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_problem_document_is_quoted() {
        let router = axum::Router::new().fallback(|| async { (StatusCode::BAD_GATEWAY, "<html>bad\u{7}</html>") });
        let client = Client::new(&args(&serve(router).await)).unwrap();
        let error = client.account("wallet:alice").await.unwrap_err();
        assert!(error.to_string().ends_with("<html>bad\\u{7}</html>"), "{error}");
    }
}
