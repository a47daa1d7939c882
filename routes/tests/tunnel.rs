//! The tunnel's device against a real kernel, each test in a namespace of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a test says why it is skipped")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lab::{in_netns, ip, ours, run, uplink};
use routes::{
    Error, Mac, RouteTable, TUNNEL, Target, Tunnel, TunnelPeer, TunnelReport, apply_tunnel,
    delete_tunnel, leave_checksums_to_device,
};

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const SECOND: Mac = [2, 0, 0, 0, 0, 2];
const THIRD: Mac = [2, 0, 0, 0, 0, 3];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link_local(mac: Mac) -> IpAddr {
    address(&format!("fe80::ff:fe00:{}", mac[5]))
}

fn peer(underlay: &str, mac: Mac) -> (Mac, TunnelPeer) {
    let neighbours = BTreeSet::from([address(underlay), link_local(mac)]);
    let underlay = address(underlay);
    (
        mac,
        TunnelPeer {
            underlay,
            neighbours,
        },
    )
}

fn tunnel() -> Tunnel {
    let own: [IpAddr; 3] = [
        address("10.48.1.0"),
        address("2001:db8:48:1::"),
        link_local(OWN),
    ];
    Tunnel {
        local: address("192.0.2.1"),
        mac: OWN,
        mtu: 1450,
        addresses: BTreeSet::from(own),
        peers: BTreeMap::from([peer("192.0.2.2", SECOND), peer("198.51.100.3", THIRD)]),
    }
}

async fn apply(wanted: &Tunnel) -> TunnelReport {
    let report = apply_tunnel(wanted).await.unwrap();
    assert_eq!(report.failed, Vec::<String>::new());
    report
}

fn lines(text: &str) -> BTreeSet<String> {
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(squeezed).collect()
}

fn forwarding() -> BTreeSet<String> {
    lines(&run("bridge", &format!("fdb show dev {TUNNEL}")))
}

fn neighbours() -> BTreeSet<String> {
    let v4 = ip(&format!("-4 neigh show dev {TUNNEL} nud permanent"));
    lines(&(v4 + &ip(&format!("-6 neigh show dev {TUNNEL} nud permanent"))))
}

fn set(wanted: &[&str]) -> BTreeSet<String> {
    wanted.iter().map(ToString::to_string).collect()
}

fn device() -> String {
    ip(&format!("-d link show {TUNNEL}"))
}

/// The device's index: another one means that it was made anew.
fn index() -> String {
    device().split(':').next().unwrap().to_owned()
}

fn assert_whole() {
    assert_eq!(
        forwarding(),
        set(&[
            "02:00:00:00:00:02 dst 192.0.2.2 self permanent",
            "02:00:00:00:00:03 dst 198.51.100.3 self permanent",
        ])
    );
    assert_eq!(
        neighbours(),
        set(&[
            "192.0.2.2 lladdr 02:00:00:00:00:02 PERMANENT",
            "198.51.100.3 lladdr 02:00:00:00:00:03 PERMANENT",
            "fe80::ff:fe00:2 lladdr 02:00:00:00:00:02 PERMANENT",
            "fe80::ff:fe00:3 lladdr 02:00:00:00:00:03 PERMANENT",
        ])
    );
    let addresses = ip(&format!("-br addr show {TUNNEL}"));
    let found: BTreeSet<&str> = addresses.split_whitespace().skip(2).collect();
    let wanted = ["10.48.1.0/32", "2001:db8:48:1::/128", "fe80::ff:fe00:1/128"];
    assert_eq!(found, BTreeSet::from(wanted));
}

#[test]
fn who_computes_checksums_is_changed_once_and_of_no_device_nothing_is() {
    in_netns(|| async {
        let leave = async |is_left| leave_checksums_to_device(TUNNEL, is_left).await.unwrap();
        assert!(!leave(false).await, "there is no device");
        uplink();
        apply(&tunnel()).await;
        for (is_left, changes) in [
            (true, false),
            (false, true),
            (false, false),
            (true, true),
            (true, false),
        ] {
            assert_eq!(leave(is_left).await, changes, "{is_left}");
        }
        let before = index();
        assert!(leave(false).await);
        assert_eq!(apply(&tunnel()).await, TunnelReport::default());
        assert!(!leave(false).await, "the agent's writes leave it");
        assert_eq!(index(), before);
    });
}

