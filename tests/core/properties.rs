//! What must be true of every history.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use steelyard::ledger::{
    Account, AccountCode, Amount, Balance, Book, Change, Command, Event, Fact, FreezeScope, HoldState, Leg, Mark,
    Origin, Refusal, Rejection, Rule, Side, State as TransactionState, Transaction, Verdict, Window,
};
use steelyard::store::payload;
use uuid::Uuid;

use crate::exact::{Exact, highest, lowest, net};
use crate::model::Model;
use crate::run::{Run, State, assert_same, loaded, play, posted, read_back};
use crate::scenario::{LOADED_POSITION, Past, Scenario, scenario};

/// What a command came to, for counting.
pub fn outcome(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Record(Fact::TransactionRejected(rejected)) => rejected.reason.code(),
        Verdict::Record(fact) => fact.type_name(),
        Verdict::Unchanged => "unchanged",
        Verdict::Refuse(refusal) => match refusal {
            Refusal::Invalid { rule, .. } => rule,
            Refusal::SameAccount(_) => "same_account",
            Refusal::AccountNotFound(_) => "account_not_found",
            Refusal::AssetNotFound(_) => "asset_not_found",
            Refusal::AssetMismatch { .. } => "asset_mismatch",
            Refusal::AccountAlreadyExists(_) => "account_already_exists",
            Refusal::AssetAlreadyExists { .. } => "asset_already_exists",
            Refusal::TransactionNotFound(_) => "transaction_not_found",
            Refusal::NotAHold(_) => "not_a_hold",
            Refusal::NotReversible(_) => "not_reversible",
            Refusal::NotScheduled(_) => "not_scheduled",
            Refusal::TooManyWaiting => "too_many_waiting",
            Refusal::LimitsConflict { limit, .. } => limit,
            Refusal::AccountState { state, .. } => state,
            Refusal::RuleNotFound(_) => "rule_not_found",
            Refusal::TooManyRules => "too_many_rules",
            Refusal::PeriodAlreadyClosed(_) => "period_already_closed",
        },
    }
}

/// What a recorded fact comes from, for counting.
fn origins(verdict: &Verdict) -> Vec<&'static str> {
    match verdict {
        Verdict::Record(Fact::TransactionPosted(transaction)) => {
            let Some(more) = &transaction.more else { return Vec::new() };
            let origin = match &more.origin {
                Some(Origin::Capture { remaining: Amount::ZERO, .. }) => Some("a capture that ends its hold"),
                Some(Origin::Capture { .. }) => Some("a capture of a part"),
                Some(Origin::Reversal { forced: true, .. }) => Some("a forced reversal"),
                Some(Origin::Reversal { .. }) => Some("a reversal"),
                Some(Origin::Schedule { .. }) => Some("posted at its time"),
                None => None,
            };
            let exchange = (!more.rates.is_empty()).then_some("an exchange");
            let counted = (!more.usage.is_empty()).then_some("counted by a velocity limit");
            origin.into_iter().chain(exchange).chain(counted).collect()
        }
        Verdict::Record(Fact::TransactionRejected(rejected)) if rejected.scheduled.is_some() => {
            Vec::from(["rejected at its time"])
        }
        // The type of the event has the name of a rejection.
        Verdict::Record(Fact::AccountChanged(changed)) => match changed.change {
            Change::Closed => Vec::from(["an account is closed"]),
            Change::Frozen => Vec::from(["an account is frozen"]),
            _ => Vec::new(),
        },
        Verdict::Record(Fact::HoldReleased(release)) if !release.captured.is_zero() => {
            Vec::from(["the rest of a hold is released"])
        }
        _ => Vec::new(),
    }
}

