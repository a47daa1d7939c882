//! Goes through compiled rules as a packet that opens a flow would, following every chance at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use netfilter::*;

use super::super::Compiler;
use crate::proxy::ipvs::{Desired, Door};

/// A packet that opens a flow.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    /// None: from the node itself.
    pub(crate) input: Option<&'static str>,
    pub(crate) to: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    /// The endpoint that the kernel remembers for this client, by its chain.
    pub(crate) remembered: Option<ChainName>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Rejected,
    Dropped,
    /// It goes on as it came.
    Untouched,
    /// To each of these with such a probability; whether it gets the node's address.
    To(BTreeMap<SocketAddr, (f64, bool)>),
}

/// Whether an address is the node's: one is a load balancer's, which such nodes have, too.
pub(crate) fn is_local(address: IpAddr) -> bool {
    let text = address.to_string();
    ["192.0.2.1", "203.0.113.1", "127.0.0.1"].contains(&text.as_str())
}

/// A packet on its way: its mark, and where it is led.
#[derive(Clone, Debug)]
struct State {
    chance: f64,
    mark: u32,
    led: Option<SocketAddr>,
    masquerade: bool,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Going,
    Returned,
    Accepted,
    Dropped,
    Rejected,
}

pub(super) struct Interpreter<'a> {
    pub(super) rules: &'a Compiler,
    pub(super) family: Family,
    /// What IPVS has, if it leads.
    pub(super) ipvs: Option<&'a Desired>,
}

/// A packet at each of the destinations, as probably at one as at the other.
fn shared(state: State, destinations: &[SocketAddr]) -> Vec<State> {
    if destinations.is_empty() {
        return vec![state];
    }
    let chance = state.chance / destinations.len() as f64;
    let at = destinations.iter().map(|to| State {
        chance,
        led: Some(*to),
        ..state.clone()
    });
    at.collect()
}

