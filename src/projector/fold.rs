//! The fold: what a range of the log does to the projections.
//!
//! Events state the balance that each leg leaves behind, so folding needs no
//! state from before: of many legs of one account, the last one's balance is
//! written, once.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::ledger::{AccountCode, AccountId, Event, Fact, Leg, Position, RejectedTransaction};
use crate::metadata;
use crate::shard::shard_of;
use crate::store::backdating::{self, BackdatedLeg};
use crate::store::jsonb::Jsonb;
use crate::store::projections::Flush;
use crate::store::{LedgerId, Shard};

/// The part of a flush in which a shard is, when it is written in so many parts
/// at the same time.
pub const fn part_of(shard: Shard, parts: usize) -> usize {
    shard as usize % parts
}

/// Whether the fold of some shards needs an event: those that it does not concern
/// change nothing in [`Fold::add`].
pub fn concerns(event: &Event, wanted: impl Fn(&AccountCode) -> bool) -> bool {
    match &event.fact {
        Fact::AssetDefined { .. } => false,
        Fact::AccountOpened { code, .. } => wanted(code),
        Fact::TransactionPosted(transaction) => transaction.legs.iter().any(|leg| wanted(&leg.account)),
        Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => {
            rejected.request.legs.iter().any(|leg| wanted(&leg.account))
        }
        _ => unimplemented!("fold"),
    }
}

/// Folds events into the columns of one flush, in parts of some shards each.
pub struct Fold<'a> {
    ledger_id: LedgerId,
    shard_count: Shard,
    /// Per shard, the position up to which it is projected already; `None` for
    /// shards that are not ours.
    from: &'a [Option<Position>],
    parts: Vec<Flush>,
    /// Row of an account in the columns of its part's balances.
    rows: HashMap<Position, usize>,
}

impl<'a> Fold<'a> {
    /// `parts` is at least 1.
    pub fn new(ledger_id: LedgerId, shard_count: Shard, from: &'a [Option<Position>], parts: usize) -> Self {
        let parts = (0..parts.max(1)).map(|_| Flush::default()).collect();
        Self { ledger_id, shard_count, from, parts, rows: HashMap::new() }
    }

    /// The parts, in the order of [`part_of`].
    pub fn finish(self) -> Vec<Flush> {
        self.parts
    }

    fn part(&mut self, shard: Shard) -> &mut Flush {
        let part = part_of(shard, self.parts.len());
        &mut self.parts[part]
    }

    pub fn add(&mut self, event: &Event) {
        match &event.fact {
            Fact::AssetDefined { .. } => {}
            Fact::AccountOpened { code, asset, normal, limits, metadata } => {
                let Some(shard) = self.wanted(code.as_str(), event.position) else { return };
                let columns = &mut self.part(shard).accounts;
                columns.shard.push(shard);
                columns.account_id.push(event.position as i64);
                columns.code.push(code.clone());
                columns.asset.push(asset.clone());
                columns.normal_side.push(normal.as_str());
                columns.min_balance.push(limits.min_balance);
                columns.max_balance.push(limits.max_balance);
                columns.metadata.push(metadata.clone().map(Jsonb));
                columns.opened_at.push(event.recorded_at);
                let opened = crate::ledger::Balance { position: event.position, ..Default::default() };
                self.set_balance(shard, event.position, &opened, 0);
            }
            Fact::TransactionPosted(transaction) => {
                for (index, leg) in transaction.legs.iter().enumerate() {
                    self.add_leg(event, transaction.reference.as_ref(), index, leg);
                }
                if let (Some(json), Some(leg)) = (&transaction.metadata, transaction.legs.first()) {
                    self.add_metadata(event.position, json, leg.account.as_str(), leg.account_id);
                }
            }
            Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => {
                self.add_rejection(event, rejected);
                let first = rejected.request.legs.first().zip(rejected.account_ids.first());
                if let (Some(json), Some((leg, account_id))) = (&rejected.request.metadata, first) {
                    self.add_metadata(event.position, json, leg.account.as_str(), *account_id);
                }
            }
            _ => unimplemented!("fold"),
        }
    }

    fn add_leg(&mut self, event: &Event, reference: Option<&std::sync::Arc<str>>, index: usize, leg: &Leg) {
        let Some(shard) = self.wanted(leg.account.as_str(), event.position) else { return };
        let columns = &mut self.part(shard).entries;
        columns.shard.push(shard);
        columns.account_id.push(leg.account_id as i64);
        columns.version.push(leg.after.version as i64);
        columns.position.push(event.position as i64);
        columns.leg.push(index as i16);
        columns.transaction_id.push(event.transaction_id.unwrap_or_default());
        columns.side.push(leg.side.as_str());
        columns.amount.push(leg.amount);
        columns.balance_after.push(leg.after.posted(leg.normal));
        columns.reference.push(reference.cloned());
        columns.effective_at.push(event.effective_at);
        columns.recorded_at.push(event.recorded_at);
        if backdating::is_backdated(event.effective_at, event.recorded_at) {
            self.part(shard).backdated.push(BackdatedLeg {
                shard,
                account_id: leg.account_id,
                version: leg.after.version,
                side: leg.side,
                amount: leg.amount,
                effective_at: event.effective_at,
                recorded_at: event.recorded_at,
            });
        }
        self.set_balance(shard, leg.account_id, &leg.after, leg.after.version - 1);
    }

