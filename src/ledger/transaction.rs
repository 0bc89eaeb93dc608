//! Transactions: legs whose debits equal credits, per asset.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use smallvec::SmallVec;
use uuid::Uuid;

use super::account::{AccountId, Balance};
use super::amount::Amount;
use super::event::Position;
use super::name::{AccountCode, AssetCode};
use super::rejection::Rejection;
use super::velocity::Counted;

/// Legs one transaction may have: enough for a payroll run or a split
/// settlement, few enough that one event stays one small row.
pub const LEGS_MAX: usize = 256;

/// Bytes of memory that a weight of 1 stands for: some 830 were measured of a scheduled
/// transaction of two legs without notes, 560 of a hold.
pub const WEIGHT_BYTES: usize = 800;
/// Bytes that each further leg of a scheduled transaction is taken for, its names
/// included: 150 to 230 were measured. A rate has as many texts as that.
pub const WEIGHT_LEG_BYTES: usize = 200;

/// The side of an account that a leg is written on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Debit,
    Credit,
}

impl Side {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debit => "debit",
            Self::Credit => "credit",
        }
    }

    pub const fn other(self) -> Self {
        match self {
            Self::Debit => Self::Credit,
            Self::Credit => Self::Debit,
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Debit, Self::Credit].into_iter().find(|s| s.as_str() == text)
    }
}

/// What a client meant with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Two legs: `from` is debited, `to` is credited.
    Payment,
    /// Legs as the client wrote them.
    Transaction,
    /// Posts funds that a hold has reserved.
    Capture,
    /// Gives the funds of a hold back. Never posts; a declined one is recorded.
    Void,
    /// Takes back what a transaction has posted, or a part of it.
    Reversal,
    /// Withdraws a scheduled transaction. Never posts; a declined one is recorded.
    Cancellation,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Payment, Self::Transaction, Self::Capture, Self::Void, Self::Reversal, Self::Cancellation];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Transaction => "transaction",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Reversal => "reversal",
            Self::Cancellation => "cancellation",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// One leg as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegRequest {
    pub account: AccountCode,
    pub side: Side,
    /// More than zero, in the smallest unit of `asset`.
    pub amount: Amount,
    pub asset: AssetCode,
}

impl LegRequest {
    /// The same account on the other side.
    pub fn mirrored(&self, amount: Amount) -> Self {
        Self { side: self.side.other(), amount, ..self.clone() }
    }
}

/// A transaction as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRequest {
    pub kind: Kind,
    pub legs: SmallVec<[LegRequest; 2]>,
    pub reference: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    /// The client's own JSON object as it came, `None` for `{}`.
    pub metadata: Option<Arc<str>>,
    /// When it counts for the books; `None` is when it is recorded. In the future
    /// it is scheduled for that moment.
    pub effective_at: Option<DateTime<Utc>>,
    /// What few transactions ask for beside all that.
    pub terms: Option<Box<Terms>>,
}

/// The rarer wishes of a [`TransactionRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Only reserve the funds: to be captured or voided later. For payments only.
    pub hold: Option<Expiry>,
    /// Exchange rates that the legs are checked against.
    pub rates: Vec<Rate>,
    /// Of an attempt to capture, void, reverse or cancel: the transaction that it
    /// was about. Set by the core, in the record of a declined attempt only.
    pub of: Option<Uuid>,
    /// Of a declined reversal: whether it was allowed to break a floor.
    pub force: bool,
}

/// When a hold ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    Never,
    At(DateTime<Utc>),
    /// Seconds after it is recorded.
    In(u32),
}

/// An exchange rate that a transaction states and is checked against: the sum of
/// the debits in `from`, times `rate`, both counted in whole units, is the sum of
/// the debits in `to` plus `remainder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    pub from: AssetCode,
    pub to: AssetCode,
    /// Units of `to` for one unit of `from`: a plain decimal, more than zero.
    pub rate: Arc<str>,
    /// What rounding left over, in the smallest unit of `to`: a plain decimal
    /// between -1 and 1. `None` is nothing.
    pub remainder: Option<Arc<str>>,
}

impl TransactionRequest {
    pub fn hold(&self) -> Option<Expiry> {
        self.terms.as_ref().and_then(|terms| terms.hold)
    }

    pub fn rates(&self) -> &[Rate] {
        self.terms.as_ref().map_or(&[], |terms| &terms.rates)
    }

    /// What it weighs in memory while it is scheduled. Two legs without notes weigh 1,
    /// and so does each further [`WEIGHT_BYTES`] of what more there is: notes by their
    /// bytes, legs and rates at [`WEIGHT_LEG_BYTES`].
    pub fn weight(&self) -> usize {
        let notes = [&self.reference, &self.description, &self.metadata];
        let notes = notes.into_iter().flatten().fold(0_usize, |sum, note| sum.saturating_add(note.len()));
        let further = self.legs.len().saturating_sub(2).saturating_add(self.rates().len());
        1 + further.saturating_mul(WEIGHT_LEG_BYTES).saturating_add(notes) / WEIGHT_BYTES
    }

    /// The two-leg transaction.
    pub fn payment(from: AccountCode, to: AccountCode, amount: Amount, asset: AssetCode) -> Self {
        let debit = LegRequest { account: from, side: Side::Debit, amount, asset: asset.clone() };
        let credit = LegRequest { account: to, side: Side::Credit, amount, asset };
        Self {
            kind: Kind::Payment,
            legs: SmallVec::from_buf([debit, credit]),
            reference: None,
            description: None,
            metadata: None,
            effective_at: None,
            terms: None,
        }
    }
}

