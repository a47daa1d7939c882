//! What IPVS sends on: judged behind it, with its endpoint's address; and what is no business of these rules.

use netfilter::CtState;

use super::fixture::*;
use super::interpreter::{Packet, SERVICE, Verdict, Walk, with_ipvs};
use crate::EgressToOwnNode;

const X: &str = "10.0.0.1";
const Y: &str = "10.0.0.2";
const Z: &str = "10.0.1.3";
const OUTSIDE: &str = "192.0.2.9";

/// The small cluster, with one policy on `app=x`.
fn cluster(is_ingress: bool) -> Cluster {
    let mut cluster = Cluster::small();
    cluster.settings.ipvs = Some(with_ipvs());
    let mut one = policy("a/p", "app=x");
    let rules = Some(vec![rule(Some(vec![pods(None, "app=z")]), None)]);
    if is_ingress {
        one.ingress = rules;
    } else {
        one.egress = rules;
    }
    cluster.policies.push(one);
    cluster
}

fn packet(cluster: &Cluster, from: &str, to: &str) -> Packet {
    let interface = |text: &str| cluster.interface_of(ip(text)).unwrap_or("eth0").to_owned();
    Packet {
        source: ip(from),
        destination: ip(to),
        input: interface(from),
        output: interface(to),
        protocol: 6,
        port: 80,
        state: CtState::New,
        syn: true,
    }
}

fn passes(cluster: &Cluster, packet: &Packet) -> bool {
    Walk::by_ipvs(&cluster.compile(), packet, ip(SERVICE[0])) == Verdict::Passed
}

#[test]
fn what_ipvs_sends_on_is_judged_by_its_endpoint_and_its_true_source() {
    let policed = cluster(false);
    assert!(passes(&policed, &packet(&policed, X, Z)));
    assert!(!passes(&policed, &packet(&policed, X, Y)));
    assert!(!passes(&policed, &packet(&policed, X, OUTSIDE)));
    assert!(passes(&policed, &packet(&policed, Y, X)), "ingress is open");
    let policed = cluster(true);
    assert!(passes(&policed, &packet(&policed, Z, X)));
    assert!(!passes(&policed, &packet(&policed, Y, X)));
    assert!(!passes(&policed, &packet(&policed, OUTSIDE, X)));
    assert!(passes(&policed, &packet(&policed, OUTSIDE, Z)));
    assert!(passes(&policed, &packet(&policed, X, X)), "itself");
}

#[test]
fn what_goes_on_passes_and_what_was_cut_does_not_go_on_behind_ipvs() {
    for is_ingress in [false, true] {
        let cluster = cluster(is_ingress);
        let (from, to) = if is_ingress { (Y, X) } else { (X, Y) };
        let mut reply = packet(&cluster, to, from);
        reply.state = CtState::Established;
        assert!(passes(&cluster, &reply), "a reply");
        reply.state = CtState::New;
        assert!(passes(&cluster, &reply), "asked the other way round");
        reply.syn = false;
        assert!(!passes(&cluster, &reply), "taken up the other way round");
    }
}

/// Rules that another has put before ours, or an emptied table: what nobody has judged goes to no policed pod.
#[test]
fn what_was_not_marked_when_it_came_is_dropped_by_the_guard() {
    let cluster = cluster(true);
    let compiled = cluster.compile();
    let mut unmarked = packet(&cluster, OUTSIDE, X);
    unmarked.input = String::new();
    let verdict = Walk::sent_on(&compiled, &unmarked, 0);
    assert_eq!(verdict, Verdict::Dropped);
    // This node's own.
    assert_eq!(Walk::with_mark(&compiled, &unmarked, 0).0, Verdict::Passed);
}

#[test]
fn what_a_pod_sends_to_a_service_is_not_for_its_node_and_all_else_is() {
    let mut cluster = cluster(false);
    cluster.settings.egress_to_own_node = EgressToOwnNode::Policed;
    assert!(passes(&cluster, &packet(&cluster, X, Z)));
    let mut to_node = packet(&cluster, X, "192.0.2.1");
    to_node.output = String::new();
    let compiled = cluster.compile();
    assert_eq!(Walk::of(&compiled, &to_node).0, Verdict::Dropped);
    cluster.settings.ipvs = Some(crate::IpvsSettings { led: None });
    assert!(
        !passes(&cluster, &packet(&cluster, X, Z)),
        "no set says that it is IPVS's"
    );
}
