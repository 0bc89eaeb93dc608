//! A scenario being played, on the core and on the model side by side, as the
//! sequencer does it: what is due is settled first, and what a command is about is
//! read back into the book where it is not there.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use steelyard::clock::{ManualClock, recorded_at};
use steelyard::ledger::velocity::Counters;
use steelyard::ledger::{
    Account, AccountCode, Book, Command, Event, Fact, Known, Moment, Place, Position, Refusal, Rule, RuleKey, Verdict,
    decide,
};
use uuid::Uuid;

use crate::model::{Model, weight};
use crate::scenario::{LOADED_POSITION, Move, Scenario, asset, time};

/// Assets that every run knows from the start, besides those of its events.
const LOADED_ASSETS: [(&str, u8); 3] = [("EUR", 2), ("USD", 2), ("BTC", 8)];
/// Every asset that a scenario can mention.
const ASSETS: [&str; 5] = ["EUR", "USD", "BTC", "GOLD", "POINTS"];

pub struct Run {
    pub book: Book,
    pub model: Model,
    pub position: u64,
    pub events: Vec<Event>,
    /// Accounts that were evicted, as their rows in the database have them.
    pub shelf: BTreeMap<AccountCode, Account>,
    /// What velocity limits have counted on those.
    pub counters: BTreeMap<AccountCode, Counters>,
    /// Up to here the log is durable: the rows are exact, and the log can be read.
    pub committed: Position,
    /// What the machine's clock shows, which may run backwards.
    clock: DateTime<Utc>,
    /// When the last event was recorded.
    pub now: DateTime<Utc>,
}

/// One command with everything that came of it.
pub struct Step {
    pub command: Command,
    pub verdict: Verdict,
    pub before: State,
    pub after: State,
}

/// What can be known of a book.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub assets: BTreeMap<String, u8>,
    pub accounts: BTreeMap<AccountCode, Account>,
    /// Transactions that wait for a moment, in the order in which they are due.
    pub waiting: Vec<(DateTime<Utc>, Position, Uuid, Known)>,
    pub rules: BTreeMap<RuleKey, (Rule, Position)>,
    pub closed_before: Option<DateTime<Utc>>,
}

impl State {
    pub fn of(book: &Book) -> Self {
        let scale = |code: &&str| Some(((*code).to_owned(), book.asset_scale(&asset(code))?));
        let accounts: BTreeMap<_, _> = book.accounts().map(|a| (a.code.clone(), a.clone())).collect();
        assert_eq!(accounts.len(), book.len(), "the book counts what it holds");
        for (code, account) in &accounts {
            assert_eq!(book.account(code), Some(account), "the index leads to the account");
        }
        let known =
            |(due_at, position, id)| (due_at, position, id, book.known(&id).expect("it waits in memory").clone());
        let waiting: Vec<_> = book.due(None, DateTime::<Utc>::MAX_UTC).map(known).collect();
        assert_eq!(waiting.len(), book.waiting(), "the book counts what waits");
        let weight: usize = waiting.iter().map(|(.., known)| weight(known)).sum();
        assert_eq!(weight, book.waiting_weight(), "and weighs it");
        assert_eq!(waiting.first().map(|first| (first.0, first.1, first.2)), book.next_due());
        let rules: BTreeMap<_, _> =
            book.rules().map(|(rule, position)| (rule.key(), (rule.clone(), position))).collect();
        assert_eq!(rules.len(), book.rules().count(), "a rule replaces that of its name");
        Self {
            assets: ASSETS.iter().filter_map(scale).collect(),
            accounts,
            waiting,
            rules,
            closed_before: book.closed_before(),
        }
    }

    pub fn expected(model: &Model) -> Self {
        let known = |(due_at, position, id)| (due_at, position, id, model.transactions[&id].clone());
        Self {
            assets: model.assets.clone(),
            accounts: model.accounts.clone(),
            waiting: model.waiting().into_iter().map(known).collect(),
            rules: model.rules.clone(),
            closed_before: model.closed_before,
        }
    }
}

/// Fails unless the book, with the accounts that lie on `shelf`, is in the state of
/// the model, as far as it knows; what waits it must know.
#[track_caller]
pub fn assert_same(book: &Book, shelf: &BTreeMap<AccountCode, Account>, model: &Model) {
    let mut state = State::of(book);
    for (code, account) in shelf {
        assert!(state.accounts.insert(code.clone(), account.clone()).is_none(), "{code} is in one place only");
    }
    assert_eq!(state, State::expected(model));
    // Ids are made of positions.
    let mut count = 0;
    for position in 0..=1_000 {
        let id = Uuid::from_u128(position);
        if let Some(known) = book.known(&id) {
            assert_eq!(Some(known), model.transactions.get(&id), "{id}");
            count += 1;
        }
    }
    assert_eq!(count, book.known_len(), "the book counts what it knows");
}

/// A book before the first event of `scenario`.
pub fn loaded(scenario: &Scenario) -> Book {
    let mut book = Book::default();
    LOADED_ASSETS.iter().for_each(|(code, scale)| book.load_asset(asset(code), *scale));
    scenario.loaded.iter().for_each(|account| book.load_account(account.clone()));
    book
}

