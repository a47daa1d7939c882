//! BGPPeer: which nodes peer with whom, and how.

mod session;
mod target;

use std::net::IpAddr;
use std::time::Duration;

use super::{GracefulRestart, graceful_restart};
use crate::crd::{AddPath, BGPPeer, BgpPeerSpec, NextHopMode, Role};
use crate::metadata::{Subject, is_dns_subdomain};
use crate::{ParseError, Selector};

pub use session::{Bfd, Hops, MaxPrefixes, PasswordRef};
pub use target::{PeerAs, PeerTarget};

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
    /// `localASNumber` (RFC 7705): never with `internal`, never the peer's own.
    pub local_as: Option<u32>,
    /// `sourceAddress`.
    pub source_address: Option<IpAddr>,
    /// `passive` (false): never dial. True for a range.
    pub passive: bool,
    /// `password.secretKeyRef`.
    pub password: Option<PasswordRef>,
    /// `multihop` or `ttlSecurity`.
    pub hops: Hops,
    /// `holdTime` (90 s; 0 or at least 3 s).
    pub hold_time: Duration,
    /// `keepaliveTime` (a third of the hold time).
    pub keepalive_time: Option<Duration>,
    /// `delayOpen` (RFC 4271 §8.1.1, DelayOpenTime).
    pub delay_open: Option<Duration>,
    /// `bfd`.
    pub bfd: Option<Bfd>,
    /// `gracefulRestart`; what is absent is as the BGPConfiguration says.
    pub graceful_restart: GracefulRestart,
    /// `maxPrefixes`, of each address family.
    pub max_prefixes: MaxPrefixes,
    /// `filters`: names of BGPFilters, each once; the first match wins.
    pub filters: Vec<String>,
    /// `addPath` (neither way).
    pub add_path: AddPaths,
    /// `nextHopMode` (Auto).
    pub next_hop_mode: NextHopMode,
    /// `allowASIn` (0): how often our own AS may stand in a path we accept.
    pub allow_own_as: u8,
    /// `routeReflectorClient` (false).
    pub route_reflector_client: bool,
    /// `role`: ours (RFC 9234).
    pub role: Option<Role>,
    /// `strictRole` (false): refuse a peer that tells none.
    pub strict_role: bool,
    /// `adminShutdown` (false): keep the session down.
    pub admin_shutdown: bool,
    /// `shutdownMessage` (RFC 9003): what a peer is told when its session is shut down.
    pub shutdown_message: Option<String>,
}

/// Which way several paths of a prefix go (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPaths {
    /// We take several.
    pub receive: bool,
    /// We send several.
    pub send: bool,
}

const DEFAULT_HOLD_TIME: Duration = Duration::from_secs(90);
const MAX_FILTERS: usize = 64;
const MAX_OWN_AS: u8 = 10;

/// RFC 9003 §2: the length is one octet.
const MAX_SHUTDOWN_MESSAGE: usize = 255;

