//! What workers say to each other when one forwards to the sequencer's: requests
//! and their answers, many in one frame.
//!
//! The form is postcard's and is private to one release: workers of different
//! releases refuse each other's frames by [`VERSION`] and hold their requests
//! until an equal one sequences, which a rolling deploy comes to by itself.
//! Core types stay free of serde; these are their shadows.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::ledger::{
    Account, AccountCode, AccountStatus, Amount, AssetCode, Balance, Command, Event, Kind, LegRequest, Limits,
    OpenAccount, Position, Refusal, Side, TransactionRequest,
};
use crate::sequencer::{Answer, Batch, Item, Key, Outcome, Unavailable, Work};
use crate::store::events::Row;
use crate::store::payload::{self, SCHEMA_VERSION};

/// Rises with every change of what is below.
pub const VERSION: u16 = 1;

/// Why a frame cannot be read: a defect, or somebody who is no worker of this release.
#[derive(Debug, thiserror::Error)]
#[error("a frame between workers cannot be read: {0}")]
pub struct Malformed(pub &'static str);

/// Requests for one ledger.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub version: u16,
    pub ledger_id: i32,
    pub submissions: Vec<Submitted>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Submitted {
    /// How long its client still waits.
    pub wait_ms: u32,
    work: WorkForm,
}

/// Their answers, in the same order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub answers: Vec<Result<AnswerForm, UnavailableForm>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum WorkForm {
    Each(Vec<ItemForm>),
    Atomic { commands: Vec<CommandForm>, key: KeyForm },
    ReadAccount(String),
    ReadHead,
}

