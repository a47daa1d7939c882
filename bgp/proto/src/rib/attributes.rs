//! Interned path attributes: each distinct set is held once, with what the decision process reads of it beside it.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxSeededState;

use crate::wire::{AsPathSegment, Asn, Origin, PathAttributes, SegmentKind};

/// One distinct set of attributes. Two routes have equal attributes exactly when their ids are equal.
#[derive(Debug)]
pub(super) struct Interned {
    /// Given in the order of first sight and never reused.
    pub(super) id: u64,
    pub(super) attributes: Arc<PathAttributes>,
    pub(super) key: DecisionKey,
}

/// What the decision process compares, computed once for each set of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecisionKey {
    pub(super) local_pref: Option<u32>,
    pub(super) as_path_length: usize,
    pub(super) origin: Origin,
    /// A missing MULTI_EXIT_DISC counts as the lowest value (RFC 4271 §9.1.2.2 c).
    pub(super) med: u32,
    /// The AS the route was received from; `None` for a path that starts inside our own AS.
    pub(super) neighbour: Option<Asn>,
}

impl DecisionKey {
    pub(super) fn new(attributes: &PathAttributes) -> Self {
        Self {
            local_pref: attributes.local_pref,
            as_path_length: as_path_length(&attributes.as_path),
            origin: attributes.origin,
            med: attributes.med.unwrap_or(0),
            neighbour: neighbour_as(&attributes.as_path),
        }
    }
}

/// The store. Entries nobody holds any more are swept when the store has doubled since the last sweep.
#[derive(Debug)]
pub(super) struct AttributeStore {
    entries: HashMap<Arc<PathAttributes>, Arc<Interned>, FxSeededState>,
    next_id: u64,
    sweep_at: usize,
}

const SMALLEST_SWEEP: usize = 1024;

impl AttributeStore {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: HashMap::with_hasher(hasher(seed)),
            next_id: 0,
            sweep_at: SMALLEST_SWEEP,
        }
    }

    pub(super) fn intern(&mut self, attributes: &Arc<PathAttributes>) -> Arc<Interned> {
        if let Some(known) = self.entries.get(attributes) {
            return Arc::clone(known);
        }
        if self.entries.len() >= self.sweep_at {
            self.sweep();
        }
        let interned = Arc::new(Interned {
            id: self.next_id,
            attributes: Arc::clone(attributes),
            key: DecisionKey::new(attributes),
        });
        self.next_id += 1;
        self.entries
            .insert(Arc::clone(attributes), Arc::clone(&interned));
        interned
    }

    pub(super) fn sweep(&mut self) {
        self.entries
            .retain(|_, interned| Arc::strong_count(interned) > 1);
        self.sweep_at = (self.entries.len() * 2).max(SMALLEST_SWEEP);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The hasher of every map keyed by what a peer chooses.
pub(super) fn hasher(seed: u64) -> FxSeededState {
    // On a 32-bit machine the upper half is folded in rather than lost.
    FxSeededState::with_seed((seed ^ (seed >> 32)) as usize)
}

/// RFC 4271 §9.1.2.2 a: an AS_SET counts as one however many are in it; RFC 5065 §5.3: confederation segments count zero.
fn as_path_length(path: &[AsPathSegment]) -> usize {
    path.iter()
        .map(|segment| match segment.kind {
            SegmentKind::Sequence => segment.asns.len(),
            SegmentKind::Set => 1,
            SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
        })
        .sum()
}

fn neighbour_as(path: &[AsPathSegment]) -> Option<Asn> {
    let first = path
        .iter()
        .find(|segment| matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set))?;
    match first.kind {
        SegmentKind::Sequence => first.asns.first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::tests::fixtures::attributes;

    #[test]
    fn equal_attributes_are_held_once() {
        let mut store = AttributeStore::new(1);
        let one = store.intern(&Arc::new(attributes(&[1, 2])));
        let two = store.intern(&Arc::new(attributes(&[1, 2])));
        let other = store.intern(&Arc::new(attributes(&[1, 3])));
        assert!(Arc::ptr_eq(&one, &two));
        assert_ne!(one.id, other.id);
        assert_eq!(store.len(), 2);
    }

    #[test]
    fn a_sweep_drops_what_nobody_holds() {
        let mut store = AttributeStore::new(1);
        let kept = store.intern(&Arc::new(attributes(&[1])));
        for n in 0..10_000 {
            store.intern(&Arc::new(attributes(&[2, n])));
        }
        assert!(store.len() <= SMALLEST_SWEEP + 1, "{}", store.len());
        store.sweep();
        assert_eq!(store.len(), 1);
        assert_eq!(store.intern(&Arc::new(attributes(&[1]))).id, kept.id);
    }

    #[test]
    fn sets_count_one_and_confederation_segments_nothing() {
        let segment = |kind, asns: &[u32]| AsPathSegment {
            kind,
            asns: asns.iter().map(|&n| Asn(n)).collect(),
        };
        let path = [
            segment(SegmentKind::ConfedSequence, &[9, 8]),
            segment(SegmentKind::Sequence, &[1, 2]),
            segment(SegmentKind::Set, &[3, 4, 5]),
            segment(SegmentKind::ConfedSet, &[7]),
        ];
        assert_eq!(as_path_length(&path), 3);
        assert_eq!(neighbour_as(&path), Some(Asn(1)));
        assert_eq!(neighbour_as(&[]), None);
    }
}
