//! One configured peer: its session, its connections, what is known for its status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::rib::{ExportPolicy, ImportPolicy, PeerCounts, PeerId, PeerPolicy};
use bgp_proto::session::{self, Direction, Negotiated, PeerSession, SessionConfig};
use bgp_proto::wire::{Family, GracefulRestart, HEADER_LEN};
use bytes::Bytes;
use tokio::task::AbortHandle;

use crate::config::{PeerAs, PeerConfig, SpeakerConfig};
use crate::connection::Connection;
use crate::handle::{Forwarding, PeerStatus};

/// A peer as the speaker's task holds it.
pub(crate) struct Peer {
    pub(crate) name: Arc<str>,
    pub(crate) config: PeerConfig,
    pub(crate) session: PeerSession,
    pub(crate) rib_id: PeerId,
    pub(crate) outgoing: Option<Connection>,
    pub(crate) incoming: Option<Connection>,
    /// Accepted, but the peer has not said anything on it yet: the session learns of it when it does.
    pub(crate) unheard: Option<(Connection, Instant)>,
    pub(crate) dial: Option<(u64, AbortHandle)>,
    pub(crate) up: Option<Up>,
    /// When what is stale of it goes, whatever it has said by then.
    pub(crate) stale_until: Option<Instant>,
    /// When a session that was ended for too many prefixes is tried again.
    pub(crate) restart_at: Option<Instant>,
    /// It needs no more waiting for: End-of-RIB came, or none will.
    pub(crate) synced: bool,
    pub(crate) updates: (u64, u64),
    pub(crate) flaps: u64,
}

/// An Established session.
pub(crate) struct Up {
    pub(crate) negotiated: Negotiated,
    pub(crate) since: Instant,
    /// When the last UPDATE came.
    pub(crate) heard: Instant,
}

/// How long a peer that talks of Graceful Restart may be silent before its End-of-RIB is no longer waited for.
pub(crate) const END_OF_RIB_WAIT: Duration = Duration::from_secs(5);

/// The longest Restart Time the capability can say (RFC 4724 §3).
const LONGEST_RESTART_TIME: u64 = 4095;

impl Peer {
    pub(crate) fn new(
        name: &str,
        config: PeerConfig,
        session: SessionConfig,
        rib_id: PeerId,
        seed: u64,
    ) -> Self {
        Self {
            name: name.into(),
            config,
            session: PeerSession::new(session, seed),
            rib_id,
            outgoing: None,
            incoming: None,
            unheard: None,
            dial: None,
            up: None,
            stale_until: None,
            restart_at: None,
            synced: false,
            updates: (0, 0),
            flaps: 0,
        }
    }

    pub(crate) fn connection(&self, direction: Direction) -> Option<&Connection> {
        match direction {
            Direction::Outgoing => self.outgoing.as_ref(),
            Direction::Incoming => self.incoming.as_ref(),
        }
    }

    pub(crate) fn connection_mut(&mut self, direction: Direction) -> &mut Option<Connection> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }

    /// Which of the session's connections has this serial number.
    pub(crate) fn direction_of(&self, serial: u64) -> Option<Direction> {
        [Direction::Outgoing, Direction::Incoming]
            .into_iter()
            .find(|way| {
                self.connection(*way)
                    .is_some_and(|held| held.serial == serial)
            })
    }

    /// The connection that carries the Established session.
    pub(crate) fn carrier(&self) -> Option<(&Connection, &Negotiated)> {
        let negotiated = &self.up.as_ref()?.negotiated;
        Some((self.connection(negotiated.direction)?, negotiated))
    }

    /// When End-of-RIB is no longer waited for.
    pub(crate) fn silent_at(&self) -> Option<Instant> {
        self.up
            .as_ref()
            .filter(|_| !self.synced)
            .map(|up| up.heard + END_OF_RIB_WAIT)
    }

    pub(crate) fn status(&self, now: Instant, counts: PeerCounts) -> PeerStatus {
        let up = self.up.as_ref();
        let configured = match self.config.asn {
            PeerAs::Number(asn) => Some(asn),
            PeerAs::External | PeerAs::Internal => None,
        };
        PeerStatus {
            name: self.name.to_string(),
            address: self.config.address,
            asn: up.map(|up| up.negotiated.peer_as).or(configured),
            router_id: up.map(|up| up.negotiated.peer_id),
            state: self.session.state().name(),
            established_for: up.map(|up| now.saturating_duration_since(up.since)),
            hold_time: up.map(|up| up.negotiated.hold_time),
            prefixes_received: counts.accepted,
            prefixes_rejected: counts.rejected,
            prefixes_sent: counts.sent,
            updates: self.updates,
            last_down: self.session.last_down().map(str::to_owned),
            flaps: self.flaps,
        }
    }
}

/// The family a session with this peer carries: that of its address, until the next hop of the other can be said.
pub(crate) fn family(config: &PeerConfig) -> Family {
    if config.address.is_ipv4() {
        Family::IPV4_UNICAST
    } else {
        Family::IPV6_UNICAST
    }
}

pub(crate) fn session_config(
    speaker: &SpeakerConfig,
    config: &PeerConfig,
    graceful_restart: GracefulRestart,
) -> SessionConfig {
    let peer_as = match config.asn {
        PeerAs::Number(asn) => session::PeerAs::Number(asn),
        PeerAs::External => session::PeerAs::External,
        PeerAs::Internal => session::PeerAs::Internal,
    };
    SessionConfig {
        hold_time: config.hold_time,
        keepalive_time: config.keepalive_time,
        passive: config.passive,
        families: vec![family(config)],
        graceful_restart: Some(graceful_restart),
        ..SessionConfig::new(speaker.asn, speaker.router_id, peer_as)
    }
}

pub(crate) fn graceful_restart(
    speaker: &SpeakerConfig,
    config: &PeerConfig,
    forwarding: Forwarding,
    restarting: bool,
) -> GracefulRestart {
    let seconds = speaker.restart_time.as_secs().min(LONGEST_RESTART_TIME);
    GracefulRestart {
        restarting,
        notification: false,
        restart_time: u16::try_from(seconds).unwrap_or(u16::MAX),
        families: vec![(family(config), forwarding == Forwarding::Preserved)],
    }
}

pub(crate) fn policy(name: &str, config: &PeerConfig) -> PeerPolicy {
    PeerPolicy {
        name: name.into(),
        import: ImportPolicy {
            reject: config.import_reject.clone(),
            reject_default_route: true,
            ..ImportPolicy::default()
        },
        max_prefixes: config.max_prefixes,
        warn_at: None,
        export: ExportPolicy::default(),
        route_reflector_client: false,
    }
}

/// Whether two configurations differ only in what can change under a running session.
pub(crate) fn same_session(one: &PeerConfig, other: &PeerConfig) -> bool {
    let rules = |config: &PeerConfig| PeerConfig {
        import_reject: one.import_reject.clone(),
        max_prefixes: one.max_prefixes,
        ..config.clone()
    };
    rules(one) == rules(other)
}

/// How many messages a run of whole messages holds (RFC 4271 §4.1: the length is at octets 16 and 17).
pub(crate) fn messages_in(bytes: &Bytes) -> u64 {
    let (mut count, mut rest) = (0, &bytes[..]);
    while let Some(&[high, low]) = rest.get(16..18) {
        count += 1;
        let length = usize::from(u16::from_be_bytes([high, low])).max(HEADER_LEN);
        rest = rest.get(length..).unwrap_or_default();
    }
    count
}
