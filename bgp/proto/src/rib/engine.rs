//! The RIBs together: updates in, best-path changes and packed messages out; what changed is decided, nothing else.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use smallvec::SmallVec;

use super::adj_rib_out::AdjRibOut;
use super::attributes::{AttributeStore, Interned};
use super::decision::{Candidate, decide};
use super::export::{Source, exported, family, is_exported};
use super::import::{Verdict, judge};
use super::peers::{Held, Peer, PeerCounts, PeerId, PeerInfo, PeerPolicy, Peers};
use super::table::{Best, Destination, Path, Table};
use crate::wire::{Asn, Family, Notification, PathAttributes, Update, WireContext};

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RibConfig {
    /// Our AS.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
}

/// A change of where packets for a prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestChange {
    /// The prefix.
    pub prefix: IpNet,
    /// Next hops of the best learned path; empty: there is none, or the prefix is our own.
    pub next_hops: Vec<IpAddr>,
}

/// Adj-RIBs-In, Loc-RIB and Adj-RIBs-Out.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    seed: u64,
    store: AttributeStore,
    table: Table,
    peers: Peers,
    originated: BTreeSet<IpNet>,
    /// Prefixes whose best path changed since `poll_best_changes`.
    changed: BTreeSet<IpNet>,
}

impl Rib {
    /// Empty RIBs; `seed` is random per process, so that nobody can choose prefixes that collide in the hash maps.
    #[must_use]
    pub fn new(config: RibConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            store: AttributeStore::new(seed),
            table: Table::new(seed),
            peers: Peers::default(),
            originated: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Takes in a configured peer, without a session yet.
    pub fn add_peer(&mut self, policy: PeerPolicy) -> PeerId {
        let out = AdjRibOut::new(self.seed);
        self.peers.add(Peer {
            policy,
            info: None,
            up: false,
            held: Held::default(),
            out,
        })
    }

    /// Forgets a peer and all it announced.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.handle_peer_down(id, false);
        self.peers.remove(id);
    }

    /// Changes a peer's rules; what it announced is judged again without a reset.
    pub fn handle_policy(&mut self, id: PeerId, policy: PeerPolicy) {
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        if peer.policy == policy {
            return;
        }
        peer.policy = policy;
        self.judge_again(id);
        self.settle();
        self.export_all_to(id.index);
    }

    /// A session came up: the peer is told of all it is to know, then End-of-RIB.
    ///
    /// Stale paths of its last session stay until its End-of-RIB or `sweep_stale`.
    pub fn handle_peer_up(&mut self, id: PeerId, info: PeerInfo) {
        self.settle();
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        peer.out.clear();
        peer.up = true;
        for family in &info.families {
            peer.out.owe_end_of_rib(*family);
        }
        peer.info = Some(info);
        self.judge_again(id);
        self.settle();
        self.export_all_to(id.index);
    }

    /// A session went down: its paths go or, if the peer is expected back, stay as stale (RFC 4724 §4.2).
    /// What was stale already goes in either case.
    pub fn handle_peer_down(&mut self, id: PeerId, retain_stale: bool) {
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        peer.up = false;
        peer.out.clear();
        self.drop_paths(id, |_, path| !retain_stale || path.stale);
        if retain_stale {
            self.table.change_all(|_, destination| {
                for path in destination
                    .paths
                    .iter_mut()
                    .filter(|path| path.peer == id.index)
                {
                    path.stale = true;
                }
                false
            });
        }
    }

    /// Drops what is still stale of a peer, of one family or of all.
    pub fn sweep_stale(&mut self, id: PeerId, of: Option<Family>) {
        self.drop_paths(id, |prefix, path| {
            path.stale && of.is_none_or(|wanted| wanted == family(prefix))
        });
    }