/// The properties below are worth as much as their histories: each outcome
/// must come up, and postings often.
#[test]
fn scenarios_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut overflows = 0;
    for _ in 0..600 {
        let scenario = scenario(Past::Any).new_tree(&mut runner).unwrap().current();
        play(&scenario, |step| {
            *seen.entry(outcome(&step.verdict).to_owned()).or_default() += 1;
            if let Verdict::Record(Fact::TransactionScheduled(scheduled)) = &step.verdict
                && scheduled.request.weight() > 1
            {
                *seen.entry("weighs more than 1".to_owned()).or_default() += 1;
            }
            for origin in origins(&step.verdict) {
                *seen.entry(origin.to_owned()).or_default() += 1;
            }
            if let Verdict::Record(Fact::TransactionRejected(rejected)) = &step.verdict
                && let Rejection::BalanceLimitExceeded { would_be: Amount::MAX, .. } = rejected.reason
            {
                overflows += 1;
            }
        });
    }
    for expected in [
        "transaction_posted",
        "insufficient_funds",
        "balance_limit_exceeded",
        "account_frozen",
        "account_closed",
        "asset_mismatch",
        "account_not_found",
        "same_account",
        "a transaction has 2 to 256 legs",
        "an amount is more than zero",
        "debits and credits are equal for every asset",
        "account_opened",
        "account_already_exists",
        "asset_not_found",
        "min_balance must not be above max_balance",
        "asset_defined",
        "asset_already_exists",
        "an asset has at most 37 decimals",
        "unchanged",
        "transaction_authorised",
        "hold_voided",
        "hold_expired",
        "transaction_scheduled",
        "weighs more than 1",
        "schedule_cancelled",
        "account_updated",
        "account_unfrozen",
        "account_reopened",
        "account_type_set",
        "account_type_removed",
        "velocity_limit_set",
        "velocity_limit_removed",
        "period_closed",
        "velocity_limit_exceeded",
        "hold_not_open",
        "capture_exceeds_hold",
        "reversal_exceeds_transaction",
        "transaction_not_found",
        "not_a_hold",
        "not_reversible",
        "not_scheduled",
        "min_balance",
        "max_balance",
        "closed",
        "not_empty",
        "rule_not_found",
        "period_already_closed",
        "a capture that ends its hold",
        "a capture of a part",
        "a forced reversal",
        "a reversal",
        "posted at its time",
        "rejected at its time",
        "the rest of a hold is released",
        "an exchange",
        "counted by a velocity limit",
        "an account is closed",
        "an account is frozen",
    ] {
        assert!(seen.get(expected).is_some_and(|count| *count >= 5), "{expected} is too rare: {seen:#?}");
    }
    let all: usize = seen.values().sum();
    assert!(seen["transaction_posted"] * 10 >= all, "fewer than a tenth were posted: {seen:#?}");
    assert!(overflows >= 5, "totals of 39 digits are too rare: {overflows}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// The rules and their documented order: the naive model, which has them
    /// written out one after the other, gives the same answer to everything.
    #[test]
    fn the_verdict_is_the_models(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        assert_same(&run.book, &run.shelf, &run.model);
    }
}

