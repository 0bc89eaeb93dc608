//! Claims: who may write, and since which epoch.
//!
//! A claim is a session advisory lock, which says who tries, and an epoch in a
//! row, which says who succeeds. Lock and epoch are two statements on purpose:
//! one statement has one snapshot, and one that waited for a lock would not see
//! what the holder before it committed. Raising an epoch updates the claim's
//! row, so it waits for appends and flushes that hold that row FOR SHARE, and
//! those that come later find their epoch gone.
//!
//! Everything here runs on the worker's one dedicated connection, never pooled:
//! session locks on pooled connections are lost or starve the pool.

use sqlx::PgConnection;
use uuid::Uuid;

use super::connect::application_name;
use super::connection::Pool;
use super::{Epoch, Error, LedgerId, Shard};

/// First key of the advisory locks of sequencers; the second is the ledger.
const SEQUENCER_LOCKS: i32 = 0x5359_0001;
/// First key of the advisory locks of projectors; the second is the shard.
const PROJECTOR_LOCKS: i32 = 0x5359_0002;

/// A worker counts as gone when it has not been heard of for so long, by the
/// database's clock.
pub const STALE_AFTER_S: f64 = 5.0;

/// A piece of work that one worker at a time may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    Sequencer(LedgerId),
    Projector(Shard),
}

/// A unit whose lock is held by a session of a worker that is gone.
#[derive(Clone, Copy, Debug)]
pub struct Stale {
    pub unit: Unit,
    pub worker_id: Option<Uuid>,
    /// How long nothing has been heard of the worker, if it is known at all.
    pub silent_s: Option<f64>,
    pub backend_pid: i32,
    pub backend_start: chrono::DateTime<chrono::Utc>,
}

/// What a worker says of itself when it joins.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Where clients reach it.
    pub address: String,
    /// Where other workers reach it.
    pub internal_url: Option<String>,
    pub version: String,
    /// Its weight against the others.
    pub capacity: i32,
    /// Whether it takes sequencers.
    pub sequencer: bool,
    /// Whether it takes shards.
    pub projector: bool,
}

/// Makes a worker known, with the session that this connection is.
pub async fn register(conn: &mut PgConnection, worker_id: Uuid, worker: &Registration) -> Result<(), Error> {
    sqlx::query!(
        r#"
        INSERT INTO workers (
            worker_id, advertised_address, version, internal_url, capacity, sequencer, projector,
            backend_pid, backend_start
        )
        SELECT $1, $2, $3, $4, $5, $6, $7, a.pid, a.backend_start
        FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()
        "#,
        worker_id,
        worker.address,
        worker.version,
        worker.internal_url,
        worker.capacity,
        worker.sequencer,
        worker.projector
    )
    .execute(&mut *conn)
    .await?;
    // Rows of workers long gone say nothing any more.
    sqlx::query!("DELETE FROM workers WHERE heartbeat_at < clock_timestamp() - interval '1 hour'")
        .execute(conn)
        .await?;
    Ok(())
}

/// What a worker says of itself with every heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// It is about to stop.
    pub draining: bool,
    /// Units that it should hold and could not get.
    pub denied: Vec<Unit>,
    /// Its writes that a newer epoch refused.
    pub writes_fenced: u64,
}

