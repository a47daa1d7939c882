//! Hashing of what peers choose, keyed by a secret of the process so that nobody can choose what collides.

/// The secret, spread over three words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed([u64; 3]);

impl Seed {
    pub(super) fn new(seed: u64) -> Self {
        let spread =
            |salt: u64| fold(seed ^ salt, 0x9e37_79b9_7f4a_7c15 ^ salt.rotate_left(32)) | 1;
        Self([
            spread(0x2d35_8dcc_aa6c_78a5),
            spread(0x8bb8_4b93_962e_acc9),
            spread(0x4b33_a62e_d433_d4a3),
        ])
    }

    /// The hash of one word.
    pub(super) fn word(&self, word: u64) -> u64 {
        let [one, two, three] = self.0;
        fold(fold(word ^ one, two), three)
    }

    /// The hash of any octets.
    pub(super) fn octets(&self, octets: &[u8]) -> u64 {
        let [one, two, three] = self.0;
        let (blocks, rest) = octets.as_chunks::<16>();
        let mut last = [0; 16];
        for (place, octet) in last.iter_mut().zip(rest) {
            *place = *octet;
        }
        let mut hash = one ^ octets.len() as u64;
        for block in blocks.iter().chain([&last]) {
            let words = u128::from_le_bytes(*block);
            let (low, high) = (words as u64, (words >> 64) as u64);
            hash = fold(low ^ hash, high ^ two).rotate_left(23) ^ three;
        }
        fold(hash, three)
    }
}

/// Both halves of the product: every bit of one word meets every bit of the other.
fn fold(one: u64, two: u64) -> u64 {
    let product = u128::from(one) * u128::from(two);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_seed_changes_every_hash_and_neighbours_spread() {
        let (one, two) = (Seed::new(1), Seed::new(2));
        assert_ne!(one.word(7), two.word(7));
        assert_ne!(one.octets(b"seven"), two.octets(b"seven"));
        assert_ne!(one.octets(b""), one.octets(b"\0"));
        let low: BTreeSet<u64> = (0..4096).map(|n| one.word(n << 8) & 0xffff).collect();
        assert!(low.len() > 3_800, "{}", low.len());
        let high: BTreeSet<u64> = (0..4096u32)
            .map(|n| one.octets(&n.to_be_bytes()) >> 48)
            .collect();
        assert!(high.len() > 3_800, "{}", high.len());
    }
}
