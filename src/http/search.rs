//! Searches: a walk along what is indexed, and a look at what it gives.
//!
//! One search looks at so many candidates and no more. When it ends before the
//! page is full, the answer has a cursor all the same, and the next one goes on
//! from there: bounded work, whatever is asked for.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::filters::{Between, Pair};
use super::problem::Problem;
use super::story::{TransactionOutput, listed};
use crate::ledger::{Account, AccountCode, AccountStatus, Amount, Kind, Side};
use crate::metadata;
use crate::store::connection::Pool;
use crate::store::search::{self, Direction, Outcomes, Range, Standing, Step};
use crate::store::{self, LedgerId, Shard};

/// Candidates that one search looks at: some 100 ms of PostgreSQL and as much of
/// decoding, and enough that a page of one in two hundred is found at once.
pub const EXAMINED_MAX: i64 = 20_000;
/// Candidates looked at in one step, at most: some 2 MB of events.
const STEP_MAX: i64 = 2_000;
/// Positions by which it is judged which of several indexes is the sparsest.
const PROBE_POSITIONS: i64 = 256;

/// Which transactions are looked for. All that is stated must hold.
#[derive(Debug, Default)]
pub struct TransactionFilter {
    pub account: Option<AccountCode>,
    pub reference: Option<String>,
    pub metadata: Vec<Pair>,
    pub kind: Option<Kind>,
    pub status: Option<&'static str>,
    pub amount: Between,
}

impl TransactionFilter {
    fn holds(&self, found: &TransactionOutput) -> bool {
        let mut legs =
            found.legs.iter().filter(|leg| self.account.as_ref().is_none_or(|code| leg.account == code.as_str()));
        // One leg that is of the account and within the bounds.
        let a_leg = legs.any(|leg| self.amount.holds(leg.amount.0));
        let a_leg = a_leg || (self.account.is_none() && self.amount.is_unbounded());
        a_leg
            && self.reference.as_deref().is_none_or(|reference| found.reference.as_deref() == Some(reference))
            && self.kind.is_none_or(|kind| found.r#type == kind.as_str())
            && self.status.is_none_or(|status| found.status == status)
            && self.has_metadata(found.metadata.0.as_deref())
    }

    fn has_metadata(&self, json: Option<&str>) -> bool {
        if self.metadata.is_empty() {
            return true;
        }
        let members = json.map(metadata::searchable).unwrap_or_default();
        self.metadata.iter().all(|pair| members.contains(pair))
    }

    fn outcomes(&self) -> Outcomes {
        Outcomes::of(self.status)
    }
}

/// What is walked along.
#[derive(Debug)]
pub enum Walk {
    /// Positions that are known already, in the direction of the walk.
    Known(VecDeque<i64>),
    Reference(String),
    Metadata(Pair),
    Account(Shard, i64),
    State(Standing),
    Log,
}

/// A search of transactions.
#[derive(Debug)]
pub struct TransactionSearch<'a> {
    pub pool: &'a Pool,
    pub ledger_id: LedgerId,
    pub shard_count: Shard,
    pub filter: TransactionFilter,
    pub direction: Direction,
    pub limit: i64,
}

/// Transactions, and the position after which to go on if there may be more.
pub type Found = (Vec<TransactionOutput>, Option<i64>);

