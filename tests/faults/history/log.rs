//! The log as a witness: whether it is one that a right ledger may have
//! written, and whether it has exactly what clients asked for and were told.
//!
//! It shares no code with the ledger. Balances are computed anew from the
//! amounts, with the one rule that these histories need: who pays must not fall
//! below the floor.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, Asked, Finding, Read, Rule};

/// A row of `events`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub position: i64,
    pub epoch: i64,
    pub recorded_at: DateTime<Utc>,
    #[sqlx(rename = "type")]
    pub type_name: String,
    pub transaction_id: Option<String>,
    pub idempotency_key: Option<String>,
    pub payload: String,
}

#[derive(Debug, Deserialize)]
struct Opened {
    account: String,
    normal: String,
    min_balance: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    legs: Vec<Leg>,
    rejection: Option<Rejection>,
}

/// A leg; what it leaves behind is there when it was posted.
#[derive(Debug, Deserialize)]
struct Leg {
    account: String,
    account_id: u64,
    side: String,
    amount: String,
    debits: Option<String>,
    credits: Option<String>,
    version: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Rejection {
    code: String,
    account: String,
    available: Option<String>,
    would_be: Option<String>,
    min_balance: Option<String>,
}

/// An account and what became of it.
#[derive(Debug)]
struct Account {
    id: u64,
    floor: Option<i128>,
    debits: i128,
    credits: i128,
    /// After each event that touched it, oldest first.
    states: Vec<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    position: u64,
    version: u64,
    posted: i128,
}

impl Account {
    fn state(&self) -> State {
        *self.states.last().expect("an account begins with a state")
    }
}

/// A log that has been followed to its end.
#[derive(Debug, Default)]
pub struct Log {
    accounts: BTreeMap<String, Account>,
    /// Where each key was recorded.
    keys: BTreeMap<String, u64>,
}

impl Log {
    /// Follows the log from its beginning, beside what was asked and answered.
    pub fn follow(rows: &[Row], asked: &BTreeMap<String, Asked>) -> Result<Self, Finding> {
        let mut log = Self::default();
        let mut before: Option<&Row> = None;
        for row in rows {
            check_order(before, row)?;
            log.apply(row, asked)?;
            before = Some(row);
        }
        let lost = asked.iter().find(|(key, asked)| asked.answer.is_some() && !log.keys.contains_key(*key));
        if let Some((key, asked)) = lost {
            return Err(found(Rule::ExactlyOnce, format!("{key} was answered and is not in the log: {asked:?}")));
        }
        Ok(log)
    }

    /// Where a key was recorded.
    pub fn position(&self, key: &str) -> Option<u64> {
        self.keys.get(key).copied()
    }

    /// A read is what the log says of the account as of the read's position.
    pub fn check_read(&self, read: &Read) -> Result<(), Finding> {
        let differs = |expected: &str| Err(found(Rule::Reads, format!("{read:?}, but by the log {expected}")));
        let Some(account) = self.accounts.get(&read.account) else { return differs("there is no such account") };
        let after = account.states.partition_point(|state| state.position <= read.position);
        let Some(state) = after.checked_sub(1).map(|last| account.states[last]) else {
            return differs("it was opened later");
        };
        let seen = State { position: read.balance_position, version: read.version, posted: read.posted };
        if seen == state { Ok(()) } else { differs(&format!("{state:?}")) }
    }

    fn apply(&mut self, row: &Row, asked: &BTreeMap<String, Asked>) -> Result<(), Finding> {
        match row.type_name.as_str() {
            "account_opened" => self.open(row),
            "transaction_posted" | "transaction_rejected" => {
                let transaction: Transaction = payload(row)?;
                let asked = self.note_key(row, asked)?;
                check_request(row, &transaction, asked)?;
                if row.type_name == "transaction_posted" {
                    self.post(row, &transaction, asked)
                } else {
                    self.reject(row, &transaction, asked)
                }
            }
            other => Err(found(Rule::Requests, format!("nobody asked for {other} at {}", row.position))),
        }
    }

