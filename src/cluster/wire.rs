//! What workers say to each other when one forwards to the sequencer's: requests
//! and their answers, many in one frame.
//!
//! The form is postcard's and is private to one release: workers of different
//! releases refuse each other's frames by [`VERSION`] and hold their requests
//! until an equal one sequences, which a rolling deploy comes to by itself.
//! Core types stay free of serde; their shadows here borrow: from the core's values
//! when they are written, from the frame when they are read.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::ledger::{
    Account, AccountCode, AccountStatus, Amount, AssetCode, Balance, Command, Event, Fact, Kind, Leg, LegRequest,
    Limits, OpenAccount, Position, Refusal, Side, Transaction, TransactionRequest,
};
use crate::sequencer::{Answer, Batch, Item, Key, Outcome, Unavailable, Work};
use crate::shard::ShardSet;
use crate::store::payload::{self, SCHEMA_VERSION};

/// Rises with every change of what is below.
pub const VERSION: u16 = 4;

/// Why a frame cannot be read: a defect, or somebody who is no worker of this release.
#[derive(Debug, thiserror::Error)]
#[error("a frame between workers cannot be read: {0}")]
pub struct Malformed(pub &'static str);

/// Requests for one ledger: [`ToSubmit`] when it is written, [`Submitted`] when it is read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request<S> {
    pub version: u16,
    pub ledger_id: i32,
    pub submissions: Vec<S>,
}

/// Their answers, in the same order: [`ToAnswer`] and [`Answered`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply<A> {
    pub answers: Vec<Result<A, UnavailableForm>>,
}

/// Asks for what follows on `after` in the log, as far as the other has it in memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRequest {
    pub version: u16,
    pub ledger_id: i32,
    pub after: Position,
    /// Events of the log to look at.
    pub limit: u32,
    /// Events that concern none of these are left out.
    pub shards: ShardSet,
}

/// Committed events, in order: [`ToLog`] and [`LoggedEvent`].
#[derive(Debug, Serialize, Deserialize)]
pub struct LogPage<E> {
    /// The page is about the log after `after` up to here, without a hole.
    pub to: Position,
    pub events: Vec<E>,
}

/// A request as it is written.
#[derive(Clone, Copy, Debug)]
pub struct ToSubmit<'a> {
    /// How long its client still waits.
    pub wait_ms: u32,
    pub work: &'a Work,
}

/// The same as it is read.
#[derive(Debug)]
pub struct Submitted {
    pub wait_ms: u32,
    pub work: Result<Work, Malformed>,
}

/// An answer as it is written.
#[derive(Clone, Copy, Debug)]
pub struct ToAnswer<'a>(pub &'a Answer);

/// The same as it is read.
#[derive(Debug)]
pub struct Answered(pub Result<Answer, Malformed>);

/// An event as it is written.
#[derive(Clone, Copy, Debug)]
pub struct ToLog<'a>(pub &'a Event);

