//! Sets: made, changed in place, replaced, destroyed.

use std::collections::BTreeMap;
use std::sync::Arc;

use netfilter::*;

use crate::examples::name;
use crate::programs::*;

fn sets_now() -> ActualSets {
    parse_sets(&run("ipset", &["save"], "")).unwrap()
}

fn apply_sets(desired: &BTreeMap<SetName, IpSet>) -> usize {
    let shared = |(name, set): (&SetName, &IpSet)| (name.clone(), Arc::new(set.clone()));
    let desired = &desired.iter().map(shared).collect();
    let made = plan_sets(&sets_now(), desired);
    let known = plan_sets(&made.applied_after, desired);
    assert_eq!((known.before, known.after), (None, None));
    if let Some(text) = &made.before {
        run("ipset", &["restore", "-exist"], text);
    }
    assert_eq!(sets_now(), made.applied);
    if let Some(text) = &made.after {
        run("ipset", &["restore", "-exist"], text);
    }
    assert_eq!(sets_now(), made.applied_after);
    let again = plan_sets(&sets_now(), desired);
    assert_eq!((again.before, again.after), (None, None));
    made.members_written
}

fn every_set() -> BTreeMap<SetName, IpSet> {
    let mut sets = BTreeMap::new();
    let texts = [
        (Family::V4, "10.1.0.0/16", "10.1.2.3"),
        (Family::V6, "fd00:1::/32", "fd00:1::3"),
    ];
    for (family, net, address) in texts {
        let (net, address): (ipnet::IpNet, std::net::IpAddr) =
            (net.parse().unwrap(), address.parse().unwrap());
        let new = |name: &'static str, kind| IpSet::new(SetName::fixed(family, name), family, kind);
        let mut ips = new("ip", SetKind::HashIp);
        ips.insert_ip(address);
        let mut nets = new("net", SetKind::HashNet);
        nets.insert_net(net);
        nets.insert_net(address.into());
        let everything = if family == Family::V4 {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        nets.insert_net(everything.parse().unwrap());
        let mut ifaces = new("iface", SetKind::HashNetIface);
        ifaces.insert_net_iface(address.into(), &name("ptl0123456789a"));
        ifaces.insert_net_iface(net, &name("ptl0123456789b"));
        let mut ports = new("ports", SetKind::HashIpPort);
        for (protocol, port) in [
            (Protocol::Tcp, 80),
            (Protocol::Udp, 0),
            (Protocol::Sctp, 65_535),
        ] {
            ports.insert_ip_port(address, protocol, port);
        }
        for set in [ips, nets, ifaces, ports, new("empty", SetKind::HashIp)] {
            sets.insert(set.name().clone(), set);
        }
    }
    sets
}

#[test]
fn sets_of_every_kind_are_made_changed_in_place_and_read_back() {
    in_namespace(|| {
        run("ipset", &["create", "foreign", "hash:ip"], "");
        assert_eq!(apply_sets(&every_set()), 20);
        assert_eq!(apply_sets(&every_set()), 0, "a restart changes nothing");
        let mut changed = every_set();
        let set = changed
            .get_mut(&SetName::fixed(Family::V4, "empty"))
            .unwrap();
        set.insert_ip("10.9.9.9".parse().unwrap());
        assert_eq!(apply_sets(&changed), 1);
        assert_eq!(apply_sets(&every_set()), 1);
        run("ipset", &["del", "ptl4-ip", "10.1.2.3"], "");
        run("ipset", &["add", "ptl6-ip", "fd00::9"], "");
        assert_eq!(apply_sets(&every_set()), 2, "tampering is repaired");
        apply_sets(&BTreeMap::new());
        assert_eq!(run("ipset", &["list", "-n"], "").trim(), "foreign");
    });
}

#[test]
fn a_set_in_use_is_remade_by_a_swap_and_one_of_another_type_is_replaced() {
    in_namespace(|| {
        let rule = "-A FORWARD -m set --match-set ptl4-ip src -j DROP";
        run(
            "ipset",
            &[
                "create", "ptl4-ip", "hash:ip", "maxelem", "10", "timeout", "0",
            ],
            "",
        );
        run("ipset", &["create", "ptl4-net", "hash:ip"], "");
        run("ipset", &["create", "ptl4-tmp-left", "hash:ip"], "");
        iptables("iptables-nft", rule);
        assert_eq!(apply_sets(&every_set()), 20);
        iptables("iptables-nft", &rule.replace("-A", "-D"));
        apply_sets(&BTreeMap::new());
    });
}

#[test]
fn what_sets_hold_is_told() {
    in_namespace(|| {
        apply_sets(&every_set());
        let now = sets_now();
        let of = |name| SetName::fixed(Family::V4, name);
        let only = |address: &str| [address.parse().unwrap()].into();
        assert_eq!(now.addresses(&of("ip")), only("10.1.2.3"));
        assert_eq!(now.addresses(&of("ports")), only("10.1.2.3"));
        assert_eq!(now.addresses(&of("none")), [].into());
        let sizes = now.sizes();
        assert_eq!(sizes.len(), 10);
        assert_eq!((sizes[&of("net")], sizes[&of("ports")]), (4, 3));
        assert_eq!(sizes[&of("empty")], 0);
    });
}
