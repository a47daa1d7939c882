//! Three nodes, a server behind their Service, and a client, all on one segment without a router.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::flow::{Flow, Kind};
use tests::netns::Netns;
use tests::rack::{Host, Rack};
use tests::reach::{Transport, Verdict, attempt};
use tests::station::Station;
use tests::wait::eventually;

pub(crate) const NODES: usize = 3;
/// The Service's addresses, of a pool in the segment's subnets.
pub(crate) const V4: &str = "10.72.0.241";
pub(crate) const V6: &str = "fd72::f1";
pub(crate) const BOTH: [&str; 2] = [V4, V6];
const PORT: u16 = 80;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The segment.
pub(crate) struct Segment {
    // Nodes before what they run in.
    pub(crate) stations: Vec<Station>,
    pub(crate) client: Netns,
    backend: Host,
    pub(crate) rack: Rack,
}

/// `interface` is the one that the pool of IPv4 names, if any.
fn pools(interface: Option<&str>) -> String {
    let pool = |name: &str, cidr: &str, size: u8, layer2: String| {
        format!(
            "apiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: \"{cidr}\", blockSize: {size}, allowedUses: [LoadBalancer], layer2: {layer2}}}\n"
        )
    };
    let named = interface.map_or_else(String::new, |name| format!("interfaces: [{name}]"));
    let v6 = pool("segment6", "fd72::f0/124", 124, "{}".to_owned());
    let v4 = pool("segment", "10.72.0.240/28", 28, format!("{{{named}}}"));
    format!("{v4}---\n{v6}")
}

fn service() -> String {
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": 8080});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd96::10"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [port("TCP"), port("UDP")],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": V4}, {"ip": V6}]}},
    })
    .to_string()
}

