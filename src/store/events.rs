//! The log: appending to it and reading it.
//!
//! One writer per ledger appends, fenced by its claim's epoch in the same
//! statement; a takeover updates the claim's row and so waits for a running
//! append, and every later append of the old holder finds the epoch gone.
//! Readers need no lock: positions are handed out by that one writer and become
//! visible with its commit, in order, so a reader that has seen position n has
//! seen all before it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::connection::Tx;
use super::jsonb::Jsonb;
use super::payload::{self, PayloadError};
use super::{Connection, Epoch, Error, LedgerId, rows};
use crate::failpoint::failpoint;
use crate::ledger::{Event, Fact, Position};
use crate::safety::{Safety, is_off};

/// A key and its request, as they commit with the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub key_hash: [u8; 16],
    pub fingerprint: [u8; 16],
    /// The first event that the key recorded.
    pub position: Position,
    /// How many events it recorded, in a row.
    pub event_count: u32,
}

/// Appends `events`, whose positions follow on each other, with their keys, in
/// one statement that commits by itself.
///
/// # Errors
/// [`Error::Fenced`] when `epoch` is no longer the claim's; then, and on every
/// error but [`Error::Unavailable`], nothing was stored.
pub async fn append(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    epoch: Epoch,
    events: &[Event],
    keys: &[KeyRow],
) -> Result<(), Error> {
    let Some(first) = events.first() else {
        return fence(executor, ledger_id, epoch).await;
    };
    let mut text = String::with_capacity(events.len() * 320);
    let ends: Vec<usize> = events
        .iter()
        .map(|event| {
            payload::write(&event.fact, &mut text);
            text.len()
        })
        .collect();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let payloads: Vec<Jsonb<&str>> = starts.zip(&ends).map(|(start, end)| Jsonb(&text[start..*end])).collect();
    let types: Vec<&str> = events.iter().map(|event| event.fact.type_name()).collect();
    let schema_versions: Vec<i16> = events.iter().map(|event| payload::schema_version(&event.fact)).collect();
    let transaction_ids: Vec<Option<Uuid>> = events.iter().map(|event| event.transaction_id).collect();
    let subject_ids: Vec<Option<Uuid>> = events.iter().map(|event| event.fact.subject()).collect();
    let idempotency_keys: Vec<Option<&str>> = events.iter().map(|event| event.idempotency_key.as_deref()).collect();
    let recorded_at: Vec<DateTime<Utc>> = events.iter().map(|event| event.recorded_at).collect();
    let effective_at: Vec<DateTime<Utc>> = events.iter().map(|event| event.effective_at).collect();
    let key_hashes: Vec<&[u8]> = keys.iter().map(|key| key.key_hash.as_slice()).collect();
    let fingerprints: Vec<&[u8]> = keys.iter().map(|key| key.fingerprint.as_slice()).collect();
    let key_positions: Vec<i64> = keys.iter().map(|key| key.position as i64).collect();
    let key_counts: Vec<i32> = keys.iter().map(|key| key.event_count as i32).collect();
    let (assets, scales): (Vec<&str>, Vec<i16>) = events
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::AssetDefined { code, scale } => Some((code.as_str(), i16::from(*scale))),
            _ => None,
        })
        .unzip();
    let fences = sqlx::query_file_scalar!(
        "src/store/sql/append.sql",
        ledger_id,
        epoch,
        first.position as i64,
        types as _,
        &schema_versions,
        transaction_ids as _,
        subject_ids as _,
        idempotency_keys as _,
        payloads as _,
        &recorded_at,
        &effective_at,
        key_hashes as _,
        fingerprints as _,
        &key_positions,
        &key_counts,
        assets as _,
        &scales,
    )
    .fetch_one(executor)
    .await?;
    if fences == 1 { Ok(()) } else { Err(Error::Fenced { epoch }) }
}

/// Events from which an append goes by COPY: PostgreSQL writes many rows at a
/// time then, which is worth its five round trips more.
const COPY_EVENTS_MIN: usize = 800;

/// Whether a batch of so many events goes by [`write`] rather than [`append`].
/// All do when a test has switched the epoch check off, since it is [`write`]
/// that can do without.
pub fn goes_by_copy(events: usize) -> bool {
    events >= COPY_EVENTS_MIN || (events > 0 && is_off(Safety::Epoch))
}

