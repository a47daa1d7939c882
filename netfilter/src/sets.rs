//! Sets of addresses as values, and what `ipset save` said of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::names::{Family, InterfaceName, SetName};
use crate::rule::Protocol;
use crate::save::ParseError;

/// How many members a set of ours may get.
pub(crate) const MAX_ELEMENTS: u32 = 1 << 20;

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Addresses: `hash:ip`.
    HashIp,
    /// Networks: `hash:net`.
    HashNet,
    /// Networks behind an interface: `hash:net,iface`.
    HashNetIface,
    /// Addresses with a protocol and a port: `hash:ip,port`.
    HashIpPort,
}

impl SetKind {
    const ALL: [Self; 4] = [
        Self::HashIp,
        Self::HashNet,
        Self::HashNetIface,
        Self::HashIpPort,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HashIp => "hash:ip",
            Self::HashNet => "hash:net",
            Self::HashNetIface => "hash:net,iface",
            Self::HashIpPort => "hash:ip,port",
        }
    }
}

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// An address (`hash:ip`).
    Ip(IpAddr),
    /// A network (`hash:net`).
    Net(IpNet),
    /// A network behind an interface (`hash:net,iface`).
    NetIface(IpNet, InterfaceName),
    /// An address with a port of TCP, UDP or SCTP (`hash:ip,port`).
    IpPort(IpAddr, Protocol, u16),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Net(net) => write!(f, "{net}"),
            Self::NetIface(net, interface) => write!(f, "{net},{interface}"),
            Self::IpPort(address, protocol, port) => {
                write!(f, "{address},{}:{port}", protocol.name())
            }
        }
    }
}

/// A set. Its members are all of its kind and family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpSet {
    name: SetName,
    family: Family,
    kind: SetKind,
    members: BTreeSet<Member>,
}

