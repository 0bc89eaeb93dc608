//! The recipes in docs/sql, each run as an analyst on made-up books, with the
//! figures that it must find; and the views that they read, against each other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use sqlx::AssertSqlSafe;
use steelyard::clock::ManualClock;
use steelyard::cluster::Worker;
use steelyard::cluster::worker::Options;
use steelyard::ledger::{AssetCode, Command, Expiry, LedgerName, Side, Terms, TransactionRequest};
use steelyard::store;

use crate::fixture::{Scratch, opening, payment, projected, serving, submit};
use crate::support::Postgres;

/// Month and day of 2026, from, to, amount and reference. Positions 9 to 19.
const BOOKS: [(u32, u32, &str, &str, u64, &str); 11] = [
    (1, 10, "bank:main", "wallet:alice", 10_000, "dep-1"),
    (1, 10, "bank:jpy", "wallet:yuki", 5_000, ""),
    (2, 1, "receivable:acme", "income:sales", 30_000, "inv-1"),
    (3, 1, "receivable:acme", "income:sales", 20_000, "inv-2"),
    (3, 5, "bank:main", "receivable:acme", 25_000, "pay-1"),
    (3, 20, "receivable:blum", "income:sales", 8_000, "inv-3"),
    (3, 21, "wallet:alice", "wallet:bob", 4_000, "order-1"),
    // Declined: more than bob has.
    (3, 21, "wallet:bob", "wallet:alice", 99_999, "order-2"),
    (3, 22, "wallet:alice", "bank:main", 2_500, "out-1"),
    (3, 22, "bank:main", "wallet:bob", 1_250, "dep-2"),
    (3, 25, "bank:main", "wallet:bob", 700, "dep-3"),
];

/// Month and day, from, to and amount of what is only authorised, after the books. One expires at the end of
/// the year.
const HOLDS: [(u32, u32, &str, &str, u64, bool); 3] = [
    (3, 26, "wallet:alice", "income:sales", 1_000, false),
    (3, 27, "wallet:alice", "income:sales", 300, true),
    (4, 10, "wallet:bob", "income:sales", 750, false),
];

const BANK_FILE: &str = "\
booked_on,reference,amount
2026-03-06,pay-1,250.00
2026-03-23,out-1,-25.00
2026-03-28,dep-2,12.50
2026-03-30,fee,-3.00
";

