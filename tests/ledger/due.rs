//! What happens by itself, at its moment: holds expire, scheduled transactions are
//! posted or rejected. By a clock that the test sets.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use smallvec::smallvec;
use steelyard::clock::ManualClock;
use steelyard::cluster::{Ledger, Worker};
use steelyard::ledger::{
    Account, Amount, Cancel, Capture, Command, Event, Expiry, Fact, HoldState, Kind, LegRequest, Notes, Origin, Part,
    Refusal, Rejection, Reverse, Side, Terms, TransactionRequest, Void,
};
use steelyard::sequencer::{Answer, Item, Outcome, Unavailable, Work};
use steelyard::store::{Database, events};
use tokio::time::Instant;
use uuid::Uuid;

use super::{PATIENCE, code, eur, joining, key, main_ledger, open, open_accounts, payment, submit, worker_with};
use crate::support::{Postgres, eventually};

/// The beginning of all of them.
const START: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).unwrap();

/// A worker on a database of its own with `bank` (no floor), `a` and `b`, and its clock.
struct Bench {
    url: String,
    clock: Arc<ManualClock>,
    worker: Worker,
    ledger: Arc<Ledger>,
}

impl Bench {
    async fn start() -> Self {
        let url = Postgres::shared().await.database().await;
        let clock = Arc::new(ManualClock::new(START));
        let worker = worker_with(&url, clock.clone(), 50_000).await;
        let ledger = main_ledger(&worker);
        open_accounts(&ledger).await;
        Self { url, clock, worker, ledger }
    }

    /// Another worker takes over from the one that has stopped.
    async fn restart(self) -> Self {
        self.worker.stop().await;
        self.resume().await
    }

    async fn resume(self) -> Self {
        let worker = worker_with(&self.url, self.clock.clone(), 50_000).await;
        let ledger = main_ledger(&worker);
        Self { worker, ledger, ..self }
    }

    fn at(&self, seconds: i64) {
        self.clock.set(after(seconds));
    }

    async fn submit(&self, item: Item) -> Answer {
        submit(&self.ledger, item).await.expect("an answer")
    }

    /// Moves funds from the bank.
    async fn fund(&self, account: &str, amount: u64) {
        self.submit(payment("bank", account, amount, &format!("fund {account} {amount}"))).await;
    }

    async fn hold(&self, from: &str, to: &str, amount: u64, expires: i64, key: &str) -> Uuid {
        let answer = self.submit(hold(from, to, amount, after(expires), key)).await;
        id(&answer, "transaction_authorised")
    }

    async fn schedule(&self, from: &str, to: &str, amount: u64, effective: i64, key: &str) -> Uuid {
        let answer = self.submit(scheduled(from, to, amount, after(effective), key)).await;
        id(&answer, "transaction_scheduled")
    }

    async fn read(&self, name: &str) -> Account {
        let work = Work::ReadAccount(code(name));
        let answer = self.ledger.handle.submit(work, Instant::now() + PATIENCE).await.unwrap();
        let Outcome::Account(Some(account)) = &answer.outcomes[0] else { panic!("{name}: {answer:?}") };
        Account::clone(account)
    }

    async fn log(&self) -> Vec<Event> {
        log(&self.url).await
    }

    /// Waits until the log has so many events of a type.
    async fn eventually(&self, type_name: &str, count: usize) {
        let mut conn = self.worker.database.connect_owner().await.unwrap();
        eventually(&format!("{count} times {type_name}"), async || {
            let found: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE type = $1")
                .bind(type_name)
                .fetch_one(&mut conn)
                .await
                .unwrap();
            found as usize >= count
        })
        .await;
    }

    /// Waits until all that is in the log is in the projections.
    async fn projected(&self) {
        let head = self.ledger.tail.head();
        tokio::time::timeout(PATIENCE, self.ledger.checkpoints.reached(head)).await.expect("it is projected");
    }
}

async fn log(url: &str) -> Vec<Event> {
    let mut conn = Database::new(url).unwrap().connect_owner().await.unwrap();
    events::read_events(&mut conn, 1, 0, 100_000).await.unwrap()
}

fn after(seconds: i64) -> DateTime<Utc> {
    START + TimeDelta::seconds(seconds)
}