proptest! {
    /// An account within its limits stays within them; one that is outside (a
    /// limit that was tightened later) is never moved further out. Only a forced
    /// reversal may break a floor.
    #[test]
    fn nothing_breaks_a_floor_or_a_cap(scenario in scenario(Past::Any)) {
        play(&scenario, |step| {
            let forced = matches!(&step.command, Command::Reverse(reverse) if reverse.force);
            for (code, after) in &step.after.accounts {
                let Some(before) = step.before.accounts.get(code) else { continue };
                let limits = after.attributes.limits;
                if let Some(floor) = limits.min_balance
                    && !forced
                {
                    let (was, is) = (lowest(after.normal, &before.balance), lowest(after.normal, &after.balance));
                    assert!(is >= was || is >= floor.into(), "the floor of {code} broke: {before:#?} {after:#?}");
                }
                if let Some(cap) = limits.max_balance {
                    let (was, is) = (highest(after.normal, &before.balance), highest(after.normal, &after.balance));
                    assert!(is <= was || is <= cap.into(), "the cap of {code} broke: {before:#?} {after:#?}");
                }
            }
        });
    }

    /// No leg is posted or reserved on an account that is closed or declines it.
    #[test]
    fn closed_and_frozen_accounts_stand_still(scenario in scenario(Past::Any)) {
        play(&scenario, |step| {
            let Verdict::Record(fact) = &step.verdict else { return };
            let legs = if matches!(fact, Fact::HoldReleased(_)) { &[] } else { fact.legs() };
            for leg in legs {
                let attributes = &step.before.accounts[&leg.account].attributes;
                let declined = match attributes.freeze.as_ref().map(|freeze| freeze.scope) {
                    None => None,
                    Some(FreezeScope::All) => Some(leg.side),
                    Some(FreezeScope::Debits) => Some(Side::Debit),
                    Some(FreezeScope::Credits) => Some(Side::Credit),
                };
                assert!(!attributes.closed && declined != Some(leg.side), "{leg:#?} on {attributes:#?}");
            }
            for account in step.after.accounts.values().filter(|account| account.attributes.closed) {
                let was_closed = step.before.accounts[&account.code].attributes.closed;
                let balance = account.balance;
                let is_empty = balance.debits_posted == balance.credits_posted
                    && balance.debits_pending.is_zero()
                    && balance.credits_pending.is_zero();
                assert!(was_closed || is_empty, "{account:#?}");
            }
        });
    }

    #[test]
    fn debits_equal_credits_per_asset_over_all_accounts(scenario in scenario(Past::None)) {
        play(&scenario, |step| {
            let mut sums: BTreeMap<&str, (Exact, Exact)> = BTreeMap::new();
            for account in step.after.accounts.values() {
                let (posted, pending) = sums.entry(account.asset.as_str()).or_default();
                *posted = *posted + net(account.balance.debits_posted, account.balance.credits_posted);
                *pending = *pending + net(account.balance.debits_pending, account.balance.credits_pending);
            }
            let zero = (Exact::ZERO, Exact::ZERO);
            assert!(sums.values().all(|sum| *sum == zero), "{sums:?} after {:#?}", step.command);
        });
    }

    /// What an account has pending is what open holds have left, and nothing else.
    #[test]
    fn pending_is_what_open_holds_have_left(scenario in scenario(Past::None)) {
        let run = play(&scenario, |_| ());
        let mut pending: BTreeMap<(AccountCode, &str), Exact> = BTreeMap::new();
        for event in &run.events {
            let (legs, reserves) = match &event.fact {
                Fact::TransactionAuthorised(authorisation) => (&authorisation.transaction.legs, true),
                Fact::HoldReleased(release) => (&release.legs, false),
                Fact::TransactionPosted(transaction) => match origin(&event.fact) {
                    Some(Origin::Capture { .. }) => (&transaction.legs, false),
                    _ => continue,
                },
                _ => continue,
            };
            for leg in legs {
                let sum = pending.entry((leg.account.clone(), leg.side.as_str())).or_default();
                *sum = if reserves { *sum + leg.amount.into() } else { *sum - leg.amount.into() };
            }
            // The rest of a hold that a capture has ended.
            if let Some(Origin::Capture { hold, remaining: Amount::ZERO, captured }) = origin(&event.fact) {
                for leg in authorised(&run.events, hold.id) {
                    let sum = pending.entry((leg.account.clone(), leg.side.as_str())).or_default();
                    *sum = *sum - (Exact::from(leg.amount) - (*captured).into());
                }
            }
        }
        for account in run.book.accounts() {
            let of = |side: Side| pending.get(&(account.code.clone(), side.as_str())).copied().unwrap_or_default();
            prop_assert_eq!(Exact::from(account.balance.debits_pending), of(Side::Debit));
            prop_assert_eq!(Exact::from(account.balance.credits_pending), of(Side::Credit));
        }
    }

    #[test]
    fn no_hold_is_captured_beyond_its_amount(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        let mut captured: BTreeMap<Uuid, Exact> = BTreeMap::new();
        let mut ended: BTreeSet<Uuid> = BTreeSet::new();
        for event in &run.events {
            match (&event.fact, origin(&event.fact)) {
                (Fact::TransactionPosted(capture), Some(Origin::Capture { hold, remaining, captured: stated })) => {
                    prop_assert!(!ended.contains(&hold.id), "a hold that has ended is captured no more");
                    let whole = authorised(&run.events, hold.id)[0].amount;
                    let sum = captured.entry(hold.id).or_default();
                    *sum = *sum + capture.legs[0].amount.into();
                    prop_assert_eq!(*sum, Exact::from(*stated));
                    prop_assert!(*sum + (*remaining).into() <= whole.into());
                    prop_assert!(remaining.is_zero() || *sum + (*remaining).into() == whole.into());
                    if remaining.is_zero() {
                        ended.insert(hold.id);
                    }
                }
                (Fact::HoldReleased(release), _) => {
                    let id = release.hold.id;
                    prop_assert!(ended.insert(id), "a hold ends once");
                    let whole = authorised(&run.events, id)[0].amount;
                    let sum = captured.get(&id).copied().unwrap_or_default();
                    prop_assert_eq!(sum, Exact::from(release.captured));
                    prop_assert!(release.legs.iter().all(|leg| sum + leg.amount.into() == whole.into()));
                }
                _ => {}
            }
        }
        for (id, known) in &run.model.transactions {
            if let TransactionState::Hold(hold) = &known.state {
                prop_assert_eq!(hold.state != HoldState::Authorised, ended.contains(id));
            }
        }
    }

    /// Per account and side: all reversals of a transaction together take back no
    /// more than it has posted.
    #[test]
    fn no_reversal_goes_beyond_what_is_left(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        let mut left: BTreeMap<(Uuid, AccountCode, &str), Exact> = BTreeMap::new();
        for event in &run.events {
            let Fact::TransactionPosted(transaction) = &event.fact else { continue };
            for leg in &transaction.legs {
                let own = (event.transaction_id.unwrap(), leg.account.clone(), leg.side.as_str());
                let sum = left.entry(own).or_default();
                *sum = *sum + leg.amount.into();
            }
            let Some(Origin::Reversal { transaction: of, remaining, .. }) = origin(&event.fact) else { continue };
            for leg in &transaction.legs {
                let opposite = if leg.side == Side::Debit { Side::Credit } else { Side::Debit };
                let sum = left.get_mut(&(*of, leg.account.clone(), opposite.as_str())).expect("it has posted there");
                *sum = *sum - leg.amount.into();
                prop_assert!(*sum >= Exact::ZERO, "{:#?}", event);
            }
            let stated = remaining.iter().fold(Exact::ZERO, |sum, amount| sum + (*amount).into());
            let of_it = left.iter().filter(|((id, ..), _)| id == of);
            prop_assert_eq!(of_it.fold(Exact::ZERO, |sum, (_, amount)| sum + *amount), stated);
        }
    }

    /// However the legs come, no window of the stated length has more than its limit.
    #[test]
    fn no_window_has_more_than_its_velocity_limit(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        for event in &run.events {
            let Fact::RuleSet(Rule::VelocityLimit(rule)) = &event.fact else { continue };
            let Window::Rolling { seconds } = rule.window else { continue };
            let counted: Vec<_> = run.model.counted.iter().filter(|leg| leg.limit == event.position).collect();
            for last in &counted {
                let window = counted.iter().filter(|leg| {
                    leg.account == last.account
                        && leg.at <= last.at
                        && leg.at > last.at - chrono::TimeDelta::seconds(seconds.into())
                });
                let amounts: Vec<Amount> = window.map(|leg| leg.amount).collect();
                let sum = amounts.iter().fold(Exact::ZERO, |sum, amount| sum + (*amount).into());
                prop_assert!(rule.count_max.is_none_or(|most| amounts.len() <= most as usize), "{:#?}", rule);
                prop_assert!(rule.amount_max.is_none_or(|most| sum <= most.into()), "{:#?}", rule);
            }
        }
    }

    /// Nothing is recorded as if it had happened later than something before it,
    /// and what had its own moment counts for that.
    #[test]
    fn time_does_not_run_backwards_and_what_was_due_counts_for_its_moment(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        prop_assert!(run.events.is_sorted_by_key(|event| event.recorded_at));
        for event in &run.events {
            if let Fact::HoldReleased(release) = &event.fact
                && event.fact.type_name() == "hold_expired"
            {
                let id = release.hold.id;
                let begun = run.events.iter().find(|event| event.transaction_id == Some(id)).unwrap();
                let Fact::TransactionAuthorised(authorisation) = &begun.fact else { panic!("{begun:#?}") };
                prop_assert_eq!(Some(event.effective_at), authorisation.expires_at);
            }
            if let Some(Origin::Schedule { position }) = origin(&event.fact) {
                let begun = run.events.iter().find(|event| event.position == *position).unwrap();
                prop_assert_eq!(begun.transaction_id, event.transaction_id);
                let Fact::TransactionScheduled(scheduled) = &begun.fact else { panic!("{begun:#?}") };
                prop_assert_eq!(Some(event.effective_at), scheduled.request.effective_at);
            }
        }
    }

    /// After a period was closed, no client makes anything effective before it.
    #[test]
    fn a_closed_period_stays_as_it_is(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        let mut closed = None;
        for event in &run.events {
            match &event.fact {
                Fact::PeriodClosed { before } => {
                    prop_assert!(closed < Some(*before) && *before <= event.recorded_at);
                    closed = Some(*before);
                }
                Fact::TransactionPosted(_) | Fact::TransactionAuthorised(_) | Fact::HoldReleased(_) => {
                    prop_assert!(closed.is_none_or(|before| event.effective_at >= before), "{:#?}", event);
                }
                _ => {}
            }
        }
    }

    /// Through the log's own JSON, as a worker that takes over reads it.
    #[test]
    fn replaying_the_log_gives_the_same_book(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        let mut replayed = loaded(&scenario);
        for event in &run.events {
            let mut json = String::new();
            payload::write(&event.fact, &mut json);
            let version = payload::schema_version(&event.fact);
            let fact = payload::read(event.fact.type_name(), version, event.position, &json).unwrap();
            load_subject(&mut replayed, &run.events, event);
            replayed.apply(&Event { fact, ..event.clone() }).unwrap();
        }
        assert_same(&replayed, &BTreeMap::new(), &run.model);
    }

    /// From its first event and its last one.
    #[test]
    fn every_transaction_can_be_read_back_from_the_log(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        for (id, known) in &run.model.transactions {
            let read = read_back(&run.events, *id);
            prop_assert_eq!(read.as_ref(), Some(known));
        }
    }

    #[test]
    fn the_version_of_an_account_counts_its_legs(scenario in scenario(Past::Any)) {
        let run = play(&scenario, |_| ());
        for account in run.book.accounts() {
            let loaded = scenario.loaded.iter().find(|loaded| loaded.code == account.code);
            let mut version = loaded.map_or(0, |loaded| loaded.balance.version);
            for leg in posted(&run.events).filter(|leg| leg.account == account.code) {
                version += 1;
                prop_assert_eq!(leg.after.version, version, "every leg has its own version, without a gap");
            }
            prop_assert_eq!(account.balance.version, version);
        }
    }

    #[test]
    fn what_was_rejected_or_refused_changed_nothing(scenario in scenario(Past::Any)) {
        let mut run = Run::new(&scenario);
        for next in &scenario.moves {
            run.wait(next.clock_s);
            let command = next.intent.resolve(&run.model, run.now, |_| true);
            let (mark, position) = (run.book.mark(), run.position);
            let step = run.step(&command);
            match &step.verdict {
                Verdict::Refuse(_) | Verdict::Unchanged => {
                    prop_assert_eq!(run.position, position, "nothing was recorded");
                    prop_assert_eq!(run.book.mark(), mark, "there is nothing to take back");
                }
                Verdict::Record(Fact::TransactionRejected(_) | Fact::BatchRejected { .. }) => {}
                Verdict::Record(_) => continue,
            }
            prop_assert_eq!(step.before, step.after);
        }
    }

    /// A corrupt log, or a fold with a fault, stops at the first wrong number
    /// in place of going on from it.
    #[test]
    fn an_event_that_states_a_wrong_balance_is_refused_and_leaves_no_trace(
        scenario in scenario(Past::Any),
        leg in any::<Index>(),
        number in 0..6_usize,
    ) {
        let run = play(&scenario, |_| ());
        let mut replayed = loaded(&scenario);
        for event in &run.events {
            load_subject(&mut replayed, &run.events, event);
            let mut corrupt = event.clone();
            if let Some(legs) = legs_mut(&mut corrupt.fact) {
                let leg = leg.index(legs.len());
                spoil(&mut legs[leg].after, number);
                let account = legs[leg].account.clone();
                let before = (State::of(&replayed), replayed.mark());
                let refused = replayed.apply(&corrupt).expect_err("a wrong balance must not be believed");
                prop_assert_eq!(refused.position, event.position);
                prop_assert!(refused.detail.contains(account.as_str()), "{refused}");
                prop_assert_eq!((State::of(&replayed), replayed.mark()), before);
            }
            replayed.apply(event).expect("the true event still follows");
        }
    }

    /// So it is with what an event states of a hold, of what is left to reverse, and
    /// of the account that it changes.
    #[test]
    fn an_event_that_does_not_follow_is_refused_and_leaves_no_trace(
        scenario in scenario(Past::Any),
        number in 0..3_usize,
    ) {
        let run = play(&scenario, |_| ());
        let mut replayed = loaded(&scenario);
        for event in &run.events {
            load_subject(&mut replayed, &run.events, event);
            let mut corrupt = event.clone();
            if contradict(&mut corrupt.fact, number) {
                let before = (State::of(&replayed), replayed.mark());
                let refused = replayed.apply(&corrupt).expect_err("a contradiction must not be believed");
                prop_assert_eq!(refused.position, event.position);
                prop_assert_eq!((State::of(&replayed), replayed.mark()), before);
            }
            replayed.apply(event).expect("the true event still follows");
        }
    }
}

