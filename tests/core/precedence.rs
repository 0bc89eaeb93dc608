//! Every refusal and every rejection once, and which one is given when several apply.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use smallvec::smallvec;
use steelyard::ledger::book::WAITING_MAX;
use steelyard::ledger::rule::RULES_MAX;
use steelyard::ledger::transaction::WEIGHT_BYTES;
use steelyard::ledger::{
    Account, AccountType, AccountUpdate, Amount, Attributes, Balance, Book, Cancel, Capture, ChangeAccount, Command,
    Direction, Event, Expiry, Fact, Freeze, FreezeScope, Hold, HoldState, Kind, Known, LegRequest, Limits, Moment,
    Notes, OpenAccount, Part, Posted, Rate, Refusal, Rejection, Reverse, Rule, RuleKey, Scheduled, Scope, Side, State,
    Terms, TransactionRequest, VelocityLimit, Verdict, Void, Window, decide,
};
use uuid::Uuid;

use crate::run::without_words;
use crate::scenario::{asset, code, signed, time};

/// 38 nines: the largest amount.
const MAX: &str = "99999999999999999999999999999999999999";

/// Accounts that are named for what is the matter with them.
fn book() -> Book {
    let mut book = Book::default();
    for (name, scale) in [("EUR", 2), ("USD", 2)] {
        book.load_asset(asset(name), scale);
    }
    let open = Attributes::default;
    let closed = || Attributes { closed: true, ..Attributes::default() };
    let frozen = |scope| Attributes {
        freeze: Some(Freeze { scope, reason: Arc::from("court order") }),
        ..Attributes::default()
    };
    let floor = |floor: i128| Limits { min_balance: Some(signed(floor)), max_balance: None };
    let cap = |cap: i128| Limits { min_balance: None, max_balance: Some(signed(cap)) };
    let none = Limits::default();
    let credits = |credits: i128| Balance { credits_posted: signed(credits), ..Balance::default() };
    let debits = |debits: i128| Balance { debits_posted: signed(debits), ..Balance::default() };
    let zero = Balance::default();
    let most = Amount::MAX.get();
    let reserved = || Balance { debits_pending: signed(100), credits_pending: signed(100), ..Balance::default() };
    let accounts = [
        ("alice", "EUR", Side::Credit, open(), none, credits(1000)),
        ("bob", "EUR", Side::Credit, open(), none, zero),
        ("dora", "USD", Side::Credit, open(), none, zero),
        ("dolores", "USD", Side::Credit, open(), none, zero),
        ("closed", "EUR", Side::Credit, closed(), none, zero),
        ("frozen", "EUR", Side::Credit, frozen(FreezeScope::All), none, zero),
        ("no-debits", "EUR", Side::Credit, frozen(FreezeScope::Debits), none, zero),
        ("no-credits", "EUR", Side::Credit, frozen(FreezeScope::Credits), none, zero),
        ("closed-and-frozen", "EUR", Side::Credit, Attributes { closed: true, ..frozen(FreezeScope::All) }, none, zero),
        ("poor", "EUR", Side::Credit, open(), floor(0), credits(5)),
        ("poorer", "EUR", Side::Credit, open(), floor(0), credits(4)),
        ("overdraft", "EUR", Side::Credit, open(), floor(-100), zero),
        ("below", "EUR", Side::Credit, open(), floor(50), zero),
        ("capped", "EUR", Side::Credit, open(), cap(8), credits(5)),
        ("above", "EUR", Side::Credit, open(), cap(8), credits(90)),
        (
            "narrow",
            "EUR",
            Side::Credit,
            open(),
            Limits { min_balance: Some(signed(3)), max_balance: Some(signed(8)) },
            credits(5),
        ),
        ("cash", "EUR", Side::Debit, open(), floor(0), debits(5)),
        ("till", "EUR", Side::Debit, open(), cap(8), debits(5)),
        (
            "full",
            "EUR",
            Side::Credit,
            open(),
            none,
            Balance { debits_posted: signed(most), credits_posted: signed(most), ..zero },
        ),
        (
            "full-with-floor",
            "EUR",
            Side::Credit,
            open(),
            floor(0),
            Balance { debits_posted: signed(most), credits_posted: signed(most), ..zero },
        ),
        ("held", "EUR", Side::Credit, open(), floor(0), Balance { debits_pending: signed(3), ..credits(5) }),
        ("expecting", "EUR", Side::Credit, open(), cap(8), Balance { credits_pending: signed(2), ..credits(5) }),
        (
            "deep",
            "EUR",
            Side::Credit,
            open(),
            floor(-most),
            Balance { debits_pending: signed(most), ..debits(most - 100) },
        ),
        ("held-no-debits", "EUR", Side::Credit, frozen(FreezeScope::Debits), none, reserved()),
        ("held-no-credits", "EUR", Side::Credit, frozen(FreezeScope::Credits), none, reserved()),
        ("held-closed", "EUR", Side::Credit, closed(), none, reserved()),
        ("payer", "EUR", Side::Credit, open(), floor(0), reserved()),
        ("payee", "EUR", Side::Credit, open(), cap(0), reserved()),
        (
            "held-full",
            "EUR",
            Side::Credit,
            open(),
            none,
            Balance { debits_posted: signed(most), credits_posted: signed(most), ..reserved() },
        ),
        (
            "high",
            "EUR",
            Side::Credit,
            open(),
            cap(most),
            Balance { credits_pending: signed(most), ..credits(most - 100) },
        ),
    ];
    for (index, (name, unit, normal, attributes, limits, balance)) in accounts.into_iter().enumerate() {
        book.load_account(Account {
            id: index as u64 + 1,
            code: code(name),
            asset: asset(unit),
            normal,
            attributes: Attributes { limits, ..attributes },
            opened_at: time(0),
            balance,
            changed: 0,
        });
    }
    book
}

/// A moment before which the period is closed in [`answer`].
const CLOSED_BEFORE_S: u64 = 500;
const NOW_S: u64 = 1_000;

/// `debit alice 10 EUR, credit bob 10 EUR`, or shorter `alice > bob 10 EUR`.
fn legs(text: &str) -> Vec<LegRequest> {
    let leg = |account: &str, side, amount: &str, unit: &str| LegRequest {
        account: code(account),
        side,
        amount: amount.replace("MAX", MAX).parse().unwrap(),
        asset: asset(unit),
    };
    let parts = text.split(", ").filter(|part| !part.is_empty());
    parts
        .flat_map(|part| match *part.split(' ').collect::<Vec<_>>() {
            [from, ">", to, amount, unit] => {
                vec![leg(from, Side::Debit, amount, unit), leg(to, Side::Credit, amount, unit)]
            }
            [side, account, amount, unit] => vec![leg(account, Side::parse(side).unwrap(), amount, unit)],
            _ => panic!("{part:?} is no leg"),
        })
        .collect()
}

fn event(position: u64, fact: Fact) -> Event {
    let at = time(NOW_S);
    Event { position, recorded_at: at, effective_at: at, transaction_id: None, idempotency_key: None, fact }
}

fn answer(command: &Command) -> String {
    answer_on(&book(), command)
}

