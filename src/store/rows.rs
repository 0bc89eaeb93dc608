//! Rows of the projections, and their form in a binary COPY.
//!
//! A rebuild sends this form and a verification compares it: PostgreSQL's
//! `COPY … TO STDOUT (FORMAT binary)` of the same columns gives the same bytes,
//! since each of the types has one binary form only.
//! Source: PostgreSQL's manual, COPY, "Binary Format".

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::numeric::write_binary;
use super::{LedgerId, Shard};
use crate::ledger::{
    AccountCode, AccountId, AccountStatus, Amount, AssetCode, Attributes, Balance, HoldState, Limits, Position, Side,
};

/// What a binary COPY begins with: the signature, no flags, no extension.
pub const COPY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with: a row of -1 columns.
pub const COPY_TRAILER: [u8; 2] = [0xff, 0xff];

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
const EPOCH_2000_US: i64 = 946_684_800_000_000;
/// The version byte before the text of a `jsonb`.
pub(super) const JSONB_VERSION: u8 = 1;

/// The tables that are folded from the log, in the order in which every
/// statement of ours mentions them, and so locks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Accounts,
    Balances,
    Entries,
    Rejections,
    Backdated,
    TransactionMetadata,
    Holds,
    ScheduledTransactions,
    TransactionAccounts,
    VelocityUsage,
    BackdatedDays,
}

impl Table {
    pub const ALL: [Self; 11] = [
        Self::Accounts,
        Self::Balances,
        Self::Entries,
        Self::Rejections,
        Self::Backdated,
        Self::TransactionMetadata,
        Self::Holds,
        Self::ScheduledTransactions,
        Self::TransactionAccounts,
        Self::VelocityUsage,
        Self::BackdatedDays,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Balances => "balances",
            Self::Entries => "entries",
            Self::Rejections => "rejections",
            Self::Backdated => "backdated",
            Self::BackdatedDays => "backdated_days",
            Self::TransactionMetadata => "transaction_metadata",
            Self::Holds => "holds",
            Self::ScheduledTransactions => "scheduled_transactions",
            Self::TransactionAccounts => "transaction_accounts",
            Self::VelocityUsage => "velocity_usage",
        }
    }

    /// The columns, in the order in which the rows below write them.
    pub const fn columns(self) -> &'static str {
        match self {
            Self::Accounts => {
                "shard, ledger_id, account_id, code, asset, normal_side, min_balance, max_balance, status, metadata, \
                 opened_at, freeze_scope, freeze_reason"
            }
            Self::Balances => {
                "shard, ledger_id, account_id, debits_posted, credits_posted, debits_pending, credits_pending, \
                 version, previous_version, position"
            }
            Self::Entries => {
                "shard, ledger_id, account_id, version, position, leg, transaction_id, side, amount, balance_after, \
                 reference, effective_at, recorded_at"
            }
            Self::Rejections => {
                "shard, ledger_id, account_id, position, leg, transaction_id, reason, reference, effective_at, recorded_at"
            }
            Self::Backdated => {
                "shard, ledger_id, account_id, version, side, amount, effective_at, recorded_at, debits_after, credits_after"
            }
            Self::BackdatedDays => "shard, ledger_id, account_id, day, debits, credits",
            Self::TransactionMetadata => "shard, ledger_id, account_id, position, key, value",
            Self::Holds => {
                "shard, ledger_id, account_id, position, transaction_id, from_account, to_account, to_account_id, asset, \
                 amount, remaining, captured, state, expires_at, reference, authorised_at, changed_position, changed_at"
            }
            Self::ScheduledTransactions => {
                "shard, ledger_id, account_id, position, transaction_id, state, effective_at, reference, recorded_at, \
                 changed_position, changed_at"
            }
            Self::TransactionAccounts => "shard, ledger_id, account_id, position",
            Self::VelocityUsage => "shard, ledger_id, account_id, limit_position, bucket, count, amount",
        }
    }
}

/// Whose row it is: the first three columns of every table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub shard: Shard,
    pub ledger_id: LedgerId,
    pub account_id: AccountId,
}