impl BgpPeer {
    /// A peer of every node that says nothing but this.
    #[must_use]
    pub fn new(name: impl Into<String>, target: PeerTarget, as_number: PeerAs) -> Self {
        Self {
            name: name.into(),
            node_selector: Selector::all(),
            passive: matches!(target, PeerTarget::Range(_)),
            target,
            as_number,
            local_as: None,
            source_address: None,
            password: None,
            hops: Hops::default(),
            hold_time: DEFAULT_HOLD_TIME,
            keepalive_time: None,
            delay_open: None,
            bfd: None,
            graceful_restart: GracefulRestart::default(),
            max_prefixes: MaxPrefixes::default(),
            filters: Vec::new(),
            add_path: AddPaths::default(),
            next_hop_mode: NextHopMode::default(),
            allow_own_as: 0,
            route_reflector_client: false,
            role: None,
            strict_role: false,
            admin_shutdown: false,
            shutdown_message: None,
        }
    }
}

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
    let target = target::read(&spec)?;
    let as_number = target::as_number(spec.as_number, &target)?;
    let (hold_time, keepalive_time) = session::timers(&spec)?;
    let hops = session::hops(&spec, &target)?;
    check_sides(&spec, as_number)?;
    Ok(BgpPeer {
        node_selector: match &spec.node_selector {
            Some(text) => target::selector("nodeSelector", text)?,
            None => Selector::all(),
        },
        local_as: target::local_as(spec.local_as_number, as_number)?,
        source_address: target::source_address(spec.source_address.as_deref(), &target)?,
        passive: passive(spec.passive, &target)?,
        password: spec.password.map(session::password).transpose()?,
        hops,
        hold_time,
        keepalive_time,
        delay_open: session::delay_open(spec.delay_open)?,
        bfd: spec.bfd.map(|bfd| session::bfd(&bfd, hops)).transpose()?,
        graceful_restart: graceful_restart::read(spec.graceful_restart)?,
        max_prefixes: session::max_prefixes(spec.max_prefixes)?,
        filters: filters(spec.filters.unwrap_or_default())?,
        add_path: AddPaths {
            receive: matches!(spec.add_path, Some(AddPath::Receive | AddPath::Both)),
            send: matches!(spec.add_path, Some(AddPath::Send | AddPath::Both)),
        },
        next_hop_mode: spec.next_hop_mode.unwrap_or_default(),
        allow_own_as: match spec.allow_as_in {
            Some(times) if times > MAX_OWN_AS => {
                return wrong("allowASIn", format!("is more than {MAX_OWN_AS}"));
            }
            times => times.unwrap_or(0),
        },
        route_reflector_client: spec.route_reflector_client.unwrap_or(false),
        role: spec.role,
        strict_role: spec.strict_role.unwrap_or(false),
        admin_shutdown: spec.admin_shutdown.unwrap_or(false),
        shutdown_message: shutdown_message(spec.shutdown_message)?,
        name,
        target,
        as_number,
    })
}

/// What only a peer in our own AS, and what only one in another, can be.
fn check_sides(spec: &BgpPeerSpec, as_number: PeerAs) -> Result<(), Wrong> {
    let client = spec.route_reflector_client == Some(true);
    if client && as_number == PeerAs::External {
        return wrong(
            "routeReflectorClient",
            "is for a peer in our own AS: asNumber cannot be external",
        );
    }
    if spec.role.is_some() && (client || as_number == PeerAs::Internal) {
        return wrong(
            "role",
            "is for a peer in another AS: it excludes asNumber internal and routeReflectorClient",
        );
    }
    if spec.strict_role == Some(true) && spec.role.is_none() {
        return wrong("strictRole", "needs a role");
    }
    Ok(())
}

fn passive(written: Option<bool>, target: &PeerTarget) -> Result<bool, Wrong> {
    match (target, written) {
        (PeerTarget::Range(_), Some(false)) => wrong(
            "passive",
            "cannot be false with a listenRange: its peers dial us; leave it out",
        ),
        (PeerTarget::Range(_), _) => Ok(true),
        (_, written) => Ok(written.unwrap_or(false)),
    }
}

fn filters(names: Vec<String>) -> Result<Vec<String>, Wrong> {
    if names.len() > MAX_FILTERS {
        return wrong("filters", format!("has more than {MAX_FILTERS} names"));
    }
    for (index, name) in names.iter().enumerate() {
        if !is_dns_subdomain(name) {
            return wrong("filters", format!("has {name:?}, which names no BGPFilter"));
        }
        if names.iter().take(index).any(|other| other == name) {
            return wrong(
                "filters",
                format!("names {name} twice: the second never decides"),
            );
        }
    }
    Ok(names)
}

fn shutdown_message(text: Option<String>) -> Result<Option<String>, Wrong> {
    let text = text.filter(|text| !text.is_empty());
    match &text {
        Some(text) if text.len() > MAX_SHUTDOWN_MESSAGE => wrong(
            "shutdownMessage",
            format!("has more than {MAX_SHUTDOWN_MESSAGE} octets"),
        ),
        Some(text) if text.chars().any(char::is_control) => {
            wrong("shutdownMessage", "is not one line of plain text")
        }
        _ => Ok(text),
    }
}
