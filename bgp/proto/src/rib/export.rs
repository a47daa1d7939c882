//! Export: which paths a peer is sent, and with what attributes (RFC 4271 §5.1, §9.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::attributes::{GRACEFUL_SHUTDOWN, LLGR_STALE};
use super::config::RibConfig;
use super::decision::DEFAULT_LOCAL_PREF;
use super::peers::{PeerInfo, PeerPolicy};
use super::store::is_link_local;
use crate::filter::{self, FilterChain, Subject};
use crate::wire::{AsPathSegment, Asn, Family, PathAttributes, Role, SegmentKind, WireContext};

/// What a peer is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPolicy {
    /// They decide first.
    pub filters: FilterChain,
    /// Where no filter is about it: also what was learned from others. Off unless asked for: a node is no transit.
    pub transit: bool,
    /// The next hop it is told.
    pub next_hop: NextHopMode,
    /// Addresses of ours: the next hop of a family that the session's own address cannot be one for.
    pub own_addresses: Vec<IpAddr>,
    /// To an external peer this AS stands before our own (RFC 7705 §3.3).
    pub local_as: Option<Asn>,
    /// How many paths of a prefix are sent where ADD-PATH is agreed on; the best only: 1.
    pub add_path: u8,
    /// To an external peer: private AS numbers are taken out of AS_PATH.
    pub remove_private_as: bool,
}

impl Default for ExportPolicy {
    fn default() -> Self {
        Self {
            filters: FilterChain::default(),
            transit: false,
            next_hop: NextHopMode::Auto,
            own_addresses: Vec::new(),
            local_as: None,
            add_path: 1,
            remove_private_as: false,
        }
    }
}

/// The next hop a peer is told (RFC 4271 §5.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NextHopMode {
    /// Ourselves to an external peer, the one we were told to an internal one.
    #[default]
    Auto,
    /// Ourselves; but for reflected routes, which are not touched (RFC 4456 §10).
    Own,
    /// The one we were told, if there is one.
    Keep,
}

/// Everything about a peer that what it is sent depends on: peers with equal keys share an update group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExportKey {
    asn: Asn,
    cluster_id: Ipv4Addr,
    pub(super) external: bool,
    local_address: IpAddr,
    local_link_local: Option<Ipv6Addr>,
    pub(super) context: WireContext,
    pub(super) policy: ExportPolicy,
    role: Option<Role>,
    client: bool,
    llgr_peer: bool,
    shutting_down: bool,
    /// The peer itself, if ADD-PATH is agreed on: it is told of paths one by one.
    pub(super) alone: Option<u16>,
}

/// Where a path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Originated here.
    Local,
    /// Learned.
    Peer {
        /// From another AS.
        external: bool,
        /// From a route reflector client.
        client: bool,
        /// Its BGP Identifier.
        router_id: Ipv4Addr,
    },
}

/// Why a peer is not sent a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The family is not spoken on this session.
    Family,
    /// No filter lets it through, and the peer is only sent what we originate.
    NoTransit,
    /// It came from an internal peer, and neither that one nor this one is a route reflector client (RFC 4456 §6).
    Internal,
    /// NO_EXPORT or NO_ADVERTISE (RFC 1997).
    Community,
    /// The export filter's rule at this place.
    Filter(usize),
    /// The peer's role (RFC 9234 §5).
    RouteLeak,
    /// Long-lived stale, and the peer knows nothing of that (RFC 9494 §4.5).
    LongLivedStale,
    /// There is no next hop that the session can carry.
    NextHop,
    /// It came from this peer.
    FromThere,
    /// Output of learned routes is held until the restart is over (RFC 4724 §4.1).
    Held,
    /// The session is not up.
    Down,
}

const NO_EXPORT: u32 = 0xFFFF_FF01;
const NO_ADVERTISE: u32 = 0xFFFF_FF02;
const NO_EXPORT_SUBCONFED: u32 = 0xFFFF_FF03;

/// RFC 4271 §4.3: a segment's length is one octet.
const LONGEST_SEGMENT: usize = 255;