/// A transaction as it is read back from the log: from its first event and from
/// the last one that is its own or is about it.
pub fn read_back(log: &[Event], id: Uuid) -> Option<Known> {
    let first = log.iter().find(|event| event.transaction_id == Some(id))?;
    let begun = Known::begun_by(first).expect("the first event of a transaction begins it");
    let is_about = |event: &&Event| event.transaction_id == Some(id) || event.fact.subject() == Some(id);
    let last = log.iter().rfind(is_about).unwrap();
    if last.position == first.position {
        return Some(begun);
    }
    Some(begun.changed_by(last).expect("the last event follows from the first"))
}

/// A refusal of a request that means nothing says so in words, and where: neither is compared.
pub fn without_words(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Refuse(Refusal::Invalid { .. }) => {
            Verdict::Refuse(Refusal::Invalid { place: Place::Whole, rule: "".into() })
        }
        verdict => verdict,
    }
}

impl Run {
    pub fn new(scenario: &Scenario) -> Self {
        let model = Model {
            assets: LOADED_ASSETS.iter().map(|(code, scale)| ((*code).to_owned(), *scale)).collect(),
            accounts: scenario.loaded.iter().map(|account| (account.code.clone(), account.clone())).collect(),
            ..Model::default()
        };
        Self {
            book: loaded(scenario),
            model,
            position: LOADED_POSITION,
            events: Vec::new(),
            shelf: BTreeMap::new(),
            counters: BTreeMap::new(),
            committed: Position::MAX,
            clock: time(LOADED_POSITION),
            now: time(LOADED_POSITION),
        }
    }

    /// Moves the clock, settles what has come due, and decides what is wanted then.
    pub fn play(&mut self, next: &Move) -> Vec<Step> {
        let mut steps = self.wait(next.clock_s);
        let may_be_picked = |id: &Uuid| {
            // Nobody has been told the id of what is not durable yet.
            self.book.known(id).is_some() || self.model.transactions[id].changed <= self.committed
        };
        let command = next.intent.resolve(&self.model, self.now, may_be_picked);
        steps.push(self.step(&command));
        steps
    }

    /// Moves the clock and settles what has come due.
    pub fn wait(&mut self, clock_s: i64) -> Vec<Step> {
        self.clock += TimeDelta::seconds(clock_s);
        self.now = recorded_at(&ManualClock::new(self.clock), self.now);
        let mut steps = Vec::new();
        loop {
            let Some((due_at, _, id)) = self.book.due(None, self.now).next() else { break };
            assert!(due_at <= self.now, "what is not due yet is left alone");
            let step = self.step(&Command::Settle(id));
            assert!(matches!(step.verdict, Verdict::Record(_)), "what is due is settled: {:#?}", step.verdict);
            steps.push(step);
        }
        assert!(self.model.waiting().iter().all(|(due_at, ..)| *due_at > self.now), "nothing that waits is due");
        steps
    }

    /// Decides one command and applies what came of it.
    pub fn step(&mut self, command: &Command) -> Step {
        self.load(command);
        let before = State::of(&self.book);
        let verdict = self.decide(command);
        Step { command: command.clone(), verdict, before, after: State::of(&self.book) }
    }

    /// Reads into the book what the command is about.
    fn load(&mut self, command: &Command) {
        let mut codes: Vec<AccountCode> = command.accounts().cloned().collect();
        if let Some(id) = command.transaction() {
            if self.book.known(&id).is_none()
                && let Some(known) = read_back(&self.events, id)
            {
                assert!(known.changed <= self.committed, "memory keeps what the log cannot tell yet");
                self.book.load_known(id, known);
            }
            if let Some(known) = self.book.known(&id) {
                codes.extend(known.accounts().cloned());
            }
        }
        for code in codes {
            if let Some(account) = self.shelf.remove(&code) {
                self.book.load_account(account);
                for counted in self.counters.remove(&code).unwrap_or_default().iter() {
                    self.book.load_counted(&code, *counted);
                }
            }
        }
    }

    /// Core and model give the same answer to everything, in every history.
    fn decide(&mut self, command: &Command) -> Verdict {
        let position = self.position + 1;
        let at = Moment { position, recorded_at: self.now, transaction_id: Uuid::from_u128(u128::from(position)) };
        let verdict = decide(&self.book, command, &at);
        let expected = self.model.verdict(command, &at);
        assert_eq!(
            without_words(verdict.clone()),
            without_words(expected.clone()),
            "core and model on {command:#?} at {at:?}"
        );
        if let Verdict::Record(fact) = &verdict {
            let event = decide::event(&self.book, command, fact.clone(), None, &at);
            assert_eq!(event.effective_at, self.model.effective_at(command, &at), "{event:#?}");
            assert_eq!(event.transaction_id, self.model.transaction_id(command, fact, &at), "{event:#?}");
            self.book.apply(&event).expect("what was decided on the book follows from the book");
            self.events.push(event);
            self.position = position;
        }
        self.model.record(command, &expected, &at);
        verdict
    }
}

/// Plays a whole scenario.
pub fn play(scenario: &Scenario, mut each: impl FnMut(&Step)) -> Run {
    let mut run = Run::new(scenario);
    for next in &scenario.moves {
        run.play(next).iter().for_each(&mut each);
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
