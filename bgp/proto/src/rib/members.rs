//! Where each member of an update group is in the group's stream, and what it is owed beside it.

use super::columns::Queue;
use crate::wire::Family;

/// The families that are spoken, by their place in arrays.
pub(super) const FAMILIES: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

/// The place of a family in arrays.
pub(super) fn slot(family: Family) -> usize {
    usize::from(family != Family::IPV4_UNICAST)
}

/// A peer with a session, in its update group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) position: Position,
    /// End-of-RIB is due (RFC 4724 §2).
    pub(super) owes_end: [bool; 2],
    /// It asked for all of a family again.
    pub(super) asked: [bool; 2],
    /// The answer is framed by BoRR and EoRR (RFC 7313 §4).
    pub(super) enhanced_refresh: bool,
}

#[derive(Debug)]
pub(super) enum Position {
    /// It takes the group's stream as it comes: its next chunk, and the next run in it.
    With { chunk: u64, run: usize },
    /// It is told on its own, until it has caught up with what the group was told.
    Behind(Box<Behind>),
}

/// What a member that is behind has to be told.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Prefixes of which it may know something else than the group.
    pub(super) queue: Queue,
    /// After those: all that the group was told.
    pub(super) dump: Option<Dump>,
}

/// A walk over the whole Adj-RIB-Out.
#[derive(Debug)]
pub(super) struct Dump {
    /// The next id.
    pub(super) next: u32,
    /// Not the first dump of a session but the answer to a ROUTE-REFRESH for this family.
    pub(super) refresh: Option<Family>,
    /// BoRR has been sent.
    pub(super) begun: bool,
}

impl Member {
    pub(super) fn new(position: Position, families: &[Family], enhanced_refresh: bool) -> Self {
        Self {
            position,
            owes_end: FAMILIES.map(|family| families.contains(&family)),
            asked: [false; 2],
            enhanced_refresh,
        }
    }

    /// What the group has just been told of a prefix has yet to be told to this member, if it is behind.
    pub(super) fn note(&mut self, id: u32, family: Family) {
        if let Position::Behind(behind) = &mut self.position {
            let comes = behind.dump.as_ref().is_some_and(|dump| {
                id >= dump.next && dump.refresh.is_none_or(|only| only == family)
            });
            if !comes {
                behind.queue.push(id);
            }
        }
    }

    pub(super) fn awaits(&self, id: u32) -> bool {
        match &self.position {
            Position::With { .. } => false,
            Position::Behind(behind) => behind.queue.contains(id),
        }
    }
}
