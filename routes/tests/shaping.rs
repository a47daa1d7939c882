//! Limits of pods' traffic, measured by real TCP, and what is left of them afterwards.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a test prints what it measured")]

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Pod, in_netns, ip, run};
use routes::{
    PodLink, RouteTable, Shaping, Target, check_pod_link, create_pod_link, delete_link,
    delete_lone_shapers, host_sysctls,
};

const LIMIT: Shaping = Shaping {
    rate: 8_000_000,
    burst: 400_000,
};
/// What of a transfer is not counted: the burst, and TCP finding its pace.
const WARM_UP: Duration = Duration::from_millis(700);
const MEASURED: Duration = Duration::from_secs(3);

fn link(number: u8) -> PodLink {
    PodLink {
        host_interface: format!("ptl0000000000{number}"),
        pod_interface: "eth0".into(),
        addresses: vec![
            [10, 244, 0, number].into(),
            format!("fd00:244::{number}").parse().unwrap(),
        ],
        ..PodLink::default()
    }
}

async fn attach(table: &mut RouteTable, link: &PodLink) -> Pod {
    let pod = Pod::new();
    create_pod_link(link, pod.netns(), pod.netlink())
        .await
        .unwrap();
    for &address in &link.addresses {
        let target = Target::Interface(link.host_interface.clone());
        table.set(IpNet::from(address), Some(target));
    }
    table.apply().await;
    pod
}