/// A batch whose rows are written and not committed. Dropped, it rolls back.
pub struct Written<'c>(Tx<'c>);

impl Written<'_> {
    /// # Errors
    /// [`Error::Unavailable`]: whether it was committed is not known.
    pub async fn commit(self) -> Result<(), Error> {
        Ok(self.0.commit().await?)
    }

    /// # Errors
    /// [`Error::Unavailable`]: the connection is gone, and the rows with it.
    pub async fn roll_back(self) -> Result<(), Error> {
        Ok(self.0.rollback().await?)
    }
}

/// The same as [`append`], for large batches: fence, events, keys and assets in
/// one transaction, which is the caller's to commit. The fence is locked first
/// and until the commit, so a takeover waits for it just the same.
///
/// # Errors
/// Those of [`append`]; on every one of them, nothing will be stored.
pub async fn write<'c>(
    conn: &'c mut Connection,
    ledger_id: LedgerId,
    epoch: Epoch,
    events: &[Event],
    keys: &[KeyRow],
) -> Result<Written<'c>, Error> {
    let mut tx = conn.begin().await?;
    let held = sqlx::query_scalar!(
        "SELECT 1 FROM sequencer_claims WHERE ledger_id = $1 AND epoch = $2 FOR SHARE",
        ledger_id,
        epoch
    )
    .fetch_optional(&mut tx)
    .await?;
    if held.is_none() && !is_off(Safety::Epoch) {
        tx.rollback().await?;
        return Err(Error::Fenced { epoch });
    }
    match write_rows(&mut tx, ledger_id, epoch, events, keys).await {
        Ok(()) => Ok(Written(tx)),
        Err(error @ Error::Unavailable(_)) => Err(error),
        Err(error) => {
            tx.rollback().await?;
            Err(error)
        }
    }
}

async fn write_rows(
    tx: &mut Tx<'_>,
    ledger_id: LedgerId,
    epoch: Epoch,
    events: &[Event],
    keys: &[KeyRow],
) -> Result<(), Error> {
    let keys = copy_events(tx, ledger_id, epoch, events, || key_rows(ledger_id, keys)).await?;
    if !keys.is_empty() {
        copy(tx, COPY_KEYS, &keys).await?;
    }
    for event in events {
        if let Fact::AssetDefined { code, scale } = &event.fact {
            sqlx::query!(
                "INSERT INTO assets (ledger_id, code, scale) VALUES ($1, $2, $3)",
                ledger_id,
                code.as_str(),
                i16::from(*scale)
            )
            .execute(&mut *tx)
            .await?;
        }
    }
    Ok(())
}

const COPY_EVENTS: &str = "COPY events (ledger_id, position, type, schema_version, transaction_id, subject_id, \
                           idempotency_key, payload, recorded_at, effective_at, epoch) FROM STDIN (FORMAT binary)";
const COPY_KEYS: &str =
    "COPY idempotency_keys (ledger_id, key_hash, fingerprint, position, event_count) FROM STDIN (FORMAT binary)";

/// Sends rows in the binary format.
pub(super) async fn copy(tx: &mut Tx<'_>, statement: &'static str, rows: &[u8]) -> Result<(), Error> {
    let mut copy = tx.copy_in(statement).await?;
    copy.send(rows).await?;
    copy.finish().await?;
    Ok(())
}

/// Sends the rows of `events` as they are encoded, so that PostgreSQL works on
/// the first while the last are still to be written down. `meanwhile` is done
/// while it works on the last.
async fn copy_events<T>(
    tx: &mut Tx<'_>,
    ledger_id: LedgerId,
    epoch: Epoch,
    events: &[Event],
    meanwhile: impl FnOnce() -> T,
) -> Result<T, Error> {
    let mut copy = tx.copy_in(COPY_EVENTS).await?;
    let mut out = Vec::with_capacity(COPY_MESSAGE_BYTES + 4096);
    let mut text = String::new();
    out.extend_from_slice(rows::COPY_HEADER);
    for event in events {
        event_row(ledger_id, epoch, event, &mut text, &mut out);
        if out.len() >= COPY_MESSAGE_BYTES {
            copy.send(out.as_slice()).await?;
            out.clear();
        }
    }
    failpoint("during_copy");
    out.extend_from_slice(&rows::COPY_TRAILER);
    copy.send(out).await?;
    let done = meanwhile();
    copy.finish().await?;
    Ok(done)
}

