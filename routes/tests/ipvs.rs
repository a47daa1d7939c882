//! Virtual services, and addresses that packets are taken for, against a real kernel; without IPVS in it, that this is told.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a test says why it is skipped")]

mod lab;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lab::{in_netns, ip};
use routes::ipvs::{
    Destination, VirtualChange, VirtualService, VirtualServiceKey, VirtualStats,
    change_virtual_services, delete_virtual_services, virtual_services,
};
use routes::{Error, ipvs_sysctls, packets_taken_for, take_packets_for};

fn key(protocol: u8, address: &str) -> VirtualServiceKey {
    VirtualServiceKey {
        protocol,
        address: address.parse().unwrap(),
    }
}

fn service(scheduler: &str, seconds: Option<u64>) -> VirtualService {
    VirtualService {
        scheduler: scheduler.to_owned(),
        persistence: seconds.map(Duration::from_secs),
    }
}

/// Whether this kernel has IPVS; else that it says what to do.
async fn has_ipvs() -> bool {
    match virtual_services().await {
        Ok(_) => true,
        Err(error) => {
            assert!(matches!(error, Error::NoDriver { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains("modprobe ip_vs"), "{said}");
            assert!(said.contains("another --proxy-mode"), "{said}");
            assert_eq!(delete_virtual_services().await.unwrap(), 0);
            false
        }
    }
}

async fn change(changes: Vec<VirtualChange>) {
    let failed = change_virtual_services(changes).await.unwrap();
    assert_eq!(failed, Vec::<String>::new());
}

#[test]
fn services_and_destinations_read_back_as_they_were_written_and_others_stay() {
    use VirtualChange::*;
    in_netns(|| async {
        if !has_ipvs().await {
            return;
        }
        let (tcp, udp) = (key(6, "10.96.0.1:80"), key(17, "[fd96::1]:53"));
        let (one, two): (SocketAddr, SocketAddr) = (
            "10.1.0.1:8080".parse().unwrap(),
            "10.1.0.2:8080".parse().unwrap(),
        );
        let six: SocketAddr = "[fd01::1]:53".parse().unwrap();
        let weight = |weight| Destination { weight };
        change(vec![
            NewService(tcp, service("rr", Some(10_800))),
            NewService(udp, service("wlc", None)),
            NewDestination(tcp, one, weight(1)),
            NewDestination(tcp, two, weight(1)),
            NewDestination(udp, six, weight(3)),
        ])
        .await;
        let found = virtual_services().await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(found.values().all(|one| one.is_ours));
        assert_eq!(found[&tcp].service, service("rr", Some(10_800)));
        assert_eq!(found[&udp].service, service("wlc", None));
        assert_eq!(found[&tcp].destinations.len(), 2);
        assert_eq!(found[&udp].destinations[&six].destination, weight(3));
        assert_eq!(found[&udp].stats, VirtualStats::default());
        change(vec![
            SetService(tcp, service("wrr", None)),
            SetDestination(tcp, one, weight(0)),
            DeleteDestination(tcp, two),
            // What is gone already is no failure.
            DeleteDestination(tcp, two),
            DeleteService(key(6, "10.96.0.9:9")),
        ])
        .await;
        let found = virtual_services().await.unwrap();
        assert!(found[&tcp].is_ours);
        assert_eq!(found[&tcp].service, service("wrr", None));
        assert_eq!(found[&tcp].destinations.len(), 1);
        assert_eq!(found[&tcp].destinations[&one].destination, weight(0));
        let failed = change_virtual_services(vec![
            NewService(tcp, service("rr", None)),
            NewService(key(6, "10.96.0.3:80"), service("none-such", None)),
        ]);
        let failed = failed.await.unwrap();
        assert_eq!(failed.len(), 2);
        assert!(failed[0].contains("another has made one there"));
        assert!(failed[1].contains("choose another --ipvs-scheduler"));

        lab::run("ipvsadm", "-A -t 10.96.0.7:80 -s rr");
        let foreign = key(6, "10.96.0.7:80");
        assert!(!virtual_services().await.unwrap()[&foreign].is_ours);
        assert_eq!(delete_virtual_services().await.unwrap(), 2);
        let left = virtual_services().await.unwrap();
        assert_eq!(left.keys().collect::<Vec<_>>(), [&foreign]);
    });
}

/// A connection from the host itself to an address that no interface has.
#[test]
fn what_is_sent_to_a_taken_address_is_led_and_counted() {
    use VirtualChange::*;
    in_netns(|| async {
        if !has_ipvs().await {
            return;
        }
        ip("link set lo up");
        for outcome in ipvs_sysctls() {
            outcome.changed.unwrap();
        }
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let tcp = key(6, "10.96.0.1:80");
        change(vec![
            NewService(tcp, service("rr", None)),
            NewDestination(tcp, to, Destination { weight: 1 }),
        ])
        .await;
        take_packets_for([tcp.address.ip()].into()).await.unwrap();
        let answers = std::thread::spawn(move || {
            let (mut client, _) = server.accept().unwrap();
            client.write_all(b"ahoy").unwrap();
        });
        let mut text = String::new();
        let limit = Duration::from_secs(20);
        let mut client = TcpStream::connect_timeout(&tcp.address, limit).unwrap();
        client.set_read_timeout(Some(limit)).unwrap();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ahoy");
        answers.join().unwrap();
        drop(client);
        let mut found = virtual_services().await.unwrap()[&tcp].clone();
        for _ in 0..100 {
            if found.stats.packets_in >= 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            found = virtual_services().await.unwrap()[&tcp].clone();
        }
        let of_destination = found.destinations[&to];
        assert_eq!(found.stats.connections, 1);
        assert_eq!(of_destination.stats, found.stats);
        assert!(found.stats.octets_in >= 3 * 40 && found.stats.packets_out >= 2);
        assert_eq!(
            of_destination.connections, 1,
            "it is remembered for a while"
        );
    });
}

#[test]
fn packets_are_taken_for_addresses_that_no_interface_has() {
    in_netns(|| async {
        ip("link set lo up");
        let all: BTreeSet<IpAddr> = ["10.96.0.1", "10.96.0.2", "fd96::1"]
            .map(|one| one.parse().unwrap())
            .into();
        // Another's is not ours.
        ip("route add local 10.96.0.9 dev lo table local");
        let report = take_packets_for(all.clone()).await.unwrap();
        assert_eq!((report.added, report.deleted), (3, 0), "{report:?}");
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!(packets_taken_for().await.unwrap(), all);
        assert_eq!(
            take_packets_for(all).await.unwrap(),
            routes::TakenReport::default()
        );
        let addresses = ip("addr show");
        assert!(!addresses.contains("10.96.") && !addresses.contains("fd96::"));
        let silent = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/arp_ignore");
        assert_eq!(silent.unwrap().trim(), "3");
        let server = TcpListener::bind("10.96.0.1:0").unwrap();
        TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let report = take_packets_for(BTreeSet::new()).await.unwrap();
        assert_eq!((report.added, report.deleted), (0, 3), "{report:?}");
        assert!(ip("route show table local").contains("local 10.96.0.9"));
    });
}
