//! Requests and answers as JSON; the core's types stay free of it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Expected, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::ledger::amount::ParseAmountError;
use crate::ledger::asset::SCALE_MAX;
use crate::ledger::{Account, AccountCode, Amount, AssetCode, Position};
use crate::store::Shard;

/// An amount as a client writes it: `"1250"` or `1250`. What is neither a
/// string nor a number is refused with the whole body; a number that is no
/// amount is the item's own fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountInput(pub Result<Amount, ParseAmountError>);

impl<'de> Deserialize<'de> for AmountInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The raw text, since a number of 38 digits fits no number type of JSON libraries.
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        match raw.as_bytes() {
            [b'"', ..] => {
                let text: Cow<'_, str> = serde_json::from_str(raw).map_err(|_| unfit(&AMOUNT_EXPECTED))?;
                Ok(Self(text.parse()))
            }
            [b'-' | b'0'..=b'9', ..] => Ok(Self(raw.parse())),
            _ => Err(unfit(&AMOUNT_EXPECTED)),
        }
    }
}

/// What is neither, in the form of serde's own errors.
pub(super) fn unfit<E: serde::de::Error>(expected: &dyn Expected) -> E {
    E::invalid_value(Unexpected::Other("another value"), expected)
}

/// What is told to whoever sends something else.
pub const AMOUNT_EXPECTED: &str = "an amount: a string of digits, or an integer";
pub const SCALE_EXPECTED: &str = "a whole number from 0 to 37";
const _: () = assert!(SCALE_MAX == 37);

/// A `T` that is a JSON object. By itself serde reads a struct from an array
/// too, by the order of the fields, which nobody is promised.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountInput<'a> {
    #[serde(borrow)]
    pub code: Cow<'a, str>,
    #[serde(borrow)]
    pub asset: Cow<'a, str>,
    #[serde(borrow, default)]
    pub normal: Option<Cow<'a, str>>,
    /// Absent is as the account's type has it; null is no floor.
    #[serde(default, deserialize_with = "present")]
    pub min_balance: Option<Option<AmountInput>>,
    /// Absent is as the account's type has it; null is no cap.
    #[serde(default, deserialize_with = "present")]
    pub max_balance: Option<Option<AmountInput>>,
    #[serde(borrow, default)]
    pub metadata: Option<&'a RawValue>,
}

/// Tells a null that is there from a field that is not.
pub fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<AmountInput>>, D::Error> {
    Option::<AmountInput>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountBatchInput<'a> {
    #[serde(borrow)]
    pub accounts: Vec<Object<AccountInput<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssetInput {
    #[serde(deserialize_with = "scale")]
    pub scale: u8,
}

fn scale<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let digits = <&RawValue>::deserialize(deserializer)?.get();
    digits.parse().ok().filter(|scale| *scale <= SCALE_MAX).ok_or_else(|| unfit(&SCALE_EXPECTED))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerInput {}

/// An amount as an answer gives it: always a string.
#[derive(Clone, Copy, Debug)]
pub struct AmountText(pub Amount);

impl Serialize for AmountText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(itoa::Buffer::new().format(self.0.get()))
    }
}

/// RFC 3339 in UTC with microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub DateTime<Utc>);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

/// A client's JSON object; `{}` when there is none.
#[derive(Clone, Debug)]
pub struct Metadata(pub Option<Arc<str>>);

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = self.0.as_deref().unwrap_or("{}");
        let raw: &RawValue = serde_json::from_str(json).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// A list with its cursor.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    pub next: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct LedgerOutput {
    pub name: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Serialize)]
pub struct AssetOutput {
    pub code: String,
    pub scale: u8,
}

#[derive(Debug, Serialize)]
pub struct AccountOutput {
    pub code: String,
    pub asset: String,
    pub normal: &'static str,
    pub status: &'static str,
    /// Only where there is a freeze.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenOutput>,
    pub min_balance: Option<AmountText>,
    pub max_balance: Option<AmountText>,
    pub metadata: Metadata,
    pub shard: Shard,
    pub balance: BalanceOutput,
    pub opened_at: Timestamp,
}

/// Which legs an account declines, and why.
#[derive(Debug, Serialize)]
pub struct FrozenOutput {
    pub scope: &'static str,
    pub reason: Arc<str>,
}

#[derive(Debug, Serialize)]
pub struct BalanceOutput {
    pub posted: AmountText,
    pub pending_in: AmountText,
    pub pending_out: AmountText,
    pub available: AmountText,
    pub debits_posted: AmountText,
    pub credits_posted: AmountText,
    pub version: u64,
    pub position: Position,
}

impl AccountOutput {
    pub fn new(account: &Account, shard: Shard) -> Self {
        let (balance, normal) = (&account.balance, account.normal);
        Self {
            code: account.code.to_string(),
            asset: account.asset.to_string(),
            normal: normal.as_str(),
            status: account.attributes.status().as_str(),
            frozen: account
                .attributes
                .freeze
                .as_ref()
                .map(|freeze| FrozenOutput { scope: freeze.scope.as_str(), reason: Arc::clone(&freeze.reason) }),
            min_balance: account.attributes.limits.min_balance.map(AmountText),
            max_balance: account.attributes.limits.max_balance.map(AmountText),
            metadata: Metadata(account.attributes.metadata.clone()),
            shard,
            balance: BalanceOutput {
                posted: AmountText(balance.posted(normal)),
                pending_in: AmountText(balance.pending_in(normal)),
                pending_out: AmountText(balance.pending_out(normal)),
                available: AmountText(balance.available(normal)),
                debits_posted: AmountText(balance.debits_posted),
                credits_posted: AmountText(balance.credits_posted),
                version: balance.version,
                position: balance.position,
            },
            opened_at: Timestamp(account.opened_at),
        }
    }
}

/// A line of a statement.
#[derive(Debug, Serialize)]
pub struct EntryOutput {
    pub position: Position,
    pub transaction_id: Uuid,
    pub side: String,
    pub amount: AmountText,
    pub balance_after: AmountText,
    pub version: u64,
    pub reference: Option<String>,
    pub effective_at: Timestamp,
    pub recorded_at: Timestamp,
}

/// A row of the log.
#[derive(Debug, Serialize)]
pub struct EventOutput {
    pub position: Position,
    pub r#type: String,
    pub schema_version: i16,
    pub transaction_id: Option<Uuid>,
    pub idempotency_key: Option<String>,
    pub payload: Box<RawValue>,
    pub recorded_at: Timestamp,
    pub effective_at: Timestamp,
}

/// Names, checked; the pointer says which field is wrong.
pub fn account_code(text: &str) -> Result<AccountCode, String> {
    AccountCode::new(text).map_err(|error| error.to_string())
}

pub fn asset_code(text: &str) -> Result<AssetCode, String> {
    AssetCode::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_strings_or_integers() {
        let parse = |json: &str| serde_json::from_str::<AmountInput>(json).map(|input| input.0);
        assert_eq!(parse(r#""1250""#).unwrap().unwrap(), Amount::from(1250));
        assert_eq!(parse("1250").unwrap().unwrap(), Amount::from(1250));
        assert_eq!(parse(&"9".repeat(38)).unwrap().unwrap(), Amount::MAX);
        assert!(parse(&"9".repeat(39)).unwrap().is_err());
        for number in ["1.5", "1e3", "1E400", r#""""#, r#""1,5""#, r#""NaN""#] {
            assert!(parse(number).unwrap().is_err(), "{number}");
        }
        for other in ["true", "null", "{}", "[1]"] {
            assert!(parse(other).is_err(), "{other}");
        }
    }
}
