//! What one agent does for the whole cluster, on the real API server: blocks of nodes that are gone, and who goes on when
//! that agent is killed. The agents' clocks are put forward; the server's is not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Result, ensure};
use api::{Event, Key};
use cluster::{ControlPlane, Request, Timeline};
use datastore::{ClusterSettings, NodeWrites, ObjectCondition, StatusWriter, watch_kubernetes};
use serde_json::{Value, json};
use tests::wait::eventually;

const SOON: Duration = Duration::from_secs(60);
/// How long nothing must happen.
const A_WHILE: Duration = Duration::from_secs(3);
/// How long a node must have been missing; docs/design/datastore.md.
const GRACE: Duration = Duration::from_secs(300);
/// More than the waits before somebody takes the Lease.
const TURN: Duration = Duration::from_secs(45);
const AGENT: &str = "system:serviceaccount:portolan:portolan-agent";

/// One agent, with a clock of its own; it is killed by being dropped.
struct Agent {
    node: String,
    status: StatusWriter,
    timeline: Timeline,
}

impl Agent {
    fn start(plane: &ControlPlane, node: &str) -> Self {
        let settings = ClusterSettings {
            kubeconfig: Some(plane.service_account_kubeconfig("portolan", "portolan-agent")),
            node: node.to_owned(),
            namespace: "portolan".to_owned(),
            services: false,
            node_writes: NodeWrites::default(),
        };
        let timeline = Timeline::start().unwrap();
        let status = timeline.run(async move {
            let mut source = watch_kubernetes(&settings).await.unwrap();
            while source.events.recv().await != Some(Event::InSync) {}
            let status = source.status.clone();
            tokio::spawn(async move { while source.events.recv().await.is_some() {} });
            status
        });
        Self {
            node: node.to_owned(),
            status: status.unwrap(),
            timeline,
        }
    }

    fn say_of(&self, peers: usize) {
        let condition = |number| ObjectCondition {
            key: Key::BgpPeer(format!("tor{number}")),
            type_: "Accepted".to_owned(),
            status: true,
            reason: "Valid".to_owned(),
            message: "fine".to_owned(),
        };
        let conditions: Vec<_> = (0..peers).map(condition).collect();
        let status = self.status.clone();
        let said = async move { status.publish_conditions(conditions).await };
        self.timeline.run(said).unwrap().unwrap();
    }
}

fn plane() -> ControlPlane {
    let plane = ControlPlane::start(cluster::Options::default());
    plane.install_crds();
    plane.apply(include_str!("../../../deploy/kubernetes/namespace.yaml"));
    plane.apply(include_str!("../../../deploy/kubernetes/rbac.yaml"));
    plane
}

fn make_node(plane: &ControlPlane, name: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    plane.apply(&node.to_string());
}

fn make_peer(plane: &ControlPlane, number: usize) {
    let peer = json!({
        "apiVersion": "portolan.io/v1alpha1", "kind": "BGPPeer", "metadata": {"name": format!("tor{number}")},
        "spec": {"peerAddress": format!("192.0.2.{}", number + 1), "asNumber": 64_600},
    });
    plane.apply(&peer.to_string());
}

fn get(plane: &ControlPlane, words: &[&str]) -> Result<Value> {
    let text = plane.try_kubectl(&[&["get", "-o", "json"], words].concat())?;
    Ok(serde_json::from_str(&text)?)
}

/// The nodes whose blocks there are.
fn holders(plane: &ControlPlane) -> Result<Vec<String>> {
    let blocks = get(plane, &["ipamblocks"])?;
    let blocks = blocks["items"].as_array().unwrap().iter();
    let mut nodes: Vec<String> = blocks
        .map(|block| block["spec"]["node"].as_str().unwrap().to_owned())
        .collect();
    nodes.sort();
    Ok(nodes)
}

fn ensure_holders(plane: &ControlPlane, wanted: &[&str]) -> Result<()> {
    let found = holders(plane)?;
    ensure!(found == wanted, "blocks of {found:?}");
    Ok(())
}

/// What agents asked of this kind: `delete ipamblocks`.
fn asked(plane: &ControlPlane, words: &str) -> Vec<Request> {
    let requests = plane.requests().into_iter();
    requests
        .filter(|one| one.user == AGENT && format!("{} {}", one.verb, one.resource) == words)
        .collect()
}

fn holder_of_the_lease(plane: &ControlPlane) -> Result<String> {
    let lease = get(plane, &["lease", "-n", "portolan", "portolan-status"])?;
    let holder = lease["spec"]["holderIdentity"].as_str();
    Ok(holder.unwrap_or_default().to_owned())
}

/// Of every deletion of a block that was asked for: what it said of the object.
fn preconditions(plane: &ControlPlane) -> Vec<Value> {
    let log = std::fs::read_to_string(plane.dir().join("audit.log")).unwrap();
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| event["verb"] == "delete" && event["objectRef"]["resource"] == "ipamblocks")
        .map(|event| event["requestObject"]["preconditions"].clone())
        .collect()
}

