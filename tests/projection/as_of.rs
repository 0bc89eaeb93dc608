//! Balances as of a moment, sums, trial balances and statements are what a naive
//! fold of the log gives, over random histories with much that is back-dated;
//! and the tables behind them are rebuilt and verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::smallvec;
use sqlx::{Connection as _, Row};
use steelyard::clock::ManualClock;
use steelyard::cluster::worker::Options;
use steelyard::cluster::{Ledger, Worker};
use steelyard::ledger::{
    Amount, AssetCode, Command, Event, Fact, LegRequest, OpenAccount, Position, Side, TransactionRequest,
};
use steelyard::projector::verify::Failure;
use steelyard::store::as_of::{self, Chart, Lines, Moment, Of};
use steelyard::store::backdating::{BackdatedLeg, FIRST_ENTRIES};
use steelyard::store::projections::{Flush, Step};
use steelyard::store::{self, Connection};

use crate::fixture::{Scratch, code_of, payment, projected, serving, submit};

/// Code, asset, normal side.
const ACCOUNTS: [(&str, &str, Side); 8] = [
    ("assets:bank:one", "EUR", Side::Debit),
    ("assets:bank:two", "EUR", Side::Debit),
    ("assets:bankrupt", "EUR", Side::Debit),
    ("liabilities:wallet:a", "EUR", Side::Credit),
    ("liabilities:wallet:b", "EUR", Side::Credit),
    ("liabilities", "EUR", Side::Credit),
    ("assets:bank:usd", "USD", Side::Debit),
    ("liabilities:wallet:usd", "USD", Side::Credit),
];
const DAYS_BACK: i64 = 40;
const MICROS_OF_DAY: i64 = 86_400_000_000;

