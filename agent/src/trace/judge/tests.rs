//! A healthy path, and what each change of the evidence makes of it.

use std::net::IpAddr;

use routes::{LinkInfo, Neighbour, NoWay, SeenRoute, Way};

use super::super::evidence::{
    Ends, Evidence, NodeFacts, PodFacts, Purpose, Sent, Side, Sides, TargetFacts,
};
use super::super::outcome::Outcome;
use super::super::packet::{IcmpError, Kind, Seen, Transport};
use super::super::rules::RulePlace;
use super::super::watch::{Direction, Place, Sighting};
use super::judge;

mod elsewhere;

const HOST_END: u32 = 2;
const UPLINK: u32 = 3;
const TARGET_END: u32 = 4;

fn link(name: &str, index: u32) -> LinkInfo {
    LinkInfo {
        name: name.to_owned(),
        index,
        up: true,
        carrier: true,
        running: true,
        loopback: false,
        peer: None,
        alias: String::new(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        kind: "veth".to_owned(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn side(direction: &str) -> Side {
    Side {
        allowed: true,
        by: "nothing is said against it".to_owned(),
        subject: Some(format!("pod of {direction}")),
        node: Some("n2".to_owned()),
        local: direction == "egress",
    }
}

fn route(prefix: &str, protocol: u8, metric: u32) -> SeenRoute {
    SeenRoute {
        prefix: prefix.parse().unwrap(),
        protocol,
        metric,
        leads_nowhere: false,
        gateways: vec![address("10.10.1.1")],
        links: vec![UPLINK],
        alive: true,
    }
}

fn seen(place: Place, link: u32, direction: Direction, kind: Kind, from: &str) -> Sighting {
    Sighting {
        place,
        link,
        direction,
        seen: Seen {
            kind,
            from: address(from),
            to: address("10.244.2.1"),
            from_port: 1,
            to_port: 8080,
            hops: 64,
            tunnel: None,
        },
    }
}

/// From a pod of this node to one of another: probe 0 gets there, 1 dies at the ToR, 2 is a large one.
fn healthy() -> Evidence {
    use Direction::{In, Out};
    let (probe, taken) = (Kind::Probe(0), Kind::Accepted(0));
    let expired = Kind::Error {
        number: 1,
        error: IcmpError::Expired,
    };
    let (pod, db, tor) = ("10.244.1.1", "10.244.2.1", "10.10.1.1");
    let purposes = [Purpose::Reach, Purpose::Hops(2), Purpose::Size(1500)];
    let sent = purposes.into_iter().zip(0..).map(|(purpose, number)| Sent {
        number,
        purpose,
        error: None,
    });
    let out = Way::Out {
        link: UPLINK,
        gateway: Some(address(tor)),
    };
    Evidence {
        ends: Ends {
            pod: "shop/web".to_owned(),
            from: address(pod),
            to: address(db),
            port: 8080,
            transport: Transport::Tcp,
            target: "shop/db".to_owned(),
            asked: "shop/db:8080".to_owned(),
            target_node: Some("n2".to_owned()),
        },
        pod: Some(PodFacts {
            link: link("eth0", 1),
            enter: "nsenter --net=/n".to_owned(),
            has_address: true,
            way: Way::Out {
                link: 1,
                gateway: Some(address("169.254.1.1")),
            },
            neighbour: None,
        }),
        node: NodeFacts {
            name: Some("n1".to_owned()),
            links: vec![
                link("ptl01", HOST_END),
                link("uplink", UPLINK),
                link("ptl02", TARGET_END),
            ],
            host_end: HOST_END,
            target_end: None,
            forwards: true,
            host_end_forwards: true,
            way: out,
            way_back: None,
            tunnel: None,
            route: Some(route("10.244.2.0/24", 179, 179)),
            neighbour: Some(Neighbour {
                mac: Some([2; 6]),
                silent: false,
            }),
            own: vec![address("10.10.1.2")],
        },
        target: None,
        policy: Some(Sides {
            egress: side("egress"),
            ingress: side("ingress"),
        }),
        risen: Vec::new(),
        sent: sent.collect(),
        sightings: vec![
            seen(Place::Source, 1, Out, probe, pod),
            seen(Place::Node, HOST_END, In, probe, pod),
            seen(Place::Node, UPLINK, Out, probe, pod),
            seen(Place::Node, UPLINK, In, expired, tor),
            seen(Place::Node, UPLINK, In, taken, db),
            seen(Place::Node, HOST_END, Out, taken, db),
            seen(Place::Source, 1, In, taken, db),
            seen(Place::Source, 1, In, Kind::Accepted(2), db),
        ],
    }
}

/// What it comes to, as `name at hop`.
fn told(change: impl FnOnce(&mut Evidence)) -> String {
    let mut evidence = healthy();
    change(&mut evidence);
    let trace = judge(&evidence);
    assert_eq!(trace.broken.is_some(), trace.outcome == Outcome::Dropped);
    trace.broken.map_or_else(
        || "reached".to_owned(),
        |broken| {
            assert!(
                !broken.cause.is_empty() && !broken.remedy.is_empty(),
                "{broken:?}"
            );
            format!("{} at {}", broken.name, broken.hop)
        },
    )
}

/// Nothing is seen from the first sighting on that this is true for.
fn gone_from(evidence: &mut Evidence, first: impl Fn(&Sighting) -> bool) {
    let at = evidence.sightings.iter().position(first).unwrap();
    evidence.sightings.truncate(at);
}

fn stays_here(evidence: &mut Evidence) {
    gone_from(evidence, |one| one.link == UPLINK);
}

fn unanswered(evidence: &mut Evidence) {
    gone_from(evidence, |one| matches!(one.seen.kind, Kind::Accepted(_)));
}

#[test]
fn a_healthy_path_is_reached_and_its_hops_stand_in_their_order() {
    let trace = judge(&healthy());
    assert_eq!(trace.outcome, Outcome::Reached);
    let hops: Vec<&str> = trace.hops.iter().map(|hop| hop.hop.as_str()).collect();
    assert_eq!(
        hops,
        [
            "pod shop/web",
            "host end ptl01",
            "node n1",
            "next hop 10.10.1.1",
            "router 10.10.1.1",
            "target shop/db",
            "target shop/db",
            "target shop/db"
        ]
    );
}

#[test]
fn in_the_pod_the_first_thing_that_is_wrong_is_told() {
    let at_pod = |change: fn(&mut Evidence)| told(change);
    assert_eq!(
        at_pod(|e| e.pod.as_mut().unwrap().link.up = false),
        "pod-link at pod shop/web"
    );
    assert_eq!(
        at_pod(|e| e.pod.as_mut().unwrap().link.carrier = false),
        "host-end at host end ptl01"
    );
    assert_eq!(
        at_pod(|e| e.pod.as_mut().unwrap().has_address = false),
        "pod-address at pod shop/web"
    );
    let nowhere = |e: &mut Evidence| e.pod.as_mut().unwrap().way = Way::Nowhere(NoWay::NoRoute);
    assert_eq!(at_pod(nowhere), "pod-route at pod shop/web");
    assert_eq!(at_pod(|e| e.sightings.clear()), "pod-rules at pod shop/web");
    assert_eq!(
        at_pod(|e| {
            e.sightings.clear();
            e.pod.as_mut().unwrap().neighbour = Some(Neighbour {
                mac: None,
                silent: true,
            });
        }),
        "pod-neighbour at pod shop/web"
    );
    assert_eq!(
        at_pod(|e| {
            e.sightings.truncate(2);
            e.sightings[1].direction = Direction::Stray;
        }),
        "pod-neighbour at host end ptl01"
    );
    assert_eq!(
        at_pod(|e| e.sightings.truncate(1)),
        "lost at host end ptl01"
    );
}

#[test]
fn on_the_node_what_was_counted_goes_before_what_could_be() {
    let rule = |chain: &str, rule: &str| RulePlace {
        program: "iptables-nft".to_owned(),
        table: "filter".to_owned(),
        chain: chain.to_owned(),
        rule: rule.to_owned(),
        target: "DROP".to_owned(),
    };
    let here = |change: &dyn Fn(&mut Evidence)| {
        told(|e| {
            stays_here(e);
            change(e);
        })
    };
    assert_eq!(here(&|_| ()), "lost at node n1");
    assert_eq!(here(&|e| e.node.forwards = false), "forwarding at node n1");
    let foreign = |e: &mut Evidence| {
        e.node.forwards = false;
        e.risen = vec![rule("FORWARD", "-j DROP")];
    };
    assert_eq!(here(&foreign), "foreign-rule at node n1");
    let denied = |e: &mut Evidence| e.policy.as_mut().unwrap().egress.allowed = false;
    assert_eq!(here(&denied), "policy-egress at node n1");
    let both = |e: &mut Evidence| {
        denied(e);
        e.risen = vec![rule("FORWARD", "-j DROP"), rule("PTL-GE-1", "-j DROP")];
    };
    assert_eq!(here(&both), "policy-egress at node n1");
    // Without an agent the chain says which direction it is.
    let by_chain = |e: &mut Evidence| {
        e.policy = None;
        e.risen = vec![rule("PTL-GI-1", "-j DROP")];
    };
    assert_eq!(here(&by_chain), "policy-ingress at node n1");
    let nowhere = |e: &mut Evidence| e.node.way = Way::Nowhere(NoWay::Blackhole);
    assert_eq!(here(&nowhere), "route-missing at node n1");
    let blackhole = |e: &mut Evidence| {
        nowhere(e);
        e.node.route.as_mut().unwrap().leads_nowhere = true;
    };
    assert_eq!(here(&blackhole), "route-nowhere at node n1");
    let down = |e: &mut Evidence| e.node.links[1].carrier = false;
    assert_eq!(here(&down), "link-down at node n1");
    let silent = |e: &mut Evidence| e.node.neighbour.as_mut().unwrap().silent = true;
    assert_eq!(here(&silent), "next-hop at next hop 10.10.1.1");
    let reverse = |e: &mut Evidence| e.node.way = Way::Nowhere(NoWay::ReversePath);
    assert_eq!(here(&reverse), "reverse-path at node n1");
}

#[test]
fn a_target_of_this_node_is_looked_at_from_inside() {
    use Direction::{In, Out};
    let local = |e: &mut Evidence| {
        e.node.target_end = Some(TARGET_END);
        e.target = Some(TargetFacts {
            link: link("eth0", 1),
            enter: "nsenter --net=/t".to_owned(),
        });
        e.node.way = Way::Out {
            link: TARGET_END,
            gateway: None,
        };
        stays_here(e);
    };
    assert_eq!(
        told(|e| {
            local(e);
            e.node.links[2].carrier = false;
        }),
        "target-link at target shop/db"
    );
    let probe = Kind::Probe(0);
    let left = |e: &mut Evidence| {
        local(e);
        e.sightings
            .push(seen(Place::Node, TARGET_END, Out, probe, "10.244.1.1"));
    };
    assert_eq!(told(left), "lost at target shop/db");
    let arrived = |e: &mut Evidence| {
        left(e);
        e.sightings
            .push(seen(Place::Target, 1, In, probe, "10.244.1.1"));
    };
    assert_eq!(told(arrived), "target-silent at target shop/db");
    // A datagram needs no answer.
    assert_eq!(
        told(|e| {
            arrived(e);
            e.ends.transport = Transport::Udp;
        }),
        "reached"
    );
}

#[test]
fn behind_the_node_who_says_so_is_named_and_else_the_last_that_answered() {
    assert_eq!(told(unanswered), "router at behind 10.10.1.1");
    let says = |error| {
        told(|e| {
            unanswered(e);
            let kind = Kind::Error { number: 0, error };
            e.sightings
                .push(seen(Place::Node, UPLINK, Direction::In, kind, "10.10.2.2"));
        })
    };
    for error in [
        IcmpError::Forbidden,
        IcmpError::Unreachable(0),
        IcmpError::Expired,
    ] {
        assert_eq!(says(error), "router-refused at router 10.10.2.2");
    }
    let foreign = |e: &mut Evidence| {
        unanswered(e);
        e.node.route = Some(route("10.244.2.1/32", 3, 0));
    };
    assert_eq!(told(foreign), "route-foreign at node n1");
    // To outside every route is others'.
    assert_eq!(
        told(|e| {
            foreign(e);
            e.ends.target_node = None;
        }),
        "router at behind 10.10.1.1"
    );
    assert_eq!(
        told(|e| {
            unanswered(e);
            e.policy.as_mut().unwrap().ingress.allowed = false;
        }),
        "policy-ingress at node n2"
    );
}

#[test]
fn an_answer_is_told_for_what_it_says_and_for_where_it_is_lost() {
    let back = |e: &mut Evidence| {
        gone_from(e, |one| {
            one.link == HOST_END && one.direction == Direction::Out
        })
    };
    assert_eq!(told(back), "lost at node n1");
    assert_eq!(
        told(|e| {
            back(e);
            e.node.way_back = Some(Way::Nowhere(NoWay::ReversePath));
        }),
        "reverse-path at node n1"
    );
    let refused = |e: &mut Evidence| {
        let all = e.sightings.iter_mut();
        all.filter(|one| one.seen.kind == Kind::Accepted(0))
            .for_each(|one| one.seen.kind = Kind::Refused(0));
    };
    assert_eq!(told(refused), "listener at target shop/db");
}

#[test]
fn what_is_too_large_is_told_by_who_says_so_or_by_what_passes() {
    let small = |e: &mut Evidence| {
        e.sightings.pop();
    };
    assert_eq!(told(small), "reached");
    let passes = |e: &mut Evidence| {
        small(e);
        e.sent.push(Sent {
            number: 3,
            purpose: Purpose::Size(1400),
            error: None,
        });
        let kind = Kind::Accepted(3);
        e.sightings
            .push(seen(Place::Source, 1, Direction::In, kind, "10.244.2.1"));
    };
    assert_eq!(told(passes), "mtu at target shop/db");
    assert_eq!(
        told(|e| {
            passes(e);
            let error = IcmpError::TooLarge(1450);
            let kind = Kind::Error { number: 2, error };
            e.sightings
                .push(seen(Place::Source, 1, Direction::In, kind, "10.10.1.1"));
        }),
        "mtu at router 10.10.1.1"
    );
}
