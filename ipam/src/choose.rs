//! Which addresses an attachment gets. Nothing is given here: the choice is a change that is written down first.

use std::net::IpAddr;

use crate::{Change, Error, Family, Ipam, Lease, Range, Request, Span};

/// What a request leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The holder has this already.
    Held(Lease),
    /// It would get what the change says.
    New(Change),
}

impl Ipam {
    /// Says what a request would be given: one address of each family there is a CIDR of, all of them or none.
    ///
    /// A holder that has a lease keeps that one, whatever the CIDRs are by now, so that a runtime may try again
    /// after a crash.
    ///
    /// # Errors
    /// If there is no CIDR, none is left, or what is asked for cannot be had.
    pub fn choose(&mut self, request: &Request) -> Result<Choice, Error> {
        self.settle(request.now);
        if let Some(lease) = self.leases.get(&request.holder) {
            let mut asked = request.fixed.iter().chain(&request.given);
            return match asked.find(|ip| !lease.addresses.contains(ip)) {
                Some(address) => Err(Error::HoldsOthers {
                    holder: request.holder.clone(),
                    address: *address,
                }),
                None => Ok(Choice::Held(lease.clone())),
            };
        }
        let mut round = Vec::new();
        let addresses = if request.given.is_empty() {
            self.choose_all(request, &mut round)?
        } else {
            self.take_given(&request.given)?
        };
        let lease = Lease {
            holder: request.holder.clone(),
            pod: request.pod.clone(),
            uid: request.uid.clone(),
            addresses,
            since: request.now,
        };
        Ok(Choice::New(Change::Given { lease, round }))
    }

    /// Forgets that addresses rest which have rested enough.
    fn settle(&mut self, now: u64) {
        for address in self.resting.settle(now, self.cool_down) {
            self.busy.remove(address);
        }
    }

    fn take_given(&self, given: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let mut taken = Vec::with_capacity(given.len());
        for address in given.iter().copied() {
            if let Some(holder) = self.held.get(&address) {
                let holder = holder.clone();
                return Err(Error::GivenHeld { address, holder });
            }
            if !taken.contains(&address) {
                taken.push(address);
            }
        }
        Ok(taken)
    }

    /// Family by family: the fixed address, or one of each set of ranges, or the next in the round.
    fn choose_all(&self, request: &Request, round: &mut Vec<IpAddr>) -> Result<Vec<IpAddr>, Error> {
        if self.ranges.is_empty() {
            return Err(Error::NoCidr);
        }
        let fixed = self.check_all_fixed(&request.fixed)?;
        let sets = self.spans_of_sets(&request.ranges)?;
        let mut families: Vec<Family> = Vec::new();
        let own = self.ranges.iter().map(Range::family);
        // A fixed address from elsewhere may be of a family that this node has no CIDR of.
        for family in own.chain(fixed.iter().map(|ip| Family::of(*ip))) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        let mut chosen = Vec::new();
        for family in families {
            let fixed = fixed.iter().find(|ip| Family::of(**ip) == family);
            let sets: Vec<&Vec<Span>> = sets.iter().filter(|set| of_family(set, family)).collect();
            if !sets.is_empty() {
                self.choose_of_sets(&sets, fixed.copied(), request, &mut chosen)?;
            } else if let Some(fixed) = fixed {
                chosen.push(*fixed);
            } else {
                let own: Vec<Span> = self.spans_of(family).collect();
                let address = self.of_same_pod(&own, request, |_| false);
                let address = address.map_or_else(
                    || {
                        let next = self.next(family, &own, request.now)?;
                        round.push(next);
                        Ok(next)
                    },
                    Ok,
                )?;
                chosen.push(address);
            }
        }
        Ok(chosen)
    }

    fn check_all_fixed(&self, fixed: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let mut checked: Vec<IpAddr> = Vec::with_capacity(fixed.len());
        for address in fixed.iter().copied() {
            self.check_fixed(address)?;
            let of_family = |first: &&IpAddr| Family::of(**first) == Family::of(address);
            if let Some(first) = checked.iter().find(of_family) {
                return Err(Error::TwoOfAFamily {
                    first: *first,
                    second: address,
                });
            }
            checked.push(address);
        }
        Ok(checked)
    }

    /// A fixed address may be reserved and may rest still: whoever names it wants just that one.
    fn check_fixed(&self, address: IpAddr) -> Result<(), Error> {
        if !self.is_allowed(address) {
            let cidrs = self.ranges.iter().map(Range::cidr).collect();
            return Err(Error::FixedOutside { address, cidrs });
        }
        match self.held.get(&address) {
            Some(holder) => Err(Error::FixedHeld {
                address,
                holder: holder.clone(),
            }),
            None => Ok(()),
        }
    }

