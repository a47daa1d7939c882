//! Who a request is about: holder, pod, and the descriptors of its namespace.

use std::os::fd::OwnedFd;

use api::NamespacedName;
use cni_spec::environment::{ARG_POD_NAME, ARG_POD_NAMESPACE, ARG_POD_UID};
use cni_spec::socket::{DESCRIPTORS, Request};
use cni_spec::{CniError, ErrorCode, IpRange};
use ipam::{Holder, Span};
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

/// What an ADD asks of the core. Where another IPAM plugin has chosen, its business are fixed addresses and ranges, too.
pub(super) fn asked(request: &Request, holder: &Holder) -> Result<Asked, CniError> {
    let config = &request.config;
    let mut asked = Asked {
        holder: holder.clone(),
        pod: pod(request),
        uid: request.args.get(ARG_POD_UID).cloned().unwrap_or_default(),
        fixed: Vec::new(),
        ranges: Vec::new(),
        given: Vec::new(),
        settings: Settings {
            ports: config.port_mappings()?,
            bandwidth: config.bandwidth()?,
            mac: config.requested_mac()?,
            ..Settings::default()
        },
    };
    match (&config.ipam_type, &request.delegated) {
        (None, None) => {
            asked.fixed = config.requested_ips()?;
            asked.ranges = ranges(config.ip_ranges()?)?;
        }
        (Some(_), Some(delegated)) if !delegated.ips.is_empty() => {
            asked.given = delegated.ips.iter().map(|ip| ip.address.addr()).collect();
            asked.settings.delegated = true;
            asked.settings.routes = delegated.routes.iter().map(|route| route.dst).collect();
        }
        _ => {
            let msg = "the plugin did not delegate as the configuration says";
            return Err(CniError::new(ErrorCode::Failed, msg).details(
                "the agent and portolan-cni may be of different releases: run portolan cni install",
            ));
        }
    }
    Ok(asked)
}

fn ranges(sets: Vec<Vec<IpRange>>) -> Result<Vec<Vec<Span>>, CniError> {
    let span = |range: IpRange| {
        Span::of_subnet(range.subnet, range.range_start, range.range_end).ok_or_else(|| {
            CniError::new(ErrorCode::InvalidConfig, "invalid ipRanges")
                .details(format!("no address of {} is in the range", range.subnet))
        })
    };
    let spans = sets
        .into_iter()
        .map(|set| set.into_iter().map(span).collect());
    spans.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What a request of JSON asks of the core.
    fn asked_by(config: &Value, delegated: &Value) -> Result<Asked, CniError> {
        let mut whole = json!({"cniVersion": "1.1.0", "name": "n"});
        for (key, value) in config.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let request = json!({
            "command": "ADD", "containerId": "c1", "interface": "eth0", "config": whole, "delegated": delegated,
        });
        let request: Request = serde_json::from_value(request).unwrap();
        asked(&request, &holder(&request))
    }

    #[test]
    fn what_another_ipam_plugin_gave_is_taken_instead_of_what_is_asked_for() {
        let config = json!({
            "ipam": {"type": "host-local"},
            "runtimeConfig": {"ips": ["10.9.0.7"], "ipRanges": [[{"subnet": "10.9.0.0/24"}]]},
        });
        let delegated = json!({
            "ips": [{"address": "10.9.0.7/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::7/64"}],
            "routes": [{"dst": "10.0.0.0/8", "gw": "10.9.0.1"}],
        });
        let asked = asked_by(&config, &delegated).unwrap();
        assert_eq!(
            asked.given,
            ["10.9.0.7", "fd00:9::7"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
        );
        assert!(asked.fixed.is_empty() && asked.ranges.is_empty());
        assert!(asked.settings.delegated);
        assert_eq!(asked.settings.routes, ["10.0.0.0/8".parse().unwrap()]);
    }

    #[test]
    fn a_plugin_that_did_not_delegate_or_did_so_unasked_is_refused() {
        let named = json!({"ipam": {"type": "host-local"}});
        let given = json!({"ips": [{"address": "10.9.0.7/24"}]});
        for (config, delegated) in [
            (&named, Value::Null),
            (&json!({}), given),
            (&named, json!({})),
        ] {
            assert_eq!(asked_by(config, &delegated).unwrap_err().code, 100);
        }
    }

    #[test]
    fn semantics_104_ranges_that_hold_no_address_are_malformed() {
        let of = |subnet: &str| json!({"runtimeConfig": {"ipRanges": [[{"subnet": subnet}]]}});
        assert_eq!(
            asked_by(&of("10.9.0.0/24"), &Value::Null)
                .unwrap()
                .ranges
                .len(),
            1
        );
        let start = json!({"runtimeConfig": {"ipRanges": [[
            {"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.255"},
        ]]}});
        assert_eq!(asked_by(&start, &Value::Null).unwrap_err().code, 7);
    }
}
