//! Next-hop tracking against a real kernel, each test in a namespace of its own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test"
)]

mod lab;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lab::{in_netns, ip, uplink};
use routes::{Gateway, NextHopTracker, Reach, RouteTable, Target};
use tokio::time::timeout;

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn next(tracker: &mut NextHopTracker) -> BTreeMap<IpAddr, Reach> {
    let changed = timeout(Duration::from_secs(5), tracker.next()).await;
    changed.unwrap().unwrap()
}

#[test]
fn next_hops_are_resolved_by_the_longest_prefix_that_is_not_ours() {
    in_netns(|| async {
        uplink();
        ip("route add 10.9.0.0/16 via 192.0.2.9 metric 20 proto static");
        ip("route add 10.9.1.0/24 via 192.0.2.9 metric 30 proto bird");
        ip("route add unreachable 10.9.2.0/24 proto static");
        ip("route add 10.8.0.0/16 proto static nexthop via 192.0.2.8 nexthop via 192.0.2.9");
        ip("nexthop add id 5 via 192.0.2.7 dev up0 proto static");
        ip("route add 10.7.0.0/16 nhid 5 proto static");
        ip("-6 route add 2001:db8:9::/48 via 2001:db8::9 metric 7 proto static");
        let mut table = RouteTable::open().await.unwrap();
        let ours = Target::Gateways(vec![Gateway::new(at("192.0.2.2"))]);
        table.set("10.6.0.0/16".parse().unwrap(), Some(ours.clone()));
        table.set("0.0.0.0/0".parse().unwrap(), Some(ours));
        assert_eq!(table.apply().await.written, 2);

        let mut tracker = NextHopTracker::open().await.unwrap();
        let cases = [
            ("192.0.2.77", true, 0, true),
            ("10.9.3.1", true, 20, true),
            ("10.9.1.1", true, 30, true),
            ("10.9.2.1", false, 0, false),
            ("10.8.0.1", true, 0, false),
            ("10.7.0.1", true, 0, true),
            ("10.6.0.1", false, 0, false),
            ("203.0.113.1", false, 0, false),
            ("2001:db8:9::1", true, 7, true),
            ("2001:db8::7", true, 256, true),
            ("2001:db8:f::1", false, 0, false),
        ];
        let asked = cases.iter().map(|(address, ..)| at(address)).collect();
        let answers = tracker.watch(asked).await.unwrap();
        for (address, reachable, metric, one_link) in cases {
            let reach = answers[&at(address)];
            let seen = (reach.reachable, reach.metric, reach.link.is_some());
            assert_eq!(seen, (reachable, metric, one_link), "{address}");
            let on_link = ["192.0.2.77", "2001:db8::7"].contains(&address);
            assert_eq!(reach.connected, on_link, "{address}");
        }
        assert_eq!(answers[&at("10.9.1.1")].via, Some(at("192.0.2.9")));
        for address in ["192.0.2.77", "10.8.0.1", "10.9.2.1"] {
            assert_eq!(answers[&at(address)].via, None, "{address}");
        }
    });
}

#[test]
fn a_changed_route_or_link_tells_only_the_next_hops_that_changed() {
    in_netns(|| async {
        uplink();
        ip("route add 10.9.0.0/16 via 192.0.2.9 proto static");
        let mut tracker = NextHopTracker::open().await.unwrap();
        let watched = ["10.9.0.1", "10.8.0.1", "192.0.2.2"].map(at);
        let answers = tracker.watch(watched.into()).await.unwrap();
        assert!(answers[&watched[0]].reachable && !answers[&watched[1]].reachable);

        // Routes of ours change nothing, whoever writes them.
        let mut table = RouteTable::open().await.unwrap();
        let ours = Target::Gateways(vec![Gateway::new(at("192.0.2.2"))]);
        table.set("10.8.0.0/16".parse().unwrap(), Some(ours));
        assert_eq!(table.apply().await.written, 1);
        // A default route that has several next hops counts (openbgpd-portable 87).
        ip("route add default proto static nexthop via 192.0.2.8 nexthop via 192.0.2.9");
        let changed = next(&mut tracker).await;
        assert_eq!(changed.keys().copied().collect::<Vec<_>>(), [watched[1]]);
        assert!(changed[&watched[1]].reachable);

        ip("route replace 10.9.0.0/16 via 192.0.2.9 proto static metric 50");
        ip("route del 10.9.0.0/16 metric 0");
        let mut metric = None;
        while metric != Some(50) {
            metric = next(&mut tracker).await.get(&watched[0]).map(|r| r.metric);
        }
        // The far end goes: no carrier, and the kernel says so only of the link.
        ip("link set up1 down");
        let mut gone = BTreeMap::new();
        while gone.len() < 3 {
            let news = next(&mut tracker).await;
            gone.extend(news.into_iter().filter(|(_, reach)| !reach.reachable));
        }
        ip("link set up1 up");
        let mut back = BTreeMap::new();
        while back.len() < 3 {
            let news = next(&mut tracker).await;
            back.extend(news.into_iter().filter(|(_, reach)| reach.reachable));
        }
    });
}
