//! What the kernel says of this node's ways: switches, routes, neighbours, and the entries of tunnels.

use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use routes::{Looker, NoWay, Question, SeenRoute, Way};

use super::evidence::TunnelFacts;
use crate::doctor::bound;

/// Addresses of this node.
pub(super) fn own(host: &mut Looker) -> anyhow::Result<Vec<IpAddr>> {
    let addresses = host.addresses()?.into_iter();
    Ok(addresses.map(|(_, address)| address).collect())
}

/// Whether the node forwards, and whether it forwards what comes by a link.
pub(super) fn forwards(is_v4: bool, link: &str) -> (bool, bool) {
    let switch = |name: &str| read(name).is_none_or(|value| value != "0");
    match is_v4 {
        true => (
            switch("net/ipv4/ip_forward"),
            switch(&format!("net/ipv4/conf/{link}/forwarding")),
        ),
        false => (switch("net/ipv6/conf/all/forwarding"), true),
    }
}

/// The route of table main that matches best.
pub(super) fn route_to(to: IpAddr) -> Option<SeenRoute> {
    let survey = bound::asynchronous(routes::survey()).ok()?.ok()?;
    best(&survey.routes, to).cloned()
}

/// The tunnel into which it goes, as its entries have it.
pub(super) fn tunnel(
    host: &mut Looker,
    way: &Way,
    next: Option<routes::Neighbour>,
    to: IpAddr,
) -> anyhow::Result<Option<TunnelFacts>> {
    let Way::Out { link, gateway } = *way else {
        return Ok(None);
    };
    let links = host.links()?.into_iter();
    let device = links.filter(|one| super::judge::is_tunnel(&one.name));
    let Some(device) = device.into_iter().find(|one| one.index == link) else {
        return Ok(None);
    };
    let gateway = gateway.unwrap_or(to);
    let mac = next.and_then(|next| next.mac);
    let remote = match device.kind.as_str() {
        "vxlan" => {
            let mut entries = host.forwarding(link)?.into_iter();
            let of_it = entries.find(|(of, _)| Some(*of) == mac);
            of_it.map(|(_, remote)| remote)
        }
        // The gateway is the other end.
        _ => Some(gateway),
    };
    let question = |to| Question {
        to,
        from: None,
        arrives_by: None,
    };
    let way = remote
        .map(|remote| host.way(&question(remote)))
        .transpose()?;
    let neighbour = match (&way, remote) {
        (Some(Way::Out { link, gateway }), Some(remote)) => {
            host.neighbour(*link, gateway.unwrap_or(remote))?
        }
        _ => None,
    };
    Ok(Some(TunnelFacts {
        device,
        gateway,
        mac,
        remote,
        way,
        neighbour,
    }))
}

pub(super) fn node_way(
    host: &mut Looker,
    from: IpAddr,
    to: IpAddr,
    arrives_by: u32,
) -> anyhow::Result<(Way, Option<routes::Neighbour>)> {
    let way = arriving(host, from, to, arrives_by)?;
    let neighbour = match way {
        Way::Out { link, gateway } => host.neighbour(link, gateway.unwrap_or(to))?,
        Way::Local | Way::Nowhere(_) => None,
    };
    Ok((way, neighbour))
}

/// Where a packet goes that comes by a link. Since Linux 6.13 the kernel does not tell reverse path filtering from a
/// blackhole: the filter's own switch and the way to the source do.
pub(super) fn arriving(
    host: &mut Looker,
    from: IpAddr,
    to: IpAddr,
    by: u32,
) -> anyhow::Result<Way> {
    let way = host.way(&Question {
        to,
        from: Some(from),
        arrives_by: Some(by),
    })?;
    if way != Way::Nowhere(NoWay::Blackhole) || !is_strict(host, by)? {
        return Ok(way);
    }
    let to_source = host.way(&Question {
        to: from,
        from: None,
        arrives_by: None,
    })?;
    Ok(match to_source {
        Way::Out { link, .. } if link == by => way,
        _ => Way::Nowhere(NoWay::ReversePath),
    })
}

/// Whether reverse path filtering is strict on a link: the larger of `all` and its own value counts (ip-sysctl).
fn is_strict(host: &mut Looker, link: u32) -> anyhow::Result<bool> {
    let links = host.links()?;
    let name = links
        .into_iter()
        .find(|one| one.index == link)
        .map(|one| one.name);
    let value = |name: &str| {
        let text = read(&format!("net/ipv4/conf/{name}/rp_filter"));
        text.and_then(|text| text.parse::<u8>().ok()).unwrap_or(0)
    };
    Ok(name.is_some_and(|name| value(&name).max(value("all")) == 1))
}

/// The route that matches closest; of several the one with the least metric.
fn best(routes: &[SeenRoute], to: IpAddr) -> Option<&SeenRoute> {
    let matching = routes
        .iter()
        .filter(|route| route.alive || route.leads_nowhere);
    let matching = matching.filter(|route| IpNet::contains(&route.prefix, &to));
    matching.max_by_key(|route| (route.prefix.prefix_len(), u32::MAX - route.metric))
}

fn read(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    Some(text.trim().to_owned())
}
