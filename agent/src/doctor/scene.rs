//! What several checks look at: the agent's report, the attachments on disk, and the kernel's links and routes.

use std::collections::BTreeSet;
use std::path::Path;

use ::ipam::Lease;
use routes::{LINK_PREFIX, LinkInfo, Survey};

use super::bound;
use crate::attachments::peek;
use crate::report::Report;

/// All of it, each part as far as it could be had.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) report: Option<Report>,
    /// Who holds which addresses, as the state folder has it; an error says why that is not known.
    pub(super) leases: Result<Vec<Lease>, String>,
    pub(super) survey: Result<Survey, String>,
}

impl Scene {
    /// Reads it.
    pub(super) fn gather(report: Option<Report>, state_dir: &Path) -> Self {
        let dir = state_dir.to_owned();
        let leases = match bound::blocking(move || peek(&dir)) {
            Ok(leases) => leases.map_err(|error| format!("{error:#}")),
            Err(late) => Err(late.to_string()),
        };
        let survey = match bound::asynchronous(routes::survey()) {
            Ok(survey) => survey.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Self {
            report,
            leases,
            survey,
        }
    }

    pub(super) fn links(&self) -> &[LinkInfo] {
        self.survey.as_ref().map_or(&[], |survey| &survey.links)
    }

    /// Pods' interfaces.
    pub(super) fn host_ends(&self) -> impl Iterator<Item = &LinkInfo> {
        let links = self.links().iter();
        links.filter(|link| link.kind == "veth" && link.name.starts_with(LINK_PREFIX))
    }

    /// Interfaces behind which gateways are.
    pub(super) fn uplinks(&self) -> BTreeSet<String> {
        let routes = self.survey.as_ref().map(|survey| &survey.routes);
        let by_gateway = routes.into_iter().flatten();
        let by_gateway = by_gateway.filter(|route| !route.gateways.is_empty());
        let indexes: BTreeSet<u32> = by_gateway.flat_map(|route| &route.links).copied().collect();
        let links = self.links().iter();
        let uplinks = links.filter(|link| indexes.contains(&link.index));
        uplinks
            .filter(|link| !link.name.starts_with(LINK_PREFIX))
            .map(|link| link.name.clone())
            .collect()
    }

    /// The name of a link.
    pub(super) fn name_of(&self, index: u32) -> String {
        let found = self.links().iter().find(|link| link.index == index);
        found.map_or_else(|| format!("if{index}"), |link| link.name.clone())
    }

    /// Whether a pod here has an IPv6 address.
    pub(super) fn has_v6(&self) -> bool {
        let leases = self.leases.iter().flatten();
        leases
            .flat_map(|lease| &lease.addresses)
            .any(std::net::IpAddr::is_ipv6)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ::ipam::{Holder, Ipam, Lease, Request};
    use routes::LinkInfo;

    /// One that holds 10.244.1.1.
    pub(in crate::doctor) fn lease() -> Lease {
        let holder = Holder {
            container_id: "c1".to_owned(),
            interface: "eth0".to_owned(),
        };
        let mut ipam = Ipam::new(vec!["10.244.1.0/24".parse().unwrap()]);
        let mut lease = ipam.allocate(&Request::new(holder, 0)).unwrap();
        lease.addresses = vec!["10.244.1.1".parse().unwrap()];
        lease
    }

    /// A veth that is up.
    pub(in crate::doctor) fn link(name: &str, index: u32) -> LinkInfo {
        LinkInfo {
            name: name.to_owned(),
            index,
            up: true,
            carrier: true,
            running: true,
            loopback: false,
            peer: None,
            alias: String::new(),
            mac: None,
            mtu: 1500,
            kind: "veth".to_owned(),
        }
    }
}
