//! Which rules dropped probes: iptables' counters before and after, compared; pure but for the reading.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netfilter::CHAIN_PREFIX;

use super::watch::Sighting;
use crate::doctor::bound;
use crate::doctor::listing::{target, words};
use crate::firewall::{Backend, all_counted};

/// A rule, or a built-in chain's policy, with what it counted.
type Counts = BTreeMap<RulePlace, u64>;

/// Where a rule is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RulePlace {
    /// The program that writes it, as `iptables-nft`.
    pub(super) program: String,
    pub(super) table: String,
    pub(super) chain: String,
    /// Behind `-A CHAIN`; of a chain's policy nothing.
    pub(super) rule: String,
    /// Where it leads, or the policy.
    pub(super) target: String,
}

impl RulePlace {
    /// Whether it is one of ours, and so the word of a policy.
    pub(super) fn is_ours(&self) -> bool {
        self.chain.starts_with(CHAIN_PREFIX)
    }

    fn drops(&self) -> bool {
        matches!(self.target.as_str(), "DROP" | "REJECT")
    }
}

/// What of a packet rules are matched against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// The source, before and after translation.
    pub(super) from: Vec<IpAddr>,
    /// The destination, the same.
    pub(super) to: Vec<IpAddr>,
    /// In iptables' words.
    pub(super) protocol: &'static str,
    /// The link by which it came into the node, if that is known.
    pub(super) arrives_by: Option<String>,
}

/// Reads the counters of both back ends and families; none where they cannot be read.
pub(super) fn read() -> Option<Counts> {
    let listings = bound::asynchronous(all_counted()).ok()?.ok()?;
    let mut all = Counts::new();
    for (backend, [v4, v6]) in listings {
        add(&mut all, backend, true, &v4);
        add(&mut all, backend, false, &v6);
    }
    Some(all)
}

/// The outer packets of tunnels that were seen, both ways.
pub(super) fn of_tunnels(sightings: &[Sighting]) -> Vec<Shape> {
    let mut ends: Vec<(IpAddr, IpAddr)> =
        sightings.iter().filter_map(|one| one.seen.tunnel).collect();
    ends.sort_unstable();
    ends.dedup();
    ends.into_iter()
        .flat_map(|(from, to)| between(from, to))
        .collect()
}

/// Outer packets between two nodes: of VXLAN, and of IPIP in iptables' words.
pub(super) fn between(from: IpAddr, to: IpAddr) -> Vec<Shape> {
    let shape = |protocol| Shape {
        from: vec![from],
        to: vec![to],
        protocol,
        arrives_by: None,
    };
    vec![shape("udp"), shape("ipencap")]
}

fn add(all: &mut Counts, backend: Backend, is_v4: bool, text: &str) {
    let family = if is_v4 { "iptables" } else { "ip6tables" };
    let program = format!("{family}-{}", backend.name());
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
            continue;
        }
        let Some((place, count)) = counted(line, &program, &table) else {
            continue;
        };
        // The same rule may stand there twice.
        *all.entry(place).or_default() += count;
    }
}

/// `:FORWARD DROP [7:420]`, or `[7:420] -A FORWARD -j DROP`.
fn counted(line: &str, program: &str, table: &str) -> Option<(RulePlace, u64)> {
    let number = |counters: &str| counters.split_once(':')?.0.parse().ok();
    let place = |chain: &str, rule: &str, target: &str| RulePlace {
        program: program.to_owned(),
        table: table.to_owned(),
        chain: chain.to_owned(),
        rule: rule.to_owned(),
        target: target.to_owned(),
    };
    if let Some(chain) = line.strip_prefix(':') {
        let mut parts = chain.split(' ');
        let (name, policy) = (parts.next()?, parts.next()?);
        let counters = parts.next()?.trim_matches(['[', ']']);
        return Some((place(name, "", policy), number(counters)?));
    }
    let (counters, rest) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (chain, rule) = rest.split_once(' ')?;
    Some((
        place(chain, rule, target(rule).unwrap_or_default()),
        number(counters)?,
    ))
}

