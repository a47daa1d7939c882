//! What our OPEN and the peer's agree on, or why they don't.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::config::SessionConfig;
use super::errors;
use super::open::{AFI_IPV6, strict_bfd};
use super::output::Direction;
use super::role;
use super::timers::SEND_HOLD_TIME;
use crate::wire::notification::open as subcode;
use crate::wire::{
    AddPathMode, Asn, Capability, Family, GracefulRestart, LongLivedFamily, Notification, Open,
    Role, WireContext,
};

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
    /// The peer's Graceful Restart capability as it came: it may list no family at all, or such as are not spoken here.
    pub peer_graceful_restart: Option<GracefulRestart>,
    /// Both sides set the N bit (RFC 8538 §4).
    pub notification_gr: bool,
    /// The peer sent the Long-Lived Graceful Restart capability and may send it (RFC 9494 §3.1: not without the other).
    pub long_lived_peer: bool,
    /// What it said there about the families of this session.
    pub peer_long_lived: Vec<LongLivedFamily>,
    /// Both sides offered Route Refresh (RFC 2918).
    pub route_refresh: bool,
    /// Both sides offered Enhanced Route Refresh, and so that (RFC 7313).
    pub enhanced_refresh: bool,
    /// Our role, if the peer is external and was told it (RFC 9234).
    pub role: Option<Role>,
    /// The peer's role, if it is external and told one.
    pub peer_role: Option<Role>,
    /// Both sides offered to hold the session back until BFD is up.
    pub strict_bfd: bool,
    /// The peer is in another AS than the one we show it.
    pub external: bool,
    /// The peer is in the AS we show it.
    pub internal: bool,
}

impl Negotiated {
    /// SendHoldTime (RFC 9687 §3.1); zero: no timer.
    pub(super) fn send_hold_time(&self, configured: Option<Duration>) -> Duration {
        match configured {
            None => SEND_HOLD_TIME.max(self.hold_time * 2),
            Some(Duration::ZERO) => Duration::ZERO,
            Some(wanted) => wanted.max(self.hold_time + Duration::from_secs(1)),
        }
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
    check(config, received)?;
    let internal = received.asn == config.local_as;
    let families = common_families(sent, received)?;
    let roles = role::agree(config, internal, sent, received)?;
    let hold_time = Duration::from_secs(sent.hold_time.min(received.hold_time).into());
    let wanted = config.keepalive_time.filter(|wanted| !wanted.is_zero());
    let keepalive_time = wanted.unwrap_or(hold_time).min(hold_time / 3);
    let both = |capability: &Capability| {
        sent.capabilities.contains(capability) && received.capabilities.contains(capability)
    };
    let (route_refresh, context) = (
        both(&Capability::RouteRefresh),
        context(internal, families, sent, received),
    );
    let peer_graceful_restart = graceful_restart(received).cloned();
    let told = peer_graceful_restart.is_some();
    let long_lived = long_lived(received).filter(|_| told);
    let of_session = |l: &&LongLivedFamily| context.families.contains(&l.family);
    let peer_long_lived = long_lived.unwrap_or_default().iter().filter(of_session);
    Ok(Negotiated {
        direction,
        peer_as: received.asn,
        peer_id: received.bgp_id,
        hold_time,
        keepalive_time,
        notification_gr: tells_notification(sent) && tells_notification(received),
        long_lived_peer: long_lived.is_some(),
        peer_long_lived: peer_long_lived.copied().collect(),
        peer_graceful_restart,
        route_refresh,
        enhanced_refresh: context.enhanced_route_refresh,
        role: roles.ours,
        peer_role: roles.theirs,
        strict_bfd: both(&strict_bfd()),
        external: !internal,
        internal,
        context,
    })
}

fn check(config: &SessionConfig, received: &Open) -> Result<(), Notification> {
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
    Ok(())
}

fn common_families(sent: &Open, received: &Open) -> Result<Vec<Family>, Notification> {
    let (ours, theirs) = (families(sent), families(received));
    let common: Vec<_> = ours
        .iter()
        .filter(|family| theirs.contains(family))
        .copied()
        .collect();
    if common.is_empty() {
        return Err(errors::unsupported_capability(multiprotocol_values(&ours)));
    }
    Ok(common)
}

fn context(internal: bool, families: Vec<Family>, sent: &Open, received: &Open) -> WireContext {
    let extended = |family: &&Family| {
        offers_extended_next_hop(sent, **family) && offers_extended_next_hop(received, **family)
    };
    let receive = |family: &&Family| add_path(sent, **family).0 && add_path(received, **family).1;
    let send = |family: &&Family| add_path(sent, **family).1 && add_path(received, **family).0;
    let both = |test: fn(&Open) -> bool| test(sent) && test(received);
    WireContext {
        four_byte_as: both(has_four_byte_as),
        internal,
        extended_next_hop: families.iter().filter(extended).copied().collect(),
        add_path_receive: families.iter().filter(receive).copied().collect(),
        add_path_send: families.iter().filter(send).copied().collect(),
        extended_messages: both(has_extended_message),
        enhanced_route_refresh: both(has_enhanced_refresh),
        families,
    }
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

fn has_extended_message(open: &Open) -> bool {
    open.capabilities.contains(&Capability::ExtendedMessage)
}

/// RFC 7313 §3.1: it is of no use without the plain one.
fn has_enhanced_refresh(open: &Open) -> bool {
    [Capability::RouteRefresh, Capability::EnhancedRouteRefresh]
        .iter()
        .all(|needed| open.capabilities.contains(needed))
}

/// RFC 8950 §4: IPv6 next hops for this family.
fn offers_extended_next_hop(open: &Open, family: Family) -> bool {
    open.capabilities.iter().any(|capability| {
        matches!(capability, Capability::ExtendedNextHop(list) if list.contains(&(family, AFI_IPV6)))
    })
}

/// Whether the sender of this OPEN receives and sends several paths of a family. It is to say so once (RFC 7911 §4);
/// the last word counts.
fn add_path(open: &Open, family: Family) -> (bool, bool) {
    let lists = open.capabilities.iter().filter_map(|c| match c {
        Capability::AddPath(list) => Some(list),
        _ => None,
    });
    let said = lists.flatten().filter(|(said, _)| *said == family).last();
    match said.map(|(_, mode)| mode) {
        Some(AddPathMode::Receive) => (true, false),
        Some(AddPathMode::Send) => (false, true),
        Some(AddPathMode::Both) => (true, true),
        None => (false, false),
    }
}

/// The last one counts (RFC 4724 §3).
fn graceful_restart(open: &Open) -> Option<&GracefulRestart> {
    let mut latest_first = open.capabilities.iter().rev();
    latest_first.find_map(|capability| match capability {
        Capability::GracefulRestart(graceful_restart) => Some(graceful_restart),
        _ => None,
    })
}

fn tells_notification(open: &Open) -> bool {
    graceful_restart(open).is_some_and(|restart| restart.notification)
}

/// The last one counts, as with the capability it comes with.
fn long_lived(open: &Open) -> Option<&[LongLivedFamily]> {
    let mut latest_first = open.capabilities.iter().rev();
    latest_first.find_map(|capability| match capability {
        Capability::LongLivedGracefulRestart(list) => Some(list.as_slice()),
        _ => None,
    })
}
