//! The network itself: machines, connections, cuts, and the clock that steps from event to event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::node::{Action, ConnectionId, Node, NodeId};
use super::pipe::{Connection, Item};
use super::schedule::{Event, Schedule};
use super::settings::{Settings, Statistics};
use crate::random::Random;
use crate::session::Direction;

/// A machine: its process, if one runs, and its wake-up.
struct Machine<N> {
    process: Option<N>,
    powered: bool,
    deadline: Option<Instant>,
    generation: u64,
    /// The connections its process holds.
    held: BTreeSet<ConnectionId>,
    /// The current second, and its `handle_timeout`s.
    woken: (u64, u64),
}

/// Machines in virtual time.
pub struct Network<N> {
    start: Instant,
    now: Instant,
    random: Random,
    settings: Settings,
    machines: Vec<Machine<N>>,
    schedule: Schedule,
    connections: FxHashMap<ConnectionId, Connection>,
    last_connection: u64,
    dials: BTreeMap<(NodeId, NodeId), ConnectionId>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Deliveries that wait for the way from one machine to another.
    stalled: BTreeMap<(NodeId, NodeId), Vec<(ConnectionId, usize)>>,
    statistics: Statistics,
    trace: u64,
}

impl<N: Node> Network<N> {
    /// Nobody on it. Time is counted from `start`, which shows in no result.
    #[must_use]
    pub fn new(start: Instant, seed: u64, settings: Settings) -> Self {
        Self {
            start,
            now: start,
            random: Random::new(seed),
            settings,
            machines: Vec::new(),
            schedule: Schedule::default(),
            connections: FxHashMap::default(),
            last_connection: 0,
            dials: BTreeMap::new(),
            cuts: BTreeSet::new(),
            stalled: BTreeMap::new(),
            statistics: Statistics::default(),
            trace: seed,
        }
    }

    /// One more machine, without a process until [`boot`](Self::boot); numbered from 0 in the order of the calls.
    pub fn add(&mut self) -> NodeId {
        self.machines.push(Machine {
            process: None,
            powered: true,
            deadline: None,
            generation: 0,
            held: BTreeSet::new(),
            woken: (0, 0),
        });
        NodeId(self.machines.len() - 1)
    }

    /// Starts a process, in place of the one that runs, which is killed. Power comes back if it was off.
    pub fn boot(&mut self, node: NodeId, process: N) {
        self.kill(node);
        if let Some(machine) = self.machine(node) {
            machine.process = Some(process);
            machine.powered = true;
        }
        self.note(&[1, node.0 as u64]);
        let ways: Vec<_> = self
            .stalled
            .keys()
            .copied()
            .filter(|way| way.1 == node)
            .collect();
        for way in ways {
            self.release(way);
        }
        self.tell(node, Node::handle_start);
    }

    /// `kill -9`: the kernel closes its connections.
    pub fn kill(&mut self, node: NodeId) {
        self.note(&[2, node.0 as u64]);
        for connection in self.stop(node) {
            self.hang_up(node, connection, "closed by the peer");
        }
    }

    /// The machine loses power: nobody is told anything, what it sent and is under way is lost (nobody sends it again);
    /// bytes for it wait, and are answered by a reset once it is back.
    pub fn power_off(&mut self, node: NodeId) {
        self.note(&[3, node.0 as u64]);
        self.stop(node);
        for held in self.connections.values_mut() {
            held.lose(node);
        }
        if let Some(machine) = self.machine(node) {
            machine.powered = false;
        }
    }

