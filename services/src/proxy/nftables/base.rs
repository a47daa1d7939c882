//! What is there without any Service: where the kernel asks, the maps, the mark; and the steps that rules are made of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netfilter::nft::{
    Chain, CtKey, Data, Expr, Hook, HookPoint, MetaKey, Name, Octets, Part, PayloadBase, Register,
    Rule, Set, SetRef, Type, Verdict,
};
use netfilter::{Family, Note};

use super::Options;

/// The map of addresses, protocols and ports: each element counts the flows that it led.
pub const SERVICES: &str = "services";
/// The map of node ports, likewise.
pub const NODE_PORTS: &str = "node-ports";
/// Before the address of the destination changes, and after iptables' own chains there: a port of the host is not a Service's, and
/// while modes are switched the rules of iptables lead as long as they are there.
const LEADS: i32 = -100 + 1;
/// Before anybody gives a packet another source: the mark is to go in any case.
const MASQUERADES: i32 = 100 - 1;
/// RTN_LOCAL.
const LOCAL: u32 = 2;
/// IPS_DST_NAT.
const STATUS_DNAT: u32 = 32;
/// NF_CT_STATE_INVALID_BIT.
const STATE_INVALID: u32 = 1;

pub(super) fn services() -> Name {
    Name::fixed(SERVICES)
}

pub(super) fn node_ports() -> Name {
    Name::fixed(NODE_PORTS)
}

pub(super) fn cluster_ips() -> Name {
    Name::fixed("cluster-ips")
}

pub(super) fn hairpin() -> Name {
    Name::fixed("hairpin")
}

pub(super) fn refuse() -> Name {
    Name::fixed("refused")
}

pub(super) fn drop() -> Name {
    Name::fixed("dropped")
}

/// How many registers an address takes.
pub(super) fn words(family: Family) -> u8 {
    family.bits() / 32
}

/// Where a key's or value's second place is, behind an address at the first register.
pub(super) fn behind(family: Family) -> Register {
    Register(words(family))
}

pub(super) const FIRST: Register = Register(0);

/// Loads the source's or destination's address.
pub(super) fn address(family: Family, is_source: bool, to: Register) -> Expr {
    let (source, destination) = match family {
        Family::V4 => (12, 16),
        Family::V6 => (8, 24),
    };
    Expr::Payload {
        base: PayloadBase::Network,
        offset: if is_source { source } else { destination },
        length: u32::from(family.bits() / 8),
        to,
    }
}

fn destination_port(to: Register) -> Expr {
    Expr::Payload {
        base: PayloadBase::Transport,
        offset: 2,
        length: 2,
        to,
    }
}

pub(super) fn is(octets: &[u8]) -> Expr {
    Expr::Compare {
        from: FIRST,
        is_negated: false,
        octets: octets.to_vec(),
    }
}

pub(super) fn is_not(octets: &[u8]) -> Expr {
    Expr::Compare {
        from: FIRST,
        is_negated: true,
        octets: octets.to_vec(),
    }
}

fn octets_of(address: IpAddr) -> Vec<u8> {
    Octets::new().address(address).as_slice().to_vec()
}

/// Whether an address is in a range.
pub(super) fn is_in(range: &IpNet, is_source: bool) -> Vec<Expr> {
    let family = Family::of(range.addr());
    let mask = octets_of(range.netmask());
    let xor = vec![0; mask.len()];
    vec![
        address(family, is_source, FIRST),
        Expr::Bitwise {
            register: FIRST,
            mask,
            xor,
        },
        is(&octets_of(range.network())),
    ]
}

/// Sets the bit, and no other.
pub(super) fn mark(options: &Options) -> Vec<Expr> {
    let bit = options.masquerade_mark;
    mark_with(!bit, bit)
}

fn mark_with(mask: u32, xor: u32) -> Vec<Expr> {
    vec![
        Expr::Meta(MetaKey::Mark, FIRST),
        Expr::Bitwise {
            register: FIRST,
            mask: mask.to_ne_bytes().into(),
            xor: xor.to_ne_bytes().into(),
        },
        Expr::SetMark(FIRST),
    ]
}

/// Whether a number has one of these bits.
fn has(load: Expr, bits: u32) -> Vec<Expr> {
    vec![
        load,
        Expr::Bitwise {
            register: FIRST,
            mask: bits.to_ne_bytes().into(),
            xor: vec![0; 4],
        },
        is_not(&[0; 4]),
    ]
}

pub(super) fn chain(note: &str, rules: Vec<Rule>) -> Chain {
    Chain {
        hook: None,
        note: Note::new(note),
        rules,
    }
}

fn hooked(at: HookPoint, is_nat: bool, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        hook: Some(Hook {
            at,
            is_nat,
            priority,
        }),
        note: Note::new(""),
        rules,
    }
}

