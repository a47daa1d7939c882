//! Walks a packet through compiled chains as the kernel would, and counts the rules it is tried against.

use std::net::IpAddr;

use netfilter::{
    Action, Builtin, ChainName, CtState, Family, HookPosition, InterfaceMatch, Match, Member,
    Protocol, Rule, SetDirection, Table,
};

use crate::{Compiled, FamilyRules};

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
        let mut outcome = Verdict::Passed;
        for (table, builtin) in way {
            match walk.hooks(*table, *builtin) {
                Verdict::Dropped => return (Verdict::Dropped, walk.tried),
                Verdict::Accepted => outcome = Verdict::Accepted,
                Verdict::Passed => {}
            }
        }
        (outcome, walk.tried)
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
            Match::SourceLocal => packet.input.is_empty(),
            Match::DestinationLocal => packet.output.is_empty(),
            Match::Limit { .. } => true,
            // What opens a connection comes from a port of its own, and is no reply.
            Match::SourcePort(_) | Match::CtReply => false,
            Match::Random(_) | Match::Recent { .. } => panic!("policy leaves nothing to chance"),
        }
    }

    fn is_member(&self, name: &netfilter::SetName, direction: SetDirection) -> bool {
        let packet = self.packet;
        let (address, interface) = match direction {
            SetDirection::Source | SetDirection::SourceAndIn => (packet.source, &packet.input),
            SetDirection::SourceAndOut => (packet.source, &packet.output),
            SetDirection::Destination
            | SetDirection::DestinationAndOut
            | SetDirection::DestinationAndPort => (packet.destination, &packet.output),
        };
        let set = &self.rules.sets[name];
        let family = if packet.source.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        assert_eq!(set.family(), family);
        set.members().iter().any(|member| match member {
            Member::Ip(ip) => *ip == address,
            Member::Net(net) => net.contains(&address),
            Member::IpPort(ip, protocol, port) => {
                *ip == address && protocol.number() == packet.protocol && *port == packet.port
            }
            Member::NetIface(net, name) => net.contains(&address) && name.as_str() == interface,
        })
    }
}