impl ExportKey {
    pub(super) fn new(
        config: &RibConfig,
        (index, info, policy): (u16, &PeerInfo, &PeerPolicy),
        shutting_down: bool,
    ) -> Self {
        let several = !info.context.add_path_send.is_empty();
        Self {
            asn: config.asn,
            cluster_id: config.cluster_id,
            external: info.external,
            local_address: info.local_address,
            local_link_local: info.local_link_local,
            context: WireContext {
                add_path_receive: Vec::new(),
                enhanced_route_refresh: false,
                ..info.context.clone()
            },
            policy: policy.export.clone(),
            role: info.role,
            client: policy.route_reflector_client,
            llgr_peer: info.llgr_peer,
            shutting_down,
            alone: several.then_some(index),
        }
    }

    /// Paths sent of each prefix of a family.
    pub(super) fn paths(&self, family: Family) -> usize {
        if self.context.add_path_send.contains(&family) {
            usize::from(self.policy.add_path.max(1))
        } else {
            1
        }
    }

    /// Whether equal attributes of one source are sent alike, whatever the prefix.
    pub(super) fn is_blind_to_prefixes(&self) -> bool {
        self.policy.filters.is_empty()
    }

    /// What a peer of the group is sent of a path.
    pub(super) fn exported(
        &self,
        source: Source,
        prefix: &IpNet,
        attributes: PathAttributes,
    ) -> Result<PathAttributes, Refusal> {
        if !self.context.families.contains(&family(prefix)) {
            return Err(Refusal::Family);
        }
        self.allowed(source, &attributes)?;
        let told = attributes.next_hop;
        let mut out = attributes;
        if self.external && source != Source::Local {
            // RFC 4271 §5.1.4: another neighbour's; what a filter sets is ours.
            out.med = None;
        }
        if self.external {
            out.local_pref = None;
        }
        let mut out = self.filtered(source, prefix, out)?;
        (out.next_hop, out.link_local_next_hop) = self
            .next_hop(source, prefix, told)
            .ok_or(Refusal::NextHop)?;
        if self.external {
            self.make_external(&mut out);
        } else {
            self.make_internal(source, &mut out);
        }
        if self.shutting_down && !out.communities.contains(&GRACEFUL_SHUTDOWN) {
            out.communities.push(GRACEFUL_SHUTDOWN);
        }
        Ok(out)
    }

    /// What no filter can change.
    fn allowed(&self, source: Source, attributes: &PathAttributes) -> Result<(), Refusal> {
        if let Source::Peer {
            external, client, ..
        } = source
            && !external
            && !self.external
            && !client
            && !self.client
        {
            return Err(Refusal::Internal);
        }
        let communities = &attributes.communities;
        if !communities_allow(communities, self.external) {
            return Err(Refusal::Community);
        }
        if communities.contains(&LLGR_STALE) && !self.llgr_peer {
            return Err(Refusal::LongLivedStale);
        }
        let upwards = matches!(
            self.role,
            Some(Role::Customer | Role::Peer | Role::RouteServerClient)
        );
        if self.external && upwards && attributes.only_to_customer.is_some() {
            return Err(Refusal::RouteLeak);
        }
        Ok(())
    }

    fn filtered(
        &self,
        source: Source,
        prefix: &IpNet,
        attributes: PathAttributes,
    ) -> Result<PathAttributes, Refusal> {
        if self.policy.filters.is_empty() {
            let goes = self.goes_by_default(source);
            return if goes {
                Ok(attributes)
            } else {
                Err(Refusal::NoTransit)
            };
        }
        let outcome = self.policy.filters.judge(&Subject {
            prefix: *prefix,
            attributes: &attributes,
            originated: source == Source::Local,
            peer_external: self.external,
            own_as: self.asn,
        });
        let rule = outcome.rule.unwrap_or_default();
        match outcome.verdict {
            filter::Verdict::Reject => Err(Refusal::Filter(rule)),
            filter::Verdict::Accept(std::borrow::Cow::Owned(changed)) => Ok(changed),
            filter::Verdict::Accept(std::borrow::Cow::Borrowed(_)) => Ok(attributes),
            filter::Verdict::NoMatch if self.goes_by_default(source) => Ok(attributes),
            filter::Verdict::NoMatch => Err(Refusal::NoTransit),
        }
    }

    /// Where no filter is about it: our own; with transit everything; and what reflectors are for.
    fn goes_by_default(&self, source: Source) -> bool {
        match source {
            Source::Local => true,
            Source::Peer { client, .. } => {
                self.policy.transit || !self.external && (self.client || client)
            }
        }
    }

