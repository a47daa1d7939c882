//! Egress SNAT beside the real kube-proxy: outside sees nodes, pods and Services' endpoints see pods.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use tests::netns::Netns;
use tests::reach::Transport;
use tests::seen::{Teller, ask};
use tests::wait::eventually;

use crate::workloads::{SHOP, client_on, curl};

/// Where the servers outside and in the clients say whom they see.
const TELLS: u16 = 8179;
const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(3);

/// Pools over the cluster's Pod CIDRs that give no addresses, as docs/egress.md has them.
const POOLS: &str = r"
apiVersion: portolan.io/v1alpha1
kind: IPPool
metadata: {name: world}
spec: {cidr: 10.244.0.0/16, natOutgoing: true, nodeSelector: '!all()'}
---
apiVersion: portolan.io/v1alpha1
kind: IPPool
metadata: {name: world6}
spec: {cidr: 'fd00:10:244::/56', blockSize: 122, natOutgoing: true, nodeSelector: '!all()'}
";

/// One node's client, and what is said of it.
struct Client {
    netns: Netns,
    pod: cluster::pods::Pod,
    link: Link,
}

impl Client {
    fn address(&self, is_v6: bool) -> IpAddr {
        self.pod.ip(is_v6).unwrap()
    }

    fn node(&self, is_v6: bool) -> IpAddr {
        of_link(self.link, is_v6)
    }
}

fn of_link(link: Link, is_v6: bool) -> IpAddr {
    if is_v6 {
        link.v6().into()
    } else {
        link.v4().into()
    }
}

/// Whom `from` is taken for at an address, by a new flow.
fn seen(from: &Netns, at: IpAddr, transport: Transport) -> Result<IpAddr> {
    let seen = ask(from, SocketAddr::new(at, TELLS), transport, ANSWER)?;
    seen.ok_or_else(|| anyhow::anyhow!("no answer of {at} by {transport}"))
}

/// Waits until both clients, in both families, are seen outside as their nodes, or as themselves again.
fn wait_outside(clients: &[Client], is_masqueraded: bool) {
    let what = format!("outside to see nodes: {is_masqueraded}");
    eventually(PATIENCE, &what, || -> Result<()> {
        for (client, is_v6) in each(clients) {
            let seen = seen(&client.netns, of_link(Link(0), is_v6), Transport::Tcp)?;
            let expected = if is_masqueraded {
                client.node(is_v6)
            } else {
                client.address(is_v6)
            };
            ensure!(seen == expected, "{}: {seen}", client.pod.name);
        }
        Ok(())
    })
    .unwrap();
}

fn each(clients: &[Client]) -> impl Iterator<Item = (&Client, bool)> {
    let both = |client| [(client, false), (client, true)];
    clients.iter().flat_map(both)
}

/// Who a web server's endpoint says that asked it by the Service, with the endpoint that answered.
fn by_service(cluster: &Cluster, client: &Client, service_ip: &str) -> (IpAddr, String) {
    let host = if service_ip.contains(':') {
        format!("[{service_ip}]")
    } else {
        service_ip.to_owned()
    };
    // One connection: both answers are of one endpoint.
    let url = format!("http://{host}/clientip");
    let command = format!("{} http://{host}/hostname", curl(&url));
    let said = cluster.exec(&client.pod, &command).unwrap();
    let (address, name) = said.rsplit_once("web-").unwrap();
    let address: SocketAddr = address.trim().parse().unwrap();
    (address.ip().to_canonical(), format!("web-{name}"))
}

/// With pools over the Pod CIDRs: outside sees nodes; pods and nodes see pods, by their address or by a Service, whichever
/// node's endpoint answers. Without the pools outside sees pods again.
pub(crate) fn outside_sees_nodes_and_endpoints_of_services_see_pods(cluster: &mut Cluster) {
    let clients = [("n1", Link(1)), ("n2", Link(2))].map(|(node, link)| {
        let pod = client_on(cluster, node);
        let netns = cluster.netns_of(&pod).unwrap();
        Client { netns, pod, link }
    });
    let outside = cluster.fabric().outside();
    let _tellers: Vec<Teller> = [outside, &clients[0].netns, &clients[1].netns]
        .into_iter()
        .map(|netns| Teller::start(netns, TELLS).unwrap())
        .collect();
    wait_outside(&clients, false);
    cluster.plane().apply(POOLS);
    wait_outside(&clients, true);
    let mut right = 0;
    for (client, is_v6) in each(&clients) {
        let own = client.address(is_v6);
        for transport in [Transport::Tcp, Transport::Udp] {
            let at = of_link(Link(0), is_v6);
            let by = seen(&client.netns, at, transport).unwrap();
            assert_eq!(by, client.node(is_v6), "outside, by {transport}");
            for other in &clients {
                let at = other.address(is_v6);
                assert_eq!(seen(&client.netns, at, transport).unwrap(), own, "{at}");
                right += 1;
            }
            let back = seen(outside, own, transport).unwrap();
            assert_eq!(back, at, "outside to a pod");
            right += 2;
        }
        right += services_see(cluster, client, is_v6);
    }
    let pools = ["delete", "ippool", "world", "world6"];
    cluster.kubectl(&pools);
    wait_outside(&clients, false);
    cluster.tell(&format!(
        "egress SNAT beside kube-proxy: {right} answers, each with the right address"
    ));
}

/// Endpoints of both nodes, asked by the Service's address, see the pod itself: so many answers.
fn services_see(cluster: &Cluster, client: &Client, is_v6: bool) -> usize {
    let service = cluster.get(&["-n", SHOP, "service", "web"]).unwrap();
    let service_ip = service["spec"]["clusterIPs"][usize::from(is_v6)].as_str();
    let mut answered = std::collections::BTreeSet::new();
    let mut asked = 0;
    while answered.len() < 2 {
        assert!(asked < 60, "of one endpoint only: {answered:?}");
        let (seen, name) = by_service(cluster, client, service_ip.unwrap());
        assert_eq!(seen, client.address(is_v6), "{name}");
        answered.insert(name);
        asked += 1;
    }
    asked
}
