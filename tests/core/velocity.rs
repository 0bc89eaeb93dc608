//! Velocity limits: what they count, for whom, and what an event says of it.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use smallvec::SmallVec;
use steelyard::ledger::decide::{batch_rejected, event};
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

    /// All of the requests, or the rejection of all, as the sequencer does it.
    fn together(&mut self, requests: &[TransactionRequest]) -> Result<(), Rejection> {
        let commands: Vec<Command> = requests.iter().cloned().map(Command::Transact).collect();
        let (mark, length) = (self.book.mark(), self.log.len());
        for (item, command) in commands.iter().enumerate() {
            let moment = self.moment();
            match decide(&self.book, command, &moment) {
                Verdict::Record(Fact::TransactionRejected(rejected)) => {
                    self.book.roll_back(mark);
                    self.log.truncate(length);
                    match batch_rejected(&self.book, &commands, item, rejected, moment.recorded_at) {
                        Fact::BatchRejected { rejected, .. } => return Err(rejected.reason),
                        other => panic!("{other:?}"),
                    }
                }
                Verdict::Record(fact) => {
                    let event = event(&self.book, command, fact, None, &moment);
                    self.book.apply(&event).unwrap();
                    self.log.push(event);
                }
                other => panic!("{other:?}"),
            }
        }
        Ok(())
    }

    /// What [`Self::together`] would say at another time, if nothing else happened.
    fn would_pass(&mut self, requests: &[TransactionRequest], seconds: i64) -> bool {
        let (mark, length, now) = (self.book.mark(), self.log.len(), self.seconds);
        self.seconds = seconds;
        let passed = self.together(requests).is_ok();
        self.book.roll_back(mark);
        self.log.truncate(length);
        self.seconds = now;
        passed
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

fn rolling(name: &str, account: &str, seconds: u32, count_max: Option<u32>, amount_max: Option<u64>) -> VelocityLimit {
    VelocityLimit {
        name: name.into(),
        window: Window::Rolling { seconds },
        count_max,
        amount_max: amount_max.map(Amount::from),
        ..two_an_hour(Scope::Account(account.into()))
    }
}

fn transaction(legs: impl IntoIterator<Item = TransactionRequest>) -> TransactionRequest {
    let legs = legs.into_iter().flat_map(|payment| payment.legs).collect();
    TransactionRequest { kind: steelyard::ledger::Kind::Transaction, legs, ..payment("a", "b", 1) }
}

/// The request's own legs are no history: they come again with the request.
#[test]
fn legs_that_together_exceed_a_limit_pass_at_no_time() {
    let mut ledger = Ledger::begin();
    ledger.limit(rolling("hundred", "a", 60, None, Some(100)));
    ledger.limit(rolling("three", "ab", 60, Some(3), None));
    let twice = |amount| Command::Transact(transaction([payment("a", "b", amount), payment("a", "b", amount)]));
    assert_eq!(exceeded(&ledger.moved(&twice(60)).unwrap_err()), ("a", "hundred", None));
    let four = transaction((0..4).map(|_| payment("ab", "b", 1)));
    assert_eq!(exceeded(&ledger.moved(&Command::Transact(four)).unwrap_err()), ("ab", "three", None));
    // Where all of them fit, they pass when there is room for all.
    ledger.pay("a", "b", 1).unwrap();
    assert_eq!(exceeded(&ledger.moved(&twice(50)).unwrap_err()).2, Some(at(61)));
    ledger.seconds = 61;
    ledger.moved(&twice(50)).unwrap();
}

#[test]
fn a_payment_passes_when_the_last_of_the_limits_lets_it_pass() {
    let mut ledger = Ledger::begin();
    ledger.limit(rolling("often", "a", 60, Some(1), None));
    ledger.limit(rolling("much", "a", 7_200, None, Some(100)));
    ledger.pay("a", "b", 80).unwrap();
    assert_eq!(exceeded(&ledger.pay("a", "b", 50).unwrap_err()), ("a", "often", Some(at(7_200 + 120))));
    assert_eq!(exceeded(&ledger.pay("a", "b", 20).unwrap_err()), ("a", "often", Some(at(61))));
    assert_eq!(exceeded(&ledger.pay("a", "b", 101).unwrap_err()), ("a", "often", None));
    ledger.seconds = 7_319;
    assert_eq!(exceeded(&ledger.pay("a", "b", 50).unwrap_err()), ("a", "much", Some(at(7_320))));
    ledger.seconds = 7_320;
    ledger.pay("a", "b", 50).unwrap();
}

#[test]
fn a_transaction_passes_when_the_limits_on_all_its_accounts_let_it_pass() {
    let mut ledger = Ledger::begin();
    ledger.limit(rolling("from a", "a", 60, Some(1), None));
    ledger.limit(VelocityLimit { direction: Direction::In, ..rolling("to b", "b", 3_600, None, Some(100)) });
    ledger.limit(rolling("from ab", "ab", 7_200, Some(1), None));
    ledger.pay("a", "b", 60).unwrap();
    assert_eq!(exceeded(&ledger.pay("a", "b", 50).unwrap_err()), ("a", "from a", Some(at(3_660))));
    assert_eq!(exceeded(&ledger.pay("a", "b", 101).unwrap_err()), ("a", "from a", None));
    ledger.pay("ab", "bank", 1).unwrap();
    let both = transaction([payment("a", "b", 50), payment("ab", "bank", 1)]);
    assert_eq!(exceeded(&ledger.moved(&Command::Transact(both)).unwrap_err()), ("a", "from a", Some(at(7_320))));
}

#[test]
fn an_atomic_batch_passes_when_all_of_its_items_do() {
    let mut ledger = Ledger::begin();
    ledger.limit(rolling("hundred", "a", 60, None, Some(100)));
    ledger.limit(rolling("three", "ab", 7_200, Some(3), None));
    let declined = ledger.together(&[payment("a", "b", 60), payment("a", "b", 60)]).unwrap_err();
    assert_eq!(exceeded(&declined), ("a", "hundred", None));
    let four: Vec<_> = (0..4).map(|_| payment("ab", "b", 1)).collect();
    assert_eq!(exceeded(&ledger.together(&four).unwrap_err()), ("ab", "three", None));
    // Items after the one that is declined come again with it.
    ledger.together(&[payment("a", "b", 60), payment("ab", "b", 1)]).unwrap();
    let again = [&[payment("a", "b", 50)], &four[1..]].concat();
    assert_eq!(exceeded(&ledger.together(&again).unwrap_err()), ("a", "hundred", Some(at(7_320))));
    let more = [&again[..], &[payment("a", "b", 51)]].concat();
    assert_eq!(exceeded(&ledger.together(&more).unwrap_err()), ("a", "hundred", None));
}

/// What is scheduled now is posted at once when its time has come before the batch passes.
#[test]
fn what_a_batch_schedules_counts_if_the_batch_passes_after_its_time() {
    let mut ledger = Ledger::begin();
    ledger.limit(rolling("hundred", "a", 60, None, Some(100)));
    ledger.pay("a", "b", 60).unwrap();
    let later = |seconds| TransactionRequest { effective_at: Some(at(seconds)), ..payment("a", "b", 60) };
    let passes_at = |ledger: &mut Ledger, seconds| {
        exceeded(&ledger.together(&[payment("a", "b", 60), later(seconds)]).unwrap_err()).2
    };
    assert_eq!(passes_at(&mut ledger, 62), Some(at(61)));
    assert_eq!(passes_at(&mut ledger, 61), None);
}

proptest! {
    /// Nothing passes before the time that a rejection states, and the same passes then.
    #[test]
    fn a_batch_passes_at_the_time_that_is_stated_and_not_before(
        limits in prop::collection::vec(any_limit(), 1..5),
        history in prop::collection::vec((0_i64..300, any_payment()), 0..12),
        batch in prop::collection::vec((any_payment(), prop::option::weighted(0.2, 1_i64..9_000)), 1..6),
        probes in prop::collection::vec(0.0_f64..1.0, 8),
    ) {
        let mut ledger = Ledger::begin();
        for (index, limit) in limits.into_iter().enumerate() {
            ledger.limit(VelocityLimit { name: format!("l{index}").into(), ..limit });
        }
        for (seconds, payment) in history {
            ledger.seconds += seconds;
            let _ = ledger.moved(&Command::Transact(payment));
        }
        let now = ledger.seconds;
        let batch: Vec<TransactionRequest> = batch
            .into_iter()
            .map(|(payment, later)| TransactionRequest { effective_at: later.map(|later| at(now + later)), ..payment })
            .collect();
        let Err(declined) = ledger.together(&batch) else { return Ok(()) };
        let (_, _, passes_at) = exceeded(&declined);
        let until = match passes_at {
            Some(passes_at) => {
                let seconds = (passes_at - at(0)).num_seconds();
                prop_assert!(ledger.would_pass(&batch, seconds), "it passes at {passes_at}");
                seconds - 1
            }
            None => now + 200_000,
        };
        for probe in probes.into_iter().chain([0.0, 1.0]) {
            let seconds = now + ((until - now) as f64 * probe) as i64;
            prop_assert!(!ledger.would_pass(&batch, seconds), "it passes {} s after now", seconds - now);
        }
    }
}

fn any_payment() -> impl Strategy<Value = TransactionRequest> {
    let parties = prop::sample::select(vec![("a", "b"), ("ab", "b"), ("a", "ab"), ("b", "a"), ("bank", "b")]);
    (parties, 1_u64..60).prop_map(|((from, to), amount)| payment(from, to, amount))
}

fn any_limit() -> impl Strategy<Value = VelocityLimit> {
    let scope = prop::sample::select(vec![
        Scope::Account("a".into()),
        Scope::Account("b".into()),
        Scope::Prefix("a".into()),
        Scope::Prefix("".into()),
    ]);
    let window = prop_oneof![
        3 => prop::sample::select(vec![60_u32, 600, 7_200]).prop_map(|seconds| Window::Rolling { seconds }),
        1 => Just(Window::Day { zone: chrono_tz::Europe::Zurich }),
    ];
    let direction = prop::sample::select(vec![Direction::In, Direction::Out]);
    let most = (prop::option::of(1_u32..5), 30_u64..150);
    (scope, window, direction, most).prop_map(|(scope, window, direction, (count_max, amount_max))| VelocityLimit {
        window,
        direction,
        count_max,
        amount_max: Some(Amount::from(amount_max)),
        ..two_an_hour(scope)
    })
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
