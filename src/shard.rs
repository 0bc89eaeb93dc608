//! Shards: ranges of accounts.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::{LedgerId, Shard};

/// The shard of an account: a hash that is the same on every machine and in
/// every release, modulo the database's shard count.
pub fn shard_of(ledger_id: LedgerId, code: &str, shard_count: Shard) -> Shard {
    let hash = xxh3_64_with_seed(code.as_bytes(), u64::from(ledger_id.unsigned_abs()));
    (hash % u64::from(shard_count.unsigned_abs().max(1))) as Shard
}

/// Some of the shards, a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSet(Vec<u64>);

impl ShardSet {
    pub fn contains(&self, shard: Shard) -> bool {
        let (word, bit) = place(shard);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

impl FromIterator<Shard> for ShardSet {
    fn from_iter<I: IntoIterator<Item = Shard>>(shards: I) -> Self {
        let mut words = Vec::new();
        for shard in shards {
            let (word, bit) = place(shard);
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= bit;
        }
        Self(words)
    }
}

fn place(shard: Shard) -> (usize, u64) {
    let shard = usize::from(shard.unsigned_abs());
    (shard / 64, 1 << (shard % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let wanted = [0, 5, 63, 64, 1_023];
        let set: ShardSet = wanted.into_iter().collect();
        assert!((0..1_024).all(|shard| set.contains(shard) == wanted.contains(&shard)));
        assert!(!ShardSet::default().contains(0));
    }

    #[test]
    fn shards_are_stable_across_releases() {
        let shards = ["wallet:alice", "wallet:bob", "merchant:1"].map(|code| shard_of(1, code, 64));
        assert_eq!(shards, SHARDS_OF_RELEASE_0_1);
        assert!((0..1_000).all(|i| (0..64).contains(&shard_of(1, &format!("a{i}"), 64))));
    }

    /// What the first release computed. Rows are stored under these numbers.
    const SHARDS_OF_RELEASE_0_1: [Shard; 3] = [2, 7, 53];
}
