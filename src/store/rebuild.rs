//! Fresh projection tables beside the live ones, and the swap.
//!
//! Why the locking is right:
//!
//! - One rebuild at a time: a session advisory lock, held by the rebuild's own
//!   connection, so it ends with the process.
//! - Until the swap nobody else sees or touches the fresh tables: they are in a
//!   schema of their own. Appends, flushes and readers go on undisturbed.
//! - The swap first locks `checkpoints` in EXCLUSIVE mode. Every flush updates
//!   that table before it touches any other that is swapped, so a running flush
//!   is waited out and later ones queue there. With flushes stopped, the rest of
//!   the log is folded up to its head, which is at or above every checkpoint: a
//!   checkpoint never goes back, and an account that the sequencer evicted
//!   because its row was exact finds a row at least as new. A flush that waited
//!   finds its checkpoint moved and does nothing; its projector reads the
//!   checkpoints again. Appends do not touch `checkpoints` and never wait.
//! - Then views before tables, and tables in the order of [`Table::ALL`]: the
//!   order in which statements of readers take their locks. Each lock is waited
//!   for so shortly that, should the order ever differ, it is the swap that
//!   gives up and not the reader, who would be the victim of a deadlock only
//!   after PostgreSQL's `deadlock_timeout` (1 s).
//! - A statement takes its snapshot after its locks, so whoever waited reads the
//!   fresh tables with the new checkpoints. A REPEATABLE READ transaction that
//!   reads a projection for the first time after the swap has its snapshot from
//!   before, and rows written later are not there for it. So the bulk of the
//!   rows is committed first, and the swap is not begun before the last snapshot
//!   older than that is gone: what such a transaction misses is the last step
//!   only. One that has read a projection before holds its lock, and the swap
//!   comes after it.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgCopyIn;
use sqlx::{AssertSqlSafe, PgConnection};

use super::projections::BALANCES;
use super::rows::{ATTRIBUTE_COLUMNS, COPY_HEADER, COPY_TRAILER, Table};
use super::{Error, LedgerId};
use crate::ledger::Position;

/// Keys of the advisory lock of rebuilds.
const REBUILD_LOCK: (i32, i32) = (0x5359_0003, 0);

/// What an index may use of memory while it is built: twenty million rows of
/// `entries` are sorted without the disk.
const INDEX_MEMORY: &str = "1GB";

/// How long sessions of a rebuild that failed may take to end.
const CLEAR_WAIT_MS: u64 = 30_000;

/// Encoded rows that are to be written, by table.
#[derive(Debug, Default)]
pub struct Rows {
    pub accounts: Vec<u8>,
    pub balances: Vec<u8>,
    pub entries: Vec<u8>,
    pub rejections: Vec<u8>,
    pub backdated: Vec<u8>,
    pub metadata: Vec<u8>,
    /// What has changed of accounts since they were opened.
    pub attributes: Vec<u8>,
    pub transaction_accounts: Vec<u8>,
    pub holds: Changing,
    pub schedules: Changing,
    /// All of an account and a limit, where anything is new.
    pub usage: Vec<u8>,
}

/// Rows of a table whose rows change.
#[derive(Debug, Default)]
pub struct Changing {
    /// Those that will never change again, each once.
    pub ended: Vec<u8>,
    /// Others, as they are now; they may have been written before.
    pub open: Vec<u8>,
}

/// How a table is made, as PostgreSQL describes the live one.
#[derive(Clone, Debug)]
pub struct Definition {
    table: Table,
    /// Statements before rows are loaded: storage parameters, owner, grants, comment.
    before: Vec<String>,
    /// Statements after: constraints and indexes.
    after: Vec<String>,
}

fn names() -> Vec<String> {
    Table::ALL.map(|table| table.name().to_owned()).to_vec()
}

/// Takes the lock of rebuilds for this session; `false` when another has it.
pub async fn lock(conn: &mut PgConnection) -> Result<bool, Error> {
    let locked =
        sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1, $2) AS "locked!""#, REBUILD_LOCK.0, REBUILD_LOCK.1);
    Ok(locked.fetch_one(conn).await?)
}

