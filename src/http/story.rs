//! A transaction as `GET` shows it: what its events have made of it.
//!
//! One that was authorised or scheduled has more than one event under its id, and
//! captures and reversals have ids of their own and name it. [`told`] puts the story
//! together; [`listed`] does so for lists, which leave the others out.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::problem::Problem;
use super::recorded::{CapturedHold, RateOutput, ReversedTransaction, reversed};
use super::wire::{AmountText, Metadata, Timestamp};
use crate::ledger::{
    Amount, Event, Fact, HoldState, Kind, Leg, LegRequest, Origin, Position, Rate, RejectedTransaction, Rejection,
    Side, Transaction,
};
use crate::store::story::Story;

/// What became of a transaction.
pub const TRANSACTION_STATUSES: [&str; 8] =
    ["posted", "rejected", "authorised", "captured", "voided", "expired", "scheduled", "cancelled"];

/// A transaction with all its legs.
#[derive(Debug, Serialize)]
pub struct TransactionOutput {
    pub id: Uuid,
    pub r#type: &'static str,
    pub status: &'static str,
    /// Code of the rule that declined it; null otherwise.
    pub reason: Option<&'static str>,
    /// What there is to say of that; left out otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<RejectionOutput>,
    pub legs: Vec<LegOutput>,
    pub reference: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub metadata: Metadata,
    pub idempotency_key: Option<Arc<str>>,
    pub position: Position,
    pub recorded_at: Timestamp,
    pub effective_at: Timestamp,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<RateOutput>,
    #[serde(flatten)]
    pub hold: Option<HoldOutput>,
    /// Of a capture, or an attempt to capture or void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<PaymentLink>,
    /// Of a reversal, or an attempt at one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverses: Option<ReversalLink>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captures: Option<Vec<LinkOutput>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reversals: Option<Vec<LinkOutput>>,
    /// Where there is more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventLink>,
}

#[derive(Debug, Serialize)]
pub struct LegOutput {
    pub account: String,
    pub side: &'static str,
    pub amount: AmountText,
    pub asset: String,
    /// The account's posted balance after the leg; null when it posted nothing.
    pub balance_after: Option<AmountText>,
    pub version: Option<u64>,
    /// What is left to reverse, where something has been reversed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reversible: Option<AmountText>,
}

/// Why a transaction was declined: what the problem says that its request was answered
/// with, and what nobody was told of one that was declined when it came due.
#[derive(Debug, Serialize)]
pub struct RejectionOutput {
    detail: String,
    account: String,
    /// The velocity limit, and when the same would have passed, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passes_at: Option<Timestamp>,
    /// Index of the item at fault, from 0, of a batch that was declined as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<usize>,
}

impl RejectionOutput {
    fn new(rejected: &RejectedTransaction, item: Option<usize>, event: &Event) -> Self {
        let (limit, passes_at) = match &rejected.reason {
            Rejection::VelocityLimitExceeded { limit, passes_at, .. } => (Some(Arc::clone(limit)), *passes_at),
            _ => (None, None),
        };
        Self {
            detail: Problem::rejected(rejected, event.transaction_id, event.position).detail,
            account: rejected.reason.account().to_string(),
            limit,
            passes_at: passes_at.map(Timestamp),
            item,
        }
    }
}

/// What a hold has come to.
#[derive(Debug, Serialize)]
pub struct HoldOutput {
    captured: AmountText,
    remaining: AmountText,
    expires_at: Option<Timestamp>,
}

/// The payment that a capture or a void is of, with what the capture left of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum PaymentLink {
    Captured(CapturedHold),
    Asked { id: Uuid },
}

/// The transaction that a reversal is of, with what the reversal left of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ReversalLink {
    Reversed(ReversedTransaction),
    Asked { id: Uuid },
}

/// A capture or a reversal, of the transaction that it is about.
#[derive(Debug, Serialize)]
pub struct LinkOutput {
    id: Uuid,
    /// Of what has two legs; null otherwise.
    amount: Option<AmountText>,
    position: Position,
    recorded_at: Timestamp,
}

/// An event of the transaction itself.
#[derive(Debug, Serialize)]
pub struct EventLink {
    r#type: &'static str,
    position: Position,
    recorded_at: Timestamp,
}

