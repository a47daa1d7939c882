//! Leases by which nodes agree who answers for an address, on the real API server and with the rights of deploy/: taken, renewed,
//! taken over, given up; and never two holders, whoever writes at once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cluster::ControlPlane;
use cluster::agents::{AgentLab, AgentNode, PATIENCE};
use cluster::kustomization::Kustomization;
use datastore::{
    AddressLease, AddressLeaseEvent, AddressLeases, ClusterSettings, LeaseNotWritten, NodeWrites,
    watch_kubernetes,
};
use serde_json::Value;
use tests::rack::say;
use tests::require_root;
use tests::wait::eventually;
use tokio::sync::mpsc::Receiver;

const DURATION: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(10);

/// The rights of deploy/ with its component for these Leases.
fn give_rights(plane: &ControlPlane) {
    give(plane, ", deploy/components/layer2");
}

fn give(plane: &ControlPlane, more: &str) {
    let text = format!(
        "resources: [deploy/kubernetes]\ncomponents: [deploy/components/services, deploy/components/not-ready-taint{more}]\n"
    );
    let kustomization = Kustomization::new(&text).unwrap();
    let folder = kustomization.folder().to_str().unwrap();
    plane.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", folder]);
}

fn plane() -> ControlPlane {
    let plane = ControlPlane::start(cluster::Options::default());
    give_rights(&plane);
    plane
}

async fn leases(plane: &ControlPlane, node: &str) -> AddressLeases {
    let settings = ClusterSettings {
        kubeconfig: Some(plane.service_account_kubeconfig("portolan", "portolan-agent")),
        node: node.to_owned(),
        namespace: "portolan".to_owned(),
        services: false,
        node_writes: NodeWrites::default(),
    };
    let source = watch_kubernetes(&settings).await.unwrap();
    source.address_leases.unwrap()
}

/// What the watch says next of an address.
async fn told(watch: &mut Receiver<AddressLeaseEvent>, of: IpAddr) -> Option<AddressLease> {
    loop {
        let event = tokio::time::timeout(SOON, watch.recv())
            .await
            .unwrap()
            .unwrap();
        match event {
            AddressLeaseEvent::Changed(address, lease) if address == of => return lease,
            AddressLeaseEvent::Changed(..) | AddressLeaseEvent::All(_) => {}
        }
    }
}

/// Agents, as they are started on nodes.
#[test]
fn agents_hold_an_address_renew_it_hand_it_over_when_they_stop_and_keep_it_when_they_come_back() {
    require_root!();
    let mut lab = AgentLab::start("agl").unwrap();
    give(&lab.plane, "");
    lab.plane.apply(POOL_AND_SERVICE);
    let status = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}"#;
    let patch = [
        "patch",
        "service",
        "-n",
        "shop",
        "web",
        "--subresource=status",
        "-p",
        status,
    ];
    lab.plane.kubectl(&patch);
    lab.start_agents(&["--features", "bgp,policy,cni,services"])
        .unwrap();
    the_doctor_names_the_missing_right(&lab);
    let first = until_held(&lab, None);
    let seen = version(&lab);
    eventually(SOON + SOON, "a renewal", || {
        ensure!(version(&lab) != seen);
        Ok(())
    })
    .unwrap();

    // Who stops gives it up: nobody waits for its end.
    let began = Instant::now();
    lab.nodes[first].agent.terminate().unwrap();
    let second = until_held(&lab, Some(1 - first));
    say(&format!("handed over after {:?}", began.elapsed()));
    assert!(began.elapsed() < SOON);
    let node = &mut lab.nodes[first];
    node.agent.start(&node.netns).unwrap();
    node.wait_ready().unwrap();
    assert_eq!(until_held(&lab, None), second, "it stays where it is");

    // Who is killed and comes back within its Lease has it still.
    let node = &mut lab.nodes[second];
    node.agent.kill().unwrap();
    node.agent.start(&node.netns).unwrap();
    node.wait_ready().unwrap();
    let (seen, node) = (version(&lab), &lab.nodes[second]);
    eventually(SOON + SOON, "it to answer again", || {
        ensure!(version(&lab) != seen && answers(node)?);
        Ok(())
    })
    .unwrap();
    assert_eq!(until_held(&lab, None), second);

    // Nobody serves it any more: nobody holds it.
    lab.plane
        .kubectl(&["delete", "endpointslice", "-n", "shop", "web-1"]);
    eventually(SOON, "no Lease", || {
        let leases = lab.plane.try_kubectl(&LEASES)?;
        ensure!(!leases.contains("portolan-l2-"), "{leases}");
        Ok(())
    })
    .unwrap();
    lab.ensure_no_refusals().unwrap();
}

