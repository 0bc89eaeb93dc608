//! What clients ask for, and how it is drawn.
//!
//! A client knows the ids of holds, transactions and schedules from answers
//! alone, so whatever it asks about is in the log. It may be gone meanwhile, or be
//! less than the client thinks: then it is told so.

use std::collections::VecDeque;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

/// Accounts between which payments are made.
pub const WALLETS: u32 = 12;
/// Of these the first few take part in every other payment, so that several
/// clients are always at the same account.
const HOT_WALLETS: u32 = 3;
/// What each is given: so little that some payments are declined.
pub const FUNDS: u32 = 5_000;
/// The most that one payment moves.
const AMOUNT_MAX: u32 = FUNDS / 3;
/// The most that is reserved for long, or soon nobody could pay any more.
const LONG_HOLD_MAX: u32 = FUNDS / 50;
const LONG_HOLD_S: u32 = 3_600;
/// The most that an item of a batch reserves.
const BATCH_HOLD_MAX: u32 = 20;
/// Transactions of each sort that clients remember: few, so that they meet.
const SEEN_MAX: usize = 24;
const NEWEST: usize = 4;

/// A request with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Pay {
        from: String,
        to: String,
        amount: i128,
        effective_at: Option<DateTime<Utc>>,
    },
    Authorise {
        from: String,
        to: String,
        amount: i128,
        expires_in_s: Option<u32>,
    },
    /// All that remains, or so much; the last capture gives the rest back.
    Capture {
        hold: String,
        amount: Option<i128>,
        last: bool,
    },
    Void {
        hold: String,
    },
    /// All that is left, or so much.
    Reverse {
        transaction: String,
        amount: Option<i128>,
        force: bool,
    },
    Cancel {
        schedule: String,
    },
}

impl Wish {
    pub fn pay(from: &str, to: &str, amount: u32) -> Self {
        Self::Pay { from: from.to_owned(), to: to.to_owned(), amount: i128::from(amount), effective_at: None }
    }

    pub fn authorise(from: &str, to: &str, amount: u32, expires_in_s: u32) -> Self {
        let (from, to) = (from.to_owned(), to.to_owned());
        Self::Authorise { from, to, amount: amount.into(), expires_in_s: Some(expires_in_s) }
    }

    /// The same payment, effective at some moment.
    pub fn at(mut self, moment: DateTime<Utc>) -> Self {
        if let Self::Pay { effective_at, .. } = &mut self {
            *effective_at = Some(moment);
        }
        self
    }

    /// Below `/v1/ledgers/main/`.
    pub fn path(&self) -> String {
        match self {
            Self::Pay { .. } | Self::Authorise { .. } => "payments".to_owned(),
            Self::Capture { hold, .. } => format!("payments/{hold}/capture"),
            Self::Void { hold } => format!("payments/{hold}/void"),
            Self::Reverse { transaction, .. } => format!("transactions/{transaction}/reverse"),
            Self::Cancel { schedule } => format!("transactions/{schedule}/cancel"),
        }
    }

    pub fn body(&self) -> Value {
        let mut body = json!({});
        match self {
            Self::Pay { from, to, amount, .. } | Self::Authorise { from, to, amount, .. } => {
                body = json!({"from": from, "to": to, "amount": amount.to_string(), "asset": "EUR"});
            }
            Self::Capture { amount: Some(amount), .. } | Self::Reverse { amount: Some(amount), .. } => {
                body["amount"] = json!(amount.to_string());
            }
            _ => {}
        }
        match self {
            Self::Pay { effective_at: Some(at), .. } => {
                body["effective_at"] = json!(at.to_rfc3339_opts(SecondsFormat::Micros, true));
            }
            Self::Authorise { expires_in_s, .. } => {
                body["capture"] = json!("manual");
                if let Some(seconds) = expires_in_s {
                    body["expires_in_s"] = json!(seconds);
                }
            }
            Self::Capture { last: true, .. } => body["final"] = json!(true),
            Self::Reverse { force: true, .. } => body["force"] = json!(true),
            _ => {}
        }
        body
    }
}

/// Which legs a freeze declines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    All,
    Debits,
    Credits,
}

impl Scope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Debits => "debits",
            Self::Credits => "credits",
        }
    }

    pub fn draw(random: &mut SmallRng) -> Self {
        [Self::All, Self::Debits, Self::Credits][random.random_range(0..3)]
    }
}

/// What clients know from answers, the newest last.
#[derive(Debug, Default)]
pub struct Seen {
    holds: VecDeque<(String, i128)>,
    posted: VecDeque<(String, i128)>,
    schedules: VecDeque<String>,
    /// The time of the ledger, which need not be the clients'.
    now: Option<DateTime<Utc>>,
}

impl Seen {
    pub const fn now(&self) -> Option<DateTime<Utc>> {
        self.now
    }