/// File, parameters, and what psql prints as CSV.
const RECIPES: &[(&str, &[&str], &str)] = &[
    (
        "statement.sql",
        &["account=wallet:alice", "from=2026-03-01", "to=2026-04-01"],
        "recorded_at,what,change,balance,asset
,opening balance,,100.00,EUR
2026-03-21 10:00,order-1,-40.00,60.00,EUR
2026-03-22 10:00,out-1,-25.00,35.00,EUR
,closing balance,,35.00,EUR
",
    ),
    (
        "trial_balance.sql",
        &[],
        "asset,accounts,debits,credits,net_debit
EUR,bank,369.50,25.00,344.50
EUR,income,0.00,580.00,-580.00
EUR,receivable,580.00,250.00,330.00
EUR,wallet,65.00,159.50,-94.50
EUR,total,1014.50,1014.50,0.00
JPY,bank,5000,0,5000
JPY,wallet,0,5000,-5000
JPY,total,5000,5000,0
",
    ),
    (
        "top_movers.sql",
        &["from=2026-03-01", "to=2026-04-01", "asset=EUR", "top=3"],
        "account,before,after,change,turnover
income:sales,300.00,580.00,280.00,280.00
bank:main,100.00,344.50,244.50,294.50
receivable:blum,0.00,80.00,80.00,80.00
",
    ),
    (
        "dormant_accounts.sql",
        &["days=60", "as_of=2026-04-01T00:00:00Z"],
        "account,asset,balance,last_line_on,idle_days
bank:jpy,JPY,5000,2026-01-10,80
wallet:yuki,JPY,5000,2026-01-10,80
",
    ),
    (
        "ageing.sql",
        &["prefix=receivable:", "as_of=2026-04-15T00:00:00Z"],
        "account,asset,balance,0-30,31-60,61-90,older
receivable:acme,EUR,250.00,0.00,200.00,50.00,0.00
receivable:blum,EUR,80.00,80.00,0.00,0.00,0.00
total,EUR,330.00,80.00,200.00,50.00,0.00
",
    ),
    (
        "holds.sql",
        &["as_of=2026-04-15T00:00:00Z", "prefix=wallet:"],
        "account,asset,holds,reserved,0-1,2-7,8-30,older,next_end
wallet:alice,EUR,2,13.00,0.00,0.00,13.00,0.00,2026-12-31 00:00
wallet:bob,EUR,1,7.50,0.00,7.50,0.00,0.00,
total,EUR,3,20.50,0.00,7.50,13.00,0.00,2026-12-31 00:00
",
    ),
    (
        "daily_volume.sql",
        &["from=2026-03-20", "to=2026-04-01"],
        "day,asset,posted,volume,rejected,rejected_percent,first_reason
2026-03-20,EUR,1,80.00,0,0.0,
2026-03-21,EUR,1,40.00,1,50.0,insufficient_funds
2026-03-22,EUR,2,37.50,0,0.0,
2026-03-25,EUR,1,7.00,0,0.0,
",
    ),
    (
        "bank_reconciliation.sql",
        &["account=bank:main", "from=2026-03-01", "to=2026-04-01"],
        "status,reference,amount,booked_on,recorded_on,position
date differs,dep-2,12.50,2026-03-28,2026-03-22,18
matched,pay-1,250.00,2026-03-06,2026-03-05,13
matched,out-1,-25.00,2026-03-23,2026-03-22,17
missing here,fee,-3.00,2026-03-30,,
missing there,dep-3,7.00,,2026-03-25,19
",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql")
}

fn morning_of(month: u32, day: u32) -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(2026, month, day).unwrap().and_hms_opt(10, 0, 0).unwrap().and_utc()
}

/// A ledger with nothing in it, and a worker on it whose clock is ours.
async fn begun() -> (Scratch, Worker, Arc<ManualClock>) {
    let scratch = Scratch::empty().await;
    let mut conn = scratch.database.pool().acquire().await.unwrap();
    store::ledgers::create(&mut conn, &LedgerName::new("main").unwrap()).await.unwrap();
    drop(conn);
    let clock = Arc::new(ManualClock::new(morning_of(1, 5)));
    let options = Options::new(scratch.database.clone(), "test".to_owned(), clock.clone());
    let worker = Worker::start(options).await.unwrap();
    serving(&worker).await;
    (scratch, worker, clock)
}

