//! Velocity limits: what they count, for whom, and what an event says of it.

use chrono::{DateTime, TimeDelta, Utc};
use smallvec::SmallVec;
use steelyard::ledger::decide::event;
use steelyard::ledger::{
    AccountCode, AccountUpdate, Amount, AssetCode, Book, Capture, ChangeAccount, Command, Direction, Event, Expiry,
    Fact, Freeze, FreezeScope, Known, Moment, Notes, OpenAccount, Part, Rejection, Reverse, Rule, RuleKey, Scope,
    Terms, TransactionRequest, VelocityLimit, Verdict, Window, decide,
};
use uuid::Uuid;

const BEGIN: i64 = 1_800_000_000;

/// A book, its log and a clock.
#[derive(Default)]
struct Ledger {
    book: Book,
    log: Vec<Event>,
    seconds: i64,
}

impl Ledger {
    fn begin() -> Self {
        let mut ledger = Self::default();
        ledger.book.load_asset(eur(), 2);
        for (code, floor) in [("bank", None), ("a", Some(Amount::ZERO)), ("ab", Some(Amount::ZERO)), ("b", None)] {
            ledger.run(&Command::OpenAccount(OpenAccount {
                code: code_of(code),
                asset: eur(),
                normal: None,
                min_balance: Some(floor),
                max_balance: None,
                metadata: None,
            }));
        }
        ledger.pay("bank", "a", 10_000).unwrap();
        ledger.pay("bank", "ab", 10_000).unwrap();
        ledger
    }

    fn moment(&self) -> Moment {
        let position = self.log.len() as u64 + 1;
        Moment { position, recorded_at: at(self.seconds), transaction_id: Uuid::from_u128(u128::from(position)) }
    }

    fn run(&mut self, command: &Command) -> Verdict {
        let moment = self.moment();
        let verdict = decide(&self.book, command, &moment);
        if let Verdict::Record(fact) = &verdict {
            let event = event(&self.book, command, fact.clone(), None, &moment);
            self.book.apply(&event).unwrap();
            self.log.push(event);
        }
        verdict
    }

    /// The rejection, or the transaction's id.
    fn moved(&mut self, command: &Command) -> Result<Uuid, Rejection> {
        match self.run(command) {
            Verdict::Record(Fact::TransactionRejected(rejected)) => Err(rejected.reason),
            Verdict::Record(_) => Ok(self.log.last().unwrap().transaction_id.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn pay(&mut self, from: &str, to: &str, amount: u64) -> Result<Uuid, Rejection> {
        self.moved(&Command::Transact(payment(from, to, amount)))
    }

    fn limit(&mut self, limit: VelocityLimit) {
        assert!(matches!(self.run(&Command::SetRule(Rule::VelocityLimit(limit))), Verdict::Record(_)));
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(BEGIN + seconds, 0).unwrap()
}

fn eur() -> AssetCode {
    AssetCode::new("EUR").unwrap()
}

fn code_of(code: &str) -> AccountCode {
    AccountCode::new(code).unwrap()
}

fn payment(from: &str, to: &str, amount: u64) -> TransactionRequest {
    TransactionRequest::payment(code_of(from), code_of(to), Amount::from(amount), eur())
}

/// At most two legs out, and 100 in all, within an hour.
fn two_an_hour(scope: Scope) -> VelocityLimit {
    VelocityLimit {
        name: "two an hour".into(),
        scope,
        asset: Some(eur()),
        direction: Direction::Out,
        window: Window::Rolling { seconds: 3_600 },
        count_max: Some(2),
        amount_max: Some(Amount::from(100)),
    }
}

fn exceeded(rejection: &Rejection) -> (&str, &str, Option<DateTime<Utc>>) {
    match rejection {
        Rejection::VelocityLimitExceeded { account, limit, passes_at } => (account.as_str(), limit, *passes_at),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_third_leg_within_the_window_is_declined_until_the_first_has_left() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Account("a".into())));
    ledger.seconds = 600;
    ledger.pay("a", "b", 10).unwrap();
    ledger.seconds = 1_200;
    ledger.pay("a", "b", 10).unwrap();
    let declined = ledger.pay("a", "b", 10).unwrap_err();
    let passes_at = at(600) + TimeDelta::seconds(60 + 3_600);
    assert_eq!(exceeded(&declined), ("a", "two an hour", Some(passes_at)));
    // Money that comes in is not counted, and nor is another account.
    ledger.pay("bank", "a", 500).unwrap();
    ledger.pay("ab", "b", 500).unwrap();
    ledger.seconds = 600 + 60 + 3_600 - 1;
    assert!(ledger.pay("a", "b", 10).is_err());
    ledger.seconds += 1;
    ledger.pay("a", "b", 10).unwrap();
}

#[test]
fn a_sum_above_the_limit_never_passes_and_one_below_passes_later() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Account("a".into())));
    assert_eq!(exceeded(&ledger.pay("a", "b", 101).unwrap_err()), ("a", "two an hour", None));
    ledger.pay("a", "b", 60).unwrap();
    assert!(exceeded(&ledger.pay("a", "b", 41).unwrap_err()).2.is_some());
    ledger.pay("a", "b", 40).unwrap();
}

