//! Idempotency keys of requests, and what a request means.
//!
//! Two requests mean the same when their method, path and values are the same;
//! field order, spacing and `1250` against `"1250"` do not count. The
//! fingerprint is a hash of the values with their lengths, so that no two
//! meanings have one text.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use std::sync::Arc;

use super::problem::{Code, Problem};
use crate::ledger::{
    Cancel, Capture, Command, Expiry, Kind, LegRequest, Notes, Part, Reverse, Terms, TransactionRequest, Void,
};
use crate::sequencer::Key;
use crate::store::keys;

/// Bytes that a key may have.
const KEY_BYTES_MAX: usize = 255;

/// The route that a key was used on: part of what a request means.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    Payment,
    PaymentBatchItem,
    AtomicPaymentBatch,
    Capture,
    Void,
    Transaction,
    TransactionBatchItem,
    AtomicTransactionBatch,
    Reversal,
    Cancellation,
    ImportLine,
}

impl Route {
    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Payment => b"POST payments",
            Self::PaymentBatchItem => b"POST payments/batch item",
            Self::AtomicPaymentBatch => b"POST payments/batch atomic",
            Self::Capture => b"POST payments capture",
            Self::Void => b"POST payments void",
            Self::Transaction => b"POST transactions",
            Self::TransactionBatchItem => b"POST transactions/batch item",
            Self::AtomicTransactionBatch => b"POST transactions/batch atomic",
            Self::Reversal => b"POST transactions reverse",
            Self::Cancellation => b"POST transactions cancel",
            Self::ImportLine => b"POST import line",
        }
    }
}

/// The `Idempotency-Key` header.
///
/// # Errors
/// `idempotency_key_missing`, `idempotency_key_invalid`.
pub fn from_headers(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let value = values
        .next()
        .ok_or_else(|| Problem::new(Code::IdempotencyKeyMissing, "this needs an Idempotency-Key header"))?;
    if values.next().is_some() {
        return Err(Problem::new(Code::IdempotencyKeyInvalid, "there is more than one Idempotency-Key header"));
    }
    value.to_str().ok().filter(|text| is_valid(text)).ok_or_else(|| {
        Problem::new(Code::IdempotencyKeyInvalid, "an idempotency key has 1 to 255 visible ASCII characters")
    })
}

/// 1 to 255 visible ASCII characters.
pub fn is_valid(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b))
}

/// The key of a request for `commands`.
pub fn key<'a>(text: &str, route: Route, commands: impl IntoIterator<Item = &'a Command>) -> Key {
    let mut meaning = Sha256::new();
    add(&mut meaning, Some(route.tag()));
    for command in commands {
        match command {
            Command::Transact(request) => add_request(&mut meaning, request),
            Command::Capture(Capture { payment, amount, last, notes }) => {
                add(&mut meaning, Some(payment.as_bytes()));
                add(&mut meaning, amount.map(|amount| amount.get().to_be_bytes()).as_ref().map(<[u8; 16]>::as_slice));
                add(&mut meaning, Some(&[u8::from(*last)]));
                add_notes(&mut meaning, notes);
            }
            Command::Void(Void { payment: id }) | Command::Cancel(Cancel { transaction: id }) => {
                add(&mut meaning, Some(id.as_bytes()));
                // They once had notes: keys that are in databases were made with these left out.
                add_notes(&mut meaning, &Notes::default());
            }
            Command::Reverse(Reverse { transaction, part, force, notes }) => {
                add(&mut meaning, Some(transaction.as_bytes()));
                match part {
                    Part::Rest => add(&mut meaning, Some(b"rest")),
                    Part::Amount(amount) => {
                        add(&mut meaning, Some(b"amount"));
                        add(&mut meaning, Some(&amount.get().to_be_bytes()));
                    }
                    Part::Legs(legs) => {
                        add(&mut meaning, Some(b"legs"));
                        add(&mut meaning, Some(&(legs.len() as u64).to_be_bytes()));
                        legs.iter().for_each(|leg| add_leg(&mut meaning, leg));
                    }
                }
                add(&mut meaning, Some(&[u8::from(*force)]));
                add_notes(&mut meaning, notes);
            }
            // None of these moves money, and none has a key.
            Command::DefineAsset { .. }
            | Command::OpenAccount(_)
            | Command::ChangeAccount(_)
            | Command::SetRule(_)
            | Command::RemoveRule(_)
            | Command::ClosePeriod { .. }
            | Command::Settle(_) => {}
        }
    }
    Key { text: Arc::from(text), hash: keys::hash(text), fingerprint: keys::first_half(meaning.finalize().into()) }
}

/// A payment that states nothing beyond what the first release knew has the
/// fingerprint that it had then. All that is newer begins with a word of its own,
/// which no account has for a name.
fn add_request(meaning: &mut Sha256, request: &TransactionRequest) {
    if request.kind != Kind::Payment {
        add(meaning, Some(b"(legs)"));
        add(meaning, Some(&(request.legs.len() as u64).to_be_bytes()));
    }
    request.legs.iter().for_each(|leg| add_leg(meaning, leg));
    for text in [&request.reference, &request.description, &request.metadata] {
        add(meaning, text.as_deref().map(str::as_bytes));
    }
    if let Some(effective_at) = request.effective_at {
        add(meaning, Some(&effective_at.timestamp_micros().to_be_bytes()));
    }
    let Some(Terms { hold, rates, .. }) = request.terms.as_deref() else { return };
    if let Some(expiry) = hold {
        add(meaning, Some(b"(hold)"));
        match expiry {
            Expiry::Never => add(meaning, None),
            Expiry::At(time) => add(meaning, Some(&time.timestamp_micros().to_be_bytes())),
            Expiry::In(seconds) => add(meaning, Some(&seconds.to_be_bytes())),
        }
    }
    if !rates.is_empty() {
        add(meaning, Some(b"(rates)"));
        add(meaning, Some(&(rates.len() as u64).to_be_bytes()));
        for rate in rates {
            add(meaning, Some(rate.from.as_str().as_bytes()));
            add(meaning, Some(rate.to.as_str().as_bytes()));
            add(meaning, Some(rate.rate.as_bytes()));
            add(meaning, rate.remainder.as_deref().map(str::as_bytes));
        }
    }
}

