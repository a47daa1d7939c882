//! A map that knows what is wanted and what is there, and so what is still to be done.

use std::collections::BTreeMap;

/// Desired and actual values by key. What is pending is derived, so it cannot be out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaMap<K, V> {
    desired: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
}

impl<K: Ord, V> Default for DeltaMap<K, V> {
    fn default() -> Self {
        Self {
            desired: BTreeMap::new(),
            actual: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, V: PartialEq> DeltaMap<K, V> {
    /// Makes one of both sides.
    pub fn new(desired: BTreeMap<K, V>, actual: BTreeMap<K, V>) -> Self {
        Self { desired, actual }
    }

    /// What is wanted.
    pub fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// What is there, as far as is known.
    pub fn actual(&self) -> &BTreeMap<K, V> {
        &self.actual
    }

    /// Says what is wanted for a key; `None`: that it be absent.
    pub fn set_desired(&mut self, key: K, value: Option<V>) {
        put(&mut self.desired, key, value);
    }

    /// Says what is there for a key, after a write or a notice; `None`: nothing.
    pub fn set_actual(&mut self, key: K, value: Option<V>) {
        put(&mut self.actual, key, value);
    }

    /// Replaces all that is wanted.
    pub fn replace_desired(&mut self, desired: BTreeMap<K, V>) {
        self.desired = desired;
    }

    /// Replaces all that is there (a full read-back).
    pub fn replace_actual(&mut self, actual: BTreeMap<K, V>) {
        self.actual = actual;
    }

    /// What is to be written, in key order: each with what is wanted and what is there now.
    pub fn pending_updates(&self) -> impl Iterator<Item = (&K, &V, Option<&V>)> {
        self.desired.iter().filter_map(|(key, wanted)| {
            let present = self.actual.get(key);
            (present != Some(wanted)).then_some((key, wanted, present))
        })
    }

    /// What is to be removed, in key order.
    pub fn pending_deletions(&self) -> impl Iterator<Item = (&K, &V)> {
        self.actual
            .iter()
            .filter(|(key, _)| !self.desired.contains_key(*key))
    }

    /// Says whether nothing is pending.
    pub fn in_sync(&self) -> bool {
        self.desired == self.actual
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_map_is_in_sync() {
        let map: DeltaMap<u8, u8> = DeltaMap::default();
        assert!(map.in_sync());
        assert_eq!(map.pending_updates().count(), 0);
    }

    #[test]
    fn what_was_changed_back_is_not_pending() {
        let mut map = DeltaMap::new(BTreeMap::from([(1, 'a')]), BTreeMap::from([(1, 'a')]));
        map.set_desired(1, Some('b'));
        assert_eq!(
            map.pending_updates().collect::<Vec<_>>(),
            [(&1, &'b', Some(&'a'))]
        );
        map.set_desired(1, Some('a'));
        assert!(map.in_sync());
    }

    #[test]
    fn damage_by_others_becomes_pending() {
        let mut map = DeltaMap::new(BTreeMap::from([(1, 'a')]), BTreeMap::from([(1, 'a')]));
        map.set_actual(1, None);
        map.set_actual(2, Some('x'));
        assert_eq!(
            map.pending_updates().collect::<Vec<_>>(),
            [(&1, &'a', None)]
        );
        assert_eq!(map.pending_deletions().collect::<Vec<_>>(), [(&2, &'x')]);
    }

    proptest! {
        #[test]
        fn doing_all_that_is_pending_brings_it_in_sync(
            desired: BTreeMap<u8, u8>, actual: BTreeMap<u8, u8>
        ) {
            let mut map = DeltaMap::new(desired.clone(), actual);
            let updates: Vec<_> = map.pending_updates().map(|(key, value, _)| (*key, *value)).collect();
            let gone: Vec<_> = map.pending_deletions().map(|(key, _)| *key).collect();
            for (key, value) in updates {
                map.set_actual(key, Some(value));
            }
            for key in gone {
                map.set_actual(key, None);
            }
            prop_assert!(map.in_sync());
            prop_assert_eq!(map.actual(), &desired);
        }
    }
}