    fn open(&mut self, row: &Row) -> Result<(), Finding> {
        let Opened { account, normal, min_balance } = payload(row)?;
        if normal != "credit" {
            return Err(found(Rule::Requests, format!("{account} was opened {normal}-normal")));
        }
        let opened = Account {
            id: row.position as u64,
            floor: min_balance.as_deref().map(amount),
            debits: 0,
            credits: 0,
            states: vec![State { position: row.position as u64, version: 0, posted: 0 }],
        };
        match self.accounts.insert(account, opened) {
            None => Ok(()),
            Some(earlier) => {
                Err(found(Rule::ExactlyOnce, format!("opened twice, at {} and before: {earlier:?}", row.position)))
            }
        }
    }

    /// A key acts once, and only if somebody asked.
    fn note_key<'a>(&mut self, row: &Row, asked: &'a BTreeMap<String, Asked>) -> Result<&'a Asked, Finding> {
        let position = row.position as u64;
        let Some(key) = &row.idempotency_key else {
            return Err(found(Rule::Requests, format!("a transaction without a key at {position}")));
        };
        if let Some(earlier) = self.keys.insert(key.clone(), position) {
            return Err(found(Rule::ExactlyOnce, format!("{key} is in the log at {earlier} and at {position}")));
        }
        asked.get(key).ok_or_else(|| found(Rule::Requests, format!("nobody asked for {key} at {position}")))
    }

    fn account(&mut self, row: &Row, leg: &Leg) -> Result<&mut Account, Finding> {
        let account = self.accounts.get_mut(&leg.account).filter(|account| account.id == leg.account_id);
        account.ok_or_else(|| found(Rule::Balances, format!("no account {} at {}", leg.account, row.position)))
    }

    fn post(&mut self, row: &Row, transaction: &Transaction, asked: &Asked) -> Result<(), Finding> {
        if let Some(answer) = &asked.answer {
            check_answer(row, answer, 201)?;
        }
        for leg in &transaction.legs {
            let account = self.account(row, leg)?;
            let before = account.state();
            let total = if leg.side == "debit" { &mut account.debits } else { &mut account.credits };
            *total += amount(&leg.amount);
            let (debits, credits) = (account.debits, account.credits);
            let after = State { position: row.position as u64, version: before.version + 1, posted: credits - debits };
            let stated = (leg.debits.as_deref().map(amount), leg.credits.as_deref().map(amount), leg.version);
            if stated != (Some(debits), Some(credits), Some(after.version)) {
                let what = format!("at {} it is {after:?}, and the leg states {leg:?}", row.position);
                return Err(found(Rule::Balances, what));
            }
            if let Some(floor) = account.floor.filter(|floor| after.posted < before.posted && after.posted < *floor) {
                let what = format!("{} falls to {} at {}, below {floor}", leg.account, after.posted, row.position);
                return Err(found(Rule::Floors, what));
            }
            account.states.push(after);
            if let Some(answer) = &asked.answer {
                let told = &answer.body["balances"][&leg.account];
                if (told["version"].as_u64(), told["posted"].as_str().map(amount))
                    != (Some(after.version), Some(after.posted))
                {
                    return Err(found(Rule::Answers, format!("{after:?} was answered with {told}")));
                }
            }
        }
        Ok(())
    }

    /// The one reason in these histories: who pays would have fallen below the floor.
    fn reject(&mut self, row: &Row, transaction: &Transaction, asked: &Asked) -> Result<(), Finding> {
        if let Some(answer) = &asked.answer {
            check_answer(row, answer, 422)?;
        }
        let unjustified = |why: String| Err(found(Rule::Rejections, format!("at {}: {why}", row.position)));
        let Some(rejection) = &transaction.rejection else { return unjustified("no reason".to_owned()) };
        let Some(payer) = transaction.legs.iter().find(|leg| leg.side == "debit") else {
            return unjustified("nobody pays".to_owned());
        };
        for leg in &transaction.legs {
            self.account(row, leg)?;
        }
        let account = self.account(row, payer)?;
        let available = account.state().posted;
        let would_be = available - amount(&payer.amount);
        let Some(floor) = account.floor.filter(|floor| would_be < *floor) else {
            return unjustified(format!("{} could pay from {available}, with {:?}", payer.account, account.floor));
        };
        let stated = [&rejection.available, &rejection.would_be, &rejection.min_balance];
        let stated = stated.map(|text| text.as_deref().map(amount));
        let names = rejection.code == "insufficient_funds" && rejection.account == payer.account;
        if !names || stated != [Some(available), Some(would_be), Some(floor)] {
            return unjustified(format!("{available} would be {would_be} with the floor {floor}, not {rejection:?}"));
        }
        match &asked.answer {
            Some(answer) if answer.body["code"] != *rejection.code => {
                Err(found(Rule::Answers, format!("{} was answered as {}", rejection.code, answer.body["code"])))
            }
            _ => Ok(()),
        }
    }
}

