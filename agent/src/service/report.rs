//! Services in `portolan status` and in metrics: how many, and what was done for them.

use serde::{Deserialize, Serialize};
use services::proxy::model::Model;

use crate::firewall::Histogram;

/// Services that this node serves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicesReport {
    /// By what they are served, as `--proxy-mode` has it.
    #[serde(default)]
    pub(crate) mode: String,
    /// The sign of another proxy, which they are left to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left_to: Option<String>,
    /// Ports of this node that are another's and should be ours.
    #[serde(default)]
    pub(crate) ports_refused: Vec<RefusedPort>,
    /// Services with something to serve.
    pub(crate) services: usize,
    /// Their ports, by family.
    pub(crate) ports: usize,
    /// Endpoints that somebody on this node asks, by port and family.
    pub(crate) endpoints: usize,
    /// Ports that nobody answers.
    pub(crate) without_endpoints: usize,
    /// UDP flows cut since the start because no endpoint of their Service answered them.
    pub(crate) flows_stale: u64,
    /// Ports at which load balancers are answered (`healthCheckNodePort`).
    pub(crate) health_ports: usize,
    /// Those that cannot be had.
    pub(crate) health_ports_refused: usize,
    /// How often they were told that there are endpoints.
    pub(crate) answered_healthy: u64,
    /// How often they were told that there are none.
    pub(crate) answered_unhealthy: u64,
    /// From a change of endpoints to its being in the kernel, by its EndpointSlice's annotation.
    pub(crate) programming: Histogram,
}

/// A port of this node that cannot be listened at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefusedPort {
    pub(crate) port: u16,
    /// In words for people.
    pub(crate) why: String,
}

impl ServicesReport {
    /// Counts what a model holds.
    pub(crate) fn of(model: &Model) -> Self {
        let mut report = Self::default();
        for (_, served) in model.services() {
            report.services += 1;
            report.ports += served.ports.len();
            for port in &served.ports {
                let choice = &port.choice;
                let also_local = choice
                    .local
                    .iter()
                    .filter(|one| !choice.cluster.contains(one));
                report.endpoints += choice.cluster.len() + also_local.count();
                report.without_endpoints += usize::from(!choice.has_any);
            }
        }
        report
    }

    /// The line of `portolan status`.
    pub(crate) fn line(&self) -> String {
        let Self {
            services,
            ports,
            endpoints,
            without_endpoints,
            ..
        } = self;
        let nobody = match without_endpoints {
            0 => String::new(),
            count => format!(", {count} ports without endpoints (`portolan service list`)"),
        };
        format!("services: {services} with {ports} ports and {endpoints} endpoints{nobody}")
    }
}

#[cfg(test)]
impl ServicesReport {
    /// One with something of everything.
    pub(crate) fn example() -> Self {
        Self {
            mode: "nftables".to_owned(),
            left_to: None,
            ports_refused: Vec::new(),
            services: 2,
            ports: 4,
            endpoints: 9,
            without_endpoints: 1,
            flows_stale: 3,
            health_ports: 2,
            health_ports_refused: 1,
            answered_healthy: 5,
            answered_unhealthy: 6,
            programming: Histogram::default(),
        }
    }
}
