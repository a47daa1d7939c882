//! A node with a proxy and all around it, in namespaces of its own: two worlds have the same shape and the same addresses.
//!
//! ```text
//! pod1, pod2 ─ node (n1, the proxy) ─┐
//!                                    ├─ router ─ outside          node ─ api0 ─ the API server
//! far1, far2 ─ remote (n2, none)   ──┘
//! ```

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use tests::netns::{Netns, join};

use crate::ask::Server;

/// Where the API server listens, for both worlds.
pub(crate) const API: &str = "172.31.0.1";
/// The further address that the node has.
pub(crate) const SECOND: [&str; 2] = ["10.71.1.77", "fd71:1::77"];
/// What leads to Services: the router sends it to the node, and back to nobody what the node gives back.
const OF_SERVICES: [&str; 6] = [
    "10.96.0.0/16",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "fd00:10:96::/112",
    "2001:db8:2::/64",
    "2001:db8:100::/64",
];
/// Many addresses that a pod has besides its own: where endpoints are many.
const MANY: [(&str, Place); 2] = [
    ("10.244.2.128/26", Place::Far1),
    ("10.244.2.192/26", Place::Far2),
];
/// The hardware address of every pod's gateway.
const GATEWAY: &str = "ee:ee:ee:ee:ee:ee";

/// Who asks, and where endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// A pod of the node.
    Pod1,
    /// Another one.
    Pod2,
    /// A pod of the other node.
    Far1,
    /// Another one.
    Far2,
    /// The node itself: its own programs, and pods of its network.
    Node,
    /// The other node.
    Remote,
    /// No node and no pod.
    Outside,
}

impl Place {
    pub(crate) const ALL: [Self; 7] = [
        Self::Pod1,
        Self::Pod2,
        Self::Far1,
        Self::Far2,
        Self::Node,
        Self::Remote,
        Self::Outside,
    ];
    /// Each kind of sender: an endpoint of its own node, a pod, another node's pod, the node, and the outside.
    pub(crate) const ASKING: [Self; 5] = [
        Self::Pod1,
        Self::Pod2,
        Self::Far1,
        Self::Node,
        Self::Outside,
    ];

    pub(crate) fn addresses(self) -> [&'static str; 2] {
        match self {
            Self::Pod1 => ["10.244.1.11", "fd00:10:244:1::11"],
            Self::Pod2 => ["10.244.1.12", "fd00:10:244:1::12"],
            Self::Far1 => ["10.244.2.11", "fd00:10:244:2::11"],
            Self::Far2 => ["10.244.2.12", "fd00:10:244:2::12"],
            Self::Node => ["10.71.1.1", "fd71:1::1"],
            Self::Remote => ["10.71.2.1", "fd71:2::1"],
            Self::Outside => ["10.71.9.2", "fd71:9::2"],
        }
    }

    /// The Kubernetes node it is on.
    pub(crate) fn node(self) -> Option<&'static str> {
        match self {
            Self::Pod1 | Self::Pod2 | Self::Node => Some("n1"),
            Self::Far1 | Self::Far2 | Self::Remote => Some("n2"),
            Self::Outside => None,
        }
    }
}

/// The namespaces of a world, with a server in each but the router.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    _servers: Vec<Server>,
    places: Vec<(Place, Netns)>,
    _router: Netns,
}

impl World {
    /// Everything but a proxy. `number` tells the links of the worlds to the API server apart.
    pub(crate) fn start(name: &'static str, number: u8, api: &Netns) -> Result<Self> {
        let tag = format!("twin{name}");
        let router = station(&tag, "router")?;
        let mut places = Vec::new();
        for place in Place::ALL {
            let role = format!("{place:?}").to_lowercase();
            places.push((place, station(&tag, &role)?));
        }
        let mut world = Self {
            name,
            _servers: Vec::new(),
            places,
            _router: router,
        };
        for (place, link) in [(Place::Node, 1), (Place::Remote, 2), (Place::Outside, 9)] {
            world.plug(place, link)?;
        }
        let pods = [
            (Place::Node, Place::Pod1),
            (Place::Node, Place::Pod2),
            (Place::Remote, Place::Far1),
            (Place::Remote, Place::Far2),
        ];
        for (host, pod) in pods {
            world.attach(host, pod)?;
        }
        world.lead_to_services()?;
        world.reach_api(api, number)?;
        world._servers = world.serve()?;
        Ok(world)
    }

    pub(crate) fn at(&self, place: Place) -> Result<&Netns> {
        let found = self.places.iter().find(|(found, _)| *found == place);
        Ok(&found.with_context(|| format!("no {place:?}"))?.1)
    }

    /// The node, where the proxy is.
    pub(crate) fn node(&self) -> Result<&Netns> {
        self.at(Place::Node)
    }

