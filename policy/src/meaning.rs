//! What a set holds, told apart from who is in it now: a set is named by its meaning and shared by all that ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::labels::Requirement;
use api::resources::{ContainerPort, DomainName, IpBlock, Protocol as PolicyProtocol};
use api::{LabelSelector, Labels};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netfilter::{Family, IpSet, Member, Protocol, SetKind, SetName};

/// Which pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodChoice {
    pub(crate) namespaces: NamespaceChoice,
    pub(crate) pods: LabelSelector,
}

/// Pods of which namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NamespaceChoice {
    /// Of any, known or not.
    Any,
    /// Of this one, known or not.
    Own(String),
    /// Of known ones with such labels.
    Matching(LabelSelector),
}

impl PodChoice {
    /// Every pod there is.
    pub(crate) fn any() -> Self {
        Self {
            namespaces: NamespaceChoice::Any,
            pods: LabelSelector::default(),
        }
    }

    /// Whether a pod is meant; `None` stands for a namespace that is not known (yet).
    pub(crate) fn chooses(
        &self,
        namespace: &str,
        of_namespace: Option<&Labels>,
        of_pod: &Labels,
    ) -> bool {
        self.namespaces.chooses(namespace, of_namespace) && self.pods.matches(of_pod)
    }

    fn words(&self) -> Vec<String> {
        let mut words = match &self.namespaces {
            NamespaceChoice::Any => vec!["any".to_owned()],
            NamespaceChoice::Own(name) => vec!["namespace".to_owned(), name.clone()],
            NamespaceChoice::Matching(selector) => {
                let mut words = vec!["namespaces".to_owned()];
                words.extend(selector_words(selector));
                words
            }
        };
        words.push("pods".to_owned());
        words.extend(selector_words(&self.pods));
        words
    }
}

impl NamespaceChoice {
    pub(crate) fn chooses(&self, namespace: &str, labels: Option<&Labels>) -> bool {
        match self {
            Self::Any => true,
            Self::Own(name) => name == namespace,
            Self::Matching(selector) => labels.is_some_and(|labels| selector.matches(labels)),
        }
    }
}

/// What a set holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Meaning {
    /// The addresses of pods.
    Pods(PodChoice),
    /// The addresses of pods, each with its ports of a name; `None`: of any protocol.
    Ports(PodChoice, String, Option<PolicyProtocol>),
    /// All addresses of nodes.
    Nodes(LabelSelector),
    /// What lies in any of these blocks.
    Nets(BTreeSet<IpBlock>),
    /// What the DNS says of a name.
    Domain(DomainName),
}

impl Meaning {
    /// The set's name: it hangs on the meaning alone.
    pub(crate) fn name(&self, family: Family) -> SetName {
        match self {
            Self::Pods(choice) => SetName::hashed(family, "p", &choice.words()),
            Self::Ports(choice, port, protocol) => {
                let protocol = protocol.map_or("any", |protocol| match protocol {
                    PolicyProtocol::Tcp => "tcp",
                    PolicyProtocol::Udp => "udp",
                    PolicyProtocol::Sctp => "sctp",
                });
                let mut words = vec![protocol.to_owned(), port.clone()];
                words.extend(choice.words());
                SetName::hashed(family, "m", &words)
            }
            Self::Nodes(selector) => SetName::hashed(family, "o", &selector_words(selector)),
            Self::Nets(blocks) => {
                let mut words = Vec::new();
                for block in blocks {
                    words.extend([block.except.len().to_string(), block.cidr.to_string()]);
                    words.extend(block.except.iter().map(IpNet::to_string));
                }
                SetName::hashed(family, "n", &words)
            }
            Self::Domain(name) => SetName::hashed(family, "d", &[name.to_string()]),
        }
    }

    pub(crate) fn kind(&self) -> SetKind {
        match self {
            Self::Pods(_) | Self::Nodes(_) | Self::Domain(_) => SetKind::HashIp,
            Self::Ports(..) => SetKind::HashIpPort,
            Self::Nets(_) => SetKind::HashNet,
        }
    }

    /// What a pod that is chosen puts into the sets of both families.
    pub(crate) fn members(&self, addresses: &[IpAddr], ports: &[ContainerPort]) -> Vec<Member> {
        match self {
            Self::Ports(_, name, protocol) => {
                let meant = |port: &&ContainerPort| {
                    port.name == *name && protocol.is_none_or(|one| one == port.protocol)
                };
                let of_port = |port: &ContainerPort| {
                    let (protocol, port) = (kernel_protocol(port.protocol), port.port);
                    addresses
                        .iter()
                        .map(move |address| Member::IpPort(*address, protocol, port))
                };
                ports.iter().filter(meant).flat_map(of_port).collect()
            }
            _ => addresses.iter().copied().map(Member::Ip).collect(),
        }
    }