#[test]
fn the_device_is_made_whole_and_a_second_look_writes_nothing() {
    in_netns(|| async {
        uplink();
        let made = apply(&tunnel()).await;
        assert!(made.made && made.deleted == 0, "{made:?}");
        assert_whole();
        let text = device();
        for part in [
            "vxlan id 4179 local 192.0.2.1",
            "dstport 4789 nolearning",
            " udpcsum noudp6zerocsumtx",
            "addrgenmode none",
            "link/ether 02:00:00:00:00:01",
            "mtu 1450",
            "LOWER_UP",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(
            !text.contains("group ") || !text.contains("remote"),
            "{text}"
        );
        let before = index();
        assert_eq!(apply(&tunnel()).await, TunnelReport::default());
        assert_eq!(index(), before);
    });
}

#[test]
fn another_mtu_or_link_layer_address_changes_the_device_in_place() {
    in_netns(|| async {
        uplink();
        apply(&tunnel()).await;
        let before = index();
        let changed = Tunnel {
            mtu: 1400,
            mac: [2, 0, 0, 0, 0, 9],
            ..tunnel()
        };
        let report = apply(&changed).await;
        // With the link-layer address the kernel forgets the four neighbours.
        assert_eq!((report.made, report.written, report.deleted), (false, 6, 0));
        let text = device();
        assert!(
            text.contains("mtu 1400") && text.contains("02:00:00:00:00:09"),
            "{text}"
        );
        assert_eq!(index(), before);
        // Somebody sets it down and changes it: it comes back.
        ip(&format!("link set {TUNNEL} down mtu 1300"));
        assert!(!apply(&changed).await.made);
        assert!(device().contains("LOWER_UP") && device().contains("mtu 1400"));
        assert_eq!(index(), before);
    });
}

#[test]
fn a_device_of_another_vni_port_or_address_is_made_anew() {
    in_netns(|| async {
        uplink();
        ip("addr add 192.0.2.7/24 dev up0");
        for wrong in [
            "id 4180 dstport 4789 local 192.0.2.1 nolearning",
            "id 4179 dstport 8472 local 192.0.2.1 nolearning",
            "id 4179 dstport 4789 local 192.0.2.7 nolearning",
            "id 4179 dstport 4789 local 192.0.2.1 learning",
            "id 4179 dstport 4789 local 192.0.2.1 nolearning remote 192.0.2.9",
        ] {
            ip(&format!("link add {TUNNEL} type vxlan {wrong}"));
            let before = index();
            let report = apply(&tunnel()).await;
            assert!(report.made, "{wrong}");
            assert_ne!(index(), before);
            assert_whole();
            assert!(delete_tunnel().await.unwrap());
        }
        assert!(!delete_tunnel().await.unwrap());
    });
}

#[test]
fn a_peer_that_moves_or_goes_takes_its_entries_along_and_no_others() {
    in_netns(|| async {
        uplink();
        apply(&tunnel()).await;
        let mut moved = tunnel();
        moved.peers = BTreeMap::from([peer("192.0.2.22", SECOND)]);
        moved.addresses = BTreeSet::from([address("10.48.7.0"), link_local(OWN)]);
        let report = apply(&moved).await;
        // Its place and its name, and the new address; three neighbours, an entry and two addresses go.
        assert_eq!((report.made, report.written, report.deleted), (false, 3, 6));
        assert_eq!(
            forwarding(),
            set(&["02:00:00:00:00:02 dst 192.0.2.22 self permanent"])
        );
        assert_eq!(
            neighbours(),
            set(&[
                "192.0.2.22 lladdr 02:00:00:00:00:02 PERMANENT",
                "fe80::ff:fe00:2 lladdr 02:00:00:00:00:02 PERMANENT",
            ])
        );
        assert_eq!(apply(&moved).await, TunnelReport::default());
    });
}

#[test]
fn what_is_broken_by_hand_is_healed_in_place() {
    in_netns(|| async {
        uplink();
        apply(&tunnel()).await;
        let before = index();
        let bridge = |what: &str| run("bridge", &format!("fdb {what}"));
        bridge(&format!("del 02:00:00:00:00:02 dev {TUNNEL} dst 192.0.2.2"));
        // A flood entry, and a node that is none.
        bridge(&format!(
            "append 00:00:00:00:00:00 dev {TUNNEL} dst 192.0.2.66"
        ));
        bridge(&format!(
            "add 02:00:00:00:00:66 dev {TUNNEL} dst 192.0.2.66"
        ));
        ip(&format!(
            "neigh replace 192.0.2.2 lladdr 02:00:00:00:00:66 dev {TUNNEL} nud permanent"
        ));
        ip(&format!(
            "neigh replace 192.0.2.66 lladdr 02:00:00:00:00:66 dev {TUNNEL} nud permanent"
        ));
        ip(&format!("neigh del fe80::ff:fe00:3 dev {TUNNEL}"));
        ip(&format!("addr flush dev {TUNNEL}"));
        assert_eq!(forwarding().len(), 3);
        let report = apply(&tunnel()).await;
        assert!(!report.made && report.written >= 6, "{report:?}");
        assert_whole();
        assert_eq!(index(), before);
        assert_eq!(apply(&tunnel()).await, TunnelReport::default());
    });
}

#[test]
fn devices_of_others_are_reported_where_they_are_in_the_way_and_left_alone() {
    in_netns(|| async {
        uplink();
        // No clash: another VNI, with entries of its own.
        ip("link add theirs type vxlan id 77 dstport 4790 local 192.0.2.1 nolearning");
        ip("link set theirs up");
        run(
            "bridge",
            "fdb add 02:00:00:00:00:77 dev theirs dst 192.0.2.77",
        );
        ip("neigh add 10.9.9.9 lladdr 02:00:00:00:00:77 dev theirs nud permanent");
        let look = || run("bridge", "fdb show dev theirs") + &ip("neigh show dev theirs");
        let theirs = look();
        assert!(
            theirs.contains("192.0.2.77") && theirs.contains("10.9.9.9"),
            "{theirs}"
        );
        apply(&tunnel()).await;
        apply(&Tunnel {
            peers: BTreeMap::new(),
            ..tunnel()
        })
        .await;
        assert_eq!(look(), theirs);
        assert!(delete_tunnel().await.unwrap());
        assert_eq!(look(), theirs);
        // The same VNI and port under another name.
        ip("link add rival type vxlan id 4179 dstport 4789 local 192.0.2.1 nolearning");
        let error = apply_tunnel(&tunnel()).await.unwrap_err();
        assert!(matches!(error, Error::TunnelClash { .. }), "{error}");
        assert!(
            error.to_string().contains("device rival has VNI 4179"),
            "{error}"
        );
        ip("link del rival");
        // Our name, another kind.
        ip(&format!("link add {TUNNEL} type veth peer name other"));
        let before = index();
        let error = apply_tunnel(&tunnel()).await.unwrap_err();
        assert!(matches!(error, Error::TunnelClash { .. }), "{error}");
        assert_eq!(index(), before);
    });
}

#[test]
fn a_tunnel_over_ipv6_is_made_and_read_back_the_same() {
    in_netns(|| async {
        uplink();
        let over_v6 = Tunnel {
            local: address("2001:db8::1"),
            mtu: 1430,
            peers: BTreeMap::from([peer("2001:db8::2", SECOND)]),
            ..tunnel()
        };
        assert!(apply(&over_v6).await.made);
        assert!(
            device().contains("local 2001:db8::1") && device().contains("udpcsum noudp6zerocsumtx")
        );
        assert_eq!(
            forwarding(),
            set(&["02:00:00:00:00:02 dst 2001:db8::2 self permanent"])
        );
        assert_eq!(apply(&over_v6).await, TunnelReport::default());
        // The other family is another tunnel.
        assert!(apply(&tunnel()).await.made);
        assert_whole();
    });
}

#[test]
fn routes_by_the_tunnel_are_written_once_and_come_back_with_a_device_made_anew() {
    in_netns(|| async {
        uplink();
        apply(&tunnel()).await;
        let mut table = RouteTable::open().await.unwrap();
        let by = |gateway: IpAddr| {
            let interface = TUNNEL.to_owned();
            Some(Target::Onlink { interface, gateway })
        };
        table.set("10.48.3.0/24".parse().unwrap(), by(address("198.51.100.3")));
        table.set("10.48.4.0/24".parse().unwrap(), by(link_local(THIRD)));
        table.set("2001:db8:48:3::/64".parse().unwrap(), by(link_local(THIRD)));
        assert_eq!(table.apply().await.written, 3);
        let wanted = [
            "10.48.3.0/24 via 198.51.100.3 dev vxlan.portolan metric 179 onlink",
            "10.48.4.0/24 via inet6 fe80::ff:fe00:3 dev vxlan.portolan metric 179",
            "2001:db8:48:3::/64 via fe80::ff:fe00:3 dev vxlan.portolan metric 179 pref medium",
        ];
        assert_eq!(ours(), wanted);
        // The node's own packets bear an address that comes back by the tunnel.
        assert!(
            ip("route get 10.48.3.9").contains("src 10.48.1.0"),
            "{}",
            ip("route get 10.48.3.9")
        );
        assert!(ip("route get 2001:db8:48:3::9").contains("src 2001:db8:48:1::"));
        // Another run finds them as they should be.
        let mut again = RouteTable::open().await.unwrap();
        again.set("10.48.3.0/24".parse().unwrap(), by(address("198.51.100.3")));
        again.set("10.48.4.0/24".parse().unwrap(), by(link_local(THIRD)));
        again.set("2001:db8:48:3::/64".parse().unwrap(), by(link_local(THIRD)));
        let report = again.apply().await;
        assert_eq!((report.written, report.deleted), (0, 0));
        ip(&format!("link del {TUNNEL}"));
        assert!(apply(&tunnel()).await.made);
        assert_eq!(ours(), Vec::<String>::new());
        again.resync().await;
        assert_eq!(again.apply().await.written, 3);
        assert_eq!(ours(), wanted);
    });
}
