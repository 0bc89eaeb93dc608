//! Bodies that move money, and the commands that they are.
//!
//! A body says what is to happen; what of it cannot be is told with a pointer to
//! each place, and all of it at once. What depends on the ledger, or on the time,
//! is for the core to say.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smallvec::SmallVec;
use uuid::Uuid;

use super::problem::FieldError;
use super::routes::accounts::canonical_metadata;
use super::time::{time, time_or_date};
use super::wire::{self, AmountInput, Object, unfit};
use crate::ledger::transaction::LEGS_MAX;
use crate::ledger::{
    Amount, AssetCode, Capture, Expiry, Kind, LegRequest, Notes, Part, RATE_DIGITS_MAX, RATES_MAX,
    REMAINDER_DIGITS_MAX, Rate, Reverse, Side, Terms, TransactionRequest,
};

/// Bytes of a reference: an invoice number, an end-to-end id.
pub const REFERENCE_BYTES_MAX: usize = 255;
/// Bytes of a description: a line on a statement.
const DESCRIPTION_BYTES_MAX: usize = 1_024;
/// Seconds until a hold may expire: five years, as for one with a time.
pub const EXPIRES_IN_S_MAX: u32 = 1_830 * 86_400;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentInput<'a> {
    #[serde(borrow)]
    pub from: Cow<'a, str>,
    #[serde(borrow)]
    pub to: Cow<'a, str>,
    pub amount: AmountInput,
    #[serde(borrow)]
    pub asset: Cow<'a, str>,
    #[serde(borrow, default)]
    pub reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub metadata: Option<&'a RawValue>,
    /// Of those that have one, when it counts for the books.
    #[serde(borrow, default)]
    pub effective_at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub capture: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub expires_at: Option<Cow<'a, str>>,
    #[serde(default)]
    pub expires_in_s: Option<SecondsInput>,
}

/// A payment of a batch: that of above, with a key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentItemInput<'a> {
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    amount: AmountInput,
    #[serde(borrow)]
    asset: Cow<'a, str>,
    #[serde(borrow, default)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    effective_at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    capture: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    expires_at: Option<Cow<'a, str>>,
    #[serde(default)]
    expires_in_s: Option<SecondsInput>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentBatchInput<'a> {
    #[serde(borrow)]
    pub payments: Vec<Object<PaymentItemInput<'a>>>,
    #[serde(default)]
    pub atomic: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegInput<'a> {
    #[serde(borrow)]
    account: Cow<'a, str>,
    #[serde(borrow)]
    side: Cow<'a, str>,
    amount: AmountInput,
    #[serde(borrow)]
    asset: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateInput<'a> {
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    rate: DecimalInput,
    #[serde(default)]
    remainder: Option<DecimalInput>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionInput<'a> {
    #[serde(borrow)]
    pub legs: Vec<Object<LegInput<'a>>>,
    #[serde(borrow, default)]
    pub rates: Option<Vec<Object<RateInput<'a>>>>,
    #[serde(borrow, default)]
    pub reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub effective_at: Option<Cow<'a, str>>,
}

/// A transaction of a batch: that of above, with a key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionItemInput<'a> {
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    legs: Vec<Object<LegInput<'a>>>,
    #[serde(borrow, default)]
    rates: Option<Vec<Object<RateInput<'a>>>>,
    #[serde(borrow, default)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    effective_at: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionBatchInput<'a> {
    #[serde(borrow)]
    pub transactions: Vec<Object<TransactionItemInput<'a>>>,
    #[serde(default)]
    pub atomic: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureInput<'a> {
    #[serde(default)]
    amount: Option<AmountInput>,
    #[serde(default)]
    r#final: Option<bool>,
    #[serde(borrow, default)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoidInput {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReversalInput<'a> {
    #[serde(default)]
    amount: Option<AmountInput>,
    #[serde(borrow, default)]
    legs: Option<Vec<Object<LegInput<'a>>>>,
    #[serde(default)]
    force: Option<bool>,
    #[serde(borrow, default)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancellationInput {}

