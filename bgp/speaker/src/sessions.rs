//! What the sessions ask for, done: dials, bytes, closes; and what their coming and going means for the RIBs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::rib::PeerInfo;
use bgp_proto::session::{Direction, Down, Negotiated, Output, Stop};
use bgp_proto::wire::{GracefulRestart, Update};

use crate::actor::{Actor, Running};
use crate::connection::{Event, dial};
use crate::peer::{Peer, Up, family};

/// How long a peer that is back may take to announce what is stale anew.
const STALE_AFTER_RETURN: Duration = Duration::from_secs(360);
/// How long a peer that announced too much is left alone.
const AFTER_TOO_MANY_PREFIXES: Duration = Duration::from_secs(300);

impl Actor {
    /// Does something to a peer, then what its session asks for. Nothing if there is no such peer any more.
    pub(crate) fn with_peer(
        &mut self,
        name: &str,
        act: impl FnOnce(&mut Self, &mut Peer, Instant),
    ) {
        let taken = self
            .running
            .as_mut()
            .and_then(|running| running.peers.remove_entry(name));
        let Some((name, mut peer)) = taken else {
            return;
        };
        let now = Instant::now();
        act(self, &mut peer, now);
        self.follow(&mut peer, now);
        if let Some(running) = &mut self.running {
            running.peers.insert(name, peer);
        }
    }

    /// Stops every session.
    pub(crate) fn stop_all(&mut self, stop: &Stop) {
        let running = self.running.iter();
        let names: Vec<_> = running
            .flat_map(|running| running.peers.keys().cloned())
            .collect();
        for name in names {
            self.with_peer(&name, |actor, peer, now| {
                actor.stop(peer, stop.clone(), now)
            });
        }
    }

    pub(crate) fn stop(&mut self, peer: &mut Peer, stop: Stop, now: Instant) {
        self.close(peer.unheard.take().map(|(held, _)| held));
        peer.session.handle_stop(now, stop);
    }

    /// Does all that a session asks for.
    pub(crate) fn follow(&mut self, peer: &mut Peer, now: Instant) {
        while let Some(output) = peer.session.poll_output() {
            match output {
                Output::Connect => self.connect(peer),
                Output::Close(direction) => {
                    if direction == Direction::Outgoing
                        && let Some((_, dial)) = peer.dial.take()
                    {
                        dial.abort();
                    }
                    let closed = peer.connection_mut(direction).take();
                    self.close(closed);
                }
                Output::Send(direction, bytes) => {
                    if let Some(connection) = peer.connection(direction) {
                        connection.send(bytes);
                    }
                }
                Output::Up(negotiated) => self.went_up(peer, negotiated, now),
                Output::Update(update) => self.update(peer, &update, now),
                Output::RouteRefresh(refresh) => {
                    if let Some(running) = &mut self.running {
                        running.rib.handle_route_refresh(peer.rib_id, refresh);
                    }
                }
                Output::Down(down) => self.went_down(peer, &down, now),
            }
        }
    }

    fn connect(&mut self, peer: &mut Peer) {
        let serial = self.serial();
        let (inbox, name) = (self.inbox.clone(), Arc::clone(&peer.name));
        let (remote, local) = (peer.config.address, peer.config.local_address);
        let task = tokio::spawn(async move {
            let result = dial(remote, local).await;
            // An error means that the speaker has ended.
            let _ = inbox
                .send(Event::Dialled {
                    peer: name,
                    serial,
                    result,
                })
                .await;
        });
        if let Some((_, former)) = peer.dial.replace((serial, task.abort_handle())) {
            former.abort();
        }
    }

    fn went_up(&mut self, peer: &mut Peer, negotiated: Negotiated, now: Instant) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(connection) = peer.connection(negotiated.direction) else {
            return;
        };
        tracing::info!(peer = %peer.name, asn = negotiated.peer_as.0, "session established");
        let info = PeerInfo {
            asn: negotiated.peer_as,
            router_id: negotiated.peer_id,
            address: peer.config.address,
            local_address: connection.local,
            local_link_local: None,
            link: None,
            external: negotiated.external,
            context: negotiated.context.clone(),
            enhanced_refresh: negotiated.enhanced_refresh,
            role: negotiated.role,
            llgr_peer: negotiated.long_lived_peer,
        };
        running.rib.handle_peer_up(peer.rib_id, info);
        sweep_what_was_not_preserved(running, peer, &negotiated);
        if peer.stale_until.is_some() {
            peer.stale_until = Some(now + STALE_AFTER_RETURN);
        }
        peer.session.set_restarting(false);
        peer.synced |= negotiated.peer_graceful_restart.is_none();
        peer.up = Some(Up {
            negotiated,
            since: now,
            heard: now,
        });
    }

    fn update(&mut self, peer: &mut Peer, update: &Update, now: Instant) {
        let Some(running) = &mut self.running else {
            return;
        };
        peer.updates.0 += 1;
        if let Some(up) = &mut peer.up {
            up.heard = now;
        }
        for error in &update.errors {
            tracing::warn!(peer = %peer.name, ?error, "malformed attribute");
        }
        if update.end_of_rib.is_some() {
            peer.synced = true;
            peer.stale_until = None;
        }
        if let Err(cease) = running.rib.handle_update(peer.rib_id, update) {
            tracing::warn!(peer = %peer.name, limit = peer.config.max_prefixes, "too many prefixes");
            peer.session.handle_stop(now, Stop::Notify(cease));
            peer.restart_at = Some(now + AFTER_TOO_MANY_PREFIXES);
        }
    }

    fn went_down(&mut self, peer: &mut Peer, down: &Down, now: Instant) {
        let Some(running) = &mut self.running else {
            return;
        };
        tracing::info!(peer = %peer.name, reason = %down.reason, "session down");
        peer.flaps += 1;
        let up = peer.up.take();
        let helped = up
            .and_then(|up| helped_for(&up.negotiated))
            .filter(|_| down.retain);
        peer.stale_until = helped.map(|wait| now + wait);
        let families = [family(&peer.config)];
        let retained = if helped.is_some() { &families[..] } else { &[] };
        running.rib.handle_peer_down(peer.rib_id, retained);
    }
}

/// How long the peer's paths are kept: its Restart Time, if it said it can restart our family.
fn helped_for(negotiated: &Negotiated) -> Option<Duration> {
    let said = negotiated.peer_graceful_restart.as_ref()?;
    let families = &negotiated.context.families;
    let all = families
        .iter()
        .all(|family| is_listed(said, |listed, _| listed == family));
    (all && said.restart_time > 0).then(|| Duration::from_secs(said.restart_time.into()))
}

/// RFC 4724 §4.2: what the peer's new OPEN does not say it preserved goes at once.
fn sweep_what_was_not_preserved(running: &mut Running, peer: &Peer, negotiated: &Negotiated) {
    for family in &negotiated.context.families {
        let preserved = negotiated
            .peer_graceful_restart
            .as_ref()
            .is_some_and(|said| is_listed(said, |listed, kept| listed == family && kept));
        if !preserved {
            running.rib.sweep_stale(peer.rib_id, Some(*family));
        }
    }
}

fn is_listed(
    said: &GracefulRestart,
    fits: impl Fn(&bgp_proto::wire::Family, bool) -> bool,
) -> bool {
    said.families
        .iter()
        .any(|(family, kept)| fits(family, *kept))
}