fn hold(from: &str, to: &str, amount: u64, expires_at: DateTime<Utc>, key_text: &str) -> Item {
    let request = TransactionRequest::payment(code(from), code(to), Amount::from(amount), eur());
    let terms = Some(Box::new(Terms { hold: Some(Expiry::At(expires_at)), ..Terms::default() }));
    Item { command: Command::Transact(TransactionRequest { terms, ..request }), key: Some(key(key_text)) }
}

fn scheduled(from: &str, to: &str, amount: u64, effective_at: DateTime<Utc>, key_text: &str) -> Item {
    let request = TransactionRequest::payment(code(from), code(to), Amount::from(amount), eur());
    let effective_at = Some(effective_at);
    Item { command: Command::Transact(TransactionRequest { effective_at, ..request }), key: Some(key(key_text)) }
}

fn capture(payment: Uuid, amount: Option<u64>, key_text: &str) -> Item {
    let amount = amount.map(Amount::from);
    let capture = Capture { payment, amount, last: false, notes: Notes::default() };
    Item { command: Command::Capture(capture), key: Some(key(key_text)) }
}

fn void(payment: Uuid, key_text: &str) -> Item {
    Item { command: Command::Void(Void { payment }), key: Some(key(key_text)) }
}

/// The event that answers a request of one command.
fn recorded(answer: &Answer) -> &Event {
    let Outcome::Recorded { index, .. } = answer.outcomes[0] else { panic!("nothing was recorded: {answer:?}") };
    &answer.batch.events[index]
}

fn id(answer: &Answer, type_name: &str) -> Uuid {
    let event = recorded(answer);
    assert_eq!(event.fact.type_name(), type_name, "{event:?}");
    event.transaction_id.expect("a transaction has an id")
}

fn types(log: &[Event]) -> Vec<&'static str> {
    log.iter().map(|event| event.fact.type_name()).collect()
}

fn posted(account: &Account) -> i128 {
    account.balance.posted(account.normal).get()
}

fn pending_out(account: &Account) -> i128 {
    account.balance.pending_out(account.normal).get()
}

/// One microsecond before, its funds are reserved. From its moment on they are not,
/// whoever looks: a payment, a capture, a void, a read.
#[tokio::test]
async fn a_hold_expires_exactly_and_before_what_would_see_its_funds() {
    let bench = Bench::start().await;
    bench.fund("a", 100).await;
    let expires = after(60);
    let first = bench.hold("a", "b", 60, 60, "h1").await;
    let second = bench.hold("a", "b", 40, 60, "h2").await;
    bench.submit(capture(second, Some(15), "c1")).await;
    bench.clock.set(expires - TimeDelta::microseconds(1));
    let early = bench.submit(payment("a", "b", 1, "early")).await;
    assert_eq!(recorded(&early).fact.type_name(), "transaction_rejected");
    assert_eq!(pending_out(&bench.read("a").await), 85);

    bench.clock.set(expires);
    let (paid, captured, voided, read) = tokio::join!(
        bench.submit(payment("a", "b", 85, "late")),
        bench.submit(capture(first, None, "c2")),
        bench.submit(void(second, "v")),
        bench.read("a"),
    );
    assert_eq!(recorded(&paid).fact.type_name(), "transaction_posted");
    for (answer, hold) in [(&captured, first), (&voided, second)] {
        let Fact::TransactionRejected(rejected) = &recorded(answer).fact else { panic!("{answer:?}") };
        assert!(matches!(rejected.reason, Rejection::HoldNotOpen { state: HoldState::Expired, .. }), "{rejected:?}");
        assert_eq!(rejected.request.terms.as_ref().unwrap().of, Some(hold));
    }
    assert_eq!((posted(&read), pending_out(&read)), (0, 0));

    let log = bench.log().await;
    let expired: Vec<&Event> = log.iter().filter(|event| event.fact.type_name() == "hold_expired").collect();
    assert_eq!(expired.iter().map(|event| event.transaction_id).collect::<Vec<_>>(), [Some(first), Some(second)]);
    for (event, amount) in expired.iter().zip([60, 25]) {
        assert_eq!((event.effective_at, event.recorded_at, &event.idempotency_key), (expires, expires, &None));
        assert!(event.fact.legs().iter().all(|leg| leg.amount == Amount::from(amount)));
    }
    // In the log they are before everything that relies on them.
    assert_eq!(types(&log)[8..10], ["hold_expired", "hold_expired"], "{:?}", types(&log));
    bench.worker.stop().await;
}

