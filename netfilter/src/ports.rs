//! Ranges of ports, merged and cut into lists that one match can hold.

use std::collections::BTreeSet;
use std::fmt;

/// The slots of one multiport match; a range takes two.
const MULTIPORT_SLOTS: usize = 15;

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Makes one; the ends may come in either order.
    pub fn new(first: u16, last: u16) -> Self {
        Self {
            first: first.min(last),
            last: first.max(last),
        }
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Sorts and merges ranges, and cuts them into lists that one match can hold.
    pub fn chunks(ranges: &[Self]) -> Vec<Vec<Self>> {
        let mut chunks: Vec<Vec<Self>> = Vec::new();
        let mut free = 0;
        for range in Self::merged(ranges) {
            if range.slots() > free {
                chunks.push(Vec::new());
                free = MULTIPORT_SLOTS;
            }
            free -= range.slots();
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(range);
            }
        }
        chunks
    }

    pub(crate) fn merged(ranges: &[Self]) -> Vec<Self> {
        let sorted: BTreeSet<Self> = ranges.iter().copied().collect();
        let mut merged: Vec<Self> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        merged
    }

    /// Reads what [`fmt::Display`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some(Self::new(first.parse().ok()?, last.parse().ok()?))
    }

    fn slots(self) -> usize {
        if self.first == self.last { 1 } else { 2 }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}:{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_that_touch_are_merged_and_a_range_takes_two_slots() {
        let range = PortRange::new;
        let merged = PortRange::chunks(&[range(5, 9), range(10, 20), range(7, 8)]);
        assert_eq!(merged, [[range(5, 20)]]);
        let apart: Vec<PortRange> = (0..8).map(|n| range(n * 10, n * 10 + 1)).collect();
        let sizes: Vec<usize> = PortRange::chunks(&apart).iter().map(Vec::len).collect();
        assert_eq!(sizes, [7, 1]);
    }

    proptest! {
        #[test]
        fn chunks_hold_the_same_ports_and_keep_to_the_limit(
            ends in prop::collection::vec((0u16..200, 0u16..200), 0..40), port in 0u16..200
        ) {
            let ranges: Vec<PortRange> = ends.iter().map(|(a, b)| PortRange::new(*a, *b)).collect();
            let has = |ranges: &[PortRange]| {
                ranges.iter().any(|range| (range.first()..=range.last()).contains(&port))
            };
            let chunks = PortRange::chunks(&ranges);
            prop_assert_eq!(chunks.iter().any(|chunk| has(chunk)), has(&ranges));
            for chunk in chunks {
                prop_assert!(chunk.iter().map(|range| range.slots()).sum::<usize>() <= 15);
            }
        }
    }
}
