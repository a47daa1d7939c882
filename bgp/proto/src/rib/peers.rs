//! Peers as the RIBs know them: dense ids with a generation, so that a late event of a removed peer hits nobody.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use super::adj_rib_out::AdjRibOut;
use super::export::ExportPolicy;
use crate::wire::{Asn, Family};

/// A peer's place in the RIBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    pub(super) index: u32,
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
    /// Families both sides speak.
    pub families: Vec<Family>,
}

/// What the configuration says about a peer's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPolicy {
    /// From an external peer: prefixes equal to or inside these are rejected.
    pub import_reject: BTreeSet<IpNet>,
    /// Prefixes of one family, accepted or not, after which the session is ended.
    pub max_prefixes: u32,
    /// What it is sent.
    pub export: ExportPolicy,
}

/// How many prefixes a peer announced and was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Announced by it, and taken into the decision.
    pub accepted: usize,
    /// Announced by it, and rejected by import rules.
    pub rejected: usize,
    /// In its Adj-RIB-Out: sent, or about to be.
    pub sent: usize,
}

/// A configured peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) policy: PeerPolicy,
    /// Of the present session or, while its paths are kept as stale, of the last one.
    pub(super) info: Option<PeerInfo>,
    pub(super) up: bool,
    pub(super) held: Held,
    pub(super) out: AdjRibOut,
}

/// Sizes of a peer's Adj-RIB-In.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) v4: u32,
    pub(super) v6: u32,
    pub(super) accepted: usize,
    pub(super) rejected: usize,
}

impl Held {
    pub(super) fn family_mut(&mut self, prefix: &IpNet) -> &mut u32 {
        match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<(u32, Option<Peer>)>,
}

impl Peers {
    pub(super) fn add(&mut self, peer: Peer) -> PeerId {
        let free = self.slots.iter().position(|(_, held)| held.is_none());
        let index = free.unwrap_or(self.slots.len());
        if free.is_none() {
            self.slots.push((0, None));
        }
        let mut generation = 0;
        if let Some((slot_generation, held)) = self.slots.get_mut(index) {
            *slot_generation += 1;
            generation = *slot_generation;
            *held = Some(peer);
        }
        let index = u32::try_from(index).expect("fewer peers than addresses");
        PeerId { index, generation }
    }

    pub(super) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        self.slot_mut(id)?.take()
    }

    pub(super) fn with_id(&self, id: PeerId) -> Option<&Peer> {
        let (generation, peer) = self.slots.get(id.index as usize)?;
        peer.as_ref().filter(|_| *generation == id.generation)
    }

    pub(super) fn with_id_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.slot_mut(id)?.as_mut()
    }

    /// The peer a path in the table belongs to: its slot is not given away while it has paths.
    pub(super) fn at(&self, index: u32) -> Option<&Peer> {
        self.slots.get(index as usize)?.1.as_ref()
    }

    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut Peer> {
        self.slots.get_mut(index as usize)?.1.as_mut()
    }

    /// Indices of the peers with a session.
    pub(super) fn up(&self) -> Vec<u32> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, (_, peer))| peer.as_ref().is_some_and(|peer| peer.up))
            .map(|(index, _)| index)
            .collect()
    }

    fn slot_mut(&mut self, id: PeerId) -> Option<&mut Option<Peer>> {
        let (generation, peer) = self.slots.get_mut(id.index as usize)?;
        (*generation == id.generation).then_some(peer)
    }
}
