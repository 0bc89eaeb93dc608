//! What velocity limits have counted on accounts, as their shards' projectors have
//! written it.
//!
//! Read for accounts that memory does not hold. Such an account's last event is
//! projected, and so is all that was counted with it: both commit together.

use super::{Connection, Error, LedgerId, Shard};
use crate::ledger::{Account, AccountCode, AccountId, Amount, Counted, Position};
use crate::shard::shard_of;
use hashbrown::HashMap;

/// All that is counted on these accounts. Of limits that are not in force any more
/// there may be rows too.
///
/// # Errors
/// What the database answers.
pub async fn counted(
    conn: &mut Connection,
    ledger_id: LedgerId,
    shard_count: Shard,
    accounts: &[Account],
) -> Result<Vec<(AccountCode, Counted)>, Error> {
    if accounts.is_empty() {
        return Ok(Vec::new());
    }
    let shards: Vec<Shard> =
        accounts.iter().map(|account| shard_of(ledger_id, account.code.as_str(), shard_count)).collect();
    let account_ids: Vec<i64> = accounts.iter().map(|account| account.id as i64).collect();
    let rows = sqlx::query!(
        r#"
        SELECT v.account_id, v.limit_position, v.bucket, v.count, v.amount AS "amount: Amount"
        FROM UNNEST($2::smallint[], $3::bigint[]) AS wanted (shard, account_id)
        JOIN velocity_usage v
            ON v.shard = wanted.shard AND v.ledger_id = $1 AND v.account_id = wanted.account_id
        "#,
        ledger_id,
        &shards,
        &account_ids
    )
    .fetch_all(conn)
    .await?;
    let codes: HashMap<AccountId, &AccountCode> = accounts.iter().map(|account| (account.id, &account.code)).collect();
    let counted = rows.into_iter().filter_map(|row| {
        let code = codes.get(&(row.account_id as AccountId))?;
        let counted = Counted {
            limit: row.limit_position as Position,
            bucket: row.bucket,
            // Rows that count no longer have been deleted with the ones that came later.
            since: i64::MIN,
            count: row.count as u32,
            amount: row.amount,
        };
        Some(((*code).clone(), counted))
    });
    Ok(counted.collect())
}
