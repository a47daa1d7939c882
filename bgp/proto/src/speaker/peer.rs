//! One peer: its session, what is known of it, and how long what it announced outlives its session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::{PeerConfig, Restart, SpeakerConfig};
use super::events::{Endpoints, Gateway};
use crate::rib::{ExportPolicy, ImportPolicy, PeerId, PeerPolicy};
use crate::session::{AddPathOffer, Direction, Negotiated, PeerSession, SessionConfig};
use crate::wire::{Family, GracefulRestart, LongLivedFamily};

/// A peer as the speaker holds it.
pub(super) struct Peer {
    pub(super) name: Arc<str>,
    pub(super) config: PeerConfig,
    pub(super) session: PeerSession,
    pub(super) rib_id: PeerId,
    /// The range it came from, if it is nobody's by name.
    pub(super) range: Option<Arc<str>>,
    /// Of one from a range: how long its first connection is waited for.
    pub(super) unseen_until: Option<Instant>,
    outgoing: Option<Endpoints>,
    incoming: Option<Endpoints>,
    /// Where it was last reached.
    pub(super) address: Option<SocketAddr>,
    /// And as a gateway.
    pub(super) gateway: Option<Gateway>,
    pub(super) up: Option<Up>,
    /// When what is stale of a family goes, or becomes long-lived stale.
    pub(super) stale_until: BTreeMap<Family, Stale>,
    /// The session was ended for too many prefixes.
    pub(super) over_limit: bool,
    /// When it is tried again.
    pub(super) restart_at: Option<Instant>,
    /// Its first session of this run waits for BFD, and no longer than until `restart_at`.
    pub(super) awaits_bfd: bool,
    /// It needs no more waiting for: End-of-RIB came, or none will.
    pub(super) synced: bool,
    /// BFD told that its path is gone, and not yet that it is back.
    pub(super) gateway_down: Option<Gateway>,
    pub(super) bfd_up: Option<bool>,
    pub(super) bfd_up_at: Option<Instant>,
    /// BFD is said to be down, and when that is believed; with the C bit.
    pub(super) bfd_doubt: Option<(Instant, bool)>,
    pub(super) updates: (u64, u64),
    pub(super) flaps: u64,
    pub(super) last_down: Option<(Instant, String)>,
    /// The timer the speaker's index holds for it.
    pub(super) armed: Option<Instant>,
}

/// How long stale routes of a family stay, and what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) until: Instant,
    /// They stay that much longer as long-lived stale ones (RFC 9494 §4.2).
    pub(super) then_long_lived: Option<Duration>,
}

/// An Established session.
pub(super) struct Up {
    pub(super) negotiated: Negotiated,
    pub(super) since: Instant,
    /// When the last UPDATE came.
    pub(super) heard: Instant,
    /// Families whose End-of-RIB has not come yet.
    pub(super) awaited: Vec<Family>,
    pub(super) endpoints: Option<Endpoints>,
}

/// How long a peer that talks of Graceful Restart may be silent before its End-of-RIB is no longer waited for.
///
/// FRR 8.4 sends its routes and End-of-RIB about a second after Established.
pub(super) const END_OF_RIB_WAIT: Duration = Duration::from_secs(5);

/// How long a peer from a range may take from its connection to its first word.
pub(super) const UNSEEN_TIME: Duration = Duration::from_secs(60);

/// The longest Restart Time the capability can say (RFC 4724 §3).
const LONGEST_RESTART_TIME: u64 = 4095;
/// The longest Long-Lived Stale Time the capability can say (RFC 9494 §3.1).
const LONGEST_STALE_TIME: u64 = 0x00ff_ffff;

/// The families a session may carry.
pub(super) const FAMILIES: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

impl Peer {
    pub(super) fn new(
        name: Arc<str>,
        config: PeerConfig,
        session: SessionConfig,
        rib_id: PeerId,
        seed: u64,
    ) -> Self {
        Self {
            name,
            config,
            session: PeerSession::new(session, seed),
            rib_id,
            range: None,
            unseen_until: None,
            outgoing: None,
            incoming: None,
            address: None,
            gateway: None,
            up: None,
            stale_until: BTreeMap::new(),
            over_limit: false,
            restart_at: None,
            awaits_bfd: false,
            synced: false,
            gateway_down: None,
            bfd_up: None,
            bfd_up_at: None,
            bfd_doubt: None,
            updates: (0, 0),
            flaps: 0,
            last_down: None,
            armed: None,
        }
    }

