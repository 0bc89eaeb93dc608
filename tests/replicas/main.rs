//! Three replicas behind HAProxy with the configuration that we ship, while
//! payments flow: killed, frozen, stopped, cut off from PostgreSQL, restarted, with
//! the claims connection in a black hole, and clocks that are off by up to a minute.
//!
//! Each round does one thing, drawn from a seed that is printed:
//! `STEELYARD_SEED=… STEELYARD_ROUNDS=1 cargo test --test replicas` runs it again;
//! `STEELYARD_ROUNDS=2000` makes a long run. After each round every request has
//! one definite answer for ever, the log has each exactly once, its order is one in
//! which each payment and each read took effect between its call and its answer,
//! every rejection is justified where it stands, and the projections are a fresh
//! fold of the log. It buys what no smaller test can: that hand-over, forwarding
//! and takeover lose nothing together.

#[path = "../faults/history/mod.rs"]
#[expect(dead_code, reason = "the service does not move here: HAProxy stays where it is")]
mod history;
#[path = "../faults/proxy.rs"]
#[expect(dead_code, reason = "connections are swallowed here, and not counted by the byte")]
mod network;
mod proxy;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sqlx::PgConnection;
use steelyard::store::Database;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use history::History;
use network::Proxy;
use proxy::HaProxy;
use support::{Postgres, Process, WAIT, eventually};

/// Each test has the machine for itself: three replicas, HAProxy and PostgreSQL are
/// enough for two cores, and some of the tests measure gaps.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Rounds that `cargo test` makes.
const ROUNDS_DEFAULT: u64 = 50;
/// Rounds on one database, before a fresh one keeps `verify` quick.
const ROUNDS_PER_DATABASE: u64 = 10;
/// Clients that pay at a time.
const CLIENTS: u32 = 6;
/// How far a replica's clock may be off, either way.
const SKEW_MAX_MS: i64 = 60_000;
/// Clocks that are off as far as they may be: one is slow, one right, one fast.
const SKEWS_MS: [i64; 3] = [-SKEW_MAX_MS, 0, SKEW_MAX_MS];
/// Longer than a worker may be silent before it counts as gone.
const FROZEN: Duration = Duration::from_millis(6_500);
/// Longer than a request waits for its answer, shorter than HAProxy does: what thaws can only say that it does not know.
const FROZEN_LONG: Duration = Duration::from_millis(10_500);

/// One freeze in so many is the long one.
const FREEZES_PER_LONG_ONE: u32 = 5;

/// What a round does to the replicas.
#[derive(Clone, Copy, Debug)]
enum Strike {
    /// One is killed, and another started in its place.
    Kill(usize),
    /// One is told to stop, and another started in its place.
    Stop(usize),
    /// One is frozen for longer than the others wait for it, or even than a
    /// request waits for its answer, and thaws.
    Freeze { which: usize, long: bool },
    /// Nothing comes through any more on the claims connection of one, and nobody
    /// is told, until the others have taken over; then what was sent arrives, or
    /// the connection is cut.
    BlackHole { which: usize, cut: bool },
    /// One is started, and later stopped.
    Join,
    /// PostgreSQL ends some of our sessions, or all.
    Terminate { all: bool },
    /// PostgreSQL dies at once, and starts again.
    Postgres,
}

