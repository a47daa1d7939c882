//! Values that many routes share, each kept once under a small number for as long as somebody uses it.

use std::hash::Hash;
use std::num::NonZeroU32;

use hashbrown::HashMap;

/// The number of an interned value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(NonZeroU32);

impl Id {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Debug)]
struct Slot<V, X> {
    value: V,
    extra: X,
    uses: u32,
}

/// Counted values, with something that belongs to each.
#[derive(Debug)]
pub(crate) struct Interner<V, X> {
    slots: Vec<Option<Slot<V, X>>>,
    free: Vec<Id>,
    ids: HashMap<V, Id>,
}

impl<V, X> Default for Interner<V, X> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ids: HashMap::new(),
        }
    }
}

impl<V: Clone + Eq + Hash, X> Interner<V, X> {
    /// Counts one more use of a value; `extra` makes what belongs to a new one.
    pub(crate) fn acquire(&mut self, value: V, extra: impl FnOnce(&V) -> X) -> Id {
        if let Some(id) = self.ids.get(&value).copied() {
            self.retain(id);
            return id;
        }
        let slot = Some(Slot {
            extra: extra(&value),
            value: value.clone(),
            uses: 1,
        });
        let id = if let Some(id) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(id.index()) {
                *place = slot;
            }
            id
        } else {
            self.slots.push(slot);
            let number = u32::try_from(self.slots.len())
                .ok()
                .and_then(NonZeroU32::new);
            Id(number.expect("fewer than 2^32 values, each of which fills memory"))
        };
        self.ids.insert(value, id);
        id
    }

    /// Counts one more use.
    pub(crate) fn retain(&mut self, id: Id) {
        if let Some(Some(slot)) = self.slots.get_mut(id.index()) {
            slot.uses += 1;
        }
    }

    /// Counts one use less; what belonged to the value if that was the last.
    pub(crate) fn release(&mut self, id: Id) -> Option<X> {
        let place = self.slots.get_mut(id.index())?;
        let slot = place.as_mut()?;
        slot.uses -= 1;
        if slot.uses > 0 {
            return None;
        }
        let slot = place.take()?;
        self.ids.remove(&slot.value);
        self.free.push(id);
        Some(slot.extra)
    }

    pub(crate) fn find(&self, value: &V) -> Option<Id> {
        self.ids.get(value).copied()
    }

    pub(crate) fn value(&self, id: Id) -> Option<&V> {
        Some(&self.slot(id)?.value)
    }

    pub(crate) fn extra(&self, id: Id) -> Option<&X> {
        Some(&self.slot(id)?.extra)
    }

    pub(crate) fn extra_mut(&mut self, id: Id) -> Option<&mut X> {
        Some(&mut self.slots.get_mut(id.index())?.as_mut()?.extra)
    }

    /// All values, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &V, &X)> {
        let numbered = (1u32..).filter_map(NonZeroU32::new).zip(&self.slots);
        numbered.filter_map(|(n, slot)| slot.as_ref().map(|s| (Id(n), &s.value, &s.extra)))
    }

    /// What belongs to each value.
    pub(crate) fn extras_mut(&mut self) -> impl Iterator<Item = &mut X> {
        self.slots.iter_mut().flatten().map(|slot| &mut slot.extra)
    }

    fn slot(&self, id: Id) -> Option<&Slot<V, X>> {
        self.slots.get(id.index())?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lives_as_long_as_it_is_used_and_its_number_is_used_again() {
        let mut all: Interner<&str, usize> = Interner::default();
        let a = all.acquire("a", |v| v.len());
        assert_eq!(all.acquire("a", |_| 9), a);
        let b = all.acquire("bb", |v| v.len());
        assert_eq!((all.extra(a), all.extra(b)), (Some(&1), Some(&2)));
        assert_eq!(all.release(a), None);
        assert_eq!(all.release(a), Some(1));
        assert_eq!(
            (all.find(&"a"), all.value(a), all.value(b)),
            (None, None, Some(&"bb"))
        );
        assert_eq!(all.acquire("c", |_| 3), a);
        assert_eq!(
            all.iter().map(|(_, v, _)| *v).collect::<Vec<_>>(),
            ["c", "bb"]
        );
    }
}