impl Owner {
    /// Reads the owner of an encoded row, without its frame of header or trailer.
    pub fn of(row: &[u8]) -> Option<Self> {
        let shard = i16::from_be_bytes(row.get(6..8)?.try_into().ok()?);
        let ledger_id = i32::from_be_bytes(row.get(12..16)?.try_into().ok()?);
        let account_id = i64::from_be_bytes(row.get(20..28)?.try_into().ok()?);
        Some(Self { shard, ledger_id, account_id: account_id as AccountId })
    }

    fn write(self, columns: i16, out: &mut Vec<u8>) {
        out.extend_from_slice(&columns.to_be_bytes());
        field(out, &self.shard.to_be_bytes());
        field(out, &self.ledger_id.to_be_bytes());
        field(out, &self.account_id.to_be_bytes());
    }
}

/// A row of `accounts` as the account was opened.
#[derive(Clone, Copy, Debug)]
pub struct AccountRow<'a> {
    pub owner: Owner,
    pub code: &'a str,
    pub asset: &'a str,
    pub normal: Side,
    pub limits: Limits,
    pub metadata: Option<&'a str>,
    pub opened_at: DateTime<Utc>,
}

impl AccountRow<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(13, out);
        field(out, self.code.as_bytes());
        field(out, self.asset.as_bytes());
        field(out, self.normal.as_str().as_bytes());
        limits(out, &self.limits);
        field(out, AccountStatus::Open.as_str().as_bytes());
        json_or_null(out, self.metadata);
        time(out, self.opened_at);
        null(out);
        null(out);
    }
}

/// The columns of `accounts` that may change.
pub const ATTRIBUTE_COLUMNS: &str =
    "shard, ledger_id, account_id, min_balance, max_balance, status, metadata, freeze_scope, freeze_reason";

/// Those of one account.
#[derive(Clone, Copy, Debug)]
pub struct AttributesRow<'a> {
    pub owner: Owner,
    pub attributes: &'a Attributes,
}

impl AttributesRow<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(9, out);
        let Attributes { limits: bounds, metadata, freeze, .. } = self.attributes;
        limits(out, bounds);
        field(out, self.attributes.status().as_str().as_bytes());
        json_or_null(out, metadata.as_deref());
        text_or_null(out, freeze.as_ref().map(|freeze| freeze.scope.as_str()));
        text_or_null(out, freeze.as_ref().map(|freeze| &*freeze.reason));
    }
}

/// A row of `balances`.
#[derive(Clone, Copy, Debug)]
pub struct BalanceRow {
    pub owner: Owner,
    pub balance: Balance,
}

impl BalanceRow {
    /// As if one flush had written it, from the account's beginning.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(10, out);
        let Balance { debits_posted, credits_posted, debits_pending, credits_pending, version, position } =
            self.balance;
        for total in [debits_posted, credits_posted, debits_pending, credits_pending] {
            amount(out, total);
        }
        for number in [version, 0, position] {
            field(out, &number.to_be_bytes());
        }
    }
}

/// A row of `entries`.
#[derive(Clone, Copy, Debug)]
pub struct EntryRow<'a> {
    pub owner: Owner,
    pub version: u64,
    pub position: Position,
    pub leg: i16,
    pub transaction_id: Uuid,
    pub side: &'a str,
    pub amount: Amount,
    pub balance_after: Amount,
    pub reference: Option<&'a str>,
    pub effective_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
}

impl EntryRow<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(13, out);
        field(out, &self.version.to_be_bytes());
        field(out, &self.position.to_be_bytes());
        field(out, &self.leg.to_be_bytes());
        field(out, self.transaction_id.as_bytes());
        field(out, self.side.as_bytes());
        amount(out, self.amount);
        amount(out, self.balance_after);
        text_or_null(out, self.reference);
        time(out, self.effective_at);
        time(out, self.recorded_at);
    }
}

impl fmt::Display for EntryRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, version, position, leg, transaction_id, side, amount, balance_after, .. } = self;
        write!(
            f,
            "line {version} (shard {}, position {position}, leg {leg}, transaction {transaction_id}): \
             {side} {amount}, balance after {balance_after}, reference {:?}, effective at {:?}, recorded at {:?}",
            owner.shard, self.reference, self.effective_at, self.recorded_at
        )
    }
}

