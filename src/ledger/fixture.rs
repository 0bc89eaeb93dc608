//! A small ledger for the tests of the core.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use smallvec::SmallVec;
use uuid::Uuid;

use super::decide::event;
use super::{
    AccountCode, AccountUpdate, Amount, AssetCode, Book, Capture, ChangeAccount, Command, Event, Expiry, Fact, Freeze,
    FreezeScope, Kind, Known, LegRequest, Moment, Notes, OpenAccount, Part, Place, Position, Refusal, Rejection,
    Reverse, Side, State, Terms, TransactionRequest, Verdict, Void, decide,
};

/// A book with `bank`, which has no floor, and other accounts in EUR without limits.
/// Whatever it records is taken back once and done again.
pub struct Ledger {
    pub book: Book,
    pub head: Position,
    /// Seconds since [`moment`] 0.
    pub now: i64,
}

/// `seconds` after a day in 2027.
pub fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::seconds(seconds)
}

pub fn code(text: &str) -> AccountCode {
    AccountCode::new(text).unwrap()
}

pub fn asset(text: &str) -> AssetCode {
    AssetCode::new(text).unwrap()
}

pub fn amount(value: i128) -> Amount {
    Amount::new(value).unwrap()
}

/// The id that a transaction has which was recorded first at `position`.
pub fn id(position: Position) -> Uuid {
    Uuid::from_u128(u128::from(position))
}

pub fn leg(side: Side, account: &str, value: i128, unit: &str) -> LegRequest {
    LegRequest { account: code(account), side, amount: amount(value), asset: asset(unit) }
}

/// `debit alice 10 EUR, credit bob 10 EUR`.
pub fn legs(text: &str) -> SmallVec<[LegRequest; 2]> {
    let legs = text.split(", ").map(|text| match *text.split(' ').collect::<Vec<_>>() {
        [side, account, value, unit] => leg(Side::parse(side).unwrap(), account, value.parse().unwrap(), unit),
        _ => panic!("{text:?} is no leg"),
    });
    legs.collect()
}

pub fn payment(from: &str, to: &str, value: i128) -> TransactionRequest {
    TransactionRequest::payment(code(from), code(to), amount(value), asset("EUR"))
}

pub fn transaction(text: &str) -> TransactionRequest {
    TransactionRequest { kind: Kind::Transaction, legs: legs(text), ..payment("x", "y", 1) }
}

pub fn pay(from: &str, to: &str, value: i128) -> Command {
    Command::Transact(payment(from, to, value))
}

pub fn pay_at(from: &str, to: &str, value: i128, effective_at: DateTime<Utc>) -> Command {
    Command::Transact(TransactionRequest { effective_at: Some(effective_at), ..payment(from, to, value) })
}

pub fn hold(from: &str, to: &str, value: i128, expiry: Expiry) -> Command {
    let terms = Some(Box::new(Terms { hold: Some(expiry), ..Terms::default() }));
    Command::Transact(TransactionRequest { terms, ..payment(from, to, value) })
}

pub fn capture(payment: Uuid, value: Option<i128>, last: bool) -> Command {
    Command::Capture(Capture { payment, amount: value.map(amount), last, notes: Notes::default() })
}

pub fn void(payment: Uuid) -> Command {
    Command::Void(Void { payment })
}

pub fn reverse(transaction: Uuid, part: Part, force: bool) -> Command {
    Command::Reverse(Reverse { transaction, part, force, notes: Notes::default() })
}

pub fn change(account: &str, change: AccountUpdate) -> Command {
    Command::ChangeAccount(ChangeAccount { code: code(account), change })
}

pub fn freeze(account: &str, scope: FreezeScope) -> Command {
    change(account, AccountUpdate::Freeze(Freeze { scope, reason: Arc::from("because") }))
}

pub fn limits(account: &str, min_balance: Option<i128>, max_balance: Option<i128>) -> Command {
    let (min_balance, max_balance) = (Some(min_balance.map(amount)), Some(max_balance.map(amount)));
    change(account, AccountUpdate::Update { min_balance, max_balance, metadata: None })
}

pub fn open(account: &str) -> OpenAccount {
    OpenAccount {
        code: code(account),
        asset: asset("EUR"),
        normal: None,
        min_balance: None,
        max_balance: None,
        metadata: None,
    }
}

