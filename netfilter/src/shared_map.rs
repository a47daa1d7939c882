//! A sorted map whose copies share what they don't change, and which finds what two copies differ in without walking the rest.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// A leaf with more entries is cut in two.
const MOST: usize = 96;
/// Two neighbours that have fewer together become one.
const FEW: usize = 32;

type Leaf<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map: copying it costs nothing, and changing one entry of a copy costs a leaf and the list of leaves, not the whole.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// None is empty; each holds smaller keys than the next.
    leaves: Arc<Vec<Leaf<K, V>>>,
    len: usize,
}

impl<K: Ord, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What a key has.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// The same with the key as it is held.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        let at = position(leaf, key).ok()?;
        leaf.get(at).map(|(key, value)| (key, value))
    }

    /// Whether a key has something.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// All entries by their keys' order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            leaves: self.leaves.iter(),
            leaf: [].iter(),
        }
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values by their keys' order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The keys, in order, that one of the two alone has, or whose values are not the same. Where both share a leaf its entries
    /// are not looked at.
    pub fn differing<'a>(
        &'a self,
        other: &'a Self,
        is_same: impl Fn(&V, &V) -> bool,
    ) -> Vec<&'a K> {
        let mut differing = Vec::new();
        if Arc::ptr_eq(&self.leaves, &other.leaves) {
            return differing;
        }
        let (mut ours, mut theirs) = (Cursor::new(&self.leaves), Cursor::new(&other.leaves));
        loop {
            while let (Some(one), Some(two)) = (ours.whole_leaf(), theirs.whole_leaf())
                && Arc::ptr_eq(one, two)
            {
                ours.skip_leaf();
                theirs.skip_leaf();
            }
            let order = match (ours.entry(), theirs.entry()) {
                (Some((one, _)), Some((two, _))) => one.cmp(two),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return differing,
            };
            let one = order.is_le().then(|| ours.next()).flatten();
            let two = order.is_ge().then(|| theirs.next()).flatten();
            match (one, two) {
                (Some((_, one)), Some((_, two))) if is_same(one, two) => {}
                (Some((key, _)), _) | (None, Some((key, _))) => differing.push(key),
                (None, None) => {}
            }
        }
    }

    /// The leaf that has a key, or would have it: the last that begins with it or before it.
    fn leaf_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let begins_before = |leaf: &Leaf<K, V>| {
            let first = leaf.first();
            first.is_some_and(|(first, _)| first.borrow() <= key)
        };
        self.leaves.partition_point(begins_before).saturating_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Gives a key a value; what it had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.leaf_of(&key);
        let leaves = Arc::make_mut(&mut self.leaves);
        let Some(leaf) = leaves.get_mut(at) else {
            leaves.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let entries = Arc::make_mut(leaf);
        match position(entries, &key) {
            Ok(at) => {
                let held = entries.get_mut(at).map(|(_, held)| held)?;
                Some(std::mem::replace(held, value))
            }
            Err(place) => {
                entries.insert(place, (key, value));
                self.len += 1;
                if entries.len() > MOST {
                    let second = entries.split_off(MOST / 2);
                    leaves.insert(at + 1, Arc::new(second));
                }
                None
            }
        }
    }

    /// Takes a key's value away.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.leaf_of(key);
        let place = position(self.leaves.get(at)?, key).ok()?;
        let leaves = Arc::make_mut(&mut self.leaves);
        let entries = Arc::make_mut(leaves.get_mut(at)?);
        let (_, value) = entries.remove(place);
        self.len -= 1;
        let left = entries.len();
        if left == 0 {
            leaves.remove(at);
        } else if leaves
            .get(at + 1)
            .is_some_and(|next| next.len() + left < FEW)
        {
            let next = leaves.remove(at + 1);
            if let Some(leaf) = leaves.get_mut(at) {
                Arc::make_mut(leaf).extend(next.iter().cloned());
            }
        }
        Some(value)
    }

    /// What a key has, to be changed in place.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.leaf_of(key);
        let place = position(self.leaves.get(at)?, key).ok()?;
        let leaf = Arc::make_mut(&mut self.leaves).get_mut(at)?;
        let entry = Arc::make_mut(leaf).get_mut(place);
        entry.map(|(_, value)| value)
    }

    /// What a key has, to be changed in place: the default, if there is nothing.
    pub(crate) fn get_or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        if !self.contains_key(key) {
            self.insert(key.clone(), V::default());
        }
        self.get_mut(key).expect("it is there now")
    }

    /// Keeps those entries alone for which this holds.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &V) -> bool) {
        let kept = self.iter().filter(|(key, value)| keeps(key, value));
        *self = kept
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
    }
}

