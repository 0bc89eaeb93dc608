//! Made-up histories: accounts as a projection could have them, and commands
//! of which most are sound and some are wrong in one way or in two.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use steelyard::ledger::{
    Account, AccountCode, AccountStatus, Amount, AssetCode, Balance, Command, Kind, LegRequest, Limits, OpenAccount,
    Side, TransactionRequest,
};

/// Accounts that a scenario may hold, with their assets.
const ACCOUNTS: [(&str, &str); 9] = [
    ("eur:a", "EUR"),
    ("eur:b", "EUR"),
    ("eur:c", "EUR"),
    ("eur:d", "EUR"),
    ("eur:e", "EUR"),
    ("usd:a", "USD"),
    ("usd:b", "USD"),
    ("btc:a", "BTC"),
    ("btc:b", "BTC"),
];
const ASSETS: [&str; 3] = ["EUR", "USD", "BTC"];

/// Events of a scenario follow this position; loaded accounts lie before it.
pub const LOADED_POSITION: u64 = 100;

/// Accounts to load and commands to give, in order.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub loaded: Vec<Account>,
    pub commands: Vec<Command>,
}

/// What the loaded accounts have behind them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nothing: all totals are zero.
    None,
    /// Totals, pending amounts and states of any kind.
    Any,
}

pub fn scenario(past: Past) -> impl Strategy<Value = Scenario> {
    let loaded: Vec<_> = (0..ACCOUNTS.len()).map(|index| prop::option::weighted(0.97, account(index, past))).collect();
    (loaded, prop::collection::vec(command(), 1..24))
        .prop_map(|(loaded, commands)| Scenario { loaded: loaded.into_iter().flatten().collect(), commands })
}

pub fn code(text: &str) -> AccountCode {
    AccountCode::new(text).unwrap()
}

pub fn asset(text: &str) -> AssetCode {
    AssetCode::new(text).unwrap()
}

pub fn signed(value: i128) -> Amount {
    Amount::new(value).unwrap()
}

/// `seconds` after an arbitrary beginning.
pub fn time(seconds: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds as i64, 123_456_000).unwrap()
}

fn account(index: usize, past: Past) -> BoxedStrategy<Account> {
    let status = prop_oneof![
        60 => Just(AccountStatus::Open),
        1 => Just(AccountStatus::Frozen),
        1 => Just(AccountStatus::Closed),
    ];
    let status = if past == Past::None { Just(AccountStatus::Open).boxed() } else { status.boxed() };
    let balance = if past == Past::None { Just(Balance::default()).boxed() } else { balance().boxed() };
    (side(), limits(), status, balance)
        .prop_map(move |(normal, limits, status, balance)| Account {
            id: index as u64 + 1,
            code: code(ACCOUNTS[index].0),
            asset: asset(ACCOUNTS[index].1),
            normal,
            status,
            limits,
            metadata: None,
            opened_at: time(0),
            balance,
        })
        .boxed()
}

fn side() -> impl Strategy<Value = Side> + Clone {
    prop_oneof![2 => Just(Side::Credit), 1 => Just(Side::Debit)]
}

fn limits() -> impl Strategy<Value = Limits> {
    let floor = prop_oneof![
        6 => Just(None),
        6 => (-300_i128..=0).prop_map(Some),
        1 => (1_i128..50).prop_map(Some),
        1 => Just(Some(Amount::MIN.get())),
    ];
    let cap = prop_oneof![
        8 => Just(None),
        4 => (50_i128..800).prop_map(Some),
        1 => (-100_i128..50).prop_map(Some),
        1 => Just(Some(Amount::MAX.get())),
    ];
    (floor, cap).prop_map(|(floor, cap)| Limits {
        min_balance: floor.map(signed),
        max_balance: cap.filter(|cap| floor.is_none_or(|floor| floor <= *cap)).map(signed),
    })
}

fn balance() -> impl Strategy<Value = Balance> {
    let total = || prop_oneof![14 => 0_i128..=500, 1 => large()].prop_map(signed);
    let pending = || prop_oneof![12 => Just(0_i128), 4 => 1_i128..=100, 1 => large()].prop_map(signed);
    (total(), total(), pending(), pending(), 0_u64..9, 0..=LOADED_POSITION).prop_map(
        |(debits_posted, credits_posted, debits_pending, credits_pending, version, position)| Balance {
            debits_posted,
            credits_posted,
            debits_pending,
            credits_pending,
            version,
            position,
        },
    )
}

/// Amounts of 38 digits, and so near to the largest that a few more do not fit.
fn large() -> impl Strategy<Value = i128> {
    let most = Amount::MAX.get();
    prop_oneof![most - 200..=most, most / 10..=most, Just(most)]
}

fn amount() -> impl Strategy<Value = Amount> {
    prop_oneof![24 => 1_i128..=150, 2 => 1_i128..=1_000_000_000_000, 1 => large()].prop_map(signed)
}

fn command() -> impl Strategy<Value = Command> {
    let define = (prop::sample::select(vec!["EUR", "GOLD", "POINTS"]), prop_oneof![Just(2_u8), Just(37), Just(38)])
        .prop_map(|(code, scale)| Command::DefineAsset { code: asset(code), scale });
    prop_oneof![
        16 => transaction().prop_map(Command::Transact),
        1 => open().prop_map(Command::OpenAccount),
        1 => define,
    ]
}