#[tokio::test]
async fn what_is_due_happens_when_no_request_comes() {
    let bench = Bench::start().await;
    bench.fund("a", 100).await;
    bench.hold("a", "b", 60, 60, "h").await;
    bench.schedule("a", "b", 30, 90, "s").await;
    bench.at(60);
    bench.eventually("hold_expired", 1).await;
    bench.at(91);
    bench.eventually("transaction_posted", 2).await;
    let log = bench.log().await;
    let last = log.last().unwrap();
    // It is recorded when it is decided, and effective when it was to be.
    assert_eq!((last.effective_at, last.recorded_at), (after(90), after(91)));
    let Fact::TransactionPosted(transaction) = &last.fact else { panic!("{last:?}") };
    assert!(matches!(transaction.more.as_ref().unwrap().origin, Some(Origin::Schedule { position: 6 })));
    assert_eq!((posted(&bench.read("a").await), posted(&bench.read("b").await)), (70, 30));
    bench.worker.stop().await;
}

/// A chain over accounts: the read of its end brings about all of it, in the order of
/// the moments, and of one moment in the order in which they were scheduled.
#[tokio::test]
async fn scheduled_transactions_go_in_the_order_of_their_moments() {
    let bench = Bench::start().await;
    for name in ["c", "d", "e"] {
        bench.submit(open(name, Some(Amount::ZERO))).await;
    }
    bench.schedule("c", "d", 100, 30, "third").await;
    bench.schedule("b", "c", 100, 20, "second").await;
    bench.schedule("a", "b", 100, 20, "too early").await;
    bench.schedule("a", "b", 100, 20, "too early again").await;
    bench.schedule("bank", "a", 100, 20, "first, too late for those above").await;
    bench.schedule("bank", "b", 100, 10, "before").await;
    // It holds the funds that the fourth would need until that is due.
    bench.schedule("bank", "e", 50, 25, "funds").await;
    bench.fund("e", 10).await;
    bench.hold("e", "d", 10, 40, "held").await;
    bench.schedule("e", "d", 60, 40, "after the hold").await;
    bench.at(100);
    let end = bench.read("d").await;
    assert_eq!(posted(&end), 160);
    assert_eq!(posted(&bench.read("a").await), 100);
    bench.eventually("transaction_rejected", 2).await;
    let log = bench.log().await;
    let decided: Vec<(&str, &str)> = log
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::TransactionPosted(posted) if posted.more.is_some() => {
                Some((posted.legs[0].account.as_str(), "posted"))
            }
            Fact::TransactionRejected(rejected) => {
                assert!(rejected.scheduled.is_some());
                Some((rejected.request.legs[0].account.as_str(), "rejected"))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        decided,
        [
            ("bank", "posted"),
            ("b", "posted"),
            ("a", "rejected"),
            ("a", "rejected"),
            ("bank", "posted"),
            ("bank", "posted"),
            ("c", "posted"),
            ("e", "posted"),
        ]
    );
    bench.worker.stop().await;
}

/// At its moment the funds are still reserved, although whoever asks first asks about
/// the hold's other account, and so much is due elsewhere that it has to wait.
#[tokio::test]
async fn a_hold_that_expires_later_is_no_help_to_a_scheduled_transaction() {
    let bench = Bench::start().await;
    for name in ["c", "d"] {
        bench.submit(open(name, Some(Amount::ZERO))).await;
    }
    bench.fund("a", 10).await;
    bench.fund("c", 3_500).await;
    let holds = Work::Each((0..3_500).map(|n| hold("c", "d", 1, after(59), &format!("h{n}"))).collect());
    bench.ledger.handle.submit(holds, Instant::now() + PATIENCE).await.unwrap();
    bench.hold("a", "b", 10, 61, "h").await;
    bench.schedule("a", "bank", 10, 60, "s").await;
    bench.at(120);
    let read = bench.read("b").await;
    assert_eq!(read.balance.pending_in(read.normal), Amount::ZERO);
    let log = bench.log().await;
    let rejected = log.iter().position(|event| event.fact.type_name() == "transaction_rejected");
    let released = |event: &Event| event.fact.legs().iter().any(|leg| leg.account == code("b"));
    assert!(rejected.is_some_and(|at| log.iter().rposition(released).is_some_and(|last| at < last)), "{rejected:?}");
    bench.worker.stop().await;
}

