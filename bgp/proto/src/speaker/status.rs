//! A session as people are shown it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Speaker;
use super::peer::Peer;
use ipnet::IpNet;

use crate::rib::{Explanation, PeerCounts, RouteView, Verdict};
use crate::session::{Negotiated, State};
use crate::wire::{Asn, Nlri, PathAttributes};

/// A route as a peer announced it, and what import made of it.
pub type Received = (Nlri, Arc<PathAttributes>, Verdict);
/// A route as a peer is told it.
pub type Advertised = (Nlri, Arc<PathAttributes>);

/// A peer and its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's name in the configuration; `RANGE/ADDRESS` for one that came from a range.
    pub name: String,
    /// Where it was last reached.
    pub address: Option<SocketAddr>,
    /// Our end of its connection.
    pub local_address: Option<IpAddr>,
    /// Its AS as it said in its OPEN.
    pub asn: Option<Asn>,
    /// Its BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
    /// The state of RFC 4271 §8.2.2.
    pub state: State,
    /// For how long it has been Established.
    pub established_for: Option<Duration>,
    /// What the OPENs agreed on, while Established.
    pub negotiated: Option<Negotiated>,
    /// For how long it keeps our routes after it has given us up for silent, because that may be a restart (RFC 8538 §4): the
    /// Restart Time that we asked for, where both sides take it so; while Established.
    pub kept_when_silent: Duration,
    /// Prefixes announced either way.
    pub counts: PeerCounts,
    /// UPDATEs received and sent.
    pub updates: (u64, u64),
    /// Why the last connection or try ended, and how long ago that was if it was a session.
    pub last_down: Option<(String, Option<Duration>)>,
    /// How often it went from Established to down.
    pub flaps: u64,
    /// Whether BFD says that the path is there; `None`: nobody wants it. One that is wanted and has not come up yet, or that the peer
    /// stopped on purpose, is not there.
    pub bfd_up: Option<bool>,
    /// How long stale routes of its last session stay at most.
    pub stale_for: Option<Duration>,
    /// The bound on prefixes of each family.
    pub max_prefixes: u32,
    /// When it is tried again after too many prefixes.
    pub held_down_for: Option<Duration>,
    /// It is shut down by configuration.
    pub shut_down: bool,
}

impl Speaker {
    /// Every peer, by name.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<PeerStatus> {
        self.peers
            .values()
            .map(|peer| status(peer, now, self.rib.counts(peer.rib_id)))
            .collect()
    }
}

fn status(peer: &Peer, now: Instant, counts: PeerCounts) -> PeerStatus {
    let up = peer.up.as_ref();
    let left = |at: Instant| at.saturating_duration_since(now);
    let ago = |at: Instant| now.saturating_duration_since(at);
    let session = peer.session.last_down().map(str::to_owned);
    let ended = peer.last_down.as_ref();
    PeerStatus {
        name: peer.name.to_string(),
        address: peer.address,
        local_address: up.and_then(|up| Some(up.endpoints?.local.ip())),
        asn: up.map(|up| up.negotiated.peer_as),
        router_id: up.map(|up| up.negotiated.peer_id),
        state: peer.session.state(),
        established_for: up.map(|up| now.saturating_duration_since(up.since)),
        negotiated: up.map(|up| up.negotiated.clone()),
        kept_when_silent: peer
            .config
            .graceful_restart
            .filter(|_| up.is_some_and(|up| up.negotiated.notification_gr))
            .map(|ours| ours.restart_time)
            .unwrap_or_default(),
        counts,
        updates: peer.updates,
        last_down: match (session, ended) {
            (Some(why), Some((at, reason))) if why == *reason => Some((why, Some(ago(*at)))),
            (Some(why), _) => Some((why, None)),
            (None, ended) => ended.map(|(at, why)| (why.clone(), Some(ago(*at)))),
        },
        flaps: peer.flaps,
        bfd_up: peer.bfd_up.or(peer.config.bfd.map(|_| false)),
        stale_for: peer
            .stale_until
            .values()
            .map(|stale| left(stale.until))
            .max(),
        max_prefixes: peer.config.max_prefixes.limit,
        held_down_for: peer.restart_at.map(left),
        shut_down: peer.config.shutdown.is_some(),
    }
}

impl Speaker {
    /// At most `limit` routes equal to or inside `within`, in order, each with all its paths.
    pub fn routes(&mut self, within: Option<IpNet>, limit: usize) -> Vec<RouteView> {
        self.rib.routes(within, limit)
    }

    /// At most `limit` routes a peer announced, in order; `None`: there is no such peer.
    pub fn received(&mut self, peer: &str, limit: usize) -> Option<Vec<Received>> {
        let id = self.peers.get(peer)?.rib_id;
        Some(self.rib.received(id, limit))
    }

    /// At most `limit` routes a peer is told, in order; `None`: there is no such peer.
    pub fn advertised(&mut self, peer: &str, limit: usize) -> Option<Vec<Advertised>> {
        let id = self.peers.get(peer)?.rib_id;
        Some(self.rib.advertised(id, limit))
    }

    /// Why the best path to a prefix won, and why others did not.
    pub fn explain(&mut self, prefix: IpNet) -> Explanation {
        self.rib.explain(prefix)
    }
}