/// `STEELYARD_SEED`, or one that is always the same.
fn seed() -> u64 {
    std::env::var("STEELYARD_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

async fn work(scratch: &Scratch, clock: &Arc<ManualClock>) -> Worker {
    let clock: Arc<ManualClock> = Arc::clone(clock);
    let options = Options { accounts_max: 4, ..Options::new(scratch.database.clone(), "test".to_owned(), clock) };
    let worker = Worker::start(options).await.unwrap();
    serving(&worker).await;
    worker
}

/// A ledger in which some weeks go by, with flushes of one and of many events,
/// and its log.
async fn lived(rng: &mut SmallRng, transactions: usize) -> (Scratch, Vec<Event>) {
    let scratch = Scratch::empty().await;
    let mut now = time("2026-03-01T22:30:00Z");
    let clock = Arc::new(ManualClock::new(now));
    let mut worker = work(&scratch, &clock).await;
    let mut ledger = worker.ledgers.get("main").unwrap();
    for (code, asset, normal) in ACCOUNTS {
        let open = OpenAccount {
            code: code_of(code),
            asset: AssetCode::new(asset).unwrap(),
            normal: Some(normal),
            min_balance: Some(None),
            max_balance: Some(None),
            metadata: None,
        };
        submit(&ledger, Command::OpenAccount(open), None).await.unwrap();
    }
    let mut times = vec![now];
    // Of the accounts some are soon past their first entries, some are past them from the start, and some stay within.
    let aged = age(rng, &ledger, &clock, now).await;
    for n in 0..transactions {
        // Often at the same moment as the one before.
        if n == 0 || rng.random_bool(0.6) {
            now += TimeDelta::seconds(1) + TimeDelta::microseconds(rng.random_range(1..MICROS_OF_DAY / 3));
            clock.set(now);
            times.push(now);
        }
        let effective_at = match rng.random_range(0..10) {
            0..4 => None,
            4 => Some(now),
            // At a moment at which something else happened.
            5 => Some(times[rng.random_range(0..times.len())]),
            // On the same day as others, to the microsecond before and after midnight.
            6 => Some(time("2026-02-20T00:00:00Z") - TimeDelta::microseconds(rng.random_range(0..2))),
            _ => Some(now - TimeDelta::microseconds(rng.random_range(1..DAYS_BACK * MICROS_OF_DAY))),
        };
        let request = TransactionRequest {
            effective_at,
            reference: rng.random_bool(0.5).then(|| Arc::from(format!("r{n}"))),
            legs: legs(rng),
            ..payment("a", "b", 1)
        };
        submit(&ledger, Command::Transact(request), Some(&format!("k{n}"))).await.unwrap();
        if rng.random_bool(0.1) {
            projected(&ledger).await;
        }
        if n == transactions / 2 {
            worker.stop().await;
            worker = work(&scratch, &clock).await;
            ledger = worker.ledgers.get("main").unwrap();
        }
    }
    projected(&ledger).await;
    worker.stop().await;
    let scratch = scratch.released().await;
    let mut conn = scratch.database.connect_serving().await.unwrap();
    let log = store::events::read_events(&mut conn, 1, 0, 100_000).await.unwrap();
    assert_eq!(log.len(), ACCOUNTS.len() + aged + transactions);
    (scratch, log)
}

/// Gives pairs of accounts many entries, in few transactions. Answers how many of those.
async fn age(rng: &mut SmallRng, ledger: &Ledger, clock: &ManualClock, now: DateTime<Utc>) -> usize {
    let mut transactions = 0;
    for (pair, entries) in [([0, 3], FIRST_ENTRIES - 10), ([1, 4], FIRST_ENTRIES + 70)] {
        let mut left = entries;
        while left > 0 {
            // As many as a transaction may have, on each of the two.
            let each = left.min(128);
            left -= each;
            let back = rng.random_range(0..DAYS_BACK * MICROS_OF_DAY);
            let legs = (0..2 * each).map(|n| LegRequest {
                account: code_of(ACCOUNTS[pair[n as usize % 2]].0),
                side: if n % 2 == 0 { Side::Debit } else { Side::Credit },
                amount: Amount::from(1 + n / 2),
                asset: AssetCode::new("EUR").unwrap(),
            });
            let request = TransactionRequest {
                effective_at: rng.random_bool(0.7).then(|| now - TimeDelta::microseconds(back)),
                legs: legs.collect(),
                ..payment("a", "b", 1)
            };
            submit(ledger, Command::Transact(request), Some(&format!("aged{transactions}"))).await.unwrap();
            transactions += 1;
            clock.set(now + TimeDelta::microseconds(transactions as i64));
            projected(ledger).await;
        }
    }
    transactions
}

/// Two legs, or three of which two share an amount.
fn legs(rng: &mut SmallRng) -> smallvec::SmallVec<[LegRequest; 2]> {
    let leg = |account: usize, side: Side, amount: u64| LegRequest {
        account: code_of(ACCOUNTS[account].0),
        side,
        amount: Amount::from(amount),
        asset: AssetCode::new(ACCOUNTS[account].1).unwrap(),
    };
    let amount = rng.random_range(2..1_000);
    let (one, other) = if rng.random_bool(0.2) { (6, 7) } else { (0, 3) };
    let turned = rng.random_bool(0.3);
    let (debit, credit) = if turned { (Side::Credit, Side::Debit) } else { (Side::Debit, Side::Credit) };
    if one == 6 {
        return smallvec![leg(one, debit, amount), leg(other, credit, amount)];
    }
    let (first, second) = (rng.random_range(0..3), rng.random_range(3..6));
    if rng.random_bool(0.3) {
        let third = 3 + (second - 2) % 3;
        return smallvec![leg(first, debit, amount), leg(second, credit, 1), leg(third, credit, amount - 1)];
    }
    smallvec![leg(first, debit, amount), leg(second, credit, amount)]
}

/// A leg as the log has it.
#[derive(Clone, Debug, PartialEq)]
struct Naive {
    account: &'static str,
    position: Position,
    version: u64,
    side: Side,
    amount: i128,
    effective_at: DateTime<Utc>,
    recorded_at: DateTime<Utc>,
}

fn naive(log: &[Event]) -> Vec<Naive> {
    let mut legs = Vec::new();
    for event in log {
        let Fact::TransactionPosted(transaction) = &event.fact else { continue };
        for leg in &transaction.legs {
            legs.push(Naive {
                account: ACCOUNTS.iter().find(|(code, ..)| *code == leg.account.as_str()).unwrap().0,
                position: event.position,
                version: leg.after.version,
                side: leg.side,
                amount: leg.amount.get(),
                effective_at: event.effective_at,
                recorded_at: event.recorded_at,
            });
        }
    }
    legs
}

/// Debits and credits of an account, as they were known at a position and effective by a time.
fn sums(legs: &[Naive], account: &str, moment: Moment) -> (i128, i128) {
    let counts = |leg: &&Naive| {
        leg.account == account
            && moment.position.is_none_or(|position| leg.position <= position)
            && moment.time.is_none_or(|time| leg.effective_at <= time)
    };
    let total = |side: Side| legs.iter().filter(counts).filter(|leg| leg.side == side).map(|leg| leg.amount).sum();
    (total(Side::Debit), total(Side::Credit))
}

/// Some moment of the history; often just at, before or after something.
fn some_time(rng: &mut SmallRng, log: &[Event]) -> DateTime<Utc> {
    let event = &log[rng.random_range(0..log.len())];
    let near = TimeDelta::microseconds(rng.random_range(-1..2));
    match rng.random_range(0..4) {
        0 => event.effective_at + near,
        1 => event.recorded_at + near,
        2 => time("2026-02-20T00:00:00Z") + near,
        _ => log[0].recorded_at + TimeDelta::microseconds(rng.random_range(-45 * MICROS_OF_DAY..45 * MICROS_OF_DAY)),
    }
}

fn some_moment(rng: &mut SmallRng, log: &[Event]) -> Moment {
    let position = rng.random_bool(0.5).then(|| rng.random_range(ACCOUNTS.len()..=log.len()) as Position);
    Moment { position, time: rng.random_bool(0.7).then(|| some_time(rng, log)) }
}

async fn subject(conn: &mut Connection, code: &str) -> (Of, i64) {
    let shard = steelyard::shard::shard_of(1, code, 64);
    let account = store::projections::load_accounts(conn, 1, &[shard], &[code]).await.unwrap().remove(0);
    let of = Of { shard, ledger_id: 1, account_id: account.id as i64, normal: account.normal };
    (of, account.balance.version as i64)
}

fn counted(normal: Side, (debits, credits): (i128, i128)) -> i128 {
    if normal == Side::Debit { debits - credits } else { credits - debits }
}

async fn balances_are_the_folds(rng: &mut SmallRng, conn: &mut Connection, log: &[Event]) {
    let legs = naive(log);
    for (code, _, normal) in ACCOUNTS {
        let (of, newest) = subject(conn, code).await;
        for _ in 0..60 {
            let moment = some_moment(rng, log);
            let expected = sums(&legs, code, moment);
            let found = as_of::balance(&mut *conn, of, newest, moment).await.unwrap();
            assert_eq!(found.balance.get(), counted(normal, expected), "{code} as of {moment:?}");
            let totals = as_of::totals(conn, of, &found, moment).await.unwrap();
            assert_eq!((totals.debits_posted.get(), totals.credits_posted.get()), expected, "{code} {moment:?}");
            assert!(!found.is_stale);
        }
    }
}

async fn trial_balances_are_the_folds(rng: &mut SmallRng, conn: &mut Connection, log: &[Event]) {
    let legs = naive(log);
    for _ in 0..12 {
        let moment = some_moment(rng, log);
        let position = moment.position.unwrap_or(log.len() as Position);
        let mut rows = Vec::new();
        loop {
            let after = rows.last().map_or(String::new(), |row: &as_of::TrialRow| row.code.clone());
            let page = as_of::trial_balance(&mut *conn, 1, position, moment.time, &after, 3).await.unwrap();
            let last = page.len() < 3;
            rows.extend(page);
            if last {
                break;
            }
        }
        assert_eq!(rows.len(), ACCOUNTS.len());
        let mut nets: BTreeMap<&str, Vec<i128>> = BTreeMap::new();
        for row in &rows {
            let (debits, credits) = sums(&legs, &row.code, moment);
            assert_eq!(row.net_debit.get(), debits - credits, "{} as of {moment:?}", row.code);
            nets.entry(&row.asset).or_default().push(debits - credits);
        }
        let totals = as_of::trial_totals(&mut *conn, 1, position, moment.time).await.unwrap();
        assert_eq!(totals.iter().map(|total| total.asset.as_str()).collect::<Vec<_>>(), ["EUR", "USD"]);
        for total in totals {
            let nets = &nets[total.asset.as_str()];
            let debit: i128 = nets.iter().filter(|net| **net > 0).sum();
            let found = (total.accounts as usize, total.debit, total.credit, total.net_debit.as_str());
            assert_eq!(found, (nets.len(), debit.to_string(), debit.to_string(), "0"), "as of {moment:?}");
        }
    }
}

async fn sums_are_the_folds(rng: &mut SmallRng, conn: &mut Connection, log: &[Event]) {
    let legs = naive(log);
    for prefix in ["", "assets", "assets:bank", "assets:", "liabilities", "liabilities:wallet:a", "nothing"] {
        for depth in [None, Some(1), Some(2), Some(9)] {
            let moment = some_moment(rng, log);
            // Also at a position that the shards have left behind, as readers find them.
            let is_present = moment.time.is_none();
            let position = moment.position.unwrap_or(log.len() as Position);
            let mut expected: BTreeMap<(String, &str), (i64, i128, i128)> = BTreeMap::new();
            for (code, asset, _) in ACCOUNTS {
                let below =
                    if prefix.is_empty() || prefix.ends_with(':') { prefix.to_owned() } else { format!("{prefix}:") };
                if code != prefix && !code.starts_with(&below) {
                    continue;
                }
                let segments: Vec<&str> = code.split(':').collect();
                let path = depth
                    .map_or(prefix.to_owned(), |depth: i32| segments[..segments.len().min(depth as usize)].join(":"));
                let (debits, credits) = sums(&legs, code, moment);
                let sum = expected.entry((path, asset)).or_default();
                *sum = (sum.0 + 1, sum.1 + debits, sum.2 + credits);
            }
            let mut found: Vec<as_of::ChartRow> = Vec::new();
            loop {
                let after =
                    found.last().map_or((String::new(), String::new()), |row| (row.path.clone(), row.asset.clone()));
                let after = (after.0.as_str(), after.1.as_str());
                let chart = Chart { prefix, asset: None, depth, position, time: moment.time, is_present, after };
                let page = as_of::chart(&mut *conn, 1, chart, 2).await.unwrap();
                let last = page.len() < 2;
                found.extend(page);
                if last {
                    break;
                }
            }
            let what = format!("{prefix} {depth:?} as of {moment:?}");
            assert_eq!(found.len(), expected.len(), "{what}: {found:?}");
            for (row, ((path, asset), (accounts, debits, credits))) in found.iter().zip(expected) {
                assert_eq!(
                    (row.path.as_str(), row.asset.as_str(), row.accounts),
                    (path.as_str(), asset, accounts),
                    "{what}"
                );
                assert_eq!(row.net_debit, (debits - credits).to_string(), "{what}");
                if is_present {
                    assert_eq!(
                        (&row.debits_posted, &row.credits_posted),
                        (&debits.to_string(), &credits.to_string()),
                        "{what}"
                    );
                }
            }
        }
    }
}

async fn statements_are_the_folds(rng: &mut SmallRng, conn: &mut Connection, log: &[Event]) {
    let legs = naive(log);
    for (code, _, normal) in ACCOUNTS {
        let (of, newest) = subject(conn, code).await;
        for _ in 0..20 {
            let (one, other) = (some_time(rng, log), some_time(rng, log));
            let (from, to) = (one.min(other), one.max(other) + TimeDelta::microseconds(1));
            let known = if rng.random_bool(0.5) { newest } else { rng.random_range(0..=newest) };
            let mut expected: Vec<&Naive> = legs
                .iter()
                .filter(|leg| leg.account == code && leg.version as i64 <= known)
                .filter(|leg| from <= leg.effective_at && leg.effective_at < to)
                .collect();
            expected.sort_by_key(|leg| (leg.effective_at, leg.position, leg.version));
            let mut lines = Lines { known, after: (from, 0), to };
            let mut found = Vec::new();
            let chunk = rng.random_range(1..9) * (1 + expected.len() as i64 / 40);
            loop {
                let rows = as_of::lines(&mut *conn, of, lines, chunk).await.unwrap();
                let last = (rows.len() as i64) < chunk;
                lines.after = rows.last().map_or(lines.after, |row| (row.effective_at, row.version));
                found.extend(rows);
                if last {
                    break;
                }
            }
            let what = format!("{code} from {from} to {to}, {known} of {newest} known");
            assert_eq!(
                found.iter().map(|row| (row.version as u64, row.position as u64, row.amount.get())).collect::<Vec<_>>(),
                expected.iter().map(|leg| (leg.version, leg.position, leg.amount)).collect::<Vec<_>>(),
                "{what}"
            );
            let before = |time: DateTime<Utc>| Moment { position: None, time: Some(time - TimeDelta::microseconds(1)) };
            let opening = as_of::balance(&mut *conn, of, known, before(from)).await.unwrap().balance.get();
            let closing = as_of::balance(&mut *conn, of, known, before(to)).await.unwrap().balance.get();
            let signed = |leg: &&Naive| if leg.side == normal { leg.amount } else { -leg.amount };
            assert_eq!(opening + expected.iter().map(signed).sum::<i128>(), closing, "{what}");
        }
    }
}

/// As analysts ask.
async fn reports_are_the_folds(rng: &mut SmallRng, scratch: &Scratch, log: &[Event]) {
    let legs = naive(log);
    let mut conn = scratch.connect().await;
    sqlx::raw_sql("SET ROLE steelyard_analyst").execute(&mut conn).await.unwrap();
    for _ in 0..8 {
        let position = rng.random_range(0..=log.len()) as i64;
        let query = "SELECT account, asset, normal_side, balance::text, net_debit::text, as_of_position \
                     FROM reporting.balances_at('main', $1) ORDER BY account";
        let rows = sqlx::query(query).bind(position).fetch_all(&mut conn).await.unwrap();
        assert_eq!(rows.len(), ACCOUNTS.len().min(position as usize), "those that were open at {position}");
        for row in rows {
            let (account, normal): (String, String) = (row.get(0), row.get(2));
            let expected = sums(&legs, &account, Moment { position: Some(position as Position), time: None });
            let normal = Side::parse(&normal).unwrap();
            assert_eq!(row.get::<String, _>(3), counted(normal, expected).to_string(), "{account} at {position}");
            assert_eq!(row.get::<String, _>(4), (expected.0 - expected.1).to_string(), "{account} at {position}");
            assert_eq!(row.get::<i64, _>(5), position);
        }
    }
    for (wrong, told) in [
        ("SELECT count(*) FROM reporting.balances_at('main', 1000000)", "reach position"),
        ("SELECT count(*) FROM reporting.balances_at('main', -1)", "reach position"),
        ("SELECT count(*) FROM reporting.balances_at('none', 1)", "there is no ledger \"none\""),
        ("SELECT public.last_entry(0::smallint, 1, 1, 9, 9, now())", "permission denied for table entries"),
    ] {
        let error = sqlx::raw_sql(wrong).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains(told), "{wrong}: {error}");
    }
    conn.close().await.unwrap();
}

/// Everything in the two tables, whatever its order.
async fn kept(scratch: &Scratch) -> String {
    let mut conn = scratch.connect().await;
    let all = "SELECT concat((SELECT string_agg(b::text, E'\\n' ORDER BY b) FROM backdated b), E'\\n',
                             (SELECT string_agg(d::text, E'\\n' ORDER BY d) FROM backdated_days d))";
    let kept = sqlx::query_scalar(all).fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_is_what_a_naive_fold_of_the_log_gives() {
    let seed = seed();
    println!("STEELYARD_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (scratch, log) = lived(&mut rng, 400).await;
    let mut conn = scratch.database.connect_serving().await.unwrap();
    balances_are_the_folds(&mut rng, &mut conn, &log).await;
    trial_balances_are_the_folds(&mut rng, &mut conn, &log).await;
    sums_are_the_folds(&mut rng, &mut conn, &log).await;
    statements_are_the_folds(&mut rng, &mut conn, &log).await;
    reports_are_the_folds(&mut rng, &scratch, &log).await;

    let before = kept(&scratch).await;
    let verified = scratch.verify().await.unwrap();
    let backdated = naive(&log).into_iter().filter(|leg| leg.effective_at != leg.recorded_at);
    let (first, later): (Vec<_>, Vec<_>) = backdated.partition(|leg| leg.version <= FIRST_ENTRIES);
    assert!(first.len() > 1_000 && later.len() > 100, "{} and {}", first.len(), later.len());
    assert_eq!(verified.backdated, later.len() as u64);
    scratch.rebuild().await.unwrap();
    assert_eq!(kept(&scratch).await, before, "a rebuild gives what flushes gave");
    scratch.verify().await.unwrap();
    balances_are_the_folds(&mut rng, &mut conn, &log).await;
    statements_are_the_folds(&mut rng, &mut conn, &log).await;
    reports_are_the_folds(&mut rng, &scratch, &log).await;
}

/// A ledger from before first entries were left out has all that is back-dated in both tables.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_leaves_what_a_rebuild_would_make() {
    let (scratch, _) = lived(&mut SmallRng::seed_from_u64(9), 60).await;
    let before = kept(&scratch).await;
    let all_kept = "
        DELETE FROM backdated; DELETE FROM backdated_days;
        INSERT INTO backdated
        SELECT shard, ledger_id, account_id, version, side, amount, effective_at, recorded_at,
            coalesce(sum(amount) FILTER (WHERE side = 'debit') OVER so_far, 0),
            coalesce(sum(amount) FILTER (WHERE side = 'credit') OVER so_far, 0)
        FROM entries WHERE effective_at <> recorded_at
        WINDOW so_far AS (PARTITION BY shard, ledger_id, account_id ORDER BY version);
        INSERT INTO backdated_days
        SELECT shard, ledger_id, account_id, (effective_at AT TIME ZONE 'UTC')::date,
            coalesce(sum(amount) FILTER (WHERE side = 'debit'), 0),
            coalesce(sum(amount) FILTER (WHERE side = 'credit'), 0)
        FROM backdated GROUP BY 1, 2, 3, 4;";
    scratch.corrupt(all_kept).await;
    assert_ne!(kept(&scratch).await, before);
    scratch.corrupt(include_str!("../../migrations/0013_first_entries.sql")).await;
    assert_eq!(kept(&scratch).await, before);
    scratch.verify().await.unwrap();
}

/// The statement that does the damage, and what the finding must say.
const DAMAGE: [(&str, &str); 7] = [
    (
        "DELETE FROM backdated b WHERE version = (SELECT max(version) FROM backdated WHERE account_id = b.account_id) AND account_id = 4",
        "backdated of account liabilities:wallet:a: expected back-dated line",
    ),
    (
        "DELETE FROM backdated WHERE account_id = 4",
        "backdated of account liabilities:wallet:a: expected back-dated line",
    ),
    (
        "UPDATE backdated b SET debits_after = debits_after + 1
         WHERE version = (SELECT max(version) FROM backdated WHERE account_id = b.account_id) AND account_id = 1",
        "backdated of account assets:bank:one: expected back-dated line",
    ),
    (
        "UPDATE backdated b SET effective_at = effective_at + interval '1 microsecond'
         WHERE version = (SELECT min(version) FROM backdated WHERE account_id = b.account_id) AND account_id = 1",
        "effective at",
    ),
    (
        "INSERT INTO backdated SELECT shard, 1, 1, 1000000, 'debit', 1, now(), now(), 1, 1 FROM backdated WHERE account_id = 1 LIMIT 1",
        "backdated of account assets:bank:one: expected no other row, found back-dated line 1000000",
    ),
    (
        "UPDATE backdated_days SET credits = credits + 1
         WHERE account_id = 4 AND day = (SELECT min(day) FROM backdated_days WHERE account_id = 4)",
        "back-dated legs of account liabilities:wallet:a on 2026-",
    ),
    (
        "DELETE FROM backdated_days
         WHERE account_id = 4 AND day = (SELECT min(day) FROM backdated_days WHERE account_id = 4)",
        "back-dated legs of account liabilities:wallet:a on 2026-",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_what_was_back_dated_is_found_and_repaired() {
    let (good, _) = lived(&mut SmallRng::seed_from_u64(3), 120).await;
    let good = good.released().await;
    let before = kept(&good).await;
    let mut wrong = Vec::new();
    for (damage, expected) in DAMAGE {
        let scratch = good.cloned().await;
        scratch.corrupt(damage).await;
        let told = match scratch.verify().await {
            Err(Failure::Difference(difference)) => difference.to_string(),
            other => format!("{other:?}"),
        };
        if !told.contains(expected) {
            wrong.push(format!("{damage}\n  expected: {expected}\n  told:     {told}"));
        }
        scratch.rebuild().await.unwrap();
        scratch.verify().await.unwrap();
        assert_eq!(kept(&scratch).await, before, "{damage}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The fence of the flush is the fence of these rows too.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_is_refused_keeps_nothing_of_what_was_back_dated() {
    let (scratch, log) = lived(&mut SmallRng::seed_from_u64(5), 20).await;
    let before = kept(&scratch).await;
    let mut conn = scratch.database.connect_serving().await.unwrap();
    let (of, newest) = subject(&mut conn, "assets:bank:one").await;
    let epoch = "SELECT epoch FROM shard_claims WHERE shard = ";
    let epoch = scratch.number(&format!("{epoch}{}", of.shard)).await;
    let head = log.len() as Position;
    let leg = BackdatedLeg {
        shard: of.shard,
        account_id: of.account_id as u64,
        version: newest as u64 + 1,
        side: Side::Debit,
        amount: Amount::from(1),
        effective_at: time("2026-01-01T00:00:00Z"),
        recorded_at: time("2026-05-01T00:00:00Z"),
    };
    for (epoch, from) in [(epoch - 1, head), (epoch, head - 1)] {
        let flush = Flush { backdated: vec![leg], ..Flush::default() };
        let steps = [Step { shard: of.shard, epoch, from }];
        let flushed = store::projections::flush(&mut conn, 1, &steps, head + 1, &flush).await.unwrap();
        assert!(flushed.advanced.is_empty());
        assert_eq!(kept(&scratch).await, before);
    }
    // An account that stops leaves nothing either.
    let mut flush = Flush { backdated: vec![leg], ..Flush::default() };
    let b = &mut flush.balances;
    b.shard.push(of.shard);
    b.account_id.push(of.account_id);
    for totals in [&mut b.debits_posted, &mut b.credits_posted, &mut b.debits_pending, &mut b.credits_pending] {
        totals.push(Amount::ZERO);
    }
    b.version.push(newest + 3);
    b.previous_version.push(newest + 2);
    b.position.push(head as i64 + 1);
    let steps = [Step { shard: of.shard, epoch, from: head }];
    let flushed = store::projections::flush(&mut conn, 1, &steps, head + 1, &flush).await.unwrap();
    assert_eq!((flushed.advanced, flushed.faults), (vec![of.shard], 1));
    assert_eq!(kept(&scratch).await, before);
    // Nobody is told a balance of it from which something may be missing.
    let present = Moment { position: None, time: Some(time("2026-04-01T00:00:00Z")) };
    assert!(as_of::balance(&mut conn, of, newest, present).await.unwrap().is_stale);
    let end = Moment { position: Some(head + 1), time: None };
    assert!(as_of::balance(&mut conn, of, newest, end).await.unwrap().is_stale);
    let past = Moment { position: Some(head - 15), time: None };
    assert!(!as_of::balance(&mut conn, of, newest, past).await.unwrap().is_stale);
}
