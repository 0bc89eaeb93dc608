//! A fold of the log that believes nothing: every balance is computed again
//! from the amounts, and what an event states is only compared with it.
//!
//! Written plainly and on its own, so that it can bear witness against the
//! sequencer's book and the projectors' fold: it shares no code with either.

use chrono::{DateTime, Utc};
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::ledger::{
    AccountCode, AccountId, Amount, AssetCode, Balance, Event, Fact, Leg, LegRequest, Position, RejectedTransaction,
    Side, Transaction,
};
use crate::metadata;
use crate::shard::shard_of;
use crate::store::events::{Logged, read_logged};
use crate::store::rows::{AccountRow, EntryRow, MetadataRow, Owner, RejectionRow};
use crate::store::{self, Epoch, Error, LedgerId, Shard};

/// Events read at a time: some 5 MB, and a few dozen milliseconds.
const PAGE_EVENTS: u64 = 10_000;
/// Pages that wait, so that reading and decoding never wait for writing for long.
const PAGES_AHEAD: usize = 3;

/// An event that does not follow from the log before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {position}, {subject}: expected {expected}, found {found}")]
pub struct Contradiction {
    pub position: Position,
    /// Which part of the event.
    pub subject: String,
    pub expected: String,
    pub found: String,
}

/// An account as the log alone describes it.
#[derive(Clone, Debug)]
pub struct Account {
    pub id: AccountId,
    pub code: AccountCode,
    pub asset: AssetCode,
    pub normal: Side,
    pub shard: Shard,
    pub balance: Balance,
}

impl Account {
    pub const fn owner(&self, ledger_id: LedgerId) -> Owner {
        Owner { shard: self.shard, ledger_id, account_id: self.id }
    }
}

