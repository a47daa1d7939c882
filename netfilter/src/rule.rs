//! A rule as a value, and the one place that makes text of it.
//!
//! The text is what `iptables-save` prints for it, so that read-back and wish compare word by word.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use ipnet::IpNet;

use crate::names::{ChainName, InterfaceName, SetName, short_hash};

/// What starts the comment on each rule of ours.
pub const COMMENT_PREFIX: &str = "ptl:";
const COMMENT_DIGITS: usize = 12;
/// The slots of one multiport match; a range takes two.
const MULTIPORT_SLOTS: usize = 15;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// The interface it came in by.
    InInterface(InterfaceMatch),
    /// The interface it leaves by.
    OutInterface(InterfaceMatch),
    /// The source address.
    Source(IpNet),
    /// The destination address.
    Destination(IpNet),
    /// The protocol.
    Protocol(Protocol),
    /// One of these destination ports of the rule's protocol ([`PortRange::chunks`] keeps to the limit).
    DestinationPorts(Vec<PortRange>),
    /// One source port of the rule's protocol.
    SourcePort(u16),
    /// The ICMPv6 type.
    Icmpv6Type(u8),
    /// A TCP packet that does not open a connection (no SYN, or with ACK, RST or FIN).
    TcpNotSyn,
    /// One of these conntrack states.
    CtState(BTreeSet<CtState>),
    /// A packet of the direction opposite to the one that opened the connection.
    CtReply,
    /// The source address is one of this host's.
    SourceLocal,
    /// The destination address is one of this host's.
    DestinationLocal,
    /// At most so many packets a second (and as many at once).
    Limit {
        /// Packets a second.
        rate: u16,
    },
    /// Membership in a set.
    Set {
        /// Which set.
        name: SetName,
        /// Which parts of the packet are looked up.
        direction: SetDirection,
        /// Whether it must not be a member.
        negated: bool,
    },
    /// The packet mark under a mask.
    Mark {
        /// The value.
        value: u32,
        /// The mask.
        mask: u32,
        /// Whether it must be another value.
        negated: bool,
    },
}

/// Which interfaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterfaceMatch {
    /// This one.
    Exact(InterfaceName),
    /// All that start so.
    Prefix(InterfaceName),
}

/// An IP protocol that our rules name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 1.
    Icmp,
    /// 4, IPv4 in IP.
    IpInIp,
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 41, IPv6 in IP.
    Ipv6InIp,
    /// 58.
    Icmpv6,
    /// 132.
    Sctp,
}

impl Protocol {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::IpInIp => 4,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Ipv6InIp => 41,
            Self::Icmpv6 => 58,
            Self::Sctp => 132,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::IpInIp => "4",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Ipv6InIp => "41",
            Self::Icmpv6 => "ipv6-icmp",
            Self::Sctp => "sctp",
        }
    }

    /// A protocol's number as text: `iptables-save` prints a name where it knows one, and that hangs on the host.
    pub(crate) fn canonical(text: &str) -> &str {
        match text {
            "icmp" => "1",
            "ipencap" | "ipip" | "ipv4" => "4",
            "tcp" => "6",
            "udp" => "17",
            "ipv6" => "41",
            "ipv6-icmp" | "icmpv6" => "58",
            "sctp" => "132",
            other => other,
        }
    }
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Makes one; the ends may come in either order.
    pub fn new(first: u16, last: u16) -> Self {
        Self {
            first: first.min(last),
            last: first.max(last),
        }
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Sorts and merges ranges, and cuts them into lists that one match can hold.
    pub fn chunks(ranges: &[Self]) -> Vec<Vec<Self>> {
        let mut chunks: Vec<Vec<Self>> = Vec::new();
        let mut free = 0;
        for range in Self::merged(ranges) {
            if range.slots() > free {
                chunks.push(Vec::new());
                free = MULTIPORT_SLOTS;
            }
            free -= range.slots();
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(range);
            }
        }
        chunks
    }

    fn merged(ranges: &[Self]) -> Vec<Self> {
        let sorted: BTreeSet<Self> = ranges.iter().copied().collect();
        let mut merged: Vec<Self> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        merged
    }

    fn slots(self) -> usize {
        if self.first == self.last { 1 } else { 2 }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}:{}", self.first, self.last)
    }
}

/// A conntrack state, in the order in which `iptables-save` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtState {
    /// `INVALID`.
    Invalid,
    /// `NEW`.
    New,
    /// `RELATED`.
    Related,
    /// `ESTABLISHED`.
    Established,
}

