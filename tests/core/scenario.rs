//! Made-up histories: accounts as a projection could have them, and intents
//! (commands that are about earlier transactions and times by index and offset) of
//! which most are sound and some are wrong in one way or in two.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::sample::Index;
use steelyard::ledger::{
    Account, AccountCode, AccountType, AccountUpdate, Amount, AssetCode, Attributes, Balance, Command, Direction,
    Freeze, FreezeScope, Kind, LegRequest, Limits, OpenAccount, Rate, Rule, RuleKey, Scope, Side, Terms,
    TransactionRequest, VelocityLimit, Window,
};

use crate::intent::{Intent, Pick, Portion, ReversePart, Target, Term, When};

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

/// Accounts to load and what happens then, in order.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub loaded: Vec<Account>,
    pub moves: Vec<Move>,
}

/// One thing that a client wants, some time after the one before.
#[derive(Clone, Debug)]
pub struct Move {
    /// What the machine's clock goes forward, in seconds; it may go back too.
    pub clock_s: i64,
    pub intent: Intent,
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
    // Limits that are there from the start have something to count.
    let limits = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(velocity_limit(), 1..=2)];
    (loaded, limits, prop::collection::vec(next(), 1..40)).prop_map(|(loaded, limits, moves)| {
        let set = |rule| Move { clock_s: 0, intent: Intent::Plain(Command::SetRule(Rule::VelocityLimit(rule))) };
        let moves = limits.into_iter().map(set).chain(moves).collect();
        Scenario { loaded: loaded.into_iter().flatten().collect(), moves }
    })
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
    let (closed, freeze, balance) = match past {
        Past::None => (Just(false).boxed(), Just(None).boxed(), Just(Balance::default()).boxed()),
        Past::Any => {
            (prop::bool::weighted(0.01).boxed(), prop::option::weighted(0.02, freeze()).boxed(), balance().boxed())
        }
    };
    (side(), limits(), closed, freeze, balance)
        .prop_map(move |(normal, limits, closed, freeze, balance)| Account {
            id: index as u64 + 1,
            code: code(ACCOUNTS[index].0),
            asset: asset(ACCOUNTS[index].1),
            normal,
            attributes: Attributes { closed, freeze, limits, metadata: None },
            opened_at: time(0),
            balance,
            changed: 0,
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
    let any = (total(), total(), pending(), pending(), 0_u64..9, 0..=LOADED_POSITION).prop_map(
        |(debits_posted, credits_posted, debits_pending, credits_pending, version, position)| Balance {
            debits_posted,
            credits_posted,
            debits_pending,
            credits_pending,
            version,
            position,
        },
    );
    prop_oneof![4 => any, 1 => Just(Balance::default())]
}

/// Amounts of 38 digits, and so near to the largest that a few more do not fit.
fn large() -> impl Strategy<Value = i128> {
    let most = Amount::MAX.get();
    prop_oneof![most - 200..=most, most / 10..=most, Just(most)]
}

fn amount() -> impl Strategy<Value = Amount> {
    prop_oneof![24 => 1_i128..=150, 2 => 1_i128..=1_000_000_000_000, 1 => large()].prop_map(signed)
}

fn next() -> impl Strategy<Value = Move> {
    let clock_s = prop_oneof![
        8 => Just(0_i64),
        6 => 1_i64..=5,
        3 => 6_i64..=100,
        1 => 1_000_i64..=100_000,
        1 => -100_i64..=-1,
    ];
    (clock_s, intent()).prop_map(|(clock_s, intent)| Move { clock_s, intent })
}

fn intent() -> impl Strategy<Value = Intent> {
    let define = (prop::sample::select(vec!["EUR", "GOLD", "POINTS"]), prop_oneof![Just(2_u8), Just(37), Just(38)])
        .prop_map(|(code, scale)| Command::DefineAsset { code: asset(code), scale });
    prop_oneof![
        34 => transact(),
        18 => hold(),
        6 => exchange(),
        12 => capture(),
        4 => pick(Target::OpenHold).prop_map(|of| Intent::Void { of }),
        9 => reverse(),
        2 => pick(Target::Scheduled).prop_map(|of| Intent::Cancel { of }),
        10 => change(),
        6 => rule(),
        2 => open().prop_map(|open| Intent::Plain(Command::OpenAccount(open))),
        3 => when(Vec::from([0, -1, -5, -50, 1])).prop_map(|before| Intent::ClosePeriod { before }),
        1 => define.prop_map(Intent::Plain),
    ]
}

/// Seconds from now, mostly near ones and those of `special` interest.
fn when(special: Vec<i64>) -> impl Strategy<Value = When> {
    prop_oneof![
        6 => prop::sample::select(special).prop_map(When::In),
        6 => (-30_i64..=30).prop_map(When::In),
        2 => (-5_000_i64..=5_000).prop_map(When::In),
        1 => prop::sample::select(vec![
            When::At(DateTime::UNIX_EPOCH),
            When::At(DateTime::UNIX_EPOCH - TimeDelta::microseconds(1)),
            When::In(158_112_000),
            When::In(158_112_001),
        ]),
    ]
}

fn note() -> impl Strategy<Value = Option<Arc<str>>> + Clone {
    let long = "long ".repeat(200);
    prop::sample::select(vec![None, Some(Arc::<str>::from("inv-1")), Some(Arc::from("\"ü\"\n")), Some(Arc::from(long))])
}

fn pick(target: Target) -> impl Strategy<Value = Pick> {
    let target = prop_oneof![
        20 => Just(target),
        2 => Just(Target::Hold),
        2 => Just(Target::Any),
        1 => Just(Target::None),
    ];
    (target, any::<Index>()).prop_map(|(target, index)| Pick { target, index })
}

fn portion() -> impl Strategy<Value = Portion> {
    prop_oneof![
        3 => Just(Portion::All),
        5 => (1_u8..=99).prop_map(Portion::Percent),
        2 => Just(Portion::OneMore),
        1 => amount().prop_map(Portion::Amount),
        1 => Just(Portion::Amount(Amount::ZERO)),
    ]
}

fn capture() -> impl Strategy<Value = Intent> {
    (pick(Target::OpenHold), prop::option::weighted(0.8, portion()), prop::bool::weighted(0.25), note())
        .prop_map(|(of, portion, last, reference)| Intent::Capture { of, portion, last, reference })
}

fn reverse() -> impl Strategy<Value = Intent> {
    let pair = (any::<Index>(), any::<Index>(), portion());
    let part = prop_oneof![
        3 => Just(ReversePart::Rest),
        3 => portion().prop_map(ReversePart::Amount),
        5 => (prop::collection::vec(pair, 1..=3), prop::option::weighted(0.2, (flaw(), any::<usize>())))
            .prop_map(|(pairs, flaw)| ReversePart::Legs { pairs, flaw }),
    ];
    (pick(Target::Posted), part, prop::bool::weighted(0.3), note())
        .prop_map(|(of, part, force, reference)| Intent::Reverse { of, part, force, reference })
}

fn freeze() -> impl Strategy<Value = Freeze> {
    let scope = prop::sample::select(vec![FreezeScope::All, FreezeScope::Debits, FreezeScope::Credits]);
    (scope, reason()).prop_map(|(scope, reason)| Freeze { scope, reason })
}

fn reason() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec![Arc::from("court order"), Arc::from("fraud?")])
}