#[test]
fn each_account_below_a_prefix_has_the_limit_for_itself() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Prefix("a".into())));
    for account in ["a", "ab"] {
        ledger.pay(account, "b", 10).unwrap();
        ledger.pay(account, "b", 10).unwrap();
        assert_eq!(exceeded(&ledger.pay(account, "b", 10).unwrap_err()).0, account);
    }
}

#[test]
fn a_day_ends_at_midnight_of_its_zone() {
    let mut ledger = Ledger::begin();
    let zone = chrono_tz::Asia::Tokyo;
    ledger.limit(VelocityLimit { window: Window::Day { zone }, ..two_an_hour(Scope::Account("a".into())) });
    ledger.pay("a", "b", 10).unwrap();
    ledger.pay("a", "b", 10).unwrap();
    let passes_at = exceeded(&ledger.pay("a", "b", 10).unwrap_err()).2.unwrap();
    assert_eq!(passes_at.with_timezone(&zone).time(), chrono::NaiveTime::MIN);
    ledger.seconds = (passes_at - at(0)).num_seconds();
    ledger.pay("a", "b", 10).unwrap();
}

#[test]
fn holds_count_when_they_are_authorised_and_captures_and_reversals_do_not() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Account("a".into())));
    let terms = Terms { hold: Some(Expiry::Never), ..Terms::default() };
    let hold = TransactionRequest { terms: Some(Box::new(terms)), ..payment("a", "b", 10) };
    let hold = ledger.moved(&Command::Transact(hold)).unwrap();
    let paid = ledger.pay("a", "b", 10).unwrap();
    assert!(ledger.pay("a", "b", 10).is_err());
    let notes = Notes::default;
    ledger.moved(&Command::Capture(Capture { payment: hold, amount: None, last: false, notes: notes() })).unwrap();
    // The counterpart of a payment to `a` goes out of it, and is not counted.
    let received = ledger.pay("bank", "a", 10).unwrap();
    for transaction in [received, paid] {
        let begun = ledger.log.iter().find(|event| event.transaction_id == Some(transaction)).unwrap();
        ledger.book.load_known(transaction, Known::begun_by(begun).unwrap());
        let reverse = Reverse { transaction, part: Part::Rest, force: false, notes: notes() };
        ledger.moved(&Command::Reverse(reverse)).unwrap();
    }
    assert!(ledger.pay("a", "b", 10).is_err(), "what was reversed had moved all the same");
}

#[test]
fn what_is_scheduled_counts_when_it_is_posted() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Account("a".into())));
    let later = TransactionRequest { effective_at: Some(at(100)), ..payment("a", "b", 10) };
    let scheduled = ledger.moved(&Command::Transact(later)).unwrap();
    ledger.pay("a", "b", 10).unwrap();
    ledger.pay("a", "b", 10).unwrap();
    ledger.seconds = 100;
    assert_eq!(exceeded(&ledger.moved(&Command::Settle(scheduled)).unwrap_err()).0, "a");
}