/// Makes a session fit for statements that take long, whatever the role's own
/// settings are.
pub async fn settle_in(conn: &mut PgConnection) -> Result<(), Error> {
    run(conn, "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0").await?;
    run(conn, &format!("SET maintenance_work_mem = '{INDEX_MEMORY}'")).await?;
    // Names of fresh tables go before those of live ones.
    run(conn, "SET search_path = rebuild, public").await
}

/// Drops what a rebuild leaves when it is killed, and what it replaced. Without
/// CASCADE: what is not ours stops it.
pub async fn clear(conn: &mut PgConnection) -> Result<(), Error> {
    run(conn, &format!("SET lock_timeout = {CLEAR_WAIT_MS}")).await?;
    for schema in ["rebuild", "replaced"] {
        let tables = Table::ALL.map(|table| format!("{schema}.{}", table.name())).join(", ");
        let drop = format!("DROP TABLE IF EXISTS {tables}; DROP SCHEMA IF EXISTS {schema}");
        run(conn, &drop).await?;
    }
    run(conn, "SET lock_timeout = 0").await
}

pub async fn create_schema(conn: &mut PgConnection) -> Result<(), Error> {
    run(conn, "CREATE SCHEMA rebuild").await
}

/// What depends on the live tables and could not follow them through a swap.
pub async fn obstacles(conn: &mut PgConnection) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(
        r#"
        WITH live AS (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname::text = ANY($1))
        SELECT DISTINCT format('materialized view %s', c.oid::regclass) AS "obstacle!"
        FROM pg_depend d
        JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'm'
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM live)
        UNION ALL
        SELECT format('trigger %I on %s', tgname, tgrelid::regclass) FROM pg_trigger
        WHERE tgrelid IN (SELECT oid FROM live)
        UNION ALL
        SELECT format('policy %I on %s', polname, polrelid::regclass) FROM pg_policy
        WHERE polrelid IN (SELECT oid FROM live)
        "#,
        &names()
    )
    .fetch_all(conn)
    .await?)
}

/// Reads how the live tables are defined, so that a later migration is followed.
pub async fn definitions(conn: &mut PgConnection) -> Result<Vec<Definition>, Error> {
    // PostgreSQL leaves out the schema of a table that the path finds.
    run(conn, "SET search_path = public").await?;
    let mut definitions = Vec::with_capacity(Table::ALL.len());
    for table in Table::ALL {
        let before = sqlx::query_scalar!(
            r#"
            WITH live AS (
                SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = $1::text
            )
            SELECT format('ALTER TABLE rebuild.%I SET (%s)', relname, array_to_string(reloptions, ', ')) AS "statement!"
            FROM live WHERE reloptions IS NOT NULL
            UNION ALL
            SELECT format('ALTER TABLE rebuild.%I OWNER TO %I', relname, pg_get_userbyid(relowner))
            FROM live WHERE relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
            UNION ALL
            SELECT format(
                'GRANT %s ON rebuild.%I TO %s%s', a.privilege_type, relname,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            )
            FROM live, aclexplode(relacl) a WHERE a.grantee <> relowner
            UNION ALL
            SELECT format(
                'GRANT %s (%I) ON rebuild.%I TO %s%s', a.privilege_type, attname, relname,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            )
            FROM live JOIN pg_attribute ON attrelid = live.oid, aclexplode(attacl) a
            UNION ALL
            SELECT format('COMMENT ON TABLE rebuild.%I IS %L', relname, obj_description(oid, 'pg_class'))
            FROM live WHERE obj_description(oid, 'pg_class') IS NOT NULL
            "#,
            table.name()
        )
        .fetch_all(&mut *conn)
        .await?;
        let after = sqlx::query_scalar!(
            r#"
            WITH live AS (
                SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = $1::text
            )
            SELECT format('ALTER TABLE rebuild.%I ADD CONSTRAINT %I %s', relname, conname, pg_get_constraintdef(k.oid))
                AS "statement!"
            FROM pg_constraint k JOIN live ON live.oid = k.conrelid
            WHERE k.contype IN ('p', 'u', 'x', 'f')
            UNION ALL
            SELECT pg_get_indexdef(i.indexrelid, 0, true)
            FROM pg_index i JOIN live ON live.oid = i.indrelid
            WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
            "#,
            table.name()
        )
        .fetch_all(&mut *conn)
        .await?;
        definitions.push(Definition { table, before, after });
    }
    run(conn, "SET search_path = rebuild, public").await?;
    Ok(definitions)
}