    /// From now on nothing gets from `from` to `to`; it waits.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.note(&[4, from.0 as u64, to.0 as u64]);
        self.cuts.insert((from, to));
    }

    /// What waited between `from` and `to` arrives, and what follows.
    pub fn heal(&mut self, from: NodeId, to: NodeId) {
        self.note(&[5, from.0 as u64, to.0 as u64]);
        if self.cuts.remove(&(from, to)) {
            self.release((from, to));
        }
    }

    /// A connection breaks: both ends are told, what is under way is lost.
    pub fn reset(&mut self, connection: ConnectionId) {
        self.note(&[6, connection.0]);
        for end in [0, 1] {
            if let Some(held) = self.connections.get_mut(&connection) {
                held.pipe(end).lose();
                self.put(connection, end, Item::Closed("connection reset"));
            }
        }
    }

    /// Runs until there is nothing to do up to `until`, which it then is.
    pub fn run_until(&mut self, until: Instant) {
        while self.schedule.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// The next event. False: nothing will ever happen.
    pub fn step(&mut self) -> bool {
        let Some((at, event)) = self.schedule.pop() else {
            return false;
        };
        self.now = self.now.max(at);
        self.statistics.events += 1;
        match event {
            Event::Timer { node, generation } => self.timer(node, generation),
            Event::Deliver { connection, end } => self.deliver(connection, end),
            Event::Syn {
                connection,
                attempt,
            } => self.syn(connection, attempt),
            Event::Refused { connection } => self.refused(connection),
        }
        true
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now.saturating_duration_since(self.start)
    }

    /// Changes how the network treats what comes from now on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// How many machines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// Whether there is no machine.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// The process on a machine; `None` if none runs.
    #[must_use]
    pub fn process(&self, node: NodeId) -> Option<&N> {
        self.machines.get(node.0)?.process.as_ref()
    }

    /// Does something to a process as its operator would, then what it asks for.
    pub fn tell(&mut self, node: NodeId, what: impl FnOnce(&mut N, Instant)) {
        let now = self.now;
        if let Some(process) = self.machine(node).and_then(|m| m.process.as_mut()) {
            what(process, now);
            self.act(node);
            self.arm(node);
        }
    }

    /// The connections the process on this machine holds.
    pub fn connections(&self, node: NodeId) -> impl Iterator<Item = ConnectionId> {
        self.machines
            .get(node.0)
            .into_iter()
            .flat_map(|m| m.held.iter().copied())
    }

    /// The two ends of a connection that is not over, dialler first, and whether both hold it.
    #[must_use]
    pub fn ends(&self, connection: ConnectionId) -> Option<([NodeId; 2], bool)> {
        let held = self.connections.get(&connection)?;
        Some((held.nodes, held.open == [true; 2]))
    }

    /// What has happened so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// A digest of everything that happened, byte for byte and in its order.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    fn machine(&mut self, node: NodeId) -> Option<&mut Machine<N>> {
        self.machines.get_mut(node.0)
    }

    /// Takes the process away; the connections it held.
    fn stop(&mut self, node: NodeId) -> BTreeSet<ConnectionId> {
        self.dials.retain(|(from, _), _| *from != node);
        let Some(machine) = self.machine(node) else {
            return BTreeSet::new();
        };
        machine.process = None;
        machine.deadline = None;
        machine.generation += 1;
        std::mem::take(&mut machine.held)
    }

    /// Does all that a process asks for.
    fn act(&mut self, node: NodeId) {
        loop {
            let process = self.machine(node).and_then(|m| m.process.as_mut());
            let Some(action) = process.and_then(Node::poll_action) else {
                return;
            };
            match action {
                Action::Dial(peer) => self.dial(node, peer),
                Action::AbandonDial(peer) => {
                    self.dials.remove(&(node, peer));
                }
                Action::Send(connection, bytes) => self.send(node, connection, bytes),
                Action::Close(connection) => {
                    if let Some(machine) = self.machine(node) {
                        machine.held.remove(&connection);
                    }
                    self.hang_up(node, connection, "closed by the peer");
                }
            }
        }
    }

    /// Sets the wake-up to what the process wants now.
    fn arm(&mut self, node: NodeId) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(node.0) else {
            return;
        };
        let wanted = machine.process.as_ref().and_then(Node::poll_timeout);
        if wanted == machine.deadline {
            return;
        }
        machine.deadline = wanted;
        machine.generation += 1;
        let generation = machine.generation;
        if let Some(at) = wanted {
            let late = self.up_to(self.settings.timer_lateness);
            self.plan(at.max(now) + late, Event::Timer { node, generation });
        }
    }

    fn timer(&mut self, node: NodeId, generation: u64) {
        let second = self.elapsed().as_secs();
        let Some(machine) = self.machine(node).filter(|m| m.generation == generation) else {
            return;
        };
        machine.deadline = None;
        if machine.woken.0 != second {
            machine.woken = (second, 0);
        }
        machine.woken.1 += 1;
        let woken = machine.woken.1;
        self.statistics.timeouts += 1;
        let most = &mut self.statistics.most_timeouts_in_a_second;
        *most = (*most).max(woken);
        self.note(&[7, node.0 as u64]);
        self.tell(node, Node::handle_timeout);
    }

    fn dial(&mut self, from: NodeId, to: NodeId) {
        self.statistics.dials += 1;
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        self.connections
            .insert(connection, Connection::new(self.now, from, to));
        self.dials.insert((from, to), connection);
        let at = self.now + self.transit();
        self.plan(
            at,
            Event::Syn {
                connection,
                attempt: 0,
            },
        );
    }

    fn syn(&mut self, connection: ConnectionId, attempt: u32) {
        const ATTEMPTS: u32 = 6;
        let Some([from, to]) = self.connections.get(&connection).map(|held| held.nodes) else {
            return;
        };
        if self.dials.get(&(from, to)) != Some(&connection) {
            self.connections.remove(&connection);
            return;
        }
        self.note(&[8, connection.0, attempt.into()]);
        let acceptor = self.machines.get(to.0);
        let powered = acceptor.is_some_and(|m| m.powered);
        let listens = acceptor.is_some_and(|m| m.process.is_some());
        let cut = self.cuts.contains(&(from, to)) || self.cuts.contains(&(to, from));
        if (cut || !powered) && attempt < ATTEMPTS {
            let again = self.now + Duration::from_secs(1 << attempt);
            self.plan(
                again,
                Event::Syn {
                    connection,
                    attempt: attempt + 1,
                },
            );
        } else if cut || !listens || self.random.below(1000) < self.settings.refusals {
            let at = self.now + self.transit();
            self.plan(at, Event::Refused { connection });
        } else {
            self.put(connection, 0, Item::Connected);
            self.put(connection, 1, Item::Connected);
        }
    }

    fn refused(&mut self, connection: ConnectionId) {
        let Some([from, to]) = self.connections.remove(&connection).map(|held| held.nodes) else {
            return;
        };
        if self.dials.get(&(from, to)) == Some(&connection) {
            self.dials.remove(&(from, to));
            self.note(&[9, connection.0]);
            self.tell(from, |process, now| process.handle_connect_failed(now, to));
        }
    }

    fn send(&mut self, node: NodeId, connection: ConnectionId, bytes: bytes::Bytes) {
        let window = self.settings.window;
        let Some(held) = self.connections.get_mut(&connection) else {
            return;
        };
        let end = held.end_of(node);
        if !held.is_open(end) {
            return;
        }
        let pipe = held.pipe(1 - end);
        pipe.octets += bytes.len();
        let blocked = pipe.octets > window && !std::mem::replace(&mut pipe.blocked, true);
        self.put(connection, 1 - end, Item::Bytes(bytes));
        let now = self.now;
        if blocked && let Some(process) = self.machine(node).and_then(|m| m.process.as_mut()) {
            process.handle_write_blocked(now, connection);
        }
    }

    /// This end lets go; the other is told once it has read what was sent.
    fn hang_up(&mut self, node: NodeId, connection: ConnectionId, reason: &'static str) {
        let Some(held) = self.connections.get_mut(&connection) else {
            return;
        };
        let end = held.end_of(node);
        if held.is_open(end) {
            held.set_open(end, false);
            self.put(connection, 1 - end, Item::Closed(reason));
        }
    }

    fn put(&mut self, connection: ConnectionId, end: usize, item: Item) {
        let at = self.now + self.transit();
        if let Some(held) = self.connections.get_mut(&connection) {
            let pipe = held.pipe(end);
            pipe.items.push_back(item);
            pipe.last = pipe.last.max(at);
            let at = pipe.last;
            self.plan(at, Event::Deliver { connection, end });
        }
    }

    fn deliver(&mut self, connection: ConnectionId, end: usize) {
        let Some(held) = self.connections.get_mut(&connection) else {
            return;
        };
        let (from, to) = (held.node(1 - end), held.node(end));
        let powered = self.machines.get(to.0).is_some_and(|m| m.powered);
        if !powered || self.cuts.contains(&(from, to)) {
            held.pipe(end).stalled += 1;
            self.stalled
                .entry((from, to))
                .or_default()
                .push((connection, end));
            return;
        }
        let item = held.pipe(end).items.pop_front();
        match item {
            None => {}
            Some(Item::Connected) => self.connected(connection, end, [from, to]),
            Some(Item::Bytes(bytes)) => self.arrived(connection, end, &bytes),
            Some(Item::Closed(reason)) => self.closed(connection, end, reason),
        }
        let over = self
            .connections
            .get(&connection)
            .is_some_and(Connection::is_over);
        let dialled = self.connections.get(&connection).map(|held| held.nodes);
        let dialling = dialled.is_some_and(|[a, b]| self.dials.get(&(a, b)) == Some(&connection));
        if over && !dialling {
            self.connections.remove(&connection);
        }
    }

    fn connected(&mut self, connection: ConnectionId, end: usize, [from, to]: [NodeId; 2]) {
        self.note(&[10, connection.0, end as u64]);
        let wanted = if end == 0 {
            let current = self.dials.get(&(to, from)) == Some(&connection);
            if current {
                self.dials.remove(&(to, from));
            }
            current
        } else {
            self.process(to).is_some()
        };
        if !wanted {
            return self.put(connection, 1 - end, Item::Closed("connection reset"));
        }
        if let Some(held) = self.connections.get_mut(&connection) {
            held.set_open(end, true);
        }
        if let Some(machine) = self.machine(to) {
            machine.held.insert(connection);
        }
        let direction = if end == 0 {
            Direction::Outgoing
        } else {
            Direction::Incoming
        };
        self.tell(to, |process, now| {
            process.handle_connected(now, from, connection, direction);
        });
    }

    fn arrived(&mut self, connection: ConnectionId, end: usize, bytes: &[u8]) {
        self.note(&[11, connection.0, end as u64]);
        self.note_bytes(bytes);
        self.taken(connection, end, bytes.len());
        let splits = self.random.below(1000) < self.settings.splits;
        let middle = if splits {
            self.random.below(bytes.len() as u64)
        } else {
            0
        };
        let (one, two) = bytes.split_at(usize::try_from(middle).unwrap_or(0).min(bytes.len()));
        for piece in [one, two].into_iter().filter(|piece| !piece.is_empty()) {
            let Some(held) = self.connections.get(&connection) else {
                return;
            };
            if !held.is_open(end) {
                if held.is_open(1 - end) {
                    self.put(connection, 1 - end, Item::Closed("connection reset"));
                }
                return;
            }
            let to = held.node(end);
            self.tell(to, |process, now| {
                process.handle_bytes(now, connection, piece)
            });
        }
    }

    /// So many octets are out of the sender's way.
    fn taken(&mut self, connection: ConnectionId, end: usize, octets: usize) {
        let window = self.settings.window;
        let Some(held) = self.connections.get_mut(&connection) else {
            return;
        };
        let sender = held.node(1 - end);
        let pipe = held.pipe(end);
        pipe.octets = pipe.octets.saturating_sub(octets);
        if !pipe.blocked {
            return;
        }
        pipe.blocked = pipe.octets > window;
        let still = pipe.blocked;
        self.tell(sender, |process, now| {
            process.handle_write_progress(now, connection);
            if still {
                process.handle_write_blocked(now, connection);
            }
        });
    }

    fn closed(&mut self, connection: ConnectionId, end: usize, reason: &str) {
        let Some(held) = self.connections.get_mut(&connection) else {
            return;
        };
        let node = held.node(end);
        if !held.is_open(end) {
            return;
        }
        held.set_open(end, false);
        if let Some(machine) = self.machine(node) {
            machine.held.remove(&connection);
        }
        self.note(&[12, connection.0, end as u64]);
        self.tell(node, |process, now| {
            process.handle_disconnected(now, connection, reason)
        });
    }

    /// What waited on this way goes on, unless something else is in its way.
    fn release(&mut self, way: (NodeId, NodeId)) {
        const RETRANSMISSION: Duration = Duration::from_secs(3);
        for (connection, end) in self.stalled.remove(&way).unwrap_or_default() {
            if let Some(held) = self.connections.get_mut(&connection) {
                held.pipe(end).stalled -= 1;
                let at = self.now + self.up_to(RETRANSMISSION);
                self.plan(at, Event::Deliver { connection, end });
            }
        }
    }

    fn plan(&mut self, at: Instant, event: Event) {
        let tie = u32::try_from(self.random.below(1 << 16)).unwrap_or(0);
        self.schedule.push(at, tie, event);
    }

    /// How long a segment takes.
    fn transit(&mut self) -> Duration {
        let mut time = self.settings.latency + self.up_to(self.settings.latency_spread);
        if self.random.below(1000) < self.settings.loss {
            time += self.up_to(Duration::from_secs(3));
        }
        time
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.below(nanos.saturating_add(1)))
    }

    fn note(&mut self, what: &[u64]) {
        let at = u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for value in [at].iter().chain(what) {
            self.trace = (self.trace.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn note_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.trace =
                (self.trace.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }
}
