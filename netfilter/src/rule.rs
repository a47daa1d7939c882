//! A rule as a value: conditions in one order, and an action.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::{ChainName, Family, InterfaceName, Note, SetName};
use crate::ports::PortRange;

/// The kernel counts a limit's time in 10,000ths of a second.
const LIMIT_SCALE: u16 = 10_000;

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
        /// Packets a second, 1 to 10,000; [`Rule::new`] takes the next that the kernel can count.
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
    /// By chance: so many of 2^31 packets ([`Match::one_of`]).
    Random(u32),
    /// Source addresses that a list of the kernel's remembers (at most 100 a list, unless xt_recent was loaded otherwise).
    Recent {
        /// The list, which has the name of the chain that it leads to.
        list: ChainName,
        /// Whose addresses.
        family: Family,
        /// For so many seconds after they were last remembered; `None`: the packet's is remembered now, which always holds.
        seconds: Option<u32>,
    },
}

/// Which interfaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterfaceMatch {
    /// This one.
    Exact(InterfaceName),
    /// All that start so.
    Prefix(InterfaceName),
    /// All others.
    NotPrefix(InterfaceName),
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

    pub(crate) const ALL: [Self; 7] = [
        Self::Icmp,
        Self::IpInIp,
        Self::Tcp,
        Self::Udp,
        Self::Ipv6InIp,
        Self::Icmpv6,
        Self::Sctp,
    ];

    /// Reads a number or one of the names that `iptables-save` prints.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let number = Self::canonical(text).parse().ok()?;
        Self::ALL.into_iter().find(|one| one.number() == number)
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
    pub(crate) const ALL: [Self; 4] = [Self::Invalid, Self::New, Self::Related, Self::Established];

    pub(crate) fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == text)
    }

    pub(crate) fn name(self) -> &'static str {
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
    /// The source address and the interface it leaves by.
    SourceAndOut,
    /// The destination address and the interface it leaves by.
    DestinationAndOut,
    /// The destination address, protocol and port (`hash:ip,port`). Its text is that of [`Self::DestinationAndOut`]; what
    /// tells them apart on reading is the set's name ([`SetName::is_of_ports`]).
    DestinationAndPort,
}

impl SetDirection {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Destination => "dst",
            Self::SourceAndIn => "src,src",
            Self::SourceAndOut => "src,dst",
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
    /// Refuses it: the sender, of this family, is told by ICMP that nobody listens at the port. In the filter table alone.
    Reject(Family),
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
    /// Sends the flow to another address and port; in the nat table alone. The rule must name a protocol that has ports.
    Dnat {
        /// The address, of the rule's family.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Has the flow leave with an address of this host, and a port chosen at random (iptables 1.6.2, Linux 3.13); in the
    /// nat table's POSTROUTING alone.
    Masquerade,
}

/// A rule: all conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    matches: Vec<Match>,
    action: Action,
    note: Option<Note>,
}

impl Rule {
    /// Makes a rule. Conditions are put in one order, so that equal rules are equal texts. What would not read back as it
    /// was written is put so that it does: all ports or addresses are no condition, a limit is one that the kernel can
    /// count.
    pub fn new(matches: impl IntoIterator<Item = Match>, action: Action) -> Self {
        let mut matches: Vec<Match> = matches.into_iter().filter_map(Match::canonical).collect();
        matches.sort_by_key(Match::rank);
        Self {
            matches,
            action,
            note: None,
        }
    }

    /// The same rule with words for people in its comment.
    pub fn noted(self, note: Note) -> Self {
        let note = Some(note).filter(|note| !note.as_str().is_empty());
        Self { note, ..self }
    }

    /// What its comment tells people.
    pub fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// Its conditions, in the order of the text.
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// What it does.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// Whether no packet comes past it: it has no condition, and its action ends the chain.
    pub fn is_terminal(&self) -> bool {
        let ends = match self.action {
            Action::Goto(_)
            | Action::Return
            | Action::Accept
            | Action::Drop
            | Action::Reject(_)
            | Action::Dnat { .. }
            | Action::Masquerade => true,
            Action::Jump(_)
            | Action::SetMark { .. }
            | Action::Nflog { .. }
            | Action::Nfqueue { .. } => false,
        };
        ends && self.matches.is_empty()
    }
}

/// All packets, as [`Match::Random`] counts them.
pub(crate) const ALL_PACKETS: u32 = 1 << 31;

impl Match {
    /// One of so many packets, by chance; all if it is one of one (or none).
    pub fn one_of(packets: u32) -> Option<Self> {
        // As iptables rounds: to the next, and half up.
        let chance = |packets| (ALL_PACKETS + packets / 2) / packets;
        (packets > 1).then(|| Self::Random(chance(packets)))
    }

    /// As it reads back; `None` if it is no condition.
    fn canonical(self) -> Option<Self> {
        match self {
            Self::DestinationPorts(ranges)
                if PortRange::merged(&ranges) == [PortRange::new(0, u16::MAX)] =>
            {
                None
            }
            Self::Source(net) | Self::Destination(net) if net.prefix_len() == 0 => None,
            Self::Source(net) => Some(Self::Source(net.trunc())),
            Self::Destination(net) => Some(Self::Destination(net.trunc())),
            Self::Limit { rate } => {
                let interval = LIMIT_SCALE / rate.clamp(1, LIMIT_SCALE);
                Some(Self::Limit {
                    rate: LIMIT_SCALE / interval,
                })
            }
            other => Some(other),
        }
    }

    /// The place in the text: what iptables keeps in the packet header part comes first, in its order; conditions of
    /// one module stand together, for iptables-nft makes one of them.
    fn rank(&self) -> u8 {
        match self {
            Self::Source(_) => 0,
            Self::Destination(_) => 1,
            Self::InInterface(_) => 2,
            Self::OutInterface(_) => 3,
            Self::Protocol(_) => 4,
            Self::SourcePort(_) => 5,
            Self::DestinationPorts(ranges) if ranges.len() == 1 => 6,
            Self::TcpNotSyn => 7,
            Self::DestinationPorts(_) => 8,
            Self::Icmpv6Type(_) => 9,
            Self::CtState(_) => 10,
            Self::CtReply => 11,
            Self::SourceLocal => 12,
            Self::DestinationLocal => 13,
            Self::Set { .. } => 14,
            Self::Mark { .. } => 15,
            Self::Limit { .. } => 16,
            Self::Random(_) => 17,
            Self::Recent { .. } => 18,
        }
    }
}

#[cfg(test)]
mod tests {
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
}