    /// An empty set of this meaning; networks are in it already.
    pub(crate) fn empty_set(&self, family: Family) -> IpSet {
        let mut set = IpSet::new(self.name(family), family, self.kind());
        if let Self::Nets(blocks) = self {
            for block in blocks {
                let except: BTreeSet<IpNet> = block.except.iter().copied().collect();
                for net in subtract(block.cidr, &except) {
                    set.insert_net(net);
                }
            }
        }
        set
    }
}

/// A block with host bits cleared and its exceptions sorted, so that equal meanings have one name.
pub(crate) fn plain_block(block: &IpBlock) -> IpBlock {
    let except: BTreeSet<IpNet> = block.except.iter().map(IpNet::trunc).collect();
    IpBlock {
        cidr: block.cidr.trunc(),
        except: except.into_iter().collect(),
    }
}

/// The sets that chains ask for, by their names.
pub(crate) type Needs = BTreeMap<SetName, Meaning>;

pub(crate) fn kernel_protocol(protocol: PolicyProtocol) -> Protocol {
    match protocol {
        PolicyProtocol::Tcp => Protocol::Tcp,
        PolicyProtocol::Udp => Protocol::Udp,
        PolicyProtocol::Sctp => Protocol::Sctp,
    }
}

/// The family of a network.
pub(crate) fn family_of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// Adds a member to a set if it is of the set's family.
pub(crate) fn insert(set: &mut IpSet, member: &Member) {
    match member {
        Member::Ip(address) => set.insert_ip(*address),
        Member::IpPort(address, protocol, port) => set.insert_ip_port(*address, *protocol, *port),
        Member::Net(net) => set.insert_net(*net),
        Member::NetIface(net, interface) => set.insert_net_iface(*net, interface),
    }
}

/// A selector as words that differ for different selectors; lists are preceded by their length.
fn selector_words(selector: &LabelSelector) -> Vec<String> {
    let mut words = vec![selector.requirements.len().to_string()];
    for requirement in &selector.requirements {
        let none = BTreeSet::new();
        let (operator, key, values) = match requirement {
            Requirement::In(key, values) => ("In", key, values),
            Requirement::NotIn(key, values) => ("NotIn", key, values),
            Requirement::Exists(key) => ("Exists", key, &none),
            Requirement::DoesNotExist(key) => ("DoesNotExist", key, &none),
        };
        words.extend([operator.to_owned(), key.clone(), values.len().to_string()]);
        words.extend(values.iter().cloned());
    }
    words
}

/// The networks that cover `net` less `except`: halves it only where an exception lies within.
fn subtract(net: IpNet, except: &BTreeSet<IpNet>) -> Vec<IpNet> {
    if except.iter().any(|hole| hole.contains(&net)) {
        return Vec::new();
    }
    let within: BTreeSet<IpNet> = except
        .iter()
        .filter(|hole| net.contains(*hole))
        .copied()
        .collect();
    if within.is_empty() {
        return vec![net];
    }
    halves(net)
        .into_iter()
        .flat_map(|half| subtract(half, &within))
        .collect()
}

fn halves(net: IpNet) -> Vec<IpNet> {
    let longer = net.prefix_len().saturating_add(1);
    match net {
        IpNet::V4(net) => Ipv4Net::subnets(&net, longer)
            .into_iter()
            .flatten()
            .map(IpNet::V4)
            .collect(),
        IpNet::V6(net) => Ipv6Net::subnets(&net, longer)
            .into_iter()
            .flatten()
            .map(IpNet::V6)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        (any::<u32>(), 0u8..=32).prop_map(|(address, length)| {
            IpNet::V4(
                Ipv4Net::new(Ipv4Addr::from_bits(address & 0xf000_00ff), length)
                    .unwrap()
                    .trunc(),
            )
        })
    }

    proptest! {
        #[test]
        fn subtraction_leaves_exactly_what_is_outside_the_exceptions(
            cidr in net(), except in prop::collection::btree_set(net(), 0..5), address: u32
        ) {
            let left = subtract(cidr, &except);
            let address = IpAddr::V4(Ipv4Addr::from_bits(address & 0xf000_00ff));
            let wanted = cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address));
            prop_assert_eq!(left.iter().any(|net| net.contains(&address)), wanted);
            prop_assert!(left.len() <= 32 * 5 + 1);
        }
    }
}
