//! What the driver of a fuzzed speaker, its kernel and its peers know; and whether that is what the speaker says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bgp_proto::rib::{NextHops, Verdict};
use bgp_proto::session::{Direction, State};
use bgp_proto::speaker::{Action, PeerEvent, Speaker};
use bgp_proto::wire::{Decoder, Message, Nlri, PathAttributes};
use ipnet::IpNet;

use crate::bgp_messages::mirrored;

type Told = BTreeMap<Nlri, Arc<PathAttributes>>;

#[derive(Default)]
pub struct Books {
    dialling: BTreeSet<String>,
    open: BTreeSet<(String, Direction)>,
    /// Peers with a session, and what each was told on it.
    up: BTreeMap<String, Told>,
    /// What the kernel holds.
    routes: BTreeMap<IpNet, NextHops>,
}

impl Books {
    pub fn is_open(&self, peer: &str, direction: Direction) -> bool {
        self.open.contains(&(peer.to_owned(), direction))
    }

    pub fn opened(&mut self, peer: &str, direction: Direction) {
        self.open.insert((peer.to_owned(), direction));
    }

    pub fn lost(&mut self, peer: &str, direction: Direction) {
        self.open.remove(&(peer.to_owned(), direction));
    }

    /// Whether it was.
    pub fn not_dialling(&mut self, peer: &str) -> bool {
        self.dialling.remove(peer)
    }

    pub fn take_actions(&mut self, speaker: &mut Speaker) {
        let mut count = 0;
        while let Some(action) = speaker.poll_action() {
            count += 1;
            assert!(count < 10_000, "no end of actions: {action:?}");
            self.take(action);
        }
        let up: BTreeSet<String> = speaker
            .established()
            .map(|(name, _)| name.to_string())
            .collect();
        assert!(up.iter().eq(self.up.keys()), "{up:?} {:?}", self.up.keys());
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Connect { peer } => {
                assert!(self.dialling.insert(peer.to_string()), "a second dial");
            }
            Action::Close { peer, direction } => {
                let peer = peer.to_string();
                let dial = direction == Direction::Outgoing && self.dialling.remove(&peer);
                let open = self.open.remove(&(peer, direction));
                assert!(dial || open, "{direction:?} is not there to be closed");
            }
            Action::Send {
                peer, direction, ..
            } => assert!(self.is_open(&peer, direction), "sent on what is not open"),
            Action::Forget { peer } => {
                self.dialling.remove(&*peer);
                self.open.retain(|(name, _)| **name != *peer);
                self.up.remove(&*peer);
            }
            Action::Event(peer, PeerEvent::Established { .. }) => {
                let former = self.up.insert(peer.to_string(), Told::new());
                assert!(former.is_none(), "Established twice");
            }
            Action::Event(peer, PeerEvent::Down { .. }) => {
                assert!(self.up.remove(&*peer).is_some(), "Down without Established");
            }
            Action::Event(..)
            | Action::InitialSync
            | Action::GatewayDown(_)
            | Action::GatewayUp(_) => {}
        }
    }

    pub fn take_routes(&mut self, speaker: &mut Speaker) {
        for change in speaker.poll_route_changes(7) {
            if change.next_hops.is_empty() {
                self.routes.remove(&change.prefix);
            } else {
                self.routes.insert(change.prefix, change.next_hops);
            }
        }
    }

    /// Sends a peer one piece of what is due; whether there was any.
    pub fn transmit(
        &mut self,
        speaker: &mut Speaker,
        now: Instant,
        peer: &str,
        budget: usize,
    ) -> bool {
        let Some((direction, bytes)) = speaker.poll_transmit(peer, budget) else {
            return false;
        };
        assert!(self.is_open(peer, direction), "UPDATEs without TCP");
        let status = speaker.status(now);
        let status = status.into_iter().find(|status| status.name == peer);
        let context = mirrored(&status.unwrap().negotiated.unwrap().context);
        let told = self.up.get_mut(peer).expect("a session");
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        while let Some(message) = decoder.next(&context).expect("what we send is well formed") {
            match message {
                Message::Update(update) => {
                    assert_eq!(update.errors, []);
                    for nlri in update.withdrawn {
                        told.remove(&nlri);
                    }
                    for nlri in update.announced {
                        let attributes = update.attributes.clone().expect("attributes");
                        told.insert(nlri, attributes);
                    }
                }
                Message::RouteRefresh(_) => {}
                message => panic!("{message:?} among UPDATEs"),
            }
        }
        true
    }

    /// Once all is sent and taken, everybody agrees on everything.
    pub fn check(&self, speaker: &mut Speaker, now: Instant) {
        let mut best = BTreeSet::new();
        for route in speaker.routes(None, usize::MAX) {
            assert!(!route.paths.is_empty(), "a route without a path");
            let winners = route.paths.iter().filter(|path| path.best).count();
            assert!(winners <= 1, "{winners} best paths");
            let learned = |path: &&_| {
                let path: &&bgp_proto::rib::PathView = path;
                path.best && path.peer.is_some()
            };
            if let Some(path) = route.paths.iter().find(learned) {
                assert!(path.reachable && path.verdict == Verdict::Accepted);
                best.insert(route.prefix);
                let held = self.routes.get(&route.prefix).into_iter().flatten();
                let hop = path.attributes.next_hop;
                let uses_it = held.into_iter().any(|held| held.address == hop);
                assert!(uses_it, "{} does not go to {hop}", route.prefix);
            }
        }
        let kernel: BTreeSet<IpNet> = self.routes.keys().copied().collect();
        assert_eq!(kernel, best, "the kernel has other prefixes than the RIB");
        for status in speaker.status(now) {
            let received = speaker.received(&status.name, usize::MAX).unwrap();
            let accepted = received
                .iter()
                .filter(|(.., verdict)| *verdict == Verdict::Accepted);
            let counts = &status.counts;
            assert_eq!(accepted.count(), counts.accepted, "{}", status.name);
            assert_eq!(received.len(), counts.accepted + counts.rejected);
            assert_eq!(received.len(), counts.by_family.values().sum::<usize>());
            assert!(counts.stale <= received.len());
            let established = status.state == State::Established;
            assert_eq!(established, self.up.contains_key(&status.name));
            let advertised = speaker.advertised(&status.name, usize::MAX).unwrap();
            if let Some(told) = self.up.get(&status.name)
                && !speaker.is_in_initial_sync()
            {
                let advertised: Told = advertised.into_iter().collect();
                let prefixes = |told: &Told| told.keys().copied().collect::<Vec<_>>();
                let said = (prefixes(told), prefixes(&advertised));
                assert_eq!(said.0, said.1, "{} was told otherwise", status.name);
                for ((nlri, told), meant) in told.iter().zip(advertised.values()) {
                    assert_eq!(visible(told), visible(meant), "{nlri:?}");
                }
            }
        }
    }

    /// Nothing is left of anybody.
    pub fn check_empty(&self) {
        assert!(self.dialling.is_empty() && self.open.is_empty() && self.up.is_empty());
        assert!(self.routes.is_empty(), "{:?}", self.routes);
    }
}

/// What every peer sees as it was meant, whatever was agreed on with it.
fn visible(attributes: &PathAttributes) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        attributes.origin,
        attributes.next_hop,
        attributes.med,
        attributes.local_pref,
        attributes.communities.clone(),
        attributes.originator_id,
        attributes.cluster_list.clone(),
        attributes.only_to_customer,
    )
}
