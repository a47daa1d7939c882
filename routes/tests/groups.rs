//! Next-hop groups against a real kernel: repointing, healing, adoption, fallback, uninstall.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test"
)]

mod lab;

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::Duration;

use ipnet::IpNet;
use lab::{in_netns, ip, ours, uplink};
use routes::{Gateway, Monitor, Options, RouteTable, Status, Sweep, Target};
use tokio::time::timeout;

const V4: [&str; 2] = ["192.0.2.2", "192.0.2.3"];
const V6: [&str; 2] = ["2001:db8::2", "2001:db8::3"];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "what `set` takes")]
fn via(gateways: &[&str]) -> Option<Target> {
    let gateways = gateways.iter().map(|g| Gateway::new(at(g)));
    Some(Target::Gateways(gateways.collect()))
}

fn nth(n: u32) -> IpNet {
    IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 + n * 64).into(), 26).unwrap()
}

/// Next-hop objects of ours, one a line.
fn objects() -> Vec<String> {
    let text = ip("nexthop show protocol 179");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn index(link: &str) -> u32 {
    let text = ip(&format!("-o link show {link}"));
    text.split(':').next().unwrap().trim().parse().unwrap()
}

async fn inline() -> RouteTable {
    let options = Options {
        next_hop_objects: false,
    };
    RouteTable::open_with(options).await.unwrap()
}

/// Lets the table look and repair at every notice until the kernel's routes are these.
async fn healed(monitor: &mut Monitor, table: &mut RouteTable, expected: &[String]) {
    for _ in 0..20 {
        timeout(Duration::from_secs(5), monitor.next()).await.ok();
        table.resync().await;
        table.apply().await;
        if without_ids(&ours()) == without_ids(expected) {
            return;
        }
    }
    panic!("{:#?} is not {expected:#?}", ours());
}

/// The group's number is the kernel's business.
fn without_ids(lines: &[String]) -> Vec<String> {
    let words = lines.iter().map(|line| {
        let mut words: Vec<&str> = line.split(' ').collect();
        if let Some(place) = words.iter().position(|word| *word == "nhid") {
            words.drain(place..place + 2);
        }
        words.join(" ")
    });
    words.collect()
}

#[test]
fn a_lost_gateway_is_taken_out_of_its_groups_without_a_touch_to_the_routes() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        for n in 0..2_000 {
            table.set(nth(n), via(&V4));
        }
        table.set(net("2001:db8:1::/48"), via(&V6));
        table.set(net("172.16.0.0/16"), via(&[V4[0]]));
        table.set(net("172.17.0.0/16"), via(&[V4[0], V4[1], "192.0.2.4"]));
        assert_eq!(table.apply().await.written, 2_003);
        // Two groups with 192.0.2.2, one of IPv6, and five gateways.
        assert_eq!(table.status().nexthops, 8);
        let done = table.handle_gateway_down(at(V4[0]), None).await;
        assert_eq!((done.groups, done.waiting), (2, 0));
        let lines = ours();
        assert_eq!(lines.len(), 2_000 + 1 + 1 + 3 + 2, "no route was lost");
        let by_lost: Vec<_> = lines.iter().filter(|l| l.contains("192.0.2.2 ")).collect();
        assert_eq!(by_lost.len(), 1, "the one that has no other: {by_lost:?}");
        assert!(!table.is_dirty());

        // As long as it is down, a new route with it does not use it.
        table.set(net("172.18.0.0/16"), via(&[V4[0], "192.0.2.5"]));
        assert_eq!(table.apply().await.written, 1);
        assert!(!ip("route show 172.18.0.0/16").contains("192.0.2.2"));
        // The last one down stays: the RIB will say what follows.
        let last = table.handle_gateway_down(at(V4[1]), None).await;
        assert_eq!((last.groups, last.waiting), (2, 0));
        assert!(ip("route show 172.17.0.0/16").contains("192.0.2.4"));
        assert!(ip("route show 10.0.0.0/26").contains("192.0.2.3"));
        let up = table.handle_gateway_up(at(V4[1]), None).await;
        assert_eq!(up.groups, 2);
        assert_eq!(table.handle_gateway_up(at(V4[0]), None).await.groups, 3);
        let line = ip("route show 10.0.0.0/26");
        assert!(
            line.contains("192.0.2.2") && line.contains("192.0.2.3"),
            "{line}"
        );
        table.resync().await;
        let idle = table.apply().await;
        assert_eq!((idle.written, idle.deleted), (0, 0), "{idle:?}");
    });
}

