//! The fold: what a range of the log does to the projections.
//!
//! Events state the balance that each leg leaves behind, so folding needs no
//! state from before: of many legs of one account, the last one's balance is
//! written, once. In the same way later events about a hold or a scheduled
//! transaction state how it stands, and where its row is.
//!
//! A transaction is found, by its metadata, its reference or its accounts, under
//! the position of its first event, and only there: that of a scheduled one stays
//! the one at which it was scheduled, though it has its entries, or its
//! rejections, at another.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::ledger::{
    AccountChanged, AccountCode, AccountId, Amount, Authorisation, Balance, Cancelled, Counted, Event, Fact, HoldState,
    Leg, Origin, Position, RejectedTransaction, Release, Scheduled, Side, Transaction, Usage,
};
use crate::metadata;
use crate::shard::shard_of;
use crate::store::backdating::{self, BackdatedLeg};
use crate::store::jsonb::Jsonb;
use crate::store::projections::Flush;
use crate::store::rows::{AccountOfRow, HoldRow, Owner, ScheduleRow, ScheduleState, UsageRow};
use crate::store::standing::{HoldChange, Lapse, ScheduleChange};
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
        Fact::AccountOpened { code, .. } => wanted(code),
        Fact::TransactionPosted(_) | Fact::TransactionAuthorised(_) | Fact::HoldReleased(_) => {
            event.fact.legs().iter().any(|leg| wanted(&leg.account))
        }
        Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => {
            rejected.request.legs.iter().any(|leg| wanted(&leg.account))
        }
        Fact::TransactionScheduled(scheduled) => scheduled.request.legs.iter().any(|leg| wanted(&leg.account)),
        Fact::ScheduleCancelled(cancelled) => wanted(&cancelled.account),
        Fact::AccountChanged(changed) => wanted(&changed.account),
        Fact::AssetDefined { .. } | Fact::RuleSet(_) | Fact::RuleRemoved(_) | Fact::PeriodClosed { .. } => false,
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
    /// Row of a hold or a scheduled transaction, by its position.
    standing: HashMap<Position, Row>,
    /// Row of an account's attributes.
    attributes: HashMap<AccountId, usize>,
    /// Row of a limit's bucket for an account.
    usage: HashMap<(AccountId, Position, i64), usize>,
    /// Row of what a limit counts no longer for an account.
    lapses: HashMap<(AccountId, Position), usize>,
}

/// Where the row of a hold or a scheduled transaction is.
#[derive(Clone, Copy)]
enum Row {
    /// Among those that begin in this flush.
    Begun(usize),
    /// Among the changes of those that began before.
    Changed(usize),
}

