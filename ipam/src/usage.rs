//! How full the CIDRs are.

use ipnet::IpNet;

use crate::{Ipam, Span};

/// How full one CIDR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The Pod CIDR.
    pub cidr: IpNet,
    /// Addresses of it that are held.
    pub held: u128,
    /// Addresses that nobody holds and that rest.
    pub cooling: u128,
    /// Addresses that are reserved, neither held nor resting.
    pub reserved: u128,
    /// Addresses of it that pods can have: held, resting, reserved and free ones.
    pub usable: u128,
}

impl Usage {
    /// Addresses that the next pod could be given at once.
    pub fn free(&self) -> u128 {
        let taken = self.held.saturating_add(self.cooling);
        self.usable
            .saturating_sub(taken.saturating_add(self.reserved))
    }
}

impl Ipam {
    /// How full each CIDR is at a time (seconds since 1970), in the CIDRs' order.
    pub fn usage(&self, now: u64) -> impl Iterator<Item = Usage> {
        self.ranges.iter().map(move |range| {
            let (first, last) = range.bounds();
            let resting = self.resting.between(first, last);
            Usage {
                cidr: range.cidr(),
                held: count(self.held.range(first..=last)),
                cooling: count(resting.filter(|entry| entry.rests(now, self.cool_down))),
                reserved: self.reserved_in(range.span(), now),
                usable: range.span().len(),
            }
        })
    }

    /// How many addresses of a span are reserved at a time (seconds since 1970), and neither held nor resting then.
    pub(crate) fn reserved_in(&self, span: Span, now: u64) -> u128 {
        let (first, last) = span.bounds();
        let held = self.held.range(first..=last).map(|(address, _)| *address);
        let resting = self.resting.between(first, last);
        let resting = resting
            .filter(|entry| entry.rests(now, self.cool_down))
            .map(|entry| entry.address);
        let taken = held.chain(resting).filter(|ip| self.reserved.contains(*ip));
        self.reserved.count_in(span).saturating_sub(count(taken))
    }
}

/// A map has at most `usize::MAX` entries, which fit.
fn count(items: impl Iterator) -> u128 {
    items.count() as u128
}
