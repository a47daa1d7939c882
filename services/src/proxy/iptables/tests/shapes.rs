//! What stands in the chains, as people see it: names, order and words of kube-proxy's.

use expect_test::{Expect, expect};
use netfilter::{Family, Table};
use serde_json::json;

use super::*;
use crate::proxy::tests::*;

/// Without our comments' hashes.
fn shown(compiler: &Compiler, table: Table, name: &str) -> String {
    let lines = chain(compiler, Family::V4, table, name)
        .into_iter()
        .map(|rule| {
            let (before, after) = rule.split_once("-m comment --comment \"ptl:").unwrap();
            let (comment, action) = after.split_once("\" ").unwrap();
            let note = comment.get(12..).unwrap_or("").trim();
            let note = if note.is_empty() {
                String::new()
            } else {
                format!("\"{note}\" ")
            };
            format!("{before}{note}{action}\n")
        });
    lines.collect()
}

fn check(compiler: &Compiler, table: Table, name: &str, expected: Expect) {
    expected.assert_eq(&shown(compiler, table, name));
}

/// `ns1/svc1:p80`, whose names kube-proxy's own tests know.
fn known() -> Compiler {
    let mut world = World::new();
    let named = json!({"metadata": {"namespace": "ns1"}});
    let spec = json!({
        "clusterIPs": ["172.30.0.41"], "type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["203.0.113.0/25"], "sessionAffinity": "ClientIP",
        "ports": [{"name": "p80", "port": 80, "nodePort": 30080}],
    });
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}});
    let service = service(
        "svc1",
        json!({"metadata": named["metadata"], "spec": spec, "status": status}),
    );
    let mut touched = world.index.set_service(service);
    let more = json!({"metadata": named["metadata"], "ports": [{"name": "p80", "port": 80}]});
    let here = endpoint("10.180.0.1", HERE, Is::Ready);
    let there = endpoint("10.180.0.2", "n2", Is::Ready);
    touched.extend(
        world
            .index
            .set_slice(slice_with("s", "svc1", &[here, there], more)),
    );
    world.model.refresh(&world.index, &touched);
    compiled(&world)
}