fn event_row(ledger_id: LedgerId, epoch: Epoch, event: &Event, text: &mut String, out: &mut Vec<u8>) {
    out.extend_from_slice(&11_i16.to_be_bytes());
    rows::field(out, &ledger_id.to_be_bytes());
    rows::field(out, &event.position.to_be_bytes());
    rows::field(out, event.fact.type_name().as_bytes());
    rows::field(out, &payload::schema_version(&event.fact).to_be_bytes());
    for id in [event.transaction_id, event.fact.subject()] {
        match id {
            Some(id) => rows::field(out, id.as_bytes()),
            None => rows::null(out),
        }
    }
    rows::text_or_null(out, event.idempotency_key.as_deref());
    text.clear();
    payload::write(&event.fact, text);
    rows::sized(out, |out| {
        out.push(rows::JSONB_VERSION);
        out.extend_from_slice(text.as_bytes());
    });
    rows::time(out, event.recorded_at);
    rows::time(out, event.effective_at);
    rows::field(out, &epoch.to_be_bytes());
}

/// COPY data is sent in messages of about this size: some hundred events.
const COPY_MESSAGE_BYTES: usize = 64 * 1024;

/// Empty when there are none.
fn key_rows(ledger_id: LedgerId, keys: &[KeyRow]) -> Vec<u8> {
    if keys.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(keys.len() * 72);
    // In the order of the index, which then finds the next place near the last.
    let mut keys: Vec<&KeyRow> = keys.iter().collect();
    keys.sort_unstable_by_key(|key| key.key_hash);
    out.extend_from_slice(rows::COPY_HEADER);
    for key in keys {
        out.extend_from_slice(&5_i16.to_be_bytes());
        rows::field(&mut out, &ledger_id.to_be_bytes());
        rows::field(&mut out, &key.key_hash);
        rows::field(&mut out, &key.fingerprint);
        rows::field(&mut out, &key.position.to_be_bytes());
        rows::field(&mut out, &(key.event_count as i32).to_be_bytes());
    }
    out.extend_from_slice(&rows::COPY_TRAILER);
    out
}

/// Confirms that `epoch` is the claim's, as of a moment after the call began.
pub async fn fence(executor: impl PgExecutor<'_>, ledger_id: LedgerId, epoch: Epoch) -> Result<(), Error> {
    let held =
        sqlx::query_scalar!("SELECT 1 FROM sequencer_claims WHERE ledger_id = $1 AND epoch = $2", ledger_id, epoch)
            .fetch_optional(executor)
            .await?;
    if held.is_some() { Ok(()) } else { Err(Error::Fenced { epoch }) }
}

/// The last position of the log and when it was recorded; `None` when empty.
pub async fn head(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
) -> Result<Option<(Position, DateTime<Utc>)>, Error> {
    let row = sqlx::query!(
        "SELECT position, recorded_at FROM events WHERE ledger_id = $1 ORDER BY position DESC LIMIT 1",
        ledger_id
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(|row| (row.position as Position, row.recorded_at)))
}

/// Whether the event at `position` was appended under `epoch`: how the outcome
/// of an append whose connection died at COMMIT is read back. Only meaningful
/// once a higher epoch has been raised, since that waits the old append out.
pub async fn was_appended(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    position: Position,
    epoch: Epoch,
) -> Result<bool, Error> {
    let found = sqlx::query_scalar!(
        "SELECT 1 FROM events WHERE ledger_id = $1 AND position = $2 AND epoch = $3",
        ledger_id,
        position as i64,
        epoch
    )
    .fetch_optional(executor)
    .await?;
    Ok(found.is_some())
}

/// A row of the log, its payload as text.
#[derive(Clone, Debug)]
pub struct Row {
    pub position: Position,
    pub type_name: String,
    pub schema_version: i16,
    pub transaction_id: Option<Uuid>,
    pub subject_id: Option<Uuid>,
    pub idempotency_key: Option<String>,
    pub payload: Box<str>,
    pub recorded_at: DateTime<Utc>,
    pub effective_at: DateTime<Utc>,
}

