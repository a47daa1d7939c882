//! Overlays and components of deploy/, changed from one to another in the running cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::{Link, TOR_AS};
use cluster::kustomization::{Kustomization, deploy};
use cluster::portolan::{AGENT, NAMESPACE};
use serde_json::Value;
use tests::frr::Frr;
use tests::netns::run;
use tests::wait::{eventually, pause};

use crate::bgp::{pod_cidrs, route, set_tor, wait_established};
use crate::traffic::{Traffic, within};

const PATIENCE: Duration = Duration::from_secs(90);
const LINKS: [Link; 2] = [Link(1), Link(2)];

/// How long a change of the overlay is measured; what it needs is waited for within.
const CHANGE: Duration = Duration::from_secs(15);
/// The same with an update of the agents in it.
const UPDATE: Duration = Duration::from_secs(45);

/// `deploy/overlays/tor-per-rack` as a user of this fabric takes it, with all components.
pub(crate) fn tor_per_rack(cluster: &Cluster, with_mesh: bool) -> Kustomization {
    let url = cluster.plane().url();
    let (host, port) = url.trim_start_matches("https://").rsplit_once(':').unwrap();
    let mut text = format!(
        "resources: [deploy/overlays/tor-per-rack]
components: [deploy/components/bfd, deploy/components/not-ready-taint, deploy/components/api-server]
patches:
  - target: {{kind: BGPConfiguration}}
    patch: |
      - {{op: replace, path: /spec/nodeToNodeMeshEnabled, value: {with_mesh}}}
  - target: {{kind: DaemonSet, name: portolan-agent}}
    patch: |
      - {{op: replace, path: /spec/template/spec/containers/0/env/3/value, value: {host}}}
      - {{op: replace, path: /spec/template/spec/containers/0/env/4/value, value: '{port}'}}
"
    );
    for link in LINKS {
        text += &format!(
            "  - target: {{kind: BGPPeer, name: tor-r{}}}
    patch: |
      - {{op: replace, path: /spec/peerAddress, value: {}}}
      - {{op: replace, path: /spec/asNumber, value: {TOR_AS}}}
",
            link.0,
            link.tor_v4()
        );
    }
    Kustomization::new(&text).unwrap()
}

/// A cable from node to node, by which each knows the other's own addresses. Of pods it knows nothing.
struct Cable {
    netns: [String; 2],
    /// The Pod CIDRs of the other node.
    far: [Vec<String>; 2],
}

impl Cable {
    fn plug(cluster: &mut Cluster) -> Self {
        let netns = ["n1", "n2"].map(|node| cluster.node(node).netns().name().to_owned());
        let [one, two] = &netns;
        let words = format!("link add cable netns {one} type veth peer name cable netns {two}");
        run("ip", &words.split(' ').collect::<Vec<_>>()).unwrap();
        for (here, there) in [(1, 2), (2, 1)] {
            let netns = cluster.node(&format!("n{here}")).netns();
            let far = Link(there);
            for words in [
                "link set cable up".to_owned(),
                format!("addr add 10.179.12.{here}/24 dev cable"),
                format!("addr add fd00:179:12::{here}/64 dev cable nodad"),
                format!("route add {} via 10.179.12.{there} dev cable", far.v4()),
                format!(
                    "-6 route add {} via fd00:179:12::{there} dev cable",
                    far.v6()
                ),
            ] {
                netns.ip(&words).unwrap();
            }
        }
        let far = ["n2", "n1"].map(|node| pod_cidrs(cluster, node));
        Self { netns, far }
    }

    /// What each node's kernel has for the other's pods.
    fn routes(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for (netns, far) in self.netns.iter().zip(&self.far) {
            for cidr in far {
                let family = if cidr.contains(':') { "-6" } else { "-4" };
                all.push(run("ip", &["-n", netns, family, "route", "show", cidr])?);
            }
        }
        ensure!(all.len() == 4, "{all:?}");
        Ok(all)
    }

