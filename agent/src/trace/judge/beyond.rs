//! Behind this node's link: the target's interface where it is a pod of this node; else next hop, routers, the target's node.

use std::net::IpAddr;

use routes::{LINK_PREFIX, SeenRoute, Way};

use super::super::catalog::{
    LOST, ROUTE_FOREIGN, ROUTER, ROUTER_REFUSED, TARGET_LINK, TARGET_SILENT,
};
use super::super::evidence::{Evidence, Purpose};
use super::super::packet::{IcmpError, Kind, Transport};
use super::super::session::MOST_ROUTERS;
use super::super::watch::{Direction, Place, Sighting};
use super::inside::{denied, leaving, route_words};
use super::pod::raised;
use super::tunnel::{outer, silent};
use super::{Step, Walk, ip, mac};

pub(super) fn judge(walk: &mut Walk<'_>) -> Step {
    let e = walk.evidence;
    let Some(out) = leaving(e) else {
        return Step::On;
    };
    let name = e.link_name(out.link);
    if name.starts_with(LINK_PREFIX) {
        return here(walk, out, &name);
    }
    away(walk, out, &name)
}

/// The target is a pod of this node.
fn here(walk: &mut Walk<'_>, out: &Sighting, name: &str) -> Step {
    let e = walk.evidence;
    let answered = || {
        e.answers(Place::Node, Direction::In)
            .any(|one| one.link == out.link)
    };
    let is_watched = e.target.is_some() && e.node.target_end == Some(out.link);
    if is_watched && e.probes(Place::Target, Direction::In).next().is_none() {
        if let Some(target) = e.target.as_ref().filter(|target| !target.link.up) {
            return TARGET_LINK
                .at(
                    walk.target(),
                    format!("{} of {} is down", target.link.name, e.ends.target),
                    "somebody who may do so in the pod set it down",
                    raised(&target.enter, e.ends.to, &target.link.name),
                )
                .into();
        }
        return LOST
            .at(
                walk.target(),
                format!("the probe leaves by {name} and does not come to the pod's interface"),
                "something is attached to the link that drops it: a shaper, or a program (tc, XDP)",
                format!("tc -s qdisc show dev {name}; tc filter show dev {name} egress"),
            )
            .into();
    }
    if answered() || port_closed(e) {
        walk.passed(
            walk.target(),
            format!("it gets there by {name}, and there is an answer"),
        );
        return Step::On;
    }
    if e.ends.transport == Transport::Udp {
        walk.passed(
            walk.target(),
            format!(
                "it gets there by {name}; UDP has no answers of its own, and the program gave none"
            ),
        );
        return Step::Reached;
    }
    let enter = e.target.as_ref().map_or("", |target| target.enter.as_str());
    TARGET_SILENT
        .at(
            walk.target(),
            format!("the probe gets to the pod by {name}, and the pod says nothing"),
            "rules in the pod's own namespace drop it, its queue of new connections is full, or its way back is missing",
            format!("{enter} iptables-save; {enter} ip route; {enter} ss -ltn").trim().to_owned(),
        )
        .into()
}

fn port_closed(e: &Evidence) -> bool {
    let numbers: Vec<u16> = e.numbers(Purpose::Reach).collect();
    e.sightings.iter().any(|one| {
        matches!(one.seen.kind, Kind::Error { number, error: IcmpError::PortClosed } if numbers.contains(&number))
    })
}

/// The target is elsewhere.
fn away(walk: &mut Walk<'_>, out: &Sighting, name: &str) -> Step {
    let e = walk.evidence;
    let gateway = match e.node.way {
        Way::Out { gateway, .. } => gateway,
        _ => None,
    };
    let next = gateway.unwrap_or(out.seen.to);
    if let Some(found) = e.node.neighbour.and_then(|neighbour| neighbour.mac) {
        walk.passed(
            format!("next hop {next}"),
            format!("{} on {name}", mac(found)),
        );
    }
    let routers = routers(e);
    for (hops, router) in &routers {
        walk.passed(format!("router {router}"), format!("answers at hop {hops}"));
    }
    if e.answers(Place::Node, Direction::In).next().is_some() || port_closed_by_target(e) {
        walk.passed(walk.target(), "there is an answer");
        return Step::On;
    }
    ends(walk, out, next, &routers)
}

fn port_closed_by_target(e: &Evidence) -> bool {
    errors(e).any(|(from, error)| error == IcmpError::PortClosed && from == e.ends.to)
}

/// Who said what of the probes that were to get there.
fn errors(e: &Evidence) -> impl Iterator<Item = (IpAddr, IcmpError)> {
    let numbers: Vec<u16> = e.numbers(Purpose::Reach).collect();
    e.sightings
        .iter()
        .filter_map(move |one| match one.seen.kind {
            Kind::Error { number, error } if numbers.contains(&number) => {
                Some((one.seen.from, error))
            }
            _ => None,
        })
}

