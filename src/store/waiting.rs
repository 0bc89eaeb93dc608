//! The transactions that wait for a moment of their own: holds that expire, and
//! scheduled ones.
//!
//! Read by a worker that is about to sequence a ledger, while the projectors go
//! on, page by page and each in a snapshot of its own. So what is read is at least
//! as new as the checkpoints that were read before, and what they do not cover is
//! in the log after the lowest of them: a transaction whose [`Known::changed`] is
//! at or above an event's position has had that event.

use chrono::{DateTime, Utc};
use smallvec::smallvec;
use uuid::Uuid;

use super::{Connection, Error, LedgerId, events};
use crate::ledger::{AccountCode, Amount, AssetCode, Hold, HoldState, Known, LegRequest, Position, Side, State};

/// Rows of one statement: holds are some 2 MB of them.
const HOLDS_PAGE: i64 = 10_000;
/// The same of scheduled transactions, which are read as events of up to 256 legs.
const SCHEDULED_PAGE: i64 = 2_000;

/// All of a ledger's, holds first, each in the order of the log.
pub async fn waiting(conn: &mut Connection, ledger_id: LedgerId) -> Result<Vec<(Uuid, Known)>, Error> {
    let mut waiting = Vec::new();
    let mut after = 0;
    loop {
        let page = expiring_holds(conn, ledger_id, after, HOLDS_PAGE).await?;
        let is_last = (page.len() as i64) < HOLDS_PAGE;
        after = page.last().map_or(after, |(_, last)| last.position);
        waiting.extend(page);
        if is_last {
            break;
        }
    }
    after = 0;
    loop {
        let page = scheduled(conn, ledger_id, after, SCHEDULED_PAGE).await?;
        let is_last = (page.len() as i64) < SCHEDULED_PAGE;
        after = page.last().map_or(after, |(_, last)| last.position);
        waiting.extend(page);
        if is_last {
            return Ok(waiting);
        }
    }
}

/// Up to `limit` holds that are open and expire, by position, after `after`.
async fn expiring_holds(
    conn: &mut Connection,
    ledger_id: LedgerId,
    after: Position,
    limit: i64,
) -> Result<Vec<(Uuid, Known)>, Error> {
    let rows = sqlx::query_as!(
        HoldRow,
        r#"
        SELECT transaction_id, position, from_account, to_account, asset, amount AS "amount: Amount",
               remaining AS "remaining: Amount", captured AS "captured: Amount", expires_at, changed_position
        FROM holds
        WHERE ledger_id = $1 AND state = 'authorised' AND expires_at IS NOT NULL AND position > $2
        ORDER BY position
        LIMIT $3
        "#,
        ledger_id,
        after as i64,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(HoldRow::into_known).collect()
}

/// A row of `holds` that is open.
struct HoldRow {
    transaction_id: Uuid,
    position: i64,
    from_account: String,
    to_account: String,
    asset: String,
    amount: Amount,
    remaining: Amount,
    captured: Amount,
    expires_at: Option<DateTime<Utc>>,
    changed_position: i64,
}

impl HoldRow {
    fn into_known(self) -> Result<(Uuid, Known), Error> {
        let position = self.position as Position;
        let invalid = |what: &str| Error::Corrupt { position, detail: format!("the hold's {what} is invalid") };
        let asset = AssetCode::new(&self.asset).map_err(|_| invalid("asset"))?;
        let leg = |code: &str, side| {
            let account = AccountCode::new(code).map_err(|_| invalid("account"))?;
            Ok::<_, Error>(LegRequest { account, side, amount: self.amount, asset: asset.clone() })
        };
        let hold = Hold {
            legs: smallvec![leg(&self.from_account, Side::Debit)?, leg(&self.to_account, Side::Credit)?],
            state: HoldState::Authorised,
            remaining: self.remaining,
            captured: self.captured,
            expires_at: self.expires_at,
        };
        let changed = self.changed_position as Position;
        Ok((self.transaction_id, Known { position, changed, state: State::Hold(hold) }))
    }
}

/// Up to `limit` transactions that are still scheduled, by position, after `after`.
/// Two statements, as the one is about the projections and the other about the log.
async fn scheduled(
    conn: &mut Connection,
    ledger_id: LedgerId,
    after: Position,
    limit: i64,
) -> Result<Vec<(Uuid, Known)>, Error> {
    let positions = sqlx::query_scalar!(
        r#"
        SELECT position FROM scheduled_transactions
        WHERE ledger_id = $1 AND state = 'scheduled' AND position > $2
        ORDER BY position
        LIMIT $3
        "#,
        ledger_id,
        after as i64,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let found = events::at_positions(&mut *conn, ledger_id, &positions).await?;
    if found.len() < positions.len() {
        let missing = positions.iter().find(|position| !found.iter().any(|event| event.position as i64 == **position));
        let position = missing.map_or(after, |position| *position as Position);
        let detail = "the log does not have what is scheduled there".to_owned();
        return Err(Error::Corrupt { position, detail });
    }
    found
        .into_iter()
        .map(|event| {
            let known = Known::begun_by(&event).filter(|known| matches!(known.state, State::Scheduled(_)));
            event.transaction_id.zip(known).ok_or_else(|| {
                let detail = "it does not schedule a transaction".to_owned();
                Error::Corrupt { position: event.position, detail }
            })
        })
        .collect()
}