impl TransactionSearch<'_> {
    /// Walks along the sparsest of `walks` in `range`, until the page is full.
    pub async fn run(&self, walks: Vec<Walk>, range: Range) -> Result<Found, Problem> {
        let mut walk = self.sparsest(walks, range).await?;
        let mut found: Vec<TransactionOutput> = Vec::new();
        let (mut rest, mut examined) = (range, 0);
        // One more than the page has, to know whether there is a next one.
        let mut step_limit = self.limit + 1;
        while !rest.is_empty() {
            if examined >= EXAMINED_MAX {
                let reached = match self.direction {
                    Direction::Ascending => rest.above,
                    Direction::Descending => rest.upto + 1,
                };
                return Ok((found, Some(reached)));
            }
            let budget = EXAMINED_MAX - examined;
            let step = self.step(&mut walk, rest, step_limit.min(budget), budget).await?;
            examined += step.rows;
            rest = step.rest;
            step_limit = (step_limit * 2).min(STEP_MAX);
            let mut events = store::events::at_positions(self.pool, self.ledger_id, &step.positions).await?;
            if self.direction == Direction::Descending {
                events.reverse();
            }
            events.retain(search::begins);
            let mut latest = search::latest(self.pool, self.ledger_id, self.shard_count, &events).await?;
            let outputs = events.into_iter().filter_map(|event| {
                let last = latest.remove(&event.position);
                listed(event, last)
            });
            found.extend(outputs.filter(|output| self.filter.holds(output)));
            if found.len() as i64 > self.limit {
                found.truncate(self.limit as usize);
                let last = found.last().map(|last| last.position as i64);
                return Ok((found, last));
            }
        }
        Ok((found, None))
    }

    /// Which walk has the fewest candidates, as far as a short look shows.
    async fn sparsest(&self, mut walks: Vec<Walk>, range: Range) -> Result<Walk, Problem> {
        if walks.len() < 2 {
            return Ok(walks.pop().unwrap_or(Walk::Log));
        }
        let mut best = (Walk::Log, i64::MAX, i64::MAX);
        for mut walk in walks {
            let step = self.step(&mut walk, range, PROBE_POSITIONS, EXAMINED_MAX).await?;
            // What is left to walk through, then how many there are on the way.
            let left = step.rest.upto - step.rest.above;
            let count = step.positions.len() as i64;
            if (left, count) < (best.1, best.2) {
                best = (walk, left, count);
            }
        }
        Ok(best.0)
    }

    async fn step(&self, walk: &mut Walk, range: Range, limit: i64, budget: i64) -> Result<Step, store::Error> {
        let (pool, ledger_id, direction, outcomes) =
            (self.pool, self.ledger_id, self.direction, self.filter.outcomes());
        match walk {
            Walk::Known(known) => {
                let inside = |position: &i64| range.above < *position && *position <= range.upto;
                let positions: Vec<i64> = std::iter::from_fn(|| known.pop_front()).filter(inside).collect();
                let rows = positions.len() as i64;
                Ok(Step { positions, rest: Range { above: range.upto, upto: range.upto }, rows })
            }
            Walk::Reference(reference) => {
                search::of_reference(pool, ledger_id, reference, outcomes, range, direction, limit).await
            }
            Walk::Metadata((key, value)) => {
                search::of_metadata(pool, ledger_id, (key, value), range, direction, limit).await
            }
            Walk::State(standing) => search::of_state(pool, ledger_id, *standing, range, direction, limit).await,
            Walk::Account(shard, id) => {
                search::of_account(pool, (ledger_id, *shard, *id), outcomes, range, direction, limit).await
            }
            Walk::Log => {
                // The log has every position, so the budget is a range, and what it passes counts.
                let part = match direction {
                    Direction::Ascending => Range { upto: range.upto.min(range.above.saturating_add(budget)), ..range },
                    Direction::Descending => {
                        Range { above: range.above.max(range.upto.saturating_sub(budget)), ..range }
                    }
                };
                let step = search::of_log(pool, ledger_id, outcomes, part, direction, limit).await?;
                let rest = match direction {
                    Direction::Ascending => Range { above: step.rest.above, ..range },
                    Direction::Descending => Range { upto: step.rest.upto, ..range },
                };
                let rows = (range.upto - range.above) - (rest.upto - rest.above);
                Ok(Step { rest, rows, ..step })
            }
        }
    }
}

/// Which accounts are looked for. All that is stated must hold.
#[derive(Debug, Default)]
pub struct AccountFilter {
    pub asset: Option<String>,
    pub normal: Option<Side>,
    pub status: Option<AccountStatus>,
    pub metadata: Vec<Pair>,
    pub opened_from: Option<DateTime<Utc>>,
    pub opened_to: Option<DateTime<Utc>>,
    pub posted: Between,
}

impl AccountFilter {
    fn holds(&self, account: &Account) -> bool {
        let posted: Amount = account.balance.posted(account.normal);
        self.asset.as_deref().is_none_or(|asset| account.asset.as_str() == asset)
            && self.normal.is_none_or(|normal| account.normal == normal)
            && self.status.is_none_or(|status| account.attributes.status() == status)
            && self.opened_from.is_none_or(|from| from <= account.opened_at)
            && self.opened_to.is_none_or(|to| account.opened_at < to)
            && self.posted.holds(posted)
            && self.has_metadata(account.attributes.metadata.as_deref())
    }

