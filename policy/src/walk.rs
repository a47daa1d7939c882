//! What the kernel would do with a packet by our rules, rule by rule; nothing is worked out about policies here.
//!
//! Walks what was compiled and what was read back from the kernel alike: both become [`Tables`]. Other owners' rules are
//! not in it, so that a packet which leaves our rules without a verdict is [`WalkVerdict::Passed`].

mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netfilter::{
    Action, Builtin, ChainName, CtState, HookPosition, InterfaceMatch, InterfaceName, Match,
    Member, Protocol, Rule, Saved, SavedRule, SavedText, SetName, Table,
};

use crate::FamilyRules;
use sets::Members;

/// How deep chains may call each other; the kernel refuses loops, so that only a wrong read-back gets here.
const MAX_DEPTH: usize = 64;
/// How many rules a packet may be tried against before it counts as dropped.
const MAX_RULES: usize = 1 << 16;

const BUILTINS: [Builtin; 5] = [
    Builtin::Prerouting,
    Builtin::Input,
    Builtin::Forward,
    Builtin::Output,
    Builtin::Postrouting,
];

/// One packet, after the destination's translation (DNAT) and before the source's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The interface it came in by; `None`: this host sends it.
    pub input: Option<InterfaceName>,
    /// The interface it leaves by; `None`: it is for this host.
    pub output: Option<InterfaceName>,
    /// The IP protocol's number.
    pub protocol: u8,
    /// The source port; 0 where the protocol has none.
    pub source_port: u16,
    /// The destination port, or the type of an ICMP message.
    pub port: u16,
    /// What conntrack says of it.
    pub state: CtState,
    /// A TCP packet that opens a connection.
    pub syn: bool,
    /// Of the direction opposite to the one that opened the connection.
    pub reply: bool,
    /// The source address is one of this host's.
    pub source_local: bool,
    /// The destination address is one of this host's.
    pub destination_local: bool,
    /// The packet mark that others left on it.
    pub mark: u32,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalkVerdict {
    /// A rule of ours in the filter table accepts it, or hands it to a program.
    Accepted,
    /// Left to others' rules and the built-in chain's own policy.
    Passed,
    /// A rule of ours drops it.
    Dropped,
}

/// A chain that a packet went through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Our rules in a built-in chain, those at its head before those at its end.
    Builtin(Builtin),
    /// A chain of ours.
    Chain(ChainName),
}

/// One rule that a packet was tried against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The table.
    pub table: Table,
    /// The chain.
    pub chain: Place,
    /// The rule's place in it, from 0; in a built-in chain among our own rules.
    pub index: usize,
    /// Whether all its conditions hold.
    pub matched: bool,
}

/// A packet's verdict and its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// What becomes of it.
    pub verdict: WalkVerdict,
    /// The rules that it was tried against, in order.
    pub trail: Vec<Tried>,
}

/// Walks one packet through what one family is to have. For many packets make [`Tables`] once.
pub fn walk(rules: &FamilyRules, packet: &Packet) -> Walked {
    Tables::compiled(rules).walk(packet)
}

/// The rules and sets of one family, every chain and set already found.
#[derive(Debug)]
pub struct Tables<'a> {
    chains: Vec<Chain<'a>>,
    hooks: BTreeMap<(Table, Builtin), usize>,
    sets: Vec<Members<'a>>,
}

#[derive(Debug)]
struct Chain<'a> {
    table: Table,
    place: Place,
    rules: Vec<Linked<'a>>,
}

#[derive(Debug)]
struct Linked<'a> {
    /// `None`: a rule that is not ours, which never matches.
    rule: Option<&'a Rule>,
    target: Option<usize>,
    /// The sets of its conditions, in their order; `None`: there is none of that name, so that it has no members.
    sets: Vec<Option<usize>>,
}

impl<'a> Tables<'a> {
    /// What one family is to have.
    pub fn compiled(rules: &'a FamilyRules) -> Self {
        let tables = || rules.rules.tables.iter();
        let hooks = [HookPosition::First, HookPosition::Last]
            .into_iter()
            .flat_map(|position| {
                tables().flat_map(move |(table, rules)| {
                    let hooks = rules.hooks.iter();
                    let here = hooks.filter(move |hook| hook.position == position);
                    here.map(|hook| (*table, hook.chain, &hook.rule))
                })
            });
        let chains = tables().flat_map(|(table, rules)| {
            let chains = rules.chains.iter();
            chains.map(|(name, list)| (*table, name, list.iter().map(Some).collect()))
        });
        let sets = rules.sets.iter().map(|(name, set)| (name, set.members()));
        Self::new(hooks, chains, sets)
    }

