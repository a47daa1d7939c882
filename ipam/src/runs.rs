//! A set of addresses kept as runs without gaps, so that the next one outside it is found in one look.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::range::{Family, Span, number};

/// Disjoint runs that never touch: where each starts, and its last number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    lasts: BTreeMap<(Family, u128), u128>,
}

impl Runs {
    /// Adds an address; one that is in it already changes nothing.
    pub(crate) fn insert(&mut self, address: IpAddr) {
        self.insert_span(Span::one(address));
    }

    /// Adds a whole span; runs it meets or touches become one with it.
    pub(crate) fn insert_span(&mut self, span: Span) {
        let family = span.family();
        let (mut first, mut last) = (span.first(), span.last());
        if let Some((start, end)) = self.run_before(family, first)
            && end.checked_add(1).is_none_or(|next| next >= first)
        {
            first = start;
            last = last.max(end);
        }
        let beyond = last.checked_add(1).unwrap_or(last);
        let swallowed: Vec<(u128, u128)> = self
            .lasts
            .range((family, first)..=(family, beyond))
            .map(|((_, start), end)| (*start, *end))
            .collect();
        for (start, end) in swallowed {
            self.lasts.remove(&(family, start));
            last = last.max(end);
        }
        self.lasts.insert((family, first), last);
    }

    /// Takes one address out; one that is not in it changes nothing.
    pub(crate) fn remove(&mut self, address: IpAddr) {
        let (family, taken) = (Family::of(address), number(address));
        let Some((start, end)) = self
            .run_before(family, taken)
            .filter(|(_, end)| taken <= *end)
        else {
            return;
        };
        self.lasts.remove(&(family, start));
        if start < taken {
            self.lasts.insert((family, start), taken - 1);
        }
        if taken < end {
            self.lasts.insert((family, taken + 1), end);
        }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let wanted = number(address);
        self.run_before(Family::of(address), wanted)
            .is_some_and(|(_, end)| wanted <= end)
    }

    /// The lowest number from `from` on that is in no run; `None` when the family ends first.
    pub(crate) fn outside(&self, family: Family, from: u128) -> Option<u128> {
        match self.run_before(family, from) {
            Some((_, end)) if from <= end => end.checked_add(1),
            Some(_) | None => Some(from),
        }
    }

    /// How many addresses of a span are in it.
    pub(crate) fn count_in(&self, span: Span) -> u128 {
        let family = span.family();
        let before = self.run_before(family, span.first());
        let from = before.map_or(span.first(), |(start, _)| start);
        self.lasts
            .range((family, from)..=(family, span.last()))
            .filter(|(_, end)| **end >= span.first())
            .map(|((_, start), end)| (*end).min(span.last()) - (*start).max(span.first()))
            // A whole family of IPv6 is one short of saying it exactly.
            .fold(0, |sum: u128, gap| {
                sum.saturating_add(gap.saturating_add(1))
            })
    }

    /// The last run that starts at or before a number.
    fn run_before(&self, family: Family, number: u128) -> Option<(u128, u128)> {
        let mut runs = self.lasts.range((family, 0)..=(family, number));
        runs.next_back().map(|((_, start), end)| (*start, *end))
    }
}

impl FromIterator<Span> for Runs {
    fn from_iter<T: IntoIterator<Item = Span>>(spans: T) -> Self {
        let mut runs = Self::default();
        for span in spans {
            runs.insert_span(span);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([255, 255, 255, last])
    }

    proptest! {
        #[test]
        fn runs_are_the_set_that_was_put_in(
            steps in prop::collection::vec((any::<bool>(), 200..=255_u8, 0..9_u8), 1..80),
        ) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for (is_in, first, length) in steps {
                let last = first.saturating_add(length);
                if is_in {
                    runs.insert_span(Span::new(ip(first), ip(last)).unwrap());
                    set.extend(first..=last);
                } else {
                    for one in first..=last {
                        runs.remove(ip(one));
                        set.remove(&one);
                    }
                }
                for one in 195..=255_u8 {
                    prop_assert_eq!(runs.contains(ip(one)), set.contains(&one));
                    let free = (one..=255).find(|free| !set.contains(free));
                    let told = runs.outside(Family::V4, number(ip(one)));
                    prop_assert_eq!(told.filter(|n| *n <= number(ip(255))), free.map(|n| number(ip(n))));
                    let counted = runs.count_in(Span::new(ip(one), ip(one.saturating_add(5))).unwrap());
                    prop_assert_eq!(counted, set.range(one..=one.saturating_add(5)).count() as u128);
                }
                let touching = runs.lasts.iter().any(|((family, _), end)| {
                    runs.lasts.contains_key(&(*family, end + 1))
                });
                prop_assert!(!touching, "{runs:?}");
            }
        }
    }

    #[test]
    fn the_last_address_of_ipv6_ends_the_family() {
        let last: IpAddr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        let mut runs = Runs::default();
        runs.insert(last);
        assert_eq!(runs.outside(Family::V6, u128::MAX), None);
        assert_eq!(runs.outside(Family::V6, 0), Some(0));
        runs.remove(last);
        assert_eq!(runs, Runs::default());
    }
}
