//! What a sequencer reads before it serves: at once, or ahead of its claim and then the rest.

use std::sync::Arc;

use chrono::TimeDelta;
use steelyard::clock::{Clock, SystemClock};
use steelyard::cluster::{Ledger, Worker, worker};
use steelyard::ledger::{
    AccountType, AccountUpdate, Cancel, Capture, ChangeAccount, Command, Expiry, Freeze, FreezeScope, HoldState,
    Limits, Notes, Part, Position, Reverse, Rule, RuleKey, Side, State, Terms, TransactionRequest, Void,
};
use steelyard::sequencer::load::Loaded;
use steelyard::sequencer::{Item, Outcome, Work};
use steelyard::store::{Database, keys};
use tokio::time::Instant;
use uuid::Uuid;

use super::{PATIENCE, code, eur, key, main_ledger, open, open_accounts, payment, serving, submit};
use crate::support::Postgres;

/// What was read in two steps, with payments in between, is what is read at
/// once; also with projections that stand still, and accounts that are new.
#[tokio::test]
async fn what_was_read_ahead_and_the_rest_are_the_whole() {
    let url = Postgres::shared().await.database().await;
    let database = Database::new(&url).unwrap();
    // It sequences and does not project, so that every account is in the tail.
    let roles = worker::Roles { sequencer: true, projector: false };
    let options = worker::Options::new(database.clone(), "http://127.0.0.1:0".to_owned(), Arc::new(SystemClock));
    let worker = Worker::start(worker::Options { roles, ..options }).await.unwrap();
    serving(&worker).await;
    let ledger = main_ledger(&worker);
    open_accounts(&ledger).await;
    for (n, to) in ["a", "b", "a"].into_iter().enumerate() {
        submit(&ledger, payment("bank", to, 5, &format!("early {n}"))).await.unwrap();
    }
    let read_on = async |loaded: Loaded, events_min| {
        let conns = [database.connect_serving().await.unwrap(), database.connect_serving().await.unwrap()];
        loaded.read_on(1, 64, conns, events_min).await.unwrap().0
    };
    let ahead = read_on(Loaded::default(), 20_000).await;
    assert_eq!(ahead.head, ledger.tail.head());
    submit(&ledger, open("late", None)).await.unwrap();
    for (n, to) in ["a", "late", "late"].into_iter().enumerate() {
        submit(&ledger, payment("bank", to, 7, &format!("late {n}"))).await.unwrap();
    }
    let whole = read_on(Loaded::default(), 0).await;
    let ahead = read_on(ahead, 0).await;
    assert_eq!((ahead.head, ahead.last_recorded_at), (whole.head, whole.last_recorded_at));
    for (name, credits) in [("bank", 0), ("a", 17), ("b", 5), ("late", 14)] {
        let account = ahead.book.account(&code(name));
        assert_eq!(account.unwrap().balance.credits_posted.get(), credits, "{name}");
        assert_eq!(account, whole.book.account(&code(name)));
    }
    for key in ["early 0", "early 2", "late 0", "late 2"] {
        assert!(ahead.keys.contains(&keys::hash(key)) && whole.keys.contains(&keys::hash(key)), "{key}");
    }
    worker.stop().await;
}

