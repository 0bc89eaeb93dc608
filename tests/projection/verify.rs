//! Verification passes what is right and names what is not.

use steelyard::projector::verify::Failure;

use chrono::TimeDelta;
use steelyard::clock::{Clock, SystemClock};
use steelyard::ledger::{Amount, Command, Fact, LegRequest, Side, TransactionRequest};
use steelyard::sequencer::Outcome;

use crate::fixture::{Scratch, code_of, euro, furnished, opening, payment, projected, submit};

#[tokio::test(flavor = "multi_thread")]
async fn good_data_passes_and_everything_is_counted() {
    let scratch = furnished().await;
    let report = scratch.verify().await.unwrap();
    assert_eq!((report.ledgers, report.events), (2, 2 * 14));
    assert_eq!((report.transactions, report.legs, report.entries), (2 * 6, 2 * 13, 2 * 13));
    assert_eq!((report.keys, report.accounts, report.balances), (2 * 7, 2 * 5, 2 * 5));
    assert_eq!((report.rejections, report.metadata), (2 * 4, 2 * 4));
    assert!(report.assets > 300);
}

/// The statement that does the damage, and what the finding must say.
const DAMAGE: &[(&str, &str)] = &[
    // The log.
    ("DELETE FROM events WHERE ledger_id = 1 AND position = 7", "ledger main: position 7, the log: expected position 7, found position 8"),
    ("DELETE FROM events WHERE ledger_id = 1 AND position = 1", "position 1, the log"),
    ("DELETE FROM events WHERE ledger_id = 1 AND position = 14", "checkpoint of shard"),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{legs,0,amount}', '\"501\"') WHERE ledger_id = 1 AND position = 6",
        "position 6, the transaction is not balanced: expected debits of 500 EUR, found debits of 501 EUR",
    ),
    (
        "UPDATE events SET payload = jsonb_set(jsonb_set(payload, '{legs,0,amount}', '\"501\"'), '{legs,1,amount}', '\"501\"')
         WHERE ledger_id = 2 AND position = 6",
        "ledger other: position 6, account bank: expected debits 501",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{legs,1,version}', '4') WHERE ledger_id = 1 AND position = 7",
        "position 7, account wallet:bob: expected debits 0, credits 120, pending debits 0, pending credits 0, version 1",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{legs,1,account_id}', '99') WHERE ledger_id = 1 AND position = 7",
        "position 7, account wallet:bob: expected an account opened at position 99, found none",
    ),
    (
        "UPDATE events SET payload = jsonb_set(payload, '{legs,1,account}', '\"wallet:carol\"') WHERE ledger_id = 1 AND position = 7",
        "position 7, account number 3: expected wallet:bob, found wallet:carol",
    ),
    ("UPDATE events SET payload = '{}' WHERE ledger_id = 1 AND position = 7", "position 7: expected an event that can be read"),
    ("UPDATE events SET schema_version = 9 WHERE ledger_id = 1 AND position = 7", "schema version 9 is unknown"),
    ("UPDATE events SET recorded_at = '2001-01-01' WHERE ledger_id = 1 AND position = 7", "position 7, recorded_at"),
    ("UPDATE events SET epoch = 0 WHERE ledger_id = 1 AND position = 7", "position 7, epoch"),
    ("UPDATE events SET ledger_id = 7 WHERE ledger_id = 2", "ledger 7: its events"),
    // Keys.
    ("DELETE FROM idempotency_keys WHERE ledger_id = 1 AND position = 7", "position 7, idempotency key \"key 1\": expected a row"),
    (
        "INSERT INTO idempotency_keys SELECT 1, decode(md5('a'), 'hex'), decode(md5('b'), 'hex'), 7, 1",
        "idempotency key with the hash 0cc175b9c0f1b6a831c399e269772661, which was used at position 7: \
         expected 1 events with that key from there on, found 0",
    ),
    ("UPDATE idempotency_keys SET position = 8 WHERE ledger_id = 1 AND position = 7", "position 7, idempotency key \"key 1\""),
    ("UPDATE idempotency_keys SET event_count = 2 WHERE ledger_id = 1 AND position = 7", "expected 2 events"),
    ("UPDATE idempotency_keys SET event_count = 2000000000 WHERE ledger_id = 1 AND position = 7", "positions 1 to 14 of the log"),
    (
        "UPDATE events SET idempotency_key = NULL WHERE ledger_id = 1 AND position = 7",
        "which was used at position 7: expected 1 events with that key from there on, found 0",
    ),
    ("UPDATE events SET idempotency_key = 'key 2' WHERE ledger_id = 1 AND position = 7", "position 7, idempotency key \"key 2\""),
    // Assets, checkpoints, faults.
    ("UPDATE assets SET scale = 2 WHERE ledger_id = 1 AND code = 'GOLD'", "asset GOLD: expected 3 decimals, found 2 decimals"),
    ("DELETE FROM assets WHERE ledger_id = 1 AND code = 'EUR'", "asset EUR of account bank"),
    ("UPDATE assets SET scale = 3 WHERE ledger_id = 1 AND code = 'EUR'", "asset EUR: expected 2 decimals, found 3 decimals"),
    ("INSERT INTO assets (ledger_id, code, scale) VALUES (1, 'GHOST', 5)", "asset GHOST: expected none, found 5 decimals"),
    ("UPDATE checkpoints SET position = 15 WHERE ledger_id = 1 AND shard = 3", "checkpoint of shard 3: expected 14 at most, where the log ends, found 15"),
    ("DELETE FROM checkpoints WHERE ledger_id = 1 AND shard = 3", "checkpoint of shard 3: expected a row, found none"),
    (
        "INSERT INTO projection_faults (shard, ledger_id, account_id, expected, position) SELECT shard, 1, 3, 1, 9 FROM accounts WHERE ledger_id = 1 AND account_id = 3",
        "projection of account wallet:bob",
    ),
    // Accounts and balances.
    ("DELETE FROM accounts WHERE ledger_id = 1 AND account_id = 4", "account wallet:carol: expected a row in accounts, found none"),
    ("DELETE FROM balances WHERE ledger_id = 1 AND account_id = 4", "account wallet:carol: expected a row in balances, found none"),
    ("UPDATE accounts SET max_balance = 7 WHERE ledger_id = 1 AND account_id = 5", "max_balance of account jar: expected 1000, found 7"),
    ("UPDATE accounts SET metadata = NULL WHERE ledger_id = 1 AND account_id = 4", "metadata of account wallet:carol"),
    ("UPDATE accounts SET status = 'frozen' WHERE ledger_id = 1 AND account_id = 4", "status of account wallet:carol"),
    ("UPDATE accounts SET shard = (shard + 1) % 64 WHERE ledger_id = 1 AND account_id = 4", "shard of account wallet:carol"),
    ("INSERT INTO accounts SELECT shard, ledger_id, 99, 'ghost', asset, normal_side, NULL, NULL, status, NULL, opened_at FROM accounts WHERE ledger_id = 1 AND account_id = 4", "the log has no such account"),
    (
        "UPDATE balances SET credits_posted = credits_posted + 1 WHERE ledger_id = 1 AND account_id = 3",
        "balance of account wallet:bob: expected debits 50, credits 120",
    ),
    ("UPDATE balances SET position = position - 1 WHERE ledger_id = 1 AND account_id = 3", "balance of account wallet:bob"),
    // Statements.
    ("DELETE FROM entries WHERE ledger_id = 1 AND account_id = 3 AND version = 2", "entries of account wallet:bob: expected line 2"),
    ("DELETE FROM entries WHERE ledger_id = 1 AND account_id = 3 AND version = 3", "found no row"),
    (
        "INSERT INTO entries SELECT shard, ledger_id, account_id, 4, position, leg, transaction_id, side, amount, balance_after, reference, effective_at, recorded_at FROM entries WHERE ledger_id = 1 AND account_id = 3 AND version = 3",
        "entries of account wallet:bob: expected no other row, found line 4",
    ),
    ("UPDATE entries SET balance_after = 121 WHERE ledger_id = 1 AND account_id = 3 AND version = 1", "found line 1"),
    ("UPDATE entries SET amount = 121 WHERE ledger_id = 1 AND account_id = 3 AND version = 1", "credit 121"),
    ("UPDATE entries SET reference = 'else' WHERE ledger_id = 1 AND account_id = 3 AND version = 1", "else"),
    ("UPDATE entries SET shard = (shard + 1) % 64 WHERE ledger_id = 1 AND account_id = 3 AND version = 1", "entries of account wallet:bob"),
    ("UPDATE entries SET account_id = 99 WHERE ledger_id = 1 AND account_id = 3 AND version = 1", "entries of account number 99"),
    (
        "UPDATE entries a SET amount = b.amount, balance_after = b.balance_after FROM entries b
         WHERE a.ledger_id = 1 AND a.account_id = 3 AND b.ledger_id = 1 AND b.account_id = 3 AND a.version IN (1, 2) AND b.version = 3 - a.version",
        "entries of account wallet:bob: expected line 1",
    ),
    ("DELETE FROM rejections WHERE ledger_id = 1 AND account_id = 3 AND position = 8", "rejections of account wallet:bob: expected rejection at position 8"),
    // What transactions are found by.
    (
        "DELETE FROM transaction_metadata WHERE ledger_id = 1 AND position = 6 AND key = 'order'",
        "transaction_metadata of account bank: expected member \"order\" with the value \"0\" at position 6",
    ),
    (
        "UPDATE transaction_metadata SET value = 'shop' WHERE ledger_id = 1 AND position = 8 AND key = 'channel'",
        "found member \"channel\" with the value \"shop\" at position 8",
    ),
    (
        "INSERT INTO transaction_metadata SELECT shard, ledger_id, account_id, position, 'zone', value FROM transaction_metadata WHERE ledger_id = 1 AND position = 6 AND key = 'order'",
        "transaction_metadata of account bank: expected no other row, found member \"zone\"",
    ),
    ("UPDATE transaction_metadata SET shard = (shard + 1) % 64 WHERE ledger_id = 1 AND position = 6", "transaction_metadata of account bank"),
    ("UPDATE transaction_metadata SET account_id = 99 WHERE ledger_id = 1 AND position = 6", "transaction_metadata of account number 99"),
    ("UPDATE rejections SET reason = 'account_closed' WHERE ledger_id = 1 AND account_id = 3 AND position = 8", "account_closed"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_is_found_and_named() {
    let good = furnished().await;
    let mut wrong = Vec::new();
    for (damage, expected) in DAMAGE {
        let scratch = good.cloned().await;
        scratch.corrupt(damage).await;
        let told = match scratch.verify().await {
            Err(Failure::Difference(difference)) => difference.to_string(),
            other => format!("{other:?}"),
        };
        if !told.contains(expected) {
            wrong.push(format!("{damage}\n  expected: {expected}\n  told:     {told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the legs of a transaction add up to may have more digits than an amount, whatever becomes of it.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_more_than_an_amount_can_be_are_verified_and_rebuilt() {
    let scratch = Scratch::empty().await;
    let worker = scratch.work().await;
    let ledger = worker.ledgers.get("main").unwrap();
    for code in ["a", "b", "c", "d"] {
        submit(&ledger, Command::OpenAccount(opening(code, Side::Credit, None)), None).await.unwrap();
    }
    let most =
        |account: &str, side: Side| LegRequest { account: code_of(account), side, amount: Amount::MAX, asset: euro() };
    let legs = [most("a", Side::Debit), most("b", Side::Debit), most("c", Side::Credit), most("d", Side::Credit)];
    let request = TransactionRequest { legs: legs.into_iter().collect(), ..payment("a", "c", 1) };
    let later = TransactionRequest { effective_at: Some(SystemClock.now() + TimeDelta::days(30)), ..request.clone() };
    let mut found = Vec::new();
    // The third finds the totals full.
    for (n, request) in [request.clone(), later, request].into_iter().enumerate() {
        let answer = submit(&ledger, Command::Transact(request), Some(&format!("k{n}"))).await.unwrap();
        let Outcome::Recorded { index, .. } = answer.outcomes[0] else { panic!("{answer:?}") };
        found.push(answer.batch.events[index].fact.type_name());
    }
    assert_eq!(found, ["transaction_posted", "transaction_scheduled", "transaction_rejected"]);
    projected(&ledger).await;
    worker.stop().await;
    scratch.verify().await.unwrap();
    scratch.rebuild().await.unwrap();
    scratch.verify().await.unwrap();
    // And a difference is still found.
    scratch
        .corrupt("UPDATE events SET payload = jsonb_set(payload, '{legs,0,amount}', '\"1\"') WHERE type = 'transaction_posted'")
        .await;
    let told = scratch.verify().await.unwrap_err().to_string();
    let expected = format!("expected debits of 1{:0>38} EUR, found debits of 1{:0>38} EUR", "9".repeat(37) + "8", "0");
    assert!(told.contains(&expected), "{told}\n{expected}");
}

/// Trap: an account whose projection has stopped is read back from its old row
/// of `balances`, since its shard's checkpoint moves on. Money is then paid twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_projection_does_not_make_payments_wrong() {
    let scratch = furnished().await;
    let carol = "ledger_id = 1 AND account_id = 4";
    let mut next = scratch.number(&format!("SELECT version FROM balances WHERE {carol}")).await;
    let has = format!("SELECT (credits_posted - debits_posted)::bigint FROM balances WHERE {carol}");
    let has = scratch.number(&has).await;
    let mut paid_in = 0;
    for round in 0..5 {
        // A worker that holds nothing in memory.
        let worker = scratch.work().await;
        let ledger = worker.ledgers.get("main").unwrap();
        let pay = async |from: &str, to: &str, amount: i64, key: String| {
            let request = payment(from, to, u64::try_from(amount).unwrap());
            let answer = submit(&ledger, Command::Transact(request), Some(&key)).await.unwrap();
            let Outcome::Recorded { index, .. } = answer.outcomes[0] else { panic!("{answer:?}") };
            answer.batch.events[index].fact.clone()
        };
        for amount in [7, 11] {
            let fact = pay("bank", "wallet:carol", amount, format!("in {round} {amount}")).await;
            let Fact::TransactionPosted(posted) = fact else { panic!("{fact:?}") };
            let after = posted.legs.iter().find(|leg| leg.account_id == 4).unwrap().after;
            next += 1;
            paid_in += amount;
            assert_eq!(after.version, u64::try_from(next).unwrap(), "round {round}");
            assert_eq!(after.posted(steelyard::ledger::Side::Credit).get(), i128::from(has + paid_in), "round {round}");
            projected(&ledger).await;
            if paid_in == 7 {
                // Ahead, so that a later flush meets the version of the broken row.
                scratch.corrupt(&format!("UPDATE balances SET version = version + 2 WHERE {carol}")).await;
            }
        }
        worker.stop().await;
    }
    let told = scratch.verify().await.unwrap_err().to_string();
    assert!(told.contains("projection of account wallet:carol"), "{told}");
    scratch.rebuild().await.unwrap();
    scratch.verify().await.unwrap();
}
