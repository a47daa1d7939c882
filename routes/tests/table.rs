//! The route table against a real kernel, each test in a namespace of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(
    clippy::print_stderr,
    reason = "a test prints its rate and why it is skipped"
)]

mod lab;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{in_netns, ip, ours, uplink};
use routes::{Clash, Gateway, Monitor, Notice, RouteTable, Sweep, Target};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "what `set` takes")]
fn via(gateways: &[&str]) -> Option<Target> {
    Some(Target::Gateways(
        gateways
            .iter()
            .map(|g| Gateway::new(g.parse().unwrap()))
            .collect(),
    ))
}

/// Waits until nothing happens any more: the kernel writes a new link's own routes when it has time.
async fn silence(monitor: &mut Monitor) {
    let quiet = Duration::from_millis(800);
    while tokio::time::timeout(quiet, monitor.next()).await.is_ok() {}
}

/// Waits for the monitor, then lets the table look and repair.
async fn repair(monitor: &mut Monitor, table: &mut RouteTable) -> (Notice, routes::Report) {
    let notice = tokio::time::timeout(Duration::from_secs(5), monitor.next())
        .await
        .unwrap();
    table.resync().await;
    (notice, table.apply().await)
}

#[test]
fn every_kind_of_route_of_both_families_is_written_changed_and_deleted() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        table.set(net("10.1.0.0/16"), via(&["192.0.2.2"]));
        table.set(net("10.2.0.0/16"), via(&["192.0.2.3", "192.0.2.2"]));
        table.set(net("10.3.0.0/24"), Some(Target::Blackhole));
        table.set(net("10.3.0.7/32"), Some(Target::Interface("up0".into())));
        table.set(net("10.4.0.0/16"), via(&["2001:db8::2"]));
        table.set(net("2001:db8:1::/48"), via(&["2001:db8::2"]));
        table.set(net("2001:db8:2::/48"), via(&["2001:db8::2", "2001:db8::3"]));
        table.set(net("2001:db8:3::/64"), Some(Target::Blackhole));
        table.set(
            net("2001:db8:3::7/128"),
            Some(Target::Interface("up0".into())),
        );
        let report = table.apply().await;
        assert_eq!((report.written, report.deleted), (9, 0), "{report:?}");
        let lines = ours();
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        for expected in [
            "10.1.0.0/16 via 192.0.2.2 dev up0 metric 179",
            "10.2.0.0/16 nhid",
            "nexthop via 192.0.2.3 dev up0",
            "blackhole 10.3.0.0/24 metric 179",
            "10.3.0.7 dev up0 scope link metric 179",
            "10.4.0.0/16 via inet6 2001:db8::2 dev up0 metric 179",
            "2001:db8:1::/48 via 2001:db8::2 dev up0 metric 179",
            "2001:db8:2::/48 nhid",
            "nexthop via 2001:db8::3 dev up0",
            "blackhole 2001:db8:3::/64 dev lo metric 179",
            "2001:db8:3::7 dev up0 metric 179",
        ] {
            assert!(has(expected), "{expected} not in {lines:#?}");
        }
        let before = lines.len();
        table.resync().await;
        let idle = table.apply().await;
        assert_eq!(
            (idle.written, idle.deleted),
            (0, 0),
            "what is right is not written again"
        );
        assert_eq!(ours().len(), before);

        let all: Vec<IpNet> = table.routes().map(|route| route.prefix).collect();
        for prefix in all {
            table.set(prefix, None);
        }
        assert_eq!(table.apply().await.deleted, 9);
        assert_eq!(ours(), Vec::<String>::new());
        assert_eq!(table.status(), routes::Status::default());
    });
}

#[test]
fn every_shape_of_route_is_replaced_in_place_by_every_other() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        for prefix in ["10.1.0.0/16", "2001:db8:1::/48"] {
            let gateway = |n| {
                if prefix.contains(':') {
                    format!("2001:db8::{n}")
                } else {
                    format!("192.0.2.{n}")
                }
            };
            let (two, three) = (gateway(2), gateway(3));
            let behind = if prefix.contains(':') {
                "fe80::9"
            } else {
                "198.51.100.9"
            };
            let (interface, gateway) = ("up0".to_owned(), behind.parse().unwrap());
            let onlink = Some(Target::Onlink { interface, gateway });
            // Each shape replaced by each other, in place: one route stays.
            let shapes = [
                via(&[&two, &three]),
                via(&[&three]),
                onlink.clone(),
                Some(Target::Blackhole),
                via(&[&two, &three]),
                Some(Target::Interface("up0".into())),
                onlink,
                via(&[&two]),
            ];
            for shape in shapes {
                table.set(net(prefix), shape.clone());
                let report = table.apply().await;
                assert_eq!(report.written, 1, "{prefix} {shape:?} {report:?}");
                table.resync().await;
                let report = table.apply().await;
                assert_eq!(
                    (report.written, report.deleted),
                    (0, 0),
                    "{prefix} {shape:?} {report:?}"
                );
            }
        }
    });
}

