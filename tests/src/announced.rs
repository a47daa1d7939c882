//! Addresses of Services at the lab's ToR: through whom it sends to them, and nodes that fall silent.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::wait::eventually;

/// For `Frr::start_bfdd`: the profile `fast`, 3 times 100 ms.
pub const BFDD: &str = "\
bfd
 profile fast
  receive-interval 100
  transmit-interval 100
  detect-multiplier 3
 !
!
";

/// What an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// Ready.
    Ready,
    /// About to end, and answering still.
    Ending,
}

/// Has the ToR spread over ways of the same length, by ports, too, and nodes have a way to everywhere.
///
/// # Errors
/// When a setting is refused.
pub fn spread(lab: &Lab) -> Result<()> {
    // By addresses alone all that one client sends would go by one node.
    let hash = "net.ipv4.fib_multipath_hash_policy";
    lab.tor.sysctl(hash, "1")?;
    // Nodes have an AS each.
    let relax = "bgp bestpath as-path multipath-relax";
    lab.frr
        .vtysh(&["configure terminal", "router bgp 65000", relax])?;
    for node in &lab.nodes {
        node.netns.sysctl("net.ipv4.ip_forward", "1")?;
        let default = format!("route replace default via {}", node.tor);
        node.netns.ip(&default)?;
    }
    Ok(())
}

/// Through whom the ToR's kernel sends to a prefix: addresses of nodes.
///
/// # Errors
/// When `ip` fails.
pub fn ways(lab: &Lab, prefix: &str) -> Result<BTreeSet<String>> {
    let routes = lab
        .tor
        .ip_json(&format!("-d route show {prefix} proto bgp"))?;
    let routes = routes.as_array().cloned().unwrap_or_default();
    let hops =
        routes.iter().flat_map(
            |route| match route.get("nexthops").and_then(Value::as_array) {
                Some(hops) => hops.clone(),
                None => vec![route.clone()],
            },
        );
    let gateways = hops.filter_map(|hop| Some(hop.get("gateway")?.as_str()?.to_owned()));
    Ok(gateways.collect())
}

/// Waits until the ToR sends to a prefix through exactly these nodes' addresses.
///
/// # Errors
/// When it does not in time.
pub fn wait_for_ways(lab: &Lab, prefix: &str, nodes: &[&str], patience: Duration) -> Result<()> {
    let wanted: BTreeSet<String> = nodes.iter().map(|node| (*node).to_owned()).collect();
    eventually(
        patience,
        &format!("{prefix} by {nodes:?} at the ToR"),
        || {
            let ways = ways(lab, prefix)?;
            ensure!(ways == wanted, "{ways:?}");
            Ok(())
        },
    )
}

/// Packets that the ToR has sent to each node.
///
/// # Errors
/// When `ip` fails.
pub fn sent_to_nodes(lab: &Lab) -> Result<Vec<u64>> {
    let sent = lab.nodes.iter().map(|node| {
        let link = format!("-s link show {}", node.agent.node());
        let links = lab.tor.ip_json(&link)?;
        let packets = links.pointer("/0/stats64/tx/packets");
        packets
            .and_then(Value::as_u64)
            .context("no count of packets")
    });
    sent.collect()
}

/// The EndpointSlice of a Service (namespace and name) with these TCP ports and pods, as a controller would write it.
///
/// # Errors
/// When a pod isn't attached.
pub fn slice(
    lab: &Lab,
    (namespace, service): (&str, &str),
    ports: &[(&str, u16)],
    pods: &[(&str, Is)],
) -> Result<String> {
    let endpoint = |(name, is): &(&str, Is)| -> Result<Value> {
        let (_, address) = lab.place(name, false)?;
        let mut pods = lab.pods.iter();
        let pod = pods.find(|pod| pod.sandbox.full_name() == **name);
        let node = lab.node(pod.context("the pod")?.node)?.agent.node();
        let is_ready = *is == Is::Ready;
        Ok(json!({
            "addresses": [address], "nodeName": node,
            "conditions": {"ready": is_ready, "serving": true, "terminating": !is_ready},
        }))
    };
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect::<Result<_>>()?;
    let port = |(name, port): &(&str, u16)| json!({"name": name, "protocol": "TCP", "port": port});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": format!("{service}-1"),
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
        "endpoints": endpoints,
    });
    Ok(slice.to_string())
}

/// From now on all that goes between a node (by index) and the ToR is lost without a word, or no more.
///
/// # Errors
/// When iptables fails.
pub fn silence(lab: &Lab, node: usize, is_dead: bool) -> Result<()> {
    let verb = if is_dead { "-I" } else { "-D" };
    for (chain, direction) in [("PREROUTING", "-i"), ("OUTPUT", "-o")] {
        let words = ["-t", "raw", verb, chain, direction, "uplink", "-j", "DROP"];
        lab.node(node)?.netns.run("iptables", &words)?;
    }
    Ok(())
}

/// Has the ToR watch both nodes by BFD (`start_bfdd` with [`BFDD`] before), and waits until both sessions are up.
///
/// # Errors
/// When they don't come up in time: BGPPeers must have `bfd`, too.
pub fn watch_by_bfd(lab: &Lab, patience: Duration) -> Result<()> {
    let mut words = vec!["configure terminal", "router bgp 65000"];
    let neighbors: Vec<String> = lab
        .nodes
        .iter()
        .map(|node| format!("neighbor {} bfd profile fast", node.address))
        .collect();
    words.extend(neighbors.iter().map(String::as_str));
    lab.frr.vtysh(&words)?;
    eventually(patience, "every session of BFD up", || {
        let peers = lab.frr.json("show bfd peers json")?;
        let peers = peers.as_array().cloned().unwrap_or_default();
        let up = peers.iter().filter_map(|peer| peer.get("status"));
        let up = up.filter(|status| *status == "up").count();
        ensure!(up == lab.nodes.len(), "{peers:?}");
        Ok(())
    })
}
