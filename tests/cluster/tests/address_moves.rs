//! An address that one node of a segment answers for, agreed by a Lease of the real API server: the node dies without a word, another
//! answers within a second; and what becomes of it while the API server is away.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::agents::PATIENCE;
use cluster::kustomization::Kustomization;
use cluster::{ControlPlane, Options, Place};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::agent::{Agent, binaries};
use tests::capture::{Capture, Seen, What};
use tests::flow::{Flow, Kind, Outcome, measure};
use tests::netns::Netns;
use tests::rack::{Host, Rack, say, sum};
use tests::require_root;
use tests::station::Station;
use tests::wait::eventually;

const NODES: usize = 3;
const V4: &str = "10.72.0.241";
const V6: &str = "fd72::f1";
const BOTH: [&str; 2] = [V4, V6];
const PORT: u16 = 80;
/// A probe every 10 ms.
const RATE: u32 = 100;
const GAP: Duration = Duration::from_millis(10);

#[test]
fn a_death_costs_less_than_a_second_and_none_is_answered_for_anew_without_the_api_server() {
    require_root!();
    let mut segment = Segment::start().unwrap();
    // The holder, and then the holder with the one that would follow it.
    for (address, at_once) in BOTH.into_iter().zip([1, 2]) {
        let dead = deaths_cost_less_than_a_second(&mut segment, address, at_once);
        dead.into_iter().for_each(|node| segment.revive(node));
    }
    an_api_server_that_is_away_takes_nothing_away(&mut segment);
}

/// So many nodes lose their links and their agents at once, the one that answers first; which these were.
fn deaths_cost_less_than_a_second(
    segment: &mut Segment,
    address: &str,
    at_once: usize,
) -> Vec<usize> {
    let order = segment.until_watched(address);
    let (dead, next) = (order[..at_once].to_vec(), order[at_once]);
    let mac = segment.mac(next);
    let capture = Capture::open(&segment.client).unwrap();
    let moves = segment.moves(address);
    let title = format!("{address}: the node that answers dies, {at_once} in all");
    let [Outcome { lost, .. }, new] = segment.measured_deaths(&title, address, &dead);
    let frames = capture.take(address).unwrap();
    say(&format!(
        "{address}: {lost} datagrams and {} connections lost, one each {GAP:?}",
        new.lost
    ));
    for lost in [lost, new.lost] {
        assert!(lost > 0, "it was in use");
        let silent = GAP * u32::try_from(lost).unwrap();
        assert!(silent < Duration::from_secs(1), "{silent:?}");
    }
    let announced: Vec<&Seen> = frames.iter().filter(|one| one.mac == mac).collect();
    let says = |what: What| announced.iter().any(|one| one.what == what);
    match address {
        V4 => assert!(
            says(What::AnnouncedRequest) && says(What::AnnouncedReply),
            "{frames:?}"
        ),
        _ => assert!(says(What::Advertised), "{frames:?}"),
    }
    let lease = segment.lease(address).unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], name(next), "{lease}");
    assert!(segment.moves(address) > moves, "it moved: {lease}");
    dead
}

/// The holder goes on; who dies then is followed when the server is back: a Lease cannot be taken without it.
fn an_api_server_that_is_away_takes_nothing_away(segment: &mut Segment) {
    let order = segment.until_watched(V4);
    let (holder, next) = (order[0], order[1]);
    segment.plane.stop_api_server();
    let [datagrams, new] = segment.measured("the API server is away", V4, || Ok(()));
    assert_eq!((datagrams.lost, new.lost), (0, 0));
    let mac = segment.mac(next);
    let title = "and the node that answers dies";
    let [datagrams, _] = segment.measured_deaths(title, V4, &[holder]);
    assert!(
        datagrams.lost * 10 > datagrams.sent * 7,
        "nobody may take its Lease: {datagrams:?}"
    );
    the_doctor_says_that_nobody_answers(&segment.stations[next], &name(holder));
    segment.plane.start_api_server();
    let began = Instant::now();
    eventually(PATIENCE, "the next to answer", || {
        let entry = segment.neighbour(V4)?;
        ensure!(entry.as_ref() == Some(&mac), "{entry:?}");
        Ok(())
    })
    .unwrap();
    say(&format!(
        "answered for {:?} after the server was back",
        began.elapsed()
    ));
}

fn the_doctor_says_that_nobody_answers(station: &Station, holder: &str) {
    let words = format!("{holder} is to answer for {V4} of IPPool segment, and nobody does");
    let findings = station.agent.findings(&[]).unwrap();
    let has = |one: &Value| {
        one["what"]
            .as_str()
            .is_some_and(|what| what.contains(&words))
    };
    let mut of_answers = findings
        .iter()
        .filter(|one| one["check"] == "address-answers");
    assert!(
        of_answers.any(|one| has(one) && one["verdict"] == "failure"),
        "{findings:#?}"
    );
}

