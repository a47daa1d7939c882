//! What agents write, on the real API server: with the rights that deploy/ gives them, and by several agents at once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use api::Key;
use api::crd::BgpNodeStatusStatus;
use cluster::{ControlPlane, Options, Request};
use datastore::{
    Claim, ClusterSettings, EventRecord, EventType, NodeHealth, NodeWrites, ObjectCondition,
    StatusWriter, watch_kubernetes,
};
use ipnet::IpNet;
use serde_json::{Value, json};
use tests::wait::eventually;

const SOON: Duration = Duration::from_secs(60);
const AGENT: &str = "system:serviceaccount:portolan:portolan-agent";
const TAINT: &str = "portolan.io/not-ready";

/// What `kubectl apply -k deploy/kubernetes` gives an agent.
const NAMESPACE: &str = include_str!("../../../deploy/kubernetes/namespace.yaml");
const RIGHTS: &str = include_str!("../../../deploy/kubernetes/rbac.yaml");

/// What an agent with `--remove-taint` needs besides.
const TAINTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: portolan-agent-taints}
rules:
- {apiGroups: [''], resources: [nodes], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: portolan-agent-taints}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: portolan-agent-taints}
subjects: [{kind: ServiceAccount, namespace: portolan, name: portolan-agent}]
";

/// A control plane of one test, with our kinds and the rights.
fn plane() -> ControlPlane {
    let plane = ControlPlane::start(Options {
        controller_manager: true,
        ..Options::default()
    });
    plane.install_crds();
    for manifest in [NAMESPACE, RIGHTS, TAINTS] {
        plane.apply(manifest);
    }
    plane
}

/// One control plane for the tests that have objects of their own and hold no Lease.
fn shared() -> &'static ControlPlane {
    static SHARED: OnceLock<ControlPlane> = OnceLock::new();
    SHARED.get_or_init(plane)
}

/// An agent's writer, on a node.
struct Agent {
    status: StatusWriter,
    _events: tokio::task::JoinHandle<()>,
}

impl Agent {
    async fn start(kubeconfig: PathBuf, node: &str) -> Self {
        let settings = ClusterSettings {
            kubeconfig: Some(kubeconfig),
            node: node.to_owned(),
            namespace: "portolan".to_owned(),
            services: false,
            node_writes: NodeWrites {
                condition: true,
                remove_taints: vec![TAINT.to_owned()],
            },
        };
        // Of the source only events and status are kept: it goes on although nobody can ask for a read.
        let mut source = watch_kubernetes(&settings).await.unwrap();
        let (in_sync, waiting) = tokio::sync::oneshot::channel();
        let mut in_sync = Some(in_sync);
        let events = tokio::spawn(async move {
            while let Some(event) = source.events.recv().await {
                if event == api::Event::InSync
                    && let Some(in_sync) = in_sync.take()
                {
                    let _ = in_sync.send(());
                }
            }
        });
        tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
        Self {
            status: source.status,
            _events: events,
        }
    }
}

fn account(plane: &ControlPlane) -> PathBuf {
    plane.service_account_kubeconfig("portolan", "portolan-agent")
}

fn object(plane: &ControlPlane, args: &[&str]) -> Result<Value> {
    let text = plane.try_kubectl(&[&["get", "-o", "json"], args].concat())?;
    Ok(serde_json::from_str(&text)?)
}

fn make_node(plane: &ControlPlane, name: &str) {
    let taints = json!([
        {"key": TAINT, "effect": "NoSchedule"},
        {"key": "example.org/kept", "effect": "NoSchedule"},
    ]);
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name}, "spec": {"taints": taints},
    });
    plane.apply(&node.to_string());
}

