//! UDP flows that lead to an endpoint that is no more: the kernel would keep them as long as the client sends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use api::resources::Protocol;
use netfilter::Family;

use super::model::{Served, ServicePort};

/// Which flows are to be cut, once the rules of the same model are in (semantics 140).
///
/// A flow to a UDP frontend is one whose answers come from elsewhere than any endpoint that serves: one that is gone, or
/// nobody at all, where it began while there was none. A port without any such endpoint keeps its flows. Of other protocols
/// nothing is cut: a TCP connection ends by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaleFlows {
    by_frontend: BTreeMap<(Family, Option<IpAddr>, u16), BTreeSet<SocketAddr>>,
}

impl StaleFlows {
    /// Of the Services that changed. Nothing to look for ([`Self::is_empty`]) where none of them has a UDP port.
    pub fn of<'a>(changed: impl IntoIterator<Item = &'a Served>) -> Self {
        let ports = changed.into_iter().flat_map(|service| &service.ports);
        let mut stale = Self::default();
        for port in ports.filter(is_udp) {
            let serving = port.choice.serving();
            if serving.is_empty() {
                continue;
            }
            for one in &port.frontends {
                let key = (one.family, one.address, one.port);
                stale.by_frontend.insert(key, serving.clone());
            }
        }
        stale
    }

    /// Whether no flow can be stale.
    pub fn is_empty(&self) -> bool {
        self.by_frontend.is_empty()
    }

    /// Whether a UDP flow is to be cut. `to` is where its client sends; `from` is where its answers come from;
    /// `is_own`: whether `to` is an address of this node. Without the last any flow through this node to some other host's
    /// port would be taken for one to a node port.
    pub fn has(&self, to: SocketAddr, from: SocketAddr, is_own: bool) -> bool {
        let family = Family::of(to.ip());
        let at_address = self.by_frontend.get(&(family, Some(to.ip()), to.port()));
        let at_node = || self.by_frontend.get(&(family, None, to.port()));
        let serving = at_address.or_else(|| at_node().filter(|_| is_own));
        serving.is_some_and(|serving| !serving.contains(&from))
    }
}

/// Whether a Service's flows can be stale at all.
pub fn has_udp(service: &Served) -> bool {
    service.ports.iter().any(|port| is_udp(&port))
}

fn is_udp(port: &&ServicePort) -> bool {
    port.name.protocol == Protocol::Udp
}

#[cfg(test)]
mod tests;
