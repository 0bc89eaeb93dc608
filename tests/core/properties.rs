//! What must be true of every history.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use steelyard::ledger::{
    Account, AccountCode, Amount, Balance, Book, Command, Event, Fact, Mark, Refusal, Rejection, Verdict,
};
use steelyard::store::payload;

use crate::model::{Exact, highest, lowest, net};
use crate::run::{Run, State, Step, loaded, play, posted};
use crate::scenario::{LOADED_POSITION, Past, Scenario, scenario};

/// What a command came to, for counting.
fn outcome(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Record(Fact::TransactionRejected(rejected)) => rejected.reason.code(),
        Verdict::Record(fact) => fact.type_name(),
        Verdict::Unchanged => "unchanged",
        Verdict::Refuse(refusal) => match refusal {
            Refusal::Invalid(why) => why,
            Refusal::SameAccount(_) => "same_account",
            Refusal::AccountNotFound(_) => "account_not_found",
            Refusal::AssetNotFound(_) => "asset_not_found",
            Refusal::AssetMismatch { .. } => "asset_mismatch",
            Refusal::AccountAlreadyExists(_) => "account_already_exists",
            Refusal::AssetAlreadyExists { .. } => "asset_already_exists",
        },
    }
}

/// The properties below are worth as much as their histories: each outcome
/// must come up, and postings often.
#[test]
fn scenarios_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut overflows = 0;
    for _ in 0..400 {
        let scenario = scenario(Past::Any).new_tree(&mut runner).unwrap().current();
        play(&scenario, |step| {
            *seen.entry(outcome(&step.verdict).to_owned()).or_default() += 1;
            if let Verdict::Record(Fact::TransactionRejected(rejected)) = &step.verdict
                && let Rejection::BalanceLimitExceeded { would_be: Amount::MAX, .. } = rejected.reason
            {
                overflows += 1;
            }
        });
    }
    for expected in [
        "transaction_posted",
        "insufficient_funds",
        "balance_limit_exceeded",
        "account_frozen",
        "account_closed",
        "asset_mismatch",
        "account_not_found",
        "same_account",
        "a transaction has 2 to 256 legs",
        "an amount is more than zero",
        "debits and credits are equal for every asset",
        "account_opened",
        "account_already_exists",
        "asset_not_found",
        "min_balance must not be above max_balance",
        "asset_defined",
        "asset_already_exists",
        "an asset has at most 37 decimals",
        "unchanged",
    ] {
        assert!(seen.get(expected).is_some_and(|count| *count >= 5), "{expected} is too rare: {seen:#?}");
    }
    let all: usize = seen.values().sum();
    assert!(seen["transaction_posted"] * 5 >= all, "fewer than a fifth were posted: {seen:#?}");
    assert!(overflows >= 5, "totals of 39 digits are too rare: {overflows}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// The rules and their documented order: the naive model, which has them
    /// written out one after the other, gives the same answer to everything.
    #[test]
    fn the_verdict_is_the_models(scenario in scenario(Past::Any)) {
        let mut steps = Vec::new();
        let run = play(&scenario, |step| steps.push((step.command.clone(), step.verdict.clone(), step.expected.clone())));
        for (command, verdict, expected) in steps {
            prop_assert_eq!(verdict, expected, "{:#?}", command);
        }
        prop_assert_eq!(State::of(&run.book), State { assets: run.model.assets, accounts: run.model.accounts });
    }
}