/// Without the component nobody can agree with anybody: the doctor says so, and its command that it is the right.
fn the_doctor_names_the_missing_right(lab: &AgentLab) {
    let found = || -> Result<Value> {
        let findings = lab.nodes[0].agent.findings(&[])?;
        let mut of_leases = findings
            .into_iter()
            .filter(|one| one["check"] == "address-lease");
        of_leases.next().context("no finding of address-lease")
    };
    let mut remedy = String::new();
    eventually(PATIENCE, "the doctor to miss the right", || {
        let found = found()?;
        ensure!(found["verdict"] == "failure", "{found}");
        remedy = found["remedy"].as_str().context("a remedy")?.to_owned();
        Ok(())
    })
    .unwrap();
    let words: Vec<&str> = remedy.split(' ').collect();
    assert_eq!(words[0], "kubectl");
    let before = lab.plane.try_kubectl(&words[1..]).unwrap_err();
    assert!(format!("{before:#}").contains("no"), "{before:#}");
    give_rights(&lab.plane);
    assert_eq!(lab.plane.kubectl(&words[1..]).trim(), "yes");
    eventually(PATIENCE, "the doctor to be content", || {
        let found = found()?;
        ensure!(found["verdict"] == "ok", "{found}");
        Ok(())
    })
    .unwrap();
}

const LEASES: [&str; 7] = [
    "get",
    "leases",
    "-n",
    "portolan",
    "-o",
    "name",
    "--ignore-not-found",
];
const POOL_AND_SERVICE: &str = "
apiVersion: portolan.io/v1alpha1
kind: IPPool
metadata: {name: outside}
spec: {cidr: 192.0.2.0/28, blockSize: 28, allowedUses: [LoadBalancer], layer2: {}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.99.0.9], conditions: {ready: true}}]
";

fn lease(lab: &AgentLab) -> Result<Value> {
    let words = [
        "get",
        "lease",
        "-n",
        "portolan",
        "portolan-l2-192.0.2.7",
        "-o",
        "json",
    ];
    Ok(serde_json::from_str(&lab.plane.try_kubectl(&words)?)?)
}

fn version(lab: &AgentLab) -> String {
    let lease = lease(lab).unwrap();
    lease["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn answers(node: &AgentNode) -> Result<bool> {
    let status = node.agent.status()?;
    let answering = &status["layer2"]["addresses"]["192.0.2.7"];
    Ok(answering["node"] == node.agent.node() && answering["isOverdue"] == false)
}

/// Waits until the Lease names the node that says that it answers, and no other says so; which that is.
fn until_held(lab: &AgentLab, by: Option<usize>) -> usize {
    let mut holder = None;
    eventually(PATIENCE, "the Lease and its holder to agree", || {
        let lease = lease(lab)?;
        // One that is stopped says nothing.
        let says = |node: &AgentNode| answers(node).unwrap_or(false);
        let all: Vec<usize> = (0..lab.nodes.len())
            .filter(|node| says(&lab.nodes[*node]))
            .collect();
        ensure!(all.len() == 1, "{all:?}");
        let name = lab.nodes[all[0]].agent.node();
        ensure!(lease["spec"]["holderIdentity"] == name, "{name}: {lease}");
        ensure!(by.is_none_or(|by| by == all[0]), "{name}");
        holder = Some(all[0]);
        Ok(())
    })
    .unwrap();
    holder.unwrap()
}

fn holder(lease: Option<&AddressLease>) -> Option<&str> {
    lease.map(|lease| lease.holder.as_str())
}

#[test]
fn a_lease_is_taken_renewed_taken_over_and_given_up_and_never_has_two_holders() {
    let plane = plane();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        for address in ["192.0.2.7", "fd00::7"] {
            lives(&plane, address.parse().unwrap()).await;
        }
        of_many_who_want_it_one_has_it(&plane).await;
    });
}