/// Says that the worker lives, and how it is. Also proves that the session with
/// its locks lives.
///
/// It need not be durable, and does not wait for the disk: a disk that stalls for
/// seconds would otherwise look like the death of all workers.
pub async fn heartbeat(conn: &mut PgConnection, worker_id: Uuid, condition: &Condition) -> Result<(), Error> {
    let ledgers: Vec<LedgerId> = condition.denied.iter().filter_map(|unit| sequencer_of(*unit)).collect();
    let shards: Vec<Shard> = condition.denied.iter().filter_map(|unit| shard_of(*unit)).collect();
    sqlx::query!(
        r#"
        WITH this_commit AS (SELECT set_config('synchronous_commit', 'off', true) AS synchronous)
        UPDATE workers
        SET heartbeat_at = clock_timestamp(), draining = $2, ledgers_denied = $3, shards_denied = $4,
            writes_fenced = $5
        FROM this_commit
        WHERE worker_id = $1 AND this_commit.synchronous = 'off'
        "#,
        worker_id,
        condition.draining,
        &ledgers,
        &shards,
        i64::try_from(condition.writes_fenced).unwrap_or(i64::MAX)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A worker that lives: heard of lately, and its session is there. One that was
/// killed is gone with its session, at once.
#[derive(Clone, Debug)]
pub struct LiveRow {
    pub worker_id: Uuid,
    pub internal_url: Option<String>,
    pub capacity: i32,
    pub sequencer: bool,
    pub projector: bool,
    pub draining: bool,
    /// Since it joined.
    pub age_s: f64,
}

/// All workers that live.
pub async fn live(conn: &mut PgConnection) -> Result<Vec<LiveRow>, Error> {
    Ok(sqlx::query_as!(
        LiveRow,
        r#"
        SELECT w.worker_id, w.internal_url, w.capacity, w.sequencer, w.projector, w.draining,
               extract(epoch FROM clock_timestamp() - w.started_at)::float8 AS "age_s!"
        FROM workers w
        JOIN pg_stat_activity a ON a.pid = w.backend_pid AND a.backend_start = w.backend_start
        WHERE w.heartbeat_at >= clock_timestamp() - make_interval(secs => $1)
        ORDER BY w.worker_id
        "#,
        STALE_AFTER_S
    )
    .fetch_all(conn)
    .await?)
}

/// Gives units back: says first that nobody holds them, and then unlocks them.
/// Their epochs stay; whoever takes them raises those.
pub async fn release(conn: &mut PgConnection, worker_id: Uuid, units: &[Unit]) -> Result<(), Error> {
    let ledgers: Vec<LedgerId> = units.iter().filter_map(|unit| sequencer_of(*unit)).collect();
    let shards: Vec<Shard> = units.iter().filter_map(|unit| shard_of(*unit)).collect();
    if !ledgers.is_empty() {
        sqlx::query!(
            "UPDATE sequencer_claims SET worker_id = NULL WHERE ledger_id = ANY($1) AND worker_id = $2",
            &ledgers,
            worker_id
        )
        .execute(&mut *conn)
        .await?;
    }
    if !shards.is_empty() {
        sqlx::query!(
            "UPDATE shard_claims SET worker_id = NULL WHERE shard = ANY($1) AND worker_id = $2",
            &shards,
            worker_id
        )
        .execute(&mut *conn)
        .await?;
    }
    let (classes, ids): (Vec<i32>, Vec<i32>) = units.iter().map(|unit| lock_key(*unit)).unzip();
    sqlx::query!(
        r#"
        SELECT count(*) FILTER (WHERE pg_advisory_unlock(u.class, u.id)) AS "unlocked!"
        FROM UNNEST($1::integer[], $2::integer[]) AS u (class, id)
        "#,
        &classes,
        &ids
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

/// Forgets a worker that stops.
pub async fn deregister(conn: &mut PgConnection, worker_id: Uuid) -> Result<(), Error> {
    sqlx::query!("DELETE FROM workers WHERE worker_id = $1", worker_id).execute(conn).await?;
    Ok(())
}

/// Tries the locks of `units` without waiting, and answers those it got.
pub async fn try_lock(conn: &mut PgConnection, units: &[Unit]) -> Result<Vec<Unit>, Error> {
    let (classes, ids): (Vec<i32>, Vec<i32>) = units.iter().map(|unit| lock_key(*unit)).unzip();
    let rows = sqlx::query!(
        r#"
        SELECT u.ordinality AS "ordinality!", pg_try_advisory_lock(u.class, u.id) AS "locked!"
        FROM UNNEST($1::integer[], $2::integer[]) WITH ORDINALITY AS u (class, id, ordinality)
        "#,
        &classes,
        &ids
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().filter(|row| row.locked).map(|row| units[row.ordinality as usize - 1]).collect())
}

fn lock_key(unit: Unit) -> (i32, i32) {
    match unit {
        Unit::Sequencer(ledger_id) => (SEQUENCER_LOCKS, ledger_id),
        Unit::Projector(shard) => (PROJECTOR_LOCKS, i32::from(shard)),
    }
}

/// Lets a statement of this session wait for a row for a second at most: an append
/// that is alive is over by then.
pub async fn bound_lock_waits(conn: &mut PgConnection) -> Result<(), Error> {
    sqlx::query!("SET lock_timeout = '1s'").execute(conn).await?;
    Ok(())
}

/// Takes `units` over: raises their epochs, and answers the new ones.
///
/// # Errors
/// [`Error::Transient`] when somebody holds one of the rows: some may be raised.
pub async fn raise(conn: &mut PgConnection, worker_id: Uuid, units: &[Unit]) -> Result<Vec<(Unit, Epoch)>, Error> {
    let ledgers: Vec<LedgerId> = units.iter().filter_map(|unit| sequencer_of(*unit)).collect();
    let shards: Vec<Shard> = units.iter().filter_map(|unit| shard_of(*unit)).collect();
    let mut raised = Vec::with_capacity(units.len());
    if !ledgers.is_empty() {
        let rows = sqlx::query!(
            r#"
            UPDATE sequencer_claims
            SET epoch = epoch + 1, worker_id = $1, claimed_at = clock_timestamp(), backend_pid = pg_backend_pid(),
                backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
            WHERE ledger_id = ANY($2)
            RETURNING ledger_id, epoch
            "#,
            worker_id,
            &ledgers
        )
        .fetch_all(&mut *conn)
        .await?;
        raised.extend(rows.into_iter().map(|row| (Unit::Sequencer(row.ledger_id), row.epoch)));
    }
    if !shards.is_empty() {
        let rows = sqlx::query!(
            r#"
            UPDATE shard_claims
            SET epoch = epoch + 1, worker_id = $1, claimed_at = clock_timestamp(), backend_pid = pg_backend_pid(),
                backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
            WHERE shard = ANY($2)
            RETURNING shard, epoch
            "#,
            worker_id,
            &shards
        )
        .fetch_all(conn)
        .await?;
        raised.extend(rows.into_iter().map(|row| (Unit::Projector(row.shard), row.epoch)));
    }
    Ok(raised)
}

const fn sequencer_of(unit: Unit) -> Option<LedgerId> {
    match unit {
        Unit::Sequencer(ledger_id) => Some(ledger_id),
        Unit::Projector(_) => None,
    }
}

const fn shard_of(unit: Unit) -> Option<Shard> {
    match unit {
        Unit::Sequencer(_) => None,
        Unit::Projector(shard) => Some(shard),
    }
}

/// Units claimed by sessions that still exist, of workers that are gone:
/// frozen processes, orphans in a pooler, half-open connections.
///
/// Whose a session is says the worker that registered with it, not the claim: one
/// that is being given back has no worker any more, and its lock for a moment still.
pub async fn stale(conn: &mut PgConnection) -> Result<Vec<Stale>, Error> {
    let rows = sqlx::query!(
        r#"
        WITH claims AS (
            SELECT ledger_id, NULL::smallint AS shard, worker_id, backend_pid, backend_start FROM sequencer_claims
            UNION ALL
            SELECT NULL, shard, worker_id, backend_pid, backend_start FROM shard_claims
        )
        SELECT c.ledger_id, c.shard, c.backend_pid AS "backend_pid!", c.backend_start AS "backend_start!",
               COALESCE(w.worker_id, c.worker_id) AS worker_id,
               extract(epoch FROM clock_timestamp() - w.heartbeat_at)::float8 AS silent_s
        FROM claims c
        JOIN pg_stat_activity a ON a.pid = c.backend_pid AND a.backend_start = c.backend_start
        LEFT JOIN workers w ON w.backend_pid = c.backend_pid AND w.backend_start = c.backend_start
        WHERE w.heartbeat_at IS NULL OR w.heartbeat_at < clock_timestamp() - make_interval(secs => $1)
        "#,
        STALE_AFTER_S
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let unit = match (row.ledger_id, row.shard) {
                (Some(ledger_id), _) => Unit::Sequencer(ledger_id),
                (None, Some(shard)) => Unit::Projector(shard),
                (None, None) => return None,
            };
            Some(Stale {
                unit,
                worker_id: row.worker_id,
                silent_s: row.silent_s,
                backend_pid: row.backend_pid,
                backend_start: row.backend_start,
            })
        })
        .collect())
}

/// Ends all sessions of a worker's process and waits until they are gone, with
/// their locks. One that is frozen in the middle of an append or a flush holds its
/// claim's row, and whoever raises the epoch would wait for it for ever.
pub async fn terminate_worker(conn: &mut PgConnection, worker_id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        r#"
        SELECT pg_terminate_backend(pid, $2) AS "terminated!" FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()
        "#,
        application_name(worker_id),
        TERMINATE_WAIT_MS
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}

/// How long the end of one session is waited for: it rolls back within milliseconds.
const TERMINATE_WAIT_MS: i64 = 1_000;

/// Ends a session, if it is still the one that was seen.
pub async fn terminate(
    conn: &mut PgConnection,
    backend_pid: i32,
    backend_start: chrono::DateTime<chrono::Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        r#"
        SELECT pg_terminate_backend(pid) AS "terminated!" FROM pg_stat_activity
        WHERE pid = $1 AND backend_start = $2
        "#,
        backend_pid,
        backend_start
    )
    .fetch_optional(conn)
    .await?;
    Ok(())
}

/// A row of what `GET /v1/cluster` shows.
#[derive(Clone, Debug)]
pub struct ClaimRow {
    pub unit: Unit,
    pub worker_id: Option<Uuid>,
    pub epoch: Epoch,
    pub claimed_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// All claims.
pub async fn list(executor: impl sqlx::PgExecutor<'_>) -> Result<Vec<ClaimRow>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT ledger_id AS "ledger_id?", NULL::smallint AS shard, worker_id, epoch AS "epoch!", claimed_at
        FROM sequencer_claims
        UNION ALL
        SELECT NULL, shard, worker_id, epoch, claimed_at FROM shard_claims
        ORDER BY 1, 2
        "#
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let unit = match (row.ledger_id, row.shard) {
                (Some(ledger_id), _) => Unit::Sequencer(ledger_id),
                (None, Some(shard)) => Unit::Projector(shard),
                (None, None) => return None,
            };
            Some(ClaimRow { unit, worker_id: row.worker_id, epoch: row.epoch, claimed_at: row.claimed_at })
        })
        .collect())
}

