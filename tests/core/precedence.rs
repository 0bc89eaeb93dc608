//! Every refusal and every rejection once, and which one is given when several apply.

use std::sync::Arc;

use steelyard::ledger::{
    Account, AccountStatus, Amount, Balance, Book, Command, Fact, Kind, LegRequest, Limits, Moment, OpenAccount,
    Refusal, Rejection, Side, TransactionRequest, Verdict, decide,
};
use uuid::Uuid;

use crate::scenario::{asset, code, signed, time};

/// 38 nines: the largest amount.
const MAX: &str = "99999999999999999999999999999999999999";

/// Accounts that are named for what is the matter with them.
fn book() -> Book {
    let mut book = Book::default();
    for (name, scale) in [("EUR", 2), ("USD", 2)] {
        book.load_asset(asset(name), scale);
    }
    let open = AccountStatus::Open;
    let floor = |floor: i128| Limits { min_balance: Some(signed(floor)), max_balance: None };
    let cap = |cap: i128| Limits { min_balance: None, max_balance: Some(signed(cap)) };
    let none = Limits::default();
    let credits = |credits: i128| Balance { credits_posted: signed(credits), ..Balance::default() };
    let debits = |debits: i128| Balance { debits_posted: signed(debits), ..Balance::default() };
    let zero = Balance::default();
    let most = Amount::MAX.get();
    let accounts = [
        ("alice", "EUR", Side::Credit, open, none, credits(1000)),
        ("bob", "EUR", Side::Credit, open, none, zero),
        ("dora", "USD", Side::Credit, open, none, zero),
        ("closed", "EUR", Side::Credit, AccountStatus::Closed, none, zero),
        ("frozen", "EUR", Side::Credit, AccountStatus::Frozen, none, zero),
        ("poor", "EUR", Side::Credit, open, floor(0), credits(5)),
        ("poorer", "EUR", Side::Credit, open, floor(0), credits(4)),
        ("overdraft", "EUR", Side::Credit, open, floor(-100), zero),
        ("below", "EUR", Side::Credit, open, floor(50), zero),
        ("capped", "EUR", Side::Credit, open, cap(8), credits(5)),
        ("above", "EUR", Side::Credit, open, cap(8), credits(90)),
        (
            "narrow",
            "EUR",
            Side::Credit,
            open,
            Limits { min_balance: Some(signed(3)), max_balance: Some(signed(8)) },
            credits(5),
        ),
        ("cash", "EUR", Side::Debit, open, floor(0), debits(5)),
        ("till", "EUR", Side::Debit, open, cap(8), debits(5)),
        (
            "full",
            "EUR",
            Side::Credit,
            open,
            none,
            Balance { debits_posted: signed(most), credits_posted: signed(most), ..zero },
        ),
        (
            "full-with-floor",
            "EUR",
            Side::Credit,
            open,
            floor(0),
            Balance { debits_posted: signed(most), credits_posted: signed(most), ..zero },
        ),
        ("held", "EUR", Side::Credit, open, floor(0), Balance { debits_pending: signed(3), ..credits(5) }),
        ("expecting", "EUR", Side::Credit, open, cap(8), Balance { credits_pending: signed(2), ..credits(5) }),
        (
            "deep",
            "EUR",
            Side::Credit,
            open,
            floor(-most),
            Balance { debits_pending: signed(most), ..debits(most - 100) },
        ),
        (
            "high",
            "EUR",
            Side::Credit,
            open,
            cap(most),
            Balance { credits_pending: signed(most), ..credits(most - 100) },
        ),
    ];
    for (index, (name, unit, normal, status, limits, balance)) in accounts.into_iter().enumerate() {
        book.load_account(Account {
            id: index as u64 + 1,
            code: code(name),
            asset: asset(unit),
            normal,
            status,
            limits,
            metadata: None,
            opened_at: time(0),
            balance,
        });
    }
    book
}

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