impl CtState {
    fn name(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID",
            Self::New => "NEW",
            Self::Related => "RELATED",
            Self::Established => "ESTABLISHED",
        }
    }
}

/// Which parts of a packet a set is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetDirection {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The source address and the interface it came in by.
    SourceAndIn,
    /// The destination address and the interface it leaves by.
    DestinationAndOut,
    /// The destination address, protocol and port (`hash:ip,port`).
    DestinationAndPort,
}

impl SetDirection {
    fn name(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Destination => "dst",
            Self::SourceAndIn => "src,src",
            Self::DestinationAndOut | Self::DestinationAndPort => "dst,dst",
        }
    }
}

/// What is done with a packet that meets all conditions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Goes through a chain and comes back.
    Jump(ChainName),
    /// Goes through a chain and comes back to where this one was called from.
    Goto(ChainName),
    /// Ends this chain.
    Return,
    /// Lets the packet pass.
    Accept,
    /// Drops it.
    Drop,
    /// Writes the bits of the mask and goes on.
    SetMark {
        /// The value.
        value: u32,
        /// The mask.
        mask: u32,
    },
    /// Shows the packet to whoever listens to the group, and goes on.
    Nflog {
        /// The NFLOG group.
        group: u16,
        /// What the listener is told (a chain's name: no word from outside).
        prefix: ChainName,
    },
    /// Holds the packet until a program has said what becomes of it; without a program it goes on as accepted.
    Nfqueue {
        /// The queue's number.
        queue: u16,
    },
}

/// A rule: all conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    matches: Vec<Match>,
    action: Action,
}

impl Rule {
    /// Makes a rule. Conditions are put in one order, so that equal rules are equal texts; all ports are no condition
    /// (iptables-nft doesn't keep it, so it would never read back as written).
    pub fn new(matches: impl IntoIterator<Item = Match>, action: Action) -> Self {
        let all_ports = |condition: &Match| match condition {
            Match::DestinationPorts(ranges) => {
                PortRange::merged(ranges) == [PortRange::new(0, u16::MAX)]
            }
            _ => false,
        };
        let mut matches: Vec<Match> = matches
            .into_iter()
            .filter(|condition| !all_ports(condition))
            .collect();
        matches.sort_by_key(Match::rank);
        Self { matches, action }
    }

    /// Its conditions, in the order of the text.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// What it does.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// The rule as words after `-A CHAIN`, with the comment that makes it ours.
    pub fn render(&self) -> String {
        let (conditions, action) = (self.render_matches(), self.render_action());
        let hash = short_hash(&[&conditions, &action], COMMENT_DIGITS);
        format!("{conditions}-m comment --comment \"{COMMENT_PREFIX}{hash}\" {action}")
    }

    fn render_matches(&self) -> String {
        let mut text = String::new();
        for condition in &self.matches {
            // A String takes every write.
            let _ = self.write_match(&mut text, condition);
        }
        text
    }

    fn write_match(&self, text: &mut String, condition: &Match) -> fmt::Result {
        match condition {
            Match::Source(net) => write!(text, "-s {net} "),
            Match::Destination(net) => write!(text, "-d {net} "),
            Match::InInterface(interface) => write!(text, "-i {interface} "),
            Match::OutInterface(interface) => write!(text, "-o {interface} "),
            Match::Protocol(protocol) => write!(text, "-p {} ", protocol.name()),
            Match::DestinationPorts(ranges) => self.write_ports(text, ranges),
            Match::Icmpv6Type(number) => write!(text, "-m icmp6 --icmpv6-type {number} "),
            Match::TcpNotSyn => write!(text, "-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN "),
            Match::CtState(states) => {
                let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
                write!(text, "-m conntrack --ctstate {} ", names.join(","))
            }
            Match::Set {
                name,
                direction,
                negated,
            } => {
                let not = if *negated { "! " } else { "" };
                write!(text, "-m set {not}--match-set {name} {} ", direction.name())
            }
            Match::SourcePort(port) => {
                let module = self.protocol_name().unwrap_or("tcp");
                write!(text, "-m {module} --sport {port} ")
            }
            Match::CtReply => write!(text, "-m conntrack --ctdir REPLY "),
            Match::SourceLocal => write!(text, "-m addrtype --src-type LOCAL "),
            Match::DestinationLocal => write!(text, "-m addrtype --dst-type LOCAL "),
            Match::Limit { rate } => {
                write!(text, "-m limit --limit {rate}/sec --limit-burst {rate} ")
            }
            Match::Mark {
                value,
                mask,
                negated,
            } => {
                let not = if *negated { "! " } else { "" };
                write!(text, "-m mark {not}--mark {value:#x}/{mask:#x} ")
            }
        }
    }

