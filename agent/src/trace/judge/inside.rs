//! This node: from the host end to the link by which the probe leaves, or to the node itself; and why it does not get that far.

use routes::{NoWay, SeenRoute, Way};

use super::super::catalog::{
    FOREIGN_RULE, FORWARDING, LINK_DOWN, LOST, NEXT_HOP, POLICY_EGRESS, POLICY_INGRESS,
    REVERSE_PATH, ROUTE_MISSING, ROUTE_NOWHERE, TARGET_LINK,
};
use super::super::evidence::{Evidence, Side};
use super::super::outcome::Broken;
use super::super::rules::RulePlace;
use super::super::watch::{Direction, Place, Sighting};
use super::pod::raised;
use super::tunnel::no_entry;
use super::{Step, Walk, ip};

/// Asks the agent why.
const EXPLAIN: &str = "portolan policy explain";

pub(super) fn judge(walk: &mut Walk<'_>) -> Step {
    let e = walk.evidence;
    if let Some(out) = leaving(e) {
        let words = left(walk, out);
        walk.passed(walk.node(), words);
        return Step::On;
    }
    let answered = e.answers(Place::Source, Direction::In).next().is_some();
    let is_refused = refusal(e).is_some();
    if e.node.way == Way::Local && answered && !is_refused {
        walk.passed(walk.node(), "it is for the node itself");
        return Step::On;
    }
    why(walk).into()
}

/// The last link by which a probe left this node, a tunnel's inner packet first.
pub(in crate::trace) fn leaving(e: &Evidence) -> Option<&Sighting> {
    let all = || {
        e.probes(Place::Node, Direction::Out)
            .filter(|one| one.link != e.node.host_end)
    };
    all()
        .find(|one| one.seen.tunnel.is_none())
        .or_else(|| all().next())
}

/// A rule that refused, and so sent the answer itself.
fn refusal(e: &Evidence) -> Option<&RulePlace> {
    e.risen.iter().find(|rule| rule.target == "REJECT")
}

/// What happened to it here, in words.
fn left(walk: &Walk<'_>, out: &Sighting) -> String {
    let e = walk.evidence;
    let mut words = Vec::new();
    if let Some(sides) = &e.policy {
        let (side, direction) = match e.is_arriving() {
            true => (&sides.ingress, "ingress"),
            false => (&sides.egress, "egress"),
        };
        if side.allowed {
            words.push(format!("{direction} policy: {}", side.by));
        }
    }
    if out.seen.to != e.ends.to {
        words.push(format!(
            "its destination becomes {} (a Service or a port of the node)",
            at(out.seen.to, out.seen.to_port)
        ));
    }
    if out.seen.from != e.ends.from {
        words.push(format!("its source becomes {}", out.seen.from));
    }
    if let Some(route) = &e.node.route {
        words.push(format!("route {}", route_words(route)));
    }
    let by = e.link_name(out.link);
    words.push(match &e.node.tunnel {
        Some(_) if !e.is_arriving() => format!("goes into the tunnel {by}"),
        _ => format!("leaves by {by}"),
    });
    words.join("; ")
}

fn at(address: std::net::IpAddr, port: u16) -> String {
    match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    }
}

pub(super) fn route_words(route: &SeenRoute) -> String {
    let whose = match route.is_ours() {
        true => " (ours)".to_owned(),
        false => format!(" (protocol {}, metric {})", route.protocol, route.metric),
    };
    format!("{}{whose}", route.prefix)
}

/// Why nothing left: first what was counted, then what the kernel says of itself, in the order in which a packet meets it.
fn why(walk: &Walk<'_>) -> Broken {
    counted(walk)
        .or_else(|| forwarding(walk))
        .or_else(|| target_link(walk))
        .or_else(|| route(walk))
        .or_else(|| link(walk))
        .or_else(|| said(walk))
        .unwrap_or_else(|| lost(walk))
}

/// Rules whose counters rose by the probes.
pub(super) fn counted(walk: &Walk<'_>) -> Option<Broken> {
    let e = walk.evidence;
    let ours = e.risen.iter().find(|rule| rule.is_ours());
    let foreign = e.risen.iter().find(|rule| !rule.is_ours());
    let denied = said(walk);
    match (ours, foreign) {
        (Some(rule), None) => denied.or_else(|| Some(by_chain(walk, rule))),
        (Some(_), Some(_)) if denied.is_some() => denied,
        (_, Some(rule)) => Some(by_foreign(walk, rule)),
        (None, None) => None,
    }
}