/// What waits is in the log and in the projections, and in nobody's memory alone.
#[tokio::test]
async fn what_was_due_meanwhile_happens_after_a_restart() {
    for projected in [true, false] {
        let bench = Bench::start().await;
        bench.fund("a", 100).await;
        let part = bench.hold("a", "b", 60, 60, "part").await;
        let gone = bench.hold("a", "b", 10, 60, "gone").await;
        let cancelled = bench.schedule("a", "b", 5, 60, "cancelled").await;
        bench.schedule("a", "b", 40, 70, "posted").await;
        bench.schedule("a", "b", 70, 80, "rejected").await;
        if projected {
            bench.projected().await;
        }
        bench.submit(capture(part, Some(20), "c")).await;
        bench.submit(void(gone, "v")).await;
        let cancel = Command::Cancel(Cancel { transaction: cancelled });
        bench.submit(Item { command: cancel, key: None }).await;
        let bench = bench.restart().await;
        // Before, it is as it was.
        assert_eq!(pending_out(&bench.read("a").await), 40);
        bench.worker.stop().await;
        bench.at(90);
        let bench = bench.resume().await;
        bench.eventually("transaction_rejected", 1).await;
        let log = bench.log().await;
        assert_eq!(types(&log)[12..], ["hold_expired", "transaction_posted", "transaction_rejected"]);
        let a = bench.read("a").await;
        assert_eq!((posted(&a), pending_out(&a)), (40, 0));
        // What has ended is known from the log alone.
        let late = bench.submit(capture(part, None, "late")).await;
        let Fact::TransactionRejected(rejected) = &recorded(&late).fact else { panic!("{late:?}") };
        assert!(matches!(rejected.reason, Rejection::HoldNotOpen { state: HoldState::Expired, .. }));
        bench.worker.stop().await;
    }
}

/// The next holder has read ahead, and payments flow over.
#[tokio::test]
async fn what_is_due_during_a_hand_over_happens_once() {
    let first = Bench::start().await;
    first.fund("a", 10_000).await;
    let holds = (0..200).map(|n| hold("a", "b", 10, after(60 + n % 3), &format!("h{n}"))).collect();
    first.ledger.handle.submit(Work::Each(holds), Instant::now() + PATIENCE).await.unwrap();
    let second = joining(&first.url, first.clock.clone(), 50_000).await;
    let ledger = main_ledger(&second);
    let ((), ()) = tokio::join!(first.worker.stop(), async {
        for second in [60, 61, 62] {
            first.at(second);
            let paid = submit(&ledger, payment("a", "b", 10, &format!("p{second}"))).await.unwrap();
            assert_eq!(recorded(&paid).fact.type_name(), "transaction_posted");
        }
    });
    let answer = ledger.handle.submit(Work::ReadAccount(code("a")), Instant::now() + PATIENCE).await.unwrap();
    let Outcome::Account(Some(a)) = &answer.outcomes[0] else { panic!("{answer:?}") };
    assert_eq!((posted(a), pending_out(a)), (10_000 - 30, 0));
    let log = log(&first.url).await;
    assert_eq!(log.iter().filter(|event| event.fact.type_name() == "hold_expired").count(), 200);
    second.stop().await;
}

/// Their accounts are fetched, ahead or in the nick of time, and then they happen.
#[tokio::test]
async fn what_is_due_on_accounts_that_memory_let_go_happens_too() {
    let bench = Bench::start().await;
    bench.worker.stop().await;
    let worker = worker_with(&bench.url, bench.clock.clone(), 50).await;
    let ledger = main_ledger(&worker);
    let bench = Bench { worker, ledger, ..bench };
    let names: Vec<String> = (0..500).map(|n| format!("w:{n}")).collect();
    let each = |items| bench.ledger.handle.submit(Work::Each(items), Instant::now() + PATIENCE);
    each(names.iter().map(|name| open(name, Some(Amount::ZERO))).collect()).await.unwrap();
    each(names.iter().map(|name| payment("bank", name, 10, &format!("f {name}"))).collect()).await.unwrap();
    each(names.iter().map(|name| hold(name, "b", 10, after(600), &format!("h {name}"))).collect()).await.unwrap();
    each(names.iter().map(|name| scheduled(name, "b", 10, after(601), &format!("s {name}"))).collect()).await.unwrap();
    // Commits after the projections let the accounts go.
    for n in 0..20 {
        bench.projected().await;
        bench.submit(payment("bank", "a", 1, &format!("evict {n}"))).await;
    }
    // Not one of them is looked ahead at: the clock jumps.
    bench.at(600);
    let paid = bench.submit(payment("w:7", "w:8", 10, "all of it")).await;
    assert_eq!(recorded(&paid).fact.type_name(), "transaction_posted");
    bench.eventually("hold_expired", 500).await;
    bench.at(1_000);
    bench.eventually("transaction_posted", 500 + 20 + 1 + 499).await;
    let rejected: Vec<Event> =
        bench.log().await.into_iter().filter(|event| event.fact.type_name() == "transaction_rejected").collect();
    assert!(
        matches!(&rejected[..], [Event { fact: Fact::TransactionRejected(rejected), .. }]
        if rejected.request.legs[0].account == code("w:7")),
        "{rejected:?}"
    );
    assert_eq!(posted(&bench.read("b").await), 4_990);
    bench.worker.stop().await;
}

