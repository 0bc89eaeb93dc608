//! Holds, scheduled transactions, accounts that change and what velocity limits
//! count: the projectors' fold, a rebuild and a verification agree on them,
//! wherever flushes end; and what is read from them is what the log says.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use smallvec::smallvec;
use sqlx::AssertSqlSafe;
use steelyard::clock::ManualClock;
use steelyard::cluster::worker::Options;
use steelyard::cluster::{Ledger, Worker};
use steelyard::ledger::{
    Account, AccountUpdate, Amount, AssetCode, Attributes, Balance, Cancel, Capture, ChangeAccount, Command, Direction,
    Event, Expiry, Fact, Freeze, FreezeScope, HoldState, Known, LedgerName, LegRequest, Notes, Origin, Part, Position,
    Reverse, Rule, Scope, Side, Terms, TransactionRequest, VelocityLimit, Void, Window,
};
use steelyard::projector::fold::Fold;
use steelyard::projector::verify::Failure;
use steelyard::sequencer::Outcome;
use steelyard::shard::shard_of;
use steelyard::store::as_of::{self, Moment, Of};
use steelyard::store::projections::Step;
use steelyard::store::rows::ScheduleState;
use steelyard::store::search::{self, Outcomes, Range, Standing};
use steelyard::store::{self, Shard};
use uuid::Uuid;

use crate::fixture::{Scratch, code_of, euro, opening, payment, projected, serving, submit};
use crate::support::eventually;

const START: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
const SHARDS: Shard = 64;

/// A ledger in which everything has happened, and its log.
struct Depth {
    scratch: Scratch,
    log: Vec<Event>,
}

/// A worker on it while it happens.
struct Bench {
    worker: Worker,
    ledger: Arc<Ledger>,
    clock: Arc<ManualClock>,
    keys: u32,
}

impl Bench {
    async fn submit(&mut self, command: Command) -> Option<Event> {
        self.keys += 1;
        let key = format!("key {}", self.keys);
        let answer = submit(&self.ledger, command, Some(&key)).await.unwrap();
        match &answer.outcomes[0] {
            Outcome::Recorded { index, .. } => Some(answer.batch.events[*index].clone()),
            Outcome::Unchanged(_) => None,
            other => panic!("{other:?}"),
        }
    }

    async fn transact(&mut self, request: TransactionRequest, expected: &str) -> Uuid {
        let event = self.submit(Command::Transact(request)).await.unwrap();
        assert_eq!(event.fact.type_name(), expected);
        event.transaction_id.unwrap()
    }

