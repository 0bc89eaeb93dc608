//! How fast a rebuild and a verification are. Run in release, alone:
//!
//! ```text
//! cargo test --release --test projection -- --ignored --nocapture speed
//! ```

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Duration, Utc};
use steelyard::clock::IdSource;
use steelyard::ledger::decide::event;
use steelyard::ledger::{Asset, Book, Command, Event, LedgerName, Moment, Side, TransactionRequest, Verdict, decide};
use steelyard::projector::fold::Fold;
use steelyard::store::events::KeyRow;
use steelyard::store::projections::Step;
use steelyard::store::{Connection, Database};
use steelyard::{store, store::LedgerId};

use crate::fixture::{Scratch, euro, opening, payment};

pub const ACCOUNTS: u64 = 10_000;
const BATCH: usize = 5_000;

/// Payments in the log: `STEELYARD_SPEED_EVENTS`, or a million.
fn payments() -> u64 {
    std::env::var("STEELYARD_SPEED_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; for measuring"]
async fn speed_of_rebuild_and_verify() {
    let scratch = Scratch::empty().await;
    let started = Instant::now();
    fill(&scratch.database).await;
    println!("made the log in {:.1} s", started.elapsed().as_secs_f64());
    for _ in 0..3 {
        let report = scratch.rebuild().await.unwrap();
        println!("rebuild: {:.0} events/s, {report:?}", report.events as f64 / report.seconds);
        let report = scratch.verify().await.unwrap();
        println!("verify: {:.0} events/s, {report:?}", report.events as f64 / report.seconds);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for measuring"]
async fn speed_of_a_flush() {
    const FLUSH: u64 = 20_000;
    let scratch = Scratch::empty().await;
    fill_with(&scratch.database, 8 * FLUSH).await;
    let mut conn = scratch.database.connect_serving().await.unwrap();
    let mut seconds = Vec::new();
    let head = ACCOUNTS + 8 * FLUSH;
    let mut after = 0;
    while after < head {
        let to = head.min(after + if after == 0 { ACCOUNTS } else { FLUSH });
        let log = store::events::read_events(&mut conn, 1, after, (to - after) as i64).await.unwrap();
        let from = vec![Some(after); 64];
        let mut fold = Fold::new(1, 64, &from, 1);
        log.iter().for_each(|event| fold.add(event));
        let flush = fold.finish().remove(0);
        let steps: Vec<Step> = (0..64).map(|shard| Step { shard, epoch: 0, from: after }).collect();
        let started = Instant::now();
        let flushed = store::projections::flush(&mut conn, 1, &steps, to, &flush).await.unwrap();
        seconds.push(started.elapsed().as_secs_f64());
        assert_eq!((flushed.advanced.len(), flushed.faults), (64, 0));
        after = to;
    }
    println!("flushes of {FLUSH} events after the first of {ACCOUNTS} accounts: {seconds:.3?} s");
}

async fn fill(database: &Database) {
    fill_with(database, payments()).await;
}

/// A log of two-leg payments between [`ACCOUNTS`] accounts, as the sequencer would
/// have written it.
pub async fn fill_with(database: &Database, payments: u64) {
    let mut conn = database.connect_serving().await.unwrap();
    let (ledger_id, _) = store::ledgers::create(&mut conn, &LedgerName::new("main").unwrap()).await.unwrap();
    let mut writer = Writer::new(conn, ledger_id);
    for index in 0..ACCOUNTS {
        writer.record(&Command::OpenAccount(opening(&format!("wallet:{index:06}"), Side::Credit, None))).await;
    }
    let mut random: u64 = 7;
    for index in 0..payments {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (from, to) = ((random >> 33) % ACCOUNTS, (random >> 20) % ACCOUNTS);
        let to = if to == from { (to + 1) % ACCOUNTS } else { to };
        let request = payment(&format!("wallet:{from:06}"), &format!("wallet:{to:06}"), 1 + (random >> 40) % 100_000);
        let reference = (index % 4 == 0).then(|| Arc::from(format!("order-{index}")));
        writer.record(&Command::Transact(TransactionRequest { reference, ..request })).await;
    }
    writer.append().await;
}

struct Writer {
    conn: Connection,
    ledger_id: LedgerId,
    book: Book,
    ids: IdSource,
    now: DateTime<Utc>,
    position: u64,
    events: Vec<Event>,
    keys: Vec<KeyRow>,
}

impl Writer {
    fn new(conn: Connection, ledger_id: LedgerId) -> Self {
        let mut book = Book::default();
        let Asset { code, scale } = Asset { code: euro(), scale: 2 };
        book.load_asset(code, scale);
        Self {
            conn,
            ledger_id,
            book,
            ids: IdSource::seeded(1),
            now: DateTime::from_timestamp(1_790_000_000, 0).unwrap(),
            position: 0,
            events: Vec::new(),
            keys: Vec::new(),
        }
    }

    async fn record(&mut self, command: &Command) {
        self.position += 1;
        self.now += Duration::microseconds(37);
        let at = Moment { position: self.position, recorded_at: self.now, transaction_id: self.ids.next(self.now) };
        let Verdict::Record(fact) = decide(&self.book, command, &at) else { panic!("{command:?}") };
        let key = matches!(command, Command::Transact(_)).then(|| format!("order-{:012}", self.position));
        if let Some(key) = &key {
            let hash = store::keys::hash(key);
            self.keys.push(KeyRow { key_hash: hash, fingerprint: hash, position: self.position, event_count: 1 });
        }
        let event = event(&self.book, command, fact, key.map(Arc::from), &at);
        self.book.apply(&event).unwrap();
        self.events.push(event);
        if self.events.len() == BATCH {
            self.append().await;
        }
    }

    async fn append(&mut self) {
        store::events::append(&mut self.conn, self.ledger_id, 0, &self.events, &self.keys).await.unwrap();
        self.events.clear();
        self.keys.clear();
        self.book.settle(self.book.mark());
    }
}
