//! Where packets to a prefix go, in the words of those who ask for a route.

use std::net::IpAddr;
use std::num::NonZeroU8;

/// A next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway {
    /// Its address; an IPv4 prefix may have an IPv6 one (RFC 8950).
    pub address: IpAddr,
    /// The index of the interface behind which it is; a link-local address needs one, for others
    /// the kernel finds it.
    pub link: Option<u32>,
    /// Its share of the packets against the other gateways'; 1 for all means equal shares.
    pub weight: NonZeroU8,
}

impl Gateway {
    /// A gateway that the kernel finds on-link, with an equal share.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        Self {
            address,
            link: None,
            weight: NonZeroU8::MIN,
        }
    }

    /// The same gateway behind the interface of this index.
    #[must_use]
    pub const fn on_link(self, index: u32) -> Self {
        Self {
            link: Some(index),
            ..self
        }
    }

    pub(crate) const fn behind(self, link: Option<u32>) -> Self {
        Self { link, ..self }
    }

    /// The same gateway with this share.
    #[must_use]
    pub const fn weighted(self, weight: NonZeroU8) -> Self {
        Self { weight, ..self }
    }
}

impl From<IpAddr> for Gateway {
    fn from(address: IpAddr) -> Self {
        Self::new(address)
    }
}

/// Where packets to a prefix go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Next hops; several share the load by their weights. Order has no meaning, and one named
    /// twice counts once.
    Gateways(Vec<Gateway>),
    /// A scope-link route to an interface: a pod's host end.
    Interface(String),
    /// By a gateway behind the interface of this name, whatever the node's other routes say of the gateway's address:
    /// the tunnel to another node.
    Onlink {
        /// The interface's name.
        interface: String,
        /// The gateway's address; an IPv4 prefix may have an IPv6 one, which is link-local then (RFC 8950).
        gateway: IpAddr,
    },
    /// Packets are dropped: the Pod CIDR's own route, for addresses no pod holds.
    Blackhole,
}

impl Target {
    /// The one form of all targets that mean the same: gateways sorted, each once.
    pub(crate) fn canonical(mut self) -> Self {
        if let Self::Gateways(gateways) = &mut self
            && gateways.len() > 1
        {
            gateways.sort_unstable();
            gateways.dedup_by_key(|g| (g.address, g.link));
        }
        self
    }
}
