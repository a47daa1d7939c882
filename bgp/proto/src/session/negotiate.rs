//! The OPEN we send, and what it and the peer's agree on.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::config::SessionConfig;
use super::errors;
use super::output::Direction;
use crate::wire::notification::open as subcode;
use crate::wire::{Asn, Capability, Family, GracefulRestart, Notification, Open, WireContext};

/// What the two OPENs of a session agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The connection that carries the session.
    pub direction: Direction,
    /// The peer's AS.
    pub peer_as: Asn,
    /// The peer's BGP Identifier.
    pub peer_id: Ipv4Addr,
    /// The smaller of the two HoldTimes; zero: no hold timer.
    pub hold_time: Duration,
    /// KeepaliveTime before jitter; zero: no keepalive timer.
    pub keepalive_time: Duration,
    /// How messages of this session are encoded and decoded.
    pub context: WireContext,
    /// The peer's Graceful Restart capability.
    pub peer_graceful_restart: Option<GracefulRestart>,
    /// Both sides offered Route Refresh (RFC 2918).
    pub route_refresh: bool,
    /// The peer is in our AS.
    pub internal: bool,
}

/// How messages are read until the OPENs are exchanged.
pub(super) fn initial_context() -> WireContext {
    WireContext::default()
}

/// Our OPEN; `plain` leaves the capabilities out, for a peer that refused them (RFC 5492 §3).
pub(super) fn open(config: &SessionConfig, plain: bool) -> Open {
    let mut capabilities = Vec::new();
    if !plain {
        capabilities.extend(
            config
                .families
                .iter()
                .map(|family| Capability::Multiprotocol(*family)),
        );
        capabilities.push(Capability::RouteRefresh);
        capabilities.extend(
            config
                .graceful_restart
                .clone()
                .map(Capability::GracefulRestart),
        );
        capabilities.push(Capability::FourByteAs(config.local_as));
    }
    let hold_time = match u16::try_from(config.hold_time.as_secs()).unwrap_or(u16::MAX) {
        0 if config.hold_time.is_zero() => 0,
        seconds => seconds.max(3),
    };
    Open {
        asn: config.local_as,
        hold_time,
        bgp_id: config.router_id,
        capabilities,
    }
}

/// Checks the peer's OPEN and compares it with ours.
///
/// # Errors
/// The NOTIFICATION that refuses it (RFC 4271 §6.2).
pub(super) fn negotiate(
    config: &SessionConfig,
    direction: Direction,
    sent: &Open,
    received: &Open,
) -> Result<Negotiated, Notification> {
    let internal = received.asn == config.local_as;
    if !config.peer_as.admits(received.asn, config.local_as) {
        return Err(Notification::open_error(subcode::BAD_PEER_AS));
    }
    if received.bgp_id.is_unspecified() || (internal && received.bgp_id == config.router_id) {
        return Err(Notification::open_error(subcode::BAD_BGP_ID));
    }
    if matches!(received.hold_time, 1 | 2) {
        return Err(Notification::open_error(subcode::UNACCEPTABLE_HOLD_TIME));
    }
    let (ours, theirs) = (families(sent), families(received));
    let families: Vec<_> = ours
        .iter()
        .filter(|f| theirs.contains(f))
        .copied()
        .collect();
    if families.is_empty() {
        return Err(errors::unsupported_capability(multiprotocol_values(&ours)));
    }
    let hold_time = Duration::from_secs(sent.hold_time.min(received.hold_time).into());
    let wanted = config.keepalive_time.filter(|wanted| !wanted.is_zero());
    let keepalive_time = wanted.unwrap_or(hold_time).min(hold_time / 3);
    let four_byte_as = has_four_byte_as(sent) && has_four_byte_as(received);
    Ok(Negotiated {
        direction,
        peer_as: received.asn,
        peer_id: received.bgp_id,
        hold_time,
        keepalive_time,
        context: WireContext {
            four_byte_as,
            internal,
            families,
            ..WireContext::default()
        },
        peer_graceful_restart: graceful_restart(received),
        route_refresh: has_route_refresh(sent) && has_route_refresh(received),
        internal,
    })
}

/// The families of an OPEN, each once. Without the capability it is IPv4 unicast (RFC 4760 §8).
fn families(open: &Open) -> Vec<Family> {
    let mut families = Vec::new();
    for capability in &open.capabilities {
        if let Capability::Multiprotocol(family) = capability
            && !families.contains(family)
        {
            families.push(*family);
        }
    }
    if families.is_empty() {
        families.push(Family::IPV4_UNICAST);
    }
    families
}

fn multiprotocol_values(families: &[Family]) -> Vec<u8> {
    let value = |family: &Family| {
        let [high, low] = family.afi.to_be_bytes();
        [1, 4, high, low, 0, family.safi]
    };
    families.iter().flat_map(value).collect()
}

fn has_four_byte_as(open: &Open) -> bool {
    open.capabilities
        .iter()
        .any(|c| matches!(c, Capability::FourByteAs(_)))
}

fn has_route_refresh(open: &Open) -> bool {
    open.capabilities.contains(&Capability::RouteRefresh)
}

/// The last one counts (RFC 4724 §3).
fn graceful_restart(open: &Open) -> Option<GracefulRestart> {
    open.capabilities
        .iter()
        .rev()
        .find_map(|capability| match capability {
            Capability::GracefulRestart(graceful_restart) => Some(graceful_restart.clone()),
            _ => None,
        })
}
