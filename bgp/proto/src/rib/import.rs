//! Import: what may be used of what a peer announced. Nothing is thrown away: a changed rule judges again without a reset.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::attributes::{LLGR_STALE, neighbour_as};
use super::config::RibConfig;
use super::peers::{PeerInfo, PeerPolicy};
use crate::filter::{self, FilterChain, Subject};
use crate::wire::{PathAttributes, Role};

/// What is taken from a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportPolicy {
    /// They decide first.
    pub filters: FilterChain,
    /// From an external peer: prefixes equal to or inside these are rejected where no rule matched.
    pub reject: BTreeSet<IpNet>,
    /// Exactly these are taken although they are inside `reject`.
    pub accept_inside: BTreeSet<IpNet>,
    /// From an external peer: the default route is rejected where no rule matched.
    pub reject_default_route: bool,
    /// How often our own AS may be in AS_PATH.
    pub allow_own_as: u8,
    /// From an external peer: AS_PATH must begin with its AS (RFC 4271 §6.3).
    pub enforce_first_as: bool,
}

/// What becomes of an announced path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It takes part in the decision.
    Accepted,
    /// An import filter rejects it.
    Filtered,
    /// No filter is about it, and an external peer is not to announce such a prefix.
    SafeDefault,
    /// Our own AS is in its AS_PATH (RFC 4271 §9.1.2).
    AsLoop,
    /// We reflected it, or originated it (RFC 4456 §8).
    ReflectionLoop,
    /// Its next hop is ourselves or no host (RFC 4271 §5.1.3).
    NextHop,
    /// Its AS_PATH does not begin with the peer's AS (RFC 4271 §6.3).
    FirstAs,
    /// The peer's role does not allow it to announce this (RFC 9234 §5).
    RouteLeak,
}

impl Verdict {
    const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Filtered,
        Self::SafeDefault,
        Self::AsLoop,
        Self::ReflectionLoop,
        Self::NextHop,
        Self::FirstAs,
        Self::RouteLeak,
    ];

    pub(super) fn from_marks(marks: u16) -> Self {
        let place = usize::from(marks & super::paths::mark::VERDICT);
        Self::ALL.get(place).copied().unwrap_or(Self::Filtered)
    }

    pub(super) fn to_marks(self) -> u16 {
        self as u16
    }
}

/// The judge of one peer's paths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge<'a> {
    pub(super) config: &'a RibConfig,
    pub(super) info: &'a PeerInfo,
    pub(super) policy: &'a PeerPolicy,
}

/// What the judge said of one prefix.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    /// The rule that decided.
    pub(super) rule: Option<usize>,
    /// The attributes as a rule changed them.
    pub(super) changed: Option<PathAttributes>,
}

impl Judge<'_> {
    /// Why no path with these attributes is used, whatever its prefix.
    pub(super) fn unusable(&self, attributes: &PathAttributes) -> Option<Verdict> {
        let import = &self.policy.import;
        let own = |asn| asn == self.config.asn;
        let asns = attributes.as_path.iter().flat_map(|segment| &segment.asns);
        if asns.filter(|asn| own(**asn)).count() > usize::from(import.allow_own_as) {
            return Some(Verdict::AsLoop);
        }
        if attributes.originator_id == Some(self.config.router_id)
            || attributes.cluster_list.contains(&self.config.cluster_id)
        {
            return Some(Verdict::ReflectionLoop);
        }
        if self.points_nowhere(attributes) {
            return Some(Verdict::NextHop);
        }
        if self.info.external {
            let first = neighbour_as(&attributes.as_path);
            if import.enforce_first_as && first != Some(self.info.asn) {
                return Some(Verdict::FirstAs);
            }
            if self.leaks(attributes) {
                return Some(Verdict::RouteLeak);
            }
        }
        None
    }

    /// The attributes before any filter, if they are not as they came.
    pub(super) fn prepared(
        &self,
        attributes: &PathAttributes,
        long_lived: bool,
    ) -> Option<PathAttributes> {
        let external = self.info.external;
        // RFC 4271 §5.1.5: from an external peer it means nothing.
        let foreign_preference = external && attributes.local_pref.is_some();
        // RFC 9234 §5: what comes from above or aside may only go down from here.
        let mark_it = external
            && attributes.only_to_customer.is_none()
            && matches!(
                self.info.role,
                Some(Role::Customer | Role::Peer | Role::RouteServerClient)
            );
        let stale = long_lived && !attributes.communities.contains(&LLGR_STALE);
        if !(foreign_preference || mark_it || stale) {
            return None;
        }
        let mut prepared = attributes.clone();
        if foreign_preference {
            prepared.local_pref = None;
        }
        if mark_it {
            prepared.only_to_customer = Some(self.info.asn);
        }
        if stale {
            prepared.communities.push(LLGR_STALE);
        }
        Some(prepared)
    }

    /// Filters, then the safe defaults; `attributes` are prepared.
    pub(super) fn judge(&self, prefix: &IpNet, attributes: &PathAttributes) -> Judgement {
        let import = &self.policy.import;
        let judgement = |verdict| Judgement {
            verdict,
            rule: None,
            changed: None,
        };
        if import.filters.is_empty() {
            return judgement(self.by_default(prefix));
        }
        let outcome = import.filters.judge(&Subject {
            prefix: *prefix,
            attributes,
            originated: false,
            peer_external: self.info.external,
            own_as: self.config.asn,
        });
        let rule = outcome.rule;
        match outcome.verdict {
            filter::Verdict::NoMatch => judgement(self.by_default(prefix)),
            filter::Verdict::Reject => Judgement {
                rule,
                ..judgement(Verdict::Filtered)
            },
            filter::Verdict::Accept(attributes) => Judgement {
                verdict: Verdict::Accepted,
                rule,
                changed: match attributes {
                    std::borrow::Cow::Borrowed(_) => None,
                    std::borrow::Cow::Owned(changed) => Some(changed),
                },
            },
        }
    }

    /// The default for a prefix that no filter is about.
    pub(super) fn by_default(&self, prefix: &IpNet) -> Verdict {
        let import = &self.policy.import;
        if !self.info.external {
            return Verdict::Accepted;
        }
        let refused = prefix.prefix_len() == 0 && import.reject_default_route
            || import.reject.iter().any(|net| net.contains(prefix))
                && !import.accept_inside.contains(prefix);
        if refused {
            Verdict::SafeDefault
        } else {
            Verdict::Accepted
        }
    }

    fn points_nowhere(&self, attributes: &PathAttributes) -> bool {
        let hop = attributes.next_hop;
        let ours = self.info.local_link_local;
        hop == self.info.local_address
            || hop.is_unspecified()
            || hop.is_multicast()
            || ours.is_some() && attributes.link_local_next_hop == ours
    }

    /// RFC 9234 §5, ingress 1 and 2.
    fn leaks(&self, attributes: &PathAttributes) -> bool {
        match (self.info.role, attributes.only_to_customer) {
            (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
            (Some(Role::Peer), Some(asn)) => asn != self.info.asn,
            _ => false,
        }
    }
}