    /// What the kernel was read back to hold. A rule that could not be read never matches.
    pub fn saved(
        saved: &'a Saved,
        sets: impl IntoIterator<Item = (&'a SetName, &'a BTreeSet<Member>)>,
    ) -> Self {
        fn typed(rule: &SavedRule) -> Option<&Rule> {
            match &rule.rule {
                SavedText::Rule(rule) => Some(rule),
                SavedText::Unknown(_) => None,
            }
        }
        let hooks = saved.hooks.iter().filter_map(|hook| {
            let mut builtins = BUILTINS.into_iter();
            let builtin = builtins.find(|one| one.name() == hook.chain)?;
            Some((hook.table, builtin, typed(&hook.rule)?))
        });
        let chains = saved.chains.iter();
        let chains =
            chains.map(|((table, name), list)| (*table, name, list.iter().map(typed).collect()));
        Self::new(hooks, chains, sets)
    }

    /// Rules by their parts: those of built-in chains (only ours, in their order), chains of ours (a rule that
    /// could not be read is `None`; it never matches), and sets with their members.
    pub fn new(
        hooks: impl IntoIterator<Item = (Table, Builtin, &'a Rule)>,
        chains: impl IntoIterator<Item = (Table, &'a ChainName, Vec<Option<&'a Rule>>)>,
        sets: impl IntoIterator<Item = (&'a SetName, &'a BTreeSet<Member>)>,
    ) -> Self {
        let mut linker = Linker::default();
        let sets = sets
            .into_iter()
            .enumerate()
            .map(|(index, (name, members))| {
                linker.sets.insert(name, index);
                Members::new(members)
            });
        let sets = sets.collect();
        let chains: Vec<_> = chains.into_iter().collect();
        for (index, (table, name, _)) in chains.iter().enumerate() {
            linker.chains.insert((*table, *name), index);
        }
        let linked = |(table, name, rules): (Table, &'a ChainName, Vec<Option<&'a Rule>>)| Chain {
            table,
            place: Place::Chain(name.clone()),
            rules: linker.rules(table, rules),
        };
        let mut chains: Vec<Chain<'a>> = chains.into_iter().map(linked).collect();
        let mut own: BTreeMap<(Table, Builtin), Vec<Option<&'a Rule>>> = BTreeMap::new();
        for (table, builtin, rule) in hooks {
            own.entry((table, builtin)).or_default().push(Some(rule));
        }
        let mut hooks = BTreeMap::new();
        for ((table, builtin), rules) in own {
            hooks.insert((table, builtin), chains.len());
            chains.push(Chain {
                table,
                place: Place::Builtin(builtin),
                rules: linker.rules(table, rules),
            });
        }
        Self {
            chains,
            hooks,
            sets,
        }
    }

    /// Walks one packet.
    pub fn walk(&self, packet: &Packet) -> Walked {
        let mut walk = Walk::new(self, packet, Some(Vec::new()));
        Walked {
            verdict: walk.through_hooks(),
            trail: walk.trail.unwrap_or_default(),
        }
    }

    /// Only the verdict.
    pub fn verdict(&self, packet: &Packet) -> WalkVerdict {
        Walk::new(self, packet, None).through_hooks()
    }
}

/// Finds chains and sets by name.
#[derive(Default)]
struct Linker<'a> {
    chains: BTreeMap<(Table, &'a ChainName), usize>,
    sets: BTreeMap<&'a SetName, usize>,
}

impl<'a> Linker<'a> {
    fn rules(&self, table: Table, rules: Vec<Option<&'a Rule>>) -> Vec<Linked<'a>> {
        let link = |rule: Option<&'a Rule>| Linked {
            rule,
            target: rule.and_then(|rule| match rule.action() {
                Action::Jump(name) | Action::Goto(name) => self.chains.get(&(table, name)).copied(),
                _ => None,
            }),
            sets: rule.map_or(Vec::new(), |rule| self.sets_of(rule)),
        };
        rules.into_iter().map(link).collect()
    }

    fn sets_of(&self, rule: &Rule) -> Vec<Option<usize>> {
        let named = rule
            .matches()
            .iter()
            .filter_map(|condition| match condition {
                Match::Set { name, .. } => Some(self.sets.get(name).copied()),
                _ => None,
            });
        named.collect()
    }
}

struct Walk<'a> {
    tables: &'a Tables<'a>,
    packet: &'a Packet,
    mark: u32,
    left: usize,
    trail: Option<Vec<Tried>>,
}

enum End {
    Accepted,
    Dropped,
    Returned,
}

impl<'a> Walk<'a> {
    fn new(tables: &'a Tables<'a>, packet: &'a Packet, trail: Option<Vec<Tried>>) -> Self {
        Self {
            tables,
            packet,
            mark: packet.mark,
            left: MAX_RULES,
            trail,
        }
    }

