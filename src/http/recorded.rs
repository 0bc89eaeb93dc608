//! What an event says to whoever asked for it: the answer of its key, for ever.
//!
//! Each answer is made of its event alone, so a replay has the body that the
//! first answer had.

use axum::http::StatusCode;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::wire::{AmountText, Metadata, Timestamp};
use crate::ledger::{
    AccountCode, Amount, AssetCode, Authorisation, Cancelled, Event, Fact, HoldState, Kind, Leg, LegRequest, Origin,
    Position, Rate, Release, Scheduled, Side, Transaction,
};

/// The answer that an event stands for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Recorded<'a> {
    Payment(PaymentOutput<'a>),
    Authorised(AuthorisedOutput<'a>),
    ScheduledPayment(ScheduledPaymentOutput<'a>),
    Capture(CaptureOutput<'a>),
    Void(VoidOutput<'a>),
    Transaction(LegsOutput<'a>),
    Cancelled(CancelledOutput),
}

impl<'a> Recorded<'a> {
    /// `None` when the event declined what was asked for, or is none that a client asks for.
    pub fn new(event: &'a Event) -> Option<Self> {
        match &event.fact {
            Fact::TransactionPosted(transaction) => match transaction.kind {
                Kind::Payment => PaymentOutput::new(event, transaction).map(Self::Payment),
                Kind::Capture => CaptureOutput::new(event, transaction).map(Self::Capture),
                _ => LegsOutput::posted(event, transaction).map(Self::Transaction),
            },
            Fact::TransactionAuthorised(hold) => AuthorisedOutput::new(event, hold).map(Self::Authorised),
            Fact::HoldReleased(release) => VoidOutput::new(event, release).map(Self::Void),
            Fact::TransactionScheduled(scheduled) => match scheduled.request.kind {
                Kind::Payment => ScheduledPaymentOutput::new(event, scheduled).map(Self::ScheduledPayment),
                _ => LegsOutput::scheduled(event, scheduled).map(Self::Transaction),
            },
            Fact::ScheduleCancelled(cancelled) => Some(Self::Cancelled(CancelledOutput::new(event, cancelled))),
            _ => None,
        }
    }

    /// 201 where there is a transaction that was not there before.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Void(_) | Self::Cancelled(_) => StatusCode::OK,
            _ => StatusCode::CREATED,
        }
    }
}

/// A posted payment.
#[derive(Debug, Serialize)]
pub struct PaymentOutput<'a> {
    id: Uuid,
    r#type: &'static str,
    status: &'static str,
    from: &'a str,
    to: &'a str,
    amount: AmountText,
    asset: &'a str,
    reference: Option<&'a str>,
    description: Option<&'a str>,
    metadata: Metadata,
    balances: BalancesAfter<'a>,
    position: Position,
    recorded_at: Timestamp,
    effective_at: Timestamp,
}

impl<'a> PaymentOutput<'a> {
    fn new(event: &'a Event, transaction: &'a Transaction) -> Option<Self> {
        let Between { from, to, amount, asset } = Between::of(&transaction.legs)?;
        Some(Self {
            id: event.transaction_id?,
            r#type: transaction.kind.as_str(),
            status: "posted",
            from,
            to,
            amount,
            asset,
            reference: transaction.reference.as_deref(),
            description: transaction.description.as_deref(),
            metadata: Metadata(transaction.metadata.clone()),
            balances: BalancesAfter(&transaction.legs),
            position: event.position,
            recorded_at: Timestamp(event.recorded_at),
            effective_at: Timestamp(event.effective_at),
        })
    }
}

/// The two accounts of a payment.
#[derive(Debug, Serialize)]
struct Between<'a> {
    from: &'a str,
    to: &'a str,
    amount: AmountText,
    asset: &'a str,
}

/// The parts of a leg that both asked and posted ones have.
trait AsLeg {
    fn parts(&self) -> (&AccountCode, Side, Amount, &AssetCode);
}

impl AsLeg for Leg {
    fn parts(&self) -> (&AccountCode, Side, Amount, &AssetCode) {
        (&self.account, self.side, self.amount, &self.asset)
    }
}

impl AsLeg for LegRequest {
    fn parts(&self) -> (&AccountCode, Side, Amount, &AssetCode) {
        (&self.account, self.side, self.amount, &self.asset)
    }
}

impl<'a> Between<'a> {
    /// `None` when there is no debit or no credit.
    fn of(legs: &'a [impl AsLeg]) -> Option<Self> {
        let leg = |wanted: Side| legs.iter().map(AsLeg::parts).find(move |(_, side, ..)| *side == wanted);
        let ((from, _, amount, asset), (to, ..)) = (leg(Side::Debit)?, leg(Side::Credit)?);
        Some(Self { from: from.as_str(), to: to.as_str(), amount: AmountText(amount), asset: asset.as_str() })
    }
}

/// What the client wrote beside the money.
#[derive(Debug, Serialize)]
struct NotesOutput<'a> {
    reference: Option<&'a str>,
    description: Option<&'a str>,
    metadata: Metadata,
}