fn open() -> impl Strategy<Value = OpenAccount> {
    let codes = prop::sample::select(vec!["eur:a", "eur:e", "usd:a", "new:a", "new:b"]);
    let assets = prop::sample::select(vec!["EUR", "EUR", "USD", "GOLD"]);
    let crossed = Limits { min_balance: Some(signed(2)), max_balance: Some(signed(1)) };
    let limits = prop_oneof![8 => limits(), 1 => Just(crossed)];
    let metadata = prop::sample::select(vec![None, Some(Arc::from(r#"{"a":1}"#))]);
    (codes, assets, side(), limits, metadata).prop_map(|(account, unit, normal, limits, metadata)| OpenAccount {
        code: code(account),
        asset: asset(unit),
        normal,
        limits,
        metadata,
    })
}

/// One account debited, one to three credited with the same sum (or the other way round).
#[derive(Clone, Debug)]
struct Movement {
    asset: usize,
    from: usize,
    to: Vec<(usize, Amount)>,
    reversed: bool,
}

fn movement(most: usize) -> impl Strategy<Value = Movement> {
    let to = prop::collection::vec((any::<usize>(), amount()), 1..=most);
    (prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2)], any::<usize>(), to, any::<bool>())
        .prop_map(|(asset, from, to, reversed)| Movement { asset, from, to, reversed })
}

impl Movement {
    fn legs(&self) -> Vec<LegRequest> {
        let unit = ASSETS[self.asset];
        let held: Vec<&str> = ACCOUNTS.iter().filter(|(_, asset)| *asset == unit).map(|(code, _)| *code).collect();
        let (side, other) = if self.reversed { (Side::Credit, Side::Debit) } else { (Side::Debit, Side::Credit) };
        let leg = |account: usize, side, amount| LegRequest {
            account: code(held[account % held.len()]),
            side,
            amount,
            asset: asset(unit),
        };
        // A sum of more than 38 digits is no amount: then each part gets its own leg.
        let total = self.to.iter().try_fold(0_i128, |sum, (_, amount)| sum.checked_add(amount.get()));
        let mut legs: Vec<_> = match total.and_then(Amount::new) {
            Some(total) => vec![leg(self.from, side, total)],
            None => self.to.iter().map(|(_, amount)| leg(self.from, side, *amount)).collect(),
        };
        // Mostly another account than the one the money comes from.
        legs.extend(self.to.iter().map(|(to, amount)| {
            let away = if to % 8 == 0 { 0 } else { 1 + to % (held.len() - 1).max(1) };
            leg(self.from % held.len() + away, other, *amount)
        }));
        legs
    }
}

/// What may be wrong with a request.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    ZeroAmount,
    NegativeAmount,
    OneMore,
    FlippedSide,
    UnknownAccount,
    OtherAsset,
    AssetOfAll,
    AccountOfAll,
    MissingLeg,
}

fn transaction() -> impl Strategy<Value = TransactionRequest> {
    use Flaw::*;
    let movements = prop_oneof![
        5 => prop::collection::vec(movement(1), 1..=1),
        3 => prop::collection::vec(movement(3), 1..=2),
        2 => prop::collection::vec(movement(1), 3..=4),
    ];
    let legs = movements.prop_map(|movements| {
        let mut legs: Vec<_> = movements.iter().flat_map(Movement::legs).collect();
        legs.truncate(8);
        legs
    });
    let flaw = prop::sample::select(vec![
        ZeroAmount,
        NegativeAmount,
        OneMore,
        FlippedSide,
        UnknownAccount,
        OtherAsset,
        AssetOfAll,
        AccountOfAll,
        MissingLeg,
    ]);
    let flaws = prop_oneof![
        6 => Just(Vec::new()),
        1 => prop::collection::vec((flaw, any::<usize>()), 1..=2),
    ];
    let note = || prop::sample::select(vec![None, Some(Arc::<str>::from("inv-1")), Some(Arc::from("\"ü\"\n"))]);
    let effective_at = prop::option::weighted(0.2, (0_u64..1_000).prop_map(time));
    (legs.prop_shuffle(), flaws, note(), note(), effective_at).prop_map(
        |(mut legs, flaws, reference, description, effective_at)| {
            flaws.into_iter().for_each(|(flaw, at)| spoil(&mut legs, flaw, at));
            TransactionRequest {
                kind: Kind::Payment,
                legs: legs.into_iter().collect(),
                reference,
                description,
                metadata: None,
                effective_at,
            }
        },
    )
}

fn spoil(legs: &mut Vec<LegRequest>, flaw: Flaw, at: usize) {
    if legs.is_empty() {
        return;
    }
    let at = at % legs.len();
    match flaw {
        Flaw::ZeroAmount => legs[at].amount = Amount::ZERO,
        Flaw::NegativeAmount => legs[at].amount = signed(-legs[at].amount.get()),
        Flaw::OneMore => {
            if let Some(amount) = legs[at].amount.checked_add(signed(1)) {
                legs[at].amount = amount;
            }
        }
        Flaw::FlippedSide => {
            legs[at].side = if legs[at].side == Side::Debit { Side::Credit } else { Side::Debit };
        }
        Flaw::UnknownAccount => legs[at].account = code("ghost:a"),
        Flaw::OtherAsset => legs[at].asset = asset("USD"),
        Flaw::AssetOfAll => legs.iter_mut().for_each(|leg| leg.asset = asset("USD")),
        Flaw::AccountOfAll => {
            let account = legs[at].account.clone();
            legs.iter_mut().for_each(|leg| leg.account = account.clone());
        }
        Flaw::MissingLeg => {
            legs.remove(at);
        }
    }
}