    /// An UPDATE of a peer with a session.
    ///
    /// # Errors
    ///
    /// The NOTIFICATION to end the session with: Cease, maximum number of prefixes (RFC 4486).
    pub fn handle_update(&mut self, id: PeerId, update: &Update) -> Result<(), Notification> {
        for nlri in &update.withdrawn {
            self.withdraw(id, nlri.prefix);
        }
        if let Some(attributes) = &update.attributes {
            let interned = self.store.intern(attributes);
            for nlri in &update.announced {
                self.announce(id, nlri.prefix, &interned)?;
            }
        }
        if let Some(family) = update.end_of_rib {
            self.sweep_stale(id, Some(family));
        }
        Ok(())
    }

    /// The peer asks for all of a family again (RFC 2918).
    pub fn handle_route_refresh(&mut self, id: PeerId, family: Family) {
        self.settle();
        if let Some(peer) = self.peers.with_id_mut(id)
            && peer
                .info
                .as_ref()
                .is_some_and(|info| info.families.contains(&family))
        {
            peer.out.refresh(family);
        }
    }

    /// Says what this node originates: the whole set, applied as a difference.
    pub fn set_originated(&mut self, prefixes: &BTreeSet<IpNet>) {
        for gone in self.originated.difference(prefixes) {
            self.table
                .change(*gone, |destination| destination.local.take().is_some());
        }
        for new in prefixes.difference(&self.originated) {
            let interned = self.store.intern(&Arc::new(local_attributes(new)));
            self.table.change(*new, |destination| {
                destination.local = Some(interned);
                true
            });
        }
        self.originated.clone_from(prefixes);
    }

    /// Prefixes whose next hops changed since the last call, in order, each once.
    pub fn poll_best_changes(&mut self) -> Vec<BestChange> {
        self.settle();
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .filter_map(|prefix| {
                self.table.settle(prefix, |destination| {
                    let next_hop = destination.best.as_ref().and_then(Best::next_hop);
                    let changed = next_hop != destination.reported;
                    destination.reported = next_hop;
                    changed.then(|| BestChange {
                        prefix,
                        next_hops: Vec::from_iter(next_hop),
                    })
                })?
            })
            .collect()
    }

    /// Messages due to a peer, about `budget` bytes of them; `None`: nothing is due.
    pub fn poll_transmit(
        &mut self,
        id: PeerId,
        context: &WireContext,
        budget: usize,
    ) -> Option<Bytes> {
        self.settle();
        let peer = self.peers.with_id_mut(id).filter(|peer| peer.up)?;
        peer.out.drain(context, budget)
    }

    /// How many prefixes a peer announced and is told.
    #[must_use]
    pub fn counts(&self, id: PeerId) -> PeerCounts {
        self.peers
            .with_id(id)
            .map_or_else(PeerCounts::default, |peer| PeerCounts {
                accepted: peer.held.accepted,
                rejected: peer.held.rejected,
                sent: peer.out.len(),
            })
    }

    /// The next hops of every prefix that has a learned best path: what the kernel is to hold.
    pub fn learned(&mut self) -> Vec<BestChange> {
        self.settle();
        let mut all: Vec<_> = self
            .table
            .iter()
            .filter_map(|(prefix, destination)| {
                let next_hop = destination.best.as_ref()?.next_hop()?;
                Some(BestChange {
                    prefix: *prefix,
                    next_hops: vec![next_hop],
                })
            })
            .collect();
        all.sort_unstable_by_key(|change| change.prefix);
        all
    }

    fn announce(
        &mut self,
        id: PeerId,
        prefix: IpNet,
        interned: &Arc<Interned>,
    ) -> Result<(), Notification> {
        let config = &self.config;
        let Some(peer) = self.peers.with_id_mut(id).filter(|peer| peer.up) else {
            return Ok(());
        };
        let Some(info) = &peer.info else {
            return Ok(());
        };
        let verdict = judge(config, info, &peer.policy, &prefix, &interned.attributes);
        let path = Path {
            peer: id.index,
            interned: Arc::clone(interned),
            verdict,
            stale: false,
        };
        let held = &mut peer.held;
        let mut new = false;
        self.table.change(prefix, |destination| {
            count(held, verdict, true);
            match destination
                .paths
                .iter_mut()
                .find(|held| held.peer == id.index)
            {
                Some(old) => {
                    count(held, old.verdict, false);
                    let same = old.interned.id == path.interned.id && old.verdict == verdict;
                    *old = path;
                    !same
                }
                None => {
                    new = true;
                    destination.paths.push(path);
                    verdict == Verdict::Accepted
                }
            }
        });
        if new {
            let of_family = held.family_mut(&prefix);
            *of_family += 1;
            if *of_family > peer.policy.max_prefixes {
                return Err(too_many_prefixes(&prefix, peer.policy.max_prefixes));
            }
        }
        Ok(())
    }

