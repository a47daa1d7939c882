//! Update groups: peers that are sent the same share one Adj-RIB-Out (RFC 4271 §3.2) and the encoded UPDATEs.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use super::columns::{Bits, Column, Queue};
use super::export::ExportKey;
use super::members::{Behind, Dump, Member, Position};
use super::store::{AttributeStore, AttributesId};
use crate::wire::Family;

/// Octets kept for members that are slower than the quickest; who is further behind is told on its own.
const LONGEST_LOG: usize = 1 << 20;
/// What a prefix takes on the wire, until a group knows better.
const FIRST_GUESS: usize = 8;

/// A path as a group was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) attributes: AttributesId,
    /// The slot of the peer it came from.
    pub(super) source: u16,
    /// 0 unless ADD-PATH is agreed on.
    pub(super) path_id: u32,
}

/// The paths of one prefix.
pub(super) type Routes = SmallVec<[Route; 1]>;

/// What a group was told, by prefix. Each set of attributes in here is held.
#[derive(Debug)]
pub(super) enum Told {
    One {
        attributes: Column<AttributesId>,
        sources: Column<u16>,
    },
    Several(HashMap<u32, Routes, FxBuildHasher>),
}

impl Told {
    pub(super) fn get(&self, id: u32) -> Routes {
        match self {
            Self::One {
                attributes,
                sources,
            } => {
                let attributes = attributes.get(id);
                let mut routes = Routes::new();
                if attributes != 0 {
                    routes.push(Route {
                        attributes,
                        source: sources.get(id),
                        path_id: 0,
                    });
                }
                routes
            }
            Self::Several(told) => told.get(&id).cloned().unwrap_or_default(),
        }
    }

    fn is_empty_at(&self, id: u32) -> bool {
        match self {
            Self::One { attributes, .. } => attributes.get(id) == 0,
            Self::Several(told) => !told.contains_key(&id),
        }
    }

    fn put(&mut self, id: u32, routes: &[Route]) {
        match self {
            Self::One {
                attributes,
                sources,
            } => match routes.first() {
                Some(route) => {
                    *attributes.get_mut(id) = route.attributes;
                    *sources.get_mut(id) = route.source;
                }
                None => *attributes.get_mut(id) = 0,
            },
            Self::Several(told) => {
                if routes.is_empty() {
                    told.remove(&id);
                } else {
                    told.insert(id, routes.into());
                }
            }
        }
    }

    fn clear(&mut self) {
        match self {
            Self::One {
                attributes,
                sources,
            } => {
                attributes.clear();
                sources.clear();
            }
            Self::Several(told) => *told = HashMap::default(),
        }
    }
}

/// Which members a run of messages is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// All but the peer in this slot, where the routes came from.
    AllBut(u16),
    /// Nobody but the peer in this slot.
    Only(u16),
}

impl Audience {
    fn has(self, member: u16) -> bool {
        match self {
            Self::AllBut(other) => member != other,
            Self::Only(one) => member == one,
        }
    }
}

/// Messages for the members, by audience: each run ends where it says.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) octets: Bytes,
    pub(super) runs: SmallVec<[(Audience, usize); 2]>,
    /// The prefixes it is about, for those who are left behind.
    pub(super) ids: Vec<u32>,
}

impl Chunk {
    /// What of it, from a run on, is for a member: a stretch of runs; and the run after that.
    pub(super) fn stretch(&self, member: u16, from: usize) -> Option<(Bytes, usize)> {
        let runs = self.runs.get(from..)?;
        let skipped = runs.iter().position(|(audience, _)| audience.has(member))?;
        let first = from + skipped;
        let taken = self.runs.get(first..)?;
        let taken = taken
            .iter()
            .take_while(|(audience, _)| audience.has(member));
        let end = first + taken.count();
        let end_of = |run: usize| self.runs.get(run).map_or(0, |(_, end)| *end);
        let start = if first == 0 { 0 } else { end_of(first - 1) };
        Some((self.octets.slice(start..end_of(end - 1)), end))
    }
}

/// Peers that are sent the same.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: ExportKey,
    pub(super) members: BTreeMap<u16, Member>,
    pub(super) told: Told,
    /// How many paths it was told, by where they came from.
    sent: HashMap<u16, usize, FxBuildHasher>,
    /// Prefixes whose paths may not be what the group was told.
    pub(super) pending: Queue,
    /// Of those, the ones to be sent even if the path is the same.
    pub(super) forced: Bits,
    /// After those: all prefixes from this id on. The first member of a group needs them all.
    pub(super) scan: Option<u32>,
    log: VecDeque<Chunk>,
    first_chunk: u64,
    log_octets: usize,
    /// About what a prefix takes on the wire, attributes included.
    pub(super) octets_per_prefix: usize,
}

impl Group {
    pub(super) fn new(key: ExportKey) -> Self {
        let told = if key.alone.is_some() {
            Told::Several(HashMap::default())
        } else {
            Told::One {
                attributes: Column::default(),
                sources: Column::default(),
            }
        };
        Self {
            key,
            members: BTreeMap::new(),
            told,
            sent: HashMap::default(),
            pending: Queue::default(),
            forced: Bits::default(),
            scan: Some(0),
            log: VecDeque::new(),
            first_chunk: 0,
            log_octets: 0,
            octets_per_prefix: FIRST_GUESS,
        }
    }

