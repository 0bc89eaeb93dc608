//! The legs of a transaction and its rates, as they are written on the command line.
//!
//! `--debit ACCOUNT AMOUNT ASSET` and `--credit …` are one list, in the order in which they stand there: it is the order
//! of the legs in the ledger. What clap derives has a list for each, so this is written by hand.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Value, json};

use super::pay::check_amount;

/// Sides of a leg, and the options that make one.
const SIDES: [&str; 2] = ["debit", "credit"];

const RATE: &str = "rate";

/// Words of a leg: account, amount, asset.
const LEG_WORDS: usize = 3;

#[derive(Debug)]
pub struct LegsArgs {
    legs: Vec<Leg>,
    rates: Vec<Rate>,
}

#[derive(Debug)]
struct Leg {
    side: &'static str,
    account: String,
    amount: String,
    asset: String,
}

#[derive(Debug)]
struct Rate {
    from: String,
    to: String,
    rate: String,
    remainder: Option<String>,
}

impl LegsArgs {
    /// The legs as the API takes them.
    ///
    /// # Errors
    /// For an amount that is none, with the number that was probably meant.
    pub fn legs(&self) -> anyhow::Result<Value> {
        let legs = self.legs.iter().map(|Leg { side, account, amount, asset }| {
            check_amount(&format!("the amount of --{side} {account}"), amount, asset)?;
            Ok(json!({"account": account, "side": side, "amount": amount, "asset": asset}))
        });
        legs.collect()
    }

    /// The rates as the API takes them; null when there are none.
    pub fn rates(&self) -> Value {
        let rates = self.rates.iter().map(
            |Rate { from, to, rate, remainder }| json!({"from": from, "to": to, "rate": rate, "remainder": remainder}),
        );
        if self.rates.is_empty() { Value::Null } else { rates.collect() }
    }
}

impl Args for LegsArgs {
    fn augment_args(command: Command) -> Command {
        let leg = |side: &'static str, help: &'static str| {
            let names = ["ACCOUNT", "AMOUNT", "ASSET"];
            Arg::new(side)
                .long(side)
                .value_names(names)
                .num_args(LEG_WORDS)
                .action(ArgAction::Append)
                .required(true)
                .allow_negative_numbers(true)
                .help(help)
        };
        let rate = Arg::new(RATE)
            .long(RATE)
            .value_names(["FROM", "TO", "RATE", "REMAINDER"])
            .num_args(3..=4)
            .action(ArgAction::Append)
            .allow_negative_numbers(true)
            .help(
                "An exchange rate that the legs are checked against: the debits in FROM, times RATE, are the debits in TO \
                 plus REMAINDER, which is left out where it is 0",
            );
        command
            .arg(leg(SIDES[0], "A leg that debits an account, with a whole number in the asset's smallest unit"))
            .arg(leg(SIDES[1], "A leg that credits an account; legs are kept in the order in which they are given"))
            .arg(rate)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LegsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut legs: Vec<(usize, Leg)> = Vec::new();
        for side in SIDES {
            let places = matches.indices_of(side).into_iter().flatten().step_by(LEG_WORDS);
            legs.extend(places.zip(words(matches, side)).filter_map(|(place, mut words)| {
                let (account, amount, asset) = (words.next()?, words.next()?, words.next()?);
                Some((place, Leg { side, account, amount, asset }))
            }));
        }
        legs.sort_by_key(|(place, _)| *place);
        let rates = words(matches, RATE).filter_map(|mut words| {
            let (from, to, rate) = (words.next()?, words.next()?, words.next()?);
            Some(Rate { from, to, rate, remainder: words.next() })
        });
        Ok(Self { legs: legs.into_iter().map(|(_, leg)| leg).collect(), rates: rates.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The words of each time that an option is given.
fn words<'a>(matches: &'a ArgMatches, name: &str) -> impl Iterator<Item = impl Iterator<Item = String> + 'a> + 'a {
    matches.get_occurrences::<String>(name).into_iter().flatten().map(Iterator::cloned)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        legs: LegsArgs,
        #[arg(long)]
        reference: Option<String>,
    }

    fn parse(line: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once("post").chain(line.split_whitespace()))
    }

    #[test]
    fn legs_stand_in_the_order_in_which_they_are_given() {
        let line = "--credit shop:a 970 EUR --debit wallet:alice 1000 EUR --reference r --credit fees 30 EUR";
        let line = parse(line).unwrap();
        assert_eq!(
            line.legs.legs().unwrap(),
            json!([
                {"account": "shop:a", "side": "credit", "amount": "970", "asset": "EUR"},
                {"account": "wallet:alice", "side": "debit", "amount": "1000", "asset": "EUR"},
                {"account": "fees", "side": "credit", "amount": "30", "asset": "EUR"},
            ])
        );
        assert_eq!((line.legs.rates(), line.reference.as_deref()), (Value::Null, Some("r")));
    }

    #[test]
    fn a_rate_has_a_remainder_or_none() {
        let line = "--debit a 1 EUR --credit b 1 EUR --rate EUR USD 1.0845 -0.1 --rate USD EUR 0.92 --reference r";
        assert_eq!(
            parse(line).unwrap().legs.rates(),
            json!([
                {"from": "EUR", "to": "USD", "rate": "1.0845", "remainder": "-0.1"},
                {"from": "USD", "to": "EUR", "rate": "0.92", "remainder": null},
            ])
        );
    }

    #[test]
    fn what_is_no_leg_is_told() {
        for line in [
            "",
            "--debit a 1 EUR",
            "--credit a 1 EUR",
            "--debit a 1 --credit b 1 EUR",
            "--debit a 1 EUR x --credit b 1 EUR",
            "--debit a 1 EUR --credit b 1 EUR --rate EUR USD",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let amount = |amount: &str| {
            let line = format!("--debit a {amount} EUR --credit b 1 EUR");
            parse(&line).unwrap().legs.legs().unwrap_err().to_string()
        };
        let expected = "the amount of --debit a is a whole number in the asset's smallest unit: 12.50 EUR is 1250";
        assert_eq!(amount("12.50"), expected);
        assert!(amount("-5").contains("--debit a is a whole number"));
    }
}
