//! What PostgreSQL itself can write: the same event rows, into a table of the same shape, by binary COPY, with
//! nothing in between and the same durability.
//!
//! The SQL is here and not in `store/`, and is not checked at compile time, because it is no part of the product: it
//! works on a scratch schema that no migration knows, and reads the log as the opaque bytes that COPY gives, whatever
//! columns it has. Nothing else may run SQL outside `store/`.
//!
//! What may run at the same time: the server, which is idle by then, so that both have had the machine to themselves.
//! Two benchmarks in one database would drop each other's schema, so the second is kept out by an advisory lock.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use indicatif::ProgressBar;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

/// How many events are written again at most: enough for seconds of work, and about 100 MB of memory.
const EVENTS_MAX: i64 = 200_000;

/// Rows in one COPY and one commit: as many as the sequencer appends at once.
const CHUNK_ROWS: i64 = 5_000;

/// The best round counts: the ceiling is what the machine can do, not what it did while something else ran.
const ROUNDS: usize = 3;

/// COPY data is sent in messages of this size. Larger ones only take memory.
const MESSAGE_BYTES: usize = 64 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// "steelyar" in ASCII: the advisory lock of the scratch schema.
const SCHEMA_LOCK: i64 = 0x7374_6565_6c79_6172;

pub(super) enum Ceiling {
    Measured { rows: u64, rounds_rows_per_second: Vec<f64> },
    NotMeasured { reason: String },
}

/// A connection that has noted where the run begins in the log.
pub(super) struct CeilingProbe {
    connection: PgConnection,
    ledger_id: i32,
    position_before: i64,
}

impl CeilingProbe {
    /// The error says why the ceiling cannot be measured. It never contains the URL, which may hold a password.
    pub(super) async fn connect(url: &str, ledger: &str) -> Result<CeilingProbe, String> {
        let connecting = async {
            let options = PgConnectOptions::from_str(url)
                .context("the database URL is not valid")?
                .application_name("steelyard bench")
                .disable_statement_logging();
            let mut connection =
                PgConnection::connect_with(&options).await.context("cannot connect to the database")?;
            let ledger_id = sqlx::query_scalar("SELECT ledger_id FROM public.ledgers WHERE name = $1")
                .bind(ledger)
                .fetch_optional(&mut connection)
                .await?
                .with_context(|| format!("this database has no ledger {ledger:?}; is it the server's?"))?;
            let position_before = last_position(&mut connection, ledger_id).await?;
            anyhow::Ok(CeilingProbe { connection, ledger_id, position_before })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(result) => result.map_err(|error| reason(&error)),
            Err(_) => Err(format!("no database connection within {} s", CONNECT_TIMEOUT.as_secs())),
        }
    }

    /// Writes the events of the run again, and leaves nothing behind.
    pub(super) async fn measure(mut self, progress: &ProgressBar) -> Ceiling {
        let result = self.measure_alone().await;
        progress.finish_and_clear();
        // The session's end releases the advisory lock, however it ends.
        let _ = self.connection.close().await;
        result.unwrap_or_else(|error| Ceiling::NotMeasured { reason: reason(&error) })
    }

    /// Only the holder of the lock touches the scratch schema.
    async fn measure_alone(&mut self) -> anyhow::Result<Ceiling> {
        let alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(SCHEMA_LOCK)
            .fetch_one(&mut self.connection)
            .await?;
        if !alone {
            bail!("another benchmark is measuring in this database");
        }
        let result = self.measure_in_scratch_schema().await;
        // Also when the measurement failed half-way; the next run would drop it, but there may be none.
        let dropped = sqlx::query("DROP SCHEMA IF EXISTS steelyard_bench CASCADE").execute(&mut self.connection).await;
        let ceiling = result?;
        dropped.context("the schema steelyard_bench could not be dropped")?;
        Ok(ceiling)
    }

    async fn measure_in_scratch_schema(&mut self) -> anyhow::Result<Ceiling> {
        let connection = &mut self.connection;
        let last = last_position(connection, self.ledger_id).await?;
        let first = (self.position_before + 1).max(last - EVENTS_MAX + 1);
        if first > last {
            bail!("the run wrote no events to this database");
        }
        let chunks = export(connection, self.ledger_id, first, last).await?;
        for statement in [
            // The server's appends wait for the disk, so these do too.
            "SET synchronous_commit TO on",
            "SET statement_timeout TO 0",
            "SET client_min_messages TO warning",
            "DROP SCHEMA IF EXISTS steelyard_bench CASCADE",
            "CREATE SCHEMA steelyard_bench",
            "CREATE TABLE steelyard_bench.events (LIKE public.events \
             INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)",
        ] {
            sqlx::query(statement)
                .execute(&mut *connection)
                .await
                .context("this role cannot make the scratch schema steelyard_bench")?;
        }
        let mut rows = 0;
        let mut rounds_rows_per_second = Vec::with_capacity(ROUNDS);
        for _round in 0..ROUNDS {
            sqlx::query("TRUNCATE steelyard_bench.events").execute(&mut *connection).await?;
            let begun = Instant::now();
            rows = import(connection, &chunks).await?;
            rounds_rows_per_second.push(rows as f64 / begun.elapsed().as_secs_f64());
        }
        Ok(Ceiling::Measured { rows, rounds_rows_per_second })
    }
}

/// The chain of causes on one line. Some of them repeat their own cause, which is then left out.
fn reason(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = text + separator + &cause;
        }
    }
    text
}

async fn last_position(connection: &mut PgConnection, ledger_id: i32) -> anyhow::Result<i64> {
    let position: Option<i64> = sqlx::query_scalar("SELECT max(position) FROM public.events WHERE ledger_id = $1")
        .bind(ledger_id)
        .fetch_one(connection)
        .await
        .context("this role cannot read the log")?;
    Ok(position.unwrap_or(0))
}

/// The events as complete COPY files of [`CHUNK_ROWS`] rows. Positions have no gaps, so ranges of them cut the log
/// exactly, and nothing here has to understand the binary format.
async fn export(connection: &mut PgConnection, ledger_id: i32, first: i64, last: i64) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut chunks = Vec::new();
    let mut from = first;
    while from <= last {
        let to = last.min(from + CHUNK_ROWS - 1);
        // COPY takes no parameters; these are numbers.
        let statement = format!(
            "COPY (SELECT * FROM public.events WHERE ledger_id = {ledger_id} AND position BETWEEN {from} AND {to} \
             ORDER BY position) TO STDOUT (FORMAT binary)"
        );
        let mut chunk = Vec::new();
        let mut messages = connection.copy_out_raw(&statement).await.context("this role cannot read the log")?;
        while let Some(message) = messages.try_next().await? {
            chunk.extend_from_slice(&message);
        }
        chunks.push(chunk);
        from = to + 1;
    }
    Ok(chunks)
}

/// Writes the chunks, each in its own transaction, and says how many rows that were.
async fn import(connection: &mut PgConnection, chunks: &[Vec<u8>]) -> anyhow::Result<u64> {
    let mut rows = 0;
    for chunk in chunks {
        let mut copy = connection.copy_in_raw("COPY steelyard_bench.events FROM STDIN (FORMAT binary)").await?;
        for message in chunk.chunks(MESSAGE_BYTES) {
            copy.send(message).await?;
        }
        rows += copy.finish().await?;
    }
    Ok(rows)
}
