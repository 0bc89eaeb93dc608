//! Ledgers and their assets.
//!
//! Ledgers are created by any worker at any time; the unique name decides
//! between two that create the same one, and the loser reads the winner's row.
//! Assets beyond ISO 4217 are written by the append of the event that defines them.

use sqlx::PgExecutor;

use super::{Connection, Error, LedgerId, Shard};
use crate::ledger::{Asset, AssetCode, LedgerName, asset};

/// A row of `ledgers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub ledger_id: LedgerId,
    pub name: LedgerName,
    pub created_at: chrono::DateTime<chrono::Utc>,
}

/// Tries at a number for a new ledger, against others that create one too.
const CREATE_TRIES_MAX: usize = 8;

/// All ledgers, by name.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<LedgerRow>, Error> {
    let rows =
        sqlx::query!("SELECT ledger_id, name, created_at FROM ledgers ORDER BY name").fetch_all(executor).await?;
    rows.into_iter()
        .map(|row| Ok(LedgerRow { ledger_id: row.ledger_id, name: name(&row.name)?, created_at: row.created_at }))
        .collect()
}

fn name(text: &str) -> Result<LedgerName, Error> {
    LedgerName::new(text).map_err(|error| Error::Refused(sqlx::Error::Decode(Box::new(error))))
}

/// Creates a ledger with its claim, its checkpoints and the ISO 4217 assets.
/// Answers its number, and whether it is new.
pub async fn create(conn: &mut Connection, name: &LedgerName) -> Result<(LedgerId, bool), Error> {
    for _ in 0..CREATE_TRIES_MAX {
        let known = sqlx::query_scalar!("SELECT ledger_id FROM ledgers WHERE name = $1", name.as_str())
            .fetch_optional(&mut *conn)
            .await?;
        if let Some(ledger_id) = known {
            return Ok((ledger_id, false));
        }
        match insert(conn, name).await {
            Ok(ledger_id) => return Ok((ledger_id, true)),
            // Another worker took the number or the name: look again.
            Err(Error::UniqueViolation { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Transient(sqlx::Error::Protocol("too many ledgers are being created at once".into())))
}

async fn insert(conn: &mut Connection, name: &LedgerName) -> Result<LedgerId, Error> {
    let (codes, scales): (Vec<String>, Vec<i16>) =
        asset::iso_4217().map(|asset| (asset.code.to_string(), i16::from(asset.scale))).unzip();
    let mut tx = conn.begin().await?;
    let ledger_id = sqlx::query_scalar!(
        r#"
        INSERT INTO ledgers (ledger_id, name)
        SELECT coalesce(max(ledger_id), 0) + 1, $1 FROM ledgers
        RETURNING ledger_id
        "#,
        name.as_str()
    )
    .fetch_one(&mut tx)
    .await?;
    sqlx::query!(
        "INSERT INTO assets (ledger_id, code, scale) SELECT $1, a.code, a.scale FROM UNNEST($2::text[], $3::smallint[]) AS a (code, scale)",
        ledger_id,
        &codes,
        &scales
    )
    .execute(&mut tx)
    .await?;
    sqlx::query!("INSERT INTO sequencer_claims (ledger_id) VALUES ($1)", ledger_id).execute(&mut tx).await?;
    sqlx::query!(
        "INSERT INTO checkpoints (projection, shard, ledger_id) SELECT 'balances', shard, $1 FROM shard_claims",
        ledger_id
    )
    .execute(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(ledger_id)
}

/// The assets of a ledger, by code.
pub async fn assets(executor: impl PgExecutor<'_>, ledger_id: LedgerId) -> Result<Vec<Asset>, Error> {
    let rows = sqlx::query!("SELECT code, scale FROM assets WHERE ledger_id = $1 ORDER BY code", ledger_id)
        .fetch_all(executor)
        .await?;
    rows.into_iter()
        .map(|row| {
            let code =
                AssetCode::new(&row.code).map_err(|error| Error::Refused(sqlx::Error::Decode(Box::new(error))))?;
            Ok(Asset { code, scale: row.scale as u8 })
        })
        .collect()
}

/// The number of shards, fixed when the database was created.
pub async fn shard_count(executor: impl PgExecutor<'_>) -> Result<Shard, Error> {
    Ok(sqlx::query_scalar!("SELECT shard_count FROM database_settings").fetch_one(executor).await?)
}

/// What workers of this database prove to each other with.
pub async fn cluster_secret(executor: impl PgExecutor<'_>) -> Result<String, Error> {
    Ok(sqlx::query_scalar!("SELECT secret FROM cluster_secret").fetch_one(executor).await?)
}