/// The same of transactions that wait, of rules and of accounts that change: whether
/// the projections have it or not, and in how many steps it is read.
#[tokio::test]
async fn what_waits_is_read_ahead_with_rules_and_changes() {
    for (projector, waits_for_it) in [(false, false), (true, true), (true, false)] {
        let url = Postgres::shared().await.database().await;
        let database = Database::new(&url).unwrap();
        let roles = worker::Roles { sequencer: true, projector };
        let options = worker::Options::new(database.clone(), "http://127.0.0.1:0".to_owned(), Arc::new(SystemClock));
        let worker = Worker::start(worker::Options { roles, ..options }).await.unwrap();
        serving(&worker).await;
        let ledger = main_ledger(&worker);
        let read_on = async |loaded: Loaded| {
            let conns = [database.connect_serving().await.unwrap(), database.connect_serving().await.unwrap()];
            loaded.read_on(1, 64, conns, 0).await.unwrap().0
        };
        let projected = async || {
            if waits_for_it {
                let reached = ledger.checkpoints.reached(ledger.tail.head());
                tokio::time::timeout(PATIENCE, reached).await.unwrap();
            }
        };
        open_accounts(&ledger).await;
        let mut ids = Vec::new();
        ids.push(of(&ledger, payment("bank", "a", 1_000, "fund")).await);
        for n in 0..6 {
            ids.push(of(&ledger, hold(Some(600), &format!("hold {n}"))).await);
        }
        let never = of(&ledger, hold(None, "never expires")).await;
        for n in 0..3 {
            ids.push(of(&ledger, scheduled(600, &format!("scheduled {n}"))).await);
        }
        submit(&ledger, capture(ids[1], 1)).await.unwrap();
        submit(&ledger, change("a", freeze())).await.unwrap();
        submit(&ledger, change("b", freeze())).await.unwrap();
        submit(&ledger, rule("x:", 5)).await.unwrap();
        submit(&ledger, rule("y:", 5)).await.unwrap();
        submit(&ledger, change("a", AccountUpdate::Unfreeze { reason: "checked".into() })).await.unwrap();
        projected().await;
        let ahead = read_on(Loaded::default()).await;
        assert_eq!(ahead.waiting.len(), 9);

        submit(&ledger, change("b", AccountUpdate::Unfreeze { reason: "checked".into() })).await.unwrap();
        submit(&ledger, capture(ids[1], 2)).await.unwrap();
        submit(&ledger, capture(ids[2], 3)).await.unwrap();
        submit(&ledger, capture(ids[3], 10)).await.unwrap();
        submit(&ledger, capture(never, 4)).await.unwrap();
        let void = Void { payment: ids[4] };
        submit(&ledger, Item { command: Command::Void(void), key: Some(key("void")) }).await.unwrap();
        let cancel = Cancel { transaction: ids[7] };
        submit(&ledger, Item { command: Command::Cancel(cancel), key: None }).await.unwrap();
        let reverse = Reverse { transaction: ids[0], part: Part::Rest, force: true, notes: Notes::default() };
        submit(&ledger, Item { command: Command::Reverse(reverse), key: Some(key("reverse")) }).await.unwrap();
        let late = of(&ledger, hold(Some(700), "late")).await;
        submit(&ledger, capture(late, 5)).await.unwrap();
        let ended = of(&ledger, hold(Some(700), "ended at once")).await;
        submit(&ledger, capture(ended, 10)).await.unwrap();
        submit(&ledger, rule("x:", 7)).await.unwrap();
        let remove = Command::RemoveRule(RuleKey::AccountType("y:".into()));
        submit(&ledger, Item { command: remove, key: None }).await.unwrap();
        let before = SystemClock.now() - TimeDelta::days(1);
        submit(&ledger, Item { command: Command::ClosePeriod { before }, key: None }).await.unwrap();
        submit(&ledger, change("a", freeze())).await.unwrap();

        let ahead = read_on(ahead).await;
        projected().await;
        let whole = read_on(Loaded::default()).await;
        assert_eq!(ahead.waiting, whole.waiting, "projector {projector}");
        let mut remaining: Vec<(Uuid, i128)> = whole
            .waiting
            .iter()
            .filter_map(|(id, known)| match &known.state {
                State::Hold(hold) => {
                    assert_eq!(hold.state, HoldState::Authorised);
                    Some((*id, hold.remaining.get()))
                }
                _ => None,
            })
            .collect();
        remaining.sort_unstable();
        let mut expected = vec![(ids[1], 7), (ids[2], 7), (ids[5], 10), (ids[6], 10), (late, 5)];
        expected.sort_unstable();
        assert_eq!(remaining, expected);
        assert!(whole.waiting.contains_key(&ids[8]) && !whole.waiting.contains_key(&ids[7]));
        for loaded in [&ahead, &whole] {
            let rules: Vec<(&Rule, Position)> = loaded.book.rules().collect();
            assert!(matches!(rules[..], [(Rule::AccountType(rule), _)]
                if *rule.prefix == *"x:" && rule.limits.min_balance == Some(7.into())));
            assert!(loaded.book.closed_before().is_some());
        }
        // The last of each is behind the checkpoints, unless all has been projected.
        if !projector {
            for name in ["a", "b", "bank"] {
                let account = whole.book.account(&code(name)).unwrap();
                assert_eq!(Some(account), ahead.book.account(&code(name)));
                assert_eq!(account.attributes.freeze.is_some(), name == "a");
                assert_eq!(account.balance, read(&ledger, name).await);
            }
        }
        worker.stop().await;
    }
}

