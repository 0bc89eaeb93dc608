//! What clients asked and were told, and the check that the ledger did just that.
//!
//! [`request`] draws what they ask. Every request and answer is kept. When the
//! faults are over, [`log`] compares them with the log, by the [`book`] that
//! follows from it, [`order`] with the clients' clock, and `verify` the projections
//! with a fresh fold. What is found is a value, so that a test can show that it is
//! found.

mod book;
mod log;
mod order;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sqlx::PgConnection;
use steelyard::clock::{Clock, SystemClock};
use steelyard::store::Database;

use book::Totals;
use order::{Operation, Place};
use request::{Scope, Seen, WALLETS, wallet};

pub use request::{FUNDS, Wish};

/// A client that hears nothing for so long gives up, and tries again later.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(4);
/// Requests under way at a time while settling.
const SETTLE_REQUESTS: usize = 8;
/// How long an account is frozen, and one time in how many.
const FREEZE: Duration = Duration::from_millis(8);
const FREEZE_EVERY: u32 = 30;
/// Payments in one batch: enough for its append to go by COPY.
const BATCH: usize = 1_000;
/// Batches of one client and round: what is asked for is checked after each round.
const BATCHES_MAX: usize = 4;
/// Tries at a definite answer after the faults are over.
const SETTLE_TRIES_MAX: u32 = 200;
/// How late what has come due may be settled where nobody asks for it: two seconds,
/// and what a slow machine needs.
const DUE_LATE_MAX: Duration = Duration::from_secs(5);

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
    /// What is available does not fall below its floor, but by force.
    Floors,
    /// No hold gives more than its amount, nor anything after its end.
    Holds,
    /// No more of a transaction is reversed than is left of it.
    Reversals,
    /// A frozen account declines what it is frozen for.
    Freezes,
    /// Holds expire, and scheduled transactions are decided, before anything that
    /// would see the accounts after their moment, and never before it.
    Due,
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
    wish: Wish,
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
    fn now(wish: Wish, in_batch: bool) -> Self {
        Self { wish, in_batch, called: Instant::now(), answer: None, answered: None, settled: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Id of the transaction, posted or declined; `None` when nothing was recorded.
    transaction: Option<String>,
    body: Value,
}

/// A freeze, or its end: it has no key, and a reason of its own.
#[derive(Clone, Debug)]
struct FreezeAsked {
    account: String,
    /// `None` ends it.
    scope: Option<Scope>,
    called: Instant,
    answered: Option<Instant>,
}

/// An account as it was read.
#[derive(Clone, Debug)]
struct Read {
    account: String,
    totals: Totals,
    available: i128,
    frozen: bool,
    /// Of the last event that touched it, by the answer.
    balance_position: u64,
    /// As of which it was read.
    position: u64,
    called: Instant,
    /// The same by the machine's clock.
    asked_at: DateTime<Utc>,
    answered: Instant,
}

/// All that clients of one ledger asked.
pub struct History {
    http: reqwest::Client,
    base: Mutex<String>,
    /// By how much the service's clocks may differ from the clients'.
    clocks_apart: TimeDelta,
    asked: Mutex<BTreeMap<String, Asked>>,
    freezes: Mutex<BTreeMap<String, FreezeAsked>>,
    /// Accounts that may be frozen.
    frozen: Mutex<BTreeSet<String>>,
    seen: Mutex<Seen>,
    read: Mutex<Vec<Read>>,
    /// What clients noticed at once.
    noticed: Mutex<Vec<Finding>>,
}

impl History {
    /// Opens the accounts and funds them.
    pub async fn begin(base: &str) -> Arc<Self> {
        Self::begin_with(base, CLIENT_TIMEOUT, TimeDelta::zero()).await
    }

    /// The same where clocks differ.
    pub async fn begin_with_clocks_apart(base: &str, clocks_apart: TimeDelta) -> Arc<Self> {
        Self::begin_with(base, CLIENT_TIMEOUT, clocks_apart).await
    }

    /// The same with clients that wait for so long.
    pub async fn begin_with_patience(base: &str, patience: Duration) -> Arc<Self> {
        Self::begin_with(base, patience, TimeDelta::zero()).await
    }

    async fn begin_with(base: &str, patience: Duration, clocks_apart: TimeDelta) -> Arc<Self> {
        let http = reqwest::Client::builder().timeout(patience).build().expect("a client");
        let history = Self {
            http,
            base: Mutex::new(base.to_owned()),
            clocks_apart,
            asked: Mutex::default(),
            freezes: Mutex::default(),
            frozen: Mutex::default(),
            seen: Mutex::default(),
            read: Mutex::default(),
            noticed: Mutex::default(),
        };
        let mut accounts: Vec<Value> = (1..=WALLETS).map(|n| json!({"code": wallet(n), "asset": "EUR"})).collect();
        accounts.push(json!({"code": "bank", "asset": "EUR", "min_balance": null}));
        let opened = history.post("accounts/batch", None, &json!({ "accounts": accounts })).await.expect("an answer");
        assert_eq!(opened.0, 200, "{}", opened.1);
        for n in 1..=WALLETS {
            history.ask(format!("fund-{n}"), Wish::pay("bank", &wallet(n), FUNDS)).await;
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
                    let items = history.draw_batch(&mut random);
                    history.ask_batch(items).await;
                }
            });
        }
        for client in 0..clients {
            let (history, stop) = (Arc::clone(self), stop.clone());
            tasks.spawn(async move {
                let mut random = SmallRng::seed_from_u64(seed ^ u64::from(client) << 32);
                while !stop.is_cancelled() {
                    history.act(&mut random).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a client does not panic");
        }
    }

    /// What a client does once.
    async fn act(&self, random: &mut SmallRng) {
        if random.random_range(0..3) == 0 {
            self.read(&wallet(random.random_range(1..=WALLETS))).await;
        }
        if random.random_range(0..FREEZE_EVERY) == 0 {
            self.freeze_for_a_moment(&wallet(random.random_range(1..=WALLETS)), random).await;
        }
        let (key, wish) = (request::draw_key(random), self.draw(random));
        if !self.ask(key.clone(), wish.clone()).await {
            // Or a dead process would be asked some thousand times.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Impatient clients ask again at once.
        if random.random_range(0..10) == 0 {
            self.ask(key, wish).await;
        }
    }

    fn draw(&self, random: &mut SmallRng) -> Wish {
        request::draw(random, &self.seen.lock().expect("no panic"))
    }

    fn draw_batch(&self, random: &mut SmallRng) -> Vec<(String, Wish)> {
        let seen = self.seen.lock().expect("no panic");
        (0..BATCH).map(|_| (request::draw_key(random), request::draw_item(random, &seen))).collect()
    }

    /// Asks once; keeps a definite answer, and compares it with an earlier one.
    pub async fn ask(&self, key: String, wish: Wish) -> bool {
        self.note_asked(&key, &wish, false);
        let Some((status, answer)) = self.post(&wish.path(), Some(&key), &wish.body()).await else { return false };
        self.note_answer(&key, status, answer)
    }

    async fn freeze_for_a_moment(&self, account: &str, random: &mut SmallRng) {
        self.frozen.lock().expect("no panic").insert(account.to_owned());
        self.freeze(account, Some(Scope::draw(random))).await;
        tokio::time::sleep(FREEZE).await;
        self.freeze(account, None).await;
    }

    /// Freezes an account, or ends that.
    async fn freeze(&self, account: &str, scope: Option<Scope>) -> bool {
        let reason = format!("r-{:016x}", rand::random::<u64>());
        let asked = FreezeAsked { account: account.to_owned(), scope, called: Instant::now(), answered: None };
        self.freezes.lock().expect("no panic").insert(reason.clone(), asked);
        let (path, body) = match scope {
            Some(scope) => ("freeze", json!({"scope": scope.as_str(), "reason": reason})),
            None => ("unfreeze", json!({"reason": reason})),
        };
        match self.post(&format!("accounts/{account}/{path}"), None, &body).await {
            Some((200, _)) => {}
            None | Some((503 | 504, _)) => return false,
            Some((status, answer)) => panic!("{path} of {account} was answered {status}: {answer}"),
        }
        self.freezes.lock().expect("no panic").get_mut(&reason).expect("asked before").answered = Some(Instant::now());
        true
    }

    /// Makes one payment more, which must be answered.
    pub async fn ask_anew(&self) {
        assert!(self.is_answered_anew().await, "a payment has no answer");
    }

    /// Makes one payment more, by the bank, which can always pay.
    pub async fn is_answered_anew(&self) -> bool {
        let mut random = SmallRng::seed_from_u64(rand::random());
        let to = wallet(random.random_range(1..=WALLETS));
        self.ask(request::draw_key(&mut random), Wish::pay("bank", &to, random.random_range(1..=FUNDS / 3))).await
    }

    /// Asks for all of them at once; `true` when each has a definite answer.
    async fn ask_batch(&self, items: Vec<(String, Wish)>) -> bool {
        let mut payments = Vec::with_capacity(items.len());
        for (key, wish) in &items {
            self.note_asked(key, wish, true);
            let mut payment = wish.body();
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

    fn note_asked(&self, key: &str, wish: &Wish, in_batch: bool) {
        let mut asked = self.asked.lock().expect("no panic");
        asked.entry(key.to_owned()).or_insert_with(|| Asked::now(wish.clone(), in_batch));
    }

    /// Whether it is a definite one.
    fn note_answer(&self, key: &str, status: u16, body: Value) -> bool {
        let mut asked = self.asked.lock().expect("no panic");
        let known = asked.get_mut(key).expect("asked before");
        let transaction = match status {
            200 | 201 => &body["id"],
            // What comes too late is refused, and not recorded.
            422 if body["code"] == "not_scheduled" => &Value::Null,
            422 => &body["transaction_id"],
            // Nothing is known: 503 and 504, and nothing else.
            503 | 504 => return false,
            _ => panic!("{key} was answered {status}: {body}, as to {known:?}"),
        };
        let transaction = transaction.as_str().map(str::to_owned);
        // Those of a batch are too many to be met again.
        if let (200 | 201, Some(id), false) = (status, &transaction, known.in_batch) {
            self.seen.lock().expect("no panic").note(&known.wish, id, &body);
        }
        let answer = Answer { status, transaction, body };
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
            self.read(&wallet(n)).await;
        }
    }

    /// Reads an account. Whether that was right, the log knows.
    pub async fn read(&self, account: &str) {
        let base = self.base.lock().expect("no panic").clone();
        let (called, asked_at) = (Instant::now(), SystemClock.now());
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
        let amount = |member: &str| balance[member].as_str().and_then(|text| text.parse().ok()).expect("an amount");
        let number = |member: &str| balance[member].as_u64().expect("a number");
        let totals = Totals {
            debits: amount("debits_posted"),
            credits: amount("credits_posted"),
            debits_pending: amount("pending_out"),
            credits_pending: amount("pending_in"),
            version: number("version"),
        };
        let read = Read {
            account: account.to_owned(),
            totals,
            available: amount("available"),
            frozen: body["status"] == "frozen",
            balance_position: number("position"),
            position,
            called,
            asked_at,
            answered,
        };
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
            list.push((key.clone(), asked.wish.clone()));
        }
        let frozen = std::mem::take(&mut *self.frozen.lock().expect("no panic"));
        for account in frozen {
            until_definite(|| self.freeze(&account, None)).await;
        }
        futures::stream::iter(alone)
            .for_each_concurrent(SETTLE_REQUESTS, async |(key, wish)| {
                until_definite(|| self.ask(key.clone(), wish.clone())).await;
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
        let now: Option<DateTime<Utc>> = sqlx::query_scalar("SELECT max(recorded_at) FROM events WHERE ledger_id = 1")
            .fetch_one(&mut *conn)
            .await
            .expect("the log can be read");
        let begun = Instant::now();
        let head = loop {
            let rows = self.rows(conn).await;
            let log = self.check_log(&rows)?;
            // The ledger's clock is there at least, since it does not run backwards.
            match now.and_then(|now| log.overdue(now)) {
                None => break rows.last().map_or(0, |row| row.position),
                Some(due) if begun.elapsed() > DUE_LATE_MAX => {
                    return Err(found(Rule::Due, format!("{due:?} still waits at {now:?}")));
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        projected(conn, head).await;
        let report = steelyard::projector::verify::verify(database, &|_, _| {}).await;
        report.map(drop).map_err(|failure| Finding { rule: Rule::Projections, what: failure.to_string() })
    }

    async fn rows(&self, conn: &mut PgConnection) -> Vec<log::Row> {
        sqlx::query_as(
            "SELECT position, epoch, recorded_at, effective_at, type, transaction_id::text, idempotency_key,
                    payload::text
             FROM events WHERE ledger_id = 1 ORDER BY position",
        )
        .fetch_all(conn)
        .await
        .expect("the log can be read")
    }

    fn check_log(&self, rows: &[log::Row]) -> Result<log::Log, Finding> {
        let asked = self.asked.lock().expect("no panic");
        let freezes = self.freezes.lock().expect("no panic");
        let read = self.read.lock().expect("no panic");
        let log = log::Log::follow(rows, log::Requests { asked: &asked, freezes: &freezes })?;
        read.iter().try_for_each(|read| log.check_read(read, self.clocks_apart))?;
        let requests = asked.iter().filter_map(|(key, asked)| {
            Some(Operation {
                what: key.clone(),
                called: asked.called,
                answered: asked.answered,
                place: Place::At(log.position(key)?),
            })
        });
        let frozen = log.freezes().iter().map(|(reason, position)| Operation {
            what: reason.clone(),
            called: freezes[reason].called,
            answered: freezes[reason].answered,
            place: Place::At(*position),
        });
        let reads = read.iter().map(|read| Operation {
            what: format!("{read:?}"),
            called: read.called,
            answered: Some(read.answered),
            place: Place::Behind(read.position),
        });
        let operations: Vec<Operation<Instant>> = requests.chain(frozen).chain(reads).collect();
        match order::contradiction(&operations) {
            None => Ok(log),
            Some((first, second)) => {
                let what = format!("{second:?} was called after the answer to {first:?}, and stands before it");
                Err(found(Rule::Order, what))
            }
        }
    }

    /// The status of the definite answer to the request under a key.
    pub fn status(&self, key: &str) -> Option<u16> {
        self.asked.lock().expect("no panic").get(key)?.answer.as_ref().map(|answer| answer.status)
    }

    /// The ledger's time, as of the last answer.
    pub fn now(&self) -> DateTime<Utc> {
        self.seen.lock().expect("no panic").now().expect("an answer")
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

fn found(rule: Rule, what: String) -> Finding {
    Finding { rule, what }
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
        if tries >= SETTLE_TRIES_MAX {
            println!("{}", cluster(conn, lowest).await);
            panic!("the projections stay at {lowest}, behind {head}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Who holds what, and what each session waits for, where the projections stay at a position.
async fn cluster(conn: &mut PgConnection, lowest: i64) -> String {
    let what = "
        SELECT json_build_object(
            'shards', (SELECT json_agg(json_build_object('shard', shard, 'worker', worker_id, 'epoch', c.epoch,
                                                         'pid', backend_pid, 'claimed_at', c.claimed_at))
                       FROM checkpoints JOIN shard_claims c USING (shard) WHERE ledger_id = 1 AND position = $1),
            'workers', (SELECT json_agg(to_json(w)) FROM workers w),
            'locks', (SELECT json_object_agg(pid, locks)
                      FROM (SELECT pid, array_agg(objid ORDER BY objid) AS locks FROM pg_locks
                            WHERE locktype = 'advisory' AND granted GROUP BY pid) l),
            'sessions', (SELECT json_agg(json_build_object('pid', pid, 'of', application_name, 'state', state,
                                                           'waits', wait_event, 'since', state_change,
                                                           'blocked_by', pg_blocking_pids(pid), 'query', left(query, 80)))
                         FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()))::text";
    sqlx::query_scalar(what).bind(lowest).fetch_one(conn).await.unwrap_or_else(|error| error.to_string())
}