fn answer_on(book: &Book, command: &Command) -> String {
    let at = Moment { position: 101, recorded_at: time(NOW_S), transaction_id: Uuid::nil() };
    let text = match decide(book, command, &at) {
        Verdict::Unchanged => "unchanged".to_owned(),
        Verdict::Record(Fact::TransactionRejected(rejected)) => {
            let (code, account) = (rejected.reason.code(), rejected.reason.account().clone());
            match rejected.reason {
                Rejection::HoldNotOpen { state, .. } => format!("{code} {account}: {}", state.as_str()),
                Rejection::CaptureExceedsHold { remaining, .. }
                | Rejection::ReversalExceedsTransaction { remaining, .. } => {
                    format!("{code} {account}: {remaining} left")
                }
                Rejection::InsufficientFunds { available, would_be, min_balance, .. } => {
                    format!("{code} {account}: {available} to {would_be}, floor {min_balance}")
                }
                Rejection::BalanceLimitExceeded { would_be, max_balance, .. } => {
                    format!("{code} {account}: {would_be}, cap {max_balance}")
                }
                _ => format!("{code} {account}"),
            }
        }
        Verdict::Record(fact) => fact.type_name().to_owned(),
        Verdict::Refuse(refusal) => match refusal {
            Refusal::Invalid { rule: why, .. } => format!("invalid: {why}"),
            Refusal::SameAccount(account) => format!("same_account {account}"),
            Refusal::AccountNotFound(legs) => format!("account_not_found {legs:?}"),
            Refusal::AssetNotFound(asset) => format!("asset_not_found {asset}"),
            Refusal::AssetMismatch { leg, account, account_asset, asset } => {
                format!("asset_mismatch at leg {leg}: {account} has {account_asset}, not {asset}")
            }
            Refusal::AccountAlreadyExists(account) => format!("account_already_exists {}", account.code),
            Refusal::AssetAlreadyExists { code, scale } => format!("asset_already_exists {code} with scale {scale}"),
            Refusal::TransactionNotFound(_) => "transaction_not_found".to_owned(),
            Refusal::NotAHold(_) => "not_a_hold".to_owned(),
            Refusal::NotReversible(_) => "not_reversible".to_owned(),
            Refusal::NotScheduled(_) => "not_scheduled".to_owned(),
            Refusal::TooManyWaiting => "too_many_waiting".to_owned(),
            Refusal::LimitsConflict { account, limit, balance } => {
                format!("limits_conflict {account}: {limit} for {balance}")
            }
            Refusal::AccountState { account, state } => format!("account_state {account}: {state}"),
            Refusal::RuleNotFound(_) => "rule_not_found".to_owned(),
            Refusal::TooManyRules => "too_many_rules".to_owned(),
            Refusal::PeriodAlreadyClosed(_) => "period_already_closed".to_owned(),
        },
    };
    text.replace(MAX, "MAX")
}

fn request(kind: Kind, legs: Vec<LegRequest>) -> TransactionRequest {
    TransactionRequest {
        kind,
        legs: legs.into_iter().collect(),
        reference: None,
        description: None,
        metadata: None,
        effective_at: None,
        terms: None,
    }
}

fn transact(legs: Vec<LegRequest>) -> Command {
    Command::Transact(request(Kind::Transaction, legs))
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(answer(&transact(legs(text))), expected, "{text}");
}

const TOO_FEW_OR_MANY: &str = "invalid: a transaction has 2 to 256 legs";
const NOT_POSITIVE: &str = "invalid: an amount is more than zero";
const UNBALANCED: &str = "invalid: debits and credits are equal for every asset";

