//! Faults: the real process on a real PostgreSQL, while payments flow, holds expire
//! and schedules come due, with one of them killed, cut off or frozen.
//!
//! Each round does one thing, drawn from a seed that is printed:
//! `STEELYARD_SEED=… STEELYARD_ROUNDS=1 cargo test --test faults` runs it again.
//! After each round every request has one definite answer for ever, the log has
//! each exactly once, and `verify` passes. Some rounds pay in large batches, whose
//! appends overlap. It takes some minutes, and is what "acknowledged means
//! durable" and "exactly once" rest on.

mod history;
#[expect(dead_code, reason = "a black hole is for replicas, of which another takes over")]
mod proxy;
mod safeties;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgConnection;
use steelyard::embedded_pg::EmbeddedPg;
use steelyard::store::Database;
use tokio_util::sync::CancellationToken;

use history::{FUNDS, History, Wish};
use proxy::{Direction, Fault, Proxy, place};
use support::{Postgres, Process, eventually};

/// Rounds that `cargo test` makes; longer runs set `STEELYARD_ROUNDS`.
const ROUNDS_DEFAULT: u64 = 200;
/// Lanes that make rounds at the same time, each with a PostgreSQL of its own:
/// most of a round is waiting.
const LANES: u64 = 4;
/// Rounds on one database, before a fresh one keeps `verify` quick.
const ROUNDS_PER_DATABASE: u64 = 10;
/// Clients that pay at a time.
const CLIENTS: u32 = 8;
/// Clients that pay in batches, in one round of so many.
const BATCHERS: u32 = 2;
const BATCH_ROUNDS: u64 = 4;

/// How long the takeover from a frozen process may take: five seconds until it
/// counts as gone, and what a slow machine needs to end its sessions and to load.
const FREEZE_TAKEOVER_MAX: Duration = Duration::from_secs(9);
/// How long the takeover from a killed process may take, from the kill to the
/// next payment that is answered.
const KILL_TAKEOVER_MAX: Duration = Duration::from_secs(2);

/// How long a process may take to serve, on a slow machine.
const READY_WAIT: Duration = Duration::from_secs(30);

/// How long a fault that waits for its moment is waited for.
const FAILPOINT_WAIT: Duration = Duration::from_millis(700);

