//! NetworkPolicy (networking.k8s.io/v1) with every default applied and every CIDR parsed.

mod convert;
mod legacy_cidr;
#[cfg(test)]
mod tests;

pub(super) use convert::is_port_name;
pub(super) use legacy_cidr::read as read_cidr;

use ipnet::IpNet;

use crate::{LabelSelector, NamespacedName};

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// The pods of its namespace that it selects (empty: all of them).
    pub pod_selector: LabelSelector,
    /// `Some` if it isolates for ingress (policyTypes after defaulting); no rule then allows nothing.
    pub ingress: Option<Vec<PolicyRule>>,
    /// `Some` if it isolates for egress.
    pub egress: Option<Vec<PolicyRule>>,
}

/// One rule: a connection passes if a peer and a port match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// `from` or `to`; `None` (absent or empty) matches every address, inside and outside.
    pub peers: Option<Vec<Peer>>,
    /// `ports`; `None` (absent or empty) matches every port and every protocol.
    pub ports: Option<Vec<Port>>,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods (never host-network or finished ones).
    Pods {
        /// `namespaceSelector`; `None` means the policy's own namespace.
        namespaces: Option<LabelSelector>,
        /// `podSelector`; absent became empty, which matches all.
        pods: LabelSelector,
    },
    /// Addresses.
    IpBlock(IpBlock),
    /// A peer that cannot be compiled: it matches nothing. The text says why.
    Unsupported(String),
}

/// `ipBlock`: the CIDR less its exceptions, of one family, host bits cleared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    /// What it covers.
    pub cidr: IpNet,
    /// What is left out of it again.
    pub except: Vec<IpNet>,
}

/// A transport protocol of NetworkPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Reads a `protocol` as Kubernetes writes it; absent is TCP. None of a word that is not known.
    pub(crate) fn read(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The protocol; absent became TCP.
    pub protocol: Protocol,
    /// Which destination ports, as the pod sees them.
    pub port: PortMatch,
}

/// Which ports of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMatch {
    /// All of them.
    Any,
    /// `port` to `endPort`, both included; one port if they are equal.
    Range(u16, u16),
    /// A port by its container's name for it, of the entry's protocol; each destination pod may have another number.
    Named(String),
    /// Something that cannot be compiled (an unknown protocol, say): it matches nothing. The text says why.
    Unsupported(String),
}