/// Positions are contiguous, epochs rise, time does not run backwards.
fn check_order(before: Option<&Row>, row: &Row) -> Result<(), Finding> {
    let expected = before.map_or(0, |before| before.position) + 1;
    if row.position != expected {
        return Err(found(Rule::Positions, format!("position {} in the place of {expected}", row.position)));
    }
    let Some(before) = before else { return Ok(()) };
    if row.epoch < before.epoch {
        return Err(found(Rule::Epochs, format!("{} follows {} at {expected}", row.epoch, before.epoch)));
    }
    if row.recorded_at < before.recorded_at {
        let what = format!("{} follows {} at {expected}", row.recorded_at, before.recorded_at);
        return Err(found(Rule::Time, what));
    }
    Ok(())
}

/// The event does what was asked for, and nothing else.
fn check_request(row: &Row, transaction: &Transaction, asked: &Asked) -> Result<(), Finding> {
    let legs: Vec<(&str, &str, i128)> =
        transaction.legs.iter().map(|leg| (leg.account.as_str(), leg.side.as_str(), amount(&leg.amount))).collect();
    let text = |member: &str| asked.body[member].as_str().unwrap_or_default();
    let paid = match &asked.body["amount"] {
        Value::String(text) => amount(text),
        number => i128::from(number.as_u64().expect("an amount")),
    };
    if legs == [(text("from"), "debit", paid), (text("to"), "credit", paid)] {
        Ok(())
    } else {
        Err(found(Rule::Requests, format!("{} was asked for, and {legs:?} is at {}", asked.body, row.position)))
    }
}

/// The answer is about this event.
fn check_answer(row: &Row, answer: &Answer, status: u16) -> Result<(), Finding> {
    let told = (answer.status, Some(&answer.transaction), answer.body["position"].as_i64());
    if told == (status, row.transaction_id.as_ref(), Some(row.position)) {
        Ok(())
    } else {
        Err(found(Rule::Answers, format!("{row:?} was answered {answer:?}")))
    }
}

fn payload<T: for<'de> Deserialize<'de>>(row: &Row) -> Result<T, Finding> {
    serde_json::from_str(&row.payload).map_err(|error| found(Rule::Requests, format!("{error}: {row:?}")))
}

fn amount(text: &str) -> i128 {
    text.parse().expect("an amount")
}