impl Definition {
    /// Makes the table, without indexes. Rows that are loaded in the same
    /// transaction may come frozen.
    pub async fn create(&self, conn: &mut PgConnection) -> Result<(), Error> {
        let name = self.table.name();
        let create = format!("CREATE TABLE rebuild.{name} (LIKE public.{name} INCLUDING ALL EXCLUDING INDEXES)");
        run(conn, &create).await?;
        for statement in &self.before {
            run(conn, statement).await?;
        }
        Ok(())
    }

    /// Builds the indexes under the names of the live ones, and counts what
    /// the planner wants to know.
    pub async fn index(&self, conn: &mut PgConnection) -> Result<(), Error> {
        for statement in &self.after {
            run(conn, statement).await?;
        }
        run(conn, &format!("ANALYZE rebuild.{}", self.table.name())).await
    }
}

pub async fn begin(conn: &mut PgConnection) -> Result<(), Error> {
    run(conn, "BEGIN").await
}

pub async fn commit(conn: &mut PgConnection) -> Result<(), Error> {
    run(conn, "COMMIT").await
}

pub async fn roll_back(conn: &mut PgConnection) -> Result<(), Error> {
    run(conn, "ROLLBACK").await
}

/// Rows on their way into a fresh table.
pub struct Load<'c>(PgCopyIn<&'c mut PgConnection>);

impl<'c> Load<'c> {
    /// Begins to load a table that this transaction has made. Its rows are
    /// frozen: no vacuum has to come after, and no old snapshot misses them.
    pub async fn begin(conn: &'c mut PgConnection, table: Table) -> Result<Self, Error> {
        Self::copy(conn, &format!("rebuild.{}", table.name()), table.columns(), ", FREEZE").await
    }

    async fn copy(conn: &'c mut PgConnection, target: &str, columns: &str, option: &str) -> Result<Self, Error> {
        let statement = format!("COPY {target} ({columns}) FROM STDIN (FORMAT binary{option})");
        let mut copy = conn.copy_in_raw(&statement).await?;
        copy.send(COPY_HEADER.as_slice()).await?;
        Ok(Self(copy))
    }

    /// Sends encoded rows, and empties the buffer.
    pub async fn send(&mut self, rows: &mut Vec<u8>) -> Result<(), Error> {
        if !rows.is_empty() {
            self.0.send(rows.as_slice()).await?;
            rows.clear();
        }
        Ok(())
    }

    pub async fn finish(mut self) -> Result<(), Error> {
        self.0.send(COPY_TRAILER.as_slice()).await?;
        self.0.finish().await?;
        Ok(())
    }
}

/// Fills `backdated_days` from `backdated`, in the transaction that made both.
pub async fn fill_days(conn: &mut PgConnection) -> Result<(), Error> {
    // The table is as new as its rows, and has no key yet that could be met twice.
    add_days(conn, "rebuild.backdated", "").await
}

/// Adds to `backdated_days` what the rows of another table amount to.
async fn add_days(conn: &mut PgConnection, from: &str, on_conflict: &str) -> Result<(), Error> {
    run(
        conn,
        &format!(
            "INSERT INTO rebuild.backdated_days AS d ({})
             SELECT shard, ledger_id, account_id, (effective_at AT TIME ZONE 'UTC')::date,
                coalesce(sum(amount) FILTER (WHERE side = 'debit'), 0),
                coalesce(sum(amount) FILTER (WHERE side = 'credit'), 0)
             FROM {from} GROUP BY 1, 2, 3, 4 {on_conflict}",
            Table::BackdatedDays.columns()
        ),
    )
    .await
}

