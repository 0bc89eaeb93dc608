//! Opens and funds the accounts of the benchmark through the API.
//!
//! All of it may be repeated: an account that is open already with the same attributes is fine, and the funding
//! payments have fixed idempotency keys, so a second run does not fund twice.

use std::fmt::Write as _;
use std::ops::Range;

use anyhow::bail;

use super::workload::{ASSET, HOT_ACCOUNT};
use super::{BenchArgs, Output, progress_bar};
use crate::cli::client::{BatchAnswer, Client};

/// The account from which the wallets are funded. It has no floor, so it goes as far below zero as they need.
const FUNDING_ACCOUNT: &str = "bank:funding";

/// Items in one request: half of what the API allows, which keeps the bodies below a megabyte.
const CHUNK_ITEMS: u32 = 5_000;

pub(super) async fn prepare(client: &Client, args: &BenchArgs, output: &Output) -> anyhow::Result<()> {
    if client.ledger() != "main" {
        client.create_ledger().await?;
    }
    open_accounts(client, args, output).await?;
    fund_wallets(client, args, output).await
}

async fn open_accounts(client: &Client, args: &BenchArgs, output: &Output) -> anyhow::Result<()> {
    let mut body = String::from(r#"{"accounts":["#);
    push_account(&mut body, FUNDING_ACCOUNT, "null");
    body.push(',');
    push_account(&mut body, HOT_ACCOUNT, r#""0""#);
    body.push_str("]}");
    check(&client.open_accounts(body.into_bytes()).await?, 2, &[200, 201])?;

    let bar = progress_bar(output, args.accounts.into(), "opening accounts [{bar:30}] {pos}/{len}");
    for wallets in chunks(args.accounts) {
        let expected = wallets.len();
        let body = json_list("accounts", wallets, |body, wallet| {
            push_account(body, &format!("wallet:{wallet}"), r#""0""#);
        });
        check(&client.open_accounts(body).await?, expected, &[200, 201])?;
        bar.inc(expected as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

async fn fund_wallets(client: &Client, args: &BenchArgs, output: &Output) -> anyhow::Result<()> {
    let bar = progress_bar(output, args.accounts.into(), "funding wallets [{bar:30}] {pos}/{len}");
    let mut funded_otherwise: u64 = 0;
    for wallets in chunks(args.accounts) {
        let expected = wallets.len();
        let body = json_list("payments", wallets, |body, wallet| {
            let _ = write!(
                body,
                r#"{{"idempotency_key":"bench-fund-{wallet}","from":"{FUNDING_ACCOUNT}","to":"wallet:{wallet}","amount":"{}","asset":"{ASSET}","reference":"bench-funding"}}"#,
                args.funding,
            );
        });
        let mut answer = client.pay_batch(body).await?;
        // An earlier run with another --funding has used the key: the wallet has funds.
        let before = answer.results.len();
        answer.results.retain(|item| {
            item.problem.as_ref().and_then(|problem| problem.code.as_deref()) != Some("idempotency_key_reused")
        });
        let reused = before - answer.results.len();
        funded_otherwise += reused as u64;
        check(&answer, expected - reused, &[201])?;
        bar.inc(expected as u64);
    }
    bar.finish_and_clear();
    if funded_otherwise > 0 {
        output.note(&format!("{funded_otherwise} wallets were funded by an earlier run with another amount"));
    }
    Ok(())
}

/// The wallets 1 to `accounts` in ranges of at most [`CHUNK_ITEMS`].
fn chunks(accounts: u32) -> impl Iterator<Item = Range<u32>> {
    (1..=accounts)
        .step_by(CHUNK_ITEMS as usize)
        .map(move |first| first..first.saturating_add(CHUNK_ITEMS).min(accounts + 1))
}

fn json_list(name: &str, wallets: Range<u32>, mut push: impl FnMut(&mut String, u32)) -> Vec<u8> {
    let mut body = format!(r#"{{"{name}":["#);
    let first = wallets.start;
    for wallet in wallets {
        if wallet != first {
            body.push(',');
        }
        push(&mut body, wallet);
    }
    body.push_str("]}");
    body.into_bytes()
}

fn push_account(body: &mut String, code: &str, min_balance: &str) {
    let _ = write!(body, r#"{{"code":"{code}","asset":"{ASSET}","normal":"credit","min_balance":{min_balance}}}"#);
}

/// Stops at the first item that was not done.
fn check(answer: &BatchAnswer, expected: usize, good: &[u16]) -> anyhow::Result<()> {
    if let Some(item) = answer.results.iter().find(|item| !good.contains(&item.status)) {
        match &item.problem {
            Some(problem) => bail!("the benchmark's accounts could not be prepared: {problem}"),
            None => bail!("the benchmark's accounts could not be prepared: status {}", item.status),
        }
    }
    if answer.results.len() != expected {
        bail!("{} results came back for a batch of {expected}", answer.results.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn chunks_cover_every_wallet_once() {
        assert_eq!(chunks(12_001).collect::<Vec<_>>(), [1..5_001, 5_001..10_001, 10_001..12_002]);
        assert!(chunks(5_000).eq(std::iter::once(1..5_001)));
        assert!(chunks(2).eq(std::iter::once(1..3)));
    }

    #[test]
    fn bodies_are_the_json_of_the_api() {
        let body = json_list("accounts", 1..3, |body, wallet| push_account(body, &format!("wallet:{wallet}"), "null"));
        let account = |code| json!({"code": code, "asset": "EUR", "normal": "credit", "min_balance": null});
        let expected = json!({"accounts": [account("wallet:1"), account("wallet:2")]});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }

    #[test]
    fn an_item_that_failed_stops_the_set_up_with_its_problem() {
        let answer: BatchAnswer = serde_json::from_value(json!({"results": [
            {"status": 201, "account": {}},
            {"status": 409, "problem": {"title": "Account exists", "status": 409, "code": "account_already_exists"}},
        ]}))
        .unwrap();
        let message = check(&answer, 2, &[200, 201]).unwrap_err().to_string();
        assert!(message.contains("account_already_exists"), "{message}");
    }
}