#[test]
fn all_legs_of_a_transaction_count_together() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Account("a".into())));
    let pairs: SmallVec<[_; 2]> = (0..3).flat_map(|_| payment("a", "b", 10).legs).collect();
    let three = TransactionRequest { kind: steelyard::ledger::Kind::Transaction, legs: pairs, ..payment("a", "b", 10) };
    assert_eq!(exceeded(&ledger.moved(&Command::Transact(three.clone())).unwrap_err()).0, "a");
    let two = TransactionRequest { legs: three.legs[..4].into(), ..three };
    ledger.moved(&Command::Transact(two)).unwrap();
    assert!(ledger.pay("a", "b", 10).is_err());
}

#[test]
fn a_freeze_comes_before_a_limit_and_a_limit_before_a_floor() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Account("a".into())));
    assert_eq!(ledger.pay("a", "b", 1_000_000).unwrap_err().code(), "velocity_limit_exceeded");
    let freeze = Freeze { scope: FreezeScope::All, reason: "lost card".into() };
    ledger.run(&Command::ChangeAccount(ChangeAccount { code: code_of("a"), change: AccountUpdate::Freeze(freeze) }));
    assert_eq!(ledger.pay("a", "b", 1_000_000).unwrap_err().code(), "account_frozen");
}

#[test]
fn a_limit_that_is_set_again_counts_anew_and_one_that_is_removed_not_at_all() {
    let mut ledger = Ledger::begin();
    let limit = two_an_hour(Scope::Account("a".into()));
    ledger.limit(limit.clone());
    ledger.pay("a", "b", 10).unwrap();
    ledger.pay("a", "b", 10).unwrap();
    assert_eq!(ledger.run(&Command::SetRule(Rule::VelocityLimit(limit.clone()))), Verdict::Unchanged);
    assert!(ledger.pay("a", "b", 10).is_err());
    ledger.limit(VelocityLimit { count_max: Some(1), ..limit.clone() });
    ledger.pay("a", "b", 10).unwrap();
    assert!(ledger.pay("a", "b", 10).is_err());
    ledger.run(&Command::RemoveRule(RuleKey::VelocityLimit(limit.name)));
    ledger.pay("a", "b", 1_000).unwrap();
}

#[test]
fn what_is_taken_back_was_never_counted() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Account("a".into())));
    ledger.pay("a", "b", 10).unwrap();
    let (mark, length) = (ledger.book.mark(), ledger.log.len());
    let counted = ledger.book.counters(&code_of("a")).cloned();
    ledger.pay("a", "b", 10).unwrap();
    assert_ne!(ledger.book.counters(&code_of("a")).cloned(), counted);
    ledger.book.roll_back(mark);
    ledger.log.truncate(length);
    assert_eq!(ledger.book.counters(&code_of("a")).cloned(), counted);
    ledger.pay("a", "b", 10).unwrap();
}

/// Whoever follows the log finds the same counters, and notices one that is wrong.
#[test]
fn the_log_says_what_was_counted() {
    let mut ledger = Ledger::begin();
    ledger.limit(two_an_hour(Scope::Prefix("".into())));
    for (seconds, from) in [(10, "a"), (70, "ab"), (130, "a"), (3_800, "a")] {
        ledger.seconds = seconds;
        ledger.pay(from, "b", 10).unwrap();
    }
    let mut replayed = Book::default();
    replayed.load_asset(eur(), 2);
    let (last, before) = ledger.log.split_last().unwrap();
    before.iter().for_each(|event| replayed.apply(event).unwrap());
    let mut wrong = last.clone();
    if let Fact::TransactionPosted(transaction) = &mut wrong.fact {
        transaction.more.as_mut().unwrap().usage[0].counted.count += 1;
    }
    assert!(replayed.apply(&wrong).is_err());
    if let Fact::TransactionPosted(transaction) = &mut wrong.fact {
        transaction.more = None;
    }
    assert!(replayed.apply(&wrong).is_err());
    replayed.apply(last).unwrap();
    for code in ["a", "ab", "b", "bank"] {
        assert_eq!(replayed.counters(&code_of(code)), ledger.book.counters(&code_of(code)));
    }
}