/// One leg as it was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    pub account: AccountCode,
    pub account_id: AccountId,
    /// The account's normal side, so that a reader of the log alone can tell
    /// what the totals amount to.
    pub normal: Side,
    pub side: Side,
    pub amount: Amount,
    pub asset: AssetCode,
    /// The account's balance after this leg.
    pub after: Balance,
}

/// A transaction that was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub kind: Kind,
    pub legs: SmallVec<[Leg; 2]>,
    pub reference: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub metadata: Option<Arc<str>>,
    /// What few transactions have beside all that.
    pub more: Option<Box<More>>,
}

/// The rarer parts of a posted [`Transaction`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct More {
    pub origin: Option<Origin>,
    pub rates: Vec<Rate>,
    /// What velocity limits have counted with it, in the order of the legs.
    pub usage: Vec<Usage>,
}

/// Where a posted transaction comes from, if not from a client alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A part, or the whole, of a hold.
    Capture {
        hold: HoldRef,
        /// Still reserved afterwards; 0 ends the hold.
        remaining: Amount,
        /// What the hold has captured in all, with this.
        captured: Amount,
    },
    /// The counterpart of what a transaction has posted.
    Reversal {
        transaction: Uuid,
        /// Of each of that transaction's legs, what is not reversed yet afterwards.
        remaining: SmallVec<[Amount; 2]>,
        /// It was allowed to break a floor.
        forced: bool,
    },
    /// It was scheduled for this moment, at `position`, under the same id.
    Schedule { position: Position },
}

/// Where a hold is found: in the shard of its first account, under its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRef {
    /// Id of the transaction that was authorised.
    pub id: Uuid,
    /// Position of the event that authorised it.
    pub position: Position,
}

/// What a velocity limit has counted for an account in one of its buckets, with
/// this transaction: absolute numbers, so that whoever folds needs none from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Index of the leg.
    pub leg: u16,
    pub counted: Counted,
}

/// Funds that are reserved: a transaction of two legs whose amounts are pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorisation {
    /// Its legs leave pending amounts behind, and their accounts' versions as they were.
    pub transaction: Transaction,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Why a hold gave funds back without posting them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReason {
    Voided,
    Expired,
}

/// The end of a hold of which something was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub hold: HoldRef,
    pub reason: ReleaseReason,
    /// The hold's legs, with the amount that is no longer pending.
    pub legs: SmallVec<[Leg; 2]>,
    /// What the hold had captured before.
    pub captured: Amount,
}

/// A transaction that will be decided, posted or rejected, at its `effective_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// With its `effective_at`.
    pub request: TransactionRequest,
    /// The accounts of the request's legs, in their order.
    pub account_ids: SmallVec<[AccountId; 2]>,
}

/// A scheduled transaction that was withdrawn before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    pub transaction: Uuid,
    /// Position of the event that scheduled it.
    pub position: Position,
    /// The first leg's account, in whose shard it is kept.
    pub account: AccountCode,
    pub account_id: AccountId,
}

/// A transaction that a business rule declined: what was asked, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedTransaction {
    pub request: TransactionRequest,
    /// The accounts of the request's legs, in their order.
    pub account_ids: SmallVec<[AccountId; 2]>,
    pub reason: Rejection,
    /// It had been scheduled, at this position, under the same id.
    pub scheduled: Option<Position>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::fixture::{asset, leg, payment};

    #[test]
    fn two_legs_without_notes_weigh_1_and_the_rest_by_its_bytes() {
        let weight = |legs: usize, rates: usize, notes: [usize; 3]| {
            let side = |index| if index % 2 == 0 { Side::Debit } else { Side::Credit };
            let rate = Rate {
                from: asset("EUR"),
                to: asset("USD"),
                rate: Arc::from("1.1"),
                remainder: Some(Arc::from("0.5")),
            };
            let [reference, description, metadata] =
                notes.map(|bytes| (bytes > 0).then(|| Arc::<str>::from("x".repeat(bytes))));
            let request = TransactionRequest {
                legs: (0..legs).map(|index| leg(side(index), "a", 1, "EUR")).collect(),
                reference,
                description,
                metadata,
                terms: Some(Box::new(Terms { rates: vec![rate; rates], ..Terms::default() })),
                ..payment("a", "b", 1)
            };
            request.weight()
        };
        assert_eq!(payment("a", "b", Amount::MAX.get()).weight(), 1);
        assert_eq!([2, 5, 6, 9, 10, LEGS_MAX].map(|legs| weight(legs, 0, [0; 3])), [1, 1, 2, 2, 3, 64]);
        assert_eq!([1, 799, 800, 1_600].map(|bytes| weight(2, 0, [0, 0, bytes])), [1, 1, 2, 3]);
        // Parts add up before they are rounded.
        assert_eq!([weight(2, 0, [255, 345, 200]), weight(3, 1, [0, 400, 0]), weight(2, 4, [0; 3])], [2, 2, 2]);
        assert_eq!(weight(LEGS_MAX, 16, [255, 1_024, 16 * 1_024]), 1 + (270 * 200 + 17_663) / 800);
    }
}