/// The chains and maps that no Service changes.
pub(super) fn part(family: Family, options: &Options) -> Part {
    let mut chains = BTreeMap::from([
        (
            Name::fixed("prerouting"),
            hooked(HookPoint::Prerouting, true, LEADS, leads(family, options)),
        ),
        (
            Name::fixed("output"),
            hooked(HookPoint::Output, true, LEADS, leads(family, options)),
        ),
        (
            Name::fixed("postrouting"),
            hooked(
                HookPoint::Postrouting,
                true,
                MASQUERADES,
                masquerades(family, options),
            ),
        ),
        (
            refuse(),
            chain("no endpoints", vec![vec![Expr::Reject(family)]]),
        ),
        (
            drop(),
            chain(
                "no local endpoints",
                vec![vec![Expr::Verdict(Verdict::Drop)]],
            ),
        ),
    ]);
    if !options.tcp_is_liberal {
        // Semantics 141.
        let mut rule = has(Expr::Ct(CtKey::State, FIRST), STATE_INVALID);
        rule.push(Expr::Verdict(Verdict::Drop));
        let forward = hooked(HookPoint::Forward, false, 0, vec![rule]);
        chains.insert(Name::fixed("forward"), forward);
    }
    Part {
        sets: sets(family),
        chains,
        elements: BTreeMap::new(),
    }
}

fn sets(family: Family) -> BTreeMap<Name, Set> {
    let address = Type::Address(family);
    let map = |key: Vec<Type>| Set {
        key,
        data: Data::Verdict,
        is_counted: true,
        timeout: None,
    };
    let set = |key: Vec<Type>| Set {
        key,
        data: Data::None,
        is_counted: false,
        timeout: None,
    };
    BTreeMap::from([
        (services(), map(vec![address, Type::Protocol, Type::Port])),
        (node_ports(), map(vec![Type::Protocol, Type::Port])),
        (cluster_ips(), set(vec![address])),
        (hairpin(), set(vec![address, address])),
    ])
}

/// A flow's first packet: to whom. One that is led or refused here goes no further in these rules.
fn leads(family: Family, options: &Options) -> Vec<Rule> {
    let protocol = behind(family);
    let mut rules = vec![vec![
        address(family, false, FIRST),
        Expr::Meta(MetaKey::Protocol, protocol),
        destination_port(Register(protocol.0 + 1)),
        Expr::Follow {
            map: services(),
            key: FIRST,
        },
    ]];
    let ranges = options.node_port_addresses.iter();
    let ranges: Vec<&IpNet> = ranges
        .filter(|range| Family::of(range.addr()) == family)
        .collect();
    if options.node_port_addresses.is_empty() {
        rules.push(to_node_ports(family, Vec::new()));
    }
    let restricted = ranges.into_iter().map(|range| is_in(range, false));
    rules.extend(restricted.map(|more| to_node_ports(family, more)));
    // Semantics 127: what reaches this and has a cluster IP asks for a port that no Service has there.
    rules.push(vec![
        address(family, false, FIRST),
        Expr::Lookup {
            set: SetRef::Named(cluster_ips()),
            key: FIRST,
            to: None,
        },
        Expr::Reject(family),
    ]);
    rules
}

/// A node's own address, but for the loopback's (semantics 132).
fn to_node_ports(family: Family, more: Vec<Expr>) -> Rule {
    let mut rule = vec![Expr::DestinationType(FIRST), is(&LOCAL.to_ne_bytes())];
    match family {
        Family::V4 => {
            let first_octet = Expr::Payload {
                base: PayloadBase::Network,
                offset: 16,
                length: 1,
                to: FIRST,
            };
            rule.extend([first_octet, is_not(&[127])]);
        }
        Family::V6 => {
            let loopback = octets_of(std::net::Ipv6Addr::LOCALHOST.into());
            rule.extend([address(family, false, FIRST), is_not(&loopback)]);
        }
    }
    rule.extend(more);
    rule.extend([
        Expr::Meta(MetaKey::Protocol, FIRST),
        destination_port(Register(1)),
        Expr::Follow {
            map: node_ports(),
            key: FIRST,
        },
    ]);
    rule
}

/// Semantics 148: the bit goes, so that what is wrapped for a tunnel is not masqueraded once more. And semantics 129.
fn masquerades(family: Family, options: &Options) -> Vec<Rule> {
    let bit = options.masquerade_mark;
    let mut marked = has(Expr::Meta(MetaKey::Mark, FIRST), bit);
    marked.extend(mark_with(!bit, 0));
    marked.push(Expr::Masquerade);
    let mut asks_itself = has(Expr::Ct(CtKey::Status, FIRST), STATUS_DNAT);
    asks_itself.extend([
        address(family, true, FIRST),
        address(family, false, behind(family)),
        Expr::Lookup {
            set: SetRef::Named(hairpin()),
            key: FIRST,
            to: None,
        },
        Expr::Masquerade,
    ]);
    vec![marked, asks_itself]
}