impl Row {
    /// # Errors
    /// [`Error::Payload`]: an unknown version, or a payload that is malformed or of
    /// another subject than its row.
    pub fn into_event(self) -> Result<Event, Error> {
        let fact = payload::read(&self.type_name, self.schema_version, self.position, &self.payload)
            .and_then(|fact| match fact.subject() == self.subject_id {
                true => Ok(fact),
                false => Err(PayloadError::Invalid { type_name: self.type_name.clone(), what: "subject_id" }),
            })
            .map_err(|source| Error::Payload { position: self.position, source })?;
        Ok(Event {
            position: self.position,
            recorded_at: self.recorded_at,
            effective_at: self.effective_at,
            transaction_id: self.transaction_id,
            idempotency_key: self.idempotency_key.map(Arc::from),
            fact,
        })
    }
}

macro_rules! row {
    ($row:expr) => {
        Row {
            position: $row.position as Position,
            type_name: $row.type_name,
            schema_version: $row.schema_version,
            transaction_id: $row.transaction_id,
            subject_id: $row.subject_id,
            idempotency_key: $row.idempotency_key,
            payload: $row.payload.0,
            recorded_at: $row.recorded_at,
            effective_at: $row.effective_at,
        }
    };
}

/// Up to `limit` rows after `after`, in order: those of the `limit` positions that
/// follow. The bound is in the statement, or a planner whose statistics are older
/// than the log's growth would read and sort all of the rest.
///
/// # Errors
/// [`Error::Hole`] when a position is missing: nobody may read past it.
pub async fn read(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    after: Position,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT position, type AS type_name, schema_version, transaction_id, subject_id, idempotency_key,
               payload AS "payload: Jsonb<Box<str>>", recorded_at, effective_at
        FROM events
        WHERE ledger_id = $1 AND position > $2 AND position <= $3
        ORDER BY position
        "#,
        ledger_id,
        after as i64,
        (after as i64).saturating_add(limit)
    )
    .fetch_all(executor)
    .await?;
    let rows: Vec<Row> = rows.into_iter().map(|row| row!(row)).collect();
    for (expected, row) in (after + 1..).zip(&rows) {
        if row.position != expected {
            return Err(Error::Hole { ledger_id, expected, found: row.position });
        }
    }
    Ok(rows)
}

/// Like [`read`], decoded.
pub async fn read_events(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    after: Position,
    limit: i64,
) -> Result<Vec<Event>, Error> {
    read(executor, ledger_id, after, limit).await?.into_iter().map(Row::into_event).collect()
}

/// An event with the epoch under which it was appended.
#[derive(Clone, Debug)]
pub struct Logged {
    pub event: Event,
    pub epoch: Epoch,
}

/// The events after `after` and up to `to`, in order, as they are: it is the
/// caller who looks for holes.
pub async fn read_logged(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    after: Position,
    to: Position,
) -> Result<Vec<Logged>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT position, type AS type_name, schema_version, transaction_id, subject_id, idempotency_key,
               payload AS "payload: Jsonb<Box<str>>", recorded_at, effective_at, epoch
        FROM events
        WHERE ledger_id = $1 AND position > $2 AND position <= $3
        ORDER BY position
        "#,
        ledger_id,
        after as i64,
        to as i64
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(|row| Ok(Logged { epoch: row.epoch, event: row!(row).into_event()? })).collect()
}

/// The events at `positions`, in order of position; those that do not exist are left out.
pub async fn at_positions(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    positions: &[i64],
) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT position, type AS type_name, schema_version, transaction_id, subject_id, idempotency_key,
               payload AS "payload: Jsonb<Box<str>>", recorded_at, effective_at
        FROM events
        WHERE ledger_id = $1 AND position = ANY($2)
        ORDER BY position
        "#,
        ledger_id,
        positions
    )
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(|row| row!(row).into_event()).collect()
}

/// The idempotency keys of the last `count` events, oldest first.
pub async fn recent_keys(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    head: Position,
    count: u64,
) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar!(
        r#"
        SELECT idempotency_key AS "key!" FROM events
        WHERE ledger_id = $1 AND position > $2 AND idempotency_key IS NOT NULL
        ORDER BY position
        "#,
        ledger_id,
        head.saturating_sub(count) as i64
    )
    .fetch_all(executor)
    .await?)
}
