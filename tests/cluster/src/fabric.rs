//! What the nodes hang on: one routed link each to a ToR, which is FRR, and a network outside the cluster.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use tests::frr::Frr;
use tests::netns::{Netns, join};

/// The ToR's AS number.
pub const TOR_AS: u32 = 65100;

/// A link's subnets: `10.179.<link>.0/24` and `fd00:179:<link>::/64`; the ToR is the first address, who hangs on it the
/// second. Link 0 is the network outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(pub u8);

impl Link {
    /// The ToR's IPv4 address on it.
    #[must_use]
    pub fn tor_v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 179, self.0, 1)
    }

    /// The ToR's IPv6 address on it.
    #[must_use]
    pub fn tor_v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x179, self.0.into(), 0, 0, 0, 0, 1)
    }

    /// The IPv4 address of who hangs on it.
    #[must_use]
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 179, self.0, 2)
    }

    /// The IPv6 address of who hangs on it.
    #[must_use]
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x179, self.0.into(), 0, 0, 0, 0, 2)
    }
}

/// The ToR and the network outside.
#[derive(Debug)]
pub struct Fabric {
    frr: Frr,
    tor: Netns,
    outside: Netns,
}

impl Fabric {
    /// A ToR that takes sessions from the nodes of the links 1 to `nodes`, whatever their AS, and the network outside.
    ///
    /// # Errors
    /// When a namespace can't be made or FRR doesn't come up.
    pub fn start(nodes: u8) -> Result<Self> {
        let tor = Netns::new("k8s", "tor")?;
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ] {
            tor.sysctl(name, value)?;
        }
        let outside = Netns::new("k8s", "outside")?;
        attach(&tor, &outside, "outside", Link(0))?;
        let frr = Frr::start(&tor, &bgpd(nodes))?;
        Ok(Self { frr, tor, outside })
    }

    /// A network namespace for a node, with its link and default routes.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn plug(&self, name: &str, link: Link) -> Result<Netns> {
        let netns = Netns::new("k8s", name)?;
        attach(&self.tor, &netns, name, link)?;
        Ok(netns)
    }

    /// The ToR's daemons.
    #[must_use]
    pub fn frr(&self) -> &Frr {
        &self.frr
    }

    /// Starts the ToR's BFD, without sessions: bgpd asks for them.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn start_bfdd(&mut self) -> Result<()> {
        self.frr.start_bfdd(&self.tor, "")
    }

    /// The ToR.
    #[must_use]
    pub fn tor(&self) -> &Netns {
        &self.tor
    }

    /// The network outside the cluster: where the control plane is, and clients that are no pods.
    #[must_use]
    pub fn outside(&self) -> &Netns {
        &self.outside
    }
}

fn attach(tor: &Netns, netns: &Netns, name: &str, link: Link) -> Result<()> {
    let port = format!("to-{name}");
    join((tor, &port), (netns, "eth0"))?;
    tor.ip(&format!("addr add {}/24 dev {port}", link.tor_v4()))?;
    tor.ip(&format!("addr add {}/64 dev {port} nodad", link.tor_v6()))?;
    netns.ip(&format!("addr add {}/24 dev eth0", link.v4()))?;
    netns.ip(&format!("addr add {}/64 dev eth0 nodad", link.v6()))?;
    netns.ip(&format!("route add default via {}", link.tor_v4()))?;
    netns.ip(&format!("-6 route add default via {}", link.tor_v6()))?;
    Ok(())
}

fn bgpd(nodes: u8) -> String {
    let neighbors: Vec<String> = (1..=nodes)
        .map(|link| Link(link).v4().to_string())
        .collect();
    let each = |line: &str| -> String {
        let lines = neighbors.iter();
        lines
            .map(|neighbor| format!(" neighbor {neighbor} {line}\n"))
            .collect()
    };
    format!(
        "router bgp {TOR_AS}
 bgp router-id {}
 no bgp ebgp-requires-policy
{}{} address-family ipv4 unicast
{} exit-address-family
 address-family ipv6 unicast
{} exit-address-family
",
        Link(0).tor_v4(),
        each("remote-as external"),
        each("timers connect 2"),
        each("activate"),
        each("activate"),
    )
}