/// Writes rows into fresh tables that have their indexes. Those of tables whose
/// rows change take the place of older ones. The rows are kept: should the transaction not
/// commit, they are written again.
pub async fn write(conn: &mut PgConnection, rows: &Rows) -> Result<(), Error> {
    for (table, rows) in [
        (Table::Accounts, &rows.accounts),
        (Table::Entries, &rows.entries),
        (Table::Rejections, &rows.rejections),
        (Table::TransactionMetadata, &rows.metadata),
        (Table::TransactionAccounts, &rows.transaction_accounts),
    ] {
        copy_all(conn, &format!("rebuild.{}", table.name()), table.columns(), rows).await?;
    }
    write_backdated(conn, &rows.backdated).await?;
    write_attributes(conn, &rows.attributes).await?;
    write_changing(conn, Table::Holds, HOLD_CHANGES, &rows.holds).await?;
    write_changing(conn, Table::ScheduledTransactions, SCHEDULE_CHANGES, &rows.schedules).await?;
    write_usage(conn, &rows.usage).await?;
    if rows.balances.is_empty() {
        return Ok(());
    }
    run(conn, "CREATE TEMP TABLE IF NOT EXISTS changed_balances (LIKE public.balances) ON COMMIT DELETE ROWS").await?;
    let columns = Table::Balances.columns();
    copy_all(conn, "pg_temp.changed_balances", columns, &rows.balances).await?;
    run(
        conn,
        &format!(
            "INSERT INTO rebuild.balances AS b ({columns}) SELECT {columns} FROM pg_temp.changed_balances
             ON CONFLICT (shard, ledger_id, account_id) DO UPDATE SET
                debits_posted = EXCLUDED.debits_posted,
                credits_posted = EXCLUDED.credits_posted,
                debits_pending = EXCLUDED.debits_pending,
                credits_pending = EXCLUDED.credits_pending,
                version = EXCLUDED.version,
                previous_version = b.version,
                position = EXCLUDED.position"
        ),
    )
    .await
}

/// The same of back-dated legs, by way of a table of their own, from which the
/// days are added up.
async fn write_backdated(conn: &mut PgConnection, rows: &[u8]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    run(conn, "CREATE TEMP TABLE IF NOT EXISTS more_backdated (LIKE public.backdated) ON COMMIT DELETE ROWS").await?;
    let columns = Table::Backdated.columns();
    copy_all(conn, "pg_temp.more_backdated", columns, rows).await?;
    let insert = format!("INSERT INTO rebuild.backdated ({columns}) SELECT {columns} FROM pg_temp.more_backdated");
    run(conn, &insert).await?;
    let add = "ON CONFLICT (shard, ledger_id, account_id, day) DO UPDATE SET \
               debits = d.debits + EXCLUDED.debits, credits = d.credits + EXCLUDED.credits";
    add_days(conn, "pg_temp.more_backdated", add).await
}

/// Sets what has changed of accounts that are in their fresh table.
async fn write_attributes(conn: &mut PgConnection, rows: &[u8]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    run(
        conn,
        "CREATE TEMP TABLE IF NOT EXISTS changed_accounts (
            shard smallint, ledger_id integer, account_id bigint, min_balance numeric, max_balance numeric,
            status text, metadata jsonb, freeze_scope text, freeze_reason text
         ) ON COMMIT DELETE ROWS",
    )
    .await?;
    copy_all(conn, "pg_temp.changed_accounts", ATTRIBUTE_COLUMNS, rows).await?;
    run(
        conn,
        "UPDATE rebuild.accounts a
         SET min_balance = c.min_balance, max_balance = c.max_balance, status = c.status, metadata = c.metadata,
            freeze_scope = c.freeze_scope, freeze_reason = c.freeze_reason
         FROM pg_temp.changed_accounts c
         WHERE a.shard = c.shard AND a.ledger_id = c.ledger_id AND a.account_id = c.account_id",
    )
    .await
}

