//! A Service of two pods on two nodes: asked at its cluster IP and at node ports, with endpoints and without.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::lab::Lab;
use tests::netns::Netns;
use tests::reach::{Transport, Verdict, attempt};

/// As `examples/demo-service/front.yaml` has it.
const CLUSTER_IP: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);
const NODE_PORT: u16 = 30_080;
const ENDPOINTS: [&str; 2] = ["shop/web", "shop/db"];
/// So often each asks: that nobody of the two is ever chosen is as good as impossible.
const TIMES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(3);

/// Drops the Service and its slices into the directory, asks it from everywhere, then once more without endpoints.
pub(crate) fn show(lab: &mut Lab, example: &Path) -> Result<()> {
    let text = std::fs::read_to_string(example).with_context(|| example.display().to_string())?;
    lab.drop_manifest("front.yaml", &text)?;
    for node in &lab.nodes {
        // What a node itself sends needs some route before it can be led elsewhere: nodes have a default route.
        node.netns
            .ip(&format!("route replace default via {}", node.tor))?;
    }
    serve_by(lab, &ENDPOINTS)?;
    show_all(lab)?;
    serve_by(lab, &[])?;
    let (netns, _) = lab.place("team/client", false)?;
    let refused = attempt(netns, CLUSTER_IP.into(), Transport::Tcp, PATIENCE)?;
    println!("  without endpoints: {refused:?}");
    ensure!(refused == Verdict::Refused, "it is to be refused");
    serve_by(lab, &ENDPOINTS)
}

/// Writes the slice as a controller would, of these pods, and waits until it holds.
fn serve_by(lab: &mut Lab, pods: &[&str]) -> Result<()> {
    let endpoint = |name: &&str| -> Result<Value> {
        let (_, address) = lab.place(name, false)?;
        let pod = lab
            .pods
            .iter()
            .find(|pod| pod.sandbox.full_name() == **name);
        let node = lab.node(pod.context("the pod")?.node)?.agent.node();
        Ok(json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}}))
    };
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect::<Result<_>>()?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "front-1", "labels": {"kubernetes.io/service-name": "front"}},
        "addressType": "IPv4",
        "ports": [
            {"name": "echo", "protocol": "TCP", "port": 8080},
            {"name": "echo-udp", "protocol": "UDP", "port": 8080},
        ],
        "endpoints": endpoints,
    });
    lab.drop_manifest("front-slices.yaml", &slice.to_string())?;
    lab.wait_synced()
}

fn show_all(lab: &Lab) -> Result<()> {
    let mut asked = 0;
    for pod in &lab.pods {
        let name = pod.sandbox.full_name();
        asked += show_one(&name, &pod.sandbox.netns, CLUSTER_IP.into())?;
    }
    for node in &lab.nodes {
        asked += show_one(node.agent.node(), &node.netns, CLUSTER_IP.into())?;
        let at: SocketAddr = (node.address.parse::<IpAddr>()?, NODE_PORT).into();
        asked += show_one("outside", &lab.outside, at)?;
    }
    println!("  {asked} connections tried, all answered");
    Ok(())
}

/// Asks an address over TCP and UDP; how often.
fn show_one(name: &str, netns: &Netns, to: SocketAddr) -> Result<usize> {
    let mut answered = [0, 0];
    for _ in 0..TIMES {
        for (count, transport) in answered.iter_mut().zip([Transport::Tcp, Transport::Udp]) {
            let verdict = attempt(netns, to, transport, PATIENCE)?;
            *count += usize::from(verdict == Verdict::Answered);
        }
    }
    let [tcp, udp] = answered;
    println!("  {name:<12} → {to:<16} tcp {tcp} of {TIMES}, udp {udp} of {TIMES}");
    ensure!(
        answered == [TIMES; 2],
        "{name} is not always answered at {to}"
    );
    Ok(2 * TIMES)
}