fn name(node: usize) -> String {
    format!("node{}", node + 1)
}

/// Nodes, a server behind their Service, a client and the API server, all on one segment without a router.
struct Segment {
    // Nodes before what they run in.
    stations: Vec<Station>,
    plane: ControlPlane,
    client: Netns,
    backend: Host,
    rack: Rack,
    _scratch: tempfile::TempDir,
    _api: Netns,
}

impl Segment {
    fn start() -> Result<Self> {
        let rack = Rack::new("l2k")?;
        let host = |role: &str, number: u8| -> Result<Netns> {
            let netns = rack.empty(role)?;
            rack.plug((&netns, "eth0"), ("s1", role), None)?;
            netns.ip(&format!("addr add 10.72.0.{number}/24 dev eth0"))?;
            netns.ip(&format!("addr add fd72::{number:x}/64 dev eth0 nodad"))?;
            Ok(netns)
        };
        let (client, api) = (host("client", 200)?, host("api", 250)?);
        let backend = Host::in_place(host("backend", 100)?, "10.72.0.100")?;
        let plane = ControlPlane::start(Options {
            place: Place::Namespace {
                name: api.name().to_owned(),
                address: IpAddr::from([10, 72, 0, 250]),
            },
            service_cidrs: "10.96.0.0/16,fd96::/112".to_owned(),
            ..Options::default()
        });
        plane.install_crds();
        let text = "resources: [deploy/kubernetes]\ncomponents: [deploy/components/services, deploy/components/layer2]\n";
        let kustomization = Kustomization::new(text).unwrap();
        let folder = kustomization.folder().to_str().unwrap();
        plane.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", folder]);
        make_objects(&plane)?;
        let kubeconfig = plane.service_account_kubeconfig("portolan", "portolan-agent");
        let scratch = tempfile::Builder::new().prefix("ptl-moves-").tempdir()?;
        let mut stations = Vec::new();
        for node in 0..NODES {
            let netns = rack.machine(&name(node))?;
            let number = node + 1;
            rack.plug((&netns, "eth0"), ("s1", &format!("p{number}")), None)?;
            netns.ip(&format!("addr add 10.72.0.{number}/24 dev eth0"))?;
            netns.ip(&format!("addr add fd72::{number}/64 dev eth0 nodad"))?;
            let program = binaries()?.join("portolan");
            let agent = Agent::new(
                &name(node),
                &program,
                &netns,
                scratch.path(),
                scratch.path(),
            )?;
            let mut agent = agent.with_kubeconfig(&kubeconfig);
            agent.set_arguments(&["--features", "bgp,policy,services"]);
            agent.start(&netns)?;
            stations.push(Station { agent, netns });
        }
        Ok(Self {
            stations,
            plane,
            client,
            backend,
            rack,
            _scratch: scratch,
            _api: api,
        })
    }

    fn status(&self, node: usize) -> Result<Value> {
        let status = self.stations[node].agent.status()?;
        Ok(status["layer2"].clone())
    }

    /// Waits until one node answers, the Lease says so, and all watch each other; that one, and the others in their order.
    fn until_watched(&self, address: &str) -> Vec<usize> {
        let mut found = Vec::new();
        eventually(
            PATIENCE,
            &format!("{address}: a holder that is watched"),
            || {
                let lease = self.lease(address)?;
                let held_by =
                    |node: &usize| lease["spec"]["holderIdentity"] == name(*node).as_str();
                let holder = (0..NODES).find(held_by).context("no holder")?;
                for node in 0..NODES {
                    let layer2 = self.status(node)?;
                    let answering = &layer2["addresses"][address];
                    ensure!(answering["node"] == name(holder).as_str(), "{answering}");
                    let watched = layer2["watched"].as_object().context("watched")?;
                    let heard = watched.values().filter(|heard| **heard == true);
                    ensure!(heard.count() == NODES - 1, "{layer2}");
                    let order = answering["order"].as_array().context("an order")?;
                    let number = |one: &Value| (0..NODES).find(|node| *one == name(*node).as_str());
                    let others = order
                        .iter()
                        .filter_map(number)
                        .filter(|node| *node != holder);
                    found = [holder].into_iter().chain(others).collect();
                }
                ensure!(found.len() == NODES, "{found:?}");
                ensure!(self.probe(address)?, "the client is not answered");
                Ok(())
            },
        )
        .with_context(|| {
            let logs = self.stations.iter().map(|one| one.agent.log_end());
            logs.collect::<String>()
        })
        .unwrap();
        found
    }

    fn probe(&self, address: &str) -> Result<bool> {
        use tests::reach::{Transport, Verdict, attempt};
        let patience = Duration::from_secs(1);
        let verdict = attempt(&self.client, at(address), Transport::Tcp, patience)?;
        Ok(verdict == Verdict::Answered)
    }