/// What an event did to one account, as the row that projections keep of it.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Opened(AccountRow<'a>),
    Posted(EntryRow<'a>),
    Rejected(RejectionRow<'a>),
    /// It was the first leg's of a transaction with metadata; once per member.
    Described(MetadataRow<'a>),
}

/// The state of a ledger as of one position, from the log alone.
#[derive(Debug)]
pub struct Replay {
    ledger_id: LedgerId,
    shard_count: Shard,
    position: Position,
    recorded_at: DateTime<Utc>,
    epoch: Epoch,
    accounts: Vec<Account>,
    by_id: HashMap<AccountId, usize>,
    codes: HashSet<AccountCode>,
    /// One copy of each asset's name, whatever number of accounts it has.
    assets: HashSet<AssetCode>,
}

impl Replay {
    pub fn new(ledger_id: LedgerId, shard_count: Shard) -> Self {
        Self {
            ledger_id,
            shard_count,
            position: 0,
            recorded_at: DateTime::<Utc>::MIN_UTC,
            epoch: Epoch::MIN,
            accounts: Vec::new(),
            by_id: HashMap::new(),
            codes: HashSet::new(),
            assets: HashSet::new(),
        }
    }

    pub const fn position(&self) -> Position {
        self.position
    }

    /// In the order in which they were opened; [`Replay::apply`] counts in it.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Where an account stands in [`Replay::accounts`].
    pub fn index_of(&self, id: AccountId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Follows one event, telling `observe` what it did to which account, each
    /// as it is after that.
    ///
    /// # Errors
    /// The first contradiction. The replay must not be used any further.
    pub fn apply(
        &mut self,
        logged: &Logged,
        mut observe: impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Logged { event, epoch } = logged;
        self.check_order(event, *epoch)?;
        match &event.fact {
            Fact::AssetDefined { .. } => {}
            Fact::AccountOpened { .. } => self.open(event, &mut observe)?,
            Fact::TransactionPosted(transaction) => self.post(event, transaction, &mut observe)?,
            Fact::TransactionRejected(rejected) | Fact::BatchRejected { rejected, .. } => {
                self.reject(event, rejected, &mut observe)?;
            }
            _ => unimplemented!("replay"),
        }
        (self.position, self.recorded_at, self.epoch) = (event.position, event.recorded_at, *epoch);
        Ok(())
    }

    fn check_order(&self, event: &Event, epoch: Epoch) -> Result<(), Contradiction> {
        let next = self.position + 1;
        if event.position != next {
            return Err(differs(next, "the log", format!("position {next}"), format!("position {}", event.position)));
        }
        if event.recorded_at < self.recorded_at {
            let expected = format!("a time not before {:?}", self.recorded_at);
            return Err(differs(next, "recorded_at", expected, format!("{:?}", event.recorded_at)));
        }
        if epoch < self.epoch {
            return Err(differs(next, "epoch", format!("{} or more", self.epoch), epoch));
        }
        Ok(())
    }

    fn open(
        &mut self,
        event: &Event,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let Fact::AccountOpened { code, asset, normal, limits, metadata } = &event.fact else { return Ok(()) };
        if !self.codes.insert(code.clone()) {
            return Err(differs(
                event.position,
                format!("account {code}"),
                "a new account",
                "one that is open already",
            ));
        }
        let account = Account {
            id: event.position,
            code: code.clone(),
            asset: self.assets.get_or_insert_with(asset.as_str(), |_| asset.clone()).clone(),
            normal: *normal,
            shard: shard_of(self.ledger_id, code.as_str(), self.shard_count),
            balance: Balance { position: event.position, ..Balance::default() },
        };
        let row = AccountRow {
            owner: account.owner(self.ledger_id),
            code: code.as_str(),
            asset: asset.as_str(),
            normal: *normal,
            limits: *limits,
            metadata: metadata.as_deref(),
            opened_at: event.recorded_at,
        };
        let index = self.accounts.len();
        observe(index, &account, Change::Opened(row));
        self.by_id.insert(account.id, index);
        self.accounts.push(account);
        Ok(())
    }

    fn post(
        &mut self,
        event: &Event,
        transaction: &Transaction,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let transaction_id = transaction_id(event)?;
        let legs = transaction.legs.iter();
        check_balance(event.position, legs.map(|leg| (&leg.asset, leg.side, leg.amount)))?;
        for (leg_index, leg) in transaction.legs.iter().enumerate() {
            let index = self.find(event.position, leg.account_id, &leg.account, &leg.asset)?;
            let account = &mut self.accounts[index];
            add_leg(account, leg, event.position)?;
            let row = EntryRow {
                owner: account.owner(self.ledger_id),
                version: account.balance.version,
                position: event.position,
                leg: leg_index as i16,
                transaction_id,
                side: leg.side.as_str(),
                amount: leg.amount,
                balance_after: account.balance.posted(account.normal),
                reference: transaction.reference.as_deref(),
                effective_at: event.effective_at,
                recorded_at: event.recorded_at,
            };
            observe(index, account, Change::Posted(row));
        }
        let first = transaction.legs.first().map(|leg| leg.account_id);
        self.describe(event.position, first, transaction.metadata.as_deref(), observe);
        Ok(())
    }

    fn reject(
        &self,
        event: &Event,
        rejected: &RejectedTransaction,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) -> Result<(), Contradiction> {
        let transaction_id = transaction_id(event)?;
        let RejectedTransaction { scheduled: _, request, account_ids, reason } = rejected;
        check_balance(event.position, request.legs.iter().map(|leg| (&leg.asset, leg.side, leg.amount)))?;
        for (leg_index, (LegRequest { account, asset, .. }, id)) in request.legs.iter().zip(account_ids).enumerate() {
            let index = self.find(event.position, *id, account, asset)?;
            let account = &self.accounts[index];
            let row = RejectionRow {
                owner: account.owner(self.ledger_id),
                position: event.position,
                leg: leg_index as i16,
                transaction_id,
                reason: reason.code(),
                reference: request.reference.as_deref(),
                effective_at: event.effective_at,
                recorded_at: event.recorded_at,
            };
            observe(index, account, Change::Rejected(row));
        }
        self.describe(event.position, account_ids.first().copied(), request.metadata.as_deref(), observe);
        Ok(())
    }

    /// What a transaction is found by.
    fn describe(
        &self,
        position: Position,
        first: Option<AccountId>,
        json: Option<&str>,
        observe: &mut impl FnMut(usize, &Account, Change<'_>),
    ) {
        let Some((index, json)) = first.and_then(|id| self.index_of(id)).zip(json) else { return };
        let account = &self.accounts[index];
        let owner = account.owner(self.ledger_id);
        for (key, value) in &metadata::searchable(json) {
            observe(index, account, Change::Described(MetadataRow { owner, position, key, value }));
        }
    }

    fn find(
        &self,
        position: Position,
        id: AccountId,
        code: &AccountCode,
        asset: &AssetCode,
    ) -> Result<usize, Contradiction> {
        let subject = || format!("account {code}");
        let Some(index) = self.index_of(id) else {
            return Err(differs(position, subject(), format!("an account opened at position {id}"), "none"));
        };
        let account = &self.accounts[index];
        if account.code != *code {
            return Err(differs(position, format!("account number {id}"), &account.code, code));
        }
        if account.asset != *asset {
            return Err(differs(position, subject(), format!("an amount of {}", account.asset), asset));
        }
        Ok(index)
    }
}

/// Adds a leg's amount to its account, and compares with what the leg states.
fn add_leg(account: &mut Account, leg: &Leg, position: Position) -> Result<(), Contradiction> {
    let differs =
        |expected: String, found: String| differs(position, format!("account {}", leg.account), expected, found);
    if leg.normal != account.normal {
        return Err(differs(format!("a {}-normal account", account.normal.as_str()), leg.normal.as_str().to_owned()));
    }
    let balance = &mut account.balance;
    let total = match leg.side {
        Side::Debit => &mut balance.debits_posted,
        Side::Credit => &mut balance.credits_posted,
    };
    let Some(sum) = total.checked_add(leg.amount) else {
        return Err(differs("a total of 38 digits at most".to_owned(), format!("{total} and {} more", leg.amount)));
    };
    *total = sum;
    balance.version += 1;
    balance.position = position;
    if leg.after != *balance {
        return Err(differs(describe(balance), describe(&leg.after)));
    }
    Ok(())
}

/// A balance in words.
pub fn describe(balance: &Balance) -> String {
    let Balance { debits_posted, credits_posted, debits_pending, credits_pending, version, position } = balance;
    format!(
        "debits {debits_posted}, credits {credits_posted}, pending debits {debits_pending}, \
         pending credits {credits_pending}, version {version}, position {position}"
    )
}

fn transaction_id(event: &Event) -> Result<uuid::Uuid, Contradiction> {
    event.transaction_id.ok_or_else(|| differs(event.position, "the event", "a transaction_id", "none"))
}

/// Debits equal credits for every asset, and every amount is more than zero.
fn check_balance<'a>(
    position: Position,
    legs: impl Iterator<Item = (&'a AssetCode, Side, Amount)>,
) -> Result<(), Contradiction> {
    let mut sums: SmallVec<[(&AssetCode, Amount, Amount); 1]> = SmallVec::new();
    for (asset, side, amount) in legs {
        if !amount.is_positive() {
            return Err(differs(position, "the transaction", "amounts above zero", amount));
        }
        let index = sums.iter().position(|(known, ..)| *known == asset).unwrap_or_else(|| {
            sums.push((asset, Amount::ZERO, Amount::ZERO));
            sums.len() - 1
        });
        let (_, debits, credits) = &mut sums[index];
        let sum = match side {
            Side::Debit => debits,
            Side::Credit => credits,
        };
        *sum = sum
            .checked_add(amount)
            .ok_or_else(|| differs(position, "the transaction", "sums of 38 digits at most", "more"))?;
    }
    for (asset, debits, credits) in &sums {
        if debits != credits {
            let (expected, found) = (format!("debits of {credits} {asset}"), format!("debits of {debits} {asset}"));
            return Err(differs(position, "the transaction is not balanced", expected, found));
        }
    }
    if sums.is_empty() { Err(differs(position, "the transaction", "legs", "none")) } else { Ok(()) }
}

fn differs(
    position: Position,
    subject: impl Into<String>,
    expected: impl ToString,
    found: impl ToString,
) -> Contradiction {
    Contradiction { position, subject: subject.into(), expected: expected.to_string(), found: found.to_string() }
}

/// Reads a range of the log in a task of its own, a few pages ahead of the one
/// who folds it: the next page is fetched and decoded while this one is written.
pub struct ReadAhead {
    pages: mpsc::Receiver<Result<Vec<Logged>, Error>>,
    task: AbortOnDropHandle<PgConnection>,
}

impl ReadAhead {
    /// Reads what follows on `after`, up to `to`.
    pub fn start(mut conn: PgConnection, ledger_id: LedgerId, mut after: Position, to: Position) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let task = tokio::spawn(async move {
            while after < to {
                let page_to = to.min(after + PAGE_EVENTS);
                let page = read_logged(&mut conn, ledger_id, after, page_to).await;
                let failed = page.is_err();
                // A page that the log does not have is a hole: what follows on it tells.
                let missing = page.as_ref().is_ok_and(Vec::is_empty);
                if (!missing && sender.send(page).await.is_err()) || failed {
                    break;
                }
                after = page_to;
            }
            conn
        });
        Self { pages, task: AbortOnDropHandle::new(task) }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Logged>>, Error> {
        match self.pages.recv().await {
            Some(page) => page.map(Some),
            None => Ok(None),
        }
    }

    /// Gives the connection back.
    pub async fn finish(self) -> Result<PgConnection, Error> {
        drop(self.pages);
        self.task.await.map_err(|_| store::error::timed_out("the task that reads the log died"))
    }
}