/// Reads back what an event is about, as it was before: memory keeps only what waits
/// for a moment.
fn load_subject(book: &mut Book, log: &[Event], event: &Event) {
    if let Some(id) = event.fact.subject()
        && book.known(&id).is_none()
    {
        let before = log.iter().take_while(|earlier| earlier.position < event.position).cloned().collect::<Vec<_>>();
        book.load_known(id, read_back(&before, id).expect("it began before"));
    }
}

fn origin(fact: &Fact) -> Option<&Origin> {
    let Fact::TransactionPosted(transaction) = fact else { return None };
    transaction.more.as_ref()?.origin.as_ref()
}

/// The legs of a hold, as they were authorised.
fn authorised(log: &[Event], id: Uuid) -> &[Leg] {
    let begun = log.iter().find(|event| event.transaction_id == Some(id)).expect("it was authorised");
    let Fact::TransactionAuthorised(authorisation) = &begun.fact else { panic!("{begun:#?} is no hold") };
    &authorisation.transaction.legs
}

fn legs_mut(fact: &mut Fact) -> Option<&mut [Leg]> {
    match fact {
        Fact::TransactionPosted(transaction) => Some(&mut transaction.legs),
        Fact::TransactionAuthorised(authorisation) => Some(&mut authorisation.transaction.legs),
        Fact::HoldReleased(release) => Some(&mut release.legs),
        _ => None,
    }
}

