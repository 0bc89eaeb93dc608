//! One line of an import: its fields, whatever the format, and the command that they are.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::super::body;
use super::super::idempotency::{self, Route};
use super::super::problem::{Code, FieldError, Problem, Shape};
use super::super::requests::{self, LegInput, PaymentInput, RateInput, TransactionInput};
use super::super::routes::accounts;
use super::super::wire::{self, AccountInput, AmountInput, Object};
use super::csv;
use crate::ledger::{Command, Side, TransactionRequest};
use crate::sequencer::Item;

/// A text that is borrowed from the line where it has no escapes.
#[derive(Debug, Default)]
pub struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;

        impl<'de> Visitor<'de> for Borrowed {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrowed)
    }
}

macro_rules! fields {
    ($($field:ident $name:literal)*) => {
        /// The fields that a line may have, by their place in a set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field {
            $($field,)*
        }

        impl Field {
            const ALL: &[(Self, &'static str)] = &[$((Self::$field, $name),)*];

            const fn bit(self) -> u32 {
                1 << self as u32
            }
        }
    };
}

fields! {
    Type "type"
    Key "key"
    Code "code"
    Account "account"
    Asset "asset"
    Normal "normal"
    MinBalance "min_balance"
    MaxBalance "max_balance"
    From "from"
    To "to"
    Amount "amount"
    Side "side"
    Equity "equity"
    Legs "legs"
    Rates "rates"
    EffectiveAt "effective_at"
    Reference "reference"
    Description "description"
    Metadata "metadata"
}

const fn set(fields: &[Field]) -> u32 {
    let mut set = 0;
    let mut index = 0;
    while index < fields.len() {
        set |= fields[index].bit();
        index += 1;
    }
    set
}

const NOTES: u32 =
    set(&[Field::Type, Field::Key, Field::EffectiveAt, Field::Reference, Field::Description, Field::Metadata]);
const ACCOUNT_NEEDED: u32 = set(&[Field::Code, Field::Asset]);
const ACCOUNT: u32 =
    ACCOUNT_NEEDED | set(&[Field::Type, Field::Normal, Field::MinBalance, Field::MaxBalance, Field::Metadata]);
const PAYMENT_NEEDED: u32 = set(&[Field::From, Field::To, Field::Amount, Field::Asset]);
const PAYMENT: u32 = PAYMENT_NEEDED | NOTES;
const TRANSACTION_NEEDED: u32 = set(&[Field::Legs]);
const TRANSACTION: u32 = TRANSACTION_NEEDED | NOTES | set(&[Field::Rates]);
const OPENING_NEEDED: u32 = set(&[Field::Account, Field::Amount, Field::Asset]);
const OPENING: u32 = OPENING_NEEDED | NOTES | set(&[Field::Side, Field::Equity]);

/// A line as it comes. Which fields belong to which type is looked at later, so
/// that the type need not be the first of them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Line<'a> {
    #[serde(borrow)]
    r#type: Option<Text<'a>>,
    #[serde(borrow)]
    key: Option<Text<'a>>,
    #[serde(borrow)]
    code: Option<Text<'a>>,
    #[serde(borrow)]
    account: Option<Text<'a>>,
    #[serde(borrow)]
    asset: Option<Text<'a>>,
    #[serde(borrow)]
    normal: Option<Text<'a>>,
    #[serde(deserialize_with = "wire::present")]
    min_balance: Option<Option<AmountInput>>,
    #[serde(deserialize_with = "wire::present")]
    max_balance: Option<Option<AmountInput>>,
    #[serde(borrow)]
    from: Option<Text<'a>>,
    #[serde(borrow)]
    to: Option<Text<'a>>,
    amount: Option<AmountInput>,
    #[serde(borrow)]
    side: Option<Text<'a>>,
    #[serde(borrow)]
    equity: Option<Text<'a>>,
    #[serde(borrow)]
    legs: Option<Vec<Object<LegInput<'a>>>>,
    #[serde(borrow)]
    rates: Option<Vec<Object<RateInput<'a>>>>,
    #[serde(borrow)]
    effective_at: Option<Text<'a>>,
    #[serde(borrow)]
    reference: Option<Text<'a>>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// Of the name of a column that is not known, what a problem repeats.
const COLUMN_SHOWN_MAX: usize = 40;

/// The columns of a CSV file, in its order.
#[derive(Debug)]
pub struct Columns(Vec<Field>);

impl Columns {
    /// # Errors
    /// `validation_failed` for a header that names what is no field of a line, or a field twice.
    pub fn new(header: &[u8]) -> Result<Self, Problem> {
        let mut columns = Vec::new();
        let mut wrong = None;
        let known = || Field::ALL.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let count = csv::fields(header, |_, name| {
            let name = name.trim();
            match Field::ALL.iter().find(|(_, known)| *known == name) {
                Some((field, _)) if columns.contains(field) => {
                    wrong = wrong.take().or(Some(format!("the header has the column {name} twice")));
                }
                Some((field, _)) => columns.push(*field),
                None => {
                    let name: String = name.chars().take(COLUMN_SHOWN_MAX).collect();
                    let detail = format!("the header has the column {name:?}, which is none of {}", known());
                    wrong = wrong.take().or(Some(detail));
                }
            }
        });
        let wrong = count.err().map(|broken| format!("the header: {broken}")).or(wrong);
        wrong.map_or(Ok(Self(columns)), |detail| Err(Problem::invalid("", detail)))
    }
}

/// What a line is: where its refusal points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Account,
    Payment,
    Transaction,
    /// Which side of the transaction the account is on.
    OpeningBalance(Side),
}

