//! The OPEN we send: which capabilities follow from the configuration.

use super::config::{AddPathOffer, PeerAs, SessionConfig};
use crate::wire::{AddPathMode, Capability, Family, GracefulRestart, Open};

/// The BGP BFD Strict-Mode capability (draft-ietf-idr-bgp-bfd-strict-mode §3), which has no value.
const STRICT_BFD: u8 = 74;
/// The AFI of the next hops offered by RFC 8950.
pub(super) const AFI_IPV6: u16 = 2;

/// Our OPEN; `plain` leaves the capabilities out, for a peer that refused them (RFC 5492 §3).
pub(super) fn build(config: &SessionConfig, plain: bool) -> Open {
    let hold_time = match u16::try_from(config.hold_time.as_secs()).unwrap_or(u16::MAX) {
        0 if config.hold_time.is_zero() => 0,
        seconds => seconds.max(3),
    };
    Open {
        asn: config.local_as,
        hold_time,
        bgp_id: config.router_id,
        capabilities: if plain {
            Vec::new()
        } else {
            capabilities(config)
        },
    }
}

/// The one that says that we hold the session back until BFD is up.
pub(super) fn strict_bfd() -> Capability {
    Capability::Unknown {
        code: STRICT_BFD,
        value: bytes::Bytes::new(),
    }
}

fn capabilities(config: &SessionConfig) -> Vec<Capability> {
    let mut list = Vec::new();
    list.extend(
        config
            .families
            .iter()
            .copied()
            .map(Capability::Multiprotocol),
    );
    list.push(Capability::RouteRefresh);
    if config.extended_next_hop && config.families.contains(&Family::IPV4_UNICAST) {
        let offer = vec![(Family::IPV4_UNICAST, AFI_IPV6)];
        list.push(Capability::ExtendedNextHop(offer));
    }
    list.push(Capability::ExtendedMessage);
    // RFC 9234 §4.1: to external peers only.
    let role = config.role.filter(|_| !surely_internal(config));
    list.extend(role.map(Capability::Role));
    list.extend(restart_capabilities(config));
    list.push(Capability::FourByteAs(config.local_as));
    let several = add_path(&config.add_path, &config.families);
    if !several.is_empty() {
        list.push(Capability::AddPath(several));
    }
    list.push(Capability::EnhancedRouteRefresh);
    list.extend(config.strict_bfd.then(strict_bfd));
    list
}

/// Families of the session only; the long-lived ones only beside the other (RFC 9494 §3.1).
fn restart_capabilities(config: &SessionConfig) -> Vec<Capability> {
    let Some(restart) = &config.graceful_restart else {
        return Vec::new();
    };
    let spoken = |family: &Family| config.families.contains(family);
    let families = restart.families.iter().copied();
    let mut list = vec![Capability::GracefulRestart(GracefulRestart {
        families: families.filter(|(family, _)| spoken(family)).collect(),
        ..restart.clone()
    })];
    let long_lived = config.long_lived.iter().copied();
    let long_lived: Vec<_> = long_lived.filter(|l| spoken(&l.family)).collect();
    if !long_lived.is_empty() {
        list.push(Capability::LongLivedGracefulRestart(long_lived));
    }
    list
}

/// Known before the peer's OPEN is in.
fn surely_internal(config: &SessionConfig) -> bool {
    match config.peer_as {
        PeerAs::Internal => true,
        PeerAs::Number(asn) => asn == config.local_as,
        PeerAs::External => false,
    }
}

fn add_path(offer: &AddPathOffer, families: &[Family]) -> Vec<(Family, AddPathMode)> {
    let mode = |family: &Family| {
        let (receive, send) = (offer.receive.contains(family), offer.send.contains(family));
        match (receive, send) {
            (true, true) => Some(AddPathMode::Both),
            (true, false) => Some(AddPathMode::Receive),
            (false, true) => Some(AddPathMode::Send),
            (false, false) => None,
        }
    };
    families
        .iter()
        .filter_map(|family| mode(family).map(|mode| (*family, mode)))
        .collect()
}