impl Ledger {
    /// With these accounts, each with 1000 from `bank` in cents, and without a floor.
    pub fn with(accounts: &[&str]) -> Self {
        let mut ledger = Self { book: Book::default(), head: 0, now: 0 };
        for (code, scale) in [("EUR", 2), ("USD", 2), ("JPY", 0)] {
            ledger.book.load_asset(asset(code), scale);
        }
        for account in ["bank"].iter().chain(accounts) {
            ledger.record(&Command::OpenAccount(OpenAccount { min_balance: Some(None), ..open(account) }));
        }
        for account in accounts {
            ledger.record(&pay("bank", account, 1000));
        }
        ledger
    }

    pub fn at(&mut self, seconds: i64) -> &mut Self {
        self.now = seconds;
        self
    }

    pub fn decide(&self, command: &Command) -> Verdict {
        decide(&self.book, command, &self.next())
    }

    /// Does a command that is to be recorded, and gives the event.
    pub fn record(&mut self, command: &Command) -> Event {
        match self.decide(command) {
            Verdict::Record(fact) => {
                let event = event(&self.book, command, fact, None, &self.next());
                self.apply(&event);
                event
            }
            other => panic!("{command:?}: {other:?}"),
        }
    }

    /// The id of a transaction that begins with the command.
    pub fn begin(&mut self, command: &Command) -> Uuid {
        let event = self.record(command);
        let id = event.transaction_id.unwrap();
        if let Some(known) = Known::begun_by(&event) {
            self.book.load_known(id, known);
        }
        id
    }

    /// Does a command that is to be declined on the record, and gives the reason.
    pub fn rejection(&mut self, command: &Command) -> Rejection {
        match self.record(command).fact {
            Fact::TransactionRejected(rejected) => rejected.reason,
            other => panic!("{command:?}: {other:?}"),
        }
    }

    pub fn refusal(&self, command: &Command) -> Refusal {
        match self.decide(command) {
            Verdict::Refuse(refusal) => refusal,
            other => panic!("{command:?}: {other:?}"),
        }
    }

    pub fn is_invalid(&self, command: &Command) -> bool {
        matches!(self.refusal(command), Refusal::Invalid { .. })
    }

    /// What breaks a rule in a command that is invalid.
    pub fn wrong_place(&self, command: &Command) -> Place {
        match self.refusal(command) {
            Refusal::Invalid { place, .. } => place,
            other => panic!("{command:?}: {other:?}"),
        }
    }

    pub fn apply(&mut self, event: &Event) {
        let (before, mark) = (self.state(), self.book.mark());
        self.book.apply(event).unwrap();
        let after = self.state();
        self.book.roll_back(mark);
        assert_eq!(self.state(), before, "taken back, {event:?} leaves nothing behind");
        self.book.apply(event).unwrap();
        assert_eq!(self.state(), after);
        self.head = event.position;
    }

    /// Posted, what will go out and what will come in, on the normal side.
    pub fn balance(&self, account: &str) -> (i128, i128, i128) {
        let account = self.book.account(&code(account)).unwrap();
        let (balance, normal) = (&account.balance, account.normal);
        (balance.posted(normal).get(), balance.pending_out(normal).get(), balance.pending_in(normal).get())
    }

    pub fn state_of(&self, id: Uuid) -> &State {
        &self.book.known(&id).unwrap().state
    }

    pub fn next(&self) -> Moment {
        let position = self.head + 1;
        Moment { position, recorded_at: moment(self.now), transaction_id: id(position) }
    }

    /// All that the book holds, in some text.
    pub fn state(&self) -> String {
        let mut accounts: Vec<_> = self.book.accounts().collect();
        accounts.sort_by_key(|account| account.id);
        let known: Vec<_> = (1..=self.head + 1).map(|position| self.book.known(&id(position))).collect();
        let due: Vec<_> = self.book.due(None, DateTime::<Utc>::MAX_UTC).collect();
        let rules: Vec<_> = self.book.rules().collect();
        let (weight, closed_before) = (self.book.waiting_weight(), self.book.closed_before());
        format!("{accounts:?} {known:?} {due:?} {weight} {rules:?} {closed_before:?}")
    }
}