    fn plug(&self, place: Place, link: u8) -> Result<()> {
        let (router, netns) = (&self._router, self.at(place)?);
        let port = format!("to-{link}");
        join((router, &port), (netns, "eth0"))?;
        router.ip(&format!("addr add 10.71.{link}.254/24 dev {port}"))?;
        router.ip(&format!("addr add fd71:{link}::fe/64 dev {port} nodad"))?;
        let [v4, v6] = place.addresses();
        netns.ip(&format!("addr add {v4}/24 dev eth0"))?;
        netns.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
        netns.ip(&format!("route add default via 10.71.{link}.254"))?;
        netns.ip(&format!("-6 route add default via fd71:{link}::fe"))?;
        Ok(())
    }

    /// As the plugin does it: the pod's gateway is its interface's other end, which has no address of its own.
    fn attach(&self, host: Place, pod: Place) -> Result<()> {
        let (on, netns) = (self.at(host)?, self.at(pod)?);
        let end = format!("ptl{pod:?}").to_lowercase();
        join((on, &end), (netns, "eth0"))?;
        on.ip(&format!("link set {end} address {GATEWAY}"))?;
        let [v4, v6] = pod.addresses();
        let [host_v4, host_v6] = host.addresses();
        on.ip(&format!("route add {v4}/32 dev {end} src {host_v4}"))?;
        on.ip(&format!("-6 route add {v6}/128 dev {end} src {host_v6}"))?;
        netns.ip(&format!("addr add {v4}/32 dev eth0"))?;
        netns.ip(&format!("addr add {v6}/128 dev eth0 nodad"))?;
        for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
            netns.ip(&format!(
                "neigh add {gateway} lladdr {GATEWAY} dev eth0 nud permanent"
            ))?;
            netns.ip(&format!("{family} route add {gateway} dev eth0"))?;
            netns.ip(&format!(
                "{family} route add default via {gateway} dev eth0"
            ))?;
        }
        for (net, _) in MANY.iter().filter(|(_, place)| *place == pod) {
            on.ip(&format!("route add {net} dev {end} src {host_v4}"))?;
            netns.ip(&format!("route add local {net} dev lo"))?;
        }
        Ok(())
    }

    fn lead_to_services(&self) -> Result<()> {
        let router = &self._router;
        for (net, via) in [
            ("10.244.1.0/24", "10.71.1.1"),
            ("10.244.2.0/24", "10.71.2.1"),
            ("fd00:10:244:1::/64", "fd71:1::1"),
            ("fd00:10:244:2::/64", "fd71:2::1"),
        ] {
            router.ip(&format!("route add {net} via {via}"))?;
        }
        for net in OF_SERVICES {
            let (family, via) = match net.contains(':') {
                true => ("-6", "fd71:1::1"),
                false => ("-4", "10.71.1.1"),
            };
            router.ip(&format!("{family} route add {net} via {via}"))?;
            router.ip(&format!("{family} route add unreachable {net} table 100"))?;
        }
        for family in ["-4", "-6"] {
            router.ip(&format!("{family} rule add iif to-1 lookup 100 pref 100"))?;
        }
        let node = self.node()?;
        node.ip(&format!("addr add {}/24 dev eth0", SECOND[0]))?;
        // Never a source by itself.
        let v6 = format!("addr add {}/64 dev eth0 nodad preferred_lft 0", SECOND[1]);
        node.ip(&v6).map(drop)
    }

    fn reach_api(&self, api: &Netns, number: u8) -> Result<()> {
        let node = self.node()?;
        let port = format!("to-{number}");
        join((api, &port), (node, "api0"))?;
        api.ip(&format!("addr add 172.31.{number}.1/24 dev {port}"))?;
        node.ip(&format!("addr add 172.31.{number}.2/24 dev api0"))?;
        node.ip(&format!("route add {API}/32 via 172.31.{number}.1"))
            .map(drop)
    }

    fn serve(&self) -> Result<Vec<Server>> {
        let start = |(place, netns): &(Place, Netns)| {
            let addresses: Vec<IpAddr> = place
                .addresses()
                .iter()
                .map(|address| address.parse())
                .collect::<Result<_, _>>()?;
            Server::start(netns, &addresses)
        };
        self.places.iter().map(start).collect()
    }
}

/// A namespace that forwards, and says whatever there is to say however often.
fn station(tag: &str, role: &str) -> Result<Netns> {
    let netns = Netns::new(tag, role)?;
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.default.send_redirects", "0"),
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv6.icmp.ratelimit", "0"),
    ] {
        netns.sysctl(name, value)?;
    }
    let burst = "/proc/sys/net/ipv4/icmp_msgs_per_sec";
    if Path::new(burst).exists() {
        // Older kernels have one number for the whole machine, which can't be written here.
        let _ = netns.sysctl("net.ipv4.icmp_msgs_per_sec", "100000");
        let _ = netns.sysctl("net.ipv4.icmp_msgs_burst", "10000");
    }
    Ok(netns)
}
