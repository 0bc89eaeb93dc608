//! Drives the connections and counts what comes back.
//!
//! The generator shares the machine with the server and with PostgreSQL, so it is built to be cheap: raw HTTP/1.1
//! connections without a pool, one thread, all state of a thread without locks, answers counted and not parsed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::BenchArgs;
use super::answers::{self, Counts};
use super::timetable::{Dispatch, Timetable};
use super::workload::{Generator, PreparedRequest, Workload};
use crate::cli::client::Client;
use crate::cli::output::printable;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for an answer. Longer than a failover takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// How long after the end of a run at a fixed rate the requests that are overdue are still sent.
const OVERDUE_TIME_MAX: Duration = Duration::from_secs(10);

/// Without a timetable, a connection rests this long after a failure: refusals are quick, and a storm of them would
/// take the machine from the server.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Latencies are recorded in µs, up to this, with three significant digits.
const LATENCY_MAX_US: u64 = 120_000_000;

/// How much of the first failure is kept to be shown.
const FAILURE_EXCERPT_CHARS_MAX: usize = 300;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Everything that the threads of one run share.
pub(super) struct Plan {
    addresses: Vec<SocketAddr>,
    path: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    connections: u16,
    threads: u16,
    batch: u32,
    duration: Duration,
    workload: Workload,
    dispatch: Option<Dispatch>,
    /// Makes the idempotency keys of this run differ from those of any other.
    run: u64,
    accepted: AtomicU64,
}

impl Plan {
    pub(super) fn new(args: &BenchArgs, client: &Client) -> anyhow::Result<Plan> {
        let url = client.ledger_url(if args.batch == 1 { &["payments"] } else { &["payments", "batch"] });
        let addresses = url.socket_addrs(|| None).with_context(|| format!("cannot resolve the host of {url}"))?;
        let duration = Duration::from_secs(args.duration.into());
        Ok(Plan {
            addresses,
            path: url.path().parse()?,
            host: HeaderValue::from_str(url.authority().rsplit('@').next().unwrap_or_default())?,
            authorization: args.api.api_key.as_ref().map(|key| key.header().clone()),
            connections: args.connections,
            threads: args.threads.min(args.connections),
            batch: args.batch,
            duration,
            workload: Workload::new(args.shape, args.accounts),
            dispatch: args.rate.map(|rate| Dispatch::new(Timetable::new(rate, args.batch, duration))),
            run: rand::random(),
            accepted: AtomicU64::new(0),
        })
    }

    /// Payments accepted until now, for the progress bar.
    pub(super) fn accepted_so_far(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    fn request(&self, prepared: PreparedRequest) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(prepared.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(key) = prepared.key {
            headers
                .insert(IDEMPOTENCY_KEY, HeaderValue::try_from(key).expect("keys are hexadecimal digits and dashes"));
        }
        request
    }
}

/// What a run, or a part of it, came to. Payments are counted, not requests, unless it says so.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) accepted: u64,
    /// Those of `accepted` whose answer came before the end of the run.
    pub(super) accepted_in_time: u64,
    /// Declined, with the decline recorded in the log.
    pub(super) rejected: u64,
    /// Not acknowledged, by status or cause.
    pub(super) failed: BTreeMap<String, u64>,
    /// Due on the timetable, and never sent because the service was too far behind.
    pub(super) unsent: u64,
    /// µs of each request that was acknowledged; and, as far as it had got, of each that timed out or was not sent.
    pub(super) latency_us: Histogram<u64>,
    pub(super) first_failure: Option<String>,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            requests: 0,
            accepted: 0,
            accepted_in_time: 0,
            rejected: 0,
            failed: BTreeMap::new(),
            unsent: 0,
            latency_us: Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are constants"),
            first_failure: None,
        }
    }

    fn record_latency(&mut self, latency: Duration) {
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    fn fail(&mut self, cause: &str, payments: u64, detail: impl FnOnce() -> String) {
        match self.failed.get_mut(cause) {
            Some(count) => *count += payments,
            None => {
                self.failed.insert(cause.to_owned(), payments);
            }
        }
        self.first_failure.get_or_insert_with(detail);
    }

    fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.accepted_in_time += other.accepted_in_time;
        self.rejected += other.rejected;
        self.unsent += other.unsent;
        for (cause, count) in other.failed {
            *self.failed.entry(cause).or_default() += count;
        }
        self.latency_us.add(&other.latency_us).expect("all histograms have the same bounds");
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) duration: Duration,
}