impl Strike {
    fn draw(random: &mut SmallRng) -> Self {
        let which = random.random_range(0..3);
        match random.random_range(0..100) {
            0..28 => Self::Kill(which),
            28..46 => Self::Stop(which),
            46..56 => Self::Freeze { which, long: random.random_range(0..FREEZES_PER_LONG_ONE) == 0 },
            56..62 => Self::BlackHole { which, cut: random.random() },
            62..70 => Self::Join,
            70..90 => Self::Terminate { all: random.random() },
            _ => Self::Postgres,
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_under_faults_lose_nothing_and_answer_once() {
    let _alone = ALONE.lock().await;
    let seed = setting("STEELYARD_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let rounds = setting("STEELYARD_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    println!("STEELYARD_SEED={seed} STEELYARD_ROUNDS={rounds}");
    let postgres = Postgres::start().await;
    let mut done = 0;
    while done < rounds {
        let replicas = Replicas::start(postgres.database().await, draw_skews_ms(seed + done)).await;
        let batch = ROUNDS_PER_DATABASE.min(rounds - done);
        play(replicas, &postgres, seed + done, batch).await;
        done += batch;
    }
    println!("{done} rounds");
}

async fn play(mut replicas: Replicas, postgres: &Postgres, first_seed: u64, rounds: u64) {
    let database = Database::new(&replicas.url).expect("a URL");
    let clocks_apart = TimeDelta::milliseconds(SKEW_MAX_MS);
    let history = History::begin_with_clocks_apart(&replicas.proxy.origin(), clocks_apart).await;
    for seed in first_seed..first_seed + rounds {
        let mut random = SmallRng::seed_from_u64(seed);
        let strike = Strike::draw(&mut random);
        println!("seed {seed}: {strike:?}");
        let stop = CancellationToken::new();
        let paying = history.pay_until(stop.clone(), CLIENTS, 0, seed);
        let striking = async {
            tokio::time::sleep(Duration::from_millis(random.random_range(20..200))).await;
            replicas.strike(strike, postgres, &database, &mut random).await;
            replicas.serve().await;
            stop.cancel();
        };
        tokio::join!(paying, striking);
        let mut conn = database.connect_owner().await.expect("PostgreSQL is back");
        history.settle_and_check(&database, &mut conn).await;
    }
    println!("{} requests and {} reads answered", history.answered(), history.reads());
    database.pool().close().await;
    replicas.stop().await;
}

/// By how much each replica's clock is off.
fn draw_skews_ms(seed: u64) -> [i64; 3] {
    // Another sequence than that of the strike with the same seed.
    let mut random = SmallRng::seed_from_u64(!seed);
    let skews_ms = [0; 3].map(|_: i64| random.random_range(-SKEW_MAX_MS..=SKEW_MAX_MS));
    println!("clocks are off by {skews_ms:?} ms");
    skews_ms
}

/// Three processes on fixed ports, and HAProxy before them.
struct Replicas {
    url: String,
    ports: Vec<u16>,
    skews_ms: [i64; 3],
    /// Between each process and PostgreSQL, for its claims connection alone.
    networks: Vec<Proxy>,
    processes: Vec<Option<Process>>,
    proxy: HaProxy,
}

impl Replicas {
    async fn start(url: String, skews_ms: [i64; 3]) -> Self {
        let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let proxy = HaProxy::start(&ports).await;
        let (socket, _) = network::place(&url);
        let mut networks = Vec::new();
        for _ in 0..3 {
            networks.push(Proxy::start(socket.clone()).await);
        }
        let processes = (0..3).map(|_| None).collect();
        let mut replicas = Self { url, ports, skews_ms, networks, processes, proxy };
        for which in 0..3 {
            replicas.spawn(which).await;
        }
        replicas.serve().await;
        replicas
    }

    async fn spawn(&mut self, which: usize) {
        let listen = format!("127.0.0.1:{}", self.ports[which]);
        let (skew_ms, claims) = (self.skews_ms[which].to_string(), self.networks[which].url(&self.url));
        let envs = [
            ("STEELYARD_DRAIN_GRACE", "2"),
            ("STEELYARD_CLOCK_SKEW_MS", skew_ms.as_str()),
            ("STEELYARD_CLAIMS_DATABASE_URL", claims.as_str()),
        ];
        self.processes[which] = Some(Process::spawn_at(&self.url, &listen, &envs).await);
    }

    /// Waits until each replica is ready, and HAProxy sends requests there.
    async fn serve(&self) {
        for port in &self.ports {
            let url = format!("http://127.0.0.1:{port}/readyz");
            eventually("a replica is ready", async || {
                reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success())
            })
            .await;
        }
        self.proxy.sees(3).await;
    }

    async fn strike(&mut self, strike: Strike, postgres: &Postgres, database: &Database, random: &mut SmallRng) {
        match strike {
            Strike::Kill(which) => {
                self.processes[which].take().expect("a process").kill().await;
                self.spawn(which).await;
            }
            Strike::Stop(which) => {
                let ended = self.processes[which].take().expect("a process").terminate().await;
                assert!(ended.success(), "{ended:?}");
                self.spawn(which).await;
            }
            Strike::Freeze { which, long } => {
                let process = self.processes[which].as_ref().expect("a process");
                process.stop_or_continue(false);
                tokio::time::sleep(if long { FROZEN_LONG } else { FROZEN }).await;
                process.stop_or_continue(true);
            }
            Strike::BlackHole { which, cut } => {
                let mut conn = database.connect_owner().await.expect("PostgreSQL is there");
                self.swallow_claims(&mut conn, which, cut).await;
            }
            Strike::Join => {
                let skew_ms = random.random_range(-SKEW_MAX_MS..=SKEW_MAX_MS).to_string();
                let fourth = Process::spawn(&self.url, &[("STEELYARD_CLOCK_SKEW_MS", &skew_ms)]).await;
                tokio::time::sleep(Duration::from_millis(random.random_range(500..3_000))).await;
                let ended = fourth.terminate().await;
                assert!(ended.success(), "{ended:?}");
            }
            Strike::Terminate { all } => {
                let mut conn = database.connect_owner().await.expect("PostgreSQL is there");
                terminate(&mut conn, all, random.random()).await;
            }
            Strike::Postgres => {
                postgres.server().stop_immediate().await.expect("PostgreSQL stops");
                postgres.server().start().await.expect("PostgreSQL starts");
            }
        }
    }

    /// The worker loses all claims, others take them over, and it joins anew.
    async fn swallow_claims(&self, conn: &mut PgConnection, which: usize, cut: bool) {
        let address = format!("http://127.0.0.1:{}", self.ports[which]);
        let former = takes_part(conn, &address, Uuid::nil()).await;
        self.networks[which].swallow();
        eventually("others have taken over", async || {
            let units = "SELECT worker_id FROM sequencer_claims UNION ALL SELECT worker_id FROM shard_claims";
            let holders: Vec<Option<Uuid>> = sqlx::query_scalar(units).fetch_all(&mut *conn).await.expect("claims");
            holders.iter().all(|holder| holder.is_some_and(|holder| holder != former))
        })
        .await;
        self.networks[which].give_back(cut);
        takes_part(conn, &address, former).await;
    }

    /// The place of the one that sequences `main`.
    async fn sequencer(&self) -> usize {
        let url = format!("{}/v1/cluster", self.proxy.origin());
        let cluster: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        let holder = &cluster["ledgers"][0]["worker_id"];
        let workers = cluster["workers"].as_array().unwrap();
        let worker = workers.iter().find(|worker| worker["worker_id"] == *holder).expect("a holder");
        let address = worker["address"].as_str().unwrap();
        self.ports.iter().position(|port| address.ends_with(&format!(":{port}"))).expect("one of ours")
    }

    async fn stop(self) {
        for process in self.processes.into_iter().flatten() {
            let ended = process.terminate().await;
            assert!(ended.success(), "{ended:?}");
        }
    }
}

/// Waits until the worker at an address holds something, under another id than a
/// former one, and gives that.
async fn takes_part(conn: &mut PgConnection, address: &str, former: Uuid) -> Uuid {
    let mut worker_id = None;
    eventually("the worker takes part", async || {
        worker_id = sqlx::query_scalar(
            "SELECT worker_id FROM workers JOIN shard_claims USING (worker_id)
             WHERE advertised_address = $1 AND worker_id <> $2 AND heartbeat_at > clock_timestamp() - interval '5 s'
             LIMIT 1",
        )
        .bind(address)
        .bind(former)
        .fetch_optional(&mut *conn)
        .await
        .expect("claims can be read");
        worker_id.is_some()
    })
    .await;
    worker_id.expect("found")
}

async fn terminate(conn: &mut PgConnection, all: bool, pick: u64) {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'steelyard%' AND pid <> pg_backend_pid()
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

/// A port that nobody uses at this moment.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Payments, one after another by each client, that may not fail.
struct Steady {
    stop: CancellationToken,
    clients: tokio::task::JoinSet<Vec<(Instant, Instant)>>,
}

impl Steady {
    async fn begin(origin: &str) -> Self {
        let http = reqwest::Client::builder().timeout(WAIT).build().unwrap();
        let accounts = json!({"accounts": [
            {"code": "bank", "asset": "EUR", "min_balance": null}, {"code": "shop", "asset": "EUR"},
        ]});
        let opened =
            http.post(format!("{origin}/v1/ledgers/main/accounts/batch")).json(&accounts).send().await.unwrap();
        assert!(opened.status().is_success());
        let stop = CancellationToken::new();
        // Or a second run on the same ledger would only be told what the first one did.
        let run: u32 = rand::random();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (http, stop, url) = (http.clone(), stop.clone(), format!("{origin}/v1/ledgers/main/payments"));
            clients.spawn(async move {
                let mut answered = Vec::new();
                while !stop.is_cancelled() {
                    let body = json!({"from": "bank", "to": "shop", "amount": 1, "asset": "EUR"});
                    let key = format!("{run:x}-{client}-{}", answered.len());
                    let begun = Instant::now();
                    let answer = http.post(&url).header("idempotency-key", key).json(&body).send().await.unwrap();
                    let status = answer.status();
                    assert_eq!(status, 201, "{}", answer.text().await.unwrap_or_default());
                    answered.push((begun, Instant::now()));
                }
                answered
            });
        }
        Self { stop, clients }
    }

    /// How many were paid, and the longest time without an answer to anybody.
    async fn end(mut self) -> (usize, Duration) {
        self.stop.cancel();
        let mut answered = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            answered.extend(client.expect("no request fails").into_iter().map(|(_, at)| at));
        }
        answered.sort_unstable();
        let gap = answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        (answered.len(), gap)
    }
}

async fn paid(url: &str) -> i64 {
    let database = Database::new(url).unwrap();
    let mut conn = database.connect_owner().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM events WHERE type = 'transaction_posted'")
        .fetch_one(&mut conn)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_request() {
    let _alone = ALONE.lock().await;
    let postgres = Postgres::start().await;
    let mut replicas = Replicas::start(postgres.database().await, SKEWS_MS).await;
    let steady = Steady::begin(&replicas.proxy.origin()).await;
    for which in 0..3 {
        let ended = replicas.processes[which].take().unwrap().terminate().await;
        assert!(ended.success(), "{ended:?}");
        replicas.spawn(which).await;
        replicas.serve().await;
    }
    let (answered, gap) = steady.end().await;
    println!("rolling restart: {answered} payments, none failed, longest gap {gap:?}");
    assert_eq!(paid(&replicas.url).await, answered as i64);
    replicas.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_or_freezing_the_sequencers_worker_fails_no_request() {
    let _alone = ALONE.lock().await;
    let postgres = Postgres::start().await;
    let mut replicas = Replicas::start(postgres.database().await, SKEWS_MS).await;
    let steady = Steady::begin(&replicas.proxy.origin()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let which = replicas.sequencer().await;
    replicas.processes[which].take().unwrap().kill().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (killed, gap) = steady.end().await;
    println!("SIGKILL of the sequencer's worker: {killed} payments, none failed, longest gap {gap:?}");
    assert!(gap < Duration::from_secs(2), "{gap:?}");
    assert_eq!(paid(&replicas.url).await, killed as i64);
    replicas.spawn(which).await;
    replicas.serve().await;

    let steady = Steady::begin(&replicas.proxy.origin()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let which = replicas.sequencer().await;
    replicas.processes[which].as_ref().unwrap().stop_or_continue(false);
    tokio::time::sleep(FROZEN_LONG).await;
    replicas.processes[which].as_ref().unwrap().stop_or_continue(true);
    let (frozen, gap) = steady.end().await;
    assert_eq!(paid(&replicas.url).await, (killed + frozen) as i64);
    println!("SIGSTOP of the sequencer's worker: none failed, longest gap {gap:?}");
    assert!(gap < Duration::from_secs(9), "{gap:?}");
    replicas.serve().await;
    replicas.stop().await;
}

/// The worker that sequences does not hear of its end before the others have taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_on_the_sequencers_claims_connection_fails_no_request() {
    let _alone = ALONE.lock().await;
    let postgres = Postgres::start().await;
    let replicas = Replicas::start(postgres.database().await, SKEWS_MS).await;
    let database = Database::new(&replicas.url).unwrap();
    let mut conn = database.connect_owner().await.unwrap();
    for cut in [false, true] {
        let before = paid(&replicas.url).await;
        let steady = Steady::begin(&replicas.proxy.origin()).await;
        replicas.swallow_claims(&mut conn, replicas.sequencer().await, cut).await;
        let (answered, gap) = steady.end().await;
        println!("black hole, cut: {cut}: {answered} payments, none failed, longest gap {gap:?}");
        assert_eq!(paid(&replicas.url).await - before, answered as i64);
        replicas.serve().await;
    }
    replicas.stop().await;
}