/// The same as it is read.
#[derive(Debug)]
pub struct LoggedEvent(pub Result<Event, Malformed>);

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct SubmissionForm<'a> {
    wait_ms: u32,
    work: WorkForm<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum WorkForm<'a> {
    Each(SmallVec<[ItemForm<'a>; 1]>),
    Atomic { commands: Vec<CommandForm<'a>>, key: KeyForm<'a> },
    ReadAccount(&'a str),
    ReadHead,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct ItemForm<'a> {
    command: CommandForm<'a>,
    key: Option<KeyForm<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct KeyForm<'a> {
    text: &'a str,
    hash: [u8; 16],
    fingerprint: [u8; 16],
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum CommandForm<'a> {
    DefineAsset {
        code: &'a str,
        scale: u8,
    },
    OpenAccount {
        code: &'a str,
        asset: &'a str,
        debit: Option<bool>,
        limits: [Option<Option<i128>>; 2],
        metadata: Option<&'a str>,
    },
    Transact(TransactionForm<'a>),
}

#[derive(Debug, Serialize, Deserialize)]
struct LimitsForm {
    min_balance: Option<i128>,
    max_balance: Option<i128>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct TransactionForm<'a> {
    kind: &'a str,
    legs: SmallVec<[LegForm<'a>; 2]>,
    reference: Option<&'a str>,
    description: Option<&'a str>,
    metadata: Option<&'a str>,
    effective_at_us: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct LegForm<'a> {
    account: &'a str,
    debit: bool,
    amount: i128,
    asset: &'a str,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "E: Serialize", deserialize = "'de: 'a, E: Deserialize<'de>"))]
struct AnswerForm<'a, E> {
    outcomes: SmallVec<[OutcomeForm<'a>; 1]>,
    /// The events that the outcomes are about, in order, and no others.
    events: Vec<E>,
    position: Position,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum OutcomeForm<'a> {
    /// The next so many of the answer's events.
    Recorded(usize),
    Unchanged(Option<Box<AccountForm<'a>>>),
    KeyUsed,
    Refused {
        item: usize,
        refusal: RefusalForm<'a>,
    },
    Account(Option<Box<AccountForm<'a>>>),
    Head,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct EventForm<'a> {
    position: Position,
    recorded_at_us: i64,
    effective_at_us: i64,
    transaction_id: Option<Uuid>,
    idempotency_key: Option<&'a str>,
    fact: FactForm<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum FactForm<'a> {
    /// What nearly all events are.
    Posted(PostedForm<'a>),
    /// As it stands in the log.
    AsLogged {
        type_name: &'a str,
        #[serde(borrow)]
        payload: Cow<'a, str>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct PostedForm<'a> {
    kind: &'a str,
    legs: SmallVec<[PostedLegForm<'a>; 2]>,
    reference: Option<&'a str>,
    description: Option<&'a str>,
    metadata: Option<&'a str>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct PostedLegForm<'a> {
    account: &'a str,
    account_id: u64,
    normal_debit: bool,
    debit: bool,
    amount: i128,
    asset: &'a str,
    totals: [i128; 4],
    version: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct AccountForm<'a> {
    id: u64,
    code: &'a str,
    asset: &'a str,
    debit: bool,
    status: &'a str,
    limits: LimitsForm,
    metadata: Option<&'a str>,
    opened_at_us: i64,
    totals: [i128; 4],
    version: u64,
    position: Position,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum RefusalForm<'a> {
    Invalid(&'a str),
    SameAccount(&'a str),
    AccountNotFound(Vec<(usize, &'a str)>),
    AssetNotFound(&'a str),
    AssetMismatch { leg: usize, account: &'a str, account_asset: &'a str, asset: &'a str },
    AccountAlreadyExists(Box<AccountForm<'a>>),
    AssetAlreadyExists { code: &'a str, scale: u8 },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum UnavailableForm {
    Overloaded,
    ProjectionsBehind,
    Standby,
    TimedOut,
    OutcomeUnknown,
    Defect,
}

// Each is written and read one by one, by way of a form that lives no longer than
// that: a frame of many is never held twice.

impl Serialize for ToSubmit<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SubmissionForm { wait_ms: self.wait_ms, work: work_form(self.work) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Submitted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = SubmissionForm::deserialize(deserializer)?;
        Ok(Self { wait_ms: form.wait_ms, work: work(form.work) })
    }
}

impl Serialize for ToAnswer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        answer_form(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Answered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AnswerForm::deserialize(deserializer).map(|form| Self(answer(form)))
    }
}

impl Serialize for ToLog<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        event_form(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LoggedEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        EventForm::deserialize(deserializer).map(|form| Self(event(form)))
    }
}

fn work_form(work: &Work) -> WorkForm<'_> {
    match work {
        Work::Each(items) => WorkForm::Each(
            items
                .iter()
                .map(|item| ItemForm { command: command_form(&item.command), key: item.key.as_ref().map(key_form) })
                .collect(),
        ),
        Work::Atomic { commands, key } => {
            WorkForm::Atomic { commands: commands.iter().map(command_form).collect(), key: key_form(key) }
        }
        Work::ReadAccount(code) => WorkForm::ReadAccount(code.as_str()),
        Work::ReadHead => WorkForm::ReadHead,
    }
}

fn work(form: WorkForm<'_>) -> Result<Work, Malformed> {
    Ok(match form {
        WorkForm::Each(items) => {
            let item = |item: ItemForm<'_>| Ok(Item { command: command(item.command)?, key: item.key.map(key) });
            Work::Each(items.into_iter().map(item).collect::<Result<SmallVec<_>, _>>()?)
        }
        WorkForm::Atomic { commands, key: used } => {
            Work::Atomic { commands: commands.into_iter().map(command).collect::<Result<_, _>>()?, key: key(used) }
        }
        WorkForm::ReadAccount(code) => Work::ReadAccount(account_code(code)?),
        WorkForm::ReadHead => Work::ReadHead,
    })
}

fn answer_form<'a>(answer: &'a Answer) -> AnswerForm<'a, ToLog<'a>> {
    let mut events = Vec::new();
    let mut recorded = |index: usize, count: usize| {
        let made = answer.batch.events.get(index..index + count).unwrap_or_default();
        events.extend(made.iter().map(ToLog));
        OutcomeForm::Recorded(made.len())
    };
    let boxed = |known: &'a Option<Box<Account>>| known.as_deref().map(account_form).map(Box::new);
    let outcomes = answer
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Recorded { index, count } => recorded(*index, *count),
            Outcome::Unchanged(known) => OutcomeForm::Unchanged(boxed(known)),
            Outcome::KeyUsed => OutcomeForm::KeyUsed,
            Outcome::Refused { item, refusal } => OutcomeForm::Refused { item: *item, refusal: refusal_form(refusal) },
            Outcome::Account(known) => OutcomeForm::Account(boxed(known)),
            Outcome::Head => OutcomeForm::Head,
        })
        .collect();
    AnswerForm { outcomes, events, position: answer.position }
}

fn answer(form: AnswerForm<'_, LoggedEvent>) -> Result<Answer, Malformed> {
    let mut next = 0;
    let boxed = |known: Option<Box<AccountForm<'_>>>| known.map(|known| account(*known).map(Box::new)).transpose();
    let outcomes = form
        .outcomes
        .into_iter()
        .map(|outcome| {
            Ok(match outcome {
                OutcomeForm::Recorded(count) => {
                    let index = next;
                    next += count;
                    Outcome::Recorded { index, count }
                }
                OutcomeForm::Unchanged(known) => Outcome::Unchanged(boxed(known)?),
                OutcomeForm::KeyUsed => Outcome::KeyUsed,
                OutcomeForm::Refused { item, refusal: why } => Outcome::Refused { item, refusal: refusal(why)? },
                OutcomeForm::Account(known) => Outcome::Account(boxed(known)?),
                OutcomeForm::Head => Outcome::Head,
            })
        })
        .collect::<Result<_, Malformed>>()?;
    let events = form.events.into_iter().map(|event| event.0).collect::<Result<_, _>>()?;
    Ok(Answer { outcomes, batch: Arc::new(Batch { events }), position: form.position })
}

impl From<Unavailable> for UnavailableForm {
    fn from(reason: Unavailable) -> Self {
        match reason {
            Unavailable::Overloaded => Self::Overloaded,
            Unavailable::ProjectionsBehind => Self::ProjectionsBehind,
            Unavailable::Standby => Self::Standby,
            Unavailable::TimedOut => Self::TimedOut,
            Unavailable::OutcomeUnknown => Self::OutcomeUnknown,
            Unavailable::Defect => Self::Defect,
        }
    }
}

impl From<UnavailableForm> for Unavailable {
    fn from(reason: UnavailableForm) -> Self {
        match reason {
            UnavailableForm::Overloaded => Self::Overloaded,
            UnavailableForm::ProjectionsBehind => Self::ProjectionsBehind,
            UnavailableForm::Standby => Self::Standby,
            UnavailableForm::TimedOut => Self::TimedOut,
            UnavailableForm::OutcomeUnknown => Self::OutcomeUnknown,
            UnavailableForm::Defect => Self::Defect,
        }
    }
}

fn key_form(key: &Key) -> KeyForm<'_> {
    KeyForm { text: &key.text, hash: key.hash, fingerprint: key.fingerprint }
}

fn key(form: KeyForm<'_>) -> Key {
    Key { text: form.text.into(), hash: form.hash, fingerprint: form.fingerprint }
}

fn command_form(command: &Command) -> CommandForm<'_> {
    match command {
        Command::DefineAsset { code, scale } => CommandForm::DefineAsset { code: code.as_str(), scale: *scale },
        Command::OpenAccount(OpenAccount { code, asset, normal, min_balance, max_balance, metadata }) => {
            CommandForm::OpenAccount {
                code: code.as_str(),
                asset: asset.as_str(),
                debit: normal.map(|normal| normal == Side::Debit),
                limits: [*min_balance, *max_balance].map(|stated| stated.map(|bound| bound.map(Amount::get))),
                metadata: metadata.as_deref(),
            }
        }
        Command::Transact(request) => CommandForm::Transact(TransactionForm {
            kind: request.kind.as_str(),
            legs: request
                .legs
                .iter()
                .map(|leg| LegForm {
                    account: leg.account.as_str(),
                    debit: leg.side == Side::Debit,
                    amount: leg.amount.get(),
                    asset: leg.asset.as_str(),
                })
                .collect(),
            reference: request.reference.as_deref(),
            description: request.description.as_deref(),
            metadata: request.metadata.as_deref(),
            effective_at_us: request.effective_at.map(|at| at.timestamp_micros()),
        }),
        _ => unimplemented!("wire"),
    }
}

fn command(form: CommandForm<'_>) -> Result<Command, Malformed> {
    Ok(match form {
        CommandForm::DefineAsset { code, scale } => Command::DefineAsset { code: asset_code(code)?, scale },
        CommandForm::OpenAccount { code, asset, debit, limits: bounds, metadata } => {
            Command::OpenAccount(OpenAccount {
                code: account_code(code)?,
                asset: asset_code(asset)?,
                normal: debit.map(side),
                min_balance: stated(bounds[0])?,
                max_balance: stated(bounds[1])?,
                metadata: metadata.map(Arc::from),
            })
        }
        CommandForm::Transact(form) => {
            let leg = |leg: LegForm<'_>| {
                Ok(LegRequest {
                    account: account_code(leg.account)?,
                    side: side(leg.debit),
                    amount: amount(leg.amount)?,
                    asset: asset_code(leg.asset)?,
                })
            };
            Command::Transact(TransactionRequest {
                kind: Kind::parse(form.kind).ok_or(Malformed("kind"))?,
                legs: form.legs.into_iter().map(leg).collect::<Result<SmallVec<_>, _>>()?,
                reference: form.reference.map(Arc::from),
                description: form.description.map(Arc::from),
                metadata: form.metadata.map(Arc::from),
                effective_at: form.effective_at_us.map(time).transpose()?,
                terms: None,
            })
        }
    })
}

fn event_form(event: &Event) -> EventForm<'_> {
    EventForm {
        position: event.position,
        recorded_at_us: event.recorded_at.timestamp_micros(),
        effective_at_us: event.effective_at.timestamp_micros(),
        transaction_id: event.transaction_id,
        idempotency_key: event.idempotency_key.as_deref(),
        fact: match &event.fact {
            Fact::TransactionPosted(transaction) => FactForm::Posted(posted_form(transaction)),
            other => {
                let mut text = String::with_capacity(320);
                payload::write(other, &mut text);
                FactForm::AsLogged { type_name: other.type_name(), payload: Cow::Owned(text) }
            }
        },
    }
}

fn event(form: EventForm<'_>) -> Result<Event, Malformed> {
    let fact = match form.fact {
        FactForm::Posted(transaction) => Fact::TransactionPosted(posted(transaction, form.position)?),
        FactForm::AsLogged { type_name, payload } => {
            payload::read(type_name, SCHEMA_VERSION, form.position, &payload).map_err(|_| Malformed("event"))?
        }
    };
    Ok(Event {
        position: form.position,
        recorded_at: time(form.recorded_at_us)?,
        effective_at: time(form.effective_at_us)?,
        transaction_id: form.transaction_id,
        idempotency_key: form.idempotency_key.map(Arc::from),
        fact,
    })
}

fn posted_form(transaction: &Transaction) -> PostedForm<'_> {
    PostedForm {
        kind: transaction.kind.as_str(),
        legs: transaction
            .legs
            .iter()
            .map(|leg| PostedLegForm {
                account: leg.account.as_str(),
                account_id: leg.account_id,
                normal_debit: leg.normal == Side::Debit,
                debit: leg.side == Side::Debit,
                amount: leg.amount.get(),
                asset: leg.asset.as_str(),
                totals: totals(&leg.after),
                version: leg.after.version,
            })
            .collect(),
        reference: transaction.reference.as_deref(),
        description: transaction.description.as_deref(),
        metadata: transaction.metadata.as_deref(),
    }
}

fn posted(form: PostedForm<'_>, position: Position) -> Result<Transaction, Malformed> {
    let leg = |leg: &PostedLegForm<'_>| {
        Ok(Leg {
            account: account_code(leg.account)?,
            account_id: leg.account_id,
            normal: side(leg.normal_debit),
            side: side(leg.debit),
            amount: amount(leg.amount)?,
            asset: asset_code(leg.asset)?,
            after: balance(leg.totals, leg.version, position)?,
        })
    };
    Ok(Transaction {
        kind: Kind::parse(form.kind).ok_or(Malformed("kind"))?,
        legs: form.legs.iter().map(leg).collect::<Result<_, Malformed>>()?,
        reference: form.reference.map(Arc::from),
        description: form.description.map(Arc::from),
        metadata: form.metadata.map(Arc::from),
        more: None,
    })
}

fn stated(bound: Option<Option<i128>>) -> Result<Option<Option<Amount>>, Malformed> {
    bound.map(|bound| bound.map(amount).transpose()).transpose()
}

fn totals(balance: &Balance) -> [i128; 4] {
    [balance.debits_posted, balance.credits_posted, balance.debits_pending, balance.credits_pending].map(Amount::get)
}

fn balance(totals: [i128; 4], version: u64, position: Position) -> Result<Balance, Malformed> {
    let [debits_posted, credits_posted, debits_pending, credits_pending] = totals;
    Ok(Balance {
        debits_posted: amount(debits_posted)?,
        credits_posted: amount(credits_posted)?,
        debits_pending: amount(debits_pending)?,
        credits_pending: amount(credits_pending)?,
        version,
        position,
    })
}

fn account_form(account: &Account) -> AccountForm<'_> {
    let balance = &account.balance;
    AccountForm {
        id: account.id,
        code: account.code.as_str(),
        asset: account.asset.as_str(),
        debit: account.normal == Side::Debit,
        status: account.attributes.status().as_str(),
        limits: limits_form(account.attributes.limits),
        metadata: account.attributes.metadata.as_deref(),
        opened_at_us: account.opened_at.timestamp_micros(),
        totals: totals(balance),
        version: balance.version,
        position: balance.position,
    }
}

fn account(form: AccountForm<'_>) -> Result<Account, Malformed> {
    Ok(Account {
        id: form.id,
        code: account_code(form.code)?,
        asset: asset_code(form.asset)?,
        normal: side(form.debit),
        attributes: crate::ledger::Attributes {
            limits: limits(&form.limits)?,
            metadata: form.metadata.map(Arc::from),
            ..Default::default()
        },
        changed: 0,
        opened_at: time(form.opened_at_us)?,
        balance: balance(form.totals, form.version, form.position)?,
    })
}

fn refusal_form(refusal: &Refusal) -> RefusalForm<'_> {
    match refusal {
        Refusal::Invalid(rule) => RefusalForm::Invalid(rule),
        Refusal::SameAccount(code) => RefusalForm::SameAccount(code.as_str()),
        Refusal::AccountNotFound(missing) => {
            RefusalForm::AccountNotFound(missing.iter().map(|(leg, code)| (*leg, code.as_str())).collect())
        }
        Refusal::AssetNotFound(code) => RefusalForm::AssetNotFound(code.as_str()),
        Refusal::AssetMismatch { leg, account, account_asset, asset } => RefusalForm::AssetMismatch {
            leg: *leg,
            account: account.as_str(),
            account_asset: account_asset.as_str(),
            asset: asset.as_str(),
        },
        Refusal::AccountAlreadyExists(account) => RefusalForm::AccountAlreadyExists(Box::new(account_form(account))),
        Refusal::AssetAlreadyExists { code, scale } => {
            RefusalForm::AssetAlreadyExists { code: code.as_str(), scale: *scale }
        }
        _ => unimplemented!("wire"),
    }
}

fn refusal(form: RefusalForm<'_>) -> Result<Refusal, Malformed> {
    Ok(match form {
        RefusalForm::Invalid(rule) => Refusal::Invalid(rule.to_owned().into()),
        RefusalForm::SameAccount(code) => Refusal::SameAccount(account_code(code)?),
        RefusalForm::AccountNotFound(missing) => {
            let missing = missing.into_iter().map(|(leg, code)| Ok((leg, account_code(code)?)));
            Refusal::AccountNotFound(missing.collect::<Result<SmallVec<_>, _>>()?)
        }
        RefusalForm::AssetNotFound(code) => Refusal::AssetNotFound(asset_code(code)?),
        RefusalForm::AssetMismatch { leg, account, account_asset, asset } => Refusal::AssetMismatch {
            leg,
            account: account_code(account)?,
            account_asset: asset_code(account_asset)?,
            asset: asset_code(asset)?,
        },
        RefusalForm::AccountAlreadyExists(known) => Refusal::AccountAlreadyExists(Box::new(account(*known)?)),
        RefusalForm::AssetAlreadyExists { code, scale } => {
            Refusal::AssetAlreadyExists { code: asset_code(code)?, scale }
        }
    })
}

fn limits_form(limits: Limits) -> LimitsForm {
    LimitsForm { min_balance: limits.min_balance.map(Amount::get), max_balance: limits.max_balance.map(Amount::get) }
}

fn limits(form: &LimitsForm) -> Result<Limits, Malformed> {
    Ok(Limits {
        min_balance: form.min_balance.map(amount).transpose()?,
        max_balance: form.max_balance.map(amount).transpose()?,
    })
}

const fn side(debit: bool) -> Side {
    if debit { Side::Debit } else { Side::Credit }
}

fn amount(value: i128) -> Result<Amount, Malformed> {
    Amount::new(value).ok_or(Malformed("amount"))
}

fn time(micros: i64) -> Result<DateTime<Utc>, Malformed> {
    DateTime::from_timestamp_micros(micros).ok_or(Malformed("time"))
}

fn account_code(text: &str) -> Result<AccountCode, Malformed> {
    AccountCode::new(text).map_err(|_| Malformed("account code"))
}

fn asset_code(text: &str) -> Result<AssetCode, Malformed> {
    AssetCode::new(text).map_err(|_| Malformed("asset code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(account: &str, debit: bool, amount_: i128, asset: &str) -> Leg {
        Leg {
            account: account_code(account).unwrap(),
            account_id: u64::MAX,
            normal: side(!debit),
            side: side(debit),
            amount: amount(amount_).unwrap(),
            asset: asset_code(asset).unwrap(),
            after: balance([amount_, 2, 3, 0], 9, 77).unwrap(),
        }
    }

    fn event_of(fact: Fact) -> Event {
        Event {
            position: 77,
            recorded_at: time(1_700_000_000_000_001).unwrap(),
            effective_at: time(-1).unwrap(),
            transaction_id: Some(Uuid::from_u128(u128::MAX)),
            idempotency_key: Some("k".into()),
            fact,
        }
    }

    /// Every event comes out as it went in: what a follower projects is what the log says.
    #[test]
    fn the_log_survives_the_way() {
        let largest = 10_i128.pow(38) - 1;
        let transaction = Transaction {
            kind: Kind::Payment,
            legs: [leg("a", true, largest, "EUR"), leg("b", false, largest, "EUR"), leg("c", true, 1, "USD")]
                .into_iter()
                .collect(),
            reference: Some("é\"\\".into()),
            description: None,
            metadata: Some(r#"{"a":1}"#.into()),
        };
        let opened = Fact::AccountOpened {
            code: account_code("a").unwrap(),
            asset: asset_code("EUR").unwrap(),
            normal: Side::Debit,
            limits: Limits { min_balance: None, max_balance: amount(-largest).ok() },
            metadata: None,
        };
        let defined = Fact::AssetDefined { code: asset_code("X").unwrap(), scale: 3 };
        let events = [Fact::TransactionPosted(transaction), opened, defined].map(event_of);
        let frame = postcard::to_stdvec(&LogPage { to: 77, events: events.iter().map(ToLog).collect() }).unwrap();
        let page: LogPage<LoggedEvent> = postcard::from_bytes(&frame).unwrap();
        let read: Result<Vec<_>, _> = page.events.into_iter().map(|event| event.0).collect();
        assert_eq!(read.unwrap(), events);
        // What is cut short is refused, not half-read.
        assert!(postcard::from_bytes::<LogPage<LoggedEvent>>(&frame[..frame.len() - 1]).is_err());
    }
}
