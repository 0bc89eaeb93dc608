//! What a sequencer reads before it serves: at once, or ahead of its claim and then the rest.

use std::sync::Arc;

use steelyard::clock::SystemClock;
use steelyard::cluster::{Worker, worker};
use steelyard::sequencer::load::Loaded;
use steelyard::store::{Database, keys};

use super::{code, main_ledger, open, open_accounts, payment, serving, submit};
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