fn make_peers(plane: &ControlPlane, number: usize) {
    let peers: Vec<Value> = (0..number)
        .map(|number| {
            json!({
                "apiVersion": "portolan.io/v1alpha1", "kind": "BGPPeer",
                "metadata": {"name": format!("tor{number}")},
                "spec": {"peerAddress": format!("192.0.2.{}", number + 1), "asNumber": 64_600},
            })
        })
        .collect();
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": peers}).to_string());
}

fn accepted(number: usize, message: &str) -> Vec<ObjectCondition> {
    let condition = |number| ObjectCondition {
        key: Key::BgpPeer(format!("tor{number}")),
        type_: "Accepted".to_owned(),
        status: true,
        reason: "Valid".to_owned(),
        message: message.to_owned(),
    };
    (0..number).map(condition).collect()
}

fn warning(count: u32) -> EventRecord {
    EventRecord {
        regarding: (&Key::BgpPeer("tor0".to_owned())).into(),
        reason: "PeerRefused".to_owned(),
        event_type: EventType::Warning,
        message: "the peer is in another AS".to_owned(),
        count,
        first_timestamp: None,
        last_timestamp: None,
    }
}

fn established(established: u32) -> BgpNodeStatusStatus {
    BgpNodeStatusStatus {
        established,
        configured: 2,
        ..BgpNodeStatusStatus::default()
    }
}

fn down() -> NodeHealth {
    NodeHealth::Down {
        message: "BGP has not started".to_owned(),
    }
}

fn condition<'a>(object: &'a Value, type_: &str) -> Result<&'a Value> {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|one| one["type"] == type_);
    found.ok_or_else(|| anyhow::anyhow!("no {type_}: {}", object["status"]))
}

/// What agents asked that is no part of a watch.
fn asked(plane: &ControlPlane) -> Vec<Request> {
    let requests = plane.requests().into_iter();
    requests
        .filter(|one| one.user == AGENT && !one.resource.is_empty())
        .filter(|one| !matches!(one.verb.as_str(), "list" | "watch"))
        .collect()
}