fn by_foreign(walk: &Walk<'_>, rule: &RulePlace) -> Broken {
    let RulePlace {
        program,
        table,
        chain,
        rule,
        target,
    } = rule;
    let (what, remedy) = match rule.is_empty() {
        true => (
            format!("{program}: the policy of {chain} is {target}"),
            format!("{program} -t {table} -P {chain} ACCEPT"),
        ),
        false => (
            format!("{program}: a rule in {table} {chain} drops it: `{rule}`"),
            format!("{program} -t {table} -D {chain} {rule}"),
        ),
    };
    FOREIGN_RULE.at(
        walk.node(),
        what,
        "the rule is not Portolan's: a firewall of this host, or another program's; its counter rose with the probes",
        remedy,
    )
}

/// Where the agent does not say which policy it is, the chain says which direction.
fn by_chain(walk: &Walk<'_>, rule: &RulePlace) -> Broken {
    let e = walk.evidence;
    let is_ingress = rule
        .chain
        .split('-')
        .nth(1)
        .is_some_and(|part| part.ends_with('I'));
    let (kind, direction) = match is_ingress {
        true => (POLICY_INGRESS, "ingress"),
        false => (POLICY_EGRESS, "egress"),
    };
    kind.at(
        walk.node(),
        format!("{direction} policy drops it, in chain {}", rule.chain),
        "the chain's counter rose with the probes; which policy it is the agent says, which does not answer",
        explain(e),
    )
}

fn explain(e: &Evidence) -> String {
    format!("{EXPLAIN} {} {}", e.ends.pod, e.ends.asked)
}

/// What the policies say against it, of those that this node enforces.
fn said(walk: &Walk<'_>) -> Option<Broken> {
    let e = walk.evidence;
    let sides = e.policy.as_ref()?;
    let of = |side: &Side| !side.allowed && side.local;
    if of(&sides.egress) {
        return Some(denied(walk, &sides.egress, true, walk.node()));
    }
    of(&sides.ingress).then(|| denied(walk, &sides.ingress, false, walk.node()))
}

/// That one side's policies deny it.
pub(super) fn denied(walk: &Walk<'_>, side: &Side, is_egress: bool, hop: String) -> Broken {
    let (kind, direction) = match is_egress {
        true => (POLICY_EGRESS, "egress"),
        false => (POLICY_INGRESS, "ingress"),
    };
    let subject = side.subject.as_deref().unwrap_or("the pod");
    kind.at(
        hop,
        format!("{direction} policy of {subject} denies it"),
        side.by.clone(),
        explain(walk.evidence),
    )
}

fn forwarding(walk: &Walk<'_>) -> Option<Broken> {
    let e = walk.evidence;
    if e.node.way == Way::Local {
        return None;
    }
    let v4 = e.ends.from.is_ipv4();
    let host_end = walk.host_end();
    let (what, remedy) = match (v4, e.node.forwards, e.node.host_end_forwards) {
        (true, false, _) => (
            "net.ipv4.ip_forward is 0".to_owned(),
            "sysctl -w net.ipv4.ip_forward=1".to_owned(),
        ),
        (false, false, _) => (
            "net.ipv6.conf.all.forwarding is 0".to_owned(),
            "sysctl -w net.ipv6.conf.all.forwarding=1".to_owned(),
        ),
        (true, true, false) => (
            format!("forwarding is 0 for {host_end}"),
            format!("sysctl -w net/ipv4/conf/{host_end}/forwarding=1"),
        ),
        _ => return None,
    };
    Some(FORWARDING.at(
        walk.node(),
        what,
        "the agent switches it on when it starts; something switched it off since, such as a sysctl.d file that was applied again",
        remedy,
    ))
}