/// What a round does to the ledger.
#[derive(Clone, Copy, Debug)]
enum Strike {
    /// The process dies, as by `kill -9`, when it passes a point for the n-th time.
    Failpoint(&'static str, u32),
    /// A task of the process panics there.
    Panic(&'static str, u32),
    /// The process dies at any time.
    Kill,
    /// The process stops for so long that another takes over, and then goes on.
    Freeze,
    /// The same, at a point that it passes for the n-th time.
    FreezeAt(&'static str, u32),
    /// PostgreSQL ends one of our sessions, or all, several times.
    Terminate { all: bool, times: u32 },
    /// PostgreSQL dies at once, and starts again.
    Postgres,
    /// The connections to PostgreSQL are cut or stalled after so many bytes.
    Network(Fault, Direction, u32),
}

/// Points at which a process may die.
const POINTS: [&str; 7] =
    ["settle", "before_append", "before_commit", "before_reply", "before_flush", "during_flush", "after_flush"];
/// Points at which a task may panic: the engine, an append, the projector.
const PANICS: [&str; 4] = ["on_committed", "before_append", "folded", "before_flush"];

impl Strike {
    /// What arms the point, if there is one: that happens when a process starts.
    fn failpoint(self) -> Option<String> {
        match self {
            Self::Failpoint(name, count) => Some(format!("{name}:{count}")),
            Self::FreezeAt(name, count) => Some(format!("{name}:{count}:stop")),
            Self::Panic(name, count) => Some(format!("{name}:{count}:panic")),
            _ => None,
        }
    }

    fn draw(random: &mut SmallRng) -> Self {
        match random.random_range(0..100) {
            0..35 => Self::Failpoint(POINTS[random.random_range(0..POINTS.len())], random.random_range(1..25)),
            35..40 => Self::Panic(PANICS[random.random_range(0..PANICS.len())], random.random_range(1..25)),
            40..48 => Self::Kill,
            48..50 => Self::Freeze,
            50..70 => Self::Terminate { all: random.random(), times: random.random_range(1..4) },
            70..76 => Self::Postgres,
            _ => {
                let fault = if random.random() { Fault::Cut } else { Fault::Stall };
                let direction = if random.random() { Direction::ToServer } else { Direction::ToClient };
                Self::Network(fault, direction, random.random_range(1..60_000))
            }
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_payments_survive_every_fault_exactly_once() {
    let seed = setting("STEELYARD_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let rounds = setting("STEELYARD_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    println!("STEELYARD_SEED={seed} STEELYARD_ROUNDS={rounds}");
    let per_lane = rounds.div_ceil(LANES);
    let starts = (0..rounds).step_by(usize::try_from(per_lane).expect("a few"));
    let lanes = starts.map(|first| lane(seed + first, per_lane.min(rounds - first)));
    futures::future::join_all(lanes).await;
    println!("{rounds} rounds");
}

async fn lane(seed: u64, rounds: u64) {
    let postgres = Postgres::start().await;
    let mut done = 0;
    while done < rounds {
        let url = postgres.database().await;
        let batch = ROUNDS_PER_DATABASE.min(rounds - done);
        Stage::new(&postgres, &url).await.play(seed + done, batch).await;
        done += batch;
    }
}

/// One database with its rounds.
struct Stage<'a> {
    postgres: &'a Postgres,
    /// Past the proxy.
    database: Database,
    proxy: Proxy,
    url: String,
}

impl<'a> Stage<'a> {
    async fn new(postgres: &'a Postgres, url: &str) -> Self {
        let (socket, _) = place(url);
        let proxy = Proxy::start(socket).await;
        let through = proxy.url(url);
        Self { postgres, database: Database::new(url).expect("a URL"), proxy, url: through }
    }

    async fn play(self, first_seed: u64, rounds: u64) {
        let mut process = Process::spawn(&self.url, &[]).await;
        let history = History::begin(&ready(&process).await).await;
        for seed in first_seed..first_seed + rounds {
            let mut random = SmallRng::seed_from_u64(seed);
            let strike = Strike::draw(&mut random);
            println!("seed {seed}: {strike:?}");
            process = self.round(strike, process, &history, seed, &mut random).await;
        }
        println!("{} requests and {} reads answered", history.answered(), history.reads());
        println!("{}", self.recorded().await);
        self.end(process).await;
    }

    /// How many events there are of each sort.
    async fn recorded(&self) -> String {
        let mut conn = self.database.connect_owner().await.expect("PostgreSQL is there");
        sqlx::query_scalar(
            "SELECT string_agg(concat_ws(' ', sort, events), ', ' ORDER BY events DESC) FROM (
                 SELECT concat_ws(' ', type, payload -> 'rejection' ->> 'code', payload ->> 'kind') AS sort, count(*) AS events
                 FROM events GROUP BY sort
             ) sorts",
        )
        .fetch_one(&mut conn)
        .await
        .expect("the log can be read")
    }

    /// Pays while the strike is made, and checks what came of it.
    async fn round(
        &self,
        strike: Strike,
        mut process: Process,
        history: &Arc<History>,
        seed: u64,
        random: &mut SmallRng,
    ) -> Process {
        if let Some(setting) = strike.failpoint() {
            process.kill().await;
            process = Process::spawn(&self.url, &[("STEELYARD_FAILPOINT", &setting)]).await;
            history.set_base(process.origin());
            // What came due meanwhile is settled at once, so it may come to the point already.
            let ready = format!("{}/readyz", process.origin());
            eventually("the process serves, or has ended", async || {
                process.has_ended() || reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success())
            })
            .await;
        }
        let stop = CancellationToken::new();
        let batchers = if seed.is_multiple_of(BATCH_ROUNDS) { BATCHERS } else { 0 };
        let paying = history.pay_until(stop.clone(), CLIENTS, batchers, seed);
        let striking = async {
            let process = match self.strike(strike, process, history, random).await {
                Some(process) => process,
                None => Process::spawn(&self.url, &[]).await,
            };
            history.set_base(&ready(&process).await);
            // A little of life after it.
            tokio::time::sleep(Duration::from_millis(30)).await;
            stop.cancel();
            process
        };
        let ((), process) = tokio::join!(paying, striking);
        let mut conn = self.database.connect_owner().await.expect("PostgreSQL is back");
        history.settle_and_check(&self.database, &mut conn).await;
        process
    }

    /// Waits until the projections have all there is.
    async fn projected(&self) {
        let mut conn = self.database.connect_owner().await.expect("PostgreSQL is there");
        let behind = "SELECT (SELECT min(position) FROM checkpoints) < (SELECT max(position) FROM events)";
        eventually("all is projected", async || {
            !sqlx::query_scalar::<_, bool>(behind).fetch_one(&mut conn).await.expect("a position")
        })
        .await;
    }

    /// Starts another process, which takes over from a frozen one, and lets that
    /// one go on, with its claims lost.
    async fn take_over(&self, frozen: Process, history: &History) -> Process {
        let second = Process::spawn(&self.url, &[]).await;
        let started = Instant::now();
        history.set_base(&ready(&second).await);
        while !history.is_answered_anew().await {
            assert!(started.elapsed() < FREEZE_TAKEOVER_MAX, "{:?}", started.elapsed());
        }
        frozen.stop_or_continue(true);
        // Its sessions are gone and its claims with them; it joins anew.
        frozen
            .logs(|line| {
                line["message"] == "the claims connection is lost; all claims with it"
                    || line["message"] == "another worker took over; rejoining"
            })
            .await;
        history.ask_anew().await;
        frozen.kill().await;
        second
    }

    async fn end(self, process: Process) {
        self.database.pool().close().await;
        let ended = process.terminate().await;
        assert!(ended.success(), "{ended:?}");
    }

    /// Strikes, and returns when the cause is gone, with the process if it lives.
    async fn strike(
        &self,
        strike: Strike,
        mut process: Process,
        history: &History,
        random: &mut SmallRng,
    ) -> Option<Process> {
        let a_moment = Duration::from_millis(random.random_range(5..120));
        match strike {
            Strike::Failpoint(..) => {
                // One that has not come to its point might do so when nobody expects it.
                if tokio::time::timeout(FAILPOINT_WAIT, process.ended()).await.is_err() {
                    process.kill().await;
                }
                return None;
            }
            Strike::Panic(name, _) => {
                let panicked = process.logs(|line| says(line, &format!("failpoint {name}")));
                _ = tokio::time::timeout(FAILPOINT_WAIT, panicked).await;
            }
            Strike::Freeze => {
                tokio::time::sleep(a_moment).await;
                process.stop_or_continue(false);
                return Some(self.take_over(process, history).await);
            }
            Strike::FreezeAt(..) => {
                eventually("the process stops", async || process.is_stopped()).await;
                return Some(self.take_over(process, history).await);
            }
            Strike::Kill => {
                tokio::time::sleep(a_moment).await;
                process.kill().await;
                return None;
            }
            Strike::Terminate { all, times } => {
                let mut conn = self.database.connect_owner().await.expect("PostgreSQL is there");
                for _ in 0..times {
                    tokio::time::sleep(a_moment).await;
                    terminate(&mut conn, all, random.random()).await;
                }
            }
            Strike::Postgres => {
                tokio::time::sleep(a_moment).await;
                restart(self.postgres.server()).await;
            }
            Strike::Network(fault, direction, bytes) => {
                self.proxy.arm(fault, direction, bytes);
                _ = tokio::time::timeout(FAILPOINT_WAIT, self.proxy.struck()).await;
                tokio::time::sleep(a_moment).await;
                self.proxy.heal();
            }
        }
        Some(process)
    }
}

/// Whether a line of the log that is no JSON, such as a panic's, says so.
fn says(line: &serde_json::Value, what: &str) -> bool {
    line.as_str().is_some_and(|line| line.contains(what))
}

/// A defect in one task must not leave a ledger that reports ready and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_panic_the_ledger_serves_again_and_nothing_is_lost_or_doubled() {
    let postgres = Postgres::start().await;
    // Of the first append the outcome is not known, and the accounts it was decided
    // on were prefetched: whoever decides it again must fetch them again.
    for (point, count) in PANICS.map(|point| (point, 5)).into_iter().chain([("before_append", 1)]) {
        let url = postgres.database().await;
        let stage = Stage::new(&postgres, &url).await;
        let process = Process::spawn(&stage.url, &[]).await;
        let history = History::begin(&ready(&process).await).await;
        stage.projected().await;
        let strike = Strike::Panic(point, count);
        let process = stage.round(strike, process, &history, 1, &mut SmallRng::seed_from_u64(1)).await;
        process.logs(|line| says(line, &format!("failpoint {point}"))).await;
        // It has served since, the same process.
        history.ask_anew().await;
        stage.end(process).await;
    }
}

/// A full disk or a log collector that died must not stop payments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_log_goes_on() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let stage = Stage::new(&postgres, &url).await;
    let mut process = Process::spawn(&stage.url, &[]).await;
    let history = History::begin(&ready(&process).await).await;
    process.close_log().await;
    // Every task has something to say about this.
    let process = stage.round(Strike::Postgres, process, &history, 1, &mut SmallRng::seed_from_u64(1)).await;
    history.ask_anew().await;
    stage.end(process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_under_load_another_process_answers_within_two_seconds() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let stage = Stage::new(&postgres, &url).await;
    let first = Process::spawn(&stage.url, &[]).await;
    let history = History::begin(&ready(&first).await).await;
    let second = Process::spawn(&stage.url, &[]).await;
    second.serves().await;
    let stop = CancellationToken::new();
    let paying = history.pay_until(stop.clone(), CLIENTS, BATCHERS, 1);
    let striking = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        history.set_base(second.origin());
        let started = Instant::now();
        first.kill().await;
        while !history.is_answered_anew().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("answered {:?} after the kill", started.elapsed());
        stop.cancel();
        started.elapsed()
    };
    let ((), taken) = tokio::join!(paying, striking);
    assert!(taken < KILL_TAKEOVER_MAX, "{taken:?}");
    let mut conn = stage.database.connect_owner().await.expect("PostgreSQL is there");
    history.settle_and_check(&stage.database, &mut conn).await;
    stage.end(second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_freezes_anywhere_is_taken_over_and_is_refused_when_it_thaws() {
    let postgres = Postgres::start().await;
    let strikes = [
        Strike::Freeze,
        // In the middle of the COPY of a large batch, and between COPY and COMMIT.
        Strike::FreezeAt("during_copy", 3),
        Strike::FreezeAt("before_commit", 3),
        Strike::FreezeAt("during_flush", 3),
    ];
    let rounds = strikes.map(async |strike| {
        let url = postgres.database().await;
        let stage = Stage::new(&postgres, &url).await;
        let process = Process::spawn(&stage.url, &[]).await;
        let history = History::begin(&ready(&process).await).await;
        let process = stage.round(strike, process, &history, 0, &mut SmallRng::seed_from_u64(1)).await;
        stage.end(process).await;
    });
    futures::future::join_all(rounds).await;
}

/// Whatever is asked for first after the start, what had come due before is settled
/// before it; and what nobody asks for is settled too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_due_while_nobody_serves_is_settled_before_anything_sees_it() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let stage = Stage::new(&postgres, &url).await;
    let process = Process::spawn(&stage.url, &[]).await;
    let history = History::begin(&ready(&process).await).await;
    let [payer, holder, reader, silent] = ["wallet:1", "wallet:2", "wallet:3", "wallet:4"];
    for account in [payer, holder, reader, silent] {
        let hold = Wish::authorise(account, "bank", FUNDS, 1);
        assert!(history.ask(format!("hold-{account}"), hold).await);
    }
    // It can be posted only after the hold has expired.
    let schedule = Wish::pay(holder, "bank", FUNDS).at(history.now() + TimeDelta::milliseconds(1_100));
    assert!(history.ask("schedule".to_owned(), schedule).await);
    process.kill().await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;

    let process = Process::spawn(&stage.url, &[]).await;
    history.set_base(&ready(&process).await);
    assert!(history.ask("all".to_owned(), Wish::pay(payer, "bank", FUNDS)).await);
    assert!(history.ask("more".to_owned(), Wish::pay(holder, "bank", 1)).await);
    assert_eq!((history.status("all"), history.status("more")), (Some(201), Some(422)));
    history.read(reader).await;
    let mut conn = stage.database.connect_owner().await.expect("PostgreSQL is there");
    history.settle_and_check(&stage.database, &mut conn).await;
    let expired: i64 = sqlx::query_scalar("SELECT count(*) FROM events WHERE type = 'hold_expired'")
        .fetch_one(&mut conn)
        .await
        .expect("a number");
    assert_eq!(expired, 4);
    stage.end(process).await;
}

/// Whoever takes over from a worker with a fast clock goes on from its time, not
/// from that of a clock of its own that is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_time_stands_still_rather_than_run_backwards_when_clocks_differ_by_two_minutes() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let stage = Stage::new(&postgres, &url).await;
    let fast = Process::spawn(&stage.url, &[("STEELYARD_CLOCK_SKEW_MS", "60000")]).await;
    let history = History::begin_with_clocks_apart(&ready(&fast).await, TimeDelta::minutes(1)).await;
    fast.kill().await;
    let mut conn = stage.database.connect_owner().await.expect("PostgreSQL is there");
    // The last position, and by how much its time is ahead.
    let last = "SELECT position, extract(epoch FROM recorded_at - clock_timestamp())::float8, recorded_at
                FROM events ORDER BY position DESC LIMIT 1";
    let before: (i64, f64, chrono::DateTime<chrono::Utc>) =
        sqlx::query_as(last).fetch_one(&mut conn).await.expect("an event");
    assert!((30.0..60.0).contains(&before.1), "{before:?}");
    let slow = Process::spawn(&stage.url, &[("STEELYARD_CLOCK_SKEW_MS", "-60000")]).await;
    history.set_base(&ready(&slow).await);
    history.ask_anew().await;
    let after: (i64, f64, chrono::DateTime<chrono::Utc>) =
        sqlx::query_as(last).fetch_one(&mut conn).await.expect("an event");
    assert_eq!((after.0, after.2), (before.0 + 1, before.2));
    history.settle_and_check(&stage.database, &mut conn).await;
    stage.end(slow).await;
}

/// Waits until the process serves, and says where.
async fn ready(process: &Process) -> String {
    let origin = process.origin().to_owned();
    let url = format!("{origin}/readyz");
    let serves = eventually("the process serves", async || {
        reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success())
    });
    if tokio::time::timeout(READY_WAIT, serves).await.is_err() {
        let (log, answer) = (process.log(), reqwest::get(&url).await);
        let answer = answer.expect("an answer").text().await;
        panic!("the process does not serve: {answer:?}, {:#?}", log.borrow().iter().rev().take(40).collect::<Vec<_>>());
    }
    origin
}

async fn terminate(conn: &mut PgConnection, all: bool, pick: u64) {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'steelyard %' AND pid <> pg_backend_pid()
         ORDER BY pid",
    )
    .fetch_all(&mut *conn)
    .await
    .expect("sessions can be listed");
    for (index, pid) in pids.iter().enumerate() {
        if all || index as u64 == pick % pids.len() as u64 {
            sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut *conn).await.expect("terminated");
        }
    }
}

async fn restart(server: &EmbeddedPg) {
    server.stop_immediate().await.expect("PostgreSQL stops");
    server.start().await.expect("PostgreSQL starts");
}