fn add_leg(meaning: &mut Sha256, leg: &LegRequest) {
    add(meaning, Some(leg.account.as_str().as_bytes()));
    add(meaning, Some(leg.side.as_str().as_bytes()));
    add(meaning, Some(&leg.amount.get().to_be_bytes()));
    add(meaning, Some(leg.asset.as_str().as_bytes()));
}

fn add_notes(meaning: &mut Sha256, notes: &Notes) {
    for text in [&notes.reference, &notes.description, &notes.metadata] {
        add(meaning, text.as_deref().map(str::as_bytes));
    }
}

fn add(meaning: &mut Sha256, value: Option<&[u8]>) {
    match value {
        None => meaning.update(u64::MAX.to_be_bytes()),
        Some(bytes) => {
            meaning.update((bytes.len() as u64).to_be_bytes());
            meaning.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{AccountCode, Amount, AssetCode};

    fn request(from: &str, reference: Option<&str>, description: Option<&str>) -> TransactionRequest {
        let code = |text| AccountCode::new(text).unwrap();
        let mut request =
            TransactionRequest::payment(code(from), code("b"), Amount::from(5), AssetCode::new("EUR").unwrap());
        request.reference = reference.map(Arc::from);
        request.description = description.map(Arc::from);
        request
    }

    fn fingerprint(route: Route, command: &Command) -> [u8; 16] {
        key("k", route, [command]).fingerprint
    }

    #[test]
    fn a_meaning_has_one_fingerprint_and_two_have_two() {
        let fingerprint = |route, request: &TransactionRequest| fingerprint(route, &Command::Transact(request.clone()));
        let base = fingerprint(Route::Payment, &request("a", Some("x"), None));
        assert_eq!(base, fingerprint(Route::Payment, &request("a", Some("x"), None)));
        assert_ne!(base, fingerprint(Route::PaymentBatchItem, &request("a", Some("x"), None)));
        assert_ne!(base, fingerprint(Route::Payment, &request("a", None, Some("x"))));
        assert_ne!(base, fingerprint(Route::Payment, &request("a", Some(""), Some("x"))));
        assert_ne!(base, fingerprint(Route::Payment, &request("aa", Some("x"), None)));
    }

    /// Keys of the first release are in databases, with the fingerprints that it made.
    #[test]
    fn the_fingerprint_of_a_plain_payment_is_that_of_the_first_release() {
        let hex = |bytes: [u8; 16]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut request = request("a", Some("x"), None);
        assert_eq!(
            hex(fingerprint(Route::Payment, &Command::Transact(request.clone()))),
            "72b4614c16a33d814f65331e55dc77b1"
        );
        request.effective_at = chrono::DateTime::from_timestamp(1_700_000_000, 0);
        assert_eq!(
            hex(fingerprint(Route::ImportLine, &Command::Transact(request))),
            "4d2a6db12bfdce73ea1752cf744b41c7"
        );
    }

    /// They could once have notes; those without have the same fingerprint still.
    #[test]
    fn the_fingerprint_of_a_void_is_that_of_one_without_notes() {
        let void = Command::Void(Void { payment: uuid::Uuid::from_u128(1) });
        assert_eq!(u128::from_be_bytes(fingerprint(Route::Void, &void)), 0xa9990fe56a6bd119f10fb022808027ad);
    }

    #[test]
    fn terms_are_part_of_what_a_payment_means() {
        let with = |hold: Option<Expiry>| {
            let terms = hold.map(|_| Box::new(Terms { hold, ..Terms::default() }));
            let request = TransactionRequest { terms, ..request("a", None, None) };
            fingerprint(Route::Payment, &Command::Transact(request))
        };
        let time = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let expiries = [None, Some(Expiry::Never), Some(Expiry::In(60)), Some(Expiry::In(61)), Some(Expiry::At(time))];
        let all: std::collections::HashSet<_> = expiries.into_iter().map(with).collect();
        assert_eq!(all.len(), expiries.len());
    }

    #[test]
    fn what_becomes_of_a_transaction_is_fingerprinted_with_its_id() {
        let capture = |id: u128, amount: Option<u64>, last: bool| {
            let (payment, amount) = (uuid::Uuid::from_u128(id), amount.map(Amount::from));
            fingerprint(Route::Capture, &Command::Capture(Capture { payment, amount, last, notes: Notes::default() }))
        };
        let all =
            [capture(1, None, false), capture(1, None, true), capture(1, Some(5), false), capture(2, None, false)];
        assert_eq!(std::collections::HashSet::from(all).len(), all.len());
        assert_eq!(capture(1, Some(5), true), capture(1, Some(5), true));
    }

    #[test]
    fn keys_are_visible_ascii() {
        for good in ["a", "!~", &"k".repeat(255)] {
            assert!(is_valid(good), "{good:?}");
        }
        for bad in ["", " ", "a b", "a\t", "é", "\u{7f}", &"k".repeat(256)] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }
}
