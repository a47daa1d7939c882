//! Many nodes, one Lease: against an API server in memory, in virtual time.

use api::Key;
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;
use crate::kubernetes::write::fake::{Fake, Fault};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/portolan/leases/portolan-status";
const PEER: &str = "/apis/portolan.io/v1alpha1/bgppeers/tor";
const BLOCK: &str = "/apis/portolan.io/v1alpha1/ipamblocks/10-48-0-0-26";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn peer(address: &str) -> Value {
    json!({"metadata": {"name": "tor"}, "spec": {"peerAddress": address}})
}

fn accepted(message: &str) -> Vec<ObjectCondition> {
    vec![ObjectCondition {
        key: Key::BgpPeer("tor".to_owned()),
        type_: "Accepted".to_owned(),
        status: true,
        reason: "Valid".to_owned(),
        message: message.to_owned(),
    }]
}

/// A node's task, until what it returns is dropped.
fn start(server: &Fake, node: &str) -> watch::Sender<Vec<ObjectCondition>> {
    server.put(
        &format!("/api/v1/nodes/{node}"),
        json!({"metadata": {"name": node}}),
    );
    let (connection, facts) = server.connect(node);
    let (wanted, conditions) = watch::channel(Vec::new());
    let (none, addresses) = watch::channel(Arc::default());
    let (refresher, _) = server.refresher(0);
    let found = Found {
        conditions,
        addresses,
    };
    tokio::spawn(run(connection, facts, refresher, found));
    tokio::spawn(async move { none.closed().await });
    wanted
}

fn says(server: &Fake) -> Option<String> {
    let peer = server.object(PEER)?;
    let message = peer.pointer("/status/conditions/0/message")?;
    message.as_str().map(str::to_owned)
}