#[test]
fn what_nobody_names_any_more_is_not_down_when_it_comes_back() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        table.set(nth(0), via(&V4));
        table.apply().await;
        table.handle_gateway_down(at(V4[0]), None).await;
        table.set(nth(0), via(&[V4[1]]));
        assert_eq!(table.apply().await.written, 1);
        assert_eq!(
            objects(),
            Vec::<String>::new(),
            "unused objects are deleted"
        );
        table.set(nth(0), via(&V4));
        table.apply().await;
        assert!(ip("route show 10.0.0.0/26").contains(V4[0]));
    });
}

#[test]
fn a_restart_takes_over_groups_and_writes_nothing() {
    in_netns(|| async {
        uplink();
        let fill = |table: &mut RouteTable| {
            table.set(net("10.1.0.0/16"), via(&V4));
            table.set(net("10.2.0.0/16"), via(&[V4[1], V4[0]]));
            table.set(net("2001:db8:1::/48"), via(&V6));
        };
        let mut first = RouteTable::open().await.unwrap();
        fill(&mut first);
        first.set(net("10.9.0.0/16"), via(&["192.0.2.2", "192.0.2.9"]));
        assert_eq!(first.apply().await.written, 4);
        let (before, held) = (ours(), objects());
        drop(first);

        let mut second = RouteTable::open().await.unwrap();
        assert_eq!((second.status().adopted, second.status().nexthops), (4, 8));
        fill(&mut second);
        let report = second.apply().await;
        assert_eq!((report.written, report.deleted), (0, 0), "{report:?}");
        assert_eq!((ours(), objects()), (before, held));
        second.permit_sweep(Sweep::Learned);
        assert_eq!(second.apply().await.deleted, 1);
        assert_eq!(second.status().nexthops, 6, "{:?}", objects());
        assert_eq!(objects().len(), 6);
    });
}

#[test]
fn next_hop_objects_removed_by_others_are_put_back_with_their_routes() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        table.set(net("10.1.0.0/16"), via(&V4));
        table.set(net("2001:db8:1::/48"), via(&V6));
        assert_eq!(table.apply().await.written, 2);
        let before = ours();
        let group = |text: &str| {
            let line = objects().into_iter().find(|l| l.contains(text)).unwrap();
            line.split(' ').nth(1).unwrap().to_owned()
        };
        // One gateway of a group; a group; all that is ours.
        ip(&format!("nexthop del id {}", group("via 192.0.2.2")));
        healed(&mut monitor, &mut table, &before).await;
        ip(&format!("nexthop del id {}", group("group")));
        healed(&mut monitor, &mut table, &before).await;
        ip("nexthop flush protocol 179");
        healed(&mut monitor, &mut table, &before).await;
        assert_eq!(table.status().failed, 0);
    });
}

#[test]
fn a_group_gone_without_a_notice_is_made_anew_when_it_is_needed() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        table.set(net("10.1.0.0/16"), via(&V4));
        table.set(net("10.2.0.0/16"), via(&V4));
        assert_eq!(table.apply().await.written, 2);
        ip("nexthop flush protocol 179");
        // Nobody told the table; the kernel refuses the new route, since its group is not there.
        table.set(net("10.3.0.0/16"), via(&V4));
        let report = table.apply().await;
        assert_eq!((report.written, report.failed.len()), (3, 0), "{report:?}");
        assert_eq!(ours().len(), 9);
        assert_eq!(objects().len(), 3);
    });
}

#[test]
fn where_the_kernel_refuses_a_group_the_route_holds_its_gateways_until_the_next_look() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        table.set(net("10.1.0.0/16"), via(&V4));
        assert_eq!(table.apply().await.written, 1);
        ip("nexthop flush protocol 179");
        // Another group of the same gateways: the table believes that their objects are there.
        let uneven = [
            Gateway::new(at(V4[0])).weighted(NonZeroU8::new(3).unwrap()),
            Gateway::new(at(V4[1])),
        ];
        table.set(net("10.2.0.0/16"), Some(Target::Gateways(uneven.to_vec())));
        let report = table.apply().await;
        assert_eq!((report.written, report.failed.len()), (1, 0), "{report:?}");
        let line = ip("route show 10.2.0.0/16");
        assert!(
            !line.contains("nhid") && line.contains("weight 3"),
            "{line}"
        );
        table.resync().await;
        let report = table.apply().await;
        assert_eq!((report.written, report.failed.len()), (2, 0), "{report:?}");
        let by_group = ours().iter().filter(|line| line.contains("nhid")).count();
        assert_eq!(by_group, 2, "{:#?}", ours());
        assert!(ip("route show 10.2.0.0/16").contains("weight 3"));
    });
}

