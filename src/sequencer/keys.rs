//! The idempotency keys that were used last, in memory.
//!
//! A key in here has been used for certain. A key that is not may have been,
//! long ago: the unique index has the last word. Looking every fresh key up
//! would cost a third of an append, so it is done only for a while after the
//! index has found one, because old keys come back in bursts.

use std::collections::VecDeque;

use hashbrown::HashSet;

/// Keys that memory keeps: some 40 MB, a minute of a busy ledger, which is when
/// clients retry.
const RECENT_KEYS_MAX: usize = 500_000;

#[derive(Debug, Default)]
pub struct RecentKeys {
    known: HashSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

impl RecentKeys {
    pub fn contains(&self, hash: &[u8; 16]) -> bool {
        self.known.contains(hash)
    }

    /// Remembers a key; the oldest makes room.
    pub fn insert(&mut self, hash: [u8; 16]) {
        if self.known.insert(hash) {
            self.order.push_back(hash);
            if self.order.len() > RECENT_KEYS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// Takes back keys whose batch was not committed.
    pub fn remove_all(&mut self, hashes: impl Iterator<Item = [u8; 16]>) {
        let mut any = false;
        for hash in hashes {
            any |= self.known.remove(&hash);
        }
        if any {
            let known = &self.known;
            self.order.retain(|hash| known.contains(hash));
        }
    }
}
