//! Who a request is about: holder, pod, and the descriptors of its namespace.

use std::os::fd::OwnedFd;

use api::NamespacedName;
use cni_spec::environment::{ARG_POD_NAME, ARG_POD_NAMESPACE, ARG_POD_UID};
use cni_spec::socket::{DESCRIPTORS, Request};
use cni_spec::{CniError, ErrorCode};
use ipam::Holder;
use routes::{PodLink, Shaping};

use crate::attachments::Settings;
use crate::core::{Asked, Endpoint};

pub(super) fn holder(request: &Request) -> Holder {
    Holder {
        container_id: request.container_id.clone(),
        interface: request.interface.clone(),
    }
}

/// Which pod the runtime says this is; both names or none.
fn pod(request: &Request) -> Option<NamespacedName> {
    let namespace = request.args.get(ARG_POD_NAMESPACE)?;
    let name = request.args.get(ARG_POD_NAME)?;
    Some(NamespacedName::new(namespace.clone(), name.clone()))
}

pub(super) fn pod_link(endpoint: &Endpoint) -> PodLink {
    let limits = endpoint.settings.bandwidth.unwrap_or_default();
    let shaping = |rate, burst| (rate > 0).then_some(Shaping { rate, burst });
    PodLink {
        host_interface: endpoint.interface.clone(),
        pod_interface: endpoint.holder.interface.clone(),
        addresses: endpoint.addresses.clone(),
        mac: endpoint.settings.mac,
        ingress: shaping(limits.ingress_rate, limits.ingress_burst),
        egress: shaping(limits.egress_rate, limits.egress_burst),
        routes: endpoint.settings.routes.clone(),
        // The node's 127.0.0.1 reaches the pod by them.
        localnet: !endpoint.settings.ports.is_empty(),
        ..PodLink::default()
    }
}

pub(super) fn pair(descriptors: Vec<OwnedFd>) -> Result<(OwnedFd, OwnedFd), CniError> {
    match <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) {
        Ok([netns, netlink]) => Ok((netns, netlink)),
        Err(others) => Err(
            CniError::new(ErrorCode::Io, "the plugin passed no descriptors").details(format!(
                "{} instead of {DESCRIPTORS}: are plugin and agent of one version?",
                others.len()
            )),
        ),
    }
}

/// What an ADD asks of the core.
pub(super) fn asked(request: &Request, holder: &Holder) -> Result<Asked, CniError> {
    if request.config.ipam_type.is_some() || request.delegated.is_some() {
        return Err(
            CniError::new(ErrorCode::UnsupportedField, "unsupported field ipam.type").details(
                "this agent gives addresses from its own CIDRs: take ipam out of the network",
            ),
        );
    }
    Ok(Asked {
        holder: holder.clone(),
        pod: pod(request),
        uid: request.args.get(ARG_POD_UID).cloned().unwrap_or_default(),
        fixed: request.config.requested_ips()?,
        settings: Settings {
            ports: request.config.port_mappings()?,
            bandwidth: request.config.bandwidth()?,
            mac: request.config.requested_mac()?,
            ..Settings::default()
        },
    })
}
