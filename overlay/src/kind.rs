//! The kinds of tunnels: each one's device, what it takes of a packet, and what it can carry.

use std::net::IpAddr;

use api::crd::Encapsulation;
use ipnet::IpNet;

/// How packets travel between nodes, other than as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Ethernet in UDP (RFC 7348).
    Vxlan,
    /// IPv4 in IPv4 (RFC 2003).
    Ipip,
    /// IP in UDP, encrypted.
    WireGuard,
}

/// Whether nodes of one subnet send to each other directly.
pub type Near = bool;

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Vxlan, Self::Ipip, Self::WireGuard];

    /// What a pool's field asks for; nothing, if packets are to travel as they are.
    pub fn of(encapsulation: Encapsulation) -> Option<(Self, Near)> {
        match encapsulation {
            Encapsulation::None => None,
            Encapsulation::Vxlan => Some((Self::Vxlan, false)),
            Encapsulation::VxlanCrossSubnet => Some((Self::Vxlan, true)),
            Encapsulation::Ipip => Some((Self::Ipip, false)),
            Encapsulation::IpipCrossSubnet => Some((Self::Ipip, true)),
            Encapsulation::WireGuard => Some((Self::WireGuard, false)),
        }
    }

    /// The name of its device. Not by the prefix of pods' interfaces: policy drops what comes from one of those unless it
    /// is a pod's.
    pub fn device(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan.portolan",
            Self::Ipip => "ipip.portolan",
            Self::WireGuard => "wg.portolan",
        }
    }

    /// What it takes of each packet in bytes. VXLAN: Ethernet 14, VXLAN 8, UDP 8 and IP. IPIP: IPv4. WireGuard: its
    /// header 16, its tag 16, UDP 8 and IP.
    pub fn overhead(self, underlay: IpAddr) -> u32 {
        let ip = if underlay.is_ipv4() { 20 } else { 40 };
        match self {
            Self::Vxlan => 30 + ip,
            Self::Ipip => ip,
            Self::WireGuard => 40 + ip,
        }
    }

    /// Whether packets of these addresses can travel in it between nodes of such an address.
    pub fn carries(self, inner: &IpNet, underlay: IpAddr) -> bool {
        match self {
            Self::Vxlan | Self::WireGuard => true,
            Self::Ipip => inner.network().is_ipv4() && underlay.is_ipv4(),
        }
    }

    /// Whether its ends have link-layer addresses.
    pub(crate) fn is_ethernet(self) -> bool {
        self == Self::Vxlan
    }
}
