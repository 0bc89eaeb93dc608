//! A database for each test, and a worker to fill it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smallvec::smallvec;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use steelyard::clock::SystemClock;
use steelyard::cluster::worker::Options;
use steelyard::cluster::{Ledger, Status, Worker};
use steelyard::ledger::{
    AccountCode, Amount, AssetCode, Command, LedgerName, LegRequest, OpenAccount, Side, TransactionRequest,
};
use steelyard::projector::rebuild::{self, rebuild};
use steelyard::projector::verify::{Failure, Report, verify};
use steelyard::sequencer::{Answer, Item, Key, Unavailable, Work};
use steelyard::store::{self, Database};

use crate::support::Postgres;

/// How long anything may take on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A database of one test.
pub struct Scratch {
    pub database: Database,
    url: String,
}

impl Scratch {
    /// With the schema, and nothing in it.
    pub async fn empty() -> Self {
        let url = Postgres::shared().await.database().await;
        Self { database: Database::new(&url).unwrap(), url }
    }

    /// A copy of this one, which nobody may be using.
    pub async fn cloned(&self) -> Self {
        static COPIES: AtomicUsize = AtomicUsize::new(0);
        let copy = format!("copy_{}", COPIES.fetch_add(1, Ordering::Relaxed));
        let mut conn = self.connect().await;
        let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let server = Postgres::shared().await.server();
        let mut conn = PgConnection::connect(&server.url()).await.unwrap();
        let create = format!("CREATE DATABASE {copy} TEMPLATE {name}");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // Sessions on the template end a moment after their connections.
        while let Err(error) = sqlx::raw_sql(AssertSqlSafe(create.as_str())).execute(&mut conn).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let url = server.url_of(&copy);
        Self { database: Database::new(&url).unwrap(), url }
    }

