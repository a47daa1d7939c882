//! Peers as the RIBs know them: dense ids with a generation, so that a late event of a removed peer hits nobody.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::export::ExportPolicy;
use super::import::{ImportPolicy, Verdict};
use super::paths::MOST_PEERS;
use crate::wire::{Asn, Family, Role, WireContext};

/// A peer's place in the RIBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    pub(super) index: u16,
    generation: u32,
}

/// What a session that came up tells about its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its AS.
    pub asn: Asn,
    /// Its BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Its address as configured: the last tie-break, so it must not change with the direction of the connection.
    pub address: SocketAddr,
    /// Our end of the session: the next hop of what we announce to it.
    pub local_address: IpAddr,
    /// Our link-local address on the link to it, if it is on one (RFC 2545 §3).
    pub local_link_local: Option<Ipv6Addr>,
    /// The interface it is reached by, if its routes' link-local next hops are meant for one.
    pub link: Option<u32>,
    /// It is in another AS.
    pub external: bool,
    /// What both sides agreed on.
    pub context: WireContext,
    /// Both sides sent the Enhanced Route Refresh capability (RFC 7313).
    pub enhanced_refresh: bool,
    /// Our role towards it (RFC 9234).
    pub role: Option<Role>,
    /// It sent the Long-Lived Graceful Restart capability (RFC 9494).
    pub llgr_peer: bool,
}

/// What the configuration says about a peer's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    /// What people call it.
    pub name: Arc<str>,
    /// What is taken from it.
    pub import: ImportPolicy,
    /// What it is sent.
    pub export: ExportPolicy,
    /// Prefixes of one family, accepted or not, after which the session is ended.
    pub max_prefixes: u32,
    /// Prefixes of one family at which `poll_warning` speaks.
    pub warn_at: Option<u32>,
    /// Routes of internal peers are reflected to it, and its own to them (RFC 4456).
    pub route_reflector_client: bool,
}

/// How many prefixes a peer announced and was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Announced by it, and taken into the decision.
    pub accepted: usize,
    /// Announced by it, and not usable: by import rules, or as loops and the like.
    pub rejected: usize,
    /// In its Adj-RIB-Out: sent, or about to be.
    pub sent: usize,
    /// Announced by it, and stale.
    pub stale: usize,
    /// Announced by it, by family.
    pub by_family: BTreeMap<Family, usize>,
}

/// A configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) policy: PeerPolicy,
    /// Of the present session or, while its paths are kept as stale, of the last one.
    pub(super) info: Option<PeerInfo>,
    pub(super) up: bool,
    pub(super) held: Held,
    /// The place of its update group, while its session is up.
    pub(super) group: Option<usize>,
}

/// Sizes of a peer's Adj-RIB-In.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) v4: u32,
    pub(super) v6: u32,
    pub(super) accepted: usize,
    pub(super) rejected: usize,
    pub(super) stale: usize,
    /// Families of which a warning is out.
    pub(super) warned: [bool; 2],
}

impl Held {
    pub(super) fn family_mut(&mut self, family: Family) -> &mut u32 {
        if family == Family::IPV4_UNICAST {
            &mut self.v4
        } else {
            &mut self.v6
        }
    }

    pub(super) fn family(&self, family: Family) -> u32 {
        if family == Family::IPV4_UNICAST {
            self.v4
        } else {
            self.v6
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4 == 0 && self.v6 == 0
    }

    pub(super) fn count(&mut self, verdict: Verdict, more: bool) {
        let counter = match verdict {
            Verdict::Accepted => &mut self.accepted,
            _ => &mut self.rejected,
        };
        *counter = if more { *counter + 1 } else { *counter - 1 };
    }
}

/// All peers. Slots are given out in turn, so that a removed peer's is not used again while it may still be named
/// as where a route came from.
#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<(u32, Option<Box<Peer>>)>,
    next: u16,
}

impl Peers {
    pub(super) fn add(&mut self, peer: Peer) -> PeerId {
        let is_free = |index: &u16| {
            let slot = self.slots.get(usize::from(*index));
            slot.is_none_or(|(_, held)| held.is_none())
        };
        let index = (self.next..MOST_PEERS)
            .chain(0..self.next)
            .find(is_free)
            .expect("fewer peers than slots");
        self.next = (index + 1) % MOST_PEERS;
        let at = usize::from(index);
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || (0, None));
        }
        let mut generation = 0;
        if let Some((slot_generation, held)) = self.slots.get_mut(at) {
            *slot_generation += 1;
            generation = *slot_generation;
            *held = Some(Box::new(peer));
        }
        PeerId { index, generation }
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        if let Some(slot) = self.slot_mut(id) {
            *slot = None;
        }
    }

    pub(super) fn with_id(&self, id: PeerId) -> Option<&Peer> {
        let (generation, peer) = self.slots.get(usize::from(id.index))?;
        peer.as_deref().filter(|_| *generation == id.generation)
    }

    pub(super) fn with_id_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.slot_mut(id)?.as_deref_mut()
    }

    /// The peer a path in the table belongs to: its slot is not given away while it has paths.
    pub(super) fn at(&self, index: u16) -> Option<&Peer> {
        self.slots.get(usize::from(index))?.1.as_deref()
    }

    /// All peers with their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        (0u16..)
            .zip(&self.slots)
            .filter_map(|(index, (generation, peer))| {
                let generation = *generation;
                Some((PeerId { index, generation }, peer.as_deref()?))
            })
    }

    fn slot_mut(&mut self, id: PeerId) -> Option<&mut Option<Box<Peer>>> {
        let (generation, peer) = self.slots.get_mut(usize::from(id.index))?;
        (*generation == id.generation).then_some(peer)
    }
}
