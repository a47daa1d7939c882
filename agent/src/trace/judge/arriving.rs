//! What comes from elsewhere: how it came into this node, and how the answer leaves it.

use routes::{NoWay, Way};

use super::super::catalog::{LISTENER, LOST, NOT_ARRIVED, ROUTE_BACK, TUNNEL_IN};
use super::super::evidence::Evidence;
use super::super::outcome::Broken;
use super::super::packet::Kind;
use super::super::watch::{Direction, Place, Sighting};
use super::inside::{counted, reverse_path};
use super::tunnel::why;
use super::{Step, Walk, ip};

/// Who may send to tunnels.
const GUARD: &str = "PTL-TUNNELS";

pub(super) fn came(walk: &mut Walk<'_>) -> Step {
    let e = walk.evidence;
    let arrived = || {
        e.probes(Place::Node, Direction::In)
            .filter(|one| Some(one.link) != e.node.target_end)
    };
    let outer = arrived().find(|one| one.seen.tunnel.is_some());
    let plain = arrived().find(|one| one.seen.tunnel.is_none());
    if plain.is_none() && outer.is_none() {
        return not_arrived(walk).into();
    }
    let in_tunnel = outer.and_then(|one| Some((one.seen.tunnel?.0, e.link_name(one.link))));
    if let Some((remote, by)) = &in_tunnel {
        walk.passed(
            format!("link {by}"),
            format!("it comes in a tunnel from {remote}"),
        );
    }
    match (plain, in_tunnel) {
        (Some(one), _) => {
            let name = e.link_name(one.link);
            walk.passed(
                format!("link {name}"),
                format!("it comes by it, with {} hops left", one.seen.hops),
            );
            Step::On
        }
        (None, Some((remote, by))) => stays_in_tunnel(walk, &remote.to_string(), &by).into(),
        (None, None) => Step::On,
    }
}

fn not_arrived(walk: &Walk<'_>) -> Broken {
    let e = walk.evidence;
    let (from, to) = (e.ends.from, &e.ends.asked);
    let sender = match e.ends.pod.as_str() {
        "" => from.to_string(),
        pod => pod.to_owned(),
    };
    NOT_ARRIVED.at(
        walk.node(),
        format!("nothing came from {from} on any link of this node"),
        "nobody sent meanwhile, or it ends before this node: at the sender's node, a router, or a firewall between the nodes",
        format!("on the sender's node: portolan trace {sender} {to}"),
    )
}

/// The tunnel's packet came, and what is in it did not come out of the device.
fn stays_in_tunnel(walk: &Walk<'_>, remote: &str, by: &str) -> Broken {
    let e = walk.evidence;
    let guard = e.risen.iter().find(|rule| rule.chain == GUARD);
    if let Some(rule) = guard {
        return TUNNEL_IN.at(
            walk.node(),
            format!("chain {} drops it: {remote} is no node's InternalIP", rule.chain),
            "only nodes of the cluster may send to tunnels; the sender's Node says another address, or it is no node",
            format!("kubectl get nodes -o wide; {} -nvL {}", rule.program, rule.chain),
        );
    }
    if let Some(broken) = counted(walk) {
        return broken;
    }
    TUNNEL_IN.at(
        format!("link {by}"),
        "it does not come out of this node's tunnel device",
        "the device is missing or down, it has another VNI or port than the sender's, or checksums are wrong (`portolan doctor`)",
        "ip -d link show type vxlan; ip -d link show type ipip; portolan doctor".to_owned(),
    )
}

pub(super) fn goes_back(walk: &mut Walk<'_>) -> Step {
    let e = walk.evidence;
    let leaves = || {
        e.answers(Place::Node, Direction::Out)
            .filter(|one| Some(one.link) != e.node.target_end)
    };
    let plain = leaves().find(|one| one.seen.tunnel.is_none());
    let Some(out) = plain.or_else(|| leaves().next()) else {
        return held_back(walk).into();
    };
    if matches!(out.seen.kind, Kind::Refused(_)) {
        return refused(walk).into();
    }
    walk.passed(walk.node(), words(walk, out, leaves().last()));
    Step::Reached
}

fn words(walk: &Walk<'_>, out: &Sighting, last: Option<&Sighting>) -> String {
    let e = walk.evidence;
    let by = e.link_name(out.link);
    let tunnel = last.and_then(|one| Some((one.seen.tunnel?.1, e.link_name(one.link))));
    let by = match tunnel {
        Some((remote, link)) if link != by => format!("{by}, in a tunnel to {remote} by {link}"),
        _ => by,
    };
    let other = match out.link == e.node.host_end {
        true => "",
        false => ": another link than it came by",
    };
    format!("the answer leaves by {by}{other}")
}

fn refused(walk: &Walk<'_>) -> Broken {
    let enter = walk.evidence.target.as_ref();
    let enter = enter.map_or("", |target| target.enter.as_str());
    LISTENER.at(
        walk.target(),
        format!("it is reached, and refuses: nothing listens on port {}", walk.evidence.ends.port),
        "the program has ended, has not started yet, listens on another port, or on 127.0.0.1 alone",
        format!("{enter} ss -ltn"),
    )
}

/// The pod answered, and the answer stays here.
fn held_back(walk: &Walk<'_>) -> Broken {
    let e = walk.evidence;
    if let Some(broken) = counted(walk) {
        return broken;
    }
    if let Some(tunnel) = &e.node.tunnel {
        return why(walk, tunnel);
    }
    let from = e.ends.from;
    let ip = ip(from.is_ipv4());
    match &e.node.way_back {
        Some(Way::Nowhere(NoWay::ReversePath)) => reverse_path(walk, &target_end(e)),
        Some(Way::Nowhere(why)) => ROUTE_BACK.at(
            walk.node(),
            match why {
                NoWay::NoRoute => format!("the answer has no way back: there is no route to {from}"),
                _ => format!("the answer has no way back: the route to {from} refuses it"),
            },
            "no peer announced one, its session is down, or somebody deleted it",
            format!("portolan bgp explain {from}; {ip} route get {from}"),
        ),
        _ => LOST.at(
            walk.node(),
            format!("the answer comes out of the pod by {} and does not leave this node", target_end(e)),
            "neither a counted rule nor a route explains it: the next hop's address, or rules of nftables that iptables does not show",
            format!("{ip} route get {from}; {ip} neighbour show; nft list ruleset"),
        ),
    }
}

fn target_end(e: &Evidence) -> String {
    let end = e.node.target_end;
    end.map_or_else(|| "its host end".to_owned(), |link| e.link_name(link))
}