/// Seconds as a client writes them: `60`. Another number is the item's own fault.
#[derive(Clone, Copy, Debug)]
pub struct SecondsInput(Option<u32>);

impl<'de> Deserialize<'de> for SecondsInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes() {
            [b'-' | b'0'..=b'9', ..] => Ok(Self(raw.parse().ok())),
            _ => Err(unfit(&SECONDS_EXPECTED)),
        }
    }
}

/// What is told to whoever sends something else.
pub const SECONDS_EXPECTED: &str = "a whole number of seconds";
pub const DECIMAL_EXPECTED: &str = "a decimal: a string such as \"1.0845\", or a number";

/// A decimal as a client writes it, `"1.0845"` or `1.0845`, in its shortest form:
/// `None` for what is no plain decimal.
#[derive(Clone, Debug)]
pub struct DecimalInput(Option<String>);

impl<'de> Deserialize<'de> for DecimalInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The raw text, since a float would not be the number that was written.
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes() {
            [b'"', ..] => {
                let text: Cow<'_, str> = serde_json::from_str(raw).map_err(|_| unfit(&DECIMAL_EXPECTED))?;
                Ok(Self(shortest_decimal(&text)))
            }
            [b'-' | b'0'..=b'9', ..] => Ok(Self(shortest_decimal(raw))),
            _ => Err(unfit(&DECIMAL_EXPECTED)),
        }
    }
}

