//! IPVS beside policy: what it leads is judged behind it, by the endpoint that it chose and the source that it came from.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::ensure;
use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::rack::say;
use tests::reach::Transport;
use tests::seen::ask;
use tests::wait::eventually;

use super::{
    ANSWER, BALANCED_HERE, ECHO, EXTERNAL, FAR, HOST, LOCAL, NEAR, NODE, NODE_PORT, OWN, PATIENCE,
    PORT, TELLS, TRANSPORTS, at, seen, start_agent, wait_for_mode,
};

const FILE: &str = "manifests/policies.yaml";
/// So long nobody is waited for who must not answer.
const DENIED: Duration = Duration::from_secs(2);

/// The first pod sends to these alone, and the second gets from those alone; both families.
fn policies(to: &str, from: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: one, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: one}}}}, policyTypes: [Egress], egress: [{{to: [{to}]}}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: two, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: two}}}}, policyTypes: [Ingress], ingress: [{{from: [{from}]}}]}}
"
    )
}

fn pod(app: &str) -> String {
    format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}")
}

fn outside() -> String {
    "{ipBlock: {cidr: 192.0.2.10/32}}, {ipBlock: {cidr: \"2001:db8::10/128\"}}".to_owned()
}

fn apply(lab: &mut OneNode, policies: &str) {
    std::fs::write(lab.folder().join(FILE), policies).unwrap();
    lab.agent.wait_synced().unwrap();
}

/// How many were answered, and how many were not, as they must.
#[derive(Default)]
struct Counts {
    allowed: usize,
    denied: usize,
}

impl Counts {
    fn check(&mut self, from: &Netns, to: (&str, u16), is_allowed: bool, what: &str) {
        for transport in TRANSPORTS {
            let to = at(to.0, to.1);
            let patience = if is_allowed { ANSWER } else { DENIED };
            let by = ask(from, to, transport, patience).unwrap();
            assert_eq!(by.is_some(), is_allowed, "{what}: {to} by {transport}");
            match is_allowed {
                true => self.allowed += 1,
                false => self.denied += 1,
            }
        }
    }
}

/// The first pod asks the second, and the second is asked by the first.
fn pods_alone(lab: &OneNode, counts: &mut Counts) {
    let [one, two] = [0, 1].map(|at| &lab.pods[at].sandbox.netns);
    for family in 0..2 {
        let own = &lab.pods[0].addresses[family].to_string();
        let by = seen(one, at(NEAR[family], PORT), Transport::Tcp).unwrap();
        assert_eq!(by.to_string(), *own, "judged by its own source");
        counts.check(one, (NEAR[family], PORT), true, "its endpoint is allowed");
        counts.check(one, (FAR[family], PORT), false, "its endpoint is not");
        counts.check(one, (OWN[family], PORT), true, "hairpin, egress");
        counts.check(two, (NEAR[family], PORT), true, "hairpin, ingress");
        counts.check(&lab.node, (NEAR[family], PORT), true, "node to own pod");
        counts.check(&lab.outside, (EXTERNAL[family], PORT), false, "outside");
    }
    counts.check(one, (NODE, NODE_PORT), true, "node port, egress");
    counts.check(one, (LOCAL[0], PORT), false, "policy Local");
    counts.check(&lab.outside, (NODE, NODE_PORT), false, "node port");
    counts.check(&lab.outside, (BALANCED_HERE, PORT), false, "balancer");
    counts.check(&lab.node, (FAR[0], PORT), true, "the node's own");
}

/// The first pod asks the outside, and the second is asked by it.
fn outside_alone(lab: &OneNode, counts: &mut Counts) {
    let [one, two] = [0, 1].map(|at| &lab.pods[at].sandbox.netns);
    for family in 0..2 {
        counts.check(one, (FAR[family], PORT), true, "its endpoint is allowed");
        counts.check(one, (NEAR[family], PORT), false, "its endpoint is not");
        counts.check(two, (NEAR[family], PORT), true, "hairpin, ingress");
        counts.check(&lab.outside, (EXTERNAL[family], PORT), true, "outside");
    }
    counts.check(one, (NODE, NODE_PORT), false, "node port, egress");
    counts.check(&lab.outside, (NODE, NODE_PORT), true, "node port");
    counts.check(&lab.outside, (BALANCED_HERE, PORT), true, "balancer");
}

/// A connection to an echo server, and whether it answers.
fn connect(from: &Netns, to: &str) -> TcpStream {
    let stream = from.inside(|| TcpStream::connect_timeout(&at(to, ECHO), ANSWER));
    let stream = stream.unwrap().unwrap();
    stream.set_read_timeout(Some(DENIED)).unwrap();
    stream
}

fn answers(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Every way that policies allow and deny, and what becomes of connections when they change; returns how many were
/// answered and how many were not.
pub(super) fn is_judged(lab: &mut OneNode) -> (usize, usize) {
    let mut counts = Counts::default();
    apply(lab, &policies(&outside(), &outside()));
    outside_alone(lab, &mut counts);
    say("outside alone");
    let mut cut = connect(one(lab), FAR[0]);
    let mut kept = connect(&lab.node, NEAR[0]);
    assert!(answers(&mut cut) && answers(&mut kept));
    apply(lab, &policies(&pod("two"), &pod("one")));
    eventually(PATIENCE, "what is denied now is cut", || {
        ensure!(!answers(&mut cut), "it answers");
        Ok(())
    })
    .unwrap();
    assert!(answers(&mut kept), "what is allowed still goes on");
    pods_alone(lab, &mut counts);
    say("pods alone");
    counts.check(one(lab), (HOST[0], PORT), true, "its node as an endpoint");
    start_policed(lab, &["--egress-to-own-node", "policed"]);
    counts.check(one(lab), (NODE, TELLS), false, "its node");
    counts.check(one(lab), (HOST[0], PORT), false, "its node as an endpoint");
    counts.check(one(lab), (NODE, NODE_PORT), true, "its node is denied");
    for family in 0..2 {
        let to = (NEAR[family], PORT);
        counts.check(one(lab), to, true, "its node is denied");
        let to = (FAR[family], PORT);
        counts.check(one(lab), to, false, "its node is denied");
    }
    std::fs::remove_file(lab.folder().join(FILE)).unwrap();
    start_policed(lab, &[]);
    counts.check(one(lab), (FAR[0], PORT), true, "no policy");
    (counts.allowed, counts.denied)
}

fn one(lab: &OneNode) -> &Netns {
    &lab.pods[0].sandbox.netns
}

fn start_policed(lab: &mut OneNode, more: &[&str]) {
    lab.agent.terminate().unwrap();
    start_agent(&mut lab.agent, &lab.node, "ipvs", more);
    wait_for_mode(&lab.node, "ipvs");
}
