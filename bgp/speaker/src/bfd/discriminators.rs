//! Random numbers of this process: discriminators nobody can guess, source ports and seeds.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

/// Numbers from a keyed hash of a counter, the key random per process.
#[derive(Debug, Default)]
pub(super) struct Random {
    key: RandomState,
    count: u64,
}

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.count += 1;
        self.key.hash_one(self.count)
    }

    /// A discriminator that isn't zero and not in `taken` (RFC 5880 §6.3).
    pub(super) fn discriminator<T>(&mut self, taken: &BTreeMap<u32, T>) -> u32 {
        loop {
            let drawn = (self.next() >> 32) as u32;
            if drawn != 0 && !taken.contains_key(&drawn) {
                return drawn;
            }
        }
    }
}
