//! What is there without any Service: where the kernel asks, the maps, the mark; and the steps that rules are made of.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;
use netfilter::nft::{
    Chain, CtKey, Data, Expr, Hook, HookPoint, MetaKey, Name, Octets, Part, PayloadBase, Register,
    Rule, Set, Type, Verdict,
};
use netfilter::{Family, Note};

use super::Options;
use crate::proxy::model::Scope;

/// The set of addresses, protocols and ports: each element counts the flows that asked there.
pub const SERVICES: &str = "services";
/// The set of node ports, likewise.
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

/// Names that many elements bear: one allocation each.
struct Names {
    services: Name,
    node_ports: Name,
    doors: Name,
    firsts: Name,
    local_firsts: Name,
    cluster_ips: Name,
    hairpin: Name,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
    services: Name::fixed(SERVICES),
    node_ports: Name::fixed(NODE_PORTS),
    doors: Name::fixed("doors"),
    firsts: Name::fixed("first"),
    local_firsts: Name::fixed("first-local"),
    cluster_ips: Name::fixed("cluster-ips"),
    hairpin: Name::fixed("hairpin"),
});

pub(super) fn services() -> Name {
    NAMES.services.clone()
}

pub(super) fn node_ports() -> Name {
    NAMES.node_ports.clone()
}

/// Address, protocol and port (a node port has the unspecified address) to the chain that answers there.
pub(super) fn doors() -> Name {
    NAMES.doors.clone()
}

/// The map of what was asked to the first endpoint, and the chain that leads there.
pub(super) fn firsts(scope: Scope) -> Name {
    match scope {
        Scope::Cluster => NAMES.firsts.clone(),
        Scope::Local => NAMES.local_firsts.clone(),
    }
}

pub(super) fn cluster_ips() -> Name {
    NAMES.cluster_ips.clone()
}

pub(super) fn hairpin() -> Name {
    NAMES.hairpin.clone()
}

pub(super) fn refuse() -> Name {
    Name::fixed("refused")
}

pub(super) fn drop() -> Name {
    Name::fixed("dropped")
}

/// What stands for the node's addresses in a node port's keys.
pub(super) fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
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

pub(super) fn destination_port(to: Register) -> Expr {
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
    for scope in [Scope::Cluster, Scope::Local] {
        let mut rules = to_endpoints(family, &[], &firsts(scope));
        rules.push(vec![Expr::Verdict(Verdict::Drop)]);
        chains.insert(firsts(scope), chain("", rules));
    }
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
    let asked = vec![address, Type::Protocol, Type::Port];
    let set = |key: Vec<Type>| Set {
        key,
        data: Data::None,
        is_counted: false,
        timeout: None,
        is_behind: false,
    };
    let counted = |key: Vec<Type>| Set {
        is_counted: true,
        ..set(key)
    };
    let doors_map = Set {
        data: Data::Verdict,
        is_behind: true,
        ..set(asked.clone())
    };
    BTreeMap::from([
        (services(), counted(asked)),
        (node_ports(), counted(vec![Type::Protocol, Type::Port])),
        (doors(), doors_map),
        (firsts(Scope::Cluster), of_endpoints(family, false)),
        (firsts(Scope::Local), of_endpoints(family, false)),
        (cluster_ips(), set(vec![address])),
        (hairpin(), set(vec![address, address])),
    ])
}

/// Loads what was asked, from the first register on: of a node port the unspecified address.
pub(super) fn asked(family: Family, is_node_port: bool) -> Vec<Expr> {
    let protocol = behind(family);
    let address = match is_node_port {
        true => Expr::Load(Octets::new().address(unspecified(family)), FIRST),
        false => address(family, false, FIRST),
    };
    vec![
        address,
        Expr::Meta(MetaKey::Protocol, protocol),
        destination_port(Register(protocol.0 + 1)),
    ]
}

/// The map of what was asked, and with `is_numbered` the number of an endpoint, to that one's address and port.
pub(super) fn of_endpoints(family: Family, is_numbered: bool) -> Set {
    let address = Type::Address(family);
    let mut key = vec![address, Type::Protocol, Type::Port];
    key.extend(is_numbered.then_some(Type::Number));
    Set {
        key,
        data: Data::Values(vec![address, Type::Port]),
        is_counted: false,
        timeout: None,
        is_behind: true,
    }
}

/// To what a map has for what was asked, and what `more` puts behind it: by an address of a Service, or by a node port.
pub(super) fn to_endpoints(family: Family, more: &[Expr], map: &Name) -> Vec<Rule> {
    let rule = |is_node_port: bool| {
        // What is missing for an address of a Service must not be looked for as another's node port.
        let mut rule = match is_node_port {
            true => vec![Expr::DestinationType(FIRST), is(&LOCAL.to_ne_bytes())],
            false => Vec::new(),
        };
        rule.extend(asked(family, is_node_port));
        rule.extend(more.iter().cloned());
        rule.push(look_up(map.clone(), Some(FIRST)));
        rule.push(Expr::Dnat {
            family,
            address: FIRST,
            port: behind(family),
        });
        rule
    };
    vec![rule(false), rule(true)]
}

fn look_up(set: Name, to: Option<Register>) -> Expr {
    Expr::Lookup {
        set,
        key: FIRST,
        to,
    }
}

/// What is asked is served: on to its door.
fn follow(family: Family, is_node_port: bool) -> Vec<Expr> {
    let mut steps = asked(family, is_node_port);
    steps.push(Expr::Follow {
        map: doors(),
        key: FIRST,
    });
    steps
}

/// A flow's first packet: to whom. One that is led or refused here goes no further in these rules. Who is served has a door; but
/// while one takes another's place, a kernel that doesn't look again (Linux before `nft_lookup_should_retry`) may find neither:
/// such a packet doesn't go on as it came, and its sender asks again.
fn leads(family: Family, options: &Options) -> Vec<Rule> {
    let mut rule = asked(family, false);
    rule.push(look_up(services(), None));
    rule.extend(follow(family, false));
    let mut rules = vec![rule];
    let mut missed = asked(family, false);
    missed.extend([look_up(services(), None), Expr::Verdict(Verdict::Drop)]);
    rules.push(missed);
    let ranges = options.node_port_addresses.iter();
    let ranges: Vec<&IpNet> = ranges
        .filter(|range| Family::of(range.addr()) == family)
        .collect();
    if options.node_port_addresses.is_empty() {
        rules.extend(to_node_ports(family, &[]));
    }
    let restricted = ranges.into_iter().map(|range| is_in(range, false));
    rules.extend(restricted.flat_map(|more| to_node_ports(family, &more)));
    // Semantics 127: what reaches this and has a cluster IP asks for a port that no Service has there.
    rules.push(vec![
        address(family, false, FIRST),
        look_up(cluster_ips(), None),
        Expr::Reject(family),
    ]);
    rules
}

/// A node's own address, but for the loopback's (semantics 132).
fn to_node_ports(family: Family, more: &[Expr]) -> [Rule; 2] {
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
            let loopback = octets_of(Ipv6Addr::LOCALHOST.into());
            rule.extend([address(family, false, FIRST), is_not(&loopback)]);
        }
    }
    rule.extend(more.iter().cloned());
    rule.extend([
        Expr::Meta(MetaKey::Protocol, FIRST),
        destination_port(Register(1)),
        look_up(node_ports(), None),
    ]);
    let mut missed = rule.clone();
    missed.push(Expr::Verdict(Verdict::Drop));
    rule.extend(follow(family, true));
    [rule, missed]
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
        look_up(hairpin(), None),
        Expr::Masquerade,
    ]);
    vec![marked, asks_itself]
}
