//! Who has an address and port that several Services claim: a function of who claims it, never of who came first here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use api::resources::Protocol;
use netfilter::Family;

use super::super::PortName;
use super::super::index::Touched;

/// What a frontend is. The order is that of precedence: nobody takes a cluster IP by naming it as an external one
/// (CVE-2020-8554).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports.nodePort`: the node's own addresses.
    NodePort,
}

/// Where a port of a Service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frontend {
    /// What it is.
    pub kind: FrontendKind,
    /// The family.
    pub family: Family,
    /// The address; none of a node port.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl Frontend {
    pub(super) fn at(kind: FrontendKind, address: IpAddr, port: u16) -> Self {
        Self {
            kind,
            family: Family::of(address),
            address: Some(address),
            port,
        }
    }

    pub(super) fn node_port(family: Family, port: u16) -> Self {
        Self {
            kind: FrontendKind::NodePort,
            family,
            address: None,
            port,
        }
    }
}

/// What only one can have. Ports of different protocols are apart (semantics 133).
type Claim = (Family, Option<IpAddr>, u16, Protocol);

fn claim(frontend: &Frontend, protocol: Protocol) -> Claim {
    let Frontend {
        family,
        address,
        port,
        ..
    } = *frontend;
    (family, address, port, protocol)
}

/// One that claims a frontend. The least has it: by kind, then the oldest, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    frontend: Frontend,
    /// Who says not when it was made comes last.
    is_undated: bool,
    created: Option<String>,
    pub(super) name: PortName,
}

impl Claimant {
    pub(super) fn new(frontend: Frontend, created: Option<String>, name: PortName) -> Self {
        Self {
            frontend,
            is_undated: created.is_none(),
            created,
            name,
        }
    }

    /// Whether it is this claim of this port.
    pub(super) fn is(&self, frontend: &Frontend, name: &PortName) -> bool {
        self.frontend == *frontend && self.name == *name
    }
}

/// All claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    claimed: BTreeMap<Claim, BTreeSet<Claimant>>,
    by_service: BTreeMap<NamespacedName, Vec<Claimant>>,
}

impl Claims {
    /// Puts a Service's claims in the place of those it had; returns the others whose claims that may concern.
    pub(super) fn set(&mut self, service: &NamespacedName, claimants: Vec<Claimant>) -> Touched {
        let old = self.by_service.remove(service).unwrap_or_default();
        let mut touched = Touched::new();
        for one in old.iter().filter(|one| !claimants.contains(one)) {
            let claim = claim(&one.frontend, one.name.protocol);
            if let Some(others) = self.claimed.get_mut(&claim) {
                others.remove(one);
                touched.extend(others.iter().map(|other| other.name.service.clone()));
                if others.is_empty() {
                    self.claimed.remove(&claim);
                }
            }
        }
        for one in claimants.iter().filter(|one| !old.contains(one)) {
            let claim = claim(&one.frontend, one.name.protocol);
            let others = self.claimed.entry(claim).or_default();
            touched.extend(others.iter().map(|other| other.name.service.clone()));
            others.insert(one.clone());
        }
        if !claimants.is_empty() {
            self.by_service.insert(service.clone(), claimants);
        }
        touched
    }

    /// Who has it.
    pub(super) fn holder(&self, frontend: &Frontend, protocol: Protocol) -> Option<&Claimant> {
        self.claimed.get(&claim(frontend, protocol))?.first()
    }
}
