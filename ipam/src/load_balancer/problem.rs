//! Why a Service of type LoadBalancer has not the address that it should have, in words for its owner.

use std::fmt;
use std::net::IpAddr;

use api::NamespacedName;

/// What stands in the way of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// What it asks for cannot be read.
    Unreadable(String),
    /// An address that it asks for is in no pool for load balancers.
    InNoPool(IpAddr),
    /// An address that it asks for is a Node's.
    OfNode(IpAddr),
    /// An address that it asks for, or has, is another's.
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        by: NamespacedName,
        /// Why the two cannot share it.
        why: Unshared,
    },
    /// It asks for an address of a family of which it has no cluster IP.
    NotOfItsFamilies(IpAddr),
    /// A pool that it names is not there, or not for load balancers, or of the other family.
    NoSuchPool(String),
    /// No pool for load balancers has addresses of a family.
    NoPool {
        /// Whether the family is IPv4.
        is_ipv4: bool,
    },
    /// All addresses of the pools are held.
    Exhausted {
        /// Their names.
        pools: Vec<String>,
    },
    /// Another load balancer has written its status, and it names no class: it is left alone.
    BalancedElsewhere,
}

/// Why two Services cannot share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unshared {
    /// They have not one `portolan.io/sharing-key`, or are of two namespaces.
    Key,
    /// They have a port in common.
    Port {
        /// Its number.
        port: u16,
    },
    /// Their externalTrafficPolicy differs, or is Local with different pods behind it.
    TrafficPolicy,
}

impl Problem {
    /// The word for it in a condition and an Event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "InvalidRequest",
            Self::InNoPool(_) | Self::OfNode(_) | Self::NotOfItsFamilies(_) => "AddressNotAllowed",
            Self::Taken { .. } => "AddressTaken",
            Self::NoSuchPool(_) | Self::NoPool { .. } => "NoPool",
            Self::Exhausted { .. } => "PoolExhausted",
            Self::BalancedElsewhere => "BalancedElsewhere",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "{why}"),
            Self::InNoPool(address) => write!(
                f,
                "{address} is in no IPPool with LoadBalancer in its allowedUses: ask for another, or make a pool of it"
            ),
            Self::OfNode(address) => write!(f, "{address} is a Node's address: ask for another"),
            Self::Taken { address, by, why } => write!(f, "{address} is Service {by}'s, and {why}"),
            Self::NotOfItsFamilies(address) => write!(
                f,
                "{address} is asked for, but the Service has no cluster IP of that family: see its ipFamilies"
            ),
            Self::NoSuchPool(pool) => write!(
                f,
                "IPPool {pool}, which it names, is not there, or is disabled, or not for load balancers, or of the other family"
            ),
            Self::NoPool { is_ipv4 } => write!(
                f,
                "no IPPool of {} has LoadBalancer in its allowedUses: make one",
                if *is_ipv4 { "IPv4" } else { "IPv6" }
            ),
            Self::Exhausted { pools } => write!(
                f,
                "all addresses of IPPool {} are held: make a further pool, or let Services share addresses (portolan.io/sharing-key)",
                pools.join(", ")
            ),
            Self::BalancedElsewhere => write!(
                f,
                "another load balancer has given it addresses: end that one, or set spec.loadBalancerClass, to say whose it is"
            ),
        }
    }
}

impl fmt::Display for Unshared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => write!(
                f,
                "the two do not share it: give both, in one namespace, the same annotation portolan.io/sharing-key, or ask for another"
            ),
            Self::Port { port } => {
                write!(
                    f,
                    "both have port {port}: who shares an address has ports of its own"
                )
            }
            Self::TrafficPolicy => write!(
                f,
                "who shares an address has the same externalTrafficPolicy, and with Local the same pods behind it"
            ),
        }
    }
}
