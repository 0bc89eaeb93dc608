//! A check that cannot fail is none. Each of these forces the situation that a
//! safety is there for, once with it and once without, and shows that the check
//! at the end of every round passes with it and names the damage without it.
//!
//! Debug builds alone can do without a safety, see `src/safety.rs`.

use std::sync::Arc;

use sqlx::PgConnection;
use steelyard::store::Database;
use tokio_util::sync::CancellationToken;

use super::history::{Finding, History, Rule};
use super::ready;
use super::support::{Postgres, Process, WAIT, eventually};

/// A point of the process is passed so often before it freezes there: by then
/// all accounts are open and funded.
const PASSES: u32 = 30;

/// A process on a database of its own that freezes at a point while one client
/// pays, and nobody reads: what is appended is always a payment that is posted.
struct Stage {
    url: String,
    database: Database,
    conn: PgConnection,
    process: Process,
    history: Arc<History>,
}

impl Stage {
    async fn new(postgres: &Postgres, point: &str, off: Option<&str>) -> Self {
        let url = postgres.database().await;
        let database = Database::new(&url).expect("a URL");
        let conn = database.connect_owner().await.expect("PostgreSQL is there");
        let point = format!("{point}:{PASSES}:stop");
        let process =
            Process::spawn(&url, &[("STEELYARD_FAILPOINT", &point), ("STEELYARD_SAFETY_OFF", off.unwrap_or_default())])
                .await;
        let history = History::begin_with_patience(&ready(&process).await, WAIT).await;
        Self { url, database, conn, process, history }
    }

    /// Pays until the process freezes, lets `meanwhile` happen, thaws it, and
    /// waits until the payment that was under way is answered.
    async fn freeze(&mut self, meanwhile: impl AsyncFnOnce(&mut PgConnection)) {
        let stop = CancellationToken::new();
        let paying = async {
            while !stop.is_cancelled() {
                self.history.is_answered_anew().await;
            }
        };
        let striking = async {
            eventually("the process freezes", async || self.process.is_stopped()).await;
            stop.cancel();
            meanwhile(&mut self.conn).await;
            self.process.stop_or_continue(true);
        };
        tokio::join!(striking, paying);
    }

    async fn check(mut self) -> Result<(), Finding> {
        self.history.settle().await;
        let checked = self.history.check(&self.database, &mut self.conn).await;
        self.process.kill().await;
        checked
    }
}

/// The rule that was broken.
fn broken(checked: Result<(), Finding>) -> Option<Rule> {
    if let Err(finding) = &checked {
        println!("{finding}");
    }
    checked.err().map(|finding| finding.rule)
}

/// A worker freezes with an append decided, and its claims session ends, so
/// another takes over at once and ends none of its other sessions. Then it thaws.
async fn append_late(postgres: &Postgres, off: Option<&str>, log_moves_on: bool) -> Result<(), Finding> {
    let mut stage = Stage::new(postgres, "before_append", off).await;
    let second = Process::spawn(&stage.url, &[]).await;
    let history = Arc::clone(&stage.history);
    stage
        .freeze(async |conn| {
            // The first came first and sequences; its session's end is the claim's.
            let ended: bool = sqlx::query_scalar(
                "SELECT pg_terminate_backend(backend_pid, 5000) FROM workers JOIN sequencer_claims USING (worker_id, backend_pid)",
            )
            .fetch_one(conn)
            .await
            .expect("a holder");
            assert!(ended);
            second.logs(|line| line["message"] == "sequencing").await;
            history.set_base(&ready(&second).await);
            if log_moves_on {
                history.ask_anew().await;
            }
        })
        .await;
    // Reads of the new holder, before its log moves on.
    stage.history.read_all().await;
    let checked = stage.check().await;
    second.kill().await;
    checked
}

/// Without the epoch check a worker that was deposed appends behind the new
/// holder's back, which goes on to answer reads from before. The primary key of
/// `events` is the second net: the log itself stays in order, since the new
/// holder's next append finds its position taken and starts over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_epoch_check_reads_are_not_linearizable() {
    let postgres = Postgres::start().await;
    assert_eq!(broken(append_late(&postgres, None, false).await), None);
    assert_eq!(broken(append_late(&postgres, Some("epoch"), false).await), Some(Rule::Order));
    // The second net alone: once the new holder has appended, the position is
    // taken, and the deposed one is refused for that.
    assert_eq!(broken(append_late(&postgres, None, true).await), None);
    assert_eq!(broken(append_late(&postgres, Some("epoch"), true).await), None);
}

/// A worker freezes with an append decided, and loses all its sessions but that
/// of its claims: the append has not been sent, which the worker cannot know.
async fn lose_an_append(postgres: &Postgres, off: Option<&str>) -> Result<(), Finding> {
    let mut stage = Stage::new(postgres, "before_append", off).await;
    stage
        .freeze(async |conn| {
            let ended: Vec<bool> = sqlx::query_scalar(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'steelyard %'
                   AND pid <> pg_backend_pid() AND pid NOT IN (SELECT backend_pid FROM workers)",
            )
            .fetch_all(conn)
            .await
            .expect("sessions can be ended");
            assert!(ended.len() > 1 && ended.iter().all(|ended| *ended), "{ended:?}");
        })
        .await;
    stage.process.logs(|line| line["message"] == "read the outcome of an append back from the log").await;
    stage.check().await
}

/// Without the read-back an append that was lost is taken for committed, and the
/// client is told of a payment that does not exist. (Taking it for lost would be
/// caught: its keys are in the unique index, and the first answer is found there.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_read_back_an_acknowledged_payment_is_lost() {
    let postgres = Postgres::start().await;
    assert_eq!(broken(lose_an_append(&postgres, None).await), None);
    assert_eq!(broken(lose_an_append(&postgres, Some("read_back")).await), Some(Rule::Answers));
}

/// A worker freezes with a flush folded, and a rebuild moves the projections on
/// underneath it.
async fn flush_late(postgres: &Postgres, off: Option<&str>) -> Result<(), Finding> {
    let mut stage = Stage::new(postgres, "before_flush", off).await;
    let database = stage.database.clone();
    stage
        .freeze(async |_| {
            steelyard::projector::rebuild::rebuild(&database, &|_, _| {}).await.expect("a rebuild");
        })
        .await;
    stage.check().await
}

/// Without the compare-and-set a flush writes what the projections have already.
/// The version that each balance builds on is the second net: no balance becomes
/// wrong, the projections of the accounts stop instead, and `verify` says so.
/// (Where the flush also has a rejection, the primary key of `rejections` refuses
/// it as a whole, so here all payments are posted.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_checkpoints_compare_and_set_projections_are_not_a_fold_of_the_log() {
    let postgres = Postgres::start().await;
    assert_eq!(broken(flush_late(&postgres, None).await), None);
    assert_eq!(broken(flush_late(&postgres, Some("checkpoint")).await), Some(Rule::Projections));
}