const HOLD_CHANGES: &str = "state = EXCLUDED.state, remaining = EXCLUDED.remaining, captured = EXCLUDED.captured, \
                            changed_position = EXCLUDED.changed_position, changed_at = EXCLUDED.changed_at";
const SCHEDULE_CHANGES: &str = "state = EXCLUDED.state, changed_position = EXCLUDED.changed_position, \
                                changed_at = EXCLUDED.changed_at";

/// Writes rows by way of a table of their own.
async fn write_changing(conn: &mut PgConnection, table: Table, changes: &str, rows: &Changing) -> Result<(), Error> {
    if rows.ended.is_empty() && rows.open.is_empty() {
        return Ok(());
    }
    let (name, columns) = (table.name(), table.columns());
    let create = format!("CREATE TEMP TABLE IF NOT EXISTS changed_{name} (LIKE public.{name}) ON COMMIT DELETE ROWS");
    run(conn, &create).await?;
    for rows in [&rows.ended, &rows.open] {
        copy_all(conn, &format!("pg_temp.changed_{name}"), columns, rows).await?;
    }
    run(
        conn,
        &format!(
            "INSERT INTO rebuild.{name} ({columns}) SELECT {columns} FROM pg_temp.changed_{name}
             ON CONFLICT (shard, ledger_id, account_id, position) DO UPDATE SET {changes}"
        ),
    )
    .await
}

/// Writes what limits have counted, in place of what they had.
async fn write_usage(conn: &mut PgConnection, rows: &[u8]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    run(conn, "CREATE TEMP TABLE IF NOT EXISTS changed_usage (LIKE public.velocity_usage) ON COMMIT DELETE ROWS")
        .await?;
    let columns = Table::VelocityUsage.columns();
    copy_all(conn, "pg_temp.changed_usage", columns, rows).await?;
    run(
        conn,
        &format!(
            "DELETE FROM rebuild.velocity_usage v
             USING (SELECT DISTINCT shard, ledger_id, account_id, limit_position FROM pg_temp.changed_usage) AS c
             WHERE v.shard = c.shard AND v.ledger_id = c.ledger_id AND v.account_id = c.account_id
                AND v.limit_position = c.limit_position;
             INSERT INTO rebuild.velocity_usage ({columns}) SELECT {columns} FROM pg_temp.changed_usage"
        ),
    )
    .await
}

async fn copy_all(conn: &mut PgConnection, target: &str, columns: &str, rows: &[u8]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut load = Load::copy(conn, target, columns, "").await?;
    load.0.send(rows).await?;
    load.finish().await
}

/// The head of every ledger, as of now.
pub async fn heads(conn: &mut PgConnection) -> Result<Vec<(LedgerId, Position)>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT l.ledger_id, coalesce(last.position, 0) AS "position!"
        FROM ledgers l
        LEFT JOIN LATERAL (
            SELECT e.position FROM events e WHERE e.ledger_id = l.ledger_id ORDER BY e.position DESC LIMIT 1
        ) AS last ON true
        ORDER BY l.ledger_id
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.ledger_id, row.position as Position)).collect())
}

/// The server's clock.
pub async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>, Error> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(conn).await?)
}

/// Sessions that have a snapshot in a transaction that began before `time`.
pub async fn older_snapshots(conn: &mut PgConnection, time: DateTime<Utc>) -> Result<Vec<i32>, Error> {
    Ok(sqlx::query_scalar!(
        r#"
        SELECT pid AS "pid!" FROM pg_stat_activity
        WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
            AND backend_xmin IS NOT NULL AND xact_start < $1
        "#,
        time
    )
    .fetch_all(conn)
    .await?)
}

/// Stops flushes until the transaction ends, and waits for those under way.
pub async fn stop_flushes(conn: &mut PgConnection, wait_ms: u64) -> Result<(), Error> {
    run(conn, &format!("SET LOCAL lock_timeout = {wait_ms}; LOCK TABLE public.checkpoints IN EXCLUSIVE MODE")).await
}

