//! The ledger written a second time, to be obviously right instead of fast:
//! plain maps, sums that cannot overflow, and the rules one after the other in
//! the order that `src/ledger/rejection.rs` documents.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Add, Sub};

use steelyard::ledger::{
    Account, AccountCode, AccountStatus, Amount, Balance, Command, Fact, Leg, LegRequest, Moment, OpenAccount, Refusal,
    RejectedTransaction, Rejection, Side, Transaction, TransactionRequest, Verdict,
};

/// A sum of any number of amounts, exact: `high` × 10^19 + `low`.
///
/// Two amounts of 38 digits already leave an `i128`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exact {
    high: i128,
    /// 0 to 10^19 - 1, so that comparing field by field compares the numbers.
    low: i128,
}

const LIMB: i128 = 10_i128.pow(19);

impl Exact {
    pub const ZERO: Self = Self { high: 0, low: 0 };

    fn new(high: i128, low: i128) -> Self {
        Self { high: high + low.div_euclid(LIMB), low: low.rem_euclid(LIMB) }
    }

    /// The amount nearest to this number.
    fn clamp(self) -> Amount {
        if self > Amount::MAX.into() {
            return Amount::MAX;
        }
        if self < Amount::MIN.into() {
            return Amount::MIN;
        }
        Amount::new(self.high * LIMB + self.low).unwrap()
    }

    fn fits(self) -> bool {
        self == self.clamp().into()
    }
}

impl From<Amount> for Exact {
    fn from(amount: Amount) -> Self {
        Self::new(0, amount.get())
    }
}

impl Add for Exact {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.high + other.high, self.low + other.low)
    }
}

impl Sub for Exact {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::new(self.high - other.high, self.low - other.low)
    }
}

/// Debits less credits, exact.
pub fn net(debits: Amount, credits: Amount) -> Exact {
    Exact::from(debits) - Exact::from(credits)
}

/// Everything that a ledger knows.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub assets: BTreeMap<String, u8>,
    pub accounts: BTreeMap<AccountCode, Account>,
}

/// What is left of an account on its normal side, were `pending` captured too.
fn on_normal_side(normal: Side, debits: Exact, credits: Exact) -> Exact {
    match normal {
        Side::Debit => debits - credits,
        Side::Credit => credits - debits,
    }
}

/// What the floor is compared with: every pending amount that lowers counts.
pub fn lowest(normal: Side, balance: &Balance) -> Exact {
    let (debits, credits) = (Exact::from(balance.debits_posted), Exact::from(balance.credits_posted));
    match normal {
        Side::Debit => on_normal_side(normal, debits, credits + balance.credits_pending.into()),
        Side::Credit => on_normal_side(normal, debits + balance.debits_pending.into(), credits),
    }
}

/// What the cap is compared with: every pending amount that raises counts.
pub fn highest(normal: Side, balance: &Balance) -> Exact {
    let (debits, credits) = (Exact::from(balance.debits_posted), Exact::from(balance.credits_posted));
    match normal {
        Side::Debit => on_normal_side(normal, debits + balance.debits_pending.into(), credits),
        Side::Credit => on_normal_side(normal, debits, credits + balance.credits_pending.into()),
    }
}

impl Model {
    pub fn verdict(&self, command: &Command, at: &Moment) -> Verdict {
        match command {
            Command::DefineAsset { scale, .. } if *scale > 37 => {
                Verdict::Refuse(Refusal::Invalid("an asset has at most 37 decimals".into()))
            }
            Command::DefineAsset { code, scale } => match self.assets.get(code.as_str()) {
                None => Verdict::Record(Fact::AssetDefined { code: code.clone(), scale: *scale }),
                Some(known) if known == scale => Verdict::Unchanged,
                Some(known) => Verdict::Refuse(Refusal::AssetAlreadyExists { code: code.clone(), scale: *known }),
            },
            Command::OpenAccount(open) => self.open(open),
            Command::Transact(request) => self.transact(request, at),
        }
    }