fn route(walk: &Walk<'_>) -> Option<Broken> {
    let e = walk.evidence;
    let Way::Nowhere(reason) = e.node.way else {
        return None;
    };
    let (to, ip) = (e.ends.to, ip(e.ends.to.is_ipv4()));
    if reason == NoWay::ReversePath {
        return Some(reverse_path(walk, &walk.host_end()));
    }
    let Some(route) = e.node.route.as_ref().filter(|route| route.leads_nowhere) else {
        return Some(ROUTE_MISSING.at(
            walk.node(),
            format!("there is no route to {to}"),
            "no peer announced one, its session is down, or somebody deleted it; without a default route nothing else leads there",
            format!("portolan bgp explain {to}; portolan bgp peers"),
        ));
    };
    let what = format!("the route {} refuses it", route_words(route));
    Some(match route.is_ours() {
        true => ROUTE_NOWHERE.at(
            walk.node(),
            what,
            "it is of this node's own Pod CIDR, and no pod has that address now: the pod is gone, or its route was deleted",
            "portolan ipam show; portolan doctor",
        ),
        false => ROUTE_NOWHERE.at(
            walk.node(),
            what,
            format!("`ip route show proto {}` shows what else is of whoever wrote it", route.protocol),
            format!("{ip} route del {} proto {} metric {}", route.prefix, route.protocol, route.metric),
        ),
    })
}

/// That a packet is dropped because its source is not to come by that link.
pub(super) fn reverse_path(walk: &Walk<'_>, link: &str) -> Broken {
    REVERSE_PATH.at(
        walk.node(),
        format!("what comes by {link} is dropped by strict reverse path filtering"),
        "the route back to its source leads by another link (two uplinks, an asymmetric way), and rp_filter is 1; the larger of \
         net.ipv4.conf.all and the link's own value counts, so that 2 (loose) in `all` is enough",
        "sysctl -w net.ipv4.conf.all.rp_filter=2",
    )
}

/// A host end that is down has no route any more.
fn target_link(walk: &Walk<'_>) -> Option<Broken> {
    let e = walk.evidence;
    let link = e.node.target_end.and_then(|link| e.link(link))?;
    if link.up && link.carrier {
        return None;
    }
    let name = &link.name;
    let remedy = match &e.target {
        Some(target) if link.up => raised(&target.enter, e.ends.to, &target.link.name),
        _ => format!("ip link set dev {name} up"),
    };
    Some(TARGET_LINK.at(
        walk.target(),
        format!(
            "the interface of {} is down, at the {} end ({name})",
            e.ends.target,
            if link.up { "pod's" } else { "host's" }
        ),
        "somebody set it down: nothing gets to that pod or from it",
        remedy,
    ))
}

fn link(walk: &Walk<'_>) -> Option<Broken> {
    let e = walk.evidence;
    let Way::Out { link, gateway } = e.node.way else {
        return None;
    };
    let name = e.link_name(link);
    let works = e.link(link).is_some_and(|link| link.up && link.carrier);
    if !works {
        return Some(LINK_DOWN.at(
            walk.node(),
            format!("{name}, by which it is to leave, is down"),
            "somebody set the link down, its other end is down, or the cable is out",
            format!("ip link set dev {name} up; ip -s link show dev {name}"),
        ));
    }
    let silent = e.node.neighbour.is_some_and(|neighbour| neighbour.silent);
    if silent
        && !e.is_arriving()
        && let Some(tunnel) = &e.node.tunnel
    {
        return Some(no_entry(tunnel));
    }
    silent.then(|| {
        let next = gateway.unwrap_or(e.ends.to);
        NEXT_HOP.at(
            format!("next hop {next}"),
            format!("{next} does not answer for its address on {name}"),
            "the router is down, it has another address now, or the way to it (VLAN, switch) is broken",
            format!("{} neighbour show {next} dev {name}; portolan bgp peers", ip(next.is_ipv4())),
        )
    })
}

pub(super) fn lost(walk: &Walk<'_>) -> Broken {
    let name = walk.host_end();
    LOST.at(
        walk.node(),
        "the probe comes to the host end and does not leave this node",
        "neither a counted rule, nor a switch, nor a route, nor a neighbour explains it: rules of nftables that iptables does not \
         show, or programs (tc, XDP) are left",
        format!("nft list ruleset; tc filter show dev {name} ingress; portolan doctor"),
    )
}