proptest! {
    /// An account within its limits stays within them; one that is outside (a
    /// limit that was tightened later) is never moved further out.
    #[test]
    fn no_posting_breaks_a_floor_or_a_cap(scenario in scenario(Past::Any)) {
        play(&scenario, |step| {
            for (code, after) in &step.after.accounts {
                let Some(before) = step.before.accounts.get(code) else { continue };
                if let Some(floor) = after.limits.min_balance {
                    let (was, is) = (lowest(after.normal, &before.balance), lowest(after.normal, &after.balance));
                    assert!(is >= was || is >= floor.into(), "the floor of {code} broke: {before:#?} {after:#?}");
                }
                if let Some(cap) = after.limits.max_balance {
                    let (was, is) = (highest(after.normal, &before.balance), highest(after.normal, &after.balance));
                    assert!(is <= was || is <= cap.into(), "the cap of {code} broke: {before:#?} {after:#?}");
                }
            }
        });
    }

    #[test]
    fn debits_equal_credits_per_asset_over_all_accounts(scenario in scenario(Past::None)) {
        play(&scenario, |step| {
            let mut sums: BTreeMap<&str, Exact> = BTreeMap::new();
            for account in step.after.accounts.values() {
                let sum = sums.entry(account.asset.as_str()).or_default();
                *sum = *sum + net(account.balance.debits_posted, account.balance.credits_posted);
            }
            assert!(sums.values().all(|sum| *sum == Exact::ZERO), "{sums:?} after {:#?}", step.command);
        });
    }

    /// Through the log's own JSON, as a worker that takes over reads it.
    #[test]
    fn replaying_the_log_gives_the_same_book(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        let mut replayed = loaded(&scenario);
        for event in &run.events {
            let mut json = String::new();
            payload::write(&event.fact, &mut json);
            let fact = payload::read(event.fact.type_name(), payload::SCHEMA_VERSION, event.position, &json).unwrap();
            replayed.apply(&Event { fact, ..event.clone() }).unwrap();
        }
        prop_assert_eq!(State::of(&replayed), State::of(&run.book));
    }

    #[test]
    fn the_version_of_an_account_counts_its_legs(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        for account in run.book.accounts() {
            let loaded = scenario.loaded.iter().find(|loaded| loaded.code == account.code);
            let mut version = loaded.map_or(0, |loaded| loaded.balance.version);
            for leg in posted(&run.events).filter(|leg| leg.account == account.code) {
                version += 1;
                prop_assert_eq!(leg.after.version, version, "every leg has its own version, without a gap");
            }
            prop_assert_eq!(account.balance.version, version);
        }
    }

    #[test]
    fn what_was_rejected_or_refused_changed_nothing(scenario in scenario(Past::Any)) {
        let mut run = Run::new(&scenario);
        for command in &scenario.commands {
            let (mark, position) = (run.book.mark(), run.position);
            let step = run.step(command);
            match &step.verdict {
                Verdict::Refuse(_) | Verdict::Unchanged => prop_assert_eq!(run.position, position, "nothing was recorded"),
                Verdict::Record(Fact::TransactionRejected(_) | Fact::BatchRejected { .. }) => {}
                Verdict::Record(_) => continue,
            }
            prop_assert_eq!(step.before, step.after);
            prop_assert_eq!(run.book.mark(), mark, "there is nothing to take back");
        }
    }

    /// A corrupt log, or a fold with a fault, stops at the first wrong number
    /// in place of going on from it.
    #[test]
    fn an_event_that_states_a_wrong_balance_is_refused_and_leaves_no_trace(
        scenario in scenario(Past::Any),
        leg in any::<Index>(),
        number in 0..6_usize,
    ) {
        let run = play(&scenario, |_| ());
        let mut replayed = loaded(&scenario);
        for event in &run.events {
            if let Fact::TransactionPosted(transaction) = &event.fact {
                let mut corrupt = transaction.clone();
                let leg = leg.index(corrupt.legs.len());
                spoil(&mut corrupt.legs[leg].after, number);
                let before = (State::of(&replayed), replayed.mark());
                let refused = replayed.apply(&Event { fact: Fact::TransactionPosted(corrupt), ..event.clone() });
                let refused = refused.expect_err("a wrong balance must not be believed");
                prop_assert_eq!(refused.position, event.position);
                prop_assert!(refused.detail.contains(transaction.legs[leg].account.as_str()), "{refused}");
                prop_assert_eq!((State::of(&replayed), replayed.mark()), before);
            }
            replayed.apply(event).expect("the true event still follows");
        }
    }
}

/// Makes one of a balance's numbers wrong.
fn spoil(balance: &mut Balance, number: usize) {
    let other = |amount: Amount| amount.checked_add(Amount::from(1)).unwrap_or(Amount::ZERO);
    match number {
        0 => balance.debits_posted = other(balance.debits_posted),
        1 => balance.credits_posted = other(balance.credits_posted),
        2 => balance.debits_pending = other(balance.debits_pending),
        3 => balance.credits_pending = other(balance.credits_pending),
        4 => balance.version += 1,
        _ => balance.position += 1,
    }
}