impl Outcome {
    /// Payments acknowledged per second of the run.
    pub(super) fn payments_per_second(&self) -> f64 {
        self.tally.accepted_in_time as f64 / self.duration.as_secs_f64()
    }
}

/// Holds the threads back until every connection stands.
struct Gate {
    barrier: Barrier,
    start: OnceLock<Instant>,
    failure: Mutex<Option<anyhow::Error>>,
}

impl Gate {
    /// When the run starts; `None` when a connection could not be made.
    fn pass(&self) -> Option<Instant> {
        self.barrier.wait();
        let failed = self.failure.lock().expect("no thread panics with the lock held").is_some();
        (!failed).then(|| *self.start.get_or_init(Instant::now))
    }
}

/// Runs the load, and blocks until it is over.
pub(super) fn drive(plan: &Plan) -> anyhow::Result<Outcome> {
    let threads = usize::from(plan.threads);
    let gate = Gate { barrier: Barrier::new(threads + 1), start: OnceLock::new(), failure: Mutex::new(None) };
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let gate = &gate;
        let workers: Vec<_> =
            (0..plan.threads).map(|thread| scope.spawn(move || drive_thread(plan, gate, thread))).collect();
        if let (Some(start), Some(dispatch)) = (gate.pass(), &plan.dispatch) {
            dispatch.run(start, plan.connections.into());
        }
        workers
            .into_iter()
            .filter_map(|worker| worker.join().expect("a thread of the load generator panicked"))
            .collect()
    });
    if let Some(error) = gate.failure.into_inner().expect("no thread panics with the lock held") {
        return Err(error);
    }
    let mut tally = Tally::new();
    for part in tallies {
        tally.add(part);
    }
    Ok(Outcome { tally, duration: plan.duration })
}

/// The connections `thread`, `thread + threads`, and so on. `None` when the run did not start.
fn drive_thread(plan: &Plan, gate: &Gate, thread: u16) -> Option<Tally> {
    let numbers = (thread..plan.connections).step_by(plan.threads.into());
    // The tasks of the connections end with it, so none outlives the run.
    let local = LocalSet::new();
    let connected =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from).and_then(
            |runtime| {
                let connections = runtime.block_on(local.run_until(async {
                    let mut connections = Vec::new();
                    for number in numbers {
                        let connection = connect(plan).await.map_err(|reason| connect_advice(plan, number, &reason))?;
                        connections.push((number, connection));
                    }
                    anyhow::Ok(connections)
                }))?;
                Ok((runtime, connections))
            },
        );
    let (runtime, connections) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            gate.failure.lock().expect("no thread panics with the lock held").get_or_insert(error);
            gate.pass();
            return None;
        }
    };
    let start = gate.pass()?;
    let tally = RefCell::new(Tally::new());
    runtime.block_on(local.run_until(async {
        let run = &Run { plan, start, end: start + plan.duration, tally: &tally };
        futures::future::join_all(connections.into_iter().map(|(number, sender)| run.drive(number, sender))).await;
    }));
    Some(tally.into_inner())
}

fn connect_advice(plan: &Plan, made: u16, reason: &str) -> anyhow::Error {
    anyhow!(
        "cannot open {} connections: {reason} after {made}; `ulimit -n` limits them on either side, --connections asks for fewer",
        plan.connections,
    )
}

type Sender = SendRequest<Full<Bytes>>;

async fn connect(plan: &Plan) -> Result<Sender, String> {
    let connecting = async {
        let stream = TcpStream::connect(plan.addresses.as_slice()).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())
    };
    let (sender, connection) =
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| "connecting timed out".to_owned())??;
    // It ends with its sender, and in any case with the thread's `LocalSet`. The sender reports its errors.
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// One thread's part in a run.
struct Run<'a> {
    plan: &'a Plan,
    start: Instant,
    end: Instant,
    tally: &'a RefCell<Tally>,
}

/// Why there is no answer.
enum NoAnswer {
    TimedOut,
    Lost(String),
}

