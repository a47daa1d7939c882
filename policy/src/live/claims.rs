//! Which Pod objects name which address: whom it concerns when an endpoint takes the address or gives it up.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::Pod;

/// The addresses of Pod objects, as they were last told. Of each address there is one entry: a set for each address would be
/// a node of eleven names, for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    by_address: BTreeSet<(IpAddr, Claimant)>,
}

/// A pod, which is its name; none is before all.
#[derive(Clone, Debug)]
struct Claimant(Option<Arc<Pod>>);

impl Claimant {
    fn name(&self) -> Option<&NamespacedName> {
        self.0.as_ref().map(|pod| &pod.name)
    }
}

impl PartialEq for Claimant {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Claimant {}

impl PartialOrd for Claimant {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Claimant {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(&other.name())
    }
}

impl Claims {
    /// A pod's object, as it was told before, is another now; `None` if there was none, or is none any more.
    pub(crate) fn set(&mut self, before: Option<&Arc<Pod>>, now: Option<&Arc<Pod>>) {
        for claim in claims(before) {
            self.by_address.remove(&claim);
        }
        self.by_address.extend(claims(now));
    }

    /// The pods whose objects name an address.
    pub(crate) fn of(&self, address: IpAddr) -> impl Iterator<Item = &NamespacedName> {
        self.by_address
            .range((address, Claimant(None))..)
            .take_while(move |(named, _)| *named == address)
            .filter_map(|(_, claimant)| claimant.name())
    }
}

fn claims(pod: Option<&Arc<Pod>>) -> impl Iterator<Item = (IpAddr, Claimant)> {
    let claims = |pod: &Arc<Pod>, address: &IpAddr| (*address, Claimant(Some(Arc::clone(pod))));
    pod.into_iter()
        .flat_map(move |pod| pod.pod_ips.iter().map(move |address| claims(pod, address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_all_who_name_it_until_they_name_another() {
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let pod = |name: &str, addresses: &[u8]| {
            Arc::new(Pod {
                name: NamespacedName::new("shop", name),
                uid: String::new(),
                labels: api::Labels::new(),
                node_name: None,
                host_network: false,
                finished: false,
                pod_ips: addresses.iter().map(|last| address(*last)).collect(),
                fixed_ips: Vec::new(),
                named_ports: Vec::new(),
            })
        };
        let of = |claims: &Claims, last: u8| -> Vec<String> {
            claims
                .of(address(last))
                .map(|name| name.name.clone())
                .collect()
        };
        let mut claims = Claims::default();
        let (a, b) = (pod("a", &[1, 2]), pod("b", &[2, 3]));
        claims.set(None, Some(&a));
        claims.set(None, Some(&b));
        assert_eq!(
            (of(&claims, 1), of(&claims, 2)),
            (vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()])
        );
        let moved = pod("a", &[3]);
        claims.set(Some(&a), Some(&moved));
        assert_eq!(
            (of(&claims, 1), of(&claims, 2)),
            (vec![], vec!["b".to_owned()])
        );
        assert_eq!(of(&claims, 3), ["a", "b"]);
        claims.set(Some(&moved), None);
        claims.set(Some(&b), None);
        assert!(claims.by_address.is_empty());
    }
}