/// More is due on one account than goes into one batch: who needs it waits, and
/// nobody else.
#[tokio::test]
async fn a_busy_account_waits_for_what_is_due_on_it_and_others_do_not() {
    let bench = Bench::start().await;
    bench.fund("a", 3_500).await;
    bench.submit(open("c", Some(Amount::ZERO))).await;
    let holds = Work::Each((0..3_500).map(|n| hold("a", "b", 1, after(60), &format!("h{n}"))).collect());
    bench.ledger.handle.submit(holds, Instant::now() + PATIENCE).await.unwrap();
    bench.at(60);
    let (needs_it, other, in_order) = tokio::join!(
        bench.submit(payment("a", "c", 3_500, "all")),
        bench.submit(payment("bank", "c", 1, "other")),
        // An ordered request does not overtake one that waits.
        async {
            let work =
                |item| bench.ledger.handle.submit_in_order(Work::Each(smallvec![item]), Instant::now() + PATIENCE);
            let (first, second) =
                tokio::join!(work(payment("bank", "a", 1, "first")), work(payment("bank", "c", 1, "second")));
            (first.unwrap(), second.unwrap())
        }
    );
    let log = bench.log().await;
    let expired: Vec<u64> =
        log.iter().filter(|event| event.fact.type_name() == "hold_expired").map(|event| event.position).collect();
    assert_eq!(expired.len(), 3_500);
    let last = expired[3_499];
    assert_eq!(recorded(&needs_it).fact.type_name(), "transaction_posted");
    assert!(recorded(&needs_it).position > last);
    assert!(recorded(&other).position < last, "{} is behind {last}", recorded(&other).position);
    assert!(recorded(&in_order.0).position < recorded(&in_order.1).position);
    bench.worker.stop().await;
}

/// The last that is due is settled by a large request that came later, and nothing is
/// left that anybody would wake up for. Who waited does not wait any longer for that.
#[tokio::test]
async fn who_waits_behind_the_last_that_is_due_goes_on_when_another_request_has_settled_it() {
    let bench = Bench::start().await;
    bench.fund("a", 2_500).await;
    bench.submit(open("c", Some(Amount::ZERO))).await;
    let holds = Work::Each((0..2_500).map(|n| hold("a", "b", 1, after(60), &format!("h{n}"))).collect());
    bench.ledger.handle.submit(holds, Instant::now() + PATIENCE).await.unwrap();
    let large = Work::Each((0..2_000).map(|n| payment("bank", "b", 1, &format!("l{n}"))).collect());
    // Both are in the queue when the sequencer looks. It settles a slice, and the 1,500
    // that are left are too many for the one and not for the other.
    bench.at(60);
    let waited = bench.submit(payment("a", "c", 2_500, "waits"));
    let others = async {
        let large = bench.ledger.handle.submit(large, Instant::now() + PATIENCE).await.unwrap();
        (large, bench.submit(payment("bank", "c", 1, "later")).await)
    };
    let both = async { tokio::join!(waited, others) };
    let (waited, (large, later)) = tokio::time::timeout(PATIENCE, both).await.expect("all are answered");
    assert_eq!(recorded(&waited).fact.type_name(), "transaction_posted");
    let log = bench.log().await;
    let expired: Vec<u64> =
        log.iter().filter(|event| event.fact.type_name() == "hold_expired").map(|event| event.position).collect();
    let first_of_large = recorded(&Answer { outcomes: large.outcomes[..1].into(), ..large.clone() }).position;
    assert_eq!((expired.len(), expired[2_499] + 1), (2_500, first_of_large), "the large one has settled the last");
    assert!(recorded(&waited).position > large.position, "it has not been decided before");
    assert!(recorded(&waited).position < recorded(&later).position, "it has waited for nothing else");
    bench.worker.stop().await;
}

