//! Traffic by the pods of the nodes and the network outside: what must be answered, and what must not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use tests::flow::{Flow, Kind, Outcome, measure, measure_while};
use tests::netns::Netns;
use tests::rack::say;
use tests::reach::{PORT, Server};

use crate::shop::{self, NODE_PORT, SHOP};

/// Probes per second of each flow.
const RATE: u32 = 20;

/// How long all ways are tried.
const TRY: Duration = Duration::from_secs(2);

/// A pod with an echo server in it.
struct End {
    netns: Netns,
    ip: IpAddr,
    _server: Server,
}

/// The pods of a node that ask and are asked.
pub(crate) struct Ends {
    node: Link,
    client: End,
    friend: End,
    vault: End,
}

impl Ends {
    pub(crate) fn on(cluster: &mut Cluster, node: &str) -> Self {
        let [client, friend, vault] =
            ["client", "friend", "vault"].map(|app| end(cluster, node, app));
        Self {
            node: Link(node.trim_start_matches('n').parse().unwrap()),
            client,
            friend,
            vault,
        }
    }
}

fn end(cluster: &mut Cluster, node: &str, app: &str) -> End {
    let pod = shop::on(cluster, node, app);
    let netns = cluster.netns_of(&pod).unwrap();
    End {
        _server: Server::start(&netns).unwrap(),
        netns,
        ip: pod.ip(false).unwrap(),
    }
}

type Flows<'a> = Vec<(&'a Netns, Flow)>;

fn flow<'a>(name: String, from: &'a Netns, kind: Kind, to: &End) -> (&'a Netns, Flow) {
    let to = (to.netns.name(), SocketAddr::from((to.ip, PORT)));
    flow_to(name, from, kind, to)
}

fn flow_to<'a>(
    name: String,
    from: &'a Netns,
    kind: Kind,
    (server, to): (&str, SocketAddr),
) -> (&'a Netns, Flow) {
    let flow = Flow {
        name,
        kind,
        is_allowed: true,
        to,
        server: server.to_owned(),
        rate: RATE,
    };
    (from, flow)
}

fn denied<'a>(name: String, from: &'a Netns, to: &End) -> (&'a Netns, Flow) {
    let (from, flow) = flow(name, from, Kind::NewTcp, to);
    let is_allowed = false;
    (from, Flow { is_allowed, ..flow })
}

/// The Service, from a pod and from outside by a node's port.
fn service<'a>(cluster: &'a Cluster, ends: &'a Ends) -> Flows<'a> {
    let found = cluster.get(&["-n", SHOP, "service", "web"]).unwrap();
    let ip: IpAddr = found["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let port = SocketAddr::from((ends.node.v4(), NODE_PORT));
    let outside = cluster.fabric().outside();
    let node = ends.node.0;
    let by_ip = (ends.client.netns.name(), SocketAddr::from((ip, 80)));
    vec![
        flow_to(
            format!("n{node} to the Service"),
            &ends.client.netns,
            Kind::NewHttp,
            by_ip,
        ),
        flow_to(
            format!("outside to the Service by n{node}"),
            outside,
            Kind::NewHttp,
            (outside.name(), port),
        ),
    ]
}

/// Within a node, and between it and the network outside.
fn of_one<'a>(cluster: &'a Cluster, ends: &'a Ends) -> Flows<'a> {
    let outside = cluster.fabric().outside();
    let Ends {
        node: Link(node),
        client,
        friend,
        vault,
    } = ends;
    vec![
        flow(format!("outside to n{node}"), outside, Kind::NewTcp, client),
        flow(format!("outside to n{node}"), outside, Kind::Udp, client),
        flow_to(
            format!("n{node} to outside"),
            &client.netns,
            Kind::EstablishedTcp,
            (outside.name(), SocketAddr::from((Link(0).v4(), PORT))),
        ),
        flow(
            format!("within n{node}"),
            &client.netns,
            Kind::EstablishedTcp,
            friend,
        ),
        flow(
            format!("friend to vault on n{node}"),
            &friend.netns,
            Kind::NewTcp,
            vault,
        ),
        denied(format!("client to vault on n{node}"), &client.netns, vault),
        denied(format!("outside to vault on n{node}"), outside, vault),
    ]
}

fn between<'a>(one: &'a Ends, other: &'a Ends) -> Flows<'a> {
    let name = |what: &str| format!("n{} to n{}{what}", one.node.0, other.node.0);
    vec![
        flow(name(""), &one.client.netns, Kind::NewTcp, &other.client),
        flow(
            name(""),
            &one.client.netns,
            Kind::EstablishedTcp,
            &other.client,
        ),
        flow(name(""), &one.client.netns, Kind::Udp, &other.client),
        flow(
            name(", friend to vault"),
            &one.friend.netns,
            Kind::NewTcp,
            &other.vault,
        ),
        denied(name(", client to vault"), &one.client.netns, &other.vault),
    ]
}

/// Every way within and between two nodes: nothing allowed is lost, nothing denied is answered.
pub(crate) fn all_ways(cluster: &Cluster, title: &str, one: &Ends, other: &Ends) {
    let _outside = Server::start(cluster.fabric().outside()).unwrap();
    let mut flows = between(one, other);
    flows.extend(between(other, one));
    for ends in [one, other] {
        flows.extend(of_one(cluster, ends));
        flows.extend(service(cluster, ends));
    }
    let outcomes = measure(&flows, TRY, || Ok(())).unwrap();
    judge(title, &flows, &outcomes);
}

/// All that does not touch the other node's pods, as long as `during` runs.
pub(crate) fn beside<T>(
    cluster: &Cluster,
    title: &str,
    ends: &Ends,
    during: impl FnOnce() -> Result<T>,
) -> T {
    let _outside = Server::start(cluster.fabric().outside()).unwrap();
    let mut flows = of_one(cluster, ends);
    flows.extend(service(cluster, ends));
    let mut result = None;
    let outcomes = measure_while(&flows, || {
        result = Some(during()?);
        Ok(())
    });
    let outcomes = outcomes.unwrap_or_else(|error| panic!("{title}: {error:#}"));
    judge(title, &flows, &outcomes);
    result.unwrap()
}

fn judge(title: &str, flows: &Flows<'_>, outcomes: &[Outcome]) {
    let (mut sent, mut lost, mut leaked, mut told) = (0, 0, 0, String::new());
    for ((_, flow), outcome) in flows.iter().zip(outcomes) {
        told += &format!(
            "\n  {} ({}, {}): sent {}, lost {}, leaked {}",
            flow.name,
            flow.kind.name(),
            if flow.is_allowed { "allowed" } else { "denied" },
            outcome.sent,
            outcome.lost,
            outcome.leaked
        );
        assert!(outcome.is_meaningful(), "{title}: too few probes{told}");
        sent += outcome.sent;
        lost += outcome.lost;
        leaked += outcome.leaked;
    }
    say(&format!(
        "{title}: sent {sent}, lost {lost}, leaked {leaked}{told}"
    ));
    assert_eq!((lost, leaked), (0, 0), "{title}");
}