    /// Takes in a member that knows nothing yet.
    pub(super) fn join(&mut self, index: u16, enhanced_refresh: bool) {
        let position = if self.sent.is_empty() && self.log.is_empty() {
            self.end()
        } else {
            Position::Behind(Box::new(Behind {
                dump: Some(Dump {
                    next: 0,
                    refresh: None,
                    begun: false,
                }),
                ..Behind::default()
            }))
        };
        let member = Member::new(position, &self.key.context.families, enhanced_refresh);
        self.members.insert(index, member);
    }

    /// Takes a member out; it comes back with what it has not been told yet in its queue.
    pub(super) fn leave(&mut self, index: u16) -> Option<Member> {
        self.detach(index);
        let member = self.members.remove(&index);
        self.trim();
        member
    }

    /// Has a member told on its own from here on.
    pub(super) fn detach(&mut self, index: u16) {
        let Some(member) = self.members.get_mut(&index) else {
            return;
        };
        let Position::With { chunk, .. } = member.position else {
            return;
        };
        let mut behind = Behind::default();
        let skipped = usize::try_from(chunk - self.first_chunk).unwrap_or(usize::MAX);
        for id in self.log.iter().skip(skipped).flat_map(|chunk| &chunk.ids) {
            behind.queue.push(*id);
        }
        member.position = Position::Behind(Box::new(behind));
    }

    /// The position of one who has been told all that the group was.
    pub(super) fn end(&self) -> Position {
        Position::With {
            chunk: self.first_chunk + self.log.len() as u64,
            run: 0,
        }
    }

    /// Changes what the group was told of a prefix.
    pub(super) fn tell(&mut self, store: &mut AttributeStore, id: u32, routes: &[Route]) {
        for route in routes {
            store.hold(route.attributes);
            *self.sent.entry(route.source).or_default() += 1;
        }
        for route in self.told.get(id) {
            store.release(route.attributes);
            if let Some(count) = self.sent.get_mut(&route.source) {
                *count -= 1;
                if *count == 0 {
                    self.sent.remove(&route.source);
                }
            }
        }
        self.told.put(id, routes);
    }

    /// How many paths a member was told, or is about to be.
    pub(super) fn sent_to(&self, index: u16) -> usize {
        let sent = self.sent.iter().filter(|(source, _)| **source != index);
        sent.map(|(_, count)| count).sum()
    }

    /// Gives back what it was told; for when the last member has left. `end` is one past the last id.
    pub(super) fn forget(&mut self, store: &mut AttributeStore, end: u32) {
        for id in 0..end {
            if !self.told.is_empty_at(id) {
                self.tell(store, id, &[]);
            }
        }
    }

    /// Appends a chunk for the members that keep up, and leaves those behind who do not.
    pub(super) fn push(&mut self, chunk: Chunk) {
        if chunk.octets.is_empty() {
            return;
        }
        self.log_octets += chunk.octets.len();
        self.log.push_back(chunk);
        while self.log_octets > LONGEST_LOG && self.log.len() > 1 {
            let first = self.first_chunk;
            let slow = |member: &Member| matches!(member.position, Position::With { chunk, .. } if chunk == first);
            let slow = self.members.iter().filter(|(_, member)| slow(member));
            let slow: Vec<u16> = slow.map(|(index, _)| *index).collect();
            slow.into_iter().for_each(|index| self.detach(index));
            self.trim();
        }
    }

    /// The next messages of the stream for a member that keeps up; `None`: it has had all there is.
    pub(super) fn read(&mut self, index: u16) -> Option<Bytes> {
        loop {
            let member = self.members.get_mut(&index)?;
            let Position::With { chunk, run } = &mut member.position else {
                return None;
            };
            let at = usize::try_from(*chunk - self.first_chunk).unwrap_or(usize::MAX);
            let held = self.log.get(at)?;
            let read = held.stretch(index, *run).map(|(octets, next)| {
                *run = next;
                octets
            });
            if read.is_none() || *run >= held.runs.len() {
                *chunk += 1;
                *run = 0;
                self.trim();
            }
            if read.is_some() {
                return read;
            }
        }
    }

    /// Whether somebody may yet be told something that concerns this prefix.
    pub(super) fn holds(&self, id: u32) -> bool {
        !self.log.is_empty()
            || !self.told.is_empty_at(id)
            || self.pending.contains(id)
            || self.members.values().any(|member| member.awaits(id))
    }

    /// Notes for the members that are behind what the group was told.
    pub(super) fn note(&mut self, id: u32, family: Family) {
        for member in self.members.values_mut() {
            member.note(id, family);
        }
    }

    /// Gives memory back; for when no prefix is left.
    pub(super) fn reset(&mut self) {
        self.told.clear();
        self.forced = Bits::default();
        self.pending = Queue::default();
    }

    /// Drops the chunks that all members have had.
    fn trim(&mut self) {
        let reached = self
            .members
            .values()
            .filter_map(|member| match member.position {
                Position::With { chunk, .. } => Some(chunk),
                Position::Behind(_) => None,
            });
        let reached = reached.min().unwrap_or(u64::MAX);
        while self.first_chunk < reached
            && let Some(chunk) = self.log.pop_front()
        {
            self.first_chunk += 1;
            self.log_octets -= chunk.octets.len();
        }
    }
}