    fn lease(&self, address: &str) -> Result<Value> {
        let written = match address.parse()? {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => address
                .segments()
                .map(|part| format!("{part:04x}"))
                .join("-"),
        };
        let lease = format!("portolan-l2-{written}");
        let words = ["get", "lease", "-n", "portolan", &lease, "-o", "json"];
        Ok(serde_json::from_str(&self.plane.try_kubectl(&words)?)?)
    }

    /// How often the Lease has moved.
    fn moves(&self, address: &str) -> u64 {
        let lease = self.lease(address).unwrap();
        lease["spec"]["leaseTransitions"].as_u64().unwrap()
    }

    fn mac(&self, node: usize) -> String {
        let links = self.stations[node].netns.ip_json("link show dev eth0");
        links.unwrap()[0]["address"].as_str().unwrap().to_owned()
    }

    /// What the client's kernel has for the address's hardware address.
    fn neighbour(&self, address: &str) -> Result<Option<String>> {
        let words = format!("neigh show to {address} dev eth0");
        let entries = self.client.ip_json(&words)?;
        Ok(entries[0]["lladdr"].as_str().map(str::to_owned))
    }

    /// Datagrams and connections to an address, for three seconds.
    fn measured(
        &self,
        title: &str,
        address: &str,
        during: impl FnOnce() -> Result<()>,
    ) -> [Outcome; 2] {
        let flow = |kind| Flow {
            name: format!("client → {address}"),
            kind,
            is_allowed: true,
            to: at(address),
            server: self.backend.netns.name().to_owned(),
            rate: RATE,
        };
        let flows = [Kind::Udp, Kind::NewTcp].map(|kind| (&self.client, flow(kind)));
        let outcomes = measure(&flows, Duration::from_secs(3), || {
            std::thread::sleep(Duration::from_millis(500));
            during()
        });
        let outcomes = outcomes.unwrap();
        sum(title, &flows, &outcomes).unwrap();
        [outcomes[0], outcomes[1]]
    }

    /// The same while nodes lose their links, and their agents with them.
    fn measured_deaths(&mut self, title: &str, address: &str, nodes: &[usize]) -> [Outcome; 2] {
        let outcomes = self.measured(title, address, || {
            for node in nodes {
                self.rack.cut(&format!("p{}", node + 1))?;
                self.stations[*node].agent.signal(Signal::SIGKILL)?;
            }
            Ok(())
        });
        for node in nodes {
            self.stations[*node].agent.kill().unwrap();
        }
        outcomes
    }

    fn revive(&mut self, node: usize) {
        self.rack.heal("s1", &format!("p{}", node + 1)).unwrap();
        let station = &mut self.stations[node];
        station.agent.start(&station.netns).unwrap();
    }
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), PORT)
}

/// The Nodes, the pools, the Service with its addresses, and its endpoint on the segment.
fn make_objects(plane: &ControlPlane) -> Result<()> {
    let address = |value: String| json!({"type": "InternalIP", "address": value});
    plane.kubectl(&["create", "namespace", "shop"]);
    for number in 1..=NODES {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{number}")},
            "spec": {"podCIDRs": [format!("10.48.{number}.0/24"), format!("fd48:{number}::/64")], "podCIDR": format!("10.48.{number}.0/24")},
        });
        plane.try_apply(&node.to_string())?;
        let addresses = [
            address(format!("10.72.0.{number}")),
            address(format!("fd72::{number}")),
        ];
        patch_status(
            plane,
            &["node", &format!("node{number}")],
            json!({"addresses": addresses}),
        )?;
    }
    let pool = |name: &str, cidr: &str, size: u8| {
        json!({
            "apiVersion": "portolan.io/v1alpha1", "kind": "IPPool", "metadata": {"name": name},
            "spec": {"cidr": cidr, "blockSize": size, "allowedUses": ["LoadBalancer"], "layer2": {}},
        })
    };
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "targetPort": 8080});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "ports": [port("TCP"), port("UDP")],
        },
    });
    let slice = |family: &str, address: &str| {
        let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 8080});
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": format!("web-{}", family.to_lowercase()),
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family,
            "ports": [port("TCP"), port("UDP")],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        })
    };
    for object in [
        pool("segment", "10.72.0.240/28", 28),
        pool("segment6", "fd72::f0/124", 124),
        service,
        slice("IPv4", "10.72.0.100"),
        slice("IPv6", "fd72::64"),
    ] {
        plane.try_apply(&object.to_string())?;
    }
    let ingress = BOTH.map(|address| json!({"ip": address}));
    patch_status(
        plane,
        &["service", "web", "-n", "shop"],
        json!({"loadBalancer": {"ingress": ingress}}),
    )
}

fn patch_status(plane: &ControlPlane, of: &[&str], status: Value) -> Result<()> {
    let status = json!({ "status": status }).to_string();
    let words = [&["patch"], of, &["--subresource=status", "-p", &status]].concat();
    plane.try_kubectl(&words).map(drop)
}