    /// Waits until all of the four ways lead over the cable, or none does.
    fn wait_used(&self, is_used: bool) -> Result<()> {
        eventually(PATIENCE, &format!("pods by the cable: {is_used}"), || {
            let routes = self.routes()?;
            let is_learned = routes.iter().all(|route| route.contains("proto 179"));
            ensure!(is_learned, "{routes:?}");
            let used = routes.iter().filter(|route| route.contains("dev cable"));
            ensure!(used.count() == if is_used { 4 } else { 0 }, "{routes:?}");
            Ok(())
        })
    }
}

/// What the ToR says of the node on a link.
fn tor_neighbor(cluster: &Cluster, link: Link) -> Result<Value> {
    let frr = cluster.fabric().frr();
    let found = frr.json(&format!("show bgp neighbors {} json", link.v4()))?;
    Ok(found[link.v4().to_string()].clone())
}

/// How often the ToR's sessions have come up.
fn tor_sessions(cluster: &Cluster) -> Result<Vec<u64>> {
    let count = |link: Link| {
        let neighbor = tor_neighbor(cluster, link)?;
        let count = &neighbor["connectionsEstablished"];
        count
            .as_u64()
            .ok_or_else(|| anyhow::anyhow!("{link:?}: {neighbor}"))
    };
    LINKS.into_iter().map(count).collect()
}