fn other(amount: Amount) -> Amount {
    amount.checked_add(Amount::from(1)).unwrap_or(Amount::ZERO)
}

/// Makes one of a balance's numbers wrong.
fn spoil(balance: &mut Balance, number: usize) {
    match number {
        0 => balance.debits_posted = other(balance.debits_posted),
        1 => balance.credits_posted = other(balance.credits_posted),
        2 => balance.debits_pending = other(balance.debits_pending),
        3 => balance.credits_pending = other(balance.credits_pending),
        4 => balance.version += 1,
        _ => balance.position += 1,
    }
}

/// Makes a fact say something that cannot be; `false` where there is nothing of the kind.
fn contradict(fact: &mut Fact, number: usize) -> bool {
    match fact {
        Fact::TransactionPosted(Transaction { more: Some(more), .. }) if !more.usage.is_empty() => {
            let counted = &mut more.usage[0].counted;
            match number {
                0 => counted.count += 1,
                1 => counted.amount = other(counted.amount),
                _ => counted.bucket += 1,
            }
        }
        Fact::TransactionPosted(transaction) => match transaction.more.as_mut().and_then(|more| more.origin.as_mut()) {
            Some(Origin::Capture { hold, remaining, captured }) => match number {
                0 => *remaining = other(*remaining),
                1 => *captured = other(*captured),
                _ => hold.position += 1,
            },
            Some(Origin::Reversal { remaining, .. }) => match number {
                0 => remaining[0] = other(remaining[0]),
                1 => remaining.push(Amount::ZERO),
                _ => {
                    remaining.pop();
                }
            },
            Some(Origin::Schedule { position }) => *position += 1,
            None => return false,
        },
        Fact::HoldReleased(release) => match number {
            0 => release.captured = other(release.captured),
            1 => release.hold.position += 1,
            _ => release.hold.id = Uuid::from_u128(1),
        },
        Fact::ScheduleCancelled(cancelled) => match number {
            0 => cancelled.position += 1,
            _ => cancelled.transaction = Uuid::from_u128(1),
        },
        Fact::AccountChanged(changed) => match number {
            0 => changed.account_id += 1,
            _ => changed.account = crate::scenario::code("ghost:a"),
        },
        _ => return false,
    }
    true
}

