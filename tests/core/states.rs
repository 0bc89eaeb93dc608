//! What every command does in every state: one table for holds, one for what was
//! posted, one for what is scheduled and one for accounts. Each cell is run, on the
//! model too.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::TimeDelta;
use steelyard::ledger::{
    AccountUpdate, Amount, Cancel, Capture, ChangeAccount, Command, Expiry, Fact, Freeze, FreezeScope, LegRequest,
    Notes, OpenAccount, Part, Refusal, Reverse, Side, State, Terms, TransactionRequest, Verdict, Void,
};
use uuid::Uuid;

use crate::properties::outcome;
use crate::run::{Run, assert_same};
use crate::scenario::{Scenario, asset, code, signed};

/// A ledger in which things are done as they are written.
struct Play {
    run: Run,
    /// Transactions by the names that the table gives them.
    named: BTreeMap<String, Uuid>,
}

impl Play {
    /// `bank` may be overdrawn, `alice` and `bob` may not; `alice` has nothing.
    fn new() -> Self {
        let mut play =
            Self { run: Run::new(&Scenario { loaded: Vec::new(), moves: Vec::new() }), named: BTreeMap::new() };
        for (name, floor) in [("bank", None), ("alice", Some(0)), ("bob", Some(0))] {
            play.run.step(&Command::OpenAccount(OpenAccount { min_balance: Some(floor.map(signed)), ..opening(name) }));
        }
        play.act("bank > bob 1000");
        play
    }

    /// Does one thing and says what came of it:
    ///
    /// - `bob > alice 10`, a payment; `… hold` or `… hold 5` authorises it (for so many
    ///   seconds), `… in 5` schedules it, `name = …` gives it a name
    /// - `capture name 10`, `capture name rest`, `… last`; `void name`
    /// - `reverse name`, `reverse name 10`, `… force`; `cancel name`
    /// - `wait 5`, in seconds; `settle name`, out of its time
    /// - `open alice`, `floor alice 10`, `freeze alice debits`, `unfreeze alice`,
    ///   `close alice`, `reopen alice`
    fn act(&mut self, text: &str) -> String {
        let (name, text) = text.split_once(" = ").map_or((None, text), |(name, text)| (Some(name), text));
        let command = match *text.split(' ').collect::<Vec<_>>() {
            ["wait", seconds] => {
                let steps = self.run.wait(seconds.parse().unwrap());
                let outcomes: Vec<&str> = steps.iter().map(|step| outcome(&step.verdict)).collect();
                return if outcomes.is_empty() { "nothing".to_owned() } else { outcomes.join(", ") };
            }
            [from, ">", to, amount, ref terms @ ..] => self.pay(from, to, amount, terms),
            ["capture", name, amount, ref last @ ..] => {
                let amount = (amount != "rest").then(|| signed(amount.parse().unwrap()));
                let last = last == ["last"];
                Command::Capture(Capture { payment: self.named[name], amount, last, notes: Notes::default() })
            }
            ["void", name] => Command::Void(Void { payment: self.named[name] }),
            ["reverse", name, ref words @ ..] => {
                let part = match words.iter().find_map(|word| word.parse().ok()) {
                    Some(amount) => Part::Amount(signed(amount)),
                    None => Part::Rest,
                };
                let force = words.contains(&"force");
                Command::Reverse(Reverse { transaction: self.named[name], part, force, notes: Notes::default() })
            }
            ["cancel", name] => Command::Cancel(Cancel { transaction: self.named[name] }),
            ["settle", name] => Command::Settle(self.named[name]),
            ["open", name] => Command::OpenAccount(opening(name)),
            [verb, name, ref words @ ..] => {
                Command::ChangeAccount(ChangeAccount { code: code(name), change: change(verb, words) })
            }
            _ => panic!("{text:?} cannot be done"),
        };
        let position = self.run.position;
        let step = self.run.step(&command);
        assert_same(&self.run.book, &self.run.shelf, &self.run.model);
        if let Some(name) = name {
            assert!(self.run.position > position, "{text}: {:?}", step.verdict);
            self.named.insert(name.to_owned(), Uuid::from_u128(u128::from(self.run.position)));
        }
        match &step.verdict {
            Verdict::Refuse(Refusal::Invalid { .. }) => "invalid".to_owned(),
            Verdict::Refuse(Refusal::AccountState { state, .. }) => format!("account_state {state}"),
            Verdict::Refuse(Refusal::LimitsConflict { .. }) => "limits_conflict".to_owned(),
            verdict => outcome(verdict).to_owned(),
        }
    }

    fn pay(&self, from: &str, to: &str, amount: &str, terms: &[&str]) -> Command {
        let amount = signed(amount.parse().unwrap());
        let mut request = TransactionRequest::payment(code(from), code(to), amount, asset("EUR"));
        let hold = |expiry| Some(Box::new(Terms { hold: Some(expiry), ..Terms::default() }));
        match *terms {
            [] => {}
            ["hold"] => request.terms = hold(Expiry::Never),
            ["hold", seconds] => request.terms = hold(Expiry::In(seconds.parse().unwrap())),
            ["in", seconds] => {
                request.effective_at = Some(self.run.now + TimeDelta::seconds(seconds.parse().unwrap()));
            }
            _ => panic!("{terms:?} are no terms"),
        }
        Command::Transact(request)
    }

    /// How the transaction stands.
    fn state(&self, name: &str) -> String {
        match &self.run.model.transactions[&self.named[name]].state {
            State::Hold(hold) => {
                format!("{}, {} left, {} captured", hold.state.as_str(), hold.remaining, hold.captured)
            }
            State::Posted(posted) => format!("posted, {} left", posted.remaining[0]),
            State::Scheduled(_) => "scheduled".to_owned(),
            State::Cancelled => "cancelled".to_owned(),
            State::Rejected => "rejected".to_owned(),
        }
    }
}

