//! `steelyard pay`: one payment, or the reservation of one.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::account::{parse_metadata, parse_time};
use super::client::{ApiArgs, Client, PaymentRequest};
use super::output::Output;
use super::transaction;

const EXAMPLES: &str = "\
Examples:
  steelyard pay --from wallet:alice --to wallet:bob --amount 1250 --asset EUR --reference inv-1
  steelyard pay --from wallet:alice --to shop --amount 5000 --asset EUR --capture manual --expires-in 604800

A payment whose outcome is in doubt is safe to repeat with the key that was printed:
  steelyard pay --from wallet:alice --to wallet:bob --amount 1250 --asset EUR --reference inv-1 \\
      --idempotency-key 7d3b1c1e-…";

/// Make one payment.
///
/// It is tried again with the same idempotency key while the service is unavailable, so it is made at most once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PayArgs {
    /// The account that pays (it is debited).
    #[arg(long, value_name = "ACCOUNT")]
    from: String,

    /// The account that is paid (it is credited).
    #[arg(long, value_name = "ACCOUNT")]
    to: String,

    /// A whole number in the asset's smallest unit: 1250 is 12.50 EUR.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    amount: String,

    /// The asset, such as EUR.
    #[arg(long)]
    asset: String,

    /// Your reference, which statements show.
    #[arg(long)]
    reference: Option<String>,

    /// A text for people.
    #[arg(long)]
    description: Option<String>,

    /// A JSON object to keep with the payment.
    #[arg(long, value_name = "JSON", value_parser = parse_metadata)]
    metadata: Option<Value>,

    /// `manual` only reserves the funds, for `steelyard capture` and `steelyard void`.
    #[arg(long, value_enum, default_value_t = CaptureMode::Automatic)]
    capture: CaptureMode,

    /// Seconds after which a reservation ends by itself.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    expires_in: Option<u32>,

    /// The time at which a reservation ends by itself: RFC 3339, or a date for its beginning in UTC.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "expires_in")]
    expires_at: Option<String>,

    /// When it counts for the books: RFC 3339, or a date for its beginning in UTC. In the future it is scheduled for then.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with_all = ["expires_in", "expires_at"])]
    effective_at: Option<String>,

    /// Names this payment: the same key never pays twice. Made up and printed when it is left out.
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    idempotency_key: Option<String>,

    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CaptureMode {
    Automatic,
    Manual,
}

/// Digits of the largest amount.
const AMOUNT_DIGITS_MAX: usize = 38;

/// The longest idempotency key, in characters.
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

pub async fn run(args: PayArgs, output: &Output) -> anyhow::Result<ExitCode> {
    check_amount("--amount", &args.amount, &args.asset)?;
    let holds = args.capture == CaptureMode::Manual;
    if !holds && (args.expires_in.is_some() || args.expires_at.is_some()) {
        bail!("only what is reserved expires: add --capture manual");
    }
    if holds && args.effective_at.is_some() {
        bail!("--effective-at is for payments that are posted, and not for --capture manual");
    }
    let key = args.idempotency_key.unwrap_or_else(new_idempotency_key);
    let payment = PaymentRequest {
        from: args.from,
        to: args.to,
        amount: args.amount,
        asset: args.asset,
        reference: args.reference,
        description: args.description,
        metadata: args.metadata,
        capture: holds.then_some("manual"),
        expires_in_s: args.expires_in,
        expires_at: args.expires_at,
        effective_at: args.effective_at,
    };
    let client = Client::new(&args.api)?;
    // Before the request, so that the key is known even if this process is killed before the answer.
    output.note(&format!("idempotency key: {key}"));
    let answer = client.pay(&payment, &key).await?;
    if answer.replayed && !output.is_json() {
        output.note("this payment had been made before with the same key; nothing was paid again");
    }
    transaction::print(&answer.body, output)?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses what the ledger would refuse, with the number that was probably meant; `what` names the amount.
pub(super) fn check_amount(what: &str, amount: &str, asset: &str) -> anyhow::Result<()> {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_digits(amount) {
        let significant = amount.trim_start_matches('0');
        if significant.is_empty() {
            bail!("{what} must be more than zero");
        }
        if significant.len() > AMOUNT_DIGITS_MAX {
            bail!("{what} has more than {AMOUNT_DIGITS_MAX} digits");
        }
        return Ok(());
    }
    let meant = amount.split_once('.').filter(|(whole, fraction)| is_digits(whole) && is_digits(fraction)).and_then(
        |(whole, fraction)| {
            let scale = usize::from(iso_currency::Currency::from_code(asset)?.exponent()?);
            let padding = scale.checked_sub(fraction.len())?;
            let digits = format!("{whole}{fraction}{}", "0".repeat(padding));
            Some(digits.trim_start_matches('0').to_owned()).filter(|digits| !digits.is_empty())
        },
    );
    match meant {
        Some(meant) => bail!("{what} is a whole number in the asset's smallest unit: {amount} {asset} is {meant}"),
        None => bail!("{what} is a whole number in the asset's smallest unit, such as 1250 for 12.50 EUR"),
    }
}

pub(super) fn parse_idempotency_key(key: &str) -> Result<String, String> {
    let fits = (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len());
    if fits && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(key.to_owned())
    } else {
        Err(format!("1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters"))
    }
}

/// A random UUID (version 4).
pub(super) fn new_idempotency_key() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_whole_numbers_and_the_error_names_the_one_that_was_meant() {
        assert!(check_amount("--amount", "1250", "EUR").is_ok());
        let message = |amount: &str, asset: &str| check_amount("--amount", amount, asset).unwrap_err().to_string();
        assert!(message("12.50", "EUR").ends_with("12.50 EUR is 1250"));
        assert!(message("12.5", "EUR").ends_with("is 1250"));
        assert!(message("0.05", "EUR").ends_with("is 5"));
        assert!(message("1.250", "KWD").ends_with("is 1250"));
        // More decimals than the asset has, or an asset whose scale only the server knows: no guess.
        for (amount, asset) in [("12.505", "EUR"), ("12.50", "BTC"), ("-5", "EUR"), ("1e3", "EUR"), ("", "EUR")] {
            assert!(message(amount, asset).ends_with("such as 1250 for 12.50 EUR"), "{amount} {asset}");
        }
        assert!(message("000", "EUR").contains("more than zero"));
        assert!(message(&"9".repeat(39), "EUR").contains("38 digits"));
    }

    #[test]
    fn idempotency_keys_are_visible_ascii() {
        assert!(parse_idempotency_key("order-17").is_ok());
        for wrong in ["", "a b", "ä", &"k".repeat(256)] {
            assert!(parse_idempotency_key(wrong).is_err(), "{wrong}");
        }
        assert!(parse_idempotency_key(&new_idempotency_key()).is_ok());
        assert_ne!(new_idempotency_key(), new_idempotency_key());
    }
}