impl<'a> NotesOutput<'a> {
    fn of(transaction: &'a Transaction) -> Self {
        Self {
            reference: transaction.reference.as_deref(),
            description: transaction.description.as_deref(),
            metadata: Metadata(transaction.metadata.clone()),
        }
    }

    fn asked(scheduled: &'a Scheduled) -> Self {
        let request = &scheduled.request;
        Self {
            reference: request.reference.as_deref(),
            description: request.description.as_deref(),
            metadata: Metadata(request.metadata.clone()),
        }
    }
}

/// Where the event is in the log and in time.
#[derive(Debug, Serialize)]
struct Place {
    position: Position,
    recorded_at: Timestamp,
    effective_at: Timestamp,
}

impl Place {
    const fn of(event: &Event) -> Self {
        Self {
            position: event.position,
            recorded_at: Timestamp(event.recorded_at),
            effective_at: Timestamp(event.effective_at),
        }
    }
}

/// The balances that a transaction left behind, by account.
#[derive(Debug)]
struct BalancesAfter<'a>(&'a [Leg]);

#[derive(Serialize)]
struct BalanceAfter {
    posted: AmountText,
    available: AmountText,
    version: u64,
}

impl Serialize for BalancesAfter<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for leg in last_legs(self.0) {
            let after = BalanceAfter {
                posted: AmountText(leg.after.posted(leg.normal)),
                available: AmountText(leg.after.available(leg.normal)),
                version: leg.after.version,
            };
            map.serialize_entry(leg.account.as_str(), &after)?;
        }
        map.end()
    }
}

/// The same with what is pending.
#[derive(Debug)]
struct FullBalancesAfter<'a>(&'a [Leg]);

#[derive(Serialize)]
struct FullBalanceAfter {
    posted: AmountText,
    pending_in: AmountText,
    pending_out: AmountText,
    available: AmountText,
    version: u64,
}

impl Serialize for FullBalancesAfter<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for leg in last_legs(self.0) {
            let after = FullBalanceAfter {
                posted: AmountText(leg.after.posted(leg.normal)),
                pending_in: AmountText(leg.after.pending_in(leg.normal)),
                pending_out: AmountText(leg.after.pending_out(leg.normal)),
                available: AmountText(leg.after.available(leg.normal)),
                version: leg.after.version,
            };
            map.serialize_entry(leg.account.as_str(), &after)?;
        }
        map.end()
    }
}

/// Of each account its last leg, which says what the whole left behind.
fn last_legs(legs: &[Leg]) -> impl Iterator<Item = &Leg> {
    let is_last = |index: usize| !legs[index + 1..].iter().any(|later| later.account_id == legs[index].account_id);
    legs.iter().enumerate().filter(move |(index, _)| is_last(*index)).map(|(_, leg)| leg)
}

/// A payment whose funds are reserved.
#[derive(Debug, Serialize)]
pub struct AuthorisedOutput<'a> {
    id: Uuid,
    r#type: &'static str,
    status: &'static str,
    #[serde(flatten)]
    between: Between<'a>,
    captured: AmountText,
    remaining: AmountText,
    expires_at: Option<Timestamp>,
    #[serde(flatten)]
    notes: NotesOutput<'a>,
    balances: FullBalancesAfter<'a>,
    #[serde(flatten)]
    place: Place,
}