    fn make_external(&self, out: &mut PathAttributes) {
        out.local_pref = None;
        out.originator_id = None;
        out.cluster_list.clear();
        // RFC 5065 §4.1: they never leave the confederation.
        out.as_path
            .retain(|segment| matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set));
        if self.policy.remove_private_as {
            for segment in &mut out.as_path {
                segment.asns.retain(|asn| !is_private(*asn));
            }
            out.as_path.retain(|segment| !segment.asns.is_empty());
        }
        prepend(&mut out.as_path, self.asn);
        if let Some(local_as) = self.policy.local_as {
            prepend(&mut out.as_path, local_as);
        }
        let downwards = matches!(
            self.role,
            Some(Role::Provider | Role::Peer | Role::RouteServer)
        );
        if downwards && out.only_to_customer.is_none() {
            out.only_to_customer = Some(self.policy.local_as.unwrap_or(self.asn));
        }
    }

    fn make_internal(&self, source: Source, out: &mut PathAttributes) {
        // RFC 8326 §4: whoever is about to go is the last choice of everyone here.
        let going = self.shutting_down || out.communities.contains(&GRACEFUL_SHUTDOWN);
        out.local_pref = Some(if going {
            0
        } else {
            out.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
        });
        if let Source::Peer {
            external: false,
            router_id,
            ..
        } = source
        {
            out.originator_id.get_or_insert(router_id);
            out.cluster_list.insert(0, self.cluster_id);
        }
    }

    fn next_hop(
        &self,
        source: Source,
        prefix: &IpNet,
        told: IpAddr,
    ) -> Option<(IpAddr, Option<Ipv6Addr>)> {
        let keeps = match (source, self.policy.next_hop) {
            (Source::Local, _) => false,
            (
                Source::Peer {
                    external: false, ..
                },
                _,
            ) if !self.external => true,
            (_, NextHopMode::Auto) => !self.external,
            (_, NextHopMode::Own) => false,
            (_, NextHopMode::Keep) => true,
        };
        // A link-local address means nothing on another link (RFC 2545 §3).
        if keeps && self.carries(prefix, told) && !is_link_local(&told) {
            return Some((told, None));
        }
        let own = self.local_address;
        if self.carries(prefix, own) {
            return Some((own, self.local_link_local.filter(|_| own.is_ipv6())));
        }
        let others = self.policy.own_addresses.iter();
        let other = others
            .copied()
            .find(|own| self.carries(prefix, *own) && !is_link_local(own))?;
        Some((other, None))
    }

    /// Whether a next hop of this kind can be told for this prefix: IPv6 for IPv4 only by RFC 8950.
    fn carries(&self, prefix: &IpNet, hop: IpAddr) -> bool {
        match (prefix, hop) {
            (IpNet::V4(_), IpAddr::V4(_)) | (IpNet::V6(_), IpAddr::V6(_)) => true,
            (IpNet::V4(_), IpAddr::V6(_)) => self
                .context
                .extended_next_hop
                .contains(&Family::IPV4_UNICAST),
            (IpNet::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The family a prefix belongs to.
pub(super) fn family(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::IPV4_UNICAST,
        IpNet::V6(_) => Family::IPV6_UNICAST,
    }
}

/// RFC 6996 §5.
fn is_private(asn: Asn) -> bool {
    matches!(asn.0, 64_512..=65_534 | 4_200_000_000..=4_294_967_294)
}

/// RFC 1997 §3 "Well-known Communities".
fn communities_allow(communities: &[u32], to_external: bool) -> bool {
    !communities.iter().any(|&community| match community {
        NO_ADVERTISE => true,
        NO_EXPORT | NO_EXPORT_SUBCONFED => to_external,
        _ => false,
    })
}

/// RFC 4271 §5.1.2 b.
fn prepend(path: &mut Vec<AsPathSegment>, asn: Asn) {
    match path.first_mut() {
        Some(first)
            if first.kind == SegmentKind::Sequence && first.asns.len() < LONGEST_SEGMENT =>
        {
            first.asns.insert(0, asn);
        }
        _ => path.insert(
            0,
            AsPathSegment {
                kind: SegmentKind::Sequence,
                asns: vec![asn],
            },
        ),
    }
}

#[cfg(test)]
#[path = "tests/export.rs"]
mod tests;
