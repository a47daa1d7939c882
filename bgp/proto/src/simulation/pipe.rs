//! A TCP connection as the network holds it: two ends, and what is under way to each, in order.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::node::NodeId;

/// What arrives at an end.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Connected,
    Bytes(Bytes),
    Closed(&'static str),
}

/// What is under way to one end. A `Deliver` event is scheduled for each item, or counted in `stalled`.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) items: VecDeque<Item>,
    /// When the last of them is due: nothing overtakes it.
    pub(super) last: Instant,
    /// How many could not be delivered when they were due, as the way was cut.
    pub(super) stalled: u32,
    /// Octets in `items`.
    pub(super) octets: usize,
    /// The sender was told that they wait.
    pub(super) blocked: bool,
}

impl Pipe {
    /// What is under way never arrives.
    pub(super) fn lose(&mut self) {
        self.items.clear();
        (self.octets, self.blocked) = (0, false);
    }
}

/// A connection; end 0 dialled.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) nodes: [NodeId; 2],
    /// Whether the process at this end holds it.
    pub(super) open: [bool; 2],
    /// What is under way to each end.
    pub(super) pipes: [Pipe; 2],
}

impl Connection {
    pub(super) fn new(now: Instant, dialler: NodeId, acceptor: NodeId) -> Self {
        let pipe = || Pipe {
            items: VecDeque::new(),
            last: now,
            stalled: 0,
            octets: 0,
            blocked: false,
        };
        Self {
            nodes: [dialler, acceptor],
            open: [false; 2],
            pipes: [pipe(), pipe()],
        }
    }

    /// The machine at this end.
    pub(super) fn node(&self, end: usize) -> NodeId {
        let [dialler, acceptor] = self.nodes;
        if end == 0 { dialler } else { acceptor }
    }

    /// The end of this machine. Nobody dials itself.
    pub(super) fn end_of(&self, node: NodeId) -> usize {
        usize::from(self.node(0) != node)
    }

    pub(super) fn pipe(&mut self, end: usize) -> &mut Pipe {
        let [dialler, acceptor] = &mut self.pipes;
        if end == 0 { dialler } else { acceptor }
    }

    pub(super) fn is_open(&self, end: usize) -> bool {
        let [dialler, acceptor] = self.open;
        if end == 0 { dialler } else { acceptor }
    }

    pub(super) fn set_open(&mut self, end: usize, open: bool) {
        let [dialler, acceptor] = &mut self.open;
        *(if end == 0 { dialler } else { acceptor }) = open;
    }

    /// The machine at one of its ends, if it is one, is no more.
    pub(super) fn lose(&mut self, node: NodeId) {
        if self.nodes.contains(&node) {
            let end = self.end_of(node);
            self.set_open(end, false);
            self.pipe(1 - end).lose();
        }
    }

    /// Nobody holds it and nothing is under way.
    pub(super) fn is_over(&self) -> bool {
        self.open == [false; 2] && self.pipes.iter().all(|pipe| pipe.items.is_empty())
    }
}
