//! What the server says of an object beside its contents, for those who write about it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::Key;

/// Of every object that status or Events may be about (all kinds but pods), as it was when its last change was sent; cheap
/// to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts(Arc<RwLock<BTreeMap<Key, ObjectFacts>>>);

/// What the server says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectFacts {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`, the one that was read; 0 where the kind has none.
    pub(crate) generation: i64,
}

impl Facts {
    /// What is known of an object; nothing of one that is not there.
    pub(crate) fn get(&self, key: &Key) -> Option<ObjectFacts> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned()
    }

    /// Every object that is known, in the order of the keys.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.keys().cloned().collect()
    }

    pub(super) fn set(&self, key: Key, facts: Option<ObjectFacts>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match facts {
            Some(facts) => known.insert(key, facts),
            None => known.remove(&key),
        };
    }
}