/// The rules that dropped more than before, and could have dropped one of such packets.
pub(super) fn risen(before: &Counts, after: &Counts, shapes: &[Shape]) -> Vec<RulePlace> {
    let grew = |place: &RulePlace, now: u64| now > before.get(place).copied().unwrap_or(0);
    let risen = after
        .iter()
        .filter(|(place, now)| place.drops() && grew(place, **now))
        .map(|(place, _)| place)
        .filter(|place| {
            let of_family = |shape: &&Shape| {
                let is_v4 = shape.from.first().is_some_and(IpAddr::is_ipv4);
                place
                    .program
                    .starts_with(if is_v4 { "iptables" } else { "ip6tables" })
            };
            let mut shapes = shapes.iter().filter(of_family);
            shapes.any(|shape| may_match(&place.rule, shape))
        });
    risen.cloned().collect()
}

/// Whether nothing in a rule's words speaks against the packet; what is not known here does not.
fn may_match(rule: &str, shape: &Shape) -> bool {
    let words = words(rule);
    let mut negated = false;
    for (place, word) in words.iter().enumerate() {
        let value = words.get(place + 1).copied().unwrap_or_default();
        let fits = match *word {
            "-s" => in_network(value, &shape.from),
            "-d" => in_network(value, &shape.to),
            "-p" => value == shape.protocol,
            "-i" => shape
                .arrives_by
                .as_deref()
                .is_none_or(|name| is_named(value, name)),
            _ => {
                negated = *word == "!";
                continue;
            }
        };
        if fits == negated {
            return false;
        }
        negated = false;
    }
    true
}

fn in_network(text: &str, addresses: &[IpAddr]) -> bool {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_or(true, |network| {
        addresses.iter().any(|address| network.contains(address))
    })
}

fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> Counts {
        let mut all = Counts::new();
        add(&mut all, Backend::Nft, true, text);
        all
    }

    fn shape() -> Shape {
        Shape {
            from: vec!["10.244.1.1".parse().unwrap()],
            to: vec!["10.244.2.1".parse().unwrap()],
            protocol: "tcp",
            arrives_by: Some("ptl0123".to_owned()),
        }
    }

    fn told(before: &str, after: &str) -> Vec<String> {
        let risen = risen(&counts(before), &counts(after), &[shape()]);
        risen
            .into_iter()
            .map(|place| format!("{} {}", place.chain, place.rule))
            .collect()
    }

    #[test]
    fn a_rule_that_dropped_more_is_told_and_one_that_did_not_is_not() {
        let before = "*filter\n:FORWARD ACCEPT [5:300]\n[1:60] -A FORWARD -d 10.244.2.0/24 -j DROP\n[9:540] -A FORWARD -j ACCEPT\n\
                      [0:0] -A PTL-FORWARD -j DROP\nCOMMIT\n";
        let after = before
            .replace("[1:60]", "[3:180]")
            .replace("[9:540]", "[11:600]");
        assert_eq!(told(before, &after), ["FORWARD -d 10.244.2.0/24 -j DROP"]);
        assert!(told(before, before).is_empty());
        let ours = before.replace("[0:0]", "[2:120]");
        let risen = risen(&counts(before), &counts(&ours), &[shape()]);
        assert!(risen[0].is_ours());
        assert_eq!(risen[0].program, "iptables-nft");
    }

    #[test]
    fn a_chains_policy_counts_and_one_that_accepts_does_not() {
        let before = "*filter\n:FORWARD DROP [5:300]\n:INPUT ACCEPT [5:300]\n";
        let after = "*filter\n:FORWARD DROP [6:360]\n:INPUT ACCEPT [9:900]\n";
        assert_eq!(told(before, after), ["FORWARD "]);
    }

    #[test]
    fn rules_that_speak_of_other_packets_are_left_out() {
        for (rule, is_told) in [
            ("-s 10.244.1.0/24 -j DROP", true),
            ("-s 10.244.3.0/24 -j DROP", false),
            ("! -s 10.244.3.0/24 -j DROP", true),
            ("! -s 10.244.1.0/24 -j DROP", false),
            (
                "-d 10.244.2.1/32 -j REJECT --reject-with icmp-port-unreachable",
                true,
            ),
            ("-d 10.244.9.1/32 -j REJECT", false),
            ("-i ptl+ -p tcp -m tcp --dport 80 -j DROP", true),
            ("-i eth0 -j DROP", false),
            ("-p udp -j DROP", false),
            ("-m comment --comment \"-p udp\" -j DROP", true),
        ] {
            let text = |count| format!("*filter\n[{count}:0] -A FORWARD {rule}\n");
            assert_eq!(
                told(&text(1), &text(2)).len(),
                usize::from(is_told),
                "{rule}"
            );
        }
    }
}
