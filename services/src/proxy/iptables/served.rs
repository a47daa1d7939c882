//! What rules say of packets that IPVS leads: which are masqueraded, that nobody else leads them, and what at the addresses of
//! Services is nobody's.
//!
//! IPVS knows no sender. What it does is right for everybody but this node and its pods ([`is_split`]); what a sender changes
//! besides is the source, and that is left to these rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use netfilter::{
    Action, ChainName, Family, InterfaceMatch, IpSet, Match, Note, Protocol, Rule, SetDirection,
    SetKind, SetName,
};

use super::super::endpoints::Endpoint;
use super::super::model::{Answer, Frontend, FrontendKind, ServicePort};
use super::dispatch::{Key, Role};
use super::port::protocol;
use super::{Options, Part, base};

/// An address, its protocol and port.
type At = (IpAddr, Protocol, u16);

/// What of a Service IPVS serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Where it is asked.
    led: BTreeSet<At>,
    /// Of these, where all but this node's pods are masqueraded.
    inside: BTreeSet<At>,
    /// Where everybody is.
    outside: BTreeSet<At>,
    /// Where IPVS leads this node's pods, and no endpoint can be the host itself.
    pods: BTreeSet<At>,
    /// All its addresses, those without an endpoint, too.
    addresses: BTreeSet<IpAddr>,
}

/// Whether a port's addresses for the outside ask others for this node and its pods than for everybody else. Then the chains
/// lead the former, and IPVS the latter.
///
/// So, too, for pods that policy judges: a node's address is the node's, whether IPVS has it yet or not.
pub(super) fn is_split(port: &ServicePort, options: &Options) -> bool {
    let external = &port.external;
    options.pods_are_judged || external.own_pod != external.other || external.node != external.other
}

/// Whether the chains lead this node's pods to a cluster IP: one of its endpoints may be the host itself. To that one IPVS would
/// hand packets behind all rules.
pub(super) fn is_split_inside(port: &ServicePort, options: &Options) -> bool {
    let Answer::Forward { to, .. } = port.internal.other else {
        return false;
    };
    let may_be_host = |one: &Endpoint| {
        let address = one.address.ip();
        let is_pod = options
            .pod_networks
            .iter()
            .any(|net| net.contains(&address));
        let is_elsewhere = !one.is_local && one.node.is_some();
        options.node_addresses.contains(&address) || !(is_pod || is_elsewhere)
    };
    options.pods_are_judged && port.endpoints(to).iter().any(may_be_host)
}

/// The addresses at which a frontend is asked: a node port's are the node's.
pub(in super::super) fn addresses<'a>(
    frontend: &'a Frontend,
    options: &'a Options,
) -> impl Iterator<Item = IpAddr> + 'a {
    let nets = &options.node_port_addresses;
    let of_node = options.node_addresses.iter().copied().filter(move |one| {
        let is_said = nets.is_empty() || nets.iter().any(|net| net.contains(one));
        frontend.address.is_none() && Family::of(*one) == frontend.family && is_said
    });
    frontend.address.into_iter().chain(of_node)
}

/// The addresses of a port that are to be this host's without its having them.
pub(in super::super) fn virtual_addresses<'a>(
    port: &'a ServicePort,
    options: &'a Options,
) -> impl Iterator<Item = IpAddr> + 'a {
    let all = port.frontends.iter().filter_map(|one| one.address);
    all.filter(|address| !options.node_addresses.contains(address))
}

/// Adds what IPVS serves of a port.
pub(super) fn add(part: &mut Part, port: &ServicePort, options: &Options) {
    part.served
        .addresses
        .extend(virtual_addresses(port, options));
    for frontend in &port.frontends {
        let Answer::Forward { to, masquerade } = port.answers(frontend.kind).other else {
            continue;
        };
        for address in addresses(frontend, options) {
            let at = (address, protocol(port.name.protocol), frontend.port);
            part.served.led.insert(at);
            let is_inside = frontend.kind == FrontendKind::ClusterIp;
            let is_nodes = options.node_addresses.contains(&address);
            if is_inside && !is_nodes && !is_split_inside(port, options) {
                part.served.pods.insert(at);
            }
            match (frontend.kind, masquerade) {
                (FrontendKind::ClusterIp, true) => drop(part.served.inside.insert(at)),
                (_, true) => drop(part.served.outside.insert(at)),
                (_, false) => {}
            }
        }
        for one in port.endpoints(to) {
            if one.is_local || one.node.is_none() {
                let rule = hairpin(one.address.ip(), port);
                part.rules.push((Role::Hairpin, rule));
            }
        }
    }
}