/// What a sequencer does with its book, in any order.
#[derive(Clone, Debug)]
enum Operation {
    /// The next command of the scenario.
    Step,
    Mark,
    /// To one of the marks that are still open.
    RollBack(Index),
    Settle(Index),
    /// As many accounts as may go, at most so many.
    Evict(usize),
    /// Transactions that wait for nothing, down to so many.
    Forget(usize),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        10 => Just(Operation::Step),
        4 => Just(Operation::Mark),
        2 => any::<Index>().prop_map(Operation::RollBack),
        2 => any::<Index>().prop_map(Operation::Settle),
        2 => (0..4_usize).prop_map(Operation::Evict),
        2 => (0..8_usize).prop_map(Operation::Forget),
    ];
    prop::collection::vec(operation, 1..80)
}

/// A mark, and everything as it was then.
struct Open {
    mark: Mark,
    position: u64,
    events: usize,
    model: Model,
}

/// Evicts accounts, which go to the shelf as to the database.
fn evict(run: &mut Run, want: usize) {
    let before = State::of(&run.book);
    let committed = run.committed;
    let may_go = |account: &Account| account.touched() <= committed;
    let counters = |code: &AccountCode| run.book.counters(code).cloned().unwrap_or_default();
    let counters: BTreeMap<_, _> = before.accounts.keys().map(|code| (code.clone(), counters(code))).collect();
    let gone = run.book.evict(want, may_go);
    let after = State::of(&run.book);
    assert_eq!(before.accounts.len() - after.accounts.len(), gone, "eviction counts what went");
    for (code, account) in before.accounts {
        if !after.accounts.contains_key(&code) {
            assert!(may_go(&account), "{code} had to stay");
            run.counters.insert(code.clone(), counters[&code].clone());
            run.shelf.insert(code, account);
        }
    }
}

