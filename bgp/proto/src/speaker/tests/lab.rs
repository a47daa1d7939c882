//! A network of speakers in virtual time: links with latency, resets, silence, and restarts; a seed says what happens.
#![expect(
    clippy::disallowed_methods,
    reason = "virtual time starts somewhere, and is only added to from there"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;

use super::nodes::{address, config, direction, node_of, peer, peer_name, pod_cidr};
use crate::rib::NextHop;
use crate::session::{Direction, State};
use crate::speaker::{Action, Config, Endpoints, PeerConfig, PeerEvent, Restart, Speaker, StopAs};

/// How long bytes are under way.
const LATENCY: Duration = Duration::from_millis(1);
/// Events handled before a run counts as a storm.
const STORM: usize = 2_000_000;

/// What happens at a time.
enum Happening {
    Dial { from: usize, to: usize, life: u64 },
    Deliver { wire: u64, to: usize, bytes: Bytes },
    Closed { wire: u64, to: usize },
}

/// One TCP connection; `ends[0]` dialled.
struct Wire {
    ends: [usize; 2],
    open: [bool; 2],
}

/// A node with its speaker and what its kernel would hold.
pub(super) struct Node {
    pub(super) speaker: Option<Speaker>,
    pub(super) config: Config,
    /// Grows with each life of the speaker.
    life: u64,
    pub(super) routes: BTreeMap<IpNet, Vec<NextHop>>,
    /// Of an earlier life, not announced again yet.
    adopted: BTreeSet<IpNet>,
    pub(super) events: Vec<(String, PeerEvent)>,
    pub(super) gateways: Vec<(bool, IpAddr)>,
    pub(super) synced: bool,
    /// Every prefix that was ever withdrawn from the kernel.
    pub(super) lost: Vec<IpNet>,
}

/// The network.
pub(super) struct Lab {
    pub(super) now: Instant,
    start: Instant,
    pub(super) nodes: Vec<Node>,
    wires: BTreeMap<u64, Wire>,
    queue: BTreeMap<(Instant, u64), Happening>,
    next: u64,
    /// Pairs between which nothing gets through, though nobody is told.
    silent: BTreeSet<(usize, usize)>,
    /// Pairs that cannot connect.
    refused: BTreeSet<(usize, usize)>,
    seed: u64,
    pub(super) address_of: fn(usize) -> IpAddr,
}

impl Lab {
    /// Nodes with these configurations; they start at once.
    pub(super) fn new(configs: Vec<Config>, seed: u64) -> Self {
        let start = Instant::now();
        let mut lab = Self {
            now: start,
            start,
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
            silent: BTreeSet::new(),
            refused: BTreeSet::new(),
            seed,
            address_of: address,
        };
        for (index, config) in configs.into_iter().enumerate() {
            lab.nodes.push(Node {
                speaker: None,
                config,
                life: 0,
                routes: BTreeMap::new(),
                adopted: BTreeSet::new(),
                events: Vec::new(),
                gateways: Vec::new(),
                synced: false,
                lost: Vec::new(),
            });
            lab.boot(index, false);
        }
        lab
    }

    /// A full mesh in one AS.
    pub(super) fn mesh(size: usize, seed: u64) -> Self {
        let configs = (0..size)
            .map(|node| {
                let mut config = config(node, 64_512);
                config.peers = (0..size)
                    .filter(|other| *other != node)
                    .map(|other| (peer_name(other), peer(64_512)))
                    .collect();
                config
            })
            .collect();
        Self::new(configs, seed)
    }

    /// Two external peers, changed as wished before they start.
    pub(super) fn pair(seed: u64, change: impl FnOnce(&mut PeerConfig, &mut PeerConfig)) -> Self {
        let (mut to_second, mut to_first) = (peer(65_001), peer(65_000));
        change(&mut to_second, &mut to_first);
        let mut first = config(0, 65_000);
        first.peers = [(peer_name(1), to_second)].into();
        let mut second = config(1, 65_001);
        second.peers = [(peer_name(0), to_first)].into();
        Self::new(vec![first, second], seed)
    }

