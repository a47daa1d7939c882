//! Tunnels, and what comes from other nodes.

use super::super::super::evidence::TunnelFacts;
use super::*;

const DEVICE: u32 = 5;

fn ends(from: &str, to: &str) -> (IpAddr, IpAddr) {
    (address(from), address(to))
}

/// The healthy path, through a tunnel whose packets leave by the uplink.
fn tunnelled(e: &mut Evidence) {
    let device = link("vxlan.portolan", DEVICE);
    e.node.links.push(device.clone());
    let way = Way::Out {
        link: UPLINK,
        gateway: None,
    };
    e.node.way = Way::Out {
        link: DEVICE,
        gateway: Some(address("10.244.2.0")),
    };
    e.node.tunnel = Some(TunnelFacts {
        device,
        gateway: address("10.244.2.0"),
        mac: Some([2; 6]),
        remote: Some(address("10.10.1.3")),
        way: Some(way),
        neighbour: None,
    });
    let inner = seen(
        Place::Node,
        DEVICE,
        Direction::Out,
        Kind::Probe(0),
        "10.244.1.1",
    );
    let mut outer = inner;
    (outer.link, outer.seen.tunnel) = (UPLINK, Some(ends("10.10.1.2", "10.10.1.3")));
    // In the place of the one that left as it is.
    e.sightings.splice(2..3, [inner, outer]);
}

#[test]
fn a_tunnel_is_a_hop_and_what_is_missing_in_it_is_told() {
    let with = |change: &dyn Fn(&mut Evidence)| {
        told(|e| {
            tunnelled(e);
            change(e);
        })
    };
    let broken = "tunnel at tunnel vxlan.portolan";
    assert_eq!(with(&|_| ()), "reached");
    assert_eq!(with(&unanswered_whole), broken);
    let not_sent = |e: &mut Evidence| gone_from(e, |one| one.link == UPLINK);
    assert_eq!(with(&not_sent), broken);
    let what = |change: &dyn Fn(&mut TunnelFacts)| {
        let mut e = healthy();
        tunnelled(&mut e);
        not_sent(&mut e);
        change(e.node.tunnel.as_mut().unwrap());
        judge(&e).broken.unwrap().what
    };
    assert!(what(&|_| ()).starts_with("nothing leaves to 10.10.1.3"));
    assert!(what(&|t| t.remote = None).contains("no forwarding entry of 02:02"));
    assert!(
        what(&|t| (t.remote, t.mac) = (None, None)).contains("no neighbour entry of 10.244.2.0")
    );
    let no_way = what(&|t| t.way = Some(Way::Nowhere(NoWay::NoRoute)));
    assert!(
        no_way.starts_with("there is no route to 10.10.1.3"),
        "{no_way}"
    );
    let silent = Neighbour {
        mac: None,
        silent: true,
    };
    assert!(
        what(&|t| t.neighbour = Some(silent)).contains("does not answer for its address on uplink")
    );
}

/// Neither the target nor a router says anything.
fn unanswered_whole(e: &mut Evidence) {
    gone_from(e, |one| matches!(one.seen.kind, Kind::Error { .. }));
}

/// What comes by a tunnel from another node to a pod of this one, and its answer.
fn arriving() -> Evidence {
    use Direction::{In, Out};
    let mut e = healthy();
    let (probe, taken) = (Kind::Probe(0), Kind::Accepted(0));
    let (pod, db) = ("10.244.1.1", "10.244.2.1");
    e.pod = None;
    e.node.links.push(link("vxlan.portolan", DEVICE));
    (e.node.host_end, e.node.target_end) = (DEVICE, Some(TARGET_END));
    e.node.way = Way::Out {
        link: TARGET_END,
        gateway: None,
    };
    e.node.way_back = Some(Way::Out {
        link: DEVICE,
        gateway: None,
    });
    e.target = Some(TargetFacts {
        link: link("eth0", 1),
        enter: "nsenter --net=/t".to_owned(),
    });
    let in_tunnel = |mut one: Sighting, from, to| {
        one.seen.tunnel = Some(ends(from, to));
        one
    };
    let (near, far) = ("10.10.1.2", "10.10.1.3");
    e.sightings = vec![
        in_tunnel(seen(Place::Node, UPLINK, In, probe, pod), far, near),
        seen(Place::Node, DEVICE, In, probe, pod),
        seen(Place::Node, TARGET_END, Out, probe, pod),
        seen(Place::Target, 1, In, probe, pod),
        seen(Place::Target, 1, Out, taken, db),
        seen(Place::Node, TARGET_END, In, taken, db),
        seen(Place::Node, DEVICE, Out, taken, db),
        in_tunnel(seen(Place::Node, UPLINK, Out, taken, db), near, far),
    ];
    e
}

#[test]
fn what_comes_from_elsewhere_is_followed_to_the_pod_and_back() {
    let trace = judge(&arriving());
    assert_eq!(trace.outcome, Outcome::Reached, "{trace:#?}");
    let hops: Vec<&str> = trace.hops.iter().map(|hop| hop.hop.as_str()).collect();
    assert_eq!(
        hops,
        [
            "link uplink",
            "link vxlan.portolan",
            "node n1",
            "target shop/db",
            "node n1"
        ]
    );
    let last = &trace.hops[4].what;
    assert_eq!(
        last,
        "the answer leaves by vxlan.portolan, in a tunnel to 10.10.1.3 by uplink"
    );
}

#[test]
fn where_it_ends_on_its_way_in_or_back_is_told() {
    let cut = |at: usize, change: &dyn Fn(&mut Evidence)| {
        let mut e = arriving();
        e.sightings.truncate(at);
        change(&mut e);
        let broken = judge(&e).broken.unwrap();
        format!("{} at {}", broken.name, broken.hop)
    };
    let nothing = |_: &mut Evidence| ();
    assert_eq!(cut(0, &nothing), "not-arrived at node n1");
    assert_eq!(cut(1, &nothing), "tunnel-in at link uplink");
    let guarded = |e: &mut Evidence| {
        e.risen.push(RulePlace {
            program: "iptables-nft".to_owned(),
            table: "filter".to_owned(),
            chain: "PTL-TUNNELS".to_owned(),
            rule: "-p udp -j DROP".to_owned(),
            target: "DROP".to_owned(),
        });
    };
    assert_eq!(cut(1, &guarded), "tunnel-in at node n1");
    assert_eq!(cut(2, &nothing), "lost at node n1");
    assert_eq!(cut(4, &nothing), "target-silent at target shop/db");
    let no_way = |e: &mut Evidence| e.node.way_back = Some(Way::Nowhere(NoWay::NoRoute));
    assert_eq!(cut(6, &no_way), "route-back at node n1");
    assert_eq!(cut(6, &nothing), "lost at node n1");
}
