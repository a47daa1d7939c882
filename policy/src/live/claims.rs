//! Which Pod objects name which address: whom it concerns when an endpoint takes the address or gives it up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;

/// The addresses of Pod objects, as they were last told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    by_pod: BTreeMap<NamespacedName, Vec<IpAddr>>,
    by_address: BTreeMap<IpAddr, BTreeSet<NamespacedName>>,
}

impl Claims {
    /// A pod's object names these addresses now; none if it is gone.
    pub(crate) fn set(&mut self, name: &NamespacedName, addresses: &[IpAddr]) {
        if self.by_pod.get(name).map_or(&[][..], Vec::as_slice) == addresses {
            return;
        }
        for address in self.by_pod.remove(name).unwrap_or_default() {
            if let Some(names) = self.by_address.get_mut(&address) {
                names.remove(name);
                if names.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
        for address in addresses {
            let names = self.by_address.entry(*address).or_default();
            names.insert(name.clone());
        }
        if !addresses.is_empty() {
            self.by_pod.insert(name.clone(), addresses.to_vec());
        }
    }

    /// The pods whose objects name an address.
    pub(crate) fn of(&self, address: IpAddr) -> impl Iterator<Item = &NamespacedName> {
        self.by_address.get(&address).into_iter().flatten()
    }
}