/// A request does not wait longer than it says.
#[tokio::test]
async fn who_waits_for_what_is_due_keeps_the_deadline() {
    let bench = Bench::start().await;
    bench.fund("a", 3_500).await;
    let holds = Work::Each((0..3_500).map(|n| hold("a", "b", 1, after(60), &format!("h{n}"))).collect());
    bench.ledger.handle.submit(holds, Instant::now() + PATIENCE).await.unwrap();
    let mut conn = bench.worker.database.connect_owner().await.unwrap();
    let outage = "CREATE FUNCTION outage() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'an outage' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER outage BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION outage();";
    sqlx::raw_sql(outage).execute(&mut conn).await.unwrap();
    bench.at(60);
    let work = Work::Each(smallvec![payment("a", "b", 3_500, "hasty")]);
    let hasty = bench.ledger.handle.submit(work, Instant::now() + Duration::from_millis(300)).await;
    assert!(matches!(hasty, Err(Unavailable::TimedOut)), "{hasty:?}");
    sqlx::raw_sql("DROP TRIGGER outage ON events").execute(&mut conn).await.unwrap();
    bench.eventually("hold_expired", 3_500).await;
    let log = bench.log().await;
    assert!(!log.iter().any(|event| event.idempotency_key.as_deref() == Some("hasty")));
    bench.worker.stop().await;
}

#[tokio::test]
async fn a_period_is_closed_when_nothing_is_due_in_it() {
    let bench = Bench::start().await;
    bench.fund("a", 3_000).await;
    let items = (0..2_500).map(|n| scheduled("a", "b", 1, after(60), &format!("s{n}"))).collect();
    bench.ledger.handle.submit(Work::Each(items), Instant::now() + PATIENCE).await.unwrap();
    bench.at(120);
    let closed = bench.submit(Item { command: Command::ClosePeriod { before: after(100) }, key: None }).await;
    assert_eq!(recorded(&closed).fact, Fact::PeriodClosed { before: after(100) });
    let log = bench.log().await;
    let in_it =
        log.iter().filter(|event| matches!(&event.fact, Fact::TransactionPosted(posted) if posted.more.is_some()));
    let positions: Vec<u64> = in_it.map(|event| event.position).collect();
    assert_eq!(positions.len(), 2_500);
    assert!(positions.last() < Some(&recorded(&closed).position));
    // It holds after a restart.
    let bench = bench.restart().await;
    let late = bench.submit(scheduled("a", "b", 1, after(99), "late")).await;
    let Fact::TransactionRejected(rejected) = &recorded(&late).fact else { panic!("{late:?}") };
    assert_eq!(rejected.reason, Rejection::PeriodClosed { account: code("a"), before: after(100) });
    bench.worker.stop().await;
}

/// An event that PostgreSQL refuses for good stops neither what else is due nor
/// anybody's request.
#[tokio::test]
async fn what_postgresql_refuses_to_settle_is_set_aside() {
    let bench = Bench::start().await;
    bench.fund("a", 1_000).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(bench.hold("a", "b", 10, 60, &format!("h{n}")).await);
    }
    let mut conn = bench.worker.database.connect_owner().await.unwrap();
    let poison = format!(
        "ALTER TABLE events ADD CONSTRAINT poison CHECK (type <> 'hold_expired' OR transaction_id NOT IN ('{}', '{}'))",
        ids[0], ids[13]
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(poison)).execute(&mut conn).await.unwrap();
    bench.at(60);
    let requests = (0..5).map(|n| bench.submit(payment("a", "b", 10, &format!("p{n}"))));
    for answer in join_all(requests).await {
        assert_eq!(recorded(&answer).fact.type_name(), "transaction_posted");
    }
    bench.eventually("hold_expired", 18).await;
    let a = bench.read("a").await;
    assert_eq!((posted(&a), pending_out(&a)), (950, 20));
    // Who knows better can end it.
    let voided = bench.submit(void(ids[13], "v")).await;
    assert_eq!(recorded(&voided).fact.type_name(), "hold_voided");
    // The next worker tries again.
    sqlx::raw_sql("ALTER TABLE events DROP CONSTRAINT poison").execute(&mut conn).await.unwrap();
    let bench = bench.restart().await;
    bench.eventually("hold_expired", 19).await;
    assert_eq!(pending_out(&bench.read("a").await), 0);
    bench.worker.stop().await;
}