/// A row of `rejections`.
#[derive(Clone, Copy, Debug)]
pub struct RejectionRow<'a> {
    pub owner: Owner,
    pub position: Position,
    pub leg: i16,
    pub transaction_id: Uuid,
    pub reason: &'a str,
    pub reference: Option<&'a str>,
    pub effective_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
}

impl RejectionRow<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(10, out);
        field(out, &self.position.to_be_bytes());
        field(out, &self.leg.to_be_bytes());
        field(out, self.transaction_id.as_bytes());
        field(out, self.reason.as_bytes());
        text_or_null(out, self.reference);
        time(out, self.effective_at);
        time(out, self.recorded_at);
    }
}

impl fmt::Display for RejectionRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, position, leg, transaction_id, reason, .. } = self;
        write!(
            f,
            "rejection at position {position} (shard {}, leg {leg}, transaction {transaction_id}): \
             {reason}, reference {:?}, effective at {:?}, recorded at {:?}",
            owner.shard, self.reference, self.effective_at, self.recorded_at
        )
    }
}

/// A row of `backdated`: a leg that is effective at another time than it was
/// recorded at, and none of the account's first entries.
#[derive(Clone, Copy, Debug)]
pub struct BackdatedRow<'a> {
    pub owner: Owner,
    pub version: u64,
    pub side: &'a str,
    pub amount: Amount,
    pub effective_at: DateTime<Utc>,
    pub recorded_at: DateTime<Utc>,
    /// Sums of the account's legs of this kind, up to and with this one.
    pub debits_after: Amount,
    pub credits_after: Amount,
}

impl BackdatedRow<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(10, out);
        field(out, &self.version.to_be_bytes());
        field(out, self.side.as_bytes());
        amount(out, self.amount);
        time(out, self.effective_at);
        time(out, self.recorded_at);
        amount(out, self.debits_after);
        amount(out, self.credits_after);
    }
}

impl fmt::Display for BackdatedRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, version, side, amount, debits_after, credits_after, .. } = self;
        write!(
            f,
            "back-dated line {version} (shard {}): {side} {amount}, debits {debits_after} and credits {credits_after} \
             so far, effective at {:?}, recorded at {:?}",
            owner.shard, self.effective_at, self.recorded_at
        )
    }
}

/// A row of `transaction_metadata`. Its owner is the account of the first leg.
#[derive(Clone, Copy, Debug)]
pub struct MetadataRow<'a> {
    pub owner: Owner,
    pub position: Position,
    pub key: &'a str,
    pub value: &'a str,
}

impl MetadataRow<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(6, out);
        field(out, &self.position.to_be_bytes());
        field(out, self.key.as_bytes());
        field(out, self.value.as_bytes());
    }
}

impl fmt::Display for MetadataRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, position, key, value } = self;
        write!(f, "member {key:?} with the value {value:?} at position {position} (shard {})", owner.shard)
    }
}

/// A row of `holds`. Its owner is the account that is debited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    pub owner: Owner,
    pub position: Position,
    pub transaction_id: Uuid,
    pub from: AccountCode,
    pub to: AccountCode,
    pub to_account_id: AccountId,
    pub asset: AssetCode,
    pub amount: Amount,
    pub remaining: Amount,
    pub captured: Amount,
    pub state: HoldState,
    pub expires_at: Option<DateTime<Utc>>,
    pub reference: Option<Arc<str>>,
    pub authorised_at: DateTime<Utc>,
    pub changed_position: Position,
    pub changed_at: DateTime<Utc>,
}

impl HoldRow {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(18, out);
        field(out, &self.position.to_be_bytes());
        field(out, self.transaction_id.as_bytes());
        field(out, self.from.as_str().as_bytes());
        field(out, self.to.as_str().as_bytes());
        field(out, &self.to_account_id.to_be_bytes());
        field(out, self.asset.as_str().as_bytes());
        for part in [self.amount, self.remaining, self.captured] {
            amount(out, part);
        }
        field(out, self.state.as_str().as_bytes());
        time_or_null(out, self.expires_at);
        text_or_null(out, self.reference.as_deref());
        time(out, self.authorised_at);
        field(out, &self.changed_position.to_be_bytes());
        time(out, self.changed_at);
    }
}