fn peer_says(plane: &ControlPlane, message: &str) -> Result<Value> {
    let peer = object(plane, &["bgppeer", "tor0"])?;
    let said = condition(&peer, "Accepted")?.clone();
    ensure!(said["message"] == message, "{said}");
    Ok(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_written_with_the_rights_of_deploy_and_no_others_and_a_quiet_minute_is_quiet()
{
    let plane = plane();
    make_node(&plane, "n1");
    make_peers(&plane, 1);
    let agent = Agent::start(account(&plane), "n1").await;
    let status = &agent.status;
    let cidr: IpNet = "10.48.0.0/26".parse().unwrap();

    status.publish_node(down()).await.unwrap();
    status.publish_conditions(accepted(1, "one")).await.unwrap();
    status.publish_bgp(established(1)).await.unwrap();
    status.publish_events(vec![warning(1)]).await.unwrap();
    assert_eq!(status.claim_block(cidr).await.unwrap(), Claim::Ours);
    assert_eq!(status.claim_block(cidr).await.unwrap(), Claim::Ours);
    status.release_block(cidr).await.unwrap();

    let first = eventually(SOON, "the condition", || peer_says(&plane, "one")).unwrap();
    assert_eq!(
        (&first["status"], &first["observedGeneration"]),
        (&json!("True"), &json!(1))
    );
    the_node_is_down_and_then_up(&plane, status).await;
    the_event_is_there(&plane);
    what_no_agent_understands_is_said_so(&plane);
    let told = || {
        let told = object(&plane, &["bgpnodestatus", "n1"])?;
        ensure!(told["status"]["established"] == 1, "{told}");
        Ok(told)
    };
    let told = eventually(SOON, "the BGPNodeStatus", told).unwrap();
    let node = object(&plane, &["node", "n1"]).unwrap();
    let owner = &told["metadata"]["ownerReferences"][0]["uid"];
    assert_eq!(owner, &node["metadata"]["uid"]);

    // After 10 s the Lease is renewed.
    tokio::time::sleep(Duration::from_secs(11)).await;
    status.publish_conditions(accepted(1, "two")).await.unwrap();
    let second = eventually(SOON, "the next condition", || peer_says(&plane, "two")).unwrap();
    assert_eq!(first["lastTransitionTime"], second["lastTransitionTime"]);

    let before = asked(&plane);
    for _ in 0..60 {
        status.publish_node(NodeHealth::Up).await.unwrap();
        status.publish_conditions(accepted(1, "two")).await.unwrap();
        status.publish_bgp(established(1)).await.unwrap();
        status.publish_events(vec![warning(1)]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let after = asked(&plane);
    assert_eq!(after[before.len()..], [], "a quiet minute");
    the_rights_are_those_that_were_used(&after);
}

async fn the_node_is_down_and_then_up(plane: &ControlPlane, status: &StatusWriter) {
    let node = object(plane, &["node", "n1"]).unwrap();
    let said = condition(&node, "NetworkUnavailable").unwrap().clone();
    assert_eq!(
        (&said["status"], &said["reason"]),
        (&json!("True"), &json!("PortolanIsDown"))
    );
    // The node lifecycle controller believes it.
    let taints = |wanted: &[&str]| {
        let node = object(plane, &["node", "n1"])?;
        let taints = node["spec"]["taints"].as_array();
        let keys: BTreeSet<&str> = taints
            .into_iter()
            .flatten()
            .filter_map(|taint| taint["key"].as_str())
            .filter(|key| !key.ends_with("/not-ready") || *key == TAINT)
            .collect();
        ensure!(keys == wanted.iter().copied().collect(), "{keys:?}");
        Ok(())
    };
    let unavailable = "node.kubernetes.io/network-unavailable";
    let wanted = ["example.org/kept", unavailable, TAINT];
    eventually(SOON, "the controller's taint", || taints(&wanted)).unwrap();
    status.publish_node(NodeHealth::Up).await.unwrap();
    let wanted = ["example.org/kept"];
    eventually(SOON, "no taint but another's", || taints(&wanted)).unwrap();
    let node = object(plane, &["node", "n1"]).unwrap();
    let now = condition(&node, "NetworkUnavailable").unwrap();
    assert_eq!(
        (&now["status"], &now["reason"]),
        (&json!("False"), &json!("PortolanIsUp"))
    );
}

/// Nobody has published anything of it: who reads it says so.
fn what_no_agent_understands_is_said_so(plane: &ControlPlane) {
    let peer = json!({
        "apiVersion": "portolan.io/v1alpha1", "kind": "BGPPeer",
        "metadata": {"name": "wrong"},
        "spec": {"peerAddress": "192.0.2.250", "asNumber": 64_600, "nodeSelector": "rack =="},
    });
    plane.apply(&peer.to_string());
    let said = || {
        let peer = object(plane, &["bgppeer", "wrong"])?;
        let said = condition(&peer, "Accepted")?.clone();
        ensure!(
            said["status"] == "False" && said["reason"] == "Invalid",
            "{said}"
        );
        Ok(said)
    };
    let said = eventually(SOON, "the verdict on a wrong selector", said).unwrap();
    let message = said["message"].as_str().unwrap();
    assert!(message.contains("nodeSelector"), "{message}");
}

fn the_event_is_there(plane: &ControlPlane) {
    let events = ["events.events.k8s.io", "-n", "default"];
    let find = || {
        let events = object(plane, &events)?;
        let events = events["items"].as_array().unwrap();
        let ours: Vec<&Value> = events
            .iter()
            .filter(|event| event["reportingController"] == "portolan.io/agent")
            .collect();
        ensure!(ours.len() == 1, "{} Events", ours.len());
        Ok(ours[0].clone())
    };
    let event = eventually(SOON, "one Event", find).unwrap();
    let peer = object(plane, &["bgppeer", "tor0"]).unwrap();
    assert_eq!(event["regarding"]["uid"], peer["metadata"]["uid"]);
    assert_eq!(
        (&event["type"], &event["reportingInstance"]),
        (&json!("Warning"), &json!("n1"))
    );
    let described = plane.kubectl(&["describe", "bgppeer", "tor0"]);
    assert!(
        described.contains("the peer is in another AS"),
        "{described}"
    );
    // The patch of one that comes again, ten minutes later, is one that the server takes.
    let name = event["metadata"]["name"].as_str().unwrap();
    let series = r#"{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000001Z"}}"#;
    plane.kubectl(&[
        "patch",
        "event.events.k8s.io",
        name,
        "--type=merge",
        "-p",
        series,
    ]);
}

/// What docs/design/datastore.md says that writing needs, but for the patch of Events, which is ten minutes away, and the
/// status of kinds that nothing was said of.
fn the_rights_are_those_that_were_used(asked: &[Request]) {
    let refused: Vec<&Request> = asked.iter().filter(|one| one.code == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let used: BTreeSet<String> = asked
        .iter()
        .map(|one| format!("{} {}", one.verb, one.resource))
        .collect();
    let granted = [
        "create bgpnodestatuses",
        "create events",
        "create ipamblocks",
        "create leases",
        "delete ipamblocks",
        "get ipamblocks",
        "get leases",
        "patch bgpnodestatuses/status",
        "patch bgppeers/status",
        "patch nodes",
        "patch nodes/status",
        "update leases",
    ];
    // An apply of what is not there needs both rights, and is logged as a patch.
    let used: BTreeSet<&str> = used
        .iter()
        .map(|right| match right.as_str() {
            "patch bgpnodestatuses" => "create bgpnodestatuses",
            right => right,
        })
        .collect();
    assert_eq!(used, BTreeSet::from(granted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_agents_that_claim_a_block_at_once_one_has_it_and_gives_it_back() {
    let plane = shared();
    let kubeconfig = account(plane);
    let mut agents = Vec::new();
    for number in 0..4 {
        agents.push(Agent::start(kubeconfig.clone(), &format!("claimer{number}")).await);
    }
    for block in 0..10 {
        let cidr: IpNet = format!("10.49.{block}.0/26").parse().unwrap();
        let claims = agents.iter().map(|agent| agent.status.claim_block(cidr));
        let claims = futures_util::future::join_all(claims).await;
        let claims: Vec<Claim> = claims.into_iter().map(Result::unwrap).collect();
        let winner = claims
            .iter()
            .position(|claim| *claim == Claim::Ours)
            .unwrap();
        let node = Some(format!("claimer{winner}"));
        for (number, claim) in claims.iter().enumerate() {
            if number != winner {
                assert_eq!(*claim, Claim::Taken { node: node.clone() });
                let refused = agents[number].status.release_block(cidr).await;
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains("only its node releases it"), "{refused}");
            }
        }
        agents[winner].status.release_block(cidr).await.unwrap();
    }
    let left = object(plane, &["ipamblocks"]).unwrap();
    assert_eq!(left["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_agents_that_have_the_same_to_say_one_holds_the_lease_and_says_it_once() {
    const PEERS: usize = 20;
    let plane = plane();
    let kubeconfig = account(&plane);
    make_peers(&plane, PEERS);
    let mut agents = Vec::new();
    for number in 0..3 {
        let node = format!("n{number}");
        make_node(&plane, &node);
        agents.push(Agent::start(kubeconfig.clone(), &node).await);
    }
    for agent in &agents {
        let said = agent.status.publish_conditions(accepted(PEERS, "fine"));
        said.await.unwrap();
    }
    let all_said = || {
        let peers = object(&plane, &["bgppeers"])?;
        let peers = peers["items"].as_array().unwrap();
        let said = peers
            .iter()
            .filter(|peer| condition(peer, "Accepted").is_ok());
        ensure!(said.count() == PEERS, "not all yet");
        Ok(())
    };
    eventually(SOON, "all conditions", all_said).unwrap();
    let patches = || {
        let asked = asked(&plane).into_iter();
        let of_peers = asked.filter(|one| one.resource == "bgppeers/status");
        of_peers.filter(|one| one.code == 200).count()
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(patches(), PEERS, "each once");
    let lease = object(&plane, &["lease", "-n", "portolan", "portolan-status"]).unwrap();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
    assert!(["n0", "n1", "n2"].contains(&holder), "{holder}");

    // What another says of an object stays, whoever applies what.
    let other = json!({"status": {"conditions": [
        {"type": "Accepted", "status": "True", "reason": "Valid", "message": "fine",
         "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Audited", "status": "True", "reason": "Fine", "message": "",
         "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]}});
    let other = other.to_string();
    let patch = [
        "patch",
        "bgppeer",
        "tor1",
        "--subresource=status",
        "--type=merge",
        "-p",
        &other,
    ];
    plane.kubectl(&patch);
    let changed = r#"{"spec":{"asNumber":64601}}"#;
    plane.kubectl(&["patch", "bgppeer", "tor0", "--type=merge", "-p", changed]);
    let observed = || {
        let peer = object(&plane, &["bgppeer", "tor0"])?;
        let generation = &condition(&peer, "Accepted")?["observedGeneration"];
        ensure!(generation == 2, "{generation}");
        Ok(())
    };
    eventually(SOON, "the new generation", observed).unwrap();
    assert_eq!(patches(), PEERS + 1);
    let peer = object(&plane, &["bgppeer", "tor1"]).unwrap();
    condition(&peer, "Audited").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_while_the_server_is_away_is_written_when_it_is_back() {
    let plane = plane();
    make_node(&plane, "n1");
    make_peers(&plane, 1);
    let agent = Agent::start(account(&plane), "n1").await;
    agent.status.publish_bgp(established(1)).await.unwrap();
    eventually(SOON, "the BGPNodeStatus", || {
        object(&plane, &["bgpnodestatus", "n1"])
    })
    .unwrap();
    plane.stop_api_server();
    let error = agent.status.publish_node(NodeHealth::Up).await.unwrap_err();
    assert!(
        error.to_string().contains("NetworkUnavailable of Node n1"),
        "{error}"
    );
    agent.status.publish_bgp(established(2)).await.unwrap();
    agent
        .status
        .publish_conditions(accepted(1, "one"))
        .await
        .unwrap();
    agent.status.publish_events(vec![warning(1)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    plane.start_api_server();
    let limit = Duration::from_secs(150);
    let said = || {
        let node = object(&plane, &["node", "n1"])?;
        ensure!(condition(&node, "NetworkUnavailable")?["status"] == "False");
        let told = object(&plane, &["bgpnodestatus", "n1"])?;
        ensure!(told["status"]["established"] == 2, "{told}");
        peer_says(&plane, "one")
    };
    eventually(limit, "all of it", said).unwrap();
    eventually(limit, "the Event", || {
        let events = plane.try_kubectl(&["get", "events"])?;
        ensure!(events.contains("PeerRefused"), "{events}");
        Ok(())
    })
    .unwrap();

    // With its Node the status goes, and comes with the next one.
    plane.kubectl(&["delete", "node", "n1"]);
    let gone = || {
        let left = plane.try_kubectl(&["get", "bgpnodestatuses", "-o", "name"])?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    };
    eventually(limit, "the end of its BGPNodeStatus", gone).unwrap();
    make_node(&plane, "n1");
    let back = || {
        let told = object(&plane, &["bgpnodestatus", "n1"])?;
        ensure!(told["status"]["established"] == 2, "{told}");
        let node = object(&plane, &["node", "n1"])?;
        condition(&node, "NetworkUnavailable").cloned()
    };
    eventually(limit, "the new Node's status and condition", back).unwrap();
}