impl<'a> Fold<'a> {
    /// `parts` is at least 1.
    pub fn new(ledger_id: LedgerId, shard_count: Shard, from: &'a [Option<Position>], parts: usize) -> Self {
        let parts = (0..parts.max(1)).map(|_| Flush::default()).collect();
        Self {
            ledger_id,
            shard_count,
            from,
            parts,
            rows: HashMap::new(),
            standing: HashMap::new(),
            attributes: HashMap::new(),
            usage: HashMap::new(),
            lapses: HashMap::new(),
        }
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
                let opened = Balance { position: event.position, ..Balance::default() };
                self.set_balance(shard, event.position, &opened, 0);
            }
            Fact::TransactionPosted(transaction) => self.add_posted(event, transaction),
            Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => {
                self.add_rejection(event, rejected);
                let first = rejected.request.legs.first().zip(rejected.account_ids.first());
                let Some((leg, account_id)) = first else { return };
                if let Some(position) = rejected.scheduled {
                    self.end_schedule(event, position, leg.account.as_str(), *account_id, ScheduleState::Rejected);
                } else if let Some(json) = &rejected.request.metadata {
                    self.add_metadata(event.position, json, leg.account.as_str(), *account_id);
                }
            }
            Fact::TransactionAuthorised(authorisation) => self.add_authorisation(event, authorisation),
            Fact::HoldReleased(release) => self.add_release(event, release),
            Fact::TransactionScheduled(scheduled) => self.add_schedule(event, scheduled),
            Fact::ScheduleCancelled(Cancelled { position, account, account_id, .. }) => {
                self.end_schedule(event, *position, account.as_str(), *account_id, ScheduleState::Cancelled);
            }
            Fact::AccountChanged(changed) => self.change_account(event, changed),
            Fact::AssetDefined { .. } | Fact::RuleSet(_) | Fact::RuleRemoved(_) | Fact::PeriodClosed { .. } => {}
        }
    }

    fn add_posted(&mut self, event: &Event, transaction: &Transaction) {
        for (index, leg) in transaction.legs.iter().enumerate() {
            self.add_leg(event, transaction.reference.as_ref(), index, leg);
        }
        let Some(first) = transaction.legs.first() else { return };
        let origin = transaction.more.as_ref().and_then(|more| more.origin.as_ref());
        if let Some(Origin::Schedule { position }) = origin {
            self.end_schedule(event, *position, first.account.as_str(), first.account_id, ScheduleState::Posted);
        } else if let Some(json) = &transaction.metadata {
            self.add_metadata(event.position, json, first.account.as_str(), first.account_id);
        }
        if let Some(Origin::Capture { hold, remaining, captured }) = origin {
            let state = if remaining.is_zero() { HoldState::Captured } else { HoldState::Authorised };
            self.change_hold(event, hold.position, &transaction.legs, (state, *remaining, *captured));
        }
        self.add_usage(event, transaction);
    }

    fn add_authorisation(&mut self, event: &Event, authorisation: &Authorisation) {
        let Authorisation { transaction, expires_at } = authorisation;
        for leg in &transaction.legs {
            self.add_pending_leg(event, leg);
            self.add_account_of(event.position, leg.account.as_str(), leg.account_id);
        }
        self.add_usage(event, transaction);
        if let (Some(json), Some(first)) = (&transaction.metadata, transaction.legs.first()) {
            self.add_metadata(event.position, json, first.account.as_str(), first.account_id);
        }
        let of_side = |side| transaction.legs.iter().find(|leg| leg.side == side);
        let Some((from, to)) = of_side(Side::Debit).zip(of_side(Side::Credit)) else { return };
        let Some(owner) = self.owner(from.account.as_str(), from.account_id, event.position) else { return };
        let holds = &mut self.part(owner.shard).standing.holds;
        let row = Row::Begun(holds.len());
        holds.push(HoldRow {
            owner,
            position: event.position,
            transaction_id: event.transaction_id.unwrap_or_default(),
            from: from.account.clone(),
            to: to.account.clone(),
            to_account_id: to.account_id,
            asset: from.asset.clone(),
            amount: from.amount,
            remaining: from.amount,
            captured: Amount::ZERO,
            state: HoldState::Authorised,
            expires_at: *expires_at,
            reference: transaction.reference.clone(),
            authorised_at: event.recorded_at,
            changed_position: event.position,
            changed_at: event.recorded_at,
        });
        self.standing.insert(event.position, row);
    }

    fn add_release(&mut self, event: &Event, release: &Release) {
        for leg in &release.legs {
            self.add_pending_leg(event, leg);
        }
        let after = (HoldState::from(release.reason), Amount::ZERO, release.captured);
        self.change_hold(event, release.hold.position, &release.legs, after);
    }

    /// A hold's row, in the shard of the account that is debited.
    fn change_hold(
        &mut self,
        event: &Event,
        position: Position,
        legs: &[Leg],
        (state, remaining, captured): (HoldState, Amount, Amount),
    ) {
        let Some(from) = legs.iter().find(|leg| leg.side == Side::Debit) else { return };
        let Some(owner) = self.owner(from.account.as_str(), from.account_id, event.position) else { return };
        let known = self.standing.get(&position).copied();
        let standing = &mut self.part(owner.shard).standing;
        match known {
            Some(Row::Begun(row)) => {
                let row = &mut standing.holds[row];
                (row.state, row.remaining, row.captured) = (state, remaining, captured);
                (row.changed_position, row.changed_at) = (event.position, event.recorded_at);
            }
            Some(Row::Changed(row)) => {
                let row = &mut standing.hold_changes[row];
                (row.state, row.remaining, row.captured) = (state, remaining, captured);
                (row.changed_position, row.changed_at) = (event.position, event.recorded_at);
            }
            None => {
                let row = Row::Changed(standing.hold_changes.len());
                let (changed_position, changed_at) = (event.position, event.recorded_at);
                standing.hold_changes.push(HoldChange {
                    owner,
                    position,
                    state,
                    remaining,
                    captured,
                    changed_position,
                    changed_at,
                });
                self.standing.insert(position, row);
            }
        }
    }

    fn add_schedule(&mut self, event: &Event, scheduled: &Scheduled) {
        let Scheduled { request, account_ids } = scheduled;
        let accounts = request.legs.iter().map(|leg| leg.account.as_str()).zip(account_ids.iter().copied());
        for (index, (code, id)) in accounts.clone().enumerate() {
            if !account_ids[..index].contains(&id) {
                self.add_account_of(event.position, code, id);
            }
        }
        let Some((code, id)) = accounts.clone().next() else { return };
        if let Some(json) = &request.metadata {
            self.add_metadata(event.position, json, code, id);
        }
        let Some(owner) = self.owner(code, id, event.position) else { return };
        let schedules = &mut self.part(owner.shard).standing.schedules;
        let row = Row::Begun(schedules.len());
        schedules.push(ScheduleRow {
            owner,
            position: event.position,
            transaction_id: event.transaction_id.unwrap_or_default(),
            state: ScheduleState::Scheduled,
            effective_at: event.effective_at,
            reference: request.reference.clone(),
            recorded_at: event.recorded_at,
            changed_position: event.position,
            changed_at: event.recorded_at,
        });
        self.standing.insert(event.position, row);
    }

    /// The row of a transaction that was scheduled, in the shard of its first leg's account.
    fn end_schedule(&mut self, event: &Event, position: Position, code: &str, id: AccountId, state: ScheduleState) {
        let Some(owner) = self.owner(code, id, event.position) else { return };
        let known = self.standing.get(&position).copied();
        let (changed_position, changed_at) = (event.position, event.recorded_at);
        let standing = &mut self.part(owner.shard).standing;
        if let Some(Row::Begun(row)) = known {
            let row = &mut standing.schedules[row];
            (row.state, row.changed_position, row.changed_at) = (state, changed_position, changed_at);
        } else {
            standing.schedule_changes.push(ScheduleChange { owner, position, state, changed_position, changed_at });
        }
    }

    fn change_account(&mut self, event: &Event, changed: &AccountChanged) {
        let id = changed.account_id;
        let Some(owner) = self.owner(changed.account.as_str(), id, event.position) else { return };
        let known = self.attributes.get(&id).copied();
        let attributes = &mut self.part(owner.shard).standing.attributes;
        if let Some(row) = known {
            attributes[row].1 = changed.after.clone();
        } else {
            let row = attributes.len();
            attributes.push((owner, changed.after.clone()));
            self.attributes.insert(id, row);
        }
    }

    fn add_usage(&mut self, event: &Event, transaction: &Transaction) {
        let Some(more) = &transaction.more else { return };
        for Usage { leg, counted } in &more.usage {
            let Some(leg) = transaction.legs.get(usize::from(*leg)) else { continue };
            let Some(owner) = self.owner(leg.account.as_str(), leg.account_id, event.position) else { continue };
            let Counted { limit, bucket, since, count, amount } = *counted;
            let row = UsageRow { owner, limit, bucket, count, amount };
            let lapse = Lapse { owner, limit, since };
            let known = self.usage.get(&(leg.account_id, limit, bucket)).copied();
            let lapses = self.lapses.get(&(leg.account_id, limit)).copied();
            let standing = &mut self.part(owner.shard).standing;
            let (new_row, new_lapse) = (standing.usage.len(), standing.lapses.len());
            match known {
                Some(index) => standing.usage[index] = row,
                None => standing.usage.push(row),
            }
            match lapses {
                Some(index) => standing.lapses[index] = lapse,
                None => standing.lapses.push(lapse),
            }
            self.usage.entry((leg.account_id, limit, bucket)).or_insert(new_row);
            self.lapses.entry((leg.account_id, limit)).or_insert(new_lapse);
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
        if backdating::is_kept(leg.after.version, event.effective_at, event.recorded_at) {
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

    /// A leg that reserves funds or gives them back: no line of a statement, and no version.
    fn add_pending_leg(&mut self, event: &Event, leg: &Leg) {
        let Some(shard) = self.wanted(leg.account.as_str(), event.position) else { return };
        self.set_balance(shard, leg.account_id, &leg.after, leg.after.version);
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

    /// An account by which a transaction is found that has no entries at `position`.
    fn add_account_of(&mut self, position: Position, code: &str, id: AccountId) {
        let Some(owner) = self.owner(code, id, position) else { return };
        self.part(owner.shard).standing.accounts.push(AccountOfRow { owner, position });
    }

    fn set_balance(&mut self, shard: Shard, id: Position, balance: &Balance, previous: u64) {
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

    /// The account as the owner of rows, if this flush is to write what happened at `position`.
    fn owner(&self, code: &str, account_id: AccountId, position: Position) -> Option<Owner> {
        let shard = self.wanted(code, position)?;
        Some(Owner { shard, ledger_id: self.ledger_id, account_id })
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
    use crate::ledger::{
        AssetCode, Attributes, Change, HoldRef, Kind, Limits, More, Rejection, ReleaseReason, RuleKey,
        TransactionRequest, Usage,
    };

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
            scheduled: None,
        };
        let transaction = |from, to, origin| Transaction {
            kind: Kind::Payment,
            legs: smallvec![leg(from, Side::Debit), leg(to, Side::Credit)],
            reference: None,
            description: None,
            metadata: Some(r#"{"order":7}"#.into()),
            more: Some(Box::new(More {
                origin,
                usage: vec![Usage { leg: 0, counted: Counted { limit: 3, bucket: 60, since: 0, count: 1, amount } }],
                ..More::default()
            })),
        };
        let posted = |from, to| Fact::TransactionPosted(transaction(from, to, None));
        let hold = |position| HoldRef { id: uuid::Uuid::from_u128(u128::from(position)), position };
        let mut facts: Vec<Fact> = (0..20).map(opened).collect();
        facts.extend((0..10).map(|account| posted(account, account + 10)));
        facts.extend((0..10).map(|account| Fact::TransactionRejected(rejected(account, 19 - account))));
        facts.extend((0..10).map(|item| Fact::BatchRejected { item, rejected: rejected(item as u64 + 10, 3) }));
        // Positions 51 to 70: ten that wait, and half of them with what comes after.
        facts.extend((0..5).map(|account| {
            let authorised = Authorisation { transaction: transaction(account, account + 7, None), expires_at: None };
            Fact::TransactionAuthorised(authorised)
        }));
        facts.extend((0..5).map(|account| {
            let request = TransactionRequest::payment(code(account), code(account + 3), amount, asset.clone());
            Fact::TransactionScheduled(Scheduled { request, account_ids: smallvec![account + 1, account + 4] })
        }));
        facts.extend((0..3).map(|account: u64| {
            let origin = Origin::Capture { hold: hold(51 + account), remaining: amount, captured: amount };
            Fact::TransactionPosted(transaction(account, account + 7, Some(origin)))
        }));
        facts.extend((0..3).map(|account: u64| {
            Fact::HoldReleased(Release {
                hold: hold(51 + account),
                reason: ReleaseReason::Expired,
                legs: smallvec![leg(account, Side::Debit), leg(account + 7, Side::Credit)],
                captured: amount,
            })
        }));
        facts.push(Fact::TransactionPosted(transaction(0, 3, Some(Origin::Schedule { position: 56 }))));
        facts.push(Fact::TransactionRejected(RejectedTransaction { scheduled: Some(57), ..rejected(1, 4) }));
        facts.push(Fact::ScheduleCancelled(Cancelled {
            transaction: uuid::Uuid::nil(),
            position: 58,
            account: code(2),
            account_id: 3,
        }));
        facts.extend((0..2).map(|round| {
            let after = Attributes { closed: round == 1, ..Attributes::default() };
            let change = if round == 1 { Change::Closed } else { Change::Updated };
            Fact::AccountChanged(AccountChanged { account: code(9), account_id: 10, change, after, reason: None })
        }));
        facts.push(Fact::RuleRemoved(RuleKey::AccountType("wallet".into())));
        facts.push(Fact::PeriodClosed { before: DateTime::UNIX_EPOCH });
        facts.push(Fact::AssetDefined { code: asset, scale: 2 });
        facts
    }

    fn log() -> Vec<Event> {
        let at = DateTime::from_timestamp_micros(1).unwrap();
        let event = |(position, fact)| Event {
            position,
            recorded_at: at,
            effective_at: at,
            transaction_id: None,
            idempotency_key: None,
            fact,
        };
        (1..).zip(facts()).map(event).collect()
    }

    /// Who projects some shards gets only the events that concern them: the rest must not be missed.
    #[test]
    fn what_does_not_concern_the_shards_changes_nothing() {
        let log = log();
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

    /// What begins and goes on in one flush is one row, as it is in the end.
    #[test]
    fn of_one_hold_schedule_account_and_bucket_there_is_one_row() {
        let from = [Some(0); SHARDS as usize];
        let whole = fold(&from, |_| true);
        let row = |position| whole.standing.holds.iter().find(|row| row.position == position).unwrap();
        assert_eq!(whole.standing.holds.len(), 5);
        assert_eq!((row(51).state, row(51).captured, row(51).changed_position), (HoldState::Expired, 5_u64.into(), 64));
        assert_eq!(
            (row(54).state, row(54).captured, row(54).changed_position),
            (HoldState::Authorised, Amount::ZERO, 54)
        );
        let states: Vec<_> = whole.standing.schedules.iter().map(|row| (row.position, row.state.as_str())).collect();
        let expected = [(56, "posted"), (57, "rejected"), (58, "cancelled"), (59, "scheduled"), (60, "scheduled")];
        assert_eq!(states, expected);
        assert!(whole.standing.hold_changes.is_empty() && whole.standing.schedule_changes.is_empty());
        assert_eq!(whole.standing.accounts.len(), 20);
        assert_eq!(whole.standing.attributes.len(), 1);
        assert!(whole.standing.attributes[0].1.closed);
        // Nothing of a scheduled transaction is found at the position of its posting or rejection.
        assert!(!whole.metadata.position.contains(&67) && !whole.metadata.position.contains(&68));

        let rest = fold(&from, |position| position > 60);
        assert!(rest.standing.holds.is_empty() && rest.standing.schedules.is_empty());
        let changes: Vec<_> = rest.standing.hold_changes.iter().map(|row| (row.position, row.state.as_str())).collect();
        assert_eq!(changes, [(51, "expired"), (52, "expired"), (53, "expired")]);
        let changes: Vec<_> = rest.standing.schedule_changes.iter().map(|row| (row.position, row.state)).collect();
        let expected = [ScheduleState::Posted, ScheduleState::Rejected, ScheduleState::Cancelled];
        assert_eq!(changes, [(56, expected[0]), (57, expected[1]), (58, expected[2])]);
    }

    /// The flush of those events whose positions are `wanted`.
    fn fold(from: &[Option<Position>], wanted: impl Fn(Position) -> bool) -> Flush {
        let mut fold = Fold::new(LEDGER, SHARDS, from, 1);
        log().iter().filter(|event| wanted(event.position)).for_each(|event| fold.add(event));
        fold.finish().remove(0)
    }
}