async fn of(ledger: &Ledger, item: Item) -> Uuid {
    let answer = submit(ledger, item).await.unwrap();
    let Outcome::Recorded { index, .. } = answer.outcomes[0] else { panic!("{answer:?}") };
    answer.batch.events[index].transaction_id.unwrap()
}

async fn read(ledger: &Ledger, name: &str) -> steelyard::ledger::Balance {
    let answer = ledger.handle.submit(Work::ReadAccount(code(name)), Instant::now() + PATIENCE).await.unwrap();
    let Outcome::Account(Some(account)) = &answer.outcomes[0] else { panic!("{answer:?}") };
    account.balance
}

/// Of 10, from `bank` to `b`.
fn hold(expires_in_s: Option<u32>, key_text: &str) -> Item {
    let request = TransactionRequest::payment(code("bank"), code("b"), 10.into(), eur());
    let expiry = expires_in_s.map_or(Expiry::Never, Expiry::In);
    let terms = Some(Box::new(Terms { hold: Some(expiry), ..Terms::default() }));
    Item { command: Command::Transact(TransactionRequest { terms, ..request }), key: Some(key(key_text)) }
}

fn scheduled(in_s: i64, key_text: &str) -> Item {
    let request = TransactionRequest::payment(code("bank"), code("b"), 10.into(), eur());
    let effective_at = Some(SystemClock.now() + TimeDelta::seconds(in_s));
    Item { command: Command::Transact(TransactionRequest { effective_at, ..request }), key: Some(key(key_text)) }
}

fn capture(payment: Uuid, amount: u64) -> Item {
    let capture = Capture { payment, amount: Some(amount.into()), last: false, notes: Notes::default() };
    Item { command: Command::Capture(capture), key: Some(key(&format!("{payment} {amount}"))) }
}

fn change(name: &str, change: AccountUpdate) -> Item {
    Item { command: Command::ChangeAccount(ChangeAccount { code: code(name), change }), key: None }
}

fn freeze() -> AccountUpdate {
    AccountUpdate::Freeze(Freeze { scope: FreezeScope::Debits, reason: "an audit".into() })
}

fn rule(prefix: &str, floor: u64) -> Item {
    let limits = Limits { min_balance: Some(floor.into()), max_balance: None };
    let rule = Rule::AccountType(AccountType { prefix: prefix.into(), normal: Side::Credit, limits });
    Item { command: Command::SetRule(rule), key: None }
}

/// A database that knows less than what was read ahead is another one: a copy
/// that was behind when it took over.
#[tokio::test]
async fn what_was_read_ahead_of_another_database_is_forgotten() {
    let (longer, shorter) = (Postgres::shared().await.database().await, Postgres::shared().await.database().await);
    let mut ahead = Loaded::default();
    for (url, payments) in [(longer, 9), (shorter, 2)] {
        let worker = super::worker(&url).await;
        let ledger = main_ledger(&worker);
        open_accounts(&ledger).await;
        for n in 0..payments {
            submit(&ledger, payment("bank", "a", 1, &format!("{n}"))).await.unwrap();
        }
        let database = Database::new(&url).unwrap();
        let conns = [database.connect_serving().await.unwrap(), database.connect_serving().await.unwrap()];
        ahead = ahead.read_on(1, 64, conns, 20_000).await.unwrap().0;
        assert_eq!(ahead.head, ledger.tail.head());
        assert_eq!(ahead.book.account(&code("a")).unwrap().balance.credits_posted.get(), payments);
        assert_eq!(ahead.keys.contains(&keys::hash("8")), payments == 9);
        worker.stop().await;
    }
}