    fn open(&self, open: &OpenAccount) -> Verdict {
        let OpenAccount { code, asset, normal, limits, metadata } = open.clone();
        if limits.min_balance.is_some() && limits.max_balance.is_some() && limits.min_balance > limits.max_balance {
            return Verdict::Refuse(Refusal::Invalid("min_balance must not be above max_balance".into()));
        }
        match self.accounts.get(&code) {
            Some(known)
                if (&known.asset, known.normal, known.limits, &known.metadata)
                    == (&asset, normal, limits, &metadata) =>
            {
                Verdict::Unchanged
            }
            Some(known) => Verdict::Refuse(Refusal::AccountAlreadyExists(Box::new(known.clone()))),
            None if !self.assets.contains_key(asset.as_str()) => Verdict::Refuse(Refusal::AssetNotFound(asset)),
            None => Verdict::Record(Fact::AccountOpened { code, asset, normal, limits, metadata }),
        }
    }

    fn transact(&self, request: &TransactionRequest, at: &Moment) -> Verdict {
        let legs = &request.legs;

        // 1. validation_failed
        if legs.len() < 2 || legs.len() > 256 {
            return Verdict::Refuse(Refusal::Invalid("a transaction has 2 to 256 legs".into()));
        }
        if legs.iter().any(|leg| leg.amount <= Amount::ZERO) {
            return Verdict::Refuse(Refusal::Invalid("an amount is more than zero".into()));
        }
        let mut nets: BTreeMap<&str, Exact> = BTreeMap::new();
        for leg in legs {
            let net = nets.entry(leg.asset.as_str()).or_default();
            *net = match leg.side {
                Side::Debit => *net + leg.amount.into(),
                Side::Credit => *net - leg.amount.into(),
            };
        }
        if nets.values().any(|net| *net != Exact::ZERO) {
            return Verdict::Refuse(Refusal::Invalid("debits and credits are equal for every asset".into()));
        }

        // 2. same_account
        let distinct: BTreeSet<&AccountCode> = legs.iter().map(|leg| &leg.account).collect();
        if distinct.len() == 1 {
            return Verdict::Refuse(Refusal::SameAccount(legs[0].account.clone()));
        }

        // 3. account_not_found
        let missing = |leg: &LegRequest| !self.accounts.contains_key(&leg.account);
        if legs.iter().any(missing) {
            let named = legs.iter().enumerate().filter(|(_, leg)| missing(leg));
            return Verdict::Refuse(Refusal::AccountNotFound(named.map(|(i, leg)| (i, leg.account.clone())).collect()));
        }
        let accounts: Vec<&Account> = legs.iter().map(|leg| &self.accounts[&leg.account]).collect();

        // 4. asset_mismatch
        for (leg, request) in legs.iter().enumerate() {
            if request.asset != accounts[leg].asset {
                return Verdict::Refuse(Refusal::AssetMismatch {
                    leg,
                    account: request.account.clone(),
                    account_asset: accounts[leg].asset.clone(),
                    asset: request.asset.clone(),
                });
            }
        }

        let reject = |reason: Rejection| {
            let account_ids = accounts.iter().map(|account| account.id).collect();
            Verdict::Record(Fact::TransactionRejected(RejectedTransaction {
                request: request.clone(),
                account_ids,
                reason,
            }))
        };

        // 5. account_closed
        if let Some(account) = accounts.iter().find(|account| account.status == AccountStatus::Closed) {
            return reject(Rejection::AccountClosed { account: account.code.clone() });
        }
        // 6. account_frozen
        if let Some(account) = accounts.iter().find(|account| account.status == AccountStatus::Frozen) {
            return reject(Rejection::AccountFrozen { account: account.code.clone() });
        }

        // What each account would be left with. An account of which a total
        // would have more than 38 digits is left with nothing that could be
        // compared with a floor: that is rule 8.
        let mut left: BTreeMap<&AccountCode, Option<Balance>> = BTreeMap::new();
        let mut legs_after: Vec<Option<Balance>> = Vec::new();
        for (leg, account) in legs.iter().zip(&accounts) {
            let before = *left.entry(&leg.account).or_insert(Some(account.balance));
            let after = before.and_then(|balance| add_leg(balance, leg, at.position));
            left.insert(&leg.account, after);
            legs_after.push(after);
        }

        // 7. insufficient_funds, at the first leg whose account shows it
        for account in &accounts {
            let (Some(after), Some(min_balance)) = (left[&account.code], account.limits.min_balance) else { continue };
            let (was, would_be) = (lowest(account.normal, &account.balance), lowest(account.normal, &after));
            if would_be < was && would_be < min_balance.into() {
                return reject(Rejection::InsufficientFunds {
                    account: account.code.clone(),
                    available: was.clamp(),
                    would_be: would_be.clamp(),
                    min_balance,
                });
            }
        }

        // 8. balance_limit_exceeded, at the first leg whose account shows it
        for account in &accounts {
            let code = account.code.clone();
            let Some(after) = left[&code] else {
                let (would_be, max_balance) = (Amount::MAX, Amount::MAX);
                return reject(Rejection::BalanceLimitExceeded { account: code, would_be, max_balance });
            };
            let Some(max_balance) = account.limits.max_balance else { continue };
            let (was, would_be) = (highest(account.normal, &account.balance), highest(account.normal, &after));
            if would_be > was && would_be > max_balance.into() {
                let would_be = would_be.clamp();
                return reject(Rejection::BalanceLimitExceeded { account: code, would_be, max_balance });
            }
        }

        let legs = legs.iter().zip(&accounts).zip(legs_after).map(|((leg, account), after)| Leg {
            account: leg.account.clone(),
            account_id: account.id,
            normal: account.normal,
            side: leg.side,
            amount: leg.amount,
            asset: leg.asset.clone(),
            after: after.unwrap(),
        });
        Verdict::Record(Fact::TransactionPosted(Transaction {
            kind: request.kind,
            legs: legs.collect(),
            reference: request.reference.clone(),
            description: request.description.clone(),
            metadata: request.metadata.clone(),
        }))
    }