impl Interpreter<'_> {
    pub(super) fn judge(&self, packet: &Packet) -> Outcome {
        let start = State {
            chance: 1.0,
            mark: 0,
            led: None,
            masquerade: false,
            end: End::Going,
        };
        let entry = match packet.input {
            Some(_) => Builtin::Prerouting,
            None => Builtin::Output,
        };
        let mut start = match self.filtered(Table::Mangle, &[entry], packet, start) {
            Ok(state) => state,
            Err(outcome) => return outcome,
        };
        // What mangle marks is not asked.
        start.mark = 0;
        let mut led = BTreeMap::new();
        for mut state in self.hooks(Table::Nat, entry, packet, start) {
            assert!(
                !matches!(state.end, End::Dropped | End::Rejected),
                "nat judges nobody"
            );
            state.end = End::Going;
            let by_ipvs = self.destinations(packet, &state);
            let to = state.led.map_or(packet.to, |to| to.ip());
            let is_taken = |ipvs: &Desired| ipvs.addresses.contains_key(&to);
            let is_here = is_local(to) || self.ipvs.is_some_and(is_taken);
            let way: &[Builtin] = match (packet.input, is_here) {
                (Some(_), true) => &[Builtin::Input],
                (Some(_), false) => &[Builtin::Forward],
                // IPVS has the node's own before.
                (None, _) if !by_ipvs.is_empty() => &[],
                (None, true) => &[Builtin::Output, Builtin::Input],
                (None, false) => &[Builtin::Output],
            };
            let state = match self.filtered(Table::Filter, way, packet, state) {
                Ok(state) => state,
                Err(outcome) => return outcome,
            };
            for state in shared(state, &by_ipvs) {
                let is_by_ipvs = !by_ipvs.is_empty();
                // What IPVS has led goes out as the node's own.
                let out = [Builtin::Output];
                let way: &[Builtin] = if is_by_ipvs { &out } else { &[] };
                let state = match self.filtered(Table::Filter, way, packet, state) {
                    Ok(state) => state,
                    Err(outcome) => return outcome,
                };
                let mut ends = self.hooks(Table::Nat, Builtin::Postrouting, packet, state);
                let state = ends.pop().unwrap();
                let Some(to) = state.led else {
                    assert!(!state.masquerade, "what is not led keeps its source");
                    return Outcome::Untouched;
                };
                let (chance, _) = led.remove(&to).unwrap_or((0.0, false));
                led.insert(to, (chance + state.chance, state.masquerade));
            }
        }
        Outcome::To(led)
    }

    /// Through tables that have no chances: on, or where it ended.
    fn filtered(
        &self,
        table: Table,
        way: &[Builtin],
        packet: &Packet,
        mut state: State,
    ) -> Result<State, Outcome> {
        for hook in way {
            let mut ends = self.hooks(table, *hook, packet, state);
            state = ends.pop().unwrap();
            assert!(ends.is_empty(), "no chance in the {table:?} table");
            match state.end {
                End::Dropped => return Err(Outcome::Dropped),
                End::Rejected => return Err(Outcome::Rejected),
                _ => state.end = End::Going,
            }
        }
        Ok(state)
    }

    /// Whereto IPVS leads what the chains did not.
    fn destinations(&self, packet: &Packet, state: &State) -> Vec<SocketAddr> {
        let door = Door {
            protocol: packet.protocol,
            address: SocketAddr::new(packet.to, packet.port),
        };
        let found = self.ipvs.and_then(|ipvs| ipvs.virtuals.get(&door));
        let found = found.filter(|_| state.led.is_none());
        found.map_or_else(Vec::new, |found| found.destinations.clone())
    }

    fn hooks(&self, table: Table, builtin: Builtin, packet: &Packet, start: State) -> Vec<State> {
        let Some(rules) = self.rules.rules(self.family).tables.get(&table) else {
            return vec![start];
        };
        let hooks = &rules.hooks;
        let mut rules = Vec::new();
        for position in [HookPosition::First, HookPosition::Last] {
            let at = hooks
                .iter()
                .filter(|hook| hook.chain == builtin && hook.position == position);
            rules.extend(at.map(|hook| hook.rule.clone()));
        }
        self.walk(table, &rules, packet, vec![start])
    }

    /// Every way that a packet may go through a list.
    fn walk(&self, table: Table, rules: &[Rule], packet: &Packet, start: Vec<State>) -> Vec<State> {
        let mut going = start;
        let mut ended = Vec::new();
        for rule in rules {
            let mut next = Vec::new();
            for state in going {
                let chance = self.chance(rule, packet, &state);
                if chance < 1.0 {
                    next.push(State {
                        chance: state.chance * (1.0 - chance),
                        ..state.clone()
                    });
                }
                if chance > 0.0 {
                    let hit = State {
                        chance: state.chance * chance,
                        ..state
                    };
                    for state in self.act(table, rule, packet, hit) {
                        match state.end {
                            End::Going => next.push(state),
                            _ => ended.push(state),
                        }
                    }
                }
            }
            going = next;
        }
        ended.extend(going);
        ended
    }

    fn act(&self, table: Table, rule: &Rule, packet: &Packet, mut state: State) -> Vec<State> {
        match rule.action() {
            Action::Return => state.end = End::Returned,
            Action::Accept => state.end = End::Accepted,
            Action::Drop => state.end = End::Dropped,
            Action::Reject(_) => state.end = End::Rejected,
            Action::SetMark { value, mask } => state.mark = (state.mark & !mask) ^ value,
            Action::Masquerade => {
                state.masquerade = true;
                state.end = End::Accepted;
            }
            Action::Dnat { address, port } => {
                state.led = Some(SocketAddr::new(*address, *port));
                state.end = End::Accepted;
            }
            Action::Jump(name) | Action::Goto(name) => {
                let chains = &self.rules.rules(self.family).tables[&table].chains;
                let below = chains
                    .get(name)
                    .unwrap_or_else(|| panic!("no chain {name}"));
                let is_jump = matches!(rule.action(), Action::Jump(_));
                let mut states = self.walk(table, below, packet, vec![state]);
                for state in &mut states {
                    state.end = match state.end {
                        End::Going | End::Returned if is_jump => End::Going,
                        End::Going => End::Returned,
                        end => end,
                    };
                }
                return states;
            }
            other => panic!("services have no {other:?}"),
        }
        vec![state]
    }

    /// How probably all conditions hold.
    fn chance(&self, rule: &Rule, packet: &Packet, state: &State) -> f64 {
        let interface = packet.input.unwrap_or("");
        let named = |wanted: &InterfaceMatch| match wanted {
            InterfaceMatch::Exact(name) => name.as_str() == interface,
            InterfaceMatch::Prefix(name) => interface.starts_with(name.as_str()),
            InterfaceMatch::NotPrefix(name) => !interface.starts_with(name.as_str()),
        };
        let (to, port) = match state.led {
            Some(to) => (to.ip(), to.port()),
            None => (packet.to, packet.port),
        };
        let mut chance = 1.0;
        for condition in rule.matches() {
            let holds = match condition {
                Match::InInterface(wanted) => named(wanted),
                Match::Source(net) => net.contains(&packet.source),
                Match::Destination(net) => net.contains(&to),
                Match::Protocol(protocol) => *protocol == packet.protocol,
                Match::DestinationPorts(ranges) => ranges
                    .iter()
                    .any(|range| (range.first()..=range.last()).contains(&port)),
                Match::CtState(states) => states.contains(&CtState::New),
                Match::SourceLocal => is_local(packet.source),
                Match::DestinationLocal => is_local(to),
                Match::Mark {
                    value,
                    mask,
                    negated,
                } => (state.mark & mask == *value) != *negated,
                Match::Recent { seconds: None, .. } => true,
                Match::Recent { list, .. } => packet.remembered.as_ref() == Some(list),
                Match::Set {
                    name,
                    direction,
                    negated,
                } => {
                    let set = &self.rules.sets(self.family)[name];
                    let member = match direction {
                        SetDirection::Destination => Member::Ip(to),
                        SetDirection::DestinationAndPort => {
                            Member::IpPort(to, packet.protocol, port)
                        }
                        other => panic!("services have no {other:?}"),
                    };
                    set.members().contains(&member) != *negated
                }
                Match::Random(part) => {
                    chance *= f64::from(*part) / f64::from(1_u32 << 31);
                    true
                }
                other => panic!("services have no {other:?}"),
            };
            if !holds {
                return 0.0;
            }
        }
        chance
    }
}
