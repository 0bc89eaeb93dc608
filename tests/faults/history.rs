//! What clients asked and were told, and the check that the ledger did just that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sqlx::PgConnection;
use steelyard::store::Database;

/// Accounts between which payments are made.
pub const WALLETS: u32 = 12;
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

/// A request and the first definite answer to it.
#[derive(Clone, Debug)]
struct Asked {
    body: Value,
    /// Whether it is asked for as an item of a batch.
    in_batch: bool,
    answer: Option<Answer>,
    /// Checked after the faults of its round.
    settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// Id of the transaction, posted or declined.
    transaction: String,
    body: Value,
}

/// All that clients of one ledger asked.
pub struct History {
    http: reqwest::Client,
    base: Mutex<String>,
    asked: Mutex<BTreeMap<String, Asked>>,
    /// Per account, the newest version that anybody has been told of.
    known: Mutex<BTreeMap<String, u64>>,
    /// What was read: account, version, posted.
    read: Mutex<Vec<(String, u64, String)>>,
}

impl History {
    /// Opens the accounts and funds them.
    pub async fn begin(base: &str) -> Arc<Self> {
        let http = reqwest::Client::builder().timeout(CLIENT_TIMEOUT).build().expect("a client");
        let history = Self {
            http,
            base: Mutex::new(base.to_owned()),
            asked: Mutex::default(),
            known: Mutex::default(),
            read: Mutex::default(),
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
                    if random.random_range(0..4) == 0 {
                        history.read(body["from"].as_str().expect("a code")).await;
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

    /// Makes one payment more.
    pub async fn is_answered_anew(&self) -> bool {
        let (key, body) = payment(&mut SmallRng::seed_from_u64(rand::random()));
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
        asked.entry(key.to_owned()).or_insert_with(|| Asked {
            body: body.clone(),
            in_batch,
            answer: None,
            settled: false,
        });
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
        if let Some(balances) = body["balances"].as_object() {
            for (account, balance) in balances {
                self.know(account, balance["version"].as_u64().expect("a version"));
            }
        }
        let answer = Answer { status, transaction, body };
        let mut asked = self.asked.lock().expect("no panic");
        let known = asked.get_mut(key).expect("asked before");
        match &known.answer {
            None => known.answer = Some(answer),
            Some(first) => assert_eq!(*first, answer, "{key} was answered differently the second time"),
        }
        true
    }

    /// Reads an account, which must be as new as what anybody had been told of
    /// before the read began.
    async fn read(&self, account: &str) {
        let known = self.known.lock().expect("no panic").get(account).copied().unwrap_or(0);
        let base = self.base.lock().expect("no panic").clone();
        let Ok(answer) = self.http.get(format!("{base}/v1/ledgers/main/accounts/{account}")).send().await else {
            return;
        };
        if answer.status() != 200 {
            return;
        }
        let Ok(body) = answer.json::<Value>().await else { return };
        let version = body["balance"]["version"].as_u64().expect("a version");
        assert!(version >= known, "{account} was read at version {version} after {known} was known");
        let posted = body["balance"]["posted"].as_str().expect("an amount").to_owned();
        self.read.lock().expect("no panic").push((account.to_owned(), version, posted));
        self.know(account, version);
    }

    fn know(&self, account: &str, version: u64) {
        let mut known = self.known.lock().expect("no panic");
        let newest = known.entry(account.to_owned()).or_default();
        *newest = version.max(*newest);
    }

    /// What was read is what the log says of that version.
    async fn check_reads(&self, conn: &mut PgConnection) {
        let read = std::mem::take(&mut *self.read.lock().expect("no panic"));
        let (accounts, versions): (Vec<String>, Vec<i64>) =
            read.iter().map(|(account, version, _)| (account.clone(), *version as i64)).unzip();
        // The statement's lines are there when the projections are.
        let mut tries = 0;
        let logged = loop {
            let logged: Vec<Option<String>> = sqlx::query_scalar(
                "SELECT CASE WHEN u.version = 0 THEN '0' ELSE (
                         SELECT e.balance_after::text FROM accounts a
                         JOIN entries e
                             ON e.shard = a.shard AND e.ledger_id = a.ledger_id AND e.account_id = a.account_id
                         WHERE a.ledger_id = 1 AND a.code = u.code AND e.version = u.version
                     ) END
                 FROM UNNEST($1::text[], $2::bigint[]) WITH ORDINALITY AS u (code, version, ordinality)
                 ORDER BY ordinality",
            )
            .bind(&accounts)
            .bind(&versions)
            .fetch_all(&mut *conn)
            .await
            .expect("entries can be read");
            if logged.iter().all(Option::is_some) {
                break logged;
            }
            tries += 1;
            assert!(tries < SETTLE_TRIES_MAX, "what was read is in no statement");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        for ((account, version, posted), logged) in read.iter().zip(logged) {
            assert_eq!(logged.as_ref(), Some(posted), "{account} at version {version}");
        }
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

    /// With the faults over: every request gets a definite answer, the same as
    /// before if it had one; the log has each exactly once and nothing else;
    /// and the whole ledger verifies.
    pub async fn settle_and_check(&self, database: &Database, conn: &mut PgConnection) {
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
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT idempotency_key, transaction_id::text, type FROM events WHERE idempotency_key IS NOT NULL",
        )
        .fetch_all(&mut *conn)
        .await
        .expect("the log can be read");
        self.check_log(rows);
        verify(database).await;
        self.check_reads(conn).await;
    }

    /// Each request is in the log exactly once, as it was answered.
    fn check_log(&self, rows: Vec<(String, String, String)>) {
        let asked = self.asked.lock().expect("no panic");
        assert_eq!(rows.len(), asked.len(), "as many events as requests");
        for (key, transaction, type_name) in rows {
            let answer = asked.get(&key).and_then(|asked| asked.answer.as_ref()).expect("an event that was asked for");
            assert_eq!(answer.transaction, transaction, "{key}");
            let expected = if answer.status == 201 { "transaction_posted" } else { "transaction_rejected" };
            assert_eq!(type_name, expected, "{key}");
        }
    }

    /// Requests that were definitely answered.
    pub fn answered(&self) -> usize {
        self.asked.lock().expect("no panic").values().filter(|asked| asked.answer.is_some()).count()
    }
}

/// A random payment and its key.
fn payment(random: &mut SmallRng) -> (String, Value) {
    let from = random.random_range(1..=WALLETS);
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

async fn verify(database: &Database) {
    let report = steelyard::projector::verify::verify(database, &|_, _| {}).await;
    assert!(report.is_ok(), "verify found: {report:?}");
}