#[test]
fn rule_137_and_130_chains_have_the_names_and_the_order_that_people_know() {
    let rules = known();
    let nat = Table::Nat;
    check(
        &rules,
        nat,
        "KUBE-SERVICES",
        expect![[r#"
        -d 172.30.0.41/32 -p tcp -m tcp --dport 80 "ns1/svc1:p80 cluster IP" -j KUBE-SVC-XPGD46QRK7WJZT7O
        -d 198.51.100.7/32 -p tcp -m tcp --dport 80 "ns1/svc1:p80 loadbalancer IP" -j KUBE-FW-XPGD46QRK7WJZT7O
        -m addrtype --dst-type LOCAL "kubernetes service nodeports_ this must be the last rule in this chain" -j KUBE-NODEPORTS
        -j RETURN
    "#]],
    );
    check(
        &rules,
        nat,
        "KUBE-NODEPORTS",
        expect![[r#"
        -d 127.0.0.0/8 -j RETURN
        -p tcp -m tcp --dport 30080 "ns1/svc1:p80" -j KUBE-EXT-XPGD46QRK7WJZT7O
        -j RETURN
    "#]],
    );
    check(
        &rules,
        nat,
        "KUBE-SVC-XPGD46QRK7WJZT7O",
        expect![[r#"
        -d 172.30.0.41/32 ! -i ptl+ -p tcp -m tcp --dport 80 "ns1/svc1:p80 cluster IP" -j KUBE-MARK-MASQ
        -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-SXIVWICOYRO3J4NJ --mask 255.255.255.255 --rsource "ns1/svc1:p80 -> 10.180.0.1:80" -j KUBE-SEP-SXIVWICOYRO3J4NJ
        -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-LXVODXWDISEETFEF --mask 255.255.255.255 --rsource "ns1/svc1:p80 -> 10.180.0.2:80" -j KUBE-SEP-LXVODXWDISEETFEF
        -m statistic --mode random --probability 0.50000000000 "ns1/svc1:p80 -> 10.180.0.1:80" -j KUBE-SEP-SXIVWICOYRO3J4NJ
        "ns1/svc1:p80 -> 10.180.0.2:80" -g KUBE-SEP-LXVODXWDISEETFEF
    "#]],
    );
    check(
        &rules,
        nat,
        "KUBE-SVL-XPGD46QRK7WJZT7O",
        expect![[r#"
        -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-SXIVWICOYRO3J4NJ --mask 255.255.255.255 --rsource "ns1/svc1:p80 -> 10.180.0.1:80" -j KUBE-SEP-SXIVWICOYRO3J4NJ
        "ns1/svc1:p80 -> 10.180.0.1:80" -g KUBE-SEP-SXIVWICOYRO3J4NJ
    "#]],
    );
}

#[test]
fn rules_130_136_148_chains_for_the_outside_have_the_names_and_the_order_that_people_know() {
    let rules = known();
    let nat = Table::Nat;
    check(
        &rules,
        nat,
        "KUBE-EXT-XPGD46QRK7WJZT7O",
        expect![[r#"
        -i ptl+ "pod traffic for ns1/svc1:p80 external destinations" -j KUBE-SVC-XPGD46QRK7WJZT7O
        -m addrtype --src-type LOCAL "masquerade LOCAL traffic for ns1/svc1:p80 external destinations" -j KUBE-MARK-MASQ
        -m addrtype --src-type LOCAL "route LOCAL traffic for ns1/svc1:p80 external destinations" -j KUBE-SVC-XPGD46QRK7WJZT7O
        -g KUBE-SVL-XPGD46QRK7WJZT7O
    "#]],
    );
    check(
        &rules,
        nat,
        "KUBE-FW-XPGD46QRK7WJZT7O",
        expect![[r#"
        -s 203.0.113.0/25 "ns1/svc1:p80 loadbalancer IP" -g KUBE-EXT-XPGD46QRK7WJZT7O
        "other traffic to ns1/svc1:p80 will be dropped by KUBE-PROXY-FIREWALL" -j RETURN
    "#]],
    );
    check(
        &rules,
        nat,
        "KUBE-SEP-SXIVWICOYRO3J4NJ",
        expect![[r#"
        -s 10.180.0.1/32 "ns1/svc1:p80" -j KUBE-MARK-MASQ
        -p tcp -m recent --set --name KUBE-SEP-SXIVWICOYRO3J4NJ --mask 255.255.255.255 --rsource "ns1/svc1:p80" -j DNAT --to-destination 10.180.0.1:80
    "#]],
    );
    check(
        &rules,
        nat,
        "KUBE-MARK-MASQ",
        expect![[r#"
        -j MARK --set-xmark 0x4000/0x4000
        -j RETURN
    "#]],
    );
    check(
        &rules,
        nat,
        "KUBE-POSTROUTING",
        expect![[r#"
        -m mark ! --mark 0x4000/0x4000 -j RETURN
        -j MARK --set-xmark 0x4000/0x0
        "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
    "#]],
    );
    check(
        &rules,
        Table::Filter,
        "KUBE-PROXY-FIREWALL",
        expect![[r#"
        -d 198.51.100.7/32 -p tcp -m tcp --dport 80 "ns1/svc1:p80 traffic not accepted by KUBE-FW-XPGD46QRK7WJZT7O" -j DROP
        -j RETURN
    "#]],
    );
    check(
        &rules,
        Table::Filter,
        "KUBE-FORWARD",
        expect![[r#"
        -m conntrack --ctstate INVALID -j DROP
        -m mark --mark 0x4000/0x4000 "kubernetes forwarding rules" -j ACCEPT
        -m conntrack --ctstate RELATED,ESTABLISHED "kubernetes forwarding conntrack rule" -j ACCEPT
        -j RETURN
    "#]],
    );
}

#[test]
fn rule_126_and_132_hooks_stand_where_a_packet_must_be_judged_and_only_new_ones_are() {
    let rules = known();
    let tables = &rules.rules(Family::V4).tables;
    let hooks = |table| {
        let hooks = tables[&table].hooks.iter();
        let text = hooks.map(|hook: &netfilter::Hook| {
            let rule = hook.rule.render();
            let to = rule.rsplit(' ').next().unwrap_or_default().to_owned();
            let new = if rule.contains("--ctstate NEW") {
                " new"
            } else {
                ""
            };
            format!("{} {:?} {to}{new}\n", hook.chain.name(), hook.position)
        });
        text.collect::<String>()
    };
    expect![[r#"
        PREROUTING First KUBE-SERVICES
        OUTPUT First KUBE-SERVICES
        POSTROUTING First KUBE-POSTROUTING
    "#]]
    .assert_eq(&hooks(Table::Nat));
    expect![[r#"
        INPUT First KUBE-PROXY-FIREWALL new
        OUTPUT First KUBE-PROXY-FIREWALL new
        FORWARD First KUBE-PROXY-FIREWALL new
        OUTPUT First KUBE-SERVICES new
        FORWARD First KUBE-SERVICES new
        INPUT First KUBE-EXTERNAL-SERVICES new
        FORWARD First KUBE-EXTERNAL-SERVICES new
        INPUT First KUBE-NODEPORTS
        FORWARD Last KUBE-FORWARD
    "#]]
    .assert_eq(&hooks(Table::Filter));
}

#[test]
fn rule_138_the_port_for_health_is_open() {
    let mut world = World::new();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32_001});
    world.service("web", json!({"spec": spec}));
    let rules = compiled(&world);
    check(
        &rules,
        Table::Filter,
        "KUBE-NODEPORTS",
        expect![[r#"
        -p tcp -m tcp --dport 32001 "shop/web health check node port" -j ACCEPT
        -j RETURN
    "#]],
    );
}

#[test]
fn rule_132_node_ports_answer_at_the_addresses_that_are_said() {
    let mut options = options();
    options.node_port_addresses = vec![
        "192.0.2.0/24".parse().unwrap(),
        "2001:db8::/64".parse().unwrap(),
    ];
    let rules = Compiler::new(options);
    check(
        &rules,
        Table::Nat,
        "KUBE-SERVICES",
        expect![[r#"
        -d 192.0.2.0/24 -m addrtype --dst-type LOCAL "kubernetes service nodeports_ this must be the last rule in this chain" -j KUBE-NODEPORTS
        -j RETURN
    "#]],
    );
}

#[test]
fn rule_141_where_tcp_is_liberal_nothing_is_dropped_as_invalid() {
    let mut options = options();
    options.tcp_is_liberal = true;
    let rules = Compiler::new(options);
    assert!(!shown(&rules, Table::Filter, "KUBE-FORWARD").contains("INVALID"));
}

#[test]
fn rule_129_where_chains_are_few_only_endpoints_that_may_ask_themselves_have_one() {
    let mut world = World::new();
    world.service("web", json!({}));
    let outside = json!({"addresses": ["10.1.0.3"]});
    let here = endpoint("10.1.0.1", HERE, Is::Ready);
    let there = endpoint("10.1.0.2", "n2", Is::Ready);
    world.endpoints("web", &[here, there, outside]);
    let mut options = options();
    options.endpoint_chains = EndpointChains::Needed;
    let rules = compiled_with(&world, options);
    let nat = &rules.rules(Family::V4).tables[&Table::Nat].chains;
    let own = nat
        .keys()
        .filter(|name| name.as_str().starts_with("KUBE-SEP-"));
    assert_eq!(own.count(), 2, "the one here, and the one of no node");
    let service = nat
        .keys()
        .find(|name| name.as_str().starts_with("KUBE-SVC-"));
    let lines = shown(&rules, Table::Nat, service.unwrap().as_str());
    assert!(
        lines.contains("-j DNAT --to-destination 10.1.0.2:8080"),
        "{lines}"
    );
}