    /// Judges all paths of a peer by its present rules and session, and has their prefixes decided anew.
    fn judge_again(&mut self, id: PeerId) {
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        let Some(info) = &peer.info else { return };
        if peer.held.v4 == 0 && peer.held.v6 == 0 {
            return;
        }
        let (config, policy, held) = (&self.config, &peer.policy, &mut peer.held);
        self.table.change_all(|prefix, destination| {
            let Some(path) = destination
                .paths
                .iter_mut()
                .find(|path| path.peer == id.index)
            else {
                return false;
            };
            let verdict = judge(config, info, policy, prefix, &path.interned.attributes);
            count(held, path.verdict, false);
            count(held, verdict, true);
            path.verdict = verdict;
            true
        });
    }

    fn withdraw(&mut self, id: PeerId, prefix: IpNet) {
        let Some(peer) = self.peers.with_id_mut(id).filter(|peer| peer.up) else {
            return;
        };
        let held = &mut peer.held;
        self.table.change(prefix, |destination| {
            drop_from(destination, held, &prefix, |path| path.peer == id.index)
        });
    }

    fn drop_paths(&mut self, id: PeerId, goes: impl Fn(&IpNet, &Path) -> bool) {
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        if peer.held.v4 == 0 && peer.held.v6 == 0 {
            return;
        }
        let held = &mut peer.held;
        self.table.change_all(|prefix, destination| {
            drop_from(destination, held, prefix, |path| {
                path.peer == id.index && goes(prefix, path)
            })
        });
        self.settle();
    }

    /// Decides every dirty prefix and queues what follows for the peers.
    fn settle(&mut self) {
        let dirty = self.table.take_dirty();
        if dirty.is_empty() {
            return;
        }
        let up = self.peers.up();
        let asn = self.config.asn;
        let mut exporter = Exporter {
            config: &self.config,
            store: &mut self.store,
            last: None,
        };
        for prefix in dirty {
            let peers = &self.peers;
            let change = self.table.settle(prefix, |destination| {
                let best = best_of(destination, peers, asn);
                let same = match (&destination.best, &best) {
                    (None, None) => true,
                    (Some(old), Some(new)) => old.is(new),
                    _ => false,
                };
                destination.best.clone_from(&best);
                (!same).then_some(best)
            });
            let Some(Some(best)) = change else { continue };
            self.changed.insert(prefix);
            for &index in &up {
                if let Some(peer) = self.peers.at_mut(index) {
                    exporter.export(index, peer, prefix, best.as_ref());
                }
            }
        }
    }

    /// Queues the whole Loc-RIB for one peer.
    fn export_all_to(&mut self, index: u32) {
        let Some(peer) = self.peers.at_mut(index).filter(|peer| peer.up) else {
            return;
        };
        let mut best: Vec<_> = self
            .table
            .iter()
            .filter_map(|(prefix, destination)| Some((*prefix, destination.best.as_ref()?)))
            .collect();
        // By attributes too, so that the exporter computes each set once.
        best.sort_unstable_by_key(|(prefix, best)| (best.interned.id, *prefix));
        let mut exporter = Exporter {
            config: &self.config,
            store: &mut self.store,
            last: None,
        };
        for (prefix, best) in best {
            exporter.export(index, peer, prefix, Some(best));
        }
    }