    /// Starts a node's speaker; `kept`: the kernel still has the routes of the last life.
    pub(super) fn boot(&mut self, node: usize, kept: bool) {
        let restart = Restart {
            forwarding_preserved: kept,
            wait: Duration::from_secs(60),
        };
        let seed = self.seed ^ (node as u64) << 8;
        let held = &mut self.nodes[node];
        held.life += 1;
        held.synced = false;
        if kept {
            held.adopted = held.routes.keys().copied().collect();
        } else {
            held.routes.clear();
            held.adopted.clear();
        }
        let mut speaker = Speaker::new(
            held.config.speaker.clone(),
            restart,
            seed ^ held.life,
            self.now,
        );
        speaker.configure(self.now, held.config.clone());
        held.speaker = Some(speaker);
        self.settle(node);
    }

    /// Ends a node's speaker as `kill -9` does: the kernel closes its connections.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].speaker = None;
        let open: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.ends.contains(&node))
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            for side in 0..2 {
                if self.wires[&id].ends[side] == node {
                    self.hang_up(id, side);
                }
            }
        }
    }

    /// Ends it by a word to its peers.
    pub(super) fn stop(&mut self, node: usize, how: &StopAs) {
        let now = self.now;
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.stop(now, how);
        }
        self.settle(node);
        self.kill(node);
    }

    /// Nothing gets through between two nodes, and nobody is told.
    pub(super) fn silence(&mut self, one: usize, other: usize) {
        self.silent.extend([(one, other), (other, one)]);
    }

    pub(super) fn heal(&mut self, one: usize, other: usize) {
        for pair in [(one, other), (other, one)] {
            self.silent.remove(&pair);
            self.refused.remove(&pair);
        }
    }

    /// The connections between two nodes break, and new ones are refused until `heal`.
    pub(super) fn cut(&mut self, one: usize, other: usize) {
        self.refused.extend([(one, other), (other, one)]);
        self.reset(one, other);
    }

    /// The connections between two nodes break.
    pub(super) fn reset(&mut self, one: usize, other: usize) {
        let between: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.ends.contains(&one) && wire.ends.contains(&other))
            .map(|(id, _)| *id)
            .collect();
        for id in between {
            self.hang_up(id, 0);
            self.hang_up(id, 1);
        }
    }

    /// Changes a node's configuration.
    pub(super) fn configure(&mut self, node: usize, change: impl FnOnce(&mut Config)) {
        change(&mut self.nodes[node].config);
        self.with(node, |speaker, now, config| {
            speaker.configure(now, config.clone());
        });
    }

    /// Does something to a node's speaker, then what follows from it.
    pub(super) fn with(&mut self, node: usize, act: impl FnOnce(&mut Speaker, Instant, &Config)) {
        let now = self.now;
        let held = &mut self.nodes[node];
        if let Some(speaker) = &mut held.speaker {
            act(speaker, now, &held.config);
        }
        self.settle(node);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..STORM {
            let timer = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(node, held)| Some((held.speaker.as_ref()?.poll_timeout()?, node)))
                .min();
            let queued = self.queue.keys().next().copied();
            let next = [timer.map(|(at, _)| at), queued.map(|(at, _)| at)]
                .into_iter()
                .flatten()
                .min();
            let Some(at) = next.filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(at);
            // What has arrived is delivered before a timer of the same time fires.
            if let Some(key) = queued.filter(|(queued, _)| *queued <= at) {
                let happening = self.queue.remove(&key).unwrap();
                self.happen(happening);
            } else if let Some((_, node)) = timer {
                let now = self.now;
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.handle_timeout(now);
                }
                self.settle(node);
            }
        }
        panic!(
            "seed {}: {STORM} events within {time:?}: a storm",
            self.seed
        );
    }

    /// Runs until `done`, for `limit` at most; panics with the story if it does not come to that.
    pub(super) fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) {
        let until = self.now + limit;
        while !done(self) {
            assert!(
                self.now < until,
                "seed {}: not within {limit:?}: {what}\n{}",
                self.seed,
                self.story()
            );
            self.run(Duration::from_millis(50));
        }
    }

    pub(super) fn state(&self, node: usize, other: usize) -> Option<State> {
        self.nodes[node].speaker.as_ref()?.state(&peer_name(other))
    }

    pub(super) fn is_up(&self, node: usize, other: usize) -> bool {
        self.state(node, other) == Some(State::Established)
    }

    pub(super) fn all_up(&self) -> bool {
        (0..self.nodes.len()).all(|node| {
            self.nodes[node].config.peers.keys().all(|name| {
                let speaker = self.nodes[node].speaker.as_ref();
                speaker.is_none_or(|speaker| speaker.state(name) == Some(State::Established))
            })
        })
    }

    /// Whether every node knows the way to every other's pods.
    pub(super) fn converged(&self) -> bool {
        (0..self.nodes.len()).all(|node| {
            (0..self.nodes.len())
                .filter(|other| *other != node)
                .all(|other| self.nodes[node].routes.contains_key(&pod_cidr(other)))
        })
    }

    /// Seconds since the start, and what each node was told.
    fn story(&self) -> String {
        let mut text = format!("after {:?}\n", self.now - self.start);
        for (node, held) in self.nodes.iter().enumerate() {
            text += &format!("node {node}: {} routes\n", held.routes.len());
            for (peer, event) in held.events.iter().rev().take(8).rev() {
                text += &format!("  {peer}: {event:?}\n");
            }
        }
        text
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Dial { from, to, life } => self.dial(from, to, life),
            Happening::Deliver { wire, to, bytes } => {
                let Some((side, other)) = self.side(wire, to) else {
                    return;
                };
                let direction = direction(side);
                if let Some(speaker) = &mut self.nodes[to].speaker {
                    speaker.handle_bytes(now, &name_at(speaker, other), direction, &bytes);
                }
                self.settle(to);
            }
            Happening::Closed { wire, to } => {
                let Some((side, other)) = self.side(wire, to) else {
                    return;
                };
                if let Some(wire) = self.wires.get_mut(&wire) {
                    wire.open[side] = false;
                }
                if let Some(speaker) = &mut self.nodes[to].speaker {
                    let name = name_at(speaker, other);
                    speaker.handle_disconnected(now, &name, direction(side), "closed by the peer");
                }
                self.settle(to);
            }
        }
    }

    fn dial(&mut self, from: usize, to: usize, life: u64) {
        let now = self.now;
        if self.nodes[from].life != life || self.nodes[from].speaker.is_none() {
            return;
        }
        let unreachable = self.silent.contains(&(from, to));
        let admitted = !self.refused.contains(&(from, to))
            && !unreachable
            && self.nodes[to].speaker.as_mut().is_some_and(|speaker| {
                let name = name_at(speaker, from);
                let known = speaker.state(&name).is_some()
                    || speaker.peer_from_range(now, address(from)).is_some();
                known && speaker.admits(&name_at(speaker, from), Direction::Incoming)
            });
        if !admitted {
            // A dial into silence just hangs until its timer ends it.
            if !unreachable && let Some(speaker) = &mut self.nodes[from].speaker {
                speaker.handle_connect_failed(now, &peer_name(to));
            }
            self.settle(to);
            return self.settle(from);
        }
        self.next += 1;
        let wire = Wire {
            ends: [from, to],
            open: [true, true],
        };
        self.wires.insert(self.next, wire);
        for (side, (node, other)) in [(from, to), (to, from)].into_iter().enumerate() {
            let ends = Endpoints {
                local: SocketAddr::new((self.address_of)(node), 179),
                remote: SocketAddr::new((self.address_of)(other), 179),
                link_local: None,
                link: None,
            };
            if let Some(speaker) = &mut self.nodes[node].speaker {
                let name = name_at(speaker, other);
                // A new incoming connection takes the place of the former one, which is let go without a word.
                self.replace(node, other, direction(side));
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.handle_connected(now, &name, direction(side), ends);
                }
            }
        }
        self.settle(from);
        self.settle(to);
    }

    /// Lets go of the connection that the newest of this node replaces.
    fn replace(&mut self, node: usize, other: usize, way: Direction) {
        let newest = self.next;
        let former: Vec<(u64, usize)> = self
            .wires
            .iter()
            .filter(|(id, _)| **id != newest)
            .flat_map(|(id, wire)| [(*id, wire, 0), (*id, wire, 1)])
            .filter(|(_, wire, side)| {
                wire.ends[*side] == node
                    && wire.ends[1 - side] == other
                    && wire.open[*side]
                    && direction(*side) == way
            })
            .map(|(id, _, side)| (id, side))
            .collect();
        for (id, side) in former {
            self.hang_up(id, side);
        }
    }

    /// This side closes; the other hears of it unless there is silence.
    fn hang_up(&mut self, id: u64, side: usize) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut wire.open[side], false) {
            return;
        }
        let (own, other) = (wire.ends[side], wire.ends[1 - side]);
        if !self.silent.contains(&(own, other)) {
            self.schedule(
                LATENCY,
                Happening::Closed {
                    wire: id,
                    to: other,
                },
            );
        }
    }

    /// Which side of a connection a node is, while it has it open.
    fn side(&self, id: u64, node: usize) -> Option<(usize, usize)> {
        let wire = self.wires.get(&id)?;
        let side = wire.ends.iter().position(|end| *end == node)?;
        wire.open[side].then_some((side, wire.ends[1 - side]))
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.next += 1;
        self.queue.insert((self.now + after, self.next), happening);
    }

    /// Carries out all that a node's speaker asks for.
    fn settle(&mut self, node: usize) {
        loop {
            let mut todo = VecDeque::new();
            let Some(speaker) = &mut self.nodes[node].speaker else {
                return;
            };
            while let Some(action) = speaker.poll_action() {
                todo.push_back(action);
            }
            for action in todo.drain(..) {
                self.act(node, action);
            }
            self.take_routes(node, usize::MAX);
            let Some(speaker) = &mut self.nodes[node].speaker else {
                return;
            };
            let carriers: Vec<(Arc<str>, Direction)> = speaker
                .established()
                .map(|(name, direction)| (Arc::clone(name), direction))
                .collect();
            let mut sent = Vec::new();
            for (name, _) in carriers {
                while let Some((direction, bytes)) = speaker.poll_transmit(&name, 64 * 1024) {
                    sent.push((Arc::clone(&name), direction, bytes));
                }
            }
            if sent.is_empty() && !speaker.has_work() {
                return;
            }
            for (name, direction, bytes) in sent {
                self.send(node, &name, direction, bytes);
            }
        }
    }

    fn take_routes(&mut self, node: usize, at_most: usize) {
        let held = &mut self.nodes[node];
        let Some(speaker) = &mut held.speaker else {
            return;
        };
        loop {
            let changes = speaker.poll_route_changes(at_most);
            if changes.is_empty() {
                return;
            }
            for change in changes {
                let hops: Vec<NextHop> = change.next_hops.into_iter().collect();
                held.adopted.remove(&change.prefix);
                if hops.is_empty() {
                    held.lost.push(change.prefix);
                    held.routes.remove(&change.prefix);
                } else {
                    held.routes.insert(change.prefix, hops);
                }
            }
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Connect { peer } => {
                let life = self.nodes[node].life;
                let to = node_of(&peer);
                self.schedule(
                    LATENCY,
                    Happening::Dial {
                        from: node,
                        to,
                        life,
                    },
                );
            }
            Action::Close { peer, direction } => {
                if let Some((id, side)) = self.wire(node, node_of(&peer), direction) {
                    self.hang_up(id, side);
                }
            }
            Action::Send {
                peer,
                direction,
                bytes,
            } => self.send(node, &peer, direction, bytes),
            Action::Forget { .. } => {}
            Action::GatewayDown(gateway) => {
                self.nodes[node].gateways.push((false, gateway.address));
            }
            Action::GatewayUp(gateway) => {
                self.nodes[node].gateways.push((true, gateway.address));
            }
            Action::InitialSync => {
                self.take_routes(node, usize::MAX);
                let held = &mut self.nodes[node];
                held.synced = true;
                for prefix in std::mem::take(&mut held.adopted) {
                    held.routes.remove(&prefix);
                    held.lost.push(prefix);
                }
            }
            Action::Event(peer, event) => {
                self.nodes[node].events.push((peer.to_string(), event));
            }
        }
    }

    fn send(&mut self, node: usize, peer: &str, direction: Direction, bytes: Bytes) {
        let other = node_of(peer);
        if self.silent.contains(&(node, other)) {
            return;
        }
        if let Some((wire, _)) = self.wire(node, other, direction) {
            self.schedule(
                LATENCY,
                Happening::Deliver {
                    wire,
                    to: other,
                    bytes,
                },
            );
        }
    }

    fn wire(&self, node: usize, other: usize, way: Direction) -> Option<(u64, usize)> {
        self.wires.iter().rev().find_map(|(id, wire)| {
            let side = match way {
                Direction::Outgoing => 0,
                Direction::Incoming => 1,
            };
            let fits = wire.ends[side] == node && wire.ends[1 - side] == other && wire.open[side];
            fits.then_some((*id, side))
        })
    }
}

/// The name a speaker has for a node: its own, or that of a range it came from.
fn name_at(speaker: &Speaker, node: usize) -> String {
    let own = peer_name(node);
    if speaker.state(&own).is_some() {
        return own;
    }
    format!("range/{}", address(node))
}