#[derive(Debug, Serialize, Deserialize)]
struct ItemForm {
    command: CommandForm,
    key: Option<KeyForm>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyForm {
    text: String,
    hash: [u8; 16],
    fingerprint: [u8; 16],
}

#[derive(Debug, Serialize, Deserialize)]
enum CommandForm {
    DefineAsset { code: String, scale: u8 },
    OpenAccount { code: String, asset: String, debit: bool, limits: LimitsForm, metadata: Option<String> },
    Transact(TransactionForm),
}

#[derive(Debug, Serialize, Deserialize)]
struct LimitsForm {
    min_balance: Option<i128>,
    max_balance: Option<i128>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TransactionForm {
    kind: String,
    legs: Vec<LegForm>,
    reference: Option<String>,
    description: Option<String>,
    metadata: Option<String>,
    effective_at_us: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LegForm {
    account: String,
    debit: bool,
    amount: i128,
    asset: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AnswerForm {
    outcomes: Vec<OutcomeForm>,
    /// The events that the outcomes are about, in order, and no others.
    events: Vec<EventForm>,
    position: Position,
}

#[derive(Debug, Serialize, Deserialize)]
enum OutcomeForm {
    /// The next so many of the answer's events.
    Recorded(usize),
    Unchanged(Option<AccountForm>),
    KeyUsed,
    Refused {
        item: usize,
        refusal: RefusalForm,
    },
    Account(Option<AccountForm>),
    Head,
}

#[derive(Debug, Serialize, Deserialize)]
struct EventForm {
    position: Position,
    recorded_at_us: i64,
    effective_at_us: i64,
    transaction_id: Option<Uuid>,
    idempotency_key: Option<String>,
    type_name: String,
    payload: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct AccountForm {
    id: u64,
    code: String,
    asset: String,
    debit: bool,
    status: String,
    limits: LimitsForm,
    metadata: Option<String>,
    opened_at_us: i64,
    totals: [i128; 4],
    version: u64,
    position: Position,
}

#[derive(Debug, Serialize, Deserialize)]
enum RefusalForm {
    Invalid(String),
    SameAccount(String),
    AccountNotFound(Vec<(usize, String)>),
    AssetNotFound(String),
    AssetMismatch { leg: usize, account: String, account_asset: String, asset: String },
    AccountAlreadyExists(Box<AccountForm>),
    AssetAlreadyExists { code: String, scale: u8 },
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

impl Submitted {
    pub fn new(work: &Work, wait_ms: u32) -> Self {
        let work = match work {
            Work::Each(items) => WorkForm::Each(
                items
                    .iter()
                    .map(|item| ItemForm { command: command_form(&item.command), key: item.key.as_ref().map(key_form) })
                    .collect(),
            ),
            Work::Atomic { commands, key } => {
                WorkForm::Atomic { commands: commands.iter().map(command_form).collect(), key: key_form(key) }
            }
            Work::ReadAccount(code) => WorkForm::ReadAccount(code.to_string()),
            Work::ReadHead => WorkForm::ReadHead,
        };
        Self { wait_ms, work }
    }

    pub fn into_work(self) -> Result<Work, Malformed> {
        Ok(match self.work {
            WorkForm::Each(items) => {
                let item = |item: ItemForm| Ok(Item { command: command(item.command)?, key: item.key.map(key) });
                Work::Each(items.into_iter().map(item).collect::<Result<SmallVec<_>, _>>()?)
            }
            WorkForm::Atomic { commands, key: used } => {
                Work::Atomic { commands: commands.into_iter().map(command).collect::<Result<_, _>>()?, key: key(used) }
            }
            WorkForm::ReadAccount(code) => Work::ReadAccount(account_code(&code)?),
            WorkForm::ReadHead => Work::ReadHead,
        })
    }
}

impl AnswerForm {
    pub fn new(answer: &Answer) -> Self {
        let mut events = Vec::new();
        let mut recorded = |index: usize, count: usize| {
            let made = answer.batch.events.get(index..index + count).unwrap_or_default();
            events.extend(made.iter().map(event_form));
            OutcomeForm::Recorded(made.len())
        };
        let outcomes = answer
            .outcomes
            .iter()
            .map(|outcome| match outcome {
                Outcome::Recorded { index, count } => recorded(*index, *count),
                Outcome::Unchanged(account) => OutcomeForm::Unchanged(account.as_deref().map(account_form)),
                Outcome::KeyUsed => OutcomeForm::KeyUsed,
                Outcome::Refused { item, refusal } => {
                    OutcomeForm::Refused { item: *item, refusal: refusal_form(refusal) }
                }
                Outcome::Account(account) => OutcomeForm::Account(account.as_deref().map(account_form)),
                Outcome::Head => OutcomeForm::Head,
            })
            .collect();
        Self { outcomes, events, position: answer.position }
    }

    pub fn into_answer(self) -> Result<Answer, Malformed> {
        let mut next = 0;
        let outcomes = self
            .outcomes
            .into_iter()
            .map(|outcome| {
                Ok(match outcome {
                    OutcomeForm::Recorded(count) => {
                        let index = next;
                        next += count;
                        Outcome::Recorded { index, count }
                    }
                    OutcomeForm::Unchanged(known) => {
                        Outcome::Unchanged(known.map(|known| account(known).map(Box::new)).transpose()?)
                    }
                    OutcomeForm::KeyUsed => Outcome::KeyUsed,
                    OutcomeForm::Refused { item, refusal: why } => Outcome::Refused { item, refusal: refusal(why)? },
                    OutcomeForm::Account(known) => {
                        Outcome::Account(known.map(|known| account(known).map(Box::new)).transpose()?)
                    }
                    OutcomeForm::Head => Outcome::Head,
                })
            })
            .collect::<Result<_, Malformed>>()?;
        let events = self.events.into_iter().map(event).collect::<Result<_, _>>()?;
        Ok(Answer { outcomes, batch: Arc::new(Batch { events }), position: self.position })
    }
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

fn key_form(key: &Key) -> KeyForm {
    KeyForm { text: key.text.to_string(), hash: key.hash, fingerprint: key.fingerprint }
}

fn key(form: KeyForm) -> Key {
    Key { text: form.text.into(), hash: form.hash, fingerprint: form.fingerprint }
}

fn command_form(command: &Command) -> CommandForm {
    match command {
        Command::DefineAsset { code, scale } => CommandForm::DefineAsset { code: code.to_string(), scale: *scale },
        Command::OpenAccount(OpenAccount { code, asset, normal, limits, metadata }) => CommandForm::OpenAccount {
            code: code.to_string(),
            asset: asset.to_string(),
            debit: *normal == Side::Debit,
            limits: limits_form(*limits),
            metadata: metadata.as_deref().map(str::to_owned),
        },
        Command::Transact(request) => CommandForm::Transact(TransactionForm {
            kind: request.kind.as_str().to_owned(),
            legs: request
                .legs
                .iter()
                .map(|leg| LegForm {
                    account: leg.account.to_string(),
                    debit: leg.side == Side::Debit,
                    amount: leg.amount.get(),
                    asset: leg.asset.to_string(),
                })
                .collect(),
            reference: request.reference.as_deref().map(str::to_owned),
            description: request.description.as_deref().map(str::to_owned),
            metadata: request.metadata.as_deref().map(str::to_owned),
            effective_at_us: request.effective_at.map(|at| at.timestamp_micros()),
        }),
    }
}

fn command(form: CommandForm) -> Result<Command, Malformed> {
    Ok(match form {
        CommandForm::DefineAsset { code, scale } => Command::DefineAsset { code: asset_code(&code)?, scale },
        CommandForm::OpenAccount { code, asset, debit, limits: bounds, metadata } => {
            Command::OpenAccount(OpenAccount {
                code: account_code(&code)?,
                asset: asset_code(&asset)?,
                normal: side(debit),
                limits: limits(&bounds)?,
                metadata: metadata.map(Arc::from),
            })
        }
        CommandForm::Transact(form) => {
            let leg = |leg: LegForm| {
                Ok(LegRequest {
                    account: account_code(&leg.account)?,
                    side: side(leg.debit),
                    amount: amount(leg.amount)?,
                    asset: asset_code(&leg.asset)?,
                })
            };
            Command::Transact(TransactionRequest {
                kind: Kind::parse(&form.kind).ok_or(Malformed("kind"))?,
                legs: form.legs.into_iter().map(leg).collect::<Result<SmallVec<_>, _>>()?,
                reference: form.reference.map(Arc::from),
                description: form.description.map(Arc::from),
                metadata: form.metadata.map(Arc::from),
                effective_at: form.effective_at_us.map(time).transpose()?,
            })
        }
    })
}

fn event_form(event: &Event) -> EventForm {
    let mut text = String::with_capacity(320);
    payload::write(&event.fact, &mut text);
    EventForm {
        position: event.position,
        recorded_at_us: event.recorded_at.timestamp_micros(),
        effective_at_us: event.effective_at.timestamp_micros(),
        transaction_id: event.transaction_id,
        idempotency_key: event.idempotency_key.as_deref().map(str::to_owned),
        type_name: event.fact.type_name().to_owned(),
        payload: text,
    }
}

/// Reads it as a row of the log, which it is.
fn event(form: EventForm) -> Result<Event, Malformed> {
    let row = Row {
        position: form.position,
        type_name: form.type_name,
        schema_version: SCHEMA_VERSION,
        transaction_id: form.transaction_id,
        idempotency_key: form.idempotency_key,
        payload: form.payload.into_boxed_str(),
        recorded_at: time(form.recorded_at_us)?,
        effective_at: time(form.effective_at_us)?,
    };
    row.into_event().map_err(|_| Malformed("event"))
}

fn account_form(account: &Account) -> AccountForm {
    let balance = &account.balance;
    AccountForm {
        id: account.id,
        code: account.code.to_string(),
        asset: account.asset.to_string(),
        debit: account.normal == Side::Debit,
        status: account.status.as_str().to_owned(),
        limits: limits_form(account.limits),
        metadata: account.metadata.as_deref().map(str::to_owned),
        opened_at_us: account.opened_at.timestamp_micros(),
        totals: [balance.debits_posted, balance.credits_posted, balance.debits_pending, balance.credits_pending]
            .map(Amount::get),
        version: balance.version,
        position: balance.position,
    }
}

fn account(form: AccountForm) -> Result<Account, Malformed> {
    let [debits_posted, credits_posted, debits_pending, credits_pending] = form.totals;
    Ok(Account {
        id: form.id,
        code: account_code(&form.code)?,
        asset: asset_code(&form.asset)?,
        normal: side(form.debit),
        status: AccountStatus::parse(&form.status).ok_or(Malformed("status"))?,
        limits: limits(&form.limits)?,
        metadata: form.metadata.map(Arc::from),
        opened_at: time(form.opened_at_us)?,
        balance: Balance {
            debits_posted: amount(debits_posted)?,
            credits_posted: amount(credits_posted)?,
            debits_pending: amount(debits_pending)?,
            credits_pending: amount(credits_pending)?,
            version: form.version,
            position: form.position,
        },
    })
}

fn refusal_form(refusal: &Refusal) -> RefusalForm {
    match refusal {
        Refusal::Invalid(rule) => RefusalForm::Invalid(rule.to_string()),
        Refusal::SameAccount(code) => RefusalForm::SameAccount(code.to_string()),
        Refusal::AccountNotFound(missing) => {
            RefusalForm::AccountNotFound(missing.iter().map(|(leg, code)| (*leg, code.to_string())).collect())
        }
        Refusal::AssetNotFound(code) => RefusalForm::AssetNotFound(code.to_string()),
        Refusal::AssetMismatch { leg, account, account_asset, asset } => RefusalForm::AssetMismatch {
            leg: *leg,
            account: account.to_string(),
            account_asset: account_asset.to_string(),
            asset: asset.to_string(),
        },
        Refusal::AccountAlreadyExists(account) => RefusalForm::AccountAlreadyExists(Box::new(account_form(account))),
        Refusal::AssetAlreadyExists { code, scale } => {
            RefusalForm::AssetAlreadyExists { code: code.to_string(), scale: *scale }
        }
    }
}

fn refusal(form: RefusalForm) -> Result<Refusal, Malformed> {
    Ok(match form {
        RefusalForm::Invalid(rule) => Refusal::Invalid(rule.into()),
        RefusalForm::SameAccount(code) => Refusal::SameAccount(account_code(&code)?),
        RefusalForm::AccountNotFound(missing) => {
            let missing = missing.into_iter().map(|(leg, code)| Ok((leg, account_code(&code)?)));
            Refusal::AccountNotFound(missing.collect::<Result<SmallVec<_>, _>>()?)
        }
        RefusalForm::AssetNotFound(code) => Refusal::AssetNotFound(asset_code(&code)?),
        RefusalForm::AssetMismatch { leg, account, account_asset, asset } => Refusal::AssetMismatch {
            leg,
            account: account_code(&account)?,
            account_asset: asset_code(&account_asset)?,
            asset: asset_code(&asset)?,
        },
        RefusalForm::AccountAlreadyExists(known) => Refusal::AccountAlreadyExists(Box::new(account(*known)?)),
        RefusalForm::AssetAlreadyExists { code, scale } => {
            Refusal::AssetAlreadyExists { code: asset_code(&code)?, scale }
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