    #[cfg(test)]
    pub(super) fn adj_rib_out(
        &mut self,
        id: PeerId,
    ) -> std::collections::BTreeMap<IpNet, PathAttributes> {
        self.settle();
        self.peers
            .with_id(id)
            .map(|peer| peer.out.contents())
            .unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn sizes(&mut self) -> (usize, usize) {
        self.settle();
        self.store.sweep();
        (self.table.len(), self.store.len())
    }
}

/// Turns best paths into what peers are told; remembers the last answer, since neighbours in a batch mostly share it.
struct Exporter<'a> {
    config: &'a RibConfig,
    store: &'a mut AttributeStore,
    last: Option<((u32, u64, Source), Arc<Interned>)>,
}

impl Exporter<'_> {
    fn export(&mut self, index: u32, peer: &mut Peer, prefix: IpNet, best: Option<&Best>) {
        let Some(info) = &peer.info else { return };
        let to = (index, info, &peer.policy.export);
        let goes = best.filter(|best| {
            let attributes = &best.interned.attributes;
            is_exported(self.config, to, best.source, &prefix, attributes)
        });
        let wanted = goes.map(|best| self.attributes(index, info, best));
        peer.out.set(prefix, wanted);
    }

    fn attributes(&mut self, index: u32, info: &PeerInfo, best: &Best) -> Arc<Interned> {
        let question = (index, best.interned.id, best.source);
        if let Some((asked, answer)) = &self.last
            && *asked == question
        {
            return Arc::clone(answer);
        }
        let out = exported(self.config, info, best.source, &best.interned.attributes);
        let answer = self.store.intern(&Arc::new(out));
        self.last = Some((question, Arc::clone(&answer)));
        answer
    }
}

fn best_of(destination: &Destination, peers: &Peers, asn: Asn) -> Option<Best> {
    let mut candidates: SmallVec<[Candidate; 4]> = SmallVec::new();
    let mut entries: SmallVec<[Best; 4]> = SmallVec::new();
    if let Some(local) = &destination.local {
        candidates.push(Candidate::local(&local.attributes));
        entries.push(Best {
            source: Source::Local,
            interned: Arc::clone(local),
        });
    }
    for path in destination
        .paths
        .iter()
        .filter(|path| path.verdict == Verdict::Accepted)
    {
        let Some(info) = peers.at(path.peer).and_then(|peer| peer.info.as_ref()) else {
            continue;
        };
        let interned = &path.interned;
        let external = info.asn != asn;
        // The IGP cost of every next hop is 0 until next hops are tracked.
        candidates.push(Candidate::with_key(
            &interned.attributes,
            interned.key,
            (external, 0),
            info.router_id,
            info.address,
        ));
        let source = Source::Peer {
            index: path.peer,
            external,
        };
        entries.push(Best {
            source,
            interned: Arc::clone(interned),
        });
    }
    let best = decide(&candidates)?;
    Some(entries.swap_remove(best))
}

/// Drops paths of one peer; whether the prefix must be decided anew.
fn drop_from(
    destination: &mut Destination,
    held: &mut Held,
    prefix: &IpNet,
    goes: impl Fn(&Path) -> bool,
) -> bool {
    let mut changed = false;
    destination.paths.retain(|path| {
        let goes = goes(path);
        if goes {
            count(held, path.verdict, false);
            *held.family_mut(prefix) -= 1;
            changed = true;
        }
        !goes
    });
    changed
}

fn count(held: &mut Held, verdict: Verdict, more: bool) {
    let counter = match verdict {
        Verdict::Accepted => &mut held.accepted,
        Verdict::Rejected => &mut held.rejected,
        Verdict::Unusable => return,
    };
    *counter = if more { *counter + 1 } else { *counter - 1 };
}

fn local_attributes(prefix: &IpNet) -> PathAttributes {
    PathAttributes::originated(match prefix {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    })
}

/// RFC 4486 §4: the data may say which family, and the bound.
fn too_many_prefixes(prefix: &IpNet, max_prefixes: u32) -> Notification {
    let family = family(prefix);
    let mut data = Vec::with_capacity(7);
    data.extend(family.afi.to_be_bytes());
    data.push(family.safi);
    data.extend(max_prefixes.to_be_bytes());
    Notification {
        code: 6,
        subcode: 1,
        data: Bytes::from(data),
    }
}
