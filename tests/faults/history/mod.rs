//! What clients asked and were told, and the check that the ledger did just that.
//!
//! Every request and answer is kept. When the faults are over, [`log`] compares
//! them with the log, [`order`] with the clients' clock, and `verify` the
//! projections with a fresh fold. What is found is a value, so that a test can
//! show that it is found.

mod log;
mod order;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sqlx::PgConnection;
use steelyard::store::Database;

use order::{Operation, Place};

/// Accounts between which payments are made.
pub const WALLETS: u32 = 12;
/// Of these the first few take part in every other payment, so that several
/// clients are always at the same account.
const HOT_WALLETS: u32 = 3;
/// What each is given: so little that some payments are declined.
const FUNDS: u32 = 5_000;
/// A client that hears nothing for so long gives up, and tries again later.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(4);
/// Requests under way at a time while settling.
const SETTLE_REQUESTS: usize = 8;
/// Payments in one batch: enough for its append to go by COPY.
const BATCH: usize = 1_000;
/// Batches of one client and round: what is asked for is checked after each round.
const BATCHES_MAX: usize = 4;
/// Tries at a definite answer after the faults are over.
const SETTLE_TRIES_MAX: u32 = 200;

/// What must hold. A finding names the one that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Positions are 1..n.
    Positions,
    /// Epochs rise along the log.
    Epochs,
    /// `recorded_at` does not run backwards along the log.
    Time,
    /// What was acknowledged is in the log, and everything at most once.
    ExactlyOnce,
    /// What is in the log was asked for.
    Requests,
    /// Answers say what the log says, and the same each time.
    Answers,
    /// Balances in the log follow from its amounts.
    Balances,
    /// No balance falls below its floor.
    Floors,
    /// A rejection is justified by the log at its position.
    Rejections,
    /// A read is what the log says as of its position.
    Reads,
    /// Operations take effect between their call and their answer.
    Order,
    /// Projections are what a fresh fold of the log gives.
    Projections,
}