/// What a sequencer does with its book, in any order.
#[derive(Clone, Debug)]
enum Operation {
    /// The next command of the scenario.
    Step,
    Mark,
    /// To one of the marks that are still open.
    RollBack(Index),
    Settle(Index),
    /// As many accounts as may go, at most so many.
    Evict(usize),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        10 => Just(Operation::Step),
        4 => Just(Operation::Mark),
        2 => any::<Index>().prop_map(Operation::RollBack),
        2 => any::<Index>().prop_map(Operation::Settle),
        2 => (0..4_usize).prop_map(Operation::Evict),
    ];
    prop::collection::vec(operation, 1..60)
}

/// A mark, the position at it, and all accounts, in memory or not.
struct Known {
    mark: Mark,
    position: u64,
    state: State,
}

/// A book whose evicted accounts lie on a shelf, like rows in the database.
struct Shelved {
    run: Run,
    shelf: BTreeMap<AccountCode, Account>,
    /// Up to here nothing can be rolled back: the accounts' rows are exact.
    settled: u64,
}

impl Shelved {
    fn state(&self) -> State {
        let mut state = State::of(&self.run.book);
        for (code, account) in &self.shelf {
            assert!(state.accounts.insert(code.clone(), account.clone()).is_none(), "{code} is in one place only");
        }
        state
    }

    fn step(&mut self, command: &Command) {
        for code in command.accounts() {
            if let Some(account) = self.shelf.remove(code) {
                self.run.book.load_account(account);
            }
        }
        self.run.step(command);
    }