    /// What this node may give of each set.
    fn spans_of_sets(&self, sets: &[Vec<Span>]) -> Result<Vec<Vec<Span>>, Error> {
        let mut allowed = Vec::with_capacity(sets.len());
        for set in sets {
            let mixed = set.iter().any(|span| {
                set.first()
                    .is_some_and(|first| first.family() != span.family())
            });
            let own = self.ranges.iter().map(Range::span);
            let common: Vec<Span> = own
                .flat_map(|own| set.iter().filter_map(move |span| own.common(*span)))
                .collect();
            if mixed || common.is_empty() {
                return Err(Error::RangesOutside {
                    ranges: set.clone(),
                    mixed,
                    cidrs: self.ranges.iter().map(Range::cidr).collect(),
                });
            }
            allowed.push(common);
        }
        Ok(allowed)
    }

    /// One address of each set of a family; a fixed one serves the first set that has it.
    fn choose_of_sets(
        &self,
        sets: &[&Vec<Span>],
        mut fixed: Option<IpAddr>,
        request: &Request,
        chosen: &mut Vec<IpAddr>,
    ) -> Result<(), Error> {
        let mut all = sets.iter().flat_map(|set| set.iter());
        if let Some(address) = fixed.filter(|ip| !all.any(|span| span.contains(*ip))) {
            return Err(Error::FixedOutsideRanges { address });
        }
        for set in sets {
            let asked = fixed.filter(|ip| set.iter().any(|span| span.contains(*ip)));
            if let Some(asked) = asked {
                fixed = None;
                // An earlier set must not have taken it by chance.
                chosen.push(asked);
                continue;
            }
            let taken = |ip: &IpAddr| chosen.contains(ip) || fixed == Some(*ip);
            let address = self
                .of_same_pod(set, request, taken)
                .or_else(|| self.first_free(set, taken))
                .or_else(|| self.longest_rested(set, taken));
            chosen.push(address.ok_or_else(|| self.exhausted(set, request.now))?);
        }
        Ok(())
    }

    /// An address that this very pod gave back and that rests still: a sandbox made anew, or an ADD tried again.
    fn of_same_pod(
        &self,
        spans: &[Span],
        request: &Request,
        taken: impl Fn(&IpAddr) -> bool,
    ) -> Option<IpAddr> {
        self.resting
            .of_pod(request.pod.as_ref(), &request.uid)
            .find(|ip| self.may_be_given(spans, *ip) && !taken(ip))
    }

    /// The first free address after the last one given, through the family's CIDRs in turn and round again; when all
    /// are held or rest, the one that has rested longest.
    fn next(&self, family: Family, spans: &[Span], now: u64) -> Result<IpAddr, Error> {
        let last = self.last.get(&family).copied();
        let at = last.and_then(|last| spans.iter().position(|span| span.contains(last)));
        let mut order = Vec::with_capacity(spans.len() + 1);
        if let (Some(last), Some(at)) = (last, at) {
            let (before, from) = spans.split_at(at);
            let rest_of_first = from.first().and_then(|span| span.after(last));
            order.extend(rest_of_first);
            order.extend(from.iter().skip(1).chain(before).chain(from.first()));
        } else {
            order.extend(spans);
        }
        self.first_free(&order, |_| false)
            .or_else(|| self.longest_rested(spans, |_| false))
            .ok_or_else(|| self.exhausted(spans, now))
    }

    /// The first address of the spans, in their order, that nobody holds, that does not rest and is not reserved.
    fn first_free(&self, spans: &[Span], taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        spans.iter().find_map(|span| {
            let mut candidate = span.first();
            loop {
                let past_busy = self.busy.outside(span.family(), candidate)?;
                let past_reserved = self.reserved.outside(span.family(), past_busy)?;
                if past_reserved > span.last() {
                    return None;
                }
                if past_reserved == past_busy {
                    let address = span.address(past_busy);
                    if !taken(&address) {
                        return Some(address);
                    }
                    candidate = past_busy.checked_add(1)?;
                } else {
                    candidate = past_reserved;
                }
            }
        })
    }

    fn longest_rested(&self, spans: &[Span], taken: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.resting
            .oldest_first()
            .find(|ip| self.may_be_given(spans, *ip) && !taken(ip))
    }

    fn may_be_given(&self, spans: &[Span], address: IpAddr) -> bool {
        !self.reserved.contains(address) && spans.iter().any(|span| span.contains(address))
    }

    fn exhausted(&self, spans: &[Span], now: u64) -> Error {
        let held = |span: &Span| {
            let (first, last) = span.bounds();
            // A map holds at most usize::MAX entries, which fit.
            self.held.range(first..=last).count() as u128
        };
        Error::Exhausted {
            of: spans.iter().map(|span| self.name_of(*span)).collect(),
            held: spans.iter().map(held).sum(),
            reserved: spans.iter().map(|span| self.reserved_in(*span, now)).sum(),
        }
    }

    /// A span as people know it: the CIDR, where it is one of ours as a whole.
    fn name_of(&self, span: Span) -> String {
        let range = self.ranges.iter().find(|range| range.span() == span);
        range.map_or_else(|| span.to_string(), |range| range.cidr().to_string())
    }
}

fn of_family(set: &[Span], family: Family) -> bool {
    set.first().is_some_and(|span| span.family() == family)
}
