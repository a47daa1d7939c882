//! What this node's kernel does with a connection's first packet: what was read back is walked, and held against what was
//! compiled and against what the policies say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ::policy::{Compiled, Flow, Origin, Packet, Place, Tables, Tried, WalkVerdict};
use netfilter::{
    CtState, Family, InterfaceName, Protocol, Rule, Saved, SavedHook, SavedRule, SavedText, Table,
};

use super::counts::of_family;
use super::list::key_name;
use super::state::Known;
use super::view::{KernelView, TriedView};

/// The types of echo requests: what is asked of ICMP.
const ECHO_REQUEST: u16 = 8;
const ECHO_REQUEST_V6: u16 = 128;

/// Walks the packet; none if neither end is a pod of this node, or the kernel could not be read.
pub(super) fn kernel(
    known: &Known,
    own: &BTreeSet<IpAddr>,
    flow: &Flow,
    expected_dropped: bool,
) -> Option<KernelView> {
    let held = known.held.as_ref().ok()?;
    let packet = packet(known, own, flow)?;
    let family = match flow.source {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    };
    let saved = held.rules(family);
    let walked = Tables::saved(saved, held.sets.members()).walk(&packet);
    let compiled = Tables::compiled(of_family(&known.compiled, family)).walk(&packet);
    let foreign = foreign(saved, &walked.trail);
    let dropped = walked.verdict == WalkVerdict::Dropped;
    let compiled_dropped = compiled.verdict == WalkVerdict::Dropped;
    let difference = difference(
        [expected_dropped, compiled_dropped, dropped],
        !foreign.is_empty(),
    );
    Some(KernelView {
        dropped,
        verdict: verdict(walked.verdict, &packet).to_owned(),
        expected_dropped,
        difference,
        foreign,
        trail: walked
            .trail
            .iter()
            .map(|tried| view(saved, &known.compiled, tried))
            .collect(),
    })
}

/// As FORWARD sees it (after DNAT, before SNAT); INPUT or OUTPUT where this node is an end.
fn packet(known: &Known, own: &BTreeSet<IpAddr>, flow: &Flow) -> Option<Packet> {
    let attached = |address| known.endpoint(address).map(|(interface, _)| interface);
    let (input, output) = (attached(flow.source), attached(flow.destination));
    if input.is_none() && output.is_none() {
        return None;
    }
    let outside = InterfaceName::new("outside").expect("a constant interface name is valid");
    let is_own = |address: IpAddr| address.is_loopback() || own.contains(&address);
    let from_self = input.is_none() && is_own(flow.source);
    let to_self = output.is_none() && is_own(flow.destination);
    let v4 = flow.source.is_ipv4();
    let echo = if v4 { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    Some(Packet {
        source: flow.source,
        destination: flow.destination,
        input: (!from_self).then(|| input.unwrap_or(&outside).clone()),
        output: (!to_self).then(|| output.unwrap_or(&outside).clone()),
        protocol: flow.protocol,
        source_port: 0,
        port: flow.port.unwrap_or(echo),
        state: CtState::New,
        syn: flow.protocol == Protocol::Tcp.number(),
        reply: false,
        source_local: from_self,
        destination_local: to_self,
        mark: 0,
    })
}

fn verdict(verdict: WalkVerdict, packet: &Packet) -> &'static str {
    match verdict {
        WalkVerdict::Dropped => "drops it",
        WalkVerdict::Accepted => "accepts it",
        WalkVerdict::Passed if packet.output.is_none() => {
            "lets it pass to the node, by the node's own rules"
        }
        WalkVerdict::Passed => "lets it pass",
    }
}

/// Why the kernel and the policies say different things. Of each: whether it drops the packet.
fn difference([policies, compiled, kernel]: [bool; 3], is_foreign: bool) -> Option<String> {
    let word = |drops: bool| if drops { "denied" } else { "allowed" };
    if kernel != policies {
        let why = if kernel == compiled {
            "The rules are those that this agent compiled: that is a bug of Portolan, please report it."
        } else {
            "The kernel does not hold what this agent wrote: someone changed its rules or sets, or they could not \
             be written. It heals within two seconds or `portolan status` says why not."
        };
        return Some(format!(
            "the policies say {}, the kernel's rules say {}. {why}",
            word(policies),
            word(kernel)
        ));
    }
    if compiled != kernel {
        return Some(format!(
            "the kernel's rules say {} as the policies do, but this agent compiled rules that say {}",
            word(kernel),
            word(compiled)
        ));
    }
    is_foreign.then(|| {
        "a rule that is not Portolan's stands in a chain of Portolan's on the way: what it does is not known".to_owned()
    })
}

/// Rules on the way that could not be read as ours, each once.
fn foreign(saved: &Saved, trail: &[Tried]) -> Vec<String> {
    let on_the_way = trail.iter().filter_map(|tried| {
        let rule = find(saved, tried)?;
        match (&rule.rule, &tried.chain) {
            (SavedText::Unknown(text), Place::Chain(name)) => {
                Some(format!("{} {name}: {text}", tried.table.name()))
            }
            _ => None,
        }
    });
    let each: BTreeSet<String> = on_the_way.collect();
    each.into_iter().collect()
}

fn find<'a>(saved: &'a Saved, tried: &Tried) -> Option<&'a SavedRule> {
    match &tried.chain {
        Place::Chain(name) => {
            let chain = saved.chains.get(&(tried.table, name.clone()))?;
            chain.get(tried.index)
        }
        Place::Builtin(builtin) => {
            let is_here = |hook: &&SavedHook| {
                hook.table == tried.table
                    && hook.chain == builtin.name()
                    && matches!(hook.rule.rule, SavedText::Rule(_))
            };
            let mut hooks = saved.hooks.iter().filter(is_here);
            hooks.nth(tried.index).map(|hook| &hook.rule)
        }
    }
}

fn view(saved: &Saved, compiled: &Compiled, tried: &Tried) -> TriedView {
    let rule = find(saved, tried);
    let (chain, origin) = match &tried.chain {
        Place::Builtin(builtin) => (builtin.name().to_owned(), None),
        Place::Chain(name) => {
            let origin = (tried.table == Table::Filter).then(|| compiled.origins.get(name));
            (name.to_string(), origin.flatten().map(AsRef::as_ref))
        }
    };
    let (policy, policy_rule) = match origin {
        Some(Origin::Policy { key, rules, .. }) => {
            let from = rules.get(tried.index).map(|place| place + 1);
            (Some(key_name(key)), from)
        }
        _ => (None, None),
    };
    TriedView {
        table: tried.table.name().to_owned(),
        chain,
        number: tried.index + 1,
        matched: tried.matched,
        rule: rule.map_or_else(String::new, text),
        packets: rule.map_or(0, |rule| rule.packets),
        bytes: rule.map_or(0, |rule| rule.bytes),
        policy,
        policy_rule,
    }
}

/// Its words without the comment that makes it ours.
fn text(saved: &SavedRule) -> String {
    let rendered = match &saved.rule {
        SavedText::Unknown(text) => return format!("(not ours) {text}"),
        SavedText::Rule(rule) => Rule::render(rule),
    };
    let comment = format!("-m comment --comment \"{}", netfilter::COMMENT_PREFIX);
    let Some((before, rest)) = rendered.split_once(&comment) else {
        return rendered;
    };
    let after = rest.split_once("\" ").map_or("", |(_, after)| after);
    format!("{before}{after}")
}
