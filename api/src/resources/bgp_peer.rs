//! BGPPeer: which nodes peer with whom.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::node::is_usable_as;
use crate::crd::{AddPath, BGPPeer, BgpPeerSpec, NextHopMode, PeerAsNumber};
use crate::metadata::Subject;
use crate::{GoDuration, ParseError, Selector};

/// A BGPPeer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its name.
    pub name: String,
    /// `nodeSelector`, in Calico's selector language; absent became `all()`.
    pub node_selector: Selector,
    /// Whom to peer with.
    pub target: PeerTarget,
    /// `asNumber`.
    pub as_number: PeerAs,
    /// `sourceAddress`.
    pub source_address: Option<IpAddr>,
    /// `passive` (false): never dial.
    pub passive: bool,
    /// `holdTime` (90 s; 0 or at least 3 s).
    pub hold_time: Duration,
    /// `keepaliveTime` (a third of the hold time).
    pub keepalive_time: Option<Duration>,
    /// `maxPrefixes.limit` (100,000).
    pub max_prefixes: u32,
}

/// Whom a BGPPeer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTarget {
    /// `peerAddress`: `ip` or `ip:port`; the port is 179 if not given.
    Address(SocketAddr),
    /// `peerSelector`: other nodes.
    Nodes(Selector),
}

/// The AS a peer must be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAs {
    /// Exactly this one.
    Number(u32),
    /// Any but our own.
    External,
    /// Our own.
    Internal,
}

const BGP_PORT: u16 = 179;
const DEFAULT_HOLD_TIME: Duration = Duration::from_secs(90);
const DEFAULT_MAX_PREFIXES: u32 = 100_000;

impl TryFrom<BGPPeer> for BgpPeer {
    type Error = ParseError;

    fn try_from(peer: BGPPeer) -> Result<Self, ParseError> {
        let subject = Subject::cluster("BGPPeer", &peer.metadata)?;
        let name = subject.name().to_owned();
        read(name, peer.spec).map_err(|(field, why)| subject.error(format!("spec.{field} {why}")))
    }
}

/// A field and what is wrong with it.
type Wrong = (&'static str, String);

fn wrong<T>(field: &'static str, why: impl Into<String>) -> Result<T, Wrong> {
    Err((field, why.into()))
}

fn read(name: String, spec: BgpPeerSpec) -> Result<BgpPeer, Wrong> {
    if let Some(field) = unsupported(&spec) {
        return wrong(field, "is not supported yet");
    }
    let target = target(&spec)?;
    let (hold_time, keepalive_time) = timers(&spec)?;
    let max_prefixes = spec
        .max_prefixes
        .and_then(|max| max.limit)
        .unwrap_or(DEFAULT_MAX_PREFIXES);
    if max_prefixes == 0 {
        return wrong("maxPrefixes.limit", "is 0");
    }
    Ok(BgpPeer {
        name,
        node_selector: match &spec.node_selector {
            Some(text) => selector("nodeSelector", text)?,
            None => Selector::all(),
        },
        source_address: source_address(spec.source_address.as_deref(), &target)?,
        target,
        as_number: as_number(spec.as_number)?,
        passive: spec.passive.unwrap_or(false),
        hold_time,
        keepalive_time,
        max_prefixes,
    })
}

/// The first field that asks for what is not built yet. Graceful restart changes no session's
/// meaning, so it is accepted before it acts.
fn unsupported(spec: &BgpPeerSpec) -> Option<&'static str> {
    let max_prefixes = spec.max_prefixes.as_ref();
    let fields = [
        ("interface", spec.interface.is_some()),
        ("listenRange", spec.listen_range.is_some()),
        ("localASNumber", spec.local_as_number.is_some()),
        ("password", spec.password.is_some()),
        ("ttlSecurity", spec.ttl_security.is_some()),
        ("multihop", spec.multihop.is_some()),
        ("bfd", spec.bfd.is_some()),
        (
            "maxPrefixes.warnAt",
            max_prefixes.is_some_and(|max| max.warn_at.is_some()),
        ),
        (
            "maxPrefixes.restartAfter",
            max_prefixes.is_some_and(|max| max.restart_after.is_some()),
        ),
        (
            "filters",
            spec.filters
                .as_ref()
                .is_some_and(|filters| !filters.is_empty()),
        ),
        (
            "addPath",
            !matches!(spec.add_path, None | Some(AddPath::Disabled)),
        ),
        (
            "nextHopMode",
            !matches!(spec.next_hop_mode, None | Some(NextHopMode::Auto)),
        ),
        ("allowASIn", !matches!(spec.allow_as_in, None | Some(0))),
        (
            "routeReflectorClient",
            spec.route_reflector_client == Some(true),
        ),
    ];
    fields
        .into_iter()
        .find_map(|(field, asked_for)| asked_for.then_some(field))
}

