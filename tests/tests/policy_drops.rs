//! Denied packets are seen: by `portolan policy drops`, with the policy's name, and no faster than the rate.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::one_node::OneNode;
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::wait::eventually;

const SEEN: Duration = Duration::from_secs(1);
const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {nodeName: node1, containers: [{name: a, image: a}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: node1, containers: [{name: a, image: a}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: nobody-to-db}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
";

fn drops(one: &OneNode) -> Result<Vec<Value>> {
    let text = one.agent.verb(&["policy", "drops", "-o", "json"])?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn start(tag: &str, flags: &[&str]) -> OneNode {
    let mut one = OneNode::start(tag, MANIFESTS, flags).unwrap();
    one.attach("shop", "db").unwrap();
    one.attach("shop", "web").unwrap();
    one
}

#[test]
fn a_denied_packet_is_shown_within_a_second_with_the_policys_name() {
    require_root!();
    let one = start("drp", &["--drop-log", "7:100"]);
    let other = start("drq", &["--drop-log", "7:100"]);
    let web = &one.pods[1];
    for (transport, name) in [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")] {
        for (to, from) in one.pods[0].addresses.iter().zip(&web.addresses) {
            let look = attempt(&web.sandbox.netns, server_at(*to), transport, SEEN / 4);
            assert_eq!(look.unwrap(), Verdict::Silent);
            let what = format!("the denied {name} packet to {to}");
            eventually(SEEN, &what, || -> Result<()> {
                let found = drops(&one)?
                    .into_iter()
                    .find(|drop| drop["protocol"] == name && drop["destination"] == to.to_string());
                let Some(drop) = found else {
                    anyhow::bail!("not among {:?}", drops(&one)?)
                };
                ensure!(
                    drop["policies"][0] == "NetworkPolicy shop/nobody-to-db",
                    "{drop}"
                );
                ensure!(
                    drop["direction"] == "ingress" && drop["destinationPort"] == 8080,
                    "{drop}"
                );
                ensure!(drop["source"] == from.to_string(), "{drop}");
                ensure!(
                    drop["fromPod"] == "shop/web" && drop["toPod"] == "shop/db",
                    "{drop}"
                );
                Ok(())
            })
            .unwrap();
        }
    }
    let table = one.agent.verb(&["policy", "drops"]).unwrap();
    assert!(
        table.contains("(NetworkPolicy shop/nobody-to-db)"),
        "{table}"
    );
    // The same group in another network namespace is another group.
    assert_eq!(drops(&other).unwrap(), Vec::<Value>::new());
}

#[test]
fn ten_thousand_denied_packets_show_no_more_than_the_rate() {
    require_root!();
    let one = start("drr", &["--drop-log", "7:20"]);
    let to = SocketAddr::new(one.pods[0].addresses[0], 9);
    let from: IpAddr = one.pods[1].addresses[0];
    let start = std::time::Instant::now();
    let send = move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..10_000 {
            socket.send_to(b"x", to).unwrap();
        }
    };
    one.pods[1].sandbox.netns.inside(send).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let shown = drops(&one).unwrap().len();
    // `limit` lets a burst of 5 through at first, unless told otherwise.
    let most = 20.0 * start.elapsed().as_secs_f64() + 25.0;
    assert!(
        shown >= 5 && (shown as f64) < most,
        "{shown} shown, at most {most}"
    );
}

#[test]
fn without_the_flag_the_verb_says_how_to_see_them() {
    require_root!();
    let one = start("drn", &[]);
    let error = one.agent.verb(&["policy", "drops"]).unwrap_err();
    assert!(format!("{error:#}").contains("--drop-log"), "{error:#}");
}
