//! Goes through a table's rules as a packet that opens a flow would, register by register, following every chance at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netfilter::nft::*;

use crate::proxy::iptables::tests::interpreter::{Outcome, Packet, is_local};

#[derive(Clone, Debug)]
struct State {
    chance: f64,
    registers: [u8; 64],
    mark: u32,
    led: Option<SocketAddr>,
    masquerade: bool,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Going,
    /// This rule doesn't concern the packet.
    Missed,
    /// The hook has no more rules for it.
    Done,
    Dropped,
    Rejected,
}

pub(super) struct Machine<'a> {
    chains: BTreeMap<&'a str, &'a Chain>,
    elements: BTreeMap<(&'a str, &'a Octets), &'a Value>,
    sets: BTreeMap<&'a str, &'a Set>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(parts: &'a Parts) -> Self {
        let all = || parts.values();
        let chains = all().flat_map(|part| &part.chains);
        let elements = all().flat_map(|part| &part.elements);
        let sets = all().flat_map(|part| &part.sets);
        Self {
            chains: chains.map(|(name, chain)| (name.as_str(), chain)).collect(),
            elements: elements
                .map(|((set, key), value)| ((set.as_str(), key), value))
                .collect(),
            sets: sets.map(|(name, set)| (name.as_str(), set)).collect(),
        }
    }

    /// What becomes of a packet; the kernel may remember an endpoint for its sender.
    pub(super) fn judge(&self, packet: &Packet, remembered: Option<SocketAddr>) -> Outcome {
        let start = State {
            chance: 1.0,
            registers: [0; 64],
            mark: 0,
            led: None,
            masquerade: false,
            end: End::Going,
        };
        let entry = if packet.input.is_some() {
            "prerouting"
        } else {
            "output"
        };
        let mut led = BTreeMap::new();
        for mut state in self.walk(entry, packet, remembered, start) {
            match state.end {
                End::Dropped => return Outcome::Dropped,
                End::Rejected => return Outcome::Rejected,
                _ => state.end = End::Going,
            }
            let mut ends = self.walk("postrouting", packet, None, state);
            let state = ends.pop().unwrap();
            assert!(ends.is_empty(), "no chance at the end");
            assert_eq!(state.mark, 0, "the mark goes");
            let Some(to) = state.led else {
                assert!(!state.masquerade, "what is not led keeps its source");
                return Outcome::Untouched;
            };
            let (chance, _) = led.remove(&to).unwrap_or((0.0, false));
            led.insert(to, (chance + state.chance, state.masquerade));
        }
        Outcome::To(led)
    }

    fn walk(
        &self,
        chain: &str,
        packet: &Packet,
        remembered: Option<SocketAddr>,
        start: State,
    ) -> Vec<State> {
        let chain = self.chains.get(chain);
        let chain = chain.unwrap_or_else(|| panic!("no such chain"));
        let (mut going, mut ended) = (vec![start], Vec::new());
        for rule in &chain.rules {
            let mut next = Vec::new();
            for state in going {
                for mut state in self.rule(rule, packet, remembered, state) {
                    match state.end {
                        End::Going | End::Missed => {
                            state.end = End::Going;
                            next.push(state);
                        }
                        _ => ended.push(state),
                    }
                }
            }
            going = next;
        }
        ended.extend(going);
        ended
    }

    fn rule(
        &self,
        rule: &Rule,
        packet: &Packet,
        remembered: Option<SocketAddr>,
        start: State,
    ) -> Vec<State> {
        let mut states = vec![start];
        for expr in rule {
            let mut next = Vec::new();
            for state in states {
                match state.end {
                    End::Going => next.extend(self.step(expr, packet, remembered, state)),
                    _ => next.push(state),
                }
            }
            states = next;
        }
        states
    }

    fn step(
        &self,
        expr: &Expr,
        packet: &Packet,
        remembered: Option<SocketAddr>,
        mut state: State,
    ) -> Vec<State> {
        match expr {
            Expr::Numgen(below, to) => {
                let each = (0..*below).map(|number| {
                    let mut state = state.clone();
                    state.chance /= f64::from(*below);
                    state.set(*to, &number.to_ne_bytes());
                    state
                });
                return each.collect();
            }
            Expr::Follow { map, key } => {
                let key = self.key(map.as_str(), *key, &state);
                if let Some(Value::Goto(chain)) = self.elements.get(&(map.as_str(), &key)) {
                    return self.go(chain, packet, remembered, state);
                }
                state.end = End::Missed;
            }
            Expr::Verdict(Verdict::Goto(chain)) => {
                return self.go(chain, packet, remembered, state);
            }
            Expr::Lookup { set, key, to } => self.look_up(set, *key, *to, remembered, &mut state),
            other => plain(other, packet, &mut state),
        }
        vec![state]
    }

    /// What comes back from a chain that was gone to has seen its last rule.
    fn go(
        &self,
        chain: &Name,
        packet: &Packet,
        remembered: Option<SocketAddr>,
        state: State,
    ) -> Vec<State> {
        let mut ends = self.walk(chain.as_str(), packet, remembered, state);
        for state in &mut ends {
            if state.end == End::Going {
                state.end = End::Done;
            }
        }
        ends
    }

    fn key(&self, set: &str, at: Register, state: &State) -> Octets {
        let set = self.sets.get(set).unwrap_or_else(|| panic!("no set {set}"));
        state.key(set, at)
    }

    fn look_up(
        &self,
        name: &Name,
        at: Register,
        to: Option<Register>,
        remembered: Option<SocketAddr>,
        state: &mut State,
    ) {
        let key = self.key(name.as_str(), at, state);
        let found = if self.sets[name.as_str()].timeout.is_some() {
            let is_it = remembered.is_some_and(|one| {
                let address = Octets::new().address(one.ip()).port(one.port());
                key.as_slice().ends_with(address.as_slice())
            });
            is_it.then_some(Value::None)
        } else {
            self.elements.get(&(name.as_str(), &key)).copied().cloned()
        };
        match (found, to) {
            (None, _) => state.end = End::Missed,
            (Some(Value::Values(octets)), Some(to)) => state.set(to, octets.as_slice()),
            (Some(_), _) => {}
        }
    }
}