impl Run<'_> {
    /// One connection, until the end of the run.
    async fn drive(&self, number: u16, sender: Sender) {
        let plan = self.plan;
        let payments = u64::from(plan.batch);
        let mut generator = Generator::new(plan.workload.clone(), plan.batch, plan.run, number);
        let mut sender = Some(sender);
        let mut body = Vec::new();
        while let Some(due) = self.next_turn().await {
            if plan.dispatch.is_some() && Instant::now() > self.end + OVERDUE_TIME_MAX {
                let mut tally = self.tally.borrow_mut();
                tally.unsent += payments;
                tally.record_latency(due.elapsed());
                continue;
            }
            let request = plan.request(generator.next_request());
            let answer =
                match tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(&mut sender, request, &mut body)).await {
                    Ok(answer) => answer.map_err(NoAnswer::Lost),
                    Err(_) => Err(NoAnswer::TimedOut),
                };
            if answer.is_err() {
                // What comes on it now would be the answer to another request.
                sender = None;
            }
            let acknowledged = self.count(answer, &body, due, payments);
            if !acknowledged && plan.dispatch.is_none() {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    /// When the next request is due: at once, or by the timetable. `None` at the end of the run.
    async fn next_turn(&self) -> Option<Instant> {
        match &self.plan.dispatch {
            Some(dispatch) => dispatch.next().await.map(|due| self.start + due),
            None => Some(Instant::now()).filter(|now| *now < self.end),
        }
    }

    /// Sends one request and reads the answer; `body` holds as much of it as there is to count.
    async fn exchange(
        &self,
        sender: &mut Option<Sender>,
        request: Request<Full<Bytes>>,
        body: &mut Vec<u8>,
    ) -> Result<StatusCode, String> {
        body.clear();
        // A server may close an idle connection, and that is no failure.
        let open = match sender {
            Some(open) if !open.is_closed() => open,
            _ => sender.insert(connect(self.plan).await?),
        };
        open.ready().await.map_err(|error| error.to_string())?;
        let response = open.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let keep = self.plan.batch > 1 || status != StatusCode::CREATED;
        let mut incoming = response.into_body();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            if keep && let Some(bytes) = frame.data_ref() {
                body.extend_from_slice(bytes);
            }
        }
        Ok(status)
    }

    /// Whether all payments of the request were acknowledged.
    fn count(&self, answer: Result<StatusCode, NoAnswer>, body: &[u8], due: Instant, payments: u64) -> bool {
        let now = Instant::now();
        let latency = now - due;
        let mut tally = self.tally.borrow_mut();
        tally.requests += 1;
        let status = match answer {
            Ok(status) => status,
            Err(NoAnswer::TimedOut) => {
                tally.record_latency(latency);
                tally.fail("timeout", payments, || format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()));
                return false;
            }
            Err(NoAnswer::Lost(reason)) => {
                tally.fail("connection", payments, || reason);
                return false;
            }
        };
        let Some(counts) = count_answer(status, body, payments) else {
            tally.fail(status.as_str(), payments, || excerpt(body));
            return false;
        };
        tally.record_latency(latency);
        tally.accepted += counts.accepted;
        tally.rejected += counts.rejected;
        if now <= self.end {
            tally.accepted_in_time += counts.accepted;
        }
        self.plan.accepted.fetch_add(counts.accepted, Ordering::Relaxed);
        if counts.failed > 0 {
            tally.fail("item refused", counts.failed, || excerpt(answers::first_problem(body)));
        }
        counts.failed == 0
    }
}

/// What the answer says of the payments; `None` when the request as a whole was refused.
fn count_answer(status: StatusCode, body: &[u8], payments: u64) -> Option<Counts> {
    match (status, payments) {
        (StatusCode::CREATED, 1) => Some(Counts { accepted: 1, ..Counts::default() }),
        (StatusCode::UNPROCESSABLE_ENTITY, 1) if answers::is_rejection(body) => {
            Some(Counts { rejected: 1, ..Counts::default() })
        }
        (StatusCode::OK, 2..) => Some(answers::count_batch(body, payments)),
        _ => None,
    }
}