    fn evict(&mut self, want: usize) {
        let before = State::of(&self.run.book);
        let settled = self.settled;
        let may_go = |account: &Account| account.balance.position <= settled;
        let gone = self.run.book.evict(want, may_go);
        let after = State::of(&self.run.book);
        assert_eq!(before.accounts.len() - after.accounts.len(), gone, "eviction counts what went");
        for (code, account) in before.accounts {
            if !after.accounts.contains_key(&code) {
                assert!(may_go(&account), "{code} had to stay");
                self.shelf.insert(code, account);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever else was applied, marked, settled, evicted and loaded since.
    #[test]
    fn rolling_back_restores_the_state_at_the_mark(scenario in scenario(Past::Any), operations in operations()) {
        let mut book = Shelved { run: Run::new(&scenario), shelf: BTreeMap::new(), settled: LOADED_POSITION };
        let mut commands = scenario.commands.iter().cycle();
        let mut open: Vec<Known> = Vec::new();
        for operation in operations {
            match operation {
                Operation::Step => book.step(commands.next().unwrap()),
                Operation::Mark => {
                    open.push(Known { mark: book.run.book.mark(), position: book.run.position, state: book.state() });
                }
                Operation::RollBack(index) if !open.is_empty() => {
                    open.truncate(index.index(open.len()) + 1);
                    let known = open.last().unwrap();
                    book.run.book.roll_back(known.mark);
                    book.run.position = known.position;
                    prop_assert_eq!(&book.state(), &known.state);
                    prop_assert_eq!(book.run.book.mark(), known.mark);
                }
                Operation::Settle(index) if !open.is_empty() => {
                    let index = index.index(open.len());
                    let before = (book.state(), book.run.book.mark());
                    book.run.book.settle(open[index].mark);
                    book.settled = open[index].position;
                    open.drain(..index);
                    prop_assert_eq!((book.state(), book.run.book.mark()), before, "settling changes no state");
                }
                Operation::Evict(want) => {
                    let before = book.state();
                    book.evict(want);
                    prop_assert_eq!(book.state(), before);
                }
                Operation::RollBack(_) | Operation::Settle(_) => {}
            }
        }
        // The oldest mark that is still open, from wherever the operations ended.
        if let Some(known) = open.first() {
            book.run.book.roll_back(known.mark);
            prop_assert_eq!(&book.state(), &known.state);
        }
    }

    /// And all that may go do go, when as many are wanted.
    #[test]
    fn eviction_takes_only_what_may_go(
        scenario in scenario(Past::Any),
        may_go in prop::collection::btree_set(0..120_u64, 0..100),
        rounds in prop::collection::vec((0..24_usize, 0..6_usize), 1..6),
    ) {
        let mut run = play(&scenario, |_| ());
        let allowed = |account: &Account| may_go.contains(&account.id);
        let mut lost: BTreeSet<AccountCode> = BTreeSet::new();
        for (want, reload) in rounds {
            let before = State::of(&run.book);
            let candidates = before.accounts.values().filter(|account| allowed(account)).count();
            let gone = run.book.evict(want, allowed);
            prop_assert!(gone <= want.min(candidates));
            // Two rounds over the book find all that may go: it takes the first
            // to see what has not been used since. A search for few is cut short.
            if want >= before.accounts.len() {
                prop_assert_eq!(gone, candidates);
            }
            let after = State::of(&run.book);
            prop_assert_eq!(after.accounts.len(), before.accounts.len() - gone);
            for (code, account) in &before.accounts {
                match after.accounts.get(code) {
                    Some(still) => prop_assert_eq!(still, account),
                    None => {
                        prop_assert!(allowed(account), "{code} had to stay");
                        lost.insert(code.clone());
                    }
                }
            }
            // Some come back, into whatever places have become free.
            let back: Vec<_> = lost.iter().take(reload).cloned().collect();
            for code in back {
                lost.remove(&code);
                run.book.load_account(run.model.accounts[&code].clone());
                prop_assert_eq!(run.book.account(&code), Some(&run.model.accounts[&code]));
            }
        }
    }

    /// A copy from the database may be older than what memory holds.
    #[test]
    fn loading_an_account_never_overwrites_the_one_in_the_book(scenario in scenario(Past::Any)) {
        let mut run = play(&scenario, |_| ());
        let before = State::of(&run.book);
        scenario.loaded.iter().for_each(|account| run.book.load_account(account.clone()));
        prop_assert_eq!(State::of(&run.book), before);
    }
}

/// The account longest unused goes first: one that was touched since the last
/// round gets a second chance.
#[test]
fn eviction_spares_what_was_used_lately() {
    let mut runner = TestRunner::deterministic();
    let accounts = loop {
        let Scenario { loaded, .. } = scenario(Past::None).new_tree(&mut runner).unwrap().current();
        if loaded.len() >= 4 {
            break loaded;
        }
    };
    let mut book = Book::default();
    accounts.iter().for_each(|account| book.load_account(account.clone()));
    assert_eq!(book.evict(1, |_| true), 1, "all were used lately, so the first of the second round goes");
    let fresh = accounts.iter().find(|account| !book.contains(&account.code)).unwrap();
    book.load_account(fresh.clone());
    assert_eq!(book.evict(accounts.len() - 1, |_| true), accounts.len() - 1);
    assert!(book.contains(&fresh.code), "the one just loaded is the last to go");
}

/// Facts that contradict the book, besides wrong balances.
#[test]
fn an_event_about_accounts_or_assets_that_contradicts_the_book_is_refused() {
    let mut runner = TestRunner::deterministic();
    let scenario = loop {
        let scenario = scenario(Past::None).new_tree(&mut runner).unwrap().current();
        let mut posts = false;
        play(&scenario, |step: &Step<'_>| posts |= outcome(&step.verdict) == "transaction_posted");
        if posts {
            break scenario;
        }
    };
    let run = play(&scenario, |_| ());
    let event = run.events.iter().find(|event| matches!(event.fact, Fact::TransactionPosted(_))).unwrap();

    let mut empty = Book::default();
    let refused = empty.apply(event).unwrap_err();
    assert!(refused.to_string().ends_with("is unknown"), "{refused}");
    assert!(empty.is_empty());

    let mut book = loaded(&scenario);
    let known = book.accounts().next().unwrap().clone();
    let before = (State::of(&book), book.mark());
    let again = |fact| Event { fact, ..event.clone() };
    let refused = book.apply(&again(Fact::AccountOpened {
        code: known.code.clone(),
        asset: known.asset.clone(),
        normal: known.normal,
        limits: known.limits,
        metadata: None,
    }));
    assert_eq!(refused.unwrap_err().detail, format!("account {} exists", known.code));
    assert_eq!((State::of(&book), book.mark()), before);

    let eur = crate::scenario::asset("EUR");
    let refused = book.apply(&again(Fact::AssetDefined { code: eur.clone(), scale: 3 }));
    assert_eq!(refused.unwrap_err().detail, "asset EUR has scale 2");
    assert_eq!((State::of(&book), book.mark()), before);

    // Known with the same scale, from the table that the same append wrote: no contradiction,
    // and rolling the event back does not take the asset away from those who loaded it.
    book.apply(&again(Fact::AssetDefined { code: eur, scale: 2 })).unwrap();
    book.roll_back(before.1);
    assert_eq!((State::of(&book), book.mark()), before);
}
