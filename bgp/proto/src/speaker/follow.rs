//! What a session asks for, done: actions for the driver, and what its coming and going means for the RIBs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::events::{Action, Endpoints, Gateway, PeerEvent};
use super::peer::{Peer, Stale, Up};
use crate::rib::{PeerInfo, Rib};
use crate::session::{Down, Negotiated, Output, Stop};
use crate::wire::{Family, GracefulRestart, Update};

/// How long a peer that is back may take to announce what is stale anew.
const STALE_AFTER_RETURN: Duration = Duration::from_secs(360);

/// Does all that a session asks for.
pub(super) fn follow(peer: &mut Peer, rib: &mut Rib, actions: &mut VecDeque<Action>, now: Instant) {
    while let Some(output) = peer.session.poll_output() {
        match output {
            Output::Connect => actions.push_back(Action::Connect {
                peer: peer.name.clone(),
            }),
            Output::Close(direction) => {
                *peer.endpoints(direction) = None;
                actions.push_back(Action::Close {
                    peer: peer.name.clone(),
                    direction,
                });
            }
            Output::Send(direction, bytes) => actions.push_back(Action::Send {
                peer: peer.name.clone(),
                direction,
                bytes,
            }),
            Output::Up(negotiated) => went_up(peer, rib, actions, negotiated, now),
            Output::Update(update) => handle_update(peer, rib, actions, &update, now),
            Output::RouteRefresh(refresh) => rib.handle_route_refresh(peer.rib_id, refresh),
            Output::Down(down) => went_down(peer, rib, actions, down, now),
        }
    }
    while let Some(warning) = rib.poll_warning() {
        // It can only be of the peer whose UPDATE was just taken.
        let event = PeerEvent::ManyPrefixes {
            family: warning.family,
            held: warning.held,
            limit: warning.limit,
        };
        actions.push_back(Action::Event(peer.name.clone(), event));
    }
}

fn went_up(
    peer: &mut Peer,
    rib: &mut Rib,
    actions: &mut VecDeque<Action>,
    negotiated: Negotiated,
    now: Instant,
) {
    let endpoints = *peer.endpoints(negotiated.direction);
    let families = negotiated.context.families.clone();
    if let Some(endpoints) = endpoints {
        peer.address = Some(endpoints.remote);
        peer.gateway = Some(Gateway {
            address: endpoints.remote.ip(),
            link: endpoints.link,
        });
        let info = peer_info(&negotiated, endpoints);
        rib.handle_peer_up(peer.rib_id, info);
    }
    for family in super::peer::FAMILIES {
        if is_preserved(&negotiated, family) {
            if let Some(stale) = peer.stale_until.get_mut(&family) {
                stale.until = now + STALE_AFTER_RETURN;
                stale.then_long_lived = None;
            }
        } else if peer.stale_until.remove(&family).is_some() {
            // RFC 4724 §4.2: what the peer's new OPEN does not say it preserved goes at once.
            rib.sweep_stale(peer.rib_id, Some(family));
        }
    }
    peer.session.set_restarting(false);
    let waits = negotiated.peer_graceful_restart.is_some();
    peer.synced |= !waits;
    actions.push_back(Action::Event(
        peer.name.clone(),
        PeerEvent::Established {
            asn: negotiated.peer_as,
            families: families.clone(),
        },
    ));
    if let Some(gateway) = peer.gateway_down.take() {
        actions.push_back(Action::GatewayUp(gateway));
    }
    peer.up = Some(Up {
        negotiated,
        since: now,
        heard: now,
        awaited: families,
        endpoints,
    });
}

fn peer_info(negotiated: &Negotiated, ends: Endpoints) -> PeerInfo {
    PeerInfo {
        asn: negotiated.peer_as,
        router_id: negotiated.peer_id,
        // The last tie-break must not change with the direction of the connection: no port of the moment.
        address: std::net::SocketAddr::new(ends.remote.ip(), 0),
        local_address: ends.local.ip(),
        local_link_local: ends.link_local,
        link: ends.link,
        external: negotiated.external,
        context: negotiated.context.clone(),
        enhanced_refresh: negotiated.enhanced_refresh,
        role: negotiated.role,
        llgr_peer: negotiated.long_lived_peer,
    }
}