/// What holds for every line of an import.
#[derive(Debug)]
pub struct Defaults {
    /// What the keys of lines without one begin with.
    pub id: Option<String>,
    /// The other side of opening balances that name none.
    pub equity: Option<String>,
    /// Nothing may be effective later.
    pub now: DateTime<Utc>,
}

/// A line that cannot be submitted.
#[derive(Debug)]
pub struct Refused {
    pub key: Option<String>,
    pub problem: Problem,
    /// It is no line of an import at all, rather than one with a mistake.
    pub malformed: bool,
}

/// The command of a line: of CSV where there are columns, else of NDJSON.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(
    bytes: &[u8],
    columns: Option<&Columns>,
    number: u64,
    defaults: &Defaults,
) -> Result<(Kind, Item), Refused> {
    match columns {
        None => from_json(bytes, number, defaults),
        Some(columns) => from_csv(bytes, columns, number, defaults),
    }
}

fn from_json(bytes: &[u8], number: u64, defaults: &Defaults) -> Result<(Kind, Item), Refused> {
    let line = body::parse::<Line<'_>>(bytes);
    let line = line.map_err(|problem| Refused { key: None, problem, malformed: true })?;
    line.into_item(number, defaults)
}

/// An empty field is one that is not there.
fn from_csv(bytes: &[u8], columns: &Columns, number: u64, defaults: &Defaults) -> Result<(Kind, Item), Refused> {
    let mut values: [Cow<'_, str>; Field::ALL.len()] = std::array::from_fn(|_| Cow::Borrowed(""));
    let found = csv::fields(bytes, |index, value| {
        if let Some(field) = columns.0.get(index) {
            values[*field as usize] = csv::read_text(value);
        }
    });
    let broken = match found {
        Ok(found) if found == columns.0.len() => None,
        Ok(found) => Some(csv::Broken::Fields { found, expected: columns.0.len() }),
        Err(broken) => Some(broken),
    };
    if let Some(broken) = broken {
        let within = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let last = number + memchr::memchr_iter(b'\n', within).count() as u64;
        let problem = Problem::invalid("", format!("{broken}{}", read_as_one(number, last)));
        return Err(Refused { key: None, problem, malformed: true });
    }
    let text = |field: Field| {
        let value = &values[field as usize];
        (!value.is_empty()).then(|| Text(Cow::Borrowed(&**value)))
    };
    let amount = |field: Field| text(field).map(|text| AmountInput(text.0.parse()));
    // `none` is what null is in JSON: an empty field has the default.
    let bound = |field: Field| text(field).map(|text| (text.0 != "none").then(|| AmountInput(text.0.parse())));
    let refused =
        |problem| Refused { key: text(Field::Key).map(|text| text.0.into_owned()), problem, malformed: false };
    let metadata = match &*values[Field::Metadata as usize] {
        "" => None,
        json => Some(
            serde_json::from_str::<&RawValue>(json)
                .map_err(|_| refused(Problem::invalid("/metadata", "expected a JSON object")))?,
        ),
    };
    let legs = array(&values[Field::Legs as usize], "/legs").map_err(refused)?;
    let rates = array(&values[Field::Rates as usize], "/rates").map_err(refused)?;
    let line = Line {
        r#type: text(Field::Type),
        key: text(Field::Key),
        code: text(Field::Code),
        account: text(Field::Account),
        asset: text(Field::Asset),
        normal: text(Field::Normal),
        min_balance: bound(Field::MinBalance),
        max_balance: bound(Field::MaxBalance),
        from: text(Field::From),
        to: text(Field::To),
        amount: amount(Field::Amount),
        side: text(Field::Side),
        equity: text(Field::Equity),
        legs,
        rates,
        effective_at: text(Field::EffectiveAt),
        reference: text(Field::Reference),
        description: text(Field::Description),
        metadata,
    };
    line.into_item(number, defaults)
}

/// What to add to a refusal of a record of several lines, so that no line of the file goes unmentioned.
pub fn read_as_one(number: u64, last: u64) -> String {
    if number == last {
        return String::new();
    }
    format!(
        "; lines {number} to {last} were read as one, because a quoted field goes on over line breaks until it is closed"
    )
}

/// The JSON array in a field of CSV, if the field is not empty.
fn array<'a, T: Deserialize<'a>>(json: &'a str, pointer: &str) -> Result<Option<T>, Problem> {
    match json {
        "" => Ok(None),
        json => body::parse_at(json.as_bytes(), pointer).map(Some),
    }
}

impl<'a> Line<'a> {
    fn into_item(self, number: u64, defaults: &Defaults) -> Result<(Kind, Item), Refused> {
        let key = self.key.as_ref().map(|key| key.0.to_string());
        let key = key.or_else(|| defaults.id.as_ref().map(|id| format!("{id}:{number}")));
        match self.command(key.as_deref(), defaults) {
            Ok(made) => Ok(made),
            Err(problem) => Err(Refused { key, problem, malformed: false }),
        }
    }

    fn command(self, key: Option<&str>, defaults: &Defaults) -> Result<(Kind, Item), Problem> {
        match self.r#type.as_ref().map(|text| &*text.0) {
            None | Some("payment") => {
                self.check("a payment", PAYMENT_NEEDED, PAYMENT)?;
                self.payment(Kind::Payment, key, defaults)
            }
            Some("transaction") => {
                self.check("a transaction", TRANSACTION_NEEDED, TRANSACTION)?;
                self.transaction(key, defaults)
            }
            Some("account") => {
                self.check("an account", ACCOUNT_NEEDED, ACCOUNT)?;
                self.open().map(|item| (Kind::Account, item))
            }
            Some("opening_balance") => {
                self.check("an opening balance", OPENING_NEEDED, OPENING)?;
                self.opening_balance(key, defaults)
            }
            Some(_) => {
                Err(Problem::invalid("/type", "expected one of: payment, transaction, account, opening_balance"))
            }
        }
    }

    /// Which fields are there.
    fn present(&self) -> u32 {
        let bit = |field: Field, is_there: bool| if is_there { field.bit() } else { 0 };
        bit(Field::Type, self.r#type.is_some())
            | bit(Field::Key, self.key.is_some())
            | bit(Field::Code, self.code.is_some())
            | bit(Field::Account, self.account.is_some())
            | bit(Field::Asset, self.asset.is_some())
            | bit(Field::Normal, self.normal.is_some())
            | bit(Field::MinBalance, self.min_balance.is_some())
            | bit(Field::MaxBalance, self.max_balance.is_some())
            | bit(Field::From, self.from.is_some())
            | bit(Field::To, self.to.is_some())
            | bit(Field::Amount, self.amount.is_some())
            | bit(Field::Side, self.side.is_some())
            | bit(Field::Equity, self.equity.is_some())
            | bit(Field::Legs, self.legs.is_some())
            | bit(Field::Rates, self.rates.is_some())
            | bit(Field::EffectiveAt, self.effective_at.is_some())
            | bit(Field::Reference, self.reference.is_some())
            | bit(Field::Description, self.description.is_some())
            | bit(Field::Metadata, self.metadata.is_some())
    }

    fn check(&self, what: &str, needed: u32, allowed: u32) -> Result<(), Problem> {
        let present = self.present();
        if present & needed == needed && present & !allowed == 0 {
            return Ok(());
        }
        let errors = Field::ALL.iter().filter_map(|(field, name)| {
            let detail = match field.bit() {
                bit if needed & bit != 0 && present & bit == 0 => "this is required".to_owned(),
                bit if present & !allowed & bit != 0 => format!("{what} has no such field; leave it out"),
                _ => return None,
            };
            Some(FieldError { pointer: format!("/{name}"), detail })
        });
        Err(Problem::validation(errors.collect()))
    }

    fn open(self) -> Result<Item, Problem> {
        let text = |text: Option<Text<'a>>| text.unwrap_or_default().0;
        let input = AccountInput {
            code: text(self.code),
            asset: text(self.asset),
            normal: self.normal.map(|text| text.0),
            min_balance: self.min_balance,
            max_balance: self.max_balance,
            metadata: self.metadata,
        };
        let open = accounts::command(input).map_err(Problem::validation)?;
        Ok(Item { command: Command::OpenAccount(open), key: None })
    }

    /// A transaction between the account and the equity account.
    fn opening_balance(mut self, key: Option<&str>, defaults: &Defaults) -> Result<(Kind, Item), Problem> {
        let side = match self.side.as_ref().map(|text| Side::parse(&text.0)) {
            None => Side::Credit,
            Some(Some(side)) => side,
            Some(None) => return Err(Problem::invalid("/side", "side is credit or debit")),
        };
        let equity = self.equity.take().or_else(|| defaults.equity.clone().map(|code| Text(Cow::Owned(code))));
        let equity = equity.ok_or_else(|| {
            Problem::invalid("/equity", "name the account that the balance comes from, here or with ?equity=")
        })?;
        let account = self.account.take().unwrap_or_default();
        (self.from, self.to) = match side {
            Side::Credit => (Some(equity), Some(account)),
            Side::Debit => (Some(account), Some(equity)),
        };
        self.payment(Kind::OpeningBalance(side), key, defaults)
    }

    fn payment(self, kind: Kind, key: Option<&str>, defaults: &Defaults) -> Result<(Kind, Item), Problem> {
        let text = |text: Option<Text<'a>>| text.unwrap_or_default().0;
        let input = PaymentInput {
            from: text(self.from),
            to: text(self.to),
            amount: self.amount.unwrap_or(AmountInput(Err(crate::ledger::amount::ParseAmountError::NotAnInteger))),
            asset: text(self.asset),
            reference: self.reference.map(|text| text.0),
            description: self.description.map(|text| text.0),
            metadata: self.metadata,
            effective_at: self.effective_at.map(|text| text.0),
            capture: None,
            expires_at: None,
            expires_in_s: None,
        };
        item(kind, key, requests::payment(input), defaults)
    }

    fn transaction(self, key: Option<&str>, defaults: &Defaults) -> Result<(Kind, Item), Problem> {
        let input = TransactionInput {
            legs: self.legs.unwrap_or_default(),
            rates: self.rates,
            reference: self.reference.map(|text| text.0),
            description: self.description.map(|text| text.0),
            metadata: self.metadata,
            effective_at: self.effective_at.map(|text| text.0),
        };
        item(Kind::Transaction, key, requests::transaction(input), defaults)
    }
}

/// The command of a line with its key. What lies in the future is refused: an
/// import records what has happened.
fn item(
    kind: Kind,
    key: Option<&str>,
    request: Result<TransactionRequest, Vec<FieldError>>,
    defaults: &Defaults,
) -> Result<(Kind, Item), Problem> {
    let key = match key {
        None => {
            let detail = "every line has a key of its own, or the import an id (?id=)";
            return Err(Problem::new(Code::IdempotencyKeyMissing, detail).at("/key"));
        }
        Some(key) if !idempotency::is_valid(key) => {
            return Err(Problem::invalid("/key", "an idempotency key has 1 to 255 visible ASCII characters"));
        }
        Some(key) => key,
    };
    let request = request.map_err(|errors| kind.pointing(Problem::validation(errors)))?;
    if request.effective_at.is_some_and(|time| time > defaults.now) {
        let detail = "an import records what has happened: this lies in the future";
        return Err(Problem::invalid("/effective_at", detail));
    }
    let command = Command::Transact(request);
    let key = idempotency::key(key, Route::ImportLine, [&command]);
    Ok((kind, Item { command, key: Some(key) }))
}

impl Kind {
    /// How a line of this kind names accounts.
    pub const fn shape(self) -> Shape {
        match self {
            Self::Transaction => Shape::Legs,
            Self::Account | Self::Payment | Self::OpeningBalance(_) => Shape::Payment,
        }
    }

    /// A problem of a transaction, at the fields that this kind of line has for its legs.
    pub fn pointing(self, mut problem: Problem) -> Problem {
        let Self::OpeningBalance(side) = self else { return problem };
        for error in &mut problem.errors {
            let account = match (&*error.pointer, side) {
                ("/to", Side::Credit) | ("/from", Side::Debit) => "/account",
                ("/from" | "/to", _) => "/equity",
                _ => continue,
            };
            account.clone_into(&mut error.pointer);
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Amount;

    fn defaults() -> Defaults {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        Defaults { id: Some("i".to_owned()), equity: None, now }
    }

    fn transaction(item: &Item) -> &TransactionRequest {
        match &item.command {
            Command::Transact(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn refused(json: &str) -> (Vec<String>, bool) {
        let refused = from_json(json.as_bytes(), 7, &defaults()).unwrap_err();
        (refused.problem.errors.iter().map(|error| error.pointer.clone()).collect(), refused.malformed)
    }

    #[test]
    fn a_line_is_the_same_in_both_formats() {
        let columns = Columns::new(b"type,key,from,to,amount,asset,reference,effective_at,metadata").unwrap();
        let csv = br#"payment,k,'-a,b,12,EUR,"x, ""y""",2020-01-31,"{""a"":1}""#;
        let json = br#"{"from":"-a","to":"b","amount":"12","asset":"EUR","reference":"x, \"y\"","key":"k",
            "effective_at":"2020-01-31T00:00:00Z","metadata":{"a":1}}"#;
        let (kind, from_csv) = from_csv(csv, &columns, 2, &defaults()).unwrap();
        let (_, from_json) = from_json(json, 9, &defaults()).unwrap();
        assert_eq!(kind, Kind::Payment);
        assert_eq!((&from_csv.command, &from_csv.key), (&from_json.command, &from_json.key));
        assert_eq!(transaction(&from_csv).effective_at, Some("2020-01-31T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn a_line_without_a_key_has_one_by_its_number() {
        let line = br#"{"from":"a","to":"b","amount":1,"asset":"EUR"}"#;
        let (_, item) = from_json(line, 17, &defaults()).unwrap();
        assert_eq!(&*item.key.unwrap().text, "i:17");
        let without_id = Defaults { id: None, ..defaults() };
        let refused = from_json(line, 17, &without_id).unwrap_err();
        assert_eq!(refused.problem.code, Code::IdempotencyKeyMissing);
    }

    #[test]
    fn an_opening_balance_comes_from_the_equity_account() {
        let line = r#"{"type":"opening_balance","account":"w","amount":"5","asset":"EUR","side":"SIDE","equity":"e"}"#;
        for (side, from, to) in [("credit", "e", "w"), ("debit", "w", "e")] {
            let (kind, item) = from_json(line.replace("SIDE", side).as_bytes(), 1, &defaults()).unwrap();
            let legs = &transaction(&item).legs;
            assert_eq!((legs[0].account.as_str(), legs[1].account.as_str()), (from, to));
            assert_eq!(legs[0].amount, Amount::from(5));
            let problem = kind.pointing(Problem::invalid("/from", "x"));
            assert_eq!(problem.errors[0].pointer, if from == "e" { "/equity" } else { "/account" });
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_field() {
        let check = |json: &str, pointers: &[&str], malformed: bool| {
            let expected = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
            assert_eq!(refused(json), (expected, malformed), "{json}");
        };
        check("{", &[], true);
        check("[]", &[""], true);
        check(r#"{"x":1}"#, &["/x"], true);
        check(r#"{"from":"a"}"#, &["/asset", "/to", "/amount"], false);
        check(r#"{"type":"x"}"#, &["/type"], false);
        check(r#"{"type":"account","code":"a","asset":"EUR","from":"b"}"#, &["/from"], false);
        // Its code is what it is known by: a key would be kept nowhere.
        check(r#"{"type":"account","code":"a","asset":"EUR","key":"k"}"#, &["/key"], false);
        check(r#"{"from":"a b","to":"b","amount":"0","asset":"EUR"}"#, &["/from", "/amount"], false);
        let line = r#"{"from":"a","to":"b","amount":1,"asset":"EUR","effective_at":"TIME"}"#;
        for time in ["2026-11-24T12:00:01Z", "yesterday", "2020-13-01"] {
            check(&line.replace("TIME", time), &["/effective_at"], false);
        }
    }

    #[test]
    fn a_header_names_fields_once() {
        assert!(Columns::new(b"from,to,amount,asset").is_ok());
        for header in ["from,iban", "from,from", "\"from", ""] {
            assert!(Columns::new(header.as_bytes()).is_err(), "{header}");
        }
    }
}