fn target(spec: &BgpPeerSpec) -> Result<PeerTarget, Wrong> {
    match (&spec.peer_address, &spec.peer_selector) {
        (Some(text), None) => peer_address(text).map(PeerTarget::Address),
        (None, Some(text)) => selector("peerSelector", text).map(PeerTarget::Nodes),
        (None, None) => wrong("peerAddress", "or peerSelector must say whom to peer with"),
        (Some(_), Some(_)) => wrong("peerAddress", "and peerSelector exclude each other"),
    }
}

fn peer_address(text: &str) -> Result<SocketAddr, Wrong> {
    let address = match text.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, BGP_PORT),
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => return wrong("peerAddress", format!("{text:?} is not `ip` or `ip:port`")),
        },
    };
    let ip = address.ip();
    let broadcast = ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if ip.is_unspecified() || ip.is_multicast() || broadcast || address.port() == 0 {
        return wrong("peerAddress", format!("{text} is nobody's"));
    }
    if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return wrong(
            "peerAddress",
            "is link-local, which needs an interface: not supported yet",
        );
    }
    Ok(address)
}

fn source_address(text: Option<&str>, target: &PeerTarget) -> Result<Option<IpAddr>, Wrong> {
    let Some(text) = text else { return Ok(None) };
    let Ok(ip) = text.parse::<IpAddr>() else {
        return wrong("sourceAddress", format!("{text:?} is no address"));
    };
    if ip.is_unspecified() || ip.is_multicast() {
        return wrong("sourceAddress", format!("{text} is nobody's"));
    }
    match target {
        PeerTarget::Address(peer) if peer.is_ipv4() != ip.is_ipv4() => {
            wrong("sourceAddress", "is of another family than peerAddress")
        }
        PeerTarget::Address(_) | PeerTarget::Nodes(_) => Ok(Some(ip)),
    }
}

fn as_number(number: Option<PeerAsNumber>) -> Result<PeerAs, Wrong> {
    match number {
        Some(PeerAsNumber::Number(number)) if !is_usable_as(number) => {
            wrong("asNumber", format!("{number} is reserved"))
        }
        Some(PeerAsNumber::Number(number)) => Ok(PeerAs::Number(number)),
        Some(PeerAsNumber::External) => Ok(PeerAs::External),
        Some(PeerAsNumber::Internal) => Ok(PeerAs::Internal),
        None => wrong("asNumber", "is missing: a number, `external` or `internal`"),
    }
}

/// Hold time 0 (none) or 3 s to 65535 s, in whole seconds (RFC 4271 §4.2).
fn timers(spec: &BgpPeerSpec) -> Result<(Duration, Option<Duration>), Wrong> {
    let hold = spec
        .hold_time
        .map_or(DEFAULT_HOLD_TIME, |GoDuration(time)| time);
    if hold.subsec_nanos() != 0 || !matches!(hold.as_secs(), 0 | 3..=65_535) {
        return wrong("holdTime", "is not 0s or whole seconds from 3s to 65535s");
    }
    let keepalive = spec.keepalive_time.map(|GoDuration(time)| time);
    match keepalive {
        Some(time) if time.subsec_nanos() != 0 => wrong("keepaliveTime", "is not whole seconds"),
        Some(time) if !hold.is_zero() && (time.is_zero() || time >= hold) => {
            wrong("keepaliveTime", "is not between 1s and the hold time")
        }
        _ => Ok((hold, keepalive)),
    }
}

fn selector(field: &'static str, text: &str) -> Result<Selector, Wrong> {
    Selector::parse(text).map_err(|error| (field, error.to_string()))
}
