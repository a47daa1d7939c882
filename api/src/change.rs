//! What a source of configuration says: one object is now so, or is gone, or the first full list is in.

use std::fmt;

use crate::resources::{
    BgpConfiguration, BgpFilter, BgpNodeStatus, BgpPeer, ClusterNetworkPolicy, EndpointSlice,
    IpPool, IpReservation, IpamBlock, Namespace, NetworkPolicy, Node, Pod, Secret, Service,
};

/// The name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The object's namespace (DNS-1123 label).
    pub namespace: String,
    /// The object's name (DNS-1123 subdomain).
    pub name: String,
}

impl NamespacedName {
    /// Makes a name from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which object a change is about. The order (kind, then name) is the order of every walk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A BGPConfiguration.
    BgpConfiguration(String),
    /// A BGPFilter.
    BgpFilter(String),
    /// A BGPNodeStatus: of it, the node's WireGuard keys.
    BgpNodeStatus(String),
    /// A BGPPeer.
    BgpPeer(String),
    /// An IPAMBlock.
    IpamBlock(String),
    /// An IPPool.
    IpPool(String),
    /// An IPReservation.
    IpReservation(String),
    /// A Secret.
    Secret(NamespacedName),
    /// A Namespace.
    Namespace(String),
    /// A Node.
    Node(String),
    /// A Pod.
    Pod(NamespacedName),
    /// A NetworkPolicy.
    NetworkPolicy(NamespacedName),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(String),
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
}

impl fmt::Display for Key {
    /// `Kind name` or `Kind namespace/name`, as errors and logs print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BgpConfiguration(name) => write!(f, "BGPConfiguration {name}"),
            Self::BgpFilter(name) => write!(f, "BGPFilter {name}"),
            Self::BgpNodeStatus(name) => write!(f, "BGPNodeStatus {name}"),
            Self::BgpPeer(name) => write!(f, "BGPPeer {name}"),
            Self::IpamBlock(name) => write!(f, "IPAMBlock {name}"),
            Self::IpPool(name) => write!(f, "IPPool {name}"),
            Self::IpReservation(name) => write!(f, "IPReservation {name}"),
            Self::Secret(name) => write!(f, "Secret {name}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
            Self::NetworkPolicy(name) => write!(f, "NetworkPolicy {name}"),
            Self::ClusterNetworkPolicy(name) => write!(f, "ClusterNetworkPolicy {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
        }
    }
}

/// The present state of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A BGPConfiguration.
    BgpConfiguration(Box<BgpConfiguration>),
    /// A BGPFilter.
    BgpFilter(BgpFilter),
    /// What of a BGPNodeStatus other nodes read.
    BgpNodeStatus(BgpNodeStatus),
    /// A BGPPeer.
    BgpPeer(Box<BgpPeer>),
    /// An IPAMBlock.
    IpamBlock(IpamBlock),
    /// An IPPool.
    IpPool(IpPool),
    /// An IPReservation.
    IpReservation(IpReservation),
    /// A Secret.
    Secret(Secret),
    /// A Namespace.
    Namespace(Namespace),
    /// A Node.
    Node(Node),
    /// A Pod.
    Pod(Pod),
    /// A NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
}

/// One object's new state; `None` means that it is absent. A removal may be repeated or spurious.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which object.
    pub key: Key,
    /// What it is now. Its kind is the key's.
    pub value: Option<Resource>,
}

/// What a source sends down its bounded channel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "InSync is sent once, every other event is a change"
)]
pub enum Event {
    /// An object changed.
    Change(Change),
    /// Everything that the source held when it started has been sent. Sent once.
    InSync,
}