/// A decimal without an exponent and without zeros that say nothing, of as many
/// digits as a rate may have before its point, and a remainder behind it.
fn shortest_decimal(text: &str) -> Option<String> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.len() > RATE_DIGITS_MAX || fraction.len() > REMAINDER_DIGITS_MAX {
        return None;
    }
    Some(match (whole, fraction) {
        ("", "") => "0".to_owned(),
        (whole, "") => format!("{sign}{whole}"),
        ("", fraction) => format!("{sign}0.{fraction}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    })
}

impl<'a> PaymentItemInput<'a> {
    pub fn into_parts(self) -> (Option<Cow<'a, str>>, PaymentInput<'a>) {
        let Self { idempotency_key, from, to, amount, asset, reference, description, metadata, .. } = self;
        let Self { effective_at, capture, expires_at, expires_in_s, .. } = self;
        let payment = PaymentInput {
            from,
            to,
            amount,
            asset,
            reference,
            description,
            metadata,
            effective_at,
            capture,
            expires_at,
            expires_in_s,
        };
        (idempotency_key, payment)
    }
}

impl<'a> TransactionItemInput<'a> {
    /// How many there are.
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    pub fn into_parts(self) -> (Option<Cow<'a, str>>, TransactionInput<'a>) {
        let Self { idempotency_key, legs, rates, reference, description, metadata, effective_at } = self;
        (idempotency_key, TransactionInput { legs, rates, reference, description, metadata, effective_at })
    }
}

/// What is wrong with a body, while it is read.
#[derive(Default)]
struct Wrong(Vec<FieldError>);

impl Wrong {
    fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.into() });
    }

    /// The value of a result, or its error in the list.
    fn note<T>(&mut self, pointer: impl Into<String>, result: Result<T, impl Into<String>>) -> Option<T> {
        result.map_err(|detail| self.add(pointer, detail)).ok()
    }

    fn positive(&mut self, pointer: impl Into<String>, amount: AmountInput) -> Option<Amount> {
        let positive = match amount.0 {
            Ok(amount) if amount.is_positive() => Ok(amount),
            Ok(_) => Err("an amount is more than zero".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.note(pointer, positive)
    }

    fn text(&mut self, pointer: &str, text: Option<Cow<'_, str>>, bytes_max: usize) -> Option<Arc<str>> {
        let text = text?;
        if text.len() > bytes_max {
            self.add(pointer, format!("this has at most {bytes_max} bytes"));
        } else if text.contains('\0') {
            self.add(pointer, "the character U+0000 cannot be stored; leave it out");
        }
        Some(Arc::from(&*text))
    }

    fn notes(
        &mut self,
        reference: Option<Cow<'_, str>>,
        description: Option<Cow<'_, str>>,
        metadata: Option<&RawValue>,
    ) -> Notes {
        let reference = self.text("/reference", reference, REFERENCE_BYTES_MAX);
        let description = self.text("/description", description, DESCRIPTION_BYTES_MAX);
        let metadata = canonical_metadata(metadata).unwrap_or_else(|wrong| {
            self.0.push(wrong);
            None
        });
        Notes { reference, description, metadata }
    }

    fn effective_at(&mut self, text: Option<Cow<'_, str>>) -> Option<DateTime<Utc>> {
        let time = self.note("/effective_at", time_or_date(&text?).ok_or(TIME_OR_DATE_EXPECTED))?;
        if time < DateTime::UNIX_EPOCH {
            self.add("/effective_at", "this lies too far in the past: before 1970");
        }
        Some(time)
    }

    fn legs(&mut self, legs: Vec<Object<LegInput<'_>>>) -> SmallVec<[LegRequest; 2]> {
        if !(2..=LEGS_MAX).contains(&legs.len()) {
            self.add("/legs", format!("there are 2 to {LEGS_MAX} legs"));
            return SmallVec::new();
        }
        let legs = legs.into_iter().enumerate();
        legs.filter_map(|(index, Object(LegInput { account, side, amount, asset }))| {
            let at = |name: &str| format!("/legs/{index}/{name}");
            let account = self.note(at("account"), wire::account_code(&account));
            let side = self.note(at("side"), Side::parse(&side).ok_or("side is debit or credit"));
            let amount = self.positive(at("amount"), amount);
            let asset = self.note(at("asset"), wire::asset_code(&asset));
            Some(LegRequest { account: account?, side: side?, amount: amount?, asset: asset? })
        })
        .collect()
    }

    fn rates(&mut self, rates: Vec<Object<RateInput<'_>>>) -> Vec<Rate> {
        if rates.len() > RATES_MAX {
            self.add("/rates", format!("a transaction states at most {RATES_MAX} rates"));
            return Vec::new();
        }
        let rates = rates.into_iter().enumerate();
        rates.filter_map(|(index, Object(rate))| self.rate(&format!("/rates/{index}"), rate)).collect()
    }

    fn rate(&mut self, base: &str, RateInput { from, to, rate, remainder }: RateInput<'_>) -> Option<Rate> {
        let is_same = from == to;
        let asset = |wrong: &mut Self, name: &str, text: &str| -> Option<AssetCode> {
            wrong.note(format!("{base}/{name}"), wire::asset_code(text))
        };
        let (from, to) = (asset(self, "from", &from), asset(self, "to", &to));
        if is_same {
            self.add(format!("{base}/to"), "a rate is between two different assets");
        }
        let decimals = |text: &str| text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let is_rate = |text: &String| text != "0" && !text.starts_with('-') && decimals(text) <= RATE_DIGITS_MAX;
        let positive = rate.0.filter(is_rate);
        let expected =
            "a rate is a decimal of more than zero, such as \"1.0845\", with at most 18 digits on either side";
        let rate = self.note(format!("{base}/rate"), positive.ok_or(expected));
        let remainder = match remainder {
            None => None,
            Some(DecimalInput(text)) => {
                let unsigned = |text: &str| text.trim_start_matches('-').starts_with("0.");
                let text = text.filter(|text| text == "0" || unsigned(text));
                let expected = "a remainder is a decimal between -1 and 1, with at most 55 digits";
                self.note(format!("{base}/remainder"), text.ok_or(expected))
            }
        };
        let remainder = remainder.filter(|text| text != "0").map(Arc::from);
        Some(Rate { from: from?, to: to?, rate: Arc::from(rate?), remainder })
    }

    /// What became of it, if nothing was wrong.
    fn or<T>(self, made: Option<T>) -> Result<T, Vec<FieldError>> {
        match made {
            Some(made) if self.0.is_empty() => Ok(made),
            _ => Err(self.0),
        }
    }
}

/// What is told to whoever sends another time.
pub const TIME_OR_DATE_EXPECTED: &str = "expected a time such as 2026-01-31T12:00:00Z, or a date such as 2026-01-31";

/// # Errors
/// All that is wrong with it.
pub fn payment(input: PaymentInput<'_>) -> Result<TransactionRequest, Vec<FieldError>> {
    let mut wrong = Wrong::default();
    let from = wrong.note("/from", wire::account_code(&input.from));
    let to = wrong.note("/to", wire::account_code(&input.to));
    let asset = wrong.note("/asset", wire::asset_code(&input.asset));
    let amount = wrong.positive("/amount", input.amount);
    let Notes { reference, description, metadata } = wrong.notes(input.reference, input.description, input.metadata);
    let effective_at = wrong.effective_at(input.effective_at);
    let hold = hold(&mut wrong, input.capture.as_deref(), input.expires_at.as_deref(), input.expires_in_s);
    if hold.is_some() && effective_at.is_some() {
        wrong.add("/effective_at", "a payment that is captured later is effective when it is captured; leave this out");
    }
    let request = match (from, to, amount, asset) {
        (Some(from), Some(to), Some(amount), Some(asset)) => Some(TransactionRequest {
            reference,
            description,
            metadata,
            effective_at,
            terms: hold.map(|hold| Box::new(Terms { hold: Some(hold), ..Terms::default() })),
            ..TransactionRequest::payment(from, to, amount, asset)
        }),
        _ => None,
    };
    wrong.or(request)
}

/// Whether a payment only reserves, and until when.
fn hold(wrong: &mut Wrong, capture: Option<&str>, at: Option<&str>, within: Option<SecondsInput>) -> Option<Expiry> {
    let is_hold = match capture {
        None | Some("automatic") => false,
        Some("manual") => true,
        Some(_) => {
            wrong.add("/capture", "capture is automatic or manual");
            return None;
        }
    };
    let only_manual = "only a payment with \"capture\": \"manual\" expires; leave this out";
    if let (false, Some(_)) = (is_hold, at) {
        wrong.add("/expires_at", only_manual);
    }
    if let (false, Some(_)) = (is_hold, within) {
        wrong.add("/expires_in_s", only_manual);
    }
    if !is_hold {
        return None;
    }
    match (at, within) {
        (None, None) => Some(Expiry::Never),
        (Some(text), None) => {
            let expected = "expected a time such as 2026-01-31T12:00:00Z";
            wrong.note("/expires_at", time(text).ok_or(expected)).map(Expiry::At)
        }
        (None, Some(SecondsInput(seconds))) => {
            let seconds = seconds.filter(|seconds| (1..=EXPIRES_IN_S_MAX).contains(seconds));
            let expected = || format!("this is 1 to {EXPIRES_IN_S_MAX}");
            wrong.note("/expires_in_s", seconds.ok_or_else(expected)).map(Expiry::In)
        }
        (Some(_), Some(_)) => {
            wrong.add("/expires_in_s", "there is an expires_at; send one of the two");
            None
        }
    }
}

/// # Errors
/// All that is wrong with it.
pub fn transaction(input: TransactionInput<'_>) -> Result<TransactionRequest, Vec<FieldError>> {
    let mut wrong = Wrong::default();
    let legs = wrong.legs(input.legs);
    let rates = wrong.rates(input.rates.unwrap_or_default());
    let Notes { reference, description, metadata } = wrong.notes(input.reference, input.description, input.metadata);
    let effective_at = wrong.effective_at(input.effective_at);
    let terms = (!rates.is_empty()).then(|| Box::new(Terms { rates, ..Terms::default() }));
    let kind = Kind::Transaction;
    wrong.or(Some(TransactionRequest { kind, legs, reference, description, metadata, effective_at, terms }))
}

/// # Errors
/// All that is wrong with it.
pub fn capture(payment: Uuid, input: CaptureInput<'_>) -> Result<Capture, Vec<FieldError>> {
    let mut wrong = Wrong::default();
    let amount = input.amount.and_then(|amount| wrong.positive("/amount", amount));
    let notes = wrong.notes(input.reference, input.description, input.metadata);
    wrong.or(Some(Capture { payment, amount, last: input.r#final.unwrap_or_default(), notes }))
}

/// # Errors
/// All that is wrong with it.
pub fn reversal(transaction: Uuid, input: ReversalInput<'_>) -> Result<Reverse, Vec<FieldError>> {
    let mut wrong = Wrong::default();
    let part = match (input.amount, input.legs) {
        (None, None) => Some(Part::Rest),
        (Some(amount), None) => wrong.positive("/amount", amount).map(Part::Amount),
        (None, Some(legs)) => Some(Part::Legs(wrong.legs(legs))),
        (Some(_), Some(_)) => {
            wrong.add("/legs", "there is an amount; send one of the two, or neither for all that is left");
            None
        }
    };
    let notes = wrong.notes(input.reference, input.description, input.metadata);
    let force = input.force.unwrap_or_default();
    wrong.or(part.map(|part| Reverse { transaction, part, force, notes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_plain_and_have_one_form() {
        for (text, expected) in [
            ("1.0845", "1.0845"),
            ("01.50", "1.5"),
            ("0.000", "0"),
            ("-0", "0"),
            ("-0.25", "-0.25"),
            ("1", "1"),
            ("999999999999999999.999999999999999999", "999999999999999999.999999999999999999"),
        ] {
            assert_eq!(shortest_decimal(text).as_deref(), Some(expected), "{text}");
        }
        let long = format!("0.{}", "1".repeat(55));
        assert_eq!(shortest_decimal(&format!("{long}00")).as_ref(), Some(&long));
        let digits = "1".repeat(19);
        let behind = format!("{long}1");
        for text in ["", "-", ".5", "5.", "1e3", "1,5", "+1", "--1", "NaN", " 1", "1.2.3", &digits, &behind] {
            assert_eq!(shortest_decimal(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_are_strings_or_numbers() {
        let parse = |json: &str| serde_json::from_str::<DecimalInput>(json).map(|input| input.0);
        assert_eq!(parse("\"1.50\"").unwrap(), parse("1.5").unwrap());
        assert_eq!(parse("0.1000000000000000055").unwrap(), parse("\"0.1000000000000000055\"").unwrap());
        assert_eq!(parse("1e3").unwrap(), None);
        for other in ["true", "null", "{}", "[1]"] {
            assert!(parse(other).is_err(), "{other}");
        }
    }

    /// Where a body is wrong.
    fn pointers<'a, I: Deserialize<'a>, T>(
        json: &'a str,
        read: impl Fn(I) -> Result<T, Vec<FieldError>>,
    ) -> Vec<String> {
        let errors = read(serde_json::from_str(json).unwrap()).err().unwrap_or_default();
        errors.into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn terms_of_a_payment_that_do_not_go_together_are_refused() {
        for (more, expected) in [
            (r#""capture":"automatic""#, &[][..]),
            (r#""capture":null,"expires_at":null,"expires_in_s":null,"effective_at":null"#, &[]),
            (r#""capture":"manual""#, &[]),
            (r#""capture":"manual","expires_in_s":1"#, &[]),
            (r#""capture":"manual","expires_in_s":158112000"#, &[]),
            (r#""capture":"manual","expires_at":"2030-01-01T00:00:00+02:00""#, &[]),
            (r#""effective_at":"2020-01-31""#, &[]),
            (r#""capture":"later""#, &["/capture"]),
            (r#""expires_in_s":60"#, &["/expires_in_s"]),
            (r#""expires_at":"2030-01-01T00:00:00Z""#, &["/expires_at"]),
            (r#""capture":"manual","expires_in_s":60,"expires_at":"2030-01-01T00:00:00Z""#, &["/expires_in_s"]),
            (r#""capture":"manual","expires_in_s":0"#, &["/expires_in_s"]),
            (r#""capture":"manual","expires_in_s":-1"#, &["/expires_in_s"]),
            (r#""capture":"manual","expires_in_s":1.5"#, &["/expires_in_s"]),
            (r#""capture":"manual","expires_in_s":158112001"#, &["/expires_in_s"]),
            (r#""capture":"manual","expires_at":"2030-01-01""#, &["/expires_at"]),
            (r#""capture":"manual","effective_at":"2030-01-01""#, &["/effective_at"]),
            (r#""effective_at":"1969-12-31T23:59:59Z""#, &["/effective_at"]),
            (r#""effective_at":"tomorrow""#, &["/effective_at"]),
            (r#""effective_at":"2026-1-1""#, &["/effective_at"]),
            (r#""effective_at":"2026-12-31T23:59:60Z""#, &["/effective_at"]),
            (r#""capture":"manual","expires_at":"2026-12-31T23:59:60Z""#, &["/expires_at"]),
        ] {
            let json = format!(r#"{{"from":"a","to":"b","amount":1,"asset":"EUR",{more}}}"#);
            assert_eq!(pointers(&json, payment), expected, "{more}");
        }
    }

    #[test]
    fn everything_that_is_wrong_with_a_transaction_is_told_at_its_place() {
        let leg = r#"{"account":"a","side":"debit","amount":"1","asset":"EUR"}"#;
        for (json, expected) in [
            (format!(r#"{{"legs":[{leg},{leg}]}}"#), &[][..]),
            (format!(r#"{{"legs":[{leg}]}}"#), &["/legs"]),
            (format!(r#"{{"legs":[{}]}}"#, [leg; 257].join(",")), &["/legs"]),
            (
                format!(r#"{{"legs":[{leg},{{"account":"","side":"left","amount":0,"asset":"?"}}]}}"#),
                &["/legs/1/account", "/legs/1/side", "/legs/1/amount", "/legs/1/asset"],
            ),
            (
                format!(
                    r#"{{"legs":[{leg},{leg}],"rates":[{{"from":"EUR","to":"USD","rate":"1.1","remainder":"-0.5"}}]}}"#
                ),
                &[],
            ),
            (
                format!(
                    r#"{{"legs":[{leg},{leg}],"rates":[{{"from":"EUR","to":"EUR","rate":"-1.1","remainder":1}}]}}"#
                ),
                &["/rates/0/to", "/rates/0/rate", "/rates/0/remainder"],
            ),
            (
                format!(
                    r#"{{"legs":[{leg},{leg}],"rates":[{{"from":"EUR","to":"USD","rate":"0.1000000000000000055","remainder":"0.{0}"}}]}}"#,
                    "1".repeat(56)
                ),
                &["/rates/0/rate", "/rates/0/remainder"],
            ),
        ] {
            assert_eq!(pointers(&json, transaction), expected, "{json}");
        }
    }

    #[test]
    fn a_reversal_is_of_all_an_amount_or_legs() {
        let id = Uuid::from_u128(7);
        let leg = r#"{"account":"a","side":"debit","amount":"1","asset":"EUR"}"#;
        for (json, expected) in [
            ("{}".to_owned(), &[][..]),
            (r#"{"amount":"5","force":true}"#.to_owned(), &[]),
            (format!(r#"{{"legs":[{leg},{leg}]}}"#), &[]),
            (format!(r#"{{"amount":1,"legs":[{leg},{leg}]}}"#), &["/legs"]),
            (r#"{"amount":"0"}"#.to_owned(), &["/amount"]),
        ] {
            assert_eq!(pointers(&json, |input| reversal(id, input)), expected, "{json}");
        }
    }
}