    /// The connection that carries the Established session.
    pub(super) fn carrier(&self) -> Option<Direction> {
        Some(self.up.as_ref()?.negotiated.direction)
    }

    /// The two ends of one of its connections, while there is one.
    pub(super) fn endpoints(&mut self, direction: Direction) -> &mut Option<Endpoints> {
        match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        }
    }

    /// When End-of-RIB is no longer waited for.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.up
            .as_ref()
            .filter(|_| !self.synced)
            .map(|up| up.heard + END_OF_RIB_WAIT)
    }

    /// The earliest of its timers.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let stale = self.stale_until.values().map(|stale| stale.until).min();
        let doubt = self.bfd_doubt.map(|(at, _)| at);
        let own = [
            self.restart_at,
            stale,
            self.silent_at(),
            self.unseen_until,
            doubt,
        ];
        own.into_iter()
            .chain([self.session.poll_timeout()])
            .flatten()
            .min()
    }

    /// Nothing of it is left, so that a peer from a range can be forgotten.
    pub(super) fn is_over(&self) -> bool {
        self.up.is_none()
            && self.unseen_until.is_none()
            && self.stale_until.is_empty()
            && self.restart_at.is_none()
            && self.outgoing.is_none()
            && self.incoming.is_none()
    }
}

pub(super) fn session_config(
    speaker: &SpeakerConfig,
    config: &PeerConfig,
    restart: Restart,
    restarting: bool,
) -> SessionConfig {
    let families = FAMILIES.to_vec();
    let of = |wanted: bool| if wanted { families.clone() } else { Vec::new() };
    let local_as = config.local_as.unwrap_or(speaker.asn);
    SessionConfig {
        hold_time: config.hold_time,
        keepalive_time: config.keepalive_time,
        passive: config.passive,
        delay_open: config.delay_open,
        graceful_restart: graceful_restart(config, restart, restarting),
        long_lived: long_lived(config, restart),
        role: config.role,
        strict_role: config.strict_role,
        strict_bfd: config.bfd.is_some_and(|bfd| bfd.strict),
        extended_next_hop: true,
        add_path: AddPathOffer {
            receive: of(config.add_path.receive),
            send: of(config.add_path.send > 0),
        },
        families: families.clone(),
        ..SessionConfig::new(local_as, speaker.router_id, config.asn)
    }
}

/// The Graceful Restart capability: with Restart Time 0 it says that we help (RFC 4724 §3).
pub(super) fn graceful_restart(
    config: &PeerConfig,
    restart: Restart,
    restarting: bool,
) -> Option<GracefulRestart> {
    let wanted = config.graceful_restart?;
    let seconds = wanted.restart_time.as_secs().min(LONGEST_RESTART_TIME);
    let family = |family| (family, restart.forwarding_preserved);
    Some(GracefulRestart {
        restarting,
        notification: wanted.notification,
        restart_time: u16::try_from(seconds).unwrap_or(u16::MAX),
        families: FAMILIES.map(family).to_vec(),
    })
}

pub(super) fn long_lived(config: &PeerConfig, restart: Restart) -> Vec<LongLivedFamily> {
    let wanted = config
        .graceful_restart
        .map(|wanted| wanted.long_lived_stale_time);
    let seconds = wanted.unwrap_or_default().as_secs().min(LONGEST_STALE_TIME);
    if seconds == 0 {
        return Vec::new();
    }
    let family = |family| LongLivedFamily {
        family,
        forwarding: restart.forwarding_preserved,
        stale_time: u32::try_from(seconds).unwrap_or(u32::MAX),
    };
    FAMILIES.map(family).to_vec()
}

pub(super) fn policy(name: &Arc<str>, config: &PeerConfig) -> PeerPolicy {
    PeerPolicy {
        name: Arc::clone(name),
        import: ImportPolicy {
            filters: config.import.clone(),
            reject: config.import_reject.clone(),
            accept_inside: config.import_exceptions.clone(),
            reject_default_route: true,
            allow_own_as: config.allow_own_as,
            enforce_first_as: true,
        },
        export: ExportPolicy {
            filters: config.export.clone(),
            transit: config.transit,
            next_hop: config.next_hop,
            own_addresses: config.own_addresses.clone(),
            local_as: config.local_as,
            add_path: config.add_path.send.max(1),
            remove_private_as: false,
        },
        max_prefixes: config.max_prefixes.limit,
        warn_at: config.max_prefixes.warn_at,
        route_reflector_client: config.route_reflector_client,
    }
}