/// A row of `workers`.
#[derive(Clone, Debug)]
pub struct WorkerRow {
    pub worker_id: Uuid,
    pub advertised_address: String,
    pub version: String,
    pub started_at: chrono::DateTime<chrono::Utc>,
    /// Since it joined.
    pub age_s: f64,
    pub heartbeat_age_s: f64,
    /// Its session is there. By its number alone: the role that asks is not told since when.
    pub has_session: bool,
    pub draining: bool,
    pub capacity: i32,
    pub sequencer: bool,
    pub projector: bool,
    pub ledgers_denied: Vec<LedgerId>,
    pub shards_denied: Vec<Shard>,
    pub writes_fenced: i64,
}

impl WorkerRow {
    /// It as one that lives.
    pub fn to_live(&self) -> LiveRow {
        LiveRow {
            worker_id: self.worker_id,
            internal_url: None,
            capacity: self.capacity,
            sequencer: self.sequencer,
            projector: self.projector,
            draining: self.draining,
            age_s: self.age_s,
        }
    }

    /// Whether the other workers count on it.
    pub fn lives(&self) -> bool {
        self.has_session && self.heartbeat_age_s < STALE_AFTER_S
    }
}

/// All workers that are not long gone, and all claims, as of one moment: a worker
/// that comes or goes between two reads would leave claims of nobody.
pub async fn overview(pool: &Pool) -> Result<(Vec<WorkerRow>, Vec<ClaimRow>), Error> {
    let mut conn = pool.acquire().await?;
    let mut transaction = conn.begin().await?;
    sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut transaction).await?;
    let workers = sqlx::query_as!(
        WorkerRow,
        r#"
        SELECT w.worker_id, w.advertised_address, w.version, w.started_at, w.draining, w.capacity, w.sequencer,
               w.projector, w.ledgers_denied, w.shards_denied, w.writes_fenced,
               extract(epoch FROM clock_timestamp() - w.started_at)::float8 AS "age_s!",
               extract(epoch FROM clock_timestamp() - w.heartbeat_at)::float8 AS "heartbeat_age_s!",
               EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = w.backend_pid) AS "has_session!"
        FROM workers w ORDER BY w.started_at
        "#
    )
    .fetch_all(&mut transaction)
    .await?;
    let claims = list(&mut transaction).await?;
    transaction.commit().await?;
    Ok((workers, claims))
}

/// A new epoch for a unit of this worker's; `None` when another worker has
/// raised it meanwhile. Waits out what was sent under the old epoch.
pub async fn renew(conn: &mut PgConnection, worker_id: Uuid, unit: Unit) -> Result<Option<Epoch>, Error> {
    Ok(match unit {
        Unit::Sequencer(ledger_id) => {
            sqlx::query_scalar!(
                "UPDATE sequencer_claims SET epoch = epoch + 1 WHERE ledger_id = $1 AND worker_id = $2 RETURNING epoch",
                ledger_id,
                worker_id
            )
            .fetch_optional(conn)
            .await?
        }
        Unit::Projector(shard) => {
            sqlx::query_scalar!(
                "UPDATE shard_claims SET epoch = epoch + 1 WHERE shard = $1 AND worker_id = $2 RETURNING epoch",
                shard,
                worker_id
            )
            .fetch_optional(conn)
            .await?
        }
    })
}
