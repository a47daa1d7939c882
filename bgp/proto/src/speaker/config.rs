//! What a speaker is told to be: the whole desired configuration, applied as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::filter::FilterChain;
use crate::rib::{Multipath, NextHopMode, Originated};
use crate::session::PeerAs;
use crate::wire::{Asn, Role};

/// The desired state of a speaker. Applying it again changes nothing; what a change does not concern is untouched.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who we are.
    pub speaker: SpeakerConfig,
    /// Peers by name.
    pub peers: BTreeMap<String, PeerConfig>,
    /// Peers that are whoever dials from a range, by name.
    pub ranges: BTreeMap<String, RangeConfig>,
    /// What this node originates: its Pod CIDRs and service addresses.
    pub originate: BTreeMap<IpNet, Originated>,
    /// The node is about to leave: all that is sent bears GRACEFUL_SHUTDOWN (RFC 8326).
    pub draining: bool,
}

/// Who we are. A change of the AS or the BGP Identifier ends every session and forgets every route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// CLUSTER_ID of a route reflector (RFC 4456 §7); usually the BGP Identifier.
    pub cluster_id: Ipv4Addr,
    /// Which equally good paths are used together.
    pub multipath: Multipath,
}

/// Graceful restart towards one peer (RFC 4724, RFC 8538, RFC 9494).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestartConfig {
    /// The Restart Time we ask for; zero: we only help others.
    pub restart_time: Duration,
    /// The Long-Lived Stale Time we ask for, and the longest we grant; zero: none.
    pub long_lived_stale_time: Duration,
    /// The N bit (RFC 8538 §2): where both set it, a session that ends by a NOTIFICATION or in silence is taken for a
    /// restart, too: one that is dead is waited for.
    pub notification: bool,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// The AS the peer must show.
    pub asn: PeerAs,
    /// The AS we show it, if not our own (RFC 7705).
    pub local_as: Option<Asn>,
    /// Never dial.
    pub passive: bool,
    /// HoldTime to propose: zero, or 3 s and more.
    pub hold_time: Duration,
    /// KeepaliveTime; `None`: a third of the negotiated HoldTime.
    pub keepalive_time: Option<Duration>,
    /// How long an OPEN waits for the peer's (DelayOpenTime, RFC 4271 §8.1.3).
    pub delay_open: Option<Duration>,
    /// `None`: the capability is not sent, and nothing of this peer is kept when it goes.
    pub graceful_restart: Option<GracefulRestartConfig>,
    /// How many prefixes of each family it may send.
    pub max_prefixes: MaxPrefixes,
    /// Our role towards an external peer (RFC 9234).
    pub role: Option<Role>,
    /// A peer without the Role capability is refused.
    pub strict_role: bool,
    /// The Shutdown Communication (RFC 9003) with which the session is held down; `None`: it may be up.
    pub shutdown: Option<String>,
    /// Liveness by BFD.
    pub bfd: Option<Bfd>,
    /// It is our client as route reflector (RFC 4456).
    pub route_reflector_client: bool,
    /// Several paths a prefix (RFC 7911).
    pub add_path: AddPath,
    /// Rules for what it announces; the first match wins, then the safe defaults hold.
    pub import: FilterChain,
    /// Rules for what it is sent; without a match it is sent what this node originates.
    pub export: FilterChain,
    /// Without a matching rule, also what was learned from others goes out.
    pub transit: bool,
    /// From an external peer: prefixes equal to or inside these are not taken unless a rule accepts them.
    pub import_reject: BTreeSet<IpNet>,
    /// Exactly these are taken although they are inside `import_reject`.
    pub import_exceptions: BTreeSet<IpNet>,
    /// Which next hop it is told.
    pub next_hop: NextHopMode,
    /// How often our own AS may stand in a path we accept.
    pub allow_own_as: u8,
    /// Our addresses: next hops for the family that the session's own address is not of.
    pub own_addresses: Vec<IpAddr>,
}

impl PeerConfig {
    /// A peer with defaults for everything else.
    #[must_use]
    pub fn new(asn: PeerAs) -> Self {
        Self {
            asn,
            local_as: None,
            passive: false,
            hold_time: Duration::from_secs(90),
            keepalive_time: None,
            delay_open: None,
            graceful_restart: Some(GracefulRestartConfig {
                restart_time: Duration::from_secs(120),
                long_lived_stale_time: Duration::ZERO,
                notification: true,
            }),
            max_prefixes: MaxPrefixes::default(),
            role: None,
            strict_role: false,
            shutdown: None,
            bfd: None,
            route_reflector_client: false,
            add_path: AddPath::default(),
            import: FilterChain::default(),
            export: FilterChain::default(),
            transit: false,
            import_reject: BTreeSet::new(),
            import_exceptions: BTreeSet::new(),
            next_hop: NextHopMode::Auto,
            allow_own_as: 0,
            own_addresses: Vec::new(),
        }
    }

    /// Whether two configurations differ only in what can change under a running session.
    pub(super) fn same_session(&self, other: &Self) -> bool {
        let settled = |config: &Self| Self {
            graceful_restart: self.graceful_restart,
            max_prefixes: self.max_prefixes,
            shutdown: self.shutdown.clone(),
            bfd: self.bfd.map(|bfd| Bfd { strict: bfd.strict }),
            route_reflector_client: self.route_reflector_client,
            import: self.import.clone(),
            export: self.export.clone(),
            transit: self.transit,
            import_reject: self.import_reject.clone(),
            import_exceptions: self.import_exceptions.clone(),
            next_hop: self.next_hop,
            allow_own_as: self.allow_own_as,
            ..config.clone()
        };
        settled(self) == settled(other)
            && self.bfd.is_some_and(|bfd| bfd.strict) == other.bfd.is_some_and(|bfd| bfd.strict)
    }
}

/// How many prefixes of each family a peer may send, accepted or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPrefixes {
    /// More than these end the session (Cease, 1).
    pub limit: u32,
    /// So many are warned of.
    pub warn_at: Option<u32>,
    /// How long after that end the session may come back; `None`: when its configuration changes.
    pub restart_after: Option<Duration>,
}

impl Default for MaxPrefixes {
    fn default() -> Self {
        Self {
            limit: 100_000,
            warn_at: Some(75_000),
            restart_after: Some(Duration::from_secs(300)),
        }
    }
}

/// What BFD means for the session (RFC 5882); its timers are the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// The session waits for BFD to be up (draft-ietf-idr-bgp-bfd-strict-mode).
    pub strict: bool,
}

/// Several paths a prefix (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// We take several.
    pub receive: bool,
    /// How many we send; 0: the capability is not offered for sending.
    pub send: u8,
}

/// Peers that are whoever dials from a range.
#[derive(Clone, Debug, PartialEq)]
pub struct RangeConfig {
    /// The range; of several the longest that holds an address counts.
    pub range: IpNet,
    /// How many peers it may have at once.
    pub limit: usize,
    /// What each is to be.
    pub peer: PeerConfig,
}

impl RangeConfig {
    /// A peer of the range: it dials, whatever its configuration says.
    pub(super) fn one_of_it(&self) -> PeerConfig {
        PeerConfig {
            passive: true,
            ..self.peer.clone()
        }
    }
}

/// What is known of an earlier run when a speaker starts (RFC 4724 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The kernel still forwards by what the earlier run installed: the F bit of our OPENs.
    pub forwarding_preserved: bool,
    /// The longest wait for peers that do not come.
    pub wait: Duration,
}