fn change() -> impl Strategy<Value = Intent> {
    let mut codes: Vec<&str> = ACCOUNTS.iter().map(|(code, _)| *code).collect();
    codes.extend(["new:a", "new:b", "ghost:a"]);
    let limits = |low: std::ops::RangeInclusive<i128>| {
        prop::option::weighted(0.6, prop::option::weighted(0.7, low.prop_map(signed)))
    };
    let metadata = prop::option::weighted(0.2, prop::sample::select(vec![None, Some(Arc::<str>::from(r#"{"a":1}"#))]));
    let update = (limits(-300..=300), limits(-100..=800), metadata)
        .prop_map(|(min_balance, max_balance, metadata)| AccountUpdate::Update { min_balance, max_balance, metadata });
    let change = prop_oneof![
        5 => update,
        2 => freeze().prop_map(AccountUpdate::Freeze),
        4 => reason().prop_map(|reason| AccountUpdate::Unfreeze { reason }),
        4 => prop::option::of(reason()).prop_map(|reason| AccountUpdate::Close { reason }),
        3 => prop::option::of(reason()).prop_map(|reason| AccountUpdate::Reopen { reason }),
    ];
    (prop::sample::select(codes), prop::option::weighted(0.6, any::<Index>()), change)
        .prop_map(|(account, index, change)| Intent::Change { code: code(account), index, change })
}

fn rule() -> impl Strategy<Value = Intent> {
    let prefix = || prop::sample::select(vec!["new:", "new:", "new:", "new:a", "eur:"]).prop_map(Arc::<str>::from);
    let crossed = Limits { min_balance: Some(signed(2)), max_balance: Some(signed(1)) };
    let account_type = (prefix(), side(), prop_oneof![8 => limits(), 1 => Just(crossed)])
        .prop_map(|(prefix, normal, limits)| Rule::AccountType(AccountType { prefix, normal, limits }));
    let key = prop_oneof![prefix().prop_map(RuleKey::AccountType), limit_name().prop_map(RuleKey::VelocityLimit)];
    let remove = (key, prop::option::weighted(0.7, any::<Index>()));
    prop_oneof![
        4 => account_type.prop_map(|rule| Intent::Plain(Command::SetRule(rule))),
        3 => velocity_limit().prop_map(|rule| Intent::Plain(Command::SetRule(Rule::VelocityLimit(rule)))),
        4 => remove.prop_map(|(key, index)| Intent::RemoveRule { key, index }),
    ]
}

fn limit_name() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec!["daily", "hourly"]).prop_map(Arc::from)
}

fn velocity_limit() -> impl Strategy<Value = VelocityLimit> {
    let scope = prop_oneof![
        2 => Just(Scope::Account(Arc::from("eur:a"))),
        2 => Just(Scope::Prefix(Arc::from("eur:"))),
        1 => Just(Scope::Prefix(Arc::from("btc:b"))),
        1 => Just(Scope::Prefix(Arc::from("nobody:"))),
    ];
    let window = prop_oneof![
        6 => prop::sample::select(vec![60_u32, 61, 3_600, 31_622_400]).prop_map(|seconds| Window::Rolling { seconds }),
        3 => prop::sample::select(vec![chrono_tz::UTC, chrono_tz::Europe::Zurich, chrono_tz::Asia::Kolkata])
            .prop_map(|zone| Window::Day { zone }),
        1 => prop::sample::select(vec![59_u32, 31_622_401]).prop_map(|seconds| Window::Rolling { seconds }),
    ];
    let direction = prop::sample::select(vec![Direction::Out, Direction::In]);
    let count_max = prop::option::weighted(0.7, 1_u32..8);
    let amount_max = prop::option::weighted(0.7, (50_u64..1_000).prop_map(Amount::from));
    let unit = prop::sample::select(vec![None, Some("EUR"), Some("EUR"), Some("EUR"), Some("BTC"), Some("GOLD")]);
    (limit_name(), scope, direction, window, unit, count_max, amount_max).prop_map(
        |(name, scope, direction, window, unit, count_max, amount_max)| {
            let asset = unit.map(asset);
            VelocityLimit { name, scope, asset, direction, window, count_max, amount_max }
        },
    )
}

fn open() -> impl Strategy<Value = OpenAccount> {
    let codes = prop::sample::select(vec!["eur:a", "eur:e", "usd:a", "new:a", "new:b"]);
    let assets = prop::sample::select(vec!["EUR", "EUR", "USD", "GOLD"]);
    let crossed = Limits { min_balance: Some(signed(2)), max_balance: Some(signed(1)) };
    let limits = prop_oneof![8 => limits(), 1 => Just(crossed)];
    let metadata = prop::sample::select(vec![None, Some(Arc::from(r#"{"a":1}"#))]);
    let stated = || prop::bool::weighted(0.5);
    (codes, assets, prop::option::of(side()), limits, (stated(), stated()), metadata).prop_map(
        |(account, unit, normal, limits, stated, metadata)| OpenAccount {
            code: code(account),
            asset: asset(unit),
            normal,
            min_balance: stated.0.then_some(limits.min_balance),
            max_balance: stated.1.then_some(limits.max_balance),
            metadata,
        },
    )
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

/// What may be wrong with legs.
#[derive(Clone, Copy, Debug)]
pub enum Flaw {
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

fn flaw() -> impl Strategy<Value = Flaw> {
    use Flaw::*;
    prop::sample::select(vec![
        ZeroAmount,
        NegativeAmount,
        OneMore,
        FlippedSide,
        UnknownAccount,
        OtherAsset,
        AssetOfAll,
        AccountOfAll,
        MissingLeg,
    ])
}

fn flaws() -> impl Strategy<Value = Vec<(Flaw, usize)>> {
    prop_oneof![
        6 => Just(Vec::new()),
        1 => prop::collection::vec((flaw(), any::<usize>()), 1..=2),
    ]
}

fn request(legs: Vec<LegRequest>) -> TransactionRequest {
    TransactionRequest {
        kind: if legs.len() == 2 { Kind::Payment } else { Kind::Transaction },
        legs: legs.into_iter().collect(),
        reference: None,
        description: None,
        metadata: None,
        effective_at: None,
        terms: None,
    }
}

fn transact() -> impl Strategy<Value = Intent> {
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
    let effective_at = prop::option::weighted(0.35, when(Vec::from([1, 2, 5, 10, 0, -1, -60])));
    (legs.prop_shuffle(), flaws(), note(), note(), effective_at).prop_map(
        |(mut legs, flaws, reference, description, effective_at)| {
            flaws.into_iter().for_each(|(flaw, at)| spoil(&mut legs, flaw, at));
            Intent::Transact {
                request: TransactionRequest { reference, description, ..request(legs) },
                effective_at,
                hold: None,
            }
        },
    )
}

fn hold() -> impl Strategy<Value = Intent> {
    let term = prop_oneof![
        4 => Just(Term::Never),
        6 => (1_u32..=20).prop_map(Term::In),
        3 => when(Vec::from([1, 2, 5, 10])).prop_map(Term::At),
        1 => prop::sample::select(vec![0_u32, 158_112_000, 158_112_001]).prop_map(Term::In),
    ];
    let effective_at = prop::option::weighted(0.03, Just(When::In(0)));
    let kind = prop_oneof![30 => Just(Kind::Payment), 1 => Just(Kind::Transaction)];
    let legs = prop_oneof![20 => movement(1), 1 => movement(2)].prop_map(|movement| {
        let mut legs = Movement { reversed: false, ..movement }.legs();
        legs.sort_by_key(|leg| leg.side == Side::Credit);
        legs
    });
    let flaw = prop::option::weighted(0.05, (flaw(), any::<usize>()));
    (legs, flaw, note(), kind, term, effective_at).prop_map(|(mut legs, flaw, reference, kind, term, effective_at)| {
        if let Some((flaw, at)) = flaw {
            spoil(&mut legs, flaw, at);
        }
        // Of a payment, the debit is the first leg.
        legs.sort_by_key(|leg| leg.side == Side::Credit);
        Intent::Transact {
            request: TransactionRequest { reference, kind, ..request(legs) },
            effective_at,
            hold: Some(term),
        }
    })
}

/// What may be wrong with the rate of an exchange.
#[derive(Clone, Copy, Debug)]
enum RateFlaw {
    OtherRemainder,
    NoRemainder,
    WholeRemainder,
    ZeroRate,
    NegativeRate,
    TooLong,
    NoDecimal,
    SameAsset,
    AbsentAsset,
    SwappedAssets,
    Payment,
    SeventeenTimes,
}

/// Four legs over two assets, with the rate that they were made with.
fn exchange() -> impl Strategy<Value = Intent> {
    use RateFlaw::*;
    let pairs = prop::sample::select(vec![
        (("eur:a", "eur:b", "EUR", 2), ("usd:a", "usd:b", "USD", 2)),
        (("eur:c", "eur:a", "EUR", 2), ("btc:a", "btc:b", "BTC", 8)),
        (("btc:b", "btc:a", "BTC", 8), ("eur:d", "eur:a", "EUR", 2)),
    ]);
    // Thousandths, so that remainders of up to nine decimals come up.
    let thousandths = prop_oneof![4 => 1_i128..=3_000, 1 => Just(1_000), 1 => Just(50_000_000)];
    let flaw = prop_oneof![
        2 => Just(None),
        1 => prop::sample::select(vec![
            OtherRemainder,
            NoRemainder,
            WholeRemainder,
            ZeroRate,
            NegativeRate,
            TooLong,
            NoDecimal,
            SameAsset,
            AbsentAsset,
            SwappedAssets,
            Payment,
            SeventeenTimes,
        ])
        .prop_map(Some),
    ];
    (pairs, 1_i128..=2_000, thousandths, flaw, flaws()).prop_map(|((from, to), amount, thousandths, flaw, flaws)| {
        // Of `to`'s smallest unit, in parts of 10^9: the scales differ by 6 at most.
        let parts = 1_000_000_000_i128;
        let product = match (from.3, to.3) {
            (2, 8) => amount * thousandths * parts * 1_000,
            (8, 2) => amount * thousandths,
            _ => amount * thousandths * parts / 1_000,
        };
        let bought = (product / parts).max(1);
        let rest = product - bought * parts;
        let remainder = format!("{}0.{:09}", if rest < 0 { "-" } else { "" }, rest.abs());
        let leg = |of: &(&str, &str, &str, i32), debit: bool, amount| LegRequest {
            account: code(if debit { of.0 } else { of.1 }),
            side: if debit { Side::Debit } else { Side::Credit },
            amount: signed(amount),
            asset: asset(of.2),
        };
        let mut legs =
            vec![leg(&from, true, amount), leg(&from, false, amount), leg(&to, true, bought), leg(&to, false, bought)];
        flaws.into_iter().for_each(|(flaw, at)| spoil(&mut legs, flaw, at));
        let mut rate = Rate {
            from: asset(from.2),
            to: asset(to.2),
            rate: Arc::from(format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)),
            remainder: Some(Arc::from(remainder)),
        };
        match flaw {
            None | Some(Payment | SeventeenTimes) => {}
            Some(OtherRemainder) => rate.remainder = Some(Arc::from("0.999999999999999999")),
            Some(NoRemainder) => rate.remainder = None,
            Some(WholeRemainder) => rate.remainder = Some(Arc::from("-1")),
            Some(ZeroRate) => rate.rate = Arc::from("0.000"),
            Some(NegativeRate) => rate.rate = Arc::from("-1.5"),
            Some(TooLong) => rate.rate = Arc::from("1.0000000000000000001"),
            Some(NoDecimal) => rate.rate = Arc::from("1e2"),
            Some(SameAsset) => rate.to = rate.from.clone(),
            Some(AbsentAsset) => rate.from = asset(if to.2 == "USD" { "BTC" } else { "USD" }),
            Some(SwappedAssets) => std::mem::swap(&mut rate.from, &mut rate.to),
        }
        let times = if matches!(flaw, Some(SeventeenTimes)) { 17 } else { 1 };
        let terms = Terms { rates: vec![rate; times], ..Terms::default() };
        let kind = if matches!(flaw, Some(Payment)) { Kind::Payment } else { Kind::Transaction };
        Intent::Transact {
            request: TransactionRequest { kind, terms: Some(Box::new(terms)), ..request(legs) },
            effective_at: None,
            hold: None,
        }
    })
}

pub fn spoil(legs: &mut Vec<LegRequest>, flaw: Flaw, at: usize) {
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