#[test]
fn a_foreign_route_with_another_metric_is_left_alone() {
    in_netns(|| async {
        uplink();
        ip("route add 10.1.0.0/16 via 192.0.2.9 proto bird metric 32");
        ip("-6 route add 2001:db8:1::/48 via 2001:db8::9 proto bird metric 32");
        let mut table = RouteTable::open().await.unwrap();
        table.set(net("10.1.0.0/16"), via(&["192.0.2.2"]));
        table.set(net("2001:db8:1::/48"), via(&["2001:db8::2"]));
        assert_eq!(table.apply().await.written, 2);
        table.set(net("10.1.0.0/16"), None);
        table.set(net("2001:db8:1::/48"), None);
        assert_eq!(table.apply().await.deleted, 2);
        assert!(ip("route show 10.1.0.0/16").contains("192.0.2.9"));
        assert!(ip("-6 route show 2001:db8:1::/48").contains("2001:db8::9"));
    });
}

#[test]
fn a_foreign_route_with_our_key_is_a_clash_and_gives_way_only_by_itself() {
    in_netns(|| async {
        uplink();
        let foreign = [
            ("-4", "10.1.0.0/16", "192.0.2.9"),
            ("-6", "2001:db8:1::/48", "2001:db8::9"),
        ];
        for (family, prefix, gateway) in foreign {
            ip(&format!(
                "{family} route add {prefix} via {gateway} proto bird metric 179"
            ));
        }
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        assert_eq!(table.status().in_kernel, 0, "another's are not adopted");
        table.set(net("10.1.0.0/16"), via(&["192.0.2.2"]));
        table.set(net("2001:db8:1::/48"), via(&["2001:db8::2"]));
        let report = table.apply().await;
        let clash = |prefix| Clash {
            prefix: net(prefix),
            protocol: 12,
        };
        assert_eq!(
            report.clashes,
            [clash("10.1.0.0/16"), clash("2001:db8:1::/48")]
        );
        assert_eq!((report.written, table.status().clashes), (0, 2));
        assert_eq!(ours(), Vec::<String>::new());
        for (family, prefix, gateway) in foreign {
            assert!(
                ip(&format!("{family} route show {prefix}")).contains(gateway),
                "{prefix}"
            );
            ip(&format!(
                "{family} route del {prefix} via {gateway} proto bird metric 179"
            ));
        }
        let (_, report) = repair(&mut monitor, &mut table).await;
        assert_eq!(
            (report.written, table.status().clashes),
            (2, 0),
            "{report:?}"
        );
        // And the other way round: someone overwrites ours. It is theirs from then on.
        ip("route replace 10.1.0.0/16 via 192.0.2.9 proto bird metric 179");
        let (_, report) = repair(&mut monitor, &mut table).await;
        assert_eq!(report.clashes, [clash("10.1.0.0/16")]);
        table.set(net("10.1.0.0/16"), None);
        assert_eq!(table.apply().await.deleted, 0);
        assert!(ip("route show 10.1.0.0/16").contains("192.0.2.9"));
    });
}

