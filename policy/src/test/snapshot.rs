//! The text of a small example, so that a change of it is seen.

use api::resources::Protocol;
use expect_test::expect;
use netfilter::{Actual, ActualSets, Effort, plan, plan_sets};

use super::fixture::*;

#[test]
fn a_small_example_renders_so() {
    let mut cluster = Cluster::small();
    let mut one = policy("a/web", "app=x");
    one.ingress = Some(vec![rule(
        Some(vec![
            pods(Some("team=two"), ""),
            block("10.0.0.0/29", &["10.0.0.4/30"]),
        ]),
        Some(vec![
            port(Protocol::Tcp, 80, 80),
            port(Protocol::Tcp, 443, 444),
        ]),
    )]);
    cluster.policies.push(one);
    let compiled = cluster.compile();
    let sets = plan_sets(&ActualSets::default(), &compiled.v4.sets);
    let rules = plan(&Actual::default(), &compiled.v4.rules, Effort::Exact);
    let text = format!(
        "{}{}",
        sets.before.unwrap_or_default(),
        rules.restore.unwrap_or_default()
    );
    expect![[r#"
        create ptl4-endpoints hash:net,iface family inet maxelem 1048576
        add ptl4-endpoints 10.0.0.1/32,ptl00000000001
        add ptl4-endpoints 10.0.0.2/32,ptl00000000002
        create ptl4-n-579d5fe587e11e29 hash:net family inet maxelem 1048576
        add ptl4-n-579d5fe587e11e29 10.0.0.0/30
        create ptl4-p-7f35fd26c0b5f7f1 hash:ip family inet maxelem 1048576
        add ptl4-p-7f35fd26c0b5f7f1 10.0.1.4
        *raw
        :PTL-PREROUTING - [0:0]
        -A PTL-PREROUTING -p udp -m udp --dport 4789 -m comment --comment "ptl:d63ed98837f5" -j DROP
        -A PTL-PREROUTING -p 4 -m comment --comment "ptl:05c64b3d2f49" -j DROP
        -A PTL-PREROUTING -m set --match-set ptl4-endpoints src,src -m comment --comment "ptl:9af948a174fd" -j RETURN
        -A PTL-PREROUTING -m comment --comment "ptl:86e88144d6ce" -j DROP
        -I PREROUTING 1 -i ptl+ -m comment --comment "ptl:3ef0bb50b8bd" -j PTL-PREROUTING
        COMMIT
        *filter
        :PTL-ACCEPT - [0:0]
        :PTL-ALLOW - [0:0]
        :PTL-FORWARD - [0:0]
        :PTL-FROM - [0:0]
        :PTL-GI-66f96bb4c4fb75e9 - [0:0]
        :PTL-PI-66f96bb4c4fb75e9 - [0:0]
        :PTL-POD - [0:0]
        :PTL-TO - [0:0]
        -A PTL-ACCEPT -m comment --comment "ptl:7408f52dbb5f" -j MARK --set-xmark 0x10000/0x10000
        -A PTL-ALLOW -m comment --comment "ptl:87fe0584f1b8" -j MARK --set-xmark 0x20000/0x20000
        -A PTL-FORWARD -m comment --comment "ptl:c2564743dbc3" -j MARK --set-xmark 0x0/0xf0000
        -A PTL-FORWARD -i ptl+ -m comment --comment "ptl:74b20ee46629" -g PTL-POD
        -A PTL-FORWARD -o ptl+ -m comment --comment "ptl:d1bced940d10" -g PTL-POD
        -A PTL-GI-66f96bb4c4fb75e9 -m comment --comment "ptl:ec5b94416716" -j MARK --set-xmark 0x0/0x20000
        -A PTL-GI-66f96bb4c4fb75e9 -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -m comment --comment "ptl:6c24bea812d4" -j DROP
        -A PTL-GI-66f96bb4c4fb75e9 -m conntrack --ctstate INVALID -m comment --comment "ptl:21695f04aea5" -j DROP
        -A PTL-GI-66f96bb4c4fb75e9 -m comment --comment "ptl:5a2ff0882cd7" -j PTL-PI-66f96bb4c4fb75e9
        -A PTL-GI-66f96bb4c4fb75e9 -m mark --mark 0x20000/0x20000 -m comment --comment "ptl:305290fbedc1" -j RETURN
        -A PTL-GI-66f96bb4c4fb75e9 -m comment --comment "ptl:86e88144d6ce" -j DROP
        -A PTL-PI-66f96bb4c4fb75e9 -p tcp -m multiport --dports 80,443:444 -m set --match-set ptl4-n-579d5fe587e11e29 src -m comment --comment "ptl:7fa3a2c8c11c" -g PTL-ALLOW
        -A PTL-PI-66f96bb4c4fb75e9 -p tcp -m multiport --dports 80,443:444 -m set --match-set ptl4-p-7f35fd26c0b5f7f1 src -m comment --comment "ptl:fac79bc3c1d3" -g PTL-ALLOW
        -A PTL-POD -o ptl+ -m set ! --match-set ptl4-endpoints dst,dst -m comment --comment "ptl:d1d2fa69fc13" -j DROP
        -A PTL-POD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "ptl:aaf2eeac8bb2" -g PTL-ACCEPT
        -A PTL-POD -i ptl+ -m comment --comment "ptl:9119c9d72962" -j PTL-FROM
        -A PTL-POD -o ptl+ -m comment --comment "ptl:4cfae73c93ed" -j PTL-TO
        -A PTL-POD -m comment --comment "ptl:7408f52dbb5f" -j MARK --set-xmark 0x10000/0x10000
        -A PTL-TO -o ptl00000000001 -m comment --comment "ptl:ae21f9520cdf" -g PTL-GI-66f96bb4c4fb75e9
        -I FORWARD 1 -m comment --comment "ptl:052b4d9b5143" -j PTL-FORWARD
        -I FORWARD 2 -m mark --mark 0x10000/0x10000 -m comment --comment "ptl:adc6c27b733e" -j ACCEPT
        COMMIT
    "#]].assert_eq(&text);
}
