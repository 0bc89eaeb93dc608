//! Names that clients choose: ledgers, accounts and assets.

use std::fmt;
use std::sync::Arc;

/// Bytes an account code may have.
pub const ACCOUNT_CODE_BYTES_MAX: usize = 128;
/// Bytes a ledger name or an asset code may have.
pub const SHORT_NAME_BYTES_MAX: usize = 32;

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {bytes_max} ASCII letters, digits and : _ - . @ /")]
pub struct InvalidName {
    pub bytes_max: usize,
}

fn check(text: &str, bytes_max: usize) -> Result<(), InvalidName> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-' | b'.' | b'@' | b'/');
    if text.is_empty() || text.len() > bytes_max || !text.bytes().all(allowed) {
        return Err(InvalidName { bytes_max });
    }
    Ok(())
}

/// Names are shared, not copied: one payment mentions the same account in the
/// request, the event, the answer and the projection.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $bytes_max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                check(text, $bytes_max)?;
                Ok(Self(Arc::from(text)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// An account's name within its ledger, such as `wallet:alice`.
    AccountCode,
    ACCOUNT_CODE_BYTES_MAX
);
name!(
    /// An asset's name within its ledger, such as `EUR`.
    AssetCode,
    SHORT_NAME_BYTES_MAX
);
name!(
    /// A ledger's name, such as `main`.
    LedgerName,
    SHORT_NAME_BYTES_MAX
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "wallet:alice", "A-1_b.c@d/e", &"x".repeat(128)] {
            assert!(AccountCode::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a b", "a\n", "a\0", "é", "a%2Fb", &"x".repeat(129)] {
            assert!(AccountCode::new(bad).is_err(), "{bad:?}");
        }
        assert!(AssetCode::new(&"x".repeat(33)).is_err());
    }
}