impl<'a> AuthorisedOutput<'a> {
    fn new(event: &'a Event, hold: &'a Authorisation) -> Option<Self> {
        let transaction = &hold.transaction;
        let between = Between::of(&transaction.legs)?;
        Some(Self {
            id: event.transaction_id?,
            r#type: transaction.kind.as_str(),
            status: HoldState::Authorised.as_str(),
            captured: AmountText(Amount::ZERO),
            remaining: between.amount,
            between,
            expires_at: hold.expires_at.map(Timestamp),
            notes: NotesOutput::of(transaction),
            balances: FullBalancesAfter(&transaction.legs),
            place: Place::of(event),
        })
    }
}

/// A payment that will be decided at its `effective_at`.
#[derive(Debug, Serialize)]
pub struct ScheduledPaymentOutput<'a> {
    id: Uuid,
    r#type: &'static str,
    status: &'static str,
    #[serde(flatten)]
    between: Between<'a>,
    #[serde(flatten)]
    notes: NotesOutput<'a>,
    #[serde(flatten)]
    place: Place,
}

impl<'a> ScheduledPaymentOutput<'a> {
    fn new(event: &'a Event, scheduled: &'a Scheduled) -> Option<Self> {
        Some(Self {
            id: event.transaction_id?,
            r#type: scheduled.request.kind.as_str(),
            status: "scheduled",
            between: Between::of(&scheduled.request.legs)?,
            notes: NotesOutput::asked(scheduled),
            place: Place::of(event),
        })
    }
}

/// The hold of a capture, as the capture left it.
#[derive(Debug, Serialize)]
pub struct CapturedHold {
    id: Uuid,
    status: &'static str,
    captured: AmountText,
    remaining: AmountText,
}

impl CapturedHold {
    /// `None` for what is no capture.
    pub fn of(transaction: &Transaction) -> Option<Self> {
        let Origin::Capture { hold, remaining, captured } = origin(transaction)? else { return None };
        let state = if remaining.is_zero() { HoldState::Captured } else { HoldState::Authorised };
        Some(Self {
            id: hold.id,
            status: state.as_str(),
            captured: AmountText(*captured),
            remaining: AmountText(*remaining),
        })
    }
}

/// A part of a hold that was posted.
#[derive(Debug, Serialize)]
pub struct CaptureOutput<'a> {
    id: Uuid,
    r#type: &'static str,
    status: &'static str,
    payment: CapturedHold,
    #[serde(flatten)]
    between: Between<'a>,
    #[serde(flatten)]
    notes: NotesOutput<'a>,
    balances: FullBalancesAfter<'a>,
    #[serde(flatten)]
    place: Place,
}

impl<'a> CaptureOutput<'a> {
    fn new(event: &'a Event, transaction: &'a Transaction) -> Option<Self> {
        Some(Self {
            id: event.transaction_id?,
            r#type: transaction.kind.as_str(),
            status: "posted",
            payment: CapturedHold::of(transaction)?,
            between: Between::of(&transaction.legs)?,
            notes: NotesOutput::of(transaction),
            balances: FullBalancesAfter(&transaction.legs),
            place: Place::of(event),
        })
    }
}

/// A payment whose funds are reserved no longer.
#[derive(Debug, Serialize)]
pub struct VoidOutput<'a> {
    id: Uuid,
    r#type: &'static str,
    status: &'static str,
    #[serde(flatten)]
    between: Between<'a>,
    captured: AmountText,
    remaining: AmountText,
    released: AmountText,
    balances: FullBalancesAfter<'a>,
    position: Position,
    recorded_at: Timestamp,
}

impl<'a> VoidOutput<'a> {
    fn new(event: &'a Event, release: &'a Release) -> Option<Self> {
        let between = Between::of(&release.legs)?;
        let released = between.amount;
        // What was neither captured nor is released now was never part of it.
        let amount = AmountText(released.0.checked_add(release.captured)?);
        Some(Self {
            id: release.hold.id,
            r#type: Kind::Payment.as_str(),
            status: HoldState::from(release.reason).as_str(),
            between: Between { amount, ..between },
            captured: AmountText(release.captured),
            remaining: AmountText(Amount::ZERO),
            released,
            balances: FullBalancesAfter(&release.legs),
            position: event.position,
            recorded_at: Timestamp(event.recorded_at),
        })
    }
}