/// A request that PostgreSQL refuses is found among what was settled with it.
#[tokio::test]
async fn a_refused_request_does_not_stop_what_is_due() {
    let bench = Bench::start().await;
    bench.fund("a", 1_000).await;
    for n in 0..10 {
        bench.hold("a", "b", 10, 60, &format!("h{n}")).await;
    }
    let mut conn = bench.worker.database.connect_owner().await.unwrap();
    sqlx::query("ALTER TABLE events ADD CONSTRAINT poison CHECK (idempotency_key <> 'poison')")
        .execute(&mut conn)
        .await
        .unwrap();
    bench.at(60);
    let requests = ["k1", "poison", "k2"].map(|key| submit(&bench.ledger, payment("a", "b", 1, key)));
    let answers = join_all(requests).await;
    assert!(matches!(answers[1], Err(Unavailable::Defect)), "{answers:?}");
    for index in [0, 2] {
        assert_eq!(recorded(answers[index].as_ref().unwrap()).fact.type_name(), "transaction_posted");
    }
    bench.eventually("hold_expired", 10).await;
    assert_eq!(pending_out(&bench.read("a").await), 0);
    bench.worker.stop().await;
}

/// A defect in one of them: the engine starts over once, and not for ever.
#[tokio::test]
async fn what_panics_when_it_is_settled_is_set_aside() {
    let bench = Bench::start().await;
    bench.fund("a", 100).await;
    bench.hold("a", "b", 10, 60, "fine").await;
    let broken = bench.hold("a", "b", 10, 60, "broken").await;
    bench.hold("a", "b", 10, 60, "fine too").await;
    bench.projected().await;
    let (url, clock) = (bench.url.clone(), Arc::clone(&bench.clock));
    bench.worker.stop().await;
    // It would give back more than is reserved.
    let mut conn = Database::new(&url).unwrap().connect_owner().await.unwrap();
    let damage = "UPDATE holds SET remaining = 1000 WHERE transaction_id = $1";
    assert_eq!(sqlx::query(damage).bind(broken).execute(&mut conn).await.unwrap().rows_affected(), 1);
    clock.set(after(60));
    let worker = worker_with(&url, clock.clone(), 50_000).await;
    let ledger = main_ledger(&worker);
    let bench = Bench { url, clock, worker, ledger };
    bench.eventually("hold_expired", 2).await;
    let paid = bench.submit(payment("a", "b", 90, "p")).await;
    assert_eq!(recorded(&paid).fact.type_name(), "transaction_posted");
    assert_eq!(pending_out(&bench.read("a").await), 10);
    bench.worker.stop().await;
}

/// A batch that is taken back takes what was settled in it along, and both are
/// decided again.
#[tokio::test]
async fn what_was_settled_in_a_batch_that_is_taken_back_is_settled_again() {
    let bench = Bench::start().await;
    bench.fund("a", 100).await;
    bench.hold("a", "b", 60, 60, "h").await;
    bench.schedule("a", "b", 30, 60, "s").await;
    let mut conn = bench.worker.database.connect_owner().await.unwrap();
    // A key of long ago, as another sequencer left it.
    sqlx::query("INSERT INTO idempotency_keys VALUES (1, $1, $2, 1, 1)")
        .bind(steelyard::store::keys::hash("old").as_slice())
        .bind([7_u8; 16].as_slice())
        .execute(&mut conn)
        .await
        .unwrap();
    bench.at(60);
    let items = smallvec![payment("a", "b", 40, "old"), payment("a", "b", 70, "new")];
    let answer = bench.ledger.handle.submit(Work::Each(items), Instant::now() + PATIENCE).await.unwrap();
    assert!(matches!(answer.outcomes[0], Outcome::KeyUsed), "{answer:?}");
    let Outcome::Recorded { index, .. } = answer.outcomes[1] else { panic!("{answer:?}") };
    assert_eq!(answer.batch.events[index].fact.type_name(), "transaction_posted");
    let log = bench.log().await;
    assert_eq!(types(&log)[6..], ["hold_expired", "transaction_posted", "transaction_posted"]);
    let a = bench.read("a").await;
    assert_eq!((posted(&a), pending_out(&a)), (0, 0));
    bench.worker.stop().await;
}