/// Forgets transactions, which can be read back from the log.
fn forget(run: &mut Run, most: usize) {
    let idle = |run: &Run| run.book.known_len() - run.book.waiting();
    let before = idle(run);
    let must_stay: Vec<Uuid> = (run.model.transactions.iter())
        .filter(|(id, known)| run.book.known(id).is_some() && known.changed > run.committed)
        .map(|(id, _)| *id)
        .collect();
    run.book.evict_known(most, run.committed);
    assert!(idle(run) >= most.min(before), "no more go than must");
    assert!(idle(run) <= most.max(must_stay.len()), "all that may go go");
    assert!(must_stay.iter().all(|id| run.book.known(id).is_some()), "what is not durable stays");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever else was applied, marked, settled, evicted, forgotten and loaded since.
    #[test]
    fn rolling_back_restores_the_state_at_the_mark(scenario in scenario(Past::Any), operations in operations()) {
        let mut run = Run::new(&scenario);
        run.committed = LOADED_POSITION;
        let mut moves = scenario.moves.iter().cycle();
        let mut marks: Vec<Open> = Vec::new();
        let roll_back = |run: &mut Run, open: &Open| {
            run.book.roll_back(open.mark);
            run.position = open.position;
            run.events.truncate(open.events);
            run.model = open.model.clone();
            assert_same(&run.book, &run.shelf, &run.model);
            assert_eq!(run.book.mark(), open.mark);
        };
        for operation in operations {
            match operation {
                Operation::Step => {
                    run.play(moves.next().unwrap());
                }
                Operation::Mark => marks.push(Open {
                    mark: run.book.mark(),
                    position: run.position,
                    events: run.events.len(),
                    model: run.model.clone(),
                }),
                Operation::RollBack(index) if !marks.is_empty() => {
                    marks.truncate(index.index(marks.len()) + 1);
                    roll_back(&mut run, marks.last().unwrap());
                }
                Operation::Settle(index) if !marks.is_empty() => {
                    let index = index.index(marks.len());
                    let before = (State::of(&run.book), run.book.mark());
                    run.book.settle(marks[index].mark);
                    run.committed = marks[index].position;
                    marks.drain(..index);
                    prop_assert_eq!((State::of(&run.book), run.book.mark()), before, "settling changes no state");
                }
                Operation::Evict(want) => evict(&mut run, want),
                Operation::Forget(most) => forget(&mut run, most),
                Operation::RollBack(_) | Operation::Settle(_) => {}
            }
            assert_same(&run.book, &run.shelf, &run.model);
        }
        // The oldest mark that is still open, from wherever the operations ended.
        if let Some(open) = marks.first() {
            roll_back(&mut run, open);
        }
    }

    /// And all that may go do go, when as many are wanted.
    #[test]
    fn eviction_takes_only_what_may_go(
        scenario in scenario(Past::Any),
        may_go in prop::collection::btree_set(0..120_u64, 0..100),
        rounds in prop::collection::vec((0..24_usize, 0..6_usize), 1..6),
    ) {
        let mut run = play(&scenario, |_| ());
        let allowed = |account: &Account| may_go.contains(&account.id);
        let mut lost: BTreeSet<AccountCode> = BTreeSet::new();
        for (want, reload) in rounds {
            let before = State::of(&run.book);
            let candidates = before.accounts.values().filter(|account| allowed(account)).count();
            let gone = run.book.evict(want, allowed);
            prop_assert!(gone <= want.min(candidates));
            // Two rounds over the book find all that may go: it takes the first
            // to see what has not been used since. A search for few is cut short.
            if want >= before.accounts.len() {
                prop_assert_eq!(gone, candidates);
            }
            let after = State::of(&run.book);
            prop_assert_eq!(after.accounts.len(), before.accounts.len() - gone);
            for (code, account) in &before.accounts {
                match after.accounts.get(code) {
                    Some(still) => prop_assert_eq!(still, account),
                    None => {
                        prop_assert!(allowed(account), "{code} had to stay");
                        lost.insert(code.clone());
                    }
                }
            }
            // Some come back, into whatever places have become free.
            let back: Vec<_> = lost.iter().take(reload).cloned().collect();
            for code in back {
                lost.remove(&code);
                run.book.load_account(run.model.accounts[&code].clone());
                prop_assert_eq!(run.book.account(&code), Some(&run.model.accounts[&code]));
            }
        }
    }

    /// A copy from the database may be older than what memory holds.
    #[test]
    fn loading_an_account_never_overwrites_the_one_in_the_book(scenario in scenario(Past::Any)) {
        let mut run = play(&scenario, |_| ());
        let before = State::of(&run.book);
        scenario.loaded.iter().for_each(|account| run.book.load_account(account.clone()));
        prop_assert_eq!(State::of(&run.book), before);
    }
}

