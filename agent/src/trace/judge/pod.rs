//! The pod that sends: its interface, address, route and neighbour, and whether what it sends comes to the host end.

use std::net::IpAddr;

use routes::{GATEWAY_V4, GATEWAY_V6, Way};

use super::super::catalog::{
    HOST_END, LOST, POD_ADDRESS, POD_LINK, POD_NEIGHBOUR, POD_ROUTE, POD_RULES,
};
use super::super::evidence::PodFacts;
use super::super::watch::{Direction, Place};
use super::{Step, Walk, mac};

pub(super) fn judge(walk: &mut Walk<'_>) -> Step {
    let Some(pod) = &walk.evidence.pod else {
        return Step::On;
    };
    match inside(walk, pod) {
        Step::On => {}
        end => return end,
    }
    host_end(walk, pod)
}

fn inside(walk: &mut Walk<'_>, pod: &PodFacts) -> Step {
    let e = walk.evidence;
    let from = e.ends.from;
    let hop = format!("pod {}", e.ends.pod);
    let name = &pod.link.name;
    let within = &pod.enter;
    let bits = if from.is_ipv4() { 32 } else { 128 };
    if !pod.link.up {
        return POD_LINK
            .at(
                hop,
                format!("{name} of the pod is down"),
                "somebody who may do so in the pod set it down; its routes went with it",
                raised(within, from, name),
            )
            .into();
    }
    let host_end = walk.host_end();
    if !pod.link.carrier {
        return HOST_END
            .at(
                format!("host end {host_end}"),
                format!("{host_end} is down"),
                "somebody set it down: nothing gets to the pod or from it; the agent writes its routes again once it is up",
                format!("ip link set dev {host_end} up"),
            )
            .into();
    }
    if !pod.has_address {
        return POD_ADDRESS
            .at(
                hop,
                format!("{name} of the pod does not have {from}"),
                "somebody in the pod took it away; with the last address of a family its routes go, too",
                format!(
                    "{within} ip address add {from}/{bits} dev {name}; {}",
                    default_route(within, from, name)
                ),
            )
            .into();
    }
    let to = e.ends.to;
    let Way::Out { gateway, .. } = pod.way else {
        return POD_ROUTE
            .at(
                hop,
                format!("the pod has no route to {to}"),
                "somebody in the pod took it away, or another plugin wrote others",
                default_route(within, from, name),
            )
            .into();
    };
    let first = gateway.unwrap_or(to);
    if e.probes(Place::Source, Direction::Out).next().is_none() {
        return not_sent(walk, pod, hop, first);
    }
    walk.passed(hop, format!("{from} sends by {name} to {first}"));
    Step::On
}

/// A pod's interface that was down has lost its routes.
pub(super) fn raised(within: &str, address: IpAddr, name: &str) -> String {
    format!(
        "{within} ip link set dev {name} up; {}",
        default_route(within, address, name)
    )
}

fn default_route(within: &str, from: IpAddr, name: &str) -> String {
    let gateway = gateway_of(from);
    let ip = super::ip(from.is_ipv4());
    format!("{within} {ip} route replace default via {gateway} dev {name} onlink")
}

fn gateway_of(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

fn not_sent(walk: &Walk<'_>, pod: &PodFacts, hop: String, first: IpAddr) -> Step {
    let e = walk.evidence;
    let said = e.sent.iter().find_map(|sent| sent.error.as_deref());
    if pod.neighbour.is_some_and(|neighbour| neighbour.silent) {
        return POD_NEIGHBOUR
            .at(
                hop,
                format!("the pod does not find its gateway {first}"),
                "the permanent neighbour entry that the plugin wrote is gone, and nobody answers for the address",
                neighbour_entry(walk, pod, first),
            )
            .into();
    }
    POD_RULES
        .at(
            hop,
            match said {
                Some(said) => format!("the pod's kernel does not send it: {said}"),
                None => "the probe does not leave the pod's interface".to_owned(),
            },
            "rules in the pod's own namespace, such as a mesh's or an administrator's, drop what it sends",
            format!("{} iptables-save", pod.enter),
        )
        .into()
}

fn neighbour_entry(walk: &Walk<'_>, pod: &PodFacts, first: IpAddr) -> String {
    let e = walk.evidence;
    let host_mac = e.link(e.node.host_end).and_then(|link| link.mac);
    format!(
        "{} ip neighbour replace {first} lladdr {} dev {} nud permanent",
        pod.enter,
        mac(host_mac.unwrap_or(routes::HOST_MAC)),
        pod.link.name
    )
}

fn host_end(walk: &mut Walk<'_>, pod: &PodFacts) -> Step {
    let e = walk.evidence;
    let name = walk.host_end();
    let hop = format!("host end {name}");
    let came = e.probes(Place::Node, Direction::In);
    let came = came.filter(|one| one.link == e.node.host_end).count();
    if came > 0 {
        walk.passed(hop, "it comes out of the pod");
        return Step::On;
    }
    if e.probes(Place::Node, Direction::Stray).next().is_some() {
        let first = match pod.way {
            Way::Out {
                gateway: Some(gateway),
                ..
            } => gateway,
            _ => gateway_of(e.ends.from),
        };
        return POD_NEIGHBOUR
            .at(
                hop,
                "the probe comes with another MAC than the host end's",
                format!(
                    "the pod's neighbour entry of {first} was changed: the node drops what is addressed to another"
                ),
                neighbour_entry(walk, pod, first),
            )
            .into();
    }
    if e.link(e.node.host_end).is_none_or(|link| !link.up) {
        return HOST_END
            .at(
                hop,
                format!("{name} is down"),
                "somebody set it down: nothing gets to the pod or from it",
                format!("ip link set dev {name} up"),
            )
            .into();
    }
    LOST.at(
        hop,
        "the probe left the pod's interface and did not come to its host end",
        "something is attached to the link that drops it: a shaper, or a program (tc, XDP)",
        format!("tc -s qdisc show dev {name}; tc filter show dev {name} ingress"),
    )
    .into()
}
