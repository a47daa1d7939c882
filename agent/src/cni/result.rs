//! The result of ADD, in CNI's words.

use std::net::IpAddr;

use cni_spec::result::{Interface, IpConfig, Route};
use cni_spec::socket::Request;
use cni_spec::{AddResult, Dns};
use ipnet::IpNet;
use routes::{GATEWAY_V4, GATEWAY_V6};

use super::identity::pod_link;
use crate::core::Endpoint;

pub(super) fn of(
    request: &Request,
    endpoint: &Endpoint,
    state: &routes::PodLinkState,
) -> AddResult {
    let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
    let mut result = request
        .config
        .previous_result()
        .ok()
        .flatten()
        .unwrap_or_default();
    if let Some(delegated) = &request.delegated
        && delegated.dns != Dns::default()
    {
        result.dns = delegated.dns.clone();
    }
    let first = u32::try_from(result.interfaces.len()).unwrap_or(0);
    result.interfaces.push(Interface {
        name: endpoint.interface.clone(),
        mac: mac(state.host_mac),
        mtu: Some(state.mtu),
        ..Interface::default()
    });
    result.interfaces.push(Interface {
        name: endpoint.holder.interface.clone(),
        mac: mac(state.pod_mac),
        mtu: Some(state.mtu),
        sandbox: request.netns.clone().unwrap_or_default(),
        ..Interface::default()
    });
    for address in &endpoint.addresses {
        let gateway: IpAddr = match address {
            IpAddr::V4(_) => GATEWAY_V4.into(),
            IpAddr::V6(_) => GATEWAY_V6.into(),
        };
        result.ips.push(IpConfig {
            address: IpNet::from(*address),
            gateway: Some(gateway),
            // The index of the pod's end: a runtime takes the pod's address from there.
            interface: Some(first + 1),
        });
    }
    for (to, gateway) in pod_link(endpoint).destinations() {
        result.routes.push(Route::new(to, Some(gateway)));
    }
    result
}
