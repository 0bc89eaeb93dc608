//! A scenario being played, on the core and on the model side by side.

use std::collections::BTreeMap;

use steelyard::ledger::{Account, AccountCode, Book, Command, Event, Fact, Moment, Verdict, decide};
use uuid::Uuid;

use crate::model::Model;
use crate::scenario::{LOADED_POSITION, Scenario, asset, time};

/// Assets that every run knows from the start, besides those of its events.
const LOADED_ASSETS: [(&str, u8); 3] = [("EUR", 2), ("USD", 2), ("BTC", 8)];
/// Every asset that a scenario can mention.
const ASSETS: [&str; 5] = ["EUR", "USD", "BTC", "GOLD", "POINTS"];

pub struct Run {
    pub book: Book,
    pub model: Model,
    pub position: u64,
    pub events: Vec<Event>,
}

/// One command with everything that came of it.
pub struct Step<'a> {
    pub command: &'a Command,
    pub verdict: Verdict,
    pub expected: Verdict,
    pub before: State,
    pub after: State,
}

/// What can be known of a book.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub assets: BTreeMap<String, u8>,
    pub accounts: BTreeMap<AccountCode, Account>,
}

impl State {
    pub fn of(book: &Book) -> Self {
        let scale = |code: &&str| Some(((*code).to_owned(), book.asset_scale(&asset(code))?));
        let accounts: BTreeMap<_, _> = book.accounts().map(|a| (a.code.clone(), a.clone())).collect();
        assert_eq!(accounts.len(), book.len(), "the book counts what it holds");
        for (code, account) in &accounts {
            assert_eq!(book.account(code), Some(account), "the index leads to the account");
        }
        Self { assets: ASSETS.iter().filter_map(scale).collect(), accounts }
    }
}

/// A book before the first event of `scenario`.
pub fn loaded(scenario: &Scenario) -> Book {
    let mut book = Book::default();
    LOADED_ASSETS.iter().for_each(|(code, scale)| book.load_asset(asset(code), *scale));
    scenario.loaded.iter().for_each(|account| book.load_account(account.clone()));
    book
}

impl Run {
    pub fn new(scenario: &Scenario) -> Self {
        let model = Model {
            assets: LOADED_ASSETS.iter().map(|(code, scale)| ((*code).to_owned(), *scale)).collect(),
            accounts: scenario.loaded.iter().map(|account| (account.code.clone(), account.clone())).collect(),
        };
        Self { book: loaded(scenario), model, position: LOADED_POSITION, events: Vec::new() }
    }

    /// Decides one command and applies what came of it.
    pub fn step<'a>(&mut self, command: &'a Command) -> Step<'a> {
        let before = State::of(&self.book);
        let (verdict, expected) = self.decide(command);
        Step { command, verdict, expected, before, after: State::of(&self.book) }
    }

    fn decide(&mut self, command: &Command) -> (Verdict, Verdict) {
        let position = self.position + 1;
        let at =
            Moment { position, recorded_at: time(position), transaction_id: Uuid::from_u128(u128::from(position)) };
        let verdict = decide(&self.book, command, &at);
        let expected = self.model.verdict(command, &at);
        if let Verdict::Record(fact) = &verdict {
            let event = steelyard::ledger::decide::event(command, fact.clone(), None, &at);
            self.book.apply(&event).expect("what was decided on the book follows from the book");
            self.events.push(event);
            self.position = position;
        }
        self.model.record(command, &expected, &at);
        (verdict, expected)
    }
}

/// Plays a whole scenario.
pub fn play(scenario: &Scenario, mut each: impl FnMut(&Step<'_>)) -> Run {
    let mut run = Run::new(scenario);
    for command in &scenario.commands {
        let step = run.step(command);
        each(&step);
    }
    run
}

/// The legs that a run posted, in order.
pub fn posted(events: &[Event]) -> impl Iterator<Item = &steelyard::ledger::Leg> {
    events.iter().flat_map(|event| match &event.fact {
        Fact::TransactionPosted(transaction) => transaction.legs.as_slice(),
        _ => &[],
    })
}