fn handle_update(
    peer: &mut Peer,
    rib: &mut Rib,
    actions: &mut VecDeque<Action>,
    update: &Update,
    now: Instant,
) {
    peer.updates.0 += 1;
    for error in &update.errors {
        let event = PeerEvent::Malformed(error.clone());
        actions.push_back(Action::Event(peer.name.clone(), event));
    }
    if let Some(up) = &mut peer.up {
        up.heard = now;
    }
    if let Some(family) = update.end_of_rib {
        peer.stale_until.remove(&family);
        if let Some(up) = &mut peer.up {
            up.awaited.retain(|awaited| *awaited != family);
            peer.synced |= up.awaited.is_empty();
        }
    }
    if let Err(cease) = rib.handle_update(peer.rib_id, update) {
        let limit = peer.config.max_prefixes.limit;
        let event = PeerEvent::TooManyPrefixes { limit };
        actions.push_back(Action::Event(peer.name.clone(), event));
        peer.session.handle_stop(now, Stop::Notify(cease));
        peer.over_limit = true;
        peer.restart_at = peer
            .config
            .max_prefixes
            .restart_after
            .map(|wait| now + wait);
    }
}

fn went_down(
    peer: &mut Peer,
    rib: &mut Rib,
    actions: &mut VecDeque<Action>,
    down: Down,
    now: Instant,
) {
    peer.flaps += 1;
    let Some(up) = peer.up.take() else { return };
    let kept = if down.retain && peer.config.graceful_restart.is_some() {
        retained(peer, &up.negotiated, now)
    } else {
        Vec::new()
    };
    let families: Vec<Family> = kept.iter().map(|(family, _)| *family).collect();
    // All its routes go: packets leave its gateway at once, before the RIB has looked at every one of them.
    if let Some(gateway) = peer.gateway.filter(|_| families.is_empty())
        && peer.gateway_down.is_none()
    {
        actions.push_back(Action::GatewayDown(gateway));
        actions.push_back(Action::GatewayUp(gateway));
    }
    rib.handle_peer_down(peer.rib_id, &families);
    peer.stale_until = kept.into_iter().collect();
    peer.last_down = Some((now, down.reason.clone()));
    let event = PeerEvent::Down {
        reason: down.reason,
        retained: !families.is_empty(),
    };
    actions.push_back(Action::Event(peer.name.clone(), event));
}

/// Which families' routes stay as stale ones, and for how long: the peer's Restart Time (RFC 4724 §4.2), then the
/// Long-Lived Stale Time it said and we grant (RFC 9494 §4.2).
fn retained(peer: &Peer, negotiated: &Negotiated, now: Instant) -> Vec<(Family, Stale)> {
    let granted = peer
        .config
        .graceful_restart
        .map(|config| config.long_lived_stale_time)
        .unwrap_or_default();
    let restart = negotiated.peer_graceful_restart.as_ref();
    let stale = |family: &Family| {
        let listed = restart.filter(|said| is_listed(said, *family, false));
        let wait = listed.map_or(Duration::ZERO, |said| {
            Duration::from_secs(said.restart_time.into())
        });
        let long = negotiated
            .peer_long_lived
            .iter()
            .find(|said| said.family == *family)
            .map(|said| Duration::from_secs(said.stale_time.into()).min(granted))
            .filter(|time| !time.is_zero());
        if wait.is_zero() && long.is_none() {
            return None;
        }
        let until = now + wait;
        let then_long_lived = long;
        Some((
            *family,
            Stale {
                until,
                then_long_lived,
            },
        ))
    };
    negotiated
        .context
        .families
        .iter()
        .filter_map(stale)
        .collect()
}

/// Whether the peer's OPEN says that it kept the forwarding state of a family over its restart.
fn is_preserved(negotiated: &Negotiated, family: Family) -> bool {
    let short = negotiated
        .peer_graceful_restart
        .as_ref()
        .is_some_and(|said| is_listed(said, family, true));
    let long = negotiated
        .peer_long_lived
        .iter()
        .any(|said| said.family == family && said.forwarding);
    short || long
}

fn is_listed(said: &GracefulRestart, family: Family, preserved: bool) -> bool {
    said.families
        .iter()
        .any(|(listed, kept)| *listed == family && (*kept || !preserved))
}