/// The transaction of a reversal, as the reversal left it.
#[derive(Debug, Serialize)]
pub struct ReversedTransaction {
    id: Uuid,
    /// Of each of its legs.
    remaining: Vec<AmountText>,
}

/// What a reversal says of the transaction that it is of, and whether it was
/// allowed to break a floor; `None` for what is no reversal.
pub fn reversed(transaction: &Transaction) -> Option<(ReversedTransaction, bool)> {
    let Origin::Reversal { transaction: id, remaining, forced } = origin(transaction)? else { return None };
    let remaining = remaining.iter().copied().map(AmountText).collect();
    Some((ReversedTransaction { id: *id, remaining }, *forced))
}

/// A transaction with its legs: one that a client wrote, or a reversal.
#[derive(Debug, Serialize)]
pub struct LegsOutput<'a> {
    id: Uuid,
    r#type: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reverses: Option<ReversedTransaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forced: Option<bool>,
    legs: Vec<LegAfter<'a>>,
    /// Of reversals there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    rates: Option<Vec<RateOutput>>,
    #[serde(flatten)]
    notes: NotesOutput<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balances: Option<FullBalancesAfter<'a>>,
    #[serde(flatten)]
    place: Place,
}

#[derive(Debug, Serialize)]
struct LegAfter<'a> {
    account: &'a str,
    side: &'static str,
    amount: AmountText,
    asset: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance_after: Option<AmountText>,
}

impl<'a> LegAfter<'a> {
    fn new(leg: &'a impl AsLeg, balance_after: Option<AmountText>) -> Self {
        let (account, side, amount, asset) = leg.parts();
        let (account, side, asset) = (account.as_str(), side.as_str(), asset.as_str());
        Self { account, side, amount: AmountText(amount), asset, balance_after }
    }
}

/// An exchange rate that the legs were checked against.
#[derive(Debug, Serialize)]
pub struct RateOutput {
    from: String,
    to: String,
    rate: String,
    remainder: String,
}

impl From<&Rate> for RateOutput {
    fn from(rate: &Rate) -> Self {
        Self {
            from: rate.from.to_string(),
            to: rate.to.to_string(),
            rate: rate.rate.as_ref().to_owned(),
            remainder: rate.remainder.as_deref().unwrap_or("0").to_owned(),
        }
    }
}

impl<'a> LegsOutput<'a> {
    fn posted(event: &'a Event, transaction: &'a Transaction) -> Option<Self> {
        let (reverses, forced) = reversed(transaction).unzip();
        let after = |leg: &'a Leg| LegAfter::new(leg, Some(AmountText(leg.after.posted(leg.normal))));
        let rates = transaction.more.as_ref().map_or(&[][..], |more| &more.rates);
        Some(Self {
            id: event.transaction_id?,
            r#type: transaction.kind.as_str(),
            status: "posted",
            rates: reverses.is_none().then(|| rates.iter().map(RateOutput::from).collect()),
            reverses,
            forced,
            legs: transaction.legs.iter().map(after).collect(),
            notes: NotesOutput::of(transaction),
            balances: Some(FullBalancesAfter(&transaction.legs)),
            place: Place::of(event),
        })
    }

    fn scheduled(event: &'a Event, scheduled: &'a Scheduled) -> Option<Self> {
        let request = &scheduled.request;
        Some(Self {
            id: event.transaction_id?,
            r#type: request.kind.as_str(),
            status: "scheduled",
            reverses: None,
            forced: None,
            legs: request.legs.iter().map(|leg| LegAfter::new(leg, None)).collect(),
            rates: Some(request.rates().iter().map(RateOutput::from).collect()),
            notes: NotesOutput::asked(scheduled),
            balances: None,
            place: Place::of(event),
        })
    }
}

/// A scheduled transaction that was withdrawn.
#[derive(Debug, Serialize)]
pub struct CancelledOutput {
    id: Uuid,
    status: &'static str,
    position: Position,
    recorded_at: Timestamp,
}

impl CancelledOutput {
    const fn new(event: &Event, cancelled: &Cancelled) -> Self {
        Self {
            id: cancelled.transaction,
            status: "cancelled",
            position: event.position,
            recorded_at: Timestamp(event.recorded_at),
        }
    }
}

fn origin(transaction: &Transaction) -> Option<&Origin> {
    transaction.more.as_ref()?.origin.as_ref()
}