fn node(number: usize, label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: node{number}\n  labels: {{{label}}}\nspec: {{podCIDRs: [10.48.{number}.0/24, \"fd48:{number}::/64\"]}}\nstatus:\n  addresses: [{{type: InternalIP, address: 10.72.0.{number}}}, {{type: InternalIP, address: \"fd72::{number}\"}}]\n"
    )
}

impl Segment {
    /// All agents started and in sync.
    pub(crate) fn start(tag: &str) -> Result<Self> {
        let rack = Rack::new(tag)?;
        let host = |role: &str, last: &str, last6: &str| -> Result<Netns> {
            let netns = rack.empty(role)?;
            rack.plug((&netns, "eth0"), ("s1", role), None)?;
            netns.ip(&format!("addr add 10.72.0.{last}/24 dev eth0"))?;
            netns.ip(&format!("addr add fd72::{last6}/64 dev eth0 nodad"))?;
            Ok(netns)
        };
        let client = host("client", "200", "c8")?;
        let backend = Host::in_place(host("backend", "100", "64")?, "10.72.0.100")?;
        rack.manifest(
            "namespace.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
        )?;
        rack.manifest("pools.yaml", &pools(None))?;
        rack.manifest("service.yaml", &service())?;
        let mut stations = Vec::new();
        for number in 1..=NODES {
            let name = format!("node{number}");
            let netns = rack.machine(&name)?;
            rack.plug((&netns, "eth0"), ("s1", &format!("p{number}")), None)?;
            netns.ip(&format!("addr add 10.72.0.{number}/24 dev eth0"))?;
            netns.ip(&format!("addr add fd72::{number}/64 dev eth0 nodad"))?;
            rack.manifest(&format!("{name}.yaml"), &node(number, ""))?;
            let mut station = Station::new(&name, netns, &rack)?;
            station
                .agent
                .set_arguments(&["--features", "bgp,policy,services"]);
            stations.push(station);
        }
        let mut segment = Self {
            stations,
            client,
            backend,
            rack,
        };
        segment.serve(true)?;
        for station in &mut segment.stations {
            station.start()?;
        }
        segment.wait_synced()?;
        segment.wait_for_addresses()?;
        Ok(segment)
    }

    /// A node that forwards asks for neighbours by its link-local address, and not before that one is its own for sure.
    fn wait_for_addresses(&self) -> Result<()> {
        let nodes = self.stations.iter().map(|station| &station.netns);
        let all: Vec<&Netns> = nodes.chain([&self.client, &self.backend.netns]).collect();
        eventually(PATIENCE, "addresses without a doubt", || {
            for netns in &all {
                let tentative = netns.ip("-6 addr show tentative")?;
                ensure!(tentative.trim().is_empty(), "{tentative}");
            }
            Ok(())
        })
    }

    /// Whether the Service has an endpoint.
    pub(crate) fn serve(&self, is_ready: bool) -> Result<()> {
        let slice = |family: &str, address: &str| {
            let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 8080});
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": "shop", "name": format!("web-{}", family.to_lowercase()),
                             "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": family,
                "ports": [port("TCP"), port("UDP")],
                "endpoints": [{"addresses": [address], "conditions": {"ready": is_ready}}],
            })
            .to_string()
        };
        let both = [slice("IPv4", "10.72.0.100"), slice("IPv6", "fd72::64")];
        self.rack.manifest("slices.yaml", &both.join("\n---\n"))
    }

    /// Has the pool of IPv4 name an interface, or none.
    pub(crate) fn name_interface(&self, interface: Option<&str>) -> Result<()> {
        self.rack.manifest("pools.yaml", &pools(interface))
    }

    /// The machine that serves: a stranger to the addresses.
    pub(crate) fn server(&self) -> &Netns {
        &self.backend.netns
    }

    /// Whether a node takes part in load balancing.
    pub(crate) fn exclude(&self, index: usize, is_excluded: bool) -> Result<()> {
        let label = match is_excluded {
            true => "node.kubernetes.io/exclude-from-external-load-balancers: ''",
            false => "",
        };
        let number = index + 1;
        self.rack
            .manifest(&format!("node{number}.yaml"), &node(number, label))
    }

    pub(crate) fn wait_synced(&mut self) -> Result<()> {
        let mut stations = self.stations.iter_mut();
        stations.try_for_each(|station| station.agent.wait_synced())
    }

    /// The nodes that say that they answer for an address.
    pub(crate) fn answering(&self, address: &str) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, station) in self.stations.iter().enumerate() {
            // One that is stopped says nothing.
            let Ok(status) = station.agent.status() else {
                continue;
            };
            if status["layer2"]["addresses"][address]["node"] == station.agent.node() {
                found.push(index);
            }
        }
        found
    }

    /// The nodes in their order for an address, as one of them says.
    pub(crate) fn order(&self, address: &str) -> Result<Vec<usize>> {
        let status = self.stations[0].agent.status()?;
        let order = status["layer2"]["addresses"][address]["order"].clone();
        let order = order.as_array().context("an order")?.iter();
        let index = |node: &serde_json::Value| {
            let mut stations = self.stations.iter();
            stations.position(|station| *node == station.agent.node())
        };
        order.map(|node| index(node).context("a node")).collect()
    }

    /// Waits until just that node answers for an address, for all that the nodes say.
    pub(crate) fn wait_for(&self, address: &str, node: usize) {
        eventually(PATIENCE, &format!("{address} at node {}", node + 1), || {
            let answering = self.answering(address);
            ensure!(answering == [node], "{answering:?}");
            Ok(())
        })
        .unwrap();
    }

    /// The hardware address of a node, as the client would see it.
    pub(crate) fn mac(&self, node: usize) -> Result<String> {
        let links = self.stations[node].netns.ip_json("link show dev eth0")?;
        let mac = links[0]["address"].as_str();
        Ok(mac.context("a hardware address")?.to_owned())
    }

    /// What the client's kernel has for the address's hardware address.
    pub(crate) fn neighbour(&self, address: &str) -> Result<Option<String>> {
        let entries = self
            .client
            .ip_json(&format!("neigh show to {address} dev eth0"))?;
        Ok(entries[0]["lladdr"].as_str().map(str::to_owned))
    }

    pub(crate) fn forget_neighbours(&self) -> Result<()> {
        for family in ["-4", "-6"] {
            self.client.ip(&format!("{family} neigh flush dev eth0"))?;
        }
        Ok(())
    }

    pub(crate) fn ask(&self, address: &str) -> Verdict {
        attempt(
            &self.client,
            at(address),
            Transport::Tcp,
            Duration::from_secs(2),
        )
        .unwrap()
    }

    pub(crate) fn flow(&self, address: &str, kind: Kind, rate: u32) -> (&Netns, Flow) {
        let flow = Flow {
            name: format!("client → {address}"),
            kind,
            is_allowed: true,
            to: at(address),
            server: self.backend.netns.name().to_owned(),
            rate,
        };
        (&self.client, flow)
    }
}

pub(crate) fn at(address: &str) -> SocketAddr {
    let address: IpAddr = address.parse().unwrap();
    SocketAddr::new(address, PORT)
}