#[test]
fn a_restart_adopts_what_is_there_and_sweeps_only_when_permitted() {
    in_netns(|| async {
        uplink();
        let fill = |table: &mut RouteTable| {
            table.set(net("10.1.0.0/16"), via(&["192.0.2.2", "192.0.2.3"]));
            table.set(net("2001:db8:1::/48"), via(&["2001:db8::2", "2001:db8::3"]));
            table.set(net("10.3.0.7/32"), Some(Target::Interface("up0".into())));
            table.set(net("10.3.0.0/24"), Some(Target::Blackhole));
        };
        let mut first = RouteTable::open().await.unwrap();
        fill(&mut first);
        first.set(net("10.9.0.0/16"), via(&["192.0.2.2"]));
        first.set(net("10.3.0.8/32"), Some(Target::Interface("up0".into())));
        first.set(net("2001:db8:9::/64"), Some(Target::Blackhole));
        assert_eq!(first.apply().await.written, 7);
        drop(first);
        ip("route add 10.99.0.0/16 via 192.0.2.2 proto 179 metric 5");
        let before = ours();

        let mut second = RouteTable::open().await.unwrap();
        assert_eq!(
            second.status().adopted,
            7,
            "a route with another metric isn't ours"
        );
        let report = second.apply().await;
        assert_eq!((report.written, report.deleted), (0, 0));
        fill(&mut second);
        let report = second.apply().await;
        assert_eq!((report.written, report.deleted), (0, 0), "{report:?}");
        assert_eq!(ours(), before);
        second.resync().await;
        assert_eq!(second.apply().await.deleted, 0);

        second.permit_sweep(Sweep::Learned);
        assert_eq!(second.apply().await.deleted, 1);
        assert!(!ours().iter().any(|line| line.starts_with("10.9.0.0/16")));
        second.permit_sweep(Sweep::Local);
        assert_eq!(second.apply().await.deleted, 2);
        assert_eq!(second.status().in_kernel, 4);
        assert!(
            ours().iter().any(|line| line.starts_with("10.99.0.0/16")),
            "never ours"
        );
    });
}

#[test]
fn what_others_delete_behind_our_back_is_put_back() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        silence(&mut monitor).await;
        table.set(net("10.1.0.0/16"), via(&["192.0.2.2"]));
        table.set(net("2001:db8:1::/48"), via(&["2001:db8::2", "2001:db8::3"]));
        assert_eq!(table.apply().await.written, 2);
        let before = ours();
        let silence = tokio::time::timeout(Duration::from_millis(300), monitor.next()).await;
        assert!(silence.is_err(), "our own writes are no news: {silence:?}");
        ip("-4 route flush proto 179");
        ip("-6 route del 2001:db8:1::/48 via 2001:db8::3 metric 179");
        let (notice, report) = repair(&mut monitor, &mut table).await;
        assert_eq!((notice, report.written), (Notice::Routes, 2), "{report:?}");
        assert_eq!(ours(), before);
    });
}

#[test]
fn routes_are_back_after_their_link_went_down_and_up() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        table.set(net("10.1.0.0/16"), via(&["192.0.2.2"]));
        table.set(net("10.3.0.7/32"), Some(Target::Interface("up0".into())));
        assert_eq!(table.apply().await.written, 2);
        let before = ours();
        ip("link set up0 down");
        assert_eq!(ours(), Vec::<String>::new());
        let (notice, report) = repair(&mut monitor, &mut table).await;
        assert_eq!((notice, report.failed.len()), (Notice::Links, 2));
        assert_eq!((table.status().in_kernel, table.status().failed), (0, 2));
        ip("link set up0 up");
        let (_, report) = repair(&mut monitor, &mut table).await;
        assert_eq!((report.written, report.failed.len()), (2, 0), "{report:?}");
        assert_eq!(ours(), before);
        // A name that comes back with another index is the new interface.
        ip("link del up0");
        uplink();
        let deadline = Instant::now() + Duration::from_secs(5);
        while ours() != before {
            assert!(
                Instant::now() < deadline,
                "{:?} {:?}",
                ours(),
                table.status()
            );
            repair(&mut monitor, &mut table).await;
        }
    });
}

#[test]
fn an_unreachable_next_hop_fails_alone_and_is_retried_until_it_is_reachable() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        table.set(net("10.1.0.0/16"), via(&["198.51.100.1"]));
        table.set(net("10.2.0.0/16"), via(&["192.0.2.2"]));
        table.set(
            net("10.3.0.0/16"),
            Some(Target::Interface("nosuch0".into())),
        );
        table.set(net("2001:db8:4::/48"), via(&["192.0.2.2"]));
        table.set(net("10.5.0.0/16"), via(&[]));
        let report = table.apply().await;
        assert_eq!((report.written, report.failed.len()), (1, 4), "{report:?}");
        assert!(report.failed.iter().all(|(_, why)| !why.is_empty()));
        assert_eq!(table.status().failed, 4);
        assert!(table.apply().await.failed.is_empty(), "not again at once");
        assert!(table.next_retry().unwrap() > Instant::now());
        let view = table
            .routes()
            .find(|r| r.prefix == net("10.1.0.0/16"))
            .unwrap();
        assert!(
            !view.in_kernel && view.problem.unwrap().contains("nreachable"),
            "{view:?}"
        );
        ip("addr add 198.51.100.9/24 dev up0");
        // No notice: the backoff alone must get there.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ours().iter().any(|line| line.starts_with("10.1.0.0/16")) {
            assert!(Instant::now() < deadline);
            tokio::time::sleep_until(table.next_retry().unwrap().into()).await;
            table.apply().await;
        }
        assert_eq!(table.status().failed, 3);
        for prefix in ["10.3.0.0/16", "2001:db8:4::/48", "10.5.0.0/16"] {
            table.set(net(prefix), None);
        }
        table.apply().await;
        assert_eq!((table.status().failed, table.next_retry()), (0, None));
    });
}

