//! The kinds that are read, and where the API server has them.

use api::{Key, NamespacedName};

/// A kind that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    BgpConfiguration,
    BgpFilter,
    BgpNodeStatus,
    BgpPeer,
    IpamBlock,
    IpPool,
    IpReservation,
    Secret,
    Namespace,
    Node,
    Pod,
    NetworkPolicy,
    ClusterNetworkPolicy,
    Service,
    EndpointSlice,
}

/// What it means that the server does not know a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// Every API server has it.
    Never,
    /// Our definitions are not installed: someone should be told.
    Told,
    /// It has not been installed, and need not be.
    Usual,
}

impl Kind {
    pub(super) const ALL: [Self; 15] = [
        Self::BgpConfiguration,
        Self::BgpFilter,
        Self::BgpNodeStatus,
        Self::BgpPeer,
        Self::IpamBlock,
        Self::IpPool,
        Self::IpReservation,
        Self::Secret,
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// Those that are read: what Services are made of, only for who serves them.
    pub(super) fn read(services: bool) -> impl Iterator<Item = Self> {
        let is_of_services = |kind: &Self| matches!(kind, Self::Service | Self::EndpointSlice);
        Self::ALL
            .into_iter()
            .filter(move |kind| services || !is_of_services(kind))
    }

    /// Whether anybody writes about its objects. Of pods and slices there are many, Secrets are nobody's business, and a
    /// BGPNodeStatus is its own node's.
    pub(super) fn is_noted(self) -> bool {
        !matches!(
            self,
            Self::Pod | Self::Secret | Self::EndpointSlice | Self::BgpNodeStatus
        )
    }

    /// `kind` of its objects.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::BgpConfiguration => "BGPConfiguration",
            Self::BgpFilter => "BGPFilter",
            Self::BgpNodeStatus => "BGPNodeStatus",
            Self::BgpPeer => "BGPPeer",
            Self::IpamBlock => "IPAMBlock",
            Self::IpPool => "IPPool",
            Self::IpReservation => "IPReservation",
            Self::Secret => "Secret",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::BgpConfiguration => "bgpconfigurations",
            Self::BgpFilter => "bgpfilters",
            Self::BgpNodeStatus => "bgpnodestatuses",
            Self::BgpPeer => "bgppeers",
            Self::IpamBlock => "ipamblocks",
            Self::IpPool => "ippools",
            Self::IpReservation => "ipreservations",
            Self::Secret => "secrets",
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::NetworkPolicy => "networkpolicies",
            Self::ClusterNetworkPolicy => "clusternetworkpolicies",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
        }
    }

    /// `apiVersion` of its objects.
    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Secret | Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            _ => "portolan.io/v1alpha1",
        }
    }

    pub(super) fn absence(self) -> Absence {
        match self {
            Self::ClusterNetworkPolicy => Absence::Usual,
            _ if self.api_version() == "portolan.io/v1alpha1" => Absence::Told,
            _ => Absence::Never,
        }
    }

    /// The path of its collection: of Secrets in one namespace, of all else in the whole cluster.
    pub(super) fn path(self, namespace: &str) -> String {
        let version = match self.api_version() {
            "v1" => "/api/v1".to_owned(),
            other => format!("/apis/{other}"),
        };
        match self {
            Self::Secret => format!("{version}/namespaces/{namespace}/secrets"),
            _ => format!("{version}/{}", self.plural()),
        }
    }

    /// What narrows the collection down. Secrets that others make by the hundred, and that no BGPPeer can mean, stay
    /// where they are.
    pub(super) fn field_selector(self) -> Option<&'static str> {
        match self {
            Self::Secret => {
                Some("type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token")
            }
            _ => None,
        }
    }

    /// What of the collection is somebody else's: Services of another proxy, and endpoints that only the DNS tells
    /// (semantics 117). An object that gets such a label is deleted, as far as a watch says.
    pub(super) fn label_selector(self) -> Option<&'static str> {
        match self {
            Self::Service => {
                Some("!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless")
            }
            Self::EndpointSlice => Some("!service.kubernetes.io/headless"),
            _ => None,
        }
    }

    /// The key of the object with this name, `namespace/name` where its kind has namespaces.
    pub(super) fn key(self, name: &str) -> Key {
        let namespaced = || {
            let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
            NamespacedName::new(namespace, name)
        };
        let name = || name.to_owned();
        match self {
            Self::BgpConfiguration => Key::BgpConfiguration(name()),
            Self::BgpFilter => Key::BgpFilter(name()),
            Self::BgpNodeStatus => Key::BgpNodeStatus(name()),
            Self::BgpPeer => Key::BgpPeer(name()),
            Self::IpamBlock => Key::IpamBlock(name()),
            Self::IpPool => Key::IpPool(name()),
            Self::IpReservation => Key::IpReservation(name()),
            Self::Secret => Key::Secret(namespaced()),
            Self::Namespace => Key::Namespace(name()),
            Self::Node => Key::Node(name()),
            Self::Pod => Key::Pod(namespaced()),
            Self::NetworkPolicy => Key::NetworkPolicy(namespaced()),
            Self::ClusterNetworkPolicy => Key::ClusterNetworkPolicy(name()),
            Self::Service => Key::Service(namespaced()),
            Self::EndpointSlice => Key::EndpointSlice(namespaced()),
        }
    }
}