fn found(rule: Rule, what: String) -> Finding {
    Finding { rule, what }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    /// Two accounts; `a` has 100 and pays 30, and then cannot pay 80.
    fn history() -> (Vec<Row>, BTreeMap<String, Asked>) {
        let leg = |account: &str, account_id: u64, side: &str, amount: u32, after: Option<(u32, u32, u64)>| {
            let mut leg =
                json!({"account": account, "account_id": account_id, "side": side, "amount": amount.to_string()});
            if let Some((debits, credits, version)) = after {
                leg["debits"] = json!(debits.to_string());
                leg["credits"] = json!(credits.to_string());
                leg["version"] = json!(version);
            }
            leg
        };
        let events = [
            ("account_opened", None, json!({"account": "bank", "normal": "credit"})),
            ("account_opened", None, json!({"account": "a", "normal": "credit", "min_balance": "0"})),
            (
                "transaction_posted",
                Some("fund"),
                json!({"legs": [
                    leg("bank", 1, "debit", 100, Some((100, 0, 1))), leg("a", 2, "credit", 100, Some((0, 100, 1))),
                ]}),
            ),
            (
                "transaction_posted",
                Some("pay"),
                json!({"legs": [
                    leg("a", 2, "debit", 30, Some((30, 100, 2))), leg("bank", 1, "credit", 30, Some((100, 30, 2))),
                ]}),
            ),
            (
                "transaction_rejected",
                Some("decline"),
                json!({
                    "legs": [leg("a", 2, "debit", 80, None), leg("bank", 1, "credit", 80, None)],
                    "rejection": {"code": "insufficient_funds", "account": "a",
                                  "available": "70", "would_be": "-10", "min_balance": "0"},
                }),
            ),
        ];
        let rows = events.into_iter().zip(1..).map(|((type_name, key, payload), position)| Row {
            position,
            epoch: 1 + position / 3,
            recorded_at: DateTime::from_timestamp(1_800_000_000 + position, 0).unwrap(),
            type_name: type_name.to_owned(),
            transaction_id: key.map(|key| format!("id of {key}")),
            idempotency_key: key.map(str::to_owned),
            payload: payload.to_string(),
        });
        let asked = |from: &str, to: &str, amount: u32, status: u16, key: &str, body: Value| {
            let answer = Answer { status, transaction: format!("id of {key}"), body };
            let body = json!({"from": from, "to": to, "amount": amount.to_string()});
            let mut asked = Asked::now(body, false);
            asked.answer = Some(answer);
            asked.answered = Some(Instant::now());
            (key.to_owned(), asked)
        };
        let balances = |a: (u64, i32), bank: (u64, i32)| json!({"a": {"version": a.0, "posted": a.1.to_string()}, "bank": {"version": bank.0, "posted": bank.1.to_string()}});
        let asked = BTreeMap::from([
            asked("bank", "a", 100, 201, "fund", json!({"position": 3, "balances": balances((1, 100), (1, -100))})),
            asked("a", "bank", 30, 201, "pay", json!({"position": 4, "balances": balances((2, 70), (2, -70))})),
            asked("a", "bank", 80, 422, "decline", json!({"position": 5, "code": "insufficient_funds"})),
        ]);
        (rows.collect(), asked)
    }

    /// Which rule a history breaks.
    fn broken(rows: &[Row], asked: &BTreeMap<String, Asked>) -> Option<Rule> {
        Log::follow(rows, asked).err().map(|finding| finding.rule)
    }

    fn replace(row: &mut Row, from: &str, to: &str) {
        assert!(row.payload.contains(from), "{from} in {}", row.payload);
        row.payload = row.payload.replace(from, to);
    }

    #[test]
    fn a_right_history_passes() {
        let (rows, mut asked) = history();
        assert_eq!(broken(&rows, &asked), None);
        // What was not answered may be in the log, or not.
        asked.get_mut("pay").unwrap().answer = None;
        assert_eq!(broken(&rows, &asked), None);
        let never = Asked::now(json!({"from": "a", "to": "bank", "amount": "1"}), false);
        asked.insert("never".to_owned(), never);
        assert_eq!(broken(&rows, &asked), None);
    }

    #[test]
    fn positions_are_contiguous_epochs_rise_and_time_does_not_run_backwards() {
        let (mut rows, asked) = history();
        rows.remove(2);
        assert_eq!(broken(&rows, &asked), Some(Rule::Positions));
        let (mut rows, asked) = history();
        rows[4].epoch = 1;
        assert_eq!(broken(&rows, &asked), Some(Rule::Epochs));
        let (mut rows, asked) = history();
        rows[4].recorded_at = rows[2].recorded_at;
        assert_eq!(broken(&rows, &asked), Some(Rule::Time));
    }

    #[test]
    fn what_was_acknowledged_is_in_the_log_exactly_once() {
        let (mut rows, asked) = history();
        rows.pop();
        assert_eq!(broken(&rows, &asked), Some(Rule::ExactlyOnce));
        let (mut rows, asked) = history();
        rows[4] = Row { position: 5, ..rows[3].clone() };
        assert_eq!(broken(&rows, &asked), Some(Rule::ExactlyOnce));
        let (rows, mut asked) = history();
        asked.remove("pay");
        assert_eq!(broken(&rows, &asked), Some(Rule::Requests));
        let (rows, mut asked) = history();
        asked.get_mut("pay").unwrap().body["amount"] = json!("31");
        assert_eq!(broken(&rows, &asked), Some(Rule::Requests));
    }

    #[test]
    fn answers_are_what_the_log_says() {
        for change in [
            (|answer: &mut Answer| answer.status = 422) as fn(&mut Answer),
            |answer| answer.transaction = "another".to_owned(),
            |answer| answer.body["position"] = json!(5),
            |answer| answer.body["balances"]["a"]["version"] = json!(3),
            |answer| answer.body["balances"]["bank"]["posted"] = json!("-71"),
        ] {
            let (rows, mut asked) = history();
            change(asked.get_mut("pay").unwrap().answer.as_mut().unwrap());
            assert_eq!(broken(&rows, &asked), Some(Rule::Answers));
        }
        let (rows, mut asked) = history();
        asked.get_mut("decline").unwrap().answer.as_mut().unwrap().body["code"] = json!("account_frozen");
        assert_eq!(broken(&rows, &asked), Some(Rule::Answers));
    }

    #[test]
    fn balances_follow_from_the_amounts_and_keep_their_floors() {
        for (from, to) in [("\"credits\":\"100\"", "\"credits\":\"101\""), ("\"version\":2", "\"version\":3")] {
            let (mut rows, asked) = history();
            replace(&mut rows[3], from, to);
            assert_eq!(broken(&rows, &asked), Some(Rule::Balances));
        }
        let (mut rows, asked) = history();
        replace(&mut rows[1], "\"min_balance\":\"0\"", "\"min_balance\":\"71\"");
        assert_eq!(broken(&rows, &asked), Some(Rule::Floors));
        // The bank has none.
        let (mut rows, asked) = history();
        replace(&mut rows[0], "\"normal\"", "\"min_balance\":\"-99\",\"normal\"");
        assert_eq!(broken(&rows, &asked), Some(Rule::Floors));
    }

    #[test]
    fn a_rejection_is_justified_at_its_position() {
        for (from, to) in [
            ("insufficient_funds", "account_frozen"),
            ("\"available\":\"70\"", "\"available\":\"60\""),
            ("\"would_be\":\"-10\"", "\"would_be\":\"-20\""),
            ("\"min_balance\":\"0\"", "\"min_balance\":\"1\""),
        ] {
            let (mut rows, asked) = history();
            replace(&mut rows[4], from, to);
            assert_eq!(broken(&rows, &asked), Some(Rule::Rejections));
        }
        // Before the payment there was enough.
        let (mut rows, mut asked) = history();
        rows.remove(3);
        asked.remove("pay");
        rows[3].position = 4;
        assert_eq!(broken(&rows, &asked), Some(Rule::Answers));
        asked.get_mut("decline").unwrap().answer = None;
        assert_eq!(broken(&rows, &asked), Some(Rule::Rejections));
    }

    #[test]
    fn a_read_is_what_the_log_says_as_of_its_position() {
        let (rows, asked) = history();
        let log = Log::follow(&rows, &asked).unwrap();
        let read = |position, balance_position, version, posted| {
            let now = Instant::now();
            let account = "a".to_owned();
            let read = Read { account, version, posted, balance_position, position, called: now, answered: now };
            log.check_read(&read).is_ok()
        };
        assert!(read(2, 2, 0, 0) && read(3, 3, 1, 100) && read(4, 4, 2, 70) && read(5, 4, 2, 70));
        assert!(!read(1, 1, 0, 0), "not opened yet");
        assert!(!read(4, 3, 1, 100), "one version old");
        assert!(!read(3, 4, 2, 70), "one version too new");
        assert!(!read(4, 4, 2, 71) && !read(5, 5, 2, 70));
    }
}