fn holder(server: &Fake) -> String {
    let lease = server.object(LEASE).expect("a Lease");
    lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn of_many_nodes_one_writes_a_condition_and_then_all_are_quiet() {
    let server = Fake::default();
    server.put(PEER, peer("10.0.0.1"));
    let nodes: Vec<_> = (0..50)
        .map(|number| start(&server, &format!("n{number}")))
        .collect();
    for node in &nodes {
        node.send(accepted("fine")).unwrap();
    }
    sleep(seconds(60)).await;
    assert_eq!(says(&server).as_deref(), Some("fine"));
    let patches = server.asked_of(&Method::PATCH, "bgppeers");
    assert_eq!(patches.len(), 1);
    let before = server.asked().len();
    assert!(before < 20, "{before} requests of 50 nodes");
    sleep(seconds(3600)).await;
    assert_eq!(
        server.asked().len(),
        before,
        "nothing while there is nothing to do"
    );
    for node in &nodes {
        node.send(accepted("still fine")).unwrap();
    }
    sleep(seconds(60)).await;
    assert_eq!(says(&server).as_deref(), Some("still fine"));
    assert_eq!(server.asked_of(&Method::PATCH, "bgppeers").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_new_generation_is_observed_once_and_its_transition_is_kept() {
    let server = Fake::default();
    server.put(PEER, peer("10.0.0.1"));
    let node = start(&server, "n1");
    node.send(accepted("fine")).unwrap();
    sleep(seconds(10)).await;
    let first = server.object(PEER).unwrap()["status"]["conditions"][0].clone();
    let mut changed = server.object(PEER).unwrap();
    changed["spec"]["peerAddress"] = json!("10.0.0.2");
    server.put(PEER, changed);
    sleep(seconds(10)).await;
    let second = server.object(PEER).unwrap()["status"]["conditions"][0].clone();
    assert_eq!(
        (&first["observedGeneration"], &second["observedGeneration"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(first["lastTransitionTime"], second["lastTransitionTime"]);
    assert_eq!(server.asked_of(&Method::PATCH, "bgppeers").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn while_the_holder_lives_nobody_else_writes_and_when_it_is_gone_another_does() {
    let server = Fake::default();
    server.put(PEER, peer("10.0.0.1"));
    let first = start(&server, "n1");
    first.send(accepted("one")).unwrap();
    sleep(seconds(5)).await;
    assert_eq!(holder(&server), "n1");
    drop(first);
    let second = start(&server, "n2");
    second.send(accepted("two")).unwrap();
    sleep(seconds(30)).await;
    assert_eq!(
        says(&server).as_deref(),
        Some("one"),
        "the Lease is n1's still"
    );
    sleep(seconds(15)).await;
    assert_eq!(says(&server).as_deref(), Some("two"));
    assert_eq!(holder(&server), "n2");
    let lease = server.object(LEASE).unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn two_who_take_a_free_lease_at_once_do_not_both_have_it() {
    let server = Fake::default();
    let clock = Timestamp::now();
    let mut leases: Vec<Lease> = (0..10)
        .map(|number| {
            let (connection, _) = server.connect(&format!("n{number}"));
            Lease::new(
                Calls::new(connection.client),
                "portolan",
                &format!("n{number}"),
            )
        })
        .collect();
    let takes = leases.iter_mut().map(|lease| lease.take(now(), clock));
    let holds = futures_util::future::join_all(takes).await;
    let ours = holds.iter().filter(|hold| **hold == Ok(Hold::Ours)).count();
    assert_eq!(ours, 1);
    // Once more when it has run out: all have seen the same state for so long.
    for lease in &mut leases {
        lease.take(now(), clock).await.unwrap();
    }
    sleep(seconds(41)).await;
    let takes = leases.iter_mut().map(|lease| lease.take(now(), clock));
    let holds = futures_util::future::join_all(takes).await;
    let ours = holds.iter().filter(|hold| **hold == Ok(Hold::Ours)).count();
    assert_eq!(ours, 1);
}

#[tokio::test(start_paused = true)]
async fn agents_of_two_versions_that_say_different_things_do_not_write_for_ever() {
    let server = Fake::default();
    server.put(PEER, peer("10.0.0.1"));
    let nodes = [start(&server, "n1"), start(&server, "n2")];
    nodes[0].send(accepted("old words")).unwrap();
    nodes[1].send(accepted("new words")).unwrap();
    sleep(seconds(3600)).await;
    let patches = server.asked_of(&Method::PATCH, "bgppeers").len();
    assert!((2..=30).contains(&patches), "{patches} in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_the_server_refuses_is_tried_ever_more_seldom() {
    let server = Fake::default();
    server.put(PEER, peer("10.0.0.1"));
    for _ in 0..1000 {
        server.fail(
            |asked| asked.path.contains("bgppeers"),
            Fault::Refused(409, 0),
        );
    }
    let node = start(&server, "n1");
    node.send(accepted("fine")).unwrap();
    sleep(seconds(3600)).await;
    let patches = server.asked_of(&Method::PATCH, "bgppeers").len();
    assert!((8..=20).contains(&patches), "{patches} in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_nodes_block_is_given_back_after_the_grace_by_one_node() {
    let server = Fake::default();
    let block =
        json!({"metadata": {"name": "b"}, "spec": {"cidr": "10.48.0.0/26", "node": "gone"}});
    server.put("/api/v1/nodes/gone", json!({"metadata": {"name": "gone"}}));
    server.put(BLOCK, {
        let mut block = block.clone();
        block["metadata"]["name"] = json!("10-48-0-0-26");
        block
    });
    let nodes: Vec<_> = (0..10)
        .map(|number| start(&server, &format!("n{number}")))
        .collect();
    sleep(seconds(600)).await;
    assert!(server.asked().is_empty(), "its node is there");
    server.remove("/api/v1/nodes/gone");
    sleep(seconds(290)).await;
    assert!(server.object(BLOCK).is_some() && server.asked().is_empty());
    sleep(seconds(60)).await;
    assert!(server.object(BLOCK).is_none());
    assert_eq!(server.asked_of(&Method::DELETE, "ipamblocks").len(), 1);
    drop(nodes);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_nodes_block_stays_while_a_pod_of_it_is_left() {
    let server = Fake::default();
    let block = json!({
        "metadata": {"name": "10-48-0-0-26"},
        "spec": {"cidr": "10.48.0.0/26", "node": "gone"},
    });
    server.put(BLOCK, block);
    let pod = "/api/v1/namespaces/default/pods/web";
    let spec = json!({"nodeName": "gone"});
    server.put(pod, json!({"metadata": {"name": "web"}, "spec": spec}));
    let node = start(&server, "n1");
    sleep(seconds(900)).await;
    assert!(server.object(BLOCK).is_some());
    server.remove(pod);
    sleep(seconds(600)).await;
    assert!(server.object(BLOCK).is_none());
    drop(node);
}