impl TransactionOutput {
    /// What one event says of its transaction. `None` when it says nothing of one,
    /// or only that something ended.
    pub fn new(event: &Event) -> Option<Self> {
        match &event.fact {
            Fact::TransactionPosted(transaction) => Self::of(event, transaction, "posted"),
            Fact::TransactionAuthorised(hold) => {
                let output = Self::of(event, &hold.transaction, HoldState::Authorised.as_str())?;
                let remaining = hold.transaction.legs.first()?.amount;
                let hold = HoldOutput {
                    captured: AmountText(Amount::ZERO),
                    remaining: AmountText(remaining),
                    expires_at: hold.expires_at.map(Timestamp),
                };
                Some(Self { hold: Some(hold), ..output })
            }
            Fact::TransactionScheduled(scheduled) => {
                let request = &scheduled.request;
                Some(Self {
                    status: "scheduled",
                    rates: request.rates().iter().map(RateOutput::from).collect(),
                    ..Self::asked(event, request)?
                })
            }
            Fact::TransactionRejected(rejected) => Self::rejected(event, rejected, None),
            Fact::BatchRejected { item, rejected } => Self::rejected(event, rejected, Some(*item)),
            _ => None,
        }
    }

    fn of(event: &Event, transaction: &Transaction, status: &'static str) -> Option<Self> {
        let (reverses, forced) = reversed(transaction).unzip();
        let rates: &[Rate] = transaction.more.as_ref().map_or(&[], |more| &more.rates);
        let has_posted = status == "posted";
        let leg = |leg: &Leg| LegOutput {
            account: leg.account.to_string(),
            side: leg.side.as_str(),
            amount: AmountText(leg.amount),
            asset: leg.asset.to_string(),
            balance_after: has_posted.then(|| AmountText(leg.after.posted(leg.normal))),
            version: has_posted.then_some(leg.after.version),
            reversible: None,
        };
        Some(Self {
            id: event.transaction_id?,
            r#type: transaction.kind.as_str(),
            status,
            reason: None,
            rejection: None,
            legs: transaction.legs.iter().map(leg).collect(),
            reference: transaction.reference.clone(),
            description: transaction.description.clone(),
            metadata: Metadata(transaction.metadata.clone()),
            idempotency_key: event.idempotency_key.clone(),
            position: event.position,
            recorded_at: Timestamp(event.recorded_at),
            effective_at: Timestamp(event.effective_at),
            rates: rates.iter().map(RateOutput::from).collect(),
            hold: None,
            payment: CapturedHold::of(transaction).map(PaymentLink::Captured),
            reverses: reverses.map(ReversalLink::Reversed),
            forced,
            captures: None,
            reversals: None,
            events: Vec::new(),
        })
    }

    fn rejected(event: &Event, rejected: &RejectedTransaction, item: Option<usize>) -> Option<Self> {
        let request = &rejected.request;
        let (of, force) = request.terms.as_ref().map_or((None, false), |terms| (terms.of, terms.force));
        let (mut payment, mut reverses) = (None, None);
        match request.kind {
            Kind::Capture | Kind::Void => payment = of.map(|id| PaymentLink::Asked { id }),
            Kind::Reversal => reverses = of.map(|id| ReversalLink::Asked { id }),
            Kind::Payment | Kind::Transaction | Kind::Cancellation => {}
        }
        Some(Self {
            status: "rejected",
            reason: Some(rejected.reason.code()),
            rejection: Some(RejectionOutput::new(rejected, item, event)),
            rates: request.rates().iter().map(RateOutput::from).collect(),
            payment,
            forced: reverses.is_some().then_some(force),
            reverses,
            ..Self::asked(event, request)?
        })
    }

    fn asked(event: &Event, request: &crate::ledger::TransactionRequest) -> Option<Self> {
        let leg = |leg: &LegRequest| LegOutput {
            account: leg.account.to_string(),
            side: leg.side.as_str(),
            amount: AmountText(leg.amount),
            asset: leg.asset.to_string(),
            balance_after: None,
            version: None,
            reversible: None,
        };
        Some(Self {
            id: event.transaction_id?,
            r#type: request.kind.as_str(),
            status: "rejected",
            reason: None,
            rejection: None,
            legs: request.legs.iter().map(leg).collect(),
            reference: request.reference.clone(),
            description: request.description.clone(),
            metadata: Metadata(request.metadata.clone()),
            idempotency_key: event.idempotency_key.clone(),
            position: event.position,
            recorded_at: Timestamp(event.recorded_at),
            effective_at: Timestamp(event.effective_at),
            rates: Vec::new(),
            hold: None,
            payment: None,
            reverses: None,
            forced: None,
            captures: None,
            reversals: None,
            events: Vec::new(),
        })
    }
}