fn answer(command: &Command) -> String {
    let at = Moment { position: 101, recorded_at: time(1), transaction_id: Uuid::nil() };
    let text = match decide(&book(), command, &at) {
        Verdict::Unchanged => "unchanged".to_owned(),
        Verdict::Record(Fact::TransactionRejected(rejected)) => {
            let (code, account) = (rejected.reason.code(), rejected.reason.account().clone());
            match rejected.reason {
                Rejection::AccountClosed { .. } | Rejection::AccountFrozen { .. } => format!("{code} {account}"),
                Rejection::InsufficientFunds { available, would_be, min_balance, .. } => {
                    format!("{code} {account}: {available} to {would_be}, floor {min_balance}")
                }
                Rejection::BalanceLimitExceeded { would_be, max_balance, .. } => {
                    format!("{code} {account}: {would_be}, cap {max_balance}")
                }
            }
        }
        Verdict::Record(fact) => fact.type_name().to_owned(),
        Verdict::Refuse(refusal) => match refusal {
            Refusal::Invalid(why) => format!("invalid: {why}"),
            Refusal::SameAccount(account) => format!("same_account {account}"),
            Refusal::AccountNotFound(legs) => format!("account_not_found {legs:?}"),
            Refusal::AssetNotFound(asset) => format!("asset_not_found {asset}"),
            Refusal::AssetMismatch { leg, account, account_asset, asset } => {
                format!("asset_mismatch at leg {leg}: {account} has {account_asset}, not {asset}")
            }
            Refusal::AccountAlreadyExists(account) => format!("account_already_exists {}", account.code),
            Refusal::AssetAlreadyExists { code, scale } => format!("asset_already_exists {code} with scale {scale}"),
        },
    };
    text.replace(MAX, "MAX")
}

fn transact(legs: Vec<LegRequest>) -> Command {
    Command::Transact(TransactionRequest {
        kind: Kind::Payment,
        legs: legs.into_iter().collect(),
        reference: None,
        description: None,
        metadata: None,
        effective_at: None,
    })
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
    // 2
    check("alice > alice 10 EUR", "same_account alice");
    // 3
    check("ghost > bob 10 EUR", r#"account_not_found [(0, "ghost")]"#);
    check(
        "alice > ghost 10 EUR, phantom > ghost 1 EUR",
        r#"account_not_found [(1, "ghost"), (2, "phantom"), (3, "ghost")]"#,
    );
    // 4
    check("alice > dora 10 EUR", "asset_mismatch at leg 1: dora has USD, not EUR");
    check("alice > bob 10 XYZ", "asset_mismatch at leg 0: alice has EUR, not XYZ");
    // 5 and 6, on either side
    check("closed > bob 10 EUR", "account_closed closed");
    check("alice > closed 10 EUR", "account_closed closed");
    check("frozen > bob 10 EUR", "account_frozen frozen");
    check("alice > frozen 10 EUR", "account_frozen frozen");
    // 7
    check("poor > bob 5 EUR", "transaction_posted");
    check("poor > bob 6 EUR", "insufficient_funds poor: 5 to -1, floor 0");
    check("overdraft > bob 100 EUR", "transaction_posted");
    check("overdraft > bob 101 EUR", "insufficient_funds overdraft: 0 to -101, floor -100");
    check("alice > cash 5 EUR", "transaction_posted");
    check("alice > cash 6 EUR", "insufficient_funds cash: 5 to -1, floor 0");
    // 8
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

#[track_caller]
fn check_open(
    name: &str,
    unit: &str,
    normal: Side,
    limits: (Option<i128>, Option<i128>),
    metadata: Option<&str>,
    expected: &str,
) {
    let limits = Limits { min_balance: limits.0.map(signed), max_balance: limits.1.map(signed) };
    let (code, asset, metadata) = (code(name), asset(unit), metadata.map(Arc::from));
    assert_eq!(answer(&Command::OpenAccount(OpenAccount { code, asset, normal, limits, metadata })), expected);
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