/// Steps that need nothing but the packet.
fn plain(expr: &Expr, packet: &Packet, state: &mut State) {
    let destination = state.led.unwrap_or(SocketAddr::new(packet.to, packet.port));
    match expr {
        Expr::Payload {
            base,
            offset,
            length,
            to,
        } => {
            let octets = match (base, offset) {
                (PayloadBase::Network, 12) => v4(packet.source).to_vec(),
                (PayloadBase::Network, 16) => v4(destination.ip()).to_vec(),
                (PayloadBase::Transport, 2) => destination.port().to_be_bytes().to_vec(),
                other => panic!("{other:?}"),
            };
            state.set(*to, &octets[..usize::try_from(*length).unwrap()]);
        }
        Expr::Meta(key, to) => match key {
            MetaKey::Mark => state.set(*to, &state.mark.to_ne_bytes()),
            MetaKey::Input => state.set(*to, &u32::from(packet.input.is_some()).to_ne_bytes()),
            MetaKey::InputName => {
                let mut name = [0; 16];
                let input = packet.input.unwrap_or_default().as_bytes();
                name[..input.len()].copy_from_slice(input);
                state.set(*to, &name);
            }
            MetaKey::Protocol => state.set(*to, &[packet.protocol.number()]),
        },
        Expr::SetMark(from) => state.mark = u32::from_ne_bytes(state.word(*from)),
        Expr::Ct(CtKey::Status, to) => {
            let status: u32 = if state.led.is_some() { 32 } else { 0 };
            state.set(*to, &status.to_ne_bytes());
        }
        Expr::Ct(CtKey::State, to) => state.set(*to, &8_u32.to_ne_bytes()),
        Expr::DestinationType(to) => {
            let kind: u32 = if is_local(destination.ip()) { 2 } else { 1 };
            state.set(*to, &kind.to_ne_bytes());
        }
        Expr::Compare {
            from,
            is_negated,
            octets,
        } => {
            let start = usize::from(from.0) * 4;
            let is_equal = state.registers[start..start + octets.len()] == octets[..];
            if is_equal == *is_negated {
                state.end = End::Missed;
            }
        }
        Expr::Bitwise {
            register,
            mask,
            xor,
        } => {
            let start = usize::from(register.0) * 4;
            for (place, (mask, xor)) in mask.iter().zip(xor).enumerate() {
                let octet = &mut state.registers[start + place];
                *octet = (*octet & mask) ^ xor;
            }
        }
        Expr::Load(octets, to) => state.set(*to, octets.as_slice()),
        Expr::Update { .. } => {}
        Expr::Dnat { address, port, .. } => {
            let [a, b, c, d] = state.word(*address);
            let [high, low, ..] = state.word(*port);
            let port = u16::from_be_bytes([high, low]);
            state.led = Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port));
            state.end = End::Done;
        }
        Expr::Masquerade => {
            state.masquerade = true;
            state.end = End::Done;
        }
        Expr::Reject(_) => state.end = End::Rejected,
        Expr::Verdict(Verdict::Drop) => state.end = End::Dropped,
        other => panic!("{other:?}"),
    }
}

fn v4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("IPv4 is judged"),
    }
}

impl State {
    fn word(&self, at: Register) -> [u8; 4] {
        let start = usize::from(at.0) * 4;
        self.registers[start..start + 4].try_into().unwrap()
    }

    /// The rest of the last register becomes 0, as in the kernel.
    fn set(&mut self, at: Register, octets: &[u8]) {
        let start = usize::from(at.0) * 4;
        let end = (start + octets.len()).next_multiple_of(4);
        self.registers[start..end].fill(0);
        self.registers[start..start + octets.len()].copy_from_slice(octets);
    }

    /// Every place of a key of IPv4 is one register.
    fn key(&self, set: &Set, at: Register) -> Octets {
        let start = usize::from(at.0) * 4;
        Octets::from(&self.registers[start..start + set.key.len() * 4])
    }
}