    /// The built-in chains in the kernel's order; nat translates and does not judge.
    fn through_hooks(&mut self) -> WalkVerdict {
        use Builtin::{Forward, Input, Output, Postrouting, Prerouting};
        let way: &[Builtin] = match (&self.packet.input, &self.packet.output) {
            (Some(_), Some(_)) => &[Prerouting, Forward, Postrouting],
            (Some(_), None) => &[Prerouting, Input],
            (None, _) => &[Output, Postrouting],
        };
        let mut verdict = WalkVerdict::Passed;
        for builtin in way {
            for table in [Table::Raw, Table::Mangle, Table::Filter] {
                let Some(chain) = self.tables.hooks.get(&(table, *builtin)) else {
                    continue;
                };
                match self.chain(*chain, 0) {
                    End::Dropped => return WalkVerdict::Dropped,
                    End::Accepted if table == Table::Filter => verdict = WalkVerdict::Accepted,
                    End::Accepted | End::Returned => {}
                }
            }
        }
        verdict
    }

    fn chain(&mut self, index: usize, depth: usize) -> End {
        let Some(chain) = self.tables.chains.get(index).filter(|_| depth < MAX_DEPTH) else {
            return End::Returned;
        };
        for (number, linked) in chain.rules.iter().enumerate() {
            if self.left == 0 {
                return End::Dropped;
            }
            self.left -= 1;
            let matched = self.matches(linked);
            if let Some(trail) = &mut self.trail {
                trail.push(Tried {
                    table: chain.table,
                    chain: chain.place.clone(),
                    index: number,
                    matched,
                });
            }
            let Some(rule) = linked.rule.filter(|_| matched) else {
                continue;
            };
            match rule.action() {
                // A queue nobody reads accepts (`--queue-bypass`), and so does a program that is there.
                // What translates stands in the nat table, which is not walked; there it ends the table, too.
                Action::Accept
                | Action::Nfqueue { .. }
                | Action::Dnat { .. }
                | Action::Masquerade => return End::Accepted,
                Action::Drop | Action::Reject(_) => return End::Dropped,
                Action::Return => return End::Returned,
                Action::SetMark { value, mask } => self.mark = (self.mark & !mask) ^ value,
                Action::Nflog { .. } => {}
                Action::Goto(_) => {
                    return match linked.target {
                        Some(target) => self.chain(target, depth + 1),
                        None => End::Returned,
                    };
                }
                Action::Jump(_) => {
                    let Some(target) = linked.target else {
                        continue;
                    };
                    match self.chain(target, depth + 1) {
                        End::Returned => {}
                        end => return end,
                    }
                }
            }
        }
        End::Returned
    }

    fn matches(&self, linked: &Linked<'_>) -> bool {
        let Some(rule) = linked.rule else {
            return false;
        };
        let mut sets = linked.sets.iter();
        rule.matches().iter().all(|condition| match condition {
            Match::Set {
                direction, negated, ..
            } => {
                let set = sets.next().copied().flatten();
                let set = set.and_then(|index| self.tables.sets.get(index));
                set.is_some_and(|set| set.has(*direction, self.packet)) != *negated
            }
            condition => self.holds(condition),
        })
    }

    fn holds(&self, condition: &Match) -> bool {
        let packet = self.packet;
        match condition {
            Match::InInterface(wanted) => is_interface(wanted, packet.input.as_ref()),
            Match::OutInterface(wanted) => is_interface(wanted, packet.output.as_ref()),
            Match::Source(net) => net.contains(&packet.source),
            Match::Destination(net) => net.contains(&packet.destination),
            Match::Protocol(protocol) => protocol.number() == packet.protocol,
            Match::DestinationPorts(ranges) => ranges
                .iter()
                .any(|range| (range.first()..=range.last()).contains(&packet.port)),
            Match::SourcePort(port) => *port == packet.source_port,
            Match::Icmpv6Type(number) => {
                packet.protocol == Protocol::Icmpv6.number() && u16::from(*number) == packet.port
            }
            Match::TcpNotSyn => packet.protocol == Protocol::Tcp.number() && !packet.syn,
            Match::CtState(states) => states.contains(&packet.state),
            Match::CtReply => packet.reply,
            Match::SourceLocal => packet.source_local,
            Match::DestinationLocal => packet.destination_local,
            // The last two stand in the nat table alone, which is not walked.
            Match::Limit { .. } | Match::Random(_) | Match::Recent { .. } => true,
            Match::Mark {
                value,
                mask,
                negated,
            } => (self.mark & mask == *value) != *negated,
            // Asked for by its caller, who knows the set.
            Match::Set { negated, .. } => *negated,
        }
    }
}

fn is_interface(wanted: &InterfaceMatch, interface: Option<&InterfaceName>) -> bool {
    let name = interface.map_or("", InterfaceName::as_str);
    match wanted {
        InterfaceMatch::Exact(wanted) => wanted.as_str() == name,
        InterfaceMatch::Prefix(wanted) => name.starts_with(wanted.as_str()),
        InterfaceMatch::NotPrefix(wanted) => !name.starts_with(wanted.as_str()),
    }
}
