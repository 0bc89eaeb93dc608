//! The sequencer, the store and the claims on a real PostgreSQL.

mod codec;
mod due;
mod fencing;
mod keys;
mod load;
mod plans;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod traps;
mod velocity;

use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;
use steelyard::clock::{Clock, SystemClock};
use steelyard::cluster::{Ledger, Status, Worker, worker};
use steelyard::ledger::{AccountCode, Amount, AssetCode, Command, OpenAccount, TransactionRequest};
use steelyard::sequencer::{Answer, Item, Key, Unavailable, Work};
use steelyard::store::{Database, keys as store_keys};
use tokio::time::Instant;

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A worker on a database of its own, serving.
async fn worker(url: &str) -> Worker {
    worker_with(url, Arc::new(SystemClock), 50_000).await
}

/// The same by another clock, and with fewer accounts in memory.
async fn worker_with(url: &str, clock: Arc<dyn Clock>, accounts_max: usize) -> Worker {
    let worker = joining(url, clock, accounts_max).await;
    serving(&worker).await;
    worker
}

/// One that may have to wait for what another one holds.
async fn joining(url: &str, clock: Arc<dyn Clock>, accounts_max: usize) -> Worker {
    let database = Database::new(url).expect("a URL");
    let options = worker::Options::new(database, "http://127.0.0.1:0".to_owned(), clock);
    Worker::start(worker::Options { accounts_max, ..options }).await.expect("the worker starts")
}

async fn serving(worker: &Worker) {
    let mut status = worker.watch_status();
    let serving = status.wait_for(|status| *status == Status::Serving);
    tokio::time::timeout(PATIENCE, serving).await.expect("it serves in time").expect("the worker lives");
}

fn main_ledger(worker: &Worker) -> Arc<Ledger> {
    worker.ledgers.get("main").expect("main exists")
}

fn code(text: &str) -> AccountCode {
    AccountCode::new(text).expect("a code")
}

fn eur() -> AssetCode {
    AssetCode::new("EUR").expect("a code")
}

fn key(text: &str) -> Key {
    Key { text: Arc::from(text), hash: store_keys::hash(text), fingerprint: [7; 16] }
}

fn open(name: &str, floor: Option<Amount>) -> Item {
    let command = Command::OpenAccount(OpenAccount {
        code: code(name),
        asset: eur(),
        normal: None,
        min_balance: Some(floor),
        max_balance: None,
        metadata: None,
    });
    Item { command, key: None }
}

fn payment(from: &str, to: &str, amount: u64, key_text: &str) -> Item {
    let request = TransactionRequest::payment(code(from), code(to), Amount::from(amount), eur());
    Item { command: Command::Transact(request), key: Some(key(key_text)) }
}

async fn submit(ledger: &Ledger, item: Item) -> Result<Answer, Unavailable> {
    ledger.handle.submit(Work::Each(smallvec![item]), Instant::now() + PATIENCE).await
}

/// Accounts `bank` (no floor), `a` and `b`.
async fn open_accounts(ledger: &Ledger) {
    for (name, floor) in [("bank", None), ("a", Some(Amount::ZERO)), ("b", Some(Amount::ZERO))] {
        submit(ledger, open(name, floor)).await.expect("the account is opened");
    }
}