/// Bits a second that come through from one pod to another by one TCP connection.
fn throughput(from: &Pod, to: &Pod, address: IpAddr, measured: Duration) -> f64 {
    let listener = to.run(move || TcpListener::bind((address, 0)).unwrap());
    let target: SocketAddr = listener.local_addr().unwrap();
    let sender = from.run(move || TcpStream::connect_timeout(&target, Duration::from_secs(5)));
    let mut sender = sender.unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    let timeout = Some(Duration::from_secs(5));
    sender.set_write_timeout(timeout).unwrap();
    receiver.set_read_timeout(timeout).unwrap();
    let start = Instant::now();
    let writing = std::thread::spawn(move || {
        let block = [7; 16 * 1024];
        while start.elapsed() < WARM_UP + measured {
            match sender.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut block = [0; 64 * 1024];
    let mut bytes = 0;
    while start.elapsed() < WARM_UP + measured {
        let read = receiver.read(&mut block).unwrap();
        if start.elapsed() >= WARM_UP {
            bytes += read;
        }
        if read == 0 {
            break;
        }
    }
    drop(receiver);
    // A reset ends the writer's last call at once.
    let _ = writing.join();
    bytes as f64 * 8.0 / measured.as_secs_f64()
}

#[test]
fn a_limited_pod_gets_its_rate_in_both_directions_and_families_and_its_neighbour_more() {
    in_netns(|| async {
        for outcome in host_sysctls(true, true) {
            outcome.changed.unwrap();
        }
        let mut table = RouteTable::open().await.unwrap();
        let limited = PodLink {
            ingress: Some(LIMIT),
            egress: Some(LIMIT),
            ..link(1)
        };
        let slow = attach(&mut table, &limited).await;
        let near = attach(&mut table, &link(2)).await;
        let far = attach(&mut table, &link(3)).await;
        let wrong = check_pod_link(&limited, slow.netlink()).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
        let limit = LIMIT.rate as f64;
        for family in 0..2 {
            let to_slow = throughput(&near, &slow, limited.addresses[family], MEASURED);
            let from_slow = throughput(&slow, &near, link(2).addresses[family], MEASURED);
            let free = throughput(&near, &far, link(3).addresses[family], WARM_UP);
            eprintln!("to it {to_slow:.0}, from it {from_slow:.0}, free {free:.0} bits/s");
            for measured in [to_slow, from_slow] {
                let share = measured / limit;
                assert!((0.70..=1.15).contains(&share), "{family}: {share}");
            }
            assert!(free > 10.0 * limit, "{family}: {free}");
        }
    });
}

#[test]
fn each_direction_is_limited_alone_and_nothing_is_left_when_the_link_goes() {
    in_netns(|| async {
        // lo, and where the kernel has tunnels, theirs.
        let before = ip("-o link show").lines().count();
        let mut table = RouteTable::open().await.unwrap();
        let receives = PodLink {
            ingress: Some(LIMIT),
            ..link(1)
        };
        let sends = PodLink {
            egress: Some(LIMIT),
            ..link(2)
        };
        let pods = [
            attach(&mut table, &receives).await,
            attach(&mut table, &sends).await,
        ];
        let shown = run("tc", "qdisc show");
        let bucket = |name: &str| format!("tbf 1: dev {name} root");
        assert!(shown.contains(&bucket("ptl00000000001")), "{shown}");
        assert!(shown.contains(&bucket("ptb00000000002")), "{shown}");
        assert_eq!(shown.matches("tbf").count(), 2, "{shown}");
        assert_eq!(shown.matches("rate 8Mbit burst 50").count(), 2, "{shown}");
        assert!(!ip("link show").contains("ptb00000000001"));
        assert_eq!(ip("-6 addr show dev ptb00000000002"), "");
        for (link, pod) in [(&receives, &pods[0]), (&sends, &pods[1])] {
            let wrong = check_pod_link(link, pod.netlink()).await.unwrap();
            assert_eq!(wrong, Vec::<String>::new());
            assert!(delete_link(&link.host_interface).await.unwrap());
        }
        let left = ip("-o link show");
        assert_eq!(left.lines().count(), before, "{left}");
    });
}

#[test]
fn a_check_says_which_limit_is_gone() {
    in_netns(|| async {
        let mut table = RouteTable::open().await.unwrap();
        let limited = PodLink {
            ingress: Some(LIMIT),
            egress: Some(LIMIT),
            ..link(1)
        };
        let pod = attach(&mut table, &limited).await;
        let wrong = async || {
            let wrong = check_pod_link(&limited, pod.netlink()).await.unwrap();
            wrong.join("\n")
        };
        run(
            "tc",
            "qdisc change dev ptl00000000001 root tbf rate 9mbit burst 50000 latency 25ms",
        );
        assert_eq!(
            wrong().await,
            "the limit of what the pod receives is not in force"
        );
        run("tc", "qdisc del dev ptl00000000001 root");
        run("tc", "filter del dev ptl00000000001 ingress");
        let said = wrong().await;
        assert!(said.contains("what the pod receives"), "{said}");
        assert!(said.contains("does not pass ptb00000000001"), "{said}");
        ip("link del ptb00000000001");
        let said = wrong().await;
        assert!(said.contains("no interface ptb00000000001"), "{said}");
    });
}

#[test]
fn a_shaper_without_its_host_end_is_replaced_by_an_add_and_else_deleted() {
    in_netns(|| async {
        let mut table = RouteTable::open().await.unwrap();
        let limited = PodLink {
            egress: Some(LIMIT),
            ..link(1)
        };
        // A killed ADD's, a pod's whose namespace is gone, another's that only looks alike.
        ip("link add ptb00000000001 type ifb");
        let pod = attach(&mut table, &limited).await;
        let wrong = check_pod_link(&limited, pod.netlink()).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
        ip("link add ptb00000000009 type ifb");
        ip("link add ptbridge0 type veth peer name ptb0");
        ip("link add bwp0 type ifb");
        assert_eq!(delete_lone_shapers().await.unwrap(), ["ptb00000000009"]);
        let wrong = check_pod_link(&limited, pod.netlink()).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
        ip("link del ptl00000000001");
        assert_eq!(delete_lone_shapers().await.unwrap(), ["ptb00000000001"]);
        let left = ip("-o link show");
        assert!(
            left.contains("ptbridge0") && left.contains("bwp0"),
            "{left}"
        );
    });
}