#[test]
fn blocks_of_a_node_that_stays_away_are_given_back_once_no_pod_of_it_is_left_and_others_stay() {
    let plane = plane();
    for (number, node) in ["n1", "n2", "back", "gone", "left"].iter().enumerate() {
        make_node(&plane, node);
        let block = json!({
            "apiVersion": "portolan.io/v1alpha1", "kind": "IPAMBlock",
            "metadata": {"name": format!("10-48-{number}-0-26")},
            "spec": {"cidr": format!("10.48.{number}.0/26"), "node": node},
        });
        plane.apply(&block.to_string());
    }
    plane.kubectl(&["create", "serviceaccount", "default", "-n", "portolan"]);
    plane.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: last, namespace: portolan}, spec: {nodeName: left, \
         automountServiceAccountToken: false, containers: [{name: c, image: none}]}}",
    );
    let agents = ["n1", "n2"].map(|node| Agent::start(&plane, node));
    let forward = |by: Duration| {
        for agent in &agents {
            agent.timeline.forward(by).unwrap();
        }
    };
    let all = ["back", "gone", "left", "n1", "n2"];
    ensure_holders(&plane, &all).unwrap();

    plane.kubectl(&["delete", "node", "back", "gone", "left"]);
    std::thread::sleep(A_WHILE);
    forward(GRACE - 2 * TURN);
    std::thread::sleep(A_WHILE);
    ensure_holders(&plane, &all).unwrap();
    assert_eq!(asked(&plane, "delete ipamblocks"), []);
    assert_eq!(
        holder_of_the_lease(&plane).ok(),
        None,
        "nothing was to be done"
    );

    make_node(&plane, "back");
    std::thread::sleep(A_WHILE);
    forward(2 * TURN);
    let remaining = ["back", "left", "n1", "n2"];
    let gone = || ensure_holders(&plane, &remaining);
    eventually(SOON, "the end of the block", gone).unwrap();
    // Whoever did not get the Lease would try now.
    forward(TURN);
    std::thread::sleep(A_WHILE);
    ensure_holders(&plane, &remaining).unwrap();
    let deletions = asked(&plane, "delete ipamblocks");
    assert_eq!(deletions.len(), 1, "{deletions:?}");
    assert_eq!(deletions[0].name, "10-48-3-0-26");
    let holder = holder_of_the_lease(&plane).unwrap();
    assert!(["n1", "n2"].contains(&holder.as_str()), "{holder}");

    let pod = ["-n", "portolan", "delete", "pod", "last"];
    plane.kubectl(&[&pod[..], &["--force", "--grace-period=0"]].concat());
    forward(GRACE + TURN);
    let remaining = ["back", "n1", "n2"];
    eventually(SOON, "the end of the last one", || {
        forward(TURN);
        let is_gone = || ensure_holders(&plane, &remaining);
        eventually(4 * A_WHILE, "an answer", is_gone)
    })
    .unwrap();
    let said = preconditions(&plane);
    assert!(said.len() >= 2, "{said:?}");
    for said in said {
        let has = |word: &str| said[word].as_str().is_some_and(|value| !value.is_empty());
        assert!(has("uid") && has("resourceVersion"), "{said}");
    }
    let refused = plane.requests().into_iter();
    let refused: Vec<_> = refused
        .filter(|one| one.user == AGENT && one.code == 403)
        .collect();
    assert_eq!(refused, []);
}

#[test]
fn of_two_that_race_for_the_lease_one_writes_and_when_it_is_killed_the_other_goes_on() {
    const PEERS: usize = 5;
    let plane = plane();
    for number in 0..PEERS {
        make_peer(&plane, number);
    }
    let mut agents = ["n1", "n2"].map(|node| Some(Agent::start(&plane, node)));
    for agent in agents.iter().flatten() {
        agent.say_of(PEERS);
    }
    let said = |wanted: usize| {
        let peers = get(&plane, &["bgppeers"])?;
        let peers = peers["items"].as_array().unwrap().iter();
        let said = peers.filter(|peer| peer["status"]["conditions"][0]["type"] == "Accepted");
        let said = said.count();
        ensure!(said == wanted, "{said} are said");
        Ok(())
    };
    eventually(SOON, "all conditions", || said(PEERS)).unwrap();
    let made = asked(&plane, "create leases");
    let made = made.iter().filter(|one| one.code == 201);
    assert_eq!(made.count(), 1);
    assert_eq!(
        asked(&plane, "patch bgppeers/status").len(),
        PEERS,
        "each once"
    );

    let holder = holder_of_the_lease(&plane).unwrap();
    let is_it = |agent: &Option<Agent>| agent.as_ref().is_some_and(|agent| agent.node == holder);
    let position = agents.iter().position(is_it).unwrap();
    drop(agents[position].take());
    let other = agents[1 - position].as_ref().unwrap();
    make_peer(&plane, PEERS);
    other.say_of(PEERS + 1);
    std::thread::sleep(A_WHILE);
    said(PEERS).unwrap();
    assert_eq!(
        holder_of_the_lease(&plane).unwrap(),
        holder,
        "it is the dead one's still"
    );

    eventually(SOON, "the condition of the new one", || {
        other.timeline.forward(TURN)?;
        // What was asked before the jump has been given up, and is asked again: on a busy machine an answer that takes longer
        // than this would be given up at every jump.
        eventually(4 * A_WHILE, "an answer", || said(PEERS + 1))
    })
    .unwrap();
    assert_eq!(holder_of_the_lease(&plane).unwrap(), other.node);
    let lease = get(&plane, &["lease", "-n", "portolan", "portolan-status"]).unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    assert_eq!(asked(&plane, "patch bgppeers/status").len(), PEERS + 1);
}
