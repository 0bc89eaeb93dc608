//! Rules and period closings, from the log itself.
//!
//! They are few and have no projection: whoever asks folds the events about them,
//! which an index of their own finds. One statement reads one snapshot of a log
//! whose events become visible in order, so the fold is what the ledger held at
//! the last position that it has seen, whatever is appended meanwhile.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::events::Row;
use super::jsonb::Jsonb;
use super::{Error, LedgerId};
use crate::ledger::{Event, Fact, Position, Rule, RuleKey};

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    pub rules: BTreeMap<RuleKey, Standing>,
    /// Each later than the one before.
    pub closings: Vec<Closing>,
    /// Of the last event about either.
    pub position: Position,
}

/// A rule, and the event that has set it so.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub rule: Rule,
    pub position: Position,
    pub set_at: DateTime<Utc>,
}

/// Nothing becomes effective before `before` since `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    pub before: DateTime<Utc>,
    pub position: Position,
    pub recorded_at: DateTime<Utc>,
}

/// What is in force as of `position`, which the log has reached.
pub async fn at(executor: impl PgExecutor<'_>, ledger_id: LedgerId, position: Position) -> Result<Rules, Error> {
    let events = events(executor, ledger_id, position).await?;
    Ok(fold(&events, position))
}

/// What is in force at the head of the log.
pub async fn now(executor: impl PgExecutor<'_>, ledger_id: LedgerId) -> Result<Rules, Error> {
    at(executor, ledger_id, i64::MAX as Position).await
}

/// The events about rules and periods up to `position`, in order.
async fn events(executor: impl PgExecutor<'_>, ledger_id: LedgerId, position: Position) -> Result<Vec<Event>, Error> {
    // The types are those of the index, word for word.
    let rows = sqlx::query!(
        r#"
        SELECT position, type AS type_name, schema_version, payload AS "payload: Jsonb<Box<str>>",
               recorded_at, effective_at
        FROM events
        WHERE ledger_id = $1 AND position <= $2 AND type IN (
            'account_type_set', 'account_type_removed', 'velocity_limit_set', 'velocity_limit_removed', 'period_closed'
        )
        ORDER BY position
        "#,
        ledger_id,
        position as i64
    )
    .fetch_all(executor)
    .await?;
    let rows = rows.into_iter().map(|row| Row {
        position: row.position as Position,
        type_name: row.type_name,
        schema_version: row.schema_version,
        // They are about no transaction.
        transaction_id: None,
        subject_id: None,
        idempotency_key: None,
        payload: row.payload.0,
        recorded_at: row.recorded_at,
        effective_at: row.effective_at,
    });
    rows.map(Row::into_event).collect()
}

/// What `events` leave behind, as far as they go up to `position`.
pub fn fold(events: &[Event], position: Position) -> Rules {
    let mut folded = Rules::default();
    for event in events.iter().take_while(|event| event.position <= position) {
        match &event.fact {
            Fact::RuleSet(rule) => {
                let standing = Standing { rule: rule.clone(), position: event.position, set_at: event.recorded_at };
                folded.rules.insert(rule.key(), standing);
            }
            Fact::RuleRemoved(key) => _ = folded.rules.remove(key),
            Fact::PeriodClosed { before } => {
                let closing = Closing { before: *before, position: event.position, recorded_at: event.recorded_at };
                folded.closings.push(closing);
            }
            _ => continue,
        }
        folded.position = event.position;
    }
    folded
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::{AccountType, Limits, Side};

    fn event(position: Position, fact: Fact) -> Event {
        let recorded_at = DateTime::from_timestamp_micros(position as i64).unwrap();
        let effective_at = recorded_at;
        Event { position, recorded_at, effective_at, transaction_id: None, idempotency_key: None, fact }
    }

    fn rule(prefix: &str, normal: Side) -> Rule {
        Rule::AccountType(AccountType { prefix: Arc::from(prefix), normal, limits: Limits::default() })
    }

    #[test]
    fn the_last_event_about_a_rule_counts() {
        let before = DateTime::from_timestamp_micros(1).unwrap();
        let log = [
            event(2, Fact::RuleSet(rule("wallet:", Side::Credit))),
            event(3, Fact::RuleSet(rule("bank:", Side::Credit))),
            event(5, Fact::RuleSet(rule("bank:", Side::Debit))),
            event(6, Fact::PeriodClosed { before }),
            event(8, Fact::RuleRemoved(rule("wallet:", Side::Credit).key())),
        ];
        let all = fold(&log, 100);
        assert_eq!(all.position, 8);
        let standing: Vec<_> = all.rules.values().map(|standing| (&standing.rule, standing.position)).collect();
        assert_eq!(standing, [(&rule("bank:", Side::Debit), 5)]);
        assert_eq!(all.closings, [Closing { before, position: 6, recorded_at: log[3].recorded_at }]);
        let earlier = fold(&log, 4);
        assert_eq!((earlier.rules.len(), earlier.closings.len(), earlier.position), (2, 0, 3));
    }
}
