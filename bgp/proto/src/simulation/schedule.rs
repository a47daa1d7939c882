//! The queue of what is to happen when; things of one instant happen in an order drawn from the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::node::{ConnectionId, NodeId};

/// Something that happens at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A node's timer; stale unless it is the last one armed.
    Timer { node: NodeId, generation: u64 },
    /// The front of the pipe towards this end (0: the dialler) arrives.
    Deliver {
        connection: ConnectionId,
        end: usize,
    },
    /// A dial reaches the other machine, if it can.
    Syn {
        connection: ConnectionId,
        attempt: u32,
    },
    /// The refusal of a dial reaches the dialler.
    Refused { connection: ConnectionId },
}

/// Earliest first; among equals by `tie`, then in the order of their coming.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Reverse<(Instant, u32, u64, Event)>>,
    count: u64,
}

impl Schedule {
    pub(super) fn push(&mut self, at: Instant, tie: u32, event: Event) {
        self.count += 1;
        self.heap.push(Reverse((at, tie, self.count, event)));
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, Event)> {
        let Reverse((at, _, _, event)) = self.heap.pop()?;
        Some((at, event))
    }
}
