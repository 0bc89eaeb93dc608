//! Idempotency keys: what a key did.
//!
//! Rows are written by the append and never change, so a row that is found is
//! the answer for ever, and looking one up needs no lock.

use sha2::{Digest, Sha256};
use sqlx::PgExecutor;

use super::events::KeyRow;
use super::{Error, LedgerId};
use crate::ledger::Position;

/// The first 16 bytes of the SHA-256 of a key: fixed size in memory and in the
/// index, and nobody can make two keys meet.
pub fn hash(key: &str) -> [u8; 16] {
    first_half(Sha256::digest(key.as_bytes()).into())
}

/// The first 16 bytes of a SHA-256.
pub fn first_half(digest: [u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// Those of `hashes` that are known.
pub async fn find(
    executor: impl PgExecutor<'_>,
    ledger_id: LedgerId,
    hashes: &[[u8; 16]],
) -> Result<Vec<KeyRow>, Error> {
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 16]>::as_slice).collect();
    let rows = sqlx::query!(
        r#"
        SELECT key_hash, fingerprint, position, event_count
        FROM idempotency_keys
        WHERE ledger_id = $1 AND key_hash = ANY($2::bytea[])
        "#,
        ledger_id,
        hashes as _
    )
    .fetch_all(executor)
    .await?;
    let bytes = |column: Vec<u8>| -> Result<[u8; 16], Error> {
        column.try_into().map_err(|_| Error::Refused(sqlx::Error::Decode("a key hash has not 16 bytes".into())))
    };
    rows.into_iter()
        .map(|row| {
            Ok(KeyRow {
                key_hash: bytes(row.key_hash)?,
                fingerprint: bytes(row.fingerprint)?,
                position: row.position as Position,
                event_count: row.event_count as u32,
            })
        })
        .collect()
}