#[test]
fn links_that_go_down_and_up_take_and_bring_back_routes_of_both_families() {
    in_netns(|| async {
        uplink();
        ip("link add dn0 type veth peer name dn1");
        ip("addr add 198.51.100.1/24 dev dn0");
        ip("link set dn1 up");
        ip("link set dn0 up");
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        table.set(net("10.1.0.0/16"), via(&V4));
        table.set(net("10.2.0.0/16"), via(&[V4[0], "198.51.100.2"]));
        table.set(net("10.3.0.0/16"), via(&["198.51.100.2"]));
        table.set(net("2001:db8:1::/48"), via(&V6));
        table.set(net("2001:db8:2::/48"), via(&[V6[0]]));
        assert_eq!(table.apply().await.written, 5);
        let before = ours();
        for (down, up) in [("up1 down", "up1 up"), ("up0 down", "up0 up")] {
            ip(&format!("link set {down}"));
            let notice = timeout(Duration::from_secs(5), monitor.next()).await;
            assert!(notice.is_ok());
            table.resync().await;
            table.apply().await;
            let line = ip("route show 10.2.0.0/16");
            assert!(
                line.contains("198.51.100.2") && !line.contains(V4[0]),
                "the other gateway serves: {line}"
            );
            ip(&format!("link set {up}"));
            if down.starts_with("up0") {
                ip("-6 addr replace 2001:db8::1/64 dev up0 nodad");
            }
            healed(&mut monitor, &mut table, &before).await;
        }
    });
}

#[test]
fn weights_links_and_families_of_gateways_reach_the_kernel() {
    in_netns(|| async {
        uplink();
        let up0 = index("up0");
        let share = |n| NonZeroU8::new(n).unwrap();
        let local = Gateway::new(at("fe80::5")).on_link(up0);
        let heavy = Gateway::new(at(V4[0])).weighted(share(255));
        let six = Gateway::new(at(V6[0])).weighted(share(3));
        let cases = [
            ("10.1.0.0/16", vec![local], "via inet6 fe80::5 dev up0"),
            ("2001:db8:1::/48", vec![local], "via fe80::5 dev up0"),
            (
                "10.2.0.0/16",
                vec![heavy, six],
                "via 192.0.2.2 dev up0 weight 255",
            ),
            (
                "10.3.0.0/16",
                vec![heavy, six],
                "via inet6 2001:db8::2 dev up0 weight 3",
            ),
            (
                "10.4.0.0/16",
                vec![local, heavy],
                "via inet6 fe80::5 dev up0 weight 1",
            ),
            (
                "2001:db8:2::/48",
                vec![local, six],
                "via fe80::5 dev up0 weight 1",
            ),
        ];
        for objects in [true, false] {
            let options = Options {
                next_hop_objects: objects,
            };
            let mut table = RouteTable::open_with(options).await.unwrap();
            for (prefix, gateways, _) in &cases {
                table.set(net(prefix), Some(Target::Gateways(gateways.clone())));
            }
            let report = table.apply().await;
            assert_eq!(report.failed, []);
            for (prefix, _, expected) in &cases {
                let family = if prefix.contains(':') { "-6" } else { "-4" };
                let text = ip(&format!("{family} route show {prefix}"));
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(text.contains(expected), "{prefix}: {text}");
            }
            table.resync().await;
            let idle = table.apply().await;
            assert_eq!((idle.written, idle.deleted), (0, 0), "reads back: {idle:?}");
            // The second round starts from what the first left.
        }
        let mut table = RouteTable::open().await.unwrap();
        let lost = Gateway::new(at("fe80::5"));
        table.set(net("10.7.0.0/16"), Some(Target::Gateways(vec![lost])));
        let report = table.apply().await;
        assert!(report.failed[0].1.contains("link"), "{report:?}");
    });
}

