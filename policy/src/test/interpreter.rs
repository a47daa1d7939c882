//! Walks a packet through compiled chains as the kernel would, and counts the rules it is tried against.

use std::net::IpAddr;

use netfilter::{
    Action, Builtin, ChainName, CtState, Family, HookPosition, InterfaceMatch, Match, Member,
    Protocol, Rule, SetDirection, SetName, Table,
};

use crate::{Compiled, FamilyRules, IpvsSettings};

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Empty: the node itself sends it.
    pub(super) input: String,
    /// Empty: it is for the node itself.
    pub(super) output: String,
    pub(super) protocol: u8,
    /// Destination port, or the ICMPv6 type.
    pub(super) port: u16,
    pub(super) state: CtState,
    pub(super) syn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Accepted by our last hook.
    Accepted,
    /// Left to the other rules and the chain's own policy.
    Passed,
    Dropped,
}

pub(super) struct Walk<'a> {
    rules: &'a FamilyRules,
    packet: &'a Packet,
    mark: u32,
    /// IPVS sends it on: it came in by no interface, and is not the node's own either.
    is_sent_on: bool,
    pub(super) tried: usize,
}

enum End {
    Final(Verdict),
    Returned,
}

impl<'a> Walk<'a> {
    /// A mark that another left must not matter.
    pub(super) fn of(compiled: &'a Compiled, packet: &'a Packet) -> (Verdict, usize) {
        Self::with_mark(compiled, packet, 0xffff_ffff)
    }

    pub(super) fn with_mark(
        compiled: &'a Compiled,
        packet: &'a Packet,
        mark: u32,
    ) -> (Verdict, usize) {
        let rules = if packet.source.is_ipv4() {
            &compiled.v4
        } else {
            &compiled.v6
        };
        let mut walk = Self {
            rules,
            packet,
            mark,
            is_sent_on: false,
            tried: 0,
        };
        let (from_node, to_node) = (packet.input.is_empty(), packet.output.is_empty());
        let way: &[(Table, Builtin)] = match (from_node, to_node) {
            (true, _) => &[
                (Table::Filter, Builtin::Output),
                (Table::Mangle, Builtin::Postrouting),
            ],
            (_, true) => &[
                (Table::Raw, Builtin::Prerouting),
                (Table::Filter, Builtin::Input),
            ],
            _ => &[
                (Table::Raw, Builtin::Prerouting),
                (Table::Filter, Builtin::Forward),
                (Table::Mangle, Builtin::Postrouting),
            ],
        };
        (walk.along(way), walk.tried)
    }

    /// As a packet goes that IPVS leads: in by INPUT, to the address of a Service, and out by OUTPUT, to the endpoint.
    pub(super) fn by_ipvs(compiled: &'a Compiled, packet: &Packet, service: IpAddr) -> Verdict {
        let rules = if packet.source.is_ipv4() {
            &compiled.v4
        } else {
            &compiled.v6
        };
        let comes = Packet {
            destination: service,
            output: String::new(),
            ..packet.clone()
        };
        let goes = Packet {
            input: String::new(),
            ..packet.clone()
        };
        let mut walk = Walk {
            rules,
            packet: &comes,
            mark: 0,
            is_sent_on: false,
            tried: 0,
        };
        let input = [
            (Table::Raw, Builtin::Prerouting),
            (Table::Filter, Builtin::Input),
        ];
        match walk.along(&input) {
            Verdict::Dropped => Verdict::Dropped,
            _ => Self::sent_on(compiled, &goes, walk.mark),
        }
    }

    /// The second half of that, with this mark.
    pub(super) fn sent_on(compiled: &Compiled, packet: &Packet, mark: u32) -> Verdict {
        let rules = match packet.source.is_ipv4() {
            true => &compiled.v4,
            false => &compiled.v6,
        };
        let mut walk = Walk {
            rules,
            packet,
            mark,
            is_sent_on: true,
            tried: 0,
        };
        walk.along(&[
            (Table::Filter, Builtin::Output),
            (Table::Mangle, Builtin::Postrouting),
        ])
    }

    fn along(&mut self, way: &[(Table, Builtin)]) -> Verdict {
        let mut outcome = Verdict::Passed;
        for (table, builtin) in way {
            match self.hooks(*table, *builtin) {
                Verdict::Dropped => return Verdict::Dropped,
                Verdict::Accepted => outcome = Verdict::Accepted,
                Verdict::Passed => {}
            }
        }
        outcome
    }

    fn hooks(&mut self, table: Table, builtin: Builtin) -> Verdict {
        for position in [HookPosition::First, HookPosition::Last] {
            let hooks = &self.rules.rules.tables[&table].hooks;
            let hooks = hooks
                .iter()
                .filter(|hook| hook.chain == builtin && hook.position == position);
            let list: Vec<Rule> = hooks.map(|hook| hook.rule.clone()).collect();
            if let End::Final(verdict) = self.list(table, &list) {
                return verdict;
            }
        }
        Verdict::Passed
    }

