//! BGPConfiguration `default`: what holds for every node's speaker.

use std::time::Duration;

use super::node::is_usable_as;
use crate::ParseError;
use crate::crd::{BGPConfiguration, BgpConfigurationSpec};
use crate::metadata::Subject;

/// The BGPConfiguration named `default`, defaults applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpConfiguration {
    /// Its name.
    pub name: String,
    /// `asNumber` of nodes that have no annotation of their own (64512).
    pub as_number: u32,
    /// `listenPort` (179).
    pub listen_port: u16,
    /// `nodeToNodeMeshEnabled` (true).
    pub node_to_node_mesh_enabled: bool,
    /// `gracefulRestart.restartTime` (120 s).
    pub restart_time: Duration,
    /// `installRoutes` (true).
    pub install_routes: bool,
}

impl Default for BgpConfiguration {
    /// What holds when no BGPConfiguration is there.
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            as_number: 64512,
            listen_port: 179,
            node_to_node_mesh_enabled: true,
            restart_time: Duration::from_secs(120),
            install_routes: true,
        }
    }
}

/// The restart time is a field of 12 bits (RFC 4724 §3).
const MAX_RESTART_TIME: Duration = Duration::from_secs(4095);

impl TryFrom<BGPConfiguration> for BgpConfiguration {
    type Error = ParseError;

    fn try_from(config: BGPConfiguration) -> Result<Self, ParseError> {
        let subject = Subject::cluster("BGPConfiguration", &config.metadata)?;
        if subject.name() != "default" {
            return Err(subject.error("metadata.name: only `default` is read"));
        }
        let spec = config.spec;
        if let Some(field) = unsupported(&spec) {
            return Err(subject.error(format!("spec.{field} is not supported yet")));
        }
        let defaults = Self::default();
        let as_number = spec.as_number.unwrap_or(defaults.as_number);
        if !is_usable_as(as_number) {
            return Err(subject.error("spec.asNumber: this AS number is reserved"));
        }
        let listen_port = spec.listen_port.unwrap_or(defaults.listen_port);
        if listen_port == 0 {
            return Err(subject.error("spec.listenPort is 0"));
        }
        let restart_time = spec
            .graceful_restart
            .and_then(|restart| restart.restart_time);
        let restart_time = restart_time.map_or(defaults.restart_time, |duration| duration.0);
        if restart_time > MAX_RESTART_TIME || restart_time.subsec_nanos() != 0 {
            let message = "spec.gracefulRestart.restartTime is not whole seconds up to 4095s";
            return Err(subject.error(message));
        }
        Ok(Self {
            name: defaults.name,
            as_number,
            listen_port,
            node_to_node_mesh_enabled: spec
                .node_to_node_mesh_enabled
                .unwrap_or(defaults.node_to_node_mesh_enabled),
            restart_time,
            install_routes: spec.install_routes.unwrap_or(defaults.install_routes),
        })
    }
}

/// The first field that asks for what is not built yet.
fn unsupported(spec: &BgpConfigurationSpec) -> Option<&'static str> {
    fn filled<T>(list: Option<&Vec<T>>) -> bool {
        list.is_some_and(|list| !list.is_empty())
    }
    let fields = [
        (
            "serviceClusterIPs",
            filled(spec.service_cluster_ips.as_ref()),
        ),
        (
            "serviceExternalIPs",
            filled(spec.service_external_ips.as_ref()),
        ),
        (
            "serviceLoadBalancerIPs",
            filled(spec.service_load_balancer_ips.as_ref()),
        ),
        ("communities", filled(spec.communities.as_ref())),
        (
            "prefixAdvertisements",
            filled(spec.prefix_advertisements.as_ref()),
        ),
        ("multipath", spec.multipath == Some(true)),
    ];
    fields
        .into_iter()
        .find_map(|(field, asked_for)| asked_for.then_some(field))
}