    async fn hold(&mut self, from: &str, to: &str, amount: u64, expiry: Expiry) -> Uuid {
        let terms = Some(Box::new(Terms { hold: Some(expiry), ..Terms::default() }));
        let request = TransactionRequest {
            terms,
            reference: Some(Arc::from(format!("hold {amount}"))),
            metadata: Some(Arc::from(format!(r#"{{"hold":{amount}}}"#))),
            ..payment(from, to, amount)
        };
        self.transact(request, "transaction_authorised").await
    }

    async fn schedule(&mut self, from: &str, to: &str, amount: u64, seconds: i64) -> Uuid {
        let request = TransactionRequest {
            effective_at: Some(START + TimeDelta::seconds(seconds)),
            reference: Some(Arc::from(format!("later {amount}"))),
            metadata: Some(Arc::from(format!(r#"{{"later":{amount}}}"#))),
            ..payment(from, to, amount)
        };
        self.transact(request, "transaction_scheduled").await
    }

    async fn capture(&mut self, payment: Uuid, amount: Option<u64>, last: bool) -> Event {
        let notes = Notes { reference: Some("captured".into()), ..Notes::default() };
        let capture = Capture { payment, amount: amount.map(Amount::from), last, notes };
        self.submit(Command::Capture(capture)).await.unwrap()
    }

    async fn change(&mut self, code: &str, change: AccountUpdate) {
        self.submit(Command::ChangeAccount(ChangeAccount { code: code_of(code), change })).await.unwrap();
    }

    /// Lets so many seconds have gone by since the beginning, and everything that is due with them.
    async fn at(&mut self, seconds: i64, head: Position) {
        self.clock.set(START + TimeDelta::seconds(seconds));
        let tail = &self.ledger.tail;
        eventually("what is due is recorded", async || tail.head() >= head).await;
    }
}

/// Everything that projections keep: see the comments for what is left of each.
async fn depth() -> Depth {
    let scratch = Scratch::empty().await;
    let mut conn = scratch.database.pool().acquire().await.unwrap();
    store::ledgers::create(&mut conn, &LedgerName::new("main").unwrap()).await.unwrap();
    drop(conn);
    let clock = Arc::new(ManualClock::new(START));
    let options =
        Options { accounts_max: 4, ..Options::new(scratch.database.clone(), "test".to_owned(), clock.clone()) };
    let worker = Worker::start(options).await.unwrap();
    serving(&worker).await;
    let ledger = worker.ledgers.get("main").unwrap();
    let mut bench = Bench { worker, ledger, clock, keys: 0 };
    furnish(&mut bench).await;
    projected(&bench.ledger).await;
    bench.worker.stop().await;
    let scratch = scratch.released().await;
    let mut conn = scratch.database.connect_serving().await.unwrap();
    let log = store::events::read_events(&mut conn, 1, 0, 100_000).await.unwrap();
    drop(conn);
    Depth { scratch: scratch.released().await, log }
}

async fn furnish(bench: &mut Bench) {
    // Positions 1 to 7.
    for (code, normal, floor) in [
        ("bank", Side::Debit, None),
        ("wallet:alice", Side::Credit, Some(0)),
        ("wallet:bob", Side::Credit, Some(0)),
        ("wallet:carol", Side::Credit, None),
        ("shop", Side::Credit, None),
        ("empty", Side::Credit, None),
        ("limited", Side::Credit, None),
    ] {
        bench.submit(Command::OpenAccount(opening(code, normal, floor))).await.unwrap();
    }
    let paid = bench.transact(payment("bank", "wallet:alice", 10_000), "transaction_posted").await;

    // Holds: open, partly captured, captured at once and in parts, voided, expired, with a rest given back.
    let alice = ("wallet:alice", "shop");
    bench.hold(alice.0, alice.1, 100, Expiry::Never).await;
    bench.hold(alice.0, "wallet:carol", 101, Expiry::In(3_600)).await;
    let partly = bench.hold(alice.0, alice.1, 102, Expiry::In(7_200)).await;
    bench.capture(partly, Some(40), false).await;
    let whole = bench.hold(alice.0, alice.1, 103, Expiry::Never).await;
    bench.capture(whole, None, false).await;
    let parts = bench.hold(alice.0, alice.1, 104, Expiry::In(60)).await;
    for amount in [50, 54] {
        bench.capture(parts, Some(amount), false).await;
    }
    let last = bench.hold(alice.0, alice.1, 105, Expiry::In(60)).await;
    bench.capture(last, Some(5), true).await;
    let voided = bench.hold(alice.0, alice.1, 106, Expiry::In(60)).await;
    bench.capture(voided, Some(6), false).await;
    let void = |payment| Command::Void(Void { payment });
    bench.submit(void(voided)).await.unwrap();
    // Declined: it has ended.
    bench.submit(void(voided)).await.unwrap();
    let expiring = bench.hold(alice.0, alice.1, 107, Expiry::In(30)).await;
    bench.capture(expiring, Some(7), false).await;

    // Scheduled: posted, rejected when it is due, cancelled, and still to come.
    bench.schedule(alice.0, "wallet:bob", 200, 20).await;
    bench.schedule("wallet:bob", "shop", 99_999, 25).await;
    let cancelled = bench.schedule(alice.0, "wallet:bob", 202, 90).await;
    bench.submit(Command::Cancel(Cancel { transaction: cancelled })).await.unwrap();
    let leg = |account: &str, side, amount: u64| LegRequest {
        account: code_of(account),
        side,
        amount: Amount::from(amount),
        asset: euro(),
    };
    let legs = smallvec![
        leg("wallet:carol", Side::Debit, 3),
        leg("wallet:alice", Side::Credit, 2),
        leg("wallet:carol", Side::Credit, 1)
    ];
    let request = TransactionRequest {
        effective_at: Some(START + TimeDelta::seconds(5_000)),
        legs,
        ..payment("wallet:carol", "wallet:alice", 1)
    };
    bench.transact(request, "transaction_scheduled").await;

    // Reversals: in part, by leg, and of a capture.
    let reverse = |transaction, part| {
        let notes = Notes { metadata: Some(Arc::from(r#"{"why":"mistake"}"#)), ..Notes::default() };
        Command::Reverse(Reverse { transaction, part, force: false, notes })
    };
    bench.submit(reverse(paid, Part::Amount(Amount::from(11)))).await.unwrap();
    let legs = smallvec![leg("bank", Side::Credit, 4), leg("wallet:alice", Side::Debit, 4)];
    bench.submit(reverse(paid, Part::Legs(legs))).await.unwrap();
    let captured = bench.capture(partly, Some(1), false).await.transaction_id.unwrap();
    bench.submit(reverse(captured, Part::Rest)).await.unwrap();
    // Declined: nothing is left.
    bench.submit(reverse(captured, Part::Rest)).await.unwrap();

    // Accounts.
    let freeze = |scope, reason: &str| AccountUpdate::Freeze(Freeze { scope, reason: Arc::from(reason) });
    let update = AccountUpdate::Update {
        min_balance: Some(Some(Amount::new(-500).unwrap())),
        max_balance: Some(Some(Amount::from(1_000_000))),
        metadata: Some(Some(Arc::from(r#"{"tier":"gold"}"#))),
    };
    bench.change("wallet:carol", update).await;
    bench.change("wallet:carol", freeze(FreezeScope::Credits, "a \"court\" order")).await;
    bench.change("wallet:bob", freeze(FreezeScope::All, "stolen")).await;
    bench.change("wallet:bob", AccountUpdate::Unfreeze { reason: Arc::from("found") }).await;
    bench.change("empty", freeze(FreezeScope::Debits, "unclear")).await;
    bench.change("empty", AccountUpdate::Close { reason: None }).await;
    bench.change("limited", AccountUpdate::Close { reason: None }).await;
    bench.change("limited", AccountUpdate::Reopen { reason: Some(Arc::from("needed again")) }).await;

    // A limit, whose buckets of a second are 60 in a minute, and all but the last of which lapse.
    let limit = VelocityLimit {
        name: "in a minute".into(),
        scope: Scope::Prefix("limited".into()),
        asset: Some(AssetCode::new("EUR").unwrap()),
        direction: Direction::In,
        window: Window::Rolling { seconds: 60 },
        count_max: Some(5),
        amount_max: None,
    };
    bench.submit(Command::SetRule(Rule::VelocityLimit(limit))).await;
    for amount in [1, 2] {
        bench.transact(payment("bank", "limited", amount), "transaction_posted").await;
    }
    let head = bench.ledger.tail.head();
    bench.at(35, head + 3).await;
    bench.hold("bank", "limited", 3, Expiry::Never).await;
    bench.transact(payment("bank", "limited", 4), "transaction_posted").await;
    bench.at(75, head + 5).await;
    bench.transact(payment("bank", "limited", 5), "transaction_posted").await;
    let before = START + TimeDelta::seconds(40);
    bench.submit(Command::ClosePeriod { before }).await;
}

/// Every table of the projections, as text, but for what depends on where flushes ended.
async fn tables(scratch: &Scratch) -> BTreeMap<&'static str, Vec<String>> {
    let mut conn = scratch.connect().await;
    let mut tables = BTreeMap::new();
    for table in store::rows::Table::ALL {
        let columns = table.columns().replace("previous_version, ", "");
        let query = format!("SELECT row({columns})::text FROM {} ORDER BY 1", table.name());
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut conn).await.unwrap();
        tables.insert(table.name(), rows);
    }
    tables
}

/// Projects the log anew, in flushes of so many events each. Shards of which `ahead`
/// is true have been projected before.
async fn project(scratch: &Scratch, log: &[Event], step: usize) {
    let all = store::rows::Table::ALL.map(store::rows::Table::name).join(", ");
    scratch
        .corrupt(&format!("TRUNCATE {all}; UPDATE checkpoints SET position = 0; UPDATE shard_claims SET epoch = 1"))
        .await;
    let mut conn = scratch.database.connect_serving().await.unwrap();
    let mut at: Vec<Option<Position>> = vec![Some(0); SHARDS as usize];
    for page in log.chunks(step) {
        let mut fold = Fold::new(1, SHARDS, &at, 2);
        page.iter().for_each(|event| fold.add(event));
        let to = page.last().unwrap().position;
        for (part, flush) in fold.finish().iter().enumerate() {
            let shards = (0..SHARDS).filter(|shard| *shard as usize % 2 == part);
            let from = |shard: Shard| at[shard as usize].unwrap();
            let steps: Vec<Step> = shards.map(|shard| Step { shard, epoch: 1, from: from(shard) }).collect();
            let flushed = store::projections::flush(&mut conn, 1, &steps, to, flush).await.unwrap();
            assert_eq!((flushed.advanced.len(), flushed.faults), (SHARDS as usize / 2, 0));
        }
        at.fill(Some(to));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fold_rebuild_and_verification_agree_wherever_flushes_end() {
    let depth = depth().await;
    let found = depth.scratch.verify().await.unwrap();
    assert_eq!((found.holds, found.scheduled, found.reversed), (9, 4, 2));
    assert_eq!(found.usage, 2);
    // Two back-dated legs, but they are among the first entries of their accounts.
    assert_eq!(found.backdated, 0);
    let expected = tables(&depth.scratch).await;
    for step in [1, 2, 3, 5, 8, 1_000] {
        let scratch = depth.scratch.cloned().await;
        project(&scratch, &depth.log, step).await;
        assert_eq!(tables(&scratch).await, expected, "flushes of {step} events");
        scratch.verify().await.unwrap();
    }
    depth.scratch.rebuild().await.unwrap();
    assert_eq!(tables(&depth.scratch).await, expected, "a rebuild");
    depth.scratch.verify().await.unwrap();
}

/// What a rebuild has loaded before goes on changing while it catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_takes_in_what_happens_meanwhile() {
    let scratch = Scratch::empty().await;
    let mut conn = scratch.database.pool().acquire().await.unwrap();
    store::ledgers::create(&mut conn, &LedgerName::new("main").unwrap()).await.unwrap();
    drop(conn);
    let clock = Arc::new(ManualClock::new(START));
    let worker = Worker::start(Options::new(scratch.database.clone(), "test".to_owned(), clock.clone())).await.unwrap();
    serving(&worker).await;
    let ledger = worker.ledgers.get("main").unwrap();
    let mut bench = Bench { worker, ledger, clock, keys: 0 };
    for (code, normal) in [("bank", Side::Debit), ("shop", Side::Credit)] {
        bench.submit(Command::OpenAccount(opening(code, normal, None))).await.unwrap();
    }
    let limit = VelocityLimit {
        name: "an hour".into(),
        scope: Scope::Account("shop".into()),
        asset: None,
        direction: Direction::In,
        window: Window::Rolling { seconds: 60 },
        count_max: Some(1_000),
        amount_max: None,
    };
    bench.submit(Command::SetRule(Rule::VelocityLimit(limit))).await;
    let captured = bench.hold("bank", "shop", 10, Expiry::Never).await;
    let open = bench.hold("bank", "shop", 20, Expiry::In(3_600)).await;
    let posted = bench.schedule("bank", "shop", 30, 50).await;
    let runtime = tokio::runtime::Handle::current();
    let bench = std::sync::Mutex::new(Some(bench));
    let ended = std::sync::Mutex::new(None);
    // In the middle of the rebuild.
    let progress = |_, _| {
        let Some(mut bench) = bench.lock().unwrap().take() else { return };
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                bench.capture(captured, None, false).await;
                bench.capture(open, Some(3), false).await;
                bench.hold("bank", "shop", 40, Expiry::Never).await;
                bench
                    .change(
                        "shop",
                        AccountUpdate::Freeze(Freeze { scope: FreezeScope::Debits, reason: Arc::from("meanwhile") }),
                    )
                    .await;
                let head = bench.ledger.tail.head();
                bench.at(100, head + 1).await;
                bench.transact(payment("bank", "shop", 1), "transaction_posted").await;
                projected(&bench.ledger).await;
            });
        });
        *ended.lock().unwrap() = Some(bench);
    };
    steelyard::projector::rebuild::rebuild(&scratch.database, &progress).await.unwrap();
    let bench = ended.lock().unwrap().take().unwrap();
    bench.worker.stop().await;
    let found = scratch.verify().await.unwrap();
    assert_eq!((found.holds, found.scheduled, found.usage), (3, 1, 1));
    let states = "SELECT count(*) FROM scheduled_transactions WHERE state = 'posted'";
    assert_eq!(scratch.number(states).await, 1, "{posted}");
}

/// The statement that does the damage, and what the finding must say.
const DAMAGE: &[(&str, &str)] = &[
    ("UPDATE holds SET remaining = 59 WHERE amount = 102", "holds of account wallet:alice: expected hold at position"),
    ("UPDATE holds SET state = 'authorised' WHERE amount = 107", "expired, remaining 0, captured 7"),
    ("DELETE FROM holds WHERE amount = 100", "holds of account wallet:alice"),
    ("UPDATE holds SET shard = (shard + 1) % 64 WHERE amount = 100", "holds of account wallet:alice"),
    ("UPDATE holds SET changed_position = changed_position + 1 WHERE amount = 103", "changed at position"),
    ("UPDATE scheduled_transactions SET state = 'scheduled' WHERE state = 'posted'", "scheduled_transactions of account wallet:alice"),
    ("UPDATE scheduled_transactions SET effective_at = effective_at + '1 s'::interval WHERE state = 'cancelled'", "cancelled"),
    ("DELETE FROM scheduled_transactions WHERE state = 'rejected'", "scheduled_transactions of account wallet:bob"),
    ("DELETE FROM transaction_accounts WHERE account_id = 4", "transaction_accounts of account wallet:carol"),
    ("UPDATE velocity_usage SET count = count + 1", "velocity_usage of account limited: expected usage of the limit"),
    ("DELETE FROM velocity_usage", "velocity_usage of account limited"),
    (
        "INSERT INTO velocity_usage SELECT shard, ledger_id, account_id, limit_position, bucket - 1000, 1, 1 FROM velocity_usage LIMIT 1",
        "velocity_usage of account limited",
    ),
    ("UPDATE accounts SET freeze_scope = 'all' WHERE code = 'wallet:carol'", "freeze of account wallet:carol: expected credits"),
    ("UPDATE accounts SET freeze_reason = NULL WHERE code = 'empty'", "freeze of account empty"),
    ("UPDATE accounts SET status = 'open' WHERE code = 'empty'", "status of account empty: expected closed, found open"),
    ("UPDATE accounts SET min_balance = NULL WHERE code = 'wallet:carol'", "min_balance of account wallet:carol: expected -500"),
    ("UPDATE balances SET debits_pending = debits_pending + 1 WHERE account_id = 2", "balance of account wallet:alice"),
    ("DELETE FROM transaction_metadata WHERE key = 'later' AND value = '200'", "transaction_metadata of account wallet:alice"),
    // The log itself.
    (
        "UPDATE events SET payload = jsonb_set(payload, '{hold,remaining}', '\"61\"') WHERE type = 'transaction_posted'
            AND payload #>> '{hold,remaining}' = '62'",
        "expected 62 or nothing remaining, found 61",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{hold,captured}', '\"8\"') WHERE type = 'hold_expired'",
        "expected 7 captured, found 8",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{hold,position}', '1') WHERE type = 'hold_voided'",
        "hold at position 1: expected one that is open, found none",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{legs,0,debits_pending}', '\"1\"') WHERE type = 'transaction_authorised'
            AND payload #>> '{legs,0,amount}' = '101'",
        "account wallet:alice: expected debits",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{scheduled_position}', '1') WHERE payload ? 'scheduled_position'
            AND type = 'transaction_posted'",
        "what was scheduled at position 1: expected a transaction that still is, found none",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{reversal,remaining}', '[\"9985\", \"9984\"]')
            WHERE payload #>> '{reversal,remaining}' = '[\"9985\", \"9985\"]'",
        "account wallet:alice: expected 9985 left, found 9984",
    ),
    ("UPDATE events SET payload = payload - 'closed' WHERE type = 'account_closed' AND payload ->> 'account' = 'empty'", "account empty"),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{usage,0,count}', '7') WHERE payload ? 'usage'",
        "account limited: expected usage of the limit",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_is_found_named_and_repaired() {
    let good = depth().await;
    let mut wrong = Vec::new();
    for (damage, expected) in DAMAGE {
        let scratch = good.scratch.cloned().await;
        scratch.corrupt(damage).await;
        let told = match scratch.verify().await {
            Err(Failure::Difference(difference)) => difference.to_string(),
            other => format!("{other:?}"),
        };
        if !told.contains(expected) {
            wrong.push(format!("{damage}\n  expected: {expected}\n  told:     {told}"));
        }
        if !damage.starts_with("UPDATE events") {
            scratch.rebuild().await.unwrap();
            scratch.verify().await.unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_read_as_the_log_has_it() {
    let depth = depth().await;
    let mut conn = depth.scratch.database.connect_serving().await.unwrap();
    let waiting = store::waiting::waiting(&mut conn, 1).await.unwrap();
    let ids: Vec<Uuid> =
        depth.log.iter().filter(|event| search::begins(event)).filter_map(|e| e.transaction_id).collect();
    let mut expected = store::known::find(&mut conn, 1, &ids).await.unwrap();
    expected.retain(|(_, known)| known.due_at().is_some());
    let by_position = |known: &(Uuid, Known)| known.1.position;
    expected.sort_by_key(by_position);
    let mut found = waiting.clone();
    found.sort_by_key(by_position);
    assert_eq!(found, expected);
    // Two holds that expire, and what is scheduled.
    assert_eq!(waiting.len(), 3);
}

/// What holds had left after a position, by account: reserved of what it has, and for it.
fn left_of_holds(log: &[Event], at: Position) -> BTreeMap<&str, (u64, u64)> {
    let mut holds: BTreeMap<Position, (&str, &str, Amount)> = BTreeMap::new();
    for event in log.iter().take_while(|event| event.position <= at) {
        match &event.fact {
            Fact::TransactionAuthorised(authorisation) => {
                let legs = &authorisation.transaction.legs;
                let of = |side| legs.iter().find(|leg| leg.side == side).unwrap();
                let (from, to) = (of(Side::Debit), of(Side::Credit));
                holds.insert(event.position, (from.account.as_str(), to.account.as_str(), from.amount));
            }
            Fact::TransactionPosted(transaction) => {
                let origin = transaction.more.as_ref().and_then(|more| more.origin.as_ref());
                if let Some(Origin::Capture { hold, remaining, .. }) = origin {
                    holds.get_mut(&hold.position).unwrap().2 = *remaining;
                }
            }
            Fact::HoldReleased(release) => _ = holds.remove(&release.hold.position).unwrap(),
            _ => {}
        }
    }
    let mut left = BTreeMap::<&str, (u64, u64)>::new();
    for (from, to, remaining) in holds.into_values() {
        let remaining = u64::try_from(remaining.get()).unwrap();
        left.entry(from).or_default().0 += remaining;
        left.entry(to).or_default().1 += remaining;
    }
    left
}

/// At every position, and at every time at which something was recorded.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pending_is_what_holds_had_left() {
    let depth = depth().await;
    let mut conn = depth.scratch.database.connect_serving().await.unwrap();
    let opened = depth.log.iter().filter_map(|event| match &event.fact {
        Fact::AccountOpened { code, .. } => Some(code.as_str()),
        _ => None,
    });
    let mut reserved = 0;
    for code in opened {
        let account = account(&depth.scratch, code).await;
        let shard = shard_of(1, code, SHARDS);
        let of = Of { shard, ledger_id: 1, account_id: account.id as i64, normal: account.normal };
        for event in depth.log.iter().filter(|event| event.position >= account.id) {
            let last = depth.log.iter().rfind(|other| other.recorded_at <= event.recorded_at).unwrap().position;
            let (position, time) = (Some(event.position), Some(event.recorded_at));
            let moments = [
                (event.position, Moment { position, time: None }),
                (last, Moment { position: None, time }),
                (event.position, Moment { position, time }),
            ];
            for (at, moment) in moments {
                let found = as_of::balance(&mut conn, of, account.balance.version as i64, moment).await.unwrap();
                let totals = as_of::totals(&mut conn, of, &found, moment).await.unwrap();
                let (out, incoming) = left_of_holds(&depth.log, at).get(code).copied().unwrap_or_default();
                let expected = (Amount::from(out), Amount::from(incoming));
                assert_eq!((totals.debits_pending, totals.credits_pending), expected, "{code} as of {moment:?}");
                reserved += u64::from(out > 0) + u64::from(incoming > 0);
            }
        }
        let moment = Moment { position: Some(depth.log.last().unwrap().position), time: None };
        let found = as_of::balance(&mut conn, of, account.balance.version as i64, moment).await.unwrap();
        let totals = as_of::totals(&mut conn, of, &found, moment).await.unwrap();
        assert_eq!(totals, account.balance, "{code} at the end");
    }
    assert!(reserved > 100, "{reserved}");
}

async fn account(scratch: &Scratch, code: &str) -> Account {
    let mut conn = scratch.database.connect_serving().await.unwrap();
    let accounts = store::projections::load_accounts(&mut conn, 1, &[shard_of(1, code, SHARDS)], &[code]).await;
    accounts.unwrap().remove(0)
}

/// The last balance and attributes that the log states of an account.
fn stated(log: &[Event], id: Position) -> (Balance, Attributes) {
    let (mut balance, mut attributes) = (Balance::default(), Attributes::default());
    for event in log {
        match &event.fact {
            Fact::AccountOpened { limits, metadata, .. } if event.position == id => {
                balance.position = id;
                attributes = Attributes { limits: *limits, metadata: metadata.clone(), ..Attributes::default() };
            }
            Fact::AccountChanged(changed) if changed.account_id == id => attributes = changed.after.clone(),
            fact => {
                let last = fact.legs().iter().rev().find(|leg| leg.account_id == id);
                balance = last.map_or(balance, |leg| leg.after);
            }
        }
    }
    (balance, attributes)
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_loaded_with_what_is_pending_and_how_they_have_changed() {
    let depth = depth().await;
    for (id, code) in (1..).zip(["bank", "wallet:alice", "wallet:bob", "wallet:carol", "shop", "empty", "limited"]) {
        let (found, expected) = (account(&depth.scratch, code).await, stated(&depth.log, id));
        assert_eq!((found.balance, found.attributes), expected, "{code}");
    }
    let alice = account(&depth.scratch, "wallet:alice").await.balance;
    // Of 100, 101 and 102: all but 41 of the last.
    assert_eq!(alice.debits_pending, Amount::from(262));
}

/// Trap: an account whose projection has stopped has pending legs only since then,
/// which no version tells.
#[tokio::test(flavor = "multi_thread")]
async fn trap_a_stopped_projection_has_its_pending_amounts_from_the_log() {
    let depth = depth().await;
    let broken = depth.log.len() / 3;
    for cut in [broken, broken * 2] {
        let scratch = depth.scratch.cloned().await;
        project(&scratch, &depth.log[..cut], 4).await;
        scratch.corrupt("UPDATE balances SET version = version + 7 WHERE account_id IN (2, 5)").await;
        let mut conn = scratch.database.connect_serving().await.unwrap();
        for (from, page) in depth.log[cut..].iter().enumerate() {
            let from = (cut + from) as Position;
            let at = vec![Some(from); SHARDS as usize];
            let mut fold = Fold::new(1, SHARDS, &at, 1);
            fold.add(page);
            let steps: Vec<Step> = (0..SHARDS).map(|shard| Step { shard, epoch: 1, from }).collect();
            store::projections::flush(&mut conn, 1, &steps, from + 1, &fold.finish()[0]).await.unwrap();
            for (id, code) in [(2, "wallet:alice"), (5, "shop")] {
                let faulty = format!("SELECT count(*) FROM projection_faults WHERE account_id = {id}");
                if scratch.number(&faulty).await == 0 {
                    continue;
                }
                let (found, expected) = (account(&scratch, code).await, stated(&depth.log[..=from as usize], id));
                assert_eq!(found.balance, expected.0, "{code} after position {}", from + 1);
            }
        }
        assert_eq!(scratch.number("SELECT count(*) FROM projection_faults").await, 2);
        // Holds are whole all the same.
        let holds = tables(&scratch).await.remove("holds");
        assert_eq!(holds, tables(&depth.scratch).await.remove("holds"));
        scratch.rebuild().await.unwrap();
        scratch.verify().await.unwrap();
    }
}

/// All positions of a walk, in pages of two.
macro_rules! walk {
    ($range:ident, $direction:ident, $step:expr) => {{
        let mut positions = Vec::new();
        for $direction in [search::Direction::Ascending, search::Direction::Descending] {
            let mut $range = Range { above: 0, upto: i64::MAX };
            let mut found: Vec<i64> = Vec::new();
            while !$range.is_empty() {
                let step = $step.await.unwrap();
                found.extend(&step.positions);
                $range = step.rest;
            }
            if $direction == search::Direction::Descending {
                found.reverse();
                assert_eq!(found, positions);
            }
            positions = found;
        }
        positions
    }};
}

/// Positions of those of the log's first events that a filter holds for.
fn first_of(log: &[Event], filter: impl Fn(&Event) -> bool) -> Vec<i64> {
    log.iter().filter(|e| search::begins(e) && filter(e)).map(|event| event.position as i64).collect()
}

fn names(event: &Event, code: &str) -> bool {
    let asked = match &event.fact {
        Fact::TransactionScheduled(scheduled) => &scheduled.request,
        Fact::TransactionRejected(rejected) => &rejected.request,
        fact => return fact.legs().iter().any(|leg| leg.account.as_str() == code),
    };
    asked.legs.iter().any(|leg| leg.account.as_str() == code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_found_once_whatever_has_become_of_it() {
    let depth = depth().await;
    let (pool, log) = (depth.scratch.database.pool(), &depth.log);
    let all = Outcomes::of(None);
    let begins = |positions: &[i64]| {
        let begins = |position: &&i64| search::begins(&log[**position as usize - 1]);
        positions.iter().filter(begins).copied().collect::<Vec<i64>>()
    };
    for code in ["bank", "wallet:alice", "wallet:bob", "wallet:carol", "shop", "limited"] {
        let shard = shard_of(1, code, SHARDS);
        let id = account(&depth.scratch, code).await.id as i64;
        let found = walk!(range, direction, search::of_account(pool, (1, shard, id), all, range, direction, 2));
        assert_eq!(begins(&found), first_of(log, |event| names(event, code)), "{code}");
    }
    for (reference, count) in [("hold 100", 1), ("captured", 8), ("later 200", 1), ("later 99999", 1), ("later 202", 1)]
    {
        let found = walk!(range, direction, search::of_reference(pool, 1, reference, all, range, direction, 2));
        assert_eq!(begins(&found).len(), count, "{reference}");
    }
    for (key, value) in [("hold", "100"), ("later", "200"), ("later", "99999"), ("later", "202")] {
        let found = walk!(range, direction, search::of_metadata(pool, 1, (key, value), range, direction, 2));
        assert_eq!((begins(&found), found.len()), (found.clone(), 1), "{key} {value}");
    }
    let found = walk!(range, direction, {
        let part = match direction {
            search::Direction::Ascending => Range { upto: log.len() as i64, ..range },
            search::Direction::Descending => Range { upto: range.upto.min(log.len() as i64), ..range },
        };
        search::of_log(pool, 1, all, part, direction, 2)
    });
    assert_eq!(begins(&found), first_of(log, |_| true));

    let of_state =
        async |standing| walk!(range, direction, search::of_state(pool, 1, standing, range, direction, 2)).len();
    let mut counts = Vec::new();
    for state in HoldState::ALL {
        counts.push(of_state(Standing::Hold(state)).await);
    }
    for state in ScheduleState::ALL {
        counts.push(of_state(Standing::Schedule(state)).await);
    }
    assert_eq!(counts, [4, 3, 1, 1, 1, 1, 1, 1]);

    let begun: Vec<Event> = log.iter().filter(|event| search::begins(event)).cloned().collect();
    let latest = search::latest(pool, 1, SHARDS, &begun).await.unwrap();
    let mut conn = depth.scratch.database.connect_serving().await.unwrap();
    for event in &begun {
        let expected = store::known::find(&mut conn, 1, &[event.transaction_id.unwrap()]).await.unwrap().remove(0).1;
        let first = Known::begun_by(event).unwrap();
        match latest.get(&event.position) {
            Some(last) => assert_eq!(first.changed_by(last), Some(expected)),
            // Of what was posted at once, reversals are not looked for.
            None => assert!(first == expected || matches!(event.fact, Fact::TransactionPosted(_))),
        }
    }
}

/// Views at a cut that some shards are ahead of show what views at that cut showed.
#[tokio::test(flavor = "multi_thread")]
async fn views_answer_at_the_cut_whatever_shards_are_ahead() {
    const VIEWS: [&str; 4] = [
        "SELECT row(v.*)::text FROM (SELECT transaction_id, from_account, to_account, asset, amount, captured, remaining,
            reference, authorised_at, expires_at, position, as_of_position FROM reporting.holds_outstanding) v ORDER BY 1",
        "SELECT row(v.*)::text FROM (SELECT transaction_id, type, amount, from_account, to_account, legs, reference,
            metadata, effective_at, recorded_at, position, as_of_position FROM reporting.scheduled) v ORDER BY 1",
        "SELECT row(t.*)::text FROM reporting.transactions t ORDER BY 1",
        "SELECT row(t.*)::text FROM reporting.transaction_legs t ORDER BY 1",
    ];
    let look = async |scratch: &Scratch| {
        let mut conn = scratch.connect().await;
        sqlx::raw_sql("SET ROLE steelyard_analyst").execute(&mut conn).await.unwrap();
        let mut seen: Vec<Vec<String>> = Vec::new();
        for view in VIEWS {
            seen.push(sqlx::query_scalar(view).fetch_all(&mut conn).await.unwrap());
        }
        seen
    };
    let depth = depth().await;
    let now = look(&depth.scratch).await;
    assert_eq!((now[0].len(), now[1].len()), (4, 1));
    // Once for each transaction.
    assert_eq!(now[2].len(), first_of(&depth.log, |_| true).len());
    let statuses = "SELECT string_agg(status || ' ' || n, ', ' ORDER BY status) FROM (
        SELECT status, count(*) AS n FROM reporting.transactions WHERE type <> 'capture' GROUP BY status) s";
    let mut conn = depth.scratch.connect().await;
    let found: String = sqlx::query_scalar(statuses).fetch_one(&mut conn).await.unwrap();
    let expected = "authorised 4, cancelled 1, captured 3, expired 1, posted 9, rejected 3, scheduled 1, voided 1";
    assert_eq!(found, expected);
    // What was scheduled keeps the key that scheduled it, whatever has become of it.
    let keys =
        "SELECT string_agg(concat_ws(' ', t.status, t.idempotency_key, r.idempotency_key), ', ' ORDER BY t.reference)
        FROM reporting.transactions t LEFT JOIN reporting.rejections r USING (transaction_id)
        WHERE t.reference LIKE 'later%'";
    let found: String = sqlx::query_scalar(keys).fetch_one(&mut conn).await.unwrap();
    assert_eq!(found, "posted key 26, cancelled key 28, rejected key 27 key 27");
    // Which is looked up by primary key.
    sqlx::raw_sql("SET enable_seqscan = off").execute(&mut conn).await.unwrap();
    for view in ["transactions", "rejections"] {
        let explain = format!("EXPLAIN (COSTS OFF) SELECT idempotency_key FROM reporting.{view}");
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut conn).await.unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("Index Scan using events_pkey on events begun"), "{plan}");
    }
    drop(conn);
    let scratch = depth.scratch.cloned().await;
    for cut in (8..depth.log.len()).step_by(3) {
        project(&scratch, &depth.log[..cut], cut).await;
        let expected = look(&scratch).await;
        // All shards but one go on to the end.
        let mut conn = scratch.database.connect_serving().await.unwrap();
        let from = cut as Position;
        let at: Vec<Option<Position>> = (0..SHARDS).map(|shard| (shard != 1).then_some(from)).collect();
        let mut fold = Fold::new(1, SHARDS, &at, 1);
        depth.log[cut..].iter().for_each(|event| fold.add(event));
        let shards = (0..SHARDS).filter(|shard| *shard != 1);
        let steps: Vec<Step> = shards.map(|shard| Step { shard, epoch: 1, from }).collect();
        let to = depth.log.len() as Position;
        store::projections::flush(&mut conn, 1, &steps, to, &fold.finish()[0]).await.unwrap();
        assert_eq!(look(&scratch).await, expected, "at position {cut}");
    }
}

/// Tables that grow with the business, with rows of which many are alike.
const GROW: &str = "
    SET session_replication_role = replica;
    INSERT INTO holds SELECT n % 64, 1, n, n, gen_random_uuid(), 'a', 'b', n, 'EUR', 1, 1, 0,
        CASE n % 50 WHEN 0 THEN 'authorised' ELSE 'captured' END, now(), 'r' || n, now(), n, now()
        FROM generate_series(100, 60000) n;
    INSERT INTO scheduled_transactions SELECT n % 64, 1, n, n, gen_random_uuid(),
        CASE n % 50 WHEN 0 THEN 'scheduled' ELSE 'posted' END, now(), 'r' || n, now(), n, now()
        FROM generate_series(100, 60000) n;
    INSERT INTO transaction_accounts SELECT n % 64, 1, n / 100, n FROM generate_series(100, 60000) n;
    INSERT INTO velocity_usage SELECT n % 64, 1, n / 60, 7, n, 1, 1 FROM generate_series(100, 60000) n;
    INSERT INTO accounts SELECT n % 64, 1, n, 'w' || n, 'EUR', 'credit', 0, NULL, 'open', NULL, now()
        FROM generate_series(100, 60000) n;
    ANALYZE";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_and_changed_is_found_by_an_index() {
    let depth = depth().await;
    let mut owner = depth.scratch.connect().await;
    sqlx::raw_sql(GROW).execute(&mut owner).await.unwrap();
    let mut conn = store::Connection::from(depth.scratch.database.connect_owner().await.unwrap());
    let all = Outcomes::of(None);
    for direction in [search::Direction::Ascending, search::Direction::Descending] {
        let range = Range { above: 0, upto: i64::MAX };
        search::of_account(&mut conn, (1, 0, 100), all, range, direction, 10).await.unwrap();
        search::of_reference(&mut conn, 1, "r100", all, range, direction, 10).await.unwrap();
        search::of_state(&mut conn, 1, Standing::Hold(HoldState::Voided), range, direction, 10).await.unwrap();
        let cancelled = Standing::Schedule(ScheduleState::Cancelled);
        search::of_state(&mut conn, 1, cancelled, range, direction, 10).await.unwrap();
    }
    let of = Of { shard: 0, ledger_id: 1, account_id: 7, normal: Side::Credit };
    let moment = Moment { position: Some(7), time: Some(START) };
    let found = as_of::balance(&mut conn, of, 0, moment).await.unwrap();
    as_of::totals(&mut conn, of, &found, moment).await.unwrap();
    sqlx::raw_sql("UPDATE scheduled_transactions SET state = 'posted' WHERE position >= 100")
        .execute(&mut owner)
        .await
        .unwrap();
    store::waiting::waiting(&mut conn, 1).await.unwrap();
    store::standing::counted(&mut conn, 1, &[0], &[100]).await.unwrap();
    // A flush with all of them; the log has the shard's accounts already.
    sqlx::raw_sql("UPDATE checkpoints SET position = 0; UPDATE shard_claims SET epoch = 1")
        .execute(&mut owner)
        .await
        .unwrap();
    let at = vec![Some(0); SHARDS as usize];
    let mut fold = Fold::new(1, SHARDS, &at, 1);
    let later = |event: &&Event| event.position > 7 && !matches!(event.fact, Fact::TransactionAuthorised(_));
    depth.log.iter().filter(later).for_each(|event| fold.add(event));
    let mut flush = fold.finish().remove(0);
    flush.entries = store::projections::EntryColumns::default();
    flush.rejections = store::projections::RejectionColumns::default();
    flush.metadata = store::projections::MetadataColumns::default();
    flush.backdated.clear();
    flush.standing.schedules.clear();
    flush.standing.accounts.clear();
    assert!(!flush.standing.hold_changes.is_empty() && !flush.standing.usage.is_empty());
    let steps: Vec<Step> = (0..SHARDS).map(|shard| Step { shard, epoch: 1, from: 0 }).collect();
    let flushed = store::projections::flush(&mut conn, 1, &steps, 1, &flush).await.unwrap();
    assert_eq!(flushed.advanced.len(), SHARDS as usize);

    sqlx::query("SET plan_cache_mode = force_generic_plan").execute(&mut conn).await.unwrap();
    let prepared: Vec<(String, String, i32)> = sqlx::query_as(
        "SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements
         WHERE statement ~ 'holds|scheduled_transactions|transaction_accounts|velocity_usage|UPDATE accounts'
             AND statement !~ 'pg_prepared_statements'",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(prepared.len(), 16, "{prepared:#?}");
    for (name, statement, parameters) in prepared {
        let nulls = vec!["NULL"; parameters as usize].join(", ");
        let explain = format!("EXPLAIN (COSTS OFF) EXECUTE \"{name}\"({nulls})");
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_all(&mut conn).await.unwrap();
        let plan = plan.join("\n");
        for table in ["holds", "scheduled_transactions", "transaction_accounts", "velocity_usage", "accounts"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{statement}\n{plan}");
        }
    }
}