/// The sessions of a node that are Established, and since when.
pub(crate) fn sessions(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, String>> {
    let found = cluster.get(&["bgpnodestatus", node])?;
    let list = found["status"]["sessions"].as_array().cloned();
    let established = list.unwrap_or_default().into_iter().filter_map(|one| {
        let is_up = one["state"] == "Established";
        let word = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        is_up.then(|| (word("name"), word("since")))
    });
    Ok(established.collect())
}

fn wait_sessions(cluster: &Cluster, node: &str, names: &[&str]) -> BTreeMap<String, String> {
    let what = format!("the sessions of {node}");
    eventually(PATIENCE, &what, || -> Result<_> {
        let found = sessions(cluster, node)?;
        ensure!(found.keys().eq(names.iter()), "{found:?}");
        Ok(found)
    })
    .unwrap()
}

/// The mesh is turned on beside the ToR's peers, these are taken away, come back as those of another overlay, with BFD of
/// its own, and the mesh goes: sessions that no change concerns stay, and nothing between pods is lost.
pub(crate) fn overlays_change_live_and_lose_nothing(cluster: &mut Cluster) {
    let cable = Cable::plug(cluster);
    let traffic = Traffic::of_both(cluster);
    let before = tor_sessions(cluster).unwrap();
    let (sent, lost) = traffic.send(
        cluster,
        "the mesh turned on",
        CHANGE,
        within(CHANGE, || {
            let plane = cluster.plane();
            plane.try_kubectl(&["apply", "-k", &deploy("overlays/full-mesh")])?;
            cable.wait_used(true)
        }),
    );
    assert_eq!(lost, 0, "of {sent}");
    assert_eq!(tor_sessions(cluster).unwrap(), before, "the ToR's sessions");
    let both = ["mesh/n2", "rack-r1"];
    let mesh = wait_sessions(cluster, "n1", &both)["mesh/n2"].clone();
    let (sent, lost) = traffic.send_between_nodes("the ToR's peers removed", CHANGE, || {
        let peers = ["delete", "bgppeer", "rack-r1", "rack-r2"];
        cluster.plane().try_kubectl(&peers).map(drop)
    });
    assert_eq!(lost, 0, "of {sent}");
    for cidr in cable.far.iter().flatten() {
        eventually(PATIENCE, "the ToR to know no pods", || -> Result<()> {
            let routes = route(cluster, cidr)?;
            ensure!(routes.trim().is_empty(), "{routes}");
            Ok(())
        })
        .unwrap();
    }
    let after = wait_sessions(cluster, "n1", &["mesh/n2"]);
    assert_eq!(after["mesh/n2"], mesh, "the mesh's session began anew");
    cluster.tell("full mesh: pods reach each other, and the ToR knows none of them");

    prepare_tor(cluster);
    let (sent, lost) = traffic.send_between_nodes(
        "to tor-per-rack",
        UPDATE,
        within(UPDATE, || {
            let folder = tor_per_rack(cluster, true);
            let folder = folder.folder().to_string_lossy();
            cluster.plane().try_kubectl(&["apply", "-k", &folder])?;
            wait_bfd_pods(cluster)?;
            cluster.wait_rollout(NAMESPACE, AGENT);
            LINKS
                .into_iter()
                .for_each(|link| wait_established(cluster, link));
            Ok(())
        }),
    );
    assert_eq!(lost, 0, "of {sent}");
    let before = tor_sessions(cluster).unwrap();
    let (sent, lost) = traffic.send(
        cluster,
        "the mesh turned off",
        CHANGE,
        within(CHANGE, || {
            let folder = tor_per_rack(cluster, false);
            let folder = folder.folder().to_string_lossy();
            cluster.plane().try_kubectl(&["apply", "-k", &folder])?;
            cable.wait_used(false)
        }),
    );
    assert_eq!(lost, 0, "of {sent}");
    assert_eq!(tor_sessions(cluster).unwrap(), before, "the ToR's sessions");
    cluster.tell("a ToR per rack, with passwords and BFD");
}

/// The ToR's side of the overlay, and the Secret, as its comment has it.
fn prepare_tor(cluster: &mut Cluster) {
    cluster.fabric_mut().start_bfdd().unwrap();
    for link in LINKS {
        let neighbor = format!("neighbor {}", link.v4());
        set_tor(cluster, &format!("{neighbor} password of-rack-{}", link.0));
        set_tor(cluster, &format!("{neighbor} bfd 5 300 300"));
    }
    let secret = "-n portolan create secret generic bgp-passwords --from-literal=r1=of-rack-1 --from-literal=r2=of-rack-2";
    cluster.kubectl(&secret.split(' ').collect::<Vec<_>>());
}

/// n1 reflects: what n2 tells it reaches a third node, which is FRR, and nobody peers with anybody else. The sessions with
/// the ToR are not concerned.
pub(crate) fn a_reflector_passes_on_what_its_clients_tell(cluster: &mut Cluster) {
    // Reflection is within one AS. A change of that, or of the cluster ID, ends a node's sessions: first of all.
    let id = "portolan.io/route-reflector-cluster-id=10.255.0.1";
    cluster.kubectl(&["annotate", "node", "n1", "portolan.io/as-number-", id]);
    cluster.kubectl(&["annotate", "node", "n2", "portolan.io/as-number-"]);
    let frr = third_node(cluster);
    for link in LINKS {
        eventually(PATIENCE, "the ToR to see one AS", || -> Result<()> {
            let neighbor = tor_neighbor(cluster, link)?;
            ensure!(neighbor["remoteAs"] == 64512, "{neighbor}");
            ensure!(neighbor["bgpState"] == "Established", "{neighbor}");
            Ok(())
        })
        .unwrap();
    }
    let before = tor_sessions(cluster).unwrap();
    cluster.kubectl(&["label", "node", "n1", "portolan.io/route-reflector="]);
    cluster.kubectl(&[
        "apply",
        "-f",
        &deploy("overlays/route-reflectors/network.yaml"),
    ]);
    let of_n1 = ["clients/n2", "clients/n3", "tor-r1"];
    wait_sessions(cluster, "n1", &of_n1);
    wait_sessions(cluster, "n2", &["clients/n1", "tor-r2"]);
    assert_eq!(tor_sessions(cluster).unwrap(), before, "the ToR's sessions");
    let mut seen = 0;
    for cidr in pod_cidrs(cluster, "n2") {
        let family = if cidr.contains(':') { "ipv6" } else { "ipv4" };
        let words = format!("show bgp {family} unicast {cidr} json");
        let path = eventually(PATIENCE, "a reflected path", || -> Result<Value> {
            let found = frr.json(&words)?;
            let path = found.pointer("/paths/0").cloned();
            path.ok_or_else(|| anyhow::anyhow!("{found}"))
        })
        .unwrap();
        assert_eq!(path["clusterList"]["list"][0], "10.255.0.1", "{path}");
        assert!(path["originatorId"].is_string(), "{path}");
        assert_eq!(path["peer"]["peerId"], "10.179.1.2", "{path}");
        seen += 1;
    }
    assert_eq!(seen, 2);
    let peers = ["clients", "between-reflectors"];
    cluster.kubectl(&[&["delete", "bgppeer"][..], &peers].concat());
    cluster.kubectl(&["delete", "node", "n3"]);
    cluster.kubectl(&["label", "node", "n1", "portolan.io/route-reflector-"]);
    wait_sessions(cluster, "n1", &["tor-r1"]);
    wait_sessions(cluster, "n2", &["tor-r2"]);
    assert_eq!(tor_sessions(cluster).unwrap(), before, "the ToR's sessions");
    cluster.tell("route reflectors: both families reflected to a third node, and taken back");
}

/// A Node without a kubelet, whose BGP is FRR's. No pod tolerates it.
fn third_node(cluster: &Cluster) -> Third {
    let link = Link(3);
    let netns = cluster.fabric().plug("n3", link).unwrap();
    let reflector = Link(1).v4();
    let config = format!(
        "router bgp 64512
 bgp router-id {}
 neighbor {reflector} remote-as 64512
 neighbor {reflector} timers connect 2
 address-family ipv6 unicast
  neighbor {reflector} activate
 exit-address-family
",
        link.v4()
    );
    let frr = Frr::start(&netns, &config).unwrap();
    cluster.plane().apply(&format!(
        "apiVersion: v1
kind: Node
metadata:
  name: n3
  annotations: {{portolan.io/ipv4-address: {}, portolan.io/ipv6-address: '{}'}}
spec:
  taints: [{{key: example.org/frr, effect: NoSchedule}}]
",
        link.v4(),
        link.v6()
    ));
    Third { frr, _netns: netns }
}

/// Its daemons, and what they run in.
struct Third {
    frr: Frr,
    _netns: tests::netns::Netns,
}

impl std::ops::Deref for Third {
    type Target = Frr;

    fn deref(&self) -> &Frr {
        &self.frr
    }
}

/// Waits for BFD's pods: their DaemonSet rolls nothing out by itself, so that `rollout status` has no word for it.
pub(crate) fn wait_bfd_pods(cluster: &Cluster) -> Result<()> {
    eventually(PATIENCE, "BFD's pods", || {
        let daemons = cluster.get(&["-n", NAMESPACE, "daemonset", "portolan-bfd"])?;
        ensure!(daemons["status"]["numberReady"] == 2, "{daemons}");
        Ok(())
    })
}

/// How often BFD has gone down on the ToR; both sessions are up.
pub(crate) fn bfd_downs(cluster: &Cluster) -> Result<u64> {
    let frr = cluster.fabric().frr();
    let peers = frr.json("show bfd peers json")?;
    let peers = peers.as_array().cloned().unwrap_or_default();
    let is_up = peers.len() == 2 && peers.iter().all(|peer| peer["status"] == "up");
    ensure!(is_up, "{peers:?}");
    let counters = frr.json("show bfd peers counters json")?;
    let downs = counters.as_array().into_iter().flatten();
    Ok(downs.filter_map(|peer| peer["session-down"].as_u64()).sum())
}

pub(crate) fn wait_bfd(cluster: &Cluster) -> u64 {
    eventually(PATIENCE, "BFD up on the ToR", || bfd_downs(cluster)).unwrap()
}

/// A moment in which BFD would have gone down: more than the ToR's Detection Time.
pub(crate) fn detection_time() {
    pause(Duration::from_secs(3)).unwrap();
}
