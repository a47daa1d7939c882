//! A tunnel on the way: what of it leaves this node, and why it does not.

use std::net::IpAddr;

use ::overlay::Kind;
use routes::Way;

use super::super::catalog::TUNNEL;
use super::super::evidence::{Evidence, TunnelFacts};
use super::super::outcome::Broken;
use super::super::watch::{Direction, Place, Sighting};
use super::inside::counted;
use super::{Step, Walk, ip, mac};

/// Whether a link is a device of ours whose packets show what they carry.
pub(in crate::trace) fn is_tunnel(name: &str) -> bool {
    [Kind::Vxlan, Kind::Ipip].map(Kind::device).contains(&name)
}

/// The packet of the tunnel, as it left this node.
pub(super) fn outer(e: &Evidence) -> Option<&Sighting> {
    let all = e.probes(Place::Node, Direction::Out);
    all.filter(|one| one.seen.tunnel.is_some()).last()
}

pub(super) fn judge(walk: &mut Walk<'_>) -> Step {
    let e = walk.evidence;
    let Some(tunnel) = &e.node.tunnel else {
        return Step::On;
    };
    let hop = hop(tunnel);
    let Some(outer) = outer(e) else {
        return why(walk, tunnel).into();
    };
    let Some((local, remote)) = outer.seen.tunnel else {
        return Step::On;
    };
    let link = e.link(outer.link);
    let mtu = link.map_or(0, |link| link.mtu);
    walk.passed(
        hop,
        format!(
            "from {local} to {remote} by {}, which takes {mtu} octets; {} are left for what is in it",
            e.link_name(outer.link),
            tunnel.device.mtu
        ),
    );
    Step::On
}

pub(super) fn hop(tunnel: &TunnelFacts) -> String {
    format!("tunnel {}", tunnel.device.name)
}

/// It went into the device, and no packet of the tunnel left.
pub(super) fn why(walk: &Walk<'_>, tunnel: &TunnelFacts) -> Broken {
    if let Some(broken) = counted(walk) {
        return broken;
    }
    let name = &tunnel.device.name;
    let Some(remote) = tunnel.remote else {
        return no_entry(tunnel);
    };
    let ip = ip(remote.is_ipv4());
    let by = |link: u32| walk.evidence.link_name(link);
    match tunnel.way {
        Some(Way::Nowhere(_)) => TUNNEL.at(
            hop(tunnel),
            format!("there is no route to {remote}, the other end"),
            "the route between the nodes is gone: it is not Portolan's, but the host's own (an interface's subnet, or a default route)",
            format!("{ip} route get {remote}; {ip} route show"),
        ),
        Some(Way::Out { link, gateway })
            if tunnel.neighbour.is_some_and(|neighbour| neighbour.silent) =>
        {
            let next = gateway.unwrap_or(remote);
            TUNNEL.at(
                hop(tunnel),
                format!("{next}, the next hop to the other end {remote}, does not answer for its address on {}", by(link)),
                "the router or the other node is down, or the way to it (VLAN, switch) is broken",
                format!("{ip} neighbour show {next} dev {}", by(link)),
            )
        }
        _ => TUNNEL.at(
            hop(tunnel),
            format!("nothing leaves to {remote}, the other end"),
            "neither an entry, nor the way to it, nor a counted rule explains it: the link's queue or rules of nftables that iptables does not show",
            format!("{ip} -s link show dev {name}; nft list ruleset"),
        ),
    }
}

/// Entries are the agent's: it puts them back within 10 s.
pub(super) fn no_entry(tunnel: &TunnelFacts) -> Broken {
    let (name, gateway) = (&tunnel.device.name, tunnel.gateway);
    let ip = ip(gateway.is_ipv4());
    let (what, look) = match tunnel.mac {
        None => (
            format!("{name} has no neighbour entry of {gateway}, the other node's end"),
            format!("{ip} neighbour show dev {name}"),
        ),
        Some(found) => (
            format!(
                "{name} has no forwarding entry of {}, the other node's end",
                mac(found)
            ),
            format!("bridge fdb show dev {name}"),
        ),
    };
    TUNNEL.at(
        hop(tunnel),
        what,
        "somebody deleted it, and the agent, which puts it back within 10 s, does not run or does not know the node",
        format!("portolan status; {look}"),
    )
}

/// It left, and nothing came back.
pub(super) fn silent(walk: &Walk<'_>, remote: IpAddr, by: &str) -> Broken {
    let e = walk.evidence;
    let tunnel = e
        .node
        .tunnel
        .as_ref()
        .map_or_else(|| "tunnel".to_owned(), hop);
    let (to, from) = (&e.ends.asked, e.ends.from);
    let sender = match e.ends.pod.as_str() {
        "" => from.to_string(),
        pod => pod.to_owned(),
    };
    TUNNEL.at(
        tunnel,
        format!("it left this node by {by} for {remote}, the other end, and nothing comes back"),
        "what is between the nodes drops tunnels' packets (UDP 4789, IP protocol 4), the other node's rules do, or the answer is lost on its way back",
        format!("on {remote}: portolan trace --arriving {sender} {to}"),
    )
}