/// An endpoint that asks itself gets the node's address (semantics 129).
fn hairpin(address: IpAddr, port: &ServicePort) -> (Key, Rule) {
    let itself = [
        Match::Source(address.into()),
        Match::Destination(address.into()),
    ];
    let rule = Rule::new(itself, Action::Masquerade);
    // By its name, for another may have the same endpoint.
    let rule = rule.noted(Note::new(&format!("{} asks itself", port.name)));
    (Key::address(address, 0, Protocol::Tcp), rule)
}

/// The way to the rules of [`Role::Hairpin`].
pub(super) fn to_itself() -> Rule {
    let (chain, _) = Role::Hairpin.names();
    Rule::new([], Action::Jump(chain)).noted(Note::new("endpoints that ask themselves"))
}

fn led(family: Family) -> SetName {
    SetName::hashed(family, "m", &["services that ipvs leads"])
}

/// The set of addresses and ports at which what a pod of this node sends is surely IPVS's, and goes to no program of the node.
pub fn led_for_pods(family: Family) -> SetName {
    SetName::hashed(family, "m", &["services that ipvs leads pods to"])
}

fn inside(family: Family) -> SetName {
    SetName::hashed(family, "m", &["services inside"])
}

fn outside(family: Family) -> SetName {
    SetName::hashed(family, "m", &["services outside"])
}

fn virtuals(family: Family) -> SetName {
    SetName::fixed(family, "services")
}

fn is_in(name: SetName, negated: bool) -> Match {
    Match::Set {
        name,
        direction: SetDirection::DestinationAndPort,
        negated,
    }
}

/// Whether a packet is to the address of a Service, or not.
pub(super) fn is_virtual(family: Family, negated: bool) -> Match {
    Match::Set {
        name: virtuals(family),
        direction: SetDirection::Destination,
        negated,
    }
}

/// What IPVS leads is marked, if it is to be masqueraded.
pub(super) fn marks(family: Family, options: &Options) -> Vec<Rule> {
    let of_no_pod = InterfaceMatch::NotPrefix(options.pod_interfaces.clone());
    let mark = |conditions: Vec<Match>, note| {
        let to: ChainName = base::mark_masquerade();
        Rule::new(conditions, Action::Jump(to)).noted(Note::new(note))
    };
    let from_no_pod = vec![Match::InInterface(of_no_pod), is_in(inside(family), false)];
    vec![
        mark(vec![is_in(outside(family), false)], "external destinations"),
        mark(from_no_pod, "cluster IPs"),
    ]
}

/// Behind the ways of those that the chains lead: what IPVS leads is led by nobody else.
pub(super) fn left_to_ipvs(family: Family) -> Rule {
    Rule::new([is_in(led(family), false)], Action::Accept).noted(Note::new("led by IPVS"))
}

/// What nobody serves at an address of a Service is refused: no program of the node is to be found there.
pub(super) fn refuse_others(family: Family) -> Rule {
    let unserved = [is_virtual(family, false), is_in(led(family), true)];
    Rule::new(unserved, Action::Reject(family)).noted(Note::new("no port of a service"))
}

/// The sets of a family.
pub(super) fn sets<'a>(
    family: Family,
    parts: impl Iterator<Item = &'a Members>,
) -> BTreeMap<SetName, Arc<IpSet>> {
    let of_ports = |name| IpSet::new(name, family, SetKind::HashIpPort);
    let mut led = of_ports(led(family));
    let mut pods = of_ports(led_for_pods(family));
    let mut inside = of_ports(inside(family));
    let mut outside = of_ports(outside(family));
    let mut virtuals = IpSet::new(virtuals(family), family, SetKind::HashIp);
    for part in parts {
        let ports = [
            (&mut led, &part.led),
            (&mut pods, &part.pods),
            (&mut inside, &part.inside),
            (&mut outside, &part.outside),
        ];
        for (set, members) in ports {
            for (address, protocol, port) in members {
                set.insert_ip_port(*address, *protocol, *port);
            }
        }
        part.addresses
            .iter()
            .for_each(|address| virtuals.insert_ip(*address));
    }
    [led, pods, inside, outside, virtuals]
        .into_iter()
        .map(|set| (set.name().clone(), Arc::new(set)))
        .collect()
}