    fn write_ports(&self, text: &mut String, ranges: &[PortRange]) -> fmt::Result {
        if let ([range], Some(module)) = (ranges, self.protocol_name()) {
            return write!(text, "-m {module} --dport {range} ");
        }
        let list: Vec<String> = ranges.iter().map(PortRange::to_string).collect();
        write!(text, "-m multiport --dports {} ", list.join(","))
    }

    fn protocol_name(&self) -> Option<&'static str> {
        self.matches.iter().find_map(|condition| match condition {
            Match::Protocol(protocol) => Some(protocol.name()),
            _ => None,
        })
    }

    fn render_action(&self) -> String {
        match &self.action {
            Action::Jump(chain) => format!("-j {chain}"),
            Action::Goto(chain) => format!("-g {chain}"),
            Action::Return => "-j RETURN".to_owned(),
            Action::Accept => "-j ACCEPT".to_owned(),
            Action::Drop => "-j DROP".to_owned(),
            Action::SetMark { value, mask } => format!("-j MARK --set-xmark {value:#x}/{mask:#x}"),
            Action::Nflog { group, prefix } => {
                format!("-j NFLOG --nflog-prefix {prefix} --nflog-group {group}")
            }
            Action::Nfqueue { queue } => format!("-j NFQUEUE --queue-num {queue} --queue-bypass"),
        }
    }
}

impl Match {
    /// The place in the text: what iptables keeps in the packet header part comes first, in its order.
    fn rank(&self) -> u8 {
        match self {
            Self::Source(_) => 0,
            Self::Destination(_) => 1,
            Self::InInterface(_) => 2,
            Self::OutInterface(_) => 3,
            Self::Protocol(_) => 4,
            Self::DestinationPorts(_)
            | Self::SourcePort(_)
            | Self::Icmpv6Type(_)
            | Self::TcpNotSyn => 5,
            Self::CtState(_) => 6,
            Self::CtReply => 7,
            Self::SourceLocal => 8,
            Self::DestinationLocal => 9,
            Self::Set { .. } => 10,
            Self::Mark { .. } => 11,
            Self::Limit { .. } => 12,
        }
    }
}

impl fmt::Display for InterfaceMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Prefix(name) => write!(f, "{name}+"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conditions_are_rendered_in_one_order() {
        let net = "10.0.0.0/8".parse().unwrap();
        let name = InterfaceName::new("ptl").unwrap();
        let one = [
            Match::Source(net),
            Match::InInterface(InterfaceMatch::Prefix(name)),
        ];
        let mut two = one.clone();
        two.reverse();
        let rule = Rule::new(one, Action::Drop);
        assert_eq!(rule, Rule::new(two, Action::Drop));
        assert!(
            rule.render()
                .starts_with("-s 10.0.0.0/8 -i ptl+ -m comment --comment \"ptl:")
        );
    }

    #[test]
    fn ranges_that_touch_are_merged_and_a_range_takes_two_slots() {
        let range = PortRange::new;
        let merged = PortRange::chunks(&[range(5, 9), range(10, 20), range(7, 8)]);
        assert_eq!(merged, [[range(5, 20)]]);
        let apart: Vec<PortRange> = (0..8).map(|n| range(n * 10, n * 10 + 1)).collect();
        let sizes: Vec<usize> = PortRange::chunks(&apart).iter().map(Vec::len).collect();
        assert_eq!(sizes, [7, 1]);
    }

    proptest! {
        #[test]
        fn chunks_hold_the_same_ports_and_keep_to_the_limit(
            ends in prop::collection::vec((0u16..200, 0u16..200), 0..40), port in 0u16..200
        ) {
            let ranges: Vec<PortRange> = ends.iter().map(|(a, b)| PortRange::new(*a, *b)).collect();
            let has = |ranges: &[PortRange]| {
                ranges.iter().any(|range| (range.first()..=range.last()).contains(&port))
            };
            let chunks = PortRange::chunks(&ranges);
            prop_assert_eq!(chunks.iter().any(|chunk| has(chunk)), has(&ranges));
            for chunk in chunks {
                prop_assert!(chunk.iter().map(|range| range.slots()).sum::<usize>() <= 15);
            }
        }
    }
}