    /// Makes a command so of which [`Self::verdict`] said that it is to be recorded.
    pub fn record(&mut self, command: &Command, verdict: &Verdict, at: &Moment) {
        let Verdict::Record(fact) = verdict else { return };
        match (command, fact) {
            (Command::DefineAsset { code, scale }, _) => {
                self.assets.insert(code.to_string(), *scale);
            }
            (Command::OpenAccount(open), _) => {
                let OpenAccount { code, asset, normal, limits, metadata } = open.clone();
                let balance = Balance { position: at.position, ..Balance::default() };
                self.accounts.insert(
                    code.clone(),
                    Account {
                        id: at.position,
                        code,
                        asset,
                        normal,
                        status: AccountStatus::Open,
                        limits,
                        metadata,
                        opened_at: at.recorded_at,
                        balance,
                    },
                );
            }
            (Command::Transact(request), Fact::TransactionPosted(_)) => {
                for leg in &request.legs {
                    let account = self.accounts.get_mut(&leg.account).unwrap();
                    account.balance = add_leg(account.balance, leg, at.position).unwrap();
                }
            }
            (Command::Transact(_), _) => {}
        }
    }
}

fn add_leg(mut balance: Balance, leg: &LegRequest, position: u64) -> Option<Balance> {
    let total = match leg.side {
        Side::Debit => &mut balance.debits_posted,
        Side::Credit => &mut balance.credits_posted,
    };
    let sum = Exact::from(*total) + leg.amount.into();
    if !sum.fits() {
        return None;
    }
    *total = sum.clamp();
    balance.version += 1;
    balance.position = position;
    Some(balance)
}