fn position<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(held, _)| held.borrow().cmp(key))
}

/// A place in a list of leaves.
struct Cursor<'a, K, V> {
    leaves: std::slice::Iter<'a, Leaf<K, V>>,
    leaf: Option<&'a Leaf<K, V>>,
    place: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(leaves: &'a [Leaf<K, V>]) -> Self {
        let mut leaves = leaves.iter();
        let leaf = leaves.next();
        Self {
            leaves,
            leaf,
            place: 0,
        }
    }

    /// The leaf that this is before the first entry of.
    fn whole_leaf(&self) -> Option<&'a Leaf<K, V>> {
        self.leaf.filter(|_| self.place == 0)
    }

    fn skip_leaf(&mut self) {
        self.leaf = self.leaves.next();
        self.place = 0;
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.leaf?.get(self.place)
    }

    fn next(&mut self) -> Option<&'a (K, V)> {
        let entry = self.entry();
        self.place += 1;
        if self.leaf.is_some_and(|leaf| self.place >= leaf.len()) {
            self.skip_leaf();
        }
        entry
    }
}

/// Entries in order.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    leaves: std::slice::Iter<'a, Leaf<K, V>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            self.leaf = self.leaves.next()?.iter();
        }
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, entries: T) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// # Panics
    /// If the key has nothing.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the key has something")
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            leaves: Arc::default(),
            len: 0,
        }
    }
}

/// Equal is what has equal entries, however they came to be in their leaves.
impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differing(other, V::eq).is_empty()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys that are given a value or lose it.
    fn steps() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        prop::collection::vec((0..600_u16, prop::option::weighted(0.7, 0..4_u8)), 0..900)
    }

    fn walk(
        map: &mut SharedMap<u16, u8>,
        model: &mut BTreeMap<u16, u8>,
        steps: &[(u16, Option<u8>)],
    ) {
        for (key, value) in steps {
            let pair = match value {
                Some(value) => (map.insert(*key, *value), model.insert(*key, *value)),
                None => (map.remove(key), model.remove(key)),
            };
            assert_eq!(pair.0, pair.1, "{key}");
        }
        assert!(map.iter().eq(model.iter()) && map.len() == model.len());
        let sizes = || map.leaves.iter().map(|leaf| leaf.len());
        assert!(sizes().all(|size| (1..=MOST).contains(&size)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn it_holds_what_a_map_holds_and_a_copy_keeps_what_it_had(first in steps(), then in steps()) {
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            walk(&mut map, &mut model, &first);
            let (copy, before) = (map.clone(), model.clone());
            walk(&mut map, &mut model, &then);
            assert!(copy.iter().eq(before.iter()));
            for key in 0..600 {
                assert_eq!((map.get(&key), copy.get(&key)), (model.get(&key), before.get(&key)));
            }
            let mut keys: Vec<&u16> = model.keys().chain(before.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.retain(|key| model.get(key) != before.get(key));
            assert_eq!(copy.differing(&map, u8::eq), keys);
            assert_eq!(map.differing(&copy, u8::eq), keys);
            assert_eq!(copy == map, before == model);
            let rebuilt: SharedMap<u16, u8> = model.into_iter().collect();
            assert_eq!(rebuilt, map);
        }
    }

    #[test]
    fn of_ten_thousand_entries_two_copies_look_at_few_to_find_what_differs() {
        let old: SharedMap<u32, u32> = (0..10_000).map(|key| (key, 0)).collect();
        let mut new = old.clone();
        new.insert(5_000, 1);
        new.insert(20_000, 1);
        new.remove(&17);
        let looks = std::cell::Cell::new(0);
        let found = old.differing(&new, |one, two| {
            looks.set(looks.get() + 1);
            one == two
        });
        assert_eq!(found, [&17, &5_000, &20_000]);
        assert!((1..=3 * MOST).contains(&looks.get()), "{}", looks.get());
    }
}
