//! API keys: who may use the HTTP API, and as what.
//!
//! `steelyard keys` makes and revokes keys as the owner of the tables, one
//! statement each. Workers read those that are usable once a second, and note
//! in `last_used_at` that they are used, which is all that their role may
//! write. Two workers that note the same key at once do not wait for each
//! other: one skips the row that the other has locked. Rows are never deleted,
//! so that "a key was made" stays true.
//!
//! Whether a key has expired is the database's clock to say, so that all
//! workers agree on it.
//!
//! **Why looking a key up takes no constant-time comparison.** What is compared
//! is the SHA-256 of what a client sent. However much of a stored hash leaked
//! through timing, it would help nobody: to be let in one has to send 256
//! random bits that hash to all of it, and to find these from the hash is as
//! hard as to find them without.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Error;

/// What a key begins with, so that people, and programs that look for leaked
/// secrets, know what it is.
const PREFIX: &str = "sy_";
/// Random bytes of a key: nobody guesses them, so that a fast hash will do.
const SECRET_BYTES: usize = 32;
/// Keys that may be usable at a time. Every worker reads all of them every
/// second: that many cost it some 2 ms.
pub const USABLE_MAX: i64 = 1_000;

/// The SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// What a key allows. Each allows what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at everything.
    Read,
    /// Pay and open accounts too.
    Submit,
    /// Create ledgers and define assets too.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Read, Self::Submit, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(())
    }
}

/// A new key: `sy_` and 256 bits of the operating system's randomness in
/// hexadecimal.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn generate() -> std::io::Result<String> {
    let mut secret = [0; SECRET_BYTES];
    SysRng.try_fill_bytes(&mut secret).map_err(std::io::Error::other)?;
    let digits = secret.iter().map(|byte| format!("{byte:02x}"));
    Ok(std::iter::once(PREFIX.to_owned()).chain(digits).collect())
}

/// The hash under which a key is kept; `None` for what cannot be a key, which
/// is not worth hashing.
pub fn hash(key: &str) -> Option<KeyHash> {
    let digits = key.strip_prefix(PREFIX)?;
    let is_key = digits.len() == SECRET_BYTES * 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_key.then(|| Sha256::digest(key.as_bytes()).into())
}

/// A key as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub key_id: Uuid,
    pub name: String,
    pub role: String,
    pub ledger: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    /// `usable`, `expired` or `revoked`.
    pub status: String,
}

/// What a key is made of.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    pub key_id: Uuid,
    pub name: &'a str,
    pub key_hash: KeyHash,
    pub role: Role,
    pub ledger: Option<&'a str>,
    /// Seconds of its life; for ever when there are none.
    pub expires_in_s: Option<f64>,
}

/// Makes a key; `None` when [`USABLE_MAX`] are usable already.
pub async fn create(executor: impl PgExecutor<'_>, key: &NewKey<'_>) -> Result<Option<KeyRow>, Error> {
    Ok(sqlx::query_as!(
        KeyRow,
        r#"
        INSERT INTO api_keys (key_id, name, key_hash, role, ledger, expires_at)
        SELECT $1::uuid, $2, $3::bytea, $4, $5, now() + make_interval(secs => $6)
        WHERE (
            SELECT count(*) FROM api_keys
            WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
        ) < $7
        RETURNING key_id, name, role, ledger, created_at, expires_at, revoked_at, last_used_at, 'usable' AS "status!"
        "#,
        key.key_id,
        key.name,
        key.key_hash.as_slice(),
        key.role.as_str(),
        key.ledger,
        key.expires_in_s,
        USABLE_MAX
    )
    .fetch_optional(executor)
    .await?)
}

/// All keys that there ever were, in the order in which they were made.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<KeyRow>, Error> {
    Ok(sqlx::query_as!(
        KeyRow,
        r#"
        SELECT key_id, name, role, ledger, created_at, expires_at, revoked_at, last_used_at,
            CASE
                WHEN revoked_at IS NOT NULL THEN 'revoked'
                WHEN expires_at <= clock_timestamp() THEN 'expired'
                ELSE 'usable'
            END AS "status!"
        FROM api_keys ORDER BY created_at, key_id
        "#
    )
    .fetch_all(executor)
    .await?)
}

/// Takes a key back, for good; once more changes nothing. `None` when there is
/// no such key.
pub async fn revoke(executor: impl PgExecutor<'_>, key_id: Uuid) -> Result<Option<KeyRow>, Error> {
    Ok(sqlx::query_as!(
        KeyRow,
        r#"
        UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE key_id = $1
        RETURNING key_id, name, role, ledger, created_at, expires_at, revoked_at, last_used_at, 'revoked' AS "status!"
        "#,
        key_id
    )
    .fetch_optional(executor)
    .await?)
}

/// A key that lets its bearer in.
#[derive(Clone, Debug, PartialEq)]
pub struct UsableKey {
    pub key_id: Uuid,
    pub key_hash: KeyHash,
    pub role: Role,
    pub ledger: Option<String>,
    /// Seconds that are left of its life; for ever when there are none.
    pub expires_in_s: Option<f64>,
}

/// Every key that is neither revoked nor expired. One that this release cannot
/// read, of a role that a later one knows for example, lets nobody in.
pub async fn usable(executor: impl PgExecutor<'_>) -> Result<Vec<UsableKey>, Error> {
    let rows = sqlx::query!(
        r#"
        SELECT key_id, key_hash, role, ledger,
            extract(epoch FROM expires_at - clock_timestamp())::float8 AS expires_in_s
        FROM api_keys
        WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
        "#
    )
    .fetch_all(executor)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(UsableKey {
                key_id: row.key_id,
                key_hash: row.key_hash.try_into().ok()?,
                role: row.role.parse().ok()?,
                ledger: row.ledger,
                expires_in_s: row.expires_in_s,
            })
        })
        .collect())
}

/// Whether a key was ever made, usable or not.
pub async fn exist(executor: impl PgExecutor<'_>) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM api_keys) AS "exist!""#).fetch_one(executor).await?)
}

/// Notes that keys are in use, unless that was noted less than `every_s`
/// seconds ago, by this worker or another.
pub async fn touch(executor: impl PgExecutor<'_>, key_ids: &[Uuid], every_s: f64) -> Result<(), Error> {
    sqlx::query!(
        r#"
        WITH due AS (
            SELECT key_id FROM api_keys
            WHERE key_id = ANY($1)
                AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => $2))
            FOR UPDATE SKIP LOCKED
        )
        UPDATE api_keys SET last_used_at = clock_timestamp() FROM due WHERE api_keys.key_id = due.key_id
        "#,
        key_ids,
        every_s
    )
    .execute(executor)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_new_and_known_by_their_hash() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), "sy_".len() + 64);
        assert_eq!(hash(&one), hash(&one));
        assert_ne!(hash(&one), hash(&other));
        assert_eq!(hash(&one), Some(Sha256::digest(one.as_bytes()).into()));
    }

    #[test]
    fn what_cannot_be_a_key_has_no_hash() {
        let digits = "0".repeat(64);
        assert!(hash(&format!("sy_{digits}")).is_some());
        for text in
            ["", "sy_", &digits, &format!("sy_{digits}0"), &format!("sy_{}g", &digits[1..]), &format!("SY_{digits}")]
        {
            assert_eq!(hash(text), None, "{text}");
        }
    }

    #[test]
    fn roles_have_one_name_each_and_an_order() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(()));
    }
}
