//! Random Services with every policy and address, and endpoints in every state.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::proxy::tests::*;

/// A Service and its endpoints, as few numbers.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) number: u8,
    pub(crate) protocol: &'static str,
    pub(crate) internal_is_local: bool,
    pub(crate) external_is_local: bool,
    pub(crate) external_ip: Option<u8>,
    pub(crate) balanced: bool,
    /// 0: none; 1: a range that holds 198.18.0.0/15; 2: one that holds the node, too.
    pub(crate) ranges: u8,
    pub(crate) node_port: Option<u8>,
    pub(crate) affinity: bool,
    /// Whether it is here, which of three, and how it is.
    pub(crate) endpoints: Vec<(bool, u8, Is)>,
}

pub(crate) fn spec() -> impl Strategy<Value = Spec> {
    let is = prop::sample::select(Is::ALL.to_vec());
    let endpoint = (any::<bool>(), 1u8..4, is);
    let ways = (
        prop::sample::select(vec!["TCP", "UDP", "SCTP"]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let doors = (
        prop::option::of(1u8..4),
        any::<bool>(),
        0u8..3,
        prop::option::of(0u8..4),
    );
    let endpoints = prop::collection::vec(endpoint, 0..5);
    (0u8..6, ways, doors, endpoints).prop_map(|(number, ways, doors, endpoints)| {
        let (protocol, internal_is_local, external_is_local, affinity) = ways;
        let (external_ip, balanced, ranges, node_port) = doors;
        Spec {
            number,
            protocol,
            internal_is_local,
            external_is_local,
            external_ip,
            balanced,
            ranges,
            node_port,
            affinity,
            endpoints,
        }
    })
}

fn policy(is_local: bool) -> &'static str {
    if is_local { "Local" } else { "Cluster" }
}

impl Spec {
    pub(crate) fn name(&self) -> String {
        format!("s{}", self.number)
    }

    pub(crate) fn cluster_ip(&self) -> String {
        format!("10.96.0.{}", self.number + 1)
    }

    pub(crate) fn balanced_ip(&self) -> String {
        format!("203.0.113.{}", self.number + 1)
    }

    pub(crate) fn endpoint_address((is_here, which, _): (bool, u8, Is)) -> String {
        format!("10.1.{}.{which}", u8::from(!is_here))
    }

    /// The endpoints, each address once: the first that is told.
    pub(crate) fn distinct(&self) -> Vec<(bool, u8, Is)> {
        let mut seen = std::collections::BTreeSet::new();
        let all = self.endpoints.iter().copied();
        all.filter(|one| seen.insert((one.0, one.1))).collect()
    }

    pub(crate) fn manifest(&self) -> Value {
        let external: Vec<String> = self
            .external_ip
            .iter()
            .map(|n| format!("198.51.100.{n}"))
            .collect();
        let ranges: &[&str] = match self.ranges {
            0 => &[],
            1 => &["198.18.0.0/15"],
            _ => &["198.18.0.0/15", "192.0.2.0/24"],
        };
        let ingress: Vec<Value> = self
            .balanced
            .then(|| json!({"ip": self.balanced_ip()}))
            .into_iter()
            .collect();
        json!({
            "spec": {
                "type": "LoadBalancer",
                "clusterIPs": [self.cluster_ip()],
                "internalTrafficPolicy": policy(self.internal_is_local),
                "externalTrafficPolicy": policy(self.external_is_local),
                "externalIPs": external,
                "loadBalancerSourceRanges": ranges,
                "sessionAffinity": if self.affinity { "ClientIP" } else { "None" },
                "healthCheckNodePort": 32_000,
                "ports": [{
                    "name": "http", "port": 80, "protocol": self.protocol,
                    "nodePort": self.node_port.map_or(0, |n| 30_000 + i32::from(n)),
                }],
            },
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }

    /// Puts it into a world; returns the names that changed.
    pub(crate) fn put(&self, world: &mut World) -> crate::proxy::index::Touched {
        let mut changed = world.service(&self.name(), self.manifest());
        let endpoints = self.distinct().into_iter().map(|one| {
            let node = if one.0 { HERE } else { "n2" };
            endpoint(&Self::endpoint_address(one), node, one.2)
        });
        let endpoints: Vec<Value> = endpoints.collect();
        let ports = json!({"ports": [{"name": "http", "protocol": self.protocol, "port": 8080}]});
        let slice = slice_with(
            &format!("{}-1", self.name()),
            &self.name(),
            &endpoints,
            ports,
        );
        let touched = world.index.set_slice(slice);
        changed.extend(world.model.refresh(&world.index, &touched));
        changed
    }
}
