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
use crate::ledger::{LegRequest, TransactionRequest};
use crate::sequencer::Key;
use crate::store::keys;

/// Bytes that a key may have.
const KEY_BYTES_MAX: usize = 255;

/// The route that a key was used on: part of what a request means.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    Payment,
    BatchItem,
    AtomicBatch,
    ImportLine,
}

impl Route {
    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Payment => b"POST payments",
            Self::BatchItem => b"POST payments/batch item",
            Self::AtomicBatch => b"POST payments/batch atomic",
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
        .ok_or_else(|| Problem::new(Code::IdempotencyKeyMissing, "a payment needs an Idempotency-Key header"))?;
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

/// The key of a request for `requests`.
pub fn key<'a>(text: &str, route: Route, requests: impl IntoIterator<Item = &'a TransactionRequest>) -> Key {
    let mut meaning = Sha256::new();
    add(&mut meaning, Some(route.tag()));
    for request in requests {
        for LegRequest { account, side, amount, asset } in &request.legs {
            add(&mut meaning, Some(account.as_str().as_bytes()));
            add(&mut meaning, Some(side.as_str().as_bytes()));
            add(&mut meaning, Some(&amount.get().to_be_bytes()));
            add(&mut meaning, Some(asset.as_str().as_bytes()));
        }
        for text in [&request.reference, &request.description, &request.metadata] {
            add(&mut meaning, text.as_deref().map(str::as_bytes));
        }
        // Of those alone that state it, so that the rest has the fingerprint that it had in the first release.
        if let Some(effective_at) = request.effective_at {
            add(&mut meaning, Some(&effective_at.timestamp_micros().to_be_bytes()));
        }
    }
    Key { text: Arc::from(text), hash: keys::hash(text), fingerprint: keys::first_half(meaning.finalize().into()) }
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

    #[test]
    fn a_meaning_has_one_fingerprint_and_two_have_two() {
        let fingerprint = |route, request: &TransactionRequest| key("k", route, [request]).fingerprint;
        let base = fingerprint(Route::Payment, &request("a", Some("x"), None));
        assert_eq!(base, fingerprint(Route::Payment, &request("a", Some("x"), None)));
        assert_ne!(base, fingerprint(Route::BatchItem, &request("a", Some("x"), None)));
        assert_ne!(base, fingerprint(Route::Payment, &request("a", None, Some("x"))));
        assert_ne!(base, fingerprint(Route::Payment, &request("a", Some(""), Some("x"))));
        assert_ne!(base, fingerprint(Route::Payment, &request("aa", Some("x"), None)));
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