#[test]
fn each_reason_alone() {
    check("alice > bob 10 EUR", "transaction_posted");
    // 1
    check("", TOO_FEW_OR_MANY);
    check("debit alice 10 EUR", TOO_FEW_OR_MANY);
    check("alice > bob 0 EUR", NOT_POSITIVE);
    check("alice > bob -1 EUR", NOT_POSITIVE);
    check("debit alice 10 EUR, credit bob 11 EUR", UNBALANCED);
    check("debit alice 10 EUR, debit bob 10 EUR", UNBALANCED);
    check("debit alice 10 EUR, credit dora 10 USD", UNBALANCED);
    check("debit alice MAX EUR, debit alice MAX EUR", UNBALANCED);
    // 4
    check("alice > alice 10 EUR", "same_account alice");
    // 5
    check("ghost > bob 10 EUR", r#"account_not_found [(0, "ghost")]"#);
    check(
        "alice > ghost 10 EUR, phantom > ghost 1 EUR",
        r#"account_not_found [(1, "ghost"), (2, "phantom"), (3, "ghost")]"#,
    );
    // 6
    check("alice > dora 10 EUR", "asset_mismatch at leg 1: dora has USD, not EUR");
    check("alice > bob 10 XYZ", "asset_mismatch at leg 0: alice has EUR, not XYZ");
    // 13 and 14, on either side
    check("closed > bob 10 EUR", "account_closed closed");
    check("alice > closed 10 EUR", "account_closed closed");
    check("frozen > bob 10 EUR", "account_frozen frozen");
    check("alice > frozen 10 EUR", "account_frozen frozen");
    check("no-debits > bob 10 EUR", "account_frozen no-debits");
    check("alice > no-debits 10 EUR", "transaction_posted");
    check("no-credits > bob 10 EUR", "transaction_posted");
    check("alice > no-credits 10 EUR", "account_frozen no-credits");
    // 16
    check("poor > bob 5 EUR", "transaction_posted");
    check("poor > bob 6 EUR", "insufficient_funds poor: 5 to -1, floor 0");
    check("overdraft > bob 100 EUR", "transaction_posted");
    check("overdraft > bob 101 EUR", "insufficient_funds overdraft: 0 to -101, floor -100");
    check("alice > cash 5 EUR", "transaction_posted");
    check("alice > cash 6 EUR", "insufficient_funds cash: 5 to -1, floor 0");
    // 17
    check("alice > capped 3 EUR", "transaction_posted");
    check("alice > capped 4 EUR", "balance_limit_exceeded capped: 9, cap 8");
    check("till > bob 3 EUR", "transaction_posted");
    check("till > bob 4 EUR", "balance_limit_exceeded till: 9, cap 8");
    check("full > bob 1 EUR", "balance_limit_exceeded full: MAX, cap MAX");
    check("alice > full 1 EUR", "balance_limit_exceeded full: MAX, cap MAX");
}

#[test]
fn a_limit_stops_only_what_moves_towards_it() {
    check("alice > below 1 EUR", "transaction_posted");
    check("below > bob 1 EUR", "insufficient_funds below: 0 to -1, floor 50");
    check("above > bob 1 EUR", "transaction_posted");
    check("alice > above 1 EUR", "balance_limit_exceeded above: 91, cap 8");
}

#[test]
fn pending_amounts_count_against_the_limit_that_they_move_towards() {
    check("held > bob 2 EUR", "transaction_posted");
    check("held > bob 3 EUR", "insufficient_funds held: 2 to -1, floor 0");
    check("alice > expecting 1 EUR", "transaction_posted");
    check("alice > expecting 2 EUR", "balance_limit_exceeded expecting: 9, cap 8");
}

/// Posted and pending amounts together leave 38 digits, and nearly an `i128`:
/// the limits hold there too, and what is said is the nearest amount.
#[test]
fn limits_hold_where_posted_and_pending_together_have_39_digits() {
    check("deep > bob 1 EUR", "insufficient_funds deep: -MAX to -MAX, floor -MAX");
    check("alice > deep 1 EUR", "transaction_posted");
    check("alice > high 1 EUR", "balance_limit_exceeded high: MAX, cap MAX");
    check("high > bob 1 EUR", "transaction_posted");
}

#[test]
fn limits_bound_what_a_transaction_leaves_behind_not_its_steps() {
    check("poor > bob 100 EUR, alice > poor 100 EUR", "transaction_posted");
    check("alice > capped 100 EUR, capped > bob 100 EUR", "transaction_posted");
    check("poor > bob 100 EUR, alice > poor 94 EUR", "insufficient_funds poor: 5 to -1, floor 0");
    check("alice > capped 100 EUR, capped > bob 96 EUR", "balance_limit_exceeded capped: 9, cap 8");
}

/// Debits that together have 39 digits are still equal to their credits,
/// whichever way round the legs are written.
#[test]
fn whether_legs_balance_does_not_depend_on_their_order() {
    let between = "alice > bob MAX EUR, overdraft > poor MAX EUR";
    let sorted = "debit alice MAX EUR, debit overdraft MAX EUR, credit bob MAX EUR, credit poor MAX EUR";
    let first = "insufficient_funds overdraft: 0 to -MAX, floor -100";
    check(between, first);
    check(sorted, first);
    check("debit alice MAX EUR, debit bob MAX EUR, credit alice MAX EUR, credit bob 1 EUR", UNBALANCED);
    check("debit alice 1 EUR, debit bob 1 EUR, credit dora 1 EUR, credit dora 1 USD, debit alice 1 USD", UNBALANCED);
}

#[test]
fn within_one_code_the_first_leg_is_named() {
    check("poor > bob 100 EUR, poorer > bob 100 EUR", "insufficient_funds poor: 5 to -95, floor 0");
    check("poorer > bob 100 EUR, poor > bob 100 EUR", "insufficient_funds poorer: 4 to -96, floor 0");
    check("alice > capped 100 EUR, till > bob 100 EUR", "balance_limit_exceeded capped: 105, cap 8");
    check("till > bob 100 EUR, alice > capped 100 EUR", "balance_limit_exceeded till: 105, cap 8");
    check("alice > dora 1 EUR, dora > alice 2 EUR", "asset_mismatch at leg 1: dora has USD, not EUR");
    // A total of 39 digits and a broken cap are one code.
    check("alice > full 1 EUR, alice > capped 4 EUR", "balance_limit_exceeded full: MAX, cap MAX");
    check("alice > capped 4 EUR, alice > full 1 EUR", "balance_limit_exceeded capped: 9, cap 8");
}

/// An account of which a total would have 39 digits is left with no balance to
/// hold against its floor.
#[test]
fn a_total_of_39_digits_is_no_question_of_funds() {
    check("full-with-floor > bob 1 EUR", "balance_limit_exceeded full-with-floor: MAX, cap MAX");
}

/// All pairs of reasons that legs of different accounts can show, both ways
/// round: the order of the legs does not matter, that of the reasons does.
#[test]
fn of_two_reasons_the_earlier_wins() {
    let reasons = [
        ("invalid", "bob > alice 0 EUR"),
        ("account_not_found", "ghost > bob 1 EUR"),
        ("asset_mismatch", "dora > bob 1 EUR"),
        ("account_closed", "closed > bob 1 EUR"),
        ("account_frozen", "frozen > bob 1 EUR"),
        ("insufficient_funds", "poor > bob 6 EUR"),
        ("balance_limit_exceeded", "alice > capped 4 EUR"),
    ];
    for (index, (wins, first)) in reasons.iter().enumerate() {
        for (_, second) in &reasons[index..] {
            for text in [format!("{first}, {second}"), format!("{second}, {first}")] {
                let answer = answer(&transact(legs(&text)));
                assert!(answer.starts_with(wins), "{text}: {answer}");
            }
        }
    }
}

/// `same_account` says that every leg is of one account, so its pairs are made
/// of one account that has another reason too. An account never lowers itself,
/// so with `insufficient_funds` there is none.
#[test]
fn same_account_comes_after_validation_and_before_all_else() {
    check("alice > alice 0 EUR", NOT_POSITIVE);
    check("debit alice 1 EUR, credit alice 2 EUR", UNBALANCED);
    check("ghost > ghost 1 EUR", "same_account ghost");
    check("dora > dora 1 EUR", "same_account dora");
    check("closed > closed 1 EUR", "same_account closed");
    check("frozen > frozen 1 EUR", "same_account frozen");
    check("full > full 1 EUR", "same_account full");
}

/// The parts of `validation_failed` have an order of their own.
#[test]
fn of_two_faults_of_a_request_the_earlier_wins() {
    check("debit alice 0 EUR", TOO_FEW_OR_MANY);
    check("debit alice 0 EUR, credit bob 1 EUR", NOT_POSITIVE);
}

/// One account that shows two reasons by itself.
#[test]
fn of_two_reasons_of_one_account_the_earlier_wins() {
    check("narrow > bob 3 EUR", "insufficient_funds narrow: 5 to 2, floor 3");
    check("alice > narrow 4 EUR", "balance_limit_exceeded narrow: 9, cap 8");
    check("closed > dora 1 EUR", "asset_mismatch at leg 1: dora has USD, not EUR");
    check("frozen > closed 1 EUR", "account_closed closed");
}

#[test]
fn a_transaction_has_at_most_256_legs() {
    let pairs = |pairs: usize| legs(&vec!["alice > bob 1 EUR"; pairs].join(", "));
    assert_eq!(answer(&transact(pairs(128))), "transaction_posted");
    assert_eq!(answer(&transact(pairs(129))), TOO_FEW_OR_MANY);
}

/// A book in which nothing can become effective before [`CLOSED_BEFORE_S`].
fn closed_book() -> Book {
    let mut book = book();
    book.apply(&event(100, Fact::PeriodClosed { before: time(CLOSED_BEFORE_S) })).unwrap();
    book
}

fn at(text: &str, effective_at: DateTime<Utc>) -> String {
    let request = TransactionRequest { effective_at: Some(effective_at), ..request(Kind::Transaction, legs(text)) };
    answer_on(&closed_book(), &Command::Transact(request))
}

#[test]
fn a_transaction_is_posted_scheduled_or_too_late_by_its_moment() {
    let second = TimeDelta::seconds(1);
    let five_years = TimeDelta::days(1830);
    let (now, closed, micro) = (time(NOW_S), time(CLOSED_BEFORE_S), TimeDelta::microseconds(1));
    let text = "alice > bob 1 EUR";
    assert_eq!(at(text, now), "transaction_posted");
    assert_eq!(at(text, closed), "transaction_posted");
    assert_eq!(at(text, closed - micro), "period_closed alice");
    assert_eq!(at(text, DateTime::UNIX_EPOCH), "period_closed alice");
    assert!(at(text, DateTime::UNIX_EPOCH - micro).starts_with("invalid"));
    assert_eq!(at(text, now + micro), "transaction_scheduled");
    assert_eq!(at(text, now + five_years), "transaction_scheduled");
    assert!(at(text, now + five_years + micro).starts_with("invalid"));
    assert_eq!(at("bob > alice 1 EUR, dora > dora 1 USD", closed - second), "period_closed bob", "the first leg");
}

/// A scheduled transaction is only looked at as far as it will not change until then.
#[test]
fn what_is_scheduled_is_not_held_against_balances_or_states() {
    let later = time(NOW_S + 60);
    for text in ["closed > bob 1 EUR", "frozen > bob 1 EUR", "poor > bob 6 EUR", "alice > capped 4 EUR"] {
        assert_eq!(at(text, later), "transaction_scheduled");
    }
    assert!(at("bob > alice 0 EUR", later).starts_with("invalid"));
    assert_eq!(at("alice > alice 1 EUR", later), "same_account alice");
    assert_eq!(at("ghost > bob 1 EUR", later), r#"account_not_found [(0, "ghost")]"#);
    assert_eq!(at("dora > bob 1 EUR", later), "asset_mismatch at leg 0: dora has USD, not EUR");
}

/// `period_closed` is about the request as a whole, so that it meets all others.
#[test]
fn a_closed_period_comes_after_refusals_and_before_other_rejections() {
    let early = time(CLOSED_BEFORE_S - 1);
    for text in ["closed > bob 1 EUR", "frozen > bob 1 EUR", "poor > bob 6 EUR", "alice > capped 4 EUR"] {
        assert!(at(text, early).starts_with("period_closed"), "{text}");
    }
    assert!(at("bob > alice 0 EUR", early).starts_with("invalid"));
    assert_eq!(at("alice > alice 1 EUR", early), "same_account alice");
    assert_eq!(at("ghost > bob 1 EUR", early), r#"account_not_found [(0, "ghost")]"#);
    assert_eq!(at("dora > bob 1 EUR", early), "asset_mismatch at leg 0: dora has USD, not EUR");
}

fn authorise(text: &str, change: impl FnOnce(&mut TransactionRequest, &mut Expiry)) -> String {
    let (mut request, mut expiry) = (request(Kind::Payment, legs(text)), Expiry::Never);
    change(&mut request, &mut expiry);
    request.terms = Some(Box::new(Terms { hold: Some(expiry), ..Terms::default() }));
    answer_on(&closed_book(), &Command::Transact(request))
}

#[test]
fn a_hold_meets_the_rules_of_a_posting() {
    let check = |text: &str, expected: &str| assert_eq!(authorise(text, |_, _| ()), expected, "{text}");
    check("alice > bob 10 EUR", "transaction_authorised");
    check("ghost > bob 10 EUR", r#"account_not_found [(0, "ghost")]"#);
    check("alice > dora 10 EUR", "asset_mismatch at leg 1: dora has USD, not EUR");
    check("closed > bob 10 EUR", "account_closed closed");
    check("alice > frozen 10 EUR", "account_frozen frozen");
    check("no-debits > bob 10 EUR", "account_frozen no-debits");
    check("alice > no-debits 10 EUR", "transaction_authorised");
    check("poor > bob 5 EUR", "transaction_authorised");
    check("poor > bob 6 EUR", "insufficient_funds poor: 5 to -1, floor 0");
    check("held > bob 3 EUR", "insufficient_funds held: 2 to -1, floor 0");
    check("alice > capped 3 EUR", "transaction_authorised");
    check("alice > capped 4 EUR", "balance_limit_exceeded capped: 9, cap 8");
    check("alice > expecting 2 EUR", "balance_limit_exceeded expecting: 9, cap 8");
    check("alice > high 1 EUR", "balance_limit_exceeded high: MAX, cap MAX");
    // The pending totals of 38 digits are full; those posted are not.
    check("deep > bob 1 EUR", "balance_limit_exceeded deep: MAX, cap MAX");
    check("poor > capped 6 EUR", "insufficient_funds poor: 5 to -1, floor 0");
    check("closed > frozen 6 EUR", "account_closed closed");
    check("frozen > closed 6 EUR", "account_closed closed");
}

#[test]
fn a_hold_is_a_payment_of_now_that_ends_in_time() {
    type Edit = fn(&mut TransactionRequest, &mut Expiry);
    let sound: [Edit; 5] = [
        |_, expiry| *expiry = Expiry::In(1),
        |_, expiry| *expiry = Expiry::In(158_112_000),
        |_, expiry| *expiry = Expiry::At(time(NOW_S) + TimeDelta::microseconds(1)),
        |_, expiry| *expiry = Expiry::At(time(NOW_S) + TimeDelta::days(1830)),
        |_, expiry| *expiry = Expiry::Never,
    ];
    for (index, edit) in sound.into_iter().enumerate() {
        assert_eq!(authorise("alice > bob 10 EUR", edit), "transaction_authorised", "{index}");
    }
    let unsound: [Edit; 9] = [
        |_, expiry| *expiry = Expiry::In(0),
        |_, expiry| *expiry = Expiry::In(158_112_001),
        |_, expiry| *expiry = Expiry::At(time(NOW_S)),
        |_, expiry| *expiry = Expiry::At(time(NOW_S) + TimeDelta::days(1830) + TimeDelta::microseconds(1)),
        |request, _| request.effective_at = Some(time(NOW_S)),
        |request, _| request.effective_at = Some(time(NOW_S + 1)),
        |request, _| request.kind = Kind::Transaction,
        |request, _| request.legs = legs("alice > bob 1 EUR, alice > bob 1 EUR").into_iter().collect(),
        |request, _| request.legs = legs("alice > bob 0 EUR").into_iter().collect(),
    ];
    for (index, edit) in unsound.into_iter().enumerate() {
        // Before everything that the accounts could show.
        for text in [
            "alice > bob 10 EUR",
            "alice > alice 10 EUR",
            "ghost > bob 10 EUR",
            "closed > bob 10 EUR",
            "poor > bob 6 EUR",
        ] {
            let answer = authorise(text, edit);
            assert!(answer.starts_with("invalid"), "{index}, {text}: {answer}");
        }
    }
    for account in ["alice", "ghost", "closed"] {
        let answer = authorise(&format!("{account} > {account} 10 EUR"), |_, _| ());
        assert_eq!(answer, format!("same_account {account}"));
    }
}

/// The limit on what waits, with as many as there may be: it comes after all that is
/// wrong with the request, and before what is recorded.
#[test]
fn a_transaction_that_would_wait_beyond_the_limit_is_refused() {
    let mut book = closed_book();
    let waits = Known {
        position: 1,
        changed: 1,
        state: State::Hold(Hold {
            legs: legs("alice > bob 1 EUR").into_iter().collect(),
            state: HoldState::Authorised,
            remaining: signed(1),
            captured: Amount::ZERO,
            expires_at: Some(time(NOW_S + 1)),
        }),
    };
    for index in 0..WAITING_MAX {
        book.load_known(Uuid::from_u128(index as u128), waits.clone());
    }
    assert_eq!(book.waiting(), WAITING_MAX);
    let ask = |text: &str, effective_at, hold| {
        let terms = Some(Box::new(Terms { hold, ..Terms::default() }));
        let request = TransactionRequest { effective_at, terms, ..request(Kind::Payment, legs(text)) };
        answer_on(&book, &Command::Transact(request))
    };
    let (later, expires) = (Some(time(NOW_S + 60)), Some(Expiry::In(60)));
    for text in ["alice > bob 1 EUR", "closed > bob 1 EUR", "frozen > bob 1 EUR", "poor > bob 6 EUR"] {
        assert_eq!(ask(text, later, None), "too_many_waiting", "{text}");
        assert_eq!(ask(text, None, expires), "too_many_waiting", "{text}");
    }
    assert_eq!(ask("ghost > bob 1 EUR", later, None), r#"account_not_found [(0, "ghost")]"#);
    assert_eq!(ask("dora > bob 1 EUR", None, expires), "asset_mismatch at leg 0: dora has USD, not EUR");
    // What does not wait goes on.
    assert_eq!(ask("alice > bob 1 EUR", None, None), "transaction_posted");
    assert_eq!(ask("alice > bob 1 EUR", None, Some(Expiry::Never)), "transaction_authorised");
}

/// Large ones are fewer: what counts is the weight, up to and with the limit.
#[test]
fn what_waits_is_bounded_by_its_weight() {
    const EACH: usize = 10_000;
    let text = |weight: usize| Some(Arc::<str>::from("x".repeat((weight - 1) * WEIGHT_BYTES)));
    let later = |description: &Option<Arc<str>>| TransactionRequest {
        description: description.clone(),
        effective_at: Some(time(NOW_S + 60)),
        ..request(Kind::Payment, legs("alice > bob 1 EUR"))
    };
    let mut book = closed_book();
    let large = Scheduled { request: later(&text(EACH)), account_ids: smallvec![1, 2] };
    let large = Known { position: 1, changed: 1, state: State::Scheduled(Box::new(large)) };
    for index in 1..WAITING_MAX / EACH {
        book.load_known(Uuid::from_u128(index as u128), large.clone());
    }
    assert_eq!((book.waiting(), book.waiting_weight()), (99, WAITING_MAX - EACH));
    let ask = |book: &Book, request| answer_on(book, &Command::Transact(request));
    assert_eq!(ask(&book, later(&text(EACH))), "transaction_scheduled");
    assert_eq!(ask(&book, later(&text(EACH + 1))), "too_many_waiting");

    let rest = Scheduled { request: later(&text(EACH - 1)), account_ids: smallvec![1, 2] };
    let rest = Known { position: 1, changed: 1, state: State::Scheduled(Box::new(rest)) };
    book.load_known(Uuid::max(), rest);
    assert_eq!(ask(&book, later(&text(1))), "transaction_scheduled");
    assert_eq!(ask(&book, later(&text(2))), "too_many_waiting");
    // Memory keeps no notes of a hold.
    let terms = Some(Box::new(Terms { hold: Some(Expiry::In(60)), ..Terms::default() }));
    let hold = TransactionRequest { effective_at: None, terms, ..later(&text(9)) };
    assert_eq!(ask(&book, hold), "transaction_authorised");
}

#[test]
fn an_exchange_is_held_to_its_rates() {
    const FOUR: &str = "alice > bob 100 EUR, dora > dolores 110 USD";
    let check =
        |text: &str, kind, (from, to): (&str, &str), rate: &str, remainder: Option<&str>, times, expected: &str| {
            let (from, to, remainder) = (asset(from), asset(to), remainder.map(Arc::from));
            let rates = vec![Rate { from, to, rate: Arc::from(rate), remainder }; times];
            let terms = Some(Box::new(Terms { rates, ..Terms::default() }));
            let answer = answer(&Command::Transact(TransactionRequest { terms, ..request(kind, legs(text)) }));
            assert!(answer.starts_with(expected), "{text} at {rate}: {answer}");
        };
    let (kind, pair) = (Kind::Transaction, ("EUR", "USD"));
    check(FOUR, kind, pair, "1.1", None, 1, "transaction_posted");
    check(FOUR, kind, pair, "1.100000000000000000", Some("0"), 1, "transaction_posted");
    check(FOUR, kind, pair, "1.104", Some("0.4"), 1, "transaction_posted");
    check(FOUR, kind, pair, "1.096", Some("-0.4"), 1, "transaction_posted");
    check(FOUR, kind, pair, "1.1", Some(&*format!("0.{}", "0".repeat(55))), 1, "transaction_posted");
    check(FOUR, kind, pair, "1.1", None, 16, "transaction_posted");
    check("alice > bob 0 EUR", kind, pair, "1.1", None, 1, NOT_POSITIVE);
    for (pair, rate, remainder, times) in [
        (pair, "1.1", None, 17),
        (pair, "1.104", None, 1),
        (pair, "1.104", Some("0.5"), 1),
        (pair, "1.11", Some("1"), 1),
        (pair, "1.09", Some("-1"), 1),
        (pair, "0", None, 1),
        (pair, "-1.1", None, 1),
        (pair, "1.1000000000000000000", None, 1),
        (pair, "1000000000000000000", None, 1),
        (pair, "11e-1", None, 1),
        (pair, "", None, 1),
        (pair, "1.1", Some("x"), 1),
        (pair, "1.1", Some(&*format!("0.{}", "0".repeat(56))), 1),
        (("EUR", "EUR"), "1", None, 1),
        (("USD", "EUR"), "1.1", None, 1),
        (("EUR", "XYZ"), "1.1", None, 1),
        (("XYZ", "USD"), "1.1", None, 1),
    ] {
        check(FOUR, kind, pair, rate, remainder, times, "invalid");
        // Before everything that the accounts could show.
        check(&FOUR.replace("alice", "closed"), kind, pair, rate, remainder, times, "invalid");
        check(&FOUR.replace("alice", "ghost"), kind, pair, rate, remainder, times, "invalid");
    }
    check(FOUR, Kind::Payment, pair, "1.1", None, 1, "invalid");
    check("alice > bob 1 EUR", Kind::Payment, pair, "1.1", None, 1, "invalid");
}

const UNKNOWN: u128 = 1;
const POSTED: u128 = 2;
const SCHEDULED: u128 = 3;
const REJECTED: u128 = 4;
const CANCELLED: u128 = 5;
/// A hold, or what was posted, under test.
const SUBJECT: u128 = 6;

/// The closed book with a transaction of every sort, and that of `state` as [`SUBJECT`].
fn book_with(state: State) -> Book {
    let mut book = closed_book();
    let scheduled = TransactionRequest {
        effective_at: Some(time(NOW_S + 60)),
        ..request(Kind::Transaction, legs("alice > bob 10 EUR"))
    };
    for (id, state) in [
        (POSTED, posted("alice > bob 10 EUR", &[10, 10])),
        (SCHEDULED, State::Scheduled(Box::new(Scheduled { request: scheduled, account_ids: smallvec![1, 2] }))),
        (REJECTED, State::Rejected),
        (CANCELLED, State::Cancelled),
        (SUBJECT, state),
    ] {
        book.load_known(Uuid::from_u128(id), Known { position: 50, changed: 50, state });
    }
    book
}

fn posted(text: &str, remaining: &[i128]) -> State {
    let remaining = remaining.iter().map(|amount| signed(*amount)).collect();
    State::Posted(Posted { legs: legs(text).into_iter().collect(), remaining })
}

fn hold(text: &str, state: HoldState, remaining: i128, captured: i128) -> State {
    let (remaining, captured) = (signed(remaining), signed(captured));
    State::Hold(Hold { legs: legs(text).into_iter().collect(), state, remaining, captured, expires_at: None })
}

fn capture(id: u128, amount: Option<i128>) -> Command {
    let (payment, amount) = (Uuid::from_u128(id), amount.map(signed));
    Command::Capture(Capture { payment, amount, last: false, notes: Notes::default() })
}

fn void(id: u128) -> Command {
    Command::Void(Void { payment: Uuid::from_u128(id) })
}

fn cancel(id: u128) -> Command {
    Command::Cancel(Cancel { transaction: Uuid::from_u128(id) })
}

fn reverse(id: u128, part: Part) -> Command {
    Command::Reverse(Reverse { transaction: Uuid::from_u128(id), part, force: false, notes: Notes::default() })
}

fn reverse_legs(id: u128, text: &str) -> Command {
    reverse(id, Part::Legs(legs(text).into_iter().collect()))
}

#[test]
fn a_capture_has_its_own_order() {
    let open = |text: &str| hold(text, HoldState::Authorised, 60, 40);
    let check = |state: State, command: &Command, expected: &str| {
        let answer = answer_on(&book_with(state), command);
        assert!(answer == expected || (expected == "invalid" && answer.starts_with(expected)), "{command:?}: {answer}");
    };
    let sound = || open("payer > payee 100 EUR");
    check(sound(), &capture(SUBJECT, Some(60)), "transaction_posted");
    check(sound(), &capture(SUBJECT, None), "transaction_posted");
    // Validation, then the look-ups, and only then what the hold says.
    for id in [UNKNOWN, POSTED, SCHEDULED, REJECTED, CANCELLED, SUBJECT] {
        check(sound(), &capture(id, Some(0)), "invalid");
        check(hold("held-closed > payee 100 EUR", HoldState::Voided, 0, 40), &capture(id, Some(-1)), "invalid");
    }
    check(sound(), &capture(UNKNOWN, Some(1)), "transaction_not_found");
    for id in [POSTED, SCHEDULED, REJECTED, CANCELLED] {
        check(sound(), &capture(id, Some(1)), "not_a_hold");
    }
    // hold_not_open before capture_exceeds_hold and all that the accounts could show
    for (state, name) in
        [(HoldState::Captured, "captured"), (HoldState::Voided, "voided"), (HoldState::Expired, "expired")]
    {
        for text in ["payer > payee 100 EUR", "held-closed > held-no-credits 100 EUR", "payer > held-full 100 EUR"] {
            for amount in [Some(61), Some(1), None] {
                let expected = format!("hold_not_open {}: {name}", text.split(' ').next().unwrap());
                check(hold(text, state, 0, 40), &capture(SUBJECT, amount), &expected);
            }
        }
    }
    // capture_exceeds_hold before all that the accounts could show
    for from in ["payer", "held-closed", "held-no-debits", "held-full"] {
        let expected = format!("capture_exceeds_hold {from}: 60 left");
        check(open(&format!("{from} > payee 100 EUR")), &capture(SUBJECT, Some(61)), &expected);
    }
    // account_closed, account_frozen, balance_limit_exceeded; no floor, no cap
    check(open("held-no-debits > held-closed 100 EUR"), &capture(SUBJECT, None), "account_closed held-closed");
    check(open("held-no-debits > payee 100 EUR"), &capture(SUBJECT, None), "account_frozen held-no-debits");
    check(open("payer > held-no-credits 100 EUR"), &capture(SUBJECT, None), "account_frozen held-no-credits");
    check(open("held-no-credits > payee 100 EUR"), &capture(SUBJECT, None), "transaction_posted");
    check(open("payer > held-no-debits 100 EUR"), &capture(SUBJECT, None), "transaction_posted");
    check(open("held-full > held-no-credits 100 EUR"), &capture(SUBJECT, None), "account_frozen held-no-credits");
    check(open("payer > held-full 100 EUR"), &capture(SUBJECT, None), "balance_limit_exceeded held-full: MAX, cap MAX");
    check(open("held-full > payee 100 EUR"), &capture(SUBJECT, None), "balance_limit_exceeded held-full: MAX, cap MAX");
}

#[test]
fn voids_and_cancellations_have_their_own_order() {
    let open = || hold("held-closed > held-no-credits 100 EUR", HoldState::Authorised, 60, 40);
    let check = |state, command: &Command, expected| assert_eq!(answer_on(&book_with(state), command), expected);
    check(open(), &void(SUBJECT), "hold_voided");
    check(hold("payer > payee 100 EUR", HoldState::Voided, 0, 0), &void(SUBJECT), "hold_not_open payer: voided");
    check(open(), &void(UNKNOWN), "transaction_not_found");
    check(open(), &cancel(UNKNOWN), "transaction_not_found");
    check(open(), &cancel(SCHEDULED), "schedule_cancelled");
    for id in [POSTED, SCHEDULED, REJECTED, CANCELLED] {
        check(open(), &void(id), "not_a_hold");
    }
    for id in [POSTED, SUBJECT, REJECTED, CANCELLED] {
        check(open(), &cancel(id), "not_scheduled");
    }
}

#[test]
fn a_reversal_has_its_own_order() {
    let check = |state: State, command: &Command, expected: &str| {
        let answer = answer_on(&book_with(state), command);
        assert!(answer == expected || (expected == "invalid" && answer.starts_with(expected)), "{command:?}: {answer}");
    };
    let whole = |text: &str| posted(text, &[10, 10]);
    let ten = || Part::Amount(signed(10));
    let sound = || whole("alice > overdraft 10 EUR");
    check(sound(), &reverse(SUBJECT, Part::Rest), "transaction_posted");
    check(sound(), &reverse(SUBJECT, ten()), "transaction_posted");
    check(sound(), &reverse_legs(SUBJECT, "overdraft > alice 10 EUR"), "transaction_posted");
    // Validation as far as the request alone can tell, then the look-ups.
    for id in [UNKNOWN, SCHEDULED, REJECTED, CANCELLED, SUBJECT] {
        check(sound(), &reverse(id, Part::Amount(signed(0))), "invalid");
        for text in ["", "credit alice 1 EUR", "bob > alice 0 EUR", "debit overdraft 2 EUR, credit alice 1 EUR"] {
            check(sound(), &reverse_legs(id, text), "invalid");
        }
    }
    check(sound(), &reverse(UNKNOWN, Part::Rest), "transaction_not_found");
    for id in [SCHEDULED, REJECTED, CANCELLED] {
        check(sound(), &reverse(id, Part::Rest), "not_reversible");
        check(sound(), &reverse_legs(id, "overdraft > alice 10 EUR"), "not_reversible");
    }
    check(hold("payer > payee 100 EUR", HoldState::Captured, 0, 100), &reverse(SUBJECT, Part::Rest), "not_reversible");
    // Validation against the transaction.
    let three = || posted("debit alice 10 EUR, credit bob 4 EUR, credit overdraft 6 EUR", &[10, 4, 6]);
    check(three(), &reverse(SUBJECT, Part::Amount(signed(1))), "invalid");
    check(sound(), &reverse_legs(SUBJECT, "overdraft > alice 10 USD"), "invalid");
    // What only the accounts can tell.
    check(sound(), &reverse_legs(SUBJECT, "ghost > alice 11 USD"), r#"account_not_found [(0, "ghost")]"#);
    // reversal_exceeds_transaction before all that the accounts could show
    for to in ["closed", "frozen", "poor", "bob", "full"] {
        let state = || whole(&format!("alice > {to} 10 EUR"));
        check(state(), &reverse(SUBJECT, Part::Amount(signed(11))), "reversal_exceeds_transaction alice: 10 left");
        let expected = format!("reversal_exceeds_transaction {to}: 10 left");
        check(state(), &reverse_legs(SUBJECT, &format!("{to} > alice 11 EUR")), &expected);
        let state = posted(&format!("alice > {to} 10 EUR"), &[0, 0]);
        check(state, &reverse(SUBJECT, Part::Rest), "reversal_exceeds_transaction alice: 0 left");
    }
    // On another account, or the wrong way round, it is no leg of the transaction,
    // however much is asked for.
    for amount in [1, 11] {
        for parties in ["overdraft > bob", "bob > alice", "alice > overdraft"] {
            check(sound(), &reverse_legs(SUBJECT, &format!("{parties} {amount} EUR")), "invalid");
        }
    }
    check(sound(), &reverse_legs(SUBJECT, "ghost > bob 1 EUR"), r#"account_not_found [(0, "ghost")]"#);
    // account_closed, account_frozen, insufficient_funds, balance_limit_exceeded
    check(whole("frozen > closed 10 EUR"), &reverse(SUBJECT, Part::Rest), "account_closed closed");
    check(whole("frozen > poor 10 EUR"), &reverse(SUBJECT, Part::Rest), "account_frozen frozen");
    check(whole("no-credits > poor 10 EUR"), &reverse(SUBJECT, Part::Rest), "account_frozen no-credits");
    check(whole("no-debits > overdraft 10 EUR"), &reverse(SUBJECT, Part::Rest), "transaction_posted");
    let short = "insufficient_funds poor: 5 to -5, floor 0";
    check(whole("capped > poor 10 EUR"), &reverse(SUBJECT, Part::Rest), short);
    check(whole("capped > bob 10 EUR"), &reverse(SUBJECT, Part::Rest), "balance_limit_exceeded capped: 15, cap 8");
}

/// Force waives the floor, and nothing else.
#[test]
fn a_forced_reversal_breaks_a_floor_only() {
    let forced = |text: &str, part| {
        let transaction = Uuid::from_u128(SUBJECT);
        let command = Command::Reverse(Reverse { transaction, part, force: true, notes: Notes::default() });
        answer_on(&book_with(posted(text, &[10, 10])), &command)
    };
    assert_eq!(forced("alice > poor 10 EUR", Part::Rest), "transaction_posted");
    assert_eq!(forced("capped > poor 10 EUR", Part::Rest), "balance_limit_exceeded capped: 15, cap 8");
    assert_eq!(forced("alice > full 10 EUR", Part::Rest), "balance_limit_exceeded full: MAX, cap MAX");
    assert_eq!(forced("alice > closed 10 EUR", Part::Rest), "account_closed closed");
    assert_eq!(forced("alice > frozen 10 EUR", Part::Rest), "account_frozen frozen");
    let exceeds = "reversal_exceeds_transaction alice: 10 left";
    assert_eq!(forced("alice > poor 10 EUR", Part::Amount(signed(11))), exceeds);
}

/// An account may have several legs on one side: what is left of all of them counts.
#[test]
fn legs_of_a_reversal_consume_those_of_the_transaction_in_their_order() {
    let text = "debit alice 10 EUR, debit alice 5 EUR, credit bob 15 EUR";
    let at = Moment { position: 101, recorded_at: time(NOW_S), transaction_id: Uuid::nil() };
    let ask = |amounts: &[i128], asked: &str| {
        let verdict = decide(&book_with(posted(text, amounts)), &reverse_legs(SUBJECT, asked), &at);
        let remaining = match &verdict {
            Verdict::Record(Fact::TransactionPosted(transaction)) => {
                match transaction.more.as_ref().unwrap().origin.as_ref().unwrap() {
                    steelyard::ledger::Origin::Reversal { remaining, .. } => remaining.clone(),
                    origin => panic!("{origin:?}"),
                }
            }
            Verdict::Record(Fact::TransactionRejected(rejected)) => match &rejected.reason {
                Rejection::ReversalExceedsTransaction { account, remaining } => {
                    return format!("{account} has {remaining} left");
                }
                reason => panic!("{reason:?}"),
            },
            verdict => panic!("{verdict:?}"),
        };
        remaining.iter().map(Amount::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ask(&[10, 5, 15], "bob > alice 15 EUR"), "0 0 0");
    assert_eq!(ask(&[10, 5, 15], "bob > alice 12 EUR"), "0 3 3");
    assert_eq!(ask(&[10, 5, 15], "bob > alice 4 EUR, bob > alice 7 EUR"), "0 4 4");
    assert_eq!(ask(&[0, 3, 3], "bob > alice 2 EUR"), "0 1 1");
    assert_eq!(ask(&[0, 3, 3], "credit alice 1 EUR, credit alice 3 EUR, debit bob 4 EUR"), "alice has 3 left");
    assert_eq!(ask(&[10, 5, 15], "credit alice 16 EUR, debit bob 16 EUR"), "alice has 15 left");
}

fn change(name: &str, change: AccountUpdate) -> String {
    answer(&Command::ChangeAccount(ChangeAccount { code: code(name), change }))
}

fn update(name: &str, min_balance: Option<Option<i128>>, max_balance: Option<Option<i128>>) -> String {
    let (min_balance, max_balance) =
        (min_balance.map(|floor| floor.map(signed)), max_balance.map(|cap| cap.map(signed)));
    change(name, AccountUpdate::Update { min_balance, max_balance, metadata: None })
}

#[test]
fn changing_limits_has_its_own_order() {
    let crossed = "invalid: min_balance must not be above max_balance";
    assert_eq!(update("ghost", None, None), r#"account_not_found [(0, "ghost")]"#);
    assert_eq!(update("closed", None, None), "account_state closed: closed");
    assert_eq!(update("alice", None, None), "unchanged");
    assert_eq!(update("alice", Some(None), Some(None)), "unchanged");
    assert_eq!(update("narrow", Some(Some(3)), Some(Some(8))), "unchanged");
    assert_eq!(update("narrow", Some(None), Some(None)), "account_updated");
    assert_eq!(update("closed", Some(Some(2)), Some(Some(1))), "account_state closed: closed");
    assert_eq!(update("alice", Some(Some(2)), Some(Some(1))), crossed);
    // Also with the limit that stays as it is.
    assert_eq!(update("narrow", Some(Some(9)), None), crossed);
    assert_eq!(update("narrow", None, Some(Some(2))), crossed);
    // The present balance must be within a limit that is new.
    assert_eq!(update("poor", Some(Some(5)), None), "account_updated");
    assert_eq!(update("poor", Some(Some(6)), None), "limits_conflict poor: min_balance for 5");
    assert_eq!(update("poor", None, Some(Some(5))), "account_updated");
    assert_eq!(update("poor", None, Some(Some(4))), "limits_conflict poor: max_balance for 5");
    assert_eq!(update("held", Some(Some(3)), None), "limits_conflict held: min_balance for 2");
    assert_eq!(update("expecting", None, Some(Some(6))), "limits_conflict expecting: max_balance for 7");
    // One that stays as it is is not looked at, though it be broken.
    assert_eq!(update("below", Some(Some(50)), Some(Some(100))), "account_updated");
    assert_eq!(update("below", Some(Some(40)), None), "limits_conflict below: min_balance for 0");
    assert_eq!(update("above", Some(Some(1)), Some(Some(8))), "account_updated");
    assert_eq!(update("above", None, Some(Some(80))), "limits_conflict above: max_balance for 90");
    // Of two conflicts, that of the floor.
    assert_eq!(update("expecting", Some(Some(6)), Some(Some(6))), "limits_conflict expecting: min_balance for 5");
    assert_eq!(update("high", Some(Some(0)), Some(Some(1))), "limits_conflict high: max_balance for MAX");
}

fn account_type(prefix: &str, normal: Side, min_balance: Option<i128>, max_balance: Option<i128>) -> Rule {
    let limits = Limits { min_balance: min_balance.map(signed), max_balance: max_balance.map(signed) };
    Rule::AccountType(AccountType { prefix: Arc::from(prefix), normal, limits })
}

fn velocity(name: &str) -> VelocityLimit {
    VelocityLimit {
        name: Arc::from(name),
        scope: Scope::Account(Arc::from("alice")),
        asset: Some(asset("EUR")),
        direction: Direction::Out,
        window: Window::Rolling { seconds: 60 },
        count_max: Some(1),
        amount_max: Some(signed(1)),
    }
}

#[test]
fn setting_rules_has_its_own_order() {
    let mut book = book();
    let mut position = 101;
    for index in 0..RULES_MAX {
        for rule in [
            account_type(&format!("t{index}"), Side::Debit, None, None),
            Rule::VelocityLimit(velocity(&format!("v{index}"))),
        ] {
            assert_eq!(answer_on(&book, &Command::SetRule(rule.clone())), rule_set(&rule));
            book.apply(&event(position, Fact::RuleSet(rule))).unwrap();
            position += 1;
        }
    }
    let check = |rule: Rule, expected: &str| {
        let answer = answer_on(&book, &Command::SetRule(rule));
        assert!(answer == expected || (expected == "invalid" && answer.starts_with(expected)), "{answer}");
    };
    check(account_type("t7", Side::Debit, None, None), "unchanged");
    check(account_type("t7", Side::Credit, None, None), "account_type_set");
    check(account_type("new", Side::Debit, None, None), "too_many_rules");
    check(account_type("new", Side::Debit, Some(2), Some(1)), "invalid");
    check(account_type("t7", Side::Debit, Some(2), Some(1)), "invalid");
    let edited = |name: &str, edit: fn(&mut VelocityLimit)| {
        let mut rule = velocity(name);
        edit(&mut rule);
        Rule::VelocityLimit(rule)
    };
    check(edited("v7", |_| ()), "unchanged");
    check(edited("v7", |rule| rule.direction = Direction::In), "velocity_limit_set");
    check(edited("new", |_| ()), "too_many_rules");
    for name in ["v7", "new"] {
        check(edited(name, |rule| (rule.count_max, rule.amount_max) = (None, None)), "invalid");
        check(edited(name, |rule| rule.asset = None), "invalid");
        check(edited(name, |rule| rule.window = Window::Rolling { seconds: 59 }), "invalid");
        check(edited(name, |rule| rule.window = Window::Rolling { seconds: 31_622_401 }), "invalid");
    }
    // What is wrong with it by itself, then its asset, then how many there are.
    let of_nothing = |rule: &mut VelocityLimit| rule.asset = Some(asset("POINTS"));
    for name in ["v7", "new"] {
        check(edited(name, of_nothing), "asset_not_found POINTS");
        check(
            edited(name, |rule| (rule.asset, rule.count_max) = (Some(asset("POINTS")), None)),
            "asset_not_found POINTS",
        );
        let window = |rule: &mut VelocityLimit| {
            (rule.asset, rule.window) = (Some(asset("POINTS")), Window::Rolling { seconds: 59 });
        };
        check(edited(name, window), "invalid");
    }
    let by_count = |rule: &mut VelocityLimit| (rule.asset, rule.amount_max) = (None, None);
    check(edited("v7", by_count), "velocity_limit_set");
    check(edited("v7", |rule| rule.window = Window::Day { zone: chrono_tz::Europe::Berlin }), "velocity_limit_set");

    let remove = |key| answer_on(&book, &Command::RemoveRule(key));
    assert_eq!(remove(RuleKey::AccountType(Arc::from("t7"))), "account_type_removed");
    assert_eq!(remove(RuleKey::VelocityLimit(Arc::from("v7"))), "velocity_limit_removed");
    assert_eq!(remove(RuleKey::AccountType(Arc::from("v7"))), "rule_not_found");
    assert_eq!(remove(RuleKey::VelocityLimit(Arc::from("t7"))), "rule_not_found");
}

/// Logs from before have limits on assets that never were.
#[test]
fn a_limit_that_is_there_already_is_unchanged_whatever_its_asset() {
    let mut book = book();
    let rule = Rule::VelocityLimit(VelocityLimit { asset: Some(asset("POINTS")), ..velocity("v") });
    book.apply(&event(101, Fact::RuleSet(rule.clone()))).unwrap();
    assert_eq!(answer_on(&book, &Command::SetRule(rule.clone())), "unchanged");
    assert_eq!(answer_on(&book, &Command::RemoveRule(rule.key())), "velocity_limit_removed");
}

fn rule_set(rule: &Rule) -> &'static str {
    match rule {
        Rule::AccountType(_) => "account_type_set",
        Rule::VelocityLimit(_) => "velocity_limit_set",
    }
}

#[test]
fn a_velocity_limit_comes_after_states_and_before_balances() {
    let mut book = closed_book();
    let scopes = [
        ("a", Scope::Prefix(Arc::from("poor")), Direction::Out),
        ("b", Scope::Account(Arc::from("capped")), Direction::In),
        ("c", Scope::Account(Arc::from("frozen")), Direction::Out),
        ("d", Scope::Account(Arc::from("closed")), Direction::Out),
        ("e", Scope::Account(Arc::from("full")), Direction::In),
        ("f", Scope::Account(Arc::from("poor")), Direction::Out),
    ];
    for (index, (name, scope, direction)) in scopes.into_iter().enumerate() {
        let limit = VelocityLimit { scope, direction, count_max: None, amount_max: Some(signed(2)), ..velocity(name) };
        book.apply(&event(101 + index as u64, Fact::RuleSet(Rule::VelocityLimit(limit)))).unwrap();
    }
    let ask = |text: &str, effective_at, hold: Option<Expiry>| {
        let terms = hold.is_some().then(|| Box::new(Terms { hold, ..Terms::default() }));
        let request = TransactionRequest { effective_at, terms, ..request(Kind::Payment, legs(text)) };
        answer_on(&book, &Command::Transact(request))
    };
    for hold in [None, Some(Expiry::Never)] {
        let done = if hold.is_some() { "transaction_authorised" } else { "transaction_posted" };
        for (text, expected) in [
            ("poor > bob 2 EUR", done),
            ("alice > poor 3 EUR", done),
            ("poor > bob 3 EUR", "velocity_limit_exceeded poor"),
            ("poorer > bob 3 EUR", "velocity_limit_exceeded poorer"),
            // Before the balances …
            ("poor > bob 6 EUR", "velocity_limit_exceeded poor"),
            ("alice > capped 4 EUR", "velocity_limit_exceeded capped"),
            ("alice > full 3 EUR", "velocity_limit_exceeded full"),
            // … and after all else.
            ("frozen > bob 3 EUR", "account_frozen frozen"),
            ("closed > bob 3 EUR", "account_closed closed"),
            ("poor > frozen 3 EUR", "account_frozen frozen"),
            ("poor > closed 3 EUR", "account_closed closed"),
            ("poor > ghost 3 EUR", r#"account_not_found [(1, "ghost")]"#),
            ("poor > dora 3 EUR", "asset_mismatch at leg 1: dora has USD, not EUR"),
            // The first leg that shows it.
            ("poor > capped 4 EUR", "velocity_limit_exceeded poor"),
        ] {
            assert_eq!(ask(text, None, hold), expected, "{text}");
        }
    }
    assert_eq!(ask("poor > bob 3 EUR", Some(time(CLOSED_BEFORE_S - 1)), None), "period_closed poor");
    assert_eq!(ask("poor > bob 3 EUR", Some(time(NOW_S + 1)), None), "transaction_scheduled");
    // A transaction of several legs counts them all.
    let both = "poor > bob 1 EUR, alice > poor 9 EUR, poor > bob 2 EUR";
    assert_eq!(answer_on(&book, &transact(legs(both))), "velocity_limit_exceeded poor");
    // On the account itself before on a prefix, though it was set later.
    let at = Moment { position: 110, recorded_at: time(NOW_S), transaction_id: Uuid::nil() };
    match decide(&book, &transact(legs("poor > bob 3 EUR")), &at) {
        Verdict::Record(Fact::TransactionRejected(rejected)) => match rejected.reason {
            Rejection::VelocityLimitExceeded { limit, passes_at, .. } => assert_eq!((&*limit, passes_at), ("f", None)),
            reason => panic!("{reason:?}"),
        },
        verdict => panic!("{verdict:?}"),
    }
}

/// The longest prefix counts, and only for what the opening leaves out.
#[test]
fn an_account_begins_as_its_type_has_it() {
    let mut book = book();
    let types = [
        account_type("a", Side::Debit, None, Some(100)),
        account_type("ab", Side::Debit, Some(-5), Some(50)),
        account_type("abc", Side::Credit, Some(1), None),
    ];
    for (index, rule) in types.into_iter().enumerate() {
        book.apply(&event(101 + index as u64, Fact::RuleSet(rule))).unwrap();
    }
    let at = Moment { position: 110, recorded_at: time(NOW_S), transaction_id: Uuid::nil() };
    let opened = |name: &str, normal, min_balance, max_balance| {
        let open =
            OpenAccount { code: code(name), asset: asset("EUR"), normal, min_balance, max_balance, metadata: None };
        match decide(&book, &Command::OpenAccount(open), &at) {
            Verdict::Record(Fact::AccountOpened { normal, limits, .. }) => {
                let limit = |limit: Option<Amount>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
                format!("{} {} {}", normal.as_str(), limit(limits.min_balance), limit(limits.max_balance))
            }
            verdict => format!("{:?}", without_words(verdict)),
        }
    };
    assert_eq!(opened("x", None, None, None), "credit 0 none");
    assert_eq!(opened("a", None, None, None), "debit none 100");
    assert_eq!(opened("a:b", None, None, None), "debit none 100");
    assert_eq!(opened("ab", None, None, None), "debit -5 50");
    assert_eq!(opened("abd", None, None, None), "debit -5 50");
    assert_eq!(opened("abcd", None, None, None), "credit 1 none");
    assert_eq!(opened("abd", Some(Side::Credit), Some(None), None), "credit none 50");
    assert_eq!(opened("abd", None, Some(Some(signed(7))), Some(Some(signed(9)))), "debit 7 9");
    let invalid = r#"Refuse(Invalid { place: Whole, rule: "" })"#;
    assert_eq!(opened("abd", None, Some(Some(signed(51))), None), invalid, "above the type's cap");
    assert_eq!(opened("abcd", None, None, Some(Some(signed(0)))), invalid, "below the type's floor");
}

/// Opening again says what the account is, whatever its type has become since.
#[test]
fn opening_again_compares_with_the_present() {
    let mut book = book();
    let open = |min_balance| {
        Command::OpenAccount(OpenAccount {
            code: code("poor"),
            asset: asset("EUR"),
            normal: None,
            min_balance,
            max_balance: None,
            metadata: None,
        })
    };
    assert_eq!(answer_on(&book, &open(None)), "unchanged");
    book.apply(&event(101, Fact::RuleSet(account_type("poo", Side::Credit, Some(-9), None)))).unwrap();
    assert_eq!(answer_on(&book, &open(None)), "account_already_exists poor");
    assert_eq!(answer_on(&book, &open(Some(Some(signed(0))))), "unchanged");
}

#[test]
fn closing_a_period_has_its_own_order() {
    let micro = TimeDelta::microseconds(1);
    let close = |book: &Book, before| answer_on(book, &Command::ClosePeriod { before });
    let (open, closed) = (book(), closed_book());
    assert_eq!(close(&open, time(NOW_S)), "period_closed");
    assert!(close(&open, time(NOW_S) + micro).starts_with("invalid"));
    assert_eq!(close(&open, time(0)), "period_closed");
    assert_eq!(close(&closed, time(CLOSED_BEFORE_S)), "unchanged");
    assert_eq!(close(&closed, time(CLOSED_BEFORE_S) - micro), "period_already_closed");
    assert_eq!(close(&closed, time(CLOSED_BEFORE_S) + micro), "period_closed");
}

#[track_caller]
fn check_open(
    name: &str,
    unit: &str,
    normal: Side,
    limits: (Option<i128>, Option<i128>),
    metadata: Option<&str>,
    expected: &str,
) {
    let (code, asset, metadata) = (code(name), asset(unit), metadata.map(Arc::from));
    let (min_balance, max_balance) = (Some(limits.0.map(signed)), Some(limits.1.map(signed)));
    let open = OpenAccount { code, asset, normal: Some(normal), min_balance, max_balance, metadata };
    assert_eq!(answer(&Command::OpenAccount(open)), expected);
}

#[test]
fn opening_an_account_has_its_own_order() {
    use Side::{Credit, Debit};
    let none = (None, None);
    let exists = "account_already_exists alice";
    let crossed = "invalid: min_balance must not be above max_balance";
    check_open("new", "EUR", Credit, none, None, "account_opened");
    check_open("new", "EUR", Credit, (Some(1), Some(1)), None, "account_opened");
    check_open("new", "XYZ", Credit, none, None, "asset_not_found XYZ");
    check_open("new", "EUR", Credit, (Some(2), Some(1)), None, crossed);
    check_open("alice", "EUR", Credit, none, None, "unchanged");
    check_open("alice", "USD", Credit, none, None, exists);
    check_open("alice", "EUR", Debit, none, None, exists);
    check_open("alice", "EUR", Credit, (Some(0), None), None, exists);
    check_open("alice", "EUR", Credit, (None, Some(0)), None, exists);
    check_open("alice", "EUR", Credit, none, Some(r#"{"a":1}"#), exists);
    // The state of an account is no attribute of its opening.
    check_open("closed", "EUR", Credit, none, None, "unchanged");
    // Two at once.
    check_open("alice", "XYZ", Credit, (Some(2), Some(1)), None, crossed);
    check_open("new", "XYZ", Credit, (Some(2), Some(1)), None, crossed);
    check_open("alice", "XYZ", Credit, none, None, exists);
}

#[test]
fn defining_an_asset_has_its_own_order() {
    let define = |name: &str, scale| answer(&Command::DefineAsset { code: asset(name), scale });
    assert_eq!(define("GOLD", 37), "asset_defined");
    assert_eq!(define("GOLD", 38), "invalid: an asset has at most 37 decimals");
    assert_eq!(define("EUR", 2), "unchanged");
    assert_eq!(define("EUR", 3), "asset_already_exists EUR with scale 2");
    assert_eq!(define("EUR", 38), "invalid: an asset has at most 37 decimals");
}