fn excerpt(body: &[u8]) -> String {
    printable(String::from_utf8_lossy(body).trim()).chars().take(FAILURE_EXCERPT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use axum::http::HeaderMap;
    use axum::response::IntoResponse;
    use axum::routing::post;
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(url: &str, arguments: &[&str]) -> Plan {
        let fixed = ["bench", "--url", url, "--ledger", "main", "--connections", "4"];
        let args = Arguments::parse_from(fixed.iter().chain(arguments)).bench;
        Plan::new(&args, &Client::new(&args.api).unwrap()).unwrap()
    }

    /// Drives a stand-in for the server for a quarter of a second.
    async fn drive_against(router: axum::Router, arguments: &[&str]) -> Outcome {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut plan = plan(&url, arguments);
        plan.duration = Duration::from_millis(250);
        if let Some(rate) = arguments.iter().position(|argument| *argument == "--rate") {
            let timetable = Timetable::new(arguments[rate + 1].parse().unwrap(), plan.batch, plan.duration);
            plan.dispatch = Some(Dispatch::new(timetable));
        }
        let outcome = tokio::task::spawn_blocking(move || drive(&plan)).await.unwrap().unwrap();
        serving.abort();
        outcome
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn single_payments_are_counted_and_their_keys_are_unique() {
        let keys: Arc<Mutex<HashSet<String>>> = Arc::default();
        let seen = keys.clone();
        let router = axum::Router::new().route(
            "/v1/ledgers/main/payments",
            post(move |headers: HeaderMap, axum::Json(payment): axum::Json<Value>| async move {
                assert_ne!(payment["from"], payment["to"]);
                let mut keys = seen.lock().unwrap();
                assert!(keys.insert(headers["idempotency-key"].to_str().unwrap().to_owned()), "a key was used twice");
                // Every tenth is declined, every other tenth turned away.
                match keys.len() % 10 {
                    0 => (
                        StatusCode::UNPROCESSABLE_ENTITY,
                        axum::Json(json!({"title": "t", "code": "insufficient_funds"})),
                    ),
                    5 => (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"title": "t", "code": "overloaded"}))),
                    _ => (StatusCode::CREATED, axum::Json(json!({"id": "0193"}))),
                }
                .into_response()
            }),
        );
        let outcome = drive_against(router, &["--threads", "2"]).await;
        let tally = outcome.tally;
        let keys = keys.lock().unwrap().len() as u64;
        assert_eq!(tally.requests, keys);
        assert_eq!(tally.rejected, keys / 10);
        assert_eq!(tally.failed, BTreeMap::from([("503".to_owned(), (keys + 5) / 10)]));
        assert_eq!(tally.accepted, keys - keys / 10 - (keys + 5) / 10);
        assert_eq!(tally.latency_us.len(), tally.accepted + tally.rejected);
        assert!(tally.first_failure.unwrap().contains("overloaded"));
        assert!(tally.accepted_in_time <= tally.accepted && tally.accepted_in_time > 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn batches_are_counted_by_item() {
        let router = axum::Router::new().route(
            "/v1/ledgers/main/payments/batch",
            post(|axum::Json(batch): axum::Json<Value>| async move {
                let mut results: Vec<Value> = (1..batch["payments"].as_array().unwrap().len())
                    .map(|_| json!({"status": 201, "payment": {"status": "posted"}}))
                    .collect();
                results.push(json!({"status": 422, "problem": {"status": 422, "code": "account_frozen"}}));
                axum::Json(json!({ "results": results }))
            }),
        );
        let tally = drive_against(router, &["--batch", "20"]).await.tally;
        assert!(tally.requests > 0);
        assert_eq!(tally.accepted, tally.requests * 19);
        assert_eq!(tally.rejected, tally.requests);
        assert_eq!(tally.failed, BTreeMap::new());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn at_a_fixed_rate_a_stall_is_charged_to_every_request_that_was_due() {
        // All four connections wait 150 ms for their first answer; the timetable goes on without them.
        let calls: Arc<AtomicU64> = Arc::default();
        let router = axum::Router::new().route(
            "/v1/ledgers/main/payments",
            post(move || async move {
                if calls.fetch_add(1, Ordering::Relaxed) < 4 {
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
                (StatusCode::CREATED, "{}")
            }),
        );
        let tally = drive_against(router, &["--rate", "400"]).await.tally;
        assert_eq!(tally.requests, 100, "400 a second for a quarter of a second");
        assert_eq!(tally.accepted, 100);
        // 60 requests fall due during the stall, and those of its first half wait for at least 75 ms.
        let waited = tally.latency_us.count_between(75_000, LATENCY_MAX_US);
        assert!(waited >= 25, "only {waited} requests were charged for the stall");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_server_is_an_error_and_not_a_result() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let plan = plan(&url, &["--threads", "3"]);
        let error = tokio::task::spawn_blocking(move || drive(&plan)).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("--connections"), "{error}");
    }
}