impl fmt::Display for HoldRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, position, transaction_id, from, to, to_account_id, asset, .. } = self;
        let Self { amount, remaining, captured, state, changed_position, .. } = self;
        write!(
            f,
            "hold at position {position} (shard {}, transaction {transaction_id}): {amount} {asset} from {from} to {to} \
             (number {to_account_id}), {}, remaining {remaining}, captured {captured}, expires at {:?}, reference {:?}, \
             authorised at {:?}, changed at position {changed_position} at {:?}",
            owner.shard,
            state.as_str(),
            self.expires_at,
            self.reference,
            self.authorised_at,
            self.changed_at
        )
    }
}

/// What has become of a scheduled transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleState {
    Scheduled,
    Posted,
    Rejected,
    Cancelled,
}

impl ScheduleState {
    pub const ALL: [Self; 4] = [Self::Scheduled, Self::Posted, Self::Rejected, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Posted => "posted",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A row of `scheduled_transactions`. Its owner is the account of the first leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRow {
    pub owner: Owner,
    pub position: Position,
    pub transaction_id: Uuid,
    pub state: ScheduleState,
    pub effective_at: DateTime<Utc>,
    pub reference: Option<Arc<str>>,
    pub recorded_at: DateTime<Utc>,
    pub changed_position: Position,
    pub changed_at: DateTime<Utc>,
}

impl ScheduleRow {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(11, out);
        field(out, &self.position.to_be_bytes());
        field(out, self.transaction_id.as_bytes());
        field(out, self.state.as_str().as_bytes());
        time(out, self.effective_at);
        text_or_null(out, self.reference.as_deref());
        time(out, self.recorded_at);
        field(out, &self.changed_position.to_be_bytes());
        time(out, self.changed_at);
    }
}

impl fmt::Display for ScheduleRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, position, transaction_id, state, changed_position, .. } = self;
        write!(
            f,
            "transaction scheduled at position {position} (shard {}, transaction {transaction_id}): {}, effective at \
             {:?}, reference {:?}, recorded at {:?}, changed at position {changed_position} at {:?}",
            owner.shard,
            state.as_str(),
            self.effective_at,
            self.reference,
            self.recorded_at,
            self.changed_at
        )
    }
}

/// A row of `transaction_accounts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountOfRow {
    pub owner: Owner,
    pub position: Position,
}

impl AccountOfRow {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(4, out);
        field(out, &self.position.to_be_bytes());
    }
}

impl fmt::Display for AccountOfRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transaction at position {} (shard {})", self.position, self.owner.shard)
    }
}

/// A row of `velocity_usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageRow {
    pub owner: Owner,
    /// Position of the event that set the limit.
    pub limit: Position,
    pub bucket: i64,
    pub count: u32,
    pub amount: Amount,
}

impl UsageRow {
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.owner.write(7, out);
        field(out, &self.limit.to_be_bytes());
        field(out, &self.bucket.to_be_bytes());
        field(out, &self.count.to_be_bytes());
        amount(out, self.amount);
    }
}

impl fmt::Display for UsageRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, limit, bucket, count, amount } = self;
        write!(
            f,
            "usage of the limit set at position {limit} in the bucket {bucket} (shard {}): {count} legs, {amount} in all",
            owner.shard
        )
    }
}

pub(super) fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}

pub(super) fn text_or_null(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => field(out, text.as_bytes()),
        None => null(out),
    }
}

fn time_or_null(out: &mut Vec<u8>, at: Option<DateTime<Utc>>) {
    match at {
        Some(at) => time(out, at),
        None => null(out),
    }
}

fn json_or_null(out: &mut Vec<u8>, json: Option<&str>) {
    match json {
        Some(json) => sized(out, |out| {
            out.push(JSONB_VERSION);
            out.extend_from_slice(json.as_bytes());
        }),
        None => null(out),
    }
}

fn limits(out: &mut Vec<u8>, limits: &Limits) {
    for bound in [limits.min_balance, limits.max_balance] {
        match bound {
            Some(bound) => amount(out, bound),
            None => null(out),
        }
    }
}

pub(super) fn time(out: &mut Vec<u8>, at: DateTime<Utc>) {
    field(out, &(at.timestamp_micros() - EPOCH_2000_US).to_be_bytes());
}

fn amount(out: &mut Vec<u8>, amount: Amount) {
    sized(out, |out| write_binary(amount, out));
}

/// A field whose length is known when it is written.
pub(super) fn sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}