/// The books above, recorded on their days.
async fn books() -> Scratch {
    let (scratch, worker, clock) = begun().await;
    let ledger = worker.ledgers.get("main").unwrap();
    for (code, normal) in [
        ("bank:main", Side::Debit),
        ("wallet:alice", Side::Credit),
        ("wallet:bob", Side::Credit),
        ("receivable:acme", Side::Debit),
        ("receivable:blum", Side::Debit),
        ("income:sales", Side::Credit),
        ("bank:jpy", Side::Debit),
        ("wallet:yuki", Side::Credit),
    ] {
        let mut open = opening(code, normal, code.starts_with("wallet").then_some(0));
        if code.ends_with("jpy") || code.ends_with("yuki") {
            open.asset = AssetCode::new("JPY").unwrap();
        }
        submit(&ledger, Command::OpenAccount(open), None).await.unwrap();
    }
    for (index, (month, day, from, to, amount, reference)) in BOOKS.into_iter().enumerate() {
        clock.set(morning_of(month, day));
        let mut request = TransactionRequest {
            reference: (!reference.is_empty()).then(|| Arc::from(reference)),
            metadata: Some(Arc::from(format!(r#"{{"row":{index},"day":"{month}/{day}"}}"#))),
            ..payment(from, to, amount)
        };
        if from == "bank:jpy" {
            request.legs.iter_mut().for_each(|leg| leg.asset = AssetCode::new("JPY").unwrap());
        }
        submit(&ledger, Command::Transact(request), Some(&format!("key {index}"))).await.unwrap();
    }
    for (month, day, from, to, amount, expires) in HOLDS {
        clock.set(morning_of(month, day));
        let end = NaiveDate::from_ymd_opt(2026, 12, 31).unwrap().and_time(NaiveTime::MIN).and_utc();
        let hold = Some(if expires { Expiry::At(end) } else { Expiry::Never });
        let terms = Some(Box::new(Terms { hold, ..Terms::default() }));
        let request = TransactionRequest { terms, ..payment(from, to, amount) };
        submit(&ledger, Command::Transact(request), Some(&format!("hold {amount}"))).await.unwrap();
    }
    projected(&ledger).await;
    worker.stop().await;
    scratch
}

/// What a recipe prints as CSV, and what it complains of. It does so with an error.
async fn run(scratch: &Scratch, recipe: &str, parameters: &[&str], bank_file: &str) -> (String, String) {
    let psql = Postgres::shared().await.server().bin("psql").expect("psql is there");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bank_file).unwrap();
    let bank_file = format!("file={}", file.path().display());
    let parameters = parameters.iter().copied().chain([bank_file.as_str()]);
    let output = std::process::Command::new(&psql)
        .arg(scratch.url())
        .args(["--no-psqlrc", "--quiet", "--csv"])
        .args(parameters.flat_map(|parameter| ["-v", parameter]))
        .args(["-c", "SET ROLE steelyard_analyst", "-f"])
        .arg(folder().join(recipe))
        .env("TZ", "Asia/Tokyo")
        .output()
        .unwrap();
    assert_eq!(output.status.success(), output.stderr.is_empty(), "{recipe}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recipe_finds_what_is_there() {
    let scratch = books().await;
    let mut wrong = Vec::new();
    for (recipe, parameters, expected) in RECIPES {
        let (found, errors) = run(&scratch, recipe, parameters, BANK_FILE).await;
        if found != *expected || !errors.is_empty() {
            wrong.push(format!("{recipe}\nexpected\n{expected}\nfound\n{found}{errors}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is not given, and what is not there, is told and not answered with nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_says_what_it_lacks() {
    let (scratch, worker, _) = begun().await;
    worker.stop().await;
    let lacking: [(&str, &[&str], &str); 6] = [
        ("ageing.sql", &[], "give prefix with -v prefix="),
        ("bank_reconciliation.sql", &["account=bank:main", "from=2026-01-01"], "give to with -v to="),
        ("daily_volume.sql", &["to=2026-01-02"], "give from with -v from="),
        ("statement.sql", &["account=bank:main"], "give from with -v from="),
        ("statement.sql", &["account=nobody", "from=2026-01-01"], "there is no account nobody in the ledger main"),
        ("top_movers.sql", &["from=2026-01-01"], "give asset with -v asset="),
    ];
    for (recipe, parameters, expected) in lacking {
        let (found, errors) = run(&scratch, recipe, parameters, BANK_FILE).await;
        assert!(found.is_empty() && errors.contains(expected), "{recipe}: {found}{errors}");
        assert_eq!(errors.matches("ERROR:").count(), 1, "{recipe}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fee_that_comes_every_day_is_matched_with_the_nearest() {
    let (scratch, worker, clock) = begun().await;
    let ledger = worker.ledgers.get("main").unwrap();
    for (code, normal) in [("bank:main", Side::Debit), ("expenses:fees", Side::Debit)] {
        submit(&ledger, Command::OpenAccount(opening(code, normal, None)), None).await.unwrap();
    }
    // From 25 October to 10 December: positions 3 to 49.
    for n in 0..47 {
        clock.set(morning_of(10, 25) + TimeDelta::days(n));
        let fee = Command::Transact(payment("expenses:fees", "bank:main", 100));
        submit(&ledger, fee, Some(&format!("fee {n}"))).await.unwrap();
    }
    projected(&ledger).await;
    worker.stop().await;
    let bank = |lines: &[String]| format!("booked_on,reference,amount\n{}", lines.concat());
    let line = |month: u32, day: u32| format!("2026-{month:02}-{day:02},,-1.00\n");
    let november: Vec<String> = (1..=30).map(|day| line(11, day)).collect();
    let matched = |day: u32| format!("matched,,-1.00,2026-11-{day:02},2026-11-{day:02},{}\n", day + 9);
    let parameters = ["account=bank:main", "from=2026-11-01", "to=2026-12-01"];
    let heading = "status,reference,amount,booked_on,recorded_on,position\n";

    let (found, errors) = run(&scratch, "bank_reconciliation.sql", &parameters, &bank(&november)).await;
    let all: String = (1..=30).map(matched).collect();
    assert_eq!((found, errors), (format!("{heading}{all}"), String::new()));

    // One that the bank took twice, and one that it did not take.
    let mut lines = november;
    lines[19] = line(11, 5);
    let (found, errors) = run(&scratch, "bank_reconciliation.sql", &parameters, &bank(&lines)).await;
    let rest: String = (1..=30).filter(|day| *day != 20).map(matched).collect();
    let wrong = "missing here,,-1.00,2026-11-05,,\nmissing there,,-1.00,,2026-11-20,29\n";
    assert_eq!((found, errors), (format!("{heading}{rest}{wrong}"), String::new()));
}

#[test]
fn every_recipe_has_its_expectation_and_is_listed() {
    let listed = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    files.sort_unstable();
    let mut expected: Vec<&str> = RECIPES.iter().map(|(name, ..)| *name).collect();
    expected.sort_unstable();
    assert_eq!(files, expected, "a recipe without an expectation is one that may be wrong");
    for name in files {
        assert!(listed.contains(&format!("[{name}]({name})")), "{name} is not in docs/sql/README.md");
        let text = std::fs::read_to_string(folder().join(&name)).unwrap();
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("--")).collect();
        assert!(head[0].ends_with('?') && head.len() > 6, "{name} says first which question it answers, and how");
    }
}

/// Queries that find nothing while the views agree.
const DISAGREEMENTS: &[&str] = &[
    // A day begins with what the day before ended with.
    "SELECT count(*) FROM reporting.daily_balances d JOIN reporting.daily_balances y
     ON y.account = d.account AND y.day = d.day - 1 WHERE y.closing_balance <> d.opening_balance",
    // And the last day ends with the balance.
    "SELECT count(*) FROM reporting.accounts a LEFT JOIN reporting.daily_balances d
     ON d.account = a.account AND d.day = (now() AT TIME ZONE 'UTC')::date
     WHERE d.closing_balance IS DISTINCT FROM a.balance",
    "SELECT count(*) FROM reporting.accounts a JOIN (
        SELECT account, sum(debits) AS debits, sum(credits) AS credits, sum(lines) AS lines
        FROM reporting.daily_balances GROUP BY account) d USING (account)
     WHERE (a.debits_posted, a.credits_posted, a.version) IS DISTINCT FROM (d.debits, d.credits, d.lines)",
    "SELECT count(*) FROM (
        SELECT FROM reporting.transaction_legs GROUP BY transaction_id, asset HAVING sum(net_debit) <> 0) t",
    "SELECT count(*) FROM reporting.statement_lines s
     LEFT JOIN reporting.transaction_legs l ON l.position = s.position AND l.account = s.account
     WHERE (l.side, l.amount, l.balance_after, l.asset, l.status)
        IS DISTINCT FROM (s.side, s.amount, s.balance_after, s.asset, 'posted')",
    "SELECT count(*) FROM reporting.transactions t FULL JOIN reporting.rejections r USING (transaction_id)
     WHERE coalesce(t.status, '') NOT IN ('posted', 'authorised')
        AND (t.reason, t.asset, t.amount, t.from_account, t.to_account, t.reference, t.position, t.idempotency_key, t.type)
        IS DISTINCT FROM (r.reason, r.asset, r.amount, r.from_account, r.to_account, r.reference, r.position, r.idempotency_key, r.type)",
    "SELECT count(*) FROM reporting.balances_by_prefix p WHERE p.net_debit IS DISTINCT FROM (
        SELECT sum(t.net_debit) FROM reporting.trial_balance t
        WHERE t.asset = p.asset AND (t.account = p.prefix OR starts_with(t.account, p.prefix || ':')))",
    "SELECT count(*) FROM reporting.transactions t
     WHERE (SELECT jsonb_object_agg(m.key, m.value) FROM reporting.transaction_metadata m WHERE m.position = t.first_position)
        IS DISTINCT FROM (SELECT jsonb_object_agg(key, value) FROM jsonb_each_text(t.metadata))",
];

/// Queries with what they find.
const FIGURES: &[(&str, &str)] = &[
    (
        "SELECT string_agg(concat_ws(' ', day, opening_balance, debits, credits, closing_balance, lines), ', ' ORDER BY day)
         FROM reporting.daily_balances
         WHERE account = 'wallet:alice' AND day BETWEEN '2026-03-20' AND '2026-03-22'",
        "2026-03-20 10000 0 0 10000 0, 2026-03-21 10000 4000 0 6000 1, 2026-03-22 6000 2500 0 3500 1",
    ),
    (
        "SELECT string_agg(concat_ws(' ', prefix, depth, asset, accounts, net_debit), ', ' ORDER BY prefix, asset)
         FROM reporting.balances_by_prefix WHERE prefix LIKE 'bank%'",
        "bank 1 EUR 1 34450, bank 1 JPY 1 5000, bank:jpy 2 JPY 1 5000, bank:main 2 EUR 1 34450",
    ),
    (
        "SELECT concat_ws(' ', day, reason, asset, rejections, amount) FROM reporting.rejections_by_reason",
        "2026-03-21 insufficient_funds EUR 1 99999",
    ),
    (
        "SELECT concat_ws(' ', account, available, would_be, amount) FROM reporting.rejections",
        "wallet:bob 4000 -95999 99999",
    ),
    (
        "SELECT string_agg(concat_ws(' ', leg, account, side, net_debit, balance_after), ', ' ORDER BY leg)
         FROM reporting.transaction_legs WHERE reference = 'pay-1'",
        "1 bank:main debit 25000 35000, 2 receivable:acme credit -25000 25000",
    ),
    (
        "SELECT string_agg(concat_ws(' ', from_account, remaining, extract(day FROM expires_at AT TIME ZONE 'UTC')), ', ' ORDER BY position)
         FROM reporting.holds_outstanding WHERE age > interval '0'",
        "wallet:alice 1000, wallet:alice 300 31, wallet:bob 750",
    ),
    ("SELECT count(*)::text FROM reporting.daily_balances WHERE account = 'bank:main' AND day < '2026-02-01'", "27"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_views_agree_with_each_other() {
    let scratch = books().await;
    let mut analyst = scratch.connect().await;
    sqlx::raw_sql("SET ROLE steelyard_analyst").execute(&mut analyst).await.unwrap();
    for query in DISAGREEMENTS {
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(*query)).fetch_one(&mut analyst).await.unwrap();
        assert_eq!(rows, 0, "{query}");
    }
    for (query, expected) in FIGURES {
        let found: String = sqlx::query_scalar(AssertSqlSafe(*query)).fetch_one(&mut analyst).await.unwrap();
        assert_eq!(found, *expected, "{query}");
    }
    drop(analyst);
    // A shard that is ahead of the cut shows no more than the others.
    scratch.corrupt("UPDATE checkpoints SET position = 17 WHERE shard = 63").await;
    let behind = "SELECT count(*) FROM reporting.daily_balances WHERE as_of_position <> 17 OR
        (account = 'wallet:bob' AND day = '2026-03-25' AND closing_balance <> 4000)";
    assert_eq!(scratch.number(behind).await, 0);
}
