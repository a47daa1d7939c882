//! Answers `portolan policy drops`: adds the pods' names to the packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ring::{DropsAnswer, Ring};

/// The packets from a number on, with the names of the pods that have their addresses now.
pub(crate) fn answer(ring: &Ring, since: u64, objects: &policy::Objects) -> DropsAnswer {
    let mut answer = ring.since(since);
    if answer.packets.is_empty() {
        return answer;
    }
    let names = pods_by_address(objects);
    let of = |address: IpAddr| names.get(&address).cloned();
    for packet in &mut answer.packets {
        packet.from_pod = of(packet.source);
        packet.to_pod = of(packet.destination);
    }
    answer
}

/// Local endpoints go before Pod objects, which may be out of date; a host-network pod's address is its node's.
fn pods_by_address(objects: &policy::Objects) -> BTreeMap<IpAddr, String> {
    let pods = objects.pods.values().flat_map(policy::Pods::iter);
    let pods = pods.filter(|pod| !pod.host_network && !pod.finished);
    let known = pods.flat_map(|pod| pod.pod_ips.iter().map(|address| (*address, &pod.name)));
    let local = objects.endpoints.values();
    let local = local.filter(|endpoint| !endpoint.pod.name.is_empty());
    let local = local.flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter();
        addresses.map(|address| (*address, &endpoint.pod))
    });
    known
        .chain(local)
        .map(|(address, pod)| (address, pod.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use api::NamespacedName;

    use super::super::ring::tests::example;
    use super::*;

    #[test]
    fn packets_bear_the_names_of_pods_with_their_addresses() {
        let mut objects = policy::Objects::default();
        let endpoint = policy::Endpoint {
            pod: NamespacedName::new("shop", "web"),
            uid: String::new(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
        };
        objects.set_endpoints(BTreeMap::from([("ptl1".to_owned(), endpoint)]));
        let ring = Ring::default();
        ring.push(example(), 0);
        let packet = answer(&ring, 0, &objects).packets.remove(0);
        assert_eq!(packet.from_pod.as_deref(), Some("shop/web"));
        assert_eq!(packet.to_pod, None);
    }
}