#[test]
fn a_batch_that_is_refused_whole_loses_no_answer() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        for n in 0..5_000u32 {
            let prefix =
                IpNet::new(IpAddr::from((0x0a00_0000 + n * 256).to_be_bytes()), 24).unwrap();
            table.set(prefix, via(&["198.51.100.1"]));
        }
        let report = table.apply().await;
        assert_eq!((report.written, report.failed.len()), (0, 5_000));
        assert!(
            report
                .failed
                .iter()
                .all(|(_, why)| why == &report.failed[0].1)
        );
        assert!(
            report.failed[0].1.contains("nreachable"),
            "{:?}",
            report.failed[0]
        );
    });
}

#[test]
fn a_hundred_thousand_routes_go_in_are_adopted_and_go_out() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let prefix =
            |n: u32| IpNet::new(IpAddr::from((0x0a00_0000 + n * 64).to_be_bytes()), 26).unwrap();
        for n in 0..100_000 {
            table.set(
                prefix(n),
                via(&[if n % 2 == 0 { "192.0.2.2" } else { "192.0.2.3" }]),
            );
        }
        let start = Instant::now();
        let report = table.apply().await;
        let took = start.elapsed();
        assert_eq!((report.written, report.failed.len()), (100_000, 0));
        eprintln!(
            "100,000 routes in {took:?}: {:.0}/s",
            1e5 / took.as_secs_f64()
        );
        assert_eq!(ours().len(), 100_000);
        drop(table);
        let start = Instant::now();
        let mut table = RouteTable::open().await.unwrap();
        eprintln!("adopted in {:?}", start.elapsed());
        assert_eq!(table.status().adopted, 100_000);
        table.permit_sweep(Sweep::Learned);
        let start = Instant::now();
        assert_eq!(table.apply().await.deleted, 100_000);
        eprintln!("deleted in {:?}", start.elapsed());
        assert_eq!(ours().len(), 0);
    });
}

/// Runs many `ip` commands without family, one a line.
fn ip_batch(lines: &str, name: &str) {
    let file = std::env::temp_dir().join(format!("routes-{name}-{}", std::process::id()));
    std::fs::write(&file, lines).unwrap();
    ip(&format!("-batch {}", file.display()));
    std::fs::remove_file(file).unwrap();
}

fn nth(n: u32) -> IpNet {
    IpNet::new(IpAddr::from((0x0a00_0000 + n * 4).to_be_bytes()), 30).unwrap()
}

#[test]
fn a_flood_of_notices_ends_in_one_that_asks_for_a_new_look_and_all_is_repaired() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        let own = |n| IpNet::new(IpAddr::from([172, 16, n, 0]), 24).unwrap();
        for n in 0..100 {
            table.set(own(n), via(&["192.0.2.2", "192.0.2.3"]));
        }
        assert_eq!(table.apply().await.written, 100);
        let before = ours();
        let mut lines = String::new();
        for n in 0..60_000u32 {
            lines += &format!("route add {} via 192.0.2.2 proto static\n", nth(n));
            if n % 1_000 == 0 {
                let n = u8::try_from(n / 1_000).unwrap();
                lines += &format!("route del {} metric 179\n", own(n));
            }
        }
        ip_batch(&lines, "flood");
        assert_eq!(ours().len(), before.len() * 40 / 100);
        // Nobody read meanwhile: more was said than the socket holds.
        let (notice, report) = repair(&mut monitor, &mut table).await;
        assert_eq!((notice, report.written), (Notice::Overrun, 60));
        assert_eq!(ours(), before);
        silence(&mut monitor).await;
        ip("route add 10.99.0.0/16 via 192.0.2.2");
        let notice = tokio::time::timeout(Duration::from_secs(5), monitor.next()).await;
        assert_eq!(notice.unwrap(), Notice::Routes);
    });
}

