//! An IPv4 prefix of at most 24 bits as one number, and a set of such prefixes as a bitmap of 4 MiB.

use std::net::Ipv4Addr;

/// The longest prefix the load has.
pub const LONGEST: u8 = 24;

/// A prefix as a node of the binary tree counted level by level: `1 << length | bits`. Below 2^25.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(pub u32);

impl Prefix {
    /// The prefix of `length` bits of `address`; `None` beyond [`LONGEST`].
    #[must_use]
    pub fn new(address: u32, length: u8) -> Option<Self> {
        if length > LONGEST {
            return None;
        }
        let bits = address.checked_shr(32 - u32::from(length)).unwrap_or(0);
        Some(Self((1 << length) | bits))
    }

    /// How many bits it has.
    #[must_use]
    pub fn length(self) -> u8 {
        u8::try_from(31 - self.0.leading_zeros()).unwrap_or(0)
    }

    /// Its network address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        let length = u32::from(self.length());
        let bits = self.0 - (1 << length);
        Ipv4Addr::from(bits.checked_shl(32 - length).unwrap_or(0))
    }
}

/// A set of prefixes.
#[derive(Clone, Debug)]
pub struct PrefixSet(Vec<u64>);

impl Default for PrefixSet {
    fn default() -> Self {
        Self(vec![0; 1 << (LONGEST + 1 - 6)])
    }
}

impl PrefixSet {
    /// Whether it is in.
    #[must_use]
    pub fn contains(&self, prefix: Prefix) -> bool {
        let word = self.0.get(prefix.0 as usize >> 6).copied().unwrap_or(0);
        word >> (prefix.0 & 63) & 1 == 1
    }

    /// Puts it in; whether it was not.
    pub fn insert(&mut self, prefix: Prefix) -> bool {
        self.change(prefix, |word, bit| word | bit)
    }

    /// Takes it out; whether it was in.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        self.change(prefix, |word, bit| word & !bit)
    }

    fn change(&mut self, prefix: Prefix, to: impl Fn(u64, u64) -> u64) -> bool {
        let Some(word) = self.0.get_mut(prefix.0 as usize >> 6) else {
            return false;
        };
        let before = *word;
        *word = to(before, 1 << (prefix.0 & 63));
        *word != before
    }
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut set = Self::default();
        for prefix in prefixes {
            set.insert(prefix);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_back_as_it_was_made() {
        let address = u32::from(Ipv4Addr::new(203, 0, 113, 77));
        for length in 0..=LONGEST {
            let prefix = Prefix::new(address, length).unwrap();
            assert_eq!(prefix.length(), length);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            assert_eq!(u32::from(prefix.address()), address & mask);
        }
        assert_eq!(Prefix::new(address, 25), None);
    }

    #[test]
    fn a_set_counts_each_prefix_once_and_tells_lengths_apart() {
        let mut set = PrefixSet::default();
        let wide = Prefix::new(0x0a00_0000, 16).unwrap();
        let narrow = Prefix::new(0x0a00_0000, 24).unwrap();
        assert!(set.insert(wide) && !set.insert(wide) && set.insert(narrow));
        assert!(set.remove(wide) && !set.remove(wide));
        assert!(set.contains(narrow) && !set.contains(wide));
    }
}