/// What is not as it must be.
#[derive(Clone, Debug)]
pub struct Finding {
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// A request and the first definite answer to it.
#[derive(Clone, Debug)]
struct Asked {
    body: Value,
    /// Whether it is asked for as an item of a batch.
    in_batch: bool,
    /// When it was first asked for.
    called: Instant,
    answer: Option<Answer>,
    /// When that was there.
    answered: Option<Instant>,
    /// Checked after the faults of its round.
    settled: bool,
}

impl Asked {
    fn now(body: Value, in_batch: bool) -> Self {
        Self { body, in_batch, called: Instant::now(), answer: None, answered: None, settled: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Id of the transaction, posted or declined.
    transaction: String,
    body: Value,
}

/// An account as it was read.
#[derive(Clone, Debug)]
struct Read {
    account: String,
    version: u64,
    posted: i128,
    /// Of the last event that touched it, by the answer.
    balance_position: u64,
    /// As of which it was read.
    position: u64,
    called: Instant,
    answered: Instant,
}

/// All that clients of one ledger asked.
pub struct History {
    http: reqwest::Client,
    base: Mutex<String>,
    asked: Mutex<BTreeMap<String, Asked>>,
    read: Mutex<Vec<Read>>,
    /// What clients noticed at once.
    noticed: Mutex<Vec<Finding>>,
}

impl History {
    /// Opens the accounts and funds them.
    pub async fn begin(base: &str) -> Arc<Self> {
        Self::begin_with_patience(base, CLIENT_TIMEOUT).await
    }

    /// The same with clients that wait for so long.
    pub async fn begin_with_patience(base: &str, patience: Duration) -> Arc<Self> {
        let http = reqwest::Client::builder().timeout(patience).build().expect("a client");
        let history = Self {
            http,
            base: Mutex::new(base.to_owned()),
            asked: Mutex::default(),
            read: Mutex::default(),
            noticed: Mutex::default(),
        };
        let mut accounts: Vec<Value> =
            (1..=WALLETS).map(|n| json!({"code": format!("wallet:{n}"), "asset": "EUR"})).collect();
        accounts.push(json!({"code": "bank", "asset": "EUR", "min_balance": null}));
        let opened = history.post("accounts/batch", None, &json!({ "accounts": accounts })).await.expect("an answer");
        assert_eq!(opened.0, 200, "{}", opened.1);
        for n in 1..=WALLETS {
            let body = json!({"from": "bank", "to": format!("wallet:{n}"), "amount": FUNDS, "asset": "EUR"});
            history.ask(format!("fund-{n}"), body).await;
        }
        Arc::new(history)
    }

    /// The service moved.
    pub fn set_base(&self, base: &str) {
        *self.base.lock().expect("no panic") = base.to_owned();
    }

    /// Pays at random until `stop`, with `clients` at a time, and `batchers`
    /// that pay in batches.
    pub async fn pay_until(
        self: &Arc<Self>,
        stop: tokio_util::sync::CancellationToken,
        clients: u32,
        batchers: u32,
        seed: u64,
    ) {
        let mut tasks = tokio::task::JoinSet::new();
        for batcher in 0..batchers {
            let (history, stop) = (Arc::clone(self), stop.clone());
            tasks.spawn(async move {
                let mut random = SmallRng::seed_from_u64(seed ^ u64::from(batcher + 1) << 48);
                for _ in (0..BATCHES_MAX).take_while(|_| !stop.is_cancelled()) {
                    let items = (0..BATCH).map(|_| payment(&mut random)).collect();
                    history.ask_batch(items).await;
                }
            });
        }
        for client in 0..clients {
            let (history, stop) = (Arc::clone(self), stop.clone());
            tasks.spawn(async move {
                let mut random = SmallRng::seed_from_u64(seed ^ u64::from(client) << 32);
                while !stop.is_cancelled() {
                    let (key, body) = payment(&mut random);
                    if random.random_range(0..3) == 0 {
                        let side = if random.random() { "from" } else { "to" };
                        history.read(body[side].as_str().expect("a code")).await;
                    }
                    if !history.ask(key.clone(), body.clone()).await {
                        // Or a dead process would be asked some thousand times.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    // Impatient clients ask again at once.
                    if random.random_range(0..10) == 0 {
                        history.ask(key, body).await;
                    }
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a client does not panic");
        }
    }

    /// Asks once; keeps a definite answer, and compares it with an earlier one.
    async fn ask(&self, key: String, body: Value) -> bool {
        self.note_asked(&key, &body, false);
        let Some((status, answer)) = self.post("payments", Some(&key), &body).await else { return false };
        self.note_answer(&key, status, answer)
    }

    /// Makes one payment more, which must be answered.
    pub async fn ask_anew(&self) {
        assert!(self.is_answered_anew().await, "a payment has no answer");
    }

    /// Makes one payment more, by the bank, which can always pay.
    pub async fn is_answered_anew(&self) -> bool {
        let (key, mut body) = payment(&mut SmallRng::seed_from_u64(rand::random()));
        body["from"] = json!("bank");
        self.ask(key, body).await
    }

    /// Asks for all of them at once; `true` when each has a definite answer.
    async fn ask_batch(&self, items: Vec<(String, Value)>) -> bool {
        let mut payments = Vec::with_capacity(items.len());
        for (key, body) in &items {
            self.note_asked(key, body, true);
            let mut payment = body.clone();
            payment["idempotency_key"] = json!(key);
            payments.push(payment);
        }
        let Some((status, answer)) = self.post("payments/batch", None, &json!({ "payments": payments })).await else {
            return false;
        };
        let results = match (status, &answer["results"]) {
            (200, Value::Array(results)) => results.clone(),
            (503 | 504, _) => return false,
            _ => panic!("a batch was answered {status}: {answer}"),
        };
        assert_eq!(results.len(), items.len());
        let noted = items.iter().zip(results).map(|((key, _), mut result)| {
            let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
            let body = if status == 201 { result["payment"].take() } else { result["problem"].take() };
            self.note_answer(key, status, body)
        });
        noted.fold(true, |all, definite| all & definite)
    }

    fn note_asked(&self, key: &str, body: &Value, in_batch: bool) {
        let mut asked = self.asked.lock().expect("no panic");
        asked.entry(key.to_owned()).or_insert_with(|| Asked::now(body.clone(), in_batch));
    }

    /// Whether it is a definite one.
    fn note_answer(&self, key: &str, status: u16, body: Value) -> bool {
        let transaction = match status {
            201 => &body["id"],
            422 => &body["transaction_id"],
            // Nothing is known: 503 and 504, and nothing else.
            503 | 504 => return false,
            _ => panic!("{key} was answered {status}: {body}"),
        };
        let transaction = transaction.as_str().expect("a transaction id").to_owned();
        let answer = Answer { status, transaction, body };
        let mut asked = self.asked.lock().expect("no panic");
        let known = asked.get_mut(key).expect("asked before");
        match &known.answer {
            None => (known.answer, known.answered) = (Some(answer), Some(Instant::now())),
            Some(first) if *first == answer => {}
            Some(first) => self.notice(Rule::Answers, format!("{key} was answered {first:?} and then {answer:?}")),
        }
        true
    }

    fn notice(&self, rule: Rule, what: String) {
        self.noticed.lock().expect("no panic").push(Finding { rule, what });
    }

    /// Reads every wallet, while nobody strikes.
    pub async fn read_all(&self) {
        for n in 1..=WALLETS {
            self.read(&format!("wallet:{n}")).await;
        }
    }

    /// Reads an account. Whether that was right, the log knows.
    async fn read(&self, account: &str) {
        let base = self.base.lock().expect("no panic").clone();
        let called = Instant::now();
        let Ok(answer) = self.http.get(format!("{base}/v1/ledgers/main/accounts/{account}")).send().await else {
            return;
        };
        if answer.status() != 200 {
            return;
        }
        let position =
            answer.headers().get("ledger-position").and_then(|position| position.to_str().ok()?.parse().ok());
        let position = position.expect("a position");
        let Ok(body) = answer.json::<Value>().await else { return };
        let answered = Instant::now();
        let balance = &body["balance"];
        let version = balance["version"].as_u64().expect("a version");
        let posted = balance["posted"].as_str().and_then(|posted| posted.parse().ok()).expect("an amount");
        let balance_position = balance["position"].as_u64().expect("a position");
        let account = account.to_owned();
        let read = Read { account, version, posted, balance_position, position, called, answered };
        self.read.lock().expect("no panic").push(read);
    }

    async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Option<(u16, Value)> {
        let base = self.base.lock().expect("no panic").clone();
        let mut request = self.http.post(format!("{base}/v1/ledgers/main/{path}")).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// With the faults over: settles, and finds nothing wrong.
    pub async fn settle_and_check(&self, database: &Database, conn: &mut PgConnection) {
        self.settle().await;
        if let Err(finding) = self.check(database, conn).await {
            panic!("{finding}");
        }
    }

    /// Asks until every request has a definite answer, the same as before if it had one.
    pub async fn settle(&self) {
        let mut alone = Vec::new();
        let mut in_batch = Vec::new();
        for (key, asked) in self.asked.lock().expect("no panic").iter_mut().filter(|(_, asked)| !asked.settled) {
            asked.settled = true;
            let list = if asked.in_batch { &mut in_batch } else { &mut alone };
            list.push((key.clone(), asked.body.clone()));
        }
        futures::stream::iter(alone)
            .for_each_concurrent(SETTLE_REQUESTS, async |(key, body)| {
                until_definite(|| self.ask(key.clone(), body.clone())).await;
            })
            .await;
        for items in in_batch.chunks(BATCH) {
            until_definite(|| self.ask_batch(items.to_vec())).await;
        }
    }

    /// Holds everything that was asked, answered and read against the log, and
    /// the projections against a fresh fold of it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn check(&self, database: &Database, conn: &mut PgConnection) -> Result<(), Finding> {
        let noticed = self.noticed.lock().expect("no panic").first().cloned();
        noticed.map_or(Ok(()), Err)?;
        let rows: Vec<log::Row> = sqlx::query_as(
            "SELECT position, epoch, recorded_at, type, transaction_id::text, idempotency_key, payload::text
             FROM events WHERE ledger_id = 1 ORDER BY position",
        )
        .fetch_all(&mut *conn)
        .await
        .expect("the log can be read");
        self.check_log(&rows)?;
        projected(conn, rows.last().map_or(0, |row| row.position)).await;
        let report = steelyard::projector::verify::verify(database, &|_, _| {}).await;
        report.map(drop).map_err(|failure| Finding { rule: Rule::Projections, what: failure.to_string() })
    }

    fn check_log(&self, rows: &[log::Row]) -> Result<(), Finding> {
        let asked = self.asked.lock().expect("no panic");
        let read = self.read.lock().expect("no panic");
        let log = log::Log::follow(rows, &asked)?;
        read.iter().try_for_each(|read| log.check_read(read))?;
        let payments = asked.iter().filter_map(|(key, asked)| {
            Some(Operation {
                what: key.clone(),
                called: asked.called,
                answered: asked.answered,
                place: Place::At(log.position(key)?),
            })
        });
        let reads = read.iter().map(|read| Operation {
            what: format!("{read:?}"),
            called: read.called,
            answered: Some(read.answered),
            place: Place::Behind(read.position),
        });
        let operations: Vec<Operation<Instant>> = payments.chain(reads).collect();
        match order::contradiction(&operations) {
            None => Ok(()),
            Some((first, second)) => {
                let what = format!("{second:?} was called after the answer to {first:?}, and stands before it");
                Err(Finding { rule: Rule::Order, what })
            }
        }
    }

    /// Requests that were definitely answered.
    pub fn answered(&self) -> usize {
        self.asked.lock().expect("no panic").values().filter(|asked| asked.answer.is_some()).count()
    }

    /// Reads that were answered.
    pub fn reads(&self) -> usize {
        self.read.lock().expect("no panic").len()
    }
}

/// A random payment and its key.
fn payment(random: &mut SmallRng) -> (String, Value) {
    let payers = if random.random() { HOT_WALLETS } else { WALLETS };
    let from = random.random_range(1..=payers);
    let to = (from + random.random_range(1..WALLETS) - 1) % WALLETS + 1;
    let amount: u32 = random.random_range(1..=FUNDS / 3);
    let body = json!({
        "from": format!("wallet:{from}"), "to": format!("wallet:{to}"), "amount": amount.to_string(), "asset": "EUR",
    });
    (format!("k-{:016x}", random.random::<u64>()), body)
}

async fn until_definite<F: Future<Output = bool>>(ask: impl Fn() -> F) {
    let mut tries = 0;
    while !ask().await {
        tries += 1;
        assert!(tries < SETTLE_TRIES_MAX, "a request gets no definite answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the projections have all there is, or a comparison with them would
/// be one with the past.
async fn projected(conn: &mut PgConnection, head: i64) {
    let mut tries = 0;
    loop {
        let lowest: i64 = sqlx::query_scalar("SELECT min(position) FROM checkpoints WHERE ledger_id = 1")
            .fetch_one(&mut *conn)
            .await
            .expect("checkpoints can be read");
        if lowest >= head {
            return;
        }
        tries += 1;
        assert!(tries < SETTLE_TRIES_MAX, "the projections stay at {lowest}, behind {head}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
