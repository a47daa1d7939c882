//! The bound on connections that have no session yet: what they cost is paid before anyone has shown who he is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many connections may be without a session, from one address and in all.
#[derive(Debug)]
pub struct Slots {
    per_address: usize,
    total: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// By address and, if link-local, interface.
    by_source: BTreeMap<Source, usize>,
    total: usize,
}

type Source = (IpAddr, u32);

/// One connection without a session; its place is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    source: Source,
}

/// Simultaneous open, a restart and a half-open leftover make three.
const PER_ADDRESS: usize = 4;
const TOTAL: usize = 1024;

impl Slots {
    /// Bounds of one's own; the default is 4 an address, 1,024 in all.
    #[must_use]
    pub fn new(per_address: usize, total: usize) -> Self {
        Self {
            per_address,
            total,
            taken: Mutex::default(),
        }
    }

    /// A place for a connection from there, if there is one.
    #[must_use]
    pub fn take(self: &Arc<Self>, remote: SocketAddr) -> Option<Slot> {
        let scope = match remote {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        let source = (remote.ip(), scope);
        let mut taken = self.lock();
        let of_source = taken.by_source.get(&source).copied().unwrap_or_default();
        if of_source >= self.per_address || taken.total >= self.total {
            return None;
        }
        taken.by_source.insert(source, of_source + 1);
        taken.total += 1;
        Some(Slot {
            slots: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new(PER_ADDRESS, TOTAL)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.total -= 1;
        if let Some(count) = taken.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_an_address_and_in_all_and_come_back() {
        let slots = Arc::new(Slots::new(2, 3));
        let (a, b) = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:5".parse().unwrap());
        let first = slots.take(a);
        let second = slots.take(a);
        assert!(first.is_some() && second.is_some());
        assert!(slots.take(a).is_none(), "a third of one address");
        let third = slots.take(b);
        assert!(third.is_some());
        assert!(slots.take(b).is_none(), "a fourth in all");
        drop(first);
        assert!(slots.take(b).is_some());
        drop((second, third));
        assert!(slots.lock().by_source.is_empty());
    }
}
