//! Finds pods by name and address; an unknown one is answered with those whose names are like it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ::policy::{Objects, Pods};
use api::NamespacedName;

/// So many are named in an error.
const NAMED: usize = 5;
/// Names that so few letters tell apart are like each other.
const FEW: usize = 2;

/// The pods that there are.
pub(super) struct Names<'a> {
    objects: &'a Objects,
    /// The addresses by which they are attached here.
    attached: BTreeMap<&'a NamespacedName, Vec<IpAddr>>,
}

impl<'a> Names<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        let mut attached: BTreeMap<_, Vec<IpAddr>> = BTreeMap::new();
        for endpoint in objects.endpoints.values() {
            let of_pod = attached.entry(&endpoint.pod).or_default();
            of_pod.extend(&endpoint.addresses);
        }
        Self { objects, attached }
    }

    /// A pod's addresses: those that it is attached by, or else what its object says.
    ///
    /// # Errors
    /// If there is no such pod, or it has no address yet.
    pub(super) fn addresses(&self, pod: &NamespacedName) -> Result<Vec<IpAddr>, String> {
        let object = self.objects.pod(pod);
        let addresses = match (self.attached.get(pod), object) {
            (Some(attached), _) => attached.clone(),
            (None, Some(object)) => object.pod_ips.clone(),
            (None, None) => return Err(self.unknown(pod)),
        };
        if addresses.is_empty() {
            return Err(format!("pod {pod} has no address yet: it is not attached"));
        }
        Ok(addresses)
    }

    /// The pod that has an address.
    ///
    /// # Errors
    /// If none has it.
    pub(super) fn holder(&self, address: IpAddr) -> Result<NamespacedName, String> {
        let holder = self.objects.holder(address);
        let host_network = || {
            let mut pods = self.objects.pods.values().flat_map(Pods::iter);
            pods.find(|pod| pod.pod_ips.contains(&address))
                .map(|pod| pod.name.clone())
        };
        holder
            .map(|holder| holder.pod.clone())
            .or_else(host_network)
            .ok_or_else(|| format!("no pod has the address {address}"))
    }

    /// The number behind a pod's name for a port.
    ///
    /// # Errors
    /// If it has no such port of the protocol; the text lists those that it has.
    pub(super) fn port(
        &self,
        pod: &NamespacedName,
        name: &str,
        protocol: &str,
    ) -> Result<u16, String> {
        let ports = self
            .objects
            .pod(pod)
            .map_or(&[][..], |pod| pod.named_ports.as_slice());
        let of = |port: &api::resources::ContainerPort| super::words::protocol(port.protocol);
        let mut found = ports
            .iter()
            .filter(|port| port.name == name && of(port) == protocol);
        if let Some(port) = found.next() {
            return Ok(port.port);
        }
        let known: Vec<String> = ports
            .iter()
            .map(|port| format!("{} ({}/{})", port.name, port.port, of(port)))
            .collect();
        let known = match known.is_empty() {
            true => "it has no names for ports".to_owned(),
            false => format!("it has {}", known.join(", ")),
        };
        Err(format!(
            "pod {pod} has no {protocol} port named {name}: {known}"
        ))
    }

    fn unknown(&self, pod: &NamespacedName) -> String {
        let of_objects = self.objects.pods.values().flat_map(Pods::iter);
        let of_objects = of_objects.map(|pod| pod.name.clone());
        let mut near: Vec<(usize, NamespacedName)> = of_objects
            .chain(self.attached.keys().map(|name| (*name).clone()))
            .filter_map(|other| Some((likeness(pod, &other)?, other)))
            .collect();
        near.sort();
        near.dedup();
        let nearest = near.first().map_or(0, |(apart, _)| *apart);
        near.retain(|(apart, _)| *apart == nearest);
        if near.is_empty() {
            return format!("there is no pod {pod}, nor one with a name like it");
        }
        let names = near.iter().take(NAMED).map(|(_, name)| name.to_string());
        let names: Vec<String> = names.collect();
        format!("there is no pod {pod}; there is {}", names.join(", "))
    }
}

/// How far a name is from the one that was asked for; none: too far.
fn likeness(asked: &NamespacedName, other: &NamespacedName) -> Option<usize> {
    let same_namespace = asked.namespace == other.namespace;
    let apart = distance(&asked.name, &other.name);
    if asked.name == other.name {
        return Some(0);
    }
    if apart <= FEW && (same_namespace || distance(&asked.namespace, &other.namespace) <= FEW) {
        return Some(apart);
    }
    let part = other.name.contains(&asked.name) || asked.name.contains(&other.name);
    (same_namespace && part).then_some(FEW + 1)
}

/// How many letters must be put in, taken out or changed.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.bytes().enumerate() {
        let mut before = line;
        let mut left = line + 1;
        for (place, wanted) in other.bytes().enumerate() {
            let above = row.get(place + 1).copied().unwrap_or_default();
            let changed = before + usize::from(letter != wanted);
            let best = changed.min(above + 1).min(left + 1);
            if let Some(cell) = row.get_mut(place) {
                *cell = left;
            }
            before = above;
            left = best;
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_letters() {
        assert_eq!(distance("web", "web"), 0);
        assert_eq!(distance("web", "wbe"), 2);
        assert_eq!(distance("web", "web-1"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