#[test]
fn without_next_hop_objects_routes_hold_their_gateways_and_are_repointed_by_an_apply() {
    in_netns(|| async {
        uplink();
        let mut table = inline().await;
        for n in 0..500 {
            table.set(nth(n), via(&V4));
        }
        table.set(net("2001:db8:1::/48"), via(&V6));
        assert_eq!(table.apply().await.written, 501);
        assert_eq!((objects().len(), table.status().nexthops), (0, 0));
        assert!(ours().iter().all(|line| !line.contains("nhid")));
        let done = table.handle_gateway_down(at(V4[0]), None).await;
        assert_eq!((done.groups, done.waiting), (0, 500));
        assert_eq!(table.apply().await.written, 500);
        assert!(ours().iter().all(|line| !line.contains("192.0.2.2 ")));
        assert_eq!(table.handle_gateway_up(at(V4[0]), None).await.waiting, 500);
        assert_eq!(table.apply().await.written, 500);

        // Turned on again: the same routes, now by groups; and off again.
        let before = ours();
        drop(table);
        for objects in [true, false] {
            let options = Options {
                next_hop_objects: objects,
            };
            let mut table = RouteTable::open_with(options).await.unwrap();
            for n in 0..500 {
                table.set(nth(n), via(&V4));
            }
            table.set(net("2001:db8:1::/48"), via(&V6));
            let report = table.apply().await;
            assert_eq!((report.written, report.failed.len()), (501, 0));
            let by_group = ours().iter().filter(|line| line.contains("nhid")).count();
            assert_eq!(by_group, if objects { 501 } else { 0 });
        }
        assert_eq!(ours(), before);
    });
}

#[test]
fn an_id_that_another_took_is_left_to_it() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        // The first three ids of our range, taken after the table looked.
        for id in [0x0b30_0000, 0x0b30_0001, 0x0b30_0002] {
            ip(&format!(
                "nexthop add id {id} via 192.0.2.77 dev up0 protocol static"
            ));
        }
        table.set(net("10.1.0.0/16"), via(&V4));
        let report = table.apply().await;
        assert_eq!((report.written, report.failed.len()), (1, 0), "{report:?}");
        let line = ip("route show 10.1.0.0/16");
        assert!(line.contains(V4[0]) && line.contains(V4[1]), "{line}");
        assert_eq!(ip("nexthop show protocol 4").lines().count(), 3);
        table.remove_all().await;
        assert_eq!(ip("nexthop show protocol 4").lines().count(), 3);
    });
}

#[test]
fn an_uninstall_leaves_nothing_of_ours_and_all_of_others() {
    in_netns(|| async {
        uplink();
        ip("route add 10.8.0.0/16 via 192.0.2.9 proto bird");
        ip("nexthop add id 7 via 192.0.2.9 dev up0 protocol bird");
        let mut first = RouteTable::open().await.unwrap();
        first.set(net("10.1.0.0/16"), via(&V4));
        first.set(net("2001:db8:1::/48"), via(&V6));
        first.set(net("10.3.0.0/24"), Some(Target::Blackhole));
        first.set(net("10.3.0.7/32"), Some(Target::Interface("up0".into())));
        assert_eq!(first.apply().await.written, 4);
        drop(first);
        // What a crash may leave: objects that no route uses.
        ip("nexthop add id 4711 via 192.0.2.9 dev up0 protocol 179");
        let mut table = RouteTable::open().await.unwrap();
        let report = table.remove_all().await;
        assert_eq!((report.deleted, report.failed.len()), (4, 0), "{report:?}");
        assert_eq!((ours(), objects()), (vec![], vec![]));
        assert_eq!(table.status(), Status::default());
        assert!(ip("route show 10.8.0.0/16").contains("192.0.2.9"));
        assert!(ip("nexthop show id 7").contains("192.0.2.9"));
    });
}

#[test]
fn a_gateway_that_is_not_there_leaves_the_others_of_its_group_to_serve() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        table.set(net("10.1.0.0/16"), via(&[V4[0], "203.0.113.1"]));
        table.set(net("10.2.0.0/16"), via(&["203.0.113.1", "203.0.113.2"]));
        let report = table.apply().await;
        assert_eq!((report.written, report.failed.len()), (1, 1), "{report:?}");
        assert!(report.failed[0].1.contains("203.0.113"), "{report:?}");
        assert!(ip("route show 10.1.0.0/16").contains(V4[0]));
        ip("addr add 203.0.113.9/24 dev up0");
        table.resync().await;
        assert_eq!(table.apply().await.failed, []);
        assert!(ip("route show 10.1.0.0/16").contains("203.0.113.1"));
        assert!(ip("route show 10.2.0.0/16").contains("203.0.113.2"));
    });
}
