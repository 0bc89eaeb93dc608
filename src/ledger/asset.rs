//! Assets: what an amount counts.

use super::name::AssetCode;

/// Decimals an asset may have: with more, one whole unit would not fit 38 digits.
pub const SCALE_MAX: u8 = 37;

/// A code and the number of decimals of its smallest unit (`EUR` 2, `BTC` 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    pub code: AssetCode,
    pub scale: u8,
}

/// The currencies of ISO 4217 with their exponents, which every ledger knows
/// from the start. Codes without an exponent (precious metals, testing codes)
/// are left out: define them with the scale that you trade them in.
///
/// Source: ISO 4217 list one, by way of the `iso_currency` crate.
pub fn iso_4217() -> impl Iterator<Item = Asset> {
    use iso_currency::IntoEnumIterator;
    iso_currency::Currency::iter().filter_map(|currency| {
        let scale = u8::try_from(currency.exponent()?).ok()?;
        Some(Asset { code: AssetCode::new(currency.code()).ok()?, scale })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_4217_has_the_known_exponents() {
        let scale = |code: &str| iso_4217().find(|a| a.code.as_str() == code).map(|a| a.scale);
        assert_eq!(scale("EUR"), Some(2));
        assert_eq!(scale("JPY"), Some(0));
        assert_eq!(scale("KWD"), Some(3));
        assert_eq!(scale("XXX"), None);
        assert!(iso_4217().count() > 150);
    }
}