/// The account longest unused goes first: one that was touched since the last
/// round gets a second chance.
#[test]
fn eviction_spares_what_was_used_lately() {
    let mut runner = TestRunner::deterministic();
    let accounts = loop {
        let Scenario { loaded, .. } = scenario(Past::None).new_tree(&mut runner).unwrap().current();
        if loaded.len() >= 4 {
            break loaded;
        }
    };
    let mut book = Book::default();
    accounts.iter().for_each(|account| book.load_account(account.clone()));
    assert_eq!(book.evict(1, |_| true), 1, "all were used lately, so the first of the second round goes");
    let fresh = accounts.iter().find(|account| !book.contains(&account.code)).unwrap();
    book.load_account(fresh.clone());
    assert_eq!(book.evict(accounts.len() - 1, |_| true), accounts.len() - 1);
    assert!(book.contains(&fresh.code), "the one just loaded is the last to go");
}

/// Facts that contradict the book, besides wrong balances.
#[test]
fn an_event_about_accounts_or_assets_that_contradicts_the_book_is_refused() {
    let mut runner = TestRunner::deterministic();
    let scenario = loop {
        let scenario = scenario(Past::None).new_tree(&mut runner).unwrap().current();
        let mut posts = false;
        play(&scenario, |step| posts |= outcome(&step.verdict) == "transaction_posted");
        if posts {
            break scenario;
        }
    };
    let run = play(&scenario, |_| ());
    let event = run.events.iter().find(|event| matches!(event.fact, Fact::TransactionPosted(_))).unwrap();

    let mut empty = Book::default();
    let refused = empty.apply(event).unwrap_err();
    assert!(refused.to_string().ends_with("is unknown"), "{refused}");
    assert!(empty.is_empty());

    let mut book = loaded(&scenario);
    let known = book.accounts().next().unwrap().clone();
    let before = (State::of(&book), book.mark());
    let again = |fact| Event { fact, ..event.clone() };
    let refused = book.apply(&again(Fact::AccountOpened {
        code: known.code.clone(),
        asset: known.asset.clone(),
        normal: known.normal,
        limits: known.attributes.limits,
        metadata: None,
    }));
    assert_eq!(refused.unwrap_err().detail, format!("account {} exists", known.code));
    assert_eq!((State::of(&book), book.mark()), before);

    let eur = crate::scenario::asset("EUR");
    let refused = book.apply(&again(Fact::AssetDefined { code: eur.clone(), scale: 3 }));
    assert_eq!(refused.unwrap_err().detail, "asset EUR has scale 2");
    assert_eq!((State::of(&book), book.mark()), before);

    // Known with the same scale, from the table that the same append wrote: no contradiction,
    // and rolling the event back does not take the asset away from those who loaded it.
    book.apply(&again(Fact::AssetDefined { code: eur, scale: 2 })).unwrap();
    book.roll_back(before.1);
    assert_eq!((State::of(&book), book.mark()), before);
}