    /// The same, which nobody uses from here on, so that it can be copied.
    pub async fn released(self) -> Self {
        self.database.pool().close().await;
        Self { database: Database::new(&self.url).unwrap(), url: self.url }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Runs statements that the log's guards would refuse.
    pub async fn corrupt(&self, statements: &str) {
        let mut conn = self.connect().await;
        let statements = format!("SET session_replication_role = replica; {statements}");
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    pub async fn verify(&self) -> Result<Report, Failure> {
        verify(&self.database, &|_, _| {}).await
    }

    pub async fn rebuild(&self) -> Result<rebuild::Report, rebuild::Error> {
        rebuild(&self.database, &|_, _| {}).await
    }

    pub async fn number(&self, query: &str) -> i64 {
        let mut conn = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut conn).await.unwrap()
    }

    /// A worker that serves, with few accounts in memory so that it often reads
    /// `balances`.
    pub async fn work(&self) -> Worker {
        let options = Options {
            accounts_max: 4,
            ..Options::new(self.database.clone(), "test".to_owned(), Arc::new(SystemClock))
        };
        let worker = Worker::start(options).await.unwrap();
        serving(&worker).await;
        worker
    }
}

/// Waits until the worker serves every ledger that it knows.
pub async fn serving(worker: &Worker) {
    let mut status = worker.watch_status();
    let serving = status.wait_for(|status| *status == Status::Serving);
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}

/// A ledger with accounts and every kind of event, all of it projected.
/// Positions 1 to 5 open accounts in `main`, 6 to 11 are their transactions.
pub async fn furnished() -> Scratch {
    let scratch = Scratch::empty().await;
    let mut conn = scratch.database.pool().acquire().await.unwrap();
    for name in ["main", "other"] {
        store::ledgers::create(&mut conn, &LedgerName::new(name).unwrap()).await.unwrap();
    }
    drop(conn);
    let worker = scratch.work().await;
    for name in ["main", "other"] {
        let ledger = worker.ledgers.get(name).unwrap();
        furnish(&ledger).await;
        projected(&ledger).await;
    }
    worker.stop().await;
    scratch.released().await
}

async fn furnish(ledger: &Ledger) {
    let book = [
        opening("bank", Side::Debit, None),
        opening("wallet:alice", Side::Credit, Some(0)),
        opening("wallet:bob", Side::Credit, Some(0)),
        OpenAccount { metadata: Some(Arc::from(r#"{"tier":3}"#)), ..opening("wallet:carol", Side::Credit, None) },
        OpenAccount { max_balance: Some(Some(Amount::from(1_000))), ..opening("jar", Side::Credit, None) },
    ];
    for open in book {
        submit(ledger, Command::OpenAccount(open), None).await.unwrap();
    }
    let payments = [
        ("bank", "wallet:alice", 500),
        ("wallet:alice", "wallet:bob", 120),
        // Declined: more than alice has.
        ("wallet:alice", "wallet:bob", 4_000),
        ("wallet:bob", "wallet:alice", 20),
    ];
    for (index, (from, to, amount)) in payments.into_iter().enumerate() {
        let reference = (index % 2 == 0).then(|| Arc::from(format!("invoice {index}")));
        let metadata = reference.as_ref().map(|_| Arc::from(format!(r#"{{"channel":"web","order":{index}}}"#)));
        let request = TransactionRequest { reference, metadata, ..payment(from, to, amount) };
        submit(ledger, Command::Transact(request), Some(&format!("key {index}"))).await.unwrap();
    }
    let legs = [("wallet:bob", Side::Debit, 30), ("wallet:carol", Side::Credit, 10), ("jar", Side::Credit, 20)];
    let legs = legs.map(|(code, side, amount)| LegRequest {
        account: code_of(code),
        side,
        amount: Amount::from(amount),
        asset: euro(),
    });
    let split = TransactionRequest { legs: legs.into_iter().collect(), ..payment("bank", "jar", 1) };
    submit(ledger, Command::Transact(split), Some("split")).await.unwrap();
    let commands = vec![
        Command::Transact(payment("wallet:alice", "wallet:carol", 5)),
        Command::Transact(payment("wallet:carol", "jar", 5)),
    ];
    atomic(ledger, commands, "batch").await;
    let too_much = vec![
        Command::Transact(payment("wallet:alice", "wallet:carol", 5)),
        Command::Transact(payment("wallet:bob", "jar", 50_000)),
    ];
    atomic(ledger, too_much, "declined batch").await;
    submit(ledger, Command::DefineAsset { code: AssetCode::new("GOLD").unwrap(), scale: 3 }, None).await.unwrap();
}

/// Waits until the projections have all that was committed.
pub async fn projected(ledger: &Ledger) {
    let reached = ledger.checkpoints.reached(ledger.tail.head());
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
}

pub fn opening(code: &str, normal: Side, floor: Option<u64>) -> OpenAccount {
    OpenAccount {
        code: code_of(code),
        asset: euro(),
        normal: Some(normal),
        min_balance: Some(floor.map(Amount::from)),
        max_balance: None,
        metadata: None,
    }
}

pub fn payment(from: &str, to: &str, amount: u64) -> TransactionRequest {
    TransactionRequest::payment(code_of(from), code_of(to), Amount::from(amount), euro())
}

pub fn code_of(text: &str) -> AccountCode {
    AccountCode::new(text).unwrap()
}

pub fn euro() -> AssetCode {
    AssetCode::new("EUR").unwrap()
}

pub fn key_of(text: &str) -> Key {
    Key { text: Arc::from(text), hash: store::keys::hash(text), fingerprint: store::keys::hash(text) }
}

pub async fn submit(ledger: &Ledger, command: Command, key: Option<&str>) -> Result<Answer, Unavailable> {
    let work = Work::Each(smallvec![Item { command, key: key.map(key_of) }]);
    ledger.handle.submit(work, tokio::time::Instant::now() + PATIENCE).await
}

async fn atomic(ledger: &Ledger, commands: Vec<Command>, key: &str) {
    let work = Work::Atomic { commands, key: key_of(key) };
    ledger.handle.submit(work, tokio::time::Instant::now() + PATIENCE).await.unwrap();
}