/// Puts the fresh tables in the place of the live ones, with everything that is
/// tied to them, as of `heads`. Runs in the transaction that stopped flushes;
/// the tables that were replaced are left for [`clear`], so that nobody waits
/// while their files are removed.
///
/// # Errors
/// [`Error::Transient`] when a reader is in the way for longer than `wait_ms`.
/// Also when a checkpoint is ahead of the log, which nothing may hide.
pub async fn swap(conn: &mut PgConnection, heads: &[(LedgerId, Position)], wait_ms: u64) -> Result<(), Error> {
    let views = views(conn).await?;
    run(conn, &format!("SET LOCAL lock_timeout = {wait_ms}; SET LOCAL search_path = rebuild, public")).await?;
    for view in views {
        run(conn, &view).await?;
    }
    let live = Table::ALL.map(|table| format!("public.{}", table.name())).join(", ");
    run(conn, &format!("LOCK TABLE {live} IN ACCESS EXCLUSIVE MODE; CREATE SCHEMA replaced")).await?;
    for table in Table::ALL.map(Table::name) {
        let exchange =
            format!("ALTER TABLE public.{table} SET SCHEMA replaced; ALTER TABLE rebuild.{table} SET SCHEMA public");
        run(conn, &exchange).await?;
    }
    advance_checkpoints(conn, heads).await?;
    sqlx::query!("DELETE FROM projection_faults").execute(conn).await?;
    Ok(())
}

/// Statements that tie every view on the live tables to the fresh ones. Read
/// with a path that finds the live tables, so that their names come without a
/// schema; run with a path that finds the fresh ones.
async fn views(conn: &mut PgConnection) -> Result<Vec<String>, Error> {
    run(conn, "SET LOCAL search_path = public").await?;
    Ok(sqlx::query_scalar!(
        r#"
        SELECT format(
            'CREATE OR REPLACE VIEW %I.%I%s AS %s', n.nspname, c.relname,
            ' WITH (' || array_to_string(c.reloptions, ', ') || ')', pg_get_viewdef(c.oid)
        ) AS "statement!"
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'v' AND EXISTS (
            SELECT FROM pg_rewrite r
            JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass
            JOIN pg_class t ON t.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass
            WHERE r.ev_class = c.oid AND t.relnamespace = 'public'::regnamespace AND t.relname::text = ANY($1)
        )
        ORDER BY n.nspname, c.relname
        "#,
        &names()
    )
    .fetch_all(conn)
    .await?)
}

async fn advance_checkpoints(conn: &mut PgConnection, heads: &[(LedgerId, Position)]) -> Result<(), Error> {
    let (ledgers, positions): (Vec<LedgerId>, Vec<i64>) = heads.iter().map(|(id, head)| (*id, *head as i64)).unzip();
    let ahead = sqlx::query!(
        r#"
        SELECT c.ledger_id, c.shard, c.position, h.position AS "head!"
        FROM checkpoints c
        JOIN UNNEST($2::integer[], $3::bigint[]) AS h (ledger_id, position) ON h.ledger_id = c.ledger_id
        WHERE c.projection = $1 AND c.position > h.position
        LIMIT 1
        "#,
        BALANCES,
        &ledgers,
        &positions
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(ahead) = ahead {
        let detail = format!(
            "the checkpoint of shard {} of ledger {} is ahead of the log, which ends at {}",
            ahead.shard, ahead.ledger_id, ahead.head
        );
        return Err(Error::Corrupt { position: ahead.position as Position, detail });
    }
    sqlx::query!(
        r#"
        UPDATE checkpoints c SET position = h.position
        FROM UNNEST($2::integer[], $3::bigint[]) AS h (ledger_id, position)
        WHERE c.projection = $1 AND c.ledger_id = h.ledger_id
        "#,
        BALANCES,
        &ledgers,
        &positions
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Runs statements that are made from PostgreSQL's own catalogue and from names
/// in this file.
async fn run(conn: &mut PgConnection, statements: &str) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(conn).await?;
    Ok(())
}