/// Of an account that begins as one without a type does.
fn opening(name: &str) -> OpenAccount {
    OpenAccount {
        code: code(name),
        asset: asset("EUR"),
        normal: None,
        min_balance: None,
        max_balance: None,
        metadata: None,
    }
}

fn change(verb: &str, words: &[&str]) -> AccountUpdate {
    let reason: Arc<str> = Arc::from("as the table says");
    match (verb, words) {
        ("floor", [floor]) => AccountUpdate::Update {
            min_balance: Some(Some(signed(floor.parse().unwrap()))),
            max_balance: None,
            metadata: None,
        },
        ("freeze", [scope]) => AccountUpdate::Freeze(Freeze { scope: FreezeScope::parse(scope).unwrap(), reason }),
        ("unfreeze", []) => AccountUpdate::Unfreeze { reason },
        ("close", []) => AccountUpdate::Close { reason: Some(reason) },
        ("reopen", []) => AccountUpdate::Reopen { reason: None },
        _ => panic!("{verb:?} cannot be done to an account"),
    }
}

/// What leads to a state, and, of every command, what it does then.
struct Row {
    state: &'static str,
    by: &'static [&'static str],
    cells: &'static [(&'static str, &'static str)],
}

/// Runs every cell of a table on a ledger of its own. Each row has the same commands.
fn check(rows: &[Row], begin: &[&str], then: impl Fn(&Play) -> String) {
    let commands: Vec<&str> = rows[0].cells.iter().map(|(command, _)| *command).collect();
    let mut wrong = Vec::new();
    for Row { state, by, cells } in rows {
        let named: Vec<&str> = cells.iter().map(|(command, _)| *command).collect();
        assert_eq!(named, commands, "every command in every state: {state}");
        for (command, expected) in *cells {
            let mut play = Play::new();
            begin.iter().chain(*by).for_each(|text| {
                play.act(text);
            });
            let actual = format!("{}{}", play.act(command), then(&play));
            if actual != *expected {
                wrong.push(format!("{state}, {command}: {actual:?} in place of {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A hold of 100 for 60 seconds. The second part of a cell is how it stands afterwards.
const HOLDS: &[Row] = &[
    Row {
        state: "authorised",
        by: &[],
        cells: &[
            ("capture h 40", "transaction_posted: authorised, 60 left, 40 captured"),
            ("capture h 40 last", "transaction_posted: captured, 0 left, 40 captured"),
            ("capture h 100", "transaction_posted: captured, 0 left, 100 captured"),
            ("capture h rest", "transaction_posted: captured, 0 left, 100 captured"),
            ("capture h rest last", "transaction_posted: captured, 0 left, 100 captured"),
            ("capture h 101", "capture_exceeds_hold: authorised, 100 left, 0 captured"),
            ("capture h 0", "invalid: authorised, 100 left, 0 captured"),
            ("void h", "hold_voided: voided, 0 left, 0 captured"),
            ("settle h", "unchanged: authorised, 100 left, 0 captured"),
            ("wait 59", "nothing: authorised, 100 left, 0 captured"),
            ("wait 60", "hold_expired: expired, 0 left, 0 captured"),
            ("reverse h", "not_reversible: authorised, 100 left, 0 captured"),
            ("cancel h", "not_scheduled: authorised, 100 left, 0 captured"),
        ],
    },
    Row {
        state: "authorised, captured in part",
        by: &["capture h 40"],
        cells: &[
            ("capture h 40", "transaction_posted: authorised, 20 left, 80 captured"),
            ("capture h 40 last", "transaction_posted: captured, 0 left, 80 captured"),
            ("capture h 100", "capture_exceeds_hold: authorised, 60 left, 40 captured"),
            ("capture h rest", "transaction_posted: captured, 0 left, 100 captured"),
            ("capture h rest last", "transaction_posted: captured, 0 left, 100 captured"),
            ("capture h 101", "capture_exceeds_hold: authorised, 60 left, 40 captured"),
            ("capture h 0", "invalid: authorised, 60 left, 40 captured"),
            ("void h", "hold_voided: voided, 0 left, 40 captured"),
            ("settle h", "unchanged: authorised, 60 left, 40 captured"),
            ("wait 59", "nothing: authorised, 60 left, 40 captured"),
            ("wait 60", "hold_expired: expired, 0 left, 40 captured"),
            ("reverse h", "not_reversible: authorised, 60 left, 40 captured"),
            ("cancel h", "not_scheduled: authorised, 60 left, 40 captured"),
        ],
    },
    Row {
        state: "captured",
        by: &["capture h 40", "capture h rest"],
        cells: &[
            ("capture h 40", "hold_not_open: captured, 0 left, 100 captured"),
            ("capture h 40 last", "hold_not_open: captured, 0 left, 100 captured"),
            ("capture h 100", "hold_not_open: captured, 0 left, 100 captured"),
            ("capture h rest", "hold_not_open: captured, 0 left, 100 captured"),
            ("capture h rest last", "hold_not_open: captured, 0 left, 100 captured"),
            ("capture h 101", "hold_not_open: captured, 0 left, 100 captured"),
            ("capture h 0", "invalid: captured, 0 left, 100 captured"),
            ("void h", "hold_not_open: captured, 0 left, 100 captured"),
            ("settle h", "unchanged: captured, 0 left, 100 captured"),
            ("wait 59", "nothing: captured, 0 left, 100 captured"),
            ("wait 60", "nothing: captured, 0 left, 100 captured"),
            ("reverse h", "not_reversible: captured, 0 left, 100 captured"),
            ("cancel h", "not_scheduled: captured, 0 left, 100 captured"),
        ],
    },
    Row {
        state: "captured in part, the rest released",
        by: &["capture h 40 last"],
        cells: &[
            ("capture h 40", "hold_not_open: captured, 0 left, 40 captured"),
            ("capture h 40 last", "hold_not_open: captured, 0 left, 40 captured"),
            ("capture h 100", "hold_not_open: captured, 0 left, 40 captured"),
            ("capture h rest", "hold_not_open: captured, 0 left, 40 captured"),
            ("capture h rest last", "hold_not_open: captured, 0 left, 40 captured"),
            ("capture h 101", "hold_not_open: captured, 0 left, 40 captured"),
            ("capture h 0", "invalid: captured, 0 left, 40 captured"),
            ("void h", "hold_not_open: captured, 0 left, 40 captured"),
            ("settle h", "unchanged: captured, 0 left, 40 captured"),
            ("wait 59", "nothing: captured, 0 left, 40 captured"),
            ("wait 60", "nothing: captured, 0 left, 40 captured"),
            ("reverse h", "not_reversible: captured, 0 left, 40 captured"),
            ("cancel h", "not_scheduled: captured, 0 left, 40 captured"),
        ],
    },
    Row {
        state: "voided",
        by: &["void h"],
        cells: &[
            ("capture h 40", "hold_not_open: voided, 0 left, 0 captured"),
            ("capture h 40 last", "hold_not_open: voided, 0 left, 0 captured"),
            ("capture h 100", "hold_not_open: voided, 0 left, 0 captured"),
            ("capture h rest", "hold_not_open: voided, 0 left, 0 captured"),
            ("capture h rest last", "hold_not_open: voided, 0 left, 0 captured"),
            ("capture h 101", "hold_not_open: voided, 0 left, 0 captured"),
            ("capture h 0", "invalid: voided, 0 left, 0 captured"),
            ("void h", "hold_not_open: voided, 0 left, 0 captured"),
            ("settle h", "unchanged: voided, 0 left, 0 captured"),
            ("wait 59", "nothing: voided, 0 left, 0 captured"),
            ("wait 60", "nothing: voided, 0 left, 0 captured"),
            ("reverse h", "not_reversible: voided, 0 left, 0 captured"),
            ("cancel h", "not_scheduled: voided, 0 left, 0 captured"),
        ],
    },
    Row {
        state: "captured in part, then voided",
        by: &["capture h 40", "void h"],
        cells: &[
            ("capture h 40", "hold_not_open: voided, 0 left, 40 captured"),
            ("capture h 40 last", "hold_not_open: voided, 0 left, 40 captured"),
            ("capture h 100", "hold_not_open: voided, 0 left, 40 captured"),
            ("capture h rest", "hold_not_open: voided, 0 left, 40 captured"),
            ("capture h rest last", "hold_not_open: voided, 0 left, 40 captured"),
            ("capture h 101", "hold_not_open: voided, 0 left, 40 captured"),
            ("capture h 0", "invalid: voided, 0 left, 40 captured"),
            ("void h", "hold_not_open: voided, 0 left, 40 captured"),
            ("settle h", "unchanged: voided, 0 left, 40 captured"),
            ("wait 59", "nothing: voided, 0 left, 40 captured"),
            ("wait 60", "nothing: voided, 0 left, 40 captured"),
            ("reverse h", "not_reversible: voided, 0 left, 40 captured"),
            ("cancel h", "not_scheduled: voided, 0 left, 40 captured"),
        ],
    },
    Row {
        state: "expired",
        by: &["wait 60"],
        cells: &[
            ("capture h 40", "hold_not_open: expired, 0 left, 0 captured"),
            ("capture h 40 last", "hold_not_open: expired, 0 left, 0 captured"),
            ("capture h 100", "hold_not_open: expired, 0 left, 0 captured"),
            ("capture h rest", "hold_not_open: expired, 0 left, 0 captured"),
            ("capture h rest last", "hold_not_open: expired, 0 left, 0 captured"),
            ("capture h 101", "hold_not_open: expired, 0 left, 0 captured"),
            ("capture h 0", "invalid: expired, 0 left, 0 captured"),
            ("void h", "hold_not_open: expired, 0 left, 0 captured"),
            ("settle h", "unchanged: expired, 0 left, 0 captured"),
            ("wait 59", "nothing: expired, 0 left, 0 captured"),
            ("wait 60", "nothing: expired, 0 left, 0 captured"),
            ("reverse h", "not_reversible: expired, 0 left, 0 captured"),
            ("cancel h", "not_scheduled: expired, 0 left, 0 captured"),
        ],
    },
    Row {
        state: "captured in part, then expired",
        by: &["capture h 40", "wait 60"],
        cells: &[
            ("capture h 40", "hold_not_open: expired, 0 left, 40 captured"),
            ("capture h 40 last", "hold_not_open: expired, 0 left, 40 captured"),
            ("capture h 100", "hold_not_open: expired, 0 left, 40 captured"),
            ("capture h rest", "hold_not_open: expired, 0 left, 40 captured"),
            ("capture h rest last", "hold_not_open: expired, 0 left, 40 captured"),
            ("capture h 101", "hold_not_open: expired, 0 left, 40 captured"),
            ("capture h 0", "invalid: expired, 0 left, 40 captured"),
            ("void h", "hold_not_open: expired, 0 left, 40 captured"),
            ("settle h", "unchanged: expired, 0 left, 40 captured"),
            ("wait 59", "nothing: expired, 0 left, 40 captured"),
            ("wait 60", "nothing: expired, 0 left, 40 captured"),
            ("reverse h", "not_reversible: expired, 0 left, 40 captured"),
            ("cancel h", "not_scheduled: expired, 0 left, 40 captured"),
        ],
    },
];

#[test]
fn holds() {
    check(HOLDS, &["h = bob > alice 100 hold 60"], |play| format!(": {}", play.state("h")));
}

/// Funds are reserved on both sides, and what ends a hold gives back what is left.
#[test]
fn a_hold_reserves_and_gives_back() {
    let balances = |by: &[&str]| {
        let mut play = Play::new();
        play.act("h = bob > alice 100 hold 60");
        by.iter().for_each(|text| {
            play.act(text);
        });
        ["bob", "alice"].map(|name| {
            let balance = play.run.book.account(&code(name)).unwrap().balance;
            let numbers = [
                balance.available(Side::Credit),
                balance.posted(Side::Credit),
                balance.expected(Side::Credit),
                Amount::from(balance.version),
            ];
            numbers.map(Amount::get)
        })
    };
    // Available, posted, expected, version.
    let [bob, alice] = balances(&[]);
    assert_eq!((bob, alice), ([900, 1000, 1000, 1], [0, 0, 100, 0]), "no leg is posted yet");
    let [bob, alice] = balances(&["capture h 40"]);
    assert_eq!((bob, alice), ([900, 960, 960, 2], [40, 40, 100, 1]));
    let [bob, alice] = balances(&["capture h 40 last"]);
    assert_eq!((bob, alice), ([960, 960, 960, 2], [40, 40, 40, 1]));
    let [bob, alice] = balances(&["capture h rest"]);
    assert_eq!((bob, alice), ([900, 900, 900, 2], [100, 100, 100, 1]));
    for by in [["capture h 40", "void h"], ["capture h 40", "wait 60"]] {
        let [bob, alice] = balances(&by);
        assert_eq!((bob, alice), ([960, 960, 960, 2], [40, 40, 40, 1]), "{by:?}");
    }
    for by in [["void h"], ["wait 60"]] {
        let [bob, alice] = balances(&by);
        assert_eq!((bob, alice), ([1000, 1000, 1000, 1], [0, 0, 0, 0]), "{by:?}");
    }
}

/// A payment of 100 that has arrived. The second part of a cell is what is left of it.
const POSTED: &[Row] = &[
    Row {
        state: "posted",
        by: &[],
        cells: &[
            ("reverse p", "transaction_posted: posted, 0 left"),
            ("reverse p 40", "transaction_posted: posted, 60 left"),
            ("reverse p 100", "transaction_posted: posted, 0 left"),
            ("reverse p 101", "reversal_exceeds_transaction: posted, 100 left"),
            ("reverse p 101 force", "reversal_exceeds_transaction: posted, 100 left"),
            ("reverse p 0", "invalid: posted, 100 left"),
            ("capture p 1", "not_a_hold: posted, 100 left"),
            ("void p", "not_a_hold: posted, 100 left"),
            ("cancel p", "not_scheduled: posted, 100 left"),
            ("settle p", "unchanged: posted, 100 left"),
        ],
    },
    Row {
        state: "posted, and spent",
        by: &["alice > bob 30"],
        cells: &[
            ("reverse p", "insufficient_funds: posted, 100 left"),
            ("reverse p 40", "transaction_posted: posted, 60 left"),
            ("reverse p 100", "insufficient_funds: posted, 100 left"),
            ("reverse p 101", "reversal_exceeds_transaction: posted, 100 left"),
            ("reverse p 101 force", "reversal_exceeds_transaction: posted, 100 left"),
            ("reverse p 0", "invalid: posted, 100 left"),
            ("capture p 1", "not_a_hold: posted, 100 left"),
            ("void p", "not_a_hold: posted, 100 left"),
            ("cancel p", "not_scheduled: posted, 100 left"),
            ("settle p", "unchanged: posted, 100 left"),
        ],
    },
    Row {
        state: "reversed in part",
        by: &["reverse p 60"],
        cells: &[
            ("reverse p", "transaction_posted: posted, 0 left"),
            ("reverse p 40", "transaction_posted: posted, 0 left"),
            ("reverse p 100", "reversal_exceeds_transaction: posted, 40 left"),
            ("reverse p 101", "reversal_exceeds_transaction: posted, 40 left"),
            ("reverse p 101 force", "reversal_exceeds_transaction: posted, 40 left"),
            ("reverse p 0", "invalid: posted, 40 left"),
            ("capture p 1", "not_a_hold: posted, 40 left"),
            ("void p", "not_a_hold: posted, 40 left"),
            ("cancel p", "not_scheduled: posted, 40 left"),
            ("settle p", "unchanged: posted, 40 left"),
        ],
    },
    Row {
        state: "reversed",
        by: &["reverse p 60", "reverse p"],
        cells: &[
            ("reverse p", "reversal_exceeds_transaction: posted, 0 left"),
            ("reverse p 40", "reversal_exceeds_transaction: posted, 0 left"),
            ("reverse p 100", "reversal_exceeds_transaction: posted, 0 left"),
            ("reverse p 101", "reversal_exceeds_transaction: posted, 0 left"),
            ("reverse p 101 force", "reversal_exceeds_transaction: posted, 0 left"),
            ("reverse p 0", "invalid: posted, 0 left"),
            ("capture p 1", "not_a_hold: posted, 0 left"),
            ("void p", "not_a_hold: posted, 0 left"),
            ("cancel p", "not_scheduled: posted, 0 left"),
            ("settle p", "unchanged: posted, 0 left"),
        ],
    },
    Row {
        state: "reversed by force, and then some",
        by: &["alice > bob 30", "reverse p 90 force"],
        cells: &[
            ("reverse p", "insufficient_funds: posted, 10 left"),
            ("reverse p 40", "reversal_exceeds_transaction: posted, 10 left"),
            ("reverse p 100", "reversal_exceeds_transaction: posted, 10 left"),
            ("reverse p 101", "reversal_exceeds_transaction: posted, 10 left"),
            ("reverse p 101 force", "reversal_exceeds_transaction: posted, 10 left"),
            ("reverse p 0", "invalid: posted, 10 left"),
            ("capture p 1", "not_a_hold: posted, 10 left"),
            ("void p", "not_a_hold: posted, 10 left"),
            ("cancel p", "not_scheduled: posted, 10 left"),
            ("settle p", "unchanged: posted, 10 left"),
        ],
    },
];

#[test]
fn what_was_posted() {
    check(POSTED, &["p = bob > alice 100"], |play| format!(": {}", play.state("p")));
}

/// What a capture or a reversal has posted, and what was scheduled, can be reversed
/// as any other transaction; a reversal that is reversed gives nothing back to reverse.
#[test]
fn everything_posted_can_be_reversed() {
    let mut play = Play::new();
    for text in ["h = bob > alice 100 hold", "c = capture h 40", "s = bob > alice 10 in 5"] {
        play.act(text);
    }
    assert_eq!(play.act("wait 5"), "transaction_posted");
    for (text, name, state) in [
        ("r = reverse c 30", "c", "posted, 10 left"),
        ("reverse r", "r", "posted, 0 left"),
        ("reverse c", "c", "posted, 0 left"),
        ("reverse s 3", "s", "posted, 7 left"),
        ("reverse s", "s", "posted, 0 left"),
    ] {
        assert_eq!(play.act(text), "transaction_posted", "{text}");
        assert_eq!(play.state(name), state, "{text}");
    }
    assert_eq!(play.state("c"), "posted, 0 left", "what its reversal gave back is not left a second time");
    assert_eq!(play.state("h"), "authorised, 60 left, 40 captured", "a hold knows nothing of it");
}

/// A payment of 100 that is scheduled in 60 seconds.
const SCHEDULED: &[Row] = &[
    Row {
        state: "scheduled",
        by: &[],
        cells: &[
            ("cancel s", "schedule_cancelled: cancelled"),
            ("settle s", "unchanged: scheduled"),
            ("wait 59", "nothing: scheduled"),
            ("wait 60", "transaction_posted: posted, 100 left"),
            ("reverse s", "not_reversible: scheduled"),
            ("capture s 1", "not_a_hold: scheduled"),
            ("void s", "not_a_hold: scheduled"),
        ],
    },
    Row {
        state: "scheduled, of funds that are not there",
        by: &["bob > bank 950"],
        cells: &[
            ("cancel s", "schedule_cancelled: cancelled"),
            ("settle s", "unchanged: scheduled"),
            ("wait 59", "nothing: scheduled"),
            ("wait 60", "insufficient_funds: rejected"),
            ("reverse s", "not_reversible: scheduled"),
            ("capture s 1", "not_a_hold: scheduled"),
            ("void s", "not_a_hold: scheduled"),
        ],
    },
    Row {
        state: "scheduled, to an account that was closed since",
        by: &["close alice"],
        cells: &[
            ("cancel s", "schedule_cancelled: cancelled"),
            ("settle s", "unchanged: scheduled"),
            ("wait 59", "nothing: scheduled"),
            ("wait 60", "account_closed: rejected"),
            ("reverse s", "not_reversible: scheduled"),
            ("capture s 1", "not_a_hold: scheduled"),
            ("void s", "not_a_hold: scheduled"),
        ],
    },
    Row {
        state: "scheduled, from an account that was frozen since",
        by: &["freeze bob debits"],
        cells: &[
            ("cancel s", "schedule_cancelled: cancelled"),
            ("settle s", "unchanged: scheduled"),
            ("wait 59", "nothing: scheduled"),
            ("wait 60", "account_frozen: rejected"),
            ("reverse s", "not_reversible: scheduled"),
            ("capture s 1", "not_a_hold: scheduled"),
            ("void s", "not_a_hold: scheduled"),
        ],
    },
    Row {
        state: "posted",
        by: &["wait 60"],
        cells: &[
            ("cancel s", "not_scheduled: posted, 100 left"),
            ("settle s", "unchanged: posted, 100 left"),
            ("wait 59", "nothing: posted, 100 left"),
            ("wait 60", "nothing: posted, 100 left"),
            ("reverse s", "transaction_posted: posted, 0 left"),
            ("capture s 1", "not_a_hold: posted, 100 left"),
            ("void s", "not_a_hold: posted, 100 left"),
        ],
    },
    Row {
        state: "rejected",
        by: &["bob > bank 950", "wait 60", "bank > bob 950"],
        cells: &[
            ("cancel s", "not_scheduled: rejected"),
            ("settle s", "unchanged: rejected"),
            ("wait 59", "nothing: rejected"),
            ("wait 60", "nothing: rejected"),
            ("reverse s", "not_reversible: rejected"),
            ("capture s 1", "not_a_hold: rejected"),
            ("void s", "not_a_hold: rejected"),
        ],
    },
    Row {
        state: "cancelled",
        by: &["cancel s"],
        cells: &[
            ("cancel s", "not_scheduled: cancelled"),
            ("settle s", "unchanged: cancelled"),
            ("wait 59", "nothing: cancelled"),
            ("wait 60", "nothing: cancelled"),
            ("reverse s", "not_reversible: cancelled"),
            ("capture s 1", "not_a_hold: cancelled"),
            ("void s", "not_a_hold: cancelled"),
        ],
    },
];

#[test]
fn what_is_scheduled() {
    check(SCHEDULED, &["s = bob > alice 100 in 60"], |play| format!(": {}", play.state("s")));
}

/// Two that are due at once are decided in the order in which they were asked for,
/// one that is due before another before it, whenever either is looked at.
#[test]
fn what_is_due_is_settled_in_its_order() {
    let mut play = Play::new();
    for text in ["c = bob > alice 600 in 20", "a = bob > alice 500 in 10", "b = bob > alice 450 in 10"] {
        assert_eq!(play.act(text), "transaction_scheduled");
    }
    assert_eq!(play.act("h = bob > alice 100 hold 20"), "transaction_authorised");
    assert_eq!(play.act("wait 100"), "transaction_posted, insufficient_funds, insufficient_funds, hold_expired");
    assert_eq!(["a", "b", "c"].map(|name| play.state(name)), ["posted, 500 left", "rejected", "rejected"]);
    let log = &play.run.events;
    let counts_for: Vec<i64> =
        log[log.len() - 4..].iter().map(|event| (event.recorded_at - event.effective_at).num_seconds()).collect();
    assert_eq!(counts_for, [90, 90, 80, 80], "each counts for its own moment, however late the clock was read");
}

/// `alice`, with an earlier payment to her (`p`), a hold of hers (`out`) and one for
/// her (`in`), of 10 each. The second part of a cell is what she is afterwards.
const ACCOUNTS: &[Row] = &[
    Row {
        state: "open, with money and holds",
        by: &[],
        cells: &[
            ("alice > bob 5", "transaction_posted: open"),
            ("bob > alice 5", "transaction_posted: open"),
            ("alice > bob 5 hold", "transaction_authorised: open"),
            ("bob > alice 5 hold", "transaction_authorised: open"),
            ("alice > bob 5 in 9", "transaction_scheduled: open"),
            ("capture out rest", "transaction_posted: open"),
            ("capture in rest", "transaction_posted: open"),
            ("void out", "hold_voided: open"),
            ("void in", "hold_voided: open"),
            ("wait 600", "hold_expired, hold_expired: open"),
            ("reverse p 5", "transaction_posted: open"),
            ("floor alice 1", "account_updated: open"),
            ("floor alice 0", "unchanged: open"),
            ("floor alice 91", "limits_conflict: open"),
            ("freeze alice all", "account_frozen: frozen"),
            ("freeze alice debits", "account_frozen: frozen"),
            ("freeze alice credits", "account_frozen: frozen"),
            ("unfreeze alice", "unchanged: open"),
            ("close alice", "account_state not_empty: open"),
            ("reopen alice", "unchanged: open"),
            ("open alice", "unchanged: open"),
        ],
    },
    Row {
        state: "open, with money",
        by: &["void in", "void out"],
        cells: &[
            ("alice > bob 5", "transaction_posted: open"),
            ("bob > alice 5", "transaction_posted: open"),
            ("alice > bob 5 hold", "transaction_authorised: open"),
            ("bob > alice 5 hold", "transaction_authorised: open"),
            ("alice > bob 5 in 9", "transaction_scheduled: open"),
            ("capture out rest", "hold_not_open: open"),
            ("capture in rest", "hold_not_open: open"),
            ("void out", "hold_not_open: open"),
            ("void in", "hold_not_open: open"),
            ("wait 600", "nothing: open"),
            ("reverse p 5", "transaction_posted: open"),
            ("floor alice 1", "account_updated: open"),
            ("floor alice 0", "unchanged: open"),
            ("floor alice 91", "account_updated: open"),
            ("freeze alice all", "account_frozen: frozen"),
            ("freeze alice debits", "account_frozen: frozen"),
            ("freeze alice credits", "account_frozen: frozen"),
            ("unfreeze alice", "unchanged: open"),
            ("close alice", "account_state not_empty: open"),
            ("reopen alice", "unchanged: open"),
            ("open alice", "unchanged: open"),
        ],
    },
    Row {
        state: "open, with a hold and no money",
        by: &["void out", "alice > bob 100"],
        cells: &[
            ("alice > bob 5", "insufficient_funds: open"),
            ("bob > alice 5", "transaction_posted: open"),
            ("alice > bob 5 hold", "insufficient_funds: open"),
            ("bob > alice 5 hold", "transaction_authorised: open"),
            ("alice > bob 5 in 9", "transaction_scheduled: open"),
            ("capture out rest", "hold_not_open: open"),
            ("capture in rest", "transaction_posted: open"),
            ("void out", "hold_not_open: open"),
            ("void in", "hold_voided: open"),
            ("wait 600", "hold_expired: open"),
            ("reverse p 5", "insufficient_funds: open"),
            ("floor alice 1", "limits_conflict: open"),
            ("floor alice 0", "unchanged: open"),
            ("floor alice 91", "limits_conflict: open"),
            ("freeze alice all", "account_frozen: frozen"),
            ("freeze alice debits", "account_frozen: frozen"),
            ("freeze alice credits", "account_frozen: frozen"),
            ("unfreeze alice", "unchanged: open"),
            ("close alice", "account_state not_empty: open"),
            ("reopen alice", "unchanged: open"),
            ("open alice", "unchanged: open"),
        ],
    },
    Row {
        state: "open and empty",
        by: &["void in", "void out", "alice > bob 100"],
        cells: &[
            ("alice > bob 5", "insufficient_funds: open"),
            ("bob > alice 5", "transaction_posted: open"),
            ("alice > bob 5 hold", "insufficient_funds: open"),
            ("bob > alice 5 hold", "transaction_authorised: open"),
            ("alice > bob 5 in 9", "transaction_scheduled: open"),
            ("capture out rest", "hold_not_open: open"),
            ("capture in rest", "hold_not_open: open"),
            ("void out", "hold_not_open: open"),
            ("void in", "hold_not_open: open"),
            ("wait 600", "nothing: open"),
            ("reverse p 5", "insufficient_funds: open"),
            ("floor alice 1", "limits_conflict: open"),
            ("floor alice 0", "unchanged: open"),
            ("floor alice 91", "limits_conflict: open"),
            ("freeze alice all", "account_frozen: frozen"),
            ("freeze alice debits", "account_frozen: frozen"),
            ("freeze alice credits", "account_frozen: frozen"),
            ("unfreeze alice", "unchanged: open"),
            ("close alice", "account_closed: closed"),
            ("reopen alice", "unchanged: open"),
            ("open alice", "unchanged: open"),
        ],
    },
    Row {
        state: "frozen",
        by: &["freeze alice all"],
        cells: &[
            ("alice > bob 5", "account_frozen: frozen"),
            ("bob > alice 5", "account_frozen: frozen"),
            ("alice > bob 5 hold", "account_frozen: frozen"),
            ("bob > alice 5 hold", "account_frozen: frozen"),
            ("alice > bob 5 in 9", "transaction_scheduled: frozen"),
            ("capture out rest", "account_frozen: frozen"),
            ("capture in rest", "account_frozen: frozen"),
            ("void out", "hold_voided: frozen"),
            ("void in", "hold_voided: frozen"),
            ("wait 600", "hold_expired, hold_expired: frozen"),
            ("reverse p 5", "account_frozen: frozen"),
            ("floor alice 1", "account_updated: frozen"),
            ("floor alice 0", "unchanged: frozen"),
            ("floor alice 91", "limits_conflict: frozen"),
            ("freeze alice all", "unchanged: frozen"),
            ("freeze alice debits", "account_frozen: frozen"),
            ("freeze alice credits", "account_frozen: frozen"),
            ("unfreeze alice", "account_unfrozen: open"),
            ("close alice", "account_state not_empty: frozen"),
            ("reopen alice", "unchanged: frozen"),
            ("open alice", "unchanged: frozen"),
        ],
    },
    Row {
        state: "frozen for debits",
        by: &["freeze alice debits"],
        cells: &[
            ("alice > bob 5", "account_frozen: frozen"),
            ("bob > alice 5", "transaction_posted: frozen"),
            ("alice > bob 5 hold", "account_frozen: frozen"),
            ("bob > alice 5 hold", "transaction_authorised: frozen"),
            ("alice > bob 5 in 9", "transaction_scheduled: frozen"),
            ("capture out rest", "account_frozen: frozen"),
            ("capture in rest", "transaction_posted: frozen"),
            ("void out", "hold_voided: frozen"),
            ("void in", "hold_voided: frozen"),
            ("wait 600", "hold_expired, hold_expired: frozen"),
            ("reverse p 5", "account_frozen: frozen"),
            ("floor alice 1", "account_updated: frozen"),
            ("floor alice 0", "unchanged: frozen"),
            ("floor alice 91", "limits_conflict: frozen"),
            ("freeze alice all", "account_frozen: frozen"),
            ("freeze alice debits", "unchanged: frozen"),
            ("freeze alice credits", "account_frozen: frozen"),
            ("unfreeze alice", "account_unfrozen: open"),
            ("close alice", "account_state not_empty: frozen"),
            ("reopen alice", "unchanged: frozen"),
            ("open alice", "unchanged: frozen"),
        ],
    },
    Row {
        state: "frozen for credits",
        by: &["freeze alice credits"],
        cells: &[
            ("alice > bob 5", "transaction_posted: frozen"),
            ("bob > alice 5", "account_frozen: frozen"),
            ("alice > bob 5 hold", "transaction_authorised: frozen"),
            ("bob > alice 5 hold", "account_frozen: frozen"),
            ("alice > bob 5 in 9", "transaction_scheduled: frozen"),
            ("capture out rest", "transaction_posted: frozen"),
            ("capture in rest", "account_frozen: frozen"),
            ("void out", "hold_voided: frozen"),
            ("void in", "hold_voided: frozen"),
            ("wait 600", "hold_expired, hold_expired: frozen"),
            ("reverse p 5", "transaction_posted: frozen"),
            ("floor alice 1", "account_updated: frozen"),
            ("floor alice 0", "unchanged: frozen"),
            ("floor alice 91", "limits_conflict: frozen"),
            ("freeze alice all", "account_frozen: frozen"),
            ("freeze alice debits", "account_frozen: frozen"),
            ("freeze alice credits", "unchanged: frozen"),
            ("unfreeze alice", "account_unfrozen: open"),
            ("close alice", "account_state not_empty: frozen"),
            ("reopen alice", "unchanged: frozen"),
            ("open alice", "unchanged: frozen"),
        ],
    },
    Row {
        state: "frozen and empty",
        by: &["void in", "void out", "alice > bob 100", "freeze alice all"],
        cells: &[
            ("alice > bob 5", "account_frozen: frozen"),
            ("bob > alice 5", "account_frozen: frozen"),
            ("alice > bob 5 hold", "account_frozen: frozen"),
            ("bob > alice 5 hold", "account_frozen: frozen"),
            ("alice > bob 5 in 9", "transaction_scheduled: frozen"),
            ("capture out rest", "hold_not_open: frozen"),
            ("capture in rest", "hold_not_open: frozen"),
            ("void out", "hold_not_open: frozen"),
            ("void in", "hold_not_open: frozen"),
            ("wait 600", "nothing: frozen"),
            ("reverse p 5", "account_frozen: frozen"),
            ("floor alice 1", "limits_conflict: frozen"),
            ("floor alice 0", "unchanged: frozen"),
            ("floor alice 91", "limits_conflict: frozen"),
            ("freeze alice all", "unchanged: frozen"),
            ("freeze alice debits", "account_frozen: frozen"),
            ("freeze alice credits", "account_frozen: frozen"),
            ("unfreeze alice", "account_unfrozen: open"),
            ("close alice", "account_closed: closed"),
            ("reopen alice", "unchanged: frozen"),
            ("open alice", "unchanged: frozen"),
        ],
    },
    Row {
        state: "closed",
        by: &["void in", "void out", "alice > bob 100", "close alice"],
        cells: &[
            ("alice > bob 5", "account_closed: closed"),
            ("bob > alice 5", "account_closed: closed"),
            ("alice > bob 5 hold", "account_closed: closed"),
            ("bob > alice 5 hold", "account_closed: closed"),
            ("alice > bob 5 in 9", "transaction_scheduled: closed"),
            ("capture out rest", "hold_not_open: closed"),
            ("capture in rest", "hold_not_open: closed"),
            ("void out", "hold_not_open: closed"),
            ("void in", "hold_not_open: closed"),
            ("wait 600", "nothing: closed"),
            ("reverse p 5", "account_closed: closed"),
            ("floor alice 1", "account_state closed: closed"),
            ("floor alice 0", "account_state closed: closed"),
            ("floor alice 91", "account_state closed: closed"),
            ("freeze alice all", "account_state closed: closed"),
            ("freeze alice debits", "account_state closed: closed"),
            ("freeze alice credits", "account_state closed: closed"),
            ("unfreeze alice", "account_state closed: closed"),
            ("close alice", "unchanged: closed"),
            ("reopen alice", "account_reopened: open"),
            ("open alice", "unchanged: closed"),
        ],
    },
    Row {
        state: "closed while frozen",
        by: &["void in", "void out", "alice > bob 100", "freeze alice all", "close alice"],
        cells: &[
            ("alice > bob 5", "account_closed: closed"),
            ("bob > alice 5", "account_closed: closed"),
            ("alice > bob 5 hold", "account_closed: closed"),
            ("bob > alice 5 hold", "account_closed: closed"),
            ("alice > bob 5 in 9", "transaction_scheduled: closed"),
            ("capture out rest", "hold_not_open: closed"),
            ("capture in rest", "hold_not_open: closed"),
            ("void out", "hold_not_open: closed"),
            ("void in", "hold_not_open: closed"),
            ("wait 600", "nothing: closed"),
            ("reverse p 5", "account_closed: closed"),
            ("floor alice 1", "account_state closed: closed"),
            ("floor alice 0", "account_state closed: closed"),
            ("floor alice 91", "account_state closed: closed"),
            ("freeze alice all", "account_state closed: closed"),
            ("freeze alice debits", "account_state closed: closed"),
            ("freeze alice credits", "account_state closed: closed"),
            ("unfreeze alice", "account_state closed: closed"),
            ("close alice", "unchanged: closed"),
            ("reopen alice", "account_reopened: frozen"),
            ("open alice", "unchanged: closed"),
        ],
    },
];

#[test]
fn accounts() {
    let begin = ["p = bob > alice 100", "out = alice > bob 10 hold 600", "in = bob > alice 10 hold 600"];
    check(ACCOUNTS, &begin, |play| {
        let alice = play.run.book.account(&code("alice")).unwrap();
        format!(": {}", alice.attributes.status().as_str())
    });
}

/// A rejection that was recorded is a transaction too: nothing can be done with it.
#[test]
fn what_was_rejected_stays_rejected() {
    let mut play = Play::new();
    assert_eq!(play.act("r = alice > bob 1"), "insufficient_funds");
    for (text, expected) in [
        ("capture r 1", "not_a_hold"),
        ("void r", "not_a_hold"),
        ("reverse r", "not_reversible"),
        ("cancel r", "not_scheduled"),
        ("settle r", "unchanged"),
    ] {
        assert_eq!(play.act(text), expected, "{text}");
        assert_eq!(play.state("r"), "rejected", "{text}");
    }
}

/// A declined attempt says in the log what it was about.
#[test]
fn a_declined_attempt_names_its_transaction() {
    let mut play = Play::new();
    for text in ["h = bob > alice 100 hold", "p = bob > alice 10", "alice > bob 5"] {
        play.act(text);
    }
    for (text, name) in [("capture h 101", "h"), ("reverse p", "p"), ("reverse p 11 force", "p")] {
        play.act(text);
        let Fact::TransactionRejected(rejected) = &play.run.events.last().unwrap().fact else { panic!("{text}") };
        let terms = rejected.request.terms.as_ref().unwrap();
        assert_eq!((terms.of, terms.force), (Some(play.named[name]), text.ends_with("force")), "{text}");
        let sides: Vec<(&str, Side)> =
            rejected.request.legs.iter().map(|leg: &LegRequest| (leg.account.as_str(), leg.side)).collect();
        let expected = match name {
            "h" => [("bob", Side::Debit), ("alice", Side::Credit)],
            _ => [("bob", Side::Credit), ("alice", Side::Debit)],
        };
        assert_eq!(sides, expected, "{text}");
    }
}