/// Routers behind this node that said that a probe died there, by their distance from the pod.
pub(super) fn routers(e: &Evidence) -> Vec<(u8, IpAddr)> {
    let mut found: Vec<(u8, IpAddr)> = Vec::new();
    for hops in 1..=MOST_ROUTERS {
        for number in e.numbers(Purpose::Hops(hops)) {
            let expired = Kind::Error {
                number,
                error: IcmpError::Expired,
            };
            let who = e.sightings.iter().find(|one| one.seen.kind == expired);
            let who = who.map(|one| one.seen.from);
            let Some(who) = who.filter(|who| !e.node.own.contains(who)) else {
                continue;
            };
            found.push((hops, who));
        }
    }
    found
}

/// Nothing came back from the target: who said so, or who would have to be asked.
fn ends(walk: &Walk<'_>, out: &Sighting, next: IpAddr, routers: &[(u8, IpAddr)]) -> Step {
    let e = walk.evidence;
    let last = routers.last().map_or(next, |(_, router)| *router);
    let said = errors(e).find(|(from, _)| !e.node.own.contains(from));
    if let Some((from, error)) = said {
        let words = match error {
            IcmpError::Forbidden => "it is forbidden there by an administrator".to_owned(),
            IcmpError::TooLarge(mtu) => format!("the next link takes {mtu} octets only"),
            IcmpError::Expired => "its TTL is used up: it goes in a circle".to_owned(),
            IcmpError::PortClosed => "a rule there refuses it".to_owned(),
            IcmpError::Unreachable(code) => {
                format!("the target is unreachable from there (ICMP code {code})")
            }
        };
        return ROUTER_REFUSED
            .at(
                format!("router {from}"),
                format!("{from} says: {words}"),
                "a route is missing there or refuses it, its next hop does not answer, or a rule refuses it",
                remote(walk, from),
            )
            .into();
    }
    if let Some(route) = e.node.route.as_ref().filter(|route| !route.is_ours())
        && e.ends.target_node.is_some()
        && out.seen.to == e.ends.to
    {
        let ip = ip(e.ends.to.is_ipv4());
        return ROUTE_FOREIGN
            .at(
                walk.node(),
                format!("the route {} takes it to {next}, and nothing comes back", route_words(route)),
                format!(
                    "pods of other nodes are reached by routes of ours (protocol {}); this one matches more closely, or has a lower metric",
                    routes::PROTOCOL
                ),
                format!("{ip} route del {} proto {} metric {}", route.prefix, route.protocol, route.metric),
            )
            .into();
    }
    if let Some(side) = e
        .policy
        .as_ref()
        .map(|sides| &sides.ingress)
        .filter(|side| !side.allowed)
    {
        let node = side.node.as_deref().or(e.ends.target_node.as_deref());
        let hop = node.map_or_else(|| walk.target(), |node| format!("node {node}"));
        return denied(walk, side, false, hop).into();
    }
    let by = e.link_name(out.link);
    if let Some(outer) = outer(e).filter(|_| routers.is_empty())
        && let Some((_, remote)) = outer.seen.tunnel
    {
        return silent(walk, remote, &e.link_name(outer.link)).into();
    }
    let cause = "a route is missing or wrong there or on the way back, a rule drops it, or the target's node has it and drops it";
    ROUTER
        .at(
            format!("behind {last}"),
            format!("it left this node by {by}; {last} is the last that is known to have had it, and nothing comes back"),
            match is_bare(e, out) {
                true => format!(
                    "it bears the pod's own address {}: who is outside must know the way back there, or the pod's pool asks for \
                     `natOutgoing` (and its rules are there: `iptables-save -t nat`). Else {cause}",
                    e.ends.from
                ),
                false => cause.to_owned(),
            },
            remote(walk, last),
        )
        .into()
}

/// To outside with the pod's own address.
fn is_bare(e: &Evidence, out: &Sighting) -> bool {
    let is_ours = e.node.route.as_ref().is_some_and(SeenRoute::is_ours);
    let is_outside = e.ends.target_node.is_none() && (e.policy.is_some() || !is_ours);
    is_outside && out.seen.from == e.ends.from
}

/// What to look at elsewhere.
fn remote(walk: &Walk<'_>, router: IpAddr) -> String {
    let e = walk.evidence;
    let (to, from, ip) = (e.ends.to, e.ends.from, ip(e.ends.to.is_ipv4()));
    let on_node = match &e.ends.target_node {
        Some(node) => format!("; on node {node}: portolan doctor"),
        None => String::new(),
    };
    format!("on {router}: {ip} route get {to}; {ip} route get {from}{on_node}")
}
