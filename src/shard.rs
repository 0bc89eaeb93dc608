//! Shards: ranges of accounts.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::{LedgerId, Shard};

/// The shard of an account: a hash that is the same on every machine and in
/// every release, modulo the database's shard count.
pub fn shard_of(ledger_id: LedgerId, code: &str, shard_count: Shard) -> Shard {
    let hash = xxh3_64_with_seed(code.as_bytes(), u64::from(ledger_id.unsigned_abs()));
    (hash % u64::from(shard_count.unsigned_abs().max(1))) as Shard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_stable_across_releases() {
        let shards = ["wallet:alice", "wallet:bob", "merchant:1"].map(|code| shard_of(1, code, 64));
        assert_eq!(shards, SHARDS_OF_RELEASE_0_1);
        assert!((0..1_000).all(|i| (0..64).contains(&shard_of(1, &format!("a{i}"), 64))));
    }

    /// What the first release computed. Rows are stored under these numbers.
    const SHARDS_OF_RELEASE_0_1: [Shard; 3] = [2, 7, 53];
}