    fn chain(&mut self, table: Table, name: &ChainName) -> End {
        let list = &self.rules.rules.tables[&table].chains[name];
        self.list(table, list)
    }

    fn list(&mut self, table: Table, list: &[Rule]) -> End {
        for rule in list {
            self.tried += 1;
            if !rule.matches().iter().all(|condition| self.holds(condition)) {
                continue;
            }
            match rule.action() {
                Action::Accept => return End::Final(Verdict::Accepted),
                Action::Drop => return End::Final(Verdict::Dropped),
                Action::Return => return End::Returned,
                Action::SetMark { value, mask } => self.mark = (self.mark & !mask) ^ value,
                Action::Nflog { .. } | Action::Nfqueue { .. } => {}
                Action::Dnat { .. } | Action::Masquerade | Action::Reject(_) => {
                    panic!("policy translates and refuses nothing")
                }
                Action::Goto(chain) => return self.chain(table, chain),
                Action::Jump(chain) => {
                    if let End::Final(verdict) = self.chain(table, chain) {
                        return End::Final(verdict);
                    }
                }
            }
        }
        End::Returned
    }

    fn holds(&self, condition: &Match) -> bool {
        let packet = self.packet;
        let named = |wanted: &InterfaceMatch, interface: &str| match wanted {
            InterfaceMatch::Exact(name) => name.as_str() == interface,
            InterfaceMatch::Prefix(name) => interface.starts_with(name.as_str()),
            InterfaceMatch::NotPrefix(name) => !interface.starts_with(name.as_str()),
        };
        match condition {
            Match::InInterface(wanted) => named(wanted, &packet.input),
            Match::OutInterface(wanted) => named(wanted, &packet.output),
            Match::Source(net) => net.contains(&packet.source),
            Match::Destination(net) => net.contains(&packet.destination),
            Match::Protocol(protocol) => protocol.number() == packet.protocol,
            Match::DestinationPorts(ranges) => ranges
                .iter()
                .any(|range| (range.first()..=range.last()).contains(&packet.port)),
            Match::Icmpv6Type(number) => u16::from(*number) == packet.port,
            Match::TcpNotSyn => packet.protocol == Protocol::Tcp.number() && !packet.syn,
            Match::CtState(states) => states.contains(&packet.state),
            Match::Set {
                name,
                direction,
                negated,
            } => self.is_member(name, *direction) != *negated,
            Match::Mark {
                value,
                mask,
                negated,
            } => (self.mark & mask == *value) != *negated,
            Match::SourceLocal => packet.input.is_empty() && !self.is_sent_on,
            Match::DestinationLocal => packet.output.is_empty(),
            Match::Limit { .. } => true,
            // What opens a connection comes from a port of its own, and is no reply.
            Match::SourcePort(_) | Match::CtReply => false,
            Match::Random(_) | Match::Recent { .. } => panic!("policy leaves nothing to chance"),
        }
    }

    fn is_member(&self, name: &SetName, direction: SetDirection) -> bool {
        let packet = self.packet;
        let (address, interface) = match direction {
            SetDirection::Source | SetDirection::SourceAndIn => (packet.source, &packet.input),
            SetDirection::SourceAndOut => (packet.source, &packet.output),
            SetDirection::Destination
            | SetDirection::DestinationAndOut
            | SetDirection::DestinationAndPort => (packet.destination, &packet.output),
        };
        if *name == led_by_ipvs(self.family()) {
            return address
                == SERVICE[usize::from(address.is_ipv6())]
                    .parse::<IpAddr>()
                    .unwrap();
        }
        let set = &self.rules.sets[name];
        assert_eq!(set.family(), self.family());
        set.members().iter().any(|member| match member {
            Member::Ip(ip) => *ip == address,
            Member::Net(net) => net.contains(&address),
            Member::IpPort(ip, protocol, port) => {
                *ip == address && protocol.number() == packet.protocol && *port == packet.port
            }
            Member::NetIface(net, name) => net.contains(&address) && name.as_str() == interface,
        })
    }

    fn family(&self) -> Family {
        Family::of(self.packet.source)
    }
}

/// The address of the Service that IPVS leads.
pub(super) const SERVICE: [&str; 2] = ["10.96.0.10", "fd96::10"];

/// The set that says so: of Services, and not of policy.
pub(super) fn led_by_ipvs(family: Family) -> SetName {
    SetName::hashed(family, "m", &["led by ipvs"])
}

pub(super) fn with_ipvs() -> IpvsSettings {
    IpvsSettings {
        led: Some(Family::ALL.map(led_by_ipvs)),
    }
}