    /// Whatever its length and number: accounts are found in the object itself.
    fn has_metadata(&self, json: Option<&str>) -> bool {
        if self.metadata.is_empty() {
            return true;
        }
        let Some(members) = json.and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok()) else {
            return false;
        };
        self.metadata.iter().all(|(key, value)| match &members[key] {
            serde_json::Value::String(text) => text == value,
            scalar @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                let text = scalar.to_string();
                text == *value
            }
            _ => false,
        })
    }

    /// Every object that metadata may contain: each value as a string, and as
    /// the number or boolean that it may be.
    fn objects(&self) -> Vec<String> {
        let mut objects = vec![serde_json::Map::new()];
        for (key, value) in &self.metadata {
            let scalar = serde_json::from_str::<serde_json::Value>(value).ok();
            let scalar = scalar.filter(|scalar| scalar.is_number() || scalar.is_boolean());
            let values = [Some(serde_json::Value::String(value.clone())), scalar];
            objects = values
                .into_iter()
                .flatten()
                .flat_map(|value| {
                    objects.iter().cloned().map(move |mut object| {
                        object.insert(key.clone(), value.clone());
                        object
                    })
                })
                .collect();
        }
        objects.into_iter().map(|object| serde_json::Value::Object(object).to_string()).collect()
    }
}

/// A search of accounts by code.
#[derive(Debug)]
pub struct AccountSearch<'a> {
    pub pool: &'a Pool,
    pub ledger_id: LedgerId,
    pub prefix: &'a str,
    pub filter: AccountFilter,
    pub limit: i64,
}

impl AccountSearch<'_> {
    /// Accounts after a code, and the code after which to go on if there may be more.
    pub async fn run(&self, after: &str) -> Result<(Vec<Account>, Option<String>), Problem> {
        let mut codes = self.codes(after).await?;
        let mut found: Vec<Account> = Vec::new();
        let (mut after, mut examined) = (after.to_owned(), 0);
        let mut step_limit = self.limit + 1;
        loop {
            let step = step_limit.min(EXAMINED_MAX - examined);
            let accounts = match &mut codes {
                Some(codes) => {
                    let part: Vec<String> = codes.drain(..codes.len().min(step as usize)).collect();
                    store::projections::accounts_of_codes(self.pool, self.ledger_id, &part).await?
                }
                None => {
                    let (pool, ledger_id, prefix) = (self.pool, self.ledger_id, self.prefix);
                    store::projections::list_accounts(pool, ledger_id, prefix, None, &after, step).await?
                }
            };
            examined += accounts.len() as i64;
            let is_end = codes.as_ref().map_or((accounts.len() as i64) < step, Vec::is_empty);
            if let Some(last) = accounts.last() {
                last.code.as_str().clone_into(&mut after);
            }
            found.extend(accounts.into_iter().filter(|account| self.filter.holds(account)));
            if found.len() as i64 > self.limit {
                found.truncate(self.limit as usize);
                let next = found.last().map(|last| last.code.to_string());
                return Ok((found, next));
            }
            if is_end {
                return Ok((found, None));
            }
            if examined >= EXAMINED_MAX {
                return Ok((found, Some(after)));
            }
            step_limit = (step_limit * 2).min(STEP_MAX);
        }
    }

    /// All that have the metadata, in order, unless they are so many that a walk
    /// along the codes finds as well.
    async fn codes(&self, after: &str) -> Result<Option<Vec<String>>, Problem> {
        if self.filter.metadata.is_empty() {
            return Ok(None);
        }
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let objects = self.filter.objects();
        let mut codes = store::search::codes_by_metadata(
            &mut conn,
            self.ledger_id,
            &objects,
            (self.prefix, after, &store::projections::end_of(self.prefix)),
            EXAMINED_MAX + 1,
        )
        .await?;
        if codes.len() as i64 > EXAMINED_MAX {
            return Ok(None);
        }
        codes.sort_unstable();
        Ok(Some(codes))
    }
}