    fn add_rejection(&mut self, event: &Event, rejected: &RejectedTransaction) {
        for (index, (leg, account_id)) in rejected.request.legs.iter().zip(&rejected.account_ids).enumerate() {
            let Some(shard) = self.wanted(leg.account.as_str(), event.position) else { continue };
            let columns = &mut self.part(shard).rejections;
            columns.shard.push(shard);
            columns.account_id.push(*account_id as i64);
            columns.position.push(event.position as i64);
            columns.leg.push(index as i16);
            columns.transaction_id.push(event.transaction_id.unwrap_or_default());
            columns.reason.push(rejected.reason.code());
            columns.reference.push(rejected.request.reference.clone());
            columns.effective_at.push(event.effective_at);
            columns.recorded_at.push(event.recorded_at);
        }
    }

    /// What a transaction is found by, in the shard of its first leg's account.
    fn add_metadata(&mut self, position: Position, json: &str, account: &str, account_id: AccountId) {
        let Some(shard) = self.wanted(account, position) else { return };
        let columns = &mut self.part(shard).metadata;
        for (key, value) in metadata::searchable(json) {
            columns.shard.push(shard);
            columns.account_id.push(account_id as i64);
            columns.position.push(position as i64);
            columns.key.push(key);
            columns.value.push(value);
        }
    }

    fn set_balance(&mut self, shard: Shard, id: Position, balance: &crate::ledger::Balance, previous: u64) {
        let part = part_of(shard, self.parts.len());
        let columns = &mut self.parts[part].balances;
        match self.rows.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(columns.shard.len());
                columns.shard.push(shard);
                columns.account_id.push(id as i64);
                columns.debits_posted.push(balance.debits_posted);
                columns.credits_posted.push(balance.credits_posted);
                columns.debits_pending.push(balance.debits_pending);
                columns.credits_pending.push(balance.credits_pending);
                columns.version.push(balance.version as i64);
                columns.previous_version.push(previous as i64);
                columns.position.push(balance.position as i64);
            }
            Entry::Occupied(entry) => {
                let row = *entry.get();
                columns.debits_posted[row] = balance.debits_posted;
                columns.credits_posted[row] = balance.credits_posted;
                columns.debits_pending[row] = balance.debits_pending;
                columns.credits_pending[row] = balance.credits_pending;
                columns.version[row] = balance.version as i64;
                columns.position[row] = balance.position as i64;
            }
        }
    }

    /// The account's shard, if this flush is to write what happened at `position`.
    fn wanted(&self, code: &str, position: Position) -> Option<Shard> {
        let shard = shard_of(self.ledger_id, code, self.shard_count);
        let from = self.from.get(usize::try_from(shard).ok()?).copied().flatten()?;
        (position > from).then_some(shard)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use smallvec::smallvec;

    use super::*;
    use crate::ledger::{Amount, AssetCode, Balance, Kind, Limits, Rejection, Side, Transaction, TransactionRequest};

    const LEDGER: LedgerId = 1;
    const SHARDS: Shard = 8;

    fn code(account: u64) -> AccountCode {
        AccountCode::new(&format!("account:{account}")).unwrap()
    }

    fn facts() -> Vec<Fact> {
        let asset = AssetCode::new("EUR").unwrap();
        let amount = Amount::new(5).unwrap();
        let opened = |account| Fact::AccountOpened {
            code: code(account),
            asset: asset.clone(),
            normal: Side::Credit,
            limits: Limits::default(),
            metadata: None,
        };
        let leg = |account, side| Leg {
            account: code(account),
            account_id: account + 1,
            normal: Side::Credit,
            side,
            amount,
            asset: asset.clone(),
            after: Balance { version: 1, ..Balance::default() },
        };
        let rejected = |from, to| RejectedTransaction {
            request: TransactionRequest::payment(code(from), code(to), amount, asset.clone()),
            account_ids: smallvec![from + 1, to + 1],
            reason: Rejection::AccountClosed { account: code(from) },
        };
        let posted = |from, to| {
            Fact::TransactionPosted(Transaction {
                kind: Kind::Payment,
                legs: smallvec![leg(from, Side::Debit), leg(to, Side::Credit)],
                reference: None,
                description: None,
                metadata: None,
            })
        };
        let mut facts: Vec<Fact> = (0..20).map(opened).collect();
        facts.extend((0..10).map(|account| posted(account, account + 10)));
        facts.extend((0..10).map(|account| Fact::TransactionRejected(rejected(account, 19 - account))));
        facts.extend((0..10).map(|item| Fact::BatchRejected { item, rejected: rejected(item as u64 + 10, 3) }));
        facts.push(Fact::AssetDefined { code: asset, scale: 2 });
        facts
    }

    /// Who projects some shards gets only the events that concern them: the rest must not be missed.
    #[test]
    fn what_does_not_concern_the_shards_changes_nothing() {
        let at = DateTime::from_timestamp_micros(1).unwrap();
        let event = |(position, fact)| Event {
            position,
            recorded_at: at,
            effective_at: at,
            transaction_id: None,
            idempotency_key: None,
            fact,
        };
        let log: Vec<Event> = (1..).zip(facts()).map(event).collect();
        let mut left_out = 0;
        for shard in 0..SHARDS {
            let from: Vec<_> = (0..SHARDS).map(|other| (other == shard).then_some(0)).collect();
            let (mut all, mut some) = (Fold::new(LEDGER, SHARDS, &from, 1), Fold::new(LEDGER, SHARDS, &from, 1));
            for event in &log {
                all.add(event);
                if concerns(event, |code| shard_of(LEDGER, code.as_str(), SHARDS) == shard) {
                    some.add(event);
                } else {
                    left_out += 1;
                }
            }
            assert_eq!(format!("{:?}", all.finish()), format!("{:?}", some.finish()));
        }
        assert!(left_out > 0);
    }
}
