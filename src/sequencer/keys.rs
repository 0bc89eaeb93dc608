//! The idempotency keys that were used last, in memory.
//!
//! A key in here has been used for certain. A key that is not may have been,
//! long ago: the unique index has the last word. Looking every fresh key up
//! would cost a third of an append, so it is done only for a while after the
//! index has found one, because old keys come back in bursts.

use hashbrown::HashSet;

/// Keys of one generation, what a table of 2^19 places holds: with the one before
/// 18 MB, half a minute of a busy ledger and more, which is when clients retry.
const GENERATION_KEYS_MAX: usize = 450_000;

/// Two generations: when the younger is full, the older is forgotten. So a key
/// stays for one generation at least, and none is ever looked for to be removed.
#[derive(Debug, Default)]
pub struct RecentKeys {
    young: HashSet<[u8; 16]>,
    old: HashSet<[u8; 16]>,
}

impl RecentKeys {
    pub fn contains(&self, hash: &[u8; 16]) -> bool {
        self.young.contains(hash) || self.old.contains(hash)
    }

    /// Remembers a key; when there is no room, the oldest go.
    pub fn insert(&mut self, hash: [u8; 16]) {
        if self.young.len() >= GENERATION_KEYS_MAX {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(hash);
    }

    /// Takes back keys whose batch was not committed.
    pub fn remove_all(&mut self, hashes: impl Iterator<Item = [u8; 16]>) {
        for hash in hashes {
            if !self.young.remove(&hash) {
                self.old.remove(&hash);
            }
        }
    }
}