async fn lives(plane: &ControlPlane, address: IpAddr) {
    let (one, other) = (leases(plane, "n1").await, leases(plane, "n2").await);
    let mut watch = other.watch();
    let AddressLeaseEvent::All(_) = watch.recv().await.unwrap() else {
        panic!("not all at first");
    };
    let taken = one.hold(address, None, DURATION).await.unwrap();
    let seen = told(&mut watch, address).await;
    assert_eq!(seen, Some(taken.clone()));
    assert_eq!((taken.holder.as_str(), taken.duration), ("n1", DURATION));
    // As others see it.
    let listed = plane.kubectl(&[
        "get",
        "leases",
        "-n",
        "portolan",
        "-l",
        "portolan.io/layer2",
        "-o",
        "json",
    ]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let spec = &listed["items"][0]["spec"];
    assert_eq!(spec["holderIdentity"], "n1");
    assert_eq!(
        (&spec["leaseDurationSeconds"], &spec["leaseTransitions"]),
        (&30.into(), &0.into())
    );

    let renewed = one.hold(address, Some(&taken), DURATION).await.unwrap();
    assert!(renewed.version > taken.version);
    let seen = told(&mut watch, address).await;
    assert_eq!(seen, Some(renewed.clone()));
    // Who has seen less takes nothing, and is told what it has missed.
    let late = other.hold(address, Some(&taken), DURATION).await;
    assert_eq!(late, Err(LeaseNotWritten::Conflict(Some(renewed.clone()))));
    let late = other.hold(address, None, DURATION).await;
    assert_eq!(late, Err(LeaseNotWritten::Conflict(Some(renewed.clone()))));

    let moved = other.hold(address, Some(&renewed), DURATION).await.unwrap();
    assert_eq!(holder(told(&mut watch, address).await.as_ref()), Some("n2"));
    let lost = one.hold(address, Some(&renewed), DURATION).await;
    assert_eq!(lost, Err(LeaseNotWritten::Conflict(Some(moved.clone()))));
    // Nobody gives up what another has taken meanwhile.
    let lost = one.release(address, &renewed).await;
    assert_eq!(lost, Err(LeaseNotWritten::Conflict(Some(moved.clone()))));

    other.release(address, &moved).await.unwrap();
    assert_eq!(told(&mut watch, address).await, None);
    let gone = other.hold(address, Some(&moved), DURATION).await;
    assert_eq!(gone, Err(LeaseNotWritten::Conflict(None)));
}

async fn of_many_who_want_it_one_has_it(plane: &ControlPlane) {
    const NODES: usize = 8;
    const ROUNDS: u8 = 10;
    let mut nodes = Vec::new();
    for number in 0..NODES {
        nodes.push(leases(plane, &format!("n{number}")).await);
    }
    for round in 0..ROUNDS {
        let address = IpAddr::from([198, 51, 100, round]);
        let mut seen = None;
        for what in ["to make it", "to take it over"] {
            let attempts = nodes.iter().map(|node| {
                let (node, seen) = (node.clone(), seen.clone());
                tokio::spawn(async move { node.hold(address, seen.as_ref(), DURATION).await })
            });
            let attempts: Vec<_> = attempts.collect();
            let mut held = Vec::new();
            for attempt in attempts {
                match attempt.await.unwrap() {
                    Ok(lease) => held.push(lease),
                    Err(LeaseNotWritten::Conflict(Some(_))) => {}
                    Err(other) => panic!("{what}: {other:?}"),
                }
            }
            assert_eq!(held.len(), 1, "{what}: {held:?}");
            seen = held.pop();
        }
    }
}