/// An atomic batch that captures a hold and is declined leaves the hold to expire.
#[tokio::test]
async fn a_declined_atomic_batch_leaves_a_hold_as_it_was() {
    let bench = Bench::start().await;
    bench.fund("a", 100).await;
    let first = bench.hold("a", "b", 60, 3, "h").await;
    let commands = vec![capture(first, None, "").command, payment("a", "b", 1_000, "").command];
    let work = Work::Atomic { commands, key: key("atomic") };
    let answer = bench.ledger.handle.submit(work, Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(recorded(&answer).fact.type_name(), "batch_rejected");
    assert_eq!(pending_out(&bench.read("a").await), 60);
    bench.at(3);
    let paid = bench.submit(payment("a", "b", 100, "p")).await;
    assert_eq!(recorded(&paid).fact.type_name(), "transaction_posted");
    assert_eq!(types(&bench.log().await)[6..], ["hold_expired", "transaction_posted"]);
    bench.worker.stop().await;
}

/// A clock that is set back makes nothing happen twice, and nothing too early.
#[tokio::test]
async fn a_clock_that_runs_backwards_undoes_nothing() {
    let bench = Bench::start().await;
    bench.fund("a", 100).await;
    bench.hold("a", "b", 10, 60, "h1").await;
    bench.hold("a", "b", 10, 120, "h2").await;
    bench.at(60);
    assert_eq!(pending_out(&bench.read("a").await), 10);
    bench.at(0);
    assert_eq!(pending_out(&bench.read("a").await), 10);
    bench.submit(payment("a", "b", 1, "p")).await;
    bench.at(120);
    assert_eq!(pending_out(&bench.read("a").await), 0);
    let log = bench.log().await;
    assert!(log.is_sorted_by_key(|event| event.recorded_at));
    assert_eq!(types(&log)[6..], ["hold_expired", "transaction_posted", "hold_expired"]);
    bench.worker.stop().await;
}

/// Legs of several accounts: all of them are fetched with the transaction.
#[tokio::test]
async fn a_transaction_of_long_ago_is_reversed_from_the_log() {
    let bench = Bench::start().await;
    bench.submit(open("c", Some(Amount::ZERO))).await;
    let leg = |name: &str, side, amount: u64| {
        let (account, amount) = (code(name), Amount::from(amount));
        LegRequest { account, side, amount, asset: eur() }
    };
    let request = TransactionRequest {
        kind: Kind::Transaction,
        legs: smallvec![leg("bank", Side::Debit, 30), leg("b", Side::Credit, 20), leg("c", Side::Credit, 10)],
        ..TransactionRequest::payment(code("bank"), code("b"), Amount::from(1), eur())
    };
    let posted_at = bench.submit(Item { command: Command::Transact(request), key: Some(key("t")) }).await;
    let transaction = id(&posted_at, "transaction_posted");
    let reverse = |part, key_text: &str| {
        let reverse = Reverse { transaction, part, force: false, notes: Notes::default() };
        Item { command: Command::Reverse(reverse), key: Some(key(key_text)) }
    };
    let part = Part::Legs(smallvec![leg("bank", Side::Credit, 5), leg("c", Side::Debit, 5)]);
    bench.submit(reverse(part, "r1")).await;
    bench.projected().await;
    // Nothing of it is in the memory of the next.
    let bench = bench.restart().await;
    let rest = bench.submit(reverse(Part::Rest, "r2")).await;
    let event = recorded(&rest);
    let amounts: Vec<String> = event.fact.legs().iter().map(|leg| format!("{} {}", leg.account, leg.amount)).collect();
    assert_eq!(amounts, ["bank 25", "b 20", "c 5"], "{event:?}");
    let missing = Uuid::from_u128(5);
    let unknown = bench.submit(void(missing, "nothing")).await;
    let Outcome::Refused { refusal, .. } = &unknown.outcomes[0] else { panic!("{unknown:?}") };
    assert_eq!(*refusal, Refusal::TransactionNotFound(missing));
    bench.worker.stop().await;
}