    /// Learns from the answer to a wish that was granted.
    pub fn note(&mut self, wish: &Wish, id: &str, answer: &Value) {
        let recorded_at = answer["recorded_at"].as_str().and_then(|at| at.parse().ok());
        self.now = self.now.max(recorded_at);
        let amount = answer["amount"].as_str().and_then(|amount| amount.parse().ok());
        match wish {
            Wish::Pay { .. } if answer["status"] == "scheduled" => push(&mut self.schedules, id.to_owned()),
            Wish::Authorise { amount, .. } => push(&mut self.holds, (id.to_owned(), *amount)),
            Wish::Pay { amount, .. } => push(&mut self.posted, (id.to_owned(), *amount)),
            Wish::Capture { .. } | Wish::Reverse { .. } => {
                push(&mut self.posted, (id.to_owned(), amount.unwrap_or(1)));
            }
            Wish::Void { .. } | Wish::Cancel { .. } => {}
        }
    }
}

fn push<T>(list: &mut VecDeque<T>, one: T) {
    if list.len() == SEEN_MAX {
        list.pop_front();
    }
    list.push_back(one);
}

/// A random key.
pub fn draw_key(random: &mut SmallRng) -> String {
    format!("k-{:016x}", random.random::<u64>())
}

/// A random item of a batch: mostly a payment; enough that waits for holds to come
/// due by the hundred in one second.
pub fn draw_item(random: &mut SmallRng, seen: &Seen) -> Wish {
    match (random.random_range(0..100), seen.now) {
        (0..10, _) => {
            let (from, to) = draw_wallets(random);
            Wish::authorise(&from, &to, random.random_range(1..=BATCH_HOLD_MAX), 1)
        }
        (10..12, Some(now)) => draw_schedule(random, now),
        _ => draw_payment(random),
    }
}

/// A random payment.
fn draw_payment(random: &mut SmallRng) -> Wish {
    let (from, to) = draw_wallets(random);
    Wish::pay(&from, &to, random.random_range(1..=AMOUNT_MAX))
}

/// A random request, as far as enough has been seen: a payment else.
pub fn draw(random: &mut SmallRng, seen: &Seen) -> Wish {
    let wish = match random.random_range(0..100) {
        0..20 => Some(draw_authorisation(random)),
        20..42 => pick(random, &seen.holds).map(|(hold, amount)| draw_capture(random, hold, *amount)),
        42..50 => pick(random, &seen.holds).map(|(hold, _)| Wish::Void { hold: hold.clone() }),
        50..60 => pick(random, &seen.posted).map(|(id, amount)| draw_reversal(random, id, *amount)),
        60..66 => seen.now.map(|now| draw_schedule(random, now)),
        66..69 => pick(random, &seen.schedules).map(|schedule| Wish::Cancel { schedule: schedule.clone() }),
        _ => None,
    };
    wish.unwrap_or_else(|| draw_payment(random))
}

/// Most come due within a round or the next.
fn draw_authorisation(random: &mut SmallRng) -> Wish {
    let (from, to) = draw_wallets(random);
    let (expires_in_s, amount_max) = match random.random_range(0..10) {
        0 => (None, LONG_HOLD_MAX),
        1 => (Some(LONG_HOLD_S), LONG_HOLD_MAX),
        _ => (Some(random.random_range(1..=2)), AMOUNT_MAX),
    };
    Wish::Authorise { from, to, amount: random.random_range(1..=i128::from(amount_max)), expires_in_s }
}

/// All that remains, a part, a part and no more, exactly the whole, or too much.
fn draw_capture(random: &mut SmallRng, hold: &str, whole: i128) -> Wish {
    let (amount, last) = match random.random_range(0..10) {
        0..3 => (None, random.random()),
        3..7 => (Some(random.random_range(1..=whole)), false),
        7..8 => (Some(random.random_range(1..=whole)), true),
        8..9 => (Some(whole), false),
        _ => (Some(whole + 1), false),
    };
    Wish::Capture { hold: hold.to_owned(), amount, last }
}

fn draw_reversal(random: &mut SmallRng, transaction: &str, whole: i128) -> Wish {
    let amount = match random.random_range(0..10) {
        0..4 => None,
        4..8 => Some(random.random_range(1..=whole)),
        8..9 => Some(whole),
        _ => Some(whole + 1),
    };
    Wish::Reverse { transaction: transaction.to_owned(), amount, force: random.random_range(0..4) == 0 }
}

fn draw_schedule(random: &mut SmallRng, now: DateTime<Utc>) -> Wish {
    let (from, to) = draw_wallets(random);
    let effective_at = Some(now + TimeDelta::milliseconds(random.random_range(300..2_000)));
    Wish::Pay { from, to, amount: random.random_range(1..=i128::from(AMOUNT_MAX)), effective_at }
}

fn draw_wallets(random: &mut SmallRng) -> (String, String) {
    let payers = if random.random() { HOT_WALLETS } else { WALLETS };
    let from = random.random_range(1..=payers);
    let to = (from + random.random_range(1..WALLETS) - 1) % WALLETS + 1;
    (wallet(from), wallet(to))
}

pub fn wallet(n: u32) -> String {
    format!("wallet:{n}")
}

/// Mostly one of the newest, which are not gone yet.
fn pick<'a, T>(random: &mut SmallRng, list: &'a VecDeque<T>) -> Option<&'a T> {
    let newest = if random.random_range(0..4) == 0 { SEEN_MAX } else { NEWEST };
    (!list.is_empty()).then(|| &list[list.len() - random.random_range(1..=newest.min(list.len()))])
}