#[test]
fn our_own_writes_never_reach_the_monitor_however_many() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        silence(&mut monitor).await;
        // More than its buffer holds, and nobody reads.
        for n in 0..60_000 {
            table.set(nth(n), via(&["192.0.2.2", "192.0.2.3"]));
        }
        assert_eq!(table.apply().await.written, 60_000);
        let gateway = "192.0.2.2".parse().unwrap();
        assert_eq!(table.handle_gateway_down(gateway, None).await.groups, 1);
        let silence = tokio::time::timeout(Duration::from_millis(300), monitor.next()).await;
        assert!(silence.is_err(), "{silence:?}");
    });
}

#[test]
fn one_bad_route_among_ten_thousand_fails_alone() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        ip(&format!(
            "route add {} via 192.0.2.9 metric 179 proto bird",
            nth(9_000)
        ));
        for n in 0..10_000 {
            table.set(nth(n), via(&["192.0.2.2"]));
        }
        table.set(nth(5_000), via(&["203.0.113.1"]));
        let report = table.apply().await;
        assert_eq!(report.written, 9_998);
        let failed: Vec<_> = report.failed.iter().map(|(prefix, _)| *prefix).collect();
        assert_eq!(failed, [nth(5_000)]);
        let clash = Clash {
            prefix: nth(9_000),
            protocol: 12,
        };
        assert_eq!(report.clashes, [clash]);
        assert_eq!(ours().len(), 9_998);
        assert!(ip(&format!("route show {}", nth(9_000))).contains("192.0.2.9"));
        let problems: Vec<_> = table.problems().into_iter().map(|(p, _)| p).collect();
        assert_eq!(problems, [nth(5_000), nth(9_000)]);
        // The clash is told again for as long as it lasts, and ends by itself.
        table.resync().await;
        assert_eq!(table.apply().await.clashes, [clash]);
        silence(&mut monitor).await;
        ip(&format!("route del {} metric 179", nth(9_000)));
        let (_, report) = repair(&mut monitor, &mut table).await;
        assert_eq!((report.written, report.clashes.len()), (1, 0));
    });
}

#[test]
fn another_that_takes_over_a_key_of_ours_keeps_it_when_ours_changes() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        let keys = [
            ("10.1.0.0/16", "192.0.2.2", "192.0.2.3", "192.0.2.9"),
            (
                "2001:db8:1::/48",
                "2001:db8::2",
                "2001:db8::3",
                "2001:db8::9",
            ),
        ];
        for (prefix, first, ..) in keys {
            table.set(net(prefix), via(&[first]));
        }
        assert_eq!(table.apply().await.written, 2);
        silence(&mut monitor).await;
        for (prefix, _, _, foreign) in keys {
            let family = if prefix.contains(':') { "-6" } else { "-4" };
            ip(&format!(
                "{family} route replace {prefix} via {foreign} proto bird metric 179"
            ));
        }
        repair(&mut monitor, &mut table).await;
        for targets in [1, 2] {
            for (prefix, first, second, _) in keys {
                let gateways = [first, second];
                table.set(net(prefix), via(&gateways[2 - targets..]));
            }
            let report = table.apply().await;
            assert_eq!((report.written, report.clashes.len()), (0, 2), "{report:?}");
            for (prefix, _, _, foreign) in keys {
                let family = if prefix.contains(':') { "-6" } else { "-4" };
                let line = ip(&format!("{family} route show {prefix}"));
                assert!(
                    line.contains(foreign) && line.lines().count() == 1,
                    "{line}"
                );
            }
        }
        assert_eq!(ours(), Vec::<String>::new());
        assert_eq!(table.remove_all().await.deleted, 0);
        assert!(ip("route show 10.1.0.0/16").contains("192.0.2.9"));
    });
}

#[test]
fn an_apply_dropped_half_way_is_made_good_by_the_next() {
    in_netns(|| async {
        uplink();
        let mut table = RouteTable::open().await.unwrap();
        for n in 0..20_000u32 {
            let prefix =
                IpNet::new(IpAddr::from((0x0a00_0000 + n * 256).to_be_bytes()), 24).unwrap();
            table.set(prefix, via(&["192.0.2.2"]));
        }
        let cut = tokio::time::timeout(Duration::from_millis(5), table.apply()).await;
        assert!(cut.is_err(), "5 ms were enough?");
        table.apply().await;
        assert_eq!(
            (table.status().in_kernel, table.status().dirty, ours().len()),
            (20_000, 0, 20_000)
        );
    });
}
