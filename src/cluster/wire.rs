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
    Account, AccountCode, AccountUpdate, Amount, AssetCode, Attributes, Authorisation, Balance, Cancel, Capture,
    ChangeAccount, Command, Counted, Event, Expiry, Fact, Field, Freeze, FreezeScope, HoldRef, Kind, Leg, LegRequest,
    Limits, More, Notes, OpenAccount, Origin, Part, Place, Position, Rate, Refusal, Reverse, RuleKey, Side, Terms,
    Transaction, TransactionRequest, Usage, Void,
};
use crate::sequencer::{Answer, Batch, Item, Key, Outcome, Unavailable, Work};
use crate::shard::ShardSet;
use crate::store::payload;

/// Rises with every change of what is below.
pub const VERSION: u16 = 7;

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
        limits: [StatedForm; 2],
        metadata: Option<&'a str>,
    },
    Transact(TransactionForm<'a>),
    Capture {
        payment: Uuid,
        amount: Option<i128>,
        last: bool,
        notes: NotesForm<'a>,
    },
    Void {
        payment: Uuid,
    },
    Reverse {
        transaction: Uuid,
        part: PartForm<'a>,
        force: bool,
        notes: NotesForm<'a>,
    },
    Cancel {
        transaction: Uuid,
    },
    ChangeAccount {
        code: &'a str,
        change: UpdateForm<'a>,
    },
    /// As the event would stand in the log that sets it.
    SetRule {
        type_name: &'a str,
        #[serde(borrow)]
        payload: Cow<'a, str>,
    },
    RemoveRule(RuleKeyForm<'a>),
    ClosePeriod {
        before_us: i64,
    },
    /// The sequencer's own: nobody may forward it.
    Settle,
}

/// A limit that may be stated, and stated to be none.
type StatedForm = Option<Option<i128>>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct NotesForm<'a> {
    reference: Option<&'a str>,
    description: Option<&'a str>,
    metadata: Option<&'a str>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum PartForm<'a> {
    Rest,
    Amount(i128),
    Legs(SmallVec<[LegForm<'a>; 2]>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum UpdateForm<'a> {
    Update { limits: [StatedForm; 2], metadata: Option<Option<&'a str>> },
    Freeze(FreezeForm<'a>),
    Unfreeze { reason: &'a str },
    Close { reason: Option<&'a str> },
    Reopen { reason: Option<&'a str> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct FreezeForm<'a> {
    scope: &'a str,
    reason: &'a str,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum RuleKeyForm<'a> {
    AccountType(&'a str),
    VelocityLimit(&'a str),
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
    terms: Option<Box<TermsForm<'a>>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct TermsForm<'a> {
    hold: Option<ExpiryForm>,
    rates: Vec<RateForm<'a>>,
    of: Option<Uuid>,
    force: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum ExpiryForm {
    Never,
    AtUs(i64),
    InS(u32),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct RateForm<'a> {
    from: &'a str,
    to: &'a str,
    rate: &'a str,
    remainder: Option<&'a str>,
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
    Authorised {
        transaction: PostedForm<'a>,
        expires_at_us: Option<i64>,
    },
    /// As it stands in the log.
    AsLogged {
        type_name: &'a str,
        schema_version: i16,
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
    more: Option<Box<MoreForm<'a>>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct MoreForm<'a> {
    origin: Option<OriginForm>,
    rates: Vec<RateForm<'a>>,
    usage: Vec<UsageForm>,
}

#[derive(Debug, Serialize, Deserialize)]
enum OriginForm {
    Capture { id: Uuid, position: Position, remaining: i128, captured: i128 },
    Reversal { transaction: Uuid, remaining: SmallVec<[i128; 2]>, forced: bool },
    Schedule { position: Position },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct UsageForm {
    leg: u16,
    limit: Position,
    bucket: i64,
    since: i64,
    count: u32,
    amount: i128,
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
    closed: bool,
    freeze: Option<FreezeForm<'a>>,
    limits: LimitsForm,
    metadata: Option<&'a str>,
    changed: Position,
    opened_at_us: i64,
    totals: [i128; 4],
    version: u64,
    position: Position,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum RefusalForm<'a> {
    Invalid { place: PlaceForm<'a>, rule: &'a str },
    SameAccount(&'a str),
    AccountNotFound(Vec<(usize, &'a str)>),
    AssetNotFound(&'a str),
    AssetMismatch { leg: usize, account: &'a str, account_asset: &'a str, asset: &'a str },
    AccountAlreadyExists(Box<AccountForm<'a>>),
    AssetAlreadyExists { code: &'a str, scale: u8 },
    TransactionNotFound(Uuid),
    NotAHold(Uuid),
    NotReversible(Uuid),
    NotScheduled(Uuid),
    TooManyWaiting,
    LimitsConflict { account: &'a str, limit: &'a str, balance: i128 },
    AccountState { account: &'a str, state: &'a str },
    RuleNotFound(RuleKeyForm<'a>),
    TooManyRules,
    PeriodAlreadyClosed { before_us: i64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
enum PlaceForm<'a> {
    Whole,
    Field(&'a str),
    Leg(usize, &'a str),
    Rate(usize, Option<&'a str>),
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
                limits: [*min_balance, *max_balance].map(stated_form),
                metadata: metadata.as_deref(),
            }
        }
        Command::Transact(request) => CommandForm::Transact(TransactionForm {
            kind: request.kind.as_str(),
            legs: request.legs.iter().map(leg_form).collect(),
            reference: request.reference.as_deref(),
            description: request.description.as_deref(),
            metadata: request.metadata.as_deref(),
            effective_at_us: request.effective_at.map(|at| at.timestamp_micros()),
            terms: request.terms.as_deref().map(terms_form).map(Box::new),
        }),
        Command::Capture(Capture { payment, amount, last, notes }) => CommandForm::Capture {
            payment: *payment,
            amount: amount.map(Amount::get),
            last: *last,
            notes: notes_form(notes),
        },
        Command::Void(Void { payment }) => CommandForm::Void { payment: *payment },
        Command::Reverse(Reverse { transaction, part, force, notes }) => CommandForm::Reverse {
            transaction: *transaction,
            part: match part {
                Part::Rest => PartForm::Rest,
                Part::Amount(amount) => PartForm::Amount(amount.get()),
                Part::Legs(legs) => PartForm::Legs(legs.iter().map(leg_form).collect()),
            },
            force: *force,
            notes: notes_form(notes),
        },
        Command::Cancel(Cancel { transaction }) => CommandForm::Cancel { transaction: *transaction },
        Command::ChangeAccount(ChangeAccount { code, change }) => {
            CommandForm::ChangeAccount { code: code.as_str(), change: update_form(change) }
        }
        Command::SetRule(rule) => {
            let set = Fact::RuleSet(rule.clone());
            let mut text = String::new();
            payload::write(&set, &mut text);
            CommandForm::SetRule { type_name: set.type_name(), payload: Cow::Owned(text) }
        }
        Command::RemoveRule(key) => CommandForm::RemoveRule(rule_key_form(key)),
        Command::ClosePeriod { before } => CommandForm::ClosePeriod { before_us: before.timestamp_micros() },
        Command::Settle(_) => CommandForm::Settle,
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
        CommandForm::Transact(form) => Command::Transact(TransactionRequest {
            kind: kind(form.kind)?,
            legs: legs(form.legs)?,
            reference: form.reference.map(Arc::from),
            description: form.description.map(Arc::from),
            metadata: form.metadata.map(Arc::from),
            effective_at: form.effective_at_us.map(time).transpose()?,
            terms: form.terms.map(|form| terms(*form).map(Box::new)).transpose()?,
        }),
        CommandForm::Capture { payment, amount: part, last, notes: form } => {
            Command::Capture(Capture { payment, amount: part.map(amount).transpose()?, last, notes: notes(&form) })
        }
        CommandForm::Void { payment } => Command::Void(Void { payment }),
        CommandForm::Reverse { transaction, part, force, notes: form } => Command::Reverse(Reverse {
            transaction,
            part: match part {
                PartForm::Rest => Part::Rest,
                PartForm::Amount(each) => Part::Amount(amount(each)?),
                PartForm::Legs(forms) => Part::Legs(legs(forms)?),
            },
            force,
            notes: notes(&form),
        }),
        CommandForm::Cancel { transaction } => Command::Cancel(Cancel { transaction }),
        CommandForm::ChangeAccount { code, change } => {
            Command::ChangeAccount(ChangeAccount { code: account_code(code)?, change: update(change)? })
        }
        CommandForm::SetRule { type_name, payload } => match payload::read(type_name, 1, 0, &payload) {
            Ok(Fact::RuleSet(rule)) => Command::SetRule(rule),
            _ => return Err(Malformed("rule")),
        },
        CommandForm::RemoveRule(key) => Command::RemoveRule(rule_key(&key)),
        CommandForm::ClosePeriod { before_us } => Command::ClosePeriod { before: time(before_us)? },
        CommandForm::Settle => return Err(Malformed("command")),
    })
}

fn leg_form(leg: &LegRequest) -> LegForm<'_> {
    LegForm {
        account: leg.account.as_str(),
        debit: leg.side == Side::Debit,
        amount: leg.amount.get(),
        asset: leg.asset.as_str(),
    }
}

fn legs(forms: SmallVec<[LegForm<'_>; 2]>) -> Result<SmallVec<[LegRequest; 2]>, Malformed> {
    let leg = |leg: LegForm<'_>| {
        Ok(LegRequest {
            account: account_code(leg.account)?,
            side: side(leg.debit),
            amount: amount(leg.amount)?,
            asset: asset_code(leg.asset)?,
        })
    };
    forms.into_iter().map(leg).collect()
}

fn terms_form(terms: &Terms) -> TermsForm<'_> {
    let Terms { hold, rates, of, force } = terms;
    let hold = hold.map(|expiry| match expiry {
        Expiry::Never => ExpiryForm::Never,
        Expiry::At(at) => ExpiryForm::AtUs(at.timestamp_micros()),
        Expiry::In(seconds) => ExpiryForm::InS(seconds),
    });
    TermsForm { hold, rates: rates_form(rates), of: *of, force: *force }
}

fn terms(form: TermsForm<'_>) -> Result<Terms, Malformed> {
    let expiry = |expiry| {
        Ok(match expiry {
            ExpiryForm::Never => Expiry::Never,
            ExpiryForm::AtUs(at) => Expiry::At(time(at)?),
            ExpiryForm::InS(seconds) => Expiry::In(seconds),
        })
    };
    Ok(Terms { hold: form.hold.map(expiry).transpose()?, rates: rates(&form.rates)?, of: form.of, force: form.force })
}

fn rates_form(rates: &[Rate]) -> Vec<RateForm<'_>> {
    rates
        .iter()
        .map(|Rate { from, to, rate, remainder }| RateForm {
            from: from.as_str(),
            to: to.as_str(),
            rate,
            remainder: remainder.as_deref(),
        })
        .collect()
}

fn rates(forms: &[RateForm<'_>]) -> Result<Vec<Rate>, Malformed> {
    let rate = |form: &RateForm<'_>| {
        Ok(Rate {
            from: asset_code(form.from)?,
            to: asset_code(form.to)?,
            rate: form.rate.into(),
            remainder: form.remainder.map(Arc::from),
        })
    };
    forms.iter().map(rate).collect()
}

fn notes_form(notes: &Notes) -> NotesForm<'_> {
    NotesForm {
        reference: notes.reference.as_deref(),
        description: notes.description.as_deref(),
        metadata: notes.metadata.as_deref(),
    }
}

fn notes(form: &NotesForm<'_>) -> Notes {
    Notes {
        reference: form.reference.map(Arc::from),
        description: form.description.map(Arc::from),
        metadata: form.metadata.map(Arc::from),
    }
}

fn update_form(update: &AccountUpdate) -> UpdateForm<'_> {
    match update {
        AccountUpdate::Update { min_balance, max_balance, metadata } => UpdateForm::Update {
            limits: [*min_balance, *max_balance].map(stated_form),
            metadata: metadata.as_ref().map(Option::as_deref),
        },
        AccountUpdate::Freeze(freeze) => UpdateForm::Freeze(freeze_form(freeze)),
        AccountUpdate::Unfreeze { reason } => UpdateForm::Unfreeze { reason },
        AccountUpdate::Close { reason } => UpdateForm::Close { reason: reason.as_deref() },
        AccountUpdate::Reopen { reason } => UpdateForm::Reopen { reason: reason.as_deref() },
    }
}

fn update(form: UpdateForm<'_>) -> Result<AccountUpdate, Malformed> {
    Ok(match form {
        UpdateForm::Update { limits, metadata } => AccountUpdate::Update {
            min_balance: stated(limits[0])?,
            max_balance: stated(limits[1])?,
            metadata: metadata.map(|json| json.map(Arc::from)),
        },
        UpdateForm::Freeze(form) => AccountUpdate::Freeze(freeze(&form)?),
        UpdateForm::Unfreeze { reason } => AccountUpdate::Unfreeze { reason: reason.into() },
        UpdateForm::Close { reason } => AccountUpdate::Close { reason: reason.map(Arc::from) },
        UpdateForm::Reopen { reason } => AccountUpdate::Reopen { reason: reason.map(Arc::from) },
    })
}

fn freeze_form(freeze: &Freeze) -> FreezeForm<'_> {
    FreezeForm { scope: freeze.scope.as_str(), reason: &freeze.reason }
}

fn freeze(form: &FreezeForm<'_>) -> Result<Freeze, Malformed> {
    let scope = FreezeScope::parse(form.scope).ok_or(Malformed("freeze"))?;
    Ok(Freeze { scope, reason: form.reason.into() })
}

fn rule_key_form(key: &RuleKey) -> RuleKeyForm<'_> {
    match key {
        RuleKey::AccountType(prefix) => RuleKeyForm::AccountType(prefix),
        RuleKey::VelocityLimit(name) => RuleKeyForm::VelocityLimit(name),
    }
}

fn rule_key(form: &RuleKeyForm<'_>) -> RuleKey {
    match *form {
        RuleKeyForm::AccountType(prefix) => RuleKey::AccountType(prefix.into()),
        RuleKeyForm::VelocityLimit(name) => RuleKey::VelocityLimit(name.into()),
    }
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
            Fact::TransactionAuthorised(Authorisation { transaction, expires_at }) => FactForm::Authorised {
                transaction: posted_form(transaction),
                expires_at_us: expires_at.map(|at| at.timestamp_micros()),
            },
            other => {
                let mut text = String::with_capacity(320);
                payload::write(other, &mut text);
                FactForm::AsLogged {
                    type_name: other.type_name(),
                    schema_version: payload::schema_version(other),
                    payload: Cow::Owned(text),
                }
            }
        },
    }
}

fn event(form: EventForm<'_>) -> Result<Event, Malformed> {
    let fact = match form.fact {
        FactForm::Posted(transaction) => Fact::TransactionPosted(posted(transaction, form.position)?),
        FactForm::Authorised { transaction, expires_at_us } => Fact::TransactionAuthorised(Authorisation {
            transaction: posted(transaction, form.position)?,
            expires_at: expires_at_us.map(time).transpose()?,
        }),
        FactForm::AsLogged { type_name, schema_version, payload } => {
            payload::read(type_name, schema_version, form.position, &payload).map_err(|_| Malformed("event"))?
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
        more: transaction.more.as_deref().map(more_form).map(Box::new),
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
        kind: kind(form.kind)?,
        legs: form.legs.iter().map(leg).collect::<Result<_, Malformed>>()?,
        reference: form.reference.map(Arc::from),
        description: form.description.map(Arc::from),
        metadata: form.metadata.map(Arc::from),
        more: form.more.map(|form| more(*form).map(Box::new)).transpose()?,
    })
}

fn more_form(more: &More) -> MoreForm<'_> {
    let More { origin, rates, usage } = more;
    let usage_form = |usage: &Usage| UsageForm {
        leg: usage.leg,
        limit: usage.counted.limit,
        bucket: usage.counted.bucket,
        since: usage.counted.since,
        count: usage.counted.count,
        amount: usage.counted.amount.get(),
    };
    MoreForm {
        origin: origin.as_ref().map(|origin| match origin {
            Origin::Capture { hold: HoldRef { id, position }, remaining, captured } => OriginForm::Capture {
                id: *id,
                position: *position,
                remaining: remaining.get(),
                captured: captured.get(),
            },
            Origin::Reversal { transaction, remaining, forced } => OriginForm::Reversal {
                transaction: *transaction,
                remaining: remaining.iter().map(|amount| amount.get()).collect(),
                forced: *forced,
            },
            Origin::Schedule { position } => OriginForm::Schedule { position: *position },
        }),
        rates: rates_form(rates),
        usage: usage.iter().map(usage_form).collect(),
    }
}

fn more(form: MoreForm<'_>) -> Result<More, Malformed> {
    let origin = |origin| {
        Ok(match origin {
            OriginForm::Capture { id, position, remaining, captured } => Origin::Capture {
                hold: HoldRef { id, position },
                remaining: amount(remaining)?,
                captured: amount(captured)?,
            },
            OriginForm::Reversal { transaction, remaining, forced } => Origin::Reversal {
                transaction,
                remaining: remaining.into_iter().map(amount).collect::<Result<_, Malformed>>()?,
                forced,
            },
            OriginForm::Schedule { position } => Origin::Schedule { position },
        })
    };
    let usage = |form: UsageForm| {
        let UsageForm { leg, limit, bucket, since, count, amount: sum } = form;
        Ok(Usage { leg, counted: Counted { limit, bucket, since, count, amount: amount(sum)? } })
    };
    Ok(More {
        origin: form.origin.map(origin).transpose()?,
        rates: rates(&form.rates)?,
        usage: form.usage.into_iter().map(usage).collect::<Result<_, Malformed>>()?,
    })
}

fn stated_form(stated: Option<Option<Amount>>) -> StatedForm {
    stated.map(|bound| bound.map(Amount::get))
}

fn stated(bound: StatedForm) -> Result<Option<Option<Amount>>, Malformed> {
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
    let Account { attributes, balance, .. } = account;
    AccountForm {
        id: account.id,
        code: account.code.as_str(),
        asset: account.asset.as_str(),
        debit: account.normal == Side::Debit,
        closed: attributes.closed,
        freeze: attributes.freeze.as_ref().map(freeze_form),
        limits: limits_form(attributes.limits),
        metadata: attributes.metadata.as_deref(),
        changed: account.changed,
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
        attributes: Attributes {
            closed: form.closed,
            freeze: form.freeze.as_ref().map(freeze).transpose()?,
            limits: limits(&form.limits)?,
            metadata: form.metadata.map(Arc::from),
        },
        changed: form.changed,
        opened_at: time(form.opened_at_us)?,
        balance: balance(form.totals, form.version, form.position)?,
    })
}

fn refusal_form(refusal: &Refusal) -> RefusalForm<'_> {
    match refusal {
        Refusal::Invalid { place, rule } => RefusalForm::Invalid { place: place_form(*place), rule },
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
        Refusal::TransactionNotFound(id) => RefusalForm::TransactionNotFound(*id),
        Refusal::NotAHold(id) => RefusalForm::NotAHold(*id),
        Refusal::NotReversible(id) => RefusalForm::NotReversible(*id),
        Refusal::NotScheduled(id) => RefusalForm::NotScheduled(*id),
        Refusal::TooManyWaiting => RefusalForm::TooManyWaiting,
        Refusal::LimitsConflict { account, limit, balance } => {
            RefusalForm::LimitsConflict { account: account.as_str(), limit, balance: balance.get() }
        }
        Refusal::AccountState { account, state } => RefusalForm::AccountState { account: account.as_str(), state },
        Refusal::RuleNotFound(key) => RefusalForm::RuleNotFound(rule_key_form(key)),
        Refusal::TooManyRules => RefusalForm::TooManyRules,
        Refusal::PeriodAlreadyClosed(before) => {
            RefusalForm::PeriodAlreadyClosed { before_us: before.timestamp_micros() }
        }
    }
}

fn refusal(form: RefusalForm<'_>) -> Result<Refusal, Malformed> {
    Ok(match form {
        RefusalForm::Invalid { place: at, rule } => {
            Refusal::Invalid { place: place(at)?, rule: rule.to_owned().into() }
        }
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
        RefusalForm::TransactionNotFound(id) => Refusal::TransactionNotFound(id),
        RefusalForm::NotAHold(id) => Refusal::NotAHold(id),
        RefusalForm::NotReversible(id) => Refusal::NotReversible(id),
        RefusalForm::NotScheduled(id) => Refusal::NotScheduled(id),
        RefusalForm::TooManyWaiting => Refusal::TooManyWaiting,
        RefusalForm::LimitsConflict { account, limit, balance } => Refusal::LimitsConflict {
            account: account_code(account)?,
            limit: one_of(["min_balance", "max_balance"], limit)?,
            balance: amount(balance)?,
        },
        RefusalForm::AccountState { account, state } => {
            Refusal::AccountState { account: account_code(account)?, state: one_of(["closed", "not_empty"], state)? }
        }
        RefusalForm::RuleNotFound(key) => Refusal::RuleNotFound(rule_key(&key)),
        RefusalForm::TooManyRules => Refusal::TooManyRules,
        RefusalForm::PeriodAlreadyClosed { before_us } => Refusal::PeriodAlreadyClosed(time(before_us)?),
    })
}

const fn place_form(place: Place) -> PlaceForm<'static> {
    match place {
        Place::Whole => PlaceForm::Whole,
        Place::Field(field) => PlaceForm::Field(field.as_str()),
        Place::Leg(leg, field) => PlaceForm::Leg(leg, field.as_str()),
        Place::Rate(rate, None) => PlaceForm::Rate(rate, None),
        Place::Rate(rate, Some(field)) => PlaceForm::Rate(rate, Some(field.as_str())),
    }
}

fn place(form: PlaceForm<'_>) -> Result<Place, Malformed> {
    Ok(match form {
        PlaceForm::Whole => Place::Whole,
        PlaceForm::Field(text) => Place::Field(field(text)?),
        PlaceForm::Leg(leg, text) => Place::Leg(leg, field(text)?),
        PlaceForm::Rate(rate, text) => Place::Rate(rate, text.map(field).transpose()?),
    })
}

fn field(text: &str) -> Result<Field, Malformed> {
    Field::parse(text).ok_or(Malformed("field"))
}

/// The core's own text for one that came over the wire.
fn one_of<const N: usize>(texts: [&'static str; N], text: &str) -> Result<&'static str, Malformed> {
    texts.into_iter().find(|known| *known == text).ok_or(Malformed("text"))
}

fn kind(text: &str) -> Result<Kind, Malformed> {
    Kind::parse(text).ok_or(Malformed("kind"))
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
    use crate::ledger::{
        AccountChanged, AccountType, Cancelled, Change, Direction, HoldState, RejectedTransaction, Rejection, Release,
        ReleaseReason, Rule, Scheduled, Scope, VelocityLimit, Window,
    };

    const LARGEST: i128 = 10_i128.pow(38) - 1;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(u128::MAX - number)
    }

    fn code(text: &str) -> AccountCode {
        account_code(text).unwrap()
    }

    fn text(text: &str) -> Option<Arc<str>> {
        Some(text.into())
    }

    fn at(micros: i64) -> DateTime<Utc> {
        time(micros).unwrap()
    }

    fn leg(account: &str, debit: bool, amount_: i128, asset: &str) -> Leg {
        Leg {
            account: code(account),
            account_id: u64::MAX,
            normal: side(!debit),
            side: side(debit),
            amount: amount(amount_).unwrap(),
            asset: asset_code(asset).unwrap(),
            after: balance([amount_, 2, 3, 0], 9, 77).unwrap(),
        }
    }

    fn transaction(more: Option<More>) -> Transaction {
        Transaction {
            kind: if more.is_some() { Kind::Transaction } else { Kind::Payment },
            legs: [leg("a", true, LARGEST, "EUR"), leg("b", false, LARGEST, "EUR"), leg("c", true, 1, "USD")]
                .into_iter()
                .collect(),
            reference: text("é\"\\"),
            description: None,
            metadata: text(r#"{"a":1}"#),
            more: more.map(Box::new),
        }
    }

    fn rate() -> Rate {
        Rate {
            from: asset_code("EUR").unwrap(),
            to: asset_code("USD").unwrap(),
            rate: "1.0815".into(),
            remainder: text("-0.25"),
        }
    }

    fn usage() -> Usage {
        Usage { leg: 1, counted: Counted { limit: 12, bucket: -60, since: -3600, count: 3, amount: Amount::MAX } }
    }

    fn hold() -> HoldRef {
        HoldRef { id: id(1), position: 70 }
    }

    fn request(terms: Option<Terms>) -> TransactionRequest {
        TransactionRequest {
            legs: asked("a", "b"),
            reference: text("r"),
            description: text("d"),
            metadata: text("{\"m\":null}"),
            terms: terms.map(Box::new),
            ..TransactionRequest::payment(code("a"), code("b"), Amount::MAX, asset_code("EUR").unwrap())
        }
    }

    fn asked(from: &str, to: &str) -> SmallVec<[LegRequest; 2]> {
        TransactionRequest::payment(code(from), code(to), Amount::from(7), asset_code("EUR").unwrap()).legs
    }

    fn rejected(reason: Rejection) -> RejectedTransaction {
        RejectedTransaction {
            request: request(None),
            account_ids: [3, 4].into_iter().collect(),
            reason,
            scheduled: None,
        }
    }

    fn notes() -> Notes {
        Notes { reference: text("r"), description: text("ü"), metadata: text(r#"{"a":1}"#) }
    }

    fn attributes() -> Attributes {
        Attributes {
            closed: true,
            freeze: Some(Freeze { scope: FreezeScope::Debits, reason: "court \"order\"".into() }),
            limits: Limits { min_balance: amount(-5).ok(), max_balance: Some(Amount::MAX) },
            metadata: text(r#"{"a":1}"#),
        }
    }

    fn account_() -> Account {
        Account {
            id: 3,
            code: code("a"),
            asset: asset_code("EUR").unwrap(),
            normal: Side::Debit,
            attributes: attributes(),
            opened_at: at(1_700_000_000_000_001),
            balance: balance([LARGEST, 2, 3, 4], 9, 77).unwrap(),
            changed: 79,
        }
    }

    fn rules() -> [Rule; 3] {
        let limit = |scope, window| VelocityLimit {
            name: "a \"b\"".into(),
            scope,
            asset: asset_code("EUR").ok(),
            direction: Direction::Out,
            window,
            count_max: Some(3),
            amount_max: Some(Amount::MAX),
        };
        let (account, prefix) = (Scope::Account("a".into()), Scope::Prefix("a:".into()));
        // The core is to say what is wrong with a limit that bounds nothing.
        let unbounded = VelocityLimit {
            count_max: None,
            amount_max: None,
            asset: None,
            ..limit(prefix, Window::Rolling { seconds: 60 })
        };
        [
            Rule::AccountType(AccountType { prefix: "é:".into(), normal: Side::Debit, limits: attributes().limits }),
            Rule::VelocityLimit(limit(account, Window::Day { zone: chrono_tz::Europe::Berlin })),
            Rule::VelocityLimit(unbounded),
        ]
    }

    fn event_of(fact: Fact) -> Event {
        Event {
            position: 77,
            recorded_at: at(1_700_000_000_000_001),
            effective_at: at(-1),
            transaction_id: Some(id(0)),
            idempotency_key: text("k"),
            fact,
        }
    }

    /// One of each at least, and every rejection.
    fn facts() -> Vec<Fact> {
        let moved = |origin| {
            Fact::TransactionPosted(transaction(Some(More { origin, rates: vec![rate()], usage: vec![usage()] })))
        };
        let released = |reason| {
            Fact::HoldReleased(Release { hold: hold(), reason, legs: transaction(None).legs, captured: Amount::MAX })
        };
        let scheduled = TransactionRequest {
            effective_at: Some(at(1_800_000_000_000_001)),
            ..request(Some(Terms { rates: vec![rate()], ..Terms::default() }))
        };
        let declined = RejectedTransaction {
            request: request(Some(Terms {
                hold: Some(Expiry::In(60)),
                rates: vec![rate()],
                of: Some(id(3)),
                force: true,
            })),
            scheduled: Some(8),
            ..rejected(Rejection::AccountClosed { account: code("a") })
        };
        let (capture, reversal) = (
            Origin::Capture { hold: hold(), remaining: Amount::ZERO, captured: Amount::MAX },
            Origin::Reversal {
                transaction: id(2),
                remaining: [Amount::ZERO, Amount::MAX, Amount::from(1)].into_iter().collect(),
                forced: true,
            },
        );
        let mut facts = vec![
            Fact::AssetDefined { code: asset_code("X").unwrap(), scale: 3 },
            Fact::AccountOpened {
                code: code("a"),
                asset: asset_code("EUR").unwrap(),
                normal: Side::Debit,
                limits: Limits { min_balance: None, max_balance: amount(-LARGEST).ok() },
                metadata: None,
            },
            Fact::TransactionPosted(transaction(None)),
            moved(None),
            moved(Some(capture)),
            moved(Some(reversal)),
            moved(Some(Origin::Schedule { position: 5 })),
            Fact::TransactionAuthorised(Authorisation { transaction: transaction(None), expires_at: Some(at(1)) }),
            Fact::TransactionAuthorised(Authorisation {
                transaction: transaction(Some(More { usage: vec![usage()], ..More::default() })),
                expires_at: None,
            }),
            released(ReleaseReason::Voided),
            released(ReleaseReason::Expired),
            Fact::TransactionScheduled(Scheduled { request: scheduled, account_ids: [3, 4].into_iter().collect() }),
            Fact::ScheduleCancelled(Cancelled { transaction: id(4), position: 6, account: code("a"), account_id: 3 }),
            Fact::BatchRejected { item: 9, rejected: declined.clone() },
            Fact::TransactionRejected(declined),
            Fact::RuleRemoved(RuleKey::AccountType("é".into())),
            Fact::RuleRemoved(RuleKey::VelocityLimit("a b".into())),
            Fact::PeriodClosed { before: at(1) },
        ];
        facts.extend(rejections().map(|reason| Fact::TransactionRejected(rejected(reason))));
        facts.extend(rules().map(Fact::RuleSet));
        facts.extend(Change::ALL.map(|change| {
            let (account, after) = (code("a"), attributes());
            Fact::AccountChanged(AccountChanged { account, account_id: 3, change, after, reason: text("why") })
        }));
        facts
    }

    fn rejections() -> [Rejection; 10] {
        let (account, some) = (code("a"), Amount::from(7));
        let all = [
            Rejection::HoldNotOpen { account: account.clone(), state: HoldState::Expired },
            Rejection::CaptureExceedsHold { account: account.clone(), remaining: some },
            Rejection::ReversalExceedsTransaction { account: account.clone(), remaining: Amount::ZERO },
            Rejection::PeriodClosed { account: account.clone(), before: at(1) },
            Rejection::AccountClosed { account: account.clone() },
            Rejection::AccountFrozen { account: account.clone() },
            Rejection::VelocityLimitExceeded { account: account.clone(), limit: "é".into(), passes_at: Some(at(-1)) },
            Rejection::VelocityLimitExceeded { account: account.clone(), limit: "a".into(), passes_at: None },
            Rejection::InsufficientFunds {
                account: account.clone(),
                available: some,
                would_be: Amount::MIN,
                min_balance: Amount::ZERO,
            },
            Rejection::BalanceLimitExceeded { account, would_be: Amount::MAX, max_balance: some },
        ];
        // One that is new here has to be in the list above.
        let number = |reason: &Rejection| match reason {
            Rejection::HoldNotOpen { .. } => 0,
            Rejection::CaptureExceedsHold { .. } => 1,
            Rejection::ReversalExceedsTransaction { .. } => 2,
            Rejection::PeriodClosed { .. } => 3,
            Rejection::AccountClosed { .. } => 4,
            Rejection::AccountFrozen { .. } => 5,
            Rejection::VelocityLimitExceeded { .. } => 6,
            Rejection::InsufficientFunds { .. } => 7,
            Rejection::BalanceLimitExceeded { .. } => 8,
        };
        assert!((0..=8).all(|wanted| all.iter().any(|reason| number(reason) == wanted)));
        all
    }

    fn refusals() -> Vec<Refusal> {
        let account = code("a");
        let mut all = vec![
            Refusal::SameAccount(account.clone()),
            Refusal::AccountNotFound([(0, account.clone()), (255, code("b"))].into_iter().collect()),
            Refusal::AssetNotFound(asset_code("X").unwrap()),
            Refusal::AssetMismatch {
                leg: 1,
                account: account.clone(),
                account_asset: asset_code("EUR").unwrap(),
                asset: asset_code("USD").unwrap(),
            },
            Refusal::AccountAlreadyExists(Box::new(account_())),
            Refusal::AssetAlreadyExists { code: asset_code("X").unwrap(), scale: 37 },
            Refusal::TransactionNotFound(id(1)),
            Refusal::NotAHold(id(2)),
            Refusal::NotReversible(id(3)),
            Refusal::NotScheduled(id(4)),
            Refusal::TooManyWaiting,
            Refusal::LimitsConflict { account: account.clone(), limit: "min_balance", balance: Amount::MIN },
            Refusal::LimitsConflict { account: account.clone(), limit: "max_balance", balance: Amount::MAX },
            Refusal::AccountState { account: account.clone(), state: "closed" },
            Refusal::AccountState { account, state: "not_empty" },
            Refusal::RuleNotFound(RuleKey::AccountType("a:".into())),
            Refusal::RuleNotFound(RuleKey::VelocityLimit("é".into())),
            Refusal::TooManyRules,
            Refusal::PeriodAlreadyClosed(at(-1)),
        ];
        let places =
            [Place::Whole, Place::Leg(255, Field::Asset), Place::Rate(0, None), Place::Rate(15, Some(Field::To))];
        let places = places.into_iter().chain(Field::ALL.map(Place::Field));
        all.extend(places.map(|place| Refusal::Invalid { place, rule: "é".into() }));
        // As above.
        let number = |refusal: &Refusal| match refusal {
            Refusal::Invalid { .. } => 0,
            Refusal::SameAccount(_) => 1,
            Refusal::AccountNotFound(_) => 2,
            Refusal::AssetNotFound(_) => 3,
            Refusal::AssetMismatch { .. } => 4,
            Refusal::AccountAlreadyExists(_) => 5,
            Refusal::AssetAlreadyExists { .. } => 6,
            Refusal::TransactionNotFound(_) => 7,
            Refusal::NotAHold(_) => 8,
            Refusal::NotReversible(_) => 9,
            Refusal::NotScheduled(_) => 10,
            Refusal::TooManyWaiting => 11,
            Refusal::LimitsConflict { .. } => 12,
            Refusal::AccountState { .. } => 13,
            Refusal::RuleNotFound(_) => 14,
            Refusal::TooManyRules => 15,
            Refusal::PeriodAlreadyClosed(_) => 16,
        };
        assert!((0..=16).all(|wanted| all.iter().any(|refusal| number(refusal) == wanted)));
        all
    }

    fn commands() -> Vec<Command> {
        let terms = |hold| Terms { hold, rates: vec![rate()], of: Some(id(1)), force: true };
        let holds = [None, Some(Expiry::Never), Some(Expiry::At(at(5))), Some(Expiry::In(u32::MAX))];
        let change = |change| Command::ChangeAccount(ChangeAccount { code: code("a"), change });
        let update =
            |min_balance, max_balance, metadata| change(AccountUpdate::Update { min_balance, max_balance, metadata });
        let open = |normal, min_balance, max_balance| {
            let (code, asset) = (code("a"), asset_code("EUR").unwrap());
            Command::OpenAccount(OpenAccount { code, asset, normal, min_balance, max_balance, metadata: text("{}") })
        };
        let capture =
            |amount, last| Command::Capture(Capture { payment: id(1), amount, last, notes: Notes::default() });
        let reverse = |part, force| Command::Reverse(Reverse { transaction: id(2), part, force, notes: notes() });
        let mut all = vec![
            Command::DefineAsset { code: asset_code("X").unwrap(), scale: 3 },
            open(None, None, None),
            open(Some(Side::Debit), Some(None), Some(Some(Amount::MAX))),
            Command::Transact(request(None)),
            Command::Transact(TransactionRequest { effective_at: Some(at(-1)), ..request(None) }),
            capture(None, false),
            capture(Some(Amount::MAX), true),
            Command::Void(Void { payment: id(1) }),
            reverse(Part::Rest, false),
            reverse(Part::Amount(Amount::from(1)), true),
            reverse(Part::Legs(asked("b", "a")), false),
            Command::Cancel(Cancel { transaction: id(3) }),
            update(None, None, None),
            update(Some(None), Some(Some(Amount::MIN)), Some(None)),
            update(Some(Some(Amount::ZERO)), Some(None), Some(text("{\"a\":1}"))),
            change(AccountUpdate::Unfreeze { reason: "é".into() }),
            change(AccountUpdate::Close { reason: None }),
            change(AccountUpdate::Close { reason: text("gone") }),
            change(AccountUpdate::Reopen { reason: None }),
            change(AccountUpdate::Reopen { reason: text("back") }),
            Command::RemoveRule(RuleKey::AccountType("a:".into())),
            Command::RemoveRule(RuleKey::VelocityLimit("é".into())),
            Command::ClosePeriod { before: at(-1) },
        ];
        all.extend(holds.map(|hold| Command::Transact(request(Some(terms(hold))))));
        all.extend(FreezeScope::ALL.map(|scope| change(AccountUpdate::Freeze(Freeze { scope, reason: "é".into() }))));
        all.extend(rules().map(Command::SetRule));
        // As above; the sequencer's own is not for others.
        let number = |command: &Command| match command {
            Command::DefineAsset { .. } => 0,
            Command::OpenAccount(_) => 1,
            Command::Transact(_) => 2,
            Command::Capture(_) => 3,
            Command::Void(_) => 4,
            Command::Reverse(_) => 5,
            Command::Cancel(_) => 6,
            Command::ChangeAccount(_) => 7,
            Command::SetRule(_) => 8,
            Command::RemoveRule(_) => 9,
            Command::ClosePeriod { .. } => 10,
            Command::Settle(_) => usize::MAX,
        };
        assert!((0..=10).all(|wanted| all.iter().any(|command| number(command) == wanted)));
        all
    }

    /// Every event comes out as it went in: what a follower projects is what the log says.
    #[test]
    fn the_log_survives_the_way() {
        let events: Vec<Event> = facts().into_iter().map(event_of).collect();
        let frame = postcard::to_stdvec(&LogPage { to: 77, events: events.iter().map(ToLog).collect() }).unwrap();
        let page: LogPage<LoggedEvent> = postcard::from_bytes(&frame).unwrap();
        let read: Result<Vec<_>, _> = page.events.into_iter().map(|event| event.0).collect();
        assert_eq!(read.unwrap(), events);
        // What is cut short is refused, not half-read.
        assert!(postcard::from_bytes::<LogPage<LoggedEvent>>(&frame[..frame.len() - 1]).is_err());
    }

    fn sent(work: &Work) -> Result<Work, Malformed> {
        let frame = postcard::to_stdvec(&ToSubmit { wait_ms: 5, work }).unwrap();
        let read: Submitted = postcard::from_bytes(&frame).unwrap();
        assert_eq!(read.wait_ms, 5);
        read.work
    }

    /// What another worker decides is what the client asked this one for.
    #[test]
    fn every_command_survives_the_way() {
        let key = || Key { text: "k".into(), hash: [1; 16], fingerprint: [2; 16] };
        let item = |command| Item { command, key: Some(key()) };
        let each = Work::Each(commands().into_iter().map(item).collect());
        assert_eq!(format!("{:?}", sent(&each).unwrap()), format!("{each:?}"));
        let atomic = Work::Atomic { commands: commands(), key: key() };
        assert_eq!(format!("{:?}", sent(&atomic).unwrap()), format!("{atomic:?}"));
    }

    #[test]
    fn nobody_may_have_another_settle() {
        let settle = Item { command: Command::Settle(id(1)), key: None };
        assert!(sent(&Work::Each([settle].into_iter().collect())).is_err());
    }

    /// What a client is told does not depend on the worker that it asked.
    #[test]
    fn every_answer_survives_the_way() {
        let known = || Some(Box::new(account_()));
        let mut outcomes = vec![
            Outcome::Unchanged(None),
            Outcome::Unchanged(known()),
            Outcome::KeyUsed,
            Outcome::Account(None),
            Outcome::Account(known()),
            Outcome::Head,
        ];
        outcomes.extend(refusals().into_iter().enumerate().map(|(item, refusal)| Outcome::Refused { item, refusal }));
        let events: Vec<Event> = facts().into_iter().map(event_of).collect();
        outcomes.extend((0..events.len()).map(|index| Outcome::Recorded { index, count: 1 }));
        let answer = Answer { outcomes: outcomes.into(), batch: Arc::new(Batch { events }), position: 99 };
        let frame = postcard::to_stdvec(&ToAnswer(&answer)).unwrap();
        let read: Answered = postcard::from_bytes(&frame).unwrap();
        assert_eq!(format!("{:?}", read.0.unwrap()), format!("{answer:?}"));
    }
}
