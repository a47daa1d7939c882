//! Probes between pods of both nodes and the network outside, at a planned rate while something happens.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use tests::flow::{Flow, Kind, measure};
use tests::netns::Netns;
use tests::rack::sum;
use tests::reach::{PORT, Server};
use tests::wait::pause;

use crate::workloads::client_on;

/// Probes per second of each flow.
const RATE: u32 = 50;

/// What happens, and that it was over while probes were still sent: else nothing of its end was measured.
pub(crate) fn within(
    duration: Duration,
    change: impl FnOnce() -> Result<()>,
) -> impl FnOnce() -> Result<()> {
    move || {
        let start = Instant::now();
        change()?;
        let took = start.elapsed();
        ensure!(took < duration, "{took:?}: measured for {duration:?} only");
        Ok(())
    }
}

struct End {
    netns: Netns,
    v4: IpAddr,
    v6: IpAddr,
    _server: Server,
}

/// What the flows are between: the clients of both nodes, with an echo server in each, and one outside.
pub(crate) struct Traffic {
    n1: End,
    n2: Option<End>,
    _outside: Server,
}

impl Traffic {
    /// Between n1, n2 and outside.
    pub(crate) fn of_both(cluster: &mut Cluster) -> Self {
        Self {
            n1: end(cluster, "n1"),
            n2: Some(end(cluster, "n2")),
            _outside: Server::start(cluster.fabric().outside()).unwrap(),
        }
    }

    /// Between n1 and outside.
    pub(crate) fn of_n1(cluster: &mut Cluster) -> Self {
        Self {
            n1: end(cluster, "n1"),
            n2: None,
            _outside: Server::start(cluster.fabric().outside()).unwrap(),
        }
    }

    /// Sends every flow while `during` runs and gives (sent, lost).
    pub(crate) fn send(
        &self,
        cluster: &Cluster,
        title: &str,
        duration: Duration,
        during: impl FnOnce() -> Result<()>,
    ) -> (u64, u64) {
        let outside = cluster.fabric().outside();
        let mut flows = self.between_nodes();
        flows.extend([
            flow(
                "outside to n1",
                outside,
                Kind::NewTcp,
                (&self.n1.netns, self.n1.v4),
            ),
            flow(
                "outside to n1, IPv6",
                outside,
                Kind::Udp,
                (&self.n1.netns, self.n1.v6),
            ),
            flow(
                "n1 to outside",
                &self.n1.netns,
                Kind::EstablishedTcp,
                (outside, Link(0).v4().into()),
            ),
        ]);
        let outcomes = measure(&flows, duration, during).unwrap();
        sum(title, &flows, &outcomes).unwrap()
    }

    /// The same with the flows between the nodes' pods alone, where the ToR may know nothing of pods.
    pub(crate) fn send_between_nodes(
        &self,
        title: &str,
        duration: Duration,
        during: impl FnOnce() -> Result<()>,
    ) -> (u64, u64) {
        let flows = self.between_nodes();
        assert_eq!(flows.len(), 3, "of two nodes");
        let outcomes = measure(&flows, duration, during).unwrap();
        sum(title, &flows, &outcomes).unwrap()
    }

    fn between_nodes(&self) -> Vec<(&Netns, Flow)> {
        let Some(n2) = &self.n2 else {
            return Vec::new();
        };
        let (one, two) = (&self.n1.netns, &n2.netns);
        let to_two = (two, n2.v4);
        vec![
            flow("n1 to n2", one, Kind::NewTcp, to_two),
            flow("n1 to n2", one, Kind::EstablishedTcp, to_two),
            flow("n2 to n1, IPv6", two, Kind::Udp, (one, self.n1.v6)),
        ]
    }

    /// Proves that a loss would be seen: the ToR forwards nothing of IPv4 for a fifth of a second.
    pub(crate) fn prove(&self, cluster: &Cluster) {
        let (sent, lost) = self.send(
            cluster,
            "control run: a cut of 200 ms",
            Duration::from_secs(3),
            || {
                pause(Duration::from_secs(1))?;
                cluster.fabric().tor().sysctl("net.ipv4.ip_forward", "0")?;
                pause(Duration::from_millis(200))?;
                cluster.fabric().tor().sysctl("net.ipv4.ip_forward", "1")
            },
        );
        assert!(
            lost > 0,
            "a cut of 200 ms lost nothing of {sent}: the probes see no loss"
        );
    }
}

fn end(cluster: &mut Cluster, node: &str) -> End {
    let pod = client_on(cluster, node);
    let netns = cluster.netns_of(&pod).unwrap();
    End {
        _server: Server::start(&netns).unwrap(),
        netns,
        v4: pod.ip(false).unwrap(),
        v6: pod.ip(true).unwrap(),
    }
}

fn flow<'a>(name: &str, from: &'a Netns, kind: Kind, to: (&Netns, IpAddr)) -> (&'a Netns, Flow) {
    let flow = Flow {
        name: name.to_owned(),
        kind,
        is_allowed: true,
        to: SocketAddr::from((to.1, PORT)),
        server: to.0.name().to_owned(),
        rate: RATE,
    };
    (from, flow)
}