impl IpSet {
    /// Makes an empty set: it matches nothing.
    pub fn new(name: SetName, family: Family, kind: SetKind) -> Self {
        Self {
            name,
            family,
            kind,
            members: BTreeSet::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &SetName {
        &self.name
    }

    /// Its family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its kind.
    pub fn kind(&self) -> SetKind {
        self.kind
    }

    /// Its members.
    pub fn members(&self) -> &BTreeSet<Member> {
        &self.members
    }

    /// Takes a member out.
    pub fn remove(&mut self, member: &Member) {
        self.members.remove(member);
    }

    /// Adds an address to a `hash:ip`; one of another family or kind of set is left out.
    pub fn insert_ip(&mut self, address: IpAddr) {
        if self.kind == SetKind::HashIp && family_of(address) == self.family {
            self.members.insert(Member::Ip(address));
        }
    }

    /// Adds a network to a `hash:net`, as its two halves if it is all addresses (the kernel refuses a prefix of 0).
    pub fn insert_net(&mut self, net: IpNet) {
        if self.kind == SetKind::HashNet && family_of(net.addr()) == self.family {
            self.members
                .extend(storable(net).into_iter().map(Member::Net));
        }
    }

    /// Adds an address with a port to a `hash:ip,port`.
    pub fn insert_ip_port(&mut self, address: IpAddr, protocol: Protocol, port: u16) {
        if self.kind == SetKind::HashIpPort && family_of(address) == self.family {
            self.members.insert(Member::IpPort(address, protocol, port));
        }
    }

    /// Adds a network behind an interface to a `hash:net,iface`.
    pub fn insert_net_iface(&mut self, net: IpNet, interface: &InterfaceName) {
        if self.kind == SetKind::HashNetIface && family_of(net.addr()) == self.family {
            let member = |net| Member::NetIface(net, interface.clone());
            self.members.extend(storable(net).into_iter().map(member));
        }
    }
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

fn storable(net: IpNet) -> Vec<IpNet> {
    let net = net.trunc();
    if net.prefix_len() > 0 {
        return vec![net];
    }
    match net {
        IpNet::V4(all) => all
            .subnets(1)
            .map(|halves| halves.map(IpNet::V4).collect())
            .unwrap_or_default(),
        IpNet::V6(all) => all
            .subnets(1)
            .map(|halves| halves.map(IpNet::V6).collect())
            .unwrap_or_default(),
    }
}

/// A set of ours in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActualSet {
    /// `None`: a type or family that we do not make.
    pub(crate) shape: Option<(SetKind, Family)>,
    /// Whether size and options are as we make them and all members could be read.
    pub(crate) plain: bool,
    pub(crate) members: Members,
}

/// The members of a set: as they were read, or those of the set that we wrote or found equal.
#[derive(Clone, Debug)]
pub(crate) enum Members {
    Read(BTreeSet<Member>),
    Written(Arc<IpSet>),
}

impl Members {
    pub(crate) fn get(&self) -> &BTreeSet<Member> {
        match self {
            Self::Read(members) => members,
            Self::Written(set) => &set.members,
        }
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Members {}

impl ActualSet {
    pub(crate) fn written(set: &Arc<IpSet>) -> Self {
        Self {
            shape: Some((set.kind, set.family)),
            plain: true,
            members: Members::Written(set.clone()),
        }
    }

    /// Whether it was written from this very set, or found equal to it.
    pub(crate) fn is(&self, wanted: &Arc<IpSet>) -> bool {
        matches!(&self.members, Members::Written(set) if Arc::ptr_eq(set, wanted))
    }
}

/// The sets of ours that are in the kernel. Copies share what they don't change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualSets {
    pub(crate) sets: Arc<BTreeMap<SetName, Arc<ActualSet>>>,
}

impl ActualSets {
    /// The single addresses in a set, with or without ports; empty if there is no such set.
    pub fn addresses(&self, name: &SetName) -> BTreeSet<IpAddr> {
        let address = |member: &Member| match member {
            Member::Ip(address) | Member::IpPort(address, ..) => Some(*address),
            Member::Net(net) | Member::NetIface(net, _) => {
                (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
            }
        };
        let set = self.sets.get(name);
        set.into_iter()
            .flat_map(|set| set.members.get())
            .filter_map(address)
            .collect()
    }

    /// Each set with those of its members that could be read.
    pub fn members(&self) -> impl Iterator<Item = (&SetName, &BTreeSet<Member>)> {
        self.sets
            .iter()
            .map(|(name, set)| (name, set.members.get()))
    }

    /// How many members each set has; members that can't be read don't count.
    pub fn sizes(&self) -> BTreeMap<SetName, usize> {
        let size =
            |(name, set): (&SetName, &Arc<ActualSet>)| (name.clone(), set.members.get().len());
        self.sets.iter().map(size).collect()
    }
}

/// Reads the output of `ipset save`. Others' sets are passed over.
///
/// # Errors
/// If a line is not understood.
pub fn parse_sets(text: &str) -> Result<ActualSets, ParseError> {
    let mut sets: BTreeMap<SetName, ActualSet> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let error = || ParseError::Line {
            line: index + 1,
            text: line.chars().take(120).collect(),
        };
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["create", name, options @ ..] => {
                let Some(name) = SetName::read(name) else {
                    continue;
                };
                sets.insert(name, ActualSet::read(options));
            }
            ["add", name, member @ ..] => {
                let Some(name) = SetName::read(name) else {
                    continue;
                };
                let set = sets.get_mut(&name).ok_or_else(error)?;
                set.add(member);
            }
            _ => return Err(error()),
        }
    }
    let shared = |(name, set)| (name, Arc::new(set));
    Ok(ActualSets {
        sets: Arc::new(sets.into_iter().map(shared).collect()),
    })
}

impl ActualSet {
    fn read(options: &[&str]) -> Self {
        let (kind, options) = options
            .split_first()
            .map_or(("", options), |(kind, rest)| (*kind, rest));
        let mut family = None;
        let mut plain = true;
        for pair in options.chunks(2) {
            match pair {
                ["family", "inet"] => family = Some(Family::V4),
                ["family", "inet6"] => family = Some(Family::V6),
                ["maxelem", count] => plain &= count.parse() == Ok(MAX_ELEMENTS),
                // What the kernel chooses or grows by itself.
                ["hashsize" | "bucketsize" | "initval", _] => {}
                _ => plain = false,
            }
        }
        let kind = SetKind::ALL.into_iter().find(|known| known.name() == kind);
        Self {
            shape: kind.zip(family),
            plain,
            members: Members::Read(BTreeSet::new()),
        }
    }

    fn add(&mut self, words: &[&str]) {
        let member = match words {
            [member] => self.shape.and_then(|(kind, _)| read_member(kind, member)),
            _ => None,
        };
        match (member, &mut self.members) {
            (Some(member), Members::Read(members)) => drop(members.insert(member)),
            _ => self.plain = false,
        }
    }
}

fn read_member(kind: SetKind, text: &str) -> Option<Member> {
    match kind {
        SetKind::HashIp => text.parse().ok().map(Member::Ip),
        SetKind::HashNet => read_net(text).map(Member::Net),
        SetKind::HashIpPort => {
            let (address, rest) = text.split_once(',')?;
            let (protocol, port) = rest.split_once(':')?;
            let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                .into_iter()
                .find(|one| one.name() == protocol)?;
            Some(Member::IpPort(
                address.parse().ok()?,
                protocol,
                port.parse().ok()?,
            ))
        }
        SetKind::HashNetIface => {
            let (net, interface) = text.split_once(',')?;
            Some(Member::NetIface(
                read_net(net)?,
                InterfaceName::new(interface).ok()?,
            ))
        }
    }
}

/// `ipset` prints a network of one address without its prefix length.
fn read_net(text: &str) -> Option<IpNet> {
    if let Ok(net) = text.parse() {
        return Some(net);
    }
    match text.parse().ok()? {
        IpAddr::V4(address) => Ipv4Net::new(address, 32).ok().map(IpNet::V4),
        IpAddr::V6(address) => Ipv6Net::new(address, 128).ok().map(IpNet::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_stored_as_two_halves() {
        let mut set = IpSet::new(
            SetName::fixed(Family::V4, "x"),
            Family::V4,
            SetKind::HashNet,
        );
        set.insert_net("0.0.0.0/0".parse().unwrap());
        set.insert_net("::/0".parse().unwrap());
        let texts: Vec<String> = set.members().iter().map(Member::to_string).collect();
        assert_eq!(texts, ["0.0.0.0/1", "128.0.0.0/1"]);
    }

    #[test]
    fn members_with_options_make_a_set_that_is_to_be_remade() {
        let text = "create ptl4-x hash:net family inet hashsize 64 maxelem 1048576\nadd ptl4-x 10.0.0.0/8 nomatch\n\
                    create foreign hash:mac\nadd foreign 00:11:22:33:44:55\n";
        let actual = parse_sets(text).unwrap();
        assert_eq!(actual.sets.len(), 1);
        assert!(actual.sets.values().all(|set| !set.plain));
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        assert!(parse_sets("Name: x\n").is_err());
        assert!(parse_sets("add ptl4-x 10.0.0.1\n").is_err());
    }
}