/// A transaction and all that has become of it; `None` when there is none.
pub fn told(story: &Story) -> Option<TransactionOutput> {
    let (first, later) = story.own.split_first()?;
    let mut output = TransactionOutput::new(first)?;
    for event in later {
        match &event.fact {
            Fact::HoldReleased(release) => output.status = HoldState::from(release.reason).as_str(),
            Fact::ScheduleCancelled(_) => output.status = "cancelled",
            // It was scheduled: its legs are those that were posted, its place that at which it was scheduled.
            _ => {
                let decided = TransactionOutput::new(event)?;
                (output.status, output.reason) = (decided.status, decided.reason);
                (output.rejection, output.legs) = (decided.rejection, decided.legs);
            }
        }
    }
    follow_hold(&mut output, story);
    follow_reversals(&mut output, story);
    if !later.is_empty() {
        let link = |event: &Event| EventLink {
            r#type: event.fact.type_name(),
            position: event.position,
            recorded_at: Timestamp(event.recorded_at),
        };
        output.events = story.own.iter().map(link).collect();
    }
    Some(output)
}

/// A transaction as lists show it, from its first event and the last one about it:
/// without its other events, and without the captures and reversals that name it.
pub fn listed(first: Event, last: Option<Event>) -> Option<TransactionOutput> {
    let Some(last) = last else { return TransactionOutput::new(&first) };
    let mut story = Story { own: vec![first], ..Story::default() };
    if last.transaction_id == story.own[0].transaction_id {
        story.own.push(last);
    } else {
        story.latest = Some(last);
    }
    let output = told(&story)?;
    Some(TransactionOutput { captures: None, reversals: None, events: Vec::new(), ..output })
}

/// What captures and the end of a hold have left of it.
fn follow_hold(output: &mut TransactionOutput, story: &Story) {
    let Some(hold) = &mut output.hold else { return };
    for event in story.own.iter().chain(&story.latest) {
        match &event.fact {
            Fact::HoldReleased(release) => {
                (hold.captured, hold.remaining) = (AmountText(release.captured), AmountText(Amount::ZERO));
            }
            Fact::TransactionPosted(transaction) => {
                // The latest capture; a hold that was released afterwards has nothing more.
                let Some(Origin::Capture { remaining, captured, .. }) = origin(transaction) else { continue };
                hold.captured = AmountText(*captured);
                if output.status == HoldState::Authorised.as_str() {
                    hold.remaining = AmountText(*remaining);
                    if remaining.is_zero() {
                        output.status = HoldState::Captured.as_str();
                    }
                }
            }
            _ => {}
        }
    }
    output.captures = Some(story.linked.iter().filter_map(link).collect());
}

/// What reversals have left of each leg.
fn follow_reversals(output: &mut TransactionOutput, story: &Story) {
    if output.status != "posted" {
        return;
    }
    let latest = story.latest.iter().find_map(|event| match &event.fact {
        Fact::TransactionPosted(transaction) => match origin(transaction)? {
            Origin::Reversal { remaining, .. } => Some(remaining),
            _ => None,
        },
        _ => None,
    });
    let Some(remaining) = latest else { return };
    for (leg, remaining) in output.legs.iter_mut().zip(remaining) {
        leg.reversible = Some(AmountText(*remaining));
    }
    output.reversals = Some(story.linked.iter().filter_map(link).collect());
}

fn link(event: &Event) -> Option<LinkOutput> {
    let Fact::TransactionPosted(transaction) = &event.fact else { return None };
    let amount = match transaction.legs.as_slice() {
        [first, second] if first.side != second.side => {
            let debit = if first.side == Side::Debit { first } else { second };
            Some(AmountText(debit.amount))
        }
        _ => None,
    };
    Some(LinkOutput {
        id: event.transaction_id?,
        amount,
        position: event.position,
        recorded_at: Timestamp(event.recorded_at),
    })
}

fn origin(transaction: &Transaction) -> Option<&Origin> {
    transaction.more.as_ref()?.origin.as_ref()
}
